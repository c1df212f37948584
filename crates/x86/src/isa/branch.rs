//! Near transfers of control (SDM volume 2: JMP, Jcc, CALL, RET, LOOP, JCXZ).

use crate::exec::Exec;
use crate::insn::Insn;
use crate::table::Row;
use crate::trap::Done;
use iced_x86::Code;

fn jmp(x: &mut Exec<'_>, i: &Insn) -> Done {
    x.jump(i.imm)
}

pub(crate) const ROWS: &[Row] = &[
    Row::new(Code::Jmp_rel8_64, jmp),
    Row::new(Code::Jmp_rel32_64, jmp),
];
