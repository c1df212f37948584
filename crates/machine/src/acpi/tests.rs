//! The tables are sound by themselves, and Intel's compiler thinks so too.

use super::*;
use alloc::vec;
use std::{eprintln, format, fs, process::Command, string::String};

fn pc(cpus: u32) -> AcpiParams {
    AcpiParams {
        apic_ids: (0..cpus).collect(),
        pci: Some(PciParams {
            ecam: Some(0xe000_0000),
            last_bus: 255,
            windows_32: vec![(0xc000_0000, 0xdfff_ffff), (0xf000_0000, 0xfebf_ffff)],
            window_64: Some((0x40_0000_0000, 0x7f_ffff_ffff)),
        }),
        virtio_mmio: vec![],
        uarts: vec![
            Uart {
                port: 0x3f8,
                irq: 4,
            },
            Uart {
                port: 0x2f8,
                irq: 3,
            },
        ],
        i8042: true,
        rtc: true,
        pit: true,
        hpet: true,
        vga: true,
        gpe0: Some(0x620),
    }
}

fn micro() -> AcpiParams {
    AcpiParams {
        pci: None,
        i8042: false,
        hpet: false,
        vga: false,
        gpe0: None,
        virtio_mmio: (0..8)
            .map(|i| VirtioMmio {
                base: 0xd000_0000 + i * 0x1000,
                size: 0x1000,
                gsi: 16 + i,
            })
            .collect(),
        ..pc(2)
    }
}

/// Every table found from the RSDP: signature and bytes.
fn walk(bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let get = |address: u32| {
        let at = (address - TABLES_BASE) as usize;
        let table = bytes[at..at + word(at + 4) as usize].to_vec();
        (String::from_utf8(table[..4].to_vec()).unwrap(), table)
    };
    assert_eq!(&bytes[..8], b"RSD PTR ");
    assert_eq!(checksum(&bytes[..20]), 0);
    assert_eq!(checksum(&bytes[..36]), 0);
    let rsdt = get(word(16)).1;
    let xsdt = get(word(24)).1;
    let mut found = vec![get(word(16)), get(word(24))];
    for i in 0..(xsdt.len() - 36) / 8 {
        let long = &xsdt[36 + i * 8..][..4];
        assert_eq!(long, &rsdt[36 + i * 4..][..4], "RSDT and XSDT agree");
        let address = u32::from_le_bytes(long.try_into().unwrap());
        let table = get(address);
        if table.0 == "FACP" {
            let facs = u32::from_le_bytes(table.1[36..40].try_into().unwrap());
            assert_eq!(facs % 64, 0);
            assert_eq!(get(facs).0, "FACS");
            found.push(get(u32::from_le_bytes(table.1[40..44].try_into().unwrap())));
        }
        found.push(table);
    }
    found
}

#[test]
fn every_table_is_reached_from_the_rsdp_and_sums_to_zero() {
    for params in [pc(1), pc(300), micro()] {
        let found = walk(&tables(&params).unwrap());
        for (name, table) in &found {
            assert_eq!(checksum(table), 0, "{name}");
        }
        let names: Vec<&str> = found.iter().map(|t| t.0.as_str()).collect();
        assert_eq!(names.contains(&"MCFG"), params.pci.is_some());
        assert_eq!(names.contains(&"HPET"), params.hpet);
    }
}

#[test]
fn processors_with_large_apic_ids_take_x2apic_entries() {
    let mut params = pc(2);
    params.apic_ids = vec![0, 0x1234];
    let tables = walk(&tables(&params).unwrap());
    let madt = &tables.iter().find(|t| t.0 == "APIC").unwrap().1;
    assert_eq!(madt[44..52], [0, 8, 0, 0, 1, 0, 0, 0]);
    assert_eq!(
        madt[52..68],
        [9, 16, 0, 0, 0x34, 0x12, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0]
    );
}

#[test]
fn too_many_processors_and_an_empty_window_are_errors() {
    assert!(matches!(tables(&pc(5000)), Err(AcpiError::TooLarge { .. })));
    assert!(matches!(tables(&pc(4000)), Err(AcpiError::TooLarge { .. })));
    let mut params = pc(1);
    params.pci.as_mut().unwrap().window_64 = Some((2, 1));
    assert!(matches!(
        tables(&params),
        Err(AcpiError::EmptyWindow { .. })
    ));
}

#[test]
fn build_writes_into_ram_or_rom_and_refuses_a_hole() {
    let mut memory = GuestMemory::anonymous(0x20000).unwrap();
    assert!(matches!(
        build(&pc(1), &memory),
        Err(AcpiError::NoMemory(_))
    ));
    memory.place(Gpa(0xe_0000), 0x20000, false).unwrap();
    assert_eq!(build(&pc(1), &memory), Ok(0xe_0000));
    let mut magic = [0; 8];
    memory.read(Gpa(0xe_0000), &mut magic).unwrap();
    assert_eq!(&magic, b"RSD PTR ");
}

#[test]
fn iasl_disassembles_every_table_and_compiles_it_again_without_errors() {
    if Command::new("iasl").arg("-v").output().is_err() {
        eprintln!("skipped: 1 test needs iasl (apt-get install acpica-tools)");
        return;
    }
    let dir = std::env::temp_dir().join(format!("moinho-acpi-{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    for (board, params) in [("pc", pc(3)), ("many", pc(300)), ("micro", micro())] {
        for (name, table) in walk(&tables(&params).unwrap()) {
            let stem = format!("{board}-{name}");
            fs::write(dir.join(format!("{stem}.dat")), &table).unwrap();
            let run = |args: &[&str]| {
                let out = Command::new("iasl")
                    .args(args)
                    .current_dir(&dir)
                    .output()
                    .unwrap();
                let text = String::from_utf8_lossy(&out.stdout).into_owned()
                    + &String::from_utf8_lossy(&out.stderr);
                assert!(out.status.success(), "{stem}: iasl {args:?}: {text}");
                text
            };
            let text = run(&["-d", &format!("{stem}.dat")]);
            for bad in ["Error", "Invalid", "Could not", "Unknown"] {
                assert!(!text.contains(bad), "{stem}: {text}");
            }
            // The disassembler writes the two root tables in a form it reads back as well.
            let text = run(&[
                "-we",
                "-p",
                &format!("{stem}-again"),
                &format!("{stem}.dsl"),
            ]);
            let clean = text.contains("0 Errors") || !text.contains("Error");
            assert!(clean, "{stem}: {text}");
            let again = fs::read(dir.join(format!("{stem}-again.aml"))).unwrap();
            if name != "DSDT" {
                // The header's compiler id and revision change, and with them the checksum.
                assert_eq!(again[36..], table[36..], "{stem}");
            }
        }
    }
    fs::remove_dir_all(&dir).unwrap();
}
