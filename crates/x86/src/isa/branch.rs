//! Near transfers of control (SDM volume 2: JMP, Jcc, CALL, RET, LOOP, JCXZ). Far ones are in
//! `transfer`.

use crate::exec::Exec;
use crate::insn::Insn;
use crate::state::gpr;
use crate::table::Row;
use crate::trap::Done;
use iced_x86::Code;
use mem::Word;

fn jmp(x: &mut Exec<'_>, i: &Insn) -> Done {
    x.jump(i.imm)
}

fn jcc<const CC: u8>(x: &mut Exec<'_>, i: &Insn) -> Done {
    if x.flags.condition(CC) {
        x.jump(i.imm)
    } else {
        Ok(())
    }
}

fn jmp_indirect<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let target = x.get::<T>(i, 0)?.to_u64();
    x.jump(target)
}

fn call_to<T: Word>(x: &mut Exec<'_>, target: u64) -> Done {
    let back = T::from_u64(x.next);
    // The return address is written before the target is checked; rSP moves after that.
    let sp = x.s.gpr[gpr::RSP].wrapping_sub(T::SIZE as u64);
    x.write_stack(sp, back)?;
    x.jump(target)?;
    x.set_sp(sp);
    Ok(())
}

fn call<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    call_to::<T>(x, i.imm)
}

fn call_indirect<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let target = x.get::<T>(i, 0)?.to_u64();
    call_to::<T>(x, target)
}

fn ret<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let sp = x.s.gpr[gpr::RSP];
    let target = x.read_stack::<T>(sp)?.to_u64();
    x.jump(target)?;
    // `imm` is the number of bytes to drop, zero in the form without.
    x.set_sp(sp.wrapping_add(T::SIZE as u64).wrapping_add(i.imm & 0xffff));
    Ok(())
}

fn counted<T: Word>(x: &mut Exec<'_>, i: &Insn, also: bool) -> Done {
    let count = x.reg::<T>(gpr::RCX as u8).to_u64().wrapping_sub(1);
    let count = T::from_u64(count);
    if count != T::default() && also {
        x.jump(i.imm)?;
    }
    x.set_reg(gpr::RCX as u8, count);
    Ok(())
}

fn loop_<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    counted::<T>(x, i, true)
}

fn loope<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let zf = x.flags.zf();
    counted::<T>(x, i, zf)
}

fn loopne<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let zf = x.flags.zf();
    counted::<T>(x, i, !zf)
}

fn jcxz<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    if x.reg::<T>(gpr::RCX as u8) == T::default() {
        x.jump(i.imm)
    } else {
        Ok(())
    }
}

pub(crate) const ROWS: &[Row] = &[
    Row::new(Code::Jmp_rel8_16, jmp),
    Row::new(Code::Jmp_rel8_32, jmp),
    Row::new(Code::Jmp_rel8_64, jmp),
    Row::new(Code::Jmp_rel16, jmp),
    Row::new(Code::Jmp_rel32_32, jmp),
    Row::new(Code::Jmp_rel32_64, jmp),
    Row::new(Code::Jo_rel8_16, jcc::<0>),
    Row::new(Code::Jo_rel8_32, jcc::<0>),
    Row::new(Code::Jo_rel8_64, jcc::<0>),
    Row::new(Code::Jo_rel16, jcc::<0>),
    Row::new(Code::Jo_rel32_32, jcc::<0>),
    Row::new(Code::Jo_rel32_64, jcc::<0>),
    Row::new(Code::Jno_rel8_16, jcc::<1>),
    Row::new(Code::Jno_rel8_32, jcc::<1>),
    Row::new(Code::Jno_rel8_64, jcc::<1>),
    Row::new(Code::Jno_rel16, jcc::<1>),
    Row::new(Code::Jno_rel32_32, jcc::<1>),
    Row::new(Code::Jno_rel32_64, jcc::<1>),
    Row::new(Code::Jb_rel8_16, jcc::<2>),
    Row::new(Code::Jb_rel8_32, jcc::<2>),
    Row::new(Code::Jb_rel8_64, jcc::<2>),
    Row::new(Code::Jb_rel16, jcc::<2>),
    Row::new(Code::Jb_rel32_32, jcc::<2>),
    Row::new(Code::Jb_rel32_64, jcc::<2>),
    Row::new(Code::Jae_rel8_16, jcc::<3>),
    Row::new(Code::Jae_rel8_32, jcc::<3>),
    Row::new(Code::Jae_rel8_64, jcc::<3>),
    Row::new(Code::Jae_rel16, jcc::<3>),
    Row::new(Code::Jae_rel32_32, jcc::<3>),
    Row::new(Code::Jae_rel32_64, jcc::<3>),
    Row::new(Code::Je_rel8_16, jcc::<4>),
    Row::new(Code::Je_rel8_32, jcc::<4>),
    Row::new(Code::Je_rel8_64, jcc::<4>),
    Row::new(Code::Je_rel16, jcc::<4>),
    Row::new(Code::Je_rel32_32, jcc::<4>),
    Row::new(Code::Je_rel32_64, jcc::<4>),
    Row::new(Code::Jne_rel8_16, jcc::<5>),
    Row::new(Code::Jne_rel8_32, jcc::<5>),
    Row::new(Code::Jne_rel8_64, jcc::<5>),
    Row::new(Code::Jne_rel16, jcc::<5>),
    Row::new(Code::Jne_rel32_32, jcc::<5>),
    Row::new(Code::Jne_rel32_64, jcc::<5>),
    Row::new(Code::Jbe_rel8_16, jcc::<6>),
    Row::new(Code::Jbe_rel8_32, jcc::<6>),
    Row::new(Code::Jbe_rel8_64, jcc::<6>),
    Row::new(Code::Jbe_rel16, jcc::<6>),
    Row::new(Code::Jbe_rel32_32, jcc::<6>),
    Row::new(Code::Jbe_rel32_64, jcc::<6>),
    Row::new(Code::Ja_rel8_16, jcc::<7>),
    Row::new(Code::Ja_rel8_32, jcc::<7>),
    Row::new(Code::Ja_rel8_64, jcc::<7>),
    Row::new(Code::Ja_rel16, jcc::<7>),
    Row::new(Code::Ja_rel32_32, jcc::<7>),
    Row::new(Code::Ja_rel32_64, jcc::<7>),
    Row::new(Code::Js_rel8_16, jcc::<8>),
    Row::new(Code::Js_rel8_32, jcc::<8>),
    Row::new(Code::Js_rel8_64, jcc::<8>),
    Row::new(Code::Js_rel16, jcc::<8>),
    Row::new(Code::Js_rel32_32, jcc::<8>),
    Row::new(Code::Js_rel32_64, jcc::<8>),
    Row::new(Code::Jns_rel8_16, jcc::<9>),
    Row::new(Code::Jns_rel8_32, jcc::<9>),
    Row::new(Code::Jns_rel8_64, jcc::<9>),
    Row::new(Code::Jns_rel16, jcc::<9>),
    Row::new(Code::Jns_rel32_32, jcc::<9>),
    Row::new(Code::Jns_rel32_64, jcc::<9>),
    Row::new(Code::Jp_rel8_16, jcc::<10>),
    Row::new(Code::Jp_rel8_32, jcc::<10>),
    Row::new(Code::Jp_rel8_64, jcc::<10>),
    Row::new(Code::Jp_rel16, jcc::<10>),
    Row::new(Code::Jp_rel32_32, jcc::<10>),
    Row::new(Code::Jp_rel32_64, jcc::<10>),
    Row::new(Code::Jnp_rel8_16, jcc::<11>),
    Row::new(Code::Jnp_rel8_32, jcc::<11>),
    Row::new(Code::Jnp_rel8_64, jcc::<11>),
    Row::new(Code::Jnp_rel16, jcc::<11>),
    Row::new(Code::Jnp_rel32_32, jcc::<11>),
    Row::new(Code::Jnp_rel32_64, jcc::<11>),
    Row::new(Code::Jl_rel8_16, jcc::<12>),
    Row::new(Code::Jl_rel8_32, jcc::<12>),
    Row::new(Code::Jl_rel8_64, jcc::<12>),
    Row::new(Code::Jl_rel16, jcc::<12>),
    Row::new(Code::Jl_rel32_32, jcc::<12>),
    Row::new(Code::Jl_rel32_64, jcc::<12>),
    Row::new(Code::Jge_rel8_16, jcc::<13>),
    Row::new(Code::Jge_rel8_32, jcc::<13>),
    Row::new(Code::Jge_rel8_64, jcc::<13>),
    Row::new(Code::Jge_rel16, jcc::<13>),
    Row::new(Code::Jge_rel32_32, jcc::<13>),
    Row::new(Code::Jge_rel32_64, jcc::<13>),
    Row::new(Code::Jle_rel8_16, jcc::<14>),
    Row::new(Code::Jle_rel8_32, jcc::<14>),
    Row::new(Code::Jle_rel8_64, jcc::<14>),
    Row::new(Code::Jle_rel16, jcc::<14>),
    Row::new(Code::Jle_rel32_32, jcc::<14>),
    Row::new(Code::Jle_rel32_64, jcc::<14>),
    Row::new(Code::Jg_rel8_16, jcc::<15>),
    Row::new(Code::Jg_rel8_32, jcc::<15>),
    Row::new(Code::Jg_rel8_64, jcc::<15>),
    Row::new(Code::Jg_rel16, jcc::<15>),
    Row::new(Code::Jg_rel32_32, jcc::<15>),
    Row::new(Code::Jg_rel32_64, jcc::<15>),
    Row::new(Code::Loopne_rel8_16_CX, loopne::<u16>),
    Row::new(Code::Loopne_rel8_32_CX, loopne::<u16>),
    Row::new(Code::Loopne_rel8_16_ECX, loopne::<u32>),
    Row::new(Code::Loopne_rel8_32_ECX, loopne::<u32>),
    Row::new(Code::Loopne_rel8_64_ECX, loopne::<u32>),
    Row::new(Code::Loopne_rel8_16_RCX, loopne::<u64>),
    Row::new(Code::Loopne_rel8_64_RCX, loopne::<u64>),
    Row::new(Code::Loope_rel8_16_CX, loope::<u16>),
    Row::new(Code::Loope_rel8_32_CX, loope::<u16>),
    Row::new(Code::Loope_rel8_16_ECX, loope::<u32>),
    Row::new(Code::Loope_rel8_32_ECX, loope::<u32>),
    Row::new(Code::Loope_rel8_64_ECX, loope::<u32>),
    Row::new(Code::Loope_rel8_16_RCX, loope::<u64>),
    Row::new(Code::Loope_rel8_64_RCX, loope::<u64>),
    Row::new(Code::Loop_rel8_16_CX, loop_::<u16>),
    Row::new(Code::Loop_rel8_32_CX, loop_::<u16>),
    Row::new(Code::Loop_rel8_16_ECX, loop_::<u32>),
    Row::new(Code::Loop_rel8_32_ECX, loop_::<u32>),
    Row::new(Code::Loop_rel8_64_ECX, loop_::<u32>),
    Row::new(Code::Loop_rel8_16_RCX, loop_::<u64>),
    Row::new(Code::Loop_rel8_64_RCX, loop_::<u64>),
    Row::new(Code::Jcxz_rel8_16, jcxz::<u16>),
    Row::new(Code::Jcxz_rel8_32, jcxz::<u16>),
    Row::new(Code::Jecxz_rel8_16, jcxz::<u32>),
    Row::new(Code::Jecxz_rel8_32, jcxz::<u32>),
    Row::new(Code::Jecxz_rel8_64, jcxz::<u32>),
    Row::new(Code::Jrcxz_rel8_16, jcxz::<u64>),
    Row::new(Code::Jrcxz_rel8_64, jcxz::<u64>),
    Row::new(Code::Call_rel16, call::<u16>),
    Row::new(Code::Call_rel32_32, call::<u32>),
    Row::new(Code::Call_rel32_64, call::<u64>),
    Row::new(Code::Call_rm16, call_indirect::<u16>),
    Row::new(Code::Call_rm32, call_indirect::<u32>),
    Row::new(Code::Call_rm64, call_indirect::<u64>),
    Row::new(Code::Jmp_rm16, jmp_indirect::<u16>),
    Row::new(Code::Jmp_rm32, jmp_indirect::<u32>),
    Row::new(Code::Jmp_rm64, jmp_indirect::<u64>),
    Row::new(Code::Retnw, ret::<u16>),
    Row::new(Code::Retnd, ret::<u32>),
    Row::new(Code::Retnq, ret::<u64>),
    Row::new(Code::Retnw_imm16, ret::<u16>),
    Row::new(Code::Retnd_imm16, ret::<u32>),
    Row::new(Code::Retnq_imm16, ret::<u64>),
];
