//! The dirty log, which is one for every engine: a guest stores to pages, the machine's devices
//! store to others, and each engine's log has these pages and no more. KVM's part runs on whatever
//! `/dev/kvm` there is; `MOINHO_KVM=required` makes its absence a failure.

use bt::Translation;
use kvm::{DirtyLog, KvmEngine};
use mem::{Gpa, GuestMemory, RamOffset};
use std::collections::BTreeSet;
use std::sync::Arc;
use x86::cpuid::CpuModel;
use x86::interp::Interpreter;
use x86::state::{Attributes, Segment, cr0, cr4, efer, gpr, rflags, seg};
use x86::{Bus, CpuState, Engine, Signals, Stop, Vcpu};

const PAGE: u64 = 4096;
/// More pages than a ring of KVM has entries.
const RAM: u64 = 48 << 20;
const TABLES: std::ops::Range<u64> = 0x1000..0x4000;
const CODE_AT: u64 = 0x8000;
/// `1: mov [rsi], al; add rsi, rdx; dec ecx; jnz 1b; out 0x10, al; 2: jmp 2b`
const STORES: [u8; 13] = [
    0x88, 6, 0x48, 1, 0xd6, 0xff, 0xc9, 0x75, 0xf7, 0xe6, 0x10, 0xeb, 0xfe,
];

/// A machine with one port, which ends the run.
struct OnePort(Arc<Signals>);

impl Bus for OnePort {
    fn mmio_read(&mut self, _at: Gpa, _size: u8) -> u64 {
        !0
    }
    fn mmio_write(&mut self, _at: Gpa, _size: u8, _value: u64) {}
    fn port_in(&mut self, _port: u16, _size: u8) -> u32 {
        !0
    }
    fn port_out(&mut self, _port: u16, _size: u8, _value: u32) {
        self.0.raise(Signals::RETURN);
    }
    fn msr_read(&mut self, _index: u32) -> Option<u64> {
        None
    }
    fn msr_write(&mut self, _index: u32, _value: u64) -> bool {
        false
    }
    fn tsc(&mut self) -> u64 {
        0
    }
    fn task_priority(&mut self) -> u8 {
        0
    }
    fn set_task_priority(&mut self, _class: u8) {}
    fn acknowledge(&mut self) -> Option<u8> {
        None
    }
}

struct Rig {
    engine: Box<dyn Engine>,
    vcpu: Box<dyn Vcpu>,
    memory: Arc<GuestMemory>,
    bus: OnePort,
    signature: u32,
    /// Page tables may be in the log without a store: under nested paging a processor's walk
    /// counts as one (AMD APM volume 2, "Nested versus Guest Page Faults").
    walks_store: bool,
}

impl Rig {
    fn new(engine: Box<dyn Engine>) -> Rig {
        let memory = Arc::new(GuestMemory::flat(RAM).unwrap());
        let put = |at, bytes: &[u8]| memory.write(Gpa(at), bytes).unwrap();
        // Pages of 2 MB from 0 on, which the processor has seen: it need not mark them any more.
        for (at, entry) in [(0x1000, 0x2027u64), (0x2000, 0x3027)] {
            put(at, &entry.to_le_bytes());
        }
        for n in 0..RAM >> 21 {
            put(0x3000 + 8 * n, &(n << 21 | 0xe7).to_le_bytes());
        }
        put(CODE_AT, &STORES);
        let (model, _) = engine.model(&CpuModel::all()[0]);
        let signals = Arc::new(Signals::default());
        let vcpu = engine.vcpu(0, &model, memory.clone(), signals.clone());
        Rig {
            vcpu: vcpu.unwrap(),
            engine,
            memory,
            bus: OnePort(signals),
            signature: model.signature(),
            walks_store: false,
        }
    }

    /// The guest stores to `count` pages, `step` bytes apart, from `from` on, in ring 0.
    fn store(&mut self, from: u64, step: u64, count: u64) {
        let mut s = CpuState::reset(self.signature, true);
        let flat = |attributes| Segment {
            selector: 8,
            attributes: Attributes(attributes),
            limit: !0,
            base: 0,
        };
        s.seg = [flat(0xc93); 6];
        s.seg[usize::from(seg::CS)] = flat(0xa9b);
        s.cr0 = cr0::PE | cr0::PG | cr0::ET | cr0::NE | cr0::WP;
        s.cr3 = 0x1000;
        s.cr4 = cr4::PAE;
        s.efer = efer::LME | efer::LMA;
        s.rflags = rflags::FIXED;
        s.rip = CODE_AT;
        s.gpr[gpr::RSI] = from;
        s.gpr[gpr::RDX] = step;
        s.gpr[gpr::RCX] = count;
        self.vcpu.set_state(&s).unwrap();
        assert_eq!(self.vcpu.run(&mut self.bus, u64::MAX), Stop::Requested);
        assert_eq!(self.vcpu.state().gpr[gpr::RCX], 0);
    }

    fn begin(&self) {
        self.engine.log_dirty(&self.memory, true).unwrap();
    }

    fn take(&self) -> Vec<RamOffset> {
        let mut pages = self.engine.take_dirty(&self.memory).unwrap();
        if self.walks_store {
            pages.retain(|page| !TABLES.contains(&page.0));
        }
        pages
    }
}

fn pages(from: u64, step: u64, count: u64) -> Vec<RamOffset> {
    let pages: BTreeSet<u64> = (0..count)
        .map(|n| (from + n * step) & !(PAGE - 1))
        .collect();
    pages.into_iter().map(RamOffset).collect()
}

/// All pages from 4 MB on.
const MOST: u64 = (RAM - 0x40_0000) / PAGE;

/// What every engine's log must do; the longest log has `most` pages.
fn check(name: &str, engine: Box<dyn Engine>, most: u64) {
    let mut rig = Rig::new(engine);
    rig.walks_store = name.starts_with("kvm");
    // Before there is a log, into pages that are then clean.
    rig.store(0x20_0000, PAGE, 64);
    rig.begin();
    assert_eq!(rig.take(), [], "{name}: the log begins clean");
    rig.store(0x20_0000, 0x800, 20);
    assert_eq!(rig.take(), pages(0x20_0000, PAGE, 10), "{name}");
    assert_eq!(rig.take(), [], "{name}: what was taken is clean");
    // The same pages again, and what a device stores.
    rig.store(0x20_3000, PAGE, 2);
    rig.memory.write(Gpa(0x10_0ffe), &[1; 4]).unwrap();
    let mut wanted = pages(0x10_0000, PAGE, 2);
    wanted.extend(pages(0x20_3000, PAGE, 2));
    assert_eq!(rig.take(), wanted, "{name}: processors and devices");
    // In three rounds between which the log is not taken.
    for _ in 0..3 {
        rig.store(0x40_0000, PAGE, most);
    }
    assert_eq!(rig.take(), pages(0x40_0000, PAGE, most), "{name}: all");
    // Ended, and begun anew.
    rig.store(0x30_0000, PAGE, 3);
    rig.engine.log_dirty(&rig.memory, false).unwrap();
    rig.store(0x31_0000, PAGE, 3);
    rig.begin();
    rig.store(0x32_0000, PAGE, 3);
    assert_eq!(rig.take(), pages(0x32_0000, PAGE, 3), "{name}: anew");
    // The code itself: what it was is forgotten, and the page is in the log.
    rig.memory.write(Gpa(CODE_AT), &STORES).unwrap();
    rig.store(0x33_0000, PAGE, 1);
    let mut wanted = pages(CODE_AT, PAGE, 1);
    wanted.extend(pages(0x33_0000, PAGE, 1));
    assert_eq!(rig.take(), wanted, "{name}: code");
}

#[test]
fn the_interpreters_log_has_the_pages_that_were_stored_to() {
    check("interp", Box::new(Interpreter), MOST);
}

#[test]
fn the_translators_log_has_the_pages_that_were_stored_to() {
    match Translation::new(bt::Options::default()) {
        Ok(engine) => check("bt", Box::new(engine), MOST),
        Err(why) => eprintln!("skipped: {why}"),
    }
}

#[test]
fn kvms_log_has_the_pages_that_were_stored_to_from_its_ring_and_from_its_bitmap() {
    let real = vmm::engines().iter().any(|e| e.engine == "kvm" && e.usable);
    for log in [DirtyLog::Bitmap, DirtyLog::Ring] {
        let engine = match KvmEngine::open_with(log) {
            Ok(engine) => engine,
            Err(why) => {
                let required = std::env::var("MOINHO_KVM").is_ok_and(|v| v == "required");
                assert!(!required, "{why}");
                eprintln!("skipped: {why}");
                return;
            }
        };
        if engine.dirty_log() != log {
            eprintln!("skipped: this kernel's KVM has no {log:?}");
            continue;
        }
        // A ring that is full must bring the guest out, which a KVM that emulates ring 0 forgets.
        let most = if real || log == DirtyLog::Bitmap {
            MOST
        } else {
            eprintln!("skipped: a full ring, for want of a real KVM");
            1000
        };
        check(&format!("kvm, {log:?}"), Box::new(engine), most);
    }
}
