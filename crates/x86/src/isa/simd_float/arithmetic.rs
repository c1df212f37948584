//! ADD, SUB, MUL, DIV, SQRT, MIN, MAX, the horizontal and alternating sums, ROUND and DP (SDM volume
//! 2: ADDPS … DPPD), in their SSE and VEX forms.

use super::{Element, element, map, zip};
use crate::exec::Exec;
use crate::insn::Insn;
use crate::isa::vector::Lane;
use crate::softfloat::{Env, Rounding, sse};
use crate::table::{Row, Unit};
use crate::trap::Done;
use iced_x86::Code;

#[inline(always)]
fn sse_packed<T: Element>(
    x: &mut Exec<'_>,
    i: &Insn,
    f: impl Fn(usize, T, T, &mut Env) -> T,
) -> Done {
    let b = x.get_sse(i, 1)?;
    let a = x.xmm(i.ops[0]);
    let mut env = x.simd_env();
    let r = zip(a, b, |n, a, b| f(n, a, b, &mut env));
    x.simd_report_packed(&mut env)?;
    x.set_xmm(i.ops[0], r);
    Ok(())
}

#[inline(always)]
fn vex_packed<T: Element, const Q: usize>(
    x: &mut Exec<'_>,
    i: &Insn,
    f: impl Fn(usize, T, T, &mut Env) -> T,
) -> Done {
    let b = x.get_vector::<Q>(i, 2)?;
    let a = x.vector(i.ops[1]);
    let mut env = x.simd_env();
    let r = zip(a, b, |n, a, b| f(n, a, b, &mut env));
    x.simd_report_packed(&mut env)?;
    x.set_vector(i.ops[0], r);
    Ok(())
}

#[inline(always)]
fn sse_scalar<T: Element>(x: &mut Exec<'_>, i: &Insn, f: impl Fn(T, T, &mut Env) -> T) -> Done {
    let b: T = x.get_element(i, 1)?;
    let a = T::from_u64(x.xmm(i.ops[0])[0]);
    let mut env = x.simd_env();
    let r = f(a, b, &mut env);
    x.simd_report(&env)?;
    x.set_element(i.ops[0], r);
    Ok(())
}

#[inline(always)]
fn vex_scalar<T: Element>(x: &mut Exec<'_>, i: &Insn, f: impl Fn(T, T, &mut Env) -> T) -> Done {
    let b: T = x.get_element(i, 2)?;
    let a = T::from_u64(x.xmm(i.ops[1])[0]);
    let mut env = x.simd_env();
    let r = f(a, b, &mut env);
    x.simd_report(&env)?;
    x.set_scalar(i, r);
    Ok(())
}

/// Instructions with one source, such as SQRTPS.
#[inline(always)]
fn sse_map<T: Element>(x: &mut Exec<'_>, i: &Insn, f: impl Fn(T, &mut Env) -> T) -> Done {
    let a = x.get_sse(i, 1)?;
    let mut env = x.simd_env();
    let r = map(a, |_, a| f(a, &mut env));
    x.simd_report_packed(&mut env)?;
    x.set_xmm(i.ops[0], r);
    Ok(())
}

#[inline(always)]
fn vex_map<T: Element, const Q: usize>(
    x: &mut Exec<'_>,
    i: &Insn,
    f: impl Fn(T, &mut Env) -> T,
) -> Done {
    let a = x.get_vector::<Q>(i, 1)?;
    let mut env = x.simd_env();
    let r = map(a, |_, a| f(a, &mut env));
    x.simd_report_packed(&mut env)?;
    x.set_vector(i.ops[0], r);
    Ok(())
}

/// Bits 3 and 2–0 of the immediate of ROUND: suppress PE; MXCSR.RC or one of its own.
fn round<T: Element>(a: T, imm: u64, env: &mut Env) -> T {
    let rounding = if imm & 4 != 0 {
        env.rounding
    } else {
        Rounding::from_bits(imm as u32)
    };
    sse::round_to_integral(a, rounding, imm & 8 != 0, env)
}

/// HADD and HSUB of one lane: neighbours of `a`, then neighbours of `b`.
#[inline(always)]
fn horizontal_lane<T: Element>(
    a: Lane,
    b: Lane,
    env: &mut Env,
    f: &impl Fn(T, T, &mut Env) -> T,
) -> Lane {
    let half = 8 / T::SIZE;
    map(a, |n, _| {
        let from = if n < half { &a } else { &b };
        let n = n % half * 2;
        f(element(from, n), element(from, n + 1), env)
    })
}

fn sse_horizontal<T: Element>(x: &mut Exec<'_>, i: &Insn, f: impl Fn(T, T, &mut Env) -> T) -> Done {
    let b = x.get_sse(i, 1)?;
    let a = x.xmm(i.ops[0]);
    let mut env = x.simd_env();
    let r = horizontal_lane(a, b, &mut env, &f);
    x.simd_report_packed(&mut env)?;
    x.set_xmm(i.ops[0], r);
    Ok(())
}

/// The lanes of a vector: `f` of each pair, the upper of a 128-bit one being absent.
#[inline(always)]
fn lanes<const Q: usize>(
    a: [u64; Q],
    b: [u64; Q],
    mut f: impl FnMut(Lane, Lane) -> Lane,
) -> [u64; Q] {
    let mut r = [0; Q];
    for n in (0..Q).step_by(2) {
        let lane = f([a[n], a[n + 1]], [b[n], b[n + 1]]);
        r[n..n + 2].copy_from_slice(&lane);
    }
    r
}

fn vex_horizontal<T: Element, const Q: usize>(
    x: &mut Exec<'_>,
    i: &Insn,
    f: impl Fn(T, T, &mut Env) -> T,
) -> Done {
    let b = x.get_vector::<Q>(i, 2)?;
    let a = x.vector::<Q>(i.ops[1]);
    let mut env = x.simd_env();
    let r = lanes(a, b, |a, b| horizontal_lane(a, b, &mut env, &f));
    x.simd_report_packed(&mut env)?;
    x.set_vector(i.ops[0], r);
    Ok(())
}

/// ADDSUBPS and ADDSUBPD: even elements are subtracted.
#[inline(always)]
fn add_sub<T: Element>(n: usize, a: T, b: T, env: &mut Env) -> T {
    if n.is_multiple_of(2) {
        sse::sub(a, b, env)
    } else {
        sse::add(a, b, env)
    }
}

/// DPPS and DPPD: bits 7–4 of the immediate choose the products, bits 3–0 where the sum goes. An
/// unmasked exception of the products keeps the sums from being computed.
fn dot<T: Element, const Q: usize>(
    x: &mut Exec<'_>,
    a: [u64; Q],
    b: [u64; Q],
    imm: u64,
) -> Done<[u64; Q]> {
    let per_lane = 16 / T::SIZE;
    let mut env = x.simd_env();
    let zero = T::from_u64(0);
    let products = zip(a, b, |n, a: T, b| {
        if imm >> (4 + n % per_lane) & 1 != 0 {
            sse::mul(a, b, &mut env)
        } else {
            zero
        }
    });
    x.simd_report_packed(&mut env)?;
    // Every element adds for itself: which of several NaNs it gets depends on its place.
    let r = lanes(products, products, |mut p, _| {
        if per_lane == 4 {
            p = map(p, |n, a: T| sse::add(element(&p, n ^ 1), a, &mut env));
        }
        map(p, |n, a: T| {
            let sum = sse::add(a, element(&p, n ^ (per_lane / 2)), &mut env);
            if imm >> n & 1 != 0 { sum } else { zero }
        })
    });
    x.simd_report_packed(&mut env)?;
    Ok(r)
}

fn sse_dot<T: Element>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let b = x.get_sse(i, 1)?;
    let a = x.xmm(i.ops[0]);
    let r = dot::<T, 2>(x, a, b, i.imm)?;
    x.set_xmm(i.ops[0], r);
    Ok(())
}

fn vex_dot<T: Element, const Q: usize>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let b = x.get_vector::<Q>(i, 2)?;
    let a = x.vector::<Q>(i.ops[1]);
    let r = dot::<T, Q>(x, a, b, i.imm)?;
    x.set_vector(i.ops[0], r);
    Ok(())
}

macro_rules! rows {
    (
        binary { $($f:path:
            $ps:ident $vps:ident $vps256:ident $pd:ident $vpd:ident $vpd256:ident
            $ss:ident $vss:ident $sd:ident $vsd:ident;)* }
        unary { $($g:path:
            $ups:ident $uvps:ident $uvps256:ident $upd:ident $uvpd:ident $uvpd256:ident
            $uss:ident $uvss:ident $usd:ident $uvsd:ident;)* }
        sse { $($code:ident $run:expr;)* }
        avx { $($vcode:ident $vrun:expr;)* }
    ) => {
        &[
            $(
                Row::new(Code::$ps, |x, i| sse_packed::<u32>(x, i, |_, a, b, e| $f(a, b, e))).unit(Unit::Sse),
                Row::new(Code::$vps, |x, i| vex_packed::<u32, 2>(x, i, |_, a, b, e| $f(a, b, e))).unit(Unit::Avx),
                Row::new(Code::$vps256, |x, i| vex_packed::<u32, 4>(x, i, |_, a, b, e| $f(a, b, e))).unit(Unit::Avx),
                Row::new(Code::$pd, |x, i| sse_packed::<u64>(x, i, |_, a, b, e| $f(a, b, e))).unit(Unit::Sse),
                Row::new(Code::$vpd, |x, i| vex_packed::<u64, 2>(x, i, |_, a, b, e| $f(a, b, e))).unit(Unit::Avx),
                Row::new(Code::$vpd256, |x, i| vex_packed::<u64, 4>(x, i, |_, a, b, e| $f(a, b, e))).unit(Unit::Avx),
                Row::new(Code::$ss, |x, i| sse_scalar::<u32>(x, i, $f)).unit(Unit::Sse),
                Row::new(Code::$vss, |x, i| vex_scalar::<u32>(x, i, $f)).unit(Unit::Avx),
                Row::new(Code::$sd, |x, i| sse_scalar::<u64>(x, i, $f)).unit(Unit::Sse),
                Row::new(Code::$vsd, |x, i| vex_scalar::<u64>(x, i, $f)).unit(Unit::Avx),
            )*
            $(
                Row::new(Code::$ups, |x, i| sse_map::<u32>(x, i, $g)).unit(Unit::Sse),
                Row::new(Code::$uvps, |x, i| vex_map::<u32, 2>(x, i, $g)).unit(Unit::Avx),
                Row::new(Code::$uvps256, |x, i| vex_map::<u32, 4>(x, i, $g)).unit(Unit::Avx),
                Row::new(Code::$upd, |x, i| sse_map::<u64>(x, i, $g)).unit(Unit::Sse),
                Row::new(Code::$uvpd, |x, i| vex_map::<u64, 2>(x, i, $g)).unit(Unit::Avx),
                Row::new(Code::$uvpd256, |x, i| vex_map::<u64, 4>(x, i, $g)).unit(Unit::Avx),
                Row::new(Code::$uss, |x, i| sse_scalar::<u32>(x, i, |_, b, e| $g(b, e))).unit(Unit::Sse),
                Row::new(Code::$uvss, |x, i| vex_scalar::<u32>(x, i, |_, b, e| $g(b, e))).unit(Unit::Avx),
                Row::new(Code::$usd, |x, i| sse_scalar::<u64>(x, i, |_, b, e| $g(b, e))).unit(Unit::Sse),
                Row::new(Code::$uvsd, |x, i| vex_scalar::<u64>(x, i, |_, b, e| $g(b, e))).unit(Unit::Avx),
            )*
            $(Row::new(Code::$code, $run).unit(Unit::Sse),)*
            $(Row::new(Code::$vcode, $vrun).unit(Unit::Avx),)*
        ]
    };
}

pub(crate) const ROWS: &[Row] = rows! {
    binary {
        sse::add: Addps_xmm_xmmm128 VEX_Vaddps_xmm_xmm_xmmm128 VEX_Vaddps_ymm_ymm_ymmm256
        Addpd_xmm_xmmm128 VEX_Vaddpd_xmm_xmm_xmmm128 VEX_Vaddpd_ymm_ymm_ymmm256
        Addss_xmm_xmmm32 VEX_Vaddss_xmm_xmm_xmmm32 Addsd_xmm_xmmm64 VEX_Vaddsd_xmm_xmm_xmmm64;
        sse::sub: Subps_xmm_xmmm128 VEX_Vsubps_xmm_xmm_xmmm128 VEX_Vsubps_ymm_ymm_ymmm256
        Subpd_xmm_xmmm128 VEX_Vsubpd_xmm_xmm_xmmm128 VEX_Vsubpd_ymm_ymm_ymmm256
        Subss_xmm_xmmm32 VEX_Vsubss_xmm_xmm_xmmm32 Subsd_xmm_xmmm64 VEX_Vsubsd_xmm_xmm_xmmm64;
        sse::mul: Mulps_xmm_xmmm128 VEX_Vmulps_xmm_xmm_xmmm128 VEX_Vmulps_ymm_ymm_ymmm256
        Mulpd_xmm_xmmm128 VEX_Vmulpd_xmm_xmm_xmmm128 VEX_Vmulpd_ymm_ymm_ymmm256
        Mulss_xmm_xmmm32 VEX_Vmulss_xmm_xmm_xmmm32 Mulsd_xmm_xmmm64 VEX_Vmulsd_xmm_xmm_xmmm64;
        sse::div: Divps_xmm_xmmm128 VEX_Vdivps_xmm_xmm_xmmm128 VEX_Vdivps_ymm_ymm_ymmm256
        Divpd_xmm_xmmm128 VEX_Vdivpd_xmm_xmm_xmmm128 VEX_Vdivpd_ymm_ymm_ymmm256
        Divss_xmm_xmmm32 VEX_Vdivss_xmm_xmm_xmmm32 Divsd_xmm_xmmm64 VEX_Vdivsd_xmm_xmm_xmmm64;
        sse::min: Minps_xmm_xmmm128 VEX_Vminps_xmm_xmm_xmmm128 VEX_Vminps_ymm_ymm_ymmm256
        Minpd_xmm_xmmm128 VEX_Vminpd_xmm_xmm_xmmm128 VEX_Vminpd_ymm_ymm_ymmm256
        Minss_xmm_xmmm32 VEX_Vminss_xmm_xmm_xmmm32 Minsd_xmm_xmmm64 VEX_Vminsd_xmm_xmm_xmmm64;
        sse::max: Maxps_xmm_xmmm128 VEX_Vmaxps_xmm_xmm_xmmm128 VEX_Vmaxps_ymm_ymm_ymmm256
        Maxpd_xmm_xmmm128 VEX_Vmaxpd_xmm_xmm_xmmm128 VEX_Vmaxpd_ymm_ymm_ymmm256
        Maxss_xmm_xmmm32 VEX_Vmaxss_xmm_xmm_xmmm32 Maxsd_xmm_xmmm64 VEX_Vmaxsd_xmm_xmm_xmmm64;
    }
    unary {
        sse::sqrt: Sqrtps_xmm_xmmm128 VEX_Vsqrtps_xmm_xmmm128 VEX_Vsqrtps_ymm_ymmm256
        Sqrtpd_xmm_xmmm128 VEX_Vsqrtpd_xmm_xmmm128 VEX_Vsqrtpd_ymm_ymmm256
        Sqrtss_xmm_xmmm32 VEX_Vsqrtss_xmm_xmm_xmmm32 Sqrtsd_xmm_xmmm64 VEX_Vsqrtsd_xmm_xmm_xmmm64;
    }
    sse {
        Haddps_xmm_xmmm128 |x, i| sse_horizontal::<u32>(x, i, sse::add);
        Haddpd_xmm_xmmm128 |x, i| sse_horizontal::<u64>(x, i, sse::add);
        Hsubps_xmm_xmmm128 |x, i| sse_horizontal::<u32>(x, i, sse::sub);
        Hsubpd_xmm_xmmm128 |x, i| sse_horizontal::<u64>(x, i, sse::sub);
        Addsubps_xmm_xmmm128 |x, i| sse_packed::<u32>(x, i, add_sub);
        Addsubpd_xmm_xmmm128 |x, i| sse_packed::<u64>(x, i, add_sub);
        Roundps_xmm_xmmm128_imm8 |x, i| sse_map::<u32>(x, i, |a, env| round(a, i.imm, env));
        Roundpd_xmm_xmmm128_imm8 |x, i| sse_map::<u64>(x, i, |a, env| round(a, i.imm, env));
        Roundss_xmm_xmmm32_imm8 |x, i| sse_scalar::<u32>(x, i, |_, b, env| round(b, i.imm, env));
        Roundsd_xmm_xmmm64_imm8 |x, i| sse_scalar::<u64>(x, i, |_, b, env| round(b, i.imm, env));
        Dpps_xmm_xmmm128_imm8 sse_dot::<u32>;
        Dppd_xmm_xmmm128_imm8 sse_dot::<u64>;
    }
    avx {
        VEX_Vhaddps_xmm_xmm_xmmm128 |x, i| vex_horizontal::<u32, 2>(x, i, sse::add);
        VEX_Vhaddps_ymm_ymm_ymmm256 |x, i| vex_horizontal::<u32, 4>(x, i, sse::add);
        VEX_Vhaddpd_xmm_xmm_xmmm128 |x, i| vex_horizontal::<u64, 2>(x, i, sse::add);
        VEX_Vhaddpd_ymm_ymm_ymmm256 |x, i| vex_horizontal::<u64, 4>(x, i, sse::add);
        VEX_Vhsubps_xmm_xmm_xmmm128 |x, i| vex_horizontal::<u32, 2>(x, i, sse::sub);
        VEX_Vhsubps_ymm_ymm_ymmm256 |x, i| vex_horizontal::<u32, 4>(x, i, sse::sub);
        VEX_Vhsubpd_xmm_xmm_xmmm128 |x, i| vex_horizontal::<u64, 2>(x, i, sse::sub);
        VEX_Vhsubpd_ymm_ymm_ymmm256 |x, i| vex_horizontal::<u64, 4>(x, i, sse::sub);
        VEX_Vaddsubps_xmm_xmm_xmmm128 |x, i| vex_packed::<u32, 2>(x, i, add_sub);
        VEX_Vaddsubps_ymm_ymm_ymmm256 |x, i| vex_packed::<u32, 4>(x, i, add_sub);
        VEX_Vaddsubpd_xmm_xmm_xmmm128 |x, i| vex_packed::<u64, 2>(x, i, add_sub);
        VEX_Vaddsubpd_ymm_ymm_ymmm256 |x, i| vex_packed::<u64, 4>(x, i, add_sub);
        VEX_Vroundps_xmm_xmmm128_imm8 |x, i| vex_map::<u32, 2>(x, i, |a, env| round(a, i.imm, env));
        VEX_Vroundps_ymm_ymmm256_imm8 |x, i| vex_map::<u32, 4>(x, i, |a, env| round(a, i.imm, env));
        VEX_Vroundpd_xmm_xmmm128_imm8 |x, i| vex_map::<u64, 2>(x, i, |a, env| round(a, i.imm, env));
        VEX_Vroundpd_ymm_ymmm256_imm8 |x, i| vex_map::<u64, 4>(x, i, |a, env| round(a, i.imm, env));
        VEX_Vroundss_xmm_xmm_xmmm32_imm8 |x, i| vex_scalar::<u32>(x, i, |_, b, env| round(b, i.imm, env));
        VEX_Vroundsd_xmm_xmm_xmmm64_imm8 |x, i| vex_scalar::<u64>(x, i, |_, b, env| round(b, i.imm, env));
        VEX_Vdpps_xmm_xmm_xmmm128_imm8 vex_dot::<u32, 2>;
        VEX_Vdpps_ymm_ymm_ymmm256_imm8 vex_dot::<u32, 4>;
        VEX_Vdppd_xmm_xmm_xmmm128_imm8 vex_dot::<u64, 2>;
    }
};
