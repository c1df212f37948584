//! The Linux boot protocol ("The Linux/x86 Boot Protocol", Documentation/arch/x86/boot.rst, and
//! zero-page.rst): bzImage with the 64-bit entry, or the 32-bit entry for kernels without one;
//! and an ELF `vmlinux` without a PVH note, for which the zero page is made from nothing.
//!
//! Not done: zImage (loaded low), the 16-bit entry, EFI handover, setup_data, `screen_info`
//! (zero: no console before a driver), an initrd above 4 GiB.

use super::elf::Elf;
use super::{BootError, Entry, Fields, Loading, Mode, PAGE_TABLES, Protocol, ZERO_PAGE};
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;

const SETUP_SECTS: usize = 0x1f1;
const SYSSIZE: usize = 0x1f4;
const BOOT_FLAG: usize = 0x1fe;
const HEADER_LENGTH: usize = 0x201;
const HEADER: usize = 0x202;
const VERSION: usize = 0x206;
const TYPE_OF_LOADER: usize = 0x210;
const LOADFLAGS: usize = 0x211;
const CODE32_START: usize = 0x214;
const RAMDISK_IMAGE: usize = 0x218;
const RAMDISK_SIZE: usize = 0x21c;
const HEAP_END_PTR: usize = 0x224;
const CMD_LINE_PTR: usize = 0x228;
const INITRD_ADDR_MAX: usize = 0x22c;
const KERNEL_ALIGNMENT: usize = 0x230;
const RELOCATABLE_KERNEL: usize = 0x234;
const XLOADFLAGS: usize = 0x236;
const CMDLINE_SIZE: usize = 0x238;
const SETUP_DATA: usize = 0x250;
const PREF_ADDRESS: usize = 0x258;
const INIT_SIZE: usize = 0x260;

const HDRS: u32 = 0x5372_6448;
const LOADED_HIGH: u8 = 1 << 0;
const CAN_USE_HEAP: u8 = 1 << 7;
const XLF_KERNEL_64: u16 = 1 << 0;
/// The 64-bit entry, from the start of the protected-mode kernel.
const ENTRY_64: u64 = 0x200;
/// Undefined boot loader.
const LOADER: u8 = 0xff;

/// Offsets in the zero page that are not in the setup header.
const ZP_RSDP: usize = 0x70;
const ZP_E820_ENTRIES: usize = 0x1e8;
const ZP_E820_TABLE: usize = 0x2d0;
/// The header may reach from 0x1F1 to here in the zero page.
const ZP_HEADER_END: usize = 0x290;

const MIB: u64 = 1 << 20;

/// True if the file has the magic of a Linux setup header.
pub(super) fn is_bzimage(file: &[u8]) -> bool {
    Fields(file).u32(HEADER) == Some(HDRS)
}

/// What we use of the setup header, validated.
struct Setup<'a> {
    raw: &'a [u8],
    payload: &'a [u8],
    is_64: bool,
    relocatable: bool,
    alignment: u64,
    preferred: u64,
    init_size: u64,
    initrd_end: u64,
    cmdline_size: u64,
}

impl<'a> Setup<'a> {
    fn parse(file: &'a [u8]) -> Result<Setup<'a>, BootError> {
        let has = file.len() as u64;
        let bytes = Fields(file);
        let header_end = HEADER + usize::from(bytes.u8(HEADER_LENGTH).unwrap_or(0));
        let raw = file
            .get(SETUP_SECTS..header_end)
            .ok_or_else(|| BootError::Truncated {
                what: "setup header".into(),
                needs: header_end as u64,
                has,
            })?;
        if bytes.u16(BOOT_FLAG) != Some(0xaa55) {
            return Err(BootError::Invalid {
                field: "boot_flag",
                why: "not 0xAA55".into(),
            });
        }
        // A field is there if the protocol's version and the header's own length say so.
        let header = Fields(&file[..header_end]);
        let cut = || BootError::Invalid {
            field: "setup header",
            why: format!("ends at {header_end:#x}, before the fields of its version"),
        };
        let version = header.u16(VERSION).ok_or_else(cut)?;
        if version < 0x206 {
            return Err(BootError::NotBootable {
                seems: format!(
                    "a Linux kernel with boot protocol {}.{:02}",
                    version >> 8,
                    version & 0xff
                ),
                way_out: "2.06 is needed: take Linux 2.6.22 or later",
            });
        }
        if header.u8(LOADFLAGS).ok_or_else(cut)? & LOADED_HIGH == 0 {
            return Err(BootError::NotBootable {
                seems: "a zImage, which loads below 640 KiB".into(),
                way_out: "build the kernel as bzImage",
            });
        }
        let sectors = match header.u8(SETUP_SECTS).ok_or_else(cut)? {
            0 => 4,
            n => u32::from(n),
        };
        let setup_size = u64::from(sectors + 1) * 512;
        let payload = file
            .get(setup_size as usize..)
            .filter(|p| !p.is_empty())
            .ok_or(BootError::SetupTruncated {
                sectors,
                needs: setup_size,
                has,
            })?;
        let system = u64::from(header.u32(SYSSIZE).ok_or_else(cut)?) * 16;
        if (payload.len() as u64) < system {
            return Err(BootError::Truncated {
                what: format!("system ({system} bytes after {setup_size} of setup)"),
                needs: setup_size + system,
                has,
            });
        }
        let cmdline_size = u64::from(header.u32(CMDLINE_SIZE).ok_or_else(cut)?);
        let is_64 =
            version >= 0x20c && header.u16(XLOADFLAGS).ok_or_else(cut)? & XLF_KERNEL_64 != 0;
        if is_64 && payload.len() <= ENTRY_64 as usize {
            return Err(BootError::Invalid {
                field: "xloadflags",
                why: format!(
                    "a 64-bit entry at {ENTRY_64:#x}, the kernel has {} bytes",
                    payload.len()
                ),
            });
        }
        let relocatable = header.u8(RELOCATABLE_KERNEL).ok_or_else(cut)? != 0;
        let alignment = u64::from(header.u32(KERNEL_ALIGNMENT).ok_or_else(cut)?);
        if relocatable && !alignment.is_power_of_two() {
            return Err(BootError::Invalid {
                field: "kernel_alignment",
                why: format!("{alignment:#x} is no power of two"),
            });
        }
        let (preferred, init_size) = if version >= 0x20a {
            (
                header.u64(PREF_ADDRESS).ok_or_else(cut)?,
                u64::from(header.u32(INIT_SIZE).ok_or_else(cut)?),
            )
        } else {
            // Before 2.10 there is no init_size; the protocol's own advice is a guess.
            (MIB, payload.len() as u64 * 3)
        };
        Ok(Setup {
            raw,
            payload,
            is_64,
            relocatable,
            alignment,
            preferred,
            init_size: init_size.max(payload.len() as u64),
            initrd_end: u64::from(header.u32(INITRD_ADDR_MAX).ok_or_else(cut)?) + 1,
            cmdline_size,
        })
    }

    /// Where the protected-mode kernel goes: its preferred address, or the lowest aligned one from
    /// 1 MiB on. A kernel that is loaded below its preferred address moves itself there (boot.rst,
    /// `pref_address`), so a lower place would not help where RAM ends too early.
    fn address(&self, cx: &Loading<'_>) -> Result<u64, BootError> {
        let mut at = self.preferred;
        if self.relocatable {
            at = at
                .max(MIB)
                .checked_next_multiple_of(self.alignment)
                .unwrap_or(u64::MAX);
        }
        // Everything we hand over is identity-mapped below 4 GiB.
        let end = at.saturating_add(self.init_size);
        if at >= MIB && end <= cx.layout.low {
            Ok(at)
        } else {
            Err(cx.layout.outside("kernel (init_size)".into(), at, end))
        }
    }
}

/// Loads the bzImage in `cx.source`.
pub(super) fn load(cx: &Loading<'_>) -> Result<Entry, BootError> {
    let setup = Setup::parse(cx.source.kernel)?;
    let kernel = setup.address(cx)?;
    cx.write(kernel, setup.payload)?;
    let initrd = cx.put_initrd(kernel + setup.init_size, setup.initrd_end)?;

    let mut zero_page = vec![0u8; 4096];
    let length = setup.raw.len().min(ZP_HEADER_END - SETUP_SECTS);
    zero_page[SETUP_SECTS..][..length].copy_from_slice(&setup.raw[..length]);
    // The loader owns this list; what the file says of it is not for a guest's first reader.
    put(&mut zero_page, SETUP_DATA, &[0; 8]);
    put_u32(&mut zero_page, CODE32_START, kernel as u32);
    finish_zero_page(cx, &mut zero_page, initrd, setup.cmdline_size)?;
    enter(cx, setup.is_64, kernel)
}

/// Loads an ELF `vmlinux` that has no PVH note.
pub(super) fn load_vmlinux(cx: &Loading<'_>, elf: &Elf<'_>) -> Result<Entry, BootError> {
    if !elf.is_kernel() {
        return Err(BootError::NotBootable {
            seems: "an ELF program without a PVH note or multiboot header".into(),
            way_out: "give a bzImage, a vmlinux built with CONFIG_PVH, or a multiboot 1 kernel",
        });
    }
    let end = elf.load(cx)?;
    let entry = elf.physical_entry(elf.entry)?;
    if entry >> 32 != 0 {
        return Err(BootError::Invalid {
            field: "entry point",
            why: format!("{entry:#x} is above 4 GiB"),
        });
    }
    let initrd = cx.put_initrd(end, 0x8000_0000)?;
    let mut zero_page = vec![0u8; 4096];
    put(&mut zero_page, BOOT_FLAG, &0xaa55u16.to_le_bytes());
    put_u32(&mut zero_page, HEADER, HDRS);
    put(&mut zero_page, VERSION, &0x20fu16.to_le_bytes());
    put_u32(&mut zero_page, KERNEL_ALIGNMENT, 1 << 24);
    // COMMAND_LINE_SIZE of x86 Linux, without the zero.
    finish_zero_page(cx, &mut zero_page, initrd, 2047)?;
    let bzimage_entry = if elf.is_64 {
        entry.wrapping_sub(ENTRY_64)
    } else {
        entry
    };
    enter(cx, elf.is_64, bzimage_entry)
}

/// Fills in what the boot loader owes and writes the page.
fn finish_zero_page(
    cx: &Loading<'_>,
    page: &mut [u8],
    (initrd, initrd_size): (u64, u64),
    cmdline_size: u64,
) -> Result<(), BootError> {
    let command_line = cx.put_command_line("", cmdline_size)?;
    page[TYPE_OF_LOADER] = LOADER;
    page[LOADFLAGS] |= LOADED_HIGH | CAN_USE_HEAP;
    put(page, HEAP_END_PTR, &0xfe00u16.to_le_bytes());
    // Both below 4 GiB, so the ext_ fields stay zero.
    put_u32(page, RAMDISK_IMAGE, initrd as u32);
    put_u32(page, RAMDISK_SIZE, initrd_size as u32);
    put_u32(page, CMD_LINE_PTR, command_line as u32);
    put(page, ZP_RSDP, &cx.rsdp.unwrap_or(0).to_le_bytes());
    let e820 = cx.layout.e820();
    page[ZP_E820_ENTRIES] = e820.len() as u8;
    for (i, entry) in e820.iter().enumerate() {
        let at = ZP_E820_TABLE + i * 20;
        put(page, at, &entry.start.to_le_bytes());
        put(page, at + 8, &entry.len.to_le_bytes());
        put_u32(page, at + 16, entry.kind as u32);
    }
    cx.write(ZERO_PAGE, page)
}

fn enter(cx: &Loading<'_>, is_64: bool, kernel: u64) -> Result<Entry, BootError> {
    if !is_64 {
        let mut state = cx.state(Mode::Protected32, kernel)?;
        state.rsi = ZERO_PAGE;
        return Ok(Entry {
            protocol: Protocol::Linux32,
            state,
        });
    }
    let mut state = cx.state(Mode::Long64, kernel.wrapping_add(ENTRY_64))?;
    state.rsi = ZERO_PAGE;
    state.cr3 = Some(put_page_tables(cx)?);
    Ok(Entry {
        protocol: Protocol::Linux64,
        state,
    })
}

/// Maps the first 4 GiB to itself in 2 MiB pages (SDM, "4-Level Paging").
fn put_page_tables(cx: &Loading<'_>) -> Result<u64, BootError> {
    const PRESENT_WRITE: u64 = 0b11;
    const LARGE: u64 = 1 << 7;
    let pdpt = PAGE_TABLES + 0x1000;
    let directories = PAGE_TABLES + 0x2000;
    let mut words: Vec<u64> = vec![0; 6 * 512];
    words[0] = pdpt | PRESENT_WRITE;
    for i in 0..4 {
        words[512 + i] = (directories + i as u64 * 0x1000) | PRESENT_WRITE;
    }
    for (i, entry) in words[1024..].iter_mut().enumerate() {
        *entry = (i as u64 * 0x20_0000) | LARGE | PRESENT_WRITE;
    }
    let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
    cx.write(PAGE_TABLES, &bytes)?;
    Ok(PAGE_TABLES)
}

fn put(page: &mut [u8], at: usize, bytes: &[u8]) {
    page[at..at + bytes.len()].copy_from_slice(bytes);
}

fn put_u32(page: &mut [u8], at: usize, value: u32) {
    put(page, at, &value.to_le_bytes());
}
