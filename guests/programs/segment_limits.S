# about: limits in bytes and pages, expand-down segments, type checks of accesses, #SS for the stack, code limits, the accessed bit of code
# kind: pvh32
# reference: differs (TCG checks neither segment limits nor the type of an accessed segment, and sets no code segment's accessed bit)
    .include "lib.inc"
    program_pvh32
    descriptor 0x50, 0x200000, 0xfff, 0x4092        # bytes 0 to 0xfff
    descriptor 0x58, 0x200000, 1, 0xc092            # pages: to 0x1fff
    descriptor 0x60, 0x200000, 0xfff, 0x4096        # expand-down, 32 bits: from 0x1000 to 4 GiB
    descriptor 0x68, 0x200000, 0xfff, 0x0096        # expand-down, 16 bits: from 0x1000 to 0xffff
    descriptor 0x70, 0x200000, 0xfff, 0x4090        # read-only
    descriptor 0x78, 0, 0xfffff, 0xc098             # execute-only
    descriptor 0x80, 0, 0, 0xc098                   # code of one page
    .macro to_es selector
    mov ax, \selector
    mov es, ax
    .endm
    to_es 0                                         # a null selector
    expect_fault 13, 0, "mov eax, es:[0x91000]"
    to_es 0x50
    mov byte ptr es:[0xfff], 1
    mov dword ptr es:[0xffc], 1
    expect_fault 13, 0, "mov byte ptr es:[0x1000], 1"
    expect_fault 13, 0, "mov eax, es:[0xffd]"
    expect_fault 13, 0, "mov ax, es:[0xfff]"
    expect_fault 13, 0, "mov eax, es:[0xffffffff]"
    to_es 0x58
    mov dword ptr es:[0x1ffc], 1
    expect_fault 13, 0, "mov eax, es:[0x1ffd]"
    to_es 0x60
    mov eax, es:[0x1000]
    expect_fault 13, 0, "mov eax, es:[0xfff]"
    expect_fault 13, 0, "mov eax, es:[0]"
    to_es 0x68
    mov eax, es:[0xfffc]
    expect_fault 13, 0, "mov eax, es:[0xfffd]"
    expect_fault 13, 0, "mov eax, es:[0x10000]"
    to_es 0x70
    mov eax, es:[0]
    expect_fault 13, 0, "mov es:[0], eax"
    expect_fault 13, 0, "inc dword ptr es:[0]"
    # A fault in a string instruction leaves the registers at the element.
    to_es 0x50
    mov edi, 0xffd
    mov ecx, 8
    expect_fault 13, 0, "rep stosb"
    expect ecx, 5
    expect edi, 0x1000
    # The stack: #SS with 0.
    mov ebx, esp
    mov ax, 0x50
    mov ss, ax
    mov esp, 0x1000
    push eax
    pop eax
    mov ebp, 0x1000
    # The handler's own stack must be good: leave with the old one before each fault.
    mov ax, 0x10
    mov ss, ax
    mov esp, ebx
    to_es 0x10
    load_tss
    descriptor 0xa0, 0x200000, 0xfff, 0x40f2
    push 0xa3
    push 0x800
    pushfd
    push 0x23
    push offset ring3
    iretd
ring3:
    push 0x2b
    pop ds
    mov ebp, 0xffd
    .macro ss_fault instruction
    expect_fault 12, 0, "\instruction"
    mov esp, offset stack_top                       # in ring 0, with a flat stack
    .endm
    ss_fault "mov eax, [ebp]"
    push 0xa3
    push 0
    pushfd
    push 0x23
    push offset ring3b
    iretd
ring3b:
    ss_fault "push eax"
    expect "dword ptr [fault_rsp]", 0
    expect "dword ptr [fault_ss]", 0xa3
    # Code: a far jump beyond the limit is #GP(0) at the jump.
    expect_fault 13, 0, "jmp 0x80, 0x100000"
    # A far jump sets the accessed bit.
    descriptor 0x88, 0, 0xfffff, 0xc09a
    jmp 0x88, offset 9f
9:  expect "byte ptr [gdt + 0x8d]", 0xffffff9b
    done
