//! Which engine runs the processors: the best one that works here, found by measuring.
//!
//! A `/dev/kvm` may exist, answer every question, and still emulate ring 0 a thousand times too
//! slowly. So [`choose`] runs two loops of known length in it, one in ring 0 and one in ring 3,
//! which take a few milliseconds even there. [`report`] measures every engine for
//! `moinho engines`. All is measured in processor time of the thread, which other work on the host
//! does not spoil.

use crate::config::{EngineChoice, UserError};
use kvm::KvmEngine;
use mem::{Gpa, GuestMemory};
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;
use std::sync::Arc;
use x86::cpuid::CpuModel;
use x86::interp::Interpreter;
use x86::state::{Attributes, Segment, cr0, cr4, efer, rflags, seg};
use x86::{Bus, CpuState, Engine, Signals, Stop, Vcpu};

/// What an engine does on this host.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Speed {
    /// Million instructions a second of a loop in ring 0.
    pub ring0_mips: f64,
    /// The same in ring 3.
    pub ring3_mips: f64,
    /// Microseconds of a port write to the machine and back.
    pub exit_us: f64,
}

/// Nothing that runs on a processor is as slow as this, and no emulator of KVM's as fast.
const EMULATED_MIPS: f64 = 15.0;
/// A ring 0 this slow is one that was disturbed, and is measured again.
const DOUBTFUL_MIPS: f64 = 150.0;

impl Speed {
    /// Ring 0 is emulated: no ordinary kernel gets anywhere.
    fn is_trap(&self) -> bool {
        // KVM's emulator does a few million instructions a second. Disturbance makes ring 0 look
        // slower than it is, never faster.
        self.ring0_mips < EMULATED_MIPS
    }
}

/// One line of `moinho engines`.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct EngineReport {
    /// The name for `--engine`.
    pub engine: &'static str,
    /// A guest can be run with it.
    pub usable: bool,
    /// Why not.
    pub problem: Option<String>,
    /// What can be done about it.
    pub way_out: Option<String>,
    /// Its speed, if it could be measured.
    pub speed: Option<Speed>,
}

/// Why an engine is not to be used.
struct Unusable {
    problem: String,
    way_out: String,
    speed: Option<Speed>,
    /// The engine can be had all the same, if the user insists.
    forcible: Option<Forced>,
}

/// Opens an engine that the probe advises against.
type Forced = fn() -> Option<Box<dyn Engine>>;
type Opened = Result<(Box<dyn Engine>, Option<Speed>), Unusable>;

/// An engine by name, and how it is opened.
struct Candidate {
    name: &'static str,
    choice: EngineChoice,
    open: fn(&bt::Options) -> Opened,
    /// It goes from one instruction to the next: it can follow a clock that counts them, and
    /// trace them.
    steps: bool,
}

/// What a run asks of its engine beside running the guest.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Needs {
    /// The machine's clock counts instructions.
    pub(crate) counting: bool,
    /// Every instruction is to be traced.
    pub(crate) tracing: bool,
}

/// Best first. `auto` takes the first that opens; the last always does.
const CANDIDATES: &[Candidate] = &[
    Candidate {
        name: "kvm",
        choice: EngineChoice::Kvm,
        open: |_| open_kvm(),
        steps: false,
    },
    Candidate {
        name: "bt",
        choice: EngineChoice::Bt,
        open: open_bt,
        steps: false,
    },
    Candidate {
        name: "interp",
        choice: EngineChoice::Interp,
        open: |_| Ok((Box::new(Interpreter), None)),
        steps: true,
    },
];

fn open_bt(options: &bt::Options) -> Opened {
    match bt::Translation::new(options.clone()) {
        Ok(engine) => Ok((Box::new(engine), None)),
        Err(why) => Err(Unusable {
            problem: why.to_string(),
            way_out: "use --engine interp".into(),
            speed: None,
            forcible: None,
        }),
    }
}

fn open_kvm() -> Opened {
    let open = || {
        KvmEngine::open().map_err(|e| Unusable {
            problem: e.to_string(),
            way_out: e.way_out().into(),
            speed: None,
            forcible: None,
        })
    };
    let forced = || Some(Box::new(KvmEngine::open().ok()?) as Box<dyn Engine>);
    // The engine that is measured is spent: its machine has the probe's memory. The kernel may
    // take tens of milliseconds to take the machine down, for which nobody need wait.
    let spent = open()?;
    let speed = measure(&spent, QUICK);
    std::thread::spawn(move || drop(spent));
    let speed = match speed {
        Ok(speed) => speed,
        Err(why) => {
            return Err(Unusable {
                problem: format!("/dev/kvm does not run a loop: {why}"),
                way_out: "use another engine; see the kernel's log".into(),
                speed: None,
                forcible: Some(forced),
            });
        }
    };
    if speed.is_trap() {
        return Err(Unusable {
            problem: format!(
                "/dev/kvm here emulates ring 0: {:.1} MIPS there, {:.0} in ring 3; an ordinary kernel would hang",
                speed.ring0_mips, speed.ring3_mips
            ),
            way_out: "use another engine; KVM needs hardware virtualization below (nested, in a virtual machine)".into(),
            speed: Some(speed),
            forcible: Some(forced),
        });
    }
    Ok((Box::new(open()?), Some(speed)))
}

/// The engine for a machine, and why it is this one. `force` takes an engine that would be
/// refused. `translator` is for the one that was named to be it.
pub(crate) fn choose(
    choice: EngineChoice,
    needs: Needs,
    force: bool,
    translator: &bt::Options,
) -> Result<(Box<dyn Engine>, String), UserError> {
    match CANDIDATES.iter().find(|c| c.choice == choice) {
        Some(candidate) => named(candidate, needs, force, translator),
        None => Ok(best(needs)),
    }
}

/// The engine that the user named.
fn named(
    candidate: &Candidate,
    needs: Needs,
    force: bool,
    translator: &bt::Options,
) -> Result<(Box<dyn Engine>, String), UserError> {
    let name = candidate.name;
    if needs.counting && !candidate.steps {
        return Err(UserError::new(
            format_args!("--engine {name}: it cannot count instructions for --clock insn"),
            "use --engine interp or --clock host",
        ));
    }
    let no = match (candidate.open)(translator) {
        Ok((engine, _)) => return Ok((engine, "asked for".into())),
        Err(no) => no,
    };
    if force && let Some(engine) = no.forcible.and_then(|open| open()) {
        return Ok((engine, format!("forced although {}", no.problem)));
    }
    let force = no.forcible.map_or("", |_| ", or give --force");
    Err(UserError::new(
        format_args!("--engine {name}: {}", no.problem),
        format_args!("{}{force}", no.way_out),
    ))
}

/// The first of [`CANDIDATES`] that can do it.
fn best(needs: Needs) -> (Box<dyn Engine>, String) {
    let mut rejected = Vec::new();
    for candidate in CANDIDATES {
        let name = candidate.name;
        if needs.counting && !candidate.steps {
            rejected.push(format!("{name} cannot count instructions for --clock"));
            continue;
        }
        if needs.tracing && !candidate.steps {
            rejected.push(format!("{name} cannot trace instructions for --trace"));
            continue;
        }
        match (candidate.open)(&bt::Options::default()) {
            Ok((engine, None)) => return (engine, rejected.join("; ")),
            Ok((engine, Some(speed))) => {
                let reason = format!(
                    "measured: ring 0 {:.0} MIPS, ring 3 {:.0} MIPS",
                    speed.ring0_mips, speed.ring3_mips
                );
                return (engine, reason);
            }
            Err(no) => rejected.push(format!("{name}: {}", no.problem)),
        }
    }
    unreachable!("the interpreter always opens")
}

/// The translator in its checked mode, for a machine of `cpus` that asks for `choice`.
pub(crate) fn checked_bt(
    choice: EngineChoice,
    cpus: u32,
    needs: Needs,
    translator: &bt::Options,
) -> Result<(Box<dyn Engine>, String), UserError> {
    if choice != EngineChoice::Bt {
        return Err(UserError::new(
            "--check-bt: only the translator can be checked",
            "give --engine bt, and no other",
        ));
    }
    if cpus != 1 {
        return Err(UserError::new(
            "--check-bt: only a machine with one processor can be checked",
            "give --cpus 1",
        ));
    }
    choose(choice, needs, false, translator)?;
    match bt::Translation::new(translator.clone()) {
        Ok(engine) => Ok((Box::new(engine.checked()), "asked for, checked".into())),
        Err(why) => Err(UserError::new(why, "use --engine interp")),
    }
}

/// Opens and measures every engine.
pub fn report() -> Vec<EngineReport> {
    CANDIDATES
        .iter()
        .map(
            |candidate| match (candidate.open)(&bt::Options::default()) {
                Ok((engine, _)) => {
                    let speed = measure(&*engine, THOROUGH);
                    EngineReport {
                        engine: candidate.name,
                        usable: speed.is_ok(),
                        problem: speed.as_ref().err().cloned(),
                        way_out: None,
                        speed: speed.ok(),
                    }
                }
                Err(no) => EngineReport {
                    engine: candidate.name,
                    usable: false,
                    problem: Some(no.problem),
                    way_out: Some(no.way_out),
                    speed: no.speed,
                },
            },
        )
        .collect()
}

/// The end of a loop, and an exit that is only counted.
const END: u8 = 0xf5;
const TICK: u8 = 0xf4;
/// `1: dec ecx; jnz 1b; out END, al`
const SPIN: [u8; 6] = [0xff, 0xc9, 0x75, 0xfc, 0xe6, END];
/// `1: out TICK, al; dec ecx; jnz 1b; out END, al`
const EXITS: [u8; 8] = [0xe6, TICK, 0xff, 0xc9, 0x75, 0xfa, 0xe6, END];
const SPIN_AT: u64 = 0x8000;
const EXITS_AT: u64 = 0x9000;

/// Rounds of a loop that end in a millisecond even where ring 0 is emulated.
const FEW: u32 = 500;

/// How long the loops are.
#[derive(Clone, Copy)]
struct Effort {
    /// Rounds of a loop that a few have shown to be fast.
    many: u32,
    /// Port writes.
    exits: u32,
    /// Every loop counts by the best of so many runs.
    runs: u32,
}

/// Enough to tell KVM from what only looks like it.
const QUICK: Effort = Effort {
    many: 40_000,
    exits: 4,
    runs: 3,
};
/// Enough for figures that people read.
const THOROUGH: Effort = Effort {
    many: 2_000_000,
    exits: 1_000,
    runs: 3,
};

/// Measures an engine: 64-bit code under paging, as a kernel runs, and the same in ring 3. The
/// engine's machine gets the probe's memory.
fn measure(engine: &dyn Engine, effort: Effort) -> Result<Speed, String> {
    let memory = GuestMemory::flat(0x1_0000).map_err(|e| e.to_string())?;
    let put = |at, bytes: &[u8]| memory.write(Gpa(at), bytes).map_err(|e| e.to_string());
    // One 2 MB page at 0, for everybody: PML4, PDPT, PD.
    for (at, entry) in [(0x1000, 0x2007u64), (0x2000, 0x3007), (0x3000, 0x87)] {
        put(at, &entry.to_le_bytes())?;
    }
    put(SPIN_AT, &SPIN)?;
    put(EXITS_AT, &EXITS)?;
    let (model, _) = engine.model(&CpuModel::all()[0]);
    let signals = Arc::new(Signals::default());
    let mut vcpu = engine.vcpu(0, &model, Arc::new(memory), signals.clone())?;
    let mut bus = ProbeBus(signals);
    let mut best_of = |runs: u32, ring: u8, at: u64, rounds: u32| -> Result<f64, String> {
        let mut best = f64::MAX;
        for _ in 0..runs {
            let state = state(model.signature(), ring, at, rounds);
            vcpu.set_state(&state).map_err(|e| e.to_string())?;
            best = best.min(timed(&mut *vcpu, &mut bus)?);
        }
        Ok(best)
    };
    // The first finds no page and no cache of the host warm.
    best_of(1, 0, EXITS_AT, 1)?;
    let exit = best_of(effort.runs, 0, EXITS_AT, effort.exits)? / f64::from(effort.exits);
    let mut spin = |ring| -> Result<f64, String> {
        // More rounds drown the cost of getting there: many where a few are fast. Where they are
        // not, that may be a disturbance, which does not grow with the rounds, and does not hit
        // all runs alike: one run once took a real KVM for a trap.
        let few = best_of(effort.runs, ring, SPIN_AT, FEW)? - exit;
        let turns = if few < 1e-4 { effort.many } else { 10 * FEW };
        let time = best_of(effort.runs, ring, SPIN_AT, turns)? - exit;
        // Where getting there costs more than the loop, the difference is mostly noise.
        let time = time.max(exit / 4.0);
        Ok(2.0 * f64::from(turns) / time / 1e6)
    };
    let mut ring0_mips = spin(0)?;
    for _ in 0..4 {
        // An emulated one shows itself at once.
        if (EMULATED_MIPS / 2.0..DOUBTFUL_MIPS).contains(&ring0_mips) {
            ring0_mips = ring0_mips.max(spin(0)?);
        }
    }
    Ok(Speed {
        ring0_mips,
        ring3_mips: spin(3)?,
        exit_us: exit * 1e6,
    })
}

/// Seconds of processor time that a run to the end of its loop takes.
fn timed(vcpu: &mut dyn Vcpu, bus: &mut dyn Bus) -> Result<f64, String> {
    let start = processor_time_s();
    match vcpu.run(bus, u64::MAX) {
        Stop::Requested => Ok((processor_time_s() - start).max(1e-9)),
        other => Err(format!("{other:?}")),
    }
}

/// What this thread has used, in seconds.
fn processor_time_s() -> f64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    now.tv_sec as f64 + now.tv_nsec as f64 * 1e-9
}

/// 64-bit mode in `ring`, I/O permitted, RIP `at`, ECX = `rounds`.
fn state(signature: u32, ring: u8, at: u64, rounds: u32) -> CpuState {
    let mut s = CpuState::reset(signature, true);
    let dpl = u16::from(ring) << 5;
    let flat = |attributes| Segment {
        selector: 8 | u16::from(ring),
        attributes: Attributes(attributes | dpl),
        limit: !0,
        base: 0,
    };
    s.seg = [flat(0xc93); 6];
    s.seg[usize::from(seg::CS)] = flat(0xa9b);
    s.cpl = ring;
    s.cr0 = cr0::PE | cr0::PG | cr0::ET | cr0::NE | cr0::WP;
    s.cr3 = 0x1000;
    s.cr4 = cr4::PAE;
    s.efer = efer::LME | efer::LMA;
    s.rflags = rflags::FIXED | rflags::IOPL;
    s.rip = at;
    s.gpr[x86::state::gpr::RCX] = rounds.into();
    s
}

/// A machine with two ports.
struct ProbeBus(Arc<Signals>);

impl Bus for ProbeBus {
    fn mmio_read(&mut self, _at: Gpa, _size: u8) -> u64 {
        !0
    }
    fn mmio_write(&mut self, _at: Gpa, _size: u8, _value: u64) {}
    fn port_in(&mut self, _port: u16, _size: u8) -> u32 {
        !0
    }
    fn port_out(&mut self, port: u16, _size: u8, _value: u32) {
        if port == u16::from(END) {
            self.0.raise(Signals::RETURN);
        }
    }
    fn msr_read(&mut self, _index: u32) -> Option<u64> {
        None
    }
    fn msr_write(&mut self, _index: u32, _value: u64) -> bool {
        false
    }
    fn tsc(&mut self) -> u64 {
        0
    }
    fn task_priority(&mut self) -> u8 {
        0
    }
    fn set_task_priority(&mut self, _class: u8) {}
    fn acknowledge(&mut self) -> Option<u8> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    const BRIEF: Effort = Effort {
        many: 1000,
        exits: 10,
        runs: 1,
    };

    #[test]
    fn the_interpreter_is_measured_and_a_clock_or_trace_by_instruction_gets_it() {
        let speed = measure(&Interpreter, BRIEF).unwrap();
        assert!(speed.ring0_mips > 0.0 && !speed.is_trap(), "{speed:?}");
        for (counting, tracing, what) in [(true, false, "count"), (false, true, "trace")] {
            let needs = Needs { counting, tracing };
            let (engine, reason) =
                choose(EngineChoice::Auto, needs, false, &bt::Options::default()).unwrap();
            assert_eq!(engine.name(), "interp");
            for other in ["kvm", "bt"] {
                let why = format!("{other} cannot {what} instructions");
                assert!(reason.contains(&why), "{reason}");
            }
        }
        let counting = Needs {
            counting: true,
            tracing: false,
        };
        assert!(choose(EngineChoice::Kvm, counting, true, &bt::Options::default()).is_err());
    }

    #[test]
    fn a_kvm_that_is_a_trap_is_rejected_for_the_translator_within_fifty_milliseconds() {
        let trap = match open_kvm() {
            Err(no) => no.speed.is_some_and(|speed| speed.is_trap()),
            Ok(_) => false,
        };
        if !trap {
            eprintln!("skipped: there is no /dev/kvm here, or it is a real one");
            return;
        }
        // Wall time, as a user waits for it; the best of ten, and of more where other work takes
        // its share.
        let (mut best, mut slowest_s) = ((f64::MAX, 0.0), 0f64);
        for n in 0..200 {
            if n >= 10 && best.0 <= 0.05 {
                break;
            }
            let (start, used) = (Instant::now(), processor_time_s());
            let (engine, reason) = choose(
                EngineChoice::Auto,
                Needs::default(),
                false,
                &bt::Options::default(),
            )
            .unwrap();
            let took = (start.elapsed().as_secs_f64(), processor_time_s() - used);
            assert_eq!(engine.name(), "bt", "{reason}");
            assert!(reason.contains("emulates ring 0"), "{reason}");
            slowest_s = slowest_s.max(took.0);
            if took.0 < best.0 {
                best = took;
            }
        }
        let (wall_ms, processor_ms) = (best.0 * 1e3, best.1 * 1e3);
        eprintln!(
            "rejected after {wall_ms:.1} ms, {processor_ms:.1} ms of them at work; the slowest {:.1} ms",
            slowest_s * 1e3
        );
        assert!(wall_ms <= 50.0, "{wall_ms} ms");
    }

    #[test]
    fn a_slow_ring_0_is_a_trap() {
        let speed = |ring0_mips, ring3_mips| Speed {
            ring0_mips,
            ring3_mips,
            exit_us: 1.0,
        };
        assert!(speed(1.6, 2000.0).is_trap());
        assert!(speed(4.0, 10.0).is_trap(), "ring 3 was disturbed");
        assert!(
            !speed(63.0, 833.0).is_trap(),
            "seen of a real one on a busy host"
        );
        assert!(!speed(900.0, 2000.0).is_trap());
        assert!(!speed(100.0, 100.0).is_trap());
    }
}
