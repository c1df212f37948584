//! Lane-wise integer arithmetic: add, subtract, multiply, compare, minimum, maximum, average,
//! absolute value, sign, logic and shifts (SDM volume 2: PADD*, PSUB*, PMUL*, PMADD*, PCMPEQ*,
//! PCMPGT*, PMIN*, PMAX*, PAVG*, PABS*, PSIGN*, PAND, PANDN, POR, PXOR, ANDPS …, PSLL*, PSRL*,
//! PSRA*, VPSLLV*, VPSRLV*, VPSRAV*), as MMX, SSE and AVX.

use super::simd::*;
use super::vector::Lane;
use crate::table::{Row, Unit};
use core::array::from_fn;
use iced_x86::Code;

#[inline(always)]
fn bytes(a: u64, b: u64, f: impl Fn(u8, u8) -> u8) -> u64 {
    let (a, b) = (a.to_le_bytes(), b.to_le_bytes());
    u64::from_le_bytes(from_fn(|n| f(a[n], b[n])))
}

#[inline(always)]
fn words(a: u64, b: u64, f: impl Fn(u16, u16) -> u16) -> u64 {
    (0..4).fold(0, |w, n| {
        w | u64::from(f((a >> (16 * n)) as u16, (b >> (16 * n)) as u16)) << (16 * n)
    })
}

#[inline(always)]
fn dwords(a: u64, b: u64, f: impl Fn(u32, u32) -> u32) -> u64 {
    u64::from(f(a as u32, b as u32)) | u64::from(f((a >> 32) as u32, (b >> 32) as u32)) << 32
}

#[inline(always)]
fn qword(a: u64, b: u64, f: impl Fn(u64, u64) -> u64) -> u64 {
    f(a, b)
}

// The usual operations on bytes and words do all elements of a quadword at once, with carries kept
// from leaving an element; one element after another is ten times the instructions.

/// The highest bit of each element of `BITS`.
const fn high<const BITS: u32>() -> u64 {
    (u64::MAX / (u64::MAX >> (64 - BITS))) << (BITS - 1)
}

/// Elements of ones where `signs` has the highest bit of an element, which are its only bits.
#[inline(always)]
fn spread<const BITS: u32>(signs: u64) -> u64 {
    (signs >> (BITS - 1)) * (u64::MAX >> (64 - BITS))
}

#[inline(always)]
fn add<const BITS: u32>(a: u64, b: u64) -> u64 {
    let high = high::<BITS>();
    ((a & !high) + (b & !high)) ^ ((a ^ b) & high)
}

#[inline(always)]
fn sub<const BITS: u32>(a: u64, b: u64) -> u64 {
    let high = high::<BITS>();
    ((a | high) - (b & !high)) ^ ((a ^ !b) & high)
}

/// Ones where the elements are equal.
#[inline(always)]
fn equal<const BITS: u32>(a: u64, b: u64) -> u64 {
    let (low, x) = (!high::<BITS>(), a ^ b);
    spread::<BITS>(!(((x & low) + low) | x | low))
}

/// Ones where `a`'s element, unsigned, is `b`'s or more.
#[inline(always)]
fn at_least<const BITS: u32>(a: u64, b: u64) -> u64 {
    let high = high::<BITS>();
    let difference = (a | high) - (b & !high);
    spread::<BITS>((a & !b | !(a ^ b) & difference) & high)
}

#[inline(always)]
fn signed_at_least<const BITS: u32>(a: u64, b: u64) -> u64 {
    let high = high::<BITS>();
    at_least::<BITS>(a ^ high, b ^ high)
}

/// `a` where `mask` is one, `b` where it is zero.
#[inline(always)]
fn choose(mask: u64, a: u64, b: u64) -> u64 {
    a & mask | b & !mask
}

macro_rules! packed {
    ($($name:ident: $map:ident(|$a:ident, $b:ident| $result:expr);)*) => {$(
        struct $name;
        impl Packed for $name {
            #[inline(always)]
            fn word(a: u64, b: u64) -> u64 {
                $map(a, b, |$a, $b| $result)
            }
        }
    )*};
}

packed! {
    Add8: qword(|a, b| add::<8>(a, b));
    Add16: qword(|a, b| add::<16>(a, b));
    Add32: dwords(|a, b| a.wrapping_add(b));
    Add64: qword(|a, b| a.wrapping_add(b));
    AddSigned8: bytes(|a, b| (a as i8).saturating_add(b as i8) as u8);
    AddSigned16: words(|a, b| (a as i16).saturating_add(b as i16) as u16);
    AddUnsigned8: qword(|a, b| { let sum = add::<8>(a, b); sum | !at_least::<8>(sum, a) });
    AddUnsigned16: qword(|a, b| { let sum = add::<16>(a, b); sum | !at_least::<16>(sum, a) });
    Sub8: qword(|a, b| sub::<8>(a, b));
    Sub16: qword(|a, b| sub::<16>(a, b));
    Sub32: dwords(|a, b| a.wrapping_sub(b));
    Sub64: qword(|a, b| a.wrapping_sub(b));
    SubSigned8: bytes(|a, b| (a as i8).saturating_sub(b as i8) as u8);
    SubSigned16: words(|a, b| (a as i16).saturating_sub(b as i16) as u16);
    SubUnsigned8: qword(|a, b| sub::<8>(a, b) & at_least::<8>(a, b));
    SubUnsigned16: qword(|a, b| sub::<16>(a, b) & at_least::<16>(a, b));
    MulLow16: words(|a, b| a.wrapping_mul(b));
    MulLow32: dwords(|a, b| a.wrapping_mul(b));
    MulHigh16: words(|a, b| ((i32::from(a as i16) * i32::from(b as i16)) >> 16) as u16);
    MulHighUnsigned16: words(|a, b| ((u32::from(a) * u32::from(b)) >> 16) as u16);
    MulHighRound16: words(|a, b| {
        ((((i32::from(a as i16) * i32::from(b as i16)) >> 14) + 1) >> 1) as u16
    });
    MulUnsigned32: qword(|a, b| (a & 0xffff_ffff) * (b & 0xffff_ffff));
    MulSigned32: qword(|a, b| (i64::from(a as i32) * i64::from(b as i32)) as u64);
    MulAdd16: dwords(|a, b| {
        let product = |n: u32| i32::from((a >> n) as i16) * i32::from((b >> n) as i16);
        product(0).wrapping_add(product(16)) as u32
    });
    MulAddUnsignedSigned8: words(|a, b| {
        let product = |n: u32| i16::from((a >> n) as u8) as i32 * i32::from((b >> n) as i8);
        (product(0) + product(8)).clamp(-0x8000, 0x7fff) as u16
    });
    SumOfDifferences8: qword(|a, b| {
        let (a, b) = (a.to_le_bytes(), b.to_le_bytes());
        (0..8).map(|n| u64::from(a[n].abs_diff(b[n]))).sum()
    });
    Equal8: qword(|a, b| equal::<8>(a, b));
    Equal16: qword(|a, b| equal::<16>(a, b));
    Equal32: dwords(|a, b| 0u32.wrapping_sub(u32::from(a == b)));
    Equal64: qword(|a, b| 0u64.wrapping_sub(u64::from(a == b)));
    Greater8: qword(|a, b| !signed_at_least::<8>(b, a));
    Greater16: qword(|a, b| !signed_at_least::<16>(b, a));
    Greater32: dwords(|a, b| 0u32.wrapping_sub(u32::from(a as i32 > b as i32)));
    Greater64: qword(|a, b| 0u64.wrapping_sub(u64::from(a as i64 > b as i64)));
    MinSigned8: qword(|a, b| choose(signed_at_least::<8>(a, b), b, a));
    MinSigned16: qword(|a, b| choose(signed_at_least::<16>(a, b), b, a));
    MinSigned32: dwords(|a, b| (a as i32).min(b as i32) as u32);
    MinUnsigned8: qword(|a, b| choose(at_least::<8>(a, b), b, a));
    MinUnsigned16: qword(|a, b| choose(at_least::<16>(a, b), b, a));
    MinUnsigned32: dwords(|a, b| a.min(b));
    MaxSigned8: qword(|a, b| choose(signed_at_least::<8>(a, b), a, b));
    MaxSigned16: qword(|a, b| choose(signed_at_least::<16>(a, b), a, b));
    MaxSigned32: dwords(|a, b| (a as i32).max(b as i32) as u32);
    MaxUnsigned8: qword(|a, b| choose(at_least::<8>(a, b), a, b));
    MaxUnsigned16: qword(|a, b| choose(at_least::<16>(a, b), a, b));
    MaxUnsigned32: dwords(|a, b| a.max(b));
    Average8: bytes(|a, b| ((u16::from(a) + u16::from(b) + 1) >> 1) as u8);
    Average16: words(|a, b| ((u32::from(a) + u32::from(b) + 1) >> 1) as u16);
    Abs8: bytes(|_a, b| (b as i8).unsigned_abs());
    Abs16: words(|_a, b| (b as i16).unsigned_abs());
    Abs32: dwords(|_a, b| (b as i32).unsigned_abs());
    Sign8: bytes(|a, b| a.wrapping_mul((b as i8).signum() as u8));
    Sign16: words(|a, b| a.wrapping_mul((b as i16).signum() as u16));
    Sign32: dwords(|a, b| a.wrapping_mul((b as i32).signum() as u32));
    And: qword(|a, b| a & b);
    AndNot: qword(|a, b| !a & b);
    Or: qword(|a, b| a | b);
    Xor: qword(|a, b| a ^ b);
    ShiftLeftEach32: dwords(|a, b| a.checked_shl(b).unwrap_or(0));
    ShiftLeftEach64: qword(|a, b| a.checked_shl(clamp(b)).unwrap_or(0));
    ShiftRightEach32: dwords(|a, b| a.checked_shr(b).unwrap_or(0));
    ShiftRightEach64: qword(|a, b| a.checked_shr(clamp(b)).unwrap_or(0));
    ShiftArithmeticEach32: dwords(|a, b| (a as i32 >> b.min(31)) as u32);
}

/// A shift count that fits and still clears every element if it was too large.
#[inline(always)]
fn clamp(count: u64) -> u32 {
    count.min(64) as u32
}

macro_rules! shift {
    ($($name:ident: $map:ident(|$a:ident, $count:ident| $result:expr);)*) => {$(
        struct $name;
        impl Shift for $name {
            #[inline(always)]
            fn shift(a: Lane, count: u64) -> Lane {
                let $count = clamp(count);
                a.map(|a| $map(a, 0, |$a, _| $result))
            }
        }
    )*};
}

shift! {
    ShiftLeft16: words(|a, c| a.checked_shl(c).unwrap_or(0));
    ShiftLeft32: dwords(|a, c| a.checked_shl(c).unwrap_or(0));
    ShiftLeft64: qword(|a, c| a.checked_shl(c).unwrap_or(0));
    ShiftRight16: words(|a, c| a.checked_shr(c).unwrap_or(0));
    ShiftRight32: dwords(|a, c| a.checked_shr(c).unwrap_or(0));
    ShiftRight64: qword(|a, c| a.checked_shr(c).unwrap_or(0));
    ShiftArithmetic16: words(|a, c| (a as i16 >> c.min(15)) as u16);
    ShiftArithmetic32: dwords(|a, c| (a as i32 >> c.min(31)) as u32);
}

/// PSLLDQ: the whole lane left by `count` bytes.
struct ShiftLeftBytes;
impl Shift for ShiftLeftBytes {
    fn shift(a: Lane, count: u64) -> Lane {
        of128(to128(a).checked_shl(8 * count as u32).unwrap_or(0))
    }
}

/// PSRLDQ: the whole lane right by `count` bytes.
struct ShiftRightBytes;
impl Shift for ShiftRightBytes {
    fn shift(a: Lane, count: u64) -> Lane {
        of128(to128(a).checked_shr(8 * count as u32).unwrap_or(0))
    }
}

pub(crate) const ROWS: &[Row] = &[
    Row::new(Code::Paddb_mm_mmm64, mmx::<Add8>).unit(Unit::Mmx),
    Row::new(Code::Paddb_xmm_xmmm128, sse::<Add8>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpaddb_xmm_xmm_xmmm128, vex128::<Add8>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpaddb_ymm_ymm_ymmm256, vex256::<Add8>).unit(Unit::Avx),
    Row::new(Code::Paddw_mm_mmm64, mmx::<Add16>).unit(Unit::Mmx),
    Row::new(Code::Paddw_xmm_xmmm128, sse::<Add16>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpaddw_xmm_xmm_xmmm128, vex128::<Add16>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpaddw_ymm_ymm_ymmm256, vex256::<Add16>).unit(Unit::Avx),
    Row::new(Code::Paddd_mm_mmm64, mmx::<Add32>).unit(Unit::Mmx),
    Row::new(Code::Paddd_xmm_xmmm128, sse::<Add32>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpaddd_xmm_xmm_xmmm128, vex128::<Add32>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpaddd_ymm_ymm_ymmm256, vex256::<Add32>).unit(Unit::Avx),
    Row::new(Code::Paddq_mm_mmm64, mmx::<Add64>).unit(Unit::Mmx),
    Row::new(Code::Paddq_xmm_xmmm128, sse::<Add64>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpaddq_xmm_xmm_xmmm128, vex128::<Add64>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpaddq_ymm_ymm_ymmm256, vex256::<Add64>).unit(Unit::Avx),
    Row::new(Code::Paddsb_mm_mmm64, mmx::<AddSigned8>).unit(Unit::Mmx),
    Row::new(Code::Paddsb_xmm_xmmm128, sse::<AddSigned8>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpaddsb_xmm_xmm_xmmm128, vex128::<AddSigned8>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpaddsb_ymm_ymm_ymmm256, vex256::<AddSigned8>).unit(Unit::Avx),
    Row::new(Code::Paddsw_mm_mmm64, mmx::<AddSigned16>).unit(Unit::Mmx),
    Row::new(Code::Paddsw_xmm_xmmm128, sse::<AddSigned16>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpaddsw_xmm_xmm_xmmm128, vex128::<AddSigned16>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpaddsw_ymm_ymm_ymmm256, vex256::<AddSigned16>).unit(Unit::Avx),
    Row::new(Code::Paddusb_mm_mmm64, mmx::<AddUnsigned8>).unit(Unit::Mmx),
    Row::new(Code::Paddusb_xmm_xmmm128, sse::<AddUnsigned8>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpaddusb_xmm_xmm_xmmm128, vex128::<AddUnsigned8>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpaddusb_ymm_ymm_ymmm256, vex256::<AddUnsigned8>).unit(Unit::Avx),
    Row::new(Code::Paddusw_mm_mmm64, mmx::<AddUnsigned16>).unit(Unit::Mmx),
    Row::new(Code::Paddusw_xmm_xmmm128, sse::<AddUnsigned16>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpaddusw_xmm_xmm_xmmm128, vex128::<AddUnsigned16>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpaddusw_ymm_ymm_ymmm256, vex256::<AddUnsigned16>).unit(Unit::Avx),
    Row::new(Code::Psubb_mm_mmm64, mmx::<Sub8>).unit(Unit::Mmx),
    Row::new(Code::Psubb_xmm_xmmm128, sse::<Sub8>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpsubb_xmm_xmm_xmmm128, vex128::<Sub8>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpsubb_ymm_ymm_ymmm256, vex256::<Sub8>).unit(Unit::Avx),
    Row::new(Code::Psubw_mm_mmm64, mmx::<Sub16>).unit(Unit::Mmx),
    Row::new(Code::Psubw_xmm_xmmm128, sse::<Sub16>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpsubw_xmm_xmm_xmmm128, vex128::<Sub16>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpsubw_ymm_ymm_ymmm256, vex256::<Sub16>).unit(Unit::Avx),
    Row::new(Code::Psubd_mm_mmm64, mmx::<Sub32>).unit(Unit::Mmx),
    Row::new(Code::Psubd_xmm_xmmm128, sse::<Sub32>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpsubd_xmm_xmm_xmmm128, vex128::<Sub32>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpsubd_ymm_ymm_ymmm256, vex256::<Sub32>).unit(Unit::Avx),
    Row::new(Code::Psubq_mm_mmm64, mmx::<Sub64>).unit(Unit::Mmx),
    Row::new(Code::Psubq_xmm_xmmm128, sse::<Sub64>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpsubq_xmm_xmm_xmmm128, vex128::<Sub64>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpsubq_ymm_ymm_ymmm256, vex256::<Sub64>).unit(Unit::Avx),
    Row::new(Code::Psubsb_mm_mmm64, mmx::<SubSigned8>).unit(Unit::Mmx),
    Row::new(Code::Psubsb_xmm_xmmm128, sse::<SubSigned8>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpsubsb_xmm_xmm_xmmm128, vex128::<SubSigned8>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpsubsb_ymm_ymm_ymmm256, vex256::<SubSigned8>).unit(Unit::Avx),
    Row::new(Code::Psubsw_mm_mmm64, mmx::<SubSigned16>).unit(Unit::Mmx),
    Row::new(Code::Psubsw_xmm_xmmm128, sse::<SubSigned16>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpsubsw_xmm_xmm_xmmm128, vex128::<SubSigned16>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpsubsw_ymm_ymm_ymmm256, vex256::<SubSigned16>).unit(Unit::Avx),
    Row::new(Code::Psubusb_mm_mmm64, mmx::<SubUnsigned8>).unit(Unit::Mmx),
    Row::new(Code::Psubusb_xmm_xmmm128, sse::<SubUnsigned8>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpsubusb_xmm_xmm_xmmm128, vex128::<SubUnsigned8>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpsubusb_ymm_ymm_ymmm256, vex256::<SubUnsigned8>).unit(Unit::Avx),
    Row::new(Code::Psubusw_mm_mmm64, mmx::<SubUnsigned16>).unit(Unit::Mmx),
    Row::new(Code::Psubusw_xmm_xmmm128, sse::<SubUnsigned16>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpsubusw_xmm_xmm_xmmm128, vex128::<SubUnsigned16>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpsubusw_ymm_ymm_ymmm256, vex256::<SubUnsigned16>).unit(Unit::Avx),
    Row::new(Code::Pmullw_mm_mmm64, mmx::<MulLow16>).unit(Unit::Mmx),
    Row::new(Code::Pmullw_xmm_xmmm128, sse::<MulLow16>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpmullw_xmm_xmm_xmmm128, vex128::<MulLow16>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpmullw_ymm_ymm_ymmm256, vex256::<MulLow16>).unit(Unit::Avx),
    Row::new(Code::Pmulld_xmm_xmmm128, sse::<MulLow32>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpmulld_xmm_xmm_xmmm128, vex128::<MulLow32>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpmulld_ymm_ymm_ymmm256, vex256::<MulLow32>).unit(Unit::Avx),
    Row::new(Code::Pmulhw_mm_mmm64, mmx::<MulHigh16>).unit(Unit::Mmx),
    Row::new(Code::Pmulhw_xmm_xmmm128, sse::<MulHigh16>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpmulhw_xmm_xmm_xmmm128, vex128::<MulHigh16>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpmulhw_ymm_ymm_ymmm256, vex256::<MulHigh16>).unit(Unit::Avx),
    Row::new(Code::Pmulhuw_mm_mmm64, mmx::<MulHighUnsigned16>).unit(Unit::Mmx),
    Row::new(Code::Pmulhuw_xmm_xmmm128, sse::<MulHighUnsigned16>).unit(Unit::Sse),
    Row::new(
        Code::VEX_Vpmulhuw_xmm_xmm_xmmm128,
        vex128::<MulHighUnsigned16>,
    )
    .unit(Unit::Avx),
    Row::new(
        Code::VEX_Vpmulhuw_ymm_ymm_ymmm256,
        vex256::<MulHighUnsigned16>,
    )
    .unit(Unit::Avx),
    Row::new(Code::Pmulhrsw_mm_mmm64, mmx::<MulHighRound16>).unit(Unit::Mmx),
    Row::new(Code::Pmulhrsw_xmm_xmmm128, sse::<MulHighRound16>).unit(Unit::Sse),
    Row::new(
        Code::VEX_Vpmulhrsw_xmm_xmm_xmmm128,
        vex128::<MulHighRound16>,
    )
    .unit(Unit::Avx),
    Row::new(
        Code::VEX_Vpmulhrsw_ymm_ymm_ymmm256,
        vex256::<MulHighRound16>,
    )
    .unit(Unit::Avx),
    Row::new(Code::Pmuludq_mm_mmm64, mmx::<MulUnsigned32>).unit(Unit::Mmx),
    Row::new(Code::Pmuludq_xmm_xmmm128, sse::<MulUnsigned32>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpmuludq_xmm_xmm_xmmm128, vex128::<MulUnsigned32>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpmuludq_ymm_ymm_ymmm256, vex256::<MulUnsigned32>).unit(Unit::Avx),
    Row::new(Code::Pmuldq_xmm_xmmm128, sse::<MulSigned32>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpmuldq_xmm_xmm_xmmm128, vex128::<MulSigned32>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpmuldq_ymm_ymm_ymmm256, vex256::<MulSigned32>).unit(Unit::Avx),
    Row::new(Code::Pmaddwd_mm_mmm64, mmx::<MulAdd16>).unit(Unit::Mmx),
    Row::new(Code::Pmaddwd_xmm_xmmm128, sse::<MulAdd16>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpmaddwd_xmm_xmm_xmmm128, vex128::<MulAdd16>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpmaddwd_ymm_ymm_ymmm256, vex256::<MulAdd16>).unit(Unit::Avx),
    Row::new(Code::Pmaddubsw_mm_mmm64, mmx::<MulAddUnsignedSigned8>).unit(Unit::Mmx),
    Row::new(Code::Pmaddubsw_xmm_xmmm128, sse::<MulAddUnsignedSigned8>).unit(Unit::Sse),
    Row::new(
        Code::VEX_Vpmaddubsw_xmm_xmm_xmmm128,
        vex128::<MulAddUnsignedSigned8>,
    )
    .unit(Unit::Avx),
    Row::new(
        Code::VEX_Vpmaddubsw_ymm_ymm_ymmm256,
        vex256::<MulAddUnsignedSigned8>,
    )
    .unit(Unit::Avx),
    Row::new(Code::Psadbw_mm_mmm64, mmx::<SumOfDifferences8>).unit(Unit::Mmx),
    Row::new(Code::Psadbw_xmm_xmmm128, sse::<SumOfDifferences8>).unit(Unit::Sse),
    Row::new(
        Code::VEX_Vpsadbw_xmm_xmm_xmmm128,
        vex128::<SumOfDifferences8>,
    )
    .unit(Unit::Avx),
    Row::new(
        Code::VEX_Vpsadbw_ymm_ymm_ymmm256,
        vex256::<SumOfDifferences8>,
    )
    .unit(Unit::Avx),
    Row::new(Code::Pcmpeqb_mm_mmm64, mmx::<Equal8>).unit(Unit::Mmx),
    Row::new(Code::Pcmpeqb_xmm_xmmm128, sse::<Equal8>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpcmpeqb_xmm_xmm_xmmm128, vex128::<Equal8>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpcmpeqb_ymm_ymm_ymmm256, vex256::<Equal8>).unit(Unit::Avx),
    Row::new(Code::Pcmpeqw_mm_mmm64, mmx::<Equal16>).unit(Unit::Mmx),
    Row::new(Code::Pcmpeqw_xmm_xmmm128, sse::<Equal16>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpcmpeqw_xmm_xmm_xmmm128, vex128::<Equal16>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpcmpeqw_ymm_ymm_ymmm256, vex256::<Equal16>).unit(Unit::Avx),
    Row::new(Code::Pcmpeqd_mm_mmm64, mmx::<Equal32>).unit(Unit::Mmx),
    Row::new(Code::Pcmpeqd_xmm_xmmm128, sse::<Equal32>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpcmpeqd_xmm_xmm_xmmm128, vex128::<Equal32>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpcmpeqd_ymm_ymm_ymmm256, vex256::<Equal32>).unit(Unit::Avx),
    Row::new(Code::Pcmpeqq_xmm_xmmm128, sse::<Equal64>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpcmpeqq_xmm_xmm_xmmm128, vex128::<Equal64>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpcmpeqq_ymm_ymm_ymmm256, vex256::<Equal64>).unit(Unit::Avx),
    Row::new(Code::Pcmpgtb_mm_mmm64, mmx::<Greater8>).unit(Unit::Mmx),
    Row::new(Code::Pcmpgtb_xmm_xmmm128, sse::<Greater8>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpcmpgtb_xmm_xmm_xmmm128, vex128::<Greater8>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpcmpgtb_ymm_ymm_ymmm256, vex256::<Greater8>).unit(Unit::Avx),
    Row::new(Code::Pcmpgtw_mm_mmm64, mmx::<Greater16>).unit(Unit::Mmx),
    Row::new(Code::Pcmpgtw_xmm_xmmm128, sse::<Greater16>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpcmpgtw_xmm_xmm_xmmm128, vex128::<Greater16>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpcmpgtw_ymm_ymm_ymmm256, vex256::<Greater16>).unit(Unit::Avx),
    Row::new(Code::Pcmpgtd_mm_mmm64, mmx::<Greater32>).unit(Unit::Mmx),
    Row::new(Code::Pcmpgtd_xmm_xmmm128, sse::<Greater32>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpcmpgtd_xmm_xmm_xmmm128, vex128::<Greater32>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpcmpgtd_ymm_ymm_ymmm256, vex256::<Greater32>).unit(Unit::Avx),
    Row::new(Code::Pcmpgtq_xmm_xmmm128, sse::<Greater64>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpcmpgtq_xmm_xmm_xmmm128, vex128::<Greater64>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpcmpgtq_ymm_ymm_ymmm256, vex256::<Greater64>).unit(Unit::Avx),
    Row::new(Code::Pminsb_xmm_xmmm128, sse::<MinSigned8>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpminsb_xmm_xmm_xmmm128, vex128::<MinSigned8>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpminsb_ymm_ymm_ymmm256, vex256::<MinSigned8>).unit(Unit::Avx),
    Row::new(Code::Pminsw_mm_mmm64, mmx::<MinSigned16>).unit(Unit::Mmx),
    Row::new(Code::Pminsw_xmm_xmmm128, sse::<MinSigned16>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpminsw_xmm_xmm_xmmm128, vex128::<MinSigned16>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpminsw_ymm_ymm_ymmm256, vex256::<MinSigned16>).unit(Unit::Avx),
    Row::new(Code::Pminsd_xmm_xmmm128, sse::<MinSigned32>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpminsd_xmm_xmm_xmmm128, vex128::<MinSigned32>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpminsd_ymm_ymm_ymmm256, vex256::<MinSigned32>).unit(Unit::Avx),
    Row::new(Code::Pminub_mm_mmm64, mmx::<MinUnsigned8>).unit(Unit::Mmx),
    Row::new(Code::Pminub_xmm_xmmm128, sse::<MinUnsigned8>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpminub_xmm_xmm_xmmm128, vex128::<MinUnsigned8>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpminub_ymm_ymm_ymmm256, vex256::<MinUnsigned8>).unit(Unit::Avx),
    Row::new(Code::Pminuw_xmm_xmmm128, sse::<MinUnsigned16>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpminuw_xmm_xmm_xmmm128, vex128::<MinUnsigned16>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpminuw_ymm_ymm_ymmm256, vex256::<MinUnsigned16>).unit(Unit::Avx),
    Row::new(Code::Pminud_xmm_xmmm128, sse::<MinUnsigned32>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpminud_xmm_xmm_xmmm128, vex128::<MinUnsigned32>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpminud_ymm_ymm_ymmm256, vex256::<MinUnsigned32>).unit(Unit::Avx),
    Row::new(Code::Pmaxsb_xmm_xmmm128, sse::<MaxSigned8>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpmaxsb_xmm_xmm_xmmm128, vex128::<MaxSigned8>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpmaxsb_ymm_ymm_ymmm256, vex256::<MaxSigned8>).unit(Unit::Avx),
    Row::new(Code::Pmaxsw_mm_mmm64, mmx::<MaxSigned16>).unit(Unit::Mmx),
    Row::new(Code::Pmaxsw_xmm_xmmm128, sse::<MaxSigned16>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpmaxsw_xmm_xmm_xmmm128, vex128::<MaxSigned16>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpmaxsw_ymm_ymm_ymmm256, vex256::<MaxSigned16>).unit(Unit::Avx),
    Row::new(Code::Pmaxsd_xmm_xmmm128, sse::<MaxSigned32>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpmaxsd_xmm_xmm_xmmm128, vex128::<MaxSigned32>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpmaxsd_ymm_ymm_ymmm256, vex256::<MaxSigned32>).unit(Unit::Avx),
    Row::new(Code::Pmaxub_mm_mmm64, mmx::<MaxUnsigned8>).unit(Unit::Mmx),
    Row::new(Code::Pmaxub_xmm_xmmm128, sse::<MaxUnsigned8>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpmaxub_xmm_xmm_xmmm128, vex128::<MaxUnsigned8>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpmaxub_ymm_ymm_ymmm256, vex256::<MaxUnsigned8>).unit(Unit::Avx),
    Row::new(Code::Pmaxuw_xmm_xmmm128, sse::<MaxUnsigned16>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpmaxuw_xmm_xmm_xmmm128, vex128::<MaxUnsigned16>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpmaxuw_ymm_ymm_ymmm256, vex256::<MaxUnsigned16>).unit(Unit::Avx),
    Row::new(Code::Pmaxud_xmm_xmmm128, sse::<MaxUnsigned32>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpmaxud_xmm_xmm_xmmm128, vex128::<MaxUnsigned32>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpmaxud_ymm_ymm_ymmm256, vex256::<MaxUnsigned32>).unit(Unit::Avx),
    Row::new(Code::Pavgb_mm_mmm64, mmx::<Average8>).unit(Unit::Mmx),
    Row::new(Code::Pavgb_xmm_xmmm128, sse::<Average8>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpavgb_xmm_xmm_xmmm128, vex128::<Average8>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpavgb_ymm_ymm_ymmm256, vex256::<Average8>).unit(Unit::Avx),
    Row::new(Code::Pavgw_mm_mmm64, mmx::<Average16>).unit(Unit::Mmx),
    Row::new(Code::Pavgw_xmm_xmmm128, sse::<Average16>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpavgw_xmm_xmm_xmmm128, vex128::<Average16>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpavgw_ymm_ymm_ymmm256, vex256::<Average16>).unit(Unit::Avx),
    Row::new(Code::Psignb_mm_mmm64, mmx::<Sign8>).unit(Unit::Mmx),
    Row::new(Code::Psignb_xmm_xmmm128, sse::<Sign8>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpsignb_xmm_xmm_xmmm128, vex128::<Sign8>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpsignb_ymm_ymm_ymmm256, vex256::<Sign8>).unit(Unit::Avx),
    Row::new(Code::Psignw_mm_mmm64, mmx::<Sign16>).unit(Unit::Mmx),
    Row::new(Code::Psignw_xmm_xmmm128, sse::<Sign16>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpsignw_xmm_xmm_xmmm128, vex128::<Sign16>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpsignw_ymm_ymm_ymmm256, vex256::<Sign16>).unit(Unit::Avx),
    Row::new(Code::Psignd_mm_mmm64, mmx::<Sign32>).unit(Unit::Mmx),
    Row::new(Code::Psignd_xmm_xmmm128, sse::<Sign32>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpsignd_xmm_xmm_xmmm128, vex128::<Sign32>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpsignd_ymm_ymm_ymmm256, vex256::<Sign32>).unit(Unit::Avx),
    Row::new(Code::Pand_mm_mmm64, mmx::<And>).unit(Unit::Mmx),
    Row::new(Code::Pand_xmm_xmmm128, sse::<And>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpand_xmm_xmm_xmmm128, vex128::<And>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpand_ymm_ymm_ymmm256, vex256::<And>).unit(Unit::Avx),
    Row::new(Code::Pandn_mm_mmm64, mmx::<AndNot>).unit(Unit::Mmx),
    Row::new(Code::Pandn_xmm_xmmm128, sse::<AndNot>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpandn_xmm_xmm_xmmm128, vex128::<AndNot>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpandn_ymm_ymm_ymmm256, vex256::<AndNot>).unit(Unit::Avx),
    Row::new(Code::Por_mm_mmm64, mmx::<Or>).unit(Unit::Mmx),
    Row::new(Code::Por_xmm_xmmm128, sse::<Or>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpor_xmm_xmm_xmmm128, vex128::<Or>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpor_ymm_ymm_ymmm256, vex256::<Or>).unit(Unit::Avx),
    Row::new(Code::Pxor_mm_mmm64, mmx::<Xor>).unit(Unit::Mmx),
    Row::new(Code::Pxor_xmm_xmmm128, sse::<Xor>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpxor_xmm_xmm_xmmm128, vex128::<Xor>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpxor_ymm_ymm_ymmm256, vex256::<Xor>).unit(Unit::Avx),
    Row::new(Code::Andps_xmm_xmmm128, sse::<And>).unit(Unit::Sse),
    Row::new(Code::VEX_Vandps_xmm_xmm_xmmm128, vex128::<And>).unit(Unit::Avx),
    Row::new(Code::VEX_Vandps_ymm_ymm_ymmm256, vex256::<And>).unit(Unit::Avx),
    Row::new(Code::Andpd_xmm_xmmm128, sse::<And>).unit(Unit::Sse),
    Row::new(Code::VEX_Vandpd_xmm_xmm_xmmm128, vex128::<And>).unit(Unit::Avx),
    Row::new(Code::VEX_Vandpd_ymm_ymm_ymmm256, vex256::<And>).unit(Unit::Avx),
    Row::new(Code::Andnps_xmm_xmmm128, sse::<AndNot>).unit(Unit::Sse),
    Row::new(Code::VEX_Vandnps_xmm_xmm_xmmm128, vex128::<AndNot>).unit(Unit::Avx),
    Row::new(Code::VEX_Vandnps_ymm_ymm_ymmm256, vex256::<AndNot>).unit(Unit::Avx),
    Row::new(Code::Andnpd_xmm_xmmm128, sse::<AndNot>).unit(Unit::Sse),
    Row::new(Code::VEX_Vandnpd_xmm_xmm_xmmm128, vex128::<AndNot>).unit(Unit::Avx),
    Row::new(Code::VEX_Vandnpd_ymm_ymm_ymmm256, vex256::<AndNot>).unit(Unit::Avx),
    Row::new(Code::Orps_xmm_xmmm128, sse::<Or>).unit(Unit::Sse),
    Row::new(Code::VEX_Vorps_xmm_xmm_xmmm128, vex128::<Or>).unit(Unit::Avx),
    Row::new(Code::VEX_Vorps_ymm_ymm_ymmm256, vex256::<Or>).unit(Unit::Avx),
    Row::new(Code::Orpd_xmm_xmmm128, sse::<Or>).unit(Unit::Sse),
    Row::new(Code::VEX_Vorpd_xmm_xmm_xmmm128, vex128::<Or>).unit(Unit::Avx),
    Row::new(Code::VEX_Vorpd_ymm_ymm_ymmm256, vex256::<Or>).unit(Unit::Avx),
    Row::new(Code::Xorps_xmm_xmmm128, sse::<Xor>).unit(Unit::Sse),
    Row::new(Code::VEX_Vxorps_xmm_xmm_xmmm128, vex128::<Xor>).unit(Unit::Avx),
    Row::new(Code::VEX_Vxorps_ymm_ymm_ymmm256, vex256::<Xor>).unit(Unit::Avx),
    Row::new(Code::Xorpd_xmm_xmmm128, sse::<Xor>).unit(Unit::Sse),
    Row::new(Code::VEX_Vxorpd_xmm_xmm_xmmm128, vex128::<Xor>).unit(Unit::Avx),
    Row::new(Code::VEX_Vxorpd_ymm_ymm_ymmm256, vex256::<Xor>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpsllvd_xmm_xmm_xmmm128, vex128::<ShiftLeftEach32>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpsllvd_ymm_ymm_ymmm256, vex256::<ShiftLeftEach32>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpsllvq_xmm_xmm_xmmm128, vex128::<ShiftLeftEach64>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpsllvq_ymm_ymm_ymmm256, vex256::<ShiftLeftEach64>).unit(Unit::Avx),
    Row::new(
        Code::VEX_Vpsrlvd_xmm_xmm_xmmm128,
        vex128::<ShiftRightEach32>,
    )
    .unit(Unit::Avx),
    Row::new(
        Code::VEX_Vpsrlvd_ymm_ymm_ymmm256,
        vex256::<ShiftRightEach32>,
    )
    .unit(Unit::Avx),
    Row::new(
        Code::VEX_Vpsrlvq_xmm_xmm_xmmm128,
        vex128::<ShiftRightEach64>,
    )
    .unit(Unit::Avx),
    Row::new(
        Code::VEX_Vpsrlvq_ymm_ymm_ymmm256,
        vex256::<ShiftRightEach64>,
    )
    .unit(Unit::Avx),
    Row::new(
        Code::VEX_Vpsravd_xmm_xmm_xmmm128,
        vex128::<ShiftArithmeticEach32>,
    )
    .unit(Unit::Avx),
    Row::new(
        Code::VEX_Vpsravd_ymm_ymm_ymmm256,
        vex256::<ShiftArithmeticEach32>,
    )
    .unit(Unit::Avx),
    Row::new(Code::Pabsb_mm_mmm64, mmx::<Abs8>).unit(Unit::Mmx),
    Row::new(Code::Pabsb_xmm_xmmm128, sse::<Abs8>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpabsb_xmm_xmmm128, vex128_unary::<Abs8>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpabsb_ymm_ymmm256, vex256_unary::<Abs8>).unit(Unit::Avx),
    Row::new(Code::Pabsw_mm_mmm64, mmx::<Abs16>).unit(Unit::Mmx),
    Row::new(Code::Pabsw_xmm_xmmm128, sse::<Abs16>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpabsw_xmm_xmmm128, vex128_unary::<Abs16>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpabsw_ymm_ymmm256, vex256_unary::<Abs16>).unit(Unit::Avx),
    Row::new(Code::Pabsd_mm_mmm64, mmx::<Abs32>).unit(Unit::Mmx),
    Row::new(Code::Pabsd_xmm_xmmm128, sse::<Abs32>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpabsd_xmm_xmmm128, vex128_unary::<Abs32>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpabsd_ymm_ymmm256, vex256_unary::<Abs32>).unit(Unit::Avx),
    Row::new(Code::Psllw_mm_imm8, mmx_shift::<ShiftLeft16>).unit(Unit::Mmx),
    Row::new(Code::Psllw_xmm_imm8, sse_shift::<ShiftLeft16>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpsllw_xmm_xmm_imm8, vex128_shift::<ShiftLeft16>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpsllw_ymm_ymm_imm8, vex256_shift::<ShiftLeft16>).unit(Unit::Avx),
    Row::new(Code::Psllw_mm_mmm64, mmx_shift::<ShiftLeft16>).unit(Unit::Mmx),
    Row::new(Code::Psllw_xmm_xmmm128, sse_shift::<ShiftLeft16>).unit(Unit::Sse),
    Row::new(
        Code::VEX_Vpsllw_xmm_xmm_xmmm128,
        vex128_shift::<ShiftLeft16>,
    )
    .unit(Unit::Avx),
    Row::new(
        Code::VEX_Vpsllw_ymm_ymm_xmmm128,
        vex256_shift::<ShiftLeft16>,
    )
    .unit(Unit::Avx),
    Row::new(Code::Pslld_mm_imm8, mmx_shift::<ShiftLeft32>).unit(Unit::Mmx),
    Row::new(Code::Pslld_xmm_imm8, sse_shift::<ShiftLeft32>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpslld_xmm_xmm_imm8, vex128_shift::<ShiftLeft32>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpslld_ymm_ymm_imm8, vex256_shift::<ShiftLeft32>).unit(Unit::Avx),
    Row::new(Code::Pslld_mm_mmm64, mmx_shift::<ShiftLeft32>).unit(Unit::Mmx),
    Row::new(Code::Pslld_xmm_xmmm128, sse_shift::<ShiftLeft32>).unit(Unit::Sse),
    Row::new(
        Code::VEX_Vpslld_xmm_xmm_xmmm128,
        vex128_shift::<ShiftLeft32>,
    )
    .unit(Unit::Avx),
    Row::new(
        Code::VEX_Vpslld_ymm_ymm_xmmm128,
        vex256_shift::<ShiftLeft32>,
    )
    .unit(Unit::Avx),
    Row::new(Code::Psllq_mm_imm8, mmx_shift::<ShiftLeft64>).unit(Unit::Mmx),
    Row::new(Code::Psllq_xmm_imm8, sse_shift::<ShiftLeft64>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpsllq_xmm_xmm_imm8, vex128_shift::<ShiftLeft64>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpsllq_ymm_ymm_imm8, vex256_shift::<ShiftLeft64>).unit(Unit::Avx),
    Row::new(Code::Psllq_mm_mmm64, mmx_shift::<ShiftLeft64>).unit(Unit::Mmx),
    Row::new(Code::Psllq_xmm_xmmm128, sse_shift::<ShiftLeft64>).unit(Unit::Sse),
    Row::new(
        Code::VEX_Vpsllq_xmm_xmm_xmmm128,
        vex128_shift::<ShiftLeft64>,
    )
    .unit(Unit::Avx),
    Row::new(
        Code::VEX_Vpsllq_ymm_ymm_xmmm128,
        vex256_shift::<ShiftLeft64>,
    )
    .unit(Unit::Avx),
    Row::new(Code::Psrlw_mm_imm8, mmx_shift::<ShiftRight16>).unit(Unit::Mmx),
    Row::new(Code::Psrlw_xmm_imm8, sse_shift::<ShiftRight16>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpsrlw_xmm_xmm_imm8, vex128_shift::<ShiftRight16>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpsrlw_ymm_ymm_imm8, vex256_shift::<ShiftRight16>).unit(Unit::Avx),
    Row::new(Code::Psrlw_mm_mmm64, mmx_shift::<ShiftRight16>).unit(Unit::Mmx),
    Row::new(Code::Psrlw_xmm_xmmm128, sse_shift::<ShiftRight16>).unit(Unit::Sse),
    Row::new(
        Code::VEX_Vpsrlw_xmm_xmm_xmmm128,
        vex128_shift::<ShiftRight16>,
    )
    .unit(Unit::Avx),
    Row::new(
        Code::VEX_Vpsrlw_ymm_ymm_xmmm128,
        vex256_shift::<ShiftRight16>,
    )
    .unit(Unit::Avx),
    Row::new(Code::Psrld_mm_imm8, mmx_shift::<ShiftRight32>).unit(Unit::Mmx),
    Row::new(Code::Psrld_xmm_imm8, sse_shift::<ShiftRight32>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpsrld_xmm_xmm_imm8, vex128_shift::<ShiftRight32>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpsrld_ymm_ymm_imm8, vex256_shift::<ShiftRight32>).unit(Unit::Avx),
    Row::new(Code::Psrld_mm_mmm64, mmx_shift::<ShiftRight32>).unit(Unit::Mmx),
    Row::new(Code::Psrld_xmm_xmmm128, sse_shift::<ShiftRight32>).unit(Unit::Sse),
    Row::new(
        Code::VEX_Vpsrld_xmm_xmm_xmmm128,
        vex128_shift::<ShiftRight32>,
    )
    .unit(Unit::Avx),
    Row::new(
        Code::VEX_Vpsrld_ymm_ymm_xmmm128,
        vex256_shift::<ShiftRight32>,
    )
    .unit(Unit::Avx),
    Row::new(Code::Psrlq_mm_imm8, mmx_shift::<ShiftRight64>).unit(Unit::Mmx),
    Row::new(Code::Psrlq_xmm_imm8, sse_shift::<ShiftRight64>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpsrlq_xmm_xmm_imm8, vex128_shift::<ShiftRight64>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpsrlq_ymm_ymm_imm8, vex256_shift::<ShiftRight64>).unit(Unit::Avx),
    Row::new(Code::Psrlq_mm_mmm64, mmx_shift::<ShiftRight64>).unit(Unit::Mmx),
    Row::new(Code::Psrlq_xmm_xmmm128, sse_shift::<ShiftRight64>).unit(Unit::Sse),
    Row::new(
        Code::VEX_Vpsrlq_xmm_xmm_xmmm128,
        vex128_shift::<ShiftRight64>,
    )
    .unit(Unit::Avx),
    Row::new(
        Code::VEX_Vpsrlq_ymm_ymm_xmmm128,
        vex256_shift::<ShiftRight64>,
    )
    .unit(Unit::Avx),
    Row::new(Code::Psraw_mm_imm8, mmx_shift::<ShiftArithmetic16>).unit(Unit::Mmx),
    Row::new(Code::Psraw_xmm_imm8, sse_shift::<ShiftArithmetic16>).unit(Unit::Sse),
    Row::new(
        Code::VEX_Vpsraw_xmm_xmm_imm8,
        vex128_shift::<ShiftArithmetic16>,
    )
    .unit(Unit::Avx),
    Row::new(
        Code::VEX_Vpsraw_ymm_ymm_imm8,
        vex256_shift::<ShiftArithmetic16>,
    )
    .unit(Unit::Avx),
    Row::new(Code::Psraw_mm_mmm64, mmx_shift::<ShiftArithmetic16>).unit(Unit::Mmx),
    Row::new(Code::Psraw_xmm_xmmm128, sse_shift::<ShiftArithmetic16>).unit(Unit::Sse),
    Row::new(
        Code::VEX_Vpsraw_xmm_xmm_xmmm128,
        vex128_shift::<ShiftArithmetic16>,
    )
    .unit(Unit::Avx),
    Row::new(
        Code::VEX_Vpsraw_ymm_ymm_xmmm128,
        vex256_shift::<ShiftArithmetic16>,
    )
    .unit(Unit::Avx),
    Row::new(Code::Psrad_mm_imm8, mmx_shift::<ShiftArithmetic32>).unit(Unit::Mmx),
    Row::new(Code::Psrad_xmm_imm8, sse_shift::<ShiftArithmetic32>).unit(Unit::Sse),
    Row::new(
        Code::VEX_Vpsrad_xmm_xmm_imm8,
        vex128_shift::<ShiftArithmetic32>,
    )
    .unit(Unit::Avx),
    Row::new(
        Code::VEX_Vpsrad_ymm_ymm_imm8,
        vex256_shift::<ShiftArithmetic32>,
    )
    .unit(Unit::Avx),
    Row::new(Code::Psrad_mm_mmm64, mmx_shift::<ShiftArithmetic32>).unit(Unit::Mmx),
    Row::new(Code::Psrad_xmm_xmmm128, sse_shift::<ShiftArithmetic32>).unit(Unit::Sse),
    Row::new(
        Code::VEX_Vpsrad_xmm_xmm_xmmm128,
        vex128_shift::<ShiftArithmetic32>,
    )
    .unit(Unit::Avx),
    Row::new(
        Code::VEX_Vpsrad_ymm_ymm_xmmm128,
        vex256_shift::<ShiftArithmetic32>,
    )
    .unit(Unit::Avx),
    Row::new(Code::Pslldq_xmm_imm8, sse_shift::<ShiftLeftBytes>).unit(Unit::Sse),
    Row::new(
        Code::VEX_Vpslldq_xmm_xmm_imm8,
        vex128_shift::<ShiftLeftBytes>,
    )
    .unit(Unit::Avx),
    Row::new(
        Code::VEX_Vpslldq_ymm_ymm_imm8,
        vex256_shift::<ShiftLeftBytes>,
    )
    .unit(Unit::Avx),
    Row::new(Code::Psrldq_xmm_imm8, sse_shift::<ShiftRightBytes>).unit(Unit::Sse),
    Row::new(
        Code::VEX_Vpsrldq_xmm_xmm_imm8,
        vex128_shift::<ShiftRightBytes>,
    )
    .unit(Unit::Avx),
    Row::new(
        Code::VEX_Vpsrldq_ymm_ymm_imm8,
        vex256_shift::<ShiftRightBytes>,
    )
    .unit(Unit::Avx),
];
