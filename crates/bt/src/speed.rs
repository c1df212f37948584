//! How fast code is translated: prints nanoseconds and host bytes for each guest instruction of the
//! C library, block after block, page after page. A measurement, so nothing is asserted of it; its
//! results are in docs/measurements.md.
//!
//! ```text
//! cargo test --release -p bt translation_speed -- --ignored --nocapture
//! ```

use crate::area::View;
use crate::golden::{Golden, Place};
use crate::translate::Source;
use std::time::Instant;
use x86::exec::Exec;

/// The code of the C library in this process, as pages.
fn library() -> Vec<[u8; 4096]> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let line = maps
        .lines()
        .find(|line| line.contains("r-xp") && line.contains("libc"));
    let words: Vec<&str> = line.expect("a C library").split_whitespace().collect();
    let (from, to) = words[0].split_once('-').unwrap();
    let number = |text: &str| u64::from_str_radix(text, 16).unwrap();
    let offset = number(words[2]) as usize;
    let size = (number(to) - number(from)) as usize;
    let file = std::fs::read(words[5]).unwrap();
    let code = &file[offset..(offset + size).min(file.len())];
    code.as_chunks().0.to_vec()
}

#[test]
#[ignore = "a measurement"]
fn translation_speed() {
    let pages = library();
    let mut golden = Golden::new(Place::Ring(3));
    let (mut best, mut counts) = (f64::MAX, [0; 3]);
    for _ in 0..5 {
        let start = Instant::now();
        counts = [0; 3];
        for page in &pages {
            let mut rip = 0;
            let live_flags = [const { core::cell::Cell::new(0) }; 4096];
            while rip < 4096 {
                let source = Source {
                    rip,
                    page,
                    fixed: None,
                    others: &|_| None,
                    links_to: &|_| (),
                    next: None,
                    next_key: 0,
                    live: &live_flags,
                    view: View::User,
                    first_site: 0,
                    origin: 0x7000_0010_0000,
                    cache: 0x7000_0000_0000,
                    cold: 0x7000_0000_0000 + 0x20_0000,
                    counter: None,
                    copies: false,
                    guards: true,
                    entry: None,
                    side: None,
                };
                let x = Exec {
                    cpu: golden.vcpu.cpu(),
                    bus: &mut crate::golden::Nobody,
                };
                let Some(output) = golden.translator.block(&x, &source) else {
                    break;
                };
                let last = u64::from(output.map[output.count - 1].1);
                let mut decoder = iced_x86::Decoder::new(64, &page[(rip + last) as usize..], 0);
                rip += last + decoder.decode().len() as u64;
                for (sum, n) in
                    counts
                        .iter_mut()
                        .zip([1, output.count, output.code.len() + output.cold.len()])
                {
                    *sum += n;
                }
                golden.translator.recycle(output);
            }
        }
        best = best.min(start.elapsed().as_secs_f64());
    }
    let [blocks, guest, host] = counts.map(|n| n as f64);
    println!(
        "{blocks} blocks, {guest} instructions: {:.0} ns and {:.1} host bytes an instruction, {:.1} instructions a block",
        best * 1e9 / guest,
        host / guest,
        guest / blocks
    );
}
