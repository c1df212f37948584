//! Whose the window ([`crate::window`]) is: one range of host addresses serves one address space at a
//! time, and one processor that runs it.
//!
//! A processor that has a [`Lease`] has code that reaches the range without looking at any table
//! (`View::Window`). Nobody else runs such code: it is found only where `Area::window` says so, which
//! goes before the lease does, in the dispatcher, where nobody is about to run any code. So what is
//! mapped never is another address space's than that of the code that runs. (FS leads nowhere in a
//! processor that had a lease, besides; below 4 GiB there is no such second lock.)
//!
//! Who wants the range for another address space has it at once if nobody has it, or if who has it
//! does not run (its guest has halted it, or it is paused) and has not computed for a while. One that
//! runs and has not computed there for a while is told, and gives it back when it comes by the dispatcher;
//! who wanted it is told then, and the next for some milliseconds. Nobody waits.

use crate::window::{Window, reserve_range};
use core::ops::{Deref, DerefMut};
use core::time::Duration;
use mem::GuestMemory;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use x86::Signals;

/// A processor that has the window.
struct User {
    /// Its lease's number.
    lease: u64,
    /// Its pins.
    signals: Arc<Signals>,
    /// It is in [`x86::Vcpu::run`]: nobody may take the window from it.
    runs: bool,
    /// When its program was last seen to compute.
    used: Instant,
    /// Who else wants it.
    wanted: Option<Arc<Signals>>,
}

/// For so long the window is kept for a processor that has wanted it.
const KEPT: Duration = Duration::from_millis(10);

struct Turns {
    /// The range could be reserved, once somebody has asked.
    reserved: Option<bool>,
    window: Window,
    /// Leases there have been.
    leases: u64,
    user: Option<User>,
    /// Who has wanted the window from the last user, and when that gave it back.
    next: Option<(Arc<Signals>, Instant)>,
}

static TURNS: Mutex<Turns> = Mutex::new(Turns {
    reserved: None,
    window: Window::new(),
    leases: 0,
    user: None,
    next: None,
});

fn turns() -> MutexGuard<'static, Turns> {
    TURNS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// True if a program may go through the window in this process: the host lets programs set FS, and has
/// nothing below 2⁴⁶ here.
pub fn window_possible() -> bool {
    turns().is_possible()
}

impl Turns {
    fn is_possible(&mut self) -> bool {
        *self
            .reserved
            .get_or_insert_with(|| crate::signal::has_fsgsbase() && reserve_range())
    }
}

impl User {
    /// Another asks: true if it may have the window.
    fn gives(&mut self, to: &Arc<Signals>, after: Duration) -> bool {
        let idle = self.used.elapsed() >= after;
        if idle && self.runs {
            self.wanted = Some(to.clone());
            self.signals.raise(Signals::ENGINE);
        }
        idle && !self.runs
    }
}

/// The right to go through the window, by its number.
pub struct Lease(u64);

impl Lease {
    /// Takes the window, empty, for an address space of a guest's memory and a processor that runs, known
    /// by its pins. `after`: for how long another must not have computed there.
    pub fn take(memory: &GuestMemory, by: &Arc<Signals>, after: Duration) -> Option<Lease> {
        let file = memory.file()?;
        let turns = &mut *turns();
        let taken = match (&mut turns.user, &turns.next) {
            (Some(user), _) => !user.gives(by, after),
            (None, Some((next, since))) => !Arc::ptr_eq(next, by) && since.elapsed() < KEPT,
            (None, None) => false,
        };
        if taken || !turns.is_possible() {
            return None;
        }
        turns.next = None;
        turns.window.begin(file);
        turns.leases += 1;
        turns.user = Some(User {
            lease: turns.leases,
            signals: by.clone(),
            runs: true,
            used: Instant::now(),
            wanted: None,
        });
        Some(Lease(turns.leases))
    }

    /// The window, if it is still this processor's, as it is while it runs.
    pub fn window(&self) -> Option<Held> {
        Some(Held(self.turns()?))
    }

    fn turns(&self) -> Option<MutexGuard<'static, Turns>> {
        let turns = turns();
        let lease = turns.user.as_ref().map(|user| user.lease);
        (lease == Some(self.0)).then_some(turns)
    }

    /// Calls `f` with what is known of this processor, if the window is still its own.
    fn user<R>(&self, f: impl FnOnce(&mut User) -> R) -> Option<R> {
        self.turns()?.user.as_mut().map(f)
    }

    /// The processor runs or does not; false if the window is not its own any more.
    pub fn set_running(&self, runs: bool) -> bool {
        self.user(|user| user.runs = runs).is_some()
    }

    /// Its program computes.
    pub fn note_use(&self) {
        self.user(|user| user.used = Instant::now());
    }

    /// True if the window is to be given back, as its program has not computed for so long and another
    /// wants it.
    pub fn is_wanted(&self, after: Duration) -> bool {
        let wanted = |user: &mut User| {
            user.wanted.take_if(|_| user.used.elapsed() < after);
            user.wanted.is_some()
        };
        self.user(wanted).unwrap_or(false)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(mut turns) = self.turns() {
            turns.window.clear();
            if let Some(next) = turns.user.take().and_then(|user| user.wanted) {
                next.raise(Signals::ENGINE);
                turns.next = Some((next, Instant::now()));
            }
        }
    }
}

/// The window, while nobody else changes what is mapped.
pub struct Held(MutexGuard<'static, Turns>);

impl Deref for Held {
    type Target = Window;
    fn deref(&self) -> &Window {
        &self.0.window
    }
}

impl DerefMut for Held {
    fn deref_mut(&mut self) -> &mut Window {
        &mut self.0.window
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::window::{Mapped, tests::memory, tests::rights};
    use mem::RamOffset;

    /// The turn of a test: there is one range in a process.
    pub fn turn() -> MutexGuard<'static, ()> {
        static TURN: Mutex<()> = Mutex::new(());
        TURN.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is not wanted as long as its program computes at times.
    const LONG: Duration = Duration::from_secs(3600);
    const PAGE: u64 = 0x40_0000;

    fn map(lease: &Lease) {
        let (at, writable) = (RamOffset(0x2000), true);
        let page = (PAGE, Mapped { at, writable });
        assert!(lease.window().unwrap().map(&[page]));
        assert_eq!(rights(PAGE).as_deref(), Some("rw-s"));
    }

    fn is_empty() -> bool {
        rights(PAGE).as_deref() == Some("---p")
    }

    #[test]
    fn it_is_one_processors_at_a_time_and_empty_for_the_next() {
        if !window_possible() {
            return println!("skipped: this host has no window");
        }
        let _turn = turn();
        let (memory, other) = (memory(), memory());
        let [one, two] = core::array::from_fn(|_| Arc::new(Signals::default()));
        for of in [&memory, &other, &memory] {
            let lease = Lease::take(&memory, &one, LONG).unwrap();
            assert_eq!(lease.window().unwrap().len(), 0);
            map(&lease);
            assert!(Lease::take(of, &two, LONG).is_none());
            assert_eq!(two.get() | one.get(), 0);
            drop(lease);
            assert!(is_empty());
        }
    }

    #[test]
    fn who_runs_is_told_and_who_does_not_loses_it() {
        if !window_possible() {
            return println!("skipped: this host has no window");
        }
        let _turn = turn();
        let memory = memory();
        let [one, two] = core::array::from_fn(|_| Arc::new(Signals::default()));
        let lease = Lease::take(&memory, &one, LONG).unwrap();
        map(&lease);
        assert!(!lease.is_wanted(Duration::ZERO));
        assert!(Lease::take(&memory, &two, Duration::ZERO).is_none());
        assert_eq!(
            (one.lower(Signals::ENGINE), two.get()),
            (Signals::ENGINE, 0)
        );
        // It has computed in the meantime; then it has not.
        assert!(!lease.is_wanted(LONG) && lease.window().is_some());
        assert!(Lease::take(&memory, &two, Duration::ZERO).is_none());
        assert!(lease.is_wanted(Duration::ZERO));
        drop(lease);
        // It is kept for who wanted it.
        assert!(is_empty() && Lease::take(&memory, &one, LONG).is_none());
        for pins in [&one, &two] {
            assert_eq!(pins.lower(Signals::ENGINE), Signals::ENGINE);
        }
        drop(Lease::take(&memory, &two, LONG).unwrap());
        let lease = Lease::take(&memory, &one, LONG).unwrap();
        map(&lease);
        // Nobody has taken it while it did not run, and then somebody has.
        assert!(lease.set_running(false));
        assert!(Lease::take(&memory, &two, LONG).is_none());
        assert!(lease.set_running(true) && lease.set_running(false));
        let other = Lease::take(&memory, &two, Duration::ZERO).unwrap();
        assert!(is_empty());
        map(&other);
        assert!(!lease.set_running(true) && lease.window().is_none());
        drop(lease);
        assert!(!is_empty() && other.window().is_some());
        drop(other);
        assert!(is_empty());
    }
}
