//! The units in which guest memory is read and written, and the machine moves that do it.
//!
//! Guest RAM is shared with other vCPU threads. Each access is one `mov` (or one locked
//! instruction) in inline assembly: it tears no more than the guest's own instruction would, it
//! may be unaligned, and the compiler neither merges nor reorders it. The host's memory order is
//! x86-TSO, which is exactly what the guest expects.

use core::arch::asm;

mod sealed {
    pub trait Sealed {}
}

/// An integer that guest memory is read and written in: `u8`, `u16`, `u32`, `u64`.
pub trait Word: sealed::Sealed + Copy + Eq + Default + core::fmt::LowerHex + 'static {
    /// Size in bytes.
    const SIZE: usize;
    /// Zero-extends to 64 bits.
    fn to_u64(self) -> u64;
    /// Truncates from 64 bits.
    fn from_u64(value: u64) -> Self;

    /// Reads one value.
    ///
    /// # Safety
    /// `at..at + SIZE` lies in a live mapping.
    #[doc(hidden)]
    unsafe fn load(at: *const u8) -> Self;
    /// Writes one value.
    ///
    /// # Safety
    /// `at..at + SIZE` lies in a live, writable mapping.
    #[doc(hidden)]
    unsafe fn store(at: *mut u8, value: Self);
    /// `LOCK CMPXCHG`: stores `new` if the value is `old`; returns what was there.
    ///
    /// # Safety
    /// As for [`Word::store`].
    #[doc(hidden)]
    unsafe fn compare_exchange(at: *mut u8, old: Self, new: Self) -> Self;
    /// `REP MOVS`, upwards: copies `n` values one after the other.
    ///
    /// # Safety
    /// Both ranges of `n * SIZE` bytes lie in live mappings, the destination's writable.
    #[doc(hidden)]
    unsafe fn copy(from: *const u8, to: *mut u8, n: usize);
    /// `REP STOS`, upwards: stores `value` `n` times.
    ///
    /// # Safety
    /// `at..at + n * SIZE` lies in a live, writable mapping.
    #[doc(hidden)]
    unsafe fn fill(at: *mut u8, value: Self, n: usize);
    /// `XCHG`: stores `new`, returns what was there.
    ///
    /// # Safety
    /// As for [`Word::store`].
    #[doc(hidden)]
    unsafe fn exchange(at: *mut u8, new: Self) -> Self;
}

macro_rules! word {
    ($t:ty, $class:ident, $modifier:tt, $acc:tt, $ptr:tt, $letter:tt) => {
        impl sealed::Sealed for $t {}
        impl Word for $t {
            const SIZE: usize = core::mem::size_of::<$t>();
            #[inline(always)]
            fn to_u64(self) -> u64 {
                self as u64
            }
            #[inline(always)]
            fn from_u64(value: u64) -> Self {
                value as $t
            }
            #[inline(always)]
            unsafe fn load(at: *const u8) -> Self {
                let value: $t;
                // SAFETY: the caller promises a live mapping; one load has no other effect.
                unsafe {
                    asm!(concat!("mov {v", $modifier, "}, ", $ptr, " ptr [{p}]"),
                        v = out($class) value, p = in(reg) at,
                        options(nostack, preserves_flags));
                }
                value
            }
            #[inline(always)]
            unsafe fn store(at: *mut u8, value: Self) {
                // SAFETY: the caller promises a live, writable mapping to which no Rust
                // reference exists.
                unsafe {
                    asm!(concat!("mov ", $ptr, " ptr [{p}], {v", $modifier, "}"),
                        v = in($class) value, p = in(reg) at,
                        options(nostack, preserves_flags));
                }
            }
            #[inline]
            unsafe fn compare_exchange(at: *mut u8, old: Self, new: Self) -> Self {
                let seen: $t;
                // SAFETY: as for `store`.
                unsafe {
                    asm!(concat!("lock cmpxchg ", $ptr, " ptr [{p}], {n", $modifier, "}"),
                        n = in($class) new, p = in(reg) at, inout($acc) old => seen,
                        options(nostack));
                }
                seen
            }
            #[inline]
            unsafe fn copy(from: *const u8, to: *mut u8, n: usize) {
                // SAFETY: the caller promises both ranges; DF is clear in Rust code.
                unsafe {
                    asm!(concat!("rep movs", $letter),
                        inout("rsi") from => _, inout("rdi") to => _, inout("rcx") n => _,
                        options(nostack, preserves_flags));
                }
            }
            #[inline]
            unsafe fn fill(at: *mut u8, value: Self, n: usize) {
                // SAFETY: the caller promises the range; DF is clear in Rust code.
                unsafe {
                    asm!(concat!("rep stos", $letter),
                        inout("rdi") at => _, inout("rcx") n => _, in("rax") value.to_u64(),
                        options(nostack, preserves_flags));
                }
            }
            #[inline]
            unsafe fn exchange(at: *mut u8, new: Self) -> Self {
                let seen: $t;
                // SAFETY: as for `store`.
                unsafe {
                    asm!(concat!("xchg ", $ptr, " ptr [{p}], {n", $modifier, "}"),
                        n = inout($class) new => seen, p = in(reg) at,
                        options(nostack, preserves_flags));
                }
                seen
            }
        }
    };
}

word!(u8, reg_byte, "", "al", "byte", "b");
word!(u16, reg, ":x", "ax", "word", "w");
word!(u32, reg, ":e", "eax", "dword", "d");
word!(u64, reg, ":r", "rax", "qword", "q");

/// `LOCK CMPXCHG16B`: stores `new` if the value is `old`; returns what was there.
///
/// # Safety
/// `at..at + 16` lies in a live, writable mapping and `at` is 16-byte aligned; the processor has
/// CMPXCHG16B (every x86-64-v2 processor; the caller's CPU model says so).
pub(crate) unsafe fn compare_exchange_16(at: *mut u8, old: u128, new: u128) -> u128 {
    let (mut low, mut high) = (old as u64, (old >> 64) as u64);
    // SAFETY: as promised above. RBX is reserved by the compiler, hence the exchange around it;
    // the address is in a register of its own choice, since `reg` could be RBX.
    unsafe {
        asm!(
            "xchg {n}, rbx",
            "lock cmpxchg16b [rdi]",
            "mov rbx, {n}",
            n = inout(reg) new as u64 => _,
            in("rdi") at,
            inout("rax") low,
            inout("rdx") high,
            in("rcx") (new >> 64) as u64,
            options(nostack)
        );
    }
    u128::from(low) | u128::from(high) << 64
}
