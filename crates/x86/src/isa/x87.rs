//! The x87 floating-point unit (SDM volume 1, chapter 8): its register stack, its exceptions and
//! their deferred delivery. The instructions are in the files below, the arithmetic in
//! [`crate::softfloat`].
//!
//! As measured on Intel processors with CPUID.7.EBX[6] and [13] set, which is what this models:
//! FIP is set by every non-control instruction; FOP and FDP only by one that raises an unmasked
//! exception, FDP only if it has a memory operand; FCS and FDS are always zero.
//!
//! An unmasked exception is not delivered by the instruction that meets it but by the next
//! *waiting* x87 or MMX instruction ([`Exec::x87_frozen`]): #MF, or with CR0.NE clear the FERR#
//! pin ([`crate::Bus::ferr`]), where the processor freezes until an interrupt comes.
//!
//! Departure: with CR0.NE clear FERR# is raised by the waiting instruction, as the P6 family does
//! for most instructions, never earlier.

/// The table of a file below.
macro_rules! rows {
    ($($code:ident $run:expr;)*) => {
        &[$(Row::new(Code::$code, $run).unit(Unit::X87)),*]
    };
}

pub(crate) mod arithmetic;
pub(crate) mod compare;
pub(crate) mod control;
pub(crate) mod load_store;
pub(crate) mod transcendental;

use crate::exec::{Exec, attention};
use crate::insn::Insn;
use crate::softfloat::{Env, F80, Flags};
use crate::state::cr0;
use crate::trap::{Done, Trap};

/// Status word bits (SDM volume 1, "x87 FPU Status Register").
pub(crate) mod status {
    /// Stack fault.
    pub const SF: u16 = 1 << 6;
    /// Error summary: an unmasked exception is pending.
    pub const ES: u16 = 1 << 7;
    /// Condition codes.
    pub const C0: u16 = 1 << 8;
    pub const C1: u16 = 1 << 9;
    pub const C2: u16 = 1 << 10;
    pub const C3: u16 = 1 << 14;
    /// Busy: a copy of ES.
    pub const B: u16 = 1 << 15;
    /// Where TOP lies.
    pub const TOP_SHIFT: u16 = 11;
    /// TOP.
    pub const TOP: u16 = 7 << TOP_SHIFT;
    /// The six exceptions.
    pub const EXCEPTIONS: u16 = 0x3f;
}

/// A stack fault as flags of [`Exec::x87_commit`].
const STACK_FAULT: u8 = Flags::IE.bits() | status::SF as u8;

/// To begin every waiting instruction but WAIT's own: delivers what is pending.
macro_rules! waiting {
    ($x:ident) => {
        if $x.x87_frozen()? {
            return Ok(());
        }
    };
}
pub(crate) use waiting;

impl Exec<'_> {
    /// Delivers a pending unmasked exception: #MF, or true if the processor is frozen at this
    /// instruction, which must then end without any effect. To be called first by every waiting
    /// x87 instruction and every MMX instruction.
    #[inline(always)]
    pub(crate) fn x87_frozen(&mut self) -> Done<bool> {
        if self.s.x87.status & status::ES == 0 {
            return Ok(false);
        }
        self.x87_deliver()
    }

    #[cold]
    fn x87_deliver(&mut self) -> Done<bool> {
        if self.s.cr0 & cr0::NE != 0 {
            return Err(Trap::MF);
        }
        if self.bus.ferr(true) {
            return Ok(false);
        }
        // The same instruction again, after a look at the interrupt pins.
        self.next = self.s.rip;
        self.attention |= attention::EVENTS;
        Ok(true)
    }

    /// Works out ES and B anew, after any change of the control word or of the exception flags.
    pub(crate) fn x87_summarize(&mut self) {
        let fpu = &mut self.s.x87;
        let was = fpu.status & status::ES != 0;
        fpu.status &= !(status::ES | status::B);
        if fpu.status & !fpu.control & status::EXCEPTIONS != 0 {
            fpu.status |= status::ES | status::B;
        } else if was && self.s.cr0 & cr0::NE == 0 {
            self.bus.ferr(false);
        }
    }

    /// TOP.
    #[inline(always)]
    fn x87_top(&self) -> u8 {
        (self.s.x87.status >> status::TOP_SHIFT & 7) as u8
    }

    /// The physical number of ST(n).
    #[inline(always)]
    fn x87_physical(&self, n: u8) -> u8 {
        (self.x87_top() + n) & 7
    }

    /// ST(n), `None` if it is empty.
    #[inline(always)]
    pub(crate) fn st(&self, n: u8) -> Option<F80> {
        let r = self.x87_physical(n);
        (self.s.x87.valid >> r & 1 != 0).then_some(self.s.x87.regs[usize::from(r)])
    }

    /// Writes ST(n), which is valid from then on.
    #[inline(always)]
    fn set_st(&mut self, n: u8, value: F80) {
        let r = self.x87_physical(n);
        self.s.x87.valid |= 1 << r;
        self.s.x87.regs[usize::from(r)] = value;
    }

    /// Marks ST(n) empty.
    fn x87_free(&mut self, n: u8) {
        let r = self.x87_physical(n);
        self.s.x87.valid &= !(1 << r);
    }

    /// Adds to TOP.
    #[inline(always)]
    fn x87_turn(&mut self, by: u8) {
        let top = u16::from((self.x87_top() + by) & 7) << status::TOP_SHIFT;
        self.s.x87.status = self.s.x87.status & !status::TOP | top;
    }

    #[inline(always)]
    fn x87_pop(&mut self) {
        self.x87_free(0);
        self.x87_turn(1);
    }

    #[inline(always)]
    fn x87_push(&mut self, value: F80) {
        self.x87_turn(7);
        self.set_st(0, value);
    }

    #[inline(always)]
    fn x87_env(&self) -> Env {
        Env::from_fcw(self.s.x87.control)
    }

    /// True if invalid operation, which stack faults are, is masked.
    #[inline(always)]
    fn x87_invalid_masked(&self) -> bool {
        self.s.x87.control & 1 != 0
    }

    /// Replaces condition codes: `mask` of them by `bits`.
    #[inline(always)]
    fn x87_conditions(&mut self, mask: u16, bits: u16) {
        self.s.x87.status = self.s.x87.status & !mask | bits;
    }

    /// The end of every non-control instruction: exceptions (softfloat's flags, and SF), C1, the
    /// instruction pointer.
    #[inline(always)]
    fn x87_commit(&mut self, i: &Insn, flags: u8, c1: bool) {
        let c1 = if c1 { status::C1 } else { 0 };
        self.s.x87.status = self.s.x87.status & !status::C1 | c1 | u16::from(flags);
        self.x87_instruction(i, flags);
    }

    /// [`Self::x87_commit`] without touching C1.
    #[inline(always)]
    fn x87_instruction(&mut self, i: &Insn, flags: u8) {
        self.s.x87.ip = self.s.rip;
        self.s.x87.cs = 0;
        if u16::from(flags) & !self.s.x87.control & status::EXCEPTIONS != 0 {
            self.x87_unmasked(i);
        }
    }

    #[cold]
    fn x87_unmasked(&mut self, i: &Insn) {
        self.s.x87.opcode = i.imm as u16 & 0x7ff;
        if i.is_mem(0) || i.is_mem(1) {
            self.s.x87.dp = self.ea(i);
            self.s.x87.ds = 0;
        }
        self.x87_summarize();
    }

    /// Ends an instruction whose result goes to ST(n) and which pops `pops` times; an unmasked
    /// IE, DE or ZE leaves the stack as it was.
    #[inline(always)]
    fn x87_store(&mut self, i: &Insn, env: &Env, n: u8, value: F80, pops: u8) {
        if !env.blocks_register_store() {
            self.set_st(n, value);
            for _ in 0..pops {
                self.x87_pop();
            }
        }
        self.x87_commit(i, env.flags.bits(), env.c1);
    }

    /// Ends an instruction that found an operand register empty; its masked answer is the
    /// indefinite in ST(n) and the pops.
    #[cold]
    fn x87_underflow(&mut self, i: &Insn, n: u8, pops: u8) -> Done {
        if self.x87_invalid_masked() {
            self.set_st(n, F80::INDEFINITE);
            for _ in 0..pops {
                self.x87_pop();
            }
        }
        self.x87_commit(i, STACK_FAULT, false);
        Ok(())
    }

    /// True if a push has no room.
    #[inline(always)]
    fn x87_full(&self) -> bool {
        self.st(7).is_some()
    }

    /// Ends an instruction that had no room to push.
    #[cold]
    fn x87_overflow(&mut self, i: &Insn) -> Done {
        if self.x87_invalid_masked() {
            self.x87_push(F80::INDEFINITE);
        }
        self.x87_commit(i, STACK_FAULT, true);
        Ok(())
    }
}

/// The register operand ST(i) of an instruction with operands ST, ST(i) or ST(i), ST.
#[inline(always)]
fn other(i: &Insn, k: usize) -> u8 {
    i.ops[k] & 7
}
