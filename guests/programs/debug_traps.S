# about: TF single step (over REP, POPF, INT, MOV SS, branches), hardware breakpoints of each kind and size, DR6, DR7, DR4 and DR5
# kind: pvh32
    .include "lib.inc"
    program_pvh32
    enter_long64
    load_tss
    # What the #DB handler saw is in `count`, `rips` and `dr6s`; it goes on, with RF if a fault.
    set_gate 1, on_debug, 0x8e00
    .macro clear
    mov dword ptr [count], 0
    .endm
    .macro set_tf
    pushfq
    or dword ptr [rsp], 0x100
    popfq
    .endm
    .macro clear_tf
    pushfq
    and dword ptr [rsp], ~0x100
    popfq
    .endm
    mov rax, 0xffff0ff0
    mov dr6, rax
    # The instruction that sets TF is not trapped; each one behind is, POPF that clears TF too.
    clear
    set_tf
s0: nop
s1: mov eax, 1
s2: pushfq
s3: and dword ptr [rsp], ~0x100
s4: popfq
s5: nop
    expect "dword ptr [count]", 5
    expect "dword ptr [rips]", "offset s1"
    expect "dword ptr [rips + 8]", "offset s2"
    expect "dword ptr [rips + 24]", "offset s4"
    expect "dword ptr [rips + 32]", "offset s5"
    expect "dword ptr [dr6s]", 0xffff4ff0           # BS
    # PUSHF pushes TF.
    # REP: a trap behind each iteration, RIP at it until the last one.
    clear
    mov esi, 0x200000
    mov edi, 0x201000
    mov ecx, 3
    cld
    set_tf
t0: rep movsb
t1: nop
    clear_tf
    expect "dword ptr [rips]", "offset t0"
    expect "dword ptr [rips + 8]", "offset t0"
    expect "dword ptr [rips + 16]", "offset t1"
    # MOV SS holds the trap back until behind the next instruction.
    clear
    xor eax, eax
    set_tf
u0: mov ss, eax
u1: nop
u2: nop
    clear_tf
    expect "dword ptr [rips]", "offset u2"
    # INT n: TF is cleared for the handler, and comes back by IRET: no trap inside, none at the INT's end.
    set_gate 0x1e, just_iret, 0x8e00
    clear
    set_tf
v0: int 0x1e
v1: nop
v2: nop
    clear_tf
    expect "dword ptr [rips]", "offset v2"
    # A taken branch, a CALL and a RET trap at where they went.
    clear
    set_tf
w0: jmp w2
w1: nop
w2: call w4
w3: jmp w5
w4: ret
w5: nop
    clear_tf
    expect "dword ptr [rips]", "offset w2"
    expect "dword ptr [rips + 8]", "offset w4"
    expect "dword ptr [rips + 16]", "offset w3"
    # A breakpoint for execution: a fault before the instruction; RF in the frame lets it pass.
    clear
    mov rax, 0xffff0ff0
    mov dr6, rax
    mov eax, offset x1
    mov dr0, rax
    mov eax, 0x401
    mov dr7, rax
x0: nop
x1: inc ebx
x2: nop
    expect "dword ptr [count]", 1
    expect "dword ptr [rips]", "offset x1"
    expect "dword ptr [dr6s]", 0xffff0ff1
    test dword ptr [flags], 0x10000                 # this fault alone does not push RF
    jz 1f
    fail
1:  # Writes of 1, 2, 4, 8 bytes: a trap behind the instruction.
    .macro watch kind_size, address, hits, instruction
    clear
    mov rax, 0xffff0ff0
    mov dr6, rax
    mov eax, \address
    mov dr1, rax
    mov eax, 0x404 | (\kind_size << 20)
    mov dr7, rax
    \instruction
1:  mov eax, 0x400
    mov dr7, rax
    expect "dword ptr [count]", \hits
    .if \hits
    expect "dword ptr [rips]", "offset 1b"
    expect "dword ptr [dr6s]", 0xffff0ff2
    .endif
    .endm
    mov ebx, 0x200100
    watch 0x1, 0x200100, 1, "mov byte ptr [rbx], 1"
    watch 0x1, 0x200100, 0, "mov byte ptr [rbx + 1], 1"
    watch 0x1, 0x200100, 0, "mov byte ptr [rbx - 1], 1"
    watch 0x1, 0x200100, 1, "mov dword ptr [rbx - 3], 1"
    watch 0x1, 0x200100, 0, "mov cl, [rbx]"
    watch 0x3, 0x200100, 1, "mov cl, [rbx]"
    watch 0x3, 0x200100, 1, "mov [rbx], cl"
    watch 0x5, 0x200100, 1, "mov byte ptr [rbx + 1], 1"
    watch 0x5, 0x200100, 0, "mov byte ptr [rbx + 2], 1"
    watch 0xd, 0x200100, 1, "mov byte ptr [rbx + 3], 1"
    watch 0xd, 0x200100, 0, "mov byte ptr [rbx + 4], 1"
    watch 0x9, 0x200100, 1, "mov byte ptr [rbx + 7], 1"
    watch 0x9, 0x200100, 0, "mov byte ptr [rbx + 8], 1"
    watch 0xf, 0x200100, 1, "inc dword ptr [rbx]"
    watch 0x1, 0x200100, 1, "xchg [rbx], cl"
    push 0
    pop rax
    # Not enabled: DR6 and #DB stay quiet. RESULT of reading DR7: bit 10 is 1; DR6's fixed bits.
    clear
    mov eax, 0x00100400
    mov dr7, rax
    mov byte ptr [rbx], 1
    expect "dword ptr [count]", 0
    xor eax, eax
    mov dr7, rax
    mov rax, dr7
    expect rax, 0x400
    mov dr6, rcx
    xor ecx, ecx
    mov dr6, rcx
    mov rax, dr6
    expect eax, 0xffff0ff0
    mov rcx, 0x100000000
    expect_fault 13, 0, "mov dr6, rcx"
    expect_fault 13, 0, "mov dr7, rcx"
    # DR4 and DR5: other names of DR6 and DR7, #UD with CR4.DE.
    mov rax, dr5
    expect rax, 0x400
    mov rax, dr4
    expect eax, 0xffff0ff0
    mov rax, cr4
    or eax, 8
    mov cr4, rax
    expect_fault 6, 0, "mov rax, dr4"
    expect_fault 6, 0, "mov dr5, rax"
    done

just_iret:
    iretq
    # A hit by DR0 (here always for execution) and GD are faults: RF, or the same again; all else are traps.
on_debug:
    push rax
    push rbx
    mov eax, [count]
    cmp eax, 60
    ja 1f
    mov rbx, [rsp + 16]
    mov [rips + rax * 8], rbx
    mov rbx, [rsp + 32]
    mov [flags], rbx
    mov rbx, dr6
    mov [dr6s + rax * 8], rbx
    inc dword ptr [count]
    test bl, 1
    jz 1f
    or dword ptr [rsp + 32], 0x10000
1:  mov rbx, 0xffff0ff0
    mov dr6, rbx
    pop rbx
    pop rax
    iretq
    .balign 8
count: .quad 0
flags: .quad 0
rips:  .fill 64, 8, 0
dr6s:  .fill 64, 8, 0
