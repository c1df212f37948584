# about: 4-level paging: 4 KiB, 2 MiB, 1 GiB pages, permissions combined over levels, A and D exact, NX, WP, page crossings, push and RMW onto faulting pages, canonical addresses, CR2
# kind: pvh32
    .include "lib.inc"
    program_pvh32
    enter_long64
    .set pt, 0x91000
    .set pdpt2, 0x92000
    .set pd, page_tables + 0x2000
    load_tss
    user_pages
    # NXE on.
    mov ecx, 0xc0000080
    rdmsr
    or eax, 0x800
    wrmsr
    mov edi, pt
    mov ecx, 0x800
    xor eax, eax
    rep stosd
    mov dword ptr [pd + 8 * 8], pt + 7              # 16 MiB: a page table
    mov dword ptr [pt], 0x200007
    mov dword ptr [pt + 8], 0x201005                # read-only, user
    mov dword ptr [pt + 16], 0x202003               # supervisor
    mov dword ptr [pt + 24], 0x203007
    mov dword ptr [pt + 28], 0x80000000             # NX
    mov rax, cr3
    mov cr3, rax
    mov dword ptr [0x200000], 0x1111
    mov dword ptr [0x201000], 0x2222
    # A and D: nothing, then A by a read, then D by a write; only A at the upper levels.
    expect "dword ptr [pt]", 0x200007
    mov eax, [0x1000000]
    expect eax, 0x1111
    expect "dword ptr [pt]", 0x200027
    mov dword ptr [0x1000000], 0x3333
    expect "dword ptr [pt]", 0x200067
    expect "dword ptr [pd + 64]", pt+0x27
    expect "dword ptr [pt + 8]", 0x201005
    mov eax, [0x1001000]
    expect "dword ptr [pt + 8]", 0x201025
    # A write that faults sets no D.
    mov ebx, 0x1001008
    expect_fault 14, 3, "mov [rbx], eax"
    expect "dword ptr [pt + 8]", 0x201025
    expect_fault 14, 3, "add dword ptr [rbx], 1"
    expect "dword ptr [0x201008]", 0
    expect_fault 14, 3, "lock bts dword ptr [rbx], 1"
    expect "dword ptr [0x201008]", 0
    # CR0.WP off: ring 0 writes.
    mov rax, cr0
    and eax, ~0x10000
    mov cr0, rax
    mov dword ptr [rbx], 0x77
    expect "dword ptr [pt + 8]", 0x201065
    mov rax, cr0
    or eax, 0x10000
    mov cr0, rax
    expect_fault 14, 3, "mov [rbx], eax"
    # NX and a page that is not present, by a fetch.
    mov byte ptr [0x203000], 0xc3
    mov ebx, 0x1003000
    expect_fault_at 14, 0x11, 0x1003000, "call rbx"
    mov ebx, 0x1004000
    expect_fault_at 14, 0x10, 0x1004000, "call rbx"
    expect "dword ptr [fault_cr2]", 0x1004000
    mov byte ptr [pt + 31], 0
    mov ebx, 0x1003000
    invlpg [rbx]
    call rbx
    # An instruction over a page boundary whose second half cannot be fetched: RIP at its start, CR2 at the page.
    mov word ptr [0x203ffe], 0xb848                 # mov rax, imm64
    mov ebx, 0x1003ffe
    expect_fault_at 14, 0x10, 0x1003ffe, "call rbx"
    expect "dword ptr [fault_cr2]", 0x1004000
    # Ring 3.
    .macro in_ring3 error, address, instruction
    enter_ring3
    mov ebx, \address
    expect_fault 14, \error, "\instruction"
    expect "dword ptr [fault_cr2]", \address
    .endm
    in_ring3 5, 0x1002000, "mov eax, [rbx]"
    in_ring3 7, 0x1002000, "mov [rbx], eax"
    in_ring3 7, 0x1001000, "mov [rbx], eax"
    in_ring3 4, 0x1004000, "mov eax, [rbx]"
    in_ring3 6, 0x1004000, "mov [rbx], eax"
    enter_ring3
    mov ebx, 0x1002000
    expect_fault_at 14, 0x15, 0x1002000, "call rbx"
    # An upper level takes the right away: PDE supervisor, PDE read-only, PDPTE NX.
    and byte ptr [pd + 64], ~4
    mov rax, cr3
    mov cr3, rax
    in_ring3 5, 0x1000000, "mov eax, [rbx]"
    mov byte ptr [pd + 64], 0x25
    mov rax, cr3
    mov cr3, rax
    mov ebx, 0x1000000
    expect_fault 14, 3, "mov [rbx], eax"
    mov byte ptr [pd + 64], 0x27
    mov byte ptr [pd + 64 + 7], 0x80
    mov rax, cr3
    mov cr3, rax
    mov byte ptr [0x1000000], 0xc3
    expect_fault_at 14, 0x11, 0x1000000, "call rbx"
    mov byte ptr [pd + 64 + 7], 0
    mov rax, cr3
    mov cr3, rax
    # Crossings. A write whose second page is read-only or missing writes nothing.
    mov qword ptr [0x200ff8], 0
    mov rax, -1
    mov ebx, 0x1000ffc
    expect_fault 14, 3, "mov [rbx], rax"
    expect "dword ptr [fault_cr2]", 0x1001000
    expect "dword ptr [0x200ffc]", 0
    expect_fault 14, 3, "add [rbx], rax"
    expect_fault 14, 3, "xchg [rbx], rax"
    expect rax, -1
    expect "dword ptr [0x200ffc]", 0
    expect_fault 14, 3, "movups [rbx], xmm0"
    mov qword ptr [0x203ff8], 0x12345678
    mov ebx, 0x1003ffc
    expect_fault 14, 2, "mov [rbx], rax"
    expect_fault 14, 0, "mov rcx, [rbx]"
    expect "dword ptr [fault_cr2]", 0x1004000
    expect_fault 14, 2, "movups [rbx], xmm0"
    expect "dword ptr [0x203ffc]", 0
    # The first page missing: CR2 is the first byte.
    mov ebx, 0x1004ffd
    mov dword ptr [pt + 40], 0x205007
    expect_fault 14, 0, "mov rcx, [rbx]"
    expect "dword ptr [fault_cr2]", 0x1004ffd
    # REP MOVS stops at the element: RCX, RSI, RDI say where.
    cld
    mov esi, 0x200000
    mov edi, 0x1003ff0
    mov ecx, 0x40
    expect_fault 14, 2, "rep movsb"
    expect rcx, 0x30
    expect rsi, 0x200010
    expect rdi, 0x1004000
    mov esi, 0x1003ff0
    mov edi, 0x300000
    mov ecx, 8
    expect_fault 14, 0, "rep movsq"
    expect rcx, 6
    expect rsi, 0x1004000
    expect rdi, 0x300010
    mov edi, 0x1005007                              # downwards
    mov ecx, 16
    std
    expect_fault 14, 2, "rep stosb"
    cld
    expect rcx, 8
    expect rdi, 0x1004fff
    mov esi, 0x1003ffe
    mov edi, 0x1003ffe
    mov ecx, 10
    expect_fault 14, 0, "repe cmpsb"
    expect rcx, 8
    expect rsi, 0x1004000
    # PUSH and CALL onto a missing page leave RSP; #PF is delivered on another stack (IST 1).
    mov dword ptr [tss + 0x24], ring0_stack
    mov byte ptr [idt + 14 * 16 + 4], 1
    mov r15, rsp
    mov esp, 0x1005000
    expect_fault 14, 2, "push rax"
    expect rsp, 0x1005000
    expect "dword ptr [fault_cr2]", 0x1004ff8
    expect "dword ptr [fault_rsp]", 0x1005000
    expect "dword ptr [fault_frame]", ring0_stack-40
    expect_fault 14, 2, "call rbx"
    expect_fault 14, 2, "enter 16, 0"
    expect rsp, 0x1005000
    mov esp, 0x1004ff8
    expect_fault 14, 0, "pop rax"
    expect_fault 14, 0, "ret"
    expect rsp, 0x1004ff8
    mov rsp, r15
    mov byte ptr [idt + 14 * 16 + 4], 0
    # 1 GiB pages; sign-extended addresses; a table that maps itself.
    mov dword ptr [page_tables + 8 * 511], pdpt2 + 3
    mov dword ptr [pdpt2], 0x83                     # 0xffffff8000000000 -> 0
    mov dword ptr [pdpt2 + 4088], pd + 3
    mov rax, 0xffffff8000200000
    expect "dword ptr [rax + 0x1000]", 0x2222
    expect "byte ptr [pdpt2]", 0xffffffa3
    mov byte ptr [rax], 0xc3
    expect "byte ptr [pdpt2]", 0xffffffe3
    call rax
    mov rax, 0xffffffffc0200000                     # by the page directory
    expect "dword ptr [rax + 0x1000]", 0x2222
    expect "dword ptr [0xffffffffc0201000]", 0x2222 # disp32 is sign-extended
    # Canonical: #GP(0) for data.
    mov rbx, 0x0000800000000000
    expect_fault 13, 0, "mov rax, [rbx]"
    expect_fault 13, 0, "mov [rbx], rax"
    mov rbx, 0xffff7fffffffffff
    expect_fault 13, 0, "inc qword ptr [rbx]"
    done
