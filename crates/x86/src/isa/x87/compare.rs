//! x87 comparisons and classification (SDM volume 2: FCOM, FUCOM, FCOMI, FUCOMI, FICOM, FTST, FXAM).

use super::{STACK_FAULT, other, status, waiting};
use crate::exec::Exec;
use crate::flags::Flags;
use crate::insn::Insn;
use crate::softfloat::x87::{self, Operand};
use crate::softfloat::{Examined, F80, Relation, Signal};
use crate::state::rflags;
use crate::table::{Row, Unit};
use crate::trap::Done;
use iced_x86::Code;
use mem::Word;

/// C3, C2, C0 of an outcome.
const fn codes(relation: Relation) -> u16 {
    match relation {
        Relation::Greater => 0,
        Relation::Less => status::C0,
        Relation::Equal => status::C3,
        Relation::Unordered => status::C3 | status::C2 | status::C0,
    }
}

/// Compares ST(0) with `b` (`None`: an empty register). Unmasked exceptions set the condition codes
/// all the same, but do not pop.
#[inline(always)]
fn compare(x: &mut Exec<'_>, i: &Insn, b: Option<Operand>, signal: Signal, pops: u8) {
    let mut env = x.x87_env();
    let (relation, flags, blocked) = match (x.st(0), b) {
        (Some(a), Some(b)) => {
            let relation = x87::compare(a, b, signal, &mut env);
            (relation, env.flags.bits(), env.blocks_register_store())
        }
        _ => (Relation::Unordered, STACK_FAULT, !x.x87_invalid_masked()),
    };
    x.x87_conditions(status::C3 | status::C2 | status::C0, codes(relation));
    if !blocked {
        for _ in 0..pops {
            x.x87_pop();
        }
    }
    x.x87_commit(i, flags, false);
}

fn memory<T: Word, const POPS: u8>(x: &mut Exec<'_>, i: &Insn, of: impl Fn(T) -> Operand) -> Done {
    waiting!(x);
    let b: T = x.read(i.seg, x.ea(i))?;
    compare(x, i, Some(of(b)), Signal::AnyNan, POPS);
    Ok(())
}

fn fcom<const POPS: u8>(x: &mut Exec<'_>, i: &Insn) -> Done {
    waiting!(x);
    let b = x.st(other(i, 1)).map(Operand::from);
    compare(x, i, b, Signal::AnyNan, POPS);
    Ok(())
}

fn fucom<const POPS: u8>(x: &mut Exec<'_>, i: &Insn) -> Done {
    waiting!(x);
    let b = x.st(other(i, 1)).map(Operand::from);
    compare(x, i, b, Signal::Snan, POPS);
    Ok(())
}

/// FCOMPP and FUCOMPP.
fn both(x: &mut Exec<'_>, i: &Insn, signal: Signal) -> Done {
    waiting!(x);
    let b = x.st(1).map(Operand::from);
    compare(x, i, b, signal, 2);
    Ok(())
}

fn ftst(x: &mut Exec<'_>, i: &Insn) -> Done {
    waiting!(x);
    compare(x, i, Some(F80::ZERO.into()), Signal::AnyNan, 0);
    Ok(())
}

/// FCOMI and FUCOMI: RFLAGS is written even when IE is unmasked, and C1 cleared only by a stack
/// fault, as processors do.
fn flags<const POPS: u8>(x: &mut Exec<'_>, i: &Insn, signal: Signal) -> Done {
    waiting!(x);
    let mut env = x.x87_env();
    let (relation, flags, blocked) = match (x.st(0), x.st(other(i, 1))) {
        (Some(a), Some(b)) => {
            let relation = x87::compare(a, b, signal, &mut env);
            (relation, env.flags.bits(), env.blocks_register_store())
        }
        _ => (Relation::Unordered, STACK_FAULT, !x.x87_invalid_masked()),
    };
    x.flags = relation_flags(relation);
    if POPS != 0 && !blocked {
        x.x87_pop();
    }
    let c1 = flags != STACK_FAULT && x.s.x87.status & status::C1 != 0;
    x.x87_commit(i, flags, c1);
    Ok(())
}

/// ZF, PF and CF of an outcome; OF, SF and AF are clear. Also COMISS and its kin.
pub(crate) fn relation_flags(relation: Relation) -> Flags {
    Flags::from_bits(match relation {
        Relation::Greater => 0,
        Relation::Less => rflags::CF,
        Relation::Equal => rflags::ZF,
        Relation::Unordered => rflags::ZF | rflags::PF | rflags::CF,
    })
}

/// FXAM: C1 is the sign of whatever the register holds, empty or not.
fn fxam(x: &mut Exec<'_>, i: &Insn) -> Done {
    waiting!(x);
    let sign = x.s.x87.regs[usize::from(x.x87_physical(0))].sign();
    let codes = match x.st(0).map(F80::examine) {
        None => status::C3 | status::C0,
        Some(Examined::Unsupported) => 0,
        Some(Examined::Nan) => status::C0,
        Some(Examined::Normal) => status::C2,
        Some(Examined::Infinity) => status::C2 | status::C0,
        Some(Examined::Zero) => status::C3,
        Some(Examined::Denormal) => status::C3 | status::C2,
    };
    x.x87_conditions(status::C3 | status::C2 | status::C0, codes);
    x.x87_commit(i, 0, sign);
    Ok(())
}

pub(crate) const ROWS: &[Row] = rows! {
    Fcom_m32fp |x, i| memory::<u32, 0>(x, i, Operand::from_f32);
    Fcomp_m32fp |x, i| memory::<u32, 1>(x, i, Operand::from_f32);
    Fcom_m64fp |x, i| memory::<u64, 0>(x, i, Operand::from_f64);
    Fcomp_m64fp |x, i| memory::<u64, 1>(x, i, Operand::from_f64);
    Ficom_m16int |x, i| memory::<u16, 0>(x, i, |v| Operand::from_i16(v as i16));
    Ficomp_m16int |x, i| memory::<u16, 1>(x, i, |v| Operand::from_i16(v as i16));
    Ficom_m32int |x, i| memory::<u32, 0>(x, i, |v| Operand::from_i32(v as i32));
    Ficomp_m32int |x, i| memory::<u32, 1>(x, i, |v| Operand::from_i32(v as i32));
    Fcom_st0_sti fcom::<0>;
    Fcom_st0_sti_DCD0 fcom::<0>;
    Fcomp_st0_sti fcom::<1>;
    Fcomp_st0_sti_DCD8 fcom::<1>;
    Fcomp_st0_sti_DED0 fcom::<1>;
    Fucom_st0_sti fucom::<0>;
    Fucomp_st0_sti fucom::<1>;
    Fcompp |x, i| both(x, i, Signal::AnyNan);
    Fucompp |x, i| both(x, i, Signal::Snan);
    Fcomi_st0_sti |x, i| flags::<0>(x, i, Signal::AnyNan);
    Fcomip_st0_sti |x, i| flags::<1>(x, i, Signal::AnyNan);
    Fucomi_st0_sti |x, i| flags::<0>(x, i, Signal::Snan);
    Fucomip_st0_sti |x, i| flags::<1>(x, i, Signal::Snan);
    Ftst ftst;
    Fxam fxam;
};
