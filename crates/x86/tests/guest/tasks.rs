//! Hardware task switches, through 32- and 16-bit TSSs.

use crate::harness::*;
use iced_x86::code_asm::*;
use x86::state::{cr0, rflags, seg};

/// A machine whose second task starts at [`USER`] in ring 0; `wide` for a 32-bit TSS.
fn two_tasks(wide: bool) -> Machine {
    let mut m = Machine::protected();
    if wide {
        m.set_descriptor(FREE1, descriptor(TSS2, 0x67, 0x89));
        m.write(TSS2 + 0x20, USER as u32);
        m.write(TSS2 + 0x24, 0x2u32);
        m.write(TSS2 + 0x28, 0x1111_2222u32); // EAX
        m.write(TSS2 + 0x38, USER_STACK as u32);
        for n in 0..6u64 {
            m.write(TSS2 + 0x48 + 4 * n, KDATA);
        }
        m.write(TSS2 + 0x4c, KCODE);
        m.write(TSS2 + 0x66, 0x68u16);
    } else {
        m.set_descriptor(FREE1, descriptor(TSS2, 0x2b, 0x81));
        m.write(TSS2 + 0x0e, 0x8000u16);
        m.write(TSS2 + 0x10, 2u16);
        m.write(TSS2 + 0x12, 0x2222u16);
        m.write(TSS2 + 0x1a, 0x9000u16);
        for n in 0..4u64 {
            m.write(TSS2 + 0x22 + 2 * n, KDATA);
        }
        m.write(TSS2 + 0x24, KCODE);
    }
    m
}

fn entry_of(wide: bool) -> u64 {
    if wide { USER } else { 0x8000 }
}

fn is_busy(m: &Machine, selector: u16) -> bool {
    m.read::<u64>(GDT + u64::from(selector)) >> 41 & 1 != 0
}

#[test]
fn a_call_nests_and_iret_returns() {
    for wide in [true, false] {
        let mut m = two_tasks(wide);
        m.change(|s| s.gpr[RBX] = 0x77);
        m.code(CODE, 32, |a| {
            a.db(&[0x9a, 0, 0, 0, 0])?;
            a.dw(&[FREE1])?;
            a.inc(ebx)?;
            a.hlt()
        });
        m.code(entry_of(wide), 32, |a| {
            a.mov(dword_ptr(DATA as u32), eax)?;
            a.hlt()?;
            a.iretd()
        });
        let s = m.run();
        assert_eq!((s.tr.selector, s.rflags & rflags::NT), (FREE1, rflags::NT));
        assert_eq!(s.cr0 & cr0::TS, cr0::TS);
        assert_eq!(m.read::<u16>(TSS2), TR, "linked");
        assert!(is_busy(&m, FREE1) && is_busy(&m, TR));
        assert_eq!(m.read::<u32>(DATA) & 0xffff, 0x2222);
        assert_eq!(
            m.read::<u32>(TSS + 0x20),
            CODE as u32 + 7,
            "behind the CALL"
        );
        m.resume_at(s.rip);
        let s = m.run();
        assert_eq!((s.tr.selector, s.gpr[RBX], s.gpr[RSP]), (TR, 0x78, STACK));
        assert!(!is_busy(&m, FREE1) && is_busy(&m, TR));
        assert_eq!(s.rflags & rflags::NT, 0);
    }
}

#[test]
fn a_jump_leaves_the_old_task_available() {
    let mut m = two_tasks(true);
    m.code(CODE, 32, |a| {
        a.db(&[0xea, 0, 0, 0, 0])?;
        a.dw(&[FREE1])
    });
    m.code(USER, 32, |a| {
        a.hlt()?;
        a.db(&[0xea, 0, 0, 0, 0])?;
        a.dw(&[FREE1]) // to itself: busy
    });
    let s = m.run();
    assert_eq!((s.tr.selector, s.gpr[RAX]), (FREE1, 0x1111_2222));
    assert_eq!(s.rflags & rflags::NT, 0);
    assert!(is_busy(&m, FREE1) && !is_busy(&m, TR));
    assert_eq!(s.seg[seg::DS as usize].selector, KDATA);
    m.resume_at(s.rip);
    assert_eq!(m.run_to_exception().0, 13);
    assert_eq!(m.frame::<u32>(2), [u64::from(FREE1), USER + 1]);
}

#[test]
fn a_task_gate_takes_an_exception_with_its_error_code() {
    let mut m = two_tasks(true);
    m.write(IDT + 8 * 13, gate(FREE1, 0, 0x85, 0));
    m.code(CODE, 32, |a| {
        a.mov(eax, 0xfff8)?;
        a.mov(ds, eax)?;
        a.hlt()
    });
    m.code(USER, 32, |a| {
        a.pop(eax)?;
        a.hlt()
    });
    let s = m.run();
    assert_eq!((s.tr.selector, s.gpr[RAX]), (FREE1, 0xfff8));
    assert_eq!(
        m.read::<u32>(TSS + 0x20),
        CODE as u32 + 5,
        "the fault's EIP"
    );
    assert_eq!(m.read::<u32>(TSS + 0x24) & 0x1_0000, 0x1_0000, "and RF");
}

#[test]
fn a_bad_segment_of_the_new_task_is_the_new_tasks_fault() {
    let mut m = two_tasks(true);
    m.write(TSS2 + 0x54, UDATA | 3); // DS is fine at any level
    m.write(TSS2 + 0x48, 0xff8u16); // ES names nothing
    m.code(CODE, 32, |a| {
        a.db(&[0xea, 0, 0, 0, 0])?;
        a.dw(&[FREE1])
    });
    let (vector, s) = m.run_to_exception();
    assert_eq!((vector, s.tr.selector), (10, FREE1));
    assert_eq!(m.frame::<u32>(2), [0xff8, USER]);
}

#[test]
fn a_task_may_be_a_virtual_8086_one_and_have_the_debug_flag() {
    let mut m = two_tasks(true);
    m.write(TSS2 + 4, STACK0 as u32);
    m.write(TSS2 + 8, KDATA);
    m.write(TSS2 + 0x20, 0u32);
    m.write(TSS2 + 0x24, 0x2_0002u32);
    for n in 0..6u64 {
        m.write(TSS2 + 0x48 + 4 * n, 0x3000u16);
    }
    m.write(TSS2 + 0x64, 1u16);
    m.code(CODE, 32, |a| {
        a.db(&[0xea, 0, 0, 0, 0])?;
        a.dw(&[FREE1])
    });
    let (vector, s) = m.run_to_exception();
    assert_eq!((vector, s.dr6 & 1 << 15), (1, 1 << 15));
    assert_eq!(m.frame::<u32>(3), [0, 0x3000, 0x2_0002]);
}
