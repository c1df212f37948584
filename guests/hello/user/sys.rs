//! The user programs' library: the entry, system calls, `print!`, and what happens on a panic.

#![allow(dead_code)] // each program uses its part

#[path = "../abi.rs"]
pub mod abi;
#[path = "../freestanding.rs"]
mod freestanding;

use core::arch::{asm, global_asm};
use core::fmt;

global_asm!(
    ".globl _start",
    "_start:",
    "xor ebp, ebp",
    "call main",
    "ud2"
);

/// A system call; see `abi.rs`.
pub fn call(number: u64, a: u64, b: u64, c: u64) -> u64 {
    let result;
    // SAFETY: the kernel checks every argument and keeps all registers but these.
    unsafe {
        asm!("syscall", inout("rax") number => result, in("rdi") a, in("rsi") b, in("rdx") c, out("rcx") _, out("r11") _, options(nostack))
    }
    result
}

/// Asks the kernel to fill a structure; `None` when it has nothing at that index.
pub fn ask<T: Default>(number: u64, index: u64) -> Option<T> {
    let mut value = T::default();
    (call(number, index, &raw mut value as u64, 0) == 1).then_some(value)
}

/// The system's counters.
pub fn system() -> abi::SystemInfo {
    let mut value = abi::SystemInfo::default();
    call(abi::SYSTEM, &raw mut value as u64, 0, 0);
    value
}

/// Gathers a line's pieces, so that a `print!` costs one system call.
pub struct Output {
    text: [u8; 256],
    len: usize,
}

impl Output {
    /// Empty.
    pub const fn new() -> Output {
        Output {
            text: [0; 256],
            len: 0,
        }
    }

    /// Hands the text to the kernel.
    pub fn flush(&mut self) {
        call(abi::WRITE, self.text.as_ptr() as u64, self.len as u64, 0);
        self.len = 0;
    }
}

impl fmt::Write for Output {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for &byte in text.as_bytes() {
            if self.len == self.text.len() {
                self.flush();
            }
            self.text[self.len] = byte;
            self.len += 1;
        }
        Ok(())
    }
}

/// Prints on the console.
#[macro_export]
macro_rules! print {
    ($($text:tt)*) => {{
        let mut output = $crate::sys::Output::new();
        let _ = core::fmt::Write::write_fmt(&mut output, format_args!($($text)*));
        output.flush();
    }};
}

/// Whether `n` is prime, by trial division: work for the processor, not for a mathematician.
pub fn is_prime(n: u64) -> bool {
    n > 1 && (2..).take_while(|d| d * d <= n).all(|d| n % d != 0)
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo) -> ! {
    print!("\nprogram error: {}\n", info.message());
    // SAFETY: an invalid instruction: the kernel ends the task.
    unsafe { asm!("ud2", options(noreturn)) }
}
