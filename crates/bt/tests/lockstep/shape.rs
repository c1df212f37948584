//! The kinds of program and of kernel below it, and what a 32-bit kernel has otherwise: tables,
//! handlers, the frame of an exception.

use crate::world::{
    CODE_ALIAS, CODE_AT, CODE_HIGH, COMMON, DATA, GDT, HIGH, IDT, KCODE, KDATA, NOTES, Recorder,
    STACK, STUBS, TABLES, TRANSPARENT, TSS, UCODE, UDATA, WINDOW, World, descriptor,
};
use mem::Gpa;

/// Selectors of segments for FS and GS: with a base, with a limit, not to be written.
pub const BASED: u16 = 0x43;
pub const LIMITED: u16 = 0x4b;
pub const READ_ONLY: u16 = 0x53;
/// 32-bit user code.
pub const UCODE_32: u16 = 0x1b;

/// What runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    /// The program is in ring 3.
    pub user: bool,
    /// The program is 64-bit code.
    pub wide: bool,
    /// The kernel is 64-bit code.
    pub long: bool,
    /// A 32-bit kernel pages with tables of 8-byte entries.
    pub pae: bool,
    /// Pieces that aim at the borders of pages, and the like.
    pub hard: bool,
    /// Two address spaces with PCIDs and global pages, the supervisor's program in a large one.
    pub spaces: bool,
    /// Interrupts come to the translated program at any time.
    pub storm: bool,
    /// The program lies where the host's MMU is used for it, which is at once.
    pub window: bool,
    /// The translator holds every block against its own interpreter.
    pub checked: bool,
}

impl Shape {
    pub fn wide(user: bool) -> Shape {
        Shape {
            user,
            wide: true,
            long: true,
            pae: false,
            hard: false,
            spaces: false,
            storm: false,
            checked: false,
            window: false,
        }
    }
    /// 64-bit code of ring 3 whose data, stack and other code are between 2⁴⁶ and 2⁴⁷.
    pub fn window() -> Shape {
        Shape {
            window: true,
            ..Shape::hard(true, false)
        }
    }
    /// 64-bit code with the pieces of `generate::hard`.
    pub fn hard(user: bool, spaces: bool) -> Shape {
        Shape {
            hard: true,
            spaces: spaces && !user,
            ..Shape::wide(user)
        }
    }
    /// 32-bit code under a 64-bit kernel.
    pub fn compatibility() -> Shape {
        Shape {
            user: true,
            wide: false,
            long: true,
            pae: false,
            hard: false,
            spaces: false,
            storm: false,
            checked: false,
            window: false,
        }
    }
    pub fn protected(user: bool, pae: bool) -> Shape {
        Shape {
            user,
            wide: false,
            long: false,
            pae,
            hard: false,
            spaces: false,
            storm: false,
            checked: false,
            window: false,
        }
    }
    pub fn bits(self) -> u32 {
        if self.wide { 64 } else { 32 }
    }
    fn cut(self, address: u64, long: bool) -> u64 {
        if long { address } else { address & 0xffff_ffff }
    }
    /// Linear address of physical address 0, for the supervisor.
    pub fn high(self) -> u64 {
        self.cut(HIGH, self.long)
    }
    pub fn code_high(self) -> u64 {
        // In a large page it is where RAM's beginning has it.
        let into = if self.spaces { CODE_AT } else { 0 };
        self.cut(CODE_HIGH + into, self.wide)
    }
    /// The program's data: above 4 GB, or up to the very end of the address space.
    pub fn data(self) -> u64 {
        match (self.wide, self.window) {
            (true, true) => WINDOW,
            (true, false) => DATA,
            (false, _) => 0xffff_6000,
        }
    }
    /// Its stack.
    pub fn stack(self) -> u64 {
        STACK + if self.window { WINDOW } else { 0 }
    }
    /// Its code once more.
    pub fn code_alias(self) -> u64 {
        CODE_ALIAS + if self.window { WINDOW } else { 0 }
    }
    /// Selectors in CS and SS.
    pub fn selectors(self) -> (u16, u16) {
        match (self.user, self.wide) {
            (true, true) => (UCODE, UDATA),
            (true, false) => (UCODE_32, UDATA),
            (false, _) => (KCODE, KDATA),
        }
    }
    /// Shifts of the levels of page tables above the last, and bits of an index.
    pub fn levels(self) -> (&'static [u32], u32) {
        match (self.long, self.pae) {
            (true, _) => (&[39, 30, 21], 9),
            (false, true) => (&[30, 21], 9),
            (false, false) => (&[22], 10),
        }
    }
}

/// Where the handler of a 32-bit kernel notes its stack pointer.
const STACK_NOTE: u64 = NOTES + 0x40;

/// What an exception has left on the stack: vector, error code, frame.
pub struct Frame {
    /// Physical address of each word.
    at: Vec<u64>,
    pub vector: u64,
    pub code: u64,
    /// RIP, CS, RFLAGS, RSP, SS; the last two as they are where the frame has none.
    pub words: [u64; 5],
}

impl Frame {
    /// Finds the frame that the handler of a 32-bit kernel has on its stack.
    pub fn find(bus: &Recorder) -> Frame {
        // A stack pointer that leads to the device leads nowhere.
        let read = |at: u64| u64::from(bus.ram.read_word::<u32>(Gpa(at)).unwrap_or(0));
        let esp = read(STACK_NOTE);
        let count = if bus.shape.user { 5 } else { 3 };
        // EAX, the vector, the error code, the frame.
        let place = |n: u64| bus.physical(TABLES, (esp + 4 * n) & 0xffff_ffff);
        let mut words = [0, 0, 0, esp, 0];
        let at: Vec<u64> = (3..3 + count).map(place).collect();
        for (word, at) in words.iter_mut().zip(&at) {
            *word = read(*at);
        }
        Frame {
            vector: read(place(1)),
            code: read(place(2)),
            at,
            words,
        }
    }

    /// Replaces the frame.
    pub fn set(&self, bus: &Recorder, words: [u64; 5]) {
        for (at, word) in self.at.iter().zip(words) {
            let _ = bus.ram.write_word(Gpa(*at), word as u32);
        }
    }
}

impl World {
    /// The tables and handlers of a 32-bit kernel.
    pub fn tables_32(&self) {
        for (selector, d) in [
            (KCODE, descriptor(0, 0xf_ffff, 0xc9b)),
            (KDATA, descriptor(0, 0xf_ffff, 0xc93)),
            (UCODE_32, descriptor(0, 0xf_ffff, 0xcfb)),
            (UDATA, descriptor(0, 0xf_ffff, 0xcf3)),
            (0x30, descriptor(self.shape.high() + TSS, 0x206f, 0x8b)),
        ] {
            self.quad(GDT + u64::from(selector & !7), d);
        }
        for n in 0..256u64 {
            self.stub(n);
            let dpl = if matches!(n, 3 | 4 | 0x40) { 3 } else { 0 };
            let to = if n == 2 || (0x30..0x38).contains(&n) {
                TRANSPARENT
            } else {
                STUBS + 16 * n
            };
            let to = self.shape.high() + to;
            let gate =
                to & 0xffff | u64::from(KCODE) << 16 | (0x8e | dpl << 5) << 40 | (to >> 16) << 48;
            self.quad(IDT + 8 * n, gate);
        }
        let note = |at: u64| (self.shape.high() + at) as u32;
        use iced_x86::code_asm::*;
        self.assemble(COMMON, &|a| {
            a.push(eax)?;
            a.mov(eax, cr2)?;
            a.mov(dword_ptr(note(NOTES)), eax)?;
            a.mov(dword_ptr(note(STACK_NOTE)), esp)?;
            a.out(0x82, al)?;
            a.pop(eax)?;
            a.add(esp, 8)?;
            a.iretd()
        });
        let user = self.shape.user;
        self.assemble(TRANSPARENT, &|a| {
            a.movups(xmmword_ptr(note(NOTES + 16)), xmm0)?;
            a.inc(dword_ptr(note(NOTES + 8)))?;
            a.pcmpeqd(xmm0, xmm0)?;
            a.movups(xmm0, xmmword_ptr(note(NOTES + 16)))?;
            if user {
                return a.iretd();
            }
            // The frame is on the program's own stack: its image of the flags, of which the dead
            // ones may differ, is wiped.
            a.push(dword_ptr(esp + 8))?;
            a.mov(dword_ptr(esp + 12), 0)?;
            a.popfd()?;
            a.mov(dword_ptr(esp - 4), 0)?;
            a.lea(esp, dword_ptr(esp + 12))?;
            a.jmp(dword_ptr(esp - 12))
        });
    }
}
