//! String instructions and loops by ECX in 32-bit code: kernels of that size are full of LODSB,
//! STOSB and REPNE SCASB.
//!
//! One element is moved by the host's own instruction, which knows the direction: ESI and EDI are
//! made host pointers for it and made offsets again behind it, without touching flags. With REP
//! they go upwards to a page's end at most, and then again.

use super::{Address, Building, Class, EQUAL, NOT_EQUAL, field};
use crate::emit::{Mem, R10, R11, RAX, RCX, RSI, RSP};
use iced_x86::{Code, Instruction, OpKind, Register};
use x86::mmu::Access;
use x86::state::rflags;

/// Scratch registers of 32-bit code.
const R8: u8 = 8;
const R9: u8 = 9;
const R12: u8 = 12;
const R13: u8 = 13;
const R14: u8 = 14;
/// EDI.
const RDI: u8 = 7;

/// What a string instruction does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Load,
    Store,
    Move,
    Scan,
    Compare,
}

/// A string instruction: what it does, its opcode, its element's size as a shift.
fn string(code: Code) -> Option<(Kind, u8, u8)> {
    Some(match code {
        Code::Lodsb_AL_m8 => (Kind::Load, 0xac, 0),
        Code::Lodsw_AX_m16 => (Kind::Load, 0xad, 1),
        Code::Lodsd_EAX_m32 => (Kind::Load, 0xad, 2),
        Code::Stosb_m8_AL => (Kind::Store, 0xaa, 0),
        Code::Stosw_m16_AX => (Kind::Store, 0xab, 1),
        Code::Stosd_m32_EAX => (Kind::Store, 0xab, 2),
        Code::Movsb_m8_m8 => (Kind::Move, 0xa4, 0),
        Code::Movsw_m16_m16 => (Kind::Move, 0xa5, 1),
        Code::Movsd_m32_m32 => (Kind::Move, 0xa5, 2),
        Code::Scasb_AL_m8 => (Kind::Scan, 0xae, 0),
        Code::Scasw_AX_m16 => (Kind::Scan, 0xaf, 1),
        Code::Scasd_EAX_m32 => (Kind::Scan, 0xaf, 2),
        Code::Cmpsb_m8_m8 => (Kind::Compare, 0xa6, 0),
        Code::Cmpsw_m16_m16 => (Kind::Compare, 0xa7, 1),
        Code::Cmpsd_m32_m32 => (Kind::Compare, 0xa7, 2),
        _ => return None,
    })
}

/// The class of a string instruction or a branch by ECX that has code here.
pub(super) fn class(i: &Instruction) -> Option<Class> {
    if matches!(
        i.code(),
        Code::Jecxz_rel8_32
            | Code::Loop_rel8_32_ECX
            | Code::Loope_rel8_32_ECX
            | Code::Loopne_rel8_32_ECX
    ) {
        return Some(Class::Loop);
    }
    let (kind, ..) = string(i.code())?;
    let fits = (0..i.op_count()).all(|n| {
        matches!(
            i.op_kind(n),
            OpKind::MemorySegESI | OpKind::MemoryESEDI | OpKind::Register
        )
    });
    let flat = !matches!(i.memory_segment(), Register::FS | Register::GS);
    // REPNE is for these two only.
    let tests = matches!(kind, Kind::Scan | Kind::Compare);
    let once = !i.has_rep_prefix() && !i.has_repne_prefix();
    let here = match kind {
        Kind::Load => once,
        _ => tests || !i.has_repne_prefix(),
    };
    (fits && flat && here).then_some(Class::String)
}

impl Building<'_, '_> {
    pub(super) fn string_32(&mut self, i: &Instruction) {
        let Some((kind, opcode, shift)) = string(i.code()) else {
            return;
        };
        let mut host = Vec::new();
        if i.has_repne_prefix() {
            host.push(0xf2);
        } else if i.has_rep_prefix() {
            host.push(0xf3);
        }
        if shift == 1 {
            host.push(0x66);
        }
        host.push(opcode);
        if i.has_repne_prefix() || i.has_rep_prefix() {
            return self.repeat_32(i, kind, &host, shift);
        }
        let size = 1 << shift;
        match kind {
            Kind::Load => self.one_end(RSI, Access::Read, size, &host),
            Kind::Store => self.one_end(RDI, Access::Write, size, &host),
            Kind::Scan => self.one_end(RDI, Access::Read, size, &host),
            Kind::Move => self.two_ends(Access::Write, size, &host),
            Kind::Compare => self.two_ends(Access::Read, size, &host),
        }
    }

    /// `host - pointer` becomes what, added to the host pointer, makes the guest's again: into
    /// `to`, without flags.
    fn way_back(&mut self, to: u8, host: u8, pointer: u8) {
        self.asm.mov(to, host);
        self.asm.not(to);
        let sum = Mem {
            base: Some(to),
            index: Some((pointer, 0)),
            disp: 1,
            segment: 0,
        };
        self.asm.lea(to, sum);
    }

    fn one_end(&mut self, pointer: u8, access: Access, size: u8, host: &[u8]) {
        self.check(Address::Stack(pointer, 0), access, size);
        self.asm.mov(R8, R11);
        self.way_back(R9, R8, pointer);
        self.asm.mov(pointer, R8);
        self.asm.raw(host);
        self.asm.lea32(pointer, Mem::sum(pointer, R9));
    }

    /// The host's addresses of the elements at ESI (into [`field::value`]) and at EDI (into R8).
    fn ends(&mut self, access: Access, size: u8) {
        self.check(Address::Stack(RSI, 0), Access::Read, size);
        self.asm.store(field::value, R11);
        self.check(Address::Stack(RDI, 0), access, size);
        self.asm.mov(R8, R11);
    }

    fn two_ends(&mut self, access: Access, size: u8, host: &[u8]) {
        self.ends(access, size);
        self.way_back(R9, R8, RDI);
        self.asm.load(R10, field::value);
        self.way_back(R11, R10, RSI);
        self.asm.mov(RSI, R10);
        self.asm.mov(RDI, R8);
        self.asm.raw(host);
        self.asm.lea32(RSI, Mem::sum(RSI, R11));
        self.asm.lea32(RDI, Mem::sum(RDI, R9));
    }

    /// How many elements there are from a pointer to the end of its page.
    fn room(&mut self, to: u8, pointer: u8, shift: u8) {
        self.asm.lea32(to, Mem::base(pointer, 0));
        self.asm.and_imm32(to, 0xfff);
        self.asm.neg(to);
        self.asm.lea(to, Mem::base(to, 0x1000));
        if shift > 0 {
            self.asm.shr(to, shift);
        }
    }

    /// REP: from ESI and EDI upwards to the end of a page, and then again.
    fn repeat_32(&mut self, i: &Instruction, kind: Kind, host: &[u8], shift: u8) {
        let tests = matches!(kind, Kind::Scan | Kind::Compare);
        let two = matches!(kind, Kind::Move | Kind::Compare);
        let (size, access) = match tests {
            true => (1 << shift, Access::Read),
            false => (1 << shift, Access::Write),
        };
        // Without a single element the flags stay as they are.
        let none = self.jump_on_zero(false);
        let live = self.live;
        self.live &= !tests;
        self.upwards();
        if two {
            self.ends(access, size);
        } else {
            self.check(Address::Stack(RDI, 0), access, size);
            self.asm.mov(R8, R11);
        }
        if self.live {
            self.asm.mov(R13, RAX);
            self.asm.lahf();
            self.asm.seto_al();
            self.asm.mov(R14, RAX);
            self.asm.mov(RAX, R13);
        }
        self.room(R9, RDI, shift);
        if two {
            self.room(R10, RSI, shift);
            self.asm.cmp(R9, R10);
            self.asm.cmova(R9, R10);
        }
        // Now: the smaller of ECX and the room. Later: what is left of ECX.
        self.asm.lea32(R10, Mem::base(RCX, 0));
        self.asm.cmp(R10, R9);
        self.asm.cmova(R10, R9);
        self.asm.lea32(R9, Mem::base(RCX, 0));
        self.asm.sub(R9, R10);
        self.asm.mov(RCX, R10);
        self.asm.mov(R11, RDI);
        self.asm.sub(R11, R8);
        self.asm.mov(RDI, R8);
        if two {
            self.asm.load(R12, field::value);
            self.asm.mov(R10, RSI);
            self.asm.sub(R10, R12);
            self.asm.mov(RSI, R12);
        }
        self.asm.raw(host);
        self.asm.lea32(RDI, Mem::sum(RDI, R11));
        if two {
            self.asm.lea32(RSI, Mem::sum(RSI, R10));
        }
        self.asm.lea32(RCX, Mem::sum(RCX, R9));
        if self.live {
            self.asm.mov(R13, RAX);
            self.asm.mov(RAX, R14);
            self.asm.give_lahf();
            self.asm.mov(RAX, R13);
        }
        let mut done = vec![none];
        if tests {
            let stops = if i.has_repne_prefix() {
                EQUAL
            } else {
                NOT_EQUAL
            };
            done.push(self.asm.jcc(stops));
        }
        done.push(self.jump_on_zero(false));
        self.go_again(i.ip(), true);
        for hole in done {
            self.asm.bind(hole);
        }
        self.live = live;
    }

    /// Leaves for the interpreter if DF is set; touches no flags.
    fn upwards(&mut self) {
        self.asm.store(field::saved, RSP);
        self.asm.load(RSP, field::host_rsp);
        self.asm.take_flags(R9);
        self.asm.load(RSP, field::saved);
        self.asm.mov_imm(R10, rflags::DF);
        self.asm.mov(R11, RCX);
        self.asm.pext32(RCX, R9, R10);
        let up = self.asm.jrcxz();
        self.asm.mov(RCX, R11);
        let down = self.asm.jmp();
        self.bail(vec![down]);
        self.asm.bind(up);
        self.asm.mov(RCX, R11);
    }
}
