//! Standard input and output as a [`Stream`].
//!
//! A thread reads the input into a bounded queue and pauses while that is full: what is pasted
//! or piped waits in the kernel and is never lost. At the end of the input the guest just gets
//! no more. Another thread writes the output from a bounded queue, so that a stalled reader
//! holds up the guest's output but not its processors; if the output is gone (a closed pipe),
//! the rest is swallowed.
//!
//! If the input is a terminal, [`Escape`] commands are taken out; from anything else all bytes
//! go to the guest.

use crate::escape::{CTRL_A, Command, Escape, Escaped};
use devices::backend::Stream;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Bytes that wait for the guest, or for the output.
const QUEUE: usize = 64 << 10;
const PIECE: usize = 4096;

#[derive(Default)]
struct Queues {
    /// Typed, not yet taken by the guest.
    input: VecDeque<u8>,
    /// Written by the guest, not yet by us.
    output: VecDeque<u8>,
    /// Taken from `output` and being written.
    writing: usize,
    /// The guest was refused bytes and is to be told of room.
    refused: bool,
    /// The output is gone.
    broken: bool,
    stop: bool,
}

struct Shared {
    queues: Mutex<Queues>,
    /// Something has changed in either queue.
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn wait<'a>(&self, guard: MutexGuard<'a, Queues>) -> MutexGuard<'a, Queues> {
        self.changed
            .wait(guard)
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Standard input and output, or two other files. Dropping it writes what is left, for at most
/// a second, and ends both threads.
pub struct Stdio {
    shared: Arc<Shared>,
    stop: OwnedFd,
    output: OwnedFd,
    threads: Vec<JoinHandle<()>>,
}

impl Stdio {
    /// Takes standard input and output. `ready` is called from a thread of ours when there is
    /// input, or room for output: it makes the machine call the device's completion. `command`
    /// is called when the user types an escape.
    pub fn new(
        ready: impl Fn() + Send + Sync + 'static,
        command: impl Fn(Command) + Send + 'static,
    ) -> std::io::Result<Stdio> {
        let input = rustix::stdio::stdin().try_clone_to_owned()?;
        let output = rustix::stdio::stdout().try_clone_to_owned()?;
        let escapes = rustix::termios::isatty(&input);
        Stdio::over(input, output, escapes, ready, command)
    }

    /// The same for any two files; `escapes` says whether Ctrl-A is special.
    pub fn over(
        input: OwnedFd,
        output: OwnedFd,
        escapes: bool,
        ready: impl Fn() + Send + Sync + 'static,
        command: impl Fn(Command) + Send + 'static,
    ) -> std::io::Result<Stdio> {
        let shared = Arc::new(Shared {
            queues: Mutex::new(Queues::default()),
            changed: Condvar::new(),
        });
        let stop = eventfd(0, EventfdFlags::CLOEXEC)?;
        let mut stdio = Stdio {
            shared: shared.clone(),
            stop: stop.try_clone()?,
            output: output.try_clone()?,
            threads: Vec::new(),
        };
        let ready = Arc::new(ready);
        let reader = Reader {
            shared: shared.clone(),
            input,
            stop,
            escape: escapes.then(Escape::default),
        };
        let told = ready.clone();
        let spawn = |name: &str, f: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new().name(name.into()).spawn(f)
        };
        stdio.threads.push(spawn(
            "stdin",
            Box::new(move || reader.run(&*told, &command)),
        )?);
        stdio.threads.push(spawn(
            "stdout",
            Box::new(move || write_out(&shared, &output, &*ready)),
        )?);
        Ok(stdio)
    }

    /// Waits until the output is written, at most `limit`. True if it is.
    pub fn drain(&self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        let mut q = self.shared.lock();
        while !q.broken && (!q.output.is_empty() || q.writing != 0) {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            q = self
                .shared
                .changed
                .wait_timeout(q, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        true
    }
}

struct Reader {
    shared: Arc<Shared>,
    input: OwnedFd,
    stop: OwnedFd,
    escape: Option<Escape>,
}

impl Reader {
    fn run(mut self, ready: &dyn Fn(), command: &dyn Fn(Command)) {
        let mut piece = [0; PIECE];
        loop {
            // While the guest is behind, nothing is read: but the user can still not type an
            // escape then, as the kernel holds it behind the rest.
            let mut q = self.shared.lock();
            while q.input.len() >= QUEUE && !q.stop {
                q = self.shared.wait(q);
            }
            if q.stop {
                return;
            }
            drop(q);
            let mut fds = [
                PollFd::new(&self.input, PollFlags::IN),
                PollFd::new(&self.stop, PollFlags::IN),
            ];
            match poll(&mut fds, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => return,
            }
            if !fds[1].revents().is_empty() {
                return;
            }
            if fds[0].revents().is_empty() {
                continue;
            }
            match rustix::io::read(&self.input, &mut piece) {
                Ok(0) => return,
                Ok(n) => self.take(&piece[..n], ready, command),
                Err(Errno::INTR | Errno::AGAIN) => {}
                // A hang-up, or no input at all: the same as its end.
                Err(_) => return,
            }
        }
    }

    fn take(&mut self, bytes: &[u8], ready: &dyn Fn(), command: &dyn Fn(Command)) {
        let mut commands = Vec::new();
        let mut q = self.shared.lock();
        let before = q.input.len();
        match &mut self.escape {
            None => q.input.extend(bytes),
            Some(escape) => {
                for &byte in bytes {
                    match escape.feed(byte) {
                        Escaped::Held => {}
                        Escaped::Byte(b) => q.input.push_back(b),
                        Escaped::Both(b) => q.input.extend([CTRL_A, b]),
                        Escaped::Command(c) => commands.push(c),
                    }
                }
            }
        }
        let more = q.input.len() > before;
        drop(q);
        if more {
            ready();
        }
        commands.into_iter().for_each(command);
    }
}

fn write_out(shared: &Shared, output: &OwnedFd, ready: &dyn Fn()) {
    let mut piece = Vec::with_capacity(PIECE);
    loop {
        let mut q = shared.lock();
        while q.output.is_empty() && !q.stop {
            q = shared.wait(q);
        }
        if q.output.is_empty() || q.broken {
            return;
        }
        let n = q.output.len().min(PIECE);
        piece.clear();
        piece.extend(q.output.drain(..n));
        q.writing = n;
        let tell = core::mem::take(&mut q.refused);
        drop(q);
        if tell {
            ready();
        }
        let whole = write_all(output, &piece);
        let mut q = shared.lock();
        q.writing = 0;
        if !whole {
            q.broken = true;
            q.output.clear();
        }
        drop(q);
        shared.changed.notify_all();
    }
}

fn write_all(output: &OwnedFd, mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        match rustix::io::write(output, bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                // Somebody has made the file non-blocking (it is shared with other programs).
                let _ = poll(&mut [PollFd::new(output, PollFlags::OUT)], None);
            }
            Err(_) => return false,
        }
    }
    true
}

impl Stream for Stdio {
    fn receive(&mut self, into: &mut [u8]) -> usize {
        let mut q = self.shared.lock();
        let was_full = q.input.len() >= QUEUE;
        let n = into.len().min(q.input.len());
        for (to, from) in into.iter_mut().zip(q.input.drain(..n)) {
            *to = from;
        }
        let woken = was_full && q.input.len() < QUEUE;
        drop(q);
        if woken {
            self.shared.changed.notify_all();
        }
        n
    }

    fn send(&mut self, from: &[u8]) -> usize {
        let mut q = self.shared.lock();
        if q.broken {
            return from.len();
        }
        let n = from.len().min(QUEUE - q.output.len().min(QUEUE));
        // The writer sleeps only while there is nothing.
        let asleep = q.output.is_empty();
        q.output.extend(&from[..n]);
        q.refused |= n < from.len();
        drop(q);
        if asleep {
            self.shared.changed.notify_all();
        }
        n
    }

    fn window(&self) -> Option<(u16, u16)> {
        let size = rustix::termios::tcgetwinsize(self.output.as_fd()).ok()?;
        (size.ws_col != 0).then_some((size.ws_col, size.ws_row))
    }
}

impl Drop for Stdio {
    fn drop(&mut self) {
        let drained = self.drain(Duration::from_secs(1));
        self.shared.lock().stop = true;
        self.shared.changed.notify_all();
        let _ = rustix::io::write(&self.stop, &1u64.to_ne_bytes());
        let writer = self.threads.pop();
        if let Some(reader) = self.threads.pop() {
            let _ = reader.join();
        }
        // A writer that is stuck in its file is left behind.
        if let (true, Some(writer)) = (drained, writer) {
            let _ = writer.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
    use std::sync::mpsc::{Receiver, channel};

    struct Bench {
        stdio: Stdio,
        keyboard: PipeWriter,
        screen: PipeReader,
        ready: Receiver<()>,
        commands: Receiver<Command>,
    }

    fn bench(escapes: bool) -> Bench {
        let (input, keyboard) = pipe().unwrap();
        let (screen, output) = pipe().unwrap();
        let (told, ready) = channel();
        let (commanded, commands) = channel();
        let told = Mutex::new(told);
        let stdio = Stdio::over(
            input.into(),
            output.into(),
            escapes,
            move || {
                let _ = told.lock().unwrap().send(());
            },
            move |c| {
                let _ = commanded.send(c);
            },
        );
        Bench {
            stdio: stdio.unwrap(),
            keyboard,
            screen,
            ready,
            commands,
        }
    }

    #[test]
    fn a_long_paste_arrives_whole_at_a_slow_guest() {
        let mut b = bench(false);
        let text: Vec<u8> = (0..500_000u32).map(|i| (i / 7) as u8).collect();
        let (sent, mut keyboard) = (text.clone(), b.keyboard);
        let typist = std::thread::spawn(move || keyboard.write_all(&sent).unwrap());
        let (mut got, mut piece) = (Vec::<u8>::new(), [0; 16]);
        while got.len() < text.len() {
            match b.stdio.receive(&mut piece) {
                0 => b.ready.recv().unwrap(),
                n => got.extend(&piece[..n]),
            }
        }
        typist.join().unwrap();
        assert!(got == text);
    }

    #[test]
    fn output_that_nobody_reads_is_refused_and_room_is_told() {
        let mut b = bench(false);
        let text: Vec<u8> = (0..1_000_000u32).map(|i| (i / 7) as u8).collect();
        let mut done = b.stdio.send(&text);
        assert!(done <= QUEUE + (1 << 20) && done < text.len(), "{done}");
        let mut screen = b.screen;
        let expected = text.clone();
        let reader = std::thread::spawn(move || {
            let mut got = vec![0; expected.len()];
            screen.read_exact(&mut got).unwrap();
            assert!(got == expected);
        });
        while done < text.len() {
            b.ready.recv().unwrap();
            done += b.stdio.send(&text[done..]);
        }
        assert!(b.stdio.drain(Duration::from_secs(60)));
        reader.join().unwrap();
    }

    #[test]
    fn escapes_are_commands_on_a_terminal_and_bytes_in_a_pipe() {
        let mut piece = [0; 16];
        let mut b = bench(true);
        b.keyboard.write_all(b"a\x01?b\x01x").unwrap();
        assert_eq!(b.commands.recv(), Ok(Command::Help));
        assert_eq!(b.commands.recv(), Ok(Command::Quit));
        assert_eq!(b.stdio.receive(&mut piece), 2);
        assert_eq!(&piece[..2], b"ab");
        let mut b = bench(false);
        b.keyboard.write_all(b"\x01x").unwrap();
        b.ready.recv().unwrap();
        assert_eq!(b.stdio.receive(&mut piece), 2);
        assert!(b.commands.try_recv().is_err());
    }

    #[test]
    fn the_end_of_the_input_and_a_closed_output_leave_the_guest_running() {
        let mut b = bench(false);
        drop(b.keyboard);
        drop(b.screen);
        assert_eq!(b.stdio.receive(&mut [0; 4]), 0);
        // The first bytes find out, the rest are swallowed.
        b.stdio.send(b"hello");
        assert!(b.stdio.drain(Duration::from_secs(60)));
        for _ in 0..100 {
            assert_eq!(b.stdio.send(&[0; 4096]), 4096);
        }
    }
}
