//! Guest-physical memory: one host mapping, the map that places it in the guest's physical
//! address space, and a mark per page that holds translated or decoded code.
//!
//! Engines ask [`GuestMemory::lookup`] once per page and then use [`RamOffset`]s; devices use
//! [`GuestMemory::read`] and [`GuestMemory::write`] with guest-physical addresses. Every store,
//! whoever makes it, tests the page's mark, so that self-modifying code and DMA into code are
//! seen in one place.
//!
//! Nobody makes a Rust reference into guest memory: it is copied in and out by single machine
//! moves ([`Word`]), so that vCPU threads see each other's stores with the memory order of the
//! host, which is the guest's too (x86 on x86).
#![no_std]
#![warn(missing_docs)]

extern crate alloc;

mod host;
mod map;
mod word;

pub use map::{GuestMemory, HostRegion, MapError, OutOfRam, PAGE_SIZE, Page};
pub use word::Word;

/// A guest-physical address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Gpa(pub u64);

impl core::fmt::Debug for Gpa {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "gpa {:#x}", self.0)
    }
}

/// A byte's place in the host mapping that backs guest RAM. Obtained from
/// [`GuestMemory::lookup`]; valid as long as the machine lives, since RAM never moves.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RamOffset(pub u64);
