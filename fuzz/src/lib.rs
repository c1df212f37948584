//! What the loader targets share: one small machine, and the promises of `boot::load` that hold
//! for every file. Each target mends the magic of its format, so that the fuzzer spends its time
//! behind it.
#![forbid(unsafe_code)]

pub mod device;

use machine::boot::{BootSource, MemoryLayout, Module, load};
use mem::{Gpa, GuestMemory};
use std::cell::OnceCell;

thread_local! {
    static MACHINE: OnceCell<(GuestMemory, MemoryLayout)> = const { OnceCell::new() };
}

fn machine() -> (GuestMemory, MemoryLayout) {
    let layout = MemoryLayout::of(8 << 20);
    let ram = layout.ram();
    let mut memory = GuestMemory::anonymous(ram.iter().map(|r| r.1).sum()).expect("host memory");
    for (at, len) in ram {
        memory.place(Gpa(at), len, true).expect("a PC's layout");
    }
    (memory, layout)
}

/// Boots `kernel`: either it is loaded and entered in RAM with our GDT intact, or the error is
/// one line.
pub fn boot(kernel: &[u8]) {
    let source = BootSource {
        kernel,
        modules: &[Module {
            data: &[1; 64],
            command_line: "module",
        }],
        command_line: "quiet",
    };
    MACHINE.with(|cell| {
        let (memory, layout) = cell.get_or_init(machine);
        match load(&source, memory, layout, Some(0xe_0000)) {
            Ok(entry) => {
                assert!(memory.check(Gpa(entry.state.rip), 1, true).is_ok());
                let (gdt, limit) = entry.state.gdt.expect("every protocol has one");
                let data = gdt + u64::from(entry.state.data_selector);
                assert!(u64::from(entry.state.data_selector) + 7 <= u64::from(limit));
                assert_eq!(
                    memory.read_word::<u64>(Gpa(data)),
                    Ok(0x00cf_9300_0000_ffff)
                );
            }
            Err(error) => {
                let text = error.to_string();
                assert!(!text.contains('\n') && text.len() < 400, "{text}");
            }
        }
    });
}

/// Puts `bytes` at `at` if the file reaches there.
pub fn put(file: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = file.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}
