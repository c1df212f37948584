//! The transcendental x87 instructions (SDM volume 1, "Transcendental Instructions").
//!
//! Departure: their results may differ from a processor's by one unit in the last place, see
//! [`crate::softfloat`].

use super::{STACK_FAULT, status, waiting};
use crate::exec::Exec;
use crate::insn::Insn;
use crate::softfloat::x87;
use crate::softfloat::{Env, F80};
use crate::table::{Row, Unit};
use crate::trap::Done;
use iced_x86::Code;

fn f2xm1(x: &mut Exec<'_>, i: &Insn) -> Done {
    waiting!(x);
    let Some(a) = x.st(0) else {
        return x.x87_underflow(i, 0, 0);
    };
    let mut env = x.x87_env();
    let r = x87::f2xm1(a, &mut env);
    x.x87_store(i, &env, 0, r, 0);
    Ok(())
}

/// ST(1) = f(ST(0), ST(1)), pop.
fn binary(x: &mut Exec<'_>, i: &Insn, f: impl Fn(F80, F80, &mut Env) -> F80) -> Done {
    waiting!(x);
    let (Some(a), Some(b)) = (x.st(0), x.st(1)) else {
        return x.x87_underflow(i, 1, 1);
    };
    let mut env = x.x87_env();
    let r = f(a, b, &mut env);
    x.x87_store(i, &env, 1, r, 1);
    Ok(())
}

/// FSIN and FCOS: C2 if the operand is out of range, and then nothing else happens.
fn circular(x: &mut Exec<'_>, i: &Insn, f: impl Fn(F80, &mut Env) -> Option<F80>) -> Done {
    waiting!(x);
    x.x87_conditions(status::C2, 0);
    let Some(a) = x.st(0) else {
        return x.x87_underflow(i, 0, 0);
    };
    let mut env = x.x87_env();
    match f(a, &mut env) {
        Some(r) => x.x87_store(i, &env, 0, r, 0),
        None => out_of_range(x, i),
    }
    Ok(())
}

fn out_of_range(x: &mut Exec<'_>, i: &Insn) {
    x.x87_conditions(status::C2, status::C2);
    x.x87_commit(i, 0, false);
}

/// FPTAN and FSINCOS: `f` gives the new ST(0) and what is pushed upon it.
fn pair(x: &mut Exec<'_>, i: &Insn, f: impl Fn(F80, &mut Env) -> Option<(F80, F80)>) -> Done {
    waiting!(x);
    x.x87_conditions(status::C2, 0);
    let (value, full) = (x.st(0), x.x87_full());
    let (Some(a), false) = (value, full) else {
        if x.x87_invalid_masked() {
            x.set_st(0, F80::INDEFINITE);
            x.x87_push(F80::INDEFINITE);
        }
        x.x87_commit(i, STACK_FAULT, value.is_some());
        return Ok(());
    };
    let mut env = x.x87_env();
    match f(a, &mut env) {
        None => out_of_range(x, i),
        Some((first, pushed)) => {
            if !env.blocks_register_store() {
                x.set_st(0, first);
                x.x87_push(pushed);
            }
            x.x87_commit(i, env.flags.bits(), env.c1);
        }
    }
    Ok(())
}

fn tan(a: F80, env: &mut Env) -> Option<(F80, F80)> {
    let r = x87::tan(a, env)?;
    let is_nan = r.sign_exponent & 0x7fff == 0x7fff && r.significand << 1 != 0;
    Some((r, if is_nan { r } else { F80::ONE }))
}

pub(crate) const ROWS: &[Row] = rows! {
    F2xm1 f2xm1;
    Fyl2x |x, i| binary(x, i, x87::yl2x);
    Fyl2xp1 |x, i| binary(x, i, x87::yl2xp1);
    Fpatan |x, i| binary(x, i, |a, b, env| x87::atan(b, a, env));
    Fsin |x, i| circular(x, i, x87::sin);
    Fcos |x, i| circular(x, i, x87::cos);
    Fsincos |x, i| pair(x, i, x87::sincos);
    Fptan |x, i| pair(x, i, tan);
};
