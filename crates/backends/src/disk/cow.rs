//! A copy-on-write overlay: blocks of 64 KiB that were written live in memory or on another
//! disk, all others are read from the base, which is never written.

use devices::backend::{BackendError, Disk};
use std::collections::BTreeMap;

/// Granularity of the overlay in bytes.
pub const BLOCK: u64 = 64 << 10;

/// Where the written blocks are.
enum Overlay {
    /// In memory; `None` is a block of zeroes.
    Memory(BTreeMap<u64, Option<Box<[u8]>>>),
    /// At the same place on another disk; a bit for each block that is there.
    Disk(Box<dyn Disk>, Vec<u64>),
}

/// A disk whose writes do not reach its base.
pub struct Cow {
    base: Box<dyn Disk>,
    overlay: Overlay,
}

impl Cow {
    /// Keeps what is written in memory.
    pub fn in_memory(base: Box<dyn Disk>) -> Cow {
        let overlay = Overlay::Memory(BTreeMap::new());
        Cow { base, overlay }
    }

    /// Keeps what is written on `top`, whose content so far does not matter and which is at
    /// least as large as `base`.
    pub fn on(base: Box<dyn Disk>, top: Box<dyn Disk>) -> Result<Cow, BackendError> {
        if top.size() < base.size() {
            let (top, base) = (top.size(), base.size());
            let why = format!("the overlay has {top} bytes, its base {base}");
            return Err(BackendError(why));
        }
        let words = base.size().div_ceil(BLOCK).div_ceil(64) as usize;
        let overlay = Overlay::Disk(top, vec![0; words]);
        Ok(Cow { base, overlay })
    }

    /// How many blocks were written.
    pub fn written_blocks(&self) -> u64 {
        match &self.overlay {
            Overlay::Memory(blocks) => blocks.len() as u64,
            Overlay::Disk(_, bits) => bits.iter().map(|w| u64::from(w.count_ones())).sum(),
        }
    }

    fn present(&self, block: u64) -> bool {
        match &self.overlay {
            Overlay::Memory(blocks) => blocks.contains_key(&block),
            Overlay::Disk(_, bits) => bit(bits, block),
        }
    }

    /// Bytes of a block: the last one may be short.
    fn block_len(&self, block: u64) -> u64 {
        BLOCK.min(self.base.size().saturating_sub(block * BLOCK))
    }

    /// Brings a block into the overlay, so that a part of it can be written.
    fn copy_up(&mut self, block: u64) -> Result<(), BackendError> {
        if self.present(block) {
            return Ok(());
        }
        let mut bytes = vec![0; self.block_len(block) as usize].into_boxed_slice();
        self.base.read_at(block * BLOCK, &mut bytes)?;
        match &mut self.overlay {
            Overlay::Memory(blocks) => {
                blocks.insert(block, Some(bytes));
            }
            Overlay::Disk(top, bits) => {
                top.write_at(block * BLOCK, &bytes)?;
                set_bit(bits, block);
            }
        }
        Ok(())
    }

    fn read_block(&mut self, block: u64, at: u64, into: &mut [u8]) -> Result<(), BackendError> {
        let start = (at - block * BLOCK) as usize;
        match &mut self.overlay {
            Overlay::Memory(blocks) => match blocks.get(&block) {
                Some(Some(bytes)) => {
                    into.copy_from_slice(&bytes[start..start + into.len()]);
                    Ok(())
                }
                Some(None) => {
                    into.fill(0);
                    Ok(())
                }
                None => self.base.read_at(at, into),
            },
            Overlay::Disk(top, bits) if bit(bits, block) => top.read_at(at, into),
            Overlay::Disk(..) => self.base.read_at(at, into),
        }
    }

    fn write_block(&mut self, block: u64, at: u64, from: &[u8]) -> Result<(), BackendError> {
        let len = self.block_len(block);
        if from.len() as u64 != len {
            self.copy_up(block)?;
        }
        let start = (at - block * BLOCK) as usize;
        match &mut self.overlay {
            Overlay::Memory(blocks) => {
                let zeroes = || vec![0; len as usize].into_boxed_slice();
                let bytes = blocks.entry(block).or_default().get_or_insert_with(zeroes);
                bytes[start..start + from.len()].copy_from_slice(from);
            }
            Overlay::Disk(top, bits) => {
                top.write_at(at, from)?;
                set_bit(bits, block);
            }
        }
        Ok(())
    }

    /// Makes a whole block zero.
    fn zero_block(&mut self, block: u64) -> Result<(), BackendError> {
        let len = self.block_len(block);
        match &mut self.overlay {
            Overlay::Memory(blocks) => {
                blocks.insert(block, None);
            }
            Overlay::Disk(top, bits) => {
                top.discard(block * BLOCK, len, true)?;
                set_bit(bits, block);
            }
        }
        Ok(())
    }
}

fn bit(bits: &[u64], block: u64) -> bool {
    let word = bits.get((block / 64) as usize).copied().unwrap_or(0);
    word >> (block % 64) & 1 != 0
}

fn set_bit(bits: &mut [u64], block: u64) {
    if let Some(word) = bits.get_mut((block / 64) as usize) {
        *word |= 1 << (block % 64);
    }
}

/// The pieces of `at..at + len` that lie in one block each: block, start, length.
fn blocks(at: u64, len: u64) -> impl Iterator<Item = (u64, u64, u64)> {
    let end = at + len;
    let mut here = at;
    core::iter::from_fn(move || {
        if here >= end {
            return None;
        }
        let block = here / BLOCK;
        let next = ((block + 1) * BLOCK).min(end);
        let piece = (block, here, next - here);
        here = next;
        Some(piece)
    })
}

impl Disk for Cow {
    fn size(&self) -> u64 {
        self.base.size()
    }
    fn read_only(&self) -> bool {
        false
    }
    fn serial(&self) -> &str {
        self.base.serial()
    }
    fn read_at(&mut self, at: u64, into: &mut [u8]) -> Result<(), BackendError> {
        for (block, start, len) in blocks(at, into.len() as u64) {
            let from = (start - at) as usize;
            self.read_block(block, start, &mut into[from..from + len as usize])?;
        }
        Ok(())
    }
    fn write_at(&mut self, at: u64, from: &[u8]) -> Result<(), BackendError> {
        for (block, start, len) in blocks(at, from.len() as u64) {
            let first = (start - at) as usize;
            self.write_block(block, start, &from[first..first + len as usize])?;
        }
        Ok(())
    }
    /// Nothing outlives the run: there is nothing to make durable.
    fn flush(&mut self) -> Result<(), BackendError> {
        Ok(())
    }
    fn discard(&mut self, at: u64, len: u64, zero: bool) -> Result<(), BackendError> {
        if !zero {
            return Ok(());
        }
        for (block, start, len) in blocks(at, len) {
            if len == self.block_len(block) {
                self.zero_block(block)?;
            } else {
                self.write_block(block, start, &vec![0; len as usize])?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    /// A disk in memory whose writes are counted.
    #[derive(Clone)]
    struct Ram(Arc<Mutex<(Vec<u8>, u32)>>);

    impl Ram {
        fn new(bytes: Vec<u8>) -> Ram {
            Ram(Arc::new(Mutex::new((bytes, 0))))
        }
    }

    impl Disk for Ram {
        fn size(&self) -> u64 {
            self.0.lock().unwrap().0.len() as u64
        }
        fn read_only(&self) -> bool {
            false
        }
        fn serial(&self) -> &str {
            "ram"
        }
        fn read_at(&mut self, at: u64, into: &mut [u8]) -> Result<(), BackendError> {
            into.copy_from_slice(&self.0.lock().unwrap().0[at as usize..][..into.len()]);
            Ok(())
        }
        fn write_at(&mut self, at: u64, from: &[u8]) -> Result<(), BackendError> {
            let mut ram = self.0.lock().unwrap();
            ram.0[at as usize..][..from.len()].copy_from_slice(from);
            ram.1 += 1;
            Ok(())
        }
        fn flush(&mut self) -> Result<(), BackendError> {
            Ok(())
        }
        fn discard(&mut self, at: u64, len: u64, _zero: bool) -> Result<(), BackendError> {
            self.write_at(at, &vec![0; len as usize])
        }
    }

    #[test]
    fn an_overlay_behaves_as_a_disk_of_its_own_and_its_base_is_never_written() {
        let size = 5 * BLOCK as usize + 512;
        let start: Vec<u8> = (0..size).map(|i| (i / 512) as u8 | 1).collect();
        for on_disk in [false, true] {
            let base = Ram::new(start.clone());
            let mut model = start.clone();
            let mut cow = if on_disk {
                let top = Ram::new(vec![0xee; size]);
                Cow::on(Box::new(base.clone()), Box::new(top)).unwrap()
            } else {
                Cow::in_memory(Box::new(base.clone()))
            };
            let mut seed = 0x9e37_79b9_u64;
            let mut below = |n: u64| {
                seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1);
                (seed >> 33) % n
            };
            for step in 0..2000 {
                let at = below(size as u64 / 512) * 512;
                let most = (size as u64 - at) / 512;
                let len = (below(most.min(300)) + 1) * 512;
                let range = at as usize..(at + len) as usize;
                match below(6) {
                    0 => {
                        cow.discard(at, len, true).unwrap();
                        model[range].fill(0);
                    }
                    1 | 2 => {
                        let byte = step as u8;
                        cow.write_at(at, &vec![byte; len as usize]).unwrap();
                        model[range].fill(byte);
                    }
                    _ => {
                        let mut got = vec![0x55; len as usize];
                        cow.read_at(at, &mut got).unwrap();
                        assert!(got == model[range], "step {step} at {at:#x}, {len:#x}");
                    }
                }
            }
            assert_eq!(cow.written_blocks(), 6);
            assert_eq!(base.0.lock().unwrap().1, 0, "writes to the base");
        }
    }

    #[test]
    fn an_overlay_smaller_than_its_base_is_refused() {
        let (base, top) = (Ram::new(vec![0; 1024]), Ram::new(vec![0; 512]));
        assert!(Cow::on(Box::new(base), Box::new(top)).is_err());
    }
}
