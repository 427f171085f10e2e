//! Finding a server: the first connect, and every one after a loss.

use super::attempt::{Attempt, back_off};
use super::dialect::{Accepted, Answer};
use super::vocab::{Action, End, Kind, Life, Loss, Nobody, Verdict};
use super::{Ctx, Flags, Leg, Number, Phase, Session};
use crate::wire::frame::Sender;
use crate::wire::scan::Scanner;
use crate::wire::upgrade;

impl Session {
    /// Gives the session its pool, whose settings count from here on.
    pub fn join(&mut self, pool: u16) {
        debug_assert_eq!(self.phase, Phase::Greeting, "a session keeps its pool");
        self.pool = Number(pool);
    }

    pub(super) fn on_routed(&mut self, ctx: &mut Ctx<'_>) {
        if self.phase != Phase::Greeting || self.pool().is_none() {
            return;
        }
        let upgrade = self.kept.as_ref().is_some_and(|kept| kept.has_key());
        match (ctx.settings.kind, upgrade) {
            (Kind::WebSocket, true) => {
                self.keep_lines(ctx);
                self.begin_admitting(ctx);
                ctx.actions.push(Action::Dial);
            }
            (Kind::WebSocket, false) => {
                self.deny(426, "only WebSocket upgrades are served here", ctx);
            }
            (Kind::Bridge, true) => self.begin_bridge(ctx),
            (Kind::Bridge, false) => self.begin_visit(ctx),
            // An upgrade is a plain request to servers that know none (THREATS V4).
            (Kind::Http, _) => self.begin_exchange(ctx),
        }
    }

    /// The client waits for its 101.
    pub(super) fn begin_admitting(&mut self, ctx: &mut Ctx<'_>) {
        self.become_(Phase::Admitting);
        self.attempt = Some(Box::new(Attempt::new(ctx.now)));
        self.want_by(ctx.now.after(ctx.settings.admit), ctx);
    }

    pub(super) fn on_dialling(&mut self, server: u16, ctx: &mut Ctx<'_>) {
        let deadline = ctx.now.after(ctx.settings.connect);
        if self.flags.contains(Flags::BRIDGED) {
            self.server = Number(server);
            self.on_call_begun(ctx);
        }
        let Some(attempt) = &mut self.attempt else {
            return;
        };
        attempt.unqueue(ctx.now);
        attempt.retry_at = None;
        attempt.deadline = Some(deadline);
        if !attempt.tried.contains(&server) {
            attempt.tried.push(server);
        }
        self.server = Number(server);
        self.want_by(deadline, ctx);
    }

    pub(super) fn on_connected(&mut self, ctx: &mut Ctx<'_>) {
        if self.flags.contains(Flags::BRIDGED) {
            self.on_call_connected(ctx);
        }
        let span = match self.phase {
            Phase::Admitting => ctx.settings.handshake,
            _ if self.flags.contains(Flags::BRIDGED) => ctx.settings.response,
            _ => ctx.settings.handshake,
        };
        let deadline = ctx.now.after(span);
        let Some(attempt) = &mut self.attempt else {
            return;
        };
        attempt.deadline = Some(deadline);
        self.want_by(deadline, ctx);
    }

    pub(super) fn on_queued(&mut self, ctx: &mut Ctx<'_>) {
        if let Some(attempt) = &mut self.attempt {
            attempt.queued = Some(attempt.queued.unwrap_or(ctx.now));
            attempt.retry_at = None;
        }
    }

    pub(super) fn on_no_server(&mut self, nobody: Nobody, ctx: &mut Ctx<'_>) {
        if self.phase == Phase::Serving {
            return self.on_no_exchange(nobody, ctx);
        }
        if self.flags.contains(Flags::BRIDGED) && self.attempt.is_none() {
            return self.on_no_call(ctx);
        }
        let Some(attempt) = &mut self.attempt else {
            return;
        };
        attempt.unqueue(ctx.now);
        match (self.phase, nobody) {
            (Phase::Admitting, Nobody::Empty) => self.deny(503, "no server in this pool", ctx),
            // Somebody is there, but nobody serves: waiting would not help this client.
            (Phase::Admitting, Nobody::AllTried | Nobody::NoneUsable) if attempt.answered => {
                self.deny(502, "no server answered as it should", ctx);
            }
            (Phase::Held, Nobody::AllTried)
                if attempt.all_refused
                    && !attempt.tried.is_empty()
                    && !self.flags.contains(Flags::BRIDGED) =>
            {
                self.end(End::Refused, ctx);
            }
            _ => {
                attempt.next_round();
                self.failures = self.failures.saturating_add(1);
                self.retry_later(ctx);
            }
        }
    }

    /// An attempt ended without a server.
    pub(super) fn on_attempt_failed(&mut self, how: Failed, ctx: &mut Ctx<'_>) {
        let Some(attempt) = &mut self.attempt else {
            return;
        };
        attempt.deadline = None;
        let (verdict, loss) = match how {
            Failed::Lost(loss) => {
                // One that can't be reached has not refused.
                attempt.all_refused = false;
                attempt.timed_out = loss == Loss::TimedOut;
                (loss != Loss::Exhausted, loss)
            }
            Failed::Answered => {
                (attempt.all_refused, attempt.answered, attempt.timed_out) = (false, true, false);
                (true, Loss::Protocol)
            }
            Failed::Refused => {
                (attempt.answered, attempt.timed_out) = (true, false);
                (false, Loss::Refused)
            }
        };
        if verdict {
            ctx.actions.push(Action::Report(Verdict::Failure));
        }
        ctx.actions.push(Action::Tell(Life::Failed(loss)));
        ctx.actions.push(Action::HangUpUpstream { say: None });
        // Each usable server is tried once without a pause; the pause is between rounds.
        ctx.actions.push(Action::Dial);
    }

    /// The server wants no permessage-deflate that a replay could live with: once more without.
    pub(super) fn dial_again_plain(&mut self, ctx: &mut Ctx<'_>) {
        if let Some(attempt) = &mut self.attempt {
            attempt.plain = true;
        }
        self.turn_back(ctx);
    }

    /// The connection that is being made is given up, as if the server had not been tried.
    pub(super) fn turn_back(&mut self, ctx: &mut Ctx<'_>) {
        let (Some(attempt), Some(server)) = (&mut self.attempt, self.server.known()) else {
            return;
        };
        if attempt.deadline.take().is_none() {
            return;
        }
        attempt.tried.retain(|tried| *tried != server);
        ctx.actions.push(Action::HangUpUpstream { say: None });
        ctx.actions.push(Action::Dial);
    }

    /// A server refuses as HTTP. On a first connect that is the client's answer.
    pub(super) fn on_refused(&mut self, answer: Answer, ctx: &mut Ctx<'_>) {
        match self.phase {
            Phase::Admitting => self.deny_with(answer.status, &answer.response, ctx),
            _ => self.on_attempt_failed(Failed::Refused, ctx),
        }
    }

    /// A server takes the session.
    pub(super) fn on_ready(&mut self, accepted: Accepted, ctx: &mut Ctx<'_>) {
        let Some(attempt) = self.attempt.take() else {
            return;
        };
        ctx.actions.push(Action::Report(Verdict::Success));
        self.flags.set(Flags::PROCESSED, accepted.processed);
        self.upstream_pulse.answered(ctx.now);
        self.bound_at = ctx.now;
        self.unconfirmed_since = ctx.now;
        match self.phase {
            Phase::Admitting => self.open(accepted, ctx),
            _ => {
                ctx.tally.held -= 1;
                ctx.tally.replayed += u64::from(attempt.replayed);
                ctx.actions.push(Action::Tell(Life::Resumed {
                    held_ms: attempt.lasted(ctx.now),
                    replayed: attempt.replayed,
                }));
                self.become_(Phase::Open);
            }
        }
        self.want_by(
            self.upstream_pulse
                .next_look(ctx.settings.ping, ctx.settings.pong),
            ctx,
        );
        self.want_barrier(ctx);
        ctx.actions.push(Action::FlushUpstream);
        if self.farewell().is_some() {
            self.say_farewell(ctx);
        }
    }

    /// The client gets its 101; what it has sent behind its request is read.
    pub(super) fn open(&mut self, accepted: Accepted, ctx: &mut Ctx<'_>) {
        debug_assert_eq!(self.leg, Leg::Talking);
        self.become_(Phase::Open);
        let Some(kept) = &mut self.kept else { return };
        let pass: Vec<(&str, &[u8])> = accepted
            .pass
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_slice()))
            .collect();
        let response = upgrade::switching(
            &kept.take_key(),
            accepted.protocol.as_deref(),
            accepted.deflate.as_ref(),
            &pass,
        );
        ctx.chunks.push(&mut self.out, &response);
        self.scanner = Scanner::new(Sender::Client, accepted.deflate.is_some());
        // From now on a server is offered exactly what the client has.
        kept.set_protocol(accepted.protocol.as_deref());
        kept.deflate = accepted.deflate;
        self.client_pulse.answered(ctx.now);
        self.failures = 0;
        self.flags.insert(Flags::OPENED);
        self.want_by(
            self.client_pulse
                .next_look(ctx.settings.ping, ctx.settings.pong),
            ctx,
        );
        ctx.actions.push(Action::Tell(Life::Opened));
        ctx.actions.push(Action::FlushClient);
        ctx.actions.push(Action::ReadClient);
        self.fit_valves(ctx);
    }

    /// Nothing is searched for any more; a hold is over without a server.
    pub(super) fn give_up(&mut self, ctx: &mut Ctx<'_>) {
        if let Some(attempt) = self.attempt.take()
            && self.phase == Phase::Held
        {
            ctx.tally.held -= 1;
            let held_ms = attempt.lasted(ctx.now);
            ctx.actions.push(Action::Tell(Life::GivenUp { held_ms }));
        }
    }

    /// Begins the search for the next server, at once or after the pause that is due.
    pub(super) fn search(&mut self, replayed: u32, ctx: &mut Ctx<'_>) {
        let mut attempt = Attempt::new(ctx.now);
        attempt.replayed = replayed;
        self.attempt = Some(Box::new(attempt));
        self.become_(Phase::Held);
        ctx.tally.held += 1;
        self.want_by(ctx.now.after(ctx.settings.hold), ctx);
        if self.failures == 0 {
            ctx.actions.push(Action::Dial);
        } else {
            self.retry_later(ctx);
        }
    }

    fn retry_later(&mut self, ctx: &mut Ctx<'_>) {
        let pause = back_off(self.failures.max(1), ctx.rng);
        let retry_at = ctx.now.after(pause);
        if let Some(attempt) = &mut self.attempt {
            attempt.retry_at = Some(retry_at);
            self.want_by(retry_at, ctx);
        }
    }
}

/// How an attempt failed.
pub(super) enum Failed {
    /// No connection, or it ended before the answer was whole.
    Lost(Loss),
    /// 5xx, 2xx, or a 101 that is none.
    Answered,
    /// 3xx, 4xx, another subprotocol or extension than the client has.
    Refused,
}
