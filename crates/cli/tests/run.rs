//! Whole runs of the program: our own guests from power-on to their end.

use guests::{CODE_SUCCESS, Kind, PROGRAMS};
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// A run that takes longer has hung.
const PATIENCE: Duration = Duration::from_secs(120);

struct Vm {
    child: Child,
    keyboard: Option<ChildStdin>,
    screen: Receiver<Vec<u8>>,
    seen: String,
}

fn pump(mut from: ChildStdout) -> Receiver<Vec<u8>> {
    let (to, screen) = channel();
    std::thread::spawn(move || {
        let mut piece = [0; 4096];
        while let Ok(n @ 1..) = from.read(&mut piece) {
            if to.send(piece[..n].to_vec()).is_err() {
                return;
            }
        }
    });
    screen
}

impl Vm {
    fn start(args: &[&str]) -> Vm {
        let mut child = Command::new(env!("CARGO_BIN_EXE_moinho"))
            .arg("run")
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Vm {
            keyboard: child.stdin.take(),
            screen: pump(child.stdout.take().unwrap()),
            child,
            seen: String::new(),
        }
    }

    /// Waits for `text` on the screen, after what was waited for before.
    #[track_caller]
    fn expect(&mut self, text: &str) {
        loop {
            if let Some(at) = self.seen.find(text) {
                self.seen.drain(..at + text.len());
                return;
            }
            match self.screen.recv_timeout(PATIENCE) {
                Ok(piece) => self.seen.push_str(&String::from_utf8_lossy(&piece)),
                Err(_) => {
                    let _ = self.child.kill();
                    let errors = self.errors();
                    panic!(
                        "no {text:?} on the screen: {:?}; errors: {errors}",
                        self.seen
                    );
                }
            }
        }
    }

    fn type_in(&mut self, text: &str) {
        let keyboard = self.keyboard.as_mut().unwrap();
        keyboard.write_all(text.as_bytes()).unwrap();
    }

    fn errors(&mut self) -> String {
        let mut text = String::new();
        if let Some(mut stderr) = self.child.stderr.take() {
            let _ = stderr.read_to_string(&mut text);
        }
        text
    }

    /// Waits for the end: the status, what was on the screen since, the errors.
    fn finish(mut self) -> (Option<i32>, String, String) {
        let errors = self.errors();
        let status = self.child.wait().unwrap().code();
        while let Ok(piece) = self.screen.recv_timeout(PATIENCE) {
            self.seen.push_str(&String::from_utf8_lossy(&piece));
        }
        (status, std::mem::take(&mut self.seen), errors)
    }

    /// Processor time of the program so far, in ticks of 10 ms.
    fn cpu_ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let (_, rest) = stat.rsplit_once(')').unwrap();
        let fields: Vec<&str> = rest.split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }
}

#[test]
fn the_built_in_guest_answers_and_switches_itself_off() {
    let mut vm = Vm::start(&["--memory", "64M"]);
    vm.expect("moinho> ");
    vm.type_in("echo from here to there\n");
    vm.expect("\nfrom here to there");
    vm.expect("moinho> ");
    vm.type_in("poweroff\n");
    let (status, _, errors) = vm.finish();
    assert_eq!((status, errors.as_str()), (Some(0), ""));
}

#[test]
fn it_runs_under_the_instruction_clock_and_on_the_micro_board() {
    for more in [&["--clock", "insn"][..], &["--board", "micro"]] {
        let mut args = vec!["--memory", "64M"];
        args.extend(more);
        let mut vm = Vm::start(&args);
        vm.expect("moinho> ");
        vm.type_in("poweroff\n");
        assert_eq!(vm.finish().0, Some(0), "{more:?}");
    }
}

#[test]
fn a_reset_boots_again_or_ends_the_run_by_request() {
    let mut vm = Vm::start(&["--memory", "64M"]);
    vm.expect("moinho> ");
    vm.type_in("reboot\n");
    vm.expect("moinho> ");
    vm.type_in("poweroff\n");
    assert_eq!(vm.finish().0, Some(0));
    let mut vm = Vm::start(&["--memory", "64M", "--no-reboot"]);
    vm.expect("moinho> ");
    vm.type_in("reboot\n");
    let (status, _, errors) = vm.finish();
    assert_eq!(status, Some(0));
    assert!(
        errors.contains("reset") && errors.lines().count() == 1,
        "{errors}"
    );
}

#[test]
fn a_signal_ends_the_run_with_its_number() {
    let mut vm = Vm::start(&["--memory", "64M"]);
    vm.expect("moinho> ");
    let id = vm.child.id().to_string();
    let kill = Command::new("kill").args(["-TERM", &id]).status().unwrap();
    assert!(kill.success());
    assert_eq!(vm.finish().0, Some(128 + 15));
}

#[test]
fn statistics_are_json_on_request_and_the_hosts_memory_is_little() {
    let trace = std::env::temp_dir().join(format!("moinho-trace-{}", std::process::id()));
    let to = format!("io,irq,exit:{}", trace.display());
    let mut vm = Vm::start(&["--memory", "64M", "--stats", "--json", "--trace", &to]);
    vm.expect("moinho> ");
    vm.type_in("poweroff\n");
    let (status, screen, errors) = vm.finish();
    assert_eq!((status, errors.as_str()), (Some(0), ""));
    let json = &screen[screen.find("\n{").unwrap()..];
    let stats: serde_json::Value = serde_json::from_str(json).unwrap();
    assert!(
        stats["vcpus"][0]["instructions"].as_u64().unwrap() > 10_000,
        "{json}"
    );
    assert!(
        stats["host"]["overhead_kib"].as_u64().unwrap() < 32 * 1024,
        "{json}"
    );
    let lines = std::fs::read_to_string(&trace).unwrap();
    let _ = std::fs::remove_file(&trace);
    assert!(lines.contains(" io out1 0x3f8 = "), "the console is traced");
    assert!(lines.contains(" irq interrupt "), "so are interrupts");
}

#[test]
fn an_idle_guest_takes_no_host_processor() {
    let mut vm = Vm::start(&["--memory", "64M"]);
    vm.expect("moinho> ");
    std::thread::sleep(Duration::from_millis(500));
    let before = vm.cpu_ticks();
    std::thread::sleep(Duration::from_secs(2));
    let used = vm.cpu_ticks() - before;
    // 100 clock interrupts a second in debug builds beside other tests: 10 % is generous.
    assert!(used <= 20, "{used} ticks of 10 ms in 2 s");
    vm.type_in("poweroff\n");
    assert_eq!(vm.finish().0, Some(0));
}

#[test]
fn every_guest_program_passes() {
    let mut failures = Vec::new();
    for program in PROGRAMS.iter().filter(|p| p.kind == Kind::Pvh32) {
        let path: PathBuf =
            std::env::temp_dir().join(format!("moinho-{}-{}", program.name, std::process::id()));
        std::fs::write(&path, program.image).unwrap();
        let path = path.display().to_string();
        let vm = Vm::start(&["--memory", "64M", "--no-reboot", "--kernel", &path]);
        let (status, screen, errors) = vm.finish();
        let _ = std::fs::remove_file(&path);
        if status != Some(2 * i32::from(CODE_SUCCESS) + 1) {
            failures.push(format!("{}: {status:?}: {screen}{errors}", program.name));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Needs apt or a kernel of this host, some hundred megabytes of memory and a minute.
#[test]
#[ignore = "downloads a Debian kernel the first time; run with --ignored"]
fn a_stock_linux_runs_a_command_on_two_processors_and_switches_off() {
    let command = "echo processors: $(nproc)";
    let vm = Vm::start(&["linux", "--cpus", "2", "--no-reboot", "--", command]);
    let (status, screen, errors) = vm.finish();
    assert!(screen.contains("processors: 2"), "{screen}");
    assert!(screen.contains("exit status 0"), "{screen}");
    assert_eq!((status, errors.as_str()), (Some(0), ""));
}
