//! Operand access of the vector instructions, shared by the MMX, SSE and AVX families.
//!
//! A 128-bit lane is `[u64; 2]`, a YMM register `[u64; 4]`, least significant first. Legacy SSE
//! instructions keep the upper half of the YMM register, VEX.128 ones clear it. Legacy SSE memory
//! operands of 16 bytes must be aligned (#GP) unless the instruction says otherwise; VEX ones need
//! not.

use crate::exec::Exec;
use crate::insn::{Insn, MEM};
use crate::trap::Done;
use mem::Word;

/// A 128-bit lane.
pub(crate) type Lane = [u64; 2];

impl Exec<'_> {
    /// XMM register `n`.
    #[inline(always)]
    pub(crate) fn xmm(&self, n: u8) -> Lane {
        let [a, b, ..] = self.s.vector[usize::from(n & 15)];
        [a, b]
    }

    /// Writes XMM register `n` as legacy SSE does: the upper half of the YMM register stays.
    #[inline(always)]
    pub(crate) fn set_xmm(&mut self, n: u8, value: Lane) {
        self.s.vector[usize::from(n & 15)][..2].copy_from_slice(&value);
    }

    /// Writes XMM register `n` as VEX.128 does: the upper half is cleared.
    #[inline(always)]
    pub(crate) fn set_xmm_clear(&mut self, n: u8, value: Lane) {
        self.s.vector[usize::from(n & 15)] = [value[0], value[1], 0, 0];
    }

    /// YMM register `n`.
    #[inline(always)]
    pub(crate) fn ymm(&self, n: u8) -> [u64; 4] {
        self.s.vector[usize::from(n & 15)]
    }

    /// Writes YMM register `n`.
    #[inline(always)]
    pub(crate) fn set_ymm(&mut self, n: u8, value: [u64; 4]) {
        self.s.vector[usize::from(n & 15)] = value;
    }

    /// Operand `k` of a legacy SSE instruction: XMM, or aligned m128.
    #[inline(always)]
    pub(crate) fn get_sse(&mut self, i: &Insn, k: usize) -> Done<Lane> {
        match i.ops[k] {
            MEM => self.read_quads(i.seg, self.ea(i), true),
            n => Ok(self.xmm(n)),
        }
    }

    /// Operand `k`: XMM, or m128 at any alignment.
    #[inline(always)]
    pub(crate) fn get_xmm(&mut self, i: &Insn, k: usize) -> Done<Lane> {
        match i.ops[k] {
            MEM => self.read_quads(i.seg, self.ea(i), false),
            n => Ok(self.xmm(n)),
        }
    }

    /// Operand `k`: YMM, or m256 at any alignment.
    #[inline(always)]
    pub(crate) fn get_ymm(&mut self, i: &Insn, k: usize) -> Done<[u64; 4]> {
        match i.ops[k] {
            MEM => self.read_quads(i.seg, self.ea(i), false),
            n => Ok(self.ymm(n)),
        }
    }

    /// Operand `k`: the low element of an XMM register, or memory of the element's size.
    #[inline(always)]
    pub(crate) fn get_element<T: Word>(&mut self, i: &Insn, k: usize) -> Done<T> {
        match i.ops[k] {
            MEM => self.read(i.seg, self.ea(i)),
            n => Ok(T::from_u64(self.xmm(n)[0])),
        }
    }

    /// Replaces the low element of XMM register `n`; the rest of the register stays.
    #[inline(always)]
    pub(crate) fn set_element<T: Word>(&mut self, n: u8, value: T) {
        let keep = u64::MAX.checked_shl(8 * T::SIZE as u32).unwrap_or(0);
        let low = &mut self.s.vector[usize::from(n & 15)][0];
        *low = *low & keep | value.to_u64();
    }

    /// To be called by every MMX instruction (but EMMS) after its faults are checked and before
    /// it writes: TOP = 0, all tags valid (SDM volume 1, "Transitions Between x87 FPU and MMX
    /// Code").
    pub(crate) fn enter_mmx(&mut self) {
        self.s.x87.status &= !(7 << 11);
        self.s.x87.valid = 0xff;
    }

    /// What a store from an MMX register does before it writes memory: TOP is 0 even if the
    /// store faults, the tags are not touched then (seen on Intel processors).
    pub(crate) fn before_mmx_store(&mut self) {
        self.s.x87.status &= !(7 << 11);
    }

    /// MMX register `n`.
    pub(crate) fn mm(&self, n: u8) -> u64 {
        self.s.x87.regs[usize::from(n & 7)].significand
    }

    /// Writes MMX register `n`: the exponent part becomes all ones.
    pub(crate) fn set_mm(&mut self, n: u8, value: u64) {
        let reg = &mut self.s.x87.regs[usize::from(n & 7)];
        reg.significand = value;
        reg.sign_exponent = 0xffff;
    }

    /// Operand `k`: MMX register, or m64.
    pub(crate) fn get_mm(&mut self, i: &Insn, k: usize) -> Done<u64> {
        match i.ops[k] {
            MEM => self.read(i.seg, self.ea(i)),
            n => Ok(self.mm(n)),
        }
    }
}
