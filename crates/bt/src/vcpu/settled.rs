//! User code that is settled: made for the linear address at which the program in the window
//! ([`super::host_mmu`]) has its page. Linear addresses are constants in it, and its jumps to other such
//! pages are linked as those inside a page are, without a guard.
//!
//! Each page of RAM has one linear address here at most; code that runs at another is made for any.
//! Before the program goes on after flushes that may be for them, or another program is let in, the
//! pages are walked again, without a trace: what is no longer there is linked to no more. It is good
//! again if a program has it at the same address, and goes if one has it at another.

use super::{BtVcpu, Map};
use crate::block::Kind;
use mem::{PAGE_SIZE, RamOffset};
use std::time::Duration;
use x86::Bus;
use x86::exec::Exec;
use x86::mmu::Access;

/// Pages at most.
const PAGES: usize = 8192;

/// The bit of a mode that says that its code is settled.
pub(super) const SETTLED: u64 = 1 << 46;

/// A program is calm when for so long the dispatcher has looked for no more than so many blocks a
/// millisecond: while it goes on to other code all the time, that would be made for the next run of it,
/// too, which has its libraries elsewhere.
pub(super) const CALM: Duration = Duration::from_millis(12);
const LOOKUPS: u64 = 12;
/// What is known of that afterwards: when it is no longer calm, for so much longer its code is settled.
const CALMEST: Duration = Duration::from_millis(24);

/// For how long a program is calm, if it was so for some time `before`, and some time has `passed` with
/// so many lookups.
pub(super) fn calm(before: Duration, passed: Duration, lookups: u64) -> Duration {
    let few = u128::from(LOOKUPS) * (passed.as_micros() / 1000 + 2);
    let lookups = u128::from(lookups);
    if lookups <= few {
        let now = before + passed;
        if now < CALM { now } else { CALMEST }
    } else if before < CALM {
        Duration::ZERO
    } else if lookups > 8 * few {
        // Perhaps it is the settled code that is being made.
        before.saturating_sub(passed)
    } else {
        before
    }
}

/// Where a page of code is, or was.
struct Place {
    linear: u64,
    /// The program has it there.
    here: bool,
}

/// Where pages of code are.
#[derive(Default)]
pub(super) struct Settled {
    /// By the page's place in RAM.
    pages: Map<u64, Place>,
}

/// What becomes of code that is to run.
enum Settling {
    /// It is settled there.
    Here,
    /// It is settled elsewhere, or there are too many.
    Elsewhere,
    /// It was made for another linear address, where no program has it any more.
    Moved,
}

impl Settled {
    /// The linear address of a page in RAM for which its settled code was made.
    pub(super) fn linear(&self, page: RamOffset) -> Option<u64> {
        self.pages.get(&page.0).map(|place| place.linear)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// A page of code is at a linear address.
    fn settle(&mut self, page: u64, linear: u64) -> Settling {
        let room = self.pages.len() < PAGES;
        match self.pages.get_mut(&page) {
            Some(place) if place.linear == linear => {
                place.here = true;
                Settling::Here
            }
            Some(place) if place.here => Settling::Elsewhere,
            Some(place) => {
                *place = Place { linear, here: true };
                Settling::Moved
            }
            None if room => {
                self.pages.insert(page, Place { linear, here: true });
                Settling::Here
            }
            None => Settling::Elsewhere,
        }
    }
}

impl BtVcpu {
    /// What makes the mode of the window's code that of settled code, if it can be.
    pub(super) fn settled_mode(&mut self, linear: u64, at: RamOffset) -> u64 {
        let mask = !(PAGE_SIZE - 1);
        match self.settled.settle(at.0 & mask, linear & mask) {
            Settling::Here => SETTLED,
            Settling::Elsewhere => 0,
            Settling::Moved => {
                for number in self.settled_blocks(at.0) {
                    self.drop_block(number);
                }
                self.empty_branch_tables();
                SETTLED
            }
        }
    }

    /// True if the jump for which a block is looked for is in settled code: it leads to such code, too, or
    /// it would never be linked.
    pub(super) fn is_wanted_settled(&self) -> bool {
        if self.settled.is_empty() {
            return false;
        }
        let site = self.wanted.and_then(|site| self.blocks.site(site));
        let Some(Kind::Link { patch, .. }) = site.map(|site| site.kind) else {
            return false;
        };
        let block = self.blocks.at_host(patch);
        block.is_some_and(|n| self.targets.mode_of(self.blocks[n].mode()) & SETTLED != 0)
    }

    /// The settled blocks of a page in RAM.
    fn settled_blocks(&self, page: u64) -> Vec<u32> {
        let mut blocks = self.blocks.in_page((page / PAGE_SIZE) as u32);
        blocks.retain(|n| self.targets.mode_of(self.blocks[*n].mode()) & SETTLED != 0);
        blocks
    }

    /// Walks the page tables for settled code at these linear pages, or for all of it: nobody gets to
    /// what is no longer there, unless it comes back.
    pub(super) fn look_at_settled(&mut self, bus: &mut dyn Bus, pages: Option<&[u64]>) {
        if self.settled.is_empty() || pages.is_some_and(<[u64]>::is_empty) {
            return;
        }
        let mut x = Exec {
            cpu: self.interp.cpu(),
            bus,
        };
        let mut gone = Vec::new();
        for (&page, place) in &mut self.settled.pages {
            if !place.here || pages.is_some_and(|pages| !pages.contains(&place.linear)) {
                continue;
            }
            let found = x.probe_user(place.linear, Access::Execute);
            let at = found.and_then(|found| x.ram.lookup(found.gpa));
            place.here = at.is_some_and(|at| at.at.0 & !(PAGE_SIZE - 1) == page);
            if !place.here {
                gone.push(page);
            }
        }
        if gone.is_empty() {
            return;
        }
        self.stats.remapped += 1;
        for page in gone {
            for number in self.settled_blocks(page) {
                for site in self.blocks.take_links(number) {
                    if let Some((patch, to)) = self.blocks.way_back(&site) {
                        self.lead(patch, to);
                    }
                }
            }
        }
        self.empty_branch_tables();
    }
}
