//! Where a PC has RAM, and how that is told to a guest (E820, ACPI 6.5 "System Address Map
//! Interfaces").

use super::{BootError, FIRST_FREE};
use alloc::vec::Vec;

/// First byte of the hole for devices below 4 GiB.
pub(super) const HOLE: u64 = 0xc000_0000;
const HIGH: u64 = 1 << 32;
/// Where the extended BIOS data area would begin: the last KiB below 640 KiB stays reserved.
const EBDA: u64 = 0x9_fc00;
const LEGACY: u64 = 0xa_0000;
const FIRMWARE: u64 = 0xe_0000;
const MIB: u64 = 1 << 20;

/// The RAM of a machine. `low` counts from address 0, so that the legacy area from 0xA0000 to
/// 0x100000 is in it but is no RAM of the guest; the board puts ROM, RAM or VGA there. What
/// the ACPI tables need, 0xE0000 to 0x100000, must be RAM or ROM.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemoryLayout {
    /// End of the RAM below the device hole in bytes, a multiple of 4096, at most 0xC000_0000.
    pub low: u64,
    /// Bytes of RAM from 4 GiB on, a multiple of 4096.
    pub high: u64,
}

/// The kind of an E820 range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum E820Type {
    /// RAM for the guest.
    Ram = 1,
    /// Not to be used.
    Reserved = 2,
}

/// One range of the E820 map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct E820Entry {
    /// First byte.
    pub start: u64,
    /// Length in bytes.
    pub len: u64,
    /// What it is.
    pub kind: E820Type,
}

impl MemoryLayout {
    /// Splits `size` bytes of memory around the device hole.
    pub fn of(size: u64) -> MemoryLayout {
        let low = size.min(HOLE);
        MemoryLayout {
            low,
            high: size - low,
        }
    }

    /// All memory in bytes, as the user counts it.
    pub fn total(&self) -> u64 {
        self.low.saturating_add(self.high)
    }

    /// Checks what the loaders rely on.
    pub(super) fn check(&self) -> Result<(), BootError> {
        let end = self.high.checked_add(HIGH);
        if !self.low.is_multiple_of(4096) || !self.high.is_multiple_of(4096) || self.low > HOLE {
            return Err(BootError::Layout { low: self.low });
        }
        // 52 bits is the widest physical address there is.
        if end.is_none_or(|end| end > 1 << 52) {
            return Err(BootError::Layout { low: self.low });
        }
        if self.low < 2 * MIB {
            return Err(BootError::MemoryTooSmall {
                has_kib: self.low >> 10,
            });
        }
        Ok(())
    }

    /// The ranges the guest may use as RAM, in ascending order: start and length in bytes.
    pub fn ram(&self) -> Vec<(u64, u64)> {
        [
            (0, self.low.min(LEGACY)),
            (MIB, self.low.saturating_sub(MIB)),
            (HIGH, self.high),
        ]
        .into_iter()
        .filter(|r| r.1 > 0)
        .collect()
    }

    /// The E820 map.
    pub fn e820(&self) -> Vec<E820Entry> {
        use E820Type::{Ram, Reserved};
        [
            (0, EBDA, Ram),
            (EBDA, LEGACY, Reserved),
            (FIRMWARE, MIB, Reserved),
            (MIB, self.low, Ram),
            (HIGH, HIGH.saturating_add(self.high), Ram),
        ]
        .into_iter()
        .filter(|(start, end, _)| end > start)
        .map(|(start, end, kind)| E820Entry {
            start,
            len: end - start,
            kind,
        })
        .collect()
    }

    /// True if a kernel may load something to `start..end`: RAM, and not over our structures.
    pub(super) fn is_free(&self, start: u64, end: u64) -> bool {
        let within = |from: u64, to: u64| start >= from && end <= to;
        within(FIRST_FREE, EBDA)
            || within(MIB, self.low)
            || within(HIGH, HIGH.saturating_add(self.high))
    }
}

impl MemoryLayout {
    /// The error for something that has no room at `start..end`, with the way out.
    pub(super) fn outside(&self, what: alloc::string::String, start: u64, end: u64) -> BootError {
        use alloc::format;
        let way_out = if start >= MIB && end > self.low && end <= HOLE {
            format!("give at least {} MiB of memory", end.div_ceil(MIB))
        } else if start < FIRST_FREE {
            format!("the boot loader uses memory below {FIRST_FREE:#x}: link it to 1 MiB or above")
        } else if start < MIB {
            format!("{EBDA:#x} to 0x100000 is reserved: link it to 1 MiB or above")
        } else {
            format!(
                "RAM ends at {:#x}, with a hole from 3 to 4 GiB: link it lower",
                self.low
            )
        };
        BootError::OutsideRam {
            what,
            start,
            end,
            way_out,
        }
    }
}
