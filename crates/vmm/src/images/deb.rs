//! Unpacks what a guest needs from a Debian package: an `ar` archive whose member `data.tar.*` is
//! the files. xz is read in-process; other compressions by `dpkg-deb`, which is where apt is.
//!
//! Source: deb(5). Called by `debian` in the module above. `apt` has checked the package's hash.

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};

use super::{ImageError, Progress};

/// Unpacks the kernel, its modules and busybox of `package` below `root`, with the same paths on
/// all releases (`usr/lib/modules` and `usr/bin/busybox` without their `usr`). `dpkg_deb` is the
/// program for compressions that we don't read ourselves.
pub fn unpack(
    package: &Path,
    root: &Path,
    dpkg_deb: Option<&Path>,
    progress: &dyn Progress,
) -> Result<(), ImageError> {
    let unusable = |reason: String| ImageError::Unusable {
        what: format!("package {}", package.display()),
        reason,
    };
    let broken = |error: io::Error| unusable(error.to_string());
    let file = package.file_name().unwrap_or_default().to_string_lossy();
    let step = format!("unpacking {}", file.split('_').next().unwrap_or_default());
    let mut archive = ar::Archive::new(File::open(package).map_err(broken)?);
    while let Some(member) = archive.next_entry() {
        let member = member.map_err(broken)?;
        let name = String::from_utf8_lossy(member.header().identifier()).into_owned();
        let name = name.trim_end_matches('/');
        let total = member.header().size();
        match name {
            "data.tar.xz" => {
                let member = Counted::new(member, &step, total, progress);
                let tar =
                    lzma_rust2::XzReader::new(BufReader::with_capacity(1 << 16, member), true);
                return unpack_tar(tar, root).map_err(broken);
            }
            "data.tar" => {
                return unpack_tar(Counted::new(member, &step, total, progress), root)
                    .map_err(broken);
            }
            _ if name.starts_with("data.tar.") => {
                let program = dpkg_deb.ok_or_else(|| {
                    unusable(format!(
                        "{name}: this compression needs the program dpkg-deb, which is not in PATH"
                    ))
                })?;
                return unpack_by(program, package, root).map_err(broken);
            }
            _ => {}
        }
    }
    Err(unusable("it holds no data.tar".into()))
}

fn unpack_by(program: &Path, package: &Path, root: &Path) -> io::Result<()> {
    let mut child = Command::new(program)
        .arg("--fsys-tarfile")
        .arg(package)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut tar = child.stdout.take().expect("its output is piped");
    let unpacked =
        unpack_tar(&mut tar, root).and_then(|()| io::copy(&mut tar, &mut io::sink()).map(drop));
    drop(tar);
    let status = child.wait()?;
    unpacked?;
    if !status.success() {
        return Err(io::Error::other(format!("dpkg-deb: {status}")));
    }
    Ok(())
}

fn unpack_tar(tar: impl Read, root: &Path) -> io::Result<()> {
    let mut archive = tar::Archive::new(tar);
    for entry in archive.entries()? {
        let mut entry = entry?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let Some(path) = wanted(&entry.path()?) else {
            continue;
        };
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap_or(root))?;
        io::copy(&mut entry, &mut File::create(&path)?)?;
    }
    Ok(())
}

/// Where a file of the package goes, if it is wanted. Only names below the root come out of here.
fn wanted(path: &Path) -> Option<PathBuf> {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    let clean = clean.strip_prefix("usr").unwrap_or(&clean);
    let kernel = clean.starts_with("boot")
        && clean
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz-"));
    (kernel || clean.starts_with("lib/modules") || clean == Path::new("bin/busybox"))
        .then(|| clean.to_owned())
}

/// Reports how much of the package has been read.
struct Counted<'a, R> {
    step: String,
    inner: R,
    done: u64,
    total: u64,
    progress: &'a dyn Progress,
}

impl<'a, R> Counted<'a, R> {
    fn new(inner: R, step: &str, total: u64, progress: &'a dyn Progress) -> Self {
        Counted {
            step: step.to_owned(),
            inner,
            done: 0,
            total,
            progress,
        }
    }
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.done += count as u64;
        self.progress.step(&self.step, self.done, self.total);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::super::progress::Quiet;
    use super::super::tests::Scratch;
    use super::*;
    use std::io::Write as _;

    fn tar_of(files: &[(&str, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, text) in files {
            let mut header = tar::Header::new_ustar();
            // Names that `set_path` would refuse are written as they are.
            header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
            header.set_size(text.len() as u64);
            header.set_mode(0o644);
            header.set_cksum();
            builder.append(&header, text.as_bytes()).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn xz(bytes: &[u8]) -> Vec<u8> {
        let mut writer =
            lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::default()).unwrap();
        writer.write_all(bytes).unwrap();
        writer.finish().unwrap()
    }

    fn deb(path: &Path, data_name: &str, data: &[u8]) {
        let mut builder = ar::Builder::new(File::create(path).unwrap());
        for (name, bytes) in [
            ("debian-binary", &b"2.0\n"[..]),
            ("control.tar.xz", b"-"),
            (data_name, data),
        ] {
            let header = ar::Header::new(name.as_bytes().to_vec(), bytes.len() as u64);
            builder.append(&header, bytes).unwrap();
        }
    }

    const FILES: [(&str, &str); 7] = [
        ("./boot/vmlinuz-1", "kernel"),
        ("./boot/System.map-1", "map"),
        ("./usr/bin/busybox", "box"),
        ("./lib/modules/1/kernel/a.ko", "a"),
        ("./lib/modules/../../../etc/evil", "evil"),
        ("/usr/lib/modules/1/kernel/b.ko", "b"),
        ("./usr/share/doc/x", "doc"),
    ];

    fn tree(root: &Path) -> Vec<String> {
        let mut found = Vec::new();
        let mut folders = vec![root.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let name = path.strip_prefix(root).unwrap().to_str().unwrap();
                    found.push(format!("{name}={}", fs::read_to_string(&path).unwrap()));
                }
            }
        }
        found.sort();
        found
    }

    const UNPACKED: [&str; 4] = [
        "bin/busybox=box",
        "boot/vmlinuz-1=kernel",
        "lib/modules/1/kernel/a.ko=a",
        "lib/modules/1/kernel/b.ko=b",
    ];

    #[test]
    fn kernel_modules_and_busybox_come_out_and_nothing_else() {
        for (name, data) in [
            ("data.tar.xz", xz(&tar_of(&FILES))),
            ("data.tar", tar_of(&FILES)),
        ] {
            let dir = Scratch::new();
            deb(&dir.join("p.deb"), name, &data);
            unpack(&dir.join("p.deb"), &dir.join("root"), None, &Quiet).unwrap();
            assert_eq!(tree(&dir.join("root")), UNPACKED);
            assert!(!dir.join("etc").exists());
        }
    }

    #[test]
    fn other_compressions_go_through_dpkg_deb() {
        let dir = Scratch::new();
        for (path, text) in [
            ("boot/vmlinuz-1", "kernel"),
            ("usr/bin/busybox", "box"),
            (
                "DEBIAN/control",
                "Package: p\nVersion: 1\nArchitecture: all\nMaintainer: x\nDescription: x\n",
            ),
        ] {
            let path = dir.join("p").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        for form in ["gzip", "zstd"] {
            let built = Command::new("dpkg-deb")
                .args(["-q", "-b", "-Z", form, "p", "p.deb"])
                .current_dir(&*dir)
                .stderr(Stdio::null())
                .status();
            if !built.is_ok_and(|status| status.success()) {
                eprintln!("skipped (1): no dpkg-deb that writes {form} on this host");
                continue;
            }
            let program =
                super::super::find_program(&std::env::var_os("PATH").unwrap(), "dpkg-deb");
            let root = dir.join(form);
            unpack(&dir.join("p.deb"), &root, program.as_deref(), &Quiet).unwrap();
            assert_eq!(tree(&root), ["bin/busybox=box", "boot/vmlinuz-1=kernel"]);
        }
    }

    #[test]
    fn an_unknown_compression_without_dpkg_deb_is_named() {
        let dir = Scratch::new();
        deb(&dir.join("p.deb"), "data.tar.zst", b"-");
        let error = unpack(&dir.join("p.deb"), &dir, None, &Quiet).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("data.tar.zst: this compression needs the program dpkg-deb"),
            "{error}"
        );
    }

    #[test]
    fn damaged_packages_are_errors() {
        let good = xz(&tar_of(&FILES));
        for data in [&good[..good.len() / 2], b"", b"not xz at all"] {
            let dir = Scratch::new();
            deb(&dir.join("p.deb"), "data.tar.xz", data);
            assert!(unpack(&dir.join("p.deb"), &dir.join("root"), None, &Quiet).is_err());
        }
        let dir = Scratch::new();
        fs::write(dir.join("p.deb"), "<html>captive portal</html>").unwrap();
        assert!(unpack(&dir.join("p.deb"), &dir.join("root"), None, &Quiet).is_err());
    }
}
