//! Which address space goes through the window ([`crate::window`]), and what of it is mapped there.
//!
//! A page costs some microseconds to map, so this is for programs that compute for long: for the one
//! address space that has had the processor nearly for itself for a while, in ring 3, or whose program is
//! known for that ([`super::programs`]). Where several processors want the window they share it or have it
//! by turns ([`crate::turns`]).

use super::programs::Programs;
use super::settled::{CALM, calm};
use super::{BtVcpu, Program, Stats};
use crate::area::{DataTables, TLB_ENTRIES, TlbEntry, View};
use crate::signal;
use crate::tsc::thread_time;
use crate::turns::{Held, Lease, window_possible};
use crate::window::{self, MOST, Mapped, Window};
use mem::{PAGE_SIZE, RamOffset};
use std::time::{Duration, Instant};
use x86::Bus;
use x86::exec::Exec;
use x86::mmu::{Access, Rights};
use x86::state::{CpuState, efer, seg};

/// The time in ring 3 that an address space must have had, less that of all others.
pub(crate) const LONG: Duration = Duration::from_millis(20);
/// The most that is known of it.
const LONGEST: Duration = Duration::from_millis(60);
/// The part of [`LONG`] that makes a program known ([`super::programs`]).
const KNOWN: f32 = 0.3;
/// Of the time between two looks no more counts: much else may have been between.
const SAMPLE: Duration = Duration::from_millis(10);
/// Pages around one that has faulted are mapped with it, if the program has used them: so many,
/// aligned.
const AROUND: u64 = 8;

/// So many pages tell if a program is still the same.
const FEW: usize = 16;

/// What tells an address space: the bits of CR3, and how its tables are read.
pub(super) fn base_of(s: &CpuState) -> u64 {
    s.cr3 & 0x000f_ffff_ffff_f000 | u64::from(s.efer & efer::NXE != 0)
}

/// The address space in the window.
struct Tenant {
    /// See [`base_of`].
    base: u64,
    program: Program,
    /// When it has been seen to compute.
    seen: Instant,
    /// What of the guest's flushes it has seen ([`x86::mmu::History`]).
    space: u64,
    pages_seen: u64,
    /// For how long hardly any of its code has been looked for.
    calm: Duration,
    /// Looks at which the window had cost more than it can have gained, less the others.
    strikes: u32,
}

/// So many of those, and an address space goes on without the window, for a while that doubles each
/// time.
const STRIKES: u32 = 4;
const BARRED: Duration = Duration::from_millis(200);
const BARRED_LONGEST: Duration = Duration::from_secs(20);

/// What there is to know of the window.
pub(super) struct HostMmu {
    /// How long an address space must have computed; `None`: the window is not used.
    after: Option<Duration>,
    lease: Option<Lease>,
    /// It has had the window.
    has_had: bool,
    /// `None` with a lease: code that goes through the window may still be about to run, until the
    /// dispatcher looks for code again ([`BtVcpu::open_window`]).
    tenant: Option<Tenant>,
    /// The program that has computed for longest of late, by its address space and its thread's FS base
    /// (the next program may get the same tables), and how much longer than the others.
    first: ((u64, u64), Duration),
    /// The thread's time at the last look.
    last_look: Duration,
    /// Blocks looked for until then, and what the window had cost, in microseconds.
    lookups: u64,
    cost: u64,
    /// An address space that had better do without, until when, and for how long that is.
    barred: (u64, Instant, Duration),
    /// This one is to go through the window from now on.
    due: Option<u64>,
    pub(super) programs: Programs,
    /// The linear address of a page that the guest is about to map.
    awaited: Option<u64>,
}

impl HostMmu {
    pub(super) fn new(after: Option<Duration>) -> HostMmu {
        HostMmu {
            after: after.filter(|_| signal::has_fsgsbase()),
            lease: None,
            has_had: false,
            tenant: None,
            first: ((0, 0), Duration::ZERO),
            last_look: Duration::ZERO,
            lookups: 0,
            cost: 0,
            barred: (0, Instant::now(), BARRED),
            due: None,
            programs: Programs::default(),
            awaited: None,
        }
    }

    /// What FS adds while translated code runs.
    pub(super) fn fs_adds(&self) -> u64 {
        match self.lease {
            Some(_) => window::BASE,
            None if self.has_had => window::NOWHERE,
            None => 0,
        }
    }

    /// The window, if it is this processor's.
    fn window(&self) -> Option<Held> {
        self.lease.as_ref()?.window()
    }

    /// Pages in the window.
    pub(super) fn len(&self) -> usize {
        self.window().map_or(0, |window| window.len())
    }

    /// Where the memory at a linear address is, if it is in the window.
    pub(super) fn place_of(&self, linear: u64) -> Option<RamOffset> {
        let host = Window::host(linear)?;
        let mapped = self.window()?.get(host & !(PAGE_SIZE - 1))?;
        Some(RamOffset(mapped.at.0 | linear & (PAGE_SIZE - 1)))
    }

    /// An address space is to go through the window.
    pub(super) fn let_in(&mut self, base: u64) {
        if self.after.is_some() {
            self.due = Some(base);
        }
    }

    /// The program of another address space that goes through the window and has computed of late.
    pub(super) fn rival(&self, base: u64) -> Option<Program> {
        let other = self.tenant.as_ref().filter(|t| t.base != base)?;
        (other.seen.elapsed() < SAMPLE).then_some(other.program)
    }

    /// True if an address space may be chosen at any moment: for tests.
    pub(super) fn at_once(&self) -> bool {
        self.after == Some(Duration::ZERO)
    }
}

impl BtVcpu {
    /// An event is due: looks who computes.
    pub(super) fn see_who_computes(&mut self) {
        let Some(after) = self.host_mmu.after else {
            return;
        };
        let now = Instant::now();
        // Where everybody is let in nobody needs it, and looks are many.
        let time = if self.host_mmu.at_once() {
            Duration::ZERO
        } else {
            thread_time()
        };
        let passed = time.saturating_sub(std::mem::replace(&mut self.host_mmu.last_look, time));
        let passed = passed.min(SAMPLE);
        if let Some(lease) = &self.host_mmu.lease
            && lease.is_wanted(after)
        {
            return self.close_window();
        }
        let cpu = self.interp.cpu();
        if cpu.s.cpl != 3 || !cpu.is_64bit() {
            return;
        }
        let base = base_of(&cpu.s);
        let fs_base = cpu.s.seg[usize::from(seg::FS)].base;
        self.note_time(time, passed, after.mul_f32(KNOWN));
        let program = (base, fs_base);
        let m = &mut self.host_mmu;
        let (of, time) = &mut m.first;
        if *of == program {
            *time = (*time + passed).min(LONGEST);
        } else if *time > passed {
            *time -= passed;
        } else {
            (*of, *time) = (program, passed);
        }
        let (lookups, cost) = (self.stats.lookups, window_cost(&self.stats));
        let looked = lookups - std::mem::replace(&mut m.lookups, lookups);
        let spent = cost - std::mem::replace(&mut m.cost, cost);
        let known = m.tenant.as_mut().filter(|t| t.base == base);
        let here = known.is_some();
        if let Some(lease) = m.lease.as_ref().filter(|_| here) {
            lease.note_use();
        }
        let (mut settles, mut dear) = (false, false);
        if let Some(tenant) = known {
            tenant.seen = now;
            let before = tenant.calm;
            tenant.calm = calm(before, passed, looked);
            settles = before < CALM && tenant.calm >= CALM;
            tenant.strikes = if u128::from(spent) > passed.as_micros() / 2 + 300 {
                tenant.strikes + 1
            } else {
                tenant.strikes.saturating_sub(1)
            };
            dear = tenant.strikes >= STRIKES && !after.is_zero();
        }
        let barred = m.barred.0 == base && now < m.barred.1;
        let long = *of == program && *time >= after;
        let due = !here && !barred && (long || Lease::can_join(&self.memory, base, after));
        if due {
            m.due = Some(base);
        }
        if dear {
            let again = m.barred.0 == base;
            let time = if again { m.barred.2 * 2 } else { BARRED }.min(BARRED_LONGEST);
            m.barred = (base, now + time, time);
            m.programs.costs(&self.area.program);
            return self.close_window();
        }
        if settles && self.switches.settled {
            // Jumps find the settled code from now on.
            self.empty_branch_tables();
        }
    }

    /// True if code that is now looked for may be settled.
    pub(super) fn settles(&self) -> bool {
        let calm = |t: &Tenant| t.calm >= CALM || self.host_mmu.at_once();
        self.switches.settled && self.host_mmu.tenant.as_ref().is_some_and(calm)
    }

    /// `run` begins or ends. Meanwhile another processor may have taken the window.
    pub(super) fn set_running(&mut self, runs: bool) {
        let lease = self.host_mmu.lease.as_ref();
        let keeps = self.host_mmu.tenant.is_some() && lease.is_some_and(|l| l.set_running(runs));
        if !keeps {
            self.leave_window();
        }
    }

    /// Gives the window back. To be called where no code is about to run.
    fn leave_window(&mut self) {
        self.host_mmu.tenant = None;
        self.host_mmu.lease = None;
        self.area.window = 0;
    }

    /// Lets the address space in by which the program that runs has been chosen, and gives the window
    /// back if nobody is in. To be called by the dispatcher when the tables are up to date.
    pub(super) fn open_window(&mut self, bus: &mut dyn Bus) {
        if self.host_mmu.tenant.is_none() {
            self.leave_window();
        }
        let base = base_of(&self.interp.cpu().s);
        if self.host_mmu.due.take() != Some(base) {
            return;
        }
        let Some(after) = self.host_mmu.after.filter(|_| window_possible()) else {
            self.host_mmu.after = None;
            return;
        };
        self.leave_window();
        self.host_mmu.lease = Lease::take(&self.memory, base, &self.signals, after);
        let Some(mut window) = self.host_mmu.window() else {
            return;
        };
        self.host_mmu.has_had = true;
        self.stats.windows += 1;
        let tenant = Tenant {
            base,
            program: self.area.program,
            seen: Instant::now(),
            space: self.history.space,
            pages_seen: self.history.pages,
            calm: Duration::ZERO,
            strikes: 0,
        };
        self.host_mmu.tenant = Some(tenant);
        // Others may have mapped some.
        let known: Vec<_> = window.pages().collect();
        self.look_again(bus, &mut window, &known);
        // What the software TLB knows is what the program uses.
        let mut pages = pages_of(&self.area.tables[View::User as usize].data);
        pages.sort_unstable_by_key(|(linear, written)| (*linear, !written));
        pages.dedup_by_key(|(linear, _)| *linear);
        let pages: Vec<_> = pages
            .iter()
            .filter_map(|(linear, written)| Some((Window::host(*linear)?, *linear, *written)))
            .filter_map(|(page, linear, written)| {
                let new = window.get(page).is_none();
                let used = new.then(|| self.used(bus, &mut window, linear, written));
                Some((page, used.flatten()?))
            })
            .collect();
        self.map(&mut window, &pages);
        drop(window);
        self.enter_window();
        if self.area.window != 0 {
            self.look_at_settled(bus, None);
        }
    }

    /// The address space is another one, or has just been let in: its user code goes through the
    /// window or not.
    pub(super) fn enter_window(&mut self) {
        let base = base_of(&self.interp.cpu().s);
        let tenant = self.host_mmu.tenant.as_ref();
        let inside = tenant.is_some_and(|t| t.base == base);
        self.area.window = u64::from(inside);
        if inside {
            self.area.prepare(false);
            // Those are not this program's, or of before its last flush.
            for area in &mut self.spare {
                area.release_window();
            }
            if self
                .host_mmu
                .window()
                .is_some_and(|mut window| window.has_news())
                && let Some(tenant) = &mut self.host_mmu.tenant
            {
                // What this processor cannot know: all is walked again.
                tenant.space = u64::MAX;
            }
        }
    }

    /// Nobody goes through the window here any more. Code that does may be about to run: the dispatcher must
    /// look for code again ([`BtVcpu::window_closed`]), and gives the window back then
    /// ([`BtVcpu::open_window`]).
    fn close_window(&mut self) {
        self.host_mmu.tenant = None;
        self.host_mmu.first.1 = Duration::ZERO;
    }

    /// True if the dispatcher must look for code again: nobody goes through the window any more, and code
    /// that does may be about to run.
    pub(super) fn window_closed(&self) -> bool {
        self.area.window != 0 && self.host_mmu.tenant.is_none()
    }

    /// Maps pages, given in order; nobody goes through the window any more if the host does not.
    fn map(&mut self, window: &mut Held, pages: &[(u64, Mapped)]) {
        if pages.is_empty() {
            return;
        }
        for (_, page) in pages.iter().filter(|(_, m)| m.writable) {
            self.peers.will_write(page.at);
        }
        if window.len() + pages.len() > MOST {
            window.clear();
        }
        window.note_mapped();
        if !window.map(pages) {
            window.clear();
            self.close_window();
        }
    }

    /// Holds what is mapped against what the guest has flushed since. To be called before user code
    /// runs, when the tables are up to date.
    pub(super) fn look_at_window(&mut self, bus: &mut dyn Bus) {
        if self.area.window == 0 {
            return;
        }
        self.look_at_flushed(bus);
        self.map_awaited(bus);
    }

    fn look_at_flushed(&mut self, bus: &mut dyn Bus) {
        let Some(tenant) = &mut self.host_mmu.tenant else {
            return;
        };
        let now = (self.history.space, self.history.pages);
        let seen = (tenant.space, tenant.pages_seen);
        if now == seen {
            return;
        }
        (tenant.space, tenant.pages_seen) = now;
        let flushed: Vec<u64> = self.flushed(seen.1).collect();
        let Some(mut window) = self.host_mmu.window() else {
            return;
        };
        let all = seen.0 != now.0
            || self.drops_all(seen.1, &self.history)
            || flushed.iter().any(|linear| window.is_large(*linear));
        self.look_at_settled(bus, (!all).then_some(&flushed));
        let pages: Vec<_> = if all {
            window.pages().collect()
        } else {
            let mut pages: Vec<_> = flushed
                .iter()
                .filter_map(|linear| Window::host(*linear))
                .filter_map(|page| Some((page, window.get(page)?)))
                .collect();
            pages.sort_unstable_by_key(|(page, _)| *page);
            pages.dedup();
            pages
        };
        self.look_again(bus, &mut window, &pages);
    }

    /// Walks the page tables for what is mapped, given in order.
    fn look_again(&mut self, bus: &mut dyn Bus, window: &mut Held, pages: &[(u64, Mapped)]) {
        let (mut gone, mut other) = (Vec::new(), Vec::new());
        for &(page, mapped) in pages {
            let linear = Window::linear(page);
            match linear.and_then(|linear| self.used(bus, window, linear, mapped.writable)) {
                Some(now) if now == mapped => {}
                Some(now) => other.push((page, now)),
                None => gone.push(page),
            }
        }
        self.stats.window_walks += pages.len() as u64;
        if pages.len() >= FEW && gone.len() + other.len() > pages.len() / 2 {
            // Another program has been given the same tables.
            window.clear();
            return self.close_window();
        }
        window.unmap(&gone);
        self.map(window, &other);
    }

    /// Where the page of a linear address is that a program has used, to be written if it has been
    /// `written` and may be, without a trace.
    fn used(
        &mut self,
        bus: &mut dyn Bus,
        window: &mut Window,
        linear: u64,
        written: bool,
    ) -> Option<Mapped> {
        let mut x = Exec {
            cpu: self.interp.cpu(),
            bus,
        };
        if x.is_watched_page(linear) {
            return None;
        }
        if written
            && let Some(found) = x.probe_user(linear, Access::Write)
            && let Some(page) = x.ram.lookup(found.gpa)
        {
            self.peers.will_write(page.at);
            if page.writable && !self.memory.is_marked(page.at) {
                window.note_size(linear, found.size);
                let (at, writable) = (page_of(page.at), true);
                return Some(Mapped { at, writable });
            }
        }
        let found = x.probe_user(linear, Access::Read)?;
        window.note_size(linear, found.size);
        let (at, writable) = (page_of(x.ram.lookup(found.gpa)?.at), false);
        Some(Mapped { at, writable })
    }

    /// The host has faulted at an access through the window: maps the page, if it is RAM that the
    /// program may use so. Where to go on then.
    pub(super) fn fill_window(&mut self, bus: &mut dyn Bus) -> Option<u64> {
        let fault = signal::last_fault();
        let linear = Window::linear(fault.address)?;
        let cpu = self.interp.cpu();
        let through = self.area.window != 0 && self.host_mmu.tenant.is_some();
        if !through || cpu.s.cpl != 3 || !cpu.is_64bit() {
            return None;
        }
        let access = if fault.code & 2 != 0 {
            Access::Write
        } else {
            Access::Read
        };
        let mut x = Exec {
            cpu: self.interp.cpu(),
            bus,
        };
        let cr2 = x.s.cr2;
        if x.translate(linear, access, Rights::Program).is_err() {
            // The interpreter meets the fault again and delivers it.
            x.s.cr2 = cr2;
            return None;
        }
        let page = Window::host(linear)? & !(PAGE_SIZE - 1);
        let mut window = self.host_mmu.window()?;
        let now = self.used(bus, &mut window, linear, true)?;
        self.note_program(bus, linear, now.at);
        if access == Access::Write && !now.writable {
            return None;
        }
        self.map_around(bus, &mut window, page, now);
        self.area.fault = fault;
        // Gone if the host would not map it.
        self.host_mmu.tenant.is_some().then_some(self.exits.again)
    }

    /// Maps a page that the program uses, and those around it that it has used.
    fn map_around(&mut self, bus: &mut dyn Bus, window: &mut Held, page: u64, mapped: Mapped) {
        let first = page & !(AROUND * PAGE_SIZE - 1);
        let mut pages = Vec::new();
        for near in (0..AROUND).map(|n| first + n * PAGE_SIZE) {
            if near == page {
                pages.push((page, mapped));
            } else if window.get(near).is_none()
                && let Some(linear) = Window::linear(near)
                && let Some(used) = self.used(bus, window, linear, true)
            {
                pages.push((near, used));
            }
        }
        self.map(window, &pages);
        self.stats.window_fills += 1;
    }

    /// The host has faulted at an access that the interpreter has done since: if that was a page fault of
    /// the guest, its page is mapped as soon as the program goes on.
    pub(super) fn await_page(&mut self) {
        if self.area.window != 0 && self.interp.cpu().s.cpl != 3 {
            self.host_mmu.awaited = Window::linear(signal::last_fault().address);
        }
    }

    /// True if translated code must not go back to ring 3 without the dispatcher.
    pub(super) fn awaits_page(&self) -> bool {
        self.area.window != 0 && self.host_mmu.awaited.is_some()
    }

    /// Maps the page that the program has waited for, if it is about to go on.
    fn map_awaited(&mut self, bus: &mut dyn Bus) {
        if !self.awaits_page() || self.window_closed() || self.interp.cpu().s.cpl != 3 {
            return;
        }
        let awaited = self.host_mmu.awaited.take();
        if let Some(linear) = awaited.map(|linear| linear & !(PAGE_SIZE - 1))
            && let Some(page) = Window::host(linear)
            && let Some(mut window) = self.host_mmu.window()
            && let Some(used) = self.used(bus, &mut window, linear, true)
        {
            self.map_around(bus, &mut window, page, used);
        }
    }

    /// Pages have been marked since: what holds code or is clean must not be written any more.
    pub(super) fn forbid_writes_through_window(&mut self) {
        let Some(mut window) = self.host_mmu.window() else {
            return;
        };
        let mut marked: Vec<_> = window.writable().collect();
        marked.retain(|(_, m)| self.memory.is_marked(m.at));
        for (_, m) in &mut marked {
            m.writable = false;
        }
        self.map(&mut window, &marked);
    }

    /// Nothing is written by the software TLB: the window may still be.
    pub(super) fn tell_window_writes(&self) {
        if let Some(window) = self.host_mmu.window() {
            for (_, page) in window.writable() {
                self.peers.will_write(page.at);
            }
        }
    }
}

fn page_of(at: RamOffset) -> RamOffset {
    RamOffset(at.0 & !(PAGE_SIZE - 1))
}

/// What the window has cost until now, about, in microseconds: pages mapped after a host fault, those
/// looked at again, and accesses that the interpreter did.
fn window_cost(stats: &Stats) -> u64 {
    9 * stats.window_fills + 3 * stats.window_missed + stats.window_walks / 16
}

/// The linear pages of a software TLB, and which it knows as written.
fn pages_of(tables: &DataTables) -> Vec<(u64, bool)> {
    let of = |table: &[TlbEntry; TLB_ENTRIES], written| {
        let page = |entry: &TlbEntry| (entry.negated_page.wrapping_neg(), written);
        table.iter().map(page).collect::<Vec<_>>()
    };
    let mut pages = of(&tables.write, true);
    pages.extend(of(&tables.read, false));
    pages
}
