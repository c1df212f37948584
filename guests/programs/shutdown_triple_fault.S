# about: a double fault that cannot be delivered shuts the processor down
# kind: pvh32
# expect: shutdown
    .include "lib.inc"
    program_pvh32
    enter_long64
    mov byte ptr [idt + 16 * 8 + 5], 0x0e           # #DF: not present
    mov byte ptr [idt + 16 * 13 + 5], 0x0e
    end_by_shutdown
    mov rbx, 0x8000000000000000
    mov eax, [rbx]
    fail
    done
