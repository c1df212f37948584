# about: vector, error code and saved RIP of exceptions in long mode: #DE #BP #OF #UD #NM #GP #PF #MF, undefined opcodes, 15-byte limit, priorities
# kind: pvh32
    .include "lib.inc"
    program_pvh32
    enter_long64
    load_tss
    user_pages
    # #DE: by zero and by a quotient too large; nothing changes.
    mov eax, 5
    mov edx, 7
    xor ecx, ecx
    expect_fault 0, 0, "div ecx"
    expect_fault 0, 0, "idiv rcx"
    mov ecx, 7
    expect_fault 0, 0, "div ecx"                    # 7:5 / 7 has no room
    expect eax, 5
    expect edx, 7
    mov rax, 0x8000000000000000
    cqo
    mov rcx, -1
    expect_fault 0, 0, "idiv rcx"
    mov al, 0x80
    cbw
    mov cl, -1
    expect_fault 0, 0, "idiv cl"
    # Traps: INT3, INT n.
    expect_trap 3, 0, "int3"
    expect_trap 3, 0, ".byte 0xcd, 3"
    set_gate 0x10, stubs64+16*3, 0x8e00
    expect_trap 3, 0, "int 0x10"
    set_gate 0x10, stubs64+16*16, 0x8e00
    expect_trap 4, 0, "int 4"
    # #UD: UD2, UD1, undefined, invalid in 64-bit mode, register forms of memory operands, segment registers that are none.
    .irp instruction, "ud2", "ud1 eax, eax", ".byte 0x0f, 0x0a", ".byte 0x06", ".byte 0x27", ".byte 0x37", ".byte 0x60", ".byte 0x62, 0x00, 0x00", ".byte 0x82, 0, 0", ".byte 0x9a, 0, 0, 0, 0, 8, 0", ".byte 0xce", ".byte 0xd4, 10", ".byte 0xd6", ".byte 0xea, 0, 0, 0, 0, 8, 0"
    expect_fault 6, 0, "\instruction"
    .endr
    mov ebx, 0x200000
    .irp instruction, ".byte 0x8d, 0xc0", ".byte 0x0f, 0xc7, 0xc8", ".byte 0x8e, 0xc8", ".byte 0x8e, 0xf0", ".byte 0x0f, 0x20, 0xc8", ".byte 0x0f, 0x20, 0xe8"
    expect_fault 6, 0, "\instruction"
    .endr
    # Longer than 15 bytes: #GP(0); exactly 15 is good.
    expect_fault 13, 0, ".byte 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x90"
    .byte 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x90
    # #NM: TS with x87 and SSE; EM: x87 #NM and SSE #UD; MP with WAIT.
    mov rax, cr0
    mov r8, rax
    or al, 8
    mov cr0, rax
    expect_fault 7, 0, "fninit"
    expect_fault 7, 0, "movups xmm0, xmm1"
    expect_fault 7, 0, "fwait"
    expect_fault 7, 0, "fxsave [rbx]"
    clts
    or r8b, 4
    mov cr0, r8
    expect_fault 7, 0, "fninit"
    expect_fault 6, 0, "movups xmm0, xmm1"
    fwait
    and r8b, ~4
    and r8b, ~2                                     # MP off: WAIT ignores TS
    mov rax, r8
    or al, 8
    mov cr0, rax
    fwait
    or r8b, 2
    mov cr0, r8
    # CR4.OSFXSR off: SSE is #UD.
    mov rax, cr4
    mov r9, rax
    and eax, ~0x200
    mov cr4, rax
    expect_fault 6, 0, "movups xmm0, xmm1"
    expect_fault 6, 0, "ldmxcsr [rbx]"
    mov cr4, r9
    # #MF: pending x87 exceptions, raised by the next waiting instruction.
    fninit
    push 0x37b                                      # zero divide unmasked
    fldcw [rsp]
    fld1
    fldz
    fdivp st(1), st
    expect_fault 16, 0, "fwait"
    fnstsw ax
    test al, 4
    jnz 1f
    fail
1:  fnclex
    fwait
    fninit
    pop rax
    # Alignment of 16-byte operands: #GP(0).
    mov ebx, 0x200008
    expect_fault 13, 0, "movaps xmm0, [rbx]"
    expect_fault 13, 0, "movaps [rbx], xmm0"
    expect_fault 13, 0, "paddd xmm0, [rbx]"
    expect_fault 13, 0, "cmpxchg16b [rbx]"
    expect_fault 13, 0, "fxsave [rbx]"
    # #GP of privileged instructions in ring 3.
    .irp instruction, hlt, clts, "mov rax, cr0", "mov cr3, rax", "mov rax, dr7", "lgdt [rbx]", "lidt [rbx]", "lldt ax", "ltr ax", "lmsw ax", "invlpg [rbx]", invd, wbinvd, rdmsr, wrmsr, swapgs, "mov cr8, rax", cli, sti, "in al, 0x80"
    enter_ring3
    expect_fault 13, 0, "\instruction"
    .endr
    # Priorities: #NM before alignment.
    mov rax, cr0
    or al, 8
    mov cr0, rax
    expect_fault 7, 0, "movaps xmm0, [rbx]"         # before the alignment
    clts
    # Privilege before the operand's fault: RDMSR in ring 3, INVLPG, LGDT from nowhere.
    mov qword ptr [page_tables + 0x2000 + 8 * 100], 0
    mov rax, cr3
    mov cr3, rax
    enter_ring3
    mov ebx, 100 * 0x200000
    expect_fault 13, 0, "lgdt [rbx]"
    mov ebx, 100 * 0x200000
    expect_fault 14, 0, "lgdt [rbx]"
    expect_fault 14, 0, "div qword ptr [rbx]"
    done
