//! Numbers with a 128-bit significand, for the transcendental functions: truncating arithmetic with a
//! relative error of 2^-126 an operation, `const` so that tables are computed at compile time.

use super::unpacked::{Exact, Unpacked, shift_right_jam};

/// (−1)^sign × sig × 2^(exp−127), bit 127 of `sig` set; or zero, `sig` = 0.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wide {
    pub sign: bool,
    pub exp: i32,
    pub sig: u128,
}

impl Wide {
    pub const ZERO: Self = Self {
        sign: false,
        exp: 0,
        sig: 0,
    };
    pub const ONE: Self = Self {
        sign: false,
        exp: 0,
        sig: 1 << 127,
    };

    pub const fn new(exp: i32, sig: u128) -> Self {
        Self {
            sign: false,
            exp,
            sig,
        }
    }

    const fn normalized(sign: bool, exp: i32, sig: u128) -> Self {
        if sig == 0 {
            return Self::ZERO;
        }
        let shift = sig.leading_zeros();
        Self {
            sign,
            exp: exp - shift as i32,
            sig: sig << shift,
        }
    }

    pub const fn from_int(i: i32) -> Self {
        Self::normalized(i < 0, 127, i.unsigned_abs() as u128)
    }

    /// `integer` × 2^`exp`.
    pub const fn from_scaled(integer: u128, exp: i32) -> Self {
        Self::normalized(false, exp + 127, integer)
    }

    pub const fn from_unpacked(u: &Unpacked) -> Self {
        Self {
            sign: u.sign,
            exp: u.exp,
            sig: (u.sig as u128) << 64,
        }
    }

    /// For rounding; an inexact value is given as such even if its low bits happen to be clear.
    pub const fn inexact(self) -> Exact {
        Exact {
            sign: self.sign,
            exp: self.exp,
            sig: self.sig | 1,
        }
    }

    pub const fn with_sign(self, sign: bool) -> Self {
        Self { sign, ..self }
    }

    pub const fn negated_if(self, negate: bool) -> Self {
        Self {
            sign: self.sign != negate,
            ..self
        }
    }

    pub const fn scaled(self, by: i32) -> Self {
        Self {
            exp: self.exp + by,
            ..self
        }
    }

    pub const fn add(self, other: Self) -> Self {
        if self.sig == 0 {
            return other;
        }
        if other.sig == 0 {
            return self;
        }
        let first = self.exp > other.exp || self.exp == other.exp && self.sig >= other.sig;
        let (x, y) = if first { (self, other) } else { (other, self) };
        let low = shift_right_jam(y.sig, (x.exp - y.exp) as u32);
        if x.sign == y.sign {
            let (sum, carry) = x.sig.overflowing_add(low);
            if carry {
                Self {
                    sign: x.sign,
                    exp: x.exp + 1,
                    sig: sum >> 1 | 1 << 127,
                }
            } else {
                Self {
                    sign: x.sign,
                    exp: x.exp,
                    sig: sum,
                }
            }
        } else {
            Self::normalized(x.sign, x.exp, x.sig - low)
        }
    }

    pub const fn sub(self, other: Self) -> Self {
        self.add(other.negated_if(true))
    }

    pub const fn mul(self, other: Self) -> Self {
        if self.sig == 0 || other.sig == 0 {
            return Self::ZERO;
        }
        const LOW: u128 = u64::MAX as u128;
        let (ah, al) = (self.sig >> 64, self.sig & LOW);
        let (bh, bl) = (other.sig >> 64, other.sig & LOW);
        let (hl, lh) = (ah * bl, al * bh);
        let middle = (hl & LOW) + (lh & LOW) + ((al * bl) >> 64);
        let high = ah * bh + (hl >> 64) + (lh >> 64) + (middle >> 64);
        let shift = high.leading_zeros(); // 0 or 1
        let sig = (high << shift) | ((middle >> 63 & 1) * shift as u128);
        Self {
            sign: self.sign != other.sign,
            exp: self.exp + other.exp + 1 - shift as i32,
            sig,
        }
    }

    /// Divides by a number from 1 to 2^63.
    pub const fn div_small(self, by: u64) -> Self {
        let divisor = by as u128;
        if self.sig == 0 || by == 0 {
            return Self::ZERO;
        }
        let quotient = self.sig / divisor;
        let rest = self.sig % divisor;
        let shift = quotient.leading_zeros(); // at most 64
        let sig = (quotient << shift) | ((rest << shift) / divisor);
        Self {
            sign: self.sign,
            exp: self.exp - shift as i32,
            sig,
        }
    }

    /// Long division; zero for a division by zero, which callers exclude.
    pub const fn div(self, other: Self) -> Self {
        if self.sig == 0 || other.sig == 0 {
            return Self::ZERO;
        }
        let mut rest = self.sig;
        let mut sig = 0u128;
        let mut carry = false;
        let mut bits = 0;
        let mut exp = self.exp - other.exp;
        if rest < other.sig {
            carry = rest >> 127 != 0;
            rest <<= 1;
            exp -= 1;
        }
        while bits < 128 {
            sig <<= 1;
            if carry || rest >= other.sig {
                rest = rest.wrapping_sub(other.sig);
                sig |= 1;
            }
            carry = rest >> 127 != 0;
            rest <<= 1;
            bits += 1;
        }
        Self {
            sign: self.sign != other.sign,
            exp,
            sig,
        }
    }
}

/// c[0] + c[1] z + c[2] z² + …, by Horner's rule.
pub(super) const fn polynomial(coefficients: &[Wide], z: Wide) -> Wide {
    let mut sum = Wide::ZERO;
    let mut i = coefficients.len();
    while i > 0 {
        i -= 1;
        sum = sum.mul(z).add(coefficients[i]);
    }
    sum
}
