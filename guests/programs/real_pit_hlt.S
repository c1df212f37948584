# about: real mode: the PIT wakes HLT by IRQ 0 on a relocated PIC vector, EOI, interrupt mask, STI's shadow
# kind: real16
    .include "lib.inc"
    program_real16
    mov sp, 0x7000
    mov al, 0x11                        # both PICs: vectors 0x50 and 0x58
    out 0x20, al
    out 0xa0, al
    mov al, 0x50
    out 0x21, al
    mov al, 0x58
    out 0xa1, al
    mov al, 4
    out 0x21, al
    mov al, 2
    out 0xa1, al
    mov al, 1
    out 0x21, al
    out 0xa1, al
    mov al, 0xff
    out 0xa1, al
    mov al, 0xfe                        # only IRQ 0
    out 0x21, al
    set_vector 0x50, tick
    mov al, 0x34                        # channel 0, mode 2, 1193 = 1 ms
    out 0x43, al
    mov al, 0xa9
    out 0x40, al
    mov al, 4
    out 0x40, al
    mov cx, 5
again:
    sti                                 # the shadow: nothing can come between STI and HLT
at_hlt:
    hlt
after_hlt:
    cli
    loop again
    mov ax, [ticks]
    cmp ax, 5
    jae 1f
    expect ax, 5
1:  expect "word ptr [frame_ip]", "offset after_hlt"
    # One tick only: in mode 0 OUT falls now, and rises once, when a count has run out. A tick that had come
    # before goes first.
    mov al, 0x30
    out 0x43, al
    sti
    nop
    nop
    cli
    # Masked, nothing comes, though it is pending in IRR.
    mov al, 0xff
    out 0x21, al
    mov word ptr [ticks], 0
    mov al, 0xa9
    out 0x40, al
    mov al, 4
    out 0x40, al
    mov ecx, 200000
2:  mov al, 0x0a                        # read IRR
    out 0x20, al
    in al, 0x20
    test al, 1
    jnz 3f
    .byte 0x67
    loop 2b
    dec ecx
    jnz 2b
3:  sti
    nop
    nop
    cli
    expect "word ptr [ticks]", 0
    mov al, 0xfe
    out 0x21, al
    sti                                 # now: behind the instruction after STI
    nop
after_shadow:
    nop
    cli
    expect "word ptr [ticks]", 1
    expect "word ptr [frame_ip]", "offset after_shadow"
    done
    code16
tick:
    push ax
    push bp
    mov bp, sp
    mov ax, [bp + 4]
    mov [frame_ip], ax
    inc word ptr [ticks]
    mov al, 0x20
    out 0x20, al
    pop bp
    pop ax
    iret
ticks:    .word 0
frame_ip: .word 0
