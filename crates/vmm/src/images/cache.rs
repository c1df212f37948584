//! Keeps what was put together: a folder `linux` that appears whole or not at all, checked against
//! its manifest before every use.
//!
//! ```text
//! ~/.cache/moinho/lock            held by whoever builds
//! ~/.cache/moinho/linux/          vmlinuz, initrd, manifest.json
//! ~/.cache/moinho/linux.tmp-PID/  being built; a leftover if nobody holds the lock
//! ```
//!
//! A valid image is used without the lock and without writing, so a read-only cache serves too.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{ImageError, LinuxImage, Origin, Progress, initramfs};

const IMAGE: &str = "linux";
const TEMPORARY: &str = "linux.tmp-";
const KERNEL: &str = "vmlinuz";
const INITRD: &str = "initrd";
const MANIFEST: &str = "manifest.json";

#[derive(Serialize, Deserialize)]
struct Manifest {
    /// SHA-256 of what this version of Moinho would pack beside the packages.
    recipe: String,
    origin: Origin,
    kernel: Sum,
    initrd: Sum,
}

#[derive(Serialize, Deserialize, PartialEq, Eq)]
struct Sum {
    bytes: u64,
    sha256: String,
}

/// The cache folder of one user.
pub struct Cache {
    folder: PathBuf,
}

/// The right to build, held until dropped.
pub struct Turn {
    _lock: File,
}

/// A folder to build in, removed when dropped.
pub struct Work {
    /// Where it is.
    pub folder: PathBuf,
}

impl Drop for Work {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl Cache {
    /// The cache in `folder`, which need not exist.
    pub fn new(folder: PathBuf) -> Self {
        Cache { folder }
    }

    /// The image, if it is there, made by this recipe and undamaged.
    pub fn find(&self) -> Option<LinuxImage> {
        let folder = self.folder.join(IMAGE);
        let manifest = fs::read(folder.join(MANIFEST)).ok()?;
        let manifest: Manifest = match serde_json::from_slice(&manifest) {
            Ok(manifest) => manifest,
            Err(error) => {
                tracing::warn!("{}: {error}; building anew", folder.display());
                return None;
            }
        };
        if manifest.recipe != recipe() {
            return None;
        }
        let image = LinuxImage::new(folder.join(KERNEL), folder.join(INITRD), manifest.origin);
        for (path, expected) in [
            (&image.kernel, &manifest.kernel),
            (&image.initrd, &manifest.initrd),
        ] {
            if sum_of_file(path, expected.bytes).as_ref() != Some(expected) {
                tracing::warn!("{} is damaged; building anew", path.display());
                return None;
            }
        }
        Some(image)
    }

    /// Waits until nobody else builds, and clears away what a killed run left behind.
    pub fn take_turn(&self, progress: &dyn Progress) -> Result<Turn, ImageError> {
        fs::create_dir_all(&self.folder).map_err(|e| ImageError::cache(&self.folder, e))?;
        let path = self.folder.join("lock");
        let lock = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|e| ImageError::cache(&path, e))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                progress.step("waiting for another moinho to prepare Linux", 0, 0);
                lock.lock().map_err(|e| ImageError::cache(&path, e))?;
            }
            Err(TryLockError::Error(error)) => return Err(ImageError::cache(&path, error)),
        }
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(TEMPORARY) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        Ok(Turn { _lock: lock })
    }

    /// A fresh folder to build in.
    pub fn work(&self, _turn: &Turn) -> Result<Work, ImageError> {
        let folder = self
            .folder
            .join(format!("{TEMPORARY}{}", std::process::id()));
        fs::create_dir(&folder).map_err(|e| ImageError::cache(&folder, e))?;
        Ok(Work { folder })
    }

    /// Puts an image in place, in one step.
    pub fn put(
        &self,
        work: &Work,
        kernel: &[u8],
        initrd: &[u8],
        origin: Origin,
    ) -> Result<LinuxImage, ImageError> {
        let manifest = Manifest {
            recipe: recipe(),
            kernel: sum(kernel),
            initrd: sum(initrd),
            origin: origin.clone(),
        };
        let manifest =
            serde_json::to_vec_pretty(&manifest).expect("a manifest of strings and numbers");
        let fresh = work.folder.join(IMAGE);
        fs::create_dir(&fresh).map_err(|e| ImageError::cache(&fresh, e))?;
        for (name, bytes) in [(KERNEL, kernel), (INITRD, initrd), (MANIFEST, &manifest)] {
            let path = fresh.join(name);
            let written = File::create(&path).and_then(|mut file| {
                io::Write::write_all(&mut file, bytes)?;
                file.sync_all()
            });
            written.map_err(|e| ImageError::cache(&path, e))?;
        }
        let place = self.folder.join(IMAGE);
        let old = work.folder.join("old");
        match fs::rename(&place, &old) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(ImageError::cache(&place, error));
            }
            _ => {}
        }
        fs::rename(&fresh, &place).map_err(|e| ImageError::cache(&place, e))?;
        Ok(LinuxImage::new(
            place.join(KERNEL),
            place.join(INITRD),
            origin,
        ))
    }
}

fn recipe() -> String {
    hex(initramfs::recipe().as_bytes())
}

fn sum(bytes: &[u8]) -> Sum {
    Sum {
        bytes: bytes.len() as u64,
        sha256: hex(bytes),
    }
}

/// The sum of a file, or nothing when its length alone says that it is another.
fn sum_of_file(path: &Path, expected_bytes: u64) -> Option<Sum> {
    if fs::metadata(path).ok()?.len() != expected_bytes {
        return None;
    }
    Some(sum(&fs::read(path).ok()?))
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
