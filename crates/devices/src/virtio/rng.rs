//! An entropy device (virtio 1.2, "Entropy Device") on an [`Entropy`] source. A buffer gets at
//! most 64 KiB; the driver asks again if it wants more.

use super::{Broken, DeviceIo, RingError, VirtioDevice};
use crate::backend::Entropy;
use crate::{LoadError, load_state, save_state};
use alloc::boxed::Box;
use alloc::format;
use alloc::vec::Vec;

const QUEUE_SIZE: u16 = 8;
const PIECE: usize = 1024;
const MOST: u64 = 64 << 10;

/// A virtio entropy device.
pub struct Rng {
    source: Box<dyn Entropy>,
}

impl Rng {
    /// An entropy device on `source`.
    pub fn new(source: Box<dyn Entropy>) -> Rng {
        Rng { source }
    }

    fn serve(&mut self, io: &mut DeviceIo<'_>) -> Result<(), RingError> {
        let q = &mut io.queues[0];
        for _ in 0..QUEUE_SIZE {
            let Some(chain) = q.pop(io.memory)? else {
                return Ok(());
            };
            let len = chain.writable_len().min(MOST);
            let mut done = 0;
            while done < len {
                let mut piece = [0; PIECE];
                let n = (len - done).min(PIECE as u64) as usize;
                if let Err(why) = self.source.fill(&mut piece[..n]) {
                    io.events
                        .push(format!("{why}; the guest gets no random bytes"));
                    break;
                }
                chain.write(io.memory, done, &piece[..n])?;
                done += n as u64;
            }
            q.push_used(io.memory, chain.head, done as u32)?;
        }
        io.more = true;
        Ok(())
    }
}

impl VirtioDevice for Rng {
    fn name(&self) -> &'static str {
        "virtio-rng"
    }
    fn id(&self) -> u16 {
        4
    }
    fn class(&self) -> u32 {
        0x00_ff_00
    }
    fn features(&self) -> u64 {
        0
    }
    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }
    fn config_read(&self, _offset: u64, _into: &mut [u8]) {}
    fn notify(&mut self, io: &mut DeviceIo<'_>, queue: u16) -> Result<(), Broken> {
        self.serve(io).map_err(|why| why.at(queue))
    }
    fn reset(&mut self) {}
    fn save(&self) -> Vec<u8> {
        let Rng { source: _ } = self;
        save_state(1, &())
    }
    fn load(&mut self, section: &[u8]) -> Result<(), LoadError> {
        load_state::<()>(1, section)
    }
}
