//! How short memory is, in levels that are left later than they are entered: at the edge of one,
//! clients would be turned away and let in by turns.

/// A level.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pressure {
    /// There is enough.
    #[default]
    Low,
    /// What can be done without is done without.
    High,
    /// Those who are here need the rest.
    Critical,
}

impl Pressure {
    /// The level that follows when so many percent are in use.
    #[must_use]
    pub fn next(self, percent: u64) -> Pressure {
        let stays = |level: Pressure, leave: u64| self >= level && percent >= leave;
        if percent >= CRITICAL || stays(Pressure::Critical, CRITICAL_LEAVE) {
            Pressure::Critical
        } else if percent >= HIGH || stays(Pressure::High, HIGH_LEAVE) {
            Pressure::High
        } else {
            Pressure::Low
        }
    }
}

/// Percent at which a level begins (THREATS O07), and below which it ends.
pub const HIGH: u64 = 80;
pub const HIGH_LEAVE: u64 = 70;
pub const CRITICAL: u64 = 92;
pub const CRITICAL_LEAVE: u64 = 85;

const _: () = assert!(HIGH_LEAVE < HIGH && HIGH < CRITICAL_LEAVE && CRITICAL_LEAVE < CRITICAL);

#[cfg(test)]
mod tests {
    use super::Pressure::{Critical, High, Low};
    use super::*;

    #[test]
    fn each_level_ends_below_where_it_began() {
        let steps = [
            (0, Low),
            (79, Low),
            (80, High),
            (79, High),
            (70, High),
            (69, Low),
            (79, Low),
            (91, High),
            (92, Critical),
            (91, Critical),
            (85, Critical),
            (84, High),
            (91, High),
            (100, Critical),
            (70, High),
            (100, Critical),
            (69, Low),
            (100, Critical),
        ];
        let mut level = Pressure::default();
        for (at, (percent, expected)) in steps.into_iter().enumerate() {
            level = level.next(percent);
            assert_eq!(level, expected, "step {at}: {percent} %");
        }
    }
}
