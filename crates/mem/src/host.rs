//! Where the bytes come from: an anonymous mapping of the Linux host, or a range that a
//! bare-metal caller hands over.

use core::ptr::NonNull;

/// The backing bytes of guest RAM. Unmapped when dropped, if it was mapped here.
pub(crate) struct Backing {
    pub(crate) base: NonNull<u8>,
    pub(crate) size: usize,
    #[cfg_attr(not(feature = "host"), allow(dead_code))]
    owned: bool,
}

// SAFETY: the bytes are plain memory that is only touched by single machine moves.
unsafe impl Send for Backing {}
// SAFETY: as above; concurrent moves are what guest processors do.
unsafe impl Sync for Backing {}

impl Backing {
    /// Maps `size` bytes of zeroes, taken from the host page by page as the guest touches them.
    #[cfg(feature = "host")]
    pub(crate) fn anonymous(size: usize) -> Option<Backing> {
        use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
        // SAFETY: a new mapping at an address of the kernel's choice aliases nothing.
        let base = unsafe {
            mmap_anonymous(
                core::ptr::null_mut(),
                size,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        }
        .ok()?;
        NonNull::new(base.cast()).map(|base| Backing {
            base,
            size,
            owned: true,
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
            owned: false,
        }
    }
}

impl Drop for Backing {
    fn drop(&mut self) {
        #[cfg(feature = "host")]
        if self.owned {
            // SAFETY: mapped by `anonymous` with this size, and nobody holds a pointer past us.
            let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.size) };
        }
    }
}
