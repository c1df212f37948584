# about: two processors on the same memory: LOCK INC, XADD, CMPXCHG, XCHG spin lock, CMPXCHG16B; litmus tests MP, LB, SB with MFENCE, coherence: no outcome TSO forbids
# kind: pvh32
# needs: cpus=2
    .include "lib.inc"
    .include "smp.inc"
    program_pvh32
    enter_long64
    map_apic
    .set ROUNDS, 2000
    start_second second
    # Both run the same counting loops between two meetings.
    call counting
    call meet
    expect "dword ptr [total_inc]", 2*ROUNDS
    expect "dword ptr [total_xadd]", 2*ROUNDS
    expect "dword ptr [total_cas]", 2*ROUNDS
    expect "dword ptr [total_lock]", 2*ROUNDS
    expect "dword ptr [total_cas16]", 2*ROUNDS
    expect "dword ptr [total_cas16 + 8]", 2*ROUNDS
    expect "dword ptr [split - 64 + 62]", 2*ROUNDS  # a locked access across a cache line
    # MP: if the flag is seen, so is the data.
    call meet
    mov ebx, 1
1:  mov [data_x], ebx
    mov [flag_y], ebx
    inc ebx
    cmp ebx, ROUNDS
    jbe 1b
    call meet
    expect "dword ptr [bad]", 0
    # LB and SB with MFENCE, round by round.
    xor ebx, ebx
2:  mov dword ptr [data_x], 0
    mov dword ptr [flag_y], 0
    call meet
    mov dword ptr [data_x], 1                       # SB: x = 1; mfence; r = y
    mfence
    mov eax, [flag_y]
    mov [r0], eax
    call meet
    mov eax, [r0]
    or eax, [r1]
    expect eax, 1                                   # both 0 is forbidden
    inc ebx
    cmp ebx, 200
    jb 2b
    xor ebx, ebx
3:  mov dword ptr [data_x], 0
    mov dword ptr [flag_y], 0
    call meet
    mov eax, [data_x]                               # LB: r = x; y = 1
    mov dword ptr [flag_y], 1
    mov [r0], eax
    call meet
    mov eax, [r0]
    and eax, [r1]
    expect eax, 0                                   # both 1 is forbidden
    inc ebx
    cmp ebx, 200
    jb 3b
    # The same with XCHG in place of MFENCE.
    xor ebx, ebx
4:  mov dword ptr [data_x], 0
    mov dword ptr [flag_y], 0
    call meet
    mov eax, 1
    xchg [data_x], eax
    mov eax, [flag_y]
    mov [r0], eax
    call meet
    mov eax, [r0]
    or eax, [r1]
    expect eax, 1
    inc ebx
    cmp ebx, 200
    jb 4b
    done

second:
    mov dword ptr [second_is_up], 1
    call counting
    call meet
    call meet
1:  mov eax, [flag_y]                               # MP
    mov ecx, [data_x]
    cmp ecx, eax
    jae 2f
    inc dword ptr [bad]
2:  cmp eax, ROUNDS
    jb 1b
    call meet
    xor ebx, ebx
3:  call meet
    mov dword ptr [flag_y], 1
    mfence
    mov eax, [data_x]
    mov [r1], eax
    call meet
    inc ebx
    cmp ebx, 200
    jb 3b
    xor ebx, ebx
4:  call meet
    mov eax, [flag_y]
    mov dword ptr [data_x], 1
    mov [r1], eax
    call meet
    inc ebx
    cmp ebx, 200
    jb 4b
    xor ebx, ebx
5:  call meet
    mov eax, 1
    xchg [flag_y], eax
    mov eax, [data_x]
    mov [r1], eax
    call meet
    inc ebx
    cmp ebx, 200
    jb 5b
6:  cli
    hlt
    jmp 6b

    # A barrier for two: a counter that both raise, each waiting for the other.
meet:
    push rax
    push rcx
    mov eax, 1
    lock xadd [meetings], eax
    and eax, -2
    lea ecx, [rax + 2]
1:  pause
    mov eax, [meetings]
    sub eax, ecx
    js 1b
    pop rcx
    pop rax
    ret

counting:
    mov r12d, ROUNDS
1:  lock inc dword ptr [total_inc]
    mov eax, 1
    lock xadd [total_xadd], eax
    mov eax, [total_cas]
2:  lea ecx, [rax + 1]
    lock cmpxchg [total_cas], ecx
    jne 2b
3:  mov eax, 1                                      # a spin lock by XCHG, unlocked by a plain store
    xchg [spin_lock], eax
    test eax, eax
    jz 4f
    pause
    jmp 3b
4:  inc dword ptr [total_lock]
    mov dword ptr [spin_lock], 0
    mov rax, [total_cas16]
    mov rdx, [total_cas16 + 8]
5:  mov rbx, rax
    mov rcx, rdx
    inc rbx
    inc rcx
    lock cmpxchg16b [total_cas16]
    jne 5b
    lock add dword ptr [split - 64 + 62], 1
    dec r12d
    jnz 1b
    ret
    smp_routines
    .balign 64
total_cas16: .quad 0, 0
total_inc:   .quad 0
total_xadd:  .quad 0
total_cas:   .quad 0
total_lock:  .quad 0
spin_lock:   .quad 0
    .balign 64
    .fill 64, 1, 0
split:
    .fill 64, 1, 0
data_x:      .fill 64, 1, 0
flag_y:      .fill 64, 1, 0
r0:          .fill 64, 1, 0
r1:          .fill 64, 1, 0
bad:         .fill 64, 1, 0
meetings:    .fill 64, 1, 0
