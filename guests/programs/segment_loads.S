# about: protected mode segment loads: null, index beyond the limit, TI, type, DPL and RPL, not present (#NP, #SS), the accessed bit, LDT, LAR, LSL, VERR, VERW, ARPL
# kind: pvh32
    .include "lib.inc"
    program_pvh32
    .macro fault_with vector, error, selector, register
    mov ax, \selector
    expect_fault \vector, \error, "mov \register, ax"
    .endm
    descriptor 0x50, 0x12340000, 0xfffff, 0xc092    # data, not accessed
    descriptor 0x58, 0, 0xfffff, 0xc012             # not present
    descriptor 0x60, 0, 0xfffff, 0xc098             # execute-only
    descriptor 0x68, 0, 0xfffff, 0xc09a             # execute-read, not accessed
    descriptor 0x70, 0, 0x1234, 0x4090              # read-only data
    descriptor 0x78, 0, 0xfffff, 0xc0f2             # data, DPL 3
    descriptor 0x80, 0, 0xfffff, 0xc09e             # conforming, readable
    descriptor 0x88, 0x91000, 0x1f, 0x82            # LDT
    descriptor 0x90, 0, 0xfffff, 0xc018             # code, not present
    descriptor 0x98, 0x91000, 0x1f, 0x02            # LDT, not present
    descriptor 0xa0, 0, 0xfffff, 0xc0b2             # data, DPL 1

    # The accessed bit is set by a load, not by LAR.
    mov ax, 0x50
    lar ebx, eax
    and ebx, 0xf0ff00                   # the limit's bits are undefined
    expect ebx, 0xc09200
    expect "byte ptr [gdt + 0x55]", 0x92
    mov es, ax
    expect "byte ptr [gdt + 0x55]", 0x93
    # Null selectors load into data segments (and fault when used), never into SS.
    mov ax, 3
    mov es, ax
    mov bx, es
    expect bx, 3
    fault_with 13, 0, 0, ss
    xor ax, ax                                      # at reset LDTR is usable: base 0, limit 0xffff
    lldt ax
    # The error code is the selector without its RPL; TI is bit 2.
    fault_with 13, 0x100, 0x103, ds                  # beyond the GDT
    fault_with 13, 0x0c, 0x0c, ds                    # LDT, and there is none
    fault_with 13, 0x58, 0x5b, ds                   # RPL first
    fault_with 11, 0x58, 0x58, ds                   # not present
    fault_with 12, 0x58, 0x58, ss                   # for SS it is #SS
    fault_with 13, 0x60, 0x60, ds                   # execute-only is no data
    fault_with 13, 0x40, 0x40, ds                   # a null descriptor: system type 0
    fault_with 13, 0x88, 0x88, ds                   # a system segment
    mov ax, 0x68
    mov ds, ax                                      # readable code is
    expect "byte ptr cs:[gdt + 0x6d]", 0xffffff9b
    mov ax, 0x10
    mov ds, ax
    mov ax, 0x83                                    # conforming: RPL does not matter
    mov fs, ax
    # SS: RPL and DPL must be CPL, writable data only.
    fault_with 13, 0x78, 0x78, ss
    fault_with 13, 0x50, 0x53, ss
    fault_with 13, 0x70, 0x70, ss
    fault_with 13, 0x68, 0x68, ss
    mov ax, 0x10
    mov es, ax
    # A fault leaves the register as it was.
    mov bx, es
    expect bx, 0x10
    expect_fault 6, 0, "mov cs, ax"
    # RPL > DPL is refused for data: DPL 0 by RPL 3; the maximum of CPL and RPL counts.
    fault_with 13, 0x10, 0x13, es
    mov ax, 0x7b
    mov es, ax
    fault_with 13, 0xa0, 0xa3, es
    mov ax, 0xa1
    mov es, ax
    # POP and LES fault the same way and commit nothing.
    push 0x58
    mov ebx, esp
    expect_fault 11, 0x58, "pop es"
    expect_fault 12, 0x58, "pop ss"
    cmp ebx, esp
    je 1f
    fail
1:  add esp, 4
    mov dword ptr [0x92000], 0x11112222
    mov word ptr [0x92004], 0x103
    mov esi, 0x5555
    expect_fault 13, 0x100, "les esi, [0x92000]"
    expect esi, 0x5555
    # LDT: selectors with TI.
    mov dword ptr [0x91008], 0x0000ffff
    mov dword ptr [0x9100c], 0x00cf9200
    fault_with 13, 0x9c, 0x9c, ds
    mov ax, 0x98
    expect_fault 11, 0x98, "lldt ax"
    mov ax, 0x10
    expect_fault 13, 0x10, "lldt ax"
    mov ax, 0x8c
    expect_fault 13, 0x8c, "lldt ax"
    mov ax, 0x88
    lldt ax
    sldt bx
    expect bx, 0x88
    mov ax, 0x0c
    mov gs, ax
    expect "byte ptr [0x9100d]", 0xffffff93
    expect "dword ptr gs:[0x92000]", 0x11112222
    fault_with 13, 0x24, 0x24, ds                   # beyond the LDT
    xor ax, ax
    lldt ax                                         # null: no LDT
    fault_with 13, 0x0c, 0x0c, ds
    # LAR, LSL: ZF, and what they give; limits in bytes.
    mov ebx, 0x77
    mov ax, 0x70
    lsl ebx, eax
    expect_flags 0x40, 0x40
    expect ebx, 0x1234
    mov ax, 0x10
    lsl ebx, eax
    expect ebx, -1
    lsl bx, ax
    expect_flags 0x40, 0x40
    mov ax, 0x88
    lsl ebx, eax
    expect ebx, 0x1f
    mov ax, 0x58                                    # not present is no matter
    lar ebx, eax
    expect_flags 0x40, 0x40
    and ebx, 0xf0ff00
    expect ebx, 0xc01200
    mov ebx, 0x77
    xor eax, eax
    lar ebx, eax
    expect_flags 0x40, 0
    expect ebx, 0x77
    mov ax, 0x103
    lsl ebx, eax
    expect_flags 0x40, 0
    mov ax, 0x13                                    # RPL 3 > DPL 0
    lar ebx, eax
    expect_flags 0x40, 0
    lsl ebx, eax
    expect_flags 0x40, 0
    mov ax, 0x83                                    # conforming: visible at any RPL
    lar ebx, eax
    expect_flags 0x40, 0x40
    # VERR, VERW.
    .macro verify instruction, selector, zf
    mov ax, \selector
    \instruction ax
    expect_flags 0x40, \zf
    .endm
    verify verr, 0x10, 0x40
    verify verw, 0x10, 0x40
    verify verr, 0x70, 0x40
    verify verw, 0x70, 0
    verify verr, 0x60, 0                            # execute-only
    verify verr, 0x08, 0x40
    verify verw, 0x08, 0                            # code is never writable
    verify verr, 0x13, 0
    verify verr, 0x83, 0x40
    verify verr, 0x88, 0
    verify verr, 0, 0
    # ARPL raises the RPL and tells.
    mov ax, 0x10
    mov cx, 3
    arpl ax, cx
    expect_flags 0x40, 0x40
    expect ax, 0x13
    mov cx, 1
    arpl ax, cx
    expect_flags 0x40, 0
    expect ax, 0x13
    # MOV r32, sreg zero-extends; 16-bit memory form writes two bytes; PUSH of a segment moves esp by 4.
    mov eax, -1
    mov eax, ds
    expect eax, 0x10
    mov dword ptr [0x92000], -1
    mov [0x92000], ds
    expect "dword ptr [0x92000]", 0xffff0010
    mov ebx, esp
    push ds
    sub ebx, esp
    expect ebx, 4
    pop ds
    done
