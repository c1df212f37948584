//! The dispatcher: finds or makes the block at RIP, enters it, and deals with what it was left
//! for. The interpreter's processor holds the state between entries and does every instruction
//! that is not translated.

mod blocks;
mod fixed;
mod host_mmu;
mod programs;
mod run;
mod settled;
mod spaces;

use crate::area::{BARRED, View};
use crate::areas::OwnedArea;
use crate::block::Site;
use crate::blocks::Blocks;
use crate::cache::{self, CodeCache};
use crate::check::Check;
use crate::dump::Recorder;
use crate::engine::{Options, Peer, Peers, has_xsavec, native};
use crate::entry::{self, Image};
use crate::eviction::Eviction;
use crate::pages::CodeCopies;
use crate::signal;
use crate::switches::Switches;
use crate::targets::Targets;
use crate::translate::{Exits, Side, Translator, exits, reason};
use crate::window::BIT;
use fixed::{Frames, NUMBER_BITS};
use host_mmu::HostMmu;
pub(crate) use host_mmu::LONG;
use iced_x86::Code;
use mem::GuestMemory;
pub(crate) use programs::Program;
use settled::{SETTLED, Settled};
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, PoisonError};
use x86::cpuid::CpuModel;
use x86::exec::{Cpu, Exec, attention};
use x86::interp::InterpVcpu;
use x86::mmu::History;
use x86::softfloat::F80;
use x86::state::{Activity, Attributes, Segment, Shadow, TableRegister, X87, cr4, rflags, seg};
use x86::{Bus, Counters, CpuState, Signals, StateError, Stop, TscRate, Vcpu};

/// The flags that live in the host's RFLAGS while translated code runs.
pub(crate) const HOST_FLAGS: u64 = rflags::ARITHMETIC | rflags::DF;

/// Multiply-and-rotate over whole words: keys are addresses, not chosen by an attacker to gain
/// anything but a slow guest of his own.
#[derive(Default)]
pub(crate) struct WordHasher(u64);

impl Hasher for WordHasher {
    fn finish(&self) -> u64 {
        // The table takes the low bits for the place: below the zeros of a page's address they
        // would be the same for all.
        self.0.rotate_left(26)
    }
    fn write(&mut self, bytes: &[u8]) {
        for &b in bytes {
            self.write_u64(b.into());
        }
    }
    fn write_u32(&mut self, word: u32) {
        self.write_u64(word.into());
    }
    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

pub(crate) type Map<K, V> = HashMap<K, V, BuildHasherDefault<WordHasher>>;
type Set<K> = HashSet<K, BuildHasherDefault<WordHasher>>;

/// What only the interpreter deals with: single steps, shadows, breakpoints, a processor that does
/// not run.
const LASTING: u32 = attention::STEP | attention::SHADOW | attention::DEBUG | attention::ACTIVITY;
/// Jumps between pages that are not linked pass so often, taken together, until one is: a power of
/// two. Making a link costs as much as many passes, and much code runs once.
const WARM: u64 = 16;

/// Address spaces whose software TLB is kept (PCIDs a guest uses at once: Linux has six).
const SPACES: usize = 6;
/// Single-page flushes remembered one by one, for the address spaces that were away.
const RECENT: usize = 64;

/// Large pages are looked for in regions as an entry of the uppermost table maps, so that those of
/// a kernel's map of all memory say nothing of what it maps elsewhere.
fn large_region(linear: u64) -> u64 {
    linear >> 39
}

/// One processor that runs by translation.
pub struct BtVcpu {
    pub(crate) interp: InterpVcpu,
    pub(crate) memory: Arc<GuestMemory>,
    signals: Arc<Signals>,
    peers: Arc<Peers>,
    me: Arc<Peer>,
    /// Of the current address space.
    pub(crate) area: OwnedArea,
    /// Those of others, the one used last at the end; at the beginning, perhaps, some that nobody
    /// has used.
    spare: Vec<OwnedArea>,
    /// Where large pages are of which software TLBs and branch tables hold parts: first and last byte, by
    /// [`large_region`].
    large: Map<u64, (u64, u64)>,
    /// Flushes up to this number are not in `recent`.
    forgotten: u64,
    /// Single-page flushes that the shared tables have seen.
    shared_seen: u64,
    /// The last pages that INVLPG dropped, by their number.
    recent: [u64; RECENT],
    /// The pages translated from last.
    copies: CodeCopies,
    /// Linear pages of blocks that branch tables lead to.
    code_pages: Set<u64>,
    pub(crate) cache: CodeCache,
    exits: Exits,
    pub(crate) translator: Translator,
    pub(crate) blocks: Blocks,
    frames: Frames,
    host_mmu: HostMmu,
    settled: Settled,
    /// The FS base of the thread.
    host_fs: u64,
    /// Regions of the code cache that hold something.
    filled: usize,
    /// Chooses the region that goes.
    eviction: Eviction,
    pub(crate) targets: Targets,
    /// Vector and x87 registers are the area's and the host's, not those of the state.
    vector_outside: bool,
    user_segments: UserSegments,
    image: Box<Image>,
    history: History,
    code_writes: u64,
    stats: Stats,
    /// How often each instruction left translated code: for the interpreter, for an access that
    /// only the interpreter can do.
    by_code: Map<u64, [u64; 2]>,
    /// How often the pushes and pops of a block did not lie in one page, by its key.
    straddled: Map<u64, u8>,
    /// The site of the jump for which a block is looked for.
    wanted: Option<u32>,
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
    /// Jumps between pages linked.
    pub far_links: u64,
    /// Blocks put in the place of a jump.
    pub adjoined: u64,
    /// Times the dispatcher looked a block up.
    pub lookups: u64,
    /// Host faults, without the next.
    pub faults: u64,
    /// Times a look at the pins faulted because they had been raised.
    pub rung: u64,
    /// Blocks dropped because their page was written.
    pub dropped: u64,
    /// Times the code cache, or one of its regions, was emptied.
    pub emptied: u64,
    /// Blocks translated for their linear address.
    pub fixed: u64,
    /// Times some of these went because what they were made from was mapped otherwise.
    pub remapped: u64,
    /// Times an address space was let into the window.
    pub windows: u64,
    /// Pages mapped there, with what is around them, because the host faulted.
    pub window_fills: u64,
    /// Pages there that were walked again after flushes.
    pub window_walks: u64,
    /// Accesses outside it, or past what it may hold, that the interpreter did.
    pub window_missed: u64,
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
        let size = options.code_cache.unwrap_or(cache::SIZE);
        let mut cache = CodeCache::new(size, options.perf_map.is_some())?;
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
        cache.keep();
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
        let pins = [
            std::ptr::from_ref(signals.word()) as u64,
            std::ptr::from_ref(signals.bell()) as u64,
        ];
        let mut switches = options.switches;
        switches.save_state &= has_xsavec();
        let targets = Targets::new();
        let blocks = Blocks::new(cache.region_size());
        let mut area = OwnedArea::first(pins, targets.address(), exits.no_stub)?;
        area.pass_mask = if options.switches.warm { WARM - 1 } else { 0 };
        // With one other the tables are exchanged, as the guest goes to and fro, but never kept.
        let spaces = if switches.spaces { SPACES } else { 2 };
        let spare = (1..spaces)
            .map(|_| area.another())
            .collect::<Result<_, _>>()?;
        Ok(BtVcpu {
            interp: InterpVcpu::seldom(id, model, memory.clone(), signals.clone()),
            code_writes: memory.code_writes(),
            memory,
            signals,
            peers,
            me,
            area,
            spare,
            large: Map::default(),
            forgotten: 0,
            shared_seen: 0,
            recent: [0; RECENT],
            copies: CodeCopies::default(),
            code_pages: Set::default(),
            exits,
            cache,
            translator: Translator::new(exits, Box::new(native), switches),
            blocks,
            frames: Frames::default(),
            settled: Settled::default(),
            host_mmu: HostMmu::new(options.window_after()),
            host_fs: 0,
            filled: 1,
            eviction: Eviction::default(),
            targets,
            vector_outside: false,
            user_segments: UserSegments::default(),
            image: Box::new(Image([0; 72])),
            history: History::default(),
            stats: Stats::default(),
            by_code: Map::default(),
            straddled: Map::default(),
            wanted: None,
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
        let initial = s.x87 == X87::default();
        entry::load_x87(&mut self.image, initial);
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
    pub(super) fn others(&self) -> Vec<Arc<Peer>> {
        let members = self.peers.members.lock();
        let members = members.unwrap_or_else(PoisonError::into_inner);
        let others = members.iter().filter(|p| !Arc::ptr_eq(p, &self.me));
        others.cloned().collect()
    }

    fn dispatch(&mut self, bus: &mut dyn Bus) -> Stop {
        loop {
            // What only the interpreter does: events, single steps, shadows, modes.
            let cpu = self.interp.cpu();
            let why = cpu.attention & LASTING;
            self.signals.answer(self.area.bell);
            let due = self.signals.get() & self.pin_mask();
            if due != 0 || self.host_mmu.at_once() {
                self.see_who_computes();
            }
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
            if !is_translatable(cpu) {
                self.bring_vector_in();
                self.stats.bursts += 1;
                match self.interpret(bus, 2000, false) {
                    Stop::Budget => continue,
                    other => return other,
                }
            }
            self.keep_up();
            self.open_window(bus);
            self.look_at_frames(bus);
            self.look_at_window(bus);
            let promised = self.promised();
            let found = self.find(bus);
            if self.window_closed() {
                continue;
            }
            let Some(block) = found else {
                if let Some(stop) = self.step(bus, true) {
                    return stop;
                }
                continue;
            };
            if let Some(stop) = self.kept(promised, block) {
                return stop;
            }
            let host = self.host_of(block);
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

/// Code of this mode is translated.
fn is_translatable(cpu: &Cpu) -> bool {
    cpu.is_flat() && (cpu.is_64bit() || is_flat_32bit(cpu))
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
            | Code::Xgetbv
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
        | match Side::of(x.s.rip).filter(|_| view == View::Window) {
            None => 0,
            Some(Side::Low) => 1 << SIDE_SHIFT,
            Some(Side::High) => 2 << SIDE_SHIFT,
        }
}

/// Where the mode has the side of the window that code is on.
const SIDE_SHIFT: u32 = 44;
/// See [`SIDE_SHIFT`].
const SIDE_BITS: u64 = 3 << SIDE_SHIFT;

/// The side of the window that code of a mode is on.
fn side_of(mode: u64) -> Option<Side> {
    match (mode & SIDE_BITS) >> SIDE_SHIFT {
        1 => Some(Side::Low),
        2 => Some(Side::High),
        _ => None,
    }
}

/// The part of a mode that all views share: the view tells the size of code, the level is one value
/// a view, and fixed code is reached only where it belongs.
fn control(mode: u64) -> u64 {
    mode & !(NUMBER_BITS | SIDE_BITS | SETTLED | VIEW_BITS | 3 << 8 | 0xff)
}

impl BtVcpu {
    /// The view of the code that runs now.
    pub(crate) fn view(&mut self) -> View {
        let window = self.area.window != 0;
        view_of_code(self.interp.cpu(), window)
    }
}

/// The view of code where user code may go through the `window`: its stack must be there.
fn view_of_code(cpu: &Cpu, window: bool) -> View {
    match view(cpu) {
        View::User if window && cpu.s.gpr[4] >> BIT & 1 != 0 => View::Window,
        other => other,
    }
}

/// With whose rights the program accesses data now, and the size of its code.
fn view(cpu: &Cpu) -> View {
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
        self.list_blocks("the processor's end", &(0..u32::MAX));
    }
}

impl Vcpu for BtVcpu {
    fn run(&mut self, bus: &mut dyn Bus, _budget: u64) -> Stop {
        signal::prepare_thread(signal::Code {
            range: self.cache.range(),
            resume: self.exits.fault,
        });
        signal::set_gs(std::ptr::from_ref(&*self.area) as u64);
        if signal::has_fsgsbase() {
            self.host_fs = signal::fs();
        }
        // What is checked must come out the same twice: there RDTSC is the interpreter's.
        let rate = bus.tsc_rate().filter(|_| self.check.is_none());
        self.set_clock(rate);
        self.set_running(true);
        let stop = self.dispatch(bus);
        self.set_running(false);
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
            far_links,
            adjoined,
            lookups,
            faults,
            rung,
            dropped,
            emptied,
            fixed,
            remapped,
            windows,
            window_fills,
            window_walks,
            window_missed,
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
            ("far_links", far_links),
            ("adjoined", adjoined),
            ("lookups", lookups),
            ("faults", faults),
            ("rung", rung),
            ("dropped", dropped),
            ("emptied", emptied),
            ("fixed", fixed),
            ("remapped", remapped),
            ("windows", windows),
            ("window_fills", window_fills),
            ("window_walks", window_walks),
            ("window_missed", window_missed),
            ("window_pages", self.host_mmu.len() as u64),
        ]
        .map(|(name, n)| (name.into(), n))
        .into();
        if let Some(check) = &self.check {
            all.extend(check.counts());
        }
        let (from, to) = self.cache.range();
        all.push(("code_cache_size".into(), to - from));
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
