//! Memory that others of the process take, so that a run sees it short.

use std::sync::Arc;

use crate::kit::Budget;
use crate::kit::pressure::HIGH;

/// What others have of the memory, and until when.
#[derive(Default)]
pub struct Press {
    memory: Option<Arc<Budget>>,
    held: u64,
    until: u64,
    high_since: Option<u64>,
}

impl Press {
    pub fn new(memory: Arc<Budget>) -> Press {
        Press {
            memory: Some(memory),
            ..Press::default()
        }
    }

    /// Others take all up to so many percent of it.
    pub fn begin(&mut self, percent: u64, now: u64, until: u64) {
        let Some(memory) = &self.memory else { return };
        let wanted = memory.total() * percent / 100;
        self.held += memory.lease(wanted.saturating_sub(memory.total() - memory.left()));
        self.until = self.until.max(until);
        if self.held * 100 / memory.total() >= HIGH {
            self.high_since.get_or_insert(now);
        }
    }

    /// Time goes on: they may have had it for long enough.
    pub fn step(&mut self, now: u64) {
        if self.until <= now {
            self.end();
        }
    }

    /// They give it back.
    pub fn end(&mut self) {
        if let Some(memory) = &self.memory {
            memory.give_back(std::mem::take(&mut self.held));
        }
        (self.until, self.high_since) = (0, None);
    }

    /// How much of all memory is leased.
    pub fn percent(&self) -> u64 {
        self.memory.as_ref().map_or(0, |memory| memory.percent())
    }

    /// Whether it was short from that moment to this.
    pub fn was_high_since(&self, moment: u64) -> bool {
        self.high_since.is_some_and(|since| since < moment)
    }
}
