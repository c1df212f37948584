//! Conversions between integers, half, single and double precision (SDM volume 2: CVT…, VCVTPH2PS,
//! VCVTPS2PH), the MMX forms included.

use super::{element, map};
use crate::exec::Exec;
use crate::insn::Insn;
use crate::isa::vector::Lane;
use crate::isa::x87::waiting;
use crate::softfloat::{Env, Rounding, sse};
use crate::state::rflags;
use crate::table::{Row, Unit};
use crate::trap::Done;
use iced_x86::Code;
use mem::Word;

/// Elements of 32 bits to 32 bits.
fn sse_same(x: &mut Exec<'_>, i: &Insn, f: impl Fn(u32, &mut Env) -> u32) -> Done {
    let a = x.get_sse(i, 1)?;
    let mut env = x.simd_env();
    let r = map(a, |_, a| f(a, &mut env));
    x.simd_report_packed(&mut env)?;
    x.set_xmm(i.ops[0], r);
    Ok(())
}

fn vex_same<const Q: usize>(x: &mut Exec<'_>, i: &Insn, f: impl Fn(u32, &mut Env) -> u32) -> Done {
    let a = x.get_vector::<Q>(i, 1)?;
    let mut env = x.simd_env();
    let r = map(a, |_, a| f(a, &mut env));
    x.simd_report_packed(&mut env)?;
    x.set_vector(i.ops[0], r);
    Ok(())
}

/// The low elements of 32 bits to `Q` of 64.
#[inline(always)]
fn widened<const Q: usize>(
    x: &mut Exec<'_>,
    a: Lane,
    f: impl Fn(u32, &mut Env) -> u64,
) -> Done<[u64; Q]> {
    let mut env = x.simd_env();
    let r = core::array::from_fn(|n| f(element(&a, n), &mut env));
    x.simd_report_packed(&mut env)?;
    Ok(r)
}

fn sse_widen(x: &mut Exec<'_>, i: &Insn, f: impl Fn(u32, &mut Env) -> u64) -> Done {
    let a = x.get_element(i, 1)?;
    let r = widened(x, [a, 0], f)?;
    x.set_xmm(i.ops[0], r);
    Ok(())
}

fn vex_widen<const Q: usize>(x: &mut Exec<'_>, i: &Insn, f: impl Fn(u32, &mut Env) -> u64) -> Done {
    let a = if Q == 2 {
        [x.get_element(i, 1)?, 0]
    } else {
        x.get_xmm(i, 1)?
    };
    let r = widened::<Q>(x, a, f)?;
    x.set_vector(i.ops[0], r);
    Ok(())
}

/// Elements of 64 bits to 32, in the low part of the result.
#[inline(always)]
fn narrowed<const Q: usize>(
    x: &mut Exec<'_>,
    a: [u64; Q],
    f: impl Fn(u64, &mut Env) -> u32,
) -> Done<Lane> {
    let mut env = x.simd_env();
    let mut r = [0; 2];
    for (n, a) in a.into_iter().enumerate() {
        r[n / 2] |= u64::from(f(a, &mut env)) << (32 * (n % 2));
    }
    x.simd_report_packed(&mut env)?;
    Ok(r)
}

fn sse_narrow(x: &mut Exec<'_>, i: &Insn, f: impl Fn(u64, &mut Env) -> u32) -> Done {
    let a = x.get_sse(i, 1)?;
    let r = narrowed(x, a, f)?;
    x.set_xmm(i.ops[0], r);
    Ok(())
}

fn vex_narrow<const Q: usize>(
    x: &mut Exec<'_>,
    i: &Insn,
    f: impl Fn(u64, &mut Env) -> u32,
) -> Done {
    let a = x.get_vector::<Q>(i, 1)?;
    let r = narrowed(x, a, f)?;
    x.set_xmm_clear(i.ops[0], r);
    Ok(())
}

/// A scalar from XMM or memory to XMM.
fn sse_scalar<A: Word, R: Word>(x: &mut Exec<'_>, i: &Insn, f: impl Fn(A, &mut Env) -> R) -> Done {
    let a = x.get_element(i, 1)?;
    let mut env = x.simd_env();
    let r = f(a, &mut env);
    x.simd_report(&env)?;
    x.set_element(i.ops[0], r);
    Ok(())
}

fn vex_scalar<A: Word, R: Word>(x: &mut Exec<'_>, i: &Insn, f: impl Fn(A, &mut Env) -> R) -> Done {
    let a = x.get_element(i, 2)?;
    let mut env = x.simd_env();
    let r = f(a, &mut env);
    x.simd_report(&env)?;
    x.set_scalar(i, r);
    Ok(())
}

/// A scalar from a general register or memory to XMM.
fn sse_from_integer<A: Word, R: Word>(
    x: &mut Exec<'_>,
    i: &Insn,
    f: impl Fn(A, &mut Env) -> R,
) -> Done {
    let a = x.get(i, 1)?;
    let mut env = x.simd_env();
    let r = f(a, &mut env);
    x.simd_report(&env)?;
    x.set_element(i.ops[0], r);
    Ok(())
}

fn vex_from_integer<A: Word, R: Word>(
    x: &mut Exec<'_>,
    i: &Insn,
    f: impl Fn(A, &mut Env) -> R,
) -> Done {
    let a = x.get(i, 2)?;
    let mut env = x.simd_env();
    let r = f(a, &mut env);
    x.simd_report(&env)?;
    x.set_scalar(i, r);
    Ok(())
}

/// A scalar from XMM or memory to a general register; SSE and VEX alike.
fn to_integer<A: Word, R: Word>(x: &mut Exec<'_>, i: &Insn, f: impl Fn(A, &mut Env) -> R) -> Done {
    let a = x.get_element(i, 1)?;
    let mut env = x.simd_env();
    let r = f(a, &mut env);
    x.simd_report(&env)?;
    x.set_reg(i.ops[0], r);
    Ok(())
}

/// CVTPI2PS and CVTPI2PD: only a register operand makes them MMX instructions. Like the others
/// they enter MMX mode even if #XM follows.
fn from_mmx(
    x: &mut Exec<'_>,
    i: &Insn,
    convert: impl Fn([u32; 2], &mut Env) -> (Lane, bool),
) -> Done {
    if !i.is_mem(1) {
        waiting!(x);
    }
    let a = x.get_mm(i, 1)?;
    let mut env = x.simd_env();
    let (r, both) = convert([a as u32, (a >> 32) as u32], &mut env);
    if !i.is_mem(1) {
        x.enter_mmx();
    }
    x.simd_report_packed(&mut env)?;
    if both {
        x.set_xmm(i.ops[0], r);
    } else {
        x.set_element(i.ops[0], r[0]);
    }
    Ok(())
}

fn cvtpi2ps(x: &mut Exec<'_>, i: &Insn) -> Done {
    from_mmx(x, i, |a, env| {
        let [low, high] = a.map(|a| u64::from(sse::from_i32::<u32>(a as i32, env)));
        ([low | high << 32, 0], false)
    })
}

fn cvtpi2pd(x: &mut Exec<'_>, i: &Insn) -> Done {
    from_mmx(x, i, |a, env| {
        (a.map(|a| sse::from_i32::<u64>(a as i32, env)), true)
    })
}

/// CVTPS2PI and CVTTPS2PI.
fn singles_to_mmx<const TRUNCATE: bool>(x: &mut Exec<'_>, i: &Insn) -> Done {
    waiting!(x);
    let a: u64 = x.get_element(i, 1)?;
    let mut env = x.simd_env();
    let r = map([a], |_, a| to_i32_bits::<u32, TRUNCATE>(a, &mut env));
    x.enter_mmx();
    x.simd_report_packed(&mut env)?;
    x.set_mm(i.ops[0], r[0]);
    Ok(())
}

/// CVTPD2PI and CVTTPD2PI.
fn doubles_to_mmx<const TRUNCATE: bool>(x: &mut Exec<'_>, i: &Insn) -> Done {
    waiting!(x);
    let a = x.get_sse(i, 1)?;
    x.enter_mmx();
    let r = narrowed(x, a, to_i32_bits::<u64, TRUNCATE>)?;
    x.set_mm(i.ops[0], r[0]);
    Ok(())
}

#[inline(always)]
fn rounding<const TRUNCATE: bool>(env: &Env) -> Rounding {
    if TRUNCATE {
        Rounding::Zero
    } else {
        env.rounding
    }
}

#[inline(always)]
fn to_i32_bits<A: sse::SseFloat, const TRUNCATE: bool>(a: A, env: &mut Env) -> u32 {
    sse::to_i32(a, rounding::<TRUNCATE>(env), env) as u32
}

#[inline(always)]
fn to_i64_bits<A: sse::SseFloat, const TRUNCATE: bool>(a: A, env: &mut Env) -> u64 {
    sse::to_i64(a, rounding::<TRUNCATE>(env), env) as u64
}

#[inline(always)]
fn from_32<R: sse::SseFloat>(a: u32, env: &mut Env) -> R {
    sse::from_i32(a as i32, env)
}

#[inline(always)]
fn from_64<R: sse::SseFloat>(a: u64, env: &mut Env) -> R {
    sse::from_i64(a as i64, env)
}

/// The m64 of VCVTPH2PS, which processors do not check for alignment.
fn get_unchecked(x: &mut Exec<'_>, i: &Insn) -> Done<u64> {
    if x.s.rflags & rflags::AC == 0 || !i.is_mem(1) {
        return x.get_element(i, 1);
    }
    let mut bytes = [0; 8];
    for (n, byte) in (0..).zip(bytes.iter_mut()) {
        let offset = x.ea(i).wrapping_add(n) & i.address_mask();
        *byte = x.read(i.seg, offset)?;
    }
    Ok(u64::from_le_bytes(bytes))
}

/// The m64 of VCVTPS2PH, likewise.
fn set_unchecked(x: &mut Exec<'_>, i: &Insn, value: u64) -> Done {
    if x.s.rflags & rflags::AC == 0 {
        return x.write(i.seg, x.ea(i), value);
    }
    let at = |x: &Exec<'_>, n| x.ea(i).wrapping_add(n) & i.address_mask();
    for n in 0..8 {
        x.probe_write(i.seg, at(x, n), 1)?;
    }
    for (n, byte) in (0..).zip(value.to_le_bytes()) {
        x.write(i.seg, at(x, n), byte)?;
    }
    Ok(())
}

/// VCVTPH2PS with `Q` quadwords of singles.
fn from_half<const Q: usize>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let a: Lane = if Q == 2 {
        [get_unchecked(x, i)?, 0]
    } else {
        x.get_xmm(i, 1)?
    };
    let mut env = x.simd_env();
    let half = |n: usize| (a[n / 4] >> (16 * (n % 4))) as u16;
    let r = map([0; Q], |n, _| sse::f16_to_f32(half(n), &mut env));
    x.simd_report_packed(&mut env)?;
    x.set_vector(i.ops[0], r);
    Ok(())
}

/// VCVTPS2PH from `Q` quadwords of singles. Bit 2 of the immediate asks for MXCSR.RC.
fn to_half<const Q: usize>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let a = x.vector::<Q>(i.ops[1]);
    let mut env = x.simd_env();
    if i.imm & 4 == 0 {
        env.rounding = Rounding::from_bits(i.imm as u32);
    }
    let mut r = [0; 2];
    for n in 0..2 * Q {
        let half = sse::f32_to_f16(element(&a, n), &mut env);
        r[n / 4] |= u64::from(half) << (16 * (n % 4));
    }
    // The flags stay even if the store faults, as processors have it.
    x.simd_report_packed(&mut env)?;
    match (i.is_mem(0), Q) {
        (false, _) => x.set_xmm_clear(i.ops[0], r),
        (true, 2) => set_unchecked(x, i, r[0])?,
        (true, _) => x.write_quads(i.seg, x.ea(i), false, r)?,
    }
    Ok(())
}

pub(crate) const ROWS: &[Row] = rows! {
    sse {
        Cvtdq2ps_xmm_xmmm128 |x, i| sse_same(x, i, from_32::<u32>);
        Cvtps2dq_xmm_xmmm128 |x, i| sse_same(x, i, to_i32_bits::<u32, false>);
        Cvttps2dq_xmm_xmmm128 |x, i| sse_same(x, i, to_i32_bits::<u32, true>);
        Cvtdq2pd_xmm_xmmm64 |x, i| sse_widen(x, i, from_32::<u64>);
        Cvtps2pd_xmm_xmmm64 |x, i| sse_widen(x, i, sse::f32_to_f64);
        Cvtpd2ps_xmm_xmmm128 |x, i| sse_narrow(x, i, sse::f64_to_f32);
        Cvtpd2dq_xmm_xmmm128 |x, i| sse_narrow(x, i, to_i32_bits::<u64, false>);
        Cvttpd2dq_xmm_xmmm128 |x, i| sse_narrow(x, i, to_i32_bits::<u64, true>);
        Cvtss2sd_xmm_xmmm32 |x, i| sse_scalar(x, i, sse::f32_to_f64);
        Cvtsd2ss_xmm_xmmm64 |x, i| sse_scalar(x, i, sse::f64_to_f32);
        Cvtsi2ss_xmm_rm32 |x, i| sse_from_integer(x, i, from_32::<u32>);
        Cvtsi2ss_xmm_rm64 |x, i| sse_from_integer(x, i, from_64::<u32>);
        Cvtsi2sd_xmm_rm32 |x, i| sse_from_integer(x, i, from_32::<u64>);
        Cvtsi2sd_xmm_rm64 |x, i| sse_from_integer(x, i, from_64::<u64>);
        Cvtss2si_r32_xmmm32 |x, i| to_integer(x, i, to_i32_bits::<u32, false>);
        Cvtss2si_r64_xmmm32 |x, i| to_integer(x, i, to_i64_bits::<u32, false>);
        Cvtsd2si_r32_xmmm64 |x, i| to_integer(x, i, to_i32_bits::<u64, false>);
        Cvtsd2si_r64_xmmm64 |x, i| to_integer(x, i, to_i64_bits::<u64, false>);
        Cvttss2si_r32_xmmm32 |x, i| to_integer(x, i, to_i32_bits::<u32, true>);
        Cvttss2si_r64_xmmm32 |x, i| to_integer(x, i, to_i64_bits::<u32, true>);
        Cvttsd2si_r32_xmmm64 |x, i| to_integer(x, i, to_i32_bits::<u64, true>);
        Cvttsd2si_r64_xmmm64 |x, i| to_integer(x, i, to_i64_bits::<u64, true>);
        Cvtpi2ps_xmm_mmm64 cvtpi2ps;
        Cvtpi2pd_xmm_mmm64 cvtpi2pd;
        Cvtps2pi_mm_xmmm64 singles_to_mmx::<false>;
        Cvttps2pi_mm_xmmm64 singles_to_mmx::<true>;
        Cvtpd2pi_mm_xmmm128 doubles_to_mmx::<false>;
        Cvttpd2pi_mm_xmmm128 doubles_to_mmx::<true>;
    }
    avx {
        VEX_Vcvtdq2ps_xmm_xmmm128 |x, i| vex_same::<2>(x, i, from_32::<u32>);
        VEX_Vcvtdq2ps_ymm_ymmm256 |x, i| vex_same::<4>(x, i, from_32::<u32>);
        VEX_Vcvtps2dq_xmm_xmmm128 |x, i| vex_same::<2>(x, i, to_i32_bits::<u32, false>);
        VEX_Vcvtps2dq_ymm_ymmm256 |x, i| vex_same::<4>(x, i, to_i32_bits::<u32, false>);
        VEX_Vcvttps2dq_xmm_xmmm128 |x, i| vex_same::<2>(x, i, to_i32_bits::<u32, true>);
        VEX_Vcvttps2dq_ymm_ymmm256 |x, i| vex_same::<4>(x, i, to_i32_bits::<u32, true>);
        VEX_Vcvtdq2pd_xmm_xmmm64 |x, i| vex_widen::<2>(x, i, from_32::<u64>);
        VEX_Vcvtdq2pd_ymm_xmmm128 |x, i| vex_widen::<4>(x, i, from_32::<u64>);
        VEX_Vcvtps2pd_xmm_xmmm64 |x, i| vex_widen::<2>(x, i, sse::f32_to_f64);
        VEX_Vcvtps2pd_ymm_xmmm128 |x, i| vex_widen::<4>(x, i, sse::f32_to_f64);
        VEX_Vcvtpd2ps_xmm_xmmm128 |x, i| vex_narrow::<2>(x, i, sse::f64_to_f32);
        VEX_Vcvtpd2ps_xmm_ymmm256 |x, i| vex_narrow::<4>(x, i, sse::f64_to_f32);
        VEX_Vcvtpd2dq_xmm_xmmm128 |x, i| vex_narrow::<2>(x, i, to_i32_bits::<u64, false>);
        VEX_Vcvtpd2dq_xmm_ymmm256 |x, i| vex_narrow::<4>(x, i, to_i32_bits::<u64, false>);
        VEX_Vcvttpd2dq_xmm_xmmm128 |x, i| vex_narrow::<2>(x, i, to_i32_bits::<u64, true>);
        VEX_Vcvttpd2dq_xmm_ymmm256 |x, i| vex_narrow::<4>(x, i, to_i32_bits::<u64, true>);
        VEX_Vcvtss2sd_xmm_xmm_xmmm32 |x, i| vex_scalar(x, i, sse::f32_to_f64);
        VEX_Vcvtsd2ss_xmm_xmm_xmmm64 |x, i| vex_scalar(x, i, sse::f64_to_f32);
        VEX_Vcvtsi2ss_xmm_xmm_rm32 |x, i| vex_from_integer(x, i, from_32::<u32>);
        VEX_Vcvtsi2ss_xmm_xmm_rm64 |x, i| vex_from_integer(x, i, from_64::<u32>);
        VEX_Vcvtsi2sd_xmm_xmm_rm32 |x, i| vex_from_integer(x, i, from_32::<u64>);
        VEX_Vcvtsi2sd_xmm_xmm_rm64 |x, i| vex_from_integer(x, i, from_64::<u64>);
        VEX_Vcvtss2si_r32_xmmm32 |x, i| to_integer(x, i, to_i32_bits::<u32, false>);
        VEX_Vcvtss2si_r64_xmmm32 |x, i| to_integer(x, i, to_i64_bits::<u32, false>);
        VEX_Vcvtsd2si_r32_xmmm64 |x, i| to_integer(x, i, to_i32_bits::<u64, false>);
        VEX_Vcvtsd2si_r64_xmmm64 |x, i| to_integer(x, i, to_i64_bits::<u64, false>);
        VEX_Vcvttss2si_r32_xmmm32 |x, i| to_integer(x, i, to_i32_bits::<u32, true>);
        VEX_Vcvttss2si_r64_xmmm32 |x, i| to_integer(x, i, to_i64_bits::<u32, true>);
        VEX_Vcvttsd2si_r32_xmmm64 |x, i| to_integer(x, i, to_i32_bits::<u64, true>);
        VEX_Vcvttsd2si_r64_xmmm64 |x, i| to_integer(x, i, to_i64_bits::<u64, true>);
        VEX_Vcvtph2ps_xmm_xmmm64 from_half::<2>;
        VEX_Vcvtph2ps_ymm_xmmm128 from_half::<4>;
        VEX_Vcvtps2ph_xmmm64_xmm_imm8 to_half::<2>;
        VEX_Vcvtps2ph_xmmm128_ymm_imm8 to_half::<4>;
    }
};
