//! PVH (Xen, "x86/HVM direct boot ABI", public/arch-x86/hvm/start_info.h): an ELF kernel, 32 or
//! 64 bit, whose Xen note PHYS32_ENTRY gives a 32-bit entry point. Notes are looked for in
//! PT_NOTE segments only.

use super::elf::Elf;
use super::{BootError, Entry, Loading, Mode, Protocol, START_INFO, START_INFO_SIZE};
use alloc::format;
use alloc::vec::Vec;

const XEN_ELFNOTE_PHYS32_ENTRY: u32 = 18;
const XEN_HVM_START_MAGIC: u32 = 0x336e_c578;
const START_INFO_V1: u64 = 56;
const MODULE_ENTRY: u64 = 32;

/// The PVH entry point, if the file has one.
pub(super) fn find_entry(elf: &Elf<'_>) -> Result<Option<u64>, BootError> {
    let Some(note) = elf.note(b"Xen\0", XEN_ELFNOTE_PHYS32_ENTRY)? else {
        return Ok(None);
    };
    let entry = if let Ok(bytes) = <[u8; 4]>::try_from(note) {
        u64::from(u32::from_le_bytes(bytes))
    } else if let Ok(bytes) = <[u8; 8]>::try_from(note) {
        u64::from_le_bytes(bytes)
    } else {
        return Err(BootError::Invalid {
            field: "XEN_ELFNOTE_PHYS32_ENTRY",
            why: format!("{} bytes, expected 4 or 8", note.len()),
        });
    };
    if entry >> 32 != 0 {
        return Err(BootError::Invalid {
            field: "XEN_ELFNOTE_PHYS32_ENTRY",
            why: format!("{entry:#x} is above 4 GiB"),
        });
    }
    Ok(Some(entry))
}

/// Loads `elf` and enters it at `entry`.
pub(super) fn load(cx: &Loading<'_>, elf: &Elf<'_>, entry: u64) -> Result<Entry, BootError> {
    let end = elf.load(cx)?;
    let entry = elf.check_entry("XEN_ELFNOTE_PHYS32_ENTRY", entry)?;
    let modules = cx.put_modules(end)?;
    let command_line = cx.put_command_line("", u64::MAX)?;
    let e820 = cx.layout.e820();

    let module_list = START_INFO + START_INFO_V1.next_multiple_of(16);
    let memory_map = module_list + modules.len() as u64 * MODULE_ENTRY;
    let mut info = Vec::new();
    let mut word = |value: u32| info.extend_from_slice(&value.to_le_bytes());
    word(XEN_HVM_START_MAGIC);
    word(1); // version
    word(0); // flags: not the initial domain
    word(modules.len() as u32);
    let modules_at = if modules.is_empty() { 0 } else { module_list };
    for address in [modules_at, command_line, cx.rsdp.unwrap_or(0), memory_map] {
        info.extend_from_slice(&address.to_le_bytes());
    }
    info.extend_from_slice(&(e820.len() as u64).to_le_bytes()); // count, reserved
    info.resize((module_list - START_INFO) as usize, 0);
    for module in &modules {
        for value in [module.start, module.len, module.string, 0] {
            info.extend_from_slice(&value.to_le_bytes());
        }
    }
    for range in &e820 {
        for value in [range.start, range.len, range.kind as u64] {
            info.extend_from_slice(&value.to_le_bytes());
        }
    }
    assert!(info.len() as u64 <= START_INFO_SIZE, "start info area");
    cx.write(START_INFO, &info)?;

    let mut state = cx.state(Mode::Protected32, entry)?;
    state.rbx = START_INFO;
    Ok(Entry {
        protocol: Protocol::Pvh,
        state,
    })
}
