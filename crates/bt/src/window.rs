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
//! else of this process gets there; whose it is then [`crate::turns`] knows. A process that has something
//! there already does without.

use core::ops::Range;
use mem::{PAGE_SIZE, RamOffset};
use std::collections::BTreeMap;

/// The bit that all addresses have which the window is for.
pub const BIT: u8 = 46;
/// Where the image of the lowest of them is.
const START: u64 = 1 << 33;
/// What FS adds to an address.
pub const BASE: u64 = START.wrapping_sub(1 << BIT);
/// What FS adds in a processor that had the window and has it no more: addresses that it is for are not
/// canonical then. No thread of this process has its own data there: it is in the range.
pub const NOWHERE: u64 = START + (1 << BIT);
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

/// A page in the window.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mapped {
    /// Where it is in RAM.
    pub at: RamOffset,
    /// It may be written.
    pub writable: bool,
}

/// What is in the range.
pub struct Window {
    /// The memory the pages are of.
    file: i32,
    /// By host page address.
    pages: BTreeMap<u64, Mapped>,
    /// Large pages of the guest of which parts may be among them: first linear address and the one
    /// behind the last.
    large: BTreeMap<u64, u64>,
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

/// Reserves the range, of which there is one in a process; false if something is there.
pub fn reserve_range() -> bool {
    reserve(RESERVED, libc::MAP_FIXED_NOREPLACE)
}

impl Window {
    /// An empty one.
    pub const fn new() -> Window {
        Window {
            file: -1,
            pages: BTreeMap::new(),
            large: BTreeMap::new(),
        }
    }

    /// Takes all out, and goes on with pages of another memory ([`mem::GuestMemory::file`]).
    pub fn begin(&mut self, file: i32) {
        self.clear();
        self.large.clear();
        self.file = file;
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

    /// A part of the guest's page of so many bytes at a linear address is going to be mapped.
    pub fn note_size(&mut self, linear: u64, size: u64) {
        if size > PAGE_SIZE {
            let first = linear & !(size - 1);
            self.large.insert(first, first + size);
        }
    }

    /// True if other pages than that of a linear address may be parts of the same page of the guest.
    pub fn is_large(&self, linear: u64) -> bool {
        let below = self.large.range(..=linear).next_back();
        below.is_some_and(|(_, end)| *end > linear)
    }

    /// How many pages are mapped.
    pub fn len(&self) -> usize {
        self.pages.len()
    }

    /// What is mapped at a host page address.
    pub fn get(&self, page: u64) -> Option<Mapped> {
        self.pages.get(&page).copied()
    }

    /// All that is mapped, in the order of host page addresses.
    pub fn pages(&self) -> impl Iterator<Item = (u64, Mapped)> {
        self.pages.iter().map(|(page, mapped)| (*page, *mapped))
    }

    /// Pages that may be written by way of the window.
    pub fn writable(&self) -> impl Iterator<Item = (u64, Mapped)> {
        self.pages().filter(|(_, mapped)| mapped.writable)
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
                // The host has no mappings left, of which a hole takes one more: all goes.
                return self.clear();
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
                // What is left mapped must not be.
                std::process::abort();
            }
            self.pages.clear();
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::turns::{tests::turn, window_possible};
    use mem::{Gpa, GuestMemory};

    /// The window onto a guest's memory, in the turn of a test.
    fn window(memory: &GuestMemory) -> Window {
        let mut window = Window::new();
        window.begin(memory.file().unwrap());
        window
    }

    /// What the host's kernel lets this process do at an address; `None` if nothing is there.
    pub(crate) fn rights(address: u64) -> Option<String> {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        maps.lines().find_map(|line| {
            let mut words = line.split_whitespace();
            let (from, to) = words.next()?.split_once('-')?;
            let bound = |text| u64::from_str_radix(text, 16).unwrap();
            let inside = (bound(from)..bound(to)).contains(&address);
            inside.then(|| words.next().unwrap().into())
        })
    }

    /// Eight bytes of a page that is mapped.
    fn read(host: u64) -> u64 {
        assert!(rights(host).is_some_and(|rights| rights.starts_with('r')));
        // SAFETY: it may be read, and holds plain bytes.
        unsafe { (host as *const u64).read_volatile() }
    }

    /// Memory whose pages hold their own addresses.
    pub(crate) fn memory() -> GuestMemory {
        let memory = GuestMemory::flat(0x10_0000).unwrap();
        for page in (0..0x10_0000).step_by(0x1000) {
            memory.write_word(Gpa(page), page).unwrap();
        }
        memory
    }

    fn page(at: u64, writable: bool) -> Mapped {
        let at = RamOffset(at);
        Mapped { at, writable }
    }

    #[test]
    fn only_addresses_below_4_gib_and_those_with_the_bit_alone_are_in_it() {
        if !window_possible() {
            return println!("skipped: this host has no window");
        }
        let bit = 1 << BIT;
        let same = [0x1_0000, 0x40_1234, 0xffff_f000, 0xffff_ffff].map(|a| (a, a));
        let moved = [0, 1, 0xfff, 0x1000, 0x3f00_1234_5678, bit - 1].map(|n| (bit + n, START + n));
        for (linear, host) in same.into_iter().chain(moved) {
            assert_eq!(Window::host(linear), Some(host), "{linear:x}");
            assert_eq!(Window::linear(host), Some(linear), "{host:x}");
        }
        for linear in [
            0,
            0xffff,
            1 << 32,
            START,
            bit - 1,
            2 * bit,
            3 * bit,
            // Of the kernel, without and with the bit, and not canonical.
            0xffff_8000_0000_0000,
            0xffff_c000_0000_1000,
            bit | 1 << 63,
            bit | 1 << 62,
            !0,
            BASE,
            BASE.wrapping_neg(),
            (2 * bit).wrapping_sub(BASE),
        ] {
            assert_eq!(Window::host(linear), None, "{linear:x}");
        }
        for host in [
            0,
            0xffff,
            1 << 32,
            START - 1,
            START + bit,
            BASE,
            2 * bit - 1,
            !0,
        ] {
            assert_eq!(Window::linear(host), None, "{host:x}");
        }
        // What may be added to an address that was asked about leads to nothing but room.
        const {
            assert!(START - LOW.end >= 1 << 32 && RESERVED.end - HIGH.end >= 1 << 32);
            assert!(RESERVED.end < 1 << (BIT + 1) && RESERVED.start == LOW.start);
        }
    }

    #[test]
    fn pages_are_what_is_mapped_with_the_rights_they_are_mapped_with() {
        let Some(_turn) = turn() else { return };
        let memory = memory();
        let mut window = window(&memory);
        let (low, high) = (0x40_0000, START + 0x5000);
        let pages = [
            (low, page(0x3000, true)),
            (low + 0x1000, page(0x4000, true)),
            (low + 0x2000, page(0x5000, false)),
            (low + 0x3000, page(0x9000, false)),
            (high, page(0x3000, false)),
            (HIGH.end - 0x1000, page(0xf_f000, true)),
        ];
        assert!(window.map(&pages));
        assert_eq!(
            (window.len(), window.pages().collect()),
            (pages.len(), pages.to_vec())
        );
        for (at, mapped) in pages {
            assert_eq!(window.get(at), Some(mapped));
            assert_eq!(read(at), mapped.at.0);
            let expected = if mapped.writable { "rw-s" } else { "r--s" };
            assert_eq!(rights(at).as_deref(), Some(expected), "{at:x}");
        }
        let mut writable: Vec<_> = window.writable().map(|(_, m)| m.at.0).collect();
        writable.sort_unstable();
        assert_eq!(writable, [0x3000, 0x4000, 0xf_f000]);
        // It is the guest's memory itself.
        memory.write_word(Gpa(0x3008), 77u64).unwrap();
        assert_eq!((read(low + 8), read(high + 8)), (77, 77));
        // Others in their place.
        assert!(window.map(&[(low, page(0x7000, false)), (high, page(0x8000, true))]));
        assert_eq!((read(low), read(high)), (0x7000, 0x8000));
        assert_eq!(rights(low).as_deref(), Some("r--s"));
        assert_eq!(rights(high).as_deref(), Some("rw-s"));
        assert_eq!(window.get(low), Some(page(0x7000, false)));
        assert_eq!(window.len(), pages.len());
        window.clear();
    }

    #[test]
    fn what_is_taken_out_is_reserved_again_and_the_rest_stays() {
        let Some(_turn) = turn() else { return };
        let memory = memory();
        let mut window = window(&memory);
        let pages: Vec<_> = (1..8)
            .map(|n| (START + 0x1000 * n, page(0x1000 * n, true)))
            .chain([(START + 0x2_0000, page(0, false))])
            .collect();
        assert!(window.map(&pages));
        let gone = [2, 3, 5].map(|n| START + 0x1000 * n);
        window.unmap(&gone);
        for (at, mapped) in &pages {
            if gone.contains(at) {
                assert_eq!(rights(*at).as_deref(), Some("---p"), "{at:x}");
                assert_eq!(window.get(*at), None);
            } else {
                assert_eq!(read(*at), mapped.at.0);
                assert_eq!(window.get(*at), Some(*mapped));
            }
        }
        window.clear();
        assert_eq!((window.len(), window.pages().count()), (0, 0));
        for (at, _) in &pages {
            assert_eq!(rights(*at).as_deref(), Some("---p"), "{at:x}");
        }
    }

    #[test]
    fn what_the_host_does_not_map_is_not_known_as_mapped() {
        let Some(_turn) = turn() else { return };
        let memory = memory();
        let mut window = window(&memory);
        window.file = -1;
        assert!(!window.map(&[(START, page(0, true))]));
        assert_eq!((window.len(), window.get(START)), (0, None));
        assert_eq!(rights(START).as_deref(), Some("---p"));
    }
}
