//! The PC's interrupt controllers and clock: two 8259 PICs and the 8254 PIT (Intel data sheets of those names).

use crate::abi::TICKS_PER_SECOND;
use crate::cpu::{in8, out8};
use crate::trap::FIRST_IRQ;

/// The PIT's channel 0.
pub const TIMER: u64 = FIRST_IRQ;
/// COM1.
pub const COM1: u64 = FIRST_IRQ + 4;

const PIC1: u16 = 0x20;
const PIC2: u16 = 0xa0;
const END_OF_INTERRUPT: u8 = 0x20;
const READ_IN_SERVICE: u8 = 0x0b;
const PIT_HZ: u64 = 1_193_182;

/// Moves the PICs' vectors behind the exceptions, opens timer and COM1, starts the timer.
pub fn init() {
    // SAFETY: the initialisation sequence of the data sheets; no interrupt can come before `idle` or ring 3.
    unsafe {
        for (pic, first_vector, icw3) in [(PIC1, FIRST_IRQ as u8, 1 << 2), (PIC2, FIRST_IRQ as u8 + 8, 2)] {
            out8(pic, 0x11); // ICW1: edge, cascade, ICW4 follows
            out8(pic + 1, first_vector); // ICW2
            out8(pic + 1, icw3); // ICW3: the second hangs on line 2 of the first
            out8(pic + 1, 0x01); // ICW4: 8086 mode
        }
        out8(PIC1 + 1, !(1 << 0 | 1 << 2 | 1 << 4)); // timer, second PIC, COM1
        out8(PIC2 + 1, !0);
        let divisor = (PIT_HZ / TICKS_PER_SECOND) as u16;
        out8(0x43, 0x34); // channel 0, low then high byte, mode 2
        out8(0x40, divisor as u8);
        out8(0x40, (divisor >> 8) as u8);
    }
}

/// Ends the interrupt. Says false for a spurious one, which a PIC gives on its line 7 when a request went away
/// before it was acknowledged: that one is in no in-service register.
pub fn acknowledge(vector: u64) -> bool {
    let line = (vector - FIRST_IRQ) as u8;
    // SAFETY: commands to the PICs only.
    unsafe {
        let pic = if line < 8 { PIC1 } else { PIC2 };
        if line & 7 == 7 {
            out8(pic, READ_IN_SERVICE);
            if in8(pic) & 0x80 == 0 {
                if pic == PIC2 {
                    out8(PIC1, END_OF_INTERRUPT);
                }
                return false;
            }
        }
        if pic == PIC2 {
            out8(PIC2, END_OF_INTERRUPT);
        }
        out8(PIC1, END_OF_INTERRUPT);
    }
    true
}
