//! The table of all blocks of one processor, which translated code searches itself when a branch
//! table does not know a target: from the key of a block to its host code.
//!
//! A key says where a block's first byte is and in which mode it runs, in one word:
//!
//! ```text
//! 63     52 51            24 23       12 11     0
//!     0     RAM page          mode        offset
//! ```
//!
//! [`crate::area::CodePage`] holds the upper part for a linear page; adding the offset in the page
//! makes the key. Two places per key, neighbours; what is pushed out of both is found again by
//! the dispatcher's map.

use crate::vcpu::Map;
use mem::RamOffset;

/// Binary logarithm of the number of entries.
pub const BITS: u32 = 15;
/// Factor of the hash: the upper bits of the product are the place.
pub const HASH: u64 = 0x9e37_79b9_7f4a_7c15;
/// Modes that have a number at the same time.
const MODES: usize = 1 << 12;
/// What pins that are up add to a number is less than half this step, and all numbers are below the
/// bits of a linear address that do not choose a guard ([`crate::area::Tables::guards`]).
const STEP: u64 = 128;
/// Pages of code, in one mode each, that have a number at the same time.
const NUMBERS: usize = (1 << 22) / STEP as usize;
/// RAM above this has no key.
const REACH: u64 = 1 << 40;

/// An entry.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Target {
    /// See the module.
    pub key: u64,
    /// Host address of the block.
    pub host: u64,
}

const NONE: Target = Target { key: !0, host: 0 };

/// See the module.
pub struct Targets {
    table: Box<[Target]>,
    /// The modes by their numbers.
    modes: Vec<u64>,
    /// The number of the mode asked for last.
    last: usize,
    /// The numbers of pages of code, by the keys of their first bytes.
    numbers: Map<u64, u64>,
}

impl Targets {
    /// An empty table.
    pub fn new() -> Targets {
        Targets {
            table: vec![NONE; 1 << BITS].into_boxed_slice(),
            modes: Vec::new(),
            last: 0,
            numbers: Map::default(),
        }
    }

    /// Where the entries are in this process.
    pub fn address(&self) -> u64 {
        self.table.as_ptr() as u64
    }

    /// The number of a mode; `None` if there are too many: [`Self::clear`] makes room.
    pub fn mode(&mut self, mode: u64) -> Option<u64> {
        if self.modes.get(self.last) == Some(&mode) {
            return Some(self.last as u64);
        }
        let known = self.modes.iter().position(|m| *m == mode);
        self.last = known.or_else(|| {
            (self.modes.len() < MODES).then(|| {
                self.modes.push(mode);
                self.modes.len() - 1
            })
        })?;
        Some(self.last as u64)
    }

    /// The mode of a number.
    pub fn mode_of(&self, number: u16) -> u64 {
        self.modes.get(usize::from(number)).copied().unwrap_or(0)
    }

    /// The key of the block at a place in RAM in the mode of this number; `None` out of reach.
    pub fn key(at: RamOffset, mode: u64) -> Option<u64> {
        (at.0 < REACH).then_some((at.0 >> 12) << 24 | mode << 12 | at.0 & 0xfff)
    }

    /// The place in RAM of a key.
    pub fn place(key: u64) -> RamOffset {
        RamOffset((key >> 24) << 12 | key & 0xfff)
    }

    /// The number of the mode of a key.
    pub fn mode_number(key: u64) -> u16 {
        (key >> 12 & (MODES as u64 - 1)) as u16
    }

    /// The number of a page of code in a mode, given by the key of its first byte; `None` if there
    /// are too many.
    pub fn number(&mut self, key: u64) -> Option<u64> {
        let known = self.numbers.get(&key).copied();
        known.or_else(|| {
            // No multiple of pages, and not even if pins are added.
            let number = self.numbers.len() as u64 * STEP + STEP / 2;
            (self.numbers.len() < NUMBERS).then(|| {
                self.numbers.insert(key, number);
                number
            })
        })
    }

    fn slot(key: u64) -> usize {
        (key.wrapping_mul(HASH) >> (64 - BITS)) as usize
    }

    /// Enters a block.
    pub fn insert(&mut self, key: u64, host: u64) {
        let slot = Self::slot(key);
        let new = Target { key, host };
        if self.table[slot].key != key && self.table[slot].key != NONE.key {
            self.table[slot ^ 1] = self.table[slot];
        }
        self.table[slot] = new;
    }

    /// Takes a block out.
    pub fn remove(&mut self, key: u64) {
        let slot = Self::slot(key);
        for n in [slot, slot ^ 1] {
            if self.table[n].key == key {
                self.table[n] = NONE;
            }
        }
    }

    /// Takes the blocks out whose code is in a range of host addresses.
    pub fn remove_within(&mut self, from: u64, to: u64) {
        for entry in &mut self.table {
            if (from..to).contains(&entry.host) {
                *entry = NONE;
            }
        }
    }

    /// Empties the table and forgets the modes.
    pub fn clear(&mut self) {
        self.table.fill(NONE);
        self.modes.clear();
        self.numbers.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_inserted_is_found_until_it_is_removed() {
        let mut targets = Targets::new();
        let mode = targets.mode(0x1234).unwrap();
        assert_eq!(targets.mode(0x1234), Some(mode));
        assert_ne!(targets.mode(0x1235), Some(mode));
        let find = |t: &Targets, key: u64| {
            let slot = Targets::slot(key);
            let places = [t.table[slot], t.table[slot ^ 1]];
            places.iter().find(|e| e.key == key).map(|e| e.host)
        };
        let keys: Vec<u64> = (0..1000)
            .map(|n| Targets::key(RamOffset(n * 0x1237), mode).unwrap())
            .collect();
        for (n, key) in keys.iter().enumerate() {
            targets.insert(*key, n as u64 + 1);
            assert_eq!(find(&targets, *key), Some(n as u64 + 1));
        }
        let kept = keys.iter().filter(|k| find(&targets, **k).is_some());
        assert!(kept.count() > 950);
        targets.remove(keys[999]);
        assert_eq!(find(&targets, keys[999]), None);
        targets.clear();
        assert!(keys.iter().all(|k| find(&targets, *k).is_none()));
    }

    #[test]
    fn a_key_holds_page_mode_and_offset_and_ends_at_a_terabyte() {
        assert_eq!(
            Targets::key(RamOffset(0x1234_5678), 7),
            Some(0x0123_4500_7678)
        );
        assert_eq!(Targets::place(0x0123_4500_7678), RamOffset(0x1234_5678));
        assert_eq!(Targets::mode_number(0x0123_4500_7678), 7);
        assert_eq!(Targets::key(RamOffset(1 << 40), 0), None);
    }
}
