//! What the engine remembers of translated code. There is half as much of it as of the code, though
//! it is packed; [`crate::blocks`] holds it.

use crate::cache::REGIONS;
use crate::targets::Targets;
use iced_x86::Code;
use mem::RamOffset;
use x86::mmu::Access;

/// What a block was translated for: the place of its first byte and the mode. Its code fits every
/// linear address at which the page is mapped, unless the mode has a distance.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Key {
    /// First byte in RAM.
    pub at: RamOffset,
    /// Mode bits: [`x86::exec::Exec::mode_key`] and the data view.
    pub mode: u64,
}

/// A place in translated code that may leave it. It is kept in one word:
///
/// ```text
///              63           37 36     31   30   29 28  16   15     14   13 12 11  0
/// access       offset of check   size    write  more code shadow vector  0    rip
/// branch       63..32: moved                     0  code  shadow vector  1    rip
/// interpreted  more                              0  code  shadow vector  2    rip
/// link         offset of jump    next                     exit (15..14)  3   target
/// far link     offset of jump    next                     3 (15..14)     3   poll (11), way
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Site {
    /// The guest instruction's RIP, relative to its page; of a link that of its target, of a far
    /// link not known.
    pub rip: u16,
    /// Why.
    pub kind: Kind,
    /// The guest instruction, for the statistics; as the next two not known of a link.
    pub code: Code,
    /// The instruction uses x87, MMX, SSE or AVX registers.
    pub vector: bool,
    /// The instruction follows an STI: interrupts wait for it.
    pub shadow: bool,
}

/// Kinds of [`Site`]. Offsets are those in the code cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A memory access missed the software TLB.
    Access {
        /// What it does.
        access: Access,
        /// Bytes, less than 64; of several accesses a multiple of [`UNIT`].
        size: u16,
        /// The check is that of several accesses: of the stretch that they lie in.
        several: bool,
        /// Where its check is.
        retry: u32,
    },
    /// The instruction is the interpreter's.
    Interpret {
        /// Of XSAVE and its kin where the code goes on; of MOV to CR3 the register, and from bit 4 on
        /// the bytes of the instruction.
        more: u32,
    },
    /// An indirect branch missed the branch table.
    Branch {
        /// What it adds to RSP.
        moved: i32,
    },
    /// A direct jump inside the page that has not been linked to its target yet.
    Link {
        /// Where the jump's displacement is.
        patch: u32,
        /// Which of the block's exits ([`Block::exit`]) asks for the link: the jump leads there
        /// before.
        exit: u8,
        /// Another linked jump to the same block ([`Block::incoming`]).
        next: u32,
    },
    /// A direct jump out of the page that may be linked to its target: behind a guard, unless both
    /// are fixed.
    Far {
        /// As of a link.
        patch: u32,
        /// Where, in the code of the block that hardly ever runs, the jump leads before: a way by
        /// the branch table.
        way: u16,
        /// As of a link.
        next: u32,
        /// It looks at the pins.
        poll: bool,
    },
}

/// The exit that is none, in the word of a far link.
const FAR: u8 = 3;

/// Sizes of stretches are kept in units of so many bytes.
pub const UNIT: u16 = 16;
/// The longest stretch.
pub const STRETCH: u16 = 63 * UNIT;

/// Where the offset in the code cache is that translated code reads of an access's site.
pub const RETRY_SHIFT: u8 = 37;
/// A code cache is not larger than these offsets reach.
pub const REACH: usize = 1 << (64 - RETRY_SHIFT);
/// Numbers of sites are smaller than this.
pub const SITES: u32 = 1 << 21;
/// No site, for [`Kind::Link`] and [`Block::incoming`].
pub const NO_NEXT: u32 = SITES - 1;

impl Site {
    /// Where in the code cache something of it is, if that is known.
    pub fn offset(&self) -> Option<u32> {
        match self.kind {
            Kind::Access { retry: offset, .. }
            | Kind::Link { patch: offset, .. }
            | Kind::Far { patch: offset, .. } => Some(offset),
            Kind::Interpret { .. } | Kind::Branch { .. } => None,
        }
    }

    /// It as a word.
    pub fn pack(&self) -> u64 {
        let link = |patch: u32, exit: u8, next: u32| {
            let next = u64::from(next & (SITES - 1)) << 16;
            u64::from(exit & 3) << 14 | next | u64::from(patch) << RETRY_SHIFT
        };
        let about =
            u64::from(self.vector) << 14 | u64::from(self.shadow) << 15 | (self.code as u64) << 16;
        let (kind, more) = match self.kind {
            Kind::Access {
                access,
                size,
                several,
                retry,
            } => {
                let write = u64::from(access == Access::Write) << 30;
                let more = u64::from(several) << 29;
                let size = if several { size.div_ceil(UNIT) } else { size };
                assert!(size < 64, "no room for the size of an access");
                let size = u64::from(size) << 31 | more;
                (0, about | write | size | u64::from(retry) << RETRY_SHIFT)
            }
            Kind::Branch { moved } => (1, about | u64::from(moved as u32) << 32),
            Kind::Interpret { more } => (2, about | u64::from(more) << RETRY_SHIFT),
            Kind::Link { patch, exit, next } => {
                assert!(exit < FAR, "more links than exits");
                (3, link(patch, exit, next))
            }
            Kind::Far {
                patch,
                way,
                next,
                poll,
            } => {
                assert!(way < 1 << 11, "a way of a far link is out of reach");
                let place = u64::from(poll) << 11 | u64::from(way);
                return place | 3 << 12 | link(patch, FAR, next);
            }
        };
        u64::from(self.rip & 0xfff) | kind << 12 | more
    }

    /// The site of a word.
    pub fn unpack(word: u64) -> Site {
        let offset = (word >> RETRY_SHIFT) as u32;
        let kind = match word >> 12 & 3 {
            0 => Kind::Access {
                access: if word >> 30 & 1 != 0 {
                    Access::Write
                } else {
                    Access::Read
                },
                size: (word >> 31 & 63) as u16 * if word >> 29 & 1 != 0 { UNIT } else { 1 },
                several: word >> 29 & 1 != 0,
                retry: offset,
            },
            1 => Kind::Branch {
                moved: (word >> 32) as i32,
            },
            2 => Kind::Interpret { more: offset },
            _ => {
                let (patch, exit) = (offset, (word >> 14 & 3) as u8);
                let next = (word >> 16) as u32 & (SITES - 1);
                if exit == FAR {
                    Kind::Far {
                        patch,
                        way: (word & 0x7ff) as u16,
                        next,
                        poll: word >> 11 & 1 != 0,
                    }
                } else {
                    Kind::Link { patch, exit, next }
                }
            }
        };
        let about = if word >> 12 & 3 == 3 { 0 } else { word };
        Site {
            rip: if let Kind::Far { .. } = kind {
                0
            } else {
                (word & 0xfff) as u16
            },
            kind,
            code: Code::try_from((about >> 16 & 0x1fff) as usize).unwrap_or_default(),
            vector: about >> 14 & 1 != 0,
            shadow: about >> 15 & 1 != 0,
        }
    }
}

/// A translated block. There are a great many, so it is half a line of the cache, and numbers in it
/// are those inside its region.
#[derive(Clone, Copy, Debug)]
#[repr(align(32))]
pub struct Block {
    /// Its key ([`crate::targets`]), and from [`COUNTS`] on how many guest instructions it has and
    /// of how many its code has another copy, [`COUNT_BITS`] each.
    pub(super) what: u64,
    /// Offset of its code in the code cache, and [`about`] it.
    pub(super) host: u32,
    /// Offset of its code that hardly ever runs.
    pub(super) cold: u32,
    /// Bytes of host code.
    pub(super) size: u16,
    /// The next block of its page, or [`LAST_IN_PAGE`].
    pub(super) next_in_page: u16,
    /// [`Block::incoming`], and above [`SITES`] the regions of the code cache, a bit for each, where
    /// these jumps, their sites or the code of their links may be.
    pub(super) links: u32,
    /// Where its map begins.
    pub(super) map: u32,
    /// Its first site.
    pub(super) first_site: u32,
}

const _: () = assert!(size_of::<Block>() == 32);

/// See [`Block`].
pub(super) const COUNTS: u32 = 52;
pub(super) const COUNT_BITS: u32 = 6;
/// See [`Block::next_in_page`].
pub(super) const LAST_IN_PAGE: u16 = u16::MAX;

/// What there is to know of a block: bits above those of an offset in the code cache.
pub mod about {
    use super::REACH;
    /// It ends without a jump: the next block lies behind it and is what it goes on to.
    pub const RUNS_ON: u32 = REACH as u32;
    /// Its one instruction ends in the next page. Such a block begins with a look at where that
    /// page is mapped, unless it is fixed.
    pub const CROSSES: u32 = RUNS_ON << 1;
    /// It depends on another page for the flags that are needed there.
    pub const LOOKS: u32 = RUNS_ON << 2;
    /// Its last instruction is left to the interpreter.
    pub const LEAVES: u32 = RUNS_ON << 3;
    /// Its page was not written.
    pub const VALID: u32 = RUNS_ON << 4;
}
const _: () = assert!(about::VALID == 1 << 31);

/// Bytes of a block's first exit that asks for a link, and of each further one, which shares the
/// end of the first. They lie one behind the other where its code that hardly ever runs begins.
pub const EXITS: [u32; 2] = [11, 8];

impl Block {
    /// Offset of an exit that asks for a link.
    pub fn exit(&self, n: u8) -> u32 {
        self.cold
            + match u32::from(n) {
                0 => 0,
                n => EXITS[0] + (n - 1) * EXITS[1],
            }
    }

    /// Offset of where the jump of one of its sites leads before it is linked.
    pub fn unlinked(&self, site: &Site) -> u32 {
        match site.kind {
            Kind::Link { exit, .. } => self.exit(exit),
            Kind::Far { way, .. } => self.cold + u32::from(way),
            _ => self.cold,
        }
    }

    pub(super) fn is(&self, about: u32) -> bool {
        self.host & about != 0
    }

    /// See [`about::RUNS_ON`].
    pub fn runs_on(&self) -> bool {
        self.is(about::RUNS_ON)
    }

    /// See [`about::CROSSES`].
    pub fn crosses(&self) -> bool {
        self.is(about::CROSSES)
    }

    /// See [`about::VALID`].
    pub fn valid(&self) -> bool {
        self.is(about::VALID)
    }

    /// Its key ([`crate::targets`]).
    pub fn key(&self) -> u64 {
        self.what & ((1 << COUNTS) - 1)
    }

    /// Its first byte in RAM.
    pub fn at(&self) -> RamOffset {
        Targets::place(self.key())
    }

    /// The page of that.
    pub fn page(&self) -> RamOffset {
        RamOffset(self.at().0 & !0xfff)
    }

    /// The number of the mode ([`Targets::mode`]) it was translated for.
    pub fn mode(&self) -> u16 {
        Targets::mode_number(self.what)
    }

    /// Guest instructions.
    pub fn count(&self) -> usize {
        self.number(COUNTS)
    }

    /// Instructions of which its code has another copy.
    pub fn again(&self) -> usize {
        self.number(COUNTS + COUNT_BITS)
    }

    fn number(&self, shift: u32) -> usize {
        (self.what >> shift) as usize % (1 << COUNT_BITS)
    }

    /// Instructions that the code can complete: all, or all but a last one that is left to the
    /// interpreter.
    pub fn completes(&self) -> usize {
        self.count() - usize::from(self.is(about::LEAVES))
    }

    /// Offset of its code in the code cache.
    pub fn host(&self) -> u32 {
        self.host % REACH as u32
    }

    /// Bytes of host code.
    pub fn size(&self) -> u32 {
        self.size.into()
    }

    /// True if an offset in the code cache is in its code.
    pub fn holds(&self, offset: u32) -> bool {
        offset.wrapping_sub(self.host()) < self.size()
    }

    /// Jumps of other blocks that lead here: the site number of the last one, which knows the one
    /// before; [`NO_NEXT`] if there is none.
    pub fn incoming(&self) -> u32 {
        self.links % SITES
    }

    /// Another one; the last one before.
    pub(super) fn set_incoming(&mut self, site: u32) -> u32 {
        let before = self.incoming();
        self.links = self.links & !(SITES - 1) | site;
        before
    }

    /// See [`Block::links`].
    pub(super) fn comes_from(&self, region: usize) -> bool {
        self.links & from(region) != 0
    }

    /// Jumps come from other regions than this.
    pub(super) fn comes_from_others(&self, region: usize) -> bool {
        self.links & !from(region) >= SITES
    }
}

/// The bit of a region in [`Block::links`].
pub(super) fn from(region: usize) -> u32 {
    SITES << region
}
const _: () = assert!((SITES as u64) << (REGIONS - 1) <= u32::MAX as u64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_comes_out_as_it_went_in() {
        let site = |kind, code| Site {
            rip: 0xabc,
            kind,
            code,
            vector: true,
            shadow: false,
        };
        let last = Code::values().last().unwrap();
        assert!((last as usize) < 1 << 13, "no room for {last:?}");
        let access = |access| Kind::Access {
            access,
            size: 32,
            several: false,
            retry: REACH as u32 - 1,
        };
        let several = Kind::Access {
            access: Access::Write,
            size: STRETCH,
            several: true,
            retry: 7,
        };
        let link = Kind::Link {
            patch: REACH as u32 - 5,
            exit: 2,
            next: NO_NEXT,
        };
        let all = [
            site(access(Access::Read), last),
            site(access(Access::Write), Code::Push_r64),
            site(several, last),
            site(Kind::Interpret { more: 0x43 }, Code::Cpuid),
            site(Kind::Branch { moved: -8 }, Code::Call_rm64),
            site(Kind::Branch { moved: 65543 }, Code::Retnq_imm16),
        ];
        let link = Site {
            vector: false,
            ..site(link, Code::INVALID)
        };
        assert_eq!(Site::unpack(link.pack()), link);
        for poll in [false, true] {
            let far = Site {
                rip: 0,
                kind: Kind::Far {
                    patch: REACH as u32 - 5,
                    way: 0x7ff,
                    next: NO_NEXT,
                    poll,
                },
                ..link
            };
            assert_eq!(Site::unpack(far.pack()), far);
        }
        for site in all {
            for shadow in [false, true] {
                let site = Site {
                    shadow,
                    vector: !shadow,
                    ..site
                };
                assert_eq!(Site::unpack(site.pack()), site);
            }
        }
    }
}
