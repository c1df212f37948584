//! Each device of the board by random accesses, timers and completions.
#![no_main]

use fuzz::device::{Bench, Input, device};

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let mut input = Input(input);
    let which = input.byte();
    let mut bench = Bench::new(device(which));
    bench.events(&mut input);
    bench.finish(device(which));
});
