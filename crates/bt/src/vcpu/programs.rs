//! Programs that have computed for long, known again by a page: they get the window ([`super::host_mmu`])
//! as soon as they begin.
//!
//! The page is the first one of RAM below the libraries that ring 3 uses in a new address space, as code or
//! data: for a file in the guest's page cache it is the same each time. It is a hint and nothing more. If
//! the page holds something else by now, a program gets the window early, or goes without it for as long
//! as one that nobody knows.

use super::BtVcpu;
use super::host_mmu::base_of;
use crate::tsc::thread_time;
use mem::{Gpa, PAGE_SIZE, RamOffset};
use std::time::Duration;
use x86::Bus;
use x86::exec::Exec;
use x86::mmu::Access;

/// Where libraries and the dynamic linker are: from here.
const LIBRARIES: u64 = 0x7000_0000_0000;
/// Programs that are known at most.
const PROGRAMS: usize = 16;
/// Each beginning takes one from a program's credit, each run that computes for long adds so much, up to
/// the most.
const LONG_RUN: i8 = 2;
const MOST: i8 = 4;
/// The credit of a program that the window costs more than it gains.
const DEAR: i8 = -8;

/// The program of an address space.
#[derive(Clone, Copy, Default)]
pub struct Program {
    /// Of the address space: see [`base_of`].
    base: u64,
    /// The page by which it may be known, and the linear address of that; zero as long as none has been
    /// used.
    page: u64,
    linear: u64,
    /// The thread's time when it began, and for how long it has computed.
    began: Duration,
    time: Duration,
    /// It is to get the window when its own code begins, and no longer the linker's.
    begins: bool,
    /// The address space has been flushed since: another program may have it now.
    doubtful: bool,
}

impl Program {
    /// One of which nothing is known.
    fn new(base: u64) -> Program {
        let nothing = Program::default();
        Program { base, ..nothing }
    }
}

/// Programs that are known and their credit, the one used last at the end.
#[derive(Default)]
pub(super) struct Programs(Vec<(u64, i8)>);

impl Programs {
    fn take(&mut self, page: u64) -> Option<i8> {
        let n = self.0.iter().position(|(p, _)| *p == page)?;
        Some(self.0.remove(n).1)
    }

    fn put(&mut self, page: u64, credit: i8) {
        if self.0.len() == PROGRAMS {
            self.0.remove(0);
        }
        self.0.push((page, credit));
    }

    /// A program begins: true if it will compute for long, as far as is known.
    fn begins(&mut self, page: u64) -> bool {
        let Some(credit) = self.take(page) else {
            return false;
        };
        let good = credit > 0;
        self.put(page, credit - i8::from(good));
        good
    }

    /// A program has computed for long.
    fn computes(&mut self, page: u64) {
        let credit = self.take(page).unwrap_or(0);
        self.put(page, (credit + LONG_RUN).min(MOST));
    }

    /// The window has cost a program too much.
    pub(super) fn costs(&mut self, program: &Program) {
        if program.linear != 0 {
            self.take(program.page);
            self.put(program.page, DEAR);
        }
    }
}

impl BtVcpu {
    /// The program of an address space that has new tables: the one that had it last, perhaps.
    pub(super) fn program_of(&self, base: u64) -> Program {
        let areas = std::iter::once(&self.area).chain(self.spare.iter().rev());
        let known = areas.map(|area| area.program).find(|p| p.base == base);
        let doubtful = true;
        known.map_or(Program::new(base), |p| Program { doubtful, ..p })
    }

    /// Ring 3 uses a page of RAM at a linear address: the first one tells what program this is.
    pub(super) fn note_program(&mut self, bus: &mut dyn Bus, linear: u64, at: RamOffset) {
        if linear >= LIBRARIES {
            return;
        }
        if std::mem::take(&mut self.area.program.doubtful) {
            let program = self.area.program;
            if self.page_at(bus, program.linear) != Some(program.page) {
                self.area.program = Program::new(program.base);
            }
        }
        let program = &mut self.area.program;
        if program.linear == 0 {
            let page = at.0 & !(PAGE_SIZE - 1);
            (program.page, program.linear) = (page, linear);
            program.began = thread_time();
            program.begins = self.host_mmu.programs.begins(page) && self.switches.known;
        }
    }

    /// Ring 3 is about to run code there.
    pub(super) fn note_code(&mut self, bus: &mut dyn Bus, linear: u64, at: RamOffset) {
        self.note_program(bus, linear, at);
        if linear < LIBRARIES && std::mem::take(&mut self.area.program.begins) {
            let base = base_of(&self.interp.cpu().s);
            let rival = self.host_mmu.rival(base);
            if rival.is_none_or(|rival| self.is_gone(bus, &rival)) {
                self.host_mmu.let_in(base);
            }
        }
    }

    /// The page of RAM that ring 3 has at a linear address.
    fn page_at(&mut self, bus: &mut dyn Bus, linear: u64) -> Option<u64> {
        let mut x = Exec {
            cpu: self.interp.cpu(),
            bus,
        };
        let found = x.probe_user(linear, Access::Read)?;
        Some(x.ram.lookup(found.gpa)?.at.0 & !(PAGE_SIZE - 1))
    }

    /// True if the page tables of a program are no longer its own.
    fn is_gone(&mut self, bus: &mut dyn Bus, program: &Program) -> bool {
        let uppermost = (program.base & !0xfff) + 8 * (program.linear >> 39 & 0x1ff);
        let x = Exec {
            cpu: self.interp.cpu(),
            bus,
        };
        let entry = x.ram.lookup(Gpa(uppermost));
        let entry = entry.map_or(0, |found| self.memory.load::<u64>(found.at));
        program.linear != 0 && entry & 1 == 0
    }

    /// The program that runs has computed for some time more; `long`: that makes it known.
    pub(super) fn note_time(&mut self, now: Duration, passed: Duration, long: Duration) {
        let program = &mut self.area.program;
        let before = program.time;
        program.time += passed.min(now.saturating_sub(program.began));
        if program.linear != 0 && before <= long && program.time > long {
            self.host_mmu.programs.computes(program.page);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_known_while_its_runs_are_long_more_often_than_not() {
        let mut programs = Programs::default();
        assert!(!programs.begins(0x5000));
        programs.computes(0x5000);
        assert!(programs.begins(0x5000) && !programs.begins(0x6000));
        for _ in 0..10 {
            programs.computes(0x5000);
            assert!(programs.begins(0x5000));
        }
        // Others are short.
        let known = (0..10).filter(|_| programs.begins(0x5000)).count();
        assert_eq!(known, MOST as usize - 1);
        programs.computes(0x5000);
        assert!(programs.begins(0x5000));
    }

    #[test]
    fn a_program_that_the_window_costs_too_much_is_not_let_in_for_some_runs() {
        let mut programs = Programs::default();
        let program = Program {
            page: 0x5000,
            linear: 0x40_0000,
            ..Program::default()
        };
        programs.computes(program.page);
        programs.costs(&program);
        for _ in 0..4 {
            assert!(!programs.begins(program.page));
            programs.computes(program.page);
        }
        assert!(!programs.begins(program.page));
        programs.computes(program.page);
        assert!(programs.begins(program.page));
    }

    #[test]
    fn of_many_programs_the_last_ones_are_known() {
        let mut programs = Programs::default();
        for page in 1..=1000 {
            programs.computes(page << 12);
            assert!(programs.0.len() <= PROGRAMS);
        }
        let first = 1000 - PROGRAMS as u64;
        assert!(!programs.begins(first << 12));
        assert!((first + 1..=1000).all(|page| programs.begins(page << 12)));
        // Those that are asked for stay.
        for page in 2000..2000 + PROGRAMS as u64 - 1 {
            programs.begins(1000 << 12);
            programs.computes(page << 12);
        }
        assert!(programs.take(1000 << 12).is_some());
    }
}
