//! Into translated code and out of it.
//!
//! Translated code runs with the guest's registers in the host's, all of them but R10 and R11,
//! and RSP among them: there is no host stack. So the thread blocks all signals, and the two that
//! the code itself can raise (SIGFPE, SIGSEGV) have a stack of their own. Where user code goes
//! through the window ([`crate::window`]) FS is the way there: no Rust code runs until it is the
//! host's again, since thread-locals are behind it.

use crate::area::Area;
use core::arch::global_asm;
use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
use core::mem::offset_of;

unsafe extern "C" {
    /// Runs translated code at `gs:[target]` until it leaves.
    fn moinho_bt_enter();
    /// Where translated code jumps to leave.
    fn moinho_bt_leave();
}

/// Asks for what is about to be read from memory.
pub fn prefetch<T>(of: &T) {
    // SAFETY: nothing but a hint to the processor, and the place is one that may be read.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(of).cast()) };
}

/// Host address that translated code jumps to in order to leave.
pub fn leave_address() -> u64 {
    moinho_bt_leave as *const () as u64
}

/// Enters translated code at `area.target`.
///
/// # Safety
/// The thread's `gs` base is `area`; `area.target` is code of a [`crate::cache::CodeCache`] made
/// for this area; signals are set up by [`crate::signal`].
pub unsafe fn enter(area: *mut Area) {
    // SAFETY: by the caller's promise. The assembly keeps to the C calling convention: it saves
    // what is the callee's to save, and the caller expects the rest to be lost.
    unsafe {
        core::arch::asm!("/* {0} */", in(reg) area, options(nostack));
        moinho_bt_enter();
    }
}

global_asm!(
    ".globl moinho_bt_enter",
    ".hidden moinho_bt_enter",
    ".globl moinho_bt_leave",
    ".hidden moinho_bt_leave",
    ".p2align 4",
    "moinho_bt_enter:",
    "push rbx",
    "push rbp",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "mov gs:[{host_rsp}], rsp",
    "stmxcsr gs:[{mxcsr} + 4]",
    "ldmxcsr gs:[{mxcsr}]",
    "vmovups ymm0, gs:[{vector}]",
    "vmovups ymm1, gs:[{vector} + 32]",
    "vmovups ymm2, gs:[{vector} + 64]",
    "vmovups ymm3, gs:[{vector} + 96]",
    "vmovups ymm4, gs:[{vector} + 128]",
    "vmovups ymm5, gs:[{vector} + 160]",
    "vmovups ymm6, gs:[{vector} + 192]",
    "vmovups ymm7, gs:[{vector} + 224]",
    "vmovups ymm8, gs:[{vector} + 256]",
    "vmovups ymm9, gs:[{vector} + 288]",
    "vmovups ymm10, gs:[{vector} + 320]",
    "vmovups ymm11, gs:[{vector} + 352]",
    "vmovups ymm12, gs:[{vector} + 384]",
    "vmovups ymm13, gs:[{vector} + 416]",
    "vmovups ymm14, gs:[{vector} + 448]",
    "vmovups ymm15, gs:[{vector} + 480]",
    "mov rax, gs:[{fs_adds}]",
    "test rax, rax",
    "jz 2f",
    "wrfsbase rax",
    "2:",
    "push qword ptr gs:[{flags}]",
    "popfq",
    "mov rax, gs:[{gpr}]",
    "mov rcx, gs:[{gpr} + 8]",
    "mov rdx, gs:[{gpr} + 16]",
    "mov rbx, gs:[{gpr} + 24]",
    "mov rsp, gs:[{gpr} + 32]",
    "mov rbp, gs:[{gpr} + 40]",
    "mov rsi, gs:[{gpr} + 48]",
    "mov rdi, gs:[{gpr} + 56]",
    "mov r8, gs:[{gpr} + 64]",
    "mov r9, gs:[{gpr} + 72]",
    "mov r12, gs:[{gpr} + 96]",
    "mov r13, gs:[{gpr} + 104]",
    "mov r14, gs:[{gpr} + 112]",
    "mov r15, gs:[{gpr} + 120]",
    "jmp qword ptr gs:[{target}]",
    ".p2align 4",
    "moinho_bt_leave:",
    "mov gs:[{gpr}], rax",
    "mov gs:[{gpr} + 8], rcx",
    "mov gs:[{gpr} + 16], rdx",
    "mov gs:[{gpr} + 24], rbx",
    "mov gs:[{gpr} + 32], rsp",
    "mov gs:[{gpr} + 40], rbp",
    "mov gs:[{gpr} + 48], rsi",
    "mov gs:[{gpr} + 56], rdi",
    "mov gs:[{gpr} + 64], r8",
    "mov gs:[{gpr} + 72], r9",
    "mov gs:[{gpr} + 96], r12",
    "mov gs:[{gpr} + 104], r13",
    "mov gs:[{gpr} + 112], r14",
    "mov gs:[{gpr} + 120], r15",
    "mov rsp, gs:[{host_rsp}]",
    "pushfq",
    "pop qword ptr gs:[{flags}]",
    "cld",
    "cmp qword ptr gs:[{fs_adds}], 0",
    "je 3f",
    "mov rax, gs:[{host_fs}]",
    "wrfsbase rax",
    "3:",
    "stmxcsr gs:[{mxcsr}]",
    "ldmxcsr gs:[{mxcsr} + 4]",
    "vmovups gs:[{vector}], ymm0",
    "vmovups gs:[{vector} + 32], ymm1",
    "vmovups gs:[{vector} + 64], ymm2",
    "vmovups gs:[{vector} + 96], ymm3",
    "vmovups gs:[{vector} + 128], ymm4",
    "vmovups gs:[{vector} + 160], ymm5",
    "vmovups gs:[{vector} + 192], ymm6",
    "vmovups gs:[{vector} + 224], ymm7",
    "vmovups gs:[{vector} + 256], ymm8",
    "vmovups gs:[{vector} + 288], ymm9",
    "vmovups gs:[{vector} + 320], ymm10",
    "vmovups gs:[{vector} + 352], ymm11",
    "vmovups gs:[{vector} + 384], ymm12",
    "vmovups gs:[{vector} + 416], ymm13",
    "vmovups gs:[{vector} + 448], ymm14",
    "vmovups gs:[{vector} + 480], ymm15",
    "vzeroupper",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbp",
    "pop rbx",
    "ret",
    host_rsp = const offset_of!(Area, host_rsp),
    fs_adds = const offset_of!(Area, fs_adds),
    host_fs = const offset_of!(Area, host_fs),
    mxcsr = const offset_of!(Area, mxcsr),
    vector = const offset_of!(Area, vector),
    flags = const offset_of!(Area, flags),
    gpr = const offset_of!(Area, gpr),
    target = const offset_of!(Area, target),
);

/// Copies the x87 and MMX registers (the FXSAVE part) out of the processor.
pub fn save_x87(image: &mut Image) {
    // SAFETY: the image is larger than 512 bytes and 16-byte aligned.
    unsafe { core::arch::asm!("fxsave64 [{}]", in(reg) image, options(nostack)) };
}

/// Loads the x87 and MMX registers alone; `initial`: with their initial values, which the processor
/// then knows and XSAVEC leaves out.
pub fn load_x87(image: &mut Image, initial: bool) {
    image.0[64] = u64::from(!initial);
    image.0[65..].fill(0);
    // SAFETY: a header of the standard form, aligned; only x87 is asked for, which Rust code does
    // not use. A processor with AVX has XRSTOR, and the translator asks for AVX.
    unsafe {
        core::arch::asm!("xrstor64 [{}]", in(reg) image, in("eax") 1, in("edx") 0, options(nostack));
    }
}

/// The first 576 bytes of an XSAVE image as quadwords: the FXSAVE part and the header.
#[repr(C, align(64))]
pub struct Image(pub [u64; 72]);
