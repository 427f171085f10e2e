//! Where wsteady's time and memory go: samples of both, as files for `go tool pprof` and as flame
//! graphs.
//!
//! CPU time is sampled only while somebody asks. The heap is sampled from the start, one block per
//! 512 KiB taken: that costs nothing that can be measured, for a message that is relayed allocates
//! nothing, and a leak is only seen by who has watched since before it began.

pub mod cpu;
pub mod files;
pub mod heap;

mod flame;
mod pprof;
mod ring;
mod symbols;

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

/// Samples, and what they mean.
#[derive(Clone, Debug)]
pub struct Profile {
    /// What each number of a sample is.
    pub kinds: &'static [Kind],
    /// What lies between two samples, and how much of it.
    pub period: (Kind, u64),
    /// Numbers by stack, innermost frame first: where execution was, then return addresses.
    pub stacks: BTreeMap<Box<[usize]>, Vec<u64>>,
    /// The innermost frame is a return address, too.
    pub is_called: bool,
    pub began: SystemTime,
    /// From the first sample to the last; nothing for a state.
    pub length: Duration,
}

/// A number's name and unit, as pprof has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    pub name: &'static str,
    pub unit: &'static str,
}

impl Profile {
    /// A gzipped `profile.proto`, with the functions' names.
    pub fn pprof(&self) -> Vec<u8> {
        heap::unseen(|| pprof::encode(self))
    }

    /// A flame graph of the first number; `None` if there is no sample.
    pub fn flame(&self) -> Option<Vec<u8>> {
        heap::unseen(|| flame::draw(self))
    }

    /// The addresses of a stack as debug information knows them: inside the calls, not behind.
    fn places<'a>(&self, stack: &'a [usize]) -> impl Iterator<Item = usize> + 'a {
        let first = usize::from(self.is_called);
        let back = move |at: usize| if at == 0 { first } else { 1 };
        let frames = stack.iter().enumerate();
        frames.map(move |(at, frame)| frame.saturating_sub(back(at)))
    }
}
