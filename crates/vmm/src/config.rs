//! What the user asked for, and what is wrong with it.

use crate::translator::Translator;
use machine::spec::{MachineSpec, SpecError};
use machine::trace::Kinds;
use std::path::PathBuf;
use x86::cpuid::CpuModel;

/// Something the user asked for that cannot be: one line, with the way out.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct UserError(pub String);

impl UserError {
    /// `what: problem; way out`.
    pub fn new(what: impl std::fmt::Display, way_out: impl std::fmt::Display) -> Self {
        UserError(one_line(&format!("{what}; {way_out}")))
    }
}

impl From<SpecError> for UserError {
    fn from(error: SpecError) -> Self {
        let SpecError {
            field,
            problem,
            hint,
        } = error;
        UserError(one_line(&format!("--{field}: {problem}; {hint}")))
    }
}

/// Paths may hold line ends; an error is one line all the same.
pub(crate) fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

/// What to boot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Guest {
    /// The guest that is part of this program.
    BuiltIn,
    /// Files of the user.
    Files {
        /// A bzImage, vmlinux, PVH or multiboot kernel.
        kernel: PathBuf,
        /// The initial RAM disk, or modules, in order; the text after the first blank of a
        /// module is its command line.
        initrd: Vec<PathBuf>,
        /// The command line.
        append: String,
    },
}

/// Which engine runs the processors.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum EngineChoice {
    /// The best one there is.
    #[default]
    Auto,
    /// The interpreter.
    Interp,
    /// The binary translator.
    Bt,
    /// KVM.
    Kvm,
}

/// Where the trace goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TraceTo {
    /// What is recorded.
    pub kinds: Kinds,
    /// The file; standard error without one.
    pub file: Option<PathBuf>,
}

/// One run.
#[derive(Clone, PartialEq, Debug)]
pub struct Config {
    /// The machine. Its `kernel`, `initrd` and `append` are filled in from `guest`.
    pub spec: MachineSpec,
    /// What to boot.
    pub guest: Guest,
    /// The engine.
    pub engine: EngineChoice,
    /// Holds everything that the binary translator does against the interpreter.
    pub check_bt: bool,
    /// Takes an engine that was found to be unusable in practice.
    pub force: bool,
    /// What is asked of the translator.
    pub translator: Translator,
    /// Engines to move to while the guest runs: which, and after how many seconds.
    pub moves: Vec<(EngineChoice, f64)>,
    /// A reset or a triple fault ends the run.
    pub no_reboot: bool,
    /// The trace, if any.
    pub trace: Option<TraceTo>,
    /// Where COM2's output goes; nowhere without one.
    pub com2: Option<PathBuf>,
}

/// The names of the CPU models.
pub fn cpu_models() -> Vec<&'static str> {
    CpuModel::all().iter().map(|model| model.name).collect()
}

/// The CPU model of that name, for a machine of `cpus`.
pub(crate) fn cpu_model(name: &str, cpus: u32) -> Result<CpuModel, UserError> {
    let model = CpuModel::by_name(name).ok_or_else(|| {
        UserError::new(
            format_args!("--cpu-model: no model {name:?}"),
            format_args!("there are {}", cpu_models().join(", ")),
        )
    })?;
    Ok(model.with_cpus(cpus))
}
