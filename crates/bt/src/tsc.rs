//! The host's time-stamp counter as a clock that translated code can read itself: RDTSC is on the
//! way of every system call of a Linux guest.

use std::time::Duration;
use x86::TscRate;

/// Time between two samples at least: each is good to some ten nanoseconds, so the rate is good to
/// some millionths, as a crystal is.
const APART: Duration = Duration::from_millis(3);
/// Readings for one sample.
const READINGS: u32 = 16;

/// The host's TSC and what another clock showed at the same time.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    tsc: u64,
    ns: u64,
}

/// The host's TSC.
pub fn now() -> u64 {
    // SAFETY: an instruction without preconditions on every x86-64 processor; a process that
    // forbade it to itself (PR_SET_TSC) would have nothing to gain from this crate.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// The processor time that this thread has had: it stands while the thread sleeps, and while the host runs
/// others.
pub fn thread_time() -> Duration {
    // SAFETY: of integers alone.
    let mut time: libc::timespec = unsafe { core::mem::zeroed() };
    // SAFETY: the kernel writes the time there, and nothing else.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// True if the TSC of this host runs at one rate for ever and on all processors alike: the
/// processor says so, and the kernel does not use another clock instead.
pub fn is_invariant() -> bool {
    let leaf = |n| core::arch::x86_64::__cpuid(n);
    let says = leaf(0x8000_0000).eax >= 0x8000_0007 && leaf(0x8000_0007).edx & 1 << 8 != 0;
    let file = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    let trusted = std::fs::read_to_string(file).is_ok_and(|name| {
        let good = ["tsc", "kvm-clock", "hyperv_clocksource_tsc_page"];
        good.contains(&name.trim())
    });
    says && trusted
}

impl Sample {
    /// Takes one: of some readings that which was least disturbed.
    pub fn take(clock_ns: impl Fn() -> u64) -> Sample {
        let mut best = (u64::MAX, Sample { tsc: 0, ns: 0 });
        for _ in 0..READINGS {
            let before = now();
            let ns = clock_ns();
            let took = now().saturating_sub(before);
            let tsc = before + took / 2;
            if took < best.0 {
                best = (took, Sample { tsc, ns });
            }
        }
        best.1
    }

    /// A clock in nanoseconds that starts now and has the rate of the other clock since this
    /// sample, after waiting as long as that takes; `None` if the TSC is slower than that clock or
    /// stands.
    pub fn rate(&self, clock_ns: impl Fn() -> u64) -> Option<TscRate> {
        let since = Duration::from_nanos(clock_ns().saturating_sub(self.ns));
        std::thread::sleep(APART.saturating_sub(since));
        let end = Sample::take(clock_ns);
        let (ns, ticks) = (end.ns.checked_sub(self.ns)?, end.tsc.checked_sub(self.tsc)?);
        if ticks <= ns || ns == 0 {
            return None;
        }
        let factor = ((u128::from(ns) << 64) / u128::from(ticks)) as u64;
        Some(TscRate {
            base: now(),
            factor,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn the_clock_has_the_rate_of_the_one_it_was_set_by() {
        if !is_invariant() {
            println!("skipped: this host's TSC is no clock");
            return;
        }
        let start = Instant::now();
        let clock = || start.elapsed().as_nanos() as u64;
        let Some(rate) = Sample::take(clock).rate(clock) else {
            println!("skipped: this host's TSC is slower than a gigahertz");
            return;
        };
        let (a, b) = (Sample::take(clock), {
            std::thread::sleep(Duration::from_millis(20));
            Sample::take(clock)
        });
        let shown = rate.at(b.tsc) - rate.at(a.tsc);
        let real = b.ns - a.ns;
        // Wide, for a busy host: one part in a thousand.
        assert!(shown.abs_diff(real) < real / 1000, "{shown} {real}");
        assert_eq!(rate.at(rate.base), 0);
        assert_eq!(rate.at(0), 0, "before its start");
    }
}
