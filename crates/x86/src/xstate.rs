//! The memory images of the x87, SSE and AVX state: the 512 bytes of FXSAVE, the XSAVE header
//! and the AVX component (SDM volume 1, "Saving and Restoring" and "Managing State Using the
//! XSAVE Feature Set"). Called by `isa::xsave`, and by engines that exchange whole images.

use crate::state::{CpuState, Register80, X87, xcr0};

/// Offset of the AVX component, in the standard form and (as nothing comes before it) in the
/// compacted one.
pub(crate) const AVX_OFFSET: u64 = 576;
/// The bits of MXCSR that exist.
pub const MXCSR_MASK: u32 = 0xffff;
/// MXCSR after reset and in the initial configuration.
pub(crate) const MXCSR_INIT: u32 = 0x1f80;

/// The first 416 bytes of an FXSAVE image, as quadwords: what processors write (the rest is
/// the software's).
pub(crate) type Legacy = [u64; 52];

/// Bytes of an XSAVE image with all components of this XCR0.
pub fn image_size(bits: u64) -> u64 {
    if bits & xcr0::AVX != 0 {
        AVX_OFFSET + 256
    } else {
        AVX_OFFSET
    }
}

/// Which state components are not in their initial configuration.
pub(crate) fn in_use(s: &CpuState) -> u64 {
    let mut bits = 0;
    if s.x87 != X87::default() {
        bits |= xcr0::X87;
    }
    if s.vector.iter().any(|v| v[0] | v[1] != 0) {
        bits |= xcr0::SSE;
    }
    if s.vector.iter().any(|v| v[2] | v[3] != 0) {
        bits |= xcr0::AVX;
    }
    bits
}

/// Bytes 0–23 and 32–159: the x87 state; `wide` for 64-bit pointers (FXSAVE64).
pub(crate) fn store_x87(image: &mut Legacy, x87: &X87, wide: bool) {
    image[0] = u64::from(x87.control)
        | u64::from(x87.status) << 16
        | u64::from(x87.valid) << 32
        | u64::from(x87.opcode) << 48;
    let pointer = |offset: u64, selector: u16| {
        if wide {
            offset
        } else {
            offset & 0xffff_ffff | u64::from(selector) << 32
        }
    };
    image[1] = pointer(x87.ip, x87.cs);
    image[2] = pointer(x87.dp, x87.ds);
    let top = usize::from(x87.status >> 11 & 7);
    for n in 0..8 {
        let r = x87.regs[(top + n) & 7];
        image[4 + 2 * n] = r.significand;
        image[5 + 2 * n] = r.sign_exponent.into();
    }
}

/// The reverse of [`store_x87`].
pub(crate) fn load_x87(image: &Legacy, wide: bool) -> X87 {
    let status = (image[0] >> 16) as u16;
    let top = usize::from(status >> 11 & 7);
    let mut regs = [Register80::default(); 8];
    for n in 0..8 {
        regs[(top + n) & 7] = Register80 {
            significand: image[4 + 2 * n],
            sign_exponent: image[5 + 2 * n] as u16,
        };
    }
    let offset = |word: u64| if wide { word } else { word & 0xffff_ffff };
    let selector = |word: u64| if wide { 0 } else { (word >> 32) as u16 };
    let mut x87 = X87 {
        regs,
        // Bits 6 and 13–15 of the control word are fixed: one and zero.
        control: image[0] as u16 & 0x1f3f | 0x40,
        status,
        valid: (image[0] >> 32) as u8,
        opcode: (image[0] >> 48) as u16 & 0x7ff,
        ip: offset(image[1]),
        cs: selector(image[1]),
        dp: offset(image[2]),
        ds: selector(image[2]),
    };
    x87.refresh_summary();
    x87
}

impl X87 {
    /// Works out ES and B of the status word from the unmasked exceptions.
    pub(crate) fn refresh_summary(&mut self) {
        self.status &= !0x8080;
        if self.status & !self.control & 0x3f != 0 {
            self.status |= 0x8080;
        }
    }
}

/// Bytes 24–31.
pub(crate) fn store_mxcsr(image: &mut Legacy, mxcsr: u32) {
    image[3] = u64::from(mxcsr) | u64::from(MXCSR_MASK) << 32;
}

/// Bytes 160–415: XMM0 to XMM`count`-1.
pub(crate) fn store_xmm(image: &mut Legacy, s: &CpuState, count: usize) {
    for n in 0..count {
        image[20 + 2 * n] = s.vector[n][0];
        image[21 + 2 * n] = s.vector[n][1];
    }
}

/// The reverse of [`store_xmm`].
pub(crate) fn load_xmm(image: &Legacy, s: &mut CpuState, count: usize) {
    for n in 0..count {
        s.vector[n][0] = image[20 + 2 * n];
        s.vector[n][1] = image[21 + 2 * n];
    }
}

/// An XSAVE image in standard form with the x87, SSE and AVX components, as quadwords.
pub type Image = [u64; 104];

/// Quadword of XSTATE_BV.
const XSTATE_BV: usize = 64;
const AVX_WORD: usize = AVX_OFFSET as usize / 8;

/// The image of `s`; the AVX component only if `avx`.
pub fn to_image(s: &CpuState, avx: bool) -> Image {
    let mut legacy: Legacy = [0; 52];
    store_x87(&mut legacy, &s.x87, true);
    store_mxcsr(&mut legacy, s.mxcsr);
    store_xmm(&mut legacy, s, 16);
    let mut image = [0; 104];
    image[..52].copy_from_slice(&legacy);
    image[XSTATE_BV] = xcr0::X87 | xcr0::SSE;
    if avx {
        image[XSTATE_BV] |= xcr0::AVX;
        for (n, v) in s.vector.iter().enumerate() {
            image[AVX_WORD + 2 * n] = v[2];
            image[AVX_WORD + 2 * n + 1] = v[3];
        }
    }
    image
}

/// The reverse of [`to_image`]; components that XSTATE_BV leaves out are in their initial
/// configuration. The selectors of the last x87 instruction and operand are not in the image.
pub fn from_image(image: &Image, s: &mut CpuState) {
    let mut legacy: Legacy = [0; 52];
    legacy.copy_from_slice(&image[..52]);
    let has = |component| image[XSTATE_BV] & component != 0;
    s.x87 = if has(xcr0::X87) {
        load_x87(&legacy, true)
    } else {
        X87::default()
    };
    s.mxcsr = image[3] as u32;
    s.vector = [[0; 4]; 16];
    if has(xcr0::SSE) {
        load_xmm(&legacy, s, 16);
    }
    if has(xcr0::AVX) {
        for (n, v) in s.vector.iter_mut().enumerate() {
            v[2] = image[AVX_WORD + 2 * n];
            v[3] = image[AVX_WORD + 2 * n + 1];
        }
    }
}
