//! Two processors that have the window by turns, at any moment, or share it where they run the same
//! address space.

use crate::rig::*;
use crate::support::END;
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use std::sync::Barrier;
use std::time::{Duration, Instant};
use x86::Signals;
use x86::interp::Interpreter;
use x86::state::{Attributes, rflags};

/// Runs both to their ends. Each [`pause`] is a chance for the other to have the window.
fn run(rigs: &mut [Rig; 2]) {
    let begin = Barrier::new(2);
    std::thread::scope(|scope| {
        for rig in rigs {
            scope.spawn(|| {
                begin.wait();
                rig.run();
                // The end is the kernel's.
                while rig.vcpu.state().rip < KERNEL {
                    rig.go_on();
                }
            });
        }
    });
}

/// Where `counter` has a multiple of a power of two, nobody runs the program for a moment.
fn pause(a: &mut CodeAssembler, counter: AsmRegister32, every: u32) -> Result<(), IcedError> {
    let mut on = a.create_label();
    a.test(counter, every - 1)?;
    a.jne(on)?;
    a.out(u32::from(END), al)?;
    a.set_label(&mut on)
}

/// Two processors of a machine, the second with its own code.
fn two(prepare: &dyn Fn(&mut Rig)) -> [Rig; 2] {
    let engine = through("");
    let mut first = Rig::new(&engine);
    prepare(&mut first);
    first.start.rflags |= rflags::IOPL;
    let mut second = first.second(&engine);
    second.start.rflags |= rflags::IOPL;
    second.start.rip = SECOND;
    [first, second]
}

/// The second processor's code.
const SECOND: u64 = CODE + 0x2000;
const SECOND_AT: u64 = CODE_AT + 0x2000;

fn second_program(rig: &Rig, code: &Code<'_>) {
    rig.put(SECOND, SECOND_AT, &|a| {
        code(a)?;
        serve(a, Service::End)
    });
}

/// Each has gone through the window.
fn both_went_through(rigs: &[Rig; 2]) {
    let [windows, fills] =
        ["windows", "window_fills"].map(|name| rigs.each_ref().map(|rig| rig.count(name)));
    assert!(
        windows.iter().all(|n| *n > 0) && fills.iter().any(|n| *n > 0),
        "{windows:?} {fills:?}"
    );
}

#[test]
fn each_of_two_programs_at_the_same_addresses_has_its_own_memory() {
    let prepare = |rig: &mut Rig| {
        for n in 0..DATA_PAGES {
            rig.map(
                SPACES[1],
                DATA + (n << 12),
                (OTHER_AT + (n << 12)) | WRITABLE,
            );
        }
        for n in 0..2 {
            let at = OTHER_AT + ((DATA_PAGES + n) << 12);
            rig.map(SPACES[1], LOW + (n << 12), at | WRITABLE);
        }
        rig.word(DATA_AT, 12345);
        rig.word(OTHER_AT, 67890);
        // Mixes all that is there with itself.
        rig.program(&|a| {
            let mut again = a.create_label();
            a.mov(r14, DATA)?;
            a.mov(r15, LOW)?;
            a.mov(r13d, 1_000_000)?;
            a.mov(rbx, qword_ptr(r14))?;
            a.set_label(&mut again)?;
            a.imul_3(rbx, rbx, 0x5851_f42d)?;
            a.add(rbx, 0x1405_7b7f)?;
            a.mov(rax, rbx)?;
            a.shr(rax, 20)?;
            a.and(eax, 0x3_fff8)?;
            a.add(rbx, qword_ptr(r14 + rax))?;
            a.mov(qword_ptr(r14 + rax), rbx)?;
            a.push(rbx)?;
            a.and(eax, 0x1ff8)?;
            a.xor(rbx, qword_ptr(r15 + rax))?;
            a.pop(qword_ptr(r15 + rax))?;
            pause(a, r13d, 0x1000)?;
            a.dec(r13d)?;
            a.jne(again)
        });
    };
    let memory = |rig: &Rig| -> Vec<u64> {
        let low = OTHER_AT + (DATA_PAGES << 12);
        [
            (DATA_AT, DATA_PAGES),
            (OTHER_AT, DATA_PAGES),
            (LOW_AT, 2),
            (low, 2),
        ]
        .into_iter()
        .flat_map(|(at, pages)| (0..pages << 9).map(move |n| at + 8 * n))
        .map(|at| rig.read(at))
        .collect()
    };
    let mut expected = Rig::new(&Interpreter);
    prepare(&mut expected);
    expected.start.rflags |= rflags::IOPL;
    for space in SPACES {
        expected.start.cr3 = space;
        expected.run();
        while expected.vcpu.state().rip < KERNEL {
            expected.go_on();
        }
    }
    let Some(_turn) = turn() else { return };
    let mut rigs = two(&prepare);
    rigs[1].start.cr3 = SPACES[1];
    rigs[1].start.rip = CODE;
    run(&mut rigs);
    assert!(memory(&rigs[0]) == memory(&expected));
    let turns = rigs.each_ref().map(|rig| rig.count("windows"));
    assert!(turns.iter().all(|n| *n > 1), "{turns:?}");
}

/// Where the two tell each other something, a word for each page, and errors.
const WORDS: u64 = DATA + 0x3_0000;
const WORDS_AT: u64 = DATA_AT + 0x3_0000;
const ERRORS: i32 = 0xff8;
const DONE: i32 = 0xff0;

#[test]
fn a_page_that_begins_to_hold_code_is_not_written_behind_the_back_of_who_runs_it() {
    const PAGES: i32 = 40;
    const CALLS: i32 = 60;
    let Some(_turn) = turn() else { return };
    // In ring 0 the second does not want the window.
    for ring in [3, 0] {
        let mut rigs = two(&|rig| {
            for n in 0..PAGES as u64 {
                // mov eax, 0; ret
                rig.word(DATA_AT + (n << 12), 0xb8 << 24);
                rig.word(DATA_AT + (n << 12) + 8, 0xc3);
            }
            // Writes one number after the other to a function, and then that it has, until the other is
            // done with it.
            rig.program(&|a| {
                let [mut next, mut again] = core::array::from_fn(|_| a.create_label());
                a.mov(r14, DATA)?;
                a.mov(r15, WORDS)?;
                a.mov(r13d, 0)?;
                a.set_label(&mut next)?;
                a.mov(ebx, 1)?;
                a.set_label(&mut again)?;
                a.mov(dword_ptr(r14 + 4), ebx)?;
                a.mov(dword_ptr(r15 + r13 * 8), ebx)?;
                a.inc(ebx)?;
                pause(a, ebx, 0x100)?;
                a.cmp(dword_ptr(r15 + DONE), r13d)?;
                a.jbe(again)?;
                a.add(r14, 0x1000)?;
                a.inc(r13d)?;
                a.cmp(r13d, PAGES)?;
                a.jb(next)
            });
            // Calls each, from some time on: it must be at least as new as what was said.
            second_program(rig, &|a| {
                let [mut next, mut wait, mut again, mut good] =
                    core::array::from_fn(|_| a.create_label());
                a.mov(r14, DATA + 3)?;
                a.mov(r15, WORDS)?;
                a.mov(r13d, 0)?;
                a.set_label(&mut next)?;
                a.mov(r12d, CALLS)?;
                a.imul_3(edi, r13d, 10)?;
                a.set_label(&mut wait)?;
                a.pause()?;
                a.cmp(dword_ptr(r15 + r13 * 8), edi)?;
                a.jbe(wait)?;
                a.set_label(&mut again)?;
                a.mov(ebp, dword_ptr(r15 + r13 * 8))?;
                a.xor(eax, eax)?;
                a.cpuid()?;
                a.call(r14)?;
                a.cmp(eax, ebp)?;
                a.jae(good)?;
                a.inc(qword_ptr(r15 + ERRORS))?;
                a.set_label(&mut good)?;
                pause(a, r12d, 8)?;
                a.dec(r12d)?;
                a.jne(again)?;
                a.add(r14, 0x1000)?;
                a.inc(r13d)?;
                a.mov(dword_ptr(r15 + DONE), r13d)?;
                a.cmp(r13d, PAGES)?;
                a.jb(next)
            });
        });
        if ring == 0 {
            rigs[1].start.cpl = 0;
            rigs[1].start.seg[1].selector = 8;
            rigs[1].start.seg[1].attributes = Attributes(0xa9b);
            rigs[1].start.seg[2].selector = 0x10;
            rigs[1].start.seg[2].attributes = Attributes(0xc93);
        }
        run(&mut rigs);
        assert_eq!(rigs[0].read(WORDS_AT + ERRORS as u64), 0);
        let [fills, dropped] = [(0, "window_fills"), (1, "dropped")].map(|(n, name)| {
            let rig: &Rig = &rigs[n];
            rig.count(name)
        });
        assert!(fills.min(dropped) > PAGES as u64 / 4, "{fills} {dropped}");
        if ring == 3 {
            both_went_through(&rigs);
        }
    }
}

#[test]
fn what_the_other_maps_is_there_after_the_own_flush() {
    const PAGES: u64 = 32;
    const TIMES: i32 = 200_000;
    // The page that changes, and where each that it may be is written.
    const PAGE: u64 = DATA + 0x3_8000;
    const ALIASES: u64 = DATA + 0x40_0000;
    let Some(_turn) = turn() else { return };
    for how in [Service::StoreInvlpg, Service::StoreFlush] {
        let mut rigs = two(&|rig| {
            for n in 0..PAGES {
                rig.map(
                    SPACES[0],
                    ALIASES + (n << 12),
                    (OTHER_AT + (n << 12)) | WRITABLE,
                );
            }
            let table = rig.map(SPACES[0], PAGE, OTHER_AT | WRITABLE);
            let dummy = KERNEL + OTHER_AT + (PAGES << 12);
            // Flushes, and reads what must be as new as what was said before.
            rig.program(&|a| {
                let [mut next, mut good] = core::array::from_fn(|_| a.create_label());
                a.mov(r14, PAGE)?;
                a.mov(r15, WORDS)?;
                a.set_label(&mut next)?;
                a.mov(rbx, qword_ptr(r14))?;
                a.mov(ebp, dword_ptr(r15))?;
                change(a, how, dummy, 0, PAGE)?;
                a.mov(rbx, qword_ptr(r14))?;
                a.cmp(rbx, rbp)?;
                a.jae(good)?;
                a.inc(qword_ptr(r15 + ERRORS))?;
                a.set_label(&mut good)?;
                a.inc(r13d)?;
                pause(a, r13d, 0x100)?;
                a.cmp(ebp, TIMES)?;
                a.jb(next)
            });
            // Maps one page after the other there, each with a number, and then says so.
            second_program(rig, &|a| {
                let mut next = a.create_label();
                a.mov(r14, ALIASES)?;
                a.mov(r15, WORDS)?;
                a.mov(ebx, 1)?;
                a.set_label(&mut next)?;
                a.mov(esi, ebx)?;
                a.and(esi, PAGES as i32 - 1)?;
                a.shl(esi, 12)?;
                a.mov(qword_ptr(r14 + rsi), rbx)?;
                a.add(rsi, (OTHER_AT | WRITABLE) as i32)?;
                a.mov(rdi, table)?;
                serve(a, Service::Store)?;
                a.mov(dword_ptr(r15), ebx)?;
                a.inc(ebx)?;
                pause(a, ebx, 0x100)?;
                a.cmp(ebx, TIMES)?;
                a.jbe(next)
            });
        });
        run(&mut rigs);
        assert_eq!(rigs[0].read(WORDS_AT + ERRORS as u64), 0);
        both_went_through(&rigs);
    }
}

#[test]
fn locked_instructions_of_both_count_together_and_stores_are_seen_in_their_order() {
    const TIMES: i32 = 200_000;
    let Some(_turn) = turn() else { return };
    // Adds to a counter, and says in two pages, one after the other, how far it is: the second never is
    // ahead of the first.
    let count = |a: &mut CodeAssembler, own: i32, other: i32| {
        let [mut again, mut good] = core::array::from_fn(|_| a.create_label());
        a.mov(r15, WORDS)?;
        a.mov(r14, WORDS + 0x1000)?;
        a.mov(ebx, 0)?;
        a.set_label(&mut again)?;
        a.lock().inc(qword_ptr(r15 + 0x100))?;
        a.inc(rbx)?;
        a.mov(qword_ptr(r15 + own), rbx)?;
        a.mov(qword_ptr(r14 + own), rbx)?;
        a.mov(rcx, qword_ptr(r14 + other))?;
        a.cmp(qword_ptr(r15 + other), rcx)?;
        a.jae(good)?;
        a.inc(qword_ptr(r15 + ERRORS))?;
        a.set_label(&mut good)?;
        pause(a, ebx, 0x1000)?;
        a.cmp(ebx, TIMES)?;
        a.jb(again)
    };
    let mut rigs = two(&|rig| {
        rig.program(&|a| count(a, 0x200, 0x300));
        second_program(rig, &|a| count(a, 0x300, 0x200));
    });
    run(&mut rigs);
    assert_eq!(rigs[0].read(WORDS_AT + ERRORS as u64), 0);
    assert_eq!(rigs[0].read(WORDS_AT + 0x100), 2 * TIMES as u64);
    both_went_through(&rigs);
}

#[test]
fn who_computes_has_it_from_who_does_not_and_not_from_who_does() {
    const AFTER: Duration = Duration::from_millis(20);
    let Some(_turn) = turn() else { return };
    let engine = through_after(AFTER, "");
    let mut first = Rig::new(&engine);
    first.program(&|a| {
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        a.mov(r14, DATA)?;
        a.inc(qword_ptr(r14))?;
        a.out(u32::from(END), al)?;
        a.jmp(again)
    });
    first.start.rflags |= rflags::IOPL;
    for n in 0..4 {
        first.map(
            SPACES[1],
            DATA + (n << 12),
            (OTHER_AT + (n << 12)) | WRITABLE,
        );
    }
    let mut second = first.second(&engine);
    second.start.cr3 = SPACES[1];
    second.start.rflags |= rflags::IOPL;
    let mut rigs = [first, second];
    for rig in &mut rigs {
        rig.vcpu.set_state(&rig.start).unwrap();
    }
    let go_on = |rig: &mut Rig| {
        // A look at who computes.
        rig.bus.0.raise(Signals::ENGINE);
        rig.go_on();
    };
    let until = |rig: &mut Rig, turns: u64| {
        while rig.count("windows") < turns {
            go_on(rig);
        }
    };
    // The second, once the first has not computed for a while, and so on.
    for turns in 1..4 {
        for rig in &mut rigs {
            until(rig, turns);
        }
    }
    // Both compute: it stays where it is, unless one of them is kept from computing for so long.
    loop {
        let (begin, mut last, mut longest) = (Instant::now(), Instant::now(), Duration::ZERO);
        // What was wanted before is given.
        for _ in 0..3 {
            rigs.iter_mut().for_each(go_on);
        }
        let before = rigs.each_ref().map(|rig| rig.count("windows"));
        while begin.elapsed() < AFTER * 3 / 2 {
            rigs.iter_mut().for_each(go_on);
            longest = longest.max(last.elapsed());
            last = Instant::now();
        }
        if longest < AFTER / 2 {
            let after = rigs.each_ref().map(|rig| rig.count("windows"));
            assert_eq!(before, after);
            break;
        }
    }
    let pages = |rigs: &[Rig; 2]| rigs.each_ref().map(|rig| rig.count("window_pages") > 0);
    let [first, second] = pages(&rigs);
    assert!(first != second);
    let other = &mut rigs[usize::from(first)];
    let turns = other.count("windows") + 1;
    until(other, turns);
    assert_eq!(pages(&rigs), [second, first]);
}
