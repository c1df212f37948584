//! The ACPI tables of the board (ACPI 6.5, chapter 5 "ACPI Software Programming Model"; IA-PC
//! HPET 1.0a; PCI Firmware 3.3 for MCFG): which processors, interrupt controllers, timers and
//! non-enumerable devices there are, and how to switch off and reset.
//!
//! [`build`] writes everything into 0xE0000..0x100000, which E820 calls reserved: the RSDP first
//! (there old operating systems look for it), then the rest, each on 64 bytes. Nothing else of
//! low memory is used. The area must be RAM or ROM.
//!
//! | register block | ports | |
//! |---|---|---|
//! | PM1a event | 0x600, 4 bytes | status, enable |
//! | PM1a control | 0x604, 2 bytes | SCI_EN is always set: SMI_CMD is 0, there is no legacy mode |
//! | PM timer | 0x608, 4 bytes | 24 bits promised |
//! | GPE0 | given (0x620), 16 bytes | eight of status, eight of enable; absent unless given |
//! | reset | 0xCF9 | write 0x06 |
//!
//! These are the registers of the device `acpi_pm`, which must start with SCI_EN set.
//!
//! SCI is GSI 9, level, active low. S5 is SLP_TYP [`S5_SLEEP_TYPE`]. The power button is the
//! fixed one of PM1, so there is no PNP0C0C device (ACPI 4.8.2.2.1.1). INTx pin `p` of PCI
//! device `d` is GSI 16 + (d + p + 3) % 4, level, active low ([`intx_gsi`]).
//!
//! Not there: SMBIOS, MP tables, SRAT, interrupt links (`_PIC`: the 8259s get no INTx).

pub mod aml;
mod dsdt;
#[cfg(test)]
mod tests;

use alloc::vec::Vec;
use mem::{Gpa, GuestMemory, OutOfRam};

/// Where the tables begin, with the RSDP.
pub const TABLES_BASE: u32 = 0xe_0000;
/// Where they must end.
pub const TABLES_END: u32 = 0x10_0000;
/// PM1a event block.
pub const PM1A_EVT: u16 = 0x600;
/// PM1a control block.
pub const PM1A_CNT: u16 = 0x604;
/// PM timer.
pub const PM_TMR: u16 = 0x608;
/// The SCI's GSI.
pub const SCI_GSI: u8 = 9;
/// SLP_TYP that switches the machine off: 0 as in QEMU, so that the `outw(0x604, 0x2000)` which
pub use devices::acpi_pm::S5_SLEEP_TYPE;
/// Reset register and its value.
pub const RESET_REG: (u16, u8) = (0xcf9, 0x06);
/// The IOAPIC, with 24 pins from GSI 0.
pub const IOAPIC_BASE: u32 = 0xfec0_0000;
/// The HPET.
pub const HPET_BASE: u32 = 0xfed0_0000;
/// Eight bytes of status and eight of enable, as `acpi_pm` has them.
const GPE0_LEN: u8 = 16;
const LAPIC_BASE: u32 = 0xfee0_0000;
const PCI_GSI_BASE: u32 = 16;
const PCI_GSIS: u32 = 4;

/// The GSI of INTx `pin` (0 is INTA) of PCI device `device`, as the `_PRT` says.
pub fn intx_gsi(device: u8, pin: u8) -> u32 {
    PCI_GSI_BASE + (u32::from(device & 31) + u32::from(pin & 3) + 3) % PCI_GSIS
}

/// A 16550 UART.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Uart {
    /// First of its eight ports.
    pub port: u16,
    /// Its ISA interrupt.
    pub irq: u8,
}

/// A virtio device with memory-mapped registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VirtioMmio {
    /// First register.
    pub base: u32,
    /// Bytes of registers.
    pub size: u32,
    /// Interrupt, level, active high.
    pub gsi: u32,
}

/// The PCI host bridge.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PciParams {
    /// Configuration space as memory, if there is any; 1 MiB per bus.
    pub ecam: Option<u32>,
    /// The highest bus number.
    pub last_bus: u8,
    /// Address ranges for BARs below 4 GiB: first and last byte.
    pub windows_32: Vec<(u32, u32)>,
    /// The address range for BARs above 4 GiB: first and last byte.
    pub window_64: Option<(u64, u64)>,
}

/// What the tables describe.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AcpiParams {
    /// The APIC ids of the processors; a processor's ACPI uid is its place here.
    pub apic_ids: Vec<u32>,
    /// The PCI host bridge, if there is one.
    pub pci: Option<PciParams>,
    /// virtio-mmio devices.
    pub virtio_mmio: Vec<VirtioMmio>,
    /// COM1 and so on, at most four.
    pub uarts: Vec<Uart>,
    /// Keyboard and mouse.
    pub i8042: bool,
    /// The CMOS clock.
    pub rtc: bool,
    /// The 8254.
    pub pit: bool,
    /// The HPET.
    pub hpet: bool,
    /// A VGA adapter.
    pub vga: bool,
    /// First port of the GPE0 block, 16 bytes, if there is one (`acpi_pm` has it at 0x620).
    pub gpe0: Option<u16>,
}

/// Why there are no tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AcpiError {
    /// More processors or devices than there is room or are names for.
    #[error("acpi: {size} bytes of tables, 0x20000 fit; give fewer processors or devices")]
    TooLarge {
        /// What the tables need.
        size: usize,
    },
    /// The board has neither RAM nor ROM there.
    #[error("acpi: {0}; the board must place RAM or ROM at 0xE0000..0x100000")]
    NoMemory(OutOfRam),
    /// A range ends before it begins.
    #[error("acpi: the window {first:#x}..={last:#x} is empty; give first and last byte")]
    EmptyWindow {
        /// First byte.
        first: u64,
        /// Last byte.
        last: u64,
    },
}

/// Writes the tables. Returns the address of the RSDP.
pub fn build(params: &AcpiParams, memory: &GuestMemory) -> Result<u64, AcpiError> {
    let bytes = tables(params)?;
    memory
        .load_image(Gpa(u64::from(TABLES_BASE)), &bytes)
        .map_err(AcpiError::NoMemory)?;
    Ok(u64::from(TABLES_BASE))
}

/// The tables as they stand at [`TABLES_BASE`].
pub fn tables(params: &AcpiParams) -> Result<Vec<u8>, AcpiError> {
    check(params)?;
    let mut area = Area { bytes: Vec::new() };
    area.add(&[0; 36]); // the RSDP, written last
    let facs = area.add(&facs());
    let dsdt = area.add(&table(b"DSDT", 2, &dsdt::dsdt(params)));
    let mut listed = Vec::new();
    listed.push(area.add(&fadt(params, facs, dsdt)));
    listed.push(area.add(&madt(params)));
    if params.hpet {
        listed.push(area.add(&hpet()));
    }
    if let Some((ecam, last_bus)) = params
        .pci
        .as_ref()
        .and_then(|pci| pci.ecam.map(|ecam| (ecam, pci.last_bus)))
    {
        listed.push(area.add(&mcfg(ecam, last_bus)));
    }
    let short: Vec<u8> = listed.iter().flat_map(|at| at.to_le_bytes()).collect();
    let long: Vec<u8> = listed
        .iter()
        .flat_map(|&at| u64::from(at).to_le_bytes())
        .collect();
    let rsdt = area.add(&table(b"RSDT", 1, &short));
    let xsdt = area.add(&table(b"XSDT", 1, &long));
    area.bytes[..36].copy_from_slice(&rsdp(rsdt, xsdt));
    if area.bytes.len() > (TABLES_END - TABLES_BASE) as usize {
        return Err(AcpiError::TooLarge {
            size: area.bytes.len(),
        });
    }
    Ok(area.bytes)
}

/// What the builders below rely on.
fn check(params: &AcpiParams) -> Result<(), AcpiError> {
    // Names are C and V with three hex digits.
    let most = params.apic_ids.len().max(params.virtio_mmio.len());
    if most > 0x1000 {
        return Err(AcpiError::TooLarge { size: most * 32 });
    }
    let Some(pci) = &params.pci else {
        return Ok(());
    };
    let windows = pci.windows_32.iter().map(|&(a, b)| (a.into(), b.into()));
    match windows.chain(pci.window_64).find(|(a, b)| a > b) {
        Some((first, last)) => Err(AcpiError::EmptyWindow { first, last }),
        None => Ok(()),
    }
}

/// The tables one after another.
struct Area {
    bytes: Vec<u8>,
}

impl Area {
    /// Adds a table on the next 64 bytes (the FACS asks for it). Returns its address.
    fn add(&mut self, table: &[u8]) -> u32 {
        let at = self.bytes.len().next_multiple_of(64);
        self.bytes.resize(at, 0);
        self.bytes.extend_from_slice(table);
        // At most some MiB (`check`), refused by `tables` if more than the area.
        TABLES_BASE + at as u32
    }
}

/// A table with the common header (5.2.6 "System Description Table Header").
fn table(signature: &[u8; 4], revision: u8, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(36 + body.len());
    out.extend_from_slice(signature);
    out.extend_from_slice(&(36 + body.len() as u32).to_le_bytes());
    out.extend_from_slice(&[revision, 0]); // checksum at 9
    out.extend_from_slice(b"MOINHOMOINHOPC");
    out.extend_from_slice(&1u32.to_le_bytes());
    out.extend_from_slice(b"MNHO");
    out.extend_from_slice(&1u32.to_le_bytes());
    out.extend_from_slice(body);
    out[9] = checksum(&out);
    out
}

/// The byte that makes the sum zero.
fn checksum(bytes: &[u8]) -> u8 {
    bytes
        .iter()
        .fold(0u8, |sum, &b| sum.wrapping_add(b))
        .wrapping_neg()
}

/// 5.2.5.3 "Root System Description Pointer (RSDP) Structure".
fn rsdp(rsdt: u32, xsdt: u32) -> [u8; 36] {
    let mut out = [0; 36];
    out[..8].copy_from_slice(b"RSD PTR ");
    out[9..15].copy_from_slice(b"MOINHO");
    out[15] = 2;
    out[16..20].copy_from_slice(&rsdt.to_le_bytes());
    out[20..24].copy_from_slice(&36u32.to_le_bytes());
    out[24..32].copy_from_slice(&u64::from(xsdt).to_le_bytes());
    out[8] = checksum(&out[..20]);
    out[32] = checksum(&out);
    out
}

/// 5.2.10 "Firmware ACPI Control Structure (FACS)": nothing in it, but it must be there.
fn facs() -> [u8; 64] {
    let mut out = [0; 64];
    out[..4].copy_from_slice(b"FACS");
    out[4..8].copy_from_slice(&64u32.to_le_bytes());
    out[32] = 2;
    out
}

/// A generic address in I/O space (5.2.3.2): `size` bytes, accessed `access` bytes at a time.
fn io_address(port: u16, size: u8, access: u8) -> [u8; 12] {
    let mut out = [0; 12];
    let access_size = access.trailing_zeros() as u8 + 1;
    out[..4].copy_from_slice(&[1, size * 8, 0, access_size]);
    out[4..6].copy_from_slice(&port.to_le_bytes());
    out
}

/// 5.2.9 "Fixed ACPI Description Table (FADT)", revision 6, with ACPI hardware.
fn fadt(params: &AcpiParams, facs: u32, dsdt: u32) -> Vec<u8> {
    const WBINVD: u32 = 1 << 0;
    const PROC_C1: u32 = 1 << 2;
    /// No sleep button in PM1; the power button (bit 4 clear) is there.
    const SLP_BUTTON: u32 = 1 << 5;
    /// The clock's alarm has no bit in PM1.
    const FIX_RTC: u32 = 1 << 6;
    const RESET_REG_SUP: u32 = 1 << 10;
    let mut out = [0u8; 276];
    let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
    let port = |p: u16| u32::from(p).to_le_bytes();
    put(36, &facs.to_le_bytes());
    put(40, &dsdt.to_le_bytes());
    put(45, &[1]); // Preferred_PM_Profile: desktop
    put(46, &[SCI_GSI, 0]);
    // 48: SMI_CMD, ACPI_ENABLE, ACPI_DISABLE, S4BIOS_REQ, PSTATE_CNT are 0: always ACPI.
    put(56, &port(PM1A_EVT));
    put(64, &port(PM1A_CNT));
    put(76, &port(PM_TMR));
    put(88, &[4, 2, 0, 4]); // lengths of PM1_EVT, PM1_CNT, PM2_CNT, PM_TMR
    put(96, &0xfffu16.to_le_bytes()); // P_LVL2_LAT: no C2
    put(98, &0xfffu16.to_le_bytes()); // P_LVL3_LAT: no C3
    if params.rtc {
        put(108, &[0x32]); // CENTURY
    }
    let boot_flags = u16::from(!params.uarts.is_empty() || params.i8042)
        | u16::from(params.i8042) << 1
        | u16::from(!params.vga) << 2
        | u16::from(!params.rtc) << 5;
    put(109, &boot_flags.to_le_bytes());
    let flags = WBINVD | PROC_C1 | SLP_BUTTON | FIX_RTC | RESET_REG_SUP;
    put(112, &flags.to_le_bytes());
    put(116, &io_address(RESET_REG.0, 1, 1));
    put(128, &[RESET_REG.1]);
    put(131, &[5]); // minor version: 6.5
    // X_FIRMWARE_CTRL stays 0: the 32-bit field has it, and only one may.
    put(140, &u64::from(dsdt).to_le_bytes());
    put(148, &io_address(PM1A_EVT, 4, 2));
    put(172, &io_address(PM1A_CNT, 2, 2));
    put(208, &io_address(PM_TMR, 4, 4));
    if let Some(gpe0) = params.gpe0 {
        put(80, &port(gpe0));
        put(92, &[GPE0_LEN]);
        put(220, &io_address(gpe0, GPE0_LEN, 1));
    }
    put(268, b"MOINHO\0\0");
    table(b"FACP", 6, &out[36..])
}

/// 5.2.12 "Multiple APIC Description Table (MADT)".
fn madt(params: &AcpiParams) -> Vec<u8> {
    const PCAT_COMPAT: u32 = 1;
    const ENABLED: u32 = 1;
    let mut out = Vec::new();
    out.extend_from_slice(&LAPIC_BASE.to_le_bytes());
    out.extend_from_slice(&PCAT_COMPAT.to_le_bytes());
    for (uid, &id) in (0u32..).zip(&params.apic_ids) {
        // A local APIC structure has 8 bits for each number, 255 meaning all; others take the
        // x2APIC structure.
        if id < 255 && uid < 255 {
            out.extend_from_slice(&[0, 8, uid as u8, id as u8]);
            out.extend_from_slice(&ENABLED.to_le_bytes());
        } else {
            out.extend_from_slice(&[9, 16, 0, 0]);
            for value in [id, ENABLED, uid] {
                out.extend_from_slice(&value.to_le_bytes());
            }
        }
    }
    // I/O APIC 0, from GSI 0.
    out.extend_from_slice(&[1, 12, 0, 0]);
    out.extend_from_slice(&IOAPIC_BASE.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    // Interrupt source overrides: the PIT's IRQ 0 is GSI 2; the SCI is level, active low.
    out.extend_from_slice(&[2, 10, 0, 0, 2, 0, 0, 0, 0, 0]);
    out.extend_from_slice(&[2, 10, 0, 9, SCI_GSI, 0, 0, 0, 0x0f, 0]);
    // LINT1 of every processor is NMI.
    out.extend_from_slice(&[4, 6, 0xff, 0, 0, 1]);
    table(b"APIC", 5, &out)
}

/// IA-PC HPET 3.2.4 "The ACPI 2.0 HPET Description Table": three comparators, 64 bits, legacy
/// replacement.
fn hpet() -> Vec<u8> {
    let mut out = Vec::new();
    out.extend_from_slice(&0x8086_a201u32.to_le_bytes());
    out.extend_from_slice(&[0, 64, 0, 0]);
    out.extend_from_slice(&u64::from(HPET_BASE).to_le_bytes());
    out.extend_from_slice(&[0; 4]); // number, minimum tick, no page protection
    table(b"HPET", 1, &out)
}

/// PCI Firmware 4.1.2 "MCFG Table Description".
fn mcfg(ecam: u32, last_bus: u8) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(&u64::from(ecam).to_le_bytes());
    out.extend_from_slice(&[0, 0, 0, last_bus, 0, 0, 0, 0]);
    table(b"MCFG", 1, &out)
}
