//! ACPI fixed hardware (ACPI 6.5, 4.8 "ACPI Register Model") and the reset registers beside it
//! (Intel ICH9 datasheet, "RST_CNT" and "PORT92").
//!
//! Regions:
//!
//! | region | ports | registers |
//! |---|---|---|
//! | 0 | 0x600..0x62F | +0x00 PM1a_STS, +0x02 PM1a_EN, +0x04 PM1a_CNT, +0x08 PM_TMR, +0x20 GPE0_STS (8 bytes), +0x28 GPE0_EN (8 bytes) |
//! | 1 | 0xB2..0xB3 | SMI_CMD and its data byte |
//! | 2 | 0xCF9 | RST_CNT, the FADT's RESET_REG (value [`RESET_VALUE`]) |
//! | 3 | 0x92 | fast reset (bit 0), A20 (bit 1) |
//!
//! Line 0 is SCI (active while an enabled event is pending and SCI_EN is set), timer 0 the next
//! toggle of the PM timer's highest bit. [`Device::completion`] is the user's press of the power
//! button ([`AcpiPm::press_power_button`]); [`AcpiPm::raise_gpe`] is for the machine too.
//! Sleep type [`S5_SLEEP_TYPE`] switches off.
//!
//! Not modelled: SMI (without SCI_EN events are silent), S1 to S4, bus-master status, the global
//! lock, and masking of address line 20: the bit is kept and the board may ask [`AcpiPm::a20`].

use crate::{Context, Device, Inspector, LoadError, Power, load_state, save_state};
use alloc::format;
use alloc::vec::Vec;

/// SLP_TYP of S5 for the DSDT's `\_S5`: QEMU's value, which small kernels and firmware write without
/// reading tables (`0x2000` to port 0x604).
pub const S5_SLEEP_TYPE: u8 = 0;
/// What the FADT's RESET_VALUE is to write to 0xCF9.
pub const RESET_VALUE: u8 = 0x06;
/// Write to SMI_CMD to take SCI_EN up.
pub const ACPI_ENABLE: u8 = 0x02;
/// Write to SMI_CMD to take SCI_EN down.
pub const ACPI_DISABLE: u8 = 0x03;
/// Frequency of the PM timer, in Hz.
pub const TIMER_HZ: u64 = 3_579_545;

const STS_TIMER: u16 = 1 << 0;
const STS_POWER_BUTTON: u16 = 1 << 8;
/// Bits that exist in PM1a_STS: timer, bus master, global, power and sleep button, RTC, wake.
const STS_BITS: u16 = 0x8731;
/// Bits that exist in PM1a_EN.
const EN_BITS: u16 = 0x0721;
const SCI_EN: u16 = 1 << 0;
const SLP_EN: u16 = 1 << 13;
/// Bits of PM1a_CNT that read back: SCI_EN, BM_RLD and SLP_TYP.
const CNT_BITS: u16 = 0x1c03;
const A20: u8 = 0x02;

/// Fixed hardware of one machine.
pub struct AcpiPm {
    /// Highest bit of the timer: 23 or 31.
    timer_bit: u32,
    /// SCI_EN after reset.
    acpi_at_reset: bool,
    status: u16,
    enable: u16,
    control: u16,
    gpe_status: u64,
    gpe_enable: u64,
    smi: [u8; 2],
    reset_control: u8,
    port92: u8,
    /// Timer toggles up to here are in the status.
    seen_ns: u64,
}

/// Toggles of bit `bit` of the timer up to `now_ns`.
fn toggles(now_ns: u64, bit: u32) -> u64 {
    ticks(now_ns) >> bit
}

fn ticks(now_ns: u64) -> u64 {
    (u128::from(now_ns) * u128::from(TIMER_HZ) / 1_000_000_000) as u64
}

impl AcpiPm {
    /// Fixed hardware with a timer of 32 bits (FADT flag TMR_VAL_EXT) or 24; `acpi_at_reset`
    /// boards are in ACPI mode from the start and have no SMI_CMD in their FADT.
    pub fn new(timer_32: bool, acpi_at_reset: bool) -> Self {
        AcpiPm {
            timer_bit: if timer_32 { 31 } else { 23 },
            acpi_at_reset,
            status: 0,
            enable: 0,
            control: if acpi_at_reset { SCI_EN } else { 0 },
            gpe_status: 0,
            gpe_enable: 0,
            smi: [0; 2],
            reset_control: 0,
            port92: A20,
            seen_ns: 0,
        }
    }

    /// The user presses the power button: the operating system gets an event.
    pub fn press_power_button(&mut self, cx: &mut Context<'_>) {
        self.catch_up(cx.now_ns);
        self.status |= STS_POWER_BUTTON;
        self.drive(cx);
    }

    /// General-purpose event `number` (0..63) happens.
    pub fn raise_gpe(&mut self, cx: &mut Context<'_>, number: u8) {
        self.catch_up(cx.now_ns);
        self.gpe_status |= 1 << (number & 63);
        self.drive(cx);
    }

    /// Whether port 0x92 lets address line 20 through.
    pub fn a20(&self) -> bool {
        self.port92 & A20 != 0
    }

    fn catch_up(&mut self, now_ns: u64) {
        let seen = self.seen_ns.min(now_ns);
        // TMR_STS: "any time the most significant bit changes".
        if toggles(now_ns, self.timer_bit) != toggles(seen, self.timer_bit) {
            self.status |= STS_TIMER;
        }
        self.seen_ns = now_ns;
    }

    /// The one place at which the pins follow the state.
    fn drive(&mut self, cx: &mut Context<'_>) {
        let fixed = self.status & self.enable & EN_BITS != 0;
        let general = self.gpe_status & self.gpe_enable != 0;
        cx.wires
            .set_line(0, self.control & SCI_EN != 0 && (fixed || general));
        let wanted = self.enable & !self.status & STS_TIMER != 0;
        let toggle = u128::from(toggles(cx.now_ns, self.timer_bit)) + 1;
        let at = ((toggle << self.timer_bit) * 1_000_000_000).div_ceil(u128::from(TIMER_HZ));
        cx.wires.arm(0, u64::try_from(at).ok().filter(|_| wanted));
    }

    fn read_byte(&self, now_ns: u64, region: u8, offset: u64) -> u8 {
        let byte = |value: u64, first: u64| (value >> (8 * ((offset - first) & 7))) as u8;
        match (region, offset) {
            (0, 0x00..=0x01) => byte(u64::from(self.status), 0x00),
            (0, 0x02..=0x03) => byte(u64::from(self.enable), 0x02),
            (0, 0x04..=0x05) => byte(u64::from(self.control), 0x04),
            (0, 0x08..=0x0b) => byte(self.timer_value(now_ns), 0x08),
            (0, 0x20..=0x27) => byte(self.gpe_status, 0x20),
            (0, 0x28..=0x2f) => byte(self.gpe_enable, 0x28),
            (0, 0x06..=0x2f) => 0,
            (1, 0 | 1) => self.smi[(offset & 1) as usize],
            (2, 0) => self.reset_control,
            (3, 0) => self.port92,
            _ => 0xff,
        }
    }

    fn timer_value(&self, now_ns: u64) -> u64 {
        ticks(now_ns) & ((2 << self.timer_bit) - 1)
    }

    fn write_byte(&mut self, cx: &mut Context<'_>, region: u8, offset: u64, value: u8) {
        let place = |old: u64, first: u64| {
            let shift = 8 * ((offset - first) & 7);
            old & !(0xff << shift) | u64::from(value) << shift
        };
        match (region, offset) {
            // Status bits are cleared by writing ones.
            (0, 0x00..=0x01) => self.status &= !(place(0, 0) as u16),
            (0, 0x02..=0x03) => {
                self.enable = place(u64::from(self.enable), 2) as u16 & EN_BITS;
            }
            (0, 0x04..=0x05) => {
                let written = place(u64::from(self.control), 4) as u16;
                // SCI_EN is the hardware's: SMI_CMD changes it.
                self.control = written & CNT_BITS & !SCI_EN | self.control & SCI_EN;
                let kind = (written >> 10 & 7) as u8;
                if written & SLP_EN != 0 && kind == S5_SLEEP_TYPE {
                    cx.wires.power(Power::Off);
                }
            }
            (0, 0x20..=0x27) => self.gpe_status &= !place(0, 0x20),
            (0, 0x28..=0x2f) => self.gpe_enable = place(self.gpe_enable, 0x28),
            (1, 0) => {
                self.smi[0] = value;
                match value {
                    ACPI_ENABLE => self.control |= SCI_EN,
                    ACPI_DISABLE if !self.acpi_at_reset => self.control &= !SCI_EN,
                    _ => {}
                }
            }
            (1, 1) => self.smi[1] = value,
            (2, 0) => {
                // "A reset is initiated when bit 2 transitions from 0 to 1."
                let rises = value & !self.reset_control & 0x04 != 0;
                self.reset_control = value & 0x0e;
                if rises {
                    cx.wires.power(Power::Reset);
                }
            }
            (3, 0) => {
                let rises = value & !self.port92 & 0x01 != 0;
                self.port92 = value & 0x03;
                if rises {
                    cx.wires.power(Power::Reset);
                }
            }
            _ => {}
        }
    }
}

impl Device for AcpiPm {
    fn name(&self) -> &'static str {
        "acpi-pm"
    }
    fn read(&mut self, cx: &mut Context<'_>, region: u8, offset: u64, size: u8) -> u64 {
        self.catch_up(cx.now_ns);
        (0..u64::from(size.min(8))).fold(0, |value, i| {
            let byte = self.read_byte(cx.now_ns, region, offset.wrapping_add(i));
            value | u64::from(byte) << (8 * i)
        })
    }
    fn write(&mut self, cx: &mut Context<'_>, region: u8, offset: u64, size: u8, value: u64) {
        self.catch_up(cx.now_ns);
        // PM1a_CNT acts as a whole: the low byte of a word is in place when SLP_EN is seen.
        for i in 0..u64::from(size.min(8)) {
            let byte = (value >> (8 * i)) as u8;
            self.write_byte(cx, region, offset.wrapping_add(i), byte);
        }
        self.drive(cx);
    }
    fn timer(&mut self, cx: &mut Context<'_>, timer: u8) {
        if timer == 0 {
            self.catch_up(cx.now_ns);
            self.drive(cx);
        }
    }
    fn completion(&mut self, cx: &mut Context<'_>) {
        self.press_power_button(cx);
    }
    fn reset(&mut self, cx: &mut Context<'_>) {
        let fresh = AcpiPm::new(self.timer_bit == 31, self.acpi_at_reset);
        *self = AcpiPm {
            seen_ns: cx.now_ns,
            ..fresh
        };
        cx.wires.set_line(0, false);
        cx.wires.arm(0, None);
    }
    fn save(&self) -> Vec<u8> {
        let AcpiPm {
            timer_bit: _,
            acpi_at_reset: _,
            status,
            enable,
            control,
            gpe_status,
            gpe_enable,
            smi,
            reset_control,
            port92,
            seen_ns,
        } = self;
        let pm1 = (status, enable, control);
        save_state(
            1,
            &(
                pm1,
                gpe_status,
                gpe_enable,
                smi,
                reset_control,
                port92,
                seen_ns,
            ),
        )
    }
    fn load(&mut self, section: &[u8]) -> Result<(), LoadError> {
        type Saved = ((u16, u16, u16), u64, u64, [u8; 2], u8, u8, u64);
        let (pm1, gpe_status, gpe_enable, smi, reset_control, port92, seen_ns): Saved =
            load_state(1, section)?;
        let (status, enable, control) = pm1;
        for (field, value, bits) in [
            ("status", status, STS_BITS),
            ("enable", enable, EN_BITS),
            ("control", control, CNT_BITS),
            ("reset_control", u16::from(reset_control), 0x0e),
            ("port92", u16::from(port92), 0x03),
        ] {
            if value & !bits != 0 {
                return Err(LoadError::Invalid {
                    field,
                    why: format!("{value:#x} has bits beside {bits:#x}"),
                });
            }
        }
        *self = AcpiPm {
            timer_bit: self.timer_bit,
            acpi_at_reset: self.acpi_at_reset,
            status,
            enable,
            control,
            gpe_status,
            gpe_enable,
            smi,
            reset_control,
            port92,
            seen_ns,
        };
        Ok(())
    }
    fn inspect(&self, out: &mut Inspector) {
        out.hex("pm1a status", u64::from(self.status));
        out.hex("pm1a enable", u64::from(self.enable));
        out.hex("pm1a control", u64::from(self.control));
        out.hex("gpe0 status", self.gpe_status);
        out.hex("gpe0 enable", self.gpe_enable);
        out.hex("timer", self.timer_value(self.seen_ns));
        out.hex("port 0x92", u64::from(self.port92));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Recorder;
    use mem::GuestMemory;

    struct Bench {
        pm: AcpiPm,
        wires: Recorder,
        memory: GuestMemory,
        now_ns: u64,
    }

    impl Bench {
        fn new(timer_32: bool, acpi_at_reset: bool) -> Self {
            Bench {
                pm: AcpiPm::new(timer_32, acpi_at_reset),
                wires: Recorder::default(),
                memory: GuestMemory::flat(4096).unwrap(),
                now_ns: 0,
            }
        }
        fn with<R>(&mut self, f: impl FnOnce(&mut AcpiPm, &mut Context<'_>) -> R) -> R {
            let cx = &mut Context {
                now_ns: self.now_ns,
                memory: &self.memory,
                wires: &mut self.wires,
            };
            f(&mut self.pm, cx)
        }
        fn out(&mut self, region: u8, offset: u64, size: u8, value: u64) {
            self.with(|pm, cx| pm.write(cx, region, offset, size, value));
        }
        fn inp(&mut self, region: u8, offset: u64, size: u8) -> u64 {
            self.with(|pm, cx| pm.read(cx, region, offset, size))
        }
        fn sci(&self) -> bool {
            self.wires.lines.get(&0).copied().unwrap_or(false)
        }
    }

    #[test]
    fn the_acpi_hardware_keeps_the_contract() {
        crate::contract::check(&[0x30, 2, 1, 1], || AcpiPm::new(true, true));
        crate::contract::check(&[0x30, 2, 1, 1], || AcpiPm::new(false, false));
    }

    #[test]
    fn the_power_button_raises_sci_once_enabled_and_in_acpi_mode() {
        let mut bench = Bench::new(true, false);
        bench.with(|pm, cx| pm.completion(cx));
        bench.out(0, 2, 2, 0x0100);
        assert!(!bench.sci(), "not in ACPI mode");
        bench.out(1, 0, 1, u64::from(ACPI_ENABLE));
        assert_eq!(bench.inp(0, 4, 2), 1);
        assert!(bench.sci());
        bench.out(0, 0, 2, 0x0100);
        assert!(!bench.sci());
        assert_eq!(bench.inp(0, 0, 4), 0x0100_0000);
    }

    #[test]
    fn the_timer_counts_3579545_hz_and_overflows_with_an_event() {
        let mut bench = Bench::new(false, true);
        bench.now_ns = 1_000_000_000;
        assert_eq!(bench.inp(0, 8, 4), TIMER_HZ);
        bench.out(0, 2, 2, 1);
        let at = bench.wires.timers[&0];
        assert_eq!((ticks(at), ticks(at - 1)), (1 << 23, (1 << 23) - 1));
        bench.now_ns = at;
        bench.with(|pm, cx| pm.timer(cx, 0));
        assert!(bench.sci() && bench.wires.timers.is_empty());
        bench.out(0, 0, 2, 1);
        assert!(!bench.sci());
        assert_eq!(ticks(bench.wires.timers[&0]), 2 << 23);
        bench.now_ns = bench.wires.timers[&0];
        assert_eq!(bench.inp(0, 8, 4), 0, "24 bits wrap");
        assert_eq!(bench.inp(0, 0, 2), 1);
    }

    #[test]
    fn s5_switches_off_and_other_sleep_types_do_nothing() {
        let mut bench = Bench::new(true, true);
        bench.out(0, 4, 2, 5 << 10 | 1 << 13);
        assert!(bench.wires.power.is_empty());
        assert_eq!(bench.inp(0, 4, 2), 5 << 10 | 1, "SLP_EN reads as 0");
        bench.out(0, 4, 2, u64::from(S5_SLEEP_TYPE) << 10 | 1 << 13);
        assert_eq!(bench.wires.power, [Power::Off]);
    }

    #[test]
    fn resets_go_by_rising_bits() {
        let mut bench = Bench::new(true, true);
        bench.out(2, 0, 1, 0x02);
        assert!(bench.wires.power.is_empty());
        bench.out(2, 0, 1, 0x06);
        bench.out(2, 0, 1, 0x06);
        assert_eq!(bench.wires.power, [Power::Reset]);
        bench.out(3, 0, 1, 0x00);
        assert!(!bench.pm.a20());
        bench.out(3, 0, 1, 0x03);
        assert!(bench.pm.a20());
        assert_eq!(bench.wires.power, [Power::Reset, Power::Reset]);
    }

    #[test]
    fn a_general_purpose_event_raises_sci_while_enabled() {
        let mut bench = Bench::new(true, true);
        bench.out(0, 0x2a, 1, 0x02);
        bench.with(|pm, cx| pm.raise_gpe(cx, 17));
        assert!(bench.sci());
        assert_eq!(bench.inp(0, 0x20, 4), 1 << 17);
        bench.out(0, 0x22, 1, 0x02);
        assert!(!bench.sci());
    }
}
