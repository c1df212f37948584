//! Files with a multiboot header whose checksum is right. The first byte says where it is; the
//! flags are the file's own there.
#![no_main]

libfuzzer_sys::fuzz_target!(|file: &[u8]| {
    let mut file = file.to_vec();
    let at = file.first().map_or(0, |&b| usize::from(b) * 4);
    let flags = file
        .get(at + 4..at + 8)
        .and_then(|f| f.try_into().ok())
        .map_or(0, u32::from_le_bytes);
    // Unknown demands end at once; keep most files behind that check.
    let flags = if flags & 0x80 == 0 {
        flags & 0x1_0007
    } else {
        flags
    };
    let magic = 0x1bad_b002u32;
    let sum = 0u32.wrapping_sub(magic).wrapping_sub(flags);
    for (i, word) in [magic, flags, sum].into_iter().enumerate() {
        fuzz::put(&mut file, at + i * 4, &word.to_le_bytes());
    }
    fuzz::boot(&file);
});
