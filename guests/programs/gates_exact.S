# about: a call gate to conforming code keeps the ring: CS gets the gate's selector with RPL = CPL, and no stack is switched; a ring 0 stack that is not present is #SS; a bad segment in a new task is its #TS at its first instruction
# kind: pvh32
# reference: differs (TCG 7.2 enters conforming code by a call gate with CPL = DPL, and says #TS where it should be #SS, lets ring 3 enter v86 mode, and reports the old task's EIP with a new task's #TS)
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
    # IRETD of ring 3 cannot set VM.
    enter_ring3
    push 0x20002
    push 0x23
    push offset 1f
    iretd
1:  pushfd
    pop eax
    and eax, 0x20000
    expect eax, 0
    expect_fault 13, 0, "hlt"
    .set task, 0x91000
    # A bad data segment in the new TSS: #TS with its selector, in the new task, whose CS:EIP it reports.
    mov edi, task
    mov ecx, 0x68
    xor eax, eax
    rep stosb
    mov dword ptr [task + 0x20], offset never
    mov dword ptr [task + 0x24], 2
    mov dword ptr [task + 0x38], 0xe000
    mov dword ptr [task + 0x48], 0x103
    mov dword ptr [task + 0x4c], 0x08
    mov dword ptr [task + 0x50], 0x10
    mov dword ptr [task + 0x54], 0x10
    descriptor 0x50, task, 0x67, 0x89
    set_gate 10, on_ts                              # the data segments may not be loaded yet
    jmp 0x50, 0
ts_back:
    expect "dword ptr [ts_error]", 0x100
    expect "dword ptr [ts_eip]", "offset never"
    str ax
    expect ax, 0x50
    done
never:
    fail
on_ts:
    mov ax, 0x10
    mov ds, ax
    mov es, ax
    pop dword ptr [ts_error]
    pop dword ptr [ts_eip]
    mov esp, offset stack_top
    jmp ts_back
on_ss:
    pop dword ptr [ss_error]
    pop dword ptr [ss_eip]
    push offset resumed
    iretd
    .balign 4
ss_error: .long 0
ss_eip:   .long 0
ts_error: .long 0
ts_eip:   .long 0
conforming:
    mov [seen_cs], cs
    mov [seen_esp], esp
    retf
    .balign 4
seen_cs:  .long 0
seen_esp: .long 0
