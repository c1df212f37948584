//! The blocks of a processor: found by RIP and mode, made where there is none, dropped when their
//! page is written. Called by the dispatcher ([`super`]) and by what deals with exits
//! ([`super::run`]).

use super::fixed::NUMBER_BITS;
use super::settled::SETTLED;
use super::{BtVcpu, SIDE_BITS, control, mode, side_of};
use crate::area::{VIEWS, View};
use crate::block::{Key, Kind, Site};
use crate::blocks::New;
use crate::cache::REGIONS;
use crate::dump::NewBlock;
use crate::targets::Targets;
use crate::translate::{Entry, FarLink, Source};
use core::ops::Range;
use mem::RamOffset;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use x86::exec::Exec;
use x86::mmu::{Access, Place, Rights};
use x86::{Bus, Signals};

/// So often do accesses that a block checks together not lie in one page before it is translated
/// anew ([`Source::copies`]), and so many blocks are remembered of which that was seen.
const STRADDLES: u8 = 2;
const STRADDLED: usize = 4096;

/// Bytes of the jump that a block ends with.
const JUMP: u32 = 5;

/// The jump in whose place a block can be put.
enum JumpPlace {
    /// It is the last one of its block.
    Last,
    /// It is a conditional one with the last one behind it: that one becomes the conditional, on
    /// the opposite condition.
    Conditional {
        /// Where its displacement is.
        patch: u32,
        /// The site of the last jump, and where that leads.
        other: u32,
        to: u32,
    },
}

impl BtVcpu {
    /// Drops the blocks of pages that were written since the count of such stores was `seen`.
    pub(super) fn drop_written(&mut self, seen: u64) {
        let memory = self.memory.clone();
        let mut dropped = false;
        let written: Vec<u32> = match memory.code_writes_since(seen) {
            Some(pages) => pages.map(|at| (at.0 >> 12) as u32).collect(),
            None => self.blocks.pages(),
        };
        for page in written {
            let now = memory.code_generation(RamOffset(u64::from(page) << 12));
            if self.blocks.is_stale(page, now) {
                for number in self.blocks.take_page(page) {
                    self.drop_block(number);
                }
                dropped = true;
            }
        }
        if dropped {
            self.flush_calls();
        }
    }

    /// Accesses that a block checks together cannot be used so. `at`: that check, in the code cache.
    pub(super) fn straddles(&mut self, at: u32) {
        let Some(number) = self.blocks.at_host(at) else {
            return;
        };
        let key = self.blocks[number].key();
        if self.straddled.len() == STRADDLED {
            self.straddled.clear();
        }
        let times = self.straddled.entry(key).or_default();
        if *times < STRADDLES {
            *times += 1;
            if *times == STRADDLES {
                self.drop_block(number);
                self.flush_calls();
            }
        }
    }

    /// What returns lead to belongs to the blocks that called, and may lead on to others.
    fn flush_calls(&mut self) {
        for area in self.spare.iter_mut().chain([&mut self.area]) {
            area.flush_calls();
        }
    }

    /// Drops a block, and those that go on to it without a jump that could lead elsewhere.
    pub(super) fn drop_block(&mut self, number: u32) {
        let mut next = Some(number);
        while let Some(number) = next {
            self.drop_one(number);
            next = self
                .blocks
                .runs_into(number)
                .filter(|n| self.blocks[*n].valid());
        }
    }

    fn drop_one(&mut self, number: u32) {
        let block = self.blocks[number];
        if !block.valid() {
            return;
        }
        self.stats.dropped += 1;
        for site in self.blocks.unlink(number) {
            // Back to the exit that asks to be linked, or the way by the branch table. The code of a
            // block that was dropped is no longer its own.
            if let Some((patch, to)) = self.blocks.way_back(&site) {
                self.lead(patch, to);
            }
        }
        // Branch tables may still lead here: what they find goes back to the dispatcher.
        self.cache
            .redirect(self.host_of(number), self.exits.look_up);
        self.blocks.remove(block.key(), number);
        self.targets.remove(block.key());
    }

    /// Host address of a block's code.
    pub(crate) fn host_of(&self, number: u32) -> u64 {
        self.host(self.blocks[number].host())
    }

    /// Host address of an offset in the code cache.
    fn host(&self, offset: u32) -> u64 {
        self.cache.range().0 + u64::from(offset)
    }

    /// Makes the jump whose displacement is at one offset in the code cache lead to another.
    pub(super) fn lead(&mut self, patch: u32, to: u32) {
        let host = self.host(patch);
        let distance = i64::from(to) - (i64::from(patch) + 4);
        self.cache.patch(host, distance as i32);
    }

    pub(super) fn empty_cache(&mut self) {
        self.stats.emptied += 1;
        self.list_blocks("the code cache was emptied", &(0..u32::MAX));
        self.cache.clear();
        self.filled = 1;
        self.blocks.clear();
        self.targets.clear();
        // Its keys hold the numbers of modes, which begin anew.
        self.straddled.clear();
        self.code_pages.clear();
        self.empty_branch_tables();
    }

    /// Makes room for a block that did not fit: in a region that is still empty, or in one that is
    /// emptied ([`crate::eviction`]).
    fn make_room(&mut self) {
        if !self.switches.regions {
            return self.empty_cache();
        }
        if self.filled < REGIONS {
            self.cache.begin(self.filled);
            // Nobody is there.
            self.blocks.begin(self.filled);
            self.filled += 1;
            return;
        }
        self.stats.emptied += 1;
        let region = self.eviction.choose(self.cache.filling());
        let numbers = self.blocks.numbers(region);
        let keys = numbers.clone().map(|number| self.blocks[number].key());
        self.eviction.dropped(keys);
        self.list_blocks("a region of the code cache was emptied", &numbers);
        for (patch, exit) in self.blocks.begin(region) {
            self.lead(patch, exit);
        }
        let (from, to) = self.cache.region(region);
        let start = self.cache.range().0;
        self.targets
            .remove_within(start + u64::from(from), start + u64::from(to));
        self.cache.begin(region);
        self.empty_branch_tables();
    }

    /// Lists the blocks with these numbers, if that is wanted: they are about to go.
    pub(super) fn list_blocks(&mut self, why: &str, which: &Range<u32>) {
        let Some(recorder) = &mut self.recorder else {
            return;
        };
        let (blocks, cache) = (&self.blocks, &self.cache);
        recorder.finish(self.options.dump.as_deref(), why, which, |number| {
            let block = blocks.get(number)?;
            let host = cache.range().0 + u64::from(block.host());
            let code = cache.code(host, block.size() as usize)?;
            Some((code, host, blocks.map(number)))
        });
    }

    /// The block at RIP; `None` if the interpreter must deal with what is there.
    pub(super) fn find(&mut self, bus: &mut dyn Bus) -> Option<u32> {
        self.stats.lookups += 1;
        let settled = self.settles() || self.is_wanted_settled();
        self.find_settled(bus, settled)
    }

    /// The same, settled code or not.
    fn find_settled(&mut self, bus: &mut dyn Bus, settled: bool) -> Option<u32> {
        // A link leads to it: the places in the tables are for those that branches look for.
        let linked = self.wanted.is_some() && self.switches.chain;
        let view = self.view();
        let mut x = Exec {
            cpu: self.interp.cpu(),
            bus,
        };
        let (linear, place) = x.fetch_place().ok()?;
        let Place::Ram(at) = place else { return None };
        let x_cpl = x.s.cpl;
        let global = x.tlb.is_global(Access::Execute, linear);
        if matches!(view, View::User | View::Window) {
            self.note_code(bus, linear, at);
        }
        let x = Exec {
            cpu: self.interp.cpu(),
            bus,
        };
        let mode = mode(&x, view)
            | match view {
                View::Window if settled => self.settled_mode(linear, at),
                View::Window => 0,
                _ => self.fixed_mode(bus, view, linear, at),
            };
        let fixed = self.frames.distance(mode).is_some();
        let key = Key { at, mode };
        let target = self.target(at, mode)?;
        let known = self.blocks.find(target);
        let number = match known.map(|n| (n, self.blocks.second(n))) {
            Some((number, None)) => number,
            Some((number, Some((second, _)))) if self.second_page(bus, linear)? == second => number,
            _ => self.translate(bus, key, view, linear)?,
        };
        // Emptying the cache has forgotten the numbers of the modes.
        let target = self.target(at, mode)?;
        let (second, host) = (self.blocks.second(number), self.host_of(number));
        // A fixed block does not look for its second page.
        let second = second.filter(|_| !fixed);
        if mode & SETTLED != 0
            && let Some((at, _)) = second
            && self.settled_mode(linear.wrapping_add(0x1000), at) == 0
        {
            // The page that it ends in is settled elsewhere, and its own code is not.
            return self.find_settled(bus, false);
        }
        let next_key = second.and_then(|(at, _)| self.target(RamOffset(at.0 & !0xfff), mode));
        self.note_size_of_code(linear);
        if next_key.is_some() {
            self.note_size_of_code(linear.wrapping_add(0x1000));
        }
        // Which blocks fit depends on the mode; when it changes, the tables of all views go.
        let area = &mut *self.area;
        if view.is_32bit() {
            area.prepare(true);
        }
        let control = control(mode);
        let level = u64::from(x_cpl) + 1;
        let known = area.levels[view as usize];
        if area.control != control || known != 0 && known != level {
            area.control = control;
            area.levels = [0; VIEWS];
            area.flush_branches();
        }
        area.levels[view as usize] = level;
        if let Some(key) = next_key {
            // The block looks for it.
            let next = linear.wrapping_add(0x1000);
            let next_global = self.interp.cpu().tlb.is_global(Access::Execute, next);
            area.note_code(view, next, next_global);
            let code = &mut area.tables[view as usize].code;
            if !code.knows_page(next, key) {
                code.enter_page(next, key, self.targets.number(key));
            }
            self.code_pages.insert(next >> 12);
        }
        if !self.switches.indirect {
            return Some(number);
        }
        area.note_code(view, linear, global);
        let code = &mut area.tables[view as usize].code;
        let page = target & !0xfff;
        if !code.knows_page(linear, page) {
            code.enter_page(linear, page, self.targets.number(page));
            self.code_pages.insert(linear >> 12);
        }
        if !linked {
            code.enter_branch(linear, host);
            self.targets.insert(target, host);
        }
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
            let fixed = self.frames.distance(key.mode).is_some();
            if fixed && second.0 != (key.at.0 | 0xfff) + 1 {
                // It is mapped elsewhere by now, without a flush yet.
                return None;
            }
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
        let mut looks = second.is_none() && self.switches.fixed_flags;
        for _ in 0..3 {
            // Emptying the cache has forgotten the numbers of the modes.
            let target = self.target(key.at, key.mode)?;
            let number = self.blocks.next();
            let next_key = match second {
                Some((at, _)) => self.target(RamOffset(at.0 & !0xfff), key.mode)?,
                None => 0,
            };
            let place = second
                .is_none()
                .then(|| self.place_of_jump(target))
                .flatten();
            let over = place.as_ref().map_or(0, |_| JUMP);
            let distance = self.frames.distance(key.mode);
            let frames = &self.frames;
            let others = |pages: u64| {
                let at = RamOffset(page.0.wrapping_add(pages));
                let linear = at.0.wrapping_add(distance?);
                (looks && frames.holds(linear, distance?)).then_some(at)
            };
            let read = |linear: u64| {
                let at = self.host_mmu.place_of(linear)?;
                (at.0 & 0xfff <= 0xff8).then(|| self.memory.load::<u64>(at))
            };
            let blocks = &self.blocks;
            let links_to = |rip: u16| blocks.expect(target & !0xfff | u64::from(rip));
            let s = &self.interp.cpu().s;
            let entry = (view == View::Window).then_some(Entry {
                gpr: s.gpr,
                page: s.rip & !0xfff,
                read: &read,
            });
            let fixed = self.linear_of(key.mode, page);
            let copy = self.copies.get(&self.memory, page, generation, key.mode);
            let source = Source {
                rip: key.at.0 & 0xfff,
                page: &copy.bytes,
                fixed,
                guards: distance.is_none(),
                others: &others,
                links_to: &links_to,
                live: &copy.live,
                next,
                next_key,
                view,
                first_site: self.blocks.next_site(),
                origin: self.cache.next() - u64::from(over),
                cold: self.cache.next_cold(),
                cache: self.cache.range().0,
                counter: self.recorder.as_mut().map(|r| r.counter(number)),
                copies: self.straddled.get(&target) == Some(&STRADDLES),
                side: side_of(key.mode),
                entry,
            };
            let x = Exec {
                cpu: self.interp.cpu(),
                bus: &mut *bus,
            };
            let output = self.translator.block(&x, &source)?;
            let (origin, cold, cache) = (source.origin, source.cold, source.cache);
            let first_site = source.first_site;
            let s = &self.interp.cpu().s;
            let (rip, ring) = (s.rip, s.cpl);
            let counts = self.recorder.is_some();
            let record = counts.then(|| NewBlock::of(&source, &output, rip, ring));
            let mut second = second;
            if let Some(known) = output.looked_at {
                let other = RamOffset(known.at.0 & !0xfff);
                second = Some((other, self.open_code(other)));
                // It may just have been written, before that was noticed.
                if !known.holds(&self.memory) {
                    looks = false;
                    continue;
                }
            }
            let full = self.blocks.is_full();
            if full || !(self.cache).append_over(over as usize, &output.code, &output.cold) {
                self.make_room();
                continue;
            }
            if let Some(map) = &self.options.perf_map {
                map.block(origin, output.code.len(), rip, ring);
            }
            if let (Some(recorder), Some(record)) = (&mut self.recorder, record) {
                recorder.add(number, record);
            }
            self.stats.blocks += 1;
            self.stats.fixed += u64::from(distance.is_some());
            self.stats.translated += output.count as u64;
            self.stats.host_bytes += (output.code.len() + output.cold.len()) as u64;
            let offset = |host| (host - cache) as u32;
            let (host, cold) = (offset(origin), offset(cold));
            if let Some(place) = place {
                self.adjoin(&place);
            }
            self.eviction.made(target);
            let number = self.blocks.add(&New {
                key: target,
                host,
                cold,
                size: output.code.len(),
                completes: output.completes,
                count: output.count,
                generation,
                second,
                looks: output.looked_at.is_some(),
                map: &output.map,
                sites: &output.sites,
            });
            self.link_new(number, first_site, &output.sites);
            self.translator.recycle(output);
            return Some(number);
        }
        None
    }

    /// The place of the jump that asks for the block of a key, if that block can be put there: the
    /// jump is the end of the last code, and both are of one page and mode.
    fn place_of_jump(&self, key: u64) -> Option<JumpPlace> {
        let site = self.wanted.filter(|_| self.switches.adjoin)?;
        let of = self.blocks.site(site)?;
        let Kind::Link { patch, .. } = of.kind else {
            return None;
        };
        let from = &self.blocks[self.blocks.last()?];
        let end = from.host() + from.size();
        let fits = from.valid()
            && (from.host()..end).contains(&patch)
            && self.host(end) == self.cache.next()
            // What is left has room for the jump that leads away from dropped blocks.
            && from.size() >= 2 * JUMP
            && from.key() & !0xfff | u64::from(of.rip) == key;
        match end.checked_sub(patch).filter(|_| fits)? {
            4 => Some(JumpPlace::Last),
            // A conditional jump before the last one.
            9 => {
                let code = self.cache.code(self.host(patch) - 2, 11)?;
                let &[0x0f, 0x80..=0x8f, _, _, _, _, 0xe9, ref to @ ..] = code else {
                    return None;
                };
                let other = site.checked_sub(1)?;
                let last = self.blocks.site(other)?.kind;
                matches!(last, Kind::Link { patch: p, .. } if p == patch + JUMP).then_some(())?;
                let to = i32::from_le_bytes(to.try_into().ok()?);
                Some(JumpPlace::Conditional {
                    patch,
                    other,
                    to: end.wrapping_add_signed(to),
                })
            }
            _ => None,
        }
    }

    /// A block has been put there.
    fn adjoin(&mut self, place: &JumpPlace) {
        if let JumpPlace::Conditional { patch, other, to } = *place {
            self.cache.turn(self.host(patch));
            self.lead(patch, to);
            self.blocks.move_jump(other, patch);
        }
        self.blocks.run_on(JUMP as usize);
        self.wanted = None;
        self.stats.adjoined += 1;
    }

    /// Links a new block's jumps to the blocks there are.
    fn link_new(&mut self, number: u32, first_site: u32, sites: &[u64]) {
        if !self.switches.chain || self.check.is_some() {
            return;
        }
        let page = self.blocks[number].key() & !0xfff;
        for (site, word) in (first_site..).zip(sites) {
            let of = Site::unpack(*word);
            let Kind::Link { patch, .. } = of.kind else {
                continue;
            };
            let key = page | u64::from(of.rip);
            if let Some(to) = self.blocks.find(key)
                && !self.blocks[to].crosses()
            {
                self.blocks.link(site, to);
                self.lead(patch, self.blocks[to].host());
                self.stats.links += 1;
            }
        }
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
            self.tell_window_writes();
        }
        for peer in others {
            while peer.inside.load(Ordering::SeqCst) && peer.seen.load(Ordering::SeqCst) < mark {
                peer.signals.raise(Signals::ENGINE);
                std::hint::spin_loop();
            }
        }
    }

    /// True if the jump at `patch` may lead to `to` for as long as its own block is good.
    pub(super) fn belong(&self, patch: u32, to: u32) -> bool {
        let to = &self.blocks[to];
        let from = self.blocks.at_host(patch).map(|from| &self.blocks[from]);
        from.filter(|from| from.valid())
            .is_some_and(|from| from.key() >> 12 == to.key() >> 12)
    }

    /// True if two modes, by their numbers, differ at most in the distance of fixed code. Which of
    /// the two a page's code has is in its guard.
    fn same_but_distance(&self, one: u16, other: u16) -> bool {
        (self.targets.mode_of(one) ^ self.targets.mode_of(other))
            & !(NUMBER_BITS | SIDE_BITS | SETTLED)
            == 0
    }

    /// True if they differ at most in the side of the window that code is on.
    fn same_but_side(&self, one: u16, other: u16) -> bool {
        (self.targets.mode_of(one) ^ self.targets.mode_of(other)) & !SIDE_BITS == 0
    }

    /// Links the jump of a site out of its page to the block at RIP: behind a guard, if they belong
    /// together for as long as that holds, or as inside a page, if both are fixed.
    pub(super) fn link_far(&mut self, bus: &mut dyn Bus, site: u32, view: View) -> Option<()> {
        let of = self.blocks.site(site)?;
        let Kind::Far { patch, poll, .. } = of.kind else {
            return None;
        };
        let rip = self.interp.cpu().s.rip;
        let page = self.page_of(site, &of);
        let mut pages = (rip & !0xfff).wrapping_sub(page);
        if view.is_32bit() {
            pages = pages as u32 as i32 as u64;
        }
        let pages = i32::try_from(pages as i64).ok()?;
        let emptied = self.stats.emptied;
        let number = self.find(bus)?;
        // The block that jumps may have gone with the whole cache.
        if self.stats.emptied != emptied {
            return None;
        }
        let to = self.blocks[number];
        let from = self.blocks.at_host(patch).map(|from| self.blocks[from])?;
        if !from.valid() || !self.same_but_distance(from.mode(), to.mode()) {
            return None;
        }
        let fixed = |mode| {
            let mode = self.targets.mode_of(mode);
            mode & SETTLED != 0 || self.frames.distance(mode).is_some()
        };
        // Settled code that crosses a page's end looks for the second one.
        let settled = self.targets.mode_of(to.mode()) & SETTLED != 0;
        let whole = !settled || !to.crosses();
        if fixed(from.mode()) && self.same_but_side(from.mode(), to.mode()) && whole {
            // As inside a page: what polls has done so.
            self.blocks.link(site, number);
            self.lead(patch, to.host());
            self.stats.links += 1;
            return Some(());
        }
        let fixed = fixed(from.mode()).then_some(page);
        let guard = self
            .targets
            .number(to.key() & !0xfff)
            .filter(|_| !to.crosses());
        let host = self.host_of(number);
        let link = FarLink {
            view,
            page: fixed,
            pages,
            offset: (rip & 0xfff) as i32,
            poll,
            to: guard.map(|guard| (guard as i32, host)),
        };
        let at = self.cache.next();
        let code = self.translator.far_link(at, &link);
        if !self.cache.append(&code, &[]) {
            return None;
        }
        if let Some(map) = &self.options.perf_map {
            map.name(at, code.len(), "moinho_bt_link");
        }
        if guard.is_some() {
            self.blocks.link(site, number);
            self.stats.far_links += 1;
        }
        self.blocks.add_far(site, guard.map(|_| number));
        self.lead(patch, (at - self.cache.range().0) as u32);
        Some(())
    }

    /// Blocks went: no branch may lead to them.
    pub(super) fn empty_branch_tables(&mut self) {
        for area in self.spare.iter_mut().chain([&mut self.area]) {
            area.flush_branches();
        }
    }
}
