//! What the board's devices are connected to: the terminal, files, disks, randomness.

use crate::config::{Config, Guest, UserError};
use backends::disk::{DiskSpec as FileSpec, Mode};
use backends::escape::{Command, HELP};
use backends::host::{HostEntropy, Stdio, open_disk};
use devices::backend::{BackendError, Disk, Entropy, Null, Stream};
use machine::board::Connections;
use machine::spec::{ClockKind, DiskMode, DiskSpec};
use machine::{End, Machine};
use std::fs::File;
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

/// The machine while it runs: what the terminal's threads tell of input and commands. They call
/// it under this lock, so that whoever takes it away knows that none of them is inside; else the
/// last of them could drop the machine, and with it the terminal, whose threads they are.
#[derive(Clone, Default)]
pub(crate) struct Running(Arc<Mutex<Option<Arc<Machine>>>>);

impl Running {
    pub(crate) fn set(&self, machine: Option<Arc<Machine>>) {
        // The old one is dropped after the lock.
        let _old = std::mem::replace(&mut *self.lock(), machine);
    }
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Arc<Machine>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn with(&self, call: impl FnOnce(&Machine)) {
        if let Some(machine) = &*self.lock() {
            call(machine);
        }
    }
}

/// Standard input and output, shared by the devices that show something there.
#[derive(Clone)]
pub(crate) struct Terminal {
    stdio: Arc<Mutex<Stdio>>,
    /// Takes input, too.
    reads: bool,
}

impl Terminal {
    fn open(running: &Running) -> Result<Terminal, UserError> {
        let (input, keys) = (running.clone(), running.clone());
        let ready = move || input.with(Machine::terminal_ready);
        let command = move |command| match command {
            Command::Quit => keys.with(|machine| machine.stop(End::Quit)),
            Command::Help => drop(std::io::stderr().write_all(HELP.as_bytes())),
        };
        let stdio = Stdio::new(ready, command)
            .map_err(|e| UserError(format!("standard input and output: {e}")))?;
        Ok(Terminal {
            stdio: Arc::new(Mutex::new(stdio)),
            reads: false,
        })
    }

    fn stdio(&self) -> std::sync::MutexGuard<'_, Stdio> {
        self.stdio.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stream for Terminal {
    fn receive(&mut self, into: &mut [u8]) -> usize {
        if self.reads {
            self.stdio().receive(into)
        } else {
            0
        }
    }
    fn send(&mut self, from: &[u8]) -> usize {
        self.stdio().send(from)
    }
    fn window(&self) -> Option<(u16, u16)> {
        self.stdio().window()
    }
}

/// Output to a file.
struct ToFile(File);

impl Stream for ToFile {
    fn receive(&mut self, _into: &mut [u8]) -> usize {
        0
    }
    fn send(&mut self, from: &[u8]) -> usize {
        // A full disk must not stop the guest.
        let _ = self.0.write_all(from);
        from.len()
    }
}

/// The same bytes in every run, for a virtual clock (SplitMix64); no secret from anybody.
struct Repeatable(u64);

impl Entropy for Repeatable {
    fn fill(&mut self, into: &mut [u8]) -> Result<(), BackendError> {
        for part in into.chunks_mut(8) {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            part.copy_from_slice(&(z ^ z >> 31).to_le_bytes()[..part.len()]);
        }
        Ok(())
    }
}

/// Connects everything; the disks are opened and locked.
pub(crate) fn connections(config: &Config, running: &Running) -> Result<Connections, UserError> {
    let disks = config.spec.disks.iter().enumerate().map(disk);
    let disks = disks.collect::<Result<_, _>>()?;
    let com2: Box<dyn Stream> = match &config.com2 {
        None => Box::new(Null),
        Some(path) => Box::new(ToFile(File::create(path).map_err(|e| {
            UserError::new(
                format_args!("--com2 {}: {e}", path.display()),
                "give a file that can be written",
            )
        })?)),
    };
    let terminal = Terminal::open(running)?;
    // Both consoles show their output; the input can go to one only.
    let hvc =
        matches!(&config.guest, Guest::Files { append, .. } if append.contains("console=hvc"));
    let end = |reads| {
        Box::new(Terminal {
            reads,
            ..terminal.clone()
        })
    };
    Ok(Connections {
        com1: end(!hvc),
        com2,
        debug: end(false),
        console: end(hvc),
        disks,
        entropy: match config.spec.clock {
            ClockKind::Host => Box::new(HostEntropy),
            ClockKind::Instructions(_) => Box::new(Repeatable(0)),
        },
        unix_time_s: SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |d| d.as_secs() as i64),
    })
}

fn disk((n, disk): (usize, &DiskSpec)) -> Result<Box<dyn Disk>, UserError> {
    let spec = FileSpec {
        file: disk.path.clone().into(),
        mode: match disk.mode {
            DiskMode::Write => Mode::Write,
            DiskMode::ReadOnly => Mode::ReadOnly,
            DiskMode::Cow => Mode::CopyOnWrite,
        },
    };
    open_disk(&spec, &format!("moinho-disk{n}"))
        .map_err(|e| UserError(crate::config::one_line(&format!("--{e}"))))
}

/// Reads `FILE`, `FILE,ro` or `FILE,cow`.
pub fn parse_disk(text: &str) -> Result<DiskSpec, UserError> {
    let spec: FileSpec = text
        .parse()
        .map_err(|e: backends::disk::DiskSpecError| UserError(format!("--{e}")))?;
    let path = spec.file.into_os_string().into_string();
    Ok(DiskSpec {
        path: path.map_err(|_| UserError(format!("--disk {text}: not UTF-8; rename the file")))?,
        mode: match spec.mode {
            Mode::Write => DiskMode::Write,
            Mode::ReadOnly => DiskMode::ReadOnly,
            Mode::CopyOnWrite => DiskMode::Cow,
        },
    })
}
