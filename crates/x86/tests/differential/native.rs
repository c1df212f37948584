//! The physical processor: loads a case's state, runs its one instruction, takes the state back.
//!
//! The instruction lies in a read-only code page at a fixed low address, followed by a jump to a
//! stub that stores every register at fixed low addresses. An exception arrives as a signal, whose
//! context holds the registers, the vector, the error code and CR2. Everything runs in a process
//! that may die: see `main`.

use super::generate::{CODE, CODE_SIZE, Case, EXIT_JUMP, WINDOW, WINDOW_RO, WINDOW_RW};
use super::state::{Exception, Outcome, Registers, XSAVE};
use std::sync::atomic::{AtomicBool, Ordering};

/// Where the stubs are.
const STUBS: u64 = 0x5000_0000;
/// Where the state is loaded from and stored to.
const STATE: u64 = 0x6000_0000;

/// What the stubs read and write; the offsets are in the assembly below.
#[repr(C, align(64))]
struct Block {
    gpr: [u64; 16],        // 0x000
    rflags: u64,           // 0x080
    target: u64,           // 0x088
    host_rsp: u64,         // 0x090
    mxcsr: u64,            // 0x098
    far: [u64; 2],         // 0x0a0: offset and selector of the 32-bit code
    stack: [u64; 42],      // 0x0b0
    out_gpr: [u64; 16],    // 0x200
    out_rflags: u64,       // 0x280
    spare: [u64; 47],      // 0x288
    image: [u8; 1024],     // 0x400
    out_image: [u8; 1024], // 0x800
}

core::arch::global_asm!(
    ".section .rodata.moinho_stubs, \"a\"",
    ".globl moinho_stubs_start, moinho_enter32, moinho_exit64, moinho_exit32, moinho_resume, moinho_stubs_end",
    "moinho_stubs_start:",
    // Enters 64-bit code.
    "push rbx; push rbp; push r12; push r13; push r14; push r15",
    "mov [0x60000090], rsp",
    "call 2f",
    "jmp qword ptr [0x60000088]",
    // Loads everything; comes back to its caller's next instruction.
    "2: pop qword ptr [0x600000b0]",
    "mov eax, 7",
    "xor edx, edx",
    "xrstor64 [0x60000400]",
    "mov esp, 0x600001f0",
    "push qword ptr [0x60000080]",
    "popfq",
    "mov rax, [0x60000000]",
    "mov rcx, [0x60000008]",
    "mov rdx, [0x60000010]",
    "mov rbx, [0x60000018]",
    "mov rsp, [0x60000020]",
    "mov rbp, [0x60000028]",
    "mov rsi, [0x60000030]",
    "mov rdi, [0x60000038]",
    "mov r8, [0x60000040]",
    "mov r9, [0x60000048]",
    "mov r10, [0x60000050]",
    "mov r11, [0x60000058]",
    "mov r12, [0x60000060]",
    "mov r13, [0x60000068]",
    "mov r14, [0x60000070]",
    "mov r15, [0x60000078]",
    "jmp qword ptr [0x600000b0]",
    // Enters 32-bit code.
    "moinho_enter32:",
    "push rbx; push rbp; push r12; push r13; push r14; push r15",
    "mov [0x60000090], rsp",
    "mov eax, 0x2b",
    "mov ds, eax",
    "mov es, eax",
    "call 2b",
    ".byte 0xff, 0x2c, 0x25; .long 0x600000a0",
    // Leaves 64-bit code.
    "moinho_exit64:",
    "mov [0x60000200], rax",
    "mov [0x60000208], rcx",
    "mov [0x60000210], rdx",
    "mov [0x60000218], rbx",
    "mov [0x60000220], rsp",
    "mov [0x60000228], rbp",
    "mov [0x60000230], rsi",
    "mov [0x60000238], rdi",
    "mov [0x60000240], r8",
    "mov [0x60000248], r9",
    "mov [0x60000250], r10",
    "mov [0x60000258], r11",
    "mov [0x60000260], r12",
    "mov [0x60000268], r13",
    "mov [0x60000270], r14",
    "mov [0x60000278], r15",
    "mov esp, 0x600001f0",
    "pushfq",
    "pop qword ptr [0x60000280]",
    "3: push 2",
    "popfq",
    "mov eax, 7",
    "xor edx, edx",
    "xsave64 [0x60000800]",
    // Back to the host's environment, from here and from the signal handler.
    "moinho_resume:",
    "fninit",
    "ldmxcsr [0x60000098]",
    "vzeroupper",
    "xor eax, eax",
    "mov ds, eax",
    "mov es, eax",
    "mov rsp, [0x60000090]",
    "pop r15; pop r14; pop r13; pop r12; pop rbp; pop rbx",
    "cld",
    "ret",
    // Leaves 32-bit code.
    ".code32",
    "moinho_exit32:",
    "mov [0x60000200], eax",
    "mov [0x60000208], ecx",
    "mov [0x60000210], edx",
    "mov [0x60000218], ebx",
    "mov [0x60000220], esp",
    "mov [0x60000228], ebp",
    "mov [0x60000230], esi",
    "mov [0x60000238], edi",
    "mov esp, 0x600001f0",
    "pushfd",
    "pop dword ptr [0x60000280]",
    ".byte 0xea; .long 3b - moinho_stubs_start + 0x50000000; .word 0x33",
    ".code64",
    "moinho_stubs_end:",
    ".text",
);

unsafe extern "C" {
    static moinho_stubs_start: u8;
    static moinho_enter32: u8;
    static moinho_exit64: u8;
    static moinho_exit32: u8;
    static moinho_resume: u8;
    static moinho_stubs_end: u8;
}

fn stub(label: &'static u8) -> u64 {
    let start = &raw const moinho_stubs_start as u64;
    STUBS + (label as *const u8 as u64 - start)
}

static RUNNING: AtomicBool = AtomicBool::new(false);
/// The state a signal found; valid while `SIGNALLED`.
static mut FOUND: Found = Found {
    gregs: [0; 23],
    image: [0; XSAVE],
};
static SIGNALLED: AtomicBool = AtomicBool::new(false);

struct Found {
    gregs: [i64; 23],
    image: [u8; XSAVE],
}

extern "C" fn on_signal(signal: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // The case may have set AC; the kernel leaves it on.
    // SAFETY: clears one flag.
    unsafe { core::arch::asm!("pushfq", "and dword ptr [rsp], 0xfffbffff", "popfq") };
    if !RUNNING.swap(false, Ordering::Relaxed) {
        // Our own mistake: die of it.
        // SAFETY: restores the default action.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
        return;
    }
    // SAFETY: the kernel's context; nobody else touches FOUND while a case runs.
    unsafe {
        let context = &mut *context.cast::<libc::ucontext_t>();
        let gregs = &mut context.uc_mcontext.gregs;
        let found = &raw mut FOUND;
        (*found).gregs = *gregs;
        let image = context.uc_mcontext.fpregs.cast::<u8>();
        core::ptr::copy_nonoverlapping(image, (&raw mut (*found).image).cast(), XSAVE);
        gregs[libc::REG_RIP as usize] = stub(&moinho_resume) as i64;
        gregs[libc::REG_EFL as usize] = 0x202;
        let selectors = &mut gregs[libc::REG_CSGSFS as usize];
        *selectors = *selectors & !0xffff | 0x33;
    }
    SIGNALLED.store(true, Ordering::Relaxed);
}

fn map(at: u64, len: usize, rights: i32, flags: i32, file: i32) -> *mut u8 {
    // SAFETY: a new mapping at a place nobody uses (MAP_FIXED_NOREPLACE), or anywhere.
    let p = unsafe { libc::mmap(at as *mut _, len, rights, flags, file, 0) };
    assert!(
        p != libc::MAP_FAILED && (at == 0 || p as u64 == at),
        "mmap at {at:#x}: {}",
        std::io::Error::last_os_error()
    );
    p.cast()
}

/// The physical processor with the window, code and state mapped.
pub struct Native {
    code: *mut u8,
    exit: [u64; 2],
    enter: [u64; 2],
}

impl Native {
    /// Maps everything into this process and takes its signals over.
    pub fn new(background: &[u8]) -> Native {
        use libc::{MAP_ANONYMOUS, MAP_FIXED_NOREPLACE, MAP_PRIVATE, MAP_SHARED};
        use libc::{PROT_EXEC, PROT_READ, PROT_WRITE};
        let rw = PROT_READ | PROT_WRITE;
        let fixed = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE;
        let window = map(WINDOW, WINDOW_RW + WINDOW_RO, rw, fixed, -1);
        map(STATE, 0x1000, rw, fixed, -1);
        let stubs = map(STUBS, 0x1000, rw, fixed, -1);
        // SAFETY: fresh mappings of these sizes; the stubs are shorter than a page.
        let code = unsafe {
            window.copy_from_nonoverlapping(background.as_ptr(), WINDOW_RW + WINDOW_RO);
            let ro = window.add(WINDOW_RW);
            assert_eq!(libc::mprotect(ro.cast(), WINDOW_RO, PROT_READ), 0);
            let start = &raw const moinho_stubs_start;
            let len = (&raw const moinho_stubs_end).offset_from(start) as usize;
            assert!(len < 0x1000);
            stubs.copy_from_nonoverlapping(start, len);
            assert_eq!(
                libc::mprotect(stubs.cast(), 0x1000, PROT_READ | PROT_EXEC),
                0
            );
            let file = libc::memfd_create(c"code".as_ptr(), 0);
            assert!(file >= 0 && libc::ftruncate(file, CODE_SIZE as i64) == 0);
            let writable = map(0, CODE_SIZE, rw, MAP_SHARED, file);
            writable.write_bytes(0xcc, CODE_SIZE);
            map(
                CODE,
                CODE_SIZE,
                PROT_READ | PROT_EXEC,
                MAP_SHARED | MAP_FIXED_NOREPLACE,
                file,
            );
            // Present from the start, so that page faults have their final error code.
            (CODE as *const u8).read_volatile();
            ((CODE + 0x1000) as *const u8).read_volatile();
            let block = &mut *(STATE as *mut Block);
            block.mxcsr = 0x1f80;
            let stack = map(0, 0x10000, rw, MAP_PRIVATE | MAP_ANONYMOUS, -1);
            let alternate = libc::stack_t {
                ss_sp: stack.cast(),
                ss_flags: 0,
                ss_size: 0x10000,
            };
            assert_eq!(libc::sigaltstack(&alternate, core::ptr::null_mut()), 0);
            let mut action: libc::sigaction = core::mem::zeroed();
            action.sa_sigaction = on_signal as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
            for signal in [
                libc::SIGFPE,
                libc::SIGSEGV,
                libc::SIGILL,
                libc::SIGTRAP,
                libc::SIGBUS,
            ] {
                libc::sigaction(signal, &action, core::ptr::null_mut());
            }
            writable
        };
        // SAFETY: symbols of the stubs.
        unsafe {
            Native {
                code,
                exit: [stub(&moinho_exit64), stub(&moinho_exit32)],
                enter: [stub(&moinho_stubs_start), stub(&moinho_enter32)],
            }
        }
    }

    fn put_code(&mut self, at: u64, bytes: &[u8]) {
        let offset = (at - CODE) as usize;
        assert!(offset + bytes.len() <= CODE_SIZE);
        // SAFETY: inside the writable view.
        unsafe {
            self.code
                .add(offset)
                .copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
        }
    }

    /// Runs one case; `memory` is what the window holds before it.
    pub fn run(&mut self, case: &Case, memory: &[u8]) -> Outcome {
        let narrow = usize::from(case.bits != 64);
        let len = case.bytes.len();
        let next = case.at + len as u64;
        self.put_code(case.at, &case.bytes);
        if case.falls_through {
            let relative = (self.exit[narrow].wrapping_sub(next + EXIT_JUMP as u64)) as u32;
            let mut jump = [0xe9; EXIT_JUMP];
            jump[1..].copy_from_slice(&relative.to_le_bytes());
            self.put_code(next, &jump);
        }
        let mut registers = Registers::default();
        // SAFETY: STATE and WINDOW are mapped by `new`; the stub keeps the callee-saved registers
        // and comes back by its end or by the signal handler.
        let exception = unsafe {
            (WINDOW as *mut u8).copy_from_nonoverlapping(memory.as_ptr(), WINDOW_RW);
            let block = &raw mut *(STATE as *mut Block);
            (*block).gpr = case.registers.gpr;
            (*block).rflags = case.registers.rflags;
            (*block).target = case.at;
            (*block).far = [case.at | 0x23 << 32, 0];
            (*block).out_gpr = case.registers.gpr;
            (*block).out_rflags = 0;
            case.registers.store_xsave(&mut (*block).image);
            let enter: extern "C" fn() = core::mem::transmute(self.enter[narrow]);
            SIGNALLED.store(false, Ordering::Relaxed);
            RUNNING.store(true, Ordering::Relaxed);
            core::sync::atomic::compiler_fence(Ordering::SeqCst);
            enter();
            core::sync::atomic::compiler_fence(Ordering::SeqCst);
            RUNNING.store(false, Ordering::Relaxed);
            if SIGNALLED.load(Ordering::Relaxed) {
                let at = &raw const FOUND;
                let found = &*at;
                let g = |n: i32| found.gregs[n as usize] as u64;
                use libc::*;
                registers.gpr = [
                    REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI, REG_R8,
                    REG_R9, REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15,
                ]
                .map(g);
                registers.rip = g(REG_RIP);
                registers.rflags = g(REG_EFL);
                registers.load_xsave(&found.image);
                let vector = g(REG_TRAPNO) as u8;
                let error = g(REG_ERR) as u32;
                let address = g(REG_CR2);
                let rip = registers.rip;
                if vector == 3 && rip - 1 != case.at {
                    // A landing place.
                    registers.rip = rip - 1;
                    None
                } else if vector == 14 && error & 0x10 != 0 && address == rip && rip != case.at {
                    // The instruction jumped to where nothing is.
                    None
                } else {
                    Some(Exception {
                        vector,
                        error,
                        address: if vector == 14 { address } else { 0 },
                    })
                }
            } else {
                registers.gpr = (*block).out_gpr;
                registers.rip = next;
                registers.rflags = (*block).out_rflags;
                registers.load_xsave(&(*block).out_image);
                None
            }
        };
        self.put_code(case.at, &[0xcc; 15 + EXIT_JUMP][..len + EXIT_JUMP]);
        let mut after = vec![0; WINDOW_RW];
        // SAFETY: as above.
        unsafe {
            after
                .as_mut_ptr()
                .copy_from_nonoverlapping(WINDOW as *const u8, WINDOW_RW)
        };
        Outcome {
            registers,
            exception,
            memory: after,
            broken: None,
        }
    }
}
