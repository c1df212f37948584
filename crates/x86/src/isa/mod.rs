//! The semantics of the instructions, a file per family. Each file ends the work of its family
//! in one place: a `ROWS` table of encodings and the handlers it names.
//!
//! A handler gathers its operands, checks every fault, and commits last.

pub(crate) mod alu;
pub(crate) mod bits;
pub(crate) mod branch;
pub(crate) mod crypto;
pub(crate) mod data;
pub(crate) mod flagsio;
pub(crate) mod muldiv;
pub(crate) mod port;
pub(crate) mod segmove;
pub(crate) mod shift;
pub(crate) mod simd;
pub(crate) mod simd_float;
pub(crate) mod simd_masked;
pub(crate) mod simd_move;
pub(crate) mod simd_packed;
pub(crate) mod simd_shuffle;
pub(crate) mod simd_text;
pub(crate) mod stack;
pub(crate) mod string;
pub(crate) mod system;
pub(crate) mod transfer;
pub(crate) mod vector;
pub(crate) mod x87;
pub(crate) mod xsave;
