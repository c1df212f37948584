//! The 8254 interval timer of a PC and port 0x61 (Intel 8254 datasheet 231164; port 0x61: Intel
//! 82371SB, "NMI Status and Control").
//!
//! Regions: 0 = ports 0x40..0x43 (channels 0..2 and the control word), 1 = port 0x61 (gate of
//! channel 2, speaker, refresh toggle, OUT of channel 2). Line 0 is OUT of channel 0 (IRQ 0),
//! timer 0 its next rising edge.
//!
//! A channel is a formula, not a counter: it keeps the tick at which its count was loaded, and
//! computes OUT and the count from machine time, with the rounding of 1 193 182 Hz done in 128
//! bits, so that a periodic mode never drifts. A timer call that comes late gives one edge however
//! many have passed, as a slow CPU would see it; the next deadline is strictly after now and on
//! the old phase. In the periodic modes line 0 shows rising edges only: it falls and rises at
//! each, and stays high between (reading OUT back is exact).
//!
//! Departures: in mode 1 OUT falls with the trigger, not one clock after it; in mode 3 the count
//! of an odd divisor reads even. The real part is not reset by RESET#; here all channels stop.

use crate::{Context, Device, Inspector, LoadError, load_state, save_state};
use alloc::format;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// The input clock, in Hz.
pub const FREQUENCY_HZ: u64 = 1_193_182;
/// Half a period of the DRAM refresh request, as the toggle in port 0x61 shows it.
const REFRESH_NS: u64 = 15_085;
/// A periodic mode does not interrupt more often than this many clocks apart (10 µs), whatever the
/// guest asks for: a count of 1 would keep a host processor busy. The phase is kept.
const MIN_PERIOD: i64 = 12;
const NS_PER_S: u128 = 1_000_000_000;

/// Machine time to input clocks since power-on.
fn ticks(now_ns: u64) -> i64 {
    (u128::from(now_ns) * u128::from(FREQUENCY_HZ) / NS_PER_S) as i64
}

/// The first nanosecond of input clock `tick`.
fn time_ns(tick: i64) -> u64 {
    let ns = (tick.max(0) as u128 * NS_PER_S).div_ceil(u128::from(FREQUENCY_HZ));
    u64::try_from(ns).unwrap_or(u64::MAX)
}

/// What the counting element does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
enum Run {
    /// It waits for a count, or for the trigger of modes 1 and 5, or for the gate.
    Idle,
    /// The count was or will be loaded at this tick.
    From(i64),
    /// The gate stopped it after this many ticks (modes 0 and 4).
    Paused(i64),
}

/// A count written while a periodic mode runs: it is loaded at the end of the (half) period.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Reload {
    at: i64,
    count: u32,
    /// At the middle of a square wave, when OUT falls.
    half: bool,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Channel {
    mode: u8,
    bcd: bool,
    /// RW of the control word: 1 LSB, 2 MSB, 3 both.
    access: u8,
    /// 1..=0x10000.
    count: u32,
    /// A count has been written since the control word.
    loaded: bool,
    run: Run,
    reload: Option<Reload>,
    gate: bool,
    /// The first byte of a two-byte write.
    low_byte: Option<u8>,
    /// The next live read gives the MSB.
    read_high: bool,
    latched_count: Option<u16>,
    latched_status: Option<u8>,
}

impl Channel {
    fn new(gate: bool) -> Self {
        Channel {
            mode: 0,
            bcd: false,
            access: 3,
            count: 0x10000,
            loaded: false,
            run: Run::Idle,
            reload: None,
            gate,
            low_byte: None,
            read_high: false,
            latched_count: None,
            latched_status: None,
        }
    }

    fn period(&self) -> i64 {
        i64::from(self.count.max(1))
    }

    /// Ticks since the count was loaded; -1 before.
    fn elapsed(&self, tick: i64) -> Option<i64> {
        match self.run {
            Run::Idle => None,
            Run::From(start) => Some(tick.saturating_sub(start).max(-1)),
            Run::Paused(elapsed) => Some(elapsed),
        }
    }

    /// Loads a count whose time has come.
    fn settle(&mut self, tick: i64) {
        if let Some(reload) = self.reload.filter(|reload| reload.at <= tick) {
            let high = i64::from(reload.count).saturating_add(1) / 2;
            self.count = reload.count;
            self.run = Run::From(reload.at.saturating_sub(if reload.half { high } else { 0 }));
            self.reload = None;
        }
    }

    /// The OUT pin.
    fn out(&self, tick: i64) -> bool {
        let n = self.period();
        let Some(e) = self.elapsed(tick) else {
            return self.mode != 0;
        };
        match self.mode {
            0 | 1 => e >= n,
            2 => e < 0 || e % n != n - 1,
            3 => e < 0 || e % n < (n + 1) / 2,
            _ => e != n,
        }
    }

    /// The first tick after `tick` at which OUT rises.
    fn next_rise(&self, tick: i64) -> Option<i64> {
        let Run::From(start) = self.run else {
            return None;
        };
        let n = self.period();
        let e = tick.saturating_sub(start);
        let rise = match self.mode {
            0 | 1 => n,
            2 | 3 => match self.reload {
                Some(Reload {
                    at, half: false, ..
                }) => return Some(at),
                Some(Reload {
                    at,
                    count,
                    half: true,
                }) => {
                    return Some(at.saturating_add(i64::from(count / 2).max(1)));
                }
                None => (e.max(0) / n).saturating_add(1).saturating_mul(n),
            },
            _ => n + 1,
        };
        (e < rise).then(|| start.saturating_add(rise))
    }

    /// The counting element as a read sees it.
    fn value(&self, tick: i64) -> u16 {
        let n = self.period();
        let e = self.elapsed(tick).unwrap_or(0).max(0);
        let modulus = if self.bcd { 10_000 } else { 0x10000 };
        let value = match self.mode {
            2 => n - e % n,
            3 => {
                let (phase, high) = (e % n, (n + 1) / 2);
                let steps = if phase < high { phase } else { phase - high };
                ((n & !1) - 2 * steps).max(0)
            }
            _ => (n - e).rem_euclid(modulus),
        };
        let value = (value % modulus) as u16;
        if self.bcd { to_bcd(value) } else { value }
    }

    fn status(&self, tick: i64) -> u8 {
        let waiting =
            !self.loaded || self.reload.is_some() || self.elapsed(tick).is_none_or(|e| e < 0);
        u8::from(self.out(tick)) << 7
            | u8::from(waiting) << 6
            | self.access << 4
            | self.mode << 1
            | u8::from(self.bcd)
    }

    fn control(&mut self, value: u8) {
        let mode = value >> 1 & 7;
        *self = Channel {
            // Modes 2 and 3 ignore the highest mode bit.
            mode: if mode > 5 { mode & 3 } else { mode },
            bcd: value & 1 != 0,
            access: value >> 4 & 3,
            count: self.count,
            ..Channel::new(self.gate)
        };
    }

    fn write(&mut self, tick: i64, value: u8) {
        let raw = match (self.access, self.low_byte.take()) {
            (1, _) => u16::from(value),
            (2, _) => u16::from(value) << 8,
            (_, None) => {
                self.low_byte = Some(value);
                // "Writing the first byte disables counting" in mode 0.
                if self.mode == 0 {
                    self.run = Run::Idle;
                }
                return;
            }
            (_, Some(low)) => u16::from_le_bytes([low, value]),
        };
        let count = match (self.bcd, raw) {
            (true, 0) => 10_000,
            (true, raw) => u32::from(from_bcd(raw)),
            (false, 0) => 0x10000,
            (false, raw) => u32::from(raw),
        };
        self.load_count(tick, count);
    }

    fn load_count(&mut self, tick: i64, count: u32) {
        self.loaded = true;
        match (self.mode, self.run) {
            (2 | 3, Run::From(start)) if tick >= start => {
                let n = self.period();
                let into = tick.saturating_sub(start) % n;
                let begin = tick - into;
                let high = (n + 1) / 2;
                let half = self.mode == 3 && into < high && high < n;
                let at = begin.saturating_add(if half { high } else { n });
                self.reload = Some(Reload { at, count, half });
            }
            // The one-shots take the count at their next trigger.
            (1 | 5, Run::From(start)) if tick < start.saturating_add(self.period()) => {
                self.reload = Some(Reload {
                    at: i64::MAX,
                    count,
                    half: false,
                });
            }
            (1 | 5, _) => {
                self.count = count;
                self.reload = None;
            }
            (0 | 4, _) if !self.gate => {
                self.count = count;
                self.run = Run::Paused(0);
            }
            (2 | 3, _) if !self.gate => self.count = count,
            _ => {
                self.count = count;
                self.run = Run::From(tick + 1);
            }
        }
    }

    fn set_gate(&mut self, tick: i64, gate: bool) {
        let rising = gate && !self.gate;
        let falling = !gate && self.gate;
        self.gate = gate;
        match (self.mode, self.run) {
            (0 | 4, Run::From(_)) if falling => {
                self.run = Run::Paused(self.elapsed(tick).unwrap_or(0).max(0));
            }
            (0 | 4, Run::Paused(elapsed)) if rising => {
                self.run = Run::From(tick.saturating_sub(elapsed));
            }
            (2 | 3, _) if falling => {
                self.take_reload();
                self.run = Run::Idle;
            }
            (1 | 2 | 3 | 5, _) if rising && self.loaded => {
                self.take_reload();
                self.run = Run::From(tick + 1);
            }
            _ => {}
        }
    }

    fn take_reload(&mut self) {
        if let Some(reload) = self.reload.take() {
            self.count = reload.count;
        }
    }

    fn latch_count(&mut self, tick: i64) {
        if self.latched_count.is_none() {
            self.latched_count = Some(self.value(tick));
            self.read_high = false;
        }
    }

    fn latch_status(&mut self, tick: i64) {
        if self.latched_status.is_none() {
            self.latched_status = Some(self.status(tick));
        }
    }

    fn read(&mut self, tick: i64) -> u8 {
        if let Some(status) = self.latched_status.take() {
            return status;
        }
        let [low, high] = self
            .latched_count
            .unwrap_or_else(|| self.value(tick))
            .to_le_bytes();
        let high_now = match self.access {
            1 => false,
            2 => true,
            _ => {
                self.read_high = !self.read_high;
                !self.read_high
            }
        };
        if self.access != 3 || high_now {
            self.latched_count = None;
        }
        if high_now { high } else { low }
    }

    fn valid(&self) -> bool {
        let reload = self.reload.is_none_or(|r| (1..=0x10000).contains(&r.count));
        self.mode <= 5
            && (1..=3).contains(&self.access)
            && (1..=0x10000).contains(&self.count)
            && reload
    }

    fn inspect(&self, tick: i64, out: &mut Inspector) {
        out.value("mode", self.mode);
        out.value("bcd", self.bcd);
        out.value("count", self.count);
        out.value("gate", self.gate);
        out.value("run", format_args!("{:?}", self.run));
        out.value("now", self.value(tick));
    }
}

fn to_bcd(value: u16) -> u16 {
    (value % 10)
        | ((value / 10 % 10) << 4)
        | ((value / 100 % 10) << 8)
        | ((value / 1000 % 10) << 12)
}

/// Digits above 9, which the datasheet excludes, count as they would in a decimal carry.
fn from_bcd(raw: u16) -> u16 {
    (raw & 15) + (raw >> 4 & 15) * 10 + (raw >> 8 & 15) * 100 + (raw >> 12) * 1000
}

/// The three-channel timer with port 0x61.
pub struct Pit {
    channels: [Channel; 3],
    /// Bits 0..3 of port 0x61 as written.
    port61: u8,
    /// The tick of the next rising edge of channel 0.
    next_edge: Option<i64>,
    /// Book-keeping for `inspect`: the time of the last call.
    last_tick: i64,
}

impl Default for Pit {
    fn default() -> Self {
        Self::new()
    }
}

impl Pit {
    /// A timer whose channels wait for their control words.
    pub fn new() -> Self {
        Pit {
            channels: [Channel::new(true), Channel::new(true), Channel::new(false)],
            port61: 0,
            next_edge: None,
            last_tick: 0,
        }
    }

    /// Whether the speaker is on, and the frequency of its tone in millihertz.
    pub fn speaker_mhz(&self) -> Option<u64> {
        let tone = &self.channels[2];
        let on = self.port61 & 0x03 == 0x03 && tone.mode == 3 && tone.loaded;
        on.then(|| FREQUENCY_HZ * 1000 / u64::from(tone.count.max(1)))
    }

    fn settle(&mut self, tick: i64) {
        self.last_tick = tick;
        for channel in &mut self.channels {
            channel.settle(tick);
        }
    }

    /// Gives the edge of channel 0 that has come due, then the level after a change, and arms the
    /// timer for the next edge.
    fn flush_edge(&mut self, cx: &mut Context<'_>, tick: i64) {
        if self.next_edge.is_some_and(|at| at <= tick) {
            self.next_edge = None;
            cx.wires.set_line(0, false);
            cx.wires.set_line(0, true);
        }
    }

    fn arm(&mut self, cx: &mut Context<'_>, tick: i64) {
        let channel = &self.channels[0];
        let slack = match channel.mode {
            2 | 3 => (MIN_PERIOD - channel.period()).max(0),
            _ => 0,
        };
        self.next_edge = channel.next_rise(tick + slack);
        cx.wires.arm(0, self.next_edge.map(time_ns));
    }

    fn control(&mut self, tick: i64, value: u8) {
        let which = usize::from(value >> 6);
        match self.channels.get_mut(which) {
            // Read-back: bit 5 low latches the counts, bit 4 low the statuses of the chosen.
            None => {
                for (i, channel) in self.channels.iter_mut().enumerate() {
                    if value & (2 << i) != 0 {
                        if value & 0x20 == 0 {
                            channel.latch_count(tick);
                        }
                        if value & 0x10 == 0 {
                            channel.latch_status(tick);
                        }
                    }
                }
            }
            Some(channel) if value & 0x30 == 0 => channel.latch_count(tick),
            Some(channel) => channel.control(value),
        }
    }

    fn port_read(&mut self, now_ns: u64, tick: i64, region: u8, offset: u64) -> u8 {
        match (region, offset) {
            (0, 0..=2) => self.channels[(offset & 3) as usize].read(tick),
            (1, 0) => {
                self.port61
                    | (((now_ns / REFRESH_NS) & 1) as u8) << 4
                    | u8::from(self.channels[2].out(tick)) << 5
            }
            _ => 0xff,
        }
    }

    fn port_write(&mut self, tick: i64, region: u8, offset: u64, value: u8) {
        match (region, offset) {
            (0, 0..=2) => self.channels[(offset & 3) as usize].write(tick, value),
            (0, 3) => self.control(tick, value),
            (1, 0) => {
                self.port61 = value & 0x0f;
                self.channels[2].set_gate(tick, value & 1 != 0);
            }
            _ => {}
        }
    }
}

impl Device for Pit {
    fn name(&self) -> &'static str {
        "i8254"
    }
    fn read(&mut self, cx: &mut Context<'_>, region: u8, offset: u64, size: u8) -> u64 {
        let tick = ticks(cx.now_ns);
        self.settle(tick);
        (0..u64::from(size.min(8))).fold(0, |value, i| {
            let byte = self.port_read(cx.now_ns, tick, region, offset.wrapping_add(i));
            value | u64::from(byte) << (8 * i)
        })
    }
    fn write(&mut self, cx: &mut Context<'_>, region: u8, offset: u64, size: u8, value: u64) {
        let tick = ticks(cx.now_ns);
        self.flush_edge(cx, tick);
        self.settle(tick);
        for i in 0..u64::from(size.min(8)) {
            self.port_write(
                tick,
                region,
                offset.wrapping_add(i),
                (value >> (8 * i)) as u8,
            );
        }
        cx.wires.set_line(0, self.channels[0].out(tick));
        self.arm(cx, tick);
    }
    fn timer(&mut self, cx: &mut Context<'_>, timer: u8) {
        if timer == 0 {
            let tick = ticks(cx.now_ns);
            self.flush_edge(cx, tick);
            self.settle(tick);
            self.arm(cx, tick);
        }
    }
    fn reset(&mut self, cx: &mut Context<'_>) {
        *self = Pit::new();
        cx.wires.set_line(0, false);
        cx.wires.arm(0, None);
    }
    fn save(&self) -> Vec<u8> {
        let Pit {
            channels,
            port61,
            next_edge,
            last_tick,
        } = self;
        save_state(1, &(channels, port61, next_edge, last_tick))
    }
    fn load(&mut self, section: &[u8]) -> Result<(), LoadError> {
        let (channels, port61, next_edge, last_tick): ([Channel; 3], u8, Option<i64>, i64) =
            load_state(1, section)?;
        for (i, channel) in channels.iter().enumerate() {
            let gate = i == 2 || channel.gate;
            if !channel.valid() || !gate {
                return Err(LoadError::Invalid {
                    field: "channels",
                    why: format!("channel {i}: {channel:?}"),
                });
            }
        }
        if port61 & !0x0f != 0 || (port61 & 1 != 0) != channels[2].gate {
            return Err(LoadError::Invalid {
                field: "port61",
                why: format!("{port61:#x}"),
            });
        }
        *self = Pit {
            channels,
            port61,
            next_edge,
            last_tick,
        };
        Ok(())
    }
    fn inspect(&self, out: &mut Inspector) {
        for (i, channel) in self.channels.iter().enumerate() {
            out.tree(&format!("channel {i}"), |out| {
                channel.inspect(self.last_tick, out)
            });
        }
        out.hex("port 0x61", u64::from(self.port61));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Recorder;
    use mem::GuestMemory;

    struct Bench {
        pit: Pit,
        wires: Recorder,
        memory: GuestMemory,
        now_ns: u64,
    }

    impl Bench {
        fn new() -> Self {
            Bench {
                pit: Pit::new(),
                wires: Recorder::default(),
                memory: GuestMemory::flat(4096).unwrap(),
                now_ns: 0,
            }
        }
        fn with<R>(&mut self, f: impl FnOnce(&mut Pit, &mut Context<'_>) -> R) -> R {
            let cx = &mut Context {
                now_ns: self.now_ns,
                memory: &self.memory,
                wires: &mut self.wires,
            };
            f(&mut self.pit, cx)
        }
        fn out(&mut self, port: u16, value: u8) {
            let (region, offset) = if port == 0x61 {
                (1, 0)
            } else {
                (0, u64::from(port) - 0x40)
            };
            self.with(|pit, cx| pit.write(cx, region, offset, 1, u64::from(value)));
        }
        fn inp(&mut self, port: u16) -> u8 {
            let (region, offset) = if port == 0x61 {
                (1, 0)
            } else {
                (0, u64::from(port) - 0x40)
            };
            self.with(|pit, cx| pit.read(cx, region, offset, 1)) as u8
        }
        /// Runs to the armed deadline and calls the timer `late_ns` after it.
        fn fire(&mut self, late_ns: u64) -> u64 {
            let at = self.wires.timers.remove(&0).expect("the timer is armed");
            self.now_ns = at + late_ns;
            self.with(|pit, cx| pit.timer(cx, 0));
            at
        }
        fn edges(&self) -> u32 {
            self.wires.edges.get(&0).copied().unwrap_or(0)
        }
        fn at_tick(&mut self, tick: i64) {
            self.now_ns = time_ns(tick);
        }
        fn program(&mut self, channel: u8, mode: u8, count: u16) {
            self.out(0x43, channel << 6 | 0x30 | mode << 1);
            let [low, high] = count.to_le_bytes();
            self.out(0x40 + u16::from(channel), low);
            self.out(0x40 + u16::from(channel), high);
        }
    }

    #[test]
    fn the_pit_keeps_the_contract() {
        crate::contract::check(&[4, 1], Pit::new);
    }

    #[test]
    fn ticks_and_times_agree_for_centuries() {
        for tick in [0, 1, 2, 1_193_181, 1_193_182, 1 << 40, (1 << 52) + 12345] {
            assert_eq!(ticks(time_ns(tick)), tick);
            assert!(tick == 0 || ticks(time_ns(tick) - 1) == tick - 1);
        }
    }

    #[test]
    fn mode_2_gives_1193182_hz_over_the_count_without_drift() {
        for mode in [2, 3] {
            let mut bench = Bench::new();
            bench.program(0, mode, 11932);
            let before = bench.edges();
            for i in 1..=100_000 {
                assert_eq!(
                    bench.fire(0),
                    time_ns(1 + 11932 * i),
                    "mode {mode}, edge {i}"
                );
            }
            assert_eq!(bench.edges(), before + 100_000);
        }
    }

    #[test]
    fn a_late_timer_gives_one_edge_and_keeps_the_phase() {
        let mut bench = Bench::new();
        bench.program(0, 2, 1193);
        let before = bench.edges();
        bench.fire(0);
        bench.fire(3_400_000);
        assert_eq!(bench.edges(), before + 2);
        let next = bench.wires.timers[&0];
        assert!(next > bench.now_ns);
        assert_eq!(ticks(next) % 1193, 1);
    }

    #[test]
    fn mode_0_rises_once_a_clock_after_the_count() {
        let mut bench = Bench::new();
        bench.program(0, 0, 1000);
        assert_eq!(bench.edges(), 0);
        assert_eq!(bench.fire(0), time_ns(1001));
        assert_eq!(bench.edges(), 1);
        assert!(!bench.wires.timers.contains_key(&0));
        // It counts on through zero.
        bench.at_tick(1011);
        bench.out(0x43, 0x00);
        assert_eq!([bench.inp(0x40), bench.inp(0x40)], [0xf6, 0xff]);
    }

    #[test]
    fn a_latched_count_stays_until_both_bytes_are_read() {
        let mut bench = Bench::new();
        bench.program(0, 2, 0x1234);
        bench.at_tick(0x35);
        bench.out(0x43, 0x00);
        bench.at_tick(0x200);
        assert_eq!(bench.inp(0x40), 0x00);
        bench.out(0x43, 0x00);
        assert_eq!(bench.inp(0x40), 0x12);
        assert_eq!(
            [bench.inp(0x40), bench.inp(0x40)],
            [0x35, 0x10],
            "live again"
        );
    }

    #[test]
    fn read_back_gives_status_then_count() {
        let mut bench = Bench::new();
        bench.out(0x43, 0xb4);
        bench.out(0x61, 0x01);
        bench.out(0x43, 0xe8);
        assert_eq!(
            bench.inp(0x42),
            0xf4,
            "null count, OUT high, both bytes, mode 2"
        );
        bench.out(0x42, 0x10);
        bench.out(0x42, 0x00);
        bench.at_tick(5);
        bench.out(0x43, 0xc8);
        assert_eq!(
            [bench.inp(0x42), bench.inp(0x42), bench.inp(0x42)],
            [0xb4, 12, 0]
        );
    }

    #[test]
    fn bcd_counts_in_decimal() {
        let mut bench = Bench::new();
        bench.out(0x43, 0x31);
        bench.out(0x40, 0x00);
        bench.out(0x40, 0x10);
        bench.at_tick(2);
        bench.out(0x43, 0x00);
        assert_eq!([bench.inp(0x40), bench.inp(0x40)], [0x99, 0x09]);
    }

    #[test]
    fn a_new_count_in_mode_2_waits_for_the_end_of_the_period() {
        let mut bench = Bench::new();
        bench.program(0, 2, 1000);
        bench.at_tick(301);
        bench.out(0x40, 200);
        bench.out(0x40, 0);
        assert_eq!(bench.fire(0), time_ns(1001));
        assert_eq!(bench.fire(0), time_ns(1201));
    }

    #[test]
    fn a_new_count_in_mode_3_waits_for_the_end_of_the_half_period() {
        let mut bench = Bench::new();
        bench.program(0, 3, 1000);
        bench.at_tick(301);
        bench.out(0x40, 200);
        bench.out(0x40, 0);
        assert_eq!(bench.fire(0), time_ns(601));
        assert_eq!(bench.fire(0), time_ns(801));
    }

    #[test]
    fn channel_2_counts_while_its_gate_is_open_and_shows_out_in_port_0x61() {
        let mut bench = Bench::new();
        bench.program(2, 0, 100);
        bench.at_tick(500);
        assert_eq!(bench.inp(0x61) & 0x21, 0x00, "the gate is closed");
        bench.out(0x61, 0x01);
        bench.at_tick(599);
        assert_eq!(bench.inp(0x61) & 0x21, 0x01);
        bench.at_tick(600);
        assert_eq!(bench.inp(0x61) & 0x21, 0x21);
    }

    #[test]
    fn mode_1_is_a_pulse_that_the_gate_triggers_again() {
        let mut bench = Bench::new();
        bench.program(2, 1, 50);
        assert_eq!(bench.inp(0x61) & 0x20, 0x20);
        bench.out(0x61, 1);
        bench.at_tick(40);
        bench.out(0x61, 0);
        bench.out(0x61, 1);
        bench.at_tick(90);
        assert_eq!(bench.inp(0x61) & 0x20, 0);
        bench.at_tick(91);
        assert_eq!(bench.inp(0x61) & 0x20, 0x20);
    }

    #[test]
    fn mode_4_strobes_low_for_one_clock() {
        let mut bench = Bench::new();
        bench.out(0x61, 1);
        bench.program(2, 4, 50);
        let low: Vec<i64> = (0..200)
            .filter(|&tick| {
                bench.at_tick(tick);
                bench.inp(0x61) & 0x20 == 0
            })
            .collect();
        assert_eq!(low, [51]);
    }

    #[test]
    fn a_square_wave_is_high_for_the_longer_half() {
        let mut bench = Bench::new();
        bench.out(0x61, 3);
        bench.program(2, 3, 7);
        let high: Vec<bool> = (1..15)
            .map(|tick| {
                bench.at_tick(tick);
                bench.inp(0x61) & 0x20 != 0
            })
            .collect();
        let period = [true, true, true, true, false, false, false];
        assert_eq!(high, [period, period].concat());
        assert_eq!(bench.pit.speaker_mhz(), Some(1_193_182_000 / 7));
    }
}
