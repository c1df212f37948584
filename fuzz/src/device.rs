//! Devices under random accesses: what the targets `device`, `pci` and `virtio` share. The input
//! is read as a sequence of events ([`Bench::events`]); no event may panic, and at the end the
//! state must be one that a fresh device takes and gives back equal.

use devices::acpi_pm::AcpiPm;
use devices::backend::{BackendError, Disk, Entropy, Stream};
use devices::debug_port::DebugPort;
use devices::hpet::Hpet;
use devices::i8042::I8042;
use devices::i8254::Pit;
use devices::i8259::Pics;
use devices::ioapic::Ioapic;
use devices::mc146818::Rtc;
use devices::ns16550::Uart;
use devices::pci::{HostBridge, IsaBridge, PciBus, PciLayout};
use devices::virtio::{VirtioDevice, VirtioMmio, VirtioPci, blk::Blk, console::Console, rng::Rng};
use devices::{Context, Device, Inspector, Recorder};
use mem::{Gpa, GuestMemory};

/// A backend of every kind: a small disk in memory, a stream that echoes, counted entropy.
#[derive(Default)]
struct Back(Vec<u8>);

impl Back {
    fn disk() -> Box<Back> {
        Box::new(Back(vec![0; 64 * 512]))
    }
}

impl Disk for Back {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }
    fn read_only(&self) -> bool {
        false
    }
    fn serial(&self) -> &str {
        "fuzz"
    }
    // Indexing panics where a device has not checked the range: that is what is looked for.
    fn read_at(&mut self, at: u64, into: &mut [u8]) -> Result<(), BackendError> {
        into.copy_from_slice(&self.0[at as usize..][..into.len()]);
        Ok(())
    }
    fn write_at(&mut self, at: u64, from: &[u8]) -> Result<(), BackendError> {
        self.0[at as usize..][..from.len()].copy_from_slice(from);
        Ok(())
    }
    fn flush(&mut self) -> Result<(), BackendError> {
        Ok(())
    }
    fn discard(&mut self, at: u64, len: u64, _zero: bool) -> Result<(), BackendError> {
        self.0[at as usize..][..len as usize].fill(0);
        Ok(())
    }
}

impl Stream for Back {
    fn receive(&mut self, into: &mut [u8]) -> usize {
        let n = self.0.len().min(into.len());
        into[..n].copy_from_slice(&self.0[..n]);
        self.0.drain(..n);
        n
    }
    fn send(&mut self, from: &[u8]) -> usize {
        // Sometimes it is full.
        let n = from.len().min(4096 - self.0.len().min(4096));
        self.0.extend(&from[..n]);
        n
    }
}

impl Entropy for Back {
    fn fill(&mut self, into: &mut [u8]) -> Result<(), BackendError> {
        into.fill(0x5a);
        Ok(())
    }
}

/// A device and the lengths of its regions.
pub type Subject = (Box<dyn Device>, &'static [u64]);

fn virtio_device(which: u8) -> Box<dyn VirtioDevice> {
    match which % 3 {
        0 => Box::new(Blk::new(Back::disk())),
        1 => Box::new(Console::new(Box::new(Back::default()))),
        _ => Box::new(Rng::new(Box::new(Back::default()))),
    }
}

/// Every device of the board; a new one belongs here.
pub fn device(which: u8) -> Subject {
    let stream = || Box::new(Back::default());
    match which % 12 {
        0 => (Box::new(Pics::new()), &[2, 2, 2]),
        1 => (Box::new(Ioapic::new()), &[0x50]),
        2 => (Box::new(Pit::new()), &[4, 1]),
        3 => (Box::new(Rtc::new(1_709_164_800)), &[2]),
        4 => (Box::new(Hpet::new()), &[0x160]),
        5 => (Box::new(AcpiPm::new(which >= 128, true)), &[0x30, 2, 1, 1]),
        6 => (Box::new(I8042::new()), &[1, 1]),
        7 => (Box::new(Uart::new(stream())), &[8]),
        8 => (Box::new(DebugPort::new(stream())), &[1, 4]),
        n => virtio_mmio(n),
    }
}

/// A virtio device with memory-mapped registers.
pub fn virtio_mmio(which: u8) -> Subject {
    let device = VirtioMmio::new("fuzz0", virtio_device(which));
    (Box::new(device), &[0x200])
}

/// A PCI bus with its bridges and every virtio function.
pub fn pci() -> Subject {
    let mut bus = PciBus::new(PciLayout::default());
    bus.add(0, Box::new(HostBridge::default())).expect("free");
    bus.add(1, Box::new(IsaBridge::default())).expect("free");
    for n in 0..3 {
        let function = VirtioPci::new("fuzz0", virtio_device(n));
        bus.add(2 + n, Box::new(function)).expect("free");
    }
    (Box::new(bus), &[8, 1 << 20, 0x9000, 0x100, 0x1000])
}

/// Takes values off the input; zeroes behind its end.
pub struct Input<'a>(pub &'a [u8]);

impl Input<'_> {
    /// One byte.
    pub fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }
    /// A little-endian number of `n` bytes.
    pub fn number(&mut self, n: usize) -> u64 {
        (0..n).fold(0, |value, k| value | u64::from(self.byte()) << (8 * k))
    }
    /// Up to `n` bytes.
    pub fn bytes(&mut self, n: usize) -> &[u8] {
        let (taken, rest) = self.0.split_at(n.min(self.0.len()));
        self.0 = rest;
        taken
    }
}

/// A device on a bench: memory, wires, time.
pub struct Bench {
    device: Box<dyn Device>,
    regions: &'static [u64],
    memory: GuestMemory,
    wires: Recorder,
    now_ns: u64,
}

impl Bench {
    /// With 64 KiB of guest memory.
    pub fn new((device, regions): Subject) -> Bench {
        Bench {
            device,
            regions,
            memory: GuestMemory::flat(64 << 10).expect("host memory"),
            wires: Recorder::default(),
            now_ns: 0,
        }
    }

    fn call<R>(&mut self, call: impl FnOnce(&mut dyn Device, &mut Context<'_>) -> R) -> R {
        let mut cx = Context {
            now_ns: self.now_ns,
            memory: &self.memory,
            wires: &mut self.wires,
        };
        call(&mut *self.device, &mut cx)
    }

    /// A write of 4 bytes to region 0.
    pub fn write32(&mut self, offset: u64, value: u64) {
        self.call(|d, cx| d.write(cx, 0, offset, 4, value));
    }

    /// Fills guest memory from `at`.
    pub fn fill(&mut self, at: u64, bytes: &[u8]) {
        let _ = self.memory.write(Gpa(at), bytes);
    }

    /// At most 4096 events: what happens is in the low bits of the first byte, the region in
    /// the high ones.
    pub fn events(&mut self, input: &mut Input<'_>) {
        for _ in 0..4096 {
            if input.0.is_empty() {
                return;
            }
            let what = input.byte();
            let region = (what >> 5) % self.regions.len() as u8;
            let size = 1u8 << (what >> 3 & 3);
            let len = self.regions[usize::from(region)];
            match what & 7 {
                0 | 1 => {
                    let offset = input.number(3) % len;
                    self.call(|d, cx| d.read(cx, region, offset, size));
                }
                2..=4 => {
                    let (offset, value) = (input.number(3) % len, input.number(size.into()));
                    self.call(|d, cx| d.write(cx, region, offset, size, value));
                }
                5 => {
                    let timer = what >> 3;
                    self.now_ns = self.now_ns.saturating_add(1 << (input.byte() & 63));
                    self.wires.timers.remove(&timer);
                    self.call(|d, cx| d.timer(cx, timer));
                }
                6 => self.call(|d, cx| d.completion(cx)),
                _ => {
                    let at = input.number(2);
                    let bytes = input.number(8).to_le_bytes();
                    self.fill(at, &bytes);
                }
            }
        }
    }

    /// The state is saved; a fresh device takes it and gives it back equal. Then it is reset.
    pub fn finish(mut self, fresh: Subject) {
        let saved = self.device.save();
        let mut twin = fresh.0;
        twin.load(&saved).expect("our own state");
        assert_eq!(saved, twin.save(), "save, load, save differ");
        self.device.inspect(&mut Inspector::default());
        self.call(|d, cx| d.reset(cx));
    }
}
