//! One VM from start to end.
//!
//! ```text
//! check → connect → build ─┬→ load → run: a thread per processor, one for the timers
//!                          │           │ join all
//!                          └── reset ←─┤
//!                                      └→ Outcome
//! ```
//!
//! The terminal and the host's signals have threads of their own for the whole time; they reach
//! the machine through [`Machine::terminal_ready`] and [`Machine::stop`].

use crate::config::{Config, EngineChoice, Guest, TraceTo, UserError, cpu_model};
use crate::connect::{Running, connections};
use crate::engines;
use crate::guest;
use crate::report::{EngineCounts, HostStats, Stats};
use crate::threads::{HostClock, Threads};
use crate::translator;
use backends::host::terminal::RawMode;
use machine::clock::{Clock, InstructionClock};
use machine::spec::ClockKind;
use machine::trace::{Kinds, Sink, Trace};
use machine::{End, Host, Machine, lock};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::fs;
use std::io::{BufWriter, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use x86::cpuid::CpuModel;
use x86::{CpuState, Engine, Vcpu};

/// How a run ended.
#[derive(Clone, PartialEq, Debug)]
pub enum Finish {
    /// The guest switched the machine off.
    PowerOff,
    /// The guest asked for a reset and was not to be rebooted.
    Reset,
    /// The guest wrote this to isa-debug-exit.
    DebugExit(u32),
    /// A triple fault, and the guest was not to be rebooted; where.
    TripleFault(String),
    /// The user ended it at the terminal.
    Quit,
    /// A signal of the host ended it.
    Signal(i32),
    /// We are wrong: a report.
    Broken(String),
}

impl Finish {
    /// The exit status of the program.
    pub fn status(&self) -> u8 {
        match self {
            Finish::PowerOff | Finish::Reset | Finish::Quit => 0,
            Finish::DebugExit(value) => (value << 1) as u8 | 1,
            Finish::TripleFault(_) => 3,
            Finish::Broken(_) => 4,
            Finish::Signal(number) => 128 + *number as u8,
        }
    }

    /// One line for the user, where the guest's own words do not say it.
    pub fn message(&self) -> Option<String> {
        match self {
            Finish::PowerOff | Finish::DebugExit(_) | Finish::Quit => None,
            Finish::Reset => Some("the guest asked for a reset; ended (--no-reboot)".into()),
            Finish::TripleFault(at) => Some(format!("triple fault: {at}; ended (--no-reboot)")),
            Finish::Signal(number) => Some(format!("ended by signal {number}")),
            Finish::Broken(report) => Some(format!("our own failure, please report it: {report}")),
        }
    }
}

/// How a run ended and what it cost.
#[derive(Clone, PartialEq, Debug)]
pub struct Outcome {
    /// How.
    pub finish: Finish,
    /// The cost.
    pub stats: Stats,
}

/// What the host can give a guest at most: its memory and swap, in bytes.
fn host_memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let kib = |name: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse().ok()
    };
    Some((kib("MemTotal:")? + kib("SwapTotal:").unwrap_or(0)) * 1024)
}

/// A line on standard error. Whoever read it may have gone, which must not stop a machine.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn trace(to: Option<&TraceTo>) -> Result<Trace, UserError> {
    let Some(TraceTo { kinds, file }) = to else {
        return Ok(Trace::new(Kinds::default(), None));
    };
    let sink: Sink = match file {
        None => Box::new(say),
        Some(path) => {
            let file = fs::File::create(path).map_err(|e| {
                UserError::new(
                    format_args!("--trace {}: {e}", path.display()),
                    "give a file that can be written",
                )
            })?;
            let mut file = BufWriter::new(file);
            // A full disk must not stop the guest.
            Box::new(move |line| drop(writeln!(file, "{line}")))
        }
    };
    Ok(Trace::new(*kinds, Some(sink)))
}

/// Runs a VM to its end. An error is the user's: nothing has run.
pub fn run(mut config: Config) -> Result<Outcome, UserError> {
    config.spec.validate(host_memory())?;
    if let Guest::Files {
        kernel,
        initrd,
        append,
    } = &config.guest
    {
        config.spec.kernel = kernel.display().to_string();
        config.spec.initrd = initrd.iter().map(|p| p.display().to_string()).collect();
        config.spec.append.clone_from(append);
    }
    let model = cpu_model(&config.spec.cpu_model, config.spec.cpus)?;
    let needs = engines::Needs {
        counting: matches!(config.spec.clock, ClockKind::Instructions(_)),
        tracing: config
            .trace
            .as_ref()
            .is_some_and(|t| t.kinds.has(Kinds::INSN)),
    };
    let translator = translator::options(&config)?;
    let open = |choice| {
        if config.check_bt {
            return engines::checked_bt(choice, config.spec.cpus, needs, &translator);
        }
        engines::choose(choice, needs, config.force, &translator)
    };
    let (mut engine, engine_reason) = open(config.engine)?;
    let mut moves = Vec::new();
    for &(choice, after_s) in &config.moves {
        moves.push((open(choice)?.0, after_s));
    }
    // A machine keeps its model for life: it has what every engine has that will run it.
    let mut lacks = Vec::new();
    let mut model = model;
    for engine in [&engine].into_iter().chain(moves.iter().map(|m| &m.0)) {
        let (less, lost) = engine.model(&model);
        model = less;
        lacks.extend(lost);
    }
    config.spec.tsc_hz = model.tsc_hz;
    // Under KVM the processor itself shows machine time, at the kernel's idea of the rate.
    let by_tsc = [&engine].into_iter().chain(moves.iter().map(|m| &m.0));
    let by_tsc = by_tsc.into_iter().all(|engine| engine.name() != "kvm");
    let sample = by_tsc.then(HostClock::sample).flatten();
    let memory = Arc::new(guest::memory(config.spec.memory)?);
    // Before anything is connected: a bad kernel leaves nothing behind.
    let acpi = machine::board::acpi(&config.spec);
    let load = || {
        guest::load(
            &config.guest,
            &acpi,
            &memory,
            config.spec.memory,
            model.signature(),
        )
    };
    let mut first = load()?;
    let trace = trace(config.trace.as_ref())?;
    let running = Running::default();
    let connections = connections(&config, &running)?;
    let clock: Arc<dyn Clock> = match config.spec.clock {
        ClockKind::Host => Arc::new(HostClock::start_by_tsc(sample)),
        ClockKind::Instructions(ns) => Arc::new(InstructionClock::new(ns)),
    };
    let in_turns = clock.is_virtual();
    let waiters = if in_turns { 1 } else { config.spec.cpus };
    let host = Arc::new(Threads::new(
        waiters,
        !in_turns,
        Box::new(|text| say(&format!("moinho: {text}"))),
    ));
    lock::yield_with(thread::yield_now);
    let machine = Machine::new(
        config.spec.clone(),
        memory.clone(),
        connections,
        clock,
        host.clone(),
        trace,
    );
    let machine = Arc::new(machine.map_err(UserError)?);
    if config.engine == EngineChoice::Auto {
        host.event(format!("engine {}: {engine_reason}", engine.name()));
    }
    if !lacks.is_empty() {
        host.event(format!(
            "this host's processor lacks {} of --cpu-model {}: the guest sees it without them",
            lacks.join(", "),
            model.name
        ));
    }
    let processors = |engine: &dyn Engine| processors(engine, &machine, &model, &host);
    let mut vcpus = processors(&*engine).map_err(UserError)?;
    watch_signals(&machine)?;
    let raw = RawMode::enter().map_err(|e| UserError(format!("terminal: {e}")))?;
    running.set(Some(machine.clone()));
    // What was typed before the machine was there.
    machine.terminal_ready();

    let started = Instant::now();
    let mut resets = 0;
    let mut moves = moves.into_iter();
    for (_, after_s) in &config.moves {
        pause_after(&machine, *after_s)?;
    }
    if let Err(finish) = place(&mut vcpus, &first, model.signature()) {
        return Err(UserError(format!("{finish:?}")));
    }
    let finish = loop {
        let panicked = run_processors(&machine, &host, &mut vcpus, in_turns);
        let end = match panicked {
            Some(report) => End::Broken { cpu: 0, report },
            None => machine.ended().unwrap_or(End::Host("no reason".into())),
        };
        if end == End::Paused {
            if let Some((next, _)) = moves.next() {
                let states: Vec<CpuState> = vcpus.iter().map(|v| v.state()).collect();
                let text = format!("moved from {} to {}", engine.name(), next.name());
                engine = next;
                match moved(&states, processors(&*engine)) {
                    Ok(vcpus_there) => vcpus = vcpus_there,
                    Err(why) => break Finish::Broken(format!("{text}: {why}")),
                }
                host.event(text);
            }
            machine.resume();
            continue;
        }
        match finish_of(end, config.no_reboot) {
            Ok(finish) => break finish,
            Err(Again(message)) => {
                if let Some(message) = message {
                    host.event(message);
                }
            }
        }
        resets += 1;
        machine.reset();
        match load() {
            Ok(state) => first = state,
            Err(error) => break Finish::Broken(format!("reset: {error}")),
        }
        if let Err(finish) = place(&mut vcpus, &first, model.signature()) {
            break finish;
        }
    };
    host.set_kicks(Vec::new());
    let wall_s = started.elapsed().as_secs_f64();
    running.set(None);
    drop(raw);
    let counters: Vec<_> = vcpus.iter().map(|v| v.counters().into()).collect();
    let engine_counts = vcpus.iter().map(|v| EngineCounts(v.report())).collect();
    Ok(Outcome {
        stats: stats(
            &machine,
            counters,
            engine_counts,
            engine.name(),
            &engine_reason,
            resets,
            wall_s,
        ),
        finish: with_trace(finish, &machine),
    })
}

/// A processor of `engine` for each of the machine's.
fn processors(
    engine: &dyn Engine,
    machine: &Machine,
    model: &CpuModel,
    host: &Threads,
) -> Result<Vec<Box<dyn Vcpu>>, String> {
    let mut vcpus = Vec::new();
    for cpu in 0..machine.spec().cpus {
        let (memory, signals) = (machine.memory().clone(), machine.signals(cpu).clone());
        let vcpu = engine.vcpu(cpu, model, memory, signals);
        vcpus.push(vcpu.map_err(|e| format!("cpu{cpu}: {e}"))?);
    }
    host.set_kicks(vcpus.iter().map(|v| v.kicker()).collect());
    Ok(vcpus)
}

/// The processors of another engine, in the states that were left.
fn moved(
    states: &[CpuState],
    vcpus: Result<Vec<Box<dyn Vcpu>>, String>,
) -> Result<Vec<Box<dyn Vcpu>>, String> {
    let mut vcpus = vcpus?;
    for (vcpu, state) in vcpus.iter_mut().zip(states) {
        vcpu.set_state(state).map_err(|e| e.to_string())?;
    }
    Ok(vcpus)
}

/// Pauses the machine once, so many seconds from now.
fn pause_after(machine: &Arc<Machine>, after_s: f64) -> Result<(), UserError> {
    let machine = Arc::downgrade(machine);
    spawn("mover", move || {
        thread::sleep(Duration::from_secs_f64(after_s));
        if let Some(machine) = machine.upgrade() {
            machine.stop(End::Paused);
        }
    })
}

/// A broken machine's report ends with the latest events, if any were recorded.
fn with_trace(finish: Finish, machine: &Machine) -> Finish {
    match finish {
        Finish::Broken(mut report) => {
            for line in machine.trace.tail(16) {
                report.push_str("\n  ");
                report.push_str(&line);
            }
            Finish::Broken(report)
        }
        other => other,
    }
}

fn stats(
    machine: &Machine,
    vcpus: Vec<machine::stats::VcpuStats>,
    engine_counts: Vec<EngineCounts>,
    engine: &str,
    reason: &str,
    resets: u64,
    wall_s: f64,
) -> Stats {
    let instructions: u64 = vcpus.iter().map(|v| v.instructions).sum();
    Stats {
        engine: engine.into(),
        engine_reason: reason.into(),
        vcpus,
        engine_counts,
        devices: machine.device_stats(),
        resets,
        wall_s,
        guest_s: machine.now_ns() as f64 / 1e9,
        mips: instructions as f64 / wall_s.max(1e-9) / 1e6,
        host: HostStats::now(machine.memory().size()),
    }
}

/// Every processor into the state it starts in: the first as the boot protocol says, the others
/// waiting for their start-up IPI.
fn place(vcpus: &mut [Box<dyn Vcpu>], first: &CpuState, signature: u32) -> Result<(), Finish> {
    for (cpu, vcpu) in vcpus.iter_mut().enumerate() {
        let placed = if cpu == 0 {
            vcpu.set_state(first)
        } else {
            vcpu.set_state(&CpuState::reset(signature, false))
        };
        placed.map_err(|e| Finish::Broken(format!("cpu{cpu}: {e}")))?;
    }
    Ok(())
}

/// The machine is to run again; a message, if the user should know why.
struct Again(Option<String>);

fn finish_of(end: End, no_reboot: bool) -> Result<Finish, Again> {
    Ok(match end {
        End::PowerOff => Finish::PowerOff,
        End::DebugExit(value) => Finish::DebugExit(value),
        End::Broken { cpu, report } => Finish::Broken(format!("cpu{cpu}: {report}")),
        End::Quit => Finish::Quit,
        End::Signal(number) => Finish::Signal(number),
        End::Host(why) => Finish::Broken(why),
        End::Paused => Finish::Broken("paused, and nobody resumes it".into()),
        End::Reset if no_reboot => Finish::Reset,
        End::Reset => return Err(Again(None)),
        End::TripleFault { cpu, at } => {
            let at = format!("cpu{cpu}: {at}");
            if no_reboot {
                Finish::TripleFault(at)
            } else {
                return Err(Again(Some(format!(
                    "triple fault: {at}; the machine is reset"
                ))));
            }
        }
    })
}

/// Runs all processors and the timers until the machine stops; every thread has ended when this
/// returns. The text of a panic, if there was one.
fn run_processors(
    machine: &Machine,
    host: &Threads,
    vcpus: &mut [Box<dyn Vcpu>],
    in_turns: bool,
) -> Option<String> {
    // A panic is our mistake: it stops this VM only.
    let guard = |name: String, body: &mut dyn FnMut()| {
        if catch_unwind(AssertUnwindSafe(body)).is_err() {
            machine.stop(End::Host(format!("{name} panicked; see the message above")));
        }
    };
    if in_turns {
        guard("the machine".into(), &mut || machine.run_in_turns(vcpus));
        return None;
    }
    let guard = &guard;
    let spawned = thread::scope(|scope| -> std::io::Result<()> {
        let timers = thread::Builder::new().name("timers".into());
        let stop = |e| {
            machine.stop(End::Host(format!("the host has no more threads: {e}")));
            e
        };
        timers
            .spawn_scoped(scope, move || {
                guard("the timer thread".into(), &mut || run_timers(machine, host));
            })
            .map_err(stop)?;
        for (cpu, vcpu) in vcpus.iter_mut().enumerate() {
            let body = move || {
                guard(format!("cpu{cpu}"), &mut || {
                    machine.run_vcpu(cpu as u32, &mut **vcpu);
                });
            };
            let thread = thread::Builder::new().name(format!("cpu{cpu}"));
            thread.spawn_scoped(scope, body).map_err(stop)?;
        }
        Ok(())
    });
    spawned.err().map(|e| format!("threads: {e}"))
}

fn run_timers(machine: &Machine, host: &Threads) {
    while !machine.stopping() {
        let left = machine
            .run_timers()
            .map(|at| Duration::from_nanos(at.saturating_sub(machine.now_ns())));
        host.timer.park(left);
    }
}

/// SIGINT, SIGTERM and SIGHUP stop the machine.
fn watch_signals(machine: &Arc<Machine>) -> Result<(), UserError> {
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP])
        .map_err(|e| UserError(format!("signal handlers: {e}")))?;
    let machine = Arc::downgrade(machine);
    let watch = move || {
        for number in signals.forever() {
            match machine.upgrade() {
                Some(machine) => machine.stop(End::Signal(number)),
                // The run has ended; what is left is printing. A second signal need not wait.
                None => std::process::exit(128 + number),
            }
        }
    };
    spawn("signals", watch)
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), UserError> {
    thread::Builder::new()
        .name(name.into())
        .spawn(body)
        .map(drop)
        .map_err(|e| {
            UserError::new(
                format_args!("threads: {e}"),
                "the host must permit some more",
            )
        })
}
