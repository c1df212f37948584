//! The blocks of a processor: found by RIP and mode, made where there is none, dropped when their
//! page is written. Called by the dispatcher ([`super`]) and by what deals with exits
//! ([`super::run`]).

use super::{BtVcpu, VIEW_BITS, mode, view};
use crate::area::{BranchEntry, CODE_PAGE_ENTRIES, CodePage, VIEWS, View, branch_slot};
use crate::block::{Block, Key, Kind};
use crate::dump::NewBlock;
use crate::targets::Targets;
use crate::translate::{NO_SITE, Source};
use mem::RamOffset;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use x86::exec::Exec;
use x86::mmu::{Access, Place, Rights};
use x86::{Bus, Signals};

impl BtVcpu {
    /// Drops the blocks of pages that were written since the count of such stores was `seen`.
    pub(super) fn drop_written(&mut self, seen: u64) {
        let memory = self.memory.clone();
        let written: Vec<u64> = match memory.code_writes_since(seen) {
            Some(pages) => pages.map(|at| at.0 >> 12).collect(),
            None => self.by_page.keys().copied().collect(),
        };
        for page in written {
            let now = memory.code_generation(RamOffset(page << 12));
            let Some(numbers) = self.by_page.get(&page) else {
                continue;
            };
            let stale = |b: &u32| self.blocks[*b as usize].generation_in(page) != now;
            if !numbers.iter().any(stale) {
                continue;
            }
            for number in self.by_page.remove(&page).unwrap_or_default() {
                self.drop_block(number);
            }
        }
    }

    pub(super) fn drop_block(&mut self, number: u32) {
        let block = &mut self.blocks[number as usize];
        if !std::mem::replace(&mut block.valid, false) {
            return;
        }
        self.stats.dropped += 1;
        let (key, host) = (block.key, block.host);
        let mut site = std::mem::replace(&mut block.incoming, NO_SITE);
        while site != NO_SITE {
            // Back to the exit that asks to be linked.
            let Kind::Link {
                patch,
                unlinked,
                next,
                ..
            } = self.sites[site as usize].kind
            else {
                break;
            };
            site = next;
            let patch = self.cache.range().0 + u64::from(patch);
            // The code of a block that was dropped is no longer its own.
            if self.block_at(patch).is_some_and(|from| from.valid) {
                self.cache.patch(patch, unlinked);
            }
        }
        // Branch tables may still lead here: what they find goes back to the dispatcher.
        self.cache.redirect(host, self.look_up_exit);
        if let Some(target) = self.target(key.at, key.mode) {
            self.by_key.remove(&target);
            self.targets.remove(target);
        }
    }

    pub(super) fn empty_cache(&mut self) {
        self.stats.emptied += 1;
        self.list_blocks("the code cache was emptied");
        self.cache.truncate(self.fixed);
        self.blocks.clear();
        self.by_key.clear();
        self.targets.clear();
        self.by_page.clear();
        self.sites.clear();
        self.retries.clear();
        self.code_pages.clear();
        self.empty_branch_tables();
    }

    /// Lists the blocks there are, if that is wanted: they are about to go.
    pub(super) fn list_blocks(&mut self, why: &str) {
        let Some(recorder) = &mut self.recorder else {
            return;
        };
        let (blocks, cache) = (&self.blocks, &self.cache);
        recorder.finish(self.options.dump.as_deref(), why, |number| {
            let block = blocks.get(number as usize)?;
            let code = cache.code(block.host, block.size as usize)?;
            Some((code, block.host, &block.map[..]))
        });
    }

    /// The block at RIP; `None` if the interpreter must deal with what is there.
    pub(super) fn find(&mut self, bus: &mut dyn Bus) -> Option<u32> {
        self.stats.lookups += 1;
        let mut x = Exec {
            cpu: self.interp.cpu(),
            bus,
        };
        let (linear, place) = x.fetch_place().ok()?;
        let Place::Ram(at) = place else { return None };
        let view = view(&x);
        let x_cpl = x.s.cpl;
        let global = x.tlb.is_global(Access::Execute, linear);
        let mode = mode(&x, view);
        let key = Key { at, mode };
        let target = self.target(at, mode)?;
        let known = self.by_key.get(&target).copied();
        let number = match known.map(|n| (n, self.blocks[n as usize].second.as_deref().copied())) {
            Some((number, None)) => number,
            Some((number, Some((second, _)))) if self.second_page(bus, linear)? == second => number,
            _ => self.translate(bus, key, view, linear)?,
        };
        // Emptying the cache has forgotten the numbers of the modes.
        let target = self.target(at, mode)?;
        let (second, host) = {
            let block = &self.blocks[number as usize];
            (block.second.as_deref().copied(), block.host)
        };
        let next = linear.wrapping_add(0x1000);
        let next_global = self.interp.cpu().tlb.is_global(Access::Execute, next);
        let next_key = second.and_then(|(at, _)| self.target(RamOffset(at.0 & !0xfff), mode));
        // Which blocks fit depends on the mode. The view tells the size of code; the rest is one
        // value a view; when that changes, the tables of all views go.
        let area = &mut *self.area;
        let control = mode & !(VIEW_BITS | 3 << 8 | 0xff);
        let level = u64::from(x_cpl) + 1;
        let known = area.levels[view as usize];
        if area.control != control || known != 0 && known != level {
            area.control = control;
            area.levels = [0; VIEWS];
            area.flush_branches();
        }
        area.levels[view as usize] = level;
        let tables = &mut area.tables[view as usize];
        area.branches_used |= 1 << view as u32;
        if let Some(key) = next_key {
            // The block looks for it.
            tables.code[(next >> 12) as usize % CODE_PAGE_ENTRIES] = CodePage {
                negated_page: (next & !0xfff).wrapping_neg(),
                key,
            };
            self.code_pages.insert(next >> 12);
            area.note(view, next, next_global);
        }
        if !self.switches.indirect {
            return Some(number);
        }
        let tables = &mut area.tables[view as usize];
        tables.branch[branch_slot(linear)] = BranchEntry::new(linear, host);
        tables.code[(linear >> 12) as usize % CODE_PAGE_ENTRIES] = CodePage {
            negated_page: (linear & !0xfff).wrapping_neg(),
            key: target & !0xfff,
        };
        self.targets.insert(target, host);
        area.note(view, linear, global);
        self.code_pages.insert(linear >> 12);
        Some(number)
    }

    /// The key of the block at a place in a mode.
    pub(super) fn target(&mut self, at: RamOffset, mode: u64) -> Option<u64> {
        let number = match self.targets.mode(mode) {
            Some(number) => number,
            None => {
                self.empty_cache();
                self.targets.mode(mode)?
            }
        };
        Targets::key(at, number)
    }

    /// The page behind the one of `linear`, to fetch the rest of an instruction from; `None` if
    /// the interpreter must meet a fault there.
    pub(super) fn second_page(&mut self, bus: &mut dyn Bus, linear: u64) -> Option<RamOffset> {
        let mut x = Exec {
            cpu: self.interp.cpu(),
            bus,
        };
        let cr2 = x.s.cr2;
        let next = (linear | 0xfff).wrapping_add(1);
        if !x86::mmu::is_canonical(next) || next >> 32 != 0 && !x.is_64bit() {
            return None;
        }
        match x.locate(next, Access::Execute, Rights::Program) {
            Ok(Place::Ram(at)) => Some(at),
            Ok(_) => None,
            Err(_) => {
                x.s.cr2 = cr2;
                None
            }
        }
    }

    /// Prepares a page for reading code from it; its generation.
    pub(super) fn open_code(&mut self, page: RamOffset) -> u32 {
        let peers = self.peers.clone();
        let _marking = peers.marking.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = !self.memory.is_marked(page);
        let generation = self.memory.mark_code(page);
        if fresh && self.peers.may_write(page) {
            self.forbid_writes();
        }
        generation
    }

    pub(super) fn translate(
        &mut self,
        bus: &mut dyn Bus,
        key: Key,
        view: View,
        linear: u64,
    ) -> Option<u32> {
        self.translate_at(bus, key, view, None).or_else(|| {
            // The instruction crosses the page's end.
            let second = self.second_page(bus, linear)?;
            self.translate_at(bus, key, view, Some(second))
        })
    }

    pub(super) fn translate_at(
        &mut self,
        bus: &mut dyn Bus,
        key: Key,
        view: View,
        second: Option<RamOffset>,
    ) -> Option<u32> {
        let page = RamOffset(key.at.0 & !0xfff);
        let generation = self.open_code(page);
        let second = second.map(|at| (at, self.open_code(at)));
        let next = second.map(|(at, _)| {
            core::array::from_fn(|n| self.memory.load::<u8>(RamOffset(at.0 + n as u64)))
        });
        for _ in 0..2 {
            // Emptying the cache has forgotten the numbers of the modes.
            let target = self.target(key.at, key.mode)?;
            let number = self.blocks.len() as u32;
            let next_key = match second {
                Some((at, _)) => self.target(RamOffset(at.0 & !0xfff), key.mode)?,
                None => 0,
            };
            let copy = self.copies.get(&self.memory, page, generation, key.mode);
            let source = Source {
                rip: key.at.0 & 0xfff,
                page: &copy.bytes,
                live: &copy.live,
                next,
                next_key,
                view,
                first_site: self.sites.len() as u32,
                origin: self.cache.next(),
                cold: self.cache.next_cold(),
                cache: self.cache.range().0,
                counter: self.recorder.as_mut().map(|r| r.counter(number)),
            };
            let x = Exec {
                cpu: self.interp.cpu(),
                bus: &mut *bus,
            };
            let output = self.translator.block(&x, &source)?;
            if !self.cache.append(&output.code, &output.cold) {
                self.empty_cache();
                continue;
            }
            let s = &self.interp.cpu().s;
            let (rip, ring) = (s.rip, s.cpl);
            if let Some(map) = &self.options.perf_map {
                map.block(source.origin, output.code.len(), rip, ring);
            }
            if let Some(recorder) = &mut self.recorder {
                recorder.add(number, NewBlock::of(&source, &output, rip, ring));
            }
            self.stats.blocks += 1;
            self.stats.translated += output.count as u64;
            self.stats.host_bytes += (output.code.len() + output.cold.len()) as u64;
            self.sites.extend_from_slice(&output.sites);
            self.retries.extend_from_slice(&output.retries);
            self.blocks.push(Block {
                key,
                host: source.origin,
                size: output.code.len() as u32,
                generation,
                second: second.map(Box::new),
                map: output.map.as_slice().into(),
                completes: output.completes as u16,
                incoming: NO_SITE,
                valid: true,
            });
            self.translator.recycle(output);
            self.by_key.insert(target, number);
            for page in [Some(page), second.map(|s| s.0)].into_iter().flatten() {
                self.by_page.entry(page.0 >> 12).or_default().push(number);
            }
            return Some(number);
        }
        None
    }

    /// A page has become a code page: nobody may write to it past the slow path. Returns when no
    /// processor holds a write entry from before.
    pub(super) fn forbid_writes(&mut self) {
        let mark = self.peers.marks.fetch_add(1, Ordering::SeqCst) + 1;
        self.empty_write_tables();
        self.me.seen.store(mark, Ordering::SeqCst);
        let others = self.others();
        if others.is_empty() {
            self.peers.nothing_is_written();
        }
        for peer in others {
            while peer.inside.load(Ordering::SeqCst) && peer.seen.load(Ordering::SeqCst) < mark {
                peer.signals.raise(Signals::ENGINE);
                std::hint::spin_loop();
            }
        }
    }

    /// The block whose code holds a host address: blocks lie in the order of their making.
    pub(crate) fn block_at(&self, host: u64) -> Option<&Block> {
        let n = self.blocks.partition_point(|b| b.host <= host);
        let block = self.blocks.get(n.checked_sub(1)?)?;
        (host - block.host < u64::from(block.size)).then_some(block)
    }

    /// True if the jump at `patch` may lead to `to` for as long as its own block is good.
    pub(super) fn belong(&self, patch: u64, to: u32) -> bool {
        let to = &self.blocks[to as usize].key;
        self.block_at(patch)
            .filter(|from| from.valid)
            .is_some_and(|from| from.key.at.0 >> 12 == to.at.0 >> 12 && from.key.mode == to.mode)
    }

    /// Blocks went: no branch may lead to them.
    pub(super) fn empty_branch_tables(&mut self) {
        for area in self.spare.iter_mut().chain([&mut self.area]) {
            area.flush_branches();
        }
    }
}
