# about: interrupts from ring 3 take ring 0's stack from the TSS: frames, #TS for a bad one, gate DPL, flags in the handler, a conforming handler, a 16-bit gate
# kind: pvh32
    .include "lib.inc"
    program_pvh32
    load_tss
    set_gate 0x20, handler, 0xee00                  # interrupt gate, DPL 3
    set_gate 0x21, handler, 0xef00                  # trap gate, DPL 3
    set_gate 0x22, handler, 0x8e00                  # DPL 0
    set_gate 0x23, handler, 0x6e00                  # not present
    set_gate 0x24, handler, 0xee00, 0x10            # to data
    set_gate 0x25, handler, 0xee00, 0               # to null
    set_gate 0x26, handler_conforming, 0xee00, 0x50 # to conforming code
    set_gate 0x27, handler16-0x100000, 0xe600, 0x58          # 16-bit gate
    set_gate 0x28, handler, 0xe800                  # no such type
    set_gate 0x29, handler, 0xef00, 0x08
    descriptor 0x50, 0, 0xfffff, 0xc09e
    descriptor 0x58, 0x100000, 0xfffff, 0xc09a
    # In ring 0: no stack switch, 12 bytes; an interrupt gate clears IF, a trap gate does not; both clear TF, NT.
    sti
    int 0x20
    expect_flags 0x200, 0x200
    cli
    expect "dword ptr [seen_esp]", stack_top-12
    test dword ptr [seen_flags], 0x200
    jz 1f
    fail
1:  sti
    int 0x21
    cli
    test dword ptr [seen_flags], 0x200
    jnz 1f
    fail
1:  pushfd
    or dword ptr [esp], 0x4000
    popfd
    int 0x21                                        # (the handler clears NT in the frame)
    test dword ptr [seen_flags], 0x4000
    jz 1f
    fail
1:  test dword ptr [seen_saved], 0x4000
    jnz 1f
    fail
1:
    # From ring 3: SS:ESP, EFLAGS, CS:EIP on ring 0's stack.
    enter_ring3
    int 0x20
back1:
    expect "dword ptr [seen_esp]", ring0_stack-20
    expect "dword ptr [ring0_stack - 4]", 0x2b
    expect "dword ptr [ring0_stack - 8]", ring3_stack
    expect "dword ptr [ring0_stack - 16]", 0x23
    expect "dword ptr [ring0_stack - 20]", "offset back1"
    expect "dword ptr [seen_ss]", 0x10
    int 0x26                                        # conforming: the ring stays
    expect "dword ptr [seen_cs]", 0x53
    expect "dword ptr [seen_esp]", ring3_stack-12
    int 0x27                                        # 16-bit frame
back27:
    expect "dword ptr [seen_esp]", ring0_stack-10
    expect "word ptr [seen16 + 8]", 0x2b
    expect "word ptr [seen16 + 2]", 0x23
    # INT n where the gate's DPL < CPL: #GP(vector * 8 + IDT).
    expect_fault 13, 0x112, "int 0x22"
    enter_ring3
    expect_fault 11, 0x11a, "int 0x23"              # not present: #NP
    enter_ring3
    expect_fault 13, 0x10, "int 0x24"
    enter_ring3
    expect_fault 13, 0, "int 0x25"
    enter_ring3
    expect_fault 13, 0x142, "int 0x28"
    enter_ring3
    expect_fault 13, 0x202, "int 0x40"              # beyond the IDT's limit (0x1ff)
    # In ring 0 the same, without a change of stack.
    expect_fault 11, 0x11a, "int 0x23"
    expect_fault 13, 0x10, "int 0x24"
    expect_fault 13, 0x202, "int 0x40"
    int 0x22
    # A bad stack for ring 0: #TS with the selector of SS, delivered on ... the handler's own task would need a
    # good stack, so the handler of #TS is conforming: it stays in ring 3.
    set_gate 10, on_ts, 0x8e00, 0x50
    .macro bad_stack selector, vector, error
    mov dword ptr [tss + 8], \selector
    enter_ring3
    mov byte ptr [ts_vector], 0
    mov dword ptr [ts_resume], offset 1f
2:  int 0x20
    fail
1:  expect "dword ptr [ts_error]", \error
    expect "dword ptr [ts_eip]", "offset 2b"
    expect "byte ptr [ts_vector]", \vector
    mov dword ptr [tss + 8], 0x10
    expect_fault 13, 0, "hlt"
    .endm
    bad_stack 0, 10, 0
    bad_stack 0x2b, 10, 0x28
    bad_stack 0x13, 10, 0x10
    bad_stack 0x08, 10, 0x08
    bad_stack 0x100, 10, 0x100
    done
on_ts:
    mov byte ptr [ts_vector], 10
    jmp 1f
1:  pop dword ptr [ts_error]
    mov eax, [esp]
    mov [ts_eip], eax
    mov eax, [ts_resume]
    mov [esp], eax
    iretd
handler:
    mov [seen_esp], esp
    mov [seen_cs], cs
    mov [seen_ss], ss
    pushfd
    pop dword ptr [seen_flags]
    push dword ptr [esp + 8]
    pop dword ptr [seen_saved]
    and dword ptr [esp + 8], ~0x4000
    iretd
handler_conforming:
    mov [seen_esp], esp
    mov [seen_cs], cs
    iretd
    .org 0x8000
handler16:
    mov [seen_esp], esp
    pop dword ptr [seen16]
    pop dword ptr [seen16 + 4]
    pop word ptr [seen16 + 8]
    push 0x2b                                       # (the 16-bit return address has lost its high half)
    push offset ring3_stack
    push 0x202
    push 0x23
    push offset back27
    iretd
    .balign 4
seen16:     .long 0, 0, 0
seen_esp:   .long 0
seen_cs:    .long 0
seen_ss:    .long 0
seen_flags: .long 0
seen_saved: .long 0
ts_vector:  .long 0
ts_error:   .long 0
ts_eip:     .long 0
ts_resume:  .long 0
