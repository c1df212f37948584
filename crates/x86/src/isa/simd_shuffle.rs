//! Instructions that move elements within and between lanes, or combine neighbours (SDM volume 2:
//! PSHUF*, SHUFPS, SHUFPD, UNPCK*, PUNPCK*, PACK*, PALIGNR, MOVDDUP, MOVSHDUP, MOVSLDUP, VPERM*,
//! BLEND*, PBLEND*, PMOVSX*, PMOVZX*, PHADD*, PHSUB*, MPSADBW, PHMINPOSUW, PTEST, VTESTPS,
//! VTESTPD).

use super::simd::*;
use super::vector::Lane;
use crate::exec::Exec;
use crate::insn::{Insn, MEM};
use crate::state::rflags;
use crate::table::{Row, Unit};
use crate::trap::Done;
use core::array::from_fn;
use iced_x86::Code;

macro_rules! lanes {
    ($($(#[$doc:meta])* $name:ident $(/ $upper:literal)?: |$a:ident, $b:ident, $imm:ident| $result:expr;)*) => {$(
        $(#[$doc])*
        struct $name;
        impl Lanes for $name {
            $(const UPPER: u32 = $upper;)?
            #[inline(always)]
            fn lane($a: Lane, $b: Lane, $imm: u8) -> Lane {
                $result
            }
        }
    )*};
}

/// The two bits of `imm` for element `n`.
#[inline(always)]
fn two(imm: u8, n: usize) -> usize {
    usize::from(imm >> (2 * n) & 3)
}

/// Elements from `a` and `b` in turn, from number `from` on.
#[inline(always)]
fn interleave<T: Copy, const N: usize>(a: [T; N], b: [T; N], from: usize) -> [T; N] {
    from_fn(|n| {
        if n % 2 == 0 {
            a[from + n / 2]
        } else {
            b[from + n / 2]
        }
    })
}

/// `f` of each pair of neighbours in `a`, then in `b`.
#[inline(always)]
fn neighbours<T: Copy, const N: usize>(a: [T; N], b: [T; N], f: impl Fn(T, T) -> T) -> [T; N] {
    from_fn(|n| {
        let (v, n) = if n < N / 2 { (&a, n) } else { (&b, n - N / 2) };
        f(v[2 * n], v[2 * n + 1])
    })
}

/// `b` where `take` says so, `a` elsewhere.
#[inline(always)]
fn select<T: Copy, const N: usize>(a: [T; N], b: [T; N], take: impl Fn(usize) -> bool) -> [T; N] {
    from_fn(|n| if take(n) { b[n] } else { a[n] })
}

#[inline(always)]
fn pack8(a: Lane, b: Lane, f: impl Fn(i16) -> u8) -> Lane {
    let (a, b) = (to16(a), to16(b));
    of8(from_fn(|n| f(if n < 8 { a[n] } else { b[n - 8] } as i16)))
}

#[inline(always)]
fn pack16(a: Lane, b: Lane, f: impl Fn(i32) -> u16) -> Lane {
    let (a, b) = (to32(a), to32(b));
    of16(from_fn(|n| f(if n < 4 { a[n] } else { b[n - 4] } as i32)))
}

lanes! {
    UnpackLow8: |a, b, _imm| of8(interleave(to8(a), to8(b), 0));
    UnpackLow16: |a, b, _imm| of16(interleave(to16(a), to16(b), 0));
    UnpackLow32: |a, b, _imm| of32(interleave(to32(a), to32(b), 0));
    UnpackLow64: |a, b, _imm| [a[0], b[0]];
    UnpackHigh8: |a, b, _imm| of8(interleave(to8(a), to8(b), 8));
    UnpackHigh16: |a, b, _imm| of16(interleave(to16(a), to16(b), 4));
    UnpackHigh32: |a, b, _imm| of32(interleave(to32(a), to32(b), 2));
    UnpackHigh64: |a, b, _imm| [a[1], b[1]];
    PackSigned8: |a, b, _imm| pack8(a, b, |v| v.clamp(-0x80, 0x7f) as u8);
    PackUnsigned8: |a, b, _imm| pack8(a, b, |v| v.clamp(0, 0xff) as u8);
    PackSigned16: |a, b, _imm| pack16(a, b, |v| v.clamp(-0x8000, 0x7fff) as u16);
    PackUnsigned16: |a, b, _imm| pack16(a, b, |v| v.clamp(0, 0xffff) as u16);
    Shuffle8: |a, b, _imm| {
        let a = to8(a);
        of8(to8(b).map(|n| if n & 0x80 != 0 { 0 } else { a[usize::from(n & 15)] }))
    };
    Shuffle32: |_a, b, imm| {
        let b = to32(b);
        of32(from_fn(|n| b[two(imm, n)]))
    };
    ShuffleLow16: |_a, b, imm| {
        let v = to16(b);
        of16(from_fn(|n| if n < 4 { v[two(imm, n)] } else { v[n] }))
    };
    ShuffleHigh16: |_a, b, imm| {
        let v = to16(b);
        of16(from_fn(|n| if n < 4 { v[n] } else { v[4 + two(imm, n - 4)] }))
    };
    ShufflePs: |a, b, imm| {
        let (a, b) = (to32(a), to32(b));
        of32(from_fn(|n| if n < 2 { a[two(imm, n)] } else { b[two(imm, n)] }))
    };
    ShufflePd / 2: |a, b, imm| [a[usize::from(imm & 1)], b[usize::from(imm >> 1 & 1)]];
    /// PALIGNR: the bytes of `a` above those of `b`, from byte `imm` on.
    Align: |a, b, imm| {
        let (a, b, shift) = (to128(a), to128(b), 8 * u32::from(imm));
        of128(match shift {
            0 => b,
            1..128 => b >> shift | a << (128 - shift),
            _ => a.checked_shr(shift - 128).unwrap_or(0),
        })
    };
    DuplicateEven64: |_a, b, _imm| [b[0]; 2];
    DuplicateEven32: |_a, b, _imm| {
        let v = to32(b);
        of32([v[0], v[0], v[2], v[2]])
    };
    DuplicateOdd32: |_a, b, _imm| {
        let v = to32(b);
        of32([v[1], v[1], v[3], v[3]])
    };
    /// VPERMILPD by immediate.
    Permute64 / 2: |_a, b, imm| [b[usize::from(imm & 1)], b[usize::from(imm >> 1 & 1)]];
    /// VPERMILPS by vector.
    PermuteBy32: |a, b, _imm| {
        let a = to32(a);
        of32(to32(b).map(|n| a[n as usize & 3]))
    };
    /// VPERMILPD by vector.
    PermuteBy64: |a, b, _imm| b.map(|n| a[(n >> 1 & 1) as usize]);
    Blend16: |a, b, imm| of16(select(to16(a), to16(b), |n| imm >> n & 1 != 0));
    Blend32 / 4: |a, b, imm| of32(select(to32(a), to32(b), |n| imm >> n & 1 != 0));
    Blend64 / 2: |a, b, imm| select(a, b, |n| imm >> n & 1 != 0);
    AddNeighbours16: |a, b, _imm| of16(neighbours(to16(a), to16(b), u16::wrapping_add));
    AddNeighbours32: |a, b, _imm| of32(neighbours(to32(a), to32(b), u32::wrapping_add));
    AddNeighboursSigned16: |a, b, _imm| {
        of16(neighbours(to16(a), to16(b), |a, b| {
            (a as i16).saturating_add(b as i16) as u16
        }))
    };
    SubNeighbours16: |a, b, _imm| of16(neighbours(to16(a), to16(b), u16::wrapping_sub));
    SubNeighbours32: |a, b, _imm| of32(neighbours(to32(a), to32(b), u32::wrapping_sub));
    SubNeighboursSigned16: |a, b, _imm| {
        of16(neighbours(to16(a), to16(b), |a, b| {
            (a as i16).saturating_sub(b as i16) as u16
        }))
    };
    /// MPSADBW: sums of differences of four bytes of `b` with four of `a` at eight places.
    SumsOfDifferences / 3: |a, b, imm| {
        let (a, b) = (to8(a), to8(b));
        let (from_a, from_b) = (usize::from(imm & 4), usize::from(imm & 3) * 4);
        of16(from_fn(|n| {
            (0..4)
                .map(|k| u16::from(a[from_a + n + k].abs_diff(b[from_b + k])))
                .sum()
        }))
    };
    /// PHMINPOSUW: the smallest word and its first place.
    Minimum16: |_a, b, _imm| {
        let v = to16(b);
        let least = (1..8).fold(0, |least, n| if v[n] < v[least] { n } else { least });
        [u64::from(v[least]) | (least as u64) << 16, 0]
    };
}

/// The MMX forms of lane operations, from the lane ones.
macro_rules! mmx {
    ($($name:ident: |$a:ident, $b:ident, $imm:ident| [$x:expr, $y:expr][$n:literal];)*) => {$(
        impl Mmx for $name {
            #[inline(always)]
            fn mm($a: u64, $b: u64, $imm: u8) -> u64 {
                Self::lane($x, $y, $imm)[$n]
            }
        }
    )*};
}

mmx! {
    UnpackLow8: |a, b, imm| [[a, 0], [b, 0]][0];
    UnpackLow16: |a, b, imm| [[a, 0], [b, 0]][0];
    UnpackLow32: |a, b, imm| [[a, 0], [b, 0]][0];
    UnpackHigh8: |a, b, imm| [[0, a], [0, b]][1];
    UnpackHigh16: |a, b, imm| [[0, a], [0, b]][1];
    UnpackHigh32: |a, b, imm| [[0, a], [0, b]][1];
    PackSigned8: |a, b, imm| [[a, b], [0; 2]][0];
    PackUnsigned8: |a, b, imm| [[a, b], [0; 2]][0];
    PackSigned16: |a, b, imm| [[a, b], [0; 2]][0];
    AddNeighbours16: |a, b, imm| [[a, b], [0; 2]][0];
    AddNeighbours32: |a, b, imm| [[a, b], [0; 2]][0];
    AddNeighboursSigned16: |a, b, imm| [[a, b], [0; 2]][0];
    SubNeighbours16: |a, b, imm| [[a, b], [0; 2]][0];
    SubNeighbours32: |a, b, imm| [[a, b], [0; 2]][0];
    SubNeighboursSigned16: |a, b, imm| [[a, b], [0; 2]][0];
    Shuffle8: |a, b, imm| [[a, 0], [b & 0x8787_8787_8787_8787, 0]][0];
    ShuffleLow16: |_a, b, imm| [[0; 2], [b, 0]][0];
}

impl Mmx for Align {
    fn mm(a: u64, b: u64, imm: u8) -> u64 {
        to128([b, a]).checked_shr(8 * u32::from(imm)).unwrap_or(0) as u64
    }
}

/// MOVDDUP of a legacy or VEX.128 form reads 64 bits only.
fn movddup(x: &mut Exec<'_>, i: &Insn) -> Done {
    let value: u64 = x.get_element(i, 1)?;
    x.set_xmm(i.ops[0], [value; 2]);
    Ok(())
}

fn movddup_vex(x: &mut Exec<'_>, i: &Insn) -> Done {
    let value: u64 = x.get_element(i, 1)?;
    x.set_xmm_clear(i.ops[0], [value; 2]);
    Ok(())
}

/// A blend by the sign bits of the elements of a third vector.
trait BlendBy {
    fn blend(a: Lane, b: Lane, mask: Lane) -> Lane;
}

struct BlendBy8;
impl BlendBy for BlendBy8 {
    fn blend(a: Lane, b: Lane, mask: Lane) -> Lane {
        let mask = to8(mask);
        of8(select(to8(a), to8(b), |n| mask[n] >> 7 != 0))
    }
}

struct BlendBy32;
impl BlendBy for BlendBy32 {
    fn blend(a: Lane, b: Lane, mask: Lane) -> Lane {
        let mask = to32(mask);
        of32(select(to32(a), to32(b), |n| mask[n] >> 31 != 0))
    }
}

struct BlendBy64;
impl BlendBy for BlendBy64 {
    fn blend(a: Lane, b: Lane, mask: Lane) -> Lane {
        select(a, b, |n| mask[n] >> 63 != 0)
    }
}

/// The legacy form: the mask is XMM0.
fn blend_by<O: BlendBy>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let b = x.get_sse(i, 1)?;
    let (a, mask) = (x.xmm(i.ops[0]), x.xmm(0));
    x.set_xmm(i.ops[0], O::blend(a, b, mask));
    Ok(())
}

fn blend_by128<O: BlendBy>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let b = x.get_xmm(i, 2)?;
    let (a, mask) = (x.xmm(i.ops[1]), x.xmm(i.ops[3]));
    x.set_xmm_clear(i.ops[0], O::blend(a, b, mask));
    Ok(())
}

fn blend_by256<O: BlendBy>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let [b0, b1] = split(x.get_ymm(i, 2)?);
    let ([a0, a1], [m0, m1]) = (split(x.ymm(i.ops[1])), split(x.ymm(i.ops[3])));
    x.set_ymm(i.ops[0], join(O::blend(a0, b0, m0), O::blend(a1, b1, m1)));
    Ok(())
}

/// VPERMQ, VPERMPD: across lanes.
fn permute_quads(x: &mut Exec<'_>, i: &Insn) -> Done {
    let b = x.get_ymm(i, 1)?;
    x.set_ymm(i.ops[0], from_fn(|n| b[two(i.imm as u8, n)]));
    Ok(())
}

/// VPERMD, VPERMPS: across lanes, places by the first source.
fn permute_doublewords(x: &mut Exec<'_>, i: &Insn) -> Done {
    let b = x.get_ymm(i, 2)?;
    let [p0, p1] = split(x.ymm(i.ops[1]));
    let pick = |p: u32| (b[p as usize >> 1 & 3] >> (32 * (p & 1))) as u32;
    x.set_ymm(
        i.ops[0],
        join(of32(to32(p0).map(pick)), of32(to32(p1).map(pick))),
    );
    Ok(())
}

/// VPERM2F128, VPERM2I128.
fn permute_lanes(x: &mut Exec<'_>, i: &Insn) -> Done {
    let [b0, b1] = split(x.get_ymm(i, 2)?);
    let [a0, a1] = split(x.ymm(i.ops[1]));
    let pick = |imm: u64| match imm & 8 {
        0 => [a0, a1, b0, b1][(imm & 3) as usize],
        _ => [0; 2],
    };
    x.set_ymm(i.ops[0], join(pick(i.imm), pick(i.imm >> 4)));
    Ok(())
}

/// A widening of the low elements: PMOVSX*, PMOVZX*.
trait Widen {
    /// How many times wider.
    const BY: usize;
    /// How many elements a result lane has.
    const COUNT: usize;
    /// Result of element numbers from `from` on in `v`.
    fn widen(v: Lane, from: usize) -> Lane;
}

macro_rules! widen {
    ($($name:ident: $to:ident, $of:ident, $by:literal, $count:literal, |$v:ident| $result:expr;)*) => {$(
        struct $name;
        impl Widen for $name {
            const BY: usize = $by;
            const COUNT: usize = $count;
            #[inline(always)]
            fn widen(v: Lane, from: usize) -> Lane {
                let v = $to(v);
                $of(from_fn(|n| {
                    let $v = v[from + n];
                    $result
                }))
            }
        }
    )*};
}

#[inline(always)]
fn of64(v: Lane) -> Lane {
    v
}

widen! {
    Signed8To16: to8, of16, 2, 8, |v| v as i8 as u16;
    Signed8To32: to8, of32, 4, 4, |v| v as i8 as u32;
    Signed8To64: to8, of64, 8, 2, |v| v as i8 as u64;
    Signed16To32: to16, of32, 2, 4, |v| v as i16 as u32;
    Signed16To64: to16, of64, 4, 2, |v| v as i16 as u64;
    Signed32To64: to32, of64, 2, 2, |v| v as i32 as u64;
    Unsigned8To16: to8, of16, 2, 8, |v| v.into();
    Unsigned8To32: to8, of32, 4, 4, |v| v.into();
    Unsigned8To64: to8, of64, 8, 2, |v| v.into();
    Unsigned16To32: to16, of32, 2, 4, |v| v.into();
    Unsigned16To64: to16, of64, 4, 2, |v| v.into();
    Unsigned32To64: to32, of64, 2, 2, |v| v.into();
}

/// The source of a widening: memory of the size that is needed, at any alignment.
#[inline(always)]
fn narrow(x: &mut Exec<'_>, i: &Insn, bytes: usize) -> Done<Lane> {
    Ok(match (i.ops[1], bytes) {
        (MEM, 2) => [x.read::<u16>(i.seg, x.ea(i))?.into(), 0],
        (MEM, 4) => [x.read::<u32>(i.seg, x.ea(i))?.into(), 0],
        (MEM, 8) => [x.read(i.seg, x.ea(i))?, 0],
        _ => x.get_xmm(i, 1)?,
    })
}

fn widen<O: Widen>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let v = narrow(x, i, 16 / O::BY)?;
    x.set_xmm(i.ops[0], O::widen(v, 0));
    Ok(())
}

fn widen128<O: Widen>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let v = narrow(x, i, 16 / O::BY)?;
    x.set_xmm_clear(i.ops[0], O::widen(v, 0));
    Ok(())
}

fn widen256<O: Widen>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let v = narrow(x, i, 32 / O::BY)?;
    x.set_ymm(i.ops[0], join(O::widen(v, 0), O::widen(v, O::COUNT)));
    Ok(())
}

/// PTEST, VTESTPS, VTESTPD: `MASK` picks the bits that count; ZF if `b` has none of `a`'s, CF if
/// `b` has none that `a` lacks.
#[inline(always)]
fn set_test<const Q: usize>(x: &mut Exec<'_>, a: [u64; Q], b: [u64; Q], mask: u64) {
    let both = (0..Q).fold(0, |all, n| all | b[n] & a[n] & mask);
    let lacking = (0..Q).fold(0, |all, n| all | b[n] & !a[n] & mask);
    let flag = |on: bool, bit: u64| if on { bit } else { 0 };
    let bits = flag(both == 0, rflags::ZF) | flag(lacking == 0, rflags::CF);
    x.flags.replace(rflags::ARITHMETIC, bits);
}

fn ptest(x: &mut Exec<'_>, i: &Insn) -> Done {
    let b = x.get_sse(i, 1)?;
    let a = x.xmm(i.ops[0]);
    set_test(x, a, b, !0);
    Ok(())
}

fn test128<const MASK: u64>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let b = x.get_xmm(i, 1)?;
    let a = x.xmm(i.ops[0]);
    set_test(x, a, b, MASK);
    Ok(())
}

fn test256<const MASK: u64>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let b = x.get_ymm(i, 1)?;
    let a = x.ymm(i.ops[0]);
    set_test(x, a, b, MASK);
    Ok(())
}

/// The sign bits of doublewords.
const SIGNS_32: u64 = 1 << 63 | 1 << 31;
/// The sign bit of a quadword.
const SIGN_64: u64 = 1 << 63;

pub(crate) const ROWS: &[Row] = &[
    Row::new(Code::Movddup_xmm_xmmm64, movddup).unit(Unit::Sse),
    Row::new(Code::VEX_Vmovddup_xmm_xmmm64, movddup_vex).unit(Unit::Avx),
    Row::new(
        Code::VEX_Vpermilps_xmm_xmmm128_imm8,
        vex128_unary::<Shuffle32>,
    )
    .unit(Unit::Avx),
    Row::new(
        Code::VEX_Vpermilps_ymm_ymmm256_imm8,
        vex256_unary::<Shuffle32>,
    )
    .unit(Unit::Avx),
    Row::new(
        Code::VEX_Vpermilpd_xmm_xmmm128_imm8,
        vex128_unary::<Permute64>,
    )
    .unit(Unit::Avx),
    Row::new(
        Code::VEX_Vpermilpd_ymm_ymmm256_imm8,
        vex256_unary::<Permute64>,
    )
    .unit(Unit::Avx),
    Row::new(Code::Punpcklbw_mm_mmm32, mmx_low::<UnpackLow8>).unit(Unit::Mmx),
    Row::new(Code::Punpcklbw_xmm_xmmm128, sse::<UnpackLow8>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpunpcklbw_xmm_xmm_xmmm128, vex128::<UnpackLow8>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpunpcklbw_ymm_ymm_ymmm256, vex256::<UnpackLow8>).unit(Unit::Avx),
    Row::new(Code::Punpcklwd_mm_mmm32, mmx_low::<UnpackLow16>).unit(Unit::Mmx),
    Row::new(Code::Punpcklwd_xmm_xmmm128, sse::<UnpackLow16>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpunpcklwd_xmm_xmm_xmmm128, vex128::<UnpackLow16>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpunpcklwd_ymm_ymm_ymmm256, vex256::<UnpackLow16>).unit(Unit::Avx),
    Row::new(Code::Punpckldq_mm_mmm32, mmx_low::<UnpackLow32>).unit(Unit::Mmx),
    Row::new(Code::Punpckldq_xmm_xmmm128, sse::<UnpackLow32>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpunpckldq_xmm_xmm_xmmm128, vex128::<UnpackLow32>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpunpckldq_ymm_ymm_ymmm256, vex256::<UnpackLow32>).unit(Unit::Avx),
    Row::new(Code::Punpcklqdq_xmm_xmmm128, sse::<UnpackLow64>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpunpcklqdq_xmm_xmm_xmmm128, vex128::<UnpackLow64>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpunpcklqdq_ymm_ymm_ymmm256, vex256::<UnpackLow64>).unit(Unit::Avx),
    Row::new(Code::Punpckhbw_mm_mmm64, mmx::<UnpackHigh8>).unit(Unit::Mmx),
    Row::new(Code::Punpckhbw_xmm_xmmm128, sse::<UnpackHigh8>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpunpckhbw_xmm_xmm_xmmm128, vex128::<UnpackHigh8>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpunpckhbw_ymm_ymm_ymmm256, vex256::<UnpackHigh8>).unit(Unit::Avx),
    Row::new(Code::Punpckhwd_mm_mmm64, mmx::<UnpackHigh16>).unit(Unit::Mmx),
    Row::new(Code::Punpckhwd_xmm_xmmm128, sse::<UnpackHigh16>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpunpckhwd_xmm_xmm_xmmm128, vex128::<UnpackHigh16>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpunpckhwd_ymm_ymm_ymmm256, vex256::<UnpackHigh16>).unit(Unit::Avx),
    Row::new(Code::Punpckhdq_mm_mmm64, mmx::<UnpackHigh32>).unit(Unit::Mmx),
    Row::new(Code::Punpckhdq_xmm_xmmm128, sse::<UnpackHigh32>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpunpckhdq_xmm_xmm_xmmm128, vex128::<UnpackHigh32>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpunpckhdq_ymm_ymm_ymmm256, vex256::<UnpackHigh32>).unit(Unit::Avx),
    Row::new(Code::Punpckhqdq_xmm_xmmm128, sse::<UnpackHigh64>).unit(Unit::Sse),
    Row::new(
        Code::VEX_Vpunpckhqdq_xmm_xmm_xmmm128,
        vex128::<UnpackHigh64>,
    )
    .unit(Unit::Avx),
    Row::new(
        Code::VEX_Vpunpckhqdq_ymm_ymm_ymmm256,
        vex256::<UnpackHigh64>,
    )
    .unit(Unit::Avx),
    Row::new(Code::Unpcklps_xmm_xmmm128, sse::<UnpackLow32>).unit(Unit::Sse),
    Row::new(Code::VEX_Vunpcklps_xmm_xmm_xmmm128, vex128::<UnpackLow32>).unit(Unit::Avx),
    Row::new(Code::VEX_Vunpcklps_ymm_ymm_ymmm256, vex256::<UnpackLow32>).unit(Unit::Avx),
    Row::new(Code::Unpcklpd_xmm_xmmm128, sse::<UnpackLow64>).unit(Unit::Sse),
    Row::new(Code::VEX_Vunpcklpd_xmm_xmm_xmmm128, vex128::<UnpackLow64>).unit(Unit::Avx),
    Row::new(Code::VEX_Vunpcklpd_ymm_ymm_ymmm256, vex256::<UnpackLow64>).unit(Unit::Avx),
    Row::new(Code::Unpckhps_xmm_xmmm128, sse::<UnpackHigh32>).unit(Unit::Sse),
    Row::new(Code::VEX_Vunpckhps_xmm_xmm_xmmm128, vex128::<UnpackHigh32>).unit(Unit::Avx),
    Row::new(Code::VEX_Vunpckhps_ymm_ymm_ymmm256, vex256::<UnpackHigh32>).unit(Unit::Avx),
    Row::new(Code::Unpckhpd_xmm_xmmm128, sse::<UnpackHigh64>).unit(Unit::Sse),
    Row::new(Code::VEX_Vunpckhpd_xmm_xmm_xmmm128, vex128::<UnpackHigh64>).unit(Unit::Avx),
    Row::new(Code::VEX_Vunpckhpd_ymm_ymm_ymmm256, vex256::<UnpackHigh64>).unit(Unit::Avx),
    Row::new(Code::Packsswb_mm_mmm64, mmx::<PackSigned8>).unit(Unit::Mmx),
    Row::new(Code::Packsswb_xmm_xmmm128, sse::<PackSigned8>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpacksswb_xmm_xmm_xmmm128, vex128::<PackSigned8>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpacksswb_ymm_ymm_ymmm256, vex256::<PackSigned8>).unit(Unit::Avx),
    Row::new(Code::Packuswb_mm_mmm64, mmx::<PackUnsigned8>).unit(Unit::Mmx),
    Row::new(Code::Packuswb_xmm_xmmm128, sse::<PackUnsigned8>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpackuswb_xmm_xmm_xmmm128, vex128::<PackUnsigned8>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpackuswb_ymm_ymm_ymmm256, vex256::<PackUnsigned8>).unit(Unit::Avx),
    Row::new(Code::Packssdw_mm_mmm64, mmx::<PackSigned16>).unit(Unit::Mmx),
    Row::new(Code::Packssdw_xmm_xmmm128, sse::<PackSigned16>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpackssdw_xmm_xmm_xmmm128, vex128::<PackSigned16>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpackssdw_ymm_ymm_ymmm256, vex256::<PackSigned16>).unit(Unit::Avx),
    Row::new(Code::Packusdw_xmm_xmmm128, sse::<PackUnsigned16>).unit(Unit::Sse),
    Row::new(
        Code::VEX_Vpackusdw_xmm_xmm_xmmm128,
        vex128::<PackUnsigned16>,
    )
    .unit(Unit::Avx),
    Row::new(
        Code::VEX_Vpackusdw_ymm_ymm_ymmm256,
        vex256::<PackUnsigned16>,
    )
    .unit(Unit::Avx),
    Row::new(Code::Pshufb_mm_mmm64, mmx::<Shuffle8>).unit(Unit::Mmx),
    Row::new(Code::Pshufb_xmm_xmmm128, sse::<Shuffle8>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpshufb_xmm_xmm_xmmm128, vex128::<Shuffle8>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpshufb_ymm_ymm_ymmm256, vex256::<Shuffle8>).unit(Unit::Avx),
    Row::new(Code::Shufps_xmm_xmmm128_imm8, sse::<ShufflePs>).unit(Unit::Sse),
    Row::new(Code::VEX_Vshufps_xmm_xmm_xmmm128_imm8, vex128::<ShufflePs>).unit(Unit::Avx),
    Row::new(Code::VEX_Vshufps_ymm_ymm_ymmm256_imm8, vex256::<ShufflePs>).unit(Unit::Avx),
    Row::new(Code::Shufpd_xmm_xmmm128_imm8, sse::<ShufflePd>).unit(Unit::Sse),
    Row::new(Code::VEX_Vshufpd_xmm_xmm_xmmm128_imm8, vex128::<ShufflePd>).unit(Unit::Avx),
    Row::new(Code::VEX_Vshufpd_ymm_ymm_ymmm256_imm8, vex256::<ShufflePd>).unit(Unit::Avx),
    Row::new(Code::Palignr_mm_mmm64_imm8, mmx::<Align>).unit(Unit::Mmx),
    Row::new(Code::Palignr_xmm_xmmm128_imm8, sse::<Align>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpalignr_xmm_xmm_xmmm128_imm8, vex128::<Align>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpalignr_ymm_ymm_ymmm256_imm8, vex256::<Align>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpermilps_xmm_xmm_xmmm128, vex128::<PermuteBy32>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpermilps_ymm_ymm_ymmm256, vex256::<PermuteBy32>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpermilpd_xmm_xmm_xmmm128, vex128::<PermuteBy64>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpermilpd_ymm_ymm_ymmm256, vex256::<PermuteBy64>).unit(Unit::Avx),
    Row::new(Code::Pblendw_xmm_xmmm128_imm8, sse::<Blend16>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpblendw_xmm_xmm_xmmm128_imm8, vex128::<Blend16>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpblendw_ymm_ymm_ymmm256_imm8, vex256::<Blend16>).unit(Unit::Avx),
    Row::new(Code::Blendps_xmm_xmmm128_imm8, sse::<Blend32>).unit(Unit::Sse),
    Row::new(Code::VEX_Vblendps_xmm_xmm_xmmm128_imm8, vex128::<Blend32>).unit(Unit::Avx),
    Row::new(Code::VEX_Vblendps_ymm_ymm_ymmm256_imm8, vex256::<Blend32>).unit(Unit::Avx),
    Row::new(Code::Blendpd_xmm_xmmm128_imm8, sse::<Blend64>).unit(Unit::Sse),
    Row::new(Code::VEX_Vblendpd_xmm_xmm_xmmm128_imm8, vex128::<Blend64>).unit(Unit::Avx),
    Row::new(Code::VEX_Vblendpd_ymm_ymm_ymmm256_imm8, vex256::<Blend64>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpblendd_xmm_xmm_xmmm128_imm8, vex128::<Blend32>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpblendd_ymm_ymm_ymmm256_imm8, vex256::<Blend32>).unit(Unit::Avx),
    Row::new(Code::Phaddw_mm_mmm64, mmx::<AddNeighbours16>).unit(Unit::Mmx),
    Row::new(Code::Phaddw_xmm_xmmm128, sse::<AddNeighbours16>).unit(Unit::Sse),
    Row::new(Code::VEX_Vphaddw_xmm_xmm_xmmm128, vex128::<AddNeighbours16>).unit(Unit::Avx),
    Row::new(Code::VEX_Vphaddw_ymm_ymm_ymmm256, vex256::<AddNeighbours16>).unit(Unit::Avx),
    Row::new(Code::Phaddd_mm_mmm64, mmx::<AddNeighbours32>).unit(Unit::Mmx),
    Row::new(Code::Phaddd_xmm_xmmm128, sse::<AddNeighbours32>).unit(Unit::Sse),
    Row::new(Code::VEX_Vphaddd_xmm_xmm_xmmm128, vex128::<AddNeighbours32>).unit(Unit::Avx),
    Row::new(Code::VEX_Vphaddd_ymm_ymm_ymmm256, vex256::<AddNeighbours32>).unit(Unit::Avx),
    Row::new(Code::Phaddsw_mm_mmm64, mmx::<AddNeighboursSigned16>).unit(Unit::Mmx),
    Row::new(Code::Phaddsw_xmm_xmmm128, sse::<AddNeighboursSigned16>).unit(Unit::Sse),
    Row::new(
        Code::VEX_Vphaddsw_xmm_xmm_xmmm128,
        vex128::<AddNeighboursSigned16>,
    )
    .unit(Unit::Avx),
    Row::new(
        Code::VEX_Vphaddsw_ymm_ymm_ymmm256,
        vex256::<AddNeighboursSigned16>,
    )
    .unit(Unit::Avx),
    Row::new(Code::Phsubw_mm_mmm64, mmx::<SubNeighbours16>).unit(Unit::Mmx),
    Row::new(Code::Phsubw_xmm_xmmm128, sse::<SubNeighbours16>).unit(Unit::Sse),
    Row::new(Code::VEX_Vphsubw_xmm_xmm_xmmm128, vex128::<SubNeighbours16>).unit(Unit::Avx),
    Row::new(Code::VEX_Vphsubw_ymm_ymm_ymmm256, vex256::<SubNeighbours16>).unit(Unit::Avx),
    Row::new(Code::Phsubd_mm_mmm64, mmx::<SubNeighbours32>).unit(Unit::Mmx),
    Row::new(Code::Phsubd_xmm_xmmm128, sse::<SubNeighbours32>).unit(Unit::Sse),
    Row::new(Code::VEX_Vphsubd_xmm_xmm_xmmm128, vex128::<SubNeighbours32>).unit(Unit::Avx),
    Row::new(Code::VEX_Vphsubd_ymm_ymm_ymmm256, vex256::<SubNeighbours32>).unit(Unit::Avx),
    Row::new(Code::Phsubsw_mm_mmm64, mmx::<SubNeighboursSigned16>).unit(Unit::Mmx),
    Row::new(Code::Phsubsw_xmm_xmmm128, sse::<SubNeighboursSigned16>).unit(Unit::Sse),
    Row::new(
        Code::VEX_Vphsubsw_xmm_xmm_xmmm128,
        vex128::<SubNeighboursSigned16>,
    )
    .unit(Unit::Avx),
    Row::new(
        Code::VEX_Vphsubsw_ymm_ymm_ymmm256,
        vex256::<SubNeighboursSigned16>,
    )
    .unit(Unit::Avx),
    Row::new(Code::Mpsadbw_xmm_xmmm128_imm8, sse::<SumsOfDifferences>).unit(Unit::Sse),
    Row::new(
        Code::VEX_Vmpsadbw_xmm_xmm_xmmm128_imm8,
        vex128::<SumsOfDifferences>,
    )
    .unit(Unit::Avx),
    Row::new(
        Code::VEX_Vmpsadbw_ymm_ymm_ymmm256_imm8,
        vex256::<SumsOfDifferences>,
    )
    .unit(Unit::Avx),
    Row::new(Code::Pshufd_xmm_xmmm128_imm8, sse::<Shuffle32>).unit(Unit::Sse),
    Row::new(
        Code::VEX_Vpshufd_xmm_xmmm128_imm8,
        vex128_unary::<Shuffle32>,
    )
    .unit(Unit::Avx),
    Row::new(
        Code::VEX_Vpshufd_ymm_ymmm256_imm8,
        vex256_unary::<Shuffle32>,
    )
    .unit(Unit::Avx),
    Row::new(Code::Pshuflw_xmm_xmmm128_imm8, sse::<ShuffleLow16>).unit(Unit::Sse),
    Row::new(
        Code::VEX_Vpshuflw_xmm_xmmm128_imm8,
        vex128_unary::<ShuffleLow16>,
    )
    .unit(Unit::Avx),
    Row::new(
        Code::VEX_Vpshuflw_ymm_ymmm256_imm8,
        vex256_unary::<ShuffleLow16>,
    )
    .unit(Unit::Avx),
    Row::new(Code::Pshufhw_xmm_xmmm128_imm8, sse::<ShuffleHigh16>).unit(Unit::Sse),
    Row::new(
        Code::VEX_Vpshufhw_xmm_xmmm128_imm8,
        vex128_unary::<ShuffleHigh16>,
    )
    .unit(Unit::Avx),
    Row::new(
        Code::VEX_Vpshufhw_ymm_ymmm256_imm8,
        vex256_unary::<ShuffleHigh16>,
    )
    .unit(Unit::Avx),
    Row::new(Code::Pshufw_mm_mmm64_imm8, mmx::<ShuffleLow16>).unit(Unit::Mmx),
    Row::new(
        Code::VEX_Vmovddup_ymm_ymmm256,
        vex256_unary::<DuplicateEven64>,
    )
    .unit(Unit::Avx),
    Row::new(Code::Movsldup_xmm_xmmm128, sse::<DuplicateEven32>).unit(Unit::Sse),
    Row::new(
        Code::VEX_Vmovsldup_xmm_xmmm128,
        vex128_unary::<DuplicateEven32>,
    )
    .unit(Unit::Avx),
    Row::new(
        Code::VEX_Vmovsldup_ymm_ymmm256,
        vex256_unary::<DuplicateEven32>,
    )
    .unit(Unit::Avx),
    Row::new(Code::Movshdup_xmm_xmmm128, sse::<DuplicateOdd32>).unit(Unit::Sse),
    Row::new(
        Code::VEX_Vmovshdup_xmm_xmmm128,
        vex128_unary::<DuplicateOdd32>,
    )
    .unit(Unit::Avx),
    Row::new(
        Code::VEX_Vmovshdup_ymm_ymmm256,
        vex256_unary::<DuplicateOdd32>,
    )
    .unit(Unit::Avx),
    Row::new(Code::Phminposuw_xmm_xmmm128, sse::<Minimum16>).unit(Unit::Sse),
    Row::new(Code::VEX_Vphminposuw_xmm_xmmm128, vex128_unary::<Minimum16>).unit(Unit::Avx),
    Row::new(Code::Pblendvb_xmm_xmmm128, blend_by::<BlendBy8>).unit(Unit::Sse),
    Row::new(
        Code::VEX_Vpblendvb_xmm_xmm_xmmm128_xmm,
        blend_by128::<BlendBy8>,
    )
    .unit(Unit::Avx),
    Row::new(
        Code::VEX_Vpblendvb_ymm_ymm_ymmm256_ymm,
        blend_by256::<BlendBy8>,
    )
    .unit(Unit::Avx),
    Row::new(Code::Blendvps_xmm_xmmm128, blend_by::<BlendBy32>).unit(Unit::Sse),
    Row::new(
        Code::VEX_Vblendvps_xmm_xmm_xmmm128_xmm,
        blend_by128::<BlendBy32>,
    )
    .unit(Unit::Avx),
    Row::new(
        Code::VEX_Vblendvps_ymm_ymm_ymmm256_ymm,
        blend_by256::<BlendBy32>,
    )
    .unit(Unit::Avx),
    Row::new(Code::Blendvpd_xmm_xmmm128, blend_by::<BlendBy64>).unit(Unit::Sse),
    Row::new(
        Code::VEX_Vblendvpd_xmm_xmm_xmmm128_xmm,
        blend_by128::<BlendBy64>,
    )
    .unit(Unit::Avx),
    Row::new(
        Code::VEX_Vblendvpd_ymm_ymm_ymmm256_ymm,
        blend_by256::<BlendBy64>,
    )
    .unit(Unit::Avx),
    Row::new(Code::VEX_Vpermq_ymm_ymmm256_imm8, permute_quads).unit(Unit::Avx),
    Row::new(Code::VEX_Vpermpd_ymm_ymmm256_imm8, permute_quads).unit(Unit::Avx),
    Row::new(Code::VEX_Vpermd_ymm_ymm_ymmm256, permute_doublewords).unit(Unit::Avx),
    Row::new(Code::VEX_Vpermps_ymm_ymm_ymmm256, permute_doublewords).unit(Unit::Avx),
    Row::new(Code::VEX_Vperm2f128_ymm_ymm_ymmm256_imm8, permute_lanes).unit(Unit::Avx),
    Row::new(Code::VEX_Vperm2i128_ymm_ymm_ymmm256_imm8, permute_lanes).unit(Unit::Avx),
    Row::new(Code::Pmovsxbw_xmm_xmmm64, widen::<Signed8To16>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpmovsxbw_xmm_xmmm64, widen128::<Signed8To16>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpmovsxbw_ymm_xmmm128, widen256::<Signed8To16>).unit(Unit::Avx),
    Row::new(Code::Pmovsxbd_xmm_xmmm32, widen::<Signed8To32>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpmovsxbd_xmm_xmmm32, widen128::<Signed8To32>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpmovsxbd_ymm_xmmm64, widen256::<Signed8To32>).unit(Unit::Avx),
    Row::new(Code::Pmovsxbq_xmm_xmmm16, widen::<Signed8To64>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpmovsxbq_xmm_xmmm16, widen128::<Signed8To64>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpmovsxbq_ymm_xmmm32, widen256::<Signed8To64>).unit(Unit::Avx),
    Row::new(Code::Pmovsxwd_xmm_xmmm64, widen::<Signed16To32>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpmovsxwd_xmm_xmmm64, widen128::<Signed16To32>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpmovsxwd_ymm_xmmm128, widen256::<Signed16To32>).unit(Unit::Avx),
    Row::new(Code::Pmovsxwq_xmm_xmmm32, widen::<Signed16To64>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpmovsxwq_xmm_xmmm32, widen128::<Signed16To64>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpmovsxwq_ymm_xmmm64, widen256::<Signed16To64>).unit(Unit::Avx),
    Row::new(Code::Pmovsxdq_xmm_xmmm64, widen::<Signed32To64>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpmovsxdq_xmm_xmmm64, widen128::<Signed32To64>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpmovsxdq_ymm_xmmm128, widen256::<Signed32To64>).unit(Unit::Avx),
    Row::new(Code::Pmovzxbw_xmm_xmmm64, widen::<Unsigned8To16>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpmovzxbw_xmm_xmmm64, widen128::<Unsigned8To16>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpmovzxbw_ymm_xmmm128, widen256::<Unsigned8To16>).unit(Unit::Avx),
    Row::new(Code::Pmovzxbd_xmm_xmmm32, widen::<Unsigned8To32>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpmovzxbd_xmm_xmmm32, widen128::<Unsigned8To32>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpmovzxbd_ymm_xmmm64, widen256::<Unsigned8To32>).unit(Unit::Avx),
    Row::new(Code::Pmovzxbq_xmm_xmmm16, widen::<Unsigned8To64>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpmovzxbq_xmm_xmmm16, widen128::<Unsigned8To64>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpmovzxbq_ymm_xmmm32, widen256::<Unsigned8To64>).unit(Unit::Avx),
    Row::new(Code::Pmovzxwd_xmm_xmmm64, widen::<Unsigned16To32>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpmovzxwd_xmm_xmmm64, widen128::<Unsigned16To32>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpmovzxwd_ymm_xmmm128, widen256::<Unsigned16To32>).unit(Unit::Avx),
    Row::new(Code::Pmovzxwq_xmm_xmmm32, widen::<Unsigned16To64>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpmovzxwq_xmm_xmmm32, widen128::<Unsigned16To64>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpmovzxwq_ymm_xmmm64, widen256::<Unsigned16To64>).unit(Unit::Avx),
    Row::new(Code::Pmovzxdq_xmm_xmmm64, widen::<Unsigned32To64>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpmovzxdq_xmm_xmmm64, widen128::<Unsigned32To64>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpmovzxdq_ymm_xmmm128, widen256::<Unsigned32To64>).unit(Unit::Avx),
    Row::new(Code::Ptest_xmm_xmmm128, ptest).unit(Unit::Sse),
    Row::new(Code::VEX_Vptest_xmm_xmmm128, test128::<{ !0 }>).unit(Unit::Avx),
    Row::new(Code::VEX_Vptest_ymm_ymmm256, test256::<{ !0 }>).unit(Unit::Avx),
    Row::new(Code::VEX_Vtestps_xmm_xmmm128, test128::<SIGNS_32>).unit(Unit::Avx),
    Row::new(Code::VEX_Vtestps_ymm_ymmm256, test256::<SIGNS_32>).unit(Unit::Avx),
    Row::new(Code::VEX_Vtestpd_xmm_xmmm128, test128::<SIGN_64>).unit(Unit::Avx),
    Row::new(Code::VEX_Vtestpd_ymm_ymmm256, test256::<SIGN_64>).unit(Unit::Avx),
];
