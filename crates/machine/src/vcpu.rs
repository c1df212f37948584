//! The loop of a processor, on a thread of its own ([`Machine::run_vcpu`]) or, under a virtual
//! clock, in turns with the others ([`Machine::run_in_turns`]).

use crate::bus::VcpuBus;
use crate::machine::{End, Machine};
use crate::trace::Kinds;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use x86::{CpuState, Signals, Stop, Vcpu};

/// Instructions between two looks at the machine where nothing else asks for one.
const BUDGET: u64 = 1 << 32;
/// Instructions of one turn under a virtual clock.
const TURN: u64 = 50_000;

/// Where a processor is, for a report.
fn place(s: &CpuState) -> String {
    format!(
        "RIP {:#x}, CS {:#x}, RSP {:#x}, CR0 {:#x}, CR2 {:#x}, CR3 {:#x}, EFER {:#x}",
        s.rip, s.seg[1].selector, s.gpr[4], s.cr0, s.cr2, s.cr3, s.efer
    )
}

/// What one run of a processor led to.
enum Turn {
    /// It has more to do.
    Busy,
    /// It waits for one of these pins.
    Waits(u32),
}

impl Machine {
    fn turn(&self, cpu: u32, vcpu: &mut dyn Vcpu, budget: u64) -> Turn {
        let stop = vcpu.run(&mut VcpuBus::new(self, cpu), budget);
        if self.trace.on(Kinds::EXIT) {
            let now = self.now_ns();
            self.trace.event(Kinds::EXIT, now, Some(cpu), || {
                format!("{stop:?} at {:#x}", vcpu.state().rip)
            });
        }
        match stop {
            Stop::Budget | Stop::Debug => {}
            Stop::Requested => {
                self.signals(cpu).lower(Signals::RETURN);
            }
            Stop::Halted => return Turn::Waits(vcpu.wakes_on()),
            Stop::Shutdown => self.stop(End::TripleFault {
                cpu,
                at: place(&vcpu.state()),
            }),
            Stop::Broken(report) => self.stop(End::Broken {
                cpu,
                report: format!("{report}; {}", place(&vcpu.state())),
            }),
        }
        Turn::Busy
    }

    /// Switches the instruction trace of a processor on, if it is wanted.
    fn trace_instructions(&self, cpu: u32, vcpu: &mut dyn Vcpu) {
        if self.trace.on(Kinds::INSN) && !vcpu.trace_instructions(true) {
            let text = || "this engine cannot trace instructions".into();
            self.trace
                .event(Kinds::INSN, self.now_ns(), Some(cpu), text);
        }
    }

    /// Runs processor `cpu` until the machine stops. A halted processor waits in
    /// [`crate::Host::wait`].
    pub fn run_vcpu(&self, cpu: u32, vcpu: &mut dyn Vcpu) {
        self.trace_instructions(cpu, vcpu);
        while !self.stopping() {
            if let Turn::Waits(pins) = self.turn(cpu, vcpu, BUDGET) {
                // A pin raised after this look is followed by a wake, which the next wait sees.
                while self.signals(cpu).get() & pins == 0 && !self.stopping() {
                    self.host().wait(cpu);
                }
            }
        }
    }

    /// Runs all processors in turns on one thread until the machine stops, timers between the
    /// turns: with a clock that counts instructions, the same each time. When every processor
    /// waits, the clock skips to the next deadline.
    pub fn run_in_turns(&self, vcpus: &mut [Box<dyn Vcpu>]) {
        for (cpu, vcpu) in vcpus.iter_mut().enumerate() {
            self.trace_instructions(cpu as u32, &mut **vcpu);
        }
        // The pins that each processor waits for.
        let mut waits: Vec<Option<u32>> = vcpus.iter().map(|_| None).collect();
        while !self.stopping() {
            // What the timers do now is seen by the looks at the pins below.
            let next = self.run_timers();
            let mut idle = true;
            for (cpu, vcpu) in vcpus.iter_mut().enumerate() {
                let pins = self.signals(cpu as u32).get();
                if waits[cpu].is_some_and(|waited| waited & pins == 0) {
                    continue;
                }
                idle = false;
                let until = self.run_timers();
                let budget = until.and_then(|at| self.clock().instructions_until(at));
                let budget = budget.unwrap_or(TURN).min(TURN);
                waits[cpu] = match self.turn(cpu as u32, &mut **vcpu, budget) {
                    Turn::Busy => None,
                    Turn::Waits(pins) => Some(pins),
                };
            }
            if idle {
                match next {
                    Some(at) => self.clock().skip_to(at),
                    None => self.host().wait(0),
                }
            }
        }
    }
}
