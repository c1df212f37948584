//! Which places of a table may hold something, so that emptying it costs what was used of it.
//! Called by [`crate::area`].

/// A bit for each of 64 × `N` places.
#[repr(C)]
pub struct Marks<const N: usize>([u64; N]);

impl<const N: usize> Marks<N> {
    /// Marks a place.
    pub fn set(&mut self, place: usize) {
        self.0[place / 64] |= 1 << (place % 64);
    }

    /// Calls `f` with each marked place.
    pub fn each(&self, mut f: impl FnMut(usize)) {
        for (n, &word) in self.0.iter().enumerate() {
            let mut word = word;
            while word != 0 {
                f(64 * n + word.trailing_zeros() as usize);
                word &= word - 1;
            }
        }
    }

    /// The same, and no place is marked afterwards.
    pub fn take(&mut self, f: impl FnMut(usize)) {
        self.each(f);
        self.0.fill(0);
    }
}

/// A byte for each of 8 × `N` places, which translated code can set.
#[repr(C)]
pub struct Flags<const N: usize>([[u8; 8]; N]);

impl<const N: usize> Flags<N> {
    /// Marks a place.
    pub fn set(&mut self, place: usize) {
        self.0[place / 8][place % 8] = 1;
    }

    /// Calls `f` with each marked place.
    pub fn each(&self, mut f: impl FnMut(usize)) {
        for (n, eight) in self.0.iter().enumerate() {
            if *eight != [0; 8] {
                (0..8).filter(|k| eight[*k] != 0).for_each(|k| f(8 * n + k));
            }
        }
    }

    /// The same, and no place is marked afterwards.
    pub fn take(&mut self, f: impl FnMut(usize)) {
        self.each(f);
        self.0.fill([0; 8]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_marked_is_taken_once() {
        let (mut marks, mut flags) = (Marks([0; 4]), Flags([[0; 8]; 4]));
        let places = [0, 1, 7, 30, 31];
        places.iter().for_each(|&n| marks.set(8 * n));
        places.iter().for_each(|&n| flags.set(n));
        for again in [false, true] {
            let (mut one, mut other) = (Vec::new(), Vec::new());
            marks.take(|n| one.push(n / 8));
            flags.take(|n| other.push(n));
            let expected = if again { &[][..] } else { &places };
            assert_eq!((&one[..], &other[..]), (expected, expected));
        }
    }
}
