//! The two interchange formats as patterns, and what the host's own arithmetic answers for them.
//! Called by `sse` only.
//!
//! The fast paths: the host's own arithmetic, which Rust guarantees to be IEEE 754 round to nearest even
//! without flushing. They answer only if
//! 1. the guest rounds to nearest even (checked by the caller),
//! 2. both operands are zero or normal: neither NaN, infinity nor denormal, so IE and DE cannot be
//!    raised by an operand and DAZ has nothing to do,
//! 3. the result is finite and larger in magnitude than the smallest normal. Finite: no overflow, no
//!    0/0, no x/0. Larger: the exact result is at least the smallest normal, so it is not tiny and
//!    FTZ has nothing to do.
//!
//! Then the value is the architectural one and only PE is in question: nothing if it is sticky already,
//! else the exact error of the result tells, as proved at each function.

use super::Relation;
use super::unpacked::{F32_FORMAT, F64_FORMAT, Format};

/// What the operations need of `u32` and `u64`. The quick forms give the result and whether it is
/// inexact (only if `sticky_pe` is false), or None where `sse` must go the general way.
pub trait Pattern: Copy + PartialEq {
    const FORMAT: Format;
    fn bits(self) -> u64;
    fn from_bits(bits: u64) -> Self;
    fn fast_add(self, other: Self, sticky_pe: bool) -> Option<(Self, bool)>;
    fn fast_mul(self, other: Self, sticky_pe: bool) -> Option<(Self, bool)>;
    fn fast_div(self, other: Self, sticky_pe: bool) -> Option<(Self, bool)>;
    fn fast_sqrt(self) -> Option<(Self, bool)>;
    fn fast_mul_add(self, b: Self, c: Self) -> Option<(Self, bool)>;
    fn fast_compare(self, other: Self) -> Option<Relation>;
    fn negated(self) -> Self;
}

macro_rules! usable {
    ($t:ty, $operand:expr, $max:expr, $fraction_bits:expr) => {{
        let e = ($operand >> $fraction_bits) & $max;
        e != $max && (e != 0 || $operand << 1 == 0)
    }};
}

pub(super) const fn usable32(a: u32) -> bool {
    usable!(u32, a, 0xff, 23)
}
pub(super) const fn usable64(a: u64) -> bool {
    usable!(u64, a, 0x7ff, 52)
}

pub(super) fn accepted32(r: f32) -> bool {
    let magnitude = r.to_bits() & 0x7fff_ffff;
    magnitude > 0x0080_0000 && magnitude < 0x7f80_0000
}
fn accepted64(r: f64) -> bool {
    let magnitude = r.to_bits() & 0x7fff_ffff_ffff_ffff;
    magnitude > 0x0010_0000_0000_0000 && magnitude < 0x7ff0_0000_0000_0000
}

fn relation_of<F: PartialOrd>(a: F, b: F) -> Relation {
    if a < b {
        Relation::Less
    } else if a > b {
        Relation::Greater
    } else {
        Relation::Equal
    }
}

const fn significand64(a: u64) -> u64 {
    a & 0x000f_ffff_ffff_ffff | 1 << 52
}

impl Pattern for u32 {
    const FORMAT: Format = F32_FORMAT;
    fn bits(self) -> u64 {
        self as u64
    }
    fn from_bits(bits: u64) -> Self {
        bits as u32
    }
    fn negated(self) -> Self {
        self ^ 1 << 31
    }
    #[inline]
    fn fast_sqrt(self) -> Option<(Self, bool)> {
        if !usable32(self) || (self as i32) <= 0 {
            return None;
        }
        // m × 2^23 with m in [1, 4); the root of a normal number is normal.
        let exp = (self >> 23) as i32 - 127;
        let m = (self & 0x007f_ffff | 0x0080_0000) << (exp & 1);
        let n = (m as u64) << 23;
        let root = n.isqrt();
        let rest = n - root * root;
        // (root + ½)² lies between two integers: rest > root says that n is above. No carry to 2^24:
        // the largest n is (2^24−1)² + 2^24 − 1.
        let root = (root + (rest > root) as u64) as u32;
        Some((
            ((exp >> 1) + 127) as u32 * (1 << 23) + (root & 0x007f_ffff),
            rest != 0,
        ))
    }
    #[inline]
    fn fast_mul_add(self, b: Self, c: Self) -> Option<(Self, bool)> {
        if !(usable32(self) && usable32(b) && usable32(c)) {
            return None;
        }
        // The product is exact in a double. Its sum with c is rounded there to odd (TwoSum gives the
        // error, nothing comes near overflow), which leaves the second rounding right: 53 ≥ 24 + 2.
        let p = f32::from_bits(self) as f64 * f32::from_bits(b) as f64;
        let c = f32::from_bits(c) as f64;
        let sum = p + c;
        let cc = sum - p;
        let error = (p - (sum - cc)) + (c - cc);
        let bits = sum.to_bits();
        let odd = if error == 0.0 || bits & 1 != 0 {
            sum
        } else if (error > 0.0) == (sum > 0.0) {
            f64::from_bits(bits + 1)
        } else {
            f64::from_bits(bits - 1)
        };
        let r = odd as f32;
        accepted32(r).then_some((r.to_bits(), error != 0.0 || r as f64 != odd))
    }
    #[inline]
    fn fast_compare(self, other: Self) -> Option<Relation> {
        let usable = usable32(self) && usable32(other);
        usable.then(|| relation_of(f32::from_bits(self), f32::from_bits(other)))
    }
    #[inline]
    fn fast_add(self, other: Self, sticky_pe: bool) -> Option<(Self, bool)> {
        let (a, b) = (f32::from_bits(self), f32::from_bits(other));
        let r = a + b;
        if !(usable32(self) && usable32(other) && accepted32(r)) {
            return None;
        }
        // Knuth's TwoSum: without overflow, `error` is exactly a + b - r.
        let inexact = !sticky_pe && {
            let bb = r - a;
            let error = (a - (r - bb)) + (b - bb);
            error != 0.0
        };
        // Near the largest number an intermediate may overflow and make a NaN: leave those.
        if !sticky_pe && r.abs() > f32::MAX / 4.0 {
            return None;
        }
        Some((r.to_bits(), inexact))
    }
    #[inline]
    fn fast_mul(self, other: Self, sticky_pe: bool) -> Option<(Self, bool)> {
        let (a, b) = (f32::from_bits(self), f32::from_bits(other));
        let r = a * b;
        if !(usable32(self) && usable32(other) && accepted32(r)) {
            return None;
        }
        // 24 × 24 bits fit the 53 of a double: the product there is exact.
        let inexact = !sticky_pe && a as f64 * b as f64 != r as f64;
        Some((r.to_bits(), inexact))
    }
    #[inline]
    fn fast_div(self, other: Self, sticky_pe: bool) -> Option<(Self, bool)> {
        let (a, b) = (f32::from_bits(self), f32::from_bits(other));
        let r = a / b;
        if !(usable32(self) && usable32(other) && accepted32(r)) {
            return None;
        }
        // r is a/b exactly if and only if r × b, exact in a double, is a.
        let inexact = !sticky_pe && r as f64 * b as f64 != a as f64;
        Some((r.to_bits(), inexact))
    }
}

impl Pattern for u64 {
    const FORMAT: Format = F64_FORMAT;
    fn bits(self) -> u64 {
        self
    }
    fn from_bits(bits: u64) -> Self {
        bits
    }
    fn negated(self) -> Self {
        self ^ 1 << 63
    }
    #[inline]
    fn fast_sqrt(self) -> Option<(Self, bool)> {
        if !usable64(self) || (self as i64) <= 0 {
            return None;
        }
        // m × 2^52 with m in [1, 4), as for single precision.
        let exp = (self >> 52) as i32 - 1023;
        let m = significand64(self) << (exp & 1);
        let n = (m as u128) << 52;
        // Newton's steps for 1/√m from a guess good to 4 bits: the estimate is within a few units in the
        // last place, and the loops make it the exact floor of √n, whatever it is.
        let x = m as f64 * (1.0 / (1u64 << 52) as f64);
        let mut y = f64::from_bits(0x5fe6_eb50_c7b5_37a9 - (x.to_bits() >> 1));
        for _ in 0..4 {
            y *= 1.5 - 0.5 * x * y * y;
        }
        let mut root = (x * y * (1u64 << 52) as f64) as u64;
        while root as u128 * root as u128 > n {
            root -= 1;
        }
        while (root as u128 + 1) * (root as u128 + 1) <= n {
            root += 1;
        }
        let rest = (n - root as u128 * root as u128) as u64;
        let root = root + (rest > root) as u64;
        Some((
            ((exp >> 1) + 1023) as u64 * (1 << 52) + (root & 0x000f_ffff_ffff_ffff),
            rest != 0,
        ))
    }
    #[inline]
    fn fast_mul_add(self, _: Self, _: Self) -> Option<(Self, bool)> {
        None
    }
    #[inline]
    fn fast_compare(self, other: Self) -> Option<Relation> {
        let usable = usable64(self) && usable64(other);
        usable.then(|| relation_of(f64::from_bits(self), f64::from_bits(other)))
    }
    #[inline]
    fn fast_add(self, other: Self, sticky_pe: bool) -> Option<(Self, bool)> {
        let (a, b) = (f64::from_bits(self), f64::from_bits(other));
        let r = a + b;
        if !(usable64(self) && usable64(other) && accepted64(r)) {
            return None;
        }
        // As for single precision.
        let inexact = !sticky_pe && {
            let bb = r - a;
            let error = (a - (r - bb)) + (b - bb);
            error != 0.0
        };
        if !sticky_pe && r.abs() > f64::MAX / 4.0 {
            return None;
        }
        Some((r.to_bits(), inexact))
    }
    #[inline]
    fn fast_mul(self, other: Self, sticky_pe: bool) -> Option<(Self, bool)> {
        let r = f64::from_bits(self) * f64::from_bits(other);
        if !(usable64(self) && usable64(other) && accepted64(r)) {
            return None;
        }
        // r is normal, so it has 53 bits. The product of the significands lies in [2^104, 2^106): it
        // fits 53 bits if the 52 below are clear, or the 53 below when it reaches 2^105.
        let inexact = !sticky_pe && {
            let product = significand64(self) as u128 * significand64(other) as u128;
            let dropped = if product >> 105 != 0 { 53 } else { 52 };
            product << (128 - dropped) != 0
        };
        Some((r.to_bits(), inexact))
    }
    #[inline]
    fn fast_div(self, other: Self, sticky_pe: bool) -> Option<(Self, bool)> {
        let r = f64::from_bits(self) / f64::from_bits(other);
        if !(usable64(self) && usable64(other) && accepted64(r)) {
            return None;
        }
        // r = a/b exactly if and only if r × b = a, and the product of two 53-bit significands equals a
        // third up to a power of two only if that power is 52 or 53. A wrong power cannot occur:
        // r is within 2^-53 of a/b.
        let inexact = !sticky_pe && {
            let product = significand64(r.to_bits()) as u128 * significand64(other) as u128;
            let dividend = significand64(self) as u128;
            product != dividend << 52 && product != dividend << 53
        };
        Some((r.to_bits(), inexact))
    }
}
