# about: the I/O permission bitmap: IOPL, bits of every byte of an access, the byte behind, limits, the 0 bitmap base, INS and OUTS, CLI and STI by IOPL, in 32-bit and long mode
# kind: pvh32
    .include "lib.inc"
    program_pvh32
    .macro bitmap_checks
    # No bitmap (the offset is the limit + 1): nothing is allowed.
    enter_ring3
    expect_fault 13, 0, "in al, 0x80"
    # A bitmap of 32 bytes, with its trailing 0xff.
    mov edi, tss + 0x68
    mov ecx, 33
    mov al, -1
    rep stosb
    mov byte ptr [tss + 0x68 + 0x10], 0xf8          # ports 0x80, 0x81, 0x82
    descriptor 0x40, tss, 0x68+32, 0x89
    mov ax, 0x40
    ltr ax
    enter_ring3
    in al, 0x80
    out 0x80, al
    in ax, 0x81
    mov edx, 0x80
    in ax, dx
    expect_fault 13, 0, "in eax, dx"                # 0x83 is closed
    enter_ring3
    expect_fault 13, 0, "in ax, 0x82"
    enter_ring3
    expect_fault 13, 0, "in al, 0x83"
    enter_ring3
    mov edx, 0x180                                  # beyond the TSS's limit
    expect_fault 13, 0, "in al, dx"
    # The last port in the bitmap: the byte behind it is read, too.
    mov byte ptr [tss + 0x68 + 31], 0x7f            # port 0xff
    enter_ring3
    in al, 0xff
    expect_fault 13, 0, "in ax, 0xff"               # 0x100: the byte of ones
    descriptor 0x40, tss, 0x68+31, 0x89
    mov ax, 0x40
    ltr ax
    enter_ring3
    expect_fault 13, 0, "in al, 0xff"               # both bytes must be within the limit
    # INS and OUTS: nothing changes.
    enter_ring3
    mov edx, 0x83
    mov ecx, 5
    mov edi, 0x91000
    mov esi, 0x91000
    expect_fault 13, 0, "rep insb"
    expect ecx, 5
    expect edi, 0x91000
    enter_ring3
    expect_fault 13, 0, "rep outsb"
    expect ecx, 5
    # IOPL 3 needs no bitmap; CLI and STI need IOPL.
    enter_ring3
    expect_fault 13, 0, "cli"
    enter_ring3
    expect_fault 13, 0, "sti"
    .if MODE == 32
    pushfd
    or dword ptr [esp], 0x3000
    popfd
    .else
    pushfq
    or dword ptr [rsp], 0x3000
    popfq
    .endif
    enter_ring3
    in al, 0x83
    mov edx, 0x180
    in eax, dx
    sti
    cli
    expect_flags 0x3200, 0x3000
    expect_fault 13, 0, "hlt"
    .if MODE == 32
    pushfd
    and dword ptr [esp], ~0x3000
    popfd
    .else
    pushfq
    and dword ptr [rsp], ~0x3000
    popfq
    .endif
    .endm
    load_tss
    bitmap_checks
    mov ax, 0x10                                    # (the fault checks left ring 3's)
    mov ds, ax
    mov es, ax
    enter_long64
    load_tss
    user_pages
    bitmap_checks
    done
