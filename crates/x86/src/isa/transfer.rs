//! Far transfers of control: JMP, CALL and RET between segments, call gates, task switches by
//! instruction, IRET in all modes, INT n, INT3, INT1, INTO, BOUND (SDM volume 2; volume 3,
//! "Protection").

use crate::event::Source;
use crate::exec::{Exec, attention};
use crate::insn::Insn;
use crate::segment::{self, Descriptor, Stack, kind};
use crate::state::{Segment, cr0, cr4, gpr, rflags, seg};
use crate::table::Row;
use crate::task::Reason;
use crate::trap::{Done, Trap, vector};
use iced_x86::Code;
use mem::Word;

/// Reads the far pointer of the operand: offset in `T`, selector behind it.
fn far_pointer<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done<(u16, u64)> {
    if !i.is_mem(0) {
        return Ok((i.disp as u16, i.imm));
    }
    let at = x.ea(i);
    let offset: T = x.read(i.seg, at)?;
    let selector = x.read::<u16>(i.seg, at.wrapping_add(T::SIZE as u64) & i.address_mask())?;
    Ok((selector, offset.to_u64()))
}

/// CS:IP in real and virtual-8086 mode.
fn real_far(x: &mut Exec<'_>, selector: u16, offset: u64) -> Done<Segment> {
    let cs = if x.is_v86() {
        segment::v86(selector)
    } else {
        x.real_segment(seg::CS, selector)
    };
    if offset > u64::from(cs.limit) {
        return Err(Trap::GP0);
    }
    Ok(cs)
}

/// A direct far target that is a code segment: checked for JMP and CALL without a gate.
fn check_direct(x: &mut Exec<'_>, d: &mut Descriptor, selector: u16, offset: u64) -> Done {
    let a = d.attributes();
    let named = selector & !3;
    let cpl = x.s.cpl;
    let allowed = if a.is_conforming() {
        a.dpl() <= cpl
    } else {
        (selector & 3) as u8 <= cpl && a.dpl() == cpl
    };
    if !allowed || x.is_long() && a.long() && a.big() {
        return Err(Trap::gp(named));
    }
    if !a.present() {
        return Err(Trap::with_code(vector::NP, named));
    }
    x.check_code_offset(d, offset, 0)?;
    x.mark_accessed(d)
}

/// A call gate's target.
struct Gate {
    d: Descriptor,
    selector: u16,
    offset: u64,
    /// Bytes pushed per value: 2, 4 or 8.
    size: u8,
    /// Parameters copied to an inner stack.
    parameters: u8,
}

/// Checks a call gate and the code segment it names.
fn call_gate(x: &mut Exec<'_>, gate: &Descriptor, selector: u16, jump: bool) -> Done<Gate> {
    let a = gate.attributes();
    let named = selector & !3;
    let cpl = x.s.cpl;
    if a.dpl() < cpl || a.dpl() < (selector & 3) as u8 {
        return Err(Trap::gp(named));
    }
    if !a.present() {
        return Err(Trap::with_code(vector::NP, named));
    }
    let target = gate.gate_selector();
    if segment::is_null(target) {
        return Err(Trap::GP0);
    }
    let d = x.descriptor(target, vector::GP, 0)?;
    let c = d.attributes();
    let named = target & !3;
    let long = x.is_long();
    let level = if jump && !c.is_conforming() {
        c.dpl() == cpl
    } else {
        c.dpl() <= cpl
    };
    if !c.is_code() || !level || long && (!c.long() || c.big()) {
        return Err(Trap::gp(named));
    }
    if !c.present() {
        return Err(Trap::with_code(vector::NP, named));
    }
    let size = match (long, a.kind() & 8 != 0) {
        (true, _) => 8,
        (_, true) => 4,
        _ => 2,
    };
    Ok(Gate {
        d,
        selector: target,
        offset: gate.gate_offset(),
        size,
        parameters: (gate.raw >> 32 & 31) as u8,
    })
}

/// The descriptor that a far JMP or CALL names.
fn far_descriptor(x: &mut Exec<'_>, selector: u16) -> Done<Descriptor> {
    if segment::is_null(selector) {
        return Err(Trap::GP0);
    }
    x.system_descriptor(selector, vector::GP, 0)
}

/// JMP or CALL to a TSS or through a task gate.
fn far_task(x: &mut Exec<'_>, d: &Descriptor, selector: u16, reason: Reason) -> Done {
    let a = d.attributes();
    let named = selector & !3;
    if x.is_long() || a.dpl() < x.s.cpl || a.dpl() < (selector & 3) as u8 {
        return Err(Trap::gp(named));
    }
    let tss = if a.kind() == kind::TASK {
        if !a.present() {
            return Err(Trap::with_code(vector::NP, named));
        }
        d.gate_selector()
    } else {
        selector
    };
    let d = x.available_tss(tss, vector::GP, 0)?;
    switch(x, tss, &d, reason)
}

/// A task switch by an instruction: the old task goes on behind it.
fn switch(x: &mut Exec<'_>, selector: u16, d: &Descriptor, reason: Reason) -> Done {
    let here = x.s.rip;
    x.s.rip = x.next;
    let old_tr = x.s.tr;
    let flags = x.rflags();
    let done = x.task_switch(selector, d, reason, flags);
    if done.is_err() && x.s.tr == old_tr {
        x.s.rip = here;
    }
    done
}

fn is_task(d: &Descriptor) -> bool {
    matches!(
        d.system_kind(),
        Some(kind::TASK | kind::TSS16 | kind::TSS32 | kind::TSS16_BUSY | kind::TSS32_BUSY)
    )
}

fn is_call_gate(x: &Exec<'_>, d: &Descriptor) -> bool {
    match d.system_kind() {
        Some(kind::CALL32) => true,
        Some(kind::CALL16) => !x.is_long(),
        _ => false,
    }
}

fn jmp_far<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let (selector, offset) = far_pointer::<T>(x, i)?;
    if x.is_real_or_v86() {
        x.s.seg[seg::CS as usize] = real_far(x, selector, offset)?;
        x.next = offset;
        x.refresh();
        return Ok(());
    }
    let mut d = far_descriptor(x, selector)?;
    if d.attributes().is_code() {
        check_direct(x, &mut d, selector, offset)?;
        let cpl = x.s.cpl;
        x.commit_code(&d, selector, cpl);
        x.next = offset;
    } else if is_call_gate(x, &d) {
        let mut gate = call_gate(x, &d, selector, true)?;
        x.check_code_offset(&gate.d, gate.offset, 0)?;
        x.mark_accessed(&mut gate.d)?;
        let cpl = x.s.cpl;
        x.commit_code(&gate.d, gate.selector, cpl);
        x.next = gate.offset;
    } else if is_task(&d) {
        return far_task(x, &d, selector, Reason::Jump);
    } else {
        return Err(Trap::gp(selector & !3));
    }
    x.refresh();
    Ok(())
}

fn call_far<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let (selector, offset) = far_pointer::<T>(x, i)?;
    let size = T::SIZE as u8;
    let return_cs = u64::from(x.s.seg[seg::CS as usize].selector);
    let return_ip = x.next;
    if x.is_real_or_v86() {
        let cs = real_far(x, selector, offset)?;
        let mut stack = x.current_stack(0);
        stack.push_sized(x, size, return_cs)?;
        stack.push_sized(x, size, return_ip)?;
        stack.commit(x);
        x.s.seg[seg::CS as usize] = cs;
        x.next = offset;
        x.refresh();
        return Ok(());
    }
    let mut d = far_descriptor(x, selector)?;
    if d.attributes().is_code() {
        check_direct(x, &mut d, selector, offset)?;
        let mut stack = x.current_stack(0);
        stack.push_sized(x, size, return_cs)?;
        stack.push_sized(x, size, return_ip)?;
        stack.commit(x);
        let cpl = x.s.cpl;
        x.commit_code(&d, selector, cpl);
        x.next = offset;
        x.refresh();
        return Ok(());
    }
    if is_call_gate(x, &d) {
        let gate = call_gate(x, &d, selector, false)?;
        return call_through(x, gate);
    }
    if is_task(&d) {
        return far_task(x, &d, selector, Reason::Call);
    }
    Err(Trap::gp(selector & !3))
}

/// CALL through a checked gate, to the same level or an inner one.
fn call_through(x: &mut Exec<'_>, mut gate: Gate) -> Done {
    let a = gate.d.attributes();
    let cpl = x.s.cpl;
    let inner = !a.is_conforming() && a.dpl() < cpl;
    let new_cpl = if inner { a.dpl() } else { cpl };
    let size = gate.size;
    let (ss, sp) = (x.s.seg[seg::SS as usize], x.s.gpr[gpr::RSP]);
    let mut stack = if !inner {
        let mut stack = x.current_stack(0);
        stack.flat = x.is_long();
        stack
    } else if x.is_long() {
        Stack {
            ss: segment::null_stack(new_cpl.into(), new_cpl),
            sp: x.tss_rsp(4 + 8 * u32::from(new_cpl), 0)?,
            cpl: new_cpl,
            flat: true,
            fault: 0,
        }
    } else {
        x.inner_stack(new_cpl, 0)?
    };
    if inner {
        stack.push_sized(x, size, ss.selector.into())?;
        stack.push_sized(x, size, sp)?;
        if !x.is_long() {
            for n in (0..u64::from(gate.parameters)).rev() {
                let at = sp.wrapping_add(n * u64::from(size));
                let value = if size == 4 {
                    x.read_stack::<u32>(at)?.into()
                } else {
                    x.read_stack::<u16>(at)?.into()
                };
                stack.push_sized(x, size, value)?;
            }
        }
    }
    let cs = x.s.seg[seg::CS as usize].selector;
    stack.push_sized(x, size, cs.into())?;
    stack.push_sized(x, size, x.next)?;
    x.check_code_offset(&gate.d, gate.offset, 0)?;
    x.mark_accessed(&mut gate.d)?;
    stack.commit(x);
    x.commit_code(&gate.d, gate.selector, new_cpl);
    x.next = gate.offset;
    x.refresh();
    Ok(())
}

/// Checks the code segment that RET or IRET returns to.
fn return_code(x: &mut Exec<'_>, selector: u16, offset: u64) -> Done<Descriptor> {
    if segment::is_null(selector) {
        return Err(Trap::GP0);
    }
    let mut d = x.descriptor(selector, vector::GP, 0)?;
    let a = d.attributes();
    let named = selector & !3;
    let rpl = (selector & 3) as u8;
    let level = if a.is_conforming() {
        a.dpl() <= rpl
    } else {
        a.dpl() == rpl
    };
    if !a.is_code() || rpl < x.s.cpl || !level || x.is_long() && a.long() && a.big() {
        return Err(Trap::gp(named));
    }
    if !a.present() {
        return Err(Trap::with_code(vector::NP, named));
    }
    x.check_code_offset(&d, offset, 0)?;
    x.mark_accessed(&mut d)?;
    Ok(d)
}

/// Checks the stack segment that RET or IRET returns to at the level of `cs`; `long` if that is
/// 64-bit code.
fn return_stack(x: &mut Exec<'_>, selector: u16, cs: u16, long: bool) -> Done<Segment> {
    let cpl = (cs & 3) as u8;
    if segment::is_null(selector) {
        if long && cpl != 3 && (selector & 3) as u8 == cpl {
            return Ok(segment::null_stack(selector, cpl));
        }
        return Err(Trap::GP0);
    }
    x.checked_stack(selector, cpl, vector::GP, 0)
}

/// Reads the value `n` places up the stack.
fn peek(x: &mut Exec<'_>, size: u8, n: u64) -> Done<u64> {
    let at = x.s.gpr[gpr::RSP].wrapping_add(n * u64::from(size));
    Ok(match size {
        2 => x.read_stack::<u16>(at)?.into(),
        4 => x.read_stack::<u32>(at)?.into(),
        _ => x.read_stack::<u64>(at)?,
    })
}

/// Drops `bytes` from the stack.
fn drop_stack(x: &mut Exec<'_>, bytes: u64) {
    let sp = x.s.gpr[gpr::RSP].wrapping_add(bytes);
    x.set_sp(sp);
}

fn ret_far<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let size = T::SIZE as u8;
    let bytes = u64::from(size);
    let extra = i.imm & 0xffff;
    let ip = peek(x, size, 0)?;
    let selector = peek(x, size, 1)? as u16;
    if x.is_real_or_v86() {
        let cs = real_far(x, selector, ip)?;
        drop_stack(x, 2 * bytes + extra);
        x.s.seg[seg::CS as usize] = cs;
        x.next = ip;
        x.refresh();
        return Ok(());
    }
    let d = return_code(x, selector, ip)?;
    let rpl = (selector & 3) as u8;
    if rpl == x.s.cpl {
        drop_stack(x, 2 * bytes + extra);
        x.commit_code(&d, selector, rpl);
        x.next = ip;
        x.refresh();
        return Ok(());
    }
    let base = x.s.gpr[gpr::RSP];
    let outer = base.wrapping_add(2 * bytes + extra);
    let read = |x: &mut Exec<'_>, at: u64| -> Done<u64> {
        Ok(match size {
            2 => x.read_stack::<u16>(at)?.into(),
            4 => x.read_stack::<u32>(at)?.into(),
            _ => x.read_stack::<u64>(at)?,
        })
    };
    let sp = read(x, outer)?;
    let ss_selector = read(x, outer.wrapping_add(bytes))? as u16;
    let long = x.is_long() && d.attributes().long();
    let ss = return_stack(x, ss_selector, selector, long)?;
    x.commit_code(&d, selector, rpl);
    x.s.seg[seg::SS as usize] = ss;
    x.next = ip;
    x.drop_privileged_segments();
    x.refresh();
    x.set_sp(sp.wrapping_add(extra));
    Ok(())
}

// IRET

/// The flags that IRET and POPF of `size` bytes may change at a privilege.
pub(crate) fn changeable(size: u8, cpl: u8, iopl: u8) -> u64 {
    let mut mask = rflags::ARITHMETIC | rflags::TF | rflags::DF | rflags::NT;
    if size > 2 {
        mask |= rflags::AC | rflags::ID;
    }
    if cpl <= iopl {
        mask |= rflags::IF;
    }
    if cpl == 0 {
        mask |= rflags::IOPL;
    }
    mask
}

fn iret<T: Word>(x: &mut Exec<'_>, _: &Insn) -> Done {
    let size = T::SIZE as u8;
    if x.s.cr0 & cr0::PE == 0 {
        x.s.nmi_blocked = false;
        return iret_real(x, size);
    }
    if x.is_v86() {
        return iret_v86(x, size);
    }
    if x.s.rflags & rflags::NT != 0 {
        if x.is_long() {
            return Err(Trap::GP0);
        }
        x.s.nmi_blocked = false;
        return iret_task(x);
    }
    x.s.nmi_blocked = false;
    x.attention |= attention::EVENTS;
    iret_protected(x, size)
}

fn set_iret_flags(x: &mut Exec<'_>, flags: u64, mask: u64) {
    let flags = x.rflags() & !mask | flags & mask;
    x.set_rflags(flags);
}

fn iret_real(x: &mut Exec<'_>, size: u8) -> Done {
    let ip = peek(x, size, 0)?;
    let cs = peek(x, size, 1)? as u16;
    let flags = peek(x, size, 2)?;
    let cs = real_far(x, cs, ip)?;
    drop_stack(x, 3 * u64::from(size));
    x.s.seg[seg::CS as usize] = cs;
    x.next = ip;
    let mut mask = changeable(size, 0, 0);
    if size > 2 {
        mask |= rflags::RF;
    }
    set_iret_flags(x, flags, mask);
    x.attention |= attention::EVENTS;
    x.refresh();
    Ok(())
}

fn iret_v86(x: &mut Exec<'_>, size: u8) -> Done {
    let full = x.iopl() == 3;
    if !full && (x.s.cr4 & cr4::VME == 0 || size != 2) {
        return Err(Trap::GP0);
    }
    let ip = peek(x, size, 0)?;
    let cs = peek(x, size, 1)? as u16;
    let flags = peek(x, size, 2)?;
    let cs = real_far(x, cs, ip)?;
    if full {
        drop_stack(x, 3 * u64::from(size));
        let mut mask = changeable(size, 3, 3);
        if size > 2 {
            mask |= rflags::RF;
        }
        set_iret_flags(x, flags, mask);
    } else {
        let vip = x.s.rflags & rflags::VIP != 0;
        if flags & rflags::TF != 0 || flags & rflags::IF != 0 && vip {
            return Err(Trap::GP0);
        }
        drop_stack(x, 6);
        let virtual_if = if flags & rflags::IF != 0 {
            rflags::VIF
        } else {
            0
        };
        let mask = changeable(2, 3, 0);
        set_iret_flags(x, flags & mask | virtual_if, mask | rflags::VIF);
    }
    x.s.nmi_blocked = false;
    x.attention |= attention::EVENTS;
    x.s.seg[seg::CS as usize] = cs;
    x.next = ip;
    x.refresh();
    Ok(())
}

/// IRET with NT set: back to the task that the TSS's link names.
fn iret_task(x: &mut Exec<'_>) -> Done {
    let link: u16 = x.read_system(x.s.tr.base)?;
    let ts = Trap::with_code(vector::TS, link & !3);
    if link & 4 != 0 || segment::is_null(link) {
        return Err(ts);
    }
    let d = x.descriptor(link, vector::TS, 0)?;
    if !matches!(d.system_kind(), Some(kind::TSS16_BUSY | kind::TSS32_BUSY)) {
        return Err(ts);
    }
    if !d.attributes().present() {
        return Err(Trap::with_code(vector::NP, link & !3));
    }
    switch(x, link, &d, Reason::Iret)
}

fn iret_protected(x: &mut Exec<'_>, size: u8) -> Done {
    let ip = peek(x, size, 0)?;
    let selector = peek(x, size, 1)? as u16;
    let flags = peek(x, size, 2)?;
    let cpl = x.s.cpl;
    let mut mask = changeable(size, cpl, x.iopl());
    if size > 2 {
        mask |= rflags::RF;
        if cpl == 0 {
            mask |= rflags::VIF | rflags::VIP;
        }
    }
    if size == 4 && cpl == 0 && flags & rflags::VM != 0 && !x.is_long() {
        return iret_to_v86(x, ip, selector, flags);
    }
    let wide = x.is_64bit();
    let d = return_code(x, selector, ip)?;
    let rpl = (selector & 3) as u8;
    if rpl == cpl && !wide {
        drop_stack(x, 3 * u64::from(size));
        x.commit_code(&d, selector, rpl);
    } else {
        let sp = peek(x, size, 3)?;
        let ss_selector = peek(x, size, 4)? as u16;
        let long = x.is_long() && d.attributes().long();
        let ss = return_stack(x, ss_selector, selector, long)?;
        x.commit_code(&d, selector, rpl);
        x.s.seg[seg::SS as usize] = ss;
        if rpl != cpl {
            x.drop_privileged_segments();
        }
        x.refresh();
        x.set_sp(sp);
    }
    x.next = ip;
    set_iret_flags(x, flags, mask);
    x.refresh();
    Ok(())
}

fn iret_to_v86(x: &mut Exec<'_>, ip: u64, cs: u16, flags: u64) -> Done {
    let sp = peek(x, 4, 3)?;
    let mut selectors = [0u16; 6];
    selectors[seg::CS as usize] = cs;
    for (n, place) in [
        (seg::SS, 4),
        (seg::ES, 5),
        (seg::DS, 6),
        (seg::FS, 7),
        (seg::GS, 8),
    ] {
        selectors[usize::from(n)] = peek(x, 4, place)? as u16;
    }
    if ip > 0xffff {
        return Err(Trap::GP0);
    }
    for (n, selector) in selectors.into_iter().enumerate() {
        x.s.seg[n] = segment::v86(selector);
    }
    x.s.gpr[gpr::RSP] = sp;
    x.s.cpl = 3;
    x.next = ip;
    x.set_rflags(flags);
    x.refresh();
    Ok(())
}

// Software interrupts

/// Delivers an event of this instruction; on a fault the instruction itself is at fault.
fn software(x: &mut Exec<'_>, vector: u8, source: Source) -> Done {
    let here = x.s.rip;
    let tr = x.s.tr;
    x.s.rip = x.next;
    match x.deliver(vector, None, source) {
        Ok(()) => {
            x.next = x.s.rip;
            Ok(())
        }
        Err(trap) => {
            if x.s.tr == tr {
                x.s.rip = here;
            }
            Err(trap)
        }
    }
}

fn int3(x: &mut Exec<'_>, _: &Insn) -> Done {
    software(x, vector::BP, Source::Software)
}

/// INT1 (ICEBP): a debug exception that no gate's DPL stops.
fn int1(x: &mut Exec<'_>, _: &Insn) -> Done {
    software(x, vector::DB, Source::Trap)
}

fn into(x: &mut Exec<'_>, _: &Insn) -> Done {
    if x.flags.of() {
        software(x, vector::OF, Source::Software)
    } else {
        Ok(())
    }
}

fn int(x: &mut Exec<'_>, i: &Insn) -> Done {
    let n = i.imm as u8;
    if !x.is_v86() {
        return software(x, n, Source::Software);
    }
    if x.s.cr4 & cr4::VME != 0 && !redirected_to_monitor(x, n)? {
        return int_in_v86(x, n);
    }
    if x.iopl() < 3 {
        return Err(Trap::GP0);
    }
    software(x, n, Source::Software)
}

/// The bit of the TSS's software interrupt redirection bitmap: set means the protected-mode
/// handler.
fn redirected_to_monitor(x: &mut Exec<'_>, n: u8) -> Done<bool> {
    let tr = x.s.tr;
    if tr.limit < 0x67 || tr.attributes.kind() & 8 == 0 {
        return Err(Trap::GP0);
    }
    let map: u16 = x.read_system(tr.base + 0x66)?;
    let at = u32::from(map)
        .wrapping_sub(32)
        .wrapping_add(u32::from(n) / 8);
    if at > tr.limit {
        return Err(Trap::GP0);
    }
    let byte: u8 = x.read_system(tr.base + u64::from(at))?;
    Ok(byte >> (n & 7) & 1 != 0)
}

/// INT n handled inside virtual-8086 mode, through the table at linear address 0.
fn int_in_v86(x: &mut Exec<'_>, n: u8) -> Done {
    let entry: u32 = x.read_system(u64::from(n) * 4)?;
    let mut flags = x.rflags();
    let full = x.iopl() == 3;
    if !full {
        let virtual_if = flags & rflags::VIF != 0;
        flags = flags & !rflags::IF | rflags::IOPL | if virtual_if { rflags::IF } else { 0 };
    }
    let mut stack = x.current_stack(0);
    stack.push(x, flags as u16)?;
    stack.push(x, x.s.seg[seg::CS as usize].selector)?;
    stack.push(x, x.next as u16)?;
    stack.commit(x);
    x.s.seg[seg::CS as usize] = segment::v86((entry >> 16) as u16);
    x.next = u64::from(entry & 0xffff);
    let off = if full { rflags::IF } else { rflags::VIF };
    let flags = x.rflags() & !(off | rflags::TF | rflags::RF | rflags::NT);
    x.set_rflags(flags);
    x.refresh();
    Ok(())
}

fn bound<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let at = x.ea(i);
    let size = T::SIZE as u64;
    let low = crate::flags::sign_extend::<T>(x.read::<T>(i.seg, at)?.to_u64()) as i64;
    let index = crate::flags::sign_extend::<T>(x.reg::<T>(i.ops[0]).to_u64()) as i64;
    let outside = Err(Trap::Fault {
        vector: vector::BR,
        code: None,
    });
    // The upper bound is not even read if the lower one is violated.
    if index < low {
        return outside;
    }
    let at = at.wrapping_add(size) & i.address_mask();
    let high = crate::flags::sign_extend::<T>(x.read::<T>(i.seg, at)?.to_u64()) as i64;
    if index > high {
        return outside;
    }
    Ok(())
}

/// A far transfer's row.
const fn far(code: Code, run: crate::insn::Handler) -> Row {
    Row::new(code, run).checked().control()
}

pub(crate) const ROWS: &[Row] = &[
    far(Code::Jmp_ptr1616, jmp_far::<u16>),
    far(Code::Jmp_ptr1632, jmp_far::<u32>),
    far(Code::Jmp_m1616, jmp_far::<u16>),
    far(Code::Jmp_m1632, jmp_far::<u32>),
    far(Code::Jmp_m1664, jmp_far::<u64>),
    far(Code::Call_ptr1616, call_far::<u16>),
    far(Code::Call_ptr1632, call_far::<u32>),
    far(Code::Call_m1616, call_far::<u16>),
    far(Code::Call_m1632, call_far::<u32>),
    far(Code::Call_m1664, call_far::<u64>),
    far(Code::Retfw, ret_far::<u16>),
    far(Code::Retfd, ret_far::<u32>),
    far(Code::Retfq, ret_far::<u64>),
    far(Code::Retfw_imm16, ret_far::<u16>),
    far(Code::Retfd_imm16, ret_far::<u32>),
    far(Code::Retfq_imm16, ret_far::<u64>),
    far(Code::Iretw, iret::<u16>),
    far(Code::Iretd, iret::<u32>),
    far(Code::Iretq, iret::<u64>),
    far(Code::Int_imm8, int),
    far(Code::Int3, int3),
    far(Code::Int1, int1),
    far(Code::Into, into),
    Row::new(Code::Bound_r16_m1616, bound::<u16>),
    Row::new(Code::Bound_r32_m3232, bound::<u32>),
];
