//! `priv`: privileged and sensitive instructions, executed where they are not allowed.
//!
//! A machine can be virtualized by simply running it in a less privileged mode if every *sensitive*
//! instruction is also *privileged*, that is, traps (Popek and Goldberg, 1974). The x86 has some that do not:
//! they silently do something else, or tell what they should hide. Both kinds are shown.

use crate::print;
use crate::sys::{abi, call};

/// Executes instructions with a catch set; 0, or 1 + vector + (error code << 8).
macro_rules! attempt {
    ($instructions:literal) => {{
        let outcome: u64;
        // SAFETY: either the instructions fault and change nothing, or they are harmless in ring 3; all
        // registers they may touch are listed.
        unsafe {
            core::arch::asm!(
                "lea rdi, [rip + 2f]",
                "mov eax, {catch}",
                "syscall",
                "xor eax, eax",
                "xor edx, edx",
                "mov ecx, 0xc0000080",
                $instructions,
                "xor eax, eax",
                "2:",
                catch = const abi::CATCH,
                out("rax") outcome, out("rcx") _, out("rdx") _, out("rdi") _, out("r8") _, out("r11") _,
            );
        }
        call(abi::CATCH, 0, 0, 0);
        show_outcome($instructions, outcome);
    }};
}

fn show_outcome(instruction: &str, outcome: u64) {
    match outcome {
        0 => print!("  {instruction:<20} no trap\n"),
        _ => {
            let (vector, error) = ((outcome - 1) & 0xff, outcome >> 8);
            let name = match vector {
                6 => "#UD",
                13 => "#GP",
                14 => "#PF",
                _ => "exception",
            };
            print!(
                "  {instruction:<20} {name} (vector {vector}, error code {error:#x}) delivered to the kernel\n"
            );
        }
    }
}

/// The command.
pub fn show(_: &str) {
    print!("privileged instructions in ring 3:\n");
    attempt!("cli");
    attempt!("hlt");
    attempt!("mov cr3, rax");
    attempt!("mov r8, cr0");
    attempt!("rdmsr");
    attempt!("wbinvd");
    attempt!("in al, 0x20");
    print!("sensitive instructions that do not trap:\n");
    let (flags, after): (u64, u64);
    let mut gdt = [0u8; 10];
    let (machine_status, task): (u64, u64);
    // SAFETY: ring 3 may execute all of these; `popf` restores what was there but for IF, which it ignores.
    unsafe {
        core::arch::asm!(
            "pushfq", "pop {flags}", "mov {after}, {flags}", "and {after}, -513", "push {after}", "popfq", "pushfq", "pop {after}",
            flags = out(reg) flags, after = out(reg) after
        );
        core::arch::asm!("sgdt [{}]", in(reg) gdt.as_mut_ptr(), options(nostack));
        core::arch::asm!("smsw {:r}", "str {:e}", out(reg) machine_status, out(reg) task, options(nostack));
    }
    print!(
        "  popf with IF = 0     IF was {}, is {}: ignored in silence\n",
        flags >> 9 & 1,
        after >> 9 & 1
    );
    let base = u64::from_le_bytes([
        gdt[2], gdt[3], gdt[4], gdt[5], gdt[6], gdt[7], gdt[8], gdt[9],
    ]);
    print!(
        "  sgdt                 base {base:#x}, limit {:#x}: the kernel's own\n",
        u16::from_le_bytes([gdt[0], gdt[1]])
    );
    print!(
        "  smsw, str            CR0 {:#x}, task register {task:#x}\n",
        machine_status & 0xffff_ffff
    );
}
