# about: paging where TCG is inexact: read-modify-write faults as a write, PAE's PDPTEs are registers with reserved bits, bit 62 is reserved in PAE, RSVD comes with P
# kind: pvh32
# reference: differs (TCG reports the load of a read-modify-write, reads PDPTEs from memory at each walk, ignores bits 52 to 62 in PAE, says RSVD without P)
    .include "lib.inc"
    program_pvh32
    .set pdpt, 0x91000
    .set pd0, 0x92000
    .set pt, 0x93000
    mov edi, pdpt
    mov ecx, 0xc00
    xor eax, eax
    rep stosd
    mov dword ptr [pdpt], pd0 + 1
    mov edi, pd0
    mov eax, 0x83
    mov ecx, 512
1:  mov [edi], eax
    add eax, 0x200000
    add edi, 8
    loop 1b
    mov dword ptr [pd0 + 8 * 4], pt + 3             # 8 MiB: a page table
    mov dword ptr [pt], 0x600003
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
    mov ebx, 0x801000
    .irp instruction, "or byte ptr [ebx], 1", "inc dword ptr [ebx]", "lock add [ebx], eax", "xchg [ebx], eax", "cmpxchg [ebx], ecx", "bts dword ptr [ebx], 0", "shl dword ptr [ebx], 1", "adc [ebx], al", "not word ptr [ebx]", "xadd [ebx], ecx"
    expect_fault 14, 2, "\instruction"
    .endr
    .irp instruction, "cmp byte ptr [ebx], 1", "bt dword ptr [ebx], 0", "test [ebx], eax", "push [ebx]"
    expect_fault 14, 0, "\instruction"
    .endr
    mov dword ptr [0x600ffc], 0xaaaaaaaa
    mov ebx, 0x800ffe                               # the second half faults: nothing is written
    expect_fault 14, 2, "add dword ptr [ebx], 1"
    expect "dword ptr [fault_cr2]", 0x801000
    expect "dword ptr [0x600ffc]", 0xaaaaaaaa
    # A change of a PDPTE in memory is seen at the next MOV to CR3 only.
    mov dword ptr [pdpt + 8], pd0 + 1
    mov ebx, 0x40a00000
    expect_fault 14, 0, "mov eax, [ebx]"
    mov eax, pdpt
    mov cr3, eax
    mov eax, [ebx]
    mov dword ptr [pdpt + 8], 0
    invlpg [ebx]
    mov eax, [ebx]
    # Reserved bits in a PDPTE: #GP by MOV CR3, which then changes nothing.
    mov dword ptr [0x95000], pd0 + 3                # R/W is reserved in a PDPTE
    mov dword ptr [0x95004], 0
    mov eax, 0x95000
    expect_fault 13, 0, "mov cr3, eax"
    mov ecx, cr3
    expect ecx, pdpt
    # Bit 62 of a PTE is reserved in PAE.
    mov dword ptr [pt + 4], 0x40000000
    mov eax, pdpt
    mov cr3, eax
    mov ebx, 0x800000
    expect_fault 14, 9, "mov eax, [ebx]"
    mov dword ptr [pt + 4], 0
    # Reserved bits in a PDE and a PTE: #PF with RSVD.
    mov dword ptr [pd0 + 8 * 5], 0xa02083           # bit 13 of a 2 MiB page
    mov eax, pdpt
    mov cr3, eax
    mov ebx, 0xa00000
    expect_fault 14, 9, "mov eax, [ebx]"
    expect_fault 14, 11, "mov [ebx], eax"
    mov dword ptr [pd0 + 8 * 5], 0xa00083
    mov dword ptr [pt + 4], 0x80000                 # bit 51: beyond MAXPHYADDR
    mov eax, pdpt
    mov cr3, eax
    mov ebx, 0x800000
    expect_fault 14, 9, "mov eax, [ebx]"
    # Without EFER.NXE the bit is reserved, and the error code has no I/D.
    mov dword ptr [pt + 4], 0x80000000
    mov ecx, 0xc0000080
    rdmsr
    and eax, 0xfffff7ff
    wrmsr
    mov eax, pdpt
    mov cr3, eax
    expect_fault 14, 9, "mov eax, [ebx]"
    mov dword ptr [pt + 4], 0
    done
