//! A small virtio driver for tests: builds rings in guest memory and drives a device through
//! either transport, as a guest would.

use super::{F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1, VirtioDevice, VirtioMmio, VirtioPci};
use crate::pci::{PciBus, PciLayout};
use crate::{Context, Device, Recorder};
use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use mem::{Gpa, GuestMemory};

/// Which transport is driven.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    Pci,
    Mmio,
}

/// A buffer of a chain: guest-physical address, length, device-writable.
pub type Buffer = (u64, u32, bool);

const SLOT: u64 = 3;
pub const SIZE: u16 = 8;

/// A device, its transport and a guest's memory.
pub struct Driver {
    pub device: Box<dyn Device>,
    transport: Transport,
    pub memory: GuestMemory,
    pub wires: Recorder,
    /// Our avail index and the used index we have seen, for each queue.
    avail: Vec<u16>,
    seen: Vec<u16>,
    pub features: u64,
}

impl Driver {
    pub fn new(transport: Transport, device: Box<dyn VirtioDevice>) -> Driver {
        let queues = device.queue_sizes().len();
        let device: Box<dyn Device> = match transport {
            Transport::Mmio => Box::new(VirtioMmio::new("test0", device)),
            Transport::Pci => {
                let mut bus = PciBus::new(PciLayout::default());
                let function = Box::new(VirtioPci::new("test0", device));
                bus.add(SLOT as u8, function).unwrap();
                Box::new(bus)
            }
        };
        Driver {
            device,
            transport,
            memory: GuestMemory::flat(8 << 20).unwrap(),
            wires: Recorder::default(),
            avail: vec![0; queues],
            seen: vec![0; queues],
            features: 0,
        }
    }

    /// A device that is set up and running, with `features` beside VERSION_1.
    pub fn running(transport: Transport, device: Box<dyn VirtioDevice>, features: u64) -> Driver {
        let mut d = Driver::new(transport, device);
        d.start(features);
        d
    }

    pub fn with<R>(&mut self, f: impl FnOnce(&mut dyn Device, &mut Context<'_>) -> R) -> R {
        let mut cx = Context {
            now_ns: 0,
            memory: &self.memory,
            wires: &mut self.wires,
        };
        f(&mut *self.device, &mut cx)
    }

    pub fn read(&mut self, region: u8, offset: u64, size: u8) -> u64 {
        self.with(|d, cx| d.read(cx, region, offset, size)) & (u64::MAX >> (64 - 8 * size))
    }
    pub fn write(&mut self, region: u8, offset: u64, size: u8, value: u64) {
        self.with(|d, cx| d.write(cx, region, offset, size, value));
    }
    pub fn config_space(&mut self, offset: u64, size: u8) -> u64 {
        match self.transport {
            Transport::Pci => self.read(1, SLOT << 15 | offset, size),
            Transport::Mmio => unreachable!("no configuration space"),
        }
    }
    pub fn set_config_space(&mut self, offset: u64, size: u8, value: u64) {
        self.write(1, SLOT << 15 | offset, size, value);
    }

    /// The register of the PCI common configuration or of the MMIO window.
    fn register(&self, pci: u64, mmio: u64) -> (u8, u64) {
        match self.transport {
            Transport::Pci => (2, pci),
            Transport::Mmio => (0, mmio),
        }
    }
    fn set(&mut self, pci: (u64, u8), mmio: u64, value: u64) {
        let (region, offset) = self.register(pci.0, mmio);
        let size = if region == 2 { pci.1 } else { 4 };
        self.write(region, offset, size, value);
    }
    fn get(&mut self, pci: (u64, u8), mmio: u64) -> u64 {
        let (region, offset) = self.register(pci.0, mmio);
        let size = if region == 2 { pci.1 } else { 4 };
        self.read(region, offset, size)
    }

    pub fn status(&mut self) -> u8 {
        self.get((0x14, 1), 0x70) as u8
    }
    pub fn set_status(&mut self, value: u8) {
        self.set((0x14, 1), 0x70, value.into());
    }
    pub fn offered(&mut self) -> u64 {
        self.set((0, 4), 0x14, 0);
        let low = self.get((4, 4), 0x10);
        self.set((0, 4), 0x14, 1);
        low | self.get((4, 4), 0x10) << 32
    }
    pub fn device_config(&mut self, offset: u64, size: u8) -> u64 {
        let (region, base) = self.register(0x2000, 0x100);
        self.read(region, base + offset, size)
    }

    pub fn start(&mut self, features: u64) {
        self.set_status(0);
        self.set_status(3);
        let features = self.offered() & (features | F_VERSION_1);
        self.features = features;
        for half in 0..2 {
            self.set((8, 4), 0x24, half);
            self.set((0xc, 4), 0x20, features >> (32 * half) & 0xffff_ffff);
        }
        self.set_status(11);
        assert_eq!(self.status(), 11, "FEATURES_OK stays");
        for q in 0..self.avail.len() as u64 {
            self.avail[q as usize] = 0;
            self.seen[q as usize] = 0;
            let zeroes = [0; 0xc000];
            self.memory.write(Gpa(self.ring(q)), &zeroes).unwrap();
            self.select(q);
            self.set((0x18, 2), 0x38, SIZE.into());
            for (i, ring) in [0, 0x4000, 0x8000].into_iter().enumerate() {
                let at = self.ring(q) + ring;
                self.set((0x20 + 8 * i as u64, 4), 0x80 + 0x10 * i as u64, at);
                self.set((0x24 + 8 * i as u64, 4), 0x84 + 0x10 * i as u64, 0);
            }
            self.enable();
        }
        self.set_status(15);
    }
    pub fn select(&mut self, queue: u64) {
        self.set((0x16, 2), 0x30, queue);
    }
    pub fn enable(&mut self) {
        self.set((0x1c, 2), 0x44, 1);
    }
    pub fn set_descriptor_table(&mut self, at: u64) {
        self.set((0x20, 4), 0x80, at);
    }

    /// Where queue `q`'s descriptor table is.
    pub fn ring(&self, q: u64) -> u64 {
        0x1_0000 * (q + 1)
    }

    pub fn descriptor(&mut self, table: u64, index: u16, at: u64, len: u32, flags: u16, next: u16) {
        let mut b = Vec::new();
        b.extend(at.to_le_bytes());
        b.extend(len.to_le_bytes());
        b.extend(flags.to_le_bytes());
        b.extend(next.to_le_bytes());
        let entry = Gpa(table + 16 * u64::from(index));
        self.memory.write(entry, &b).unwrap();
    }

    /// Writes a chain into `table` from entry `first` on.
    pub fn table(&mut self, table: u64, first: u16, buffers: &[Buffer]) {
        for (i, &(at, len, write)) in buffers.iter().enumerate() {
            let index = first + i as u16;
            let last = i + 1 == buffers.len();
            let flags = u16::from(write) << 1 | u16::from(!last);
            self.descriptor(table, index, at, len, flags, index + 1);
        }
    }

    /// Makes the chain at descriptor `head` available.
    pub fn offer(&mut self, q: u64, head: u16) {
        let ring = self.ring(q) + 0x4000;
        let index = self.avail[q as usize];
        let slot = Gpa(ring + 4 + 2 * u64::from(index % SIZE));
        self.memory.write_word(slot, head).unwrap();
        self.set_avail(q, index.wrapping_add(1));
    }
    pub fn set_avail(&mut self, q: u64, index: u16) {
        self.avail[q as usize] = index;
        let at = Gpa(self.ring(q) + 0x4002);
        self.memory.write_word(at, index).unwrap();
    }

    /// Offers a chain at descriptors 0…; only for one chain at a time.
    pub fn add(&mut self, q: u64, buffers: &[Buffer]) {
        self.table(self.ring(q), 0, buffers);
        self.offer(q, 0);
    }
    /// The same through an indirect table.
    pub fn add_indirect(&mut self, q: u64, buffers: &[Buffer]) {
        let table = 0xf_0000;
        self.table(table, 0, buffers);
        self.descriptor(self.ring(q), 0, table, 16 * buffers.len() as u32, 4, 0);
        self.offer(q, 0);
    }

    pub fn kick(&mut self, q: u64) {
        let (region, offset) = self.register(0x3000 + 4 * q, 0x50);
        self.write(region, offset, 4, q);
    }

    /// The next used element: head and length.
    pub fn used(&mut self, q: u64) -> Option<(u32, u32)> {
        let ring = self.ring(q) + 0x8000;
        let index: u16 = self.memory.read_word(Gpa(ring + 2)).unwrap();
        let seen = &mut self.seen[q as usize];
        if *seen == index {
            return None;
        }
        let at = ring + 4 + 8 * u64::from(*seen % SIZE);
        *seen = seen.wrapping_add(1);
        let head = self.memory.read_word(Gpa(at)).unwrap();
        Some((head, self.memory.read_word(Gpa(at + 4)).unwrap()))
    }

    pub fn bytes(&self, at: u64, len: usize) -> Vec<u8> {
        let mut b = vec![0; len];
        self.memory.read(Gpa(at), &mut b).unwrap();
        b
    }
    pub fn put(&self, at: u64, bytes: &[u8]) {
        self.memory.write(Gpa(at), bytes).unwrap();
    }

    pub fn line(&self) -> bool {
        // The device in slot 3 uses PIRQC#.
        let line = if self.transport == Transport::Pci {
            2
        } else {
            0
        };
        self.wires.lines.get(&line).copied().unwrap_or(false)
    }
    /// Reads the interrupt's cause and acknowledges it.
    pub fn acknowledge(&mut self) -> u64 {
        match self.transport {
            Transport::Pci => self.read(2, 0x1000, 1),
            Transport::Mmio => {
                let cause = self.read(0, 0x60, 4);
                self.write(0, 0x64, 4, cause);
                cause
            }
        }
    }
}

/// Both transports with the ring features on and off: what a device's tests run through.
pub fn combinations() -> impl Iterator<Item = (Transport, u64)> {
    let features = [
        0,
        F_INDIRECT_DESC,
        F_EVENT_IDX,
        F_INDIRECT_DESC | F_EVENT_IDX,
    ];
    let both = [Transport::Pci, Transport::Mmio];
    both.into_iter()
        .flat_map(move |t| features.into_iter().map(move |f| (t, f)))
}

mod tests {
    use super::super::rng::Rng;
    use super::*;
    use crate::backend::{BackendError, Entropy};

    struct Counter(u8);
    impl Entropy for Counter {
        fn fill(&mut self, into: &mut [u8]) -> Result<(), BackendError> {
            for b in into {
                self.0 = self.0.wrapping_add(1);
                *b = self.0;
            }
            Ok(())
        }
    }

    struct Failing;
    impl Entropy for Failing {
        fn fill(&mut self, _: &mut [u8]) -> Result<(), BackendError> {
            Err(BackendError("/dev/urandom: gone".into()))
        }
    }

    fn rng(transport: Transport, features: u64) -> Driver {
        Driver::running(
            transport,
            Box::new(Rng::new(Box::new(Counter(0)))),
            features,
        )
    }

    #[test]
    fn random_bytes_arrive_with_an_interrupt_through_every_transport_and_ring_feature() {
        for (transport, features) in combinations() {
            let mut d = rng(transport, features);
            for round in 0..20u32 {
                let buffers = [(0x10_0000, 3, true), (0x20_0000, 2, true)];
                if features & F_INDIRECT_DESC != 0 {
                    d.add_indirect(0, &buffers);
                } else {
                    d.add(0, &buffers);
                }
                // used_event: interrupt for the next one.
                let at = Gpa(d.ring(0) + 0x4000 + 4 + 2 * u64::from(SIZE));
                d.memory.write_word(at, round as u16).unwrap();
                d.kick(0);
                assert_eq!(
                    d.used(0),
                    Some((0, 5)),
                    "{transport:?} {features:x} {round}"
                );
                assert!(d.line());
                assert_eq!(d.acknowledge(), 1);
                assert!(!d.line());
                let next = (round * 5) as u8;
                assert_eq!(d.bytes(0x10_0000, 3), [next + 1, next + 2, next + 3]);
                assert_eq!(d.bytes(0x20_0000, 2), [next + 4, next + 5]);
            }
            assert!(d.wires.events.is_empty());
        }
    }

    #[test]
    fn suppressed_interrupts_are_not_sent() {
        let mut d = rng(Transport::Mmio, 0);
        let flags = Gpa(d.ring(0) + 0x4000);
        d.memory.write_word(flags, 1u16).unwrap();
        d.add(0, &[(0x10_0000, 3, true)]);
        d.kick(0);
        assert!(d.used(0).is_some() && !d.line());

        let mut d = rng(Transport::Mmio, F_EVENT_IDX);
        let used_event = Gpa(d.ring(0) + 0x4000 + 4 + 2 * u64::from(SIZE));
        d.memory.write_word(used_event, 2u16).unwrap();
        for round in 0..3 {
            d.add(0, &[(0x10_0000, 3, true)]);
            d.kick(0);
            assert_eq!(d.line(), round == 2, "interrupt when the index passes 2");
        }
        let avail_event = Gpa(d.ring(0) + 0x8000 + 4 + 8 * u64::from(SIZE));
        assert_eq!(
            d.memory.read_word::<u16>(avail_event),
            Ok(3),
            "asks for the next"
        );
    }

    #[test]
    fn every_way_to_break_a_ring_gives_needs_reset_and_says_why() {
        type Break = fn(&mut Driver);
        let cases: [(&str, u64, Break); 11] = [
            (
                "descriptor 0 is outside RAM (gpa 0x100000000, len 0x200)",
                0,
                |d| {
                    d.add(0, &[(0x1_0000_0000, 0x200, true)]);
                },
            ),
            (
                "descriptor 1 is outside RAM (gpa 0x7fffff, len 0x2)",
                0,
                |d| {
                    d.add(0, &[(0x10_0000, 1, true), (0x7f_ffff, 2, true)]);
                },
            ),
            (
                "descriptor 0 is outside RAM (gpa 0xffffffffffffffff, len 0xffffffff)",
                0,
                |d| {
                    d.add(0, &[(u64::MAX, u32::MAX, true)]);
                },
            ),
            ("the chain at descriptor 0 is a loop", 0, |d| {
                let ring = d.ring(0);
                d.descriptor(ring, 0, 0x10_0000, 1, 3, 1);
                d.descriptor(ring, 1, 0x10_0000, 1, 3, 0);
                d.offer(0, 0);
            }),
            ("descriptor 9 is beyond the table of 8", 0, |d| {
                let ring = d.ring(0);
                d.descriptor(ring, 0, 0x10_0000, 1, 3, 9);
                d.offer(0, 0);
            }),
            ("descriptor 65535 is beyond the table of 8", 0, |d| {
                d.offer(0, 0xffff)
            }),
            (
                "the available index jumps from 0 to 9 in a ring of 8",
                0,
                |d| d.set_avail(0, 9),
            ),
            (
                "descriptor 1 is device-readable after a device-writable one",
                0,
                |d| {
                    d.add(0, &[(0x10_0000, 1, true), (0x10_0000, 1, false)]);
                },
            ),
            ("descriptor 0 has a bad indirect table (len 0x20)", 0, |d| {
                d.add_indirect(0, &[(0x10_0000, 1, true), (0x10_0000, 1, true)]);
            }),
            (
                "descriptor 0 has a bad indirect table (len 0x11)",
                F_INDIRECT_DESC,
                |d| {
                    let ring = d.ring(0);
                    d.descriptor(ring, 0, 0x10_0000, 0x11, 4, 0);
                    d.offer(0, 0);
                },
            ),
            (
                "descriptor 0 has a bad indirect table (len 0x10)",
                F_INDIRECT_DESC,
                |d| {
                    let ring = d.ring(0);
                    d.descriptor(0x10_0000, 0, 0x10_0000, 0x10, 4, 0);
                    d.descriptor(ring, 0, 0x10_0000, 0x10, 4, 0);
                    d.offer(0, 0);
                },
            ),
        ];
        for transport in [Transport::Pci, Transport::Mmio] {
            for (why, features, break_it) in cases {
                let mut d = rng(transport, features);
                break_it(&mut d);
                d.kick(0);
                assert_eq!(d.status(), 0x4f, "{why}");
                let text =
                    std::format!("test0 (virtio-rng): queue 0: {why}; device set to NEEDS_RESET");
                assert_eq!(d.wires.events, [text]);
                assert_eq!(d.acknowledge(), 2, "a configuration change interrupt");
                d.kick(0);
                assert_eq!(d.wires.events.len(), 1, "and then it rests");
                d.start(0);
                d.add(0, &[(0x10_0000, 3, true)]);
                d.kick(0);
                assert_eq!(d.used(0), Some((0, 3)), "a reset mends it");
            }
        }
    }

    #[test]
    fn a_ring_outside_ram_or_misaligned_is_refused_when_it_is_enabled() {
        for at in [0x7f_fff0, 0x1_0001] {
            let mut d = Driver::new(Transport::Pci, Box::new(Rng::new(Box::new(Counter(0)))));
            d.set_status(3);
            d.select(0);
            d.set_descriptor_table(at);
            d.enable();
            assert_eq!(d.status(), 0x43);
            assert!(
                d.wires.events[0].contains("the descriptor table is misaligned or outside RAM")
            );
        }
    }

    #[test]
    fn features_that_were_not_offered_are_not_accepted() {
        let mut d = Driver::new(Transport::Mmio, Box::new(Rng::new(Box::new(Counter(0)))));
        d.set_status(3);
        d.write(0, 0x24, 4, 0);
        d.write(0, 0x20, 4, 1 << 5);
        d.write(0, 0x24, 4, 1);
        d.write(0, 0x20, 4, 1);
        d.set_status(11);
        assert_eq!(d.status(), 3);
        d.set_status(15);
        assert_eq!(d.status(), 3, "no DRIVER_OK without FEATURES_OK");
    }

    #[test]
    fn a_failing_host_is_an_event_and_an_empty_buffer() {
        let device = Box::new(Rng::new(Box::new(Failing)));
        let mut d = Driver::running(Transport::Pci, device, 0);
        d.add(0, &[(0x10_0000, 3, true)]);
        d.kick(0);
        assert_eq!(d.used(0), Some((0, 0)));
        assert_eq!(
            d.wires.events,
            ["test0 (virtio-rng): /dev/urandom: gone; the guest gets no random bytes"]
        );
    }

    #[test]
    fn msix_vectors_replace_the_line() {
        let mut d = Driver::new(Transport::Pci, Box::new(Rng::new(Box::new(Counter(0)))));
        // The MSI-X BAR follows BAR 0 of 16 KiB.
        let msix = 0x4000;
        let mut cap = d.config_space(0x34, 1);
        while d.config_space(cap, 1) != 0x11 {
            cap = d.config_space(cap + 1, 1);
        }
        assert_eq!(d.config_space(cap + 2, 2), 1, "two vectors");
        d.set_config_space(cap + 2, 2, 0x8000);
        d.write(2, msix + 0x10, 8, 0xfee0_0000);
        d.write(2, msix + 0x18, 8, 0x55);
        d.start(0);
        d.select(0);
        d.write(2, 0x1a, 2, 1);
        assert_eq!(d.read(2, 0x1a, 2), 1);
        d.write(2, 0x10, 2, 7);
        assert_eq!(d.read(2, 0x10, 2), 0xffff, "no such vector");
        d.add(0, &[(0x10_0000, 3, true)]);
        d.kick(0);
        assert!(!d.line());
        assert_eq!(d.wires.messages.len(), 1);
        assert_eq!(d.wires.messages[0].data, 0x55);
    }

    #[test]
    fn the_configuration_access_window_reaches_the_bars() {
        let mut d = Driver::new(Transport::Pci, Box::new(Rng::new(Box::new(Counter(0)))));
        let mut cap = d.config_space(0x34, 1);
        while (d.config_space(cap, 1), d.config_space(cap + 3, 1)) != (0x09, 5) {
            cap = d.config_space(cap + 1, 1);
        }
        d.set_config_space(cap + 4, 1, 0);
        d.set_config_space(cap + 8, 4, 0x14);
        d.set_config_space(cap + 12, 4, 1);
        d.set_config_space(cap + 16, 1, 3);
        assert_eq!(d.status(), 3);
        d.set_config_space(cap + 8, 4, 0x12);
        d.set_config_space(cap + 12, 4, 2);
        assert_eq!(d.config_space(cap + 16, 2), 1, "num_queues");
        d.set_config_space(cap + 8, 4, 0xffff_fffe);
        assert_ne!(d.config_space(cap + 16, 2), 0x1_0000);
    }

    #[test]
    fn a_running_device_is_saved_and_goes_on_elsewhere() {
        for (transport, features) in combinations() {
            let mut d = rng(transport, features);
            d.add(0, &[(0x10_0000, 3, true)]);
            d.kick(0);
            let saved = d.device.save();
            let mut other = Driver::new(transport, Box::new(Rng::new(Box::new(Counter(9)))));
            other.device.load(&saved).unwrap();
            assert_eq!(other.device.save(), saved);
            d.device = other.device;
            d.add(0, &[(0x10_0000, 1, true)]);
            d.kick(0);
            assert_eq!(d.used(0), Some((0, 3)));
            assert_eq!(d.used(0), Some((0, 1)));
            assert_eq!(d.bytes(0x10_0000, 1), [10]);
        }
    }

    #[test]
    fn both_transports_keep_the_contract() {
        let rng = || Box::new(Rng::new(Box::new(Counter(0))));
        crate::contract::check(&[0x200], || VirtioMmio::new("test0", rng()));
        crate::contract::check(&[8, 1 << 20, 0x5000], || {
            let mut bus = PciBus::new(PciLayout::default());
            bus.add(0, Box::new(VirtioPci::new("test0", rng())))
                .unwrap();
            bus
        });
    }
}
