//! What a machine has cost so far, as numbers: for `--stats` and for tests.

use crate::machine::Machine;
use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use serde::Serialize;

/// Accesses to one device.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct DeviceStats {
    /// Its name on the board.
    pub name: String,
    /// Reads by the guest.
    pub reads: u64,
    /// Writes by the guest.
    pub writes: u64,
}

/// One processor.
#[derive(Clone, Copy, Default, PartialEq, Debug, Serialize)]
#[allow(missing_docs)]
pub struct VcpuStats {
    pub instructions: u64,
    pub exceptions: u64,
    pub interrupts: u64,
    pub mmio: u64,
    pub port: u64,
    pub blocks_decoded: u64,
    pub page_walks: u64,
    /// Host time inside the guest, in seconds, where the engine measures it.
    pub guest_s: f64,
    /// Host time outside it.
    pub host_s: f64,
}

impl From<x86::Counters> for VcpuStats {
    fn from(c: x86::Counters) -> Self {
        let x86::Counters {
            instructions,
            exceptions,
            interrupts,
            mmio,
            port,
            blocks_decoded,
            page_walks,
            guest_ns,
            host_ns,
        } = c;
        VcpuStats {
            instructions,
            exceptions,
            interrupts,
            mmio,
            port,
            blocks_decoded,
            page_walks,
            guest_s: guest_ns as f64 / 1e9,
            host_s: host_ns as f64 / 1e9,
        }
    }
}

impl Machine {
    /// The devices that were asked at least once, in board order.
    pub fn device_stats(&self) -> Vec<DeviceStats> {
        let slots = self.board().slots.iter();
        slots
            .map(|slot| DeviceStats {
                name: slot.name.into(),
                reads: slot.accesses.reads.load(Ordering::Relaxed),
                writes: slot.accesses.writes.load(Ordering::Relaxed),
            })
            .filter(|d| d.reads + d.writes > 0)
            .collect()
    }
}
