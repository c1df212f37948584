# about: page faults with their error codes, non-canonical addresses and 64-bit arithmetic in long mode
# kind: pvh32
    .include "lib.inc"
    program_pvh32
    enter_long64

    movabs rax, 0x7fffffffffffffff
    add rax, 1
    expect_flags 0x8c1, 0x880
    expect64 rax, 0x8000000000000000

    # The page directory entry of 1 GiB is taken away: not present.
    mov qword ptr [page_tables + 0x3000], 0
    mov ebx, 0x40000000
    invlpg [rbx]
    expect_fault 14, 0, "mov rax, [rbx]"
    expect "dword ptr [fault_cr2]", 0x40000000
    expect_fault 14, 2, "mov [rbx], rax"

    # And made read-only: with CR0.WP a write is a protection violation.
    mov qword ptr [page_tables + 0x3000], 0x81
    expect_fault 14, 3, "mov [rbx], rax"

    movabs rcx, 0x8000000000000000
    expect_fault 13, 0, "mov rax, [rcx]"
    done
