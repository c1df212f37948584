//! Segment descriptors: reading them, the checks that loading a segment register makes, and the
//! stacks that gates switch to (SDM volume 3, "Protected-Mode Memory Management" and
//! "Protection"). Called by every instruction and event that names a selector.

use crate::exec::Exec;
use crate::mmu::Rights;
use crate::state::{Attributes, Segment, cr0, efer, gpr, rflags, seg};
use crate::trap::{Done, Trap, vector};
use mem::Word;

/// System descriptor types (SDM volume 3, "System Descriptor Types").
#[allow(missing_docs)]
pub(crate) mod kind {
    pub const TSS16: u8 = 1;
    pub const LDT: u8 = 2;
    pub const TSS16_BUSY: u8 = 3;
    pub const CALL16: u8 = 4;
    pub const TASK: u8 = 5;
    pub const INTERRUPT16: u8 = 6;
    pub const TRAP16: u8 = 7;
    pub const TSS32: u8 = 9;
    pub const TSS32_BUSY: u8 = 11;
    pub const CALL32: u8 = 12;
    pub const INTERRUPT32: u8 = 14;
    pub const TRAP32: u8 = 15;
    /// The bit that makes an available TSS a busy one.
    pub const BUSY: u8 = 2;
}

/// Eight bytes of a descriptor table, with where they came from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Descriptor {
    /// The raw descriptor.
    pub raw: u64,
    /// Bytes 8–15 of a 16-byte system descriptor in long mode.
    pub upper: u64,
    /// Its linear address.
    pub at: u64,
}

impl Descriptor {
    pub fn attributes(&self) -> Attributes {
        Attributes((self.raw >> 40 & 0xff) as u16 | (self.raw >> 44 & 0xf00) as u16)
    }
    pub fn base(&self) -> u64 {
        self.raw >> 16 & 0xff_ffff | self.raw >> 32 & 0xff00_0000 | self.upper << 32
    }
    pub fn limit(&self) -> u32 {
        let limit = (self.raw & 0xffff | self.raw >> 32 & 0xf_0000) as u32;
        if self.attributes().granular() {
            limit << 12 | 0xfff
        } else {
            limit
        }
    }
    /// As a segment register holds it.
    pub fn segment(&self, selector: u16) -> Segment {
        Segment {
            selector,
            attributes: self.attributes(),
            limit: self.limit(),
            base: self.base(),
        }
    }
    /// Of a gate: the selector.
    pub fn gate_selector(&self) -> u16 {
        (self.raw >> 16) as u16
    }
    /// Of a gate: the offset, 16 bits for 16-bit gates, with bits 32–63 from `upper`.
    pub fn gate_offset(&self) -> u64 {
        let low = self.raw & 0xffff;
        if self.attributes().kind() & 8 == 0 {
            low
        } else {
            low | self.raw >> 32 & 0xffff_0000 | self.upper << 32
        }
    }
    /// Of a system descriptor: the type, or `None` if it is a code or data segment.
    pub fn system_kind(&self) -> Option<u8> {
        let a = self.attributes();
        (!a.is_code_or_data()).then(|| a.kind())
    }
}

/// A stack that something pushes on before it becomes the current one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stack {
    /// SS as it will be.
    pub ss: Segment,
    /// Stack pointer.
    pub sp: u64,
    /// Privilege of the pushes.
    pub cpl: u8,
    /// No segmentation: 64-bit pushes.
    pub flat: bool,
    /// Error code of a #SS that a push raises.
    pub fault: u16,
}

impl Stack {
    fn mask(&self) -> u64 {
        if self.flat {
            !0
        } else if self.ss.attributes.big() {
            0xffff_ffff
        } else {
            0xffff
        }
    }

    /// Pushes; the caller throws the stack away if this fails.
    pub fn push<T: Word>(&mut self, x: &mut Exec<'_>, value: T) -> Done {
        let sp = self.sp.wrapping_sub(T::SIZE as u64) & self.mask();
        let linear = self.linear(sp, T::SIZE as u64)?;
        let rights = if self.cpl == 3 {
            Rights::User
        } else {
            Rights::Supervisor
        };
        x.write_as(linear, value, rights).map_err(|t| match t {
            // A non-canonical stack address.
            Trap::GP0 => self.stack_fault(),
            other => other,
        })?;
        self.sp = sp | self.sp & !self.mask();
        Ok(())
    }

    /// Pushes 2, 4 or 8 bytes.
    pub fn push_sized(&mut self, x: &mut Exec<'_>, size: u8, value: u64) -> Done {
        match size {
            2 => self.push(x, value as u16),
            4 => self.push(x, value as u32),
            _ => self.push(x, value),
        }
    }

    fn stack_fault(&self) -> Trap {
        Trap::with_code(vector::SS, self.fault)
    }

    fn linear(&self, offset: u64, len: u64) -> Done<u64> {
        if self.flat {
            return Ok(offset);
        }
        let a = self.ss.attributes;
        let last = offset + len - 1;
        let limit = u64::from(self.ss.limit);
        let inside = if a.is_expand_down() {
            offset > limit && last <= self.mask()
        } else {
            last <= limit
        };
        if !inside {
            return Err(self.stack_fault());
        }
        Ok(self.ss.base.wrapping_add(offset) & 0xffff_ffff)
    }

    /// Makes this the current stack. SS must be written before: the caller has done `x.s.seg`.
    pub fn commit(&self, x: &mut Exec<'_>) {
        x.s.seg[seg::SS as usize] = self.ss;
        let mask = self.mask();
        let rsp = &mut x.s.gpr[gpr::RSP];
        *rsp = if mask == 0xffff {
            *rsp & !mask | self.sp & mask
        } else {
            self.sp & mask
        };
    }
}

/// True for the null selectors 0–3.
pub(crate) fn is_null(selector: u16) -> bool {
    selector & !3 == 0
}

/// A data segment register that holds a null selector.
pub(crate) fn null(selector: u16) -> Segment {
    Segment {
        selector,
        ..Segment::default()
    }
}

/// A segment as virtual-8086 mode has them.
pub(crate) fn v86(selector: u16) -> Segment {
    Segment {
        selector,
        attributes: Attributes(0xf3),
        limit: 0xffff,
        base: u64::from(selector) << 4,
    }
}

impl Exec<'_> {
    /// The current stack, to push on with the current privilege.
    pub(crate) fn current_stack(&self, fault: u16) -> Stack {
        Stack {
            ss: self.s.seg[seg::SS as usize],
            sp: self.s.gpr[gpr::RSP],
            cpl: self.s.cpl,
            flat: self.is_64bit(),
            fault,
        }
    }

    /// True in IA-32e mode (64-bit or compatibility).
    pub(crate) fn is_long(&self) -> bool {
        self.s.efer & efer::LMA != 0
    }

    /// Reads the descriptor of a selector that is not null; a selector beyond its table raises
    /// `vector` with the selector as the error code (bit 0 as in `ext`).
    pub(crate) fn descriptor(&mut self, selector: u16, vector: u8, ext: u16) -> Done<Descriptor> {
        let (base, limit) = if selector & 4 == 0 {
            (self.s.gdtr.base, u32::from(self.s.gdtr.limit))
        } else {
            let ldtr = &self.s.ldtr;
            // An LDTR that holds null has limit 0 and is not present.
            if !ldtr.attributes.present() || is_null(ldtr.selector) {
                return Err(Trap::with_code(vector, selector & !3 | ext));
            }
            (ldtr.base, ldtr.limit)
        };
        let offset = u32::from(selector & !7);
        if offset + 7 > limit {
            return Err(Trap::with_code(vector, selector & !3 | ext));
        }
        let at = base.wrapping_add(offset.into());
        Ok(Descriptor {
            raw: self.read_system(at)?,
            upper: 0,
            at,
        })
    }

    /// As [`Self::descriptor`], for a system descriptor: 16 bytes in long mode.
    pub(crate) fn system_descriptor(
        &mut self,
        selector: u16,
        vector: u8,
        ext: u16,
    ) -> Done<Descriptor> {
        let mut d = self.descriptor(selector, vector, ext)?;
        if self.is_long() && d.system_kind().is_some() {
            let (limit, offset) = if selector & 4 == 0 {
                (u32::from(self.s.gdtr.limit), u32::from(selector & !7))
            } else {
                (self.s.ldtr.limit, u32::from(selector & !7))
            };
            if offset + 15 > limit {
                return Err(Trap::with_code(vector, selector & !3 | ext));
            }
            d.upper = self.read_system(d.at.wrapping_add(8))?;
            // The type field of the upper half must be zero.
            if d.upper >> 40 & 0x1f != 0 {
                return Err(Trap::with_code(vector, selector & !3 | ext));
            }
            d.upper &= 0xffff_ffff;
        }
        Ok(d)
    }

    /// Sets the accessed bit of a code or data descriptor, in memory and in `d`.
    pub(crate) fn mark_accessed(&mut self, d: &mut Descriptor) -> Done {
        if d.attributes().is_code_or_data() && d.raw >> 40 & 1 == 0 {
            d.raw |= 1 << 40;
            self.write_system(d.at.wrapping_add(5), (d.raw >> 40) as u8)?;
        }
        Ok(())
    }

    /// Sets or clears the busy bit of a TSS descriptor in memory.
    pub(crate) fn set_busy(&mut self, at: u64, busy: bool) -> Done {
        let old: u8 = self.read_system(at.wrapping_add(5))?;
        let new = if busy {
            old | kind::BUSY
        } else {
            old & !kind::BUSY
        };
        self.write_system(at.wrapping_add(5), new)
    }

    /// Loads ES, SS, DS, FS or GS as MOV, POP and LDS do, with all checks of the mode.
    pub(crate) fn load_segment(&mut self, n: u8, selector: u16) -> Done {
        let segment = self.checked_segment(n, selector)?;
        self.s.seg[usize::from(n)] = segment;
        self.refresh();
        Ok(())
    }

    /// What [`Self::load_segment`] would load; the descriptor's accessed bit is already set.
    pub(crate) fn checked_segment(&mut self, n: u8, selector: u16) -> Done<Segment> {
        if self.s.cr0 & cr0::PE == 0 {
            return Ok(self.real_segment(n, selector));
        }
        if self.s.rflags & rflags::VM != 0 {
            return Ok(v86(selector));
        }
        if n == seg::SS {
            let cpl = self.s.cpl;
            return self.checked_stack(selector, cpl, vector::GP, 0);
        }
        if is_null(selector) {
            return Ok(null(selector));
        }
        let mut d = self.descriptor(selector, vector::GP, 0)?;
        let a = d.attributes();
        let code = selector & !3;
        if !a.is_readable() {
            return Err(Trap::gp(code));
        }
        if !a.is_conforming() && (a.dpl() < self.s.cpl || a.dpl() < (selector & 3) as u8) {
            return Err(Trap::gp(code));
        }
        if !a.present() {
            return Err(Trap::with_code(vector::NP, code));
        }
        self.mark_accessed(&mut d)?;
        Ok(d.segment(selector))
    }

    /// A segment register in real mode: only the base changes.
    pub(crate) fn real_segment(&self, n: u8, selector: u16) -> Segment {
        let old = self.s.seg[usize::from(n)];
        let fresh = !old.attributes.present();
        Segment {
            selector,
            base: u64::from(selector) << 4,
            attributes: if fresh {
                Attributes(0x93)
            } else {
                old.attributes
            },
            limit: if fresh { 0xffff } else { old.limit },
        }
    }

    /// Checks a stack selector for privilege `cpl`, raising `vector` (#GP or #TS; #SS if not
    /// present) with `ext` in the error code. Null is allowed in 64-bit mode below CPL 3.
    pub(crate) fn checked_stack(
        &mut self,
        selector: u16,
        cpl: u8,
        vector: u8,
        ext: u16,
    ) -> Done<Segment> {
        let rpl = (selector & 3) as u8;
        if is_null(selector) {
            if vector == vector::GP && self.is_64bit() && cpl != 3 && rpl == cpl {
                return Ok(null_stack(selector, cpl));
            }
            return Err(Trap::with_code(vector, ext));
        }
        let mut d = self.descriptor(selector, vector, ext)?;
        let a = d.attributes();
        let code = selector & !3 | ext;
        if rpl != cpl || !a.is_writable() || a.dpl() != cpl {
            return Err(Trap::with_code(vector, code));
        }
        if !a.present() {
            return Err(Trap::with_code(vector::SS, code));
        }
        self.mark_accessed(&mut d)?;
        Ok(d.segment(selector))
    }

    /// Loads CS with `d`, its RPL set to `cpl`, and CPL. The caller refreshes.
    pub(crate) fn commit_code(&mut self, d: &Descriptor, selector: u16, cpl: u8) {
        self.s.seg[seg::CS as usize] = d.segment(selector & !3 | u16::from(cpl));
        self.s.cpl = cpl;
    }

    /// Raises #GP(0) unless `offset` is a place where code segment `d` may run.
    pub(crate) fn check_code_offset(&self, d: &Descriptor, offset: u64, ext: u16) -> Done {
        let fine = if self.is_long() && d.attributes().long() {
            crate::mmu::is_canonical(offset)
        } else {
            offset <= u64::from(d.limit())
        };
        if fine { Ok(()) } else { Err(Trap::gp(ext)) }
    }

    /// After a return to an outer level: data segments the new level may not use become null.
    pub(crate) fn drop_privileged_segments(&mut self) {
        let cpl = self.s.cpl;
        for n in [seg::ES, seg::DS, seg::FS, seg::GS] {
            let s = &mut self.s.seg[usize::from(n)];
            let a = s.attributes;
            if a.present() && a.dpl() < cpl && !a.is_conforming() {
                s.selector = 0;
                s.attributes = Attributes(0);
            }
        }
    }

    /// The stack for privilege `cpl` from the TSS (outside long mode), checked.
    pub(crate) fn inner_stack(&mut self, cpl: u8, ext: u16) -> Done<Stack> {
        let tr = self.s.tr;
        let ts = Trap::with_code(vector::TS, tr.selector & !3 | ext);
        let (selector, sp) = if tr.attributes.kind() & 8 != 0 {
            let offset = u32::from(cpl) * 8 + 4;
            if offset + 7 > tr.limit {
                return Err(ts);
            }
            let at = tr.base.wrapping_add(offset.into());
            let sp: u32 = self.read_system(at)?;
            (self.read_system::<u16>(at.wrapping_add(4))?, u64::from(sp))
        } else {
            let offset = u32::from(cpl) * 4 + 2;
            if offset + 3 > tr.limit {
                return Err(ts);
            }
            let at = tr.base.wrapping_add(offset.into());
            let sp: u16 = self.read_system(at)?;
            (self.read_system::<u16>(at.wrapping_add(2))?, u64::from(sp))
        };
        let ss = self.checked_stack(selector, cpl, vector::TS, ext)?;
        Ok(Stack {
            ss,
            sp,
            cpl,
            flat: false,
            fault: selector & !3 | ext,
        })
    }

    /// A stack pointer of the 64-bit TSS at byte `offset`, with `ext` for faults.
    pub(crate) fn tss_rsp(&mut self, offset: u32, ext: u16) -> Done<u64> {
        let tr = self.s.tr;
        if offset + 7 > tr.limit {
            return Err(Trap::with_code(vector::TS, tr.selector & !3 | ext));
        }
        let rsp = self.read_system(tr.base.wrapping_add(offset.into()))?;
        if !crate::mmu::is_canonical(rsp) {
            return Err(Trap::with_code(vector::SS, ext));
        }
        Ok(rsp)
    }
}

/// SS after a change of privilege in long mode: null, with the new level.
pub(crate) fn null_stack(selector: u16, cpl: u8) -> Segment {
    Segment {
        selector,
        attributes: Attributes(0).with_dpl(cpl),
        ..Segment::default()
    }
}
