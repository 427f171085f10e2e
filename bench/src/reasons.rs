//! What went wrong, in words, and how often.

use std::collections::BTreeMap;

/// Words may come from the peer, so their number is bounded here.
#[derive(Clone, Debug, Default, serde::Serialize)]
#[serde(transparent)]
pub struct Reasons(BTreeMap<String, u64>);

impl Reasons {
    pub fn count(&mut self, reason: &str) {
        self.add_some(reason, 1);
    }

    pub fn add(&mut self, other: &Self) {
        for (reason, count) in other.iter() {
            *self.0.entry(reason.clone()).or_default() += count;
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = (&String, &u64)> {
        self.0.iter()
    }

    fn add_some(&mut self, reason: &str, count: u64) {
        let known = self.0.contains_key(reason) || self.0.len() < REASONS_MAX;
        let reason = if known { reason } else { "others" };
        *self.0.entry(reason.to_string()).or_default() += count;
    }
}

const REASONS_MAX: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_stay_few() {
        let mut reasons = Reasons::default();
        for number in 0..100 {
            reasons.count(&format!("reason {number}"));
        }
        assert_eq!(reasons.0.len(), REASONS_MAX + 1);
        assert_eq!(reasons.0["others"], 100 - REASONS_MAX as u64);
    }
}
