//! Deadlines. One alarm per session; it may ring early, then it looks and is set again.

use super::pulse::Beat;
use super::vocab::{Action, End, Loss};
use super::{Ctx, Flags, Leg, Phase, Session, Settings};
use crate::kit::Tick;
use crate::wire::compose::simple_response;

impl Session {
    /// The first look at a client that has just connected.
    pub fn begin(&mut self, ctx: &mut Ctx<'_>) {
        self.bound_at = self.opened;
        let by = self.opened.after(ctx.house.handshake);
        self.want_by(by, ctx);
    }

    pub(super) fn on_due(&mut self, ctx: &mut Ctx<'_>) {
        self.flags.remove(Flags::ALARMED);
        self.look_at_greeting(ctx);
        self.look_at_visit(ctx);
        self.look_at_search(ctx);
        self.look_at_closing(ctx);
        self.look_at_message(ctx);
        self.look_at_legs(ctx);
        self.look_at_barrier(ctx);
        if self.phase == Phase::Over {
            return;
        }
        if let Some(next) = self.next_look(ctx) {
            // What was set meanwhile may be earlier; what is overdue comes with the next turn.
            let next = if next.is_due(ctx.now) {
                ctx.now.after(1)
            } else {
                next
            };
            self.want_by(next, ctx);
        }
    }

    /// Whether a look at this moment may find that the server has been silent for too long. Other
    /// looks at an open session don't depend on what it has said and we have not read yet.
    pub fn judges_server(&self, now: Tick, settings: &Settings) -> bool {
        let (ping, pong) = (settings.ping, settings.pong);
        self.phase != Phase::Open
            || self.flags.contains(Flags::BRIDGED)
            || self.upstream_pulse.next_look(ping, pong).is_due(now)
    }

    fn look_at_greeting(&mut self, ctx: &mut Ctx<'_>) {
        if self.phase == Phase::Greeting && self.greeting_ends_at(ctx).is_due(ctx.now) {
            if self.stash.is_empty() {
                self.on_client_lost(Loss::Silent, ctx);
            } else {
                self.deny(408, "the request did not arrive in time", ctx);
            }
        }
    }

    /// When the next request must have come.
    pub(super) fn greeting_ends_at(&self, ctx: &Ctx<'_>) -> Tick {
        let span = match self.is_node() {
            true => ctx.house.handshake.max(NODE_REST),
            false => ctx.house.handshake,
        };
        self.bound_at.after(span)
    }

    fn look_at_search(&mut self, ctx: &mut Ctx<'_>) {
        if self
            .call_ends_at(ctx.settings)
            .is_some_and(|by| by.is_due(ctx.now))
        {
            return self.on_upstream_lost(Loss::TimedOut, ctx);
        }
        let Some(attempt) = &mut self.attempt else {
            return;
        };
        let span = match self.phase {
            Phase::Held | Phase::Finishing => ctx.settings.hold,
            _ => ctx.settings.admit,
        };
        // A call that was begun has its own deadline: an API that hears of a client is heard out.
        let begun = self.flags.contains(Flags::CALLING)
            && matches!(self.phase, Phase::Admitting | Phase::Serving);
        if !begun && attempt.ends_at(span, ctx.now).is_due(ctx.now) {
            if self.phase == Phase::Held && planted!(HoldForever) {
                return;
            }
            if self.phase == Phase::Held {
                return self.end(End::Hold, ctx);
            }
            if self.phase == Phase::Finishing {
                return self.give_up_farewell(ctx);
            }
            if self.leg != Leg::Talking {
                return self.leave_unopened(ctx);
            }
            if self.phase == Phase::Serving {
                return self.on_no_exchange(super::Nobody::Busy, ctx);
            }
            if self.flags.contains(Flags::BRIDGED) && !self.flags.contains(Flags::RESERVED) {
                let wait = [("Retry-After", "1")];
                let text = "the last session of this ClientId is not over yet\n";
                return self.deny_with(503, &simple_response(503, text, &wait), ctx);
            }
            let late = attempt.timed_out || attempt.deadline.is_some();
            let (status, reason) = if late {
                (504, "no server answered in time")
            } else {
                (502, "no server could be reached")
            };
            return self.deny(status, reason, ctx);
        }
        if attempt
            .deadline
            .is_some_and(|deadline| deadline.is_due(ctx.now))
        {
            attempt.deadline = None;
            return self.on_upstream_lost(Loss::TimedOut, ctx);
        }
        if attempt
            .retry_at
            .is_some_and(|moment| moment.is_due(ctx.now))
        {
            attempt.retry_at = None;
            ctx.actions.push(Action::Dial);
        }
    }

    fn look_at_closing(&mut self, ctx: &mut Ctx<'_>) {
        let due = |by: Option<Tick>| by.is_some_and(|by| by.is_due(ctx.now));
        if !due(self.rare.as_ref().and_then(|rare| rare.close_by)) {
            return;
        }
        self.rare().close_by = None;
        // A client that still takes its answer is not late, however slow it is.
        let by = self.bound_at.after(ctx.settings.close);
        let takes = self.phase == Phase::Parting
            && !self.flags.contains(Flags::OPENED)
            && !by.is_due(ctx.now);
        if takes && !self.out.is_empty() {
            self.rare().close_by = Some(by);
            return self.want_by(by, ctx);
        }
        // A client whose closing begins only now, below, has its own time for it.
        let closing = matches!(self.leg, Leg::Closing | Leg::Closed | Leg::Deaf);
        match self.phase {
            Phase::Moving => self.move_late(ctx),
            // The server does not answer our Close: what it has not confirmed goes to another.
            Phase::Finishing if !self.flags.contains(Flags::BRIDGED) => {
                self.on_upstream_lost(Loss::Silent, ctx)
            }
            _ => {}
        }
        if closing {
            self.let_client_go(ctx);
        }
    }

    fn look_at_message(&mut self, ctx: &mut Ctx<'_>) {
        let Some(rare) = &self.rare else { return };
        let late = rare
            .message_since
            .is_some_and(|since| since.after(ctx.house.message_time).is_due(ctx.now));
        // While we do not read, the client is not to blame.
        if late && self.leg == Leg::Talking && !self.flags.contains(Flags::PAUSED) {
            self.rare().message_since = None;
            return self.on_client_late(ctx);
        }
        let unprocessed = self.flags.contains(Flags::PROCESSED)
            && self.flags.contains(Flags::PAUSED)
            && [rare.paused_since, rare.confirmed_at]
                .iter()
                .all(|at| at.is_some_and(|at| at.after(ctx.settings.hold).is_due(ctx.now)));
        if unprocessed {
            self.end(End::Unprocessed, ctx);
        }
    }

    fn look_at_legs(&mut self, ctx: &mut Ctx<'_>) {
        let (ping, pong) = (ctx.settings.ping, ctx.settings.pong);
        let upgraded = !matches!(
            self.phase,
            Phase::Greeting | Phase::Serving | Phase::Admitting
        );
        if self.leg == Leg::Talking && upgraded {
            let reading =
                !self.flags.contains(Flags::PAUSED) && !self.flags.contains(Flags::CLIENT_SQUEEZED);
            match self.client_pulse.look(ctx.now, ping, pong, reading) {
                Beat::Wait(_) => {}
                Beat::Ask => self.ping_client(ctx),
                Beat::Dead => self.on_client_silent(ctx),
            }
        }
        if matches!(self.phase, Phase::Open | Phase::Moving) && !self.flags.contains(Flags::BRIDGED)
        {
            // A Ping that waits for the rest of a client's frame says nothing of the server.
            let mute = self.upstream_pulse.owes()
                && self.journal.unsent() == 0
                && !self.journal.sent_at_frame();
            let reading =
                self.wants_upstream() && !self.flags.contains(Flags::UPSTREAM_SQUEEZED) && !mute;
            match self.upstream_pulse.look(ctx.now, ping, pong, reading) {
                Beat::Wait(_) => {}
                Beat::Ask => ctx.actions.push(Action::FlushUpstream),
                Beat::Dead => self.on_upstream_lost(Loss::Silent, ctx),
            }
        }
    }

    fn look_at_barrier(&mut self, ctx: &mut Ctx<'_>) {
        if self.can_send() && self.journal.messages() > 0 && self.barrier.is_none() {
            ctx.actions.push(Action::FlushUpstream);
        }
    }

    /// The earliest of all deadlines.
    fn next_look(&self, ctx: &Ctx<'_>) -> Option<Tick> {
        let (ping, pong) = (ctx.settings.ping, ctx.settings.pong);
        let mut next: Option<Tick> = None;
        let mut add = |moment: Option<Tick>| {
            if let Some(moment) = moment {
                next = Some(next.map_or(moment, |next| next.min(moment)));
            }
        };
        let upgraded = !matches!(
            self.phase,
            Phase::Greeting | Phase::Serving | Phase::Admitting | Phase::Parting
        );
        if self.phase == Phase::Greeting {
            add(Some(self.greeting_ends_at(ctx)));
        }
        add(self.request_ends_at(ctx));
        add(self.call_ends_at(ctx.settings));
        if let Some(attempt) = &self.attempt {
            let held = matches!(self.phase, Phase::Held | Phase::Finishing);
            let span = if held {
                ctx.settings.hold
            } else {
                ctx.settings.admit
            };
            let begun = self.flags.contains(Flags::CALLING)
                && matches!(self.phase, Phase::Admitting | Phase::Serving);
            add((!begun).then(|| attempt.ends_at(span, ctx.now)));
            add(attempt.deadline);
            add(attempt.retry_at);
        }
        if let Some(rare) = &self.rare {
            add(rare.close_by);
            // Nobody is to blame any more once the client was closed.
            let talking = rare.message_since.filter(|_| self.leg == Leg::Talking);
            add(talking.map(|since| since.after(ctx.house.message_time)));
            if self.flags.contains(Flags::PROCESSED) && self.flags.contains(Flags::PAUSED) {
                let since = rare.confirmed_at.or(rare.paused_since).unwrap_or(ctx.now);
                add(Some(since.after(ctx.settings.hold)));
            }
        }
        if self.leg == Leg::Talking && upgraded {
            add(Some(self.client_pulse.next_look(ping, pong)));
        }
        if matches!(self.phase, Phase::Open | Phase::Moving) && !self.flags.contains(Flags::BRIDGED)
        {
            add(Some(self.upstream_pulse.next_look(ping, pong)));
            let confirms = ctx.settings.confirm != super::Confirm::Written
                && !self.flags.contains(Flags::PROCESSED);
            let due = self.unconfirmed_since.after(ctx.settings.barrier_delay);
            // One that is overdue has no place now, inside a frame or before a full socket. What
            // makes room for it flushes, too; to look every millisecond until then helps nobody.
            let waits = self.barrier.is_none() && !due.is_due(ctx.now);
            if confirms && self.journal.messages() > 0 && waits {
                add(Some(due));
            }
        }
        next
    }
}

/// How long the connection of another node may rest, in ms: nodes ask each other every 5 s at least.
const NODE_REST: u32 = 60_000;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::Means;
    use super::super::dialect::{Accepted, Heard};
    use super::super::vocab::{Event, House, Settings, Tally};
    use super::*;
    use crate::kit::{Budget, Chunks, Prng};

    /// What a session needs beside itself.
    struct Around {
        now: Tick,
        means: Means,
        settings: Settings,
        tally: Tally,
        alarm: Option<Tick>,
    }

    impl Around {
        fn tell(&mut self, session: &mut Session, event: Event<'_>) {
            let (settings, tally) = (&self.settings, &mut self.tally);
            let mut ctx = self.means.lend(self.now, settings, tally, &[]);
            session.on(event, &mut ctx);
            session.check_invariants();
            for action in self.means.actions.drain(..) {
                if let Action::Alarm(due) = action {
                    self.alarm = Some(due);
                }
            }
        }
    }

    /// An open session whose client has sent a message and a part of another: 13 bytes.
    fn open() -> (Session, Around) {
        let mut around = Around {
            now: Tick(0),
            means: Means::new(
                Chunks::new(Arc::new(Budget::new(1 << 10)), 64),
                Prng::from_u64(1),
                House::default(),
            ),
            settings: Settings::default(),
            tally: Tally::default(),
            alarm: None,
        };
        let mut session = Session::new(1, ([127, 0, 0, 1], 1).into(), Tick(0));
        let head = b"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
            Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        // A message, and the first byte of three of another.
        let frames = [0x82, 0x80, 0, 0, 0, 0, 0x82, 0x83, 0, 0, 0, 0, 7];
        around.tell(
            &mut session,
            Event::ClientBytes {
                bytes: head,
                kept: 0,
            },
        );
        session.join(0);
        around.tell(&mut session, Event::Routed);
        around.tell(&mut session, Event::Dialling { server: 0 });
        let heard = Heard::Ready(Box::<Accepted>::default());
        around.tell(
            &mut session,
            Event::Heard {
                heard,
                bytes: &[],
                at: 0,
            },
        );
        around.tell(
            &mut session,
            Event::ClientBytes {
                bytes: &frames,
                kept: 0,
            },
        );
        (session, around)
    }

    #[test]
    fn a_barrier_without_a_place_does_not_ring_every_millisecond() {
        let (mut session, mut around) = open();
        around.tell(&mut session, Event::Sent { count: 13 });
        let mut rings = 0;
        while around.now.is_before(Tick(20_000)) {
            around.now = around
                .alarm
                .take()
                .expect("an open session has a next look");
            around.tell(&mut session, Event::Due);
            rings += 1;
        }
        assert!(
            rings <= 10,
            "{rings} rings in 20 s of waiting for two bytes"
        );
    }

    #[test]
    fn a_ping_that_left_with_the_end_of_a_cut_stream_is_not_awaited() {
        let (mut session, mut around) = open();
        around.tell(&mut session, Event::Sent { count: 8 });
        around.tell(&mut session, Event::ClientLost(Loss::Fin));
        around.tell(&mut session, Event::Sent { count: 5 });
        assert_eq!(session.phase(), Phase::Held, "the message goes to another");
        around.tell(&mut session, Event::Pinged { number: 1 });
        around.tell(&mut session, Event::Farewelled);
        assert_eq!(session.phase(), Phase::Held);
    }
}
