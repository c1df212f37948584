//! Addition, subtraction, logic, comparison (SDM volume 2: ADD, ADC, SUB, SBB, AND, OR, XOR, CMP,
//! TEST, INC, DEC, NEG, NOT, …).

use crate::exec::Exec;
use crate::insn::Insn;
use crate::table::Row;
use crate::trap::Done;
use iced_x86::Code;
use mem::Word;

fn add<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let b = x.get::<T>(i, 1)?.to_u64();
    let (old, new) = x.modify::<T>(i, 0, |a| T::from_u64(a.to_u64().wrapping_add(b)))?;
    x.flags.set_add::<T>(old.to_u64(), b, new.to_u64());
    Ok(())
}

pub(crate) const ROWS: &[Row] = &[
    Row::new(Code::Add_rm8_r8, add::<u8>),
    Row::new(Code::Add_rm16_r16, add::<u16>),
    Row::new(Code::Add_rm32_r32, add::<u32>),
    Row::new(Code::Add_rm64_r64, add::<u64>),
];
