//! Debian's 32-bit kernels, with and without PAE, and 32-bit programs under the 64-bit one, boot to
//! a 32-bit busybox under the translator and reckon as the host does.
//!
//! Ignored unless asked for, since it downloads 70 MB the first time (`benches/linux_32/fetch.sh`,
//! into `~/.cache/moinho/linux32`):
//!
//! ```text
//! cargo test --release -p cli --test linux_32 -- --ignored
//! ```
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

mod vm;

use std::path::{Path, PathBuf};
use std::process::Command;
use vm::Vm;

const PROMPT: &str = "guest32# ";

/// The user's cache.
fn cache() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").expect("HOME")).join(".cache");
    std::env::var_os("XDG_CACHE_HOME")
        .map_or_else(home, PathBuf::from)
        .join("moinho")
}

/// The folder with the kernels and the initial RAM disk, fetched if it is not there.
fn images() -> PathBuf {
    let folder = cache().join("linux32");
    if !folder.join("initrd.gz").exists() {
        let fetch = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../benches/linux_32/fetch.sh");
        let done = Command::new(fetch).arg(&folder).status().expect("a shell");
        assert!(done.success(), "the images could not be fetched");
    }
    folder
}

/// The 64-bit kernel of `moinho run linux`.
fn wide_kernel() -> PathBuf {
    vmm::images::linux(&vmm::images::Quiet).expect("the image of `moinho run linux`");
    cache().join("linux/vmlinuz")
}

/// Boots a kernel, and types at its shell.
fn works(kernel: &Path, cpus: &str, machine: &str) {
    let initrd = images().join("initrd.gz").display().to_string();
    let kernel = kernel.display().to_string();
    let mut vm = Vm::start(&[
        "--engine",
        "bt",
        "--memory",
        "512M",
        "--cpus",
        cpus,
        "--no-reboot",
        "--kernel",
        &kernel,
        "--initrd",
        &initrd,
        "--append",
        "console=ttyS0 panic=-1",
    ]);
    vm.expect(PROMPT);
    for (command, answer) in [
        ("uname -m", machine.to_string()),
        ("grep -c ^processor /proc/cpuinfo", cpus.into()),
        // An address above 2 GB shows that the program has 32-bit pointers.
        ("grep -c '^[bf]f.* .stack.$' /proc/self/maps", "1".into()),
        // x87, integers of 64 bits, and a hash of 4 MB of zeroes.
        ("awk 'BEGIN { print 1 / 3 * 1000 }'", "333.333".into()),
        (
            "echo $((123456789 * 987654321))",
            "121932631112635269".into(),
        ),
        (
            "dd if=/dev/zero bs=1M count=4 2>/dev/null | sha256sum | cut -c 1-16",
            "bb9f8df61474d25e".into(),
        ),
        ("(true; exit 7) & wait $!; echo $?", "7".into()),
    ] {
        vm.type_in(&format!("{command}\n"));
        vm.expect(&format!("\n{answer}"));
        vm.expect(PROMPT);
    }
    vm.type_in("poweroff -f\n");
    let (status, screen, errors) = vm.finish();
    assert_eq!((status, errors.as_str()), (Some(0), ""), "{screen}");
}

#[test]
#[ignore = "downloads a kernel"]
fn a_32_bit_kernel_with_pae_boots_and_works() {
    works(&images().join("vmlinuz-686-pae"), "1", "i686");
}

#[test]
#[ignore = "downloads a kernel"]
fn a_32_bit_kernel_with_pae_boots_and_works_on_two_processors() {
    works(&images().join("vmlinuz-686-pae"), "2", "i686");
}

#[test]
#[ignore = "downloads a kernel"]
fn a_32_bit_kernel_without_pae_boots_and_works() {
    works(&images().join("vmlinuz-686"), "1", "i686");
}

#[test]
#[ignore = "downloads a kernel"]
fn programs_of_32_bits_work_under_a_64_bit_kernel() {
    works(&wide_kernel(), "1", "x86_64");
}
