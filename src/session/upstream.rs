//! The upstream leg: what the server says, what it has confirmed, what it still gets.

use super::dialect::{Dialect, Heard, Piece};
use super::search::Failed;
use super::vocab::{Action, Confirm, End, Life, Loss, Mover, Verdict};
use super::{Awaited, Ctx, Flags, Leg, Phase, Session};
use crate::kit::{Chunks, Prng, Tick};
use crate::wire::frame::ControlPayload;

/// What goes to the server with the next write, beside the journal.
#[derive(Default)]
pub struct Parcel {
    /// Control frames, encoded.
    pub control: Vec<u8>,
    /// Where they stand.
    pub place: Place,
    /// The number of the Ping among them.
    pub ping: Option<u64>,
    /// A Close is among them.
    pub close: bool,
    /// The journal goes only to the end of the message under the cursor.
    pub fenced: bool,
}

/// Where control frames may be put in: only between two frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Place {
    /// Before the unsent part of the journal.
    #[default]
    Before,
    /// Behind all of it.
    After,
}

impl Session {
    /// Whether the upstream's socket is to be read: not while the client does not take what it says.
    pub fn wants_upstream(&self) -> bool {
        self.out.len() < DOWN_MARK
    }

    /// Whether the journal may be sent now.
    pub(super) fn can_send(&self) -> bool {
        matches!(self.phase, Phase::Open | Phase::Moving)
            && !self.flags.contains(Flags::LEFT)
            && !self.flags.contains(Flags::BRIDGED)
    }

    /// What is to be sent of the journal.
    pub fn sendable<'a>(
        &self,
        fenced: bool,
        chunks: &'a Chunks,
    ) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let fenced = fenced || !self.can_send();
        self.journal.sendable(fenced, chunks)
    }

    /// Whether there is anything to send, control frames included.
    pub fn has_upward(&self, now: Tick, settings: &super::Settings) -> bool {
        (self.can_send() && self.journal.unsent() > 0) || self.owes_upstream(now, settings)
    }

    fn owes_upstream(&self, now: Tick, settings: &super::Settings) -> bool {
        // Behind our Close nothing may follow (RFC 6455 5.5.1): neither in Finishing, nor once left.
        self.can_send()
            && (self.upstream_pulse.owes()
                || self.server_pong().is_some()
                || self.flags.contains(Flags::LEAVING)
                || self.barrier_due(now, settings)
                || (self.phase == Phase::Open && self.farewell().is_some()))
    }

    fn server_pong(&self) -> Option<&ControlPayload> {
        self.rare
            .as_ref()
            .and_then(|rare| rare.server_pong.as_deref())
    }

    /// Makes up what goes with the next write: Pong, then Ping, then Close, where the journal allows
    /// control frames; nothing if it does not.
    pub fn compose<D: Dialect>(
        &self,
        dialect: &D,
        now: Tick,
        settings: &super::Settings,
        rng: &mut Prng,
        parcel: &mut Parcel,
    ) {
        parcel.control.clear();
        (parcel.ping, parcel.close, parcel.place) = (None, false, Place::Before);
        parcel.fenced = self.phase != Phase::Open;
        if !self.owes_upstream(now, settings) {
            return;
        }
        let backlog = self.journal.unsent();
        if !parcel.fenced && self.journal.ends_at_frame() && backlog <= BACKLOG_MAX {
            parcel.place = Place::After;
        } else if !self.journal.sent_at_frame() && !planted!(BarrierInsideFrame) {
            return;
        }
        if let Some(payload) = self.server_pong() {
            parcel
                .control
                .extend_from_slice(&dialect.pong(payload, rng));
        }
        let number = match parcel.place {
            Place::Before => self.journal.sent_number(),
            Place::After => self.journal.end_number(),
        };
        let partial = planted!(PartialConfirmed) && self.journal.unfinished() > 0;
        let number = number + u64::from(partial);
        let all_said = parcel.place == Place::After || backlog == 0;
        let farewell = self
            .farewell()
            .filter(|_| self.phase == Phase::Open && all_said && !self.flags.contains(Flags::CUT));
        // A last barrier before the Close: its Pong tells a reply from a Close of the server's own.
        let last = farewell.is_some() && self.journal.messages() > 0 && self.asks(settings);
        // A barrier that would confirm nothing waits for its messages to leave; a keepalive does not.
        let useful = number > self.journal.confirmed() && self.barrier_due(now, settings);
        let ping = self.upstream_pulse.owes() || last || useful;
        if self.barrier.is_none() && ping {
            parcel.control.extend_from_slice(&dialect.ping(number, rng));
            parcel.ping = Some(number);
        }
        if self.flags.contains(Flags::LEAVING) && !self.flags.contains(Flags::LEFT) {
            parcel
                .control
                .extend_from_slice(&dialect.close(1000, "moved", rng));
            parcel.close = true;
        } else if let Some((code, reason)) = farewell {
            parcel
                .control
                .extend_from_slice(&dialect.close(*code, reason, rng));
            parcel.close = true;
        }
    }

    /// The owed Pong is on its way.
    pub fn pong_taken(&mut self) {
        if let Some(rare) = &mut self.rare {
            rare.server_pong = None;
        }
    }

    /// Whether a barrier is to go out now: none is outstanding, and what waits is old or large
    /// enough. With a message that goes anyway it goes at half the delay: it costs no write then.
    fn barrier_due(&self, now: Tick, settings: &super::Settings) -> bool {
        if !self.barrier.is_none() || !self.asks(settings) {
            return false;
        }
        if self.phase == Phase::Moving {
            return self.journal.sent_at_message()
                && self.journal.sent_number() > self.journal.confirmed();
        }
        let waiting = self.journal.messages() > 0;
        let age = now.since(self.unconfirmed_since);
        let due = if self.journal.unsent() > 0 {
            settings.barrier_delay / 2
        } else {
            settings.barrier_delay
        };
        waiting && (age >= due || self.journal.len() >= settings.barrier_bytes)
    }

    /// Whether barriers are what confirms.
    fn asks(&self, settings: &super::Settings) -> bool {
        !self.flags.contains(Flags::PROCESSED)
            && !self.flags.contains(Flags::BRIDGED)
            && settings.confirm != Confirm::Written
    }

    pub(super) fn want_barrier(&mut self, ctx: &mut Ctx<'_>) {
        if self.asks(ctx.settings) && self.journal.messages() > 0 && self.can_send() {
            self.want_by(
                self.unconfirmed_since.after(ctx.settings.barrier_delay),
                ctx,
            );
        }
    }

    pub(super) fn on_sent(&mut self, count: usize, ctx: &mut Ctx<'_>) {
        self.journal.advance(count, ctx.chunks);
        self.upstream_pulse.progressed(ctx.now);
        if ctx.settings.confirm == Confirm::Written {
            let count = self.journal.confirm_sent(ctx.chunks);
            self.count_confirmed(count, ctx);
        }
        if self.flags.contains(Flags::CUT) && self.journal.unsent() == 0 {
            self.part_cut(ctx);
        }
    }

    pub(super) fn on_pinged(&mut self, number: u64, ctx: &mut Ctx<'_>) {
        // What left with it may have ended this connection: its Pong will never be heard.
        if !self.can_send() {
            return;
        }
        self.barrier = Awaited::pong(number);
        self.upstream_pulse.asked(ctx.now);
        // What the Pong will leave over has arrived after this moment.
        self.unconfirmed_since = ctx.now;
        self.want_by(
            self.upstream_pulse
                .next_look(ctx.settings.ping, ctx.settings.pong),
            ctx,
        );
    }

    pub(super) fn on_farewelled(&mut self, ctx: &mut Ctx<'_>) {
        if !self.can_send() {
            return;
        }
        let by = ctx.now.after(ctx.settings.close);
        self.rare().close_by = Some(by);
        self.want_by(by, ctx);
        if self.phase == Phase::Moving {
            self.flags.insert(Flags::LEFT);
        } else {
            self.become_(Phase::Finishing);
        }
    }

    pub(super) fn on_heard(&mut self, heard: Heard, bytes: &[u8], at: usize, ctx: &mut Ctx<'_>) {
        self.upstream_pulse.heard(ctx.now);
        match heard {
            Heard::More | Heard::Nothing => self.answer_begun(),
            Heard::Ready(accepted) => self.on_ready(*accepted, ctx),
            Heard::Refused(answer) => self.on_refused(*answer, ctx),
            Heard::Failed => self.on_attempt_failed(Failed::Answered, ctx),
            Heard::Unsuitable => self.dial_again_plain(ctx),
            Heard::Differs => self.on_attempt_failed(Failed::Refused, ctx),
            Heard::Reply(reply) => self.on_reply(*reply, ctx),
            Heard::Head(head) => self.on_head(*head, ctx),
            Heard::Flow { ends } => self.on_flow(bytes, at, ends, ctx),
            Heard::FlowEnd => self.end_exchange(ctx),
            Heard::Piece(piece) => self.on_piece(piece, bytes, at, ctx),
            Heard::Ping(payload) => {
                self.rare().server_pong = Some(Box::new(payload));
                ctx.actions.push(Action::FlushUpstream);
            }
            Heard::Received(number) => self.on_received(number, ctx),
            Heard::Processed(number) => self.on_processed(number, ctx),
            Heard::Closed(said) => self.on_server_close(said, ctx),
            Heard::Broken(loss) => self.on_upstream_lost(loss, ctx),
        }
    }

    /// A piece of a downward message: at once to the client if it is whole, else collected, and
    /// streamed only if it is longer than `session.atomic` or memory is short.
    fn on_piece(&mut self, piece: Piece, bytes: &[u8], at: usize, ctx: &mut Ctx<'_>) {
        if self.leg != Leg::Talking {
            return;
        }
        if self.flags.contains(Flags::VALVED_DOWN) {
            self.gather_down(piece, bytes, at, ctx);
            if self.leg == Leg::Talking {
                self.stop_behind(piece, ctx);
            }
            return;
        }
        if piece.ends {
            self.count_down(piece.announced, ctx);
        }
        let whole = piece.begins && piece.ends;
        if !whole && !self.flags.contains(Flags::STREAMING) {
            let long = piece.announced > ctx.settings.atomic as u64
                || self.draft.len() + bytes.len() > 2 * ctx.settings.atomic
                || !ctx.chunks.room(bytes.len() + SQUEEZE);
            if !piece.ends && !long {
                ctx.chunks.push(&mut self.draft, bytes);
                return;
            }
            if !self.draft.is_empty() {
                self.settle_direct(ctx);
                ctx.chunks.join(&mut self.out, &mut self.draft);
            }
            self.flags.insert(Flags::STREAMING);
        }
        if self.flags.contains(Flags::STREAMING) {
            self.flags.set(Flags::DOWN_CUT, !piece.ends_frame);
            self.flags.set(Flags::STREAMING, !piece.ends);
        }
        self.pass_down(bytes, at, ctx);
        if piece.ends && self.flags.contains(Flags::VALVED) {
            self.release_answers(ctx);
        }
        self.stop_behind(piece, ctx);
    }

    /// These bytes go to the client as they stand in the scratch buffer.
    #[inline]
    pub(super) fn pass_down(&mut self, bytes: &[u8], at: usize, ctx: &mut Ctx<'_>) {
        match ctx.direct.last_mut() {
            Some(last) if last.end == at => last.end += bytes.len(),
            _ => ctx.direct.push(at..at + bytes.len()),
        }
    }

    /// A message of so many bytes is on its way to the client.
    #[inline]
    pub(super) fn count_down(&mut self, length: u64, ctx: &mut Ctx<'_>) {
        self.messages_down += 1;
        ctx.tally.messages_down += 1;
        ctx.tally.sizes_down.record(length);
    }

    /// Somebody waits for the end of a downward message: this one?
    #[inline]
    fn stop_behind(&mut self, piece: Piece, ctx: &mut Ctx<'_>) {
        if piece.ends
            && let Some(end) = self.rare.as_mut().and_then(|rare| rare.stop.take())
        {
            self.on_stop(end, ctx);
        }
    }

    /// Puts what was to go out directly behind what is queued: something must follow it in order.
    pub(super) fn settle_direct(&mut self, ctx: &mut Ctx<'_>) {
        for range in ctx.direct.drain(..) {
            ctx.chunks.push(&mut self.out, &ctx.input[range]);
        }
    }

    fn on_received(&mut self, number: u64, ctx: &mut Ctx<'_>) {
        if self.claims_too_much(number) {
            return self.on_upstream_lost(Loss::Protocol, ctx);
        }
        // Only the outstanding barrier is known; a Pong that nobody asked for means nothing.
        if self.barrier != Awaited::pong(number) && !planted!(UnknownPongConfirms) {
            return;
        }
        self.barrier = Awaited::NONE;
        self.upstream_pulse.answered(ctx.now);
        // Also under `written`: what went out before it was, say.
        if !self.flags.contains(Flags::PROCESSED) {
            let count = self.journal.confirm(number, ctx.chunks);
            self.count_confirmed(count, ctx);
            // Also after one that confirmed nothing, since it stood before the first message's end.
            self.want_barrier(ctx);
        }
        self.leave_when_clean(ctx);
    }

    /// Eight bytes that are no number of ours, a timestamp say, are an unknown payload, which RFC 6455
    /// 5.5.3 allows; a number just beyond what was sent is a claim.
    fn claims_too_much(&self, number: u64) -> bool {
        number
            .checked_sub(self.journal.sent_number())
            .is_some_and(|ahead| (1..CLAIM_MAX).contains(&ahead))
    }

    fn on_processed(&mut self, number: u64, ctx: &mut Ctx<'_>) {
        if !self.flags.contains(Flags::PROCESSED) {
            return;
        }
        if number > self.journal.sent_number() {
            return self.on_upstream_lost(Loss::Protocol, ctx);
        }
        let count = self.journal.confirm(number, ctx.chunks);
        self.count_confirmed(count, ctx);
        self.leave_when_clean(ctx);
    }

    pub(super) fn count_confirmed(&mut self, count: u32, ctx: &mut Ctx<'_>) {
        if count == 0 {
            return;
        }
        ctx.tally.confirmed += u64::from(count);
        ctx.tally.journaled -= u64::from(count);
        self.failures = 0;
        if let Some(rare) = &mut self.rare {
            (rare.losses, rare.confirmed_at) = (0, Some(ctx.now));
        }
        self.want_barrier(ctx);
        self.resume_client(ctx);
    }

    fn on_server_close(&mut self, said: Option<(u16, Box<str>)>, ctx: &mut Ctx<'_>) {
        let code = said.as_ref().map_or(1005, |(code, _)| *code);
        if self.phase == Phase::Finishing {
            // Its reply to our Close: everything before it was received (CONTRACT 3). One of its own
            // that has crossed ours proves nothing; nor does one before the Pong of the last
            // barrier, which RFC 6455 5.5.2 wants first.
            let reply = self.is_reply(said.as_ref());
            if !reply && self.journal.messages() > 0 && ctx.settings.abnormal.contains(&code) {
                return self.lose(Loss::Close(code), None, ctx);
            }
            let proven = (reply && self.barrier.is_none()) || planted!(CrossedCloseConfirms);
            if proven && !self.flags.contains(Flags::PROCESSED) {
                let count = self.journal.confirm(self.journal.sent_number(), ctx.chunks);
                self.count_confirmed(count, ctx);
            }
            return self.part(ctx);
        }
        if self.flags.contains(Flags::LEFT) {
            return self.lose(Loss::Moved, None, ctx);
        }
        if ctx.settings.abnormal.contains(&code) {
            return self.lose(Loss::Close(code), Some(code), ctx);
        }
        if self.attempt.is_some() {
            return self.on_attempt_failed(Failed::Answered, ctx);
        }
        let close = said.as_ref().map(|(code, reason)| (*code, &**reason));
        self.end_with(End::ServerClosed, close, ctx);
    }

    /// Whether this is the answer to our Close: it has its code (RFC 6455 5.5.1), and no other reason.
    fn is_reply(&self, said: Option<&(u16, Box<str>)>) -> bool {
        let (code, reason) = said.map_or((1005, ""), |(code, reason)| (*code, reason));
        self.farewell()
            .is_some_and(|(ours, why)| *ours == code && (reason.is_empty() || *reason == **why))
    }

    pub(super) fn on_upstream_lost(&mut self, loss: Loss, ctx: &mut Ctx<'_>) {
        if self.flags.contains(Flags::BRIDGED) {
            return self.on_call_lost(loss, ctx);
        }
        if self.attempt.is_some() {
            return self.on_attempt_failed(Failed::Lost(loss), ctx);
        }
        if self.flags.contains(Flags::LEFT) {
            return self.lose(Loss::Moved, None, ctx);
        }
        let blamed = loss == Loss::Protocol && self.count_fault(ctx.now);
        if blamed && matches!(self.phase, Phase::Open | Phase::Moving | Phase::Finishing) {
            ctx.actions.push(Action::Report(Verdict::LostConnection));
            return self.end(End::ServerFaults, ctx);
        }
        self.lose(loss, None, ctx);
    }

    /// More than ten protocol errors in a minute, whoever the servers were, end the session.
    fn count_fault(&mut self, now: Tick) -> bool {
        let rare = self.rare();
        if rare.faults == 0 || now.since(rare.faults_since) >= 60_000 {
            (rare.faults, rare.faults_since) = (0, now);
        }
        rare.faults += 1;
        rare.faults > FAULTS_MAX
    }

    /// The server is gone; the session waits for the next, if it has a reason to.
    fn lose(&mut self, loss: Loss, say: Option<u16>, ctx: &mut Ctx<'_>) {
        if !matches!(self.phase, Phase::Open | Phase::Moving | Phase::Finishing) {
            return;
        }
        if loss != Loss::Moved {
            ctx.actions.push(Action::Report(Verdict::LostConnection));
        }
        let say = say.filter(|_| self.journal.sent_at_frame());
        ctx.actions.push(Action::HangUpUpstream { say });
        ctx.actions.push(Action::Tell(Life::Lost(loss)));
        *ctx.tally.failovers.entry(loss.name()).or_default() += 1;
        if self.flags.contains(Flags::STREAMING) && self.leg == Leg::Talking {
            self.settle_direct(ctx);
            ctx.actions.push(NO_HOLD);
            return self.end(End::ServerCut, ctx);
        }
        if self.is_poisoned(loss, ctx) {
            ctx.actions.push(NO_HOLD);
            return self.end(End::Poison, ctx);
        }
        if ctx.now.since(self.bound_at) >= HEALTHY_AFTER {
            self.failures = 0;
        }
        self.forget_upstream(ctx);
        // What was collected of a message may have been what kept the client from being read.
        self.resume_client(ctx);
        self.failovers = self.failovers.saturating_add(1);
        let replayed = self.journal.replay();
        if self.farewell().is_some() {
            // A frame that was cut off never reached anybody whole.
            self.journal.drop_unfinished(ctx.chunks);
            self.flags.remove(Flags::CUT);
            if self.journal.messages() == 0 {
                ctx.actions.push(NO_HOLD);
                return self.part(ctx);
            }
        }
        self.search(replayed, ctx);
        // A server that is lost again and again before it confirms anything earns longer pauses.
        self.failures = self.failures.saturating_add(1);
    }

    /// Whether the first unconfirmed message has now cost too many servers (CONTRACT 2, poison).
    fn is_poisoned(&mut self, loss: Loss, ctx: &Ctx<'_>) -> bool {
        if planted!(PoisonForever)
            || !loss.may_be_poison()
            || !self.journal.first_was_sent(ctx.chunks)
        {
            return false;
        }
        let first = self.journal.confirmed();
        let rare = self.rare();
        if rare.suspect != first || rare.losses == 0 {
            (rare.suspect, rare.losses) = (first, 0);
        }
        rare.losses += 1;
        rare.losses >= ctx.settings.replay_attempts
    }

    /// The client has taken its leave and the server is there: it gets the rest, then the Close.
    pub(super) fn say_farewell(&mut self, ctx: &mut Ctx<'_>) {
        if self.flags.contains(Flags::CUT) && self.journal.unsent() == 0 {
            return self.part_cut(ctx);
        }
        if self.phase == Phase::Moving {
            // No reason to move any more: the end can be said here.
            if self.flags.contains(Flags::LEFT) {
                return;
            }
            self.become_(Phase::Open);
            self.flags.remove(Flags::LEAVING);
        }
        ctx.actions.push(Action::FlushUpstream);
    }

    /// A frame was cut off on its way to the server: its stream can't be ended by a Close. What is
    /// unconfirmed goes to another connection, where it can.
    fn part_cut(&mut self, ctx: &mut Ctx<'_>) {
        if self.journal.messages() == 0 {
            self.journal.replay();
            self.journal.drop_unfinished(ctx.chunks);
            return self.part(ctx);
        }
        self.lose(Loss::Moved, None, ctx);
    }

    pub(super) fn on_move(&mut self, mover: Mover, ctx: &mut Ctx<'_>) {
        // Calls go elsewhere one by one.
        if self.flags.contains(Flags::BRIDGED) {
            return;
        }
        let on_its_way = matches!(self.phase, Phase::Admitting | Phase::Held);
        if on_its_way && mover == Mover::Drain && !planted!(DialGoesOn) {
            return self.turn_back(ctx);
        }
        if self.phase != Phase::Open || self.farewell().is_some() {
            return;
        }
        self.become_(Phase::Moving);
        let patience = match mover {
            Mover::Drain => ctx.settings.close,
            Mover::Failover => HASTE.min(ctx.settings.close),
        };
        let by = ctx.now.after(patience);
        self.rare().close_by = Some(by);
        self.want_by(by, ctx);
        ctx.actions.push(Action::FlushUpstream);
        self.leave_when_clean(ctx);
    }

    /// Moving: once all that was sent is confirmed and no message is under way downwards, the server
    /// is told.
    pub(super) fn leave_when_clean(&mut self, ctx: &mut Ctx<'_>) {
        if self.phase != Phase::Moving || self.flags.contains(Flags::LEAVING) {
            return;
        }
        let up_clean = self.journal.sent_at_message()
            && (self.journal.sent_number() == self.journal.confirmed() || planted!(MoveBeforePong));
        let down_clean = !self.flags.contains(Flags::STREAMING) && self.draft.is_empty();
        if up_clean && down_clean && (self.barrier.is_none() || planted!(MoveBeforePong)) {
            self.flags.insert(Flags::LEAVING);
            ctx.actions.push(Action::FlushUpstream);
        }
    }

    /// Moving took too long: cut, or given up after the Close.
    pub(super) fn move_late(&mut self, ctx: &mut Ctx<'_>) {
        self.lose(Loss::Moved, None, ctx);
    }

    /// A downward message may have ended: a move looks whether it can go on.
    pub fn nudge(&mut self, ctx: &mut Ctx<'_>) {
        self.leave_when_clean(ctx);
    }
}

/// Above this many queued bytes the upstream is not read: one read of the scratch buffer may come on
/// top.
const DOWN_MARK: usize = 64 << 10;

/// A server was lost, and no other is looked for.
const NO_HOLD: Action = Action::Tell(Life::GivenUp { held_ms: 0 });

/// With more than this unsent, control frames go before the backlog and not behind it.
const BACKLOG_MAX: usize = 64 << 10;

/// Downward messages are collected only while so much memory is left beside them.
const SQUEEZE: usize = 64 << 10;

/// No session has so many messages under way.
const CLAIM_MAX: u64 = 1 << 32;

/// Protocol errors of servers that a session survives in a minute (CONTRACT 3).
const FAULTS_MAX: u8 = 10;

/// After so long a connection counts as good: pauses begin small again (CONTRACT 3).
const HEALTHY_AFTER: u32 = 10_000;

/// The patience of an operator's `failover`.
const HASTE: u32 = 1_000;
