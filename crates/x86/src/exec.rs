//! What an instruction's semantics are written against: the processor while it runs, its
//! registers by operand, and guest memory by segment and offset with every architectural check.

use crate::bus::{Bus, Counters, Signals};
use crate::cpuid::CpuModel;
use crate::flags::Flags;
use crate::insn::{IMM, Insn, MEM};
use crate::mmu::{Access, Place, Rights, Tlb, is_canonical};
use crate::rehearsal::Journal;
use crate::state::{CpuState, cr0, cr4, efer, rflags, seg};
use crate::trap::{Broken, Done, Trap};
use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use core::ops::{Deref, DerefMut};
use mem::{GuestMemory, Word};

/// Reasons in [`Cpu::attention`] to leave the fast path after the current instruction.
pub mod attention {
    /// TF is set: a debug trap follows each instruction.
    pub const STEP: u32 = 1;
    /// An interrupt shadow is on.
    pub const SHADOW: u32 = 2;
    /// Mode, segments or paging changed: decoded code may no longer apply.
    pub const MODE: u32 = 4;
    /// Code that is cached was written.
    pub const CODE: u32 = 8;
    /// DR7 has breakpoints armed, or one was hit.
    pub const DEBUG: u32 = 16;
    /// HLT, shutdown.
    pub const ACTIVITY: u32 = 32;
    /// Interrupts may have become deliverable (IF set, CR8 lowered).
    pub const EVENTS: u32 = 64;
}

/// A processor as the interpreter holds it: the architectural state, what is derived from it, and
/// its caches.
pub struct Cpu {
    /// Architectural state. The arithmetic bits of `s.rflags` are stale while running: they are
    /// in `flags`; use [`Cpu::rflags`].
    pub s: CpuState,
    /// Arithmetic flags.
    pub flags: Flags,
    /// RIP after the current instruction; branches set it.
    pub next: u64,
    /// See [`attention`].
    pub attention: u32,
    /// Why the VM must stop, after [`Trap::Broken`].
    pub broken: Broken,
    /// Costs.
    pub counters: Counters,
    /// The CPU model.
    pub model: CpuModel,
    /// APIC ID at power-on.
    pub id: u32,
    /// Debug conditions met by the current instruction (DR6 bits).
    pub debug_hits: u64,
    /// An event was delivered: an instruction that leads into a handler (INT n) is not stepped.
    pub delivered: bool,
    /// Where the stream of RDRAND and RDSEED stands, while the bus gives none.
    entropy: u64,
    /// Guest memory.
    pub ram: Arc<GuestMemory>,
    /// The input pins.
    pub signals: Arc<Signals>,
    /// Cached translations.
    pub tlb: Tlb,
    /// Memory as it was, while instructions run that are to leave no trace.
    pub(crate) journal: Option<Box<Journal>>,
    /// Segment bases as addressing uses them now (0 for ES, CS, SS, DS in 64-bit mode).
    bases: [u64; 6],
    /// Segments that need no check to read, one bit each.
    fast_read: u8,
    /// Segments that need no check to write.
    fast_write: u8,
    /// 16, 32 or 64.
    bits: u8,
}

/// A processor with its bus, while it runs. Dereferences to [`Cpu`].
pub struct Exec<'a> {
    /// The processor.
    pub cpu: &'a mut Cpu,
    /// Its pins.
    pub bus: &'a mut dyn Bus,
}

impl Deref for Exec<'_> {
    type Target = Cpu;
    #[inline(always)]
    fn deref(&self) -> &Cpu {
        self.cpu
    }
}

impl DerefMut for Exec<'_> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut Cpu {
        self.cpu
    }
}

impl Cpu {
    /// A processor in its power-on state.
    pub fn new(id: u32, model: CpuModel, ram: Arc<GuestMemory>, signals: Arc<Signals>) -> Cpu {
        let s = CpuState::reset(model.signature(), id == 0);
        let mut cpu = Cpu {
            s,
            flags: Flags::from_bits(0),
            next: 0,
            attention: 0,
            broken: None,
            counters: Counters::default(),
            model,
            id,
            debug_hits: 0,
            delivered: false,
            entropy: u64::from(id) << 32 | 0x6d6f_696e,
            ram,
            signals,
            tlb: Tlb::default(),
            journal: None,
            bases: [0; 6],
            fast_read: 0,
            fast_write: 0,
            bits: 16,
        };
        cpu.refresh();
        cpu
    }

    /// The architectural state, complete.
    pub(crate) fn architectural_state(&self) -> CpuState {
        CpuState {
            rflags: self.rflags(),
            ..self.s.clone()
        }
    }

    /// True if ES, CS, SS and DS are flat, readable and (but CS) writable, and no alignment is
    /// checked: addresses are offsets.
    pub fn is_flat(&self) -> bool {
        self.fast_read & 0xf == 0xf && self.fast_write & 0xd == 0xd
    }

    /// Code size of the current mode: 16, 32 or 64.
    #[inline(always)]
    pub fn bits(&self) -> u8 {
        self.bits
    }

    /// True in 64-bit mode.
    #[inline(always)]
    pub fn is_64bit(&self) -> bool {
        self.bits == 64
    }

    /// True in real mode or virtual-8086 mode.
    pub fn is_real_or_v86(&self) -> bool {
        self.s.cr0 & cr0::PE == 0 || self.is_v86()
    }

    /// True in virtual-8086 mode.
    pub fn is_v86(&self) -> bool {
        self.s.rflags & rflags::VM != 0
    }

    /// I/O privilege level.
    pub fn iopl(&self) -> u8 {
        (self.s.rflags >> 12 & 3) as u8
    }

    /// All of RFLAGS.
    pub fn rflags(&self) -> u64 {
        self.s.rflags & !rflags::ARITHMETIC | self.flags.bits()
    }

    /// Sets all of RFLAGS, without any privilege check.
    pub fn set_rflags(&mut self, value: u64) {
        let value = value & rflags::ALL | rflags::FIXED;
        let changed = value ^ self.s.rflags;
        self.flags = Flags::from_bits(value);
        self.s.rflags = value;
        if changed & (rflags::VM | rflags::AC | rflags::TF) != 0 {
            self.refresh();
        }
        if changed & value & rflags::IF != 0 {
            self.attention |= attention::EVENTS;
        }
    }

    /// To be called after any change of segments, CPL, control registers, EFER, or RFLAGS.VM, AC
    /// and TF: works out what is derived from them.
    pub fn refresh(&mut self) {
        let s = &self.s;
        let long = s.efer & efer::LMA != 0;
        let code = &s.seg[seg::CS as usize];
        self.bits = if long && code.attributes.long() {
            64
        } else if code.attributes.big() && s.rflags & rflags::VM == 0 {
            32
        } else {
            16
        };
        let aligned = s.cr0 & cr0::AM != 0 && s.rflags & rflags::AC != 0 && s.cpl == 3;
        self.fast_read = 0;
        self.fast_write = 0;
        for n in 0..6u8 {
            let segment = &s.seg[usize::from(n)];
            let flat64 = self.bits == 64;
            self.bases[usize::from(n)] = if flat64 && n != seg::FS && n != seg::GS {
                0
            } else {
                segment.base
            };
            let a = segment.attributes;
            let flat = flat64
                || a.present() && segment.limit == !0 && segment.base == 0 && !a.is_expand_down();
            if flat && !aligned {
                if flat64 || a.is_readable() {
                    self.fast_read |= 1 << n;
                }
                if flat64 || a.is_writable() {
                    self.fast_write |= 1 << n;
                }
            }
        }
        let view = if s.cpl == 3 {
            2
        } else if s.cr4 & cr4::SMAP != 0 && s.rflags & rflags::AC == 0 {
            1
        } else {
            0
        };
        self.tlb.set_view(view);
        self.attention |= attention::MODE;
        let mut set = |bit, on| {
            if on {
                self.attention |= bit;
            }
        };
        set(attention::STEP, self.s.rflags & rflags::TF != 0);
        set(attention::DEBUG, self.s.dr7 & 0xff != 0);
    }

    /// After a store to a page whose code is cached.
    #[cold]
    pub(crate) fn code_changed(&mut self) {
        self.attention |= attention::CODE;
    }

    /// True if a data breakpoint is armed in the page of `linear`.
    pub fn is_watched_page(&self, linear: u64) -> bool {
        self.s.dr7 & 0xff != 0
            && (0..4).any(|n| {
                self.s.dr7 >> (2 * n) & 3 != 0 && (self.s.dr[n as usize] ^ linear) >> 12 == 0
            })
    }

    /// Reads a general register of size `T` by its operand number (16–19 are AH, CH, DH, BH).
    #[inline(always)]
    pub fn reg<T: Word>(&self, n: u8) -> T {
        if T::SIZE == 1 && n & 0x10 != 0 {
            return T::from_u64(self.s.gpr[(n & 3) as usize] >> 8);
        }
        T::from_u64(self.s.gpr[(n & 15) as usize])
    }

    /// Writes a general register: 32-bit writes clear the upper half, smaller ones keep the rest.
    #[inline(always)]
    pub fn set_reg<T: Word>(&mut self, n: u8, value: T) {
        let value = value.to_u64();
        match T::SIZE {
            1 if n & 0x10 != 0 => {
                let r = &mut self.s.gpr[(n & 3) as usize];
                *r = *r & !0xff00 | value << 8;
            }
            1 => {
                let r = &mut self.s.gpr[(n & 15) as usize];
                *r = *r & !0xff | value;
            }
            2 => {
                let r = &mut self.s.gpr[(n & 15) as usize];
                *r = *r & !0xffff | value;
            }
            _ => self.s.gpr[(n & 15) as usize] = value,
        }
    }

    /// The effective address (offset) of the memory operand.
    #[inline(always)]
    pub fn ea(&self, i: &Insn) -> u64 {
        let get = |n: u8| self.s.gpr.get(usize::from(n)).copied().unwrap_or(0);
        (get(i.base)
            .wrapping_add(get(i.index) << i.scale)
            .wrapping_add(i.disp))
            & i.address_mask()
    }

    /// Sets RIP for a near branch: truncated by the operand size, checked against CS's limit or
    /// for being canonical.
    #[inline(always)]
    pub fn jump(&mut self, target: u64) -> Done {
        if self.bits == 64 {
            if !is_canonical(target) {
                return Err(Trap::GP0);
            }
        } else if target > u64::from(self.s.seg[seg::CS as usize].limit) {
            return Err(Trap::GP0);
        }
        self.next = target;
        Ok(())
    }

    /// Mask of the stack pointer: 16, 32 or 64 bits.
    #[inline(always)]
    pub fn stack_mask(&self) -> u64 {
        if self.bits == 64 {
            !0
        } else if self.s.seg[seg::SS as usize].attributes.big() {
            0xffff_ffff
        } else {
            0xffff
        }
    }

    /// Sets the stack pointer in the stack's size: the bits above stay.
    #[inline(always)]
    pub fn set_sp(&mut self, value: u64) {
        let mask = self.stack_mask();
        let rsp = &mut self.s.gpr[crate::state::gpr::RSP];
        // A 32-bit stack pointer is a 32-bit register write: the upper half is cleared.
        *rsp = if mask == 0xffff {
            *rsp & !mask | value & mask
        } else {
            value & mask
        };
    }

    /// The next value of the stream that stands in for randomness where the bus has none
    /// (SplitMix64 from the APIC ID): no secret from anybody, but the same in every run.
    fn repeatable_entropy(&mut self) -> u64 {
        self.entropy = self.entropy.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.entropy ^ self.entropy >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// True if something wants a long-running instruction to pause at its next boundary.
    #[inline(always)]
    pub fn interrupted(&self) -> bool {
        self.signals.get() != 0 || self.attention & !attention::MODE != 0
    }
}

impl Exec<'_> {
    /// The next value for RDRAND and RDSEED.
    pub(crate) fn entropy(&mut self) -> u64 {
        match self.bus.entropy() {
            Some(value) => value,
            None => self.repeatable_entropy(),
        }
    }

    /// Ends the VM with a report: we are wrong, or do not know how to go on.
    #[cold]
    pub fn stop<T>(&mut self, why: String) -> Done<T> {
        self.broken = Some(why);
        Err(Trap::Broken)
    }

    /// The linear address of an access, after the segment's checks.
    #[inline(always)]
    pub fn linear(&mut self, segment: u8, offset: u64, len: u64, access: Access) -> Done<u64> {
        let fast = if access == Access::Write {
            self.fast_write
        } else {
            self.fast_read
        };
        if fast & 1 << segment != 0 {
            return Ok(self.bases[usize::from(segment) % 6].wrapping_add(offset));
        }
        self.linear_checked(segment, offset, len, access)
    }

    #[cold]
    fn linear_checked(&mut self, n: u8, offset: u64, len: u64, access: Access) -> Done<u64> {
        let base = self.bases[usize::from(n) % 6];
        let fault = if n == seg::SS { Trap::SS0 } else { Trap::GP0 };
        let linear = if self.bits == 64 {
            base.wrapping_add(offset)
        } else {
            let segment = &self.s.seg[usize::from(n) % 6];
            let a = segment.attributes;
            let real = self.s.cr0 & cr0::PE == 0 || self.s.rflags & rflags::VM != 0;
            if !real {
                let kind_ok = match access {
                    Access::Write => a.is_writable(),
                    Access::Read => a.is_readable(),
                    Access::Execute => a.is_code(),
                };
                if !a.present() || !kind_ok {
                    return Err(fault);
                }
            }
            let last = offset + (len - 1);
            let inside = if a.is_expand_down() {
                let top = if a.big() { 0xffff_ffff } else { 0xffff };
                offset > u64::from(segment.limit) && last <= top
            } else {
                last <= u64::from(segment.limit)
            };
            if !inside {
                return Err(fault);
            }
            base.wrapping_add(offset) & 0xffff_ffff
        };
        let aligned = self.s.cr0 & cr0::AM != 0 && self.s.rflags & rflags::AC != 0;
        if aligned
            && self.s.cpl == 3
            && len.is_power_of_two()
            && len <= 8
            && linear & (len - 1) != 0
        {
            if self.bits == 64 && !is_canonical(linear) {
                return Err(fault);
            }
            return Err(Trap::AC0);
        }
        Ok(linear)
    }

    /// Reads `T` at `segment:offset` with the running program's rights.
    #[inline(always)]
    pub fn read<T: Word>(&mut self, segment: u8, offset: u64) -> Done<T> {
        let linear = self.linear(segment, offset, T::SIZE as u64, Access::Read)?;
        match self.tlb.hit(Access::Read, linear, T::SIZE as u64) {
            Some(at) => Ok(self.ram.load(at)),
            None => self.read_slow(segment, linear, Rights::Program),
        }
    }

    /// Writes `T` at `segment:offset` with the running program's rights.
    #[inline(always)]
    pub fn write<T: Word>(&mut self, segment: u8, offset: u64, value: T) -> Done {
        let linear = self.linear(segment, offset, T::SIZE as u64, Access::Write)?;
        match self.tlb.hit(Access::Write, linear, T::SIZE as u64) {
            Some(at) => {
                if self.ram.store(at, value) {
                    self.code_changed();
                }
                Ok(())
            }
            None => self.write_slow(segment, linear, value, Rights::Program),
        }
    }

    /// The place of a run of elements of `T` upwards from `segment:offset`, if the segment needs
    /// no check and the page is in the TLB, and how many whole elements are left in the page.
    #[inline(always)]
    pub(crate) fn stretch<T: Word>(
        &self,
        segment: u8,
        offset: u64,
        access: Access,
    ) -> Option<(mem::RamOffset, u64)> {
        let fast = if access == Access::Write {
            self.fast_write
        } else {
            self.fast_read
        };
        if fast & 1 << segment == 0 {
            return None;
        }
        let linear = self.bases[usize::from(segment) % 6].wrapping_add(offset);
        let at = self.tlb.hit(access, linear, T::SIZE as u64)?;
        Some((at, (0x1000 - (linear & 0xfff)) / T::SIZE as u64))
    }

    /// Raises what a non-canonical byte of `len` from `linear` does.
    pub(crate) fn canonical(&self, segment: u8, linear: u64, len: u64) -> Done {
        if self.bits == 64 && !(is_canonical(linear) && is_canonical(linear.wrapping_add(len - 1)))
        {
            return Err(if segment == seg::SS {
                Trap::SS0
            } else {
                Trap::GP0
            });
        }
        Ok(())
    }

    /// The places of `len` bytes from `linear`: the first, and the one of the next page if they
    /// cross into it, with the number of bytes before the crossing.
    fn places(
        &mut self,
        linear: u64,
        len: u64,
        access: Access,
        rights: Rights,
    ) -> Done<(Place, Option<(u64, Place)>)> {
        let first = self.locate(linear, access, rights)?;
        let left = 0x1000 - (linear & 0xfff);
        if left >= len {
            return Ok((first, None));
        }
        let mut next = linear.wrapping_add(left);
        if self.s.efer & efer::LMA == 0 || self.bits != 64 {
            next &= 0xffff_ffff;
        }
        let second = self.locate(next, access, rights)?;
        Ok((first, Some((left, second))))
    }

    fn watch(&mut self, linear: u64, len: u64, access: Access) {
        if self.s.dr7 & 0xff == 0 {
            return;
        }
        for n in 0..4usize {
            let (on, kind) = (self.s.dr7 >> (2 * n) & 3, self.s.dr7 >> (16 + 4 * n) & 3);
            let size = [1, 2, 8, 4][(self.s.dr7 >> (18 + 4 * n) & 3) as usize];
            let meant = match kind {
                1 => access == Access::Write,
                3 => access != Access::Execute,
                _ => false,
            };
            let start = self.s.dr[n] & !(size - 1);
            let overlap = linear < start.wrapping_add(size) && start < linear.wrapping_add(len);
            if on != 0 && meant && overlap {
                self.debug_hits |= 1 << n;
                self.attention |= attention::DEBUG;
            }
        }
    }

    #[cold]
    fn read_slow<T: Word>(&mut self, segment: u8, linear: u64, rights: Rights) -> Done<T> {
        self.canonical(segment, linear, T::SIZE as u64)?;
        let (first, second) = self.places(linear, T::SIZE as u64, Access::Read, rights)?;
        self.watch(linear, T::SIZE as u64, Access::Read);
        Ok(self.gather(first, second))
    }

    fn gather<T: Word>(&mut self, first: Place, second: Option<(u64, Place)>) -> T {
        let Some((left, second)) = second else {
            return self.read_place(first);
        };
        let mut value = 0;
        for n in 0..T::SIZE as u64 {
            let place = if n < left {
                first.plus(n)
            } else {
                second.plus(n - left)
            };
            value |= u64::from(self.read_place::<u8>(place)) << (8 * n);
        }
        T::from_u64(value)
    }

    #[cold]
    fn write_slow<T: Word>(&mut self, segment: u8, linear: u64, value: T, rights: Rights) -> Done {
        self.canonical(segment, linear, T::SIZE as u64)?;
        let (first, second) = self.places(linear, T::SIZE as u64, Access::Write, rights)?;
        self.watch(linear, T::SIZE as u64, Access::Write);
        self.scatter(first, second, value);
        Ok(())
    }

    fn scatter<T: Word>(&mut self, first: Place, second: Option<(u64, Place)>, value: T) {
        let Some((left, second)) = second else {
            return self.write_place(first, value);
        };
        for n in 0..T::SIZE as u64 {
            let place = if n < left {
                first.plus(n)
            } else {
                second.plus(n - left)
            };
            self.write_place(place, (value.to_u64() >> (8 * n)) as u8);
        }
    }

    /// Reads with supervisor rights whatever the CPL: descriptor tables, TSS.
    pub fn read_system<T: Word>(&mut self, linear: u64) -> Done<T> {
        self.read_slow(seg::DS, self.wrap(linear), Rights::System)
    }

    /// Writes with supervisor rights.
    pub fn write_system<T: Word>(&mut self, linear: u64, value: T) -> Done {
        self.write_slow(seg::DS, self.wrap(linear), value, Rights::System)
    }

    /// Writes at a linear address with the given rights; a non-canonical one raises #GP(0).
    pub(crate) fn write_as<T: Word>(&mut self, linear: u64, value: T, rights: Rights) -> Done {
        let linear = self.wrap(linear);
        if self.s.efer & efer::LMA != 0
            && !(is_canonical(linear) && is_canonical(linear.wrapping_add(T::SIZE as u64 - 1)))
        {
            return Err(Trap::GP0);
        }
        self.write_slow(seg::DS, linear, value, rights)
    }

    /// The linear address of `segment:offset` without any check.
    pub(crate) fn linear_unchecked(&self, segment: u8, offset: u64) -> u64 {
        let linear = self.bases[usize::from(segment) % 6].wrapping_add(offset);
        if self.bits == 64 {
            linear
        } else {
            linear & 0xffff_ffff
        }
    }

    fn wrap(&self, linear: u64) -> u64 {
        if self.s.efer & efer::LMA != 0 {
            linear
        } else {
            linear & 0xffff_ffff
        }
    }

    /// Raises what a write of `len` bytes (at most a page) at `segment:offset` would, without
    /// writing.
    pub fn probe_write(&mut self, segment: u8, offset: u64, len: u64) -> Done {
        let linear = self.linear(segment, offset, len, Access::Write)?;
        self.canonical(segment, linear, len)?;
        self.places(linear, len, Access::Write, Rights::Program)
            .map(|_| ())
    }

    /// Raises what a read would.
    pub fn probe_read(&mut self, segment: u8, offset: u64, len: u64) -> Done {
        let linear = self.linear(segment, offset, len, Access::Read)?;
        self.canonical(segment, linear, len)?;
        self.places(linear, len, Access::Read, Rights::Program)
            .map(|_| ())
    }

    /// Reads, computes, writes: the write permission is checked first, and with `lock` the whole
    /// is atomic. `f` may be called several times; it sees the old value and gives the new one.
    /// Returns the old value and the new.
    #[inline(always)]
    pub fn modify_at<T: Word>(
        &mut self,
        segment: u8,
        offset: u64,
        lock: bool,
        mut f: impl FnMut(T) -> T,
    ) -> Done<(T, T)> {
        let linear = self.linear(segment, offset, T::SIZE as u64, Access::Write)?;
        // A read-modify-write needs a readable segment too; only odd descriptors make these
        // differ (a writable segment is always readable).
        let at = match self.tlb.hit(Access::Write, linear, T::SIZE as u64) {
            Some(at) => at,
            None => {
                self.canonical(segment, linear, T::SIZE as u64)?;
                let places = self.places(linear, T::SIZE as u64, Access::Write, Rights::Program)?;
                self.watch(linear, T::SIZE as u64, Access::Write);
                match places {
                    (Place::Ram(at), None) => at,
                    // Departure: a locked access across pages, or to a device, is not atomic, which
                    // only a split lock contended by another processor can see. A machine-wide lock
                    // would have to be taken by plain stores, too, to be any better.
                    (first, second) => {
                        let old = self.gather(first, second);
                        let new = f(old);
                        self.scatter(first, second, new);
                        return Ok((old, new));
                    }
                }
            }
        };
        if !lock {
            let old = self.ram.load(at);
            let new = f(old);
            if self.ram.store(at, new) {
                self.code_changed();
            }
            return Ok((old, new));
        }
        let mut old = self.ram.load(at);
        loop {
            let new = f(old);
            match self.ram.compare_exchange(at, old, new) {
                Ok(code) => {
                    if code {
                        self.code_changed();
                    }
                    return Ok((old, new));
                }
                Err(now) => old = now,
            }
        }
    }

    /// CMPXCHG16B at `segment:offset`: stores `new` if the value is `old`; returns what was there.
    /// A misaligned address raises #GP(0). Always atomic.
    pub fn compare_exchange_16(
        &mut self,
        segment: u8,
        offset: u64,
        old: u128,
        new: u128,
    ) -> Done<u128> {
        let linear = self.linear(segment, offset, 16, Access::Write)?;
        if linear & 15 != 0 {
            return Err(Trap::GP0);
        }
        self.canonical(segment, linear, 16)?;
        let place = self.locate(linear, Access::Write, Rights::Program)?;
        self.watch(linear, 16, Access::Write);
        if let Place::Ram(at) = place {
            return match self.ram.compare_exchange_16(at, old, new) {
                Ok(code) => {
                    if code {
                        self.code_changed();
                    }
                    Ok(old)
                }
                Err(seen) => Ok(seen),
            };
        }
        let low: u64 = self.read_place(place);
        let high: u64 = self.read_place(place.plus(8));
        let seen = u128::from(high) << 64 | u128::from(low);
        let store = if seen == old { new } else { seen };
        self.write_place(place, store as u64);
        self.write_place(place.plus(8), (store >> 64) as u64);
        Ok(seen)
    }

    /// Reads operand `k`: register, memory or immediate.
    #[inline(always)]
    pub fn get<T: Word>(&mut self, i: &Insn, k: usize) -> Done<T> {
        match i.ops[k] {
            MEM => self.read(i.seg, self.ea(i)),
            IMM => Ok(T::from_u64(i.imm)),
            n => Ok(self.reg(n)),
        }
    }

    /// Writes operand `k`: register or memory.
    #[inline(always)]
    pub fn set<T: Word>(&mut self, i: &Insn, k: usize, value: T) -> Done {
        match i.ops[k] {
            MEM => self.write(i.seg, self.ea(i), value),
            n => {
                self.set_reg(n, value);
                Ok(())
            }
        }
    }

    /// Reads, computes and writes operand `k` (see [`Self::modify_at`]); returns old and new.
    #[inline(always)]
    pub fn modify<T: Word>(
        &mut self,
        i: &Insn,
        k: usize,
        mut f: impl FnMut(T) -> T,
    ) -> Done<(T, T)> {
        match i.ops[k] {
            MEM => self.modify_at(i.seg, self.ea(i), i.lock, f),
            n => {
                let old = self.reg(n);
                let new = f(old);
                self.set_reg(n, new);
                Ok((old, new))
            }
        }
    }

    /// Reads `Q` quadwords (16 or 32 bytes as `Q` = 2 or 4) at `segment:offset`; with `aligned`
    /// a misaligned address raises #GP(0).
    #[inline(always)]
    pub fn read_quads<const Q: usize>(
        &mut self,
        segment: u8,
        offset: u64,
        aligned: bool,
    ) -> Done<[u64; Q]> {
        let len = 8 * Q as u64;
        let linear = self.linear(segment, offset, len, Access::Read)?;
        if aligned && linear & (len - 1) != 0 {
            return Err(Trap::GP0);
        }
        match self.tlb.hit(Access::Read, linear, len) {
            Some(at) => Ok(core::array::from_fn(|n| {
                self.ram.load(mem::RamOffset(at.0 + 8 * n as u64))
            })),
            None => self.read_quads_slow(segment, linear),
        }
    }

    #[cold]
    fn read_quads_slow<const Q: usize>(&mut self, segment: u8, linear: u64) -> Done<[u64; Q]> {
        let len = 8 * Q as u64;
        let mut value = [0; Q];
        self.canonical(segment, linear, len)?;
        let (first, second) = self.places(linear, len, Access::Read, Rights::Program)?;
        self.watch(linear, len, Access::Read);
        for (n, v) in value.iter_mut().enumerate() {
            let (a, b) = Self::part(first, second, 8 * n as u64, 8);
            *v = self.gather(a, b);
        }
        Ok(value)
    }

    /// Writes `Q` quadwords; all or, on a fault, nothing.
    #[inline(always)]
    pub fn write_quads<const Q: usize>(
        &mut self,
        segment: u8,
        offset: u64,
        aligned: bool,
        value: [u64; Q],
    ) -> Done {
        let len = 8 * Q as u64;
        let linear = self.linear(segment, offset, len, Access::Write)?;
        if aligned && linear & (len - 1) != 0 {
            return Err(Trap::GP0);
        }
        let Some(at) = self.tlb.hit(Access::Write, linear, len) else {
            return self.write_quads_slow(segment, linear, &value);
        };
        let mut code = false;
        for (n, v) in value.into_iter().enumerate() {
            code |= self.ram.store(mem::RamOffset(at.0 + 8 * n as u64), v);
        }
        if code {
            self.code_changed();
        }
        Ok(())
    }

    #[cold]
    fn write_quads_slow(&mut self, segment: u8, linear: u64, value: &[u64]) -> Done {
        let len = 8 * value.len() as u64;
        self.canonical(segment, linear, len)?;
        let (first, second) = self.places(linear, len, Access::Write, Rights::Program)?;
        self.watch(linear, len, Access::Write);
        for (n, v) in value.iter().enumerate() {
            let (a, b) = Self::part(first, second, 8 * n as u64, 8);
            self.scatter(a, b, *v);
        }
        Ok(())
    }

    /// The piece of a possibly page-crossing range from byte `from`, `len` bytes long.
    fn part(
        first: Place,
        second: Option<(u64, Place)>,
        from: u64,
        len: u64,
    ) -> (Place, Option<(u64, Place)>) {
        match second {
            Some((left, second)) if from >= left => (second.plus(from - left), None),
            Some((left, second)) if from + len > left => {
                (first.plus(from), Some((left - from, second)))
            }
            _ => (first.plus(from), None),
        }
    }

    /// Reads `T` on the stack at stack pointer `sp`.
    #[inline(always)]
    pub fn read_stack<T: Word>(&mut self, sp: u64) -> Done<T> {
        self.read(seg::SS, sp & self.stack_mask())
    }

    /// Writes `T` on the stack at stack pointer `sp`.
    #[inline(always)]
    pub fn write_stack<T: Word>(&mut self, sp: u64, value: T) -> Done {
        self.write(seg::SS, sp & self.stack_mask(), value)
    }

    /// Pushes; RSP changes only if the store succeeds.
    #[inline(always)]
    pub fn push<T: Word>(&mut self, value: T) -> Done {
        let sp = self.s.gpr[crate::state::gpr::RSP].wrapping_sub(T::SIZE as u64);
        self.write_stack(sp, value)?;
        self.set_sp(sp);
        Ok(())
    }

    /// Pops; RSP changes only if the load succeeds.
    #[inline(always)]
    pub fn pop<T: Word>(&mut self) -> Done<T> {
        let sp = self.s.gpr[crate::state::gpr::RSP];
        let value = self.read_stack(sp)?;
        self.set_sp(sp.wrapping_add(T::SIZE as u64));
        Ok(value)
    }
}
