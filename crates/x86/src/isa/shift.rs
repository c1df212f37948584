//! Shifts and rotates (SDM volume 2: SHL, SHR, SAR, ROL, ROR, RCL, RCR, SHLD, SHRD, RORX, SARX,
//! SHLX, SHRX). Flags that the manual leaves undefined follow what processors do where that is
//! simple.

use crate::exec::Exec;
use crate::flags::{Flags, sign_extend};
use crate::insn::Insn;
use crate::table::Row;
use crate::trap::Done;
use iced_x86::Code;
use mem::Word;

/// A shift of one operand; `count` is masked already and not zero.
trait Shift {
    /// The result and the flags after it.
    fn apply<T: Word>(value: u64, count: u32, flags: &mut Flags) -> u64;
}

const fn width<T: Word>() -> u32 {
    8 * T::SIZE as u32
}

fn bit(value: u64, n: u32) -> bool {
    value >> n & 1 != 0
}

/// The two topmost bits of a value differ: OF of the right shifts and rotates.
fn top_bits_differ<T: Word>(value: u64) -> bool {
    bit(value ^ value << 1, width::<T>() - 1)
}

struct Shl;
impl Shift for Shl {
    fn apply<T: Word>(value: u64, count: u32, flags: &mut Flags) -> u64 {
        let n = width::<T>();
        let wide = u128::from(value) << count;
        let cf = wide >> n & 1 != 0;
        let result = wide as u64;
        flags.set_result::<T>(result, cf, cf != bit(result, n - 1), false);
        result
    }
}

struct Shr;
impl Shift for Shr {
    fn apply<T: Word>(value: u64, count: u32, flags: &mut Flags) -> u64 {
        let result = value >> count;
        let cf = bit(value, count - 1);
        flags.set_result::<T>(result, cf, top_bits_differ::<T>(result), false);
        result
    }
}

struct Sar;
impl Shift for Sar {
    fn apply<T: Word>(value: u64, count: u32, flags: &mut Flags) -> u64 {
        let value = sign_extend::<T>(value) as i64;
        let result = (value >> count) as u64;
        flags.set_result::<T>(result, bit((value >> (count - 1)) as u64, 0), false, false);
        result
    }
}

struct Rol;
impl Shift for Rol {
    fn apply<T: Word>(value: u64, count: u32, flags: &mut Flags) -> u64 {
        let n = width::<T>();
        let count = count % n;
        let result = if count == 0 {
            value
        } else {
            value << count | value >> (n - count)
        };
        let cf = bit(result, 0);
        flags.set_cf_of(cf, cf != bit(result, n - 1));
        result
    }
}

struct Ror;
impl Shift for Ror {
    fn apply<T: Word>(value: u64, count: u32, flags: &mut Flags) -> u64 {
        let n = width::<T>();
        let count = count % n;
        let result = if count == 0 {
            value
        } else {
            value >> count | value << (n - count)
        };
        flags.set_cf_of(bit(result, n - 1), top_bits_differ::<T>(result));
        result
    }
}

struct Rcl;
impl Shift for Rcl {
    fn apply<T: Word>(value: u64, count: u32, flags: &mut Flags) -> u64 {
        let n = width::<T>();
        let mut count = count % (n + 1);
        if count == 0 {
            return value;
        }
        let (mut value, mut cf) = (value, flags.cf());
        while count > 0 {
            let out = bit(value, n - 1);
            value = value << 1 | u64::from(cf);
            cf = out;
            count -= 1;
        }
        flags.set_cf_of(cf, cf != bit(value, n - 1));
        value
    }
}

struct Rcr;
impl Shift for Rcr {
    fn apply<T: Word>(value: u64, count: u32, flags: &mut Flags) -> u64 {
        let n = width::<T>();
        let mut count = count % (n + 1);
        if count == 0 {
            return value;
        }
        let (mut value, mut cf) = (value, flags.cf());
        while count > 0 {
            let out = bit(value, 0);
            value = value >> 1 | u64::from(cf) << (n - 1);
            cf = out;
            count -= 1;
        }
        flags.set_cf_of(cf, top_bits_differ::<T>(value));
        value
    }
}

/// The count as shifts take it: 5 bits, 6 for 64-bit operands.
fn masked<T: Word>(count: u8) -> u32 {
    u32::from(count) & if T::SIZE == 8 { 63 } else { 31 }
}

fn shift<S: Shift, T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let count = masked::<T>(x.get::<u8>(i, 1)?);
    let mut flags = x.flags;
    let before = x.flags;
    x.modify::<T>(i, 0, |value| {
        if count == 0 {
            return value;
        }
        flags = before;
        T::from_u64(S::apply::<T>(value.to_u64(), count, &mut flags))
    })?;
    x.flags = flags;
    Ok(())
}

/// Three pieces of `n` bits (16 or 32), so that a 16-bit shift by more than 16 takes the
/// destination again.
fn thrice(value: u64, source: u64, n: u32) -> u128 {
    u128::from(value) << (2 * n) | u128::from(source) << n | u128::from(value)
}

/// SHLD: the bits of `source` come in at the right.
fn shld<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    double_shift::<T>(x, i, |value, source, count, n| match n {
        64 => (
            value << count | source >> (64 - count),
            value >> (64 - count) & 1 != 0,
        ),
        _ => {
            let wide = thrice(value, source, n) << count;
            ((wide >> (2 * n)) as u64, wide >> (3 * n) & 1 != 0)
        }
    })
}

/// SHRD: the bits of `source` come in at the left.
fn shrd<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    double_shift::<T>(x, i, |value, source, count, n| match n {
        64 => (
            value >> count | source << (64 - count),
            value >> (count - 1) & 1 != 0,
        ),
        _ => {
            let wide = thrice(value, source, n);
            ((wide >> count) as u64, wide >> (count - 1) & 1 != 0)
        }
    })
}

fn double_shift<T: Word>(
    x: &mut Exec<'_>,
    i: &Insn,
    f: impl Fn(u64, u64, u32, u32) -> (u64, bool),
) -> Done {
    let source: T = x.reg(i.ops[1]);
    let count = masked::<T>(x.get::<u8>(i, 2)?);
    let mut flags = x.flags;
    let n = width::<T>();
    x.modify::<T>(i, 0, |value| {
        if count == 0 {
            return value;
        }
        let (result, cf) = f(value.to_u64(), source.to_u64(), count, n);
        let of = bit(value.to_u64() ^ result, n - 1);
        flags.set_result::<T>(result, cf, of, false);
        T::from_u64(result)
    })?;
    x.flags = flags;
    Ok(())
}

fn rorx<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let value = x.get::<T>(i, 1)?.to_u64();
    let n = width::<T>();
    let count = i.imm as u32 & (n - 1);
    let result = if count == 0 {
        value
    } else {
        value >> count | value << (n - count)
    };
    x.set_reg(i.ops[0], T::from_u64(result));
    Ok(())
}

fn flagless<T: Word>(x: &mut Exec<'_>, i: &Insn, f: impl Fn(u64, u32) -> u64) -> Done {
    let value = x.get::<T>(i, 1)?.to_u64();
    let count = x.reg::<T>(i.ops[2]).to_u64() as u32 & (width::<T>() - 1);
    x.set_reg(i.ops[0], T::from_u64(f(value, count)));
    Ok(())
}

fn sarx<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    flagless::<T>(x, i, |value, count| {
        (sign_extend::<T>(value) as i64 >> count) as u64
    })
}

fn shlx<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    flagless::<T>(x, i, |value, count| value << count)
}

fn shrx<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    flagless::<T>(x, i, |value, count| value >> count)
}

pub(crate) const ROWS: &[Row] = &[
    Row::new(Code::Rol_rm8_imm8, shift::<Rol, u8>),
    Row::new(Code::Rol_rm8_1, shift::<Rol, u8>),
    Row::new(Code::Rol_rm8_CL, shift::<Rol, u8>),
    Row::new(Code::Rol_rm16_imm8, shift::<Rol, u16>),
    Row::new(Code::Rol_rm16_1, shift::<Rol, u16>),
    Row::new(Code::Rol_rm16_CL, shift::<Rol, u16>),
    Row::new(Code::Rol_rm32_imm8, shift::<Rol, u32>),
    Row::new(Code::Rol_rm32_1, shift::<Rol, u32>),
    Row::new(Code::Rol_rm32_CL, shift::<Rol, u32>),
    Row::new(Code::Rol_rm64_imm8, shift::<Rol, u64>),
    Row::new(Code::Rol_rm64_1, shift::<Rol, u64>),
    Row::new(Code::Rol_rm64_CL, shift::<Rol, u64>),
    Row::new(Code::Ror_rm8_imm8, shift::<Ror, u8>),
    Row::new(Code::Ror_rm8_1, shift::<Ror, u8>),
    Row::new(Code::Ror_rm8_CL, shift::<Ror, u8>),
    Row::new(Code::Ror_rm16_imm8, shift::<Ror, u16>),
    Row::new(Code::Ror_rm16_1, shift::<Ror, u16>),
    Row::new(Code::Ror_rm16_CL, shift::<Ror, u16>),
    Row::new(Code::Ror_rm32_imm8, shift::<Ror, u32>),
    Row::new(Code::Ror_rm32_1, shift::<Ror, u32>),
    Row::new(Code::Ror_rm32_CL, shift::<Ror, u32>),
    Row::new(Code::Ror_rm64_imm8, shift::<Ror, u64>),
    Row::new(Code::Ror_rm64_1, shift::<Ror, u64>),
    Row::new(Code::Ror_rm64_CL, shift::<Ror, u64>),
    Row::new(Code::Rcl_rm8_imm8, shift::<Rcl, u8>),
    Row::new(Code::Rcl_rm8_1, shift::<Rcl, u8>),
    Row::new(Code::Rcl_rm8_CL, shift::<Rcl, u8>),
    Row::new(Code::Rcl_rm16_imm8, shift::<Rcl, u16>),
    Row::new(Code::Rcl_rm16_1, shift::<Rcl, u16>),
    Row::new(Code::Rcl_rm16_CL, shift::<Rcl, u16>),
    Row::new(Code::Rcl_rm32_imm8, shift::<Rcl, u32>),
    Row::new(Code::Rcl_rm32_1, shift::<Rcl, u32>),
    Row::new(Code::Rcl_rm32_CL, shift::<Rcl, u32>),
    Row::new(Code::Rcl_rm64_imm8, shift::<Rcl, u64>),
    Row::new(Code::Rcl_rm64_1, shift::<Rcl, u64>),
    Row::new(Code::Rcl_rm64_CL, shift::<Rcl, u64>),
    Row::new(Code::Rcr_rm8_imm8, shift::<Rcr, u8>),
    Row::new(Code::Rcr_rm8_1, shift::<Rcr, u8>),
    Row::new(Code::Rcr_rm8_CL, shift::<Rcr, u8>),
    Row::new(Code::Rcr_rm16_imm8, shift::<Rcr, u16>),
    Row::new(Code::Rcr_rm16_1, shift::<Rcr, u16>),
    Row::new(Code::Rcr_rm16_CL, shift::<Rcr, u16>),
    Row::new(Code::Rcr_rm32_imm8, shift::<Rcr, u32>),
    Row::new(Code::Rcr_rm32_1, shift::<Rcr, u32>),
    Row::new(Code::Rcr_rm32_CL, shift::<Rcr, u32>),
    Row::new(Code::Rcr_rm64_imm8, shift::<Rcr, u64>),
    Row::new(Code::Rcr_rm64_1, shift::<Rcr, u64>),
    Row::new(Code::Rcr_rm64_CL, shift::<Rcr, u64>),
    Row::new(Code::Shl_rm8_imm8, shift::<Shl, u8>),
    Row::new(Code::Shl_rm8_1, shift::<Shl, u8>),
    Row::new(Code::Shl_rm8_CL, shift::<Shl, u8>),
    Row::new(Code::Shl_rm16_imm8, shift::<Shl, u16>),
    Row::new(Code::Shl_rm16_1, shift::<Shl, u16>),
    Row::new(Code::Shl_rm16_CL, shift::<Shl, u16>),
    Row::new(Code::Shl_rm32_imm8, shift::<Shl, u32>),
    Row::new(Code::Shl_rm32_1, shift::<Shl, u32>),
    Row::new(Code::Shl_rm32_CL, shift::<Shl, u32>),
    Row::new(Code::Shl_rm64_imm8, shift::<Shl, u64>),
    Row::new(Code::Shl_rm64_1, shift::<Shl, u64>),
    Row::new(Code::Shl_rm64_CL, shift::<Shl, u64>),
    Row::new(Code::Shr_rm8_imm8, shift::<Shr, u8>),
    Row::new(Code::Shr_rm8_1, shift::<Shr, u8>),
    Row::new(Code::Shr_rm8_CL, shift::<Shr, u8>),
    Row::new(Code::Shr_rm16_imm8, shift::<Shr, u16>),
    Row::new(Code::Shr_rm16_1, shift::<Shr, u16>),
    Row::new(Code::Shr_rm16_CL, shift::<Shr, u16>),
    Row::new(Code::Shr_rm32_imm8, shift::<Shr, u32>),
    Row::new(Code::Shr_rm32_1, shift::<Shr, u32>),
    Row::new(Code::Shr_rm32_CL, shift::<Shr, u32>),
    Row::new(Code::Shr_rm64_imm8, shift::<Shr, u64>),
    Row::new(Code::Shr_rm64_1, shift::<Shr, u64>),
    Row::new(Code::Shr_rm64_CL, shift::<Shr, u64>),
    Row::new(Code::Sal_rm8_imm8, shift::<Shl, u8>),
    Row::new(Code::Sal_rm8_1, shift::<Shl, u8>),
    Row::new(Code::Sal_rm8_CL, shift::<Shl, u8>),
    Row::new(Code::Sal_rm16_imm8, shift::<Shl, u16>),
    Row::new(Code::Sal_rm16_1, shift::<Shl, u16>),
    Row::new(Code::Sal_rm16_CL, shift::<Shl, u16>),
    Row::new(Code::Sal_rm32_imm8, shift::<Shl, u32>),
    Row::new(Code::Sal_rm32_1, shift::<Shl, u32>),
    Row::new(Code::Sal_rm32_CL, shift::<Shl, u32>),
    Row::new(Code::Sal_rm64_imm8, shift::<Shl, u64>),
    Row::new(Code::Sal_rm64_1, shift::<Shl, u64>),
    Row::new(Code::Sal_rm64_CL, shift::<Shl, u64>),
    Row::new(Code::Sar_rm8_imm8, shift::<Sar, u8>),
    Row::new(Code::Sar_rm8_1, shift::<Sar, u8>),
    Row::new(Code::Sar_rm8_CL, shift::<Sar, u8>),
    Row::new(Code::Sar_rm16_imm8, shift::<Sar, u16>),
    Row::new(Code::Sar_rm16_1, shift::<Sar, u16>),
    Row::new(Code::Sar_rm16_CL, shift::<Sar, u16>),
    Row::new(Code::Sar_rm32_imm8, shift::<Sar, u32>),
    Row::new(Code::Sar_rm32_1, shift::<Sar, u32>),
    Row::new(Code::Sar_rm32_CL, shift::<Sar, u32>),
    Row::new(Code::Sar_rm64_imm8, shift::<Sar, u64>),
    Row::new(Code::Sar_rm64_1, shift::<Sar, u64>),
    Row::new(Code::Sar_rm64_CL, shift::<Sar, u64>),
    Row::new(Code::Shld_rm16_r16_imm8, shld::<u16>),
    Row::new(Code::Shld_rm16_r16_CL, shld::<u16>),
    Row::new(Code::Shld_rm32_r32_imm8, shld::<u32>),
    Row::new(Code::Shld_rm32_r32_CL, shld::<u32>),
    Row::new(Code::Shld_rm64_r64_imm8, shld::<u64>),
    Row::new(Code::Shld_rm64_r64_CL, shld::<u64>),
    Row::new(Code::Shrd_rm16_r16_imm8, shrd::<u16>),
    Row::new(Code::Shrd_rm16_r16_CL, shrd::<u16>),
    Row::new(Code::Shrd_rm32_r32_imm8, shrd::<u32>),
    Row::new(Code::Shrd_rm32_r32_CL, shrd::<u32>),
    Row::new(Code::Shrd_rm64_r64_imm8, shrd::<u64>),
    Row::new(Code::Shrd_rm64_r64_CL, shrd::<u64>),
    Row::new(Code::VEX_Rorx_r32_rm32_imm8, rorx::<u32>),
    Row::new(Code::VEX_Sarx_r32_rm32_r32, sarx::<u32>),
    Row::new(Code::VEX_Shlx_r32_rm32_r32, shlx::<u32>),
    Row::new(Code::VEX_Shrx_r32_rm32_r32, shrx::<u32>),
    Row::new(Code::VEX_Rorx_r64_rm64_imm8, rorx::<u64>),
    Row::new(Code::VEX_Sarx_r64_rm64_r64, sarx::<u64>),
    Row::new(Code::VEX_Shlx_r64_rm64_r64, shlx::<u64>),
    Row::new(Code::VEX_Shrx_r64_rm64_r64, shrx::<u64>),
];
