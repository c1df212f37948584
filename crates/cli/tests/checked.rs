//! Whole guests under `--check-bt`: every block that the translator runs is held against the
//! interpreter. `bt::check` has the tests that the check can fail.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

mod vm;

use guests::{CODE_SKIPPED, CODE_SUCCESS, Ends, PROGRAMS};
use vm::Vm;

const CHECKED: [&str; 4] = ["--engine", "bt", "--check-bt", "--no-reboot"];

/// What `--stats --json` counted under this name, from the whole screen.
fn count(screen: &str, name: &str) -> u64 {
    let json = &screen[screen.find("\n{").expect("statistics")..];
    let stats: serde_json::Value = serde_json::from_str(json).unwrap();
    stats["engine_counts"][0][name].as_u64().unwrap_or(0)
}

#[test]
fn the_built_in_guest_runs_as_the_interpreter_says() {
    let mut args = CHECKED.to_vec();
    args.extend(["--memory", "64M", "--stats", "--json"]);
    let mut vm = Vm::start(&args);
    vm.expect("moinho> ");
    vm.type_in("echo from here to there\n");
    vm.expect("\nfrom here to there");
    vm.expect("moinho> ");
    vm.type_in("poweroff\n");
    let (status, screen, errors) = vm.finish();
    assert_eq!((status, errors.as_str()), (Some(0), ""));
    let instructions = count(&screen, "checked instructions");
    println!("{instructions} instructions checked");
    assert!(instructions > 100_000, "{screen}");
}

#[test]
fn every_guest_program_for_one_processor_runs_as_the_interpreter_says() {
    let mut failures = Vec::new();
    let mut checked = 0;
    for program in PROGRAMS.iter().filter(|p| p.cpus() == 1) {
        let file = format!("moinho-checked-{}-{}", program.name, std::process::id());
        let path = std::env::temp_dir().join(file);
        std::fs::write(&path, program.kernel).unwrap();
        let kernel = path.display().to_string();
        let mut args = CHECKED.to_vec();
        args.extend(["--memory", "64M", "--cpu-model", "x86-64-v3"]);
        args.extend(["--stats", "--json", "--kernel", &kernel]);
        let (status, screen, errors) = Vm::start(&args).finish();
        let _ = std::fs::remove_file(&path);
        let exit = |code: u8| Some(2 * i32::from(code) + 1);
        let good = match program.ends {
            Ends::Checks => status == exit(CODE_SUCCESS) || status == exit(CODE_SKIPPED),
            Ends::Shutdown => status == Some(3),
        };
        if good {
            checked += count(&screen, "checked instructions");
        } else {
            failures.push(format!("{}: {status:?} {errors}", program.name));
        }
    }
    println!("{checked} instructions checked");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(checked > 100_000);
}

/// Takes a minute and a half of a processor.
#[test]
#[ignore = "long; cargo test --release -p cli --test checked -- --ignored"]
fn stock_linux_boots_and_switches_off_as_the_interpreter_says() {
    if let Err(why) = vmm::images::linux(&vmm::images::Quiet) {
        eprintln!("skipped: {why}");
        return;
    }
    let mut args = vec!["linux"];
    args.extend(CHECKED);
    args.extend(["--memory", "256M", "--stats", "--json"]);
    let mut child = Vm::start_with(&args, |command| command.args(["--", "uname -m; true"]));
    child.hang_up();
    let (status, screen, errors) = child.finish();
    assert_eq!((status, errors.as_str()), (Some(0), ""), "{screen}");
    assert!(screen.contains("moinho.run: exit status 0"), "{screen}");
    let instructions = count(&screen, "checked instructions");
    println!("{instructions} instructions checked");
    assert!(instructions > 100_000_000);
    // Only what a device has written meanwhile.
    assert!(count(&screen, "check: done again") < 20, "{screen}");
}
