//! What devices are connected to. `backends` implements these traits for files, terminals and
//! the host's randomness; tests implement them with vectors.
//!
//! Calls are synchronous and return at once or after one host operation; a backend that has
//! something new tells the machine, which calls [`crate::Device::completion`].

use alloc::string::String;

/// Why a backend could not do what a device asked: the device answers its guest with its own
/// error, the user gets this text as an event.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BackendError(pub String);

impl core::fmt::Display for BackendError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(&self.0)
    }
}

/// A disk: an array of bytes whose size is a multiple of 512.
pub trait Disk: Send {
    /// Size in bytes.
    fn size(&self) -> u64;
    /// True if writes are refused.
    fn read_only(&self) -> bool;
    /// A short identity for the guest (virtio-blk GET_ID, IDE model): at most 20 ASCII bytes.
    fn serial(&self) -> &str;
    /// Reads `into.len()` bytes at `at`; the device has checked the range against [`Self::size`].
    fn read_at(&mut self, at: u64, into: &mut [u8]) -> Result<(), BackendError>;
    /// Writes at `at`; checked likewise.
    fn write_at(&mut self, at: u64, from: &[u8]) -> Result<(), BackendError>;
    /// Makes all completed writes durable.
    fn flush(&mut self) -> Result<(), BackendError>;
    /// The range's content no longer matters (`zero`: it must read as zeroes afterwards).
    fn discard(&mut self, at: u64, len: u64, zero: bool) -> Result<(), BackendError>;
}

/// A character stream: the other end of a UART, a console, a debug port.
pub trait Stream: Send {
    /// Takes up to `into.len()` bytes of waiting input; 0 if there is none now.
    fn receive(&mut self, into: &mut [u8]) -> usize;
    /// Sends bytes; returns how many were taken (the rest is offered again at the next
    /// completion).
    fn send(&mut self, from: &[u8]) -> usize;
    /// The terminal's size in columns and rows, if it has one.
    fn window(&self) -> Option<(u16, u16)> {
        None
    }
}

/// A source of random bytes for virtio-rng.
pub trait Entropy: Send {
    /// Fills `into` wholly.
    fn fill(&mut self, into: &mut [u8]) -> Result<(), BackendError>;
}

/// A stream to nowhere: no input, output is swallowed.
#[derive(Debug, Default)]
pub struct Null;

impl Stream for Null {
    fn receive(&mut self, _into: &mut [u8]) -> usize {
        0
    }
    fn send(&mut self, from: &[u8]) -> usize {
        from.len()
    }
}
