# about: real to protected 16 and 32, long, compatibility, back to protected and real, with unreal mode on the way
# kind: real16
    .include "lib.inc"
    program_real16
    mov sp, 0x7000
    # Unreal: a 4 GiB limit loaded in protected mode stays in real mode, the base follows new selectors.
    lgdt [gdt_pointer]
    mov eax, cr0
    or al, 1
    mov cr0, eax
    mov bx, 0x10
    mov es, bx
    and al, 0xfe
    mov cr0, eax
    jmp 0, offset unreal
unreal:
    mov edi, 0x200000
    mov dword ptr es:[edi], 0x12345678
    expect "dword ptr es:[edi]", 0x12345678
    mov bx, 0x1000                      # a real mode load: base 0x10000, the limit stays
    mov es, bx
    mov dword ptr es:[edi], 0x77
    # 16-bit protected mode: a 16-bit code segment, 16-bit stack.
    mov eax, cr0
    or al, 1
    mov cr0, eax
    jmp 0x38, offset protected16
protected16:
    mov ax, 0x48
    mov ss, ax
    mov ds, ax
    mov ax, 0x10
    mov es, ax
    mov esp, 0x55557000                 # SS.B = 0: only SP counts
    push 0x1234
    expect esp, 0x55556ffe
    pop ax
    expect ax, 0x1234
    expect "dword ptr es:[edi + 0x10000]", 0x77
    smsw ax
    and ax, 1
    expect ax, 1
    mov esp, 0x7000
    push 0x38                           # a 16-bit far return within 16-bit code
    push offset 1f
    retf
1:  pushd 0x08                          # and a 32-bit one to 32-bit code
    pushd offset protected32
    .byte 0x66
    retf
    code32
protected32:
    mov ax, 0x10
    mov ss, ax
    mov esp, offset stack_top
    call protected32_setup
    push 0x11223344
    expect "dword ptr [esp]", 0x11223344
    pop eax
    expect eax, 0x11223344
    enter_long64
    movabs rax, 0x1122334455667788
    push rax
    pop rbx
    expect64 rbx, 0x1122334455667788
    mov ecx, 0xc0000080
    rdmsr
    and eax, 0x500
    expect eax, 0x500                   # LMA with LME
    # Compatibility mode: 32-bit code under EFER.LMA; the upper halves come back as zero from 32-bit operations.
    mov r8d, 0x8888
    jmp fword ptr [to_compat]
    code32
compat:
    mov ax, 0x10
    mov ds, ax
    mov ss, ax
    xor eax, eax
    dec eax                             # in 64-bit code this byte is REX.W
    expect eax, -1
    mov eax, 0x12345678
    .byte 0x40                          # inc eax here
    expect eax, 0x12345679
    jmp 0x18, offset long_again
    code64
long_again:
    expect r8d, 0x8888
    # Leaving long mode: from compatibility mode, PG off, then LME off.
    jmp fword ptr [to_leave]
    code32
leaving:
    mov eax, cr0
    and eax, 0x7fffffff
    mov cr0, eax
    mov ecx, 0xc0000080
    rdmsr
    and eax, 0x500
    expect eax, 0x100                   # LMA went with PG
    and eax, 0xfffffeff
    rdmsr
    and eax, ~0x100
    wrmsr
    mov ax, 0x10
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov esp, offset stack_top
    call protected32_setup
    expect_fault 6, 0, "ud2"
    enter_real16
    # Real mode works as before.
    set_vector 0x61, h61
    int 0x61
    expect ax, 0x6161
    mov ax, 0x1000
    mov es, ax
    mov byte ptr es:[0x234], 0x5a
    xor ax, ax
    mov es, ax
    enter_protected32
    expect "byte ptr [0x10234]", 0x5a
    done
    code16
h61:
    mov ax, 0x6161
    iret
to_compat: .long compat
           .word 0x08
to_leave:  .long leaving
           .word 0x08
