//! A console (virtio 1.2, "Console Device") on a [`Stream`]: one port, its window size, the
//! emergency write. Several ports (MULTIPORT) are not offered.
//!
//! Input is taken from the stream only when the guest has a buffer for it, output is given back
//! to the guest only when the stream has taken it all: neither side loses bytes.

use super::{Broken, DeviceIo, RingError, VirtioDevice, config_bytes};
use crate::backend::Stream;
use crate::{Inspector, LoadError, load_state, save_state};
use alloc::boxed::Box;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

const F_SIZE: u64 = 1;
const F_EMERG_WRITE: u64 = 1 << 2;
const EMERG_WR: u64 = 8;
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
const QUEUE_SIZE: u16 = 64;
/// Bytes moved at once.
const PIECE: usize = 4096;

/// A virtio console.
pub struct Console {
    stream: Box<dyn Stream>,
    state: State,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct State {
    /// Columns and rows, as last told to the driver.
    window: (u16, u16),
    /// Bytes of the chain at the head of the transmit queue that the stream has taken.
    sent: u64,
}

impl Console {
    /// A console whose other end is `stream`.
    pub fn new(stream: Box<dyn Stream>) -> Console {
        let state = State {
            window: stream.window().unwrap_or((0, 0)),
            sent: 0,
        };
        Console { stream, state }
    }

    fn receive(&mut self, io: &mut DeviceIo<'_>) -> Result<(), RingError> {
        let q = &mut io.queues[RECEIVE];
        for _ in 0..QUEUE_SIZE {
            let Some(chain) = q.pop(io.memory)? else {
                return Ok(());
            };
            let room = chain.writable_len().min(PIECE as u64) as usize;
            if room == 0 {
                return Err(chain.malformed("has no room for input"));
            }
            let mut piece = [0; PIECE];
            let n = self.stream.receive(&mut piece[..room]).min(room);
            if n == 0 {
                q.put_back();
                return Ok(());
            }
            chain.write(io.memory, 0, &piece[..n])?;
            q.push_used(io.memory, chain.head, n as u32)?;
        }
        io.more = true;
        Ok(())
    }

    fn transmit(&mut self, io: &mut DeviceIo<'_>) -> Result<(), RingError> {
        let q = &mut io.queues[TRANSMIT];
        for _ in 0..QUEUE_SIZE {
            let Some(chain) = q.pop(io.memory)? else {
                return Ok(());
            };
            let mut piece = [0; PIECE];
            loop {
                let n = chain.read(io.memory, self.state.sent, &mut piece)?;
                if n == 0 {
                    break;
                }
                let taken = self.stream.send(&piece[..n]).min(n);
                self.state.sent += taken as u64;
                if taken == 0 {
                    q.put_back();
                    return Ok(());
                }
            }
            self.state.sent = 0;
            q.push_used(io.memory, chain.head, 0)?;
        }
        io.more = true;
        Ok(())
    }
}

impl VirtioDevice for Console {
    fn name(&self) -> &'static str {
        "virtio-console"
    }
    fn id(&self) -> u16 {
        3
    }
    fn class(&self) -> u32 {
        0x07_80_00
    }
    fn features(&self) -> u64 {
        F_SIZE | F_EMERG_WRITE
    }
    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE; 2]
    }

    fn config_read(&self, offset: u64, into: &mut [u8]) {
        let mut config = [0; 12];
        config[..2].copy_from_slice(&self.state.window.0.to_le_bytes());
        config[2..4].copy_from_slice(&self.state.window.1.to_le_bytes());
        // max_nr_ports, for drivers that look without MULTIPORT.
        config[4] = 1;
        config_bytes(&config, offset, into);
    }

    fn config_write(&mut self, _io: &mut DeviceIo<'_>, offset: u64, from: &[u8]) {
        if offset == EMERG_WR && !from.is_empty() {
            // Best effort by its nature: the guest has no other way to speak.
            self.stream.send(&from[..1]);
        }
    }

    fn notify(&mut self, io: &mut DeviceIo<'_>, queue: u16) -> Result<(), Broken> {
        let result = if usize::from(queue) == RECEIVE {
            self.receive(io)
        } else {
            self.transmit(io)
        };
        result.map_err(|why| why.at(queue))
    }

    fn completion(&mut self, io: &mut DeviceIo<'_>) -> Result<(), Broken> {
        if let Some(window) = self.stream.window()
            && window != self.state.window
        {
            self.state.window = window;
            io.config_changed = true;
        }
        self.notify(io, RECEIVE as u16)?;
        self.notify(io, TRANSMIT as u16)
    }

    fn reset(&mut self) {
        self.state.sent = 0;
    }

    fn save(&self) -> Vec<u8> {
        let Console { stream: _, state } = self;
        save_state(1, state)
    }
    fn load(&mut self, section: &[u8]) -> Result<(), LoadError> {
        self.state = load_state(1, section)?;
        Ok(())
    }
    fn inspect(&self, out: &mut Inspector) {
        let (columns, rows) = self.state.window;
        out.value("window", format_args!("{columns}x{rows}"));
        out.value("sent of the current buffer", self.state.sent);
    }
}

#[cfg(test)]
mod tests {
    use super::super::driver::{Driver, Transport, combinations};
    use super::*;
    use std::collections::VecDeque;
    use std::sync::{Arc, Mutex};

    #[derive(Default)]
    struct Wire {
        input: VecDeque<u8>,
        output: Vec<u8>,
        /// How many more bytes it takes.
        room: usize,
        window: Option<(u16, u16)>,
    }

    #[derive(Clone, Default)]
    struct End(Arc<Mutex<Wire>>);

    impl Stream for End {
        fn receive(&mut self, into: &mut [u8]) -> usize {
            let mut w = self.0.lock().unwrap();
            let n = into.len().min(w.input.len());
            for (to, from) in into.iter_mut().zip(w.input.drain(..n)) {
                *to = from;
            }
            n
        }
        fn send(&mut self, from: &[u8]) -> usize {
            let mut w = self.0.lock().unwrap();
            let n = from.len().min(w.room);
            w.room -= n;
            w.output.extend(&from[..n]);
            n
        }
        fn window(&self) -> Option<(u16, u16)> {
            self.0.lock().unwrap().window
        }
    }

    const DATA: u64 = 0x10_0000;

    fn console(transport: Transport, features: u64) -> (Driver, End) {
        let end = End::default();
        end.0.lock().unwrap().window = Some((80, 25));
        let device = Box::new(Console::new(Box::new(end.clone())));
        (Driver::running(transport, device, features | 7), end)
    }

    #[test]
    fn input_waits_for_buffers_and_buffers_wait_for_input() {
        for (transport, features) in combinations() {
            let (mut d, end) = console(transport, features);
            d.add(0, &[(DATA, 4, true)]);
            d.kick(0);
            assert_eq!(d.used(0), None);
            end.0.lock().unwrap().input.extend(b"abcdef");
            d.with(|d, cx| d.completion(cx));
            assert_eq!(d.used(0), Some((0, 4)));
            assert_eq!(d.bytes(DATA, 4), b"abcd");
            assert!(d.line());
            d.add(0, &[(DATA, 4, true)]);
            d.kick(0);
            assert_eq!(d.used(0), Some((0, 2)));
            assert_eq!(d.bytes(DATA, 2), b"ef");
        }
    }

    #[test]
    fn output_the_stream_does_not_take_is_offered_again_and_none_is_lost() {
        for (transport, features) in combinations() {
            let (mut d, end) = console(transport, features);
            let text: Vec<u8> = (0..10_000).map(|i| i as u8).collect();
            d.put(DATA, &text);
            end.0.lock().unwrap().room = 4100;
            d.add(1, &[(DATA, 5000, false), (DATA + 5000, 5000, false)]);
            d.kick(1);
            assert_eq!(d.used(1), None);
            end.0.lock().unwrap().room = 10_000;
            d.with(|d, cx| d.completion(cx));
            assert_eq!(d.used(1), Some((0, 0)));
            assert!(end.0.lock().unwrap().output == text);
        }
    }

    #[test]
    fn the_window_is_told_and_its_change_interrupts() {
        let (mut d, end) = console(Transport::Pci, 0);
        assert_eq!((d.device_config(0, 2), d.device_config(2, 2)), (80, 25));
        end.0.lock().unwrap().window = Some((132, 43));
        d.with(|d, cx| d.completion(cx));
        assert_eq!(d.acknowledge(), 2);
        assert_eq!((d.device_config(0, 2), d.device_config(2, 2)), (132, 43));
    }

    #[test]
    fn the_emergency_write_needs_no_queue() {
        let end = End::default();
        end.0.lock().unwrap().room = 10;
        let mut d = Driver::new(
            Transport::Mmio,
            Box::new(Console::new(Box::new(end.clone()))),
        );
        d.write(0, 0x108, 4, b'!'.into());
        assert_eq!(end.0.lock().unwrap().output, b"!");
    }

    #[test]
    fn it_keeps_the_contract() {
        crate::contract::check(&[0x200], || {
            let end = Box::new(End::default());
            super::super::VirtioMmio::new("console0", Box::new(Console::new(end)))
        });
    }
}
