//! How the interrupt hub is wired to the board, the pins and the clock.
//!
//! The hub has not landed: nothing is delivered yet.

use crate::board::HubPart;
use crate::bus::VcpuBus;
use crate::machine::Machine;
use devices::Message;

impl Machine {
    pub(crate) fn hub_reset(&self) {}
    pub(crate) fn hub_timers(&self, _now_ns: u64) {}
    pub(crate) fn hub_deadline(&self) -> Option<u64> {
        None
    }
    pub(crate) fn hub_line(&self, _slot: usize, _gsi: u8, _level: bool) {}
    pub(crate) fn hub_message(&self, _message: Message) {}
}

impl VcpuBus<'_> {
    pub(crate) fn hub_read(&mut self, _part: HubPart, _region: u8, _at: u64, _size: u8) -> u64 {
        u64::MAX
    }
    pub(crate) fn hub_write(&mut self, _part: HubPart, _region: u8, _at: u64, _size: u8, _v: u64) {}
    pub(crate) fn hub_msr_read(&mut self, _index: u32) -> Option<u64> {
        None
    }
    pub(crate) fn hub_msr_write(&mut self, _index: u32, _value: u64) -> bool {
        false
    }
    pub(crate) fn hub_task_priority(&mut self) -> u8 {
        0
    }
    pub(crate) fn hub_set_task_priority(&mut self, _class: u8) {}
    pub(crate) fn hub_acknowledge(&mut self) -> Option<u8> {
        None
    }
}
