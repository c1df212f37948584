//! SSE, AVX, FMA and F16C floating point: how an instruction gets its elements, reports exceptions
//! in MXCSR and writes its result. The instructions are in the files below, the arithmetic of one
//! element in [`crate::softfloat::sse`].
//!
//! An unmasked exception raises #XM (#UD with CR4.OSXMMEXCPT clear) with the flags set in MXCSR and
//! nothing written (SDM volume 1, "SIMD Floating-Point Exceptions").
//!
//! Three shapes recur: `sse_…` is the legacy form (the first operand is also a source, 16-byte
//! memory operands are aligned, what lies above the result stays), `vex_…` the VEX form with `Q`
//! quadwords (what lies above is cleared).

/// The table of a file below: legacy rows, then VEX rows.
macro_rules! rows {
    (sse { $($code:ident $run:expr;)* } avx { $($vcode:ident $vrun:expr;)* }) => {
        &[
            $(Row::new(Code::$code, $run).unit(Unit::Sse),)*
            $(Row::new(Code::$vcode, $vrun).unit(Unit::Avx),)*
        ]
    };
}

pub(crate) mod arithmetic;
pub(crate) mod compare;
pub(crate) mod convert;
pub(crate) mod estimate;
pub(crate) mod fma;

use crate::exec::Exec;
use crate::insn::{Insn, MEM};
use crate::softfloat::sse::SseFloat;
use crate::softfloat::{Env, Flags};
use crate::state::cr4;
use crate::trap::{Done, Trap};
use mem::Word;

/// An element: `u32` for single precision, `u64` for double.
trait Element: SseFloat + Word {}
impl Element for u32 {}
impl Element for u64 {}

impl Exec<'_> {
    /// The environment MXCSR asks for. A masked PE that is set already counts as raised: that
    /// spares the arithmetic the question whether it is exact.
    #[inline(always)]
    fn simd_env(&self) -> Env {
        let mxcsr = self.s.mxcsr;
        let mut env = Env::from_mxcsr(mxcsr);
        env.flags = Flags::from_bits((mxcsr & mxcsr >> 7) as u8 & Flags::PE.bits());
        env
    }

    /// Reports what an instruction raised; to be called before it writes.
    #[inline(always)]
    fn simd_report(&mut self, env: &Env) -> Done {
        self.s.mxcsr |= u32::from(env.flags.bits());
        if env.fault() {
            return self.simd_fault();
        }
        Ok(())
    }

    #[cold]
    fn simd_fault(&self) -> Done {
        Err(if self.s.cr4 & cr4::OSXMMEXCPT != 0 {
            Trap::XM
        } else {
            Trap::UD
        })
    }

    /// [`Self::simd_report`] of a packed instruction.
    #[inline(always)]
    fn simd_report_packed(&mut self, env: &mut Env) -> Done {
        env.finish_packed();
        self.simd_report(env)
    }

    /// The low `Q` quadwords of vector register `n`.
    #[inline(always)]
    fn vector<const Q: usize>(&self, n: u8) -> [u64; Q] {
        let register = &self.s.vector[usize::from(n & 15)];
        core::array::from_fn(|k| register[k])
    }

    /// Writes the low `Q` quadwords of vector register `n` and clears the rest.
    #[inline(always)]
    fn set_vector<const Q: usize>(&mut self, n: u8, value: [u64; Q]) {
        let mut register = [0; 4];
        register[..Q].copy_from_slice(&value);
        self.s.vector[usize::from(n & 15)] = register;
    }

    /// Operand `k` of a VEX instruction: register, or memory at any alignment.
    #[inline(always)]
    fn get_vector<const Q: usize>(&mut self, i: &Insn, k: usize) -> Done<[u64; Q]> {
        match i.ops[k] {
            MEM => self.read_quads(i.seg, self.ea(i), false),
            n => Ok(self.vector(n)),
        }
    }

    /// Ends a VEX scalar instruction: the result, and above it the first source.
    #[inline(always)]
    fn set_scalar<T: Word>(&mut self, i: &Insn, value: T) {
        let mut register = self.xmm(i.ops[1]);
        let keep = u64::MAX.checked_shl(8 * T::SIZE as u32).unwrap_or(0);
        register[0] = register[0] & keep | value.to_u64();
        self.set_xmm_clear(i.ops[0], register);
    }
}

/// Applies `f` to each element with its number.
#[inline(always)]
fn map<T: Word, const Q: usize>(a: [u64; Q], mut f: impl FnMut(usize, T) -> T) -> [u64; Q] {
    core::array::from_fn(|n| {
        if T::SIZE == 8 {
            f(n, T::from_u64(a[n])).to_u64()
        } else {
            let low = f(2 * n, T::from_u64(a[n])).to_u64();
            low | f(2 * n + 1, T::from_u64(a[n] >> 32)).to_u64() << 32
        }
    })
}

/// Element `n`.
#[inline(always)]
fn element<T: Word, const Q: usize>(a: &[u64; Q], n: usize) -> T {
    if T::SIZE == 8 {
        T::from_u64(a[n])
    } else {
        T::from_u64(a[n / 2] >> (32 * (n % 2)))
    }
}

/// Applies `f` to each pair of elements.
#[inline(always)]
fn zip<T: Word, const Q: usize>(
    a: [u64; Q],
    b: [u64; Q],
    mut f: impl FnMut(usize, T, T) -> T,
) -> [u64; Q] {
    map(a, |n, a| f(n, a, element(&b, n)))
}
