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
//! | ACPI PM | 0x600.., 0xB2, 0xCF9 | 9 |
//! | i8042 | 0x60, 0x64, 0x92 | 1, 12 |
//! | COM1, COM2 | 0x3F8, 0x2F8 | 4, 3 |
//! | debug ports | 0xE9, 0x402, 0xF4 | – |
//! | PCI (`pc`) | 0xCF8–0xCFF, windows | INTx 16–19 |
//! | virtio-mmio (`micro`) | 0xFEB0_0000 + n × 0x1000 | 16 + n |
//!
//! Nobody answers elsewhere: reads give all ones, writes vanish (port 0x80, POST codes, among
//! them).

use crate::acpi::{self, AcpiParams};
use crate::decode::{Claim, Decoder};
use crate::lock::Lock;
use crate::spec::{BoardKind, MachineSpec};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::AtomicU64;
use devices::Device;
use devices::backend::{Disk, Entropy, Stream};
use devices::debug_port::DebugPort;
use devices::i8254::Pit;
use devices::ns16550::Uart;

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

/// The board as the ACPI tables describe it.
pub fn acpi(spec: &MachineSpec) -> AcpiParams {
    let uart = |port, irq| acpi::Uart { port, irq };
    AcpiParams {
        apic_ids: (0..spec.cpus).collect(),
        pci: None,
        virtio_mmio: Vec::new(),
        uarts: alloc::vec![uart(0x3f8, 4), uart(0x2f8, 3)],
        i8042: false,
        rtc: false,
        pit: true,
        hpet: false,
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

/// One place on the board.
pub struct Slot {
    /// Its name in messages: `com1`.
    pub name: &'static str,
    /// Who sits there.
    pub part: Part,
    /// The GSIs that each interrupt line of the device drives.
    pub lines: &'static [&'static [u8]],
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
        lines: &'static [&'static [u8]],
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
        lines: &'static [&'static [u8]],
    ) -> usize {
        let part = Part::Device(Lock::new(Box::new(device)));
        self.put(name, part, regions, lines)
    }
}

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
        let pit = [(0, Ports(0x40, 4)), (1, Ports(0x61, 1))];
        p.device("pit", Pit::new(), &pit, &[&[0]]);
        let com1 = Uart::new(c.com1);
        let com1 = p.device("com1", com1, &[(0, Ports(0x3f8, 8))], &[&[4]]);
        let com2 = Uart::new(c.com2);
        p.device("com2", com2, &[(0, Ports(0x2f8, 8))], &[&[3]]);
        let debug = DebugPort::new(c.debug);
        let ports = [
            (0, Ports(0xe9, 1)),
            (0, Ports(0x402, 1)),
            (1, Ports(0xf4, 4)),
        ];
        p.device("debug", debug, &ports, &[]);
        match spec.board {
            BoardKind::Pc => {}
            BoardKind::Micro => {}
        }
        let overlap = |which| move |why| format!("board: {which}: {why}");
        Ok(Board {
            slots: p.slots,
            ports: Decoder::new(p.ports).map_err(overlap("ports"))?,
            memory: Decoder::new(p.memory).map_err(overlap("memory"))?,
            terminal_slots: alloc::vec![com1],
        })
    }
}
