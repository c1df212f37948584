//! CPU models and CPUID as tables.

use iced_x86::CpuidFeature;

/// A named processor model: what CPUID answers and which instructions exist.
#[derive(Clone, Debug)]
pub struct CpuModel {
    /// Name on the command line: `x86-64-v1`, `x86-64-v2`, `x86-64-v3`.
    pub name: &'static str,
    /// Width of physical addresses in bits.
    pub physical_bits: u32,
    features: [u64; 3],
}

impl CpuModel {
    /// The model with every instruction we have: for tests.
    pub fn everything() -> CpuModel {
        CpuModel {
            name: "everything",
            physical_bits: 40,
            features: [!0; 3],
        }
    }

    /// True if every one of `needed` exists in this model.
    pub fn has_all(&self, needed: &[CpuidFeature]) -> bool {
        needed.iter().all(|&f| self.has(f))
    }

    /// True if the feature exists in this model.
    pub fn has(&self, feature: CpuidFeature) -> bool {
        self.features[feature as usize / 64] >> (feature as usize % 64) & 1 != 0
    }

    /// CPUID leaf 1 EAX: family, model, stepping.
    pub fn signature(&self) -> u32 {
        0x0006_06a6
    }
}
