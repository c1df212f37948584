//! The instruction table: one row per encoding, read by the interpreter, the translator, the
//! analyser and the test generator.
//!
//! Each family file in `isa/` lists its rows; [`row`] finds the one for an iced-x86 [`Code`].
//! The feature bits a row needs are iced's (`code.cpuid_features()`), checked against the CPU
//! model when an instruction is decoded; so are privilege and unit.

use crate::exec::Exec;
use crate::insn::{Handler, not_available, undefined};
use crate::state::{cr0, cr4, xcr0};
use iced_x86::Code;

/// Who may execute an instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Privilege {
    /// Anybody.
    Any,
    /// CPL 0, else #GP(0), decided at decode time.
    Cpl0,
    /// The handler decides (IOPL, CR4.TSD, CR4.UMIP, DPL, …).
    Checked,
}

/// Sensitivity in the sense of Popek and Goldberg; see `popek`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sensitivity {
    /// Behaves the same in every mode and location.
    Innocuous,
    /// Changes mode, relocation or resources.
    Control,
    /// Its result depends on mode, location or resources.
    Behaviour,
}

/// The execution unit whose availability (CR0.EM, CR0.TS, CR4.OSFXSR, CR4.OSXSAVE, XCR0) is
/// checked when an instruction is decoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unit {
    /// Integer: always there.
    Integer,
    /// x87: #NM if CR0.EM or CR0.TS.
    X87,
    /// WAIT: #NM if CR0.MP and CR0.TS.
    Wait,
    /// MMX: #UD if CR0.EM, #NM if CR0.TS.
    Mmx,
    /// SSE: #UD if CR0.EM or not CR4.OSFXSR, #NM if CR0.TS.
    Sse,
    /// AVX (VEX-encoded vectors): #UD unless protected mode, CR4.OSXSAVE and XCR0 allow, #NM if
    /// CR0.TS.
    Avx,
}

impl Unit {
    /// The handler that raises what the unit's state demands, if it is not available now.
    pub(crate) fn refuses(self, x: &Exec<'_>) -> Option<Handler> {
        let (has0, has4) = (|bit| x.s.cr0 & bit != 0, |bit| x.s.cr4 & bit != 0);
        let ts = has0(cr0::TS);
        match self {
            Unit::Integer => None,
            Unit::X87 => (has0(cr0::EM) || ts).then_some(not_available),
            Unit::Wait => (has0(cr0::MP) && ts).then_some(not_available),
            Unit::Mmx if has0(cr0::EM) => Some(undefined),
            Unit::Sse if has0(cr0::EM) || !has4(cr4::OSFXSR) => Some(undefined),
            Unit::Avx
                if !has0(cr0::PE)
                    || x.s.rflags & crate::state::rflags::VM != 0
                    || !has4(cr4::OSXSAVE)
                    || x.s.xcr0 & (xcr0::SSE | xcr0::AVX) != xcr0::SSE | xcr0::AVX =>
            {
                Some(undefined)
            }
            Unit::Mmx | Unit::Sse | Unit::Avx => ts.then_some(not_available),
        }
    }
}

/// One row: everything known of one encoding.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The encoding.
    pub code: Code,
    /// Its semantics.
    pub run: Handler,
    /// Who may execute it.
    pub privilege: Privilege,
    /// Its Popek–Goldberg class.
    pub sensitivity: Sensitivity,
    /// The unit it needs.
    pub unit: Unit,
}

impl Row {
    /// An innocuous integer instruction that anybody may execute.
    pub(crate) const fn new(code: Code, run: Handler) -> Row {
        Row {
            code,
            run,
            privilege: Privilege::Any,
            sensitivity: Sensitivity::Innocuous,
            unit: Unit::Integer,
        }
    }
    /// Needs `unit`.
    pub(crate) const fn unit(mut self, unit: Unit) -> Row {
        self.unit = unit;
        self
    }
    /// Privileged (CPL 0) and control-sensitive unless said otherwise afterwards.
    pub(crate) const fn cpl0(mut self) -> Row {
        self.privilege = Privilege::Cpl0;
        self.sensitivity = Sensitivity::Control;
        self
    }
    /// Its handler checks privilege.
    pub(crate) const fn checked(mut self) -> Row {
        self.privilege = Privilege::Checked;
        self
    }
    /// Control-sensitive.
    pub(crate) const fn control(mut self) -> Row {
        self.sensitivity = Sensitivity::Control;
        self
    }
    /// Behaviour-sensitive.
    pub(crate) const fn behaviour(mut self) -> Row {
        self.sensitivity = Sensitivity::Behaviour;
        self
    }
}

/// The families, each in its file.
const FAMILIES: &[&[Row]] = &[
    crate::isa::data::ROWS,
    crate::isa::alu::ROWS,
    crate::isa::shift::ROWS,
    crate::isa::muldiv::ROWS,
    crate::isa::bits::ROWS,
    crate::isa::string::ROWS,
    crate::isa::branch::ROWS,
    crate::isa::stack::ROWS,
    crate::isa::simd_move::ROWS,
    crate::isa::simd_packed::ROWS,
    crate::isa::simd_shuffle::ROWS,
    crate::isa::simd_masked::ROWS,
    crate::isa::system::ROWS,
    crate::isa::transfer::ROWS,
    crate::isa::flagsio::ROWS,
    crate::isa::port::ROWS,
    crate::isa::segmove::ROWS,
    crate::isa::xsave::ROWS,
    crate::isa::simd_float::arithmetic::ROWS,
    crate::isa::simd_float::compare::ROWS,
    crate::isa::simd_float::convert::ROWS,
    crate::isa::simd_float::estimate::ROWS,
    crate::isa::simd_float::fma::ROWS,
    crate::isa::x87::load_store::ROWS,
    crate::isa::x87::arithmetic::ROWS,
    crate::isa::x87::compare::ROWS,
    crate::isa::x87::transcendental::ROWS,
    crate::isa::x87::control::ROWS,
    crate::isa::simd_text::ROWS,
    crate::isa::crypto::ROWS,
];

/// How many encodings iced-x86 1.22 knows; a larger code fails the build in [`index`].
const CODES: usize = 4936;

static INDEX: [Option<Row>; CODES] = index();

/// Spreads the families over the codes. Two rows for one code fail the build.
const fn index() -> [Option<Row>; CODES] {
    let mut all = [None; CODES];
    let mut f = 0;
    while f < FAMILIES.len() {
        let mut r = 0;
        while r < FAMILIES[f].len() {
            let row = FAMILIES[f][r];
            assert!(all[row.code as usize].is_none(), "two rows for one code");
            all[row.code as usize] = Some(row);
            r += 1;
        }
        f += 1;
    }
    all
}

/// The row of an encoding; `None` if it is not done.
pub fn row(code: Code) -> Option<&'static Row> {
    INDEX[code as usize].as_ref()
}

/// All rows.
pub fn rows() -> impl Iterator<Item = &'static Row> {
    INDEX.iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpuid::CpuModel;
    use alloc::format;
    use alloc::vec::Vec;

    /// Encodings that the models have and nobody has done yet, by how their names begin. This
    /// list only shrinks.
    const NOT_YET: &[&str] = &[];
    /// What iced uses for data between instructions.
    const NO_INSTRUCTIONS: &[&str] = &["INVALID", "Declare", "Zero_bytes"];

    #[test]
    fn every_encoding_of_the_largest_model_has_a_row() {
        let model = CpuModel::by_name("x86-64-v3").unwrap();
        let missing: Vec<_> = Code::values()
            .filter(|&c| model.has_all(c.cpuid_features()))
            .filter(|&c| row(c).is_none())
            .map(|c| format!("{c:?}"))
            .filter(|name| {
                let mut known = NOT_YET.iter().chain(NO_INSTRUCTIONS);
                !known.any(|n| name.starts_with(n))
            })
            .collect();
        assert!(missing.is_empty(), "no row: {}", missing.join(" "));
    }
}
