//! The pins of the processor: [`Bus`], implemented by `machine`, called by engines; and the
//! [`Signals`] through which the machine reaches a processor that is running.

use alloc::string::String;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use mem::Gpa;

use crate::state::CpuState;

/// What an engine asks of the machine around a processor. Calls go down only, are synchronous
/// and never fail: an access nobody answers reads all ones. `size` is 1, 2, 4 or 8 bytes.
pub trait Bus {
    /// A read of guest-physical memory that is not RAM.
    fn mmio_read(&mut self, at: Gpa, size: u8) -> u64;
    /// A write to guest-physical memory that is not RAM.
    fn mmio_write(&mut self, at: Gpa, size: u8, value: u64);
    /// `IN`: size 1, 2 or 4.
    fn port_in(&mut self, port: u16, size: u8) -> u32;
    /// `OUT`: size 1, 2 or 4.
    fn port_out(&mut self, port: u16, size: u8, value: u32);
    /// `RDMSR` of a register the engine does not own (IA32_APIC_BASE, x2APIC,
    /// IA32_TSC_DEADLINE, …); `None` raises #GP.
    fn msr_read(&mut self, index: u32) -> Option<u64>;
    /// `WRMSR` likewise; `false` raises #GP.
    fn msr_write(&mut self, index: u32, value: u64) -> bool;
    /// The time-stamp counter before IA32_TSC_ADJUST, in ticks of the guest's TSC.
    fn tsc(&mut self) -> u64;
    /// How [`Self::tsc`] follows the host's counter, if it does, for an engine that reads it
    /// itself. The same for as long as the machine lives.
    fn tsc_rate(&self) -> Option<TscRate> {
        None
    }
    /// CR8: the task priority class (0–15) of the local APIC.
    fn task_priority(&mut self) -> u8;
    /// Sets CR8 (0–15).
    fn set_task_priority(&mut self, class: u8);
    /// Interrupt acknowledge: the vector to deliver now, or `None` if the request has gone.
    fn acknowledge(&mut self) -> Option<u8>;
    /// FERR#, the output of an unmasked x87 exception while CR0.NE is clear: raised by the waiting
    /// instruction that finds it, lowered when no exception is left. The answer is IGNNE#: true if
    /// the processor is to go on regardless, false if it must wait for an interrupt (IRQ 13 of a
    /// PC). The default is a board that does not connect them.
    fn ferr(&mut self, level: bool) -> bool {
        let _ = level;
        true
    }
    /// 64 random bits for RDRAND and RDSEED; `None` leaves them to a stream that the APIC ID alone
    /// determines, so that a run can be repeated.
    fn entropy(&mut self) -> Option<u64> {
        None
    }
    /// Instructions retired and exceptions delivered since the last call
    /// ([`Counters::work`]), for a clock that counts them.
    fn retired(&mut self, instructions: u64) {
        let _ = instructions;
    }
    /// An instruction has run, while [`Vcpu::trace_instructions`] is on.
    fn instruction(&mut self, retired: &crate::trace::Retired<'_>) {
        let _ = retired;
    }
    /// Something happened inside the engine that a trace may want.
    fn event(&mut self, event: Event) {
        let _ = event;
    }
}

/// A clock that follows the TSC of the host: it shows `(tsc - base) * factor / 2⁶⁴`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TscRate {
    /// The host's TSC when the clock was zero.
    pub base: u64,
    /// Ticks of the clock for one of the host's TSC, as a fraction of 2⁶⁴.
    pub factor: u64,
}

impl TscRate {
    /// What the clock shows when the host's TSC is `tsc`.
    pub fn at(&self, tsc: u64) -> u64 {
        let since = tsc.saturating_sub(self.base);
        ((u128::from(since) * u128::from(self.factor)) >> 64) as u64
    }
}

/// What an engine tells [`Bus::event`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// An exception is delivered to the guest: vector, error code, RIP of the instruction.
    Exception {
        /// The vector, 0–31.
        vector: u8,
        /// The error code, if the vector has one.
        code: Option<u32>,
        /// Where it happened.
        rip: u64,
    },
    /// An external interrupt is delivered.
    Interrupt {
        /// The vector.
        vector: u8,
        /// The interrupted RIP.
        rip: u64,
    },
}

/// The input pins of one processor, set by any thread, polled by its engine at block ends.
#[derive(Default, Debug)]
pub struct Signals {
    pins: AtomicU32,
    bell: AtomicU64,
}

impl Signals {
    /// An interrupt is waiting to be acknowledged (a level; the machine raises and lowers it).
    pub const INTR: u32 = 1;
    /// A non-maskable interrupt (an edge: the engine takes it down).
    pub const NMI: u32 = 2;
    /// INIT (an edge).
    pub const INIT: u32 = 4;
    /// A start-up IPI (an edge); the vector is in bits 8–15.
    pub const SIPI: u32 = 8;
    /// `run` is to return at the next boundary (an edge).
    pub const RETURN: u32 = 16;

    /// The pins that are up.
    #[inline(always)]
    pub fn get(&self) -> u32 {
        self.pins.load(Ordering::Relaxed)
    }
    /// An engine's own: the processor is to look at what its engine left for it.
    pub const ENGINE: u32 = 32;

    /// The word that holds the pins, for translated code that polls it.
    pub fn word(&self) -> &AtomicU32 {
        &self.pins
    }

    /// What the bell is once pins were raised: no address, so that code which uses it as one faults.
    pub const RUNG: u64 = 1 << 63 | 0xbe11;

    /// The bell: [`Self::RUNG`] since pins were last raised, for translated code that does not ask
    /// which and whether they matter now.
    pub fn bell(&self) -> &AtomicU64 {
        &self.bell
    }
    /// Stops the bell, which is another value then; true if it had rung. Pins that are looked at
    /// afterwards are those it rang for.
    pub fn answer(&self, quiet: u64) -> bool {
        self.bell.load(Ordering::Relaxed) != quiet
            && self.bell.swap(quiet, Ordering::SeqCst) == Self::RUNG
    }

    /// Raises pins.
    pub fn raise(&self, pins: u32) {
        self.pins.fetch_or(pins, Ordering::SeqCst);
        self.bell.store(Self::RUNG, Ordering::SeqCst);
    }
    /// Raises [`Self::SIPI`] with its vector; a later one replaces an earlier.
    pub fn raise_sipi(&self, vector: u8) {
        let _ = self
            .pins
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |old| {
                Some(old & !0xff00 | Self::SIPI | u32::from(vector) << 8)
            });
        self.bell.store(Self::RUNG, Ordering::SeqCst);
    }
    /// Lowers pins; returns which of them were up.
    pub fn lower(&self, pins: u32) -> u32 {
        self.pins.fetch_and(!pins, Ordering::SeqCst) & pins
    }
    /// Lowers [`Self::SIPI`] and gives its vector, if it was up.
    pub fn take_sipi(&self) -> Option<u8> {
        let old = self
            .pins
            .fetch_and(!(Self::SIPI | 0xff00), Ordering::SeqCst);
        (old & Self::SIPI != 0).then_some((old >> 8) as u8)
    }
}

/// Why [`Vcpu::run`] returned. The processor is at an instruction boundary and its state is
/// complete.
#[derive(Clone, PartialEq, Debug)]
pub enum Stop {
    /// HLT, or waiting for a start-up IPI: nothing to do until a signal comes.
    Halted,
    /// The instruction budget is spent.
    Budget,
    /// [`Signals::RETURN`] was up.
    Requested,
    /// A triple fault: the processor is in shutdown.
    Shutdown,
    /// A debugger's breakpoint or single step.
    Debug,
    /// We are wrong, or met an instruction we know and have not done: the VM must stop. The text
    /// names it.
    Broken(String),
}

/// A state that a processor cannot be in was handed to [`Vcpu::set_state`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StateError {
    /// The field.
    pub field: &'static str,
    /// What is wrong with it.
    pub why: String,
}

impl core::fmt::Display for StateError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "processor state: {}: {}", self.field, self.why)
    }
}

impl core::error::Error for StateError {}

/// What one vCPU has cost so far.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Counters {
    /// Instructions retired.
    pub instructions: u64,
    /// Exceptions delivered to the guest.
    pub exceptions: u64,
    /// External interrupts and NMIs delivered.
    pub interrupts: u64,
    /// Memory-mapped device accesses.
    pub mmio: u64,
    /// Port accesses.
    pub port: u64,
    /// Blocks decoded.
    pub blocks_decoded: u64,
    /// Page walks.
    pub page_walks: u64,
    /// Host time spent running the guest, in nanoseconds, where the engine measures it.
    pub guest_ns: u64,
    /// Host time spent outside it: serving what it asked for.
    pub host_ns: u64,
}

impl Counters {
    /// What a budget and an instruction clock count. Exceptions are in it because a guest whose
    /// handler faults at once retires nothing: it must neither run for ever nor stop time.
    pub fn work(&self) -> u64 {
        self.instructions + self.exceptions
    }
}

/// Makes a running processor look at its pins; see [`Vcpu::kicker`].
pub type Kick = alloc::boxed::Box<dyn Fn() + Send + Sync>;

/// One virtual processor of some engine.
pub trait Vcpu: Send {
    /// Runs for at most `budget` of [`Counters::work`], give or take one (engines that cannot
    /// count may run longer, but return on a signal).
    fn run(&mut self, bus: &mut dyn Bus, budget: u64) -> Stop;
    /// The architectural state. Only between calls of [`Self::run`].
    fn state(&self) -> CpuState;
    /// Replaces the state; on an error the old one stays.
    fn set_state(&mut self, state: &CpuState) -> Result<(), StateError>;
    /// Costs so far.
    fn counters(&self) -> Counters;
    /// What the engine counts beside that, under names of its own.
    fn report(&self) -> alloc::vec::Vec<(alloc::string::String, u64)> {
        alloc::vec::Vec::new()
    }
    /// Reports each instruction to [`Bus::instruction`], or stops doing so. False if this engine
    /// cannot.
    fn trace_instructions(&mut self, on: bool) -> bool {
        !on
    }
    /// What any thread must call after it has raised a pin, so that [`Self::run`] sees it soon.
    /// `None` if this engine looks at its pins by itself.
    fn kicker(&self) -> Option<Kick> {
        None
    }
    /// After [`Stop::Halted`]: the pins that end the wait.
    fn wakes_on(&self) -> u32 {
        wakes_on(&self.state())
    }
}

/// The pins that can end the wait of a processor in this state.
pub fn wakes_on(state: &CpuState) -> u32 {
    use crate::state::{Activity, Shadow, rflags};
    let always = Signals::INIT | Signals::RETURN;
    match state.activity {
        Activity::WaitForSipi => always | Signals::SIPI,
        Activity::Shutdown => always,
        Activity::Running | Activity::Halted => {
            let open = state.rflags & rflags::IF != 0 && state.shadow == Shadow::None;
            let intr = if open { Signals::INTR } else { 0 };
            let nmi = if state.nmi_blocked { 0 } else { Signals::NMI };
            always | intr | nmi
        }
    }
}

/// A way to run processors.
pub trait Engine: Send + Sync {
    /// Its name on the command line: `interp`, `bt`, `kvm`.
    fn name(&self) -> &'static str;
    /// What of `wanted` this engine can do here: the model the machine is to be built with, and the
    /// names of the features it lacks. A machine keeps its model for life, under every engine.
    fn model(
        &self,
        wanted: &crate::cpuid::CpuModel,
    ) -> (crate::cpuid::CpuModel, alloc::vec::Vec<String>) {
        (wanted.clone(), alloc::vec::Vec::new())
    }
    /// Makes the processor with APIC ID `id` in its power-on state.
    fn vcpu(
        &self,
        id: u32,
        model: &crate::cpuid::CpuModel,
        memory: alloc::sync::Arc<mem::GuestMemory>,
        signals: alloc::sync::Arc<Signals>,
    ) -> Result<alloc::boxed::Box<dyn Vcpu>, String>;
    /// Begins the dirty log of `memory`, which processors of this engine run on, with every page
    /// clean, or ends it. The log belongs to the memory: devices' stores are in it, too. Where an
    /// engine's processors store past [`mem::GuestMemory::store`], it does what it must to learn
    /// of that. No processor may be running, here and in [`Self::take_dirty`].
    fn log_dirty(&self, memory: &mem::GuestMemory, on: bool) -> Result<(), String> {
        memory.log_dirty(on);
        Ok(())
    }
    /// The pages of `memory` stored to since the log was begun or last taken, by anybody; see
    /// [`mem::GuestMemory::take_dirty`]. A machine that moves to another engine takes the log of
    /// the old one and begins one under the new.
    fn take_dirty(
        &self,
        memory: &mem::GuestMemory,
    ) -> Result<alloc::vec::Vec<mem::RamOffset>, String> {
        Ok(memory.take_dirty())
    }
}
