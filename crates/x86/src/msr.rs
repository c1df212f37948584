//! The model-specific registers the processor itself owns, as one table (SDM volume 4). What is
//! not here goes to the machine through [`crate::Bus::msr_read`]; what nobody knows raises #GP.
//!
//! The list is what stock Linux, BSD and Windows kernels touch without a net on an Intel
//! processor with our CPUID. Machine checks: the capability register says there are no banks.

use crate::cpuid::Feature;
use crate::exec::Exec;
use crate::mmu::is_canonical;
use crate::state::{Msrs, cr0, efer, seg};
use crate::trap::{Done, Trap};

/// Reads one register.
type Read = fn(&mut Exec<'_>) -> u64;
/// Writes one; `false` raises #GP(0).
type Write = fn(&mut Exec<'_>, u64) -> bool;

/// One register.
pub struct Msr {
    /// Its number.
    pub index: u32,
    /// The manual's name.
    pub name: &'static str,
    /// The feature it comes with.
    needs: Option<Feature>,
    read: Option<Read>,
    write: Option<Write>,
}

const fn msr(index: u32, name: &'static str, read: Read, write: Write) -> Msr {
    Msr {
        index,
        name,
        needs: None,
        read: Some(read),
        write: Some(write),
    }
}

const fn read_only(index: u32, name: &'static str, read: Read) -> Msr {
    Msr {
        index,
        name,
        needs: None,
        read: Some(read),
        write: None,
    }
}

impl Msr {
    const fn needs(mut self, feature: Feature) -> Msr {
        self.needs = Some(feature);
        self
    }
}

/// A register that is a plain field, with the bits that may be written.
macro_rules! field {
    ($index:literal $name:literal $field:ident $mask:expr) => {
        msr(
            $index,
            $name,
            |x| x.s.msr.$field,
            |x, v| {
                let ok = v & !($mask as u64) == 0;
                if ok {
                    x.s.msr.$field = v;
                }
                ok
            },
        )
    };
}

/// A register that holds a canonical address.
macro_rules! address {
    ($index:literal $name:literal $field:ident) => {
        msr(
            $index,
            $name,
            |x| x.s.msr.$field,
            |x, v| {
                let ok = is_canonical(v);
                if ok {
                    x.s.msr.$field = v;
                }
                ok
            },
        )
    };
}

fn segment_base(x: &mut Exec<'_>, n: u8, value: u64) -> bool {
    if !is_canonical(value) {
        return false;
    }
    x.s.seg[usize::from(n)].base = value;
    x.refresh();
    true
}

fn write_efer(x: &mut Exec<'_>, value: u64) -> bool {
    let old = x.s.efer;
    let changed = value ^ old;
    if value & !x.model.efer_bits() != 0 || changed & efer::LME != 0 && x.s.cr0 & cr0::PG != 0 {
        return false;
    }
    // LMA is the processor's own.
    x.s.efer = value & !efer::LMA | old & efer::LMA;
    if changed & efer::NXE != 0 {
        x.cpu.tlb.flush_all();
    }
    x.refresh();
    true
}

/// UC, WC, WT, WP, WB.
fn is_memory_type(value: u8) -> bool {
    matches!(value, 0 | 1 | 4 | 5 | 6)
}

fn write_pat(x: &mut Exec<'_>, value: u64) -> bool {
    // A PAT entry may also be UC- (7).
    let ok = value
        .to_le_bytes()
        .iter()
        .all(|&t| is_memory_type(t) || t == 7);
    if ok {
        x.s.msr.pat = value;
    }
    ok
}

fn write_spec_ctrl(x: &mut Exec<'_>, value: u64) -> bool {
    // IBRS and STIBP; SSBD; BHI_DIS_S.
    let bits = [
        (Feature::SpecCtrl, 3),
        (Feature::Ssbd, 1 << 2),
        (Feature::BhiCtrl, 1 << 10),
    ];
    let given = bits.iter().filter(|(f, _)| x.model.feature(*f));
    let ok = value & !given.fold(0, |all, (_, bits)| all | bits) == 0;
    if ok {
        x.s.msr.spec_ctrl = value;
    }
    ok
}

/// IA32_ARCH_CAPABILITIES: what a processor says of the faults of speculation. Who is told what,
/// and why: `docs/decisions/speculation.md`.
pub mod arch_capabilities {
    const RDCL_NO: u64 = 1;
    const IBRS_ALL: u64 = 1 << 1;
    const RSBA: u64 = 1 << 2;
    const SKIP_L1DFL: u64 = 1 << 3;
    const SSB_NO: u64 = 1 << 4;
    const MDS_NO: u64 = 1 << 5;
    const PSCHANGE_MC_NO: u64 = 1 << 6;
    const TAA_NO: u64 = 1 << 8;
    const SBDR_SSDP_NO: u64 = 1 << 13;
    const FBSDP_NO: u64 = 1 << 14;
    const PSDP_NO: u64 = 1 << 15;
    const FB_CLEAR: u64 = 1 << 17;
    const RRSBA: u64 = 1 << 19;
    const BHI_NO: u64 = 1 << 20;
    const PBRSB_NO: u64 = 1 << 24;
    const GDS_NO: u64 = 1 << 26;
    const RFDS_NO: u64 = 1 << 27;
    const RFDS_CLEAR: u64 = 1 << 28;
    /// No processor has this bit: it is how a hypervisor tells a guest (Linux `msr-index.h`).
    const ITS_NO: u64 = 1 << 62;

    /// Every immunity: of a guest whose instructions we translate or interpret.
    pub const IMMUNE: u64 = RDCL_NO
        | IBRS_ALL
        | SKIP_L1DFL
        | SSB_NO
        | MDS_NO
        | PSCHANGE_MC_NO
        | TAA_NO
        | SBDR_SSDP_NO
        | FBSDP_NO
        | PSDP_NO
        | BHI_NO
        | PBRSB_NO
        | GDS_NO
        | RFDS_NO
        | ITS_NO;

    /// No immunities: that return predictions may come from elsewhere, and what VERW clears.
    pub const OF_HARDWARE: u64 = RSBA | FB_CLEAR | RRSBA | RFDS_CLEAR;
}

/// BTS and PEBS are unavailable: read-only ones in IA32_MISC_ENABLE.
const MISC_ENABLE_FIXED: u64 = 3 << 11;
/// Fast strings, EIST, MONITOR, CPUID limit, xTPR, XD disable: kept, without effect.
const MISC_ENABLE_WRITABLE: u64 =
    1 | 1 << 3 | 1 << 7 | 1 << 16 | 1 << 18 | 1 << 22 | 1 << 23 | 1 << 34;

/// The registers, in ascending order.
pub static MSRS: &[Msr] = &[
    msr(
        0x10,
        "IA32_TIME_STAMP_COUNTER",
        |x| x.read_tsc(),
        |x, v| {
            x.s.msr.tsc_adjust = v.wrapping_sub(x.bus.tsc());
            true
        },
    ),
    read_only(0x17, "IA32_PLATFORM_ID", |_| 0),
    msr(0x2a, "EBL_CR_POWERON", |_| 0, |_, _| true),
    read_only(0x34, "MSR_SMI_COUNT", |_| 0),
    // Locked, without VMX.
    read_only(0x3a, "IA32_FEATURE_CONTROL", |_| 1),
    field!(0x3b "IA32_TSC_ADJUST" tsc_adjust !0u64).needs(Feature::TscAdjust),
    msr(
        0x48,
        "IA32_SPEC_CTRL",
        |x| x.s.msr.spec_ctrl,
        write_spec_ctrl,
    )
    .needs(Feature::SpecCtrl),
    Msr {
        index: 0x49,
        name: "IA32_PRED_CMD",
        needs: Some(Feature::SpecCtrl),
        read: None,
        write: Some(|_, v| v & !1 == 0),
    },
    msr(0x79, "IA32_BIOS_UPDT_TRIG", |_| 0, |_, _| true),
    // Microcode revision 1; writing is how software asks for it.
    msr(0x8b, "IA32_BIOS_SIGN_ID", |_| 1 << 32, |_, _| true),
    // The ratio of the TSC to 100 MHz.
    read_only(0xce, "MSR_PLATFORM_INFO", |x| {
        (x.model.tsc_hz / 100_000_000) << 8
    }),
    // 8 variable ranges, fixed ranges, WC.
    read_only(0xfe, "IA32_MTRRCAP", |_| 0x508),
    read_only(0x10a, "IA32_ARCH_CAPABILITIES", |x| {
        x.model.arch_capabilities
    })
    .needs(Feature::ArchCapabilities),
    msr(0x140, "MISC_FEATURE_ENABLES", |_| 0, |_, v| v == 0),
    field!(0x174 "IA32_SYSENTER_CS" sysenter_cs !0u64),
    address!(0x175 "IA32_SYSENTER_ESP" sysenter_esp),
    address!(0x176 "IA32_SYSENTER_EIP" sysenter_eip),
    read_only(0x179, "IA32_MCG_CAP", |_| 0),
    field!(0x17a "IA32_MCG_STATUS" mcg_status 7u64),
    msr(0x198, "IA32_PERF_STATUS", |_| 10 << 8, |_, _| false),
    msr(0x199, "IA32_PERF_CTL", |_| 10 << 8, |_, _| true),
    msr(0x19a, "IA32_CLOCK_MODULATION", |_| 0, |_, v| v == 0),
    msr(0x19b, "IA32_THERM_INTERRUPT", |_| 0, |_, _| true),
    msr(0x19c, "IA32_THERM_STATUS", |_| 0, |_, _| true),
    msr(
        0x1a0,
        "IA32_MISC_ENABLE",
        |x| x.s.msr.misc_enable | MISC_ENABLE_FIXED,
        |x, v| {
            let ok = v & !(MISC_ENABLE_WRITABLE | MISC_ENABLE_FIXED) == 0;
            if ok {
                x.s.msr.misc_enable = v & MISC_ENABLE_WRITABLE;
            }
            ok
        },
    ),
    // No branch records and no single step on branches.
    msr(0x1d9, "IA32_DEBUGCTL", |_| 0, |_, v| v == 0),
    msr(0x277, "IA32_PAT", |x| x.s.msr.pat, write_pat),
    field!(0xc000_0081 "IA32_STAR" star !0u64),
    address!(0xc000_0082 "IA32_LSTAR" lstar),
    address!(0xc000_0083 "IA32_CSTAR" cstar),
    field!(0xc000_0084 "IA32_FMASK" sfmask 0xffff_ffffu64),
    msr(0xc000_0080, "IA32_EFER", |x| x.s.efer, write_efer),
    msr(
        0xc000_0100,
        "IA32_FS_BASE",
        |x| x.s.seg[seg::FS as usize].base,
        |x, v| segment_base(x, seg::FS, v),
    ),
    msr(
        0xc000_0101,
        "IA32_GS_BASE",
        |x| x.s.seg[seg::GS as usize].base,
        |x, v| segment_base(x, seg::GS, v),
    ),
    address!(0xc000_0102 "IA32_KERNEL_GS_BASE" kernel_gs_base),
    field!(0xc000_0103 "IA32_TSC_AUX" tsc_aux 0xffff_ffffu64).needs(Feature::Rdtscp),
    msr(0xda0, "IA32_XSS", |_| 0, |_, v| v == 0).needs(Feature::Xsaves),
];

/// The memory-type range registers: their place in [`Msrs`], if `index` is one.
fn mtrr(m: &mut Msrs, index: u32) -> Option<&mut u64> {
    Some(match index {
        0x200..=0x20f => &mut m.mtrr_variable[(index - 0x200) as usize / 2][index as usize & 1],
        0x250 => &mut m.mtrr_fixed[0],
        0x258 | 0x259 => &mut m.mtrr_fixed[(index - 0x257) as usize],
        0x268..=0x26f => &mut m.mtrr_fixed[(index - 0x265) as usize],
        0x2ff => &mut m.mtrr_def_type,
        _ => return None,
    })
}

/// True if `value` may be written to MTRR `index`.
fn mtrr_accepts(index: u32, value: u64, physical_bits: u32) -> bool {
    let beyond = !0u64 << physical_bits;
    match index {
        0x200..=0x20f if index & 1 == 0 => {
            is_memory_type(value as u8) && value & (beyond | 0xf00) == 0
        }
        0x200..=0x20f => value & (beyond | 0x7ff) == 0,
        0x2ff => is_memory_type(value as u8) && value & !0xcff == 0,
        _ => value.to_le_bytes().iter().all(|&t| is_memory_type(t)),
    }
}

impl Exec<'_> {
    /// The time-stamp counter as the guest sees it.
    pub(crate) fn read_tsc(&mut self) -> u64 {
        self.bus.tsc().wrapping_add(self.s.msr.tsc_adjust)
    }

    /// RDMSR; an unknown register raises #GP(0).
    pub fn read_msr(&mut self, index: u32) -> Done<u64> {
        if let Some(value) = mtrr(&mut self.s.msr, index) {
            return Ok(*value);
        }
        match self.find_msr(index) {
            Some(msr) => match msr.read {
                Some(read) => Ok(read(self)),
                None => Err(Trap::GP0),
            },
            None => self.bus.msr_read(index).ok_or(Trap::GP0),
        }
    }

    /// WRMSR; an unknown register, a read-only one, or a value with reserved bits raises #GP(0).
    pub fn write_msr(&mut self, index: u32, value: u64) -> Done {
        let physical_bits = self.model.physical_bits;
        let done = if let Some(place) = mtrr(&mut self.s.msr, index) {
            let ok = mtrr_accepts(index, value, physical_bits);
            if ok {
                *place = value;
            }
            ok
        } else {
            match self.find_msr(index) {
                Some(msr) => msr.write.is_some_and(|write| write(self, value)),
                None => {
                    let ok = self.bus.msr_write(index, value);
                    // An APIC register may have let an interrupt through.
                    self.attention |= crate::exec::attention::EVENTS;
                    ok
                }
            }
        };
        if done { Ok(()) } else { Err(Trap::GP0) }
    }

    fn find_msr(&self, index: u32) -> Option<&'static Msr> {
        MSRS.iter()
            .find(|m| m.index == index && m.needs.is_none_or(|f| self.model.feature(f)))
    }
}
