//! Multiboot 1 ("Multiboot Specification", version 0.6.96): the header in the first 8 KiB, an
//! ELF image or the header's own address fields.
//!
//! The command line's first word is `kernel`, as the name of the image is under GRUB legacy and
//! QEMU: kernels skip it. Given: memory sizes, memory map, command line, modules (always on
//! pages), name of the boot loader. A wish for a video mode is ignored, which the specification
//! allows: the kernel sees it in the flags. No symbols, drives, ROM configuration, APM.

use super::elf::Elf;
use super::{BootError, Entry, Fields, Loading, Mode, Protocol, START_INFO, START_INFO_SIZE};
use alloc::format;
use alloc::vec::Vec;

const HEADER_MAGIC: u32 = 0x1bad_b002;
const LOADER_MAGIC: u32 = 0x2bad_b002;
/// The header is wholly inside this many bytes.
const SEARCH: usize = 8192;
/// Bits 0 to 15 are demands: page-aligned modules, memory information, video mode; the rest of
/// them is unknown.
const UNKNOWN_DEMANDS: u32 = 0xfff8;
const HAS_ADDRESSES: u32 = 1 << 16;
const LOADER_NAME: &[u8] = b"moinho\0";

/// Flags of the information: memory, command line, modules, memory map, loader name.
const INFO_FLAGS: u32 = 1 << 0 | 1 << 2 | 1 << 3 | 1 << 6 | 1 << 9;
/// Up to and with the VBE fields.
const INFO_SIZE: u64 = 88;

/// Where the header is, and its flags.
#[derive(Clone, Copy)]
pub(super) struct Header {
    at: usize,
    flags: u32,
}

impl Header {
    /// The image says itself where it goes (the a.out kludge).
    pub fn has_addresses(&self) -> bool {
        self.flags & HAS_ADDRESSES != 0
    }
}

/// Looks for a header: magic, flags and checksum, on a multiple of 4.
pub(super) fn find_header(file: &[u8]) -> Option<Header> {
    let bytes = Fields(&file[..file.len().min(SEARCH)]);
    (0..SEARCH).step_by(4).find_map(|at| {
        let (magic, flags, checksum) = (bytes.u32(at)?, bytes.u32(at + 4)?, bytes.u32(at + 8)?);
        let sum = magic.wrapping_add(flags).wrapping_add(checksum);
        (magic == HEADER_MAGIC && sum == 0).then_some(Header { at, flags })
    })
}

/// Loads the image with `header`.
pub(super) fn load(cx: &Loading<'_>, header: Header) -> Result<Entry, BootError> {
    if header.flags & UNKNOWN_DEMANDS != 0 {
        return Err(BootError::NotBootable {
            seems: format!(
                "a multiboot kernel that demands {:#x} in its flags",
                header.flags & UNKNOWN_DEMANDS
            ),
            way_out: "multiboot 1 defines bits 0 to 2 only: build it for that",
        });
    }
    let (entry, end) = if header.has_addresses() {
        load_by_addresses(cx, header)?
    } else {
        let elf = Elf::parse(cx.source.kernel)?.ok_or(BootError::NotBootable {
            seems: "a multiboot kernel that is neither ELF nor has address fields".into(),
            way_out: "link it as ELF, or set bit 16 of the header's flags",
        })?;
        let end = elf.load(cx)?;
        (elf.physical_entry(elf.entry)?, end)
    };
    if entry >> 32 != 0 {
        return Err(BootError::Invalid {
            field: "entry point",
            why: format!("{entry:#x} is above 4 GiB"),
        });
    }
    put_information(cx, end)?;
    let mut state = cx.state(Mode::Protected32, entry)?;
    state.rax = u64::from(LOADER_MAGIC);
    state.rbx = START_INFO;
    Ok(Entry {
        protocol: Protocol::Multiboot1,
        state,
    })
}

/// Loads by the header's address fields. Returns the entry point and the end of the image.
fn load_by_addresses(cx: &Loading<'_>, header: Header) -> Result<(u64, u64), BootError> {
    let file = cx.source.kernel;
    let has = file.len() as u64;
    let field = |i: usize| {
        Fields(file)
            .u32(header.at + 12 + i * 4)
            .map(u64::from)
            .ok_or(BootError::Truncated {
                what: "multiboot header".into(),
                needs: header.at as u64 + 32,
                has,
            })
    };
    let (header_addr, load_addr, load_end, bss_end, entry) =
        (field(0)?, field(1)?, field(2)?, field(3)?, field(4)?);
    let invalid =
        |field: &'static str, why: alloc::string::String| BootError::Invalid { field, why };
    // The header is at header_addr in memory, so load_addr is that much before it in the file.
    let start = header_addr
        .checked_sub(load_addr)
        .and_then(|before| (header.at as u64).checked_sub(before))
        .ok_or_else(|| {
            invalid(
                "load_addr",
                format!("{load_addr:#x} is before the file or after header_addr {header_addr:#x}"),
            )
        })?;
    let load_end = match load_end {
        0 => load_addr + (has - start),
        end => end,
    };
    let size = load_end.checked_sub(load_addr).ok_or_else(|| {
        invalid(
            "load_end_addr",
            format!("{load_end:#x} is before load_addr {load_addr:#x}"),
        )
    })?;
    if size > has - start {
        return Err(BootError::Truncated {
            what: "multiboot image".into(),
            needs: start + size,
            has,
        });
    }
    let end = match bss_end {
        0 => load_end,
        end if end < load_end => {
            return Err(invalid(
                "bss_end_addr",
                format!("{end:#x} is before load_end_addr {load_end:#x}"),
            ));
        }
        end => end,
    };
    if !cx.layout.is_free(load_addr, end) {
        return Err(cx.layout.outside("image".into(), load_addr, end));
    }
    if entry < load_addr || entry >= end {
        return Err(invalid(
            "entry_addr",
            format!("{entry:#x} is outside the image ({load_addr:#x}..{end:#x})"),
        ));
    }
    cx.write(load_addr, &file[start as usize..][..size as usize])?;
    cx.zero(load_end, end - load_end)?;
    Ok((entry, end.max(1 << 20)))
}

fn put_information(cx: &Loading<'_>, end: u64) -> Result<(), BootError> {
    let modules = cx.put_modules(end)?;
    let command_line = cx.put_command_line("kernel ", u64::MAX)?;
    let e820 = cx.layout.e820();

    let name = START_INFO + INFO_SIZE;
    let module_list = (name + LOADER_NAME.len() as u64).next_multiple_of(16);
    let memory_map = module_list + modules.len() as u64 * 16;
    let mut info = [0u32; INFO_SIZE as usize / 4];
    info[0] = INFO_FLAGS;
    info[1] = 639; // mem_lower in KiB: the last KiB below 640 is reserved.
    info[2] = ((cx.layout.low - (1 << 20)) >> 10) as u32; // mem_upper in KiB
    info[4] = command_line as u32;
    info[5] = modules.len() as u32;
    info[6] = module_list as u32;
    info[11] = e820.len() as u32 * 24;
    info[12] = memory_map as u32;
    info[16] = name as u32;

    let mut bytes: Vec<u8> = info.iter().flat_map(|w| w.to_le_bytes()).collect();
    bytes.extend_from_slice(LOADER_NAME);
    bytes.resize((module_list - START_INFO) as usize, 0);
    for module in &modules {
        for value in [module.start, module.start + module.len, module.string, 0] {
            bytes.extend_from_slice(&(value as u32).to_le_bytes());
        }
    }
    for range in &e820 {
        bytes.extend_from_slice(&20u32.to_le_bytes());
        bytes.extend_from_slice(&range.start.to_le_bytes());
        bytes.extend_from_slice(&range.len.to_le_bytes());
        bytes.extend_from_slice(&(range.kind as u32).to_le_bytes());
    }
    assert!(bytes.len() as u64 <= START_INFO_SIZE, "information area");
    cx.write(START_INFO, &bytes)
}
