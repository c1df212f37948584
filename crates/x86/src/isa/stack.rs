//! The stack (SDM volume 2: PUSH, POP, PUSHA, POPA, ENTER, LEAVE). Segment registers and flags are
//! elsewhere.

use crate::exec::Exec;
use crate::insn::Insn;
use crate::state::gpr;
use crate::table::Row;
use crate::trap::Done;
use iced_x86::Code;
use mem::Word;

fn push<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let value: T = x.get(i, 0)?;
    x.push(value)
}

fn pop<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    if !i.is_mem(0) {
        let value: T = x.pop()?;
        x.set_reg(i.ops[0], value);
        return Ok(());
    }
    // An address that uses rSP sees it already incremented.
    let before = x.s.gpr[gpr::RSP];
    let value: T = x.pop()?;
    let address = x.ea(i);
    let written = x.write(i.seg, address, value);
    if written.is_err() {
        x.s.gpr[gpr::RSP] = before;
    }
    written
}

fn pusha<T: Word>(x: &mut Exec<'_>, _: &Insn) -> Done {
    let size = T::SIZE as u64;
    let sp = x.s.gpr[gpr::RSP];
    // Slots before a fault stay written, as on the processor: rSP has not moved.
    for n in 0..8u8 {
        let value: T = x.reg(n);
        x.write_stack(sp.wrapping_sub((u64::from(n) + 1) * size), value)?;
    }
    x.set_sp(sp.wrapping_sub(8 * size));
    Ok(())
}

fn popa<T: Word>(x: &mut Exec<'_>, _: &Insn) -> Done {
    let size = T::SIZE as u64;
    let sp = x.s.gpr[gpr::RSP];
    for n in 0..8u8 {
        // Registers before a fault keep what they got, as on the processor: rSP has not moved.
        let value: T = x.read_stack(sp.wrapping_add(u64::from(n) * size))?;
        // The stored rSP is skipped.
        if usize::from(7 - n) != gpr::RSP {
            x.set_reg(7 - n, value);
        }
    }
    x.set_sp(sp.wrapping_add(8 * size));
    Ok(())
}

fn enter<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let size = T::SIZE as u64;
    let level = i.disp & 31;
    let mask = x.stack_mask();
    let mut sp = x.s.gpr[gpr::RSP].wrapping_sub(size);
    let bp = x.s.gpr[gpr::RBP];
    let frame = sp & mask;
    x.write_stack(sp, T::from_u64(bp))?;
    for n in 1..level {
        let outer: T = x.read_stack(bp.wrapping_sub(n * size))?;
        sp = sp.wrapping_sub(size);
        x.write_stack(sp, outer)?;
    }
    if level > 0 {
        sp = sp.wrapping_sub(size);
        x.write_stack(sp, T::from_u64(frame))?;
    }
    sp = sp.wrapping_sub(i.imm & 0xffff);
    // The new top of stack must be writable.
    x.probe_write(crate::state::seg::SS, sp & mask, size)?;
    x.set_sp(sp);
    x.set_reg(gpr::RBP as u8, T::from_u64(frame));
    Ok(())
}

fn leave<T: Word>(x: &mut Exec<'_>, _: &Insn) -> Done {
    let frame = x.s.gpr[gpr::RBP];
    let value: T = x.read_stack(frame)?;
    x.set_sp(frame.wrapping_add(T::SIZE as u64));
    x.set_reg(gpr::RBP as u8, value);
    Ok(())
}

pub(crate) const ROWS: &[Row] = &[
    Row::new(Code::Push_r16, push::<u16>),
    Row::new(Code::Push_rm16, push::<u16>),
    Row::new(Code::Pop_r16, pop::<u16>),
    Row::new(Code::Pop_rm16, pop::<u16>),
    Row::new(Code::Push_r32, push::<u32>),
    Row::new(Code::Push_rm32, push::<u32>),
    Row::new(Code::Pop_r32, pop::<u32>),
    Row::new(Code::Pop_rm32, pop::<u32>),
    Row::new(Code::Push_r64, push::<u64>),
    Row::new(Code::Push_rm64, push::<u64>),
    Row::new(Code::Pop_r64, pop::<u64>),
    Row::new(Code::Pop_rm64, pop::<u64>),
    Row::new(Code::Push_imm16, push::<u16>),
    Row::new(Code::Pushd_imm32, push::<u32>),
    Row::new(Code::Pushq_imm32, push::<u64>),
    Row::new(Code::Pushw_imm8, push::<u16>),
    Row::new(Code::Pushd_imm8, push::<u32>),
    Row::new(Code::Pushq_imm8, push::<u64>),
    Row::new(Code::Pushaw, pusha::<u16>),
    Row::new(Code::Pushad, pusha::<u32>),
    Row::new(Code::Popaw, popa::<u16>),
    Row::new(Code::Popad, popa::<u32>),
    Row::new(Code::Enterw_imm16_imm8, enter::<u16>),
    Row::new(Code::Enterd_imm16_imm8, enter::<u32>),
    Row::new(Code::Enterq_imm16_imm8, enter::<u64>),
    Row::new(Code::Leavew, leave::<u16>),
    Row::new(Code::Leaved, leave::<u32>),
    Row::new(Code::Leaveq, leave::<u64>),
];
