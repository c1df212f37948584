//! Moves between registers and memory (SDM volume 2: MOV, MOVSX, MOVZX, LEA, XCHG, BSWAP, …).

use crate::exec::Exec;
use crate::insn::Insn;
use crate::table::Row;
use crate::trap::Done;
use iced_x86::Code;
use mem::Word;

fn mov<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let value: T = x.get(i, 1)?;
    x.set(i, 0, value)
}

fn lea<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let address = x.ea(i);
    x.set_reg(i.ops[0], T::from_u64(address));
    Ok(())
}

pub(crate) const ROWS: &[Row] = &[
    Row::new(Code::Mov_rm8_r8, mov::<u8>),
    Row::new(Code::Mov_rm16_r16, mov::<u16>),
    Row::new(Code::Mov_rm32_r32, mov::<u32>),
    Row::new(Code::Mov_rm64_r64, mov::<u64>),
    Row::new(Code::Lea_r16_m, lea::<u16>),
    Row::new(Code::Lea_r32_m, lea::<u32>),
    Row::new(Code::Lea_r64_m, lea::<u64>),
];
