//! Random numbers that a run can repeat.

/// SplitMix64: short, fast, and good enough to choose clients and nodes.
pub struct Chance(u64);

impl Chance {
    /// Of a thread of its own.
    pub fn new(seed: u64, index: usize) -> Self {
        Self(seed ^ (index as u64 + 1).wrapping_mul(0xd1b5_4a32_d192_ed03))
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 to just below 1.
    pub fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// From 0 to just below `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        debug_assert!(end > 0);
        ((u128::from(self.next()) * end as u128) >> 64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_spread_and_stay_in_their_bounds() {
        let mut chance = Chance::new(7, 0);
        let mut counts = [0_u32; 3];
        for _ in 0..30_000 {
            counts[chance.below(3)] += 1;
            assert!((0.0..1.0).contains(&chance.share()));
        }
        assert!(counts.iter().all(|count| (9_500..10_500).contains(count)));
        assert_ne!(Chance::new(7, 1).next(), Chance::new(7, 0).next());
    }
}
