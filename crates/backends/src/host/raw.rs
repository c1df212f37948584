//! A disk that is a file or a block device, byte for byte.
//!
//! The file is locked (flock(2), which belongs to the open file): a writer excludes everybody,
//! readers exclude writers, so that two VMs never write one disk. The lock is advisory; programs
//! that do not ask are not stopped.

use crate::disk::{Cow, DiskSpec, Mode};
use devices::backend::{BackendError, Disk};
use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock};
use rustix::io::Errno;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;

const SECTOR: u64 = 512;
/// The longest identity a guest can be given.
const SERIAL: usize = 20;
/// Zeroes written at once where holes cannot be punched.
const ZEROES: usize = 64 << 10;

/// Why a file cannot be a disk.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// There is no such file.
    #[error("disk {0}: there is no such file; `truncate -s 4G {0}` makes an empty disk")]
    Missing(String),
    /// A directory.
    #[error("disk {0}: is a directory; name a disk image inside it")]
    Directory(String),
    /// A character device, a pipe, a socket.
    #[error("disk {0}: is a {1}; a disk is a file or a block device")]
    Kind(String, &'static str),
    /// Not readable.
    #[error("disk {0}: may not be read; ask its owner, or copy it")]
    Unreadable(String),
    /// Readable, but not writable.
    #[error("disk {0}: may not be written; use `,ro` or `,cow`")]
    Unwritable(String),
    /// No bytes.
    #[error("disk {0}: is empty; `truncate -s 4G {0}` gives it a size")]
    Empty(String),
    /// The size is not a multiple of 512.
    #[error(
        "disk {0}: its {1} bytes are no multiple of 512; it is damaged or no raw disk image (`truncate -s %512` rounds it up)"
    )]
    Size(String, u64),
    /// Another VM reads it, this one wants to write.
    #[error("disk {0}: another VM reads it; use `,ro` or `,cow` here too, or end that VM")]
    Read(String),
    /// Another VM writes it.
    #[error("disk {0}: another VM writes it; end that VM, or use a copy of the file")]
    Written(String),
    /// Anything else.
    #[error("disk {0}: {1}")]
    Io(String, std::io::Error),
    /// The overlay of `,cow`.
    #[error("disk {0}: {1}")]
    Overlay(String, String),
}

/// A raw disk image or block device.
#[derive(Debug)]
pub struct RawDisk {
    file: File,
    name: String,
    size: u64,
    read_only: bool,
    serial: String,
}

impl RawDisk {
    /// Opens and locks `path`. `serial` is the identity the guest sees, cut to 20 ASCII bytes.
    pub fn open(path: &Path, read_only: bool, serial: &str) -> Result<RawDisk, DiskError> {
        let file = open(path, read_only)?;
        lock(&file, path, read_only)?;
        let io = |e| DiskError::Io(name(path), e);
        // The end of a block device is not in its metadata.
        let size = (&file).seek(SeekFrom::End(0)).map_err(io)?;
        if size == 0 {
            return Err(DiskError::Empty(name(path)));
        }
        if size % SECTOR != 0 {
            return Err(DiskError::Size(name(path), size));
        }
        Ok(Self::over(
            file,
            path.display().to_string(),
            size,
            read_only,
            serial,
        ))
    }

    /// A sparse disk of `size` bytes in an unlinked file of `directory`: it is gone when it is
    /// dropped, whatever happens.
    pub fn temporary(directory: &Path, size: u64) -> std::io::Result<RawDisk> {
        use rustix::fs::{Mode, OFlags};
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::open(directory, flags, Mode::RUSR | Mode::WUSR)?);
        file.set_len(size)?;
        let name = format!("{} (temporary)", directory.display());
        Ok(Self::over(file, name, size, false, "temporary"))
    }

    fn over(file: File, name: String, size: u64, read_only: bool, serial: &str) -> RawDisk {
        let printable = serial.chars().filter(char::is_ascii_graphic);
        RawDisk {
            file,
            name,
            size,
            read_only,
            serial: printable.take(SERIAL).collect(),
        }
    }

    fn failed(&self, what: &str, at: u64, e: std::io::Error) -> BackendError {
        let name = &self.name;
        BackendError(match e.kind() {
            ErrorKind::UnexpectedEof => {
                format!("{name}: {what} at {at:#x}: the file has become shorter")
            }
            _ => format!("{name}: {what} at {at:#x}: {e}"),
        })
    }
}

/// Opens the disk that `spec` names. With `cow`, what the guest writes goes to an unlinked
/// file in the host's directory for temporary files, or to memory if there is none.
pub fn open_disk(spec: &DiskSpec, serial: &str) -> Result<Box<dyn Disk>, DiskError> {
    let read_only = spec.mode != Mode::Write;
    let base = RawDisk::open(&spec.file, read_only, serial)?;
    if spec.mode != Mode::CopyOnWrite {
        return Ok(Box::new(base));
    }
    match RawDisk::temporary(&std::env::temp_dir(), base.size) {
        Ok(top) => match Cow::on(Box::new(base), Box::new(top)) {
            Ok(cow) => Ok(Box::new(cow)),
            Err(e) => Err(DiskError::Overlay(name(&spec.file), e.0)),
        },
        Err(_) => Ok(Box::new(Cow::in_memory(Box::new(base)))),
    }
}

fn name(path: &Path) -> String {
    path.display().to_string()
}

fn open(path: &Path, read_only: bool) -> Result<File, DiskError> {
    let to_error = |e: std::io::Error| match e.kind() {
        ErrorKind::NotFound => DiskError::Missing(name(path)),
        ErrorKind::PermissionDenied => DiskError::Unreadable(name(path)),
        _ => DiskError::Io(name(path), e),
    };
    let kind = std::fs::metadata(path).map_err(to_error)?.file_type();
    if kind.is_dir() {
        return Err(DiskError::Directory(name(path)));
    }
    let odd = if kind.is_char_device() {
        Some("character device")
    } else if kind.is_fifo() {
        Some("pipe")
    } else if kind.is_socket() {
        Some("socket")
    } else {
        None
    };
    if let Some(odd) = odd {
        return Err(DiskError::Kind(name(path), odd));
    }
    let mut options = OpenOptions::new();
    // Should it have become a pipe just now, we do not wait for its other end.
    let nonblock = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    options.read(true).custom_flags(nonblock);
    if read_only {
        return options.open(path).map_err(to_error);
    }
    match options.write(true).open(path) {
        Err(e)
            if matches!(
                e.kind(),
                ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem
            ) =>
        {
            // Which of the two is forbidden decides what the user can do.
            options.write(false).open(path).map_err(to_error)?;
            Err(DiskError::Unwritable(name(path)))
        }
        other => other.map_err(to_error),
    }
}

fn lock(file: &File, path: &Path, read_only: bool) -> Result<(), DiskError> {
    let wanted = if read_only {
        FlockOperation::NonBlockingLockShared
    } else {
        FlockOperation::NonBlockingLockExclusive
    };
    match flock(file, wanted) {
        Ok(()) => Ok(()),
        Err(Errno::WOULDBLOCK) => {
            let readers = flock(file, FlockOperation::NonBlockingLockShared).is_ok();
            let path = name(path);
            Err(if readers {
                DiskError::Read(path)
            } else {
                DiskError::Written(path)
            })
        }
        // A file system without locks protects nobody, which is no reason to refuse its disks.
        Err(Errno::OPNOTSUPP | Errno::NOLCK | Errno::NOSYS) => Ok(()),
        Err(e) => Err(DiskError::Io(name(path), e.into())),
    }
}

impl Disk for RawDisk {
    fn size(&self) -> u64 {
        self.size
    }
    fn read_only(&self) -> bool {
        self.read_only
    }
    fn serial(&self) -> &str {
        &self.serial
    }
    fn read_at(&mut self, at: u64, into: &mut [u8]) -> Result<(), BackendError> {
        let done = self.file.read_exact_at(into, at);
        done.map_err(|e| self.failed("read", at, e))
    }
    fn write_at(&mut self, at: u64, from: &[u8]) -> Result<(), BackendError> {
        let done = self.file.write_all_at(from, at);
        done.map_err(|e| self.failed("write", at, e))
    }
    fn flush(&mut self) -> Result<(), BackendError> {
        if self.read_only {
            return Ok(());
        }
        let done = self.file.sync_data();
        done.map_err(|e| self.failed("flush", 0, e))
    }
    fn discard(&mut self, at: u64, len: u64, zero: bool) -> Result<(), BackendError> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match fallocate(&self.file, flags, at, len) {
            Ok(()) => return Ok(()),
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {}
            Err(e) => return Err(self.failed("discard", at, e.into())),
        }
        let mut done = 0;
        while zero && done < len {
            let n = (len - done).min(ZEROES as u64);
            self.write_at(at + done, &[0; ZEROES][..n as usize])?;
            done += n;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// A directory that is removed at the end.
    struct Dir(PathBuf);

    impl Dir {
        fn new() -> Dir {
            static NEXT: AtomicU32 = AtomicU32::new(0);
            let n = NEXT.fetch_add(1, Ordering::Relaxed);
            let name = format!("moinho-raw-{}-{n}", std::process::id());
            let path = std::env::temp_dir().join(name);
            std::fs::create_dir_all(&path).unwrap();
            Dir(path)
        }
        fn file(&self, name: &str, size: usize) -> PathBuf {
            let path = self.0.join(name);
            std::fs::write(&path, vec![7; size]).unwrap();
            path
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn refused(path: &Path, read_only: bool, why: &str) {
        let e = RawDisk::open(path, read_only, "x").unwrap_err().to_string();
        let start = format!("disk {}: ", path.display());
        assert!(e.starts_with(&start) && e.contains(why), "{e}");
        assert!(!e.contains('\n'));
    }

    #[test]
    fn bytes_are_where_they_were_written_and_discarded_ones_are_zero() {
        let dir = Dir::new();
        let path = dir.file("disk.img", 1 << 20);
        let mut disk = RawDisk::open(&path, false, "a very long serial, longer than 20").unwrap();
        assert_eq!(disk.size(), 1 << 20);
        assert_eq!(disk.serial(), "averylongserial,long");
        disk.write_at(512, &[1, 2, 3]).unwrap();
        disk.discard(4096, 8192, true).unwrap();
        disk.flush().unwrap();
        let mut got = [0; 4];
        disk.read_at(511, &mut got).unwrap();
        assert_eq!(got, [7, 1, 2, 3]);
        disk.read_at(12286, &mut got).unwrap();
        assert_eq!(got, [0, 0, 7, 7]);
        let e = disk.read_at((1 << 20) - 2, &mut got).unwrap_err();
        assert!(e.0.contains("shorter"), "{e}");
    }

    #[test]
    fn what_is_no_disk_is_refused_with_its_name_and_the_way_out() {
        let dir = Dir::new();
        refused(&dir.0.join("none"), false, "no such file");
        refused(&dir.0, false, "is a directory");
        refused(Path::new("/dev/null"), false, "character device");
        refused(
            &dir.file("odd", 1000),
            false,
            "1000 bytes are no multiple of 512",
        );
        refused(&dir.file("empty", 0), true, "is empty");
    }

    #[test]
    fn a_disk_is_written_by_one_or_read_by_many() {
        let dir = Dir::new();
        let path = dir.file("disk.img", 1024);
        let writer = RawDisk::open(&path, false, "x").unwrap();
        refused(&path, false, "another VM writes it");
        refused(&path, true, "another VM writes it");
        drop(writer);
        let _first = RawDisk::open(&path, true, "x").unwrap();
        let _second = RawDisk::open(&path, true, "x").unwrap();
        refused(&path, false, "`,ro` or `,cow`");
    }

    #[test]
    fn a_read_only_file_is_not_written() {
        let dir = Dir::new();
        let path = dir.file("disk.img", 1024);
        let mut disk = RawDisk::open(&path, true, "x").unwrap();
        assert!(disk.read_only() && disk.write_at(0, &[0]).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), [7; 1024]);
    }

    #[test]
    fn a_copy_on_write_disk_leaves_its_file_alone() {
        let dir = Dir::new();
        let path = dir.file("disk.img", 200 << 10);
        let spec: DiskSpec = format!("{},cow", path.display()).parse().unwrap();
        let mut a = open_disk(&spec, "x").unwrap();
        let mut b = open_disk(&spec, "x").unwrap();
        a.write_at(1000, &[1; 100]).unwrap();
        let (mut one, mut other) = ([0; 2], [0; 2]);
        a.read_at(999, &mut one).unwrap();
        b.read_at(999, &mut other).unwrap();
        assert_eq!((one, other), ([7, 1], [7, 7]));
        assert_eq!(std::fs::read(&path).unwrap(), vec![7; 200 << 10]);
    }
}
