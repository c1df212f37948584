//! The built-in guest, on the reference machine: it boots by both protocols and answers every command.

mod reference;

use guests::BUILT_IN;
use reference::Reference;

const PROMPT: &str = "moinho> ";
/// A PIC, a PIT, a UART; no PCI, no ACPI, no BIOS services.
const SMALLEST: &[&str] = &["-M", "microvm,pit=on,pic=on,rtc=on,acpi=off"];
const MULTIBOOT_MAGIC: [u8; 4] = 0x1bad_b002u32.to_le_bytes();

fn u32_at(at: usize) -> u64 {
    u32::from_le_bytes(BUILT_IN[at..at + 4].try_into().unwrap()).into()
}

fn u64_at(at: usize) -> u64 {
    u64::from_le_bytes(BUILT_IN[at..at + 8].try_into().unwrap())
}

fn multiboot_header() -> usize {
    (0..8192)
        .step_by(4)
        .find(|&at| BUILT_IN[at..at + 4] == MULTIBOOT_MAGIC)
        .expect("a header in the first 8 KiB")
}

/// QEMU prefers multiboot: without its magic number it takes the PVH note.
fn without_multiboot() -> Vec<u8> {
    let mut image = BUILT_IN.to_vec();
    image[multiboot_header()..][..4].fill(0);
    image
}

#[test]
fn the_image_is_small_and_its_multiboot_addresses_describe_what_its_elf_headers_load() {
    assert!(BUILT_IN.len() < 200 * 1024, "{} bytes", BUILT_IN.len());
    let header = multiboot_header();
    assert_eq!(
        (u32_at(header) + u32_at(header + 4) + u32_at(header + 8)) as u32,
        0,
        "checksum"
    );
    let [header_addr, load_addr, load_end, bss_end, entry] =
        [12, 16, 20, 24, 28].map(|field| u32_at(header + field));
    assert_eq!(entry, u64_at(24), "e_entry");
    let file_base = header as u64 - (header_addr - load_addr);
    let (mut end_in_file, mut end) = (0, 0);
    for at in
        (0..u16::from_le_bytes([BUILT_IN[56], BUILT_IN[57]])).map(|n| 64 + 56 * usize::from(n))
    {
        if u32_at(at) == 1 {
            let [offset, physical, in_file, in_memory] =
                [8, 24, 32, 40].map(|field| u64_at(at + field));
            assert_eq!(
                offset - file_base,
                physical - load_addr,
                "segment at {physical:#x}"
            );
            end_in_file = physical + in_file;
            end = physical + in_memory;
        }
    }
    assert_eq!(load_end, end_in_file);
    assert!(bss_end >= end && bss_end - end < 4096);
}

#[test]
fn every_command_is_answered_whichever_protocol_booted_it() {
    for (image, protocol) in [
        (BUILT_IN.to_vec(), "multiboot"),
        (without_multiboot(), "PVH"),
    ] {
        let Some(mut machine) = Reference::start(&image, false, &[]) else {
            return;
        };
        machine.expect(&format!("booted by {protocol},"));
        machine.expect(PROMPT);
        let commands: &[(&str, &[&str])] = &[
            ("help", &["poweroff  switches the machine off"]),
            (
                "cpu",
                &[
                    "vendor      AuthenticAMD",
                    "brand       QEMU TCG",
                    "sse2",
                    "\"TCGTCGTCGTCG\"",
                ],
            ),
            (
                "mem",
                &[
                    &format!("boot loader ({protocol})"),
                    "0x0000100000 .. 0x0003fe0000",
                    "ACPI: root pointer at 0x",
                ],
            ),
            ("ps", &["shell     ready", "counter   sleeping", "idle"]),
            ("tasks", &["counter: ", "primes found, the largest is "]),
            ("time", &["ticks of 100 a second", "time-stamp counter"]),
            ("primes 10000", &["1229 primes, the largest is 9973"]),
            ("primes x", &["Say how far"]),
            ("echo two  words", &["\ntwo  words\r"]),
            (
                "fault",
                &[
                    "#PF",
                    "read of 0x0, where nothing is mapped",
                    "killed and started again",
                ],
            ),
            (
                "fault 0xffffffff80102000",
                &["#PF", "not the task's to touch", "The kernel goes on"],
            ),
            ("ps", &["2  0x"]),
            (
                "priv",
                &[
                    "cli                  #GP",
                    "hlt                  #GP",
                    "mov cr3, rax         #GP",
                    "popf with IF = 0     IF was 1, is 1",
                ],
            ),
            ("poke 0x2000 0x4d6f696e", &[]),
            ("peek 0x2000", &["0x2000: 0x4d6f696e"]),
            ("peek 0x100000000", &["out of reach"]),
            ("out 0x80 1", &[]),
            ("in 0x3f9", &["port 0x3f9: 0x01"]),
            ("nonsense", &["There is no command `nonsense`"]),
            ("", &[]),
        ];
        for (command, answers) in commands {
            machine.send(&format!("{command}\r"));
            machine.expect(&format!("{command}\r\n"));
            let said = format!("\n{}", machine.expect(PROMPT));
            for answer in *answers {
                assert!(
                    said.contains(answer),
                    "{protocol}: `{command}`: no `{answer}` in {said}"
                );
            }
        }
        machine.send("poweroff\r");
        assert_eq!(machine.finish().0, Some(0), "switched off by ACPI");
    }
}

#[test]
fn input_that_arrives_all_at_once_is_not_lost_even_across_the_death_of_the_shell() {
    let Some(mut machine) = Reference::start(BUILT_IN, false, &[]) else {
        return;
    };
    let lines: String = (0..600).map(|n| format!("echo line {n}\n")).collect();
    machine.send(&format!("{lines}fault\n{lines}poweroff\n"));
    for _ in 0..2 {
        for n in 0..600 {
            machine.expect(&format!("\nline {n}\r\n"));
        }
    }
    assert_eq!(machine.finish().0, Some(0));
}

#[test]
fn a_line_can_be_edited() {
    let Some(mut machine) = Reference::start(BUILT_IN, false, &[]) else {
        return;
    };
    for (keys, answer) in [
        ("echo abX\x7fc\r", "\nabc\r\n"),
        ("nonsense\x15echo after drop\r", "\nafter drop\r\n"),
        ("nonsense\x03echo after stop\r\n", "\nafter stop\r\n"),
        ("echo ü\x08u\n", "\nu\r\n"),
        ("\x08\x08echo nothing to erase\r", "\nnothing to erase\r\n"),
    ] {
        machine.send(keys);
        machine.expect(answer);
    }
}

#[test]
fn ctrl_c_stops_a_long_search() {
    let Some(mut machine) = Reference::start(BUILT_IN, false, &[]) else {
        return;
    };
    machine.expect(PROMPT);
    machine.send("primes 1000000000\r\n");
    machine.expect("primes 1000000000\r\n");
    machine.send("\x03");
    machine.expect("stopped at ");
    machine.expect(PROMPT);
    machine.send("tasks\r");
    machine.expect("shell: 1 searches");
}

#[test]
fn pic_pit_and_uart_are_enough_and_the_idle_guest_halts() {
    for image in [BUILT_IN.to_vec(), without_multiboot()] {
        let Some(mut machine) = Reference::start(&image, false, SMALLEST) else {
            return;
        };
        machine.expect(PROMPT);
        machine.send("sleep 50\rps\r");
        machine.expect("idle ");
        let said = machine.expect(" ticks");
        let numbers: Vec<u64> = said
            .split_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect();
        let [idle, all] = numbers[..] else {
            panic!("{said}")
        };
        assert!(all >= 50 && idle * 2 > all, "idle {idle} of {all} ticks");
        machine.send("time\rmem\r");
        assert!(!machine.expect("console interrupts: ").is_empty());
        machine.expect("ACPI: none");
        machine.send("poweroff\r");
        assert_eq!(
            machine.finish().0,
            Some(33),
            "by isa-debug-exit, for lack of anything else"
        );
    }
}

#[test]
fn reboot_resets_the_machine_and_panic_says_why() {
    for options in [&[][..], SMALLEST] {
        let Some(mut machine) = Reference::start(BUILT_IN, false, options) else {
            return;
        };
        machine.expect(PROMPT);
        machine.send("reboot\r");
        assert_eq!(
            machine.finish().0,
            Some(0),
            "-no-reboot makes a reset the end"
        );
        let mut machine = Reference::start(BUILT_IN, false, options).unwrap();
        machine.expect(PROMPT);
        machine.send("panic\r");
        let (status, said) = machine.finish();
        assert!(
            said.contains("kernel panic: asked for by task shell"),
            "{said}"
        );
        assert_eq!(status, Some(65));
    }
}
