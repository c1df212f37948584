//! Whole runs of the program: our own guests from power-on to their end.

mod vm;

use guests::{BEFORE_SHUTDOWN, CODE_SKIPPED, CODE_SUCCESS, Ends, PROGRAMS, Program};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;
use vm::Vm;

/// The exit status of a triple fault under `--no-reboot`.
const TRIPLE_FAULT: i32 = 3;

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
    vm.kill("-TERM");
    let (status, _, errors) = vm.finish();
    assert_eq!(status, Some(128 + 15));
    assert_eq!(errors, "moinho: ended by signal 15\n");
}

#[test]
fn statistics_are_json_on_request_and_the_hosts_memory_is_little() {
    let trace = std::env::temp_dir().join(format!("moinho-trace-{}", std::process::id()));
    let to = format!("io,irq,exit:{}", trace.display());
    // The interpreter counts instructions.
    let mut args = vec!["--memory", "64M", "--engine", "interp"];
    args.extend(["--stats", "--json", "--trace", &to]);
    let mut vm = Vm::start(&args);
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
fn the_translator_lists_its_blocks_and_counts_how_they_were_reached() {
    let count = |off: &[&str]| -> (serde_json::Value, String) {
        let list = File::new("blocks", b"");
        let path = list.path();
        let mut args = vec!["--memory", "64M", "--engine", "bt", "--stats", "--json"];
        args.extend(["--dump-bt", &path]);
        args.extend(off);
        let mut vm = Vm::start(&args);
        vm.expect("moinho> ");
        vm.type_in("poweroff\n");
        let (status, screen, errors) = vm.finish();
        assert_eq!((status, errors.as_str()), (Some(0), ""), "{off:?}");
        let stats: serde_json::Value =
            serde_json::from_str(&screen[screen.find("\n{").unwrap()..]).unwrap();
        (stats["engine_counts"][0].clone(), list.read())
    };
    let (counts, list) = count(&[]);
    let of = |counts: &serde_json::Value, name: &str| counts[name].as_u64().unwrap();
    let n = |name| of(&counts, name);
    let ways = n("reached_by_link")
        + n("reached_by_branch_table")
        + n("reached_by_table_of_blocks")
        + n("reached_by_dispatcher");
    assert_eq!(ways, n("blocks_run"), "{counts}");
    assert!(
        n("chain_rate_permille") > 500 && n("tlb_hit_permille") > 500,
        "{counts}"
    );
    for text in [
        "ring 0: ran ",
        "ring 3: ran ",
        "; sensitive: replaced",
        "; left to the interpreter",
    ] {
        assert!(list.contains(text), "{text:?} is not in the list");
    }
    let (without, _) = count(&["--bt-no", "chain,indirect"]);
    assert_eq!(of(&without, "links"), 0, "{without}");
    assert_eq!(of(&without, "reached_by_branch_table"), 0, "{without}");
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

/// The programs print each character on COM1 and on the debug port: every second one.
fn once(screen: &str) -> String {
    screen.chars().step_by(2).collect()
}

/// How a guest program ended: passed, skipped for want of a feature, or failed, and how.
#[derive(PartialEq, Debug)]
enum End {
    Passed,
    Skipped,
    Failed(String),
}

fn run_program(program: &Program, engine: &str) -> End {
    let name = format!("{}-{engine}.kernel", program.name);
    let kernel = File::new(&name, program.kernel);
    let (path, cpus) = (kernel.path(), program.cpus().to_string());
    let mut args = vec!["--memory", "64M", "--no-reboot", "--kernel", &path];
    args.extend(["--engine", engine, "--cpus", &cpus]);
    args.extend(["--cpu-model", "x86-64-v3"]);
    let (status, screen, errors) = Vm::start(&args).finish();
    let exit = |code: u8| Some(2 * i32::from(code) + 1);
    let passed = match program.ends {
        Ends::Checks => status == exit(CODE_SUCCESS),
        Ends::Shutdown => status == Some(TRIPLE_FAULT) && once(&screen).contains(BEFORE_SHUTDOWN),
    };
    if status == exit(CODE_SKIPPED) {
        eprintln!("skipped: {engine}: {}: {}", program.name, once(&screen));
        End::Skipped
    } else if passed {
        End::Passed
    } else {
        End::Failed(format!("{status:?}: {}{errors}", once(&screen)))
    }
}

/// Under the interpreter and the translator, or the engine that MOINHO_ENGINE names; all must do
/// the same.
#[test]
fn every_guest_program_passes_under_every_engine() {
    let engines = match std::env::var("MOINHO_ENGINE") {
        Ok(engine) => vec![engine],
        Err(_) => vec!["interp".into(), "bt".into()],
    };
    let only = std::env::var("MOINHO_PROGRAM").ok();
    let wanted = |program: &&Program| only.as_ref().is_none_or(|name| name == program.name);
    let (mut failures, mut skipped, mut ran) = (Vec::new(), 0, 0);
    for program in PROGRAMS.iter().filter(wanted) {
        ran += 1;
        let mut first = None;
        for engine in &engines {
            let end = run_program(program, engine);
            let name = program.name;
            skipped += u32::from(end == End::Skipped);
            if let End::Failed(how) = &end {
                failures.push(format!("{engine}: {name}: {how}"));
            }
            match &first {
                Some((other, before)) if *before != end => {
                    failures.push(format!("{name}: {other}: {before:?}, {engine}: {end:?}"));
                }
                Some(_) => {}
                None => first = Some((engine, end)),
            }
        }
    }
    let engines = engines.join(", ");
    eprintln!("{ran} programs under {engines}: {skipped} skipped for want of a feature");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(ran > 0, "no program of that name");
}

/// A multiboot kernel of a few bytes of 32-bit code, at 1 MiB + 32.
fn tiny_kernel(name: &str, code: &[u8]) -> PathBuf {
    let (magic, flags, base) = (0x1bad_b002u32, 0x1_0000u32, 0x10_0000u32);
    let end = base + 32 + code.len() as u32;
    let checksum = 0u32.wrapping_sub(magic).wrapping_sub(flags);
    let mut image = Vec::new();
    for field in [magic, flags, checksum, base, base, end, end, base + 32] {
        image.extend(field.to_le_bytes());
    }
    image.extend(code);
    image.resize(4096, 0);
    let path = std::env::temp_dir().join(format!("moinho-{name}-{}", std::process::id()));
    std::fs::write(&path, image).unwrap();
    path
}

fn run_tiny(name: &str, code: &[u8], more: &[&str]) -> (Option<i32>, String) {
    let kernel = tiny_kernel(name, code);
    let path = kernel.display().to_string();
    let mut args = vec!["--memory", "16M", "--kernel", &path];
    args.extend(more);
    let (status, _, errors) = Vm::start(&args).finish();
    let _ = std::fs::remove_file(kernel);
    (status, errors)
}

#[test]
fn the_exit_port_gives_its_status() {
    // mov al, 5; out 0xf4, al
    assert_eq!(
        run_tiny("exit", &[0xb0, 5, 0xe6, 0xf4], &[]),
        (Some(11), String::new())
    );
}

#[test]
fn a_triple_fault_ends_the_run_with_its_place_when_not_to_be_rebooted() {
    // An interrupt without an IDT: int3
    let (status, errors) = run_tiny("triple", &[0xcc], &["--no-reboot"]);
    assert_eq!(status, Some(3), "{errors}");
    assert!(
        errors.contains("triple fault") && errors.contains("RIP 0x100020"),
        "{errors}"
    );
    assert_eq!(errors.lines().count(), 1, "{errors}");
}

#[test]
fn a_reset_by_triple_fault_starts_the_kernel_afresh() {
    // The first time the CMOS byte 0x40, which survives a reset, is 0: it is set, then a triple
    // fault; the second time the run ends with it.
    let code = [
        0xb0, 0x40, 0xe6, 0x70, // mov al, 0x40; out 0x70, al
        0xe4, 0x71, // in al, 0x71
        0x84, 0xc0, // test al, al
        0x75, 0x05, // jnz end
        0xb0, 0x07, 0xe6, 0x71, // mov al, 7; out 0x71, al
        0xcc, // int3
        0xe6, 0xf4, // end: out 0xf4, al
    ];
    let (status, errors) = run_tiny("again", &code, &[]);
    assert_eq!(status, Some(15), "{errors}");
    assert!(errors.contains("the machine is reset"), "{errors}");
}

/// A file of this test's own, gone at its end.
struct File(PathBuf);

impl File {
    fn new(name: &str, bytes: &[u8]) -> File {
        let path = std::env::temp_dir().join(format!("moinho-{name}-{}", std::process::id()));
        std::fs::write(&path, bytes).unwrap();
        File(path)
    }
    fn path(&self) -> String {
        self.0.display().to_string()
    }
    fn read(&self) -> String {
        std::fs::read_to_string(&self.0).unwrap()
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn a_multiboot_kernel_finds_its_command_line_and_module_and_exits() {
    // 1 MiB + 32, entered as the Multiboot Specification 0.6.96 says: EAX the magic number, EBX
    // the information.
    let code = [
        0x3d, 0x02, 0xb0, 0xad, 0x2b, // cmp eax, 0x2badb002
        0x75, 0x1f, // jne failed
        0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
        0x8b, 0x73, 0x10, // mov esi, [ebx + 16]: the command line
        0xac, // next: lodsb
        0x84, 0xc0, // test al, al
        0x74, 0x03, // jz done
        0xee, // out dx, al
        0xeb, 0xf8, // jmp next
        0x8b, 0x7b, 0x18, // done: mov edi, [ebx + 24]: the modules
        0x8b, 0x37, // mov esi, [edi]
        0x8b, 0x4f, 0x04, // mov ecx, [edi + 4]
        0x29, 0xf1, // sub ecx, esi
        0xf3, 0x6e, // rep outsb
        0xb0, 0x10, // mov al, 16
        0xe6, 0xf4, // out 0xf4, al
        0xb0, 0x01, // failed: mov al, 1
        0xe6, 0xf4, // out 0xf4, al
    ];
    let kernel = tiny_kernel("multiboot", &code);
    let path = kernel.display().to_string();
    let module = File::new("module", b"a module's text");
    let name = module.path();
    let mut args = vec!["--memory", "16M", "--kernel", &path, "--initrd", &name];
    args.extend(["--append", "color=green"]);
    let (status, screen, errors) = Vm::start(&args).finish();
    let _ = std::fs::remove_file(&kernel);
    assert_eq!((status, errors.as_str()), (Some(33), ""), "{screen}");
    assert!(screen.contains("color=green"), "{screen}");
    assert!(screen.ends_with("a module's text"), "{screen}");
}

#[test]
fn the_instruction_trace_shows_instructions_with_the_registers_they_change() {
    let trace = File::new("insn", b"");
    let to = format!("insn:{}", trace.path());
    let (status, errors) = run_tiny(
        "traced",
        &[0xb0, 5, 0xe6, 0xf4],
        &["--engine", "interp", "--trace", &to],
    );
    assert_eq!((status, errors.as_str()), (Some(11), ""));
    let text = trace.read();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(
        lines[0].contains("mov al,5") && lines[0].contains("rax"),
        "{text}"
    );
    assert!(lines[1].contains("out 0F4h,al"), "{text}");
}

#[test]
fn every_kind_of_event_can_be_traced_to_standard_error_or_a_file() {
    let trace = File::new("all", b"");
    let to = format!("all:{}", trace.path());
    let args = ["--memory", "64M", "--engine", "interp", "--trace", &to];
    let mut vm = Vm::start(&args);
    vm.expect("moinho> ");
    vm.type_in("fault\n");
    vm.expect("moinho> ");
    vm.type_in("poweroff\n");
    let (status, _, errors) = vm.finish();
    assert_eq!((status, errors.as_str()), (Some(0), ""));
    let text = trace.read();
    for kind in [
        " io ", " mmio ", " irq ", " timer ", " fault ", " exit ", " msr ",
    ] {
        assert!(text.contains(kind), "no{kind}event");
    }
    let (status, errors) = run_tiny("stderr", &[0xb0, 5, 0xe6, 0xf4], &["--trace", "io"]);
    assert_eq!(status, Some(11));
    assert!(errors.contains(" io out1 0xf4 = 0x5"), "{errors}");
}

#[test]
fn the_statistics_for_people_name_what_a_run_has_cost() {
    let (status, errors) = run_tiny("cost", &[0xb0, 5, 0xe6, 0xf4], &["--stats"]);
    assert_eq!(status, Some(11));
    for word in [
        "engine ",
        "time ",
        "MIPS",
        "host memory ",
        "cpu0 ",
        "instructions",
        "debug ",
    ] {
        assert!(errors.contains(word), "{errors:?} lacks {word:?}");
    }
}

#[test]
fn two_machines_run_at_once_and_do_not_share_a_disk_for_writing() {
    let disk = File::new("shared", &[0; 1 << 16]);
    let path = disk.path();
    let mut first = Vm::start(&["--memory", "64M", "--disk", &path]);
    let mut second = Vm::start(&["--memory", "64M", "--cpus", "2"]);
    first.expect("moinho> ");
    second.expect("moinho> ");
    let (status, screen, errors) = Vm::start(&["--memory", "64M", "--disk", &path]).finish();
    assert_eq!((status, screen.as_str()), (Some(2), ""));
    assert!(
        errors.contains(&path) && errors.lines().count() == 1,
        "{errors}"
    );
    second.type_in("echo the second\n");
    second.expect("\nthe second");
    first.type_in("echo the first\n");
    first.expect("\nthe first");
    for mut vm in [first, second] {
        vm.type_in("poweroff\n");
        assert_eq!(vm.finish().0, Some(0));
    }
}

#[test]
fn eight_processors_and_a_reset_stay_within_the_hosts_memory() {
    let mut args = vec!["--memory", "64M", "--cpus", "8", "--engine", "interp"];
    args.extend(["--stats", "--json"]);
    let mut vm = Vm::start(&args);
    vm.expect("moinho> ");
    vm.type_in("reboot\n");
    vm.expect("moinho> ");
    vm.type_in("poweroff\n");
    let (status, screen, errors) = vm.finish();
    assert_eq!((status, errors.as_str()), (Some(0), ""));
    let stats: serde_json::Value =
        serde_json::from_str(&screen[screen.rfind("\n{\n").unwrap()..]).unwrap();
    assert_eq!(stats["resets"], 1);
    assert_eq!(stats["vcpus"].as_array().unwrap().len(), 8);
    let overhead = stats["host"]["overhead_kib"].as_u64().unwrap();
    assert!(overhead < 32 << 10, "{overhead} KiB");
}

#[test]
fn a_reader_of_the_output_that_goes_away_is_no_failure() {
    // The screen, then standard error with a trace on it, then the statistics at the end.
    for args in [
        &["--memory", "64M", "--stats", "--json"][..],
        &["--memory", "64M", "--stats", "--trace", "io"],
    ] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_moinho"))
            .arg("run")
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        drop(child.stderr.take());
        let mut keyboard = child.stdin.take().unwrap();
        std::io::Write::write_all(&mut keyboard, b"poweroff\n").unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0), "{args:?}");
    }
    let mut child = Command::new(env!("CARGO_BIN_EXE_moinho"))
        .arg("cpu-models")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_closed_input_leaves_the_guest_running_and_nothing_is_left_behind() {
    let folder = std::env::temp_dir().join(format!("moinho-nothing-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    for signal in ["-TERM", "-INT", "-HUP"] {
        let disk = File::new("behind", &[0; 1 << 16]);
        let cow = format!("{},cow", disk.path());
        let mut vm = Vm::start_with(&["--memory", "64M", "--disk", &cow], |command| {
            command
                .env("TMPDIR", &folder)
                .env("XDG_CACHE_HOME", &folder)
        });
        vm.hang_up();
        vm.expect("moinho> ");
        vm.kill(signal);
        let (status, _, errors) = vm.finish();
        let number = ["-HUP", "-INT", "-TERM"].iter().position(|s| *s == signal);
        let number = [1, 2, 15][number.unwrap()];
        assert_eq!(status, Some(128 + number));
        assert_eq!(errors, format!("moinho: ended by signal {number}\n"));
    }
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
    std::fs::remove_dir(&folder).unwrap();
}
