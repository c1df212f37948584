//! Kernel modules for the initramfs: which files, in which order.
//!
//! A kernel package holds no `modules.dep` (depmod writes that when the package is installed), so
//! the dependencies are read where depmod reads them: from each module's `.modinfo` section. What
//! `modules.builtin` names is in the kernel already. Used by `initramfs`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::elf;

/// What a guest on Moinho's board needs, in the order in which it is wanted; dependencies come by
/// themselves. `ext4`, its checksum and `af_packet` (for DHCP) are modules in ordinary kernels and
/// built into cloud kernels; `button` and `evdev` let the host ask the guest to power off.
pub const WANTED: [&str; 15] = [
    "virtio_ring",
    "virtio",
    "virtio_pci",
    "virtio_mmio",
    "virtio_blk",
    "virtio_console",
    "virtio_rng",
    "virtio_net",
    "virtio_balloon",
    "button",
    "evdev",
    "nvme",
    "crc32c_generic",
    "ext4",
    "af_packet",
];

/// One module, ready to be inserted.
#[derive(Debug, PartialEq, Eq)]
pub struct Module {
    /// Its file name in the initramfs: `virtio_blk.ko`.
    pub file: String,
    /// The uncompressed module with its signature.
    pub contents: Vec<u8>,
}

/// The modules of `folder` (`…/lib/modules/<version>`) that `wanted` asks for, each after those it
/// depends on. A module that is built in, absent or unreadable is left out: the guest runs without
/// it, and a line in the log says so.
pub fn select(folder: &Path, wanted: &[&str]) -> Vec<Module> {
    let mut selection = Selection {
        files: BTreeMap::new(),
        present: builtin(folder),
        selected: Vec::new(),
    };
    index(&folder.join("kernel"), &mut selection.files);
    for name in wanted {
        if !selection.add(name) {
            tracing::debug!("module {name}: not in {}", folder.display());
        }
    }
    selection.selected
}

struct Selection {
    files: BTreeMap<String, PathBuf>,
    /// Built in, selected, or being selected.
    present: BTreeSet<String>,
    selected: Vec<Module>,
}

impl Selection {
    /// Selects `name` and before it all it depends on; false when that is not possible.
    fn add(&mut self, name: &str) -> bool {
        if !self.present.insert(name.to_owned()) {
            return true;
        }
        let Some(path) = self.files.get(name).cloned() else {
            self.present.remove(name);
            return false;
        };
        let contents = match read(&path) {
            Ok(contents) => contents,
            Err(reason) => {
                tracing::warn!("module {}: {reason}; left out", path.display());
                self.present.remove(name);
                return false;
            }
        };
        for dependency in depends(&contents) {
            if !self.add(&dependency) {
                tracing::warn!("module {name}: it needs {dependency}, which is absent; left out");
                self.present.remove(name);
                return false;
            }
        }
        self.selected.push(Module {
            file: format!("{name}.ko"),
            contents,
        });
        true
    }
}

/// A module's name as the kernel writes it, from its file name; `None` for other files.
fn module_name(file: &str) -> Option<String> {
    let stem = ["", ".xz", ".gz", ".zst"]
        .iter()
        .find_map(|packed| file.strip_suffix(packed)?.strip_suffix(".ko"))?;
    Some(stem.replace('-', "_"))
}

fn builtin(folder: &Path) -> BTreeSet<String> {
    fs::read_to_string(folder.join("modules.builtin"))
        .unwrap_or_default()
        .lines()
        .filter_map(|line| module_name(line.rsplit('/').next()?))
        .collect()
}

fn index(folder: &Path, files: &mut BTreeMap<String, PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        if kind.is_dir() {
            index(&entry.path(), files);
        } else if let Some(name) = entry.file_name().to_str().and_then(module_name) {
            files.insert(name, entry.path());
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let file = fs::read(path).map_err(|error| error.to_string())?;
    match path.extension().and_then(|ext| ext.to_str()) {
        Some("ko") => Ok(file),
        Some("xz") => {
            let mut contents = Vec::new();
            lzma_rust2::XzReader::new(file.as_slice(), true)
                .read_to_end(&mut contents)
                .map_err(|error| error.to_string())?;
            Ok(contents)
        }
        other => Err(format!(
            "compression {} is not supported",
            other.unwrap_or("?")
        )),
    }
}

/// The names in `depends=` of `.modinfo`, a list of NUL-ended `key=value` strings.
fn depends(module: &[u8]) -> Vec<String> {
    elf::section(module, ".modinfo")
        .unwrap_or_default()
        .split(|&b| b == 0)
        .filter_map(|entry| std::str::from_utf8(entry).ok()?.strip_prefix("depends="))
        .flat_map(|list| list.split(','))
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::Scratch;
    use super::*;
    use std::io::Write as _;

    fn put(folder: &Path, file: &str, depends: &str) {
        let path = folder.join("kernel").join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let info = format!("license=GPL\0depends={depends}\0name=x\0");
        let mut module = elf::tests::module(info.as_bytes());
        if file.ends_with(".xz") {
            let mut writer =
                lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::default()).unwrap();
            writer.write_all(&module).unwrap();
            module = writer.finish().unwrap();
        }
        fs::write(path, module).unwrap();
    }

    fn order(folder: &Path, wanted: &[&str]) -> String {
        let files: Vec<_> = select(folder, wanted).into_iter().map(|m| m.file).collect();
        files.join(" ").replace(".ko", "")
    }

    #[test]
    fn a_module_comes_after_all_it_depends_on_and_once() {
        let dir = Scratch::new();
        put(&dir, "drivers/virtio/virtio.ko", "");
        put(&dir, "drivers/virtio/virtio_ring.ko", "virtio");
        put(&dir, "drivers/net/net-failover.ko.xz", "failover");
        put(&dir, "net/core/failover.ko", "");
        put(
            &dir,
            "drivers/net/virtio_net.ko",
            "virtio_ring,net-failover,virtio",
        );
        assert_eq!(
            order(&dir, &["virtio_net", "virtio"]),
            "virtio virtio_ring failover net_failover virtio_net"
        );
    }

    #[test]
    fn compressed_modules_are_packed_uncompressed() {
        let dir = Scratch::new();
        put(&dir, "virtio.ko.xz", "");
        assert!(
            select(&dir, &["virtio"])[0]
                .contents
                .starts_with(b"\x7fELF")
        );
    }

    #[test]
    fn builtin_absent_unsupported_and_broken_modules_are_left_out() {
        let dir = Scratch::new();
        fs::write(
            dir.join("modules.builtin"),
            "kernel/fs/ext4/ext4.ko\nkernel/a/virtio-ring.ko\n",
        )
        .unwrap();
        put(&dir, "a.ko", "virtio_ring");
        put(&dir, "b.ko.zst", "");
        put(&dir, "c.ko", "b");
        put(&dir, "d.ko", "nowhere");
        fs::write(dir.join("kernel/e.ko.xz"), "not xz").unwrap();
        assert_eq!(order(&dir, &["ext4", "c", "d", "e", "absent", "a"]), "a");
    }

    #[test]
    fn a_circle_of_dependencies_ends() {
        let dir = Scratch::new();
        put(&dir, "a.ko", "b");
        put(&dir, "b.ko", "a");
        assert_eq!(order(&dir, &["a"]), "b a");
    }
}
