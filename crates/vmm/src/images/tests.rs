//! The whole way, on hosts made up by the test; then once with the real apt, and once in QEMU.

use std::io::{Read as _, Write as _};
use std::ops::Deref;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::*;

/// A folder of one test, removed at its end.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("moinho-images-{}-{n}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }
}

impl Deref for Scratch {
    type Target = Path;
    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Notes the steps.
#[derive(Default)]
struct Steps(Mutex<Vec<String>>);

impl Progress for Steps {
    fn step(&self, name: &str, _done: u64, _total: u64) {
        self.0.lock().unwrap().push(name.to_owned());
    }
}

impl Steps {
    fn count(&self, name: &str) -> usize {
        let steps = self.0.lock().unwrap();
        steps.iter().filter(|step| step.contains(name)).count()
    }
}

const BUILT: &str = "packing this host's own kernel";

/// A host without apt, with two kernels and a busybox.
fn host(dir: &Path) -> Host {
    let mut kernel = vec![0; 0x1000];
    kernel[0x202..0x206].copy_from_slice(b"HdrS");
    for version in ["6.9.1-x", "6.10.0-x"] {
        let module = dir.join(format!("lib/modules/{version}/kernel/virtio.ko"));
        fs::create_dir_all(module.parent().unwrap()).unwrap();
        fs::write(module, elf::tests::module(b"depends=\0")).unwrap();
        fs::create_dir_all(dir.join("boot")).unwrap();
        fs::write(kernel_path(dir, version), &kernel).unwrap();
    }
    program(&dir.join("bin/busybox"), &elf::tests::program(1));
    Host {
        xdg_cache_home: Some(dir.join("cache").into()),
        home: None,
        path: dir.join("bin").into(),
        root: dir.to_owned(),
    }
}

fn program(path: &Path, contents: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, contents).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn entries(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn the_cache_folder_follows_the_xdg_rules() {
    let folder = |xdg: Option<&str>, home: Option<&str>| {
        let host = Host {
            xdg_cache_home: xdg.map(Into::into),
            home: home.map(Into::into),
            path: OsString::new(),
            root: PathBuf::from("/"),
        };
        host.cache_folder().ok()
    };
    let home = Some(PathBuf::from("/home/u/.cache/moinho"));
    assert_eq!(
        folder(Some("/c"), Some("/home/u")),
        Some("/c/moinho".into())
    );
    assert_eq!(folder(None, Some("/home/u")), home);
    assert_eq!(folder(Some(""), Some("/home/u")), home);
    assert_eq!(folder(Some("relative"), Some("/home/u")), home);
    assert_eq!(folder(Some("relative"), Some("also")), None);
    assert_eq!(folder(None, None), None);
}

#[test]
fn without_apt_the_host_s_own_newest_kernel_is_packed_and_kept() {
    let dir = Scratch::new();
    let host = host(&dir);
    let steps = Steps::default();
    let image = host.linux(&steps).unwrap();
    assert_eq!(
        image.origin,
        Origin::Host {
            kernel: dir.join("boot/vmlinuz-6.10.0-x"),
            busybox: dir.join("bin/busybox"),
        }
    );
    assert_eq!(host.linux(&steps).unwrap(), image);
    assert_eq!(steps.count(BUILT), 1);
    assert_eq!(entries(&dir.join("cache/moinho")), ["linux", "lock"]);

    let members = cpio::tests::parse(&fs::read(&image.initrd).unwrap());
    let find = |name: &str| members.iter().find(|(path, ..)| path == name).unwrap();
    assert_eq!(find("init").3, initramfs::INIT.as_bytes());
    assert_eq!(find("bin/sh").3, b"busybox");
    assert_eq!(find("dev/console").2, (5, 1));
    assert_eq!(find("dev/null").2, (1, 3));
    assert_eq!(find("etc/hostname").3, b"moinho\n");
    assert_eq!(find("lib/modules/order").3, b"virtio.ko\n");
    for folder in ["proc", "sys", "dev", "tmp", "mnt", "root", "etc"] {
        assert_eq!(find(folder).1 & 0o170000, 0o040000);
    }
}

#[test]
fn the_running_kernel_is_preferred() {
    let dir = Scratch::new();
    let host = host(&dir);
    fs::create_dir_all(dir.join("proc/sys/kernel")).unwrap();
    fs::write(dir.join("proc/sys/kernel/osrelease"), "6.9.1-x\n").unwrap();
    let origin = host.linux(&Quiet).unwrap().origin.to_string();
    assert!(origin.contains("vmlinuz-6.9.1-x"), "{origin}");
}

#[test]
fn a_damaged_cache_is_built_anew() {
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 6] = [
        ("a flipped bit", |f| {
            let mut kernel = fs::read(f.join("vmlinuz")).unwrap();
            kernel[100] ^= 1;
            fs::write(f.join("vmlinuz"), kernel).unwrap();
        }),
        ("a cut initrd", |f| {
            let initrd = fs::read(f.join("initrd")).unwrap();
            fs::write(f.join("initrd"), &initrd[..initrd.len() / 2]).unwrap();
        }),
        ("no kernel", |f| fs::remove_file(f.join("vmlinuz")).unwrap()),
        ("no manifest", |f| {
            fs::remove_file(f.join("manifest.json")).unwrap();
        }),
        ("a scribbled manifest", |f| {
            fs::write(f.join("manifest.json"), "{").unwrap();
        }),
        ("another recipe", |f| {
            let text = fs::read_to_string(f.join("manifest.json")).unwrap();
            let text = text.replacen("\"recipe\": \"", "\"recipe\": \"0", 1);
            fs::write(f.join("manifest.json"), text).unwrap();
        }),
    ];
    for (what, damage) in damages {
        let dir = Scratch::new();
        let host = host(&dir);
        let steps = Steps::default();
        let image = host.linux(&steps).unwrap();
        let kernel = fs::read(&image.kernel).unwrap();
        damage(&dir.join("cache/moinho/linux"));
        assert_eq!(host.linux(&steps).unwrap(), image, "{what}");
        assert_eq!(steps.count(BUILT), 2, "{what}");
        assert_eq!(fs::read(&image.kernel).unwrap(), kernel, "{what}");
        assert_eq!(entries(&dir.join("cache/moinho")), ["linux", "lock"]);
    }
}

#[test]
fn two_at_once_build_once() {
    let dir = Scratch::new();
    let host = host(&dir);
    let steps = Steps::default();
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| host.linux(&steps).unwrap()))
            .collect();
        let images: Vec<_> = runs.into_iter().map(|run| run.join().unwrap()).collect();
        assert!(images.windows(2).all(|pair| pair[0] == pair[1]));
    });
    assert_eq!(steps.count(BUILT), 1);
}

#[test]
fn leftovers_of_a_killed_run_are_cleared_away() {
    let dir = Scratch::new();
    let host = host(&dir);
    let left = dir.join("cache/moinho/linux.tmp-1/apt");
    fs::create_dir_all(&left).unwrap();
    fs::write(left.join("x"), "x").unwrap();
    host.linux(&Quiet).unwrap();
    assert_eq!(entries(&dir.join("cache/moinho")), ["linux", "lock"]);
}

#[test]
fn a_cache_folder_that_cannot_be_written_is_named() {
    let dir = Scratch::new();
    let mut host = host(&dir);
    // A file in its place also stops root, whom permissions don't.
    fs::write(dir.join("cache"), "").unwrap();
    let error = host.linux(&Quiet).unwrap_err();
    assert!(matches!(error, ImageError::Cache { .. }), "{error}");
    assert!(error.to_string().contains("set XDG_CACHE_HOME"), "{error}");
    // /proc takes no folders, whoever asks.
    host.xdg_cache_home = Some("/proc/moinho-test".into());
    assert!(matches!(host.linux(&Quiet), Err(ImageError::Cache { .. })));
}

#[test]
fn a_valid_image_in_a_read_only_cache_is_used() {
    let dir = Scratch::new();
    let host = host(&dir);
    let image = host.linux(&Quiet).unwrap();
    let folder = dir.join("cache/moinho");
    fs::remove_file(folder.join("lock")).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o555)).unwrap();
    let again = host.linux(&Quiet);
    let lock = folder.join("lock").exists();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(again.unwrap(), image);
    assert!(!lock, "nothing is written to use a valid image");
}

#[test]
fn with_nothing_to_be_had_the_message_says_what_to_do() {
    let dir = Scratch::new();
    let mut host = host(&dir);
    host.path = OsString::new();
    let error = host.linux(&Quiet).unwrap_err().to_string();
    assert!(error.contains("apt-get is not in PATH"), "{error}");
    assert!(error.contains("busybox: it is not in PATH"), "{error}");
    assert!(error.contains("or give --kernel and --initrd"), "{error}");
    assert!(!error.contains('\n'), "{error}");
    assert_eq!(entries(&dir.join("cache/moinho")), ["lock"]);

    host.path = dir.join("bin").into();
    fs::write(dir.join("boot/vmlinuz-6.9.1-x"), "no").unwrap();
    fs::write(dir.join("boot/vmlinuz-6.10.0-x"), "no").unwrap();
    let error = host.linux(&Quiet).unwrap_err().to_string();
    assert!(error.contains("it is not an x86 bzImage"), "{error}");

    fs::remove_dir_all(dir.join("boot")).unwrap();
    let error = host.linux(&Quiet).unwrap_err().to_string();
    assert!(error.contains("/boot: there is no vmlinuz-*"), "{error}");
}

#[test]
fn a_dynamic_busybox_of_the_host_is_refused() {
    let dir = Scratch::new();
    let host = host(&dir);
    program(&dir.join("bin/busybox"), &elf::tests::program(3));
    let error = host.linux(&Quiet).unwrap_err().to_string();
    assert!(error.contains("install busybox-static"), "{error}");
}

#[test]
fn an_apt_that_fails_is_quoted_and_the_host_s_kernel_used() {
    let dir = Scratch::new();
    let host = host(&dir);
    let script = b"#!/bin/sh\necho 'E: the archive is on fire' >&2\nexit 100\n";
    program(&dir.join("bin/apt-get"), script);
    program(&dir.join("bin/apt-cache"), script);
    assert!(matches!(
        host.linux(&Quiet).unwrap().origin,
        Origin::Host { .. }
    ));
    fs::remove_dir_all(dir.join("cache")).unwrap();
    fs::remove_dir_all(dir.join("boot")).unwrap();
    let error = host.linux(&Quiet).unwrap_err().to_string();
    assert!(error.contains("the archive is on fire"), "{error}");
}

#[test]
fn commands_for_the_guest_are_quoted_or_encoded() {
    assert_eq!(run_argument("echo a b").unwrap(), "moinho.run=\"echo a b\"");
    assert_eq!(run_argument("a\n").unwrap(), "moinho.run64=YQo=");
    assert_eq!(run_argument("\"").unwrap(), "moinho.run64=Ig==");
    assert_eq!(run_argument("é\"").unwrap(), "moinho.run64=w6ki");
    assert!(run_argument(&"x".repeat(2000)).is_err());
}

/// The real image, built once for all tests that need it; `None` where apt gives none.
fn real_image() -> Option<LinuxImage> {
    let folder = std::env::temp_dir().join("moinho-images-real");
    let host = Host {
        xdg_cache_home: Some(folder.into()),
        root: PathBuf::from("/nonexistent"),
        ..Host::this()
    };
    match host.linux(&Quiet) {
        Ok(image) => Some(image),
        Err(error @ ImageError::Nothing { .. }) => {
            eprintln!("skipped (1): {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn debian_s_packages_become_an_image() {
    let Some(image) = real_image() else { return };
    let Origin::Packages(packages) = &image.origin else {
        panic!("{}", image.origin);
    };
    assert!(packages.iter().any(|p| p.starts_with("busybox-static ")));
    assert!(packages.iter().any(|p| p.starts_with("linux-")));
    let members = cpio::tests::parse(&fs::read(&image.initrd).unwrap());
    let order = members
        .iter()
        .find(|(path, ..)| path == "lib/modules/order");
    let order = String::from_utf8(order.unwrap().3.clone()).unwrap();
    assert!(order.contains("virtio_blk.ko\n"), "{order}");
    assert!(
        order.find("virtio_ring.ko") < order.find("virtio_blk.ko"),
        "{order}"
    );
}

/// Boots the image in QEMU and answers its prompts; what it printed. `None` where there is no QEMU.
fn boot(
    image: &LinuxImage,
    extra: &str,
    disk: Option<&Path>,
    talk: &[(&str, &str)],
) -> Option<String> {
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args("-accel tcg -cpu max -m 512 -display none -serial stdio -monitor none".split(' '))
        .args(["-nodefaults", "-no-reboot", "-kernel"])
        .arg(&image.kernel)
        .arg("-initrd")
        .arg(&image.initrd)
        .arg("-append")
        .arg(format!("{} {extra}", image.append));
    if let Some(disk) = disk {
        qemu.args(["-device", "virtio-blk-pci,drive=d", "-drive"])
            .arg(format!("if=none,id=d,format=raw,file={}", disk.display()));
    }
    let child = qemu.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let Ok(mut child) = child else {
        eprintln!("skipped (1): no qemu-system-x86_64 on this host");
        return None;
    };
    let mut input = child.stdin.take().unwrap();
    let mut output = child.stdout.take().unwrap();
    let text = Mutex::new(String::new());
    let ended = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut buffer) {
                let mut text = text.lock().unwrap();
                text.push_str(&String::from_utf8_lossy(&buffer[..count]));
            }
        });
        let start = Instant::now();
        let (mut seen, mut said) = (0, 0);
        loop {
            if let Some(&(prompt, answer)) = talk.get(said) {
                let text = text.lock().unwrap();
                if let Some(at) = text[seen..].find(prompt) {
                    seen += at + prompt.len();
                    said += 1;
                    input.write_all(answer.as_bytes()).unwrap();
                }
            }
            if child.try_wait().unwrap().is_some() {
                return said == talk.len();
            }
            if start.elapsed() > Duration::from_secs(60) {
                child.kill().unwrap();
                return false;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    let text = text.into_inner().unwrap();
    assert!(ended, "the guest did not end by itself:\n{text}");
    Some(text)
}

/// Run with `cargo test -p vmm images -- --ignored`.
#[test]
#[ignore = "boots Linux three times in QEMU's TCG: about half a minute"]
fn the_image_boots_talks_and_powers_off() {
    let Some(image) = real_image() else { return };
    let dir = Scratch::new();
    let disk = dir.join("disk");
    fs::File::create(&disk).unwrap().set_len(16 << 20).unwrap();
    let formatted = Command::new("mke2fs")
        .args(["-q", "-t", "ext4"])
        .arg(&disk)
        .status();
    let formatted = formatted.is_ok_and(|status| status.success());

    let prompt = "moinho:/# ";
    let talk = [
        (prompt, "echo $((6*7))-$(id -u)-$(hostname)\n"),
        (
            prompt,
            "dd if=/dev/zero bs=1024 count=64 2>/dev/null | md5sum\n",
        ),
        (prompt, "mount | grep /mnt; echo kept >/mnt/f\n"),
        (prompt, "echo sleeping; sleep 500\n"),
        ("\nsleeping", "\u{3}"),
        (prompt, "sleep 100 & jobs\n"),
        (prompt, "exit\n"),
        (prompt, "poweroff\n"),
    ];
    let Some(text) = boot(&image, "", Some(&disk), &talk) else {
        return;
    };
    for expected in [
        "42-0-moinho",
        "fcd6bcb56c1689fcef28b57c22475bad",
        "To leave: poweroff",
    ] {
        assert!(text.contains(expected), "no {expected} in:\n{text}");
    }
    for complaint in [
        "can't access tty",
        "not found",
        "panic",
        "Permission denied",
    ] {
        assert!(!text.contains(complaint), "{complaint} in:\n{text}");
    }
    if formatted {
        assert!(text.contains("/dev/vda on /mnt type ext4"), "{text}");
    }

    let argument = run_argument("echo \"two  words\"; cat /mnt/f; exit 7").unwrap();
    let text = boot(&image, &argument, Some(&disk), &[]).unwrap();
    assert!(text.contains("two  words\r\n"), "{text}");
    assert!(text.contains("moinho.run: exit status 7\r\n"), "{text}");
    assert!(!formatted || text.contains("kept\r\n"), "{text}");

    let argument = run_argument("echo a | tr a b").unwrap();
    let text = boot(&image, &argument, None, &[]).unwrap();
    assert!(
        text.contains("b\r\nmoinho.run: exit status 0\r\n"),
        "{text}"
    );
}
