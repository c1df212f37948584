//! The real-time clock and CMOS memory of a PC (Motorola MC146818A datasheet; the second bank of
//! 64 bytes and the century in 0x32 as PC firmware has them).
//!
//! Region 0 = ports 0x70 (index; bit 7 masks NMI) and 0x71 (data). Line 0 is IRQ (IRQ 8), timer 0
//! the next event that is enabled to interrupt.
//!
//! The time is a formula: a Unix second and the machine time at which it began. While SET or the
//! divider's reset stops the clock, the ten registers hold it instead. Flags are found when
//! somebody looks, so a clock without enabled interrupts costs nothing. Writing a time register
//! of a running clock sets that field at once.
//!
//! The board fills the configuration bytes with [`Rtc::set_memory`], [`Rtc::set_boot_order`] and
//! [`Rtc::set_cmos`] before power-on; the layout is the one SeaBIOS reads under QEMU. RESET# leaves
//! time and memory, as the battery does.
//!
//! Not modelled: daylight saving (DSE), the square-wave pin, the day of the week as an independent
//! counter (it follows from the date), rates other than those of the 32 768 Hz time base.

use crate::{Context, Device, Inspector, LoadError, load_state, save_state};
use alloc::format;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

const NS_PER_S: i128 = 1_000_000_000;
const DAY_S: i64 = 86_400;
/// How long before an update UIP is up ("t_BUC").
const UIP_NS: i128 = 244_000;
/// The century, BCD.
const CENTURY: u8 = 0x32;

const B_SET: u8 = 0x80;
const B_BINARY: u8 = 0x04;
const B_24H: u8 = 0x02;
/// PF, AF and UF of register C, and their enables in B.
const EVENTS: u8 = 0x70;
const PERIODIC: u8 = 0x40;
const ALARM: u8 = 0x20;
const UPDATE: u8 = 0x10;
const IRQF: u8 = 0x80;

/// What the boot order bytes name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Boot {
    /// Nothing (more).
    None = 0,
    /// The floppy.
    Floppy = 1,
    /// The first hard disk.
    Disk = 2,
    /// The CD-ROM.
    Cdrom = 3,
    /// The network.
    Network = 4,
}

/// Civil time of day and date.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Civil {
    year: i64,
    month: i64,
    day: i64,
    hour: i64,
    minute: i64,
    second: i64,
}

/// Days since 1970-01-01 of a proleptic Gregorian date.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let y = if month <= 2 { year - 1 } else { year };
    let era = y.div_euclid(400);
    let yoe = y.rem_euclid(400);
    let doy = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    era * 146_097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719_468
}

impl Civil {
    fn from_unix(unix: i64) -> Civil {
        let (day_number, second_of_day) = (unix.div_euclid(DAY_S), unix.rem_euclid(DAY_S));
        let z = day_number.saturating_add(719_468);
        let era = z.div_euclid(146_097);
        let doe = z.rem_euclid(146_097);
        let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
        let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
        let mp = (5 * doy + 2) / 153;
        let month = if mp < 10 { mp + 3 } else { mp - 9 };
        Civil {
            year: yoe + era * 400 + i64::from(month <= 2),
            month,
            day: doy - (153 * mp + 2) / 5 + 1,
            hour: second_of_day / 3600,
            minute: second_of_day / 60 % 60,
            second: second_of_day % 60,
        }
    }

    fn to_unix(self) -> i64 {
        let Civil {
            year,
            month,
            day,
            hour,
            minute,
            second,
        } = self;
        days(year, month.clamp(1, 12), day) * DAY_S + hour * 3600 + minute * 60 + second
    }
}

/// Whether the clock runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
enum Run {
    /// Unix second `second` began at machine time `at_ns` (which may lie before power-on).
    Running { second: i64, at_ns: i64 },
    /// The time registers hold the time.
    Stopped,
}

/// The clock and its memory.
pub struct Rtc {
    /// All 128 bytes; 0..=9 and the century are stale while the clock runs.
    cmos: Vec<u8>,
    index: u8,
    nmi_masked: bool,
    run: Run,
    /// Events up to here are in register C.
    seen_ns: u64,
}

impl Rtc {
    /// A clock that shows `unix_time_s` (UTC) at machine time 0.
    pub fn new(unix_time_s: i64) -> Self {
        let mut cmos = alloc::vec![0; 128];
        cmos[0x0a] = 0x26;
        cmos[0x0b] = B_24H;
        cmos[0x0d] = 0x80;
        // The range that the century byte can show.
        let second = unix_time_s.clamp(days(0, 1, 1) * DAY_S, days(9999, 12, 31) * DAY_S);
        Rtc {
            cmos,
            index: 0,
            nmi_masked: false,
            run: Run::Running { second, at_ns: 0 },
            seen_ns: 0,
        }
    }

    /// Sets a configuration byte (0x0E..0x7F); others are the clock's own.
    pub fn set_cmos(&mut self, index: u8, value: u8) {
        if (0x0e..0x80).contains(&index) {
            self.cmos[usize::from(index)] = value;
        }
    }

    /// A byte of the memory.
    pub fn cmos(&self, index: u8) -> u8 {
        self.cmos[usize::from(index & 0x7f)]
    }

    /// The memory sizes: bytes of RAM below 4 GiB (from address 0, holes included) and above.
    pub fn set_memory(&mut self, below_4g: u64, above_4g: u64) {
        let below_1m_kib = (below_4g / 1024).min(640);
        let above_1m_kib = (below_4g.saturating_sub(1 << 20) / 1024).min(0xffff);
        let above_16m = (below_4g.saturating_sub(16 << 20) / 0x1_0000).min(0xffff);
        let above_4g = (above_4g / 0x1_0000).min(0xff_ffff);
        for (index, value) in [
            (0x15, below_1m_kib),
            (0x17, above_1m_kib),
            (0x30, above_1m_kib),
            (0x34, above_16m),
            (0x5b, above_4g),
        ] {
            self.set_cmos(index, value as u8);
            self.set_cmos(index + 1, (value >> 8) as u8);
        }
        self.set_cmos(0x5d, (above_4g >> 16) as u8);
    }

    /// The devices to boot from, in order, as SeaBIOS reads them at 0x3D and 0x38.
    pub fn set_boot_order(&mut self, order: [Boot; 3]) {
        let [first, second, third] = order.map(|boot| boot as u8);
        self.set_cmos(0x3d, first | second << 4);
        // Bit 0: do not insist on the boot signature of a floppy.
        self.set_cmos(0x38, third << 4 | 1);
    }

    /// The NMI mask, bit 7 of port 0x70.
    pub fn nmi_masked(&self) -> bool {
        self.nmi_masked
    }

    fn b(&self) -> u8 {
        self.cmos[0x0b]
    }

    /// The divider chain counts: "010" is the 32 768 Hz time base.
    fn divider_runs(&self) -> bool {
        self.cmos[0x0a] & 0x70 == 0x20
    }

    // ---- time -------------------------------------------------------------------------------

    /// The Unix second at `now_ns`, and the nanoseconds since it began.
    fn second_at(&self, now_ns: u64) -> Option<(i64, i128)> {
        let Run::Running { second, at_ns } = self.run else {
            return None;
        };
        let since = i128::from(now_ns) - i128::from(at_ns);
        let passed = since.div_euclid(NS_PER_S) as i64;
        Some((second.saturating_add(passed), since.rem_euclid(NS_PER_S)))
    }

    fn encode(&self, value: i64) -> u8 {
        let value = value.clamp(0, 99) as u8;
        if self.b() & B_BINARY != 0 {
            value
        } else {
            ((value / 10) << 4) | (value % 10)
        }
    }

    fn decode(&self, raw: u8) -> i64 {
        i64::from(if self.b() & B_BINARY != 0 {
            raw
        } else {
            bcd(raw)
        })
    }

    fn encode_hour(&self, hour: i64) -> u8 {
        if self.b() & B_24H != 0 {
            return self.encode(hour);
        }
        let pm = if hour >= 12 { 0x80 } else { 0 };
        let hour = if hour % 12 == 0 { 12 } else { hour % 12 };
        self.encode(hour) | pm
    }

    fn decode_hour(&self, raw: u8) -> i64 {
        if self.b() & B_24H != 0 {
            return self.decode(raw);
        }
        let pm = if raw & 0x80 != 0 { 12 } else { 0 };
        self.decode(raw & 0x7f) % 12 + pm
    }

    /// Puts the running time into the time registers.
    fn fill_registers(&mut self, now_ns: u64) {
        let Some((second, _)) = self.second_at(now_ns) else {
            return;
        };
        let civil = Civil::from_unix(second);
        // 1970-01-01 was a Thursday, day 5 of a week that begins with Sunday as 1.
        let weekday = (second.div_euclid(DAY_S) + 4).rem_euclid(7) + 1;
        self.cmos[0x00] = self.encode(civil.second);
        self.cmos[0x02] = self.encode(civil.minute);
        self.cmos[0x04] = self.encode_hour(civil.hour);
        self.cmos[0x06] = self.encode(weekday);
        self.cmos[0x07] = self.encode(civil.day);
        self.cmos[0x08] = self.encode(civil.month);
        self.cmos[0x09] = self.encode(civil.year.rem_euclid(100));
        let century = civil.year.div_euclid(100).clamp(0, 99) as u8;
        self.cmos[usize::from(CENTURY)] = ((century / 10) << 4) | (century % 10);
    }

    /// The time that the registers say.
    fn registers_unix(&self) -> i64 {
        let century = i64::from(bcd(self.cmos[usize::from(CENTURY)]));
        Civil {
            year: century * 100 + self.decode(self.cmos[0x09]),
            month: self.decode(self.cmos[0x08]),
            day: self.decode(self.cmos[0x07]),
            hour: self.decode_hour(self.cmos[0x04]),
            minute: self.decode(self.cmos[0x02]),
            second: self.decode(self.cmos[0x00]),
        }
        .to_unix()
    }

    /// Runs on from the registers, `into_ns` into their second.
    fn start(&mut self, now_ns: u64, into_ns: i128) {
        let at_ns = i64::try_from(i128::from(now_ns) - into_ns).unwrap_or(i64::MAX);
        self.run = Run::Running {
            second: self.registers_unix(),
            at_ns,
        };
    }

    fn write_time(&mut self, now_ns: u64, index: u8, value: u8) {
        let into = self.second_at(now_ns).map(|(_, into)| into);
        self.fill_registers(now_ns);
        self.cmos[usize::from(index)] = value;
        if let Some(into) = into {
            self.start(now_ns, into);
        }
    }

    /// SET or the divider may have changed: the clock stops or runs on.
    fn update_run(&mut self, now_ns: u64, divider_was_reset: bool) {
        let runs = self.b() & B_SET == 0 && self.divider_runs();
        match (self.run, runs) {
            (Run::Running { .. }, false) => self.run = Run::Stopped,
            // "The first update cycle begins one-half second" after the divider's reset ends.
            (Run::Stopped, true) => {
                self.start(now_ns, if divider_was_reset { NS_PER_S / 2 } else { 0 });
            }
            _ => {}
        }
    }

    // ---- events -----------------------------------------------------------------------------

    /// The shift of the periodic rate: a tick every `2^shift` cycles of 32 768 Hz.
    fn rate_shift(&self) -> Option<u32> {
        match self.cmos[0x0a] & 0x0f {
            0 => None,
            rate @ (1 | 2) => Some(u32::from(rate) + 6),
            rate => Some(u32::from(rate) - 1),
        }
        .filter(|_| self.divider_runs())
    }

    /// Where the phase of seconds and ticks starts.
    fn phase_ns(&self) -> i128 {
        match self.run {
            Run::Running { at_ns, .. } => i128::from(at_ns),
            Run::Stopped => 0,
        }
    }

    /// Periodic ticks so far.
    fn tick_at(&self, now_ns: u64, shift: u32) -> i128 {
        let since = i128::from(now_ns) - self.phase_ns();
        (since * 32_768).div_euclid(NS_PER_S << shift)
    }

    fn tick_ns(&self, tick: i128, shift: u32) -> i128 {
        self.phase_ns() + -(-tick * (NS_PER_S << shift)).div_euclid(32_768)
    }

    /// The first second after `after` whose time of day the alarm registers match.
    fn next_alarm(&self, after: i64) -> Option<i64> {
        let field = |raw: u8, value: u8| raw & 0xc0 == 0xc0 || raw == value;
        let from = after.saturating_add(1);
        let (day, start) = (from.div_euclid(DAY_S), from.rem_euclid(DAY_S));
        for day in [day, day.saturating_add(1)] {
            let least = if day == from.div_euclid(DAY_S) {
                start
            } else {
                0
            };
            for hour in least / 3600..24 {
                if !field(self.cmos[0x05], self.encode_hour(hour)) {
                    continue;
                }
                for minute in (0..60).filter(|&m| field(self.cmos[0x03], self.encode(m))) {
                    let minute_start = hour * 3600 + minute * 60;
                    if minute_start + 59 < least {
                        continue;
                    }
                    let second = (0..60)
                        .filter(|&s| field(self.cmos[0x01], self.encode(s)))
                        .find(|s| minute_start + s >= least);
                    if let Some(second) = second {
                        return Some(day.saturating_mul(DAY_S) + minute_start + second);
                    }
                }
            }
        }
        None
    }

    /// Machine time at which Unix second `second` begins.
    fn second_ns(&self, second: i64) -> Option<i128> {
        let Run::Running {
            second: known,
            at_ns,
        } = self.run
        else {
            return None;
        };
        let passed = i128::from(second) - i128::from(known);
        Some(i128::from(at_ns) + passed * NS_PER_S)
    }

    /// Puts the events since the last look into register C.
    fn catch_up(&mut self, now_ns: u64) {
        let seen = self.seen_ns.min(now_ns);
        if let Some(shift) = self.rate_shift()
            && self.tick_at(now_ns, shift) > self.tick_at(seen, shift)
        {
            self.cmos[0x0c] |= PERIODIC;
        }
        if let (Some((before, _)), Some((second, _))) =
            (self.second_at(seen), self.second_at(now_ns))
            && second > before
        {
            self.cmos[0x0c] |= UPDATE;
            if self.next_alarm(before).is_some_and(|at| at <= second) {
                self.cmos[0x0c] |= ALARM;
            }
        }
        self.seen_ns = now_ns;
    }

    /// When an event that is enabled and not yet flagged comes next.
    fn next_event(&self, now_ns: u64) -> Option<u64> {
        let wanted = self.b() & EVENTS & !self.cmos[0x0c];
        let periodic = self.rate_shift().filter(|_| wanted & PERIODIC != 0);
        let periodic = periodic.map(|shift| self.tick_ns(self.tick_at(now_ns, shift) + 1, shift));
        let second = self.second_at(now_ns).map(|(second, _)| second);
        let update = second
            .filter(|_| wanted & UPDATE != 0)
            .map(|s| s.saturating_add(1));
        let alarm = second
            .filter(|_| wanted & ALARM != 0)
            .and_then(|s| self.next_alarm(s));
        let update = update.and_then(|s| self.second_ns(s));
        let alarm = alarm.and_then(|s| self.second_ns(s));
        let first = [periodic, update, alarm].into_iter().flatten().min()?;
        u64::try_from(first).ok()
    }

    /// The one place at which the pins follow the state.
    fn sync(&mut self, cx: &mut Context<'_>) {
        self.catch_up(cx.now_ns);
        let irq = self.b() & self.cmos[0x0c] & EVENTS != 0;
        self.cmos[0x0c] = self.cmos[0x0c] & EVENTS | if irq { IRQF } else { 0 };
        cx.wires.set_line(0, irq);
        cx.wires.arm(0, self.next_event(cx.now_ns));
    }

    fn read_data(&mut self, now_ns: u64) -> u8 {
        match self.index {
            0x00 | 0x02 | 0x04 | 0x06..=0x09 | CENTURY => self.fill_registers(now_ns),
            0x0a => {
                let uip = self
                    .second_at(now_ns)
                    .is_some_and(|(_, into)| NS_PER_S - into <= UIP_NS);
                return self.cmos[0x0a] & 0x7f | u8::from(uip) << 7;
            }
            0x0c => return core::mem::take(&mut self.cmos[0x0c]),
            _ => {}
        }
        self.cmos[usize::from(self.index)]
    }

    fn write_data(&mut self, now_ns: u64, value: u8) {
        match self.index {
            0x00 | 0x02 | 0x04 | 0x06..=0x09 | CENTURY => {
                self.write_time(now_ns, self.index, value);
            }
            0x0a => {
                let was_reset = self.cmos[0x0a] & 0x60 == 0x60;
                self.fill_registers(now_ns);
                self.cmos[0x0a] = value & 0x7f;
                self.update_run(now_ns, was_reset);
            }
            0x0b => {
                // The time is kept through a change of format; stopped registers stay as written.
                self.fill_registers(now_ns);
                // "SET ... clears UIE".
                let uie = if value & B_SET != 0 { UPDATE } else { 0 };
                self.cmos[0x0b] = value & !uie;
                self.update_run(now_ns, false);
            }
            0x0c | 0x0d => {}
            index => self.cmos[usize::from(index)] = value,
        }
    }
}

/// Two decimal digits; those above 9 count as in a decimal carry.
fn bcd(raw: u8) -> u8 {
    (raw >> 4) * 10 + (raw & 15)
}

impl Device for Rtc {
    fn name(&self) -> &'static str {
        "mc146818"
    }
    fn read(&mut self, cx: &mut Context<'_>, _region: u8, offset: u64, size: u8) -> u64 {
        self.sync(cx);
        let value = (0..u64::from(size.min(8))).fold(0, |value, i| {
            // The index port can't be read back.
            let byte = if offset.wrapping_add(i) == 1 {
                self.read_data(cx.now_ns)
            } else {
                0xff
            };
            value | u64::from(byte) << (8 * i)
        });
        self.sync(cx);
        value
    }
    fn write(&mut self, cx: &mut Context<'_>, _region: u8, offset: u64, size: u8, value: u64) {
        self.sync(cx);
        for i in 0..u64::from(size.min(8)) {
            let byte = (value >> (8 * i)) as u8;
            match offset.wrapping_add(i) {
                0 => {
                    self.index = byte & 0x7f;
                    self.nmi_masked = byte & 0x80 != 0;
                }
                1 => self.write_data(cx.now_ns, byte),
                _ => {}
            }
        }
        self.sync(cx);
    }
    fn timer(&mut self, cx: &mut Context<'_>, timer: u8) {
        if timer == 0 {
            self.sync(cx);
        }
    }
    fn reset(&mut self, cx: &mut Context<'_>) {
        // "RESET: PIE, AIE, UIE, IRQF, PF, AF, UF and SQWE are cleared; the time is not affected."
        self.cmos[0x0b] &= !(EVENTS | 0x08);
        self.cmos[0x0c] = 0;
        self.index = 0;
        self.nmi_masked = false;
        self.seen_ns = cx.now_ns;
        cx.wires.set_line(0, false);
        cx.wires.arm(0, None);
    }
    fn save(&self) -> Vec<u8> {
        let Rtc {
            cmos,
            index,
            nmi_masked,
            run,
            seen_ns,
        } = self;
        save_state(1, &(cmos, index, nmi_masked, run, seen_ns))
    }
    fn load(&mut self, section: &[u8]) -> Result<(), LoadError> {
        let (cmos, index, nmi_masked, run, seen_ns): (Vec<u8>, u8, bool, Run, u64) =
            load_state(1, section)?;
        let invalid = |field, why| Err(LoadError::Invalid { field, why });
        if cmos.len() != 128 {
            return invalid("cmos", format!("{} bytes, not 128", cmos.len()));
        }
        if index > 0x7f {
            return invalid("index", format!("{index:#x}"));
        }
        if cmos[0x0a] & 0x80 != 0 || cmos[0x0c] & 0x0f != 0 || cmos[0x0d] != 0x80 {
            return invalid(
                "cmos",
                format!("registers A to D: {:x?}", &cmos[0x0a..0x0e]),
            );
        }
        let runs = cmos[0x0b] & B_SET == 0 && cmos[0x0a] & 0x70 == 0x20;
        match run {
            Run::Running { second, at_ns } => {
                let sane = second.abs() < 1 << 40 && at_ns >= -(NS_PER_S as i64);
                if !runs || !sane {
                    return invalid("run", format!("{run:?}"));
                }
            }
            Run::Stopped if runs => return invalid("run", format!("{run:?}")),
            Run::Stopped => {}
        }
        *self = Rtc {
            cmos,
            index,
            nmi_masked,
            run,
            seen_ns,
        };
        Ok(())
    }
    fn inspect(&self, out: &mut Inspector) {
        out.value("run", format_args!("{:?}", self.run));
        for (name, index) in [("a", 0x0a), ("b", 0x0b), ("c", 0x0c)] {
            out.hex(name, u64::from(self.cmos[index]));
        }
        out.hex("index", u64::from(self.index));
        out.value("nmi masked", self.nmi_masked);
        out.value(
            "alarm",
            format_args!("{:x?}", [self.cmos[5], self.cmos[3], self.cmos[1]]),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Recorder;
    use mem::GuestMemory;

    /// 2024-02-29 23:59:57 UTC.
    const LEAP: i64 = 1_709_251_197;
    const S: u64 = 1_000_000_000;

    struct Bench {
        rtc: Rtc,
        wires: Recorder,
        memory: GuestMemory,
        now_ns: u64,
    }

    impl Bench {
        fn new(unix: i64) -> Self {
            Bench {
                rtc: Rtc::new(unix),
                wires: Recorder::default(),
                memory: GuestMemory::flat(4096).unwrap(),
                now_ns: 0,
            }
        }
        fn port(&mut self, offset: u64, value: Option<u8>) -> u8 {
            let cx = &mut Context {
                now_ns: self.now_ns,
                memory: &self.memory,
                wires: &mut self.wires,
            };
            match value {
                Some(value) => {
                    self.rtc.write(cx, 0, offset, 1, u64::from(value));
                    0
                }
                None => self.rtc.read(cx, 0, offset, 1) as u8,
            }
        }
        fn get(&mut self, index: u8) -> u8 {
            self.port(0, Some(index));
            self.port(1, None)
        }
        fn set(&mut self, index: u8, value: u8) {
            self.port(0, Some(index));
            self.port(1, Some(value));
        }
        fn time(&mut self) -> [u8; 8] {
            [CENTURY, 9, 8, 7, 6, 4, 2, 0].map(|index| self.get(index))
        }
        fn fire(&mut self) -> u64 {
            let at = self.wires.timers.remove(&0).expect("armed");
            self.now_ns = at;
            let cx = &mut Context {
                now_ns: at,
                memory: &self.memory,
                wires: &mut self.wires,
            };
            self.rtc.timer(cx, 0);
            at
        }
        fn line(&self) -> bool {
            self.wires.lines.get(&0).copied().unwrap_or(false)
        }
    }

    #[test]
    fn the_rtc_keeps_the_contract() {
        crate::contract::check(&[2], || Rtc::new(LEAP));
    }

    #[test]
    fn a_leap_day_ends_in_march() {
        let mut bench = Bench::new(LEAP);
        assert_eq!(
            bench.time(),
            [0x20, 0x24, 0x02, 0x29, 0x05, 0x23, 0x59, 0x57]
        );
        bench.now_ns = 3 * S;
        assert_eq!(
            bench.time(),
            [0x20, 0x24, 0x03, 0x01, 0x06, 0x00, 0x00, 0x00]
        );
    }

    #[test]
    fn dates_survive_the_round_trip() {
        for unix in (-62_000_000_000..250_000_000_000i64).step_by(12_345_679) {
            assert_eq!(Civil::from_unix(unix).to_unix(), unix);
        }
    }

    #[test]
    fn twelve_hours_and_binary_show_the_same_time() {
        let mut bench = Bench::new(LEAP);
        bench.set(0x0b, B_BINARY);
        assert_eq!(bench.get(4), 11 | 0x80);
        bench.now_ns = 3 * S;
        assert_eq!(bench.get(4), 12, "midnight is 12 AM");
        bench.set(0x0b, B_24H);
        assert_eq!(bench.time()[4..], [0x06, 0x00, 0x00, 0x00]);
    }

    #[test]
    fn setting_the_time_under_set_takes_effect_when_set_clears() {
        let mut bench = Bench::new(LEAP);
        bench.now_ns = S / 2;
        bench.set(0x0b, B_SET | B_24H);
        for (index, value) in [
            (CENTURY, 0x19),
            (9, 0x99),
            (8, 0x12),
            (7, 0x31),
            (4, 0x23),
            (2, 0x59),
            (0, 0x58),
        ] {
            bench.set(index, value);
        }
        bench.now_ns = 100 * S;
        assert_eq!(bench.get(0), 0x58, "it stands");
        bench.set(0x0b, B_24H);
        bench.now_ns = 102 * S;
        assert_eq!(
            bench.time(),
            [0x20, 0x00, 0x01, 0x01, 0x07, 0x00, 0x00, 0x00]
        );
    }

    #[test]
    fn update_in_progress_shows_just_before_the_second() {
        let mut bench = Bench::new(LEAP);
        for (now_ns, a) in [
            (0, 0x26),
            (S - 300_000, 0x26),
            (S - 200_000, 0xa6),
            (S, 0x26),
        ] {
            bench.now_ns = now_ns;
            assert_eq!(bench.get(0x0a), a, "{now_ns}");
        }
    }

    #[test]
    fn the_periodic_interrupt_keeps_1024_hz_and_waits_for_register_c() {
        let mut bench = Bench::new(LEAP);
        bench.set(0x0b, B_24H | PERIODIC);
        for i in 1..=2048u64 {
            assert_eq!(bench.fire(), (i * S).div_ceil(1024));
            assert!(bench.line());
            assert!(bench.wires.timers.is_empty(), "it waits for register C");
            assert_eq!(bench.get(0x0c) & 0xc0, 0xc0);
            assert!(!bench.line());
        }
    }

    #[test]
    fn the_alarm_comes_at_its_time_and_dont_care_every_minute() {
        let mut bench = Bench::new(LEAP);
        for (index, value) in [(1, 0x10), (3, 0x05), (5, 0x01)] {
            bench.set(index, value);
        }
        bench.set(0x0b, B_24H | ALARM);
        assert_eq!(bench.fire(), (3 + 3600 + 310) * S);
        assert_eq!(bench.get(0x0c), IRQF | ALARM | UPDATE | PERIODIC);
        bench.set(3, 0xff);
        bench.set(5, 0xc0);
        assert_eq!(bench.fire(), (3 + 3600 + 370) * S);
    }

    #[test]
    fn the_update_interrupt_comes_each_second() {
        let mut bench = Bench::new(LEAP);
        bench.now_ns = S / 3;
        bench.set(0x0b, B_24H | UPDATE);
        assert_eq!(bench.fire(), S);
        bench.get(0x0c);
        assert_eq!(bench.fire(), 2 * S);
    }

    #[test]
    fn the_divider_released_from_reset_updates_half_a_second_later() {
        let mut bench = Bench::new(LEAP);
        bench.set(0x0a, 0x76);
        bench.now_ns = 10 * S;
        assert_eq!(bench.get(0), 0x57);
        bench.set(0x0a, 0x26);
        bench.now_ns += S / 2;
        assert_eq!(bench.get(0), 0x58);
    }

    #[test]
    fn memory_sizes_and_boot_order_are_where_firmware_reads_them() {
        let mut bench = Bench::new(LEAP);
        bench.rtc.set_memory(0xc000_0000, 5 << 30);
        bench
            .rtc
            .set_boot_order([Boot::Cdrom, Boot::Disk, Boot::None]);
        let bytes = [
            0x15, 0x16, 0x17, 0x18, 0x34, 0x35, 0x5b, 0x5c, 0x5d, 0x3d, 0x38,
        ]
        .map(|index| bench.get(index));
        assert_eq!(
            bytes,
            [
                0x80, 0x02, 0xff, 0xff, 0x00, 0xbf, 0x00, 0x40, 0x01, 0x23, 0x01
            ]
        );
    }
}
