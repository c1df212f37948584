//! The parts of `moinho run linux`: a stock Debian kernel and a busybox userland, put together from
//! the host's package manager without any privilege, and kept.
//!
//! [`linux`] looks, in this order, for an image in the cache that is undamaged; for packages
//! through apt (`apt`, `deb`); for the kernel and busybox that this host itself has. What it finds
//! becomes an initramfs (`initramfs`, `modules`, `cpio`) and goes into the `cache`.
//!
//! Called by the command line. Knows nothing of machines: the result is two files and a kernel
//! command line, for any loader.

mod apt;
mod cache;
pub mod cpio;
mod deb;
mod elf;
mod initramfs;
mod interrupt;
mod modules;
mod progress;

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use interrupt::Interrupt;
pub use progress::{Progress, Quiet, Terminal};

/// A Linux that is ready to boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinuxImage {
    /// A bzImage.
    pub kernel: PathBuf,
    /// A cpio archive for it.
    pub initrd: PathBuf,
    /// The kernel command line it wants: console on the first serial port.
    pub append: String,
    /// What it was made of.
    pub origin: Origin,
}

/// What an image was made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Origin {
    /// Packages that apt fetched and checked, each `name version`.
    Packages(Vec<String>),
    /// Files of this host.
    Host {
        /// Its kernel.
        kernel: PathBuf,
        /// Its busybox.
        busybox: PathBuf,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Packages(packages) => f.write_str(&packages.join(", ")),
            Origin::Host { kernel, busybox } => write!(
                f,
                "this host's {} and {}",
                kernel.display(),
                busybox.display()
            ),
        }
    }
}

impl LinuxImage {
    fn new(kernel: PathBuf, initrd: PathBuf, origin: Origin) -> Self {
        LinuxImage {
            kernel,
            initrd,
            // The self-tests of the kernel's ciphers are half of the time that booting takes.
            append: "console=ttyS0 panic=-1 quiet cryptomgr.notests".into(),
            origin,
        }
    }
}

/// Why there is no image, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// There is no place for a cache.
    #[error(
        "cache folder: neither XDG_CACHE_HOME nor HOME is an absolute path; set XDG_CACHE_HOME to a folder that may hold 15 MB"
    )]
    NoCacheFolder,
    /// The cache can't be written.
    #[error("cache folder: {}: {source}; free or permit it, or set XDG_CACHE_HOME to another folder", path.display())]
    Cache {
        /// What could not be read or written.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// apt did not give the packages.
    #[error("{0}")]
    Apt(String),
    /// A part is not what it should be.
    #[error("{what}: {reason}; try again, or give --kernel and --initrd")]
    Unusable {
        /// The part.
        what: String,
        /// What is wrong.
        reason: String,
    },
    /// Neither packages nor the host's own files will do.
    #[error(
        "no Linux to run: Debian packages: {apt}; this host's own kernel: {host}; connect to the network, or give --kernel and --initrd"
    )]
    Nothing {
        /// What apt said.
        apt: String,
        /// What the host lacks.
        host: String,
    },
    /// A signal of the host came while the image was put together.
    #[error("ended by signal {0}")]
    Interrupted(i32),
    /// A command that does not fit on a kernel command line.
    #[error(
        "command for the guest: {bytes} bytes is more than the {limit} that fit on a kernel command line; put it into a script on a disk and run that"
    )]
    CommandTooLong {
        /// Its length as it would be passed.
        bytes: usize,
        /// The most that is taken.
        limit: usize,
    },
}

impl ImageError {
    fn cache(path: &Path, source: io::Error) -> Self {
        ImageError::Cache {
            path: path.to_owned(),
            source,
        }
    }

    /// For a message that gives its own.
    fn without_way_out(&self) -> String {
        match self {
            ImageError::Unusable { what, reason } => format!("{what}: {reason}"),
            other => other.to_string(),
        }
    }
}

/// A Linux to run, from the cache or put together now.
pub fn linux(progress: &dyn Progress) -> Result<LinuxImage, ImageError> {
    Host::this().linux(progress)
}

/// The parts of a Linux, unpacked, with kernel modules beside those that [`linux`] packs.
#[derive(Debug)]
pub struct LinuxParts {
    /// A bzImage.
    pub kernel: Vec<u8>,
    /// The initramfs of [`linux`].
    pub initrd: Vec<u8>,
    /// A static busybox.
    pub busybox: Vec<u8>,
    /// The modules that were asked for, each after those it needs: file name and contents.
    pub modules: Vec<(String, Vec<u8>)>,
}

/// Fetches the packages anew and takes them apart: for a test rig that boots a Linux of its own.
pub fn linux_parts(wanted: &[&str], progress: &dyn Progress) -> Result<LinuxParts, ImageError> {
    let host = Host::this();
    let cache = cache::Cache::new(host.cache_folder()?);
    let turn = cache.take_turn(progress)?;
    let work = cache.work(&turn)?;
    let parts = host.parts_of_packages(&work.folder, progress, &Interrupt::watch());
    progress.finish();
    let parts = parts?;
    let root = work.folder.join("root");
    let version = kernel_versions(&root).into_iter().next();
    let version = version.ok_or_else(|| missing("kernel packages", "no boot/vmlinuz-*"))?;
    let busybox = root.join("bin/busybox");
    let busybox = fs::read(&busybox).map_err(|e| missing("busybox", &e.to_string()))?;
    let modules = modules::select(&root.join("lib/modules").join(version), wanted);
    Ok(LinuxParts {
        kernel: parts.kernel,
        initrd: parts.initrd,
        busybox,
        modules: modules.into_iter().map(|m| (m.file, m.contents)).collect(),
    })
}

/// The longest argument that [`run_argument`] makes: x86 Linux takes a command line of 2047 bytes.
const RUN_ARGUMENT_LIMIT: usize = 1900;

/// The kernel argument that makes the guest run `command` with its shell, print
/// `moinho.run: exit status N` and power off.
pub fn run_argument(command: &str) -> Result<String, ImageError> {
    let plain = !command.is_empty()
        && command
            .bytes()
            .all(|b| matches!(b, b' '..=b'~') && b != b'"')
        && !command.contains("moinho.run");
    let argument = if plain {
        format!("moinho.run=\"{command}\"")
    } else {
        format!("moinho.run64={}", base64(command.as_bytes()))
    };
    if argument.len() > RUN_ARGUMENT_LIMIT {
        return Err(ImageError::CommandTooLong {
            bytes: argument.len(),
            limit: RUN_ARGUMENT_LIMIT,
        });
    }
    Ok(argument)
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let word =
            group.iter().fold(0, |word, &b| word << 8 | u32::from(b)) << (8 * (3 - group.len()));
        for n in 0..4 {
            text.push(if n <= group.len() {
                DIGITS[(word >> (18 - 6 * n)) as usize & 63].into()
            } else {
                '='
            });
        }
    }
    text
}

/// What this module reads of the host; tests make their own.
struct Host {
    xdg_cache_home: Option<OsString>,
    home: Option<OsString>,
    /// The search path for programs.
    path: OsString,
    /// Where `/boot` and `/lib/modules` are looked for.
    root: PathBuf,
}

impl Host {
    fn this() -> Self {
        Host {
            xdg_cache_home: std::env::var_os("XDG_CACHE_HOME"),
            home: std::env::var_os("HOME"),
            path: std::env::var_os("PATH").unwrap_or_default(),
            root: PathBuf::from("/"),
        }
    }

    fn linux(&self, progress: &dyn Progress) -> Result<LinuxImage, ImageError> {
        let cache = cache::Cache::new(self.cache_folder()?);
        if let Some(image) = cache.find() {
            return Ok(image);
        }
        let turn = cache.take_turn(progress)?;
        // Whoever held the lock before may have built it.
        if let Some(image) = cache.find() {
            progress.finish();
            return Ok(image);
        }
        let interrupt = interrupt::Interrupt::watch();
        let work = cache.work(&turn)?;
        let parts = self.parts(&work, progress, &interrupt);
        progress.finish();
        let parts = parts?;
        interrupt.check()?;
        cache.put(&work, &parts.kernel, &parts.initrd, parts.origin)
    }

    /// `$XDG_CACHE_HOME/moinho`, or `~/.cache/moinho`. A relative path counts as unset (XDG Base
    /// Directory Specification, "Basics").
    fn cache_folder(&self) -> Result<PathBuf, ImageError> {
        let absolute = |value: &Option<OsString>| {
            let path = PathBuf::from(value.as_ref()?);
            path.is_absolute().then_some(path)
        };
        absolute(&self.xdg_cache_home)
            .or_else(|| Some(absolute(&self.home)?.join(".cache")))
            .map(|folder| folder.join("moinho"))
            .ok_or(ImageError::NoCacheFolder)
    }

    fn parts(
        &self,
        work: &cache::Work,
        progress: &dyn Progress,
        interrupt: &Interrupt,
    ) -> Result<Parts, ImageError> {
        let apt = match self.parts_of_packages(&work.folder, progress, interrupt) {
            Ok(parts) => return Ok(parts),
            Err(error) if interrupt.check().is_err() => {
                return Err(interrupt.check().err().unwrap_or(error));
            }
            // Where nothing can be written there is no other way either.
            Err(error @ ImageError::Cache { .. }) => return Err(error),
            Err(error) => error.without_way_out(),
        };
        tracing::info!("{apt}; trying this host's own kernel");
        progress.step("packing this host's own kernel", 0, 0);
        self.parts_of_host().map_err(|error| ImageError::Nothing {
            apt,
            host: error.without_way_out(),
        })
    }

    fn parts_of_packages(
        &self,
        work: &Path,
        progress: &dyn Progress,
        interrupt: &Interrupt,
    ) -> Result<Parts, ImageError> {
        let apt = apt::Apt::new(&self.path, &work.join("apt"), progress, interrupt)?;
        let packages = apt.fetch()?;
        let root = work.join("root");
        let dpkg_deb = find_program(&self.path, "dpkg-deb");
        for package in &packages {
            interrupt.check()?;
            deb::unpack(&package.file, &root, dpkg_deb.as_deref(), progress)?;
        }
        let titles = packages.into_iter().map(|package| package.title).collect();
        let version = kernel_versions(&root).into_iter().next();
        let version = version.ok_or_else(|| missing("kernel packages", "no boot/vmlinuz-*"))?;
        Parts::of_tree(
            &root,
            &version,
            &root.join("bin/busybox"),
            Origin::Packages(titles),
        )
    }

    fn parts_of_host(&self) -> Result<Parts, ImageError> {
        let busybox = find_program(&self.path, "busybox")
            .ok_or_else(|| missing("busybox", "it is not in PATH"))?;
        let running = fs::read_to_string(self.root.join("proc/sys/kernel/osrelease"));
        let running = running.unwrap_or_default().trim().to_owned();
        let mut versions = kernel_versions(&self.root);
        versions.sort_by_key(|version| *version != running);
        let mut problem = missing("/boot", "there is no vmlinuz-*");
        for version in versions {
            let origin = Origin::Host {
                kernel: kernel_path(&self.root, &version),
                busybox: busybox.clone(),
            };
            match Parts::of_tree(&self.root, &version, &busybox, origin) {
                Ok(parts) => return Ok(parts),
                Err(error) => problem = error,
            }
        }
        Err(problem)
    }
}

/// What goes into the cache.
struct Parts {
    kernel: Vec<u8>,
    initrd: Vec<u8>,
    origin: Origin,
}

impl Parts {
    /// From a tree with `boot` and `lib/modules`.
    fn of_tree(
        root: &Path,
        version: &str,
        busybox: &Path,
        origin: Origin,
    ) -> Result<Self, ImageError> {
        let read = |path: &Path| {
            fs::read(path).map_err(|error| missing(&path.display().to_string(), &error.to_string()))
        };
        let path = kernel_path(root, version);
        let kernel = read(&path)?;
        if kernel.get(0x202..0x206) != Some(b"HdrS") {
            let path = path.display().to_string();
            return Err(missing(&path, "it is not an x86 bzImage"));
        }
        let modules = root.join("lib/modules").join(version);
        let initrd = initramfs::pack(&modules, &read(busybox)?)?;
        Ok(Parts {
            kernel,
            initrd,
            origin,
        })
    }
}

fn kernel_path(root: &Path, version: &str) -> PathBuf {
    root.join(format!("boot/vmlinuz-{version}"))
}

/// The versions of the kernels in `boot` that have modules, newest first as far as names tell.
fn kernel_versions(root: &Path) -> Vec<String> {
    let mut versions: Vec<String> = fs::read_dir(root.join("boot"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            Some(
                entry
                    .file_name()
                    .to_str()?
                    .strip_prefix("vmlinuz-")?
                    .to_owned(),
            )
        })
        .filter(|version| root.join("lib/modules").join(version).is_dir())
        .collect();
    versions.sort_by_key(|version| std::cmp::Reverse(numbers(version)));
    versions
}

/// The numbers in a version, for ordering: 6.10 is newer than 6.9.
fn numbers(version: &str) -> Vec<u64> {
    version
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|part| part.parse().ok())
        .collect()
}

fn missing(what: &str, reason: &str) -> ImageError {
    ImageError::Unusable {
        what: what.into(),
        reason: reason.into(),
    }
}

/// The file that `name` would run.
fn find_program(path: &OsStr, name: &str) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt as _;
    std::env::split_paths(path)
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(name))
        .find(|file| {
            fs::metadata(file).is_ok_and(|f| f.is_file() && f.permissions().mode() & 0o111 != 0)
        })
}

#[cfg(test)]
mod tests;
