//! The guest-physical map of RAM and ROM, access to it, and the marks of pages whose stores must
//! be seen: those that hold code, and those that are clean in the dirty log.

use crate::host::Backing;
use crate::word::compare_exchange_16;
use crate::{Gpa, RamOffset, Word};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

/// Size of the pages in which marks are kept, in bytes.
pub const PAGE_SIZE: u64 = 4096;

/// Stores to code pages that are remembered by page.
const CODE_LOG: usize = 64;
/// The page holds code that somebody decoded or translated.
const CODE: u8 = 1;
/// The dirty log is kept, and nobody has stored to the page since it was last taken.
const CLEAN: u8 = 2;

/// One stretch of guest-physical addresses backed by RAM or ROM.
#[derive(Clone, Copy, Debug)]
struct Region {
    gpa: u64,
    len: u64,
    at: u64,
    writable: bool,
}

/// What backs one guest-physical page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Page {
    /// Where the looked-up byte is.
    pub at: RamOffset,
    /// False for ROM: stores are dropped.
    pub writable: bool,
}

/// The memory of a machine: RAM and ROM, without devices.
pub struct GuestMemory {
    backing: Backing,
    used: u64,
    regions: Vec<Region>,
    marks: Box<[AtomicU8]>,
    /// The dirty log: a bit for each page.
    dirty: Box<[AtomicU64]>,
    dirty_logged: AtomicBool,
    generations: Box<[AtomicU32]>,
    code_writes: AtomicU64,
    code_write_starts: AtomicU64,
    code_write_log: [AtomicU32; CODE_LOG],
    /// A bit for each [`STRETCH`] that was taken from the host as a whole.
    #[cfg(feature = "host")]
    taken: Box<[AtomicU64]>,
}

/// Bytes that [`GuestMemory::take`] takes from the host at once.
#[cfg(feature = "host")]
const STRETCH: u64 = 8 * PAGE_SIZE;

/// A region and the host address of its bytes, which stay there as long as the memory lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HostRegion {
    /// Where the guest sees it.
    pub gpa: Gpa,
    /// Its length in bytes.
    pub len: u64,
    /// Where it lies in the backing.
    pub at: RamOffset,
    /// Where the host has it.
    pub host: u64,
    /// False for ROM.
    pub writable: bool,
}

/// A guest-physical range that is not wholly RAM was named for a copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutOfRam {
    /// Start of the range.
    pub at: Gpa,
    /// Its length in bytes.
    pub len: u64,
}

impl core::fmt::Display for OutOfRam {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "outside RAM ({:?}, len {:#x})", self.at, self.len)
    }
}

/// Why a region could not be placed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MapError {
    /// The host refused to map so many bytes.
    NoHostMemory(u64),
    /// Address or length is no multiple of [`PAGE_SIZE`], or the length is zero.
    Unaligned,
    /// The region overlaps one that is there, or wraps around.
    Overlap,
    /// More bytes are placed than the backing has.
    Full,
}

impl core::fmt::Display for MapError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            MapError::NoHostMemory(size) => write!(f, "the host cannot map {size} bytes"),
            MapError::Unaligned => write!(f, "region is not a multiple of 4096 bytes"),
            MapError::Overlap => write!(f, "region overlaps another"),
            MapError::Full => write!(f, "region does not fit the backing memory"),
        }
    }
}

impl core::error::Error for MapError {}
impl core::error::Error for OutOfRam {}

impl GuestMemory {
    /// Maps `size` bytes (a multiple of [`PAGE_SIZE`]) from the host; nothing is placed yet.
    #[cfg(feature = "host")]
    pub fn anonymous(size: u64) -> Result<GuestMemory, MapError> {
        if size == 0 || !size.is_multiple_of(PAGE_SIZE) {
            return Err(MapError::Unaligned);
        }
        let bytes = usize::try_from(size).map_err(|_| MapError::NoHostMemory(size))?;
        Ok(Self::over(
            Backing::anonymous(bytes).ok_or(MapError::NoHostMemory(size))?,
        ))
    }

    /// The page of `at` is about to be used, and its neighbours soon: takes them from the host, which is
    /// cheaper than a page fault for each of them.
    #[cfg(feature = "host")]
    pub fn take(&self, at: RamOffset) {
        let stretch = at.0 / STRETCH;
        let (word, bit) = (&self.taken[(stretch / 64) as usize], 1 << (stretch % 64));
        if word.load(Ordering::Relaxed) & bit != 0 || self.backing.file.is_none() {
            return;
        }
        word.fetch_or(bit, Ordering::Relaxed);
        let len = STRETCH.min(self.size() - stretch * STRETCH) as usize;
        let from = self.pointer(RamOffset(stretch * STRETCH), len);
        // SAFETY: inside the mapping; what the pages hold stays. A host that cannot does it by faults.
        let _ = unsafe {
            rustix::mm::madvise(from.cast(), len, rustix::mm::Advice::LinuxPopulateWrite)
        };
    }

    /// The descriptor of the file that is mapped at [`GuestMemory::base`], if there is one, open as long
    /// as this lives: its offsets are [`RamOffset`]s.
    #[cfg(feature = "host")]
    pub fn file(&self) -> Option<i32> {
        use rustix::fd::AsRawFd;
        self.backing.file.as_ref().map(AsRawFd::as_raw_fd)
    }

    /// Uses a range of memory that the caller owns (bare metal).
    ///
    /// # Safety
    /// `base..base + size` is mapped, writable, and used by nothing else while the result lives.
    pub unsafe fn from_range(base: core::ptr::NonNull<u8>, size: usize) -> GuestMemory {
        // SAFETY: the caller's promise is the one `range` asks for.
        Self::over(unsafe { Backing::range(base, size) })
    }

    fn over(backing: Backing) -> GuestMemory {
        let pages = backing.size / PAGE_SIZE as usize;
        GuestMemory {
            backing,
            used: 0,
            regions: Vec::new(),
            // Zeroed by the allocator, so that pages without code cost the host nothing.
            // SAFETY: all zeroes is a valid AtomicU8.
            marks: unsafe { Box::new_zeroed_slice(pages).assume_init() },
            // SAFETY: all zeroes is a valid AtomicU32.
            generations: unsafe { Box::new_zeroed_slice(pages).assume_init() },
            // SAFETY: all zeroes is a valid AtomicU64.
            dirty: unsafe { Box::new_zeroed_slice(pages.div_ceil(64)).assume_init() },
            dirty_logged: AtomicBool::new(false),
            code_writes: AtomicU64::new(0),
            code_write_starts: AtomicU64::new(0),
            code_write_log: [const { AtomicU32::new(0) }; CODE_LOG],
            // SAFETY: all zeroes is a valid AtomicU64.
            #[cfg(feature = "host")]
            taken: unsafe { Box::new_zeroed_slice(pages.div_ceil(8 * 64)).assume_init() },
        }
    }

    /// One RAM region from address 0: what tests and small guests need.
    #[cfg(feature = "host")]
    pub fn flat(size: u64) -> Result<GuestMemory, MapError> {
        let mut memory = Self::anonymous(size)?;
        memory.place(Gpa(0), size, true)?;
        Ok(memory)
    }

    /// Places the next `len` bytes of the backing at `at`. Regions need no order.
    pub fn place(&mut self, at: Gpa, len: u64, writable: bool) -> Result<RamOffset, MapError> {
        if len == 0 || !at.0.is_multiple_of(PAGE_SIZE) || !len.is_multiple_of(PAGE_SIZE) {
            return Err(MapError::Unaligned);
        }
        let end = at.0.checked_add(len).ok_or(MapError::Overlap)?;
        if self
            .regions
            .iter()
            .any(|r| at.0 < r.gpa + r.len && r.gpa < end)
        {
            return Err(MapError::Overlap);
        }
        if len > self.backing.size as u64 - self.used {
            return Err(MapError::Full);
        }
        let start = self.used;
        self.used += len;
        self.regions.push(Region {
            gpa: at.0,
            len,
            at: start,
            writable,
        });
        self.regions.sort_unstable_by_key(|r| r.gpa);
        Ok(RamOffset(start))
    }

    /// Where offset 0 lies in this process: for engines that make machine code which reaches RAM
    /// by itself. Whoever uses it keeps to the offsets of [`Self::lookup`].
    pub fn base(&self) -> *mut u8 {
        self.backing.base.as_ptr()
    }

    /// Bytes of RAM and ROM placed.
    pub fn size(&self) -> u64 {
        self.used
    }

    /// The RAM regions (not ROM) in ascending order: address and length in bytes.
    pub fn ram_regions(&self) -> impl Iterator<Item = (Gpa, u64)> + '_ {
        self.regions
            .iter()
            .filter(|r| r.writable)
            .map(|r| (Gpa(r.gpa), r.len))
    }

    /// Every region in ascending order, for engines that hand them to the host's kernel.
    pub fn host_regions(&self) -> impl Iterator<Item = HostRegion> + '_ {
        self.regions.iter().map(|r| HostRegion {
            gpa: Gpa(r.gpa),
            len: r.len,
            at: RamOffset(r.at),
            host: self.pointer(RamOffset(r.at), r.len as usize) as u64,
            writable: r.writable,
        })
    }

    /// What backs `at`; `None` where there is neither RAM nor ROM (a device, or nothing).
    #[inline]
    pub fn lookup(&self, at: Gpa) -> Option<Page> {
        self.stretch(at).map(|(page, _)| page)
    }

    /// As [`Self::lookup`], with the bytes left in the region from `at` on.
    fn stretch(&self, at: Gpa) -> Option<(Page, u64)> {
        self.regions
            .iter()
            .find(|r| at.0.wrapping_sub(r.gpa) < r.len)
            .map(|r| {
                let into = at.0 - r.gpa;
                (
                    Page {
                        at: RamOffset(r.at + into),
                        writable: r.writable,
                    },
                    r.len - into,
                )
            })
    }

    #[inline(always)]
    fn pointer(&self, at: RamOffset, len: usize) -> *mut u8 {
        // An offset outside the backing is our own mistake, never the guest's: stop this VM.
        assert!(
            at.0 <= (self.backing.size as u64).wrapping_sub(len as u64) && len <= self.backing.size,
            "offset outside guest memory"
        );
        // SAFETY: just checked to be inside the mapping.
        unsafe { self.backing.base.as_ptr().add(at.0 as usize) }
    }

    /// Reads one value; `at..at + SIZE` must be inside one region.
    #[inline(always)]
    pub fn load<T: Word>(&self, at: RamOffset) -> T {
        // SAFETY: `pointer` checked the range.
        unsafe { T::load(self.pointer(at, T::SIZE)) }
    }

    /// Writes one value inside one page. True if the page held code: whoever caches decoded
    /// code must look again before its next instruction.
    #[inline(always)]
    pub fn store<T: Word>(&self, at: RamOffset, value: T) -> bool {
        // SAFETY: `pointer` checked the range.
        unsafe { T::store(self.pointer(at, T::SIZE), value) };
        self.stored(at)
    }

    /// Copies `n` values upwards one after the other, as `REP MOVS` does (so overlapping ranges
    /// repeat what was copied); both ranges inside one page. True as for [`Self::store`].
    pub fn copy<T: Word>(&self, from: RamOffset, to: RamOffset, n: usize) -> bool {
        let bytes = n.saturating_mul(T::SIZE);
        let (from, dest) = (self.pointer(from, bytes), self.pointer(to, bytes));
        // SAFETY: `pointer` checked both ranges.
        unsafe { T::copy(from, dest, n) };
        n != 0 && self.stored(to)
    }

    /// Stores `value` `n` times inside one page, as `REP STOS` does. True as for [`Self::store`].
    pub fn fill<T: Word>(&self, at: RamOffset, value: T, n: usize) -> bool {
        let dest = self.pointer(at, n.saturating_mul(T::SIZE));
        // SAFETY: `pointer` checked the range.
        unsafe { T::fill(dest, value, n) };
        n != 0 && self.stored(at)
    }

    /// `LOCK CMPXCHG` inside one page. `Ok(code)` as for [`Self::store`]; `Err` gives the value
    /// that was there instead of `old`.
    pub fn compare_exchange<T: Word>(&self, at: RamOffset, old: T, new: T) -> Result<bool, T> {
        // SAFETY: `pointer` checked the range.
        let seen = unsafe { T::compare_exchange(self.pointer(at, T::SIZE), old, new) };
        if seen == old {
            Ok(self.stored(at))
        } else {
            Err(seen)
        }
    }

    /// `LOCK CMPXCHG16B` on a 16-byte aligned address.
    pub fn compare_exchange_16(&self, at: RamOffset, old: u128, new: u128) -> Result<bool, u128> {
        assert!(
            at.0.is_multiple_of(16),
            "CMPXCHG16B needs an aligned address"
        );
        // SAFETY: `pointer` checked the range, the line above the alignment.
        let seen = unsafe { compare_exchange_16(self.pointer(at, 16), old, new) };
        if seen == old {
            Ok(self.stored(at))
        } else {
            Err(seen)
        }
    }

    /// `XCHG` inside one page: the value that was there, and whether the page held code.
    pub fn exchange<T: Word>(&self, at: RamOffset, new: T) -> (T, bool) {
        // SAFETY: `pointer` checked the range.
        let seen = unsafe { T::exchange(self.pointer(at, T::SIZE), new) };
        (seen, self.stored(at))
    }

    #[inline(always)]
    fn stored(&self, at: RamOffset) -> bool {
        let page = (at.0 / PAGE_SIZE) as usize;
        self.marks[page].load(Ordering::Relaxed) != 0 && self.marked_page_stored(page)
    }

    /// True if the page held code.
    #[cold]
    fn marked_page_stored(&self, page: usize) -> bool {
        let marks = self.marks[page].swap(0, Ordering::SeqCst);
        if marks & CLEAN != 0 {
            self.dirty[page / 64].fetch_or(1 << (page % 64), Ordering::SeqCst);
        }
        if marks & CODE == 0 {
            return false;
        }
        self.generations[page].fetch_add(1, Ordering::SeqCst);
        let n = self.code_write_starts.fetch_add(1, Ordering::SeqCst);
        self.code_write_log[n as usize % CODE_LOG].store(page as u32, Ordering::SeqCst);
        self.code_writes.fetch_add(1, Ordering::SeqCst);
        true
    }

    /// Stores to code pages so far, by anybody: while it stands still, no generation changes.
    #[inline(always)]
    pub fn code_writes(&self) -> u64 {
        self.code_writes.load(Ordering::Acquire)
    }

    /// The pages written by the stores that [`Self::code_writes`] has counted since it stood at
    /// `seen`; `None` if there are too many to tell, or one is being noted just now.
    pub fn code_writes_since(&self, seen: u64) -> Option<impl Iterator<Item = RamOffset> + '_> {
        let now = self.code_writes();
        let settled = self.code_write_starts.load(Ordering::SeqCst) == now;
        (settled && now.wrapping_sub(seen) < CODE_LOG as u64 / 2).then(|| {
            (seen..now).map(|n| {
                let page = self.code_write_log[n as usize % CODE_LOG].load(Ordering::SeqCst);
                RamOffset(u64::from(page) * PAGE_SIZE)
            })
        })
    }

    /// Pages of RAM and ROM that there can be: offsets are below this times [`PAGE_SIZE`].
    pub fn page_count(&self) -> usize {
        self.marks.len()
    }

    /// True if stores to the page of `at` must be seen, so that nobody may make them past
    /// [`Self::store`]: it holds code, or is clean in the dirty log.
    #[inline(always)]
    pub fn is_marked(&self, at: RamOffset) -> bool {
        self.marks[(at.0 / PAGE_SIZE) as usize].load(Ordering::Relaxed) != 0
    }

    /// Marks the page of `at` as holding code and returns its generation, which changes when
    /// anybody writes to the page. Call before reading the code.
    pub fn mark_code(&self, at: RamOffset) -> u32 {
        let page = (at.0 / PAGE_SIZE) as usize;
        // SeqCst, a full fence on x86: a store by another processor either is seen by the reads
        // that follow, or sees the mark (up to its own store buffer's delay).
        self.marks[page].fetch_or(CODE, Ordering::SeqCst);
        self.generations[page].load(Ordering::SeqCst)
    }

    /// The generation of the page of `at`; see [`Self::mark_code`].
    #[inline(always)]
    pub fn code_generation(&self, at: RamOffset) -> u32 {
        self.generations[(at.0 / PAGE_SIZE) as usize].load(Ordering::Relaxed)
    }

    /// Begins the dirty log with every page clean, or ends it. Whoever stores to RAM past
    /// [`Self::store`] must be told before (`x86::Engine::log_dirty` does both); no processor may
    /// be running.
    pub fn log_dirty(&self, on: bool) {
        self.dirty_logged.store(on, Ordering::SeqCst);
        for word in &self.dirty {
            word.store(0, Ordering::SeqCst);
        }
        for mark in &self.marks[..(self.used / PAGE_SIZE) as usize] {
            if on {
                mark.fetch_or(CLEAN, Ordering::SeqCst);
            } else if mark.load(Ordering::SeqCst) & CLEAN != 0 {
                mark.fetch_and(!CLEAN, Ordering::SeqCst);
            }
        }
    }

    /// True between [`Self::log_dirty`] with true and with false.
    pub fn logs_dirty(&self) -> bool {
        self.dirty_logged.load(Ordering::SeqCst)
    }

    /// The page of `at` was stored to past [`Self::store`], in a way that this memory could not
    /// see. Nothing if no log is kept.
    pub fn set_dirty(&self, at: RamOffset) {
        let page = (at.0 / PAGE_SIZE) as usize;
        if self.logs_dirty() && page < self.marks.len() {
            self.dirty[page / 64].fetch_or(1 << (page % 64), Ordering::SeqCst);
        }
    }

    /// The pages stored to since the log was begun or last taken, in ascending order; they are
    /// clean again. Their bytes are to be read after this, so that a store that comes meanwhile is
    /// in them or in the next log. No processor may be running.
    pub fn take_dirty(&self) -> Vec<RamOffset> {
        let mut pages = Vec::new();
        for (n, word) in self.dirty.iter().enumerate() {
            let mut bits = word.swap(0, Ordering::SeqCst);
            while bits != 0 {
                let page = n * 64 + bits.trailing_zeros() as usize;
                bits &= bits - 1;
                self.marks[page].fetch_or(CLEAN, Ordering::SeqCst);
                pages.push(RamOffset(page as u64 * PAGE_SIZE));
            }
        }
        pages
    }

    /// Checks that `len` bytes from `at` are RAM or ROM (RAM only, if `write`).
    pub fn check(&self, at: Gpa, len: u64, write: bool) -> Result<(), OutOfRam> {
        self.pieces(at, len, write, |_, _, _| ())
    }

    fn pieces(
        &self,
        at: Gpa,
        len: u64,
        write: bool,
        mut each: impl FnMut(RamOffset, usize, usize),
    ) -> Result<(), OutOfRam> {
        let mut done = 0;
        while done < len {
            let here = at.0.checked_add(done).ok_or(OutOfRam { at, len })?;
            match self.stretch(Gpa(here)) {
                Some((page, left)) if page.writable || !write => {
                    let n = left.min(len - done);
                    each(page.at, done as usize, n as usize);
                    done += n;
                }
                _ => return Err(OutOfRam { at, len }),
            }
        }
        Ok(())
    }

    /// Copies guest memory out. On an error nothing was copied.
    pub fn read(&self, at: Gpa, into: &mut [u8]) -> Result<(), OutOfRam> {
        self.check(at, into.len() as u64, false)?;
        self.pieces(at, into.len() as u64, false, |ram, start, n| {
            let from = self.pointer(ram, n);
            // SAFETY: `pointer` checked the source; the destination is our caller's own. A vCPU
            // may store meanwhile: the copy then holds old or new bytes, and is what is used.
            unsafe { core::ptr::copy_nonoverlapping(from, into[start..].as_mut_ptr(), n) };
        })
    }

    /// Copies into guest RAM. On an error nothing was copied; ROM counts as outside RAM.
    pub fn write(&self, at: Gpa, from: &[u8]) -> Result<(), OutOfRam> {
        self.check(at, from.len() as u64, true)?;
        self.pieces(at, from.len() as u64, true, |ram, start, n| {
            self.put(ram, &from[start..][..n])
        })
    }

    /// Fills ROM or RAM when a machine is built: `write` without the ROM check.
    pub fn load_image(&self, at: Gpa, from: &[u8]) -> Result<(), OutOfRam> {
        self.check(at, from.len() as u64, false)?;
        self.pieces(at, from.len() as u64, false, |ram, start, n| {
            self.put(ram, &from[start..][..n])
        })
    }

    /// Copies the page of `at` out.
    pub fn copy_page_out(&self, at: RamOffset, into: &mut [u8; PAGE_SIZE as usize]) {
        let page = RamOffset(at.0 / PAGE_SIZE * PAGE_SIZE);
        let from = self.pointer(page, into.len());
        // SAFETY: `pointer` checked the source; the destination is our caller's own.
        unsafe { core::ptr::copy_nonoverlapping(from, into.as_mut_ptr(), into.len()) };
    }

    /// True if the page of `at` holds these bytes, each quadword of it at the time it is read.
    pub fn page_holds(&self, at: RamOffset, bytes: &[u8; PAGE_SIZE as usize]) -> bool {
        let page = at.0 / PAGE_SIZE * PAGE_SIZE;
        let quads = bytes.as_chunks::<8>().0.iter();
        quads.enumerate().all(|(n, quad)| {
            self.load::<u64>(RamOffset(page + 8 * n as u64)) == u64::from_le_bytes(*quad)
        })
    }

    /// Replaces the page of `at`; counts as a store to it.
    pub fn copy_page_in(&self, at: RamOffset, from: &[u8; PAGE_SIZE as usize]) {
        self.put(RamOffset(at.0 / PAGE_SIZE * PAGE_SIZE), from);
    }

    fn put(&self, ram: RamOffset, from: &[u8]) {
        let to = self.pointer(ram, from.len());
        // SAFETY: `pointer` checked the destination, to which no reference exists.
        unsafe { core::ptr::copy_nonoverlapping(from.as_ptr(), to, from.len()) };
        let mut at = ram.0;
        while at < ram.0 + from.len() as u64 {
            self.stored(RamOffset(at));
            at = (at / PAGE_SIZE + 1) * PAGE_SIZE;
        }
    }

    /// Reads one value at a guest-physical address inside one region.
    pub fn read_word<T: Word>(&self, at: Gpa) -> Result<T, OutOfRam> {
        self.check(at, T::SIZE as u64, false)?;
        let page = self.lookup(at).ok_or(OutOfRam {
            at,
            len: T::SIZE as u64,
        })?;
        Ok(self.load(page.at))
    }

    /// Writes one value at a guest-physical address inside one region.
    pub fn write_word<T: Word>(&self, at: Gpa, value: T) -> Result<(), OutOfRam> {
        self.check(at, T::SIZE as u64, true)?;
        let page = self.lookup(at).ok_or(OutOfRam {
            at,
            len: T::SIZE as u64,
        })?;
        self.store(page.at, value);
        Ok(())
    }
}

#[cfg(all(test, feature = "host"))]
mod tests {
    use super::*;

    #[test]
    fn regions_are_found_and_overlaps_refused() {
        let mut m = GuestMemory::anonymous(0x4000).unwrap();
        m.place(Gpa(0), 0x2000, true).unwrap();
        m.place(Gpa(0x1_0000_0000), 0x1000, true).unwrap();
        m.place(Gpa(0xffff_f000), 0x1000, false).unwrap();
        assert_eq!(m.place(Gpa(0x1000), 0x1000, true), Err(MapError::Overlap));
        assert_eq!(m.place(Gpa(0x8000), 0x1000, true), Err(MapError::Full));
        assert_eq!(m.lookup(Gpa(0x2000)), None);
        assert!(!m.lookup(Gpa(0xffff_fff0)).unwrap().writable);
        assert_eq!(
            m.write(Gpa(0xffff_f000), &[1]).unwrap_err().at,
            Gpa(0xffff_f000)
        );
    }

    #[test]
    fn a_copy_across_adjacent_regions_is_whole_and_across_a_hole_is_refused() {
        let mut m = GuestMemory::anonymous(0x3000).unwrap();
        m.place(Gpa(0x1000), 0x1000, true).unwrap();
        m.place(Gpa(0), 0x1000, true).unwrap();
        m.write(Gpa(0xffe), &[1, 2, 3, 4]).unwrap();
        let mut back = [0; 4];
        m.read(Gpa(0xffe), &mut back).unwrap();
        assert_eq!(back, [1, 2, 3, 4]);
        assert!(m.write(Gpa(0x1ffe), &[9; 4]).is_err());
        m.read(Gpa(0x1ffc), &mut back).unwrap();
        assert_eq!(back, [0; 4], "nothing of a refused copy is written");
        assert!(m.read(Gpa(u64::MAX - 1), &mut back).is_err());
    }

    #[test]
    fn a_store_to_a_code_page_is_reported_once_and_changes_its_generation() {
        let m = GuestMemory::flat(0x2000).unwrap();
        let at = RamOffset(0x1008);
        assert!(!m.store(at, 1u64));
        let before = m.mark_code(at);
        assert!(m.store(RamOffset(0x1ff0), 2u32));
        assert_ne!(m.code_generation(at), before);
        assert!(
            !m.store(at, 1u8),
            "the mark is gone until the code is decoded again"
        );
        let before = m.mark_code(at);
        m.write(Gpa(0xfff), &[0; 2]).unwrap();
        assert_ne!(m.code_generation(at), before, "DMA counts");
    }

    #[test]
    fn the_dirty_log_has_each_page_stored_to_since_it_was_taken_by_whatever_means() {
        let m = GuestMemory::flat(0x8_0000).unwrap();
        m.store(RamOffset(0x7000), 1u8);
        m.log_dirty(true);
        assert_eq!(m.take_dirty(), [], "the log begins clean");
        assert!(m.is_marked(RamOffset(0x7000)));
        m.store(RamOffset(0x4_2008), 1u64);
        m.store(RamOffset(0x4_2ff8), 2u64);
        m.write(Gpa(0xfff), &[0; 2]).unwrap();
        m.fill(RamOffset(0x3000), 7u8, 9);
        assert_eq!(m.compare_exchange(RamOffset(0x5000), 1u32, 2), Err(0));
        m.copy::<u32>(RamOffset(0x3000), RamOffset(0x6000), 2);
        m.exchange(RamOffset(0x9000), 1u16);
        m.set_dirty(RamOffset(0xa123));
        let pages = [0, 0x1000, 0x3000, 0x6000, 0x9000, 0xa000, 0x4_2000];
        assert_eq!(m.take_dirty(), pages.map(RamOffset));
        assert_eq!(m.take_dirty(), []);
        m.store(RamOffset(0x1004), 1u8);
        assert_eq!(m.take_dirty(), [RamOffset(0x1000)], "taken pages are clean");
        m.log_dirty(false);
        m.store(RamOffset(0x1000), 1u8);
        m.set_dirty(RamOffset(0x2000));
        assert!(!m.is_marked(RamOffset(0x4_0000)));
        assert_eq!(m.take_dirty(), [], "the log has ended");
    }

    #[test]
    fn a_page_of_code_is_seen_by_both_the_log_and_the_generation() {
        let m = GuestMemory::flat(0x2000).unwrap();
        let at = RamOffset(0x1000);
        m.log_dirty(true);
        let before = m.mark_code(at);
        assert!(m.store(at, 1u8));
        assert_ne!(m.code_generation(at), before);
        assert_eq!(m.take_dirty(), [at]);
        let before = m.mark_code(at);
        m.log_dirty(false);
        assert!(m.store(at, 1u8), "the end of the log leaves code marked");
        assert_ne!(m.code_generation(at), before);
    }

    #[test]
    fn a_copy_over_itself_repeats_and_a_fill_stays_in_its_range() {
        let m = GuestMemory::flat(0x1000).unwrap();
        m.store(RamOffset(0x10), 0x1122u16);
        assert!(!m.copy::<u16>(RamOffset(0x10), RamOffset(0x12), 3));
        assert_eq!(m.load::<u64>(RamOffset(0x10)), 0x1122_1122_1122_1122);
        m.fill(RamOffset(0xff8), 0xabu8, 8);
        assert_eq!(m.load::<u64>(RamOffset(0xff8)), 0xabab_abab_abab_abab);
        m.mark_code(RamOffset(0));
        assert!(m.fill(RamOffset(0), 1u32, 1));
    }

    #[test]
    fn a_page_is_copied_out_and_back_whole() {
        let m = GuestMemory::flat(0x2000).unwrap();
        m.store(RamOffset(0x1ff8), 7u64);
        let mut page = [0; 4096];
        m.copy_page_out(RamOffset(0x1234), &mut page);
        assert_eq!(page[0xff8], 7);
        assert!(m.page_holds(RamOffset(0x1000), &page));
        page[0] = 9;
        assert!(!m.page_holds(RamOffset(0x1000), &page));
        m.mark_code(RamOffset(0x1000));
        let before = m.code_generation(RamOffset(0x1000));
        m.copy_page_in(RamOffset(0x1ffc), &page);
        assert_eq!(m.load::<u8>(RamOffset(0x1000)), 9);
        assert_ne!(m.code_generation(RamOffset(0x1000)), before);
    }

    #[test]
    fn locked_operations_exchange_or_say_what_was_there() {
        let m = GuestMemory::flat(0x1000).unwrap();
        let at = RamOffset(0x10);
        assert_eq!(m.compare_exchange(at, 1u32, 2), Err(0));
        assert_eq!(m.compare_exchange(at, 0u32, 2), Ok(false));
        assert_eq!(m.exchange(at, 7u8), (2, false));
        assert_eq!(m.compare_exchange_16(at, 7, 1 << 100), Ok(false));
        assert_eq!(m.compare_exchange_16(at, 7, 0), Err(1 << 100));
        assert_eq!(m.load::<u64>(RamOffset(0x18)), 1 << 36);
    }
}
