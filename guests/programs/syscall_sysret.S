# about: SYSCALL and SYSRET: selectors, RCX, R11, FMASK, 32-bit SYSRET, faults; SWAPGS; FS and GS bases
# kind: pvh32
    .include "lib.inc"
    program_pvh32
    enter_long64
    load_tss
    user_pages
    .macro set_msr number, high, low
    mov ecx, \number
    mov eax, \low
    mov edx, \high
    wrmsr
    .endm
    # Without EFER.SCE: #UD.
    expect_fault 6, 0, "syscall"
    mov ecx, 0xc0000080
    rdmsr
    or eax, 1
    wrmsr
    # GDT for the order SYSRET wants: 0x50 (kernel CS), 0x58 (SS); 0x60 + 16 user CS64, 0x60 + 8 user SS, 0x60 user CS32.
    descriptor 0x50, 0, 0xfffff, 0xa09b
    descriptor 0x58, 0, 0xfffff, 0xc093
    descriptor 0x60, 0, 0xfffff, 0xc0fb
    descriptor 0x68, 0, 0xfffff, 0xc0f3
    descriptor 0x70, 0, 0xfffff, 0xa0fb
    set_msr 0xc0000081, 0x00630050, 0
    mov eax, offset entry
    mov ecx, 0xc0000082
    xor edx, edx
    wrmsr
    set_msr 0xc0000084, 0, 0x4401                   # clears NT, DF, CF
    enter_ring3
    pushfq
    or dword ptr [rsp], 0x4c01                      # NT, OF, DF, CF
    popfq
    syscall
back:
    mov ax, cs
    expect ax, 0x73
    mov ax, ss
    expect ax, 0x6b
    expect rcx, "offset back"
    expect "dword ptr [seen_cs]", 0x50
    expect "dword ptr [seen_ss]", 0x58
    expect "dword ptr [seen_rcx]", "offset back"
    mov eax, [seen_r11]
    and eax, 0x4c01
    expect eax, 0x4c01
    mov eax, [seen_flags]
    and eax, 0x4401
    expect eax, 0
    expect rsp, ring3_stack                         # RSP is no business of SYSCALL
    # SYSRET's flags come from R11; IF and IOPL too, RF and VM do not.
    expect_fault 13, 0, "hlt"
    mov r11d, 0x33ed7 & ~0x100                      # VM, RF, IOPL 3, IF, DF, OF and more
    mov ecx, offset 1f
    sysretq
1:  pushfq
    pop rax
    and eax, 0x37ed7
    cli
    cld
    expect eax, 0x3ed7 & ~0x100
    push 2
    popfq
    expect_fault 13, 0, "hlt"
    set_gate 0x1e, compat_back, 0xee00
    # SYSRET to 32-bit code: CS is the base selector.
    mov r11d, 2
    mov ecx, offset compat
    .byte 0x0f, 0x07                                # SYSRET without REX.W
    code32
compat:
    mov bx, 0x2b                                    # IRET to ring 3 has nulled DS
    mov ds, bx
    mov ax, cs
    mov [seen_cs], ax
    mov ax, ss
    mov [seen_ss], ax
    int 0x1e
    code64
compat_back:
    expect "word ptr [seen_cs]", 0x63
    expect "word ptr [seen_ss]", 0x6b
    # Ring 3 may not SYSRET, and a RIP that is not canonical is #GP in ring 0 (Intel; AMD faults in ring 3).
    enter_ring3
    expect_fault 13, 0, "sysretq"
    # MSRs: selectors, SWAPGS, FS, GS.
    set_msr 0xc0000101, 0, 0x200000
    set_msr 0xc0000102, 0, 0x201000
    set_msr 0xc0000100, 0xffff8000, 0
    mov dword ptr [0x200010], 0x1111
    mov dword ptr [0x201010], 0x2222
    expect "dword ptr gs:[0x10]", 0x1111
    swapgs
    expect "dword ptr gs:[0x10]", 0x2222
    mov ecx, 0xc0000101
    rdmsr
    expect eax, 0x201000
    mov ecx, 0xc0000102
    rdmsr
    expect eax, 0x200000
    # A selector load sets the base from the descriptor: 32 bits, zero above.
    mov ax, 0x10
    mov fs, ax
    mov ecx, 0xc0000100
    rdmsr
    expect edx, 0
    expect eax, 0
    descriptor 0x78, 0x200000, 0xfffff, 0xc093
    mov ax, 0x78
    mov fs, ax
    rdmsr
    expect eax, 0x200000
    expect "dword ptr fs:[0x10]", 0x1111
    done
entry:
    mov [seen_cs], cs
    mov [seen_ss], ss
    mov [seen_rcx], rcx
    mov [seen_r11], r11
    pushfq
    pop qword ptr [seen_flags]
    and r11d, ~0x4c01
    sysretq
    .balign 8
seen_cs:     .quad 0
seen_ss:     .quad 0
seen_rcx:    .quad 0
seen_r11:    .quad 0
seen_flags:  .quad 0
