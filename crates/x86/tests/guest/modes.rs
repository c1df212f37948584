//! Changes of mode by the guest's own code.

use crate::harness::*;
use iced_x86::code_asm::*;
use x86::state::{cr0, cr4, efer, rflags, seg};

#[test]
fn real_mode_enters_protected_mode_long_mode_and_comes_back() {
    let mut m = Machine::real();
    // Tables for all modes: GDTR image, GDT, identity paging.
    m.write(GDT + u64::from(KCODE), descriptor(0, 0xf_ffff, 0xc9a));
    m.write(GDT + u64::from(KDATA), descriptor(0, 0xf_ffff, 0xc92));
    m.write(
        GDT + u64::from(UCODE64 & !7),
        descriptor(0, 0xf_ffff, 0xa9a),
    );
    m.write(GDT + u64::from(CODE16), descriptor(CODE, 0xffff, 0x9a));
    m.write(GDT + u64::from(DATA16), descriptor(0, 0xffff, 0x92));
    m.write(DATA, 0xfffu16);
    m.write(DATA + 2, GDT as u32);
    m.write(PML4, PDPT | 3);
    m.write(PDPT, PD | 3);
    m.write(PD, 0x83u64);
    // The real-mode code lies at CODE with CS.base = CODE; it jumps to linear CODE + 0x100.
    m.code_for(CODE, 0, 16, |a| {
        a.mov(ax, (DATA >> 4) as i32)?;
        a.mov(ds, ax)?;
        a.db(&[0x66])?;
        a.lgdt(fword_ptr(0))?;
        a.mov(eax, cr0)?;
        a.or(eax, 1)?;
        a.mov(cr0, eax)?;
        // jmp dword KCODE:CODE+0x100
        a.db(&[0x66, 0xea])?;
        a.dd(&[CODE as u32 + 0x100])?;
        a.dw(&[KCODE])
    });
    m.code(CODE + 0x100, 32, |a| {
        a.mov(eax, i32::from(KDATA))?;
        a.mov(ds, eax)?;
        a.mov(ss, eax)?;
        a.mov(esp, STACK as i32)?;
        a.mov(eax, cr4)?;
        a.or(eax, cr4::PAE as i32)?;
        a.mov(cr4, eax)?;
        a.mov(eax, PML4 as i32)?;
        a.mov(cr3, eax)?;
        a.mov(ecx, 0xc000_0080u32 as i32)?;
        a.rdmsr()?;
        a.or(eax, efer::LME as i32)?;
        a.wrmsr()?;
        a.mov(eax, cr0)?;
        a.or(eax, 0x8000_0000u32 as i32)?;
        a.mov(cr0, eax)?;
        a.db(&[0xea])?;
        a.dd(&[CODE as u32 + 0x200])?;
        a.dw(&[UCODE64 & !7])
    });
    m.code(CODE + 0x200, 64, |a| {
        a.mov(r15, 0x1234_5678_9abc_def0u64)?;
        a.mov(qword_ptr(DATA + 0x100), r15)?;
        // Back to 32-bit compatibility code.
        a.push(i32::from(KCODE))?;
        a.push(CODE as i32 + 0x300)?;
        a.db(&[0x48, 0xcb])
    });
    m.code(CODE + 0x300, 32, |a| {
        a.mov(eax, cr0)?;
        a.and(eax, 0x7fff_ffff)?;
        a.mov(cr0, eax)?;
        a.mov(ecx, 0xc000_0080u32 as i32)?;
        a.rdmsr()?;
        a.mov(ebx, eax)?;
        a.and(eax, !(efer::LME as i32))?;
        a.wrmsr()?;
        a.mov(eax, i32::from(DATA16))?;
        a.mov(ds, eax)?;
        a.mov(ss, eax)?;
        a.db(&[0xea])?;
        a.dd(&[0x400])?;
        a.dw(&[CODE16])
    });
    m.code_for(CODE + 0x400, 0x400, 16, |a| {
        a.mov(eax, cr0)?;
        a.and(eax, -2)?;
        a.mov(cr0, eax)?;
        a.db(&[0xea])?;
        a.dw(&[0x500, (CODE >> 4) as u16])
    });
    m.code_for(CODE + 0x500, 0x500, 16, |a| {
        a.mov(ax, 0x7777)?;
        a.hlt()
    });
    let s = m.run();
    assert_eq!(s.gpr[RAX] & 0xffff, 0x7777);
    assert_eq!(m.read::<u64>(DATA + 0x100), 0x1234_5678_9abc_def0);
    assert_eq!(s.gpr[RBX] & efer::LMA, 0, "LMA goes with paging");
    assert_eq!(s.cr0 & (cr0::PE | cr0::PG), 0);
    assert_eq!(s.efer, 0);
    assert_eq!(s.seg[seg::CS as usize].base, CODE);
}

#[test]
fn an_interrupt_in_real_mode_goes_through_the_vector_table() {
    let mut m = Machine::real();
    m.code_for(CODE, 0, 16, |a| {
        a.sti()?;
        a.int(0x21)?;
        a.hlt()
    });
    let (vector, s) = m.run_to_exception();
    assert_eq!(vector, 0x21);
    assert_eq!(s.rflags & rflags::IF, 0);
    assert_eq!(m.frame::<u16>(3), [3, CODE >> 4, 0x202]);
}

#[test]
fn entering_long_mode_needs_pae() {
    let mut m = Machine::protected();
    m.change(|s| s.efer = efer::LME);
    m.code(CODE, 32, |a| {
        a.mov(eax, cr0)?;
        a.or(eax, 0x8000_0000u32 as i32)?;
        a.mov(cr0, eax)?;
        a.hlt()
    });
    assert_eq!(m.run_to_exception().0, 13);
    assert_eq!(m.state().cr0 & cr0::PG, 0);
}

#[test]
fn impossible_control_register_values_raise_gp() {
    for (register, value) in [
        (0, 0x8000_0010u64),     // PG without PE
        (0, 0x2000_0011),        // NW without CD
        (0, 0x1_8000_0011),      // upper half
        (0, 0x0000_0011),        // PG cleared in 64-bit mode
        (4, cr4::OSFXSR),        // PAE cleared in long mode
        (4, cr4::PAE | 1 << 23), // reserved
        (3, 1 << 45),            // beyond the physical address width
        (8, 16),                 // CR8 has four bits
    ] {
        let mut m = Machine::long();
        m.code(CODE, 64, |a| {
            a.mov(rax, value)?;
            match register {
                0 => a.mov(cr0, rax)?,
                3 => a.mov(cr3, rax)?,
                4 => a.mov(cr4, rax)?,
                _ => a.mov(cr8, rax)?,
            }
            a.hlt()
        });
        assert_eq!(m.run_to_exception().0, 13, "CR{register} = {value:#x}");
    }
}
