//! One small machine that runs any bytes as code in any mode: for the seeded test beside this
//! file and for the fuzz target `fuzz/fuzz_targets/interpreter.rs`.
//!
//! Every exception has a handler (random code, too), every kind of descriptor is in the GDT, and
//! the bus answers with a sequence of its own. A run is bounded by its budget.

use mem::{Gpa, GuestMemory};
use std::sync::Arc;
use x86::cpuid::CpuModel;
use x86::interp::Interpreter;
use x86::state::{Attributes, Segment, TableRegister, cr0, cr4, efer, gpr, rflags, seg};
use x86::{Bus, Counters, CpuState, Engine, Signals, Stop, Vcpu};

/// Bytes of RAM; all of it is written anew for each run.
const RAM: usize = 128 << 10;
const IVT_TARGET: u16 = 0x1800;
const GDT: usize = 0x2000;
const IDT: usize = 0x3000;
const TSS: usize = 0x4000;
const PML4: usize = 0x6000;
const PDPT: usize = 0x7000;
const PD: usize = 0x8000;
const PT: usize = 0x9000;
/// The page directory of 32-bit paging.
const PD32: usize = 0xa000;
/// Code and data: from here on everything is random.
const CODE: usize = 0x1_0000;
/// Instructions of one run.
const BUDGET: u64 = 60;

/// The modes in which code runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Real mode.
    Real,
    /// 16-bit protected mode, CPL 0.
    Protected16,
    /// 32-bit protected mode without paging, CPL 0.
    Protected32,
    /// 32-bit protected mode with paging, CPL 3.
    Paged32User,
    /// Virtual-8086 mode, IOPL 3.
    Virtual8086,
    /// Compatibility mode, CPL 3.
    Compatibility,
    /// 64-bit mode, CPL 0.
    Long64,
    /// 64-bit mode, CPL 3.
    Long64User,
}

/// All of them.
pub const MODES: [Mode; 8] = [
    Mode::Real,
    Mode::Protected16,
    Mode::Protected32,
    Mode::Paged32User,
    Mode::Virtual8086,
    Mode::Compatibility,
    Mode::Long64,
    Mode::Long64User,
];

/// xorshift64*, seeded through SplitMix64's increment.
pub struct Random(u64);

impl Random {
    /// The sequence `seed`.
    pub fn new(seed: u64) -> Self {
        Random(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }
    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    /// A number below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        (self.bits() >> 11) % n
    }
}

/// Devices that answer with numbers of their own.
struct AnyBus(Random, Arc<Signals>);

impl Bus for AnyBus {
    fn mmio_read(&mut self, _: Gpa, _: u8) -> u64 {
        self.0.bits()
    }
    fn mmio_write(&mut self, _: Gpa, _: u8, _: u64) {}
    fn port_in(&mut self, _: u16, _: u8) -> u32 {
        self.0.bits() as u32
    }
    fn port_out(&mut self, _: u16, _: u8, _: u32) {}
    fn msr_read(&mut self, index: u32) -> Option<u64> {
        index.is_multiple_of(2).then(|| self.0.bits())
    }
    fn msr_write(&mut self, index: u32, _: u64) -> bool {
        index.is_multiple_of(2)
    }
    fn tsc(&mut self) -> u64 {
        self.0.bits()
    }
    fn task_priority(&mut self) -> u8 {
        self.0.below(16) as u8
    }
    fn set_task_priority(&mut self, _: u8) {}
    fn acknowledge(&mut self) -> Option<u8> {
        // As an interrupt controller does: the request is gone, or in service.
        self.1.lower(Signals::INTR);
        (self.0.below(4) != 0).then(|| self.0.bits() as u8)
    }
}

/// The machine, kept from run to run.
pub struct Machine {
    memory: Arc<GuestMemory>,
    signals: Arc<Signals>,
    vcpu: Box<dyn Vcpu>,
    /// The tables of protected and long mode, below [`CODE`].
    images: [Vec<u8>; 2],
}

fn put(image: &mut [u8], at: usize, bytes: &[u8]) {
    image[at..at + bytes.len()].copy_from_slice(bytes);
}

/// A descriptor: access byte and flags as in [`Attributes`].
fn descriptor(base: u32, limit: u32, attributes: u16) -> u64 {
    let (base, limit, a) = (u64::from(base), u64::from(limit), u64::from(attributes));
    limit & 0xffff
        | (base & 0xff_ffff) << 16
        | (a & 0xff) << 40
        | (limit >> 16 & 0xf) << 48
        | (a >> 8 & 0xf) << 52
        | (base >> 24) << 56
}

const USER: u16 = 3;

fn tables(long: bool) -> Vec<u8> {
    let mut image = vec![0u8; CODE];
    for vector in 0..256 {
        // The IVT: handlers in the random part, at a place for each vector.
        let offset = (vector as u16).wrapping_mul(0x25);
        put(&mut image, vector * 4, &offset.to_le_bytes());
        put(&mut image, vector * 4 + 2, &IVT_TARGET.to_le_bytes());
    }
    let flat = 0xf_ffff;
    let entries = [
        0,
        descriptor(0, flat, 0xc9b),                  // 08: code 32
        descriptor(0, flat, 0xc93),                  // 10: data
        descriptor(0, flat, 0xa9b),                  // 18: code 64
        descriptor(0, 0xffff, 0x9b),                 // 20: code 16
        descriptor(0, 0xffff, 0x93),                 // 28: data 16
        descriptor(0, flat, 0xcfb),                  // 30: user code 32
        descriptor(0, flat, 0xcf3),                  // 38: user data
        descriptor(0, flat, 0xafb),                  // 40: user code 64
        descriptor(TSS as u32, 0x20ff, 0x08b),       // 48: TSS, busy
        0,                                           // 50: its upper half
        descriptor(TSS as u32 + 0x200, 0x67, 0x089), // 58: another TSS
        0,
        descriptor(CODE as u32, 0xfff, 0x4f7), // 68: user data, expand-down
        descriptor(GDT as u32, 0xff, 0x082),   // 70: LDT: the same table
        0,
    ];
    for (n, entry) in entries.iter().enumerate() {
        put(&mut image, GDT + 8 * n, &entry.to_le_bytes());
    }
    for vector in 0..256usize {
        let target = (CODE + 0x8000 + vector * 0x25) as u64;
        let dpl = if vector % 3 == 0 { 3 } else { 0 };
        let kind = if vector % 5 == 0 { 0xf } else { 0xe };
        let code = if long { 0x18 } else { 0x08 };
        let ist = if long && vector == 8 { 1 } else { 0 };
        let low = target & 0xffff
            | code << 16
            | ist << 32
            | (0x80 | dpl << 5 | kind) << 40
            | (target >> 16 & 0xffff) << 48;
        // Some vectors have a task gate, some nothing.
        let low = match vector {
            20 if !long => 0x0000_8500_0058_0000,
            21 => 0,
            _ => low,
        };
        let size = if long { 16 } else { 8 };
        put(&mut image, IDT + size * vector, &low.to_le_bytes());
    }
    // Both forms of TSS lie over each other where they can: ESP0 and SS0 at 4, or RSP0 at 4.
    put(&mut image, TSS + 4, &0x1_f000u64.to_le_bytes());
    if long {
        put(&mut image, TSS + 0x24, &0x1_e000u64.to_le_bytes());
    } else {
        put(&mut image, TSS + 8, &0x10u16.to_le_bytes());
        let other = TSS + 0x200;
        put(&mut image, other + 0x20, &(CODE as u32).to_le_bytes());
        put(&mut image, other + 0x38, &0x1_d000u32.to_le_bytes());
        for (n, selector) in [0x10u16, 0x08, 0x10, 0x10, 0x10, 0x10].iter().enumerate() {
            put(&mut image, other + 0x48 + 4 * n, &selector.to_le_bytes());
        }
    }
    put(&mut image, TSS + 0x66, &0x68u16.to_le_bytes());
    // Paging: 2 MiB, in small pages in long mode. Two pages are missing, one is read-only, one
    // the supervisor's, one not executable, one beyond RAM (a device).
    put(&mut image, PML4, &(PDPT as u64 | 7).to_le_bytes());
    put(&mut image, PML4 + 8 * 511, &(PDPT as u64 | 7).to_le_bytes());
    put(&mut image, PDPT, &(PD as u64 | 7).to_le_bytes());
    put(&mut image, PDPT + 8 * 3, &0x87u64.to_le_bytes());
    put(&mut image, PD, &(PT as u64 | 7).to_le_bytes());
    put(&mut image, PD + 8, &0x87u64.to_le_bytes());
    for page in 0..512u64 {
        let entry = match page {
            0x13 | 0x1b => 0,
            0x14 => page << 12 | 5,
            0x15 => page << 12 | 3,
            0x16 => page << 12 | 7 | 1 << 63,
            _ => page << 12 | 7,
        };
        put(&mut image, PT + 8 * page as usize, &entry.to_le_bytes());
    }
    for entry in 0..1024 {
        let value: u32 = match entry {
            0 | 0x300 => 0x87,
            1 => 0,
            n => n << 22 | 0x83,
        };
        put(&mut image, PD32 + 4 * entry as usize, &value.to_le_bytes());
    }
    image
}

impl Machine {
    /// With a processor of the model with the most instructions.
    pub fn new() -> Machine {
        let model = CpuModel::by_name("x86-64-v3").expect("a model of ours");
        let memory = Arc::new(GuestMemory::flat(RAM as u64).expect("host memory"));
        let signals = Arc::new(Signals::default());
        let vcpu = Interpreter
            .vcpu(0, &model, memory.clone(), signals.clone())
            .expect("the interpreter runs everywhere");
        Machine {
            memory,
            signals,
            vcpu,
            images: [tables(false), tables(true)],
        }
    }

    /// Runs `code` in `mode`; everything else comes from `random`. Panics if the engine breaks
    /// its contract; gives the stop and the state at it.
    pub fn run(&mut self, mode: Mode, code: &[u8], random: &mut Random) -> (Stop, CpuState) {
        let long = matches!(mode, Mode::Compatibility | Mode::Long64 | Mode::Long64User);
        let mut ram = self.images[usize::from(long)].clone();
        // Code is likely to meet itself again: what is not code is filled with it.
        ram.resize(RAM, 0);
        let offset = 0x1f00 + random.below(0x100) as usize;
        for at in (CODE..RAM).step_by(0x400) {
            let n = code.len().min(0x400);
            put(&mut ram, at, &code[..n]);
        }
        for at in (CODE..RAM).step_by(8 * 61) {
            put(&mut ram, at, &random.bits().to_le_bytes());
        }
        for n in 16..24 {
            let noise = random.bits();
            put(&mut ram, GDT + 8 * n, &noise.to_le_bytes());
        }
        let n = code.len().min(0x800);
        put(&mut ram, CODE + offset, &code[..n]);
        self.memory.write(Gpa(0), &ram).expect("it is all RAM");

        let state = state(mode, (CODE + offset) as u64, random);
        self.signals.lower(!0);
        match random.below(8) {
            0 => self.signals.raise(Signals::NMI),
            1 | 2 => self.signals.raise(Signals::INTR),
            _ => {}
        }
        self.vcpu.set_state(&state).expect("a state that can be");
        let mut bus = AnyBus(Random::new(random.bits()), self.signals.clone());
        let before = self.vcpu.counters();
        let stop = self.vcpu.run(&mut bus, BUDGET);
        let after = self.vcpu.counters();
        let retired = after.instructions - before.instructions;
        assert!(retired <= BUDGET, "{retired} instructions of {BUDGET}");
        let end = self.vcpu.state();
        check(&end);
        self.vcpu
            .set_state(&end)
            .expect("a state the engine came to is one it takes");
        (stop, end)
    }
}

/// What holds in every state.
fn check(s: &CpuState) {
    assert!(s.cpl <= 3, "CPL {}", s.cpl);
    assert_eq!(s.rflags & !rflags::ALL, 0, "reserved bits of RFLAGS");
    assert_ne!(s.rflags & rflags::FIXED, 0, "bit 1 of RFLAGS");
    let paging = s.cr0 & cr0::PG != 0;
    assert!(!paging || s.cr0 & cr0::PE != 0, "paging without PE");
    let long = s.efer & efer::LMA != 0;
    assert_eq!(long, paging && s.efer & efer::LME != 0, "LMA");
    assert!(!long || s.cr4 & cr4::PAE != 0, "long mode without PAE");
    assert!(!long || s.rflags & rflags::VM == 0, "V86 in long mode");
    assert_eq!(s.mxcsr >> 16, 0, "reserved bits of MXCSR");
    assert_eq!(s.xcr0 & 1, 1, "XCR0.x87");
}

fn state(mode: Mode, at: u64, random: &mut Random) -> CpuState {
    let mut s = CpuState::reset(0, true);
    for register in &mut s.gpr {
        *register = match random.below(8) {
            0 => random.bits(),
            1 => random.below(256),
            2 => u64::MAX - random.below(64),
            3 => 1 << random.below(64),
            4 => 0xffff_fff0 + random.below(32),
            // Near the end of RAM, where a device begins.
            5 => RAM as u64 - random.below(16),
            _ => CODE as u64 + random.below(0x1_0000),
        };
    }
    s.gpr[gpr::RSP] = 0x1_c000 + random.below(0x1000);
    s.gpr[gpr::RCX] = random.bits() >> random.below(64);
    for (n, register) in s.vector.iter_mut().enumerate() {
        *register = [
            random.bits(),
            random.bits() >> (n * 4),
            0x7ff0 << 48,
            n as u64,
        ];
    }
    for register in &mut s.x87.regs {
        register.significand = random.bits();
        register.sign_exponent = random.bits() as u16;
    }
    s.x87.valid = random.bits() as u8;
    s.x87.control = if random.below(4) == 0 {
        random.bits() as u16 & 0x1f7f | 0x40
    } else {
        0x37f
    };
    s.mxcsr = if random.below(4) == 0 {
        random.bits() as u32 & 0xffff
    } else {
        0x1f80
    };
    let all = rflags::ARITHMETIC | rflags::DF | rflags::IF | rflags::AC | rflags::ID;
    s.rflags = random.bits() & all | rflags::FIXED;
    if random.below(16) == 0 {
        s.rflags |= rflags::TF;
    }
    s.rip = at;
    s.gdtr = TableRegister {
        base: GDT as u64,
        limit: 8 * 24 - 1,
    };
    s.idtr = TableRegister {
        base: IDT as u64,
        limit: 0x7ff,
    };
    s.cr0 = cr0::PE | cr0::ET | cr0::NE | cr0::WP;
    let noise = random.bits();
    s.cr0 |= noise & (cr0::MP | cr0::AM);
    if noise >> 32 & 15 == 0 {
        s.cr0 |= cr0::TS;
    }
    s.cr4 = cr4::OSFXSR | cr4::OSXMMEXCPT | cr4::OSXSAVE | cr4::PSE;
    s.cr4 |= noise >> 8 & (cr4::TSD | cr4::DE | cr4::UMIP | cr4::FSGSBASE | cr4::VME | cr4::PVI);
    s.xcr0 = 7;
    if random.below(16) == 0 {
        s.dr[0] = s.gpr[gpr::RBX];
        s.dr7 = 0x400 | random.bits() & 0xf_0003;
    }
    let segment = |selector: u16, attributes: u16, base: u64, limit: u32| Segment {
        selector,
        attributes: Attributes(attributes),
        limit,
        base,
    };
    s.tr = segment(0x48, 0x8b, TSS as u64, 0x20ff);
    s.ldtr = segment(0x70, 0x82, GDT as u64, 0xff);
    let (code, data, cpl) = match mode {
        Mode::Real | Mode::Virtual8086 => (0, 0, if mode == Mode::Real { 0 } else { 3 }),
        Mode::Protected16 => (0x20, 0x28, 0),
        Mode::Protected32 => (0x08, 0x10, 0),
        Mode::Paged32User | Mode::Compatibility => (0x30 | USER, 0x38 | USER, 3),
        Mode::Long64 => (0x18, 0x10, 0),
        Mode::Long64User => (0x40 | USER, 0x38 | USER, 3),
    };
    s.cpl = cpl;
    match mode {
        Mode::Real | Mode::Virtual8086 => {
            let base = CODE as u64;
            let selector = (base >> 4) as u16;
            let user = if cpl == 3 { 0xf3 } else { 0x93 };
            s.seg = [segment(selector, user, base, 0xffff); 6];
            if mode == Mode::Real {
                s.seg[seg::CS as usize].attributes = Attributes(0x9b);
                s.cr0 &= !cr0::PE;
                s.idtr = TableRegister {
                    base: 0,
                    limit: 0x3ff,
                };
            } else {
                s.rflags |= rflags::VM | random.bits() & rflags::IOPL;
            }
            s.rip = at - base;
        }
        Mode::Protected16 => {
            let base = CODE as u64;
            s.seg = [segment(data, 0x93, base, 0xffff); 6];
            s.seg[seg::CS as usize] = segment(code, 0x9b, base, 0xffff);
            s.rip = at - base;
        }
        _ => {
            let dpl = u16::from(cpl) << 5;
            let kind = if code & !7 == 0x18 || code & !7 == 0x40 {
                0xa9b
            } else {
                0xc9b
            };
            s.seg = [segment(data, 0xc93 | dpl, 0, !0); 6];
            s.seg[seg::CS as usize] = segment(code, kind | dpl, 0, !0);
        }
    }
    match mode {
        Mode::Paged32User => {
            s.cr0 |= cr0::PG;
            s.cr3 = PD32 as u64;
        }
        Mode::Compatibility | Mode::Long64 | Mode::Long64User => {
            s.cr0 |= cr0::PG;
            s.cr3 = PML4 as u64;
            s.cr4 |= cr4::PAE | noise >> 8 & (cr4::PCIDE | cr4::PGE);
            // Every page is the user's: with these the first exception ends the run.
            if noise >> 40 & 15 == 0 {
                s.cr4 |= noise >> 8 & (cr4::SMAP | cr4::SMEP);
            }
            s.efer = efer::SCE | efer::LME | efer::LMA | efer::NXE;
            s.idtr.limit = 0xfff;
            s.msr.lstar = CODE as u64 + 0x400;
            s.msr.star = 0x0030_0018 << 32;
            s.msr.sysenter_cs = 0x08;
            s.msr.sysenter_eip = CODE as u64 + 0x800;
            s.msr.sysenter_esp = 0x1_f000;
        }
        _ => {}
    }
    s
}

/// The name of the instruction in the report of a stop for one that is known and not done.
pub fn not_done(report: &str) -> Option<&str> {
    let name = report.strip_prefix("instruction ")?;
    let (name, rest) = name.split_once(' ')?;
    rest.contains("is known and not implemented")
        .then_some(name)
}

/// Where [`real_mode`] puts its code.
#[allow(dead_code)] // the fuzz target has no use for it
pub const REAL_CODE: u64 = 0x8000;

/// Runs `code` in real mode with RCX as given and data at 0; it is the handler of #UD, too.
#[allow(dead_code)] // as above
pub fn real_mode(code: &[u8], rcx: u64, budget: u64) -> (Stop, CpuState, Counters) {
    let mut machine = Machine::new();
    let at = REAL_CODE as u32;
    machine
        .memory
        .write(Gpa(6 * 4), &at.to_le_bytes())
        .expect("RAM");
    machine.memory.write(Gpa(REAL_CODE), code).expect("RAM");
    let mut state = CpuState::reset(0, true);
    state.seg[seg::CS as usize].base = 0;
    state.rip = REAL_CODE;
    state.gpr[gpr::RCX] = rcx;
    machine.vcpu.set_state(&state).expect("a state that can be");
    let mut bus = AnyBus(Random::new(1), machine.signals.clone());
    let stop = machine.vcpu.run(&mut bus, budget);
    (stop, machine.vcpu.state(), machine.vcpu.counters())
}
