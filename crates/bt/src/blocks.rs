//! The blocks of one processor: by number, by key, by page, by their place in the code cache, with
//! their sites. The code cache is filled and emptied in regions, and so is all of this: a region has
//! numbers of its own for blocks and sites, which count up until it is emptied. Blocks lie in their
//! region in their order.

use crate::block::{
    Block, COUNT_BITS, COUNTS, Kind, LAST_IN_PAGE, NO_NEXT, SITES, Site, about, from,
};
use crate::cache::REGIONS;
use crate::entry;
use crate::targets::{HASH, Targets};
use crate::vcpu::Map;
use mem::RamOffset;
use std::collections::HashSet;
use std::collections::hash_map::Entry;

/// Places for keys.
const PLACES: usize = 5 << 16;
/// Binary logarithm of the numbers of a region's blocks, and of its sites.
const BLOCK_BITS: u32 = 15;
const SITE_BITS: u32 = 18;
const _: () = assert!(REGIONS << SITE_BITS == SITES as usize);
/// Blocks of a region at most: a fifth of all places stays free, and the last numbers are no block's.
const FULL: usize = (1 << BLOCK_BITS) - 2;
const _: () = assert!(REGIONS * FULL * 5 <= PLACES * 4 && FULL <= LAST_IN_PAGE as usize);
/// No block; in a place also one that was removed, where the search for another must go on.
const NONE: u32 = u32::MAX;
const REMOVED: u32 = NONE - 1;
/// The bits of a place that are the block's number; the others are of its key's hash.
const NUMBER: u32 = ((REGIONS << BLOCK_BITS) - 1) as u32;
/// Binary logarithm of the bytes of the code cache for which the first block is known.
const STRETCH: u32 = 10;

/// A block to be added, with the parts that are kept apart.
pub struct New<'a> {
    /// The key ([`crate::targets`]).
    pub key: u64,
    /// Offset in the code cache.
    pub host: u32,
    /// Offset of its code that hardly ever runs.
    pub cold: u32,
    /// Bytes of host code.
    pub size: usize,
    /// See [`Block::completes`].
    pub completes: usize,
    /// Guest instructions: as many entries of the map, those behind are of other copies.
    pub count: usize,
    /// Generation of its page.
    pub generation: u32,
    /// The page in which its one instruction ends, if that is the next one in the linear space,
    /// and its generation.
    pub second: Option<(RamOffset, u32)>,
    /// It does not: that is another page that the block depends on.
    pub looks: bool,
    /// For each instruction: offset of its host code, offset of its guest code.
    pub map: &'a [(u16, u16)],
    /// Its sites.
    pub sites: &'a [u64],
}

/// The blocks of a region that begin in a page.
struct Page {
    /// The last one made.
    last: u16,
    /// Generation of the page when the first one was made.
    generation: u32,
}

/// What there is of a region.
struct Region {
    blocks: Vec<Block>,
    /// By the page's number.
    pages: Map<u32, Page>,
    /// The second pages of blocks that have one, or depend on one, and their generations.
    seconds: Map<u32, (u32, u32)>,
    /// The blocks that end in a page, or depend on it.
    ending: Map<u32, Vec<u32>>,
    /// For each stretch of the region the first block that begins in it or behind it, as its
    /// place in `blocks`.
    stretches: Vec<u32>,
    /// The maps: for each instruction two bytes, its distance from the one before in host and in
    /// guest code; 255 and two bytes where that is more than 254.
    maps: Vec<u8>,
    /// How many sites.
    sites: usize,
    /// Sites of other regions the code of whose far links is here, or was; with [`SITES`] added where
    /// that leads to no block.
    far: Vec<u32>,
    /// The blocks of other regions to which jumps from here may lead.
    linked: Vec<u32>,
}

/// See the module.
pub struct Blocks {
    regions: Vec<Region>,
    /// The region being filled.
    region: usize,
    /// Bytes of a region of the code cache.
    size: u32,
    /// By their keys: a hash table whose entries go on to the next place where theirs is taken.
    places: Box<[u32]>,
    /// Packed [`Site`]s.
    pub sites: Box<[u64]>,
}

fn region_of(number: u32) -> usize {
    (number >> BLOCK_BITS) as usize
}

fn region_of_site(site: u32) -> usize {
    (site >> SITE_BITS) as usize
}

fn index_of(number: u32) -> usize {
    number as usize % (1 << BLOCK_BITS)
}

impl Region {
    fn clear(&mut self) {
        self.blocks.clear();
        self.pages.clear();
        self.seconds.clear();
        self.ending.clear();
        self.stretches.clear();
        self.maps.clear();
        self.sites = 0;
        self.far.clear();
        self.linked.clear();
    }

    /// The blocks that begin in a page, as their places.
    fn in_page(&self, page: u32) -> impl Iterator<Item = u16> {
        let first = self.pages.get(&page).map_or(LAST_IN_PAGE, |page| page.last);
        let exists = |n: u16| (n != LAST_IN_PAGE).then_some(n);
        core::iter::successors(exists(first), move |n| {
            exists(self.blocks[usize::from(*n)].next_in_page)
        })
    }

    /// True if a block of a page was not translated in this generation.
    fn is_stale(&self, page: u32, generation: u32) -> bool {
        let second = |n: &u32| self.seconds.get(n).map(|s| s.1);
        let begins = self.pages.get(&page).map(|page| page.generation);
        let ends = self.ending.get(&page).into_iter().flatten();
        begins.is_some_and(|g| g != generation) || ends.map(second).any(|g| g != Some(generation))
    }
}

/// The first place of a key, and what its entry has beside the number.
fn place(key: u64) -> (usize, u32) {
    let hash = key.wrapping_mul(HASH);
    let place = ((hash >> 32) * PLACES as u64) >> 32;
    (place as usize, hash as u32 & !NUMBER)
}

impl Blocks {
    /// None, with room for what a code cache with regions of this size can hold: grown step by
    /// step, each of the vectors would leave its former places behind. The host gives what is used.
    pub fn new(size: usize) -> Blocks {
        let region = || Region {
            blocks: Vec::with_capacity(FULL),
            pages: Map::default(),
            seconds: Map::default(),
            ending: Map::default(),
            stretches: Vec::with_capacity(size >> STRETCH),
            maps: Vec::with_capacity(size / 16),
            sites: 0,
            far: Vec::new(),
            linked: Vec::new(),
        };
        Blocks {
            regions: (0..REGIONS).map(|_| region()).collect(),
            region: 0,
            size: size as u32,
            places: vec![NONE; PLACES].into_boxed_slice(),
            sites: vec![0; SITES as usize].into_boxed_slice(),
        }
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.regions.iter_mut().for_each(Region::clear);
        self.region = 0;
        self.places.fill(NONE);
    }

    /// The number of the next block.
    pub fn next(&self) -> u32 {
        (self.region << BLOCK_BITS | self.regions[self.region].blocks.len()) as u32
    }

    /// The number of the next site.
    pub fn next_site(&self) -> u32 {
        (self.region << SITE_BITS | self.regions[self.region].sites) as u32
    }

    /// A block.
    pub fn get(&self, number: u32) -> Option<&Block> {
        let region = self.regions.get(region_of(number))?;
        region.blocks.get(index_of(number))
    }

    fn get_mut(&mut self, number: u32) -> Option<&mut Block> {
        let region = self.regions.get_mut(region_of(number))?;
        region.blocks.get_mut(index_of(number))
    }

    /// The numbers of the blocks of a region.
    pub fn numbers(&self, region: usize) -> core::ops::Range<u32> {
        let first = (region << BLOCK_BITS) as u32;
        first..first + self.regions[region].blocks.len() as u32
    }

    /// The numbers of all blocks.
    pub fn all(&self) -> Vec<u32> {
        (0..REGIONS).flat_map(|r| self.numbers(r)).collect()
    }

    /// Forgets the blocks of a region, and goes on there. What is given back are jumps of others
    /// that were linked to them: where they are, and where they led before.
    pub fn begin(&mut self, region: usize) -> Vec<(u32, u32)> {
        let mut back = Vec::new();
        for number in self.numbers(region) {
            let block = &self[number];
            if !block.valid() || !block.comes_from_others(region) {
                continue;
            }
            let links = self.unlink(number);
            let elsewhere = links.iter().filter(|site| match site.kind {
                Kind::Link { patch, .. } | Kind::Far { patch, .. } => {
                    patch / self.size != region as u32
                }
                _ => false,
            });
            back.extend(elsewhere.filter_map(|site| self.way_back(site)));
        }
        // The code of links that lead elsewhere goes, too.
        let far = std::mem::take(&mut self.regions[region].far);
        let (far, mut gone): (HashSet<u32>, Vec<u32>) = {
            let (linked, loose): (Vec<u32>, Vec<u32>) = far.iter().partition(|s| **s < SITES);
            (
                linked.into_iter().collect(),
                loose.iter().map(|s| s % SITES).collect(),
            )
        };
        let linked = std::mem::take(&mut self.regions[region].linked);
        for other in (0..REGIONS).filter(|r| *r != region) {
            let other = &mut self.regions[other];
            other
                .far
                .retain(|site| region_of_site(*site % SITES) != region);
            other.linked.retain(|number| region_of(*number) != region);
        }
        for number in linked {
            // A site whose link was once here and is elsewhere now leads to a block without it.
            self.drop_links_from(number, |site| {
                let here = far.contains(&site);
                if here {
                    gone.push(site);
                }
                here || region_of_site(site) == region
            });
            if let Some(block) = self.get_mut(number) {
                block.links &= !from(region);
            }
        }
        for site in gone {
            let site = self.site(site);
            back.extend(site.and_then(|site| self.way_back(&site)));
        }
        self.forget(region);
        self.regions[region].clear();
        self.region = region;
        back
    }

    /// Where the jump of a linked site is and where it led before; nothing if its block is no
    /// longer valid: then its code is no longer its own.
    pub fn way_back(&self, site: &Site) -> Option<(u32, u32)> {
        let (Kind::Link { patch, .. } | Kind::Far { patch, .. }) = site.kind else {
            return None;
        };
        let from = self.at_host(patch).map(|from| self[from])?;
        from.valid().then(|| (patch, from.unlinked(site)))
    }

    /// The code of a far link, to a block unless it leads by the branch table for good, was put into
    /// the region being filled.
    pub fn add_far(&mut self, site: u32, to: Option<u32>) {
        if region_of_site(site) != self.region {
            let region = self.region;
            if let Some(to) = to {
                self.comes_from(to, region);
            }
            let loose = if to.is_none() { SITES } else { 0 };
            self.regions[region].far.push(site | loose);
        }
    }

    /// Takes some jumps out of those that lead to a block.
    fn drop_links_from(&mut self, number: u32, mut goes: impl FnMut(u32) -> bool) {
        let mut site = self[number].incoming();
        let mut keep = Vec::new();
        let mut all = true;
        while site != NO_NEXT
            && let Some(Kind::Link { next, .. } | Kind::Far { next, .. }) =
                self.site(site).map(|s| s.kind)
        {
            if goes(site) {
                all = false;
            } else {
                keep.push(site);
            }
            site = next;
        }
        if !all {
            if let Some(block) = self.get_mut(number) {
                block.set_incoming(NO_NEXT);
            }
            for site in keep {
                self.link(site, number);
            }
        }
    }

    /// Jumps, sites or links of a region lead to a block.
    fn comes_from(&mut self, number: u32, region: usize) {
        if let Some(block) = self.get_mut(number)
            && !block.comes_from(region)
        {
            block.links |= from(region);
            if region_of(number) != region {
                self.regions[region].linked.push(number);
            }
        }
    }

    fn enter(&mut self, key: u64, number: u32) {
        let (mut at, tag) = place(key);
        while self.places[at] < REMOVED {
            at = (at + 1) % PLACES;
        }
        self.places[at] = tag | number;
    }

    /// Takes the blocks of a region out of the places.
    fn forget(&mut self, region: usize) {
        for place in self.places.iter_mut().filter(|place| **place < REMOVED) {
            if region_of(*place & NUMBER) == region {
                *place = REMOVED;
            }
        }
        // No search has to go on where the next place has none.
        let mut next = self.places[0];
        for place in self.places.iter_mut().rev() {
            if *place == REMOVED && next == NONE {
                *place = NONE;
            }
            next = *place;
        }
    }

    /// A key is about to be looked for: what that takes from memory is fetched meanwhile.
    pub fn expect(&self, key: u64) {
        entry::prefetch(&self.places[place(key).0]);
    }

    /// The block of a key.
    pub fn find(&self, key: u64) -> Option<u32> {
        let (mut place, tag) = place(key);
        loop {
            let entry = self.places[place];
            if entry == NONE {
                return None;
            }
            let number = entry & NUMBER;
            if entry & !NUMBER == tag
                && let Some(block) = self.get(number)
                && block.key() == key
                && entry != REMOVED
            {
                return Some(number);
            }
            place = (place + 1) % PLACES;
        }
    }

    /// The block that was added last, if that was to the region being filled.
    pub fn last(&self) -> Option<u32> {
        self.numbers(self.region).next_back()
    }

    /// The block added last loses so many bytes at its end to the next one, to which it goes on.
    pub fn run_on(&mut self, bytes: usize) {
        if let Some(block) = self.regions[self.region].blocks.last_mut() {
            block.size -= bytes as u16;
            block.host |= about::RUNS_ON;
        }
    }

    /// The block that goes on to this one without a jump.
    pub fn runs_into(&self, number: u32) -> Option<u32> {
        let before = index_of(number).checked_sub(1).map(|_| number - 1)?;
        self[before].runs_on().then_some(before)
    }

    /// True if no more can be added to the region.
    pub fn is_full(&self) -> bool {
        let region = &self.regions[self.region];
        region.blocks.len() >= FULL || region.sites + 1000 >= 1 << SITE_BITS
    }

    /// Adds a block; its number.
    pub fn add(&mut self, new: &New<'_>) -> u32 {
        let number = self.next();
        let first_site = self.next_site() as usize;
        let page = (Targets::place(new.key).0 >> 12) as u32;
        let region = &mut self.regions[self.region];
        let map = region.maps.len() as u32;
        let mut before = (0, 0);
        for &(host, guest) in new.map {
            // A group's other copy goes back in the guest's code.
            for distance in [host - before.0, guest.wrapping_sub(before.1)] {
                match u8::try_from(distance) {
                    Ok(short) if short < 255 => region.maps.push(short),
                    _ => {
                        region.maps.push(255);
                        region.maps.extend(distance.to_le_bytes());
                    }
                }
            }
            before = (host, guest);
        }
        while region.stretches.len() <= (new.host % self.size) as usize >> STRETCH {
            region.stretches.push(region.blocks.len() as u32);
        }
        self.enter(new.key, number);
        let region = &mut self.regions[self.region];
        let place = region.blocks.len() as u16;
        let next_in_page = match region.pages.entry(page) {
            Entry::Occupied(mut known) => std::mem::replace(&mut known.get_mut().last, place),
            Entry::Vacant(new_one) => {
                new_one.insert(Page {
                    last: place,
                    generation: new.generation,
                });
                LAST_IN_PAGE
            }
        };
        if let Some((second, generation)) = new.second {
            let second = (second.0 >> 12) as u32;
            region.seconds.insert(number, (second, generation));
            region.ending.entry(second).or_default().push(number);
        }
        let sites = first_site..first_site + new.sites.len();
        self.sites[sites].copy_from_slice(new.sites);
        region.sites += new.sites.len();
        let (count, again) = (new.count, new.map.len() - new.count);
        assert!(count.max(again) < 1 << COUNT_BITS, "too long a block");
        let counts = count | again << COUNT_BITS;
        let second = match (new.second, new.looks) {
            (None, _) => 0,
            (_, false) => about::CROSSES,
            (_, true) => about::LOOKS,
        };
        let leaves = if new.completes < count {
            about::LEAVES
        } else {
            0
        };
        region.blocks.push(Block {
            what: new.key | (counts as u64) << COUNTS,
            host: new.host | second | leaves | about::VALID,
            cold: new.cold,
            size: new.size as u16,
            next_in_page,
            links: NO_NEXT,
            map,
            first_site: first_site as u32,
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
            at = (at + 1) % PLACES;
        }
    }

    /// All pages that blocks lie in, as numbers; some may come twice.
    pub fn pages(&self) -> Vec<u32> {
        let regions = self.regions.iter();
        let pages = regions.flat_map(|r| r.pages.keys().chain(r.ending.keys()));
        pages.copied().collect()
    }

    /// True if a block of a page, given as its number, was not translated in this generation.
    pub fn is_stale(&self, page: u32, generation: u32) -> bool {
        self.regions.iter().any(|r| r.is_stale(page, generation))
    }

    /// Takes the blocks of a page, given as its number.
    pub fn take_page(&mut self, page: u32) -> Vec<u32> {
        let mut found = self.in_page(page);
        for region in &mut self.regions {
            found.extend(region.ending.remove(&page).into_iter().flatten());
            region.pages.remove(&page);
        }
        found
    }

    /// The blocks that begin in a page, given as its number.
    pub fn in_page(&self, page: u32) -> Vec<u32> {
        let regions = self.regions.iter().enumerate();
        let numbers = regions.flat_map(|(n, region)| {
            let first = (n << BLOCK_BITS) as u32;
            region.in_page(page).map(move |n| first + u32::from(n))
        });
        numbers.collect()
    }

    /// The page that the block's one instruction ends in, and its generation.
    pub fn second(&self, number: u32) -> Option<(RamOffset, u32)> {
        self.other(number, about::CROSSES)
    }

    /// The page whose flags the block depends on, and its generation.
    pub fn looked_at(&self, number: u32) -> Option<(RamOffset, u32)> {
        self.other(number, about::LOOKS)
    }

    fn other(&self, number: u32, about: u32) -> Option<(RamOffset, u32)> {
        if !self.get(number)?.is(about) {
            return None;
        }
        let &(page, generation) = self.regions[region_of(number)].seconds.get(&number)?;
        Some((RamOffset(u64::from(page) << 12), generation))
    }

    /// For each instruction of a block: offset of its host code, offset of its guest code.
    pub fn map(&self, number: u32) -> Vec<(u16, u16)> {
        let Some(block) = self.get(number) else {
            return Vec::new();
        };
        let maps = &self.regions[region_of(number)].maps;
        let mut bytes = maps[block.map as usize..].iter().copied();
        let mut byte = || bytes.next().unwrap_or(0);
        let mut distance = || match byte() {
            255 => u16::from_le_bytes([byte(), byte()]),
            short => short.into(),
        };
        let mut at = (0, 0);
        let mut next = || {
            at = (at.0 + distance(), u16::wrapping_add(at.1, distance()));
            at
        };
        let entries = block.count() + block.again();
        (0..entries).map(|_| next()).collect()
    }

    /// The block that has a site: the last whose first site is not behind it.
    pub fn of_site(&self, site: u32) -> Option<u32> {
        let number = region_of_site(site);
        let blocks = &self.regions.get(number)?.blocks;
        let n = blocks.partition_point(|b| b.first_site <= site);
        Some((number << BLOCK_BITS | n.checked_sub(1)?) as u32)
    }

    /// The block whose code holds an offset in the code cache.
    pub fn at_host(&self, offset: u32) -> Option<u32> {
        // What asks is often a block that was just added, and wants to be linked, perhaps to the next.
        let mut last = self.numbers(self.region).rev().take(2);
        if let Some(last) = last.find(|last| self[*last].holds(offset)) {
            return Some(last);
        }
        let number = offset / self.size;
        let region = self.regions.get(number as usize)?;
        let stretch = (offset % self.size) as usize >> STRETCH;
        let begins = |stretch| {
            let first = region.stretches.get(stretch).map(|n| *n as usize);
            first.unwrap_or(region.blocks.len())
        };
        let first = begins(stretch).saturating_sub(1);
        let some = &region.blocks[first..begins(stretch + 1)];
        let n = first + some.partition_point(|b| b.host() <= offset);
        let n = n.checked_sub(1)?;
        let inside = region.blocks[n].holds(offset);
        inside.then_some(number << BLOCK_BITS | n as u32)
    }

    /// The guest instruction whose code contains an offset in the code cache, in a block: its RIP
    /// relative to the page.
    pub fn rip_of(&self, number: u32, offset: u32) -> Option<u64> {
        let block = self.get(number)?;
        let into = (offset - block.host()) as u16;
        let map = self.map(number);
        let n = map.partition_point(|m| m.0 <= into);
        let guest = map.get(n.wrapping_sub(1)).map_or(0, |m| m.1);
        Some((block.key() & 0xfff) + u64::from(guest))
    }

    /// A site by its number.
    pub fn site(&self, number: u32) -> Option<Site> {
        self.sites.get(number as usize).copied().map(Site::unpack)
    }

    /// The jump of a linked site is elsewhere.
    pub fn move_jump(&mut self, site: u32, to: u32) {
        if let Some(mut of) = self.site(site)
            && let Kind::Link { patch, .. } = &mut of.kind
        {
            *patch = to;
            self.sites[site as usize] = of.pack();
        }
    }

    /// The jump of a site was linked to a block.
    pub fn link(&mut self, site: u32, to: u32) {
        let (Some(mut of), Some(block)) = (self.site(site), self.get_mut(to)) else {
            return;
        };
        if let Kind::Link { next, .. } | Kind::Far { next, .. } = &mut of.kind {
            *next = block.set_incoming(site);
            self.sites[site as usize] = of.pack();
            self.comes_from(to, region_of_site(site));
        }
    }

    /// The block is no longer valid: the jumps that were linked to it.
    pub fn unlink(&mut self, number: u32) -> Vec<Site> {
        let Some(block) = self.get_mut(number) else {
            return Vec::new();
        };
        block.host &= !about::VALID;
        self.take_links(number)
    }

    /// The jumps that were linked to a block, and are to be no more.
    pub fn take_links(&mut self, number: u32) -> Vec<Site> {
        let Some(block) = self.get_mut(number) else {
            return Vec::new();
        };
        let mut links = Vec::new();
        let mut number = block.set_incoming(NO_NEXT);
        while number != NO_NEXT
            && let Some(site) = self.site(number)
            && let Kind::Link { next, .. } | Kind::Far { next, .. } = site.kind
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
        &self.regions[region_of(number)].blocks[index_of(number)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(blocks: &mut Blocks, at: u64, host: u32, size: usize) -> u32 {
        let at = RamOffset(at);
        blocks.add(&New {
            key: Targets::key(at, 3).unwrap(),
            host,
            cold: 7000,
            size,
            completes: 2,
            count: 2,
            generation: 1,
            second: (at.0 & 0xfff == 0xfff).then_some((RamOffset(0x9_9000), 5)),

            looks: false,
            map: &[(4, 0), (300, 3)],
            sites: &[],
        })
    }

    #[test]
    fn blocks_are_found_by_key_page_and_place() {
        let mut blocks = Blocks::new(4 << 20);
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
        assert!(!page.is_empty() && page.iter().all(|n| blocks[*n].page() == RamOffset(0x1000)));
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
            let site = blocks.next_site();
            blocks.sites[site as usize] = link(patch).pack();
            blocks.regions[0].sites += 1;
            blocks.link(site, number);
        }
        let places: Vec<_> = blocks.unlink(number).iter().map(|s| s.kind).collect();
        let Kind::Link { exit, patch, .. } = places[0] else {
            panic!("no link")
        };
        assert_eq!((places.len(), patch), (2, 20));
        assert_eq!(blocks[number].exit(exit), 7011);
        assert!(!blocks[number].valid() && blocks.unlink(number).is_empty());
    }

    #[test]
    fn a_region_that_is_emptied_leaves_nothing_behind() {
        let mut blocks = Blocks::new(1 << 16);
        // Every block jumps to the first one of its page, in whichever region that is.
        let (mut first, mut made) = (Map::<u64, u32>::default(), Vec::new());
        for n in 0..600u64 {
            let region = n as u32 % 3;
            if n % 100 == 0 {
                blocks.region = (n / 100) as usize;
            }
            let at = ((n % 7) << 12) + n * 5 % 4096;
            let host = ((blocks.region as u32) << 16) + (n as u32 % 100) * 600;
            let site = blocks.next_site();
            let link = Site {
                rip: region as u16,
                kind: Kind::Link {
                    patch: host + 50,
                    exit: 0,
                    next: NO_NEXT,
                },
                code: iced_x86::Code::INVALID,
                vector: false,
                shadow: false,
            };
            let number = blocks.add(&New {
                key: Targets::key(RamOffset(at), 3).unwrap(),
                host,
                cold: host + 500,
                size: 550,
                completes: 1,
                count: 1,
                generation: 1,
                second: (n % 50 == 0).then_some((RamOffset(0x9_9000), 1)),

                looks: false,
                map: &[(0, 0)],
                sites: &[link.pack()],
            });
            let to = *first.entry(n % 7).or_insert(number);
            blocks.link(site, to);
            made.push((at, number));
        }
        assert_eq!(blocks.begin(2), [], "nobody jumps there");
        for (n, &(at, number)) in made.iter().enumerate() {
            let gone = n / 100 == 2;
            let found = blocks.find(Targets::key(RamOffset(at), 3).unwrap());
            assert_eq!(found, (!gone).then_some(number));
        }
        let mut back = blocks.begin(0);
        // All jumps of the four regions that are left.
        assert_eq!(back.len(), 400);
        back.sort_unstable();
        assert_eq!(back[0], (1 << 16 | 50, 1 << 16 | 500));
        let left: Vec<u32> = (0..7).flat_map(|page| blocks.take_page(page)).collect();
        assert_eq!(left.len(), 400);
        assert!(left.iter().all(|n| ![0, 2].contains(&region_of(*n))));
        assert_eq!(blocks.take_page(0x99).len(), 8);
        assert_eq!((blocks.next(), blocks.next_site()), (0, 0));
    }
}
