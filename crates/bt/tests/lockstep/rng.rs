//! A small seeded generator (splitmix64) and the values that find bugs.

/// The generator: one per program, so that a program is its seed.
#[derive(Clone)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Rng {
        Rng(seed.wrapping_mul(0x2545_f491_4f6c_dd1d))
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
            3 => r >> self.below(64),
            4 => (r as i64 >> self.below(64)) as u64,
            5 => self.below(20).wrapping_sub(4),
            6 => {
                let bit = self.pick(&[7u32, 8, 15, 16, 31, 32, 63]);
                (1u64 << bit).wrapping_sub(self.below(3))
            }
            _ => self.pick(&[0, 1, !0, 0x7f, 0x80, 0xffff, 0x8000_0000, 1 << 63]),
        }
    }
    /// A quadword that is now an integer, now a double, now two singles.
    pub fn quad(&mut self) -> u64 {
        let r = self.next();
        match self.below(4) {
            0 => self.edge(),
            1 => ((self.below(2000) as i64 - 1000) as f64 / 8.0).to_bits(),
            2 => {
                let one = ((self.below(2000) as i64 - 1000) as f32 / 8.0).to_bits();
                u64::from(one) << 32 | u64::from((self.below(100) as f32).to_bits())
            }
            _ => r & 0x800f_ffff_ffff_ffff | self.pick(&[0u64, 0x7ff, 0x3ff, 0x001, 0x7fe]) << 52,
        }
    }
}
