//! The interpreter: the same linear addresses as the native side through page tables of its own,
//! the same state, one instruction.
//!
//! The IDT is empty, so an exception ends in shutdown with the registers as the fault left them;
//! the first exception the bus hears of is the instruction's.

use super::generate::{CODE, CODE_SIZE, Case, EXIT_JUMP, WINDOW, WINDOW_RO, WINDOW_RW};
use super::state::{Exception, Outcome, Registers};
use mem::{Gpa, GuestMemory};
use std::sync::Arc;
use x86::cpuid::CpuModel;
use x86::interp::Interpreter;
use x86::state::{Activity, Attributes, CpuState, Segment, TableRegister, cr0, cr4, efer};
use x86::{Bus, Engine, Event, Signals, Stop, Vcpu};

const WINDOW_GPA: u64 = 0x10_0000;
const CODE_GPA: u64 = 0x11_0000;
const TABLES: u64 = 0x12_0000;

/// Hears exceptions and nothing else.
#[derive(Default)]
struct Recorder {
    exception: Option<(u8, u32)>,
}

impl Bus for Recorder {
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
    fn event(&mut self, event: Event) {
        if let Event::Exception { vector, code, .. } = event
            && self.exception.is_none()
        {
            self.exception = Some((vector, code.unwrap_or(0)));
        }
    }
}

/// One interpreted processor with its memory.
pub struct Interpreted {
    memory: Arc<GuestMemory>,
    vcpu: Box<dyn Vcpu>,
    state: CpuState,
}

impl Interpreted {
    pub fn new(background: &[u8]) -> Interpreted {
        let memory = Arc::new(GuestMemory::flat(2 << 20).expect("2 MiB"));
        let put = |at: u64, value: u64| memory.write_word(Gpa(at), value).expect("in RAM");
        // PML4, PDPT, then per gigabyte a page directory and a table.
        put(TABLES, (TABLES + 0x1000) | 7);
        let mut free = TABLES + 0x2000;
        for (linear, gpa, pages, rights) in [
            (WINDOW, WINDOW_GPA, WINDOW_RW >> 12, 7 | 1 << 63),
            (
                WINDOW + WINDOW_RW as u64,
                WINDOW_GPA + WINDOW_RW as u64,
                WINDOW_RO >> 12,
                5 | 1 << 63,
            ),
            (CODE, CODE_GPA, CODE_SIZE >> 12, 5),
        ] {
            for page in 0..pages as u64 {
                let linear = linear + (page << 12);
                let mut table = TABLES + 0x1000;
                for shift in [30, 21] {
                    let slot = table + (linear >> shift & 511) * 8;
                    let mut entry: u64 = memory.read_word(Gpa(slot)).expect("in RAM");
                    if entry == 0 {
                        entry = free | 7;
                        put(slot, entry);
                        free += 0x1000;
                    }
                    table = entry & !0xfff;
                }
                put(
                    table + (linear >> 12 & 511) * 8,
                    (gpa + (page << 12)) | rights,
                );
            }
        }
        memory
            .write(Gpa(WINDOW_GPA), background)
            .expect("the window is in RAM");
        let model = CpuModel::everything();
        let mut state = CpuState::reset(model.signature(), true);
        state.cr0 = cr0::PE | cr0::MP | cr0::ET | cr0::NE | cr0::WP | cr0::AM | cr0::PG;
        state.cr4 = cr4::PAE | cr4::OSFXSR | cr4::OSXMMEXCPT | cr4::FSGSBASE | cr4::OSXSAVE;
        state.cr4 |= cr4::UMIP;
        state.cr3 = TABLES;
        state.efer = efer::SCE | efer::LME | efer::LMA | efer::NXE;
        state.xcr0 = 7;
        state.cpl = 3;
        state.idtr = TableRegister { base: 0, limit: 0 };
        state.gdtr = state.idtr;
        state.tr.limit = 0;
        state.activity = Activity::Running;
        let vcpu = Interpreter
            .vcpu(0, &model, memory.clone(), Arc::new(Signals::default()))
            .expect("the interpreter needs nothing");
        Interpreted {
            memory,
            vcpu,
            state,
        }
    }

    /// Runs one case; `memory` is what the window holds before it.
    pub fn run(&mut self, case: &Case, memory: &[u8]) -> Outcome {
        let gpa = CODE_GPA + (case.at - CODE);
        // A jump behind the instruction ends the decoded block.
        let mut bytes = case.bytes.to_vec();
        bytes.extend([0xe9; EXIT_JUMP]);
        self.memory.write(Gpa(gpa), &bytes).expect("code in RAM");
        self.memory
            .write(Gpa(WINDOW_GPA), memory)
            .expect("window in RAM");
        let segment = |selector, attributes| Segment {
            selector,
            attributes: Attributes(attributes),
            limit: !0,
            base: 0,
        };
        let s = &mut self.state;
        let data = segment(0x2b, 0xcf3);
        let null = segment(0, 0);
        s.seg = if case.bits == 64 {
            [null, segment(0x33, 0xafb), data, null, null, null]
        } else {
            [data, segment(0x23, 0xcfb), data, data, null, null]
        };
        let r = &case.registers;
        s.gpr = r.gpr;
        s.rip = case.at;
        s.rflags = r.rflags;
        s.x87 = r.x87;
        s.mxcsr = r.mxcsr;
        s.vector = r.vector;
        self.vcpu.set_state(s).expect("a state of a user program");
        let mut bus = Recorder::default();
        let stop = self.vcpu.run(&mut bus, 1);
        let s = self.vcpu.state();
        let exception = bus.exception.map(|(vector, error)| Exception {
            vector,
            error,
            address: if vector == 14 { s.cr2 } else { 0 },
        });
        let broken = match stop {
            Stop::Budget => None,
            Stop::Shutdown if exception.is_some() => None,
            other => Some(format!("{other:?}")),
        };
        let mut after = vec![0; WINDOW_RW];
        self.memory
            .read(Gpa(WINDOW_GPA), &mut after)
            .expect("window in RAM");
        Outcome {
            registers: Registers {
                gpr: s.gpr,
                rip: s.rip,
                rflags: s.rflags,
                x87: s.x87,
                mxcsr: s.mxcsr,
                vector: s.vector,
            },
            exception,
            memory: after,
            broken,
        }
    }
}
