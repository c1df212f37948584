//! Random bytes in every mode, with random descriptors: whatever a guest does, the processor
//! neither panics nor gives up.

use crate::harness::*;
use x86::state::{cr0, cr4, rflags};
use x86::{Signals, Stop};

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
    /// Often a place where something is or nothing can be.
    fn address(&mut self) -> u64 {
        let base = [
            0,
            DATA,
            GDT,
            IDT,
            TSS,
            CODE,
            STACK,
            0xffff,
            0x7fff_ffff_fff8,
            u64::MAX,
            0xffff_fff0,
        ];
        let n = self.below(base.len() as u64) as usize;
        base[n].wrapping_add(self.below(64)).wrapping_sub(16)
    }
}

/// Beginnings of system instructions.
const SYSTEM: &[&[u8]] = &[
    &[0x0f, 0x00],
    &[0x0f, 0x01],
    &[0x0f, 0x02],
    &[0x0f, 0x03],
    &[0x0f, 0x05],
    &[0x0f, 0x06],
    &[0x0f, 0x07],
    &[0x0f, 0x20],
    &[0x0f, 0x21],
    &[0x0f, 0x22],
    &[0x0f, 0x23],
    &[0x0f, 0x30],
    &[0x0f, 0x32],
    &[0x0f, 0x34],
    &[0x0f, 0x35],
    &[0x0f, 0xae],
    &[0x0f, 0xc7],
    &[0x0f, 0xb2],
    &[0x48],
    &[0x66],
    &[0x67],
    &[0x8e],
    &[0x9a],
    &[0x9c],
    &[0x9d],
    &[0xca],
    &[0xcb],
    &[0xcc],
    &[0xcd],
    &[0xcf],
    &[0xea],
    &[0xfb],
    &[0xf1],
    &[0xff],
    &[0x6c],
    &[0xf3, 0x6d],
    &[0xf3, 0x6f],
    &[0x1f],
    &[0x17],
    &[0xc4],
];

fn trouble(seed: u64) {
    let mut r = Random(seed);
    let mut m = match r.below(4) {
        0 => Machine::real(),
        1 => Machine::protected(),
        _ => Machine::long(),
    };
    let kind = m.state().cr0 & (cr0::PE | cr0::PG);
    if kind != 0 && r.below(2) == 0 {
        m.user(if kind & cr0::PG != 0 { 64 } else { 32 });
    }
    // Descriptors and gates of all types.
    for n in 0..16 {
        let at = u64::from(FREE1) + 8 * n;
        let raw = if r.below(2) == 0 {
            descriptor(r.address() & 0xffff_ffff, r.next(), r.next())
        } else {
            gate((r.below(0x100)) as u16, r.address(), r.next(), r.next())
        };
        m.write(GDT + at, raw | 1 << 47);
        m.write(IDT + 16 * r.below(32), raw);
        m.write(DATA + 8 * n, r.next());
    }
    for n in 0..26 {
        m.write(TSS2 + 4 * n, r.below(0x100) as u32);
    }
    for start in [CODE, USER] {
        let mut bytes = Vec::new();
        while bytes.len() < 256 {
            if r.below(2) == 0 {
                bytes.extend(SYSTEM[r.below(SYSTEM.len() as u64) as usize]);
            }
            bytes.extend(&r.next().to_le_bytes()[..r.below(5) as usize]);
        }
        m.bytes(start, &bytes);
    }
    let gprs: Vec<u64> = (0..16)
        .map(|_| match r.below(3) {
            0 => r.address(),
            1 => r.below(0x100),
            _ => r.next(),
        })
        .collect();
    let (flags, flip4, flip0) = (r.next(), r.next(), r.next());
    m.change(|s| {
        let sp = s.gpr[RSP];
        s.gpr.copy_from_slice(&gprs);
        if flags & 1 << 40 != 0 {
            s.gpr[RSP] = sp;
        }
        let free = rflags::ARITHMETIC | rflags::IOPL | rflags::NT | rflags::AC | rflags::IF;
        s.rflags |= flags & (free | rflags::DF | rflags::TF);
        s.cr4 |= flip4 & (cr4::OSXSAVE | cr4::FSGSBASE | cr4::VME | cr4::PVI | cr4::DE);
        s.cr0 |= flip0 & (cr0::AM | cr0::TS);
        s.dr7 |= flags >> 24 & 0xff;
    });
    for vector in 0..4 {
        m.bus.vectors.push(0x20 + vector);
    }
    m.signals.raise(Signals::INTR);
    for _ in 0..4 {
        let stop = m.vcpu.run(&mut m.bus, 500);
        if let Stop::Broken(why) = stop {
            panic!("seed {seed}: {why}");
        }
        // A state that was run into can be saved and loaded.
        let s = m.state();
        m.vcpu
            .set_state(&s)
            .unwrap_or_else(|e| panic!("seed {seed}: {e}"));
    }
}

#[test]
fn no_guest_code_makes_the_processor_panic_or_give_up() {
    // More of them: `MOINHO_SEEDS=100000 cargo test -p x86 --test guest chaos`.
    let seeds = std::env::var("MOINHO_SEEDS").map_or(3000, |n| n.parse().expect("a number"));
    for seed in 0..seeds {
        trouble(seed);
    }
}
