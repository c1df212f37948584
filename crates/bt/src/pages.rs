//! Copies of the pages that code was translated from last, with what was found out about them.

use core::cell::Cell;
use mem::{GuestMemory, RamOffset};

/// Pages that are kept: calls go back and forth between a few.
const KEPT: usize = 64;

/// What is known of the flags needed at the offsets of a page: one more than the flags, in iced's
/// encoding; 0: not known.
pub type Liveness = [Cell<u8>; 4096];

/// A copy of a page of code.
pub struct CodeCopy {
    at: RamOffset,
    /// Its generation when it was copied.
    generation: u32,
    /// The mode that `live` is for.
    mode: u64,
    /// The bytes.
    pub bytes: Box<[u8; 4096]>,
    /// See [`Liveness`].
    pub live: Box<Liveness>,
}

/// The copies.
#[derive(Default)]
pub struct CodeCopies(Vec<CodeCopy>);

impl CodeCopies {
    /// The copy of a page of this generation, for a mode.
    pub fn get(
        &mut self,
        memory: &GuestMemory,
        page: RamOffset,
        generation: u32,
        mode: u64,
    ) -> &CodeCopy {
        let place = (page.0 >> 12) as usize % KEPT;
        while self.0.len() <= place {
            self.0.push(CodeCopy {
                // No page's address.
                at: RamOffset(!0),
                generation: 0,
                mode: 0,
                bytes: Box::new([0; 4096]),
                live: Box::new([const { Cell::new(0) }; 4096]),
            });
        }
        let copy = &mut self.0[place];
        if (copy.at, copy.generation) != (page, generation) {
            memory.copy_page_out(page, &mut copy.bytes);
            (copy.at, copy.generation) = (page, generation);
            copy.mode = !mode;
        }
        if copy.mode != mode {
            copy.mode = mode;
            copy.live.iter().for_each(|known| known.set(0));
        }
        copy
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_made_anew_for_another_generation_and_its_liveness_for_another_mode() {
        let memory = GuestMemory::anonymous(1 << 20).expect("memory");
        let at = RamOffset(0x3000);
        let mut copies = CodeCopies::default();
        memory.store(at, 1u64);
        let copy = copies.get(&memory, at, 1, 7);
        copy.live[5].set(3);
        assert_eq!((copy.bytes[0], copy.live[5].get()), (1, 3));
        memory.store(at, 2u64);
        let copy = copies.get(&memory, at, 1, 7);
        assert_eq!((copy.bytes[0], copy.live[5].get()), (1, 3), "the same");
        let copy = copies.get(&memory, at, 1, 8);
        assert_eq!((copy.bytes[0], copy.live[5].get()), (1, 0), "another mode");
        let copy = copies.get(&memory, at, 2, 8);
        assert_eq!(copy.bytes[0], 2, "another generation");
        // A page with the same place.
        let other = RamOffset(at.0 + ((KEPT as u64) << 12));
        assert_eq!(copies.get(&memory, other, 2, 8).bytes[0], 0);
        assert_eq!(copies.get(&memory, at, 2, 8).bytes[0], 2);
    }
}
