# about: opcodes TCG is lax with: LOCK before what it may not stand before is #UD, ahead of #NM; ICEBP is a #DB trap; #MF comes with any waiting x87 instruction; #XM; LDMXCSR of reserved bits; #SS by RBP and RSP; MSRs of addresses; ES's base; XSAVE with TS; DR7.GD; RF in a fault's frame
# kind: pvh32
# reference: differs (TCG accepts LOCK before loads, stores and compares, has no ICEBP, raises #MF by FWAIT alone, has no #XM, takes any MXCSR, says #GP for RBP and RSP, checks no MSR's address, adds ES's base in 64-bit mode, lets XSAVE pass with TS, has no GD, pushes no RF)
    .include "lib.inc"
    program_pvh32
    enter_long64
    load_tss
    mov ebx, 0x200000
    .irp instruction, ".byte 0xf0, 0x90", ".byte 0xf0, 0x01, 0xd8", ".byte 0xf0, 0x8b, 0x03", ".byte 0xf0, 0x89, 0x03", ".byte 0xf0, 0x39, 0x03", ".byte 0xf0, 0x0f, 0xa3, 0x03", ".byte 0xf0, 0xc3", ".byte 0xf0, 0x0f, 0x0b", ".byte 0xf0, 0x0f, 0xb6, 0x03"
    expect_fault 6, 0, "\instruction"
    .endr
    lock add [rbx], eax
    lock bts dword ptr [rbx], 1
    lock cmpxchg8b [rbx]
    mov rax, cr0
    or al, 8
    mov cr0, rax
    expect_fault 6, 0, ".byte 0xf0, 0x0f, 0x58, 0x03" # LOCK ADDPS
    clts
    expect_trap 1, 0, ".byte 0xf1"
    fninit
    push 0x37b                                      # zero divide unmasked
    fldcw [rsp]
    fld1
    fldz
    fdivp st(1), st
    expect_fault 16, 0, "fld1"
    expect_fault 16, 0, "fld dword ptr [rbx]"
    expect_fault 16, 0, "fldcw [rsp]"
    fnstsw ax
    fnstcw [rsp]
    fnclex
    fld1
    fninit
    mov rax, cr4
    mov r9, rax
    # #XM; without OSXMMEXCPT it is #UD.
    mov dword ptr [rsp], 0x1d80                     # zero divide unmasked
    ldmxcsr [rsp]
    pxor xmm1, xmm1
    mov eax, 0x3f800000
    movd xmm0, eax
    movd xmm2, eax
    expect_fault 19, 0, "divss xmm0, xmm1"
    movd ecx, xmm0
    expect ecx, 0x3f800000
    mov rax, cr4
    and eax, ~0x400
    mov cr4, rax
    expect_fault 6, 0, "divss xmm0, xmm1"
    mov cr4, r9
    mov dword ptr [rsp], 0x10000                    # LDMXCSR of reserved bits
    expect_fault 13, 0, "ldmxcsr [rsp]"
    mov dword ptr [rsp], 0x1f80
    ldmxcsr [rsp]
    mov rbp, 0x8000000000000000                     # not canonical: SS by its base register, but for a prefix
    expect_fault 12, 0, "mov rax, [rbp]"
    expect_fault 13, 0, "mov rax, fs:[rbp]"
    # #SS(0): not canonical by RSP.
    mov r15, rsp
    mov rbp, 0x8000000000000000
    mov byte ptr [idt + 12 * 16 + 4], 1             # IST 1, as the stack is bad
    mov dword ptr [tss + 0x24], ring0_stack
    mov rsp, rbp
    expect_fault 12, 0, "push rax"
    expect_fault 12, 0, "pop rax"
    expect_fault 12, 0, "call 0f"
0:  mov rsp, r15
    mov byte ptr [idt + 12 * 16 + 4], 0
    .macro fault_msr number, high, low
    mov ecx, \number
    mov eax, \low
    mov edx, \high
    expect_fault 13, 0, "wrmsr"
    .endm
    # MSRs that hold addresses take canonical ones.
    fault_msr 0xc0000082, 0x8000, 0
    fault_msr 0xc0000083, 0x8000, 0
    fault_msr 0xc0000100, 0x8000, 0
    fault_msr 0xc0000101, 0xffff0000, 0
    fault_msr 0xc0000102, 0x8000, 0
    descriptor 0x78, 0x100000, 0xfffff, 0xc093
    mov dword ptr [0x200010], 0x1111
    mov ax, 0x78                                    # the bases of DS, ES, SS count nothing in 64-bit mode
    mov es, ax
    expect "dword ptr es:[0x200010]", 0x1111
    mov ax, 0x10
    mov es, ax
    # CR0.TS stops XSAVE and XRSTOR.
    skip_unless_cpuid 1, 0, ecx, 26
    mov rax, cr4
    or eax, 0x40000
    mov cr4, rax
    mov rax, cr0
    or al, 8
    mov cr0, rax
    mov ebx, 0x200000
    mov eax, 3
    xor edx, edx
    expect_fault 7, 0, "xsave [rbx]"
    expect_fault 7, 0, "xrstor [rbx]"
    clts
    # DR7.GD: any access to a debug register is #DB before it, with BD, and GD is cleared for the handler.
    mov eax, 0x2400
    mov dr7, rax
    expect_fault 1, 0, "mov rcx, dr0"
    test dword ptr [fault_flags], 0x10000           # a fault: RF
    jnz 2f
    fail
2:  mov rax, dr6
    test eax, 0x2000
    jnz 1f
    fail
1:  mov rax, dr7
    expect rax, 0x400
    done
