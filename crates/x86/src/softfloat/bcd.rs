//! Packed BCD: FBLD and FBSTP (SDM 1, "BCD and Packed BCD Integers"): 18 digits in nine bytes, low
//! digits first, and the sign in bit 7 of the tenth. Called through `x87`.

use super::x87::{from_magnitude, to_integer};
use super::{Env, F80};

const MAX: u64 = 999_999_999_999_999_999;

/// FBLD. Digits above 9 are undefined by the SDM; here, as in processors, each counts with its
/// value × its power of ten. Bits 6..0 of the last byte are ignored.
pub fn from_bcd(bytes: [u8; 10]) -> F80 {
    let [digits @ .., sign] = bytes;
    // At most 15 × 111…1 (18 digits) < 2^64.
    let magnitude = digits.iter().rev().fold(0u64, |n, b| {
        n * 100 + (b >> 4) as u64 * 10 + (b & 15) as u64
    });
    from_magnitude(sign & 0x80 != 0, magnitude)
}

/// FBSTP: rounded by `env.rounding`; the packed BCD indefinite and IE if it does not fit 18 digits.
pub fn to_bcd(a: F80, env: &mut Env) -> [u8; 10] {
    let Some((sign, mut magnitude)) = to_integer(a, env.rounding, MAX, 0, env) else {
        return [0, 0, 0, 0, 0, 0, 0, 0xc0, 0xff, 0xff];
    };
    let mut bytes = [0; 10];
    for b in &mut bytes[..9] {
        let pair = (magnitude % 100) as u8;
        *b = ((pair / 10) << 4) | (pair % 10);
        magnitude /= 100;
    }
    bytes[9] = (sign as u8) << 7;
    bytes
}
