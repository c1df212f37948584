# about: task switches with 16-bit TSSs: from 32 to 16 bits and back, layouts, and a switch into v86 mode and ring 3
# kind: pvh32
    .include "lib.inc"
    program_pvh32
    .set task, 0x91000
    .set task_stack, 0xf000
    load_tss
    descriptor 0x60, 0x100000, 0xfffff, 0xc09a      # reaches the program with a 16-bit IP
    descriptor 0x68, 0, 0xffff, 0x0093
    mov edi, task
    mov ecx, 44
    xor eax, eax
    rep stosb
    mov eax, offset task16
    sub eax, 0x100000
    mov word ptr [task + 14], ax                    # IP
    mov word ptr [task + 16], 3                     # FLAGS
    mov word ptr [task + 18], 0x1234                # AX
    mov word ptr [task + 20], 0x5678                # CX
    mov word ptr [task + 26], task_stack            # SP
    mov word ptr [task + 34], 0x10                  # ES, CS, SS, DS
    mov word ptr [task + 36], 0x60
    mov word ptr [task + 38], 0x68                  # a 16-bit stack: the high half of ESP is undefined
    mov word ptr [task + 40], 0x10
    descriptor 0x50, task, 43, 0x81
    mov ebx, 0x99990000
    mov eax, 0x11112222
    jmp 1f                                          # (TCG loses lazily kept flags in a far call to a task)
1:  call 0x50, 0
    expect eax, 0x11112222
    expect ebx, 0x99990000
    expect "byte ptr [gdt + 0x55]", 0xffffff81
    expect "word ptr [task + 18]", 0x4321           # AX saved as a word
    jmp 1f
    .org 0x2000
task16:
    expect_flags 0x4001, 0x4001
    expect ax, 0x1234
    expect cx, 0x5678
    expect "word ptr [task]", 0x40
    expect "byte ptr [gdt + 0x55]", 0xffffff83
    expect sp, 0xfffff000
    mov dx, fs                                      # a 16-bit TSS has no FS, GS: null
    expect dx, 0
    mov eax, 0x87654321
    iretd
1:  # A 32-bit task of ring 3; from there back by a task gate in the IDT and IRET.
    mov edi, task
    mov ecx, 0x68
    xor eax, eax
    rep stosb
    mov dword ptr [task + 4], offset ring0_stack
    mov dword ptr [task + 8], 0x10
    mov dword ptr [task + 0x20], offset ring3
    mov dword ptr [task + 0x24], 0x3002
    mov dword ptr [task + 0x38], 0xe000
    mov dword ptr [task + 0x48], 0x2b
    mov dword ptr [task + 0x4c], 0x23
    mov dword ptr [task + 0x50], 0x2b
    mov dword ptr [task + 0x54], 0x2b
    descriptor 0x50, task, 0x67, 0x89
    set_gate 0x20, to_old, 0xee00
    jmp 1f                                          # (TCG loses lazily kept flags in a far call to a task)
1:  call 0x50, 0
    mov ax, cs
    expect ax, 8
    jmp 1f
ring3:
    mov ax, cs
    expect ax, 0x23
    int 0x20
    fail
to_old:
    pushfd
    pop eax
    or eax, 0x4000
    push eax
    popfd
    iretd                                           # NT: to the back link
    fail
1:    # Into v86 mode: VM in the TSS's EFLAGS; INT there comes out to ring 0.
    descriptor 0x50, task, 0x67, 0x89
    mov dword ptr [0x6000], 0x90cb0b0f              # ud2 at 0x600:0
    mov dword ptr [0x6000], 0x90900b0f
    mov dword ptr [task + 0x20], 0
    mov dword ptr [task + 0x24], 0x23002
    mov dword ptr [task + 0x38], 0x1000
    mov dword ptr [task + 0x48], 0x1111
    mov dword ptr [task + 0x4c], 0x600
    mov dword ptr [task + 0x50], 0x700
    mov dword ptr [task + 0x54], 0x2222
    expect_fault_at 6, 0, 0, "jmp 0x50, 0"
    expect "word ptr [fault_cs]", 0x600
    expect "word ptr [fault_ss]", 0x700
    test dword ptr [fault_flags], 0x20000
    jnz 1f
    fail
1:  mov ax, 0x10
    mov ds, ax
    done
