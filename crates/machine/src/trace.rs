//! The trace of one machine: exits, I/O, interrupts, timers and faults, the same for every
//! engine. When it is off a call costs one relaxed load. When it is on, each event becomes one
//! line for the sink and stays in a ring whose tail goes into the report of a broken VM.

use crate::lock::Lock;
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};

/// A set of event kinds.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Kinds(u32);

impl Kinds {
    /// Port accesses.
    pub const IO: Kinds = Kinds(1);
    /// Accesses to memory-mapped devices.
    pub const MMIO: Kinds = Kinds(2);
    /// Interrupt lines, messages, deliveries.
    pub const IRQ: Kinds = Kinds(4);
    /// Timers that are armed or come due.
    pub const TIMER: Kinds = Kinds(8);
    /// Exceptions delivered to the guest.
    pub const FAULT: Kinds = Kinds(16);
    /// Returns of an engine: halts, shutdowns, …
    pub const EXIT: Kinds = Kinds(32);
    /// Model-specific registers the machine owns.
    pub const MSR: Kinds = Kinds(64);

    /// Every instruction with what it changed, from engines that can tell. Not part of `all`.
    pub const INSN: Kinds = Kinds(128);

    const NAMES: [(&'static str, Kinds); 9] = [
        ("io", Kinds::IO),
        ("mmio", Kinds::MMIO),
        ("irq", Kinds::IRQ),
        ("timer", Kinds::TIMER),
        ("fault", Kinds::FAULT),
        ("exit", Kinds::EXIT),
        ("msr", Kinds::MSR),
        ("insn", Kinds::INSN),
        ("all", Kinds(127)),
    ];

    /// True if some of `kinds` are in the set.
    pub fn has(self, kinds: Kinds) -> bool {
        self.0 & kinds.0 != 0
    }

    /// Reads `io,irq`. The error names the word that is no kind and those that are.
    pub fn parse(text: &str) -> Result<Kinds, String> {
        let mut kinds = Kinds::default();
        for word in text.split(',') {
            match Self::NAMES.iter().find(|(name, _)| *name == word) {
                Some((_, kind)) => kinds.0 |= kind.0,
                None => {
                    let names: Vec<&str> = Self::NAMES.iter().map(|(name, _)| *name).collect();
                    return Err(format!(
                        "{word:?} is no kind of event; there are {}",
                        names.join(", ")
                    ));
                }
            }
        }
        Ok(kinds)
    }

    fn name(self) -> &'static str {
        Self::NAMES
            .iter()
            .find(|(_, kind)| *kind == self)
            .map_or("event", |(name, _)| name)
    }
}

/// Takes finished lines, without their line ends.
pub type Sink = Box<dyn FnMut(&str) + Send>;

/// How many lines the ring keeps.
const RING: usize = 256;

struct Inner {
    ring: VecDeque<String>,
    sink: Option<Sink>,
}

/// The trace; see the module.
pub struct Trace {
    kinds: AtomicU32,
    inner: Lock<Inner>,
}

impl Trace {
    /// Records `kinds`; lines go to `sink`, if there is one.
    pub fn new(kinds: Kinds, sink: Option<Sink>) -> Trace {
        Trace {
            kinds: AtomicU32::new(kinds.0),
            inner: Lock::new(Inner {
                ring: VecDeque::new(),
                sink,
            }),
        }
    }

    /// True if events of this kind are recorded.
    #[inline(always)]
    pub fn on(&self, kind: Kinds) -> bool {
        self.kinds.load(Ordering::Relaxed) & kind.0 != 0
    }

    /// Records an event: machine time, processor (`None`: a device or a timer), what happened.
    /// `text` is made only if somebody wants it.
    #[inline(always)]
    pub fn event(&self, kind: Kinds, now_ns: u64, cpu: Option<u32>, text: impl FnOnce() -> String) {
        if self.on(kind) {
            self.record(kind, now_ns, cpu, text());
        }
    }

    #[cold]
    fn record(&self, kind: Kinds, now_ns: u64, cpu: Option<u32>, text: String) {
        let (s, ns) = (now_ns / 1_000_000_000, now_ns % 1_000_000_000);
        let who = cpu.map_or_else(|| String::from("-"), |cpu| format!("cpu{cpu}"));
        let line = format!("{s}.{ns:09} {who} {} {text}", kind.name());
        let mut inner = self.inner.lock();
        if let Some(sink) = &mut inner.sink {
            sink(&line);
        }
        if inner.ring.len() == RING {
            inner.ring.pop_front();
        }
        inner.ring.push_back(line);
    }

    /// The latest lines, oldest first.
    pub fn tail(&self, lines: usize) -> Vec<String> {
        let inner = self.inner.lock();
        let skip = inner.ring.len().saturating_sub(lines);
        inner.ring.iter().skip(skip).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[test]
    fn kinds_are_read_from_words_and_an_unknown_one_is_named() {
        assert_eq!(Kinds::parse("io,irq"), Ok(Kinds(5)));
        assert_eq!(Kinds::parse("all"), Ok(Kinds(127)));
        assert!(Kinds::parse("io,foo").unwrap_err().contains("\"foo\""));
        assert!(Kinds::parse("").is_err());
    }

    #[test]
    fn only_wanted_events_are_made_and_the_ring_keeps_the_latest() {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let to = lines.clone();
        let trace = Trace::new(
            Kinds::IO,
            Some(Box::new(move |line| to.lock().unwrap().push(line.into()))),
        );
        trace.event(Kinds::IRQ, 0, None, || unreachable!());
        for i in 0..300 {
            trace.event(Kinds::IO, 1_000_000_001, Some(2), || format!("out {i}"));
        }
        let lines: Vec<String> = lines.lock().unwrap().clone();
        assert_eq!(lines.len(), 300);
        assert_eq!(lines[0], "1.000000001 cpu2 io out 0");
        assert_eq!(trace.tail(2), lines[298..]);
        assert_eq!(trace.tail(1000).len(), RING);
    }
}
