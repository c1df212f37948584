//! Virtio devices ("Virtual I/O Device (VIRTIO) Version 1.2", OASIS 2022), without the legacy
//! interface.
//!
//! A device implements [`VirtioDevice`]; an [`Endpoint`] holds it with what every transport
//! shares (status, features, queues); [`VirtioPci`] or [`VirtioMmio`] gives that to the guest.
//! A guest that breaks a ring gets DEVICE_NEEDS_RESET, the user an event that says why.

mod endpoint;
mod queue;
mod transport_mmio;
mod transport_pci;

pub mod blk;
pub mod console;
#[cfg(test)]
mod driver;
pub mod rng;

pub use endpoint::{Endpoint, EndpointState, Signals};
pub use queue::{Chain, Queue, RingError, Segment};
pub use transport_mmio::VirtioMmio;
pub use transport_pci::VirtioPci;

use crate::{Inspector, LoadError};
use alloc::string::String;
use alloc::vec::Vec;
use mem::GuestMemory;

/// VIRTIO_F_VERSION_1 and the ring features every queue has: offered for every device.
pub const F_VERSION_1: u64 = 1 << 32;
/// VIRTIO_F_INDIRECT_DESC.
pub const F_INDIRECT_DESC: u64 = 1 << 28;
/// VIRTIO_F_EVENT_IDX.
pub const F_EVENT_IDX: u64 = 1 << 29;

/// What a device may use while it is called.
pub struct DeviceIo<'a> {
    /// Machine time, in nanoseconds since power-on.
    pub now_ns: u64,
    /// Guest memory, for the buffers.
    pub memory: &'a GuestMemory,
    /// The queues, as many as [`VirtioDevice::queue_sizes`] says; a queue the driver has not
    /// enabled gives no chains.
    pub queues: &'a mut [Queue],
    /// To be set when the configuration space has changed: the driver is told.
    pub config_changed: bool,
    /// To be set when there is more to do than was done: [`VirtioDevice::notify`] is called
    /// again soon for the same queue.
    pub more: bool,
    /// Texts for the user (host failures), without the device's label.
    pub events: Vec<String>,
}

/// A ring was broken by the driver: the device stops until it is reset.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Broken {
    /// The queue.
    pub queue: u16,
    /// What is wrong with it.
    pub why: RingError,
}

impl RingError {
    /// Names the queue.
    pub fn at(self, queue: u16) -> Broken {
        Broken { queue, why: self }
    }
}

/// A device behind any virtio transport.
pub trait VirtioDevice: Send {
    /// The model's name: `"virtio-blk"`.
    fn name(&self) -> &'static str;
    /// The device type ("Device Types"): 2 for a block device.
    fn id(&self) -> u16;
    /// The PCI class, subclass and interface, as 0x01_00_00.
    fn class(&self) -> u32;
    /// The device's own feature bits; ring and transport bits are added by the endpoint.
    fn features(&self) -> u64;
    /// The largest size of each queue, powers of two; at most 32 queues.
    fn queue_sizes(&self) -> &[u16];
    /// Copies the configuration space from `offset` on; what is beyond its end stays as it is.
    fn config_read(&self, offset: u64, into: &mut [u8]);
    /// The driver writes to the configuration space.
    fn config_write(&mut self, io: &mut DeviceIo<'_>, offset: u64, from: &[u8]) {
        let _ = (io, offset, from);
    }
    /// The driver has set DRIVER_OK with these features.
    fn activate(&mut self, io: &mut DeviceIo<'_>, features: u64) -> Result<(), Broken> {
        let _ = (io, features);
        Ok(())
    }
    /// The driver has added buffers to `queue` (which exists). At most about a ring's worth of
    /// work is done at a time; see [`DeviceIo::more`].
    fn notify(&mut self, io: &mut DeviceIo<'_>, queue: u16) -> Result<(), Broken>;
    /// The backend has something new. Called only while the driver is OK.
    fn completion(&mut self, io: &mut DeviceIo<'_>) -> Result<(), Broken> {
        let _ = io;
        Ok(())
    }
    /// Back to the state before `activate`.
    fn reset(&mut self);
    /// The state beside what the endpoint saves.
    fn save(&self) -> Vec<u8>;
    /// Takes over a saved state, validated as if hostile. On an error nothing has changed.
    fn load(&mut self, section: &[u8]) -> Result<(), LoadError>;
    /// The state as a readable tree.
    fn inspect(&self, out: &mut Inspector) {
        let _ = out;
    }
}

/// Copies the part of a configuration structure that a read at `offset` asks for.
pub fn config_bytes(structure: &[u8], offset: u64, into: &mut [u8]) {
    let from = structure.get(usize::try_from(offset).unwrap_or(usize::MAX)..);
    for (to, from) in into.iter_mut().zip(from.unwrap_or(&[])) {
        *to = *from;
    }
}
