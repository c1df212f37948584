//! One processor of either engine with its own memory: tables, handlers, page tables, and a bus
//! that records and that leads the guest past a faulting instruction.

use crate::rng::Rng;
use mem::{Gpa, GuestMemory, PAGE_SIZE};
use std::sync::Arc;
use x86::cpuid::CpuModel;
use x86::state::{Attributes, CpuState, Segment, TableRegister, cr0, cr4, efer, rflags, seg};
use x86::{Bus, Engine, Signals, Vcpu};

/// Bytes of RAM.
pub const RAM: u64 = 1 << 20;
/// Linear address of physical address 0, for the supervisor.
pub const HIGH: u64 = 0xffff_ffff_a000_0000;
const GDT: u64 = 0x1000;
const IDT: u64 = 0x2000;
const TSS: u64 = 0x4000;
const STUBS: u64 = 0x8000;
const COMMON: u64 = 0x9000;
const TRANSPARENT: u64 = 0x9100;
const SYSCALL: u64 = 0x9200;
/// What the handlers leave: CR2, counts, a vector register.
const NOTES: u64 = 0x9800;
/// Top of the stack of exceptions, of interrupts, of CPL 0.
const IST1: u64 = 0xc000;
const IST2: u64 = 0xe000;
const RSP0: u64 = 0x1_0000;
const TABLES: u64 = 0x1_0000;
/// Physical pages of the program.
pub const CODE_AT: u64 = 0x4_0000;
pub const CODE_PAGES: u64 = 4;
pub const DATA_AT: u64 = 0x5_0000;
pub const STACK_AT: u64 = 0x6_0000;
pub const TABLE_AT: u64 = 0x7_0000;
/// Linear addresses of the program: code, the same code again, and again for the supervisor.
pub const CODE: u64 = 0x40_0000;
pub const CODE_ALIAS: u64 = 0x50_0000;
pub const CODE_HIGH: u64 = 0xffff_ffff_8000_0000;
/// Data: above 4 GB, and the same below 2 GB.
pub const DATA: u64 = 0x10_0000_0000;
pub const DATA_LOW: u64 = 0x60_0000;
pub const STACK: u64 = 0x70_0000;
/// Loop counters and jump tables.
pub const TABLE: u64 = 0x80_0000;
/// A page that programs of the supervisor map anew, with the address of its entry.
pub const MOVING: u64 = 0x90_0000;

pub const KCODE: u16 = 0x08;
pub const KDATA: u16 = 0x10;
pub const UDATA: u16 = 0x23;
pub const UCODE: u16 = 0x2b;

/// Something the bus was asked for.
#[derive(Clone, PartialEq, Debug)]
pub enum Event {
    Out(u16, u8, u32),
    In(u16, u8),
    Mmio(u64, u8, Option<u64>),
    Exception {
        vector: u64,
        code: u64,
        /// RIP, CS, RFLAGS without arithmetic flags, RSP, SS.
        frame: [u64; 5],
        cr2: u64,
    },
    Acknowledge(u8),
    Priority(u8),
    Ferr(bool),
}

pub struct Recorder {
    pub ram: Arc<GuestMemory>,
    pub signals: Arc<Signals>,
    pub log: Vec<Event>,
    /// Arithmetic flags in the frames of exceptions.
    pub pushed: Vec<u64>,
    /// A synchronisation point was reached.
    pub hit: bool,
    /// How many of them so far.
    pub synced: usize,
    pub ended: bool,
    /// Starts of instructions, as offsets in the code, ascending.
    pub starts: Vec<u64>,
    /// The synchronisation points.
    pub syncs: Vec<u64>,
    /// Where the program runs.
    pub base: u64,
    pub user: bool,
    /// IOPL of the program, as RFLAGS has it.
    pub iopl: u64,
    since: u32,
    vectors: Vec<u8>,
    priority: u8,
    tsc: u64,
}

impl Recorder {
    /// Forgets what the last program asked for.
    pub fn reset(&mut self) {
        (self.since, self.priority, self.tsc) = (0, 0, 0);
        self.vectors.clear();
    }
    fn note(&mut self, event: Event) {
        if self.log.len() < 20_000 {
            self.log.push(event);
        }
    }
    fn quad(&self, at: u64) -> u64 {
        self.ram.read_word(Gpa(at)).expect("RAM")
    }
    fn set_quad(&self, at: u64, value: u64) {
        self.ram.write_word(Gpa(at), value).expect("RAM");
    }

    /// Records an exception and leads the program past it.
    fn exception(&mut self) {
        let top = IST1;
        let (vector, code) = (self.quad(top - 56), self.quad(top - 48));
        let mut frame = [0; 5];
        for (n, word) in frame.iter_mut().enumerate() {
            *word = self.quad(top - 40 + 8 * n as u64);
        }
        let [rip, cs, flags, rsp, ss] = frame;
        self.pushed.push(flags & rflags::ARITHMETIC);
        frame[2] &= !rflags::ARITHMETIC;
        let cr2 = self.quad(NOTES);
        self.note(Event::Exception {
            vector,
            code,
            frame,
            cr2,
        });
        self.since += 1;
        let bases = [CODE, CODE_ALIAS, CODE_HIGH];
        let here = bases
            .iter()
            .copied()
            .find(|b| rip.wrapping_sub(*b) < CODE_PAGES * PAGE_SIZE);
        let fetch = vector == 14 && code & 16 != 0;
        let trap = matches!(vector, 1 | 3 | 4) || vector >= 32;
        let next = match here {
            Some(_) if trap && self.since < 200 => rip,
            Some(base) if !fetch && self.since < 200 => {
                let at = rip - base;
                let n = self.starts.partition_point(|s| *s <= at);
                match self.starts.get(n) {
                    Some(start) => base + start,
                    None => self.recovery(),
                }
            }
            _ => self.recovery(),
        };
        let (mut cs, mut ss, mut rsp) = (cs, ss, rsp);
        if next == self.recovery() {
            let (c, s) = if self.user {
                (UCODE, UDATA)
            } else {
                (KCODE, KDATA)
            };
            (cs, ss) = (c.into(), s.into());
            rsp = STACK + 0x1800;
        }
        // The flags that an instruction which did not finish leaves may differ; see
        // `bt::translate`.
        let keep = rflags::IF | rflags::DF | rflags::ID;
        let flags = flags & keep | rflags::FIXED | self.iopl | vector & 0x55 & rflags::ARITHMETIC;
        for (n, word) in [next, cs, flags, rsp, ss].into_iter().enumerate() {
            self.set_quad(top - 40 + 8 * n as u64, word);
        }
    }

    /// The next synchronisation point.
    fn recovery(&self) -> u64 {
        self.base + self.syncs[self.synced.min(self.syncs.len() - 1)]
    }
}

impl Bus for Recorder {
    fn mmio_read(&mut self, at: Gpa, size: u8) -> u64 {
        self.note(Event::Mmio(at.0, size, None));
        at.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - 8 * u32::from(size))
    }
    fn mmio_write(&mut self, at: Gpa, size: u8, value: u64) {
        self.note(Event::Mmio(at.0, size, Some(value)));
    }
    fn port_in(&mut self, port: u16, size: u8) -> u32 {
        self.note(Event::In(port, size));
        u32::from(port).wrapping_mul(0x9e37_79b9) >> (32 - 8 * u32::from(size))
    }
    fn port_out(&mut self, port: u16, size: u8, value: u32) {
        match port {
            0x80 | 0x84 => {
                self.hit = true;
                self.synced += 1;
                self.since = 0;
                self.ended |= port == 0x84;
                self.signals.raise(Signals::RETURN);
            }
            0x81 if value & 8 != 0 => self.signals.raise(Signals::NMI),
            0x81 => {
                self.vectors.push(0x30 + (value & 7) as u8);
                self.signals.raise(Signals::INTR);
            }
            0x82 => return self.exception(),
            0x83 => {
                self.since += 1;
            }
            _ => {}
        }
        self.note(Event::Out(port, size, value));
    }
    fn msr_read(&mut self, _: u32) -> Option<u64> {
        None
    }
    fn msr_write(&mut self, _: u32, _: u64) -> bool {
        false
    }
    fn tsc(&mut self) -> u64 {
        self.tsc += 1;
        self.tsc
    }
    fn task_priority(&mut self) -> u8 {
        self.priority
    }
    fn set_task_priority(&mut self, class: u8) {
        self.note(Event::Priority(class));
        self.priority = class;
    }
    fn ferr(&mut self, level: bool) -> bool {
        self.note(Event::Ferr(level));
        true
    }
    fn acknowledge(&mut self) -> Option<u8> {
        let vector = self.vectors.pop();
        if self.vectors.is_empty() {
            self.signals.lower(Signals::INTR);
        }
        if let Some(v) = vector {
            self.note(Event::Acknowledge(v));
        }
        vector
    }
}

pub struct World {
    pub ram: Arc<GuestMemory>,
    pub signals: Arc<Signals>,
    pub bus: Recorder,
    pub vcpu: Box<dyn Vcpu>,
    next_table: u64,
}

fn segment(selector: u16, attributes: u16) -> Segment {
    Segment {
        selector,
        attributes: Attributes(attributes),
        limit: !0,
        base: 0,
    }
}

fn descriptor(base: u64, limit: u64, attributes: u64) -> u64 {
    limit & 0xffff
        | (base & 0xff_ffff) << 16
        | (attributes & 0xff) << 40
        | (limit >> 16 & 15) << 48
        | (attributes >> 8 & 15) << 52
        | (base >> 24 & 0xff) << 56
}

const P: u64 = 1;
const W: u64 = 2;
const U: u64 = 4;
const NX: u64 = 1 << 63;

impl World {
    pub fn new(engine: &dyn Engine, user: bool) -> World {
        let ram = Arc::new(GuestMemory::flat(RAM).expect("memory"));
        let signals = Arc::new(Signals::default());
        let vcpu = engine
            .vcpu(0, &CpuModel::everything(), ram.clone(), signals.clone())
            .expect("a processor");
        let bus = Recorder {
            ram: ram.clone(),
            signals: signals.clone(),
            log: Vec::new(),
            pushed: Vec::new(),
            hit: false,
            synced: 0,
            ended: false,
            starts: Vec::new(),
            syncs: Vec::new(),
            base: CODE,
            user,
            iopl: 0,
            since: 0,
            vectors: Vec::new(),
            priority: 0,
            tsc: 0,
        };
        let mut w = World {
            ram,
            signals,
            bus,
            vcpu,
            next_table: TABLES + 0x1000,
        };
        w.tables();
        w.map_all(user);
        w
    }

    pub fn quad(&self, at: u64, value: u64) {
        self.ram.write_word(Gpa(at), value).expect("RAM");
    }
    pub fn bytes(&self, at: u64, bytes: &[u8]) {
        self.ram.write(Gpa(at), bytes).expect("RAM");
    }

    fn gate(&self, n: u64, to: u64, ist: u64, dpl: u64) {
        let to = HIGH + to;
        let low = to & 0xffff
            | u64::from(KCODE) << 16
            | ist << 32
            | (0x8e | dpl << 5) << 40
            | (to >> 16 & 0xffff) << 48;
        self.quad(IDT + 16 * n, low);
        self.quad(IDT + 16 * n + 8, to >> 32);
    }

    fn tables(&mut self) {
        for (selector, d) in [
            (KCODE, descriptor(0, 0xf_ffff, 0xa9b)),
            (KDATA, descriptor(0, 0xf_ffff, 0xc93)),
            (0x18, descriptor(0, 0xf_ffff, 0xcfb)),
            (UDATA, descriptor(0, 0xf_ffff, 0xcf3)),
            (UCODE, descriptor(0, 0xf_ffff, 0xafb)),
            (0x30, descriptor(HIGH + TSS, 0x206f, 0x8b)),
        ] {
            self.quad(GDT + u64::from(selector & !7), d);
        }
        self.quad(GDT + 0x38, (HIGH + TSS) >> 32);
        for n in 0..256u64 {
            let coded = matches!(n, 8 | 10..=14 | 17 | 21);
            let mut stub = Vec::new();
            if !coded {
                stub.extend([0x6a, 0]);
            }
            stub.push(0x68);
            stub.extend((n as u32).to_le_bytes());
            let from = STUBS + 16 * n + stub.len() as u64 + 5;
            stub.push(0xe9);
            stub.extend((COMMON.wrapping_sub(from) as u32).to_le_bytes());
            self.bytes(STUBS + 16 * n, &stub);
            let dpl = if matches!(n, 3 | 4 | 0x40) { 3 } else { 0 };
            if n == 2 || (0x30..0x38).contains(&n) {
                self.gate(n, TRANSPARENT, 2, 0);
            } else {
                self.gate(n, STUBS + 16 * n, 1, dpl);
            }
        }
        let notes = HIGH + NOTES;
        let assemble = |at: u64,
                        f: &dyn Fn(
            &mut iced_x86::code_asm::CodeAssembler,
        ) -> Result<(), iced_x86::IcedError>| {
            let mut a = iced_x86::code_asm::CodeAssembler::new(64).unwrap();
            f(&mut a).unwrap();
            self.bytes(at, &a.assemble(HIGH + at).unwrap());
        };
        use iced_x86::code_asm::*;
        assemble(COMMON, &|a| {
            a.push(rax)?;
            a.mov(rax, cr2)?;
            a.mov(qword_ptr(notes), rax)?;
            a.out(0x82, al)?;
            a.pop(rax)?;
            a.add(rsp, 16)?;
            a.iretq()
        });
        // Changes nothing that the program sees; begins with a vector instruction.
        assemble(TRANSPARENT, &|a| {
            a.movups(xmmword_ptr(notes + 16), xmm0)?;
            a.inc(qword_ptr(notes + 8))?;
            a.pcmpeqd(xmm0, xmm0)?;
            a.movups(xmm0, xmmword_ptr(notes + 16))?;
            a.iretq()
        });
        assemble(SYSCALL, &|a| {
            a.out(0x83, al)?;
            a.sysretq()
        });
        self.quad(TSS + 4, HIGH + RSP0);
        self.quad(TSS + 0x24, HIGH + IST1);
        self.quad(TSS + 0x2c, HIGH + IST2);
        // The I/O permission bitmap: all ports allowed.
        self.bytes(TSS + 0x66, &0x68u16.to_le_bytes());
        self.bytes(TSS + 0x2068, &[0xff; 8]);
    }

    /// Maps one page; gives the physical address of its entry.
    pub fn map(&mut self, linear: u64, at: u64, bits: u64) -> u64 {
        let mut table = TABLES;
        for shift in [39, 30, 21] {
            let entry = table + 8 * (linear >> shift & 511);
            let mut value: u64 = self.ram.read_word(Gpa(entry)).expect("RAM");
            if value & P == 0 {
                value = self.next_table | P | W | U;
                self.next_table += 0x1000;
                assert!(self.next_table <= CODE_AT, "no room for page tables");
                self.quad(entry, value);
            }
            table = value & 0xf_ffff_f000;
        }
        let entry = table + 8 * (linear >> 12 & 511);
        self.quad(entry, at | bits);
        entry
    }

    fn map_all(&mut self, user: bool) {
        let u = if user { U } else { 0 };
        for n in 0..RAM >> 12 {
            self.map(HIGH + (n << 12), n << 12, P | W);
        }
        for n in 0..CODE_PAGES {
            let at = CODE_AT + (n << 12);
            self.map(CODE + (n << 12), at, P | W | u);
            self.map(CODE_ALIAS + (n << 12), at, P | W | u);
            self.map(CODE_HIGH + (n << 12), at, P | W);
        }
        for base in [DATA, DATA_LOW] {
            // Read-write, read-only, a hole, the first two again, the supervisor's, a device's.
            let pages = [
                (0, P | W | U | NX),
                (1, P | W | U),
                (2, P | W | U),
                (3, P | U),
                (0, 0),
                (0, P | W | U),
                (1, P | U),
                (4, P | W),
                ((RAM * 16 - DATA_AT) >> 12, P | W | U),
                (5, P | W | U),
                (0, 0),
            ];
            for (n, (page, bits)) in pages.into_iter().enumerate() {
                self.map(base + ((n as u64) << 12), DATA_AT + (page << 12), bits);
            }
        }
        for n in 0..2 {
            self.map(STACK + (n << 12), STACK_AT + (n << 12), P | W | U);
        }
        self.map(TABLE, TABLE_AT, P | W | U);
        self.map(MOVING, DATA_AT, P | W | U);
    }

    /// Linear address (for the supervisor) of the entry of [`MOVING`].
    pub fn moving_entry() -> u64 {
        // The tables come in the order in which they were mapped: found, not known.
        let mut w = World::new(&x86::interp::Interpreter, false);
        HIGH + w.map(MOVING, DATA_AT, P | W | U)
    }

    /// The state in which a program begins.
    pub fn start(&self, rng: &mut Rng) -> CpuState {
        let user = self.bus.user;
        let mut s = self.vcpu.state();
        s.gdtr = TableRegister {
            base: HIGH + GDT,
            limit: 0xfff,
        };
        s.idtr = TableRegister {
            base: HIGH + IDT,
            limit: 0xfff,
        };
        s.tr = Segment {
            base: HIGH + TSS,
            limit: 0x206f,
            ..segment(0x30, 0x8b)
        };
        s.ldtr = Segment::default();
        s.cr0 = cr0::PE | cr0::PG | cr0::ET | cr0::NE | cr0::MP | cr0::WP;
        s.cr3 = TABLES;
        s.cr4 = cr4::PAE | cr4::OSFXSR | cr4::OSXMMEXCPT | cr4::OSXSAVE | cr4::FSGSBASE;
        if !user && rng.chance(30) {
            s.cr4 |= cr4::SMEP | cr4::SMAP;
        }
        if rng.chance(4) {
            s.cr0 |= cr0::AM;
        }
        s.xcr0 = 7;
        s.efer = efer::LME | efer::LMA | efer::SCE | efer::NXE;
        s.cpl = if user { 3 } else { 0 };
        let (code, data) = if user {
            (segment(UCODE, 0xafb), segment(UDATA, 0xcf3))
        } else {
            (segment(KCODE, 0xa9b), segment(KDATA, 0xc93))
        };
        s.seg = [data; 6];
        s.seg[seg::CS as usize] = code;
        let odd = rng.pick(&[0, CODE_ALIAS + 0x2f00, HIGH, TABLE + 0x800]);
        let odd = rng.pick(&[DATA_LOW + 0x800, DATA + 0xff0, odd]);
        s.seg[seg::FS as usize].base = DATA + rng.below(0x1800);
        s.seg[seg::GS as usize].base = odd;
        s.msr.kernel_gs_base = DATA + rng.below(0x2000);
        s.msr.star = 0x1b << 48 | u64::from(KCODE) << 32;
        s.msr.lstar = HIGH + SYSCALL;
        // Linux's, mostly.
        s.msr.sfmask = rng.pick(&[0x25_7fd5, 0x25_7fd5, 0x25_7fd5, 0x4_4700]);
        for r in &mut s.gpr {
            *r = rng.edge();
        }
        s.gpr[4] = STACK + 0x1800;
        let iopl = rng.pick(&[0, 0, 0, rflags::IOPL]);
        s.rflags = rflags::FIXED | iopl | rng.next() & (rflags::ARITHMETIC | rflags::IF);
        for v in &mut s.vector {
            *v = core::array::from_fn(|_| rng.quad());
        }
        s.mxcsr = 0x1f80;
        s.x87 = Default::default();
        s.activity = Default::default();
        s.shadow = Default::default();
        s.nmi_blocked = false;
        s
    }
}
