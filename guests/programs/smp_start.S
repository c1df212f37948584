# about: a second processor by INIT and SIPI: its identity, its start in real mode, IPIs both ways, HLT woken by an IPI, NMI
# kind: pvh32
# needs: cpus=2
    .include "lib.inc"
    .include "smp.inc"
    program_pvh32
    enter_long64
    map_apic
    set_gate 0x1e, on_ipi, 0x8e00
    set_gate 2, on_nmi, 0x8e00
    start_second second
    expect "dword ptr [second_id]", 1
    expect "dword ptr [second_bsp]", 0
    mov eax, [apic64 + 0x20]
    shr eax, 24
    expect eax, 0
    mov ecx, 0x1b
    rdmsr
    and eax, 0x100
    expect eax, 0x100                               # this one is the BSP
    # An IPI wakes it from HLT, again and again.
    mov ebx, 1
again:
    wait_for halting, 1
    mov dword ptr [halting], 0
    mov dword ptr [apic64 + 0x310], 0x1000000
    mov dword ptr [apic64 + 0x300], 0x401e            # (vector 0x1e is in a class that is delivered)
1:  pause
    cmp [ipis], ebx
    jne 1b
    inc ebx
    cmp ebx, 50
    jbe again
    # An NMI comes in spite of CLI.
    wait_for halting, 1
    mov dword ptr [halting], 0
    mov dword ptr [apic64 + 0x310], 0x1000000
    mov dword ptr [apic64 + 0x300], 0x4400
    wait_for nmis, 1
    expect "dword ptr [nmi_cpu]", 1
    # All but self; and then from the other one to here.
    wait_for halting, 1
    mov dword ptr [ask], 1
    mov dword ptr [ipis], 0
    mov dword ptr [apic64 + 0x300], 0xc401e
    sti
    wait_for back, 1
    cli
    expect "dword ptr [ipi_cpu]", 0
    expect "dword ptr [ipis]", 2
    # INIT puts it back to wait for a SIPI: it does not run on.
    mov dword ptr [apic64 + 0x310], 0x1000000
    mov dword ptr [apic64 + 0x300], 0x4500
    mov r12d, 200                                   # a host may be slow to stop it
2:  call short_wait
    mov ebx, [spins]
    call short_wait
    cmp ebx, [spins]
    je 1f
    dec r12d
    jnz 2b
    fail
1:  done
second:
    mov eax, [apic64 + 0x20]
    shr eax, 24
    mov [second_id], eax
    mov ecx, 0x1b
    rdmsr
    and eax, 0x100
    mov [second_bsp], eax
    mov dword ptr [second_is_up], 1                 # what it has stored is there before
1:  cmp dword ptr [ask], 0
    jne 2f
    cli
    mov dword ptr [halting], 1
    sti
    hlt
    jmp 1b
2:  cli
    mov dword ptr [apic64 + 0x310], 0
    mov dword ptr [apic64 + 0x300], 0x401e
3:  inc dword ptr [spins]
    pause
    jmp 3b
on_ipi:
    push rax
    mov eax, [apic64 + 0x20]
    shr eax, 24
    mov [ipi_cpu], eax
    test eax, eax
    jnz 1f
    mov dword ptr [back], 1
1:  lock inc dword ptr [ipis]
    mov dword ptr [apic64 + 0xb0], 0
    pop rax
    iretq
on_nmi:
    push rax
    mov eax, [apic64 + 0x20]
    shr eax, 24
    mov [nmi_cpu], eax
    inc dword ptr [nmis]
    pop rax
    iretq
    .balign 8
second_id:  .quad -1
second_bsp: .quad -1
halting:    .quad 0
ipis:       .quad 0
nmis:       .quad 0
nmi_cpu:    .quad -1
ipi_cpu:    .quad -1
ask:        .quad 0
back:       .quad 0
spins:      .quad 0
    smp_routines
