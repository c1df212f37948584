//! Segment registers as operands: MOV, PUSH, POP, LDS, LES, LFS, LGS, LSS (SDM volume 2).

use crate::exec::{Exec, attention};
use crate::insn::Insn;
use crate::state::{Shadow, gpr, seg};
use crate::table::Row;
use crate::trap::{Done, Trap};
use iced_x86::Code;
use mem::Word;

fn mov_from<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let selector = x.s.seg[usize::from(i.ops[1])].selector;
    if i.is_mem(0) {
        x.set(i, 0, selector)
    } else {
        x.set(i, 0, T::from_u64(selector.into()))
    }
}

/// Interrupts and debug traps wait for the instruction after a load of SS.
fn hold(x: &mut Exec<'_>, n: u8) {
    if n == seg::SS {
        x.s.shadow = Shadow::MovSs;
        x.attention |= attention::SHADOW;
    }
}

fn mov_to(x: &mut Exec<'_>, i: &Insn) -> Done {
    let n = i.ops[0];
    if n == seg::CS {
        return Err(Trap::UD);
    }
    let selector: u16 = x.get(i, 1)?;
    x.load_segment(n, selector)?;
    hold(x, n);
    Ok(())
}

/// PUSH Sreg: with a 32- or 64-bit operand the pointer moves by that much; only 16 bits are
/// written, as Intel processors do for 32 bits (64-bit pushes zero-extend).
fn push<T: Word, const N: u8>(x: &mut Exec<'_>, _: &Insn) -> Done {
    let selector = x.s.seg[usize::from(N)].selector;
    if T::SIZE == 4 {
        let sp = x.s.gpr[gpr::RSP].wrapping_sub(4);
        x.write_stack(sp, selector)?;
        x.set_sp(sp);
        return Ok(());
    }
    x.push(T::from_u64(selector.into()))
}

fn pop<T: Word, const N: u8>(x: &mut Exec<'_>, _: &Insn) -> Done {
    let sp = x.s.gpr[gpr::RSP];
    let selector: u16 = x.read_stack(sp)?;
    // The old stack's size counts for the increment, also when SS itself is loaded.
    let mask = x.stack_mask();
    x.load_segment(N, selector)?;
    let new = sp.wrapping_add(T::SIZE as u64);
    let rsp = &mut x.s.gpr[gpr::RSP];
    *rsp = if mask == 0xffff {
        *rsp & !mask | new & mask
    } else {
        new & mask
    };
    hold(x, N);
    Ok(())
}

fn load_far<T: Word, const N: u8>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let at = x.ea(i);
    let offset: T = x.read(i.seg, at)?;
    let selector = x.read::<u16>(i.seg, at.wrapping_add(T::SIZE as u64) & i.address_mask())?;
    x.load_segment(N, selector)?;
    x.set_reg(i.ops[0], offset);
    Ok(())
}

const fn row(code: Code, run: crate::insn::Handler) -> Row {
    Row::new(code, run).behaviour()
}

const fn load(code: Code, run: crate::insn::Handler) -> Row {
    Row::new(code, run).checked().control()
}

const ES: u8 = seg::ES;
const CS: u8 = seg::CS;
const SS: u8 = seg::SS;
const DS: u8 = seg::DS;
const FS: u8 = seg::FS;
const GS: u8 = seg::GS;

pub(crate) const ROWS: &[Row] = &[
    row(Code::Mov_rm16_Sreg, mov_from::<u16>),
    row(Code::Mov_r32m16_Sreg, mov_from::<u32>),
    row(Code::Mov_r64m16_Sreg, mov_from::<u64>),
    load(Code::Mov_Sreg_rm16, mov_to),
    load(Code::Mov_Sreg_r32m16, mov_to),
    load(Code::Mov_Sreg_r64m16, mov_to),
    row(Code::Pushw_ES, push::<u16, ES>),
    row(Code::Pushd_ES, push::<u32, ES>),
    row(Code::Pushw_CS, push::<u16, CS>),
    row(Code::Pushd_CS, push::<u32, CS>),
    row(Code::Pushw_SS, push::<u16, SS>),
    row(Code::Pushd_SS, push::<u32, SS>),
    row(Code::Pushw_DS, push::<u16, DS>),
    row(Code::Pushd_DS, push::<u32, DS>),
    row(Code::Pushw_FS, push::<u16, FS>),
    row(Code::Pushd_FS, push::<u32, FS>),
    row(Code::Pushq_FS, push::<u64, FS>),
    row(Code::Pushw_GS, push::<u16, GS>),
    row(Code::Pushd_GS, push::<u32, GS>),
    row(Code::Pushq_GS, push::<u64, GS>),
    load(Code::Popw_ES, pop::<u16, ES>),
    load(Code::Popd_ES, pop::<u32, ES>),
    load(Code::Popw_SS, pop::<u16, SS>),
    load(Code::Popd_SS, pop::<u32, SS>),
    load(Code::Popw_DS, pop::<u16, DS>),
    load(Code::Popd_DS, pop::<u32, DS>),
    load(Code::Popw_FS, pop::<u16, FS>),
    load(Code::Popd_FS, pop::<u32, FS>),
    load(Code::Popq_FS, pop::<u64, FS>),
    load(Code::Popw_GS, pop::<u16, GS>),
    load(Code::Popd_GS, pop::<u32, GS>),
    load(Code::Popq_GS, pop::<u64, GS>),
    load(Code::Les_r16_m1616, load_far::<u16, ES>),
    load(Code::Les_r32_m1632, load_far::<u32, ES>),
    load(Code::Lds_r16_m1616, load_far::<u16, DS>),
    load(Code::Lds_r32_m1632, load_far::<u32, DS>),
    load(Code::Lss_r16_m1616, load_far::<u16, SS>),
    load(Code::Lss_r32_m1632, load_far::<u32, SS>),
    load(Code::Lss_r64_m1664, load_far::<u64, SS>),
    load(Code::Lfs_r16_m1616, load_far::<u16, FS>),
    load(Code::Lfs_r32_m1632, load_far::<u32, FS>),
    load(Code::Lfs_r64_m1664, load_far::<u64, FS>),
    load(Code::Lgs_r16_m1616, load_far::<u16, GS>),
    load(Code::Lgs_r32_m1632, load_far::<u32, GS>),
    load(Code::Lgs_r64_m1664, load_far::<u64, GS>),
];
