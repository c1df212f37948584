//! The border between the kernel and user mode: interrupts, exceptions and `syscall`.
//!
//! The kernel runs a task as a hypervisor runs a virtual machine: [`enter_user`] *returns* when something
//! happened, with the task's complete state in its [`Context`]:
//!
//! ```text
//! loop { context = next task; enter_user(context); look at context.vector; act }
//! ```
//!
//! The kernel itself is never interrupted: interrupts are open in ring 3 and inside [`idle`], nowhere else. So
//! there is one kernel stack, no lock, and no trouble with the red zone of the prebuilt `core`.
//!
//! How it is done: the TSS makes the processor push its frame right into the end of the running task's
//! `Context`; the stub pushes the other registers below it, and the context is complete. An interrupt that
//! comes in ring 0 can only come inside `idle`: its frame is dropped and `idle` returns the vector. An
//! exception in ring 0 is a bug of the kernel: panic. So is a double fault anywhere, and an NMI, which nothing on
//! this machine should send.

use crate::cpu;
use crate::gdt::{self, Global, TablePointer};
use core::arch::{asm, global_asm};
use core::cell::UnsafeCell;

/// The first vector of the interrupt controllers; below are the processor's exceptions.
pub const FIRST_IRQ: u64 = 32;
/// `Context::vector` after a system call: not a real vector.
pub const SYSCALL: u64 = 256;
/// Page fault.
pub const PAGE_FAULT: u64 = 14;

/// A task's registers. The order is that of the pushes below.
#[repr(C, align(16))]
pub struct Context {
    /// r15, r14, r13, r12, r11, r10, r9, r8.
    pub r15_to_r8: [u64; 8],
    pub rdi: u64,
    pub rsi: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub rdx: u64,
    pub rcx: u64,
    pub rax: u64,
    /// Why the task left ring 3.
    pub vector: u64,
    /// The processor's error code, 0 if there is none.
    pub error: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
    fxsave: [u8; 512],
}

const FRAME_SIZE: usize = core::mem::offset_of!(Context, fxsave);
const VECTOR: usize = core::mem::offset_of!(Context, vector);
const _: () = assert!(
    FRAME_SIZE % 16 == 0,
    "the processor aligns the stack before it pushes"
);

impl Context {
    /// A task about to execute its first instruction.
    pub fn new(rip: u64, rsp: u64) -> Context {
        let mut fxsave = [0; 512];
        fxsave[0..2].copy_from_slice(&0x37fu16.to_le_bytes()); // FCW after FNINIT
        fxsave[24..28].copy_from_slice(&0x1f80u32.to_le_bytes()); // MXCSR after reset
        Context {
            r15_to_r8: [0; 8],
            rdi: 0,
            rsi: 0,
            rbp: 0,
            rbx: 0,
            rdx: 0,
            rcx: 0,
            rax: 0,
            vector: 0,
            error: 0,
            rip,
            cs: gdt::USER_CODE,
            rflags: 0x202, // IF
            rsp,
            ss: gdt::USER_DATA,
            fxsave,
        }
    }
}

unsafe extern "C" {
    /// Runs user code until the next trap; `context` holds the state before and after.
    ///
    /// # Safety
    /// CR3 must be the task's.
    pub fn enter_user(context: *mut Context);
    fn idle_until_interrupt() -> u64;
    fn syscall_entry();
    static trap_stubs: [u8; 0];
}

/// Waits, halted, for an interrupt; returns its vector.
pub fn idle() -> u64 {
    // SAFETY: the kernel expects interrupts here and holds nothing they could disturb.
    unsafe { idle_until_interrupt() }
}

global_asm!(
    r#"
    .text
    .balign 16
trap_stubs:                                   # 48 stubs of 16 bytes: exceptions and the two PICs
    .set vector, 0
    .rept 48
    .balign 16
    .if vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21 || vector == 29 || vector == 30
    .else
    push 0                                    # no error code from the processor: keep the frame uniform
    .endif
    push vector
    .if vector == 2 || vector == 8            # NMI, double fault: on the emergency stack, and the end
    jmp die
    .else
    jmp trap
    .endif
    .set vector, vector + 1
    .endr

    .balign 16
syscall_entry:                                # rcx = rip, r11 = rflags, still the user's stack
    mov [rip + user_rsp], rsp
    mov rsp, [rip + TSS + 4]                  # the end of the context, as for a trap
    push {user_data}
    push [rip + user_rsp]
    push r11
    push {user_code}
    push rcx
    push 0
    push {syscall}
    jmp save_context

trap:
    test byte ptr [rsp + 24], 3               # from which ring? (saved cs)
    jz trap_in_kernel
save_context:
    push rax
    push rcx
    push rdx
    push rbx
    push rbp
    push rsi
    push rdi
    push r8
    push r9
    push r10
    push r11
    push r12
    push r13
    push r14
    push r15
    fxsave64 [rsp + {frame_size}]             # compiled kernel code uses xmm registers too
leave_to_kernel:
    cld
    mov rsp, [rip + kernel_rsp]
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret                                       # from enter_user or idle_until_interrupt

trap_in_kernel:
    cmp qword ptr [rsp], {first_irq}
    jb 2f
    mov rax, [rsp]
    jmp leave_to_kernel
2:
die:
    mov rdi, rsp
    and rsp, -16
    cld
    call kernel_fault

    .globl enter_user
enter_user:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    mov [rip + kernel_rsp], rsp
    lea rax, [rdi + {frame_size}]
    mov [rip + TSS + 4], rax                  # rsp0
    fxrstor64 [rax]
    mov rsp, rdi
    cmp qword ptr [rsp + {vector}], {syscall}
    pop r15
    pop r14
    pop r13
    pop r12
    pop r11
    pop r10
    pop r9
    pop r8
    pop rdi
    pop rsi
    pop rbp
    pop rbx
    pop rdx
    pop rcx
    pop rax
    je 2f
    add rsp, 16                               # vector, error code
    iretq
2:  mov rcx, [rsp + 16]                       # rip: canonical, for no user page lies at the very end of the half
    mov r11, [rsp + 32]                       # rflags
    mov rsp, [rsp + 40]
    sysretq

    .globl idle_until_interrupt
idle_until_interrupt:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    mov [rip + kernel_rsp], rsp
2:  sti                                       # takes effect after the hlt: no wake-up is lost
    hlt
    jmp 2b

    .bss
    .balign 8
kernel_rsp: .skip 8
user_rsp:   .skip 8
    .text
"#,
    user_data = const gdt::USER_DATA,
    user_code = const gdt::USER_CODE,
    syscall = const SYSCALL,
    frame_size = const FRAME_SIZE,
    vector = const VECTOR,
    first_irq = const FIRST_IRQ,
);

static IDT: Global<[[u64; 2]; 48]> = Global(UnsafeCell::new([[0; 2]; 48]));

/// Fills and loads the IDT and sets up `syscall`.
pub fn load() {
    const INTERRUPT_GATE: u64 = 0x8e << 40;
    const RING3: u64 = 3 << 45;
    // SAFETY: runs once at boot; the stubs are those above.
    unsafe {
        for vector in 0..48u64 {
            let stub = trap_stubs.as_ptr() as u64 + 16 * vector;
            let ist = if vector == 2 || vector == 8 {
                1u64 << 32
            } else {
                0
            };
            let ring3 = if vector == 3 { RING3 } else { 0 }; // int3 is anybody's
            (*IDT.0.get())[vector as usize] = [
                stub & 0xffff
                    | gdt::KERNEL_CODE << 16
                    | ist
                    | INTERRUPT_GATE
                    | ring3
                    | (stub >> 16 & 0xffff) << 48,
                stub >> 32,
            ];
        }
        let pointer = TablePointer {
            limit: 48 * 16 - 1,
            base: IDT.0.get() as u64,
        };
        asm!("lidt [{}]", in(reg) &pointer, options(nostack));
        cpu::wrmsr(
            cpu::STAR,
            (gdt::KERNEL_DATA | 3) << 48 | gdt::KERNEL_CODE << 32,
        );
        cpu::wrmsr(cpu::LSTAR, syscall_entry as *const () as u64);
        cpu::wrmsr(cpu::SFMASK, 0x4_4700); // AC, NT, DF, IF, TF
    }
}

/// Makes the next exception a triple fault, which resets the machine: there is no IDT any more.
pub fn triple_fault() -> ! {
    let nothing = TablePointer { limit: 0, base: 0 };
    // SAFETY: the machine is meant to stop here.
    unsafe { asm!("lidt [{}]", "int3", in(reg) &nothing, options(nostack)) }
    cpu::halt_for_ever()
}

/// What the stub of a trap in ring 0 leaves on the stack.
#[repr(C)]
struct KernelFrame {
    vector: u64,
    error: u64,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

#[unsafe(no_mangle)]
extern "C" fn kernel_fault(frame: &KernelFrame) -> ! {
    panic!(
        "{} in ring {}: rip {:#x}, rsp {:#x}, error code {:#x}, cr2 {:#x}",
        name(frame.vector),
        frame.cs & 3,
        frame.rip,
        frame.rsp,
        frame.error,
        cpu::cr2()
    );
}

/// An exception's mnemonic (SDM, "Exception and Interrupt Reference").
pub fn name(vector: u64) -> &'static str {
    const NAMES: [&str; 22] = [
        "#DE",
        "#DB",
        "NMI",
        "#BP",
        "#OF",
        "#BR",
        "#UD",
        "#NM",
        "#DF",
        "vector 9",
        "#TS",
        "#NP",
        "#SS",
        "#GP",
        "#PF",
        "vector 15",
        "#MF",
        "#AC",
        "#MC",
        "#XM",
        "#VE",
        "#CP",
    ];
    NAMES.get(vector as usize).copied().unwrap_or("exception")
}
