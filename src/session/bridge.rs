//! The bridge: a session whose messages become calls of an HTTP API (CONTRACT 5). One call at a time:
//! GET asks whether the client may come in, POST carries a message, DELETE tells that it has left.

use super::dialect::{Asks, Call, CallTo, Dialect, Reply};
use super::search::Failed;
use super::vocab::{Action, Confirm, End, Life, Loss, Push, PushVerb, Pushed, Settings, Verdict};
use super::{Ctx, Flags, Leg, Phase, Session};
use crate::kit::{Chunks, Tick};
use crate::wire::close;
use crate::wire::compose::HeadWriter;
use crate::wire::frame::{HEADER_MAX, Opcode, control, encode_header, peek_len};
use crate::wire::head::{HeadLimits, Request};
use crate::wire::upgrade::{self, Forward};

impl Session {
    /// Whether calls serve it, and no upstream of its own.
    pub fn is_bridged(&self) -> bool {
        self.flags.contains(Flags::BRIDGED)
    }

    /// The ClientId of a bridged session.
    pub fn client_id(&self) -> &str {
        let target = self.kept.as_ref().map_or("", |kept| kept.target());
        target.split('?').next().unwrap_or_default()
    }

    /// Whether it has something to call about and no call is under way.
    pub fn wants_call(&self) -> bool {
        self.flags.contains(Flags::BRIDGED)
            && !self.flags.contains(Flags::CALLING)
            && (self.flags.contains(Flags::WANTING) || self.attempt.is_some())
            && (self.flags.contains(Flags::RESERVED) || self.phase != Phase::Admitting)
    }

    /// The client asked to upgrade on a bridge: its id is reserved before the API hears of it.
    pub(super) fn begin_bridge(&mut self, ctx: &mut Ctx<'_>) {
        let peer = self.peer.address().ip();
        let Some(kept) = &mut self.kept else { return };
        let Some(target) = bridge_target(kept.target()) else {
            return self.deny(400, "the path must be one ClientId", ctx);
        };
        let limits = HeadLimits::new(ctx.house.header_max);
        let mut block = ctx.settings.block_headers.clone();
        // The API's own name stands there; and an encoded `ok` would be another word.
        block.extend(["Host", "Accept-Encoding"].map(String::from));
        let forward = Forward {
            peer,
            trusted: ctx.house.trusts(peer),
            https: self.flags.contains(Flags::SECURE),
            block: &block,
            reconnect_header: &ctx.settings.reconnect_header,
        };
        let lines = Request::parse(kept.lines(), &limits)
            .map(|request| upgrade::kept_lines(&request, &forward))
            .unwrap_or_default();
        let target = target.to_string();
        kept.set(&target, &lines);
        // Messages stand alone; what a bridge forwards is their content.
        kept.deflate = None;
        self.flags.insert(Flags::BRIDGED);
        self.begin_admitting(ctx);
        self.flags.insert(Flags::QUEUED);
        ctx.actions.push(Action::Reserve);
    }

    /// The ClientId is this session's.
    pub(super) fn on_reserved(&mut self, ctx: &mut Ctx<'_>) {
        self.flags.remove(Flags::QUEUED);
        self.flags.insert(Flags::RESERVED);
        if self.phase != Phase::Admitting {
            return self.free_id(ctx);
        }
        ctx.actions.push(Action::Dial);
    }

    /// Somebody else has this ClientId: upgraded, so that the client hears why, and closed.
    pub(super) fn on_taken(&mut self, ctx: &mut Ctx<'_>) {
        self.flags.remove(Flags::QUEUED);
        if self.phase == Phase::Admitting && self.leg == Leg::Talking {
            self.turn_away(1008, "already connected", ctx);
        }
    }

    /// The client of an id that it can't have is upgraded and closed.
    fn turn_away(&mut self, code: u16, reason: &str, ctx: &mut Ctx<'_>) {
        let Some(kept) = &mut self.kept else { return };
        let response = upgrade::switching(&kept.take_key(), None, None, &[]);
        ctx.actions.push(Action::Tell(Life::Denied { status: 409 }));
        self.flags.insert(Flags::ENDED);
        self.forget_upstream(ctx);
        self.become_(Phase::Parting);
        ctx.chunks.push(&mut self.out, &response);
        let payload = close::payload(code, reason);
        ctx.chunks
            .push(&mut self.out, &control(Opcode::Close, &payload, None));
        self.leg = Leg::Closing;
        self.client_closes_by(ctx);
        ctx.actions.push(Action::FlushClient);
        ctx.actions.push(Action::ReadClient);
    }

    /// A newer client has this id: `session.on_duplicate: replace`.
    pub(super) fn on_evicted(&mut self, ctx: &mut Ctx<'_>) {
        if self.flags.contains(Flags::QUEUED) && self.leg == Leg::Talking {
            // A newer one came while it waited for the id: that one waits in its place.
            self.free_id(ctx);
            let (code, reason) = End::Replaced.close();
            self.turn_away(code, reason, ctx);
        } else if self.flags.contains(Flags::BRIDGED) && self.farewell().is_none() {
            self.end(End::Replaced, ctx);
        }
    }

    /// Writes the call that is due: what is asked depends on where the session is in its life. False:
    /// there is none.
    pub fn compose_call<D: Dialect>(
        &mut self,
        dialect: &mut D,
        to: &CallTo<'_>,
        chunks: &Chunks,
        out: &mut Vec<u8>,
    ) -> bool {
        let written = match self.phase {
            Phase::Admitting => self.compose_admission(dialect, to, out),
            Phase::Open | Phase::Held => self.compose_message(dialect, to, chunks, out),
            Phase::Finishing => self.compose_farewell(dialect, to, out),
            Phase::Serving => self.compose_exchange(to, out),
            Phase::Greeting | Phase::Moving | Phase::Parting | Phase::Over => None,
        };
        written.is_some()
    }

    fn compose_admission<D: Dialect>(
        &self,
        dialect: &mut D,
        to: &CallTo<'_>,
        out: &mut Vec<u8>,
    ) -> Option<()> {
        let kept = self.kept.as_ref()?;
        let asks = Asks::Admission {
            target: kept.target(),
            protocol: kept.protocol(),
        };
        dialect.call(&self.call_about(to, asks), &mut |_| {}, out)
    }

    fn compose_message<D: Dialect>(
        &mut self,
        dialect: &mut D,
        to: &CallTo<'_>,
        chunks: &Chunks,
        out: &mut Vec<u8>,
    ) -> Option<()> {
        let again = u64::from(planted!(RenumberedCall) && self.phase == Phase::Held);
        let message = self.journal.first(chunks)?;
        let asks = Asks::Message {
            binary: message.opcode == Opcode::Binary,
            length: message.payload,
            number: self.journal.confirmed() + again,
        };
        let mut body = |out: &mut Vec<u8>| self.journal.read_first(chunks, out);
        dialect.call(&self.call_about(to, asks), &mut body, out)?;
        self.journal.replay();
        self.journal.advance(message.bytes, chunks);
        Some(())
    }

    fn compose_farewell<D: Dialect>(
        &self,
        dialect: &mut D,
        to: &CallTo<'_>,
        out: &mut Vec<u8>,
    ) -> Option<()> {
        let (code, reason) = self.farewell()?;
        let length = reason.len();
        let mut body = |out: &mut Vec<u8>| out.extend_from_slice(reason.as_bytes());
        let asks = Asks::Farewell {
            code: *code,
            length,
        };
        dialect.call(&self.call_about(to, asks), &mut body, out)
    }

    fn call_about<'a>(&'a self, to: &'a CallTo<'a>, asks: Asks<'a>) -> Call<'a> {
        Call {
            to,
            client_id: self.client_id(),
            session: self.id(),
            peer: self.peer.address().ip(),
            lines: self.kept.as_ref().map_or(&[], |kept| kept.lines()),
            asks,
        }
    }

    /// The first bytes of a call are on their way: dialled, or over a connection that stood.
    pub(super) fn on_call_begun(&mut self, ctx: &mut Ctx<'_>) {
        self.flags.remove(Flags::WANTING);
        self.flags.insert(Flags::CALLING);
        self.flags.remove(Flags::REACHED);
        self.bound_at = ctx.now;
        ctx.tally.requests_started += 1;
        if self.attempt.is_none() {
            self.want_by(ctx.now.after(ctx.settings.connect), ctx);
        }
    }

    /// The connection of a call stands.
    pub(super) fn on_call_connected(&mut self, ctx: &mut Ctx<'_>) {
        self.flags.insert(Flags::REACHED);
        if self.attempt.is_none() {
            self.bound_at = ctx.now;
            self.want_by(ctx.now.after(ctx.settings.response), ctx);
        }
    }

    /// When a call without an [`Attempt`](super::Attempt) is given up.
    pub(super) fn call_ends_at(&self, settings: &Settings) -> Option<Tick> {
        let span = if self.flags.contains(Flags::REACHED) {
            settings.response
        } else {
            settings.connect
        };
        // While we do not read, because the client takes nothing, the server is not to blame.
        // A plain request's client has that long for each part, too: it is not asked by Pings.
        let heard = self.phase == Phase::Serving || self.wants_upstream();
        let calling = self.flags.contains(Flags::BRIDGED)
            && self.flags.contains(Flags::CALLING)
            && self.attempt.is_none()
            && heard;
        calling.then(|| self.bound_at.after(span))
    }

    /// Begins the next call, if there is a reason for one and none is under way.
    pub(super) fn call_next(&mut self, ctx: &mut Ctx<'_>) {
        if self.flags.contains(Flags::CALLING)
            || self.flags.contains(Flags::WANTING)
            || self.phase != Phase::Open
        {
            return;
        }
        if self.journal.messages() == 0 {
            if self.farewell().is_none() {
                return;
            }
            self.become_(Phase::Finishing);
        }
        self.flags.insert(Flags::WANTING);
        ctx.actions.push(Action::Dial);
    }

    /// The API has answered.
    pub(super) fn on_reply(&mut self, reply: Reply, ctx: &mut Ctx<'_>) {
        ctx.actions.push(Action::Release { keep: reply.keep });
        if !self.flags.take(Flags::CALLING) {
            return;
        }
        ctx.tally
            .request_times
            .record(u64::from(ctx.now.since(self.bound_at)));
        if reply.status >= 500 {
            ctx.tally.requests_failed += 1;
            return self.on_call_refused(ctx);
        }
        ctx.actions.push(Action::Report(Verdict::Success));
        match self.phase {
            Phase::Admitting => self.on_admission(reply, ctx),
            Phase::Open | Phase::Held => self.on_message_answered(reply, ctx),
            Phase::Finishing => self.on_farewell_answered(&reply, ctx),
            Phase::Greeting | Phase::Serving | Phase::Moving | Phase::Parting | Phase::Over => {}
        }
    }

    fn count_request(&mut self, succeeded: bool, ctx: &mut Ctx<'_>) {
        if succeeded {
            ctx.tally.requests_succeeded += 1;
        } else {
            ctx.tally.requests_failed += 1;
        }
    }

    /// What the API says to a client that wants in.
    fn on_admission(&mut self, reply: Reply, ctx: &mut Ctx<'_>) {
        let ok = reply.status == 200 && reply.body == b"ok" && !reply.encoded;
        self.count_request(ok, ctx);
        if self.leg == Leg::Gone {
            // Nobody is there any more, but the API believes so.
            return if ok {
                self.take_back(ctx)
            } else {
                self.leave_unopened(ctx)
            };
        }
        match reply.status {
            _ if ok => {
                let offered = self.kept.as_ref().and_then(|kept| kept.protocol());
                let chosen = reply.protocol.filter(|chosen| {
                    offered.is_some_and(|all| all.split(", ").any(|one| one == chosen))
                });
                self.open_bridge(chosen, ctx);
            }
            200..=299 => self.deny(403, "the API did not say ok", ctx),
            400..=499 => self.deny(reply.status, "refused by the API", ctx),
            _ => self.on_attempt_failed(Failed::Answered, ctx),
        }
    }

    fn open_bridge(&mut self, protocol: Option<String>, ctx: &mut Ctx<'_>) {
        self.attempt = None;
        self.open(
            super::dialect::Accepted {
                protocol,
                ..Default::default()
            },
            ctx,
        );
        ctx.tally.bridged += 1;
        ctx.tally.bridged_total += 1;
        self.say_early(ctx);
        self.keep_little();
        self.call_next(ctx);
    }

    /// What was pushed since the API said ok.
    fn say_early(&mut self, ctx: &mut Ctx<'_>) {
        let mut early = Vec::with_capacity(self.draft.len());
        let slices = ctx.chunks.slices(&self.draft, crate::kit::Spot::FRONT);
        slices.for_each(|slice| early.extend_from_slice(slice));
        ctx.chunks.clear(&mut self.draft);
        let mut rest = &early[..];
        while let Some((header, length, _, opcode)) = peek_len(rest) {
            let Some(frame) = rest.get(header..header + length as usize) else {
                debug_assert!(false, "what is said before the 101 is whole");
                return;
            };
            rest = &rest[header + frame.len()..];
            if planted!(EarlyUnseen) {
                self.put_down(opcode == Opcode::Text, frame, ctx);
                continue;
            }
            let _room = self.say_down(opcode == Opcode::Binary, frame, ctx);
        }
    }

    /// Every later call carries the id and where the client is; of the rest nothing is needed.
    fn keep_little(&mut self) {
        let peer = self.peer.address().ip().to_canonical().to_string();
        let id = self.client_id().to_string();
        let Some(kept) = &mut self.kept else { return };
        let forwarded = kept
            .lines()
            .split_inclusive(|byte| *byte == b'\n')
            .find(|line| line.starts_with(b"X-Forwarded-For: "))
            .filter(|line| line.trim_ascii() != format!("X-Forwarded-For: {peer}").as_bytes())
            .map(<[u8]>::to_vec);
        kept.set(&id, &forwarded.unwrap_or_default());
        kept.set_protocol(None);
    }

    /// The client left while the API said ok: it is told once.
    fn take_back(&mut self, ctx: &mut Ctx<'_>) {
        self.attempt = None;
        self.keep_little();
        self.become_(Phase::Open);
        let rare = self.rare();
        (rare.farewell, rare.end) = (Some((1006, "".into())), Some(End::ClientLost));
        self.call_next(ctx);
    }

    /// The client left before anybody let it in.
    pub(super) fn leave_unopened(&mut self, ctx: &mut Ctx<'_>) {
        self.tell_end(End::ClientLost, ctx);
        ctx.actions.push(Action::HangUpUpstream { say: None });
        self.forget_upstream(ctx);
        self.bury(ctx);
    }

    fn on_message_answered(&mut self, reply: Reply, ctx: &mut Ctx<'_>) {
        let succeeded = (200..300).contains(&reply.status);
        let fits = !reply.too_long && !reply.encoded;
        let readable = fits && (reply.binary || std::str::from_utf8(&reply.body).is_ok());
        self.count_request(succeeded && readable, ctx);
        self.end_hold(ctx);
        let number = self.journal.confirmed() + 1;
        if ctx.settings.confirm == Confirm::Processed && !succeeded {
            // The application has not dealt with it and never will: it is lost, and said so.
            self.journal.confirm(number, ctx.chunks);
            ctx.tally.journaled -= 1;
            ctx.tally.unconfirmed[End::Refused.index()] += 1;
            self.rare().lost += 1;
            self.resume_client(ctx);
        } else {
            let count = self.journal.confirm(number, ctx.chunks);
            self.count_confirmed(count, ctx);
        }
        if succeeded && readable && !reply.body.is_empty() {
            self.say_down(reply.binary, &reply.body, ctx);
            if planted!(ReplyTwice) {
                self.say_down(reply.binary, &reply.body, ctx);
            }
        }
        self.call_next(ctx);
    }

    /// The message that was in trouble has been delivered.
    fn end_hold(&mut self, ctx: &mut Ctx<'_>) {
        if self.phase != Phase::Held {
            return;
        }
        if let Some(attempt) = self.attempt.take() {
            ctx.tally.held -= 1;
            ctx.tally.replayed += 1;
            ctx.actions.push(Action::Tell(Life::Resumed {
                held_ms: attempt.lasted(ctx.now),
                replayed: 1,
            }));
        }
        self.failures = 0;
        self.become_(Phase::Open);
    }

    /// One message to the client, unless it has left. False: there is no room for it.
    fn say_down(&mut self, binary: bool, body: &[u8], ctx: &mut Ctx<'_>) -> bool {
        if self.leg != Leg::Talking || self.farewell().is_some() {
            return true;
        }
        if !ctx.chunks.room(body.len() + HEADER_MAX) {
            return false;
        }
        if self.flags.contains(Flags::VALVED_DOWN) {
            self.show_down(!binary, body, ctx);
            return true;
        }
        if self.phase == Phase::Admitting {
            // It waits where a message that is being collected would, and is said behind the 101.
            let opcode = if binary { Opcode::Binary } else { Opcode::Text };
            let head = encode_header(true, false, opcode, body.len() as u64, None);
            ctx.chunks.push(&mut self.draft, &head);
            ctx.chunks.push(&mut self.draft, body);
            return true;
        }
        self.put_down(!binary, body, ctx);
        true
    }

    fn on_farewell_answered(&mut self, reply: &Reply, ctx: &mut Ctx<'_>) {
        let ok = (200..300).contains(&reply.status) && !reply.encoded && reply.body == b"ok";
        self.count_request(ok, ctx);
        if ok {
            return self.part(ctx);
        }
        self.retry_farewell(ctx);
    }

    fn retry_farewell(&mut self, ctx: &mut Ctx<'_>) {
        let server = self.server();
        let now = ctx.now;
        let hold = ctx.settings.hold;
        let attempt = self
            .attempt
            .get_or_insert_with(|| Box::new(super::Attempt::new(now)));
        attempt.deadline = None;
        attempt.tried.extend(server);
        let by = attempt.ends_at(hold, now);
        self.want_by(by, ctx);
        ctx.actions.push(Action::Dial);
    }

    /// 5xx: this server does not take it now.
    fn on_call_refused(&mut self, ctx: &mut Ctx<'_>) {
        match self.phase {
            Phase::Admitting if self.leg == Leg::Gone => {
                ctx.actions.push(Action::Report(Verdict::Failure));
                self.leave_unopened(ctx);
            }
            Phase::Open | Phase::Held if self.is_spent(ctx) => {
                ctx.actions.push(Action::Report(Verdict::Failure));
                self.count_spent(ctx);
            }
            Phase::Admitting | Phase::Held => self.on_attempt_failed(Failed::Answered, ctx),
            _ => {
                ctx.actions.push(Action::Report(Verdict::Failure));
                self.call_again(Loss::Protocol, ctx);
            }
        }
    }

    /// No answer: the connection could not be had, was lost, or said nothing in time.
    pub(super) fn on_call_lost(&mut self, loss: Loss, ctx: &mut Ctx<'_>) {
        if !self.flags.take(Flags::CALLING) {
            return;
        }
        if self.phase == Phase::Serving {
            return self.on_exchange_lost(loss, ctx);
        }
        ctx.tally.requests_failed += 1;
        match self.phase {
            Phase::Admitting if self.leg == Leg::Gone => self.leave_unopened(ctx),
            Phase::Held if !self.is_spent(ctx) => {
                self.on_attempt_failed(Failed::Lost(loss), ctx);
            }
            Phase::Admitting => self.on_attempt_failed(Failed::Lost(loss), ctx),
            _ => {
                ctx.actions.push(Action::HangUpUpstream { say: None });
                if loss != Loss::Exhausted {
                    ctx.actions.push(Action::Report(Verdict::Failure));
                }
                if self.phase != Phase::Finishing && self.is_spent(ctx) {
                    return self.count_spent(ctx);
                }
                self.call_again(loss, ctx);
            }
        }
    }

    /// At `written` a message goes out once. A connection that never stood has taken nothing of it.
    fn is_spent(&self, ctx: &Ctx<'_>) -> bool {
        ctx.settings.confirm == Confirm::Written && self.flags.contains(Flags::REACHED)
    }

    /// It was handed over; what became of it nobody asked to know.
    fn count_spent(&mut self, ctx: &mut Ctx<'_>) {
        self.end_hold(ctx);
        let count = self.journal.confirm_sent(ctx.chunks);
        self.count_confirmed(count, ctx);
        self.call_next(ctx);
    }

    /// The same call once more, to another server if there is one.
    fn call_again(&mut self, loss: Loss, ctx: &mut Ctx<'_>) {
        match self.phase {
            Phase::Finishing => self.retry_farewell(ctx),
            Phase::Open => {
                ctx.actions.push(Action::Tell(Life::Lost(loss)));
                *ctx.tally.failovers.entry(loss.name()).or_default() += 1;
                self.failovers = self.failovers.saturating_add(1);
                self.journal.replay();
                self.search(1, ctx);
                let server = self.server();
                if let Some(attempt) = &mut self.attempt {
                    attempt.tried.extend(server);
                    // It was lost, or answered badly: that is no refusal.
                    attempt.all_refused = false;
                }
                self.failures = self.failures.saturating_add(1);
            }
            _ => {}
        }
    }

    /// Nobody could be asked on a first try.
    pub(super) fn on_no_call(&mut self, ctx: &mut Ctx<'_>) {
        self.flags.remove(Flags::WANTING);
        match self.phase {
            Phase::Open => {
                self.search(0, ctx);
                self.failures = self.failures.saturating_add(1);
            }
            Phase::Finishing => self.retry_farewell(ctx),
            _ => {}
        }
    }

    /// The session ends, whoever wants it: the client is closed, then the API gets what is left of
    /// the journal and its DELETE. Only a hold that is over gives the messages up.
    pub(super) fn end_bridge(&mut self, end: End, close: Option<(u16, &str)>, ctx: &mut Ctx<'_>) {
        let (code, reason) = close.unwrap_or((1005, ""));
        if self.leg == Leg::Talking {
            self.close_client(end, close, ctx);
        }
        if end == End::Hold {
            let lost = self.journal.clear(ctx.chunks);
            ctx.tally.journaled -= u64::from(lost);
            ctx.tally.unconfirmed[end.index()] += u64::from(lost);
            self.rare().lost += lost;
        }
        self.take_leave_as(end, code, reason, ctx);
        if end == End::Hold && self.phase == Phase::Held {
            self.give_up(ctx);
            if self.flags.take(Flags::CALLING) {
                ctx.tally.requests_failed += 1;
                ctx.actions.push(Action::HangUpUpstream { say: None });
            }
            self.become_(Phase::Open);
        }
        self.call_next(ctx);
    }

    /// The API could not be told that the client has left.
    pub(super) fn give_up_farewell(&mut self, ctx: &mut Ctx<'_>) {
        if self.flags.take(Flags::CALLING) {
            ctx.tally.requests_failed += 1;
        }
        self.part(ctx);
    }

    /// The id is on its way out: who comes now waits for the last call.
    pub(super) fn announce_leaving(&mut self, ctx: &mut Ctx<'_>) {
        if planted!(FreedEarly) {
            self.free_id(ctx);
        }
        if self.flags.contains(Flags::RESERVED) {
            ctx.actions.push(Action::Leaving);
        }
    }

    /// The id may be somebody else's; who still waits for it waits no more.
    pub(super) fn free_id(&mut self, ctx: &mut Ctx<'_>) {
        let queued = self.flags.take(Flags::QUEUED);
        if self.flags.take(Flags::RESERVED) || queued {
            ctx.actions.push(Action::Free);
        }
    }

    /// Something for this client from the API.
    pub fn on_push(&mut self, push: &Push, ctx: &mut Ctx<'_>) -> Pushed {
        let here = self.flags.contains(Flags::BRIDGED)
            && self.leg == Leg::Talking
            && self.farewell().is_none();
        let phase = matches!(self.phase, Phase::Admitting | Phase::Open | Phase::Held);
        if !(here && phase) {
            return Pushed::Unknown;
        }
        match &push.verb {
            PushVerb::Message { binary } | PushVerb::Broadcast { binary } => {
                let waiting = self.out.len() + self.draft.len();
                let room = waiting + push.body.len() <= ctx.settings.buffer.max(push.body.len());
                if (waiting == 0 || room) && self.say_down(*binary, &push.body, ctx) {
                    Pushed::Done
                } else {
                    Pushed::Slow
                }
            }
            PushVerb::Close { code } => {
                if self.phase == Phase::Admitting {
                    return Pushed::Unknown;
                }
                let reason = String::from_utf8_lossy(&push.body);
                self.end_with(End::Dismissed, Some((*code, &reason)), ctx);
                Pushed::Done
            }
            PushVerb::Look => Pushed::Seen {
                session: self.id(),
                address: self.peer.address(),
                connected_ms: ctx.now.since(self.opened),
                silent_ms: ctx.now.since(self.client_pulse.last_heard()),
                messages_up: self.messages_up(),
                messages_down: self.messages_down(),
            },
        }
    }
}

/// The request of a health check.
pub fn probe_request(path: &str, authority: &str, out: &mut Vec<u8>) {
    let mut head = HeadWriter::new(out);
    // Both were checked when they were configured; a probe that can't be written fails.
    let _refused = head
        .request_line("GET", path)
        .and_then(|()| head.header("Host", authority))
        .and_then(|()| head.header("User-Agent", "wsteady health check"))
        .and_then(|()| head.header("Connection", "close"));
    head.end();
}

/// What stands behind the API's URL: one ClientId and the query, without the slash before it.
fn bridge_target(target: &str) -> Option<&str> {
    let rest = target.strip_prefix('/')?;
    let id = rest.split('?').next().unwrap_or_default();
    is_client_id(id).then_some(rest)
}

/// `<ClientId>`: 1 to 128 bytes of a grammar that means nothing to any URL parser; taken as it
/// stands, never decoded (THREATS V18).
pub(super) fn is_client_id(id: &str) -> bool {
    is_prefix(id) && !matches!(id, "" | "." | "..")
}

/// What a ClientId may begin with.
pub(super) fn is_prefix(text: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:@=+*".contains(&byte);
    text.len() <= 128 && text.bytes().all(legal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_id_is_one_harmless_segment() {
        for good in [
            "/a",
            "/A-z.0_~:@=+*",
            "/c1?x=1",
            "/...",
            &format!("/{}", "x".repeat(128)),
        ] {
            assert_eq!(bridge_target(good), Some(&good[1..]));
        }
        let long = format!("/{}", "x".repeat(129));
        let bad = [
            "/", "", "/.", "/..", "/a/", "/a/b", "//a", "/%2e", "/a%00", "/a;x", "/a,b", "/?x",
            "/ä", &long,
        ];
        for bad in bad {
            assert_eq!(bridge_target(bad), None, "{bad}");
        }
    }
}
