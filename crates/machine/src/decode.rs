//! Who answers at an address: the ranges that the board claims, sorted once, searched by halves.

use alloc::string::String;
use alloc::vec::Vec;

/// One claimed range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Claim {
    /// First address.
    pub start: u64,
    /// Addresses in it.
    pub len: u64,
    /// Index of the device on the board.
    pub slot: u16,
    /// Which of the device's regions this is.
    pub region: u8,
}

/// A port or memory address decoder.
#[derive(Default, Debug)]
pub struct Decoder {
    claims: Vec<Claim>,
}

impl Decoder {
    /// Sorts the claims. An empty or overlapping one is a mistake in the board's list.
    pub fn new(mut claims: Vec<Claim>) -> Result<Decoder, String> {
        claims.sort_unstable_by_key(|c| c.start);
        for claim in &claims {
            if claim.len == 0 || claim.start.checked_add(claim.len - 1).is_none() {
                return Err(alloc::format!("an impossible range: {claim:x?}"));
            }
        }
        for pair in claims.windows(2) {
            if pair[1].start - pair[0].start < pair[0].len {
                return Err(alloc::format!("ranges overlap: {:x?}", pair));
            }
        }
        Ok(Decoder { claims })
    }

    /// The claim that holds all of `at..at + size`, and the offset into it.
    #[inline]
    pub fn find(&self, at: u64, size: u8) -> Option<(Claim, u64)> {
        let after = self.claims.partition_point(|c| c.start <= at);
        let claim = self.claims[..after].last()?;
        let offset = at - claim.start;
        (offset < claim.len && claim.len - offset >= u64::from(size)).then_some((*claim, offset))
    }

    /// All claims in ascending order.
    pub fn claims(&self) -> &[Claim] {
        &self.claims
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(start: u64, len: u64, slot: u16) -> Claim {
        Claim {
            start,
            len,
            slot,
            region: 0,
        }
    }

    #[test]
    fn an_address_finds_the_claim_around_it_and_nothing_beside() {
        let d = Decoder::new(alloc::vec![
            claim(0x60, 1, 0),
            claim(0x70, 2, 1),
            claim(0x64, 1, 0)
        ])
        .unwrap();
        assert_eq!(d.find(0x71, 1).map(|(c, o)| (c.slot, o)), Some((1, 1)));
        assert_eq!(d.find(0x71, 2), None, "crosses the end");
        assert_eq!(d.find(0x5f, 1), None);
        assert_eq!(d.find(0x61, 1), None);
        assert_eq!(d.find(u64::MAX, 8), None);
    }

    #[test]
    fn overlapping_and_empty_claims_are_refused() {
        for claims in [
            alloc::vec![claim(0, 4, 0), claim(3, 1, 1)],
            alloc::vec![claim(0, 0, 0)],
            alloc::vec![claim(u64::MAX, 2, 0)],
        ] {
            assert!(Decoder::new(claims).is_err());
        }
        assert!(Decoder::new(alloc::vec![claim(u64::MAX, 1, 0)]).is_ok());
    }
}
