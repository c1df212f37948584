//! x87 arithmetic: FADD, FSUB, FSUBR, FMUL, FDIV, FDIVR in all their forms, and what works on ST(0)
//! alone or with ST(1) (FSQRT, FRNDINT, FSCALE, FPREM, FPREM1, FXTRACT, FABS, FCHS).

use super::{STACK_FAULT, other, status, waiting};
use crate::exec::Exec;
use crate::insn::Insn;
use crate::softfloat::x87::{self, Operand, Remainder};
use crate::softfloat::{Env, Examined, F80};
use crate::table::{Row, Unit};
use crate::trap::Done;
use iced_x86::Code;
use mem::Word;

/// The operations, as the type parameter of the forms.
trait Operation {
    /// destination = destination (op) source.
    fn apply(a: Operand, b: Operand, env: &mut Env) -> F80;
}

macro_rules! operation {
    ($name:ident, |$a:ident, $b:ident, $env:ident| $result:expr) => {
        struct $name;
        impl Operation for $name {
            #[inline(always)]
            fn apply($a: Operand, $b: Operand, $env: &mut Env) -> F80 {
                $result
            }
        }
    };
}

operation!(Add, |a, b, env| x87::add(a, b, env));
operation!(Mul, |a, b, env| x87::mul(a, b, env));
operation!(Sub, |a, b, env| x87::sub(a, b, env));
operation!(Subr, |a, b, env| x87::sub(b, a, env));
operation!(Div, |a, b, env| x87::div(a, b, env));
operation!(Divr, |a, b, env| x87::div(b, a, env));

/// ST(0) with a memory operand.
#[inline(always)]
fn memory<O: Operation, T: Word>(x: &mut Exec<'_>, i: &Insn, of: impl Fn(T) -> Operand) -> Done {
    waiting!(x);
    let b: T = x.read(i.seg, x.ea(i))?;
    let Some(a) = x.st(0) else {
        return x.x87_underflow(i, 0, 0);
    };
    let mut env = x.x87_env();
    let r = O::apply(a.into(), of(b), &mut env);
    x.x87_store(i, &env, 0, r, 0);
    Ok(())
}

fn m32<O: Operation>(x: &mut Exec<'_>, i: &Insn) -> Done {
    memory::<O, u32>(x, i, Operand::from_f32)
}
fn m64<O: Operation>(x: &mut Exec<'_>, i: &Insn) -> Done {
    memory::<O, u64>(x, i, Operand::from_f64)
}
fn i16<O: Operation>(x: &mut Exec<'_>, i: &Insn) -> Done {
    memory::<O, u16>(x, i, |v| Operand::from_i16(v as i16))
}
fn i32<O: Operation>(x: &mut Exec<'_>, i: &Insn) -> Done {
    memory::<O, u32>(x, i, |v| Operand::from_i32(v as i32))
}

/// ST(0), ST(i) and ST(i), ST(0), the latter perhaps with a pop.
fn registers<O: Operation, const POPS: u8>(x: &mut Exec<'_>, i: &Insn) -> Done {
    waiting!(x);
    let to = other(i, 0);
    let (Some(a), Some(b)) = (x.st(to), x.st(other(i, 1))) else {
        return x.x87_underflow(i, to, POPS);
    };
    let mut env = x.x87_env();
    let r = O::apply(a.into(), b.into(), &mut env);
    x.x87_store(i, &env, to, r, POPS);
    Ok(())
}

/// ST(0) = f(ST(0)).
fn unary(x: &mut Exec<'_>, i: &Insn, f: impl Fn(F80, &mut Env) -> F80) -> Done {
    waiting!(x);
    let Some(a) = x.st(0) else {
        return x.x87_underflow(i, 0, 0);
    };
    let mut env = x.x87_env();
    let r = f(a, &mut env);
    x.x87_store(i, &env, 0, r, 0);
    Ok(())
}

fn scale(x: &mut Exec<'_>, i: &Insn) -> Done {
    waiting!(x);
    let (Some(a), Some(b)) = (x.st(0), x.st(1)) else {
        return x.x87_underflow(i, 0, 0);
    };
    let mut env = x.x87_env();
    let r = x87::scale(a, b, &mut env);
    x.x87_store(i, &env, 0, r, 0);
    Ok(())
}

/// FPREM and FPREM1. A NaN result clears C2 and keeps C0 and C3, masked or not.
fn remainder(x: &mut Exec<'_>, i: &Insn, f: impl Fn(F80, F80, &mut Env) -> Remainder) -> Done {
    waiting!(x);
    x.x87_conditions(status::C2, 0);
    let (Some(a), Some(b)) = (x.st(0), x.st(1)) else {
        return x.x87_underflow(i, 0, 0);
    };
    let mut env = x.x87_env();
    let r = f(a, b, &mut env);
    x.x87_store(i, &env, 0, r.value, 0);
    let is_nan = r.value.examine() == Examined::Nan;
    if is_nan || env.blocks_register_store() {
        return Ok(());
    }
    let q = u16::from(r.quotient);
    let mut codes =
        ((q >> 2 & 1) * status::C0) | ((q >> 1 & 1) * status::C3) | ((q & 1) * status::C1);
    if r.incomplete {
        codes = status::C2;
    }
    x.x87_conditions(status::C0 | status::C1 | status::C2 | status::C3, codes);
    Ok(())
}

/// FXTRACT: the exponent replaces ST(0), the significand is pushed.
fn extract(x: &mut Exec<'_>, i: &Insn) -> Done {
    waiting!(x);
    let value = x.st(0);
    let full = x.x87_full();
    let (Some(value), false) = (value, full) else {
        let overflow = value.is_some();
        if x.x87_invalid_masked() {
            x.set_st(0, F80::INDEFINITE);
            x.x87_push(F80::INDEFINITE);
        }
        x.x87_commit(i, STACK_FAULT, overflow);
        return Ok(());
    };
    let mut env = x.x87_env();
    let (exponent, significand) = x87::extract(value, &mut env);
    if !env.blocks_register_store() {
        x.set_st(0, exponent);
        x.x87_push(significand);
    }
    x.x87_commit(i, env.flags.bits(), env.c1);
    Ok(())
}

pub(crate) const ROWS: &[Row] = rows! {
    Fadd_m32fp m32::<Add>;
    Fmul_m32fp m32::<Mul>;
    Fsub_m32fp m32::<Sub>;
    Fsubr_m32fp m32::<Subr>;
    Fdiv_m32fp m32::<Div>;
    Fdivr_m32fp m32::<Divr>;
    Fadd_m64fp m64::<Add>;
    Fmul_m64fp m64::<Mul>;
    Fsub_m64fp m64::<Sub>;
    Fsubr_m64fp m64::<Subr>;
    Fdiv_m64fp m64::<Div>;
    Fdivr_m64fp m64::<Divr>;
    Fiadd_m16int i16::<Add>;
    Fimul_m16int i16::<Mul>;
    Fisub_m16int i16::<Sub>;
    Fisubr_m16int i16::<Subr>;
    Fidiv_m16int i16::<Div>;
    Fidivr_m16int i16::<Divr>;
    Fiadd_m32int i32::<Add>;
    Fimul_m32int i32::<Mul>;
    Fisub_m32int i32::<Sub>;
    Fisubr_m32int i32::<Subr>;
    Fidiv_m32int i32::<Div>;
    Fidivr_m32int i32::<Divr>;
    Fadd_st0_sti registers::<Add, 0>;
    Fmul_st0_sti registers::<Mul, 0>;
    Fsub_st0_sti registers::<Sub, 0>;
    Fsubr_st0_sti registers::<Subr, 0>;
    Fdiv_st0_sti registers::<Div, 0>;
    Fdivr_st0_sti registers::<Divr, 0>;
    Fadd_sti_st0 registers::<Add, 0>;
    Fmul_sti_st0 registers::<Mul, 0>;
    Fsub_sti_st0 registers::<Sub, 0>;
    Fsubr_sti_st0 registers::<Subr, 0>;
    Fdiv_sti_st0 registers::<Div, 0>;
    Fdivr_sti_st0 registers::<Divr, 0>;
    Faddp_sti_st0 registers::<Add, 1>;
    Fmulp_sti_st0 registers::<Mul, 1>;
    Fsubp_sti_st0 registers::<Sub, 1>;
    Fsubrp_sti_st0 registers::<Subr, 1>;
    Fdivp_sti_st0 registers::<Div, 1>;
    Fdivrp_sti_st0 registers::<Divr, 1>;
    Fsqrt |x, i| unary(x, i, x87::sqrt);
    Frndint |x, i| unary(x, i, x87::round_to_integral);
    Fabs |x, i| unary(x, i, |a, _| a.absolute());
    Fchs |x, i| unary(x, i, |a, _| a.negated());
    Fscale scale;
    Fprem |x, i| remainder(x, i, x87::prem);
    Fprem1 |x, i| remainder(x, i, x87::prem1);
    Fxtract extract;
};
