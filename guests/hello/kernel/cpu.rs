//! The processor's own instructions, one small function each: ports, model-specific registers, control
//! registers. Everything that can harm is `unsafe` here and explained at the call.

use core::arch::asm;

/// Extended feature enable register.
pub const EFER: u32 = 0xc000_0080;
/// Selectors for `syscall` and `sysret`.
pub const STAR: u32 = 0xc000_0081;
/// Where `syscall` enters the kernel.
pub const LSTAR: u32 = 0xc000_0082;
/// RFLAGS bits that `syscall` clears.
pub const SFMASK: u32 = 0xc000_0084;

/// # Safety
/// Whatever the device behind `port` does must be wanted.
pub unsafe fn out8(port: u16, value: u8) {
    // SAFETY: the caller's.
    unsafe {
        asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack, preserves_flags))
    }
}

/// # Safety
/// As `out8`.
pub unsafe fn out16(port: u16, value: u16) {
    // SAFETY: the caller's.
    unsafe {
        asm!("out dx, ax", in("dx") port, in("ax") value, options(nomem, nostack, preserves_flags))
    }
}

/// # Safety
/// As `out8`: reading may have effects too.
pub unsafe fn in8(port: u16) -> u8 {
    let value;
    // SAFETY: the caller's.
    unsafe {
        asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack, preserves_flags))
    }
    value
}

/// # Safety
/// As `in8`.
pub unsafe fn in16(port: u16) -> u16 {
    let value;
    // SAFETY: the caller's.
    unsafe {
        asm!("in ax, dx", in("dx") port, out("ax") value, options(nomem, nostack, preserves_flags))
    }
    value
}

/// # Safety
/// The register must exist.
pub unsafe fn rdmsr(register: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: the caller's.
    unsafe {
        asm!("rdmsr", in("ecx") register, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags))
    }
    u64::from(high) << 32 | u64::from(low)
}

/// # Safety
/// The register must exist and the value must keep the kernel running.
pub unsafe fn wrmsr(register: u32, value: u64) {
    // SAFETY: the caller's.
    unsafe {
        asm!("wrmsr", in("ecx") register, in("eax") value as u32, in("edx") (value >> 32) as u32, options(nostack, preserves_flags))
    }
}

/// The linear address of the last page fault.
pub fn cr2() -> u64 {
    let value;
    // SAFETY: reading CR2 changes nothing.
    unsafe { asm!("mov {}, cr2", out(reg) value, options(nomem, nostack, preserves_flags)) }
    value
}

/// # Safety
/// `root` must be a page table with the kernel's upper half in it.
pub unsafe fn set_cr3(root: u64) {
    // SAFETY: the caller's.
    unsafe { asm!("mov cr3, {}", in(reg) root, options(nostack, preserves_flags)) }
}

/// The time-stamp counter.
pub fn rdtsc() -> u64 {
    // SAFETY: every 64-bit processor has it.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Stops for good: interrupts off, processor halted.
pub fn halt_for_ever() -> ! {
    loop {
        // SAFETY: nothing runs after it.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) }
    }
}
