# about: real mode addressing: 386 prefixes, 16-bit wrap of effective addresses and of SP, PUSHA, 20-bit sums and A20, ENTER and LEAVE
# kind: real16
    .include "lib.inc"
    program_real16
    mov sp, 0x7000
    # Operand and address size prefixes.
    mov eax, 0x89abcdef
    mov [0x6000], eax
    expect "word ptr [0x6000]", 0xffffcdef
    mov ebx, 0x6000
    mov ecx, 1
    movzx edx, byte ptr [ebx + ecx * 2]
    expect edx, 0xab
    lea eax, [ebx + ecx * 4 + 0x10000]
    expect eax, 0x16004
    lea ax, [ebx + ecx * 4 + 0x10000]
    expect ax, 0x6004
    # 16-bit effective addresses wrap: 0xfff0 + 0x6010 is 0x6000.
    mov bx, 0xfff0
    mov si, 0x6010
    mov eax, [bx + si]
    expect eax, 0x89abcdef
    lea eax, [bx + si]
    expect eax, 0x6000
    # 20-bit and more: segment 0xffff + offset 0x10 is 1 MiB (A20 is on).
    in al, 0x92
    or al, 2
    and al, 0xfe
    out 0x92, al
    mov ax, 0xffff
    mov es, ax
    mov dword ptr es:[0x510], 0x11223344    # linear 0x100500
    xor ax, ax
    mov es, ax
    mov dword ptr [0x500], 0x55667788
    mov ax, 0xffff
    mov es, ax
    mov eax, es:[0x510]
    expect eax, 0x11223344
    # The stack pointer wraps: a push at SP = 0 lands at 0xfffe of the segment.
    mov ax, 0x2000
    mov ss, ax
    xor sp, sp
    push 0x4321
    mov bx, sp
    xor ax, ax
    mov ss, ax
    mov sp, 0x7000
    expect bx, 0xfffffffe
    mov ax, 0x2000
    mov es, ax
    mov ax, es:[0xfffe]
    expect ax, 0x4321
    # PUSHA order; PUSH SP pushes the old value; POPA leaves SP.
    mov ax, 1
    mov cx, 2
    mov dx, 3
    mov bx, 4
    mov bp, 5
    mov si, 6
    mov di, 7
    pusha
    expect sp, 0x6ff0
    expect "word ptr [0x6ff0]", 7
    expect "word ptr [0x6ff6]", 0x7000
    expect "word ptr [0x6ffe]", 1
    mov word ptr [0x6ff6], 0x1234
    popa
    expect sp, 0x7000
    push sp
    pop ax
    expect ax, 0x7000
    # PUSHAD in real mode, ENTER and LEAVE with nesting.
    pushad
    expect sp, 0x6fe0
    popad
    mov bp, 0x6800
    mov word ptr [0x67fe], 0x6666
    enter 6, 2
    expect bp, 0x6ffe
    expect sp, 0x6ff4
    expect "word ptr [0x6ffe]", 0x6800
    expect "word ptr [0x6ffc]", 0x6666
    expect "word ptr [0x6ffa]", 0x6ffe
    leave
    expect sp, 0x7000
    expect bp, 0x6800
    # 32-bit near call with a 66 prefix, and LOOP with CX and ECX.
    .byte 0x66, 0xe8
    .long near_routine32 - . - 4
    mov ecx, 0x10002
    xor ax, ax
1:  inc ax
    loop 1b
    expect ax, 2
    expect ecx, 0x10000
    jcxz 2f
    fail
2:  .byte 0x67
    jcxz 3f                             # jecxz: ecx is 0x10000
    jmp 4f
3:  fail
4:  # String instructions: SI wraps at 64 KiB with 16-bit addresses; DF.
    mov word ptr [0x6000], 0x4142
    mov si, 0xffff
    mov al, 0
    cld
    lodsb
    expect si, 0
    mov esi, 0x6000
    .byte 0x67
    lodsw
    expect ax, 0x4142
    expect esi, 0x6002
    mov ecx, 0x70003
    xor ax, ax
    mov es, ax
    mov edi, 0x56001
    std
    mov al, 0x77
    rep stosb
    cld
    expect ecx, 0x70000
    expect edi, 0x55ffe
    expect "word ptr [0x5fff]", 0x7777
    # XLAT, and segment overrides.
    mov bx, 0x6000
    mov byte ptr [0x6005], 0x99
    mov al, 5
    xlatb
    expect al, 0xffffff99
    mov ax, 0x600
    mov fs, ax
    mov gs, ax
    expect "byte ptr fs:[5]", 0xffffff99
    mov bp, 5
    expect "byte ptr gs:[bp]", 0xffffff99
    lds si, [far_pointer]
    mov ax, ds
    xor bx, bx
    mov ds, bx
    expect ax, 0x1111
    expect si, 0x2222
    lss sp, [far_stack]
    expect sp, 0x7000
    done
    code16
near_routine32:
    .byte 0x66
    ret
far_pointer: .word 0x2222, 0x1111
far_stack:   .word 0x7000, 0
