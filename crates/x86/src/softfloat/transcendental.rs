//! FSIN, FCOS, FSINCOS, FPTAN, FPATAN, F2XM1, FYL2X, FYL2XP1 and the constants. Called through `x87`.
//!
//! Values are computed as power series on `Wide` (over 100 good bits) and rounded once to 64 bits by
//! `env.rounding`; precision control has no effect. Special cases follow the tables of SDM 2. A result
//! may differ from a given processor's by one unit in the last place; on exact ties of what hardware
//! computes internally C1 and directed rounding can differ likewise.

use super::unpacked::{Class, Exact, Unpacked, unpack_f80};
use super::wide::{Wide, polynomial};
use super::x87::{denormal_operands, from_i32, infinity, invalid, propagate, rounded_to_64, zero};
use super::{Env, F80, Flags};

const PI: Wide = Wide::new(1, 0xC90F_DAA2_2168_C234_C4C6_628B_80DC_1CD1);
const LN_2: Wide = Wide::new(-1, 0xB172_17F7_D1CF_79AB_C9E3_B398_03F2_F6AF);
const LOG2_E: Wide = Wide::new(0, 0xB8AA_3B29_5C17_F0BB_BE87_FED0_691D_3E88);
const LOG2_10: Wide = Wide::new(1, 0xD49A_784B_CD1B_8AFE_492B_F6FF_4DAF_DB4C);
const LOG10_2: Wide = Wide::new(-2, 0x9A20_9A84_FBCF_F798_8F89_59AC_0B7C_9178);

/// π/2 × 2^67 with the 66-bit π that the processor reduces arguments by
/// (SDM 1, "Approximation of Pi": 0.C90FDAA2 2168C234 C × 2^2).
const HALF_PI_66: u128 = 0xC_90FD_AA22_168C_234C;

const TERMS: usize = 36;

/// 1/n!
const INVERSE_FACTORIAL: [Wide; TERMS] = {
    let mut t = [Wide::ONE; TERMS];
    let mut n = 1;
    while n < TERMS {
        t[n] = t[n - 1].div_small(n as u64);
        n += 1;
    }
    t
};

/// sin r = r × P(r²): (−1)^k / (2k+1)!; cos r = P(r²): (−1)^k / (2k)!
const SIN: [Wide; 18] = alternate(1);
const COS: [Wide; 18] = alternate(0);

const fn alternate(from: usize) -> [Wide; 18] {
    let mut t = [Wide::ZERO; 18];
    let mut k = 0;
    while k < 18 {
        t[k] = INVERSE_FACTORIAL[2 * k + from].negated_if(k % 2 == 1);
        k += 1;
    }
    t
}

/// e^x − 1 = x × P(x): 1/(n+1)!
const EXPM1: [Wide; 34] = {
    let mut t = [Wide::ZERO; 34];
    let mut n = 0;
    while n < 34 {
        t[n] = INVERSE_FACTORIAL[n + 1];
        n += 1;
    }
    t
};

/// artanh s = s × P(s²): 1/(2k+1); arctan with alternating signs.
const fn odd_inverses<const N: usize>(alternating: bool) -> [Wide; N] {
    let mut t = [Wide::ZERO; N];
    let mut k = 0;
    while k < N {
        t[k] = Wide::ONE
            .div_small(2 * k as u64 + 1)
            .negated_if(alternating && k % 2 == 1);
        k += 1;
    }
    t
}
const ARTANH: [Wide; 27] = odd_inverses(false);
const ARCTAN: [Wide; 18] = odd_inverses(true);

const fn arctan_series(t: Wide) -> Wide {
    t.mul(polynomial(&ARCTAN, t.mul(t)))
}

/// arctan(k/16): each from the one before, arctan a − arctan b = arctan((a−b)/(1+ab)).
const ARCTAN_16THS: [Wide; 17] = {
    let mut t = [Wide::ZERO; 17];
    let mut k = 1;
    while k <= 16 {
        let step = Wide::from_int(16).div_small(256 + k as u64 * (k as u64 - 1));
        t[k] = t[k - 1].add(arctan_series(step));
        k += 1;
    }
    t
};

/// A constant in the x87's ROM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Constant {
    /// FLD1.
    One,
    /// FLDL2T: log2 10.
    Log2Of10,
    /// FLDL2E: log2 e.
    Log2OfE,
    /// FLDPI.
    Pi,
    /// FLDLG2: log10 2.
    Log10Of2,
    /// FLDLN2: ln 2.
    LnOf2,
    /// FLDZ.
    Zero,
}

/// FLD1 … FLDZ: rounded to 64 bits by `env.rounding`; no exceptions, C1 cleared.
pub fn constant(which: Constant, env: &mut Env) -> F80 {
    let value = match which {
        Constant::One => return F80::ONE,
        Constant::Zero => return F80::ZERO,
        Constant::Log2Of10 => LOG2_10,
        Constant::Log2OfE => LOG2_E,
        Constant::Pi => PI,
        Constant::Log10Of2 => LOG10_2,
        Constant::LnOf2 => LN_2,
    };
    env.c1 = false;
    rounded_to_64(
        value.inexact(),
        &mut Env {
            rounding: env.rounding,
            ..Env::DEFAULT
        },
    )
}

fn finish(w: Wide, env: &mut Env) -> F80 {
    if w.sig == 0 {
        zero(w.sign)
    } else {
        rounded_to_64(w.inexact(), env)
    }
}

/// x for a function that differs from it by less than can be told: if x has 64 bits, x in all rounding
/// modes, as processors give it, with PE, and UE if it is tiny.
fn unchanged(x: Exact, env: &mut Env) -> F80 {
    if x.sig as u64 != 0 {
        return rounded_to_64(x, env);
    }
    let r = rounded_to_64(x, env);
    env.raise(if x.exp < -16382 {
        Flags::UE.union(Flags::PE)
    } else {
        Flags::PE
    });
    r
}

/// Below this exponent x² is lost against 1: sin, tan and arctan of x are x and a trifle.
const TINY_EXPONENT: i32 = -64;

/// Below this exponent processors give a cosine of 1 in all rounding modes.
const TINY_COSINE_EXPONENT: i32 = -33;

/// |x| = quadrant × π/2 + r with |r| ≤ π/4; the sign of x is not looked at.
fn reduce(x: &Unpacked) -> (u32, Wide) {
    if x.exp < -4 {
        return (0, Wide::from_unpacked(x).with_sign(false));
    }
    // In units of 2^-67 |x| is sig × 2^(exp+4): long division by π/2 × 2^67, the rest stays below 2^68.
    let mut rest = x.sig as u128;
    let mut quotient = 0u32;
    for _ in 0..x.exp + 4 {
        rest <<= 1;
        quotient <<= 1;
        if rest >= HALF_PI_66 {
            rest -= HALF_PI_66;
            quotient |= 1;
        }
    }
    if 2 * rest > HALF_PI_66 {
        return (
            quotient.wrapping_add(1) & 3,
            Wide::from_scaled(HALF_PI_66 - rest, -67).with_sign(true),
        );
    }
    (quotient & 3, Wide::from_scaled(rest, -67))
}

fn sin_series(r: Wide) -> Wide {
    r.mul(polynomial(&SIN, r.mul(r)))
}

fn cos_series(r: Wide) -> Wide {
    polynomial(&COS, r.mul(r))
}

fn sin_reduced(sign: bool, quadrant: u32, r: Wide) -> Wide {
    let value = if quadrant & 1 == 0 {
        sin_series(r)
    } else {
        cos_series(r)
    };
    value.negated_if(sign != (quadrant & 2 != 0))
}

/// What the four trigonometric instructions do with an operand that has no ordinary answer.
enum Argument {
    /// Reduce it and compute.
    Number(Unpacked),
    /// ±0.
    Zero,
    /// NaN, ∞, unsupported, or an unmasked DE: this is the answer.
    Answer(F80),
    /// |x| ≥ 2^63: C2.
    OutOfRange,
}

fn argument(a: F80, env: &mut Env) -> Argument {
    let u = unpack_f80(a);
    env.c1 = false;
    if let Some(nan) = propagate(&u, &u, env) {
        return Argument::Answer(nan);
    }
    match u.class {
        Class::Infinity => Argument::Answer(invalid(env)),
        Class::Zero => Argument::Zero,
        _ if u.exp >= 63 => Argument::OutOfRange,
        _ if denormal_operands(&u, &u, env) => Argument::Number(u),
        _ => Argument::Answer(a),
    }
}

fn sin_of(u: &Unpacked, env: &mut Env) -> F80 {
    if u.exp < TINY_EXPONENT {
        return unchanged(u.exact(), env);
    }
    let (quadrant, r) = reduce(u);
    finish(sin_reduced(u.sign, quadrant, r), env)
}

fn cos_of(u: &Unpacked, env: &mut Env) -> F80 {
    if u.exp < TINY_COSINE_EXPONENT {
        env.raise(Flags::PE);
        env.c1 = false;
        return F80::ONE;
    }
    let (quadrant, r) = reduce(u);
    finish(sin_reduced(false, quadrant + 1, r), env)
}

/// FSIN. None: |a| ≥ 2^63, C2 = 1, ST(0) unchanged. IE for SNaN, unsupported, ∞; DE, UE, PE.
pub fn sin(a: F80, env: &mut Env) -> Option<F80> {
    match argument(a, env) {
        Argument::OutOfRange => None,
        Argument::Answer(f) => Some(f),
        Argument::Zero => Some(a),
        Argument::Number(u) => Some(sin_of(&u, env)),
    }
}

/// FCOS; as [`sin`].
pub fn cos(a: F80, env: &mut Env) -> Option<F80> {
    match argument(a, env) {
        Argument::OutOfRange => None,
        Argument::Answer(f) => Some(f),
        Argument::Zero => Some(F80::ONE),
        Argument::Number(u) => Some(cos_of(&u, env)),
    }
}

/// FSINCOS: (sine, cosine); the sine replaces ST(0), then the cosine is pushed. As [`sin`].
pub fn sincos(a: F80, env: &mut Env) -> Option<(F80, F80)> {
    match argument(a, env) {
        Argument::OutOfRange => None,
        Argument::Answer(f) => Some((f, f)),
        Argument::Zero => Some((a, F80::ONE)),
        Argument::Number(u) => {
            let sine = sin_of(&u, env);
            Some((sine, cos_of(&u, env)))
        }
    }
}

/// FPTAN: the tangent that replaces ST(0); then 1.0 is pushed, or the same NaN again. As [`sin`].
pub fn tan(a: F80, env: &mut Env) -> Option<F80> {
    match argument(a, env) {
        Argument::OutOfRange => None,
        Argument::Answer(f) => Some(f),
        Argument::Zero => Some(a),
        Argument::Number(u) => {
            if u.exp < TINY_EXPONENT {
                return Some(unchanged(u.exact(), env));
            }
            let (quadrant, r) = reduce(&u);
            let (sine, cosine) = (
                sin_reduced(u.sign, quadrant, r),
                sin_reduced(false, quadrant + 1, r),
            );
            Some(finish(sine.div(cosine), env))
        }
    }
}

/// FPATAN: arctan(y/x) in the quadrant of (x, y), y = ST(1), x = ST(0). IE for SNaN and unsupported;
/// DE, UE, PE.
pub fn atan(y: F80, x: F80, env: &mut Env) -> F80 {
    let (y, x) = (unpack_f80(y), unpack_f80(x));
    env.c1 = false;
    if let Some(nan) = propagate(&y, &x, env) {
        return nan;
    }
    if !denormal_operands(&y, &x, env) {
        return F80::ZERO;
    }
    let angle = match (y.class, x.class) {
        (Class::Infinity, Class::Infinity) if x.sign => PI.scaled(-2).add(PI.scaled(-1)),
        (Class::Infinity, Class::Infinity) => PI.scaled(-2),
        (Class::Zero, _) | (_, Class::Infinity) if !x.sign => return zero(y.sign),
        (Class::Zero, _) | (_, Class::Infinity) => PI,
        (_, Class::Zero) | (Class::Infinity, _) => PI.scaled(-1),
        _ => {
            let (a, b) = (
                Wide::from_unpacked(&y).with_sign(false),
                Wide::from_unpacked(&x).with_sign(false),
            );
            let steep = (a.exp, a.sig) > (b.exp, b.sig);
            if !steep && !x.sign && y.exp - x.exp < TINY_EXPONENT {
                return unchanged(
                    Exact {
                        sign: y.sign,
                        ..Exact::quotient(&y, &x)
                    },
                    env,
                );
            }
            let angle = if steep {
                PI.scaled(-1).sub(arctan(b.div(a)))
            } else {
                arctan(a.div(b))
            };
            if x.sign { PI.sub(angle) } else { angle }
        }
    };
    finish(angle.with_sign(y.sign), env)
}

/// arctan t for 0 ≤ t ≤ 1: against the nearest k/16.
fn arctan(t: Wide) -> Wide {
    if t.exp < -5 {
        return arctan_series(t);
    }
    // 16 t rounded; t.exp is -5..=0.
    let k = ((t.sig >> (122 - t.exp)) as u32).div_ceil(2);
    let k = if k > 16 { 16 } else { k };
    let base = Wide::from_int(k as i32).scaled(-4);
    let rest = t.sub(base).div(Wide::ONE.add(t.mul(base)));
    ARCTAN_16THS[k as usize].add(arctan_series(rest))
}

/// F2XM1: 2^a − 1 for −1 ≤ a ≤ 1; beyond, the SDM leaves the result undefined: here, as on processors,
/// `a` itself. IE for SNaN and unsupported; DE, UE, PE.
pub fn f2xm1(a: F80, env: &mut Env) -> F80 {
    let u = unpack_f80(a);
    env.c1 = false;
    if let Some(nan) = propagate(&u, &u, env) {
        return nan;
    }
    match u.class {
        Class::Zero => return a,
        Class::Infinity => return if u.sign { F80::ONE.negated() } else { a },
        _ => {}
    }
    if !denormal_operands(&u, &u, env) {
        return a;
    }
    if u.exp >= 0 {
        env.raise(Flags::PE);
        let minus_one = u.sign && u.exp == 0 && u.sig << 1 == 0;
        return if minus_one {
            F80::new(0xbffe, 1 << 63)
        } else {
            a
        };
    }
    let x = Wide::from_unpacked(&u).mul(LN_2);
    finish(x.mul(polynomial(&EXPM1, x)), env)
}

/// log2 of a positive number other than 1.
fn log2(x: Wide) -> Wide {
    // Above √2 take half of the significand, so that the logarithm of the rest is at most ½, and a
    // number near 1 is near 1.
    const SQRT_2: u128 = 0xB504_F333_F9DE_6484 << 64;
    let (m, exp) = if x.sig > SQRT_2 {
        (Wide::new(-1, x.sig), x.exp + 1)
    } else {
        (Wide::new(0, x.sig), x.exp)
    };
    let s = m.sub(Wide::ONE).div(m.add(Wide::ONE));
    Wide::from_int(exp).add(log2_of_ratio(s))
}

/// log2((1+s)/(1−s)) = 2 artanh s × log2 e.
fn log2_of_ratio(s: Wide) -> Wide {
    s.mul(polynomial(&ARTANH, s.mul(s))).scaled(1).mul(LOG2_E)
}

/// y × the logarithm of a power of two, 2^exp. Processors get just below the product, inexact; but for
/// exp > 0 they judge by the product itself at the very ends of the exponent range.
fn times_integer(y: &Unpacked, exp: i32, env: &mut Env) -> F80 {
    let product = Exact::product(y, &unpack_f80(from_i32(exp)));
    let at_an_end = exp > 0 && product.sig == 1 << 127 && matches!(product.exp, 16384 | -16382);
    let value = if at_an_end {
        Exact {
            sig: product.sig | 1,
            ..product
        }
    } else {
        product.below()
    };
    rounded_to_64(value, env)
}

/// FYL2X: y × log2 x, x = ST(0), y = ST(1). IE for SNaN, unsupported, x < 0, 0 × ∞ in any guise;
/// ZE for x = 0 with y finite; DE, OE, UE, PE.
pub fn yl2x(x: F80, y: F80, env: &mut Env) -> F80 {
    let (x, y) = (unpack_f80(x), unpack_f80(y));
    env.c1 = false;
    if let Some(nan) = propagate(&x, &y, env) {
        return nan;
    }
    if x.sign && !x.is_zero() {
        return invalid(env);
    }
    let below_one = x.class == Class::Finite && x.exp < 0;
    let is_one = x.class == Class::Finite && x.exp == 0 && x.sig << 1 == 0;
    match (x.class, y.class) {
        (Class::Zero, Class::Zero) | (Class::Infinity, Class::Zero) => return invalid(env),
        (_, Class::Infinity) if is_one => return invalid(env),
        (Class::Zero, Class::Finite) => {
            env.raise(Flags::ZE);
            return infinity(!y.sign);
        }
        _ => {}
    }
    if !denormal_operands(&x, &y, env) {
        return F80::ZERO;
    }
    match (x.class, y.class) {
        (Class::Zero, _) => return infinity(!y.sign),
        (Class::Infinity, _) => return infinity(y.sign),
        (_, Class::Infinity) => return infinity(y.sign != below_one),
        (_, Class::Zero) => return zero(y.sign != below_one),
        _ if is_one => return zero(y.sign),
        _ => {}
    }
    if x.sig << 1 == 0 {
        return times_integer(&y, x.exp, env);
    }
    finish(
        log2(Wide::from_unpacked(&x)).mul(Wide::from_unpacked(&y)),
        env,
    )
}

/// FYL2XP1: y × log2(x + 1), x = ST(0), y = ST(1). The SDM defines it for |x| ≤ 1 − √½; here it is
/// computed wherever x > −1, and `x` below, as on processors. IE for SNaN, unsupported, x = −∞,
/// 0 × ∞ in any guise; DE, OE, UE, PE.
pub fn yl2xp1(x: F80, y: F80, env: &mut Env) -> F80 {
    let x_pattern = x;
    let (x, y) = (unpack_f80(x), unpack_f80(y));
    env.c1 = false;
    if let Some(nan) = propagate(&x, &y, env) {
        return nan;
    }
    let up_to_minus_one = x.sign && !x.is_zero() && (x.exp >= 0 || x.is_infinite());
    if x.is_infinite() && (x.sign || y.is_zero()) || x.is_zero() && y.is_infinite() {
        return invalid(env);
    }
    if !denormal_operands(&x, &y, env) {
        return F80::ZERO;
    }
    let sign = x.sign != y.sign;
    if x.is_infinite() || y.is_infinite() {
        return infinity(sign);
    }
    if x.is_zero() || y.is_zero() {
        return zero(sign);
    }
    if up_to_minus_one {
        env.raise(Flags::PE);
        return x_pattern;
    }
    let w = Wide::from_unpacked(&x);
    let logarithm = if x.exp < -1 {
        log2_of_ratio(w.div(w.add(Wide::from_int(2))))
    } else {
        let sum = Wide::ONE.add(w);
        if sum.sig << 1 == 0 {
            return times_integer(&y, sum.exp, env);
        }
        log2(sum)
    };
    finish(logarithm.mul(Wide::from_unpacked(&y)), env)
}

impl Exact {
    /// One unit in the last of the 128 places nearer to zero.
    const fn below(self) -> Self {
        if self.sig == 1 << 127 {
            Self {
                exp: self.exp - 1,
                sig: u128::MAX,
                ..self
            }
        } else {
            Self {
                sig: (self.sig - 1) | 1,
                ..self
            }
        }
    }
}
