//! The timer of a local APIC (SDM volume 3, "APIC Timer"): one-shot, periodic and TSC-deadline.
//! [`crate::lapic`] owns it, tells it the mode from the timer's local vector and delivers the
//! interrupt. One count is 1 ns times the divisor; the count is a formula of machine time.

use serde::{Deserialize, Serialize};

/// A periodic timer does not fire more often than this, whatever the guest asks for: a period of
/// 1 ns would keep a host processor busy. Interrupts between are lost; the phase is kept.
const MIN_PERIOD_NS: u64 = 10_000;

/// The relation of one CPU's TSC to machine time: at `base_ns` it read `base_tsc`, and it counts
/// `hz` a second.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TscClock {
    /// Frequency in Hz.
    pub hz: u64,
    /// Machine time of the known point.
    pub base_ns: u64,
    /// The TSC then.
    pub base_tsc: u64,
}

impl TscClock {
    /// The TSC at machine time `now_ns`.
    pub fn tsc_at(&self, now_ns: u64) -> u64 {
        let ns = i128::from(now_ns) - i128::from(self.base_ns);
        let counts = (ns * i128::from(self.hz)).div_euclid(1_000_000_000);
        self.base_tsc.wrapping_add(counts as u64)
    }

    /// The first machine time from `now_ns` on at which the TSC has reached `tsc`; none if that
    /// is beyond the end of time.
    pub fn ns_at(&self, tsc: u64, now_ns: u64) -> Option<u64> {
        if self.tsc_at(now_ns) >= tsc {
            return Some(now_ns);
        }
        let counts = i128::from(tsc) - i128::from(self.base_tsc);
        let hz = i128::from(self.hz.max(1));
        // Rounded up: not before the TSC gets there.
        let ns = -(-counts * 1_000_000_000).div_euclid(hz);
        u64::try_from(ns + i128::from(self.base_ns)).ok()
    }
}

/// The timer's mode, from its local vector.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mode {
    OneShot,
    Periodic,
    TscDeadline,
}

/// How the timer counts.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Timer {
    /// Initial count.
    pub initial: u32,
    /// Divide configuration.
    pub divide: u32,
    /// Machine time at which the count was `count`.
    since_ns: u64,
    count: u32,
    /// IA32_TSC_DEADLINE.
    pub tsc_deadline: u64,
    /// When it fires next.
    pub deadline_ns: Option<u64>,
}

impl Timer {
    /// Whether it is due; if so it goes on as its mode says.
    pub fn fire(&mut self, mode: Mode, now_ns: u64) -> bool {
        let Some(at) = self.deadline_ns.filter(|&at| at <= now_ns) else {
            return false;
        };
        self.deadline_ns = None;
        self.tsc_deadline = 0;
        self.count = 0;
        let period = self.period_ns();
        if mode == Mode::Periodic && period != 0 {
            let slack = MIN_PERIOD_NS.saturating_sub(period);
            let late = (now_ns - at).saturating_add(slack);
            let cycle = at.saturating_add(late / period * period);
            self.since_ns = cycle;
            self.count = self.initial;
            self.deadline_ns = cycle.checked_add(period);
        }
        true
    }

    /// "Transitioning between TSC-deadline mode and other timer modes also disarms the timer."
    pub fn disarm(&mut self) {
        *self = Timer {
            divide: self.divide,
            ..Timer::default()
        };
    }

    /// The current-count register.
    pub fn current_count(&self, mode: Mode, now_ns: u64) -> u32 {
        let Some(at) = self.deadline_ns.filter(|_| mode != Mode::TscDeadline) else {
            return 0;
        };
        let period = self.period_ns();
        if now_ns < at {
            let counted = now_ns.saturating_sub(self.since_ns) / self.divisor();
            u64::from(self.count).saturating_sub(counted) as u32
        } else if mode == Mode::Periodic && period != 0 {
            // The timer call is late: the count has been reloaded meanwhile.
            let into = (now_ns - at) % period / self.divisor();
            u64::from(self.initial).saturating_sub(into) as u32
        } else {
            0
        }
    }

    /// Writes the initial-count register, which starts the count; 0 stops it.
    pub fn set_initial_count(&mut self, mode: Mode, value: u32, now_ns: u64) {
        if mode != Mode::TscDeadline {
            self.initial = value;
            self.start(value, now_ns);
        }
    }

    /// Writes the divide configuration: a running count goes on at the new rate.
    pub fn set_divide(&mut self, mode: Mode, divide: u32, now_ns: u64) {
        let count = self.current_count(mode, now_ns);
        self.divide = divide;
        if self.deadline_ns.is_some() && mode != Mode::TscDeadline {
            self.start(count, now_ns);
        }
    }

    /// Writes IA32_TSC_DEADLINE: 0 disarms; ignored in the other modes.
    pub fn set_tsc_deadline(&mut self, mode: Mode, value: u64, now_ns: u64, tsc: &TscClock) {
        if mode == Mode::TscDeadline {
            self.tsc_deadline = value;
            self.deadline_ns = tsc.ns_at(value, now_ns).filter(|_| value != 0);
        }
    }

    fn divisor(&self) -> u64 {
        let code = (self.divide & 3) | (self.divide >> 1 & 4);
        1 << ((code + 1) & 7)
    }

    fn period_ns(&self) -> u64 {
        u64::from(self.initial) * self.divisor()
    }

    fn start(&mut self, count: u32, now_ns: u64) {
        let length = u64::from(count) * self.divisor();
        self.count = count;
        self.since_ns = now_ns;
        self.deadline_ns = now_ns.checked_add(length).filter(|_| count != 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::Random;

    #[test]
    fn the_tsc_clock_is_exact_both_ways() {
        let mut random = Random::new(9);
        for _ in 0..10_000 {
            let hz = 1_000_000 + random.below(5_000_000_000);
            let clock = TscClock {
                hz,
                base_ns: random.below(1 << 50),
                base_tsc: random.below(1 << 50),
            };
            let tsc = clock.base_tsc + random.below(1 << 50);
            let at = clock.ns_at(tsc, 0).unwrap();
            assert!(clock.tsc_at(at) >= tsc, "{clock:?} {tsc}");
            assert!(
                at == 0 || clock.tsc_at(at - 1) < tsc || at == clock.base_ns,
                "{clock:?} {tsc}"
            );
        }
    }
}
