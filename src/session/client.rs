//! The client leg: what it sends goes to the journal, what is queued for it goes out.

use super::visit::named_client;
use super::vocab::{Action, Asking, End, Life, Loss};
use super::{Ctx, Flags, Kept, Leg, Phase, Session};
use crate::kit::{Chunks, Tick};
use crate::wire::frame::{ControlPayload, Opcode, control};
use crate::wire::head::{self, HeadError, HeadLimits, Request};
use crate::wire::scan::{Limits, Step};
use crate::wire::upgrade::{self, Asked, Forward};
use crate::wire::{close, compose};

impl Session {
    /// Whether the client's socket is to be read.
    pub fn wants_client(&self) -> bool {
        match (self.leg, self.phase) {
            (Leg::Gone | Leg::Closed, _) => false,
            (_, Phase::Serving | Phase::Parting) if self.flags.contains(Flags::HALF) => false,
            (Leg::Deaf, _) => true,
            // Frames may come behind the request; a client that leaves must be noticed.
            (_, Phase::Admitting) => self.stash.len() < EARLY_MAX,
            // The next request waits for the answer to this one.
            (_, Phase::Serving) if self.is_asked() => self.stash.len() < EARLY_MAX,
            (_, Phase::Serving) if self.is_exchanging() && !self.is_uploading() => {
                self.stash.len() < EARLY_MAX
            }
            _ => !self.flags.contains(Flags::PAUSED),
        }
    }

    /// Whether what the client says next may wait, unread, behind the calls of others.
    pub fn may_stand_back(&self) -> bool {
        self.flags.contains(Flags::BRIDGED)
            && self.phase == Phase::Open
            && self.leg == Leg::Talking
            && self.wants_client()
    }

    /// Whether what the client has sent, and nobody has read yet, is worth something without it.
    pub fn cares_for_rest(&self) -> bool {
        !matches!(self.phase, Phase::Serving | Phase::Parting)
    }

    /// Whether anything waits to be written to the client.
    pub fn has_output(&self) -> bool {
        !self.out.is_empty()
    }

    /// Bytes of it.
    pub fn held_output(&self) -> usize {
        self.out.len()
    }

    /// Whether it matters that all was written.
    pub fn awaits_drain(&self) -> bool {
        matches!(self.leg, Leg::Closed | Leg::Deaf)
            || self.flags.contains(Flags::PAUSED)
            || self.client_pulse.owes()
            || self
                .rare
                .as_ref()
                .is_some_and(|rare| rare.client_pong.is_some())
    }

    /// What waits to be written to the client.
    pub fn output<'a>(&self, chunks: &'a Chunks) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        chunks.slices(&self.out, crate::kit::Spot::FRONT)
    }

    /// The kernel took so many bytes of [`output`](Session::output).
    pub fn output_taken(&mut self, count: usize, now: Tick, chunks: &mut Chunks) {
        let read = self.wants_upstream();
        chunks.drop_front(&mut self.out, count);
        if !read && self.wants_upstream() {
            if self.flags.contains(Flags::BRIDGED) {
                self.bound_at = now;
            }
            self.upstream_pulse.resumed(now);
        }
        if count > 0 {
            self.client_pulse.progressed(now);
            if matches!(
                self.phase,
                Phase::Serving | Phase::Greeting | Phase::Parting
            ) {
                self.bound_at = now;
            }
        }
    }

    /// The kernel refused these bytes, which follow all that is queued.
    pub fn output_refused(&mut self, bytes: &[u8], chunks: &mut Chunks) {
        if planted!(DownOvertakes) {
            let mut queued = std::mem::take(&mut self.out);
            chunks.push(&mut self.out, bytes);
            return chunks.join(&mut self.out, &mut queued);
        }
        chunks.push(&mut self.out, bytes);
    }

    /// Takes back what was kept of the last read, to be put before what is read next.
    pub fn unstash(&mut self, into: &mut [u8], chunks: &mut Chunks) -> usize {
        let count = chunks.peek(&self.stash, crate::kit::Spot::FRONT, into);
        chunks.drop_front(&mut self.stash, count);
        count
    }

    /// Bytes that [`unstash`](Session::unstash) would give.
    pub fn stashed(&self) -> usize {
        self.stash.len()
    }

    pub(super) fn on_client_bytes(&mut self, bytes: &[u8], kept: usize, ctx: &mut Ctx<'_>) {
        self.client_pulse.heard(ctx.now);
        match (self.leg, self.phase) {
            (Leg::Gone | Leg::Closed | Leg::Deaf, _) | (_, Phase::Over) => {}
            (_, Phase::Greeting) => self.greet(bytes, kept, ctx),
            (_, Phase::Admitting) => ctx.chunks.push(&mut self.stash, bytes),
            (_, Phase::Serving) if self.is_exchanging() => self.on_upload_bytes(bytes, ctx),
            (_, Phase::Serving) => self.on_visit_bytes(bytes, ctx),
            _ => self.relay_up(bytes, ctx),
        }
    }

    pub(super) fn on_client_lost(&mut self, loss: Loss, ctx: &mut Ctx<'_>) {
        if loss == Loss::Fin && (self.on_half_closed() || self.has_last_words(ctx)) {
            return;
        }
        let leg = std::mem::replace(&mut self.leg, Leg::Gone);
        self.hang_up_client(ctx);
        self.drop_legs_bytes(ctx);
        self.flags.remove(Flags::STREAMING);
        self.flags.remove(Flags::DOWN_CUT);
        match self.phase {
            // The API may say ok to a client that is not there any more: that is heard out.
            // Who comes back meanwhile waits for that, and is no duplicate.
            Phase::Admitting
                if self.flags.contains(Flags::BRIDGED) && self.flags.contains(Flags::CALLING) =>
            {
                self.announce_leaving(ctx);
            }
            Phase::Greeting | Phase::Admitting | Phase::Serving => {
                self.tell_end(End::ClientLost, ctx);
                ctx.actions.push(Action::HangUpUpstream { say: None });
                self.forget_upstream(ctx);
                self.bury(ctx);
            }
            Phase::Parting => self.bury(ctx),
            Phase::Open | Phase::Moving | Phase::Held if leg == Leg::Talking => {
                let code = if self.flags.contains(Flags::BRIDGED) {
                    1006
                } else {
                    1001
                };
                self.take_leave(code, "", ctx);
            }
            // It has said its Close already: the server still gets the rest.
            Phase::Open | Phase::Moving | Phase::Held | Phase::Finishing => {}
            Phase::Over => {}
        }
    }

    /// The client has sent FIN, but waits for the rest of an answer as HTTP: it gets that before the
    /// connection ends.
    fn has_last_words(&mut self, ctx: &mut Ctx<'_>) -> bool {
        let waits = !self.out.is_empty()
            && !self.flags.contains(Flags::OPENED)
            && !self.flags.contains(Flags::HALF);
        match (self.phase, self.leg) {
            (Phase::Parting, Leg::Deaf) if waits => {}
            // What it had begun to ask behind that can't be answered, or not to the end.
            (Phase::Serving, Leg::Talking) if waits && self.is_answering() => {
                self.tell_end(End::ClientLost, ctx);
                self.break_off(ctx);
            }
            (Phase::Greeting | Phase::Serving, Leg::Talking) if waits => {
                self.tell_end(End::ClientLost, ctx);
                ctx.actions.push(Action::HangUpUpstream { say: None });
                self.forget_upstream(ctx);
                self.become_(Phase::Parting);
                self.turn_deaf(ctx);
            }
            _ => return false,
        }
        self.flags.insert(Flags::HALF);
        true
    }

    pub(super) fn on_client_drained(&mut self, ctx: &mut Ctx<'_>) {
        match self.leg {
            Leg::Closed => self.let_client_go(ctx),
            // Both sides have said their last.
            Leg::Deaf if self.flags.contains(Flags::HALF) && self.phase == Phase::Parting => {
                self.let_client_go(ctx)
            }
            Leg::Deaf => ctx.actions.push(Action::ShutClient),
            Leg::Talking | Leg::Closing => {
                // All is written, but it may end inside a frame: no place for a Pong.
                // Nor is there one behind our Close.
                let place = (self.leg == Leg::Talking || planted!(PongBehindClose))
                    && !self.flags.contains(Flags::DOWN_CUT);
                let rare = self.rare.as_mut().filter(|_| place);
                if let Some(pong) = rare.and_then(|rare| rare.client_pong.take()) {
                    self.queue_control(&pong, ctx);
                }
                if self.client_pulse.owes() {
                    self.ping_client(ctx);
                }
                self.resume_client(ctx);
            }
            Leg::Gone => {}
        }
    }

    /// Sends the client away before a session began.
    pub(super) fn deny(&mut self, status: u16, reason: &'static str, ctx: &mut Ctx<'_>) {
        let response = upgrade::refusal(&HeadError { status, reason });
        self.deny_with(status, &response, ctx);
    }

    pub(super) fn deny_with(&mut self, status: u16, response: &[u8], ctx: &mut Ctx<'_>) {
        if self.leg != Leg::Talking {
            return;
        }
        ctx.actions.push(Action::Tell(Life::Denied { status }));
        self.flags.insert(Flags::ENDED);
        self.free_id(ctx);
        ctx.chunks.clear(&mut self.draft);
        ctx.actions.push(Action::HangUpUpstream { say: None });
        self.forget_upstream(ctx);
        self.become_(Phase::Parting);
        ctx.chunks.push(&mut self.out, response);
        self.turn_deaf(ctx);
    }

    /// The HTTP answer for a session that ends before its 101.
    pub(super) fn answer_http(&mut self, end: End, ctx: &mut Ctx<'_>) {
        let response = match end {
            End::Shutdown => compose::simple_response(503, "shutting down\n", &[]),
            _ => compose::simple_response(503, "\n", &[]),
        };
        ctx.chunks.push(&mut self.out, &response);
        self.turn_deaf(ctx);
    }

    /// Sends our Close to the client, behind all that is queued. Inside a frame there is no place
    /// for one: then the connection ends by TCP, and the client sees 1006.
    pub(super) fn close_client(&mut self, end: End, close: Option<(u16, &str)>, ctx: &mut Ctx<'_>) {
        debug_assert_eq!(self.leg, Leg::Talking);
        self.settle_direct(ctx);
        if self.flags.contains(Flags::DOWN_CUT) {
            return self.turn_deaf(ctx);
        }
        let frame = match close {
            Some((code, reason)) => control(Opcode::Close, &close::payload(code, reason), None),
            None => control(Opcode::Close, &[], None),
        };
        ctx.chunks.push(&mut self.out, &frame);
        ctx.actions.push(Action::FlushClient);
        match end {
            // Its framing can't be trusted any more: no Close of its could be found.
            End::ClientFault(_) | End::Overflow | End::Memory => self.turn_deaf(ctx),
            _ => {
                self.leg = Leg::Closing;
                self.client_closes_by(ctx);
                self.resume_client(ctx);
            }
        }
    }

    pub(super) fn turn_deaf(&mut self, ctx: &mut Ctx<'_>) {
        self.leg = Leg::Deaf;
        ctx.chunks.clear(&mut self.stash);
        self.client_closes_by(ctx);
        ctx.actions.push(Action::FlushClient);
        ctx.actions.push(Action::ReadClient);
    }

    pub(super) fn client_closes_by(&mut self, ctx: &mut Ctx<'_>) {
        let by = ctx.now.after(ctx.settings.close);
        self.rare().close_by = Some(by);
        self.want_by(by, ctx);
    }

    /// Nothing more reaches the client. An answer that ends with its connection, and is not all there,
    /// must not end like one that is.
    fn hang_up_client(&mut self, ctx: &mut Ctx<'_>) {
        let left = !self.out.is_empty() || self.is_exchanging();
        let cut = self.flags.contains(Flags::ENDLESS) && left && !planted!(FinForCut);
        ctx.actions.push(Action::HangUpClient { cut });
    }

    /// The client's connection is over, in good order or not.
    pub(super) fn let_client_go(&mut self, ctx: &mut Ctx<'_>) {
        if self.leg == Leg::Gone {
            return;
        }
        self.leg = Leg::Gone;
        self.hang_up_client(ctx);
        self.drop_legs_bytes(ctx);
        self.flags.remove(Flags::STREAMING);
        self.flags.remove(Flags::DOWN_CUT);
        if self.phase == Phase::Parting {
            self.bury(ctx);
        }
    }

    fn greet(&mut self, bytes: &[u8], kept: usize, ctx: &mut Ctx<'_>) {
        let limits = HeadLimits::new(ctx.house.header_max);
        let kept = if self.flags.take(Flags::UNREAD) {
            0
        } else {
            kept
        };
        // The end of the head is not in what was kept: one byte a packet costs no second look.
        match head::end(bytes, kept, &limits) {
            Ok(None) => ctx.chunks.push(&mut self.stash, bytes),
            Ok(Some(end)) => match self.read_request(&bytes[..end], &limits, ctx) {
                Ok(asking) => {
                    ctx.chunks.push(&mut self.stash, &bytes[end..]);
                    ctx.actions.push(Action::Route(asking));
                }
                Err(error) => self.refuse_head(&error, ctx),
            },
            Err(error) => self.refuse_head(&error, ctx),
        }
    }

    pub(super) fn refuse_head(&mut self, error: &HeadError, ctx: &mut Ctx<'_>) {
        self.deny_with(error.status, &upgrade::refusal(error), ctx);
    }

    fn read_request(
        &mut self,
        head: &[u8],
        limits: &HeadLimits,
        ctx: &Ctx<'_>,
    ) -> Result<Box<Asking>, HeadError> {
        let request = Request::parse(head, limits)?;
        let asked = upgrade::read(&request)?;
        match &asked {
            Asked::Upgrade(asked) => {
                if !upgrade::origin_allowed(asked.origin, &ctx.house.origins) {
                    return Err(HeadError::new(403, "this origin is not allowed"));
                }
            }
            Asked::Plain if request.headers.has_token("upgrade", "websocket") => {
                return Err(HeadError::new(400, "a WebSocket upgrade must be a GET"));
            }
            Asked::Plain => {}
        }
        let host = request.headers.get_str("host").unwrap_or_default();
        let path = request.target.split('?').next().unwrap_or_default();
        if path.split('/').any(is_dot_segment) {
            return Err(HeadError {
                status: 400,
                reason: "a path with dot segments",
            });
        }
        let counted = ctx.house.per_address > 0 && ctx.house.trusts(self.peer().ip());
        let client = counted.then(|| named_client(&request.headers, ctx));
        let client = client.flatten();
        // Made final by `on_routed`: which lines stay is the pool's business.
        let mut kept = Kept::new(request.target, head);
        let upgrade = matches!(asked, Asked::Upgrade(_));
        if let Asked::Upgrade(asked) = asked {
            kept.ask(&asked.protocols, asked.key, asked.deflate);
        }
        self.kept = Some(kept);
        Ok(Box::new(Asking {
            path: path.to_string(),
            host: without_port(host).to_lowercase(),
            upgrade,
            client,
        }))
    }

    /// Keeps of the request head what the servers of this pool are to get.
    pub(super) fn keep_lines(&mut self, ctx: &Ctx<'_>) {
        let peer = self.peer.address().ip();
        let Some(kept) = &mut self.kept else { return };
        let limits = HeadLimits::new(ctx.house.header_max);
        let forward = Forward {
            peer,
            trusted: ctx.house.trusts(peer),
            https: self.flags.contains(Flags::SECURE),
            block: &ctx.settings.block_headers,
            reconnect_header: &ctx.settings.reconnect_header,
        };
        let lines = Request::parse(kept.lines(), &limits)
            .map(|request| upgrade::kept_lines(&request, &forward))
            .unwrap_or_default();
        let target = kept.target().to_string();
        kept.set(&target, &lines);
    }

    fn relay_up(&mut self, bytes: &[u8], ctx: &mut Ctx<'_>) {
        let limits = Limits {
            message_max: ctx.house.message_max,
            fragments_max: ctx.house.fragments_max,
            utf8: true,
        };
        let (mut had, unsent) = (self.journal.messages(), self.journal.unsent());
        let mut at = 0;
        while at < bytes.len() {
            if self.scanner.at_message_boundary() && self.is_full(ctx) {
                had = self.count_up(had, ctx);
                self.pause_client(&bytes[at..], ctx);
                break;
            }
            match self.scanner.step(&bytes[at..], &limits) {
                Ok(Step::Data {
                    len, ends_message, ..
                }) => {
                    let piece = &bytes[at..at + len];
                    at += len;
                    if self.flags.contains(Flags::VALVED) {
                        // A valve may end the session, which counts what is unconfirmed.
                        had = self.count_up(had, ctx);
                        if self.leg == Leg::Talking {
                            self.gather_up(piece, ends_message, ctx);
                        }
                        if matches!(self.leg, Leg::Deaf | Leg::Gone) {
                            return;
                        }
                    } else {
                        if self.leg == Leg::Talking {
                            self.journal.append(
                                piece,
                                self.scanner.frame_left(),
                                ends_message,
                                ctx.chunks,
                            );
                        }
                        if ends_message {
                            ctx.tally.sizes_up.record(self.scanner.message_len());
                        }
                    }
                    if ends_message {
                        self.forget_message_since();
                    }
                }
                Ok(Step::Control {
                    len,
                    opcode,
                    payload,
                }) => {
                    at += len;
                    // It may end the session, which counts what is unconfirmed.
                    had = self.count_up(had, ctx);
                    if !self.on_client_control(opcode, &payload, ctx) {
                        break;
                    }
                }
                Ok(Step::More) => {
                    ctx.chunks.push(&mut self.stash, &bytes[at..]);
                    break;
                }
                Err(error) => {
                    self.count_up(had, ctx);
                    return self.on_client_fault(error.code, ctx);
                }
            }
        }
        self.count_up(had, ctx);
        self.watch_message(ctx);
        if self.flags.contains(Flags::BRIDGED) {
            return self.call_next(ctx);
        }
        if self.journal.unsent() > unsent && self.can_send() {
            ctx.actions.push(Action::FlushUpstream);
        }
    }

    /// Counts the messages that have become complete and sees to it that they get confirmed; returns
    /// how many are held and counted.
    pub(super) fn count_up(&mut self, had: u32, ctx: &mut Ctx<'_>) -> u32 {
        let messages = self.journal.messages();
        let new = messages.saturating_sub(had);
        if new == 0 {
            return messages;
        }
        ctx.tally.messages_up += u64::from(new);
        ctx.tally.journaled += u64::from(new);
        if had == 0 {
            // Since the last barrier, if that is long ago: then this message takes one along, which
            // costs no write of its own, and mostly no read.
            let quiet = self.unconfirmed_since.after(ctx.settings.barrier_delay);
            if !quiet.is_due(ctx.now) {
                self.unconfirmed_since = ctx.now;
            }
            self.want_barrier(ctx);
        }
        messages
    }

    /// A message that is still arriving has until `limits.message_time`.
    fn watch_message(&mut self, ctx: &mut Ctx<'_>) {
        if self.scanner.at_message_boundary() {
            self.forget_message_since();
        } else if self
            .rare
            .as_ref()
            .is_none_or(|rare| rare.message_since.is_none())
        {
            self.rare().message_since = Some(ctx.now);
            self.want_by(ctx.now.after(ctx.house.message_time), ctx);
        }
    }

    /// A message has ended: what follows in the same read is another one, with a time of its own.
    fn forget_message_since(&mut self) {
        if planted!(BusyIsLate) {
            return;
        }
        if let Some(rare) = &mut self.rare {
            rare.message_since = None;
        }
    }

    /// Whether no new message may be begun.
    fn is_full(&self, ctx: &Ctx<'_>) -> bool {
        self.leg == Leg::Talking
            && self.journal.len() + self.out.len() + self.draft.len() + self.gathered_bytes()
                >= ctx.settings.buffer
    }

    fn pause_client(&mut self, rest: &[u8], ctx: &mut Ctx<'_>) {
        ctx.chunks.push(&mut self.stash, rest);
        if ctx.settings.overflow_close {
            return self.end(End::Overflow, ctx);
        }
        self.flags.insert(Flags::PAUSED);
        self.rare().paused_since = Some(ctx.now);
        self.rare().confirmed_at = Some(ctx.now);
        if self.flags.contains(Flags::PROCESSED) {
            self.want_by(ctx.now.after(ctx.settings.hold), ctx);
        }
    }

    /// Reads on, once there is room again.
    pub(super) fn resume_client(&mut self, ctx: &mut Ctx<'_>) {
        // An upload waits for its server alone, whatever its client has read meanwhile.
        let uploads = self.is_exchanging() && !planted!(UploadUnpaused);
        if self.flags.contains(Flags::PAUSED) && !uploads && !self.is_full(ctx) {
            self.flags.remove(Flags::PAUSED);
            self.rare().paused_since = None;
            self.client_pulse.resumed(ctx.now);
            if planted!(PausedForever) {
                return;
            }
            ctx.actions.push(Action::ReadClient);
        }
    }

    /// Says whether to go on reading behind it.
    fn on_client_control(
        &mut self,
        opcode: Opcode,
        payload: &ControlPayload,
        ctx: &mut Ctx<'_>,
    ) -> bool {
        match opcode {
            Opcode::Ping => {
                if !self.may_ping(ctx) {
                    self.on_client_fault(1008, ctx);
                    return false;
                }
                self.queue_pong(payload, ctx);
                true
            }
            Opcode::Pong => {
                self.client_pulse.answered(ctx.now);
                true
            }
            Opcode::Close => {
                self.on_client_close(payload, ctx);
                false
            }
            Opcode::Continuation | Opcode::Text | Opcode::Binary => true,
        }
    }

    /// A client has `limits.pings` a second, and a burst of twice as many (THREATS V31).
    fn may_ping(&mut self, ctx: &Ctx<'_>) -> bool {
        let (rate, now) = (ctx.house.pings, ctx.now);
        if rate == 0 {
            return true;
        }
        let rare = self.rare();
        let earned = rare
            .pings_at
            .map_or(u32::MAX, |at| now.since(at).saturating_mul(rate) / 1_000);
        if earned > 0 {
            rare.pings_left = rare.pings_left.saturating_add(earned).min(2 * rate);
            rare.pings_at = Some(now);
        }
        let allowed = rare.pings_left > 0;
        rare.pings_left = rare.pings_left.saturating_sub(1);
        allowed
    }

    /// Every Ping is answered while the client reads; of one that does not, only the latest.
    fn queue_pong(&mut self, payload: &ControlPayload, ctx: &mut Ctx<'_>) {
        if self.leg != Leg::Talking {
            return;
        }
        let pong = control(Opcode::Pong, payload, None);
        if (self.flags.contains(Flags::DOWN_CUT) && !planted!(PongInsideFrame))
            || self.out.len() > PONG_MARK
        {
            self.rare().client_pong = Some(Box::new(pong));
        } else {
            self.queue_control(&pong, ctx);
        }
    }

    fn queue_control(&mut self, frame: &[u8], ctx: &mut Ctx<'_>) {
        debug_assert!(
            !self.flags.contains(Flags::DOWN_CUT),
            "a control frame inside a frame"
        );
        self.settle_direct(ctx);
        ctx.chunks.push(&mut self.out, frame);
        ctx.actions.push(Action::FlushClient);
    }

    /// Puts in the keepalive Ping, if there is a place for it.
    pub(super) fn ping_client(&mut self, ctx: &mut Ctx<'_>) {
        if self.leg == Leg::Talking && !self.flags.contains(Flags::DOWN_CUT) && self.out.is_empty()
        {
            self.queue_control(&control(Opcode::Ping, b"", None), ctx);
            self.client_pulse.asked(ctx.now);
        }
    }

    fn on_client_close(&mut self, payload: &[u8], ctx: &mut Ctx<'_>) {
        let said = match close::parse(payload) {
            Ok(said) => said,
            Err(error) => return self.on_client_fault(error.code, ctx),
        };
        if self.leg == Leg::Closing {
            self.leg = Leg::Closed;
            ctx.actions.push(Action::FlushClient);
            return;
        }
        // Answered at once, with its code (RFC 6455 5.5.1).
        let (code, reason) = said.unwrap_or((1005, ""));
        ctx.chunks.clear(&mut self.draft);
        if self.flags.contains(Flags::DOWN_CUT) {
            self.leg = Leg::Deaf;
        } else {
            let echo = if code == 1005 {
                Vec::new()
            } else {
                close::payload(code, "").to_vec()
            };
            self.queue_control(&control(Opcode::Close, &echo, None), ctx);
            self.leg = Leg::Closed;
        }
        self.flags.remove(Flags::STREAMING);
        self.client_closes_by(ctx);
        ctx.actions.push(Action::FlushClient);
        self.take_leave(code, reason, ctx);
    }

    /// A client that breaks the protocol is closed with the RFC's code; the server hears 1001.
    pub(super) fn on_client_fault(&mut self, code: u16, ctx: &mut Ctx<'_>) {
        if matches!(self.leg, Leg::Closing) {
            return self.turn_deaf(ctx);
        }
        if self.leg != Leg::Talking {
            return;
        }
        ctx.chunks.clear(&mut self.draft);
        self.flags.remove(Flags::STREAMING);
        self.close_client(End::ClientFault(code), Some((code, "")), ctx);
        let said = if self.flags.contains(Flags::BRIDGED) {
            code
        } else {
            1001
        };
        self.take_leave_as(End::ClientFault(code), said, "", ctx);
    }

    /// A message took longer than `limits.message_time`.
    pub(super) fn on_client_late(&mut self, ctx: &mut Ctx<'_>) {
        self.on_client_fault(1008, ctx);
    }

    /// The client was silent past its deadline: there is nobody to say Close to.
    pub(super) fn on_client_silent(&mut self, ctx: &mut Ctx<'_>) {
        self.let_client_go(ctx);
        let code = if self.flags.contains(Flags::BRIDGED) {
            1006
        } else {
            1001
        };
        self.take_leave_as(End::ClientSilent, code, "", ctx);
    }

    fn take_leave(&mut self, code: u16, reason: &str, ctx: &mut Ctx<'_>) {
        let end = if self.leg == Leg::Gone {
            End::ClientLost
        } else {
            End::ClientClosed
        };
        self.take_leave_as(end, code, reason, ctx);
    }

    /// The client has said its last. The server gets the rest of the journal, then this Close.
    pub(super) fn take_leave_as(&mut self, end: End, code: u16, reason: &str, ctx: &mut Ctx<'_>) {
        if self.farewell().is_some() {
            return;
        }
        ctx.chunks.clear(&mut self.stash);
        self.drop_gathered(ctx);
        self.flags.remove(Flags::PAUSED);
        self.flags
            .set(Flags::CUT, !self.journal.drop_unfinished(ctx.chunks));
        let rare = self.rare();
        (rare.farewell, rare.end) = (Some((code, reason.into())), Some(end));
        rare.message_since = None;
        if self.flags.contains(Flags::BRIDGED) {
            self.announce_leaving(ctx);
            return self.call_next(ctx);
        }
        match self.phase {
            Phase::Open | Phase::Moving => self.say_farewell(ctx),
            // Nothing is owed to anybody.
            Phase::Held if self.journal.messages() == 0 => self.part(ctx),
            Phase::Held => {}
            Phase::Greeting | Phase::Serving | Phase::Admitting | Phase::Finishing => {}
            Phase::Parting | Phase::Over => {}
        }
    }

    /// The session is over for a client that has taken its leave.
    pub(super) fn part(&mut self, ctx: &mut Ctx<'_>) {
        let end = self
            .rare
            .as_ref()
            .and_then(|rare| rare.end)
            .unwrap_or(End::ClientClosed);
        self.tell_end(end, ctx);
        ctx.actions.push(Action::HangUpUpstream { say: None });
        self.forget_upstream(ctx);
        self.free_id(ctx);
        self.become_(Phase::Parting);
        if self.leg == Leg::Gone {
            self.bury(ctx);
        }
    }
}

/// `.` and `..`, encoded or not: a server would climb out of the route that let the client in (V18).
fn is_dot_segment(segment: &str) -> bool {
    let plain = segment.to_ascii_lowercase().replace("%2e", ".");
    plain == "." || plain == ".."
}

fn without_port(host: &str) -> &str {
    match host.rfind(':') {
        Some(colon) if !host[colon..].contains(']') => &host[..colon],
        _ => host,
    }
}

/// Bytes that are read behind a request before its 101: one network round's worth of early frames.
const EARLY_MAX: usize = 16 << 10;

/// Above this only the latest Pong is kept for a client that does not read.
const PONG_MARK: usize = 4 << 10;
