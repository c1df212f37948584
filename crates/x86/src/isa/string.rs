//! String instructions (SDM volume 2: MOVS, CMPS, SCAS, LODS, STOS with REP, REPE, REPNE). INS and
//! OUTS are with the ports.
//!
//! A repeated instruction does a bounded number of elements and then, if more remain, ends with
//! RIP on itself, so that interrupts are taken between elements as on hardware. Registers are
//! exact after every element, so a fault in the middle needs no repair.

use crate::exec::{Exec, attention};
use crate::insn::Insn;
use crate::mmu::Access;
use crate::state::{gpr, rflags, seg};
use crate::table::Row;
use crate::trap::Done;
use iced_x86::Code;
use mem::Word;

/// Elements, or runs of elements inside a page, done before RIP is put back on the instruction.
const CHUNK: u32 = 1024;

/// The registers of a string instruction, in its address size.
struct Walk {
    mask: u64,
    step: u64,
}

impl Walk {
    fn new<T: Word>(x: &Exec<'_>, i: &Insn) -> Walk {
        let size = T::SIZE as u64;
        let down = x.s.rflags & rflags::DF != 0;
        Walk {
            mask: i.address_mask(),
            step: if down { size.wrapping_neg() } else { size },
        }
    }
    #[inline(always)]
    fn at(&self, x: &Exec<'_>, n: usize) -> u64 {
        x.s.gpr[n] & self.mask
    }
    #[inline(always)]
    fn set(&self, x: &mut Exec<'_>, n: usize, value: u64) {
        let old = x.s.gpr[n];
        // As register writes: 16 bits keep the rest, 32 bits clear the upper half.
        x.s.gpr[n] = match self.mask {
            0xffff => old & !0xffff | value & 0xffff,
            mask => value & mask,
        };
    }
    #[inline(always)]
    fn advance(&self, x: &mut Exec<'_>, n: usize, elements: u64) {
        let value = x.s.gpr[n].wrapping_add(self.step.wrapping_mul(elements));
        self.set(x, n, value);
    }
}

/// Runs `element` once, or under a REP prefix until rCX is zero or it answers `false`; `element`
/// gets the number of elements left and says how many it did.
#[inline(always)]
fn repeat<T: Word>(
    x: &mut Exec<'_>,
    i: &Insn,
    mut element: impl FnMut(&mut Exec<'_>, &Walk, u64) -> Done<(u64, bool)>,
) -> Done {
    let walk = Walk::new::<T>(x, i);
    if !i.rep && !i.repne {
        return element(x, &walk, 1).map(|_| ());
    }
    let mut left = walk.at(x, gpr::RCX);
    // A 32-bit count is written back even if nothing is done.
    walk.set(x, gpr::RCX, left);
    let flags = x.flags;
    let mut budget = CHUNK;
    while left != 0 {
        let (done, more) = match element(x, &walk, left) {
            Ok(step) => step,
            Err(trap) => {
                // A fault leaves the flags as they were before the instruction.
                x.flags = flags;
                return Err(trap);
            }
        };
        left -= done;
        walk.set(x, gpr::RCX, left);
        if !more {
            return Ok(());
        }
        budget -= 1;
        if left != 0 && (budget == 0 || x.interrupted()) {
            x.resume_later();
            return Ok(());
        }
    }
    Ok(())
}

/// REP MOVS and REP STOS with 32-bit addresses write their pointers back even if nothing is done.
fn narrow(x: &mut Exec<'_>, i: &Insn, pointers: &[usize]) {
    if (i.rep || i.repne) && i.address_bits == 32 {
        for &n in pointers {
            x.s.gpr[n] &= 0xffff_ffff;
        }
    }
}

fn movs<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    narrow(x, i, &[gpr::RSI, gpr::RDI]);
    repeat::<T>(x, i, |x, walk, left| {
        let (from, to) = (walk.at(x, gpr::RSI), walk.at(x, gpr::RDI));
        // Upwards, and with both pages in the TLB: the host's own REP MOVS, which repeats what
        // it copied over itself exactly as the guest's.
        if walk.step == T::SIZE as u64
            && let Some((source, a)) = x.stretch::<T>(i.seg, from, Access::Read)
            && let Some((dest, b)) = x.stretch::<T>(seg::ES, to, Access::Write)
        {
            let n = left.min(a).min(b);
            if x.ram.copy::<T>(source, dest, n as usize) {
                x.code_changed();
            }
            walk.advance(x, gpr::RSI, n);
            walk.advance(x, gpr::RDI, n);
            return Ok((n, true));
        }
        let value: T = x.read(i.seg, from)?;
        x.write(seg::ES, to, value)?;
        walk.advance(x, gpr::RSI, 1);
        walk.advance(x, gpr::RDI, 1);
        Ok((1, true))
    })
}

fn stos<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let value: T = x.reg(gpr::RAX as u8);
    narrow(x, i, &[gpr::RDI]);
    repeat::<T>(x, i, |x, walk, left| {
        let to = walk.at(x, gpr::RDI);
        if walk.step == T::SIZE as u64
            && let Some((dest, n)) = x.stretch::<T>(seg::ES, to, Access::Write)
        {
            let n = left.min(n);
            if x.ram.fill(dest, value, n as usize) {
                x.code_changed();
            }
            walk.advance(x, gpr::RDI, n);
            return Ok((n, true));
        }
        x.write(seg::ES, to, value)?;
        walk.advance(x, gpr::RDI, 1);
        Ok((1, true))
    })
}

fn lods<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    repeat::<T>(x, i, |x, walk, _| {
        let value: T = x.read(i.seg, walk.at(x, gpr::RSI))?;
        x.set_reg(gpr::RAX as u8, value);
        walk.advance(x, gpr::RSI, 1);
        Ok((1, true))
    })
}

/// Whether REPE or REPNE goes on after a comparison.
fn goes_on(x: &Exec<'_>, i: &Insn) -> bool {
    if i.repne { !x.flags.zf() } else { x.flags.zf() }
}

fn cmps<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    repeat::<T>(x, i, |x, walk, _| {
        // The destination is read first.
        let b = x.read::<T>(seg::ES, walk.at(x, gpr::RDI))?.to_u64();
        let a = x.read::<T>(i.seg, walk.at(x, gpr::RSI))?.to_u64();
        x.flags.set_sub::<T>(a, b, a.wrapping_sub(b));
        walk.advance(x, gpr::RSI, 1);
        walk.advance(x, gpr::RDI, 1);
        Ok((1, goes_on(x, i)))
    })
}

fn scas<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let a = x.reg::<T>(gpr::RAX as u8).to_u64();
    repeat::<T>(x, i, |x, walk, _| {
        let b = x.read::<T>(seg::ES, walk.at(x, gpr::RDI))?.to_u64();
        x.flags.set_sub::<T>(a, b, a.wrapping_sub(b));
        walk.advance(x, gpr::RDI, 1);
        Ok((1, goes_on(x, i)))
    })
}

impl Exec<'_> {
    /// Leaves a repeated instruction after an iteration that is not its last: RIP stays on it. RF
    /// is what an interrupt or a debug trap pushes here (SDM volume 3, "Instruction-Breakpoint
    /// Exception Condition"): a breakpoint on the instruction has had its turn. The instruction
    /// clears it when it goes on.
    pub(crate) fn resume_later(&mut self) {
        self.next = self.s.rip;
        self.s.rflags |= rflags::RF;
        // Leaves the block: its next instruction is not the one at RIP.
        self.attention |= attention::MODE;
    }
}

pub(crate) const ROWS: &[Row] = &[
    Row::new(Code::Movsb_m8_m8, movs::<u8>),
    Row::new(Code::Cmpsb_m8_m8, cmps::<u8>),
    Row::new(Code::Scasb_AL_m8, scas::<u8>),
    Row::new(Code::Lodsb_AL_m8, lods::<u8>),
    Row::new(Code::Stosb_m8_AL, stos::<u8>),
    Row::new(Code::Movsw_m16_m16, movs::<u16>),
    Row::new(Code::Cmpsw_m16_m16, cmps::<u16>),
    Row::new(Code::Scasw_AX_m16, scas::<u16>),
    Row::new(Code::Lodsw_AX_m16, lods::<u16>),
    Row::new(Code::Stosw_m16_AX, stos::<u16>),
    Row::new(Code::Movsd_m32_m32, movs::<u32>),
    Row::new(Code::Cmpsd_m32_m32, cmps::<u32>),
    Row::new(Code::Scasd_EAX_m32, scas::<u32>),
    Row::new(Code::Lodsd_EAX_m32, lods::<u32>),
    Row::new(Code::Stosd_m32_EAX, stos::<u32>),
    Row::new(Code::Movsq_m64_m64, movs::<u64>),
    Row::new(Code::Cmpsq_m64_m64, cmps::<u64>),
    Row::new(Code::Scasq_RAX_m64, scas::<u64>),
    Row::new(Code::Lodsq_RAX_m64, lods::<u64>),
    Row::new(Code::Stosq_m64_RAX, stos::<u64>),
];
