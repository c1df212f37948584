//! What the kernel and the user programs agree on: system call numbers and the structures they fill.
//! Shared by both (`#[path]` module).
//!
//! A system call is `syscall` with its number in `rax` and arguments in `rdi`, `rsi`, `rdx`; the result comes
//! back in `rax`. `rcx` and `r11` are lost, as the instruction itself demands; all else is kept.
#![allow(dead_code)] // each side uses its part

/// `write(address, length)`: prints on the console.
pub const WRITE: u64 = 1;
/// `read(address, length) -> count`: waits for at least one byte of console input.
pub const READ: u64 = 2;
/// `sleep(ticks)`: waits at least so many ticks.
pub const SLEEP: u64 = 3;
/// `task(index, address of TaskInfo) -> 1, or 0 if there is no such task`.
pub const TASK: u64 = 4;
/// `memory(index, address of MemoryInfo) -> 1, or 0 past the last region`.
pub const MEMORY: u64 = 5;
/// `system(address of SystemInfo)`.
pub const SYSTEM: u64 = 6;
/// `report(a, b)`: publishes two numbers that anybody may read with `task`.
pub const REPORT: u64 = 7;
/// `interrupted() -> 1 if Ctrl-C was typed`: it is dropped, with all that was typed before it.
pub const INTERRUPTED: u64 = 8;
/// `catch(address)`: the next fault continues there with `rax` = 1 + vector + (error code << 8). 0 = off.
pub const CATCH: u64 = 9;
/// `hardware(operation, address, value) -> value`: see `HW_*`.
pub const HARDWARE: u64 = 10;
/// `power(what)`: see `POWER_*`.
pub const POWER: u64 = 11;

/// Reads four bytes of guest-physical memory.
pub const HW_PEEK: u64 = 0;
/// Writes four bytes of guest-physical memory.
pub const HW_POKE: u64 = 1;
/// Reads a byte from an I/O port.
pub const HW_IN: u64 = 2;
/// Writes a byte to an I/O port.
pub const HW_OUT: u64 = 3;

/// Switches the machine off.
pub const POWER_OFF: u64 = 0;
/// Resets the machine.
pub const POWER_REBOOT: u64 = 1;
/// Makes the kernel panic.
pub const POWER_PANIC: u64 = 2;

/// Returned for a call that makes no sense: a bad number, or memory that is not the caller's.
pub const BAD_CALL: u64 = u64::MAX;

/// Timer interrupts a second.
pub const TICKS_PER_SECOND: u64 = 100;

/// One task, as `ps` shows it.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct TaskInfo {
    /// Its name, padded with zeros.
    pub name: [u8; 16],
    /// 0 ready, 1 waits for input, 2 sleeps.
    pub state: u64,
    /// Timer ticks that found it running.
    pub ticks: u64,
    /// Times it was given the processor.
    pub runs: u64,
    /// System calls it made.
    pub syscalls: u64,
    /// Times it was killed and started again.
    pub restarts: u64,
    /// Its page table root, guest-physical.
    pub cr3: u64,
    /// What it published.
    pub report: [u64; 2],
}

/// One range of the memory map.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct MemoryInfo {
    /// First guest-physical address.
    pub start: u64,
    /// Bytes.
    pub len: u64,
    /// E820 type: 1 RAM, 2 reserved, 3 ACPI tables, 4 ACPI NVS, 5 bad.
    pub kind: u64,
}

/// The system as a whole.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct SystemInfo {
    /// Timer ticks since boot.
    pub ticks: u64,
    /// Ticks that found nobody running.
    pub idle_ticks: u64,
    /// Time-stamp counter at the first tick.
    pub tsc_at_start: u64,
    /// Page frames not in use.
    pub free_frames: u64,
    /// Page frames in use by tasks and their page tables.
    pub used_frames: u64,
    /// Guest-physical end of the kernel, which starts at 1 MiB.
    pub kernel_end: u64,
    /// Where the ACPI root pointer is, or 0.
    pub rsdp: u64,
    /// Console interrupts taken.
    pub console_interrupts: u64,
    /// Boot protocol, padded with zeros.
    pub protocol: [u8; 16],
}

/// A name in one of the structures above.
pub fn text(padded: &[u8]) -> &str {
    str::from_utf8(padded).unwrap_or("?").trim_end_matches('\0')
}
