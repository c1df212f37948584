//! What the engine remembers of translated code.

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

/// A place in translated code that may leave it. There are many: kept small.
#[derive(Clone, Copy, Debug)]
pub struct Site {
    /// The guest instruction's RIP, relative to its page.
    pub rip: u16,
    /// Why.
    pub kind: Kind,
    /// The guest instruction, for the statistics.
    pub code: Code,
    /// The instruction uses x87, MMX, SSE or AVX registers.
    pub vector: bool,
    /// The instruction follows an STI: interrupts wait for it.
    pub shadow: bool,
}

/// Kinds of [`Site`].
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// A memory access missed the software TLB.
    Access {
        /// What it does.
        access: Access,
        /// Bytes.
        size: u8,
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
        /// RIP of the target, relative to the page.
        target: u16,
        /// Where the jump's displacement is in the code cache.
        patch: u32,
        /// The displacement that leads to the exit which asks for the link.
        unlinked: i32,
        /// Another linked jump to the same block ([`Block::incoming`]).
        next: u32,
    },
}

/// A translated block.
#[derive(Debug)]
pub struct Block {
    /// What it was translated for.
    pub key: Key,
    /// Host address of its code.
    pub host: u64,
    /// Bytes of host code.
    pub size: u32,
    /// Generation of its page when it was translated.
    pub generation: u32,
    /// The page in which its one instruction ends, if that is the next one in the linear space,
    /// and that page's generation. Such a block begins with a look at where that page is mapped.
    pub second: Option<Box<(RamOffset, u32)>>,
    /// For each instruction: offset of its host code, offset of its guest code.
    pub map: Box<[(u16, u16)]>,
    /// Instructions that the code can complete: all, or all but a last one that is left to the
    /// interpreter.
    pub completes: u16,
    /// Jumps of other blocks that lead here: the site number of the last one, which knows the one
    /// before; [`crate::translate::NO_SITE`] if there is none.
    pub incoming: u32,
    /// False after its page was written.
    pub valid: bool,
}

impl Block {
    /// Generation of one of its pages, given as its number, when it was translated.
    pub fn generation_in(&self, page: u64) -> u32 {
        match self.second.as_deref() {
            Some((second, generation)) if second.0 >> 12 == page => *generation,
            _ => self.generation,
        }
    }

    /// The guest instruction whose code contains a host address in this block: its RIP relative to
    /// the page.
    pub fn rip_of(&self, host: u64) -> u64 {
        let offset = (host - self.host) as u16;
        let n = self.map.partition_point(|m| m.0 <= offset);
        let into = self.map.get(n.wrapping_sub(1)).map_or(0, |m| m.1);
        (self.key.at.0 & 0xfff) + u64::from(into)
    }
}
