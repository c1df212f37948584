//! The instruction trace: what `moinho run --trace insn` prints for each instruction, its text
//! and the registers it changed.

use crate::state::CpuState;
use core::fmt;
use iced_x86::{Decoder, DecoderOptions, Formatter, IntelFormatter};

/// One instruction that has run (or faulted), with the state before and after it.
#[derive(Debug)]
pub struct Retired<'a> {
    /// Its bytes, and possibly some behind it.
    pub bytes: &'a [u8],
    /// Code size: 16, 32 or 64.
    pub bits: u8,
    /// State before.
    pub before: &'a CpuState,
    /// State after; after the delivery of its exception, if it raised one.
    pub after: &'a CpuState,
}

const NAMES: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13",
    "r14", "r15",
];
const SEGMENTS: [&str; 6] = ["es", "cs", "ss", "ds", "fs", "gs"];

impl fmt::Display for Retired<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (a, b) = (self.before, self.after);
        let mut decoder =
            Decoder::with_ip(self.bits.into(), self.bytes, a.rip, DecoderOptions::NONE);
        let instruction = decoder.decode();
        let mut text = alloc::string::String::new();
        IntelFormatter::new().format(&instruction, &mut text);
        write!(f, "{:04x}:{:x} {text}", a.seg[1].selector, a.rip)?;
        let mut change = |name: &str, old: u64, new: u64| {
            if old == new {
                Ok(())
            } else {
                write!(f, "  {name}={new:x}")
            }
        };
        for (n, name) in NAMES.iter().enumerate() {
            change(name, a.gpr[n], b.gpr[n])?;
        }
        change("flags", a.rflags, b.rflags)?;
        for (n, name) in SEGMENTS.iter().enumerate() {
            change(name, a.seg[n].selector.into(), b.seg[n].selector.into())?;
        }
        let others = [
            ("cr0", a.cr0, b.cr0),
            ("cr2", a.cr2, b.cr2),
            ("cr3", a.cr3, b.cr3),
            ("cr4", a.cr4, b.cr4),
            ("efer", a.efer, b.efer),
            ("mxcsr", a.mxcsr.into(), b.mxcsr.into()),
            ("fsw", a.x87.status.into(), b.x87.status.into()),
        ];
        for (name, old, new) in others {
            change(name, old, new)?;
        }
        for n in 0..16 {
            let (old, new) = (a.vector[n], b.vector[n]);
            if old != new {
                write!(
                    f,
                    "  ymm{n}={:016x}_{:016x}_{:016x}_{:016x}",
                    new[3], new[2], new[1], new[0]
                )?;
            }
        }
        let next = a.rip.wrapping_add(instruction.len() as u64);
        if b.rip != next {
            write!(f, "  -> {:x}", b.rip)
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn an_instruction_is_printed_with_the_registers_it_changed() {
        let mut before = CpuState::reset(0, true);
        before.rip = 0x100;
        let mut after = before.clone();
        after.gpr[0] = 0x12;
        after.rip = 0x103;
        let line = Retired {
            bytes: &[0xb8, 0x12, 0],
            bits: 16,
            before: &before,
            after: &after,
        };
        assert_eq!(line.to_string(), "f000:100 mov ax,12h  rax=12");
    }
}
