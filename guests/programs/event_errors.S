# about: error codes that name an IDT entry in long mode: gates that are missing, of a wrong type, of a low DPL; EXT for what no INT instruction asked for; IRET to a RIP that is not canonical
# kind: pvh32
# reference: differs (TCG 7.2 reports vector * 16 + 2, and no EXT, in long mode, and lets IRET go to any RIP, takes null and 16-bit TSSs and code with L and D)
    .include "lib.inc"
    program_pvh32
    enter_long64
    load_tss
    user_pages
    .macro gate_not_present vector
    mov byte ptr [idt + 16 * \vector + 5], 0x0e
    .endm
    .macro gate_present vector
    mov byte ptr [idt + 16 * \vector + 5], 0x8e
    .endm
    gate_not_present 6
    expect_fault 11, 0x33, "ud2"
    expect_fault 11, 0x32, "int 6"                  # an INT is not external: no EXT
    gate_present 6
    mov byte ptr [idt + 16 * 6 + 5], 0x86           # a wrong type: #GP
    expect_fault 13, 0x33, "ud2"
    gate_present 6
    # Benign, then contributory: handled in series.
    gate_not_present 3
    expect_fault 11, 0x1a, "int3"
    gate_present 3
    set_gate 0x1e, stubs64, 0x8500                  # a task gate
    expect_fault 13, 0x1e*8+2, "int 0x1e"
    set_gate 0x1e, stubs64, 0x8600                  # a 16-bit gate
    expect_fault 13, 0x1e*8+2, "int 0x1e"
    expect_fault 13, 0x40*8+2, "int 0x40"
    set_gate 0x1e, stubs64+16*3, 0x8e00
    enter_ring3
    expect_fault 13, 0x1e*8+2, "int 0x1e"
    mov r15, rsp
    # IRET to 64-bit code: RIP must be canonical (#GP at the IRET).
    push 0
    push r15
    pushfq
    push 0x18
    mov rax, 0x8000000000000000
    push rax
    mov rbx, rsp
    expect_fault 13, 0, "iretq"
    cmp rbx, rsp
    je 1f
    fail
1:
    # There are no 16-bit TSSs in long mode, and no code with both L and D.
    descriptor 0xb0, 0x91000, 0x67, 0x81            # a 16-bit TSS
    mov ax, 0xb0
    expect_fault 13, 0xb0, "ltr ax"
    xor eax, eax
    expect_fault 13, 0, "ltr ax"
    mov ax, 3                                       # SS null: RPL = CPL
    expect_fault 13, 0, "mov ss, eax"
    descriptor 0x90, 0, 0xfffff, 0xe09b
    expect_fault 13, 0x90, "jmp fword ptr [to_90]"
    done
to_90: .long 0
       .word 0x90
