//! The two questions asked of an ELF64 file: what is in a named section (kernel modules keep their
//! description in `.modinfo`), and does the program need a dynamic loader. Every offset is checked:
//! the files come from outside.
//!
//! Source: System V ABI, "Object Files" and "Program Loading". Used by `modules` and `initramfs`.

const PT_INTERP: u32 = 3;
const ET_EXEC: u16 = 2;
const ET_DYN: u16 = 3;
const EM_X86_64: u16 = 62;

/// A statically linked x86-64 program: one that runs in an initramfs with nothing beside it.
pub fn is_static_program(file: &[u8]) -> bool {
    let program = || {
        if !is_elf64(file) || u16_at(file, 18)? != EM_X86_64 {
            return None;
        }
        if !matches!(u16_at(file, 16)?, ET_EXEC | ET_DYN) {
            return None;
        }
        let table = usize::try_from(u64_at(file, 32)?).ok()?;
        let (size, count) = (u16_at(file, 54)? as usize, u16_at(file, 56)? as usize);
        for n in 0..count {
            if u32_at(file, table.checked_add(n * size)?)? == PT_INTERP {
                return None;
            }
        }
        (count > 0).then_some(())
    };
    program().is_some()
}

/// The contents of section `name`.
pub fn section<'a>(file: &'a [u8], name: &str) -> Option<&'a [u8]> {
    if !is_elf64(file) {
        return None;
    }
    let table = usize::try_from(u64_at(file, 40)?).ok()?;
    let (size, count) = (u16_at(file, 58)? as usize, u16_at(file, 60)? as usize);
    let header = |n: usize| table.checked_add(n * size);
    let contents = |at: usize| {
        let start = usize::try_from(u64_at(file, at.checked_add(24)?)?).ok()?;
        let len = usize::try_from(u64_at(file, at.checked_add(32)?)?).ok()?;
        file.get(start..start.checked_add(len)?)
    };
    let names = contents(header(u16_at(file, 62)? as usize)?)?;
    for n in 0..count {
        let at = header(n)?;
        let this = names.get(u32_at(file, at)? as usize..)?;
        if this.split(|&b| b == 0).next() == Some(name.as_bytes()) {
            return contents(at);
        }
    }
    None
}

fn is_elf64(file: &[u8]) -> bool {
    file.starts_with(b"\x7fELF\x02\x01")
}

fn bytes_at<const N: usize>(file: &[u8], at: usize) -> Option<[u8; N]> {
    file.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn u16_at(file: &[u8], at: usize) -> Option<u16> {
    bytes_at(file, at).map(u16::from_le_bytes)
}

fn u32_at(file: &[u8], at: usize) -> Option<u32> {
    bytes_at(file, at).map(u32::from_le_bytes)
}

fn u64_at(file: &[u8], at: usize) -> Option<u64> {
    bytes_at(file, at).map(u64::from_le_bytes)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A module with nothing but a `.modinfo` section.
    pub fn module(modinfo: &[u8]) -> Vec<u8> {
        let names = b"\0.modinfo\0.shstrtab\0";
        let mut file = vec![0; 64];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        let (info_at, names_at) = (64u64, 64 + modinfo.len() as u64);
        let table = names_at + names.len() as u64;
        file[40..48].copy_from_slice(&table.to_le_bytes());
        file[58..60].copy_from_slice(&64u16.to_le_bytes());
        file[60..62].copy_from_slice(&3u16.to_le_bytes());
        file[62..64].copy_from_slice(&2u16.to_le_bytes());
        file.extend_from_slice(modinfo);
        file.extend_from_slice(names);
        for (name, at, len) in [
            (0u32, 0u64, 0u64),
            (1, info_at, modinfo.len() as u64),
            (10, names_at, names.len() as u64),
        ] {
            let mut header = [0; 64];
            header[0..4].copy_from_slice(&name.to_le_bytes());
            header[24..32].copy_from_slice(&at.to_le_bytes());
            header[32..40].copy_from_slice(&len.to_le_bytes());
            file.extend_from_slice(&header);
        }
        file
    }

    /// A program with one program header, of the given type.
    pub fn program(header_type: u32) -> Vec<u8> {
        let mut file = vec![0; 64 + 56];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[16..18].copy_from_slice(&ET_EXEC.to_le_bytes());
        file[18..20].copy_from_slice(&EM_X86_64.to_le_bytes());
        file[32..40].copy_from_slice(&64u64.to_le_bytes());
        file[54..56].copy_from_slice(&56u16.to_le_bytes());
        file[56..58].copy_from_slice(&1u16.to_le_bytes());
        file[64..68].copy_from_slice(&header_type.to_le_bytes());
        file
    }

    #[test]
    fn a_section_is_found_by_its_name() {
        let file = module(b"depends=a,b\0");
        assert_eq!(section(&file, ".modinfo"), Some(&b"depends=a,b\0"[..]));
        assert_eq!(section(&file, ".text"), None);
    }

    #[test]
    fn a_program_with_an_interpreter_is_not_static() {
        assert!(is_static_program(&program(1)));
        assert!(!is_static_program(&program(PT_INTERP)));
        assert!(!is_static_program(b"#!/bin/sh\n"));
    }

    #[test]
    fn cut_or_scribbled_files_give_an_answer_and_no_panic() {
        let file = module(b"depends=\0");
        for len in 0..file.len() {
            let _ = section(&file[..len], ".modinfo");
            let _ = is_static_program(&program(1)[..len.min(120)]);
        }
        for at in 6..64 {
            let mut bad = file.clone();
            bad[at] = 0xff;
            let _ = section(&bad, ".modinfo");
            let mut bad = program(1);
            bad[at] = 0xff;
            let _ = is_static_program(&bad);
        }
    }
}
