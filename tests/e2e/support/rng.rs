//! Seeded chance (SplitMix64), so that a failing run can be had again.

pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    /// `E2E_SEED` if it is set, else the clock; the seed is printed, for the next run.
    pub fn from_environment() -> Rng {
        let seed = match std::env::var("E2E_SEED") {
            Ok(seed) => seed.parse().expect("E2E_SEED is a number"),
            Err(_) => std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64,
        };
        eprintln!("E2E_SEED={seed}");
        Rng(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// A size from 1 to `most` whose magnitude is uniform: as many below 64 as from 64 to 4096.
    pub fn size(&mut self, most: usize) -> usize {
        let bits = u64::from(most.ilog2()) + 1;
        let magnitude = self.below(bits) as u32;
        let size = (1usize << magnitude) + self.below(1 << magnitude) as usize;
        size.min(most)
    }
}
