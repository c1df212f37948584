//! Segment loads, far transfers, call gates, virtual-8086 mode, I/O permission.

use crate::harness::*;
use iced_x86::code_asm::*;
use x86::state::{Attributes, cr4, rflags, seg};

/// Loads DS with `selector` in ring 0 of protected mode; the exception and its error code.
fn load(n: &str, selector: u16, raw: u64) -> Result<u64, (u8, u64)> {
    let mut m = Machine::protected();
    m.set_descriptor(FREE1, raw);
    m.code(CODE, 32, |a| {
        a.mov(eax, i32::from(selector))?;
        match n {
            "ss" => a.mov(ss, eax)?,
            _ => a.mov(ds, eax)?,
        }
        a.int3()
    });
    let (vector, _) = m.run_to_exception();
    if vector == 3 {
        let at = GDT + u64::from(FREE1);
        return Ok(m.read::<u64>(at) >> 40 & 1);
    }
    Err((vector, m.frame::<u32>(1)[0]))
}

#[test]
fn loading_a_data_segment_checks_its_descriptor() {
    let free = u64::from(FREE1);
    assert_eq!(
        load("ds", FREE1, descriptor(0, 0xffff, 0x92)),
        Ok(1),
        "accessed is set"
    );
    assert_eq!(load("ds", 0, 0), Ok(0), "null is fine");
    assert_eq!(
        load("ds", FREE1, descriptor(0, 0xffff, 0x12)),
        Err((11, free)),
        "not present"
    );
    assert_eq!(
        load("ds", FREE1, descriptor(0, 0xffff, 0x98)),
        Err((13, free)),
        "execute-only"
    );
    assert_eq!(
        load("ds", FREE1 | 3, descriptor(0, 0xffff, 0x92)),
        Err((13, free)),
        "RPL"
    );
    assert_eq!(
        load("ds", FREE1, descriptor(0, 0xffff, 0x82)),
        Err((13, free)),
        "system"
    );
    assert_eq!(
        load("ds", 0xffff, 0),
        Err((13, 0xfffc)),
        "beyond an LDT that is not there"
    );
    assert_eq!(load("ds", 0x1000, 0), Err((13, 0x1000)), "beyond the GDT");
    assert_eq!(load("ss", 0, 0), Err((13, 0)));
    assert_eq!(
        load("ss", FREE1, descriptor(0, 0xffff, 0x90)),
        Err((13, free)),
        "read-only"
    );
    assert_eq!(
        load("ss", FREE1, descriptor(0, 0xffff, 0x12)),
        Err((12, free)),
        "not present"
    );
    assert_eq!(
        load("ss", FREE1, descriptor(0, 0xffff, 0xf2)),
        Err((13, free)),
        "DPL 3"
    );
}

#[test]
fn limits_are_enforced_for_normal_and_expand_down_segments() {
    for (raw, at, ok) in [
        (descriptor(0, 0xff, 0x92), 0xfc, true),
        (descriptor(0, 0xff, 0x92), 0xfd, false),
        (descriptor(0, 0xff, 0x496), 0xff, false),
        (descriptor(0, 0xff, 0x496), 0x100, true),
        (descriptor(0, 0xff, 0x96), 0xfffd, false),
        (descriptor(0, 0xf_ffff, 0xc92), 0xfff_0000, true),
    ] {
        let mut m = Machine::protected();
        m.set_descriptor(FREE1, raw);
        m.code(CODE, 32, |a| {
            a.mov(eax, i32::from(FREE1))?;
            a.mov(ds, eax)?;
            a.mov(ebx, dword_ptr(at))?;
            a.int3()
        });
        let expected = if ok { 3 } else { 13 };
        assert_eq!(m.run_to_exception().0, expected, "{raw:#x} at {at:#x}");
    }
}

#[test]
fn a_call_gate_to_ring_0_copies_parameters_and_retf_comes_back() {
    for (kind, size) in [(0xecu64, 4u64), (0xe4, 2)] {
        let mut m = Machine::protected();
        // 16-bit gates reach the first 64 KB.
        let target = 0x8000u64;
        m.set_descriptor(FREE1, gate(KCODE, target, kind, 2));
        m.user(32);
        // Where a 16-bit gate can return to.
        let start = 0x9000u64;
        m.change(|s| s.rip = start);
        m.code(start, 32, |a| {
            if size == 4 {
                a.push(0x1111)?;
                a.push(0x2222)?;
            } else {
                a.db(&[0x66, 0x68, 0x11, 0x11, 0x66, 0x68, 0x22, 0x22])?;
            }
            // call FREE1|3:0
            a.db(&[0x9a, 0, 0, 0, 0])?;
            a.dw(&[FREE1 | 3])?;
            a.mov(esi, 1)?;
            a.ud2()
        });
        m.code(target, 32, |a| {
            if size == 4 {
                a.mov(eax, dword_ptr(esp + 8))?;
                a.mov(edx, dword_ptr(esp + 12))?;
                a.mov(ebp, esp)?;
                a.db(&[0xca, 8, 0]) // retf 8
            } else {
                a.movzx(eax, word_ptr(esp + 4))?;
                a.movzx(edx, word_ptr(esp + 6))?;
                a.mov(ebp, esp)?;
                a.db(&[0x66, 0xca, 4, 0])
            }
        });
        let (vector, s) = m.run_to_exception();
        assert_eq!((s.gpr[RAX], s.gpr[RDX]), (0x2222, 0x1111));
        assert_eq!(s.gpr[RBP], STACK0 - 6 * size);
        assert_eq!((vector, s.gpr[RSI]), (6, 1));
        let outer = if size == 4 {
            USER_STACK
        } else {
            USER_STACK & 0xffff
        };
        assert_eq!(
            m.frame::<u32>(4)[3],
            outer,
            "parameters dropped on both stacks"
        );
    }
}

#[test]
fn a_64_bit_call_gate_switches_to_a_null_ss() {
    let mut m = Machine::long();
    let raw = gate(KCODE, CODE, 0xec, 0);
    m.set_descriptor(FREE1, raw);
    m.write(GDT + u64::from(FREE1) + 8, 0u64);
    m.user(64);
    m.write(DATA, 0u32);
    m.write(DATA + 4, FREE1 | 3);
    m.code(USER, 64, |a| {
        a.mov(rbx, DATA)?;
        a.db(&[0xff, 0x1b])?; // call far [rbx]
        a.ud2()
    });
    m.code(CODE, 64, |a| {
        a.mov(r8, qword_ptr(rsp))?;
        a.mov(r9, qword_ptr(rsp + 8))?;
        a.mov(r10, qword_ptr(rsp + 16))?;
        a.mov(r11, qword_ptr(rsp + 24))?;
        a.mov(r12d, ss)?;
        a.db(&[0x48, 0xcb]) // retfq
    });
    let (vector, s) = m.run_to_exception();
    assert_eq!((vector, s.cpl), (6, 0));
    let after = m.frame::<u64>(1)[0];
    assert_eq!((s.gpr[8], s.gpr[9]), (after, UCODE64.into()));
    assert_eq!(
        (s.gpr[10], s.gpr[11], s.gpr[12]),
        (USER_STACK, UDATA.into(), 0)
    );
    assert_eq!(m.frame::<u64>(5)[3..], [USER_STACK, UDATA.into()]);
}

/// A monitor that enters virtual-8086 mode at 0x3000:0 (linear [`USER`]).
fn v86(iopl: u64) -> Machine {
    let mut m = Machine::protected();
    m.code(CODE, 32, |a| {
        a.push(0x1000)?; // GS
        a.push(0x2000)?; // FS
        a.push(0x8000)?; // DS
        a.push(0x4000)?; // ES
        a.push(0x3000)?; // SS
        a.push(0x8000)?; // SP
        a.push((0x2_0202 | iopl << 12) as i32)?;
        a.push(0x3000)?;
        a.push(0)?;
        a.iretd()
    });
    m
}

#[test]
fn virtual_8086_mode_is_entered_by_iret_and_left_by_an_exception() {
    let mut m = v86(0);
    m.write(DATA, 0xabcdu16);
    m.code_for(USER, 0, 16, |a| {
        a.mov(ax, word_ptr(0))?; // DS = 0x8000
        a.push(ax)?;
        a.int(0x21)
    });
    let (vector, s) = m.run_to_exception();
    assert_eq!(vector, 13, "INT with IOPL 0");
    assert_eq!(s.gpr[RAX], 0xabcd);
    assert_eq!(m.read::<u16>(USER + 0x7ffe), 0xabcd);
    assert_eq!(s.rflags & rflags::VM, 0);
    assert_eq!((s.cpl, s.gpr[RSP]), (0, STACK0 - 40));
    let frame = m.frame::<u32>(10);
    assert_eq!(frame[..3], [0, 4, 0x3000]);
    assert_eq!(frame[3], 0x3_0202);
    assert_eq!(frame[4..], [0x7ffe, 0x3000, 0x4000, 0x8000, 0x2000, 0x1000]);
    assert_eq!(s.seg[seg::DS as usize].selector, 0);
}

#[test]
fn int_n_in_virtual_8086_mode_with_iopl_3_or_vme() {
    // IOPL 3: through the gate (of DPL 3).
    let mut m = v86(3);
    m.write(IDT + 8 * 0x21, gate(KCODE, STUBS + 0x210, 0xee, 0));
    m.code_for(USER, 0, 16, |a| a.int(0x21));
    assert_eq!(m.run_to_exception().0, 0x21);
    // VME with a clear bit in the redirection bitmap: through the table at 0.
    let mut m = v86(0);
    m.change(|s| s.cr4 |= cr4::VME);
    m.write(TSS + 0x66, 0x88u16); // 32 bytes of bitmap before
    m.write(4 * 0x21u64, 0x3000_0100u32);
    m.code_for(USER, 0, 16, |a| a.int(0x21));
    m.code_for(USER + 0x100, 0x100, 16, |a| {
        a.mov(bp, sp)?;
        a.mov(bx, word_ptr(bp + 4))?;
        a.hlt() // #GP: CPL 3
    });
    let (vector, s) = m.run_to_exception();
    assert_eq!(vector, 13);
    assert_eq!(s.gpr[RBX] & 0xffff, 0x3002, "IOPL 3, IF = VIF = 0");
    assert_eq!(m.frame::<u32>(2)[1], 0x105);
}

#[test]
fn the_io_bitmap_decides_for_each_port() {
    for (port, size, bits, ok) in [
        (0x70u16, 1, 0u16, true),
        (0x70, 1, 1, false),
        (0x70, 1, 2, true),
        (0x73, 4, 1 << 6, false),
        (0x77, 2, 1 << 8, false),
        (0xfff8, 1, 0, false), // beyond the limit
    ] {
        let mut m = Machine::long();
        m.user(64);
        m.write(TSS + 0x68 + 0x70 / 8, bits);
        m.code(USER, 64, |a| {
            a.mov(edx, i32::from(port))?;
            match size {
                1 => a.out(dx, al)?,
                2 => a.out(dx, ax)?,
                _ => a.out(dx, eax)?,
            }
            a.ud2()
        });
        let (vector, _) = m.run_to_exception();
        assert_eq!(
            vector,
            if ok { 6 } else { 13 },
            "port {port:#x} size {size}"
        );
        assert_eq!(m.bus.out.len(), usize::from(ok));
    }
}

#[test]
fn string_input_and_output_move_repeat_and_fault_before_the_port_is_touched() {
    let mut m = Machine::long();
    m.bus.input.insert(0x1f0, 0xbeef);
    m.write(DATA + 0x100, 0x0403_0201u32);
    m.code(CODE, 64, |a| {
        a.mov(edx, 0x1f0)?;
        a.mov(rdi, DATA)?;
        a.mov(ecx, 3)?;
        a.rep().insw()?;
        a.mov(rsi, DATA + 0x100)?;
        a.mov(ecx, 4)?;
        a.rep().outsb()?;
        a.mov(rdi, 0x3000_0000u64)?; // not mapped
        a.insb()?;
        a.hlt()
    });
    let (vector, s) = m.run_to_exception();
    assert_eq!((vector, s.gpr[RCX], s.gpr[RSI]), (14, 0, DATA + 0x104));
    assert_eq!(m.read::<u64>(DATA) & 0xffff_ffff_ffff, 0xbeef_beef_beef);
    assert_eq!(m.bus.reads.len(), 3);
    let sent: Vec<u32> = m.bus.out.iter().map(|o| o.2).collect();
    assert_eq!(sent, [1, 2, 3, 4]);
}

#[test]
fn a_16_bit_stack_keeps_the_upper_half_of_esp() {
    let mut m = Machine::protected();
    m.set_descriptor(FREE1, descriptor(0, 0xffff, 0x92));
    m.code(CODE, 32, |a| {
        a.mov(eax, i32::from(FREE1))?;
        a.mov(ss, eax)?;
        a.mov(esp, 0x1234_0004)?;
        a.push(0x55aa_33cc)?;
        a.push(0x55aa_33cc)?;
        a.mov(ebx, esp)?;
        a.hlt()
    });
    let s = m.run();
    assert_eq!(s.gpr[RBX], 0x1234_fffc, "wrapped inside the segment");
    assert_eq!(s.seg[seg::SS as usize].attributes, Attributes(0x93));
}
