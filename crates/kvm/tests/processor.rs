//! A processor under KVM, on whatever `/dev/kvm` there is: its state goes in and comes out field by
//! field, and the loop answers the guest, the pins and the kick. Skipped, with a line that says
//! why, where KVM cannot be opened; `MOINHO_KVM=required` makes that a failure.

use kvm::KvmEngine;
use kvm_bindings::{Msrs, kvm_msr_entry};
use kvm_ioctls::Kvm;
use mem::{Gpa, GuestMemory};
use std::sync::Arc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};
use x86::cpuid::{CpuModel, Feature};
use x86::state::{
    Activity, Attributes, Segment, Shadow, TableRegister, cr0, cr4, efer, rflags, seg, xcr0,
};
use x86::{Bus, CpuState, Engine, Signals, Stop, Vcpu};

/// A processor with 64 KiB of RAM, or why there is none.
struct Rig {
    vcpu: Box<dyn Vcpu>,
    memory: Arc<GuestMemory>,
    signals: Arc<Signals>,
    model: CpuModel,
    // The processor's memory slots are its machine's.
    _engine: KvmEngine,
}

fn rig() -> Option<Rig> {
    let engine = match KvmEngine::open() {
        Ok(engine) => engine,
        Err(why) => {
            let required = std::env::var("MOINHO_KVM").is_ok_and(|v| v == "required");
            assert!(!required, "{why}");
            eprintln!("skipped: {why}");
            return None;
        }
    };
    let wanted = CpuModel::by_name("x86-64-v3").unwrap();
    let (model, _) = engine.model(&wanted);
    let memory = Arc::new(GuestMemory::flat(0x1_0000).unwrap());
    let signals = Arc::new(Signals::default());
    let vcpu = engine
        .vcpu(0, &model, memory.clone(), signals.clone())
        .unwrap();
    Some(Rig {
        vcpu,
        memory,
        signals,
        model,
        _engine: engine,
    })
}

/// What the guest did, and a return after a write to port 0x10.
#[derive(Default)]
struct Log {
    signals: Arc<Signals>,
    said: Vec<String>,
    priority: u8,
    vector: Option<u8>,
    tsc: u64,
}

impl Bus for Log {
    fn mmio_read(&mut self, at: Gpa, size: u8) -> u64 {
        self.said.push(format!("mmio_read{size} {:#x}", at.0));
        0x1122_3344_5566_7788
    }
    fn mmio_write(&mut self, at: Gpa, size: u8, value: u64) {
        let value = value & (u64::MAX >> (64 - 8 * u32::from(size)));
        self.said
            .push(format!("mmio_write{size} {:#x} = {value:#x}", at.0));
    }
    fn port_in(&mut self, port: u16, size: u8) -> u32 {
        self.said.push(format!("in{size} {port:#x}"));
        0xa1b2_c3d4
    }
    fn port_out(&mut self, port: u16, size: u8, value: u32) {
        self.said.push(format!("out{size} {port:#x} = {value:#x}"));
        if port == 0x10 {
            self.signals.raise(Signals::RETURN);
        }
    }
    fn msr_read(&mut self, index: u32) -> Option<u64> {
        self.said.push(format!("rdmsr {index:#x}"));
        if index == 0x8ff {
            self.signals.raise(Signals::INTR);
        }
        (index == 0x802).then_some(0x55)
    }
    fn msr_write(&mut self, index: u32, value: u64) -> bool {
        self.said.push(format!("wrmsr {index:#x} = {value:#x}"));
        true
    }
    fn tsc(&mut self) -> u64 {
        self.tsc
    }
    fn task_priority(&mut self) -> u8 {
        self.priority
    }
    fn set_task_priority(&mut self, class: u8) {
        self.priority = class;
    }
    fn acknowledge(&mut self) -> Option<u8> {
        self.signals.lower(Signals::INTR);
        self.vector.take()
    }
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    fn canonical(&mut self) -> u64 {
        ((self.next() << 16) as i64 >> 16) as u64
    }
}

#[derive(Clone, Copy, Debug)]
enum Mode {
    Real,
    Protected,
    /// Protected mode under PAE paging, with the PDPTEs of `PDPTES` in memory and registers.
    Pae,
    Virtual8086,
    Long,
}

const MODES: [Mode; 5] = [
    Mode::Real,
    Mode::Protected,
    Mode::Pae,
    Mode::Virtual8086,
    Mode::Long,
];
/// The page directories of [`Mode::Pae`], present.
const PDPTES: [u64; 4] = [0x2001, 0x3001, 0x4001, 0x5001];

/// A state that a processor can be in, random in every field.
fn random_state(r: &mut Random, mode: Mode, model: &CpuModel) -> CpuState {
    let mut s = CpuState::reset(model.signature(), true);
    s.gpr = std::array::from_fn(|_| r.next());
    s.rflags = (r.next() & rflags::ALL & !(rflags::VM | rflags::TF)) | rflags::FIXED;
    s.cpl = match mode {
        Mode::Real => 0,
        Mode::Virtual8086 => 3,
        _ => [0, 3][(r.next() & 1) as usize],
    };
    let dpl = u16::from(s.cpl) << 5;
    let segment = |r: &mut Random, attributes: u16| {
        let wide = r.next() & 1 != 0;
        Segment {
            selector: r.next() as u16 & 0xfff8,
            attributes: Attributes(attributes | u16::from(wide) << 11),
            limit: if wide {
                r.next() as u32 | 0x10_0fff
            } else {
                r.next() as u32 & 0xf_ffff
            },
            base: r.next() & 0xffff_ffff,
        }
    };
    for n in 0..6u8 {
        let bits = match (mode, n) {
            (Mode::Real, seg::CS) => 0x9b,
            (Mode::Real, _) => 0x93,
            (Mode::Virtual8086, _) => 0xf3,
            (Mode::Long, seg::CS) => 0x29b | dpl,
            (_, seg::CS) => 0x49b | dpl,
            (_, _) => 0x493 | dpl,
        };
        s.seg[usize::from(n)] = segment(r, bits);
        let register = &mut s.seg[usize::from(n)];
        if let Mode::Virtual8086 = mode {
            register.limit = 0xffff;
            register.attributes = Attributes(bits);
            register.base = u64::from(register.selector) << 4;
        } else if n == seg::CS || n == seg::SS {
            register.selector |= u16::from(s.cpl);
        }
    }
    if let Mode::Protected | Mode::Pae = mode
        && r.next() & 1 != 0
    {
        // As after the load of a null selector.
        s.seg[usize::from(seg::GS)] = Segment {
            selector: (r.next() & 3) as u16,
            attributes: Attributes(0),
            limit: 0,
            base: 0,
        };
    }
    s.ldtr = segment(r, 0x82);
    s.tr = segment(r, 0x8b);
    s.gdtr = TableRegister {
        base: r.canonical(),
        limit: r.next() as u16,
    };
    s.idtr = TableRegister {
        base: r.canonical(),
        limit: r.next() as u16,
    };
    s.rip = r.next() & 0x7fff_ffff;
    s.cr0 = cr0::ET | r.next() & (cr0::MP | cr0::TS | cr0::NE | cr0::AM);
    s.cr2 = r.next();
    // PWT and PCD are kept.
    s.cr3 = 0x1000 | r.next() & 0x18;
    s.cr4 = r.next() & (cr4::DE | cr4::PSE | cr4::TSD | cr4::PGE | cr4::MCE);
    s.cr4 |= cr4::OSFXSR | cr4::OSXMMEXCPT;
    match mode {
        Mode::Real => {}
        Mode::Protected => s.cr0 |= cr0::PE,
        Mode::Pae => {
            s.cr0 |= cr0::PE | cr0::PG;
            s.cr4 |= cr4::PAE;
            s.pdpte = PDPTES;
        }
        Mode::Virtual8086 => {
            s.cr0 |= cr0::PE;
            s.rflags |= rflags::VM;
        }
        Mode::Long => {
            s.cr0 |= cr0::PE | cr0::PG | cr0::WP;
            s.cr4 |= cr4::PAE;
            s.efer = efer::LME | efer::LMA | efer::SCE | efer::NXE;
            s.seg[4].base = r.canonical();
            s.seg[5].base = r.canonical();
        }
    }
    if model.feature(Feature::Avx) {
        s.cr4 |= cr4::OSXSAVE;
        // AVX needs SSE; what XCR0 has not enabled is kept all the same.
        s.xcr0 = [
            xcr0::X87,
            xcr0::X87 | xcr0::SSE,
            xcr0::X87 | xcr0::SSE | xcr0::AVX,
        ][(r.next() % 3) as usize];
        s.vector = std::array::from_fn(|_| std::array::from_fn(|_| r.next()));
    } else {
        s.vector = std::array::from_fn(|_| [r.next(), r.next(), 0, 0]);
    }
    s.mxcsr = 0x1f80 | r.next() as u32 & 0x603f;
    s.dr = std::array::from_fn(|_| r.canonical());
    s.dr6 = 0xffff_0ff0 | r.next() & 0xf;
    s.dr7 = 0x400 | r.next() & 0xff;
    s.x87.control = 0x340 | r.next() as u16 & 0xc3f;
    s.x87.status = r.next() as u16 & 0x7f00;
    s.x87.valid = r.next() as u8;
    s.x87.opcode = r.next() as u16 & 0x7ff;
    s.x87.ip = r.next() & 0xffff_ffff;
    s.x87.dp = r.next() & 0xffff_ffff;
    for register in &mut s.x87.regs {
        register.significand = r.next() | 1 << 63;
        register.sign_exponent = r.next() as u16;
    }
    let m = &mut s.msr;
    m.star = r.next();
    m.lstar = r.canonical();
    m.cstar = r.canonical();
    m.sfmask = r.next() & 0xffff_ffff;
    m.kernel_gs_base = r.canonical();
    m.sysenter_cs = r.next() & 0xffff;
    m.sysenter_esp = r.next() & 0xffff_ffff;
    m.sysenter_eip = r.next() & 0xffff_ffff;
    m.tsc_adjust = r.next();
    m.tsc_aux = r.next() & 0xffff_ffff;
    let types: [u8; 8] = std::array::from_fn(|_| [0, 1, 4, 5, 6, 7][(r.next() % 6) as usize]);
    m.pat = u64::from_le_bytes(types);
    m.misc_enable = r.next() & 0x40_0001;
    m.mtrr_def_type = 0xc00 | r.next() & 6;
    m.mtrr_fixed = std::array::from_fn(|_| r.next() & 0x0404_0404_0404_0404);
    m.mtrr_variable = std::array::from_fn(|_| [r.next() << 12 & 0xff_ffff_f000, r.next() & 0x800]);
    m.spec_ctrl = r.next() & 1;
    m.mcg_status = r.next() & 7;
    s.activity = [
        Activity::Running,
        Activity::Halted,
        Activity::WaitForSipi,
        Activity::Shutdown,
    ][(r.next() & 3) as usize];
    s.nmi_blocked = r.next() & 1 != 0;
    s
}

/// Every field by name, in a line each.
fn fields(s: &CpuState) -> Vec<String> {
    format!("{s:#x?}").lines().map(str::to_string).collect()
}

#[test]
fn every_field_of_a_random_state_comes_out_as_it_went_in() {
    let Some(mut rig) = rig() else { return };
    let real = is_real(&mut rig);
    let mut r = Random(0x9e37_79b9_7f4a_7c15);
    for (n, pdpte) in PDPTES.iter().enumerate() {
        let at = Gpa(0x1000 + 8 * n as u64);
        rig.memory.write(at, &pdpte.to_le_bytes()).unwrap();
    }
    for round in 0..100 {
        let mode = MODES[round % MODES.len()];
        if let Mode::Pae | Mode::Virtual8086 = mode
            && !real
        {
            continue;
        }
        let state = random_state(&mut r, mode, &rig.model);
        if let Err(e) = rig.vcpu.set_state(&state) {
            panic!("round {round}, {mode:?}: {e}\n{state:#x?}");
        }
        let (want, have) = (fields(&state), fields(&rig.vcpu.state()));
        let differ: Vec<_> = want.iter().zip(&have).filter(|(a, b)| a != b).collect();
        assert!(differ.is_empty(), "round {round}, {mode:?}: {differ:#?}");
    }
}

#[test]
fn an_interrupt_shadow_goes_in_and_comes_out() {
    let Some(mut rig) = rig() else { return };
    let mut r = Random(7);
    for shadow in [Shadow::None, Shadow::Sti, Shadow::MovSs] {
        let mut state = random_state(&mut r, Mode::Long, &rig.model);
        state.shadow = shadow;
        rig.vcpu.set_state(&state).unwrap();
        let seen = rig.vcpu.state().shadow;
        // AMD has one shadow: it reads as the stronger.
        let amd = shadow == Shadow::Sti && seen == Shadow::MovSs;
        assert!(seen == shadow || amd, "{shadow:?} became {seen:?}");
    }
}

#[test]
fn a_refused_state_leaves_the_old_one() {
    let Some(mut rig) = rig() else { return };
    let old = random_state(&mut Random(3), Mode::Long, &rig.model);
    rig.vcpu.set_state(&old).unwrap();
    let mut bad = old.clone();
    bad.cr4 |= 1 << 31;
    assert!(rig.vcpu.set_state(&bad).is_err());
    assert_eq!(rig.vcpu.state(), old);
}

/// Runs `code` at 0x8000 in 64-bit mode until it writes to port 0x10.
fn run(rig: &mut Rig, code: &[u8], log: &mut Log) -> CpuState {
    run_with(rig, code, log, |_| {})
}

/// The same, from a state that `change` has changed.
fn run_with(
    rig: &mut Rig,
    code: &[u8],
    log: &mut Log,
    change: impl FnOnce(&mut CpuState),
) -> CpuState {
    for (at, entry) in [(0x1000, 0x2007u64), (0x2000, 0x3007), (0x3000, 0x87)] {
        rig.memory.write(Gpa(at), &entry.to_le_bytes()).unwrap();
    }
    // And one more 2 MB that is no RAM.
    rig.memory
        .write(Gpa(0x3008), &0x20_0087u64.to_le_bytes())
        .unwrap();
    rig.memory.write(Gpa(0x8000), code).unwrap();
    // A gate for #DB: to 0x9800, which ends the run with DR6 in RBX.
    let gate = 0x0000_8e00_0008_9800u64;
    rig.memory
        .write(Gpa(0x4000 + 0x10), &gate.to_le_bytes())
        .unwrap();
    rig.memory
        .write(Gpa(0x9800), &[0x0f, 0x21, 0xf3, 0xe6, 0x10])
        .unwrap();
    // A gate for #GP: to 0x9a00, which says so and goes on two bytes further.
    let gate = 0x0000_8e00_0008_9a00u64;
    rig.memory
        .write(Gpa(0x4000 + 0xd0), &gate.to_le_bytes())
        .unwrap();
    #[rustfmt::skip]
    let skips = [
        0xe6, 0x0d,                                     // out 0x0d, al
        0x48, 0x83, 0xc4, 0x08,                         // add rsp, 8
        0x48, 0x83, 0x04, 0x24, 0x02,                   // add qword [rsp], 2
        0x48, 0xcf,                                     // iretq
    ];
    rig.memory.write(Gpa(0x9a00), &skips).unwrap();
    // A gate for vector 0x30: to 0x9000, which says so and goes back.
    let gate = 0x0000_8e00_0008_9000u64;
    rig.memory
        .write(Gpa(0x4000 + 0x300), &gate.to_le_bytes())
        .unwrap();
    rig.memory
        .write(Gpa(0x9000), &[0xe6, 0x30, 0x48, 0xcf])
        .unwrap();
    rig.memory
        .write(Gpa(0x5008), &0x00af_9b00_0000_ffffu64.to_le_bytes())
        .unwrap();
    rig.memory
        .write(Gpa(0x5010), &0x00cf_9300_0000_ffffu64.to_le_bytes())
        .unwrap();
    let mut s = CpuState::reset(rig.model.signature(), true);
    let flat = |selector, attributes| Segment {
        selector,
        attributes: Attributes(attributes),
        limit: !0,
        base: 0,
    };
    s.seg = [flat(0x10, 0xc93); 6];
    s.seg[1] = flat(8, 0xa9b);
    s.cr0 = cr0::PE | cr0::PG | cr0::ET | cr0::NE;
    s.cr3 = 0x1000;
    s.cr4 = cr4::PAE;
    s.efer = efer::LME | efer::LMA;
    s.gdtr = TableRegister {
        base: 0x5000,
        limit: 0x17,
    };
    s.idtr = TableRegister {
        base: 0x4000,
        limit: 0xfff,
    };
    s.rip = 0x8000;
    s.gpr[4] = 0xf000;
    change(&mut s);
    rig.vcpu.set_state(&s).unwrap();
    log.signals = rig.signals.clone();
    loop {
        match rig.vcpu.run(log, u64::MAX) {
            Stop::Requested => return rig.vcpu.state(),
            Stop::Halted => log.said.push("halted".into()),
            other => panic!("{other:?}; {:?}; {:#x?}", log.said, rig.vcpu.state()),
        }
    }
}

/// True where ring 0 runs on the processor. A KVM that emulates it (the rule of `vmm::engines`)
/// knows no PAE, no virtual-8086 mode, no TSC offset and no debug register, and is not held to
/// them.
fn is_real(rig: &mut Rig) -> bool {
    // mov ecx, 200000; dec ecx; jnz -4; out 0x10, al
    let code = [0xb9, 0x40, 0x0d, 3, 0, 0xff, 0xc9, 0x75, 0xfc, 0xe6, 0x10];
    let best = (0..3).map(|_| {
        let start = Instant::now();
        run(rig, &code, &mut Log::default());
        start.elapsed()
    });
    let real = best.min().unwrap() < Duration::from_millis(16);
    if !real {
        eprintln!("skipped in part: this /dev/kvm emulates ring 0");
    }
    real
}

#[test]
fn ports_and_device_memory_reach_the_bus_and_the_access_is_complete_at_the_return() {
    let Some(mut rig) = rig() else { return };
    let mut log = Log::default();
    #[rustfmt::skip]
    let code = [
        0xe5, 0x22,                                     // in eax, 0x22
        0xb9, 0x00, 0x00, 0x20, 0x00,                   // mov ecx, 0x200000
        0x89, 0x01,                                     // mov [rcx], eax
        0x48, 0x8b, 0x59, 0x08,                         // mov rbx, [rcx + 8]
        0xe6, 0x10,                                     // out 0x10, al
    ];
    let state = run(&mut rig, &code, &mut log);
    assert_eq!(
        log.said,
        [
            "in4 0x22",
            "mmio_write4 0x200000 = 0xa1b2c3d4",
            "mmio_read8 0x200008",
            "out1 0x10 = 0xd4"
        ]
    );
    assert_eq!(state.gpr[3], 0x1122_3344_5566_7788);
    assert_eq!(state.rip, 0x8000 + code.len() as u64);
}

#[test]
fn the_registers_of_the_apic_come_out_and_those_of_the_processor_are_its_own() {
    let Some(mut rig) = rig() else { return };
    let mut log = Log::default();
    #[rustfmt::skip]
    let code = [
        0xb9, 0x02, 0x08, 0x00, 0x00,                   // mov ecx, 0x802
        0x0f, 0x32,                                     // rdmsr
        0x89, 0xc3,                                     // mov ebx, eax
        0xb9, 0xe0, 0x06, 0x00, 0x00,                   // mov ecx, 0x6e0
        0x0f, 0x30,                                     // wrmsr
        0xb9, 0x82, 0x00, 0x00, 0xc0,                   // mov ecx, 0xc0000082
        0x0f, 0x30,                                     // wrmsr
        0xb9, 0xfe, 0x00, 0x00, 0x00,                   // mov ecx, 0xfe
        0x0f, 0x32,                                     // rdmsr
        0xe6, 0x10,                                     // out 0x10, al
    ];
    let state = run(&mut rig, &code, &mut log);
    assert_eq!(state.gpr[3], 0x55);
    assert_eq!(state.msr.lstar, 0x55);
    assert_eq!(state.gpr[0], 0x508, "IA32_MTRRCAP of our table");
    assert_eq!(log.said[0], "rdmsr 0x802");
    assert!(log.said[1].starts_with("wrmsr 0x6e0 = "), "{:?}", log.said);
}

#[test]
fn the_guest_is_promised_only_what_the_host_keeps_of_speculation() {
    let Some(mut rig) = rig() else { return };
    #[rustfmt::skip]
    let code = [
        0xb9, 0x0a, 0x01, 0x00, 0x00,                   // mov ecx, 0x10a
        0x0f, 0x32,                                     // rdmsr
        0x89, 0xc3,                                     // mov ebx, eax
        0x89, 0xd6,                                     // mov esi, edx
        0xb9, 0x48, 0x00, 0x00, 0x00,                   // mov ecx, 0x48
        0x0f, 0x32,                                     // rdmsr
        0xe6, 0x10,                                     // out 0x10, al
    ];
    let mut log = Log::default();
    let state = run(&mut rig, &code, &mut log);
    let told = state.gpr[6] << 32 | state.gpr[3];
    assert_eq!(told, rig.model.arch_capabilities);
    let mut list = Msrs::from_entries(&[kvm_msr_entry {
        index: 0x10a,
        ..Default::default()
    }])
    .unwrap();
    let known = Kvm::new().unwrap().get_msrs(&mut list) == Ok(1);
    let host = if known { list.as_slice()[0].data } else { 0 };
    eprintln!("the host's IA32_ARCH_CAPABILITIES: {host:#x}, the guest's: {told:#x}");
    assert_eq!(told & !host, 0);
    // #GP without the feature.
    let refused = log.said.iter().any(|said| said.starts_with("out1 0xd "));
    let given = rig.model.feature(Feature::SpecCtrl);
    assert_eq!(refused, !given, "{:?}", log.said);
}

#[test]
fn an_interrupt_waits_for_sti_and_ends_a_halt() {
    let Some(mut rig) = rig() else { return };
    let mut log = Log {
        vector: Some(0x30),
        ..Log::default()
    };
    rig.signals.raise(Signals::INTR);
    #[rustfmt::skip]
    let code = [
        0xe6, 0x11,                                     // out 0x11, al
        0xfb,                                           // sti
        0xf4,                                           // hlt
        0xe6, 0x10,                                     // out 0x10, al
    ];
    let state = run(&mut rig, &code, &mut log);
    log.said.retain(|s| s != "halted");
    let ports: Vec<&str> = log.said.iter().map(|s| &s[..9]).collect();
    assert_eq!(ports, ["out1 0x11", "out1 0x30", "out1 0x10"]);
    assert_eq!(state.activity, Activity::Running);
}

#[test]
fn an_interrupt_that_comes_with_an_instruction_that_faults_is_not_lost() {
    let Some(mut rig) = rig() else { return };
    let mut log = Log {
        vector: Some(0x30),
        signals: rig.signals.clone(),
        ..Log::default()
    };
    #[rustfmt::skip]
    let code = [
        0xfb,                                           // sti
        0xb9, 0xff, 0x08, 0x00, 0x00,                   // mov ecx, 0x8ff
        0x0f, 0x32,                                     // rdmsr
        0x90,                                           // nop
        0xe6, 0x11,                                     // out 0x11, al
        0xe6, 0x10,                                     // out 0x10, al
    ];
    run(&mut rig, &code, &mut log);
    // When it comes behind the exception is KVM's to say: some look at every exit only.
    log.said.retain(|s| !s.starts_with("out1 0x11"));
    let said: Vec<&str> = log
        .said
        .iter()
        .map(|s| s.split(" = ").next().unwrap())
        .collect();
    assert_eq!(said, ["rdmsr 0x8ff", "out1 0xd", "out1 0x30", "out1 0x10"]);
}

#[test]
fn cr8_is_the_machines() {
    let Some(mut rig) = rig() else { return };
    let mut log = Log {
        priority: 3,
        ..Log::default()
    };
    #[rustfmt::skip]
    let code = [
        0x44, 0x0f, 0x20, 0xc3,                         // mov rbx, cr8
        0xb9, 0x09, 0x00, 0x00, 0x00,                   // mov ecx, 9
        0x44, 0x0f, 0x22, 0xc1,                         // mov cr8, rcx
        0xe6, 0x10,                                     // out 0x10, al
    ];
    let state = run(&mut rig, &code, &mut log);
    assert_eq!((state.gpr[3], log.priority), (3, 9));
}

#[test]
fn xsetbv_takes_effect_and_is_in_the_state() {
    let Some(mut rig) = rig() else { return };
    if !rig.model.feature(Feature::Xsave) {
        eprintln!("skipped: no XSAVE");
        return;
    }
    #[rustfmt::skip]
    let code = [
        0x0f, 0x20, 0xe0,                               // mov rax, cr4
        0x0d, 0x00, 0x06, 0x04, 0x00,                   // or eax, OSFXSR | OSXMMEXCPT | OSXSAVE
        0x0f, 0x22, 0xe0,                               // mov cr4, rax
        0x31, 0xc9, 0x31, 0xd2,                         // xor ecx, ecx; xor edx, edx
        0xb8, 0x03, 0x00, 0x00, 0x00,                   // mov eax, 3
        0x0f, 0x01, 0xd1,                               // xsetbv
        0x0f, 0x01, 0xd0,                               // xgetbv
        0xe6, 0x10,                                     // out 0x10, al
    ];
    let state = run(&mut rig, &code, &mut Log::default());
    assert_eq!((state.xcr0, state.gpr[0]), (3, 3));
}

/// `nop; nop; mov [0x7000], al; nop; jmp` to itself.
const DEBUGGED: [u8; 12] = [0x90, 0x90, 0x88, 4, 0x25, 0, 0x70, 0, 0, 0x90, 0xeb, 0xfe];

/// Runs [`DEBUGGED`] from a state that `change` has changed: where #DB was taken, and DR6 without
/// its reserved bits. A guest that takes none is brought out after some seconds.
fn taken(rig: &mut Rig, change: impl FnOnce(&mut CpuState)) -> (u64, u64) {
    let kick = rig.vcpu.kicker().unwrap();
    let signals = rig.signals.clone();
    let (ended, end) = std::sync::mpsc::channel::<()>();
    let watch = std::thread::spawn(move || {
        if end.recv_timeout(Duration::from_secs(5)) == Err(RecvTimeoutError::Timeout) {
            signals.raise(Signals::RETURN);
            kick();
        }
    });
    let state = run_with(rig, &DEBUGGED, &mut Log::default(), change);
    drop(ended);
    watch.join().unwrap();
    // What the exception has pushed last: RIP.
    let mut pushed = [0; 8];
    rig.memory.read(Gpa(state.gpr[4]), &mut pushed).unwrap();
    (u64::from_le_bytes(pushed), state.gpr[3] & 0xe00f)
}

#[test]
fn a_single_step_that_comes_with_a_state_is_taken() {
    let Some(mut rig) = rig() else { return };
    if is_real(&mut rig) {
        let stepped = taken(&mut rig, |s| s.rflags |= rflags::TF);
        assert_eq!(stepped, (0x8001, 0x4000), "behind the first instruction");
    }
}

#[test]
fn breakpoints_that_come_with_a_state_are_taken() {
    let Some(mut rig) = rig() else { return };
    if is_real(&mut rig) {
        let executed = taken(&mut rig, |s| (s.dr[1], s.dr7) = (0x8002, 0x400 | 1 << 3));
        assert_eq!(executed, (0x8002, 2), "before the third instruction");
        // One byte, written: enabled by G2, R/W2 = 1.
        let written = taken(&mut rig, |s| {
            (s.dr[2], s.dr7) = (0x7000, 0x400 | 1 << 5 | 1 << 24);
        });
        assert_eq!(written, (0x8009, 4), "behind the store");
    }
}

#[test]
fn the_time_stamp_counter_is_machine_time_after_each_change_of_state() {
    let Some(mut rig) = rig() else { return };
    if !is_real(&mut rig) {
        return;
    }
    // rdtsc; shl rdx, 32; or rax, rdx; out 0x10, al
    let code = [
        0x0f, 0x31, 0x48, 0xc1, 0xe2, 0x20, 0x48, 0x09, 0xd0, 0xe6, 0x10,
    ];
    // Forward as after a move between machines, back as after the load of a snapshot.
    for (tsc, adjust) in [
        (1_000_000, 0),
        (500_000_000_000, 0),
        (500_000_000_000, 1 << 50),
        (7, 0),
        (20_000_000, -10_000_000i64 as u64),
    ] {
        let mut log = Log {
            tsc,
            ..Log::default()
        };
        let state = run_with(&mut rig, &code, &mut log, |s| s.msr.tsc_adjust = adjust);
        let seen = state.gpr[0].wrapping_sub(adjust);
        // A second, on a host of any load; a TSC that was not set is far off.
        let slack = rig.model.tsc_hz;
        assert!((tsc..tsc + slack).contains(&seen), "{tsc}: {seen}");
        assert_eq!(state.msr.tsc_adjust, adjust);
    }
}

#[test]
fn a_kick_brings_a_spinning_guest_out() {
    let Some(mut rig) = rig() else { return };
    let kick = rig.vcpu.kicker().unwrap();
    let signals = rig.signals.clone();
    let start = Instant::now();
    let kicker = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        signals.raise(Signals::RETURN);
        kick();
    });
    let state = run(&mut rig, &[0xeb, 0xfe], &mut Log::default());
    assert_eq!(state.rip, 0x8000);
    assert!(start.elapsed() < Duration::from_secs(5));
    kicker.join().unwrap();
}

#[test]
fn a_kick_after_the_end_of_the_processor_is_harmless() {
    let Some(rig) = rig() else { return };
    let kick = rig.vcpu.kicker().unwrap();
    drop(rig);
    kick();
}

#[test]
fn init_and_a_start_up_ipi_start_the_processor_in_real_mode() {
    let Some(mut rig) = rig() else { return };
    rig.memory
        .write(Gpa(0xa000), &[0xe6, 0x22, 0xe6, 0x10, 0xf4])
        .unwrap();
    let mut log = Log::default();
    run(&mut rig, &[0xe6, 0x10], &mut log);
    let mut state = rig.vcpu.state();
    state.activity = Activity::WaitForSipi;
    rig.vcpu.set_state(&state).unwrap();
    assert_eq!(rig.vcpu.run(&mut log, u64::MAX), Stop::Halted);
    assert_eq!(
        rig.vcpu.wakes_on() & (Signals::SIPI | Signals::INTR),
        Signals::SIPI
    );
    let mut state = CpuState::reset(rig.model.signature(), false);
    state.gpr[0] = 7;
    rig.vcpu.set_state(&state).unwrap();
    rig.signals.raise_sipi(0xa);
    assert_eq!(rig.vcpu.run(&mut log, u64::MAX), Stop::Requested);
    let state = rig.vcpu.state();
    assert_eq!((state.seg[1].base, state.rip), (0xa000, 4));
    assert!(
        log.said.contains(&"out1 0x22 = 0x7".to_string()),
        "{:?}",
        log.said
    );
}
