//! The operations of SSE, AVX, FMA and F16C, one element at a time.
//!
//! Each function is the element operation of the instructions named at it; it raises exceptions in
//! `env` and returns what the destination gets when none of them is unmasked. Exceptions are looked
//! for in the order of SDM 1, "Exception Priority": NaN operands, other invalid operations and
//! division by zero, denormal operand, then (only if that one is masked) overflow, underflow, inexact.

use super::unpacked::{
    Class, Exact, F16_FORMAT, F32_FORMAT, F64_FORMAT, Fields, Format, Unmasked, Unpacked, round,
    round_to_u64, rounds_up, unpack,
};
use super::{Env, Flags, Relation, Rounding, Signal};

use super::native::{Pattern, accepted32, usable32, usable64};

/// A single (`u32`) or double (`u64`) precision bit pattern.
pub trait SseFloat: Pattern {}
impl SseFloat for u32 {}
impl SseFloat for u64 {}

#[inline]
fn fast<T: SseFloat>(env: &mut Env, run: impl FnOnce(bool) -> Option<(T, bool)>) -> Option<T> {
    if env.rounding != Rounding::NearestEven {
        return None;
    }
    let (r, inexact) = run(env.flags.intersects(Flags::PE))?;
    if inexact {
        env.raise(Flags::PE);
    }
    Some(r)
}

fn open<T: SseFloat>(a: T, env: &Env) -> Unpacked {
    unpack(T::FORMAT, a.bits(), env.daz)
}

fn close<T: SseFloat>(f: Fields) -> T {
    T::from_bits(f.pack(T::FORMAT))
}

fn invalid<T: SseFloat>(env: &mut Env) -> T {
    env.raise(Flags::IE);
    close(Fields::indefinite(T::FORMAT))
}

/// The NaN an operation with NaN operands gives: the first NaN operand, made quiet
/// (SDM 1, "Rules for handling NaNs", table 4-7).
fn propagate(operands: &[&Unpacked], env: &mut Env) -> Option<Unpacked> {
    if operands.iter().any(|u| u.class == Class::SignallingNan) {
        env.raise(Flags::IE);
    }
    operands.iter().find(|u| u.is_nan()).map(|u| **u)
}

/// Raises DE; false if the instruction ends there.
fn denormal_operands(operands: &[&Unpacked], env: &mut Env) -> bool {
    if operands.iter().any(|u| u.denormal) {
        env.raise(Flags::DE);
        return !env.is_unmasked(Flags::DE);
    }
    true
}

fn rounded<T: SseFloat>(x: Exact, env: &mut Env) -> T {
    close(round(
        T::FORMAT,
        T::FORMAT.precision,
        x,
        Unmasked::NoResult,
        env,
    ))
}

/// ADDSS, ADDPS, ADDSD, ADDPD. IE for SNaN and ∞ − ∞.
#[inline]
pub fn add<T: SseFloat>(a: T, b: T, env: &mut Env) -> T {
    fast(env, |pe| a.fast_add(b, pe)).unwrap_or_else(|| add_slow(a, b, false, env))
}

/// SUBSS, SUBPS, SUBSD, SUBPD. IE for SNaN and ∞ − ∞.
#[inline]
pub fn sub<T: SseFloat>(a: T, b: T, env: &mut Env) -> T {
    fast(env, |pe| a.fast_add(b.negated(), pe)).unwrap_or_else(|| add_slow(a, b, true, env))
}

#[cold]
fn add_slow<T: SseFloat>(a: T, b: T, negate_b: bool, env: &mut Env) -> T {
    let (a, mut b) = (open(a, env), open(b, env));
    if let Some(nan) = propagate(&[&a, &b], env) {
        return close(Fields::quieted(T::FORMAT, &nan));
    }
    b.sign ^= negate_b;
    if a.is_infinite() && b.is_infinite() && a.sign != b.sign {
        return invalid(env);
    }
    if !denormal_operands(&[&a, &b], env) {
        return close(Fields::zero(false));
    }
    sum(&a, &b, a.is_zero().then_some(a.sign), a.exact(), env)
}

/// `a` + `b`, no NaN among them and not ∞ − ∞, where `x` is the value of `a` if that is finite.
fn sum<T: SseFloat>(
    a: &Unpacked,
    b: &Unpacked,
    a_zero: Option<bool>,
    x: Exact,
    env: &mut Env,
) -> T {
    if a.is_infinite() {
        return close(Fields::infinity(T::FORMAT, a.sign));
    }
    if b.is_infinite() {
        return close(Fields::infinity(T::FORMAT, b.sign));
    }
    let exact = match (a_zero, b.is_zero()) {
        (Some(sign), true) if sign == b.sign => return close(Fields::zero(sign)),
        (Some(_), true) => None,
        (Some(_), false) => Some(b.exact()),
        (None, true) => Some(x),
        (None, false) => x.add(b.exact()),
    };
    match exact {
        Some(x) => rounded(x, env),
        None => close(Fields::zero(env.rounding == Rounding::Down)),
    }
}

/// MULSS, MULPS, MULSD, MULPD. IE for SNaN and 0 × ∞.
#[inline]
pub fn mul<T: SseFloat>(a: T, b: T, env: &mut Env) -> T {
    fast(env, |pe| a.fast_mul(b, pe)).unwrap_or_else(|| mul_slow(a, b, env))
}

#[cold]
fn mul_slow<T: SseFloat>(a: T, b: T, env: &mut Env) -> T {
    let (a, b) = (open(a, env), open(b, env));
    if let Some(nan) = propagate(&[&a, &b], env) {
        return close(Fields::quieted(T::FORMAT, &nan));
    }
    let sign = a.sign != b.sign;
    let infinite = a.is_infinite() || b.is_infinite();
    let zero = a.is_zero() || b.is_zero();
    if infinite && zero {
        return invalid(env);
    }
    if !denormal_operands(&[&a, &b], env) || zero {
        return close(Fields::zero(sign));
    }
    if infinite {
        return close(Fields::infinity(T::FORMAT, sign));
    }
    rounded(Exact::product(&a, &b), env)
}

/// DIVSS, DIVPS, DIVSD, DIVPD. IE for SNaN, 0/0 and ∞/∞; ZE for finite/0.
#[inline]
pub fn div<T: SseFloat>(a: T, b: T, env: &mut Env) -> T {
    fast(env, |pe| a.fast_div(b, pe)).unwrap_or_else(|| div_slow(a, b, env))
}

#[cold]
fn div_slow<T: SseFloat>(a: T, b: T, env: &mut Env) -> T {
    let (a, b) = (open(a, env), open(b, env));
    if let Some(nan) = propagate(&[&a, &b], env) {
        return close(Fields::quieted(T::FORMAT, &nan));
    }
    let sign = a.sign != b.sign;
    if a.is_infinite() && b.is_infinite() || a.is_zero() && b.is_zero() {
        return invalid(env);
    }
    if b.is_zero() && !a.is_infinite() {
        env.raise(Flags::ZE);
        return close(Fields::infinity(T::FORMAT, sign));
    }
    if !denormal_operands(&[&a, &b], env) || a.is_zero() || b.is_infinite() {
        return close(Fields::zero(sign));
    }
    if a.is_infinite() {
        return close(Fields::infinity(T::FORMAT, sign));
    }
    rounded(Exact::quotient(&a, &b), env)
}

/// SQRTSS, SQRTPS, SQRTSD, SQRTPD. IE for SNaN and numbers below zero.
pub fn sqrt<T: SseFloat>(a: T, env: &mut Env) -> T {
    fast(env, |_| a.fast_sqrt()).unwrap_or_else(|| sqrt_slow(a, env))
}

#[cold]
fn sqrt_slow<T: SseFloat>(a: T, env: &mut Env) -> T {
    let a = open(a, env);
    if let Some(nan) = propagate(&[&a], env) {
        return close(Fields::quieted(T::FORMAT, &nan));
    }
    if a.is_zero() {
        return close(Fields::zero(a.sign));
    }
    if a.sign {
        return invalid(env);
    }
    if a.is_infinite() {
        return close(Fields::infinity(T::FORMAT, false));
    }
    if !denormal_operands(&[&a], env) {
        return close(Fields::zero(false));
    }
    rounded(Exact::square_root(&a), env)
}

/// Which terms of ±(a × b) ± c change sign. A NaN operand passes with its own sign.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Negate {
    /// VFNMADD, VFNMSUB.
    pub product: bool,
    /// VFMSUB, VFNMSUB.
    pub addend: bool,
}

/// ±(a × b) ± c with one rounding: VFMADD, VFMSUB, VFNMADD, VFNMSUB (SDM 1, "Fused-Multiply-ADD
/// (FMA) Numeric Behavior"). NaN priority: `a`, `b`, `c`. IE for SNaN, 0 × ∞ (unless an operand is a
/// QNaN) and ∞ − ∞.
pub fn mul_add<T: SseFloat>(a: T, b: T, c: T, negate: Negate, env: &mut Env) -> T {
    let quick = fast(env, |_| {
        let a = if negate.product { a.negated() } else { a };
        let c = if negate.addend { c.negated() } else { c };
        a.fast_mul_add(b, c)
    });
    quick.unwrap_or_else(|| mul_add_slow(a, b, c, negate, env))
}

fn mul_add_slow<T: SseFloat>(a: T, b: T, c: T, negate: Negate, env: &mut Env) -> T {
    let (a, b, mut c) = (open(a, env), open(b, env), open(c, env));
    if let Some(nan) = propagate(&[&a, &b, &c], env) {
        return close(Fields::quieted(T::FORMAT, &nan));
    }
    c.sign ^= negate.addend;
    let sign = (a.sign != b.sign) ^ negate.product;
    let zero = a.is_zero() || b.is_zero();
    let infinite = a.is_infinite() || b.is_infinite();
    if infinite && (zero || c.is_infinite() && c.sign != sign) {
        return invalid(env);
    }
    if !denormal_operands(&[&a, &b, &c], env) {
        return close(Fields::zero(false));
    }
    // The product as an operand of the sum: 106 bits, so `Exact::add` has the room it asks for.
    let product = Unpacked {
        sign,
        class: if infinite {
            Class::Infinity
        } else {
            Class::Finite
        },
        ..a
    };
    let exact = if zero || infinite {
        a.exact()
    } else {
        Exact {
            sign,
            ..Exact::product(&a, &b)
        }
    };
    sum(&product, &c, zero.then_some(sign), exact, env)
}

/// MINSS, MINPS, MINSD, MINPD: the second operand if either is a NaN or both are zeros.
pub fn min<T: SseFloat>(a: T, b: T, env: &mut Env) -> T {
    pick(a, b, Relation::Less, env)
}

/// MAXSS, MAXPS, MAXSD, MAXPD: the second operand if either is a NaN or both are zeros.
pub fn max<T: SseFloat>(a: T, b: T, env: &mut Env) -> T {
    pick(a, b, Relation::Greater, env)
}

fn pick<T: SseFloat>(a: T, b: T, first_if: Relation, env: &mut Env) -> T {
    let relation = compare(a, b, Signal::AnyNan, env);
    let chosen = if relation == first_if { a } else { b };
    // With DAZ a denormal is a zero in the result, too.
    let u = open(chosen, env);
    if u.is_zero() {
        close(Fields::zero(u.sign))
    } else {
        chosen
    }
}

/// COMISS, COMISD ([`Signal::AnyNan`]), UCOMISS, UCOMISD ([`Signal::Snan`]).
pub fn compare<T: SseFloat>(a: T, b: T, signal: Signal, env: &mut Env) -> Relation {
    if let Some(relation) = a.fast_compare(b) {
        return relation;
    }
    let (a, b) = (open(a, env), open(b, env));
    if a.is_nan() || b.is_nan() {
        if signal == Signal::AnyNan
            || a.class == Class::SignallingNan
            || b.class == Class::SignallingNan
        {
            env.raise(Flags::IE);
        }
        return Relation::Unordered;
    }
    denormal_operands(&[&a, &b], env);
    super::unpacked::relation(&a, &b)
}

/// CMPSS, CMPPS, CMPSD, CMPPD (predicates 0..7) and their VEX forms (0..31; only five bits count):
/// SDM 2, CMPPD, table "Comparison Predicate for CMPPD and CMPPS Instructions".
pub fn cmp<T: SseFloat>(a: T, b: T, predicate: u8, env: &mut Env) -> bool {
    // Bit 4 swaps signalling and quiet. Of the first sixteen, LT, LE, NLT, NLE, NGE, NGT, GE, GT signal.
    let signals =
        matches!(predicate & 15, 1 | 2 | 5 | 6 | 9 | 10 | 13 | 14) != (predicate & 16 != 0);
    let relation = compare(
        a,
        b,
        if signals {
            Signal::AnyNan
        } else {
            Signal::Snan
        },
        env,
    );
    let (less, equal, greater, unordered) = match predicate & 15 {
        0 => (false, true, false, false),
        1 => (true, false, false, false),
        2 => (true, true, false, false),
        3 => (false, false, false, true),
        4 => (true, false, true, true),
        5 => (false, true, true, true),
        6 => (false, false, true, true),
        7 => (true, true, true, false),
        8 => (false, true, false, true),
        9 => (true, false, false, true),
        10 => (true, true, false, true),
        11 => (false, false, false, false),
        12 => (true, false, true, false),
        13 => (false, true, true, false),
        14 => (false, false, true, false),
        _ => (true, true, true, true),
    };
    match relation {
        Relation::Less => less,
        Relation::Equal => equal,
        Relation::Greater => greater,
        Relation::Unordered => unordered,
    }
}

/// ROUNDSS, ROUNDPS, ROUNDSD, ROUNDPD: to an integral value; `suppress_pe` is imm8 bit 3. Denormals
/// raise no DE.
pub fn round_to_integral<T: SseFloat>(
    a: T,
    rounding: Rounding,
    suppress_pe: bool,
    env: &mut Env,
) -> T {
    let u = open(a, env);
    if let Some(nan) = propagate(&[&u], env) {
        return close(Fields::quieted(T::FORMAT, &nan));
    }
    if u.is_zero() {
        return close(Fields::zero(u.sign));
    }
    let fraction_bits = T::FORMAT.precision as i32 - 1;
    if u.is_infinite() || u.exp >= fraction_bits {
        return a;
    }
    // Bits of the pattern below the binary point; below ½ all of the number is.
    let below = if u.exp < 0 {
        0
    } else {
        (1u64 << (fraction_bits - u.exp)) - 1
    };
    let (odd, half, rest) = match u.exp {
        ..-1 => (false, false, true),
        -1 => (false, true, u.sig << 1 != 0),
        _ => {
            let fraction = u.sig << u.exp << 1;
            (
                u.exp == 0 || u.sig << (u.exp - 1) >> 62 & 1 != 0,
                fraction >> 63 != 0,
                fraction << 1 != 0,
            )
        }
    };
    if (half || rest) && !suppress_pe {
        env.raise(Flags::PE);
    }
    let up = rounds_up(rounding, u.sign, odd, half, rest);
    if u.exp < 0 {
        return close(if up {
            Fields::one(T::FORMAT, u.sign)
        } else {
            Fields::zero(u.sign)
        });
    }
    // A carry out of the fraction makes the next power of two.
    T::from_bits((a.bits() & !below) + if up { below + 1 } else { 0 })
}

/// The integer of |a| and its sign if `fits`, else IE. Denormals raise no DE.
fn to_integer<T: SseFloat>(
    a: T,
    rounding: Rounding,
    env: &mut Env,
    fits: impl Fn(bool, u64) -> bool,
) -> Option<(bool, u64)> {
    let u = open(a, env);
    let found = match u.class {
        Class::Zero => Some((0, false, false)),
        Class::Finite => round_to_u64(&u.exact(), rounding),
        _ => None,
    };
    match found {
        Some((magnitude, inexact, _)) if fits(u.sign, magnitude) => {
            if inexact {
                env.raise(Flags::PE);
            }
            Some((u.sign, magnitude))
        }
        _ => {
            env.raise(Flags::IE);
            None
        }
    }
}

/// CVTSS2SI r32, CVTSD2SI r32, CVTPS2DQ, CVTPD2DQ and, with [`Rounding::Zero`], their CVTT forms.
/// The integer indefinite 0x8000_0000 and IE if there is no such integer.
pub fn to_i32<T: SseFloat>(a: T, rounding: Rounding, env: &mut Env) -> i32 {
    match to_integer(a, rounding, env, |sign, m| {
        m <= i32::MAX as u64 + sign as u64
    }) {
        Some((sign, m)) => signed(sign, m) as i32,
        None => i32::MIN,
    }
}

/// CVTSS2SI r64, CVTSD2SI r64, VCVTPD2QQ; as [`to_i32`].
pub fn to_i64<T: SseFloat>(a: T, rounding: Rounding, env: &mut Env) -> i64 {
    match to_integer(a, rounding, env, |sign, m| {
        m <= i64::MAX as u64 + sign as u64
    }) {
        Some((sign, m)) => signed(sign, m),
        None => i64::MIN,
    }
}

/// VCVTSS2USI, VCVTSD2USI (AVX-512) r32: all ones and IE if there is no such integer.
pub fn to_u32<T: SseFloat>(a: T, rounding: Rounding, env: &mut Env) -> u32 {
    to_integer(a, rounding, env, |sign, m| {
        m <= u32::MAX as u64 && (!sign || m == 0)
    })
    .map_or(u32::MAX, |(_, m)| m as u32)
}

/// VCVTSS2USI, VCVTSD2USI (AVX-512) r64: all ones and IE if there is no such integer.
pub fn to_u64<T: SseFloat>(a: T, rounding: Rounding, env: &mut Env) -> u64 {
    to_integer(a, rounding, env, |sign, m| !sign || m == 0).map_or(u64::MAX, |(_, m)| m)
}

fn signed(sign: bool, magnitude: u64) -> i64 {
    if sign {
        (magnitude as i64).wrapping_neg()
    } else {
        magnitude as i64
    }
}

fn from_integer<T: SseFloat>(sign: bool, magnitude: u64, env: &mut Env) -> T {
    match Exact::normalized(sign, 127, magnitude as u128) {
        Some(x) => rounded(x, env),
        None => close(Fields::zero(false)),
    }
}

/// CVTSI2SS, CVTSI2SD, CVTDQ2PS, CVTDQ2PD from 32 bits. Only PE.
pub fn from_i32<T: SseFloat>(i: i32, env: &mut Env) -> T {
    from_i64(i as i64, env)
}

/// CVTSI2SS, CVTSI2SD from 64 bits. Only PE.
pub fn from_i64<T: SseFloat>(i: i64, env: &mut Env) -> T {
    from_integer(i < 0, i.unsigned_abs(), env)
}

/// VCVTUSI2SS, VCVTUSI2SD (AVX-512) from 32 bits. Only PE.
pub fn from_u32<T: SseFloat>(i: u32, env: &mut Env) -> T {
    from_integer(false, i as u64, env)
}

/// VCVTUSI2SS, VCVTUSI2SD (AVX-512) from 64 bits. Only PE.
pub fn from_u64<T: SseFloat>(i: u64, env: &mut Env) -> T {
    from_integer(false, i, env)
}

fn convert(u: Unpacked, to: Format, env: &mut Env) -> u64 {
    if let Some(nan) = propagate(&[&u], env) {
        return Fields::quieted(to, &nan).pack(to);
    }
    let fields = match u.class {
        Class::Infinity => Fields::infinity(to, u.sign),
        Class::Finite if denormal_operands(&[&u], env) => {
            round(to, to.precision, u.exact(), Unmasked::NoResult, env)
        }
        _ => Fields::zero(u.sign),
    };
    fields.pack(to)
}

/// CVTSS2SD, CVTPS2PD. IE for SNaN, DE.
pub fn f32_to_f64(a: u32, env: &mut Env) -> u64 {
    if usable32(a) {
        return (f32::from_bits(a) as f64).to_bits(); // exact
    }
    convert(open(a, env), F64_FORMAT, env)
}

/// CVTSD2SS, CVTPD2PS. IE for SNaN, DE, OE, UE, PE.
pub fn f64_to_f32(a: u64, env: &mut Env) -> u32 {
    let r = f64::from_bits(a) as f32;
    if env.rounding == Rounding::NearestEven && usable64(a) && accepted32(r) {
        if r as f64 != f64::from_bits(a) {
            env.raise(Flags::PE);
        }
        return r.to_bits();
    }
    convert(open(a, env), F32_FORMAT, env) as u32
}

/// VCVTPH2PS: exact; DAZ is ignored and denormals raise no DE. IE for SNaN.
pub fn f16_to_f32(a: u16, env: &mut Env) -> u32 {
    let u = unpack(F16_FORMAT, a as u64, false);
    convert(
        Unpacked {
            denormal: false,
            ..u
        },
        F32_FORMAT,
        env,
    ) as u32
}

/// VCVTPS2PH: rounded by `env.rounding`, which the caller takes from imm8; FTZ is ignored.
/// IE for SNaN, DE, OE, UE, PE.
pub fn f32_to_f16(a: u32, env: &mut Env) -> u16 {
    let ftz = core::mem::replace(&mut env.ftz, false);
    let u = open(a, env);
    let r = convert(u, F16_FORMAT, env) as u16;
    env.ftz = ftz;
    // Seen on processors: with UE unmasked a denormal operand counts as inexact.
    if u.denormal && env.is_unmasked(Flags::UE) && !env.is_unmasked(Flags::DE) {
        env.raise(Flags::PE);
    }
    r
}
