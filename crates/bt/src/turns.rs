//! Whose the window ([`crate::window`]) is: one range of host addresses serves one address space at a
//! time, and the processors that run it.
//!
//! A processor that has a [`Lease`] has code that reaches the range without looking at any table
//! (`View::Window`). Nobody else runs such code: it is found only where `Area::window` says so, which
//! goes before the lease does, in the dispatcher, where nobody is about to run any code. So what is
//! mapped never is another address space's than that of the code that runs. (FS leads nowhere in a
//! processor that had a lease, besides; below 4 GiB there is no such second lock.)
//!
//! Processors that run the same address space share what is mapped, as if they had one TLB: a page is
//! mapped as the tables say when one of them walks them, and whoever flushes it walks them again, each
//! under the lock ([`Held`]). So none has a page that is older than its own last flush. One that comes
//! back to the address space has not seen what others have mapped meanwhile ([`Held::has_news`]).
//!
//! Who wants the range for another address space has it at once if nobody has it, or if those who have it
//! do not run (their guest has halted them, or they are paused) and have not computed for a while. One that
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
    /// Of [`Turns::mapped`]: so many it knows of.
    seen: u64,
}

/// An address space of a guest, by the file of its memory.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Space {
    file: i32,
    base: u64,
}

/// For so long the window is kept for a processor that has wanted it.
const KEPT: Duration = Duration::from_millis(10);

struct Turns {
    /// The range could be reserved, once somebody has asked.
    reserved: Option<bool>,
    window: Window,
    /// Whose pages are in it.
    space: Space,
    /// Times that something was mapped.
    mapped: u64,
    /// Leases there have been.
    leases: u64,
    users: Vec<User>,
    /// Who has wanted the window from the last user, and when that gave it back.
    next: Option<(Arc<Signals>, Instant)>,
}

static TURNS: Mutex<Turns> = Mutex::new(Turns {
    reserved: None,
    window: Window::new(),
    space: Space { file: -1, base: 0 },
    mapped: 0,
    leases: 0,
    users: Vec::new(),
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

    fn user(&mut self, lease: u64) -> Option<&mut User> {
        self.users.iter_mut().find(|user| user.lease == lease)
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
    /// Takes the window for an address space of a guest's memory and a processor that runs, known by its
    /// pins: empty, or with what others have mapped who run the same. `after`: for how long those who run
    /// another must not have computed there.
    pub fn take(
        memory: &GuestMemory,
        base: u64,
        by: &Arc<Signals>,
        after: Duration,
    ) -> Option<Lease> {
        let file = memory.file()?;
        let space = Space { file, base };
        let turns = &mut *turns();
        if turns.users.is_empty() || turns.space != space {
            turns.users.retain_mut(|user| !user.gives(by, after));
            let kept = turns
                .next
                .as_ref()
                .is_some_and(|(next, since)| !Arc::ptr_eq(next, by) && since.elapsed() < KEPT);
            if kept || !turns.users.is_empty() || !turns.is_possible() {
                return None;
            }
            turns.next = None;
            turns.space = space;
            turns.window.begin(file);
        }
        turns.leases += 1;
        turns.users.push(User {
            lease: turns.leases,
            signals: by.clone(),
            runs: true,
            used: Instant::now(),
            wanted: None,
            seen: turns.mapped,
        });
        Some(Lease(turns.leases))
    }

    /// True if other processors have the window for an address space, and not for so long that another
    /// program may have been given the same tables since.
    pub fn can_join(memory: &GuestMemory, base: u64, after: Duration) -> bool {
        let turns = turns();
        let same = memory.file() == Some(turns.space.file) && base == turns.space.base;
        same && turns.users.iter().any(|user| user.used.elapsed() < after)
    }

    /// The window, if it is still this processor's, as it is while it runs.
    pub fn window(&self) -> Option<Held> {
        let mut turns = turns();
        turns.user(self.0)?;
        Some(Held(turns, self.0))
    }

    /// Calls `f` with what is known of this processor, if the window is still its own.
    fn user<R>(&self, f: impl FnOnce(&mut User) -> R) -> Option<R> {
        turns().user(self.0).map(f)
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
        let turns = &mut *turns();
        let place = turns.users.iter().position(|user| user.lease == self.0);
        let user = place.map(|n| turns.users.swap_remove(n));
        if turns.users.is_empty() {
            turns.window.clear();
            if let Some(next) = user.and_then(|user| user.wanted) {
                next.raise(Signals::ENGINE);
                turns.next = Some((next, Instant::now()));
            }
        }
    }
}

/// The window, while nobody else changes what is mapped; for who has a lease.
pub struct Held(MutexGuard<'static, Turns>, u64);

impl Held {
    /// Something has been mapped.
    pub fn note_mapped(&mut self) {
        let (turns, lease) = (&mut *self.0, self.1);
        turns.mapped += 1;
        let mapped = turns.mapped;
        if let Some(user) = turns.user(lease)
            && user.seen + 1 == mapped
        {
            user.seen = mapped;
        }
    }

    /// True if others have mapped something since this was last asked.
    pub fn has_news(&mut self) -> bool {
        let (turns, lease) = (&mut *self.0, self.1);
        let mapped = turns.mapped;
        turns
            .user(lease)
            .is_some_and(|user| std::mem::replace(&mut user.seen, mapped) != mapped)
    }
}

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

    /// The turn of a test: there is one range in a process. None on a host without a window.
    pub fn turn() -> Option<MutexGuard<'static, ()>> {
        static TURN: Mutex<()> = Mutex::new(());
        if !window_possible() {
            println!("skipped: this host has no window");
            return None;
        }
        Some(TURN.lock().unwrap_or_else(PoisonError::into_inner))
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
        let Some(_turn) = turn() else { return };
        let (memory, other) = (memory(), memory());
        let [one, two] = core::array::from_fn(|_| Arc::new(Signals::default()));
        for (of, base) in [(&memory, 0x2000), (&other, 0x1000)] {
            let lease = Lease::take(&memory, 0x1000, &one, LONG).unwrap();
            assert_eq!(lease.window().unwrap().len(), 0);
            map(&lease);
            assert!(Lease::take(of, base, &two, LONG).is_none());
            assert_eq!(two.get() | one.get(), 0);
            drop(lease);
            assert!(is_empty());
        }
    }

    #[test]
    fn who_runs_is_told_and_who_does_not_loses_it() {
        let Some(_turn) = turn() else { return };
        let memory = memory();
        let [one, two] = core::array::from_fn(|_| Arc::new(Signals::default()));
        let lease = Lease::take(&memory, 0x1000, &one, LONG).unwrap();
        map(&lease);
        assert!(!lease.is_wanted(Duration::ZERO));
        assert!(Lease::take(&memory, 0x2000, &two, Duration::ZERO).is_none());
        assert_eq!(
            (one.lower(Signals::ENGINE), two.get()),
            (Signals::ENGINE, 0)
        );
        // It has computed in the meantime; then it has not.
        assert!(!lease.is_wanted(LONG) && lease.window().is_some());
        assert!(Lease::take(&memory, 0x2000, &two, Duration::ZERO).is_none());
        assert!(lease.is_wanted(Duration::ZERO));
        drop(lease);
        // It is kept for who wanted it.
        assert!(is_empty() && Lease::take(&memory, 0x1000, &one, LONG).is_none());
        for pins in [&one, &two] {
            assert_eq!(pins.lower(Signals::ENGINE), Signals::ENGINE);
        }
        drop(Lease::take(&memory, 0x2000, &two, LONG).unwrap());
        let lease = Lease::take(&memory, 0x1000, &one, LONG).unwrap();
        map(&lease);
        // Nobody has taken it while it did not run, and then somebody has.
        assert!(lease.set_running(false));
        assert!(Lease::take(&memory, 0x2000, &two, LONG).is_none());
        assert!(lease.set_running(true) && lease.set_running(false));
        let other = Lease::take(&memory, 0x2000, &two, Duration::ZERO).unwrap();
        assert!(is_empty());
        map(&other);
        assert!(!lease.set_running(true) && lease.window().is_none());
        drop(lease);
        assert!(!is_empty() && other.window().is_some());
        drop(other);
        assert!(is_empty());
    }
    #[test]
    fn processors_that_run_the_same_share_what_is_mapped_until_all_have_left() {
        let Some(_turn) = turn() else { return };
        let memory = memory();
        let [one, two, three] = core::array::from_fn(|_| Arc::new(Signals::default()));
        assert!(!Lease::can_join(&memory, 0x1000, LONG));
        let first = Lease::take(&memory, 0x1000, &one, LONG).unwrap();
        map(&first);
        assert!(Lease::can_join(&memory, 0x1000, LONG));
        for (base, after) in [(0x1000, Duration::ZERO), (0x2000, LONG)] {
            assert!(!Lease::can_join(&memory, base, after));
        }
        let second = Lease::take(&memory, 0x1000, &two, LONG).unwrap();
        assert_eq!(second.window().unwrap().len(), 1);
        first.window().unwrap().note_mapped();
        assert!(!first.window().unwrap().has_news());
        assert!(second.window().unwrap().has_news() && !second.window().unwrap().has_news());
        // One does not run, the other is told.
        assert!(first.set_running(false));
        let other = |after| Lease::take(&memory, 0x2000, &three, after);
        assert!(other(LONG).is_none() && first.window().is_some());
        assert!(other(Duration::ZERO).is_none() && first.window().is_none());
        assert_eq!((one.get(), two.get()), (0, Signals::ENGINE));
        drop(first);
        assert!(!is_empty() && second.is_wanted(Duration::ZERO));
        drop(second);
        assert!(is_empty() && other(LONG).is_some());
    }
}
