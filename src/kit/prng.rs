//! Chance, from a seed: the same seed gives the same run.

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

/// A seeded generator of unpredictable numbers. ChaCha, because mask keys (RFC 6455 10.3) and
/// session ids must not be guessed from earlier ones; seeded, so that a simulation repeats.
#[derive(Clone)]
pub struct Prng(ChaCha8Rng);

impl Prng {
    /// A generator from 32 bytes; outside simulations they come from the kernel.
    pub fn new(seed: [u8; 32]) -> Prng {
        Prng(ChaCha8Rng::from_seed(seed))
    }

    /// A generator for simulations and tests.
    pub fn from_u64(seed: u64) -> Prng {
        Prng(ChaCha8Rng::seed_from_u64(seed))
    }

    /// 32 random bits.
    pub fn next_u32(&mut self) -> u32 {
        self.0.next_u32()
    }

    /// 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// 128 random bits.
    pub fn next_u128(&mut self) -> u128 {
        (u128::from(self.next_u64()) << 64) | u128::from(self.next_u64())
    }

    /// A fresh mask key for a frame of ours (RFC 6455 5.3).
    pub fn mask_key(&mut self) -> [u8; 4] {
        self.next_u32().to_le_bytes()
    }

    /// A number below `bound`, or 0 for a bound of 0. The bias of the multiplication is below
    /// 2^-32 for the bounds used here.
    pub fn below(&mut self, bound: u32) -> u32 {
        ((u64::from(self.next_u32()) * u64::from(bound)) >> 32) as u32
    }

    /// True in `numerator` of `denominator` cases.
    pub fn chance(&mut self, numerator: u32, denominator: u32) -> bool {
        self.below(denominator) < numerator
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeats_from_its_seed_and_stays_below_the_bound() {
        let (mut a, mut b) = (Prng::from_u64(7), Prng::from_u64(7));
        for bound in [1, 2, 3, 10, 1000, u32::MAX] {
            let x = a.below(bound);
            assert!(x < bound);
            assert_eq!(x, b.below(bound));
        }
        assert_eq!(a.below(0), 0);
        assert_ne!(Prng::from_u64(1).next_u128(), Prng::from_u64(2).next_u128());
    }
}
