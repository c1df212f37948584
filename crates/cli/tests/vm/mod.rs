//! `moinho run` in a child process with a typist at its keyboard and a reader at its screen.
// Each test program uses its part.
#![allow(dead_code)]

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// A run that takes longer has hung.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A VM that runs.
pub struct Vm {
    /// The program.
    pub child: Child,
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
    /// Starts `moinho run ARGS`.
    pub fn start(args: &[&str]) -> Vm {
        Vm::start_with(args, |command| command)
    }

    /// The same, with more said about the child.
    pub fn start_with(args: &[&str], more: impl FnOnce(&mut Command) -> &mut Command) -> Vm {
        let mut command = Command::new(env!("CARGO_BIN_EXE_moinho"));
        let mut child = more(command.arg("run").args(args))
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
    pub fn expect(&mut self, text: &str) {
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

    /// Closes the program's standard input.
    pub fn hang_up(&mut self) {
        self.keyboard = None;
    }

    /// Sends it a signal.
    pub fn kill(&self, signal: &str) {
        let id = self.child.id().to_string();
        let killed = Command::new("kill").args([signal, &id]).status().unwrap();
        assert!(killed.success());
    }

    /// Types.
    pub fn type_in(&mut self, text: &str) {
        let keyboard = self.keyboard.as_mut().unwrap();
        keyboard.write_all(text.as_bytes()).unwrap();
    }

    /// Everything on standard error, to its end, but the first line that says which engine was
    /// chosen: that is the host's (`engines.rs` tests it).
    pub fn errors(&mut self) -> String {
        let mut text = String::new();
        if let Some(mut stderr) = self.child.stderr.take() {
            let _ = stderr.read_to_string(&mut text);
        }
        match text.split_once('\n') {
            Some((first, rest)) if first.starts_with("moinho: engine ") => rest.into(),
            _ => text,
        }
    }

    /// Waits for the end: the status, what was on the screen since, the errors.
    pub fn finish(mut self) -> (Option<i32>, String, String) {
        let errors = self.errors();
        let status = self.child.wait().unwrap().code();
        while let Ok(piece) = self.screen.recv_timeout(PATIENCE) {
            self.seen.push_str(&String::from_utf8_lossy(&piece));
        }
        (status, std::mem::take(&mut self.seen), errors)
    }

    /// Processor time of the program so far, in ticks of 10 ms.
    pub fn cpu_ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let (_, rest) = stat.rsplit_once(')').unwrap();
        let fields: Vec<&str> = rest.split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }
}
