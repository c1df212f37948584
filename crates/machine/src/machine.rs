//! One running machine: its memory, its board, its interrupt hub, its timers, its end. Engines
//! reach it through [`crate::bus::VcpuBus`], hosts through [`Machine`]'s methods, from any
//! thread.
//!
//! A machine runs until [`Machine::stop`] is called, by a device (power off, reset), by a
//! processor (triple fault, broken engine) or by the host. The first reason wins; every
//! processor then leaves its loop, and whoever runs the machine looks at [`Machine::ended`] and
//! either ends or calls [`Machine::reset`] and runs the processors again. There is no other
//! rendezvous between processors, so none that could hang.

use crate::board::{Board, Connections, Line, Part, Slot};
use crate::clock::Clock;
use crate::hub::Hub;
use crate::lock::Lock;
use crate::spec::MachineSpec;
use crate::timers::{TimerId, Timers};
use crate::trace::{Kinds, Trace};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use devices::{Context, Device, Message, Power, Wires};
use mem::GuestMemory;
use x86::Signals;

/// What a machine needs from whoever schedules its processors.
pub trait Host: Send + Sync {
    /// Blocks processor `cpu`'s thread until [`Self::wake`] names it; a wake that came since the
    /// last wait counts. May return early.
    fn wait(&self, cpu: u32);
    /// Ends the wait of processor `cpu`, or the next one.
    fn wake(&self, cpu: u32);
    /// A deadline has come up that is earlier than what [`Machine::run_timers`] last returned.
    fn timers_changed(&self);
    /// A device has something to tell the user.
    fn event(&self, text: String);
    /// 64 random bits for a processor that asks (RDRAND, RDSEED); `None` where a run must be
    /// repeatable: the engine then takes a fixed stream of its own.
    fn entropy(&self) -> Option<u64> {
        None
    }
}

/// Why a machine stopped.
#[derive(Clone, PartialEq, Debug)]
pub enum End {
    /// The guest switched it off.
    PowerOff,
    /// The guest asked for a reset.
    Reset,
    /// The guest wrote this to isa-debug-exit.
    DebugExit(u32),
    /// A processor shut down after a triple fault.
    TripleFault {
        /// Which.
        cpu: u32,
        /// Where, in a few words.
        at: String,
    },
    /// We are wrong.
    Broken {
        /// The processor that found it.
        cpu: u32,
        /// The engine's report.
        report: String,
    },
    /// Somebody wants it to stand still: it goes on with [`Machine::resume`].
    Paused,
    /// The user ended it at the terminal.
    Quit,
    /// A signal of the host ended it.
    Signal(i32),
    /// The host cannot go on; why.
    Host(String),
}

/// A machine; see the module.
pub struct Machine {
    spec: MachineSpec,
    memory: Arc<GuestMemory>,
    board: Board,
    pub(crate) hub: Lock<Hub>,
    clock: Arc<dyn Clock>,
    host: Arc<dyn Host>,
    signals: Vec<Arc<Signals>>,
    timers: Lock<Timers>,
    /// What `run_timers` last returned: the deadline its caller sleeps for.
    sleeping_until: AtomicU64,
    stopping: AtomicBool,
    end: Lock<Option<End>>,
    /// The trace.
    pub trace: Trace,
}

/// MAXPHYADDR of every CPU model.
const PHYSICAL_BITS: u32 = 40;
/// No deadline.
const NEVER: u64 = u64::MAX;

impl Machine {
    /// Builds the board around `memory`, whose RAM is placed. The error is a mistake in the
    /// board's list or a specification the board cannot hold.
    pub fn new(
        spec: MachineSpec,
        memory: Arc<GuestMemory>,
        connections: Connections,
        clock: Arc<dyn Clock>,
        host: Arc<dyn Host>,
        trace: Trace,
    ) -> Result<Machine, String> {
        let signals: Vec<Arc<Signals>> = (0..spec.cpus).map(|_| Arc::default()).collect();
        let apic_ids: Vec<u32> = (0..spec.cpus).collect();
        let hub = Lock::new(Hub::new(&apic_ids, PHYSICAL_BITS));
        let board = Board::build(&spec, connections)?;
        Ok(Machine {
            spec,
            memory,
            board,
            hub,
            clock,
            host,
            signals,
            timers: Lock::new(Timers::default()),
            sleeping_until: AtomicU64::new(NEVER),
            stopping: AtomicBool::new(false),
            end: Lock::new(None),
            trace,
        })
    }
}

/// What belongs to running processors.
impl Machine {
    /// The specification it was built from.
    pub fn spec(&self) -> &MachineSpec {
        &self.spec
    }
    /// Its memory.
    pub fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }
    /// Its board.
    pub fn board(&self) -> &Board {
        &self.board
    }
    /// Its clock.
    pub fn clock(&self) -> &dyn Clock {
        &*self.clock
    }
    /// Its host.
    pub fn host(&self) -> &dyn Host {
        &*self.host
    }
    /// The pins of processor `cpu`.
    pub fn signals(&self, cpu: u32) -> &Arc<Signals> {
        &self.signals[cpu as usize]
    }
    /// Machine time.
    pub fn now_ns(&self) -> u64 {
        self.clock.now_ns()
    }

    /// The TSC at machine time `ns`.
    pub fn tsc(&self, ns: u64) -> u64 {
        match self.spec.tsc_hz {
            crate::clock::TSC_HZ => ns,
            hz => (u128::from(ns) * u128::from(hz) / 1_000_000_000) as u64,
        }
    }

    /// True once [`Self::stop`] was called.
    #[inline]
    pub fn stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// Stops the machine; the first reason stays.
    pub fn stop(&self, why: End) {
        self.trace.event(Kinds::EXIT, self.now_ns(), None, || {
            format!("stop: {why:?}")
        });
        {
            // A pause is no end: what really ends the machine meanwhile must not be lost.
            let mut end = self.end.lock();
            if matches!(*end, None | Some(End::Paused)) {
                *end = Some(why);
            }
        }
        self.stopping.store(true, Ordering::SeqCst);
        for (cpu, signals) in self.signals.iter().enumerate() {
            signals.raise(Signals::RETURN);
            self.host.wake(cpu as u32);
        }
        self.host.timers_changed();
    }

    /// Why it stopped, if it did.
    pub fn ended(&self) -> Option<End> {
        self.end.lock().clone()
    }

    /// After [`End::Paused`], and when no processor runs: ready to run again from where it is.
    pub fn resume(&self) {
        *self.end.lock() = None;
        self.stopping.store(false, Ordering::SeqCst);
        for signals in &self.signals {
            signals.lower(Signals::RETURN);
        }
    }

    /// Everything but the processors and the memory back to power-on, and ready to run again.
    /// No processor may be running.
    pub fn reset(&self) {
        self.timers.lock().clear();
        for slot in 0..self.board.slots.len() {
            self.with_device(slot, |device, cx| device.reset(cx));
        }
        self.hub_reset();
        for signals in &self.signals {
            signals.lower(!0);
        }
        *self.end.lock() = None;
        self.stopping.store(false, Ordering::SeqCst);
    }
}

/// What belongs to devices.
impl Machine {
    /// Calls the device in `slot`, if one sits there, under its lock and with its wires.
    pub(crate) fn with_device<R>(
        &self,
        slot: usize,
        call: impl FnOnce(&mut dyn Device, &mut Context<'_>) -> R,
    ) -> Option<R> {
        let Part::Device(device) = &self.board.slots.get(slot)?.part else {
            return None;
        };
        let mut device = device.lock();
        let mut wires = SlotWires {
            machine: self,
            slot,
        };
        Some(call(
            &mut **device,
            &mut Context {
                now_ns: self.clock.now_ns(),
                memory: &self.memory,
                wires: &mut wires,
            },
        ))
    }

    /// A backend of the device in `slot` has something new.
    pub fn completion(&self, slot: usize) {
        self.with_device(slot, |device, cx| device.completion(cx));
    }

    /// The terminal has input, or takes output again.
    pub fn terminal_ready(&self) {
        for slot in &self.board.terminal_slots {
            self.completion(*slot);
        }
    }

    /// Calls every timer that is due; returns the machine time of the next deadline, which is
    /// remembered: an earlier one that comes up later leads to [`Host::timers_changed`].
    pub fn run_timers(&self) -> Option<u64> {
        loop {
            // Until we know what to sleep for, every new deadline is earlier.
            self.sleeping_until.store(NEVER, Ordering::SeqCst);
            let now = self.clock.now_ns();
            self.hub_timers(now);
            while let Some(TimerId { slot, timer }) = self.take_due(now) {
                self.trace.event(Kinds::TIMER, now, None, || {
                    format!(
                        "{} timer {timer} is due",
                        self.board.slots[usize::from(slot)].name
                    )
                });
                self.with_device(usize::from(slot), |device, cx| device.timer(cx, timer));
            }
            let next = self.next_deadline();
            self.sleeping_until
                .store(next.unwrap_or(NEVER), Ordering::SeqCst);
            // Armed between the two lines above?
            match (next, self.next_deadline()) {
                (had, has) if had == has => {}
                _ => continue,
            }
            if next.is_none_or(|at| at > self.clock.now_ns()) {
                return next;
            }
        }
    }

    fn take_due(&self, now_ns: u64) -> Option<TimerId> {
        self.timers.lock().take_due(now_ns)
    }

    /// The earliest deadline of any device or local APIC.
    pub fn next_deadline(&self) -> Option<u64> {
        let device = self.timers.lock().next();
        let apic = self.hub_deadline();
        device.into_iter().chain(apic).min()
    }

    /// A deadline was set: wakes the timer's caller if it sleeps for longer.
    pub(crate) fn armed(&self, at_ns: u64) {
        if self.clock.is_virtual() {
            // The turn that is going on was cut for the deadlines before it.
            for signals in &self.signals {
                signals.raise(Signals::RETURN);
            }
            return;
        }
        if at_ns < self.sleeping_until.load(Ordering::SeqCst) {
            self.host.timers_changed();
        }
    }
}

/// The wires of the device in one slot.
struct SlotWires<'m> {
    machine: &'m Machine,
    slot: usize,
}

impl SlotWires<'_> {
    fn slot(&self) -> &Slot {
        &self.machine.board.slots[self.slot]
    }
    fn trace(&self, kind: Kinds, text: impl FnOnce(&str) -> String) {
        let now = if self.machine.trace.on(kind) {
            self.machine.now_ns()
        } else {
            0
        };
        self.machine
            .trace
            .event(kind, now, None, || text(self.slot().name));
    }
}

impl Wires for SlotWires<'_> {
    fn set_line(&mut self, line: u8, level: bool) {
        self.trace(Kinds::IRQ, |name| {
            format!("{name} line {line} = {}", u8::from(level))
        });
        match self.slot().lines.get(usize::from(line)) {
            Some(Line::Gsi(gsis)) => {
                for gsi in *gsis {
                    self.machine.hub_line(self.slot, line, *gsi, level);
                }
            }
            Some(Line::LegacyReplacement) => self.machine.hub_mute_legacy(level),
            None => {}
        }
    }
    fn message(&mut self, message: Message) {
        self.trace(Kinds::IRQ, |name| {
            format!(
                "{name} message {:#x} = {:#x}",
                message.address, message.data
            )
        });
        self.machine.hub_message(message);
    }
    fn arm(&mut self, timer: u8, at_ns: Option<u64>) {
        self.trace(Kinds::TIMER, |name| {
            format!("{name} timer {timer} at {at_ns:?}")
        });
        let slot = self.slot as u16;
        self.machine
            .timers
            .lock()
            .arm(TimerId { slot, timer }, at_ns);
        if let Some(at) = at_ns {
            self.machine.armed(at);
        }
    }
    fn power(&mut self, what: Power) {
        self.machine.stop(match what {
            Power::Off => End::PowerOff,
            Power::Reset => End::Reset,
            Power::DebugExit(value) => End::DebugExit(value),
        });
    }
    fn event(&mut self, text: String) {
        self.machine.host.event(text);
    }
}
