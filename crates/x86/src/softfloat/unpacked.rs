//! One representation for all formats: taking patterns apart, the exact operations on finite numbers,
//! and the one place where results are rounded and packed.
//!
//! Called by `sse`, `x87` and their helpers.

use super::{Env, F80, Flags, Relation, Rounding};

/// The parameters of a binary format.
#[derive(Clone, Copy)]
pub struct Format {
    /// Significand bits, the integer bit included.
    pub precision: u32,
    /// Largest exponent of a finite number; also the bias.
    pub emax: i32,
}

pub(super) const F16_FORMAT: Format = Format {
    precision: 11,
    emax: 15,
};
pub(super) const F32_FORMAT: Format = Format {
    precision: 24,
    emax: 127,
};
pub(super) const F64_FORMAT: Format = Format {
    precision: 53,
    emax: 1023,
};
pub(super) const F80_FORMAT: Format = Format {
    precision: 64,
    emax: 16383,
};

impl Format {
    const fn emin(&self) -> i32 {
        1 - self.emax
    }
    const fn max_biased(&self) -> u32 {
        self.emax as u32 * 2 + 1
    }
    const fn exponent_bits(&self) -> u32 {
        self.max_biased().count_ones()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Zero,
    Finite,
    Infinity,
    QuietNan,
    SignallingNan,
    /// x87 only: unnormal, pseudo-NaN, pseudo-infinity.
    Unsupported,
}

/// A number taken apart. Finite: (−1)^sign × sig × 2^(exp−63), bit 63 of `sig` set.
/// NaN: `sig` is the significand left-aligned, as in an F80.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unpacked {
    pub sign: bool,
    pub class: Class,
    pub exp: i32,
    pub sig: u64,
    /// Denormal (or pseudo-denormal) operand: raises DE.
    pub denormal: bool,
}

pub(super) const QUIET_BIT: u64 = 1 << 62;
pub(super) const INTEGER_BIT: u64 = 1 << 63;

impl Unpacked {
    pub const fn is_nan(&self) -> bool {
        matches!(self.class, Class::QuietNan | Class::SignallingNan)
    }
    pub fn is_zero(&self) -> bool {
        self.class == Class::Zero
    }
    pub fn is_infinite(&self) -> bool {
        self.class == Class::Infinity
    }
    pub fn exact(&self) -> Exact {
        Exact {
            sign: self.sign,
            exp: self.exp,
            sig: (self.sig as u128) << 64,
        }
    }
}

/// Takes an interchange pattern (16, 32, 64 bits) apart. With `daz`, a denormal becomes a zero.
pub(super) fn unpack(format: Format, bits: u64, daz: bool) -> Unpacked {
    let fraction_bits = format.precision - 1;
    let biased = (bits >> fraction_bits) as u32 & format.max_biased();
    let sign = bits >> (fraction_bits + format.exponent_bits()) & 1 != 0;
    // Fraction left-aligned under the integer bit.
    let fraction = bits << (64 - fraction_bits) >> 1;
    let mut u = Unpacked {
        sign,
        class: Class::Finite,
        exp: biased as i32 - format.emax,
        sig: fraction | INTEGER_BIT,
        denormal: false,
    };
    if biased == 0 {
        if fraction == 0 || daz {
            u.class = Class::Zero;
            u.sig = 0;
        } else {
            u.denormal = true;
            let shift = fraction.leading_zeros();
            u.sig = fraction << shift;
            u.exp = format.emin() - shift as i32;
        }
    } else if biased == format.max_biased() {
        u.class = if fraction == 0 {
            Class::Infinity
        } else if fraction & QUIET_BIT != 0 {
            Class::QuietNan
        } else {
            Class::SignallingNan
        };
    }
    u
}

/// Takes an x87 register apart.
pub(super) fn unpack_f80(f: F80) -> Unpacked {
    let biased = f.sign_exponent & 0x7fff;
    let sig = f.significand;
    let mut u = Unpacked {
        sign: f.sign(),
        class: Class::Finite,
        exp: biased as i32 - 16383,
        sig,
        denormal: false,
    };
    if biased == 0 {
        if sig == 0 {
            u.class = Class::Zero;
        } else {
            let shift = sig.leading_zeros();
            u.denormal = true;
            u.sig = sig << shift;
            u.exp = -16382 - shift as i32;
        }
    } else if sig & INTEGER_BIT == 0 {
        u.class = Class::Unsupported;
    } else if biased == 0x7fff {
        u.class = if sig << 1 == 0 {
            Class::Infinity
        } else if sig & QUIET_BIT != 0 {
            Class::QuietNan
        } else {
            Class::SignallingNan
        };
    }
    u
}

/// The fields of a packed number: biased exponent, and significand left-aligned with its integer bit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields {
    pub sign: bool,
    pub biased: u32,
    pub sig: u64,
}

impl Fields {
    pub const fn zero(sign: bool) -> Self {
        Self {
            sign,
            biased: 0,
            sig: 0,
        }
    }
    pub const fn infinity(format: Format, sign: bool) -> Self {
        Self {
            sign,
            biased: format.max_biased(),
            sig: INTEGER_BIT,
        }
    }
    pub const fn one(format: Format, sign: bool) -> Self {
        Self {
            sign,
            biased: format.emax as u32,
            sig: INTEGER_BIT,
        }
    }
    /// "Real indefinite", the default NaN.
    pub const fn indefinite(format: Format) -> Self {
        Self {
            sign: true,
            biased: format.max_biased(),
            sig: INTEGER_BIT | QUIET_BIT,
        }
    }
    /// A NaN made quiet; its payload is cut to the format.
    pub const fn quieted(format: Format, nan: &Unpacked) -> Self {
        Self {
            sign: nan.sign,
            biased: format.max_biased(),
            sig: nan.sig | INTEGER_BIT | QUIET_BIT,
        }
    }
    /// The interchange pattern.
    pub fn pack(self, format: Format) -> u64 {
        let fraction_bits = format.precision - 1;
        let fraction = (self.sig & !INTEGER_BIT) >> (64 - format.precision);
        (self.sign as u64) << (fraction_bits + format.exponent_bits())
            | (self.biased as u64) << fraction_bits
            | fraction
    }
    /// The x87 register.
    pub fn pack_f80(self) -> F80 {
        F80::new((self.sign as u16) << 15 | self.biased as u16, self.sig)
    }
}

/// A finite number other than zero, before rounding: (−1)^sign × sig × 2^(exp−127), bit 127 of `sig`
/// set. Bits below the lowest that can matter may be gathered ("jammed") into bit 0.
#[derive(Clone, Copy, Debug)]
pub(super) struct Exact {
    pub sign: bool,
    pub exp: i32,
    pub sig: u128,
}

/// Shifts right; bits shifted out survive as a one in bit 0.
pub(super) const fn shift_right_jam(v: u128, n: u32) -> u128 {
    if n == 0 {
        v
    } else if n < 128 {
        v >> n | (v << (128 - n) != 0) as u128
    } else {
        (v != 0) as u128
    }
}

impl Exact {
    /// Brings bit 127 up. None for zero.
    pub fn normalized(sign: bool, exp: i32, sig: u128) -> Option<Self> {
        if sig == 0 {
            return None;
        }
        let shift = sig.leading_zeros();
        Some(Self {
            sign,
            exp: exp - shift as i32,
            sig: sig << shift,
        })
    }

    /// Sum; None when it is exactly zero.
    ///
    /// Exact up to jamming, if the significands have at most 127 bits: both are moved down by one for
    /// the carry. If bits of the smaller are jammed the exponents differ by more than one, so
    /// at most one bit cancels and the jammed bit stays far below the rounding position.
    pub fn add(self, other: Self) -> Option<Self> {
        let (x, y) = if (self.exp, self.sig) >= (other.exp, other.sig) {
            (self, other)
        } else {
            (other, self)
        };
        let distance = (x.exp - y.exp) as u32;
        let (xs, ys) = (
            shift_right_jam(x.sig, 1),
            shift_right_jam(y.sig, distance.saturating_add(1)),
        );
        let sum = if x.sign == y.sign { xs + ys } else { xs - ys };
        Self::normalized(x.sign, x.exp + 1, sum)
    }

    /// The exact product.
    pub fn product(a: &Unpacked, b: &Unpacked) -> Self {
        let sig = a.sig as u128 * b.sig as u128;
        let shift = sig.leading_zeros();
        Self {
            sign: a.sign != b.sign,
            exp: a.exp + b.exp + 1 - shift as i32,
            sig: sig << shift,
        }
    }

    /// The quotient, to over 100 bits and jammed.
    pub fn quotient(a: &Unpacked, b: &Unpacked) -> Self {
        let divisor = b.sig as u128;
        let dividend = (a.sig as u128) << 63;
        let high = dividend / divisor; // < 2^64, because a.sig < 2 × b.sig
        let rest = (dividend - high * divisor) << 64;
        let low = rest / divisor;
        let inexact = low * divisor != rest;
        let sig = high << 64 | low | inexact as u128;
        let shift = sig.leading_zeros();
        Self {
            sign: a.sign != b.sign,
            exp: a.exp - b.exp - shift as i32,
            sig: sig << shift,
        }
    }

    /// The square root of |a|: 65 bits and jammed.
    pub fn square_root(a: &Unpacked) -> Self {
        let odd = a.exp & 1 != 0;
        // m × 2^126 with m in [1, 4): an odd exponent gives m a factor of two. The root is in [2^63, 2^64).
        let radicand = (a.sig as u128) << if odd { 64 } else { 63 };
        let root = radicand.isqrt();
        let rest = radicand - root * root;
        // (root + ½)² = root² + root + ¼ is below the radicand if and only if rest > root.
        let sig = root << 64 | ((rest > root) as u128) << 63 | (rest != 0) as u128;
        Self {
            sign: false,
            exp: a.exp.div_euclid(2),
            sig,
        }
    }
}

/// Whether the discarded part makes the magnitude go up.
pub(super) fn rounds_up(
    rounding: Rounding,
    sign: bool,
    kept_odd: bool,
    half: bool,
    below_half: bool,
) -> bool {
    match rounding {
        Rounding::NearestEven => half && (below_half || kept_odd),
        Rounding::Down => sign && (half || below_half),
        Rounding::Up => !sign && (half || below_half),
        Rounding::Zero => false,
    }
}

/// `sig` rounded to its upper `bits` bits (1..=127; the lower ones come back clear), whether that
/// carried out of bit 127 (then the result is 0), whether it was inexact, whether it went up.
fn round_significand(
    sig: u128,
    bits: u32,
    sign: bool,
    rounding: Rounding,
) -> (u128, bool, bool, bool) {
    let unit = 1u128 << (128 - bits);
    let dropped = sig & (unit - 1);
    let half = dropped & (unit >> 1) != 0;
    let below_half = dropped & (unit >> 1).wrapping_sub(1) != 0;
    let up = rounds_up(rounding, sign, sig & unit != 0, half, below_half);
    let kept = sig - dropped;
    let (rounded, carry) = if up {
        kept.overflowing_add(unit)
    } else {
        (kept, false)
    };
    (rounded, carry, dropped != 0, up)
}

/// |x| as an integer, rounded; None from 2^64 on. Also whether it was inexact and went up.
pub(super) fn round_to_u64(x: &Exact, rounding: Rounding) -> Option<(u64, bool, bool)> {
    if x.exp > 63 {
        return None;
    }
    // Fixed point with the binary point between the two halves.
    let fixed = shift_right_jam(x.sig, (63 - x.exp) as u32);
    let integer = (fixed >> 64) as u64;
    let fraction = fixed as u64;
    let up = rounds_up(
        rounding,
        x.sign,
        integer & 1 != 0,
        fraction >> 63 != 0,
        fraction << 1 != 0,
    );
    let rounded = integer.checked_add(up as u64)?;
    Some((rounded, fraction != 0, up))
}

/// What an unmasked overflow or underflow leaves behind.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Unmasked {
    /// SSE: nothing, but PE is reported.
    NoResult,
    /// x87 stores to memory: nothing, not even PE.
    NoStore,
    /// x87 registers: the result with its exponent brought into range by 24576 (SDM 1, "Numeric
    /// Overflow Exception").
    Wrapped,
}

const WRAP: i32 = 24576;

/// Rounds to `bits` significand bits and to the exponent range of `format`; raises OE, UE, PE; sets C1.
///
/// Tininess is detected after rounding: a number is tiny if, rounded as though the exponent were
/// unbounded, it is below the smallest normal.
pub(super) fn round(
    format: Format,
    bits: u32,
    x: Exact,
    unmasked: Unmasked,
    env: &mut Env,
) -> Fields {
    let rounding = env.rounding;
    let (sig, carry, inexact, up) = round_significand(x.sig, bits, x.sign, rounding);
    let exp = x.exp + carry as i32;
    let sig = if carry { 1 << 127 } else { sig };
    let normal = |exp: i32| Fields {
        sign: x.sign,
        biased: (exp + format.emax) as u32,
        sig: (sig >> 64) as u64,
    };

    if exp < format.emin() {
        if env.is_unmasked(Flags::UE) {
            env.raise(Flags::UE);
            if unmasked == Unmasked::NoStore {
                return Fields::zero(x.sign);
            }
            if unmasked == Unmasked::Wrapped && exp + WRAP < format.emin() {
                // Only FSCALE goes that far.
                env.raise(Flags::PE);
                return Fields::zero(x.sign);
            }
            if inexact {
                env.raise(Flags::PE);
            }
            env.c1 = up;
            return if unmasked == Unmasked::Wrapped {
                normal(exp + WRAP)
            } else {
                Fields::zero(x.sign)
            };
        }
        if env.ftz {
            env.raise(Flags::UE.union(Flags::PE));
            return Fields::zero(x.sign);
        }
        let shifted = shift_right_jam(x.sig, (format.emin() - x.exp) as u32);
        let (sig, _, inexact, up) = round_significand(shifted, bits, x.sign, rounding);
        if inexact {
            env.raise(Flags::UE.union(Flags::PE));
        }
        env.c1 = up;
        let sig = (sig >> 64) as u64;
        return Fields {
            sign: x.sign,
            biased: (sig >> 63) as u32,
            sig,
        };
    }
    if exp > format.emax {
        env.raise(Flags::OE);
        if env.is_unmasked(Flags::OE) {
            if unmasked == Unmasked::NoStore {
                return Fields::infinity(format, x.sign);
            }
            if unmasked == Unmasked::Wrapped && exp - WRAP > format.emax {
                env.raise(Flags::PE);
                env.c1 = true;
                return Fields::infinity(format, x.sign);
            }
            if inexact {
                env.raise(Flags::PE);
            }
            env.c1 = up;
            return if unmasked == Unmasked::Wrapped {
                normal(exp - WRAP)
            } else {
                Fields::infinity(format, x.sign)
            };
        }
        env.raise(Flags::PE);
        let to_infinity = rounds_up(rounding, x.sign, true, true, true);
        env.c1 = to_infinity;
        return if to_infinity {
            Fields::infinity(format, x.sign)
        } else {
            Fields {
                sign: x.sign,
                biased: format.max_biased() - 1,
                sig: !0 << (64 - bits),
            }
        };
    }
    if inexact {
        env.raise(Flags::PE);
    }
    env.c1 = up;
    normal(exp)
}

/// Compares two numbers, none of them a NaN or unsupported.
pub(super) fn relation(a: &Unpacked, b: &Unpacked) -> Relation {
    let key = |u: &Unpacked| -> (i32, i32, u64) {
        let (rank, exp, sig) = match u.class {
            Class::Zero => return (0, 0, 0),
            Class::Finite => (1, u.exp, u.sig),
            _ => (2, 0, 0),
        };
        if u.sign {
            (-rank, -exp, !sig)
        } else {
            (rank, exp, sig)
        }
    };
    match key(a).cmp(&key(b)) {
        core::cmp::Ordering::Less => Relation::Less,
        core::cmp::Ordering::Equal => Relation::Equal,
        core::cmp::Ordering::Greater => Relation::Greater,
    }
}
