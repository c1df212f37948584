# about: two processors: TLB shootdown by IPI (the old page is never written after the acknowledgement), and code changed by the other processor, announced by an IPI
# kind: pvh32
# needs: cpus=2
# reference: differs sometimes (MTTCG may translate old code between the invalidation and the store of another processor)
    .include "lib.inc"
    .include "smp.inc"
    program_pvh32
    enter_long64
    map_apic
    .set code_area, 0x300000                        # alone in its page
    .set page, 0x2800000                            # 40 MiB: moves between 4 MiB and 6 MiB
    .set entry, page_tables + 0x2000 + 8 * 20
    set_gate 0x1e, on_ipi, 0x8e00
    mov dword ptr [entry], 0x400083
    mov rax, cr3
    mov cr3, rax
    mov dword ptr [code_area], 0xc301b0             # mov al, 1; ret
    start_second second
    mov ebx, 0
1:  # Remap, shoot down, then look: what was written before the acknowledgement stays the last.
    wait_for running, 1
    mov eax, 0x400083
    mov ecx, 0x600000
    test ebx, 1
    jnz 2f
    mov eax, 0x600083
    mov ecx, 0x400000
2:  mov [entry], eax
    mov dword ptr [acks], 0
    mov dword ptr [apic64 + 0x310], 0x1000000
    mov dword ptr [apic64 + 0x300], 0x401e
3:  pause
    cmp dword ptr [acks], 1
    jne 3b
    mov eax, [rcx]                                  # the old page: still
    mov edx, 2000
4:  cmp eax, [rcx]
    jne 5f
    dec edx
    jnz 4b
    jmp 6f
5:  fail
6:  xor ecx, 0x200000                               # the new page moves
    mov eax, [rcx]
7:  pause
    cmp eax, [rcx]
    je 7b
    inc ebx
    cmp ebx, 100
    jb 1b
    # Cross-modifying code: the other runs code_area all the time; after the IPI's acknowledgement, only the new.
    mov ebx, 1
8:  inc ebx
    mov [code_area + 1], bl
    mov dword ptr [acks], 0
    mov dword ptr [apic64 + 0x310], 0x1000000
    mov dword ptr [apic64 + 0x300], 0x401e
9:  pause
    cmp dword ptr [acks], 1
    jne 9b
    mov eax, [calls]
    add eax, 3
1:  pause
    cmp [calls], eax
    js 1b
    movzx eax, byte ptr [result]
    cmp eax, ebx
    je 2f
    fail
2:  cmp ebx, 100
    jb 8b
    done
second:
    mov dword ptr [second_is_up], 1
    sti
    mov edi, page
    mov esi, code_area
1:  inc dword ptr [rdi]
    call rsi
    mov [result], al
    inc dword ptr [calls]
    mov dword ptr [running], 1
    jmp 1b
on_ipi:
    push rax
    invlpg [page]
    mov dword ptr [acks], 1
    mov dword ptr [apic64 + 0xb0], 0
    xor eax, eax
    push rbx
    push rcx
    push rdx
    cpuid                                           # serialises, as cross-modifying code must
    pop rdx
    pop rcx
    pop rbx
    pop rax
    iretq
    smp_routines
    .balign 64
running:   .quad 0
acks:      .quad 0
calls:     .quad 0
result:    .quad 0
