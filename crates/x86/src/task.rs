//! Hardware task switching (SDM volume 3, "Task Management"): JMP, CALL, events and IRET through
//! 16- and 32-bit TSSs. There is none in IA-32e mode.
//!
//! Called by `event` and `isa::transfer`. Up to the commit point a fault leaves the old task
//! running; after it, faults belong to the new task, whose RIP is then in `s.rip`.

use crate::exec::Exec;
use crate::mmu::{Access, Rights};
use crate::segment::{self, Descriptor, kind};
use crate::state::{Attributes, cr0, cr4, gpr, rflags, seg};
use crate::trap::{Done, Trap, vector};

/// What started a task switch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Reason {
    Jump,
    Call,
    Iret,
    /// An exception or interrupt with its error code.
    Event {
        code: Option<u16>,
        ext: u16,
    },
}

/// What a TSS holds of a task.
#[derive(Default)]
struct Image {
    cr3: u32,
    eip: u32,
    eflags: u32,
    gpr: [u32; 8],
    /// ES, CS, SS, DS, FS, GS.
    seg: [u16; 6],
    ldt: u16,
    trap: bool,
}

impl Exec<'_> {
    /// The descriptor of a TSS that is to be entered by anything but IRET.
    pub(crate) fn available_tss(&mut self, selector: u16, fault: u8, ext: u16) -> Done<Descriptor> {
        let named = selector & !3 | ext;
        if segment::is_null(selector) || selector & 4 != 0 {
            return Err(Trap::with_code(fault, named));
        }
        let d = self.descriptor(selector, fault, ext)?;
        if !matches!(d.system_kind(), Some(kind::TSS16 | kind::TSS32)) {
            return Err(Trap::with_code(fault, named));
        }
        if !d.attributes().present() {
            return Err(Trap::with_code(vector::NP, named));
        }
        Ok(d)
    }

    /// Leaves the current task for the one of TSS `d`. `flags` is the old task's EFLAGS image;
    /// `self.s.rip` the address it goes on at. Sets `s.rip` and `next` to the new task's.
    pub(crate) fn task_switch(
        &mut self,
        selector: u16,
        d: &Descriptor,
        reason: Reason,
        flags: u64,
    ) -> Done {
        let ext = match reason {
            Reason::Event { ext, .. } => ext,
            _ => 0,
        };
        let wide = d.attributes().kind() & 8 != 0;
        let (need, base) = (if wide { 0x67 } else { 0x2b }, d.base());
        if d.limit() < need {
            return Err(Trap::with_code(vector::TS, selector & !3 | ext));
        }
        let old = self.s.tr;
        let old_wide = old.attributes.kind() & 8 != 0;
        let new = self.read_tss(base, wide)?;
        // The old TSS and the link field must be writable before anything is.
        let old_len = if old_wide { 0x68 } else { 0x2c };
        self.probe_system(old.base, old_len)?;
        self.probe_system(base, 2)?;

        let old_at = self.s.gdtr.base.wrapping_add(u64::from(old.selector & !7));
        if matches!(reason, Reason::Jump | Reason::Iret) {
            self.set_busy(old_at, false)?;
        }
        let mut saved = flags;
        if reason == Reason::Iret {
            saved &= !rflags::NT;
        }
        self.write_tss(old.base, old_wide, saved)?;
        let nested = matches!(reason, Reason::Call | Reason::Event { .. });
        if nested {
            self.write_system::<u16>(base, old.selector)?;
        }
        if reason != Reason::Iret {
            self.set_busy(d.at, true)?;
        }

        // The commit point: from here on the new task runs.
        let mut tr = d.segment(selector);
        tr.attributes = Attributes(tr.attributes.0 | u16::from(kind::BUSY));
        self.s.tr = tr;
        self.s.cr0 |= cr0::TS;
        self.s.dr7 &= !0x155;
        let mut flags = u64::from(new.eflags);
        if nested {
            flags |= rflags::NT;
        }
        for (n, value) in new.gpr.iter().enumerate() {
            let old = self.s.gpr[n];
            self.s.gpr[n] = if wide {
                (*value).into()
            } else {
                old & 0xffff_0000 | u64::from(*value)
            };
        }
        self.s.rip = new.eip.into();
        self.next = self.s.rip;
        let v86 = wide && flags & rflags::VM != 0;
        // Until its segments are loaded the new task runs at its CS's level with none valid.
        for n in 0..6 {
            self.s.seg[n] = segment::null(new.seg[n]);
        }
        self.s.ldtr = segment::null(new.ldt);
        self.s.cpl = if v86 { 3 } else { (new.seg[1] & 3) as u8 };
        self.set_rflags(flags & if wide { !0 } else { 0xffff });
        let mut bad_pdpte = false;
        if wide && self.s.cr0 & cr0::PG != 0 {
            let cr3 = u64::from(new.cr3);
            if self.s.cr4 & cr4::PAE != 0 {
                bad_pdpte = self.load_pdptes(cr3).is_err();
            }
            if !bad_pdpte {
                self.s.cr3 = cr3;
                self.cpu.tlb.flush_all();
            }
        }
        self.refresh();
        if new.trap {
            self.debug_hits |= 1 << 15;
        }
        if bad_pdpte {
            return Err(Trap::gp(ext));
        }
        self.load_task_segments(&new, v86, ext)?;
        self.refresh();
        if new.eip > self.s.seg[seg::CS as usize].limit {
            return Err(Trap::gp(ext));
        }
        if let Reason::Event {
            code: Some(code), ..
        } = reason
        {
            let mut stack = self.current_stack(ext);
            stack.push_sized(self, if wide { 4 } else { 2 }, code.into())?;
            stack.commit(self);
        }
        Ok(())
    }

    /// Loads LDTR and the six segment registers of the new task: faults are #TS, #NP, #SS.
    fn load_task_segments(&mut self, new: &Image, v86: bool, ext: u16) -> Done {
        let ts = |selector: u16| Trap::with_code(vector::TS, selector & !3 | ext);
        if !segment::is_null(new.ldt) {
            if new.ldt & 4 != 0 {
                return Err(ts(new.ldt));
            }
            let d = self.descriptor(new.ldt, vector::TS, ext)?;
            if d.system_kind() != Some(kind::LDT) || !d.attributes().present() {
                return Err(ts(new.ldt));
            }
            self.s.ldtr = d.segment(new.ldt);
        }
        if v86 {
            for n in 0..6 {
                self.s.seg[n] = segment::v86(new.seg[n]);
            }
            return Ok(());
        }
        let cs = new.seg[seg::CS as usize];
        let cpl = (cs & 3) as u8;
        let ss = new.seg[seg::SS as usize];
        if segment::is_null(cs) {
            return Err(ts(cs));
        }
        let mut code = self.descriptor(cs, vector::TS, ext)?;
        let a = code.attributes();
        let level = if a.is_conforming() {
            a.dpl() <= cpl
        } else {
            a.dpl() == cpl
        };
        if !a.is_code() || !level {
            return Err(ts(cs));
        }
        if !a.present() {
            return Err(Trap::with_code(vector::NP, cs & !3 | ext));
        }
        let stack = self.checked_stack(ss, cpl, vector::TS, ext)?;
        self.s.seg[seg::SS as usize] = stack;
        self.mark_accessed(&mut code)?;
        self.commit_code(&code, cs, cpl);
        for n in [seg::ES, seg::DS, seg::FS, seg::GS] {
            let selector = new.seg[usize::from(n)];
            if segment::is_null(selector) {
                continue;
            }
            let mut d = self.descriptor(selector, vector::TS, ext)?;
            let a = d.attributes();
            let rpl = (selector & 3) as u8;
            if !a.is_readable() || !a.is_conforming() && (a.dpl() < cpl || a.dpl() < rpl) {
                return Err(ts(selector));
            }
            if !a.present() {
                return Err(Trap::with_code(vector::NP, selector & !3 | ext));
            }
            self.mark_accessed(&mut d)?;
            self.s.seg[usize::from(n)] = d.segment(selector);
        }
        Ok(())
    }

    /// Raises what writing `len` bytes at `base` with system rights would.
    fn probe_system(&mut self, base: u64, len: u64) -> Done {
        let mut at = base;
        let end = base + len;
        while at < end {
            self.translate(at & 0xffff_ffff, Access::Write, Rights::System)?;
            at = (at & !0xfff) + 0x1000;
        }
        Ok(())
    }

    fn read_tss(&mut self, base: u64, wide: bool) -> Done<Image> {
        let mut new = Image::default();
        if wide {
            new.cr3 = self.read_system(base + 0x1c)?;
            new.eip = self.read_system(base + 0x20)?;
            new.eflags = self.read_system(base + 0x24)?;
            for n in 0..8 {
                new.gpr[n as usize] = self.read_system(base + 0x28 + 4 * n)?;
            }
            for n in 0..6 {
                new.seg[n as usize] = self.read_system(base + 0x48 + 4 * n)?;
            }
            new.ldt = self.read_system(base + 0x60)?;
            new.trap = self.read_system::<u16>(base + 0x64)? & 1 != 0;
        } else {
            new.eip = self.read_system::<u16>(base + 0x0e)?.into();
            new.eflags = self.read_system::<u16>(base + 0x10)?.into();
            for n in 0..8 {
                new.gpr[n as usize] = self.read_system::<u16>(base + 0x12 + 2 * n)?.into();
            }
            for n in 0..4 {
                new.seg[n as usize] = self.read_system(base + 0x22 + 2 * n)?;
            }
            new.ldt = self.read_system(base + 0x2a)?;
        }
        Ok(new)
    }

    /// Saves the dynamic part of the current task.
    fn write_tss(&mut self, base: u64, wide: bool, flags: u64) -> Done {
        let gprs = self.s.gpr;
        if wide {
            self.write_system(base + 0x20, self.s.rip as u32)?;
            self.write_system(base + 0x24, flags as u32)?;
            for n in 0..8 {
                self.write_system(base + 0x28 + 4 * n, gprs[gpr::RAX + n as usize] as u32)?;
            }
            for n in 0..6 {
                let selector = self.s.seg[n as usize].selector;
                self.write_system(base + 0x48 + 4 * n, selector)?;
            }
        } else {
            self.write_system(base + 0x0e, self.s.rip as u16)?;
            self.write_system(base + 0x10, flags as u16)?;
            for n in 0..8 {
                self.write_system(base + 0x12 + 2 * n, gprs[gpr::RAX + n as usize] as u16)?;
            }
            for n in 0..4 {
                let selector = self.s.seg[n as usize].selector;
                self.write_system(base + 0x22 + 2 * n, selector)?;
            }
        }
        Ok(())
    }
}
