//! The console: the first serial port, a 16550 UART at 0x3f8 (National Semiconductor PC16550D data sheet).
//!
//! Output waits for the transmitter and then fills its FIFO. Input comes by interrupt (IRQ 4) into a ring, and
//! the timer looks as well, so that a machine whose UART does not interrupt still has a keyboard. When the ring
//! is full bytes stay in the UART: nothing that is typed or piped in is lost.

use crate::cpu::{in8, out8};
use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};

const COM1: u16 = 0x3f8;
const DATA: u16 = COM1; // receive, transmit; divisor low when DLAB
const IER: u16 = COM1 + 1; // interrupt enable; divisor high when DLAB
const IIR_FCR: u16 = COM1 + 2;
const LCR: u16 = COM1 + 3;
const MCR: u16 = COM1 + 4;
const LSR: u16 = COM1 + 5;
const DATA_READY: u8 = 1;
const TRANSMITTER_EMPTY: u8 = 0x20;
const CTRL_C: u8 = 3;

static HAS_FIFO: AtomicBool = AtomicBool::new(false);

/// Sets 115200 8N1 and lets the receiver interrupt. Returns what was typed before.
pub fn init() -> Input {
    // Switching the FIFOs empties them, with what arrives just then. So where something was typed ahead, and more
    // may follow, they stay as they are: without, a byte waits until it is taken.
    let mut input = Input::new();
    input.pump();
    // SAFETY: COM1's registers, in the data sheet's order; touches nothing else.
    unsafe {
        out8(IER, 0);
        out8(LCR, 0x80); // DLAB
        out8(DATA, 1);
        out8(IER, 0);
        out8(LCR, 3);
        if input.is_empty() {
            out8(IIR_FCR, 0x07); // FIFOs on and empty, interrupt at one byte
        }
        HAS_FIFO.store(in8(IIR_FCR) & 0xc0 == 0xc0, Ordering::Relaxed);
        out8(MCR, 0x0b); // DTR, RTS, OUT2: the gate of the interrupt line
        out8(IER, 1);
    }
    input
}

/// Prints bytes; a newline becomes CR LF.
pub fn write(text: &[u8]) {
    let mut room = 0u32;
    let mut put = |byte| {
        // SAFETY: COM1 only. The wait is bounded: a machine without a UART must not hang us.
        unsafe {
            let mut patience = 100_000;
            while room == 0 && patience > 0 {
                if in8(LSR) & TRANSMITTER_EMPTY != 0 {
                    room = if HAS_FIFO.load(Ordering::Relaxed) {
                        16
                    } else {
                        1
                    };
                }
                patience -= 1;
            }
            out8(DATA, byte);
        }
        room = room.saturating_sub(1);
    };
    for &byte in text {
        if byte == b'\n' {
            put(b'\r');
        }
        put(byte);
    }
}

/// Characters typed and not yet read.
pub struct Input {
    ring: [u8; 4096],
    read: usize,
    filled: usize,
    /// Times IRQ 4 came.
    pub interrupts: u64,
}

impl Input {
    /// Nothing typed.
    const fn new() -> Input {
        Input {
            ring: [0; 4096],
            read: 0,
            filled: 0,
            interrupts: 0,
        }
    }

    /// Takes what the UART holds, as far as there is room.
    pub fn pump(&mut self) {
        // SAFETY: COM1 only. 0xff in LSR means that there is no UART.
        while self.filled < self.ring.len()
            && matches!(unsafe { in8(LSR) }, lsr if lsr != 0xff && lsr & DATA_READY != 0)
        {
            // SAFETY: as above.
            self.ring[(self.read + self.filled) % self.ring.len()] = unsafe { in8(DATA) };
            self.filled += 1;
        }
    }

    /// Whether a Ctrl-C waits; drops it and what was typed before it.
    pub fn interrupted(&mut self) -> bool {
        let typed = (0..self.filled).map(|n| self.ring[(self.read + n) % self.ring.len()]);
        let Some(at) = typed
            .enumerate()
            .find_map(|(n, byte)| (byte == CTRL_C).then_some(n))
        else {
            return false;
        };
        self.read = (self.read + at + 1) % self.ring.len();
        self.filled -= at + 1;
        true
    }

    /// The oldest byte.
    pub fn take(&mut self) -> Option<u8> {
        if self.filled == 0 {
            return None;
        }
        let byte = self.ring[self.read];
        self.read = (self.read + 1) % self.ring.len();
        self.filled -= 1;
        Some(byte)
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.filled == 0
    }
}

/// For `kprint!`.
pub struct Output;

impl fmt::Write for Output {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        write(text.as_bytes());
        Ok(())
    }
}

/// Prints from the kernel.
#[macro_export]
macro_rules! kprint {
    ($($text:tt)*) => {{ let _ = core::fmt::Write::write_fmt(&mut $crate::console::Output, format_args!($($text)*)); }};
}
