//! What the board's devices are connected to: the terminal, files, disks, randomness.

use crate::config::{Config, UserError};
use devices::backend::{BackendError, Disk, Entropy, Null, Stream};
use machine::board::Connections;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

/// Input on its way from the terminal to the guest.
#[derive(Clone, Default)]
pub(crate) struct Input(Arc<Mutex<VecDeque<u8>>>);

impl Input {
    /// Appends what was typed.
    pub(crate) fn push(&self, bytes: &[u8]) {
        let mut queue = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        queue.extend(bytes);
    }
}

/// Standard input and output.
struct Terminal {
    input: Input,
}

impl Stream for Terminal {
    fn receive(&mut self, into: &mut [u8]) -> usize {
        let mut queue = self.input.0.lock().unwrap_or_else(PoisonError::into_inner);
        let n = into.len().min(queue.len());
        for (to, from) in into.iter_mut().zip(queue.drain(..n)) {
            *to = from;
        }
        n
    }
    fn send(&mut self, from: &[u8]) -> usize {
        let mut out = std::io::stdout().lock();
        // A reader that has gone away gets nothing more; the guest does not care.
        let _ = out.write_all(from).and_then(|()| out.flush());
        from.len()
    }
}

/// Output to a file.
struct ToFile(File);

impl Stream for ToFile {
    fn receive(&mut self, _into: &mut [u8]) -> usize {
        0
    }
    fn send(&mut self, from: &[u8]) -> usize {
        let _ = self.0.write_all(from);
        from.len()
    }
}

/// The host's random device.
struct HostEntropy(File);

impl Entropy for HostEntropy {
    fn fill(&mut self, into: &mut [u8]) -> Result<(), BackendError> {
        self.0
            .read_exact(into)
            .map_err(|e| BackendError(format!("/dev/urandom: {e}")))
    }
}

/// Connects everything; the disks are opened.
pub(crate) fn connections(config: &Config, input: &Input) -> Result<Connections, UserError> {
    let com2: Box<dyn Stream> = match &config.com2 {
        None => Box::new(Null),
        Some(path) => Box::new(ToFile(File::create(path).map_err(|e| {
            UserError::new(
                format_args!("--com2 {}: {e}", path.display()),
                "give a file that can be written",
            )
        })?)),
    };
    let random = File::open("/dev/urandom")
        .map_err(|e| UserError::new(format_args!("/dev/urandom: {e}"), "the host must have it"))?;
    let disks = config.spec.disks.iter().map(open_disk);
    Ok(Connections {
        com1: Box::new(Terminal {
            input: input.clone(),
        }),
        com2,
        debug: Box::new(Terminal {
            input: Input::default(),
        }),
        console: Box::new(Null),
        disks: disks.collect::<Result<_, _>>()?,
        entropy: Box::new(HostEntropy(random)),
        unix_time_s: SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |d| d.as_secs() as i64),
    })
}

fn open_disk(disk: &machine::spec::DiskSpec) -> Result<Box<dyn Disk>, UserError> {
    Err(UserError::new(
        format_args!("--disk {}: disks are not in this build yet", disk.path),
        "leave it out",
    ))
}
