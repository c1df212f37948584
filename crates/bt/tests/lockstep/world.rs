//! One processor of either engine with its own memory: tables, handlers, page tables, and a bus
//! that records and that leads the guest past a faulting instruction.

use crate::rng::Rng;
use crate::shape::{BASED, Frame, LIMITED, READ_ONLY, Shape, UCODE_32};
use iced_x86::IcedError;
use iced_x86::code_asm::CodeAssembler;
use mem::{Gpa, GuestMemory, PAGE_SIZE};
use std::sync::Arc;
use x86::cpuid::CpuModel;
use x86::state::{Attributes, CpuState, Segment, TableRegister, cr0, cr4, efer, rflags, seg};
use x86::{Bus, Engine, Signals, Vcpu};

/// Bytes of RAM that are used; a large page has more.
pub const RAM: u64 = 1 << 20;
/// Linear address of physical address 0, for the supervisor.
pub const HIGH: u64 = 0xffff_ffff_a000_0000;
pub const GDT: u64 = 0x1000;
pub const IDT: u64 = 0x2000;
pub const TSS: u64 = 0x4000;
pub const STUBS: u64 = 0x8000;
pub const COMMON: u64 = 0x9000;
pub const TRANSPARENT: u64 = 0x9100;
const SYSCALL: u64 = 0x9200;
/// The vector of interrupts that nobody asked for, and their handler.
const STORM: u8 = 0x38;
const STORM_AT: u64 = 0x9300;
/// What interrupts are delivered by: the tables, and code of the handlers.
const DELIVERY: std::ops::Range<u64> = GDT..NOTES;
/// Page tables.
const PAGING: std::ops::Range<u64> = TABLES..CODE_AT;
/// What the handlers leave: CR2, counts, a vector register.
pub const NOTES: u64 = 0x9800;
/// Top of the stack of exceptions, of interrupts, of CPL 0.
const IST1: u64 = 0xc000;
const IST2: u64 = 0xe000;
const RSP0: u64 = 0x1_0000;
pub const TABLES: u64 = 0x1_0000;
/// Tables of a second address space.
pub const SECOND_TABLES: u64 = 0x3_8000;
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
/// Data where the host's MMU may be used; code and stack are as far from there as else from 0.
pub const WINDOW: u64 = 0x7f00_1000_0000;
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
    pub shape: Shape,
    /// IOPL of the program, as RFLAGS has it.
    pub iopl: u64,
    /// Interrupts come that nobody asked for.
    pub storm: bool,
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
    /// After a storm: INTR is up for what is still asked for, and nothing else.
    pub fn calm(&mut self) {
        if self.vectors.is_empty() {
            self.signals.lower(Signals::INTR);
        }
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

    /// Where the tables at `root` have a linear address, whatever the rights.
    pub fn physical(&self, root: u64, linear: u64) -> u64 {
        let (shifts, bits) = self.shape.levels();
        let size = if bits == 9 { 8 } else { 4 };
        let mut table = root;
        for shift in shifts {
            let at = table + size * (linear >> shift & ((1 << bits) - 1));
            let entry = u64::from(self.ram.read_word::<u32>(Gpa(at)).unwrap_or(0));
            if *shift == 21 && entry & LARGE_BIT != 0 {
                return entry & !0x1f_ffff | linear & 0x1f_ffff;
            }
            table = entry & !0xfff;
        }
        let at = table + size * (linear >> 12 & ((1 << bits) - 1));
        let entry = u64::from(self.ram.read_word::<u32>(Gpa(at)).unwrap_or(0));
        entry & !0xfff | linear & 0xfff
    }

    /// Records an exception and leads the program past it.
    fn exception(&mut self) {
        let top = IST1;
        let found = (!self.shape.long).then(|| Frame::find(self));
        let (vector, code, mut frame) = match &found {
            Some(f) => (f.vector, f.code, f.words),
            None => {
                let word = |n: u64| self.quad(top - 40 + 8 * n);
                let frame = core::array::from_fn(|n| word(n as u64));
                (self.quad(top - 56), self.quad(top - 48), frame)
            }
        };
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
        let bases = [CODE, self.shape.code_alias(), self.shape.code_high()];
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
            let (c, s) = self.shape.selectors();
            (cs, ss) = (c.into(), s.into());
            rsp = self.shape.stack() + 0x1800;
        }
        // The flags that an instruction which did not finish leaves may differ; see
        // `bt::translate`.
        let keep = rflags::IF | rflags::DF | rflags::ID;
        let flags = flags & keep | rflags::FIXED | self.iopl | vector & 0x55 & rflags::ARITHMETIC;
        let words = [next, cs, flags, rsp, ss];
        if let Some(found) = found {
            return found.set(self, words);
        }
        for (n, word) in words.into_iter().enumerate() {
            self.set_quad(top - 40 + 8 * n as u64, word);
        }
    }

    /// The next synchronisation point.
    fn recovery(&self) -> u64 {
        self.base + self.syncs[self.synced.min(self.syncs.len() - 1)]
    }
}

/// What a device says at an address.
pub fn device(at: Gpa, size: u8) -> u64 {
    at.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - 8 * u32::from(size))
}

impl Bus for Recorder {
    fn mmio_read(&mut self, at: Gpa, size: u8) -> u64 {
        self.note(Event::Mmio(at.0, size, None));
        device(at, size)
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
            // A device writes to memory: where it is told to, and what follows from that.
            0x85 => {
                let word = value.wrapping_mul(0x9e37_79b9) ^ self.log.len() as u32;
                let _ = self.ram.write_word(Gpa(value.into()), word);
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
        if self.storm {
            vector.or(Some(STORM))
        } else {
            vector
        }
    }
}

/// Writes a handler.
type Handler<'a> = dyn Fn(&mut CodeAssembler) -> Result<(), IcedError> + 'a;

pub struct World {
    pub ram: Arc<GuestMemory>,
    pub signals: Arc<Signals>,
    pub bus: Recorder,
    pub vcpu: Box<dyn Vcpu>,
    pub shape: Shape,
    next_table: u64,
    /// The entry of the large page with the program, and its value as that of a table.
    frame: (u64, u64),
    /// What [`DELIVERY`] and [`PAGING`] have held at first.
    delivery: Vec<u64>,
    paging: Vec<u64>,
}

fn segment(selector: u16, attributes: u16) -> Segment {
    Segment {
        selector,
        attributes: Attributes(attributes),
        limit: !0,
        base: 0,
    }
}

pub fn descriptor(base: u64, limit: u64, attributes: u64) -> u64 {
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
const G: u64 = 1 << 8;
/// The entry (accessed and dirty) of the large global page that holds the program where its supervisor runs it.
const LARGE: u64 = P | W | G | 3 << 5 | LARGE_BIT;
const LARGE_BIT: u64 = 1 << 7;
/// Those bits of one entry of eight bytes, or of two of four.
const ACCESSED_DIRTY: u64 = 0x60_0000_0060;

/// Paging entries that programs write: where the supervisor has them.
#[derive(Clone, Copy)]
pub struct Entries {
    /// That of [`MOVING`].
    pub moving: u64,
    /// That of the large page with the program, and what it may be: large or a table.
    pub frame: (u64, [u64; 2]),
}

impl World {
    pub fn new(engine: &dyn Engine, shape: Shape) -> World {
        let ram = Arc::new(GuestMemory::flat(2 * RAM).expect("memory"));
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
            shape,
            iopl: 0,
            storm: false,
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
            shape,
            next_table: TABLES + 0x1000,
            frame: (0, 0),
            delivery: Vec::new(),
            paging: Vec::new(),
        };
        if shape.long {
            w.tables();
        } else {
            w.tables_32();
        }
        for (selector, d) in [
            (BASED, descriptor(shape.data() + 0x123, 0xf_ffff, 0xcf3)),
            (LIMITED, descriptor(shape.data(), 0x17ff, 0x4f3)),
            (READ_ONLY, descriptor(shape.data() + 0x800, 0xf_ffff, 0xcf1)),
        ] {
            w.quad(GDT + u64::from(selector & !7), d);
        }
        w.quad(TSS + 4, shape.high() + RSP0);
        if !shape.long {
            w.quad(TSS + 8, KDATA.into());
        }
        // The I/O permission bitmap: all ports allowed.
        w.bytes(TSS + 0x66, &0x68u16.to_le_bytes());
        w.bytes(TSS + 0x2068, &[0xff; 8]);
        w.map_all();
        (w.delivery, w.paging) = (w.quads(DELIVERY), w.quads(PAGING));
        w
    }

    fn quads(&self, at: std::ops::Range<u64>) -> Vec<u64> {
        at.step_by(8).map(|at| self.bus.quad(at)).collect()
    }

    /// Programs have written to what interrupts are delivered by.
    pub fn notices_interrupts(&self) -> bool {
        self.quads(DELIVERY) != self.delivery
    }

    /// Programs have written to page tables, but for the entries that they are given to write: nobody
    /// has flushed what a TLB knows of that.
    pub fn has_other_tables(&self, entries: &Entries) -> bool {
        let given = [entries.moving, entries.frame.0].map(|at| at.wrapping_sub(self.shape.high()));
        let now = self.quads(PAGING);
        let both = PAGING.step_by(8).zip(now.iter().zip(&self.paging));
        both.filter(|(at, _)| !given.map(|at| at & !7).contains(at))
            .any(|(_, (a, b))| (a ^ b) & !ACCESSED_DIRTY != 0)
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

    /// The beginning of a handler: a zero where there is no error code, the vector.
    pub fn stub(&self, n: u64) {
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
    }

    pub fn assemble(&self, at: u64, f: &Handler) {
        let bits = if self.shape.long { 64 } else { 32 };
        let mut a = CodeAssembler::new(bits).unwrap();
        f(&mut a).unwrap();
        self.bytes(at, &a.assemble(self.shape.high() + at).unwrap());
    }

    fn tables(&mut self) {
        for (selector, d) in [
            (KCODE, descriptor(0, 0xf_ffff, 0xa9b)),
            (KDATA, descriptor(0, 0xf_ffff, 0xc93)),
            (UCODE_32, descriptor(0, 0xf_ffff, 0xcfb)),
            (UDATA, descriptor(0, 0xf_ffff, 0xcf3)),
            (UCODE, descriptor(0, 0xf_ffff, 0xafb)),
            (0x30, descriptor(HIGH + TSS, 0x206f, 0x8b)),
        ] {
            self.quad(GDT + u64::from(selector & !7), d);
        }
        self.quad(GDT + 0x38, (HIGH + TSS) >> 32);
        for n in 0..256u64 {
            self.stub(n);
            let dpl = if matches!(n, 3 | 4 | 0x40) { 3 } else { 0 };
            if n == STORM.into() {
                self.bytes(STORM_AT, &[0x48, 0xcf]); // iretq
                self.gate(n, STORM_AT, 2, 0);
            } else if n == 2 || (0x30..0x38).contains(&n) {
                self.gate(n, TRANSPARENT, 2, 0);
            } else {
                self.gate(n, STUBS + 16 * n, 1, dpl);
            }
        }
        let notes = HIGH + NOTES;
        let assemble = |at: u64, f: &Handler| self.assemble(at, f);
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
        self.quad(TSS + 0x24, HIGH + IST1);
        self.quad(TSS + 0x2c, HIGH + IST2);
    }

    /// Maps one page; gives the physical address of its entry.
    pub fn map(&mut self, linear: u64, at: u64, bits: u64) -> u64 {
        let mut table = TABLES;
        let (shifts, index) = self.shape.levels();
        let size = if self.shape.long || self.shape.pae {
            8
        } else {
            4
        };
        let slot = |table: u64, shift: u32| table + size * (linear >> shift & ((1 << index) - 1));
        for shift in shifts {
            let entry = slot(table, *shift);
            let mut value: u32 = self.ram.read_word(Gpa(entry)).expect("RAM");
            if u64::from(value) & P == 0 {
                // An entry of the four that PAE begins with has no rights.
                let rights = if self.shape.pae && *shift == 30 {
                    P
                } else {
                    P | W | U
                };
                value = (self.next_table | rights) as u32;
                self.next_table += 0x1000;
                assert!(self.next_table <= SECOND_TABLES, "no room for page tables");
                self.ram.write_word(Gpa(entry), value).expect("RAM");
            }
            table = u64::from(value & !0xfff);
        }
        let entry = slot(table, 12);
        if size == 8 {
            self.quad(entry, at | bits);
        } else {
            let value = (at | bits) as u32;
            self.ram.write_word(Gpa(entry), value).expect("RAM");
        }
        entry
    }

    fn map_all(&mut self) {
        let shape = self.shape;
        let u = if shape.user { U } else { 0 };
        for n in 0..RAM >> 12 {
            self.map(shape.high() + (n << 12), n << 12, P | W);
        }
        for n in 0..CODE_PAGES {
            let at = CODE_AT + (n << 12);
            self.map(CODE + (n << 12), at, P | W | u);
            self.map(shape.code_alias() + (n << 12), at, P | W | u);
            self.map(shape.code_high() + (n << 12), at, P | W);
        }
        for base in [shape.data(), DATA_LOW] {
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
                let linear = base + ((n as u64) << 12);
                if shape.wide || linear >> 32 == 0 {
                    self.map(linear, DATA_AT + (page << 12), bits);
                }
            }
        }
        if !shape.wide {
            // Data goes on at the other end of the address space.
            self.map(0, DATA_AT + 0x1000, P | W | U);
        }
        // Exceptions of a 32-bit supervisor need its stack whatever SMAP says.
        let stack = if shape.long { U } else { u };
        for n in 0..2 {
            self.map(
                shape.stack() + (n << 12),
                STACK_AT + (n << 12),
                P | W | stack,
            );
        }
        self.map(TABLE, TABLE_AT, P | W | U);
        self.map(MOVING, DATA_AT, P | W | U);
        if shape.spaces {
            self.second_space();
        }
    }

    /// Tables that differ from the first in the page at [`MOVING`] alone. The supervisor's half is
    /// made global in both.
    fn second_space(&mut self) {
        for n in 0..RAM >> 12 {
            self.map(self.shape.high() + (n << 12), n << 12, P | W | G);
        }
        let entry = self.directory_entry(self.shape.code_high());
        self.frame = (entry, self.bus.quad(entry));
        self.quad(entry, LARGE);
        let (mut from, mut to) = (TABLES, SECOND_TABLES);
        for shift in [39, 30, 21, 12] {
            for n in (0..0x1000).step_by(8) {
                let entry: u64 = self.ram.read_word(Gpa(from + n)).expect("RAM");
                self.quad(to + n, entry);
            }
            let entry = 8 * (MOVING >> shift & 511);
            let value: u64 = self.ram.read_word(Gpa(from + entry)).expect("RAM");
            if shift == 12 {
                self.quad(to + entry, (DATA_AT + 0x2000) | value & 0xfff);
            } else {
                self.quad(to + entry, (to + 0x1000) | value & 0xfff);
                from = value & 0xf_ffff_f000;
                to += 0x1000;
            }
        }
    }

    /// Physical address of the entry, in a table of the second lowest level, for a linear address.
    fn directory_entry(&self, linear: u64) -> u64 {
        let slot = |table: u64, shift: u32| table + 8 * (linear >> shift & 511);
        let next = |table, shift| self.bus.quad(slot(table, shift)) & 0xf_ffff_f000;
        slot([39, 30].into_iter().fold(TABLES, next), 21)
    }

    /// The entries for programs of a shape.
    pub fn entries(shape: Shape) -> Entries {
        // The tables come in the order in which they were mapped: found, not known.
        let mut w = World::new(&x86::interp::Interpreter, shape);
        let moving = shape.high() + w.map(MOVING, DATA_AT, P | W | U);
        let (at, table) = w.frame;
        Entries {
            moving,
            frame: (shape.high() + at, [LARGE, table]),
        }
    }

    /// The state in which a program begins.
    pub fn start(&self, rng: &mut Rng) -> CpuState {
        let shape = self.shape;
        let (user, data) = (shape.user, shape.data());
        let mut s = self.vcpu.state();
        s.gdtr = TableRegister {
            base: shape.high() + GDT,
            limit: 0xfff,
        };
        s.idtr = TableRegister {
            base: shape.high() + IDT,
            limit: 0xfff,
        };
        s.tr = Segment {
            base: shape.high() + TSS,
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
        if shape.spaces {
            s.cr4 |= cr4::PGE | cr4::PCIDE;
        }
        if rng.chance(4) {
            s.cr0 |= cr0::AM;
        }
        s.xcr0 = 7;
        s.efer = efer::LME | efer::LMA | efer::SCE | efer::NXE;
        if !shape.long {
            s.efer = if shape.pae { efer::NXE } else { 0 };
            if !shape.pae {
                s.cr4 &= !cr4::PAE;
            }
            for (n, entry) in s.pdpte.iter_mut().enumerate() {
                *entry = self.bus.quad(TABLES + 8 * n as u64);
            }
        }
        s.cpl = if user { 3 } else { 0 };
        let (cs, ss) = shape.selectors();
        let dpl = if user { 0x60 } else { 0 };
        let code = if shape.wide { 0xa9b } else { 0xc9b };
        s.seg = [segment(ss, 0xc93 | dpl); 6];
        s.seg[seg::CS as usize] = segment(cs, code | dpl);
        let odd = rng.pick(&[0, shape.code_alias() + 0x2f00, shape.high(), TABLE + 0x800]);
        let odd = rng.pick(&[DATA_LOW + 0x800, data + 0xff0, odd]);
        let odd = if shape.wide { odd } else { odd & 0xffff_ffff };
        s.seg[seg::FS as usize].base = data + rng.below(0x1800);
        s.seg[seg::GS as usize].base = odd;
        s.msr.kernel_gs_base = data + rng.below(0x2000);
        s.msr.star = 0x1b << 48 | u64::from(KCODE) << 32;
        s.msr.lstar = HIGH + SYSCALL;
        // Linux's, mostly.
        s.msr.sfmask = rng.pick(&[0x25_7fd5, 0x25_7fd5, 0x25_7fd5, 0x4_4700]);
        for r in &mut s.gpr {
            *r = rng.edge();
        }
        if !shape.long {
            for (n, r) in s.gpr.iter_mut().enumerate() {
                *r = if n < 8 { *r & 0xffff_ffff } else { 0 };
            }
        }
        s.gpr[4] = shape.stack() + 0x1800;
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
