//! How a machine's processors wait and are woken on a host with threads, and the host's clock.

use backends::host::HostEntropy;
use bt::tsc::{self, Sample};
use devices::backend::Entropy as _;
use machine::Host;
use machine::clock::Clock;
use rustix::time::{ClockId, clock_gettime};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};
use x86::{Kick, TscRate};

/// A place where one thread waits for a token. A token that comes while nobody waits is kept, so
/// no wake is lost between a look at the pins and the wait.
#[derive(Default)]
pub struct Parker {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    token: bool,
    /// Somebody waits: only then does a token cost a system call.
    waiting: bool,
}

impl Parker {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in here can panic half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a token, at most for `timeout`, and takes it.
    pub fn park(&self, timeout: Option<Duration>) {
        let until = timeout.and_then(|t| Instant::now().checked_add(t));
        let mut state = self.state();
        while !state.token {
            state.waiting = true;
            match until {
                None => {
                    let woken = self.changed.wait(state);
                    state = woken.unwrap_or_else(PoisonError::into_inner);
                }
                Some(until) => {
                    let left = until.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        break;
                    }
                    let woken = self.changed.wait_timeout(state, left);
                    state = woken.unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
        state.waiting = false;
        state.token = false;
    }

    /// Gives the token.
    pub fn unpark(&self) {
        let mut state = self.state();
        state.token = true;
        if state.waiting {
            self.changed.notify_one();
        }
    }
}

/// The threads of one machine as it sees them.
pub struct Threads {
    vcpus: Vec<Parker>,
    /// The thread that runs the timers.
    pub timer: Parker,
    /// What brings each processor out of the guest, where it does not look by itself.
    kicks: RwLock<Vec<Option<Kick>>>,
    /// Lines for the user, one at a time.
    events: Box<dyn Fn(String) + Send + Sync>,
    /// The processors' randomness is the host's; else the run is to be repeatable.
    random: bool,
}

impl Threads {
    /// Places for `waiters` threads: one per processor, or one for all of them; `random` says
    /// whether processors get the host's randomness.
    pub fn new(waiters: u32, random: bool, events: Box<dyn Fn(String) + Send + Sync>) -> Self {
        Threads {
            vcpus: (0..waiters.max(1)).map(|_| Parker::default()).collect(),
            timer: Parker::default(),
            kicks: RwLock::default(),
            events,
            random,
        }
    }

    /// The processors that run from now on.
    pub fn set_kicks(&self, kicks: Vec<Option<Kick>>) {
        *self.kicks.write().unwrap_or_else(PoisonError::into_inner) = kicks;
    }

    fn place(&self, cpu: u32) -> &Parker {
        &self.vcpus[cpu as usize % self.vcpus.len()]
    }
}

impl Host for Threads {
    fn wait(&self, cpu: u32) {
        self.place(cpu).park(None);
    }
    fn wake(&self, cpu: u32) {
        self.place(cpu).unpark();
        let kicks = self.kicks.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(Some(kick)) = kicks.get(cpu as usize) {
            kick();
        }
    }
    fn timers_changed(&self) {
        self.timer.unpark();
    }
    fn event(&self, text: String) {
        (self.events)(text);
    }
    fn entropy(&self) -> Option<u64> {
        let mut bytes = [0; 8];
        let filled = self.random && HostEntropy.fill(&mut bytes).is_ok();
        filled.then(|| u64::from_ne_bytes(bytes))
    }
}

/// The host's monotonic clock, from 0 at power-on: the one that nobody slews, because it runs as
/// the host's TSC does, which under KVM is the guest's.
pub enum HostClock {
    /// As the kernel tells it; when it started.
    Kernel(u64),
    /// By the host's TSC, so that translated code reads it without leaving. It has the rate that
    /// the kernel's clock had when it was set, to some millionths.
    Tsc(TscRate),
}

fn raw_ns() -> u64 {
    let now = clock_gettime(ClockId::MonotonicRaw);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

impl HostClock {
    /// Starts now, as the kernel tells the time.
    pub fn start() -> Self {
        HostClock::Kernel(raw_ns())
    }

    /// A sample for [`Self::start_by_tsc`]; `None` where the TSC is no clock.
    pub fn sample() -> Option<Sample> {
        tsc::is_invariant().then(|| Sample::take(raw_ns))
    }

    /// Starts now, by the TSC if it has a rate since the sample was taken.
    pub fn start_by_tsc(since: Option<Sample>) -> Self {
        match since.and_then(|sample| sample.rate(raw_ns)) {
            Some(rate) => HostClock::Tsc(rate),
            None => HostClock::start(),
        }
    }
}

impl Clock for HostClock {
    fn now_ns(&self) -> u64 {
        match self {
            HostClock::Kernel(start) => raw_ns() - start,
            HostClock::Tsc(rate) => rate.at(tsc::now()),
        }
    }
    fn tsc_rate(&self) -> Option<TscRate> {
        match self {
            HostClock::Kernel(_) => None,
            HostClock::Tsc(rate) => Some(*rate),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn a_token_given_before_the_wait_ends_it() {
        let parker = Parker::default();
        parker.unpark();
        parker.unpark();
        parker.park(None);
        parker.park(Some(Duration::ZERO));
    }

    #[test]
    fn two_threads_that_wake_each_other_a_thousand_times_never_miss_one() {
        let pair = Arc::new((Parker::default(), Parker::default()));
        let other = pair.clone();
        let thread = std::thread::spawn(move || {
            for _ in 0..1000 {
                other.0.park(None);
                other.1.unpark();
            }
        });
        for _ in 0..1000 {
            pair.0.unpark();
            pair.1.park(None);
        }
        thread.join().unwrap();
    }
}
