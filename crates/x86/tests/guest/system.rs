//! System instructions.

use crate::harness::*;
use iced_x86::code_asm::*;
use x86::cpuid::CpuModel;
use x86::state::{cr0, cr4, rflags, seg, xcr0};

#[test]
fn syscall_and_sysret_switch_between_flat_segments() {
    let mut m = Machine::long();
    m.user(64);
    m.change(|s| {
        s.msr.star = 0x18 << 48 | 0x08 << 32;
        s.msr.lstar = CODE;
        s.msr.sfmask = rflags::IF | rflags::DF;
        s.rflags |= rflags::IF | rflags::DF | rflags::CF;
    });
    m.code(USER, 64, |a| {
        a.syscall()?;
        a.ud2()
    });
    m.code(CODE, 64, |a| {
        a.mov(ebx, cs)?;
        a.mov(edx, ss)?;
        a.pushfq()?;
        a.pop(rsi)?;
        a.mov(r8, rcx)?;
        a.mov(r9, r11)?;
        a.sysretq()
    });
    m.change(|s| s.gpr[RSP] = USER_STACK);
    let (vector, s) = m.run_to_exception();
    assert_eq!(vector, 6);
    assert_eq!((s.gpr[RBX], s.gpr[RDX]), (8, 16));
    assert_eq!(
        s.gpr[RSI] & (rflags::IF | rflags::DF | rflags::CF),
        rflags::CF
    );
    assert_eq!((s.gpr[8], s.gpr[9]), (USER + 2, 0x603));
    let frame = m.frame::<u64>(5);
    assert_eq!(
        frame,
        [USER + 2, UCODE64.into(), 0x1_0603, USER_STACK, UDATA.into()]
    );
}

#[test]
fn sysret_to_a_non_canonical_address_faults_in_ring_0() {
    let mut m = Machine::long();
    m.code(CODE, 64, |a| {
        a.mov(rcx, 0x8000_0000_0000u64)?;
        a.sysretq()
    });
    let (vector, s) = m.run_to_exception();
    assert_eq!((vector, s.cpl, s.gpr[RSP]), (13, 0, STACK - 48));
}

#[test]
fn sysenter_and_sysexit() {
    let mut m = Machine::protected();
    m.user(32);
    m.change(|s| {
        s.msr.sysenter_cs = KCODE.into();
        s.msr.sysenter_eip = CODE;
        s.msr.sysenter_esp = STACK;
    });
    m.code(USER, 32, |a| a.sysenter());
    m.code(CODE, 32, |a| {
        a.mov(ebx, esp)?;
        a.mov(ecx, USER_STACK as i32)?;
        a.mov(edx, USER as i32 + 0x100)?;
        a.sysexit()
    });
    m.code(USER + 0x100, 32, |a| a.ud2());
    let (vector, s) = m.run_to_exception();
    assert_eq!((vector, s.gpr[RBX]), (6, STACK));
    assert_eq!(m.frame::<u32>(5)[..2], [USER + 0x100, UCODE32.into()]);
}

#[test]
fn swapgs_and_the_base_registers() {
    let mut m = Machine::long();
    m.change(|s| {
        s.cr4 |= cr4::FSGSBASE;
        s.msr.kernel_gs_base = DATA;
    });
    m.write(DATA + 8, 0x99u64);
    m.code(CODE, 64, |a| {
        a.swapgs()?;
        a.mov(rax, qword_ptr(8).gs())?;
        a.rdgsbase(rbx)?;
        a.mov(rdx, 0x1234_5678u64)?;
        a.wrfsbase(rdx)?;
        a.mov(ecx, 0xc000_0100u32 as i32)?;
        a.rdmsr()?;
        a.hlt()
    });
    let s = m.run();
    assert_eq!((s.gpr[RBX], s.gpr[RAX]), (DATA, 0x1234_5678));
}

#[test]
fn privileged_instructions_fault_in_ring_3() {
    type Program = fn(&mut CodeAssembler) -> Result<(), iced_x86::IcedError>;
    let programs: &[(&str, Program)] = &[
        ("hlt", |a| a.hlt()),
        ("mov cr", |a| a.mov(rax, cr0)),
        ("mov dr", |a| a.mov(rax, dr0)),
        ("rdmsr", |a| a.rdmsr()),
        ("wrmsr", |a| a.wrmsr()),
        ("lgdt", |a| a.lgdt(tbyte_ptr(rsp))),
        ("ltr", |a| a.ltr(ax)),
        ("lldt", |a| a.lldt(ax)),
        ("clts", |a| a.clts()),
        ("wbinvd", |a| a.wbinvd()),
        ("invlpg", |a| a.invlpg(byte_ptr(rsp))),
        ("swapgs", |a| a.swapgs()),
        ("lmsw", |a| a.lmsw(ax)),
        ("sti", |a| a.sti()),
        ("rdpmc", |a| a.rdpmc()),
        ("sgdt with UMIP", |a| a.sgdt(tbyte_ptr(rsp))),
        ("sidt with UMIP", |a| a.sidt(tbyte_ptr(rsp))),
        ("sldt with UMIP", |a| a.sldt(eax)),
        ("str with UMIP", |a| a.str(eax)),
        ("smsw with UMIP", |a| a.smsw(eax)),
        ("rdtsc with TSD", |a| a.rdtsc()),
    ];
    for (name, program) in programs {
        let mut m = Machine::long();
        m.user(64);
        m.change(|s| s.cr4 |= cr4::UMIP | cr4::TSD);
        m.code(USER, 64, program);
        let (vector, _) = m.run_to_exception();
        assert_eq!(vector, 13, "{name}");
        assert_eq!(m.frame::<u64>(2), [0, USER], "{name}");
    }
}

#[test]
fn popf_in_ring_3_changes_neither_iopl_nor_if() {
    let mut m = Machine::long();
    m.user(64);
    m.code(USER, 64, |a| {
        a.push(0x7ed7)?; // all but TF
        a.popfq()?;
        a.ud2()
    });
    m.run_to_exception();
    let flags = m.frame::<u64>(3)[2];
    assert_eq!(flags & 0x7fff, 0x4cd7);
}

#[test]
fn lar_lsl_verr_verw_answer_in_zf() {
    let mut m = Machine::protected();
    m.set_descriptor(FREE1, descriptor(0, 0xf_ffff, 0xc9b));
    m.code(CODE, 32, |a| {
        a.mov(eax, i32::from(FREE1))?;
        a.lar(ebx, eax)?;
        a.setz(cl)?;
        a.lsl(edx, eax)?;
        a.verw(ax)?;
        a.setz(ch)?;
        a.mov(esi, 0xff8)?;
        a.lar(edi, esi)?;
        a.setz(al)?;
        a.hlt()
    });
    let s = m.run();
    assert_eq!(s.gpr[RBX], 0x00c0_9b00);
    assert_eq!(s.gpr[RDX], 0xffff_ffff);
    assert_eq!(s.gpr[RCX] & 0xffff, 1, "present, not writable");
    assert_eq!((s.gpr[RAX] & 0xff, s.gpr[RDI]), (0, 0));
}

#[test]
fn ltr_marks_the_descriptor_busy_and_refuses_a_busy_one() {
    let mut m = Machine::long();
    m.set_descriptor(FREE1, descriptor(TSS, 0x67, 0x89));
    m.write(GDT + u64::from(FREE1) + 8, 0u64);
    m.code(CODE, 64, |a| {
        a.mov(eax, i32::from(FREE1))?;
        a.ltr(ax)?;
        a.str(ebx)?;
        a.ltr(ax)?;
        a.hlt()
    });
    let (vector, s) = m.run_to_exception();
    assert_eq!((vector, s.gpr[RBX]), (13, FREE1.into()));
    assert_eq!(m.frame::<u64>(1), [FREE1.into()]);
    assert_eq!(s.tr.base, TSS);
}

#[test]
fn msrs_are_checked_and_unknown_ones_ask_the_machine() {
    for (index, value, ok) in [
        (0xc000_0080u32, 0xd01u64, true),
        (0xc000_0080, 0xd03, false),            // reserved
        (0xc000_0080, 0xc01, false),            // LME while paging
        (0xc000_0082, 0x8000_0000_0000, false), // LSTAR not canonical
        (0xc000_0100, 0x8000_0000_0000, false), // FS base
        (0x277, 0x0007_0406_0007_0406, true),
        (0x277, 0x0007_0406_0007_0402, false),
        (0x2ff, 0xc06, true),
        (0x2ff, 0x1000, false),
        (0x200, 6, true),
        (0x201, 0xff_0000_0800, true),
        (0x201, 0x100_0000_0800, false),
        (0x3a, 5, false),
        (0x1a0, 1, true),
        (0x8b, 0, true),
        (0x1b, 0xfee0_0900, true), // the machine's
        (0x1234, 0, false),
    ] {
        let mut m = Machine::long();
        m.bus.msrs.insert(0x1b, 0xfee0_0800);
        m.code(CODE, 64, |a| {
            a.mov(ecx, index as i32)?;
            a.mov(eax, value as u32 as i32)?;
            a.mov(edx, (value >> 32) as u32 as i32)?;
            a.wrmsr()?;
            a.rdmsr()?;
            a.int3()
        });
        let (vector, s) = m.run_to_exception();
        assert_eq!(
            vector,
            if ok { 3 } else { 13 },
            "MSR {index:#x} = {value:#x}"
        );
        if ok && index != 0x8b && index != 0x1a0 {
            assert_eq!(s.gpr[RDX] << 32 | s.gpr[RAX], value, "MSR {index:#x}");
        }
    }
}

/// RDMSR of `index` after WRMSR of `value`, if there is one; `None` is #GP.
fn msr(model: &CpuModel, index: u32, value: Option<u64>) -> Option<u64> {
    let mut m = Machine::long_of(model.clone());
    m.code(CODE, 64, |a| {
        a.mov(ecx, index as i32)?;
        if let Some(value) = value {
            a.mov(eax, value as u32 as i32)?;
            a.mov(edx, (value >> 32) as u32 as i32)?;
            a.wrmsr()?;
        }
        a.rdmsr()?;
        a.int3()
    });
    let (vector, s) = m.run_to_exception();
    (vector == 3).then(|| s.gpr[RDX] << 32 | s.gpr[RAX])
}

#[test]
fn the_registers_of_speculation_are_what_the_model_says() {
    let v1 = CpuModel::by_name("x86-64-v1").unwrap();
    let capabilities = msr(&v1, 0x10a, None).unwrap();
    assert_eq!(capabilities, v1.arch_capabilities);
    assert_eq!(capabilities >> 62 & 1, 1, "ITS_NO");
    for value in [0x400, 0x407] {
        assert_eq!(msr(&v1, 0x48, Some(value)), Some(value));
    }
    let lacks = |leaf, subleaf, bits: u32| {
        let host = move |l, s| [if (l, s) == (leaf, subleaf) { !bits } else { !0 }; 4];
        v1.within(host, &[]).0.with_host_capabilities(1)
    };
    let no_bhi_ctrl = lacks(7, 2, 1 << 4);
    assert_eq!(msr(&no_bhi_ctrl, 0x10a, None), Some(1));
    assert_eq!(msr(&no_bhi_ctrl, 0x48, Some(0x407)), None);
    assert_eq!(msr(&no_bhi_ctrl, 0x48, Some(7)), Some(7));
    let no_ssbd = lacks(7, 0, 1 << 31);
    assert_eq!(msr(&no_ssbd, 0x48, Some(7)), None);
    assert_eq!(msr(&no_ssbd, 0x48, Some(3)), Some(3));
    let none = lacks(7, 0, 1 << 26);
    assert_eq!(msr(&none, 0x48, None), None);
}

#[test]
fn writing_the_tsc_moves_tsc_adjust() {
    let mut m = Machine::long();
    m.code(CODE, 64, |a| {
        a.mov(ecx, 0x10)?;
        a.xor(edx, edx)?;
        a.mov(eax, 1000)?;
        a.wrmsr()?;
        a.rdtsc()?;
        a.mov(ebx, eax)?;
        a.mov(ecx, 0x3b)?;
        a.rdmsr()?;
        a.hlt()
    });
    let s = m.run();
    assert_eq!(s.gpr[RBX], 1001);
    assert_eq!(s.gpr[RAX], 999);
}

#[test]
fn cpuid_follows_osxsave() {
    let mut m = Machine::long();
    m.code(CODE, 64, |a| {
        a.mov(eax, 1)?;
        a.cpuid()?;
        a.mov(esi, ecx)?;
        a.mov(rax, cr4)?;
        a.or(eax, cr4::OSXSAVE as i32)?;
        a.mov(cr4, rax)?;
        a.mov(eax, 1)?;
        a.cpuid()?;
        a.hlt()
    });
    let s = m.run();
    assert_eq!((s.gpr[RSI] >> 27 & 1, s.gpr[RCX] >> 27 & 1), (0, 1));
}

#[test]
fn instructions_outside_the_model_do_not_exist_and_lzcnt_is_bsr() {
    let program = |a: &mut CodeAssembler| {
        a.mov(eax, 0x100)?;
        a.lzcnt(ebx, eax)?;
        a.rdrand(ecx)?;
        a.hlt()
    };
    let mut m = Machine::long_model("x86-64-v2");
    m.code(CODE, 64, program);
    let (vector, s) = m.run_to_exception();
    assert_eq!((vector, s.gpr[RBX]), (6, 8));
    let mut m = Machine::long();
    m.code(CODE, 64, program);
    let s = m.run();
    assert_eq!(s.gpr[RBX], 23);
    assert_ne!(s.gpr[RCX], 0);
}

#[test]
fn xsave_and_xrstor_round_trip_each_component() {
    let mut m = Machine::long();
    m.change(|s| {
        s.cr4 |= cr4::OSXSAVE;
        s.xcr0 = xcr0::X87 | xcr0::SSE | xcr0::AVX;
        for (n, v) in s.vector.iter_mut().enumerate() {
            *v = [n as u64 + 1, 2, 3, n as u64 + 4];
        }
        s.x87.control = 0x27f;
        s.x87.status = 5 << 11;
        s.x87.valid = 0x20;
        s.x87.regs[5].significand = 1 << 63;
        s.x87.regs[5].sign_exponent = 0x3fff;
        s.mxcsr = 0x1fa0;
    });
    let before = m.state();
    m.code(CODE, 64, |a| {
        a.mov(rbx, DATA)?;
        a.mov(eax, 7)?;
        a.xor(edx, edx)?;
        a.xsave(ptr(rbx))?;
        a.xsavec(ptr(rbx + 0x800))?;
        // Everything to its initial state.
        a.mov(rcx, DATA + 0x400)?;
        a.xrstor(ptr(rcx))?;
        a.hlt()?;
        a.xrstor(ptr(rbx))?;
        a.hlt()?;
        a.xrstor(ptr(rcx))?;
        a.xrstor(ptr(rbx + 0x800))?;
        a.hlt()
    });
    m.write(DATA + 0x400 + 24, 0x1f80u32);
    let s = m.run();
    assert_eq!(s.vector, [[0; 4]; 16]);
    assert_eq!(s.x87, x86::state::X87::default());
    assert_eq!(m.read::<u64>(DATA + 512), 7);
    assert_eq!(m.read::<u64>(DATA + 0x800 + 520), 7 | 1 << 63);
    assert_eq!(m.read::<u64>(DATA + 32), 1 << 63, "ST(0) comes first");
    for _ in 0..2 {
        let s = m.state();
        m.resume_at(s.rip);
        let s = m.run();
        assert_eq!(s.vector, before.vector);
        assert_eq!(s.x87.regs, before.x87.regs);
        assert_eq!((s.x87.control, s.x87.valid, s.mxcsr), (0x27f, 0x20, 0x1fa0));
    }
}

#[test]
fn xsavec_keeps_mxcsr_where_all_xmm_registers_are_zero() {
    let mut m = Machine::long();
    m.change(|s| {
        s.cr4 |= cr4::OSXSAVE;
        s.xcr0 = 7;
        s.mxcsr = 0x1fa0;
    });
    m.code(CODE, 64, |a| {
        a.mov(rbx, DATA)?;
        a.mov(eax, 6)?;
        a.xor(edx, edx)?;
        a.xsavec(ptr(rbx))?;
        a.mov(dword_ptr(rbx + 0x800), 0x1f80)?;
        a.ldmxcsr(ptr(rbx + 0x800))?;
        a.xrstor(ptr(rbx))?;
        a.hlt()
    });
    let s = m.run();
    assert_eq!((m.read::<u64>(DATA + 512), s.mxcsr), (2, 0x1fa0));
}

#[test]
fn fxsave_and_fxrstor_round_trip_and_check() {
    let mut m = Machine::long();
    m.change(|s| {
        s.vector[15] = [1, 2, 3, 4];
        s.mxcsr = 0x1f81;
    });
    m.code(CODE, 64, |a| {
        a.mov(rbx, DATA)?;
        a.fxsave64(ptr(rbx))?;
        a.mov(dword_ptr(rbx + 24), 0x1f80)?;
        a.fxrstor64(ptr(rbx))?;
        a.mov(dword_ptr(rbx + 24), -1)?;
        a.fxrstor64(ptr(rbx))?;
        a.hlt()
    });
    let (vector, s) = m.run_to_exception();
    assert_eq!((vector, s.mxcsr), (13, 0x1f80), "reserved MXCSR bits");
    assert_eq!(s.vector[15], [1, 2, 3, 4], "the upper half is not touched");
    assert_eq!(m.read::<u64>(DATA + 400), 1);
    assert_eq!(m.read::<u32>(DATA + 28), 0xffff);
}

#[test]
fn xsetbv_checks_its_value() {
    for (value, ok) in [
        (1, true),
        (3, true),
        (7, true),
        (2, false),
        (5, false),
        (0xf, false),
    ] {
        let mut m = Machine::long();
        m.change(|s| s.cr4 |= cr4::OSXSAVE);
        m.code(CODE, 64, |a| {
            a.xor(ecx, ecx)?;
            a.xor(edx, edx)?;
            a.mov(eax, value)?;
            a.xsetbv()?;
            a.xgetbv()?;
            a.int3()
        });
        let (vector, s) = m.run_to_exception();
        assert_eq!(vector, if ok { 3 } else { 13 }, "XCR0 = {value}");
        if ok {
            assert_eq!(s.xcr0, value as u64);
        }
    }
}

#[test]
fn ts_makes_the_units_unavailable_until_clts() {
    let mut m = Machine::long();
    m.change(|s| s.cr0 |= cr0::TS);
    m.code(STUBS + 0x70, 64, |a| {
        a.inc(ebp)?;
        a.clts()?;
        a.iretq()
    });
    m.code(CODE, 64, |a| {
        a.mov(rbx, DATA)?;
        a.stmxcsr(dword_ptr(rbx))?;
        a.hlt()
    });
    let s = m.run();
    assert_eq!((s.gpr[RBP], m.read::<u32>(DATA)), (1, 0x1f80));
}

#[test]
fn far_pointers_load_both_parts() {
    let mut m = Machine::protected();
    m.set_descriptor(FREE1, descriptor(0x1000, 0xffff, 0x92));
    m.write(DATA, 0x1234_5678u32);
    m.write(DATA + 4, FREE1);
    m.code(CODE, 32, |a| {
        a.lfs(ebx, fword_ptr(DATA as u32))?;
        a.push(fs)?;
        a.pop(gs)?;
        a.hlt()
    });
    let s = m.run();
    assert_eq!(s.gpr[RBX], 0x1234_5678);
    assert_eq!(s.seg[seg::FS as usize].base, 0x1000);
    assert_eq!(s.seg[seg::GS as usize], s.seg[seg::FS as usize]);
}
