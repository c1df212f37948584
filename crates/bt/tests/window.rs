//! Programs of ring 3 whose memory the host's MMU checks, by way of the window: pages that are mapped
//! anew, protected and written; accesses that are in part elsewhere; stack pointers that leave it.
//! Each program must do what it does in the interpreter, down to the accessed and dirty bits, and must
//! have gone through the window.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]
#![allow(missing_docs)]

#[path = "window/known.rs"]
mod known;
#[path = "window/rig.rs"]
mod rig;
#[path = "window/stack.rs"]
mod stack;
#[path = "support/end_bus.rs"]
mod support;
#[path = "window/turns.rs"]
mod turns;

use iced_x86::code_asm::*;
use mem::Gpa;
use rig::*;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use x86::state::rflags;
use x86::{Engine, Signals};

/// Nothing but what was mapped is needed from the interpreter: `most` accesses at most were.
fn is_in_the_window(rig: &Rig, most: u64) {
    let [fills, missed, pages] =
        ["window_fills", "window_missed", "window_pages"].map(|name| rig.count(name));
    assert!(
        fills > 0 && missed <= most && pages > 0,
        "{fills} {missed} {pages}"
    );
}

#[test]
fn a_page_that_is_mapped_anew_is_the_new_one_after_each_kind_of_flush() {
    for how in [Service::StoreInvlpg, Service::StoreFlush] {
        compare(
            &|rig| {
                let table = rig.table(DATA);
                rig.word(DATA_AT, 1);
                rig.word(OTHER_AT, 100);
                rig.word(OTHER_AT + 0x1000, 10_000);
                rig.program(&|a| {
                    a.mov(r14, DATA)?;
                    a.mov(ebx, 0)?;
                    for (n, at) in [OTHER_AT, OTHER_AT + 0x1000, DATA_AT]
                        .into_iter()
                        .enumerate()
                    {
                        let mut again = a.create_label();
                        a.mov(r15d, 50)?;
                        a.set_label(&mut again)?;
                        a.add(rbx, qword_ptr(r14))?;
                        a.inc(qword_ptr(r14 + 8 * (n as i32 + 1)))?;
                        a.dec(r15d)?;
                        a.jne(again)?;
                        change(a, how, table, at | WRITABLE, DATA)?;
                    }
                    a.add(rbx, qword_ptr(r14))?;
                    a.mov(qword_ptr(r14 + 0x100), rbx)
                });
            },
            &|rig| {
                assert_eq!(rig.read(DATA_AT + 0x100), 50 * 10_101 + 1);
                assert_eq!(rig.read(OTHER_AT + 16), 50);
                is_in_the_window(rig, 0);
                assert!(rig.count("window_walks") > 0);
            },
        );
    }
}

#[test]
fn a_large_page_that_is_mapped_anew_is_the_new_one_in_all_its_parts() {
    const LARGE: u64 = HIGH + 0x20_0000;
    const AT: u64 = 0x20_0000;
    // Bytes from its beginning, where that at address zero has nothing else either.
    const INTO: u64 = 0x9_8000;
    compare(
        &|rig| {
            let entry = rig.entry(SPACES[0], LARGE, 21);
            rig.word(entry, AT | WRITABLE | 0x80);
            rig.word(AT + INTO, 1);
            rig.word(INTO, 100);
            rig.program(&|a| {
                let mut again = a.create_label();
                a.mov(r14, LARGE + INTO)?;
                a.mov(ebx, 0)?;
                a.mov(r15d, 50)?;
                a.set_label(&mut again)?;
                a.add(rbx, qword_ptr(r14))?;
                a.dec(r15d)?;
                a.jne(again)?;
                change(
                    a,
                    Service::StoreInvlpg,
                    KERNEL + entry,
                    WRITABLE | 0x80,
                    LARGE,
                )?;
                a.add(rbx, qword_ptr(r14))
            });
        },
        &|rig| {
            assert_eq!(rig.vcpu.state().gpr[3], 150);
            is_in_the_window(rig, 0);
        },
    );
}

#[test]
fn a_page_that_goes_is_missing_after_the_flush() {
    compare(
        &|rig| {
            let table = rig.table(DATA);
            rig.store(table, OTHER_AT | WRITABLE, 0);
            rig.store(table, DATA_AT | WRITABLE, 0);
            rig.program(&|a| {
                a.mov(r14, DATA)?;
                a.mov(qword_ptr(r14), 7)?;
                change(a, Service::StoreInvlpg, table, 0, DATA)?;
                a.mov(qword_ptr(r14), 8)?;
                change(a, Service::StoreFlush, table, 0, DATA)?;
                a.add(rbx, qword_ptr(r14))
            });
        },
        &|rig| {
            let noted = rig.noted();
            assert_eq!(noted.len(), 2);
            assert_eq!(
                (noted[0].vector, noted[0].error, noted[0].cr2),
                (14, 6, DATA)
            );
            assert_eq!(
                (noted[1].vector, noted[1].error, noted[1].cr2),
                (14, 4, DATA)
            );
            assert_eq!((rig.read(DATA_AT), rig.read(OTHER_AT)), (7, 8));
            is_in_the_window(rig, 2);
        },
    );
}

/// Stores to a page that may only be read.
const STORES: &[Part] = &[
    |a| a.mov(qword_ptr(r14), 5),
    |a| a.mov(byte_ptr(r14 + 0xfff), cl),
    |a| a.add(qword_ptr(r14), rcx),
    |a| a.lock().xadd(qword_ptr(r14), rcx),
    |a| a.xchg(dword_ptr(r14), ecx),
    |a| a.movups(xmmword_ptr(r14 + 0x30), xmm3),
    |a| a.vmovdqu(ymmword_ptr(r14 + 0x21), ymm3),
    |a| a.bts(qword_ptr(r14), rcx),
    |a| {
        a.mov(rbx, r14)?;
        a.mov(ah, byte_ptr(rbx))?;
        a.mov(byte_ptr(rbx), ah)
    },
    |a| a.mov(r10, rcx).and_then(|()| a.mov(qword_ptr(r14), r10)),
    |a| a.mov(r11, r14).and_then(|()| a.mov(qword_ptr(r11), r10)),
    |a| {
        a.mov(edx, 8)
            .and_then(|()| a.mov(qword_ptr(r14 + rdx * 8), rcx))
    },
    |a| {
        a.lea(rsp, qword_ptr(r14 + 0x100))
            .and_then(|()| a.push(rcx))
    },
    |a| {
        a.lea(rsp, qword_ptr(r14 + 0x100))?;
        a.push(rbx)?;
        a.push(rcx)?;
        a.push(rbp)
    },
    |a| {
        a.lea(rsp, qword_ptr(r14 + 0x100))
            .and_then(|()| a.push(qword_ptr(r14)))
    },
    |a| {
        a.lea(rdi, qword_ptr(r14 + 0x100))?;
        a.mov(ecx, 20)?;
        a.rep().stosq()
    },
    |a| a.fst(dword_ptr(r14)),
    |a| a.sete(byte_ptr(r14)),
];

#[test]
fn a_store_to_a_page_that_may_be_read_faults_until_it_is_given_a_copy() {
    for store in STORES {
        compare(
            &|rig| {
                let table = rig.map(SPACES[0], DATA, DATA_AT | READ_ONLY);
                rig.store(table, OTHER_AT | WRITABLE, 0);
                rig.program(&|a| {
                    let mut next = a.create_label();
                    a.mov(r14, DATA)?;
                    a.mov(ebx, dword_ptr(r14))?;
                    a.mov(ecx, 3)?;
                    a.mov(rbp, 0x1234_5678_9abcu64)?;
                    a.jmp(next)?;
                    a.set_label(&mut next)?;
                    store(a)?;
                    store(a)?;
                    a.mov(rsp, TOP)?;
                    a.mov(rbx, qword_ptr(r14))
                });
            },
            &|rig| {
                let noted = rig.noted();
                assert_eq!(noted.len(), 1);
                assert_eq!((noted[0].vector, noted[0].error), (14, 7));
                assert_eq!(noted[0].cr2 & !0xfff, DATA);
                assert_eq!(rig.read(DATA_AT), 0);
                is_in_the_window(rig, 3);
            },
        );
    }
}

#[test]
fn accessed_and_dirty_bits_are_set_by_what_was_done_alone() {
    const ACCESSED: u64 = 0x20;
    const DIRTY: u64 = 0x40;
    // Far from each other, and pages that nobody uses beside each.
    let page = |n: u64| DATA + ((2 * n) << 12);
    compare(
        &|rig| {
            let tables: Vec<u64> = (0..7).map(|n| rig.table(page(n))).collect();
            rig.program(&|a| {
                let mut again = a.create_label();
                a.mov(r14, DATA)?;
                a.mov(r15, DATA + 0x3_0000)?;
                a.mov(r13d, 20)?;
                a.set_label(&mut again)?;
                // Read; written; both at once; read, then written; across a border; not at all.
                a.add(rbx, qword_ptr(r14))?;
                a.mov(qword_ptr(r14 + 0x2000), rbx)?;
                a.inc(dword_ptr(r14 + 0x4000))?;
                a.add(rbx, qword_ptr(r14 + 0x6000))?;
                a.mov(rcx, qword_ptr(r14 + 0x8ffc))?;
                a.dec(r13d)?;
                a.jne(again)?;
                for (n, table) in tables.iter().enumerate() {
                    a.mov(rdi, *table)?;
                    serve(a, Service::Load)?;
                    a.mov(qword_ptr(r15 + 8 * n as i32), rax)?;
                }
                a.mov(byte_ptr(r14 + 0x6000), 1)?;
                a.mov(rdi, tables[3])?;
                serve(a, Service::Load)?;
                a.mov(qword_ptr(r15 + 0x80), rax)?;
                // Bits that are taken away come again after a flush.
                for n in [0, 1] {
                    let entry = (DATA_AT + ((2 * n) << 12)) | WRITABLE;
                    change(a, Service::StoreInvlpg, tables[n as usize], entry, page(n))?;
                }
                a.mov(rbx, qword_ptr(r14 + 0x2000))?;
                a.mov(rdi, tables[1])?;
                serve(a, Service::Load)?;
                a.mov(qword_ptr(r15 + 0x88), rax)?;
                a.mov(rdi, tables[0])?;
                serve(a, Service::Load)?;
                a.mov(qword_ptr(r15 + 0x90), rax)?;
                a.mov(qword_ptr(r14 + 0x2000), rbx)?;
                a.mov(rdi, tables[1])?;
                serve(a, Service::Load)?;
                a.mov(qword_ptr(r15 + 0x98), rax)
            });
        },
        &|rig| {
            let bits = |n: u64| rig.read(DATA_AT + 0x3_0000 + 8 * n) & (ACCESSED | DIRTY);
            let both = ACCESSED | DIRTY;
            let now: Vec<u64> = (0..7).map(bits).collect();
            assert_eq!(now, [ACCESSED, both, both, ACCESSED, ACCESSED, 0, 0]);
            assert_eq!(
                [0x10, 0x11, 0x12, 0x13].map(bits),
                [both, ACCESSED, 0, both]
            );
            is_in_the_window(rig, 0);
        },
    );
}

#[test]
fn code_is_what_was_written_there_last_by_any_address() {
    // Two functions: pages begin to hold code one after the other, when both have been written.
    const FUNCTIONS: u64 = CODE + 0x4000;
    // The same pages, where they are only written.
    const ALIASES: u64 = DATA + 0x2_0000;
    for to in [FUNCTIONS, ALIASES] {
        compare(
            &|rig| {
                for n in 0..2 {
                    let at = CODE_AT + 0x4000 + (n << 12);
                    rig.map(SPACES[0], ALIASES + (n << 12), at | WRITABLE);
                }
                rig.program(&|a| {
                    let mut again = [a.create_label(), a.create_label()];
                    a.mov(ebx, 0)?;
                    // By both addresses, and what is beside them.
                    for at in [FUNCTIONS, ALIASES] {
                        a.mov(r14, at)?;
                        for n in 0..3 {
                            a.mov(byte_ptr(r14 + 0x800 + 0x1000 * n), 1)?;
                        }
                    }
                    a.mov(r14, to)?;
                    for n in [0, 0x1000] {
                        // add rbx, 0; ret
                        a.mov(dword_ptr(r14 + n), 0x00c3_8348)?;
                        a.mov(byte_ptr(r14 + n + 4), 0xc3)?;
                    }
                    for (again, n) in again.iter_mut().zip([0, 0x1000]) {
                        a.mov(r13d, 100)?;
                        a.set_label(again)?;
                        a.mov(byte_ptr(r14 + n + 3), r13b)?;
                        a.call(FUNCTIONS + n as u64)?;
                        // Beside the code.
                        a.inc(dword_ptr(r14 + n + 0x900))?;
                        a.dec(r13d)?;
                        a.jne(*again)?;
                    }
                    a.mov(qword_ptr(r14 + 0x800), rbx)
                });
            },
            &|rig| {
                assert_eq!(rig.read(CODE_AT + 0x4800), 2 * 5050);
                is_in_the_window(rig, 2000);
                assert!(rig.count("dropped") > 50);
            },
        );
    }
}

#[test]
fn a_jump_by_a_word_in_memory_leads_where_that_says_each_time() {
    // As a dynamic linker has it: code that jumps by a word, to functions ahead and behind.
    const WORD: u64 = DATA + 0x100;
    const JUMP: u64 = CODE + 0x2010;
    const FUNCTIONS: [(u64, i32); 3] = [
        (CODE + 0x4000, 1),
        (CODE + 0x1000, 1000),
        (CODE + 0x2800, 1_000_000),
    ];
    compare(
        &|rig| {
            let put = |at: u64, code: &Code<'_>| rig.put(at, CODE_AT + (at - CODE), code);
            // jmp [rip + …]
            let [b0, b1, b2, b3] = ((WORD - JUMP - 6) as u32).to_le_bytes();
            put(JUMP, &|a| a.db(&[0xff, 0x25, b0, b1, b2, b3]));
            for (at, n) in FUNCTIONS {
                put(at, &|a| {
                    a.lea(rbx, qword_ptr(rbx + n))?;
                    a.ret()
                });
            }
            rig.program(&|a| {
                let mut behind = a.create_label();
                a.mov(r14, WORD)?;
                a.mov(r12, JUMP)?;
                a.mov(ebx, 0)?;
                for turn in 0..6 {
                    let mut again = a.create_label();
                    a.mov(rax, FUNCTIONS[turn % 3].0)?;
                    a.mov(qword_ptr(r14), rax)?;
                    a.mov(r13d, 50)?;
                    a.set_label(&mut again)?;
                    a.call(r12)?;
                    a.dec(r13d)?;
                    a.jne(again)?;
                }
                // Nowhere: the jump itself faults.
                a.lea(r15, qword_ptr(behind))?;
                a.mov(rax, 1u64 << 62)?;
                a.mov(qword_ptr(r14), rax)?;
                a.call(r12)?;
                a.set_label(&mut behind)?;
                a.mov(qword_ptr(r14 + 8), rbx)
            });
        },
        &|rig| {
            assert_eq!(rig.read(DATA_AT + 0x108), 100 * 1_001_001);
            let noted = rig.noted();
            let faults: Vec<_> = noted.iter().filter(|n| n.vector == 13).collect();
            assert_eq!(faults.len(), 1);
            assert_eq!(faults[0].rip, JUMP);
        },
    );
}

#[test]
fn a_conversion_whose_store_faults_has_set_mxcsr() {
    compare(
        &|rig| {
            rig.program(&|a| {
                let (mut again, mut behind) = (a.create_label(), a.create_label());
                a.mov(r14, DATA)?;
                a.mov(dword_ptr(r14), 0x1f80)?;
                // A number that is no half. The physical processor sets the flag first, too.
                a.mov(dword_ptr(r14 + 4), 0x3eaa_aaab)?;
                a.vbroadcastss(xmm1, dword_ptr(r14 + 4))?;
                a.mov(ecx, 3)?;
                a.set_label(&mut again)?;
                a.ldmxcsr(dword_ptr(r14))?;
                a.lea(r15, qword_ptr(behind))?;
                a.lea(rbx, qword_ptr(r14 + (DATA_PAGES << 12) as i32))?;
                a.vcvtps2ph(qword_ptr(rbx), xmm1, 4)?;
                a.set_label(&mut behind)?;
                a.stmxcsr(dword_ptr(r14 + rcx * 8 + 8))?;
                a.vcvtps2ph(qword_ptr(r14 + rcx * 8 + 0x100), xmm1, 4)?;
                a.stmxcsr(dword_ptr(r14 + rcx * 8 + 12))?;
                a.dec(ecx)?;
                a.jne(again)?;
                a.mov(r15d, 0)
            });
        },
        &|rig| {
            is_in_the_window(rig, 2000);
            assert_eq!(rig.noted().len(), 3);
            assert_eq!(rig.read(DATA_AT + 16), 0x1fa0_0000_1fa0);
        },
    );
}

#[test]
fn operands_off_the_fs_base_are_where_that_says_each_time() {
    const BASES: [u64; 12] = [
        DATA + 0x800,
        LOW + 0x800,
        // Across borders, of pages and of what is mapped.
        DATA + 0xff8 - 0x2c,
        DATA + (DATA_PAGES << 12) - 0x2c,
        LOW + 0x1000 - 0x2c,
        LOW - 0x30,
        // Where nothing is, on either side and on none.
        0,
        0x20,
        (1 << 32) - 0x10,
        1 << 45,
        (1 << 46) - 8,
        (1 << 47) - 0x30,
    ];
    compare(
        &|rig| {
            for n in 0..DATA_PAGES << 9 {
                rig.word(DATA_AT + 8 * n, 0x1_0001 * n);
            }
            rig.program(&|a| {
                a.mov(rbx, DATA + 0x2_0000)?;
                for round in 0..3u32 {
                    for base in BASES {
                        a.mov(rax, base)?;
                        if base >> 32 == 0 && round == 1 {
                            a.wrfsbase(eax)?;
                        } else {
                            a.wrfsbase(rax)?;
                        }
                        // A fault goes on at the next part.
                        let mut part = |body: Part| {
                            let mut next = a.create_label();
                            a.lea(r15, qword_ptr(next))?;
                            a.cmp(eax, 7)?;
                            body(a)?;
                            a.setc(al)?;
                            a.movzx(eax, al)?;
                            a.add(qword_ptr(rbx), rax)?;
                            a.set_label(&mut next)?;
                            a.add(rbx, 8)
                        };
                        part(|a| {
                            a.mov(rcx, qword_ptr(0x28).fs())?;
                            a.mov(qword_ptr(rbx), rcx)
                        })?;
                        part(|a| a.mov(qword_ptr(-0x40).fs(), rsi))?;
                        part(|a| a.adc(dword_ptr(0x2a).fs(), 1))?;
                        part(|a| a.movups(xmmword_ptr(8).fs(), xmm1))?;
                    }
                }
                a.mov(r15d, 0)
            });
        },
        &|rig| {
            is_in_the_window(rig, 2000);
            assert!(rig.noted().len() > 40);
        },
    );
}

#[test]
fn an_address_space_sees_its_own_pages_alone() {
    // With and without a PCID that keeps what is known.
    for [first, second] in [SPACES, [SPACES[0] | 1 | 1 << 63, SPACES[1] | 2 | 1 << 63]] {
        compare(
            &|rig| {
                for n in 0..32u64 {
                    rig.word(DATA_AT + (n << 12), 1);
                    rig.word(OTHER_AT + (n << 12), 1000);
                    rig.map(
                        SPACES[1],
                        DATA + (n << 12),
                        (OTHER_AT + (n << 12)) | WRITABLE,
                    );
                }
                rig.program(&|a| {
                    let [mut again, mut more] = core::array::from_fn(|_| a.create_label());
                    a.mov(rsi, first)?;
                    serve(a, Service::Space)?;
                    a.mov(r13d, 200)?;
                    a.mov(ebx, 0)?;
                    a.mov(r12, first)?;
                    a.mov(r15, second)?;
                    a.set_label(&mut again)?;
                    a.mov(r14, DATA)?;
                    a.mov(ebp, 32)?;
                    a.set_label(&mut more)?;
                    a.add(rbx, qword_ptr(r14))?;
                    a.inc(dword_ptr(r14 + 8))?;
                    a.add(r14, 0x1000)?;
                    a.dec(ebp)?;
                    a.jne(more)?;
                    a.xchg(r12, r15)?;
                    a.mov(rsi, r12)?;
                    serve(a, Service::Space)?;
                    a.dec(r13d)?;
                    a.jne(again)?;
                    a.mov(r14, DATA)?;
                    a.mov(qword_ptr(r14 + 16), rbx)
                });
            },
            &|rig| {
                assert_eq!(rig.read(DATA_AT + 16), 100 * 32 * 1001);
                assert_eq!(
                    (rig.read(DATA_AT + 0x3008), rig.read(OTHER_AT + 0x3008)),
                    (100, 100)
                );
                is_in_the_window(rig, 0);
            },
        );
    }
}

#[test]
fn an_address_space_that_is_let_in_after_another_sees_its_own_pages() {
    let Some(_turn) = turn() else { return };
    let mut rig = Rig::new(&through(""));
    for n in 0..32u64 {
        rig.word(DATA_AT + (n << 12), 1);
        rig.word(OTHER_AT + (n << 12), 1000);
        rig.map(
            SPACES[1],
            DATA + (n << 12),
            (OTHER_AT + (n << 12)) | WRITABLE,
        );
    }
    rig.program(&|a| {
        let mut again = a.create_label();
        a.mov(r14, DATA)?;
        a.mov(ebx, 0)?;
        a.set_label(&mut again)?;
        a.add(rbx, qword_ptr(r14))?;
        a.mov(qword_ptr(r14 + 8), rbx)?;
        a.add(r14, 0x1000)?;
        a.cmp(r14d, (DATA + 0x2_0000) as i32)?;
        a.jne(again)
    });
    // Who has computed for longer is let in: what passes between two runs counts, too.
    for (n, space) in (1..5).zip(SPACES.into_iter().cycle()) {
        rig.start.cr3 = space;
        for _ in 0..200 {
            rig.run();
            let own = if space == SPACES[0] { 1 } else { 1000 };
            assert_eq!(rig.vcpu.state().gpr[3], 32 * own);
            if rig.count("windows") == n {
                break;
            }
            let now = Instant::now();
            while now.elapsed() < Duration::from_millis(1) {}
        }
        assert_eq!(rig.count("windows"), n);
        // In the window, too.
        rig.run();
    }
    assert!(rig.count("window_fills") > 0);
    for at in [DATA_AT, OTHER_AT] {
        let own = rig.read(at);
        assert_eq!(rig.read(at + 0x1_f008), 32 * own);
    }
}

#[test]
fn what_a_program_has_used_before_is_in_the_window_as_it_was_used() {
    let Some(_turn) = turn() else { return };
    let mut rig = Rig::new(&through_after(Duration::from_millis(1), ""));
    let clean = rig.table(DATA) - KERNEL;
    let protected = rig.map(SPACES[0], DATA + 0x1000, (DATA_AT + 0x1000) | READ_ONLY);
    rig.store(protected, OTHER_AT | WRITABLE, 0);
    rig.program(&|a| {
        let mut again = a.create_label();
        a.mov(r14, DATA)?;
        a.set_label(&mut again)?;
        a.mov(rbx, qword_ptr(r14))?;
        a.mov(rcx, qword_ptr(r14 + 0x1000))?;
        a.inc(qword_ptr(r14 + 0x2000))?;
        a.out(u32::from(support::END), al)?;
        // Until the test says so, in a page that is known by then.
        a.cmp(qword_ptr(r14 + 0x2008), 0)?;
        a.je(again)?;
        a.mov(qword_ptr(r14 + 8), 7)?;
        a.mov(qword_ptr(r14 + 0x1008), 8)
    });
    rig.start.rflags |= rflags::IOPL;
    rig.run();
    while rig.count("windows") == 0 {
        // A look at who computes.
        rig.bus.0.raise(Signals::ENGINE);
        rig.go_on();
    }
    let known = rig.count("window_pages");
    assert!(known >= 3, "{known}");
    assert_eq!(rig.read(clean) & 0x60, 0x20);
    rig.word(DATA_AT + 0x2008, 1);
    rig.go_on();
    assert_eq!(rig.read(clean) & 0x60, 0x60);
    let noted = rig.noted();
    let of = (noted[0].vector, noted[0].error, noted[0].cr2);
    assert_eq!((noted.len(), of), (1, (14, 7, DATA + 0x1008)));
    let written = [8, 0x1008].map(|at| rig.read(DATA_AT + at));
    assert_eq!((written, rig.read(OTHER_AT + 8)), ([7, 0], 8));
}

#[test]
fn tables_that_another_program_is_given_lead_to_its_pages() {
    // So few pages that they are changed one by one, and so many that all go.
    for pages in [4, 48] {
        compare(
            &|rig| {
                for n in 0..pages {
                    rig.word(DATA_AT + (n << 12), 1);
                    rig.word(OTHER_AT + (n << 12), 1000);
                    // Half of them have none.
                    let entry = if n % 2 == 0 {
                        (OTHER_AT + (n << 12)) | WRITABLE
                    } else {
                        0
                    };
                    rig.map(SPACES[1], DATA + (n << 12), entry);
                }
                for _ in 0..2 * pages {
                    rig.store(0, 0, CODE + 0x2000);
                }
                let table = rig.upper(DATA);
                let [first, second] = SPACES.map(|space| rig.read(space + (table & 0xfff)));
                rig.program(&|a| {
                    let [mut again, mut more] = core::array::from_fn(|_| a.create_label());
                    a.mov(r13d, 4)?;
                    a.mov(ebx, 0)?;
                    a.mov(r12, first)?;
                    a.mov(r15, second)?;
                    a.set_label(&mut again)?;
                    a.mov(r14, DATA)?;
                    a.mov(ebp, pages as u32)?;
                    a.set_label(&mut more)?;
                    a.call(CODE + 0x1000)?;
                    a.add(r14, 0x1000)?;
                    a.dec(ebp)?;
                    a.jne(more)?;
                    a.xchg(r12, r15)?;
                    a.mov(rdi, table)?;
                    a.mov(rsi, r12)?;
                    serve(a, Service::StoreFlush)?;
                    a.dec(r13d)?;
                    a.jne(again)?;
                    a.mov(r14, DATA)?;
                    a.mov(qword_ptr(r14 + 16), rbx)
                });
                rig.put(CODE + 0x1000, CODE_AT + 0x1000, &|a| {
                    a.add(rbx, qword_ptr(r14))?;
                    a.inc(dword_ptr(r14 + 8))?;
                    a.ret()
                });
                // There is no page.
                rig.put(CODE + 0x2000, CODE_AT + 0x2000, &|a| {
                    a.add(rbx, 7)?;
                    a.ret()
                });
            },
            &|rig| {
                let half = pages / 2;
                assert_eq!(rig.read(DATA_AT + 16), 2 * pages + 2 * half * 1007);
                assert_eq!(rig.read(OTHER_AT + 0x2008), 2);
                is_in_the_window(rig, 2 * pages);
                assert_eq!(rig.count("windows") > 1, pages > 16);
            },
        );
    }
}

#[test]
fn a_data_breakpoint_on_a_page_in_the_window_traps_from_then_on_alone() {
    compare(
        &|rig| {
            for _ in 0..2 {
                rig.store(KERNEL + OTHER_AT, 1, 0);
            }
            rig.program(&|a| {
                a.mov(r14, DATA)?;
                // The page is there by then; afterwards it is as before.
                for control in [0u32, 1 | 1 << 16 | 3 << 18, 0, 1 | 3 << 16 | 3 << 18, 0] {
                    a.lea(rdi, qword_ptr(r14 + 0x40))?;
                    a.mov(esi, control | 0x400)?;
                    serve(a, Service::Debug)?;
                    for n in 0..2 {
                        a.mov(dword_ptr(r14 + 0x80), n)?;
                        a.mov(rcx, qword_ptr(r14 + 0x100))?;
                    }
                    a.mov(dword_ptr(r14 + 0x40), control as i32)?;
                    a.inc(rbx)?;
                }
                a.mov(rdx, qword_ptr(r14 + 0x40))
            });
        },
        &|rig| {
            let vectors: Vec<u64> = rig.noted().iter().map(|n| n.vector).collect();
            assert_eq!(vectors, [1, 1]);
            is_in_the_window(rig, 0);
        },
    );
}

/// Tells a thread that its test is over, whatever has come of it.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A copy that is brought up to date by the pages which the log names is always the same as the memory.
#[test]
fn the_dirty_log_has_every_page_that_is_written_through_the_window() {
    let Some(_turn) = turn() else { return };
    for processors in [1, 2] {
        follow_dirty_log(processors);
    }
}

fn follow_dirty_log(processors: usize) {
    let engine = through("");
    let rig = Rig::new(&engine);
    // Writes pages by chance, one after the other, in all manners.
    rig.program(&|a| {
        let mut again = a.create_label();
        a.mov(r13, 0x9e37_79b9_7f4a_7c15u64)?;
        a.mov(r14, DATA)?;
        a.set_label(&mut again)?;
        a.imul_2(rbx, r13)?;
        a.inc(rbx)?;
        a.mov(rax, rbx)?;
        a.shr(rax, 58)?;
        a.shl(rax, 12)?;
        a.lea(rsi, qword_ptr(r14 + rax))?;
        a.mov(rcx, qword_ptr(rsi))?;
        a.mov(qword_ptr(rsi + 8), rbx)?;
        a.mov(qword_ptr(r14 + rax + 0x100), rbx)?;
        a.add(qword_ptr(rsi), rbx)?;
        a.push(rbx)?;
        a.pop(rcx)?;
        a.jmp(again)
    });
    let second = rig.second(&engine);
    let mut rigs = vec![rig, second];
    rigs.truncate(processors);
    for (n, rig) in rigs.iter_mut().enumerate() {
        rig.start.gpr[3] = 1 + n as u64;
        rig.vcpu.set_state(&rig.start).unwrap();
    }
    let signals: Vec<_> = rigs.iter().map(|rig| rig.bus.0.clone()).collect();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _ends = Ends(&done);
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                for pins in &signals {
                    pins.raise(Signals::RETURN);
                }
                let now = Instant::now();
                while now.elapsed() < Duration::from_micros(300) {}
            }
        });
        let go_on = |rigs: &mut [Rig], times: u32| {
            std::thread::scope(|scope| {
                for rig in rigs {
                    scope.spawn(move || (0..times).for_each(|_| rig.go_on()));
                }
            });
        };
        let page = |rig: &Rig, at: u64| {
            let mut bytes = [0u8; 0x1000];
            rig.ram.read(Gpa(at), &mut bytes).unwrap();
            bytes
        };
        let mut named = 0;
        for times in [1, 3, 10] {
            // Most pages are writable in the window by then.
            go_on(&mut rigs, 20);
            let ram = rigs[0].ram.clone();
            engine.log_dirty(&ram, true).unwrap();
            let mut copy: Vec<_> = (0..RAM >> 12).map(|n| page(&rigs[0], n << 12)).collect();
            for _ in 0..20 {
                go_on(&mut rigs, times);
                let taken = engine.take_dirty(&ram).unwrap();
                named += taken.len();
                for at in taken {
                    copy[(at.0 >> 12) as usize] = page(&rigs[0], at.0);
                }
                for (n, known) in (0..).zip(&copy) {
                    assert!(
                        *known == page(&rigs[0], n << 12),
                        "page {n:x} is not in the log"
                    );
                }
            }
            engine.log_dirty(&ram, false).unwrap();
        }
        // Some, and not all each time.
        assert!(
            named > 60 && named < 60 * (DATA_PAGES as usize + 16),
            "{named}"
        );
        // The first store to each is the interpreter's.
        if let [rig] = &rigs[..] {
            is_in_the_window(rig, 2 * named as u64 + 100);
        }
        assert!(rigs.iter().all(|rig| rig.count("window_fills") > 0));
    });
}
