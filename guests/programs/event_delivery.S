# about: faults during delivery in long mode: double fault by the class table, contributory pairs, IST and RSP0 stacks and their alignment, frames, gate checks, nested page faults
# kind: pvh32
    .include "lib.inc"
    program_pvh32
    enter_long64
    load_tss
    user_pages
    .set ist1, 0x95000
    .set ist2, 0x96008                  # not aligned: the processor aligns it to 16
    mov dword ptr [tss + 0x24], ist1
    mov dword ptr [tss + 0x2c], ist2
    mov dword ptr [tss + 0x4], ring0_stack - 8
    .macro gate_not_present vector
    mov byte ptr [idt + 16 * \vector + 5], 0x0e
    .endm
    .macro gate_present vector
    mov byte ptr [idt + 16 * \vector + 5], 0x8e
    .endm
    # The frame: five qwords on a stack aligned to 16, even in the same ring.
    mov r15, rsp
    sub rsp, 8
    expect_fault 6, 0, "ud2"
    mov rax, [fault_rsp]
    add rax, 8
    cmp rax, r15
    je 1f
    fail
1:  mov rsp, r15
    sub r15, 8
    and r15, -16
    sub r15, 40
    cmp r15, [fault_frame]
    je 1f
    fail
1:  expect "word ptr [fault_cs]", 0x18
    # IST.
    mov byte ptr [idt + 16 * 6 + 4], 1
    expect_fault 6, 0, "ud2"
    expect "dword ptr [fault_frame]", ist1-40
    mov byte ptr [idt + 16 * 6 + 4], 2
    expect_fault 6, 0, "ud2"
    expect "dword ptr [fault_frame]", ist2-8-40
    # From ring 3: IST counts before RSP0; SS becomes null.
    enter_ring3
    expect_fault 6, 0, "ud2"
    expect "dword ptr [fault_frame]", ist2-8-40
    expect "word ptr [fault_ss]", 0x2b
    expect "dword ptr [fault_rsp]", ring3_stack
    mov ax, ss
    expect ax, 0
    mov byte ptr [idt + 16 * 6 + 4], 0
    enter_ring3
    expect_fault 6, 0, "ud2"
    expect "dword ptr [fault_frame]", ring0_stack-16-40
    # Contributory behind contributory is a double fault; its error code is 0.
    gate_not_present 13
    mov rbx, 0x8000000000000000
    expect_fault 8, 0, "mov eax, [rbx]"
    # #PF whose gate is missing: double fault. #GP whose delivery page-faults: #PF (a new stack is missing).
    gate_not_present 14
    mov qword ptr [page_tables + 0x2000 + 8 * 100], 0
    mov rax, cr3
    mov cr3, rax
    mov ebx, 100 * 0x200000
    expect_fault 8, 0, "mov eax, [rbx]"
    expect "dword ptr [fault_cr2]", 100*0x200000
    gate_present 14
    gate_present 13
    mov dword ptr [tss + 0x34], 100 * 0x200000 + 0x1000     # IST 3
    mov byte ptr [idt + 16 * 13 + 4], 3
    mov rbx, 0x8000000000000000
    expect_fault 14, 2, "mov eax, [rbx]"
    expect "dword ptr [fault_cr2]", 100*0x200000+0xff8
    mov byte ptr [idt + 16 * 13 + 4], 0
    # #PF whose delivery page-faults: double fault.
    mov byte ptr [idt + 16 * 14 + 4], 3
    mov ebx, 100 * 0x200000 + 0x123000
    expect_fault 8, 0, "mov eax, [rbx]"
    mov byte ptr [idt + 16 * 14 + 4], 0
    # Gates: 64-bit code only, the right type, DPL, limit, canonical.
    set_gate 0x1e, stubs64, 0x8e00, 0x08            # 32-bit code
    expect_fault 13, 0x08, "int 0x1e"
    set_gate 0x1e, stubs64, 0x8e00, 0x10            # data
    expect_fault 13, 0x10, "int 0x1e"
    set_gate 0x1e, stubs64, 0x8e00, 0x00
    expect_fault 13, 0, "int 0x1e"
    set_gate 0x1e, stubs64, 0x8e00, 0x100
    expect_fault 13, 0x100, "int 0x1e"
    set_gate 0x1e, stubs64+16*3, 0xee00
    enter_ring3
    expect_trap 3, 0, "int 0x1e"
    set_gate 0x1e, stubs64+16*3, 0xee00, 0x30       # code of ring 3 cannot handle ring 0's
    expect_fault 13, 0x30, "int 0x1e"
    # IRET to ring 3: SS.
    mov r15, rsp
    push 0
    push r15
    pushfq
    push 0x33
    push offset 1f
    expect_fault 13, 0, "iretq"                     # SS null for ring 3
    mov qword ptr [rsp + 32], 0x10
    expect_fault 13, 0x10, "iretq"                  # RPL 0 for ring 3
    # NT in long mode: #GP(0).
    pushfq
    or dword ptr [rsp], 0x4000
    popfq
    expect_fault 13, 0, "iretq"
    done
