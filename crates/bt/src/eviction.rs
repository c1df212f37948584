//! Which region of a full code cache is emptied for new code.
//!
//! They take turns, the oldest first: what a guest has needed once, for its boot above all, goes
//! before what it needs now. But a program that goes round through a little more code than there is
//! room for would find nothing left so, each time. That shows: what was dropped is made again at once.
//! Then the region is one by chance for as long as that goes on, and of the same program some of it is
//! always there.

use crate::cache::REGIONS;
use crate::targets::HASH;

/// The regions emptied last, of which is known what was in them.
const KNOWN: usize = 3;
/// One block in so many stands for the others.
const SAMPLE: u64 = 16;
/// Binary logarithm of the bits for the blocks of a region: twenty to a block that is in one.
const BITS: u32 = 15;

/// Chooses. See the module.
pub struct Eviction {
    /// Of each of the regions emptied last: bits chosen by the keys of its blocks.
    gone: [Box<[u64]>; KNOWN],
    /// Blocks made since the last choice, of those that stand for others, and those of them that had
    /// gone with one of the regions.
    made: u32,
    again: u32,
    /// The region is one by chance.
    by_chance: bool,
    /// The state of a generator of numbers.
    chance: u32,
}

/// The bit of a key, if it stands for others.
fn bit(key: u64) -> Option<(usize, u64)> {
    let hash = key.wrapping_mul(HASH) >> 32;
    let place = (hash / SAMPLE) as usize % (1 << BITS);
    hash.is_multiple_of(SAMPLE)
        .then_some((place / 64, 1 << (place % 64)))
}

impl Default for Eviction {
    fn default() -> Eviction {
        Eviction {
            gone: std::array::from_fn(|_| vec![0; 1 << (BITS - 6)].into()),
            made: 0,
            again: 0,
            by_chance: false,
            chance: 1,
        }
    }
}

impl Eviction {
    /// A block was made.
    pub fn made(&mut self, key: u64) {
        let Some((word, bit)) = bit(key) else { return };
        self.made += 1;
        self.again += u32::from(self.gone.iter().any(|gone| gone[word] & bit != 0));
    }

    /// The region to be emptied while another is full; not that one.
    pub fn choose(&mut self, full: usize) -> usize {
        // Most of what was made had just been dropped; or, by chance, still much of it.
        let share = if self.by_chance { 4 } else { 2 };
        self.by_chance = share * self.again > self.made;
        (self.made, self.again) = (0, 0);
        let mut others = 0;
        if self.by_chance {
            self.chance = self.chance.wrapping_mul(0x41c6_4e6d).wrapping_add(12345);
            others = (self.chance >> 16) as usize % (REGIONS - 1);
        }
        (full + 1 + others) % REGIONS
    }

    /// The region chosen had blocks with these keys.
    pub fn dropped(&mut self, keys: impl Iterator<Item = u64>) {
        self.gone.rotate_right(1);
        self.gone[0].fill(0);
        for (word, bit) in keys.filter_map(bit) {
            self.gone[0][word] |= bit;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    /// Blocks of a region.
    const FULL: usize = 8000;

    /// A cache in which the blocks of a program are looked for.
    struct Cache {
        eviction: Eviction,
        regions: Vec<HashSet<u64>>,
        filling: usize,
        order: Vec<usize>,
        made: usize,
    }

    impl Cache {
        fn new() -> Cache {
            Cache {
                eviction: Eviction::default(),
                regions: vec![HashSet::new(); REGIONS],
                filling: 0,
                order: Vec::new(),
                made: 0,
            }
        }

        fn run(&mut self, key: u64) {
            let key = key << 12;
            if self.regions.iter().any(|r| r.contains(&key)) {
                return;
            }
            if self.regions[self.filling].len() == FULL {
                let region = match self.regions.iter().position(|r| r.is_empty()) {
                    Some(empty) => empty,
                    None => {
                        let chosen = self.eviction.choose(self.filling);
                        assert_ne!(chosen, self.filling);
                        self.order.push(chosen);
                        chosen
                    }
                };
                let old = std::mem::take(&mut self.regions[region]);
                self.eviction.dropped(old.into_iter());
                self.filling = region;
            }
            self.regions[self.filling].insert(key);
            self.eviction.made(key);
            self.made += 1;
        }
    }

    #[test]
    fn what_is_needed_once_goes_first() {
        let mut cache = Cache::new();
        let all = (REGIONS * FULL) as u64;
        // A boot that fills the cache, then a program that needs most of it, three times.
        (0..all).for_each(|key| cache.run(key));
        for _ in 0..3 {
            (all..all + all * 7 / 8).for_each(|key| cache.run(key));
        }
        assert_eq!(cache.order, [0, 1, 2, 3, 4, 5, 6]);
        assert_eq!(cache.made as u64, all + all * 7 / 8);
    }

    #[test]
    fn a_program_with_more_code_than_there_is_room_for_finds_much_of_it() {
        let mut cache = Cache::new();
        let program = (REGIONS * FULL * 9 / 8) as u64;
        let rounds = 20;
        for _ in 0..rounds {
            (0..program).for_each(|key| cache.run(key));
        }
        let found = rounds * program as usize - cache.made;
        // In turn it would find nothing.
        assert!(found > rounds * program as usize / 3, "{found}");
    }
}
