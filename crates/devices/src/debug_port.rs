//! The debug ports of emulators: 0xE9 (Bochs) and 0x402 (SeaBIOS, QEMU `isa-debugcon`), whose
//! bytes go to a stream, and `isa-debug-exit` (QEMU), which ends the run.
//!
//! Region 0 is the character port (reads give its own number for 0xE9, as Bochs documents, so
//! that a guest can probe for it), region 1 is the exit port. Neither has state.

use crate::backend::Stream;
use crate::{Context, Device, Inspector, LoadError, Power, load_state, save_state};
use alloc::boxed::Box;
use alloc::vec::Vec;

/// The value a read of the character port gives.
const PROBE: u64 = 0xe9;

/// A debug character port and an exit port.
pub struct DebugPort {
    out: Box<dyn Stream>,
}

impl DebugPort {
    /// Connects the character port to `out`.
    pub fn new(out: Box<dyn Stream>) -> Self {
        DebugPort { out }
    }
}

impl Device for DebugPort {
    fn name(&self) -> &'static str {
        "debug-port"
    }
    fn read(&mut self, _cx: &mut Context<'_>, region: u8, _offset: u64, _size: u8) -> u64 {
        if region == 0 { PROBE } else { 0 }
    }
    fn write(&mut self, cx: &mut Context<'_>, region: u8, _offset: u64, size: u8, value: u64) {
        if region == 0 {
            // A full stream loses debug output rather than stop the guest.
            self.out
                .send(&value.to_le_bytes()[..usize::from(size.min(8))]);
        } else {
            cx.wires.power(Power::DebugExit(value as u32));
        }
    }
    fn reset(&mut self, _cx: &mut Context<'_>) {}
    fn save(&self) -> Vec<u8> {
        save_state(1, &())
    }
    fn load(&mut self, section: &[u8]) -> Result<(), LoadError> {
        load_state::<()>(1, section)
    }
    fn inspect(&self, _out: &mut Inspector) {}
}
