//! Port input and output: IN, OUT, INS, OUTS with the I/O permission bitmap of the TSS (SDM
//! volume 1, "Input/Output").

use crate::exec::{Exec, attention};
use crate::insn::{IMM, Insn};
use crate::state::{cr0, cr4, gpr, rflags, seg};
use crate::table::Row;
use crate::trap::{Done, Trap};
use iced_x86::Code;
use mem::Word;

/// Raises #GP(0) unless the program may access `size` ports from `port`.
fn allowed(x: &mut Exec<'_>, port: u16, size: u32) -> Done {
    if x.s.cr0 & cr0::PE == 0 || x.s.cpl <= x.iopl() && !x.is_v86() {
        return Ok(());
    }
    let tr = x.s.tr;
    if tr.limit < 0x67 || tr.attributes.kind() & 8 == 0 || !tr.attributes.present() {
        return Err(Trap::GP0);
    }
    let map: u16 = x.read_system(tr.base.wrapping_add(0x66))?;
    let at = u32::from(map) + u32::from(port) / 8;
    // Two bytes are always read, so both must be inside.
    if at + 1 > tr.limit {
        return Err(Trap::GP0);
    }
    let bits: u16 = x.read_system(tr.base.wrapping_add(at.into()))?;
    if bits >> (port & 7) & ((1 << size) - 1) != 0 {
        return Err(Trap::GP0);
    }
    Ok(())
}

/// I/O breakpoints (with CR4.DE): a trap after the access.
fn watch(x: &mut Exec<'_>, port: u16, size: u64) {
    if x.s.dr7 & 0xff == 0 || x.s.cr4 & cr4::DE == 0 {
        return;
    }
    for n in 0..4usize {
        let (on, kind) = (x.s.dr7 >> (2 * n) & 3, x.s.dr7 >> (16 + 4 * n) & 3);
        let len = [1, 2, 8, 4][(x.s.dr7 >> (18 + 4 * n) & 3) as usize];
        let (start, port) = (x.s.dr[n] & !(len - 1), u64::from(port));
        if on != 0 && kind == 2 && port < start.wrapping_add(len) && start < port + size {
            x.debug_hits |= 1 << n;
            x.attention |= attention::DEBUG;
        }
    }
}

fn port(x: &Exec<'_>, place: u8, i: &Insn) -> u16 {
    if place == IMM {
        i.imm as u16 & 0xff
    } else {
        x.reg(gpr::RDX as u8)
    }
}

fn input<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let port = port(x, i.ops[1], i);
    allowed(x, port, T::SIZE as u32)?;
    x.counters.port += 1;
    watch(x, port, T::SIZE as u64);
    let value = x.bus.port_in(port, T::SIZE as u8);
    x.set_reg(gpr::RAX as u8, T::from_u64(value.into()));
    Ok(())
}

fn output<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let port = port(x, i.ops[0], i);
    allowed(x, port, T::SIZE as u32)?;
    x.counters.port += 1;
    watch(x, port, T::SIZE as u64);
    let value = x.reg::<T>(gpr::RAX as u8).to_u64();
    x.bus.port_out(port, T::SIZE as u8, value as u32);
    Ok(())
}

/// Advances an index register by `step` in the address size.
fn advance(x: &mut Exec<'_>, i: &Insn, n: usize, step: u64) {
    let value = x.s.gpr[n].wrapping_add(step);
    set_address(x, i, n, value);
}

fn set_address(x: &mut Exec<'_>, i: &Insn, n: usize, value: u64) {
    match i.address_bits {
        16 => x.set_reg(n as u8, value as u16),
        32 => x.set_reg(n as u8, value as u32),
        _ => x.set_reg(n as u8, value),
    }
}

/// Iterations done before RIP is put back on the instruction.
const CHUNK: u32 = 4096;

/// Runs `once` as often as the prefix says. When something wants attention, and after so many
/// iterations, the instruction is left after a completed one, to be resumed from its start.
///
/// The port must be allowed even if nothing is to be done.
fn repeat<T: Word>(
    x: &mut Exec<'_>,
    i: &Insn,
    port: u16,
    once: impl Fn(&mut Exec<'_>) -> Done,
) -> Done {
    allowed(x, port, T::SIZE as u32)?;
    if !(i.rep || i.repne) {
        return once(x);
    }
    let mut budget = CHUNK;
    loop {
        let count = x.s.gpr[gpr::RCX] & i.address_mask();
        if count == 0 {
            return Ok(());
        }
        once(x)?;
        set_address(x, i, gpr::RCX, count - 1);
        budget -= 1;
        if count > 1 && (budget == 0 || x.interrupted()) {
            x.resume_later();
            return Ok(());
        }
    }
}

fn step<T: Word>(x: &Exec<'_>) -> u64 {
    let size = T::SIZE as u64;
    if x.s.rflags & rflags::DF != 0 {
        size.wrapping_neg()
    } else {
        size
    }
}

fn ins<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let port: u16 = x.reg(gpr::RDX as u8);
    repeat::<T>(x, i, port, |x| {
        let at = x.s.gpr[gpr::RDI] & i.address_mask();
        x.probe_write(seg::ES, at, T::SIZE as u64)?;
        x.counters.port += 1;
        watch(x, port, T::SIZE as u64);
        let value = x.bus.port_in(port, T::SIZE as u8);
        x.write(seg::ES, at, T::from_u64(value.into()))?;
        let step = step::<T>(x);
        advance(x, i, gpr::RDI, step);
        Ok(())
    })
}

fn outs<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let port: u16 = x.reg(gpr::RDX as u8);
    repeat::<T>(x, i, port, |x| {
        let at = x.s.gpr[gpr::RSI] & i.address_mask();
        let value = x.read::<T>(i.seg, at)?.to_u64();
        x.counters.port += 1;
        watch(x, port, T::SIZE as u64);
        x.bus.port_out(port, T::SIZE as u8, value as u32);
        let step = step::<T>(x);
        advance(x, i, gpr::RSI, step);
        Ok(())
    })
}

const fn io(code: Code, run: crate::insn::Handler) -> Row {
    Row::new(code, run).checked().control()
}

pub(crate) const ROWS: &[Row] = &[
    io(Code::In_AL_imm8, input::<u8>),
    io(Code::In_AX_imm8, input::<u16>),
    io(Code::In_EAX_imm8, input::<u32>),
    io(Code::In_AL_DX, input::<u8>),
    io(Code::In_AX_DX, input::<u16>),
    io(Code::In_EAX_DX, input::<u32>),
    io(Code::Out_imm8_AL, output::<u8>),
    io(Code::Out_imm8_AX, output::<u16>),
    io(Code::Out_imm8_EAX, output::<u32>),
    io(Code::Out_DX_AL, output::<u8>),
    io(Code::Out_DX_AX, output::<u16>),
    io(Code::Out_DX_EAX, output::<u32>),
    io(Code::Insb_m8_DX, ins::<u8>),
    io(Code::Insw_m16_DX, ins::<u16>),
    io(Code::Insd_m32_DX, ins::<u32>),
    io(Code::Outsb_DX_m8, outs::<u8>),
    io(Code::Outsw_DX_m16, outs::<u16>),
    io(Code::Outsd_DX_m32, outs::<u32>),
];
