//! The KVM engine with a real KVM, anywhere: QEMU emulates a processor with SVM, a stock Debian
//! kernel with `kvm_amd` boots on it, and in that our own program runs guests under
//! `--engine kvm`.
//!
//! ```text
//! this test > QEMU TCG, -cpu max > Debian kernel, kvm_amd, /init below > moinho > guests
//! ```
//!
//! One command, two to three minutes on an idle machine with the builds, and a phase of `.ci/run`:
//!
//! ```text
//! cargo test -p cli --test kvm_rig -- --ignored --nocapture
//! ```
//!
//! It takes its parts from Debian's packages and says what is missing; `MOINHO_RIG=required` makes
//! a missing part a failure, `MOINHO_RIG_KEEP=FILE` keeps the console's output. The program is the
//! one that the other tests run, with the libraries that it names; the tests of KVM that run in
//! the machine, too, are built by cargo from `MOINHO_RIG_PACKAGES` (`--workspace` where all is
//! built already).

use guests::{BEFORE_SHUTDOWN, CODE_SKIPPED, CODE_SUCCESS, Ends, PROGRAMS, Program};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use vmm::images::{LinuxParts, Quiet, cpio, linux_parts};

const QEMU: &str = "qemu-system-x86_64";
/// All the guests together take a minute and a half on an idle host.
const PATIENCE: Duration = Duration::from_secs(540);

/// On a busy host the emulated machine would take its TSC for unstable.
const APPEND: &str = "console=ttyS0 panic=-1 quiet tsc=reliable";

/// What runs in the emulated machine. Each check says `CHECK name: ok` or what it saw.
const INIT: &str = include_str!("kvm_rig_init.sh");

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// The program without its symbols, if there is a `strip`.
fn stripped(file: &Path) -> Vec<u8> {
    let to = std::env::temp_dir().join(format!("moinho-stripped-{}", std::process::id()));
    let done = Command::new("strip").arg("-o").arg(&to).arg(file).status();
    let from: &Path = if done.is_ok_and(|s| s.success()) {
        &to
    } else {
        file
    };
    let bytes = std::fs::read(from).unwrap();
    let _ = std::fs::remove_file(to);
    bytes
}

/// Test programs that run in the machine, too.
const TESTS: [&str; 2] = ["processor", "dirty_log"];

/// Where these are, built as this one was.
fn test_programs() -> Vec<PathBuf> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    // What the caller has built already: features depend on which packages are named.
    let packages = std::env::var("MOINHO_RIG_PACKAGES").unwrap_or("-p cli -p kvm -p vmm".into());
    cargo.arg("test").args(packages.split_whitespace());
    cargo.args(["--no-run", "--message-format=json"]);
    for name in TESTS {
        cargo.args(["--test", name]);
    }
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    let output = cargo
        .current_dir(root())
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(output.status.success(), "{cargo:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let messages: Vec<serde_json::Value> = text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let program = |name: &str| {
        let of = messages.iter().filter(|m| m["target"]["name"] == name);
        of.filter_map(|m| m["executable"].as_str())
            .next()
            .map(PathBuf::from)
    };
    TESTS
        .iter()
        .map(|name| program(name).expect("cargo names the test's program"))
        .collect()
}

/// The shared libraries that a program names, and the loader, as the host has them.
fn libraries(program: &Path) -> Vec<PathBuf> {
    let output = Command::new("ldd").arg(program).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.split_whitespace()
        .filter(|word| word.starts_with('/'))
        .map(PathBuf::from)
        .collect()
}

fn initramfs(parts: &LinuxParts) -> Vec<u8> {
    let mut programs = vec![("moinho", PathBuf::from(env!("CARGO_BIN_EXE_moinho")))];
    programs.extend(TESTS.into_iter().zip(test_programs()));
    let libraries: BTreeSet<PathBuf> = programs.iter().flat_map(|(_, p)| libraries(p)).collect();
    let mut archive = cpio::Writer::default();
    let mut folders: BTreeSet<&Path> = BTreeSet::new();
    for path in ["bin", "dev", "guests", "modules", "proc", "sys", "tmp"] {
        folders.insert(Path::new(path));
    }
    let inside = |path| Path::new(path).strip_prefix("/").unwrap();
    for library in &libraries {
        // Parents come first: a path sorts before what is below it.
        folders.extend(inside(library).ancestors().skip(1));
    }
    folders.remove(Path::new(""));
    for folder in folders {
        archive.directory(folder.to_str().unwrap(), 0o755);
    }
    for library in &libraries {
        let contents = std::fs::read(library).unwrap();
        archive.file(inside(library).to_str().unwrap(), 0o755, &contents);
    }
    for (name, program) in programs {
        archive.file(&format!("bin/{name}"), 0o755, &stripped(&program));
    }
    archive.character_device("dev/console", 0o600, 5, 1);
    archive.file("bin/busybox", 0o755, &parts.busybox);
    archive.symlink("bin/sh", "busybox");
    archive.file("init", 0o755, INIT.as_bytes());
    archive.file("kernel", 0o644, &parts.kernel);
    archive.file("initrd", 0o644, &parts.initrd);
    let mut order = String::new();
    for (name, contents) in &parts.modules {
        archive.file(&format!("modules/{name}"), 0o644, contents);
        order += &format!("{name}\n");
    }
    archive.file("modules/order", 0o644, order.as_bytes());
    let mut programs = String::new();
    for program in PROGRAMS.iter().filter(|p| differs(p).is_none()) {
        archive.file(&format!("guests/{}", program.name), 0o644, program.kernel);
        programs += &format!("{} {}\n", program.name, program.cpus());
    }
    archive.file("guests/list", 0o644, programs.as_bytes());
    archive.finish()
}

/// Boots it; what it said.
fn boot(kernel: &Path, initrd: &Path) -> String {
    // One processor: with two, QEMU 7.2 now and then takes an interrupt of the host kernel between
    // #VMEXIT and STGI, in the guest's registers, and the kernel panics.
    let mut qemu = Command::new(QEMU)
        .args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "1"])
        .args(["-M", "q35", "-m", "1280", "-display", "none"])
        .args(["-serial", "stdio", "-monitor", "none", "-nodefaults"])
        .args(["-no-reboot", "-append", APPEND])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(initrd)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let start = Instant::now();
    let console = BufReader::new(qemu.stdout.take().unwrap());
    let reader = std::thread::spawn(move || {
        let mut said = String::new();
        for line in console.split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).replace('\r', "");
            if let Some(check) = line.strip_prefix("CHECK ") {
                eprintln!("{:5.1} s  {check}", start.elapsed().as_secs_f64());
            }
            said.push_str(&line);
            said.push('\n');
        }
        said
    });
    while qemu.try_wait().unwrap().is_none() {
        if start.elapsed() > PATIENCE {
            let _ = qemu.kill();
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    let said = reader.join().unwrap();
    eprintln!("the rig ran for {:.0} s", start.elapsed().as_secs_f64());
    if let Some(file) = std::env::var_os("MOINHO_RIG_KEEP") {
        std::fs::write(file, &said).unwrap();
    }
    said
}

/// The parts, or a line that says what is missing.
fn parts() -> Result<LinuxParts, String> {
    let qemu = Command::new(QEMU).arg("--version").output();
    qemu.map_err(|e| format!("{QEMU}: {e}; install qemu-system-x86"))?;
    let parts = linux_parts(&["irqbypass", "kvm", "kvm_amd"], &Quiet).map_err(|e| e.to_string())?;
    match parts.modules.iter().any(|(name, _)| name == "kvm_amd.ko") {
        true => Ok(parts),
        false => Err("the kernel package has no module kvm_amd".into()),
    }
}

/// The programs print on two devices, and both end up on the screen.
fn twice(text: &str) -> String {
    text.chars().flat_map(|c| [c, c]).collect()
}

/// `CHECK name: result` for each.
fn checks(said: &str) -> BTreeMap<&str, &str> {
    said.lines()
        .filter_map(|line| line.strip_prefix("CHECK ")?.split_once(": "))
        .collect()
}

#[test]
#[ignore = "boots machines in a machine; two minutes"]
fn guests_run_under_a_real_kvm_as_they_run_under_the_interpreter() {
    let parts = match parts() {
        Ok(parts) => parts,
        Err(missing) => {
            let required = std::env::var("MOINHO_RIG").is_ok_and(|v| v == "required");
            assert!(!required, "{missing}");
            eprintln!("1 skipped: {missing}");
            return;
        }
    };
    let folder = std::env::temp_dir().join(format!("moinho-rig-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (kernel, initrd) = (folder.join("kernel"), folder.join("initrd"));
    std::fs::write(&initrd, initramfs(&parts)).unwrap();
    std::fs::write(&kernel, &parts.kernel).unwrap();

    let said = boot(&kernel, &initrd);
    let _ = std::fs::remove_dir_all(&folder);
    let checks = checks(&said);
    let mut failures = Vec::new();
    let mut skipped = 0;
    for program in PROGRAMS {
        if let Some(why) = differs(program) {
            skipped += 1;
            eprintln!("not run: {}: {why}", program.name);
            continue;
        }
        let exit = |code: u8| format!("{}", 2 * u32::from(code) + 1);
        let result = checks.get(program.name).copied().unwrap_or("did not run");
        let passed = match program.ends {
            Ends::Checks => result == exit(CODE_SUCCESS),
            Ends::Shutdown => result.starts_with("3 ") && result.contains(&twice(BEFORE_SHUTDOWN)),
        };
        if result.starts_with(&exit(CODE_SKIPPED)) {
            skipped += 1;
            eprintln!("skipped: {}: {result}", program.name);
        } else if !passed {
            failures.push(format!("{}: {result}", program.name));
        }
    }
    eprintln!(
        "{} of {} programs as under the other engines, {skipped} not run or skipped",
        PROGRAMS.len() - skipped - failures.len(),
        PROGRAMS.len()
    );
    for name in [
        "engine",
        "auto",
        "processor",
        "dirty-log",
        "linux-1",
        "linux-2",
        "shell",
        "disk",
        "start",
        "memory",
        "moved-interp-1",
        "moved-bt-1",
        "moved-interp-2",
        "moved-bt-2",
    ] {
        let result = checks.get(name).copied().unwrap_or("did not run");
        if !result.starts_with("ok") {
            failures.push(format!("{name}: {result}"));
        }
    }
    if !failures.is_empty() {
        let from = said.len().saturating_sub(20_000);
        let tail = said.get(from..).unwrap_or(&said);
        panic!("{}\n\n{tail}", failures.join("\n"));
    }
}

/// Why a program cannot pass under KVM on QEMU's processor, for a reason that is not ours.
fn differs(program: &Program) -> Option<&'static str> {
    match program.name {
        "xsave_state" => Some(
            "QEMU 7.2 lets XSETBV pass KVM's intercept: after the next exit XCR0 is what KVM believes",
        ),
        // Seen in QEMU's monitor: the host kernel ran on with CR0 = 0x31, the guest's. In its source:
        // do_vmexit calls cpu_x86_update_cr0 before it loads CR4 and EFER, and that returns at once
        // where PG is set under LME without PAE.
        "control_registers" => Some(
            "QEMU 7.2 loads the host's CR0 at #VMEXIT under the guest's EFER and CR4, and leaves PG out if they have LME without PAE, as this program does: the host kernel goes on without paging",
        ),
        // What they differ in is QEMU's local APIC and QEMU's threads, and neither is in play: the
        // APIC is ours, and one thread runs all.
        "lapic_exact" | "smp_shootdown" => None,
        _ => program.reference_differs,
    }
}
