//! Fused multiply-add (SDM volume 1, "Fused-Multiply-ADD (FMA) Extensions").

use super::{Element, element, map};
use crate::exec::Exec;
use crate::insn::Insn;
use crate::softfloat::Env;
use crate::softfloat::sse::{self, Negate};
use crate::table::{Row, Unit};
use crate::trap::Done;
use iced_x86::Code;

/// What is negated in even and in odd elements.
type Signs = [Negate; 2];

const fn signs(product: bool, even: bool, odd: bool) -> Signs {
    [
        Negate {
            product,
            addend: even,
        },
        Negate {
            product,
            addend: odd,
        },
    ]
}

const FMADD: Signs = signs(false, false, false);
const FMSUB: Signs = signs(false, true, true);
const FNMADD: Signs = signs(true, false, false);
const FNMSUB: Signs = signs(true, true, true);
/// Odd elements add.
const FMADDSUB: Signs = signs(false, true, false);
/// Even elements add.
const FMSUBADD: Signs = signs(false, false, true);

/// The operation in the order of operands the mnemonic's digits name.
#[inline(always)]
fn ordered<T: Element, const ORDER: u16>(a: T, b: T, c: T, negate: Negate, env: &mut Env) -> T {
    match ORDER {
        132 => sse::mul_add(a, c, b, negate, env),
        213 => sse::mul_add(b, a, c, negate, env),
        _ => sse::mul_add(b, c, a, negate, env),
    }
}

fn packed<T: Element, const Q: usize, const ORDER: u16>(
    x: &mut Exec<'_>,
    i: &Insn,
    signs: Signs,
) -> Done {
    let c = x.get_vector::<Q>(i, 2)?;
    let (a, b) = (x.vector::<Q>(i.ops[0]), x.vector::<Q>(i.ops[1]));
    let mut env = x.simd_env();
    let r = map(a, |n, a: T| {
        ordered::<T, ORDER>(a, element(&b, n), element(&c, n), signs[n % 2], &mut env)
    });
    x.simd_report_packed(&mut env)?;
    x.set_vector(i.ops[0], r);
    Ok(())
}

/// Above the result the destination stays, up to bit 127.
fn scalar<T: Element, const ORDER: u16>(x: &mut Exec<'_>, i: &Insn, signs: Signs) -> Done {
    let c: T = x.get_element(i, 2)?;
    let a = T::from_u64(x.xmm(i.ops[0])[0]);
    let b = T::from_u64(x.xmm(i.ops[1])[0]);
    let mut env = x.simd_env();
    let r = ordered::<T, ORDER>(a, b, c, signs[0], &mut env);
    x.simd_report(&env)?;
    x.set_element(i.ops[0], r);
    let low = x.xmm(i.ops[0]);
    x.set_xmm_clear(i.ops[0], low);
    Ok(())
}

macro_rules! rows {
    ($($signs:ident $order:literal:
        $ps:ident $ps256:ident $pd:ident $pd256:ident $($ss:ident $sd:ident)?;)*) => {
        &[$(
            Row::new(Code::$ps, |x, i| packed::<u32, 2, $order>(x, i, $signs)).unit(Unit::Avx),
            Row::new(Code::$ps256, |x, i| packed::<u32, 4, $order>(x, i, $signs)).unit(Unit::Avx),
            Row::new(Code::$pd, |x, i| packed::<u64, 2, $order>(x, i, $signs)).unit(Unit::Avx),
            Row::new(Code::$pd256, |x, i| packed::<u64, 4, $order>(x, i, $signs)).unit(Unit::Avx),
            $(
                Row::new(Code::$ss, |x, i| scalar::<u32, $order>(x, i, $signs)).unit(Unit::Avx),
                Row::new(Code::$sd, |x, i| scalar::<u64, $order>(x, i, $signs)).unit(Unit::Avx),
            )?
        )*]
    };
}

pub(crate) const ROWS: &[Row] = rows! {
    FMADD 132: VEX_Vfmadd132ps_xmm_xmm_xmmm128 VEX_Vfmadd132ps_ymm_ymm_ymmm256 VEX_Vfmadd132pd_xmm_xmm_xmmm128 VEX_Vfmadd132pd_ymm_ymm_ymmm256
        VEX_Vfmadd132ss_xmm_xmm_xmmm32 VEX_Vfmadd132sd_xmm_xmm_xmmm64;
    FMADD 213: VEX_Vfmadd213ps_xmm_xmm_xmmm128 VEX_Vfmadd213ps_ymm_ymm_ymmm256 VEX_Vfmadd213pd_xmm_xmm_xmmm128 VEX_Vfmadd213pd_ymm_ymm_ymmm256
        VEX_Vfmadd213ss_xmm_xmm_xmmm32 VEX_Vfmadd213sd_xmm_xmm_xmmm64;
    FMADD 231: VEX_Vfmadd231ps_xmm_xmm_xmmm128 VEX_Vfmadd231ps_ymm_ymm_ymmm256 VEX_Vfmadd231pd_xmm_xmm_xmmm128 VEX_Vfmadd231pd_ymm_ymm_ymmm256
        VEX_Vfmadd231ss_xmm_xmm_xmmm32 VEX_Vfmadd231sd_xmm_xmm_xmmm64;
    FMSUB 132: VEX_Vfmsub132ps_xmm_xmm_xmmm128 VEX_Vfmsub132ps_ymm_ymm_ymmm256 VEX_Vfmsub132pd_xmm_xmm_xmmm128 VEX_Vfmsub132pd_ymm_ymm_ymmm256
        VEX_Vfmsub132ss_xmm_xmm_xmmm32 VEX_Vfmsub132sd_xmm_xmm_xmmm64;
    FMSUB 213: VEX_Vfmsub213ps_xmm_xmm_xmmm128 VEX_Vfmsub213ps_ymm_ymm_ymmm256 VEX_Vfmsub213pd_xmm_xmm_xmmm128 VEX_Vfmsub213pd_ymm_ymm_ymmm256
        VEX_Vfmsub213ss_xmm_xmm_xmmm32 VEX_Vfmsub213sd_xmm_xmm_xmmm64;
    FMSUB 231: VEX_Vfmsub231ps_xmm_xmm_xmmm128 VEX_Vfmsub231ps_ymm_ymm_ymmm256 VEX_Vfmsub231pd_xmm_xmm_xmmm128 VEX_Vfmsub231pd_ymm_ymm_ymmm256
        VEX_Vfmsub231ss_xmm_xmm_xmmm32 VEX_Vfmsub231sd_xmm_xmm_xmmm64;
    FNMADD 132: VEX_Vfnmadd132ps_xmm_xmm_xmmm128 VEX_Vfnmadd132ps_ymm_ymm_ymmm256 VEX_Vfnmadd132pd_xmm_xmm_xmmm128 VEX_Vfnmadd132pd_ymm_ymm_ymmm256
        VEX_Vfnmadd132ss_xmm_xmm_xmmm32 VEX_Vfnmadd132sd_xmm_xmm_xmmm64;
    FNMADD 213: VEX_Vfnmadd213ps_xmm_xmm_xmmm128 VEX_Vfnmadd213ps_ymm_ymm_ymmm256 VEX_Vfnmadd213pd_xmm_xmm_xmmm128 VEX_Vfnmadd213pd_ymm_ymm_ymmm256
        VEX_Vfnmadd213ss_xmm_xmm_xmmm32 VEX_Vfnmadd213sd_xmm_xmm_xmmm64;
    FNMADD 231: VEX_Vfnmadd231ps_xmm_xmm_xmmm128 VEX_Vfnmadd231ps_ymm_ymm_ymmm256 VEX_Vfnmadd231pd_xmm_xmm_xmmm128 VEX_Vfnmadd231pd_ymm_ymm_ymmm256
        VEX_Vfnmadd231ss_xmm_xmm_xmmm32 VEX_Vfnmadd231sd_xmm_xmm_xmmm64;
    FNMSUB 132: VEX_Vfnmsub132ps_xmm_xmm_xmmm128 VEX_Vfnmsub132ps_ymm_ymm_ymmm256 VEX_Vfnmsub132pd_xmm_xmm_xmmm128 VEX_Vfnmsub132pd_ymm_ymm_ymmm256
        VEX_Vfnmsub132ss_xmm_xmm_xmmm32 VEX_Vfnmsub132sd_xmm_xmm_xmmm64;
    FNMSUB 213: VEX_Vfnmsub213ps_xmm_xmm_xmmm128 VEX_Vfnmsub213ps_ymm_ymm_ymmm256 VEX_Vfnmsub213pd_xmm_xmm_xmmm128 VEX_Vfnmsub213pd_ymm_ymm_ymmm256
        VEX_Vfnmsub213ss_xmm_xmm_xmmm32 VEX_Vfnmsub213sd_xmm_xmm_xmmm64;
    FNMSUB 231: VEX_Vfnmsub231ps_xmm_xmm_xmmm128 VEX_Vfnmsub231ps_ymm_ymm_ymmm256 VEX_Vfnmsub231pd_xmm_xmm_xmmm128 VEX_Vfnmsub231pd_ymm_ymm_ymmm256
        VEX_Vfnmsub231ss_xmm_xmm_xmmm32 VEX_Vfnmsub231sd_xmm_xmm_xmmm64;
    FMADDSUB 132: VEX_Vfmaddsub132ps_xmm_xmm_xmmm128 VEX_Vfmaddsub132ps_ymm_ymm_ymmm256 VEX_Vfmaddsub132pd_xmm_xmm_xmmm128 VEX_Vfmaddsub132pd_ymm_ymm_ymmm256;
    FMADDSUB 213: VEX_Vfmaddsub213ps_xmm_xmm_xmmm128 VEX_Vfmaddsub213ps_ymm_ymm_ymmm256 VEX_Vfmaddsub213pd_xmm_xmm_xmmm128 VEX_Vfmaddsub213pd_ymm_ymm_ymmm256;
    FMADDSUB 231: VEX_Vfmaddsub231ps_xmm_xmm_xmmm128 VEX_Vfmaddsub231ps_ymm_ymm_ymmm256 VEX_Vfmaddsub231pd_xmm_xmm_xmmm128 VEX_Vfmaddsub231pd_ymm_ymm_ymmm256;
    FMSUBADD 132: VEX_Vfmsubadd132ps_xmm_xmm_xmmm128 VEX_Vfmsubadd132ps_ymm_ymm_ymmm256 VEX_Vfmsubadd132pd_xmm_xmm_xmmm128 VEX_Vfmsubadd132pd_ymm_ymm_ymmm256;
    FMSUBADD 213: VEX_Vfmsubadd213ps_xmm_xmm_xmmm128 VEX_Vfmsubadd213ps_ymm_ymm_ymmm256 VEX_Vfmsubadd213pd_xmm_xmm_xmmm128 VEX_Vfmsubadd213pd_ymm_ymm_ymmm256;
    FMSUBADD 231: VEX_Vfmsubadd231ps_xmm_xmm_xmmm128 VEX_Vfmsubadd231ps_ymm_ymm_ymmm256 VEX_Vfmsubadd231pd_xmm_xmm_xmmm128 VEX_Vfmsubadd231pd_ymm_ymm_ymmm256;
};
