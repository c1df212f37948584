# about: call gates of 32 and 16 bits: DPL and RPL, parameter copy, stack switch, JMP through a gate, what faults
# kind: pvh32
    .include "lib.inc"
    program_pvh32
    .macro call_gate selector, target, target_selector, attributes
    mov eax, offset \target
    mov [gdt + \selector], eax
    mov [gdt + \selector + 4], eax
    mov word ptr [gdt + \selector + 2], \target_selector
    mov word ptr [gdt + \selector + 4], \attributes
    .endm
    load_tss
    call_gate 0x50, inner, 0x08, 0xec02             # 32-bit, DPL 3, two parameters
    call_gate 0x58, inner16-0x100000, 0x08, 0xe401           # 16-bit, DPL 3, one parameter
    call_gate 0x60, inner, 0x08, 0x8c00             # DPL 0
    call_gate 0x68, inner, 0x08, 0x6c00             # not present, DPL 3
    call_gate 0x70, inner, 0x10, 0xec00             # to data
    call_gate 0x78, inner, 0x00, 0xec00             # to null
    call_gate 0x88, inner, 0xa0, 0xec00             # to code that is not present
    descriptor 0xa0, 0, 0xfffff, 0xc01a
    descriptor 0xa8, 0x100000, 0xfffff, 0xc09a      # base 1 MiB: reaches the program with a 16-bit offset
    mov word ptr [gdt + 0x58 + 2], 0xa8
    # In ring 0: the same ring, no stack switch, no copy.
    mov ebx, esp
    push 0x1111
    push 0x2222
    mov dword ptr [seen_esp], 0
    call 0x50, 0x12345678                           # the offset of the instruction is ignored
    mov eax, [seen_esp]
    add eax, 16
    cmp eax, ebx
    je 1f
    fail
1:  cmp esp, ebx                                    # RET 8 dropped the parameters
    je 1f
    fail
1:  mov byte ptr [by_jump], 1
    jmp 0x60, 0
    fail
jumped_here:
    mov byte ptr [by_jump], 0
    mov esp, ebx
    # From ring 3: the stack of ring 0, SS:ESP, parameters, CS:EIP.
    enter_ring3
    mov ebx, esp
    push 0x1111
    push 0x2222
    call 0x53, 0
back1:
    expect "dword ptr [seen_esp]", ring0_stack-24
    expect "dword ptr [ring0_stack - 4]", 0x2b
    expect "dword ptr [ring0_stack - 8]", ring3_stack-8
    expect "dword ptr [ring0_stack - 12]", 0x1111
    expect "dword ptr [ring0_stack - 16]", 0x2222
    expect "dword ptr [ring0_stack - 20]", 0x23
    expect "dword ptr [ring0_stack - 24]", "offset back1"
    expect "dword ptr [seen_cs]", 0x08
    expect "dword ptr [seen_ss]", 0x10
    cmp esp, ebx                                    # both stacks dropped 8
    je 1f
    fail
1:  mov ax, cs
    expect ax, 0x23
    mov ax, ss
    expect ax, 0x2b
    # A 16-bit gate: words.
    push 0x7777
    mov ecx, esp
    call 0x5b, 0
back16:
    expect "word ptr [seen16 + 8]", 0x2b
    expect "word ptr [seen16 + 6]", 0xfffffffc  # SP of ring 3 (0x7fffc)
    expect "word ptr [seen16 + 4]", 0x7777
    expect "word ptr [seen16 + 2]", 0x23
    expect "dword ptr [seen_esp]", ring0_stack-10
    mov esp, ebx
    # Faults, with the gate's or the target's selector. DPL of the gate against CPL and RPL.
    expect_fault 13, 0x60, "call 0x60, 0"
    enter_ring3
    expect_fault 13, 0x08, "jmp 0x50, 0"            # JMP never gains privilege: the code segment is refused
    enter_ring3
    expect_fault 11, 0x68, "call 0x68, 0"
    enter_ring3
    expect_fault 13, 0x10, "call 0x70, 0"
    enter_ring3
    expect_fault 13, 0, "call 0x78, 0"
    enter_ring3
    expect_fault 11, 0xa0, "call 0x88, 0"
    enter_ring3
    expect_fault 13, 0x08, "call 0x08, 0"           # never directly
    done

inner:
    mov [seen_esp], esp
    mov [seen_cs], cs
    mov [seen_ss], ss
    cmp byte ptr [by_jump], 0
    jne jumped_here
    retf 8
    .org 0x4000
inner16:
    mov [seen_esp], esp
    pop dword ptr [seen16]
    pop dword ptr [seen16 + 4]
    pop word ptr [seen16 + 8]
    push 0x2b                           # (the 16-bit return address has lost its high half)
    push offset ring3_stack
    push 0x23
    push offset back16
    retf
    .balign 4
seen16:   .long 0, 0, 0
seen_esp: .long 0
seen_cs:  .long 0
seen_ss:  .long 0
by_jump:  .long 0
