//! A processor with 16 MB of RAM and a bus that records: put in a mode with tables ready, given
//! code, run until it halts, and looked at.
//!
//! ```text
//! let mut m = Machine::long();
//! m.code(CODE, 64, |a| { a.mov(rax, 7u64)?; a.hlt() });
//! assert_eq!(m.run().gpr[RAX], 7);
//! ```
//!
//! Exceptions halt in a stub of their own: [`Machine::run_to_exception`] says which.

#![allow(dead_code)]

use iced_x86::IcedError;
use iced_x86::code_asm::CodeAssembler;
use mem::{Gpa, GuestMemory, Word};
use std::collections::BTreeMap;
use std::sync::Arc;
use x86::cpuid::CpuModel;
use x86::interp::Interpreter;
use x86::state::{Attributes, CpuState, Segment, TableRegister, cr0, cr4, efer, rflags, seg};
use x86::{Bus, Engine, Signals, Stop, Vcpu};

pub use x86::state::gpr::*;

/// The tables.
pub const GDT: u64 = 0x1000;
pub const IDT: u64 = 0x2000;
pub const TSS: u64 = 0x4000;
/// A second TSS, for tasks; not set up.
pub const TSS2: u64 = 0x6000;
pub const LDT: u64 = 0x7000;
/// Page tables: PML4 (or PDPT), PDPT, PD, PT of the first 2 MB.
pub const PML4: u64 = 0x1_0000;
pub const PDPT: u64 = 0x1_1000;
pub const PD: u64 = 0x1_2000;
pub const PT: u64 = 0x1_3000;
/// Where programs and their stacks go.
pub const CODE: u64 = 0x2_0000;
pub const STACK: u64 = 0x2_8000;
pub const USER: u64 = 0x3_0000;
pub const USER_STACK: u64 = 0x3_8000;
/// Stack of CPL 0 after a change of privilege, and IST 1.
pub const STACK0: u64 = 0x4_0000;
pub const IST1: u64 = 0x4_8000;
/// 16 bytes for each vector's stub, a HLT.
pub const STUBS: u64 = 0x5_0000;
pub const DATA: u64 = 0x8_0000;

/// Selectors of the GDT.
pub const KCODE: u16 = 0x08;
pub const KDATA: u16 = 0x10;
pub const UCODE32: u16 = 0x1b;
pub const UDATA: u16 = 0x23;
pub const UCODE64: u16 = 0x2b;
/// Two slots in long mode.
pub const TR: u16 = 0x30;
pub const CODE16: u16 = 0x40;
pub const DATA16: u16 = 0x48;
/// Free for the test, 8 or 16 bytes each.
pub const FREE1: u16 = 0x50;
pub const FREE2: u16 = 0x60;
pub const FREE3: u16 = 0x70;
pub const FREE4: u16 = 0x80;

/// A code or data descriptor: base, limit (in its granularity), attributes as in
/// [`Attributes`].
pub fn descriptor(base: u64, limit: u64, attributes: u64) -> u64 {
    limit & 0xffff
        | (base & 0xff_ffff) << 16
        | (attributes & 0xff) << 40
        | (limit >> 16 & 15) << 48
        | (attributes >> 8 & 15) << 52
        | (base >> 24 & 0xff) << 56
}

/// The low 8 bytes of a gate; `attributes` has P, DPL and type.
pub fn gate(selector: u16, offset: u64, attributes: u64, low: u64) -> u64 {
    offset & 0xffff
        | u64::from(selector) << 16
        | (low & 0xff) << 32
        | (attributes & 0xff) << 40
        | (offset >> 16 & 0xffff) << 48
}

/// A bus that records what it is asked and answers from tables.
#[derive(Default)]
pub struct TestBus {
    /// Writes to ports: port, size, value.
    pub out: Vec<(u16, u8, u32)>,
    /// Answers of ports; all ones otherwise.
    pub input: BTreeMap<u16, u32>,
    /// Ports read.
    pub reads: Vec<(u16, u8)>,
    /// Writes to memory that is no RAM.
    pub mmio: Vec<(u64, u8, u64)>,
    pub tsc: u64,
    pub priority: u8,
    /// Vectors to acknowledge, last first.
    pub vectors: Vec<u8>,
    pub msrs: BTreeMap<u32, u64>,
    /// Levels of FERR#, and what IGNNE# answers.
    pub ferr: Vec<bool>,
    pub ignne: bool,
    /// What RDRAND gives.
    pub entropy: Option<u64>,
    signals: Arc<Signals>,
}

impl Bus for TestBus {
    fn mmio_read(&mut self, _: Gpa, size: u8) -> u64 {
        u64::MAX >> (64 - 8 * u32::from(size))
    }
    fn mmio_write(&mut self, at: Gpa, size: u8, value: u64) {
        self.mmio.push((at.0, size, value));
    }
    fn port_in(&mut self, port: u16, size: u8) -> u32 {
        self.reads.push((port, size));
        self.input.get(&port).copied().unwrap_or(!0)
    }
    fn port_out(&mut self, port: u16, size: u8, value: u32) {
        self.out.push((port, size, value));
    }
    fn msr_read(&mut self, index: u32) -> Option<u64> {
        self.msrs.get(&index).copied()
    }
    fn msr_write(&mut self, index: u32, value: u64) -> bool {
        self.msrs.get_mut(&index).map(|m| *m = value).is_some()
    }
    fn tsc(&mut self) -> u64 {
        self.tsc += 1;
        self.tsc
    }
    fn task_priority(&mut self) -> u8 {
        self.priority
    }
    fn set_task_priority(&mut self, class: u8) {
        self.priority = class;
    }
    fn ferr(&mut self, level: bool) -> bool {
        if self.ferr.last() != Some(&level) {
            self.ferr.push(level);
        }
        self.ignne
    }
    fn entropy(&mut self) -> Option<u64> {
        self.entropy
    }
    fn acknowledge(&mut self) -> Option<u8> {
        let vector = self.vectors.pop();
        if self.vectors.is_empty() {
            self.signals.lower(Signals::INTR);
        }
        vector
    }
}

pub struct Machine {
    pub ram: Arc<GuestMemory>,
    pub signals: Arc<Signals>,
    pub bus: TestBus,
    pub vcpu: Box<dyn Vcpu>,
}

fn segment(selector: u16, attributes: u16, limit: u32) -> Segment {
    Segment {
        selector,
        attributes: Attributes(attributes),
        limit,
        base: 0,
    }
}

impl Machine {
    /// After reset.
    pub fn new(model: &str) -> Machine {
        Machine::of(if model == "everything" {
            CpuModel::everything()
        } else {
            CpuModel::by_name(model).expect("a model")
        })
    }

    fn of(model: CpuModel) -> Machine {
        let ram = Arc::new(GuestMemory::flat(16 << 20).expect("memory"));
        let signals = Arc::new(Signals::default());
        let vcpu = Interpreter
            .vcpu(0, &model, ram.clone(), signals.clone())
            .expect("a processor");
        let bus = TestBus {
            signals: signals.clone(),
            ..TestBus::default()
        };
        Machine {
            ram,
            signals,
            bus,
            vcpu,
        }
    }

    /// In real mode at 0:[`CODE`]-ish: CS base [`CODE`] with IP 0, the other segments at 0, SP
    /// 0x7000, the vector table at 0 with a stub for each vector.
    pub fn real() -> Machine {
        let mut m = Machine::new("x86-64-v3");
        for n in 0..256u64 {
            m.write(4 * n, ((STUBS >> 4 << 16) | (16 * n)) as u32);
        }
        m.stubs();
        m.change(|s| {
            s.seg[seg::CS as usize] = Segment {
                selector: (CODE >> 4) as u16,
                base: CODE,
                attributes: Attributes(0x9b),
                limit: 0xffff,
            };
            s.rip = 0;
            s.idtr.limit = 0x3ff;
            s.gpr[RSP] = 0x7000;
        });
        m
    }

    fn stubs(&mut self) {
        for n in 0..256u64 {
            self.write(STUBS + 16 * n, 0xf4u8);
        }
    }

    fn gdt(&mut self, kernel_code: u64) {
        for (selector, d) in [
            (KCODE, descriptor(0, 0xf_ffff, kernel_code)),
            (KDATA, descriptor(0, 0xf_ffff, 0xc93)),
            (UCODE32, descriptor(0, 0xf_ffff, 0xcfb)),
            (UDATA, descriptor(0, 0xf_ffff, 0xcf3)),
            (UCODE64, descriptor(0, 0xf_ffff, 0xafb)),
            (TR, descriptor(TSS, 0x106f, 0x8b)),
            (CODE16, descriptor(0, 0xffff, 0x9b)),
            (DATA16, descriptor(0, 0xffff, 0x93)),
        ] {
            self.set_descriptor(selector, d);
        }
    }

    pub fn set_descriptor(&mut self, selector: u16, raw: u64) {
        self.write(GDT + u64::from(selector & !7), raw);
    }

    /// 32-bit protected mode, flat, CPL 0, no paging, at [`CODE`]; interrupt gates of DPL 0 for
    /// all vectors, TSS with [`STACK0`].
    pub fn protected() -> Machine {
        let mut m = Machine::new("x86-64-v3");
        m.gdt(0xc9b);
        m.stubs();
        for n in 0..256u64 {
            m.write(IDT + 8 * n, gate(KCODE, STUBS + 16 * n, 0x8e, 0));
        }
        m.write(TSS + 4, STACK0 as u32);
        m.write(TSS + 8, KDATA);
        m.write(TSS + 0x66, 0x68u16);
        m.change(|s| {
            Machine::tables(s);
            s.cr0 = cr0::PE | cr0::ET | cr0::NE;
            s.seg = [segment(KDATA, 0xc93, !0); 6];
            s.seg[seg::CS as usize] = segment(KCODE, 0xc9b, !0);
        });
        m
    }

    fn tables(s: &mut CpuState) {
        s.gdtr = TableRegister {
            base: GDT,
            limit: 0xfff,
        };
        s.idtr = TableRegister {
            base: IDT,
            limit: 0xfff,
        };
        s.tr = Segment {
            base: TSS,
            ..segment(TR, 0x8b, 0x106f)
        };
        s.ldtr = Segment::default();
        s.rip = CODE;
        s.gpr[RSP] = STACK;
        s.rflags = rflags::FIXED;
    }

    /// 64-bit mode, CPL 0, at [`CODE`]: the first 16 MB mapped to themselves for everybody (4 KB
    /// pages below 2 MB), interrupt gates of DPL 0, TSS with [`STACK0`] and [`IST1`], SSE on.
    pub fn long() -> Machine {
        Machine::long_model("x86-64-v3")
    }

    pub fn long_model(model: &str) -> Machine {
        Machine::new(model).in_long_mode()
    }

    /// The same of a model that has no name.
    pub fn long_of(model: CpuModel) -> Machine {
        Machine::of(model).in_long_mode()
    }

    fn in_long_mode(self) -> Machine {
        let mut m = self;
        m.gdt(0xa9b);
        m.stubs();
        for n in 0..256u64 {
            m.write(IDT + 16 * n, gate(KCODE, STUBS + 16 * n, 0x8e, 0));
            m.write(IDT + 16 * n + 8, 0u64);
        }
        m.write(TSS + 4, STACK0);
        m.write(TSS + 0x24, IST1);
        m.write(TSS + 0x66, 0x68u16);
        m.identity();
        m.change(|s| {
            Machine::tables(s);
            s.cr0 = cr0::PE | cr0::PG | cr0::ET | cr0::NE | cr0::MP | cr0::WP;
            s.cr3 = PML4;
            s.cr4 = cr4::PAE | cr4::OSFXSR | cr4::OSXMMEXCPT;
            s.efer = efer::LME | efer::LMA | efer::SCE | efer::NXE;
            s.seg = [segment(KDATA, 0xc93, !0); 6];
            s.seg[seg::CS as usize] = segment(KCODE, 0xa9b, !0);
        });
        m
    }

    /// Four-level tables (the PDPT down also serve PAE paging).
    fn identity(&mut self) {
        self.write(PML4, PDPT | 7);
        self.write(PDPT, PD | 7);
        self.write(PD, PT | 7);
        for n in 1..8 {
            self.write(PD + 8 * n, n << 21 | 0x87);
        }
        for n in 0..512 {
            self.write(PT + 8 * n, n << 12 | 7);
        }
    }

    /// Changes the leaf entry of a 4 KB page below 2 MB.
    pub fn set_page(&mut self, linear: u64, entry: u64) {
        self.write(PT + 8 * (linear >> 12), entry);
    }

    /// Moves the processor to CPL 3 at [`USER`] with [`USER_STACK`], in 64-bit or 32-bit code.
    pub fn user(&mut self, bits: u32) {
        self.change(|s| {
            s.cpl = 3;
            s.seg = [segment(UDATA, 0xcf3, !0); 6];
            s.seg[seg::CS as usize] = if bits == 64 {
                segment(UCODE64, 0xafb, !0)
            } else {
                segment(UCODE32, 0xcfb, !0)
            };
            s.rip = USER;
            s.gpr[RSP] = USER_STACK;
        });
    }

    pub fn state(&self) -> CpuState {
        self.vcpu.state()
    }

    pub fn change(&mut self, f: impl FnOnce(&mut CpuState)) {
        let mut s = self.vcpu.state();
        f(&mut s);
        self.vcpu
            .set_state(&s)
            .expect("a state a processor can be in");
    }

    pub fn write<T: Word>(&mut self, at: u64, value: T) {
        self.ram.write_word(Gpa(at), value).expect("RAM");
    }

    pub fn read<T: Word>(&self, at: u64) -> T {
        self.ram.read_word(Gpa(at)).expect("RAM")
    }

    /// Assembles at physical address `at` code for that linear address.
    pub fn code(
        &mut self,
        at: u64,
        bits: u32,
        f: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
    ) -> usize {
        self.code_for(at, at, bits, f)
    }

    /// Assembles code for RIP `rip` at physical address `at`; returns its length.
    pub fn code_for(
        &mut self,
        at: u64,
        rip: u64,
        bits: u32,
        f: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
    ) -> usize {
        let mut a = CodeAssembler::new(bits).expect("an assembler");
        f(&mut a).expect("instructions");
        let bytes = a.assemble(rip).expect("code");
        self.bytes(at, &bytes);
        bytes.len()
    }

    pub fn bytes(&mut self, at: u64, bytes: &[u8]) {
        self.ram.write(Gpa(at), bytes).expect("RAM");
    }

    /// Runs until something other than code stops it.
    pub fn stop(&mut self) -> Stop {
        self.vcpu.run(&mut self.bus, 1_000_000)
    }

    /// Runs until HLT.
    pub fn run(&mut self) -> CpuState {
        let stop = self.stop();
        let s = self.state();
        assert_eq!(stop, Stop::Halted, "at {:#x}: {s:#x?}", s.rip);
        s
    }

    /// Runs until HLT in a vector's stub; gives the vector.
    pub fn run_to_exception(&mut self) -> (u8, CpuState) {
        let s = self.run();
        let at = s.seg[seg::CS as usize].base.wrapping_add(s.rip);
        let at = if s.efer & efer::LMA != 0 { s.rip } else { at };
        assert!(
            (STUBS..STUBS + 0x1000).contains(&at) && at % 16 == 1,
            "halted at {at:#x}, in no stub: {s:#x?}"
        );
        (((at - STUBS) / 16) as u8, s)
    }

    /// Goes on after a HLT.
    pub fn resume_at(&mut self, rip: u64) {
        self.change(|s| {
            s.rip = rip;
            s.activity = x86::state::Activity::Running;
        });
    }

    /// The stack as values of `T`, from the top.
    pub fn frame<T: Word>(&self, n: usize) -> Vec<u64> {
        let s = self.state();
        let mut base = s.gpr[RSP];
        if s.efer & efer::LMA == 0 {
            base += s.seg[seg::SS as usize].base;
        }
        (0..n)
            .map(|k| self.read::<T>(base + (k * T::SIZE) as u64).to_u64())
            .collect()
    }
}
