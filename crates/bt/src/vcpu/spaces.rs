//! The tables kept for each address space: which fit now, and what the guest's flushes, code
//! writes and new code pages take from them.

use super::host_mmu::base_of;
use super::{BtVcpu, RECENT, large_region};
use crate::area::View;
use crate::areas::OwnedArea;
use crate::signal;
use mem::PAGE_SIZE;
use std::sync::atomic::Ordering;
use x86::mmu::{Access, History};
use x86::state::cr4;

impl BtVcpu {
    /// Drops what the guest's flushes and code writes have made stale.
    pub(crate) fn keep_up(&mut self) {
        let history = self.interp.cpu().tlb.history();
        if history != self.history {
            match history.pages - self.history.pages {
                0 => {}
                1 => self.recent[history.pages as usize % RECENT] = history.last_page,
                // Several at once: which ones is not known.
                _ => self.forgotten = history.pages,
            }
            if history.space != self.history.space {
                self.stats.flushes += 1;
                self.enter_space(&history);
            }
            if history.pages != self.area.pages_seen {
                self.stats.page_flushes += 1;
                self.drop_pages(&history);
            }
            let kept = self.interp.cpu().s.cr4 & cr4::PGE != 0;
            self.frames.note(&self.history, &history, kept);
            self.history = history;
        }
        let writes = self.memory.code_writes();
        if writes != self.code_writes {
            let seen = std::mem::replace(&mut self.code_writes, writes);
            self.drop_written(seen);
        }
        let marks = self.peers.marks.load(Ordering::SeqCst);
        if marks != self.me.seen.load(Ordering::Relaxed) {
            self.empty_write_tables();
            self.me.seen.store(marks, Ordering::SeqCst);
        }
    }

    /// The guest changed its address space: goes on with the tables kept for it, or empty ones.
    pub(super) fn enter_space(&mut self, history: &History) {
        let kept = |a: &OwnedArea| self.switches.spaces && a.space == history.space;
        let found = self.spare.iter().position(kept);
        let fresh = found.is_none().then(|| {
            let base = base_of(&self.interp.cpu().s);
            self.program_of(base)
        });
        // If there is none the one that was left first.
        let mut next = self.spare.remove(found.unwrap_or(0));
        if self.switches.share && history.globals == self.history.globals {
            self.area.drop_local();
        } else {
            self.area.flush_shared();
        }
        next.follow(&mut self.area);
        if let Some(program) = fresh {
            next.flush_own();
            next.prepare(false);
            next.space = history.space;
            next.pages_seen = self.area.pages_seen;
            next.program = program;
        }
        signal::set_gs(std::ptr::from_ref(&*next) as u64);
        self.spare.push(std::mem::replace(&mut self.area, next));
        self.enter_window();
    }

    /// INVLPG: drops the pages that the current tables have not seen dropped yet, or everything
    /// where that is not known to be enough.
    pub(super) fn drop_pages(&mut self, history: &History) {
        let (own, shared) = (self.area.pages_seen, self.shared_seen);
        if self.drops_all(own, history) {
            self.area.flush_own();
        }
        if self.drops_all(shared, history) {
            self.area.flush_shared();
        }
        let mut code = false;
        let known = self
            .forgotten
            .max(history.pages.saturating_sub(RECENT as u64));
        for n in own.min(shared).max(known) + 1..=history.pages {
            let page = self.recent[n as usize % RECENT];
            for view in View::ALL {
                if n > if view.shares_data() { shared } else { own } {
                    self.area.tables[view as usize].data.drop_page(page);
                }
            }
            code |= self.code_pages.contains(&(page >> 12));
        }
        if code {
            self.area.flush_branches();
        }
        (self.area.pages_seen, self.shared_seen) = (history.pages, history.pages);
    }

    /// Tables hold a part of the page of `linear`, of so many bytes.
    pub(super) fn note_size(&mut self, linear: u64, size: u64) {
        if size > 0x1000 {
            let from = linear & !(size - 1);
            let to = from + (size - 1);
            let region = self.large.entry(large_region(linear));
            let (first, last) = region.or_insert((from, to));
            (*first, *last) = ((*first).min(from), (*last).max(to));
        }
    }

    /// The same, of a page whose code was looked for.
    pub(super) fn note_size_of_code(&mut self, linear: u64) {
        let size = self.interp.cpu().tlb.size(Access::Execute, linear);
        self.note_size(linear, size.unwrap_or(0x1000));
    }

    /// The pages that INVLPG has dropped since so many, of those that are remembered.
    pub(super) fn flushed(&self, seen: u64) -> impl Iterator<Item = u64> + '_ {
        let page = |n| self.recent[n as usize % RECENT] & !(PAGE_SIZE - 1);
        (seen + 1..=self.history.pages).map(page)
    }

    /// True if tables that have seen so many INVLPG must be emptied: one by one is not enough.
    pub(super) fn drops_all(&self, seen: u64, history: &History) -> bool {
        let missed = history.pages - seen;
        let mut pages = (seen + 1..=history.pages).map(|n| self.recent[n as usize % RECENT]);
        let large = |page: u64| {
            self.large
                .get(&large_region(page))
                .is_some_and(|(from, to)| (*from..=*to).contains(&page))
        };
        seen < self.forgotten || missed > RECENT as u64 || pages.any(large)
    }

    /// A page has become a code page: no address space may hold a write entry for it.
    pub(super) fn empty_write_tables(&mut self) {
        for area in self.spare.iter_mut().chain([&mut self.area]) {
            area.flush_writes();
        }
        self.forbid_writes_through_window();
    }
}
