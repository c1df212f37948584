//! The first instructions: from the boot loader's 32-bit protected mode to `kernel_main` in the upper half.
//!
//! Two doors lead to `boot_entry`, and both leave the processor in the same state (32-bit flat segments, no
//! paging, interrupts off):
//! - **PVH** (Xen's public header `start_info.h`): the ELF note below names the entry; `ebx` = `hvm_start_info`.
//! - **multiboot 1**: the header below; `eax` = 0x2BADB002, `ebx` = multiboot information. The "a.out kludge"
//!   fields say where to load the file, for loaders that will not read a 64-bit ELF.
//!
//! The page tables built here stay in use for the kernel's half of every address space:
//!
//! | linear | maps |
//! |---|---|
//! | 0 | the first 4 GiB, for the jump only; removed in `paging::forget_identity_map` |
//! | `DIRECT_MAP` 0xffff_8000_0000_0000 | the first 4 GiB: RAM, ACPI tables, device memory |
//! | `KERNEL_BASE` 0xffff_ffff_8000_0000 | the first 2 GiB: the kernel's own code and data |

use core::arch::global_asm;

/// `eax` at the entry when a multiboot loader started us.
pub const MULTIBOOT_MAGIC: u32 = 0x2bad_b002;

global_asm!(
    r#"
    .set BASE, 0xffffffff80000000
    .set PRESENT_WRITABLE, 3
    .set PRESENT_WRITABLE_LARGE, 0x83

    .section .boot.header, "a"
    .balign 4
multiboot_header:
    .set MULTIBOOT_FLAGS, 0x00010003          # aligned modules, memory map, addresses below are valid
    .long 0x1badb002, MULTIBOOT_FLAGS, -(0x1badb002 + MULTIBOOT_FLAGS)
    .long multiboot_header, load_start, load_end, bss_end, boot_entry

    .section .note.pvh, "a", @note
    .balign 4
    .long 4, 4, 18                            # XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .long boot_entry

    .section .boot.text, "ax"
    .code32
    .globl boot_entry
boot_entry:
    cli
    cld
    movl %ebx, %edi                           # kernel_main's first argument: the loader's information
    movl %eax, %esi                           # and its second: the magic number
    movl $boot_stack_top - BASE, %esp

    movl $0x80000000, %eax                    # is there long mode?
    cpuid
    cmpl $0x80000001, %eax
    jb no_long_mode
    movl $0x80000001, %eax
    cpuid
    testl $1 << 29, %edx
    jz no_long_mode

    movl $boot_pdpt - BASE + PRESENT_WRITABLE, %eax
    movl %eax, boot_pml4 - BASE               # identity
    movl %eax, boot_pml4 - BASE + 256 * 8     # direct map
    movl $boot_pdpt_kernel - BASE + PRESENT_WRITABLE, boot_pml4 - BASE + 511 * 8
    movl $boot_pd - BASE + PRESENT_WRITABLE, %eax
    movl %eax, boot_pdpt_kernel - BASE + 510 * 8
    movl %eax, boot_pdpt - BASE
    addl $0x1000, %eax
    movl %eax, boot_pdpt_kernel - BASE + 511 * 8
    movl %eax, boot_pdpt - BASE + 8
    addl $0x1000, %eax
    movl %eax, boot_pdpt - BASE + 16
    addl $0x1000, %eax
    movl %eax, boot_pdpt - BASE + 24
    xorl %ecx, %ecx
1:  movl %ecx, %eax                           # 2048 large pages of 2 MiB: 4 GiB
    shll $21, %eax
    orl $PRESENT_WRITABLE_LARGE, %eax
    movl %eax, boot_pd - BASE(, %ecx, 8)
    incl %ecx
    cmpl $2048, %ecx
    jne 1b

    movl $boot_pml4 - BASE, %eax
    movl %eax, %cr3
    movl %cr4, %eax
    orl $0x620, %eax                          # PAE; OSFXSR, OSXMMEXCPT: compiled Rust uses xmm registers
    movl %eax, %cr4
    movl $0xc0000080, %ecx                    # EFER
    rdmsr
    orl $0x101, %eax                          # LME, SCE (syscall)
    wrmsr
    movl %cr0, %eax
    andl $~0xc, %eax                          # not EM, TS: the FPU is there
    orl $0x80010023, %eax                     # PG, WP, NE, MP, PE
    movl %eax, %cr0
    lgdt boot_gdt_pointer
    ljmp $8, $boot_long_mode

no_long_mode:
    movl $no_long_mode_text, %esi
    movw $0x3f8, %dx
1:  lodsb
    testb %al, %al
    jz 2f
    outb %al, %dx
    jmp 1b
2:  hlt
    jmp 2b
no_long_mode_text:
    .asciz "Moinho's built-in guest needs a 64-bit processor.\r\n"

    .code64
boot_long_mode:
    movabsq $boot_upper_half, %rax
    jmp *%rax

    .balign 8
boot_gdt:
    .quad 0, 0x00af9b000000ffff               # 64-bit code; the rest comes with the real GDT
boot_gdt_pointer:
    .word 15
    .long boot_gdt

    .text
boot_upper_half:
    xorl %eax, %eax
    movw %ax, %ss
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %fs
    movw %ax, %gs
    leaq boot_stack_top(%rip), %rsp
    movl %edi, %edi                           # the upper halves are undefined after the mode switch
    movl %esi, %esi
    xorl %ebp, %ebp
    call kernel_main
    ud2

    .bss
    .balign 4096
    .globl boot_pml4
boot_pml4:        .skip 4096
boot_pdpt:        .skip 4096
boot_pdpt_kernel: .skip 4096
boot_pd:          .skip 4 * 4096
boot_stack:       .skip 64 * 1024
boot_stack_top:
    .text
"#,
    options(att_syntax)
);
