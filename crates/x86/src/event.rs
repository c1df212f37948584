//! Exceptions and interrupts: delivery through the IVT, the IDT of protected and of long mode,
//! double and triple fault (SDM volume 3, "Interrupt and Exception Handling").
//!
//! Called by the interpreter's boundary for faults and interrupts, and by INT n and its kin.

use crate::bus::Event;
use crate::exec::{Exec, attention};
use crate::segment::{self, Descriptor, Stack, kind};
use crate::state::{Activity, Shadow, cr0, rflags, seg};
use crate::trap::{Done, Trap, vector};

/// Where an event comes from: it decides the error code's EXT bit, the privilege check of the
/// gate, and what is pushed as RIP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// A fault: RIP points at the instruction.
    Fault,
    /// An instruction breakpoint: a fault that does not set RF in the pushed flags.
    Breakpoint,
    /// A trap exception (#DB after an instruction, INT1): RIP points behind it.
    Trap,
    /// INT n, INT3, INTO, as instructions: the gate's DPL is checked.
    Software,
    /// An external interrupt or NMI.
    External,
}

/// Classes of exceptions for the double fault (SDM volume 3, "Interrupt 8—Double Fault").
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Benign,
    Contributory,
    Page,
    Double,
}

fn class(vector: u8, source: Source) -> Class {
    match (source, vector) {
        (Source::Software | Source::External, _) => Class::Benign,
        (_, vector::DE | vector::TS | vector::NP | vector::SS | vector::GP) => Class::Contributory,
        (_, vector::PF) => Class::Page,
        (_, vector::DF) => Class::Double,
        _ => Class::Benign,
    }
}

impl Exec<'_> {
    /// Delivers an exception that an instruction raised; turns faults during delivery into double
    /// and triple fault. On return the guest is at its handler, or in shutdown.
    pub(crate) fn raise(&mut self, vector: u8, code: Option<u16>, source: Source) -> Done {
        self.counters.exceptions += 1;
        let rip = self.s.rip;
        self.bus.event(Event::Exception {
            vector,
            code: code.map(u32::from),
            rip,
        });
        self.deliver_all(vector, code, source)
    }

    /// Delivers an external interrupt or NMI.
    pub(crate) fn interrupt(&mut self, vector: u8) -> Done {
        self.counters.interrupts += 1;
        let rip = self.s.rip;
        self.bus.event(Event::Interrupt { vector, rip });
        self.deliver_all(vector, None, Source::External)
    }

    /// Delivers an event and whatever faults its delivery meets.
    fn deliver_all(&mut self, vector: u8, code: Option<u16>, source: Source) -> Done {
        let (mut vector, mut code, mut source) = (vector, code, source);
        loop {
            let (second, second_code) = match self.deliver(vector, code, source) {
                Err(Trap::Fault { vector, code }) => (vector, code),
                done => return done,
            };
            let first = class(vector, source);
            let next = class(second, Source::Fault);
            self.counters.exceptions += 1;
            let rip = self.s.rip;
            self.bus.event(Event::Exception {
                vector: second,
                code: second_code.map(u32::from),
                rip,
            });
            source = Source::Fault;
            (vector, code) = match (first, next) {
                (Class::Double, Class::Contributory | Class::Page) => {
                    self.s.activity = Activity::Shutdown;
                    self.attention |= attention::ACTIVITY;
                    return Ok(());
                }
                (Class::Contributory, Class::Contributory)
                | (Class::Page, Class::Contributory | Class::Page) => (vector::DF, Some(0)),
                _ => (second, second_code),
            };
        }
    }

    /// Transfers control through the vector's gate. `self.s.rip` is what is pushed (for software
    /// interrupts and traps the caller has advanced it). On a fault nothing has changed.
    pub(crate) fn deliver(&mut self, vector: u8, code: Option<u16>, source: Source) -> Done {
        let mut flags = self.rflags();
        if source == Source::Fault {
            flags |= rflags::RF;
        }
        if self.s.cr0 & cr0::PE == 0 {
            self.deliver_real(vector, flags)?;
        } else if self.is_long() {
            self.deliver_long(vector, code, source, flags)?;
        } else {
            self.deliver_protected(vector, code, source, flags)?;
        }
        if vector == vector::DB && source != Source::Software {
            // General detect is off while the handler runs.
            self.s.dr7 &= !(1 << 13);
        }
        if self.s.activity == Activity::Halted {
            // A debug trap of the HLT itself.
            self.s.activity = Activity::Running;
        }
        self.s.shadow = Shadow::None;
        self.delivered = true;
        self.refresh();
        Ok(())
    }

    /// Through the interrupt vector table (SDM volume 3, "Interrupt and Exception Handling" in
    /// "8086 Emulation").
    fn deliver_real(&mut self, vector: u8, flags: u64) -> Done {
        let at = u32::from(vector) * 4;
        if at + 3 > u32::from(self.s.idtr.limit) {
            return Err(Trap::GP0);
        }
        let entry: u32 = self.read_system(self.s.idtr.base.wrapping_add(at.into()))?;
        let mut stack = self.current_stack(0);
        stack.push(self, flags as u16)?;
        stack.push(self, self.s.seg[seg::CS as usize].selector)?;
        stack.push(self, self.s.rip as u16)?;
        let cs = self.real_segment(seg::CS, (entry >> 16) as u16);
        stack.commit(self);
        self.s.seg[seg::CS as usize] = cs;
        self.s.rip = u64::from(entry & 0xffff);
        let flags = self.rflags();
        self.set_rflags(flags & !(rflags::IF | rflags::TF | rflags::RF | rflags::AC));
        Ok(())
    }

    /// The error code that names an IDT entry.
    fn idt_code(vector: u8, ext: u16) -> u16 {
        u16::from(vector) << 3 | 2 | ext
    }

    fn deliver_protected(
        &mut self,
        vector: u8,
        code: Option<u16>,
        source: Source,
        flags: u64,
    ) -> Done {
        let ext = u16::from(source != Source::Software);
        let named = Self::idt_code(vector, ext);
        let at = u32::from(vector) * 8;
        if at + 7 > u32::from(self.s.idtr.limit) {
            return Err(Trap::gp(named));
        }
        let at = self.s.idtr.base.wrapping_add(at.into());
        let gate = Descriptor {
            raw: self.read_system(at)?,
            upper: 0,
            at,
        };
        let a = gate.attributes();
        let gate_kind = match gate.system_kind() {
            Some(
                k @ (kind::TASK
                | kind::INTERRUPT16
                | kind::TRAP16
                | kind::INTERRUPT32
                | kind::TRAP32),
            ) => k,
            _ => return Err(Trap::gp(named)),
        };
        if source == Source::Software && a.dpl() < self.s.cpl {
            return Err(Trap::gp(named));
        }
        if !a.present() {
            return Err(Trap::with_code(vector::NP, named));
        }
        if gate_kind == kind::TASK {
            return self.task_gate_event(&gate, code, ext, flags);
        }
        let size: u8 = if gate_kind & 8 != 0 { 4 } else { 2 };
        let (mut d, selector) = self.gate_code(&gate, ext)?;
        let a = d.attributes();
        let from_v86 = self.is_v86();
        let cpl = self.s.cpl;
        let inner = !a.is_conforming() && a.dpl() < cpl;
        if from_v86 && (!inner || a.dpl() != 0) {
            return Err(Trap::gp(selector & !3 | ext));
        }
        let new_cpl = if inner { a.dpl() } else { cpl };
        let (ss, sp) = (self.s.seg[seg::SS as usize], self.s.gpr[4]);
        let mut stack = if inner {
            let mut stack = self.inner_stack(new_cpl, ext)?;
            if from_v86 {
                for n in [seg::GS, seg::FS, seg::DS, seg::ES] {
                    let selector = self.s.seg[usize::from(n)].selector;
                    stack.push_sized(self, size, selector.into())?;
                }
            }
            stack.push_sized(self, size, ss.selector.into())?;
            stack.push_sized(self, size, sp)?;
            stack
        } else {
            self.current_stack(ext)
        };
        stack.push_sized(self, size, flags)?;
        let cs = self.s.seg[seg::CS as usize].selector;
        stack.push_sized(self, size, cs.into())?;
        stack.push_sized(self, size, self.s.rip)?;
        if let Some(code) = code {
            stack.push_sized(self, size, code.into())?;
        }
        self.check_code_offset(&d, gate.gate_offset(), ext)?;
        self.mark_accessed(&mut d)?;
        if from_v86 {
            for n in [seg::GS, seg::FS, seg::DS, seg::ES] {
                self.s.seg[usize::from(n)] = segment::null(0);
            }
        }
        self.enter_gate(&gate, &d, selector, new_cpl, &stack);
        Ok(())
    }

    /// The code segment that a gate names, checked as for an event.
    fn gate_code(&mut self, gate: &Descriptor, ext: u16) -> Done<(Descriptor, u16)> {
        let selector = gate.gate_selector();
        if segment::is_null(selector) {
            return Err(Trap::gp(ext));
        }
        let d = self.descriptor(selector, vector::GP, ext)?;
        let a = d.attributes();
        let named = selector & !3 | ext;
        if !a.is_code() || a.dpl() > self.s.cpl {
            return Err(Trap::gp(named));
        }
        if !a.present() {
            return Err(Trap::with_code(vector::NP, named));
        }
        Ok((d, selector))
    }

    /// Commits: everything has been checked and pushed.
    fn enter_gate(
        &mut self,
        gate: &Descriptor,
        d: &Descriptor,
        selector: u16,
        cpl: u8,
        stack: &Stack,
    ) {
        stack.commit(self);
        self.commit_code(d, selector, cpl);
        self.s.rip = gate.gate_offset();
        let mut clear = rflags::TF | rflags::NT | rflags::RF | rflags::VM;
        if gate.attributes().kind() & 1 == 0 {
            clear |= rflags::IF;
        }
        let flags = self.rflags();
        self.set_rflags(flags & !clear);
    }

    /// A task gate in the IDT.
    fn task_gate_event(
        &mut self,
        gate: &Descriptor,
        code: Option<u16>,
        ext: u16,
        flags: u64,
    ) -> Done {
        let selector = gate.gate_selector();
        let d = self.available_tss(selector, vector::GP, ext)?;
        self.task_switch(
            selector,
            &d,
            crate::task::Reason::Event { code, ext },
            flags,
        )
    }

    /// Through the IDT of IA-32e mode (SDM volume 3, "Exception and Interrupt Handling in 64-bit
    /// Mode").
    fn deliver_long(&mut self, vector: u8, code: Option<u16>, source: Source, flags: u64) -> Done {
        let ext = u16::from(source != Source::Software);
        let named = Self::idt_code(vector, ext);
        let at = u32::from(vector) * 16;
        if at + 15 > u32::from(self.s.idtr.limit) {
            return Err(Trap::gp(named));
        }
        let at = self.s.idtr.base.wrapping_add(at.into());
        let gate = Descriptor {
            raw: self.read_system(at)?,
            upper: self.read_system::<u32>(at.wrapping_add(8))?.into(),
            at,
        };
        let a = gate.attributes();
        if !matches!(gate.system_kind(), Some(kind::INTERRUPT32 | kind::TRAP32)) {
            return Err(Trap::gp(named));
        }
        if source == Source::Software && a.dpl() < self.s.cpl {
            return Err(Trap::gp(named));
        }
        if !a.present() {
            return Err(Trap::with_code(vector::NP, named));
        }
        let (mut d, selector) = self.gate_code(&gate, ext)?;
        let a = d.attributes();
        if !a.long() || a.big() {
            return Err(Trap::gp(selector & !3 | ext));
        }
        let cpl = self.s.cpl;
        let inner = !a.is_conforming() && a.dpl() < cpl;
        let new_cpl = if inner { a.dpl() } else { cpl };
        let (ss, sp) = (self.s.seg[seg::SS as usize], self.s.gpr[4]);
        let ist = (gate.raw >> 32 & 7) as u32;
        let rsp = if ist != 0 {
            self.tss_rsp(0x1c + 8 * ist, ext)?
        } else if inner {
            self.tss_rsp(4 + 8 * u32::from(new_cpl), ext)?
        } else {
            sp
        };
        let mut stack = Stack {
            ss: if inner {
                segment::null_stack(new_cpl.into(), new_cpl)
            } else {
                ss
            },
            sp: rsp & !15,
            cpl: new_cpl,
            flat: true,
            fault: ext,
        };
        stack.push(self, u64::from(ss.selector))?;
        stack.push(self, sp)?;
        stack.push(self, flags)?;
        stack.push(self, u64::from(self.s.seg[seg::CS as usize].selector))?;
        stack.push(self, self.s.rip)?;
        if let Some(code) = code {
            stack.push(self, u64::from(code))?;
        }
        self.check_code_offset(&d, gate.gate_offset(), ext)?;
        self.mark_accessed(&mut d)?;
        self.enter_gate(&gate, &d, selector, new_cpl, &stack);
        Ok(())
    }
}
