# about: code that changes itself: the next instruction, a loop's body, across a page boundary, through another mapping, by REP MOVS and by a remapped page
# kind: pvh32
    .include "lib.inc"
    program_pvh32
    # The very next instruction, in protected mode (the processor sees it by itself).
    mov byte ptr [patch1 + 1], 0x22
patch1:
    mov al, 0x11
    expect al, 0x22
    enter_long64
    .set code, 0x300000
    # The immediate of the next instruction, 100 times.
    xor ebx, ebx
    xor esi, esi
1:  mov [patch2 + 1], bl
patch2:
    mov al, 0
    movzx eax, al
    add esi, eax
    inc ebx
    cmp ebx, 100
    jb 1b
    expect esi, 4950
    # A routine that is written, run, rewritten, run.
    mov dword ptr [code], 0xc301b0                  # mov al, 1; ret
    mov ebx, code
    call rbx
    expect al, 1
    mov byte ptr [code + 1], 2
    call rbx
    expect al, 2
    # Code that crosses a page: the change is in the second page only.
    mov ebx, code + 0xffe
    mov word ptr [rbx], 0xb890                      # nop; mov eax, imm32
    mov dword ptr [rbx + 2], 0x11111111
    mov byte ptr [rbx + 6], 0xc3
    call rbx
    expect eax, 0x11111111
    mov dword ptr [rbx + 2], 0x22222222
    call rbx
    expect eax, 0x22222222
    mov byte ptr [rbx + 1], 0xb9                    # and in the first: mov ecx
    mov ecx, 0
    call rbx
    expect ecx, 0x22222222
    # Through another linear address of the same page.
    mov qword ptr [page_tables + 0x2000 + 8 * 20], 0x200083 # 40 MiB -> 2 MiB
    mov rax, cr3
    mov cr3, rax
    mov ebx, code
    call rbx
    expect al, 2
    mov byte ptr [code - 0x200000 + 0x2800000 + 1], 3
    call rbx
    expect al, 3
    # REP MOVS over code; and a store to data beside code in the same page changes nothing.
    mov dword ptr [0x400000], 0xc304b0
    mov esi, 0x400000
    mov edi, code
    mov ecx, 4
    cld
    rep movsb
    call rbx
    expect al, 4
    mov dword ptr [code + 0x200], 0x12345678
    call rbx
    expect al, 4
    # REP STOS that overwrites itself goes on to its end; what follows is the new code.
    mov edi, offset stos_behind
    mov ecx, 3
    mov al, 0x90
    xor ebx, ebx
stos_at:
    rep stosb
stos_behind:
    inc ebx
    nop
    expect ebx, 0
    # Another page under the same address: after INVLPG the new code runs.
    mov dword ptr [0x600000], 0xc306b0
    mov dword ptr [0x800000], 0xc308b0
    mov qword ptr [page_tables + 0x2000 + 8 * 20], 0x600083
    mov ebx, 0x2800000
    invlpg [rbx]
    call rbx
    expect al, 6
    mov qword ptr [page_tables + 0x2000 + 8 * 20], 0x800083
    invlpg [rbx]
    call rbx
    expect al, 8
    # An instruction that writes over itself is done before the change counts.
    mov dword ptr [patch3], 0x90909090
    mov ebx, offset patch4
    mov eax, 0xc3
    lea rcx, [patch4]
    mov edx, 0x90909090
    call patch4
    call patch4
    expect "dword ptr [hits]", 2
    # LOCK and XCHG stores count, too.
    mov dword ptr [code], 0xc301b0
    mov ebx, code
    call rbx
    mov cl, 7
    xchg [code + 1], cl
    call rbx
    expect al, 7
    lock inc byte ptr [code + 1]
    call rbx
    expect al, 8
    push 0xc309b0
    mov rax, [rsp]
    add rsp, 8
    mov esp, code + 8
    push rax                                        # by a push
    mov esp, offset stack_top
    call rbx
    expect al, 9
    jmp 1f
    .balign 16
patch3: nop
    nop
    nop
    nop
patch4:
    mov [rcx], edx                                  # two bytes; overwrites itself and what follows
    .byte 0x90, 0x90
    inc dword ptr [hits]
    ret
1:  done
    .balign 4
hits: .long 0
