//! The way out of a signal handler: places that it fills and a thread empties.

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicUsize, Ordering};

use crate::net::sys::trace::FRAMES_MAX;

/// Stacks on their way. Everything is done with atomics: a handler may interrupt whoever empties.
pub(super) struct Ring<const PLACES: usize> {
    places: [Place; PLACES],
    next: AtomicUsize,
}

struct Place {
    state: AtomicU8,
    weight: AtomicU32,
    count: AtomicUsize,
    frames: [AtomicUsize; FRAMES_MAX],
}

impl<const PLACES: usize> Ring<PLACES> {
    pub(super) const fn new() -> Ring<PLACES> {
        Ring {
            places: [const { Place::new() }; PLACES],
            next: AtomicUsize::new(0),
        }
    }

    /// Puts a stack in, and how often it counts. False: its place is still taken, and the stack is lost.
    pub(super) fn put(&self, stack: &[usize], weight: u32) -> bool {
        let at = self.next.fetch_add(1, Ordering::Relaxed) % PLACES;
        let place = &self.places[at];
        let (empty, busy) = (Ordering::Acquire, Ordering::Relaxed);
        let taken = place.state.compare_exchange(EMPTY, FILLING, empty, busy);
        if taken.is_err() {
            return false;
        }
        let stack = &stack[..stack.len().min(FRAMES_MAX)];
        for (slot, frame) in place.frames.iter().zip(stack) {
            slot.store(*frame, Ordering::Relaxed);
        }
        place.weight.store(weight, Ordering::Relaxed);
        place.count.store(stack.len(), Ordering::Relaxed);
        place.state.store(FULL, Ordering::Release);
        true
    }

    /// Takes out what is there. For one thread at a time.
    pub(super) fn empty(&self, mut each: impl FnMut(&[usize], u32)) {
        let mut stack = [0; FRAMES_MAX];
        for place in &self.places {
            if place.state.load(Ordering::Acquire) != FULL {
                continue;
            }
            let count = place.count.load(Ordering::Relaxed);
            let weight = place.weight.load(Ordering::Relaxed);
            for (frame, slot) in stack.iter_mut().zip(&place.frames) {
                *frame = slot.load(Ordering::Relaxed);
            }
            place.state.store(EMPTY, Ordering::Release);
            each(&stack[..count], weight);
        }
    }
}

impl Place {
    const fn new() -> Place {
        Place {
            state: AtomicU8::new(EMPTY),
            weight: AtomicU32::new(0),
            count: AtomicUsize::new(0),
            frames: [const { AtomicUsize::new(0) }; FRAMES_MAX],
        }
    }
}

const EMPTY: u8 = 0;
const FILLING: u8 = 1;
const FULL: u8 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_in_comes_out_once() {
        let ring: Ring<4> = Ring::new();
        assert!(ring.put(&[1, 2, 3], 1) && ring.put(&[], 2) && ring.put(&[9; FRAMES_MAX + 1], 3));
        let mut seen = Vec::new();
        ring.empty(|stack, weight| seen.push((stack.to_vec(), weight)));
        assert_eq!(
            seen,
            [(vec![1, 2, 3], 1), (vec![], 2), (vec![9; FRAMES_MAX], 3)]
        );
        ring.empty(|stack, _| panic!("{stack:?} came twice"));
    }

    #[test]
    fn a_full_ring_takes_no_more_until_it_is_emptied() {
        let ring: Ring<2> = Ring::new();
        assert!(ring.put(&[1], 1) && ring.put(&[2], 1));
        assert!(!ring.put(&[3], 1));
        ring.empty(|_, _| {});
        assert!(ring.put(&[4], 1));
    }

    #[test]
    fn no_stack_is_torn_between_threads() {
        static RING: Ring<8> = Ring::new();
        let writer = |mark: usize| {
            move || {
                (1..=2_000)
                    .filter(|count| RING.put(&vec![mark; count % FRAMES_MAX], mark as u32))
                    .count()
            }
        };
        let writers = [1, 2, 3].map(|mark| std::thread::spawn(writer(mark)));
        let mut seen = 0;
        let mut look = |stack: &[usize], weight: u32| {
            assert!(stack.first().is_none_or(|mark| *mark == weight as usize));
            assert!(stack.windows(2).all(|pair| pair[0] == pair[1]), "{stack:?}");
            seen += 1;
        };
        while !writers.iter().all(|writer| writer.is_finished()) {
            RING.empty(&mut look);
        }
        RING.empty(&mut look);
        let put: usize = writers
            .into_iter()
            .map(|one| one.join().expect("no panic"))
            .sum();
        assert_eq!(seen, put);
    }
}
