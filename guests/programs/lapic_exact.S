# about: a local APIC switched off by its SVR masks all of its LVT, and keeps the masks set
# kind: pvh32
# reference: differs (QEMU 7.2 leaves the masks as they are)
    .include "lib.inc"
    program_pvh32
    enter_long64
    map_apic
    mov dword ptr [apic64 + 0xf0], 0x1ff
    mov dword ptr [apic64 + 0x320], 0x41
    mov eax, [apic64 + 0x320]
    expect eax, 0x41
    # A masked-by-software APIC (SVR bit 8 off) masks all LVTs.
    mov dword ptr [apic64 + 0xf0], 0xff
    mov eax, [apic64 + 0x320]
    and eax, 0x10000
    expect eax, 0x10000
    mov dword ptr [apic64 + 0x320], 0x41
    mov eax, [apic64 + 0x320]
    and eax, 0x10000
    expect eax, 0x10000
    mov dword ptr [apic64 + 0xf0], 0x1ff
    mov dword ptr [apic64 + 0x320], 0x41
    mov eax, [apic64 + 0x320]
    expect eax, 0x41
    done
