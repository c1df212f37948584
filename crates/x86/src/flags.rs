//! The six arithmetic flags, kept lazily: an operation leaves its result and its carries, and a
//! flag is worked out when somebody looks.

use crate::state::rflags;
use mem::Word;

/// The arithmetic flags as left by the last operation that set them.
///
/// * ZF: `result == 0`.
/// * SF: bit 63 of `result` (sign-extended from the operand size), inverted if bit 0 of `aux`.
/// * PF: even parity of the low byte of `result`, inverted if bit 8 of `aux`.
/// * CF: bit 63 of `aux`. OF: bits 63 and 62 of `aux` differ. AF: bit 3 of `aux`.
///
/// Bits 63, 62 and 3 are the carries out of the most significant bit, of the one below, and of
/// bit 3: so an addition or subtraction stores its carry vector and is done. The two inversions
/// are only needed for flag combinations no result has (POPF).
#[derive(Clone, Copy, Debug, Default)]
pub struct Flags {
    result: u64,
    aux: u64,
}

const CARRY: u64 = 1 << 63;
const BELOW: u64 = 1 << 62;
const HALF: u64 = 1 << 3;
const SIGN: u64 = 1;
const PARITY: u64 = 1 << 8;

/// Sign-extends a value of `T`'s size.
#[inline(always)]
pub(crate) fn sign_extend<T: Word>(value: u64) -> u64 {
    let shift = 64 - 8 * T::SIZE as u32;
    ((value << shift) as i64 >> shift) as u64
}

impl Flags {
    /// From the bits of RFLAGS.
    pub fn from_bits(bits: u64) -> Flags {
        let has = |bit| bits & bit != 0;
        // 0x100: not zero, positive, and its low byte has even parity.
        let mut aux = 0;
        if has(rflags::CF) {
            aux |= CARRY;
        }
        if has(rflags::CF) != has(rflags::OF) {
            aux |= BELOW;
        }
        if has(rflags::AF) {
            aux |= HALF;
        }
        if has(rflags::SF) {
            aux |= SIGN;
        }
        if !has(rflags::PF) {
            aux |= PARITY;
        }
        Flags {
            result: if has(rflags::ZF) { 0 } else { 0x100 },
            aux,
        }
    }

    /// As bits of RFLAGS.
    pub fn bits(self) -> u64 {
        u64::from(self.cf())
            | if self.pf() { rflags::PF } else { 0 }
            | if self.af() { rflags::AF } else { 0 }
            | if self.zf() { rflags::ZF } else { 0 }
            | if self.sf() { rflags::SF } else { 0 }
            | if self.of() { rflags::OF } else { 0 }
    }

    /// Carry.
    #[inline(always)]
    pub fn cf(self) -> bool {
        self.aux >> 63 != 0
    }
    /// Parity of the low byte.
    #[inline(always)]
    pub fn pf(self) -> bool {
        ((self.result ^ self.aux >> 8) as u8).count_ones() & 1 == 0
    }
    /// Carry out of bit 3.
    #[inline(always)]
    pub fn af(self) -> bool {
        self.aux & HALF != 0
    }
    /// Zero.
    #[inline(always)]
    pub fn zf(self) -> bool {
        self.result == 0
    }
    /// Sign.
    #[inline(always)]
    pub fn sf(self) -> bool {
        (self.result >> 63) ^ (self.aux & SIGN) != 0
    }
    /// Overflow.
    #[inline(always)]
    pub fn of(self) -> bool {
        (self.aux ^ self.aux << 1) >> 63 != 0
    }

    /// After `result = a + b + carry` (all of size `T`, upper bits ignored).
    #[inline(always)]
    pub fn set_add<T: Word>(&mut self, a: u64, b: u64, result: u64) {
        self.set_carries::<T>((a & b) | ((a | b) & !result), result);
    }
    /// After `result = a - b - borrow`.
    #[inline(always)]
    pub fn set_sub<T: Word>(&mut self, a: u64, b: u64, result: u64) {
        self.set_carries::<T>((!a & b) | ((!a | b) & result), result);
    }
    #[inline(always)]
    fn set_carries<T: Word>(&mut self, carries: u64, result: u64) {
        let shift = 64 - 8 * T::SIZE as u32;
        self.result = sign_extend::<T>(result);
        self.aux = carries << shift & (CARRY | BELOW) | carries & HALF;
    }
    /// After a logical operation: CF and OF clear, AF clear (undefined by the manual).
    #[inline(always)]
    pub fn set_logic<T: Word>(&mut self, result: u64) {
        self.result = sign_extend::<T>(result);
        self.aux = 0;
    }
    /// SF, ZF, PF from `result`, the others as given.
    #[inline(always)]
    pub fn set_result<T: Word>(&mut self, result: u64, cf: bool, of: bool, af: bool) {
        self.result = sign_extend::<T>(result);
        self.aux = u64::from(cf) << 63 | u64::from(cf ^ of) << 62 | u64::from(af) << 3;
    }
    /// Changes CF alone.
    #[inline(always)]
    pub fn set_cf(&mut self, cf: bool) {
        let of = self.of();
        self.aux = self.aux & !(CARRY | BELOW) | u64::from(cf) << 63 | u64::from(cf ^ of) << 62;
    }
    /// Changes CF and OF alone.
    #[inline(always)]
    pub fn set_cf_of(&mut self, cf: bool, of: bool) {
        self.aux = self.aux & !(CARRY | BELOW) | u64::from(cf) << 63 | u64::from(cf ^ of) << 62;
    }
    /// Changes the flags of `mask` (RFLAGS bits) to those of `bits`.
    pub fn replace(&mut self, mask: u64, bits: u64) {
        *self = Flags::from_bits(self.bits() & !mask | bits & mask);
    }

    /// The condition `cc` (0–15) of Jcc, SETcc, CMOVcc.
    #[inline(always)]
    pub fn condition(self, cc: u8) -> bool {
        let holds = match cc >> 1 {
            0 => self.of(),
            1 => self.cf(),
            2 => self.zf(),
            3 => self.cf() || self.zf(),
            4 => self.sf(),
            5 => self.pf(),
            6 => self.sf() != self.of(),
            _ => self.zf() || self.sf() != self.of(),
        };
        holds != (cc & 1 != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination_of_flags_survives_the_lazy_form() {
        for n in 0..64u64 {
            let bits = (n & 1) | (n & 2) << 1 | (n & 4) << 2 | (n & 0x18) << 3 | (n & 0x20) << 6;
            let mut flags = Flags::from_bits(bits);
            assert_eq!(flags.bits(), bits);
            flags.set_cf(!flags.cf());
            assert_eq!(flags.bits(), bits ^ rflags::CF, "CF alone changes");
        }
    }

    #[test]
    fn byte_addition_and_subtraction_set_the_flags_of_the_manual_for_all_operands() {
        for a in 0..=255u8 {
            for b in 0..=255u8 {
                let mut flags = Flags::default();
                flags.set_add::<u8>(a.into(), b.into(), a.wrapping_add(b).into());
                assert_eq!(flags.cf(), a.checked_add(b).is_none());
                assert_eq!(flags.of(), (a as i8).checked_add(b as i8).is_none());
                assert_eq!(flags.af(), (a & 15) + (b & 15) > 15);
                flags.set_sub::<u8>(a.into(), b.into(), a.wrapping_sub(b).into());
                assert_eq!(flags.cf(), a < b);
                assert_eq!(flags.of(), (a as i8).checked_sub(b as i8).is_none());
                assert_eq!(flags.af(), a & 15 < b & 15);
                assert_eq!(flags.zf(), a == b);
                assert_eq!(flags.sf(), (a.wrapping_sub(b) as i8) < 0);
                assert_eq!(flags.condition(0xc), (a as i8) < (b as i8), "L");
                assert_eq!(flags.condition(7), a > b, "A");
            }
        }
    }
}
