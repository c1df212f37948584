//! The queue of device timers: which timer of which device comes due when.

use alloc::collections::{BTreeMap, BTreeSet};

/// One timer of one device slot.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct TimerId {
    /// Index of the device on the board.
    pub slot: u16,
    /// The device's own number for it.
    pub timer: u8,
}

/// Armed timers in the order in which they come due.
#[derive(Default, Debug)]
pub struct Timers {
    order: BTreeSet<(u64, TimerId)>,
    deadlines: BTreeMap<TimerId, u64>,
}

impl Timers {
    /// Arms a timer, forgetting its earlier deadline, or stops it.
    pub fn arm(&mut self, id: TimerId, at_ns: Option<u64>) {
        let old = match at_ns {
            Some(at) => self.deadlines.insert(id, at),
            None => self.deadlines.remove(&id),
        };
        if let Some(old) = old {
            self.order.remove(&(old, id));
        }
        if let Some(at) = at_ns {
            self.order.insert((at, id));
        }
    }

    /// The earliest deadline.
    pub fn next(&self) -> Option<u64> {
        self.order.first().map(|(at, _)| *at)
    }

    /// Takes out the earliest timer that is due at `now_ns`.
    pub fn take_due(&mut self, now_ns: u64) -> Option<TimerId> {
        let &(at, id) = self.order.first()?;
        if at > now_ns {
            return None;
        }
        self.order.pop_first();
        self.deadlines.remove(&id);
        Some(id)
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.order.clear();
        self.deadlines.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_armed_again_forgets_its_deadline_and_fires_once() {
        let (a, b) = (TimerId { slot: 1, timer: 0 }, TimerId { slot: 0, timer: 3 });
        let mut timers = Timers::default();
        timers.arm(a, Some(10));
        timers.arm(b, Some(20));
        timers.arm(a, Some(30));
        assert_eq!(timers.next(), Some(20));
        assert_eq!(timers.take_due(19), None);
        assert_eq!(timers.take_due(40), Some(b));
        assert_eq!(timers.take_due(40), Some(a));
        assert_eq!(timers.take_due(40), None);
        timers.arm(a, Some(50));
        timers.arm(a, None);
        assert_eq!(timers.next(), None);
    }
}
