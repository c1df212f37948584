# about: 32-bit hardware task switches by JMP, CALL, IRET, INT and a #GP task gate: state saved and loaded, busy bits, NT and back link, CR0.TS, CR3, faults
# kind: pvh32
    .include "lib.inc"
    program_pvh32
    .set task, 0x91000                  # the second task's TSS
    .set task_stack, 0x93000
    .macro clean_task entry
    push edi
    push ecx
    push eax
    mov edi, task
    mov ecx, 0x68
    xor eax, eax
    rep stosb
    mov dword ptr [task + 0x20], offset \entry
    mov dword ptr [task + 0x24], 2
    mov dword ptr [task + 0x28], 0xaaaa0000         # eax
    mov dword ptr [task + 0x34], 0xbbbb0000         # ebx
    mov dword ptr [task + 0x38], task_stack         # esp
    mov dword ptr [task + 0x48], 0x10               # es, cs, ss, ds, fs, gs
    mov dword ptr [task + 0x4c], 0x08
    mov dword ptr [task + 0x50], 0x10
    mov dword ptr [task + 0x54], 0x10
    mov dword ptr [task + 0x58], 0x10
    mov dword ptr [task + 0x5c], 0
    mov word ptr [task + 0x66], 0x68
    descriptor 0x50, task, 0x67, 0x89
    pop eax
    pop ecx
    pop edi
    .endm
    load_tss
    expect "byte ptr [gdt + 0x45]", 0xffffff8b      # LTR made it busy
    mov ax, 0x40
    expect_fault 13, 0x40, "ltr ax"                 # which LTR refuses
    # JMP: the old one becomes free, the new one busy; no NT, no back link.
    clean_task by_jump
    mov ecx, 0x12345678
    mov eax, 0x11111111
    mov word ptr [task], 0x7777
    clts
    cmp eax, eax
    stc
    jmp 1f                                          # (TCG loses lazily kept flags in a far jump to a task)
1:
    jmp 0x50, 0x99999999                            # the offset is ignored
back_from_jump:
    expect_flags 1, 1
    expect eax, 0x11111111
    expect ecx, 0x12345678
    str bx
    expect bx, 0x40
    expect "byte ptr [gdt + 0x45]", 0xffffff8b
    expect "byte ptr [gdt + 0x55]", 0xffffff89
    expect "dword ptr [task + 0x28]", 0x22222222    # its eax was saved
    expect "dword ptr [task + 0x20]", "offset after_jump_back"
    expect "dword ptr [task + 0x38]", task_stack-4
    jmp 1f
by_jump:
    mov dl, [tss + 0x24]
    and dl, 0xd5
    expect dl, 0x45                                 # EFLAGS
    expect eax, 0xaaaa0000
    expect ebx, 0xbbbb0000
    expect esp, task_stack
    expect ecx, 0
    mov dx, gs
    expect dx, 0
    expect "byte ptr [gdt + 0x45]", 0xffffff89
    expect "byte ptr [gdt + 0x55]", 0xffffff8b
    expect "dword ptr [tss + 0x2c]", 0x12345678     # ecx
    expect "dword ptr [tss + 0x28]", 0x11111111
    expect "dword ptr [tss + 0x20]", "offset back_from_jump"
    expect "word ptr [tss + 0x4c]", 8
    expect "word ptr [task]", 0x7777                # JMP writes no back link
    pushfd
    pop edx
    and edx, 0x4003
    expect edx, 2
    mov edx, cr0
    and edx, 8
    expect edx, 8                                   # CR0.TS
    str dx
    expect dx, 0x50
    push edx
    mov eax, 0x22222222
    jmp 0x40, 0
after_jump_back:
    fail
1:  # CALL: both busy, NT and back link; IRET goes back.
    clean_task by_call
    clts
    call 0x50, 0
back_from_call:
    expect "byte ptr [gdt + 0x55]", 0xffffff89      # IRET freed it
    expect "byte ptr [gdt + 0x45]", 0xffffff8b
    test dword ptr [task + 0x24], 0x4000            # and cleared NT in the saved flags
    jz 1f
    fail
1:    expect_flags 0x4000, 0
    jmp 1f
by_call:
    expect "word ptr [task]", 0x40
    expect "byte ptr [gdt + 0x45]", 0xffffff8b
    expect "byte ptr [gdt + 0x55]", 0xffffff8b
    expect_flags 0x4000, 0x4000
    expect_fault 13, 0x40, "jmp 0x40, 0"            # a busy task cannot be entered
    iretd
    fail
1:  # A task gate for an interrupt; through the gate the CPL and DPL rules are the gate's.
    clean_task by_int
    mov dword ptr [idt + 8 * 0x20], 0x00500000
    mov dword ptr [idt + 8 * 0x20 + 4], 0x0000e500
    enter_ring3
    int 0x20
    mov ax, cs
    expect ax, 0x23
    expect "dword ptr [tss + 0x4c]", 0x23
    expect_fault 13, 0, "hlt"
    jmp 1f
by_int:
    mov ax, cs
    expect ax, 8
    expect_flags 0x4000, 0x4000
    iretd
1:  # An exception through a task gate: its error code is on the new task's stack.
    clean_task by_fault
    mov eax, [idt + 8 * 13]
    mov [saved_gate], eax
    mov eax, [idt + 8 * 13 + 4]
    mov [saved_gate + 4], eax
    mov dword ptr [idt + 8 * 13], 0x00500000
    mov dword ptr [idt + 8 * 13 + 4], 0x00008500
    mov ax, 0x103
at_fault:
    mov es, ax
    fail
after_fault:
    mov eax, [saved_gate]
    mov [idt + 8 * 13], eax
    mov eax, [saved_gate + 4]
    mov [idt + 8 * 13 + 4], eax
    jmp 1f
by_fault:
    expect esp, task_stack-4
    expect "dword ptr [esp]", 0x100
    expect "dword ptr [tss + 0x20]", "offset at_fault"
    add esp, 4
    mov dword ptr [tss + 0x20], offset after_fault
    iretd
1:  # Faults before the switch: TSS not present, too short, no TSS; busy.
    expect_fault 13, 0x10, "jmp 0x10, 0"
    descriptor 0x50, task, 0x67, 0x09
    expect_fault 11, 0x50, "jmp 0x50, 0"
    descriptor 0x50, task, 0x66, 0x89
    expect_fault 10, 0x50, "jmp 0x50, 0"
    descriptor 0x50, task, 0x67, 0x8b
    expect_fault 13, 0x50, "jmp 0x50, 0"
    descriptor 0x50, task, 0x67, 0x89
    expect_fault 13, 0x54, "jmp 0x54, 0"            # TI
    # CR3 and LDTR come from the new TSS.
    clean_task with_paging
    mov edi, 0x200000                               # two page directories of 4 MiB pages
    mov ecx, 2048
    mov eax, 0x83
2:  mov [edi], eax
    mov [edi + 0x1000], eax
    add eax, 0x400000
    add edi, 4
    cmp edi, 0x201000
    jb 2b
    mov eax, 0x00800083                             # 16 MiB appears at 4 MiB in the second
    mov [0x201004], eax
    mov dword ptr [0x400000], 0x1111
    mov dword ptr [0x800000], 0x2222
    mov eax, cr4
    or eax, 0x10
    mov cr4, eax
    mov eax, 0x200000
    mov cr3, eax
    mov eax, cr0
    or eax, 0x80000000
    mov cr0, eax
    mov dword ptr [task + 0x1c], 0x201000
    mov word ptr [task + 0x60], 0x58
    descriptor 0x58, 0x94000, 0xf, 0x82
    mov dword ptr [tss + 0x1c], 0x200000            # CR3 is never saved by a switch
    call 0x50, 0
    expect "dword ptr [0x400000]", 0x1111
    sldt ax
    expect ax, 0
    mov eax, cr3
    expect eax, 0x200000
    jmp 1f
with_paging:
    expect "dword ptr [0x400000]", 0x2222
    sldt ax
    expect ax, 0x58
    mov eax, cr3
    expect eax, 0x201000
    iretd
1:  done
    .balign 4
saved_gate: .quad 0
