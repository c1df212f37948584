//! The interpreter: fetch, decode into a cache of blocks, run.
//!
//! A block is a run of instructions inside one page up to a branch, decoded once for a physical
//! address, a linear address and a mode. The inner loop calls each instruction's handler and
//! leaves only when [`Cpu::attention`] says so; interrupts are polled between blocks.

use crate::bus::{Bus, Counters, Engine, Signals, StateError, Stop, Vcpu};
use crate::cpuid::CpuModel;
use crate::event::Source;
use crate::exec::{Cpu, Exec, attention};
use crate::flags::Flags;
use crate::insn::{self, Insn};
use crate::mmu::{Access, Place, Rights, is_canonical};
use crate::state::{Activity, CpuState, Shadow, cr0, cr4, efer, rflags, seg};
use crate::trace::Retired;
use crate::trap::{Done, Trap, vector};
use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use iced_x86::{Decoder, DecoderError, FlowControl, Instruction};
use mem::{GuestMemory, RamOffset};

/// Longest block, in instructions.
const BLOCK: usize = 32;
/// Decoded instructions that the processors of a machine keep together before a cache starts anew
/// (40 bytes each, about 10 MB, and a fifth of that for the block tables).
const MACHINE_ARENA: usize = 256 * 1024;
/// The most and the fewest that one processor keeps.
const ARENA: core::ops::RangeInclusive<usize> = 4 * 1024..=128 * 1024;
/// The most of one that seldom runs ([`InterpVcpu::seldom`]).
const SELDOM_ARENA: usize = 16 * 1024;
/// Decoded instructions for each slot of the block table.
const PER_SLOT: usize = 8;

/// The interpreter as an engine.
#[derive(Debug, Default)]
pub struct Interpreter;

impl Engine for Interpreter {
    fn name(&self) -> &'static str {
        "interp"
    }
    fn vcpu(
        &self,
        id: u32,
        model: &CpuModel,
        memory: Arc<GuestMemory>,
        signals: Arc<Signals>,
    ) -> Result<Box<dyn Vcpu>, String> {
        Ok(Box::new(InterpVcpu::new(id, model, memory, signals)))
    }
}

/// One interpreted processor.
pub struct InterpVcpu {
    pub(crate) cpu: Cpu,
    pub(crate) cache: Cache,
    tracing: bool,
    /// No events: see [`Self::step`].
    quiet: bool,
}

impl InterpVcpu {
    /// A processor in its power-on state.
    pub fn new(
        id: u32,
        model: &CpuModel,
        memory: Arc<GuestMemory>,
        signals: Arc<Signals>,
    ) -> InterpVcpu {
        let capacity = share(model.cpus);
        Self::with(Cpu::new(id, model.clone(), memory, signals), capacity)
    }

    /// The same for an engine that runs most of the code itself, of which the interpreter need not
    /// keep as much.
    pub fn seldom(
        id: u32,
        model: &CpuModel,
        memory: Arc<GuestMemory>,
        signals: Arc<Signals>,
    ) -> InterpVcpu {
        let capacity = share(model.cpus).min(SELDOM_ARENA);
        Self::with(Cpu::new(id, model.clone(), memory, signals), capacity)
    }

    fn with(cpu: Cpu, capacity: usize) -> InterpVcpu {
        InterpVcpu {
            cpu,
            cache: Cache::new(capacity),
            tracing: false,
            quiet: false,
        }
    }

    /// Runs one instruction as [`Vcpu::run`] does, but takes no event from the pins before it.
    pub fn step(&mut self, bus: &mut dyn Bus) -> Stop {
        self.quiet = true;
        let stop = self.run(bus, 1);
        self.quiet = false;
        stop
    }

    /// Pages that this processor was the first to mark as code, so far.
    pub fn code_marks(&self) -> u64 {
        self.cache.marks
    }

    /// Drops all decoded code.
    pub fn forget_code(&mut self) {
        self.cache.arena.clear();
        self.cache.slots.fill(None);
    }

    /// The processor, for an engine that runs part of its instructions itself.
    pub fn cpu(&mut self) -> &mut Cpu {
        &mut self.cpu
    }
    /// Delivers an exception that another engine had begun to deliver, through the IDT; RIP is
    /// already what the handler returns to.
    pub fn deliver(
        &mut self,
        bus: &mut dyn Bus,
        vector: u8,
        code: Option<u16>,
    ) -> Result<(), Stop> {
        let mut x = Exec {
            cpu: &mut self.cpu,
            bus,
        };
        x.event(|x| x.raise(vector, code, Source::Fault))
    }
}

/// What a block was decoded for.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Key {
    at: RamOffset,
    rip: u64,
    mode: u32,
}

#[derive(Clone, Copy)]
struct Block {
    key: Key,
    generation: u32,
    start: u32,
    len: u32,
}

/// The decoded instructions that one of the `cpus` processors of a machine keeps.
fn share(cpus: u32) -> usize {
    let share = MACHINE_ARENA / cpus.max(1) as usize;
    share
        .clamp(*ARENA.start(), *ARENA.end())
        .next_power_of_two()
}

/// The decoded-instruction cache.
pub(crate) struct Cache {
    /// Grows with what is decoded, up to `capacity`.
    pub(crate) arena: Vec<Insn>,
    capacity: usize,
    /// A power of two of them.
    slots: Vec<Option<Block>>,
    /// Pages marked first by this cache.
    marks: u64,
}

impl Cache {
    /// For `capacity` instructions, a power of two.
    fn new(capacity: usize) -> Cache {
        Cache {
            arena: Vec::new(),
            capacity,
            slots: alloc::vec![None; capacity / PER_SLOT],
            marks: 0,
        }
    }

    fn slot(&self, key: &Key) -> usize {
        let mixed = (key.at.0 ^ key.rip << 20).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> 32) as usize & (self.slots.len() - 1)
    }

    /// Makes room for `more` instructions.
    fn make_room(&mut self, more: usize) {
        if self.arena.len() + more > self.capacity {
            self.arena.clear();
            self.slots.fill(None);
        }
    }

    /// The instructions of the block at the current RIP, as a range of the arena.
    #[inline(always)]
    pub(crate) fn find(&mut self, x: &mut Exec<'_>) -> Done<core::ops::Range<usize>> {
        let linear = x.fetch_linear()?;
        let at = match x.tlb.hit(Access::Execute, linear, 1) {
            Some(at) => at,
            None => match x.locate(linear, Access::Execute, Rights::Program)? {
                Place::Ram(at) => at,
                _ => return self.single(x, linear),
            },
        };
        let key = Key {
            at,
            rip: x.s.rip,
            mode: x.mode_key(),
        };
        let slot = self.slot(&key);
        if let Some(block) = &self.slots[slot]
            && block.key == key
            && x.ram.code_generation(at) == block.generation
        {
            return Ok(block.start as usize..(block.start + block.len) as usize);
        }
        self.decode(x, key, linear)
    }

    /// Decodes the block at `key` and enters it.
    #[cold]
    fn decode(&mut self, x: &mut Exec<'_>, key: Key, linear: u64) -> Done<core::ops::Range<usize>> {
        self.make_room(BLOCK);
        // Marked before it is read: a store from now on changes the generation.
        self.marks += u64::from(!x.ram.is_marked(key.at));
        let generation = x.ram.mark_code(key.at);
        let mut bytes = [0u8; BLOCK * 8];
        let left = (0x1000 - (key.at.0 & 0xfff)) as usize;
        let bytes = &mut bytes[..left.min(BLOCK * 8)];
        for (n, byte) in bytes.iter_mut().enumerate() {
            *byte = x.ram.load(RamOffset(key.at.0 + n as u64));
        }
        let bits = u32::from(x.bits());
        let mut decoder = Decoder::with_ip(bits, bytes, x.s.rip, x.model.decoder_options());
        let start = self.arena.len();
        let mut i = Instruction::default();
        while self.arena.len() - start < BLOCK && decoder.can_decode() {
            let before = decoder.position();
            decoder.decode_out(&mut i);
            let long = decoder.position() - before >= 15;
            if i.is_invalid() && (long || decoder.last_error() == DecoderError::NoMoreBytes) {
                // The bytes end too early (the page, or our window), or there are more than 15:
                // `single` tells. Never cached.
                break;
            }
            let run = insn::handler(x, &i);
            let insn = insn::lower_with_bytes(&i, run, bits, &bytes[before..]);
            self.arena.push(insn);
            if i.flow_control() != FlowControl::Next {
                break;
            }
        }
        let len = self.arena.len() - start;
        if len == 0 {
            return self.single(x, linear);
        }
        x.counters.blocks_decoded += 1;
        let block = Block {
            key,
            generation,
            start: start as u32,
            len: len as u32,
        };
        let slot = self.slot(&key);
        self.slots[slot] = Some(block);
        Ok(start..start + len)
    }

    /// Fetches and decodes one instruction that is not cached: it crosses a page, or lies in no
    /// RAM.
    #[cold]
    fn single(&mut self, x: &mut Exec<'_>, linear: u64) -> Done<core::ops::Range<usize>> {
        let mut bytes = [0u8; 15];
        let bits = u32::from(x.bits());
        let mut have = 0;
        let mut i;
        loop {
            // One page's worth at a time: the second page is only touched if it is needed.
            let at = if bits == 64 {
                linear.wrapping_add(have as u64)
            } else {
                linear.wrapping_add(have as u64) & 0xffff_ffff
            };
            if bits == 64 && !is_canonical(at) {
                return Err(Trap::GP0);
            }
            let place = x.locate(at, Access::Execute, Rights::Program)?;
            let n = (15 - have).min((0x1000 - (at & 0xfff)) as usize);
            for k in 0..n {
                bytes[have + k] = x.read_place(place.plus(k as u64));
            }
            have += n;
            let mut decoder =
                Decoder::with_ip(bits, &bytes[..have], x.s.rip, x.model.decoder_options());
            i = decoder.decode();
            if !i.is_invalid() || have == 15 {
                if i.is_invalid() && decoder.position() == 15 {
                    // More than 15 bytes (or, taken for it, an undefined opcode of just 15).
                    return Err(Trap::GP0);
                }
                break;
            }
            if decoder.last_error() != DecoderError::NoMoreBytes {
                break;
            }
        }
        let run = insn::handler(x, &i);
        self.make_room(1);
        let insn = insn::lower_with_bytes(&i, run, bits, &bytes);
        self.arena.push(insn);
        Ok(self.arena.len() - 1..self.arena.len())
    }
}

impl Exec<'_> {
    /// The linear address of the next instruction and where it lies.
    pub fn fetch_place(&mut self) -> Done<(u64, Place)> {
        let linear = self.fetch_linear()?;
        match self.tlb.hit(Access::Execute, linear, 1) {
            Some(at) => Ok((linear, Place::Ram(at))),
            None => Ok((
                linear,
                self.locate(linear, Access::Execute, Rights::Program)?,
            )),
        }
    }

    /// The linear address of the next instruction, after CS's checks.
    #[inline(always)]
    fn fetch_linear(&mut self) -> Done<u64> {
        let rip = self.s.rip;
        if self.bits() == 64 {
            return if is_canonical(rip) {
                Ok(rip)
            } else {
                Err(Trap::GP0)
            };
        }
        let cs = &self.s.seg[seg::CS as usize];
        if rip > u64::from(cs.limit) {
            return Err(Trap::GP0);
        }
        Ok(cs.base.wrapping_add(rip) & 0xffff_ffff)
    }

    /// The bytes at RIP as far as they are in one page, for the trace: no fault, no side effect
    /// but accessed bits that the fetch itself is about to set.
    #[cold]
    fn peek(&mut self) -> Vec<u8> {
        let Ok(linear) = self.fetch_linear() else {
            return Vec::new();
        };
        let cr2 = self.s.cr2;
        let place = self.locate(linear, Access::Execute, Rights::Program);
        self.s.cr2 = cr2;
        let left = (0x1000 - (linear & 0xfff)).min(15);
        match place {
            Ok(Place::Ram(at)) => (0..left)
                .map(|n| self.ram.load(RamOffset(at.0 + n)))
                .collect(),
            _ => Vec::new(),
        }
    }

    /// Everything besides address and bytes that decoding depends on.
    #[inline(always)]
    pub fn mode_key(&self) -> u32 {
        let s = &self.s;
        u32::from(self.bits())
            | u32::from(s.cpl) << 8
            | ((s.cr0 & (cr0::PE | cr0::MP | cr0::EM | cr0::TS)) as u32) << 10
            | ((s.cr4 >> 9 & 1) as u32) << 14
            | ((s.cr4 >> 18 & 1) as u32) << 15
            | (s.xcr0 as u32 & 7) << 16
            | ((s.rflags >> 17 & 1) as u32) << 19
    }

    /// Between instructions, when something asks for attention: an error ends the run; otherwise
    /// the number of instructions that may run before the next look (0: any), or nothing if an
    /// exception was delivered, which counts against the budget: a handler that has a breakpoint
    /// on itself must not keep us here.
    fn boundary(&mut self) -> Result<Option<usize>, Stop> {
        loop {
            let why = self.attention;
            self.attention = 0;
            if self.s.activity == Activity::Shutdown {
                if self.signals.lower(Signals::INIT) != 0 {
                    self.init();
                    continue;
                }
                self.attention |= attention::ACTIVITY;
                return Err(Stop::Shutdown);
            }
            if self.signals.lower(Signals::INIT) != 0 {
                self.init();
                continue;
            }
            if self.signals.lower(Signals::RETURN) != 0 {
                self.attention = why;
                return Err(Stop::Requested);
            }
            if self.s.activity == Activity::WaitForSipi {
                match self.signals.take_sipi() {
                    Some(page) => self.start_up(page),
                    None => {
                        self.attention |= attention::ACTIVITY;
                        return Err(Stop::Halted);
                    }
                }
                continue;
            }
            // A start-up IPI to a processor that does not wait for one is lost.
            self.signals.take_sipi();
            // A shadow set by the instruction before holds for the one after, then ends.
            let shadow = core::mem::replace(&mut self.s.shadow, Shadow::None);
            if shadow != Shadow::MovSs
                && !self.s.nmi_blocked
                && self.signals.lower(Signals::NMI) != 0
            {
                self.s.activity = Activity::Running;
                self.s.nmi_blocked = true;
                self.event(|x| x.interrupt(vector::NMI))?;
                continue;
            }
            if shadow == Shadow::None
                && self.s.rflags & rflags::IF != 0
                && self.signals.get() & Signals::INTR != 0
                && let Some(vector) = self.bus.acknowledge()
            {
                self.s.activity = Activity::Running;
                self.event(|x| x.interrupt(vector))?;
                continue;
            }
            if self.s.activity == Activity::Halted {
                self.attention |= attention::ACTIVITY;
                return Err(Stop::Halted);
            }
            if self.s.dr7 & 0xff != 0 {
                self.attention |= attention::DEBUG;
                if self.s.rflags & rflags::RF == 0 && self.instruction_breakpoint() {
                    self.event(|x| x.raise(vector::DB, None, Source::Breakpoint))?;
                    return Ok(None);
                }
            }
            if self.s.rflags & rflags::TF != 0 {
                self.attention |= attention::STEP;
            }
            // One instruction under a shadow, under TF, with breakpoints armed, or with RF to
            // clear; otherwise a whole block.
            let single = shadow != Shadow::None
                || self.attention & (attention::STEP | attention::DEBUG) != 0
                || self.s.rflags & rflags::RF != 0;
            return Ok(Some(usize::from(single)));
        }
    }

    /// True, with DR6 set, if an instruction breakpoint is armed at RIP.
    fn instruction_breakpoint(&mut self) -> bool {
        let Ok(linear) = self.fetch_linear() else {
            return false;
        };
        let mut hit = 0;
        for n in 0..4usize {
            let armed = self.s.dr7 >> (2 * n) & 3 != 0 && self.s.dr7 >> (16 + 4 * n) & 3 == 0;
            if armed && self.s.dr[n] == linear {
                hit |= 1 << n;
            }
        }
        if hit != 0 {
            self.s.dr6 = self.s.dr6 & !0xf | hit;
        }
        hit != 0
    }

    fn event(&mut self, deliver: impl FnOnce(&mut Self) -> Done) -> Result<(), Stop> {
        match deliver(self) {
            Ok(()) => Ok(()),
            Err(_) => Err(self.broken_stop()),
        }
    }

    fn broken_stop(&mut self) -> Stop {
        Stop::Broken(self.broken.take().unwrap_or_else(|| {
            alloc::format!("an exception escaped its delivery at {:#x}", self.s.rip)
        }))
    }

    /// After an instruction that ran with TF set or met a data breakpoint: the debug trap.
    fn debug_trap(&mut self, stepping: bool) -> Result<(), Stop> {
        let hits = core::mem::take(&mut self.debug_hits);
        if !(stepping || hits != 0) {
            return Ok(());
        }
        if self.s.shadow == Shadow::MovSs {
            // Held off with the shadow: data breakpoints of MOV SS are delivered after the next
            // instruction; the step of MOV SS itself is lost.
            self.debug_hits = hits;
            return Ok(());
        }
        self.s.dr6 = self.s.dr6 & !0xf | hits | if stepping { 1 << 14 } else { 0 };
        self.event(|x| x.raise(vector::DB, None, Source::Trap))
    }

    /// INIT (SDM volume 3, table "Processor States Following Power-up, Reset, or INIT").
    fn init(&mut self) {
        let old = self.s.clone();
        let fresh = CpuState::reset(self.model.signature(), self.id == 0);
        self.s = CpuState {
            cr0: fresh.cr0 & !(cr0::CD | cr0::NW) | old.cr0 & (cr0::CD | cr0::NW),
            x87: old.x87,
            mxcsr: old.mxcsr,
            vector: old.vector,
            xcr0: old.xcr0,
            msr: old.msr,
            ..fresh
        };
        self.tlb.flush_all();
        self.flags = Flags::from_bits(self.s.rflags);
        self.refresh();
    }

    /// A start-up IPI: real mode at page `page`.
    fn start_up(&mut self, page: u8) {
        let cs = &mut self.cpu.s.seg[seg::CS as usize];
        cs.selector = u16::from(page) << 8;
        cs.base = u64::from(page) << 12;
        self.s.rip = 0;
        self.s.activity = Activity::Running;
        self.refresh();
    }
}

impl Vcpu for InterpVcpu {
    fn run(&mut self, bus: &mut dyn Bus, budget: u64) -> Stop {
        let mut x = Exec {
            cpu: &mut self.cpu,
            bus,
        };
        let start = x.counters.work();
        let mut reported = start;
        let stop = loop {
            let spent = x.counters.work() - start;
            if spent >= budget {
                break Stop::Budget;
            }
            let mut limit = 0;
            if x.attention != 0 || x.signals.get() != 0 && !self.quiet {
                match x.boundary() {
                    Ok(Some(n)) => limit = n,
                    Ok(None) => continue,
                    Err(stop) => break stop,
                }
            }
            let unreported = x.counters.work() - reported;
            if unreported >= 1024 {
                x.bus.retired(unreported);
                reported += unreported;
            }
            let before = self.tracing.then(|| {
                limit = 1;
                (x.architectural_state(), x.bits(), x.peek())
            });
            let stepping = x.s.rflags & rflags::TF != 0;
            x.delivered = false;
            let outcome = self.cache.find(&mut x).and_then(|range| {
                // RF has served: breakpoints were looked for. An IRET in the block may set it.
                x.s.rflags &= !rflags::RF;
                let room = (budget - spent).min(if limit == 0 { u64::MAX } else { limit as u64 });
                let mut done = 0;
                let block = &self.cache.arena[range];
                let block = &block[..block.len().min(room as usize)];
                let mut result = Ok(());
                for i in block {
                    let bits = x.bits();
                    x.next = x.s.rip.wrapping_add(u64::from(i.len));
                    if bits != 64 {
                        x.next &= if bits == 32 { 0xffff_ffff } else { 0xffff };
                    }
                    result = (i.run)(&mut x, i);
                    if result.is_err() {
                        break;
                    }
                    x.s.rip = x.next;
                    done += 1;
                    if x.attention != 0 {
                        break;
                    }
                }
                x.counters.instructions += done;
                result
            });
            let outcome = match outcome {
                Ok(()) => {
                    if stepping || x.debug_hits != 0 {
                        let stepping = stepping && !x.delivered;
                        x.debug_trap(stepping)
                    } else {
                        Ok(())
                    }
                }
                Err(Trap::Fault { vector, code }) => {
                    x.debug_hits = 0;
                    x.event(|x| x.raise(vector, code, Source::Fault))
                }
                Err(Trap::Broken) => Err(x.broken_stop()),
            };
            if let Some((before, bits, bytes)) = before {
                let after = x.architectural_state();
                let (before, after) = (&before, &after);
                x.bus.instruction(&Retired {
                    bytes: &bytes,
                    bits,
                    before,
                    after,
                });
            }
            if let Err(stop) = outcome {
                break stop;
            }
        };
        let unreported = x.counters.work() - reported;
        x.bus.retired(unreported);
        stop
    }

    fn state(&self) -> CpuState {
        CpuState {
            rflags: self.cpu.rflags(),
            ..self.cpu.s.clone()
        }
    }

    fn set_state(&mut self, state: &CpuState) -> Result<(), StateError> {
        let wrong = |field, why: &str| {
            Err(StateError {
                field,
                why: why.into(),
            })
        };
        if state.cpl > 3 {
            return wrong("cpl", "above 3");
        }
        if state.efer & efer::LMA != 0 && state.cr0 & cr0::PG == 0 {
            return wrong("efer", "LMA without CR0.PG");
        }
        if state.cr0 & cr0::PG != 0 && state.cr0 & cr0::PE == 0 {
            return wrong("cr0", "PG without PE");
        }
        if state.efer & efer::LMA != 0 && state.cr4 & cr4::PAE == 0 {
            return wrong("cr4", "long mode without PAE");
        }
        self.cpu.s = state.clone();
        self.cpu.s.rflags = state.rflags & rflags::ALL | rflags::FIXED;
        self.cpu.flags = Flags::from_bits(state.rflags);
        self.cpu.tlb.flush_all();
        self.cpu.refresh();
        self.cpu.attention |= attention::EVENTS;
        Ok(())
    }

    fn counters(&self) -> Counters {
        self.cpu.counters
    }

    fn trace_instructions(&mut self, on: bool) -> bool {
        self.tracing = on;
        true
    }
}
