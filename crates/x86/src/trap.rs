//! How an instruction ends early: an exception for the guest, or a stop of the VM.

use alloc::string::String;

/// Exception vectors (SDM volume 3, "Exception and Interrupt Reference").
#[allow(missing_docs)]
pub mod vector {
    pub const DE: u8 = 0;
    pub const DB: u8 = 1;
    pub const NMI: u8 = 2;
    pub const BP: u8 = 3;
    pub const OF: u8 = 4;
    pub const BR: u8 = 5;
    pub const UD: u8 = 6;
    pub const NM: u8 = 7;
    pub const DF: u8 = 8;
    pub const TS: u8 = 10;
    pub const NP: u8 = 11;
    pub const SS: u8 = 12;
    pub const GP: u8 = 13;
    pub const PF: u8 = 14;
    pub const MF: u8 = 16;
    pub const AC: u8 = 17;
    pub const MC: u8 = 18;
    pub const XM: u8 = 19;
}

/// Why an instruction did not complete. Nothing of it has been committed, except where the
/// architecture says otherwise.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trap {
    /// A fault: RIP still points at the instruction.
    Fault {
        /// Exception vector.
        vector: u8,
        /// Error code, for the vectors that push one. For #PF, CR2 has been set already.
        code: Option<u16>,
    },
    /// The VM must stop; the text is in [`crate::exec::Cpu::broken`].
    Broken,
}

/// What an instruction's semantics return.
pub type Done<T = ()> = Result<T, Trap>;

impl Trap {
    /// Invalid opcode.
    pub const UD: Trap = Trap::Fault {
        vector: vector::UD,
        code: None,
    };
    /// Device not available.
    pub const NM: Trap = Trap::Fault {
        vector: vector::NM,
        code: None,
    };
    /// Divide error.
    pub const DE: Trap = Trap::Fault {
        vector: vector::DE,
        code: None,
    };
    /// General protection with error code zero.
    pub const GP0: Trap = Trap::gp(0);
    /// Stack fault with error code zero.
    pub const SS0: Trap = Trap::Fault {
        vector: vector::SS,
        code: Some(0),
    };
    /// Alignment check.
    pub const AC0: Trap = Trap::Fault {
        vector: vector::AC,
        code: Some(0),
    };
    /// x87 floating-point error.
    pub const MF: Trap = Trap::Fault {
        vector: vector::MF,
        code: None,
    };
    /// SIMD floating-point exception.
    pub const XM: Trap = Trap::Fault {
        vector: vector::XM,
        code: None,
    };

    /// General protection.
    pub const fn gp(code: u16) -> Trap {
        Trap::Fault {
            vector: vector::GP,
            code: Some(code),
        }
    }
    /// A fault that has an error code.
    pub const fn with_code(vector: u8, code: u16) -> Trap {
        Trap::Fault {
            vector,
            code: Some(code),
        }
    }
}

/// The text of a stop, for the report.
pub(crate) type Broken = Option<String>;
