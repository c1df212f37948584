//! Faults of translated code: an integer division, an unmasked floating-point exception, a
//! misaligned SSE operand. The host raises SIGFPE or SIGSEGV; the handler leads the thread out of
//! the code, with the guest's registers as they were before the instruction, and the interpreter
//! then raises what the guest is due.

use crate::area::{Area, Fault};
use core::cell::Cell;
use core::mem::{MaybeUninit, offset_of, zeroed};
use core::sync::atomic::{AtomicU8, Ordering};
use std::sync::Once;

/// What the handler needs to know of this thread's translated code.
#[derive(Clone, Copy, Debug)]
pub struct Code {
    /// First host address of the code cache and the one behind the last.
    pub range: (u64, u64),
    /// Where to go on: stores R10 as the place of the fault and leaves.
    pub resume: u64,
}

thread_local! {
    static CODE: Cell<Code> = const { Cell::new(Code { range: (0, 0), resume: 0 }) };
    static FAULT: Cell<Fault> = const { Cell::new(Fault { r10: 0, r11: 0, address: 0, code: 0, at: 0 }) };
    static READY: Cell<bool> = const { Cell::new(false) };
}

/// What the last fault of this thread's translated code was.
pub fn last_fault() -> Fault {
    FAULT.get()
}

/// Size of the signal stack: the frame holds the vector state, AVX-512 included.
const STACK: usize = 64 << 10;

/// Makes this thread ready to run translated code: no signal but the code's own reaches it, and
/// those have a stack.
pub fn prepare_thread(code: Code) {
    install_handler();
    CODE.set(code);
    if READY.replace(true) {
        return;
    }
    // The stack lives as long as the process: threads of a machine are few.
    let stack = Box::leak(vec![0u8; STACK].into_boxed_slice());
    // SAFETY: the stack is leaked, the sets are initialised by the calls that fill them.
    unsafe {
        let alternate = libc::stack_t {
            ss_sp: stack.as_mut_ptr().cast(),
            ss_flags: 0,
            ss_size: STACK,
        };
        libc::sigaltstack(&alternate, core::ptr::null_mut());
        let mut all = MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigfillset(all.as_mut_ptr());
        let mut all = all.assume_init();
        for signal in SIGNALS {
            libc::sigdelset(&mut all, signal);
        }
        libc::pthread_sigmask(libc::SIG_BLOCK, &all, core::ptr::null_mut());
    }
}

const SIGNALS: [i32; 3] = [libc::SIGFPE, libc::SIGSEGV, libc::SIGBUS];

fn install_handler() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        for signal in SIGNALS {
            // SAFETY: the handler only reads thread-locals without destructors and changes the
            // interrupted context: async-signal-safe.
            unsafe {
                let mut action: libc::sigaction = zeroed();
                action.sa_sigaction = handler as *const () as usize;
                action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
                libc::sigfillset(&mut action.sa_mask);
                libc::sigaction(signal, &action, core::ptr::null_mut());
            }
        }
    });
}

extern "C" fn handler(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    if has_fsgsbase_known() {
        // Thread-locals are behind FS, which translated code may have taken for the window.
        // SAFETY: only where FS has one of two values is the thread in translated code, with GS at its
        // area; the instructions are enabled.
        unsafe {
            core::arch::asm!(
                "rdfsbase {now}",
                "cmp {now}, {window}",
                "je 3f",
                "cmp {now}, {nowhere}",
                "jne 2f",
                "3:",
                "mov {now}, gs:[{host_fs}]",
                "wrfsbase {now}",
                "2:",
                now = out(reg) _,
                window = in(reg) crate::window::BASE,
                nowhere = in(reg) crate::window::NOWHERE,
                host_fs = const offset_of!(Area, host_fs),
                options(nostack),
            );
        }
    }
    let code = CODE.get();
    // SAFETY: the kernel hands over a context that is ours to change until we return.
    let registers = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    let pc = registers[libc::REG_RIP as usize] as u64;
    if (code.range.0..code.range.1).contains(&pc) {
        const PAGE_FAULT: i64 = 14;
        let paging = registers[libc::REG_TRAPNO as usize] == PAGE_FAULT;
        // SAFETY: as above; the kernel hands over what it knows.
        let address = if paging {
            unsafe { (*info).si_addr() as u64 }
        } else {
            0
        };
        let fault = Fault {
            r10: registers[libc::REG_R10 as usize] as u64,
            r11: registers[libc::REG_R11 as usize] as u64,
            address,
            code: registers[libc::REG_ERR as usize] as u64,
            at: pc,
        };
        FAULT.set(fault);
        // R10 is scratch: its guest value is in the area.
        registers[libc::REG_R10 as usize] = pc as i64;
        registers[libc::REG_RIP as usize] = code.resume as i64;
        return;
    }
    // Not translated code: our own mistake. The default action, at the same instruction again.
    // SAFETY: restoring the default disposition is always allowed.
    unsafe {
        let mut action: libc::sigaction = zeroed();
        action.sa_sigaction = libc::SIG_DFL;
        libc::sigaction(signal, &action, core::ptr::null_mut());
    }
}

/// True if the host's kernel lets programs set the bases of FS and GS by instructions.
pub fn has_fsgsbase() -> bool {
    const HWCAP2_FSGSBASE: u64 = 2;
    if FSGSBASE.load(Ordering::Relaxed) == 0 {
        // SAFETY: reads the auxiliary vector.
        let has = unsafe { libc::getauxval(libc::AT_HWCAP2) & HWCAP2_FSGSBASE != 0 };
        FSGSBASE.store(1 + u8::from(has), Ordering::Relaxed);
    }
    has_fsgsbase_known()
}

/// The same for whoever may not touch thread-locals; false if nobody has asked yet.
fn has_fsgsbase_known() -> bool {
    FSGSBASE.load(Ordering::Relaxed) == 2
}

/// Not known yet, no, yes.
static FSGSBASE: AtomicU8 = AtomicU8::new(0);

/// The thread's `fs` base, where [`has_fsgsbase`].
pub fn fs() -> u64 {
    let base;
    // SAFETY: the kernel says that the instruction is enabled.
    unsafe { core::arch::asm!("rdfsbase {}", out(reg) base, options(nostack, nomem)) };
    base
}

/// Sets the thread's `gs` base: by the instruction where the host's kernel lets programs use it.
pub fn set_gs(base: u64) {
    const ARCH_SET_GS: i32 = 0x1001;
    if has_fsgsbase() {
        // SAFETY: as below; the kernel says that the instruction is enabled.
        unsafe { core::arch::asm!("wrgsbase {}", in(reg) base, options(nostack)) };
        return;
    }
    // SAFETY: user code of Linux on x86-64 does not use gs; this thread's translated code does.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_SET_GS, base) };
}
