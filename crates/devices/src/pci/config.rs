//! A type 0 configuration space of 256 bytes (PCI 3.0, "Configuration Space Organization"): the
//! bytes, which of their bits the guest may write, base address registers and the list of
//! capabilities. Built by a function's constructor, driven by [`super::PciBus`].
//!
//! Not modelled: expansion ROMs, BIST, the error bits of Status, extended capabilities.

use crate::{Inspector, LoadError};
use alloc::boxed::Box;
use alloc::format;
use core::ops::Range;

const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const BARS: usize = 0x10;
const CAPABILITIES: usize = 0x34;
const INTERRUPT_LINE: usize = 0x3c;
const INTERRUPT_PIN: usize = 0x3d;
/// Where the capabilities begin.
const FIRST_CAPABILITY: usize = 0x40;

pub(super) const COMMAND_IO: u16 = 0x0001;
pub(super) const COMMAND_MEMORY: u16 = 0x0002;
pub(super) const COMMAND_INTX_DISABLE: u16 = 0x0400;
/// I/O, memory, bus master, parity, SERR#, INTx disable.
const COMMAND_WRITABLE: u16 = 0x0547;

const STATUS_INTERRUPT: u16 = 0x0008;
const STATUS_CAPABILITIES: u16 = 0x0010;

/// What a base address register decodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BarKind {
    /// Ports.
    Io,
    /// Memory below 4 GiB.
    Memory32,
    /// Memory anywhere; takes this and the next register.
    Memory64,
}

#[derive(Clone, Copy, Debug)]
struct Bar {
    kind: BarKind,
    /// In bytes, a power of two.
    size: u64,
}

/// A function's configuration space.
pub struct ConfigSpace {
    bytes: Box<[u8; 256]>,
    writable: Box<[u8; 256]>,
    /// The bytes at power-on.
    initial: Box<[u8; 256]>,
    bars: [Option<Bar>; 6],
    last_capability: usize,
    free: usize,
}

impl ConfigSpace {
    /// A header with `class` = base class, subclass and interface as in 0x01_00_00.
    pub fn new(vendor: u16, device: u16, class: u32, revision: u8) -> ConfigSpace {
        let mut space = ConfigSpace {
            bytes: Box::new([0; 256]),
            writable: Box::new([0; 256]),
            initial: Box::new([0; 256]),
            bars: [None; 6],
            last_capability: 0,
            free: FIRST_CAPABILITY,
        };
        space.fix(0x00, &vendor.to_le_bytes());
        space.fix(0x02, &device.to_le_bytes());
        space.fix(0x08, &[revision]);
        space.fix(0x09, &class.to_le_bytes()[..3]);
        space.allow(COMMAND, &COMMAND_WRITABLE.to_le_bytes());
        // Cache line size and latency timer: stored for the driver's sake.
        space.allow(0x0c, &[0xff, 0xff]);
        space.allow(INTERRUPT_LINE, &[0xff]);
        space
    }

    /// Sets bytes as they are at power-on. For constructors.
    pub fn fix(&mut self, offset: usize, bytes: &[u8]) {
        self.bytes[offset..][..bytes.len()].copy_from_slice(bytes);
        self.initial[offset..][..bytes.len()].copy_from_slice(bytes);
    }

    /// Makes bits writable. For constructors.
    pub fn allow(&mut self, offset: usize, mask: &[u8]) {
        self.writable[offset..][..mask.len()].copy_from_slice(mask);
    }

    /// Sets the subsystem's ids. For constructors.
    pub fn subsystem(&mut self, vendor: u16, id: u16) {
        self.fix(0x2c, &vendor.to_le_bytes());
        self.fix(0x2e, &id.to_le_bytes());
    }

    /// Gives the function an INTA#. For constructors.
    pub fn use_intx(&mut self) {
        self.fix(INTERRUPT_PIN, &[1]);
    }

    /// Declares base address register `index`, `size` a power of two of at least 16 bytes. The
    /// bus assigns its address. For constructors.
    pub fn add_bar(&mut self, index: usize, kind: BarKind, size: u64) {
        assert!(size.is_power_of_two() && size >= 16, "BAR size");
        let flags = match kind {
            BarKind::Io => 1,
            BarKind::Memory32 => 0,
            BarKind::Memory64 => 4,
        };
        let at = BARS + 4 * index;
        self.fix(at, &[flags]);
        let mask = !(size - 1);
        match kind {
            // The upper 16 bits of an I/O BAR may be hard-wired to zero on a PC.
            BarKind::Io => self.allow(at, &(mask as u32 & 0xffff).to_le_bytes()),
            BarKind::Memory32 => self.allow(at, &(mask as u32).to_le_bytes()),
            BarKind::Memory64 => self.allow(at, &mask.to_le_bytes()),
        }
        self.bars[index] = Some(Bar { kind, size });
    }

    /// Appends a capability: its id, the bytes after the link, and which of their bits are
    /// writable. Returns its offset. For constructors.
    pub fn add_capability(&mut self, id: u8, body: &[u8], writable: &[u8]) -> u8 {
        let at = self.free;
        assert!(at + 2 + body.len() <= 256, "capabilities fit");
        self.fix(at, &[id, 0]);
        self.fix(at + 2, body);
        self.allow(at + 2, writable);
        if self.last_capability == 0 {
            self.fix(CAPABILITIES, &[at as u8]);
            self.fix(STATUS, &STATUS_CAPABILITIES.to_le_bytes());
        } else {
            self.fix(self.last_capability + 1, &[at as u8]);
        }
        self.last_capability = at;
        self.free = (at + 2 + body.len()).next_multiple_of(4);
        at as u8
    }

    /// The base address registers with kind and size.
    pub fn bars(&self) -> impl Iterator<Item = (usize, BarKind, u64)> + '_ {
        let bar = |(i, b): (usize, &Option<Bar>)| b.map(|b| (i, b.kind, b.size));
        self.bars.iter().enumerate().filter_map(bar)
    }

    /// Places a register at power-on, as firmware would. For the bus.
    pub(super) fn assign(&mut self, index: usize, address: u64) {
        let at = BARS + 4 * index;
        let Some(bar) = self.bars[index] else {
            return;
        };
        let flags = u64::from(self.bytes[at] & 0xf);
        let value = (address | flags).to_le_bytes();
        let len = if bar.kind == BarKind::Memory64 { 8 } else { 4 };
        self.fix(at, &value[..len]);
    }

    /// The addresses register `index` decodes now; `None` if switched off in Command, or if it
    /// would wrap around.
    pub(super) fn decoded(&self, index: usize) -> Option<(BarKind, Range<u64>)> {
        let bar = self.bars[index]?;
        let needs = match bar.kind {
            BarKind::Io => COMMAND_IO,
            BarKind::Memory32 | BarKind::Memory64 => COMMAND_MEMORY,
        };
        if self.command() & needs == 0 {
            return None;
        }
        let at = BARS + 4 * index;
        let mut base = u64::from(self.u32(at));
        if bar.kind == BarKind::Memory64 {
            base |= u64::from(self.u32(at + 4)) << 32;
        }
        base &= !(bar.size - 1);
        Some((bar.kind, base..base.checked_add(bar.size)?))
    }

    /// The Command register.
    pub fn command(&self) -> u16 {
        self.u16(COMMAND)
    }

    /// Sets Command at power-on. For the bus.
    pub(super) fn enable_decoding(&mut self, irq: u8) {
        let command = COMMAND_IO | COMMAND_MEMORY;
        self.fix(COMMAND, &command.to_le_bytes());
        if self.bytes[INTERRUPT_PIN] != 0 {
            self.fix(INTERRUPT_LINE, &[irq]);
        }
    }

    /// Shows in Status whether the function asks for INTx.
    pub(super) fn show_interrupt(&mut self, level: bool) {
        let status = self.u16(STATUS) & !STATUS_INTERRUPT;
        let bit = if level { STATUS_INTERRUPT } else { 0 };
        self.bytes[STATUS..STATUS + 2].copy_from_slice(&(status | bit).to_le_bytes());
    }

    /// Two bytes at `offset`.
    pub fn u16(&self, offset: usize) -> u16 {
        u16::from_le_bytes([self.byte(offset), self.byte(offset + 1)])
    }

    /// Four bytes at `offset`.
    pub fn u32(&self, offset: usize) -> u32 {
        u32::from(self.u16(offset)) | u32::from(self.u16(offset + 2)) << 16
    }

    fn byte(&self, offset: usize) -> u8 {
        self.bytes.get(offset).copied().unwrap_or(0xff)
    }

    /// Replaces live bytes (not the power-on ones), for functions whose registers change.
    pub fn show(&mut self, offset: usize, bytes: &[u8]) {
        for (to, from) in self.bytes.iter_mut().skip(offset).zip(bytes) {
            *to = *from;
        }
    }

    /// A read by the guest, of 1, 2 or 4 bytes inside one doubleword.
    pub(super) fn read(&self, offset: usize, size: u8) -> u32 {
        (0..usize::from(size.min(4)))
            .fold(0, |v, i| v | u32::from(self.byte(offset + i)) << (8 * i))
    }

    /// A write by the guest: the writable bits change.
    pub(super) fn write(&mut self, offset: usize, size: u8, value: u32) {
        for i in 0..usize::from(size.min(4)) {
            let Some(mask) = self.writable.get(offset + i).copied() else {
                return;
            };
            let byte = &mut self.bytes[offset + i];
            *byte = *byte & !mask | (value >> (8 * i)) as u8 & mask;
        }
    }

    /// Back to the bytes of power-on.
    pub(super) fn reset(&mut self) {
        *self.bytes = *self.initial;
    }

    /// The bytes, for a saved state.
    pub(super) fn save(&self) -> &[u8] {
        &self.bytes[..]
    }

    /// Takes over saved bytes: nothing the guest cannot write may differ from power-on.
    pub(super) fn check(&self, saved: &[u8]) -> Result<(), LoadError> {
        if saved.len() != 256 {
            return Err(LoadError::Invalid {
                field: "config",
                why: format!("{} bytes instead of 256", saved.len()),
            });
        }
        for (i, byte) in saved.iter().enumerate() {
            let mut fixed = !self.writable[i];
            if i == STATUS {
                fixed &= !(STATUS_INTERRUPT as u8);
            }
            if (byte ^ self.initial[i]) & fixed != 0 {
                return Err(LoadError::Invalid {
                    field: "config",
                    why: format!("byte {i:#x} is {byte:#x}, which no guest can make it"),
                });
            }
        }
        Ok(())
    }

    pub(super) fn load(&mut self, saved: &[u8]) {
        self.show(0, saved);
    }

    /// Ids, command and decoded addresses.
    pub fn inspect(&self, out: &mut Inspector) {
        out.value(
            "id",
            format_args!("{:04x}:{:04x}", self.u16(0), self.u16(2)),
        );
        out.hex("command", self.command().into());
        for index in 0..self.bars.len() {
            if let Some((kind, range)) = self.decoded(index) {
                out.value(
                    &format!("bar{index}"),
                    format_args!("{kind:?} {:#x}..{:#x}", range.start, range.end),
                );
            }
        }
    }
}
