//! [`CpuState`] to and from the structures of the KVM API, field by field. Pure functions.
//!
//! Where the two differ (AMD APM volume 2, "VMCB State Save Area"; Linux `svm.c`, `vmx.c`):
//! the granularity bit follows from the limit; a loaded data segment counts as accessed and a
//! loaded TSS as busy; CPL is SS.DPL; L of a code segment outside long mode is not kept; the
//! selectors of the last x87 instruction and operand are not kept; after STI, AMD's one interrupt
//! shadow reads as that of MOV SS.

use kvm_bindings::*;
use x86::CpuState;
use x86::cpuid::{CpuModel, Feature};
use x86::state::{Attributes, Segment, Shadow, TableRegister, cr0, efer, rflags, seg};
use x86::xstate;

pub(crate) fn regs(s: &CpuState) -> kvm_regs {
    let [
        rax,
        rcx,
        rdx,
        rbx,
        rsp,
        rbp,
        rsi,
        rdi,
        r8,
        r9,
        r10,
        r11,
        r12,
        r13,
        r14,
        r15,
    ] = s.gpr;
    kvm_regs {
        rax,
        rbx,
        rcx,
        rdx,
        rsi,
        rdi,
        rsp,
        rbp,
        r8,
        r9,
        r10,
        r11,
        r12,
        r13,
        r14,
        r15,
        rip: s.rip,
        rflags: s.rflags & rflags::ALL | rflags::FIXED,
    }
}

pub(crate) fn from_regs(r: &kvm_regs, s: &mut CpuState) {
    s.gpr = [
        r.rax, r.rcx, r.rdx, r.rbx, r.rsp, r.rbp, r.rsi, r.rdi, r.r8, r.r9, r.r10, r.r11, r.r12,
        r.r13, r.r14, r.r15,
    ];
    s.rip = r.rip;
    s.rflags = r.rflags & rflags::ALL | rflags::FIXED;
}

fn segment(s: &Segment) -> kvm_segment {
    let a = s.attributes.0;
    let bit = |n: u16| (a >> n & 1) as u8;
    kvm_segment {
        base: s.base,
        limit: s.limit,
        selector: s.selector,
        type_: (a & 15) as u8,
        s: bit(4),
        dpl: (a >> 5 & 3) as u8,
        present: bit(7),
        avl: bit(8),
        l: bit(9),
        db: bit(10),
        g: u8::from(s.limit > 0xf_ffff),
        unusable: 1 - bit(7),
        padding: 0,
    }
}

fn from_segment(k: &kvm_segment) -> Segment {
    let bit = |value: u8, n: u16| u16::from(value & 1) << n;
    let present = k.present & 1 & !(k.unusable & 1);
    Segment {
        selector: k.selector,
        attributes: Attributes(
            u16::from(k.type_ & 15)
                | bit(k.s, 4)
                | u16::from(k.dpl & 3) << 5
                | bit(present, 7)
                | bit(k.avl, 8)
                | bit(k.l, 9)
                | bit(k.db, 10)
                | u16::from(k.limit > 0xf_ffff) << 11,
        ),
        limit: k.limit,
        base: k.base,
    }
}

fn table(t: &TableRegister) -> kvm_dtable {
    kvm_dtable {
        base: t.base,
        limit: t.limit,
        padding: [0; 3],
    }
}

fn from_table(t: &kvm_dtable) -> TableRegister {
    TableRegister {
        base: t.base,
        limit: t.limit,
    }
}

/// True if the PDPTE registers are in use: PAE paging outside long mode.
fn uses_pdptes(s: &CpuState) -> bool {
    s.cr0 & cr0::PG != 0 && s.cr4 & x86::state::cr4::PAE != 0 && s.efer & efer::LMA == 0
}

/// CR8 and the APIC's base are the machine's: CR8 goes through the shared page, and KVM needs to
/// know no more of the APIC than that it is enabled, for CPUID.
pub(crate) fn sregs(s: &CpuState, bootstrap: bool) -> kvm_sregs2 {
    let mut cs = segment(&s.seg[seg::CS as usize]);
    if s.efer & efer::LMA == 0 {
        cs.l = 0;
    }
    let mut ss = segment(&s.seg[seg::SS as usize]);
    ss.dpl = s.cpl;
    let uses_pdptes = uses_pdptes(s);
    kvm_sregs2 {
        cs,
        ss,
        ds: segment(&s.seg[seg::DS as usize]),
        es: segment(&s.seg[seg::ES as usize]),
        fs: segment(&s.seg[seg::FS as usize]),
        gs: segment(&s.seg[seg::GS as usize]),
        tr: segment(&s.tr),
        ldt: segment(&s.ldtr),
        gdt: table(&s.gdtr),
        idt: table(&s.idtr),
        cr0: s.cr0,
        cr2: s.cr2,
        cr3: s.cr3,
        cr4: s.cr4,
        cr8: 0,
        efer: s.efer,
        apic_base: 0xfee0_0800 | u64::from(bootstrap) << 8,
        flags: if uses_pdptes {
            KVM_SREGS2_FLAGS_PDPTRS_VALID.into()
        } else {
            0
        },
        pdptrs: if uses_pdptes { s.pdpte } else { [0; 4] },
    }
}

pub(crate) fn from_sregs(k: &kvm_sregs2, s: &mut CpuState) {
    s.seg = [&k.es, &k.cs, &k.ss, &k.ds, &k.fs, &k.gs].map(from_segment);
    s.ldtr = from_segment(&k.ldt);
    s.tr = from_segment(&k.tr);
    s.gdtr = from_table(&k.gdt);
    s.idtr = from_table(&k.idt);
    s.cpl = k.ss.dpl & 3;
    s.cr0 = k.cr0;
    s.cr2 = k.cr2;
    s.cr3 = k.cr3;
    s.cr4 = k.cr4;
    s.efer = k.efer;
    if k.flags & u64::from(KVM_SREGS2_FLAGS_PDPTRS_VALID) != 0 {
        s.pdpte = k.pdptrs;
    }
}

pub(crate) fn xsave(s: &CpuState, avx: bool) -> kvm_xsave {
    let mut k = kvm_xsave::default();
    for (n, word) in xstate::to_image(s, avx).iter().enumerate() {
        k.region[2 * n] = *word as u32;
        k.region[2 * n + 1] = (*word >> 32) as u32;
    }
    k
}

pub(crate) fn from_xsave(k: &kvm_xsave, s: &mut CpuState) {
    let image: xstate::Image =
        std::array::from_fn(|n| u64::from(k.region[2 * n]) | u64::from(k.region[2 * n + 1]) << 32);
    xstate::from_image(&image, s);
}

pub(crate) fn debug_registers(s: &CpuState) -> kvm_debugregs {
    kvm_debugregs {
        db: s.dr,
        dr6: s.dr6,
        dr7: s.dr7,
        ..Default::default()
    }
}

pub(crate) fn from_debug_registers(k: &kvm_debugregs, s: &mut CpuState) {
    s.dr = k.db;
    s.dr6 = k.dr6;
    s.dr7 = k.dr7;
}

/// Nothing is in delivery: a state is at an instruction boundary.
pub(crate) fn events(s: &CpuState) -> kvm_vcpu_events {
    let mut k = kvm_vcpu_events {
        flags: KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW,
        ..Default::default()
    };
    k.nmi.masked = s.nmi_blocked.into();
    k.interrupt.shadow = match s.shadow {
        Shadow::None => 0,
        Shadow::Sti => KVM_X86_SHADOW_INT_STI as u8,
        Shadow::MovSs => KVM_X86_SHADOW_INT_MOV_SS as u8,
    };
    k
}

pub(crate) fn from_events(k: &kvm_vcpu_events, s: &mut CpuState) {
    s.nmi_blocked = k.nmi.masked != 0;
    let shadow = u32::from(k.interrupt.shadow);
    s.shadow = if shadow & KVM_X86_SHADOW_INT_MOV_SS != 0 {
        Shadow::MovSs
    } else if shadow & KVM_X86_SHADOW_INT_STI != 0 {
        Shadow::Sti
    } else {
        Shadow::None
    };
}

/// The registers that KVM holds and a guest reaches without leaving for us. All others come to
/// [`x86::msr`]'s table, so that they are the same under every engine.
pub(crate) const KVM_MSRS: &[u32] = &[
    IA32_TSC,
    IA32_TSC_ADJUST,
    0x48,
    0x49,
    0x174,
    0x175,
    0x176,
    0x277,
    0xc000_0080,
    0xc000_0081,
    0xc000_0082,
    0xc000_0083,
    0xc000_0084,
    0xc000_0100,
    0xc000_0101,
    0xc000_0102,
    0xc000_0103,
];
pub(crate) const IA32_TSC: u32 = 0x10;
pub(crate) const IA32_TSC_ADJUST: u32 = 0x3b;
/// Of [`KVM_MSRS`]: there with `Feature::SpecCtrl`.
pub(crate) const SPECULATION_MSRS: &[u32] = &[0x48, 0x49];

/// The registers KVM holds that no other structure carries, with their values.
pub(crate) fn msrs(s: &CpuState, model: &CpuModel) -> Vec<(u32, u64)> {
    let m = &s.msr;
    let mut list = vec![
        (0x174, m.sysenter_cs),
        (0x175, m.sysenter_esp),
        (0x176, m.sysenter_eip),
        (0x277, m.pat),
        (0xc000_0081, m.star),
        (0xc000_0082, m.lstar),
        (0xc000_0083, m.cstar),
        (0xc000_0084, m.sfmask),
        (0xc000_0102, m.kernel_gs_base),
        (IA32_TSC_ADJUST, m.tsc_adjust),
    ];
    if model.feature(Feature::Rdtscp) {
        list.push((0xc000_0103, m.tsc_aux));
    }
    if model.feature(Feature::SpecCtrl) {
        list.push((0x48, m.spec_ctrl));
    }
    list
}

pub(crate) fn from_msrs(list: &[(u32, u64)], s: &mut CpuState) {
    let m = &mut s.msr;
    for &(index, value) in list {
        match index {
            0x174 => m.sysenter_cs = value,
            0x175 => m.sysenter_esp = value,
            0x176 => m.sysenter_eip = value,
            0x277 => m.pat = value,
            0xc000_0081 => m.star = value,
            0xc000_0082 => m.lstar = value,
            0xc000_0083 => m.cstar = value,
            0xc000_0084 => m.sfmask = value,
            0xc000_0102 => m.kernel_gs_base = value,
            0xc000_0103 => m.tsc_aux = value,
            IA32_TSC_ADJUST => m.tsc_adjust = value,
            0x48 => m.spec_ctrl = value,
            _ => {}
        }
    }
}
