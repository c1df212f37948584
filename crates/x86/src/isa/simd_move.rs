//! Vector data movement (SDM volume 2: MOVAPS, MOVUPS, MOVDQA, MOVDQU, LDDQU, MOVNT*, MOVSS,
//! MOVSD, MOVLPS, MOVHPS, MOVHLPS, MOVLHPS, MOVD, MOVQ, MOVQ2DQ, MOVDQ2Q, MOVMSKPS, PMOVMSKB,
//! PEXTR*, PINSR*, EXTRACTPS, INSERTPS, VBROADCAST*, VPBROADCAST*, VINSERT*128, VEXTRACT*128,
//! EMMS, VZEROUPPER, VZEROALL). Those under a mask and the gathers are in `simd_masked`.
//!
//! Non-temporal moves are ordinary ones: guest memory is strongly ordered here.

use super::simd::*;
use super::vector::Lane;
use crate::exec::Exec;
use crate::insn::{Insn, MEM};
use crate::table::{Row, Unit};
use crate::trap::Done;
use core::array::from_fn;
use iced_x86::Code;
use mem::Word;

/// Whole registers. `ALIGNED` raises #GP for a misaligned memory operand.
fn load<const ALIGNED: bool>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let value = if ALIGNED {
        x.get_sse(i, 1)?
    } else {
        x.get_xmm(i, 1)?
    };
    x.set_xmm(i.ops[0], value);
    Ok(())
}

fn load128<const ALIGNED: bool>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let value = if ALIGNED {
        x.get_sse(i, 1)?
    } else {
        x.get_xmm(i, 1)?
    };
    x.set_xmm_clear(i.ops[0], value);
    Ok(())
}

fn load256<const ALIGNED: bool>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let value = match i.ops[1] {
        MEM => x.read_quads(i.seg, x.ea(i), ALIGNED)?,
        n => x.ymm(n),
    };
    x.set_ymm(i.ops[0], value);
    Ok(())
}

fn store<const ALIGNED: bool>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let value = x.xmm(i.ops[1]);
    match i.ops[0] {
        MEM => return x.write_quads(i.seg, x.ea(i), ALIGNED, value),
        n => x.set_xmm(n, value),
    }
    Ok(())
}

fn store128<const ALIGNED: bool>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let value = x.xmm(i.ops[1]);
    match i.ops[0] {
        MEM => return x.write_quads(i.seg, x.ea(i), ALIGNED, value),
        n => x.set_xmm_clear(n, value),
    }
    Ok(())
}

fn store256<const ALIGNED: bool>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let value = x.ymm(i.ops[1]);
    match i.ops[0] {
        MEM => return x.write_quads(i.seg, x.ea(i), ALIGNED, value),
        n => x.set_ymm(n, value),
    }
    Ok(())
}

/// MOVSS and MOVSD to a register: from memory the rest is cleared, from a register it stays.
fn load_scalar<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let value: T = x.get_element(i, 1)?;
    match i.is_mem(1) {
        true => x.set_xmm(i.ops[0], [value.to_u64(), 0]),
        false => x.set_element(i.ops[0], value),
    }
    Ok(())
}

/// MOVSS and MOVSD to memory, or the register form with the operands the other way round.
fn store_scalar<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let value = T::from_u64(x.xmm(i.ops[1])[0]);
    match i.ops[0] {
        MEM => return x.write(i.seg, x.ea(i), value),
        n => x.set_element(n, value),
    }
    Ok(())
}

/// The low element from memory or a register, the rest cleared: MOVQ, VMOVSS, VMOVSD.
fn load_low<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let value: T = x.get_element(i, 1)?;
    x.set_xmm(i.ops[0], [value.to_u64(), 0]);
    Ok(())
}

fn load_low_vex<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let value: T = x.get_element(i, 1)?;
    x.set_xmm_clear(i.ops[0], [value.to_u64(), 0]);
    Ok(())
}

/// VMOVSS and VMOVSD between registers.
fn merge_scalar<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let (value, from) = (T::from_u64(x.xmm(i.ops[2])[0]), x.xmm(i.ops[1]));
    x.set_xmm_clear(i.ops[0], from);
    x.set_element(i.ops[0], value);
    Ok(())
}

/// MOVQ xmm/m64, xmm: a register destination has its upper half cleared.
fn store_low(x: &mut Exec<'_>, i: &Insn) -> Done {
    let [low, _] = x.xmm(i.ops[1]);
    match i.ops[0] {
        MEM => return x.write(i.seg, x.ea(i), low),
        n => x.set_xmm(n, [low, 0]),
    }
    Ok(())
}

fn store_low_vex(x: &mut Exec<'_>, i: &Insn) -> Done {
    let [low, _] = x.xmm(i.ops[1]);
    match i.ops[0] {
        MEM => return x.write(i.seg, x.ea(i), low),
        n => x.set_xmm_clear(n, [low, 0]),
    }
    Ok(())
}

/// MOVHPS, MOVHPD to memory.
fn store_high(x: &mut Exec<'_>, i: &Insn) -> Done {
    let [_, high] = x.xmm(i.ops[1]);
    x.write(i.seg, x.ea(i), high)
}

/// Which halves a move of halves puts together, from destination (or VEX first source) and source.
trait Halves {
    fn halves(a: Lane, b: Lane) -> Lane;
}

macro_rules! halves {
    ($($name:ident: |$a:ident, $b:ident| $result:expr;)*) => {$(
        struct $name;
        impl Halves for $name {
            #[inline(always)]
            fn halves($a: Lane, $b: Lane) -> Lane {
                $result
            }
        }
    )*};
}

halves! {
    HighToLow: |a, b| [b[1], a[1]];
    Low: |a, b| [b[0], a[1]];
    LowToHigh: |a, b| [a[0], b[0]];
}

fn get_half(x: &mut Exec<'_>, i: &Insn, k: usize) -> Done<Lane> {
    match i.ops[k] {
        MEM => Ok([x.read(i.seg, x.ea(i))?, 0]),
        n => Ok(x.xmm(n)),
    }
}

fn move_half<O: Halves>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let b = get_half(x, i, 1)?;
    let a = x.xmm(i.ops[0]);
    x.set_xmm(i.ops[0], O::halves(a, b));
    Ok(())
}

fn move_half_vex<O: Halves>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let b = get_half(x, i, 2)?;
    let a = x.xmm(i.ops[1]);
    x.set_xmm_clear(i.ops[0], O::halves(a, b));
    Ok(())
}

/// MOVD and MOVQ from a general register or memory.
fn from_general<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let value: T = x.get(i, 1)?;
    x.set_xmm(i.ops[0], [value.to_u64(), 0]);
    Ok(())
}

fn from_general_vex<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let value: T = x.get(i, 1)?;
    x.set_xmm_clear(i.ops[0], [value.to_u64(), 0]);
    Ok(())
}

/// MOVD and MOVQ to a general register or memory.
fn to_general<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let value = T::from_u64(x.xmm(i.ops[1])[0]);
    x.set(i, 0, value)
}

fn mmx_from_general<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    if x.x87_frozen()? {
        return Ok(());
    }
    let value: T = x.get(i, 1)?;
    x.enter_mmx();
    x.set_mm(i.ops[0], value.to_u64());
    Ok(())
}

fn mmx_to_general<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    if x.x87_frozen()? {
        return Ok(());
    }
    x.before_mmx_store();
    x.set(i, 0, T::from_u64(x.mm(i.ops[1])))?;
    x.enter_mmx();
    Ok(())
}

fn mmx_load(x: &mut Exec<'_>, i: &Insn) -> Done {
    if x.x87_frozen()? {
        return Ok(());
    }
    let value = x.get_mm(i, 1)?;
    x.enter_mmx();
    x.set_mm(i.ops[0], value);
    Ok(())
}

fn mmx_store(x: &mut Exec<'_>, i: &Insn) -> Done {
    if x.x87_frozen()? {
        return Ok(());
    }
    let value = x.mm(i.ops[1]);
    if i.is_mem(0) {
        x.before_mmx_store();
        x.write(i.seg, x.ea(i), value)?;
        x.enter_mmx();
    } else {
        x.enter_mmx();
        x.set_mm(i.ops[0], value);
    }
    Ok(())
}

fn movq2dq(x: &mut Exec<'_>, i: &Insn) -> Done {
    if x.x87_frozen()? {
        return Ok(());
    }
    x.enter_mmx();
    let value = x.mm(i.ops[1]);
    x.set_xmm(i.ops[0], [value, 0]);
    Ok(())
}

fn movdq2q(x: &mut Exec<'_>, i: &Insn) -> Done {
    if x.x87_frozen()? {
        return Ok(());
    }
    x.enter_mmx();
    let [low, _] = x.xmm(i.ops[1]);
    x.set_mm(i.ops[0], low);
    Ok(())
}

fn emms(x: &mut Exec<'_>, _: &Insn) -> Done {
    if x.x87_frozen()? {
        return Ok(());
    }
    x.enter_mmx();
    x.s.x87.valid = 0;
    Ok(())
}

/// The sign bits of the 8 bytes of `w`.
#[inline(always)]
fn signs8(w: u64) -> u64 {
    // Bit 7 + 8k goes to bit 56 + k; no two partial products meet.
    (w & 0x8080_8080_8080_8080).wrapping_mul(0x0002_0408_1020_4081) >> 56
}

/// The sign bits of the doublewords of `w`.
#[inline(always)]
fn signs32(w: u64) -> u64 {
    w >> 31 & 1 | w >> 62 & 2
}

fn pmovmskb_mm(x: &mut Exec<'_>, i: &Insn) -> Done {
    if x.x87_frozen()? {
        return Ok(());
    }
    x.enter_mmx();
    let mask = signs8(x.mm(i.ops[1]));
    x.set_reg(i.ops[0], mask);
    Ok(())
}

/// PMOVMSKB, MOVMSKPS, MOVMSKPD: the upper bits of the general register are cleared whatever its
/// size.
fn pmovmskb(x: &mut Exec<'_>, i: &Insn) -> Done {
    let [a, b] = x.xmm(i.ops[1]).map(signs8);
    x.set_reg(i.ops[0], a | b << 8);
    Ok(())
}

fn pmovmskb_ymm(x: &mut Exec<'_>, i: &Insn) -> Done {
    let [a, b, c, d] = x.ymm(i.ops[1]).map(signs8);
    x.set_reg(i.ops[0], a | b << 8 | c << 16 | d << 24);
    Ok(())
}

fn movmskps(x: &mut Exec<'_>, i: &Insn) -> Done {
    let [a, b] = x.xmm(i.ops[1]).map(signs32);
    x.set_reg(i.ops[0], a | b << 2);
    Ok(())
}

fn movmskps_ymm(x: &mut Exec<'_>, i: &Insn) -> Done {
    let [a, b, c, d] = x.ymm(i.ops[1]).map(signs32);
    x.set_reg(i.ops[0], a | b << 2 | c << 4 | d << 6);
    Ok(())
}

fn movmskpd(x: &mut Exec<'_>, i: &Insn) -> Done {
    let [a, b] = x.xmm(i.ops[1]);
    x.set_reg(i.ops[0], a >> 63 | b >> 63 << 1);
    Ok(())
}

fn movmskpd_ymm(x: &mut Exec<'_>, i: &Insn) -> Done {
    let [a, b, c, d] = x.ymm(i.ops[1]);
    x.set_reg(
        i.ops[0],
        a >> 63 | b >> 63 << 1 | c >> 63 << 2 | d >> 63 << 3,
    );
    Ok(())
}

/// Element number `imm` (modulo their count) of size `T`.
#[inline(always)]
fn element<T: Word>(v: Lane, imm: u64) -> T {
    T::from_u64((to128(v) >> (8 * T::SIZE as u64 * imm % 128)) as u64)
}

#[inline(always)]
fn with_element<T: Word>(v: Lane, imm: u64, value: T) -> Lane {
    let shift = 8 * T::SIZE as u64 * imm % 128;
    let mask = u128::from(u64::MAX >> (64 - 8 * T::SIZE)) << shift;
    of128(to128(v) & !mask | u128::from(value.to_u64()) << shift)
}

/// PEXTR*, EXTRACTPS: to memory, or zero-extended to a general register of any size.
fn extract<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let value: T = element(x.xmm(i.ops[1]), i.imm & 0xff);
    match i.ops[0] {
        MEM => x.write(i.seg, x.ea(i), value),
        n => {
            x.set_reg(n, value.to_u64());
            Ok(())
        }
    }
}

fn pextrw_mm(x: &mut Exec<'_>, i: &Insn) -> Done {
    if x.x87_frozen()? {
        return Ok(());
    }
    x.enter_mmx();
    let value: u16 = element([x.mm(i.ops[1]), 0], i.imm & 3);
    x.set_reg(i.ops[0], u64::from(value));
    Ok(())
}

fn insert<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let value: T = x.get(i, 1)?;
    let a = x.xmm(i.ops[0]);
    x.set_xmm(i.ops[0], with_element(a, i.imm & 0xff, value));
    Ok(())
}

fn insert_vex<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let value: T = x.get(i, 2)?;
    let a = x.xmm(i.ops[1]);
    x.set_xmm_clear(i.ops[0], with_element(a, i.imm & 0xff, value));
    Ok(())
}

fn pinsrw_mm(x: &mut Exec<'_>, i: &Insn) -> Done {
    if x.x87_frozen()? {
        return Ok(());
    }
    let value: u16 = x.get(i, 1)?;
    x.enter_mmx();
    let a = x.mm(i.ops[0]);
    x.set_mm(i.ops[0], with_element([a, 0], i.imm & 3, value)[0]);
    Ok(())
}

/// INSERTPS: the element that operand `k` gives, and its place and the cleared ones by immediate.
fn inserted(x: &mut Exec<'_>, i: &Insn, a: Lane, k: usize) -> Done<Lane> {
    let imm = i.imm & 0xff;
    let value: u32 = match i.ops[k] {
        MEM => x.read(i.seg, x.ea(i))?,
        n => element(x.xmm(n), imm >> 6),
    };
    let all = to32(with_element(a, imm >> 4 & 3, value));
    Ok(of32(from_fn(
        |n| if imm >> n & 1 != 0 { 0 } else { all[n] },
    )))
}

fn insertps(x: &mut Exec<'_>, i: &Insn) -> Done {
    let a = x.xmm(i.ops[0]);
    let value = inserted(x, i, a, 1)?;
    x.set_xmm(i.ops[0], value);
    Ok(())
}

fn insertps_vex(x: &mut Exec<'_>, i: &Insn) -> Done {
    let a = x.xmm(i.ops[1]);
    let value = inserted(x, i, a, 2)?;
    x.set_xmm_clear(i.ops[0], value);
    Ok(())
}

/// `value` in every element of a quadword.
#[inline(always)]
fn replicate<T: Word>(value: T) -> u64 {
    value.to_u64() * (u64::MAX / (u64::MAX >> (64 - 8 * T::SIZE)))
}

fn broadcast128<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let value: T = x.get_element(i, 1)?;
    x.set_xmm_clear(i.ops[0], [replicate(value); 2]);
    Ok(())
}

fn broadcast256<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let value: T = x.get_element(i, 1)?;
    x.set_ymm(i.ops[0], [replicate(value); 4]);
    Ok(())
}

fn broadcast_lane(x: &mut Exec<'_>, i: &Insn) -> Done {
    let value = x.get_xmm(i, 1)?;
    x.set_ymm(i.ops[0], join(value, value));
    Ok(())
}

fn insert_lane(x: &mut Exec<'_>, i: &Insn) -> Done {
    let value = x.get_xmm(i, 2)?;
    let [low, high] = split(x.ymm(i.ops[1]));
    x.set_ymm(
        i.ops[0],
        match i.imm & 1 {
            0 => join(value, high),
            _ => join(low, value),
        },
    );
    Ok(())
}

fn extract_lane(x: &mut Exec<'_>, i: &Insn) -> Done {
    let value = split(x.ymm(i.ops[1]))[(i.imm & 1) as usize];
    match i.ops[0] {
        MEM => return x.write_quads(i.seg, x.ea(i), false, value),
        n => x.set_xmm_clear(n, value),
    }
    Ok(())
}

/// How many vector registers VZEROUPPER and VZEROALL reach.
fn reachable(x: &Exec<'_>) -> usize {
    if x.is_64bit() { 16 } else { 8 }
}

fn vzeroupper(x: &mut Exec<'_>, _: &Insn) -> Done {
    let count = reachable(x);
    x.s.vector[..count].iter_mut().for_each(|v| v[2..].fill(0));
    Ok(())
}

fn vzeroall(x: &mut Exec<'_>, _: &Insn) -> Done {
    let count = reachable(x);
    x.s.vector[..count].fill([0; 4]);
    Ok(())
}

pub(crate) const ROWS: &[Row] = &[
    Row::new(Code::Movaps_xmm_xmmm128, load::<true>).unit(Unit::Sse),
    Row::new(Code::Movaps_xmmm128_xmm, store::<true>).unit(Unit::Sse),
    Row::new(Code::VEX_Vmovaps_xmm_xmmm128, load128::<true>).unit(Unit::Avx),
    Row::new(Code::VEX_Vmovaps_xmmm128_xmm, store128::<true>).unit(Unit::Avx),
    Row::new(Code::VEX_Vmovaps_ymm_ymmm256, load256::<true>).unit(Unit::Avx),
    Row::new(Code::VEX_Vmovaps_ymmm256_ymm, store256::<true>).unit(Unit::Avx),
    Row::new(Code::Movapd_xmm_xmmm128, load::<true>).unit(Unit::Sse),
    Row::new(Code::Movapd_xmmm128_xmm, store::<true>).unit(Unit::Sse),
    Row::new(Code::VEX_Vmovapd_xmm_xmmm128, load128::<true>).unit(Unit::Avx),
    Row::new(Code::VEX_Vmovapd_xmmm128_xmm, store128::<true>).unit(Unit::Avx),
    Row::new(Code::VEX_Vmovapd_ymm_ymmm256, load256::<true>).unit(Unit::Avx),
    Row::new(Code::VEX_Vmovapd_ymmm256_ymm, store256::<true>).unit(Unit::Avx),
    Row::new(Code::Movdqa_xmm_xmmm128, load::<true>).unit(Unit::Sse),
    Row::new(Code::Movdqa_xmmm128_xmm, store::<true>).unit(Unit::Sse),
    Row::new(Code::VEX_Vmovdqa_xmm_xmmm128, load128::<true>).unit(Unit::Avx),
    Row::new(Code::VEX_Vmovdqa_xmmm128_xmm, store128::<true>).unit(Unit::Avx),
    Row::new(Code::VEX_Vmovdqa_ymm_ymmm256, load256::<true>).unit(Unit::Avx),
    Row::new(Code::VEX_Vmovdqa_ymmm256_ymm, store256::<true>).unit(Unit::Avx),
    Row::new(Code::Movups_xmm_xmmm128, load::<false>).unit(Unit::Sse),
    Row::new(Code::Movups_xmmm128_xmm, store::<false>).unit(Unit::Sse),
    Row::new(Code::VEX_Vmovups_xmm_xmmm128, load128::<false>).unit(Unit::Avx),
    Row::new(Code::VEX_Vmovups_xmmm128_xmm, store128::<false>).unit(Unit::Avx),
    Row::new(Code::VEX_Vmovups_ymm_ymmm256, load256::<false>).unit(Unit::Avx),
    Row::new(Code::VEX_Vmovups_ymmm256_ymm, store256::<false>).unit(Unit::Avx),
    Row::new(Code::Movupd_xmm_xmmm128, load::<false>).unit(Unit::Sse),
    Row::new(Code::Movupd_xmmm128_xmm, store::<false>).unit(Unit::Sse),
    Row::new(Code::VEX_Vmovupd_xmm_xmmm128, load128::<false>).unit(Unit::Avx),
    Row::new(Code::VEX_Vmovupd_xmmm128_xmm, store128::<false>).unit(Unit::Avx),
    Row::new(Code::VEX_Vmovupd_ymm_ymmm256, load256::<false>).unit(Unit::Avx),
    Row::new(Code::VEX_Vmovupd_ymmm256_ymm, store256::<false>).unit(Unit::Avx),
    Row::new(Code::Movdqu_xmm_xmmm128, load::<false>).unit(Unit::Sse),
    Row::new(Code::Movdqu_xmmm128_xmm, store::<false>).unit(Unit::Sse),
    Row::new(Code::VEX_Vmovdqu_xmm_xmmm128, load128::<false>).unit(Unit::Avx),
    Row::new(Code::VEX_Vmovdqu_xmmm128_xmm, store128::<false>).unit(Unit::Avx),
    Row::new(Code::VEX_Vmovdqu_ymm_ymmm256, load256::<false>).unit(Unit::Avx),
    Row::new(Code::VEX_Vmovdqu_ymmm256_ymm, store256::<false>).unit(Unit::Avx),
    Row::new(Code::Lddqu_xmm_m128, load::<false>).unit(Unit::Sse),
    Row::new(Code::VEX_Vlddqu_xmm_m128, load128::<false>).unit(Unit::Avx),
    Row::new(Code::VEX_Vlddqu_ymm_m256, load256::<false>).unit(Unit::Avx),
    Row::new(Code::Movntdqa_xmm_m128, load::<true>).unit(Unit::Sse),
    Row::new(Code::VEX_Vmovntdqa_xmm_m128, load128::<true>).unit(Unit::Avx),
    Row::new(Code::VEX_Vmovntdqa_ymm_m256, load256::<true>).unit(Unit::Avx),
    Row::new(Code::Movntps_m128_xmm, store::<true>).unit(Unit::Sse),
    Row::new(Code::VEX_Vmovntps_m128_xmm, store128::<true>).unit(Unit::Avx),
    Row::new(Code::VEX_Vmovntps_m256_ymm, store256::<true>).unit(Unit::Avx),
    Row::new(Code::Movntpd_m128_xmm, store::<true>).unit(Unit::Sse),
    Row::new(Code::VEX_Vmovntpd_m128_xmm, store128::<true>).unit(Unit::Avx),
    Row::new(Code::VEX_Vmovntpd_m256_ymm, store256::<true>).unit(Unit::Avx),
    Row::new(Code::Movntdq_m128_xmm, store::<true>).unit(Unit::Sse),
    Row::new(Code::VEX_Vmovntdq_m128_xmm, store128::<true>).unit(Unit::Avx),
    Row::new(Code::VEX_Vmovntdq_m256_ymm, store256::<true>).unit(Unit::Avx),
    Row::new(Code::Movss_xmm_xmmm32, load_scalar::<u32>).unit(Unit::Sse),
    Row::new(Code::Movss_xmmm32_xmm, store_scalar::<u32>).unit(Unit::Sse),
    Row::new(Code::VEX_Vmovss_xmm_xmm_xmm, merge_scalar::<u32>).unit(Unit::Avx),
    Row::new(Code::VEX_Vmovss_xmm_xmm_xmm_0F11, merge_scalar::<u32>).unit(Unit::Avx),
    Row::new(Code::VEX_Vmovss_xmm_m32, load_low_vex::<u32>).unit(Unit::Avx),
    Row::new(Code::VEX_Vmovss_m32_xmm, store_scalar::<u32>).unit(Unit::Avx),
    Row::new(Code::Movsd_xmm_xmmm64, load_scalar::<u64>).unit(Unit::Sse),
    Row::new(Code::Movsd_xmmm64_xmm, store_scalar::<u64>).unit(Unit::Sse),
    Row::new(Code::VEX_Vmovsd_xmm_xmm_xmm, merge_scalar::<u64>).unit(Unit::Avx),
    Row::new(Code::VEX_Vmovsd_xmm_xmm_xmm_0F11, merge_scalar::<u64>).unit(Unit::Avx),
    Row::new(Code::VEX_Vmovsd_xmm_m64, load_low_vex::<u64>).unit(Unit::Avx),
    Row::new(Code::VEX_Vmovsd_m64_xmm, store_scalar::<u64>).unit(Unit::Avx),
    Row::new(Code::Movq_xmm_xmmm64, load_low::<u64>).unit(Unit::Sse),
    Row::new(Code::VEX_Vmovq_xmm_xmmm64, load_low_vex::<u64>).unit(Unit::Avx),
    Row::new(Code::Movq_xmmm64_xmm, store_low).unit(Unit::Sse),
    Row::new(Code::VEX_Vmovq_xmmm64_xmm, store_low_vex).unit(Unit::Avx),
    Row::new(Code::Movhlps_xmm_xmm, move_half::<HighToLow>).unit(Unit::Sse),
    Row::new(Code::VEX_Vmovhlps_xmm_xmm_xmm, move_half_vex::<HighToLow>).unit(Unit::Avx),
    Row::new(Code::Movlhps_xmm_xmm, move_half::<LowToHigh>).unit(Unit::Sse),
    Row::new(Code::VEX_Vmovlhps_xmm_xmm_xmm, move_half_vex::<LowToHigh>).unit(Unit::Avx),
    Row::new(Code::Movlps_xmm_m64, move_half::<Low>).unit(Unit::Sse),
    Row::new(Code::VEX_Vmovlps_xmm_xmm_m64, move_half_vex::<Low>).unit(Unit::Avx),
    Row::new(Code::Movhps_xmm_m64, move_half::<LowToHigh>).unit(Unit::Sse),
    Row::new(Code::VEX_Vmovhps_xmm_xmm_m64, move_half_vex::<LowToHigh>).unit(Unit::Avx),
    Row::new(Code::Movlps_m64_xmm, store_scalar::<u64>).unit(Unit::Sse),
    Row::new(Code::VEX_Vmovlps_m64_xmm, store_scalar::<u64>).unit(Unit::Avx),
    Row::new(Code::Movhps_m64_xmm, store_high).unit(Unit::Sse),
    Row::new(Code::VEX_Vmovhps_m64_xmm, store_high).unit(Unit::Avx),
    Row::new(Code::Movlpd_xmm_m64, move_half::<Low>).unit(Unit::Sse),
    Row::new(Code::VEX_Vmovlpd_xmm_xmm_m64, move_half_vex::<Low>).unit(Unit::Avx),
    Row::new(Code::Movhpd_xmm_m64, move_half::<LowToHigh>).unit(Unit::Sse),
    Row::new(Code::VEX_Vmovhpd_xmm_xmm_m64, move_half_vex::<LowToHigh>).unit(Unit::Avx),
    Row::new(Code::Movlpd_m64_xmm, store_scalar::<u64>).unit(Unit::Sse),
    Row::new(Code::VEX_Vmovlpd_m64_xmm, store_scalar::<u64>).unit(Unit::Avx),
    Row::new(Code::Movhpd_m64_xmm, store_high).unit(Unit::Sse),
    Row::new(Code::VEX_Vmovhpd_m64_xmm, store_high).unit(Unit::Avx),
    Row::new(Code::Movd_xmm_rm32, from_general::<u32>).unit(Unit::Sse),
    Row::new(Code::VEX_Vmovd_xmm_rm32, from_general_vex::<u32>).unit(Unit::Avx),
    Row::new(Code::Movd_rm32_xmm, to_general::<u32>).unit(Unit::Sse),
    Row::new(Code::VEX_Vmovd_rm32_xmm, to_general::<u32>).unit(Unit::Avx),
    Row::new(Code::Movd_mm_rm32, mmx_from_general::<u32>).unit(Unit::Mmx),
    Row::new(Code::Movd_rm32_mm, mmx_to_general::<u32>).unit(Unit::Mmx),
    Row::new(Code::Movq_xmm_rm64, from_general::<u64>).unit(Unit::Sse),
    Row::new(Code::VEX_Vmovq_xmm_rm64, from_general_vex::<u64>).unit(Unit::Avx),
    Row::new(Code::Movq_rm64_xmm, to_general::<u64>).unit(Unit::Sse),
    Row::new(Code::VEX_Vmovq_rm64_xmm, to_general::<u64>).unit(Unit::Avx),
    Row::new(Code::Movq_mm_rm64, mmx_from_general::<u64>).unit(Unit::Mmx),
    Row::new(Code::Movq_rm64_mm, mmx_to_general::<u64>).unit(Unit::Mmx),
    Row::new(Code::Movq_mm_mmm64, mmx_load).unit(Unit::Mmx),
    Row::new(Code::Movq_mmm64_mm, mmx_store).unit(Unit::Mmx),
    Row::new(Code::Movntq_m64_mm, mmx_store).unit(Unit::Mmx),
    Row::new(Code::Movq2dq_xmm_mm, movq2dq).unit(Unit::Sse),
    Row::new(Code::Movdq2q_mm_xmm, movdq2q).unit(Unit::Sse),
    Row::new(Code::Emms, emms).unit(Unit::Mmx),
    Row::new(Code::Pmovmskb_r32_mm, pmovmskb_mm).unit(Unit::Mmx),
    Row::new(Code::Pmovmskb_r32_xmm, pmovmskb).unit(Unit::Sse),
    Row::new(Code::VEX_Vpmovmskb_r32_xmm, pmovmskb).unit(Unit::Avx),
    Row::new(Code::VEX_Vpmovmskb_r32_ymm, pmovmskb_ymm).unit(Unit::Avx),
    Row::new(Code::Movmskps_r32_xmm, movmskps).unit(Unit::Sse),
    Row::new(Code::VEX_Vmovmskps_r32_xmm, movmskps).unit(Unit::Avx),
    Row::new(Code::VEX_Vmovmskps_r32_ymm, movmskps_ymm).unit(Unit::Avx),
    Row::new(Code::Movmskpd_r32_xmm, movmskpd).unit(Unit::Sse),
    Row::new(Code::VEX_Vmovmskpd_r32_xmm, movmskpd).unit(Unit::Avx),
    Row::new(Code::VEX_Vmovmskpd_r32_ymm, movmskpd_ymm).unit(Unit::Avx),
    Row::new(Code::Pextrb_r32m8_xmm_imm8, extract::<u8>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpextrb_r32m8_xmm_imm8, extract::<u8>).unit(Unit::Avx),
    Row::new(Code::Pextrw_r32m16_xmm_imm8, extract::<u16>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpextrw_r32m16_xmm_imm8, extract::<u16>).unit(Unit::Avx),
    Row::new(Code::Pextrw_r32_xmm_imm8, extract::<u16>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpextrw_r32_xmm_imm8, extract::<u16>).unit(Unit::Avx),
    Row::new(Code::Pextrw_r32_mm_imm8, pextrw_mm).unit(Unit::Mmx),
    Row::new(Code::Pinsrb_xmm_r32m8_imm8, insert::<u8>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpinsrb_xmm_xmm_r32m8_imm8, insert_vex::<u8>).unit(Unit::Avx),
    Row::new(Code::Pinsrw_xmm_r32m16_imm8, insert::<u16>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpinsrw_xmm_xmm_r32m16_imm8, insert_vex::<u16>).unit(Unit::Avx),
    Row::new(Code::Pinsrw_mm_r32m16_imm8, pinsrw_mm).unit(Unit::Mmx),
    Row::new(Code::Pmovmskb_r64_mm, pmovmskb_mm).unit(Unit::Mmx),
    Row::new(Code::Pmovmskb_r64_xmm, pmovmskb).unit(Unit::Sse),
    Row::new(Code::VEX_Vpmovmskb_r64_xmm, pmovmskb).unit(Unit::Avx),
    Row::new(Code::VEX_Vpmovmskb_r64_ymm, pmovmskb_ymm).unit(Unit::Avx),
    Row::new(Code::Movmskps_r64_xmm, movmskps).unit(Unit::Sse),
    Row::new(Code::VEX_Vmovmskps_r64_xmm, movmskps).unit(Unit::Avx),
    Row::new(Code::VEX_Vmovmskps_r64_ymm, movmskps_ymm).unit(Unit::Avx),
    Row::new(Code::Movmskpd_r64_xmm, movmskpd).unit(Unit::Sse),
    Row::new(Code::VEX_Vmovmskpd_r64_xmm, movmskpd).unit(Unit::Avx),
    Row::new(Code::VEX_Vmovmskpd_r64_ymm, movmskpd_ymm).unit(Unit::Avx),
    Row::new(Code::Pextrb_r64m8_xmm_imm8, extract::<u8>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpextrb_r64m8_xmm_imm8, extract::<u8>).unit(Unit::Avx),
    Row::new(Code::Pextrw_r64m16_xmm_imm8, extract::<u16>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpextrw_r64m16_xmm_imm8, extract::<u16>).unit(Unit::Avx),
    Row::new(Code::Pextrw_r64_xmm_imm8, extract::<u16>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpextrw_r64_xmm_imm8, extract::<u16>).unit(Unit::Avx),
    Row::new(Code::Pextrw_r64_mm_imm8, pextrw_mm).unit(Unit::Mmx),
    Row::new(Code::Pinsrb_xmm_r64m8_imm8, insert::<u8>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpinsrb_xmm_xmm_r64m8_imm8, insert_vex::<u8>).unit(Unit::Avx),
    Row::new(Code::Pinsrw_xmm_r64m16_imm8, insert::<u16>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpinsrw_xmm_xmm_r64m16_imm8, insert_vex::<u16>).unit(Unit::Avx),
    Row::new(Code::Pinsrw_mm_r64m16_imm8, pinsrw_mm).unit(Unit::Mmx),
    Row::new(Code::Pextrd_rm32_xmm_imm8, extract::<u32>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpextrd_rm32_xmm_imm8, extract::<u32>).unit(Unit::Avx),
    Row::new(Code::Extractps_rm32_xmm_imm8, extract::<u32>).unit(Unit::Sse),
    Row::new(Code::Extractps_r64m32_xmm_imm8, extract::<u32>).unit(Unit::Sse),
    Row::new(Code::VEX_Vextractps_rm32_xmm_imm8, extract::<u32>).unit(Unit::Avx),
    Row::new(Code::VEX_Vextractps_r64m32_xmm_imm8, extract::<u32>).unit(Unit::Avx),
    Row::new(Code::Pextrq_rm64_xmm_imm8, extract::<u64>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpextrq_rm64_xmm_imm8, extract::<u64>).unit(Unit::Avx),
    Row::new(Code::Pinsrd_xmm_rm32_imm8, insert::<u32>).unit(Unit::Sse),
    Row::new(Code::Pinsrq_xmm_rm64_imm8, insert::<u64>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpinsrd_xmm_xmm_rm32_imm8, insert_vex::<u32>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpinsrq_xmm_xmm_rm64_imm8, insert_vex::<u64>).unit(Unit::Avx),
    Row::new(Code::Insertps_xmm_xmmm32_imm8, insertps).unit(Unit::Sse),
    Row::new(Code::VEX_Vinsertps_xmm_xmm_xmmm32_imm8, insertps_vex).unit(Unit::Avx),
    Row::new(Code::VEX_Vpbroadcastb_xmm_xmmm8, broadcast128::<u8>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpbroadcastb_ymm_xmmm8, broadcast256::<u8>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpbroadcastw_xmm_xmmm16, broadcast128::<u16>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpbroadcastw_ymm_xmmm16, broadcast256::<u16>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpbroadcastd_xmm_xmmm32, broadcast128::<u32>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpbroadcastd_ymm_xmmm32, broadcast256::<u32>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpbroadcastq_xmm_xmmm64, broadcast128::<u64>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpbroadcastq_ymm_xmmm64, broadcast256::<u64>).unit(Unit::Avx),
    Row::new(Code::VEX_Vbroadcastss_xmm_m32, broadcast128::<u32>).unit(Unit::Avx),
    Row::new(Code::VEX_Vbroadcastss_xmm_xmm, broadcast128::<u32>).unit(Unit::Avx),
    Row::new(Code::VEX_Vbroadcastss_ymm_m32, broadcast256::<u32>).unit(Unit::Avx),
    Row::new(Code::VEX_Vbroadcastss_ymm_xmm, broadcast256::<u32>).unit(Unit::Avx),
    Row::new(Code::VEX_Vbroadcastsd_ymm_m64, broadcast256::<u64>).unit(Unit::Avx),
    Row::new(Code::VEX_Vbroadcastsd_ymm_xmm, broadcast256::<u64>).unit(Unit::Avx),
    Row::new(Code::VEX_Vbroadcastf128_ymm_m128, broadcast_lane).unit(Unit::Avx),
    Row::new(Code::VEX_Vbroadcasti128_ymm_m128, broadcast_lane).unit(Unit::Avx),
    Row::new(Code::VEX_Vinsertf128_ymm_ymm_xmmm128_imm8, insert_lane).unit(Unit::Avx),
    Row::new(Code::VEX_Vinserti128_ymm_ymm_xmmm128_imm8, insert_lane).unit(Unit::Avx),
    Row::new(Code::VEX_Vextractf128_xmmm128_ymm_imm8, extract_lane).unit(Unit::Avx),
    Row::new(Code::VEX_Vextracti128_xmmm128_ymm_imm8, extract_lane).unit(Unit::Avx),
    Row::new(Code::VEX_Vzeroupper, vzeroupper).unit(Unit::Avx),
    Row::new(Code::VEX_Vzeroall, vzeroall).unit(Unit::Avx),
];
