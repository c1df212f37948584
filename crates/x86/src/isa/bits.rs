//! Bits: tests, scans, counts, extraction, and CRC32 (SDM volume 2: BT, BTS, BTR, BTC, BSF, BSR,
//! TZCNT, LZCNT, POPCNT, ANDN, BEXTR, BLSI, BLSMSK, BLSR, BZHI, PDEP, PEXT, CRC32).

use crate::exec::Exec;
use crate::flags::sign_extend;
use crate::insn::Insn;
use crate::state::rflags;
use crate::table::Row;
use crate::trap::Done;
use iced_x86::Code;
use mem::Word;

const fn width<T: Word>() -> u32 {
    8 * T::SIZE as u32
}

/// What BT and its kin do with the bit.
trait BitOperation {
    const WRITES: bool;
    fn apply(value: u64, mask: u64) -> u64;
}

struct Test;
impl BitOperation for Test {
    const WRITES: bool = false;
    fn apply(value: u64, _: u64) -> u64 {
        value
    }
}

struct Set;
impl BitOperation for Set {
    const WRITES: bool = true;
    fn apply(value: u64, mask: u64) -> u64 {
        value | mask
    }
}

struct Reset;
impl BitOperation for Reset {
    const WRITES: bool = true;
    fn apply(value: u64, mask: u64) -> u64 {
        value & !mask
    }
}

struct Complement;
impl BitOperation for Complement {
    const WRITES: bool = true;
    fn apply(value: u64, mask: u64) -> u64 {
        value ^ mask
    }
}

/// The bit offset is a register: with a memory operand it reaches beyond the operand.
fn bit_register<O: BitOperation, T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let offset = sign_extend::<T>(x.reg::<T>(i.ops[1]).to_u64()) as i64;
    let bytes = (offset >> width::<T>().trailing_zeros()) * T::SIZE as i64;
    bit::<O, T>(x, i, offset as u32, bytes as u64)
}

fn bit_immediate<O: BitOperation, T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    bit::<O, T>(x, i, i.imm as u32, 0)
}

fn bit<O: BitOperation, T: Word>(x: &mut Exec<'_>, i: &Insn, n: u32, bytes: u64) -> Done {
    let mask = 1u64 << (n & (width::<T>() - 1));
    let change = |v: T| T::from_u64(O::apply(v.to_u64(), mask));
    let old = match (i.is_mem(0), O::WRITES) {
        (true, writes) => {
            let address = x.ea(i).wrapping_add(bytes) & i.address_mask();
            if writes {
                x.modify_at::<T>(i.seg, address, i.lock, change)?.0
            } else {
                x.read::<T>(i.seg, address)?
            }
        }
        (false, true) => x.modify::<T>(i, 0, change)?.0,
        (false, false) => x.reg::<T>(i.ops[0]),
    };
    x.flags.set_cf(old.to_u64() & mask != 0);
    Ok(())
}

fn set_zf(x: &mut Exec<'_>, zero: bool) {
    x.flags
        .replace(rflags::ZF, if zero { rflags::ZF } else { 0 });
}

fn bsf<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    scan::<T>(x, i, |value| value.trailing_zeros())
}

fn bsr<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    scan::<T>(x, i, |value| 63 - value.leading_zeros())
}

fn scan<T: Word>(x: &mut Exec<'_>, i: &Insn, find: impl Fn(u64) -> u32) -> Done {
    let value = x.get::<T>(i, 1)?.to_u64();
    // A zero source leaves the destination wholly unchanged, as all processors do (AMD documents
    // it); not even the upper half of a 32-bit one is cleared.
    if value != 0 {
        x.set_reg(i.ops[0], T::from_u64(find(value).into()));
    }
    set_zf(x, value == 0);
    Ok(())
}

fn tzcnt<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    count::<T>(x, i, |value| value.trailing_zeros().min(width::<T>()))
}

fn lzcnt<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    count::<T>(x, i, |value| value.leading_zeros() - (64 - width::<T>()))
}

fn count<T: Word>(x: &mut Exec<'_>, i: &Insn, f: impl Fn(u64) -> u32) -> Done {
    let value = x.get::<T>(i, 1)?.to_u64();
    let n = f(value);
    x.set_reg(i.ops[0], T::from_u64(n.into()));
    x.flags.set_result::<T>(n.into(), value == 0, false, false);
    Ok(())
}

fn popcnt<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let value = x.get::<T>(i, 1)?.to_u64();
    x.set_reg(i.ops[0], T::from_u64(value.count_ones().into()));
    // All flags are cleared but ZF.
    x.flags
        .replace(rflags::ARITHMETIC, if value == 0 { rflags::ZF } else { 0 });
    Ok(())
}

fn andn<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let b = x.get::<T>(i, 2)?.to_u64();
    let result = !x.reg::<T>(i.ops[1]).to_u64() & b;
    x.set_reg(i.ops[0], T::from_u64(result));
    x.flags.set_logic::<T>(result);
    Ok(())
}

fn bextr<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let value = x.get::<T>(i, 1)?.to_u64();
    let control = x.reg::<T>(i.ops[2]).to_u64();
    let (start, len) = (control as u8, (control >> 8) as u8);
    let shifted = value.checked_shr(start.into()).unwrap_or(0);
    let result = if len >= 64 {
        shifted
    } else {
        shifted & ((1 << len) - 1)
    };
    x.set_reg(i.ops[0], T::from_u64(result));
    x.flags.set_logic::<T>(result);
    Ok(())
}

fn bzhi<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let value = x.get::<T>(i, 1)?.to_u64();
    let index = x.reg::<T>(i.ops[2]).to_u64() as u8;
    let beyond = u32::from(index) >= width::<T>();
    let result = if beyond {
        value
    } else {
        value & ((1 << index) - 1)
    };
    x.set_reg(i.ops[0], T::from_u64(result));
    x.flags.set_result::<T>(result, beyond, false, false);
    Ok(())
}

/// BLSI, BLSMSK, BLSR: `f` gives result and CF.
fn lowest<T: Word>(x: &mut Exec<'_>, i: &Insn, f: impl Fn(u64) -> (u64, bool)) -> Done {
    let (result, cf) = f(x.get::<T>(i, 1)?.to_u64());
    x.set_reg(i.ops[0], T::from_u64(result));
    x.flags.set_result::<T>(result, cf, false, false);
    Ok(())
}

fn blsi<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    lowest::<T>(x, i, |v| (v & v.wrapping_neg(), v != 0))
}

fn blsmsk<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    lowest::<T>(x, i, |v| (v ^ v.wrapping_sub(1), v == 0))
}

fn blsr<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    lowest::<T>(x, i, |v| (v & v.wrapping_sub(1), v == 0))
}

fn pdep<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let mut mask = x.get::<T>(i, 2)?.to_u64();
    let mut source = x.reg::<T>(i.ops[1]).to_u64();
    let mut result = 0;
    while mask != 0 {
        let low = mask & mask.wrapping_neg();
        if source & 1 != 0 {
            result |= low;
        }
        source >>= 1;
        mask ^= low;
    }
    x.set_reg(i.ops[0], T::from_u64(result));
    Ok(())
}

fn pext<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let mut mask = x.get::<T>(i, 2)?.to_u64();
    let source = x.reg::<T>(i.ops[1]).to_u64();
    let (mut result, mut n) = (0, 0);
    while mask != 0 {
        let low = mask & mask.wrapping_neg();
        result |= u64::from(source & low != 0) << n;
        n += 1;
        mask ^= low;
    }
    x.set_reg(i.ops[0], T::from_u64(result));
    Ok(())
}

/// CRC32 with the Castagnoli polynomial, reflected.
fn crc32<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let source = x.get::<T>(i, 1)?.to_u64();
    let mut crc = x.reg::<u32>(i.ops[0]);
    for n in 0..T::SIZE {
        crc ^= u32::from((source >> (8 * n)) as u8);
        for _ in 0..8 {
            crc = crc >> 1 ^ if crc & 1 != 0 { 0x82f6_3b78 } else { 0 };
        }
    }
    x.set_reg(i.ops[0], crc);
    Ok(())
}

pub(crate) const ROWS: &[Row] = &[
    Row::new(Code::Bt_rm16_r16, bit_register::<Test, u16>),
    Row::new(Code::Bt_rm16_imm8, bit_immediate::<Test, u16>),
    Row::new(Code::Bts_rm16_r16, bit_register::<Set, u16>),
    Row::new(Code::Bts_rm16_imm8, bit_immediate::<Set, u16>),
    Row::new(Code::Btr_rm16_r16, bit_register::<Reset, u16>),
    Row::new(Code::Btr_rm16_imm8, bit_immediate::<Reset, u16>),
    Row::new(Code::Btc_rm16_r16, bit_register::<Complement, u16>),
    Row::new(Code::Btc_rm16_imm8, bit_immediate::<Complement, u16>),
    Row::new(Code::Bsf_r16_rm16, bsf::<u16>),
    Row::new(Code::Bsr_r16_rm16, bsr::<u16>),
    Row::new(Code::Tzcnt_r16_rm16, tzcnt::<u16>),
    Row::new(Code::Lzcnt_r16_rm16, lzcnt::<u16>),
    Row::new(Code::Popcnt_r16_rm16, popcnt::<u16>),
    Row::new(Code::Bt_rm32_r32, bit_register::<Test, u32>),
    Row::new(Code::Bt_rm32_imm8, bit_immediate::<Test, u32>),
    Row::new(Code::Bts_rm32_r32, bit_register::<Set, u32>),
    Row::new(Code::Bts_rm32_imm8, bit_immediate::<Set, u32>),
    Row::new(Code::Btr_rm32_r32, bit_register::<Reset, u32>),
    Row::new(Code::Btr_rm32_imm8, bit_immediate::<Reset, u32>),
    Row::new(Code::Btc_rm32_r32, bit_register::<Complement, u32>),
    Row::new(Code::Btc_rm32_imm8, bit_immediate::<Complement, u32>),
    Row::new(Code::Bsf_r32_rm32, bsf::<u32>),
    Row::new(Code::Bsr_r32_rm32, bsr::<u32>),
    Row::new(Code::Tzcnt_r32_rm32, tzcnt::<u32>),
    Row::new(Code::Lzcnt_r32_rm32, lzcnt::<u32>),
    Row::new(Code::Popcnt_r32_rm32, popcnt::<u32>),
    Row::new(Code::Bt_rm64_r64, bit_register::<Test, u64>),
    Row::new(Code::Bt_rm64_imm8, bit_immediate::<Test, u64>),
    Row::new(Code::Bts_rm64_r64, bit_register::<Set, u64>),
    Row::new(Code::Bts_rm64_imm8, bit_immediate::<Set, u64>),
    Row::new(Code::Btr_rm64_r64, bit_register::<Reset, u64>),
    Row::new(Code::Btr_rm64_imm8, bit_immediate::<Reset, u64>),
    Row::new(Code::Btc_rm64_r64, bit_register::<Complement, u64>),
    Row::new(Code::Btc_rm64_imm8, bit_immediate::<Complement, u64>),
    Row::new(Code::Bsf_r64_rm64, bsf::<u64>),
    Row::new(Code::Bsr_r64_rm64, bsr::<u64>),
    Row::new(Code::Tzcnt_r64_rm64, tzcnt::<u64>),
    Row::new(Code::Lzcnt_r64_rm64, lzcnt::<u64>),
    Row::new(Code::Popcnt_r64_rm64, popcnt::<u64>),
    Row::new(Code::VEX_Andn_r32_r32_rm32, andn::<u32>),
    Row::new(Code::VEX_Bextr_r32_rm32_r32, bextr::<u32>),
    Row::new(Code::VEX_Bzhi_r32_rm32_r32, bzhi::<u32>),
    Row::new(Code::VEX_Pdep_r32_r32_rm32, pdep::<u32>),
    Row::new(Code::VEX_Pext_r32_r32_rm32, pext::<u32>),
    Row::new(Code::VEX_Blsi_r32_rm32, blsi::<u32>),
    Row::new(Code::VEX_Blsmsk_r32_rm32, blsmsk::<u32>),
    Row::new(Code::VEX_Blsr_r32_rm32, blsr::<u32>),
    Row::new(Code::VEX_Andn_r64_r64_rm64, andn::<u64>),
    Row::new(Code::VEX_Bextr_r64_rm64_r64, bextr::<u64>),
    Row::new(Code::VEX_Bzhi_r64_rm64_r64, bzhi::<u64>),
    Row::new(Code::VEX_Pdep_r64_r64_rm64, pdep::<u64>),
    Row::new(Code::VEX_Pext_r64_r64_rm64, pext::<u64>),
    Row::new(Code::VEX_Blsi_r64_rm64, blsi::<u64>),
    Row::new(Code::VEX_Blsmsk_r64_rm64, blsmsk::<u64>),
    Row::new(Code::VEX_Blsr_r64_rm64, blsr::<u64>),
    Row::new(Code::Crc32_r32_rm8, crc32::<u8>),
    Row::new(Code::Crc32_r64_rm8, crc32::<u8>),
    Row::new(Code::Crc32_r32_rm16, crc32::<u16>),
    Row::new(Code::Crc32_r32_rm32, crc32::<u32>),
    Row::new(Code::Crc32_r64_rm64, crc32::<u64>),
];
