//! What the engine remembers of translated code. There is about as much of it as of the code, so
//! it is packed; [`crate::blocks`] holds it.

use iced_x86::Code;
use mem::RamOffset;
use x86::mmu::Access;

/// What a block was translated for: the place of its first byte and the mode. Its code fits every
/// linear address at which the page is mapped.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Key {
    /// First byte in RAM.
    pub at: RamOffset,
    /// Mode bits: [`x86::exec::Exec::mode_key`] and the data view.
    pub mode: u64,
}

/// A place in translated code that may leave it. It is kept in one word, a link in two:
///
/// ```text
///          63             37 36         31  30    29 28  16   15     14   13 12 11  0
/// access   offset of check   size          write  0   code  shadow vector  0   rip
/// branch   63..32: moved                       0      code  shadow vector  1   rip
/// interpreted                                         code  shadow vector  2   rip
/// link     offset of jump                              0    shadow vector  3  target
///          63..32: offset of the exit   31..0: next
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Site {
    /// The guest instruction's RIP, relative to its page; of a link that of its target.
    pub rip: u16,
    /// Why.
    pub kind: Kind,
    /// The guest instruction, for the statistics; not known of a link.
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
        /// Bytes, less than 64.
        size: u8,
        /// Where its check is.
        retry: u32,
    },
    /// The instruction is the interpreter's.
    Interpret,
    /// An indirect branch missed the branch table.
    Branch {
        /// What it adds to RSP.
        moved: i32,
    },
    /// A direct jump inside the page that has not been linked to its target yet.
    Link {
        /// Where the jump's displacement is.
        patch: u32,
        /// The exit which asks for the link, where the jump leads before.
        exit: u32,
        /// Another linked jump to the same block ([`Block::incoming`]).
        next: u32,
    },
}

/// Where the offset in the code cache is that translated code reads of an access's site.
pub const RETRY_SHIFT: u8 = 37;
/// A code cache is not larger than these offsets reach.
pub const REACH: usize = 1 << (64 - RETRY_SHIFT);

impl Site {
    /// Appends it.
    pub fn pack(&self, words: &mut Vec<u64>) {
        let (kind, more, second) = match self.kind {
            Kind::Access {
                access,
                size,
                retry,
            } => {
                let write = u64::from(access == Access::Write) << 30;
                let size = u64::from(size & 63) << 31;
                (0, write | size | u64::from(retry) << RETRY_SHIFT, None)
            }
            Kind::Branch { moved } => (1, u64::from(moved as u32) << 32, None),
            Kind::Interpret => (2, 0, None),
            Kind::Link { patch, exit, next } => {
                let second = u64::from(exit) << 32 | u64::from(next);
                (3, u64::from(patch) << RETRY_SHIFT, Some(second))
            }
        };
        let code = match self.kind {
            Kind::Link { .. } => 0,
            _ => self.code as u64,
        };
        words.push(
            u64::from(self.rip & 0xfff)
                | kind << 12
                | u64::from(self.vector) << 14
                | u64::from(self.shadow) << 15
                | code << 16
                | more,
        );
        words.extend(second);
    }

    /// How many words it takes.
    pub fn words(&self) -> usize {
        1 + usize::from(matches!(self.kind, Kind::Link { .. }))
    }

    /// Sets the exit of the link that these words begin with.
    pub fn set_exit(words: &mut [u64], exit: u32) {
        words[1] = u64::from(exit) << 32 | words[1] & 0xffff_ffff;
    }

    /// The site that begins with the first of these words.
    pub fn unpack(words: &[u64]) -> Option<Site> {
        let word = *words.first()?;
        let offset = (word >> RETRY_SHIFT) as u32;
        let kind = match word >> 12 & 3 {
            0 => Kind::Access {
                access: if word >> 30 & 1 != 0 {
                    Access::Write
                } else {
                    Access::Read
                },
                size: (word >> 31 & 63) as u8,
                retry: offset,
            },
            1 => Kind::Branch {
                moved: (word >> 32) as i32,
            },
            2 => Kind::Interpret,
            _ => {
                let second = *words.get(1)?;
                Kind::Link {
                    patch: offset,
                    exit: (second >> 32) as u32,
                    next: second as u32,
                }
            }
        };
        Some(Site {
            rip: (word & 0xfff) as u16,
            kind,
            code: Code::try_from((word >> 16 & 0x1fff) as usize).unwrap_or_default(),
            vector: word >> 14 & 1 != 0,
            shadow: word >> 15 & 1 != 0,
        })
    }
}

/// A translated block.
#[derive(Clone, Copy, Debug)]
pub struct Block {
    /// The page of its first byte, as a number, and where in it that is.
    pub(super) page: u32,
    pub(super) start: u16,
    /// The number of the mode ([`crate::targets::Targets::mode`]) it was translated for.
    pub mode: u16,
    /// Offset of its code in the code cache.
    pub host: u32,
    /// Bytes of host code.
    pub size: u16,
    /// Guest instructions.
    pub count: u8,
    /// Instructions that the code can complete: all, or all but a last one that is left to the
    /// interpreter.
    pub completes: u8,
    /// Generation of its page when it was translated.
    pub generation: u32,
    /// Jumps of other blocks that lead here: the site number of the last one, which knows the one
    /// before; [`crate::translate::NO_SITE`] if there is none.
    pub incoming: u32,
    /// Where its map begins, the next block with the same hash, the next one in its page.
    pub(super) map: u32,
    pub(super) next_alike: u32,
    pub(super) next_in_page: u32,
    /// False after its page was written.
    pub valid: bool,
    /// Its one instruction ends in the next page. Such a block begins with a look at where that
    /// page is mapped.
    pub crosses: bool,
}

impl Block {
    /// Its first byte in RAM.
    pub fn at(&self) -> RamOffset {
        RamOffset(u64::from(self.page) << 12 | u64::from(self.start))
    }
}

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
            retry: REACH as u32 - 1,
        };
        let link = Kind::Link {
            patch: REACH as u32 - 5,
            exit: 77,
            next: !0,
        };
        let all = [
            site(access(Access::Read), last),
            site(access(Access::Write), Code::Push_r64),
            site(Kind::Interpret, Code::Cpuid),
            site(Kind::Branch { moved: -8 }, Code::Call_rm64),
            site(Kind::Branch { moved: 65543 }, Code::Retnq_imm16),
            site(link, Code::INVALID),
        ];
        for site in all {
            for shadow in [false, true] {
                let site = Site {
                    shadow,
                    vector: !shadow,
                    ..site
                };
                let mut words = Vec::new();
                site.pack(&mut words);
                assert_eq!(
                    (Site::unpack(&words), words.len()),
                    (Some(site), site.words())
                );
            }
        }
    }
}
