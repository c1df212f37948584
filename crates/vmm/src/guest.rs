//! The guest's files: read, put into guest memory, forgotten. A reset reads them again, so that
//! the host holds them only in guest RAM.

use crate::config::{Guest, UserError};
use machine::acpi::{self, AcpiParams};
use machine::boot::{self, BootSource, MemoryLayout, Module};
use machine::entry::cpu_state;
use mem::{Gpa, GuestMemory};
use std::fs;
use std::io::Read;
use std::path::Path;
use x86::CpuState;

/// The hole of the first megabyte: VGA memory and, below 0xE0000, option ROMs.
const LEGACY: u64 = 0xa_0000;
/// From here the first megabyte is RAM again: the shadow of a firmware that is not there.
const SHADOW: u64 = 0xc_0000;
const HIGH: u64 = 1 << 32;

/// Maps and places the RAM of a machine.
pub(crate) fn memory(size: u64) -> Result<GuestMemory, UserError> {
    let layout = MemoryLayout::of(size);
    let pieces = [
        (0, LEGACY.min(layout.low)),
        (SHADOW, layout.low.saturating_sub(SHADOW)),
        (HIGH, layout.high),
    ];
    let total = pieces.iter().map(|p| p.1).sum();
    let no = |why: mem::MapError| {
        UserError::new(format_args!("--memory: {why}"), "give the machine less")
    };
    let mut memory = GuestMemory::anonymous(total).map_err(no)?;
    for (at, len) in pieces.into_iter().filter(|p| p.1 > 0) {
        memory.place(Gpa(at), len, true).map_err(no)?;
    }
    Ok(memory)
}

/// Allocations of this size are mapped by every allocator, and given back to the host when they
/// are freed; what is not touched of them costs nothing.
const MAPPED: usize = 33 << 20;

fn read_whole(path: &Path, expected: u64) -> std::io::Result<Vec<u8>> {
    let expected = usize::try_from(expected).unwrap_or(0);
    let mut bytes = Vec::with_capacity(expected.saturating_add(1).clamp(MAPPED, 1 << 30));
    fs::File::open(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn read(flag: &str, path: &Path) -> Result<Vec<u8>, UserError> {
    let what = format!("{flag} {}", path.display());
    let why = match fs::metadata(path) {
        Ok(meta) if meta.is_dir() => "is a folder".to_string(),
        // A reset reads it again, so a pipe will not do.
        Ok(meta) if !meta.is_file() => "is no regular file".to_string(),
        Ok(meta) => match read_whole(path, meta.len()) {
            Ok(bytes) => return Ok(bytes),
            Err(error) => error.to_string(),
        },
        Err(error) => error.to_string(),
    };
    Err(UserError::new(
        format_args!("{what}: {why}"),
        "give a file that can be read",
    ))
}

/// What is wrong with an initial RAM disk, as far as it shows without unpacking: a guest would
/// only panic later.
fn initrd_problem(bytes: &[u8]) -> Option<&'static str> {
    if bytes.is_empty() {
        return Some("the file is empty");
    }
    // A cpio archive in the new ASCII format (Linux, initramfs buffer format).
    let is_header = |at: usize| matches!(bytes.get(at..at + 6), Some(b"070701" | b"070702"));
    let field = |at: usize| {
        let digits = std::str::from_utf8(bytes.get(at..at + 8)?).ok()?;
        usize::from_str_radix(digits, 16).ok()
    };
    let mut at = 0;
    while is_header(at) {
        let (Some(size), Some(name_size)) = (field(at + 54), field(at + 94)) else {
            return Some("truncated: a header of its cpio archive is cut off");
        };
        let name = at + 110;
        if bytes.get(name..name + 10) == Some(b"TRAILER!!!") {
            return None;
        }
        at = ((name + name_size).next_multiple_of(4) + size).next_multiple_of(4);
    }
    // Something else, or something else behind it, is the guest's to judge.
    (at >= bytes.len()).then_some("truncated: its cpio archive has no end")
}

fn read_initrd(path: &Path) -> Result<Vec<u8>, UserError> {
    let bytes = read("--initrd", path)?;
    match initrd_problem(&bytes) {
        None => Ok(bytes),
        Some(problem) => Err(UserError::new(
            format_args!("--initrd {}: {problem}", path.display()),
            "is the download complete?",
        )),
    }
}

/// Loads the guest and its ACPI tables; the result is the state of the first processor.
pub(crate) fn load(
    guest: &Guest,
    acpi: &AcpiParams,
    memory: &GuestMemory,
    memory_size: u64,
    signature: u32,
) -> Result<CpuState, UserError> {
    let rsdp = acpi::build(acpi, memory).map_err(|e| UserError(e.to_string()))?;
    let layout = MemoryLayout::of(memory_size);
    let load = |name: &str, source: &BootSource<'_>| {
        let entry = boot::load(source, memory, &layout, Some(rsdp))
            .map_err(|e| UserError(crate::config::one_line(&format!("{name}: {e}"))))?;
        Ok(cpu_state(&entry.state, signature))
    };
    match guest {
        Guest::BuiltIn => load(
            "the built-in guest",
            &BootSource {
                kernel: guests::BUILT_IN,
                modules: &[],
                command_line: "",
            },
        ),
        Guest::Files {
            kernel,
            initrd,
            append,
        } => {
            let image = read("--kernel", kernel)?;
            let files: Vec<Vec<u8>> = initrd
                .iter()
                .map(|path| read_initrd(path))
                .collect::<Result<_, _>>()?;
            let names: Vec<String> = initrd.iter().map(|p| p.display().to_string()).collect();
            let modules: Vec<Module<'_>> = files
                .iter()
                .zip(&names)
                .map(|(data, command_line)| Module { data, command_line })
                .collect();
            load(
                &format!("--kernel {}", kernel.display()),
                &BootSource {
                    kernel: &image,
                    modules: &modules,
                    command_line: append,
                },
            )
        }
    }
}
