//! Everything a guest sees beside its processor: state machines without threads, locks, clocks
//! or files. The same code runs in a Linux process, on bare metal, in a simulation and in a
//! fuzzer.
//!
//! A device implements [`Device`]. Its only effects go through the [`Context`] it is handed:
//! guest memory, interrupt lines, messages, its timers, the power switch. `machine` calls the
//! devices and carries the effects out; `backends` implements the traits in [`backend`].
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod acpi_pm;
pub mod backend;
#[cfg(test)]
pub mod contract;
pub mod coprocessor;
pub mod debug_port;
mod device;
pub mod hpet;
pub mod i8042;
pub mod i8254;
pub mod i8259;
pub mod ioapic;
pub mod lapic;
mod lapic_timer;
pub mod mc146818;
pub mod ns16550;
pub mod pci;
pub mod virtio;

pub use device::{
    Context, Device, Inspector, LoadError, Message, Power, Recorder, Wires, load_state, save_state,
};
