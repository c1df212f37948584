# about: SMEP, SMAP with AC, STAC and CLAC, implicit supervisor accesses, UMIP, FSGSBASE
# kind: pvh32
    .include "lib.inc"
    program_pvh32
    enter_long64
    skip_unless_cpuid 7, 0, ebx, 7
    skip_unless_cpuid 7, 0, ebx, 20
    load_tss
    .set pd, page_tables + 0x2000
    .macro set_cr4 bits
    mov rax, cr4
    or eax, \bits
    mov cr4, rax
    .endm
    .macro clear_cr4 bits
    mov rax, cr4
    and eax, ~(\bits)
    mov cr4, rax
    .endm
    # 16 MiB is ring 3's.
    or byte ptr [page_tables], 4
    or byte ptr [page_tables + 0x1000], 4
    or byte ptr [pd + 64], 4
    mov rax, cr3
    mov cr3, rax
    mov byte ptr [0x1000000], 0xc3
    mov ebx, 0x1000000
    call rbx
    set_cr4 0x100000                                # SMEP
    expect_fault_at 14, 0x11, 0x1000000, "call rbx"
    mov eax, [rbx]                                  # data is no matter
    clear_cr4 0x100000
    set_cr4 0x200000                                # SMAP
    expect_fault 14, 1, "mov eax, [rbx]"
    expect_fault 14, 3, "mov [rbx], eax"
    mov ecx, 1
    mov esi, 0x1000000
    mov edi, 0x300000
    expect_fault 14, 1, "rep movsb"
    stac
    mov eax, [rbx]
    mov dword ptr [rbx + 8], 7
    expect_flags 0x40000, 0x40000
    clac
    expect_flags 0x40000, 0
    expect_fault 14, 3, "mov [rbx], eax"
    pushfq
    or dword ptr [rsp], 0x40000
    popfq
    mov eax, [rbx]
    call rbx                                        # fetches are SMEP's matter
    # An exception clears nothing of AC by itself, but a gate with SMAP's CLAC is the handler's; the frame keeps it.
    expect_fault 6, 0, "ud2"
    test dword ptr [fault_flags], 0x40000
    jnz 1f
    fail
1:  clac
    # An implicit supervisor access (here to the LDT) to a user page faults, too.
    stac
    mov dword ptr [0x1000800], 0xffff
    mov dword ptr [0x1000804], 0xcf9300
    clac
    descriptor 0x58, 0x1000800, 7, 0x82
    mov dword ptr [gdt + 0x60], 0
    mov dword ptr [gdt + 0x64], 0
    mov ax, 0x58
    lldt ax
    mov ax, 4
    expect_fault 14, 1, "mov fs, ax"
    clear_cr4 0x200000
    # STAC in ring 3 is #UD.
    user_pages
    enter_ring3
    expect_fault 6, 0, "stac"
    # UMIP: SGDT, SIDT, SLDT, STR, SMSW in ring 3.
    skip_unless_cpuid 7, 0, ecx, 2
    enter_ring3
    smsw ax
    sldt ax
    expect_fault 13, 0, "hlt"
    set_cr4 0x800
    .irp instruction, "sgdt [rbx]", "sidt [rbx]", "sldt eax", "str eax", "smsw eax", "sldt [rbx]"
    enter_ring3
    mov ebx, 0x1000000
    expect_fault 13, 0, "\instruction"
    .endr
    smsw eax
    clear_cr4 0x800
    # FSGSBASE.
    skip_unless_cpuid 7, 0, ebx, 0
    expect_fault 6, 0, "rdfsbase rax"
    set_cr4 0x10000
    enter_ring3
    mov rax, 0x123456789a
    wrgsbase rax
    xor eax, eax
    rdgsbase rax
    expect64 rax, 0x123456789a
    mov rax, -1
    wrfsbase eax                                    # 32 bits: zero-extended
    rdfsbase rax
    expect64 rax, 0xffffffff
    expect_fault 13, 0, "hlt"
    mov ecx, 0xc0000101
    rdmsr
    expect edx, 0x12
    expect eax, 0x3456789a
    done
