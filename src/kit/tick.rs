//! Time as a number: milliseconds since the start of the process.

/// A moment, in milliseconds since start. It wraps after 49.7 days, so two ticks are compared by
/// their wrapping difference only: right as long as they are less than 24.8 days apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tick(pub u32);

impl Tick {
    /// The moment `ms` milliseconds later. Durations stay below [`Tick::FAR`].
    #[inline]
    pub fn after(self, ms: u32) -> Tick {
        debug_assert!(ms <= Tick::FAR, "a duration of {ms} ms would wrap");
        Tick(self.0.wrapping_add(ms))
    }

    /// Milliseconds from `earlier` to this moment; 0 if `earlier` is in fact later.
    #[inline]
    pub fn since(self, earlier: Tick) -> u32 {
        let difference = self.0.wrapping_sub(earlier.0);
        if difference > Tick::FAR {
            0
        } else {
            difference
        }
    }

    /// Whether this moment lies before `other`.
    #[inline]
    pub fn is_before(self, other: Tick) -> bool {
        self.0.wrapping_sub(other.0) as i32 > i32::MIN && (self.0.wrapping_sub(other.0) as i32) < 0
    }

    /// Whether a deadline at this moment has been reached at `now`.
    #[inline]
    pub fn is_due(self, now: Tick) -> bool {
        !now.is_before(self)
    }

    /// The earlier of two moments.
    #[inline]
    pub fn min(self, other: Tick) -> Tick {
        if other.is_before(self) { other } else { self }
    }

    /// The longest duration that may be added: half of the range, about 24.8 days.
    pub const FAR: u32 = (i32::MAX as u32) - 1;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compares_across_the_wrap() {
        let rows = [
            (0, 1),
            (u32::MAX, 0),
            (u32::MAX - 5, 5),
            (0x7fff_fff0, 0x8000_0010),
        ];
        for (a, b) in rows {
            let (a, b) = (Tick(a), Tick(b));
            assert!(a.is_before(b) && !b.is_before(a), "{a:?} {b:?}");
            assert!(a.is_due(b) && !b.is_due(a) && a.is_due(a));
            assert_eq!(a.min(b), a);
            assert_eq!(b.min(a), a);
            assert_eq!(b.since(a), b.0.wrapping_sub(a.0));
            assert_eq!(a.since(b), 0);
        }
    }
}
