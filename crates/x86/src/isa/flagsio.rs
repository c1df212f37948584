//! The flags register as a whole and bit by bit: PUSHF, POPF, LAHF, SAHF, CLC, STC, CMC, CLD,
//! STD, CLI, STI (SDM volume 2; volume 3, "Protected-Mode Virtual Interrupts" and "Virtual-8086
//! Mode Extensions").

use super::transfer::changeable;
use crate::exec::{Exec, attention};
use crate::insn::Insn;
use crate::state::{Shadow, cr0, cr4, rflags};
use crate::table::Row;
use crate::trap::{Done, Trap};
use iced_x86::Code;
use mem::Word;

fn pushf<T: Word>(x: &mut Exec<'_>, _: &Insn) -> Done {
    let mut flags = x.rflags() & !(rflags::VM | rflags::RF);
    if x.is_v86() && x.iopl() < 3 {
        if x.s.cr4 & cr4::VME == 0 || T::SIZE != 2 {
            return Err(Trap::GP0);
        }
        let virtual_if = flags & rflags::VIF != 0;
        flags = flags & !rflags::IF | rflags::IOPL | if virtual_if { rflags::IF } else { 0 };
    }
    x.push(T::from_u64(flags))
}

fn popf<T: Word>(x: &mut Exec<'_>, _: &Insn) -> Done {
    let size = T::SIZE as u8;
    let sp = x.s.gpr[crate::state::gpr::RSP];
    let mut new = x.read_stack::<T>(sp)?.to_u64();
    let old = x.rflags();
    let (cpl, iopl) = (x.s.cpl, x.iopl());
    let mut mask = changeable(size, cpl, iopl);
    if x.is_v86() && iopl < 3 {
        let vip = old & rflags::VIP != 0;
        if x.s.cr4 & cr4::VME == 0
            || size != 2
            || new & rflags::TF != 0
            || new & rflags::IF != 0 && vip
        {
            return Err(Trap::GP0);
        }
        mask |= rflags::VIF;
        new = new & !rflags::VIF
            | if new & rflags::IF != 0 {
                rflags::VIF
            } else {
                0
            };
    }
    x.set_sp(sp.wrapping_add(T::SIZE as u64));
    x.set_rflags((old & !mask | new & mask) & !rflags::RF);
    Ok(())
}

fn lahf(x: &mut Exec<'_>, _: &Insn) -> Done {
    let low = x.rflags() as u8;
    x.set_reg(16, low);
    Ok(())
}

fn sahf(x: &mut Exec<'_>, _: &Insn) -> Done {
    let ah = x.reg::<u8>(16);
    let mask = rflags::SF | rflags::ZF | rflags::AF | rflags::PF | rflags::CF;
    x.flags.replace(mask, ah.into());
    Ok(())
}

fn clc(x: &mut Exec<'_>, _: &Insn) -> Done {
    x.flags.set_cf(false);
    Ok(())
}

fn stc(x: &mut Exec<'_>, _: &Insn) -> Done {
    x.flags.set_cf(true);
    Ok(())
}

fn cmc(x: &mut Exec<'_>, _: &Insn) -> Done {
    let cf = x.flags.cf();
    x.flags.set_cf(!cf);
    Ok(())
}

fn cld(x: &mut Exec<'_>, _: &Insn) -> Done {
    x.s.rflags &= !rflags::DF;
    Ok(())
}

fn std(x: &mut Exec<'_>, _: &Insn) -> Done {
    x.s.rflags |= rflags::DF;
    Ok(())
}

/// Which flag CLI and STI change here: IF, or VIF under VME and PVI.
fn interrupt_flag(x: &Exec<'_>) -> Done<u64> {
    if x.s.cr0 & cr0::PE == 0 || x.iopl() >= x.s.cpl {
        return Ok(rflags::IF);
    }
    let on = if x.is_v86() { cr4::VME } else { cr4::PVI };
    if x.s.cr4 & on != 0 && x.s.cpl == 3 {
        return Ok(rflags::VIF);
    }
    Err(Trap::GP0)
}

fn cli(x: &mut Exec<'_>, _: &Insn) -> Done {
    let flag = interrupt_flag(x)?;
    x.s.rflags &= !flag;
    Ok(())
}

fn sti(x: &mut Exec<'_>, _: &Insn) -> Done {
    let flag = interrupt_flag(x)?;
    if flag == rflags::VIF {
        if x.s.rflags & rflags::VIP != 0 {
            return Err(Trap::GP0);
        }
        x.s.rflags |= rflags::VIF;
        return Ok(());
    }
    if x.s.rflags & rflags::IF == 0 {
        x.s.rflags |= rflags::IF;
        x.s.shadow = Shadow::Sti;
        x.attention |= attention::SHADOW | attention::EVENTS;
    }
    Ok(())
}

const fn row(code: Code, run: crate::insn::Handler) -> Row {
    Row::new(code, run)
}

pub(crate) const ROWS: &[Row] = &[
    row(Code::Pushfw, pushf::<u16>).checked().behaviour(),
    row(Code::Pushfd, pushf::<u32>).checked().behaviour(),
    row(Code::Pushfq, pushf::<u64>).checked().behaviour(),
    row(Code::Popfw, popf::<u16>).checked().behaviour(),
    row(Code::Popfd, popf::<u32>).checked().behaviour(),
    row(Code::Popfq, popf::<u64>).checked().behaviour(),
    row(Code::Lahf, lahf),
    row(Code::Sahf, sahf),
    row(Code::Clc, clc),
    row(Code::Stc, stc),
    row(Code::Cmc, cmc),
    row(Code::Cld, cld),
    row(Code::Std, std),
    row(Code::Cli, cli).checked().control(),
    row(Code::Sti, sti).checked().control(),
];
