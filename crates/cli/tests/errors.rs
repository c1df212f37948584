//! What the user can get wrong: one line on standard error that names it and the way out, status
//! 2, nothing on standard output, nothing left behind.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A folder of this test's own, gone at its end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("moinho-cli-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }
    fn file(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.0.join(name);
        fs::write(&path, bytes).unwrap();
        path.display().to_string()
    }
    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(&self.0)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn moinho(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_moinho"))
        .args(args)
        .current_dir(folder)
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap()
}

/// Holds `moinho run ARGS` to the promise; the line must contain every one of `words`.
#[track_caller]
fn refused(folder: &Folder, args: &[&str], words: &[&str]) {
    let before = folder.names();
    let mut all = vec!["run"];
    all.extend(args);
    let output = moinho(&folder.0, &all);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{args:?}: {text}");
    assert_eq!(text.lines().count(), 1, "{args:?}: {text}");
    assert!(output.stdout.is_empty(), "{args:?}");
    for word in words {
        assert!(text.contains(word), "{args:?}: {text:?} lacks {word:?}");
    }
    assert_eq!(folder.names(), before, "{args:?}: something is left behind");
}

#[test]
fn unknown_flags_values_and_images_are_named_with_the_choices() {
    let f = Folder::new("flags");
    refused(&f, &["--frobnicate"], &["--frobnicate", "--help"]);
    refused(&f, &["--engine", "warp"], &["warp", "interp"]);
    refused(
        &f,
        &["--engine", "kvm", "--clock", "insn"],
        &["kvm", "--clock", "interp"],
    );
    refused(&f, &["--check-bt"], &["--check-bt", "--engine bt"]);
    refused(
        &f,
        &["--engine", "bt", "--check-bt", "--cpus", "2"],
        &["--check-bt", "--cpus 1"],
    );
    refused(&f, &["--count-bt"], &["--count-bt", "--engine bt"]);
    refused(
        &f,
        &["--engine", "bt", "--bt-no", "chain,warp"],
        &["--bt-no", "warp", "short-check"],
    );
    refused(&f, &["--bt-cache", "8"], &["--bt-cache", "--engine bt"]);
    refused(
        &f,
        &["--engine", "bt", "--cpus", "4", "--bt-cache", "7"],
        &["--bt-cache", "7 MiB for 4 processors", "8 to 512"],
    );
    refused(
        &f,
        &["--engine", "bt", "--dump-bt", "/nowhere/list"],
        &["--dump-bt", "/nowhere/list"],
    );
    refused(&f, &["--then", "kvm"], &["--then", "ENGINE@SECONDS"]);
    refused(&f, &["--board", "ibm5150"], &["ibm5150", "micro"]);
    refused(&f, &["--clock", "sundial"], &["--clock", "sundial", "insn"]);
    refused(&f, &["--clock", "insn:0"], &["--clock", "insn:0"]);
    refused(
        &f,
        &["--trace", "irq,gossip"],
        &["--trace", "gossip", "mmio"],
    );
    refused(
        &f,
        &["no-such-image"],
        &["no-such-image", "linux", "--kernel"],
    );
    refused(&f, &["--trace", ""], &["--trace", "irq"]);
    refused(&f, &["--trace", "io:"], &["--trace", "no file"]);
    refused(&f, &["--json"], &["--stats"]);
    refused(&f, &["--", "ls"], &["COMMAND", "linux"]);
    refused(&f, &["--append", "x"], &["--append", "--kernel"]);
}

#[test]
fn an_unknown_cpu_model_is_refused_with_those_that_exist() {
    let f = Folder::new("model");
    refused(
        &f,
        &["--cpu-model", "z80"],
        &["--cpu-model", "z80", "x86-64-v2"],
    );
}

#[test]
fn impossible_machines_name_the_field_and_the_way_out() {
    let f = Folder::new("spec");
    refused(&f, &["--memory", "0"], &["--memory", "at least"]);
    refused(&f, &["--memory", "1K"], &["--memory", "at least"]);
    refused(&f, &["--memory", "1E"], &["--memory", "1E", "512M"]);
    refused(&f, &["--memory", "99999T"], &["--memory", "at most"]);
    refused(&f, &["--memory", ""], &["--memory", "512M"]);
    refused(&f, &["--memory", "3000001K"], &["--memory", "4 KiB"]);
    refused(&f, &["--memory", "64K"], &["--memory", "at least"]);
    refused(&f, &["--memory", "lots"], &["--memory", "lots", "512M"]);
    refused(&f, &["--memory", "-5"], &["-5"]);
    refused(&f, &["--memory", "1000000T"], &["--memory", "at most"]);
    refused(
        &f,
        &["--memory", "99999999999999999999"],
        &["--memory", "64 bits"],
    );
    refused(&f, &["--memory", "500G"], &["--memory", "at most"]);
    refused(&f, &["--cpus", "0"], &["--cpus", "1 to 64"]);
    refused(&f, &["--cpus", "65"], &["--cpus", "1 to 64"]);
    refused(&f, &["--cpus", "many"], &["--cpus", "many"]);
}

#[test]
fn kernels_that_are_none_are_refused_with_what_they_seem_to_be() {
    let f = Folder::new("kernel");
    refused(
        &f,
        &["--kernel", "absent"],
        &["--kernel absent", "No such file"],
    );
    refused(&f, &["--kernel", "."], &["--kernel", "folder"]);
    let mut arm = vec![0; 4096];
    arm[0x38..0x3c].copy_from_slice(b"ARMd");
    let empty = f.file("empty", b"");
    refused(&f, &["--kernel", &empty], &["empty"]);
    let arm = f.file("arm", &arm);
    refused(&f, &["--kernel", &arm], &["aarch64", "x86-64"]);
    refused(&f, &["--kernel", "/dev/zero"], &["no regular file"]);
    let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
    elf.resize(64, 0);
    elf[16..20].copy_from_slice(&[2, 0, 0xb7, 0]);
    let elf = f.file("elf", &elf);
    refused(&f, &["--kernel", &elf], &["--kernel", "aarch64", "x86-64"]);
    let mut bzimage = vec![0; 0x300];
    bzimage[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    bzimage[0x202..0x206].copy_from_slice(b"HdrS");
    bzimage[0x206..0x208].copy_from_slice(&[0x0f, 0x02]);
    bzimage[0x1f1] = 30;
    let truncated = f.file("truncated", &bzimage);
    refused(&f, &["--kernel", &truncated], &["--kernel", "truncated"]);
    let text = f.file("text", &b"just some words ".repeat(100));
    refused(&f, &["--kernel", &text], &["--kernel"]);
    refused(&f, &[&text], &["--kernel"]);
}

#[test]
fn missing_modules_disks_and_outputs_are_refused_by_their_flag() {
    let f = Folder::new("files");
    f.file("empty", b"");
    f.file("odd", &[0; 777]);
    // A cpio archive of one file of 16 bytes, of which 4 are there.
    let mut cut = b"070701".to_vec();
    cut.extend(b"00000001000081a4000000000000000000000001000000000000001000000000");
    cut.extend(b"00000000000000000000000000000002");
    cut.extend(b"00000000a\0abcd");
    f.file("cut", &cut);
    let huge = fs::File::create(f.0.join("huge")).unwrap();
    huge.set_len(600 << 20).unwrap();
    let kernel = f.0.join("built-in");
    fs::write(&kernel, guests::BUILT_IN).unwrap();
    let kernel = kernel.display().to_string();
    let with = |more: &[&'static str]| -> Vec<String> {
        let mut args = vec!["--kernel".to_string(), kernel.clone()];
        args.extend(more.iter().map(|s| s.to_string()));
        args
    };
    let check = |more: &[&'static str], words: &[&str]| {
        let args = with(more);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        refused(&f, &args, words);
    };
    check(&["--initrd", "absent"], &["--initrd absent"]);
    check(&["--disk", "absent"], &["--disk absent", "truncate"]);
    check(&["--disk", "."], &["--disk .", "directory"]);
    check(&["--disk", "empty"], &["--disk empty", "truncate"]);
    check(&["--disk", "odd"], &["--disk odd", "512"]);
    check(&["--disk", "odd,rw"], &["--disk", "rw", "cow"]);
    check(
        &["--disk", "/dev/null"],
        &["--disk /dev/null", "block device"],
    );
    check(&["--initrd", "."], &["--initrd .", "folder"]);
    check(
        &["--initrd", "empty"],
        &["--initrd empty", "empty", "download"],
    );
    check(
        &["--initrd", "cut"],
        &["--initrd cut", "truncated", "download"],
    );
    check(&["--initrd", "huge"], &["512 MiB", "would do"]);
    check(&["--com2", "no/such/place"], &["--com2 no/such/place"]);
    check(&["--trace", "io:no/such/place"], &["--trace no/such/place"]);
}

#[test]
fn help_and_version_go_to_standard_output_with_status_0() {
    let f = Folder::new("help");
    for args in [&["--help"][..], &["run", "--help"], &["--version"]] {
        let output = moinho(&f.0, args);
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert!(!output.stdout.is_empty() && output.stderr.is_empty());
    }
    let output = moinho(&f.0, &["run", "--help"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("Exit status") && text.contains("--no-reboot"));
}

#[test]
fn a_program_without_a_command_says_how_to_begin() {
    let f = Folder::new("bare");
    for (args, word) in [(&[][..], "moinho run"), (&["frobnicate"][..], "frobnicate")] {
        let output = moinho(&f.0, args);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains(word) && text.lines().count() == 1, "{text}");
    }
}

#[test]
fn a_signal_while_linux_is_fetched_leaves_nothing_half_done() {
    let f = Folder::new("fetch");
    let (bin, cache) = (f.0.join("bin"), f.0.join("cache"));
    fs::create_dir_all(&bin).unwrap();
    // An archive that never answers.
    for name in ["apt-get", "apt-cache"] {
        let program = bin.join(name);
        let text = format!("#!/bin/sh\ntouch {}/asked\nexec sleep 600\n", f.0.display());
        fs::write(&program, text).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&program, mode).unwrap();
    }
    let child = Command::new(env!("CARGO_BIN_EXE_moinho"))
        .args(["run", "linux"])
        .env("XDG_CACHE_HOME", &cache)
        .env("PATH", format!("{}:/usr/bin:/bin", bin.display()))
        .stdin(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let started = std::time::Instant::now();
    while !f.0.join("asked").exists() {
        assert!(started.elapsed().as_secs() < 60, "apt was never asked");
        std::thread::yield_now();
    }
    let id = child.id().to_string();
    Command::new("kill").args(["-TERM", &id]).status().unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(128 + 15), "{text}");
    assert_eq!(text, "moinho: ended by signal 15\n");
    // Only the lock, which the next one uses.
    let left: Vec<_> = fs::read_dir(cache.join("moinho")).unwrap().collect();
    assert!(
        left.len() == 1 && cache.join("moinho/lock").exists(),
        "{left:?}"
    );
}
