//! Files that say they are ELF for x86, with or without a PVH note.
#![no_main]

libfuzzer_sys::fuzz_target!(|file: &[u8]| {
    let mut file = file.to_vec();
    let is_64 = file.get(4).is_some_and(|class| class & 1 == 0);
    let (class, machine, entry_at, entry_size) = if is_64 {
        (2, 62, 54, 56)
    } else {
        (1, 3, 42, 32)
    };
    fuzz::put(&mut file, 0, &[0x7f, b'E', b'L', b'F', class, 1, 1]);
    fuzz::put(&mut file, 16, &[2, 0, machine, 0]);
    fuzz::put(&mut file, entry_at, &[entry_size, 0]);
    fuzz::boot(&file);
});
