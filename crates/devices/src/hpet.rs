//! The high precision event timer (IA-PC HPET Specification 1.0a): a 64-bit counter of 100 MHz
//! and three timers, each periodic or one-shot.
//!
//! Region 0 is the register block of 0x400 bytes, usually at 0xFED0_0000. Timer `n` of the device
//! is HPET timer `n`. Lines: 0..23 are GSIs of the same number, which the board wires one to one;
//! a timer drives the GSI in its Tn_INT_ROUTE_CNF, one of [`ROUTES`] (2, 8 and 16..23). With
//! legacy replacement timer 0 drives line 0 and timer 1 line 8, which are the ISA IRQs 0 and 8
//! (so that line 0 arrives at I/O APIC pin 2). Line [`LEGACY_LINE`] is no interrupt: it is high
//! while legacy replacement is on, and the board then disconnects PIT and RTC
//! (`Hub::mute_legacy`).
//!
//! The counter is a formula of machine time. A late timer call gives one interrupt however many
//! periods have passed; the next deadline is strictly after now and on the old phase. An
//! edge-triggered interrupt is a pulse of its line. A comparator that equals the counter when it
//! is programmed matches at once.
//!
//! Not modelled: a timer that is level-triggered and FSB at once (the FSB message is sent once).

use crate::{Context, Device, Inspector, LoadError, Message, load_state, save_state};
use alloc::format;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// Nanoseconds per count.
const TICK_NS: u64 = 10;
/// COUNTER_CLK_PERIOD in femtoseconds.
const PERIOD_FS: u64 = TICK_NS * 1_000_000;
const TIMERS: usize = 3;
/// A periodic timer does not fire more often than this, whatever the guest asks for: a period of
/// 10 ns would keep a host processor busy. Interrupts between are lost; the phase is kept.
const MIN_PERIOD_NS: u64 = 10_000;
/// GSIs a timer may be routed to, as on QEMU's q35.
pub const ROUTES: u32 = 0x00ff_0104;
/// The line that is high while legacy replacement is on.
pub const LEGACY_LINE: u8 = 24;

/// Vendor 0x8086, legacy replacement, 64 bits, three timers, revision 1.
const CAPABILITIES: u64 = PERIOD_FS << 32 | 0x8086_0000 | 1 << 15 | 1 << 13 | 2 << 8 | 1;
const ENABLE: u64 = 1 << 0;
const LEGACY: u64 = 1 << 1;

const LEVEL: u32 = 1 << 1;
const INT_ENABLE: u32 = 1 << 2;
const PERIODIC: u32 = 1 << 3;
/// Periodic, 64-bit and FSB delivery capable.
const TIMER_CAPABILITIES: u32 = 1 << 4 | 1 << 5 | 1 << 15;
const VALUE_SET: u32 = 1 << 6;
const MODE_32: u32 = 1 << 8;
const ROUTE: u32 = 0x1f << 9;
const FSB_ENABLE: u32 = 1 << 14;
const WRITABLE: u32 = LEVEL | INT_ENABLE | PERIODIC | VALUE_SET | MODE_32 | ROUTE | FSB_ENABLE;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Timer {
    config: u32,
    comparator: u64,
    period: u64,
    fsb: u64,
    /// When the counter reaches the comparator, if it runs.
    due_ns: Option<u64>,
}

impl Timer {
    const POWER_ON: Timer = Timer {
        config: 0,
        comparator: u64::MAX,
        period: 0,
        fsb: 0,
        due_ns: None,
    };

    fn is(&self, bit: u32) -> bool {
        self.config & bit != 0
    }

    fn width(&self) -> u64 {
        if self.is(MODE_32) {
            0xffff_ffff
        } else {
            u64::MAX
        }
    }
}

/// The timer block.
pub struct Hpet {
    config: u64,
    /// GINTR_STATUS: level-triggered interrupts that are active.
    status: u32,
    /// The counter at `since_ns`, or while it stands.
    counter: u64,
    since_ns: u64,
    timers: [Timer; TIMERS],
    /// Lines that are high.
    driven: u32,
}

impl Default for Hpet {
    fn default() -> Self {
        Self::new()
    }
}

/// `old` with the bytes from `first` on replaced by the low `size` bytes of `value`.
fn merge(old: u64, first: u64, size: u8, value: u64) -> u64 {
    let shift = 8 * (first & 7);
    let mask = (u64::MAX >> (64 - 8 * u32::from(size.clamp(1, 8)))) << shift;
    old & !mask | value << shift & mask
}

impl Hpet {
    /// The block at power-on: the counter stands at 0.
    pub fn new() -> Self {
        Hpet {
            config: 0,
            status: 0,
            counter: 0,
            since_ns: 0,
            timers: [Timer::POWER_ON; TIMERS],
            driven: 0,
        }
    }

    fn running(&self) -> bool {
        self.config & ENABLE != 0
    }

    fn counter_at(&self, now_ns: u64) -> u64 {
        if self.running() {
            self.counter
                .wrapping_add(now_ns.saturating_sub(self.since_ns) / TICK_NS)
        } else {
            self.counter
        }
    }

    /// The line of timer `i`.
    fn line(&self, i: usize) -> Option<u8> {
        if self.config & LEGACY != 0 && i < 2 {
            return Some([0, 8][i]);
        }
        let route = (self.timers[i].config & ROUTE) >> 9;
        (ROUTES >> route & 1 != 0).then_some(route as u8)
    }

    /// Which lines the state holds high.
    fn levels(&self) -> u32 {
        let mut levels = if self.config & LEGACY != 0 {
            1 << LEGACY_LINE
        } else {
            0
        };
        for (i, timer) in self.timers.iter().enumerate() {
            let active = self.status & 1 << i != 0 && timer.is(INT_ENABLE) && timer.is(LEVEL);
            if let Some(line) = self.line(i).filter(|_| active && !timer.is(FSB_ENABLE)) {
                levels |= 1 << line;
            }
        }
        levels
    }

    /// Computes when timer `i` matches next.
    fn schedule(&mut self, i: usize, now_ns: u64) {
        let timer = self.timers[i];
        let distance = timer.comparator.wrapping_sub(self.counter_at(now_ns)) & timer.width();
        let due_ns = match distance {
            _ if !self.running() => None,
            0 => Some(now_ns),
            _ => self.at_distance(u128::from(distance), now_ns),
        };
        self.timers[i].due_ns = due_ns;
    }

    /// The time at which the counter will have gone `distance` counts beyond its present value.
    fn at_distance(&self, distance: u128, now_ns: u64) -> Option<u64> {
        let passed = now_ns.saturating_sub(self.since_ns) / TICK_NS;
        let counts = u128::from(passed) + distance;
        u64::try_from(counts * u128::from(TICK_NS) + u128::from(self.since_ns)).ok()
    }

    /// Fires what is due.
    fn catch_up(&mut self, cx: &mut Context<'_>) {
        for i in 0..TIMERS {
            let Some(due_ns) = self.timers[i].due_ns.filter(|&due| due <= cx.now_ns) else {
                continue;
            };
            let timer = &mut self.timers[i];
            if timer.is(PERIODIC) && timer.period != 0 {
                let slack = MIN_PERIOD_NS.saturating_sub(timer.period.saturating_mul(TICK_NS));
                let late_ns = (cx.now_ns - due_ns).saturating_add(slack);
                let periods = late_ns / TICK_NS / timer.period + 1;
                let counts = u128::from(periods) * u128::from(timer.period);
                timer.comparator = timer.comparator.wrapping_add(counts as u64) & timer.width();
                let next = counts * u128::from(TICK_NS) + u128::from(due_ns);
                timer.due_ns = u64::try_from(next).ok();
            } else {
                // The counter comes by again when it has wrapped; 64 bits never do.
                let wrap = u128::from(timer.width()) + 1;
                let next = wrap * u128::from(TICK_NS) + u128::from(due_ns);
                timer.due_ns = u64::try_from(next).ok().filter(|&at| at > cx.now_ns);
            }
            self.fire(cx, i);
        }
    }

    fn fire(&mut self, cx: &mut Context<'_>, i: usize) {
        let timer = self.timers[i];
        if !timer.is(INT_ENABLE) {
            return;
        }
        if timer.is(FSB_ENABLE) {
            let (address, data) = (timer.fsb >> 32, timer.fsb as u32);
            cx.wires.message(Message { address, data });
        } else if timer.is(LEVEL) {
            self.status |= 1 << i;
        } else if let Some(line) = self.line(i) {
            let held = self.driven & 1 << line != 0;
            cx.wires.set_line(line, true);
            cx.wires.set_line(line, held);
        }
    }

    /// The one place at which lines and timers follow the state.
    fn sync(&mut self, cx: &mut Context<'_>) {
        let levels = self.levels();
        for line in 0..=LEGACY_LINE {
            if (levels ^ self.driven) & 1 << line != 0 {
                cx.wires.set_line(line, levels & 1 << line != 0);
            }
        }
        self.driven = levels;
        for (i, timer) in self.timers.iter().enumerate() {
            cx.wires
                .arm(i as u8, timer.due_ns.filter(|_| timer.is(INT_ENABLE)));
        }
    }

    fn register(&self, offset: u64, now_ns: u64) -> u64 {
        match offset {
            0x00 => CAPABILITIES,
            0x10 => self.config,
            0x20 => u64::from(self.status),
            0xf0 => self.counter_at(now_ns),
            0x100..=0x15f => {
                let timer = &self.timers[((offset - 0x100) >> 5) as usize];
                match offset & 0x18 {
                    0x00 => u64::from(timer.config | TIMER_CAPABILITIES) | u64::from(ROUTES) << 32,
                    0x08 => timer.comparator,
                    0x10 => timer.fsb,
                    _ => 0,
                }
            }
            _ => 0,
        }
    }

    fn write_register(&mut self, now_ns: u64, offset: u64, first: u64, size: u8, value: u64) {
        match offset {
            0x10 => {
                let config = merge(self.config, first, size, value) & (ENABLE | LEGACY);
                let counter = self.counter_at(now_ns);
                let switched = (config ^ self.config) & ENABLE != 0;
                self.config = config;
                if switched {
                    self.counter = counter;
                    self.since_ns = now_ns;
                    (0..TIMERS).for_each(|i| self.schedule(i, now_ns));
                }
            }
            0x20 => self.status &= !(merge(0, first, size, value) as u32),
            0xf0 => {
                self.counter = merge(self.counter_at(now_ns), first, size, value);
                self.since_ns = now_ns;
                (0..TIMERS).for_each(|i| self.schedule(i, now_ns));
            }
            0x100..=0x15f => {
                let i = ((offset - 0x100) >> 5) as usize;
                self.write_timer(now_ns, i, offset & 0x18, first, size, value);
            }
            _ => {}
        }
    }

    fn write_timer(
        &mut self,
        now_ns: u64,
        i: usize,
        register: u64,
        first: u64,
        size: u8,
        value: u64,
    ) {
        let timer = &mut self.timers[i];
        match register {
            0x00 => {
                let old = timer.config;
                timer.config = merge(u64::from(old), first, size, value) as u32 & WRITABLE;
                timer.comparator &= timer.width();
                timer.period &= timer.width();
                if !timer.is(LEVEL) {
                    self.status &= !(1 << i);
                }
                if (old ^ timer.config) & (MODE_32 | PERIODIC) != 0 {
                    self.schedule(i, now_ns);
                }
            }
            0x08 => {
                // Tn_VAL_SET_CNF: a write sets the accumulator of a periodic timer; without it
                // the period only.
                let width = timer.width();
                if !timer.is(PERIODIC) || timer.is(VALUE_SET) {
                    timer.comparator = merge(timer.comparator, first, size, value) & width;
                }
                if timer.is(PERIODIC) {
                    timer.period = merge(timer.period, first, size, value) & width;
                }
                timer.config &= !VALUE_SET;
                self.schedule(i, now_ns);
            }
            0x10 => timer.fsb = merge(timer.fsb, first, size, value),
            _ => {}
        }
    }
}

impl Device for Hpet {
    fn name(&self) -> &'static str {
        "hpet"
    }
    fn read(&mut self, cx: &mut Context<'_>, _region: u8, offset: u64, _size: u8) -> u64 {
        // The comparator of a periodic timer moves on even if nobody is interrupted.
        self.catch_up(cx);
        self.sync(cx);
        self.register(offset & !7, cx.now_ns) >> (8 * (offset & 7))
    }
    fn write(&mut self, cx: &mut Context<'_>, _region: u8, offset: u64, size: u8, value: u64) {
        self.catch_up(cx);
        self.write_register(cx.now_ns, offset & !7, offset & 7, size, value);
        self.catch_up(cx);
        self.sync(cx);
    }
    fn timer(&mut self, cx: &mut Context<'_>, timer: u8) {
        if usize::from(timer) < TIMERS {
            self.catch_up(cx);
            self.sync(cx);
        }
    }
    fn reset(&mut self, cx: &mut Context<'_>) {
        *self = Hpet {
            driven: self.driven,
            ..Hpet::new()
        };
        self.sync(cx);
    }
    fn save(&self) -> Vec<u8> {
        let Hpet {
            config,
            status,
            counter,
            since_ns,
            timers,
            driven,
        } = self;
        save_state(1, &(config, status, counter, since_ns, timers, driven))
    }
    fn load(&mut self, section: &[u8]) -> Result<(), LoadError> {
        let (config, status, counter, since_ns, timers, driven): (
            u64,
            u32,
            u64,
            u64,
            [Timer; TIMERS],
            u32,
        ) = load_state(1, section)?;
        let loaded = Hpet {
            config,
            status,
            counter,
            since_ns,
            timers,
            driven,
        };
        let invalid = |field, value: u64| {
            Err(LoadError::Invalid {
                field,
                why: format!("{value:#x} is impossible"),
            })
        };
        if config & !(ENABLE | LEGACY) != 0 {
            return invalid("config", config);
        }
        if status >> TIMERS != 0 {
            return invalid("status", u64::from(status));
        }
        for timer in timers {
            if timer.config & !WRITABLE != 0 || timer.comparator & !timer.width() != 0 {
                return invalid("timers", u64::from(timer.config));
            }
            if timer.period & !timer.width() != 0 || timer.due_ns.is_some() && !loaded.running() {
                return invalid("timers", timer.period);
            }
        }
        if driven != loaded.levels() {
            return invalid("driven", u64::from(driven));
        }
        *self = loaded;
        Ok(())
    }
    fn inspect(&self, out: &mut Inspector) {
        out.hex("config", self.config);
        out.hex("status", u64::from(self.status));
        out.value(
            "counter",
            format_args!("{:#x} at {} ns", self.counter, self.since_ns),
        );
        for (i, timer) in self.timers.iter().enumerate() {
            out.value(
                &format!("timer {i}"),
                format_args!("{timer:x?}, line {:?}", self.line(i)),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Recorder;
    use mem::GuestMemory;

    struct Bench {
        hpet: Hpet,
        wires: Recorder,
        memory: GuestMemory,
        now_ns: u64,
    }

    impl Bench {
        fn new() -> Self {
            Bench {
                hpet: Hpet::new(),
                wires: Recorder::default(),
                memory: GuestMemory::flat(4096).unwrap(),
                now_ns: 0,
            }
        }
        fn with<R>(&mut self, f: impl FnOnce(&mut Hpet, &mut Context<'_>) -> R) -> R {
            let cx = &mut Context {
                now_ns: self.now_ns,
                memory: &self.memory,
                wires: &mut self.wires,
            };
            f(&mut self.hpet, cx)
        }
        fn write(&mut self, offset: u64, size: u8, value: u64) {
            self.with(|hpet, cx| hpet.write(cx, 0, offset, size, value));
        }
        fn read(&mut self, offset: u64) -> u64 {
            self.with(|hpet, cx| hpet.read(cx, 0, offset, 8))
        }
        fn fire(&mut self, timer: u8, late_ns: u64) -> u64 {
            let at = self.wires.timers.remove(&timer).expect("armed");
            self.now_ns = at + late_ns;
            self.with(|hpet, cx| hpet.timer(cx, timer));
            at
        }
        fn edges(&self, line: u8) -> u32 {
            self.wires.edges.get(&line).copied().unwrap_or(0)
        }
    }

    #[test]
    fn the_hpet_keeps_the_contract() {
        crate::contract::check(&[0x160], Hpet::new);
    }

    #[test]
    fn the_counter_counts_10_ns_while_enabled() {
        let mut bench = Bench::new();
        assert_eq!(bench.read(0), 0x0098_9680_8086_a201);
        bench.now_ns = 1000;
        bench.write(0xf0, 8, 0xffff_ffff_ffff_fff0);
        bench.write(0x10, 8, 1);
        bench.now_ns = 1255;
        assert_eq!(bench.read(0xf0), 9);
        bench.write(0x10, 8, 0);
        bench.now_ns = 5000;
        assert_eq!(bench.read(0xf0), 9);
        assert_eq!(bench.with(|hpet, cx| hpet.read(cx, 0, 4, 4)), PERIOD_FS);
    }

    #[test]
    fn a_one_shot_in_legacy_mode_pulses_irq_0_once() {
        let mut bench = Bench::new();
        bench.write(0x10, 4, 3);
        assert!(bench.wires.lines[&LEGACY_LINE]);
        bench.write(0x100, 4, u64::from(INT_ENABLE));
        bench.write(0x108, 8, 500);
        assert_eq!(bench.fire(0, 3), 5000);
        assert_eq!(bench.edges(0), 1);
        assert!(!bench.wires.lines[&0]);
        assert!(bench.wires.timers.is_empty());
    }

    #[test]
    fn a_periodic_timer_as_linux_programs_it_keeps_its_phase() {
        let mut bench = Bench::new();
        bench.write(0x10, 4, 3);
        bench.now_ns = 1000;
        bench.write(
            0x100,
            4,
            u64::from(INT_ENABLE | PERIODIC | VALUE_SET | MODE_32),
        );
        bench.write(0x108, 4, 100 + 2500);
        bench.write(0x108, 4, 2500);
        for i in 0..10_000 {
            assert_eq!(bench.fire(0, 0), 26_000 + 25_000 * i);
        }
        assert_eq!(bench.edges(0), 10_000);
        let due = bench.fire(0, 99_999);
        assert_eq!(bench.edges(0), 10_001, "one interrupt for four periods");
        assert_eq!(bench.wires.timers[&0], due + 100_000);
        assert_eq!(bench.read(0x108), (due + 100_000) / 10);
    }

    #[test]
    fn a_level_interrupt_holds_its_gsi_until_the_status_is_written() {
        let mut bench = Bench::new();
        bench.write(0x10, 4, 1);
        bench.write(0x140, 4, u64::from(INT_ENABLE | LEVEL | 20 << 9));
        assert_eq!(bench.read(0x140), 0x00ff_0104_0000_a836);
        bench.write(0x148, 8, 7);
        bench.fire(2, 0);
        assert!(bench.wires.lines[&20]);
        assert_eq!(bench.read(0x20), 4);
        bench.write(0x20, 4, 4);
        assert!(!bench.wires.lines[&20]);
    }

    #[test]
    fn an_unsupported_route_goes_nowhere() {
        let mut bench = Bench::new();
        bench.write(0x10, 4, 1);
        bench.write(0x120, 4, u64::from(INT_ENABLE | 5 << 9));
        bench.write(0x128, 8, 7);
        bench.fire(1, 0);
        assert!(bench.wires.edges.is_empty());
    }

    #[test]
    fn fsb_delivery_sends_the_programmed_message() {
        let mut bench = Bench::new();
        bench.write(0x10, 4, 1);
        bench.write(0x120, 4, u64::from(INT_ENABLE | FSB_ENABLE));
        bench.write(0x130, 4, 0x41);
        bench.write(0x134, 4, 0xfee0_1000);
        bench.write(0x128, 8, 3);
        bench.fire(1, 0);
        let message = Message {
            address: 0xfee0_1000,
            data: 0x41,
        };
        assert_eq!(bench.wires.messages, [message]);
    }

    #[test]
    fn a_32_bit_one_shot_comes_again_after_the_wrap() {
        let mut bench = Bench::new();
        bench.write(0x10, 4, 1);
        bench.write(0x100, 4, u64::from(INT_ENABLE | MODE_32 | 2 << 9));
        bench.write(0x108, 4, 16);
        assert_eq!(bench.fire(0, 0), 160);
        assert_eq!(bench.fire(0, 0), 160 + (10 << 32));
        assert_eq!(bench.edges(2), 2);
    }
}
