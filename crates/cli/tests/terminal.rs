//! The user's terminal is raw while a guest runs, and as it was on every way out.

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Termios, tcgetattr};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};

/// A program at a terminal of its own.
struct Session {
    /// The user's end.
    user: File,
    /// The program's end.
    line: File,
    before: Termios,
    child: Child,
}

fn start(args: &[&str]) -> Session {
    let user: OwnedFd = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&user).unwrap();
    unlockpt(&user).unwrap();
    let name = ptsname(&user, Vec::new()).unwrap().into_string().unwrap();
    let line = File::options().read(true).write(true).open(name).unwrap();
    let before = tcgetattr(&line).unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_moinho"))
        .args(["run", "--memory", "64M", "--no-reboot"])
        .args(args)
        .stdin(Stdio::from(line.try_clone().unwrap()))
        .stdout(Stdio::from(line.try_clone().unwrap()))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    Session {
        user: user.into(),
        line,
        before,
        child,
    }
}

impl Session {
    /// Reads the screen up to `text`. The program's end stays open here, so there is no end of
    /// file: a program that ends early leaves this waiting, and the test runner shows the name.
    fn expect(&mut self, text: &str) {
        let (mut seen, mut piece) = (String::new(), [0; 1024]);
        while !seen.contains(text) {
            let n = self.user.read(&mut piece).unwrap();
            seen.push_str(&String::from_utf8_lossy(&piece[..n]));
        }
    }

    fn is_raw(&self) -> bool {
        let now = tcgetattr(&self.line).unwrap();
        !now.local_modes.contains(LocalModes::ICANON)
    }

    /// The status and what is on standard error, after the terminal was compared.
    fn finish(mut self) -> (Option<i32>, String) {
        // Whatever is still written must find room.
        let mut user = self.user.try_clone().unwrap();
        std::thread::spawn(move || while user.read(&mut [0; 1024]).is_ok_and(|n| n > 0) {});
        let mut errors = String::new();
        let mut stderr = self.child.stderr.take().unwrap();
        stderr.read_to_string(&mut errors).unwrap();
        let status = self.child.wait().unwrap().code();
        let now = tcgetattr(&self.line).unwrap();
        assert_eq!(format!("{now:?}"), format!("{:?}", self.before));
        (status, errors)
    }
}

#[test]
fn the_terminal_is_restored_when_the_guest_or_the_user_ends_the_run() {
    for (typed, status) in [("poweroff\r", 0), ("\x01x", 0), ("reboot\r", 0)] {
        let mut session = start(&[]);
        session.expect("moinho> ");
        assert!(session.is_raw());
        session.user.write_all(typed.as_bytes()).unwrap();
        assert_eq!(session.finish().0, Some(status), "{typed:?}");
    }
}

#[test]
fn the_terminal_is_restored_when_a_signal_ends_the_run() {
    for (name, number) in [("-TERM", 15), ("-INT", 2), ("-HUP", 1)] {
        // A named engine is not announced.
        let mut session = start(&["--engine", "bt"]);
        session.expect("moinho> ");
        assert!(session.is_raw());
        let id = session.child.id().to_string();
        Command::new("kill").args([name, &id]).status().unwrap();
        let (status, errors) = session.finish();
        assert_eq!(status, Some(128 + number));
        assert_eq!(errors, format!("moinho: ended by signal {number}\n"));
    }
}

#[test]
fn keys_that_are_signals_elsewhere_go_to_the_guest_and_help_is_shown() {
    let mut session = start(&[]);
    session.expect("moinho> ");
    // Ctrl-C, Ctrl-Z, Ctrl-\ and Ctrl-D leave the program running.
    session.user.write_all(b"\x03\x1a\x1c\x04").unwrap();
    session.user.write_all(b"\x01?").unwrap();
    session.user.write_all(b"\recho still here\r").unwrap();
    session.expect("\nstill here");
    session.user.write_all(b"\x01x").unwrap();
    let (status, errors) = session.finish();
    assert_eq!(status, Some(0));
    assert!(errors.contains("Ctrl-A"), "{errors}");
}

#[test]
fn what_is_refused_leaves_the_terminal_alone() {
    let session = start(&["--kernel", "/nowhere/at/all"]);
    let (status, errors) = session.finish();
    assert_eq!(status, Some(2), "{errors}");
}
