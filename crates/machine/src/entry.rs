//! From a boot protocol's [`EntryState`] to the [`CpuState`] of the first processor.

use crate::boot::{EntryState, Mode};
use x86::CpuState;
use x86::state::{Activity, Attributes, Segment, TableRegister, cr0, cr4, efer, gpr, seg};

/// The state in which the first processor enters a loaded image; what the protocol leaves open
/// is as after reset.
pub fn cpu_state(entry: &EntryState, signature: u32) -> CpuState {
    let mut s = CpuState::reset(signature, true);
    let real = entry.mode == Mode::Real16;
    let segment = |selector: u16, attributes: u16| Segment {
        selector,
        attributes: Attributes(attributes),
        limit: if real { 0xffff } else { 0xffff_ffff },
        base: if real { u64::from(selector) << 4 } else { 0 },
    };
    // Accessed, present, DPL 0; G with L or D/B where the mode is not real.
    let (code, data) = match entry.mode {
        Mode::Real16 => (0x9b, 0x93),
        Mode::Protected32 => (0xc9b, 0xc93),
        Mode::Long64 => (0xa9b, 0xc93),
    };
    s.seg = [segment(entry.data_selector, data); 6];
    s.seg[seg::CS as usize] = segment(entry.code_selector, code);
    s.rip = entry.rip;
    s.gpr = [0; 16];
    s.gpr[gpr::RSP] = entry.rsp;
    s.gpr[gpr::RAX] = entry.rax;
    s.gpr[gpr::RBX] = entry.rbx;
    s.gpr[gpr::RSI] = entry.rsi;
    if let Some((base, limit)) = entry.gdt {
        s.gdtr = TableRegister { base, limit };
    }
    if !real {
        s.idtr = TableRegister { base: 0, limit: 0 };
        s.tr.limit = 0x67;
        // Caches on: a boot loader would not leave CD set.
        s.cr0 = cr0::ET | cr0::NE | cr0::PE;
        // LDTR empty: a null selector, not present.
        s.ldtr.attributes = Attributes(0x02);
        s.ldtr.limit = 0;
    }
    if let (Mode::Long64, Some(cr3)) = (entry.mode, entry.cr3) {
        s.cr0 |= cr0::PG;
        s.cr3 = cr3;
        s.cr4 = cr4::PAE;
        s.efer = efer::LME | efer::LMA;
    }
    s.activity = Activity::Running;
    s
}
