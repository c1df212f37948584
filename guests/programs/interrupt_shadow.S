# about: a pending interrupt waits behind STI, MOV SS and POP SS for one instruction; POPF and IRET open at once; CLI in the shadow wins; PIC and PIT in long mode; HLT; REP is interruptible
# kind: pvh32
    .include "lib.inc"
    program_pvh32
    virtual_wire                        # (below 4 GiB with 32-bit addresses)
    enter_long64
    # PIC at 0x10 (within the small IDT), IRQ 0 only; PIT channel 0 one shot (mode 0).
    mov al, 0x11
    out 0x20, al
    out 0xa0, al
    mov al, 0x18
    out 0x21, al
    mov al, 0x10
    out 0xa1, al
    mov al, 4
    out 0x21, al
    mov al, 2
    out 0xa1, al
    mov al, 1
    out 0x21, al
    out 0xa1, al
    mov al, 0xfe
    out 0x21, al
    mov al, 0xff
    out 0xa1, al
    set_gate 0x18, tick, 0x8e00
    # Makes IRQ 0 pending: mode 0 with a short count, then waits for IRR.
    .macro pend
    call make_pending
    .endm
    .macro interrupted_at label
    cli
    expect "dword ptr [ticks]", 1
    expect "dword ptr [at]", "offset \label"
    mov dword ptr [ticks], 0
    .endm
    pend
    sti
    nop
a1: nop
    nop
    interrupted_at a1
    pend
    sti                                             # the shadow covers CLI: nothing comes
    cli
    nop
    expect "dword ptr [ticks]", 0
    sti
    sti                                             # a second STI makes no second shadow
b1: nop
    nop
    interrupted_at b1
    pend
    pushfq
    or dword ptr [rsp], 0x200
    popfq                                           # no shadow
c1: nop
    nop
    interrupted_at c1
    pend
    xor eax, eax
    sti
    mov ss, eax                                     # a shadow in the shadow of STI
    nop
d1: nop
    nop
    cli
    expect "dword ptr [ticks]", 1
    mov dword ptr [ticks], 0
    pend
    push 0
    push offset stack_top - 64
    pushfq
    or dword ptr [rsp], 0x200
    push 0x18
    push offset e1
    iretq                                           # no shadow
e1: nop
    interrupted_at e1
    mov esp, offset stack_top
    # STI; HLT with an interrupt pending: HLT ends at once, RIP behind it.
    pend
    sti
    hlt
f1: nop
    interrupted_at f1
    # HLT woken later.
    mov al, 0x30
    out 0x43, al
    mov al, 0
    out 0x40, al
    mov al, 0x10
    out 0x40, al                                    # 4096 / 1.19 MHz: 3.4 ms
    sti
    hlt
g1: nop
    interrupted_at g1
    # REP STOS of 32 MiB is interrupted with RIP at it and RCX, RDI in step; then it goes on.
    mov al, 0x30
    out 0x43, al
    mov al, 0
    out 0x40, al
    mov al, 2
    out 0x40, al                                    # 0.43 ms
    mov edi, 0x400000
    mov ecx, 0x1400000
    mov al, 0x5a
    cld
    sti
h1: rep stosb
h2: nop
    cli
    expect "dword ptr [ticks]", 1
    expect rcx, 0
    expect rdi, 0x1800000
    expect "byte ptr [0x17fffff]", 0x5a
    mov rax, [rcx_then]
    test rax, rax
    jz 1f                                           # it was over before the interrupt
    expect "dword ptr [at]", "offset h1"
    add rax, [rdi_then]
    expect rax, 0x1800000
1:  # Edge: the same line gives one interrupt per edge; without EOI no second one.
    mov dword ptr [ticks], 0
    mov byte ptr [no_eoi], 1
    pend
    sti
    nop
    nop
    cli
    expect "dword ptr [ticks]", 1
    pend
    sti
    nop
    nop
    cli
    expect "dword ptr [ticks]", 1                   # still in service
    mov al, 0x0b                                    # ISR
    out 0x20, al
    in al, 0x20
    expect al, 1
    mov al, 0x20
    out 0x20, al
    sti
    nop
    nop
    cli
    expect "dword ptr [ticks]", 2
    mov al, 0x60                                    # specific EOI of IRQ 0
    out 0x20, al
    in al, 0x20
    expect al, 0
    # CR8 masks nothing that comes as ExtINT; CLI does.
    pend
    mov ecx, 1000
1:  loop 1b
    expect "dword ptr [ticks]", 2
    done

make_pending:
    mov al, 0x30
    out 0x43, al
    mov al, 4
    out 0x40, al
    mov al, 0
    out 0x40, al
1:  mov al, 0x0a
    out 0x20, al
    in al, 0x20
    test al, 1
    jz 1b
    ret
tick:
    push rax
    mov rax, [rsp + 8]
    mov [at], rax
    mov [rcx_then], rcx
    mov [rdi_then], rdi
    inc dword ptr [ticks]
    cmp byte ptr [no_eoi], 0
    jne 1f
    mov al, 0x20
    out 0x20, al
1:  pop rax
    iretq
    .balign 8
ticks:    .quad 0
at:       .quad 0
rcx_then: .quad 0
rdi_then: .quad 0
no_eoi:   .quad 0
