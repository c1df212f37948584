//! The board and the loops, driven by a processor that follows a script instead of a program.

use crate::board::{Connections, HubPart, Part};
use crate::bus::VcpuBus;
use crate::clock::{Clock, InstructionClock};
use crate::spec::{BoardKind, MachineSpec};
use crate::trace::{Kinds, Trace};
use crate::{End, Host, Machine};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use devices::backend::{BackendError, Entropy, Null, Stream};
use mem::{Gpa, GuestMemory};
use std::sync::{Condvar, Mutex};
use x86::state::{Activity, rflags};
use x86::{Bus, Counters, CpuState, Signals, StateError, Stop, Vcpu};

struct Zeroes;
impl Entropy for Zeroes {
    fn fill(&mut self, into: &mut [u8]) -> Result<(), BackendError> {
        into.fill(0);
        Ok(())
    }
}

#[derive(Clone, Default)]
struct Screen(Arc<Mutex<Vec<u8>>>);
impl Stream for Screen {
    fn receive(&mut self, _into: &mut [u8]) -> usize {
        0
    }
    fn send(&mut self, from: &[u8]) -> usize {
        self.0.lock().unwrap().extend(from);
        from.len()
    }
}

/// A host with one token for all waiters.
#[derive(Default)]
struct TestHost {
    token: Mutex<bool>,
    changed: Condvar,
    waits: Mutex<u32>,
    events: Mutex<Vec<String>>,
    entropy: Mutex<Option<u64>>,
}
impl Host for TestHost {
    fn wait(&self, _cpu: u32) {
        *self.waits.lock().unwrap() += 1;
        let mut token = self.token.lock().unwrap();
        while !*token {
            token = self.changed.wait(token).unwrap();
        }
        *token = false;
    }
    fn wake(&self, _cpu: u32) {
        *self.token.lock().unwrap() = true;
        self.changed.notify_all();
    }
    fn timers_changed(&self) {}
    fn event(&self, text: String) {
        self.events.lock().unwrap().push(text);
    }
    fn entropy(&self) -> Option<u64> {
        *self.entropy.lock().unwrap()
    }
}

type Step = Box<dyn FnMut(&mut dyn Bus) -> Option<Stop> + Send>;

/// Each step is one instruction; `None` goes on with the next.
struct Script {
    steps: VecDeque<Step>,
    state: CpuState,
    signals: Arc<Signals>,
    taken: Arc<Mutex<Vec<u8>>>,
}

impl Vcpu for Script {
    fn run(&mut self, bus: &mut dyn Bus, _budget: u64) -> Stop {
        loop {
            if self.signals.get() & Signals::RETURN != 0 {
                return Stop::Requested;
            }
            if self.signals.get() & Signals::INTR != 0
                && let Some(vector) = bus.acknowledge()
            {
                self.taken.lock().unwrap().push(vector);
            }
            let Some(mut step) = self.steps.pop_front() else {
                self.state.activity = Activity::Halted;
                return Stop::Halted;
            };
            bus.retired(1);
            if let Some(stop) = step(bus) {
                return stop;
            }
        }
    }
    fn state(&self) -> CpuState {
        self.state.clone()
    }
    fn set_state(&mut self, state: &CpuState) -> Result<(), StateError> {
        self.state = state.clone();
        Ok(())
    }
    fn counters(&self) -> Counters {
        Counters::default()
    }
}

struct Bench {
    machine: Arc<Machine>,
    screen: Screen,
    host: Arc<TestHost>,
    taken: Arc<Mutex<Vec<u8>>>,
}

fn bench_with(spec: MachineSpec) -> Bench {
    let screen = Screen::default();
    let host = Arc::new(TestHost::default());
    let mut memory = GuestMemory::anonymous(0x20_0000).unwrap();
    memory.place(Gpa(0), 0xa_0000, true).unwrap();
    let connections = Connections {
        com1: Box::new(screen.clone()),
        com2: Box::new(Null),
        debug: Box::new(screen.clone()),
        console: Box::new(Null),
        disks: Vec::new(),
        entropy: Box::new(Zeroes),
        unix_time_s: 0,
    };
    let clock: Arc<dyn Clock> = Arc::new(InstructionClock::new(1000));
    let trace = Trace::new(Kinds::default(), None);
    let machine = Machine::new(
        spec,
        Arc::new(memory),
        connections,
        clock,
        host.clone(),
        trace,
    );
    Bench {
        machine: Arc::new(machine.unwrap()),
        screen,
        host,
        taken: Arc::default(),
    }
}

fn bench() -> Bench {
    bench_with(MachineSpec::default())
}

impl Bench {
    fn bus(&self) -> VcpuBus<'_> {
        VcpuBus::new(&self.machine, 0)
    }
    fn script(&self, steps: Vec<Step>) -> Box<dyn Vcpu> {
        let mut state = CpuState::reset(0, true);
        state.rflags |= rflags::IF;
        Box::new(Script {
            steps: steps.into(),
            state,
            signals: self.machine.signals(0).clone(),
            taken: self.taken.clone(),
        })
    }
}

fn step(mut f: impl FnMut(&mut dyn Bus) + Send + 'static) -> Step {
    Box::new(move |bus| {
        f(bus);
        None
    })
}

/// The 8259s as an operating system sets them up, vectors from 0x20, and LINT0 open.
fn open_pics(bus: &mut dyn Bus) {
    for (port, value) in [
        (0x20, 0x11),
        (0x21, 0x20),
        (0x21, 4),
        (0x21, 1),
        (0x21, 0),
        (0xa0, 0x11),
        (0xa1, 0x28),
        (0xa1, 2),
        (0xa1, 1),
        (0xa1, 0),
    ] {
        bus.port_out(port, 1, value);
    }
    bus.mmio_write(Gpa(0xfee0_00f0), 4, 0x1ff);
    bus.mmio_write(Gpa(0xfee0_0350), 4, 0x700);
}

#[test]
fn both_variants_of_the_board_are_free_of_overlaps() {
    for board in [BoardKind::Pc, BoardKind::Micro] {
        let b = bench_with(MachineSpec {
            board,
            cpus: 64,
            ..MachineSpec::default()
        });
        let board = b.machine.board();
        assert!(board.ports.claims().len() > 5 && board.memory.claims().len() > 1);
        let lapic = board.memory.find(0xfee0_0020, 4).unwrap().0;
        let part = &board.slots[usize::from(lapic.slot)].part;
        assert!(matches!(part, Part::Hub(HubPart::Lapic)));
    }
}

#[test]
fn where_nobody_answers_reads_are_all_ones_and_writes_vanish() {
    let b = bench();
    let mut bus = b.bus();
    for (size, ones) in [(1, 0xff), (2, 0xffff), (4, 0xffff_ffff)] {
        assert_eq!(bus.port_in(0x80, size), ones);
        bus.port_out(0x80, size, 0);
        assert_eq!(bus.mmio_read(Gpa(0xd_dddd_0000), size), u64::from(ones));
    }
    assert_eq!(bus.mmio_read(Gpa(u64::MAX - 3), 8), u64::MAX);
    bus.mmio_write(Gpa(u64::MAX), 8, 0);
    assert_eq!(bus.msr_read(0x1234), None);
    assert!(!bus.msr_write(0x1234, 0));
}

#[test]
fn an_x87_error_is_irq_13_until_port_f0_is_written_then_it_is_ignored() {
    let b = bench();
    let mut bus = b.bus();
    open_pics(&mut bus);
    let interrupts = || b.machine.signals(0).get() & Signals::INTR != 0;
    assert!(!bus.ferr(true), "the processor waits");
    assert!(interrupts());
    assert_eq!(bus.acknowledge(), Some(0x2d));
    bus.port_out(0xf0, 1, 0);
    assert!(bus.ferr(true), "the handler may use the x87");
    bus.port_out(0xa0, 1, 0x20);
    bus.port_out(0x20, 1, 0x20);
    assert!(!interrupts());
    // The handler has cleared the exception; the next one interrupts again.
    assert!(!bus.ferr(false));
    assert!(!bus.ferr(true));
    assert_eq!(bus.acknowledge(), Some(0x2d));
    // The pin of another processor leads nowhere.
    let two = MachineSpec {
        cpus: 2,
        ..MachineSpec::default()
    };
    let b = bench_with(two);
    open_pics(&mut b.bus());
    assert!(!VcpuBus::new(&b.machine, 1).ferr(true));
    assert_eq!(b.bus().acknowledge(), None);
}

#[test]
fn processors_get_the_hosts_randomness_or_are_told_that_there_is_none() {
    let b = bench();
    assert_eq!(b.bus().entropy(), None);
    *b.host.entropy.lock().unwrap() = Some(42);
    assert_eq!(b.bus().entropy(), Some(42));
}

#[test]
fn a_local_apic_that_is_moved_stays_and_the_user_is_told() {
    let b = bench();
    let mut bus = b.bus();
    let base = bus.msr_read(0x1b).unwrap();
    assert!(bus.msr_write(0x1b, base));
    assert!(b.host.events.lock().unwrap().is_empty());
    assert!(bus.msr_write(0x1b, base ^ 0x10_0000));
    assert_eq!(bus.msr_read(0x1b), Some(base ^ 0x10_0000));
    let events = b.host.events.lock().unwrap();
    assert!(
        events.len() == 1 && events[0].contains("0xfef00000"),
        "{events:?}"
    );
    drop(events);
    bus.mmio_write(Gpa(0xfee0_0080), 4, 0x30);
    assert_eq!(bus.mmio_read(Gpa(0xfee0_0080), 4), 0x30);
}

#[test]
fn any_access_to_any_address_of_the_board_is_answered() {
    for board in [BoardKind::Pc, BoardKind::Micro] {
        let b = bench_with(MachineSpec {
            board,
            ..MachineSpec::default()
        });
        let mut bus = b.bus();
        for port in 0..=0xffffu16 {
            for size in [1, 2, 4] {
                bus.port_out(port, size, 0x5a5a_5a5a);
                bus.port_in(port, size);
            }
        }
        for claim in b.machine.board().memory.claims() {
            for at in claim.start - 8..(claim.start + claim.len + 8).min(claim.start + 0x1010) {
                for size in [1, 2, 4, 8] {
                    bus.mmio_write(Gpa(at), size, 0x5a5a_5a5a_5a5a_5a5a);
                    bus.mmio_read(Gpa(at), size);
                }
            }
        }
    }
}

#[test]
fn a_wide_access_over_two_devices_is_split_into_bytes() {
    let b = bench();
    let mut bus = b.bus();
    bus.port_out(0x2ff, 1, 0x77);
    // COM2's scratch register and the port after it, which nobody has.
    assert_eq!(bus.port_in(0x2ff, 2), 0xff77);
    bus.port_out(0xe8, 2, u32::from(b'!') << 8);
    assert_eq!(*b.screen.0.lock().unwrap(), b"!");
}

#[test]
fn a_byte_for_com1_reaches_the_screen_and_its_interrupt_the_processor() {
    let b = bench();
    let mut vcpus = [b.script(alloc::vec![
        step(|bus| open_pics(bus)),
        // THRE interrupts.
        step(|bus| bus.port_out(0x3f9, 1, 2)),
        step(|bus| bus.port_out(0x3f8, 1, u32::from(b'A'))),
        step(|_| ()),
        Box::new(|bus| {
            bus.port_out(0xf4, 1, 7);
            None
        }),
    ])];
    b.machine.run_in_turns(&mut vcpus);
    assert_eq!(b.machine.ended(), Some(End::DebugExit(7)));
    assert_eq!(*b.screen.0.lock().unwrap(), b"A");
    assert_eq!(*b.taken.lock().unwrap(), [0x24]);
}

#[test]
fn a_virtual_clock_skips_to_the_pit_when_all_are_halted() {
    let b = bench();
    let mut vcpus = [b.script(alloc::vec![
        step(|bus| open_pics(bus)),
        step(|bus| {
            // Channel 0, mode 0, 1193 clocks: 1 ms.
            bus.port_out(0x43, 1, 0x30);
            bus.port_out(0x40, 1, 1193 & 0xff);
            bus.port_out(0x40, 1, 1193 >> 8);
        }),
        Box::new(|_| Some(Stop::Halted)),
        Box::new(|bus| {
            assert!((999_000..1_010_000).contains(&bus.tsc()), "{}", bus.tsc());
            bus.port_out(0xf4, 1, 0);
            None
        }),
    ])];
    b.machine.run_in_turns(&mut vcpus);
    assert_eq!(b.machine.ended(), Some(End::DebugExit(0)));
    assert_eq!(*b.taken.lock().unwrap(), [0x20]);
    assert_eq!(
        *b.host.waits.lock().unwrap(),
        0,
        "time was skipped, not waited for"
    );
}

#[test]
fn the_first_reason_to_stop_stays_and_reset_forgets_it() {
    let b = bench();
    b.machine.stop(End::PowerOff);
    b.machine.stop(End::Reset);
    assert_eq!(b.machine.ended(), Some(End::PowerOff));
    assert!(b.machine.stopping());
    assert_ne!(b.machine.signals(0).get() & Signals::RETURN, 0);
    b.machine.reset();
    assert_eq!((b.machine.ended(), b.machine.stopping()), (None, false));
    assert_eq!(b.machine.signals(0).get(), 0);
}

#[test]
fn a_halted_processor_waits_until_somebody_stops_the_machine() {
    let b = bench();
    let machine = b.machine.clone();
    let mut vcpu = b.script(Vec::new());
    let thread = std::thread::spawn(move || machine.run_vcpu(0, &mut *vcpu));
    while *b.host.waits.lock().unwrap() == 0 {
        std::thread::yield_now();
    }
    b.machine.stop(End::Quit);
    thread.join().unwrap();
}

#[test]
fn a_triple_fault_and_a_broken_engine_stop_the_machine_with_their_place() {
    for (stop, name) in [
        (Stop::Shutdown, "TripleFault"),
        (Stop::Broken("sorry".into()), "Broken"),
    ] {
        let b = bench();
        let mut vcpu = b.script(alloc::vec![Box::new(move |_| Some(stop.clone()))]);
        b.machine.run_vcpu(0, &mut *vcpu);
        let end = std::format!("{:?}", b.machine.ended().unwrap());
        assert!(end.starts_with(name) && end.contains("RIP 0xfff0"), "{end}");
    }
}

#[test]
fn the_end_of_the_run_is_the_same_each_time_under_the_instruction_clock() {
    let run = || {
        let b = bench();
        let mut steps: Vec<Step> = alloc::vec![step(|bus| open_pics(bus))];
        steps.push(step(|bus| {
            bus.port_out(0x43, 1, 0x34);
            bus.port_out(0x40, 1, 100);
            bus.port_out(0x40, 1, 0);
        }));
        steps.extend((0..2000).map(|_| step(|_| ())));
        for _ in 0..5 {
            steps.push(Box::new(|_| Some(Stop::Halted)));
        }
        steps.push(step(|bus| bus.port_out(0xf4, 1, 1)));
        b.machine.run_in_turns(&mut [b.script(steps)]);
        let taken = b.taken.lock().unwrap().len();
        (b.machine.now_ns(), taken)
    };
    let first = run();
    assert!(first.1 > 0);
    assert_eq!(first, run());
}
