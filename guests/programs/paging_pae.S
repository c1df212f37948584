# about: PAE paging: PDPTEs loaded by MOV CR3, 2 MiB and 4 KiB pages, NX
# kind: pvh32
    .include "lib.inc"
    program_pvh32
    .set pdpt, 0x91000
    .set pd0, 0x92000
    .set pt, 0x93000
    .set pd3, 0x94000
    mov edi, pdpt
    mov ecx, 0x1000
    xor eax, eax
    rep stosd
    mov dword ptr [pdpt], pd0 + 1
    mov dword ptr [pdpt + 24], pd3 + 1
    mov edi, pd0
    mov eax, 0x83
    mov ecx, 512
1:  mov [edi], eax
    add eax, 0x200000
    add edi, 8
    loop 1b
    mov dword ptr [pd0 + 8 * 4], pt + 3             # 8 MiB: a page table
    mov dword ptr [pt], 0x600003                    # 8 MiB -> 6 MiB
    mov dword ptr [pt + 8], 0x601001                # read-only
    mov dword ptr [pd3 + 8 * 511], 0x400083         # 0xffe00000 -> 4 MiB
    mov dword ptr [0x600000], 0x6666
    mov dword ptr [0x601000], 0x6161
    mov dword ptr [0x400000], 0x4444
    mov eax, cr4
    or eax, 0x20
    mov cr4, eax
    mov eax, pdpt
    mov cr3, eax
    mov ecx, 0xc0000080
    rdmsr
    or eax, 0x800
    wrmsr
    mov eax, cr0
    or eax, 0x80010000
    mov cr0, eax
    expect "dword ptr [0x800000]", 0x6666
    expect "dword ptr [0x801000]", 0x6161
    expect "dword ptr [0xffe00000]", 0x4444
    mov ebx, 0x40000000                             # PDPTE 1: not present
    expect_fault 14, 0, "mov eax, [ebx]"
    expect "dword ptr [fault_cr2]", 0x40000000
    mov ebx, 0x801ffc
    expect_fault 14, 3, "mov [ebx], eax"
    # A and D: set where used, D only by writes, and in no directory entry that maps a table.
    expect "dword ptr [pt]", 0x600023
    expect "dword ptr [pt + 8]", 0x601021
    mov dword ptr [0x800000], 0x7777
    expect "dword ptr [pt]", 0x600063
    expect "dword ptr [pd0 + 32]", pt+0x23
    expect "dword ptr [pd3 + 4088]", 0x4000a3
    # A changed PDPTE counts from the next MOV to CR3 (that it does not before: paging_exact).
    mov dword ptr [pdpt + 8], pd0 + 1
    mov eax, pdpt
    mov cr3, eax
    mov dword ptr [0xa00000], 0x1234
    expect "dword ptr [0x40a00000]", 0x1234
    mov ebx, 0x800000
    # NX: fetches fault with I/D, data does not.
    mov dword ptr [pt + 4], 0x80000000
    invlpg [ebx]
    mov byte ptr [ebx], 0xc3
    expect_fault_at 14, 0x11, 0x800000, "call ebx"
    mov dword ptr [pt + 4], 0
    mov eax, pdpt
    mov cr3, eax
    call ebx
    # The table of PDPTEs is at any 32-byte address: here its fourth copy.
    mov dword ptr [pdpt + 0x60], pd0 + 1
    mov eax, pdpt + 0x60
    mov cr3, eax
    expect "byte ptr [0x800000]", 0xffffffc3
    expect_fault 14, 0, "mov eax, [0xffe00000]"
    mov eax, pdpt + 0x60 + 0x1f                     # bits 0 to 4: ignored, PWT and PCD
    mov cr3, eax
    expect "byte ptr [0x800000]", 0xffffffc3
    done
