//! Moves between registers and memory, conversions of width, conditional moves (SDM volume 2: MOV,
//! MOVSX, MOVZX, MOVBE, MOVNTI, LEA, XCHG, BSWAP, XLAT, CBW, CWD, SETcc, CMOVcc).

use crate::exec::Exec;
use crate::flags::sign_extend;
use crate::insn::Insn;
use crate::state::gpr;
use crate::table::Row;
use crate::trap::Done;
use iced_x86::Code;
use mem::Word;

fn mov<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let value: T = x.get(i, 1)?;
    x.set(i, 0, value)
}

fn movzx<S: Word, D: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let value: S = x.get(i, 1)?;
    x.set_reg(i.ops[0], D::from_u64(value.to_u64()));
    Ok(())
}

fn movsx<S: Word, D: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let value: S = x.get(i, 1)?;
    x.set_reg(i.ops[0], D::from_u64(sign_extend::<S>(value.to_u64())));
    Ok(())
}

fn reversed<T: Word>(value: T) -> T {
    T::from_u64(value.to_u64().swap_bytes() >> (64 - 8 * T::SIZE))
}

fn movbe<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let value: T = x.get(i, 1)?;
    x.set(i, 0, reversed(value))
}

fn bswap<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let value: T = x.reg(i.ops[0]);
    // 16 bits: undefined by the manual; processors clear the register.
    x.set_reg(
        i.ops[0],
        if T::SIZE == 2 {
            T::default()
        } else {
            reversed(value)
        },
    );
    Ok(())
}

fn lea<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let address = x.ea(i);
    x.set_reg(i.ops[0], T::from_u64(address));
    Ok(())
}

fn xchg<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let b: T = x.reg(i.ops[1]);
    let old = if i.is_mem(0) {
        // Locked with or without the prefix.
        x.modify_at(i.seg, x.ea(i), true, |_| b)?.0
    } else {
        let a: T = x.reg(i.ops[0]);
        x.set_reg(i.ops[0], b);
        a
    };
    x.set_reg(i.ops[1], old);
    Ok(())
}

fn xlat(x: &mut Exec<'_>, i: &Insn) -> Done {
    let address = x.s.gpr[gpr::RBX].wrapping_add(x.s.gpr[gpr::RAX] & 0xff) & i.address_mask();
    let value: u8 = x.read(i.seg, address)?;
    x.set_reg(gpr::RAX as u8, value);
    Ok(())
}

fn salc(x: &mut Exec<'_>, _: &Insn) -> Done {
    let value: u8 = if x.flags.cf() { 0xff } else { 0 };
    x.set_reg(gpr::RAX as u8, value);
    Ok(())
}

fn cbw(x: &mut Exec<'_>, _: &Insn) -> Done {
    let al: u8 = x.reg(0);
    x.set_reg(0, al as i8 as i16 as u16);
    Ok(())
}

fn cwde(x: &mut Exec<'_>, _: &Insn) -> Done {
    let ax: u16 = x.reg(0);
    x.set_reg(0, ax as i16 as i32 as u32);
    Ok(())
}

fn cdqe(x: &mut Exec<'_>, _: &Insn) -> Done {
    let eax: u32 = x.reg(0);
    x.set_reg(0, eax as i32 as i64 as u64);
    Ok(())
}

fn cwd<T: Word>(x: &mut Exec<'_>, _: &Insn) -> Done {
    let a: T = x.reg(0);
    let sign = (sign_extend::<T>(a.to_u64()) as i64 >> 63) as u64;
    x.set_reg(gpr::RDX as u8, T::from_u64(sign));
    Ok(())
}

fn setcc<const CC: u8>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let value = u8::from(x.flags.condition(CC));
    x.set(i, 0, value)
}

fn cmov<const CC: u8, T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let value: T = x.get(i, 1)?;
    let old: T = x.reg(i.ops[0]);
    // Written either way: a 32-bit one clears the upper half even if the condition fails.
    let holds = x.flags.condition(CC);
    x.set_reg(i.ops[0], if holds { value } else { old });
    Ok(())
}

pub(crate) const ROWS: &[Row] = &[
    Row::new(Code::Mov_rm8_r8, mov::<u8>),
    Row::new(Code::Mov_r8_rm8, mov::<u8>),
    Row::new(Code::Mov_AL_moffs8, mov::<u8>),
    Row::new(Code::Mov_moffs8_AL, mov::<u8>),
    Row::new(Code::Mov_r8_imm8, mov::<u8>),
    Row::new(Code::Mov_rm8_imm8, mov::<u8>),
    Row::new(Code::Xchg_rm8_r8, xchg::<u8>),
    Row::new(Code::Mov_rm16_r16, mov::<u16>),
    Row::new(Code::Mov_r16_rm16, mov::<u16>),
    Row::new(Code::Mov_AX_moffs16, mov::<u16>),
    Row::new(Code::Mov_moffs16_AX, mov::<u16>),
    Row::new(Code::Mov_r16_imm16, mov::<u16>),
    Row::new(Code::Mov_rm16_imm16, mov::<u16>),
    Row::new(Code::Xchg_rm16_r16, xchg::<u16>),
    Row::new(Code::Xchg_r16_AX, xchg::<u16>),
    Row::new(Code::Lea_r16_m, lea::<u16>),
    Row::new(Code::Movbe_r16_m16, movbe::<u16>),
    Row::new(Code::Movbe_m16_r16, movbe::<u16>),
    Row::new(Code::Bswap_r16, bswap::<u16>),
    Row::new(Code::Movzx_r16_rm8, movzx::<u8, u16>),
    Row::new(Code::Movsx_r16_rm8, movsx::<u8, u16>),
    Row::new(Code::Movzx_r16_rm16, movzx::<u16, u16>),
    Row::new(Code::Movsx_r16_rm16, movsx::<u16, u16>),
    Row::new(Code::Movsxd_r16_rm16, movsx::<u16, u16>),
    Row::new(Code::Mov_rm32_r32, mov::<u32>),
    Row::new(Code::Mov_r32_rm32, mov::<u32>),
    Row::new(Code::Mov_EAX_moffs32, mov::<u32>),
    Row::new(Code::Mov_moffs32_EAX, mov::<u32>),
    Row::new(Code::Mov_r32_imm32, mov::<u32>),
    Row::new(Code::Mov_rm32_imm32, mov::<u32>),
    Row::new(Code::Xchg_rm32_r32, xchg::<u32>),
    Row::new(Code::Xchg_r32_EAX, xchg::<u32>),
    Row::new(Code::Lea_r32_m, lea::<u32>),
    Row::new(Code::Movbe_r32_m32, movbe::<u32>),
    Row::new(Code::Movbe_m32_r32, movbe::<u32>),
    Row::new(Code::Bswap_r32, bswap::<u32>),
    Row::new(Code::Movzx_r32_rm8, movzx::<u8, u32>),
    Row::new(Code::Movsx_r32_rm8, movsx::<u8, u32>),
    Row::new(Code::Movzx_r32_rm16, movzx::<u16, u32>),
    Row::new(Code::Movsx_r32_rm16, movsx::<u16, u32>),
    Row::new(Code::Movsxd_r32_rm32, movsx::<u32, u32>),
    Row::new(Code::Mov_rm64_r64, mov::<u64>),
    Row::new(Code::Mov_r64_rm64, mov::<u64>),
    Row::new(Code::Mov_RAX_moffs64, mov::<u64>),
    Row::new(Code::Mov_moffs64_RAX, mov::<u64>),
    Row::new(Code::Mov_r64_imm64, mov::<u64>),
    Row::new(Code::Mov_rm64_imm32, mov::<u64>),
    Row::new(Code::Xchg_rm64_r64, xchg::<u64>),
    Row::new(Code::Xchg_r64_RAX, xchg::<u64>),
    Row::new(Code::Lea_r64_m, lea::<u64>),
    Row::new(Code::Movbe_r64_m64, movbe::<u64>),
    Row::new(Code::Movbe_m64_r64, movbe::<u64>),
    Row::new(Code::Bswap_r64, bswap::<u64>),
    Row::new(Code::Movzx_r64_rm8, movzx::<u8, u64>),
    Row::new(Code::Movsx_r64_rm8, movsx::<u8, u64>),
    Row::new(Code::Movzx_r64_rm16, movzx::<u16, u64>),
    Row::new(Code::Movsx_r64_rm16, movsx::<u16, u64>),
    Row::new(Code::Movsxd_r64_rm32, movsx::<u32, u64>),
    Row::new(Code::Cbw, cbw),
    Row::new(Code::Cwde, cwde),
    Row::new(Code::Cdqe, cdqe),
    Row::new(Code::Cwd, cwd::<u16>),
    Row::new(Code::Cdq, cwd::<u32>),
    Row::new(Code::Cqo, cwd::<u64>),
    Row::new(Code::Xlat_m8, xlat),
    Row::new(Code::Salc, salc),
    Row::new(Code::Movnti_m32_r32, mov::<u32>),
    Row::new(Code::Movnti_m64_r64, mov::<u64>),
    Row::new(Code::Seto_rm8, setcc::<0>),
    Row::new(Code::Cmovo_r16_rm16, cmov::<0, u16>),
    Row::new(Code::Cmovo_r32_rm32, cmov::<0, u32>),
    Row::new(Code::Cmovo_r64_rm64, cmov::<0, u64>),
    Row::new(Code::Setno_rm8, setcc::<1>),
    Row::new(Code::Cmovno_r16_rm16, cmov::<1, u16>),
    Row::new(Code::Cmovno_r32_rm32, cmov::<1, u32>),
    Row::new(Code::Cmovno_r64_rm64, cmov::<1, u64>),
    Row::new(Code::Setb_rm8, setcc::<2>),
    Row::new(Code::Cmovb_r16_rm16, cmov::<2, u16>),
    Row::new(Code::Cmovb_r32_rm32, cmov::<2, u32>),
    Row::new(Code::Cmovb_r64_rm64, cmov::<2, u64>),
    Row::new(Code::Setae_rm8, setcc::<3>),
    Row::new(Code::Cmovae_r16_rm16, cmov::<3, u16>),
    Row::new(Code::Cmovae_r32_rm32, cmov::<3, u32>),
    Row::new(Code::Cmovae_r64_rm64, cmov::<3, u64>),
    Row::new(Code::Sete_rm8, setcc::<4>),
    Row::new(Code::Cmove_r16_rm16, cmov::<4, u16>),
    Row::new(Code::Cmove_r32_rm32, cmov::<4, u32>),
    Row::new(Code::Cmove_r64_rm64, cmov::<4, u64>),
    Row::new(Code::Setne_rm8, setcc::<5>),
    Row::new(Code::Cmovne_r16_rm16, cmov::<5, u16>),
    Row::new(Code::Cmovne_r32_rm32, cmov::<5, u32>),
    Row::new(Code::Cmovne_r64_rm64, cmov::<5, u64>),
    Row::new(Code::Setbe_rm8, setcc::<6>),
    Row::new(Code::Cmovbe_r16_rm16, cmov::<6, u16>),
    Row::new(Code::Cmovbe_r32_rm32, cmov::<6, u32>),
    Row::new(Code::Cmovbe_r64_rm64, cmov::<6, u64>),
    Row::new(Code::Seta_rm8, setcc::<7>),
    Row::new(Code::Cmova_r16_rm16, cmov::<7, u16>),
    Row::new(Code::Cmova_r32_rm32, cmov::<7, u32>),
    Row::new(Code::Cmova_r64_rm64, cmov::<7, u64>),
    Row::new(Code::Sets_rm8, setcc::<8>),
    Row::new(Code::Cmovs_r16_rm16, cmov::<8, u16>),
    Row::new(Code::Cmovs_r32_rm32, cmov::<8, u32>),
    Row::new(Code::Cmovs_r64_rm64, cmov::<8, u64>),
    Row::new(Code::Setns_rm8, setcc::<9>),
    Row::new(Code::Cmovns_r16_rm16, cmov::<9, u16>),
    Row::new(Code::Cmovns_r32_rm32, cmov::<9, u32>),
    Row::new(Code::Cmovns_r64_rm64, cmov::<9, u64>),
    Row::new(Code::Setp_rm8, setcc::<10>),
    Row::new(Code::Cmovp_r16_rm16, cmov::<10, u16>),
    Row::new(Code::Cmovp_r32_rm32, cmov::<10, u32>),
    Row::new(Code::Cmovp_r64_rm64, cmov::<10, u64>),
    Row::new(Code::Setnp_rm8, setcc::<11>),
    Row::new(Code::Cmovnp_r16_rm16, cmov::<11, u16>),
    Row::new(Code::Cmovnp_r32_rm32, cmov::<11, u32>),
    Row::new(Code::Cmovnp_r64_rm64, cmov::<11, u64>),
    Row::new(Code::Setl_rm8, setcc::<12>),
    Row::new(Code::Cmovl_r16_rm16, cmov::<12, u16>),
    Row::new(Code::Cmovl_r32_rm32, cmov::<12, u32>),
    Row::new(Code::Cmovl_r64_rm64, cmov::<12, u64>),
    Row::new(Code::Setge_rm8, setcc::<13>),
    Row::new(Code::Cmovge_r16_rm16, cmov::<13, u16>),
    Row::new(Code::Cmovge_r32_rm32, cmov::<13, u32>),
    Row::new(Code::Cmovge_r64_rm64, cmov::<13, u64>),
    Row::new(Code::Setle_rm8, setcc::<14>),
    Row::new(Code::Cmovle_r16_rm16, cmov::<14, u16>),
    Row::new(Code::Cmovle_r32_rm32, cmov::<14, u32>),
    Row::new(Code::Cmovle_r64_rm64, cmov::<14, u64>),
    Row::new(Code::Setg_rm8, setcc::<15>),
    Row::new(Code::Cmovg_r16_rm16, cmov::<15, u16>),
    Row::new(Code::Cmovg_r32_rm32, cmov::<15, u32>),
    Row::new(Code::Cmovg_r64_rm64, cmov::<15, u64>),
];
