//! RCPPS, RCPSS, RSQRTPS, RSQRTSS: the approximate reciprocals, bit for bit those of Intel
//! processors. They look at no bit of MXCSR and raise nothing.
//!
//! Measured over all significands and exponents on an Intel Xeon (CPUID signature 0xa0671): the
//! operand is cut to 11 (RCP) or 10 (RSQRT) fraction bits, and the answer is 1/x or 1/√x of the
//! middle of that interval, rounded to nearest with 12 fraction bits. `tests/differential`
//! compares them with the host's. Other vendors' answers differ.

use super::map;
use crate::exec::Exec;
use crate::insn::Insn;
use crate::table::{Row, Unit};
use crate::trap::Done;
use iced_x86::Code;

const SIGN: u32 = 1 << 31;
const INFINITY: u32 = 0xff << 23;
const QUIET: u32 = 1 << 22;
const INDEFINITE: u32 = SIGN | INFINITY | QUIET;

/// RCPSS. Denormals count as zeros, tiny results are zero.
fn reciprocal(a: u32) -> u32 {
    let (sign, exponent, fraction) = (a & SIGN, a >> 23 & 0xff, a & 0x7f_ffff);
    match exponent {
        0 => sign | INFINITY,
        0xff if fraction != 0 => a | QUIET,
        253.. => sign,
        _ => {
            // The middle of the interval is d/4096, d odd; 13 bits of its reciprocal.
            let d = 4097 + 2 * (fraction >> 12);
            let bits = ((1 << 26) + d) / (2 * d);
            sign | (253 - exponent) << 23 | (bits << 11 & 0x7f_ffff)
        }
    }
}

/// RSQRTSS.
fn reciprocal_root(a: u32) -> u32 {
    let (sign, exponent, fraction) = (a & SIGN, a >> 23 & 0xff, a & 0x7f_ffff);
    match exponent {
        0 => sign | INFINITY,
        0xff if fraction != 0 => a | QUIET,
        _ if sign != 0 => INDEFINITE,
        0xff => 0,
        _ => {
            // The middle of the interval is d/2048 · 2^power, d odd; an odd power lends a factor 2.
            let d = u64::from(2049 + 2 * (fraction >> 13));
            let power = exponent as i32 - 127;
            let square = if power & 1 != 0 { 2 * d } else { d };
            // 2^13/√(square/2^11), in [2^12, 2^13).
            let bits = rounded_root(37, square) as u32;
            ((126 - (power >> 1)) as u32) << 23 | (bits << 11 & 0x7f_ffff)
        }
    }
}

/// The integer nearest to √(2^`power` / `by`).
fn rounded_root(power: u32, by: u64) -> u64 {
    // (r + ½)² · by > 2^power ⟺ (2r + 1)² · by > 2^(power + 2).
    let limit = 1u128 << (power + 2);
    let (mut low, mut high) = (0u64, 1 << 14);
    while low < high {
        let middle = (low + high) / 2;
        let odd = u128::from(2 * middle + 1);
        if odd * odd * u128::from(by) > limit {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    low
}

fn sse_packed(x: &mut Exec<'_>, i: &Insn, f: fn(u32) -> u32) -> Done {
    let a = x.get_sse(i, 1)?;
    x.set_xmm(i.ops[0], map(a, |_, a| f(a)));
    Ok(())
}

fn vex_packed<const Q: usize>(x: &mut Exec<'_>, i: &Insn, f: fn(u32) -> u32) -> Done {
    let a = x.get_vector::<Q>(i, 1)?;
    x.set_vector(i.ops[0], map(a, |_, a| f(a)));
    Ok(())
}

fn sse_scalar(x: &mut Exec<'_>, i: &Insn, f: fn(u32) -> u32) -> Done {
    let a = x.get_element(i, 1)?;
    x.set_element(i.ops[0], f(a));
    Ok(())
}

fn vex_scalar(x: &mut Exec<'_>, i: &Insn, f: fn(u32) -> u32) -> Done {
    let a = x.get_element(i, 2)?;
    x.set_scalar(i, f(a));
    Ok(())
}

pub(crate) const ROWS: &[Row] = rows! {
    sse {
        Rcpps_xmm_xmmm128 |x, i| sse_packed(x, i, reciprocal);
        Rcpss_xmm_xmmm32 |x, i| sse_scalar(x, i, reciprocal);
        Rsqrtps_xmm_xmmm128 |x, i| sse_packed(x, i, reciprocal_root);
        Rsqrtss_xmm_xmmm32 |x, i| sse_scalar(x, i, reciprocal_root);
    }
    avx {
        VEX_Vrcpps_xmm_xmmm128 |x, i| vex_packed::<2>(x, i, reciprocal);
        VEX_Vrcpps_ymm_ymmm256 |x, i| vex_packed::<4>(x, i, reciprocal);
        VEX_Vrcpss_xmm_xmm_xmmm32 |x, i| vex_scalar(x, i, reciprocal);
        VEX_Vrsqrtps_xmm_xmmm128 |x, i| vex_packed::<2>(x, i, reciprocal_root);
        VEX_Vrsqrtps_ymm_ymmm256 |x, i| vex_packed::<4>(x, i, reciprocal_root);
        VEX_Vrsqrtss_xmm_xmm_xmmm32 |x, i| vex_scalar(x, i, reciprocal_root);
    }
};

#[cfg(test)]
mod tests {
    use super::{reciprocal, reciprocal_root};

    /// Operand, RCPSS, RSQRTSS, as measured.
    const MEASURED: &[(u32, u32, u32)] = &[
        (0, 0x7f80_0000, 0x7f80_0000),
        (0x8000_0000, 0xff80_0000, 0xff80_0000),
        (0x007f_ffff, 0x7f80_0000, 0x7f80_0000),
        (0x8000_0001, 0xff80_0000, 0xff80_0000),
        (0x0080_0000, 0x7e7f_f000, 0x5eff_f000),
        (0x3f80_0000, 0x3f7f_f000, 0x3f7f_f000),
        (0xbf80_0000, 0xbf7f_f000, 0xffc0_0000),
        (0x7e00_0001, 0x00ff_f000, 0x2034_f800),
        (0x7e7f_ffff, 0x0080_0800, 0x2000_0800),
        (0x7e80_0000, 0, 0x1fff_f000),
        (0x7f00_0000, 0, 0x1fb4_f800),
        (0x7f7f_ffff, 0, 0x1f80_0800),
        (0x7f80_0000, 0, 0),
        (0xff80_0000, 0x8000_0000, 0xffc0_0000),
        (0x7f80_0001, 0x7fc0_0001, 0x7fc0_0001),
        (0xff81_2345, 0xffc1_2345, 0xffc1_2345),
    ];

    #[test]
    fn the_estimates_are_the_measured_ones() {
        for &(a, r, root) in MEASURED {
            assert_eq!((reciprocal(a), reciprocal_root(a)), (r, root), "{a:#x}");
        }
    }

    #[test]
    fn every_reciprocal_is_within_the_documented_error() {
        for cut in 0..2048u32 {
            for low in [0, 0xfff] {
                for exponent in [127u32, 128] {
                    let bits = exponent << 23 | cut << 12 | low;
                    let a = f64::from(f32::from_bits(bits));
                    let r = f64::from(f32::from_bits(reciprocal(bits)));
                    let root = f64::from(f32::from_bits(reciprocal_root(bits)));
                    let limit = 1.5 / 4096.0;
                    assert!((r * a - 1.0).abs() <= limit, "{bits:#x}");
                    assert!((root * a.sqrt() - 1.0).abs() <= limit, "{bits:#x}");
                }
            }
        }
    }
}
