//! The NS16550A UART of a PC's serial ports ("PC16550D Universal Asynchronous
//! Receiver/Transmitter with FIFOs", National Semiconductor, 1995).
//!
//! Region 0 is the eight registers. Line 0 is INTR. Timer 0 is the character timeout.
//! The other end is a [`Stream`]; the machine calls `completion` when it has input or can take
//! output again.
//!
//! Decisions and departures from hardware:
//! - Transmission takes no time: a byte written to THR is with the stream at once and THRE is
//!   high again, unless the stream takes nothing. Then bytes wait in a bounded queue and THRE
//!   and TEMT stay low until it is empty, so that a driver that looks at THRE loses nothing.
//! - Input is taken from the stream only into free places of the receiver FIFO: a slow guest
//!   pauses the sender instead of losing bytes. Overrun happens in loopback only.
//! - OUT2 does not gate INTR (as in other emulators; guests exist that never set it).
//! - Word length, parity and stop bits are stored and give the character time, but do not alter
//!   the data; there are no parity or framing errors and no breaks.
//! - The other end always holds CTS, DSR and DCD active.

use crate::backend::Stream;
use crate::{Context, Device, Inspector, LoadError, load_state, save_state};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::format;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// Places in the receiver FIFO.
const FIFO: usize = 16;
/// Bytes that wait for a stream that takes nothing; a guest that ignores THRE loses the rest.
const WAITING: usize = 1024;

/// Received data available.
const IER_ERBFI: u8 = 0x01;
/// Transmitter holding register empty.
const IER_ETBEI: u8 = 0x02;
/// Receiver line status.
const IER_ELSI: u8 = 0x04;
/// Modem status.
const IER_EDSSI: u8 = 0x08;

const IIR_NONE: u8 = 0x01;
const IIR_MODEM: u8 = 0x00;
const IIR_THRE: u8 = 0x02;
const IIR_DATA: u8 = 0x04;
const IIR_LINE: u8 = 0x06;
const IIR_TIMEOUT: u8 = 0x0c;
const IIR_FIFOS: u8 = 0xc0;

const FCR_ENABLE: u8 = 0x01;
const FCR_CLEAR_RX: u8 = 0x02;
const FCR_CLEAR_TX: u8 = 0x04;

const LCR_DLAB: u8 = 0x80;

const MCR_LOOP: u8 = 0x10;

const LSR_DR: u8 = 0x01;
const LSR_OE: u8 = 0x02;
const LSR_THRE: u8 = 0x20;
const LSR_TEMT: u8 = 0x40;

const MSR_TERI: u8 = 0x04;
const MSR_RI: u8 = 0x40;
const MSR_CTS_DSR_DCD: u8 = 0xb0;

const TIMER_CHARACTER_TIMEOUT: u8 = 0;

/// What the chip remembers, in the data sheet's names.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct State {
    /// Received characters, oldest first.
    receiver: VecDeque<u8>,
    /// Characters the stream has not taken yet, oldest first.
    transmitter: VecDeque<u8>,
    ier: u8,
    /// Bits 0 (FIFOs enabled), 6 and 7 (trigger level).
    fcr: u8,
    lcr: u8,
    mcr: u8,
    /// Lines in the high half, deltas in the low half.
    msr: u8,
    scr: u8,
    divisor: u16,
    overrun: bool,
    /// The THRE interrupt is pending: an edge, cleared by reading IIR or writing THR.
    thre_pending: bool,
    /// The character timeout has expired.
    timed_out: bool,
    /// When it will, in machine nanoseconds.
    timeout_at_ns: Option<u64>,
}

impl State {
    fn new() -> State {
        State {
            receiver: VecDeque::new(),
            transmitter: VecDeque::new(),
            ier: 0,
            fcr: 0,
            lcr: 0,
            mcr: 0,
            msr: MSR_CTS_DSR_DCD,
            scr: 0,
            // What firmware would leave: 9600 baud.
            divisor: 12,
            overrun: false,
            thre_pending: false,
            timed_out: false,
            timeout_at_ns: None,
        }
    }

    fn fifos(&self) -> bool {
        self.fcr & FCR_ENABLE != 0
    }

    fn capacity(&self) -> usize {
        if self.fifos() { FIFO } else { 1 }
    }

    fn trigger(&self) -> usize {
        if !self.fifos() {
            return 1;
        }
        [1, 4, 8, 14][usize::from(self.fcr >> 6)]
    }

    fn loopback(&self) -> bool {
        self.mcr & MCR_LOOP != 0
    }

    /// "Interrupt Identification Register", table "Interrupt Control Functions": the pending
    /// interrupt of the highest priority.
    fn interrupt(&self) -> u8 {
        if self.ier & IER_ELSI != 0 && self.overrun {
            IIR_LINE
        } else if self.ier & IER_ERBFI != 0 && self.receiver.len() >= self.trigger() {
            IIR_DATA
        } else if self.ier & IER_ERBFI != 0 && self.timed_out {
            IIR_TIMEOUT
        } else if self.ier & IER_ETBEI != 0 && self.thre_pending {
            IIR_THRE
        } else if self.ier & IER_EDSSI != 0 && self.msr & 0x0f != 0 {
            IIR_MODEM
        } else {
            IIR_NONE
        }
    }

    fn lsr(&self) -> u8 {
        let mut lsr = 0;
        if !self.receiver.is_empty() {
            lsr |= LSR_DR;
        }
        if self.overrun {
            lsr |= LSR_OE;
        }
        if self.transmitter.is_empty() {
            lsr |= LSR_THRE | LSR_TEMT;
        }
        lsr
    }

    /// A character arrives at the receiver.
    fn arrive(&mut self, byte: u8) {
        if self.receiver.len() < self.capacity() {
            self.receiver.push_back(byte);
            return;
        }
        self.overrun = true;
        if !self.fifos() {
            // Without FIFOs the new character replaces the old one.
            self.receiver.clear();
            self.receiver.push_back(byte);
        }
    }

    /// Recomputes the modem lines and notes what changed.
    fn modem_lines(&mut self) {
        let lines = if self.loopback() {
            // "In the diagnostic mode": CTS = RTS, DSR = DTR, RI = OUT1, DCD = OUT2.
            (self.mcr & 0x02) << 3
                | (self.mcr & 0x01) << 5
                | (self.mcr & 0x04) << 4
                | (self.mcr & 0x08) << 4
        } else {
            MSR_CTS_DSR_DCD
        };
        let changed = (self.msr ^ lines) & 0xf0;
        let mut deltas = (changed & !MSR_RI) >> 4;
        if changed & self.msr & MSR_RI != 0 {
            deltas |= MSR_TERI;
        }
        self.msr = lines | self.msr & 0x0f | deltas;
    }

    /// Four character times, the delay of the character timeout interrupt. Bounded, so that an
    /// absurd divisor does not make a terminal unusable.
    fn timeout_ns(&self) -> u64 {
        let bits = 1 + 5 + u64::from(self.lcr & 3) + u64::from(self.lcr >> 3 & 1) + 1;
        // 115200 baud at divisor 1.
        (4 * bits * u64::from(self.divisor.max(1)) * 1_000_000_000 / 115_200).min(5_000_000)
    }
}

/// A 16550A with its other end.
pub struct Uart {
    stream: Box<dyn Stream>,
    state: State,
    /// During a call: the receiver's FIFO was touched, the character timeout begins afresh.
    touched: bool,
}

impl Uart {
    /// A UART whose other end is `stream`.
    pub fn new(stream: Box<dyn Stream>) -> Uart {
        Uart {
            stream,
            state: State::new(),
            touched: false,
        }
    }

    /// Offers the stream what it has not taken yet.
    fn transmit(&mut self) {
        let s = &mut self.state;
        if s.transmitter.is_empty() {
            return;
        }
        while !s.transmitter.is_empty() {
            let taken = self.stream.send(s.transmitter.as_slices().0);
            if taken == 0 {
                return;
            }
            s.transmitter.drain(..taken.min(s.transmitter.len()));
        }
        s.thre_pending = true;
    }

    /// Takes input into the free places of the receiver.
    fn receive(&mut self) {
        let s = &mut self.state;
        let free = s.capacity().saturating_sub(s.receiver.len()).min(FIFO);
        if s.loopback() || free == 0 {
            return;
        }
        let mut bytes = [0; FIFO];
        let n = self.stream.receive(&mut bytes[..free]).min(free);
        s.receiver.extend(&bytes[..n]);
        self.touched |= n > 0;
    }

    /// The one place where the outside sees a change: the timeout is armed (afresh, if the
    /// receiver's FIFO was touched) or stopped, the line driven.
    fn update(&mut self, cx: &mut Context<'_>) {
        let s = &mut self.state;
        let touched = core::mem::take(&mut self.touched);
        let waits =
            s.fifos() && !s.receiver.is_empty() && s.receiver.len() < s.trigger() && !s.timed_out;
        let timeout = match s.timeout_at_ns {
            _ if !waits => None,
            Some(at) if !touched => Some(at),
            _ => Some(cx.now_ns.saturating_add(s.timeout_ns())),
        };
        if timeout != s.timeout_at_ns {
            s.timeout_at_ns = timeout;
            cx.wires.arm(TIMER_CHARACTER_TIMEOUT, timeout);
        }
        self.drive(cx);
    }

    fn drive(&self, cx: &mut Context<'_>) {
        cx.wires.set_line(0, self.state.interrupt() != IIR_NONE);
    }

    fn read_register(&mut self, cx: &mut Context<'_>, register: u8) -> u8 {
        let s = &mut self.state;
        match register {
            0 if s.lcr & LCR_DLAB != 0 => s.divisor as u8,
            1 if s.lcr & LCR_DLAB != 0 => (s.divisor >> 8) as u8,
            0 => {
                let byte = s.receiver.pop_front().unwrap_or(0);
                s.timed_out = false;
                self.touched = true;
                if self.state.receiver.is_empty() {
                    // The line falls before the next characters arrive, so that a handler that
                    // takes one at a time sees an edge for each.
                    self.drive(cx);
                    self.receive();
                }
                self.update(cx);
                byte
            }
            1 => s.ier,
            2 => {
                let id = s.interrupt();
                let fifos = if s.fifos() { IIR_FIFOS } else { 0 };
                if id == IIR_THRE {
                    s.thre_pending = false;
                    self.drive(cx);
                }
                id | fifos
            }
            3 => s.lcr,
            4 => s.mcr,
            5 => {
                // A guest that polls sees input even if nobody told us that there is some.
                if s.receiver.is_empty() {
                    self.receive();
                    if !self.state.receiver.is_empty() {
                        self.update(cx);
                    }
                }
                let lsr = self.state.lsr();
                if self.state.overrun {
                    self.state.overrun = false;
                    self.drive(cx);
                }
                lsr
            }
            6 => {
                let msr = s.msr;
                s.msr &= 0xf0;
                self.drive(cx);
                msr
            }
            _ => s.scr,
        }
    }

    fn write_register(&mut self, cx: &mut Context<'_>, register: u8, value: u8) {
        let s = &mut self.state;
        match register {
            0 if s.lcr & LCR_DLAB != 0 => s.divisor = s.divisor & 0xff00 | u16::from(value),
            1 if s.lcr & LCR_DLAB != 0 => s.divisor = s.divisor & 0xff | u16::from(value) << 8,
            0 => {
                if s.loopback() {
                    s.arrive(value);
                    s.thre_pending = true;
                } else {
                    let fell = core::mem::take(&mut s.thre_pending);
                    if s.transmitter.len() < WAITING {
                        s.transmitter.push_back(value);
                    }
                    if fell && s.ier & IER_ETBEI != 0 {
                        // Writing THR takes the interrupt back: the next one is a new edge.
                        self.drive(cx);
                    }
                    self.transmit();
                }
            }
            1 => {
                // Enabling the THRE interrupt while THR is empty raises it.
                if value & !s.ier & IER_ETBEI != 0 && s.transmitter.is_empty() {
                    s.thre_pending = true;
                }
                s.ier = value & 0x0f;
            }
            2 => {
                if (value ^ s.fcr) & FCR_ENABLE != 0 {
                    // "FIFO Control Register", bit 0: a change clears both FIFOs.
                    s.receiver.clear();
                    s.timed_out = false;
                }
                if value & FCR_ENABLE == 0 {
                    // The other bits are not programmed unless bit 0 is 1.
                    s.fcr = 0;
                } else {
                    s.fcr = value & 0xc1;
                    if value & FCR_CLEAR_RX != 0 {
                        s.receiver.clear();
                        s.timed_out = false;
                    }
                    if value & FCR_CLEAR_TX != 0 && !s.transmitter.is_empty() {
                        s.transmitter.clear();
                        s.thre_pending = true;
                    }
                }
                self.receive();
            }
            3 => s.lcr = value,
            4 => {
                s.mcr = value & 0x1f;
                s.modem_lines();
                self.receive();
            }
            // LSR is for factory test, MSR is read-only here.
            5 | 6 => {}
            _ => s.scr = value,
        }
        self.update(cx);
    }
}

impl Device for Uart {
    fn name(&self) -> &'static str {
        "ns16550"
    }

    fn read(&mut self, cx: &mut Context<'_>, _region: u8, offset: u64, size: u8) -> u64 {
        // The chip is 8 bits wide: the bus splits wider accesses.
        let mut value = 0;
        for i in 0..u64::from(size.min(8)) {
            let byte = match offset.checked_add(i) {
                Some(register @ 0..=7) => self.read_register(cx, register as u8),
                _ => 0xff,
            };
            value |= u64::from(byte) << (8 * i);
        }
        value
    }

    fn write(&mut self, cx: &mut Context<'_>, _region: u8, offset: u64, size: u8, value: u64) {
        for i in 0..u64::from(size.min(8)) {
            if let Some(register @ 0..=7) = offset.checked_add(i) {
                self.write_register(cx, register as u8, (value >> (8 * i)) as u8);
            }
        }
    }

    fn timer(&mut self, cx: &mut Context<'_>, timer: u8) {
        if timer == TIMER_CHARACTER_TIMEOUT && !self.state.receiver.is_empty() {
            self.state.timed_out = self.state.fifos();
            self.state.timeout_at_ns = None;
            self.drive(cx);
        }
    }

    fn completion(&mut self, cx: &mut Context<'_>) {
        self.transmit();
        self.receive();
        self.update(cx);
    }

    fn reset(&mut self, cx: &mut Context<'_>) {
        // MR does not reach the modem lines' other end; bytes still on the way are offered once.
        self.transmit();
        self.state = State::new();
        cx.wires.arm(TIMER_CHARACTER_TIMEOUT, None);
        self.update(cx);
    }

    fn save(&self) -> Vec<u8> {
        let Uart {
            stream: _,
            state,
            touched: _,
        } = self;
        save_state(1, state)
    }

    fn load(&mut self, section: &[u8]) -> Result<(), LoadError> {
        let new: State = load_state(1, section)?;
        let invalid = |field, why| Err(LoadError::Invalid { field, why });
        if new.receiver.len() > new.capacity() {
            return invalid("receiver", format!("{} characters", new.receiver.len()));
        }
        if new.transmitter.len() > WAITING {
            return invalid("transmitter", format!("{} bytes", new.transmitter.len()));
        }
        if new.ier & !0x0f != 0 {
            return invalid("ier", format!("{:#x}", new.ier));
        }
        if new.fcr & !0xc1 != 0 {
            return invalid("fcr", format!("{:#x}", new.fcr));
        }
        if new.mcr & !0x1f != 0 {
            return invalid("mcr", format!("{:#x}", new.mcr));
        }
        self.state = new;
        Ok(())
    }

    fn inspect(&self, out: &mut Inspector) {
        let s = &self.state;
        out.hex("ier", s.ier.into());
        out.hex("iir", s.interrupt().into());
        out.hex("fcr", s.fcr.into());
        out.hex("lcr", s.lcr.into());
        out.hex("mcr", s.mcr.into());
        out.hex("lsr", s.lsr().into());
        out.hex("msr", s.msr.into());
        out.hex("scr", s.scr.into());
        out.value("divisor", s.divisor);
        out.value("received", s.receiver.len());
        out.value("to send", s.transmitter.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Recorder;
    use mem::GuestMemory;
    use std::sync::{Arc, Mutex};

    #[derive(Default)]
    struct Wire {
        input: VecDeque<u8>,
        output: Vec<u8>,
        blocked: bool,
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
            if w.blocked {
                return 0;
            }
            w.output.extend(from);
            from.len()
        }
    }

    struct Bench {
        uart: Uart,
        end: End,
        wires: Recorder,
        memory: GuestMemory,
    }

    impl Bench {
        fn new() -> Bench {
            let end = End::default();
            Bench {
                uart: Uart::new(Box::new(end.clone())),
                end,
                wires: Recorder::default(),
                memory: GuestMemory::flat(0x1000).unwrap(),
            }
        }
        fn with<R>(&mut self, f: impl FnOnce(&mut Uart, &mut Context<'_>) -> R) -> R {
            let mut cx = Context {
                now_ns: 1000,
                memory: &self.memory,
                wires: &mut self.wires,
            };
            f(&mut self.uart, &mut cx)
        }
        fn out(&mut self, register: u64, value: u8) {
            self.with(|u, cx| u.write(cx, 0, register, 1, value.into()));
        }
        fn inp(&mut self, register: u64) -> u8 {
            self.with(|u, cx| u.read(cx, 0, register, 1) as u8)
        }
        fn type_in(&mut self, bytes: &[u8]) {
            self.end.0.lock().unwrap().input.extend(bytes);
            self.with(|u, cx| u.completion(cx));
        }
        fn line(&self) -> bool {
            self.wires.lines.get(&0).copied().unwrap_or(false)
        }
    }

    #[test]
    fn a_byte_written_is_sent_at_once_and_thre_is_high_again() {
        let mut b = Bench::new();
        b.out(0, b'A');
        assert_eq!(b.inp(5) & 0x60, 0x60);
        assert_eq!(b.end.0.lock().unwrap().output, b"A");
    }

    #[test]
    fn the_thre_interrupt_is_an_edge_cleared_by_reading_iir() {
        let mut b = Bench::new();
        b.out(1, IER_ETBEI);
        assert!(b.line(), "enabling it while THR is empty raises it");
        assert_eq!(b.inp(2), IIR_THRE);
        assert!(!b.line());
        assert_eq!(b.inp(2), IIR_NONE);
        b.out(0, b'x');
        assert!(b.line());
        b.out(1, 0);
        assert!(!b.line());
    }

    #[test]
    fn bytes_a_full_stream_does_not_take_wait_with_thre_low_and_none_is_lost() {
        let mut b = Bench::new();
        b.end.0.lock().unwrap().blocked = true;
        b.out(1, IER_ETBEI);
        b.inp(2);
        for c in b"hello" {
            b.out(0, *c);
        }
        assert_eq!(b.inp(5) & 0x60, 0);
        assert!(!b.line());
        b.end.0.lock().unwrap().blocked = false;
        b.with(|u, cx| u.completion(cx));
        assert_eq!(b.end.0.lock().unwrap().output, b"hello");
        assert!(b.line());
        assert_eq!(b.inp(2), IIR_THRE);
    }

    #[test]
    fn input_below_the_trigger_level_interrupts_after_the_character_timeout() {
        let mut b = Bench::new();
        b.out(2, 0x81);
        b.out(1, IER_ERBFI);
        b.type_in(b"abc");
        assert!(!b.line());
        assert!(b.wires.timers.contains_key(&0));
        b.with(|u, cx| u.timer(cx, 0));
        assert_eq!(b.inp(2), IIR_TIMEOUT | IIR_FIFOS);
        assert_eq!(b.inp(0), b'a');
        assert!(!b.line(), "reading RBR ends the timeout");
        b.type_in(b"defghi");
        assert_eq!(b.inp(2), IIR_DATA | IIR_FIFOS, "the trigger level of 8");
        for c in b"bcdefghi" {
            assert_eq!(b.inp(5) & LSR_DR, LSR_DR);
            assert_eq!(b.inp(0), *c);
        }
        assert_eq!(b.inp(5) & LSR_DR, 0);
        assert!(!b.wires.timers.contains_key(&0));
    }

    #[test]
    fn a_handler_that_takes_one_character_at_a_time_sees_an_edge_for_each() {
        let mut b = Bench::new();
        b.out(1, IER_ERBFI);
        b.type_in(b"abc");
        for (i, c) in b"abc".iter().enumerate() {
            assert_eq!(b.wires.edges[&0], i as u32 + 1);
            assert_eq!(b.inp(0), *c);
        }
        b.out(1, IER_ETBEI);
        let edges = b.wires.edges[&0];
        b.out(0, b'x');
        assert_eq!(b.wires.edges[&0], edges + 1, "and for each one sent");
    }

    #[test]
    fn a_long_input_is_pulled_as_the_guest_reads_and_none_is_lost() {
        let mut b = Bench::new();
        let text: Vec<u8> = (0..1000).map(|i| i as u8).collect();
        b.type_in(&text);
        let mut got = Vec::new();
        while b.inp(5) & LSR_DR != 0 {
            got.push(b.inp(0));
        }
        assert_eq!(got, text);
    }

    #[test]
    fn loopback_connects_data_and_modem_lines_and_can_overrun() {
        let mut b = Bench::new();
        b.inp(6);
        b.out(4, MCR_LOOP | 0x0a);
        assert_eq!(b.inp(6) & 0xf0, 0x90, "Linux' autoconfig test");
        b.out(0, 1);
        b.out(0, 2);
        assert_eq!(b.inp(5) & 0x1f, LSR_DR | LSR_OE);
        assert_eq!(b.inp(5) & 0x1f, LSR_DR, "reading LSR clears OE");
        assert_eq!(b.inp(0), 2);
        assert!(b.end.0.lock().unwrap().output.is_empty());
        b.out(2, 0x01);
        for i in 0..17 {
            b.out(0, i);
        }
        assert_eq!(b.inp(5) & LSR_OE, LSR_OE);
        assert_eq!(b.inp(0), 0, "with FIFOs the old characters stay");
    }

    #[test]
    fn interrupts_have_the_data_sheets_priorities() {
        let mut b = Bench::new();
        b.out(4, MCR_LOOP);
        b.out(0, 1);
        b.out(0, 2);
        b.out(4, MCR_LOOP | 1);
        b.out(1, 0x0f);
        assert_eq!(b.inp(2), IIR_LINE);
        b.inp(5);
        assert_eq!(b.inp(2), IIR_DATA);
        b.inp(0);
        assert_eq!(b.inp(2), IIR_THRE);
        assert_eq!(b.inp(2), IIR_MODEM);
        b.inp(6);
        assert_eq!(b.inp(2), IIR_NONE);
        assert!(!b.line());
    }

    #[test]
    fn the_divisor_latch_hides_data_and_ier_and_the_scratch_register_keeps() {
        let mut b = Bench::new();
        b.out(3, 0x83);
        b.out(0, 0x34);
        b.out(1, 0x12);
        assert_eq!((b.inp(0), b.inp(1)), (0x34, 0x12));
        b.out(3, 0x03);
        assert_eq!(b.inp(1), 0);
        b.out(7, 0x5a);
        assert_eq!(b.inp(7), 0x5a);
        assert_eq!(b.inp(3), 3);
    }

    #[test]
    fn what_is_saved_loads_and_saves_the_same_and_nonsense_is_refused() {
        let mut b = Bench::new();
        b.out(2, 0xc1);
        b.out(1, 0x05);
        b.type_in(b"abc");
        let saved = b.uart.save();
        let mut other = Uart::new(Box::new(crate::backend::Null));
        other.load(&saved).unwrap();
        assert_eq!(other.save(), saved);
        let mut bad = State::new();
        bad.receiver.extend([0; 2]);
        assert!(matches!(
            other.load(&save_state(1, &bad)),
            Err(LoadError::Invalid {
                field: "receiver",
                ..
            })
        ));
        assert_eq!(other.save(), saved, "unchanged on error");
    }

    #[test]
    fn reset_lowers_the_line_and_stops_the_timer() {
        let mut b = Bench::new();
        b.out(2, 0xc1);
        b.out(1, 0x0f);
        b.type_in(b"abc");
        b.with(|u, cx| u.reset(cx));
        assert!(!b.line() && b.wires.timers.is_empty());
        assert_eq!(b.uart.state, State::new());
    }

    #[test]
    fn it_keeps_the_contract() {
        crate::contract::check(&[8], || Uart::new(Box::new(crate::backend::Null)));
    }
}
