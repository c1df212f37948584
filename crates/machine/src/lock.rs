//! The lock around a device, the interrupt hub and the machine's own books. Critical sections are
//! short and never wait for anything but the lock itself; the order is device, hub, timers.
//!
//! Bare metal spins. A host that schedules threads tells [`yield_with`] how to give the processor
//! to the thread that holds the lock, so that a preempted holder costs a switch, not a time slice.

use spin::RelaxStrategy;

static YIELD: spin::Once<fn()> = spin::Once::new();

/// What to do between two attempts to take a lock; the first caller decides.
pub fn yield_with(relax: fn()) {
    YIELD.call_once(|| relax);
}

/// How a [`Lock`] waits.
#[derive(Debug)]
pub struct Relax;

impl RelaxStrategy for Relax {
    fn relax() {
        match YIELD.get() {
            Some(relax) => relax(),
            None => core::hint::spin_loop(),
        }
    }
}

/// A mutual exclusion lock; see the module.
pub type Lock<T> = spin::mutex::Mutex<T, Relax>;
