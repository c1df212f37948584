//! A virtio device that was set up properly, with rings full of noise.
#![no_main]

use fuzz::device::{Bench, Input, virtio_mmio};

const QUEUES: u64 = 4;
const SIZE: u64 = 8;

// Register offsets: virtio 1.2, "MMIO Device Register Layout".
libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let mut input = Input(input);
    let which = input.byte();
    let mut bench = Bench::new(virtio_mmio(which));
    // ACKNOWLEDGE, DRIVER; VERSION_1 and whatever else the input wants; FEATURES_OK.
    bench.write32(0x70, 1);
    bench.write32(0x70, 3);
    bench.write32(0x24, 1);
    bench.write32(0x20, 1);
    bench.write32(0x24, 0);
    bench.write32(0x20, input.number(4));
    bench.write32(0x70, 0xb);
    for queue in 0..QUEUES {
        let at = queue << 12;
        bench.write32(0x30, queue);
        bench.write32(0x38, SIZE);
        bench.write32(0x80, at);
        bench.write32(0x90, at + 0x400);
        bench.write32(0xa0, at + 0x800);
        bench.write32(0x44, 1);
        bench.fill(at, input.bytes(16 * SIZE as usize));
        bench.fill(at + 0x400, input.bytes(6 + 2 * SIZE as usize));
    }
    bench.write32(0x70, 0xf);
    for queue in 0..QUEUES {
        bench.write32(0x50, queue);
    }
    bench.events(&mut input);
    bench.finish(virtio_mmio(which));
});
