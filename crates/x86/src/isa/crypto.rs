//! AES, carry-less multiplication and SHA (SDM volume 2: AES*, PCLMULQDQ, SHA1*, SHA256*; FIPS 197
//! and FIPS 180-4).
//!
//! Departure from hardware: AES looks bytes up in tables, so its time depends on the data, which
//! somebody who shares the host's cache may measure.

use super::simd::*;
use super::vector::Lane;
use crate::exec::Exec;
use crate::insn::Insn;
use crate::table::{Row, Unit};
use crate::trap::Done;
use core::array::from_fn;
use iced_x86::Code;

/// Twice `v` in AES's field.
const fn double(v: u8) -> u8 {
    v << 1 ^ if v & 0x80 != 0 { 0x1b } else { 0 }
}

/// The product in AES's field.
const fn product(mut a: u8, mut b: u8) -> u8 {
    let mut sum = 0;
    while b != 0 {
        if b & 1 != 0 {
            sum ^= a;
        }
        a = double(a);
        b >>= 1;
    }
    sum
}

/// The S-box: the inverse in the field, then an affine map.
const fn substitute(v: u8) -> u8 {
    // The inverse is the 254th power, and 0 for 0.
    let (mut inverse, mut square, mut n) = (1, v, 254);
    while n != 0 {
        if n & 1 != 0 {
            inverse = product(inverse, square);
        }
        square = product(square, square);
        n >>= 1;
    }
    let i = inverse;
    i ^ i.rotate_left(1) ^ i.rotate_left(2) ^ i.rotate_left(3) ^ i.rotate_left(4) ^ 0x63
}

const fn table(inverse: bool) -> [u8; 256] {
    let (mut table, mut n) = ([0; 256], 0);
    while n < 256 {
        let s = substitute(n as u8);
        if inverse {
            table[s as usize] = n as u8;
        } else {
            table[n] = s;
        }
        n += 1;
    }
    table
}

/// What a byte in row 0 gives to its mixed column.
const fn column(factors: [u8; 4]) -> [u32; 256] {
    let (mut table, mut n) = ([0; 256], 0);
    while n < 256 {
        let v = n as u8;
        table[n] = u32::from_le_bytes([
            product(v, factors[0]),
            product(v, factors[1]),
            product(v, factors[2]),
            product(v, factors[3]),
        ]);
        n += 1;
    }
    table
}

static SUBSTITUTE: [u8; 256] = table(false);
static SUBSTITUTE_INVERSE: [u8; 256] = table(true);
static MIX: [u32; 256] = column([2, 1, 1, 3]);
static MIX_INVERSE: [u32; 256] = column([14, 9, 13, 11]);

/// ShiftRows and SubBytes; byte `row + 4 * column` of the lane is the state's.
fn shift_and_substitute(v: Lane) -> [u8; 16] {
    let v = to8(v);
    from_fn(|n| SUBSTITUTE[usize::from(v[(n + 4 * (n % 4)) % 16])])
}

fn shift_and_substitute_inverse(v: Lane) -> [u8; 16] {
    let v = to8(v);
    from_fn(|n| SUBSTITUTE_INVERSE[usize::from(v[(n + 12 * (n % 4)) % 16])])
}

/// MixColumns or its inverse.
fn mix(v: [u8; 16], table: &[u32; 256]) -> Lane {
    of32(from_fn(|c| {
        (0..4).fold(0, |sum, r| {
            sum ^ table[usize::from(v[4 * c + r])].rotate_left(8 * r as u32)
        })
    }))
}

fn xor(a: Lane, b: Lane) -> Lane {
    [a[0] ^ b[0], a[1] ^ b[1]]
}

/// The function of SHA-1's rounds and its constant, by the two low bits of the immediate.
fn sha1_function(kind: u8, b: u32, c: u32, d: u32) -> u32 {
    match kind & 3 {
        0 => (b & c ^ !b & d).wrapping_add(0x5a82_7999),
        1 => (b ^ c ^ d).wrapping_add(0x6ed9_eba1),
        2 => (b & c ^ b & d ^ c & d).wrapping_add(0x8f1b_bcdc),
        _ => (b ^ c ^ d).wrapping_add(0xca62_c1d6),
    }
}

fn small_sigma0(v: u32) -> u32 {
    v.rotate_right(7) ^ v.rotate_right(18) ^ v >> 3
}

fn small_sigma1(v: u32) -> u32 {
    v.rotate_right(17) ^ v.rotate_right(19) ^ v >> 10
}

/// A SHA-256 round on A–H with message word plus constant `wk`.
fn sha256_round([a, b, c, d, e, f, g, h]: [u32; 8], wk: u32) -> [u32; 8] {
    let sum1 = e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25);
    let sum0 = a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22);
    let t1 = (e & f ^ !e & g)
        .wrapping_add(sum1)
        .wrapping_add(wk)
        .wrapping_add(h);
    let t2 = (a & b ^ a & c ^ b & c).wrapping_add(sum0);
    [t1.wrapping_add(t2), a, b, c, d.wrapping_add(t1), e, f, g]
}

macro_rules! lanes {
    ($($name:ident: |$a:ident, $b:ident, $imm:ident| $result:expr;)*) => {$(
        struct $name;
        impl Lanes for $name {
            fn lane($a: Lane, $b: Lane, $imm: u8) -> Lane {
                $result
            }
        }
    )*};
}

lanes! {
    AesEnc: |a, b, _imm| xor(mix(shift_and_substitute(a), &MIX), b);
    AesEncLast: |a, b, _imm| xor(of8(shift_and_substitute(a)), b);
    AesDec: |a, b, _imm| xor(mix(shift_and_substitute_inverse(a), &MIX_INVERSE), b);
    AesDecLast: |a, b, _imm| xor(of8(shift_and_substitute_inverse(a)), b);
    AesImc: |_a, b, _imm| mix(to8(b), &MIX_INVERSE);
    AesKeyGenAssist: |_a, b, imm| {
        let word = |v: u32| u32::from_le_bytes(v.to_le_bytes().map(|b| SUBSTITUTE[usize::from(b)]));
        let [_, x1, _, x3] = to32(b).map(word);
        let rotated = |v: u32| v.rotate_right(8) ^ u32::from(imm);
        of32([x1, rotated(x1), x3, rotated(x3)])
    };
    Pclmulqdq: |a, b, imm| {
        let (a, b) = (a[usize::from(imm & 1)], b[usize::from(imm >> 4 & 1)]);
        of128((0..64).fold(0, |sum, n| {
            sum ^ (u128::from(a) << n) & 0u128.wrapping_sub(u128::from(b >> n & 1))
        }))
    };
    Sha1Rnds4: |v, w, imm| {
        let ([mut d, mut c, mut b, mut a], mut e) = (to32(v), 0u32);
        for w in to32(w).into_iter().rev() {
            let next = sha1_function(imm, b, c, d)
                .wrapping_add(a.rotate_left(5))
                .wrapping_add(w)
                .wrapping_add(e);
            (a, b, c, d, e) = (next, a, b.rotate_left(30), c, d);
        }
        of32([d, c, b, a])
    };
    Sha1Nexte: |a, b, _imm| {
        let [w0, w1, w2, w3] = to32(b);
        of32([w0, w1, w2, w3.wrapping_add(to32(a)[3].rotate_left(30))])
    };
    Sha1Msg1: |a, b, _imm| xor(a, [b[1], a[0]]);
    Sha1Msg2: |a, b, _imm| {
        let ([a0, a1, a2, a3], [b0, b1, b2, _]) = (to32(a), to32(b));
        let w16 = (a3 ^ b2).rotate_left(1);
        let (w17, w18) = ((a2 ^ b1).rotate_left(1), (a1 ^ b0).rotate_left(1));
        of32([(a0 ^ w16).rotate_left(1), w18, w17, w16])
    };
    Sha256Msg1: |a, b, _imm| {
        let ([w0, w1, w2, w3], [w4, ..]) = (to32(a), to32(b));
        let next = |w: u32, following: u32| w.wrapping_add(small_sigma0(following));
        of32([next(w0, w1), next(w1, w2), next(w2, w3), next(w3, w4)])
    };
    Sha256Msg2: |a, b, _imm| {
        let ([a0, a1, a2, a3], [_, _, w14, w15]) = (to32(a), to32(b));
        let next = |v: u32, w: u32| v.wrapping_add(small_sigma1(w));
        let (w16, w17) = (next(a0, w14), next(a1, w15));
        of32([w16, w17, next(a2, w16), next(a3, w17)])
    };
}

/// SHA256RNDS2: two rounds, their message words plus constants in XMM0.
fn sha256rnds2(x: &mut Exec<'_>, i: &Insn) -> Done {
    let [f, e, b, a] = to32(x.get_sse(i, 1)?);
    let [h, g, d, c] = to32(x.xmm(i.ops[0]));
    let [wk0, wk1, ..] = to32(x.xmm(0));
    let [a, b, _, _, e, f, ..] = sha256_round(sha256_round([a, b, c, d, e, f, g, h], wk0), wk1);
    x.set_xmm(i.ops[0], of32([f, e, b, a]));
    Ok(())
}

pub(crate) const ROWS: &[Row] = &[
    Row::new(Code::Aesenc_xmm_xmmm128, sse::<AesEnc>).unit(Unit::Sse),
    Row::new(Code::VEX_Vaesenc_xmm_xmm_xmmm128, vex128::<AesEnc>).unit(Unit::Avx),
    Row::new(Code::Aesenclast_xmm_xmmm128, sse::<AesEncLast>).unit(Unit::Sse),
    Row::new(Code::VEX_Vaesenclast_xmm_xmm_xmmm128, vex128::<AesEncLast>).unit(Unit::Avx),
    Row::new(Code::Aesdec_xmm_xmmm128, sse::<AesDec>).unit(Unit::Sse),
    Row::new(Code::VEX_Vaesdec_xmm_xmm_xmmm128, vex128::<AesDec>).unit(Unit::Avx),
    Row::new(Code::Aesdeclast_xmm_xmmm128, sse::<AesDecLast>).unit(Unit::Sse),
    Row::new(Code::VEX_Vaesdeclast_xmm_xmm_xmmm128, vex128::<AesDecLast>).unit(Unit::Avx),
    Row::new(Code::Pclmulqdq_xmm_xmmm128_imm8, sse::<Pclmulqdq>).unit(Unit::Sse),
    Row::new(
        Code::VEX_Vpclmulqdq_xmm_xmm_xmmm128_imm8,
        vex128::<Pclmulqdq>,
    )
    .unit(Unit::Avx),
    Row::new(Code::Sha1rnds4_xmm_xmmm128_imm8, sse::<Sha1Rnds4>).unit(Unit::Sse),
    Row::new(Code::Sha1nexte_xmm_xmmm128, sse::<Sha1Nexte>).unit(Unit::Sse),
    Row::new(Code::Sha1msg1_xmm_xmmm128, sse::<Sha1Msg1>).unit(Unit::Sse),
    Row::new(Code::Sha1msg2_xmm_xmmm128, sse::<Sha1Msg2>).unit(Unit::Sse),
    Row::new(Code::Sha256msg1_xmm_xmmm128, sse::<Sha256Msg1>).unit(Unit::Sse),
    Row::new(Code::Sha256msg2_xmm_xmmm128, sse::<Sha256Msg2>).unit(Unit::Sse),
    Row::new(Code::Aesimc_xmm_xmmm128, sse::<AesImc>).unit(Unit::Sse),
    Row::new(Code::VEX_Vaesimc_xmm_xmmm128, vex128_unary::<AesImc>).unit(Unit::Avx),
    Row::new(
        Code::Aeskeygenassist_xmm_xmmm128_imm8,
        sse::<AesKeyGenAssist>,
    )
    .unit(Unit::Sse),
    Row::new(
        Code::VEX_Vaeskeygenassist_xmm_xmmm128_imm8,
        vex128_unary::<AesKeyGenAssist>,
    )
    .unit(Unit::Avx),
    Row::new(Code::Sha256rnds2_xmm_xmmm128, sha256rnds2).unit(Unit::Sse),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn lane(hex: u128) -> Lane {
        of128(hex.swap_bytes())
    }

    #[test]
    fn aes_128_gives_the_example_of_fips_197_and_back() {
        // Appendix C.1.
        let key = lane(0x0001_0203_0405_0607_0809_0a0b_0c0d_0e0f);
        let plain = lane(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff);
        let cipher = lane(0x69c4_e0d8_6a7b_0430_d8cd_b780_70b4_c55a);
        let mut keys = [key; 11];
        let mut constant = 1;
        for n in 1..11 {
            let [_, _, _, word] = to32(AesKeyGenAssist::lane([0; 2], keys[n - 1], constant));
            let mut sum = word;
            keys[n] = of32(to32(keys[n - 1]).map(|w| {
                sum ^= w;
                sum
            }));
            constant = double(constant);
        }
        let middle = (1..10).fold(xor(plain, keys[0]), |s, n| AesEnc::lane(s, keys[n], 0));
        assert_eq!(AesEncLast::lane(middle, keys[10], 0), cipher);
        let middle = (1..10).rev().fold(xor(cipher, keys[10]), |s, n| {
            AesDec::lane(s, AesImc::lane([0; 2], keys[n], 0), 0)
        });
        assert_eq!(AesDecLast::lane(middle, keys[0], 0), plain);
    }

    #[test]
    fn the_carry_less_product_has_the_terms_of_both_factors() {
        let [a, b] = [[0b101, 1 << 63], [0b11, 0b110]];
        assert_eq!(Pclmulqdq::lane(a, b, 0x00), [0b1111, 0]);
        assert_eq!(Pclmulqdq::lane(a, b, 0x11), [0, 0b11]);
    }
}
