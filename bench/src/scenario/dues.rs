//! Messages that clients owe by themselves, the next one first.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

/// A message of one client. It is looked at again at `at`, and counts from `due`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Due {
    pub at: u64,
    pub due: u64,
    pub place: u32,
    pub number: u32,
}

/// With one interval for all, whoever has sent is the last one of the line: it is sorted as it
/// grows, and read and written in the order of memory. A heap of so many costs the tool more than
/// the rest of a message.
#[derive(Default)]
pub struct Dues {
    line: VecDeque<Due>,
    /// Those who did not fit into it: newcomers, and whose peers do not read.
    others: BinaryHeap<Reverse<Due>>,
}

impl Dues {
    pub fn with_capacity(count: usize) -> Dues {
        Dues {
            line: VecDeque::with_capacity(count),
            others: BinaryHeap::new(),
        }
    }

    pub fn push(&mut self, due: Due) {
        if self.line.back().is_none_or(|last| last.at <= due.at) {
            self.line.push_back(due);
        } else {
            self.others.push(Reverse(due));
        }
    }

    /// The next one.
    pub fn peek(&self) -> Option<Due> {
        let other = self.others.peek().map(|Reverse(due)| *due);
        let first = self.line.front().copied();
        match (first, other) {
            (Some(first), Some(other)) => Some(first.min(other)),
            (first, other) => first.or(other),
        }
    }

    pub fn pop(&mut self) -> Option<Due> {
        let next = self.peek()?;
        if self.line.front() == Some(&next) {
            self.line.pop_front()
        } else {
            self.others.pop().map(|Reverse(due)| due)
        }
    }

    pub fn clear(&mut self) {
        self.line.clear();
        self.others.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(at: u64) -> Due {
        Due {
            at,
            due: at,
            place: 0,
            number: 0,
        }
    }

    #[test]
    fn the_next_one_comes_first_wherever_it_stands() {
        let mut dues = Dues::with_capacity(4);
        for at in [10, 20, 5, 30, 25, 15] {
            dues.push(due(at));
        }
        let mut order = Vec::new();
        while let Some(next) = dues.pop() {
            order.push(next.at);
        }
        assert_eq!(order, [5, 10, 15, 20, 25, 30]);
        assert_eq!(dues.peek(), None);
    }

    #[test]
    fn who_sends_in_turn_never_leaves_the_line() {
        let mut dues = Dues::with_capacity(3);
        for at in [1, 2, 3] {
            dues.push(due(at));
        }
        for _ in 0..30 {
            let next = dues.pop().expect("three are in it");
            dues.push(due(next.at + 3));
        }
        assert!(dues.others.is_empty());
        assert_eq!(dues.line.len(), 3);
    }
}
