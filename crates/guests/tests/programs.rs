//! Every guest test program passes on the reference machine: a program that fails there checks the wrong thing.

mod reference;

use guests::{CODE_SUCCESS, Kind, PROGRAMS, REAL16_ADDRESS, program};
use reference::Reference;

#[test]
fn every_program_passes_on_the_reference_machine() {
    assert!(!PROGRAMS.is_empty());
    let mut failures = Vec::new();
    for program in PROGRAMS {
        let Some(machine) = Reference::start(program.image, program.kind == Kind::Real16, &[])
        else {
            return;
        };
        let (status, said) = machine.finish();
        if status != Some(2 * i32::from(CODE_SUCCESS) + 1) {
            failures.push(format!(
                "{} ({}): status {status:?}: {said}",
                program.name, program.about
            ));
        }
    }
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
