//! A panic of ours restores the user's terminal: this program starts itself at a pseudo-terminal.

use backends::host::terminal::RawMode;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::tcgetattr;
use std::fs::File;
use std::process::{Command, Stdio};

#[test]
#[ignore = "the child of the other test"]
fn child() {
    let _raw = RawMode::enter().unwrap().expect("a terminal");
    std::thread::spawn(|| panic!("deliberate"))
        .join()
        .unwrap_err();
    // As after an abort: no drop runs.
    std::process::exit(77);
}

#[test]
fn a_panic_restores_the_terminal_before_its_message() {
    let user = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&user).unwrap();
    unlockpt(&user).unwrap();
    let name = ptsname(&user, Vec::new()).unwrap().into_string().unwrap();
    let line = File::options().read(true).write(true).open(name).unwrap();
    let before = format!("{:?}", tcgetattr(&line).unwrap());
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--ignored", "--nocapture"])
        .stdin(Stdio::from(line.try_clone().unwrap()))
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(77), "{errors}");
    assert!(errors.contains("deliberate"), "{errors}");
    assert_eq!(format!("{:?}", tcgetattr(&line).unwrap()), before);
}
