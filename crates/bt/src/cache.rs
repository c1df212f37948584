//! The code cache: memory that is written through one mapping and executed through another, so
//! that no page is ever writable and executable at once.

use core::ptr::NonNull;

/// Default size in bytes.
pub const SIZE: usize = 16 << 20;

/// One processor's translated code, filled from the start and emptied whole.
pub struct CodeCache {
    writable: NonNull<u8>,
    executable: NonNull<u8>,
    size: usize,
    used: usize,
}

// SAFETY: the mappings belong to this value alone and are reached only through it.
unsafe impl Send for CodeCache {}

impl CodeCache {
    /// Maps a cache; the pages are taken from the host as they are used.
    pub fn new(size: usize) -> Result<CodeCache, String> {
        let failed =
            |what: &str| format!("code cache: {what}: {}", std::io::Error::last_os_error());
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
                return Err(failed("memfd_create"));
            }
            let sized = libc::ftruncate(fd, size as libc::off_t) == 0;
            let map = |protection| {
                libc::mmap(
                    core::ptr::null_mut(),
                    size,
                    protection,
                    libc::MAP_SHARED,
                    fd,
                    0,
                )
            };
            let writable = map(libc::PROT_READ | libc::PROT_WRITE);
            let executable = map(libc::PROT_READ | libc::PROT_EXEC);
            let error = failed("mmap");
            libc::close(fd);
            let good = |p: *mut libc::c_void| {
                (p != libc::MAP_FAILED)
                    .then(|| NonNull::new(p.cast::<u8>()))
                    .flatten()
            };
            match (sized, good(writable), good(executable)) {
                (true, Some(writable), Some(executable)) => Ok(CodeCache {
                    writable,
                    executable,
                    size,
                    used: 0,
                }),
                (_, w, x) => {
                    for mapped in [w, x].into_iter().flatten() {
                        libc::munmap(mapped.as_ptr().cast(), size);
                    }
                    Err(error)
                }
            }
        }
    }

    /// Host address of the next block.
    pub fn next(&self) -> u64 {
        self.executable.as_ptr() as u64 + self.used as u64
    }
    /// Bytes in use.
    pub fn used(&self) -> usize {
        self.used
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
            at <= self.used.wrapping_sub(len),
            "read outside the code cache"
        );
        // SAFETY: inside the writable mapping, as just checked; nobody else writes to it.
        unsafe { core::slice::from_raw_parts(self.writable.as_ptr().add(at), len) }.to_vec()
    }
    /// Forgets everything from `keep` bytes on.
    pub fn truncate(&mut self, keep: usize) {
        self.used = self.used.min(keep);
    }

    /// Appends a block made for [`Self::next`]; false if it does not fit.
    #[must_use]
    pub fn append(&mut self, bytes: &[u8]) -> bool {
        if bytes.len() + 16 > self.size - self.used {
            return false;
        }
        // SAFETY: the range was just checked to be inside the writable mapping.
        unsafe {
            let to = self.writable.as_ptr().add(self.used);
            core::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len());
        }
        self.used = (self.used + bytes.len()).next_multiple_of(16);
        true
    }

    /// Replaces the four bytes at a host address: the displacement of a jump. Only this
    /// processor's thread executes the code, and it is not in it now.
    pub fn patch(&mut self, host: u64, value: i32) {
        self.overwrite(host, &value.to_le_bytes());
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
            at <= self.used.wrapping_sub(bytes.len()),
            "patch outside the code cache"
        );
        // SAFETY: inside the writable mapping, as just checked.
        unsafe {
            let to = self.writable.as_ptr().add(at);
            core::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len());
        }
    }
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
