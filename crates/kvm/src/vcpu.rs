//! The loop of a processor under KVM.
//!
//! ```text
//!            ┌───────────────── boundary: pins ──> Stop
//!            v                     │ inject
//!   serve ─ exit <── KVM_RUN <─────┘
//!     └─> Bus
//! ```
//!
//! What is not plain running is left to the interpreter, one instruction at a time: INIT and
//! start-up IPIs, instructions that KVM cannot emulate, and events whose delivery KVM had begun
//! when the processor has to stop at a boundary ([`KvmVcpu::interpret`]). The registers that KVM
//! does not hold live in `own`, behind the same MSR table that the interpreter uses.

use crate::convert;
use crate::ioctl::{Exit, Processor};
use mem::{Gpa, GuestMemory};
use std::sync::Arc;
use std::time::Instant;
use x86::cpuid::{CpuModel, Feature};
use x86::exec::{Cpu, Exec};
use x86::interp::InterpVcpu;
use x86::state::{Activity, Shadow, rflags};
use x86::{Bus, Counters, CpuState, Event, Kick, Signals, StateError, Stop, Vcpu};

/// Names of the exits, as [`Vcpu::report`] gives them.
const EXITS: [&str; 12] = [
    "port",
    "mmio",
    "rdmsr",
    "wrmsr",
    "hlt",
    "window",
    "cr8",
    "kick",
    "shutdown",
    "emulate",
    "dirty ring",
    "other",
];

fn number(exit: &Exit) -> usize {
    match exit {
        Exit::Io { .. } => 0,
        Exit::Mmio { .. } => 1,
        Exit::ReadMsr(_) => 2,
        Exit::WriteMsr(..) => 3,
        Exit::Halt => 4,
        Exit::Window => 5,
        Exit::Tpr => 6,
        Exit::Interrupted => 7,
        Exit::Shutdown => 8,
        Exit::Emulation => 9,
        Exit::RingFull => 10,
        Exit::Debug | Exit::Failed(_) => 11,
    }
}

/// One processor under KVM.
pub struct KvmVcpu {
    // What it is.
    fd: Processor,
    id: u32,
    model: CpuModel,
    memory: Arc<GuestMemory>,
    signals: Arc<Signals>,
    // Its state, as far as KVM does not hold it.
    /// Only `s.msr` counts: the registers that KVM does not hold.
    own: Cpu,
    activity: Activity,
    /// While halted: external interrupts are let through.
    open: bool,
    // Book-keeping.
    /// A state was set: the TSC is to be set when time is known, and what the shared page says is
    /// from before.
    fresh: bool,
    /// As `fresh`, for the TSC alone.
    set_tsc: bool,
    /// Machine's TSC when the guest's was last compared with it.
    tsc_seen: u64,
    /// The last exit's access is to be completed by entering again.
    incomplete: bool,
    /// An interrupt waits for the guest to let it through.
    window: bool,
    exits: [u64; EXITS.len()],
    counters: Counters,
}

impl KvmVcpu {
    pub(crate) fn new(
        fd: Processor,
        id: u32,
        model: &CpuModel,
        memory: Arc<GuestMemory>,
        signals: Arc<Signals>,
    ) -> Result<KvmVcpu, String> {
        fd.set_tsc_hz(model.tsc_hz)?;
        fd.set_cpuid(model, id)?;
        let own = Cpu::new(id, model.clone(), memory.clone(), Arc::default());
        let mut vcpu = KvmVcpu {
            fd,
            id,
            model: model.clone(),
            memory,
            signals,
            own,
            activity: Activity::Running,
            open: false,
            fresh: true,
            set_tsc: true,
            tsc_seen: 0,
            incomplete: false,
            window: false,
            exits: [0; EXITS.len()],
            counters: Counters::default(),
        };
        vcpu.upload(&CpuState::reset(model.signature(), id == 0))?;
        Ok(vcpu)
    }

    /// The state out of KVM.
    fn download(&self) -> Result<CpuState, String> {
        let fd = &self.fd;
        let mut s = CpuState::reset(self.model.signature(), self.id == 0);
        s.msr = self.own.s.msr;
        convert::from_events(&fd.events()?, &mut s);
        convert::from_regs(&fd.regs()?, &mut s);
        convert::from_sregs(&fd.sregs()?, &mut s);
        convert::from_xsave(&fd.xsave()?, &mut s);
        convert::from_debug_registers(&fd.debug_registers()?, &mut s);
        let mut msrs = convert::msrs(&s, &self.model);
        fd.get_msrs(&mut msrs)?;
        convert::from_msrs(&msrs, &mut s);
        if self.model.feature(Feature::Xsave) {
            s.xcr0 = fd.xcr0()?;
        }
        s.activity = self.activity;
        Ok(s)
    }

    /// The state into KVM.
    fn upload(&mut self, s: &CpuState) -> Result<(), String> {
        let fd = &self.fd;
        fd.set_sregs(&convert::sregs(s, self.id == 0))?;
        fd.set_regs(&convert::regs(s))?;
        if self.model.feature(Feature::Xsave) {
            fd.set_xcr0(s.xcr0)?;
        }
        fd.set_xsave(&convert::xsave(s, self.model.feature(Feature::Avx)))?;
        fd.set_msrs(&convert::msrs(s, &self.model))?;
        fd.set_debug_registers(&convert::debug_registers(s))?;
        fd.set_events(&convert::events(s))?;
        self.own.s.msr = s.msr;
        self.activity = s.activity;
        self.open = s.rflags & rflags::IF != 0 && s.shadow == Shadow::None;
        self.fresh = true;
        self.incomplete = false;
        Ok(())
    }

    /// Lets the interpreter run one instruction from the state that KVM holds, after `prepare` has
    /// changed it or raised pins. `vector` is what it acknowledges, instead of asking the machine.
    fn interpret(
        &mut self,
        bus: &mut dyn Bus,
        vector: Option<u8>,
        prepare: impl FnOnce(&mut CpuState, &Signals),
    ) -> Result<(), String> {
        let mut s = self.download()?;
        let pins = Arc::new(Signals::default());
        prepare(&mut s, &pins);
        let mut interpreter = InterpVcpu::seldom(self.id, &self.model, self.memory.clone(), pins);
        interpreter.set_state(&s).map_err(|e| e.to_string())?;
        let mut bus = Acknowledged { bus, vector };
        if let Stop::Broken(why) = interpreter.run(&mut bus, 1) {
            return Err(why);
        }
        self.upload(&interpreter.state())
    }

    /// Lets KVM finish the instruction whose access or MSR it asked for.
    fn finish(&mut self, bus: &mut dyn Bus) -> Result<(), String> {
        while self.incomplete {
            match self.fd.complete() {
                Exit::Interrupted => self.incomplete = false,
                exit => self.serve(bus, exit)?,
            }
        }
        Ok(())
    }

    /// Whether the instruction that the last exit came from ends in an exception. That is no
    /// boundary for an interrupt: KVM would inject the exception, and take the interrupt for
    /// injected, too. Not all versions say so in the page.
    fn faults(&mut self, bus: &mut dyn Bus) -> Result<bool, String> {
        if !self.incomplete {
            return Ok(false);
        }
        self.finish(bus)?;
        let exception = self.fd.events()?.exception;
        Ok(exception.injected | exception.pending != 0 || !self.fd.ready())
    }

    /// Brings the processor to an instruction boundary with nothing inside KVM that
    /// [`CpuState`] does not hold.
    fn settle(&mut self, bus: &mut dyn Bus) -> Result<(), String> {
        self.finish(bus)?;
        let events = self.fd.events()?;
        if events.nmi.pending != 0 {
            self.signals.raise(Signals::NMI);
        }
        if events.exception.injected != 0 {
            let mut interpreter =
                InterpVcpu::seldom(self.id, &self.model, self.memory.clone(), Arc::default());
            let s = self.download()?;
            interpreter.set_state(&s).map_err(|e| e.to_string())?;
            let code = (events.exception.has_error_code != 0)
                .then_some(events.exception.error_code as u16);
            if let Err(stop) = interpreter.deliver(bus, events.exception.nr, code) {
                return Err(format!("{stop:?}"));
            }
            self.upload(&interpreter.state())
        } else if events.nmi.injected != 0 {
            self.interpret(bus, None, |s, pins| {
                s.nmi_blocked = false;
                pins.raise(Signals::NMI);
            })
        } else if events.interrupt.injected != 0 && events.interrupt.soft == 0 {
            self.interpret(bus, Some(events.interrupt.nr), |_, pins| {
                pins.raise(Signals::INTR);
            })
        } else if events.interrupt.injected != 0 || events.nmi.pending != 0 {
            // INT n is simply executed again.
            let s = self.download()?;
            self.upload(&s)
        } else {
            Ok(())
        }
    }

    /// Between entries: what the pins ask for. `Some` ends the run.
    fn boundary(&mut self, bus: &mut dyn Bus) -> Result<Option<Stop>, String> {
        loop {
            let pins = self.signals.get();
            if pins == 0 && self.activity == Activity::Running {
                self.window = false;
                return Ok(None);
            }
            if self.signals.lower(Signals::INIT) != 0 {
                self.settle(bus)?;
                self.interpret(bus, None, |_, pins| pins.raise(Signals::INIT))?;
                continue;
            }
            if self.activity == Activity::Shutdown {
                return Ok(Some(Stop::Shutdown));
            }
            if self.signals.lower(Signals::RETURN) != 0 {
                self.settle(bus)?;
                return Ok(Some(Stop::Requested));
            }
            let sipi = self.signals.take_sipi();
            if self.activity == Activity::WaitForSipi {
                match sipi {
                    Some(page) => {
                        self.interpret(bus, None, |_, pins| pins.raise_sipi(page))?;
                        continue;
                    }
                    None => return Ok(Some(Stop::Halted)),
                }
            }
            if self.signals.lower(Signals::NMI) != 0 {
                let blocked = self.fd.events()?.nmi.masked != 0;
                self.fd.nmi()?;
                self.counters.interrupts += 1;
                if !blocked {
                    self.activity = Activity::Running;
                }
            }
            self.window = false;
            if self.signals.get() & Signals::INTR != 0 {
                let ready = match self.activity {
                    Activity::Halted => self.open,
                    _ => !self.fresh && self.fd.ready() && !self.faults(bus)?,
                };
                if !ready {
                    self.window = true;
                } else if let Some(vector) = bus.acknowledge() {
                    self.fd.interrupt(vector)?;
                    self.counters.interrupts += 1;
                    self.activity = Activity::Running;
                    // One at a time: the next needs another look at the guest. The page's word
                    // was for this one.
                    self.fresh = true;
                    self.window = self.signals.get() & Signals::INTR != 0;
                }
            }
            return Ok((self.activity == Activity::Halted).then_some(Stop::Halted));
        }
    }

    /// The guest's TSC is machine time: set after a change of state, and again where it has fallen
    /// behind by a millisecond (KVM stops it while a processor is not running, if the host's TSC
    /// is unstable). It never goes back.
    fn look_at_tsc(&mut self, bus: &mut dyn Bus) -> Result<(), String> {
        let now = bus.tsc();
        let hz = self.model.tsc_hz;
        let late = now.wrapping_sub(self.tsc_seen) > hz / 10;
        if !self.set_tsc && !late {
            return Ok(());
        }
        self.tsc_seen = now;
        let mut shown = [(convert::IA32_TSC, 0), (convert::IA32_TSC_ADJUST, 0)];
        self.fd.get_msrs(&mut shown)?;
        let [(_, tsc), (_, adjust)] = shown;
        let behind = bus.tsc().wrapping_add(adjust).wrapping_sub(tsc) as i64;
        if self.set_tsc || behind > (hz / 1000) as i64 {
            // A tenth of a millisecond: longer than the distance of two calls, shorter than any
            // pause worth the name.
            self.fd.set_tsc(bus.tsc(), adjust, hz / 10_000)?;
            self.set_tsc = false;
        }
        Ok(())
    }

    fn run_inner(&mut self, bus: &mut dyn Bus) -> Result<Stop, String> {
        self.fd.adopt();
        self.look_at_tsc(bus)?;
        let mut left = Instant::now();
        loop {
            if let Some(stop) = self.boundary(bus)? {
                self.counters.host_ns += left.elapsed().as_nanos() as u64;
                return Ok(stop);
            }
            let cr8 = bus.task_priority();
            let (signals, window) = (&self.signals, self.window);
            let blocked = || {
                let pins = signals.get();
                pins & (Signals::INIT | Signals::RETURN | Signals::NMI) != 0
                    || pins & Signals::INTR != 0 && !window
            };
            let entered = Instant::now();
            let Some(exit) = self.fd.run(cr8, window, blocked) else {
                continue;
            };
            let now = Instant::now();
            self.counters.host_ns += (entered - left).as_nanos() as u64;
            self.counters.guest_ns += (now - entered).as_nanos() as u64;
            left = now;
            self.fresh = false;
            self.incomplete = false;
            let seen = self.fd.cr8();
            if seen != cr8 {
                bus.set_task_priority(seen);
            }
            self.serve(bus, exit)?;
        }
    }

    /// Answers an exit.
    fn serve(&mut self, bus: &mut dyn Bus, exit: Exit) -> Result<(), String> {
        self.exits[number(&exit)] += 1;
        match exit {
            Exit::Io {
                port,
                size,
                count,
                write,
            } => {
                self.counters.port += u64::from(count);
                let width = usize::from(size);
                let bytes = width * count as usize;
                for n in (0..bytes).step_by(width.max(1)) {
                    let mut value = [0; 4];
                    if write {
                        value[..width].copy_from_slice(&self.fd.io_data(bytes)[n..][..width]);
                        bus.port_out(port, size, u32::from_le_bytes(value));
                    } else {
                        value = bus.port_in(port, size).to_le_bytes();
                        self.fd.io_data(bytes)[n..][..width].copy_from_slice(&value[..width]);
                    }
                }
                self.incomplete = true;
            }
            Exit::Mmio { at, len, write } => {
                self.counters.mmio += 1;
                self.mmio(bus, at, len, write);
                self.incomplete = true;
            }
            // A register that KVM holds comes out where KVM has refused the access.
            Exit::ReadMsr(index) => {
                let value = if convert::KVM_MSRS.contains(&index) {
                    None
                } else {
                    self.msr(bus, |x| x.read_msr(index).ok())
                };
                self.fd.answer_msr(value);
                self.incomplete = true;
            }
            Exit::WriteMsr(index, value) => {
                let done = !convert::KVM_MSRS.contains(&index)
                    && self.msr(bus, |x| x.write_msr(index, value).is_ok());
                self.fd.answer_msr(done.then_some(value));
                self.incomplete = true;
            }
            Exit::Halt => {
                self.activity = Activity::Halted;
                self.open = self.fd.interrupts_enabled();
            }
            Exit::Window | Exit::Tpr | Exit::Interrupted => {}
            Exit::Shutdown => self.activity = Activity::Shutdown,
            Exit::Emulation => self.interpret(bus, None, |_, _| {})?,
            Exit::RingFull => self.fd.empty_ring()?,
            Exit::Debug => return Err("a debug exit that nobody asked for".into()),
            Exit::Failed(why) => return Err(why),
        }
        Ok(())
    }

    /// An access of 1 to 8 bytes; KVM makes odd sizes where one crosses a page.
    fn mmio(&mut self, bus: &mut dyn Bus, at: u64, len: u8, write: Option<u64>) {
        let mut answer = 0;
        let mut done = 0;
        while done < len {
            let size = match len - done {
                8 => 8,
                4..=7 => 4,
                2 | 3 => 2,
                _ => 1,
            };
            let here = Gpa(at + u64::from(done));
            match write {
                Some(value) => bus.mmio_write(here, size, value >> (8 * done)),
                None => answer |= bus.mmio_read(here, size) << (8 * done),
            }
            done += size;
        }
        if write.is_none() {
            self.fd.answer_mmio(answer);
        }
    }

    fn msr<R>(&mut self, bus: &mut dyn Bus, access: impl FnOnce(&mut Exec<'_>) -> R) -> R {
        access(&mut Exec {
            cpu: &mut self.own,
            bus,
        })
    }
}

impl Vcpu for KvmVcpu {
    /// `budget` is not looked at: KVM does not count instructions.
    fn run(&mut self, bus: &mut dyn Bus, _budget: u64) -> Stop {
        match self.run_inner(bus) {
            Ok(stop) => stop,
            Err(why) => Stop::Broken(format!("kvm: {why}")),
        }
    }

    fn state(&self) -> CpuState {
        // The ioctls fail only on our own mistake, which stops this VM.
        self.download().expect("KVM gives the state")
    }

    fn set_state(&mut self, state: &CpuState) -> Result<(), StateError> {
        let error = |why| StateError {
            field: "state (kvm)",
            why,
        };
        let old = self.download().map_err(error)?;
        if let Err(why) = self.upload(state) {
            self.upload(&old).map_err(error)?;
            return Err(error(why));
        }
        self.set_tsc = true;
        Ok(())
    }

    fn counters(&self) -> Counters {
        self.counters
    }

    fn kicker(&self) -> Option<Kick> {
        let kicker = self.fd.kicker();
        Some(Box::new(move || kicker.kick()))
    }

    fn wakes_on(&self) -> u32 {
        let always = Signals::INIT | Signals::RETURN;
        match self.activity {
            Activity::WaitForSipi => always | Signals::SIPI,
            Activity::Shutdown => always,
            Activity::Running | Activity::Halted => {
                let intr = if self.open { Signals::INTR } else { 0 };
                always | intr | Signals::NMI
            }
        }
    }

    fn report(&self) -> Vec<(String, u64)> {
        let name = |reason| format!("exits: {reason}");
        EXITS.into_iter().map(name).zip(self.exits).collect()
    }
}

/// A bus on which one interrupt has been acknowledged already.
struct Acknowledged<'b> {
    bus: &'b mut dyn Bus,
    vector: Option<u8>,
}

impl Bus for Acknowledged<'_> {
    fn mmio_read(&mut self, at: Gpa, size: u8) -> u64 {
        self.bus.mmio_read(at, size)
    }
    fn mmio_write(&mut self, at: Gpa, size: u8, value: u64) {
        self.bus.mmio_write(at, size, value);
    }
    fn port_in(&mut self, port: u16, size: u8) -> u32 {
        self.bus.port_in(port, size)
    }
    fn port_out(&mut self, port: u16, size: u8, value: u32) {
        self.bus.port_out(port, size, value);
    }
    fn msr_read(&mut self, index: u32) -> Option<u64> {
        self.bus.msr_read(index)
    }
    fn msr_write(&mut self, index: u32, value: u64) -> bool {
        self.bus.msr_write(index, value)
    }
    fn tsc(&mut self) -> u64 {
        self.bus.tsc()
    }
    fn task_priority(&mut self) -> u8 {
        self.bus.task_priority()
    }
    fn set_task_priority(&mut self, class: u8) {
        self.bus.set_task_priority(class);
    }
    fn acknowledge(&mut self) -> Option<u8> {
        self.vector.take()
    }
    fn ferr(&mut self, level: bool) -> bool {
        self.bus.ferr(level)
    }
    fn retired(&mut self, instructions: u64) {
        self.bus.retired(instructions);
    }
    fn event(&mut self, event: Event) {
        self.bus.event(event);
    }
}
