//! Page walks, their faults and their marks; the TLB's rules.

use crate::harness::*;
use iced_x86::code_asm::*;
use x86::state::{cr0, cr4, efer, rflags};

/// A page of its own, and where entries of its table are.
const PAGE: u64 = 0x9_0000;
const P: u64 = 1;
const W: u64 = 2;
const U: u64 = 4;
const A: u64 = 0x20;
const D: u64 = 0x40;
const NX: u64 = 1 << 63;

fn entry(m: &Machine, linear: u64) -> u64 {
    m.read(PT + 8 * (linear >> 12))
}

#[derive(Clone, Copy, PartialEq)]
enum Do {
    Read,
    Write,
    Run,
}

/// Does something to [`PAGE`] mapped with `bits` from `user` or ring 0; the error code of the
/// page fault if there was one.
fn touch(bits: u64, user: bool, what: Do, tune: impl FnOnce(&mut x86::CpuState)) -> Option<u64> {
    let mut m = Machine::long();
    // The kernel's own pages are not the user's, so that SMEP and SMAP let it run.
    for page in [CODE, STACK - 0x1000, STACK0 - 0x1000, STUBS, GDT, IDT, TSS] {
        m.set_page(page, page | P | W);
    }
    m.set_page(PAGE, PAGE | bits);
    let start = if user { USER } else { CODE };
    if user {
        m.user(64);
    }
    m.change(tune);
    m.write(PAGE, 0xcccc_cccc_cccc_ccccu64);
    m.code(start, 64, |a| {
        a.mov(rbx, PAGE)?;
        match what {
            Do::Read => a.mov(rax, qword_ptr(rbx))?,
            Do::Write => a.mov(qword_ptr(rbx), rax)?,
            Do::Run => a.jmp(rbx)?,
        }
        a.int3()
    });
    m.write(IDT + 16 * 3, gate(KCODE, STUBS + 0x30, 0xee, 0));
    let (vector, s) = m.run_to_exception();
    if vector == 3 {
        return None;
    }
    assert_eq!((vector, s.cr2), (14, PAGE));
    Some(m.frame::<u64>(1)[0])
}

#[test]
fn every_page_fault_has_its_error_code() {
    let none = |_: &mut x86::CpuState| {};
    let (p, w, u, rsvd, fetch) = (1, 2, 4, 8, 16);
    assert_eq!(touch(0, false, Do::Read, none), Some(0));
    assert_eq!(touch(0, false, Do::Write, none), Some(w));
    assert_eq!(touch(0, true, Do::Read, none), Some(u));
    assert_eq!(touch(0, true, Do::Run, none), Some(u | fetch));
    assert_eq!(touch(P | W, true, Do::Read, none), Some(p | u));
    assert_eq!(touch(P | U, true, Do::Write, none), Some(p | u | w));
    assert_eq!(
        touch(P | W | U | NX, true, Do::Run, none),
        Some(p | u | fetch)
    );
    assert_eq!(touch(P | W | U | NX, true, Do::Write, none), None);
    assert_eq!(touch(P | 1 << 51, false, Do::Read, none), Some(p | rsvd));
    let no_nx = |s: &mut x86::CpuState| s.efer &= !efer::NXE;
    assert_eq!(touch(P | W | NX, false, Do::Read, no_nx), Some(p | rsvd));
    // Without NXE and SMEP a fetch is not told apart.
    assert_eq!(touch(0, false, Do::Run, no_nx), Some(0));
}

#[test]
fn wp_smep_and_smap_bind_the_supervisor() {
    let none = |_: &mut x86::CpuState| {};
    assert_eq!(touch(P, false, Do::Write, none), Some(3));
    assert_eq!(touch(P, false, Do::Write, |s| s.cr0 &= !cr0::WP), None);
    let smep = |s: &mut x86::CpuState| s.cr4 |= cr4::SMEP;
    assert_eq!(touch(P | U, false, Do::Run, none), None);
    assert_eq!(touch(P | U, false, Do::Run, smep), Some(0x11));
    assert_eq!(touch(P | U, true, Do::Run, smep), None);
    let smap = |s: &mut x86::CpuState| s.cr4 |= cr4::SMAP;
    assert_eq!(touch(P | W | U, false, Do::Read, smap), Some(1));
    assert_eq!(touch(P | W | U, false, Do::Write, smap), Some(3));
    assert_eq!(touch(P | W | U, true, Do::Read, smap), None);
    let stac = |s: &mut x86::CpuState| {
        s.cr4 |= cr4::SMAP;
        s.rflags |= rflags::AC;
    };
    assert_eq!(touch(P | W | U, false, Do::Write, stac), None);
}

#[test]
fn stac_and_clac_open_and_close_user_pages() {
    let mut m = Machine::long();
    for page in [CODE, STACK - 0x1000, STUBS, GDT, IDT, TSS] {
        m.set_page(page, page | P | W);
    }
    m.change(|s| s.cr4 |= cr4::SMAP);
    m.code(CODE, 64, |a| {
        a.mov(rbx, PAGE)?;
        a.stac()?;
        a.mov(eax, dword_ptr(rbx))?;
        a.inc(ecx)?;
        a.clac()?;
        a.mov(eax, dword_ptr(rbx))?;
        a.inc(ecx)?;
        a.hlt()
    });
    let (vector, s) = m.run_to_exception();
    assert_eq!((vector, s.gpr[RCX]), (14, 1), "and not from the TLB either");
}

#[test]
fn accessed_and_dirty_bits_are_set_when_due() {
    let mut m = Machine::long();
    m.code(CODE, 64, |a| {
        a.mov(rbx, PAGE)?;
        a.mov(eax, dword_ptr(rbx))?;
        a.hlt()?;
        a.mov(dword_ptr(rbx), eax)?;
        a.hlt()
    });
    let s = m.run();
    assert_eq!(entry(&m, PAGE) & (A | D), A);
    assert_eq!(m.read::<u64>(PML4) & (A | D), A);
    m.resume_at(s.rip);
    m.run();
    assert_eq!(entry(&m, PAGE) & (A | D), A | D);
    assert_eq!(m.read::<u64>(PD) & (A | D), A, "no D in a table entry");
    // A fault marks nothing dirty.
    let mut m = Machine::long();
    m.set_page(PAGE, PAGE | P);
    m.code(CODE, 64, |a| {
        a.mov(rbx, PAGE)?;
        a.mov(dword_ptr(rbx), eax)
    });
    assert_eq!(m.run_to_exception().0, 14);
    assert_eq!(entry(&m, PAGE) & D, 0);
}

#[test]
fn a_store_that_crosses_into_a_bad_page_writes_nothing() {
    let mut m = Machine::long();
    m.set_page(PAGE + 0x1000, 0);
    m.write(PAGE + 0xff8, 0x1111_1111_1111_1111u64);
    m.code(CODE, 64, |a| {
        a.mov(rbx, PAGE + 0xffc)?;
        a.mov(qword_ptr(rbx), rax)
    });
    let (vector, s) = m.run_to_exception();
    assert_eq!((vector, s.cr2), (14, PAGE + 0x1000));
    assert_eq!(m.read::<u64>(PAGE + 0xff8), 0x1111_1111_1111_1111);
}

#[test]
fn gigabyte_pages_map_and_have_reserved_bits() {
    let mut m = Machine::long();
    // The second GB of linear space is the first of memory.
    m.write(PDPT + 8, 0x87u64);
    m.write(DATA, 0x5555_6666u32);
    m.code(CODE, 64, |a| {
        a.mov(rbx, (1u64 << 30) + DATA)?;
        a.mov(eax, dword_ptr(rbx))?;
        a.hlt()
    });
    assert_eq!(m.run().gpr[RAX], 0x5555_6666);
    m.write(PDPT + 8, 0x87u64 | 1 << 20);
    m.change(|_| ()); // drops the TLB
    m.resume_at(CODE);
    assert_eq!(m.run_to_exception().0, 14);
    assert_eq!(m.frame::<u64>(1), [9]);
}

#[test]
fn a_translation_stays_until_invlpg() {
    let mut m = Machine::long();
    m.write(PAGE, 1u32);
    m.write(PAGE + 0x1000, 2u32);
    m.code(CODE, 64, |a| {
        a.mov(rbx, PAGE)?;
        a.mov(eax, dword_ptr(rbx))?;
        a.mov(rcx, PT + 8 * (PAGE >> 12))?;
        a.mov(rdx, (PAGE + 0x1000) | 7)?;
        a.mov(qword_ptr(rcx), rdx)?;
        a.invlpg(byte_ptr(rbx))?;
        a.mov(esi, dword_ptr(rbx))?;
        a.hlt()
    });
    let s = m.run();
    assert_eq!((s.gpr[RAX], s.gpr[RSI]), (1, 2));
}

#[test]
fn pcids_keep_translations_apart_and_invpcid_drops_them() {
    let mut m = Machine::long();
    // A second address space: PAGE maps PAGE + 0x1000.
    let (pml4, pdpt, pd, pt) = (0xa_0000, 0xa_1000, 0xa_2000, 0xa_3000);
    m.write(pml4, pdpt | 7);
    m.write(pdpt, pd | 7);
    m.write(pd, pt | 7);
    for n in 0..512u64 {
        let to = if n == PAGE >> 12 { n + 1 } else { n };
        m.write(pt + 8 * n, to << 12 | 7);
    }
    m.write(PAGE, 1u32);
    m.write(PAGE + 0x1000, 2u32);
    m.write(PAGE + 0x2000, 3u32);
    m.write(DATA, 2u64); // INVPCID descriptor: PCID 2
    m.change(|s| s.cr4 |= cr4::PCIDE);
    m.code(CODE, 64, |a| {
        a.mov(rbx, PAGE)?;
        a.mov(rax, PML4 | 1)?;
        a.mov(cr3, rax)?;
        a.mov(r8d, dword_ptr(rbx))?;
        a.mov(rax, pml4 | 2)?;
        a.mov(cr3, rax)?;
        a.mov(r9d, dword_ptr(rbx))?;
        // The page of space 2 changes while space 1 runs.
        a.mov(rax, PML4 | 1 | 1 << 63)?;
        a.mov(cr3, rax)?;
        a.mov(rcx, pt + 8 * (PAGE >> 12))?;
        a.mov(rdx, (PAGE + 0x2000) | 7)?;
        a.mov(qword_ptr(rcx), rdx)?;
        a.mov(r10d, dword_ptr(rbx))?;
        a.mov(rsi, DATA)?;
        a.mov(edi, 1)?;
        a.invpcid(rdi, xmmword_ptr(rsi))?;
        a.mov(rax, pml4 | 2 | 1 << 63)?;
        a.mov(cr3, rax)?;
        a.mov(r11d, dword_ptr(rbx))?;
        a.mov(rax, cr3)?;
        a.hlt()
    });
    let s = m.run();
    assert_eq!((s.gpr[8], s.gpr[9], s.gpr[10], s.gpr[11]), (1, 2, 1, 3));
    assert_eq!(s.gpr[RAX], pml4 | 2, "bit 63 is not kept");
}

#[test]
fn pse_36_reaches_beyond_4_gb_and_two_level_tables_work() {
    let mut m = Machine::protected();
    let directory = 0xa_0000u64;
    m.write(directory, 0x83u32); // 4 MB, identity
    m.write(directory + 4, 0x83u32 | 1 << 13); // the next 4 MB: physical 4 GB
    m.write(directory + 8, 0xa_1003u32);
    m.write(0xa_1000u64, (DATA | 3) as u32);
    m.write(directory + 12, 0x83u32 | 1 << 21); // reserved
    m.write(DATA, 0x1234u32);
    m.change(|s| {
        s.cr3 = directory;
        s.cr4 = cr4::PSE;
    });
    m.code(CODE, 32, |a| {
        a.mov(eax, cr0)?;
        a.or(eax, 0x8000_0000u32 as i32)?;
        a.mov(cr0, eax)?;
        a.mov(ecx, dword_ptr(0x80_0000))?;
        a.mov(dword_ptr(0x40_0010), ecx)?;
        a.mov(ecx, dword_ptr(0xc0_0000))?;
        a.hlt()
    });
    let (vector, s) = m.run_to_exception();
    assert_eq!((vector, s.cr2, s.gpr[RCX]), (14, 0xc0_0000, 0x1234));
    assert_eq!(m.bus.mmio, [(0x1_0000_0010, 4, 0x1234)]);
    assert_eq!(m.frame::<u32>(1), [9]);
}

#[test]
fn pae_paging_loads_its_pdptes_with_cr3_and_checks_them() {
    let mut m = Machine::protected();
    let pdpt = 0xa_0020u64; // 32-byte aligned
    m.write(pdpt, 0xa_1001u64);
    m.write(0xa_1000u64, 0xa_2003u64);
    for n in 0..512u64 {
        m.write(0xa_2000 + 8 * n, n << 12 | 3);
    }
    m.set_descriptor(FREE1, 0);
    m.write(0xa_1008u64, 0x20_0083u64);
    m.code(CODE, 32, |a| {
        a.mov(eax, cr4::PAE as i32)?;
        a.mov(cr4, eax)?;
        a.mov(eax, pdpt as i32)?;
        a.mov(cr3, eax)?;
        a.mov(eax, cr0)?;
        a.or(eax, 0x8000_0000u32 as i32)?;
        a.mov(cr0, eax)?;
        // A change of the PDPTE in memory is not seen…
        a.mov(dword_ptr(pdpt as u32), 0)?;
        a.mov(ebx, dword_ptr(DATA as u32))?;
        a.mov(dword_ptr(pdpt as u32), 0xa_1003)?; // reserved bit 1
        a.inc(ecx)?;
        // …until CR3 is loaded.
        a.mov(eax, pdpt as i32)?;
        a.mov(cr3, eax)?;
        a.hlt()
    });
    m.write(DATA, 77u32);
    let (vector, s) = m.run_to_exception();
    assert_eq!((vector, s.gpr[RBX], s.gpr[RCX]), (13, 77, 1));
}
