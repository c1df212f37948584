//! CPU models and CPUID as tables (SDM volume 2, "CPUID—CPU Identification").
//!
//! Three named models, the psABI levels, each with the system features a modern kernel expects:
//! the `level` column of [`FEATURES`] says which model has what. They behave as Intel's do
//! (SYSRET, SYSENTER, BSF), with a family and model number no kernel has a special case for.
//!
//! The TSC runs at [`TSC_HZ`]. Linux takes that from leaf 0x15 (`native_calibrate_tsc`, on any
//! "GenuineIntel" processor with that leaf), which also tells it the local APIC timer's input
//! frequency: the crystal's. Kernels that don't know the leaf calibrate against the PIT or HPET,
//! or read leaf 0x4000_0010.

use crate::msr::arch_capabilities;
use alloc::string::String;
use alloc::vec::Vec;
use iced_x86::{Code, CpuidFeature, DecoderOptions};

/// Ticks of the time-stamp counter per second, in every model.
pub const TSC_HZ: u64 = 1_000_000_000;

/// Input frequency of the local APIC timer, which leaf 0x15 states as the core crystal clock.
pub const CRYSTAL_HZ: u64 = 1_000_000_000;

/// Where CPUID reports a feature.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Word {
    Edx1,
    Ecx1,
    Eax6,
    Ebx7,
    Ecx7,
    Edx7,
    Edx7_2,
    EaxD1,
    Ecx8001,
    Edx8001,
    Edx8007,
}

impl Word {
    /// Leaf, subleaf, and which of EAX, EBX, ECX, EDX.
    fn place(self) -> (u32, u32, usize) {
        match self {
            Word::Edx1 => (1, 0, 3),
            Word::Ecx1 => (1, 0, 2),
            Word::Eax6 => (6, 0, 0),
            Word::Ebx7 => (7, 0, 1),
            Word::Ecx7 => (7, 0, 2),
            Word::Edx7 => (7, 0, 3),
            Word::Edx7_2 => (7, 2, 3),
            Word::EaxD1 => (0xd, 1, 0),
            Word::Ecx8001 => (0x8000_0001, 0, 2),
            Word::Edx8001 => (0x8000_0001, 0, 3),
            Word::Edx8007 => (0x8000_0007, 0, 3),
        }
    }
}

/// The first model that has a feature.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Level {
    V1,
    V2,
    V3,
    /// Implemented, in no named model.
    Extra,
}

macro_rules! features {
    ($($name:ident $word:ident $bit:literal $level:ident [$($iced:ident)*])*) => {
        /// A feature that CPUID reports, under the manual's name.
        #[allow(missing_docs)]
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u8)]
        pub enum Feature { $($name),* }

        struct FeatureRow {
            feature: Feature,
            word: Word,
            bit: u8,
            level: Level,
            /// The instructions it brings, in iced's terms.
            iced: &'static [CpuidFeature],
        }

        static FEATURES: &[FeatureRow] = &[$(FeatureRow {
            feature: Feature::$name,
            word: Word::$word,
            bit: $bit,
            level: Level::$level,
            iced: &[$(CpuidFeature::$iced),*],
        }),*];
    };
}

features! {
    Fpu Edx1 0 V1 [FPU FPU287 FPU387]
    Vme Edx1 1 V1 []
    De Edx1 2 V1 []
    Pse Edx1 3 V1 []
    Tsc Edx1 4 V1 [TSC]
    Msr Edx1 5 V1 [MSR]
    Pae Edx1 6 V1 []
    Mce Edx1 7 V1 []
    Cx8 Edx1 8 V1 [CX8]
    Apic Edx1 9 V1 []
    Sep Edx1 11 V1 [SEP]
    Mtrr Edx1 12 V1 []
    Pge Edx1 13 V1 []
    Mca Edx1 14 V1 []
    Cmov Edx1 15 V1 [CMOV]
    Pat Edx1 16 V1 []
    Pse36 Edx1 17 V1 []
    Clfsh Edx1 19 V1 [CLFSH]
    Mmx Edx1 23 V1 [MMX]
    Fxsr Edx1 24 V1 [FXSR]
    Sse Edx1 25 V1 [SSE]
    Sse2 Edx1 26 V1 [SSE2]
    Sse3 Ecx1 0 V2 [SSE3]
    Pclmulqdq Ecx1 1 V2 [PCLMULQDQ]
    Ssse3 Ecx1 9 V2 [SSSE3]
    Fma Ecx1 12 V3 [FMA]
    Cx16 Ecx1 13 V2 [CMPXCHG16B]
    Pcid Ecx1 17 V2 []
    Sse41 Ecx1 19 V2 [SSE4_1]
    Sse42 Ecx1 20 V2 [SSE4_2]
    X2apic Ecx1 21 V1 []
    Movbe Ecx1 22 V3 [MOVBE]
    Popcnt Ecx1 23 V2 [POPCNT]
    TscDeadline Ecx1 24 V1 []
    Aes Ecx1 25 V2 [AES]
    Xsave Ecx1 26 V3 [XSAVE]
    Avx Ecx1 28 V3 [AVX]
    F16c Ecx1 29 V3 [F16C]
    Rdrand Ecx1 30 V3 [RDRAND]
    Hypervisor Ecx1 31 V1 []
    Arat Eax6 2 V1 []
    Fsgsbase Ebx7 0 V3 [FSGSBASE]
    TscAdjust Ebx7 1 V1 []
    Bmi1 Ebx7 3 V3 [BMI1]
    Avx2 Ebx7 5 V3 [AVX2]
    FdpOnlyOnExceptions Ebx7 6 V1 []
    Smep Ebx7 7 V3 []
    Bmi2 Ebx7 8 V3 [BMI2]
    Erms Ebx7 9 V1 []
    Invpcid Ebx7 10 V3 [INVPCID]
    NoFcsFds Ebx7 13 V1 []
    Rdseed Ebx7 18 V3 [RDSEED]
    Adx Ebx7 19 V3 [ADX]
    Smap Ebx7 20 V3 [SMAP]
    Clflushopt Ebx7 23 V3 [CLFLUSHOPT]
    Clwb Ebx7 24 Extra [CLWB]
    Sha Ebx7 29 V3 [SHA]
    Umip Ecx7 2 V3 []
    Rdpid Ecx7 22 V3 [RDPID]
    Fsrm Edx7 4 V3 []
    MdClear Edx7 10 V1 []
    SpecCtrl Edx7 26 V1 []
    Stibp Edx7 27 V1 []
    ArchCapabilities Edx7 29 V1 []
    Ssbd Edx7 31 V1 []
    BhiCtrl Edx7_2 4 V1 []
    Xsaveopt EaxD1 0 V3 [XSAVEOPT]
    Xsavec EaxD1 1 V3 [XSAVEC]
    Xgetbv1 EaxD1 2 V3 []
    Xsaves EaxD1 3 Extra [XSAVES]
    LahfLm Ecx8001 0 V2 []
    Lzcnt Ecx8001 5 V3 [LZCNT]
    Prefetchw Ecx8001 8 V1 [PREFETCHW]
    Syscall Edx8001 11 V1 [SYSCALL]
    Nx Edx8001 20 V1 []
    Page1gb Edx8001 26 V2 []
    Rdtscp Edx8001 27 V1 [RDTSCP]
    Lm Edx8001 29 V1 []
    InvariantTsc Edx8007 8 V1 []
}

/// Ways to keep speculation in bounds. A guest that misses one does as on a processor without it,
/// which no user need be told.
const SPECULATION: &[Feature] = &[
    Feature::MdClear,
    Feature::SpecCtrl,
    Feature::Stibp,
    Feature::Ssbd,
    Feature::BhiCtrl,
];

/// What every x86-64 processor has and no CPUID bit says.
const ALWAYS: &[CpuidFeature] = &[
    CpuidFeature::INTEL8086,
    CpuidFeature::INTEL186,
    CpuidFeature::INTEL286,
    CpuidFeature::INTEL386,
    CpuidFeature::INTEL486,
    CpuidFeature::X64,
    CpuidFeature::CPUID,
    CpuidFeature::MULTIBYTENOP,
    CpuidFeature::PAUSE,
    CpuidFeature::RDPMC,
    CpuidFeature::SMM,
];

/// Instructions in opcodes that are reserved as NOPs: they execute as NOP without their feature.
pub(crate) fn is_hint(code: Code) -> bool {
    matches!(
        code,
        Code::Endbr32
            | Code::Endbr64
            | Code::Rdsspd_r32
            | Code::Rdsspq_r64
            | Code::Cldemote_m8
            | Code::Prefetchit0_m8
            | Code::Prefetchit1_m8
            | Code::Prefetch_m8
            | Code::Prefetchw_m8
            | Code::Prefetchwt1_m8
            | Code::Prefetchreserved3_m8
            | Code::Prefetchreserved4_m8
            | Code::Prefetchreserved5_m8
            | Code::Prefetchreserved6_m8
            | Code::Prefetchreserved7_m8
    )
}

/// What CPUID's answer depends on beside the model.
#[derive(Clone, Copy, Debug)]
pub struct View {
    /// APIC ID at power-on.
    pub id: u32,
    /// CR4.OSXSAVE.
    pub osxsave: bool,
    /// XCR0.
    pub xcr0: u64,
}

/// A named processor model: what CPUID answers and which instructions exist.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CpuModel {
    /// Name on the command line: `x86-64-v1`, `x86-64-v2`, `x86-64-v3`.
    pub name: &'static str,
    /// Width of physical addresses in bits.
    pub physical_bits: u32,
    /// Processors in the machine, for the topology leaves: APIC IDs are below it.
    pub cpus: u32,
    /// Ticks of the time-stamp counter per second: [`TSC_HZ`], unless the machine was built for
    /// an engine that cannot scale the host's.
    pub tsc_hz: u64,
    /// IA32_ARCH_CAPABILITIES: every immunity, unless a host's processor runs the guest's
    /// instructions.
    pub arch_capabilities: u64,
    instructions: [u64; 3],
    features: u128,
}

impl CpuModel {
    /// The model of that name with one processor; `None` if there is none.
    pub fn by_name(name: &str) -> Option<CpuModel> {
        Self::all().into_iter().find(|m| m.name == name)
    }

    /// The named models.
    pub fn all() -> Vec<CpuModel> {
        [
            ("x86-64-v1", Level::V1),
            ("x86-64-v2", Level::V2),
            ("x86-64-v3", Level::V3),
        ]
        .map(|(name, level)| Self::of_level(name, level))
        .into()
    }

    /// The model with every instruction we have: for tests.
    pub fn everything() -> CpuModel {
        CpuModel {
            instructions: [!0; 3],
            ..Self::of_level("everything", Level::Extra)
        }
    }

    fn of_level(name: &'static str, level: Level) -> CpuModel {
        let mut model = CpuModel {
            name,
            physical_bits: 40,
            cpus: 1,
            tsc_hz: TSC_HZ,
            arch_capabilities: arch_capabilities::IMMUNE,
            instructions: [0; 3],
            features: 0,
        };
        let rows = || FEATURES.iter().filter(|r| r.level <= level);
        let iced = rows().flat_map(|r| r.iced).chain(ALWAYS);
        for &f in iced {
            model.instructions[f as usize / 64] |= 1 << (f as usize % 64);
        }
        for row in rows() {
            model.features |= 1 << row.feature as u8;
        }
        model
    }

    /// The same model in a machine of `cpus` processors.
    pub fn with_cpus(self, cpus: u32) -> CpuModel {
        CpuModel { cpus, ..self }
    }

    /// The same model with another TSC frequency in Hz.
    pub fn with_tsc(self, tsc_hz: u64) -> CpuModel {
        CpuModel { tsc_hz, ..self }
    }

    /// The same model where a processor whose IA32_ARCH_CAPABILITIES is `host` runs the guest's
    /// instructions itself: immune to no more than that is.
    pub fn with_host_capabilities(self, host: u64) -> CpuModel {
        let immune = self.arch_capabilities & host;
        CpuModel {
            arch_capabilities: immune | host & arch_capabilities::OF_HARDWARE,
            ..self
        }
    }

    /// The model without the features that a host lacks, and their names but for those of
    /// [`SPECULATION`]. `host` is CPUID as the host can give it to a guest; what is in `ours` does
    /// not depend on the host.
    pub fn within(
        &self,
        host: impl Fn(u32, u32) -> [u32; 4],
        ours: &[Feature],
    ) -> (CpuModel, Vec<String>) {
        let mut model = self.clone();
        let mut lost = Vec::new();
        for row in FEATURES.iter().filter(|r| self.feature(r.feature)) {
            let (leaf, subleaf, register) = row.word.place();
            let has = host(leaf, subleaf)[register] >> row.bit & 1 != 0;
            if has || ours.contains(&row.feature) {
                continue;
            }
            model.features &= !(1 << row.feature as u8);
            for &f in row.iced {
                model.instructions[f as usize / 64] &= !(1 << (f as usize % 64));
            }
            if !SPECULATION.contains(&row.feature) {
                lost.push(alloc::format!("{:?}", row.feature).to_lowercase());
            }
        }
        (model, lost)
    }

    /// True if every one of `needed` exists in this model.
    pub fn has_all(&self, needed: &[CpuidFeature]) -> bool {
        needed.iter().all(|&f| self.has(f))
    }

    /// True if the instructions of `feature` exist in this model.
    pub fn has(&self, feature: CpuidFeature) -> bool {
        self.instructions[feature as usize / 64] >> (feature as usize % 64) & 1 != 0
    }

    /// True if CPUID reports `feature`.
    pub fn feature(&self, feature: Feature) -> bool {
        self.features >> feature as u8 & 1 != 0
    }

    /// Options that make iced decode as this model does: LZCNT and TZCNT are BSR and BSF on
    /// processors without them.
    pub fn decoder_options(&self) -> u32 {
        let mut options = DecoderOptions::NO_WBNOINVD;
        if !self.feature(Feature::Bmi1) {
            options |= DecoderOptions::NO_MPFX_0FBC;
        }
        if !self.feature(Feature::Lzcnt) {
            options |= DecoderOptions::NO_MPFX_0FBD;
        }
        if !self.feature(Feature::LahfLm) {
            options |= DecoderOptions::NO_LAHF_SAHF_64;
        }
        options
    }

    /// CPUID leaf 1 EAX: family 6, a model number (0xf0) that no kernel knows, stepping 1.
    pub fn signature(&self) -> u32 {
        0x000f_0601
    }

    /// The bits of CR4 that may be set.
    pub(crate) fn cr4_bits(&self) -> u64 {
        use crate::state::cr4::*;
        let mut bits = PCE;
        for (feature, gives) in [
            (Feature::Vme, VME | PVI),
            (Feature::Tsc, TSD),
            (Feature::De, DE),
            (Feature::Pse, PSE),
            (Feature::Pae, PAE),
            (Feature::Mce, MCE),
            (Feature::Pge, PGE),
            (Feature::Fxsr, OSFXSR),
            (Feature::Sse, OSXMMEXCPT),
            (Feature::Umip, UMIP),
            (Feature::Fsgsbase, FSGSBASE),
            (Feature::Pcid, PCIDE),
            (Feature::Xsave, OSXSAVE),
            (Feature::Smep, SMEP),
            (Feature::Smap, SMAP),
        ] {
            if self.feature(feature) {
                bits |= gives;
            }
        }
        bits
    }

    /// The bits of EFER that may be set.
    pub(crate) fn efer_bits(&self) -> u64 {
        use crate::state::efer::*;
        let mut bits = 0;
        for (feature, gives) in [
            (Feature::Syscall, SCE),
            (Feature::Lm, LME | LMA),
            (Feature::Nx, NXE),
        ] {
            if self.feature(feature) {
                bits |= gives;
            }
        }
        bits
    }

    /// The bits of XCR0 that may be set.
    pub(crate) fn xcr0_bits(&self) -> u64 {
        use crate::state::xcr0::*;
        X87 | SSE | if self.feature(Feature::Avx) { AVX } else { 0 }
    }

    fn word(&self, word: Word) -> u32 {
        FEATURES
            .iter()
            .filter(|r| r.word == word && self.feature(r.feature))
            .fold(0, |bits, r| bits | 1 << r.bit)
    }

    /// What CPUID answers: EAX, EBX, ECX, EDX.
    pub fn cpuid(&self, leaf: u32, subleaf: u32, view: &View) -> [u32; 4] {
        match leaf {
            0x4000_0000..=0x4000_00ff => self.hypervisor(leaf),
            0x8000_0000..=EXTENDED => self.extended(leaf),
            0..=BASIC => self.basic(leaf, subleaf, view),
            // Beyond the last leaf the last basic one answers.
            _ => self.basic(BASIC, subleaf, view),
        }
    }

    /// Every leaf and subleaf that answers anything, for engines that hand the table to the
    /// host's hypervisor.
    pub fn leaves() -> impl Iterator<Item = (u32, u32)> {
        let basic = (0..=BASIC).flat_map(|leaf| {
            let subleaves = match leaf {
                4 => 5,
                7 => 3,
                0xb | 0xd => 3,
                _ => 1,
            };
            (0..subleaves).map(move |subleaf| (leaf, subleaf))
        });
        let hypervisor = [0x4000_0000, 0x4000_0001, HYPERVISOR];
        basic
            .chain(hypervisor.map(|leaf| (leaf, 0)))
            .chain((0x8000_0000..=EXTENDED).map(|leaf| (leaf, 0)))
    }

    /// Bits of an APIC ID that number the processors of the package.
    fn id_bits(&self) -> u32 {
        self.cpus.max(1).next_power_of_two().trailing_zeros()
    }

    fn basic(&self, leaf: u32, subleaf: u32, view: &View) -> [u32; 4] {
        match leaf {
            0 => vendor(BASIC, b"GenuineIntel"),
            1 => {
                let logical = (1u32 << self.id_bits()).min(255);
                let many = self.cpus > 1;
                let osxsave = u32::from(view.osxsave) << 27;
                [
                    self.signature(),
                    view.id << 24 | logical << 16 | 8 << 8,
                    self.word(Word::Ecx1) | osxsave,
                    self.word(Word::Edx1) | u32::from(many) << 28,
                ]
            }
            // One descriptor: "see leaf 4".
            2 => [0xff01, 0, 0, 0],
            4 => self.cache(subleaf),
            6 => [self.word(Word::Eax6), 0, 0, 0],
            7 if subleaf == 0 => [
                if self.feature(Feature::BhiCtrl) { 2 } else { 0 },
                self.word(Word::Ebx7),
                self.word(Word::Ecx7),
                self.word(Word::Edx7),
            ],
            7 if subleaf == 2 => [0, 0, 0, self.word(Word::Edx7_2)],
            0xb => {
                let (shift, count, kind) = match subleaf {
                    0 => (0, 1, 1),
                    1 => (self.id_bits(), self.cpus, 2),
                    _ => (0, 0, 0),
                };
                [shift, count, subleaf & 0xff | kind << 8, view.id]
            }
            0xd if self.feature(Feature::Xsave) => self.xsave_leaf(subleaf, view),
            0x15 => {
                let (den, num) = crystal_ratio(self.tsc_hz);
                [den, num, CRYSTAL_HZ as u32, 0]
            }
            0x16 => {
                let mhz = (self.tsc_hz / 1_000_000) as u32;
                [mhz, mhz, 100, 0]
            }
            _ => [0; 4],
        }
    }

    fn xsave_leaf(&self, subleaf: u32, view: &View) -> [u32; 4] {
        use crate::state::xcr0::AVX;
        let size = |bits: u64| if bits & AVX != 0 { 832 } else { 576 };
        match subleaf {
            0 => [
                self.xcr0_bits() as u32,
                size(view.xcr0),
                size(self.xcr0_bits()),
                0,
            ],
            1 => {
                let compact = self.feature(Feature::Xsavec) || self.feature(Feature::Xsaves);
                let size = if compact { size(view.xcr0) } else { 0 };
                [self.word(Word::EaxD1), size, 0, 0]
            }
            2 if self.feature(Feature::Avx) => [256, 576, 0, 0],
            _ => [0; 4],
        }
    }

    /// Leaf 4: 32 KB + 32 KB of L1, 1 MB of L2 for each processor, 16 MB of L3 for all.
    fn cache(&self, subleaf: u32) -> [u32; 4] {
        let (kind, level, ways, sets, all) = match subleaf {
            0 => (1, 1, 8, 64, false),
            1 => (2, 1, 8, 64, false),
            2 => (3, 2, 16, 1024, false),
            3 => (3, 3, 16, 16384, true),
            _ => return [0; 4],
        };
        let ids = (1u32 << self.id_bits()) - 1;
        let sharing = if all { ids.min(0xfff) } else { 0 };
        [
            kind | level << 5 | 1 << 8 | sharing << 14 | ids.min(63) << 26,
            63 | (ways - 1) << 22,
            sets - 1,
            u32::from(all) << 1,
        ]
    }

    fn extended(&self, leaf: u32) -> [u32; 4] {
        match leaf {
            0x8000_0000 => [EXTENDED, 0, 0, 0],
            0x8000_0001 => [0, 0, self.word(Word::Ecx8001), self.word(Word::Edx8001)],
            0x8000_0002..=0x8000_0004 => {
                let mut brand = [0u8; 48];
                let text = b"Moinho ".iter().chain(self.name.as_bytes());
                brand
                    .iter_mut()
                    .zip(text)
                    .for_each(|(to, from)| *to = *from);
                let part = &brand[(leaf - 0x8000_0002) as usize * 16..][..16];
                core::array::from_fn(|n| four(&part[4 * n..]))
            }
            // L2: 1 MB, 16-way, 64-byte lines.
            0x8000_0006 => [0, 0, 1024 << 16 | 8 << 12 | 64, 0],
            0x8000_0007 => [0, 0, 0, self.word(Word::Edx8007)],
            0x8000_0008 => [self.physical_bits | 48 << 8, 0, 0, 0],
            _ => [0; 4],
        }
    }
}

/// Last basic leaf.
const BASIC: u32 = 0x16;
/// Last extended leaf.
const EXTENDED: u32 = 0x8000_0008;
/// Last hypervisor leaf.
const HYPERVISOR: u32 = 0x4000_0010;

fn four(bytes: &[u8]) -> u32 {
    bytes
        .iter()
        .take(4)
        .rev()
        .fold(0, |word, &b| word << 8 | u32::from(b))
}

/// Leaf 0: the vendor in EBX, EDX, ECX.
fn vendor(max: u32, name: &[u8; 12]) -> [u32; 4] {
    [max, four(&name[0..]), four(&name[8..]), four(&name[4..])]
}

/// Leaf 0x15: denominator and numerator of TSC : crystal. The best fraction whose product with the
/// crystal's kilohertz fits the 32 bits in which Linux multiplies them; within a millionth.
fn crystal_ratio(tsc_hz: u64) -> (u32, u32) {
    const MOST: u64 = u32::MAX as u64 / (CRYSTAL_HZ / 1000);
    let (mut a, mut b) = (tsc_hz, CRYSTAL_HZ);
    // Convergents of the continued fraction: numerators and denominators.
    let ((mut n0, mut d0), (mut n1, mut d1)) = ((0u64, 1u64), (1u64, 0u64));
    while b != 0 {
        let q = a / b;
        let (n2, d2) = (q * n1 + n0, q * d1 + d0);
        if n2 > MOST {
            break;
        }
        (n0, d0, n1, d1) = (n1, d1, n2, d2);
        (a, b) = (b, a % b);
    }
    (d1.max(1) as u32, n1 as u32)
}

impl CpuModel {
    /// The hypervisor's leaves: a signature in EBX, ECX, EDX; TSC and APIC timer frequencies in
    /// kHz (VMware's convention).
    fn hypervisor(&self, leaf: u32) -> [u32; 4] {
        let name = b"MoinhoMoinho";
        match leaf {
            0x4000_0000 => [
                HYPERVISOR,
                four(&name[0..]),
                four(&name[4..]),
                four(&name[8..]),
            ],
            HYPERVISOR => [
                (self.tsc_hz / 1000) as u32,
                (CRYSTAL_HZ / 1000) as u32,
                0,
                0,
            ],
            _ => [0; 4],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIEW: View = View {
        id: 0,
        osxsave: false,
        xcr0: 1,
    };

    #[test]
    fn the_levels_have_what_the_psabi_demands_and_each_contains_the_one_below() {
        let [v1, v2, v3] = CpuModel::all().try_into().unwrap();
        use CpuidFeature as F;
        assert!(v1.has_all(&[
            F::CMOV,
            F::CX8,
            F::FPU,
            F::FXSR,
            F::MMX,
            F::SYSCALL,
            F::SSE2
        ]));
        assert!(v2.has_all(&[
            F::CMPXCHG16B,
            F::POPCNT,
            F::SSE3,
            F::SSE4_1,
            F::SSE4_2,
            F::SSSE3
        ]));
        assert!(v3.has_all(&[F::AVX, F::AVX2, F::BMI1, F::BMI2, F::F16C, F::FMA, F::LZCNT]));
        assert!(v3.has_all(&[F::MOVBE, F::XSAVE]));
        assert!(!v1.has(F::SSE3) && !v2.has(F::AVX) && !v3.has(F::AVX512F));
        assert_eq!(v1.features & !v2.features, 0);
        assert_eq!(v2.features & !v3.features, 0);
        assert!(FEATURES.len() <= 128);
        assert_eq!(CpuModel::by_name("x86-64-v9"), None);
    }

    #[test]
    fn cpuid_says_the_vendor_the_brand_the_clock_and_the_topology() {
        let model = CpuModel::by_name("x86-64-v2").unwrap().with_cpus(6);
        let [max, b, c, d] = model.cpuid(0, 0, &VIEW);
        let text: alloc::vec::Vec<u8> = [b, d, c].iter().flat_map(|w| w.to_le_bytes()).collect();
        assert_eq!((max, &text[..]), (0x16, &b"GenuineIntel"[..]));
        let brand: alloc::vec::Vec<u8> = (0x8000_0002..=0x8000_0004)
            .flat_map(|l| model.cpuid(l, 0, &VIEW))
            .flat_map(u32::to_le_bytes)
            .take_while(|&b| b != 0)
            .collect();
        assert_eq!(String::from_utf8(brand).unwrap(), "Moinho x86-64-v2");
        let [den, num, crystal, _] = model.cpuid(0x15, 0, &VIEW);
        assert_eq!(u64::from(crystal) * u64::from(num) / u64::from(den), TSC_HZ);
        assert_eq!(model.cpuid(7, 0, &VIEW)[0], 2, "BHI_CTRL is in subleaf 2");
        assert_eq!(model.cpuid(7, 1, &VIEW), [0; 4]);
        assert_eq!(model.cpuid(7, 2, &VIEW), [0, 0, 0, 1 << 4]);
        let view = View { id: 5, ..VIEW };
        assert_eq!(model.cpuid(0xb, 1, &view), [3, 6, 0x201, 5]);
        assert_eq!(model.cpuid(1, 0, &view)[1], 5 << 24 | 8 << 16 | 8 << 8);
    }

    #[test]
    fn leaf_15_states_any_tsc_frequency_within_a_millionth_and_without_overflow() {
        for hz in [
            1_000_000_000u64,
            2_595_124_000,
            3_699_998_000,
            999_999_000,
            4_100_000_000,
        ] {
            let (den, num) = crystal_ratio(hz);
            assert!(u64::from(num) * (CRYSTAL_HZ / 1000) <= u64::from(u32::MAX));
            let stated = CRYSTAL_HZ as f64 * f64::from(num) / f64::from(den);
            let error = (stated - hz as f64).abs();
            assert!(error * 1e6 <= stated.max(hz as f64), "{hz}: {den} {num}");
        }
    }

    #[test]
    fn a_model_loses_what_the_host_lacks_with_its_instructions() {
        let v3 = CpuModel::by_name("x86-64-v3").unwrap();
        let (same, lost) = v3.within(|_, _| [!0; 4], &[]);
        assert_eq!((same, lost.len()), (v3.clone(), 0));
        let host = |leaf, sub| match (leaf, sub) {
            (1, 0) => [!0, !0, !(1 << 28 | 1 << 21), !0],
            _ => [!0; 4],
        };
        let (less, lost) = v3.within(host, &[Feature::X2apic]);
        assert_eq!(lost, ["avx"]);
        assert!(!less.has(CpuidFeature::AVX) && less.feature(Feature::X2apic));
    }

    #[test]
    fn a_model_promises_no_more_of_speculation_than_the_processor_that_runs_it_keeps() {
        let v3 = CpuModel::by_name("x86-64-v3").unwrap();
        assert_eq!(v3.arch_capabilities >> 62, 1, "ITS_NO, under a translator");
        // RDCL_NO, RSBA, MISC_PACKAGE_CTLS, MDS_NO, FB_CLEAR.
        let host = 1 | 1 << 2 | 1 << 10 | 1 << 5 | 1 << 17;
        let there = v3.clone().with_host_capabilities(host);
        assert_eq!(there.arch_capabilities, host & !(1 << 10));
        assert_eq!(there.clone().with_host_capabilities(host), there);
        let silent = v3.clone().with_host_capabilities(0);
        assert_eq!(silent.arch_capabilities, 0);
        // And there is nothing to say of it.
        let host = |leaf, sub| match (leaf, sub) {
            (7, 0) => [0, !0, !0, !0 ^ 1 << 26],
            (7, _) => [0; 4],
            _ => [!0; 4],
        };
        let (less, lost) = v3.within(host, &[]);
        assert!(v3.feature(Feature::SpecCtrl) && !less.feature(Feature::SpecCtrl));
        assert!(v3.feature(Feature::BhiCtrl) && !less.feature(Feature::BhiCtrl));
        assert_eq!(less.cpuid(7, 0, &VIEW)[0], 0);
        assert_eq!(less.cpuid(7, 2, &VIEW), [0; 4]);
        assert!(lost.is_empty(), "{lost:?}");
    }
}
