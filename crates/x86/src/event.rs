//! Exceptions and interrupts: delivery through the IVT, the IDT of protected and of long mode,
//! double and triple fault (SDM volume 3, "Interrupt and Exception Handling").

use crate::bus::Event;
use crate::exec::Exec;
use crate::trap::{Done, Trap};

/// Where an event comes from: it decides the error code's EXT bit, the privilege check of the
/// gate, and what is pushed as RIP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// A fault: RIP points at the instruction.
    Fault,
    /// A trap exception (#DB after an instruction, #BP, #OF): RIP points behind it.
    Trap,
    /// INT n, INT3, INTO, as instructions: the gate's DPL is checked.
    Software,
    /// An external interrupt or NMI.
    External,
}

impl Exec<'_> {
    /// Delivers an exception that an instruction raised; turns faults during delivery into double
    /// and triple fault. On return the guest is at its handler, or in shutdown.
    pub(crate) fn raise(&mut self, vector: u8, code: Option<u16>, source: Source) -> Done {
        self.counters.exceptions += 1;
        let rip = self.s.rip;
        self.bus.event(Event::Exception {
            vector,
            code: code.map(u32::from),
            rip,
        });
        self.deliver(vector, code, source)
    }

    /// Delivers an external interrupt or NMI.
    pub(crate) fn interrupt(&mut self, vector: u8) -> Done {
        self.counters.interrupts += 1;
        let rip = self.s.rip;
        self.bus.event(Event::Interrupt { vector, rip });
        self.deliver(vector, None, Source::External)
    }

    /// Transfers control through the vector's gate. `self.s.rip` is what is pushed (for software
    /// interrupts and traps the caller has advanced it).
    fn deliver(&mut self, vector: u8, code: Option<u16>, source: Source) -> Done {
        let _ = (code, source, Trap::GP0);
        self.stop(alloc::format!(
            "delivery of vector {vector} is not done yet"
        ))
    }
}
