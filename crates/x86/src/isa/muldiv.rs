//! Multiplication and division (SDM volume 2: MUL, IMUL, DIV, IDIV, MULX).

use crate::exec::Exec;
use crate::flags::sign_extend;
use crate::insn::Insn;
use crate::state::gpr;
use crate::table::Row;
use crate::trap::{Done, Trap};
use iced_x86::Code;
use mem::Word;

const fn width<T: Word>() -> u32 {
    8 * T::SIZE as u32
}

/// Writes a double-width result to AX, or to rDX:rAX.
fn set_double<T: Word>(x: &mut Exec<'_>, low: u64, high: u64) {
    if T::SIZE == 1 {
        x.set_reg(gpr::RAX as u8, (low & 0xff | high << 8) as u16);
    } else {
        x.set_reg(gpr::RAX as u8, T::from_u64(low));
        x.set_reg(gpr::RDX as u8, T::from_u64(high));
    }
}

/// AX, or rDX:rAX, zero-extended.
fn double<T: Word>(x: &Exec<'_>) -> u128 {
    if T::SIZE == 1 {
        u128::from(x.reg::<u16>(gpr::RAX as u8))
    } else {
        u128::from(x.reg::<T>(gpr::RDX as u8).to_u64()) << width::<T>()
            | u128::from(x.reg::<T>(gpr::RAX as u8).to_u64())
    }
}

fn mul<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let b = x.get::<T>(i, 0)?.to_u64();
    let product = u128::from(x.reg::<T>(0).to_u64()) * u128::from(b);
    let high = (product >> width::<T>()) as u64;
    set_double::<T>(x, product as u64, high);
    x.flags
        .set_result::<T>(product as u64, high != 0, high != 0, false);
    Ok(())
}

fn signed<T: Word>(value: T) -> i128 {
    i128::from(sign_extend::<T>(value.to_u64()) as i64)
}

fn imul<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let b = signed(x.get::<T>(i, 0)?);
    let product = signed(x.reg::<T>(0)) * b;
    set_double::<T>(x, product as u64, (product >> width::<T>()) as u64);
    set_signed_flags::<T>(x, product);
    Ok(())
}

fn set_signed_flags<T: Word>(x: &mut Exec<'_>, product: i128) {
    let lost = signed(T::from_u64(product as u64)) != product;
    x.flags.set_result::<T>(product as u64, lost, lost, false);
}

fn imul2<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let product = signed(x.get::<T>(i, 1)?) * signed(x.reg::<T>(i.ops[0]));
    x.set_reg(i.ops[0], T::from_u64(product as u64));
    set_signed_flags::<T>(x, product);
    Ok(())
}

fn imul3<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let product = signed(x.get::<T>(i, 1)?) * signed(T::from_u64(i.imm));
    x.set_reg(i.ops[0], T::from_u64(product as u64));
    set_signed_flags::<T>(x, product);
    Ok(())
}

fn div<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let divisor = u128::from(x.get::<T>(i, 0)?.to_u64());
    let dividend = double::<T>(x);
    let Some(quotient) = dividend.checked_div(divisor) else {
        return Err(Trap::DE);
    };
    if quotient >> width::<T>() != 0 {
        return Err(Trap::DE);
    }
    set_double::<T>(x, quotient as u64, (dividend % divisor) as u64);
    Ok(())
}

fn idiv<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let divisor = signed(x.get::<T>(i, 0)?);
    let shift = 128 - 2 * width::<T>();
    let dividend = (double::<T>(x) << shift) as i128 >> shift;
    // checked_div: by zero, or i128::MIN / -1, which does not fit either.
    let Some(quotient) = dividend.checked_div(divisor) else {
        return Err(Trap::DE);
    };
    if signed(T::from_u64(quotient as u64)) != quotient {
        return Err(Trap::DE);
    }
    set_double::<T>(
        x,
        quotient as u64,
        (dividend % divisor) as u64 & (u64::MAX >> (64 - width::<T>())),
    );
    Ok(())
}

fn mulx<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let b = x.get::<T>(i, 2)?.to_u64();
    let product = u128::from(x.reg::<T>(gpr::RDX as u8).to_u64()) * u128::from(b);
    // The low half first: when both destinations are one register it holds the high half.
    x.set_reg(i.ops[1], T::from_u64(product as u64));
    x.set_reg(i.ops[0], T::from_u64((product >> width::<T>()) as u64));
    Ok(())
}

pub(crate) const ROWS: &[Row] = &[
    Row::new(Code::Mul_rm8, mul::<u8>),
    Row::new(Code::Imul_rm8, imul::<u8>),
    Row::new(Code::Div_rm8, div::<u8>),
    Row::new(Code::Idiv_rm8, idiv::<u8>),
    Row::new(Code::Mul_rm16, mul::<u16>),
    Row::new(Code::Imul_rm16, imul::<u16>),
    Row::new(Code::Div_rm16, div::<u16>),
    Row::new(Code::Idiv_rm16, idiv::<u16>),
    Row::new(Code::Mul_rm32, mul::<u32>),
    Row::new(Code::Imul_rm32, imul::<u32>),
    Row::new(Code::Div_rm32, div::<u32>),
    Row::new(Code::Idiv_rm32, idiv::<u32>),
    Row::new(Code::Mul_rm64, mul::<u64>),
    Row::new(Code::Imul_rm64, imul::<u64>),
    Row::new(Code::Div_rm64, div::<u64>),
    Row::new(Code::Idiv_rm64, idiv::<u64>),
    Row::new(Code::Imul_r16_rm16, imul2::<u16>),
    Row::new(Code::Imul_r16_rm16_imm8, imul3::<u16>),
    Row::new(Code::Imul_r16_rm16_imm16, imul3::<u16>),
    Row::new(Code::Imul_r32_rm32, imul2::<u32>),
    Row::new(Code::Imul_r32_rm32_imm8, imul3::<u32>),
    Row::new(Code::Imul_r32_rm32_imm32, imul3::<u32>),
    Row::new(Code::Imul_r64_rm64, imul2::<u64>),
    Row::new(Code::Imul_r64_rm64_imm8, imul3::<u64>),
    Row::new(Code::Imul_r64_rm64_imm32, imul3::<u64>),
    Row::new(Code::VEX_Mulx_r32_r32_rm32, mulx::<u32>),
    Row::new(Code::VEX_Mulx_r64_r64_rm64, mulx::<u64>),
];
