# about: the local APIC: identity, one-shot and periodic timer, TSC deadline, self IPI, priorities by TPR, EOI, ISR and IRR
# kind: pvh32
    .include "lib.inc"
    program_pvh32
    enter_long64
    map_apic
    skip_unless_cpuid 1, 0, edx, 9
    mov edi, 0x92000                                # an IDT of 256 gates
    mov esi, offset idt
    mov ecx, 64
    rep movsq
    lidt [big_idt]
    .macro gate vector, target
    mov eax, offset \target
    mov [0x92000 + 16 * \vector], ax
    mov word ptr [0x92000 + 16 * \vector + 2], 0x18
    mov word ptr [0x92000 + 16 * \vector + 4], 0x8e00
    shr eax, 16
    mov [0x92000 + 16 * \vector + 6], ax
    mov qword ptr [0x92000 + 16 * \vector + 8], 0
    .endm
    gate 0x41, on_41
    gate 0x51, on_51
    gate 0xff, on_ff
    mov dword ptr [apic64 + 0xf0], 0x1ff              # on, spurious vector 0xff
    mov dword ptr [apic64 + 0x80], 0
    mov dword ptr [apic64 + 0x350], 0x10000
    mov eax, 1
    cpuid
    shr ebx, 24
    mov eax, [apic64 + 0x20]
    shr eax, 24
    cmp eax, ebx
    je 1f
    fail
1:  mov eax, [apic64 + 0x30]
    and eax, 0xf0
    expect eax, 0x10                                # an integrated APIC
    # Self IPI.
    sti
    mov dword ptr [apic64 + 0x300], 0x44041           # shorthand self, fixed, assert
    nop
    nop
    cli
    expect "dword ptr [count41]", 1
    # Priorities: with both pending the higher goes first; TPR holds the lower back.
    mov dword ptr [apic64 + 0x300], 0x44041
    mov dword ptr [apic64 + 0x300], 0x44051
    mov eax, [apic64 + 0x220]                         # IRR of 0x40 to 0x5f
    expect eax, 0x20002
    mov eax, 5
    mov cr8, rax
    mov eax, [apic64 + 0x80]
    expect eax, 0x50                                # CR8 is the TPR's high half
    sti
    nop
    nop
    cli
    expect "dword ptr [count51]", 0                 # class 5 is not above 5
    mov eax, 4
    mov cr8, rax
    sti
    nop
    nop
    cli
    expect "dword ptr [count51]", 1
    expect "dword ptr [count41]", 1
    xor eax, eax
    mov cr8, rax
    sti
    nop
    nop
    cli
    expect "dword ptr [count41]", 2
    # In service without EOI: only a higher class comes through.
    mov byte ptr [no_eoi], 1
    mov dword ptr [apic64 + 0x300], 0x44051
    sti
    nop
    nop
    cli
    expect "dword ptr [count51]", 2
    mov eax, [apic64 + 0x120]                         # ISR
    expect eax, 0x20000
    mov eax, [apic64 + 0xa0]                          # PPR
    expect eax, 0x50
    mov dword ptr [apic64 + 0x300], 0x44041
    sti
    nop
    nop
    cli
    expect "dword ptr [count41]", 2
    mov byte ptr [no_eoi], 0
    mov dword ptr [apic64 + 0xb0], 0
    sti
    nop
    nop
    cli
    expect "dword ptr [count41]", 3
    mov eax, [apic64 + 0x120]
    expect eax, 0
    # The timer, one shot: the count runs down, one interrupt, then 0.
    mov dword ptr [count41], 0
    mov dword ptr [apic64 + 0x3e0], 0xb               # divide by 1
    mov dword ptr [apic64 + 0x320], 0x41
    mov dword ptr [apic64 + 0x380], 100000000          # long enough for a slow machine to read it running
    mov eax, [apic64 + 0x390]
    test eax, eax
    jnz 1f
    fail
1:  cmp eax, 100000000
    jbe 1f
    fail
1:  sti
    hlt
    cli
    expect "dword ptr [count41]", 1
    mov eax, [apic64 + 0x390]
    expect eax, 0
    # Masked: it counts, and nothing comes.
    mov dword ptr [apic64 + 0x320], 0x10041
    mov dword ptr [apic64 + 0x380], 1000
1:  mov eax, [apic64 + 0x390]
    test eax, eax
    jnz 1b
    sti
    nop
    nop
    cli
    expect "dword ptr [count41]", 1
    # Periodic.
    mov dword ptr [apic64 + 0x320], 0x20041
    mov dword ptr [apic64 + 0x380], 500000
1:  sti
    hlt
    cli
    cmp dword ptr [count41], 4
    jb 1b
    mov dword ptr [apic64 + 0x380], 0                 # stops
    mov eax, [apic64 + 0x390]
    expect eax, 0
    sti                                               # one more may have come while interrupts were off
    nop
    nop
    cli
    # TSC deadline.
    skip_unless_cpuid 1, 0, ecx, 24
    mov dword ptr [count41], 0
    mov dword ptr [apic64 + 0x320], 0x40041
    mfence
    rdtsc
    add eax, 3000000
    adc edx, 0
    mov [deadline], eax
    mov [deadline + 4], edx
    mov ecx, 0x6e0
    wrmsr
    sti
    hlt
    cli
    expect "dword ptr [count41]", 1
    rdtsc
    shl rdx, 32
    or rax, rdx
    cmp rax, [deadline]
    jae 1f
    fail
1:  mov ecx, 0x6e0                                  # disarmed by firing
    rdmsr
    or eax, edx
    expect eax, 0
    mov eax, 1                                      # a deadline in the past fires at once
    xor edx, edx
    wrmsr
    sti
    hlt
    cli
    expect "dword ptr [count41]", 2
    done
on_41:
    inc dword ptr [count41]
    jmp eoi
on_51:
    inc dword ptr [count51]
eoi:
    cmp byte ptr [no_eoi], 0
    jne on_ff
    mov dword ptr [apic64 + 0xb0], 0
on_ff:
    iretq
    .balign 8
big_idt:  .word 0xfff
          .quad 0x92000
count41:  .quad 0
count51:  .quad 0
no_eoi:   .quad 0
deadline: .quad 0
