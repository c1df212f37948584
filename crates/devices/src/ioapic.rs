//! The I/O APIC (Intel 82093AA datasheet 290566; the EOI register of version 0x20: Intel ICH
//! datasheets, "APIC Direct Registers").
//!
//! Region 0 is the window of 0x1000 bytes, usually at 0xFEC0_0000: index at 0x00, data at 0x10,
//! EOI at 0x40. The interrupt hub owns it: it drives the pins with [`Ioapic::set_gsi`] and passes
//! the CPUs' EOI broadcasts to [`Ioapic::eoi`]. Interrupts leave as [`Message`]s in MSI form.
//!
//! Pin levels are logical: `true` is asserted. The polarity bit is kept and has no effect, as in
//! KVM (`KVM_CAP_IOAPIC_POLARITY_IGNORED`): boards wire active-high and firmware may say either.
//! Not modelled: delivery status (a message is always accepted at once), arbitration.

use crate::{Context, Device, Inspector, LoadError, Message, Wires, load_state, save_state};
use alloc::format;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// Number of input pins.
pub const PINS: u8 = 24;
/// Version 0x20 with an EOI register; the highest entry in bits 23:16.
const VERSION: u32 = 0x20 | ((PINS as u32 - 1) << 16);

const VECTOR: u64 = 0xff;
const DELIVERY_MODE: u64 = 7 << 8;
const LOGICAL: u64 = 1 << 11;
const DELIVERY_STATUS: u64 = 1 << 12;
const REMOTE_IRR: u64 = 1 << 14;
const LEVEL: u64 = 1 << 15;
const MASKED: u64 = 1 << 16;
/// Bits 16:0 and the destination; the rest is reserved.
const WRITABLE: u64 = (0xff << 56) | 0x1_ffff & !(DELIVERY_STATUS | REMOTE_IRR);
const LOWEST_PRIORITY: u64 = 1;

/// An I/O APIC with 24 pins.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Ioapic {
    id: u8,
    index: u8,
    /// Asserted pins, one bit each.
    lines: u32,
    /// The redirection table.
    entries: [u64; PINS as usize],
}

impl Default for Ioapic {
    fn default() -> Self {
        Self::new()
    }
}

impl Ioapic {
    /// The I/O APIC at power-on: all pins masked, ID 0.
    pub fn new() -> Self {
        Ioapic {
            id: 0,
            index: 0,
            lines: 0,
            entries: [MASKED; PINS as usize],
        }
    }

    /// Asserts or releases `pin`. "Edge-sensitive interrupts signaled on a masked interrupt pin
    /// are ignored"; a level that is still there when the mask goes is delivered then.
    pub fn set_gsi(&mut self, pin: u8, level: bool, wires: &mut dyn Wires) {
        if pin >= PINS {
            return;
        }
        let bit = 1u32 << pin;
        let rising = level && self.lines & bit == 0;
        if level {
            self.lines |= bit;
        } else {
            self.lines &= !bit;
        }
        let entry = self.entries[usize::from(pin)];
        if entry & LEVEL != 0 {
            self.service_level(pin, wires);
        } else if rising && entry & MASKED == 0 {
            wires.message(message(entry));
        }
    }

    /// A CPU has ended the level-triggered interrupt `vector`: pins still asserted send again.
    pub fn eoi(&mut self, vector: u8, wires: &mut dyn Wires) {
        for pin in 0..PINS {
            let entry = &mut self.entries[usize::from(pin)];
            if *entry & VECTOR == u64::from(vector) && *entry & REMOTE_IRR != 0 {
                *entry &= !REMOTE_IRR;
                self.service_level(pin, wires);
            }
        }
    }

    /// A read at `offset` of the window.
    pub fn window_read(&self, offset: u64) -> u32 {
        match offset {
            0x00 => u32::from(self.index),
            0x10 => match self.index {
                0x00 | 0x02 => u32::from(self.id) << 24,
                0x01 => VERSION,
                index => match self.entries.get(usize::from(index.wrapping_sub(0x10) >> 1)) {
                    Some(entry) if index & 1 == 0 => *entry as u32,
                    Some(entry) => (*entry >> 32) as u32,
                    None => 0,
                },
            },
            _ => u32::MAX,
        }
    }

    /// A write at `offset` of the window.
    pub fn window_write(&mut self, offset: u64, value: u32, wires: &mut dyn Wires) {
        match (offset, self.index) {
            (0x00, _) => self.index = value as u8,
            (0x10, 0x00) => self.id = (value >> 24) as u8 & 0x0f,
            (0x10, index @ 0x10..) => self.write_entry(index, value, wires),
            (0x40, _) => self.eoi(value as u8, wires),
            _ => {}
        }
    }

    /// Back to power-on; the pins keep the levels that devices drive.
    pub fn power_on(&mut self) {
        *self = Ioapic {
            lines: self.lines,
            ..Ioapic::new()
        };
    }

    fn write_entry(&mut self, index: u8, value: u32, wires: &mut dyn Wires) {
        let pin = (index - 0x10) >> 1;
        let Some(entry) = self.entries.get_mut(usize::from(pin)) else {
            return;
        };
        let (shift, half) = if index & 1 == 0 {
            (0, 0xffff_ffff)
        } else {
            (32, !0xffff_ffff)
        };
        let written = WRITABLE & half;
        *entry = *entry & !written | u64::from(value) << shift & written;
        if *entry & LEVEL == 0 {
            // Edge interrupts have no remote IRR; software clears a stuck one this way.
            *entry &= !REMOTE_IRR;
        } else {
            self.service_level(pin, wires);
        }
    }

    fn service_level(&mut self, pin: u8, wires: &mut dyn Wires) {
        let asserted = self.lines & (1 << pin) != 0;
        let entry = &mut self.entries[usize::from(pin)];
        if !asserted || *entry & (LEVEL | MASKED | REMOTE_IRR) != LEVEL {
            return;
        }
        // Only fixed and lowest-priority interrupts are ended by an EOI.
        if (*entry & DELIVERY_MODE) >> 8 <= LOWEST_PRIORITY {
            *entry |= REMOTE_IRR;
        }
        let sent = message(*entry);
        wires.message(sent);
    }

    fn inspect_pin(&self, pin: u8, out: &mut Inspector) {
        let entry = self.entries[usize::from(pin)];
        if entry & MASKED == 0 {
            let lines = self.lines >> pin & 1;
            out.value(
                &format!("pin {pin}"),
                format_args!("{entry:#018x}, level {lines}"),
            );
        }
    }
}

/// The message an entry stands for (SDM volume 3, "Message Signalled Interrupts").
fn message(entry: u64) -> Message {
    let mode = (entry & DELIVERY_MODE) >> 8;
    let mut address = 0xfee0_0000 | (entry >> 56) << 12;
    if entry & LOGICAL != 0 {
        address |= 1 << 2;
    }
    if mode == LOWEST_PRIORITY {
        address |= 1 << 3;
    }
    let mut data = (entry & (VECTOR | DELIVERY_MODE)) as u32;
    if entry & LEVEL != 0 {
        data |= 1 << 15 | 1 << 14;
    }
    Message { address, data }
}

impl Device for Ioapic {
    fn name(&self) -> &'static str {
        "ioapic"
    }
    fn read(&mut self, _cx: &mut Context<'_>, _region: u8, offset: u64, _size: u8) -> u64 {
        u64::from(self.window_read(offset))
    }
    fn write(&mut self, cx: &mut Context<'_>, _region: u8, offset: u64, _size: u8, value: u64) {
        self.window_write(offset, value as u32, cx.wires);
    }
    fn reset(&mut self, _cx: &mut Context<'_>) {
        self.power_on();
    }
    fn save(&self) -> Vec<u8> {
        let Ioapic {
            id,
            index,
            lines,
            entries,
        } = self;
        save_state(1, &(id, index, lines, entries))
    }
    fn load(&mut self, section: &[u8]) -> Result<(), LoadError> {
        let (id, index, lines, entries): (u8, u8, u32, [u64; PINS as usize]) =
            load_state(1, section)?;
        if id > 0x0f {
            return Err(LoadError::Invalid {
                field: "id",
                why: format!("{id:#x} has over 4 bits"),
            });
        }
        if lines >> PINS != 0 {
            return Err(LoadError::Invalid {
                field: "lines",
                why: format!("{lines:#x} has over 24 pins"),
            });
        }
        for entry in entries {
            let edge_irr = entry & (LEVEL | REMOTE_IRR) == REMOTE_IRR;
            if entry & !(WRITABLE | REMOTE_IRR) != 0 || edge_irr {
                return Err(LoadError::Invalid {
                    field: "entries",
                    why: format!("{entry:#x}"),
                });
            }
        }
        *self = Ioapic {
            id,
            index,
            lines,
            entries,
        };
        Ok(())
    }
    fn inspect(&self, out: &mut Inspector) {
        out.hex("id", u64::from(self.id));
        out.hex("lines", u64::from(self.lines));
        for pin in 0..PINS {
            self.inspect_pin(pin, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Recorder;

    fn program(ioapic: &mut Ioapic, pin: u8, entry: u64, wires: &mut Recorder) {
        for (half, value) in [(1, (entry >> 32) as u32), (0, entry as u32)] {
            ioapic.window_write(0x00, u32::from(0x10 + 2 * pin + half), wires);
            ioapic.window_write(0x10, value, wires);
        }
    }

    fn low(ioapic: &mut Ioapic, pin: u8) -> u32 {
        ioapic.window_write(0, u32::from(0x10 + 2 * pin), &mut Recorder::default());
        ioapic.window_read(0x10)
    }

    #[test]
    fn the_ioapic_keeps_the_contract() {
        crate::contract::check(&[0x50], Ioapic::new);
    }

    #[test]
    fn it_has_24_masked_pins_and_version_0x20() {
        let mut ioapic = Ioapic::new();
        ioapic.window_write(0, 1, &mut Recorder::default());
        assert_eq!(ioapic.window_read(0x10), 0x0017_0020);
        assert_eq!(low(&mut ioapic, 23), 0x1_0000);
    }

    #[test]
    fn an_edge_sends_one_message_with_the_entrys_fields() {
        let (mut ioapic, mut wires) = (Ioapic::new(), Recorder::default());
        program(&mut ioapic, 4, 0x0300_0000_0000_0934, &mut wires);
        ioapic.set_gsi(4, true, &mut wires);
        ioapic.set_gsi(4, true, &mut wires);
        assert_eq!(
            wires.messages,
            [Message {
                address: 0xfee0_300c,
                data: 0x0134
            }]
        );
        ioapic.set_gsi(4, false, &mut wires);
        ioapic.set_gsi(4, true, &mut wires);
        assert_eq!(wires.messages.len(), 2);
    }

    #[test]
    fn an_edge_on_a_masked_pin_is_lost_and_a_level_is_not() {
        let (mut ioapic, mut wires) = (Ioapic::new(), Recorder::default());
        program(&mut ioapic, 5, 0x1_0035, &mut wires);
        program(&mut ioapic, 6, 0x1_8036, &mut wires);
        ioapic.set_gsi(5, true, &mut wires);
        ioapic.set_gsi(6, true, &mut wires);
        assert!(wires.messages.is_empty());
        program(&mut ioapic, 5, 0x0035, &mut wires);
        program(&mut ioapic, 6, 0x8036, &mut wires);
        assert_eq!(
            wires.messages,
            [Message {
                address: 0xfee0_0000,
                data: 0xc036
            }]
        );
    }

    #[test]
    fn a_level_waits_for_the_eoi_and_comes_again_while_asserted() {
        let (mut ioapic, mut wires) = (Ioapic::new(), Recorder::default());
        program(&mut ioapic, 10, 0x8041, &mut wires);
        ioapic.set_gsi(10, true, &mut wires);
        ioapic.set_gsi(10, false, &mut wires);
        ioapic.set_gsi(10, true, &mut wires);
        assert_eq!(wires.messages.len(), 1, "remote IRR holds it back");
        assert_eq!(low(&mut ioapic, 10), 0xc041);
        ioapic.eoi(0x42, &mut wires);
        assert_eq!(wires.messages.len(), 1, "another vector");
        ioapic.eoi(0x41, &mut wires);
        assert_eq!(wires.messages.len(), 2, "still asserted");
        ioapic.set_gsi(10, false, &mut wires);
        ioapic.window_write(0x40, 0x41, &mut wires);
        assert_eq!(wires.messages.len(), 2);
        assert_eq!(low(&mut ioapic, 10), 0x8041);
    }

    #[test]
    fn switching_to_edge_clears_the_remote_irr() {
        let (mut ioapic, mut wires) = (Ioapic::new(), Recorder::default());
        program(&mut ioapic, 3, 0x8041, &mut wires);
        ioapic.set_gsi(3, true, &mut wires);
        assert_eq!(low(&mut ioapic, 3), 0xc041);
        program(&mut ioapic, 3, 0x1_0041, &mut wires);
        assert_eq!(low(&mut ioapic, 3), 0x1_0041);
    }
}
