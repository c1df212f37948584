# about: what must flush: MOV CR3, INVLPG, CR4.PGE and PCIDs; global pages, INVPCID's kinds and faults; a raised right needs no flush after a fault
# kind: pvh32
    .include "lib.inc"
    program_pvh32
    enter_long64
    .set entry, page_tables + 0x2000 + 8 * 20       # 40 MiB
    .set page, 0x2800000
    mov dword ptr [0x400000], 0x4444
    mov dword ptr [0x600000], 0x6666
    .macro maps value
    mov dword ptr [entry], \value
    .endm
    .macro reload
    mov rax, cr3
    mov cr3, rax
    .endm
    maps 0x400083
    reload
    expect "dword ptr [page]", 0x4444
    maps 0x600083
    reload
    expect "dword ptr [page]", 0x6666
    maps 0x400083
    invlpg [page + 0x123456]                        # any address within the 2 MiB page
    expect "dword ptr [page]", 0x4444
    # From not present to present nothing need be flushed: nothing is cached for what is not there.
    mov dword ptr [entry], 0
    invlpg [page]
    expect_fault 14, 0, "mov eax, [page]"
    maps 0x600083
    expect "dword ptr [page]", 0x6666
    # From read-only to writable: the fault itself drops the old entry.
    maps 0x600081
    invlpg [page]
    mov eax, [page]
    expect_fault 14, 3, "mov [page], eax"
    maps 0x600083
    mov dword ptr [page], 0x6667
    expect "dword ptr [0x600000]", 0x6667
    # A change at an upper level, and INVLPG.
    mov rax, [page_tables + 0x1000]
    mov qword ptr [0x800000 + 8 * 20], 0x400083
    mov rsi, page_tables + 0x2000
    mov edi, 0x800000
    mov ecx, 512
    cld
    rep movsq
    mov qword ptr [0x800000 + 8 * 20], 0x400083
    mov ecx, [page_tables + 0x1000]
    mov dword ptr [page_tables + 0x1000], 0x800003
    invlpg [page]
    expect "dword ptr [page]", 0x4444
    mov [page_tables + 0x1000], ecx
    reload
    expect "dword ptr [page]", 0x6667
    # Global: CR4.PGE off and on flushes them.
    mov rax, cr4
    or eax, 0x80
    mov cr4, rax
    maps 0x400183
    reload
    expect "dword ptr [page]", 0x4444
    maps 0x600183
    mov rax, cr4
    and eax, ~0x80
    mov cr4, rax
    expect "dword ptr [page]", 0x6667
    or eax, 0x80
    mov cr4, rax
    maps 0x400183
    invlpg [page]                                   # INVLPG takes global ones, too
    expect "dword ptr [page]", 0x4444
    maps 0x400083
    invlpg [page]
    # A changed accessed bit: cleared and flushed, it is set again.
    mov eax, [page]
    expect "dword ptr [entry]", 0x4000a3
    maps 0x400083
    invlpg [page]
    expect "dword ptr [entry]", 0x400083
    mov dword ptr [page + 8], 1
    expect "dword ptr [entry]", 0x4000e3
    # CR0.WP changes count at once.
    maps 0x400081
    invlpg [page]
    mov rax, cr0
    and eax, ~0x10000
    mov cr0, rax
    mov dword ptr [page + 8], 2
    mov rax, cr0
    or eax, 0x10000
    mov cr0, rax
    expect_fault 14, 3, "mov [page + 8], eax"
    # PCIDs.
    skip_unless_cpuid 1, 0, ecx, 17
    mov rax, cr4
    mov rbx, cr3
    or rbx, 1
    mov cr3, rbx
    or eax, 0x20000
    expect_fault 13, 0, "mov cr4, rax"              # PCIDE only while CR3[11:0] is 0
    xor ebx, 1
    mov cr3, rbx
    mov cr4, rax
    maps 0x400083
    mov rax, rbx
    or rax, 5
    mov cr3, rax                                    # PCID 5
    expect "dword ptr [page]", 0x4444
    maps 0x600083
    mov cr3, rax                                    # bit 63 clear: PCID 5 is flushed
    expect "dword ptr [page]", 0x6667
    bts rbx, 63
    mov cr3, rbx                                    # PCID 0, not flushed; bit 63 is not stored
    mov rax, cr3
    bt rax, 63
    jnc 1f
    fail
1:  btr rbx, 63
    mov cr3, rbx
    skip_unless_cpuid 7, 0, ebx, 10
    mov qword ptr [0x900000], 5
    mov qword ptr [0x900008], page
    maps 0x400083
    mov eax, 0
    mov ecx, 0x900000
    invpcid rax, [rcx]                              # one address of PCID 5
    mov rdx, rbx
    or rdx, 5
    bts rdx, 63
    mov cr3, rdx
    expect "dword ptr [page]", 0x4444
    maps 0x600083
    mov eax, 1
    invpcid rax, [rcx]                              # all of PCID 5
    expect "dword ptr [page]", 0x6667
    maps 0x400083
    mov eax, 2
    invpcid rax, [rcx]                              # all and global
    expect "dword ptr [page]", 0x4444
    mov eax, 4
    expect_fault 13, 0, "invpcid rax, [rcx]"
    mov eax, 0
    mov qword ptr [rcx], 0x1000
    expect_fault 13, 0, "invpcid rax, [rcx]"
    mov qword ptr [rcx], 5
    mov byte ptr [rcx + 15], 0x80
    expect_fault 13, 0, "invpcid rax, [rcx]"        # not canonical
    # PG off needs PCIDE off: and long mode keeps both.
    mov rax, cr4
    and eax, ~0x20000
    mov cr4, rax
    done
