//! ELF files as kernels: the header, the segments and their loading by physical address
//! (System V ABI, "Object Files" and "Program Loading"). Used by [`super::pvh`],
//! [`super::multiboot`] and, for a `vmlinux`, [`super::bzimage`]. Sections are not looked at.

use super::{BootError, Fields, Loading};
use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

const PT_LOAD: u32 = 1;
const PT_INTERP: u32 = 3;
const PT_NOTE: u32 = 4;

/// A parsed x86 ELF file.
pub(super) struct Elf<'a> {
    file: Fields<'a>,
    pub is_64: bool,
    pub entry: u64,
    segments: Vec<Segment>,
}

#[derive(Clone, Copy)]
struct Segment {
    index: usize,
    kind: u32,
    offset: u64,
    file_size: u64,
    vaddr: u64,
    paddr: u64,
    memory_size: u64,
}

impl<'a> Elf<'a> {
    /// `Ok(None)` if the file is no ELF file at all.
    pub fn parse(file: &'a [u8]) -> Result<Option<Elf<'a>>, BootError> {
        let bytes = Fields(file);
        if !file.starts_with(b"\x7fELF") {
            return Ok(None);
        }
        let cut = |what: &str, needs: u64| BootError::Truncated {
            what: what.to_owned(),
            needs,
            has: file.len() as u64,
        };
        let class = bytes.u8(4).ok_or_else(|| cut("ELF header", 52))?;
        let is_64 = match class {
            1 => false,
            2 => true,
            other => {
                return Err(BootError::Invalid {
                    field: "ELF class",
                    why: format!("{other} is neither 32-bit nor 64-bit"),
                });
            }
        };
        let header_size = if is_64 { 64 } else { 52 };
        let header = bytes
            .slice(0, header_size)
            .map(Fields)
            .ok_or_else(|| cut("ELF header", header_size as u64))?;
        Self::check_machine(&header)?;
        let (entry, table, at) = if is_64 {
            (header.u64(24), header.u64(32), 54)
        } else {
            (
                header.u32(24).map(u64::from),
                header.u32(28).map(u64::from),
                42,
            )
        };
        let entry = entry.unwrap_or(0);
        let table = table.unwrap_or(0);
        let entry_size = header.u16(at).unwrap_or(0);
        let count = header.u16(at + 2).unwrap_or(0);
        let expected = if is_64 { 56 } else { 32 };
        if count == 0 {
            return Err(BootError::NotBootable {
                seems: "an ELF file without program headers".into(),
                way_out: "it is an object file: give the linked kernel (vmlinux)",
            });
        }
        if entry_size != expected {
            return Err(BootError::Invalid {
                field: "e_phentsize",
                why: format!("{entry_size}, expected {expected}"),
            });
        }
        let length = u64::from(count) * u64::from(entry_size);
        let end = table.checked_add(length).ok_or(BootError::Invalid {
            field: "e_phoff",
            why: format!("{table:#x} wraps around"),
        })?;
        let headers = usize::try_from(table)
            .ok()
            .and_then(|table| bytes.slice(table, length as usize))
            .ok_or_else(|| cut("program header table", end))?;
        let segments = headers
            .chunks_exact(usize::from(expected))
            .enumerate()
            .filter_map(|(index, raw)| Segment::parse(index, &Fields(raw), is_64))
            .collect();
        Ok(Some(Elf {
            file: bytes,
            is_64,
            entry,
            segments,
        }))
    }

    fn check_machine(header: &Fields<'_>) -> Result<(), BootError> {
        if header.u8(5) == Some(2) {
            // Big-endian: e_machine reads the wrong way round.
            let machine = header.u16(18).unwrap_or(0).swap_bytes();
            return Err(wrong_machine(machine, "big-endian "));
        }
        match header.u16(18) {
            Some(3 | 62) => (),
            other => return Err(wrong_machine(other.unwrap_or(0), "")),
        }
        match header.u16(16) {
            Some(2 | 3) => Ok(()),
            Some(1) => Err(BootError::NotBootable {
                seems: "an ELF object file or kernel module".into(),
                way_out: "give the linked kernel (vmlinux or bzImage)",
            }),
            other => Err(BootError::NotBootable {
                seems: format!("an ELF file of type {}", other.unwrap_or(0)),
                way_out: "give the linked kernel (vmlinux or bzImage)",
            }),
        }
    }

    /// The descriptor of the note `kind` of `owner`, from the PT_NOTE segments.
    pub fn note(&self, owner: &[u8], kind: u32) -> Result<Option<&'a [u8]>, BootError> {
        for segment in self.segments.iter().filter(|s| s.kind == PT_NOTE) {
            let notes = Fields(self.bytes_of(segment)?);
            let mut at = 0usize;
            while let (Some(name_size), Some(size), Some(found)) =
                (notes.u32(at), notes.u32(at + 4), notes.u32(at + 8))
            {
                let name_at = at + 12;
                let Some(name) = notes.slice(name_at, name_size as usize) else {
                    break;
                };
                let data_at = name_at + name.len().next_multiple_of(4);
                let Some(data) = notes.slice(data_at, size as usize) else {
                    break;
                };
                if found == kind && name == owner {
                    return Ok(Some(data));
                }
                at = data_at + data.len().next_multiple_of(4);
            }
        }
        Ok(None)
    }

    fn bytes_of(&self, segment: &Segment) -> Result<&'a [u8], BootError> {
        let what = || segment.name();
        let end = segment
            .offset
            .checked_add(segment.file_size)
            .ok_or_else(|| BootError::Invalid {
                field: "p_offset",
                why: format!("{} wraps around the file", what()),
            })?;
        usize::try_from(segment.offset)
            .ok()
            .zip(usize::try_from(segment.file_size).ok())
            .and_then(|(at, len)| self.file.slice(at, len))
            .ok_or_else(|| BootError::Truncated {
                what: what(),
                needs: end,
                has: self.file.0.len() as u64,
            })
    }

    /// True if the file is linked as kernels are: no interpreter, and virtual addresses that
    /// differ from the physical ones it is to be loaded to.
    pub fn is_kernel(&self) -> bool {
        let mut loads = self.segments.iter().filter(|s| s.kind == PT_LOAD);
        !self.segments.iter().any(|s| s.kind == PT_INTERP) && loads.any(|s| s.vaddr != s.paddr)
    }

    /// Checks every PT_LOAD, then loads them all. Returns the end of what is in low RAM.
    pub fn load(&self, cx: &Loading<'_>) -> Result<u64, BootError> {
        let mut loads: Vec<&Segment> = self
            .segments
            .iter()
            .filter(|s| s.kind == PT_LOAD && s.memory_size > 0)
            .collect();
        loads.sort_by_key(|s| s.paddr);
        if loads.is_empty() {
            return Err(BootError::NotBootable {
                seems: "an ELF file with nothing to load".into(),
                way_out: "give the linked kernel (vmlinux), not its debug information",
            });
        }
        let mut before: Option<&Segment> = None;
        let mut low_end = 0;
        for segment in &loads {
            self.bytes_of(segment)?;
            let end = segment.check(cx)?;
            if let Some(before) = before.filter(|b| b.paddr + b.memory_size > segment.paddr) {
                return Err(BootError::Overlap {
                    first: before.name(),
                    second: segment.name(),
                    at: segment.paddr,
                });
            }
            if end <= cx.layout.low {
                low_end = end;
            }
            before = Some(segment);
        }
        for segment in &loads {
            cx.write(segment.paddr, self.bytes_of(segment)?)?;
            let rest = segment.memory_size - segment.file_size;
            cx.zero(segment.paddr + segment.file_size, rest)?;
        }
        Ok(low_end.max(1 << 20))
    }

    /// The physical address of `entry`, which may be virtual (then its segment says) or physical
    /// already; an error if no loaded segment holds it.
    pub fn physical_entry(&self, entry: u64) -> Result<u64, BootError> {
        let mut loads = self.segments.iter().filter(|s| s.kind == PT_LOAD);
        let by_vaddr = loads
            .find(|s| entry.wrapping_sub(s.vaddr) < s.memory_size)
            .map(|s| s.paddr.wrapping_add(entry.wrapping_sub(s.vaddr)));
        let physical = by_vaddr.unwrap_or(entry);
        self.check_entry("entry point", physical)
    }

    /// An entry point that is physical already; `field` is where it comes from.
    pub fn check_entry(&self, field: &'static str, entry: u64) -> Result<u64, BootError> {
        let mut loads = self.segments.iter().filter(|s| s.kind == PT_LOAD);
        if loads.any(|s| entry.wrapping_sub(s.paddr) < s.memory_size) {
            Ok(entry)
        } else {
            Err(BootError::Invalid {
                field,
                why: format!("{entry:#x} is in no loaded segment"),
            })
        }
    }
}

impl Segment {
    fn parse(index: usize, raw: &Fields<'_>, is_64: bool) -> Option<Segment> {
        let word = |at| raw.u32(at).map(u64::from);
        Some(if is_64 {
            Segment {
                index,
                kind: raw.u32(0)?,
                offset: raw.u64(8)?,
                vaddr: raw.u64(16)?,
                paddr: raw.u64(24)?,
                file_size: raw.u64(32)?,
                memory_size: raw.u64(40)?,
            }
        } else {
            Segment {
                index,
                kind: raw.u32(0)?,
                offset: word(4)?,
                vaddr: word(8)?,
                paddr: word(12)?,
                file_size: word(16)?,
                memory_size: word(20)?,
            }
        })
    }

    fn name(&self) -> String {
        format!("segment {}", self.index)
    }

    fn check(&self, cx: &Loading<'_>) -> Result<u64, BootError> {
        if self.file_size > self.memory_size {
            return Err(BootError::Invalid {
                field: "p_filesz",
                why: format!(
                    "{} has {:#x} bytes for {:#x} of memory",
                    self.name(),
                    self.file_size,
                    self.memory_size
                ),
            });
        }
        let end = self
            .paddr
            .checked_add(self.memory_size)
            .ok_or_else(|| BootError::Invalid {
                field: "p_paddr",
                why: format!(
                    "{} ({:#x} bytes at {:#x}) wraps around the address space",
                    self.name(),
                    self.memory_size,
                    self.paddr
                ),
            })?;
        cx.layout
            .is_free(self.paddr, end)
            .then_some(end)
            .ok_or_else(|| cx.layout.outside(self.name(), self.paddr, end))
    }
}

fn wrong_machine(machine: u16, prefix: &str) -> BootError {
    let name = match machine {
        2 => "sparc",
        8 => "mips",
        20 => "ppc",
        21 => "ppc64",
        22 => "s390x",
        40 => "arm",
        43 => "sparc64",
        50 => "ia64",
        183 => "aarch64",
        243 => "riscv",
        247 => "bpf",
        258 => "loongarch",
        _ => "",
    };
    let seems = match name {
        "" => format!("an ELF file for {prefix}machine {machine}"),
        name => format!("an ELF file for {prefix}{name}"),
    };
    BootError::NotBootable {
        seems,
        way_out: "this machine is an x86-64 PC: take the kernel for x86-64 (amd64)",
    }
}
