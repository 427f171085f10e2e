//! Who had which client a moment ago.

use std::collections::HashMap;

use crate::kit::{Key, Tick};

/// The node of each ClientId that was asked for lately.
#[derive(Default)]
pub(super) struct Owners {
    nodes: HashMap<Box<str>, Owner>,
}

struct Owner {
    node: Key,
    until: Tick,
}

impl Owners {
    /// A look has found it there. What is believed is as old as the look and no older: a client that
    /// has gone to another node without a word would else be missed for as long as pushes come.
    pub fn remember(&mut self, id: &str, node: Key, now: Tick) {
        if self.nodes.len() >= OWNERS_MAX {
            self.nodes.retain(|_, owner| !owner.until.is_due(now));
        }
        if self.nodes.len() >= OWNERS_MAX {
            self.nodes.clear();
        }
        let until = now.after(BELIEF);
        self.nodes.insert(id.into(), Owner { node, until });
    }

    pub fn find(&self, id: &str, now: Tick) -> Option<Key> {
        let owner = self.nodes.get(id)?;
        (!owner.until.is_due(now)).then_some(owner.node)
    }

    pub fn forget(&mut self, id: &str) {
        self.nodes.remove(id);
    }
}

/// How long a look's answer is believed, in ms: bursts of pushes cost one look.
const BELIEF: u32 = 5_000;

/// Some 10 MB.
const OWNERS_MAX: usize = 65_536;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_believed_for_seconds_and_bounded() {
        let key = |index| Key {
            index,
            generation: 1,
        };
        let mut owners = Owners::default();
        let start = Tick(u32::MAX - 100);
        owners.remember("a", key(1), start);
        assert_eq!(owners.find("a", start.after(BELIEF - 1)), Some(key(1)));
        assert_eq!(owners.find("a", start.after(BELIEF)), None);
        assert_eq!(owners.find("b", start), None);
        owners.remember("a", key(2), start);
        assert_eq!(owners.find("a", start), Some(key(2)));
        owners.forget("a");
        assert_eq!(owners.find("a", start), None);
        for number in 0..OWNERS_MAX + 10 {
            owners.remember(&number.to_string(), key(1), start);
            assert!(owners.nodes.len() <= OWNERS_MAX);
        }
        assert!(owners.find(&(OWNERS_MAX + 9).to_string(), start).is_some());
    }
}
