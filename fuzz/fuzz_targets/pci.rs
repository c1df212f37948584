//! PCI configuration space, BARs that move, and the functions behind them.
#![no_main]

use fuzz::device::{Bench, Input, pci};

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let mut input = Input(input);
    let mut bench = Bench::new(pci());
    // Some configuration accesses first, as firmware makes them: address, then data.
    for _ in 0..input.byte() % 64 {
        bench.write32(0, 0x8000_0000 | input.number(2) & 0x7ffc);
        bench.write32(4, input.number(4));
    }
    bench.events(&mut input);
    bench.finish(pci());
});
