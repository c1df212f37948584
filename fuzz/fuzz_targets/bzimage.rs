//! Files that say they are a Linux bzImage.
#![no_main]

libfuzzer_sys::fuzz_target!(|file: &[u8]| {
    let mut file = file.to_vec();
    fuzz::put(&mut file, 0x1fe, &[0x55, 0xaa]);
    fuzz::put(&mut file, 0x202, b"HdrS");
    fuzz::boot(&file);
});
