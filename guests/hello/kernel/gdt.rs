//! Segments, as far as long mode still has them: the GDT and the TSS.
//!
//! The order of the selectors is dictated by `syscall` and `sysret` (SDM, "SYSCALL", "SYSRET"): kernel code,
//! kernel data; user data, user code. The TSS holds two things only: `rsp0`, the stack of traps from ring 3
//! (`trap::enter_user` points it into the running task's context), and a stack of its own for double faults
//! and NMIs.

use core::arch::asm;
use core::cell::UnsafeCell;

/// Ring 0 code.
pub const KERNEL_CODE: u64 = 0x08;
/// Ring 0 data.
pub const KERNEL_DATA: u64 = 0x10;
/// Ring 3 data.
pub const USER_DATA: u64 = 0x18 | 3;
/// Ring 3 code.
pub const USER_CODE: u64 = 0x20 | 3;
const TSS_SELECTOR: u16 = 0x28;

/// SDM, "64-Bit Task State Segment". Addresses in it are not 8-aligned, hence `packed`.
#[repr(C, packed)]
pub struct Tss {
    reserved0: u32,
    /// Stack of traps from ring 3: at offset 4, where `trap.rs` writes it.
    rsp: [u64; 3],
    reserved1: u64,
    ist: [u64; 7],
    reserved2: u64,
    reserved3: u16,
    io_map_base: u16,
}

/// A static that only the one processor touches, with interrupts off.
#[repr(transparent)]
pub struct Global<T>(pub UnsafeCell<T>);
// SAFETY: there is one processor, and the kernel is never interrupted (see `trap.rs`).
unsafe impl<T> Sync for Global<T> {}

#[unsafe(no_mangle)]
static TSS: Global<Tss> = Global(UnsafeCell::new(Tss {
    reserved0: 0,
    rsp: [0; 3],
    reserved1: 0,
    ist: [0; 7],
    reserved2: 0,
    reserved3: 0,
    io_map_base: size_of::<Tss>() as u16, // past the limit: no port is open to ring 3
}));

static GDT: Global<[u64; 7]> = Global(UnsafeCell::new([
    0,
    0x00af_9b00_0000_ffff, // kernel code: 64-bit, ring 0
    0x00cf_9300_0000_ffff, // kernel data
    0x00cf_f300_0000_ffff, // user data: ring 3
    0x00af_fb00_0000_ffff, // user code
    0,                     // the TSS takes two entries, filled below
    0,
]));

#[repr(C, align(16))]
struct EmergencyStack(UnsafeCell<[u8; 8192]>);
// SAFETY: only the processor's stack pointer refers to it.
unsafe impl Sync for EmergencyStack {}
static EMERGENCY_STACK: EmergencyStack = EmergencyStack(UnsafeCell::new([0; 8192]));

/// What `lgdt` and `lidt` read.
#[repr(C, packed)]
pub struct TablePointer {
    /// Bytes - 1.
    pub limit: u16,
    /// Linear address.
    pub base: u64,
}

/// Loads the GDT, all segment registers and the task register.
pub fn load() {
    let tss = TSS.0.get() as u64;
    let limit = size_of::<Tss>() as u64 - 1;
    let pointer = TablePointer {
        limit: 7 * 8 - 1,
        base: GDT.0.get() as u64,
    };
    // SAFETY: runs once at boot; the tables are static and hold what the selectors name.
    unsafe {
        (*TSS.0.get()).ist[0] = EMERGENCY_STACK.0.get() as u64 + 8192;
        (*GDT.0.get())[5] = limit | (tss & 0xff_ffff) << 16 | 0x89 << 40 | (tss >> 24 & 0xff) << 56;
        (*GDT.0.get())[6] = tss >> 32;
        asm!(
            "lgdt [{pointer}]",
            "push {code}",
            "lea {scratch}, [rip + 2f]",
            "push {scratch}",
            "retfq", // the only way to load cs
            "2:",
            "mov ss, {data:x}",
            "mov ds, {data:x}",
            "mov es, {data:x}",
            "ltr {tss:x}",
            pointer = in(reg) &pointer,
            code = const KERNEL_CODE,
            data = in(reg) KERNEL_DATA,
            tss = in(reg) TSS_SELECTOR,
            scratch = out(reg) _,
        );
    }
}
