//! A block device (virtio 1.2, "Block Device") on a [`Disk`].
//!
//! Requests are done one after the other while the driver's notification is handled; data go
//! through a bounce buffer of at most 1 MiB, whatever the guest asks for. The write cache is the
//! disk's: VIRTIO_BLK_F_FLUSH is offered, CONFIG_WCE is not. Not offered: several queues,
//! geometry, topology beyond the physical block size, secure erase, zones, lifetime.

use super::{Broken, Chain, DeviceIo, RingError, VirtioDevice, config_bytes};
use crate::backend::{BackendError, Disk};
use crate::{Inspector, LoadError, load_state, save_state};
use alloc::boxed::Box;
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;
use mem::GuestMemory;
use serde::{Deserialize, Serialize};

const F_SEG_MAX: u64 = 1 << 2;
const F_RO: u64 = 1 << 5;
const F_BLK_SIZE: u64 = 1 << 6;
const F_FLUSH: u64 = 1 << 9;
const F_TOPOLOGY: u64 = 1 << 10;
const F_DISCARD: u64 = 1 << 13;
const F_WRITE_ZEROES: u64 = 1 << 14;

const T_IN: u32 = 0;
const T_OUT: u32 = 1;
const T_FLUSH: u32 = 4;
const T_GET_ID: u32 = 8;
const T_DISCARD: u32 = 11;
const T_WRITE_ZEROES: u32 = 13;

const S_OK: u8 = 0;
const S_IOERR: u8 = 1;
const S_UNSUPP: u8 = 2;

const SECTOR: u64 = 512;
const QUEUE_SIZE: u16 = 256;
const HEADER: u64 = 16;
const ID_BYTES: usize = 20;
/// One struct virtio_blk_discard_write_zeroes.
const RANGE: u64 = 16;
const MAX_RANGES: u32 = 32;
/// Sectors in one discard or write zeroes range: 1 GiB.
const MAX_RANGE_SECTORS: u32 = 1 << 21;
/// The most memory a request takes at once, in bytes.
const BOUNCE: usize = 1 << 20;

/// A virtio block device.
pub struct Blk {
    disk: Box<dyn Disk>,
    /// Data on their way; kept so that it is allocated once, never larger than [`BOUNCE`].
    bounce: Vec<u8>,
    counts: Counts,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Counts {
    reads: u64,
    writes: u64,
    flushes: u64,
    errors: u64,
}

/// A request that ends with an error status, and what the user is told.
struct Failed(u8, Option<BackendError>);

/// Either the ring is broken or the request has failed.
enum Stop {
    Ring(RingError),
    Failed(Failed),
}

impl From<RingError> for Stop {
    fn from(e: RingError) -> Stop {
        Stop::Ring(e)
    }
}

impl From<BackendError> for Stop {
    fn from(e: BackendError) -> Stop {
        Stop::Failed(Failed(S_IOERR, Some(e)))
    }
}

fn refuse(status: u8) -> Stop {
    Stop::Failed(Failed(status, None))
}

impl Blk {
    /// A block device on `disk`.
    pub fn new(disk: Box<dyn Disk>) -> Blk {
        Blk {
            disk,
            bounce: Vec::new(),
            counts: Counts::default(),
        }
    }

    /// struct virtio_blk_config.
    fn config(&self) -> [u8; 60] {
        let mut c = [0; 60];
        let mut put = |at: usize, bytes: &[u8]| c[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &(self.disk.size() / SECTOR).to_le_bytes());
        // Header and status take two descriptors of the ring.
        put(12, &u32::from(QUEUE_SIZE - 2).to_le_bytes());
        put(20, &(SECTOR as u32).to_le_bytes());
        // physical_block_exp: 8 sectors, as on every disk of today; opt_io_size in sectors.
        put(24, &[3, 0]);
        put(26, &1u16.to_le_bytes());
        put(34, &1u16.to_le_bytes());
        put(36, &MAX_RANGE_SECTORS.to_le_bytes());
        put(40, &MAX_RANGES.to_le_bytes());
        put(44, &8u32.to_le_bytes());
        put(48, &MAX_RANGE_SECTORS.to_le_bytes());
        put(52, &MAX_RANGES.to_le_bytes());
        put(56, &[1]);
        c
    }

    /// Does one request; returns the bytes written into its buffers.
    fn request(&mut self, io: &mut DeviceIo<'_>, chain: &Chain) -> Result<u32, RingError> {
        let memory = io.memory;
        let mut header = [0; HEADER as usize];
        if chain.read(memory, 0, &mut header)? < header.len() {
            return Err(chain.malformed("has no header of 16 bytes"));
        }
        let Some(room) = chain.writable_len().checked_sub(1) else {
            return Err(chain.malformed("has no status byte"));
        };
        let [t0, t1, t2, t3, _, _, _, _, s0, s1, s2, s3, s4, s5, s6, s7] = header;
        let kind = u32::from_le_bytes([t0, t1, t2, t3]);
        let sector = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
        let given = chain.readable_len() - HEADER;
        let done = match kind {
            T_IN => self.read(memory, chain, sector, room),
            T_OUT => self.write(memory, chain, sector, given),
            T_FLUSH => self.flush(),
            T_GET_ID => self.get_id(memory, chain, room),
            T_DISCARD | T_WRITE_ZEROES => {
                self.discard(memory, chain, given, kind == T_WRITE_ZEROES)
            }
            _ => Err(refuse(S_UNSUPP)),
        };
        let (status, written) = match done {
            Ok(written) => (S_OK, written),
            Err(Stop::Ring(e)) => return Err(e),
            Err(Stop::Failed(Failed(status, why))) => {
                self.counts.errors = self.counts.errors.wrapping_add(1);
                if let Some(why) = why {
                    io.events
                        .push(format!("{why}; the guest sees an I/O error"));
                }
                (status, 0)
            }
        };
        chain.write(memory, room, &[status])?;
        // "len" counts from the start without gaps: with the status only if all before it is.
        Ok(if written == room {
            u32::try_from(room + 1).unwrap_or(u32::MAX)
        } else {
            written as u32
        })
    }

    /// Checks a range of sectors against the disk: its start in bytes.
    fn range(&self, sector: u64, len: u64) -> Result<u64, Stop> {
        let at = sector.checked_mul(SECTOR);
        let end = at.and_then(|at| at.checked_add(len));
        match (at, end) {
            (Some(at), Some(end)) if end <= self.disk.size() && len % SECTOR == 0 => Ok(at),
            _ => Err(refuse(S_IOERR)),
        }
    }

    fn bounce(&mut self, len: u64) -> &mut [u8] {
        let n = len.min(BOUNCE as u64) as usize;
        if self.bounce.len() < n {
            self.bounce = vec![0; n];
        }
        &mut self.bounce[..n]
    }

    fn read(
        &mut self,
        memory: &GuestMemory,
        chain: &Chain,
        sector: u64,
        len: u64,
    ) -> Result<u64, Stop> {
        let at = self.range(sector, len)?;
        self.counts.reads = self.counts.reads.wrapping_add(1);
        let mut done = 0;
        while done < len {
            let n = self.bounce(len - done).len();
            let piece = &mut self.bounce[..n];
            self.disk.read_at(at + done, piece)?;
            chain.write(memory, done, piece)?;
            done += n as u64;
        }
        Ok(len)
    }

    fn write(
        &mut self,
        memory: &GuestMemory,
        chain: &Chain,
        sector: u64,
        len: u64,
    ) -> Result<u64, Stop> {
        let at = self.range(sector, len)?;
        if self.disk.read_only() {
            return Err(refuse(S_IOERR));
        }
        self.counts.writes = self.counts.writes.wrapping_add(1);
        let mut done = 0;
        while done < len {
            let n = self.bounce(len - done).len();
            let piece = &mut self.bounce[..n];
            chain.read(memory, HEADER + done, piece)?;
            self.disk.write_at(at + done, piece)?;
            done += n as u64;
        }
        Ok(0)
    }

    fn flush(&mut self) -> Result<u64, Stop> {
        self.counts.flushes = self.counts.flushes.wrapping_add(1);
        self.disk.flush()?;
        Ok(0)
    }

    fn get_id(&mut self, memory: &GuestMemory, chain: &Chain, room: u64) -> Result<u64, Stop> {
        let mut id = [0; ID_BYTES];
        for (to, from) in id.iter_mut().zip(self.disk.serial().bytes()) {
            *to = from;
        }
        let n = room.min(ID_BYTES as u64) as usize;
        chain.write(memory, 0, &id[..n])?;
        Ok(n as u64)
    }

    fn discard(
        &mut self,
        memory: &GuestMemory,
        chain: &Chain,
        len: u64,
        zero: bool,
    ) -> Result<u64, Stop> {
        if self.disk.read_only() || len == 0 || len % RANGE != 0 {
            return Err(refuse(S_IOERR));
        }
        if len > RANGE * u64::from(MAX_RANGES) {
            return Err(refuse(S_IOERR));
        }
        for i in 0..len / RANGE {
            let mut range = [0; RANGE as usize];
            chain.read(memory, HEADER + i * RANGE, &mut range)?;
            let [
                s0,
                s1,
                s2,
                s3,
                s4,
                s5,
                s6,
                s7,
                n0,
                n1,
                n2,
                n3,
                f0,
                f1,
                f2,
                f3,
            ] = range;
            let sector = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
            let sectors = u32::from_le_bytes([n0, n1, n2, n3]);
            let flags = u32::from_le_bytes([f0, f1, f2, f3]);
            // "unmap" is for write zeroes only, where it is a permission we do not need.
            if flags & !u32::from(zero) != 0 {
                return Err(refuse(S_UNSUPP));
            }
            if sectors > MAX_RANGE_SECTORS {
                return Err(refuse(S_IOERR));
            }
            let len = u64::from(sectors) * SECTOR;
            let at = self.range(sector, len)?;
            if len != 0 {
                self.disk.discard(at, len, zero)?;
            }
        }
        Ok(0)
    }
}

impl VirtioDevice for Blk {
    fn name(&self) -> &'static str {
        "virtio-blk"
    }
    fn id(&self) -> u16 {
        2
    }
    fn class(&self) -> u32 {
        0x01_00_00
    }
    fn features(&self) -> u64 {
        let common = F_SEG_MAX | F_BLK_SIZE | F_FLUSH | F_TOPOLOGY;
        if self.disk.read_only() {
            common | F_RO
        } else {
            common | F_DISCARD | F_WRITE_ZEROES
        }
    }
    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }
    fn config_read(&self, offset: u64, into: &mut [u8]) {
        config_bytes(&self.config(), offset, into);
    }

    fn notify(&mut self, io: &mut DeviceIo<'_>, queue: u16) -> Result<(), Broken> {
        let broken = |why: RingError| why.at(queue);
        for _ in 0..QUEUE_SIZE {
            let popped = io.queues[0].pop(io.memory).map_err(broken)?;
            let Some(chain) = popped else {
                return Ok(());
            };
            let len = self.request(io, &chain).map_err(broken)?;
            io.queues[0]
                .push_used(io.memory, chain.head, len)
                .map_err(broken)?;
        }
        io.more = true;
        Ok(())
    }

    fn reset(&mut self) {
        self.counts = Counts::default();
    }

    fn save(&self) -> Vec<u8> {
        let Blk {
            disk: _,
            bounce: _,
            counts,
        } = self;
        save_state(1, counts)
    }
    fn load(&mut self, section: &[u8]) -> Result<(), LoadError> {
        self.counts = load_state(1, section)?;
        Ok(())
    }
    fn inspect(&self, out: &mut Inspector) {
        out.value("size", self.disk.size());
        out.value("read only", self.disk.read_only());
        out.value("reads", self.counts.reads);
        out.value("writes", self.counts.writes);
        out.value("flushes", self.counts.flushes);
        out.value("errors", self.counts.errors);
    }
}
