# about: a call gate to conforming code keeps the ring: CS gets the gate's selector with RPL = CPL, and no stack is switched; a ring 0 stack that is not present is #SS
# kind: pvh32
# reference: differs (TCG 7.2 enters conforming code by a call gate with CPL = DPL, and says #TS where it should be #SS)
    .include "lib.inc"
    program_pvh32
    load_tss
    descriptor 0x98, 0, 0xfffff, 0xc09e
    mov eax, offset conforming
    mov [gdt + 0x80], eax
    mov [gdt + 0x84], eax
    mov word ptr [gdt + 0x82], 0x98
    mov word ptr [gdt + 0x84], 0xec00
    enter_ring3
    mov ebx, esp
    call 0x83, 0
    expect "dword ptr [seen_cs]", 0x9b
    expect "dword ptr [seen_esp]", ring3_stack-8
    cmp esp, ebx
    je 1f
    fail
1:  expect_fault 13, 0, "hlt"
    set_gate 12, on_ss, 0x8e00, 0x98                # conforming: it needs no stack of ring 0
    set_gate 0x20, on_ss, 0xee00
    descriptor 0x60, 0, 0xfffff, 0xc012             # data, not present
    mov dword ptr [tss + 8], 0x60
    enter_ring3
at_int:
    int 0x20
    fail
resumed:
    expect "dword ptr [ss_error]", 0x60
    expect "dword ptr [ss_eip]", "offset at_int"
    mov dword ptr [tss + 8], 0x10
    expect_fault 13, 0, "hlt"
    done
on_ss:
    pop dword ptr [ss_error]
    pop dword ptr [ss_eip]
    push offset resumed
    iretd
    .balign 4
ss_error: .long 0
ss_eip:   .long 0
conforming:
    mov [seen_cs], cs
    mov [seen_esp], esp
    retf
    .balign 4
seen_cs:  .long 0
seen_esp: .long 0
