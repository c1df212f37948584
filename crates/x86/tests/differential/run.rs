//! The workers, their supervision, and the report.

use super::departures;
use super::generate::{self, WINDOW, WINDOW_RO, WINDOW_RW};
use super::interpreted::Interpreted;
use super::native::Native;
use super::rng::{Flavour, Rng};
use super::state::differences;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use x86::table::{Privilege, Row};

/// Differences printed per row.
const SHOWN: u32 = 2;

/// What the environment asks for.
struct Wanted {
    seed: u64,
    /// Part of a row's name.
    row: Option<String>,
    case: Option<u64>,
    cases: u64,
    workers: usize,
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    let value = text.parse().ok();
    assert!(value.is_some(), "{name}={text}: a number is needed");
    value
}

impl Wanted {
    fn new() -> Wanted {
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        Wanted {
            seed: number("MOINHO_SEED").unwrap_or(1),
            row: std::env::var("MOINHO_ROW").ok(),
            case: number("MOINHO_CASE"),
            cases: number("MOINHO_CASES").unwrap_or(300),
            workers: number("MOINHO_WORKERS").unwrap_or(cores as u64).max(1) as usize,
        }
    }
}

/// One row in one mode.
struct Job {
    row: &'static Row,
    bits: u32,
}

/// What a worker tells, in memory shared with the supervisor.
#[derive(Default)]
struct Tally {
    cases: AtomicU64,
    exceptions: AtomicU64,
    different: AtomicU32,
    undefined: AtomicU32,
    /// Cases for which no encoding was found.
    none: AtomicU32,
    died: AtomicU32,
}

#[derive(Default)]
struct Progress {
    job: AtomicU64,
    case: AtomicU64,
}

/// A zeroed array shared with the processes forked from this one.
fn shared<T: Default>(len: usize) -> &'static [T] {
    let bytes = (len * size_of::<T>()).max(1);
    // SAFETY: a fresh zeroed mapping; `T` is made of atomics, for which zero is a value.
    unsafe {
        let p = libc::mmap(
            core::ptr::null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_ANONYMOUS,
            -1,
            0,
        );
        assert!(p != libc::MAP_FAILED);
        core::slice::from_raw_parts(p.cast(), len)
    }
}

fn case_seed(seed: u64, job: &Job, case: u64) -> u64 {
    let mut all = Rng::new(seed ^ (job.row.code as u64) << 40 ^ u64::from(job.bits) << 56);
    Rng::new(all.next() ^ case).next()
}

/// The two sides and the comparison.
struct Worker<'a> {
    wanted: &'a Wanted,
    native: Native,
    interpreted: Interpreted,
    background: Vec<u8>,
    memory: Vec<u8>,
}

impl<'a> Worker<'a> {
    fn new(wanted: &'a Wanted) -> Self {
        let mut background = vec![0; WINDOW_RW + WINDOW_RO];
        Rng::new(wanted.seed).fill(Flavour::Integers, &mut background);
        Worker {
            wanted,
            native: Native::new(&background),
            interpreted: Interpreted::new(&background),
            memory: background.clone(),
            background,
        }
    }

    fn case(&mut self, job: &Job, number: u64, tally: &Tally) {
        let mut rng = Rng::new(case_seed(self.wanted.seed, job, number));
        let Some(case) = generate::case(job.row.code, job.bits, &mut rng) else {
            tally.none.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let memory = &mut self.memory[..WINDOW_RW];
        memory.copy_from_slice(&self.background[..WINDOW_RW]);
        for (at, bytes) in &case.patches {
            memory[*at..at + bytes.len()].copy_from_slice(bytes);
        }
        let mut native = self.native.run(&case, memory);
        if departures::void(&case.instruction, &native) {
            return;
        }
        let mut ours = self.interpreted.run(&case, memory);
        tally.cases.fetch_add(1, Ordering::Relaxed);
        if native.exception.is_some() {
            tally.exceptions.fetch_add(1, Ordering::Relaxed);
        }
        let (a, b) = (native.clone(), ours.clone());
        if departures::reconcile(&case.instruction, &mut native, &mut ours) {
            tally.undefined.fetch_add(1, Ordering::Relaxed);
        }
        let found = differences(&native, &ours, WINDOW);
        let shown = self.wanted.case.is_some();
        if found.is_empty() && !shown {
            return;
        }
        if !found.is_empty() && tally.different.fetch_add(1, Ordering::Relaxed) >= SHOWN && !shown {
            return;
        }
        let mut text = format!(
            "{:?} ({} bit): {}  [{}]\n  MOINHO_SEED={} MOINHO_ROW={:?} MOINHO_CASE={number} cargo test --release -p x86 --test differential\n{found}",
            job.row.code,
            job.bits,
            case.instruction,
            hex(&case.bytes),
            self.wanted.seed,
            job.row.code,
        );
        use x86::table::Unit;
        let unit = job.row.unit;
        let x87 = matches!(unit, Unit::X87 | Unit::Mmx | Unit::Wait);
        let vector = matches!(unit, Unit::Sse | Unit::Avx);
        text += &format!(
            "  before, at {:#x}:\n{}",
            case.at,
            case.registers.text(x87, vector)
        );
        for (at, bytes) in &case.patches {
            text += &format!("  [{:#x}] {}\n", WINDOW + *at as u64, hex(bytes));
        }
        if shown {
            text += &format!(
                "  native: {:x?}\n{}",
                a.exception,
                a.registers.text(x87, vector)
            );
            text += &format!(
                "  ours: {:x?}\n{}",
                b.exception,
                b.registers.text(x87, vector)
            );
        }
        eprintln!("{text}");
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .map(|b| format!("{b:02x} "))
        .collect::<String>()
        .trim_end()
        .into()
}

/// A worker's life: every `wanted.workers`th job from `job`, the first from `case` on.
fn work(wanted: &Wanted, jobs: &[Job], tallies: &[Tally], progress: &Progress) {
    let mut worker = Worker::new(wanted);
    let (mut job, mut case) = (
        progress.job.load(Ordering::Relaxed),
        progress.case.load(Ordering::Relaxed),
    );
    while (job as usize) < jobs.len() {
        let end = wanted.case.map_or(wanted.cases, |c| c + 1);
        case = case.max(wanted.case.unwrap_or(0));
        while case < end {
            progress.job.store(job, Ordering::Relaxed);
            progress.case.store(case, Ordering::Relaxed);
            worker.case(&jobs[job as usize], case, &tallies[job as usize]);
            case += 1;
        }
        case = 0;
        job += wanted.workers as u64;
    }
    progress.job.store(job, Ordering::Relaxed);
}

/// A forked worker.
struct Child {
    pid: i32,
    seen: (u64, u64),
    still: u32,
}

/// What the manuals leave open (fault order, FIP and FDP, what a fault leaves) follows Intel's
/// processors, so only there a difference is a failure.
fn is_intel() -> bool {
    let id = std::arch::x86_64::__cpuid(0);
    (id.ebx, id.edx, id.ecx) == (0x756e_6547, 0x4965_6e69, 0x6c65_746e)
}

pub fn main() -> i32 {
    if !std::arch::is_x86_feature_detected!("avx") {
        println!("skipped: the host has no AVX, without which its state cannot be loaded");
        return 0;
    }
    let wanted = Wanted::new();
    let mut skipped: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let mut jobs = Vec::new();
    let (mut user, mut user_skipped) = (0, 0);
    let (mut never, mut lacking) = (Vec::new(), Vec::new());
    for row in x86::table::rows() {
        if departures::never_decoded(row) {
            never.push(format!("{:?}", row.code));
            continue;
        }
        if !departures::host_has(row) {
            lacking.push(format!("{:?}", row.code));
            continue;
        }
        let is_user = row.privilege != Privilege::Cpl0;
        user += u32::from(is_user);
        if let Some(why) = departures::skipped(row) {
            user_skipped += u32::from(is_user);
            skipped
                .entry(why)
                .or_default()
                .push(format!("{:?}", row.code));
            continue;
        }
        if let Some(name) = &wanted.row
            && !format!("{:?}", row.code).starts_with(name.as_str())
        {
            continue;
        }
        // What 64-bit code has is run there, the rest as 32-bit code.
        let mut rng = Rng::new(1);
        let bits = [64, 32]
            .into_iter()
            .find(|&bits| generate::case(row.code, bits, &mut rng).is_some());
        match bits {
            Some(bits) => jobs.push(Job { row, bits }),
            None => {
                user_skipped += u32::from(is_user);
                let why = "no encoding in 64-bit or 32-bit code";
                skipped
                    .entry(why)
                    .or_default()
                    .push(format!("{:?}", row.code));
            }
        }
    }
    let tallies = shared::<Tally>(jobs.len());
    let progress = shared::<Progress>(wanted.workers);
    let started = std::time::Instant::now();
    supervise(&wanted, &jobs, tallies, progress);

    let mut total = Tally::default();
    let mut bad = Vec::new();
    for (job, t) in jobs.iter().zip(tallies) {
        let add =
            |to: &AtomicU64, n: u64| to.store(to.load(Ordering::Relaxed) + n, Ordering::Relaxed);
        add(&total.cases, t.cases.load(Ordering::Relaxed));
        add(&total.exceptions, t.exceptions.load(Ordering::Relaxed));
        let get = |n: &AtomicU32| n.load(Ordering::Relaxed);
        *total.none.get_mut() += get(&t.none);
        *total.undefined.get_mut() += get(&t.undefined);
        let (different, died) = (get(&t.different), get(&t.died));
        if different + died > 0 || t.cases.load(Ordering::Relaxed) == 0 {
            bad.push(format!(
                "{:?} ({} bit): {different} different, {died} deaths of {}",
                job.row.code,
                job.bits,
                t.cases.load(Ordering::Relaxed)
            ));
        }
    }
    for (why, rows) in &skipped {
        println!("not compared, {why}: {}", rows.join(" "));
    }
    println!("never decoded as one instruction: {}", never.join(" "));
    if !lacking.is_empty() {
        println!("not on this host: {}", lacking.join(" "));
    }
    let covered = user - user_skipped;
    println!(
        "{} cases of {} rows in {:.1} s, seed {}; {} raised an exception, {} differed in undefined flags only, {} had no encoding",
        total.cases.get_mut(),
        jobs.len(),
        started.elapsed().as_secs_f64(),
        wanted.seed,
        total.exceptions.get_mut(),
        total.undefined.get_mut(),
        total.none.get_mut(),
    );
    println!(
        "{covered} of {user} user-mode rows are covered ({:.1} %)",
        100.0 * f64::from(covered) / f64::from(user)
    );
    if !bad.is_empty() {
        println!("{} rows differ:\n{}", bad.len(), bad.join("\n"));
        if is_intel() || number("MOINHO_STRICT").is_some() {
            return 1;
        }
        println!("which fails nothing here: the model follows Intel where processors differ");
    }
    if wanted.row.is_none() && covered * 100 < user * 95 {
        println!("less than 95 % of the user-mode rows are covered");
        return 1;
    }
    0
}

/// Forks the workers, replaces those that die or hang, until all work is done.
fn supervise(wanted: &Wanted, jobs: &[Job], tallies: &[Tally], progress: &[Progress]) {
    let fork = |p: &Progress| {
        // SAFETY: this process has one thread.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0, "fork: {}", std::io::Error::last_os_error());
        if pid == 0 {
            work(wanted, jobs, tallies, p);
            std::process::exit(0);
        }
        Child {
            pid,
            seen: (0, 0),
            still: 0,
        }
    };
    for (n, p) in progress.iter().enumerate() {
        p.job.store(n as u64, Ordering::Relaxed);
    }
    let mut children: Vec<Option<Child>> = progress.iter().map(|p| Some(fork(p))).collect();
    while children.iter().any(Option::is_some) {
        std::thread::sleep(std::time::Duration::from_millis(20));
        for (slot, p) in children.iter_mut().zip(progress) {
            let Some(child) = slot else { continue };
            let at = (
                p.job.load(Ordering::Relaxed),
                p.case.load(Ordering::Relaxed),
            );
            child.still = if at == child.seen { child.still + 1 } else { 0 };
            child.seen = at;
            if child.still == 500 {
                // SAFETY: our own child.
                unsafe { libc::kill(child.pid, libc::SIGKILL) };
            }
            let mut status = 0;
            // SAFETY: our own child.
            if unsafe { libc::waitpid(child.pid, &mut status, libc::WNOHANG) } == 0 {
                continue;
            }
            let done = libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0;
            let at = (
                p.job.load(Ordering::Relaxed),
                p.case.load(Ordering::Relaxed),
            );
            if done || at.0 as usize >= jobs.len() {
                *slot = None;
                continue;
            }
            let job = &jobs[at.0 as usize];
            let tally = &tallies[at.0 as usize];
            let deaths = tally.died.fetch_add(1, Ordering::Relaxed) + 1;
            eprintln!(
                "a worker died (status {status:#x}) in MOINHO_SEED={} MOINHO_ROW={:?} MOINHO_CASE={}",
                wanted.seed, job.row.code, at.1
            );
            // Three deaths are enough for a row.
            if deaths < 3 && wanted.case.is_none() {
                p.case.store(at.1 + 1, Ordering::Relaxed);
            } else {
                p.job.store(at.0 + wanted.workers as u64, Ordering::Relaxed);
                p.case.store(0, Ordering::Relaxed);
            }
            *slot = Some(fork(p));
        }
    }
}
