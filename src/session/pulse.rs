//! Whether the other side of a leg is still there: silence, a Ping, a deadline.

use crate::kit::Tick;

/// What is known of a leg's life. The deadline begins when the Ping's last byte was taken by the
/// kernel; what *we* write never extends it, for a stopped peer's kernel takes megabytes.
#[derive(Clone, Copy, Debug)]
pub struct Pulse {
    heard: Tick,
    since: Tick,
    state: State,
    restarts: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Bytes came within the interval.
    Quiet,
    /// A Ping is to be sent.
    Owed,
    /// A Ping left; its Pong is awaited.
    Asked,
}

/// What a pulse says when it is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beat {
    /// Nothing to do before this moment.
    Wait(Tick),
    /// A Ping is owed since now.
    Ask,
    /// The leg is dead.
    Dead,
}

impl Pulse {
    /// A leg that has just been heard.
    pub const fn new(now: Tick) -> Pulse {
        Pulse {
            heard: now,
            since: now,
            state: State::Quiet,
            restarts: 0,
        }
    }

    /// Bytes were read.
    #[inline]
    pub fn heard(&mut self, now: Tick) {
        self.heard = now;
    }

    /// A Pong came.
    pub fn answered(&mut self, now: Tick) {
        *self = Pulse::new(now);
    }

    /// A Ping left completely, a barrier too.
    pub fn asked(&mut self, now: Tick) {
        if self.state != State::Asked {
            *self = Pulse {
                since: now,
                state: State::Asked,
                restarts: 0,
                ..*self
            };
        }
    }

    /// Bytes left while a Ping still waits for its place behind them: the peer takes something.
    pub fn progressed(&mut self, now: Tick) {
        if self.state == State::Owed {
            self.since = now;
        }
    }

    /// The leg is read again: what it said meanwhile must be looked at before it is judged.
    pub fn resumed(&mut self, now: Tick) {
        if self.state != State::Quiet && !planted!(PausedIsSilent) {
            self.since = now;
        }
    }

    /// When something was heard last.
    pub fn last_heard(&self) -> Tick {
        self.heard
    }

    /// Whether a Ping is to be put in at the next frame boundary.
    #[inline]
    pub fn owes(&self) -> bool {
        self.state == State::Owed
    }

    /// Looks at the leg. `reading`: whether we read from it at all; if not, the deadline stands
    /// still. A Ping that could not be written within `pong` counts as silence, too.
    pub fn look(&mut self, now: Tick, ping: u32, pong: u32, reading: bool) -> Beat {
        match self.state {
            State::Quiet => {
                let due = self.heard.after(ping);
                if !due.is_due(now) {
                    return Beat::Wait(due);
                }
                (self.state, self.since) = (State::Owed, now);
                Beat::Ask
            }
            State::Owed | State::Asked => {
                if !reading && !planted!(PausedIsSilent) {
                    self.since = now;
                }
                let mut due = self.since.after(pong);
                if due.is_due(now) && self.restarts(now) {
                    due = self.since.after(pong);
                }
                if due.is_due(now) {
                    Beat::Dead
                } else {
                    Beat::Wait(due)
                }
            }
        }
    }

    /// A deadline that has come begins again with the last byte read, a few times: a Pong may stand
    /// behind a long message. Counted per deadline, for a message comes in any number of reads.
    fn restarts(&mut self, now: Tick) -> bool {
        let silent = now.since(self.heard) >= now.since(self.since);
        if silent || self.state != State::Asked || self.restarts == RESTARTS_MAX {
            return false;
        }
        self.restarts += 1;
        self.since = self.heard;
        true
    }

    /// When to look next.
    pub fn next_look(&self, ping: u32, pong: u32) -> Tick {
        match self.state {
            State::Quiet => self.heard.after(ping),
            State::Owed | State::Asked => self.since.after(pong),
        }
    }
}

/// How often a deadline restarts for a peer that sends but answers no Ping (CONTRACT 3).
const RESTARTS_MAX: u8 = 6;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_then_a_ping_then_death() {
        let mut pulse = Pulse::new(Tick(0));
        assert_eq!(
            pulse.look(Tick(29_999), 30_000, 10_000, true),
            Beat::Wait(Tick(30_000))
        );
        assert_eq!(pulse.look(Tick(30_000), 30_000, 10_000, true), Beat::Ask);
        assert!(pulse.owes());
        pulse.asked(Tick(30_001));
        assert!(!pulse.owes());
        assert_eq!(
            pulse.look(Tick(40_000), 30_000, 10_000, true),
            Beat::Wait(Tick(40_001))
        );
        assert_eq!(pulse.look(Tick(40_001), 30_000, 10_000, true), Beat::Dead);
    }

    #[test]
    fn bytes_without_a_pong_give_six_more_deadlines() {
        let mut pulse = Pulse::new(Tick(0));
        pulse.asked(Tick(0));
        let mut due = 10;
        for n in 1..=6 {
            // In many reads: the last of a deadline counts.
            for at in due - 9..due {
                pulse.heard(Tick(at));
            }
            let next = due + 9;
            assert_eq!(
                pulse.look(Tick(due), 30, 10, true),
                Beat::Wait(Tick(next)),
                "restart {n}"
            );
            due = next;
        }
        pulse.heard(Tick(due - 1));
        assert_eq!(pulse.look(Tick(due), 30, 10, true), Beat::Dead);
    }

    #[test]
    fn the_deadline_stands_still_while_we_do_not_read() {
        let mut pulse = Pulse::new(Tick(0));
        pulse.asked(Tick(0));
        assert_eq!(pulse.look(Tick(500), 30, 10, false), Beat::Wait(Tick(510)));
        assert_eq!(pulse.look(Tick(510), 30, 10, true), Beat::Dead);
    }

    #[test]
    fn a_ping_that_cannot_be_written_is_silence_unless_bytes_move() {
        let mut pulse = Pulse::new(Tick(0));
        assert_eq!(pulse.look(Tick(30), 30, 10, true), Beat::Ask);
        pulse.progressed(Tick(38));
        assert_eq!(pulse.look(Tick(45), 30, 10, true), Beat::Wait(Tick(48)));
        assert_eq!(pulse.look(Tick(48), 30, 10, true), Beat::Dead);
    }
}
