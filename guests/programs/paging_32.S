# about: 32-bit paging: 4 KiB and 4 MiB pages, user and supervisor, WP, accessed and dirty bits, CR2 and error codes, CR4.PSE off
# kind: pvh32
    .include "lib.inc"
    program_pvh32
    .set pd, 0x91000
    .set pt, 0x92000
    load_tss
    .macro reload
    mov eax, cr3
    mov cr3, eax
    .endm
    mov edi, pd
    mov ecx, 0x800
    xor eax, eax
    rep stosd
    mov edi, pd
    mov eax, 0x87                                   # user: ring 3 runs the program
    mov ecx, 16
1:  stosd
    add eax, 0x400000
    loop 1b
    mov dword ptr [pd + 4 * 4], pt + 7              # 16 MiB: a page table
    mov dword ptr [pt], 0x200007
    mov dword ptr [pt + 4], 0x201005                # read-only, user
    mov dword ptr [pt + 8], 0x202003                # supervisor
    mov dword ptr [pt + 12], 0x203001               # supervisor, read-only
    mov dword ptr [pt + 16], 0
    mov dword ptr [pd + 4 * 5], pt + 3              # 20 MiB: the same by a supervisor entry
    mov dword ptr [pd + 4 * 6], pt + 5              # 24 MiB: by a read-only entry
    mov dword ptr [0x200000], 0x1111
    mov dword ptr [0x201000], 0x2222
    mov dword ptr [0x202000], 0x3333
    mov eax, cr4
    or eax, 0x10
    mov cr4, eax
    mov eax, pd
    mov cr3, eax
    mov eax, cr0
    or eax, 0x80000000
    mov cr0, eax
    expect "dword ptr [0x1000000]", 0x1111
    expect "dword ptr [0x1001000]", 0x2222
    expect "dword ptr [0x1002000]", 0x3333
    # Without WP ring 0 writes where it likes.
    mov dword ptr [0x1001000], 0x2221
    mov dword ptr [0x1003000], 0x4444
    mov dword ptr [0x1800000], 0x1112
    expect "dword ptr [0x201000]", 0x2221
    expect "dword ptr [0x200000]", 0x1112
    expect "dword ptr [pt]", 0x200067
    expect "dword ptr [pt + 4]", 0x201065
    expect "dword ptr [pd + 16]", pt+0x27
    # With WP it does not.
    mov eax, cr0
    or eax, 0x10000
    mov cr0, eax
    mov ebx, 0x1001ffc
    expect_fault 14, 3, "mov [ebx], eax"
    expect "dword ptr [fault_cr2]", 0x1001ffc
    mov ebx, 0x1003000
    expect_fault 14, 3, "inc dword ptr [ebx]"
    expect "dword ptr [0x203000]", 0x4444
    mov ebx, 0x1800008                              # writable below a read-only directory entry
    expect_fault 14, 3, "mov byte ptr [ebx], 1"
    mov eax, [ebx]
    mov ebx, 0x1004123
    expect_fault 14, 0, "mov eax, [ebx]"
    expect_fault 14, 0, "test byte ptr [ebx], 1"
    expect "dword ptr [fault_cr2]", 0x1004123
    expect_fault_at 14, 0, 0x1004123, "call ebx"    # without NX no I/D bit
    # Ring 3.
    .macro in_ring3 error, address, instruction
    enter_ring3
    mov ebx, \address
    expect_fault 14, \error, "\instruction"
    expect "dword ptr [fault_cr2]", \address
    .endm
    in_ring3 7, 0x1001000, "mov [ebx], eax"
    in_ring3 5, 0x1002000, "mov eax, [ebx]"
    in_ring3 7, 0x1002000, "mov [ebx], eax"
    in_ring3 5, 0x1400000, "mov eax, [ebx]"         # a supervisor directory entry
    in_ring3 4, 0x1004000, "mov eax, [ebx]"
    in_ring3 6, 0x1004000, "mov [ebx], eax"
    in_ring3 7, 0x1800000, "mov [ebx], eax"
    enter_ring3
    expect "dword ptr [0x1001000]", 0x2221
    mov dword ptr [0x1000000], 0x9999
    # The processor's own accesses are supervisor's: the GDT, IDT and TSS in supervisor pages work from ring 3.
    expect_fault 13, 0, "hlt"
    mov ax, 0x10
    mov ds, ax
    mov es, ax
    # A 4 MiB page: A and D in the directory entry.
    mov dword ptr [pd + 4 * 7], 0x400083            # 28 MiB -> 4 MiB
    mov dword ptr [0x400123], 0x5555
    expect "dword ptr [0x1c00123]", 0x5555
    expect "dword ptr [pd + 28]", 0x4000a3
    mov byte ptr [0x1c00000], 1
    expect "dword ptr [pd + 28]", 0x4000e3
    # Without PSE bit 7 is ignored: the entry is a page table's.
    mov edi, pt + 0x1000
    mov eax, 7
    mov ecx, 1024
1:  stosd
    add eax, 0x1000
    loop 1b
    mov dword ptr [pd], pt + 0x1007                 # the program's 4 MiB by a page table
    reload
    mov dword ptr [pd + 4 * 7], pt + 0x83
    mov eax, cr4
    and eax, ~0x10
    mov cr4, eax
    reload
    expect "dword ptr [0x1c00000]", 0x9999
    # A changed mapping after INVLPG; the other page stays as it is.
    mov dword ptr [pt + 4], 0x202007
    mov ebx, 0x1001000
    invlpg [ebx]
    expect "dword ptr [ebx]", 0x3333
    invlpg [0x1001fff]                              # any byte of the page
    # A write over a page boundary, the second page missing: nothing is written.
    mov dword ptr [0x203ffc], 0xaaaaaaaa
    mov dword ptr [pt + 12], 0x203003
    mov ebx, 0x1003000
    invlpg [ebx]
    mov ebx, 0x1003ffe
    expect_fault 14, 2, "mov dword ptr [ebx], 0x55555555"
    expect "dword ptr [fault_cr2]", 0x1004000
    expect "dword ptr [0x203ffc]", 0xaaaaaaaa
    expect_fault 14, 0, "mov eax, [ebx]"
    expect "dword ptr [fault_cr2]", 0x1004000
    done
