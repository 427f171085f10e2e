//! Timers: a hierarchical wheel of intrusive lists, so that arming and disarming cost the same
//! whether ten timers are armed or a million.

use super::tick::Tick;

/// One armed timer, to be disarmed or moved with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timer(u32);

impl Timer {
    /// No timer.
    pub const NONE: Timer = Timer(u32::MAX);

    /// Whether this is [`Timer::NONE`].
    pub fn is_none(self) -> bool {
        self == Timer::NONE
    }
}

struct Node<T> {
    /// Whose it is, or was.
    owner: T,
    due: Tick,
    /// The node before it, or [`HEAD`] and the number of its list; `NIL` while it is free.
    prev: u32,
    next: u32,
}

/// Four levels of 64 lists: 64 ms, 4 s, 4.4 min, 4.7 h; what is due later waits in the last level
/// and is looked at again when its list comes round. A timer never fires early and at most one
/// millisecond of polling late.
pub struct Wheel<T> {
    nodes: Vec<Node<T>>,
    free: u32,
    armed: usize,
    heads: [u32; LISTS],
    filled: [u64; LEVELS],
    /// All ticks before this one have been dealt with.
    at: Tick,
}

impl<T: Copy> Wheel<T> {
    /// An empty wheel that begins at `now`.
    pub fn new(now: Tick) -> Wheel<T> {
        Wheel {
            nodes: Vec::new(),
            free: NIL,
            armed: 0,
            heads: [NIL; LISTS],
            filled: [0; LEVELS],
            at: now,
        }
    }

    /// Arms a timer for `owner`.
    pub fn arm(&mut self, due: Tick, owner: T) -> Timer {
        let id = self.take_node(owner);
        self.nodes[id as usize].owner = owner;
        self.nodes[id as usize].due = due;
        self.link(id);
        self.armed += 1;
        Timer(id)
    }

    /// Moves an armed timer to another moment.
    pub fn move_to(&mut self, timer: Timer, due: Tick) {
        debug_assert!(
            self.nodes[timer.0 as usize].prev != NIL,
            "a timer that is not armed"
        );
        self.unlink(timer.0);
        self.nodes[timer.0 as usize].due = due;
        self.link(timer.0);
    }

    /// Disarms a timer; its id is void from here on.
    pub fn disarm(&mut self, timer: Timer) {
        debug_assert!(
            self.nodes[timer.0 as usize].prev != NIL,
            "a timer that is not armed"
        );
        self.unlink(timer.0);
        self.release(timer.0);
    }

    /// How many timers are armed.
    pub fn len(&self) -> usize {
        self.armed
    }

    /// Whether no timer is armed.
    pub fn is_empty(&self) -> bool {
        self.armed == 0
    }

    /// Milliseconds until the wheel wants to be turned: exact for what is due within 64 ms, else
    /// the start of the list that holds the next timer. `None` if nothing is armed.
    pub fn next_in(&self, now: Tick) -> Option<u32> {
        if self.armed == 0 {
            return None;
        }
        let mut best = u32::MAX;
        for level in 0..LEVELS {
            if self.filled[level] == 0 {
                continue;
            }
            let shift = BITS * level as u32;
            let place = (self.at.0 >> shift) & MASK;
            // Lists behind the current one first, then (wrapped) those before it.
            let ahead = self.filled[level].rotate_right(place).trailing_zeros();
            let start = ((self.at.0 >> shift).wrapping_add(ahead)) << shift;
            best = best.min(Tick(start).since(self.at));
        }
        Some(self.at.0.wrapping_add(best).wrapping_sub(now.0) as i32).map(|ms| ms.max(0) as u32)
    }

    /// Turns the wheel to `now` and appends the owners of all due timers, which are disarmed.
    pub fn turn(&mut self, now: Tick, due: &mut Vec<T>) {
        while !now.is_before(self.at) {
            // Whole empty stretches are skipped at once.
            if self.armed == 0 {
                self.at = now.after(1);
                return;
            }
            let place = self.at.0 & MASK;
            if place == 0 {
                self.cascade();
            }
            if self.filled[0] == 0 {
                let skip = (LISTS_PER_LEVEL as u32 - place).min(now.since(self.at) + 1);
                self.at = self.at.after(skip);
                continue;
            }
            self.fire(place, due);
            self.at = self.at.after(1);
        }
    }

    fn fire(&mut self, place: u32, due: &mut Vec<T>) {
        let mut id = self.take_list(place);
        while id != NIL {
            let next = self.nodes[id as usize].next;
            debug_assert!(
                self.nodes[id as usize].due.is_due(self.at),
                "a timer would fire early"
            );
            due.push(self.nodes[id as usize].owner);
            self.release(id);
            id = next;
        }
    }

    /// Spreads the coarse lists that begin at this tick over the finer ones.
    fn cascade(&mut self) {
        for level in 1..LEVELS {
            let shift = BITS * level as u32;
            let place = (self.at.0 >> shift) & MASK;
            let mut id = self.take_list(level as u32 * LISTS_PER_LEVEL as u32 + place);
            while id != NIL {
                let next = self.nodes[id as usize].next;
                self.link(id);
                id = next;
            }
            if place != 0 {
                return;
            }
        }
    }

    fn list_of(&self, due: Tick) -> u32 {
        // What is overdue fires with the next turn.
        let due = if due.is_before(self.at) { self.at } else { due };
        for level in 0..LEVELS as u32 {
            let shift = BITS * level;
            // The current place of a coarse level has been spread already: only later ones are free.
            let places = (due.0 >> shift).wrapping_sub(self.at.0 >> shift) & (u32::MAX >> shift);
            if places < LISTS_PER_LEVEL as u32 {
                return level * LISTS_PER_LEVEL as u32 + ((due.0 >> shift) & MASK);
            }
        }
        let last = BITS * (LEVELS as u32 - 1);
        let place = ((self.at.0 >> last).wrapping_add(LISTS_PER_LEVEL as u32 - 1)) & MASK;
        (LEVELS as u32 - 1) * LISTS_PER_LEVEL as u32 + place
    }

    fn link(&mut self, id: u32) {
        let list = self.list_of(self.nodes[id as usize].due);
        let head = self.heads[list as usize];
        let node = &mut self.nodes[id as usize];
        (node.prev, node.next) = (HEAD | list, head);
        if head != NIL {
            self.nodes[head as usize].prev = id;
        }
        self.heads[list as usize] = id;
        self.filled[list as usize / LISTS_PER_LEVEL] |= 1 << (list as usize % LISTS_PER_LEVEL);
    }

    fn unlink(&mut self, id: u32) {
        let Node { prev, next, .. } = self.nodes[id as usize];
        if next != NIL {
            self.nodes[next as usize].prev = prev;
        }
        if prev & HEAD == 0 {
            self.nodes[prev as usize].next = next;
            return;
        }
        let list = prev & !HEAD;
        self.heads[list as usize] = next;
        if next == NIL {
            self.clear_filled(list);
        }
    }

    fn take_list(&mut self, list: u32) -> u32 {
        self.clear_filled(list);
        std::mem::replace(&mut self.heads[list as usize], NIL)
    }

    fn clear_filled(&mut self, list: u32) {
        self.filled[list as usize / LISTS_PER_LEVEL] &= !(1 << (list as usize % LISTS_PER_LEVEL));
    }

    fn take_node(&mut self, owner: T) -> u32 {
        if self.free == NIL {
            self.nodes.push(Node {
                owner,
                due: Tick(0),
                prev: HEAD,
                next: NIL,
            });
            debug_assert!(self.nodes.len() < HEAD as usize);
            return self.nodes.len() as u32 - 1;
        }
        let id = self.free;
        self.free = self.nodes[id as usize].next;
        id
    }

    fn release(&mut self, id: u32) {
        self.nodes[id as usize].prev = NIL;
        self.nodes[id as usize].next = self.free;
        self.free = id;
        self.armed -= 1;
    }
}

const BITS: u32 = 6;
const LEVELS: usize = 4;
const LISTS_PER_LEVEL: usize = 1 << BITS;
const LISTS: usize = LEVELS * LISTS_PER_LEVEL;
const MASK: u32 = LISTS_PER_LEVEL as u32 - 1;
const NIL: u32 = u32::MAX;
/// Marks the number of a list where else the number of a node stands.
const HEAD: u32 = 1 << 31;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kit::Prng;

    #[test]
    fn fires_each_timer_once_never_early_never_late() {
        for seed in 0..40 {
            let mut rng = Prng::from_u64(seed);
            let mut now = Tick(rng.next_u32());
            let mut wheel = Wheel::new(now);
            let mut model: Vec<(u32, Tick, Timer)> = Vec::new();
            let mut fired = Vec::new();
            for step in 0..2_000u32 {
                match rng.below(10) {
                    0..=3 => {
                        let span = [10, 100, 5_000, 300_000, 20_000_000][rng.below(5) as usize];
                        let due = now.after(rng.below(span));
                        let timer = wheel.arm(due, step);
                        model.push((step, due, timer));
                    }
                    4 if !model.is_empty() => {
                        let (_, _, timer) =
                            model.swap_remove(rng.below(model.len() as u32) as usize);
                        wheel.disarm(timer);
                    }
                    5 if !model.is_empty() => {
                        let which = rng.below(model.len() as u32) as usize;
                        model[which].1 = now.after(rng.below(70_000));
                        wheel.move_to(model[which].2, model[which].1);
                    }
                    _ => {
                        let jump = [1, 7, 64, 1_000, 65_536, 9_000_000][rng.below(6) as usize];
                        let before = now;
                        if let Some(ms) = wheel.next_in(now) {
                            let first = model.iter().map(|row| row.1.since(now)).min().unwrap();
                            assert!(
                                ms <= first.max(1),
                                "next_in {ms} past the first timer {first}"
                            );
                        }
                        now = now.after(rng.below(jump) + 1);
                        fired.clear();
                        wheel.turn(now, &mut fired);
                        let mut want: Vec<u32> = model
                            .iter()
                            .filter(|row| row.1.is_due(now))
                            .map(|row| row.0)
                            .collect();
                        model.retain(|row| !row.1.is_due(now));
                        fired.sort_unstable();
                        want.sort_unstable();
                        assert_eq!(fired, want, "seed {seed} from {before:?} to {now:?}");
                    }
                }
                assert_eq!(wheel.len(), model.len());
            }
        }
    }
}
