//! PCI ("PCI Local Bus Specification", revision 3.0): configuration space, MSI-X, the bus with
//! its host bridge, and what a function on it implements.
//!
//! One bus 0, single-function devices with type 0 headers, no bridges to further buses, no
//! power management and no hot plug. Bus mastering is stored but not enforced: a function may
//! use memory and messages whatever the Bus Master bit says (guests exist that never set it).

mod bridge;
mod bus;
mod config;
mod msix;

pub use bridge::{HostBridge, IsaBridge};
pub use bus::{PciBuildError, PciBus, PciLayout};
pub use config::{BarKind, ConfigSpace};
pub use msix::{Msix, MsixState};

use crate::{Context, Inspector, LoadError};
use alloc::vec::Vec;

/// A function on the bus. [`PciBus`] owns it, keeps its configuration space going and calls it
/// for everything else. `cx.wires` is the function's own: line 0 is its INTA#, timers 0 to 7
/// are its own.
pub trait PciFunction: Send {
    /// The model's name, as in messages and saved sections.
    fn name(&self) -> &'static str;
    /// The configuration space, built by the function's constructor.
    fn config(&self) -> &ConfigSpace;
    /// The same, for the bus to apply writes to.
    fn config_mut(&mut self) -> &mut ConfigSpace;
    /// The guest is about to read configuration bytes: a function whose registers are live
    /// refreshes them in its [`ConfigSpace`].
    fn config_reading(&mut self, cx: &mut Context<'_>, offset: u8, size: u8) {
        let _ = (cx, offset, size);
    }
    /// The guest has written configuration bytes; the writable bits have been taken over.
    fn config_written(&mut self, cx: &mut Context<'_>, offset: u8, size: u8) {
        let _ = (cx, offset, size);
    }
    /// A read inside BAR `bar`.
    fn bar_read(&mut self, cx: &mut Context<'_>, bar: u8, offset: u64, size: u8) -> u64 {
        let _ = (cx, bar, offset, size);
        u64::MAX
    }
    /// A write inside BAR `bar`.
    fn bar_write(&mut self, cx: &mut Context<'_>, bar: u8, offset: u64, size: u8, value: u64) {
        let _ = (cx, bar, offset, size, value);
    }
    /// A timer of this function has come due.
    fn timer(&mut self, cx: &mut Context<'_>, timer: u8) {
        let _ = (cx, timer);
    }
    /// A backend has something new; also called when another function's has.
    fn completion(&mut self, cx: &mut Context<'_>) {
        let _ = cx;
    }
    /// Back to the power-on state; the bus resets the configuration space itself.
    fn reset(&mut self, cx: &mut Context<'_>) {
        let _ = cx;
    }
    /// The state beside the configuration space, which the bus saves.
    fn save(&self) -> Vec<u8> {
        Vec::new()
    }
    /// Takes over a saved state, validated as if hostile. On an error nothing has changed.
    fn load(&mut self, section: &[u8]) -> Result<(), LoadError> {
        if section.is_empty() {
            Ok(())
        } else {
            Err(LoadError::Malformed(
                "a state for a function without".into(),
            ))
        }
    }
    /// The state as a readable tree.
    fn inspect(&self, out: &mut Inspector) {
        let _ = out;
    }
}
