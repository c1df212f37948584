//! String comparison (SDM volume 2: PCMPESTRI, PCMPESTRM, PCMPISTRI, PCMPISTRM; volume 1,
//! "String and Text Processing Instructions"). Memory operands need no alignment.

use super::simd::*;
use super::vector::Lane;
use crate::exec::Exec;
use crate::insn::Insn;
use crate::state::{gpr, rflags};
use crate::table::{Row, Unit};
use crate::trap::Done;
use core::array::from_fn;
use iced_x86::Code;

/// A string of at most 16 bytes or 8 words, sign- or zero-extended as the immediate says.
struct Text {
    elements: [i32; 16],
    /// Valid elements.
    len: usize,
}

impl Text {
    /// Elements of `v`; `len` is the explicit length, else the first zero ends the string.
    fn new(v: Lane, imm: u8, len: Option<usize>) -> Text {
        let (bytes, words, signed) = (to8(v), to16(v), imm & 2 != 0);
        let elements = from_fn(|n| match (imm & 1, signed) {
            (0, false) => bytes[n].into(),
            (0, true) => (bytes[n] as i8).into(),
            (_, false) => words[n % 8].into(),
            (_, true) => (words[n % 8] as i16).into(),
        });
        let count = count(imm);
        let end = || elements[..count].iter().position(|&e| e == 0);
        let len = len.or_else(end).unwrap_or(count).min(count);
        Text { elements, len }
    }
}

/// Elements in a register.
fn count(imm: u8) -> usize {
    if imm & 1 == 0 { 16 } else { 8 }
}

/// IntRes2: one bit per element of `b`.
fn compare(a: &Text, b: &Text, imm: u8) -> u32 {
    let count = count(imm);
    let all = (1 << count) - 1;
    let valid = (1u32 << b.len) - 1;
    let bit = |on: bool, n: usize| u32::from(on) << n;
    let text = |t: &Text, n: usize| t.elements[n];
    let raw: u32 = (0..count)
        .map(|n| match imm >> 2 & 3 {
            // Equal any: is the element in the set `a`?
            0 => {
                let found = (0..a.len).any(|k| text(a, k) == text(b, n));
                bit(n < b.len && found, n)
            }
            // Ranges: is it between the bounds of a pair in `a`?
            1 => {
                let inside = (0..a.len / 2)
                    .any(|k| (text(a, 2 * k)..=text(a, 2 * k + 1)).contains(&text(b, n)));
                bit(n < b.len && inside, n)
            }
            // Equal each: the same element, or both strings over.
            2 => bit(
                match (n < a.len, n < b.len) {
                    (true, true) => text(a, n) == text(b, n),
                    (ours, theirs) => ours == theirs,
                },
                n,
            ),
            // Equal ordered: does `a` begin here, as far as the register reaches?
            _ => {
                let begins = (0..a.len.min(count - n))
                    .all(|k| n + k < b.len && text(a, k) == text(b, n + k));
                bit(begins, n)
            }
        })
        .sum();
    match imm >> 4 & 3 {
        1 => raw ^ all,
        3 => raw ^ valid,
        _ => raw,
    }
}

/// Compares, sets the flags, returns IntRes2.
fn run(x: &mut Exec<'_>, i: &Insn, lengths: [Option<usize>; 2]) -> Done<u32> {
    let imm = i.imm as u8;
    let b = x.get_xmm(i, 1)?;
    let a = Text::new(x.xmm(i.ops[0]), imm, lengths[0]);
    let b = Text::new(b, imm, lengths[1]);
    let result = compare(&a, &b, imm);
    let flag = |on: bool, bit: u64| if on { bit } else { 0 };
    let bits = flag(result != 0, rflags::CF)
        | flag(b.len < count(imm), rflags::ZF)
        | flag(a.len < count(imm), rflags::SF)
        | flag(result & 1 != 0, rflags::OF);
    x.flags.replace(rflags::ARITHMETIC, bits);
    Ok(result)
}

/// The explicit lengths: the magnitudes of RAX and RDX, or of EAX and EDX.
fn explicit<const WIDE: bool>(x: &Exec<'_>) -> [Option<usize>; 2] {
    [gpr::RAX, gpr::RDX].map(|r| {
        let value = x.s.gpr[r];
        let value = if WIDE {
            value as i64
        } else {
            i64::from(value as i32)
        };
        Some(value.unsigned_abs().min(16) as usize)
    })
}

/// The index of the first or last match to ECX; the number of elements if there is none.
fn set_index(x: &mut Exec<'_>, imm: u64, result: u32) {
    let count = count(imm as u8) as u32;
    let index = match (result, imm & 0x40) {
        (0, _) => count,
        (_, 0) => result.trailing_zeros(),
        _ => 31 - result.leading_zeros(),
    };
    x.set_reg(gpr::RCX as u8, index);
}

/// The mask for XMM0: bits, or whole elements.
fn mask(imm: u64, result: u32) -> Lane {
    match imm & 0x41 {
        0x40 => of8(from_fn(|n| 0u8.wrapping_sub((result >> n & 1) as u8))),
        0x41 => of16(from_fn(|n| 0u16.wrapping_sub((result >> n & 1) as u16))),
        _ => [result.into(), 0],
    }
}

fn pcmpistri(x: &mut Exec<'_>, i: &Insn) -> Done {
    let result = run(x, i, [None; 2])?;
    set_index(x, i.imm, result);
    Ok(())
}

fn pcmpistrm(x: &mut Exec<'_>, i: &Insn) -> Done {
    let result = run(x, i, [None; 2])?;
    x.set_xmm(0, mask(i.imm, result));
    Ok(())
}

fn vpcmpistrm(x: &mut Exec<'_>, i: &Insn) -> Done {
    let result = run(x, i, [None; 2])?;
    x.set_xmm_clear(0, mask(i.imm, result));
    Ok(())
}

fn pcmpestri<const WIDE: bool>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let result = run(x, i, explicit::<WIDE>(x))?;
    set_index(x, i.imm, result);
    Ok(())
}

fn pcmpestrm<const WIDE: bool>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let result = run(x, i, explicit::<WIDE>(x))?;
    x.set_xmm(0, mask(i.imm, result));
    Ok(())
}

fn vpcmpestrm<const WIDE: bool>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let result = run(x, i, explicit::<WIDE>(x))?;
    x.set_xmm_clear(0, mask(i.imm, result));
    Ok(())
}

pub(crate) const ROWS: &[Row] = &[
    Row::new(Code::Pcmpestri_xmm_xmmm128_imm8, pcmpestri::<false>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpcmpestri_xmm_xmmm128_imm8, pcmpestri::<false>).unit(Unit::Avx),
    Row::new(Code::Pcmpestrm_xmm_xmmm128_imm8, pcmpestrm::<false>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpcmpestrm_xmm_xmmm128_imm8, vpcmpestrm::<false>).unit(Unit::Avx),
    Row::new(Code::Pcmpestri64_xmm_xmmm128_imm8, pcmpestri::<true>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpcmpestri64_xmm_xmmm128_imm8, pcmpestri::<true>).unit(Unit::Avx),
    Row::new(Code::Pcmpestrm64_xmm_xmmm128_imm8, pcmpestrm::<true>).unit(Unit::Sse),
    Row::new(Code::VEX_Vpcmpestrm64_xmm_xmmm128_imm8, vpcmpestrm::<true>).unit(Unit::Avx),
    Row::new(Code::Pcmpistri_xmm_xmmm128_imm8, pcmpistri).unit(Unit::Sse),
    Row::new(Code::VEX_Vpcmpistri_xmm_xmmm128_imm8, pcmpistri).unit(Unit::Avx),
    Row::new(Code::Pcmpistrm_xmm_xmmm128_imm8, pcmpistrm).unit(Unit::Sse),
    Row::new(Code::VEX_Vpcmpistrm_xmm_xmmm128_imm8, vpcmpistrm).unit(Unit::Avx),
];
