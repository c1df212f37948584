//! Any bytes as code in any mode; the machine is that of `crates/x86/tests/fuzz.rs`. A stop as
//! broken is a finding unless the instruction is known and not done.
#![no_main]

#[path = "../../crates/x86/tests/fuzz/harness.rs"]
mod harness;

use harness::{MODES, Machine, Random, not_done};
use std::cell::RefCell;
use x86::Stop;

thread_local! {
    static MACHINE: RefCell<Machine> = RefCell::new(Machine::new());
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let [mode, a, b, code @ ..] = input else {
        return;
    };
    if code.is_empty() {
        return;
    }
    let mode = MODES[usize::from(*mode) % MODES.len()];
    let mut random = Random::new(u64::from(u16::from_le_bytes([*a, *b])));
    MACHINE.with_borrow_mut(|machine| {
        if let (Stop::Broken(report), _) = machine.run(mode, code, &mut random) {
            assert!(not_done(&report).is_some(), "{report}");
        }
    });
});
