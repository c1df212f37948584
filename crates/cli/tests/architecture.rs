//! The crates and the arrows between them are those of the design.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// What each crate may use of ours. A new row or arrow needs a decision in `docs/decisions/`.
const MAY_USE: &[(&str, &[&str])] = &[
    ("mem", &[]),
    ("x86", &["mem"]),
    ("devices", &["mem"]),
    ("backends", &["mem", "devices"]),
    ("machine", &["mem", "x86", "devices"]),
    ("bt", &["mem", "x86"]),
    ("kvm", &["mem", "x86"]),
    // Our own guests as bytes, built from guests/: data, no code.
    ("guests", &[]),
    (
        "vmm",
        &[
            "mem", "x86", "bt", "devices", "machine", "backends", "guests", "mem", "x86",
            "devices", "machine", "kvm", "backends", "guests",
        ],
    ),
    ("cli", &["vmm"]),
];

/// Crates without `std`, and without unsafe code.
const NO_STD: &[&str] = &["mem", "x86", "devices", "machine"];
const NO_UNSAFE: &[&str] = &["x86", "devices", "machine", "vmm", "guests"];

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// The names in one `[section]` of a manifest.
fn names_in(manifest: &str, section: &str) -> Vec<String> {
    let mut inside = false;
    let mut names = Vec::new();
    for line in manifest.lines() {
        let line = line.trim();
        if line.starts_with('[') {
            inside = line == format!("[{section}]");
        } else if inside && !line.is_empty() && !line.starts_with('#') {
            let end = line.find(['.', ' ', '=']).unwrap_or(line.len());
            names.push(line[..end].to_string());
        }
    }
    names
}

fn manifests() -> BTreeMap<String, String> {
    fs::read_dir(root().join("crates"))
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().join("Cargo.toml").exists())
        .map(|entry| {
            let text = fs::read_to_string(entry.path().join("Cargo.toml")).unwrap();
            (entry.file_name().into_string().unwrap(), text)
        })
        .collect()
}

#[test]
fn every_crate_uses_only_what_the_design_lets_it_use() {
    let ours: Vec<&str> = MAY_USE.iter().map(|(name, _)| *name).collect();
    for (name, manifest) in manifests() {
        let Some((_, allowed)) = MAY_USE.iter().find(|(known, _)| *known == name) else {
            panic!("crate {name} is not in the design");
        };
        for used in names_in(&manifest, "dependencies") {
            assert!(
                !ours.contains(&used.as_str()) || allowed.contains(&used.as_str()),
                "{name} uses {used}, which the design does not allow"
            );
        }
        assert!(
            !manifest.contains("{ path ="),
            "{name} names a path: crates are used through the workspace's list"
        );
    }
}

#[test]
fn crates_that_must_do_without_std_or_unsafe_say_so() {
    for name in NO_STD.iter().chain(NO_UNSAFE) {
        let lib = root().join("crates").join(name).join("src/lib.rs");
        let text = fs::read_to_string(&lib).unwrap();
        if NO_STD.contains(name) {
            assert!(text.contains("#![no_std]"), "{name}");
        }
        if NO_UNSAFE.contains(name) {
            assert!(text.contains("#![forbid(unsafe_code)]"), "{name}");
        }
    }
}

#[test]
fn every_crate_of_the_design_that_is_listed_exists() {
    let there = manifests();
    for (name, _) in MAY_USE {
        assert!(there.contains_key(*name), "{name}");
    }
}

#[test]
fn the_map_shows_every_crate_and_the_board_as_it_is() {
    let map = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    for name in manifests().keys() {
        assert!(map.contains(&format!("| `{name}` |")), "crate {name}");
    }
    let board = fs::read_to_string(root().join("crates/machine/src/board.rs")).unwrap();
    for row in board.lines().filter_map(|line| line.strip_prefix("//! |")) {
        assert!(map.contains(&format!("|{row}\n")), "board.rs: |{row}");
    }
}

#[test]
fn every_decision_is_in_the_list() {
    let folder = root().join("docs/decisions");
    let list = fs::read_to_string(folder.join("README.md")).unwrap();
    for entry in fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(
            name == "README.md" || list.contains(&format!("({name})")),
            "{name}"
        );
    }
}
