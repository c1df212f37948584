//! Vector memory accesses under a mask, which touch (and fault on) the chosen elements only, and
//! the gathers (SDM volume 2: MASKMOVQ, MASKMOVDQU, VMASKMOVPS, VMASKMOVPD, VPMASKMOVD,
//! VPMASKMOVQ, VGATHER*, VPGATHER*). None of them but MASKMOVQ and MASKMOVDQU checks alignment.
//!
//! Departure from hardware: which byte of the faulting page CR2 names. Intel's processors give the
//! operand's last byte there, or others.

use crate::exec::Exec;
use crate::insn::Insn;
use crate::state::{gpr, rflags};
use crate::table::{Row, Unit};
use crate::trap::Done;
use iced_x86::Code;
use mem::Word;

/// Element `n` of size `T`.
#[inline(always)]
fn element<T: Word>(v: &[u64; 4], n: usize) -> T {
    let per = 8 / T::SIZE;
    T::from_u64(v[n / per] >> (8 * T::SIZE * (n % per)))
}

#[inline(always)]
fn set_element<T: Word>(v: &mut [u64; 4], n: usize, value: T) {
    let (per, mask) = (8 / T::SIZE, u64::MAX >> (64 - 8 * T::SIZE));
    let shift = 8 * T::SIZE * (n % per);
    v[n / per] = v[n / per] & !(mask << shift) | value.to_u64() << shift;
}

/// The sign bit of element `n`.
#[inline(always)]
fn chosen<T: Word>(mask: &[u64; 4], n: usize) -> bool {
    element::<T>(mask, n).to_u64() >> (8 * T::SIZE - 1) != 0
}

/// The address `plus` bytes into an operand: 64-bit code does not wrap it at the address size.
fn beyond(bits: u8, offset: u64, plus: usize) -> u64 {
    let at = offset.wrapping_add(plus as u64);
    if bits == 64 { at } else { at & 0xffff_ffff }
}

/// Reads an element: no alignment check, whatever the mask.
fn read_element<T: Word>(x: &mut Exec<'_>, i: &Insn, at: u64) -> Done<T> {
    if x.s.rflags & rflags::AC == 0 {
        return x.read(i.seg, at);
    }
    let linear = x.linear_unchecked(i.seg, at);
    x.canonical(i.seg, linear, T::SIZE as u64)?;
    let mut value = 0;
    for n in 0..T::SIZE as u64 {
        value |= u64::from(x.read::<u8>(i.seg, at.wrapping_add(n))?) << (8 * n);
    }
    Ok(T::from_u64(value))
}

fn probe_element<T: Word>(x: &mut Exec<'_>, i: &Insn, at: u64) -> Done {
    if x.s.rflags & rflags::AC == 0 {
        return x.probe_write(i.seg, at, T::SIZE as u64);
    }
    let linear = x.linear_unchecked(i.seg, at);
    x.canonical(i.seg, linear, T::SIZE as u64)?;
    (0..T::SIZE as u64).try_for_each(|n| x.probe_write(i.seg, at.wrapping_add(n), 1))
}

fn write_element<T: Word>(x: &mut Exec<'_>, i: &Insn, at: u64, value: T) -> Done {
    if x.s.rflags & rflags::AC == 0 {
        return x.write(i.seg, at, value);
    }
    probe_element::<T>(x, i, at)?;
    (0..T::SIZE as u64).try_for_each(|n| {
        let byte = (value.to_u64() >> (8 * n)) as u8;
        x.write(i.seg, at.wrapping_add(n), byte)
    })
}

/// Stores the chosen elements at `offset` on; all or, on a fault, none.
fn store_chosen<T: Word>(
    x: &mut Exec<'_>,
    i: &Insn,
    offset: u64,
    count: usize,
    value: &[u64; 4],
    mask: &[u64; 4],
) -> Done {
    let at = |n: usize| beyond(x.bits(), offset, n * T::SIZE);
    let places: [u64; 16] = core::array::from_fn(at);
    for n in (0..count).filter(|&n| chosen::<T>(mask, n)) {
        probe_element::<T>(x, i, places[n])?;
    }
    for n in (0..count).filter(|&n| chosen::<T>(mask, n)) {
        write_element(x, i, places[n], element::<T>(value, n))?;
    }
    Ok(())
}

/// MASKMOVDQU: bytes to DS:rDI, or the segment of the prefix.
fn maskmovdqu(x: &mut Exec<'_>, i: &Insn) -> Done {
    let offset = x.s.gpr[gpr::RDI] & i.address_mask();
    let (value, mask) = (x.ymm(i.ops[1]), x.ymm(i.ops[2]));
    // Two stores of eight bytes, checked whole, the upper one first.
    x.probe_write(i.seg, offset.wrapping_add(8) & i.address_mask(), 8)?;
    x.probe_write(i.seg, offset, 8)?;
    store_chosen::<u8>(x, i, offset, 16, &value, &mask)
}

fn maskmovq(x: &mut Exec<'_>, i: &Insn) -> Done {
    if x.x87_frozen()? {
        return Ok(());
    }
    x.enter_mmx();
    let offset = x.s.gpr[gpr::RDI] & i.address_mask();
    let (value, mask) = (x.mm(i.ops[1]), x.mm(i.ops[2]));
    x.probe_write(i.seg, offset, 8)?;
    store_chosen::<u8>(x, i, offset, 8, &[value, 0, 0, 0], &[mask, 0, 0, 0])
}

/// VMASKMOV and VPMASKMOV loads of `BYTES`: elements not chosen are zero.
fn load<T: Word, const BYTES: usize>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let (mask, offset) = (x.ymm(i.ops[1]), x.ea(i));
    let mut value = [0; 4];
    for n in (0..BYTES / T::SIZE).filter(|&n| chosen::<T>(&mask, n)) {
        let at = beyond(x.bits(), offset, n * T::SIZE);
        set_element::<T>(&mut value, n, read_element(x, i, at)?);
    }
    x.set_ymm(i.ops[0], value);
    Ok(())
}

/// VMASKMOV and VPMASKMOV stores of `BYTES`.
fn store<T: Word, const BYTES: usize>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let (mask, value, offset) = (x.ymm(i.ops[1]), x.ymm(i.ops[2]), x.ea(i));
    store_chosen::<T>(x, i, offset, BYTES / T::SIZE, &value, &mask)
}

/// Gathers `COUNT` elements `T` by indices `I`. An element that faults leaves those before it
/// loaded and their mask elements cleared, so that the instruction goes on where it stopped.
///
/// Operands: destination, VSIB memory, mask. Registers that coincide are #UD in the decoder.
fn gather<T: Word, I: Word, const COUNT: usize>(x: &mut Exec<'_>, i: &Insn) -> Done {
    let base = x.s.gpr.get(usize::from(i.base)).copied().unwrap_or(0);
    let (mut value, old, index) = (x.ymm(i.ops[0]), x.ymm(i.ops[2]), x.ymm(i.index));
    let (mut mask, mut done) = ([0; 4], false);
    // The mask is as long as the longer of elements and indices, and spread over all of it.
    let bytes = COUNT * T::SIZE.max(I::SIZE);
    for n in (0..bytes / T::SIZE).filter(|&n| chosen::<T>(&old, n)) {
        set_element(&mut mask, n, T::from_u64(u64::MAX));
    }
    for n in (0..COUNT).filter(|&n| chosen::<T>(&old, n)) {
        let unused = 64 - 8 * I::SIZE as u32;
        let index = (element::<I>(&index, n).to_u64() << unused) as i64 >> unused;
        let offset = base
            .wrapping_add((index as u64) << i.scale)
            .wrapping_add(i.disp);
        match read_element::<T>(x, i, offset & i.address_mask()) {
            Ok(element) => {
                set_element(&mut value, n, element);
                done = true;
            }
            Err(trap) => {
                if bytes == 16 && done {
                    value[2..].fill(0);
                }
                x.set_ymm(i.ops[0], value);
                x.set_ymm(i.ops[2], mask);
                return Err(trap);
            }
        }
        set_element(&mut mask, n, T::from_u64(0));
    }
    value[(COUNT * T::SIZE / 8)..].fill(0);
    x.set_ymm(i.ops[0], value);
    x.set_ymm(i.ops[2], [0; 4]);
    Ok(())
}

pub(crate) const ROWS: &[Row] = &[
    Row::new(Code::Maskmovq_rDI_mm_mm, maskmovq).unit(Unit::Mmx),
    Row::new(Code::Maskmovdqu_rDI_xmm_xmm, maskmovdqu).unit(Unit::Sse),
    Row::new(Code::VEX_Vmaskmovdqu_rDI_xmm_xmm, maskmovdqu).unit(Unit::Avx),
    Row::new(Code::VEX_Vmaskmovps_xmm_xmm_m128, load::<u32, 16>).unit(Unit::Avx),
    Row::new(Code::VEX_Vmaskmovps_m128_xmm_xmm, store::<u32, 16>).unit(Unit::Avx),
    Row::new(Code::VEX_Vmaskmovps_ymm_ymm_m256, load::<u32, 32>).unit(Unit::Avx),
    Row::new(Code::VEX_Vmaskmovps_m256_ymm_ymm, store::<u32, 32>).unit(Unit::Avx),
    Row::new(Code::VEX_Vmaskmovpd_xmm_xmm_m128, load::<u64, 16>).unit(Unit::Avx),
    Row::new(Code::VEX_Vmaskmovpd_m128_xmm_xmm, store::<u64, 16>).unit(Unit::Avx),
    Row::new(Code::VEX_Vmaskmovpd_ymm_ymm_m256, load::<u64, 32>).unit(Unit::Avx),
    Row::new(Code::VEX_Vmaskmovpd_m256_ymm_ymm, store::<u64, 32>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpmaskmovd_xmm_xmm_m128, load::<u32, 16>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpmaskmovd_m128_xmm_xmm, store::<u32, 16>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpmaskmovd_ymm_ymm_m256, load::<u32, 32>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpmaskmovd_m256_ymm_ymm, store::<u32, 32>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpmaskmovq_xmm_xmm_m128, load::<u64, 16>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpmaskmovq_m128_xmm_xmm, store::<u64, 16>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpmaskmovq_ymm_ymm_m256, load::<u64, 32>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpmaskmovq_m256_ymm_ymm, store::<u64, 32>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpgatherdd_xmm_vm32x_xmm, gather::<u32, u32, 4>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpgatherdd_ymm_vm32y_ymm, gather::<u32, u32, 8>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpgatherdq_xmm_vm32x_xmm, gather::<u64, u32, 2>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpgatherdq_ymm_vm32x_ymm, gather::<u64, u32, 4>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpgatherqd_xmm_vm64x_xmm, gather::<u32, u64, 2>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpgatherqd_xmm_vm64y_xmm, gather::<u32, u64, 4>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpgatherqq_xmm_vm64x_xmm, gather::<u64, u64, 2>).unit(Unit::Avx),
    Row::new(Code::VEX_Vpgatherqq_ymm_vm64y_ymm, gather::<u64, u64, 4>).unit(Unit::Avx),
    Row::new(Code::VEX_Vgatherdps_xmm_vm32x_xmm, gather::<u32, u32, 4>).unit(Unit::Avx),
    Row::new(Code::VEX_Vgatherdps_ymm_vm32y_ymm, gather::<u32, u32, 8>).unit(Unit::Avx),
    Row::new(Code::VEX_Vgatherdpd_xmm_vm32x_xmm, gather::<u64, u32, 2>).unit(Unit::Avx),
    Row::new(Code::VEX_Vgatherdpd_ymm_vm32x_ymm, gather::<u64, u32, 4>).unit(Unit::Avx),
    Row::new(Code::VEX_Vgatherqps_xmm_vm64x_xmm, gather::<u32, u64, 2>).unit(Unit::Avx),
    Row::new(Code::VEX_Vgatherqps_xmm_vm64y_xmm, gather::<u32, u64, 4>).unit(Unit::Avx),
    Row::new(Code::VEX_Vgatherqpd_xmm_vm64x_xmm, gather::<u64, u64, 2>).unit(Unit::Avx),
    Row::new(Code::VEX_Vgatherqpd_ymm_vm64y_ymm, gather::<u64, u64, 4>).unit(Unit::Avx),
];
