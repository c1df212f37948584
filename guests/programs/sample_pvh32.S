# about: the PVH start information, segment limits and faults in 32-bit protected mode
# kind: pvh32
    .include "lib.inc"
    program_pvh32

    mov ebx, [start_info]
    expect "dword ptr [ebx]", 0x336ec578  # hvm_start_info's magic
    expect_fault 6, 0, "ud2"
    expect_trap 3, 0, "int3"
    mov ax, 0x1000                      # beyond the GDT's limit
    expect_fault 13, 0x1000, "mov ds, ax"
    xor edx, edx
    mov eax, 7
    xor ecx, ecx
    expect_fault 0, 0, "div ecx"
    expect eax, 7                       # a fault commits nothing
    mov ecx, 2
    div ecx
    expect eax, 3
    expect edx, 1
    done
