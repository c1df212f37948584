//! User code that is settled: made for the linear address at which the program in the window
//! ([`super::host_mmu`]) has its page. Linear addresses are constants in it, and its jumps to other such
//! pages are linked as those inside a page are, without a guard.
//!
//! Each page of RAM has one linear address here at most; code that runs at another is made for any.
//! Before the program goes on after flushes that may be for them, or another program is let in, the
//! pages are walked again, without a trace, and the code of those that are no longer there goes.

use super::{BtVcpu, Map};
use mem::{PAGE_SIZE, RamOffset};
use x86::Bus;
use x86::exec::Exec;
use x86::mmu::Access;

/// Pages at most.
const PAGES: usize = 8192;

/// The bit of a mode that says that its code is settled.
pub(super) const SETTLED: u64 = 1 << 46;

/// Where pages of code are.
#[derive(Default)]
pub(super) struct Settled {
    /// Linear addresses, by the page's place in RAM.
    linear: Map<u64, u64>,
}

impl Settled {
    /// The linear address of a page in RAM.
    pub(super) fn linear(&self, page: RamOffset) -> Option<u64> {
        self.linear.get(&page.0).copied()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.linear.is_empty()
    }

    /// True if code at a place in RAM is settled at a linear address, from now on if nobody has asked
    /// before.
    fn settles(&mut self, at: RamOffset, linear: u64) -> bool {
        let (page, linear) = (at.0 & !(PAGE_SIZE - 1), linear & !(PAGE_SIZE - 1));
        match self.linear.get(&page) {
            Some(known) => *known == linear,
            None if self.linear.len() < PAGES => {
                self.linear.insert(page, linear);
                true
            }
            None => false,
        }
    }
}

impl BtVcpu {
    /// What makes the mode of the window's code that of settled code, if it can be.
    pub(super) fn settled_mode(&mut self, linear: u64, at: RamOffset) -> u64 {
        let settled = self.switches.settled && self.settled.settles(at, linear);
        if settled { SETTLED } else { 0 }
    }

    /// Walks the page tables for settled code at these linear pages, or for all of it: what is no
    /// longer there goes.
    pub(super) fn look_at_settled(&mut self, bus: &mut dyn Bus, pages: Option<&[u64]>) {
        if self.settled.is_empty() || pages.is_some_and(<[u64]>::is_empty) {
            return;
        }
        let mut x = Exec {
            cpu: self.interp.cpu(),
            bus,
        };
        let mut gone = Vec::new();
        for (&page, &linear) in &self.settled.linear {
            if pages.is_some_and(|pages| !pages.contains(&linear)) {
                continue;
            }
            let found = x.probe_user(linear, Access::Execute);
            let place = found.and_then(|found| x.ram.lookup(found.gpa));
            if place.is_none_or(|place| place.at.0 & !(PAGE_SIZE - 1) != page) {
                gone.push(page);
            }
        }
        if gone.is_empty() {
            return;
        }
        self.stats.remapped += 1;
        for number in self.blocks.all() {
            let block = &self.blocks[number];
            let settled = self.targets.mode_of(block.mode) & SETTLED != 0;
            if settled && gone.contains(&(block.at().0 & !(PAGE_SIZE - 1))) {
                self.drop_block(number);
            }
        }
        for page in gone {
            self.settled.linear.remove(&page);
        }
        self.empty_branch_tables();
    }
}
