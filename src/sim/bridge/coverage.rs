//! What a sweep of bridges has seen.

use std::collections::BTreeMap;

/// How often each thing happened: a fault that never strikes proves nothing.
#[derive(Clone, Debug)]
pub struct BridgeCoverage(BTreeMap<&'static str, u64>);

impl Default for BridgeCoverage {
    /// Everything is to happen, and has not yet.
    fn default() -> BridgeCoverage {
        BridgeCoverage(EVENTS.iter().map(|name| (*name, 0)).collect())
    }
}

impl BridgeCoverage {
    /// It happened.
    pub fn hit(&mut self, name: &'static str) {
        match self.0.get_mut(name) {
            Some(count) => *count += 1,
            None => debug_assert!(false, "{name} is not on the list"),
        }
    }

    /// All runs together.
    pub fn sum(all: &[BridgeCoverage]) -> BridgeCoverage {
        let mut total = BridgeCoverage::default();
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

impl std::fmt::Display for BridgeCoverage {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (name, count) in &self.0 {
            writeln!(to, "{name:<36} {count:>10}")?;
        }
        Ok(())
    }
}

const EVENTS: &[&str] = &[
    "answer: 4xx",
    "answer: 5xx",
    "answer: before the request was read",
    "answer: binary",
    "answer: chunked",
    "answer: empty",
    "answer: fin inside",
    "answer: fin instead",
    "answer: interim",
    "answer: message",
    "answer: never",
    "answer: not ok",
    "answer: ok",
    "answer: says close",
    "answer: slow",
    "answer: up to the end",
    "call: again",
    "call: delete",
    "call: get",
    "call: at an api that joined",
    "call: on a connection that rested",
    "call: post",
    "client: back in time",
    "client: close",
    "client: early messages",
    "client: fin",
    "client: fin before its 101",
    "client: fragments",
    "client: open",
    "client: refused",
    "client: reset",
    "client: reset before its 101",
    "client: slow",
    "closed: by a push",
    "closed: duplicate",
    "closed: hold",
    "closed: replaced",
    "closed: shutdown",
    "fault: an api leaves",
    "fault: another api",
    "fault: black hole",
    "fault: closed behind an answer",
    "fault: closed while at rest",
    "fault: exhausted",
    "fault: killed",
    "fault: killed with unread bytes",
    "fault: operator disables",
    "fault: refused at once",
    "fault: refused later",
    "fault: slow connect",
    "fault: stopped",
    "fault: stray bytes at rest",
    "fault: stray bytes behind an answer",
    "fault: stray bytes seen",
    "message: taken",
    "message: whole answer read",
    "push: 200",
    "push: 404",
    "push: 503",
    "push: before the 101",
    "push: chunked",
    "push: close",
    "push: delivered",
    "push: look",
    "push: pipelined",
    "push: to another shard",
    "session: gave up its delete",
    "session: ended unasked",
    "session: held",
    "session: resumed",
    "session: waited for its id",
    "shelf: a permit on its way",
    "shelf: all connections taken",
    "shelf: emptied",
    "write: short",
];
