//! The tables kept for each address space: which fit now, and what the guest's flushes, code
//! writes and new code pages take from them.

use super::{BtVcpu, RECENT, SPACES};
use crate::area::Area;
use crate::signal;
use std::sync::atomic::Ordering;
use x86::mmu::History;

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
        let space = history.space;
        // With one other the tables are exchanged, as the guest goes to and fro, but never kept.
        let spaces = if self.switches.spaces { SPACES } else { 2 };
        let found = self
            .spare
            .iter()
            .position(|a| self.switches.spaces && a.space == space);
        let mut next = match found {
            Some(n) => self.spare.remove(n),
            None if self.spare.len() + 1 < spaces => {
                let area = &*self.area;
                Area::new(area.pins, area.targets, area.no_stub)
            }
            None => {
                let mut oldest = self.spare.remove(0);
                oldest.flush();
                oldest
            }
        };
        if found.is_none() {
            next.space = space;
            next.pages_seen = self.area.pages_seen;
            if self.switches.inherit && history.globals == self.history.globals {
                next.inherit(&self.area);
            }
        }
        (next.tsc_base, next.tsc_factor) = (self.area.tsc_base, self.area.tsc_factor);
        next.pass_mask = self.area.pass_mask;
        next.vector = self.area.vector;
        next.mxcsr = self.area.mxcsr;
        signal::set_gs(std::ptr::from_ref(&*next) as u64);
        self.spare.push(std::mem::replace(&mut self.area, next));
    }

    /// INVLPG: drops the pages that the current tables have not seen dropped yet, or everything
    /// where that is not known to be enough.
    pub(super) fn drop_pages(&mut self, history: &History) {
        let missed = history.pages - self.area.pages_seen;
        let pages = (self.area.pages_seen + 1..=history.pages)
            .map(|n| self.recent[n as usize % RECENT])
            .take(RECENT);
        let known = missed <= RECENT as u64 && self.area.pages_seen >= self.forgotten;
        let large = |page: u64| {
            self.large[(page >> 63) as usize].is_some_and(|(from, to)| page >= from && page <= to)
        };
        if !known || pages.clone().any(large) {
            self.area.flush();
        } else {
            let mut code = false;
            for page in pages {
                for tables in &mut self.area.tables {
                    tables.drop_page(page);
                }
                code |= self.code_pages.contains(&(page >> 12));
            }
            if code {
                self.area.flush_branches();
            }
        }
        self.area.pages_seen = history.pages;
    }

    /// A page has become a code page: no address space may hold a write entry for it.
    pub(super) fn empty_write_tables(&mut self) {
        for area in self.spare.iter_mut().chain([&mut self.area]) {
            area.flush_writes();
        }
    }
}
