//! Rehearsal: instructions run by the interpreter for what would come of them, and then undone,
//! memory included. For an engine that runs the same instructions by other means and is to be
//! checked (`bt::check`).
//!
//! Whatever cannot be undone ends a rehearsal before it happens: a fault and its delivery, an
//! access to a device or to a page that holds decoded code, anything asked of the bus. Interrupts
//! wait. What is not undone: accessed and dirty bits in page tables, which the
//! TLB goes by from then on; the TLB and the decoded code themselves.
//!
//! Nothing here costs anything while no rehearsal runs: a journal is only looked for where the
//! TLB has missed, and the pages that may be written are in a table of the rehearsal's own, which
//! is empty when it begins.

use crate::bus::{Bus, Signals};
use crate::exec::{Cpu, Exec, attention};
use crate::flags::Flags;
use crate::interp::InterpVcpu;
use crate::mmu::{Access, WriteTable};
use crate::state::{CpuState, Shadow, gpr, rflags};
use crate::trap::{Done, Trap};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use mem::{Gpa, GuestMemory, PAGE_SIZE, Page, RamOffset};

type Bytes = [u8; PAGE_SIZE as usize];

/// A page that a rehearsal has written.
pub struct Written {
    /// Its first byte.
    pub at: RamOffset,
    /// What it held before.
    pub before: Box<Bytes>,
    /// What it would hold afterwards.
    pub after: Box<Bytes>,
}

/// The pages written by a rehearsal that runs.
#[derive(Default)]
pub(crate) struct Journal {
    /// The first `used` of them; the others are kept for their memory.
    pages: Vec<Written>,
    used: usize,
    /// Where they are, as the program sees them.
    linear: Vec<u64>,
}

impl Journal {
    fn note(&mut self, ram: &GuestMemory, at: RamOffset) {
        let at = RamOffset(at.0 & !(PAGE_SIZE - 1));
        if self.pages[..self.used].iter().any(|p| p.at == at) {
            return;
        }
        if self.used == self.pages.len() {
            self.pages.push(Written {
                at,
                before: Box::new([0; PAGE_SIZE as usize]),
                after: Box::new([0; PAGE_SIZE as usize]),
            });
        }
        let page = &mut self.pages[self.used];
        page.at = at;
        ram.copy_page_out(at, &mut page.before);
        self.used += 1;
    }
}

impl Exec<'_> {
    /// An access of a rehearsal that the TLB does not know: an error if it cannot be undone.
    #[cold]
    pub(crate) fn rehearse_access(
        &mut self,
        linear: u64,
        access: Access,
        page: Option<Page>,
    ) -> Done {
        let ram = self.ram.clone();
        let Some(journal) = &mut self.cpu.journal else {
            return Ok(());
        };
        match page {
            Some(page) if access != Access::Write || !page.writable => return Ok(()),
            Some(page) if !ram.is_marked(page.at) => {
                journal.linear.push(linear);
                journal.note(&ram, page.at);
                return Ok(());
            }
            _ => {}
        }
        Err(Trap::Broken)
    }
}

/// Stands in for the bus, which must not hear of a rehearsal.
#[derive(Default)]
struct Mute {
    /// Something was asked.
    asked: bool,
}

impl Bus for Mute {
    fn mmio_read(&mut self, _: Gpa, _: u8) -> u64 {
        self.asked = true;
        !0
    }
    fn mmio_write(&mut self, _: Gpa, _: u8, _: u64) {
        self.asked = true;
    }
    fn port_in(&mut self, _: u16, _: u8) -> u32 {
        self.asked = true;
        !0
    }
    fn port_out(&mut self, _: u16, _: u8, _: u32) {
        self.asked = true;
    }
    fn msr_read(&mut self, _: u32) -> Option<u64> {
        self.asked = true;
        None
    }
    fn msr_write(&mut self, _: u32, _: u64) -> bool {
        self.asked = true;
        false
    }
    fn tsc(&mut self) -> u64 {
        self.asked = true;
        0
    }
    fn task_priority(&mut self) -> u8 {
        self.asked = true;
        0
    }
    fn set_task_priority(&mut self, _: u8) {
        self.asked = true;
    }
    fn acknowledge(&mut self) -> Option<u8> {
        None
    }
    fn ferr(&mut self, _: bool) -> bool {
        self.asked = true;
        true
    }
    fn entropy(&mut self) -> Option<u64> {
        self.asked = true;
        Some(0)
    }
}

/// A rehearsal and what came of it. Made once and used again.
pub struct Rehearsal {
    journal: Option<Box<Journal>>,
    writable: WriteTable,
    /// Pins that are never up.
    quiet: Arc<Signals>,
    /// The state before.
    pub start: CpuState,
    /// The state that would follow.
    pub end: CpuState,
    /// Instructions completed.
    pub done: u64,
}

impl Default for Rehearsal {
    fn default() -> Self {
        Rehearsal {
            journal: Some(Box::default()),
            writable: WriteTable::default(),
            quiet: Arc::default(),
            start: CpuState::reset(0, true),
            end: CpuState::reset(0, true),
            done: 0,
        }
    }
}

impl Rehearsal {
    /// The pages that would be written.
    pub fn written(&self) -> &[Written] {
        self.journal.as_ref().map_or(&[], |j| &j.pages[..j.used])
    }
}

impl Cpu {
    /// Another state of the same address space: nothing is flushed.
    pub fn replace_state(&mut self, state: &CpuState) {
        let derived = |s: &CpuState| {
            let flags = s.rflags & (rflags::AC | rflags::VM | rflags::TF);
            (s.seg, s.cpl, flags, s.cr0, s.cr4, s.efer)
        };
        let changed = derived(state) != derived(&self.s);
        self.s.clone_from(state);
        self.flags = Flags::from_bits(state.rflags);
        if changed {
            let attention = self.attention;
            self.refresh();
            self.attention = attention;
        }
    }
}

impl InterpVcpu {
    /// Rehearses up to `limit` instructions. The state must be complete.
    pub fn rehearse(&mut self, rehearsal: &mut Rehearsal, limit: u64) {
        self.rehearse_part(rehearsal, limit, 0);
    }

    /// Rehearses up to `limit` instructions and, if that many are done, so many `elements` of the
    /// string instruction behind them, which is then not over.
    pub fn rehearse_part(&mut self, rehearsal: &mut Rehearsal, limit: u64, elements: u64) {
        let (mut limit, mut elements) = (limit, elements);
        // An instruction that asked something of the bus has run by the time it is known.
        while !self.rehearse_once(rehearsal, limit, elements) {
            limit = rehearsal.done;
            elements = 0;
        }
    }

    /// One attempt; false if the instruction behind those that count as done must not be in it.
    fn rehearse_once(&mut self, r: &mut Rehearsal, limit: u64, elements: u64) -> bool {
        let cpu = &mut self.cpu;
        r.start.clone_from(&cpu.s);
        r.start.rflags = cpu.rflags();
        let kept = (cpu.attention, cpu.counters, cpu.tlb.now());
        let mut journal = r.journal.take().unwrap_or_default();
        for linear in journal.linear.drain(..) {
            r.writable.forget(linear);
        }
        journal.used = 0;
        cpu.journal = Some(journal);
        cpu.tlb.swap_writable(&mut r.writable);
        core::mem::swap(&mut cpu.signals, &mut r.quiet);
        let mut mute = Mute::default();
        r.done = self.follow(&mut mute, limit);
        if elements != 0 && r.done == limit && !mute.asked {
            let (rip, count) = (self.cpu.s.rip, self.cpu.s.gpr[gpr::RCX]);
            self.cpu.s.gpr[gpr::RCX] = elements;
            self.follow(&mut mute, 1);
            let left = &mut self.cpu.s.gpr[gpr::RCX];
            *left = left.wrapping_add(count.wrapping_sub(elements));
            self.cpu.s.rip = rip;
        }
        let asked = mute.asked;

        let cpu = &mut self.cpu;
        core::mem::swap(&mut cpu.signals, &mut r.quiet);
        cpu.tlb.swap_writable(&mut r.writable);
        r.end.clone_from(&cpu.s);
        r.end.rflags = cpu.rflags();
        // What a fault that was not delivered has left.
        r.end.cr2 = r.start.cr2;
        r.end.rflags &= !rflags::RF;
        let mut journal = cpu.journal.take().unwrap_or_default();
        for page in &mut journal.pages[..journal.used] {
            cpu.ram.copy_page_out(page.at, &mut page.after);
            cpu.ram.copy_page_in(page.at, &page.before);
        }
        r.journal = Some(journal);
        cpu.replace_state(&r.start);
        cpu.broken = None;
        cpu.debug_hits = 0;
        cpu.tlb.go_back(kept.2);
        (cpu.attention, cpu.counters) = (kept.0, kept.1);
        !asked
    }

    /// The interpreter's loop without events: stops in front of what faults or cannot be undone.
    fn follow(&mut self, mute: &mut Mute, limit: u64) -> u64 {
        let mut done = 0;
        while done < limit {
            let mut x = Exec {
                cpu: &mut self.cpu,
                bus: mute,
            };
            let odd = attention::STEP | attention::DEBUG | attention::ACTIVITY | attention::CODE;
            if x.attention & odd != 0 {
                break;
            }
            x.attention = 0;
            let shadow = core::mem::replace(&mut x.s.shadow, Shadow::None);
            let room = match shadow {
                Shadow::None => limit - done,
                _ => 1,
            };
            x.s.rflags &= !rflags::RF;
            let before = done;
            let Ok(range) = self.cache.find(&mut x) else {
                x.s.shadow = shadow;
                break;
            };
            let block = &self.cache.arena[range];
            for i in &block[..block.len().min(room as usize)] {
                let mut x = Exec {
                    cpu: &mut self.cpu,
                    bus: mute,
                };
                let bits = x.bits();
                x.next = x.s.rip.wrapping_add(u64::from(i.len));
                if bits != 64 {
                    x.next &= if bits == 32 { 0xffff_ffff } else { 0xffff };
                }
                let ran = (i.run)(&mut x, i).is_ok();
                if !ran && done == before {
                    x.s.shadow = shadow;
                }
                if !ran || mute.asked {
                    return done;
                }
                let cpu = &mut self.cpu;
                // A repeated string instruction that has taken a break goes on.
                let again = cpu.next == cpu.s.rip && cpu.s.rflags & rflags::RF != 0;
                cpu.s.rip = cpu.next;
                done += u64::from(!again);
                if cpu.attention != 0 {
                    break;
                }
            }
        }
        done
    }
}
