//! Saving and restoring the extended state: FXSAVE, FXRSTOR, the XSAVE family, XGETBV, XSETBV,
//! LDMXCSR, STMXCSR (SDM volume 1, "Managing State Using the XSAVE Feature Set").

use crate::cpuid::Feature;
use crate::exec::Exec;
use crate::insn::Insn;
use crate::state::{X87, cr0, cr4, rflags, xcr0};
use crate::table::{Row, Unit};
use crate::trap::{Done, Trap};
use crate::xstate::{self, AVX_OFFSET, Legacy, MXCSR_INIT, MXCSR_MASK};
use iced_x86::Code;

/// XMM and YMM registers that the mode can name.
fn registers(x: &Exec<'_>) -> usize {
    if x.is_64bit() { 16 } else { 8 }
}

/// Raises #GP(0) unless the operand is aligned (with alignment checking #AC), and the faults that
/// accesses to its `len` bytes would; of those, that of byte `first` comes first.
fn area(x: &mut Exec<'_>, i: &Insn, align: u64, len: u64, write: bool, first: u64) -> Done<u64> {
    let at = x.ea(i);
    let linear = x.linear_unchecked(i.seg, at);
    x.canonical(i.seg, linear, 1)?;
    if linear & (align - 1) != 0 {
        // The alignment checked is four bytes.
        let checked = x.s.cr0 & cr0::AM != 0 && x.s.rflags & rflags::AC != 0 && x.s.cpl == 3;
        return Err(if checked && linear & 3 != 0 {
            Trap::AC0
        } else {
            Trap::GP0
        });
    }
    let first = at.wrapping_add(first) & i.address_mask();
    if write {
        x.probe_write(i.seg, first, 1)?;
        x.probe_write(i.seg, at, len)?;
    } else {
        x.probe_read(i.seg, first, 1)?;
        x.probe_read(i.seg, at, len)?;
    }
    Ok(at)
}

fn read_legacy(x: &mut Exec<'_>, i: &Insn, at: u64) -> Done<Legacy> {
    let mut image = [0; 52];
    for (n, word) in image.iter_mut().enumerate() {
        *word = x.read(i.seg, at.wrapping_add(8 * n as u64) & i.address_mask())?;
    }
    Ok(image)
}

/// Writes the quadwords `range` of an image.
fn write_words(
    x: &mut Exec<'_>,
    i: &Insn,
    at: u64,
    image: &[u64],
    range: core::ops::Range<usize>,
) -> Done {
    for n in range {
        x.write(
            i.seg,
            at.wrapping_add(8 * n as u64) & i.address_mask(),
            image[n],
        )?;
    }
    Ok(())
}

fn fxsave<const WIDE: bool>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let at = area(x, i, 16, 512, true, 511)?;
    let mut image = [0; 52];
    xstate::store_x87(&mut image, &x.s.x87, WIDE);
    xstate::store_mxcsr(&mut image, x.s.mxcsr);
    let count = registers(x);
    xstate::store_xmm(&mut image, &x.s, count);
    // Without CR4.OSFXSR the SSE part is left alone.
    let end = if x.s.cr4 & cr4::OSFXSR != 0 {
        20 + 2 * count
    } else {
        20
    };
    write_words(x, i, at, &image, 0..end)
}

fn fxrstor<const WIDE: bool>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let at = area(x, i, 16, 512, false, 511)?;
    let image = read_legacy(x, i, at)?;
    let sse = x.s.cr4 & cr4::OSFXSR != 0;
    let mxcsr = image[3] as u32;
    if mxcsr & !MXCSR_MASK != 0 {
        return Err(Trap::GP0);
    }
    x.s.x87 = xstate::load_x87(&image, WIDE);
    if sse {
        x.s.mxcsr = mxcsr;
        let count = registers(x);
        xstate::load_xmm(&image, &mut x.s, count);
    }
    Ok(())
}

/// #UD without CR4.OSXSAVE, #NM with CR0.TS.
fn enabled(x: &Exec<'_>) -> Done {
    if x.s.cr4 & cr4::OSXSAVE == 0 {
        return Err(Trap::UD);
    }
    if x.s.cr0 & cr0::TS != 0 {
        return Err(Trap::NM);
    }
    Ok(())
}

/// The requested-feature bitmap: EDX:EAX within XCR0.
fn requested(x: &Exec<'_>) -> u64 {
    let mask = x.reg::<u64>(2) << 32 | u64::from(x.reg::<u32>(0));
    mask & x.s.xcr0
}

/// How XSAVE, XSAVEOPT and XSAVEC differ.
const PLAIN: u8 = 0;
const OPTIMIZED: u8 = 1;
const COMPACTED: u8 = 2;

fn xsave<const WIDE: bool, const HOW: u8>(x: &mut Exec<'_>, i: &Insn) -> Done {
    enabled(x)?;
    let rfbm = requested(x);
    let avx = rfbm & xcr0::AVX != 0;
    let len = if avx { AVX_OFFSET + 256 } else { AVX_OFFSET };
    let at = area(x, i, 64, len, true, len - 1)?;
    let mut used = xstate::in_use(&x.s);
    if HOW == COMPACTED && x.s.mxcsr != MXCSR_INIT {
        // MXCSR is where XRSTOR finds it only if SSE is said to be there.
        used |= xcr0::SSE;
    }
    let word = |n: u64| at.wrapping_add(n) & i.address_mask();
    // Everything is written, or (with the init optimization) what is in use.
    let written = if HOW == PLAIN { rfbm } else { rfbm & used };
    let count = registers(x);
    let mut image = [0; 52];
    xstate::store_x87(&mut image, &x.s.x87, WIDE);
    xstate::store_mxcsr(&mut image, x.s.mxcsr);
    xstate::store_xmm(&mut image, &x.s, count);
    if written & xcr0::X87 != 0 {
        write_words(x, i, at, &image, 0..3)?;
        write_words(x, i, at, &image, 4..20)?;
    }
    let mxcsr = if HOW == COMPACTED {
        written & xcr0::SSE != 0
    } else {
        rfbm & (xcr0::SSE | xcr0::AVX) != 0
    };
    if mxcsr {
        write_words(x, i, at, &image, 3..4)?;
    }
    if written & xcr0::SSE != 0 {
        write_words(x, i, at, &image, 20..20 + 2 * count)?;
    }
    if written & xcr0::AVX != 0 {
        for n in 0..count {
            let v = x.s.vector[n];
            x.write(i.seg, word(AVX_OFFSET + 16 * n as u64), v[2])?;
            x.write(i.seg, word(AVX_OFFSET + 16 * n as u64 + 8), v[3])?;
        }
    }
    if HOW == COMPACTED {
        x.write(i.seg, word(512), rfbm & used)?;
        return x.write(i.seg, word(520), rfbm | 1 << 63);
    }
    let old: u64 = x.read(i.seg, word(512))?;
    x.write(i.seg, word(512), old & !rfbm | rfbm & used)
}

fn xsaves<const WIDE: bool>(x: &mut Exec<'_>, i: &Insn) -> Done {
    // IA32_XSS has no bit: the same as XSAVEC.
    xsave::<WIDE, COMPACTED>(x, i)
}

fn xrstor<const WIDE: bool, const SUPERVISOR: bool>(x: &mut Exec<'_>, i: &Insn) -> Done {
    enabled(x)?;
    let rfbm = requested(x);
    let at = area(x, i, 64, AVX_OFFSET, false, 520)?;
    let word = |n: u64| at.wrapping_add(n) & i.address_mask();
    let mut header = [0u64; 8];
    for (n, h) in header.iter_mut().enumerate() {
        *h = x.read(i.seg, word(512 + 8 * n as u64))?;
    }
    let [bv, comp, ..] = header;
    let compacted = comp >> 63 != 0;
    let layout = comp & !(1 << 63);
    let valid = if compacted {
        (SUPERVISOR || x.model.feature(Feature::Xsavec))
            && layout & !x.s.xcr0 == 0
            && bv & !layout == 0
            && header[2..].iter().all(|&h| h == 0)
    } else {
        !SUPERVISOR && comp == 0 && header[2] == 0 && bv & !x.s.xcr0 == 0
    };
    if !valid {
        return Err(Trap::GP0);
    }
    let image = read_legacy(x, i, at)?;
    let load = rfbm & bv;
    let count = registers(x);
    let mut high = [[0u64; 2]; 16];
    if load & xcr0::AVX != 0 {
        x.probe_read(i.seg, word(AVX_OFFSET), 256)?;
        for (n, v) in high.iter_mut().enumerate().take(count) {
            v[0] = x.read(i.seg, word(AVX_OFFSET + 16 * n as u64))?;
            v[1] = x.read(i.seg, word(AVX_OFFSET + 16 * n as u64 + 8))?;
        }
    }
    let mxcsr = if compacted {
        match (rfbm & xcr0::SSE != 0, load & xcr0::SSE != 0) {
            (true, true) => Some(image[3] as u32),
            (true, false) => Some(MXCSR_INIT),
            _ => None,
        }
    } else if rfbm & (xcr0::SSE | xcr0::AVX) != 0 {
        Some(image[3] as u32)
    } else {
        None
    };
    if mxcsr.is_some_and(|m| m & !MXCSR_MASK != 0) {
        return Err(Trap::GP0);
    }
    if rfbm & xcr0::X87 != 0 {
        x.s.x87 = if load & xcr0::X87 != 0 {
            xstate::load_x87(&image, WIDE)
        } else {
            X87::default()
        };
    }
    if let Some(mxcsr) = mxcsr {
        x.s.mxcsr = mxcsr;
    }
    if rfbm & xcr0::SSE != 0 {
        let image = if load & xcr0::SSE != 0 {
            image
        } else {
            [0; 52]
        };
        xstate::load_xmm(&image, &mut x.s, count);
    }
    if rfbm & xcr0::AVX != 0 {
        for (v, high) in x.s.vector.iter_mut().zip(high).take(count) {
            v[2] = high[0];
            v[3] = high[1];
        }
    }
    Ok(())
}

fn xgetbv(x: &mut Exec<'_>, _: &Insn) -> Done {
    if x.s.cr4 & cr4::OSXSAVE == 0 {
        return Err(Trap::UD);
    }
    let value = match x.reg::<u32>(1) {
        0 => x.s.xcr0,
        1 if x.model.feature(Feature::Xgetbv1) => x.s.xcr0 & xstate::in_use(&x.s),
        _ => return Err(Trap::GP0),
    };
    x.set_reg(0, value as u32);
    x.set_reg(2, (value >> 32) as u32);
    Ok(())
}

fn xsetbv(x: &mut Exec<'_>, _: &Insn) -> Done {
    if x.s.cr4 & cr4::OSXSAVE == 0 {
        return Err(Trap::UD);
    }
    if x.s.cpl != 0 {
        return Err(Trap::GP0);
    }
    let value = x.reg::<u64>(2) << 32 | u64::from(x.reg::<u32>(0));
    let allowed = value & !x.model.xcr0_bits() == 0
        && value & xcr0::X87 != 0
        && (value & xcr0::AVX == 0 || value & xcr0::SSE != 0);
    if x.reg::<u32>(1) != 0 || !allowed {
        return Err(Trap::GP0);
    }
    x.s.xcr0 = value;
    x.refresh();
    Ok(())
}

fn ldmxcsr(x: &mut Exec<'_>, i: &Insn) -> Done {
    let value: u32 = x.get(i, 0)?;
    if value & !MXCSR_MASK != 0 {
        return Err(Trap::GP0);
    }
    x.s.mxcsr = value;
    Ok(())
}

fn stmxcsr(x: &mut Exec<'_>, i: &Insn) -> Done {
    let value = x.s.mxcsr;
    x.set(i, 0, value)
}

const fn row(code: Code, run: crate::insn::Handler) -> Row {
    Row::new(code, run)
}

pub(crate) const ROWS: &[Row] = &[
    row(Code::Fxsave_m512byte, fxsave::<false>).unit(Unit::X87),
    row(Code::Fxsave64_m512byte, fxsave::<true>).unit(Unit::X87),
    row(Code::Fxrstor_m512byte, fxrstor::<false>).unit(Unit::X87),
    row(Code::Fxrstor64_m512byte, fxrstor::<true>).unit(Unit::X87),
    row(Code::Xsave_mem, xsave::<false, PLAIN>).checked(),
    row(Code::Xsave64_mem, xsave::<true, PLAIN>).checked(),
    row(Code::Xsaveopt_mem, xsave::<false, OPTIMIZED>).checked(),
    row(Code::Xsaveopt64_mem, xsave::<true, OPTIMIZED>).checked(),
    row(Code::Xsavec_mem, xsave::<false, COMPACTED>).checked(),
    row(Code::Xsavec64_mem, xsave::<true, COMPACTED>).checked(),
    row(Code::Xsaves_mem, xsaves::<false>).cpl0(),
    row(Code::Xsaves64_mem, xsaves::<true>).cpl0(),
    row(Code::Xrstor_mem, xrstor::<false, false>).checked(),
    row(Code::Xrstor64_mem, xrstor::<true, false>).checked(),
    row(Code::Xrstors_mem, xrstor::<false, true>).cpl0(),
    row(Code::Xrstors64_mem, xrstor::<true, true>).cpl0(),
    row(Code::Xgetbv, xgetbv).checked().behaviour(),
    row(Code::Xsetbv, xsetbv).checked().control(),
    row(Code::Ldmxcsr_m32, ldmxcsr).unit(Unit::Sse),
    row(Code::Stmxcsr_m32, stmxcsr).unit(Unit::Sse),
    row(Code::VEX_Vldmxcsr_m32, ldmxcsr).unit(Unit::Avx),
    row(Code::VEX_Vstmxcsr_m32, stmxcsr).unit(Unit::Avx),
];
