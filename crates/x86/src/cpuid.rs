//! CPU models and CPUID as tables.

/// A named processor model: what CPUID answers and which instructions exist.
#[derive(Clone, Debug)]
pub struct CpuModel {
    /// Name on the command line: `x86-64-v1`, `x86-64-v2`, `x86-64-v3`.
    pub name: &'static str,
}
