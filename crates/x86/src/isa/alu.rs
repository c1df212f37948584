//! Addition, subtraction, logic, comparison, decimal adjustment, and the exchanges that compare
//! (SDM volume 2: ADD, ADC, SUB, SBB, AND, OR, XOR, CMP, TEST, INC, DEC, NEG, NOT, XADD, CMPXCHG,
//! ADCX, ADOX, DAA, DAS, AAA, AAS, AAM, AAD).

use crate::exec::Exec;
use crate::flags::Flags;
use crate::insn::Insn;
use crate::state::{gpr, rflags};
use crate::table::Row;
use crate::trap::{Done, Trap};
use iced_x86::Code;
use mem::Word;

/// A two-operand operation that writes its first operand.
trait Operation {
    /// The result, of operand size `T` in the low bits.
    fn apply(a: u64, b: u64, carry: u64) -> u64;
    /// The flags.
    fn flags<T: Word>(flags: &mut Flags, a: u64, b: u64, result: u64);
}

macro_rules! operation {
    ($name:ident, |$a:ident, $b:ident, $c:ident| $result:expr, $set:ident) => {
        struct $name;
        impl Operation for $name {
            #[inline(always)]
            fn apply($a: u64, $b: u64, $c: u64) -> u64 {
                $result
            }
            #[inline(always)]
            fn flags<T: Word>(flags: &mut Flags, a: u64, b: u64, result: u64) {
                operation!($set, flags, a, b, result)
            }
        }
    };
    (add, $f:ident, $a:ident, $b:ident, $r:ident) => {
        $f.set_add::<T>($a, $b, $r)
    };
    (sub, $f:ident, $a:ident, $b:ident, $r:ident) => {
        $f.set_sub::<T>($a, $b, $r)
    };
    (logic, $f:ident, $a:ident, $b:ident, $r:ident) => {{
        let _ = ($a, $b);
        $f.set_logic::<T>($r)
    }};
}

operation!(Add, |a, b, _c| a.wrapping_add(b), add);
operation!(Adc, |a, b, c| a.wrapping_add(b).wrapping_add(c), add);
operation!(Sub, |a, b, _c| a.wrapping_sub(b), sub);
operation!(Sbb, |a, b, c| a.wrapping_sub(b).wrapping_sub(c), sub);
operation!(And, |a, b, _c| a & b, logic);
operation!(Or, |a, b, _c| a | b, logic);
operation!(Xor, |a, b, _c| a ^ b, logic);

fn binary<O: Operation, T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let b = x.get::<T>(i, 1)?.to_u64();
    let carry = u64::from(x.flags.cf());
    let (old, new) = x.modify::<T>(i, 0, |a| T::from_u64(O::apply(a.to_u64(), b, carry)))?;
    O::flags::<T>(&mut x.flags, old.to_u64(), b, new.to_u64());
    Ok(())
}

fn cmp<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let a = x.get::<T>(i, 0)?.to_u64();
    let b = x.get::<T>(i, 1)?.to_u64();
    x.flags.set_sub::<T>(a, b, a.wrapping_sub(b));
    Ok(())
}

fn test<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let a = x.get::<T>(i, 0)?.to_u64();
    let b = x.get::<T>(i, 1)?.to_u64();
    x.flags.set_logic::<T>(a & b);
    Ok(())
}

fn inc<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let cf = x.flags.cf();
    let (old, new) = x.modify::<T>(i, 0, |a| T::from_u64(a.to_u64().wrapping_add(1)))?;
    x.flags.set_add::<T>(old.to_u64(), 1, new.to_u64());
    x.flags.set_cf(cf);
    Ok(())
}

fn dec<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let cf = x.flags.cf();
    let (old, new) = x.modify::<T>(i, 0, |a| T::from_u64(a.to_u64().wrapping_sub(1)))?;
    x.flags.set_sub::<T>(old.to_u64(), 1, new.to_u64());
    x.flags.set_cf(cf);
    Ok(())
}

fn neg<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let (old, new) = x.modify::<T>(i, 0, |a| T::from_u64(a.to_u64().wrapping_neg()))?;
    x.flags.set_sub::<T>(0, old.to_u64(), new.to_u64());
    Ok(())
}

fn not<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    x.modify::<T>(i, 0, |a| T::from_u64(!a.to_u64()))?;
    Ok(())
}

fn xadd<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let b: T = x.reg(i.ops[1]);
    let sum = |a: T| T::from_u64(a.to_u64().wrapping_add(b.to_u64()));
    if i.is_mem(0) {
        let (old, new) = x.modify::<T>(i, 0, sum)?;
        x.set_reg(i.ops[1], old);
        x.flags.set_add::<T>(old.to_u64(), b.to_u64(), new.to_u64());
        return Ok(());
    }
    let old: T = x.reg(i.ops[0]);
    let new = sum(old);
    // The source first: when both are one register the sum stays.
    x.set_reg(i.ops[1], old);
    x.set_reg(i.ops[0], new);
    x.flags.set_add::<T>(old.to_u64(), b.to_u64(), new.to_u64());
    Ok(())
}

fn cmpxchg<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let accumulator: T = x.reg(gpr::RAX as u8);
    let source: T = x.reg(i.ops[1]);
    let old = if i.is_mem(0) {
        // The memory operand is always written: with its old value when they differ.
        x.modify::<T>(i, 0, |old| if old == accumulator { source } else { old })?
            .0
    } else {
        let old: T = x.reg(i.ops[0]);
        if old == accumulator {
            x.set_reg(i.ops[0], source);
        }
        old
    };
    let (a, b) = (accumulator.to_u64(), old.to_u64());
    x.flags.set_sub::<T>(a, b, a.wrapping_sub(b));
    if accumulator != old {
        // On success RAX keeps even its upper half; a register destination that failed is
        // written back as it was.
        x.set_reg(gpr::RAX as u8, old);
    }
    Ok(())
}

fn cmpxchg8b(x: &mut Exec<'_>, i: &Insn) -> Done {
    let pair = |high: u64, low: u64| high << 32 | low & 0xffff_ffff;
    let expected = pair(x.s.gpr[gpr::RDX], x.s.gpr[gpr::RAX]);
    let source = pair(x.s.gpr[gpr::RCX], x.s.gpr[gpr::RBX]);
    let (old, _) = x.modify::<u64>(i, 0, |old| if old == expected { source } else { old })?;
    if old != expected {
        x.s.gpr[gpr::RAX] = old & 0xffff_ffff;
        x.s.gpr[gpr::RDX] = old >> 32;
    }
    x.flags
        .replace(rflags::ZF, if old == expected { rflags::ZF } else { 0 });
    Ok(())
}

fn cmpxchg16b(x: &mut Exec<'_>, i: &Insn) -> Done {
    let wide = |high: usize, low: usize, x: &Exec<'_>| {
        u128::from(x.s.gpr[high]) << 64 | u128::from(x.s.gpr[low])
    };
    let expected = wide(gpr::RDX, gpr::RAX, x);
    let source = wide(gpr::RCX, gpr::RBX, x);
    let old = x.compare_exchange_16(i.seg, x.ea(i), expected, source)?;
    if old != expected {
        x.s.gpr[gpr::RAX] = old as u64;
        x.s.gpr[gpr::RDX] = (old >> 64) as u64;
    }
    x.flags
        .replace(rflags::ZF, if old == expected { rflags::ZF } else { 0 });
    Ok(())
}

fn adcx<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let carry = x.flags.cf();
    let (sum, carry) = add_with_carry::<T>(x, i, carry)?;
    x.flags.set_cf(carry);
    x.set_reg(i.ops[0], sum);
    Ok(())
}

fn adox<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let carry = x.flags.of();
    let (sum, carry) = add_with_carry::<T>(x, i, carry)?;
    let cf = x.flags.cf();
    x.flags.set_cf_of(cf, carry);
    x.set_reg(i.ops[0], sum);
    Ok(())
}

fn add_with_carry<T: Word>(x: &mut Exec<'_>, i: &Insn, carry: bool) -> Done<(T, bool)> {
    let b = x.get::<T>(i, 1)?.to_u64();
    let a = x.reg::<T>(i.ops[0]).to_u64();
    let sum = u128::from(a) + u128::from(b) + u128::from(carry);
    Ok((T::from_u64(sum as u64), sum >> (8 * T::SIZE) != 0))
}

/// DAA and DAS: `sign` is 1 or -1.
fn decimal_adjust(x: &mut Exec<'_>, sub: bool) {
    let old = x.reg::<u8>(0);
    let (cf, af) = (x.flags.cf(), x.flags.af());
    let low = old & 15 > 9 || af;
    let high = old > 0x99 || cf;
    let by = if low { 6 } else { 0 } + if high { 0x60 } else { 0 };
    let new = if sub {
        old.wrapping_sub(by)
    } else {
        old.wrapping_add(by)
    };
    // DAS also carries when the low correction borrows.
    let carry = high || sub && low && old < 6;
    x.set_reg(0, new);
    x.flags.set_result::<u8>(new.into(), carry, false, low);
}

fn daa(x: &mut Exec<'_>, _: &Insn) -> Done {
    decimal_adjust(x, false);
    Ok(())
}

fn das(x: &mut Exec<'_>, _: &Insn) -> Done {
    decimal_adjust(x, true);
    Ok(())
}

fn ascii_adjust(x: &mut Exec<'_>, sub: bool) {
    let ax = x.reg::<u16>(0);
    let adjust = ax & 15 > 9 || x.flags.af();
    let new = match (adjust, sub) {
        (false, _) => ax,
        (true, false) => ax.wrapping_add(0x106),
        (true, true) => ax.wrapping_sub(6).wrapping_sub(0x100),
    };
    let new = new & 0xff0f;
    x.set_reg(0, new);
    x.flags
        .set_result::<u8>((new & 0xff).into(), adjust, false, adjust);
}

fn aaa(x: &mut Exec<'_>, _: &Insn) -> Done {
    ascii_adjust(x, false);
    Ok(())
}

fn aas(x: &mut Exec<'_>, _: &Insn) -> Done {
    ascii_adjust(x, true);
    Ok(())
}

fn aam(x: &mut Exec<'_>, i: &Insn) -> Done {
    let base = i.imm as u8;
    let al = x.reg::<u8>(0);
    let (Some(high), Some(low)) = (al.checked_div(base), al.checked_rem(base)) else {
        return Err(Trap::DE);
    };
    x.set_reg(0, u16::from(high) << 8 | u16::from(low));
    x.flags.set_logic::<u8>(low.into());
    Ok(())
}

fn aad(x: &mut Exec<'_>, i: &Insn) -> Done {
    let ax = x.reg::<u16>(0);
    let al = (ax as u8).wrapping_add(((ax >> 8) as u8).wrapping_mul(i.imm as u8));
    x.set_reg(0, u16::from(al));
    x.flags.set_logic::<u8>(al.into());
    Ok(())
}

pub(crate) const ROWS: &[Row] = &[
    Row::new(Code::Add_rm8_r8, binary::<Add, u8>),
    Row::new(Code::Add_r8_rm8, binary::<Add, u8>),
    Row::new(Code::Add_AL_imm8, binary::<Add, u8>),
    Row::new(Code::Add_rm8_imm8, binary::<Add, u8>),
    Row::new(Code::Add_rm8_imm8_82, binary::<Add, u8>),
    Row::new(Code::Add_rm16_r16, binary::<Add, u16>),
    Row::new(Code::Add_r16_rm16, binary::<Add, u16>),
    Row::new(Code::Add_AX_imm16, binary::<Add, u16>),
    Row::new(Code::Add_rm16_imm16, binary::<Add, u16>),
    Row::new(Code::Add_rm16_imm8, binary::<Add, u16>),
    Row::new(Code::Add_rm32_r32, binary::<Add, u32>),
    Row::new(Code::Add_r32_rm32, binary::<Add, u32>),
    Row::new(Code::Add_EAX_imm32, binary::<Add, u32>),
    Row::new(Code::Add_rm32_imm32, binary::<Add, u32>),
    Row::new(Code::Add_rm32_imm8, binary::<Add, u32>),
    Row::new(Code::Add_rm64_r64, binary::<Add, u64>),
    Row::new(Code::Add_r64_rm64, binary::<Add, u64>),
    Row::new(Code::Add_RAX_imm32, binary::<Add, u64>),
    Row::new(Code::Add_rm64_imm32, binary::<Add, u64>),
    Row::new(Code::Add_rm64_imm8, binary::<Add, u64>),
    Row::new(Code::Or_rm8_r8, binary::<Or, u8>),
    Row::new(Code::Or_r8_rm8, binary::<Or, u8>),
    Row::new(Code::Or_AL_imm8, binary::<Or, u8>),
    Row::new(Code::Or_rm8_imm8, binary::<Or, u8>),
    Row::new(Code::Or_rm8_imm8_82, binary::<Or, u8>),
    Row::new(Code::Or_rm16_r16, binary::<Or, u16>),
    Row::new(Code::Or_r16_rm16, binary::<Or, u16>),
    Row::new(Code::Or_AX_imm16, binary::<Or, u16>),
    Row::new(Code::Or_rm16_imm16, binary::<Or, u16>),
    Row::new(Code::Or_rm16_imm8, binary::<Or, u16>),
    Row::new(Code::Or_rm32_r32, binary::<Or, u32>),
    Row::new(Code::Or_r32_rm32, binary::<Or, u32>),
    Row::new(Code::Or_EAX_imm32, binary::<Or, u32>),
    Row::new(Code::Or_rm32_imm32, binary::<Or, u32>),
    Row::new(Code::Or_rm32_imm8, binary::<Or, u32>),
    Row::new(Code::Or_rm64_r64, binary::<Or, u64>),
    Row::new(Code::Or_r64_rm64, binary::<Or, u64>),
    Row::new(Code::Or_RAX_imm32, binary::<Or, u64>),
    Row::new(Code::Or_rm64_imm32, binary::<Or, u64>),
    Row::new(Code::Or_rm64_imm8, binary::<Or, u64>),
    Row::new(Code::Adc_rm8_r8, binary::<Adc, u8>),
    Row::new(Code::Adc_r8_rm8, binary::<Adc, u8>),
    Row::new(Code::Adc_AL_imm8, binary::<Adc, u8>),
    Row::new(Code::Adc_rm8_imm8, binary::<Adc, u8>),
    Row::new(Code::Adc_rm8_imm8_82, binary::<Adc, u8>),
    Row::new(Code::Adc_rm16_r16, binary::<Adc, u16>),
    Row::new(Code::Adc_r16_rm16, binary::<Adc, u16>),
    Row::new(Code::Adc_AX_imm16, binary::<Adc, u16>),
    Row::new(Code::Adc_rm16_imm16, binary::<Adc, u16>),
    Row::new(Code::Adc_rm16_imm8, binary::<Adc, u16>),
    Row::new(Code::Adc_rm32_r32, binary::<Adc, u32>),
    Row::new(Code::Adc_r32_rm32, binary::<Adc, u32>),
    Row::new(Code::Adc_EAX_imm32, binary::<Adc, u32>),
    Row::new(Code::Adc_rm32_imm32, binary::<Adc, u32>),
    Row::new(Code::Adc_rm32_imm8, binary::<Adc, u32>),
    Row::new(Code::Adc_rm64_r64, binary::<Adc, u64>),
    Row::new(Code::Adc_r64_rm64, binary::<Adc, u64>),
    Row::new(Code::Adc_RAX_imm32, binary::<Adc, u64>),
    Row::new(Code::Adc_rm64_imm32, binary::<Adc, u64>),
    Row::new(Code::Adc_rm64_imm8, binary::<Adc, u64>),
    Row::new(Code::Sbb_rm8_r8, binary::<Sbb, u8>),
    Row::new(Code::Sbb_r8_rm8, binary::<Sbb, u8>),
    Row::new(Code::Sbb_AL_imm8, binary::<Sbb, u8>),
    Row::new(Code::Sbb_rm8_imm8, binary::<Sbb, u8>),
    Row::new(Code::Sbb_rm8_imm8_82, binary::<Sbb, u8>),
    Row::new(Code::Sbb_rm16_r16, binary::<Sbb, u16>),
    Row::new(Code::Sbb_r16_rm16, binary::<Sbb, u16>),
    Row::new(Code::Sbb_AX_imm16, binary::<Sbb, u16>),
    Row::new(Code::Sbb_rm16_imm16, binary::<Sbb, u16>),
    Row::new(Code::Sbb_rm16_imm8, binary::<Sbb, u16>),
    Row::new(Code::Sbb_rm32_r32, binary::<Sbb, u32>),
    Row::new(Code::Sbb_r32_rm32, binary::<Sbb, u32>),
    Row::new(Code::Sbb_EAX_imm32, binary::<Sbb, u32>),
    Row::new(Code::Sbb_rm32_imm32, binary::<Sbb, u32>),
    Row::new(Code::Sbb_rm32_imm8, binary::<Sbb, u32>),
    Row::new(Code::Sbb_rm64_r64, binary::<Sbb, u64>),
    Row::new(Code::Sbb_r64_rm64, binary::<Sbb, u64>),
    Row::new(Code::Sbb_RAX_imm32, binary::<Sbb, u64>),
    Row::new(Code::Sbb_rm64_imm32, binary::<Sbb, u64>),
    Row::new(Code::Sbb_rm64_imm8, binary::<Sbb, u64>),
    Row::new(Code::And_rm8_r8, binary::<And, u8>),
    Row::new(Code::And_r8_rm8, binary::<And, u8>),
    Row::new(Code::And_AL_imm8, binary::<And, u8>),
    Row::new(Code::And_rm8_imm8, binary::<And, u8>),
    Row::new(Code::And_rm8_imm8_82, binary::<And, u8>),
    Row::new(Code::And_rm16_r16, binary::<And, u16>),
    Row::new(Code::And_r16_rm16, binary::<And, u16>),
    Row::new(Code::And_AX_imm16, binary::<And, u16>),
    Row::new(Code::And_rm16_imm16, binary::<And, u16>),
    Row::new(Code::And_rm16_imm8, binary::<And, u16>),
    Row::new(Code::And_rm32_r32, binary::<And, u32>),
    Row::new(Code::And_r32_rm32, binary::<And, u32>),
    Row::new(Code::And_EAX_imm32, binary::<And, u32>),
    Row::new(Code::And_rm32_imm32, binary::<And, u32>),
    Row::new(Code::And_rm32_imm8, binary::<And, u32>),
    Row::new(Code::And_rm64_r64, binary::<And, u64>),
    Row::new(Code::And_r64_rm64, binary::<And, u64>),
    Row::new(Code::And_RAX_imm32, binary::<And, u64>),
    Row::new(Code::And_rm64_imm32, binary::<And, u64>),
    Row::new(Code::And_rm64_imm8, binary::<And, u64>),
    Row::new(Code::Sub_rm8_r8, binary::<Sub, u8>),
    Row::new(Code::Sub_r8_rm8, binary::<Sub, u8>),
    Row::new(Code::Sub_AL_imm8, binary::<Sub, u8>),
    Row::new(Code::Sub_rm8_imm8, binary::<Sub, u8>),
    Row::new(Code::Sub_rm8_imm8_82, binary::<Sub, u8>),
    Row::new(Code::Sub_rm16_r16, binary::<Sub, u16>),
    Row::new(Code::Sub_r16_rm16, binary::<Sub, u16>),
    Row::new(Code::Sub_AX_imm16, binary::<Sub, u16>),
    Row::new(Code::Sub_rm16_imm16, binary::<Sub, u16>),
    Row::new(Code::Sub_rm16_imm8, binary::<Sub, u16>),
    Row::new(Code::Sub_rm32_r32, binary::<Sub, u32>),
    Row::new(Code::Sub_r32_rm32, binary::<Sub, u32>),
    Row::new(Code::Sub_EAX_imm32, binary::<Sub, u32>),
    Row::new(Code::Sub_rm32_imm32, binary::<Sub, u32>),
    Row::new(Code::Sub_rm32_imm8, binary::<Sub, u32>),
    Row::new(Code::Sub_rm64_r64, binary::<Sub, u64>),
    Row::new(Code::Sub_r64_rm64, binary::<Sub, u64>),
    Row::new(Code::Sub_RAX_imm32, binary::<Sub, u64>),
    Row::new(Code::Sub_rm64_imm32, binary::<Sub, u64>),
    Row::new(Code::Sub_rm64_imm8, binary::<Sub, u64>),
    Row::new(Code::Xor_rm8_r8, binary::<Xor, u8>),
    Row::new(Code::Xor_r8_rm8, binary::<Xor, u8>),
    Row::new(Code::Xor_AL_imm8, binary::<Xor, u8>),
    Row::new(Code::Xor_rm8_imm8, binary::<Xor, u8>),
    Row::new(Code::Xor_rm8_imm8_82, binary::<Xor, u8>),
    Row::new(Code::Xor_rm16_r16, binary::<Xor, u16>),
    Row::new(Code::Xor_r16_rm16, binary::<Xor, u16>),
    Row::new(Code::Xor_AX_imm16, binary::<Xor, u16>),
    Row::new(Code::Xor_rm16_imm16, binary::<Xor, u16>),
    Row::new(Code::Xor_rm16_imm8, binary::<Xor, u16>),
    Row::new(Code::Xor_rm32_r32, binary::<Xor, u32>),
    Row::new(Code::Xor_r32_rm32, binary::<Xor, u32>),
    Row::new(Code::Xor_EAX_imm32, binary::<Xor, u32>),
    Row::new(Code::Xor_rm32_imm32, binary::<Xor, u32>),
    Row::new(Code::Xor_rm32_imm8, binary::<Xor, u32>),
    Row::new(Code::Xor_rm64_r64, binary::<Xor, u64>),
    Row::new(Code::Xor_r64_rm64, binary::<Xor, u64>),
    Row::new(Code::Xor_RAX_imm32, binary::<Xor, u64>),
    Row::new(Code::Xor_rm64_imm32, binary::<Xor, u64>),
    Row::new(Code::Xor_rm64_imm8, binary::<Xor, u64>),
    Row::new(Code::Cmp_rm8_r8, cmp::<u8>),
    Row::new(Code::Cmp_r8_rm8, cmp::<u8>),
    Row::new(Code::Cmp_AL_imm8, cmp::<u8>),
    Row::new(Code::Cmp_rm8_imm8, cmp::<u8>),
    Row::new(Code::Cmp_rm8_imm8_82, cmp::<u8>),
    Row::new(Code::Cmp_rm16_r16, cmp::<u16>),
    Row::new(Code::Cmp_r16_rm16, cmp::<u16>),
    Row::new(Code::Cmp_AX_imm16, cmp::<u16>),
    Row::new(Code::Cmp_rm16_imm16, cmp::<u16>),
    Row::new(Code::Cmp_rm16_imm8, cmp::<u16>),
    Row::new(Code::Cmp_rm32_r32, cmp::<u32>),
    Row::new(Code::Cmp_r32_rm32, cmp::<u32>),
    Row::new(Code::Cmp_EAX_imm32, cmp::<u32>),
    Row::new(Code::Cmp_rm32_imm32, cmp::<u32>),
    Row::new(Code::Cmp_rm32_imm8, cmp::<u32>),
    Row::new(Code::Cmp_rm64_r64, cmp::<u64>),
    Row::new(Code::Cmp_r64_rm64, cmp::<u64>),
    Row::new(Code::Cmp_RAX_imm32, cmp::<u64>),
    Row::new(Code::Cmp_rm64_imm32, cmp::<u64>),
    Row::new(Code::Cmp_rm64_imm8, cmp::<u64>),
    Row::new(Code::Test_rm8_r8, test::<u8>),
    Row::new(Code::Test_AL_imm8, test::<u8>),
    Row::new(Code::Test_rm8_imm8, test::<u8>),
    Row::new(Code::Test_rm8_imm8_F6r1, test::<u8>),
    Row::new(Code::Inc_rm8, inc::<u8>),
    Row::new(Code::Dec_rm8, dec::<u8>),
    Row::new(Code::Neg_rm8, neg::<u8>),
    Row::new(Code::Not_rm8, not::<u8>),
    Row::new(Code::Xadd_rm8_r8, xadd::<u8>),
    Row::new(Code::Cmpxchg_rm8_r8, cmpxchg::<u8>),
    Row::new(Code::Test_rm16_r16, test::<u16>),
    Row::new(Code::Test_AX_imm16, test::<u16>),
    Row::new(Code::Test_rm16_imm16, test::<u16>),
    Row::new(Code::Test_rm16_imm16_F7r1, test::<u16>),
    Row::new(Code::Inc_rm16, inc::<u16>),
    Row::new(Code::Dec_rm16, dec::<u16>),
    Row::new(Code::Neg_rm16, neg::<u16>),
    Row::new(Code::Not_rm16, not::<u16>),
    Row::new(Code::Inc_r16, inc::<u16>),
    Row::new(Code::Dec_r16, dec::<u16>),
    Row::new(Code::Xadd_rm16_r16, xadd::<u16>),
    Row::new(Code::Cmpxchg_rm16_r16, cmpxchg::<u16>),
    Row::new(Code::Test_rm32_r32, test::<u32>),
    Row::new(Code::Test_EAX_imm32, test::<u32>),
    Row::new(Code::Test_rm32_imm32, test::<u32>),
    Row::new(Code::Test_rm32_imm32_F7r1, test::<u32>),
    Row::new(Code::Inc_rm32, inc::<u32>),
    Row::new(Code::Dec_rm32, dec::<u32>),
    Row::new(Code::Neg_rm32, neg::<u32>),
    Row::new(Code::Not_rm32, not::<u32>),
    Row::new(Code::Inc_r32, inc::<u32>),
    Row::new(Code::Dec_r32, dec::<u32>),
    Row::new(Code::Xadd_rm32_r32, xadd::<u32>),
    Row::new(Code::Cmpxchg_rm32_r32, cmpxchg::<u32>),
    Row::new(Code::Test_rm64_r64, test::<u64>),
    Row::new(Code::Test_RAX_imm32, test::<u64>),
    Row::new(Code::Test_rm64_imm32, test::<u64>),
    Row::new(Code::Test_rm64_imm32_F7r1, test::<u64>),
    Row::new(Code::Inc_rm64, inc::<u64>),
    Row::new(Code::Dec_rm64, dec::<u64>),
    Row::new(Code::Neg_rm64, neg::<u64>),
    Row::new(Code::Not_rm64, not::<u64>),
    Row::new(Code::Xadd_rm64_r64, xadd::<u64>),
    Row::new(Code::Cmpxchg_rm64_r64, cmpxchg::<u64>),
    Row::new(Code::Cmpxchg8b_m64, cmpxchg8b),
    Row::new(Code::Cmpxchg16b_m128, cmpxchg16b),
    Row::new(Code::Adcx_r32_rm32, adcx::<u32>),
    Row::new(Code::Adox_r32_rm32, adox::<u32>),
    Row::new(Code::Adcx_r64_rm64, adcx::<u64>),
    Row::new(Code::Adox_r64_rm64, adox::<u64>),
    Row::new(Code::Daa, daa),
    Row::new(Code::Das, das),
    Row::new(Code::Aaa, aaa),
    Row::new(Code::Aas, aas),
    Row::new(Code::Aam_imm8, aam),
    Row::new(Code::Aad_imm8, aad),
];
