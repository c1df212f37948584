//! One VM: the only place where a processor meets a device.
//!
//! [`Machine`] is built from a [`spec::MachineSpec`] by the list in [`board`]. Engines reach it
//! through [`bus::VcpuBus`]; its processors run in the loops of [`vcpu`]. [`acpi`] describes the
//! board to the guest's operating system; [`boot`] puts a kernel into guest memory and says in
//! which state the first processor enters it ([`entry`]). Time comes from a [`clock`], events
//! go to the [`trace`], costs into [`stats`].
//!
//! This is the only crate that locks: device, then interrupt hub, then timers and pins.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod acpi;
pub mod board;
pub mod boot;
pub mod bus;
pub mod clock;
mod decode;
pub mod entry;
pub mod hub;
mod hub_pins;
pub mod lock;
mod machine;
pub mod spec;
pub mod stats;
#[cfg(test)]
mod tests;
mod timers;
pub mod trace;
pub mod vcpu;

pub use decode::{Claim, Decoder};
pub use machine::{End, Host, Machine};
