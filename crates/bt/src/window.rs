//! The window: user memory of one address space of the guest, mapped page by page into this process
//! where the host's own MMU checks it.
//!
//! Most of what a 64-bit program has lies between 2⁴⁶ and 2⁴⁷, and so does all that this process has:
//! a position-independent executable, its libraries, heaps and stacks. Below 2⁴⁶ there is nothing.
//! So the guest's page at address A is mapped at A − 2⁴⁶ + 2³³, and translated code reaches it by an
//! FS prefix with FS at [`BASE`]. One test of bit 46 is the check: an address that has the bit leads
//! below 2⁴⁶ + 2³³ in this process, or, if it has others above, to none that is canonical or a
//! program's. Addresses below 4 GiB, where programs have their data that are not position-independent,
//! are mapped at the same addresses ([`LOW`]); the slow path of the check sends them there.
//!
//! ```text
//! host      64 KiB ... 4 GiB ... 8 GiB ........................ 2⁴⁶ + 8 GiB ..... 2⁴⁷
//!           | guest's LOW |(gap)| guest's 2⁴⁶ ... 2⁴⁷            | this process    |
//! ```
//!
//! What is mapped is what a processor's TLB might hold: pages whose accessed bit is set, writable ones
//! those whose dirty bit is set, too, that hold no code and are not clean in a dirty log. An access to
//! anything else faults on the host; the dispatcher then maps the page or has the interpreter do the
//! instruction ([`crate::vcpu`]). After the guest's flushes what is mapped is walked again.
//!
//! The whole range is reserved (PROT_NONE) by the first processor that asks for it, so that nothing
//! else of this process gets there, and belongs to one processor at a time. A process that has
//! something there already does without.

use crate::vcpu::Map;
use core::ops::Range;
use mem::{GuestMemory, PAGE_SIZE, RamOffset};
use std::sync::{Mutex, PoisonError};

/// The bit that all addresses have which the window is for.
pub const BIT: u8 = 46;
/// Where the image of the lowest of them is.
const START: u64 = 1 << 33;
/// What FS adds to an address.
pub const BASE: u64 = START.wrapping_sub(1 << BIT);
/// Host addresses of those pages.
const HIGH: Range<u64> = START..START + (1 << BIT);
/// Guest and host addresses of the pages that are mapped where they are.
const LOW: Range<u64> = 0x1_0000..1 << 32;
/// What is reserved: some more, for what translated code adds to an address that it has asked about
/// (an operand off RIP is within 2 GiB of it).
const RESERVED: Range<u64> = LOW.start..HIGH.end + (1 << 32);
/// Pages that are mapped at most: each may cost the host's kernel a mapping of its own, of which a
/// process has 65,530.
pub const MOST: usize = 24 << 10;

/// Whose the range is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Claim {
    /// Nobody has asked for it.
    Unknown,
    /// This process has other things there, or may not have so much.
    Impossible,
    Free,
    Taken,
}

static CLAIM: Mutex<Claim> = Mutex::new(Claim::Unknown);

/// A page in the window.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mapped {
    /// Where it is in RAM.
    pub at: RamOffset,
    /// It may be written.
    pub writable: bool,
}

/// The range, for one processor.
pub struct Window {
    file: i32,
    /// By host page address.
    pages: Map<u64, Mapped>,
}

/// Maps anew in the reserved range. True if the host did.
fn map(at: u64, len: u64, protection: i32, kind: i32, file: i32, offset: u64) -> bool {
    debug_assert!(RESERVED.contains(&at) && at + len <= RESERVED.end);
    // SAFETY: in the range that is reserved for this, of which no Rust code has a reference.
    let got = unsafe {
        libc::mmap(
            at as *mut libc::c_void,
            len as usize,
            protection,
            kind | libc::MAP_NORESERVE,
            file,
            offset as i64,
        )
    };
    got as u64 == at
}

/// Nothing there, but for nobody else.
fn reserve(range: Range<u64>, more: i32) -> bool {
    let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | more;
    let len = range.end - range.start;
    map(range.start, len, libc::PROT_NONE, kind, -1, 0)
}

impl Window {
    /// The window onto a guest's memory, if it is free and this process can have one.
    pub fn claim(memory: &GuestMemory) -> Option<Window> {
        let file = memory.file()?;
        let mut claim = CLAIM.lock().unwrap_or_else(PoisonError::into_inner);
        if *claim == Claim::Unknown {
            *claim =
                if crate::signal::has_fsgsbase() && reserve(RESERVED, libc::MAP_FIXED_NOREPLACE) {
                    Claim::Free
                } else {
                    Claim::Impossible
                };
        }
        if *claim != Claim::Free {
            return None;
        }
        *claim = Claim::Taken;
        Some(Window {
            file,
            pages: Map::default(),
        })
    }

    /// The guest's linear address of a host address, if that is in the window.
    pub fn linear(host: u64) -> Option<u64> {
        match host {
            _ if LOW.contains(&host) => Some(host),
            _ if HIGH.contains(&host) => Some(host.wrapping_sub(BASE)),
            _ => None,
        }
    }

    /// The host address of a guest's linear address that the window is for.
    pub fn host(linear: u64) -> Option<u64> {
        match linear.wrapping_add(BASE) {
            _ if LOW.contains(&linear) => Some(linear),
            host if HIGH.contains(&host) => Some(host),
            _ => None,
        }
    }

    /// How many pages are mapped.
    pub fn len(&self) -> usize {
        self.pages.len()
    }

    /// What is mapped at a host page address.
    pub fn get(&self, page: u64) -> Option<Mapped> {
        self.pages.get(&page).copied()
    }

    /// All that is mapped, by host page address.
    pub fn pages(&self) -> Vec<(u64, Mapped)> {
        let mut pages: Vec<_> = self.pages.iter().map(|(page, m)| (*page, *m)).collect();
        pages.sort_unstable_by_key(|(page, _)| *page);
        pages
    }

    /// Pages of RAM that may be written by way of the window.
    pub fn writable(&self) -> impl Iterator<Item = RamOffset> {
        self.pages.values().filter(|m| m.writable).map(|m| m.at)
    }

    /// Maps pages, given in the order of their host addresses, as few times as may be. False if the
    /// host does not: what has been mapped is known.
    pub fn map(&mut self, pages: &[(u64, Mapped)]) -> bool {
        let follows = |(a, x): &(u64, Mapped), (b, y): &(u64, Mapped)| {
            a + PAGE_SIZE == *b && x.at.0 + PAGE_SIZE == y.at.0 && x.writable == y.writable
        };
        for run in pages.chunk_by(follows) {
            let (page, Mapped { at, writable }) = run[0];
            let len = run.len() as u64 * PAGE_SIZE;
            let write = if writable { libc::PROT_WRITE } else { 0 };
            let kind = libc::MAP_SHARED | libc::MAP_FIXED | libc::MAP_POPULATE;
            if !map(page, len, libc::PROT_READ | write, kind, self.file, at.0) {
                return false;
            }
            self.pages.extend(run.iter().copied());
        }
        true
    }

    /// Takes pages out, given in the order of their host addresses.
    pub fn unmap(&mut self, pages: &[u64]) {
        for run in pages.chunk_by(|a, b| a + PAGE_SIZE == *b) {
            let end = run[0] + run.len() as u64 * PAGE_SIZE;
            if !reserve(run[0]..end, libc::MAP_FIXED) {
                // The host has no memory for it. What is left mapped must not be.
                std::process::abort();
            }
            for page in run {
                self.pages.remove(page);
            }
        }
    }

    /// Takes all out.
    pub fn clear(&mut self) {
        if !self.pages.is_empty() {
            if !reserve(RESERVED, libc::MAP_FIXED) {
                std::process::abort();
            }
            self.pages.clear();
        }
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        self.clear();
        *CLAIM.lock().unwrap_or_else(PoisonError::into_inner) = Claim::Free;
    }
}
