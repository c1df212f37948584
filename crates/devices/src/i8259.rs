//! The pair of 8259A interrupt controllers of a PC with their edge/level registers (Intel 8259A
//! datasheet 231468; ELCR: Intel 82371SB "Interrupt Controller").
//!
//! Regions: 0 = ports 0x20..0x21 (master), 1 = 0xA0..0xA1 (slave), 2 = 0x4D0..0x4D1 (ELCR).
//! The interrupt hub owns the pair: it drives the inputs with [`Pics::set_irq`], watches the INT
//! pin with [`Pics::output`] and runs the acknowledge cycle with [`Pics::acknowledge`].
//!
//! Departures: the slave sits on the master's IR2 whatever ICW3 says (the board has no other
//! wiring) and MCS-80/85 mode, buffered mode and SNGL have no effect beyond the ICW sequence. An
//! edge request stays latched when its line falls before the acknowledge (the datasheet answers
//! with a spurious IR7 then), as in KVM and QEMU: emulated devices pulse their lines. At power-on,
//! where the datasheet leaves everything undefined, all inputs are masked.

use crate::{Context, Device, Inspector, LoadError, load_state, save_state};
use alloc::string::ToString;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// The master's input to which the slave's INT pin goes.
const CASCADE: u8 = 2;
/// The vector offset (and slave or master input) of a spurious interrupt.
const SPURIOUS: u8 = 7;
/// Which lines may be level-triggered: not 0, 1, 2, 8 and 13.
const ELCR_MASK: [u8; 2] = [0xf8, 0xde];

/// What the next write to the odd port means.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
enum Expect {
    Ocw1,
    Icw2,
    Icw3,
    Icw4,
}

/// One 8259A.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Chip {
    /// Levels of the inputs.
    lines: u8,
    /// Edge requests latched; a level request is its line.
    edges: u8,
    imr: u8,
    isr: u8,
    elcr: u8,
    icw1: u8,
    icw2: u8,
    icw3: u8,
    icw4: u8,
    expect: Expect,
    /// The input of lowest priority; 7 unless rotated.
    lowest: u8,
    /// OCW3: the even port reads ISR, not IRR.
    read_isr: bool,
    /// OCW3: the next read is a poll.
    poll: bool,
    special_mask: bool,
    rotate_on_auto_eoi: bool,
}

impl Chip {
    fn new() -> Self {
        Chip {
            lines: 0,
            edges: 0,
            imr: 0xff,
            isr: 0,
            elcr: 0,
            icw1: 0,
            icw2: 0,
            icw3: 0,
            icw4: 0,
            expect: Expect::Ocw1,
            lowest: 7,
            read_isr: false,
            poll: false,
            special_mask: false,
            rotate_on_auto_eoi: false,
        }
    }

    fn auto_eoi(&self) -> bool {
        self.icw4 & 0x02 != 0
    }

    fn special_fully_nested(&self) -> bool {
        self.icw4 & 0x10 != 0
    }

    /// Which inputs are level-triggered: all by ICW1.LTIM, or each by its ELCR bit.
    fn level_inputs(&self) -> u8 {
        if self.icw1 & 0x08 != 0 {
            0xff
        } else {
            self.elcr
        }
    }

    fn irr(&self) -> u8 {
        let level = self.level_inputs();
        (self.lines & level) | (self.edges & !level)
    }

    fn set_line(&mut self, input: u8, high: bool) {
        let bit = 1u8 << (input & 7);
        if high {
            if self.lines & bit == 0 {
                self.edges |= bit;
            }
            self.lines |= bit;
        } else {
            self.lines &= !bit;
        }
    }

    /// 0 is the highest priority.
    fn priority(&self, input: u8) -> u8 {
        input.wrapping_sub(self.lowest).wrapping_sub(1) & 7
    }

    fn highest(&self, set: u8) -> Option<u8> {
        (0..8)
            .map(|p| self.lowest.wrapping_add(1).wrapping_add(p) & 7)
            .find(|input| set & (1 << input) != 0)
    }

    /// The request that INT stands for: the highest unmasked one that nothing in service blocks.
    fn request(&self) -> Option<u8> {
        if self.expect != Expect::Ocw1 {
            return None;
        }
        let input = self.highest(self.irr() & !self.imr)?;
        let blocking = if self.special_mask {
            self.isr & !self.imr
        } else {
            self.isr
        };
        let Some(served) = self.highest(blocking) else {
            return Some(input);
        };
        let nested = self.special_fully_nested() && served == CASCADE && input == CASCADE;
        (nested || self.priority(input) < self.priority(served)).then_some(input)
    }

    /// The INTA cycle for `input`: into service, or at once out of it with automatic EOI.
    fn take(&mut self, input: u8) {
        let bit = 1u8 << (input & 7);
        self.edges &= !bit;
        if self.auto_eoi() {
            if self.rotate_on_auto_eoi {
                self.lowest = input & 7;
            }
        } else {
            self.isr |= bit;
        }
    }

    fn icw1(&mut self, value: u8) {
        self.icw1 = value;
        self.expect = Expect::Icw2;
        // "The edge sense circuit is reset": an input must rise again.
        self.edges = 0;
        self.imr = 0;
        self.isr = 0;
        self.lowest = 7;
        self.special_mask = false;
        self.read_isr = false;
        self.poll = false;
        self.rotate_on_auto_eoi = false;
        if value & 0x01 == 0 {
            self.icw4 = 0;
        }
    }

    fn ocw2(&mut self, value: u8) {
        let level = value & 7;
        // "An IS bit that is masked by an IMR bit will not be cleared by a non-specific EOI if
        // the 8259A is in the Special Mask Mode."
        let ended = if self.special_mask {
            self.isr & !self.imr
        } else {
            self.isr
        };
        match value >> 5 {
            0b000 => self.rotate_on_auto_eoi = false,
            0b100 => self.rotate_on_auto_eoi = true,
            command @ (0b001 | 0b101) => {
                if let Some(input) = self.highest(ended) {
                    self.isr &= !(1 << input);
                    if command == 0b101 {
                        self.lowest = input;
                    }
                }
            }
            0b011 => self.isr &= !(1 << level),
            0b111 => {
                self.isr &= !(1 << level);
                self.lowest = level;
            }
            0b110 => self.lowest = level,
            _ => {}
        }
    }

    fn ocw3(&mut self, value: u8) {
        match value & 0x60 {
            0x40 => self.special_mask = false,
            0x60 => self.special_mask = true,
            _ => {}
        }
        if value & 0x04 != 0 {
            self.poll = true;
        } else {
            match value & 0x03 {
                2 => self.read_isr = false,
                3 => self.read_isr = true,
                _ => {}
            }
        }
    }

    fn write(&mut self, odd: bool, value: u8) {
        match (odd, self.expect) {
            (false, _) if value & 0x10 != 0 => self.icw1(value),
            (false, _) if value & 0x08 != 0 => self.ocw3(value),
            (false, _) => self.ocw2(value),
            (true, Expect::Ocw1) => self.imr = value,
            (true, Expect::Icw2) => {
                self.icw2 = value & 0xf8;
                self.expect = match self.icw1 & 0x03 {
                    0b00 | 0b01 => Expect::Icw3,
                    0b11 => Expect::Icw4,
                    _ => Expect::Ocw1,
                };
            }
            (true, Expect::Icw3) => {
                self.icw3 = value;
                self.expect = if self.icw1 & 0x01 != 0 {
                    Expect::Icw4
                } else {
                    Expect::Ocw1
                };
            }
            (true, Expect::Icw4) => {
                self.icw4 = value & 0x1f;
                self.expect = Expect::Ocw1;
            }
        }
    }

    fn read(&mut self, odd: bool) -> u8 {
        if core::mem::take(&mut self.poll) {
            return match self.request() {
                Some(input) => {
                    self.take(input);
                    0x80 | input
                }
                None => 0,
            };
        }
        match (odd, self.read_isr) {
            (true, _) => self.imr,
            (false, true) => self.isr,
            (false, false) => self.irr(),
        }
    }

    fn validate(&self) -> Result<(), LoadError> {
        if self.lowest > 7 {
            return Err(LoadError::Invalid {
                field: "lowest",
                why: self.lowest.to_string() + " is not an input",
            });
        }
        Ok(())
    }

    fn inspect(&self, out: &mut Inspector) {
        out.hex("irr", u64::from(self.irr()));
        out.hex("isr", u64::from(self.isr));
        out.hex("imr", u64::from(self.imr));
        out.hex("elcr", u64::from(self.elcr));
        out.hex("vector base", u64::from(self.icw2));
        out.hex("icw4", u64::from(self.icw4));
        out.value("lowest priority", self.lowest);
        out.value("special mask", self.special_mask);
    }
}

/// Master (IRQ 0..7) and slave (IRQ 8..15) as the PC wires them.
pub struct Pics {
    chips: [Chip; 2],
}

impl Default for Pics {
    fn default() -> Self {
        Self::new()
    }
}

impl Pics {
    /// The pair at power-on: all inputs masked.
    pub fn new() -> Self {
        Pics {
            chips: [Chip::new(), Chip::new()],
        }
    }

    /// Drives ISA interrupt `irq` (0..15; 2 is the cascade and not a line).
    pub fn set_irq(&mut self, irq: u8, level: bool) {
        if irq < 16 && irq != CASCADE {
            self.chips[usize::from(irq >> 3)].set_line(irq & 7, level);
            self.cascade();
        }
    }

    /// The master's INT pin.
    pub fn output(&self) -> bool {
        self.chips[0].request().is_some()
    }

    /// The interrupt acknowledge cycle: the vector. A request that has gone meanwhile gives the
    /// spurious vector of input 7, and sets no in-service bit.
    pub fn acknowledge(&mut self) -> u8 {
        let [master, slave] = &mut self.chips;
        let Some(input) = master.request() else {
            return master.icw2 | SPURIOUS;
        };
        master.take(input);
        let vector = if input != CASCADE {
            master.icw2 | input
        } else {
            let vector = match slave.request() {
                Some(input) => {
                    slave.take(input);
                    slave.icw2 | input
                }
                None => slave.icw2 | SPURIOUS,
            };
            // INT falls during INTA, so that what else the slave holds makes a new edge.
            master.set_line(CASCADE, false);
            vector
        };
        self.cascade();
        vector
    }

    /// A byte read of a port of `region`.
    pub fn port_read(&mut self, region: u8, offset: u64) -> u8 {
        let value = match (region, offset) {
            (0 | 1, 0 | 1) => self.chips[usize::from(region)].read(offset == 1),
            (2, 0 | 1) => self.chips[(offset & 1) as usize].elcr,
            _ => 0xff,
        };
        self.cascade();
        value
    }

    /// A byte write to a port of `region`.
    pub fn port_write(&mut self, region: u8, offset: u64, value: u8) {
        match (region, offset) {
            (0 | 1, 0 | 1) => self.chips[usize::from(region)].write(offset == 1, value),
            (2, 0 | 1) => {
                let which = (offset & 1) as usize;
                self.chips[which].elcr = value & ELCR_MASK[which];
            }
            _ => {}
        }
        self.cascade();
    }

    /// Back to power-on.
    pub fn power_on(&mut self) {
        *self = Pics::new();
    }

    fn cascade(&mut self) {
        let high = self.chips[1].request().is_some();
        self.chips[0].set_line(CASCADE, high);
    }
}

impl Device for Pics {
    fn name(&self) -> &'static str {
        "i8259"
    }
    fn read(&mut self, _cx: &mut Context<'_>, region: u8, offset: u64, size: u8) -> u64 {
        (0..u64::from(size.min(8))).fold(0, |value, i| {
            value | u64::from(self.port_read(region, offset.wrapping_add(i))) << (8 * i)
        })
    }
    fn write(&mut self, _cx: &mut Context<'_>, region: u8, offset: u64, size: u8, value: u64) {
        for i in 0..u64::from(size.min(8)) {
            self.port_write(region, offset.wrapping_add(i), (value >> (8 * i)) as u8);
        }
    }
    fn reset(&mut self, _cx: &mut Context<'_>) {
        self.power_on();
    }
    fn save(&self) -> Vec<u8> {
        let Pics { chips } = self;
        save_state(1, chips)
    }
    fn load(&mut self, section: &[u8]) -> Result<(), LoadError> {
        let chips: [Chip; 2] = load_state(1, section)?;
        chips[0].validate()?;
        chips[1].validate()?;
        *self = Pics { chips };
        Ok(())
    }
    fn inspect(&self, out: &mut Inspector) {
        out.tree("master", |out| self.chips[0].inspect(out));
        out.tree("slave", |out| self.chips[1].inspect(out));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pair as a PC's firmware sets it up: vectors 0x20 and 0x28, nothing masked.
    fn pics(icw4: u8) -> Pics {
        let mut pics = Pics::new();
        for (region, base, icw3) in [(0, 0x20, 0x04), (1, 0x28, 0x02)] {
            pics.port_write(region, 0, 0x11);
            pics.port_write(region, 1, base);
            pics.port_write(region, 1, icw3);
            pics.port_write(region, 1, icw4);
        }
        pics
    }

    #[test]
    fn the_pics_keep_the_contract() {
        crate::contract::check(&[2, 2, 2], Pics::new);
    }

    #[test]
    fn a_mask_register_reads_back_before_initialization_as_linux_probes() {
        let mut pics = Pics::new();
        pics.port_write(0, 1, 0xfb);
        assert_eq!(pics.port_read(0, 1), 0xfb);
    }

    #[test]
    fn a_lower_input_wins_and_blocks_higher_ones_until_eoi() {
        let mut pics = pics(0x01);
        pics.set_irq(4, true);
        pics.set_irq(3, true);
        assert!(pics.output());
        assert_eq!(pics.acknowledge(), 0x23);
        assert!(!pics.output(), "4 waits for 3");
        pics.set_irq(1, true);
        assert_eq!(pics.acknowledge(), 0x21, "1 nests");
        pics.port_write(0, 0, 0x20);
        assert!(!pics.output(), "3 is still in service");
        pics.port_write(0, 0, 0x20);
        assert_eq!(pics.acknowledge(), 0x24);
    }

    #[test]
    fn an_edge_counts_once_and_a_level_until_it_falls() {
        let mut pics = pics(0x01);
        pics.set_irq(5, true);
        assert_eq!(pics.acknowledge(), 0x25);
        pics.port_write(0, 0, 0x20);
        assert!(!pics.output(), "edge");
        pics.set_irq(5, false);
        pics.port_write(2, 0, 0xff);
        assert_eq!(
            pics.port_read(2, 0),
            0xf8,
            "the timer's line can't be level"
        );
        pics.set_irq(5, true);
        assert_eq!(pics.acknowledge(), 0x25);
        assert!(!pics.output());
        pics.port_write(0, 0, 0x65);
        assert!(pics.output(), "the level is still there");
        pics.set_irq(5, false);
        assert!(!pics.output());
    }

    #[test]
    fn the_slave_goes_through_input_2_and_needs_two_eois() {
        let mut pics = pics(0x01);
        pics.set_irq(8, true);
        assert_eq!(pics.acknowledge(), 0x28);
        pics.set_irq(12, true);
        assert!(!pics.output());
        pics.port_write(1, 0, 0x20);
        assert!(!pics.output(), "the master has 2 in service");
        pics.port_write(0, 0, 0x20);
        assert_eq!(pics.acknowledge(), 0x2c);
    }

    #[test]
    fn a_request_masked_before_the_acknowledge_is_spurious() {
        let mut pics = pics(0x01);
        pics.port_write(2, 0, 0x08);
        pics.set_irq(3, true);
        assert!(pics.output());
        pics.set_irq(3, false);
        assert_eq!(pics.acknowledge(), 0x27);
        pics.port_write(0, 0, 0x0b);
        assert_eq!(pics.port_read(0, 0), 0, "IRQ7 is not in service");
        // On the slave the master takes part: its input 2 is in service.
        pics.set_irq(9, true);
        pics.port_write(1, 1, 0xff);
        assert_eq!(pics.acknowledge(), 0x2f);
        assert_eq!(pics.port_read(0, 0), 0x04);
        pics.port_write(1, 0, 0x0b);
        assert_eq!(pics.port_read(1, 0), 0);
    }

    #[test]
    fn automatic_eoi_with_rotation_serves_inputs_in_turn() {
        let mut pics = pics(0x03);
        pics.port_write(0, 0, 0x80);
        pics.set_irq(3, true);
        assert_eq!(pics.acknowledge(), 0x23);
        pics.set_irq(3, false);
        pics.set_irq(3, true);
        pics.set_irq(4, true);
        assert_eq!(pics.acknowledge(), 0x24, "3 is lowest now");
        assert_eq!(pics.acknowledge(), 0x23);
    }

    #[test]
    fn automatic_eoi_on_the_slave_loses_no_second_request() {
        let mut pics = pics(0x03);
        pics.set_irq(8, true);
        pics.set_irq(9, true);
        assert_eq!(pics.acknowledge(), 0x28);
        assert!(pics.output());
        assert_eq!(pics.acknowledge(), 0x29);
        assert!(!pics.output());
    }

    #[test]
    fn specific_rotation_sets_the_order() {
        let mut pics = pics(0x01);
        pics.port_write(0, 0, 0xc4);
        pics.set_irq(0, true);
        pics.set_irq(5, true);
        assert_eq!(pics.acknowledge(), 0x25);
        pics.port_write(0, 0, 0xe5);
        pics.set_irq(5, false);
        pics.set_irq(5, true);
        pics.set_irq(6, true);
        assert_eq!(pics.acknowledge(), 0x26);
    }

    #[test]
    fn special_mask_mode_lets_lower_priorities_through_a_masked_service() {
        let mut pics = pics(0x01);
        pics.set_irq(3, true);
        assert_eq!(pics.acknowledge(), 0x23);
        pics.set_irq(6, true);
        assert!(!pics.output());
        pics.port_write(0, 1, 0x08);
        pics.port_write(0, 0, 0x68);
        assert_eq!(pics.acknowledge(), 0x26);
        pics.port_write(0, 0, 0x20);
        pics.port_write(0, 0, 0x0b);
        assert_eq!(
            pics.port_read(0, 0),
            0x08,
            "a masked IS bit needs a specific EOI"
        );
    }

    #[test]
    fn special_fully_nested_mode_lets_the_slave_interrupt_itself() {
        for (icw4, nests) in [(0x01, false), (0x11, true)] {
            let mut pics = pics(icw4);
            pics.set_irq(12, true);
            assert_eq!(pics.acknowledge(), 0x2c);
            pics.set_irq(4, true);
            assert!(!pics.output(), "lower than the slave");
            pics.set_irq(8, true);
            assert_eq!(pics.output(), nests);
            if nests {
                assert_eq!(pics.acknowledge(), 0x28);
            }
        }
    }

    #[test]
    fn a_poll_acknowledges_by_reading() {
        let mut pics = pics(0x01);
        pics.set_irq(6, true);
        pics.port_write(0, 0, 0x0c);
        assert_eq!(pics.port_read(0, 0), 0x86);
        pics.port_write(0, 0, 0x0c);
        assert_eq!(pics.port_read(0, 0), 0x00);
        pics.port_write(0, 0, 0x0b);
        assert_eq!(pics.port_read(0, 0), 0x40);
    }

    #[test]
    fn icw1_forgets_edges_but_an_input_that_stays_high_is_no_request() {
        let mut pics = pics(0x01);
        pics.set_irq(1, true);
        for value in [0x20, 0x04, 0x01] {
            if value == 0x20 {
                pics.port_write(0, 0, 0x11);
            }
            pics.port_write(0, 1, value);
        }
        assert!(!pics.output());
        pics.set_irq(1, false);
        pics.set_irq(1, true);
        assert!(pics.output());
    }
}
