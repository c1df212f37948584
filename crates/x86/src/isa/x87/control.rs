//! x87 control: the control and status words, the environment and the whole state in memory
//! (SDM volume 1, "x87 FPU State" figures 8-9 to 8-12; volume 2: FLDCW, FSTCW, FSTSW, FINIT, FCLEX,
//! FLDENV, FSTENV, FSAVE, FRSTOR, WAIT).
//!
//! In the real-mode layouts the "linear" pointers are the offsets alone: FCS and FDS are not kept.

use super::{status, waiting};
use crate::exec::Exec;
use crate::insn::Insn;
use crate::softfloat::{Examined, F80};
use crate::state::X87;
use crate::table::{Row, Unit};
use crate::trap::Done;
use iced_x86::Code;
use mem::Word;

/// The bits of the control word that can be written; bit 6 reads as one.
const CONTROL: u16 = 0x1f3f;

/// Tags in the full tag word.
const ZERO: u16 = 1;
const SPECIAL: u16 = 2;
const EMPTY: u16 = 3;

/// The two-bit tag of each physical register.
fn tag_word(fpu: &X87) -> u16 {
    (0..8).fold(0, |word, n| {
        let tag = if fpu.valid >> n & 1 == 0 {
            EMPTY
        } else {
            match fpu.regs[n].examine() {
                Examined::Normal => 0,
                Examined::Zero => ZERO,
                _ => SPECIAL,
            }
        };
        word | tag << (2 * n)
    })
}

/// The abridged tags of a full tag word: only emptiness is taken from memory.
fn abridged(word: u16) -> u8 {
    (0..8).fold(0, |valid, n| {
        valid | u8::from(word >> (2 * n) & 3 != EMPTY) << n
    })
}

fn fldcw(x: &mut Exec<'_>, i: &Insn) -> Done {
    waiting!(x);
    let value: u16 = x.read(i.seg, x.ea(i))?;
    x.s.x87.control = value & CONTROL | 0x40;
    x.x87_summarize();
    Ok(())
}

fn fnstcw(x: &mut Exec<'_>, i: &Insn) -> Done {
    x.write(i.seg, x.ea(i), x.s.x87.control)
}

fn fnstsw(x: &mut Exec<'_>, i: &Insn) -> Done {
    x.write(i.seg, x.ea(i), x.s.x87.status)
}

fn fnstsw_ax(x: &mut Exec<'_>, _: &Insn) -> Done {
    let word = x.s.x87.status;
    x.set_reg(0, word);
    Ok(())
}

/// FNINIT: the register contents stay.
fn fninit(x: &mut Exec<'_>, _: &Insn) -> Done {
    initialize(x);
    Ok(())
}

fn initialize(x: &mut Exec<'_>) {
    let fresh = X87 {
        regs: x.s.x87.regs,
        // The summary goes down below, where FERR# is seen to.
        status: x.s.x87.status & status::ES,
        ..X87::default()
    };
    x.s.x87 = fresh;
    x.x87_summarize();
}

fn fnclex(x: &mut Exec<'_>, _: &Insn) -> Done {
    x.s.x87.status &= !(status::EXCEPTIONS | status::SF);
    x.x87_summarize();
    Ok(())
}

/// FNENI, FNDISI, FNSETPM: nothing since the 80387.
fn nothing(_: &mut Exec<'_>, _: &Insn) -> Done {
    Ok(())
}

fn wait(x: &mut Exec<'_>, _: &Insn) -> Done {
    waiting!(x);
    Ok(())
}

/// The seven fields of an environment image.
struct Image([u32; 7]);

impl Image {
    /// Composes the image: words in the 14-byte form, doublewords in the 28-byte one.
    fn of(fpu: &X87, real: bool, wide: bool) -> Image {
        let high = if wide { 0xffff_0000 } else { 0 };
        let opcode = u32::from(fpu.opcode & 0x7ff);
        let (ip, dp) = (fpu.ip as u32, fpu.dp as u32);
        let pointers = match (real, wide) {
            (false, true) => [
                ip,
                u32::from(fpu.cs) | opcode << 16,
                dp,
                u32::from(fpu.ds) | high,
            ],
            (false, false) => [ip, fpu.cs.into(), dp, fpu.ds.into()],
            (true, true) => [
                ip & 0xffff | high,
                ip >> 16 << 12 | opcode,
                dp & 0xffff | high,
                dp >> 16 << 12,
            ],
            (true, false) => [
                ip,
                (ip >> 16 & 15) << 12 | opcode,
                dp,
                (dp >> 16 & 15) << 12,
            ],
        };
        let [a, b, c, d] = pointers;
        Image([
            u32::from(fpu.control) | high,
            u32::from(fpu.status) | high,
            u32::from(tag_word(fpu)) | high,
            a,
            b,
            c,
            d,
        ])
    }

    /// Takes the image apart.
    fn load(&self, fpu: &mut X87, real: bool, wide: bool) {
        let [control, status_word, tags, ip, cs, dp, ds] = self.0;
        fpu.control = control as u16 & CONTROL | 0x40;
        fpu.status = status_word as u16;
        fpu.valid = abridged(tags as u16);
        fpu.cs = 0;
        fpu.ds = 0;
        let joined = |low: u32, high: u32| {
            let above = if wide {
                high >> 12 & 0xffff
            } else {
                high >> 12 & 15
            };
            u64::from(low & 0xffff | above << 16)
        };
        if real {
            (fpu.ip, fpu.dp) = (joined(ip, cs), joined(dp, ds));
            fpu.opcode = cs as u16 & 0x7ff;
        } else {
            (fpu.ip, fpu.dp) = (ip.into(), dp.into());
            // The 14-byte protected form has no opcode.
            fpu.opcode = if wide { (cs >> 16) as u16 & 0x7ff } else { 0 };
        }
    }
}

/// Bytes of the longest image, FSAVE's with 32-bit fields.
const LONGEST: usize = 108;

/// Writes an image in units of its field size, which is also the alignment it must have. The first
/// byte, then the last are tried before, as processors do.
fn write_image<T: Word>(x: &mut Exec<'_>, i: &Insn, stack: usize) -> Done {
    let image = Image::of(&x.s.x87, x.is_real_or_v86(), T::SIZE == 4);
    let mut bytes = [0; LONGEST];
    for (to, field) in bytes.chunks_exact_mut(T::SIZE).zip(image.0) {
        to.copy_from_slice(&field.to_le_bytes()[..T::SIZE]);
    }
    let size = 7 * T::SIZE + 10 * stack;
    for (n, to) in (0..).zip(bytes[7 * T::SIZE..size].chunks_exact_mut(10)) {
        let value = x.s.x87.regs[usize::from(x.x87_physical(n))];
        to.copy_from_slice(&value.to_le_bytes());
    }
    x.probe_write(i.seg, x.ea(i), T::SIZE as u64)?;
    x.probe_write(i.seg, at(x, i, size as u64 - 1), 1)?;
    x.probe_write(i.seg, x.ea(i), size as u64)?;
    for (n, from) in bytes[..size].chunks_exact(T::SIZE).enumerate() {
        let mut word = [0; 8];
        word[..T::SIZE].copy_from_slice(from);
        let offset = at(x, i, (n * T::SIZE) as u64);
        x.write(i.seg, offset, T::from_u64(u64::from_le_bytes(word)))?;
    }
    Ok(())
}

/// Reads an image: the environment and as many registers as are asked for.
fn read_image<T: Word>(x: &mut Exec<'_>, i: &Insn, stack: usize) -> Done<(Image, [F80; 8])> {
    let size = 7 * T::SIZE + 10 * stack;
    x.read::<T>(i.seg, x.ea(i))?;
    x.read::<u8>(i.seg, at(x, i, size as u64 - 1))?;
    let mut bytes = [0; LONGEST];
    for (n, to) in bytes[..size].chunks_exact_mut(T::SIZE).enumerate() {
        let word: T = x.read(i.seg, at(x, i, (n * T::SIZE) as u64))?;
        to.copy_from_slice(&word.to_u64().to_le_bytes()[..T::SIZE]);
    }
    let mut image = Image([0; 7]);
    for (field, from) in image.0.iter_mut().zip(bytes.chunks_exact(T::SIZE)) {
        let mut word = [0; 4];
        word[..T::SIZE].copy_from_slice(from);
        *field = u32::from_le_bytes(word);
    }
    let mut registers = [F80::ZERO; 8];
    for (value, from) in registers
        .iter_mut()
        .zip(bytes[7 * T::SIZE..size].chunks_exact(10))
    {
        let mut ten = [0; 10];
        ten.copy_from_slice(from);
        *value = F80::from_le_bytes(ten);
    }
    Ok((image, registers))
}

fn at(x: &Exec<'_>, i: &Insn, plus: u64) -> u64 {
    x.ea(i).wrapping_add(plus) & i.address_mask()
}

/// FNSTENV: masks every exception after storing.
fn fnstenv<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    write_image::<T>(x, i, 0)?;
    x.s.x87.control |= status::EXCEPTIONS;
    x.x87_summarize();
    Ok(())
}

fn fldenv<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    waiting!(x);
    let (image, _) = read_image::<T>(x, i, 0)?;
    let real = x.is_real_or_v86();
    image.load(&mut x.s.x87, real, T::SIZE == 4);
    x.x87_summarize();
    Ok(())
}

/// FNSAVE: the environment, then ST(0) to ST(7), ten bytes each; then as FNINIT.
fn fnsave<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    write_image::<T>(x, i, 8)?;
    initialize(x);
    Ok(())
}

fn frstor<T: Word>(x: &mut Exec<'_>, i: &Insn) -> Done {
    waiting!(x);
    let (image, stack) = read_image::<T>(x, i, 8)?;
    let real = x.is_real_or_v86();
    image.load(&mut x.s.x87, real, T::SIZE == 4);
    for (n, value) in (0..).zip(stack) {
        let r = x.x87_physical(n);
        x.s.x87.regs[usize::from(r)] = value;
    }
    x.x87_summarize();
    Ok(())
}

/// The waiting form of a non-waiting instruction.
macro_rules! waits {
    ($run:expr) => {
        |x, i| {
            waiting!(x);
            $run(x, i)
        }
    };
}

macro_rules! rows {
    ($($code:ident $run:expr;)*) => {
        &[
            Row::new(Code::Wait, wait).unit(Unit::Wait),
            $(Row::new(Code::$code, $run).unit(Unit::X87)),*
        ]
    };
}

pub(crate) const ROWS: &[Row] = rows! {
    Fldcw_m2byte fldcw;
    Fnstcw_m2byte fnstcw;
    Fstcw_m2byte waits!(fnstcw);
    Fnstsw_m2byte fnstsw;
    Fstsw_m2byte waits!(fnstsw);
    Fnstsw_AX fnstsw_ax;
    Fstsw_AX waits!(fnstsw_ax);
    Fninit fninit;
    Finit waits!(fninit);
    Fnclex fnclex;
    Fclex waits!(fnclex);
    Fneni nothing;
    Feni waits!(nothing);
    Fndisi nothing;
    Fdisi waits!(nothing);
    Fnsetpm nothing;
    Fsetpm waits!(nothing);
    Fnstenv_m14byte fnstenv::<u16>;
    Fstenv_m14byte waits!(fnstenv::<u16>);
    Fnstenv_m28byte fnstenv::<u32>;
    Fstenv_m28byte waits!(fnstenv::<u32>);
    Fldenv_m14byte fldenv::<u16>;
    Fldenv_m28byte fldenv::<u32>;
    Fnsave_m94byte fnsave::<u16>;
    Fsave_m94byte waits!(fnsave::<u16>);
    Fnsave_m108byte fnsave::<u32>;
    Fsave_m108byte waits!(fnsave::<u32>);
    Frstor_m94byte frstor::<u16>;
    Frstor_m108byte frstor::<u32>;
};
