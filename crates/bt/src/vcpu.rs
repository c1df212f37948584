//! The dispatcher: finds or makes the block at RIP, enters it, and deals with what it was left
//! for. The interpreter's processor holds the state between entries and does every instruction
//! that is not translated.

use crate::area::{
    Area, BARRED, BranchEntry, CODE_PAGE_ENTRIES, CodePage, TlbEntry, VIEWS, View, branch_slot,
    enter_page,
};
use crate::block::{Block, Key, Kind, Site};
use crate::cache::{self, CodeCache};
use crate::check::Check;
use crate::dump::{NewBlock, Recorder};
use crate::engine::{Options, Peer, Peers, native};
use crate::entry::{self, FxImage};
use crate::pages::CodeCopies;
use crate::signal;
use crate::switches::Switches;
use crate::targets::Targets;
use crate::translate::{NO_SITE, Source, Translator, exits, reason};
use iced_x86::Code;
use mem::{GuestMemory, RamOffset};
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use x86::cpuid::CpuModel;
use x86::exec::{Cpu, Exec, attention};
use x86::flags::Flags;
use x86::interp::InterpVcpu;
use x86::mmu::{Access, History, Place, Rights};
use x86::softfloat::F80;
use x86::state::{Activity, Attributes, Segment, Shadow, TableRegister, cr4, efer, rflags, seg};
use x86::{Bus, Counters, CpuState, Signals, StateError, Stop, TscRate, Vcpu};

/// The flags that live in the host's RFLAGS while translated code runs.
pub(crate) const HOST_FLAGS: u64 = rflags::ARITHMETIC | rflags::DF;

/// Multiply-and-rotate over whole words: keys are addresses, not chosen by an attacker to gain
/// anything but a slow guest of his own.
#[derive(Default)]
pub(crate) struct WordHasher(u64);

impl Hasher for WordHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for &b in bytes {
            self.write_u64(b.into());
        }
    }
    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

pub(crate) type Map<K, V> = HashMap<K, V, BuildHasherDefault<WordHasher>>;
type Set<K> = HashSet<K, BuildHasherDefault<WordHasher>>;

/// Address spaces whose software TLB is kept (PCIDs a guest uses at once: Linux has six).
const SPACES: usize = 6;
/// Single-page flushes remembered one by one, for the address spaces that were away.
const RECENT: usize = 64;

/// One processor that runs by translation.
pub struct BtVcpu {
    pub(crate) interp: InterpVcpu,
    pub(crate) memory: Arc<GuestMemory>,
    signals: Arc<Signals>,
    peers: Arc<Peers>,
    me: Arc<Peer>,
    /// Of the current address space.
    pub(crate) area: Box<Area>,
    /// Of those used before it, the latest last.
    spare: Vec<Box<Area>>,
    /// Where large pages are of which software TLBs hold parts: first and last byte, for either
    /// half of the address space.
    large: [Option<(u64, u64)>; 2],
    /// Flushes up to this number are not in `recent`.
    forgotten: u64,
    /// The last pages that INVLPG dropped, by their number.
    recent: [u64; RECENT],
    /// The pages translated from last.
    copies: CodeCopies,
    /// Linear pages of blocks that branch tables lead to.
    code_pages: Set<u64>,
    pub(crate) cache: CodeCache,
    /// Bytes of the shared exits at the start of the cache.
    fixed: usize,
    fault_exit: u64,
    look_up_exit: u64,
    pub(crate) translator: Translator,
    pub(crate) blocks: Vec<Block>,
    /// By their keys ([`crate::targets`]).
    pub(crate) by_key: Map<u64, u32>,
    targets: Targets,
    by_page: Map<u64, Vec<u32>>,
    pub(crate) sites: Vec<Site>,
    /// Where the checks of those are that are accesses, as offsets in the code cache.
    retries: Vec<u32>,
    /// Vector and x87 registers are the area's and the host's, not those of the state.
    vector_outside: bool,
    user_segments: UserSegments,
    image: Box<FxImage>,
    history: History,
    code_writes: u64,
    stats: Stats,
    /// How often each instruction left translated code: for the interpreter, for an access that
    /// only the interpreter can do.
    by_code: Map<u64, [u64; 2]>,
    pub(crate) check: Option<Box<Check>>,
    switches: Switches,
    options: Options,
    /// Counts and listings, if they are wanted.
    recorder: Option<Recorder>,
}

/// What translation has cost.
#[derive(Clone, Copy, Default, Debug)]
pub struct Stats {
    /// Blocks translated.
    pub blocks: u64,
    /// Guest instructions translated.
    pub translated: u64,
    /// Bytes of host code made.
    pub host_bytes: u64,
    /// TLB misses filled.
    pub fills: u64,
    /// Accesses that only the interpreter could do (devices, page crossings, code pages).
    pub slow_accesses: u64,
    /// Instructions left to the interpreter.
    pub interpreted: u64,
    /// Bursts of the interpreter in modes that are not translated.
    pub bursts: u64,
    /// Indirect branches that missed their cache, and pins that were up.
    pub branch_misses: u64,
    /// The software TLB emptied.
    pub flushes: u64,
    /// One page dropped from it.
    pub page_flushes: u64,
    /// Vector registers brought to the state for the interpreter.
    pub vector_moves: u64,
    /// Jumps linked.
    pub links: u64,
    /// Times the dispatcher looked a block up.
    pub lookups: u64,
    /// Host faults.
    pub faults: u64,
    /// Blocks dropped because their page was written.
    pub dropped: u64,
    /// Times the whole code cache was emptied.
    pub emptied: u64,
    /// Times translated code was left, by [`reason`].
    pub exits: [u64; reason::NAMES.len()],
}

impl BtVcpu {
    pub(crate) fn new(
        id: u32,
        model: &CpuModel,
        memory: Arc<GuestMemory>,
        signals: Arc<Signals>,
        peers: Arc<Peers>,
        options: &Options,
    ) -> Result<BtVcpu, String> {
        let mut cache = CodeCache::new(cache::SIZE, options.perf_map.is_some())?;
        let recorder = options.counts().then(Recorder::default);
        let ways = recorder.as_ref().map(Recorder::ways);
        let leave = entry::leave_address();
        let (exits, bytes) = exits(cache.next(), leave, ways, &options.switches);
        if let Some(map) = &options.perf_map {
            map.name(cache.next(), bytes.len(), "moinho_bt_exits_and_branches");
        }
        if !cache.append(&bytes, &[]) {
            return Err("code cache: too small".into());
        }
        let me = Arc::new(Peer {
            signals: signals.clone(),
            inside: AtomicBool::new(false),
            seen: AtomicU64::new(0),
        });
        peers
            .members
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(me.clone());
        let pins = std::ptr::from_ref(signals.word()) as u64;
        let targets = Targets::new();
        Ok(BtVcpu {
            interp: InterpVcpu::new(id, model, memory.clone(), signals.clone()),
            code_writes: memory.code_writes(),
            memory,
            signals,
            peers,
            me,
            area: Area::new(pins, targets.address()),
            spare: Vec::new(),
            large: [None; 2],
            forgotten: 0,
            recent: [0; RECENT],
            copies: CodeCopies::default(),
            code_pages: Set::default(),
            fixed: cache.used(),
            fault_exit: exits.fault,
            look_up_exit: exits.look_up,
            cache,
            translator: Translator::new(exits, Box::new(native), options.switches),
            // Room for all that the cache can hold: grown step by step, each of these would leave
            // its former places behind. The host gives what is used.
            blocks: Vec::with_capacity(cache::SIZE / 96),
            by_key: Map::default(),
            targets,
            by_page: Map::default(),
            sites: Vec::with_capacity(cache::SIZE / 24),
            retries: Vec::with_capacity(cache::SIZE / 24),
            vector_outside: false,
            user_segments: UserSegments::default(),
            image: Box::new(FxImage([0; 64])),
            history: History::default(),
            stats: Stats::default(),
            by_code: Map::default(),
            check: None,
            switches: options.switches,
            options: options.clone(),
            recorder,
        })
    }

    /// What translation has cost so far.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// How RDTSC is translated: by the host's counter, if the machine's clock follows it.
    fn set_clock(&mut self, rate: Option<TscRate>) {
        if self.translator.tsc != rate.is_some() {
            self.translator.tsc = rate.is_some();
            self.empty_cache();
        }
        if let Some(TscRate { base, factor }) = rate {
            (self.area.tsc_base, self.area.tsc_factor) = (base, factor);
        }
    }

    /// Vector registers go to the state, for the interpreter or a caller.
    pub(crate) fn bring_vector_in(&mut self) {
        if !std::mem::replace(&mut self.vector_outside, false) {
            return;
        }
        self.stats.vector_moves += 1;
        entry::save_x87(&mut self.image);
        let s = &mut self.interp.cpu().s;
        s.vector = self.area.vector;
        s.mxcsr = self.area.mxcsr[0];
        let image = &self.image.0;
        s.x87.control = image[0] as u16;
        s.x87.status = (image[0] >> 16) as u16;
        s.x87.valid = (image[0] >> 32) as u8;
        // The pointers are those of translated code: they say nothing of the guest and must not
        // leak. A departure: FIP, FDP and FOP read as zero after translated code.
        (s.x87.opcode, s.x87.ip, s.x87.cs, s.x87.dp, s.x87.ds) = (0, 0, 0, 0, 0);
        let top = usize::from(s.x87.status >> 11 & 7);
        for n in 0..8 {
            s.x87.regs[(top + n) & 7] = F80 {
                significand: image[4 + 2 * n],
                sign_exponent: image[5 + 2 * n] as u16,
            };
        }
    }

    /// Vector registers go to the area and the host, for translated code.
    fn send_vector_out(&mut self) {
        if std::mem::replace(&mut self.vector_outside, true) {
            return;
        }
        let s = &self.interp.cpu().s;
        self.area.vector = s.vector;
        self.area.mxcsr[0] = s.mxcsr;
        let top = usize::from(s.x87.status >> 11 & 7);
        let image = &mut self.image.0;
        image[0] =
            u64::from(s.x87.control) | u64::from(s.x87.status) << 16 | u64::from(s.x87.valid) << 32;
        image[1] = 0;
        image[2] = 0;
        for n in 0..8 {
            let r = s.x87.regs[(top + n) & 7];
            image[4 + 2 * n] = r.significand;
            image[5 + 2 * n] = r.sign_exponent.into();
        }
        entry::load_x87(&mut self.image);
    }

    /// One step of the interpreter, with whatever events are due before it.
    fn step(&mut self, bus: &mut dyn Bus, vector: bool) -> Option<Stop> {
        if vector {
            self.bring_vector_in();
        }
        self.stats.interpreted += 1;
        // Without the vector registers no event may be delivered: its handler's first instruction
        // would run in this step.
        match self.interpret(bus, 1, !vector) {
            Stop::Budget => None,
            other => Some(other),
        }
    }

    /// One step at a site of translated code.
    fn step_at(&mut self, bus: &mut dyn Bus, site: &Site) -> Option<Stop> {
        if site.shadow {
            self.hold_interrupts();
        }
        if site.vector && only_saves(site.code) {
            // The area and the host keep what they have; nothing else may run in this step.
            self.bring_vector_in();
            self.stats.interpreted += 1;
            let stop = self.interpret(bus, 1, true);
            self.vector_outside = stop == Stop::Budget;
            return (stop != Stop::Budget).then_some(stop);
        }
        self.step(bus, site.vector)
    }

    /// The next instruction stands behind STI.
    fn hold_interrupts(&mut self) {
        let cpu = self.interp.cpu();
        cpu.s.shadow = Shadow::Sti;
        cpu.attention |= attention::SHADOW;
    }

    /// Runs the interpreter, and tells everybody what it has done to code.
    fn interpret(&mut self, bus: &mut dyn Bus, budget: u64, quiet: bool) -> Stop {
        if let Some(stop) = self.settle() {
            return stop;
        }
        let writes = self.memory.code_writes();
        let marks = self.interp.code_marks();
        let stop = if quiet {
            self.interp.step(bus)
        } else {
            self.interp.run(bus, budget)
        };
        if self.memory.code_writes() != writes {
            // A processor in a loop of translated code looks only when its pins are up.
            for peer in self.others() {
                peer.signals.raise(Signals::ENGINE);
            }
        }
        self.tell_marks(marks);
        stop
    }

    /// The interpreter has decoded code, and had marked so many pages before.
    pub(crate) fn tell_marks(&mut self, marks: u64) {
        if self.interp.code_marks() != marks {
            let peers = self.peers.clone();
            let _marking = peers.marking.lock().unwrap_or_else(PoisonError::into_inner);
            self.forbid_writes();
            if !self.others().is_empty() {
                // It may have decoded what another processor was just writing over.
                self.interp.forget_code();
            }
        }
    }

    /// The machine's other processors.
    fn others(&self) -> Vec<Arc<Peer>> {
        let members = self.peers.members.lock();
        let members = members.unwrap_or_else(PoisonError::into_inner);
        let others = members.iter().filter(|p| !Arc::ptr_eq(p, &self.me));
        others.cloned().collect()
    }

    fn dispatch(&mut self, bus: &mut dyn Bus) -> Stop {
        loop {
            // What only the interpreter does: events, single steps, shadows, modes.
            let cpu = self.interp.cpu();
            let why = cpu.attention
                & (attention::STEP | attention::SHADOW | attention::DEBUG | attention::ACTIVITY);
            let due = self.signals.get() & self.pin_mask();
            if why != 0 || due != 0 {
                if due & Signals::ENGINE != 0 {
                    self.signals.lower(Signals::ENGINE);
                    if why == 0 && due == Signals::ENGINE {
                        continue;
                    }
                }
                // Events alone need no vector registers. What is still due afterwards (a request
                // that was withdrawn, say) must not keep the program from going on.
                if why == 0 {
                    match self.interp.run(bus, 0) {
                        Stop::Budget => {}
                        other => return other,
                    }
                    if self.signals.get() & self.pin_mask() == 0 {
                        continue;
                    }
                }
                if let Some(stop) = self.step(bus, true) {
                    return stop;
                }
                continue;
            }
            let cpu = self.interp.cpu();
            cpu.attention = 0;
            let translatable = cpu.is_flat() && (cpu.is_64bit() || is_flat_32bit(cpu));
            if !translatable {
                self.bring_vector_in();
                self.stats.bursts += 1;
                match self.interpret(bus, 2000, false) {
                    Stop::Budget => continue,
                    other => return other,
                }
            }
            self.keep_up();
            let promised = self.promised();
            let found = self.find(bus);
            let Some(block) = found else {
                if let Some(stop) = self.step(bus, true) {
                    return stop;
                }
                continue;
            };
            if let Some(stop) = self.kept(promised, block) {
                return stop;
            }
            let host = self.blocks[block as usize].host;
            self.rehearse(block);
            if let Some(stop) = self.execute(bus, host).or_else(|| self.settle()) {
                if stop == Stop::Budget {
                    continue;
                }
                return stop;
            }
        }
    }

    /// The pins that matter now.
    fn pin_mask(&mut self) -> u32 {
        let s = &self.interp.cpu().s;
        let mut mask = Signals::RETURN | Signals::INIT | Signals::ENGINE;
        if s.activity == Activity::WaitForSipi {
            mask |= Signals::SIPI;
        }
        if !s.nmi_blocked {
            mask |= Signals::NMI;
        }
        if s.rflags & rflags::IF != 0 && s.shadow == Shadow::None {
            mask |= Signals::INTR;
        }
        mask
    }

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
    fn enter_space(&mut self, history: &History) {
        let space = history.space;
        // With one other the tables are exchanged, as the guest goes to and fro, but never kept.
        let spaces = if self.switches.spaces { SPACES } else { 2 };
        let found = self
            .spare
            .iter()
            .position(|a| self.switches.spaces && a.space == space);
        let mut next = match found {
            Some(n) => self.spare.remove(n),
            None if self.spare.len() + 1 < spaces => Area::new(self.area.pins, self.area.targets),
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
        next.vector = self.area.vector;
        next.mxcsr = self.area.mxcsr;
        signal::set_gs(std::ptr::from_ref(&*next) as u64);
        self.spare.push(std::mem::replace(&mut self.area, next));
    }

    /// INVLPG: drops the pages that the current tables have not seen dropped yet, or everything
    /// where that is not known to be enough.
    fn drop_pages(&mut self, history: &History) {
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
    fn empty_write_tables(&mut self) {
        for area in self.spare.iter_mut().chain([&mut self.area]) {
            area.flush_writes();
        }
    }

    /// Blocks went: no branch may lead to them.
    fn empty_branch_tables(&mut self) {
        for area in self.spare.iter_mut().chain([&mut self.area]) {
            area.flush_branches();
        }
    }

    /// Drops the blocks of pages that were written since the count of such stores was `seen`.
    fn drop_written(&mut self, seen: u64) {
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

    fn drop_block(&mut self, number: u32) {
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

    fn empty_cache(&mut self) {
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
    fn list_blocks(&mut self, why: &str) {
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
    fn find(&mut self, bus: &mut dyn Bus) -> Option<u32> {
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
    fn target(&mut self, at: RamOffset, mode: u64) -> Option<u64> {
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
    fn second_page(&mut self, bus: &mut dyn Bus, linear: u64) -> Option<RamOffset> {
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
    fn open_code(&mut self, page: RamOffset) -> u32 {
        let peers = self.peers.clone();
        let _marking = peers.marking.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = !self.memory.is_marked(page);
        let generation = self.memory.mark_code(page);
        if fresh && self.peers.may_write(page) {
            self.forbid_writes();
        }
        generation
    }

    fn translate(&mut self, bus: &mut dyn Bus, key: Key, view: View, linear: u64) -> Option<u32> {
        self.translate_at(bus, key, view, None).or_else(|| {
            // The instruction crosses the page's end.
            let second = self.second_page(bus, linear)?;
            self.translate_at(bus, key, view, Some(second))
        })
    }

    fn translate_at(
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
    fn forbid_writes(&mut self) {
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

    /// Runs translated code from a host address until it needs something.
    fn execute(&mut self, bus: &mut dyn Bus, mut host: u64) -> Option<Stop> {
        self.send_vector_out();
        // Every block reached without a branch by the table lies in this page.
        let page = self.interp.cpu().s.rip & !0xfff;
        self.area.page = page;
        let mut shadow = false;
        loop {
            self.me.inside.store(true, Ordering::SeqCst);
            if self.peers.marks.load(Ordering::SeqCst) != self.me.seen.load(Ordering::Relaxed) {
                let dropped = self.stats.dropped;
                self.keep_up();
                if self.stats.dropped != dropped {
                    // The block at `host` may be one of them, and its beginning no longer its own.
                    self.me.inside.store(false, Ordering::SeqCst);
                    if shadow {
                        self.hold_interrupts();
                    }
                    return None;
                }
            }
            self.enter(host);
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
                        let site = self.sites[area.site as usize];
                        let Kind::Branch { moved } = site.kind else {
                            return Some(broken("a branch exit without a branch"));
                        };
                        cpu.s.gpr[4] = cpu.s.gpr[4].wrapping_sub(moved as u64);
                        cpu.s.rip = area.page.wrapping_add(site.rip.into());
                        return self.step(bus, site.vector);
                    }
                    cpu.s.rip = area.rip;
                    return None;
                }
                reason::INTERPRET => {
                    let site = self.sites[area.site as usize];
                    cpu.s.rip = area.page.wrapping_add(site.rip.into());
                    self.by_code.entry(site.code as u64).or_default()[0] += 1;
                    return self.step_at(bus, &site);
                }
                reason::LINK => {
                    let number = area.site as u32;
                    let Kind::Link { target, patch, .. } = self.sites[number as usize].kind else {
                        return Some(broken("a link exit without a link"));
                    };
                    cpu.s.rip = area.page.wrapping_add(target.into());
                    if self.check.is_some() {
                        return None;
                    }
                    let patch = self.cache.range().0 + u64::from(patch);
                    let emptied = self.stats.emptied;
                    let block = self.find(bus)?;
                    // The block that jumps may have gone with the whole cache. And the page may be
                    // mapped elsewhere by now, without a flush yet: then the two do not belong
                    // together for good.
                    let fixed = self.blocks[block as usize].second.is_none();
                    let fixed = fixed && self.switches.chain;
                    if self.stats.emptied == emptied && fixed && self.belong(patch, block) {
                        let to = &mut self.blocks[block as usize];
                        let before = std::mem::replace(&mut to.incoming, number);
                        if let Kind::Link { next, .. } = &mut self.sites[number as usize].kind {
                            *next = before;
                        }
                        self.cache
                            .patch(patch, to.host.wrapping_sub(patch + 4) as i32);
                        self.stats.links += 1;
                    }
                    shadow = false;
                    host = self.blocks[block as usize].host;
                }
                reason::MISS => {
                    let number = area.site as usize;
                    let site = self.sites[number];
                    let linear = area.detail;
                    let Kind::Access { access, size } = site.kind else {
                        return Some(broken("a miss exit without an access"));
                    };
                    cpu.s.rip = area.page.wrapping_add(site.rip.into());
                    if !self.fill(bus, linear, access, size) {
                        self.stats.slow_accesses += 1;
                        self.by_code.entry(site.code as u64).or_default()[1] += 1;
                        return self.step_at(bus, &site);
                    }
                    shadow = site.shadow;
                    host = self.cache.range().0 + u64::from(self.retries[number]);
                }
                reason::FAULT => {
                    let at = area.detail;
                    self.stats.faults += 1;
                    let Some(block) = self.block_at(at) else {
                        return Some(broken("a host fault outside any block"));
                    };
                    let rip = self.area.page.wrapping_add(block.rip_of(at));
                    self.interp.cpu().s.rip = rip;
                    // The fault comes before any event: the instruction may stand behind STI.
                    self.bring_vector_in();
                    return match self.interpret(bus, 1, true) {
                        Stop::Budget => None,
                        other => Some(other),
                    };
                }
                other => return Some(broken(&format!("exit reason {other}"))),
            }
        }
    }

    /// Enters translated code with the state, and takes the state over when it is left.
    fn enter(&mut self, host: u64) {
        let mask = self.pin_mask();
        let cpu = self.interp.cpu();
        let area = &mut *self.area;
        let s = &cpu.s;
        area.gpr = s.gpr;
        area.flags = cpu.rflags() & HOST_FLAGS | rflags::FIXED | rflags::IF;
        area.high = s.rflags & !(HOST_FLAGS | rflags::RF) | rflags::FIXED;
        area.high_off = area.high & !rflags::IF;
        area.high_on = area.high | rflags::IF;
        area.fs_base = s.seg[usize::from(seg::FS)].base;
        area.gs_base = s.seg[usize::from(seg::GS)].base;
        area.kernel_gs_base = s.msr.kernel_gs_base;
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
        area.iret_bad = (!kept || s.nmi_blocked).into();
        area.retries = self.retries.as_ptr() as u64;
        area.cache = self.cache.range().0;
        area.target = host;
        // SAFETY: `run` or `enter_space` set this thread's gs base to the area, `run` its
        // signals; `host` is in this processor's cache, whose code fits every area.
        unsafe { entry::enter(area) };
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

    /// The block whose code holds a host address: blocks lie in the order of their making.
    pub(crate) fn block_at(&self, host: u64) -> Option<&Block> {
        let n = self.blocks.partition_point(|b| b.host <= host);
        let block = self.blocks.get(n.checked_sub(1)?)?;
        (host - block.host < u64::from(block.size)).then_some(block)
    }

    /// True if the jump at `patch` may lead to `to` for as long as its own block is good.
    fn belong(&self, patch: u64, to: u32) -> bool {
        let to = &self.blocks[to as usize].key;
        self.block_at(patch)
            .filter(|from| from.valid)
            .is_some_and(|from| from.key.at.0 >> 12 == to.at.0 >> 12 && from.key.mode == to.mode)
    }

    /// Fills the software TLB for an access; false if it is not plain RAM inside one page.
    fn fill(&mut self, bus: &mut dyn Bus, linear: u64, access: Access, size: u8) -> bool {
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
        let host = self.memory.base() as u64 + (at.0 & !0xfff);
        let entry = TlbEntry {
            negated_page: (linear & !0xfff).wrapping_neg(),
            host,
        };
        let tables = &mut self.area.tables[view as usize];
        match access {
            Access::Write => enter_page(&mut tables.write, entry),
            _ => enter_page(&mut tables.read, entry),
        }
        self.area.data_used |= 1 << view as u32;
        self.area.note(view, linear, found.global);
        if found.size > 0x1000 {
            let from = linear & !(found.size - 1);
            let to = from + (found.size - 1);
            let half = &mut self.large[(linear >> 63) as usize];
            *half = Some(half.map_or((from, to), |(a, b)| (a.min(from), b.max(to))));
        }
        self.stats.fills += 1;
        true
    }
}

/// What STAR's user selectors were when ring 3 was last seen: translated IRETs to them take the
/// descriptors to be still the flat ones. A departure: a guest that edits its user descriptors
/// without changing GDTR or STAR sees the change at the next IRET the interpreter does.
#[derive(Default)]
struct UserSegments {
    seen: Option<(TableRegister, u64)>,
}

impl UserSegments {
    /// Looks at the state: true if IRET to STAR's user segments is known to load flat ones.
    fn is_usual(&mut self, s: &CpuState) -> bool {
        let now = (s.gdtr, s.msr.star);
        if s.cpl == 3 && self.seen != Some(now) {
            let (cs, ss) = (&s.seg[usize::from(seg::CS)], &s.seg[usize::from(seg::SS)]);
            let selectors = (cs.selector.into(), ss.selector.into());
            let flat = cs.attributes == Attributes(0xafb)
                && ss.attributes == Attributes(0xcf3)
                && (cs.limit, ss.limit, cs.base, ss.base) == (!0, !0, 0, 0);
            if flat && selectors == user_selectors(s.msr.star) {
                self.seen = Some(now);
            }
        }
        self.seen == Some(now)
    }
}

/// The selectors of CS and SS that SYSRET loads for 64-bit code.
fn user_selectors(star: u64) -> (u64, u64) {
    let base = star >> 48;
    ((base + 16) | 3, (base + 8) | 3)
}

fn broken(what: &str) -> Stop {
    Stop::Broken(format!("translator: {what}"))
}

/// Protected or compatibility mode with a 32-bit stack; the segments are known to be flat.
fn is_flat_32bit(cpu: &Cpu) -> bool {
    cpu.bits() == 32 && cpu.stack_mask() == 0xffff_ffff && !cpu.is_real_or_v86()
}

/// What keeps 32-bit code from a segment that is not read and written freely at any offset.
fn bar(segment: &Segment) -> u64 {
    let a = segment.attributes;
    let free = a.present() && a.is_readable() && a.is_writable() && !a.is_expand_down();
    if free && segment.limit == !0 {
        0
    } else {
        BARRED
    }
}

/// True for instructions that read the vector and x87 registers and change none.
fn only_saves(code: Code) -> bool {
    matches!(
        code,
        Code::Fxsave_m512byte
            | Code::Fxsave64_m512byte
            | Code::Xsave_mem
            | Code::Xsave64_mem
            | Code::Xsaveopt_mem
            | Code::Xsaveopt64_mem
            | Code::Xsavec_mem
            | Code::Xsavec64_mem
            | Code::Xsaves_mem
            | Code::Xsaves64_mem
    )
}

/// Where the mode has the view.
const VIEW_BITS: u64 = 0xff << 32;

/// What code is translated for, besides its place: [`Exec::mode_key`], the view, and further
/// bits of CR4.
fn mode(x: &Exec<'_>, view: View) -> u64 {
    let bit = |mask| u64::from(x.s.cr4 & mask != 0);
    u64::from(x.mode_key())
        | (view as u64) << 32
        | bit(cr4::FSGSBASE) << 40
        | bit(cr4::TSD) << 41
        | bit(cr4::SMAP) << 42
}

/// With whose rights the program accesses data now, and the size of its code.
pub(crate) fn view(cpu: &Cpu) -> View {
    let s = &cpu.s;
    let any = if cpu.is_64bit() {
        View::User
    } else {
        View::User32
    };
    if s.cpl == 3 {
        any
    } else {
        any.with_access(s.cr4 & cr4::SMAP != 0 && s.rflags & rflags::AC != 0)
    }
}

/// `part` of `whole` in thousandths.
fn permille(part: u64, whole: u64) -> u64 {
    u64::try_from(u128::from(part) * 1000 / u128::from(whole.max(1))).unwrap_or(u64::MAX)
}

impl BtVcpu {
    /// What only code that counts can tell: how blocks were reached, and how often the software
    /// TLB knew the page of an access.
    fn report_counts(&self, all: &mut Vec<(String, u64)>) {
        let Some(recorder) = &self.recorder else {
            return;
        };
        let [runs, accesses] = recorder.totals();
        let [table, search] = recorder.branches();
        let Stats {
            lookups,
            fills,
            slow_accesses,
            exits,
            ..
        } = self.stats;
        let unknown = exits[reason::BRANCH as usize];
        let (by_table, by_search) = (table.saturating_sub(search), search.saturating_sub(unknown));
        let linked = runs.saturating_sub(by_table + by_search + lookups);
        let hits = accesses.saturating_sub(fills + slow_accesses);
        for (name, n) in [
            ("blocks_run", runs),
            ("reached_by_link", linked),
            ("reached_by_branch_table", by_table),
            ("reached_by_table_of_blocks", by_search),
            ("reached_by_dispatcher", lookups),
            ("chain_rate_permille", permille(linked, runs)),
            ("accesses", accesses),
            ("tlb_hit_permille", permille(hits, accesses)),
        ] {
            all.push((name.into(), n));
        }
    }
}

impl Drop for BtVcpu {
    fn drop(&mut self) {
        self.list_blocks("the processor's end");
    }
}

impl Vcpu for BtVcpu {
    fn run(&mut self, bus: &mut dyn Bus, _budget: u64) -> Stop {
        signal::prepare_thread(signal::Code {
            range: self.cache.range(),
            resume: self.fault_exit,
        });
        signal::set_gs(std::ptr::from_ref(&*self.area) as u64);
        // What is checked must come out the same twice: there RDTSC is the interpreter's.
        let rate = bus.tsc_rate().filter(|_| self.check.is_none());
        self.set_clock(rate);
        let stop = self.dispatch(bus);
        // Whoever runs next on this thread must not find the guest's registers in the host's.
        self.bring_vector_in();
        stop
    }

    fn state(&self) -> CpuState {
        self.interp.state()
    }

    fn set_state(&mut self, state: &CpuState) -> Result<(), StateError> {
        self.interp.set_state(state)
    }

    fn counters(&self) -> Counters {
        self.interp.counters()
    }

    fn report(&self) -> Vec<(String, u64)> {
        let Stats {
            blocks,
            translated,
            host_bytes,
            fills,
            slow_accesses,
            interpreted,
            bursts,
            branch_misses,
            flushes,
            page_flushes,
            vector_moves,
            links,
            lookups,
            faults,
            dropped,
            emptied,
            exits,
        } = self.stats;
        let mut all: Vec<(String, u64)> = [
            ("blocks", blocks),
            ("translated", translated),
            ("host_bytes", host_bytes),
            ("code_cache_bytes", self.cache.used() as u64),
            ("fills", fills),
            ("slow_accesses", slow_accesses),
            ("interpreted", interpreted),
            ("bursts", bursts),
            ("branch_misses", branch_misses),
            ("flushes", flushes),
            ("page_flushes", page_flushes),
            ("vector_moves", vector_moves),
            ("links", links),
            ("lookups", lookups),
            ("faults", faults),
            ("dropped", dropped),
            ("emptied", emptied),
        ]
        .map(|(name, n)| (name.into(), n))
        .into();
        if let Some(check) = &self.check {
            all.extend(check.counts());
        }
        all.push(("code_cache_size".into(), cache::SIZE as u64));
        for (name, n) in reason::NAMES.iter().zip(exits) {
            all.push((format!("exits_{name}"), n));
        }
        self.report_counts(&mut all);
        let first = all.len();
        for (code, counts) in &self.by_code {
            let code = Code::try_from(*code as usize).unwrap_or_default();
            for (what, n) in ["interpreted", "slow"].iter().zip(counts) {
                if *n > 0 {
                    all.push((format!("{what} {code:?}"), *n));
                }
            }
        }
        all[first..].sort_by_key(|(_, n)| std::cmp::Reverse(*n));
        all
    }

    fn trace_instructions(&mut self, on: bool) -> bool {
        !on
    }
}
