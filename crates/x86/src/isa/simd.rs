//! The forms of the integer vector instructions: one operation, told once for a 64-bit piece or a
//! 128-bit lane, runs as MMX, legacy SSE, VEX.128 and VEX.256.
//!
//! The families `simd_packed`, `simd_shuffle` and `crypto` give the operations and name these
//! handlers in their rows. An AVX2 operation works on each 128-bit lane apart, but for the few
//! that cross lanes, which have handlers of their own.

use crate::exec::Exec;
use crate::insn::{IMM, Insn, MEM};
use crate::isa::vector::Lane;
use crate::trap::Done;
use core::array::from_fn;

/// An operation on 64-bit pieces independent of each other.
pub(crate) trait Packed {
    /// The result of first source `a` and second source `b`.
    fn word(a: u64, b: u64) -> u64;
}

/// An operation on 128-bit lanes.
pub(crate) trait Lanes {
    /// The immediate is shifted right by this for the upper lane of a YMM register.
    const UPPER: u32 = 0;
    /// The result of first source `a` and second source `b`; those with one source take `b`.
    fn lane(a: Lane, b: Lane, imm: u8) -> Lane;
}

impl<O: Packed> Lanes for O {
    #[inline(always)]
    fn lane(a: Lane, b: Lane, _: u8) -> Lane {
        [O::word(a[0], b[0]), O::word(a[1], b[1])]
    }
}

/// An operation on MMX registers.
pub(crate) trait Mmx {
    /// The result of first source `a` and second source `b`; those with one source take `b`.
    fn mm(a: u64, b: u64, imm: u8) -> u64;
}

impl<O: Packed> Mmx for O {
    #[inline(always)]
    fn mm(a: u64, b: u64, _: u8) -> u64 {
        O::word(a, b)
    }
}

/// A shift of all elements of a lane by one count.
pub(crate) trait Shift {
    /// `a` shifted.
    fn shift(a: Lane, count: u64) -> Lane;
}

/// The two lanes of a YMM register.
#[inline(always)]
pub(crate) fn split(v: [u64; 4]) -> [Lane; 2] {
    [[v[0], v[1]], [v[2], v[3]]]
}

/// A YMM register of two lanes.
#[inline(always)]
pub(crate) fn join(low: Lane, high: Lane) -> [u64; 4] {
    [low[0], low[1], high[0], high[1]]
}

/// The bytes of a lane.
#[inline(always)]
pub(crate) fn to8(v: Lane) -> [u8; 16] {
    (u128::from(v[0]) | u128::from(v[1]) << 64).to_le_bytes()
}

/// A lane of bytes.
#[inline(always)]
pub(crate) fn of8(v: [u8; 16]) -> Lane {
    let v = u128::from_le_bytes(v);
    [v as u64, (v >> 64) as u64]
}

/// The words of a lane.
#[inline(always)]
pub(crate) fn to16(v: Lane) -> [u16; 8] {
    from_fn(|n| (v[n / 4] >> (16 * (n % 4))) as u16)
}

/// A lane of words.
#[inline(always)]
pub(crate) fn of16(v: [u16; 8]) -> Lane {
    from_fn(|n| (0..4).fold(0, |w, k| w | u64::from(v[4 * n + k]) << (16 * k)))
}

/// The doublewords of a lane.
#[inline(always)]
pub(crate) fn to32(v: Lane) -> [u32; 4] {
    [
        v[0] as u32,
        (v[0] >> 32) as u32,
        v[1] as u32,
        (v[1] >> 32) as u32,
    ]
}

/// A lane of doublewords.
#[inline(always)]
pub(crate) fn of32(v: [u32; 4]) -> Lane {
    let pair = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    [pair(v[0], v[1]), pair(v[2], v[3])]
}

/// A lane as one number.
#[inline(always)]
pub(crate) fn to128(v: Lane) -> u128 {
    u128::from(v[0]) | u128::from(v[1]) << 64
}

/// A lane of one number.
#[inline(always)]
pub(crate) fn of128(v: u128) -> Lane {
    [v as u64, (v >> 64) as u64]
}

/// MMX: `op mm, mm/m64[, imm8]`.
pub(crate) fn mmx<O: Mmx>(x: &mut Exec<'_>, i: &Insn) -> Done {
    if x.x87_frozen()? {
        return Ok(());
    }
    let b = x.get_mm(i, 1)?;
    x.enter_mmx();
    let a = x.mm(i.ops[0]);
    x.set_mm(i.ops[0], O::mm(a, b, i.imm as u8));
    Ok(())
}

/// MMX: `op mm, mm/m32`.
pub(crate) fn mmx_low<O: Mmx>(x: &mut Exec<'_>, i: &Insn) -> Done {
    if x.x87_frozen()? {
        return Ok(());
    }
    let b = match i.ops[1] {
        MEM => u64::from(x.read::<u32>(i.seg, x.ea(i))?),
        n => x.mm(n),
    };
    x.enter_mmx();
    let a = x.mm(i.ops[0]);
    x.set_mm(i.ops[0], O::mm(a, b, 0));
    Ok(())
}

/// Legacy SSE: `op xmm, xmm/m128[, imm8]`, aligned.
pub(crate) fn sse<O: Lanes>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let b = x.get_sse(i, 1)?;
    let a = x.xmm(i.ops[0]);
    x.set_xmm(i.ops[0], O::lane(a, b, i.imm as u8));
    Ok(())
}

/// VEX.128: `op xmm, xmm, xmm/m128[, imm8]`.
pub(crate) fn vex128<O: Lanes>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let b = x.get_xmm(i, 2)?;
    let a = x.xmm(i.ops[1]);
    x.set_xmm_clear(i.ops[0], O::lane(a, b, i.imm as u8));
    Ok(())
}

#[inline(always)]
fn both<O: Lanes>(a: [u64; 4], b: [u64; 4], imm: u8) -> [u64; 4] {
    let ([a0, a1], [b0, b1]) = (split(a), split(b));
    join(O::lane(a0, b0, imm), O::lane(a1, b1, imm >> O::UPPER))
}

/// VEX.256: `op ymm, ymm, ymm/m256[, imm8]`.
pub(crate) fn vex256<O: Lanes>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let b = x.get_ymm(i, 2)?;
    let a = x.ymm(i.ops[1]);
    x.set_ymm(i.ops[0], both::<O>(a, b, i.imm as u8));
    Ok(())
}

/// VEX.128 with one source: `op xmm, xmm/m128[, imm8]`.
pub(crate) fn vex128_unary<O: Lanes>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let b = x.get_xmm(i, 1)?;
    x.set_xmm_clear(i.ops[0], O::lane([0; 2], b, i.imm as u8));
    Ok(())
}

/// VEX.256 with one source: `op ymm, ymm/m256[, imm8]`.
pub(crate) fn vex256_unary<O: Lanes>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let b = x.get_ymm(i, 1)?;
    x.set_ymm(i.ops[0], both::<O>([0; 4], b, i.imm as u8));
    Ok(())
}

/// MMX shift: `op mm, mm/m64` and `op mm, imm8`.
pub(crate) fn mmx_shift<O: Shift>(x: &mut Exec<'_>, i: &Insn) -> Done {
    if x.x87_frozen()? {
        return Ok(());
    }
    let count = match i.ops[1] {
        IMM => i.imm & 0xff,
        _ => x.get_mm(i, 1)?,
    };
    x.enter_mmx();
    let [low, _] = O::shift([x.mm(i.ops[0]), 0], count);
    x.set_mm(i.ops[0], low);
    Ok(())
}

/// Legacy SSE shift: `op xmm, xmm/m128` and `op xmm, imm8`.
pub(crate) fn sse_shift<O: Shift>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let count = match i.ops[1] {
        IMM => i.imm & 0xff,
        _ => x.get_sse(i, 1)?[0],
    };
    let a = x.xmm(i.ops[0]);
    x.set_xmm(i.ops[0], O::shift(a, count));
    Ok(())
}

#[inline(always)]
fn vex_count(x: &mut Exec<'_>, i: &Insn) -> Done<u64> {
    match i.ops[2] {
        IMM => Ok(i.imm & 0xff),
        _ => Ok(x.get_xmm(i, 2)?[0]),
    }
}

/// VEX.128 shift: `op xmm, xmm, xmm/m128` and `op xmm, xmm, imm8`.
pub(crate) fn vex128_shift<O: Shift>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let count = vex_count(x, i)?;
    let a = x.xmm(i.ops[1]);
    x.set_xmm_clear(i.ops[0], O::shift(a, count));
    Ok(())
}

/// VEX.256 shift: `op ymm, ymm, xmm/m128` and `op ymm, ymm, imm8`.
pub(crate) fn vex256_shift<O: Shift>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let count = vex_count(x, i)?;
    let [a, b] = split(x.ymm(i.ops[1]));
    x.set_ymm(i.ops[0], join(O::shift(a, count), O::shift(b, count)));
    Ok(())
}
