//! Control and debug registers, descriptor-table registers, MSRs, CPUID, time stamps, caches and
//! TLB, fast system calls (SDM volume 2 and 3).

use crate::exec::{Exec, attention};
use crate::insn::{Insn, undefined};
use crate::mmu::is_canonical;
use crate::segment::{self, kind};
use crate::state::{Activity, Attributes, Segment, cr0, cr4, efer, gpr, rflags, seg};
use crate::table::Row;
use crate::trap::{Done, Trap, vector};
use iced_x86::Code;
use mem::{Gpa, Word};

fn nop(_: &mut Exec<'_>, _: &Insn) -> Done {
    Ok(())
}

/// MFENCE: loads and stores of this processor are the host's, so it takes the host's fence.
fn mfence(_: &mut Exec<'_>, _: &Insn) -> Done {
    core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
    Ok(())
}

fn hlt(x: &mut Exec<'_>, _: &Insn) -> Done {
    x.s.activity = Activity::Halted;
    x.attention |= attention::ACTIVITY;
    Ok(())
}

// Control registers

impl Exec<'_> {
    /// Loads the PDPTE registers from the table at `cr3` (SDM volume 3, "PAE Paging"): reserved
    /// bits in a present entry raise #GP(0) and change nothing.
    pub(crate) fn load_pdptes(&mut self, cr3: u64) -> Done {
        let reserved = !0u64 << self.model.physical_bits | 0x1e6;
        let mut new = [0; 4];
        for (n, entry) in new.iter_mut().enumerate() {
            let at = Gpa((cr3 & 0xffff_ffe0) + 8 * n as u64);
            *entry = match self.ram.lookup(at) {
                Some(page) => self.ram.load(page.at),
                None => self.bus.mmio_read(at, 8),
            };
            if *entry & 1 != 0 && *entry & reserved != 0 {
                return Err(Trap::GP0);
            }
        }
        self.s.pdpte = new;
        Ok(())
    }

    fn pae_legacy(&self, cr0: u64, cr4: u64) -> bool {
        cr0 & cr0::PG != 0 && cr4 & cr4::PAE != 0 && self.s.efer & efer::LMA == 0
    }

    /// MOV to CR0 and LMSW, with every combination checked.
    pub(crate) fn write_cr0(&mut self, value: u64) -> Done {
        const KNOWN: u64 = cr0::PE
            | cr0::MP
            | cr0::EM
            | cr0::TS
            | cr0::NE
            | cr0::WP
            | cr0::AM
            | cr0::NW
            | cr0::CD
            | cr0::PG;
        if value >> 32 != 0 {
            return Err(Trap::GP0);
        }
        let old = self.s.cr0;
        let new = value & KNOWN | cr0::ET;
        let has = |bit| new & bit != 0;
        if has(cr0::PG) && !has(cr0::PE) || has(cr0::NW) && !has(cr0::CD) {
            return Err(Trap::GP0);
        }
        let mut efer = self.s.efer;
        if has(cr0::PG) && old & cr0::PG == 0 {
            if efer & efer::LME != 0 {
                let tss16 = matches!(self.s.tr.attributes.kind(), kind::TSS16 | kind::TSS16_BUSY)
                    && self.s.tr.attributes.present()
                    && !self.s.tr.attributes.is_code_or_data();
                let code = self.s.seg[seg::CS as usize].attributes;
                if self.s.cr4 & cr4::PAE == 0 || code.long() || tss16 {
                    return Err(Trap::GP0);
                }
                efer |= efer::LMA;
            } else if self.s.cr4 & cr4::PAE != 0 {
                self.load_pdptes(self.s.cr3)?;
            }
        } else if !has(cr0::PG) && old & cr0::PG != 0 {
            if self.is_64bit() || self.s.cr4 & cr4::PCIDE != 0 {
                return Err(Trap::GP0);
            }
            efer &= !efer::LMA;
        } else if (new ^ old) & (cr0::CD | cr0::NW) != 0 && self.pae_legacy(new, self.s.cr4) {
            self.load_pdptes(self.s.cr3)?;
        }
        self.s.cr0 = new;
        self.s.efer = efer;
        if (new ^ old) & (cr0::PG | cr0::WP | cr0::PE) != 0 {
            self.cpu.tlb.flush_all();
        }
        self.refresh();
        Ok(())
    }

    /// MOV to CR3 in ring 0: a fault, or the address space is another one.
    pub fn write_cr3(&mut self, value: u64) -> Done {
        let pcide = self.s.cr4 & cr4::PCIDE != 0;
        let keep = pcide && value >> 63 != 0;
        let value = if pcide { value & !(1 << 63) } else { value };
        if self.is_long() {
            if value >> self.model.physical_bits != 0 {
                return Err(Trap::GP0);
            }
        } else if self.pae_legacy(self.s.cr0, self.s.cr4) {
            self.load_pdptes(value)?;
        }
        self.s.cr3 = value;
        let pcid = if pcide { value & 0xfff } else { 0 };
        self.cpu.tlb.load_cr3(pcid as u16, keep);
        self.attention |= attention::MODE;
        Ok(())
    }

    pub(crate) fn write_cr4(&mut self, value: u64) -> Done {
        let old = self.s.cr4;
        if value & !self.model.cr4_bits() != 0 {
            return Err(Trap::GP0);
        }
        let has = |bit| value & bit != 0;
        let rises = |bit| value & !old & bit != 0;
        if self.is_long() && !has(cr4::PAE) {
            return Err(Trap::GP0);
        }
        if rises(cr4::PCIDE) && (!self.is_long() || self.s.cr3 & 0xfff != 0) {
            return Err(Trap::GP0);
        }
        const PAGING: u64 = cr4::PAE | cr4::PSE | cr4::PGE | cr4::SMEP;
        if (value ^ old) & PAGING != 0 && self.pae_legacy(self.s.cr0, value) {
            self.load_pdptes(self.s.cr3)?;
        }
        self.s.cr4 = value;
        if (value ^ old) & (PAGING | cr4::SMAP | cr4::PCIDE) != 0 {
            self.cpu.tlb.flush_all();
        }
        self.refresh();
        Ok(())
    }
}

fn mov_from_cr(x: &mut Exec<'_>, i: &Insn) -> Done {
    let value = match i.ops[1] {
        0 => x.s.cr0,
        2 => x.s.cr2,
        3 => x.s.cr3,
        4 => x.s.cr4,
        8 => x.bus.task_priority().into(),
        _ => return Err(Trap::UD),
    };
    set_register(x, i.ops[0], value);
    Ok(())
}

/// A general register in the natural width of the mode: 64 bits in 64-bit mode, else 32.
fn set_register(x: &mut Exec<'_>, n: u8, value: u64) {
    if x.is_64bit() {
        x.set_reg::<u64>(n, value);
    } else {
        x.set_reg::<u32>(n, value as u32);
    }
}

fn register(x: &Exec<'_>, n: u8) -> u64 {
    if x.is_64bit() {
        x.reg::<u64>(n)
    } else {
        x.reg::<u32>(n).into()
    }
}

fn mov_to_cr(x: &mut Exec<'_>, i: &Insn) -> Done {
    let value = register(x, i.ops[1]);
    match i.ops[0] {
        0 => x.write_cr0(value),
        2 => {
            x.s.cr2 = value;
            Ok(())
        }
        3 => x.write_cr3(value),
        4 => x.write_cr4(value),
        8 => {
            if value > 15 {
                return Err(Trap::GP0);
            }
            x.bus.set_task_priority(value as u8);
            x.attention |= attention::EVENTS;
            Ok(())
        }
        _ => Err(Trap::UD),
    }
}

fn clts(x: &mut Exec<'_>, _: &Insn) -> Done {
    x.s.cr0 &= !cr0::TS;
    x.refresh();
    Ok(())
}

fn lmsw(x: &mut Exec<'_>, i: &Insn) -> Done {
    let value = u64::from(x.get::<u16>(i, 0)?);
    // LMSW can set PE and not clear it.
    let new = x.s.cr0 & !0xe | value & 0xf;
    x.write_cr0(new)
}

fn smsw<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    umip(x)?;
    store_selector::<T>(x, i, x.s.cr0)
}

/// Stores 16 bits to memory, or the operand size to a register.
fn store_selector<T: Word>(x: &mut Exec<'_>, i: &Insn, value: u64) -> Done {
    if i.is_mem(0) {
        x.set::<u16>(i, 0, value as u16)
    } else {
        x.set::<T>(i, 0, T::from_u64(value))
    }
}

/// CR4.UMIP keeps user programs from the descriptor-table registers.
fn umip(x: &Exec<'_>) -> Done {
    if x.s.cr4 & cr4::UMIP != 0 && x.s.cpl != 0 {
        return Err(Trap::GP0);
    }
    Ok(())
}

// Debug registers

/// General detect: #DB before the access.
fn general_detect(x: &mut Exec<'_>) -> Done {
    if x.s.dr7 & 1 << 13 != 0 {
        x.s.dr6 |= 1 << 13;
        return Err(Trap::Fault {
            vector: vector::DB,
            code: None,
        });
    }
    Ok(())
}

/// DR4 and DR5 are DR6 and DR7, or do not exist with CR4.DE.
fn debug_number(x: &Exec<'_>, n: u8) -> Done<u8> {
    match n {
        4 | 5 if x.s.cr4 & cr4::DE != 0 => Err(Trap::UD),
        4 | 5 => Ok(n + 2),
        0..=7 => Ok(n),
        _ => Err(Trap::UD),
    }
}

fn mov_from_dr(x: &mut Exec<'_>, i: &Insn) -> Done {
    let n = debug_number(x, i.ops[1])?;
    general_detect(x)?;
    let value = match n {
        6 => x.s.dr6,
        7 => x.s.dr7,
        n => x.s.dr[usize::from(n)],
    };
    set_register(x, i.ops[0], value);
    Ok(())
}

fn mov_to_dr(x: &mut Exec<'_>, i: &Insn) -> Done {
    let n = debug_number(x, i.ops[0])?;
    general_detect(x)?;
    let value = register(x, i.ops[1]);
    if n >= 6 && value >> 32 != 0 {
        return Err(Trap::GP0);
    }
    match n {
        6 => x.s.dr6 = value & 0xe00f | 0xffff_0ff0,
        7 => x.s.dr7 = value & 0xffff_23ff | 0x400,
        n => x.s.dr[usize::from(n)] = value,
    }
    // Watched pages must not be in the TLB.
    x.cpu.tlb.flush_all();
    x.refresh();
    Ok(())
}

// Descriptor-table registers

fn store_table<const GDT: bool>(x: &mut Exec<'_>, i: &Insn) -> Done {
    umip(x)?;
    let table = if GDT { x.s.gdtr } else { x.s.idtr };
    let wide = x.is_64bit();
    let at = x.ea(i);
    x.probe_write(i.seg, at, if wide { 10 } else { 6 })?;
    x.write(i.seg, at, table.limit)?;
    let at = at.wrapping_add(2) & i.address_mask();
    if wide {
        x.write(i.seg, at, table.base)
    } else {
        x.write(i.seg, at, table.base as u32)
    }
}

fn load_table<const GDT: bool, const BASE_MASK: u64>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let at = x.ea(i);
    let limit: u16 = x.read(i.seg, at)?;
    let at = at.wrapping_add(2) & i.address_mask();
    let base = if x.is_64bit() {
        let base: u64 = x.read(i.seg, at)?;
        if !is_canonical(base) {
            return Err(Trap::GP0);
        }
        base
    } else {
        u64::from(x.read::<u32>(i.seg, at)?) & BASE_MASK
    };
    let table = if GDT {
        &mut x.cpu.s.gdtr
    } else {
        &mut x.cpu.s.idtr
    };
    table.base = base;
    table.limit = limit;
    Ok(())
}

fn sldt<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    protected_only(x)?;
    umip(x)?;
    store_selector::<T>(x, i, x.s.ldtr.selector.into())
}

fn str<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    protected_only(x)?;
    umip(x)?;
    store_selector::<T>(x, i, x.s.tr.selector.into())
}

fn protected_only(x: &Exec<'_>) -> Done {
    if x.is_real_or_v86() {
        Err(Trap::UD)
    } else {
        Ok(())
    }
}

/// #UD outside protected mode, #GP(0) above CPL 0.
fn protected_cpl0(x: &Exec<'_>) -> Done {
    protected_only(x)?;
    if x.s.cpl != 0 {
        return Err(Trap::GP0);
    }
    Ok(())
}

fn lldt(x: &mut Exec<'_>, i: &Insn) -> Done {
    protected_cpl0(x)?;
    let selector: u16 = x.get(i, 0)?;
    if segment::is_null(selector) {
        x.s.ldtr = segment::null(selector);
        return Ok(());
    }
    let bad = Trap::gp(selector & !3);
    if selector & 4 != 0 {
        return Err(bad);
    }
    let d = x.system_descriptor(selector, vector::GP, 0)?;
    if d.system_kind() != Some(kind::LDT) {
        return Err(bad);
    }
    if !d.attributes().present() {
        return Err(Trap::with_code(vector::NP, selector & !3));
    }
    if x.is_long() && !is_canonical(d.base()) {
        return Err(bad);
    }
    x.s.ldtr = d.segment(selector);
    Ok(())
}

fn ltr(x: &mut Exec<'_>, i: &Insn) -> Done {
    protected_cpl0(x)?;
    let selector: u16 = x.get(i, 0)?;
    if segment::is_null(selector) {
        return Err(Trap::GP0);
    }
    let bad = Trap::gp(selector & !3);
    if selector & 4 != 0 {
        return Err(bad);
    }
    let d = x.system_descriptor(selector, vector::GP, 0)?;
    match d.system_kind() {
        Some(kind::TSS32) => {}
        Some(kind::TSS16) if !x.is_long() => {}
        _ => return Err(bad),
    }
    if !d.attributes().present() {
        return Err(Trap::with_code(vector::NP, selector & !3));
    }
    if x.is_long() && !is_canonical(d.base()) {
        return Err(bad);
    }
    x.set_busy(d.at, true)?;
    let mut tr = d.segment(selector);
    tr.attributes.0 |= u16::from(kind::BUSY);
    x.s.tr = tr;
    Ok(())
}

// Looking at descriptors

/// The descriptor of `selector` if LAR, LSL, VERR and VERW may see it.
fn visible(x: &mut Exec<'_>, selector: u16) -> Done<Option<segment::Descriptor>> {
    if segment::is_null(selector) {
        return Ok(None);
    }
    let d = match x.system_descriptor(selector, vector::GP, 0) {
        Ok(d) => d,
        Err(Trap::Fault {
            vector: vector::GP, ..
        }) => return Ok(None),
        Err(other) => return Err(other),
    };
    let a = d.attributes();
    let rpl = (selector & 3) as u8;
    let seen = a.is_conforming() || a.dpl() >= x.s.cpl && a.dpl() >= rpl;
    Ok(seen.then_some(d))
}

fn set_zf(x: &mut Exec<'_>, zf: bool) {
    x.flags.replace(rflags::ZF, if zf { rflags::ZF } else { 0 });
}

fn lar<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    protected_only(x)?;
    let selector: u16 = x.get(i, 1)?;
    let long = x.is_long();
    let d = visible(x, selector)?.filter(|d| match d.system_kind() {
        None => true,
        Some(kind::LDT | kind::TSS32 | kind::TSS32_BUSY | kind::CALL32) => true,
        Some(kind::TSS16 | kind::TSS16_BUSY | kind::CALL16 | kind::TASK) => !long,
        _ => false,
    });
    if let Some(d) = d {
        let rights = d.raw >> 32 & 0x00f0_ff00;
        x.set_reg(i.ops[0], T::from_u64(rights));
    }
    set_zf(x, d.is_some());
    Ok(())
}

fn lsl<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    protected_only(x)?;
    let selector: u16 = x.get(i, 1)?;
    let long = x.is_long();
    let d = visible(x, selector)?.filter(|d| match d.system_kind() {
        None => true,
        Some(kind::LDT | kind::TSS32 | kind::TSS32_BUSY) => true,
        Some(kind::TSS16 | kind::TSS16_BUSY) => !long,
        _ => false,
    });
    if let Some(d) = d {
        x.set_reg(i.ops[0], T::from_u64(d.limit().into()));
    }
    set_zf(x, d.is_some());
    Ok(())
}

fn verr(x: &mut Exec<'_>, i: &Insn) -> Done {
    protected_only(x)?;
    let selector: u16 = x.get(i, 0)?;
    let d = visible(x, selector)?;
    set_zf(x, d.is_some_and(|d| d.attributes().is_readable()));
    Ok(())
}

fn verw(x: &mut Exec<'_>, i: &Insn) -> Done {
    protected_only(x)?;
    let selector: u16 = x.get(i, 0)?;
    let d = visible(x, selector)?;
    set_zf(x, d.is_some_and(|d| d.attributes().is_writable()));
    Ok(())
}

fn arpl(x: &mut Exec<'_>, i: &Insn) -> Done {
    protected_only(x)?;
    let source = x.reg::<u16>(i.ops[1]) & 3;
    // Nothing is written, nor asked whether it may be, if nothing changes.
    let old = x.get::<u16>(i, 0)?;
    if old & 3 < source {
        x.set(i, 0, old & !3 | source)?;
    }
    set_zf(x, old & 3 < source);
    Ok(())
}

// Model-specific registers, CPUID, time

fn edx_eax(x: &Exec<'_>) -> u64 {
    x.reg::<u64>(2) << 32 | u64::from(x.reg::<u32>(0))
}

fn set_edx_eax(x: &mut Exec<'_>, value: u64) {
    x.set_reg(0, value as u32);
    x.set_reg(2, (value >> 32) as u32);
}

fn rdmsr(x: &mut Exec<'_>, _: &Insn) -> Done {
    let index = x.reg::<u32>(1);
    let value = x.read_msr(index)?;
    set_edx_eax(x, value);
    Ok(())
}

fn wrmsr(x: &mut Exec<'_>, _: &Insn) -> Done {
    let (index, value) = (x.reg::<u32>(1), edx_eax(x));
    x.write_msr(index, value)
}

fn cpuid(x: &mut Exec<'_>, _: &Insn) -> Done {
    let (leaf, subleaf) = (x.reg::<u32>(0), x.reg::<u32>(1));
    let view = crate::cpuid::View {
        id: x.id,
        osxsave: x.s.cr4 & cr4::OSXSAVE != 0,
        xcr0: x.s.xcr0,
    };
    let [a, b, c, d] = x.model.cpuid(leaf, subleaf, &view);
    x.set_reg(0, a);
    x.set_reg(3, b);
    x.set_reg(1, c);
    x.set_reg(2, d);
    Ok(())
}

fn tsc_allowed(x: &Exec<'_>) -> Done {
    if x.s.cr4 & cr4::TSD != 0 && x.s.cpl != 0 {
        return Err(Trap::GP0);
    }
    Ok(())
}

fn rdtsc(x: &mut Exec<'_>, _: &Insn) -> Done {
    tsc_allowed(x)?;
    let value = x.read_tsc();
    set_edx_eax(x, value);
    Ok(())
}

fn rdtscp(x: &mut Exec<'_>, i: &Insn) -> Done {
    rdtsc(x, i)?;
    let aux = x.s.msr.tsc_aux as u32;
    x.set_reg(1, aux);
    Ok(())
}

fn rdpid(x: &mut Exec<'_>, i: &Insn) -> Done {
    let value = u64::from(x.s.msr.tsc_aux as u32);
    set_register(x, i.ops[0], value);
    Ok(())
}

fn rdpmc(_: &mut Exec<'_>, _: &Insn) -> Done {
    // No performance counter exists, so every index is wrong (and CR4.PCE says the same).
    Err(Trap::GP0)
}

fn random<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let value = x.entropy();
    x.set_reg(i.ops[0], T::from_u64(value));
    x.flags.replace(rflags::ARITHMETIC, rflags::CF);
    Ok(())
}

// Caches and TLB

fn invlpg(x: &mut Exec<'_>, i: &Insn) -> Done {
    let linear = x.linear_unchecked(i.seg, x.ea(i));
    x.cpu.tlb.flush_page(linear);
    x.attention |= attention::MODE;
    Ok(())
}

fn invpcid(x: &mut Exec<'_>, i: &Insn) -> Done {
    if x.is_v86() {
        return Err(Trap::GP0);
    }
    let which = register(x, i.ops[0]);
    let [low, linear] = x.read_quads::<2>(i.seg, x.ea(i), false)?;
    let pcid = (low & 0xfff) as u16;
    let pcide = x.s.cr4 & cr4::PCIDE != 0;
    if which > 3 || which < 2 && (low >> 12 != 0 || !pcide && pcid != 0) {
        return Err(Trap::GP0);
    }
    let current = if pcide { (x.s.cr3 & 0xfff) as u16 } else { 0 };
    match which {
        0 if !is_canonical(linear) => return Err(Trap::GP0),
        // Drops the page in every context: more than asked, never less.
        0 => x.cpu.tlb.flush_page(linear),
        1 => x.cpu.tlb.flush_pcid(pcid, current),
        _ => {
            if low >> 12 != 0 {
                return Err(Trap::GP0);
            }
            x.cpu.tlb.flush_all();
        }
    }
    x.attention |= attention::MODE;
    Ok(())
}

/// CLFLUSH, CLFLUSHOPT, CLWB: a read as far as faults go; guest memory is coherent.
fn clflush(x: &mut Exec<'_>, i: &Insn) -> Done {
    let at = x.ea(i);
    x.probe_read(i.seg, at, 1)
}

// AC

fn stac<const ON: bool>(x: &mut Exec<'_>, _: &Insn) -> Done {
    if x.s.cpl != 0 || x.is_v86() {
        return Err(Trap::UD);
    }
    if ON {
        x.s.rflags |= rflags::AC;
    } else {
        x.s.rflags &= !rflags::AC;
    }
    x.refresh();
    Ok(())
}

// FS and GS

fn fsgsbase(x: &Exec<'_>) -> Done {
    if x.s.cr4 & cr4::FSGSBASE == 0 || !x.is_64bit() {
        return Err(Trap::UD);
    }
    Ok(())
}

fn rdbase<T: Word, const N: usize>(x: &mut Exec<'_>, i: &Insn) -> Done {
    fsgsbase(x)?;
    let base = x.s.seg[N].base;
    x.set_reg(i.ops[0], T::from_u64(base));
    Ok(())
}

fn wrbase<T: Word, const N: usize>(x: &mut Exec<'_>, i: &Insn) -> Done {
    fsgsbase(x)?;
    let base = x.reg::<T>(i.ops[0]).to_u64();
    if !is_canonical(base) {
        return Err(Trap::GP0);
    }
    x.s.seg[N].base = base;
    x.refresh();
    Ok(())
}

fn swapgs(x: &mut Exec<'_>, _: &Insn) -> Done {
    let Exec { cpu, .. } = x;
    core::mem::swap(
        &mut cpu.s.seg[seg::GS as usize].base,
        &mut cpu.s.msr.kernel_gs_base,
    );
    x.refresh();
    Ok(())
}

// Fast system calls

fn flat_code(selector: u16, attributes: u16) -> Segment {
    Segment {
        selector,
        attributes: Attributes(attributes),
        limit: !0,
        base: 0,
    }
}

const CODE64: u16 = 0xa9b;
const CODE32: u16 = 0xc9b;
const DATA: u16 = 0xc93;
const DPL3: u16 = 0x60;

/// CS and SS become flat segments of privilege `cpl`.
fn flat(x: &mut Exec<'_>, cs: u16, ss: u16, long: bool, cpl: u8) {
    let dpl = if cpl == 3 { DPL3 } else { 0 };
    x.s.seg[seg::CS as usize] = flat_code(cs, if long { CODE64 } else { CODE32 } | dpl);
    x.s.seg[seg::SS as usize] = flat_code(ss, DATA | dpl);
    x.s.cpl = cpl;
}

fn syscall(x: &mut Exec<'_>, _: &Insn) -> Done {
    if !x.is_64bit() || x.s.efer & efer::SCE == 0 {
        return Err(Trap::UD);
    }
    let flags = x.rflags();
    let next = x.next;
    x.set_reg(gpr::RCX as u8, next);
    x.set_reg(11, flags & !rflags::RF);
    let cs = (x.s.msr.star >> 32) as u16 & !3;
    flat(x, cs, cs.wrapping_add(8), true, 0);
    x.next = x.s.msr.lstar;
    let clear = x.s.msr.sfmask | rflags::RF | rflags::VM;
    x.set_rflags(flags & !clear);
    x.refresh();
    Ok(())
}

fn sysret<const WIDE: bool>(x: &mut Exec<'_>, _: &Insn) -> Done {
    if !x.is_64bit() || x.s.efer & efer::SCE == 0 {
        return Err(Trap::UD);
    }
    if x.s.cpl != 0 {
        return Err(Trap::GP0);
    }
    let rip = x.reg::<u64>(gpr::RCX as u8);
    // Intel checks in ring 0, and so do we.
    if WIDE && !is_canonical(rip) {
        return Err(Trap::GP0);
    }
    let base = (x.s.msr.star >> 48) as u16;
    let cs = if WIDE { base.wrapping_add(16) } else { base } | 3;
    flat(x, cs, base.wrapping_add(8) | 3, WIDE, 3);
    x.next = if WIDE { rip } else { rip & 0xffff_ffff };
    let flags = x.reg::<u64>(11) & 0x3c_7fd7;
    x.set_rflags(flags);
    x.refresh();
    Ok(())
}

fn sysenter(x: &mut Exec<'_>, _: &Insn) -> Done {
    let cs = x.s.msr.sysenter_cs as u16 & !3;
    if x.s.cr0 & cr0::PE == 0 || cs == 0 {
        return Err(Trap::GP0);
    }
    let long = x.is_long();
    let mask = if long { !0 } else { 0xffff_ffff };
    x.s.gpr[gpr::RSP] = x.s.msr.sysenter_esp & mask;
    x.next = x.s.msr.sysenter_eip & mask;
    flat(x, cs, cs.wrapping_add(8), long, 0);
    let flags = x.rflags() & !(rflags::VM | rflags::IF | rflags::RF);
    x.set_rflags(flags);
    x.refresh();
    Ok(())
}

fn sysexit<const WIDE: bool>(x: &mut Exec<'_>, _: &Insn) -> Done {
    let cs = x.s.msr.sysenter_cs as u16 & !3;
    if x.s.cr0 & cr0::PE == 0 || cs == 0 || x.s.cpl != 0 {
        return Err(Trap::GP0);
    }
    let (rsp, rip) = (x.reg::<u64>(1), x.reg::<u64>(2));
    if WIDE && !(is_canonical(rsp) && is_canonical(rip)) {
        return Err(Trap::GP0);
    }
    let (code, mask) = if WIDE { (32, !0) } else { (16, 0xffff_ffff) };
    let cs = cs.wrapping_add(code) | 3;
    flat(x, cs, cs.wrapping_add(8), WIDE, 3);
    x.s.gpr[gpr::RSP] = rsp & mask;
    x.next = rip & mask;
    x.refresh();
    Ok(())
}

const fn row(code: Code, run: crate::insn::Handler) -> Row {
    Row::new(code, run)
}

pub(crate) const ROWS: &[Row] = &[
    row(Code::Hlt, hlt).cpl0(),
    row(Code::Mov_r32_cr, mov_from_cr).cpl0(),
    row(Code::Mov_r64_cr, mov_from_cr).cpl0(),
    row(Code::Mov_cr_r32, mov_to_cr).cpl0(),
    row(Code::Mov_cr_r64, mov_to_cr).cpl0(),
    row(Code::Mov_r32_dr, mov_from_dr).cpl0(),
    row(Code::Mov_r64_dr, mov_from_dr).cpl0(),
    row(Code::Mov_dr_r32, mov_to_dr).cpl0(),
    row(Code::Mov_dr_r64, mov_to_dr).cpl0(),
    row(Code::Clts, clts).cpl0(),
    row(Code::Lmsw_rm16, lmsw).cpl0(),
    row(Code::Lmsw_r32m16, lmsw).cpl0(),
    row(Code::Lmsw_r64m16, lmsw).cpl0(),
    row(Code::Smsw_rm16, smsw::<u16>).checked().behaviour(),
    row(Code::Smsw_r32m16, smsw::<u32>).checked().behaviour(),
    row(Code::Smsw_r64m16, smsw::<u64>).checked().behaviour(),
    row(Code::Sgdt_m1632_16, store_table::<true>)
        .checked()
        .behaviour(),
    row(Code::Sgdt_m1632, store_table::<true>)
        .checked()
        .behaviour(),
    row(Code::Sgdt_m1664, store_table::<true>)
        .checked()
        .behaviour(),
    row(Code::Sidt_m1632_16, store_table::<false>)
        .checked()
        .behaviour(),
    row(Code::Sidt_m1632, store_table::<false>)
        .checked()
        .behaviour(),
    row(Code::Sidt_m1664, store_table::<false>)
        .checked()
        .behaviour(),
    row(Code::Lgdt_m1632_16, load_table::<true, 0xff_ffff>).cpl0(),
    row(Code::Lgdt_m1632, load_table::<true, 0xffff_ffff>).cpl0(),
    row(Code::Lgdt_m1664, load_table::<true, 0>).cpl0(),
    row(Code::Lidt_m1632_16, load_table::<false, 0xff_ffff>).cpl0(),
    row(Code::Lidt_m1632, load_table::<false, 0xffff_ffff>).cpl0(),
    row(Code::Lidt_m1664, load_table::<false, 0>).cpl0(),
    row(Code::Sldt_rm16, sldt::<u16>).checked().behaviour(),
    row(Code::Sldt_r32m16, sldt::<u32>).checked().behaviour(),
    row(Code::Sldt_r64m16, sldt::<u64>).checked().behaviour(),
    row(Code::Str_rm16, str::<u16>).checked().behaviour(),
    row(Code::Str_r32m16, str::<u32>).checked().behaviour(),
    row(Code::Str_r64m16, str::<u64>).checked().behaviour(),
    row(Code::Lldt_rm16, lldt).checked().control(),
    row(Code::Lldt_r32m16, lldt).checked().control(),
    row(Code::Lldt_r64m16, lldt).checked().control(),
    row(Code::Ltr_rm16, ltr).checked().control(),
    row(Code::Ltr_r32m16, ltr).checked().control(),
    row(Code::Ltr_r64m16, ltr).checked().control(),
    row(Code::Lar_r16_rm16, lar::<u16>).checked().behaviour(),
    row(Code::Lar_r32_r32m16, lar::<u32>).checked().behaviour(),
    row(Code::Lar_r64_r64m16, lar::<u64>).checked().behaviour(),
    row(Code::Lsl_r16_rm16, lsl::<u16>).checked().behaviour(),
    row(Code::Lsl_r32_r32m16, lsl::<u32>).checked().behaviour(),
    row(Code::Lsl_r64_r64m16, lsl::<u64>).checked().behaviour(),
    row(Code::Verr_rm16, verr).checked().behaviour(),
    row(Code::Verr_r32m16, verr).checked().behaviour(),
    row(Code::Verr_r64m16, verr).checked().behaviour(),
    row(Code::Verw_rm16, verw).checked().behaviour(),
    row(Code::Verw_r32m16, verw).checked().behaviour(),
    row(Code::Verw_r64m16, verw).checked().behaviour(),
    row(Code::Arpl_rm16_r16, arpl).checked(),
    row(Code::Arpl_r32m16_r32, arpl).checked(),
    row(Code::Rdmsr, rdmsr).cpl0(),
    row(Code::Wrmsr, wrmsr).cpl0(),
    row(Code::Cpuid, cpuid).behaviour(),
    row(Code::Rdtsc, rdtsc).checked().behaviour(),
    row(Code::Rdtscp, rdtscp).checked().behaviour(),
    row(Code::Rdpid_r32, rdpid).behaviour(),
    row(Code::Rdpid_r64, rdpid).behaviour(),
    row(Code::Rdpmc, rdpmc).checked().behaviour(),
    row(Code::Rdrand_r16, random::<u16>).behaviour(),
    row(Code::Rdrand_r32, random::<u32>).behaviour(),
    row(Code::Rdrand_r64, random::<u64>).behaviour(),
    row(Code::Rdseed_r16, random::<u16>).behaviour(),
    row(Code::Rdseed_r32, random::<u32>).behaviour(),
    row(Code::Rdseed_r64, random::<u64>).behaviour(),
    row(Code::Invlpg_m, invlpg).cpl0(),
    row(Code::Invpcid_r32_m128, invpcid).cpl0(),
    row(Code::Invpcid_r64_m128, invpcid).cpl0(),
    row(Code::Invd, nop).cpl0(),
    row(Code::Wbinvd, nop).cpl0(),
    row(Code::Wbnoinvd, nop).cpl0(),
    row(Code::Clflush_m8, clflush),
    row(Code::Clflushopt_m8, clflush),
    row(Code::Clwb_m8, clflush),
    row(Code::Stac, stac::<true>).checked().control(),
    row(Code::Clac, stac::<false>).checked().control(),
    row(Code::Rdfsbase_r32, rdbase::<u32, 4>)
        .checked()
        .behaviour(),
    row(Code::Rdfsbase_r64, rdbase::<u64, 4>)
        .checked()
        .behaviour(),
    row(Code::Rdgsbase_r32, rdbase::<u32, 5>)
        .checked()
        .behaviour(),
    row(Code::Rdgsbase_r64, rdbase::<u64, 5>)
        .checked()
        .behaviour(),
    row(Code::Wrfsbase_r32, wrbase::<u32, 4>)
        .checked()
        .control(),
    row(Code::Wrfsbase_r64, wrbase::<u64, 4>)
        .checked()
        .control(),
    row(Code::Wrgsbase_r32, wrbase::<u32, 5>)
        .checked()
        .control(),
    row(Code::Wrgsbase_r64, wrbase::<u64, 5>)
        .checked()
        .control(),
    row(Code::Swapgs, swapgs).cpl0(),
    row(Code::Syscall, syscall).checked().control(),
    row(Code::Sysretd, sysret::<false>).checked().control(),
    row(Code::Sysretq, sysret::<true>).checked().control(),
    row(Code::Sysenter, sysenter).checked().control(),
    row(Code::Sysexitd, sysexit::<false>).checked().control(),
    row(Code::Sysexitq, sysexit::<true>).checked().control(),
    // SMM does not exist here.
    row(Code::Rsm, undefined).checked().control(),
    row(Code::Ud2, undefined),
    row(Code::Ud0, undefined),
    row(Code::Ud0_r16_rm16, undefined),
    row(Code::Ud0_r32_rm32, undefined),
    row(Code::Ud0_r64_rm64, undefined),
    row(Code::Ud1_r16_rm16, undefined),
    row(Code::Ud1_r32_rm32, undefined),
    row(Code::Ud1_r64_rm64, undefined),
    row(Code::Pause, nop),
    row(Code::Nopw, nop),
    row(Code::Nopd, nop),
    row(Code::Nopq, nop),
    row(Code::Nop_rm16, nop),
    row(Code::Nop_rm32, nop),
    row(Code::Nop_rm64, nop),
    row(Code::Endbr32, nop),
    row(Code::Endbr64, nop),
    row(Code::Rdsspd_r32, nop),
    row(Code::Rdsspq_r64, nop),
    row(Code::Cldemote_m8, nop),
    row(Code::Prefetchit0_m8, nop),
    row(Code::Prefetchit1_m8, nop),
    row(Code::Prefetchnta_m8, nop),
    row(Code::Prefetcht0_m8, nop),
    row(Code::Prefetcht1_m8, nop),
    row(Code::Prefetcht2_m8, nop),
    row(Code::Prefetch_m8, nop),
    row(Code::Prefetchw_m8, nop),
    row(Code::Prefetchwt1_m8, nop),
    row(Code::Prefetchreserved3_m8, nop),
    row(Code::Prefetchreserved4_m8, nop),
    row(Code::Prefetchreserved5_m8, nop),
    row(Code::Prefetchreserved6_m8, nop),
    row(Code::Prefetchreserved7_m8, nop),
    row(Code::Lfence, nop),
    row(Code::Mfence, mfence),
    row(Code::Sfence, nop),
    row(Code::Reservednop_rm16_r16_0F0D, nop),
    row(Code::Reservednop_rm32_r32_0F0D, nop),
    row(Code::Reservednop_rm64_r64_0F0D, nop),
    row(Code::Reservednop_rm16_r16_0F18, nop),
    row(Code::Reservednop_rm32_r32_0F18, nop),
    row(Code::Reservednop_rm64_r64_0F18, nop),
    row(Code::Reservednop_rm16_r16_0F19, nop),
    row(Code::Reservednop_rm32_r32_0F19, nop),
    row(Code::Reservednop_rm64_r64_0F19, nop),
    row(Code::Reservednop_rm16_r16_0F1A, nop),
    row(Code::Reservednop_rm32_r32_0F1A, nop),
    row(Code::Reservednop_rm64_r64_0F1A, nop),
    row(Code::Reservednop_rm16_r16_0F1B, nop),
    row(Code::Reservednop_rm32_r32_0F1B, nop),
    row(Code::Reservednop_rm64_r64_0F1B, nop),
    row(Code::Reservednop_rm16_r16_0F1C, nop),
    row(Code::Reservednop_rm32_r32_0F1C, nop),
    row(Code::Reservednop_rm64_r64_0F1C, nop),
    row(Code::Reservednop_rm16_r16_0F1D, nop),
    row(Code::Reservednop_rm32_r32_0F1D, nop),
    row(Code::Reservednop_rm64_r64_0F1D, nop),
    row(Code::Reservednop_rm16_r16_0F1E, nop),
    row(Code::Reservednop_rm32_r32_0F1E, nop),
    row(Code::Reservednop_rm64_r64_0F1E, nop),
    row(Code::Reservednop_rm16_r16_0F1F, nop),
    row(Code::Reservednop_rm32_r32_0F1F, nop),
    row(Code::Reservednop_rm64_r64_0F1F, nop),
    row(Code::Lfence_E9, nop),
    row(Code::Lfence_EA, nop),
    row(Code::Lfence_EB, nop),
    row(Code::Lfence_EC, nop),
    row(Code::Lfence_ED, nop),
    row(Code::Lfence_EE, nop),
    row(Code::Lfence_EF, nop),
    row(Code::Mfence_F1, mfence),
    row(Code::Mfence_F2, mfence),
    row(Code::Mfence_F3, mfence),
    row(Code::Mfence_F4, mfence),
    row(Code::Mfence_F5, mfence),
    row(Code::Mfence_F6, mfence),
    row(Code::Mfence_F7, mfence),
    row(Code::Sfence_F9, nop),
    row(Code::Sfence_FA, nop),
    row(Code::Sfence_FB, nop),
    row(Code::Sfence_FC, nop),
    row(Code::Sfence_FD, nop),
    row(Code::Sfence_FE, nop),
    row(Code::Sfence_FF, nop),
];
