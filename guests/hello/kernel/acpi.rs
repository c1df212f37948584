//! The little of ACPI that switching off and resetting needs (ACPI 6.4, "ACPI Software Programming Model"):
//! RSDP, then RSDT or XSDT, then FADT, and the `_S5_` object of the DSDT, found by its name instead of by an
//! AML interpreter.

use crate::cpu::{in8, in16, out8, out16};
use crate::paging::{DIRECT_MAP_END, read_physical, write_physical};

const SLEEP_ENABLE: u16 = 1 << 13;
const SCI_ENABLE: u16 = 1;

/// How to end it all.
#[derive(Default)]
pub struct Power {
    pm1a: u16,
    pm1b: u16,
    sleep_type: (u8, u8),
    smi_command: u16,
    acpi_enable: u8,
    sleep_control: Option<Register>,
    reset: Option<(Register, u8)>,
}

/// A generic address structure: memory (0) or port (1).
#[derive(Clone, Copy)]
struct Register {
    is_port: bool,
    address: u64,
}

impl Register {
    fn read(gas: u64) -> Option<Register> {
        let (space, address): (u8, u64) = (read_physical(gas), read_physical(gas + 4));
        (address != 0 && space < 2 && address < DIRECT_MAP_END - 8).then_some(Register {
            is_port: space == 1,
            address,
        })
    }

    fn write(self, value: u8) {
        // SAFETY: the firmware named this register for this purpose.
        unsafe {
            match self.is_port {
                true => out8(self.address as u16, value),
                false => write_physical(self.address, value.into()),
            }
        }
    }
}

/// The places where a PC's firmware leaves the root pointer: the EBDA's first KiB and the BIOS area.
pub fn search_rsdp() -> Option<u64> {
    let ebda = u64::from(read_physical::<u16>(0x40e)) << 4;
    let ebda = if (0x8_0000..0xa_0000).contains(&ebda) {
        ebda
    } else {
        0x9_fc00
    };
    (ebda..ebda + 1024)
        .step_by(16)
        .chain((0xe_0000..0x10_0000).step_by(16))
        .find(|&at| is_rsdp(at))
}

fn is_rsdp(at: u64) -> bool {
    read_physical::<u64>(at) == u64::from_le_bytes(*b"RSD PTR ")
        && (0..20).fold(0u8, |sum, n| sum.wrapping_add(read_physical(at + n))) == 0
}

fn readable(table: u64) -> bool {
    table != 0 && table < DIRECT_MAP_END - 0x10_0000
}

fn find_table(rsdp: u64, signature: &[u8; 4]) -> Option<u64> {
    let revision: u8 = read_physical(rsdp + 15);
    let xsdt: u64 = if revision >= 2 {
        read_physical(rsdp + 24)
    } else {
        0
    };
    let (root, entry_size) = if readable(xsdt) {
        (xsdt, 8)
    } else {
        (read_physical::<u32>(rsdp + 16).into(), 4)
    };
    if !readable(root) {
        return None;
    }
    let len = u64::from(read_physical::<u32>(root + 4)).min(0x1_0000);
    (36..len)
        .step_by(entry_size)
        .map(|at| match entry_size {
            8 => read_physical::<u64>(root + at),
            _ => read_physical::<u32>(root + at).into(),
        })
        .find(|&table| {
            readable(table) && read_physical::<u32>(table) == u32::from_le_bytes(*signature)
        })
}

impl Power {
    /// Reads the tables, if there are any.
    pub fn find(rsdp: u64) -> Option<Power> {
        if !readable(rsdp) || !is_rsdp(rsdp) {
            return None;
        }
        let fadt = find_table(rsdp, b"FACP")?;
        let len: u32 = read_physical(fadt + 4);
        let flags: u32 = read_physical(fadt + 112);
        let mut power = Power {
            smi_command: read_physical::<u32>(fadt + 48) as u16,
            acpi_enable: read_physical(fadt + 52),
            pm1a: read_physical::<u32>(fadt + 64) as u16,
            pm1b: read_physical::<u32>(fadt + 68) as u16,
            ..Power::default()
        };
        if len >= 129 && flags & 1 << 10 != 0 {
            power.reset =
                Register::read(fadt + 116).map(|register| (register, read_physical(fadt + 128)));
        }
        if len >= 256 && flags & 1 << 20 != 0 {
            power.sleep_control = Register::read(fadt + 244); // hardware-reduced ACPI
        }
        power.sleep_type = find_s5(read_physical::<u32>(fadt + 40).into())?;
        Some(power)
    }

    /// Enters S5. Returns if the machine did not.
    pub fn off(&self) {
        if let Some(register) = self.sleep_control {
            register.write(self.sleep_type.0 << 2 | 1 << 5);
        }
        // SAFETY: the registers that the firmware named, used as ACPI says ("Transitioning to the G2/S5 state").
        unsafe {
            if self.pm1a == 0 {
                return;
            }
            if self.smi_command != 0 && self.acpi_enable != 0 && in16(self.pm1a) & SCI_ENABLE == 0 {
                out8(self.smi_command, self.acpi_enable);
                (0..10_000).find(|_| in16(self.pm1a) & SCI_ENABLE != 0);
            }
            out16(self.pm1a, u16::from(self.sleep_type.0) << 10 | SLEEP_ENABLE);
            if self.pm1b != 0 {
                out16(self.pm1b, u16::from(self.sleep_type.1) << 10 | SLEEP_ENABLE);
            }
        }
    }

    /// Uses the reset register. Returns if there is none.
    pub fn reset(&self) {
        if let Some((register, value)) = self.reset {
            register.write(value);
        }
    }
}

/// `Name (_S5, Package { SLP_TYPa, SLP_TYPb, … })` as AML bytes: `_S5_`, PackageOp 0x12, length, count, values.
fn find_s5(dsdt: u64) -> Option<(u8, u8)> {
    if !readable(dsdt) {
        return None;
    }
    let end = dsdt + u64::from(read_physical::<u32>(dsdt + 4)).min(0xf_0000);
    let name = (dsdt + 36..end).find(|&at| {
        read_physical::<u32>(at) == u32::from_le_bytes(*b"_S5_")
            && read_physical::<u8>(at + 4) == 0x12
    })?;
    let length_bytes = 1 + u64::from(read_physical::<u8>(name + 5) >> 6);
    let (first, at) = aml_byte(name + 5 + length_bytes + 1);
    Some((first, aml_byte(at).0))
}

fn aml_byte(at: u64) -> (u8, u64) {
    match read_physical::<u8>(at) {
        0x0a => (read_physical(at + 1), at + 2), // BytePrefix
        small @ 0..=1 => (small, at + 1),        // ZeroOp, OneOp
        _ => (0, at + 1),
    }
}

/// Off, by every means there is: ACPI, the port QEMU and Moinho use for it, QEMU's debug exit.
pub fn power_off(power: Option<&Power>) {
    if let Some(power) = power {
        power.off();
        patience();
    }
    // SAFETY: the machine is meant to stop.
    unsafe {
        out16(0x604, SLEEP_ENABLE); // PM1a_CNT of QEMU's and Moinho's boards, sleep type 0
        patience();
        out8(0xf4, 0x10); // isa-debug-exit
    }
}

/// A machine may take a moment to obey, and must not see the next means in between.
fn patience() {
    for _ in 0..200_000 {
        // SAFETY: reading the system control port has no effect.
        unsafe { in8(0x61) };
    }
}

/// Reset, by every means there is: ACPI, the chipset's reset port, the keyboard controller, a triple fault.
pub fn reset(power: Option<&Power>) -> ! {
    if let Some(power) = power {
        power.reset();
        patience();
    }
    // SAFETY: the machine is meant to start again.
    unsafe {
        out8(0xcf9, 0x02);
        out8(0xcf9, 0x06);
        (0..1000).find(|_| in8(0x64) & 2 == 0);
        out8(0x64, 0xfe);
    }
    crate::trap::triple_fault()
}
