# about: far JMP, CALL, RET and IRET in protected mode: conforming code, DPL and RPL rules, outer rings with nulled data segments, error codes, IRET's flags
# kind: pvh32
    .include "lib.inc"
    program_pvh32
    load_tss
    descriptor 0x50, 0, 0xfffff, 0xc09e             # conforming, DPL 0
    descriptor 0x58, 0, 0xfffff, 0xc0fe             # conforming, DPL 3
    descriptor 0x60, 0, 0xfffff, 0xc01a             # code, not present
    descriptor 0x68, 0, 0xfffff, 0xc0b2             # data, DPL 1
    descriptor 0x70, 0, 0xfffff, 0xc0ba             # code, DPL 1
    descriptor 0x78, 0, 0xfffff, 0xc0d2             # data, DPL 2
    descriptor 0x80, 0, 0xfffff, 0xc0f2             # data, DPL 3
    expect_fault 13, 0, "jmp 0, 0"
    expect_fault 13, 0x10, "jmp 0x10, 0"
    expect_fault 13, 0x20, "jmp 0x20, 0"            # non-conforming of another DPL
    expect_fault 13, 0x08, "jmp 0x0b, 0"            # RPL > CPL
    expect_fault 11, 0x60, "jmp 0x60, 0"
    expect_fault 13, 0x58, "jmp 0x58, 0"            # conforming: DPL must not exceed CPL
    expect_fault 13, 0x100, "jmp 0x100, 0"
    expect_fault 13, 0x10, "call 0x10, 0"
    jmp 0x53, offset 1f                             # conforming: any RPL; CS gets RPL = CPL
1:  mov ax, cs
    expect ax, 0x50
    call 0x08, offset far_routine
    expect eax, 0x50
    mov ax, cs
    expect ax, 0x50
    jmp 0x08, offset 1f
1:  # RETF to ring 1: data segments that ring 1 may not use become null; conforming code stays.
    mov ax, 0x68
    mov ds, ax
    mov ax, 0x78
    mov es, ax
    mov ax, 0x10
    mov fs, ax
    mov ax, 0x50
    mov gs, ax
    mov ebx, esp
    push 0x69
    push offset ring3_stack
    push 0x71
    push offset 1f
    retf
1:  mov si, fs
    mov di, gs
    mov cx, cs
    mov dx, ss
    mov bp, ds
    mov ax, es
    expect si, 0
    expect di, 0x50
    expect cx, 0x71
    expect dx, 0x69
    expect bp, 0x68
    expect ax, 0x78
    expect esp, ring3_stack
    # Ring 1: CLI needs IOPL, and what only ring 0 may do is #GP(0).
    pushfd
    pop eax
    expect_fault 13, 0, "cli"
    mov ax, 0x10
    mov ds, ax
    mov es, ax
    mov fs, ax
    mov gs, ax
    mov ss, ax
    mov esp, ebx
    # To an outer ring with a bad stack: #GP(selector of SS).
    push 0x10
    push offset ring3_stack
    push 0x23
    push offset 1f
    expect_fault 13, 0x10, "retf"
    mov dword ptr [esp + 12], 0x13
    expect_fault 13, 0x10, "retf"
    mov dword ptr [esp + 12], 0
    expect_fault 13, 0, "retf"
    mov dword ptr [esp + 4], 0x08                   # (same ring now: only CS and EIP are popped)
    retf
1:  add esp, 8
    push 0x08                                       # RET n drops n bytes behind the address
    push offset 1f
    mov dword ptr [esp + 8], 0x1234
    retf 8
1:  mov esp, ebx
    # To an inner ring never: from ring 3, RPL 0 < CPL.
    enter_ring3
    push 0x08
    push offset 1f
    expect_fault 13, 0x08, "retf"
1:  enter_ring3
    pushfd
    push 0x08
    push offset 1f
    expect_fault 13, 0x08, "iretd"
1:  # IRET: flags. In ring 3 with IOPL 0 IF and IOPL stay as they are.
    enter_ring3
    push 0x3ed7                                     # IOPL 3, IF, all of the arithmetic flags
    push 0x23
    push offset 1f
    iretd
1:  pushfd
    pop eax
    and eax, 0x3ad5
    expect eax, 0x8d5
    cld
    expect_fault 13, 0, "hlt"
    # In ring 0 all of them change.
    push 0x3cd7
    push 0x08
    push offset 1f
    iretd
1:  expect_flags 0x3ed5, 0x3cd5
    push 2
    popfd
    # IRET to conforming code, and with CS null.
    pushfd
    push 0
    push offset 1f
    expect_fault 13, 0, "iretd"
1:  add esp, 12
    # IRET with NT goes to the back link of the TSS: 0 is no TSS.
    pushfd
    or dword ptr [esp], 0x4000
    popfd
    expect_fault 10, 0, "iretd"
    pushfd
    and dword ptr [esp], ~0x4000
    popfd
    done
far_routine:
    mov eax, [esp + 4]
    retf
