//! x87 loads, stores, constants, and moves within the stack (SDM volume 2: FLD, FILD, FBLD, FST,
//! FSTP, FIST, FISTP, FISTTP, FBSTP, FLD1…FLDZ, FXCH, FCMOVcc, FFREE, FINCSTP, FDECSTP, FNOP).

use super::{STACK_FAULT, other, waiting};
use crate::exec::Exec;
use crate::insn::Insn;
use crate::softfloat::x87::{self, Constant};
use crate::softfloat::{Env, F80, Rounding};
use crate::table::{Row, Unit};
use crate::trap::Done;
use iced_x86::Code;
use mem::Word;

/// FLD m32fp and m64fp.
fn load_float<T: Word>(
    x: &mut Exec<'_>,
    i: &Insn,
    convert: impl FnOnce(T, &mut Env) -> F80,
) -> Done {
    waiting!(x);
    let value: T = x.read(i.seg, x.ea(i))?;
    if x.x87_full() {
        return x.x87_overflow(i);
    }
    let mut env = x.x87_env();
    let value = convert(value, &mut env);
    if !env.blocks_load() {
        x.x87_push(value);
    }
    x.x87_commit(i, env.flags.bits(), env.c1);
    Ok(())
}

/// Pushes a value that raises nothing.
#[inline(always)]
fn push(x: &mut Exec<'_>, i: &Insn, value: F80) -> Done {
    if x.x87_full() {
        return x.x87_overflow(i);
    }
    x.x87_push(value);
    x.x87_commit(i, 0, false);
    Ok(())
}

fn load_integer<T: Word>(x: &mut Exec<'_>, i: &Insn, convert: impl FnOnce(T) -> F80) -> Done {
    waiting!(x);
    let value: T = x.read(i.seg, x.ea(i))?;
    push(x, i, convert(value))
}

/// The offset of the last two bytes of a ten-byte operand.
fn tail(x: &Exec<'_>, i: &Insn) -> u64 {
    x.ea(i).wrapping_add(8) & i.address_mask()
}

fn read_ten(x: &mut Exec<'_>, i: &Insn) -> Done<F80> {
    let significand = x.read(i.seg, x.ea(i))?;
    let sign_exponent = x.read(i.seg, tail(x, i))?;
    Ok(F80::new(sign_exponent, significand))
}

/// Processors write the significand even if its companion then faults.
fn write_ten(x: &mut Exec<'_>, i: &Insn, value: F80) -> Done {
    x.write(i.seg, x.ea(i), value.significand)?;
    x.write(i.seg, tail(x, i), value.sign_exponent)
}

fn load_extended(x: &mut Exec<'_>, i: &Insn) -> Done {
    waiting!(x);
    let value = read_ten(x, i)?;
    push(x, i, value)
}

fn load_bcd(x: &mut Exec<'_>, i: &Insn) -> Done {
    waiting!(x);
    let value = read_ten(x, i)?;
    push(x, i, x87::from_bcd(value.to_le_bytes()))
}

fn load_register(x: &mut Exec<'_>, i: &Insn) -> Done {
    waiting!(x);
    match x.st(other(i, 0)) {
        Some(value) => push(x, i, value),
        None => {
            if x.x87_invalid_masked() {
                x.x87_push(F80::INDEFINITE);
            }
            x.x87_commit(i, STACK_FAULT, false);
            Ok(())
        }
    }
}

fn load_constant(x: &mut Exec<'_>, i: &Insn, which: Constant) -> Done {
    waiting!(x);
    let value = x87::constant(which, &mut x.x87_env());
    push(x, i, value)
}

/// A store to memory: `convert` rounds, `indefinite` is the masked answer to an empty register.
#[inline(always)]
fn store<T: Word, const POPS: u8>(
    x: &mut Exec<'_>,
    i: &Insn,
    indefinite: T,
    convert: impl FnOnce(F80, &mut Env) -> T,
) -> Done {
    waiting!(x);
    let mut env = x.x87_env();
    let (value, flags, blocked) = match x.st(0) {
        Some(value) => {
            let value = convert(value, &mut env);
            (value, env.flags.bits(), env.blocks_memory_store())
        }
        None => (indefinite, STACK_FAULT, !x.x87_invalid_masked()),
    };
    // Blocked, it does not touch memory at all: no page fault.
    if !blocked {
        x.write(i.seg, x.ea(i), value)?;
        if POPS != 0 {
            x.x87_pop();
        }
    }
    x.x87_commit(i, flags, env.c1);
    Ok(())
}

fn store_f32<const POPS: u8>(x: &mut Exec<'_>, i: &Insn) -> Done {
    store::<u32, POPS>(x, i, 0xffc0_0000, x87::to_f32)
}

fn store_f64<const POPS: u8>(x: &mut Exec<'_>, i: &Insn) -> Done {
    store::<u64, POPS>(x, i, 0xfff8 << 48, x87::to_f64)
}

/// FIST and FISTP, and with `TRUNCATE` FISTTP.
fn store_i16<const POPS: u8, const TRUNCATE: bool>(x: &mut Exec<'_>, i: &Insn) -> Done {
    store::<u16, POPS>(x, i, 1 << 15, |value, env| {
        x87::to_i16(value, rounding::<TRUNCATE>(env), env) as u16
    })
}

fn store_i32<const POPS: u8, const TRUNCATE: bool>(x: &mut Exec<'_>, i: &Insn) -> Done {
    store::<u32, POPS>(x, i, 1 << 31, |value, env| {
        x87::to_i32(value, rounding::<TRUNCATE>(env), env) as u32
    })
}

fn store_i64<const TRUNCATE: bool>(x: &mut Exec<'_>, i: &Insn) -> Done {
    store::<u64, 1>(x, i, 1 << 63, |value, env| {
        x87::to_i64(value, rounding::<TRUNCATE>(env), env) as u64
    })
}

fn rounding<const TRUNCATE: bool>(env: &Env) -> Rounding {
    if TRUNCATE {
        Rounding::Zero
    } else {
        env.rounding
    }
}

/// FSTP m80fp: a copy, nothing is judged.
fn store_extended(x: &mut Exec<'_>, i: &Insn) -> Done {
    waiting!(x);
    let (value, flags) = match x.st(0) {
        Some(value) => (value, 0),
        None => (F80::INDEFINITE, STACK_FAULT),
    };
    store_ten(
        x,
        i,
        value,
        flags,
        flags != 0 && !x.x87_invalid_masked(),
        false,
    )
}

fn store_bcd(x: &mut Exec<'_>, i: &Insn) -> Done {
    waiting!(x);
    let mut env = x.x87_env();
    match x.st(0) {
        Some(value) => {
            let value = F80::from_le_bytes(x87::to_bcd(value, &mut env));
            let blocked = env.blocks_memory_store();
            store_ten(x, i, value, env.flags.bits(), blocked, env.c1)
        }
        // The packed BCD indefinite.
        None => {
            let blocked = !x.x87_invalid_masked();
            store_ten(
                x,
                i,
                F80::new(0xffff, 0xc0 << 56),
                STACK_FAULT,
                blocked,
                false,
            )
        }
    }
}

fn store_ten(x: &mut Exec<'_>, i: &Insn, value: F80, flags: u8, blocked: bool, c1: bool) -> Done {
    if !blocked {
        write_ten(x, i, value)?;
        x.x87_pop();
    }
    x.x87_commit(i, flags, c1);
    Ok(())
}

/// FST ST(i) and FSTP ST(i).
fn store_register<const POPS: u8>(x: &mut Exec<'_>, i: &Insn) -> Done {
    waiting!(x);
    let n = other(i, 0);
    let Some(value) = x.st(0) else {
        return x.x87_underflow(i, n, POPS);
    };
    x.set_st(n, value);
    if POPS != 0 {
        x.x87_pop();
    }
    x.x87_commit(i, 0, false);
    Ok(())
}

/// FSTPNCE (D9 D8+i): FSTP ST(i) without a stack fault; an empty ST(0) moves nothing.
fn store_register_quietly(x: &mut Exec<'_>, i: &Insn) -> Done {
    waiting!(x);
    if let Some(value) = x.st(0) {
        x.set_st(other(i, 0), value);
    }
    x.x87_pop();
    x.x87_commit(i, 0, false);
    Ok(())
}

fn exchange(x: &mut Exec<'_>, i: &Insn) -> Done {
    waiting!(x);
    let n = other(i, 1);
    let (a, b) = (x.st(0), x.st(n));
    let fault = a.is_none() || b.is_none();
    if !fault || x.x87_invalid_masked() {
        x.set_st(0, b.unwrap_or(F80::INDEFINITE));
        x.set_st(n, a.unwrap_or(F80::INDEFINITE));
    }
    x.x87_commit(i, if fault { STACK_FAULT } else { 0 }, false);
    Ok(())
}

/// FCMOVcc: an empty register is a stack fault whatever the condition.
fn conditional<const CC: u8>(x: &mut Exec<'_>, i: &Insn) -> Done {
    waiting!(x);
    let (Some(_), Some(value)) = (x.st(0), x.st(other(i, 1))) else {
        return x.x87_underflow(i, 0, 0);
    };
    if x.flags.condition(CC) {
        x.set_st(0, value);
    }
    x.x87_instruction(i, 0);
    Ok(())
}

fn free<const POPS: u8>(x: &mut Exec<'_>, i: &Insn) -> Done {
    waiting!(x);
    x.x87_free(other(i, 0));
    if POPS != 0 {
        x.x87_pop();
    }
    x.x87_commit(i, 0, false);
    Ok(())
}

/// FINCSTP (1) and FDECSTP (7): tags stay.
fn turn<const BY: u8>(x: &mut Exec<'_>, i: &Insn) -> Done {
    waiting!(x);
    x.x87_turn(BY);
    x.x87_commit(i, 0, false);
    Ok(())
}

fn nop(x: &mut Exec<'_>, i: &Insn) -> Done {
    waiting!(x);
    x.x87_instruction(i, 0);
    Ok(())
}

pub(crate) const ROWS: &[Row] = rows! {
    Fld_m32fp |x, i| load_float::<u32>(x, i, x87::from_f32);
    Fld_m64fp |x, i| load_float::<u64>(x, i, x87::from_f64);
    Fld_m80fp load_extended;
    Fld_sti load_register;
    Fild_m16int |x, i| load_integer::<u16>(x, i, |v| x87::from_i16(v as i16));
    Fild_m32int |x, i| load_integer::<u32>(x, i, |v| x87::from_i32(v as i32));
    Fild_m64int |x, i| load_integer::<u64>(x, i, |v| x87::from_i64(v as i64));
    Fbld_m80bcd load_bcd;
    Fld1 |x, i| load_constant(x, i, Constant::One);
    Fldl2t |x, i| load_constant(x, i, Constant::Log2Of10);
    Fldl2e |x, i| load_constant(x, i, Constant::Log2OfE);
    Fldpi |x, i| load_constant(x, i, Constant::Pi);
    Fldlg2 |x, i| load_constant(x, i, Constant::Log10Of2);
    Fldln2 |x, i| load_constant(x, i, Constant::LnOf2);
    Fldz |x, i| load_constant(x, i, Constant::Zero);
    Fst_m32fp store_f32::<0>;
    Fstp_m32fp store_f32::<1>;
    Fst_m64fp store_f64::<0>;
    Fstp_m64fp store_f64::<1>;
    Fstp_m80fp store_extended;
    Fist_m16int store_i16::<0, false>;
    Fistp_m16int store_i16::<1, false>;
    Fisttp_m16int store_i16::<1, true>;
    Fist_m32int store_i32::<0, false>;
    Fistp_m32int store_i32::<1, false>;
    Fisttp_m32int store_i32::<1, true>;
    Fistp_m64int store_i64::<false>;
    Fisttp_m64int store_i64::<true>;
    Fbstp_m80bcd store_bcd;
    Fst_sti store_register::<0>;
    Fstp_sti store_register::<1>;
    Fstp_sti_DFD0 store_register::<1>;
    Fstp_sti_DFD8 store_register::<1>;
    Fstpnce_sti store_register_quietly;
    Fxch_st0_sti exchange;
    Fxch_st0_sti_DDC8 exchange;
    Fxch_st0_sti_DFC8 exchange;
    Fcmovb_st0_sti conditional::<2>;
    Fcmovnb_st0_sti conditional::<3>;
    Fcmove_st0_sti conditional::<4>;
    Fcmovne_st0_sti conditional::<5>;
    Fcmovbe_st0_sti conditional::<6>;
    Fcmovnbe_st0_sti conditional::<7>;
    Fcmovu_st0_sti conditional::<10>;
    Fcmovnu_st0_sti conditional::<11>;
    Ffree_sti free::<0>;
    Ffreep_sti free::<1>;
    Fincstp turn::<1>;
    Fdecstp turn::<7>;
    Fnop nop;
};
