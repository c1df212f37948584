# about: FXSAVE's layout and TS; XSAVE, XRSTOR, XGETBV, XSETBV: XCR0's rules, XSTATE_BV, INIT state, header checks, #UD and #NM
# kind: pvh32
    .include "lib.inc"
    program_pvh32
    enter_long64
    .set area, 0x200000
    mov edi, area
    mov ecx, 0x1000
    mov eax, -1
    rep stosd
    fninit
    fld1
    fldpi
    push 0x1fc0
    ldmxcsr [rsp]
    mov rax, 0x1122334455667788
    movq xmm15, rax
    mov ebx, area
    fxsave64 [rbx]
    expect "word ptr [rbx]", 0x37f                  # FCW
    expect "word ptr [rbx + 2]", 0x3000             # FSW: TOP 6
    expect "byte ptr [rbx + 4]", 0xffffffc0         # abridged tag: the registers 6 and 7
    expect "dword ptr [rbx + 24]", 0x1fc0           # MXCSR
    expect "dword ptr [rbx + 28]", 0xffff           # MXCSR_MASK
    expect "word ptr [rbx + 32 + 8]", 0x4000        # ST0 = pi: exponent
    expect "dword ptr [rbx + 32 + 4]", 0xc90fdaa2
    expect "word ptr [rbx + 48 + 8]", 0x3fff        # ST1 = 1
    mov rax, [rbx + 160 + 15 * 16]
    expect64 rax, 0x1122334455667788
    expect "dword ptr [rbx + 512]", -1              # nothing behind
    fninit
    pxor xmm15, xmm15
    mov dword ptr [rsp], 0x1f80
    ldmxcsr [rsp]
    fxrstor64 [rbx]
    stmxcsr [rsp]
    expect "dword ptr [rsp]", 0x1fc0
    movq rax, xmm15
    expect64 rax, 0x1122334455667788
    fnstsw ax
    expect ax, 0x3000
    fninit
    mov dword ptr [rsp], 0x1f80
    ldmxcsr [rsp]
    pop rax
    # Without CR4.OSXSAVE: #UD.
    xor ecx, ecx
    expect_fault 6, 0, "xgetbv"
    expect_fault 6, 0, "xsave [rbx]"
    skip_unless_cpuid 1, 0, ecx, 26
    mov rax, cr4
    or eax, 0x40000
    mov cr4, rax
    xor ecx, ecx
    xgetbv
    expect eax, 1                                   # x87 only at reset
    # XCR0: x87 always; AVX needs SSE; unknown bits and registers are #GP.
    xor edx, edx
    xor eax, eax
    expect_fault 13, 0, "xsetbv"
    mov eax, 2
    expect_fault 13, 0, "xsetbv"
    mov eax, 5
    expect_fault 13, 0, "xsetbv"
    mov eax, 3
    mov edx, 0x40000000
    expect_fault 13, 0, "xsetbv"
    xor edx, edx
    mov ecx, 5
    expect_fault 13, 0, "xsetbv"
    xor ecx, ecx
    mov eax, 3
    xsetbv
    mov eax, 13
    xor ecx, ecx
    cpuid
    expect ebx, 576                                 # the size for XCR0 = x87, SSE
    # XSAVE with a mask: only those parts are written, and XSTATE_BV bits of others stay.
    mov edi, area
    mov ecx, 0x400
    xor eax, eax
    rep stosd
    mov ebx, area
    mov dword ptr [rbx], 0x77777777
    mov rax, 0x1122334455667788
    movq xmm3, rax
    mov eax, 2
    xor edx, edx
    xsave [rbx]
    expect "dword ptr [rbx]", 0x77777777            # x87 is untouched
    expect "dword ptr [rbx + 512]", 2
    mov rax, [rbx + 160 + 3 * 16]
    expect64 rax, 0x1122334455667788
    # XRSTOR: a clear XSTATE_BV bit initialises.
    mov qword ptr [rbx + 512], 0
    mov eax, 2
    xor edx, edx
    xrstor [rbx]
    movq rax, xmm3
    expect rax, 0
    mov qword ptr [rbx + 512], 2
    mov eax, 2
    xor edx, edx
    xrstor [rbx]
    movq rax, xmm3
    expect64 rax, 0x1122334455667788
    # Header: reserved bits, XSTATE_BV beyond XCR0, XCOMP_BV without compaction; alignment to 64.
    mov eax, 3
    xor edx, edx
    mov qword ptr [rbx + 512], 4
    expect_fault 13, 0, "xrstor [rbx]"
    mov qword ptr [rbx + 512], 2
    mov qword ptr [rbx + 520], 1
    expect_fault 13, 0, "xrstor [rbx]"
    mov qword ptr [rbx + 520], 0
    mov qword ptr [rbx + 528], 1
    expect_fault 13, 0, "xrstor [rbx]"
    mov qword ptr [rbx + 528], 0
    xrstor [rbx]
    mov ebx, area + 32
    expect_fault 13, 0, "xsave [rbx]"
    mov ebx, area
    mov rax, cr0
    or al, 8
    mov cr0, rax
    mov eax, 3
    xor edx, edx
    xor ecx, ecx
    xgetbv                                          # TS is no matter here
    clts
    # AVX: #UD without XCR0; the upper half in its place.
    skip_unless_cpuid 1, 0, ecx, 28
    expect_fault 6, 0, "vpxor ymm0, ymm0, ymm0"
    mov eax, 7
    xor edx, edx
    xor ecx, ecx
    xsetbv
    mov eax, 13
    mov ecx, 2
    cpuid
    expect eax, 256
    expect ebx, 576
    mov rax, 0x5566
    movq xmm1, rax
    vinsertf128 ymm1, ymm1, xmm1, 1
    mov ebx, area
    mov eax, 7
    xor edx, edx
    xsave [rbx]
    expect "dword ptr [rbx + 576 + 16]", 0x5566
    vzeroupper
    mov eax, 4
    xor edx, edx
    xrstor [rbx]
    vextractf128 xmm2, ymm1, 1
    movd eax, xmm2
    expect eax, 0x5566
    movaps xmm1, xmm1                               # SSE leaves the upper half
    vextractf128 xmm2, ymm1, 1
    movd eax, xmm2
    expect eax, 0x5566
    vmovaps xmm1, xmm1                              # VEX clears it
    vextractf128 xmm2, ymm1, 1
    movd eax, xmm2
    expect eax, 0
    done
