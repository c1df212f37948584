//! The description of one machine: everything its board and its processors are built from, and
//! nothing about the host. Saved with a snapshot; restoring builds the same board again.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// Smallest machine, in bytes: what the boot protocols need.
pub const MIN_MEMORY: u64 = 2 << 20;
/// Half of the 40-bit physical address space, less the hole below 4 GiB; the rest is for devices.
pub const MAX_MEMORY: u64 = (1 << 39) - (1 << 30);
/// Most processors of one machine.
pub const MAX_CPUS: u32 = 64;
/// Most disks of one machine: PCI device numbers and micro slots set the bound.
pub const MAX_DISKS: usize = 16;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

/// Which variant of the board is built.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub enum BoardKind {
    /// The PC-compatible board with PCI.
    #[default]
    Pc,
    /// What a direct-booted Linux needs: virtio-mmio, no PCI.
    Micro,
}

/// How writes to a disk are treated.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub enum DiskMode {
    /// They go to the file.
    #[default]
    Write,
    /// They are refused.
    ReadOnly,
    /// They are kept in memory and forgotten at the end.
    Cow,
}

/// One disk.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DiskSpec {
    /// Path on the host.
    pub path: String,
    /// What happens to writes.
    pub mode: DiskMode,
}

/// Where machine time comes from.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub enum ClockKind {
    /// The host's monotonic clock.
    #[default]
    Host,
    /// The instructions retired: so many nanoseconds per 1000 of them.
    Instructions(u32),
}

/// One machine.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MachineSpec {
    /// RAM in bytes, a multiple of 4096, counted from address 0 with the holes of the first
    /// megabyte.
    pub memory: u64,
    /// Processors, 1 to [`MAX_CPUS`].
    pub cpus: u32,
    /// Name of the CPU model.
    pub cpu_model: String,
    /// Ticks of the guest's TSC per second: [`crate::clock::TSC_HZ`], unless the machine was built
    /// for a host whose TSC cannot be scaled.
    pub tsc_hz: u64,
    /// Board variant.
    pub board: BoardKind,
    /// Disks in the order the guest sees them.
    pub disks: Vec<DiskSpec>,
    /// The kernel's path or name, for messages.
    pub kernel: String,
    /// Initial RAM disk or modules, in order.
    pub initrd: Vec<String>,
    /// Kernel command line.
    pub append: String,
    /// The clock.
    pub clock: ClockKind,
}

impl Default for MachineSpec {
    fn default() -> Self {
        MachineSpec {
            memory: 512 * MIB,
            cpus: 1,
            cpu_model: "x86-64-v2".to_string(),
            tsc_hz: crate::clock::TSC_HZ,
            board: BoardKind::Pc,
            disks: Vec::new(),
            kernel: String::new(),
            initrd: Vec::new(),
            append: String::new(),
            clock: ClockKind::Host,
        }
    }
}

/// A field of the specification that cannot be, and the way out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SpecError {
    /// The field, as the user writes it: `memory`.
    pub field: &'static str,
    /// What is wrong.
    pub problem: String,
    /// What would be right.
    pub hint: String,
}

impl SpecError {
    fn new(field: &'static str, problem: impl Into<String>, hint: impl Into<String>) -> Self {
        SpecError {
            field,
            problem: problem.into(),
            hint: hint.into(),
        }
    }
}

impl core::fmt::Display for SpecError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}: {}; {}", self.field, self.problem, self.hint)
    }
}

impl core::error::Error for SpecError {}

/// Reads a size: a number with K, M, G or T (binary multiples; `MB`, `MiB` likewise), or a bare
/// number of mebibytes.
pub fn parse_size(text: &str) -> Result<u64, SpecError> {
    let hint = "write a size such as 512M or 2G (a bare number counts MiB)";
    let bad = |why: &str| Err(SpecError::new("memory", format!("{text:?} {why}"), hint));
    let text_trimmed = text.trim();
    let digits = text_trimmed
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text_trimmed.len());
    let (number, suffix) = text_trimmed.split_at(digits);
    if number.is_empty() {
        return bad("is not a size");
    }
    let unit = match suffix.to_ascii_uppercase().as_str() {
        "" | "M" | "MB" | "MIB" => MIB,
        "K" | "KB" | "KIB" => KIB,
        "G" | "GB" | "GIB" => GIB,
        "T" | "TB" | "TIB" => TIB,
        "B" => 1,
        _ => return bad("is not a size"),
    };
    match number.parse::<u64>().ok().and_then(|n| n.checked_mul(unit)) {
        Some(bytes) => Ok(bytes),
        None => bad("does not fit 64 bits"),
    }
}

/// A size for people: `512 MiB`.
pub fn show_size(bytes: u64) -> String {
    for (unit, name) in [(TIB, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")] {
        if bytes >= unit && bytes.is_multiple_of(unit) {
            return format!("{} {name}", bytes / unit);
        }
    }
    if bytes >= MIB {
        return format!("{} MiB", bytes / MIB);
    }
    format!("{bytes} bytes")
}

impl MachineSpec {
    /// Checks every field. `host_memory` is what the host can give a guest at most, in bytes, if
    /// it is known.
    pub fn validate(&self, host_memory: Option<u64>) -> Result<(), SpecError> {
        let size = show_size(self.memory);
        let memory = |problem, hint| Err(SpecError::new("memory", problem, hint));
        if self.memory < MIN_MEMORY {
            return memory(
                format!("{size} is too small for a machine"),
                format!("give at least {}", show_size(MIN_MEMORY)),
            );
        }
        if self.memory > MAX_MEMORY {
            return memory(
                format!("{size} is more than a processor can address"),
                format!("give at most {}", show_size(MAX_MEMORY)),
            );
        }
        if !self.memory.is_multiple_of(mem::PAGE_SIZE) {
            return memory(
                format!("{} bytes is not a multiple of 4 KiB", self.memory),
                "round it to whole pages".to_string(),
            );
        }
        if let Some(host) = host_memory.filter(|host| self.memory > *host) {
            return memory(
                format!("{size} is more than this host has"),
                format!("give at most {}", show_size(host / MIB * MIB)),
            );
        }
        if self.cpus == 0 || self.cpus > MAX_CPUS {
            return Err(SpecError::new(
                "cpus",
                format!("a machine cannot have {}", self.cpus),
                format!("give 1 to {MAX_CPUS}"),
            ));
        }
        if self.disks.len() > MAX_DISKS {
            return Err(SpecError::new(
                "disk",
                format!("{} disks do not fit the board", self.disks.len()),
                format!("give at most {MAX_DISKS}"),
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_their_units_and_nonsense_is_refused() {
        for (text, bytes) in [
            ("512", 512 * MIB),
            ("1G", GIB),
            ("64k", 64 * KIB),
            ("2GiB", 2 * GIB),
            ("4096B", 4096),
            ("0", 0),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "G", "-1", "1.5G", "12Q", "99999999999999999999", "0x10"] {
            let error = parse_size(text).unwrap_err();
            assert_eq!(error.field, "memory");
            assert!(error.to_string().contains("512M"), "{error}");
        }
    }

    #[test]
    fn an_impossible_machine_is_refused_with_the_field_and_the_way_out() {
        let check = |change: fn(&mut MachineSpec), words: &[&str]| {
            let mut spec = MachineSpec::default();
            change(&mut spec);
            let error = spec.validate(Some(8 * GIB)).unwrap_err().to_string();
            for word in words {
                assert!(error.contains(word), "{error} lacks {word}");
            }
        };
        check(|s| s.memory = 0, &["memory: ", "at least 2 MiB"]);
        check(|s| s.memory = 1 << 50, &["memory: ", "at most 511 GiB"]);
        check(|s| s.memory = 9 * GIB, &["this host", "at most 8 GiB"]);
        check(|s| s.memory = 8 * MIB + 1, &["4 KiB"]);
        check(|s| s.cpus = 0, &["cpus: ", "1 to 64"]);
        check(|s| s.cpus = 65, &["cpus: ", "1 to 64"]);
        MachineSpec::default().validate(None).unwrap();
    }
}
