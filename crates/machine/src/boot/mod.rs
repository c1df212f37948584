//! Boot protocols: a kernel image, its modules and its command line go into guest memory as the
//! protocol of the image asks, and [`Entry`] says in which state the first processor starts.
//!
//! Whoever builds a machine calls [`load`] once the RAM is placed and the ACPI tables are
//! written ([`crate::acpi`]). The image is untrusted: every number in it is checked against the
//! file and the RAM before it is used, nothing is allocated by its say, and what is wrong comes
//! back as one line ([`BootError`]).
//!
//! Recognised, in this order:
//!
//! | image | protocol | module |
//! |---|---|---|
//! | `HdrS` at 0x202 | Linux boot protocol ≥ 2.06, 64-bit entry, or 32-bit where there is none | [`bzimage`] |
//! | x86 ELF with the Xen note PHYS32_ENTRY | PVH | [`pvh`] |
//! | a multiboot header in the first 8 KiB | multiboot 1 | [`multiboot`] |
//! | x86 ELF linked for a kernel's addresses | a Linux `vmlinux`: zero page, 64- or 32-bit entry | [`bzimage`] |
//!
//! Guest-physical addresses used, all below 0x30000 but for the kernel and its modules (a
//! kernel may not load anything over them):
//!
//! | address | length | what |
//! |---|---|---|
//! | 0x1000 | 32 | GDT: null, null, 0x10 code, 0x18 data, both flat |
//! | 0x2000 | 0x5000 | PVH start info, or multiboot information, with memory map and module list |
//! | 0x7000 | 0x1000 | Linux zero page (`struct boot_params`) |
//! | 0x8000 | 0x1000 | stack, top 0x9000 |
//! | 0x9000 | 0x6000 | page tables: PML4, PDPT, four page directories mapping 4 GiB to itself in 2 MiB pages |
//! | 0x10000 | 0x10000 | strings of the modules |
//! | 0x20000 | 0x10000 | command line |
//! | 0xE0000 | 0x20000 | ACPI tables, RSDP first; written by [`crate::acpi`] |
//! | 0x100000.. | | the kernel, where its image asks to be |
//! | ..low | | modules and initrd, downwards from the top of low RAM or from `initrd_addr_max`, on pages |

pub mod bzimage;
mod elf;
mod error;
mod layout;
pub mod multiboot;
pub mod pvh;
#[cfg(test)]
mod tests;

pub use error::BootError;
pub use layout::{E820Entry, E820Type, MemoryLayout};

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use mem::{Gpa, GuestMemory};

const GDT: u64 = 0x1000;
const START_INFO: u64 = 0x2000;
const START_INFO_SIZE: u64 = 0x5000;
const ZERO_PAGE: u64 = 0x7000;
const STACK_TOP: u64 = 0x9000;
const PAGE_TABLES: u64 = 0x9000;
const MODULE_STRINGS: u64 = 0x1_0000;
const COMMAND_LINE: u64 = 0x2_0000;
const TEXT_SIZE: u64 = 0x1_0000;
/// First address that a kernel image may load to; what is below holds the structures above.
const FIRST_FREE: u64 = 0x3_0000;
/// Modules that fit into the start info area with the memory map.
const MAX_MODULES: usize = 128;

/// `__BOOT_CS` of the Linux boot protocol, used for every protocol.
pub const CODE_SELECTOR: u16 = 0x10;
/// `__BOOT_DS` of the Linux boot protocol, used for every protocol.
pub const DATA_SELECTOR: u16 = 0x18;

/// An initrd or a multiboot or PVH module.
#[derive(Clone, Copy, Debug)]
pub struct Module<'a> {
    /// Its bytes.
    pub data: &'a [u8],
    /// Its string (multiboot, PVH); Linux has none.
    pub command_line: &'a str,
}

/// What to boot.
#[derive(Clone, Copy, Debug)]
pub struct BootSource<'a> {
    /// The kernel file.
    pub kernel: &'a [u8],
    /// Modules; for a Linux bzImage they are joined into one initrd, each padded to 4 bytes.
    pub modules: &'a [Module<'a>],
    /// The kernel's command line, without a terminating zero.
    pub command_line: &'a str,
}

/// The protocol by which an image was loaded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    /// Linux boot protocol, 64-bit entry.
    Linux64,
    /// Linux boot protocol, 32-bit entry.
    Linux32,
    /// Xen's PVH, which is not only Xen's.
    Pvh,
    /// Multiboot 1.
    Multiboot1,
}

/// The mode in which the first processor starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Real mode; segment bases are selectors times 16.
    Real16,
    /// CR0.PE set, paging off, flat 4 GiB segments, 32-bit code.
    Protected32,
    /// Long mode with paging by `cr3`, EFER.LME and LMA and CR4.PAE set, 64-bit code.
    Long64,
}

/// The initial state of the first processor, independent of any engine. Registers not named are
/// zero, RFLAGS is 2 (interrupts off), A20 is open; DS, ES, FS, GS and SS hold `data_selector`,
/// TR a busy TSS of base 0 and limit 0x67 as PVH asks, LDTR and IDTR are empty.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EntryState {
    /// Processor mode.
    pub mode: Mode,
    /// Instruction pointer.
    pub rip: u64,
    /// Stack pointer; a small stack that the protocols do not promise.
    pub rsp: u64,
    /// RAX: the multiboot magic, else 0.
    pub rax: u64,
    /// RBX: the PVH start info or the multiboot information, else 0.
    pub rbx: u64,
    /// RSI: the Linux zero page, else 0.
    pub rsi: u64,
    /// The page tables, if paging is on.
    pub cr3: Option<u64>,
    /// Base and limit of the GDT in guest memory.
    pub gdt: Option<(u64, u16)>,
    /// CS.
    pub code_selector: u16,
    /// DS, ES, FS, GS, SS.
    pub data_selector: u16,
}

/// A loaded image.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// How it was loaded.
    pub protocol: Protocol,
    /// How it is entered.
    pub state: EntryState,
}

/// Loads `source` into `memory`, whose RAM is placed as `layout` says. `rsdp` is the address of
/// the ACPI root pointer, if there are tables. On an error guest memory may be half filled.
pub fn load(
    source: &BootSource<'_>,
    memory: &GuestMemory,
    layout: &MemoryLayout,
    rsdp: Option<u64>,
) -> Result<Entry, BootError> {
    layout.check()?;
    if source.command_line.contains('\0') {
        return Err(BootError::CommandLineZero);
    }
    let cx = Loading {
        source,
        memory,
        layout,
        rsdp,
    };
    if bzimage::is_bzimage(source.kernel) {
        return bzimage::load(&cx);
    }
    let multiboot = multiboot::find_header(source.kernel);
    match elf::Elf::parse(source.kernel) {
        Ok(Some(elf)) => match (pvh::find_entry(&elf)?, multiboot) {
            (Some(entry), _) => pvh::load(&cx, &elf, entry),
            (None, Some(header)) => multiboot::load(&cx, header),
            (None, None) => bzimage::load_vmlinux(&cx, &elf),
        },
        Ok(None) => match multiboot {
            Some(header) => multiboot::load(&cx, header),
            None => Err(unknown(source.kernel)),
        },
        // An address-field (a.out kludge) multiboot image need not be a sound ELF file.
        Err(_) if multiboot.is_some_and(|h| h.has_addresses()) => match multiboot {
            Some(header) => multiboot::load(&cx, header),
            None => Err(unknown(source.kernel)),
        },
        Err(e) => Err(e),
    }
}

/// What a file that no protocol takes looks like, and the way out.
fn unknown(file: &[u8]) -> BootError {
    let bytes = Fields(file);
    let starts = |magic: &[u8]| file.starts_with(magic);
    let unpack = "unpack it first: the kernel itself is inside";
    let (seems, way_out): (String, &'static str) = if file.is_empty() {
        ("the file is empty".into(), "is the download complete?")
    } else if starts(&[0x1f, 0x8b]) {
        if file.len() < 18 {
            ("a gzip file, cut off".into(), "is the download complete?")
        } else {
            ("a gzip file".into(), unpack)
        }
    } else if starts(&[0xfd, b'7', b'z', b'X', b'Z', 0]) {
        ("an xz file".into(), unpack)
    } else if starts(&[0x28, 0xb5, 0x2f, 0xfd]) {
        ("a zstd file".into(), unpack)
    } else if starts(b"BZh") {
        ("a bzip2 file".into(), unpack)
    } else if starts(&[0x02, 0x21, 0x4c, 0x18]) || starts(&[0x04, 0x22, 0x4d, 0x18]) {
        ("an lz4 file".into(), unpack)
    } else if bytes.u32(0x38) == Some(0x644d_5241) {
        (
            "a Linux Image for aarch64".into(),
            "this machine is an x86-64 PC: take the kernel for x86-64 (amd64)",
        )
    } else if bytes.u32(0x38) == Some(0x0543_5352) {
        (
            "a Linux Image for riscv".into(),
            "this machine is an x86-64 PC: take the kernel for x86-64 (amd64)",
        )
    } else if starts(b"MZ") {
        unknown_pe(&bytes)
    } else if starts(&[0xd0, 0x0d, 0xfe, 0xed]) {
        (
            "a flat device tree".into(),
            "a PC has none: give a kernel image",
        )
    } else if starts(&[0x27, 0x05, 0x19, 0x56]) {
        (
            "a U-Boot uImage".into(),
            "give the bzImage or vmlinux of an x86 kernel",
        )
    } else if starts(b"070701") || starts(b"070702") || starts(b"070707") {
        (
            "a cpio archive".into(),
            "it is an initrd: give it as one, and a kernel beside it",
        )
    } else if starts(b"QFI\xfb") {
        (
            "a qcow2 disk image".into(),
            "give it as a disk, not as a kernel",
        )
    } else if bytes.slice(0x8001, 5) == Some(b"CD001") {
        (
            "an ISO 9660 disc image".into(),
            "give it as a disc, not as a kernel",
        )
    } else if bytes.u16(0x1fe) == Some(0xaa55) && file.len() > 0x1000 {
        (
            "a boot sector or a raw disk image".into(),
            "give it as a disk, not as a kernel",
        )
    } else if file.iter().take(4096).all(|&b| b == 0) {
        (
            "the file begins with nothing but zeros".into(),
            "is the download complete?",
        )
    } else if file.len() < 0x264 {
        (
            format!("{} bytes, too short for any kernel", file.len()),
            "is the download complete?",
        )
    } else {
        (
            "raw bytes without a header of any boot protocol".into(),
            "give a bzImage, an ELF kernel with a PVH entry, or a multiboot 1 kernel",
        )
    };
    BootError::NotBootable { seems, way_out }
}

fn unknown_pe(bytes: &Fields<'_>) -> (String, &'static str) {
    let machine = bytes
        .u32(0x3c)
        .filter(|&at| bytes.u32(at as usize) == Some(0x4550))
        .and_then(|at| bytes.u16(at as usize + 4));
    match machine {
        Some(0x8664) => (
            "a UEFI application (PE for x86-64) that is no Linux kernel".into(),
            "boot it from UEFI firmware and a disk; as a kernel only a bzImage, ELF or multiboot image will do",
        ),
        Some(0xaa64) => (
            "a PE file for aarch64".into(),
            "this machine is an x86-64 PC: take the file for x86-64 (amd64)",
        ),
        Some(other) => (
            format!("a PE file for machine {other:#x}"),
            "give a bzImage, an ELF kernel or a multiboot kernel for x86-64",
        ),
        None => (
            "a DOS program, or a UEFI file cut off".into(),
            "give a bzImage, an ELF kernel or a multiboot kernel; is the download complete?",
        ),
    }
}

/// What every loader needs.
struct Loading<'a> {
    source: &'a BootSource<'a>,
    memory: &'a GuestMemory,
    layout: &'a MemoryLayout,
    rsdp: Option<u64>,
}

/// A module's place in guest memory.
#[derive(Clone, Copy)]
struct Placed {
    start: u64,
    len: u64,
    string: u64,
}

impl Loading<'_> {
    fn write(&self, at: u64, bytes: &[u8]) -> Result<(), BootError> {
        Ok(self.memory.write(Gpa(at), bytes)?)
    }

    /// Makes a range zero, touching only pages that are not: fresh memory stays unallocated.
    fn zero(&self, at: u64, len: u64) -> Result<(), BootError> {
        const CHUNK: u64 = 4096;
        let mut buffer = [0u8; CHUNK as usize];
        let mut done = 0;
        while done < len {
            let here = at + done;
            let n = (CHUNK - here % CHUNK).min(len - done);
            let piece = &mut buffer[..n as usize];
            self.memory.read(Gpa(here), piece)?;
            if piece.iter().any(|&b| b != 0) {
                piece.fill(0);
                self.memory.write(Gpa(here), piece)?;
            }
            done += n;
        }
        Ok(())
    }

    /// Writes the command line, `first` before it, and its zero; at most `limit` bytes without
    /// the zero.
    fn put_command_line(&self, first: &str, limit: u64) -> Result<u64, BootError> {
        let has = (first.len() + self.source.command_line.len()) as u64;
        let limit = limit.min(TEXT_SIZE - 1);
        if has > limit {
            return Err(BootError::CommandLineTooLong { has, limit });
        }
        self.write(COMMAND_LINE, first.as_bytes())?;
        let rest = COMMAND_LINE + first.len() as u64;
        self.write(rest, self.source.command_line.as_bytes())?;
        self.write(COMMAND_LINE + has, &[0])?;
        Ok(COMMAND_LINE)
    }

    /// The GDT: flat code (64-bit or 32-bit) and data.
    fn put_gdt(&self, mode: Mode) -> Result<Option<(u64, u16)>, BootError> {
        let code: u64 = match mode {
            Mode::Long64 => 0x00af_9b00_0000_ffff,
            Mode::Protected32 | Mode::Real16 => 0x00cf_9b00_0000_ffff,
        };
        let mut gdt = Vec::with_capacity(32);
        for descriptor in [0, 0, code, 0x00cf_9300_0000_ffff] {
            gdt.extend_from_slice(&u64::to_le_bytes(descriptor));
        }
        self.write(GDT, &gdt)?;
        Ok(Some((GDT, 31)))
    }

    /// A processor state in `mode` at `rip` with all else zero.
    fn state(&self, mode: Mode, rip: u64) -> Result<EntryState, BootError> {
        Ok(EntryState {
            mode,
            rip,
            rsp: STACK_TOP,
            rax: 0,
            rbx: 0,
            rsi: 0,
            cr3: None,
            gdt: self.put_gdt(mode)?,
            code_selector: CODE_SELECTOR,
            data_selector: DATA_SELECTOR,
        })
    }

    /// Places all modules as one stretch (an initrd) below `limit` and above `floor`.
    fn put_initrd(&self, floor: u64, limit: u64) -> Result<(u64, u64), BootError> {
        let padded = |m: &Module<'_>| (m.data.len() as u64).next_multiple_of(4);
        let modules = self.source.modules;
        let size: u64 = match modules {
            [] => return Ok((0, 0)),
            // The last needs no padding.
            [first @ .., last] => first.iter().map(padded).sum::<u64>() + last.data.len() as u64,
        };
        if size == 0 {
            return Ok((0, 0));
        }
        let start = self.room("initrd", size, floor, limit)?;
        let mut at = start;
        for module in modules {
            self.write(at, module.data)?;
            let end = at + module.data.len() as u64;
            at += padded(module);
            self.zero(end, at.min(start + size).saturating_sub(end))?;
        }
        Ok((start, size))
    }

    /// Places each module on pages of its own, and their strings.
    fn put_modules(&self, floor: u64) -> Result<Vec<Placed>, BootError> {
        let modules = self.source.modules;
        if modules.len() > MAX_MODULES {
            return Err(BootError::TooManyModules {
                has: modules.len(),
                limit: MAX_MODULES,
            });
        }
        let pages = |len: usize| (len as u64).next_multiple_of(4096);
        let total = modules.iter().map(|m| pages(m.data.len())).sum::<u64>();
        let mut at = match total {
            0 => floor.next_multiple_of(4096),
            _ => self.room("modules", total, floor, 1 << 32)?,
        };
        let mut string = MODULE_STRINGS;
        let mut placed = Vec::with_capacity(modules.len());
        for module in modules {
            if module.command_line.contains('\0') {
                return Err(BootError::CommandLineZero);
            }
            let text = module.command_line.as_bytes();
            if text.len() as u64 >= MODULE_STRINGS + TEXT_SIZE - string {
                return Err(BootError::CommandLineTooLong {
                    has: text.len() as u64,
                    limit: (MODULE_STRINGS + TEXT_SIZE - string).saturating_sub(1),
                });
            }
            self.write(string, text)?;
            self.write(string + text.len() as u64, &[0])?;
            self.write(at, module.data)?;
            placed.push(Placed {
                start: at,
                len: module.data.len() as u64,
                string,
            });
            at += pages(module.data.len());
            string += text.len() as u64 + 1;
        }
        Ok(placed)
    }

    /// The highest page from which `size` bytes fit below `limit` and low RAM's end, and above
    /// the kernel, which ends at `floor`.
    fn room(
        &self,
        what: &'static str,
        size: u64,
        floor: u64,
        limit: u64,
    ) -> Result<u64, BootError> {
        let floor = floor.next_multiple_of(4096);
        let top = limit.min(self.layout.low);
        let start = top.checked_sub(size).map(|at| at & !4095);
        match start {
            Some(at) if at >= floor => Ok(at),
            _ => {
                let needs = floor
                    .saturating_add(size.next_multiple_of(4096))
                    .next_multiple_of(1 << 20);
                let most = limit.min(layout::HOLE);
                Err(if needs > most {
                    BootError::InitrdTooLarge {
                        what,
                        size,
                        limit: most.saturating_sub(floor),
                    }
                } else {
                    BootError::InitrdNeedsMemory {
                        what,
                        size,
                        has_mib: self.layout.total() >> 20,
                        needs_mib: needs >> 20,
                    }
                })
            }
        }
    }
}

/// Little-endian fields of a file; `None` outside it.
#[derive(Clone, Copy)]
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn slice(&self, at: usize, len: usize) -> Option<&'a [u8]> {
        self.0.get(at..at.checked_add(len)?)
    }
    fn array<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.slice(at, N)?.try_into().ok()
    }
    fn u8(&self, at: usize) -> Option<u8> {
        self.0.get(at).copied()
    }
    fn u16(&self, at: usize) -> Option<u16> {
        self.array(at).map(u16::from_le_bytes)
    }
    fn u32(&self, at: usize) -> Option<u32> {
        self.array(at).map(u32::from_le_bytes)
    }
    fn u64(&self, at: usize) -> Option<u64> {
        self.array(at).map(u64::from_le_bytes)
    }
}
