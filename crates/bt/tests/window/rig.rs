//! A processor with a kernel that is just enough for programs in ring 3: it notes every exception,
//! does to the page tables what the test has in store for it, and serves by INT 0x80.

use crate::support::{END, EndBus};
use bt::{Options, Switches, Translation};
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use mem::{Gpa, GuestMemory};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use x86::cpuid::CpuModel;
use x86::interp::Interpreter;
use x86::state::{Attributes, CpuState, Segment, TableRegister, cr0, cr4, efer, rflags};
use x86::{Engine, Signals, Stop, Vcpu};

/// Bytes of RAM.
pub const RAM: u64 = 8 << 20;
/// Linear address of physical address 0, for the kernel.
pub const KERNEL: u64 = 0xffff_8000_0000_0000;
/// Two address spaces.
pub const SPACES: [u64; 2] = [0x1000, 0x2000];
const TABLES: u64 = 0x4000;
const IDT: u64 = 0x2_0000;
const GDT: u64 = 0x2_1000;
const TSS: u64 = 0x2_2000;
const STUBS: u64 = 0x2_3000;
const COMMON: u64 = 0x2_3800;
const SERVICE: u64 = 0x2_3c00;
/// The kernel's stack: what is there is nobody's business. A second processor's is behind it.
const KERNEL_STACK: u64 = 0x2_6000;
/// How many words the kernel has noted, and these.
const LOG: u64 = 4 << 20;
/// So many words at most.
const LOG_WORDS: u64 = 24 * 0x4000;
/// Where the next of what is in store is, and all of it.
const STORE: u64 = 0x9_0000;
/// Physical pages for programs.
pub const FREE: u64 = 0x10_0000;

/// Of page table entries.
pub const READ_ONLY: u64 = 5;
pub const WRITABLE: u64 = 7;

/// The program's code, data and stack, where the window is for them.
pub const HIGH: u64 = 0x7f00_1000_0000;
pub const CODE: u64 = HIGH;
pub const CODE_AT: u64 = FREE;
const CODE_PAGES: u64 = 16;
pub const DATA: u64 = HIGH + 0x10_0000;
pub const DATA_AT: u64 = FREE + 0x1_0000;
/// Pages of data that are mapped from the start.
pub const DATA_PAGES: u64 = 64;
/// The stack's two pages; what is below and above is not mapped.
pub const STACK: u64 = HIGH + 0x18_0000;
pub const STACK_AT: u64 = FREE + 0x8_0000;
pub const TOP: u64 = STACK + 0x1800;
/// Pages that are mapped nowhere from the start.
pub const OTHER_AT: u64 = FREE + 0xa_0000;
/// Data below 4 GiB.
pub const LOW: u64 = 0x60_0000;
pub const LOW_AT: u64 = FREE + 0x9_0000;

pub type Code<'a> = dyn Fn(&mut CodeAssembler) -> Result<(), IcedError> + 'a;

/// A piece of a program.
pub type Part = fn(&mut CodeAssembler) -> Result<(), IcedError>;

/// What the kernel notes of an exception.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Noted {
    pub gpr: [u64; 16],
    pub vector: u64,
    pub error: u64,
    pub rip: u64,
    pub rflags: u64,
    pub cr2: u64,
}

/// What the kernel is asked for by INT 0x80, with EAX as this; RCX is lost.
#[derive(Clone, Copy)]
pub enum Service {
    /// The program is done.
    End = 0,
    /// Stores RSI at RDI, which is the kernel's.
    Store,
    /// The same, and INVLPG of RDX.
    StoreInvlpg,
    /// The same, and CR3 is loaded again.
    StoreFlush,
    /// RAX from RDI.
    Load,
    /// CR3 becomes RSI.
    Space,
    /// DR0 becomes RDI, DR7 RSI.
    Debug,
}

/// A processor in ring 3 of 64-bit mode, about to run a program.
pub struct Rig {
    pub vcpu: Box<dyn Vcpu>,
    pub bus: EndBus,
    pub ram: Arc<GuestMemory>,
    pub start: CpuState,
    next_table: u64,
    stored: u64,
}

impl Rig {
    pub fn new(engine: &dyn Engine) -> Rig {
        let ram = Arc::new(GuestMemory::flat(RAM).unwrap());
        let mut rig = Rig::processor(engine, 0, ram);
        rig.kernel();
        // The kernel's half, in large pages.
        for space in SPACES {
            for n in 0..RAM >> 21 {
                let linear = KERNEL + (n << 21);
                let entry = rig.entry(space, linear, 21);
                rig.word(entry, n << 21 | 0x83);
            }
            for n in 0..CODE_PAGES {
                rig.map(space, CODE + (n << 12), (CODE_AT + (n << 12)) | WRITABLE);
            }
            for n in 0..2 {
                rig.map(space, STACK + (n << 12), (STACK_AT + (n << 12)) | WRITABLE);
            }
        }
        for n in 0..DATA_PAGES {
            rig.map(
                SPACES[0],
                DATA + (n << 12),
                (DATA_AT + (n << 12)) | WRITABLE,
            );
        }
        for n in 0..2 {
            rig.map(SPACES[0], LOW + (n << 12), (LOW_AT + (n << 12)) | WRITABLE);
        }
        rig
    }

    fn processor(engine: &dyn Engine, id: u32, ram: Arc<GuestMemory>) -> Rig {
        let signals = Arc::new(Signals::default());
        let vcpu = engine
            .vcpu(id, &CpuModel::everything(), ram.clone(), signals.clone())
            .unwrap();
        Rig {
            vcpu,
            bus: EndBus(signals),
            ram,
            start: start(),
            next_table: TABLES,
            stored: 0,
        }
    }

    /// Another processor of the same machine, whose stack is the lower one of the two pages. For
    /// programs without exceptions, and after all that is mapped.
    pub fn second(&self, engine: &dyn Engine) -> Rig {
        let mut second = Rig::processor(engine, 1, self.ram.clone());
        let tss = TSS + 0x80;
        self.word(tss + 4, KERNEL + KERNEL_STACK + 0x1000);
        second.start.tr.base = KERNEL + tss;
        second.start.gpr[4] = TOP - 0x1000;
        second
    }

    pub fn word(&self, at: u64, value: u64) {
        self.ram.write_word(Gpa(at), value).unwrap();
    }

    pub fn read(&self, at: u64) -> u64 {
        self.ram.read_word(Gpa(at)).unwrap()
    }

    /// Where the entry for a linear address is, at the level whose index begins at a bit, with the tables
    /// above it.
    pub fn entry(&mut self, space: u64, linear: u64, level: u32) -> u64 {
        let mut table = space;
        for shift in [39, 30, 21, 12] {
            let entry = table + 8 * (linear >> shift & 511);
            if shift == level {
                return entry;
            }
            if self.read(entry) & 1 == 0 {
                self.word(entry, self.next_table | 7);
                self.next_table += 0x1000;
                assert!(self.next_table <= IDT, "no room for page tables");
            }
            table = self.read(entry) & !0xfff;
        }
        unreachable!("no such level")
    }

    /// Maps a page by an entry; where that is for the kernel.
    pub fn map(&mut self, space: u64, linear: u64, entry: u64) -> u64 {
        let at = self.entry(space, linear, 12);
        self.word(at, entry);
        KERNEL + at
    }

    /// Where the kernel has the entry of a page.
    pub fn table(&mut self, linear: u64) -> u64 {
        KERNEL + self.entry(SPACES[0], linear, 12)
    }

    /// Where the kernel has the entry of the uppermost table for a linear address.
    pub fn upper(&mut self, linear: u64) -> u64 {
        KERNEL + self.entry(SPACES[0], linear, 39)
    }

    /// Puts code at a place, for a linear address.
    pub fn put(&self, linear: u64, at: u64, code: &Code<'_>) {
        let mut a = CodeAssembler::new(64).unwrap();
        code(&mut a).unwrap();
        let code = a.assemble(linear).unwrap();
        assert!(code.len() as u64 <= CODE_PAGES << 12);
        self.ram.write(Gpa(at), &code).unwrap();
    }

    /// The program, at [`CODE`], which ends behind it.
    pub fn program(&self, code: &Code<'_>) {
        self.put(CODE, CODE_AT, &|a| {
            code(a)?;
            serve(a, Service::End)
        });
    }

    /// What the kernel does at the next exception that has none in store yet: stores a value at an
    /// address, with INVLPG of CR2, and goes on at another RIP; or not, where one is zero. If there is
    /// nothing in store it goes on where R15 says, or ends the program if that is zero.
    pub fn store(&mut self, at: u64, value: u64, rip: u64) {
        let to = STORE + 8 + 24 * self.stored;
        for (n, word) in [at, value, rip].into_iter().enumerate() {
            self.word(to + 8 * n as u64, word);
        }
        self.stored += 1;
        assert!(to < FREE - 48);
    }

    fn kernel(&self) {
        self.word(STORE, KERNEL + STORE + 8);
        for (n, descriptor) in [
            (1, 0xaf_9b00_0000_ffffu64),
            (2, 0xcf_9300_0000_ffff),
            (3, 0xcf_f300_0000_ffff),
            (4, 0xaf_fb00_0000_ffff),
        ] {
            self.word(GDT + 8 * n, descriptor);
        }
        self.word(TSS + 4, KERNEL + KERNEL_STACK);
        let gate = |vector: u64, handler: u64, rights: u64| {
            let to = KERNEL + handler;
            let low = to & 0xffff | 8 << 16 | rights << 40 | (to >> 16 & 0xffff) << 48;
            self.word(IDT + 16 * vector, low);
            self.word(IDT + 16 * vector + 8, to >> 32);
        };
        for vector in [0, 1, 3, 6, 12, 13, 14, 16, 17, 19u64] {
            let at = STUBS + 16 * vector;
            gate(vector, at, 0x8e);
            self.put(KERNEL + at, at, &|a| {
                if !matches!(vector, 12..=14 | 17) {
                    a.push(0)?;
                }
                a.push(vector as i32)?;
                a.jmp(KERNEL + COMMON)
            });
        }
        gate(0x80, SERVICE, 0xee);
        self.put(KERNEL + COMMON, COMMON, &common);
        self.put(KERNEL + SERVICE, SERVICE, &service);
    }

    /// Runs from the start to the end of the program, or to where that pauses by [`END`].
    pub fn run(&mut self) {
        self.vcpu.set_state(&self.start.clone()).unwrap();
        self.go_on();
    }

    /// Runs on to there.
    pub fn go_on(&mut self) {
        let stop = self.vcpu.run(&mut self.bus, u64::MAX);
        assert_eq!(stop, Stop::Requested);
        self.bus.0.lower(Signals::RETURN);
    }

    /// The exceptions that were noted.
    pub fn noted(&self) -> Vec<Noted> {
        let count = self.read(LOG) / 24;
        assert!(count <= LOG_WORDS / 24, "no end of exceptions");
        (0..count)
            .map(|n| {
                let word = |k: u64| self.read(LOG + 8 + 8 * (24 * n + k));
                let mut gpr = core::array::from_fn(|k| word(k as u64));
                gpr[4] = word(21);
                Noted {
                    gpr,
                    vector: word(16),
                    error: word(17),
                    rip: word(18),
                    // The others may be dead, and anything then.
                    rflags: word(20) & !rflags::ARITHMETIC,
                    cr2: word(23),
                }
            })
            .collect()
    }

    pub fn count(&self, name: &str) -> u64 {
        let report = self.vcpu.report();
        let of = report.iter().find(|(n, _)| n == name);
        of.unwrap_or_else(|| panic!("no counter {name}")).1
    }

    /// All of RAM that the engines must leave alike.
    fn image(&self) -> Vec<u8> {
        let mut bytes = vec![0; RAM as usize];
        self.ram.read(Gpa(0), &mut bytes).unwrap();
        bytes[KERNEL_STACK as usize - 0x1000..KERNEL_STACK as usize].fill(0);
        // What was noted is compared apart.
        bytes[LOG as usize..].fill(0);
        bytes
    }
}

/// Notes everything, does what is in store.
fn common(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let [mut no_entry, mut nothing, mut here, mut goes_on, mut out] =
        core::array::from_fn(|_| a.create_label());
    let registers = [
        rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15,
    ];
    for register in registers.into_iter().rev() {
        a.push(register)?;
    }
    a.mov(rdx, KERNEL + LOG)?;
    a.mov(rcx, qword_ptr(rdx))?;
    a.lea(rdi, qword_ptr(rdx + rcx * 8 + 8))?;
    a.add(rcx, 24)?;
    a.mov(qword_ptr(rdx), rcx)?;
    a.mov(rsi, rsp)?;
    a.mov(ecx, 23)?;
    a.cld()?;
    a.rep().movsq()?;
    a.mov(rax, cr2)?;
    a.stosq()?;
    a.mov(rbx, KERNEL + STORE)?;
    a.mov(rcx, qword_ptr(rbx))?;
    a.mov(rax, qword_ptr(rcx))?;
    a.mov(rdx, qword_ptr(rcx + 8))?;
    a.mov(rsi, qword_ptr(rcx + 16))?;
    a.test(rax, rax)?;
    a.je(no_entry)?;
    a.add(rcx, 24)?;
    a.mov(qword_ptr(rbx), rcx)?;
    a.mov(qword_ptr(rax), rdx)?;
    a.mov(rax, cr2)?;
    a.invlpg(byte_ptr(rax))?;
    a.test(rsi, rsi)?;
    a.je(out)?;
    a.jmp(goes_on)?;
    a.set_label(&mut no_entry)?;
    a.test(rsi, rsi)?;
    a.cmovz(rsi, r15)?;
    a.je(nothing)?;
    a.add(rcx, 24)?;
    a.mov(qword_ptr(rbx), rcx)?;
    a.set_label(&mut nothing)?;
    a.mov(rdx, KERNEL + LOG)?;
    // Or if there is no end of exceptions.
    a.mov(eax, 0)?;
    a.cmp(qword_ptr(rdx), LOG_WORDS as i32)?;
    a.cmova(rsi, rax)?;
    a.test(rsi, rsi)?;
    a.jne(goes_on)?;
    a.out(u32::from(END), al)?;
    a.set_label(&mut here)?;
    a.jmp(here)?;
    a.set_label(&mut goes_on)?;
    a.mov(qword_ptr(rsp + 144), rsi)?;
    a.set_label(&mut out)?;
    for register in registers {
        if register == rsp {
            a.lea(rsp, qword_ptr(rsp + 8))?;
        } else {
            a.pop(register)?;
        }
    }
    a.lea(rsp, qword_ptr(rsp + 16))?;
    a.iretq()
}

fn service(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let mut labels: [CodeLabel; 8] = core::array::from_fn(|_| a.create_label());
    let [
        store,
        store_invlpg,
        store_flush,
        load,
        space,
        debug,
        out,
        here,
    ] = &mut labels;
    for (n, label) in [
        (Service::Store, &mut *store),
        (Service::StoreInvlpg, store_invlpg),
        (Service::StoreFlush, store_flush),
        (Service::Load, load),
        (Service::Space, space),
        (Service::Debug, debug),
    ] {
        a.cmp(eax, n as i32)?;
        a.je(*label)?;
    }
    a.out(u32::from(END), al)?;
    a.set_label(here)?;
    a.jmp(*here)?;
    a.set_label(store_invlpg)?;
    a.mov(qword_ptr(rdi), rsi)?;
    a.invlpg(byte_ptr(rdx))?;
    a.jmp(*out)?;
    a.set_label(store_flush)?;
    a.mov(qword_ptr(rdi), rsi)?;
    a.mov(rcx, cr3)?;
    a.mov(cr3, rcx)?;
    a.jmp(*out)?;
    a.set_label(store)?;
    a.mov(qword_ptr(rdi), rsi)?;
    a.jmp(*out)?;
    a.set_label(load)?;
    a.mov(rax, qword_ptr(rdi))?;
    a.jmp(*out)?;
    a.set_label(space)?;
    a.mov(cr3, rsi)?;
    a.jmp(*out)?;
    a.set_label(debug)?;
    a.mov(dr0, rdi)?;
    a.mov(dr7, rsi)?;
    a.set_label(out)?;
    a.iretq()
}

fn start() -> CpuState {
    let mut s = CpuState::reset(0, true);
    let flat = |selector, attributes| Segment {
        selector,
        attributes: Attributes(attributes),
        limit: !0,
        base: 0,
    };
    s.seg = [flat(0x1b, 0xcf3); 6];
    s.seg[1] = flat(0x23, 0xafb);
    s.cpl = 3;
    let table = |base, limit| TableRegister {
        base: KERNEL + base,
        limit,
    };
    s.gdtr = table(GDT, 0x3f);
    s.idtr = table(IDT, 0xfff);
    s.tr = Segment {
        selector: 0x28,
        attributes: Attributes(0x8b),
        limit: 0x67,
        base: KERNEL + TSS,
    };
    s.msr.star = 0x10 << 48 | 8 << 32;
    s.msr.sfmask = 0x4_7fd5;
    s.cr0 = cr0::PE | cr0::PG | cr0::ET | cr0::NE | cr0::WP | cr0::MP;
    s.cr3 = SPACES[0];
    s.cr4 = cr4::PAE | cr4::OSFXSR | cr4::OSXMMEXCPT | cr4::FSGSBASE | cr4::PCIDE | cr4::OSXSAVE;
    s.xcr0 = 7;
    s.efer = efer::LME | efer::LMA | efer::SCE;
    s.rip = CODE;
    s.gpr[4] = TOP;
    s
}

/// Asks the kernel for something.
pub fn serve(a: &mut CodeAssembler, what: Service) -> Result<(), IcedError> {
    a.mov(eax, what as i32)?;
    a.int(0x80)
}

/// Has the kernel change an entry, for a linear address.
pub fn change(
    a: &mut CodeAssembler,
    how: Service,
    table: u64,
    entry: u64,
    linear: u64,
) -> Result<(), IcedError> {
    a.mov(rdi, table)?;
    a.mov(rsi, entry)?;
    a.mov(rdx, linear)?;
    serve(a, how)
}

/// The turn of a test: there is one window in a process. None on a host without one.
pub fn turn() -> Option<impl Drop> {
    static TURN: Mutex<()> = Mutex::new(());
    if !bt::window_possible() {
        println!("skipped: this host has no window");
        return None;
    }
    Some(TURN.lock().unwrap_or_else(PoisonError::into_inner))
}

/// The translator that lets every program in at once, without some optimisations.
pub fn through(off: &str) -> Translation {
    through_after(Duration::ZERO, off)
}

/// The same, after a time.
pub fn through_after(time: Duration, off: &str) -> Translation {
    let mut options = Options {
        window_after: Some(time),
        ..Options::default()
    };
    if !off.is_empty() {
        options.switches = Switches::without(off).unwrap();
    }
    Translation::new(options).unwrap()
}

/// Runs a program by the interpreter and through the window: the exceptions, the state and all of RAM,
/// page tables included, must be the same. Then looks at what has become of it, each time.
pub fn compare(prepare: &dyn Fn(&mut Rig), look: &dyn Fn(&Rig)) {
    let Some(_turn) = turn() else { return };
    let mut expected = Rig::new(&Interpreter);
    prepare(&mut expected);
    expected.run();
    let (notes, image) = (expected.noted(), expected.image());
    for off in ["", "stack-runs", "early-check", "liveness", "resume"] {
        let mut got = Rig::new(&through(off));
        prepare(&mut got);
        got.run();
        assert_eq!(got.noted(), notes, "without {off:?}");
        let now = got.image();
        if now != image {
            let differs = image.iter().zip(&now).position(|(a, b)| a != b);
            panic!("without {off:?}: RAM at {differs:x?}");
        }
        let (a, b) = (expected.vcpu.state(), got.vcpu.state());
        let of = |s: &CpuState| (s.gpr, s.rip, s.cpl, s.cr2, s.cr3, s.rflags & rflags::IF);
        assert_eq!(of(&a), of(&b), "without {off:?}");
        assert!(got.count("windows") > 0, "not let in");
        look(&got);
    }
}
