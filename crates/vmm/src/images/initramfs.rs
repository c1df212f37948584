//! Packs the userland of `moinho run linux`: busybox, the kernel modules, `/init` and a few files.
//! Called by the module above with a kernel version's tree; calls `modules` and `cpio`.

use std::path::Path;

use super::{ImageError, cpio, elf, modules};

/// `/init` of the guest.
pub const INIT: &str = include_str!("init.sh");
const UDHCPC: &str = include_str!("udhcpc.sh");
const PROFILE: &str = include_str!("profile.sh");
const INITTAB: &str = include_str!("inittab");
const DOWN: &str = include_str!("down.sh");
const POWER_BUTTON: &str = include_str!("power_button.sh");

/// What decides the initramfs beside the packages; part of the cache's key, so that a newer Moinho
/// does not run an older `/init`.
pub fn recipe() -> String {
    let wanted = modules::WANTED.join(" ");
    [INIT, UDHCPC, PROFILE, INITTAB, DOWN, POWER_BUTTON, &wanted].join("\0")
}

/// The archive, from the modules folder of one kernel version and a busybox.
pub fn pack(modules_folder: &Path, busybox: &[u8]) -> Result<Vec<u8>, ImageError> {
    if !elf::is_static_program(busybox) {
        return Err(ImageError::Unusable {
            what: "busybox".into(),
            reason: "it is not a statically linked x86-64 program: install busybox-static".into(),
        });
    }
    let mut archive = cpio::Writer::default();
    for (path, mode) in [
        ("bin", 0o755),
        ("dev", 0o755),
        ("etc", 0o755),
        ("etc/acpi", 0o755),
        ("etc/acpi/PWRF", 0o755),
        ("lib", 0o755),
        ("lib/modules", 0o755),
        ("mnt", 0o755),
        ("proc", 0o555),
        ("root", 0o700),
        ("run", 0o755),
        ("sbin", 0o755),
        ("sys", 0o555),
        ("tmp", 0o1777),
        ("usr", 0o755),
        ("usr/bin", 0o755),
        ("usr/sbin", 0o755),
        ("var", 0o755),
    ] {
        archive.directory(path, mode);
    }
    // The kernel opens /dev/console before /init can mount anything.
    archive.character_device("dev/console", 0o600, 5, 1);
    archive.character_device("dev/null", 0o666, 1, 3);
    archive.file("bin/busybox", 0o755, busybox);
    archive.symlink("bin/sh", "busybox");
    archive.file("init", 0o755, INIT.as_bytes());
    for (path, text) in [
        ("etc/group", "root:x:0:\nnogroup:x:65534:\n"),
        ("etc/hostname", "moinho\n"),
        ("etc/hosts", "127.0.0.1 localhost moinho\n"),
        (
            "etc/passwd",
            "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
        ),
        ("etc/profile", PROFILE),
        ("etc/inittab", INITTAB),
    ] {
        archive.file(path, 0o644, text.as_bytes());
    }
    for (path, script) in [
        ("etc/udhcpc.script", UDHCPC),
        ("etc/down", DOWN),
        ("etc/acpi/PWRF/00000080", POWER_BUTTON),
    ] {
        archive.file(path, 0o755, script.as_bytes());
    }
    let modules = modules::select(modules_folder, &modules::WANTED);
    let order: String = modules.iter().map(|m| format!("{}\n", m.file)).collect();
    archive.file("lib/modules/order", 0o644, order.as_bytes());
    for module in &modules {
        archive.file(
            &format!("lib/modules/{}", module.file),
            0o644,
            &module.contents,
        );
    }
    Ok(archive.finish())
}
