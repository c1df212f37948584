//! Every guest test program passes on the reference machine: a program that fails there checks the wrong thing.

mod reference;

use guests::{
    BEFORE_SHUTDOWN, CODE_SKIPPED, CODE_SUCCESS, Ends, Kind, PROGRAMS, REAL16_ADDRESS, program,
};
use reference::Reference;
use std::path::Path;
use std::process::Command;

#[test]
fn every_program_passes_on_the_reference_machine() {
    assert!(!PROGRAMS.is_empty());
    let mut failures = Vec::new();
    let (mut skipped, mut differing) = (0, 0);
    for program in PROGRAMS {
        let images = [
            (program.image, program.kind == Kind::Real16),
            (program.kernel, false),
        ];
        // A program that is no disk has one image.
        for (image, as_disk) in &images[usize::from(program.kind != Kind::Real16)..] {
            let cpus = program.cpus().to_string();
            let Some(machine) = Reference::start(image, *as_disk, &["-smp", &cpus]) else {
                return;
            };
            let (status, said) = machine.finish();
            let passed = match program.ends {
                Ends::Checks => status == Some(2 * i32::from(CODE_SUCCESS) + 1),
                // A reset is the end, by `-no-reboot`.
                Ends::Shutdown => status == Some(0) && said.contains(BEFORE_SHUTDOWN),
            };
            let complaint = match program.reference_differs {
                _ if status == Some(2 * i32::from(CODE_SKIPPED) + 1) => {
                    eprintln!("skipped: {}: {said}", program.name);
                    skipped += 1;
                    continue;
                }
                Some(why) if why.starts_with("differs sometimes") => continue,
                Some(_) if passed => "passes, though `# reference: differs` says it does not",
                Some(_) => {
                    differing += 1;
                    continue;
                }
                None if passed => continue,
                None => "fails",
            };
            failures.push(format!(
                "{} ({}) {complaint}: status {status:?}: {said}",
                program.name, program.about
            ));
        }
    }
    eprintln!("{skipped} skipped for want of a feature, {differing} known to differ on QEMU");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn a_program_is_found_by_name_and_its_directives_are_read() {
    let sample = program("sample_real16").unwrap();
    assert_eq!(sample.kind, Kind::Real16);
    assert_eq!(sample.needs, &[] as &[&str]);
    assert_eq!(&sample.image[510..512], &[0x55, 0xaa], "a boot sector");
    assert!(
        sample.image.len() < 0x7_0000 - REAL16_ADDRESS as usize,
        "below the library's tables"
    );
    assert!(program("nonsense").is_none());
}

/// Assembles a program in `mode` the way `build.rs` does.
fn assemble(name: &str, mode: &str, body: &str) -> Vec<u8> {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let file = |extension: &str| directory.join(format!("{name}.{extension}"));
    let source = format!(".include \"lib.inc\"\nprogram_pvh32\n{mode}\n{body}\ndone\n");
    std::fs::write(file("S"), source).unwrap();
    let programs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guests/programs");
    let mut cc = Command::new(std::env::var("CC").unwrap_or("cc".into()));
    cc.args(["-m64", "-c", "-x", "assembler", "-I"])
        .arg(&programs)
        .arg(file("S"))
        .arg("-o")
        .arg(file("o"));
    assert!(cc.status().unwrap().success());
    let mut ld = Command::new(std::env::var("LD").unwrap_or("ld".into()));
    ld.args(["-m", "elf_x86_64", "--defsym=base=0x100000", "-s", "-T"])
        .arg(programs.join("link.ld"));
    let output = ld
        .arg(file("o"))
        .arg("-o")
        .arg(file("img"))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    std::fs::read(file("img")).unwrap()
}

#[test]
fn a_check_that_fails_is_reported_with_its_number_in_both_wide_modes() {
    for mode in ["", "enter_long64"] {
        for (case, body, code, text) in [
            (
                0,
                "mov eax, 5\nexpect eax, 5\nexpect eax, 6",
                2,
                "FAIL check 2: expect eax, 6, got 5",
            ),
            (
                1,
                "expect_fault 13, 0, \"nop\"",
                1,
                "FAIL check 1: nop: no exception",
            ),
            (
                2,
                "expect_fault 13, 0, \"ud2\"",
                1,
                "vector 6, error code 0",
            ),
            (3, "xor eax, eax\nexpect_flags 0x41, 1", 1, "got 40"),
            (4, "nop\nud2", 0x7f, "UNEXPECTED exception: vector 6"),
            (5, "fail", 1, "must not come here"),
        ] {
            let image = assemble(&format!("failing-{case}{mode}"), mode, body);
            let Some(machine) = Reference::start(&image, false, &[]) else {
                return;
            };
            let (status, said) = machine.finish();
            assert_eq!(status, Some(2 * code + 1), "{mode} {body}: {said}");
            // Numbers are printed with all their zeros, which differ by mode.
            let plain = said
                .replace("0x", "")
                .split(' ')
                .map(without_zeros)
                .collect::<Vec<_>>()
                .join(" ");
            assert!(plain.contains(text), "{mode} {body}: {plain}");
        }
    }
}

fn without_zeros(word: &str) -> &str {
    let plain = word.trim_start_matches('0');
    if plain.starts_with(|c: char| c.is_ascii_hexdigit()) || plain.len() == word.len() {
        plain
    } else {
        &word[word.len() - plain.len() - 1..]
    }
}
