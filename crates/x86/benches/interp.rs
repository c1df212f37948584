//! The interpreter's speed on small kernels in flat 32-bit protected mode, without paging:
//! `cargo bench -p x86 --bench interp`. Prints million guest instructions a second.

use mem::{Gpa, GuestMemory};
use std::sync::Arc;
use std::time::Instant;
use x86::cpuid::CpuModel;
use x86::state::{Attributes, Segment, cr0};
use x86::{Bus, CpuState, Engine, Signals, Stop};

struct NoBus;

impl Bus for NoBus {
    fn mmio_read(&mut self, _: Gpa, _: u8) -> u64 {
        !0
    }
    fn mmio_write(&mut self, _: Gpa, _: u8, _: u64) {}
    fn port_in(&mut self, _: u16, _: u8) -> u32 {
        !0
    }
    fn port_out(&mut self, _: u16, _: u8, _: u32) {}
    fn msr_read(&mut self, _: u32) -> Option<u64> {
        None
    }
    fn msr_write(&mut self, _: u32, _: u64) -> bool {
        false
    }
    fn tsc(&mut self) -> u64 {
        0
    }
    fn task_priority(&mut self) -> u8 {
        0
    }
    fn set_task_priority(&mut self, _: u8) {}
    fn acknowledge(&mut self) -> Option<u8> {
        None
    }
}

/// Name, code at 0x1000.
const KERNELS: &[(&str, &[u8])] = &[
    // 1: dec ecx; add eax, ecx; jmp 1b
    ("registers", &[0x49, 0x01, 0xc8, 0xeb, 0xfb]),
    // 1: mov eax,[0x2000]; add [0x2004],eax; push eax; pop edx; inc ecx; test ecx,ecx; jne 1b; jmp 1b
    (
        "memory",
        &[
            0xa1, 0, 0x20, 0, 0, 0x01, 0x05, 4, 0x20, 0, 0, 0x50, 0x5a, 0x41, 0x85, 0xc9, 0x75,
            0xee, 0xeb, 0xec,
        ],
    ),
    // 1: call 2f; jmp 1b; 2: ret
    ("calls", &[0xe8, 2, 0, 0, 0, 0xeb, 0xf9, 0xc3]),
];

fn main() {
    for (name, code) in KERNELS {
        let memory = Arc::new(GuestMemory::flat(0x10_0000).expect("a megabyte"));
        memory.write(Gpa(0x1000), code).expect("inside RAM");
        let signals = Arc::new(Signals::default());
        let model = CpuModel::everything();
        let mut vcpu = x86::interp::Interpreter
            .vcpu(0, &model, memory, signals)
            .expect("a processor");
        let mut state = CpuState::reset(0, true);
        state.cr0 |= cr0::PE;
        let flat = |kind: u16| Segment {
            selector: 8,
            attributes: Attributes(0xc90 | kind),
            limit: !0,
            base: 0,
        };
        state.seg = [flat(3); 6];
        state.seg[1] = flat(0xb);
        state.rip = 0x1000;
        state.gpr[4] = 0x8000;
        vcpu.set_state(&state).expect("a valid state");
        let start = Instant::now();
        let count = 100_000_000;
        assert_eq!(vcpu.run(&mut NoBus, count), Stop::Budget);
        let seconds = start.elapsed().as_secs_f64();
        println!(
            "{name:12} {:7.1} million instructions a second",
            count as f64 / seconds / 1e6
        );
    }
}
