//! Memory: page frames, the direct map, and user address spaces with 4-level page tables (SDM, "4-Level
//! Paging").
//!
//! The kernel never touches a user's memory by the user's address. It walks that user's page table in software
//! and copies through the direct map, so no pointer a user passes can make the kernel fault.

use crate::bootinfo::BootInfo;
use crate::cpu;

/// Where the first 4 GiB of guest-physical memory appear (`boot.rs`).
pub const DIRECT_MAP: u64 = 0xffff_8000_0000_0000;
/// Where the kernel is linked.
pub const KERNEL_BASE: u64 = 0xffff_ffff_8000_0000;
/// End of the direct map.
pub const DIRECT_MAP_END: u64 = 1 << 32;
/// Bytes in a page.
pub const PAGE: u64 = 4096;
/// The first linear address that is not a user's. (The last page of the half stays unused: see `trap.rs`.)
pub const USER_END: u64 = 0x7fff_ffff_f000;

const PRESENT: u64 = 1;
/// Page table entry: writable.
pub const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
/// Page table entry: not executable.
pub const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

unsafe extern "C" {
    static mut boot_pml4: [u64; 512];
    static bss_end: u8; // a physical address, from the linker script
}

/// Guest-physical end of the kernel's image.
pub fn kernel_end() -> u64 {
    (&raw const bss_end) as u64
}

/// Reads guest-physical memory; all ones above the direct map.
pub fn read_physical<T: Copy + From<u8>>(gpa: u64) -> T {
    assert!(
        gpa < DIRECT_MAP_END - 8,
        "guest-physical address {gpa:#x} is outside the direct map"
    );
    // SAFETY: the direct map covers it; an integer may have any value.
    unsafe { ((DIRECT_MAP + gpa) as *const T).read_unaligned() }
}

/// # Safety
/// Nothing that the kernel relies on may lie there.
pub unsafe fn write_physical(gpa: u64, value: u32) {
    assert!(
        gpa < DIRECT_MAP_END - 8,
        "guest-physical address {gpa:#x} is outside the direct map"
    );
    // SAFETY: the direct map covers it; the rest is the caller's.
    unsafe { ((DIRECT_MAP + gpa) as *mut u32).write_volatile(value) }
}

/// Page frames: one range, handed out from its start; frames given back are chained through their first word.
pub struct Frames {
    next: u64,
    end: u64,
    given_back: u64,
    /// Frames not in use.
    pub free: u64,
    /// Frames in use.
    pub used: u64,
    no_execute: u64,
}

impl Frames {
    /// Takes the largest range of RAM behind the kernel, and removes the boot code's identity map.
    pub fn new(boot: &BootInfo) -> Frames {
        let (start, end) = boot.largest_ram(kernel_end(), DIRECT_MAP_END);
        let (next, end) = (start.next_multiple_of(PAGE), end & !(PAGE - 1));
        // SAFETY: the kernel runs in the upper half and uses the direct map: nobody needs the lower half.
        unsafe {
            boot_pml4[0] = 0;
            cpu::set_cr3(boot_root());
        }
        let no_execute = if enable_no_execute() { NO_EXECUTE } else { 0 };
        Frames {
            next,
            end,
            given_back: 0,
            free: end.saturating_sub(next) / PAGE,
            used: 0,
            no_execute,
        }
    }

    /// A frame full of zeros.
    fn take(&mut self) -> u64 {
        assert!(self.free > 0, "out of memory");
        let frame = if self.given_back != 0 {
            let frame = self.given_back;
            self.given_back = read_physical(frame);
            frame
        } else {
            assert!(self.next < self.end);
            self.next += PAGE;
            self.next - PAGE
        };
        self.free -= 1;
        self.used += 1;
        table(frame).fill(0);
        frame
    }

    fn give_back(&mut self, frame: u64) {
        table(frame)[0] = self.given_back;
        self.given_back = frame;
        self.free += 1;
        self.used -= 1;
    }
}

fn boot_root() -> u64 {
    (&raw const boot_pml4) as u64 - KERNEL_BASE
}

fn enable_no_execute() -> bool {
    let has = core::arch::x86_64::__cpuid(0x8000_0001).edx & 1 << 20 != 0;
    if has {
        // SAFETY: the bit exists, and no entry in use has bit 63 set.
        unsafe { cpu::wrmsr(cpu::EFER, cpu::rdmsr(cpu::EFER) | 1 << 11) }
    }
    has
}

/// A page frame as 512 entries. Frames are owned by one address space or by the free list, and the kernel runs
/// on one processor: nobody else holds a reference.
fn table(frame: u64) -> &'static mut [u64; 512] {
    assert!(frame % PAGE == 0 && frame < DIRECT_MAP_END);
    // SAFETY: frames come from `Frames`, which knows RAM below the direct map's end; see above for uniqueness.
    unsafe { &mut *((DIRECT_MAP + frame) as *mut [u64; 512]) }
}

/// A task's lower half, and the kernel's upper half, which all share.
pub struct AddressSpace {
    /// Guest-physical address of the PML4: CR3.
    pub root: u64,
}

impl AddressSpace {
    /// Nothing mapped but the kernel.
    pub fn new(frames: &mut Frames) -> AddressSpace {
        let root = frames.take();
        table(root)[256..].copy_from_slice(&table(boot_root())[256..]);
        AddressSpace { root }
    }

    /// Maps a fresh page of zeros at `linear`, or keeps the page that is there.
    pub fn map(&mut self, frames: &mut Frames, linear: u64, flags: u64) {
        assert!(
            linear < USER_END && linear % PAGE == 0,
            "not a user page: {linear:#x}"
        );
        let mut at = self.root;
        for level in [3, 2, 1] {
            let entry = &mut table(at)[index(linear, level)];
            if *entry & PRESENT == 0 {
                *entry = frames.take() | PRESENT | WRITABLE | USER;
            }
            at = *entry & ADDRESS;
        }
        let entry = &mut table(at)[index(linear, 0)];
        if *entry & PRESENT == 0 {
            let flags = if flags & NO_EXECUTE != 0 {
                flags & !NO_EXECUTE | frames.no_execute
            } else {
                flags
            };
            *entry = frames.take() | PRESENT | USER | flags;
        }
    }

    /// Where a user's address lies, and whether the user may write there.
    fn translate(&self, linear: u64) -> Option<(u64, bool)> {
        if linear >= USER_END {
            return None;
        }
        let mut at = self.root;
        for level in [3, 2, 1, 0] {
            let entry = table(at)[index(linear, level)];
            if entry & PRESENT == 0 {
                return None;
            }
            at = entry & ADDRESS;
            if level == 0 {
                return Some((at + linear % PAGE, entry & WRITABLE != 0));
            }
        }
        None
    }

    /// Copies into the user's memory; false, with part of it copied, if some of it is not the user's.
    /// `even_read_only` is for the loader.
    pub fn copy_in(&self, linear: u64, bytes: &[u8], even_read_only: bool) -> bool {
        bytes
            .iter()
            .zip(linear..)
            .all(|(&byte, linear)| match self.translate(linear) {
                Some((gpa, writable)) if writable || even_read_only => {
                    // SAFETY: the address lies in a frame of this address space.
                    unsafe { ((DIRECT_MAP + gpa) as *mut u8).write(byte) };
                    true
                }
                _ => false,
            })
    }

    /// Copies out of the user's memory; false if some of it is not the user's.
    pub fn copy_out(&self, linear: u64, bytes: &mut [u8]) -> bool {
        bytes
            .iter_mut()
            .zip(linear..)
            .all(|(byte, linear)| match self.translate(linear) {
                Some((gpa, _)) => {
                    *byte = read_physical(gpa);
                    true
                }
                None => false,
            })
    }

    /// Gives every frame back. The processor must be on another page table.
    pub fn free(self, frames: &mut Frames) {
        // SAFETY: the boot page table lives as long as the kernel.
        unsafe { cpu::set_cr3(boot_root()) };
        free_level(frames, self.root, 3, 256);
    }
}

fn index(linear: u64, level: u32) -> usize {
    (linear >> (12 + 9 * level)) as usize & 511
}

fn free_level(frames: &mut Frames, frame: u64, level: u32, entries: usize) {
    for n in 0..entries {
        let entry = table(frame)[n];
        if entry & PRESENT != 0 {
            match level {
                0 => frames.give_back(entry & ADDRESS),
                _ => free_level(frames, entry & ADDRESS, level - 1, 512),
            }
        }
    }
    frames.give_back(frame);
}
