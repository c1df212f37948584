//! Delivery of exceptions and interrupts.

use crate::harness::*;
use iced_x86::code_asm::*;
use x86::state::{Activity, Shadow, rflags, seg};
use x86::{Signals, Stop};

#[test]
fn an_exception_in_ring_3_of_64_bit_mode_switches_the_stack() {
    let mut m = Machine::long();
    m.user(64);
    m.code(USER, 64, |a| a.ud2());
    m.change(|s| s.rflags |= rflags::IF | rflags::CF);
    let (vector, s) = m.run_to_exception();
    assert_eq!(vector, 6);
    assert_eq!((s.cpl, s.gpr[RSP]), (0, STACK0 - 40));
    assert_eq!(s.seg[seg::SS as usize].selector, 0);
    assert_eq!(s.rflags & (rflags::IF | rflags::TF), 0);
    assert_eq!(
        m.frame::<u64>(5),
        [USER, UCODE64.into(), 0x10203, USER_STACK, UDATA.into()],
        "a fault pushes RF"
    );
}

#[test]
fn an_exception_in_ring_3_of_32_bit_mode_switches_the_stack() {
    let mut m = Machine::protected();
    m.user(32);
    m.code(USER, 32, |a| {
        a.cli()?; // #GP(0)
        a.hlt()
    });
    let (vector, s) = m.run_to_exception();
    assert_eq!((vector, s.cpl, s.gpr[RSP]), (13, 0, STACK0 - 24));
    assert_eq!(s.seg[seg::SS as usize].selector, KDATA);
    assert_eq!(
        m.frame::<u32>(6),
        [0, USER, UCODE32.into(), 0x10002, USER_STACK, UDATA.into()]
    );
}

#[test]
fn a_16_bit_gate_pushes_words() {
    let mut m = Machine::protected();
    m.write(IDT + 8 * 0x40, gate(KCODE, STUBS + 0x400, 0xe6, 0));
    m.write(IDT + 8 * 0x40 + 6, 0u16);
    // 16-bit gates reach 64 KB: a trampoline there.
    m.write(0x400u64, 0xf4u8);
    m.write(IDT + 8 * 0x40, gate(KCODE, 0x400, 0xe6, 0));
    m.code(CODE, 32, |a| a.int(0x40));
    let s = m.run();
    assert_eq!((s.rip, s.gpr[RSP]), (0x401, STACK - 6));
    assert_eq!(m.frame::<u16>(3), [(CODE + 2) & 0xffff, KCODE.into(), 2]);
}

#[test]
fn an_interrupt_stack_is_taken_without_a_change_of_privilege_and_rsp_is_aligned() {
    let mut m = Machine::long();
    m.write(IDT + 16 * 3, gate(KCODE, STUBS + 0x30, 0x8e, 1));
    m.code(CODE, 64, |a| a.int3());
    let (vector, s) = m.run_to_exception();
    assert_eq!((vector, s.gpr[RSP]), (3, IST1 - 40));
    assert_eq!(m.frame::<u64>(5), [CODE + 1, 8, 2, STACK, 0x10]);

    let mut m = Machine::long();
    m.change(|s| s.gpr[RSP] = STACK - 5);
    m.code(CODE, 64, |a| a.int3());
    assert_eq!(m.run_to_exception().1.gpr[RSP], STACK - 16 - 40);
    assert_eq!(m.frame::<u64>(4)[3], STACK - 5);
}

#[test]
fn a_software_interrupt_needs_the_gates_privilege() {
    for (dpl, expected) in [(0u64, 13), (3, 0x30)] {
        let mut m = Machine::long();
        m.user(64);
        let offset = STUBS + 0x300;
        m.write(IDT + 0x300, gate(KCODE, offset, 0x8e | dpl << 5, 0));
        m.code(USER, 64, |a| a.int(0x30));
        let (vector, _) = m.run_to_exception();
        assert_eq!(vector, expected);
        let frame = m.frame::<u64>(2);
        if dpl == 0 {
            assert_eq!(
                frame,
                [0x30 * 8 + 2, USER],
                "names the IDT entry; RIP at the INT"
            );
        } else {
            assert_eq!(frame[0], USER + 2);
        }
    }
}

#[test]
fn a_fault_while_delivering_a_fault_is_a_double_fault_and_a_third_shuts_down() {
    let mut m = Machine::long();
    // #GP has no gate.
    m.write(IDT + 16 * 13, 0u64);
    m.code(CODE, 64, |a| {
        a.mov(eax, 0x38)?;
        a.mov(ds, eax)?; // an unusable selector: #GP
        a.hlt()
    });
    let (vector, _) = m.run_to_exception();
    assert_eq!(vector, 8);
    assert_eq!(m.frame::<u64>(2)[0], 0, "the error code is zero");

    let mut m = Machine::long();
    m.change(|s| s.idtr.limit = 0);
    m.code(CODE, 64, |a| a.ud2());
    assert_eq!(m.stop(), Stop::Shutdown);
    assert_eq!(m.state().activity, Activity::Shutdown);
    assert_eq!(m.stop(), Stop::Shutdown, "until reset");
}

#[test]
fn a_fault_while_delivering_a_benign_event_is_that_fault_with_ext() {
    let mut m = Machine::long();
    m.write(IDT + 16 * 0x50, 0u64);
    m.bus.vectors.push(0x50);
    m.signals.raise(Signals::INTR);
    m.change(|s| s.rflags |= rflags::IF);
    m.code(CODE, 64, |a| a.hlt());
    let (vector, _) = m.run_to_exception();
    assert_eq!(vector, 13);
    assert_eq!(m.frame::<u64>(1), [0x50 * 8 + 2 + 1]);
}

#[test]
fn an_interrupt_waits_for_if_and_for_the_instruction_after_sti() {
    let mut m = Machine::long();
    m.bus.vectors.push(0x41);
    m.signals.raise(Signals::INTR);
    m.code(CODE, 64, |a| {
        a.mov(eax, 1)?;
        a.sti()?;
        a.inc(eax)?;
        a.inc(eax)?;
        a.hlt()
    });
    let (vector, s) = m.run_to_exception();
    assert_eq!((vector, s.gpr[RAX]), (0x41, 2), "one instruction after STI");
}

#[test]
fn mov_ss_holds_off_interrupts_and_the_single_step() {
    let mut m = Machine::long();
    m.change(|s| s.rflags |= rflags::IF);
    m.code(CODE, 64, |a| {
        a.mov(ecx, 0x10)?;
        a.mov(ss, ecx)?;
        a.inc(eax)?;
        a.inc(eax)?;
        a.hlt()
    });
    // Two instructions, so that the interrupt arrives under the shadow.
    assert_eq!(m.vcpu.run(&mut m.bus, 2), Stop::Budget);
    assert_eq!(m.state().shadow, Shadow::MovSs);
    m.bus.vectors.push(0x41);
    m.signals.raise(Signals::INTR);
    let (vector, s) = m.run_to_exception();
    assert_eq!((vector, s.gpr[RAX]), (0x41, 1));
}

#[test]
fn single_step_traps_after_each_instruction_with_dr6_bs() {
    let mut m = Machine::long();
    m.code(CODE, 64, |a| {
        a.pushfq()?;
        a.or(qword_ptr(rsp), rflags::TF as i32)?;
        a.popfq()?;
        a.inc(eax)?;
        a.inc(eax)?;
        a.hlt()
    });
    let (vector, s) = m.run_to_exception();
    assert_eq!(
        (vector, s.gpr[RAX]),
        (1, 1),
        "the instruction after POPF ran"
    );
    assert_eq!(s.dr6 & 1 << 14, 1 << 14);
    assert_eq!(s.rflags & rflags::TF, 0);
    assert_eq!(m.frame::<u64>(3)[2] & rflags::TF, rflags::TF);
}

#[test]
fn instruction_and_data_breakpoints() {
    let mut m = Machine::long();
    let mut target = 0;
    let len = m.code(CODE, 64, |a| {
        a.mov(rax, CODE + 0x100)?;
        a.mov(dr0, rax)?;
        a.mov(rax, DATA + 4)?;
        a.mov(dr1, rax)?;
        // DR0: execution; DR1: writes of 4 bytes.
        a.mov(eax, 0x400 | 3 | 3 << 2 | 1 << 20 | 3 << 22)?;
        a.mov(dr7, rax)?;
        a.mov(rax, CODE + 0x100)?;
        a.jmp(rax)
    });
    assert!(len < 0x100);
    m.code(CODE + 0x100, 64, |a| {
        a.mov(ecx, 7)?;
        a.mov(rbx, DATA)?;
        a.mov(dword_ptr(rbx), ecx)?; // not watched
        a.mov(qword_ptr(rbx), rcx)?; // covers DATA + 4
        a.hlt()
    });
    target += CODE + 0x100;
    let (vector, s) = m.run_to_exception();
    assert_eq!((vector, s.gpr[RCX], s.dr6 & 15), (1, 0, 1));
    assert_eq!(m.frame::<u64>(1), [target], "before the instruction");
    // Back with RF set: the breakpoint does not hit again.
    m.change(|s| s.dr6 = 0xffff_0ff0);
    m.code(STUBS + 0x800, 64, |a| {
        a.or(dword_ptr(rsp + 16), rflags::RF as i32)?;
        a.iretq()
    });
    m.resume_at(STUBS + 0x800);
    let (vector, s) = m.run_to_exception();
    assert_eq!((vector, s.gpr[RCX], s.dr6 & 15), (1, 7, 2));
    assert_eq!(m.read::<u64>(DATA), 7, "a data breakpoint is a trap");
}

#[test]
fn general_detect_faults_on_debug_register_access() {
    let mut m = Machine::long();
    m.change(|s| s.dr7 = 0x400 | 1 << 13);
    m.code(CODE, 64, |a| {
        a.mov(rax, dr0)?;
        a.hlt()
    });
    let (vector, s) = m.run_to_exception();
    assert_eq!((vector, s.dr6 & 1 << 13, s.dr7 & 1 << 13), (1, 1 << 13, 0));
    assert_eq!(m.frame::<u64>(1), [CODE]);
}

#[test]
fn an_nmi_blocks_others_until_iret() {
    let mut m = Machine::long();
    m.code(STUBS + 0x20, 64, |a| {
        a.inc(ebx)?;
        a.iretq()
    });
    m.code(CODE, 64, |a| {
        a.nop()?;
        a.hlt()
    });
    m.signals.raise(Signals::NMI);
    let s = m.run();
    assert_eq!((s.gpr[RBX], s.nmi_blocked, s.rip), (1, false, CODE + 2));
    // A halted processor wakes for the next one and goes on behind the HLT.
    m.write(CODE + 2, 0xf4u8);
    m.signals.raise(Signals::NMI);
    let s = m.run();
    assert_eq!((s.gpr[RBX], s.rip), (2, CODE + 3));
}

#[test]
fn a_halted_processor_stays_halted_when_run_again() {
    let mut m = Machine::long();
    m.code(CODE, 64, |a| {
        a.hlt()?;
        a.inc(ebx)?;
        a.hlt()
    });
    m.run();
    assert_eq!(m.run().gpr[RBX], 0);
}

#[test]
fn iret_to_user_mode_nulls_privileged_segments() {
    let mut m = Machine::long();
    m.code(CODE, 64, |a| {
        a.push(i32::from(UDATA))?;
        a.push(USER_STACK as i32)?;
        a.push(0x202)?;
        a.push(i32::from(UCODE64))?;
        a.push(USER as i32)?;
        a.mov(eax, i32::from(UDATA))?;
        a.mov(es, eax)?;
        a.iretq()
    });
    m.code(USER, 64, |a| a.ud2());
    let (vector, s) = m.run_to_exception();
    assert_eq!(vector, 6);
    assert_eq!(s.seg[seg::DS as usize].selector, 0, "was a kernel segment");
    assert_eq!(s.seg[seg::ES as usize].selector, UDATA, "usable in ring 3");
    assert_eq!(m.frame::<u64>(5)[2..], [0x10202, USER_STACK, UDATA.into()]);
}

#[test]
fn iret_checks_its_segments() {
    // CS, SS on the stack; the error code of the #GP.
    for (to, stack, code) in [
        (0u16, UDATA, 0),
        (KDATA, KDATA, KDATA),
        (UCODE64 & !3, KDATA, UCODE64 & !3), // RPL 0, DPL 3
        (UCODE64, KDATA, KDATA),             // SS for ring 0
        (UCODE64, 0, 0),                     // null SS in ring 3
        (0xff8, KDATA, 0xff8),
    ] {
        let mut m = Machine::long();
        m.code(CODE, 64, |a| {
            a.push(i32::from(stack))?;
            a.push(STACK as i32)?;
            a.push(2)?;
            a.push(i32::from(to))?;
            a.push(USER as i32)?;
            a.iretq()
        });
        let (vector, s) = m.run_to_exception();
        assert_eq!(vector, 13, "CS {to:#x} SS {stack:#x}");
        assert_eq!(
            m.frame::<u64>(1),
            [u64::from(code)],
            "CS {to:#x} SS {stack:#x}"
        );
        assert_eq!(s.cpl, 0);
    }
}

#[test]
fn io_breakpoints_trap_after_the_access() {
    let mut m = Machine::long();
    m.change(|s| {
        s.cr4 |= x86::state::cr4::DE;
        s.dr[2] = 0x71;
        s.dr7 = 0x400 | 2 << 4 | 2 << 24;
    });
    m.code(CODE, 64, |a| {
        a.out(0x72, al)?;
        a.out(0x70, ax)?;
        a.hlt()
    });
    let (vector, s) = m.run_to_exception();
    assert_eq!((vector, s.dr6 & 15), (1, 4));
    assert_eq!(m.bus.out.len(), 2);
}

#[test]
fn stepping_over_hlt_traps_instead_of_waiting() {
    let mut m = Machine::long();
    m.change(|s| s.rflags |= rflags::TF);
    m.code(CODE, 64, |a| a.hlt());
    let (vector, _) = m.run_to_exception();
    assert_eq!(vector, 1);
    assert_eq!(m.frame::<u64>(1), [CODE + 1]);
}

#[test]
fn an_interrupt_in_the_middle_of_a_repeated_instruction_pushes_rf() {
    let mut m = Machine::long();
    m.code(CODE, 64, |a| {
        a.rep().lodsb()?;
        a.hlt()
    });
    m.change(|s| {
        s.rflags |= rflags::IF;
        s.gpr[RCX] = 10_000;
        s.gpr[RSI] = CODE;
    });
    assert_eq!(m.vcpu.run(&mut m.bus, 1), Stop::Budget);
    let left = m.state().gpr[RCX];
    assert!((1..10_000).contains(&left), "{left}");
    m.bus.vectors.push(0x41);
    m.signals.raise(Signals::INTR);
    assert_eq!(m.run_to_exception().0, 0x41);
    let frame = m.frame::<u64>(3);
    assert_eq!((frame[0], frame[2] & rflags::RF), (CODE, rflags::RF));
    // Its end clears RF.
    m.change(|s| s.rflags |= rflags::RF | rflags::IF);
    m.resume_at(CODE);
    let s = m.run();
    assert_eq!(
        (s.gpr[RCX], s.gpr[RSI], s.rflags & rflags::RF),
        (0, CODE + 10_000, 0)
    );
}

#[test]
fn a_breakpoint_on_its_own_handler_spends_the_budget() {
    let mut m = Machine::long();
    m.write(IDT + 16, gate(KCODE, STUBS + 0x10, 0x8e, 1));
    m.change(|s| {
        s.dr = [CODE, STUBS + 0x10, 0, 0];
        s.dr7 |= 0xf;
    });
    m.code(CODE, 64, |a| a.nop());
    assert_eq!(m.vcpu.run(&mut m.bus, 500), Stop::Budget);
    assert!((499..=501).contains(&m.vcpu.counters().exceptions));
}

#[test]
fn rdrand_and_rdseed_give_the_boards_randomness_or_a_stream_of_their_own() {
    let run = |entropy| {
        let mut m = Machine::long();
        m.bus.entropy = entropy;
        m.code(CODE, 64, |a| {
            a.rdrand(rax)?;
            a.rdseed(rbx)?;
            a.hlt()
        });
        let s = m.run();
        (s.gpr[RAX], s.gpr[RBX])
    };
    assert_eq!(run(Some(77)), (77, 77));
    let (a, b) = run(None);
    assert_ne!(a, b);
    assert_eq!(run(None), (a, b), "the same in every run");
}
