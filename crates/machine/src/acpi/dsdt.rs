//! The DSDT: what the guest cannot find out by itself. Called by [`super::tables`].

use super::aml::{Aml, Resources, Trigger, Value};
use super::{AcpiParams, HPET_BASE, PCI_GSI_BASE, PCI_GSIS, PciParams, S5_SLEEP_TYPE};
use alloc::format;
use alloc::vec::Vec;

/// The DSDT's byte code.
pub(super) fn dsdt(params: &AcpiParams) -> Vec<u8> {
    let mut aml = Aml::default();
    // SLP_TYP for PM1a and PM1b, two reserved.
    let s5 = [u64::from(S5_SLEEP_TYPE), 0, 0, 0];
    aml.name(
        "\\_S5",
        Value::Package(s5.map(Value::Integer).into_iter().collect()),
    );
    aml.scope("\\_SB", |sb| {
        processors(sb, params);
        if let Some(pci) = &params.pci {
            pci_root(sb, pci);
        }
        isa_devices(sb, params);
        virtio_mmio(sb, params);
    });
    aml.bytes
}

/// `ACPI0007` processor devices; `_UID` is the one in the MADT.
fn processors(sb: &mut Aml, params: &AcpiParams) {
    for uid in 0..params.apic_ids.len() {
        sb.device(&format!("C{:03X}", uid & 0xfff), |cpu| {
            cpu.name("_HID", Value::String("ACPI0007"));
            cpu.name("_UID", Value::Integer(uid as u64));
        });
    }
}

fn pci_root(sb: &mut Aml, pci: &PciParams) {
    sb.device("PCI0", |root| {
        root.name("_HID", Value::EisaId("PNP0A08"));
        root.name("_CID", Value::EisaId("PNP0A03"));
        root.name("_UID", Value::Integer(0));
        let mut crs = Resources::default()
            .bus_numbers(0, u16::from(pci.last_bus))
            .io(0xcf8, 8)
            .io_window(0, 0xcf7)
            .io_window(0xd00, 0xffff)
            .memory_window_32(0xa_0000, 0xb_ffff);
        for &(first, last) in &pci.windows_32 {
            crs = crs.memory_window_32(first, last);
        }
        if let Some((first, last)) = pci.window_64 {
            crs = crs.memory_window_64(first, last);
        }
        root.crs(crs);
        let mut routes = Vec::new();
        for device in 0..32u32 {
            for pin in 0..4u32 {
                let gsi = PCI_GSI_BASE + (device + pin + 3) % PCI_GSIS;
                let address = u64::from(device << 16 | 0xffff);
                let route = [address, u64::from(pin), 0, u64::from(gsi)];
                routes.push(Value::Package(
                    route.map(Value::Integer).into_iter().collect(),
                ));
            }
        }
        root.name("_PRT", Value::Package(routes));
    });
    if let Some(ecam) = pci.ecam {
        // Motherboard resources: an operating system believes the MCFG only if they are
        // reserved.
        sb.device("ECAM", |dev| {
            dev.name("_HID", Value::EisaId("PNP0C02"));
            dev.name("_UID", Value::Integer(0));
            let size = (u32::from(pci.last_bus) + 1) << 20;
            dev.crs(Resources::default().memory_32(ecam, size));
        });
    }
}

fn isa_devices(sb: &mut Aml, params: &AcpiParams) {
    let mut isa = |name: &str, id: &'static str, uid: u64, crs: Resources| {
        sb.device(name, |dev| {
            dev.name("_HID", Value::EisaId(id));
            dev.name("_UID", Value::Integer(uid));
            dev.crs(crs);
        });
    };
    let none = Resources::default;
    for (i, uart) in params.uarts.iter().enumerate().take(4) {
        let crs = none().io(uart.port, 8).irq(uart.irq);
        isa(&format!("COM{}", i + 1), "PNP0501", i as u64 + 1, crs);
    }
    if params.i8042 {
        isa("PS2K", "PNP0303", 0, none().io(0x60, 1).io(0x64, 1).irq(1));
        isa("PS2M", "PNP0F13", 0, none().irq(12));
    }
    if params.rtc {
        isa("RTC", "PNP0B00", 0, none().io(0x70, 2).irq(8));
    }
    if params.pit {
        isa("PIT", "PNP0100", 0, none().io(0x40, 4).irq(0));
    }
    if params.hpet {
        isa("HPET", "PNP0103", 0, none().memory_32(HPET_BASE, 0x400));
    }
}

/// `LNRO0005`, the identifier that Linux gave to virtio over memory-mapped registers.
fn virtio_mmio(sb: &mut Aml, params: &AcpiParams) {
    for (i, device) in params.virtio_mmio.iter().enumerate() {
        sb.device(&format!("V{:03X}", i & 0xfff), |dev| {
            dev.name("_HID", Value::String("LNRO0005"));
            dev.name("_UID", Value::Integer(i as u64));
            dev.name("_CCA", Value::Integer(1));
            dev.crs(
                Resources::default()
                    .memory_32(device.base, device.size)
                    .interrupt(device.gsi, Trigger::LevelHigh),
            );
        });
    }
}
