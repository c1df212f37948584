//! FPREM, FPREM1, FSCALE and FXTRACT: exact operations on exponent and remainder. Called through `x87`.

use super::unpacked::{Class, Exact, Unpacked, unpack_f80};
use super::x87::{denormal_operands, infinity, invalid, propagate, rounded_to_64, zero};
use super::{Env, F80, Flags};

/// What FPREM and FPREM1 leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remainder {
    /// ST(0).
    pub value: F80,
    /// The three low bits of the quotient: bit 2 to C0, bit 1 to C3, bit 0 to C1. Zero if incomplete.
    pub quotient: u8,
    /// C2: the exponents differ by 64 or more, the remainder is only reduced.
    pub incomplete: bool,
}

impl Remainder {
    fn whole(value: F80) -> Self {
        Self {
            value,
            quotient: 0,
            incomplete: false,
        }
    }
}

/// FPREM: a − b × Q, Q truncated. IE for SNaN, unsupported, a = ∞, b = 0.
pub fn prem(a: F80, b: F80, env: &mut Env) -> Remainder {
    remainder(a, b, false, env)
}

/// FPREM1: a − b × Q, Q rounded to nearest even (IEEE remainder). IE as [`prem`].
pub fn prem1(a: F80, b: F80, env: &mut Env) -> Remainder {
    remainder(a, b, true, env)
}

fn remainder(a: F80, b: F80, nearest: bool, env: &mut Env) -> Remainder {
    let (x, y) = (unpack_f80(a), unpack_f80(b));
    env.c1 = false;
    if let Some(nan) = propagate(&x, &y, env) {
        return Remainder::whole(nan);
    }
    if x.is_infinite() || y.is_zero() {
        return Remainder::whole(invalid(env));
    }
    if !denormal_operands(&x, &y, env) {
        return Remainder::whole(a);
    }
    if x.is_zero() {
        return Remainder::whole(a);
    }
    if y.is_infinite() {
        return Remainder::whole(unchanged(a));
    }

    let distance = x.exp - y.exp;
    if distance < -1 || distance == -1 && !nearest {
        return Remainder::whole(exactly(x.sign, x.exp, x.sig as u128, env));
    }
    let incomplete = distance >= 64;
    // A partial step reduces the exponent by N = 32 + D mod 32, as processors do (SDM: between 32 and 63).
    let steps = if incomplete {
        32 + distance % 32
    } else {
        distance
    };
    // Long division, one quotient bit a step: rest × 2^unit is what remains of |x|.
    let divisor = y.sig as u128;
    let mut rest = x.sig as u128;
    let mut quotient = 0u64;
    let mut unit = y.exp;
    if distance == -1 {
        // |x| < |y|: in units of x's last place the divisor is twice as large.
        unit = x.exp;
        if rest > divisor {
            // |x| > |y|/2: the quotient is one.
            return Remainder {
                value: exactly(!x.sign, unit, 2 * divisor - rest, env),
                quotient: 1,
                incomplete: false,
            };
        }
        return Remainder::whole(exactly(x.sign, unit, rest, env));
    }
    for step in 0..=steps {
        if step > 0 {
            rest <<= 1;
        }
        quotient <<= 1;
        if rest >= divisor {
            rest -= divisor;
            quotient |= 1;
        }
    }
    if incomplete {
        unit = x.exp - steps;
        return Remainder {
            value: exactly(x.sign, unit, rest, env),
            quotient: 0,
            incomplete,
        };
    }
    let mut sign = x.sign;
    if nearest && (2 * rest > divisor || 2 * rest == divisor && quotient & 1 != 0) {
        rest = divisor - rest;
        sign = !sign;
        quotient = quotient.wrapping_add(1);
    }
    Remainder {
        value: exactly(sign, unit, rest, env),
        quotient: quotient as u8 & 7,
        incomplete: false,
    }
}

/// `a` itself, but for a pseudo-denormal, which becomes the normal number that it is.
fn unchanged(a: F80) -> F80 {
    let pseudo_denormal = a.sign_exponent & 0x7fff == 0 && a.significand >> 63 != 0;
    F80 {
        sign_exponent: a.sign_exponent | pseudo_denormal as u16,
        ..a
    }
}

/// (−1)^sign × sig × 2^(exp−63), which is representable.
fn exactly(sign: bool, exp: i32, sig: u128, env: &mut Env) -> F80 {
    match Exact::normalized(sign, exp + 64, sig) {
        Some(x) => rounded_to_64(x, env),
        None => zero(sign),
    }
}

/// FSCALE: a × 2^trunc(b). IE for SNaN, unsupported, 0 × 2^∞ and ∞ × 2^−∞; DE, OE, UE, PE.
pub fn scale(a: F80, b: F80, env: &mut Env) -> F80 {
    let (x, y) = (unpack_f80(a), unpack_f80(b));
    env.c1 = false;
    if let Some(nan) = propagate(&x, &y, env) {
        return nan;
    }
    if y.is_infinite() {
        if if y.sign { x.is_infinite() } else { x.is_zero() } {
            return invalid(env);
        }
        if !denormal_operands(&x, &y, env) {
            return a;
        }
        return if y.sign {
            zero(x.sign)
        } else {
            infinity(x.sign)
        };
    }
    if !denormal_operands(&x, &y, env) || x.class != Class::Finite {
        return a;
    }
    if y.is_zero() {
        return unchanged(a);
    }
    // Beyond ±2^16 every number leaves the range, wrapped or not.
    let by = match y.exp {
        ..0 => 0,
        0..=16 => (y.sig >> (63 - y.exp)) as i32,
        _ => 1 << 17,
    };
    let x = Exact {
        exp: x.exp + if y.sign { -by } else { by },
        ..x.exact()
    };
    rounded_to_64(x, env)
}

/// FXTRACT: (exponent, significand); the exponent replaces ST(0), then the significand is pushed.
/// ZE and (−∞, ±0) for a zero; IE for SNaN and unsupported; DE.
pub fn extract(a: F80, env: &mut Env) -> (F80, F80) {
    let u: Unpacked = unpack_f80(a);
    env.c1 = false;
    if let Some(nan) = propagate(&u, &u, env) {
        return (nan, nan);
    }
    match u.class {
        Class::Zero => {
            env.raise(Flags::ZE);
            (infinity(true), a)
        }
        Class::Infinity => (infinity(false), a),
        _ => {
            denormal_operands(&u, &u, env);
            (
                super::x87::from_i32(u.exp),
                F80::new((u.sign as u16) << 15 | 0x3fff, u.sig),
            )
        }
    }
}
