//! One VM: the only place where a processor meets a device.
//!
//! [`acpi`] describes the board to the guest's operating system; [`boot`] puts a kernel into
//! guest memory and says in which state the first processor enters it.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod acpi;
pub mod boot;
