# about: long mode's far transfers: 64-bit call gates with stack switch, far pointers of all sizes, compatibility mode, RETF and IRET between rings, what is #UD or #GP there
# kind: pvh32
    .include "lib.inc"
    program_pvh32
    enter_long64
    load_tss
    user_pages
    .macro gate64 selector, target, target_selector, attributes
    mov eax, offset \target
    mov [gdt + \selector], eax
    mov [gdt + \selector + 4], eax
    mov word ptr [gdt + \selector + 2], \target_selector
    mov word ptr [gdt + \selector + 4], \attributes
    mov qword ptr [gdt + \selector + 8], 0
    .endm
    gate64 0x50, inner, 0x18, 0xec00
    gate64 0x60, inner, 0x08, 0xec00                # to 32-bit code
    gate64 0x70, inner, 0x18, 0x6c00                # not present
    gate64 0x80, inner, 0x18, 0x8c00                # DPL 0
    # In ring 0: the same stack, 16 bytes.
    mov rbx, rsp
    call fword ptr [to_50]
back0:
    cmp rbx, rsp
    je 1f
    fail
1:  expect rax, "offset back0"
    sub rbx, 16
    cmp rbx, [seen_rsp]
    je 1f
    fail
1:  # From ring 3: RSP0, SS null with the new RPL; SS, RSP, CS, RIP.
    enter_ring3
    call fword ptr [to_50]
back3:
    expect "dword ptr [seen_rsp]", ring0_stack-32
    expect "dword ptr [ring0_stack - 8]", 0x2b
    expect "dword ptr [ring0_stack - 16]", ring3_stack
    expect "dword ptr [ring0_stack - 24]", 0x33
    expect "dword ptr [ring0_stack - 32]", "offset back3"
    expect "word ptr [seen_cs]", 0x18
    expect "word ptr [seen_ss]", 0
    mov ax, cs
    expect ax, 0x33
    # A call gate leads to 64-bit code only; DPL, presence.
    expect_fault 13, 0x08, "call fword ptr [to_60]"
    enter_ring3
    expect_fault 11, 0x70, "call fword ptr [to_70]"
    enter_ring3
    expect_fault 13, 0x80, "call fword ptr [to_80]"
    # A far jump to a TSS (there are no task switches), direct far pointers.
    expect_fault 13, 0x40, "jmp fword ptr [to_tss]"
    expect_fault 6, 0, ".byte 0xea, 0, 0, 0, 0, 0x18, 0"
    # Compatibility mode of ring 0 and back by RETF with a 64-bit selector; the upper halves of registers stay.
    mov r9, 0x123456789abcdef
    mov rbx, 0x1111222233334444
    mov eax, 0x10                                   # null is for 64-bit mode only
    mov ss, eax
    mov r15, rsp
    jmp fword ptr [to_compat]
    code32
compat:
    mov ecx, 5                                      # a 32-bit result clears the upper half
    push 0x18
    push offset compat_back
    retf
    code64
compat_back:
    expect rcx, 5
    expect64 r9, 0x123456789abcdef
    cmp rsp, r15
    je 1f
    fail
1:  # RETF to ring 3's 32-bit code, and an interrupt from there: the 64-bit frame.
    set_gate 0x1e, from_compat, 0xee00
    push 0x2b
    push ring3_stack - 64
    push 0x23
    push offset compat3
    retfq
    code32
compat3:
    push 0x12345678
    int 0x1e
compat3_end:
    code64
    fail
from_compat:
    expect "dword ptr [rsp]", "offset compat3_end"
    expect "dword ptr [rsp + 8]", 0x23
    expect "dword ptr [rsp + 24]", ring3_stack-68
    expect "dword ptr [rsp + 32]", 0x2b
    expect rsp, ring0_stack-40
    mov rsp, r15
    # RETF to ring 3 with SS null is #GP(0); to a RIP that is not canonical, too.
    push 0
    push ring3_stack
    push 0x33
    push offset compat3
    expect_fault 13, 0, "retfq"
    mov rsp, r15
    # LTR in long mode: 16 bytes; the upper type must be 0. LDT as well.
    descriptor 0xa0, 0x91000, 0x67, 0x89
    mov dword ptr [gdt + 0xa8], 0
    mov dword ptr [gdt + 0xac], 0
    mov ax, 0xa0
    ltr ax
    expect "byte ptr [gdt + 0xa5]", 0xffffff8b
    expect_fault 13, 0xa0, "ltr ax"
    # PUSH and POP of segment registers, MOV SS of null in ring 0.
    mov eax, 0x10
    mov fs, eax
    push fs
    pop rax
    expect rax, 0x10
    xor eax, eax
    mov ss, eax
    mov ax, 0x10
    mov ss, eax
    done
inner:
    mov [seen_rsp], rsp
    mov [seen_cs], cs
    mov [seen_ss], ss
    mov rax, [rsp]
    retfq
    .balign 8
to_50: .long 0
       .word 0x53
to_60: .long 0
       .word 0x63
to_70: .long 0
       .word 0x73
to_80: .long 0
       .word 0x83
to_90: .long 0
       .word 0x90
to_tss: .long 0
       .word 0x40
to_compat: .long compat
       .word 0x08
seen_rsp: .quad 0
seen_cs: .quad 0
seen_ss: .quad 0
