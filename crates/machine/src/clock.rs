//! Guest time. All of a machine's time comes from one [`Clock`]: device timers, the APICs, the
//! TSC. `vmm` brings one that follows the host; [`InstructionClock`] follows the instructions
//! retired, which makes a run repeatable to the instruction.

use core::sync::atomic::{AtomicU64, Ordering};

/// Frequency of the guest's TSC in Hz: one tick is one nanosecond of machine time. CPUID leaf
/// 0x15 and the hypervisor leaf tell the guest.
pub use x86::cpuid::TSC_HZ;

/// Where machine time comes from.
pub trait Clock: Send + Sync {
    /// Nanoseconds since power-on. Never goes back.
    fn now_ns(&self) -> u64;
    /// How [`Self::now_ns`] follows the host's TSC, if it does: the same from start to end.
    fn tsc_rate(&self) -> Option<x86::TscRate> {
        None
    }
    /// That many instructions were retired by some processor.
    fn retired(&self, instructions: u64) {
        let _ = instructions;
    }
    /// True if time passes only through [`Self::retired`] and [`Self::skip_to`]: processors then
    /// take turns in one thread.
    fn is_virtual(&self) -> bool {
        false
    }
    /// Every processor is halted: a virtual clock jumps to the next deadline.
    fn skip_to(&self, at_ns: u64) {
        let _ = at_ns;
    }
    /// How many instructions may be retired until `at_ns`; `None` if the clock does not count
    /// them.
    fn instructions_until(&self, at_ns: u64) -> Option<u64> {
        let _ = at_ns;
        None
    }
}

/// Time = instructions × a constant + what was skipped while everything was halted.
#[derive(Debug)]
pub struct InstructionClock {
    ns_per_1000: u64,
    /// Thousandths of nanoseconds would not be exact after a skip: picoseconds since power-on.
    now_ps: AtomicU64,
}

impl InstructionClock {
    /// 1000 instructions take `ns_per_1000` nanoseconds (at least 1).
    pub fn new(ns_per_1000: u32) -> Self {
        InstructionClock {
            ns_per_1000: u64::from(ns_per_1000.max(1)),
            now_ps: AtomicU64::new(0),
        }
    }
}

impl Clock for InstructionClock {
    fn now_ns(&self) -> u64 {
        self.now_ps.load(Ordering::Relaxed) / 1000
    }
    fn retired(&self, instructions: u64) {
        // ns per 1000 instructions = ps per instruction.
        self.now_ps.fetch_add(
            instructions.saturating_mul(self.ns_per_1000),
            Ordering::Relaxed,
        );
    }
    fn is_virtual(&self) -> bool {
        true
    }
    fn skip_to(&self, at_ns: u64) {
        self.now_ps
            .fetch_max(at_ns.saturating_mul(1000), Ordering::Relaxed);
    }
    fn instructions_until(&self, at_ns: u64) -> Option<u64> {
        let left = at_ns
            .saturating_mul(1000)
            .saturating_sub(self.now_ps.load(Ordering::Relaxed));
        Some(left.div_ceil(self.ns_per_1000).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_time_and_a_skip_never_goes_back() {
        let clock = InstructionClock::new(500);
        clock.retired(3);
        assert_eq!(clock.now_ns(), 1, "1.5 ns, rounded down");
        clock.retired(1);
        assert_eq!(clock.now_ns(), 2);
        assert_eq!(clock.instructions_until(1002), Some(2000));
        clock.skip_to(1000);
        clock.skip_to(10);
        assert_eq!(clock.now_ns(), 1000);
        assert_eq!(clock.instructions_until(5), Some(1), "late is at once");
    }
}
