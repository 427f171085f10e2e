//! Deadlines. One alarm per session; it may ring early, then it looks and is set again.

use super::pulse::Beat;
use super::vocab::{Action, End, Loss};
use super::{Ctx, Leg, Phase, Session};
use crate::kit::Tick;

impl Session {
    /// The first look at a client that has just connected.
    pub fn begin(&mut self, ctx: &mut Ctx<'_>) {
        let by = self.opened.after(ctx.house.handshake);
        self.want_by(by, ctx);
    }

    pub(super) fn on_due(&mut self, ctx: &mut Ctx<'_>) {
        self.alarm = None;
        self.look_at_greeting(ctx);
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

    fn look_at_greeting(&mut self, ctx: &mut Ctx<'_>) {
        if self.phase == Phase::Greeting && self.opened.after(ctx.house.handshake).is_due(ctx.now) {
            if self.stash.is_empty() {
                self.on_client_lost(Loss::Silent, ctx);
            } else {
                self.deny(408, "the request did not arrive in time", ctx);
            }
        }
    }

    fn look_at_search(&mut self, ctx: &mut Ctx<'_>) {
        let Some(attempt) = &mut self.attempt else {
            return;
        };
        let span = if self.phase == Phase::Held {
            ctx.settings.hold
        } else {
            ctx.settings.admit
        };
        if attempt.ends_at(span, ctx.now).is_due(ctx.now) {
            if self.phase == Phase::Held && planted!(HoldForever) {
                return;
            }
            if self.phase == Phase::Held {
                return self.end(End::Hold, ctx);
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
        match self.phase {
            Phase::Moving => self.move_late(ctx),
            // The server does not answer our Close: what it has not confirmed goes to another.
            Phase::Finishing => self.on_upstream_lost(Loss::Silent, ctx),
            _ => {}
        }
        if matches!(self.leg, Leg::Closing | Leg::Closed | Leg::Deaf) {
            self.let_client_go(ctx);
        }
    }

    fn look_at_message(&mut self, ctx: &mut Ctx<'_>) {
        let Some(rare) = &self.rare else { return };
        let late = rare
            .message_since
            .is_some_and(|since| since.after(ctx.house.message_time).is_due(ctx.now));
        // While we do not read, the client is not to blame.
        if late && self.leg == Leg::Talking && !self.flags.paused {
            self.rare().message_since = None;
            return self.on_client_late(ctx);
        }
        let unprocessed = self.flags.processed
            && self.flags.paused
            && [rare.paused_since, rare.confirmed_at]
                .iter()
                .all(|at| at.is_some_and(|at| at.after(ctx.settings.hold).is_due(ctx.now)));
        if unprocessed {
            self.end(End::Unprocessed, ctx);
        }
    }

    fn look_at_legs(&mut self, ctx: &mut Ctx<'_>) {
        let (ping, pong) = (ctx.settings.ping, ctx.settings.pong);
        let upgraded = !matches!(self.phase, Phase::Greeting | Phase::Admitting);
        if self.leg == Leg::Talking && upgraded {
            let reading = !self.flags.paused;
            match self.client_pulse.look(ctx.now, ping, pong, reading) {
                Beat::Wait(_) => {}
                Beat::Ask => self.ping_client(ctx),
                Beat::Dead => self.on_client_silent(ctx),
            }
        }
        if matches!(self.phase, Phase::Open | Phase::Moving) {
            let reading = self.wants_upstream();
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
            Phase::Greeting | Phase::Admitting | Phase::Parting
        );
        if self.phase == Phase::Greeting {
            add(Some(self.opened.after(ctx.house.handshake)));
        }
        if let Some(attempt) = &self.attempt {
            let held = self.phase == Phase::Held;
            let span = if held {
                ctx.settings.hold
            } else {
                ctx.settings.admit
            };
            add(Some(attempt.ends_at(span, ctx.now)));
            add(attempt.deadline);
            add(attempt.retry_at);
        }
        if let Some(rare) = &self.rare {
            add(rare.close_by);
            add(rare
                .message_since
                .map(|since| since.after(ctx.house.message_time)));
            if self.flags.processed && self.flags.paused {
                let since = rare.confirmed_at.or(rare.paused_since).unwrap_or(ctx.now);
                add(Some(since.after(ctx.settings.hold)));
            }
        }
        if self.leg == Leg::Talking && upgraded {
            add(Some(self.client_pulse.next_look(ping, pong)));
        }
        if matches!(self.phase, Phase::Open | Phase::Moving) {
            add(Some(self.upstream_pulse.next_look(ping, pong)));
            let confirms = ctx.settings.confirm != super::Confirm::Written && !self.flags.processed;
            if confirms && self.journal.messages() > 0 && self.barrier.is_none() {
                add(Some(
                    self.unconfirmed_since.after(ctx.settings.barrier_delay),
                ));
            }
        }
        next
    }
}
