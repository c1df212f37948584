//! CMPPS, CMPPD, CMPSS, CMPSD with 8 predicates, their VEX forms with 32, and COMISS, COMISD,
//! UCOMISS, UCOMISD.

use super::{Element, zip};
use crate::exec::Exec;
use crate::insn::Insn;
use crate::isa::x87::compare::relation_flags;
use crate::softfloat::{Env, Signal, sse};
use crate::table::{Row, Unit};
use crate::trap::Done;
use iced_x86::Code;

/// All ones if the predicate holds.
#[inline(always)]
fn mask<T: Element>(a: T, b: T, predicate: u64, env: &mut Env) -> T {
    let holds = sse::cmp(a, b, predicate as u8, env);
    T::from_u64(if holds { u64::MAX } else { 0 })
}

fn sse_packed<T: Element>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let b = x.get_sse(i, 1)?;
    let a = x.xmm(i.ops[0]);
    let mut env = x.simd_env();
    let r = zip(a, b, |_, a: T, b| mask(a, b, i.imm & 7, &mut env));
    x.simd_report_packed(&mut env)?;
    x.set_xmm(i.ops[0], r);
    Ok(())
}

fn vex_packed<T: Element, const Q: usize>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let b = x.get_vector::<Q>(i, 2)?;
    let a = x.vector::<Q>(i.ops[1]);
    let mut env = x.simd_env();
    let r = zip(a, b, |_, a: T, b| mask(a, b, i.imm & 31, &mut env));
    x.simd_report_packed(&mut env)?;
    x.set_vector(i.ops[0], r);
    Ok(())
}

fn sse_scalar<T: Element>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let b: T = x.get_element(i, 1)?;
    let a = T::from_u64(x.xmm(i.ops[0])[0]);
    let mut env = x.simd_env();
    let r = mask(a, b, i.imm & 7, &mut env);
    x.simd_report(&env)?;
    x.set_element(i.ops[0], r);
    Ok(())
}

fn vex_scalar<T: Element>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let b: T = x.get_element(i, 2)?;
    let a = T::from_u64(x.xmm(i.ops[1])[0]);
    let mut env = x.simd_env();
    let r = mask(a, b, i.imm & 31, &mut env);
    x.simd_report(&env)?;
    x.set_scalar(i, r);
    Ok(())
}

fn flags<T: Element>(x: &mut Exec<'_>, i: &Insn, signal: Signal) -> Done {
    let b: T = x.get_element(i, 1)?;
    let a = T::from_u64(x.xmm(i.ops[0])[0]);
    let mut env = x.simd_env();
    let relation = sse::compare(a, b, signal, &mut env);
    x.simd_report(&env)?;
    x.flags = relation_flags(relation);
    Ok(())
}

pub(crate) const ROWS: &[Row] = rows! {
    sse {
        Cmpps_xmm_xmmm128_imm8 sse_packed::<u32>;
        Cmppd_xmm_xmmm128_imm8 sse_packed::<u64>;
        Cmpss_xmm_xmmm32_imm8 sse_scalar::<u32>;
        Cmpsd_xmm_xmmm64_imm8 sse_scalar::<u64>;
        Comiss_xmm_xmmm32 |x, i| flags::<u32>(x, i, Signal::AnyNan);
        Comisd_xmm_xmmm64 |x, i| flags::<u64>(x, i, Signal::AnyNan);
        Ucomiss_xmm_xmmm32 |x, i| flags::<u32>(x, i, Signal::Snan);
        Ucomisd_xmm_xmmm64 |x, i| flags::<u64>(x, i, Signal::Snan);
    }
    avx {
        VEX_Vcmpps_xmm_xmm_xmmm128_imm8 vex_packed::<u32, 2>;
        VEX_Vcmpps_ymm_ymm_ymmm256_imm8 vex_packed::<u32, 4>;
        VEX_Vcmppd_xmm_xmm_xmmm128_imm8 vex_packed::<u64, 2>;
        VEX_Vcmppd_ymm_ymm_ymmm256_imm8 vex_packed::<u64, 4>;
        VEX_Vcmpss_xmm_xmm_xmmm32_imm8 vex_scalar::<u32>;
        VEX_Vcmpsd_xmm_xmm_xmmm64_imm8 vex_scalar::<u64>;
        VEX_Vcomiss_xmm_xmmm32 |x, i| flags::<u32>(x, i, Signal::AnyNan);
        VEX_Vcomisd_xmm_xmmm64 |x, i| flags::<u64>(x, i, Signal::AnyNan);
        VEX_Vucomiss_xmm_xmmm32 |x, i| flags::<u32>(x, i, Signal::Snan);
        VEX_Vucomisd_xmm_xmmm64 |x, i| flags::<u64>(x, i, Signal::Snan);
    }
};
