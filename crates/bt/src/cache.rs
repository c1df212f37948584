//! The code cache: memory that is written through one mapping and executed through another, so
//! that no page is ever writable and executable at once.

use core::ptr::NonNull;

/// Default size in bytes, of those of all processors together.
pub const SIZE: usize = 37 << 20;
/// Bounds of one processor's.
pub const BOUNDS: (usize, usize) = (2 << 20, crate::block::REACH);
const _: () = assert!(SIZE <= BOUNDS.1);

/// It is filled and emptied in this many regions of the same size.
pub const REGIONS: usize = 8;

/// Code that hardly ever runs lies in pieces of this size at most.
const PIECE: usize = 64 << 10;

/// One processor's translated code, in regions of which one is being filled. Code that runs and
/// code that hardly ever does (misses, exits) are kept apart, so that what runs is dense: that from
/// the region's start on, this in pieces from its end back.
pub struct CodeCache {
    writable: NonNull<u8>,
    executable: NonNull<u8>,
    size: usize,
    /// Bytes of what stays for ever at the start of the first region.
    fixed: usize,
    /// The region being filled.
    region: usize,
    /// Bytes used in the others.
    elsewhere: [usize; REGIONS],
    /// Where the next block goes.
    used: usize,
    /// Where the last piece for code that hardly ever runs starts, where the next of that goes, and
    /// where the piece ends.
    cold: usize,
    cold_next: usize,
    cold_end: usize,
}

// SAFETY: the mappings belong to this value alone and are reached only through it.
unsafe impl Send for CodeCache {}

impl CodeCache {
    /// Maps a cache; the pages are taken from the host as they are used. `nameless`: not as a
    /// file's pages, for perf, which asks no perf map about files.
    pub fn new(size: usize, nameless: bool) -> Result<CodeCache, String> {
        let cache = CodeCache::map(size, nameless)?;
        if cache.has_one_upper_half() {
            return Ok(cache);
        }
        // While the first is there another does not reach over the same boundary.
        let other = CodeCache::map(size, nameless)?;
        if other.has_one_upper_half() {
            Ok(other)
        } else {
            Err("code cache: no place for it".into())
        }
    }

    /// True if the upper halves of all addresses in it are the same: translated code replaces the
    /// lower half of one by that of another.
    fn has_one_upper_half(&self) -> bool {
        let (start, end) = self.range();
        start >> 32 == (end - 1) >> 32
    }

    fn map(size: usize, nameless: bool) -> Result<CodeCache, String> {
        let mapped = if nameless {
            map_twice(size)
        } else {
            map_file(size)
        };
        let failed = |what| format!("code cache: {what}: {}", std::io::Error::last_os_error());
        let (writable, executable) = mapped.map_err(failed)?;
        let end = size / REGIONS;
        Ok(CodeCache {
            writable,
            executable,
            size,
            fixed: 0,
            region: 0,
            elsewhere: [0; REGIONS],
            used: 0,
            cold: end,
            cold_next: end,
            cold_end: end,
        })
    }

    /// What was appended so far is there for ever.
    pub fn keep(&mut self) {
        self.fixed = self.used;
    }
    /// The region being filled.
    pub fn filling(&self) -> usize {
        self.region
    }
    /// Bytes of a region.
    pub fn region_size(&self) -> usize {
        self.size / REGIONS
    }
    /// First offset of a region and the one behind the last.
    pub fn region(&self, region: usize) -> (u32, u32) {
        let start = region * self.region_size();
        (start as u32, (start + self.region_size()) as u32)
    }
    /// Goes on in another region, which is empty then.
    pub fn begin(&mut self, region: usize) {
        self.elsewhere[self.region] = self.used_here();
        self.elsewhere[region] = 0;
        let (start, end) = self.region(region);
        self.region = region;
        self.used = start as usize + if region == 0 { self.fixed } else { 0 };
        let end = end as usize;
        (self.cold, self.cold_next, self.cold_end) = (end, end, end);
    }
    fn used_here(&self) -> usize {
        let (start, end) = self.region(self.region);
        self.used - start as usize + (end as usize - self.cold)
    }

    /// Host address of the next block.
    pub fn next(&self) -> u64 {
        self.executable.as_ptr() as u64 + self.used as u64
    }
    /// Host address of the next block's code that hardly ever runs.
    pub fn next_cold(&mut self) -> u64 {
        let piece = PIECE.min(self.region_size() / 4);
        // A quarter is more than a block has.
        if self.cold_end - self.cold_next < piece / 4 && self.cold >= self.used + piece {
            self.cold_end = self.cold;
            self.cold -= piece;
            self.cold_next = self.cold;
        }
        self.executable.as_ptr() as u64 + self.cold_next as u64
    }
    /// Bytes in use.
    pub fn used(&self) -> usize {
        self.used_here() + self.elsewhere.iter().sum::<usize>()
    }
    /// First host address and the one behind the last.
    pub fn range(&self) -> (u64, u64) {
        let start = self.executable.as_ptr() as u64;
        (start, start + self.size as u64)
    }
    /// The code at a host address.
    pub fn bytes(&self, host: u64, len: usize) -> Vec<u8> {
        let at = host.wrapping_sub(self.executable.as_ptr() as u64) as usize;
        assert!(
            at <= self.size.wrapping_sub(len),
            "read outside the code cache"
        );
        // SAFETY: inside the writable mapping, as just checked; nobody else writes to it.
        unsafe { core::slice::from_raw_parts(self.writable.as_ptr().add(at), len) }.to_vec()
    }
    /// Forgets everything but what is kept for ever.
    pub fn clear(&mut self) {
        self.begin(0);
        self.elsewhere = [0; REGIONS];
    }

    /// The code at a host address, for listing.
    pub fn code(&self, host: u64, bytes: usize) -> Option<&[u8]> {
        let at = host.checked_sub(self.executable.as_ptr() as u64)? as usize;
        if at.checked_add(bytes)? > self.size {
            return None;
        }
        // SAFETY: inside the mapping, as just checked; whoever writes it has this value mutably.
        Some(unsafe { core::slice::from_raw_parts(self.writable.as_ptr().add(at), bytes) })
    }

    /// Appends a block made for [`Self::next`] and [`Self::next_cold`]; false if it does not fit.
    #[must_use]
    pub fn append(&mut self, bytes: &[u8], cold: &[u8]) -> bool {
        self.append_over(0, bytes, cold)
    }

    /// The same for a block that takes the place of so many bytes before [`Self::next`], too.
    #[must_use]
    pub fn append_over(&mut self, over: usize, bytes: &[u8], cold: &[u8]) -> bool {
        let begin = self.used - over;
        let fits = |bytes: &[u8], used, end: usize| bytes.len() <= end - used;
        let cold_fits = cold.is_empty() || fits(cold, self.cold_next, self.cold_end);
        if !fits(bytes, begin, self.cold) || !cold_fits {
            return false;
        }
        self.used = begin;
        for (bytes, used) in [(bytes, &mut self.used), (cold, &mut self.cold_next)] {
            // SAFETY: the range was just checked to be inside the writable mapping.
            unsafe {
                let to = self.writable.as_ptr().add(*used);
                core::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len());
            }
            *used += bytes.len();
        }
        true
    }

    /// Replaces the four bytes at a host address: the displacement of a jump. Only this
    /// processor's thread executes the code, and it is not in it now.
    pub fn patch(&mut self, host: u64, value: i32) {
        self.overwrite(host, &value.to_le_bytes());
    }

    /// Makes the conditional jump whose displacement is at a host address one on the opposite
    /// condition.
    pub fn turn(&mut self, host: u64) {
        if let Some(&[opcode]) = self.code(host - 1, 1) {
            self.overwrite(host - 1, &[opcode ^ 1]);
        }
    }

    /// Makes the code at a host address a jump to another.
    pub fn redirect(&mut self, host: u64, to: u64) {
        let distance = (to.wrapping_sub(host + 5) as i32).to_le_bytes();
        let [a, b, c, d] = distance;
        self.overwrite(host, &[0xe9, a, b, c, d]);
    }

    fn overwrite(&mut self, host: u64, bytes: &[u8]) {
        let at = host.wrapping_sub(self.executable.as_ptr() as u64) as usize;
        assert!(
            at <= self.size.wrapping_sub(bytes.len()),
            "patch outside the code cache"
        );
        // SAFETY: inside the writable mapping, as just checked.
        unsafe {
            let to = self.writable.as_ptr().add(at);
            core::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len());
        }
    }
}

/// The writable and the executable mapping, or the call that failed.
type Mapped = Result<(NonNull<u8>, NonNull<u8>), &'static str>;

/// The address that a mapping call gave, if it was none of its errors.
fn mapped(p: *mut libc::c_void) -> Option<NonNull<u8>> {
    (p != libc::MAP_FAILED)
        .then(|| NonNull::new(p.cast::<u8>()))
        .flatten()
}

/// A memory file, mapped twice.
fn map_file(size: usize) -> Mapped {
    // SAFETY: plain system calls; each result is checked, and both mappings are new.
    unsafe {
        let name = c"moinho-bt".as_ptr();
        // Hardened hosts want the flag that says the memory will be executed; older kernels
        // do not know it.
        let mut fd = libc::memfd_create(name, libc::MFD_CLOEXEC | libc::MFD_EXEC);
        if fd < 0 {
            fd = libc::memfd_create(name, libc::MFD_CLOEXEC);
        }
        if fd < 0 {
            return Err("memfd_create");
        }
        let sized = libc::ftruncate(fd, size as libc::off_t) == 0;
        let map = |protection| {
            let at = core::ptr::null_mut();
            mapped(libc::mmap(at, size, protection, libc::MAP_SHARED, fd, 0))
        };
        let writable = map(libc::PROT_READ | libc::PROT_WRITE);
        let executable = map(libc::PROT_READ | libc::PROT_EXEC);
        libc::close(fd);
        both(size, sized, writable, executable)
    }
}

/// Shared memory without a name, mapped once and then, by MREMAP with an old size of nothing,
/// once more.
fn map_twice(size: usize) -> Mapped {
    // SAFETY: plain system calls; each result is checked, and both mappings are new.
    unsafe {
        let write = libc::PROT_READ | libc::PROT_WRITE;
        let kind = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        let writable = mapped(libc::mmap(core::ptr::null_mut(), size, write, kind, -1, 0));
        let executable = writable.and_then(|w| {
            mapped(libc::mremap(
                w.as_ptr().cast(),
                0,
                size,
                libc::MREMAP_MAYMOVE,
            ))
        });
        let protected = executable.is_some_and(|x| {
            let execute = libc::PROT_READ | libc::PROT_EXEC;
            libc::mprotect(x.as_ptr().cast(), size, execute) == 0
        });
        both(size, protected, writable, executable)
    }
}

/// Both mappings, if all went well; else neither is left.
fn both(size: usize, good: bool, w: Option<NonNull<u8>>, x: Option<NonNull<u8>>) -> Mapped {
    if let (true, Some(w), Some(x)) = (good, w, x) {
        return Ok((w, x));
    }
    for one in [w, x].into_iter().flatten() {
        // SAFETY: mapped by the caller with this size, and nobody else knows it.
        unsafe { libc::munmap(one.as_ptr().cast(), size) };
    }
    Err("mmap")
}

impl Drop for CodeCache {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this size; nothing runs in it any more.
        unsafe {
            libc::munmap(self.writable.as_ptr().cast(), self.size);
            libc::munmap(self.executable.as_ptr().cast(), self.size);
        }
    }
}
