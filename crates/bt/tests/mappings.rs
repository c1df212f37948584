//! A host without mappings left while a program goes through the window: what can no longer be mapped so
//! that it is right is not mapped at all, and the program goes on without. By itself in its process, which
//! has nothing left for others, either.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]
#![allow(missing_docs, dead_code)]

#[path = "window/rig.rs"]
mod rig;
#[path = "support/end_bus.rs"]
mod support;

use iced_x86::code_asm::*;
use rig::*;
use x86::state::rflags;

/// Takes all mappings that this process may have.
struct Greed {
    at: *mut libc::c_void,
}

/// Pages enough for them, every other with rights of its own.
const LEN: usize = 512 << 20;

impl Greed {
    fn new() -> Greed {
        // SAFETY: a new mapping, of which nobody has a reference.
        unsafe {
            let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
            let at = libc::mmap(core::ptr::null_mut(), LEN, libc::PROT_NONE, kind, -1, 0);
            assert_ne!(at, libc::MAP_FAILED);
            let taken = (0..LEN)
                .step_by(0x2000)
                .take_while(|n| libc::mprotect(at.byte_add(*n), 0x1000, libc::PROT_READ) == 0)
                .count();
            assert!(taken < LEN / 0x2000, "no end of mappings");
            Greed { at }
        }
    }
}

impl Drop for Greed {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`.
        unsafe { libc::munmap(self.at, LEN) };
    }
}

/// The FS base of this thread, where Linux has it.
fn own_fs() -> u64 {
    let base;
    // SAFETY: the thread's control block begins with its own address.
    unsafe { core::arch::asm!("mov {}, fs:[0]", out(reg) base, options(nostack, readonly)) };
    base
}

#[test]
fn a_host_without_mappings_left_is_not_reached_and_the_program_goes_on() {
    if !bt::window_possible() {
        return println!("skipped: this host has no window");
    }
    const FUNCTION: u64 = CODE + 0x4000;
    let canary = vec![0x5a5a_5a5a_5a5a_5a5au64; 64];
    // Where FS would lead to it, if it were the host's.
    let aim = (&raw const canary[32] as u64).wrapping_sub(own_fs());
    let mut rig = Rig::new(&through(""));
    rig.word(DATA_AT + 0x2008, aim);
    rig.start.rflags |= rflags::IOPL;
    let table = rig.table(DATA + 0x3000);
    rig.program(&|a| {
        let [mut again, mut missing, mut gone] = core::array::from_fn(|_| a.create_label());
        a.mov(r14, DATA)?;
        a.mov(r13, FUNCTION)?;
        // Pages that may be written, the function's among others.
        for n in 0..8 {
            a.mov(qword_ptr(r14 + 0x1000 * n), rcx)?;
            a.mov(byte_ptr(r13 + 0x1000 * (n - 3) + 0x800), cl)?;
        }
        a.mov(rsi, qword_ptr(r14 + 0x2008))?;
        a.push(rcx)?;
        a.pop(rcx)?;
        a.out(u32::from(support::END), al)?;
        // It begins to hold code, and uses what it finds.
        a.lea(r15, qword_ptr(missing))?;
        a.call(FUNCTION)?;
        a.set_label(&mut missing)?;
        // It goes on, with other code in its place, pages that go, and one that is new.
        a.mov(rsp, TOP)?;
        a.mov(r12d, 20)?;
        a.mov(ebx, 0)?;
        // add rbx, 1; ret
        a.mov(dword_ptr(r13), 0x01c3_8348)?;
        a.mov(byte_ptr(r13 + 4), 0xc3)?;
        a.set_label(&mut again)?;
        a.call(FUNCTION)?;
        a.mov(byte_ptr(r13 + 3), r12b)?;
        a.dec(r12d)?;
        a.jne(again)?;
        change(a, Service::StoreInvlpg, table, 0, DATA + 0x3000)?;
        a.lea(r15, qword_ptr(gone))?;
        a.mov(rcx, qword_ptr(r14 + 0x3000))?;
        a.set_label(&mut gone)?;
        a.mov(qword_ptr(r14 + 0x9000), rbx)
    });
    rig.put(FUNCTION, CODE_AT + 0x4000, &|a| {
        a.mov(rdx, qword_ptr(rsi))?;
        a.mov(qword_ptr(rsi), rdi)?;
        a.ret()
    });
    rig.run();
    assert!(rig.count("windows") == 1 && rig.count("window_pages") > 8);
    let greed = Greed::new();
    rig.go_on();
    drop(greed);
    let noted: Vec<_> = rig.noted().iter().map(|n| (n.vector, n.cr2)).collect();
    let first = if x86::mmu::is_canonical(aim) {
        (14, aim)
    } else {
        (13, 0)
    };
    assert_eq!(noted, [first, (14, DATA + 0x3000)]);
    assert_eq!(rig.read(DATA_AT + 0x9000), 1 + (2..=20).sum::<u64>());
    assert!(canary.iter().all(|word| *word == 0x5a5a_5a5a_5a5a_5a5a));
}
