//! Into translated code with the state and out again: what each exit asks for, and the software
//! TLB's misses.

use super::{
    BtVcpu, HOST_FLAGS, LASTING, bar, broken, control, is_translatable, mode, user_selectors, view,
    view_of_code,
};
use crate::area::{TlbEntry, View};
use crate::block::{Block, Kind, Site};
use crate::entry;
use crate::signal;
use crate::translate::{LISTEN, NO_SITE, reason, way};
use crate::window::Window;
use iced_x86::{Code, Decoder, DecoderOptions};
use std::sync::atomic::Ordering;
use x86::exec::{Exec, attention};
use x86::flags::Flags;
use x86::mmu::{Access, Rights};
use x86::state::{Attributes, Segment, efer, rflags, seg};
use x86::{Bus, Signals, Stop};

/// The arithmetic flags from AX as LAHF and SETO left them.
fn flags_of(ax: u64) -> u64 {
    (ax >> 8 | (ax & 1) << rflags::OF.trailing_zeros()) & rflags::ARITHMETIC
}

impl BtVcpu {
    /// Runs translated code from a host address until it needs something.
    pub(super) fn execute(&mut self, bus: &mut dyn Bus, mut host: u64) -> Option<Stop> {
        self.send_vector_out();
        // Every block reached without a branch by the table lies in this page.
        let page = self.interp.cpu().s.rip & !0xfff;
        self.area.page = page;
        let mut shadow = false;
        // Where the instruction is at which the code goes on in its midst, and its block.
        let mut amid = None;
        loop {
            self.me.inside.store(true, Ordering::SeqCst);
            let mut stays = !self.window_closed();
            if self.peers.marks.load(Ordering::SeqCst) != self.me.seen.load(Ordering::Relaxed) {
                let dropped = (self.stats.dropped, self.stats.remapped);
                self.keep_up();
                self.look_at_window(bus);
                // The block at `host` may be one of them, and its beginning no longer its own.
                stays = (self.stats.dropped, self.stats.remapped) == dropped
                    && !self.frames.doubtful
                    && !self.window_closed();
            }
            if !stays {
                self.me.inside.store(false, Ordering::SeqCst);
                if let Some((block, rip)) = amid {
                    return self.interpret_at(bus, block, rip);
                }
                if shadow {
                    self.hold_interrupts();
                }
                return None;
            }
            amid = None;
            self.enter(bus, host);
            self.me.inside.store(false, Ordering::SeqCst);
            let cpu = self.interp.cpu();
            let area = &*self.area;
            if let Some(count) = self.stats.exits.get_mut(area.reason as usize) {
                *count += 1;
            }
            match area.reason as i32 {
                reason::LOOK_UP => {
                    cpu.s.rip = area.rip;
                    self.stats.branch_misses += 1;
                    return None;
                }
                reason::BRANCH => {
                    self.stats.branch_misses += 1;
                    if area.site as u32 != NO_SITE && !x86::mmu::is_canonical(area.rip) {
                        // The branch itself faults, not the fetch behind it.
                        let site = self.blocks.site(area.site as u32);
                        let Some((site, Kind::Branch { moved })) = site.map(|s| (s, s.kind)) else {
                            return Some(broken("a branch exit without a branch"));
                        };
                        let rip = self.rip_left(&site);
                        let cpu = self.interp.cpu();
                        cpu.s.gpr[4] = cpu.s.gpr[4].wrapping_sub(moved as u64);
                        cpu.s.rip = rip;
                        return self.step(bus, site.vector);
                    }
                    cpu.s.rip = area.rip;
                    return None;
                }
                reason::INTERPRET => {
                    let Some(site) = self.blocks.site(area.site as u32) else {
                        return Some(broken("an exit without a site"));
                    };
                    self.interp.cpu().s.rip = self.rip_left(&site);
                    let outside = matches!(site.kind, Kind::Access { .. });
                    self.stats.window_missed += u64::from(outside);
                    self.by_code.entry(site.code as u64).or_default()[usize::from(outside)] += 1;
                    if let Some(stop) = self.step_at(bus, &site) {
                        return Some(stop);
                    }
                    host = self.resume(bus)?;
                    shadow = false;
                }
                reason::SPACE => {
                    let Some(site) = self.blocks.site(area.site as u32) else {
                        return Some(broken("an exit without a site"));
                    };
                    let Kind::Interpret { more } = site.kind else {
                        return Some(broken("an exit to another address space without one"));
                    };
                    let at = self.rip_left(&site);
                    let cpu = self.interp.cpu();
                    cpu.s.rip = at;
                    let value = cpu.s.gpr[more as usize & 15];
                    let mut x = Exec { cpu, bus };
                    if site.shadow || x.write_cr3(value).is_err() {
                        self.by_code.entry(site.code as u64).or_default()[0] += 1;
                        return self.step_at(bus, &site);
                    }
                    x.s.rip = at.wrapping_add(u64::from(more >> 4));
                    host = self.resume(bus)?;
                    shadow = false;
                }
                reason::LINK => {
                    let number = area.site as u32;
                    let site = self.blocks.site(number);
                    if let Some(Kind::Far { .. }) = site.map(|s| s.kind) {
                        cpu.s.rip = area.rip;
                        if self.check.is_none() {
                            let view = self.view();
                            self.link_far(bus, number, view);
                        }
                        // Nobody has looked at the pins yet.
                        return None;
                    }
                    let Some((site, Kind::Link { patch, .. })) = site.map(|s| (s, s.kind)) else {
                        return Some(broken("a link exit without a link"));
                    };
                    let rip = self.rip_left(&site);
                    self.interp.cpu().s.rip = rip;
                    // Fixed code does not keep it, and may go on to other.
                    self.area.page = rip & !0xfff;
                    if self.check.is_some() {
                        return None;
                    }
                    let emptied = self.stats.emptied;
                    self.wanted = Some(number);
                    let found = self.find(bus);
                    let adjoined = self.wanted.take().is_none();
                    let block = found?;
                    // The block that jumps may have gone with the whole cache. And the page may be
                    // mapped elsewhere by now, without a flush yet: then the two do not belong
                    // together for good.
                    let fixed = !adjoined && !self.blocks[block].crosses() && self.switches.chain;
                    if self.stats.emptied == emptied && fixed && self.belong(patch, block) {
                        self.blocks.link(number, block);
                        self.lead(patch, self.blocks[block].host());
                        self.stats.links += 1;
                    }
                    shadow = false;
                    host = self.host_of(block);
                }
                reason::MISS => {
                    let site = self.blocks.site(area.site as u32);
                    let linear = area.detail;
                    let Some((
                        site,
                        Kind::Access {
                            access,
                            size,
                            several,
                            retry,
                        },
                    )) = site.map(|s| (s, s.kind))
                    else {
                        return Some(broken("a miss exit without an access"));
                    };
                    self.interp.cpu().s.rip = self.rip_left(&site);
                    if !self.fill(bus, linear, access, size) {
                        self.stats.slow_accesses += 1;
                        self.by_code.entry(site.code as u64).or_default()[1] += 1;
                        if several {
                            self.straddles(retry);
                        }
                        if let Some(stop) = self.step_at(bus, &site) {
                            return Some(stop);
                        }
                        host = self.resume(bus)?;
                        shadow = false;
                        continue;
                    }
                    shadow = site.shadow;
                    host = self.cache.range().0 + u64::from(retry);
                }
                reason::FAULT => {
                    let at = area.detail;
                    // Not the guest's doing: pins were raised. If it were, this would not be so again.
                    let rung = signal::last_fault().r10 == Signals::RUNG
                        && self.cache.code(at, LISTEN.len()) == Some(&LISTEN)
                        && self.signals.bell().load(Ordering::Relaxed) == Signals::RUNG;
                    self.stats.faults += u64::from(!rung);
                    if self.exits.restores_at(at) {
                        // The shared XRSTOR: what it has borrowed goes back first.
                        cpu.s.gpr[0] = area.saved;
                        cpu.s.gpr[1] = area.spill;
                        cpu.s.gpr[2] = area.target;
                        let flags = area.flags & rflags::DF | flags_of(area.lahf);
                        cpu.flags = Flags::from_bits(flags);
                        let Some(site) = self.blocks.site(area.site as u32) else {
                            return Some(broken("an exit without a site"));
                        };
                        self.interp.cpu().s.rip = self.rip_left(&site);
                        return self.step_at(bus, &site);
                    }
                    let offset = self.code_that_runs(at).wrapping_sub(self.cache.range().0) as u32;
                    let block = self.blocks.at_host(offset);
                    let rip = block.and_then(|b| self.blocks.rip_of(b, offset));
                    let (Some(block), Some(rip)) = (block, rip) else {
                        return Some(broken("a host fault outside any block"));
                    };
                    let page = self.fixed_page(block).unwrap_or(self.area.page);
                    let rip = page.wrapping_add(rip);
                    if rung {
                        self.stats.rung += 1;
                        self.interp.cpu().s.rip = rip;
                        return None;
                    }
                    if let Some(again) = self.fill_window(bus) {
                        (host, amid) = (again, Some((block, rip)));
                        continue;
                    }
                    self.stats.window_missed += u64::from(self.area.window != 0);
                    return self.interpret_at(bus, block, rip);
                }
                other => return Some(broken(&format!("exit reason {other}"))),
            }
        }
    }

    /// The host address in a block for that of an instruction which stands twice
    /// ([`crate::translate`]): apart from the code that runs a jump behind it leads back there.
    fn code_that_runs(&self, at: u64) -> u64 {
        let start = self.cache.range().0;
        if self.blocks.at_host(at.wrapping_sub(start) as u32).is_some() {
            return at;
        }
        let room = self.cache.range().1 - at;
        let bytes = self.cache.bytes(at, room.min(32) as usize);
        let mut decoder = Decoder::with_ip(64, &bytes, at, DecoderOptions::NONE);
        let _ = decoder.decode();
        let jump = decoder.decode();
        if jump.code() == Code::Jmp_rel32_64 {
            jump.near_branch64() - 1
        } else {
            at
        }
    }

    /// Has the interpreter do the instruction at which the host has faulted, in a block.
    fn interpret_at(&mut self, bus: &mut dyn Bus, block: u32, rip: u64) -> Option<Stop> {
        self.interp.cpu().s.rip = rip;
        self.finish_pushes(block);
        // The fault comes before any event: the instruction may stand behind STI.
        self.bring_vector_in();
        let stop = self.interpret(bus, 1, true);
        self.await_page();
        match stop {
            Stop::Budget => None,
            other => Some(other),
        }
    }

    /// The host has faulted at one of several pushes through the window, which move the stack pointer
    /// together: those before it are done.
    fn finish_pushes(&mut self, block: u32) {
        let fault = signal::last_fault();
        let Some(linear) = Window::linear(fault.address).filter(|_| self.area.window != 0) else {
            return;
        };
        let Some(at) = self.blocks.get(block).map(Block::page) else {
            return;
        };
        let s = &mut self.interp.cpu().s;
        let into = (s.rip & 0xfff) as usize;
        let mut page = [0; 0x1000];
        self.memory.copy_page_out(at, &mut page);
        let mut decoder = Decoder::with_ip(64, &page[into..], s.rip, DecoderOptions::NONE);
        while decoder.decode().code() == Code::Push_r64 && linear < s.gpr[4].wrapping_sub(8) {
            s.gpr[4] = s.gpr[4].wrapping_sub(8);
            s.rip = decoder.ip();
        }
    }

    /// The RIP of the site at which translated code was left.
    fn rip_left(&self, site: &Site) -> u64 {
        let page = self.page_of(self.area.site as u32, site);
        page.wrapping_add(site.rip.into())
    }

    /// Where to enter for the next instruction, if nothing keeps the branch tables from finding its
    /// block: no event is due, and they are those of the mode.
    fn resume(&mut self, bus: &mut dyn Bus) -> Option<u64> {
        if !self.switches.resume || self.check.is_some() {
            return None;
        }
        let due = self.signals.get() & self.pin_mask();
        let cpu = self.interp.cpu();
        if cpu.attention & LASTING != 0 || due != 0 || !is_translatable(cpu) {
            return None;
        }
        cpu.attention = 0;
        self.keep_up();
        self.look_at_frames(bus);
        self.look_at_window(bus);
        if self.window_closed() {
            return None;
        }
        let x = Exec {
            cpu: self.interp.cpu(),
            bus,
        };
        let view = view_of_code(&x, self.area.window != 0);
        let (control, level) = (control(mode(&x, view)), u64::from(x.s.cpl) + 1);
        let area = &mut *self.area;
        if area.control != control || area.levels[view as usize] != level {
            return None;
        }
        area.rip = x.s.rip;
        self.send_vector_out();
        Some(self.exits.resume(view))
    }

    /// Enters translated code with the state, and takes the state over when it is left.
    pub(super) fn enter(&mut self, bus: &mut dyn Bus, host: u64) {
        let mask = self.pin_mask();
        let view = self.view();
        let awaits = self.awaits_page();
        let cpu = self.interp.cpu();
        let area = &mut *self.area;
        area.note_calls(view);
        // Whatever code may be reached: FS never leads to what is this process's own.
        (area.host_fs, area.fs_adds) = (self.host_fs, self.host_mmu.fs_adds());
        let s = &cpu.s;
        area.gpr = s.gpr;
        area.flags = cpu.rflags() & HOST_FLAGS | rflags::FIXED | rflags::IF;
        area.high = s.rflags & !(HOST_FLAGS | rflags::RF) | rflags::FIXED;
        area.high_off = area.high & !rflags::IF;
        area.high_on = area.high | rflags::IF;
        area.fs_base = s.seg[usize::from(seg::FS)].base;
        area.fs_way = way(area.fs_base);
        area.gs_base = s.seg[usize::from(seg::GS)].base;
        area.kernel_gs_base = s.msr.kernel_gs_base;
        (area.cr0, area.cr2, area.cr3, area.cr4) = (s.cr0, s.cr2, s.cr3, s.cr4);
        area.xcr0 = s.xcr0;
        area.image = std::ptr::from_mut(&mut *self.image) as u64;
        area.image_last = x86::xstate::image_size(s.xcr0) - 1;
        area.pin_mask = mask.into();
        area.pins_off = (mask & !Signals::INTR).into();
        area.pins_on = (mask | Signals::INTR).into();
        area.ring = s.cpl.into();
        let star = s.msr.star;
        area.kernel_cs = star >> 32 & 0xfffc;
        area.kernel_ss = area.kernel_cs + 8;
        // A selector that no frame holds, until ring 3 was seen with flat segments.
        let known = self.user_segments.is_usual(s);
        let (user_cs, user_ss) = user_selectors(star);
        area.user_cs = if known { user_cs } else { !0 };
        area.user_ss = user_ss;
        area.lstar = s.msr.lstar;
        area.cs = s.seg[usize::from(seg::CS)].selector.into();
        area.ss = s.seg[usize::from(seg::SS)].selector.into();
        area.ds = s.seg[usize::from(seg::DS)].selector.into();
        area.es = s.seg[usize::from(seg::ES)].selector.into();
        area.fs = s.seg[usize::from(seg::FS)].selector.into();
        area.gs = s.seg[usize::from(seg::GS)].selector.into();
        area.tsc_add = s.msr.tsc_adjust;
        area.tsc_aux = s.msr.tsc_aux;
        area.fs_bar = bar(&s.seg[usize::from(seg::FS)]);
        area.gs_bar = bar(&s.seg[usize::from(seg::GS)]);
        let clears = HOST_FLAGS | rflags::IF | rflags::TF;
        let usual = known && s.efer & efer::SCE != 0 && s.msr.sfmask & clears == clears;
        area.syscall_bad = (!usual).into();
        // IRET to ring 3 also clears data segments that ring 3 may not have, and ends an NMI.
        let kept = [seg::ES, seg::DS, seg::FS, seg::GS].iter().all(|n| {
            let segment = &s.seg[usize::from(*n)];
            segment.selector & !3 == 0 || segment.attributes.dpl() == 3
        });
        area.iret_bad = (!kept || s.nmi_blocked || awaits).into();
        area.sites = self.blocks.sites.as_ptr() as u64;
        area.cache = self.cache.range().0;
        area.target = host;
        // SAFETY: `run` or `enter_space` set this thread's gs base to the area, `run` its
        // signals; `host` is in this processor's cache, whose code fits every area.
        unsafe { entry::enter(area) };
        while self.refill(bus) {
            // SAFETY: as before, at the check of the access that missed.
            unsafe { entry::enter(&mut *self.area) };
        }
        let cpu = self.interp.cpu();
        let area = &mut *self.area;
        let narrow = !cpu.is_64bit();
        let s = &mut cpu.s;
        if narrow {
            // 32-bit code has no such registers: what the host's hold is scratch.
            area.gpr[8..].copy_from_slice(&s.gpr[8..]);
        }
        s.gpr = area.gpr;
        cpu.flags = Flags::from_bits(area.flags);
        let high = area.high | area.flags & rflags::DF;
        let mut changed = (s.rflags ^ high) & rflags::AC != 0;
        s.rflags = high;
        if area.ring != u64::from(s.cpl) {
            // The segments that SYSCALL and SYSRET load, whatever the tables say; IRET's are
            // known to be the same.
            let user = area.ring == 3;
            let (cs, ss) = if user {
                (area.user_cs, area.user_ss)
            } else {
                (area.kernel_cs, area.kernel_ss)
            };
            let dpl = area.ring as u8;
            s.seg[usize::from(seg::CS)] = Segment {
                selector: cs as u16,
                attributes: Attributes(0xa9b).with_dpl(dpl),
                limit: !0,
                base: 0,
            };
            s.seg[usize::from(seg::SS)] = Segment {
                selector: ss as u16,
                attributes: Attributes(0xc93).with_dpl(dpl),
                limit: !0,
                base: 0,
            };
            s.cpl = dpl;
            changed = true;
        }
        let bases = [(seg::FS, area.fs_base), (seg::GS, area.gs_base)];
        for (n, base) in bases {
            changed |= s.seg[usize::from(n)].base != base;
            s.seg[usize::from(n)].base = base;
        }
        s.msr.kernel_gs_base = area.kernel_gs_base;
        if changed {
            cpu.refresh();
            cpu.attention &= !attention::MODE;
        }
    }

    /// Fills the software TLB where that is all that translated code was left for, so that it can go
    /// on with the state as it is in the area.
    fn refill(&mut self, bus: &mut dyn Bus) -> bool {
        let area = &*self.area;
        if area.reason as i32 != reason::MISS || !self.switches.refill || self.check.is_some() {
            return false;
        }
        let s = &self.interp.cpu().s;
        if area.ring != u64::from(s.cpl) || (area.high ^ s.rflags) & rflags::AC != 0 {
            // The rights are not those of the state.
            return false;
        }
        let Some(Kind::Access {
            access,
            size,
            retry,
            ..
        }) = self.blocks.site(area.site as u32).map(|s| s.kind)
        else {
            return false;
        };
        let linear = area.detail;
        if !self.fill(bus, linear, access, size) {
            return false;
        }
        self.stats.exits[reason::MISS as usize] += 1;
        self.area.target = self.cache.range().0 + u64::from(retry);
        true
    }

    /// Fills the software TLB for an access; false if it is not plain RAM inside one page.
    pub(super) fn fill(
        &mut self,
        bus: &mut dyn Bus,
        linear: u64,
        access: Access,
        size: u16,
    ) -> bool {
        if linear & 0xfff > 0x1000 - u64::from(size) || !x86::mmu::is_canonical(linear) {
            return false;
        }
        let mut x = Exec {
            cpu: self.interp.cpu(),
            bus,
        };
        let view = view(&x);
        if view.is_32bit() && linear >> 32 != 0 {
            // By way of a segment that must be checked.
            return false;
        }
        let cr2 = x.s.cr2;
        let Ok(found) = x.translate(linear, access, Rights::Program) else {
            // The interpreter meets the fault again and delivers it.
            x.s.cr2 = cr2;
            return false;
        };
        let Some(page) = x.ram.lookup(found.gpa) else {
            return false;
        };
        if !page.writable && access == Access::Write {
            return false;
        }
        let at = page.at;
        if access == Access::Write {
            self.peers.will_write(at);
        }
        if access == Access::Write && self.memory.is_marked(at) || x.is_watched_page(linear) {
            return false;
        }
        self.memory.take(at);
        if view == View::User {
            self.note_program(bus, linear, at);
        }
        let host = self.memory.base() as u64 + (at.0 & !0xfff);
        let entry = TlbEntry {
            negated_page: (linear & !0xfff).wrapping_neg(),
            host,
        };
        let tables = &mut self.area.tables[view as usize];
        tables.data.enter_page(access, entry);
        self.area.note_data(view, linear, found.global);
        self.note_size(linear, found.size);
        self.stats.fills += 1;
        true
    }
}
