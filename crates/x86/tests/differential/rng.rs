//! A small seeded generator (splitmix64) and the values that find bugs.

/// The generator: one per case, so that a case is its seed.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Rng {
        Rng(seed)
    }
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
    /// A number below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
    /// True in `percent` of the cases.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
    /// An integer: half of them random, the others at an edge.
    pub fn edge(&mut self) -> u64 {
        let r = self.next();
        match self.below(8) {
            0..=2 => r,
            3 => r >> (self.below(64)),
            4 => (r as i64 >> self.below(64)) as u64,
            5 => self.below(20).wrapping_sub(4),
            6 => {
                let bit = self.pick(&[7u32, 8, 15, 16, 31, 32, 63]);
                (1u64 << bit).wrapping_sub(self.below(3))
            }
            _ => self.pick(&[
                0,
                1,
                !0,
                0x7f,
                0x80,
                0xff,
                0x7fff,
                0x8000,
                0xffff,
                0x7fff_ffff,
                0x8000_0000,
                0xffff_ffff,
                0x7fff_ffff_ffff_ffff,
                0x8000_0000_0000_0000,
            ]),
        }
    }

    fn single(&mut self) -> u32 {
        let r = self.next() as u32;
        match self.below(10) {
            0 => r,
            1 => r & 0x8000_0000,
            2 => r & 0x8000_0000 | 0x7f80_0000,
            3 => r & 0x803f_ffff | 0x7fc0_0000,
            4 => r & 0x803f_ffff | 0x7f80_0001,
            5 => r & 0x807f_ffff,
            6 => r & 0x80ff_ffff | 0x0080_0000,
            7 => r & 0x807f_ffff | 0x7f00_0000,
            8 => ((self.below(2000) as i64 - 1000) as f32 / self.pick(&[1.0, 2.0, 8.0])).to_bits(),
            _ => r & 0x83ff_ffff | 0x3c00_0000,
        }
    }

    fn double(&mut self) -> u64 {
        let r = self.next();
        match self.below(11) {
            0 => r,
            1 => r & 1 << 63,
            2 => r & 1 << 63 | 0x7ff0 << 48,
            3 => r & 0x8007_ffff_ffff_ffff | 0x7ff8 << 48,
            4 => r & 0x8007_ffff_ffff_ffff | 0x7ff0_0000_0000_0001,
            5 => r & 0x800f_ffff_ffff_ffff,
            6 => r & 0x801f_ffff_ffff_ffff | 1 << 52,
            7 => r & 0x800f_ffff_ffff_ffff | 0x7fe0 << 48,
            8 => ((self.below(2000) as i64 - 1000) as f64 / self.pick(&[1.0, 2.0, 8.0])).to_bits(),
            // Doubles near the range of singles, and of integers.
            9 => r & 0x800f_ffff_e000_0000 | self.pick(&[0x47e, 0x381, 0x369, 0x43d, 0x41e]) << 52,
            _ => r & 0x807f_ffff_ffff_ffff | 0x3fc0 << 48,
        }
    }

    /// An 80-bit register: significand, sign and exponent.
    pub fn extended(&mut self) -> (u64, u16) {
        let r = self.next();
        let sign = (r & 0x8000) as u16;
        let j = 1 << 63;
        let m = self.next();
        match self.below(13) {
            0 => (m, r as u16),
            1 => (0, sign),
            2 => (j, sign | 0x7fff),
            3 => (m | 3 << 62, sign | 0x7fff),
            4 => (m & !(3 << 62) | j | 1, sign | 0x7fff),
            5 => (m & !j, sign),
            6 => (m | j, sign),
            // Unnormal and pseudo-infinity.
            7 => (m & !j, r as u16),
            // Integers and halves.
            8 => {
                let width = self.pick(&[1u32, 4, 16, 32, 62]);
                let n = 1 + self.below(1 << width);
                let shift = n.leading_zeros();
                (
                    n << shift,
                    sign | (0x403e - shift as u16 - self.below(2) as u16),
                )
            }
            9 => (m & !0x7ff | j, sign | (0x3fff - 4 + self.below(8) as u16)),
            10 => (m | j, sign | (0x3fff - 70 + self.below(140) as u16)),
            11 => (
                m | j,
                sign | self.pick(&[1u16, 0x7ffe, 0x3c01, 0x43fe, 0x3f81, 0x407e]),
            ),
            _ => (m | j, sign | (0x3fff - 2 + self.below(4) as u16)),
        }
    }

    /// Fills `bytes` with data of one kind.
    pub fn fill(&mut self, flavour: Flavour, bytes: &mut [u8]) {
        match flavour {
            Flavour::Bits => {
                for chunk in bytes.chunks_mut(8) {
                    let v = self.next().to_le_bytes();
                    chunk.copy_from_slice(&v[..chunk.len()]);
                }
            }
            Flavour::Integers => {
                for chunk in bytes.chunks_mut(8) {
                    let v = match self.below(4) {
                        0 => u64::from(self.edge() as u16) * 0x1_0001_0001_0001,
                        1 => (self.edge() & 0xffff_ffff) * 0x1_0000_0001,
                        2 => {
                            let mut v = 0;
                            for _ in 0..8 {
                                v = v << 8 | self.pick(&[0, 1, 0x7f, 0x80, 0xff, 0x20, 0x81]);
                            }
                            v
                        }
                        _ => self.edge(),
                    };
                    chunk.copy_from_slice(&v.to_le_bytes()[..chunk.len()]);
                }
            }
            Flavour::Single => {
                for chunk in bytes.chunks_mut(4) {
                    let v = self.single().to_le_bytes();
                    chunk.copy_from_slice(&v[..chunk.len()]);
                }
            }
            Flavour::Double => {
                for chunk in bytes.chunks_mut(8) {
                    let v = self.double().to_le_bytes();
                    chunk.copy_from_slice(&v[..chunk.len()]);
                }
            }
            Flavour::Extended => {
                for chunk in bytes.chunks_mut(10) {
                    let (m, e) = self.extended();
                    let mut v = [0; 10];
                    v[..8].copy_from_slice(&m.to_le_bytes());
                    v[8..].copy_from_slice(&e.to_le_bytes());
                    chunk.copy_from_slice(&v[..chunk.len()]);
                }
            }
            Flavour::Bcd => {
                for byte in bytes {
                    *byte = (self.below(10) << 4 | self.below(10)) as u8;
                }
            }
        }
    }
}

/// What a register or operand is filled with.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Flavour {
    Bits,
    Integers,
    Single,
    Double,
    Extended,
    Bcd,
}
