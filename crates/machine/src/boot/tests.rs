//! Small images made here for every protocol, cut, bent and mutated.

use super::*;
use std::string::ToString;
use std::{eprintln, println, vec};

const MIB: u64 = 1 << 20;

/// A machine's memory with RAM as [`MemoryLayout::ram`] says.
fn machine(mib: u64) -> (GuestMemory, MemoryLayout) {
    let layout = MemoryLayout::of(mib * MIB);
    let ram = layout.ram();
    let mut memory = GuestMemory::anonymous(ram.iter().map(|r| r.1).sum()).unwrap();
    for (at, len) in ram {
        memory.place(Gpa(at), len, true).unwrap();
    }
    (memory, layout)
}

fn boot_in(
    (memory, layout): &(GuestMemory, MemoryLayout),
    kernel: &[u8],
    modules: &[Module<'_>],
    command_line: &str,
) -> Result<Entry, BootError> {
    let source = BootSource {
        kernel,
        modules,
        command_line,
    };
    load(&source, memory, layout, Some(0xe_0000))
}

/// The error of booting `kernel` with 16 MiB, as its one line.
fn refusal(kernel: &[u8]) -> std::string::String {
    let text = boot_in(&machine(16), kernel, &[], "")
        .unwrap_err()
        .to_string();
    assert!(!text.contains('\n') && text.len() < 240, "{text}");
    text
}

fn read<const N: usize>(memory: &GuestMemory, at: u64) -> [u8; N] {
    let mut out = [0; N];
    memory.read(Gpa(at), &mut out).unwrap();
    out
}

fn u32_at(memory: &GuestMemory, at: u64) -> u32 {
    u32::from_le_bytes(read(memory, at))
}

fn u64_at(memory: &GuestMemory, at: u64) -> u64 {
    u64::from_le_bytes(read(memory, at))
}

fn set(file: &mut [u8], at: usize, bytes: &[u8]) {
    file[at..at + bytes.len()].copy_from_slice(bytes);
}

/// A bzImage of protocol 2.15: one setup sector, 1024 bytes of kernel, preferred at 2 MiB,
/// needing 1 MiB.
fn bzimage() -> Vec<u8> {
    let mut file = vec![0u8; 1024];
    file.extend((0..1024u32).map(|i| i as u8 ^ 0x5a));
    file[0x1f1] = 1;
    set(&mut file, 0x1f4, &64u32.to_le_bytes());
    set(&mut file, 0x1fe, &[0x55, 0xaa, 0xeb, 0x66]);
    set(&mut file, 0x202, b"HdrS");
    set(&mut file, 0x206, &0x20fu16.to_le_bytes());
    file[0x211] = 1;
    set(&mut file, 0x22c, &0x7fff_ffffu32.to_le_bytes());
    set(&mut file, 0x230, &0x20_0000u32.to_le_bytes());
    file[0x234] = 1;
    file[0x236] = 1;
    set(&mut file, 0x238, &2047u32.to_le_bytes());
    set(&mut file, 0x250, &0xdead_beefu64.to_le_bytes());
    set(&mut file, 0x258, &0x20_0000u64.to_le_bytes());
    set(&mut file, 0x260, &0x10_0000u32.to_le_bytes());
    file
}

/// A segment of an ELF file made by [`elf`].
struct Seg {
    kind: u32,
    vaddr: u64,
    paddr: u64,
    data: Vec<u8>,
    memory: u64,
}

fn elf(is_64: bool, entry: u64, segments: &[Seg]) -> Vec<u8> {
    let (header, each) = if is_64 { (64, 56) } else { (52, 32) };
    let mut file = vec![0u8; header + each * segments.len()];
    set(&mut file, 0, b"\x7fELF\0\x01\x01");
    file[4] = 1 + u8::from(is_64);
    set(&mut file, 16, &[2, 0, if is_64 { 62 } else { 3 }, 0]);
    let counts = |at: usize, file: &mut Vec<u8>| {
        set(file, at, &[each as u8, 0, segments.len() as u8, 0]);
    };
    if is_64 {
        set(&mut file, 24, &entry.to_le_bytes());
        set(&mut file, 32, &(header as u64).to_le_bytes());
        counts(54, &mut file);
    } else {
        set(&mut file, 24, &(entry as u32).to_le_bytes());
        set(&mut file, 28, &(header as u32).to_le_bytes());
        counts(42, &mut file);
    }
    for (i, s) in segments.iter().enumerate() {
        let offset = file.len() as u64;
        file.extend_from_slice(&s.data);
        let at = header + i * each;
        set(&mut file, at, &s.kind.to_le_bytes());
        let values = [offset, s.vaddr, s.paddr, s.data.len() as u64, s.memory];
        for (j, value) in values.into_iter().enumerate() {
            if is_64 {
                set(&mut file, at + 8 + j * 8, &value.to_le_bytes());
            } else {
                set(&mut file, at + 4 + j * 4, &(value as u32).to_le_bytes());
            }
        }
    }
    file
}

fn load_segment(paddr: u64, data: &[u8], memory: u64) -> Seg {
    Seg {
        kind: 1,
        vaddr: paddr,
        paddr,
        data: data.to_vec(),
        memory,
    }
}

fn pvh_note(entry: &[u8]) -> Seg {
    // A note of somebody else comes first.
    let mut data = b"\x04\0\0\0\x05\0\0\0\x03\0\0\0GNU\0idididid".to_vec();
    data[4] = 8;
    data.extend_from_slice(&[4, 0, 0, 0, entry.len() as u8, 0, 0, 0, 18, 0, 0, 0]);
    data.extend_from_slice(b"Xen\0");
    data.extend_from_slice(entry);
    Seg {
        kind: 4,
        vaddr: 0,
        paddr: 0,
        memory: data.len() as u64,
        data,
    }
}

fn pvh(is_64: bool) -> Vec<u8> {
    let entry: &[u8] = if is_64 {
        &[0x10, 0, 0x10, 0, 0, 0, 0, 0]
    } else {
        &[0x10, 0, 0x10, 0]
    };
    elf(
        is_64,
        0x10_0000,
        &[
            load_segment(0x10_0000, b"code code code code code", 0x3000),
            pvh_note(entry),
        ],
    )
}

fn multiboot_header(flags: u32, addresses: &[u32]) -> Vec<u8> {
    let magic = 0x1bad_b002u32;
    let sum = 0u32.wrapping_sub(magic).wrapping_sub(flags);
    let mut out = Vec::new();
    for word in [magic, flags, sum].iter().chain(addresses) {
        out.extend_from_slice(&word.to_le_bytes());
    }
    out
}

fn multiboot_elf() -> Vec<u8> {
    let mut data = multiboot_header(7, &[]);
    data.extend_from_slice(b"the kernel");
    elf(
        false,
        0x20_000c,
        &[load_segment(0x20_0000, &data, 0x1_0000)],
    )
}

fn multiboot_raw() -> Vec<u8> {
    let mut file = vec![0x90u8; 16];
    let addresses = [0x10_0010, 0x10_0000, 0, 0x10_4000, 0x10_0030];
    file.extend(multiboot_header(0x1_0003, &addresses));
    file.extend_from_slice(b"the kernel");
    file
}

#[test]
fn boot_bzimage_gets_zero_page_page_tables_and_initrd() {
    let machine = machine(64);
    let memory = &machine.0;
    // Leftovers of an earlier run must not show.
    memory.write(Gpa(0x7000), &[0xff; 4096]).unwrap();
    let modules = [b"abcde".as_slice(), &[7; 5000]].map(|data| Module {
        data,
        command_line: "",
    });
    let entry = boot_in(&machine, &bzimage(), &modules, "console=ttyS0").unwrap();
    assert_eq!(entry.protocol, Protocol::Linux64);
    let state = entry.state;
    assert_eq!((state.mode, state.rip), (Mode::Long64, 0x20_0200));
    assert_eq!((state.rsi, state.cr3), (0x7000, Some(0x9000)));
    assert_eq!(read(memory, 0x20_0000), [0x5a, 0x5b, 0x58, 0x59]);
    let zp = 0x7000;
    assert_eq!(u32_at(memory, zp + 0x202), HDRS);
    assert_eq!(u64_at(memory, zp + 0x70), 0xe_0000);
    assert_eq!(u64_at(memory, zp + 0x250), 0, "setup_data is ours");
    assert_eq!(read(memory, zp + 0x1ef), [0], "sentinel");
    assert_eq!(read(memory, zp), [0; 64], "screen_info");
    let command_line = u32_at(memory, zp + 0x228);
    assert_eq!(&read(memory, command_line.into()), b"console=ttyS0\0");
    let initrd = u64::from(u32_at(memory, zp + 0x218));
    assert_eq!(u32_at(memory, zp + 0x21c), 5008);
    assert_eq!(initrd, 64 * MIB - 8192);
    assert_eq!(read(memory, initrd), *b"abcde\0\0\0\x07");
    assert_eq!(read(memory, zp + 0x1e8), [4]);
    assert_eq!(u64_at(memory, zp + 0x2d0 + 8), 0x9_fc00);
    assert_eq!(u64_at(memory, zp + 0x2d0 + 60), MIB);
    assert_eq!(u64_at(memory, zp + 0x2d0 + 68), 63 * MIB);
    assert_eq!(u64_at(memory, 0x9000), 0xa003);
    assert_eq!(u64_at(memory, 0xa018), 0xe003);
    assert_eq!(u64_at(memory, 0xeff8), 0xffe0_0083);
    assert_eq!(state.gdt, Some((0x1000, 31)));
    assert_eq!(u64_at(memory, 0x1010), 0x00af_9b00_0000_ffff);
}
const HDRS: u32 = 0x5372_6448;

#[test]
fn boot_bzimage_without_a_64_bit_entry_starts_in_protected_mode() {
    let mut file = bzimage();
    file[0x236] = 0;
    let machine = machine(16);
    let entry = boot_in(&machine, &file, &[], "").unwrap();
    assert_eq!(entry.protocol, Protocol::Linux32);
    assert_eq!(entry.state.mode, Mode::Protected32);
    assert_eq!((entry.state.rip, entry.state.rsi), (0x20_0000, 0x7000));
    assert_eq!(u64_at(&machine.0, 0x1010), 0x00cf_9b00_0000_ffff);
    // Protocol 2.06 has neither init_size nor pref_address and goes to 1 MiB.
    set(&mut file, 0x206, &0x206u16.to_le_bytes());
    file[0x201] = 0x3c;
    file[0x234] = 0;
    let entry = boot_in(&machine, &file, &[], "").unwrap();
    assert_eq!(entry.state.rip, 0x10_0000);
}

#[test]
fn boot_bzimage_is_refused_where_its_preferred_address_is_not_ram() {
    let mut file = bzimage();
    set(&mut file, 0x258, &0x1000_0000u64.to_le_bytes());
    // A relocatable kernel, too: below that address it would move itself there.
    for relocatable in [1, 0] {
        file[0x234] = relocatable;
        assert_eq!(
            refusal(&file),
            "kernel: kernel (init_size) at 0x10000000..0x10100000 is not in free RAM; give at least 257 MiB of memory"
        );
    }
}

#[test]
fn boot_bzimage_refuses_what_is_wrong_naming_the_field() {
    let with = |at: usize, bytes: &[u8]| {
        let mut file = bzimage();
        set(&mut file, at, bytes);
        refusal(&file)
    };
    assert_eq!(
        with(0x1f1, &[31]),
        "kernel: truncated: setup says 31 sectors (16384 bytes), file has 2048; is the download complete?"
    );
    assert!(with(0x1fe, &[0]).contains("boot_flag"));
    assert!(with(0x206, &[5, 2]).contains("2.05"));
    assert!(with(0x211, &[0]).contains("zImage"));
    assert!(with(0x1f4, &[0xff; 4]).contains("truncated: system"));
    assert!(with(0x230, &[3, 0, 0, 0]).contains("kernel_alignment"));
    assert!(with(0x260, &[0xff; 4]).contains("init_size"));
    assert!(with(0x201, &[0x10]).contains("setup header"));
}

#[test]
fn boot_command_line_limit_is_the_kernels() {
    let long = "x".repeat(2047);
    assert!(boot_in(&machine(16), &bzimage(), &[], &long).is_ok());
    let longer = "x".repeat(2048);
    assert_eq!(
        boot_in(&machine(16), &bzimage(), &[], &longer),
        Err(BootError::CommandLineTooLong {
            has: 2048,
            limit: 2047
        })
    );
    for file in [pvh(true), multiboot_elf()] {
        let long = "x".repeat(65536);
        assert!(matches!(
            boot_in(&machine(16), &file, &[], &long),
            Err(BootError::CommandLineTooLong { .. })
        ));
    }
    assert_eq!(
        boot_in(&machine(16), &bzimage(), &[], "a\0b"),
        Err(BootError::CommandLineZero)
    );
}

#[test]
fn boot_initrd_that_does_not_fit_says_how_much_memory_would_do() {
    let big = vec![1u8; 20 << 20];
    let modules = [Module {
        data: &big,
        command_line: "",
    }];
    let text = |file: &[u8], mib| {
        boot_in(&machine(mib), file, &modules, "")
            .map(|_| ())
            .map_err(|e| e.to_string())
    };
    assert_eq!(
        text(&bzimage(), 16).unwrap_err(),
        "initrd: 20971520 bytes do not fit into 16 MiB of memory; 23 MiB would do"
    );
    assert!(text(&bzimage(), 23).is_ok());
    let needs = text(&pvh(true), 16).unwrap_err();
    assert!(needs.ends_with("22 MiB would do"), "{needs}");
    assert!(text(&pvh(true), 22).is_ok());
    let mut low = bzimage();
    set(&mut low, 0x22c, &0xff_ffffu32.to_le_bytes());
    assert_eq!(
        text(&low, 64).unwrap_err(),
        "initrd: 20971520 bytes, and this kernel leaves room for 13631488 whatever the memory; make it smaller"
    );
}

#[test]
fn boot_pvh_gets_start_info_with_modules_map_and_command_line() {
    for is_64 in [false, true] {
        let machine = machine(16);
        let memory = &machine.0;
        memory.write(Gpa(0x10_0000), &[0xee; 0x4000]).unwrap();
        let modules = [Module {
            data: b"module",
            command_line: "its string",
        }];
        let entry = boot_in(&machine, &pvh(is_64), &modules, "quiet").unwrap();
        assert_eq!(entry.protocol, Protocol::Pvh);
        assert_eq!(entry.state.mode, Mode::Protected32);
        assert_eq!((entry.state.rip, entry.state.rbx), (0x10_0010, 0x2000));
        assert_eq!(read(memory, 0x10_0000), *b"code code");
        assert_eq!(read(memory, 0x10_0018), [0; 32], "bss");
        assert_eq!(read(memory, 0x10_2fff), [0, 0xee], "and no more");
        let info = 0x2000;
        assert_eq!(u32_at(memory, info), 0x336e_c578);
        assert_eq!(u32_at(memory, info + 4), 1);
        assert_eq!(u32_at(memory, info + 12), 1);
        let list = u64_at(memory, info + 16);
        let module = u64_at(memory, list);
        assert_eq!(read(memory, module), *b"module");
        assert_eq!(u64_at(memory, list + 8), 6);
        assert_eq!(read(memory, u64_at(memory, list + 16)), *b"its string\0");
        assert_eq!(read(memory, u64_at(memory, info + 24)), *b"quiet\0");
        assert_eq!(u64_at(memory, info + 32), 0xe_0000);
        let map = u64_at(memory, info + 40);
        assert_eq!(u32_at(memory, info + 48), 4);
        assert_eq!(u64_at(memory, map + 8), 0x9_fc00);
        assert_eq!(u32_at(memory, map + 16), 1);
    }
}

#[test]
fn boot_multiboot_gets_its_information() {
    for (file, rip) in [(multiboot_elf(), 0x20_000c), (multiboot_raw(), 0x10_0030)] {
        let machine = machine(16);
        let memory = &machine.0;
        let modules = [Module {
            data: b"module",
            command_line: "its string",
        }];
        let entry = boot_in(&machine, &file, &modules, "-x").unwrap();
        assert_eq!(entry.protocol, Protocol::Multiboot1);
        assert_eq!((entry.state.rip, entry.state.rax), (rip, 0x2bad_b002));
        let info = entry.state.rbx;
        let at = |offset| u64::from(u32_at(memory, info + offset));
        assert_eq!(at(0), 0x24d);
        assert_eq!((at(4), at(8)), (639, 15 * 1024));
        assert_eq!(read(memory, at(16)), *b"kernel -x\0");
        assert_eq!(at(20), 1);
        let list = at(24);
        let start = u64::from(u32_at(memory, list));
        assert_eq!(read(memory, start), *b"module");
        assert_eq!(u64::from(u32_at(memory, list + 4)), start + 6);
        assert_eq!(
            read(memory, u32_at(memory, list + 8).into()),
            *b"its string\0"
        );
        assert_eq!(at(44), 4 * 24);
        let map = at(48);
        assert_eq!(u32_at(memory, map), 20);
        assert_eq!(u64_at(memory, map + 12), 0x9_fc00);
        assert_eq!(read(memory, at(64)), *b"moinho\0");
    }
    let raw = machine(16);
    boot_in(&raw, &multiboot_raw(), &[], "").unwrap();
    assert_eq!(read(&raw.0, 0x10_0030), *b"the kernel");
}

#[test]
fn boot_multiboot_with_bent_address_fields_is_refused() {
    let bent = |addresses: [u32; 5]| {
        let mut file = vec![0x90u8; 16];
        file.extend(multiboot_header(0x1_0003, &addresses));
        refusal(&file)
    };
    let good = [0x10_0010, 0x10_0000, 0, 0x10_4000, 0x10_0020];
    let with = |i: usize, value| {
        let mut addresses = good;
        addresses[i] = value;
        bent(addresses)
    };
    assert!(with(0, 0x0f_0000).contains("load_addr"));
    assert!(with(0, 0x10_0020).contains("load_addr"));
    assert!(with(2, 0x0f_ffff).contains("load_end_addr"));
    assert!(with(2, 0x11_0000).contains("truncated"));
    assert!(with(3, 0x10_0001).contains("bss_end_addr"));
    assert!(with(3, 0xffff_ffff).contains("free RAM"));
    assert!(with(4, 0x20_0000).contains("entry_addr"));
    let unknown = multiboot_header(0x8, &[]);
    assert!(refusal(&unknown).contains("demands 0x8"));
}

#[test]
fn boot_vmlinux_without_a_note_gets_a_zero_page() {
    let kernel = Seg {
        vaddr: 0xffff_ffff_8100_0000,
        ..load_segment(0x20_0000, b"startup", 0x1000)
    };
    let machine = machine(16);
    let entry = boot_in(&machine, &elf(true, 0x20_0000, &[kernel]), &[], "quiet").unwrap();
    assert_eq!(entry.protocol, Protocol::Linux64);
    assert_eq!((entry.state.rip, entry.state.rsi), (0x20_0000, 0x7000));
    assert_eq!(u32_at(&machine.0, 0x7202), HDRS);
    let program = elf(true, 0x40_0000, &[load_segment(0x40_0000, b"main", 4)]);
    assert!(refusal(&program).contains("ELF program"));
}

#[test]
fn boot_segments_that_overlap_wrap_or_miss_ram_are_refused() {
    let with = |segments: Vec<Seg>| {
        let mut segments = segments;
        segments.push(pvh_note(&[0, 0, 0x10, 0]));
        refusal(&elf(true, 0, &segments))
    };
    let one = |paddr, memory| with(vec![load_segment(paddr, b"abcd", memory)]);
    assert!(one(u64::MAX - 3, 0x1000).contains("wraps around the address space"));
    assert!(one(u64::MAX - 0xfff, u64::MAX).contains("wraps"));
    assert!(one(0x10_0000, 2).contains("p_filesz"));
    assert!(one(0x10_0000, 1 << 40).contains("free RAM"));
    assert!(one(0x10_0000, 16 * MIB).contains("at least 17 MiB"));
    assert!(one(0x7000, 4).contains("boot loader uses memory below"));
    assert!(one(0x9_f000, 0x1000).contains("reserved"));
    assert!(one(0xc000_0000, 4).contains("hole"));
    assert!(one(0x20_0000, 4).contains("XEN_ELFNOTE_PHYS32_ENTRY"));
    let both = with(vec![
        load_segment(0x10_0ff0, b"abcd", 0x20),
        load_segment(0x10_0000, b"abcd", 0x1000),
    ]);
    assert!(
        both.contains("segment 1 and segment 0 overlap at 0x100ff0"),
        "{both}"
    );
}

#[test]
fn boot_other_files_are_named_with_the_way_out() {
    let mut arm = pvh(true);
    arm[18] = 183;
    let mut ppc = pvh(false);
    set(&mut ppc, 5, &[2]);
    set(&mut ppc, 18, &[0, 20]);
    let mut image = vec![1u8; 4096];
    set(&mut image, 0x38, b"ARMd");
    let mut pe = vec![0u8; 4096];
    set(&mut pe, 0, b"MZ");
    pe[0x3c] = 0x80;
    set(&mut pe, 0x80, b"PE\0\0\x64\x86");
    let mut object = pvh(true);
    object[16] = 1;
    let mut gzip = vec![0x1f, 0x8b, 8];
    gzip.resize(64, 1);
    for (file, says) in [
        (vec![], "the file is empty"),
        (gzip.clone(), "gzip file; unpack"),
        (gzip[..10].to_vec(), "gzip file, cut off"),
        (arm, "ELF file for aarch64"),
        (ppc, "big-endian ppc"),
        (object, "object file"),
        (image, "Linux Image for aarch64"),
        (pe, "UEFI application"),
        (b"MZ".to_vec(), "cut off"),
        (b"070701".to_vec(), "cpio"),
        (vec![0; 100_000], "zeros"),
        (vec![0xf4; 100_000], "raw bytes"),
        (vec![0xf4; 10], "10 bytes, too short"),
    ] {
        let text = refusal(&file);
        assert!(text.contains(says), "{text}");
    }
}

#[test]
fn boot_in_too_little_memory_says_so() {
    for file in [bzimage(), pvh(false), multiboot_elf()] {
        assert_eq!(
            boot_in(&machine(1), &file, &[], ""),
            Err(BootError::MemoryTooSmall { has_kib: 1024 })
        );
    }
    let odd = MemoryLayout { low: 4097, high: 0 };
    assert!(odd.check().is_err());
    let huge = MemoryLayout::of(!4095);
    assert!(huge.check().is_err());
    let text = boot_in(&machine(2), &bzimage(), &[], "").unwrap_err();
    assert!(text.to_string().contains("at least 3 MiB"), "{text}");
}

#[test]
fn boot_memory_above_4_gib_is_in_the_map() {
    let layout = MemoryLayout::of(8 << 30);
    assert_eq!((layout.low, layout.high), (0xc000_0000, 0x1_4000_0000));
    let e820 = layout.e820();
    let last = e820.last().unwrap();
    assert_eq!((last.start, last.len), (1 << 32, 0x1_4000_0000));
    for pair in e820.windows(2) {
        assert!(pair[0].start + pair[0].len <= pair[1].start, "{pair:?}");
    }
}

#[test]
fn boot_of_every_truncation_is_an_error_or_ok() {
    let machine = machine(16);
    for file in images() {
        for end in 0..file.len() {
            if let Err(e) = boot_in(&machine, &file[..end], &[], "x") {
                let text = e.to_string();
                assert!(!text.contains('\n'), "{text}");
            }
        }
        let last = boot_in(&machine, &file[..file.len() - 1], &[], "x");
        // The last segment of PVH is its note; without it this is another file. A raw
        // multiboot image ends where its file does.
        assert!(last.is_err() || file == multiboot_raw(), "{last:?}");
    }
}

fn images() -> [Vec<u8>; 5] {
    [
        bzimage(),
        pvh(true),
        pvh(false),
        multiboot_elf(),
        multiboot_raw(),
    ]
}

/// xorshift64*.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

#[test]
fn boot_of_mutated_images_never_panics() {
    let seed: u64 = std::env::var("MOINHO_SEED")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(0x6d6f_696e_686f);
    println!("MOINHO_SEED={seed}");
    let mut random = Random(seed | 1);
    let machine = machine(4);
    let images = images();
    let interesting = [
        0,
        1,
        0x7f,
        0x80,
        0xff,
        0x10_0000,
        0x7fff_ffff,
        u64::MAX,
        1 << 63,
    ];
    let (mut ok, mut refused) = (0, 0);
    for _ in 0..20_000 {
        let mut file = images[random.below(images.len())].clone();
        // The headers: a bzImage's from 0x1F0, an ELF file's from 0.
        let base = if file[0] == 0 { 0x1f0 } else { 0 };
        for _ in 0..=random.below(4) {
            let at = base + random.below((file.len() - base).min(0x110));
            let value = match random.below(3) {
                0 => random.next(),
                1 => interesting[random.below(interesting.len())],
                _ => u64::from(file[at])
                    .wrapping_add(random.next() % 3)
                    .wrapping_sub(1),
            };
            let size = [1, 2, 4, 8][random.below(4)].min(file.len() - at);
            set(&mut file, at, &value.to_le_bytes()[..size]);
        }
        if random.below(8) == 0 {
            file.truncate(random.below(file.len()));
        }
        let modules = [Module {
            data: &[1; 100],
            command_line: "m",
        }];
        match boot_in(&machine, &file, &modules[..random.below(2)], "quiet") {
            Ok(entry) => {
                ok += 1;
                assert!(entry.state.rip >> 33 == 0, "{entry:?}");
            }
            Err(e) => {
                refused += 1;
                let text = e.to_string();
                assert!(!text.contains('\n') && text.len() < 300, "{text}");
            }
        }
    }
    println!("{ok} loaded, {refused} refused");
    assert!(
        ok > 1000 && refused > 1000,
        "both ways are tried: {ok} {refused}"
    );
}

/// Tries the kernel in `MOINHO_KERNEL`, for a look by hand.
#[test]
fn boot_of_a_real_kernel_if_one_is_given() {
    let Ok(path) = std::env::var("MOINHO_KERNEL") else {
        eprintln!("skipped: 1 test needs a kernel in MOINHO_KERNEL");
        return;
    };
    let kernel = std::fs::read(path).unwrap();
    let entry = boot_in(&machine(256), &kernel, &[], "console=ttyS0").unwrap();
    println!("{entry:#x?}");
}

/// Writes the images as a seed corpus: `MOINHO_CORPUS=fuzz/corpus/bzimage cargo test …`.
#[test]
fn boot_images_become_a_fuzz_corpus_if_a_directory_is_named() {
    let Ok(dir) = std::env::var("MOINHO_CORPUS") else {
        return;
    };
    std::fs::create_dir_all(&dir).unwrap();
    let kernel = Seg {
        vaddr: 0xffff_ffff_8100_0000,
        ..load_segment(0x20_0000, b"startup", 0x1000)
    };
    let vmlinux = elf(true, 0x20_0000, &[kernel]);
    for (i, image) in images().into_iter().chain([vmlinux]).enumerate() {
        std::fs::write(std::format!("{dir}/image-{i}"), image).unwrap();
    }
}
