# about: virtual-8086 mode: entry by IRET, addresses, IOPL-sensitive instructions, INT and faults out to ring 0 with all segments in the frame, I/O bitmap, what is #UD there
# kind: pvh32
    .include "lib.inc"
    program_pvh32
    .set CODE, 0xffff0                  # segment 0xffff reaches the program
    .macro v86 name, flags=0x20002
    mov eax, offset v86_\name - CODE
    mov ecx, \flags
    call enter_v86
    .endm
    .macro v86_fault_at vector, error, at, name, flags=0x20002
    expect_fault_at \vector, \error, "\at-CODE", "v86 \name, \flags"
    .endm
    .macro v86_fault vector, error, name, flags=0x20002
    v86_fault_at \vector, \error, v86_\name, \name, \flags
    .endm
    load_tss
    set_gate 0x20, stubs32+16*3, 0xee00         # DPL 3; records vector 3
    set_gate 0x21, stubs32+16*3, 0x8e00         # DPL 0
    # HLT is #GP(0); the frame; segments have base = selector * 16.
    v86_fault 13, 0, hlt
    expect "dword ptr [fault_frame]", ring0_stack-36
    expect "word ptr [fault_cs]", 0xffffffff
    expect "dword ptr [ring0_stack - 20]", 0x700    # SS
    expect "dword ptr [ring0_stack - 24]", 0x1000   # ESP
    expect "dword ptr [ring0_stack - 16]", 0x1111   # ES
    expect "dword ptr [ring0_stack - 12]", 0x2222   # DS
    expect "dword ptr [ring0_stack - 8]", 0x3333    # FS
    expect "dword ptr [ring0_stack - 4]", 0x4444    # GS
    test dword ptr [fault_flags], 0x20000
    jnz 1f
    fail
1:  mov ax, fs
    expect ax, 0                                    # nulled for the handler
    mov ax, gs
    expect ax, 0
    pushfd
    pop eax
    test eax, 0x20000
    jz 1f
    fail
1:  v86_fault_at 13, 0, v86_addresses_end, addresses, 0x20002
    expect "dword ptr [0x22230]", 0x2222     # DS:10, by MOV of DS
    expect "word ptr [0x7ffe]", 0x5678
    # IOPL 0: the sensitive ones are #GP(0).
    .irp name, cli, sti, pushf, popf, int20, iret, pushfd
    v86_fault 13, 0, \name
    .endr
    v86_fault 13, 0, iret, 0x22002                  # IOPL 2 is not enough
    # IOPL 3: they work on the real flags.
    v86_fault_at 13, 0, v86_flags_end, flags, 0x23002
    expect "word ptr [0x22220]", 0x3202             # PUSHF after STI: IF, IOPL
    expect "word ptr [0x22222]", 0x3002             # after POPF of 0x0002: IF and not IOPL changed
    # INT n with IOPL 3 goes to ring 0 if the gate's DPL is 3, else #GP(vector * 8 + IDT); INT3 does not look at IOPL.
    v86_fault_at 3, 0, v86_int20_end, int20, 0x23002
    expect "dword ptr [fault_frame]", ring0_stack-36
    v86_fault 13, 0x10a, int21, 0x23002
    set_gate 3, stubs32+16*3, 0xee00
    v86_fault_at 3, 0, v86_int3+1, int3
    # Through a gate to a handler that is not of ring 0: #GP with its selector.
    set_gate 0x20, stubs32+16*3, 0xee00, 0x20
    v86_fault 13, 0x20, int20, 0x23002
    # Instructions of protected mode: #UD; of ring 0: #GP(0).
    .irp name, lldt, ltr, arpl, verr, lar, sldt
    v86_fault 6, 0, \name, 0x23002
    .endr
    .irp name, lgdt, mov_cr0, lmsw, clts, mov_dr7, invd
    v86_fault 13, 0, \name, 0x23002
    .endr
    v86_fault_at 13, 0, v86_smsw_end, smsw, 0x20002
    expect "byte ptr [0x22220]", 1                  # PE
    # Ports: IOPL does not help, the bitmap decides.
    v86_fault 13, 0, in80, 0x23002
    mov dword ptr [tss + 0x68], -1
    mov dword ptr [tss + 0x6c], -1
    mov dword ptr [tss + 0x70], -1
    mov dword ptr [tss + 0x74], -1
    mov dword ptr [tss + 0x78], -1
    mov dword ptr [tss + 0x68 + 0x10], 0xfffffffe   # port 0x80
    descriptor 0x40, tss, 0x67 + 0x15, 0x89
    mov ax, 0x40
    ltr ax
    v86_fault_at 13, 0, v86_in80_end, in80, 0x20002
    v86_fault 13, 0, in80w, 0x23002                 # port 0x81 is closed
    # #UD, #DE as anywhere, and a page of code that ends: no limit is crossed by a fetch.
    v86_fault 6, 0, ud2
    v86_fault 0, 0, div0
    # RETF and far JMP load real mode segments.
    v86_fault_at 13, 0, v86_far_end, far, 0x20002
    expect "word ptr [0x22220]", 0xfffffffe
    # POPFD cannot set VM.
    push 0x20002
    popfd
    pushfd
    pop eax
    and eax, 0x20000
    expect eax, 0
    done

enter_v86:
    push 0x4444
    push 0x3333
    push 0x2222
    push 0x1111
    push 0x700
    push 0x1000
    push ecx
    push 0xffff
    push eax
    iretd

    code16
v86_hlt:     hlt
v86_addresses:
    mov ax, ds
    mov [0x10], ax
    mov word ptr [0x12], 0
    push 0x5678
v86_addresses_end:
    hlt
v86_cli:     cli
    hlt
v86_sti:     sti
    hlt
v86_pushf:   pushf
    hlt
v86_pushfd:  pushfd
    hlt
v86_popf:    popf
    hlt
v86_int20:   int 0x20
v86_int20_end:
    hlt
v86_int21:   int 0x21
    hlt
v86_int3:    int3
    hlt
v86_iret:    iret
    hlt
v86_flags:
    xor ax, ax
    push 0x0002
    popf
    sti
    pushf
    pop word ptr [0]
    push 0x0002
    popf
    pushf
    pop word ptr [2]
v86_flags_end:
    hlt
v86_lldt:    lldt ax
v86_ltr:     ltr ax
v86_arpl:    arpl ax, cx
v86_verr:    verr ax
v86_lar:     lar ax, ax
v86_sldt:    sldt ax
v86_lgdt:    lgdt [0]
v86_mov_cr0: mov eax, cr0
v86_lmsw:    lmsw ax
v86_clts:    clts
v86_mov_dr7: mov eax, dr7
v86_invd:    invd
v86_smsw:    smsw ax
    and ax, 1
    mov [0], ax
v86_smsw_end:
    hlt
v86_in80:    in al, 0x80
v86_in80_end:
    hlt
v86_in80w:   in ax, 0x80
    hlt
v86_ud2:     ud2
v86_div0:    .byte 0xd4, 0                           # AAM by 0
v86_far:
    jmp 0xfffe, v86_far_there - CODE + 0x10
v86_far_there:
    mov ax, cs
    mov [0], ax
    push 0xffff
    push offset v86_far_end - CODE
    retf
    nop
v86_far_end:
    hlt
    hlt
