# about: real mode arithmetic and flags, then the way up through protected to long mode
# kind: real16
    .include "lib.inc"
    program_real16

    mov ax, 0x7fff
    add ax, 1
    expect_flags 0x8c1, 0x880           # SF and OF, neither ZF nor CF
    expect ax, 0xffff8000
    mov bx, 0x1234                      # a 20-bit address: segment * 16 + offset
    mov es, bx
    mov byte ptr es:[5], 0x77
    xor bx, bx
    mov es, bx
    mov bx, 0x2345
    shl ebx, 0
    expect "byte ptr [bx]", 0             # 0x02345 is not 0x12345
    mov al, 0x15
    add al, 0x27
    daa
    expect al, 0x42
    print "real mode\n"

    enter_protected32
    expect "byte ptr [0x12345]", 0x77     # and here it is, seen by its linear address
    print "protected mode\n"

    enter_long64
    mov rax, 0x123456789
    expect64 rax, 0x123456789
    print "long mode\n"
    done
