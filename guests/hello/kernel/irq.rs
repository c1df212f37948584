//! The PC's interrupt controllers and clock: two 8259 PICs and the 8254 PIT (Intel data sheets of those names),
//! and the local APIC, if there is one, only so that it lets the PICs through.

use crate::abi::TICKS_PER_SECOND;
use crate::cpu::{in8, out8, rdmsr, wrmsr};
use crate::paging::{read_physical, write_physical};
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
    virtual_wire();
    // SAFETY: the initialisation sequence of the data sheets; no interrupt can come before `idle` or ring 3.
    unsafe {
        for (pic, first_vector, icw3) in [
            (PIC1, FIRST_IRQ as u8, 1 << 2),
            (PIC2, FIRST_IRQ as u8 + 8, 2),
        ] {
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

/// Makes LINT0 of the local APIC the PICs' input (SDM, "Local Interrupt Delivery after Reset" masks it; a BIOS
/// opens it, a direct boot may not).
fn virtual_wire() {
    const APIC_BASE: u32 = 0x1b;
    const ENABLED: u64 = 1 << 11;
    const X2APIC: u64 = 1 << 10;
    const EXTINT: u32 = 0x700;
    const SOFTWARE_ENABLED: u32 = 0x12f; // spurious vector 47, which `acknowledge` knows as spurious already
    if core::arch::x86_64::__cpuid(1).edx & 1 << 9 == 0 {
        return;
    }
    // SAFETY: CPUID says that there is a local APIC; its registers are where APIC_BASE says.
    unsafe {
        let base = rdmsr(APIC_BASE);
        if base & (ENABLED | X2APIC) == ENABLED | X2APIC {
            wrmsr(0x80f, SOFTWARE_ENABLED.into());
            wrmsr(0x835, EXTINT.into());
        } else if base & ENABLED != 0 {
            let registers = base & 0xf_ffff_f000;
            if read_physical::<u32>(registers + 0x30) == u32::MAX {
                return; // nobody there after all
            }
            write_physical(registers + 0xf0, SOFTWARE_ENABLED);
            write_physical(registers + 0x350, EXTINT);
        }
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
