//! What a machine has cost so far, as numbers: for `--stats` and for tests.

use crate::machine::Machine;
use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
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
    /// The devices that were asked at least once, in board order; those on a bus after the bus,
    /// whose own accesses are then what the bus answered itself (configuration).
    pub fn device_stats(&self) -> Vec<DeviceStats> {
        let mut all = Vec::new();
        for (number, slot) in self.board().slots.iter().enumerate() {
            let behind = self.with_device(number, |device, _| device.passed_on());
            let behind = behind.unwrap_or_default();
            let (reads, writes) = behind.iter().fold((0, 0), |(r, w), b| (r + b.1, w + b.2));
            // Counted before it is passed on, and read after what was: never less.
            let own = |count: &AtomicU64, passed| count.load(Ordering::Relaxed) - passed;
            all.push(DeviceStats {
                name: slot.name.into(),
                reads: own(&slot.accesses.reads, reads),
                writes: own(&slot.accesses.writes, writes),
            });
            all.extend(behind.into_iter().map(|(name, reads, writes)| DeviceStats {
                name,
                reads,
                writes,
            }));
        }
        all.retain(|d| d.reads + d.writes > 0);
        all
    }
}
