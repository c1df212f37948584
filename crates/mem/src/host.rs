//! Where the bytes come from: a file in the memory of the Linux host, which an engine may map at
//! other places, too, or a range that a bare-metal caller hands over.

use core::ptr::NonNull;

/// The backing bytes of guest RAM. Unmapped when dropped, if it was mapped here.
pub(crate) struct Backing {
    pub(crate) base: NonNull<u8>,
    pub(crate) size: usize,
    /// What is mapped at `base`, if it was mapped here.
    #[cfg(feature = "host")]
    pub(crate) file: Option<rustix::fd::OwnedFd>,
}

// SAFETY: the bytes are plain memory that is only touched by single machine moves.
unsafe impl Send for Backing {}
// SAFETY: as above; concurrent moves are what guest processors do.
unsafe impl Sync for Backing {}

impl Backing {
    /// Maps `size` bytes of zeroes, taken from the host page by page as the guest touches them.
    #[cfg(feature = "host")]
    pub(crate) fn anonymous(size: usize) -> Option<Backing> {
        use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
        use rustix::mm::{MapFlags, ProtFlags, mmap};
        let file = memfd_create("moinho-ram", MemfdFlags::CLOEXEC).ok()?;
        ftruncate(&file, size as u64).ok()?;
        // SAFETY: a new mapping at an address of the kernel's choice aliases nothing.
        let base = unsafe {
            mmap(
                core::ptr::null_mut(),
                size,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::NORESERVE,
                &file,
                0,
            )
        }
        .ok()?;
        NonNull::new(base.cast()).map(|base| Backing {
            base,
            size,
            file: Some(file),
        })
    }

    /// Takes over a range.
    ///
    /// # Safety
    /// `base..base + size` is mapped, writable, and used by nothing else for as long as the
    /// result lives.
    pub(crate) unsafe fn range(base: NonNull<u8>, size: usize) -> Backing {
        Backing {
            base,
            size,
            #[cfg(feature = "host")]
            file: None,
        }
    }
}

impl Drop for Backing {
    fn drop(&mut self) {
        #[cfg(feature = "host")]
        if self.file.is_some() {
            // SAFETY: mapped by `anonymous` with this size, and nobody holds a pointer past us.
            let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.size) };
        }
    }
}
