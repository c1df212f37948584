//! Exact software floating point of the x86 processor: what an addition, a conversion or an `FPREM`
//! gives, bit for bit, flags included, on every host and in every rounding mode.
//!
//! Called by the handlers of x87, SSE, AVX, FMA and F16C; calls nothing. Operands and results are
//! bit patterns: `u16` (half), `u32` (single), `u64` (double), [`F80`] (double extended).
//! Sources: SDM volume 1, chapters 4 (data types, NaNs, exceptions), 8 (x87), 11.5 (SIMD
//! floating-point exceptions), 14.5 (FMA), and the instruction pages of volume 2.
//!
//! # How to call it from an SSE/AVX handler
//!
//! ```ignore
//! let mut env = Env::from_mxcsr(state.mxcsr);
//! let r = sse::add(a, b, &mut env);          // u32: single, u64: double; one call per element
//! env.finish_packed();                       // after the last element, packed forms only
//! state.mxcsr |= env.flags.bits() as u32;    // sticky flags, also when #XM follows
//! if env.fault() { return Err(#XM) }         // nothing is written to the destination
//! ```
//!
//! # How to call it from an x87 handler
//!
//! ```ignore
//! let mut env = Env::from_fcw(fcw);          // clears C1
//! let r = x87::sub(st0, Operand::from_f32(m32), &mut env);   // FSUB m32; operands swap for FSUBR
//! fsw |= env.flags.bits(); C1 = env.c1;
//! if env.blocks_register_store() { ES, B }   // unmasked IE, DE or ZE: destination and stack unchanged
//! else { st0 = r; if env.fault() { ES, B } } // unmasked OE, UE (wrapped exponent) and PE: stored
//! // for stores to memory (FST m32/m64, FIST, FBSTP): env.blocks_memory_store() instead,
//! // for FLD m32/m64: env.blocks_load() instead
//! ```
//! Stack underflow and overflow (`SF`) are the caller's; it stores [`F80::INDEFINITE`].
//!
//! # The functions
//!
//! `T` is `u32` or `u64`; every function ends with `env: &mut Env`.
//!
//! | [`sse`] | |
//! |---|---|
//! | `add sub mul div (a, b) -> T`, `sqrt(a)` | ADDSS … SQRTPD; `a` is the first source (NaN priority) |
//! | `mul_add(a, b, c, Negate { product, addend })` | all FMA forms: ±(a×b) ± c; NaN priority a, b, c: 132 = (src1, src3, src2), 213 = (src2, src1, src3), 231 = (src2, src3, src1) |
//! | `min max (a, b)` | MINSS, MAXSS: second operand on NaN or two zeros |
//! | `compare(a, b, Signal) -> Relation` | COMISS = `Signal::AnyNan`, UCOMISS = `Signal::Snan` |
//! | `cmp(a, b, predicate: u8) -> bool` | CMPSS and VCMPSS, 32 predicates |
//! | `round_to_integral(a, Rounding, suppress_pe: bool)` | ROUNDSS |
//! | `to_i32 to_i64 to_u32 to_u64 (a, Rounding)` | CVTSS2SI with `env.rounding`, CVTTSS2SI with `Rounding::Zero` |
//! | `from_i32 from_i64 from_u32 from_u64 (i) -> T` | CVTSI2SS, CVTDQ2PD |
//! | `f32_to_f64 f64_to_f32 f16_to_f32 f32_to_f16` | CVTSS2SD, CVTSD2SS, VCVTPH2PS, VCVTPS2PH (set `env.rounding` from imm8) |
//!
//! | [`x87`] | `a`, `b`: [`F80`] or [`x87::Operand`] (a memory operand) |
//! |---|---|
//! | `add sub mul div (a, b) -> F80`, `sqrt(a)` | |
//! | `compare(a, b, Signal) -> Relation` | FCOM, FTST, FICOM, FCOMI = `AnyNan`; FUCOM, FUCOMI = `Snan` |
//! | `from_f32 from_f64` / `to_f32 to_f64` | FLD m32/m64, FST m32/m64 (m80 is a plain copy) |
//! | `from_i16 from_i32 from_i64 (i)` (no env) / `to_i16 to_i32 to_i64 (a, Rounding)` | FILD, FIST with `env.rounding`, FISTTP with `Rounding::Zero` |
//! | `from_bcd([u8; 10])` (no env) / `to_bcd(a) -> [u8; 10]` | FBLD, FBSTP |
//! | `round_to_integral(a)` | FRNDINT |
//! | `prem prem1 (a, b) -> Remainder { value, quotient, incomplete }` | FPREM, FPREM1: C0, C3, C1 = bits 2, 1, 0 of `quotient`; C2 = `incomplete` |
//! | `scale(a, b)`, `extract(a) -> (exponent, significand)` | FSCALE, FXTRACT |
//! | `sin cos tan (a) -> Option<F80>`, `sincos(a) -> Option<(F80, F80)>` | `None`: out of range, C2 = 1, nothing stored; `tan`: the caller pushes `F80::ONE` unless the value is a NaN, then the NaN again |
//! | `atan(y, x)`, `f2xm1(a)`, `yl2x(x, y)`, `yl2xp1(x, y)` | FPATAN: y = ST(1), x = ST(0); FYL2X: x = ST(0), y = ST(1) |
//! | `constant(Constant)` | FLD1, FLDL2T, FLDL2E, FLDPI, FLDLG2, FLDLN2, FLDZ, rounded by `env.rounding` |
//! | `F80::{negated, absolute, examine}` | FCHS, FABS, FXAM (no exceptions) |
//!
//! # What is exact
//!
//! Everything but `sin cos tan sincos atan f2xm1 yl2x yl2xp1`, which are computed to over 100 bits and
//! then rounded: in 1 to 5 cases of 100 they differ from an Intel processor by one unit in the last
//! place (never by more, where the SDM defines the result), and so may C1, and OE and UE on the very border.
//! The answers are those of Intel processors; RCPSS and RSQRTSS, which differ between models, are not here.

mod bcd;
mod native;
mod partial;
pub mod sse;
mod transcendental;
mod unpacked;
mod wide;
pub mod x87;

/// Rounding control, in the encoding of MXCSR.RC and FCW.RC (SDM 1, "Rounding").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// To nearest, ties to even (0).
    NearestEven,
    /// Toward −∞ (1).
    Down,
    /// Toward +∞ (2).
    Up,
    /// Toward zero, truncation (3).
    Zero,
}

impl Rounding {
    /// From the two low bits of a rounding-control field.
    pub const fn from_bits(rc: u32) -> Self {
        match rc & 3 {
            0 => Self::NearestEven,
            1 => Self::Down,
            2 => Self::Up,
            _ => Self::Zero,
        }
    }
}

/// x87 precision control: bits of significand a result is rounded to (SDM 1, "Precision Control Field").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// 24 bits (PC = 0).
    Single,
    /// 53 bits (PC = 2).
    Double,
    /// 64 bits (PC = 3, and the reserved 1).
    Extended,
}

impl Precision {
    /// From FCW.PC.
    pub const fn from_bits(pc: u32) -> Self {
        match pc & 3 {
            0 => Self::Single,
            2 => Self::Double,
            _ => Self::Extended,
        }
    }

    pub(crate) const fn significand_bits(self) -> u32 {
        match self {
            Self::Single => 24,
            Self::Double => 53,
            Self::Extended => 64,
        }
    }
}

/// A set of the six exceptions, in the bit order of MXCSR and of the x87 status and control words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(u8);

impl Flags {
    /// No exception.
    pub const NONE: Self = Self(0);
    /// Invalid operation.
    pub const IE: Self = Self(1);
    /// Denormal operand.
    pub const DE: Self = Self(2);
    /// Divide by zero.
    pub const ZE: Self = Self(4);
    /// Numeric overflow.
    pub const OE: Self = Self(8);
    /// Numeric underflow.
    pub const UE: Self = Self(16);
    /// Inexact result (precision).
    pub const PE: Self = Self(32);

    /// The low six bits of `bits`.
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits & 0x3f)
    }
    /// Bits 0..5: IE, DE, ZE, OE, UE, PE.
    pub const fn bits(self) -> u8 {
        self.0
    }
    /// Both sets together.
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
    /// What is in both sets.
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
    /// What is in `self` and not in `other`.
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
    /// Whether the two sets share an exception.
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
    /// Whether there is no exception in the set.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// Exceptions found before the operation is computed: unmasked, they leave no result at all.
const PRE_COMPUTATION: Flags = Flags(1 | 2 | 4);

/// Control and status of a floating-point instruction: what MXCSR or FCW ask for, and what happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Env {
    /// Rounding control.
    pub rounding: Rounding,
    /// Exceptions raised so far; never cleared by the functions of this module.
    pub flags: Flags,
    /// Exceptions whose mask bit is **clear**, so that they fault.
    pub unmasked: Flags,
    /// Denormals are zeros (MXCSR.DAZ); SSE only.
    pub daz: bool,
    /// Flush to zero (MXCSR.FTZ); SSE only.
    pub ftz: bool,
    /// Precision control; x87 only.
    pub precision: Precision,
    /// Whether the last result was rounded up, that is away from zero (C1); x87 only.
    pub c1: bool,
}

impl Env {
    /// All exceptions masked, round to nearest, full precision: MXCSR = 0x1f80, FCW = 0x37f.
    pub const DEFAULT: Self = Self {
        rounding: Rounding::NearestEven,
        flags: Flags::NONE,
        unmasked: Flags::NONE,
        daz: false,
        ftz: false,
        precision: Precision::Extended,
        c1: false,
    };

    /// The environment of an SSE instruction. `flags` starts empty, so that [`Env::fault`] sees only
    /// what this instruction raised; the caller ORs `flags` into MXCSR.
    pub const fn from_mxcsr(mxcsr: u32) -> Self {
        Self {
            rounding: Rounding::from_bits(mxcsr >> 13),
            unmasked: Flags::from_bits(!(mxcsr >> 7) as u8),
            daz: mxcsr & 1 << 6 != 0,
            ftz: mxcsr & 1 << 15 != 0,
            ..Self::DEFAULT
        }
    }

    /// The environment of an x87 instruction. `flags` starts empty; the caller ORs it into FSW.
    pub const fn from_fcw(fcw: u16) -> Self {
        Self {
            rounding: Rounding::from_bits((fcw >> 10) as u32),
            unmasked: Flags::from_bits(!fcw as u8),
            precision: Precision::from_bits((fcw >> 8) as u32),
            ..Self::DEFAULT
        }
    }

    /// Whether an unmasked exception was raised: #XM, or #MF pending (ES).
    pub const fn fault(&self) -> bool {
        self.flags.intersects(self.unmasked)
    }

    /// x87: whether an unmasked exception keeps the result from its register (IE, DE, ZE).
    pub const fn blocks_register_store(&self) -> bool {
        self.flags
            .intersection(self.unmasked)
            .intersects(PRE_COMPUTATION)
    }

    /// x87: whether an unmasked exception keeps FLD m32fp and m64fp from pushing: IE only. After an
    /// unmasked DE processors push the value all the same.
    pub const fn blocks_load(&self) -> bool {
        self.flags.intersection(self.unmasked).intersects(Flags::IE)
    }

    /// x87: whether an unmasked exception keeps the result from memory (all but PE).
    pub const fn blocks_memory_store(&self) -> bool {
        !self
            .flags
            .intersection(self.unmasked)
            .without(Flags::PE)
            .is_empty()
    }

    /// After the last element of a packed SSE instruction: an unmasked pre-computation exception in one
    /// element keeps the others from being computed, so their OE, UE and PE are not reported
    /// (SDM 1, "SIMD Floating-Point Exception Conditions").
    pub const fn finish_packed(&mut self) {
        if self.blocks_register_store() {
            self.flags = self.flags.intersection(PRE_COMPUTATION);
        }
    }

    /// Adds exceptions.
    pub const fn raise(&mut self, flags: Flags) {
        self.flags = self.flags.union(flags);
    }

    const fn is_unmasked(&self, flag: Flags) -> bool {
        self.unmasked.intersects(flag)
    }
}

impl Default for Env {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// A double extended-precision value as it lies in an x87 register: 1 sign, 15 exponent (bias 16383),
/// 64 significand bits with an explicit integer bit. Any pattern is possible, "unsupported" ones included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct F80 {
    /// Integer bit (63) and fraction. MMX registers alias this part.
    pub significand: u64,
    /// Bit 15: sign; bits 14..0: biased exponent.
    pub sign_exponent: u16,
}

/// What FXAM finds (C3, C2, C0); the sign goes to C1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Examined {
    /// Pseudo-NaN, pseudo-infinity, unnormal: 000.
    Unsupported,
    /// NaN: 001.
    Nan,
    /// Normal finite number: 010.
    Normal,
    /// Infinity: 011.
    Infinity,
    /// Zero: 100.
    Zero,
    /// Denormal or pseudo-denormal: 110.
    Denormal,
}

impl F80 {
    /// +0.
    pub const ZERO: Self = Self::new(0, 0);
    /// +1.
    pub const ONE: Self = Self::new(0x3fff, 1 << 63);
    /// +∞.
    pub const INFINITY: Self = Self::new(0x7fff, 1 << 63);
    /// The default NaN, "real indefinite": the masked answer to an invalid operation.
    pub const INDEFINITE: Self = Self::new(0xffff, 3 << 62);

    /// From sign and exponent, and significand.
    pub const fn new(sign_exponent: u16, significand: u64) -> Self {
        Self {
            sign_exponent,
            significand,
        }
    }
    /// From the ten bytes of an m80fp operand.
    pub const fn from_le_bytes(b: [u8; 10]) -> Self {
        Self {
            significand: u64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]),
            sign_exponent: u16::from_le_bytes([b[8], b[9]]),
        }
    }
    /// The ten bytes of an m80fp operand.
    pub const fn to_le_bytes(self) -> [u8; 10] {
        let s = self.significand.to_le_bytes();
        let e = self.sign_exponent.to_le_bytes();
        [s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7], e[0], e[1]]
    }
    /// The sign bit.
    pub const fn sign(self) -> bool {
        self.sign_exponent >> 15 != 0
    }
    /// FCHS.
    pub const fn negated(self) -> Self {
        Self {
            sign_exponent: self.sign_exponent ^ 0x8000,
            ..self
        }
    }
    /// FABS.
    pub const fn absolute(self) -> Self {
        Self {
            sign_exponent: self.sign_exponent & 0x7fff,
            ..self
        }
    }
    /// FXAM of a register that is not empty.
    pub const fn examine(self) -> Examined {
        let integer_bit = self.significand >> 63 != 0;
        match self.sign_exponent & 0x7fff {
            0 if self.significand == 0 => Examined::Zero,
            0 => Examined::Denormal,
            _ if !integer_bit => Examined::Unsupported,
            0x7fff if self.significand << 1 == 0 => Examined::Infinity,
            0x7fff => Examined::Nan,
            _ => Examined::Normal,
        }
    }
}

/// The outcome of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// First below second.
    Less,
    /// Equal (also +0 and −0).
    Equal,
    /// First above second.
    Greater,
    /// At least one NaN.
    Unordered,
}

/// Which NaN operands make a comparison raise IE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Signalling NaNs only: UCOMISS, FUCOM.
    Snan,
    /// Quiet ones too: COMISS, FCOM.
    AnyNan,
}

#[cfg(test)]
mod tests {
    //! Fixed cases for any host; `tests/softfloat_native.rs` compares with the processor itself.
    use super::sse::{self, Negate};
    use super::x87;
    use super::{Env, F80, Flags, Precision, Relation, Rounding, Signal};
    use std::vec::Vec;

    #[test]
    fn sse_results_and_flags_are_the_known_ones() {
        type Binary = fn(u32, u32, &mut Env) -> u32;
        let (add, sub): (Binary, Binary) = (sse::add, sse::sub);
        let (mul, div): (Binary, Binary) = (sse::mul, sse::div);
        // Operation, operands, MXCSR, result, flags.
        let cases = [
            (
                add,
                0x3f80_0000,
                0x3f80_0000,
                0x1f80,
                0x4000_0000,
                Flags::NONE,
            ),
            (
                add,
                0x3f80_0000,
                0x3300_0000,
                0x1f80,
                0x3f80_0000,
                Flags::PE,
            ),
            (
                add,
                0x3f80_0000,
                0x3300_0000,
                0x5f80,
                0x3f80_0001,
                Flags::PE,
            ), // rounding up
            (
                sub,
                0x7f80_0000,
                0x7f80_0000,
                0x1f80,
                0xffc0_0000,
                Flags::IE,
            ),
            (
                sub,
                0x3f80_0000,
                0x3f80_0000,
                0x3f80,
                0x8000_0000,
                Flags::NONE,
            ), // rounding down: −0
            (
                mul,
                0x7f80_0001,
                0xffc0_0000,
                0x1f80,
                0x7fc0_0001,
                Flags::IE,
            ), // the first NaN
            (
                mul,
                0x0080_0000,
                0x3f00_0000,
                0x1f80,
                0x0040_0000,
                Flags::NONE,
            ), // an exact denormal
            (
                mul,
                0x0080_0000,
                0x3f00_0000,
                0x9f80,
                0x0000_0000,
                Flags::from_bits(0x30),
            ), // flushed
            (
                mul,
                0x0040_0000,
                0x4000_0000,
                0x1fc0,
                0x0000_0000,
                Flags::NONE,
            ), // DAZ
            (
                div,
                0x3f80_0000,
                0x8000_0000,
                0x1f80,
                0xff80_0000,
                Flags::ZE,
            ),
            (
                div,
                0x0000_0001,
                0x3f80_0000,
                0x1f80,
                0x0000_0001,
                Flags::DE,
            ),
            (
                div,
                0x7f7f_ffff,
                0x3f00_0000,
                0x1f80,
                0x7f80_0000,
                Flags::from_bits(0x28),
            ),
        ];
        for (n, (op, a, b, mxcsr, result, flags)) in cases.into_iter().enumerate() {
            let mut env = Env::from_mxcsr(mxcsr);
            assert_eq!((op(a, b, &mut env), env.flags), (result, flags), "case {n}");
        }
    }

    #[test]
    fn an_unmasked_denormal_operand_stops_before_the_computation() {
        let mut env = Env::from_mxcsr(0x1f80 & !(1 << 8));
        sse::div::<u32>(1, 0x4040_0000, &mut env);
        assert!(env.fault());
        assert_eq!(env.flags, Flags::DE);
    }

    #[test]
    fn min_gives_the_second_of_two_zeros_and_compare_signals_as_asked() {
        let mut env = Env::DEFAULT;
        assert_eq!(sse::min::<u32>(0x8000_0000, 0, &mut env), 0);
        assert_eq!(
            sse::compare::<u64>(0x7ff8 << 48, 0, Signal::Snan, &mut env),
            Relation::Unordered
        );
        assert_eq!(env.flags, Flags::NONE);
        sse::compare::<u64>(0x7ff8 << 48, 0, Signal::AnyNan, &mut env);
        assert_eq!(env.flags, Flags::IE);
    }

    #[test]
    fn a_fused_product_is_not_rounded_before_the_sum() {
        // (1 + 2^-52)² − (1 + 2^-51) = 2^-104.
        let a = 0x3ff0_0000_0000_0001u64;
        let mut env = Env::DEFAULT;
        let r = sse::mul_add(
            a,
            a,
            0x3ff0_0000_0000_0002,
            Negate {
                product: false,
                addend: true,
            },
            &mut env,
        );
        assert_eq!((r, env.flags), ((1023 - 104) << 52, Flags::NONE));
    }

    #[test]
    fn integers_out_of_range_are_the_integer_indefinite() {
        let mut env = Env::DEFAULT;
        assert_eq!(
            sse::to_i32::<u64>(2147483648.0f64.to_bits(), Rounding::Zero, &mut env),
            i32::MIN
        );
        assert_eq!(
            x87::to_i16(F80::new(0x400e, 1 << 63), Rounding::Zero, &mut env),
            i16::MIN
        );
        assert_eq!(env.flags, Flags::IE);
    }

    #[test]
    fn x87_rounds_to_the_precision_of_the_control_word() {
        let third = |precision| {
            let mut env = Env {
                precision,
                ..Env::DEFAULT
            };
            (
                x87::div(F80::ONE, x87::from_i32(3), &mut env).significand,
                env.c1,
            )
        };
        assert_eq!(third(Precision::Single), (0xaaaa_ab00_0000_0000, true));
        assert_eq!(third(Precision::Double), (0xaaaa_aaaa_aaaa_a800, false));
        assert_eq!(third(Precision::Extended), (0xaaaa_aaaa_aaaa_aaab, true));
    }

    #[test]
    fn x87_takes_the_larger_significand_of_two_nans() {
        let (small, large) = (
            F80::new(0x7fff, 0xc000_0000_0000_0001),
            F80::new(0xffff, 0xc000_0000_0000_0002),
        );
        let mut env = Env::DEFAULT;
        assert_eq!(x87::add(small, large, &mut env), large);
        assert_eq!(env.flags, Flags::NONE);
        let unnormal = F80::new(0x3fff, 1);
        assert_eq!(x87::add(unnormal, large, &mut env), F80::INDEFINITE);
        assert_eq!(env.flags, Flags::IE);
    }

    #[test]
    fn an_unmasked_x87_overflow_wraps_the_exponent() {
        let mut env = Env::from_fcw(0x37f & !8);
        let r = x87::mul(
            F80::new(0x7ffe, 1 << 63),
            F80::new(0x4001, 1 << 63),
            &mut env,
        );
        assert_eq!(
            (r, env.flags),
            (F80::new((0x8000 - 24576) as u16, 1 << 63), Flags::OE)
        );
        assert!(!env.blocks_register_store() && env.blocks_memory_store());
    }

    #[test]
    fn remainders_report_quotient_bits() {
        let mut env = Env::DEFAULT;
        let r = x87::prem(x87::from_i32(17), x87::from_i32(5), &mut env);
        assert_eq!(
            (r.value, r.quotient, r.incomplete),
            (x87::from_i32(2), 3, false)
        );
        let r = x87::prem1(x87::from_i32(18), x87::from_i32(5), &mut env);
        assert_eq!(
            (r.value, r.quotient, r.incomplete),
            (x87::from_i32(-2), 4, false)
        );
        assert!(x87::prem(F80::new(0x5000, 1 << 63), x87::from_i32(5), &mut env).incomplete);
    }

    #[test]
    fn bcd_goes_there_and_back() {
        let mut env = Env::DEFAULT;
        let bytes = [0x89, 0x67, 0x45, 0x23, 0x01, 0, 0, 0, 0, 0x80];
        assert_eq!(x87::from_bcd(bytes), x87::from_i64(-123_456_789));
        assert_eq!(x87::to_bcd(x87::from_i64(-123_456_789), &mut env), bytes);
    }

    #[test]
    fn transcendentals_of_one_are_the_known_constants() {
        let mut env = Env::DEFAULT;
        // sin 1, cos 1, tan 1, π/4, 2^½ − 1, log2 3.
        let results: Vec<u64> = [
            x87::sin(F80::ONE, &mut env),
            x87::cos(F80::ONE, &mut env),
            x87::tan(F80::ONE, &mut env),
            Some(x87::atan(F80::ONE, F80::ONE, &mut env)),
            Some(x87::f2xm1(F80::new(0x3ffe, 1 << 63), &mut env)),
            Some(x87::yl2x(x87::from_i32(3), F80::ONE, &mut env)),
        ]
        .into_iter()
        .flatten()
        .map(|f| f.significand)
        .collect();
        assert_eq!(results, SIGNIFICANDS); // computed apart, to 60 digits
        assert_eq!(x87::sin(F80::new(0x403e, 1 << 63), &mut env), None);
    }
    const SIGNIFICANDS: [u64; 6] = [
        0xd76a_a478_4867_7021,
        0x8a51_407d_a834_5c92,
        0xc759_22e5_f71d_2dc5,
        0xc90f_daa2_2168_c235,
        0xd413_cccf_e779_9211,
        0xcae0_0d1c_fdeb_43d0,
    ];
}
