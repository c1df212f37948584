//! The stock Debian kernel from power-on to power-off: commands are typed at its shell and their
//! answers held against the host's.
//!
//! Needs the image of `moinho run linux`: downloaded through apt the first time, else skipped,
//! counted and said so. Under the interpreter and the translator; `MOINHO_ENGINE` names one engine
//! instead.

mod vm;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;
use vm::Vm;

const PROMPT: &str = "moinho:/# ";

/// One boot at a time: beside another they only take longer.
static TURN: Mutex<()> = Mutex::new(());
static SKIPPED: AtomicUsize = AtomicUsize::new(0);

fn skipped(what: &str, why: &str) {
    let count = SKIPPED.fetch_add(1, Ordering::Relaxed) + 1;
    eprintln!("skipped ({count} so far): {what}: {why}");
}

/// Whether there is a Linux to boot.
fn image(test: &str) -> bool {
    match vmm::images::linux(&vmm::images::Quiet) {
        Ok(_) => true,
        Err(why) => {
            skipped(test, &why.to_string());
            false
        }
    }
}

/// The engine of MOINHO_ENGINE, if it names one.
fn named_engine() -> Option<String> {
    std::env::var("MOINHO_ENGINE").ok()
}

fn engine() -> String {
    named_engine().unwrap_or_else(|| "interp".into())
}

/// What the host's shell prints.
fn host(command: &str) -> String {
    let output = Command::new("sh").args(["-c", command]).output().unwrap();
    assert!(output.status.success(), "{command}");
    String::from_utf8(output.stdout).unwrap().trim().to_string()
}

/// A file of this test's own, gone at its end.
struct File(PathBuf);

impl File {
    fn new(name: &str, bytes: &[u8]) -> File {
        let name = format!("moinho-linux-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::write(&path, bytes).unwrap();
        File(path)
    }
    fn path(&self) -> String {
        self.0.display().to_string()
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn program(name: &str) -> Option<PathBuf> {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&folders)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

/// Bytes that are not all alike: a linear congruence.
fn noise(bytes: usize) -> Vec<u8> {
    let mut x = 1u64;
    let mut next = || {
        x = x.wrapping_mul(6364136223846793005).wrapping_add(99);
        (x >> 56) as u8
    };
    (0..bytes).map(|_| next()).collect()
}

impl Vm {
    /// Types a command and waits for its answer, which the echo of the command must not hold,
    /// then for the prompt.
    #[track_caller]
    fn command(&mut self, command: &str, answer: &str) {
        assert!(!command.contains(answer), "{command}");
        self.type_in(&format!("{command}\n"));
        self.expect(answer);
        self.expect(PROMPT);
    }
}

/// Makes an ext4 file system on `disk`, if the host can.
fn format(disk: &Path) -> bool {
    let Some(mke2fs) = program("mke2fs") else {
        skipped("the ext4 disk", "mke2fs is not installed");
        return false;
    };
    let output = Command::new(mke2fs)
        .args(["-q", "-F", "-t", "ext4"])
        .arg(disk)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{errors}");
    true
}

/// Boots with `cpus` processors, works, switches off.
fn boots_works_and_switches_off(engine: &str, cpus: u32) {
    if !image(&format!("Linux on {cpus} processors")) {
        return;
    }
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let raw = File::new(&format!("raw{cpus}"), &noise(1 << 20));
    let disk = File::new(&format!("disk{cpus}"), &[]);
    let size = fs::File::options().write(true).open(&disk.0).unwrap();
    size.set_len(16 << 20).unwrap();
    let formatted = format(&disk.0);
    let text = cpus.to_string();
    let (written, read_only) = (disk.path(), format!("{},ro", raw.path()));
    let mut args = vec!["linux", "--engine", engine, "--cpus", &text, "--no-reboot"];
    args.extend(["--memory", "256M", "--stats", "--json"]);
    args.extend(["--disk", &written, "--disk", &read_only]);
    let started = Instant::now();
    let mut vm = Vm::start(&args);
    vm.expect(PROMPT);
    let at_prompt = started.elapsed();

    vm.command("uname -sm", "Linux x86_64");
    vm.command("echo cpus=$(nproc)=", &format!("cpus={cpus}="));
    vm.command("busybox | head -n 1", "BusyBox v");
    vm.command(
        "ls /proc/self/status /sys/class/block/vda/size | wc -l",
        "\n2",
    );
    let numbers = host("seq 1 20000 | md5sum | cut -d ' ' -f 1");
    vm.command("seq 1 20000 | md5sum", &numbers);
    let piece = host(&format!(
        "dd if={} bs=4k skip=3 count=100 2>/dev/null | md5sum | cut -d ' ' -f 1",
        raw.path()
    ));
    vm.command("dd if=/dev/vdb bs=4k skip=3 count=100 | md5sum", &piece);
    vm.command(
        "n=0; for i in $(seq 1 300); do n=$((n + i * i)); done; echo sum=$n=",
        "sum=9045050=",
    );
    // A process on every processor at once.
    vm.command(
        "for i in $(seq 1 4); do (seq 1 20000 | md5sum) & done | sort -u | wc -l; wait",
        "\n1",
    );
    vm.command(
        "echo x >/dev/vdb || echo it is read-$((0))only",
        "read-0only",
    );
    if formatted {
        vm.command("grep -c '^/dev/vda /mnt ext4' /proc/mounts", "\n1");
        vm.command(
            "dd if=/dev/vdb bs=64k of=/mnt/copy 2>/dev/null; umount /mnt; mount /dev/vda /mnt; ls /mnt",
            "copy  ",
        );
        let whole = host(&format!("md5sum <{} | cut -d ' ' -f 1", raw.path()));
        vm.command("md5sum /mnt/copy", &whole);
    }
    vm.type_in("poweroff\n");
    let (status, screen, errors) = vm.finish();
    assert_eq!((status, errors.as_str()), (Some(0), ""), "{screen}");

    let json = &screen[screen.rfind("\n{\n").unwrap_or(0)..];
    let stats: serde_json::Value = serde_json::from_str(json).unwrap();
    let instructions: u64 = (0..cpus as usize)
        .map(|cpu| stats["vcpus"][cpu]["instructions"].as_u64().unwrap())
        .sum();
    println!(
        "Linux, {cpus} processors, {engine}: prompt after {:.1} s, all after {:.1} s, {:.2} s of host processor, {} million instructions, {:.1} MIPS, {} KiB beside guest RAM",
        at_prompt.as_secs_f64(),
        started.elapsed().as_secs_f64(),
        stats["host"]["cpu_s"].as_f64().unwrap(),
        instructions / 1_000_000,
        stats["mips"].as_f64().unwrap(),
        stats["host"]["overhead_kib"],
    );
    // Each processor of the translator has a code cache of its own.
    let most = match engine {
        "bt" => u64::from(cpus) * (64 << 10),
        _ => 32 << 10,
    };
    let overhead = stats["host"]["overhead_kib"].as_u64().unwrap();
    assert!(overhead < most, "{overhead} KiB beside guest RAM");
    if !formatted {
        return;
    }
    // What the guest wrote, as the host's own tool reads it.
    match program("debugfs") {
        None => skipped("the host's look at the disk", "debugfs is not installed"),
        Some(debugfs) => {
            let output = Command::new(debugfs)
                .args(["-R", "cat /copy"])
                .arg(&disk.0)
                .output()
                .unwrap();
            assert!(output.stdout == noise(1 << 20), "the copy on the disk");
        }
    }
}

#[test]
fn stock_linux_boots_works_and_switches_off_on_one_processor() {
    boots_works_and_switches_off(&engine(), 1);
}

#[test]
fn stock_linux_boots_works_and_switches_off_on_one_processor_translated() {
    if named_engine().is_none() {
        boots_works_and_switches_off("bt", 1);
    }
}

#[test]
fn stock_linux_boots_works_and_switches_off_on_two_processors_translated() {
    if named_engine().is_none() {
        boots_works_and_switches_off("bt", 2);
    }
}

#[test]
fn stock_linux_boots_works_and_switches_off_on_two_processors() {
    boots_works_and_switches_off(&engine(), 2);
}

#[test]
fn a_command_of_the_command_line_runs_and_switches_the_machine_off() {
    if !image("a command for Linux") {
        return;
    }
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    // A disk whose writes are forgotten: the guest sees them, the file does not.
    let disk = File::new("cow", &noise(1 << 20));
    let cow = format!("{},cow", disk.path());
    let command = "echo this is $(uname -s); echo writ$(echo ten) >/dev/vda; sync; echo 3 >/proc/sys/vm/drop_caches; head -c 7 /dev/vda; exit 7";
    let engine = engine();
    let mut args = vec!["linux", "--engine", &engine, "--no-reboot", "--disk", &cow];
    args.extend(["--", command]);
    let (status, screen, errors) = Vm::start(&args).finish();
    assert!(screen.contains("this is Linux"), "{screen}");
    assert!(screen.contains("written"), "{screen}");
    assert!(
        fs::read(&disk.0).unwrap() == noise(1 << 20),
        "the file changed"
    );
    assert!(screen.contains("moinho.run: exit status 7"), "{screen}");
    assert_eq!((status, errors.as_str()), (Some(0), ""));
}

#[test]
fn a_linux_without_a_root_panics_and_its_reset_ends_the_run_with_a_message() {
    if !image("a panic of Linux") {
        return;
    }
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let image = vmm::images::linux(&vmm::images::Quiet).unwrap();
    let kernel = image.kernel.display().to_string();
    let mut args = vec!["--kernel", &kernel, "--engine"];
    let engine = engine();
    args.extend([engine.as_str(), "--no-reboot"]);
    args.extend(["--append", "console=ttyS0 panic=-1 cryptomgr.notests"]);
    let (status, screen, errors) = Vm::start(&args).finish();
    assert!(screen.contains("Kernel panic - not syncing"), "{screen}");
    assert_eq!(status, Some(0), "{errors}");
    assert_eq!(
        errors,
        "moinho: the guest asked for a reset; ended (--no-reboot)\n"
    );
}
