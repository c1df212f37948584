//! The KVM engine with a real KVM, anywhere: QEMU emulates a processor with SVM, a stock Debian
//! kernel with `kvm_amd` boots on it, and in that our own program runs guests under
//! `--engine kvm`.
//!
//! ```text
//! this test > QEMU TCG, -cpu max > Debian kernel, kvm_amd, /init below > moinho > guests
//! ```
//!
//! One command, about five minutes with the builds:
//!
//! ```text
//! cargo test -p cli --test kvm_rig -- --ignored --nocapture
//! ```
//!
//! It takes its parts from Debian's packages and says what is missing; `MOINHO_RIG=required` makes
//! a missing part a failure, `MOINHO_RIG_KEEP=FILE` keeps the console's output. The static build
//! goes to `target/rig`.

use guests::{BEFORE_SHUTDOWN, CODE_SKIPPED, CODE_SUCCESS, Ends, PROGRAMS};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use vmm::images::{LinuxParts, Quiet, cpio, linux_parts};

const QEMU: &str = "qemu-system-x86_64";
const TRIPLE: &str = "x86_64-unknown-linux-gnu";
/// All the guests together take two to four minutes.
const PATIENCE: Duration = Duration::from_secs(540);

/// On a busy host the emulated machine would take its TSC for unstable.
const APPEND: &str = "console=ttyS0 panic=-1 quiet tsc=reliable";

/// What runs in the emulated machine. Each check says `CHECK name: ok` or what it saw.
const INIT: &str = include_str!("kvm_rig_init.sh");

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// Builds with a static libc into a folder of its own; `args` after `cargo`.
fn cargo(args: &[&str]) -> Vec<u8> {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()))
        .args(args)
        .args(["--release", "--target", TRIPLE, "--config"])
        .arg(format!(
            "target.{TRIPLE}.rustflags=[\"-C\",\"target-feature=+crt-static\"]"
        ))
        .current_dir(root())
        .env("CARGO_TARGET_DIR", root().join("target/rig"))
        .env_remove("RUSTFLAGS")
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(output.status.success(), "cargo {args:?}");
    output.stdout
}

/// The program without its symbols, if there is a `strip`.
fn stripped(file: &Path) -> Vec<u8> {
    let to = root().join("target/rig/stripped");
    let done = Command::new("strip").arg("-o").arg(&to).arg(file).status();
    let from = if done.is_ok_and(|s| s.success()) {
        &to
    } else {
        file
    };
    std::fs::read(from).unwrap()
}

/// The program, and the tests of the KVM engine.
fn build() -> (Vec<u8>, Vec<u8>) {
    cargo(&["build", "-p", "cli"]);
    let said = cargo(&[
        "test",
        "-p",
        "kvm",
        "--test",
        "processor",
        "--no-run",
        "--message-format=json",
    ]);
    let tests = String::from_utf8(said).unwrap();
    let tests: PathBuf = tests
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == "processor")
        .find_map(|message| Some(message["executable"].as_str()?.into()))
        .expect("cargo names the test's program");
    let moinho = root().join(format!("target/rig/{TRIPLE}/release/moinho"));
    (stripped(&moinho), stripped(&tests))
}

fn initramfs(parts: &LinuxParts) -> Vec<u8> {
    let (moinho, tests) = build();
    let mut archive = cpio::Writer::default();
    for path in ["bin", "dev", "guests", "lib", "proc", "sys", "tmp"] {
        archive.directory(path, 0o755);
    }
    archive.character_device("dev/console", 0o600, 5, 1);
    archive.file("bin/busybox", 0o755, &parts.busybox);
    archive.symlink("bin/sh", "busybox");
    archive.file("bin/moinho", 0o755, &moinho);
    archive.file("bin/processor", 0o755, &tests);
    archive.file("init", 0o755, INIT.as_bytes());
    archive.file("kernel", 0o644, &parts.kernel);
    archive.file("initrd", 0o644, &parts.initrd);
    let mut order = String::new();
    for (name, contents) in &parts.modules {
        archive.file(&format!("lib/{name}"), 0o644, contents);
        order += &format!("{name}\n");
    }
    archive.file("lib/order", 0o644, order.as_bytes());
    let mut programs = String::new();
    for program in PROGRAMS.iter().filter(|p| p.reference_differs.is_none()) {
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
        .args(["-M", "q35", "-m", "2048", "-display", "none"])
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
    let mut console = qemu.stdout.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut said = Vec::new();
        let mut piece = [0; 4096];
        while let Ok(n @ 1..) = console.read(&mut piece) {
            said.extend_from_slice(&piece[..n]);
        }
        String::from_utf8_lossy(&said).replace('\r', "")
    });
    let start = Instant::now();
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
#[ignore = "builds a static program and boots machines in machines; five minutes"]
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
    let folder = root().join("target/rig");
    std::fs::create_dir_all(&folder).unwrap();
    let (kernel, initrd) = (folder.join("kernel"), folder.join("initrd"));
    std::fs::write(&initrd, initramfs(&parts)).unwrap();
    std::fs::write(&kernel, &parts.kernel).unwrap();

    let said = boot(&kernel, &initrd);
    let checks = checks(&said);
    let mut failures = Vec::new();
    let mut skipped = 0;
    for program in PROGRAMS {
        // The processor under KVM is QEMU's here.
        if let Some(why) = program.reference_differs {
            skipped += 1;
            eprintln!("skipped: {}: QEMU {why}", program.name);
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
        } else if !passed && let Some((name, why)) = DIFFERS.iter().find(|d| d.0 == program.name) {
            skipped += 1;
            eprintln!("skipped: {name}: {why}");
        } else if !passed {
            failures.push(format!("{}: {result}", program.name));
        }
    }
    for name in [
        "engine",
        "processor",
        "linux-1",
        "linux-2",
        "shell",
        "disk",
        "start",
        "memory",
        "moved-1",
        "moved-2",
    ] {
        let result = checks.get(name).copied().unwrap_or("did not run");
        eprintln!("{name}: {result}");
        if !result.starts_with("ok") {
            failures.push(format!("{name}: {result}"));
        }
    }
    eprintln!("{skipped} of {} programs skipped", PROGRAMS.len());
    if !failures.is_empty() {
        let from = said.len().saturating_sub(20_000);
        let tail = said.get(from..).unwrap_or(&said);
        panic!("{}\n\n{tail}", failures.join("\n"));
    }
}

/// Programs that fail under KVM on an emulated processor for a reason that is not ours.
const DIFFERS: &[(&str, &str)] = &[(
    "xsave_state",
    "QEMU 7.2 lets XSETBV pass KVM's intercept: after the next exit XCR0 is what KVM believes",
)];
