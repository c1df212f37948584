//! The reference machine: QEMU under TCG, driven through pipes and bounded in time.
#![allow(dead_code)] // each test file uses its part

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// Generous, because eight builds may share the processor; a passing test takes a second.
const PATIENCE: Duration = Duration::from_secs(60);
static SKIPPED: AtomicUsize = AtomicUsize::new(0);
static FILES: AtomicUsize = AtomicUsize::new(0);

/// A running machine.
pub struct Reference {
    child: Child,
    input: Option<ChildStdin>,
    output: Receiver<Vec<u8>>,
    /// All that was printed and not yet expected.
    pending: String,
    files: Vec<PathBuf>,
}

impl Reference {
    /// Starts QEMU with `image` as the kernel, or as the disk; `None`, with the reason printed and counted, if
    /// there is no QEMU.
    pub fn start(image: &[u8], as_disk: bool, options: &[&str]) -> Option<Reference> {
        let number = FILES.fetch_add(1, Ordering::Relaxed);
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("guest-{}-{number}", std::process::id()));
        std::fs::write(&path, image).unwrap();
        let mut command = Command::new("qemu-system-x86_64");
        command.args([
            "-accel", "tcg", "-cpu", "max", "-m", "64", "-display", "none", "-serial", "stdio",
        ]);
        command.args([
            "-monitor",
            "none",
            "-no-reboot",
            "-device",
            "isa-debug-exit,iobase=0xf4,iosize=4",
        ]);
        command.args(options);
        match as_disk {
            true => command.args(["-drive", &format!("format=raw,file={}", path.display())]),
            false => command.arg("-kernel").arg(&path),
        };
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) => {
                let count = SKIPPED.fetch_add(1, Ordering::Relaxed) + 1;
                eprintln!(
                    "skipped ({count} so far): qemu-system-x86_64 cannot be started: {error}"
                );
                return None;
            }
        };
        let (sender, output) = channel();
        let mut stdout = child.stdout.take().unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = stdout.read(&mut buffer) {
                if sender.send(buffer[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        let input = child.stdin.take();
        Some(Reference {
            child,
            input,
            output,
            pending: String::new(),
            files: vec![path],
        })
    }

    /// Types.
    pub fn send(&mut self, keys: &str) {
        let input = self.input.as_mut().unwrap();
        input.write_all(keys.as_bytes()).unwrap();
        input.flush().unwrap();
    }

    /// Waits for `text` and returns what was printed before and with it.
    pub fn expect(&mut self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.pending.find(text) {
                let rest = self.pending.split_off(at + text.len());
                return std::mem::replace(&mut self.pending, rest);
            }
            match self
                .output
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(bytes) => self.pending.push_str(&String::from_utf8_lossy(&bytes)),
                Err(reason) => panic!(
                    "`{text}` did not come ({reason}); what came: {}",
                    self.pending
                ),
            }
        }
    }

    /// Waits for the end; returns the exit status and the rest of the output.
    pub fn finish(mut self) -> (Option<i32>, String) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self
                .output
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(bytes) => self.pending.push_str(&String::from_utf8_lossy(&bytes)),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    panic!("the machine does not end; it said: {}", self.pending)
                }
            }
        }
        (
            self.child.wait().unwrap().code(),
            std::mem::take(&mut self.pending),
        )
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        for file in &self.files {
            let _ = std::fs::remove_file(file);
        }
    }
}
