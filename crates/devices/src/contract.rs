//! The tests every device shares: call [`check`] from the device's own tests.
//!
//! It holds a device to what [`Device`] promises and what restoring relies on: reset gives one
//! state and silent wires; a saved state loaded into a fresh device saves equal and behaves
//! equal from then on; nothing a guest writes, no time and no bytes given to `load` panic; a
//! refused `load` changes nothing. As after a restore, the armed timers and driven lines of the
//! first device are carried over to the second: they are the machine's to save, not the device's.

use crate::{Context, Device, Recorder};
use mem::GuestMemory;
use std::vec::Vec;

/// The generator of all random tests here: xorshift64*, whose seed is in every failure.
pub struct Random(u64);

impl Random {
    /// Starts the sequence `seed`.
    pub fn new(seed: u64) -> Self {
        Random(
            seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)
                .wrapping_add(0x2545_f491_4f6c_dd1d)
                | 1,
        )
    }
    /// The next 64 bits.
    #[expect(
        clippy::should_implement_trait,
        reason = "it never ends: not an iterator"
    )]
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    /// A number below `n` (which is not 0).
    pub fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 11) % n
    }
    /// A value of `size` bytes, often one with few bits set, as registers like them.
    fn value(&mut self, size: u8) -> u64 {
        let value = match self.below(4) {
            0 => 1u64 << self.below(64),
            1 => self.below(256),
            2 => u64::MAX,
            _ => self.next(),
        };
        value & mask(size)
    }
}

fn mask(size: u8) -> u64 {
    u64::MAX >> (64 - 8 * u32::from(size.clamp(1, 8)))
}

/// One thing that happens to a device.
#[derive(Clone, Copy, Debug)]
enum Event {
    Read {
        region: u8,
        offset: u64,
        size: u8,
    },
    Write {
        region: u8,
        offset: u64,
        size: u8,
        value: u64,
    },
    Timer(u8),
    Completion,
}

fn any_event(random: &mut Random, regions: &[u64], wires: &Recorder, now_ns: &mut u64) -> Event {
    *now_ns = now_ns.saturating_add(match random.below(8) {
        0 => 0,
        1 => random.below(3_000_000_000),
        2 if random.below(16) == 0 => random.below(1 << 48),
        _ => random.below(100_000),
    });
    let region = random.below(regions.len() as u64) as u8;
    let size = 1u8 << random.below(4);
    let offset = random.below(regions[usize::from(region)].max(1));
    // Registers are mostly accessed aligned.
    let offset = if random.below(4) == 0 {
        offset
    } else {
        offset & !(u64::from(size) - 1)
    };
    match random.below(10) {
        0 | 1 => {
            // A timer that comes due, early, late or without having been armed.
            let due = wires.timers.iter().next().map(|(&timer, &at)| (timer, at));
            match due {
                Some((timer, at)) if random.below(4) != 0 => {
                    *now_ns = (*now_ns).max(at);
                    Event::Timer(timer)
                }
                _ => Event::Timer(random.below(8) as u8),
            }
        }
        2 if random.below(4) == 0 => Event::Completion,
        2..=5 => Event::Read {
            region,
            offset,
            size,
        },
        _ => {
            let value = random.value(size);
            Event::Write {
                region,
                offset,
                size,
                value,
            }
        }
    }
}

fn apply<D: Device>(
    device: &mut D,
    event: Event,
    now_ns: u64,
    memory: &GuestMemory,
    wires: &mut Recorder,
) -> u64 {
    if let Event::Timer(timer) = event {
        // "It fires once": a timer that has come due is no longer armed.
        if wires.timers.get(&timer).is_some_and(|&at| at <= now_ns) {
            wires.timers.remove(&timer);
        }
    }
    let cx = &mut Context {
        now_ns,
        memory,
        wires,
    };
    match event {
        Event::Read {
            region,
            offset,
            size,
        } => device.read(cx, region, offset, size) & mask(size),
        Event::Write {
            region,
            offset,
            size,
            value,
        } => {
            device.write(cx, region, offset, size, value);
            0
        }
        Event::Timer(timer) => {
            device.timer(cx, timer);
            0
        }
        Event::Completion => {
            device.completion(cx);
            0
        }
    }
}

fn silent(wires: &Recorder, when: &str) {
    assert!(
        wires.lines.values().all(|&level| !level),
        "{when}: a line is high: {wires:?}"
    );
    assert!(
        wires.timers.is_empty(),
        "{when}: a timer is armed: {wires:?}"
    );
}

/// Holds the devices that `make` builds to the contract. `regions` are the sizes in bytes of the
/// device's address ranges. `make` must build the same device each time.
pub fn check<D: Device>(regions: &[u64], make: impl Fn() -> D) {
    let memory = GuestMemory::flat(1 << 20).expect("guest memory for the test");
    reset_is_stable(regions, &make, &memory);
    restored_twin_is_equal(regions, &make, &memory);
    hostile_load_is_harmless(regions, &make, &memory);
}

fn reset_is_stable<D: Device>(regions: &[u64], make: &impl Fn() -> D, memory: &GuestMemory) {
    let mut device = make();
    let fresh = device.save();
    assert_eq!(fresh, make().save(), "two fresh devices differ");
    let mut wires = Recorder::default();
    device.reset(&mut Context {
        now_ns: 0,
        memory,
        wires: &mut wires,
    });
    assert_eq!(fresh, device.save(), "reset at power-on changes the state");
    silent(&wires, "after power-on");
    for seed in 0..8 {
        let mut random = Random::new(seed);
        let (mut device, mut wires, mut now_ns) = (make(), Recorder::default(), 0);
        for _ in 0..200 {
            let event = any_event(&mut random, regions, &wires, &mut now_ns);
            apply(&mut device, event, now_ns, memory, &mut wires);
        }
        device.reset(&mut Context {
            now_ns,
            memory,
            wires: &mut wires,
        });
        silent(&wires, &std::format!("seed {seed}, after reset"));
        let once = device.save();
        device.reset(&mut Context {
            now_ns,
            memory,
            wires: &mut wires,
        });
        assert_eq!(
            once,
            device.save(),
            "seed {seed}: a second reset changes the state"
        );
    }
}

fn restored_twin_is_equal<D: Device>(regions: &[u64], make: &impl Fn() -> D, memory: &GuestMemory) {
    for seed in 0..48 {
        let mut random = Random::new(1000 + seed);
        let (mut device, mut wires, mut now_ns) = (make(), Recorder::default(), 0);
        for round in 0..12 {
            for _ in 0..random.below(40) {
                let event = any_event(&mut random, regions, &wires, &mut now_ns);
                apply(&mut device, event, now_ns, memory, &mut wires);
            }
            let saved = device.save();
            let mut twin = make();
            if let Err(why) = twin.load(&saved) {
                panic!("seed {seed}, round {round}: own state refused: {why}");
            }
            assert_eq!(
                saved,
                twin.save(),
                "seed {seed}, round {round}: save, load, save differ"
            );
            let mut twin_wires = Recorder {
                lines: wires.lines.clone(),
                edges: wires.edges.clone(),
                messages: wires.messages.clone(),
                timers: wires.timers.clone(),
                power: wires.power.clone(),
                events: wires.events.clone(),
            };
            for step in 0..24 {
                let event = any_event(&mut random, regions, &wires, &mut now_ns);
                let at = std::format!("seed {seed}, round {round}, step {step}: {event:x?}");
                let ours = apply(&mut device, event, now_ns, memory, &mut wires);
                let theirs = apply(&mut twin, event, now_ns, memory, &mut twin_wires);
                assert_eq!(ours, theirs, "{at}: the restored device reads differently");
                assert_eq!(wires.timers, twin_wires.timers, "{at}: timers differ");
                assert_eq!(wires.lines, twin_wires.lines, "{at}: lines differ");
                assert_eq!(wires.messages, twin_wires.messages, "{at}: messages differ");
                assert_eq!(device.save(), twin.save(), "{at}: states differ");
            }
            device.inspect(&mut crate::Inspector::default());
        }
    }
}

fn hostile_load_is_harmless<D: Device>(
    regions: &[u64],
    make: &impl Fn() -> D,
    memory: &GuestMemory,
) {
    for seed in 0..400 {
        let mut random = Random::new(5000 + seed);
        let (mut device, mut wires, mut now_ns) = (make(), Recorder::default(), 0);
        for _ in 0..random.below(30) {
            let event = any_event(&mut random, regions, &wires, &mut now_ns);
            apply(&mut device, event, now_ns, memory, &mut wires);
        }
        let mut bytes = device.save();
        if seed % 4 == 0 {
            // Pure noise, behind the right version number so that it is looked at.
            bytes.truncate(1);
            bytes.extend((0..random.below(300)).map(|_| random.next() as u8));
        } else {
            for _ in 0..=random.below(4) {
                if bytes.len() > 1 {
                    let at = 1 + random.below(bytes.len() as u64 - 1) as usize;
                    bytes[at] = random.next() as u8;
                }
            }
            if random.below(8) == 0 {
                bytes.truncate(random.below(bytes.len() as u64 + 1) as usize);
            }
        }
        let before = device.save();
        if device.load(&bytes).is_err() {
            assert_eq!(
                before,
                device.save(),
                "seed {seed}: a refused load changed the state"
            );
            continue;
        }
        // What was accepted must be a state the device can live with.
        for _ in 0..60 {
            let event = any_event(&mut random, regions, &wires, &mut now_ns);
            apply(&mut device, event, now_ns, memory, &mut wires);
        }
        device.inspect(&mut crate::Inspector::default());
        let saved: Vec<u8> = device.save();
        if let Err(why) = make().load(&saved) {
            panic!("seed {seed}: a state grown from an accepted one is refused: {why}");
        }
    }
}

#[test]
fn the_debug_port_keeps_the_contract() {
    use std::boxed::Box;
    check(&[1, 4], || {
        crate::debug_port::DebugPort::new(Box::new(crate::backend::Null))
    });
}
