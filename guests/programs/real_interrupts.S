# about: real mode's interrupt table: INT pushes FLAGS, CS, IP and clears IF and TF; IRET, INT3, INTO, faults, LIDT elsewhere
# kind: real16
    .include "lib.inc"
    program_real16
    .macro handler name
\name:
    mov [frame_sp], sp
    push ax
    push bp
    mov bp, sp
    mov ax, [bp + 4]
    mov [frame_ip], ax
    mov ax, [bp + 6]
    mov [frame_cs], ax
    mov ax, [bp + 8]
    mov [frame_flags], ax
    pushf
    pop ax
    mov [inner_flags], ax
    .endm

    set_vector 0x60, h60
    mov sp, 0x7000
    stc
    sti
    int 0x60
after60:
    cli
    expect "word ptr [frame_sp]", 0x6ffa
    expect "word ptr [frame_ip]", "offset after60"
    expect "word ptr [frame_cs]", 0
    mov ax, [frame_flags]
    and ax, 0x201
    expect ax, 0x201                    # saved with IF and CF
    mov ax, [inner_flags]
    and ax, 0x300
    expect ax, 0
    expect sp, 0x7000

    set_vector 3, h60
    int3
after3:
    expect "word ptr [frame_ip]", "offset after3"
    set_vector 4, h60
    mov word ptr [frame_ip], 0
    xor ax, ax
    into                                # OF = 0: nothing
    expect "word ptr [frame_ip]", 0
    mov al, 0x7f
    inc al
    into
afterinto:
    expect "word ptr [frame_ip]", "offset afterinto"

    # Faults: no error code, IP at the instruction.
    set_vector 0, hskip2
    xor cl, cl
at_div:
    div cl
    expect "word ptr [frame_ip]", "offset at_div"
    expect "word ptr [frame_sp]", 0x6ffa
    set_vector 6, hskip2
at_ud2:
    ud2
    expect "word ptr [frame_ip]", "offset at_ud2"
    set_vector 5, hbound
    mov ax, 10
at_bound:
    bound ax, [bounds]
    expect "word ptr [frame_ip]", "offset at_bound"
    mov ax, 3
    bound ax, [bounds]                  # inside
    expect ax, 3

    # LIDT: a table elsewhere, with three entries only: INT 3 is beyond its limit.
    mov ax, [3 * 4]
    mov word ptr [0x6000 + 6 * 4], offset h6elsewhere
    mov word ptr [0x6000 + 6 * 4 + 2], 0
    lidt [short_idt]
    mov word ptr [hits], 0
at_ud2_again:
    ud2
    expect "word ptr [hits]", 1
    lidt [bios_idt]
    sidt [0x6100]
    expect "word ptr [0x6100]", 0x3ff
    expect "dword ptr [0x6102]", 0

    # IRET with a 16-bit frame leaves the high half of EFLAGS; far addresses wrap within 20 or 21 bits.
    push 0x0ad7
    push 0
    push offset after_iret
    iret
after_iret:
    expect_flags 0xcd5, 0x8d5
    cli
    cld
    # A call far, and a return that drops arguments.
    push 0x1111
    push 0x2222
    call 0, offset far_routine
    expect sp, 0x7000
    expect ax, 0x2222
    # POP CS does not exist, PUSH CS does; segment loads take any value and set base = value * 16.
    push cs
    pop ax
    expect ax, 0
    mov ax, 0x1234
    mov ds, ax
    mov bx, ds
    xor ax, ax
    mov ds, ax
    expect bx, 0x1234
    # The same place by other segment and offset: CS:IP with another base.
    mov ax, (0x7c00 >> 4)
    push ax
    push offset other_base - 0x7c00
    retf
other_base:
    mov ax, cs
    jmp 0, offset back_in_0
back_in_0:
    expect ax, 0x7c0
    # SMSW works and PE is clear.
    smsw ax
    and ax, 1
    expect ax, 0
    done
    code16

far_routine:
    push bp
    mov bp, sp
    mov ax, [bp + 6]
    pop bp
    retf 4

    handler h60
    pop bp
    pop ax
    iret
    handler hskip2
    add word ptr [bp + 4], 2
    pop bp
    pop ax
    iret
    handler hbound
    add word ptr [bp + 4], 4
    pop bp
    pop ax
    iret
h6elsewhere:
    inc word ptr [hits]
    push bp
    mov bp, sp
    add word ptr [bp + 2], 2
    pop bp
    iret
    .balign 4
bounds:      .word 1, 5
short_idt:   .word 6 * 4 + 3
             .long 0x6000
bios_idt:    .word 0x3ff
             .long 0
frame_sp:    .word 0
frame_ip:    .word 0
frame_cs:    .word 0
frame_flags: .word 0
inner_flags: .word 0
hits:        .word 0
