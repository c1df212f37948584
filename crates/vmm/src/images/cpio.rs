//! Writes a newc cpio archive, the form in which Linux takes an initramfs.
//!
//! Source: Linux `Documentation/driver-api/early-userspace/buffer-format.rst`. Used by `initramfs`.
//! The archive depends on its contents only: every time is 0, every owner is root, inode numbers
//! count up, so that the same parts give the same bytes.

const DIRECTORY: u32 = 0o040000;
const REGULAR: u32 = 0o100000;
const SYMLINK: u32 = 0o120000;
const CHARACTER: u32 = 0o020000;

/// An archive being written. Parents must be added before what they hold.
#[derive(Default)]
pub struct Writer {
    bytes: Vec<u8>,
    inode: u32,
}

impl Writer {
    /// A directory with permission bits `mode`.
    pub fn directory(&mut self, path: &str, mode: u32) {
        self.entry(path, DIRECTORY | mode, (0, 0), &[]);
    }

    /// A regular file with permission bits `mode`.
    pub fn file(&mut self, path: &str, mode: u32, contents: &[u8]) {
        self.entry(path, REGULAR | mode, (0, 0), contents);
    }

    /// A symbolic link to `target`.
    pub fn symlink(&mut self, path: &str, target: &str) {
        self.entry(path, SYMLINK | 0o777, (0, 0), target.as_bytes());
    }

    /// A character device node.
    pub fn character_device(&mut self, path: &str, mode: u32, major: u32, minor: u32) {
        self.entry(path, CHARACTER | mode, (major, minor), &[]);
    }

    /// The whole archive, ended and padded to blocks of 512 bytes.
    pub fn finish(mut self) -> Vec<u8> {
        self.inode = 0;
        self.header("TRAILER!!!", 0, 1, (0, 0), 0);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), contents: &[u8]) {
        assert!(
            !path.starts_with('/') && !path.contains('\0'),
            "cpio: bad path {path:?}"
        );
        let size = u32::try_from(contents.len()).expect("a cpio member is below 4 GiB");
        self.inode += 1;
        let links = if mode & 0o170000 == DIRECTORY { 2 } else { 1 };
        self.header(path, mode, links, device, size);
        self.bytes.extend_from_slice(contents);
        self.pad();
    }

    fn header(&mut self, path: &str, mode: u32, links: u32, device: (u32, u32), size: u32) {
        let fields = [
            self.inode,
            mode,
            0, // uid
            0, // gid
            links,
            0, // mtime
            size,
            0, // device the file was on: major
            0, // and minor
            device.0,
            device.1,
            path.len() as u32 + 1,
            0, // checksum: unused in newc
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    /// Path, mode, device, contents.
    pub type Member = (String, u32, (u32, u32), Vec<u8>);

    /// Reads an archive back.
    pub fn parse(mut bytes: &[u8]) -> Vec<Member> {
        let mut entries = Vec::new();
        loop {
            assert_eq!(&bytes[..6], b"070701");
            let field = |n: usize| {
                let text = std::str::from_utf8(&bytes[6 + n * 8..14 + n * 8]).unwrap();
                u32::from_str_radix(text, 16).unwrap()
            };
            let (mode, size, name_len) = (field(1), field(6) as usize, field(11) as usize);
            let device = (field(9), field(10));
            let name = String::from_utf8(bytes[110..110 + name_len - 1].to_vec()).unwrap();
            let start = (110 + name_len).next_multiple_of(4);
            if name == "TRAILER!!!" {
                return entries;
            }
            entries.push((name, mode, device, bytes[start..start + size].to_vec()));
            bytes = &bytes[(start + size).next_multiple_of(4)..];
        }
    }

    fn sample() -> Vec<u8> {
        let mut writer = Writer::default();
        writer.directory("dev", 0o755);
        writer.character_device("dev/console", 0o600, 5, 1);
        writer.file("init", 0o755, b"#!/bin/sh\n");
        writer.symlink("sh", "bin/busybox");
        writer.file("empty", 0o644, b"");
        writer.finish()
    }

    #[test]
    fn what_is_written_is_read_back() {
        let bytes = sample();
        assert_eq!(bytes.len() % 512, 0);
        let entries = parse(&bytes);
        let expected: Vec<Member> = [
            ("dev", 0o040755, (0, 0), &b""[..]),
            ("dev/console", 0o020600, (5, 1), b""),
            ("init", 0o100755, (0, 0), b"#!/bin/sh\n"),
            ("sh", 0o120777, (0, 0), b"bin/busybox"),
            ("empty", 0o100644, (0, 0), b""),
        ]
        .map(|(path, mode, device, data)| (path.to_owned(), mode, device, data.to_vec()))
        .into();
        assert_eq!(entries, expected);
    }

    #[test]
    fn the_cpio_program_lists_our_archive() {
        let child = Command::new("cpio")
            .arg("-itv")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let Ok(mut child) = child else {
            eprintln!("skipped (1): no cpio program on this host");
            return;
        };
        child.stdin.take().unwrap().write_all(&sample()).unwrap();
        let out = child.wait_with_output().unwrap();
        let text = String::from_utf8(out.stdout).unwrap();
        assert!(
            out.status.success(),
            "{}",
            String::from_utf8_lossy(&out.stderr)
        );
        assert!(
            text.contains("crw-------") && text.contains("5,   1"),
            "{text}"
        );
        assert!(text.contains("sh -> bin/busybox"), "{text}");
        assert_eq!(text.lines().count(), 5, "{text}");
    }
}
