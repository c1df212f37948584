//! A bus with nothing on it but the port that ends a run, for tests of one processor in and outside
//! the crate.

use mem::Gpa;
use std::sync::Arc;
use x86::{Bus, Signals};

/// Writing to it ends a run; so does an interrupt.
pub const END: u16 = 0xf4;

/// Its processor's pins.
pub struct EndBus(pub Arc<Signals>);

impl Bus for EndBus {
    fn mmio_read(&mut self, _: Gpa, _: u8) -> u64 {
        !0
    }
    fn mmio_write(&mut self, _: Gpa, _: u8, _: u64) {}
    fn port_in(&mut self, _: u16, _: u8) -> u32 {
        !0
    }
    fn port_out(&mut self, port: u16, _: u8, _: u32) {
        if port == END {
            self.0.raise(Signals::RETURN);
        }
    }
    fn msr_read(&mut self, _: u32) -> Option<u64> {
        None
    }
    fn msr_write(&mut self, _: u32, _: u64) -> bool {
        false
    }
    fn tsc(&mut self) -> u64 {
        0
    }
    fn task_priority(&mut self) -> u8 {
        0
    }
    fn set_task_priority(&mut self, _: u8) {}
    fn acknowledge(&mut self) -> Option<u8> {
        self.0.lower(Signals::INTR);
        self.0.raise(Signals::RETURN);
        None
    }
}
