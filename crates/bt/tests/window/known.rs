//! Programs that are known by a page, and those that the window costs more than it gains.

use crate::rig::*;
use crate::support::END;
use bt::Translation;
use iced_x86::code_asm::*;
use std::time::{Duration, Instant};
use x86::Signals;
use x86::state::rflags;

/// A program where no libraries are, and its page.
const PROGRAM: u64 = 0x5600_0000_0000;
const PROGRAM_AT: u64 = FREE + 0x10_0000;
/// Data where the window is not.
const FAR: u64 = 0xc0_0000_0000;
/// Accesses between two pauses of a program.
const ACCESSES: u32 = 4000;

/// A processor whose programs begin at [`PROGRAM`], in either address space.
fn rig(engine: &Translation) -> Rig {
    let mut rig = Rig::new(engine);
    for (space, data) in SPACES.into_iter().zip([DATA_AT, OTHER_AT]) {
        rig.map(space, PROGRAM, PROGRAM_AT | WRITABLE);
        for linear in [DATA, FAR] {
            rig.map(space, linear, data | WRITABLE);
        }
    }
    rig.start.rip = PROGRAM;
    rig.start.rflags |= rflags::IOPL;
    rig
}

/// The program adds a number to a word at an address again and again.
fn adds(rig: &Rig, number: i32, to: u64) {
    rig.put(PROGRAM, PROGRAM_AT, &|a| {
        let [mut pause, mut again] = core::array::from_fn(|_| a.create_label());
        a.mov(r14, to)?;
        a.set_label(&mut pause)?;
        a.mov(ecx, ACCESSES)?;
        a.set_label(&mut again)?;
        a.add(dword_ptr(r14), number)?;
        a.dec(ecx)?;
        a.jne(again)?;
        a.out(u32::from(END), al)?;
        a.jmp(pause)
    });
}

/// Goes on for a millisecond at least, and has the engine look who computes.
fn compute(rig: &mut Rig) {
    let now = Instant::now();
    while now.elapsed() < Duration::from_millis(1) {
        rig.go_on();
    }
    rig.bus.0.raise(Signals::ENGINE);
    rig.go_on();
}

/// Computes until the program has been let in, and some time more.
fn get_in(rig: &mut Rig) {
    rig.run();
    let mut looks = 0;
    while rig.count("windows") == 0 {
        compute(rig);
        looks += 1;
        assert!(looks < 1000, "not let in");
    }
    for _ in 0..3 {
        compute(rig);
    }
}

/// The program of the first address space has ended, and one begins in the second, of which nobody has
/// seen yet that it computes.
fn begin_another(rig: &mut Rig) {
    rig.word(SPACES[0] + 8 * (PROGRAM >> 39 & 0x1ff), 0);
    rig.start.cr3 = SPACES[1];
    rig.run();
    rig.go_on();
}

#[test]
fn a_program_that_has_computed_for_long_is_known_by_its_page_when_it_begins_again() {
    let Some(_turn) = turn() else { return };
    let after = Duration::from_millis(5);
    let mut rig = rig(&through_after(after, ""));
    adds(&rig, 1, DATA);
    get_in(&mut rig);
    begin_another(&mut rig);
    assert_eq!(rig.count("windows"), 2);
    assert_eq!(rig.read(OTHER_AT), u64::from(2 * ACCESSES));
    // With the switch off it is nobody's concern.
    drop(rig);
    let mut off = self::rig(&through_after(after, "known"));
    adds(&off, 1, DATA);
    get_in(&mut off);
    begin_another(&mut off);
    assert_eq!(off.count("windows"), 1);
}

#[test]
fn what_is_known_of_a_page_is_a_hint_alone() {
    for moved in [false, true] {
        let Some(_turn) = turn() else { return };
        let mut rig = rig(&through_after(Duration::from_millis(5), ""));
        adds(&rig, 1, DATA);
        get_in(&mut rig);
        if moved {
            // The program as it was, at a page that nobody knows.
            rig.map(SPACES[1], PROGRAM, (PROGRAM_AT + 0x1000) | WRITABLE);
            for at in (0..0x1000).step_by(8) {
                rig.word(PROGRAM_AT + 0x1000 + at, rig.read(PROGRAM_AT + at));
            }
        } else {
            adds(&rig, 7, DATA);
        }
        begin_another(&mut rig);
        let (windows, each) = if moved { (1, 1) } else { (2, 7) };
        assert_eq!(rig.count("windows"), windows);
        assert_eq!(rig.read(OTHER_AT), u64::from(2 * each * ACCESSES));
    }
}

#[test]
fn a_program_that_the_window_costs_more_than_it_gains_goes_on_without_and_is_known_for_it() {
    let Some(_turn) = turn() else { return };
    let mut rig = rig(&through_after(Duration::from_millis(5), ""));
    adds(&rig, 1, FAR);
    get_in(&mut rig);
    let mut looks = 0;
    while rig.count("window_pages") != 0 {
        compute(&mut rig);
        looks += 1;
        assert!(looks < 20, "still in the window");
    }
    let missed = rig.count("window_missed");
    assert!(missed > u64::from(ACCESSES), "{missed}");
    rig.go_on();
    begin_another(&mut rig);
    assert_eq!(rig.count("window_missed"), missed);
    assert_eq!(rig.count("windows"), 1);
    assert_eq!(rig.read(OTHER_AT), u64::from(2 * ACCESSES));
}
