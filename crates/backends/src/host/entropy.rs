//! The kernel's random numbers: getrandom(2).

use devices::backend::{BackendError, Entropy};
use rustix::rand::{GetRandomFlags, getrandom};

/// The host's randomness.
#[derive(Debug, Default)]
pub struct HostEntropy;

impl Entropy for HostEntropy {
    fn fill(&mut self, into: &mut [u8]) -> Result<(), BackendError> {
        let mut done = 0;
        while done < into.len() {
            match getrandom(&mut into[done..], GetRandomFlags::empty()) {
                Ok(n) => done += n,
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(BackendError(format!("getrandom: {e}"))),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_bytes_differ() {
        let (mut a, mut b) = ([0; 1000], [0; 1000]);
        HostEntropy.fill(&mut a).unwrap();
        HostEntropy.fill(&mut b).unwrap();
        assert_ne!(a, b);
    }
}
