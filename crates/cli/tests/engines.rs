//! The choice of the engine, from the outside: on this host's `/dev/kvm`, without one, and with
//! one that may not be opened. What cannot be arranged here says so and is skipped.

use guests::{CODE_SUCCESS, PROGRAMS};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const NOBODY: u32 = 65534;

/// A guest of a few thousand instructions that ends by itself, the program, and a folder for both
/// that every user can reach.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Place {
        let folder = std::env::temp_dir().join(format!("moinho-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let guest = PROGRAMS.iter().find(|p| p.name == "sample_pvh32").unwrap();
        std::fs::write(folder.join("guest"), guest.kernel).unwrap();
        // The build's folder may be closed to others.
        std::fs::copy(env!("CARGO_BIN_EXE_moinho"), folder.join("moinho")).unwrap();
        Place(folder)
    }

    /// `wrapper` (nothing, or a program and its first arguments), then `moinho ARGS`.
    fn command(&self, wrapper: &[&str], args: &[&str]) -> Command {
        let moinho = self.0.join("moinho");
        let mut command = match wrapper {
            [] => Command::new(moinho),
            [program, rest @ ..] => {
                let mut command = Command::new(program);
                command.args(rest).arg(moinho);
                command
            }
        };
        command.args(args);
        command
    }

    /// Runs the guest with these arguments more.
    fn run(&self, wrapper: &[&str], args: &[&str]) -> Output {
        let guest = self.0.join("guest").display().to_string();
        let mut all = vec!["run", "--memory", "64M", "--kernel", &guest, "--no-reboot"];
        all.extend(args);
        self.command(wrapper, &all).output().unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The run has ended well under `bt`, and says `why` on standard error and in its statistics.
fn chose_bt(output: &Output, why: &str) {
    let errors = errors(output);
    let success = 2 * i32::from(CODE_SUCCESS) + 1;
    assert_eq!(output.status.code(), Some(success), "{errors}");
    let said = errors
        .lines()
        .find(|l| l.starts_with("moinho: engine bt: "));
    let counted = errors.lines().find(|l| l.starts_with("engine        bt ("));
    for line in [said, counted] {
        let line = line.unwrap_or_else(|| panic!("no choice in {errors:?}"));
        assert!(line.contains(why), "{line:?} lacks {why:?}");
    }
}

/// What this host's `/dev/kvm` is, as `moinho engines` says.
fn kvm() -> serde_json::Value {
    let output = Command::new(env!("CARGO_BIN_EXE_moinho"))
        .args(["engines", "--json"])
        .output()
        .unwrap();
    let table: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let engines = table.as_array().unwrap();
    engines
        .iter()
        .find(|e| e["engine"] == "kvm")
        .unwrap()
        .clone()
}

#[test]
fn auto_takes_a_real_kvm_and_else_the_translator_and_says_why() {
    let place = Place::new("auto");
    let kvm = kvm();
    let output = place.run(&[], &["--stats"]);
    if kvm["usable"] == true {
        let errors = errors(&output);
        assert!(errors.contains("moinho: engine kvm: measured"), "{errors}");
    } else {
        let problem = kvm["problem"].as_str().unwrap();
        // Figures differ from one measurement to the next.
        let why = problem.split(':').next().unwrap();
        chose_bt(&output, why);
    }
}

#[test]
fn without_dev_kvm_auto_takes_the_translator_and_kvm_is_refused_with_the_way_out() {
    let place = Place::new("absent");
    // A namespace of mounts of its own, in which /dev is empty.
    let script = "mount -t tmpfs none /dev && exec \"$0\" \"$@\"";
    let empty = ["unshare", "--map-root-user", "--mount", "sh", "-c", script];
    let probe = Command::new(empty[0])
        .args(&empty[1..])
        .arg("true")
        .output();
    if !probe.is_ok_and(|o| o.status.success()) {
        eprintln!("skipped: unshare cannot make a namespace here");
        return;
    }
    chose_bt(&place.run(&empty, &["--stats"]), "there is no /dev/kvm");
    let output = place.run(&empty, &["--engine", "kvm"]);
    let errors = errors(&output);
    assert_eq!(output.status.code(), Some(2), "{errors}");
    assert!(errors.starts_with("moinho: --engine kvm: there is no /dev/kvm; load the module"));
}

#[test]
fn without_permission_auto_takes_the_translator_and_kvm_is_refused_with_the_way_out() {
    let place = Place::new("forbidden");
    let as_nobody = |args: &[&str]| {
        let guest = place.0.join("guest").display().to_string();
        let mut all = vec!["run", "--memory", "64M", "--kernel", &guest, "--no-reboot"];
        all.extend(args);
        place.command(&[], &all).uid(NOBODY).gid(NOBODY).output()
    };
    let nobody_may = || {
        let mut shell = Command::new("sh");
        shell
            .args(["-c", "exec 3<>/dev/kvm"])
            .uid(NOBODY)
            .gid(NOBODY);
        shell.output().map(|o| o.status.success())
    };
    match nobody_may() {
        Ok(false) if Path::new("/dev/kvm").exists() => {}
        Ok(false) => return eprintln!("skipped: there is no /dev/kvm here"),
        Ok(true) => return eprintln!("skipped: everybody may open /dev/kvm here"),
        Err(why) => return eprintln!("skipped: cannot become another user: {why}"),
    }
    let why = "no permission to open /dev/kvm";
    chose_bt(&as_nobody(&["--stats"]).unwrap(), why);
    let output = as_nobody(&["--engine", "kvm"]).unwrap();
    let errors = errors(&output);
    assert_eq!(output.status.code(), Some(2), "{errors}");
    let wanted = format!("moinho: --engine kvm: {why}; join the group kvm");
    assert!(errors.starts_with(&wanted), "{errors}");
}

#[test]
fn a_trap_is_refused_by_name_and_runs_a_small_guest_by_force() {
    let kvm = kvm();
    let problem = kvm["problem"].as_str().unwrap_or_default();
    if !problem.contains("emulates ring 0") {
        return eprintln!("skipped: /dev/kvm is real here, or none: {problem}");
    }
    let place = Place::new("trap");
    let output = place.run(&[], &["--engine", "kvm"]);
    let refused = errors(&output);
    assert_eq!(output.status.code(), Some(2), "{refused}");
    assert!(
        refused.contains("emulates ring 0") && refused.contains("--force"),
        "{refused}"
    );
    let output = place.run(&[], &["--engine", "kvm", "--force", "--stats"]);
    let stats = errors(&output);
    let success = 2 * i32::from(CODE_SUCCESS) + 1;
    assert_eq!(output.status.code(), Some(success), "{stats}");
    // By reason, by device, and the time on either side.
    for word in ["exits: port: ", "com1 ", "debug ", "s in the guest, "] {
        assert!(stats.contains(word), "{word:?} is not in {stats}");
    }
    let kib = stats
        .split(" KiB of it beside")
        .next()
        .and_then(|s| s.rsplit(' ').next());
    let kib: u64 = kib.unwrap().parse().unwrap();
    assert!(kib <= 16 << 10, "{kib} KiB beside guest RAM");
}
