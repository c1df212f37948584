//! How a PC reports x87 exceptions to a program that leaves CR0.NE clear: the processor's FERR#
//! raises IRQ 13 and the handler's write to port 0xF0 lowers it and asserts IGNNE#, so that the
//! handler can use x87 instructions before it has cleared the exception (SDM volume 1, "Software
//! Exception Handling" in the DOS compatibility mode, with the circuit this models).
//!
//! Region 0 is the ports 0xF0 (any write clears the latch) and 0xF1 (the 80287's reset, which later
//! processors do not have: nothing happens). Region 1 is not on the guest's buses but on the
//! processor's pins: a write drives FERR# (bit 0), a read gives IGNNE# (bit 0). Line 0 is the
//! interrupt.

use crate::{Context, Device, Inspector, LoadError, load_state, save_state};
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// The region of the ports.
pub const PORTS: u8 = 0;
/// The region of the processor's pins.
pub const PINS: u8 = 1;

/// The latch between FERR#, IGNNE# and the interrupt controller.
#[derive(Default)]
pub struct Coprocessor {
    s: State,
}

#[derive(Clone, Copy, Default, Serialize, Deserialize)]
struct State {
    /// FERR# is asserted.
    ferr: bool,
    /// IGNNE# is asserted: port 0xF0 was written since FERR# rose.
    ignne: bool,
}

impl State {
    /// IRQ 13: from the error until the handler has seen it.
    fn irq(self) -> bool {
        self.ferr && !self.ignne
    }
}

impl Coprocessor {
    /// No error.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Device for Coprocessor {
    fn name(&self) -> &'static str {
        "coprocessor"
    }
    fn read(&mut self, _cx: &mut Context<'_>, region: u8, _offset: u64, _size: u8) -> u64 {
        match region {
            PINS => u64::from(self.s.ignne),
            _ => u64::MAX,
        }
    }
    fn write(&mut self, cx: &mut Context<'_>, region: u8, offset: u64, _size: u8, value: u64) {
        match (region, offset) {
            (PORTS, 0) => self.s.ignne = self.s.ferr,
            (PINS, _) => {
                self.s.ferr = value & 1 != 0;
                self.s.ignne &= self.s.ferr;
            }
            _ => return,
        }
        cx.wires.set_line(0, self.s.irq());
    }
    fn reset(&mut self, cx: &mut Context<'_>) {
        self.s = State::default();
        cx.wires.set_line(0, false);
    }
    fn save(&self) -> Vec<u8> {
        let State { ferr, ignne } = self.s;
        save_state(1, &State { ferr, ignne })
    }
    fn load(&mut self, section: &[u8]) -> Result<(), LoadError> {
        let s: State = load_state(1, section)?;
        if s.ignne && !s.ferr {
            return Err(LoadError::Invalid {
                field: "ignne",
                why: "asserted without an error".into(),
            });
        }
        self.s = s;
        Ok(())
    }
    fn inspect(&self, out: &mut Inspector) {
        out.value("ferr", self.s.ferr);
        out.value("ignne", self.s.ignne);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Recorder;

    #[test]
    fn the_coprocessor_latch_keeps_the_contract() {
        crate::contract::check(&[2, 1], Coprocessor::new);
    }

    #[test]
    fn an_error_interrupts_until_port_f0_is_written_and_is_ignored_from_then_on() {
        let memory = mem::GuestMemory::anonymous(0x1000).unwrap();
        let mut wires = Recorder::default();
        let mut cx = Context {
            now_ns: 0,
            memory: &memory,
            wires: &mut wires,
        };
        let mut latch = Coprocessor::new();
        latch.write(&mut cx, PORTS, 0, 1, 0);
        assert_eq!(latch.read(&mut cx, PINS, 0, 1), 0, "no error to ignore");
        latch.write(&mut cx, PINS, 0, 1, 1);
        latch.write(&mut cx, PINS, 0, 1, 1);
        assert_eq!(latch.read(&mut cx, PINS, 0, 1), 0);
        latch.write(&mut cx, PORTS, 0, 1, 0);
        assert_eq!(latch.read(&mut cx, PINS, 0, 1), 1);
        latch.write(&mut cx, PINS, 0, 1, 0);
        assert_eq!(latch.read(&mut cx, PINS, 0, 1), 0);
        latch.write(&mut cx, PINS, 0, 1, 1);
        assert!(wires.lines[&0]);
        assert_eq!(wires.edges[&0], 2);
    }
}
