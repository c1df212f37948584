//! REP MOVS and REP STOS by the host's own, page by page, where they go upwards. Downwards, and
//! elements across a page's end, are the interpreter's.

use super::{Address, Building, Holes, NOT_EQUAL, Restore, Slow, SlowPath, TLB_INDEX, field};
use crate::area::Area;
use crate::emit::{Mem, R10, R11, RAX, RCX, RDI, RSI, RSP};
use iced_x86::{Code, Instruction};
use x86::mmu::Access;
use x86::state::rflags;

/// Condition of a jump: unsigned greater.
const ABOVE: u8 = 7;

/// The size of an element as a shift, and whether it is moved (or stored).
pub(super) fn elements(code: Code) -> Option<(u8, bool)> {
    Some(match code {
        Code::Movsb_m8_m8 => (0, true),
        Code::Movsw_m16_m16 => (1, true),
        Code::Movsd_m32_m32 => (2, true),
        Code::Movsq_m64_m64 => (3, true),
        Code::Stosb_m8_AL => (0, false),
        Code::Stosw_m16_AX => (1, false),
        Code::Stosd_m32_EAX => (2, false),
        Code::Stosq_m64_RAX => (3, false),
        _ => return None,
    })
}

impl Building<'_, '_> {
    /// REP MOVS or REP STOS.
    pub(super) fn repeat(&mut self, i: &Instruction) {
        let Some((shift, moves)) = elements(i.code()) else {
            return;
        };
        let retry = self.asm.here();
        let borrowed = self.borrow_flags();
        self.asm.store(field::value, RSP);
        self.asm.load(RSP, field::host_rsp);
        self.asm.take_flags(R10);
        self.asm.load(RSP, field::value);
        self.asm.test_imm32(R10, rflags::DF as u32);
        let holes = vec![self.asm.jcc(NOT_EQUAL)];
        self.end(RDI, Access::Write, shift, retry, borrowed);
        self.asm.store(field::spill, R10);
        if moves {
            self.asm.store(field::detail, R11);
            self.end(RSI, Access::Read, shift, retry, borrowed);
            // No more elements than either page has room for.
            self.asm.cmp_mem(R11, field::detail);
            self.asm.cmova_mem(R11, field::detail);
        }
        self.asm.cmp(R11, RCX);
        self.asm.cmova(R11, RCX);
        // The pointers become the host's; the area holds what leads back, and what is left.
        self.asm.sub(RCX, R11);
        self.asm.store(field::detail, RCX);
        self.asm.mov(RCX, R11);
        if moves {
            self.asm.store(field::target, RSI);
            self.asm.sub_to_mem(field::target, R10);
            self.asm.mov(RSI, R10);
            self.asm.load(R10, field::spill);
        }
        self.asm.store(field::value, RDI);
        self.asm.sub_to_mem(field::value, R10);
        self.asm.mov(RDI, R10);
        if borrowed == Restore::Flags {
            self.asm.mov(R10, RAX);
            self.asm.load(RAX, field::saved);
        }
        self.asm.rep(i.code());
        self.asm.load(R11, field::value);
        self.asm.lea(RDI, Mem::sum(RDI, R11));
        if moves {
            self.asm.load(R11, field::target);
            self.asm.lea(RSI, Mem::sum(RSI, R11));
        }
        self.asm.load(RCX, field::detail);
        if borrowed == Restore::Flags {
            self.asm.mov(RAX, R10);
            self.give_back(borrowed);
        }
        // The next page, after a look at the pins.
        let done = self.asm.jrcxz();
        if !self.shadow {
            self.poll(i.ip(), self.live);
        }
        self.asm.jmp_to(retry);
        self.asm.bind(done);
        self.bail_after(holes, borrowed);
    }

    /// Checks one end: its place in this process into R10, how many elements its page has room for
    /// into R11.
    fn end(&mut self, register: u8, access: Access, shift: u8, retry: u64, restore: Restore) {
        let table = Area::table(self.source.view, access);
        let size = 1 << shift;
        let site = self.access_site(access, size, false, retry);
        self.asm.mov(R11, register);
        self.asm.rorx(R10, R11, 8);
        self.asm.and_imm32(R10, TLB_INDEX);
        self.asm.add_mem(R11, Mem::gs_base(R10, table));
        self.asm.cmp_imm(R11, 4096 - i32::from(size));
        let miss = self.asm.jcc(ABOVE);
        self.slow.push(Slow {
            holes: Holes::One(miss),
            restore,
            site,
            what: SlowPath::Miss(Address::Stack(register, 0), access, None),
        });
        self.asm.load(R10, Mem::gs_base(R10, table + 8));
        self.asm.lea(R10, Mem::sum(R10, R11));
        self.asm.neg(R11);
        self.asm.lea(R11, Mem::base(R11, 4096));
        self.asm.shr(R11, shift);
    }
}
