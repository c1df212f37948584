//! Fetches packages with the host's apt, as an ordinary user, in a folder of our own: the host's
//! package lists, cache, status and locks are never touched, its hooks never run. Which archives
//! there are, how to reach them and whom to trust stays what the host says (`/etc/apt`); apt checks
//! signatures and hashes.
//!
//! Called by `debian` in the module above; runs `apt-get` and `apt-cache`.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::interrupt::Interrupt;
use super::{ImageError, Progress};

/// Metapackages that lead to a kernel, best first: Debian's cloud kernel, Debian's ordinary one,
/// Ubuntu's for virtual machines.
const KERNELS: [&str; 3] = [
    "linux-image-cloud-amd64",
    "linux-image-amd64",
    "linux-image-virtual",
];

/// How dependencies of those are called when they hold the kernel or its modules.
const PAYLOADS: [&str; 3] = ["linux-image-", "linux-binary-", "linux-modules-"];

/// Read after the host's configuration. Hooks are for the host's own package state; DEP-11 is
/// megabytes of icons. apt's own cache of the lists, off in container images, makes the second and
/// third run of apt here quick.
const CONFIGURATION: &str = "\
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear Acquire::IndexTargets::deb::DEP-11;
#clear Acquire::IndexTargets::deb::DEP-11-icons;
#clear Acquire::IndexTargets::deb::DEP-11-icons-small;
Acquire::Languages \"none\";
Acquire::GzipIndexes \"false\";
Dir::Cache::pkgcache \"pkgcache.bin\";
Acquire::AllowInsecureRepositories \"false\";
Acquire::AllowWeakRepositories \"false\";
APT::Get::AllowUnauthenticated \"false\";
Acquire::http::Timeout \"20\";
Acquire::https::Timeout \"20\";
Acquire::Retries \"1\";
";

/// Pauses between attempts: a mirror in the middle of its synchronisation is consistent again after
/// a moment.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(3)];

/// A fetched package.
pub struct Package {
    /// Name and version, `busybox-static 1:1.35.0-4`.
    pub title: String,
    /// Where the .deb is.
    pub file: PathBuf,
}

/// apt with its own folder.
pub struct Apt<'a> {
    get: PathBuf,
    cache: PathBuf,
    path: OsString,
    folder: PathBuf,
    progress: &'a dyn Progress,
    interrupt: &'a Interrupt,
}

impl<'a> Apt<'a> {
    /// Prepares apt to work in `folder`, which must not exist. `path` is the search path.
    pub fn new(
        path: &OsString,
        folder: &Path,
        progress: &'a dyn Progress,
        interrupt: &'a Interrupt,
    ) -> Result<Self, ImageError> {
        let program = |name: &str| {
            super::find_program(path, name)
                .ok_or_else(|| ImageError::Apt(format!("{name} is not in PATH")))
        };
        let apt = Apt {
            get: program("apt-get")?,
            cache: program("apt-cache")?,
            path: path.clone(),
            folder: folder.to_owned(),
            progress,
            interrupt,
        };
        for part in ["state/lists/partial", "cache/archives/partial", "packages"] {
            let part = folder.join(part);
            fs::create_dir_all(&part).map_err(|e| ImageError::cache(&part, e))?;
        }
        for (name, text) in [("apt.conf", CONFIGURATION), ("status", "")] {
            let file = folder.join(name);
            fs::write(&file, text).map_err(|e| ImageError::cache(&file, e))?;
        }
        Ok(apt)
    }

    /// The kernel's packages and busybox, fetched.
    pub fn fetch(&self) -> Result<Vec<Package>, ImageError> {
        let mut names = self.names()?;
        names.insert("busybox-static".into());
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let list = self.run(
            &self.get,
            &[&["download", "--print-uris"], &names[..]].concat(),
            None,
        )?;
        let files = print_uris(&list);
        if files.len() != names.len() {
            return Err(ImageError::Apt(format!(
                "not all of {} are in the archives of /etc/apt",
                names.join(", ")
            )));
        }
        let folder = self.folder.join("packages");
        let total = files.iter().map(|(_, size)| size).sum();
        self.retry(|| {
            let watch = Watch {
                step: "downloading a kernel and busybox",
                folder: &folder,
                total,
            };
            self.run(
                &self.get,
                &[&["download"], &names[..]].concat(),
                Some(watch),
            )
        })?;
        files
            .into_iter()
            .map(|(name, size)| {
                let file = folder.join(&name);
                match fs::metadata(&file) {
                    Ok(found) if found.len() == size => Ok(Package {
                        title: title(&name),
                        file,
                    }),
                    _ => Err(ImageError::Apt(format!("{name} is missing or cut short"))),
                }
            })
            .collect()
    }

    /// Reads the archives' lists and finds the packages that hold a kernel.
    fn names(&self) -> Result<BTreeSet<String>, ImageError> {
        let lists = self.folder.join("state/lists");
        self.retry(|| {
            let watch = Watch {
                step: "reading the package lists",
                folder: &lists,
                total: 0,
            };
            // An archive that fails (a third party's, an index in synchronisation) does not matter
            // as long as another one has the kernel.
            let updated = self.run(&self.get, &["update", "--quiet"], Some(watch));
            for kernel in KERNELS {
                let names = self.payloads(kernel);
                if !names.is_empty() {
                    return Ok(names);
                }
            }
            updated.and_then(|output| {
                Err(ImageError::Apt(match trouble(&output) {
                    Some(line) => line,
                    None => format!("no archive of /etc/apt has {}", KERNELS.join(" or ")),
                }))
            })
        })
    }

    /// The packages below `metapackage` that hold a kernel or its modules: its name changes with
    /// every security update, and what is one package here is three there.
    fn payloads(&self, metapackage: &str) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        let mut open = vec![metapackage.to_owned()];
        while let Some(name) = open.pop() {
            let arguments = ["depends", "--important", &name];
            let text = self.run(&self.cache, &arguments, None).unwrap_or_default();
            for name in dependencies(&text) {
                if found.insert(name.clone()) {
                    open.push(name);
                }
            }
        }
        found
    }

    fn retry<T>(&self, attempt: impl Fn() -> Result<T, ImageError>) -> Result<T, ImageError> {
        let mut result = attempt();
        for pause in PAUSES {
            match &result {
                Err(error) if is_transient(&error.to_string()) => {
                    tracing::info!("{error}; trying again");
                    std::thread::sleep(pause);
                    result = attempt();
                }
                _ => break,
            }
        }
        result
    }

    /// Runs a program of apt; its output with its complaints after it.
    fn run(
        &self,
        program: &Path,
        arguments: &[&str],
        watch: Option<Watch>,
    ) -> Result<String, ImageError> {
        let option = |key: &str, part: &str| {
            let mut option = OsString::from(key);
            option.push("=");
            option.push(self.folder.join(part));
            option
        };
        let log = self.folder.join("output");
        let broken = |error| ImageError::cache(&log, error);
        let output = File::create(&log).map_err(broken)?;
        let mut child = Command::new(program)
            .arg("-c")
            .arg(self.folder.join("apt.conf"))
            .arg("-o")
            .arg(option("Dir::State", "state"))
            .arg("-o")
            .arg(option("Dir::State::status", "status"))
            .arg("-o")
            .arg(option("Dir::Cache", "cache"))
            .args(arguments)
            .current_dir(self.folder.join("packages"))
            .env("PATH", &self.path)
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .stderr(output.try_clone().map_err(broken)?)
            .stdout(output)
            .spawn()
            .map_err(|error| ImageError::Apt(format!("{}: {error}", program.display())))?;
        let status = loop {
            if let Err(interrupted) = self.interrupt.check() {
                let _ = child.kill();
                let _ = child.wait();
                return Err(interrupted);
            }
            if let Some(watch) = &watch {
                let done = size_of(watch.folder);
                self.progress.step(watch.step, done, watch.total);
            }
            match child.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) => {
                    std::thread::sleep(Duration::from_millis(if watch.is_some() { 50 } else { 5 }))
                }
                Err(error) => return Err(ImageError::Apt(error.to_string())),
            }
        };
        let output = String::from_utf8_lossy(&fs::read(&log).map_err(broken)?).into_owned();
        if !status.success() {
            let line = trouble(&output).unwrap_or_else(|| format!("apt ended with {status}"));
            return Err(ImageError::Apt(line));
        }
        Ok(output)
    }
}

/// Progress of a child, seen from a folder that it fills.
struct Watch<'a> {
    step: &'static str,
    folder: &'a Path,
    total: u64,
}

fn size_of(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| Some((entry.path(), entry.metadata().ok()?)))
        .map(|(path, found)| match found.is_dir() {
            true => size_of(&path),
            false => found.len(),
        })
        .sum()
}

/// The complaint in apt's output that says most.
fn trouble(output: &str) -> Option<String> {
    ["E: ", "W: Failed to fetch ", "Err:", "W: "]
        .iter()
        .find_map(|mark| output.lines().find_map(|line| line.strip_prefix(mark)))
        .map(|line| line.trim().to_owned())
}

/// Complaints that time mends. A name that can't be resolved or a network that is not there is
/// tried anew by apt itself (`Acquire::Retries`) and not by us, so that a host without network gets
/// its answer soon.
fn is_transient(message: &str) -> bool {
    [
        "unexpected size",
        "Hash Sum mismatch",
        "sync in progress",
        "Connection timed out",
        "Connection failed",
        "Connection reset",
        " 404 ",
        " 429 ",
        " 500 ",
        " 502 ",
        " 503 ",
        " 504 ",
        "Undetermined Error",
        "Could not get lock",
        "cut short",
    ]
    .iter()
    .any(|mark| message.contains(mark))
}

/// The kernel's packages among the dependencies that `apt-cache depends` prints.
fn dependencies(text: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| {
            let line = line.trim_start().trim_start_matches('|');
            let name = line
                .strip_prefix("Depends: ")
                .or_else(|| line.strip_prefix("PreDepends: "))?;
            (PAYLOADS.iter().any(|start| name.starts_with(start))
                && !name.starts_with("linux-modules-extra-"))
            .then(|| name.trim().to_owned())
        })
        .collect()
}

/// File names and sizes of `apt-get download --print-uris`: lines `'URI' file size hash`.
fn print_uris(text: &str) -> Vec<(String, u64)> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.strip_prefix('\'')?.split_once("' ")?.1.split(' ');
            let (name, size) = (fields.next()?, fields.next()?.parse().ok()?);
            (name.ends_with(".deb") && !name.contains('/')).then(|| (name.to_owned(), size))
        })
        .collect()
}

/// `name_1%3aversion_arch.deb` as `name 1:version`.
fn title(file: &str) -> String {
    let mut parts = file.split('_');
    let name = parts.next().unwrap_or(file);
    match parts.next() {
        Some(version) => format!("{name} {}", version.replace("%3a", ":")),
        None => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_real_kernel_package_is_among_the_dependencies() {
        let text = "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-56-cloud-amd64\n";
        assert_eq!(dependencies(text), ["linux-image-6.1.0-56-cloud-amd64"]);
        let text = "x\n  PreDepends: linux-binary-7\n |Depends: initramfs-tools\n  Depends: \
                    <linux-initramfs-tool>\n  Depends: linux-modules-7\n  Depends: \
                    linux-modules-extra-7\n  Breaks: linux-image-9\n";
        assert_eq!(dependencies(text), ["linux-binary-7", "linux-modules-7"]);
    }

    #[test]
    fn names_and_sizes_are_read_from_the_list_of_uris() {
        let text = "W: something\n'http://d/p/busybox-static_1.35.0_amd64.deb' \
                    busybox-static_1%3a1.35.0-4+b1_amd64.deb 928188 SHA256:ab\n\
                    'http://d/x' ../evil.deb 5 SHA256:ab\n";
        let files = print_uris(text);
        assert_eq!(
            files,
            [(
                "busybox-static_1%3a1.35.0-4+b1_amd64.deb".to_owned(),
                928188
            )]
        );
        assert_eq!(title(&files[0].0), "busybox-static 1:1.35.0-4+b1");
    }

    #[test]
    fn a_synchronising_mirror_is_tried_again_and_a_missing_network_is_not() {
        assert!(is_transient(
            "File has unexpected size (1 != 2). Mirror sync in progress?"
        ));
        assert!(is_transient(
            "Failed to fetch http://d/x  503  Service Unavailable"
        ));
        assert!(!is_transient(
            "Temporary failure resolving 'deb.debian.org'"
        ));
        assert_eq!(
            trouble("Get:1 x\nW: Failed to fetch y\nE: Z\n").as_deref(),
            Some("Z")
        );
        assert_eq!(
            trouble("Err:1 http://d x\nW: odd\nW: Failed to fetch http://d  no network\n")
                .as_deref(),
            Some("http://d  no network")
        );
    }
}
