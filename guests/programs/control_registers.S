# about: illegal values and combinations of CR0, CR3, CR4, EFER and MSRs are #GP(0) and change nothing; LMSW, SMSW, CLTS; CPUID mirrors CR4
# kind: pvh32
# reference: differs (TCG checks hardly any of these)
    .include "lib.inc"
    program_pvh32
    # In protected mode: PG without PE, NW without CD.
    mov ebx, cr0
    mov eax, 0x80000010
    expect_fault 13, 0, "mov cr0, eax"
    mov eax, ebx
    or eax, 0x20000000
    and eax, 0xbfffffff
    expect_fault 13, 0, "mov cr0, eax"              # NW without CD
    mov eax, cr0
    cmp eax, ebx
    je 1f
    fail
1:  mov eax, cr4
    mov esi, eax
    or eax, 0x80000000
    expect_fault 13, 0, "mov cr4, eax"
    mov eax, esi
    or eax, 0x20000                                 # PCIDE outside of long mode
    expect_fault 13, 0, "mov cr4, eax"
    # LMSW sets PE, never clears it; only four bits.
    xor eax, eax
    lmsw ax
    smsw ax
    test al, 1
    jnz 1f
    fail
1:  mov ax, 0x9
    lmsw ax
    smsw eax
    and eax, 0x9
    expect eax, 9
    clts
    smsw ax
    and ax, 8
    expect ax, 0
    mov cr0, ebx
    # LME without PAE, then PG: #GP.
    mov ecx, 0xc0000080
    rdmsr
    or eax, 0x100
    wrmsr
    mov eax, cr0
    or eax, 0x80000000
    expect_fault 13, 0, "mov cr0, eax"
    rdmsr
    and eax, ~0x100
    wrmsr
    enter_long64
    mov rbx, cr0
    mov rax, rbx
    and eax, 0x7fffffff
    expect_fault 13, 0, "mov cr0, rax"              # PG off in 64-bit mode
    mov rax, 0x100000000
    or rax, rbx
    expect_fault 13, 0, "mov cr0, rax"              # the high half
    mov rax, rbx
    or eax, 0x20000000
    and eax, 0xbfffffff
    expect_fault 13, 0, "mov cr0, rax"
    mov rax, cr4
    and eax, ~0x20
    expect_fault 13, 0, "mov cr4, rax"              # PAE off in long mode
    mov rax, cr4
    bts rax, 32
    expect_fault 13, 0, "mov cr4, rax"
    mov rax, cr4
    or eax, 0x8000                                  # reserved
    expect_fault 13, 0, "mov cr4, rax"
    # EFER: reserved bits; LME while PG is on; LMA is read-only.
    mov ecx, 0xc0000080
    rdmsr
    mov edi, eax
    or eax, 0x200
    expect_fault 13, 0, "wrmsr"
    mov eax, edi
    and eax, ~0x100
    expect_fault 13, 0, "wrmsr"
    mov eax, edi
    and eax, ~0x400
    wrmsr
    rdmsr
    cmp eax, edi
    je 1f
    fail
1:  # MSRs that are not there; and values that are none.
    mov ecx, 0x12345678
    expect_fault 13, 0, "rdmsr"
    expect_fault 13, 0, "wrmsr"
    mov ecx, 0x277                                  # PAT: type 2 is reserved
    mov eax, 0x02
    xor edx, edx
    expect_fault 13, 0, "wrmsr"
    rdmsr
    expect eax, 0x00070406
    expect edx, 0x00070406
    mov ecx, 0x1b
    rdmsr
    or edx, 0x80000000
    expect_fault 13, 0, "wrmsr"
    mov ecx, 0xfe                                   # MTRRcap is read-only
    rdmsr
    expect_fault 13, 0, "wrmsr"
    # CR8 has four bits.
    mov eax, 0x10
    expect_fault 13, 0, "mov cr8, rax"
    mov eax, 5
    mov cr8, rax
    mov rcx, cr8
    expect rcx, 5
    xor eax, eax
    mov cr8, rax
    # CPUID.1:ECX.OSXSAVE is CR4.OSXSAVE; MOV CRn ignores the operand size, MOV of 8 and 16 bits do not exist.
    mov eax, 1
    cpuid
    bt ecx, 27
    jnc 1f
    fail
1:  bt ecx, 26
    jnc 2f
    mov rax, cr4
    or eax, 0x40000
    mov cr4, rax
    mov eax, 1
    cpuid
    bt ecx, 27
    jc 1f
    fail
1:  mov rax, cr4
    and eax, ~0x40000
    mov cr4, rax
2:  # CPUID: the maximum leaves, and what is above them.
    mov eax, 0x80000000
    cpuid
    cmp eax, 0x80000008
    jae 1f
    fail
1:  mov eax, 0x80000008
    cpuid
    cmp al, 36
    jae 1f
    fail
1:  cmp ah, 48
    jae 1f
    fail
1:  mov eax, 0x80000001
    cpuid
    bt edx, 29                                      # LM
    jc 1f
    fail
1:  mov eax, 1
    cpuid
    and edx, 0x0781abfb & ~0x10000002
    expect edx, 0x0781abf9
    mov rax, -1                                     # CPUID clears the high halves
    mov rcx, -1
    mov rdx, -1
    mov rbx, -1
    mov eax, 0
    cpuid
    shr rbx, 32
    expect rbx, 0
    shr rdx, 32
    expect rdx, 0
    # LMSW in long mode; the undefined CR1, CR5.
    expect_fault 6, 0, ".byte 0x0f, 0x20, 0xc8"
    expect_fault 6, 0, ".byte 0x0f, 0x22, 0xe8"
    done
