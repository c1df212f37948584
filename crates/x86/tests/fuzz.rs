//! Random bytes as code in every mode: the decoder and the interpreter never panic, never run
//! past their budget, and always stop in a state that a processor can be in. A stop as broken is
//! allowed for instructions that are known and not done; those are printed.
//!
//! MOINHO_CASES sets the streams per mode, MOINHO_SEED the seed, which is printed with every
//! failure.

#[path = "fuzz/harness.rs"]
mod harness;

use harness::{MODES, Machine, Mode, Random, not_done};
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use x86::Stop;

/// Streams per mode where nobody asks for more.
const CASES: u64 = 25_000;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text} is not a number"))
    })
}

/// One stream: noise, or likely prefixes, escapes and opcodes with noise between them.
fn stream(random: &mut Random) -> Vec<u8> {
    const PREFIXES: [u8; 13] = [
        0x66, 0x67, 0xf2, 0xf3, 0xf0, 0x2e, 0x36, 0x65, 0x64, 0x48, 0x4c, 0x41, 0x40,
    ];
    let len = 1 + random.below(48) as usize;
    let mut code = Vec::with_capacity(len + 16);
    let structured = random.below(4) != 0;
    while code.len() < len {
        if structured {
            while random.below(4) == 0 {
                code.push(PREFIXES[random.below(PREFIXES.len() as u64) as usize]);
            }
            match random.below(8) {
                0 | 1 => code.push(0x0f),
                2 => code.extend([0x0f, 0x38]),
                3 => code.extend([0x0f, 0x3a]),
                4 => code.extend([0xc5, random.bits() as u8]),
                5 => code.extend([
                    0xc4,
                    random.bits() as u8 & 0xe0 | (1 + random.below(3) as u8),
                    random.bits() as u8,
                ]),
                6 => code.push(0xd8 + random.below(8) as u8),
                _ => {}
            }
        }
        let noise = random.bits().to_le_bytes();
        code.extend(&noise[..2 + random.below(6) as usize]);
    }
    code
}

fn check(mode: Mode) {
    let (cases, base) = (number("MOINHO_CASES", CASES), number("MOINHO_SEED", 1));
    let mut machine = Machine::new();
    let mut stops: BTreeMap<&str, u64> = BTreeMap::new();
    let mut not_done_here = BTreeSet::new();
    for case in 0..cases {
        let seed = base << 32 ^ case << 3 ^ mode as u64;
        let mut random = Random::new(seed);
        let code = stream(&mut random);
        let run = catch_unwind(AssertUnwindSafe(|| machine.run(mode, &code, &mut random)));
        let which = || format!("{mode:?}: MOINHO_SEED={base}, case {case}, code {code:02x?}");
        let Ok((stop, _)) = run else {
            panic!("{}: panicked", which());
        };
        let name = match &stop {
            Stop::Broken(report) => {
                let Some(name) = not_done(report) else {
                    panic!("{}: {report}", which());
                };
                not_done_here.insert(name.to_string());
                "Broken"
            }
            Stop::Budget => "Budget",
            Stop::Halted => "Halted",
            Stop::Shutdown => "Shutdown",
            other => panic!("{}: {other:?}", which()),
        };
        *stops.entry(name).or_default() += 1;
    }
    // One call, so that the lines of two tests do not mix.
    let names: Vec<String> = not_done_here.into_iter().collect();
    println!(
        "{mode:?}: {cases} streams: {stops:?}; known and not done: {}",
        names.join(" ")
    );
}

#[test]
fn a_handler_that_faults_at_once_spends_the_budget() {
    // An invalid instruction whose handler is that instruction.
    let (stop, _, counters) = harness::real_mode(&[0x0f, 0x0b], 0, 1000);
    assert_eq!(stop, Stop::Budget);
    assert_eq!((counters.instructions, counters.exceptions), (0, 1000));
}

#[test]
fn a_long_repeated_ins_is_resumed_before_the_rest_of_its_block_runs() {
    // rep insb; mov al, 7; hlt
    let (stop, state, _) = harness::real_mode(&[0xf3, 0x6c, 0xb0, 7, 0xf4], 5000, 100);
    assert_eq!(stop, Stop::Halted);
    assert_eq!(
        (state.gpr[1], state.gpr[7], state.gpr[0] & 0xff),
        (0, 5000, 7)
    );
    assert_eq!(state.rip, harness::REAL_CODE + 5);
}

#[test]
fn random_code_is_harmless_in_real_mode_and_virtual_8086_mode() {
    check(MODES[0]);
    check(MODES[4]);
}

#[test]
fn random_code_is_harmless_in_16_bit_and_32_bit_protected_mode() {
    check(MODES[1]);
    check(MODES[2]);
}

#[test]
fn random_code_is_harmless_with_32_bit_paging_and_in_compatibility_mode() {
    check(MODES[3]);
    check(MODES[5]);
}

#[test]
fn random_code_is_harmless_in_64_bit_mode() {
    check(MODES[6]);
    check(MODES[7]);
}
