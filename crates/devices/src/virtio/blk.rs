//! A block device (virtio 1.2, "Block Device") on a [`Disk`].
//!
//! Requests are done one after the other while the driver's notification is handled; data go
//! through a bounce buffer of at most 1 MiB, whatever the guest asks for. The write cache is the
//! disk's: VIRTIO_BLK_F_FLUSH is offered, CONFIG_WCE is not; for a driver without FLUSH every
//! write is flushed. Not offered: several queues,
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
    state: State,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct State {
    /// The driver did not accept FLUSH: each write is made durable before it is done.
    write_through: bool,
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
            state: State::default(),
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
                self.state.counts.errors = self.state.counts.errors.wrapping_add(1);
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
            (Some(at), Some(end)) if end <= self.disk.size() && len.is_multiple_of(SECTOR) => {
                Ok(at)
            }
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
        self.state.counts.reads = self.state.counts.reads.wrapping_add(1);
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
        self.state.counts.writes = self.state.counts.writes.wrapping_add(1);
        let mut done = 0;
        while done < len {
            let n = self.bounce(len - done).len();
            let piece = &mut self.bounce[..n];
            chain.read(memory, HEADER + done, piece)?;
            self.disk.write_at(at + done, piece)?;
            done += n as u64;
        }
        if self.state.write_through {
            self.disk.flush()?;
        }
        Ok(0)
    }

    fn flush(&mut self) -> Result<u64, Stop> {
        self.state.counts.flushes = self.state.counts.flushes.wrapping_add(1);
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
        if self.disk.read_only() || len == 0 || !len.is_multiple_of(RANGE) {
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

    fn activate(&mut self, _io: &mut DeviceIo<'_>, features: u64) -> Result<(), Broken> {
        self.state.write_through = features & F_FLUSH == 0;
        Ok(())
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
        self.state = State::default();
    }

    fn save(&self) -> Vec<u8> {
        let Blk {
            disk: _,
            bounce: _,
            state,
        } = self;
        save_state(1, state)
    }
    fn load(&mut self, section: &[u8]) -> Result<(), LoadError> {
        self.state = load_state(1, section)?;
        Ok(())
    }
    fn inspect(&self, out: &mut Inspector) {
        out.value("size", self.disk.size());
        out.value("read only", self.disk.read_only());
        out.value("reads", self.state.counts.reads);
        out.value("writes", self.state.counts.writes);
        out.value("flushes", self.state.counts.flushes);
        out.value("errors", self.state.counts.errors);
    }
}

#[cfg(test)]
mod tests {
    use super::super::driver::{Driver, Transport, combinations};
    use super::super::{F_EVENT_IDX, F_INDIRECT_DESC};
    use super::*;
    use std::sync::{Arc, Mutex};

    #[derive(Default)]
    struct Shared {
        bytes: Vec<u8>,
        log: Vec<std::string::String>,
        largest: usize,
    }

    #[derive(Clone)]
    struct Ram {
        shared: Arc<Mutex<Shared>>,
        read_only: bool,
    }

    impl Ram {
        fn new(sectors: usize) -> Ram {
            let shared = Shared {
                bytes: (0..sectors * 512).map(|i| (i / 512) as u8).collect(),
                ..Shared::default()
            };
            Ram {
                shared: Arc::new(Mutex::new(shared)),
                read_only: false,
            }
        }
    }

    /// The last sector is bad.
    impl Disk for Ram {
        fn size(&self) -> u64 {
            self.shared.lock().unwrap().bytes.len() as u64
        }
        fn read_only(&self) -> bool {
            self.read_only
        }
        fn serial(&self) -> &str {
            "moinho-disk0"
        }
        fn read_at(&mut self, at: u64, into: &mut [u8]) -> Result<(), BackendError> {
            let mut s = self.shared.lock().unwrap();
            let at = at as usize;
            s.largest = s.largest.max(into.len());
            if at + into.len() == s.bytes.len() {
                return Err(BackendError("disk.img: bad sector".into()));
            }
            into.copy_from_slice(&s.bytes[at..at + into.len()]);
            Ok(())
        }
        fn write_at(&mut self, at: u64, from: &[u8]) -> Result<(), BackendError> {
            let mut s = self.shared.lock().unwrap();
            s.bytes[at as usize..][..from.len()].copy_from_slice(from);
            Ok(())
        }
        fn flush(&mut self) -> Result<(), BackendError> {
            self.shared.lock().unwrap().log.push("flush".into());
            Ok(())
        }
        fn discard(&mut self, at: u64, len: u64, zero: bool) -> Result<(), BackendError> {
            let mut s = self.shared.lock().unwrap();
            s.log.push(std::format!("discard {at:#x} {len:#x} {zero}"));
            Ok(())
        }
    }

    const HEAD: u64 = 0x10_0000;
    const STATUS: u64 = 0x10_1000;
    const DATA: u64 = 0x20_0000;

    fn blk(ram: &Ram, features: u64) -> Driver {
        let device = Box::new(Blk::new(Box::new(ram.clone())));
        Driver::running(Transport::Pci, device, features | F_RO | F_FLUSH)
    }

    fn header(d: &Driver, kind: u32, sector: u64) {
        let mut b = Vec::new();
        b.extend(kind.to_le_bytes());
        b.extend(0u32.to_le_bytes());
        b.extend(sector.to_le_bytes());
        d.put(HEAD, &b);
        d.put(STATUS, &[0xee]);
    }

    /// One request with data buffers; used length and status.
    fn request(d: &mut Driver, kind: u32, sector: u64, data: &[(u64, u32, bool)]) -> (u32, u8) {
        header(d, kind, sector);
        let mut buffers = vec![(HEAD, 16, false)];
        buffers.extend(data);
        buffers.push((STATUS, 1, true));
        if d.features & F_INDIRECT_DESC != 0 {
            d.add_indirect(0, &buffers);
        } else {
            d.add(0, &buffers);
        }
        d.kick(0);
        let (_, len) = d.used(0).expect("the request is done");
        (len, d.bytes(STATUS, 1)[0])
    }

    #[test]
    fn data_are_read_and_written_over_several_segments() {
        for (transport, features) in combinations() {
            let ram = Ram::new(64);
            let device = Box::new(Blk::new(Box::new(ram.clone())));
            let mut d = Driver::running(transport, device, features);
            let parts = [(DATA, 100, true), (DATA + 0x1000, 924, true)];
            assert_eq!(request(&mut d, T_IN, 5, &parts), (1025, S_OK));
            assert_eq!(d.bytes(DATA, 100), [5; 100]);
            let tail = d.bytes(DATA + 0x1000, 924);
            assert_eq!((tail[411], tail[412], tail[923]), (5, 6, 6));
            let parts = [(DATA, 100, false), (DATA + 0x1000, 412, false)];
            d.put(DATA, &[0xaa; 100]);
            d.put(DATA + 0x1000, &[0xbb; 412]);
            assert_eq!(request(&mut d, T_OUT, 9, &parts), (1, S_OK));
            let s = ram.shared.lock().unwrap();
            assert_eq!(s.bytes[9 * 512..9 * 512 + 100], [0xaa; 100]);
            assert_eq!(s.bytes[9 * 512 + 100..10 * 512], [0xbb; 412]);
            assert_eq!(s.bytes[10 * 512], 10);
        }
    }

    #[test]
    fn header_and_status_may_be_cut_anywhere() {
        let mut d = blk(&Ram::new(64), 0);
        header(&d, T_IN, 7);
        d.add(
            0,
            &[
                (HEAD, 1, false),
                (HEAD + 1, 15, false),
                (DATA, 512, true),
                (STATUS, 0, true),
                (STATUS, 1, true),
            ],
        );
        d.kick(0);
        assert_eq!(d.used(0), Some((0, 513)));
        assert_eq!(d.bytes(DATA, 512), [7; 512]);
        header(&d, T_IN, 8);
        d.add(0, &[(HEAD, 16, false), (DATA, 513, true)]);
        d.kick(0);
        assert_eq!(d.used(0), Some((0, 513)));
        assert_eq!(d.bytes(DATA, 513)[512], S_OK, "data and status in one");
    }

    #[test]
    fn a_huge_request_takes_little_memory() {
        let ram = Ram::new(8192);
        let mut d = blk(&ram, 0);
        let parts = [(DATA, 1 << 20, true); 3];
        assert_eq!(request(&mut d, T_IN, 0, &parts), (3 << 20 | 1, S_OK));
        assert_eq!(ram.shared.lock().unwrap().largest, BOUNCE);
    }

    #[test]
    fn what_is_beyond_the_disk_or_not_whole_sectors_fails() {
        let mut d = blk(&Ram::new(64), 0);
        for (sector, len) in [
            (64, 512),
            (63, 1024),
            (u64::MAX, 512),
            (1 << 55, 512),
            (0, 511),
        ] {
            let data = [(DATA, len, true)];
            assert_eq!(request(&mut d, T_IN, sector, &data), (0, S_IOERR));
            let data = [(DATA, len, false)];
            assert_eq!(request(&mut d, T_OUT, sector, &data), (1, S_IOERR));
        }
        assert!(d.wires.events.is_empty(), "the guest's own doing");
    }

    #[test]
    fn a_failing_disk_is_an_io_error_and_an_event() {
        let mut d = blk(&Ram::new(64), 0);
        assert_eq!(
            request(&mut d, T_IN, 63, &[(DATA, 512, true)]),
            (0, S_IOERR)
        );
        assert_eq!(
            d.wires.events,
            ["test0 (virtio-blk): disk.img: bad sector; the guest sees an I/O error"]
        );
    }

    #[test]
    fn flush_identity_discard_and_write_zeroes_reach_the_disk() {
        let ram = Ram::new(64);
        let mut d = blk(&ram, 0);
        assert_eq!(request(&mut d, T_FLUSH, 0, &[]), (1, S_OK));
        assert_eq!(
            request(&mut d, T_GET_ID, 0, &[(DATA, 20, true)]),
            (21, S_OK)
        );
        assert_eq!(d.bytes(DATA, 20), b"moinho-disk0\0\0\0\0\0\0\0\0");
        let range = |sector: u64, n: u32, flags: u32| {
            let mut b = sector.to_le_bytes().to_vec();
            b.extend(n.to_le_bytes());
            b.extend(flags.to_le_bytes());
            b
        };
        d.put(DATA, &range(8, 8, 0));
        d.put(DATA + 16, &range(16, 1, 0));
        let data = [(DATA, 32, false)];
        assert_eq!(request(&mut d, T_DISCARD, 0, &data), (1, S_OK));
        d.put(DATA, &range(8, 8, 1));
        let one = [(DATA, 16, false)];
        assert_eq!(request(&mut d, T_WRITE_ZEROES, 0, &one), (1, S_OK));
        assert_eq!(request(&mut d, T_DISCARD, 0, &one), (1, S_UNSUPP));
        d.put(DATA, &range(60, 8, 0));
        assert_eq!(request(&mut d, T_DISCARD, 0, &one), (1, S_IOERR));
        d.put(DATA, &range(0, u32::MAX, 0));
        assert_eq!(request(&mut d, T_DISCARD, 0, &one), (1, S_IOERR));
        assert_eq!(request(&mut d, 99, 0, &[]), (1, S_UNSUPP));
        assert_eq!(
            ram.shared.lock().unwrap().log,
            [
                "flush",
                "discard 0x1000 0x1000 false",
                "discard 0x2000 0x200 false",
                "discard 0x1000 0x1000 true"
            ]
        );
    }

    #[test]
    fn a_read_only_disk_says_so_and_refuses_writes() {
        let mut ram = Ram::new(64);
        ram.read_only = true;
        let mut d = blk(&ram, 0);
        assert_eq!(d.features & F_RO, F_RO);
        assert_eq!(d.offered() & (F_DISCARD | F_WRITE_ZEROES), 0);
        assert_eq!(
            request(&mut d, T_OUT, 0, &[(DATA, 512, false)]),
            (1, S_IOERR)
        );
        assert_eq!(
            request(&mut d, T_DISCARD, 0, &[(DATA, 16, false)]),
            (1, S_IOERR)
        );
    }

    #[test]
    fn a_driver_that_knows_no_flush_writes_through() {
        let ram = Ram::new(64);
        let device = Box::new(Blk::new(Box::new(ram.clone())));
        let mut d = Driver::running(Transport::Mmio, device, 0);
        assert_eq!(request(&mut d, T_OUT, 0, &[(DATA, 512, false)]), (1, S_OK));
        assert_eq!(ram.shared.lock().unwrap().log, ["flush"]);
    }

    #[test]
    fn the_configuration_tells_the_capacity() {
        let mut d = blk(&Ram::new(64), 0);
        assert_eq!(d.device_config(0, 4), 64);
        assert_eq!(d.device_config(0, 8), 64);
        assert_eq!(d.device_config(12, 4), 254);
        assert_eq!(d.device_config(20, 4), 512);
        assert_eq!(d.device_config(34, 2), 1);
        assert_eq!(d.device_config(0xff8, 8), 0);
    }

    #[test]
    fn a_request_without_header_or_status_breaks_the_ring() {
        for buffers in [
            &[(HEAD, 15, false), (STATUS, 1, true)][..],
            &[(HEAD, 16, false)][..],
        ] {
            let mut d = blk(&Ram::new(64), 0);
            d.add(0, buffers);
            d.kick(0);
            assert_eq!(d.status() & 0x40, 0x40);
            assert_eq!(d.used(0), None);
        }
    }

    #[test]
    fn several_requests_in_one_notification_are_all_done() {
        let mut d = blk(&Ram::new(64), F_EVENT_IDX);
        header(&d, T_IN, 3);
        let ring = d.ring(0);
        d.table(ring, 0, &[(HEAD, 16, false), (DATA, 513, true)]);
        d.table(ring, 2, &[(HEAD, 16, false), (DATA + 0x1000, 513, true)]);
        d.offer(0, 0);
        d.offer(0, 2);
        d.kick(0);
        assert_eq!(d.used(0), Some((0, 513)));
        assert_eq!(d.used(0), Some((2, 513)));
        assert_eq!(d.bytes(DATA + 0x1000, 512), [3; 512]);
    }

    #[test]
    fn random_rings_never_panic() {
        let mut random = crate::contract::Random::new(7);
        for _ in 0..3000 {
            let mut d = blk(&Ram::new(64), F_INDIRECT_DESC | F_EVENT_IDX);
            for i in 0..8 {
                let at = HEAD + random.below(4) * 0x400;
                let len = [16, 1, 512, 513, 32, 0][random.below(6) as usize];
                let flags = random.below(8) as u16;
                let next = random.below(9) as u16;
                let ring = d.ring(0);
                d.descriptor(ring, i, at, len, flags, next);
                d.descriptor(HEAD + 0x400, i, at, len, flags & 3, next);
            }
            header(
                &d,
                [0, 1, 4, 8, 11, 13][random.below(6) as usize],
                random.below(70),
            );
            for _ in 0..random.below(8) {
                d.offer(0, random.below(8) as u16);
            }
            d.kick(0);
        }
    }

    #[test]
    fn it_keeps_the_contract() {
        crate::contract::check(&[0x200], || {
            let disk = Box::new(Ram::new(64));
            super::super::VirtioMmio::new("disk0", Box::new(Blk::new(disk)))
        });
    }
}
