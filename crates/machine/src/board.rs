//! The board: ONE list of what a guest finds at which ports and addresses, and on which global
//! system interrupts (GSIs). [`Board::build`] is that list; the rest of the file reads it.
//!
//! | device | ports, addresses | GSI |
//! |---|---|---|
//! | i8259 pair | 0x20, 0xA0, 0x4D0 | – |
//! | IOAPIC | 0xFEC0_0000 | inputs 0–23 |
//! | local APICs | 0xFEE0_0000, MSRs 0x800.. | – |
//! | i8254 | 0x40–0x43, 0x61 | 2 (and PIC input 0) |
//! | RTC | 0x70–0x71 | 8 |
//! | HPET | 0xFED0_0000 | 2, 8 or free |
//! | ACPI PM | 0x600.., 0xB2, 0x92, 0xCF9 (`pc`: of PCI) | 9 |
//! | i8042 (`pc`) | 0x60, 0x64 | 1, 12 |
//! | COM1, COM2 | 0x3F8, 0x2F8 | 4, 3 |
//! | debug ports | 0xE9, 0x402, 0xF4 | – |
//! | x87 error latch | 0xF0–0xF1 | 13 |
//! | PCI (`pc`) | 0xCF8–0xCFF, windows | INTx 16–19 (and 10, 11) |
//! | virtio-mmio (`micro`) | 0xFEB0_0000 + n × 0x1000 | 16 + n |
//!
//! Nobody answers elsewhere: reads give all ones, writes vanish (port 0x80, POST codes, among
//! them).

use crate::acpi::{self, AcpiParams};
use crate::boot::MemoryLayout;
use crate::decode::{Claim, Decoder};
use crate::lock::Lock;
use crate::spec::{BoardKind, MachineSpec};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::AtomicU64;
use devices::Device;
use devices::acpi_pm::AcpiPm;
use devices::backend::{Disk, Entropy, Stream};
use devices::coprocessor::{self, Coprocessor};
use devices::debug_port::DebugPort;
use devices::hpet::Hpet;
use devices::i8042::I8042;
use devices::i8254::Pit;
use devices::mc146818::Rtc;
use devices::ns16550::Uart;
use devices::pci::{HostBridge, IsaBridge, PciBus, PciLayout};
use devices::virtio::{VirtioDevice, VirtioMmio, VirtioPci, blk::Blk, console::Console, rng::Rng};

/// What the board's devices are connected to on the host.
pub struct Connections {
    /// COM1: the terminal.
    pub com1: Box<dyn Stream>,
    /// COM2.
    pub com2: Box<dyn Stream>,
    /// The debug ports.
    pub debug: Box<dyn Stream>,
    /// The virtio console.
    pub console: Box<dyn Stream>,
    /// The disks in the order of the specification.
    pub disks: Vec<Box<dyn Disk>>,
    /// The source of virtio-rng.
    pub entropy: Box<dyn Entropy>,
    /// Seconds since 1970 at power-on, UTC, for the RTC.
    pub unix_time_s: i64,
}

/// A part of the interrupt hub that answers at addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HubPart {
    /// The i8259 pair.
    Pics,
    /// The IOAPIC.
    Ioapic,
    /// The local APIC of the processor that asks.
    Lapic,
}

/// Who answers in a slot of the board.
pub enum Part {
    /// A device under its own lock.
    Device(Lock<Box<dyn Device>>),
    /// The interrupt hub, which locks itself.
    Hub(HubPart),
}

/// The first virtio-mmio device of the `micro` board, and the distance to the next.
const VIRTIO_MMIO: u64 = 0xfeb0_0000;
const VIRTIO_MMIO_STRIDE: u64 = 0x1000;
/// The GSIs of virtio-mmio devices: the IOAPIC's pins above the ISA interrupts.
const VIRTIO_MMIO_GSI: [&[Line]; 8] = [
    &[Gsi(&[16])],
    &[Gsi(&[17])],
    &[Gsi(&[18])],
    &[Gsi(&[19])],
    &[Gsi(&[20])],
    &[Gsi(&[21])],
    &[Gsi(&[22])],
    &[Gsi(&[23])],
];
/// PIRQA# to PIRQD#: IOAPIC pins for a guest that reads ACPI, ISA interrupts (those of
/// [`PciLayout::irqs`]) for one that reads Interrupt Line.
const PIRQ_GSI: &[Line] = &[
    Gsi(&[16, 10]),
    Gsi(&[17, 10]),
    Gsi(&[18, 11]),
    Gsi(&[19, 11]),
];
/// The HPET's lines have the numbers of the GSIs.
const HPET_GSI: &[Line] = &[
    Gsi(&[0]),
    Gsi(&[1]),
    Gsi(&[2]),
    Gsi(&[3]),
    Gsi(&[4]),
    Gsi(&[5]),
    Gsi(&[6]),
    Gsi(&[7]),
    Gsi(&[8]),
    Gsi(&[9]),
    Gsi(&[10]),
    Gsi(&[11]),
    Gsi(&[12]),
    Gsi(&[13]),
    Gsi(&[14]),
    Gsi(&[15]),
    Gsi(&[16]),
    Gsi(&[17]),
    Gsi(&[18]),
    Gsi(&[19]),
    Gsi(&[20]),
    Gsi(&[21]),
    Gsi(&[22]),
    Gsi(&[23]),
    Line::LegacyReplacement,
];
/// The first PCI slot after the bridges.
const FIRST_PCI_SLOT: u8 = 2;

/// How many virtio devices a machine has: console, entropy, disks.
fn virtio_count(spec: &MachineSpec) -> usize {
    2 + spec.disks.len()
}

/// The board as the ACPI tables describe it.
pub fn acpi(spec: &MachineSpec) -> AcpiParams {
    let uart = |port, irq| acpi::Uart { port, irq };
    let micro = spec.board == BoardKind::Micro;
    let layout = PciLayout::default();
    let virtio_mmio = |n: usize| acpi::VirtioMmio {
        base: (VIRTIO_MMIO + n as u64 * VIRTIO_MMIO_STRIDE) as u32,
        size: VIRTIO_MMIO_STRIDE as u32,
        gsi: 16 + n as u32,
    };
    AcpiParams {
        apic_ids: (0..spec.cpus).collect(),
        pci: (!micro).then(|| acpi::PciParams {
            ecam: None,
            last_bus: 0,
            windows_32: alloc::vec![(
                layout.memory32.start as u32,
                (layout.memory32.end - 1) as u32
            )],
            window_64: Some((layout.memory64.start, layout.memory64.end - 1)),
        }),
        virtio_mmio: if micro {
            (0..virtio_count(spec)).map(virtio_mmio).collect()
        } else {
            Vec::new()
        },
        uarts: alloc::vec![uart(0x3f8, 4), uart(0x2f8, 3)],
        i8042: !micro,
        rtc: true,
        pit: true,
        hpet: true,
        vga: false,
        gpe0: None,
    }
}

/// Accesses to one slot so far.
#[derive(Default, Debug)]
pub struct Accesses {
    /// Reads.
    pub reads: AtomicU64,
    /// Writes.
    pub writes: AtomicU64,
}

/// Where an interrupt line of a device leads.
#[derive(Clone, Copy, Debug)]
pub enum Line {
    /// To these GSIs.
    Gsi(&'static [u8]),
    /// It disconnects the PIT and the RTC while it is high: the HPET's legacy replacement.
    LegacyReplacement,
}
use Line::Gsi;

/// One place on the board.
pub struct Slot {
    /// Its name in messages: `com1`.
    pub name: &'static str,
    /// Who sits there.
    pub part: Part,
    /// Where each interrupt line of the device leads.
    pub lines: &'static [Line],
    /// How often it was asked.
    pub accesses: Accesses,
}

/// Where a region of a device is.
enum At {
    Ports(u16, u16),
    Memory(u64, u64),
}
use At::{Memory, Ports};

/// The board of one machine.
pub struct Board {
    /// The slots, in the order in which they are saved and reset.
    pub slots: Vec<Slot>,
    /// Who answers at a port.
    pub ports: Decoder,
    /// Who answers at a memory address.
    pub memory: Decoder,
    /// The PIT and the RTC, which the HPET can replace.
    pub legacy_slots: [usize; 2],
    /// What FERR# and IGNNE# lead to.
    pub coprocessor_slot: usize,
    /// Slots whose input comes from the terminal.
    pub terminal_slots: Vec<usize>,
}

/// The list while it is written.
#[derive(Default)]
struct Plan {
    slots: Vec<Slot>,
    ports: Vec<Claim>,
    memory: Vec<Claim>,
}

impl Plan {
    /// Adds a slot: its regions in the order its device documents (several places may lead to
    /// one region), and the GSIs of its lines.
    fn put(
        &mut self,
        name: &'static str,
        part: Part,
        regions: &[(u8, At)],
        lines: &'static [Line],
    ) -> usize {
        let slot = self.slots.len();
        for (region, at) in regions {
            let (list, start, len) = match *at {
                Ports(start, len) => (&mut self.ports, u64::from(start), u64::from(len)),
                Memory(start, len) => (&mut self.memory, start, len),
            };
            list.push(Claim {
                start,
                len,
                slot: slot as u16,
                region: *region,
            });
        }
        self.slots.push(Slot {
            name,
            part,
            lines,
            accesses: Accesses::default(),
        });
        slot
    }

    fn device(
        &mut self,
        name: &'static str,
        device: impl Device + 'static,
        regions: &[(u8, At)],
        lines: &'static [Line],
    ) -> usize {
        let part = Part::Device(Lock::new(Box::new(device)));
        self.put(name, part, regions, lines)
    }

    /// The PCI bus with its bridges and virtio functions.
    fn pci(&mut self, virtio: Vec<(String, Box<dyn VirtioDevice>)>) -> Result<usize, String> {
        let layout = PciLayout::default();
        let window = |r: &core::ops::Range<u64>| (r.start, r.end - r.start);
        let (memory32, memory64) = (window(&layout.memory32), window(&layout.memory64));
        let io = Ports(
            layout.io.start as u16,
            (layout.io.end - layout.io.start) as u16,
        );
        let mut bus = PciBus::new(layout);
        let no = |e: devices::pci::PciBuildError| format!("board: {e}");
        bus.add(0, Box::new(HostBridge::default())).map_err(no)?;
        bus.add(1, Box::new(IsaBridge::default())).map_err(no)?;
        for (slot, (label, device)) in (FIRST_PCI_SLOT..).zip(virtio) {
            let function = VirtioPci::new(&label, device);
            bus.add(slot, Box::new(function)).map_err(no)?;
        }
        let regions = [
            (0, Ports(0xcf8, 8)),
            (2, Memory(memory32.0, memory32.1)),
            (3, io),
            (4, Memory(memory64.0, memory64.1)),
        ];
        Ok(self.device("pci", bus, &regions, PIRQ_GSI))
    }

    /// Virtio devices with memory-mapped registers; the slot of the first.
    fn virtio_mmio(
        &mut self,
        virtio: Vec<(String, Box<dyn VirtioDevice>)>,
    ) -> Result<usize, String> {
        let most = VIRTIO_MMIO_GSI.len();
        if virtio.len() > most {
            return Err(format!(
                "--disk: {} disks do not fit the micro board; give at most {}, or use --board pc",
                virtio.len() - 2,
                most - 2
            ));
        }
        let first = self.slots.len();
        for (n, (label, device)) in virtio.into_iter().enumerate() {
            let at = VIRTIO_MMIO + n as u64 * VIRTIO_MMIO_STRIDE;
            self.device(
                VIRTIO_MMIO_NAMES[n],
                VirtioMmio::new(&label, device),
                &[(0, Memory(at, VIRTIO_MMIO_STRIDE))],
                VIRTIO_MMIO_GSI[n],
            );
        }
        Ok(first)
    }
}

/// As they appear in statistics.
const VIRTIO_MMIO_NAMES: [&str; 8] = [
    "console", "rng", "disk0", "disk1", "disk2", "disk3", "disk4", "disk5",
];

impl Board {
    /// The list.
    pub fn build(spec: &MachineSpec, c: Connections) -> Result<Board, String> {
        let mut p = Plan::default();
        let pics = [
            (0, Ports(0x20, 2)),
            (1, Ports(0xa0, 2)),
            (2, Ports(0x4d0, 2)),
        ];
        p.put("pic", Part::Hub(HubPart::Pics), &pics, &[]);
        let ioapic = [(0, Memory(0xfec0_0000, 0x1000))];
        p.put("ioapic", Part::Hub(HubPart::Ioapic), &ioapic, &[]);
        let lapic = [(0, Memory(0xfee0_0000, 0x1000))];
        p.put("lapic", Part::Hub(HubPart::Lapic), &lapic, &[]);
        let regions = [(0, Ports(0x40, 4)), (1, Ports(0x61, 1))];
        let pit = p.device("pit", Pit::new(), &regions, &[Gsi(&[0])]);
        let com1 = Uart::new(c.com1);
        let com1 = p.device("com1", com1, &[(0, Ports(0x3f8, 8))], &[Gsi(&[4])]);
        let com2 = Uart::new(c.com2);
        p.device("com2", com2, &[(0, Ports(0x2f8, 8))], &[Gsi(&[3])]);
        let debug = DebugPort::new(c.debug);
        let ports = [
            (0, Ports(0xe9, 1)),
            (0, Ports(0x402, 1)),
            (1, Ports(0xf4, 4)),
        ];
        p.device("debug", debug, &ports, &[]);
        let ports = [(coprocessor::PORTS, Ports(0xf0, 2))];
        let coprocessor = p.device("fpu-error", Coprocessor::new(), &ports, &[Gsi(&[13])]);
        let mut rtc = Rtc::new(c.unix_time_s);
        let layout = MemoryLayout::of(spec.memory);
        rtc.set_memory(layout.low, layout.high);
        let rtc = p.device("rtc", rtc, &[(0, Ports(0x70, 2))], &[Gsi(&[8])]);
        let hpet = [(0, Memory(u64::from(acpi::HPET_BASE), 0x400))];
        p.device("hpet", Hpet::new(), &hpet, HPET_GSI);
        // A 24-bit timer, in ACPI mode from the start: as the FADT says.
        let pm = AcpiPm::new(false, true);
        let mut ports = alloc::vec![
            (0, Ports(0x600, 0x30)),
            (1, Ports(0xb2, 2)),
            (3, Ports(0x92, 1))
        ];
        if spec.board == BoardKind::Micro {
            // On the other board 0xCF9 is the PCI bus's.
            ports.push((2, Ports(0xcf9, 1)));
        }
        p.device("acpi-pm", pm, &ports, &[Gsi(&[9])]);
        if spec.board == BoardKind::Pc {
            let regions = [(0, Ports(0x60, 1)), (1, Ports(0x64, 1))];
            p.device("i8042", I8042::new(), &regions, &[Gsi(&[1]), Gsi(&[12])]);
        }
        let mut virtio: Vec<(String, Box<dyn VirtioDevice>)> = alloc::vec![
            ("console".into(), Box::new(Console::new(c.console)) as _),
            ("rng".into(), Box::new(Rng::new(c.entropy)) as _),
        ];
        for (n, disk) in c.disks.into_iter().enumerate() {
            virtio.push((format!("disk{n}"), Box::new(Blk::new(disk))));
        }
        let console = match spec.board {
            BoardKind::Pc => p.pci(virtio)?,
            BoardKind::Micro => p.virtio_mmio(virtio)?,
        };
        let overlap = |which| move |why| format!("board: {which}: {why}");
        Ok(Board {
            slots: p.slots,
            ports: Decoder::new(p.ports).map_err(overlap("ports"))?,
            memory: Decoder::new(p.memory).map_err(overlap("memory"))?,
            legacy_slots: [pit, rtc],
            coprocessor_slot: coprocessor,
            terminal_slots: alloc::vec![com1, console],
        })
    }
}
