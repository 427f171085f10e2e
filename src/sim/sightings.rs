//! What a sweep has seen.

use std::collections::BTreeMap;

/// How often each thing happened: a fault that never strikes proves nothing.
#[derive(Clone, Debug, Default)]
pub struct Sightings(BTreeMap<&'static str, u64>);

impl Sightings {
    /// All of these are to happen, and have not yet.
    pub(super) fn of(events: &[&'static str]) -> Sightings {
        Sightings(events.iter().map(|name| (*name, 0)).collect())
    }

    /// It happened.
    pub(super) fn hit(&mut self, name: &'static str) {
        match self.0.get_mut(name) {
            Some(count) => *count += 1,
            None => debug_assert!(false, "{name} is not on the list"),
        }
    }

    /// All runs together.
    pub fn sum(all: &[Sightings]) -> Sightings {
        let mut total = Sightings::default();
        for (name, count) in all.iter().flat_map(|one| &one.0) {
            *total.0.entry(name).or_default() += count;
        }
        total
    }

    /// What never happened.
    pub fn missing(&self) -> Vec<&'static str> {
        let never = self.0.iter().filter(|(_, count)| **count == 0);
        never.map(|(name, _)| *name).collect()
    }
}

impl std::fmt::Display for Sightings {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (name, count) in &self.0 {
            writeln!(to, "{name:<40} {count:>10}")?;
        }
        Ok(())
    }
}
