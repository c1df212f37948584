//! The blocks of one processor: by number, by key, by page, by their place in the code cache, with
//! their sites. Numbers count up until all are forgotten; blocks lie in the cache in their order.

use crate::block::{Block, Kind, NO_NEXT, SITES, Site};
use crate::vcpu::Map;
use mem::RamOffset;

/// Binary logarithm of the places for keys.
const PLACES: u32 = 18;
/// At most so many of them are taken.
const FULL: usize = 3 << (PLACES - 2);
/// No block; in a place also one that was removed, where the search for another must go on.
const NONE: u32 = u32::MAX;
const REMOVED: u32 = NONE - 1;
/// The bits of a place that are the block's number; the others are of its key's hash.
const NUMBER: u32 = (1 << PLACES) - 1;
/// Binary logarithm of the bytes of the code cache for which the first block is known.
const STRETCH: u32 = 10;

/// A block to be added, with the parts that are kept apart.
pub struct New<'a> {
    /// The key ([`crate::targets`]).
    pub key: u64,
    /// Its first byte.
    pub at: RamOffset,
    /// The number of its mode.
    pub mode: u16,
    /// Offset in the code cache.
    pub host: u32,
    /// Offset of its code that hardly ever runs.
    pub cold: u32,
    /// Bytes of host code.
    pub size: usize,
    /// See [`Block::completes`].
    pub completes: usize,
    /// Generation of its page.
    pub generation: u32,
    /// The page in which its one instruction ends, if that is the next one in the linear space,
    /// and its generation.
    pub second: Option<(RamOffset, u32)>,
    /// For each instruction: offset of its host code, offset of its guest code.
    pub map: &'a [(u16, u16)],
    /// Its sites.
    pub sites: &'a [u64],
}

/// See the module.
pub struct Blocks {
    all: Vec<Block>,
    /// By their keys: a hash table whose entries go on to the next place where theirs is taken.
    places: Box<[u32]>,
    /// For each stretch of the code cache the first block that begins in it or behind it.
    stretches: Vec<u32>,
    /// The last block made of each page.
    pages: Map<u64, u32>,
    /// The second pages of blocks that have one, and their generations.
    seconds: Map<u64, (RamOffset, u32)>,
    /// The blocks that end in a page.
    ending: Map<u64, Vec<u32>>,
    /// Packed [`Site`]s.
    pub sites: Vec<u64>,
    /// The maps: for each instruction two bytes, its distance from the one before in host and in
    /// guest code; 255 and two bytes where that is more than 254.
    maps: Vec<u8>,
}

/// The first place of a key, and what its entry has beside the number.
fn place(key: u64) -> (usize, u32) {
    let hash = key.wrapping_mul(crate::targets::HASH);
    let place = (hash >> (64 - PLACES)) as usize;
    (place, (hash >> (32 - PLACES)) as u32 & !NUMBER)
}

impl Blocks {
    /// None, with room for what a code cache of this size can hold: grown step by step, each of
    /// the vectors would leave its former places behind. The host gives what is used.
    pub fn new(cache: usize) -> Blocks {
        Blocks {
            all: Vec::with_capacity(cache / 96),
            places: vec![NONE; 1 << PLACES].into_boxed_slice(),
            stretches: Vec::with_capacity(cache >> STRETCH),
            pages: Map::default(),
            seconds: Map::default(),
            ending: Map::default(),
            sites: Vec::with_capacity(cache / 24),
            maps: Vec::with_capacity(cache / 16),
        }
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.all.clear();
        self.places.fill(NONE);
        self.stretches.clear();
        self.pages.clear();
        self.seconds.clear();
        self.ending.clear();
        self.sites.clear();
        self.maps.clear();
    }

    /// How many there are, with those that are not valid: the number of the next.
    pub fn len(&self) -> u32 {
        self.all.len() as u32
    }

    /// A block.
    pub fn get(&self, number: u32) -> Option<&Block> {
        self.all.get(number as usize)
    }

    /// The block of a key.
    pub fn find(&self, key: u64) -> Option<u32> {
        let (at, mode) = ((key >> 24) << 12 | key & 0xfff, (key >> 12 & 0xfff) as u16);
        let (mut place, tag) = place(key);
        loop {
            let entry = self.places[place];
            if entry == NONE {
                return None;
            }
            let number = entry & NUMBER;
            if entry & !NUMBER == tag
                && let Some(block) = self.get(number)
                && block.at().0 == at
                && block.mode == mode
                && entry != REMOVED
            {
                return Some(number);
            }
            place = (place + 1) % self.places.len();
        }
    }

    /// True if no more can be added.
    pub fn is_full(&self) -> bool {
        self.all.len() >= FULL || self.sites.len() + 1000 >= SITES as usize
    }

    /// Adds a block; its number.
    pub fn add(&mut self, new: &New<'_>) -> u32 {
        let number = self.len();
        let page = new.at.0 >> 12;
        let map = self.maps.len() as u32;
        let mut before = (0, 0);
        for &(host, guest) in new.map {
            for distance in [host - before.0, guest - before.1] {
                match u8::try_from(distance) {
                    Ok(short) if short < 255 => self.maps.push(short),
                    _ => {
                        self.maps.push(255);
                        self.maps.extend(distance.to_le_bytes());
                    }
                }
            }
            before = (host, guest);
        }
        while self.stretches.len() <= new.host as usize >> STRETCH {
            self.stretches.push(number);
        }
        let (mut at, tag) = place(new.key);
        while self.places[at] != NONE {
            at = (at + 1) % self.places.len();
        }
        self.places[at] = tag | number;
        let next_in_page = self.pages.insert(page, number).unwrap_or(NONE);
        if let Some(second) = new.second {
            self.seconds.insert(number.into(), second);
            let ending = self.ending.entry(second.0.0 >> 12).or_default();
            ending.push(number);
        }
        self.sites.extend_from_slice(new.sites);
        self.all.push(Block {
            page: page as u32,
            start: (new.at.0 & 0xfff) as u16,
            mode: new.mode,
            host: new.host,
            size: new.size as u16,
            count: new.map.len() as u8,
            completes: new.completes as u8,
            generation: new.generation,
            incoming: NO_NEXT,
            map,
            cold: new.cold,
            next_in_page,
            valid: true,
            crosses: new.second.is_some(),
        });
        number
    }

    /// Takes a block out of those that are found by their keys.
    pub fn remove(&mut self, key: u64, number: u32) {
        let (mut at, tag) = place(key);
        while self.places[at] != NONE {
            if self.places[at] == tag | number {
                self.places[at] = REMOVED;
                return;
            }
            at = (at + 1) % self.places.len();
        }
    }

    /// All pages that blocks lie in, as numbers; some may come twice.
    pub fn pages(&self) -> Vec<u64> {
        let pages = self.pages.keys().chain(self.ending.keys());
        pages.copied().collect()
    }

    /// True if a block of a page, given as its number, was not translated in this generation.
    pub fn is_stale(&self, page: u64, generation: u32) -> bool {
        let ending = self.ending.get(&page).map_or(&[][..], |e| e);
        let second = |n: &u32| self.seconds.get(&u64::from(*n)).map(|s| s.1);
        let mut number = self.pages.get(&page).copied().unwrap_or(NONE);
        while let Some(block) = self.get(number) {
            if block.generation != generation {
                return true;
            }
            number = block.next_in_page;
        }
        ending.iter().any(|n| second(n) != Some(generation))
    }

    /// Takes the blocks of a page, given as its number.
    pub fn take_page(&mut self, page: u64) -> Vec<u32> {
        let mut found = self.ending.remove(&page).unwrap_or_default();
        let mut number = self.pages.remove(&page).unwrap_or(NONE);
        while let Some(block) = self.get(number) {
            found.push(number);
            number = block.next_in_page;
        }
        found
    }

    /// The page that the block's one instruction ends in, and its generation.
    pub fn second(&self, number: u32) -> Option<(RamOffset, u32)> {
        let crosses = self.get(number)?.crosses;
        crosses.then(|| self.seconds.get(&number.into()).copied())?
    }

    /// For each instruction of a block: offset of its host code, offset of its guest code.
    pub fn map(&self, number: u32) -> Vec<(u16, u16)> {
        let Some(block) = self.get(number) else {
            return Vec::new();
        };
        let mut bytes = self.maps[block.map as usize..].iter().copied();
        let mut byte = || bytes.next().unwrap_or(0);
        let mut distance = || match byte() {
            255 => u16::from_le_bytes([byte(), byte()]),
            short => short.into(),
        };
        let mut at = (0, 0);
        let mut next = || {
            at = (at.0 + distance(), at.1 + distance());
            at
        };
        (0..block.count).map(|_| next()).collect()
    }

    /// The block whose code holds an offset in the code cache.
    pub fn at_host(&self, offset: u32) -> Option<u32> {
        let stretch = offset as usize >> STRETCH;
        let first = (*self.stretches.get(stretch).unwrap_or(&self.len())).saturating_sub(1);
        let end = *self.stretches.get(stretch + 1).unwrap_or(&self.len());
        let some = &self.all[first as usize..end as usize];
        let n = first + some.partition_point(|b| b.host <= offset) as u32;
        let block = self.get(n.checked_sub(1)?)?;
        (offset.wrapping_sub(block.host) < block.size.into()).then(|| n - 1)
    }

    /// The guest instruction whose code contains an offset in the code cache, in a block: its RIP
    /// relative to the page.
    pub fn rip_of(&self, number: u32, offset: u32) -> Option<u64> {
        let block = self.get(number)?;
        let into = (offset - block.host) as u16;
        let map = self.map(number);
        let n = map.partition_point(|m| m.0 <= into);
        let guest = map.get(n.wrapping_sub(1)).map_or(0, |m| m.1);
        Some(u64::from(block.start) + u64::from(guest))
    }

    /// A site by its number.
    pub fn site(&self, number: u32) -> Option<Site> {
        self.sites.get(number as usize).copied().map(Site::unpack)
    }

    /// The jump of a site was linked to a block.
    pub fn link(&mut self, site: u32, to: u32) {
        let Some(block) = self.all.get_mut(to as usize) else {
            return;
        };
        if let Some(word) = self.sites.get_mut(site as usize) {
            let mut of = Site::unpack(*word);
            if let Kind::Link { next, .. } = &mut of.kind {
                *next = std::mem::replace(&mut block.incoming, site);
            }
            *word = of.pack();
        }
    }

    /// The block is no longer valid: the jumps that were linked to it.
    pub fn unlink(&mut self, number: u32) -> Vec<Site> {
        let Some(block) = self.all.get_mut(number as usize) else {
            return Vec::new();
        };
        block.valid = false;
        let mut links = Vec::new();
        let mut number = std::mem::replace(&mut block.incoming, NO_NEXT);
        while number != NO_NEXT
            && let Some(site) = self.site(number)
            && let Kind::Link { next, .. } = site.kind
        {
            links.push(site);
            number = next;
        }
        links
    }
}

impl core::ops::Index<u32> for Blocks {
    type Output = Block;
    fn index(&self, number: u32) -> &Block {
        &self.all[number as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::targets::Targets;

    fn add(blocks: &mut Blocks, at: u64, host: u32, size: usize) -> u32 {
        let at = RamOffset(at);
        blocks.add(&New {
            key: Targets::key(at, 3).unwrap(),
            at,
            mode: 3,
            host,
            cold: 7000,
            size,
            completes: 2,
            generation: 1,
            second: (at.0 & 0xfff == 0xfff).then_some((RamOffset(0x9_9000), 5)),
            map: &[(4, 0), (300, 3)],
            sites: &[],
        })
    }

    #[test]
    fn blocks_are_found_by_key_page_and_place() {
        let mut blocks = Blocks::new(1 << 20);
        let (mut host, mut made) = (500, Vec::new());
        for n in 0..2000u64 {
            let at = n * 0x777;
            let size = 310 + (n as usize * 37) % 900;
            made.push((at, host, size, add(&mut blocks, at, host, size)));
            host += size as u32 + n as u32 % 16;
        }
        for &(at, host, size, number) in &made {
            let key = Targets::key(RamOffset(at), 3).unwrap();
            assert_eq!(blocks.find(key), Some(number));
            assert_eq!(blocks.find(key ^ 1 << 12), None, "another mode");
            assert_eq!(blocks[number].at(), RamOffset(at));
            for offset in [host, host + 299, host + 300, host + size as u32 - 1] {
                assert_eq!(blocks.at_host(offset), Some(number));
                let second = offset - host >= 300;
                let rip = (at & 0xfff) + if second { 3 } else { 0 };
                assert_eq!(blocks.rip_of(number, offset), Some(rip));
            }
            assert_eq!(blocks.map(number), [(4, 0), (300, 3)]);
        }
        assert_eq!(blocks.at_host(499), None);
        assert_eq!(blocks.at_host(host), None);
        // Out of the middle of their chains.
        for &(at, .., number) in made.iter().step_by(3) {
            blocks.remove(Targets::key(RamOffset(at), 3).unwrap(), number);
        }
        for (n, &(at, .., number)) in made.iter().enumerate() {
            let found = blocks.find(Targets::key(RamOffset(at), 3).unwrap());
            assert_eq!(found, (n % 3 != 0).then_some(number));
        }
        assert!(!blocks.is_stale(1, 1) && blocks.is_stale(1, 2));
        let page = blocks.take_page(1);
        assert!(!page.is_empty() && page.iter().all(|n| blocks[*n].page == 1));
        assert!(!blocks.is_stale(1, 2));
    }

    #[test]
    fn a_block_is_of_both_its_pages() {
        let mut blocks = Blocks::new(1 << 20);
        let number = add(&mut blocks, 0x1fff, 0, 500);
        assert_eq!(blocks.second(number), Some((RamOffset(0x9_9000), 5)));
        assert!(!blocks.is_stale(1, 1) && blocks.is_stale(1, 5));
        assert!(!blocks.is_stale(0x99, 5) && blocks.is_stale(0x99, 1));
        assert_eq!(blocks.take_page(0x99), [number]);
        assert_eq!(blocks.take_page(1), [number]);
    }

    #[test]
    fn linked_jumps_are_given_back_by_the_block_they_lead_to() {
        let mut blocks = Blocks::new(1 << 20);
        let number = add(&mut blocks, 0x1000, 0, 500);
        let link = |patch| Site {
            rip: 0,
            kind: Kind::Link {
                patch,
                exit: 1,
                next: NO_NEXT,
            },
            code: iced_x86::Code::INVALID,
            vector: false,
            shadow: false,
        };
        for patch in [10, 20] {
            let site = blocks.sites.len() as u32;
            blocks.sites.push(link(patch).pack());
            blocks.link(site, number);
        }
        let places: Vec<_> = blocks.unlink(number).iter().map(|s| s.kind).collect();
        let Kind::Link { exit, patch, .. } = places[0] else {
            panic!("no link")
        };
        assert_eq!((places.len(), patch), (2, 20));
        assert_eq!(blocks[number].exit(exit), 7011);
        assert!(!blocks[number].valid && blocks.unlink(number).is_empty());
    }
}
