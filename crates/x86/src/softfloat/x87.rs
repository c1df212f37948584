//! The operations of the x87 on register values, and its loads and stores.
//!
//! Exceptions are looked for in the order of SDM 1, "Exception Priority": unsupported formats and
//! signalling NaNs, quiet NaNs, other invalid operations and division by zero, denormal operand, then
//! (only if that one is masked) overflow, underflow, inexact. `env.c1` is set by whatever rounds.

use super::unpacked::{
    Class, Exact, F32_FORMAT, F64_FORMAT, F80_FORMAT, Fields, Format, Unmasked, Unpacked, relation,
    round, round_to_u64, unpack, unpack_f80,
};
use super::{Env, F80, Flags, Relation, Rounding, Signal};

pub use super::bcd::{from_bcd, to_bcd};
pub use super::partial::{Remainder, extract, prem, prem1, scale};
pub use super::transcendental::{
    Constant, atan, constant, cos, f2xm1, sin, sincos, tan, yl2x, yl2xp1,
};

/// An operand of an arithmetic instruction: a register (`F80`, by `into`) or memory in another format,
/// which is not rounded and whose SNaN or denormal is judged by the instruction itself.
#[derive(Clone, Copy, Debug)]
pub struct Operand(pub(super) Unpacked);

impl From<F80> for Operand {
    fn from(f: F80) -> Self {
        Self(unpack_f80(f))
    }
}

impl Operand {
    /// m32fp.
    pub fn from_f32(a: u32) -> Self {
        Self(unpack(F32_FORMAT, a as u64, false))
    }
    /// m64fp.
    pub fn from_f64(a: u64) -> Self {
        Self(unpack(F64_FORMAT, a, false))
    }
    /// m16int of FIADD and its kin.
    pub fn from_i16(i: i16) -> Self {
        from_i16(i).into()
    }
    /// m32int of FIADD and its kin.
    pub fn from_i32(i: i32) -> Self {
        from_i32(i).into()
    }
}

pub(super) fn invalid(env: &mut Env) -> F80 {
    env.raise(Flags::IE);
    env.c1 = false;
    F80::INDEFINITE
}

pub(super) fn zero(sign: bool) -> F80 {
    Fields::zero(sign).pack_f80()
}

pub(super) fn infinity(sign: bool) -> F80 {
    Fields::infinity(F80_FORMAT, sign).pack_f80()
}

/// Rounds to the precision that precision control asks for.
pub(super) fn rounded(x: Exact, env: &mut Env) -> F80 {
    let bits = env.precision.significand_bits();
    round(F80_FORMAT, bits, x, Unmasked::Wrapped, env).pack_f80()
}

/// Rounds to 64 bits, whatever precision control says.
pub(super) fn rounded_to_64(x: Exact, env: &mut Env) -> F80 {
    round(F80_FORMAT, 64, x, Unmasked::Wrapped, env).pack_f80()
}

/// The answer if one of the operands is a NaN or unsupported (SDM 1, "Rules for handling NaNs",
/// table 4-7): the quiet NaN of a signalling and a quiet one, else the larger significand, else (equal
/// significands) the positive one.
pub(super) fn propagate(a: &Unpacked, b: &Unpacked, env: &mut Env) -> Option<F80> {
    use Class::{QuietNan, SignallingNan, Unsupported};
    if a.class == Unsupported || b.class == Unsupported {
        return Some(invalid(env));
    }
    if !a.is_nan() && !b.is_nan() {
        return None;
    }
    if a.class == SignallingNan || b.class == SignallingNan {
        env.raise(Flags::IE);
    }
    env.c1 = false;
    let nan = match (a.class, b.class) {
        (SignallingNan, QuietNan) => b,
        (QuietNan, SignallingNan) => a,
        _ if !b.is_nan() => a,
        _ if !a.is_nan() => b,
        _ if a.sig != b.sig => {
            if a.sig > b.sig {
                a
            } else {
                b
            }
        }
        _ if a.sign => b,
        _ => a,
    };
    Some(Fields::quieted(F80_FORMAT, nan).pack_f80())
}

/// Raises DE; false if the instruction ends there.
pub(super) fn denormal_operands(a: &Unpacked, b: &Unpacked, env: &mut Env) -> bool {
    if a.denormal || b.denormal {
        env.raise(Flags::DE);
        return !env.is_unmasked(Flags::DE);
    }
    true
}

/// FADD, FADDP, FIADD. IE for SNaN, unsupported, ∞ − ∞.
pub fn add(a: impl Into<Operand>, b: impl Into<Operand>, env: &mut Env) -> F80 {
    sum(a.into().0, b.into().0, false, env)
}

/// FSUB, FSUBP, FISUB: a − b; FSUBR with the operands swapped. IE as [`add`].
pub fn sub(a: impl Into<Operand>, b: impl Into<Operand>, env: &mut Env) -> F80 {
    sum(a.into().0, b.into().0, true, env)
}

fn sum(a: Unpacked, mut b: Unpacked, negate_b: bool, env: &mut Env) -> F80 {
    env.c1 = false;
    if let Some(nan) = propagate(&a, &b, env) {
        return nan;
    }
    b.sign ^= negate_b;
    if a.is_infinite() && b.is_infinite() && a.sign != b.sign {
        return invalid(env);
    }
    if !denormal_operands(&a, &b, env) {
        return F80::ZERO;
    }
    if a.is_infinite() {
        return infinity(a.sign);
    }
    if b.is_infinite() {
        return infinity(b.sign);
    }
    let exact = match (a.is_zero(), b.is_zero()) {
        (true, true) if a.sign == b.sign => return zero(a.sign),
        (true, true) => None,
        (true, false) => Some(b.exact()),
        (false, true) => Some(a.exact()),
        (false, false) => a.exact().add(b.exact()),
    };
    match exact {
        Some(x) => rounded(x, env),
        None => zero(env.rounding == Rounding::Down),
    }
}

/// FMUL, FMULP, FIMUL. IE for SNaN, unsupported, 0 × ∞.
pub fn mul(a: impl Into<Operand>, b: impl Into<Operand>, env: &mut Env) -> F80 {
    let (a, b) = (a.into().0, b.into().0);
    env.c1 = false;
    if let Some(nan) = propagate(&a, &b, env) {
        return nan;
    }
    let sign = a.sign != b.sign;
    let is_infinite = a.is_infinite() || b.is_infinite();
    let is_zero = a.is_zero() || b.is_zero();
    if is_infinite && is_zero {
        return invalid(env);
    }
    if !denormal_operands(&a, &b, env) || is_zero {
        return zero(sign);
    }
    if is_infinite {
        return infinity(sign);
    }
    rounded(Exact::product(&a, &b), env)
}

/// FDIV, FDIVP, FIDIV: a / b; FDIVR with the operands swapped. IE for SNaN, unsupported, 0/0, ∞/∞;
/// ZE for finite/0.
pub fn div(a: impl Into<Operand>, b: impl Into<Operand>, env: &mut Env) -> F80 {
    let (a, b) = (a.into().0, b.into().0);
    env.c1 = false;
    if let Some(nan) = propagate(&a, &b, env) {
        return nan;
    }
    let sign = a.sign != b.sign;
    if a.is_infinite() && b.is_infinite() || a.is_zero() && b.is_zero() {
        return invalid(env);
    }
    if b.is_zero() && !a.is_infinite() {
        env.raise(Flags::ZE);
        return infinity(sign);
    }
    if !denormal_operands(&a, &b, env) || a.is_zero() || b.is_infinite() {
        return zero(sign);
    }
    if a.is_infinite() {
        return infinity(sign);
    }
    rounded(Exact::quotient(&a, &b), env)
}

/// FSQRT. IE for SNaN, unsupported and numbers below zero.
pub fn sqrt(a: F80, env: &mut Env) -> F80 {
    let a = unpack_f80(a);
    env.c1 = false;
    if let Some(nan) = propagate(&a, &a, env) {
        return nan;
    }
    if a.is_zero() {
        return zero(a.sign);
    }
    if a.sign {
        return invalid(env);
    }
    if a.is_infinite() {
        return infinity(false);
    }
    if !denormal_operands(&a, &a, env) {
        return F80::ZERO;
    }
    rounded(Exact::square_root(&a), env)
}

/// FCOM, FTST, FICOM, FCOMI ([`Signal::AnyNan`]), FUCOM, FUCOMI ([`Signal::Snan`]). Unsupported
/// formats compare as signalling NaNs. C1 is cleared.
pub fn compare(
    a: impl Into<Operand>,
    b: impl Into<Operand>,
    signal: Signal,
    env: &mut Env,
) -> Relation {
    let (a, b) = (a.into().0, b.into().0);
    env.c1 = false;
    let signals = |u: &Unpacked| matches!(u.class, Class::SignallingNan | Class::Unsupported);
    if a.is_nan() || b.is_nan() || signals(&a) || signals(&b) {
        if signal == Signal::AnyNan || signals(&a) || signals(&b) {
            env.raise(Flags::IE);
        }
        return Relation::Unordered;
    }
    denormal_operands(&a, &b, env);
    relation(&a, &b)
}

fn load(u: Unpacked, env: &mut Env) -> F80 {
    env.c1 = false;
    if let Some(nan) = propagate(&u, &u, env) {
        return nan;
    }
    match u.class {
        Class::Infinity => infinity(u.sign),
        Class::Finite => {
            denormal_operands(&u, &u, env);
            rounded_to_64(u.exact(), env)
        }
        _ => zero(u.sign),
    }
}

/// FLD m32fp. IE for SNaN, DE.
pub fn from_f32(a: u32, env: &mut Env) -> F80 {
    load(unpack(F32_FORMAT, a as u64, false), env)
}

/// FLD m64fp. IE for SNaN, DE.
pub fn from_f64(a: u64, env: &mut Env) -> F80 {
    load(unpack(F64_FORMAT, a, false), env)
}

fn store(a: F80, to: Format, env: &mut Env) -> u64 {
    let u = unpack_f80(a);
    env.c1 = false;
    let fields = match u.class {
        Class::Unsupported => {
            env.raise(Flags::IE);
            Fields::indefinite(to)
        }
        Class::SignallingNan | Class::QuietNan => {
            if u.class == Class::SignallingNan {
                env.raise(Flags::IE);
            }
            Fields::quieted(to, &u)
        }
        Class::Infinity => Fields::infinity(to, u.sign),
        Class::Zero => Fields::zero(u.sign),
        // A denormal operand raises no DE here (SDM 2, FST).
        Class::Finite => round(to, to.precision, u.exact(), Unmasked::NoStore, env),
    };
    fields.pack(to)
}

/// FST m32fp, FSTP m32fp. IE for SNaN and unsupported; OE, UE, PE. Precision control has no effect.
pub fn to_f32(a: F80, env: &mut Env) -> u32 {
    store(a, F32_FORMAT, env) as u32
}

/// FST m64fp, FSTP m64fp; as [`to_f32`].
pub fn to_f64(a: F80, env: &mut Env) -> u64 {
    store(a, F64_FORMAT, env)
}

/// FILD m16int.
pub fn from_i16(i: i16) -> F80 {
    from_i64(i as i64)
}

/// FILD m32int.
pub fn from_i32(i: i32) -> F80 {
    from_i64(i as i64)
}

/// FILD m64int.
pub fn from_i64(i: i64) -> F80 {
    from_magnitude(i < 0, i.unsigned_abs())
}

pub(super) fn from_magnitude(sign: bool, magnitude: u64) -> F80 {
    if magnitude == 0 {
        return zero(sign);
    }
    let shift = magnitude.leading_zeros();
    F80::new(
        (sign as u16) << 15 | (16383 + 63 - shift) as u16,
        magnitude << shift,
    )
}

/// |a| rounded to an integer of at most `limit` (one more if negative), with the sign; else IE.
pub(super) fn to_integer(
    a: F80,
    rounding: Rounding,
    limit: u64,
    more_if_negative: u64,
    env: &mut Env,
) -> Option<(bool, u64)> {
    let u = unpack_f80(a);
    env.c1 = false;
    let found = match u.class {
        Class::Zero => Some((0, false, false)),
        Class::Finite => round_to_u64(&u.exact(), rounding),
        _ => None,
    };
    match found {
        Some((magnitude, inexact, up))
            if magnitude <= limit + if u.sign { more_if_negative } else { 0 } =>
        {
            if inexact {
                env.raise(Flags::PE);
            }
            env.c1 = up;
            Some((u.sign, magnitude))
        }
        _ => {
            env.raise(Flags::IE);
            None
        }
    }
}

fn to_signed(a: F80, rounding: Rounding, max: i64, env: &mut Env) -> i64 {
    match to_integer(a, rounding, max as u64, 1, env) {
        Some((true, m)) => (m as i64).wrapping_neg(),
        Some((false, m)) => m as i64,
        None => max.wrapping_neg() - 1,
    }
}

/// FIST m16int, FISTP m16int, FISTTP m16int ([`Rounding::Zero`]): 0x8000 and IE if out of range.
pub fn to_i16(a: F80, rounding: Rounding, env: &mut Env) -> i16 {
    to_signed(a, rounding, i16::MAX as i64, env) as i16
}

/// FIST m32int and kin: 0x8000_0000 and IE if out of range.
pub fn to_i32(a: F80, rounding: Rounding, env: &mut Env) -> i32 {
    to_signed(a, rounding, i32::MAX as i64, env) as i32
}

/// FISTP m64int and kin: 0x8000_0000_0000_0000 and IE if out of range.
pub fn to_i64(a: F80, rounding: Rounding, env: &mut Env) -> i64 {
    to_signed(a, rounding, i64::MAX, env)
}

/// FRNDINT. IE for SNaN and unsupported, DE, PE.
pub fn round_to_integral(a: F80, env: &mut Env) -> F80 {
    let u = unpack_f80(a);
    env.c1 = false;
    if let Some(nan) = propagate(&u, &u, env) {
        return nan;
    }
    if u.class != Class::Finite {
        return a;
    }
    if !denormal_operands(&u, &u, env) || u.exp >= 63 {
        return a;
    }
    // Below 2^63 an integer is always found.
    let Some((integer, inexact, up)) = round_to_u64(&u.exact(), env.rounding) else {
        return a;
    };
    if inexact {
        env.raise(Flags::PE);
        env.c1 = up;
    }
    from_magnitude(u.sign, integer)
}
