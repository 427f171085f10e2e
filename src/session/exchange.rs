//! A plain HTTP request and its answer, passed through a pool of kind `http` (CONTRACT 6). Heads are
//! written anew from what was parsed; bodies stream, and each side waits for the other.

use std::io::Write;

use super::dialect::{CallTo, Head};
use super::search::Failed;
use super::vocab::{Action, Life, Loss, Nobody, Verdict};
use super::{Ctx, Flags, Kept, Number, Phase, Session};
use crate::kit::{Chain, Chunks, Spot, Tick};
use crate::wire::body::{Body, BodyStep};
use crate::wire::compose::{HeadWriter, simple_response};
use crate::wire::head::{HeadError, HeadLimits, Request};
use crate::wire::upgrade::{self, Forward};

/// The request that a connection is at.
pub(super) struct Exchange {
    method: Box<str>,
    upload: Upload,
    /// When it was read.
    since: Tick,
    /// The client speaks HTTP/1.1: it understands chunks.
    modern: bool,
    /// It means to send another request.
    keep: bool,
    /// A part of the body has left: it can't be sent again.
    spent: bool,
    /// Something of an answer was read: nobody else is asked any more.
    heard: bool,
    /// The answer is the server's failure: 5xx.
    failed: bool,
    /// `limits.min_rate` as it was then.
    min_rate: u32,
    /// ms that the client has kept us waiting beyond what its bytes are worth at that rate.
    arrears: u32,
    answer: Answer,
}

/// The request's body.
struct Upload {
    body: Body,
    chunked: bool,
    /// All of it was handed on.
    done: bool,
}

/// How far the answer has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// Nothing of it yet.
    Awaited,
    /// Its body passes, in chunks or as it is.
    Chunks {
        keep: bool,
    },
    Plain {
        keep: bool,
    },
}

impl Exchange {
    /// No other request follows it.
    pub(super) fn end_here(&mut self) {
        self.keep = false;
    }

    /// The client kept us waiting so long, and then sent so many bytes.
    fn account(&mut self, waited: u32, bytes: usize) {
        if self.min_rate > 0 {
            let worth = bytes as u64 * 1_000 / u64::from(self.min_rate);
            let owed = u64::from(self.arrears) + u64::from(waited);
            self.arrears = u32::try_from(owed.saturating_sub(worth)).unwrap_or(u32::MAX);
        }
    }
}

impl Session {
    /// A plain request came in for an HTTP pool.
    pub(super) fn begin_exchange(&mut self, ctx: &mut Ctx<'_>) {
        let Some(kept) = self.kept.take() else { return };
        let limits = HeadLimits::new(ctx.house.header_max);
        let begun = Request::parse(kept.lines(), &limits)
            .and_then(|request| self.read_exchange(&request, ctx));
        let (exchange, kept) = match begun {
            Ok(begun) => begun,
            Err(error) => return self.refuse_head(&error, ctx),
        };
        let whole = exchange.upload.done;
        self.kept = Some(kept);
        self.flags.insert(Flags::BRIDGED);
        self.become_(Phase::Serving);
        self.rare().exchange = Some(Box::new(exchange));
        self.bound_at = ctx.now;
        self.attempt = Some(Box::new(super::Attempt::new(ctx.now)));
        self.want_by(ctx.now.after(ctx.settings.admit), ctx);
        // The body waits for its server.
        self.flags.set(Flags::PAUSED, !whole);
        ctx.actions.push(Action::Dial);
    }

    fn read_exchange(
        &mut self,
        request: &Request<'_>,
        ctx: &mut Ctx<'_>,
    ) -> Result<(Exchange, Kept), HeadError> {
        let body = Body::of_request(request)?;
        self.expect_body(request, &body, ctx)?;
        let peer = self.peer.address().ip();
        let forward = Forward {
            peer,
            trusted: ctx.house.trusts(peer),
            https: self.flags.contains(Flags::SECURE),
            block: &ctx.settings.block_headers,
            reconnect_header: &ctx.settings.reconnect_header,
        };
        let kept = Kept::new(request.target, &upgrade::kept_lines(request, &forward));
        let exchange = Exchange {
            method: request.method.into(),
            upload: Upload {
                chunked: body.length().is_none(),
                done: body.is_done(),
                body,
            },
            since: ctx.now,
            modern: request.minor_version == 1,
            keep: request.keeps_alive() && self.may_ask_again(),
            spent: false,
            heard: false,
            failed: false,
            min_rate: ctx.house.min_rate,
            arrears: 0,
            answer: Answer::Awaited,
        };
        Ok((exchange, kept))
    }

    /// What was collected of the body.
    pub fn take_upload(&mut self) -> Chain {
        std::mem::take(&mut self.draft)
    }

    fn exchange(&self) -> Option<&Exchange> {
        self.rare.as_ref()?.exchange.as_deref()
    }

    fn exchange_mut(&mut self) -> Option<&mut Exchange> {
        self.rare.as_mut()?.exchange.as_deref_mut()
    }

    /// Whether a plain request is being passed through.
    pub(super) fn is_exchanging(&self) -> bool {
        self.exchange().is_some()
    }

    /// Whether its answer is on its way to the client.
    pub(super) fn is_answering(&self) -> bool {
        self.exchange()
            .is_some_and(|exchange| exchange.answer != Answer::Awaited)
    }

    /// Whether its answer will have no body.
    pub fn asks_head(&self) -> bool {
        self.exchange()
            .is_some_and(|exchange| &*exchange.method == "HEAD")
    }

    /// Whether the request's body is still wanted from the client.
    pub(super) fn is_uploading(&self) -> bool {
        self.exchange()
            .is_some_and(|exchange| !exchange.upload.done)
    }

    pub(super) fn compose_exchange(&mut self, to: &CallTo<'_>, out: &mut Vec<u8>) -> Option<()> {
        let exchange = self.exchange()?;
        let kept = self.kept.as_ref()?;
        let mut head = HeadWriter::new(out);
        let target = match kept.target() {
            // OPTIONS * is asked of the server itself.
            "*" => "*".to_string(),
            target => [to.prefix, target].concat(),
        };
        head.request_line(&exchange.method, &target).ok()?;
        if self.kept_header("host").is_none() {
            // HTTP/1.0 does without; HTTP/1.1, which we speak, doesn't (RFC 9112 3.2).
            head.header("Host", to.authority).ok()?;
        }
        out.extend_from_slice(kept.lines());
        let upload = &exchange.upload;
        let empties = matches!(&*exchange.method, "POST" | "PUT" | "PATCH");
        match upload.body.length() {
            _ if upload.chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
            Some(length) if length > 0 || empties => {
                let _ = write!(out, "Content-Length: {length}\r\n");
            }
            _ => {}
        }
        out.extend_from_slice(b"\r\n");
        Some(())
    }

    /// What has come of the body goes with the head, over a connection that stands: one write less
    /// here, and one read less at the server. A request that could be sent again keeps it: what has
    /// left can't be taken back. Chunks are framed anew where they are read.
    pub fn compose_upload(&mut self, chunks: &mut Chunks, out: &mut Vec<u8>) {
        if !self.flags.contains(Flags::REACHED) || self.phase != Phase::Serving {
            return;
        }
        let rare = self.rare.as_mut();
        let Some(exchange) = rare.and_then(|rare| rare.exchange.as_deref_mut()) else {
            return;
        };
        let upload = &mut exchange.upload;
        if upload.done || upload.chunked || is_harmless(&exchange.method) {
            return;
        }
        let mut used = 0;
        for bytes in chunks.slices(&self.stash, Spot::FRONT) {
            let Ok(BodyStep::Data(range)) = upload.body.step(bytes) else {
                break;
            };
            debug_assert_eq!(range.start, 0, "a body of known length has no framing");
            out.extend_from_slice(&bytes[range.clone()]);
            used += range.end;
        }
        chunks.drop_front(&mut self.stash, used);
        exchange.spent |= used > 0;
        upload.done = upload.body.is_done();
    }

    /// The server's connection takes what was handed on; once that is all gone, more is wanted.
    pub(super) fn on_uploaded(&mut self, all: bool, ctx: &mut Ctx<'_>) {
        if self.phase != Phase::Serving || !self.flags.contains(Flags::CALLING) {
            return;
        }
        // As long as it takes what it is sent, a server is not silent.
        let by = ctx.now.after(ctx.settings.response);
        if let Some(attempt) = &mut self.attempt {
            attempt.deadline = Some(by);
        }
        self.bound_at = ctx.now;
        if all && self.flags.contains(Flags::PAUSED) {
            self.flags.remove(Flags::PAUSED);
            ctx.actions.push(Action::ReadClient);
            if let Some(by) = self.request_ends_at(ctx) {
                self.want_by(by, ctx);
            }
        }
    }

    /// The client of a plain request, waited for since `bound_at`, sent so many bytes.
    fn account(&mut self, bytes: usize, now: Tick) {
        let waited = now.since(self.bound_at);
        if let Some(exchange) = self.exchange_mut() {
            exchange.account(waited, bytes);
        }
    }

    /// ms by which it is behind what `limits.min_rate` asks.
    pub(super) fn arrears(&self) -> u32 {
        self.exchange().map_or(0, |exchange| exchange.arrears)
    }

    /// Bytes of the request's body.
    pub(super) fn on_upload_bytes(&mut self, bytes: &[u8], ctx: &mut Ctx<'_>) {
        let mut at = 0;
        let calling = self.flags.contains(Flags::CALLING);
        while let Some(exchange) = self
            .rare
            .as_mut()
            .and_then(|rare| rare.exchange.as_deref_mut())
            && !exchange.upload.done
            && calling
        {
            let upload = &mut exchange.upload;
            match upload.body.step(&bytes[at..]) {
                Ok(BodyStep::Data(range)) => {
                    exchange.spent = true;
                    let piece = &bytes[at + range.start..at + range.end];
                    at += range.end;
                    if upload.chunked {
                        let size = format!("{:x}\r\n", piece.len());
                        ctx.chunks.push(&mut self.draft, size.as_bytes());
                    }
                    ctx.chunks.push(&mut self.draft, piece);
                    if upload.chunked {
                        ctx.chunks.push(&mut self.draft, b"\r\n");
                    }
                }
                Ok(BodyStep::Skip(count) | BodyStep::Done(count)) => at += count,
                Ok(BodyStep::More) => break,
                Err(error) => return self.fail_upload(&error, ctx),
            }
            if upload.body.is_done() {
                upload.done = true;
                if upload.chunked {
                    exchange.spent = true;
                    ctx.chunks.push(&mut self.draft, b"0\r\n\r\n");
                }
            }
        }
        ctx.chunks.push(&mut self.stash, &bytes[at..]);
        self.account(bytes.len(), ctx.now);
        self.bound_at = ctx.now;
        if !self.draft.is_empty() {
            self.flags.insert(Flags::PAUSED);
            ctx.actions.push(Action::Upload);
        }
    }

    /// The rest of the body will not come, or can't be understood.
    pub(super) fn fail_upload(&mut self, error: &HeadError, ctx: &mut Ctx<'_>) {
        if self.is_answering() {
            return self.break_off(ctx);
        }
        self.refuse_head(error, ctx);
    }

    /// Bytes have come that are, or will be, an answer.
    pub fn answer_begun(&mut self) {
        if let Some(exchange) = self.exchange_mut() {
            exchange.heard = true;
        }
    }

    /// The head of the answer.
    pub(super) fn on_head(&mut self, head: Head, ctx: &mut Ctx<'_>) {
        self.attempt = None;
        self.bound_at = ctx.now;
        self.want_by(ctx.now.after(ctx.settings.response), ctx);
        let failed = head.status >= 500;
        let verdict = if failed {
            Verdict::Failure
        } else {
            Verdict::Success
        };
        ctx.actions.push(Action::Report(verdict));
        let Some(exchange) = self.exchange_mut() else {
            return;
        };
        // Counted at its end: it may still be cut.
        exchange.failed = failed;
        let chunks = head.length.is_none() && exchange.modern;
        // A body of unknown length ends with its connection for a client that knows no chunks.
        let endless = head.length.is_none() && !exchange.modern;
        exchange.keep &= !endless;
        // An early answer: the rest of the request may never be read, and the client is told so.
        exchange.keep &= exchange.upload.done;
        exchange.answer = if chunks {
            Answer::Chunks { keep: head.keep }
        } else {
            Answer::Plain { keep: head.keep }
        };
        let mut response = Vec::with_capacity(head.lines.len() + 128);
        let _ = HeadWriter::new(&mut response).status_line(head.status);
        response.extend_from_slice(&head.lines);
        if chunks {
            response.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
        } else if let Some(length) = head.length.filter(|_| !head.bodiless) {
            let _ = write!(response, "Content-Length: {length}\r\n");
        }
        let connection: &[u8] = match (exchange.keep, exchange.modern) {
            (false, _) => b"Connection: close\r\n",
            (true, false) => b"Connection: keep-alive\r\n",
            (true, true) => b"",
        };
        response.extend_from_slice(connection);
        response.extend_from_slice(b"\r\n");
        self.flags.set(Flags::ENDLESS, endless);
        ctx.chunks.push(&mut self.out, &response);
        ctx.actions.push(Action::FlushClient);
        if head.ends {
            self.end_exchange(ctx);
        }
    }

    /// Bytes of the answer's body: as they are, or as a chunk.
    pub(super) fn on_flow(&mut self, bytes: &[u8], at: usize, ends: bool, ctx: &mut Ctx<'_>) {
        self.bound_at = ctx.now;
        let Some(answer) = self.exchange().map(|exchange| exchange.answer) else {
            return;
        };
        match answer {
            Answer::Chunks { .. } => {
                let size = format!("{:x}\r\n", bytes.len());
                self.settle_direct(ctx);
                ctx.chunks.push(&mut self.out, size.as_bytes());
                ctx.chunks.push(&mut self.out, bytes);
                ctx.chunks.push(&mut self.out, b"\r\n");
            }
            Answer::Plain { .. } | Answer::Awaited => match ctx.direct.last_mut() {
                Some(last) if last.end == at => last.end += bytes.len(),
                _ => ctx.direct.push(at..at + bytes.len()),
            },
        }
        ctx.actions.push(Action::FlushClient);
        if ends {
            self.end_exchange(ctx);
        }
    }

    /// The answer has ended: the next request, or the end of the connection.
    pub(super) fn end_exchange(&mut self, ctx: &mut Ctx<'_>) {
        let Some(exchange) = self.rare.as_mut().and_then(|rare| rare.exchange.take()) else {
            return;
        };
        if exchange.failed {
            ctx.tally.requests_failed += 1;
        } else {
            ctx.tally.requests_succeeded += 1;
        }
        let keep = match exchange.answer {
            Answer::Chunks { keep } | Answer::Plain { keep } => keep,
            Answer::Awaited => false,
        };
        self.settle_direct(ctx);
        if matches!(exchange.answer, Answer::Chunks { .. }) {
            ctx.chunks.push(&mut self.out, b"0\r\n\r\n");
        }
        ctx.actions.push(Action::FlushClient);
        ctx.tally
            .request_times
            .record(u64::from(ctx.now.since(exchange.since)));
        // A request that was not taken whole leaves a connection that nobody can use again.
        let keep = keep && (exchange.upload.done || planted!(HalfAskedReused));
        ctx.actions.push(Action::Release { keep });
        self.flags.remove(Flags::CALLING);
        if exchange.keep && exchange.upload.done {
            self.await_request(ctx);
        } else {
            self.flags.insert(Flags::ENDED);
            self.forget_upstream(ctx);
            self.become_(Phase::Parting);
            self.turn_deaf(ctx);
        }
    }

    /// The client has said its last: what it has asked for is still answered. False: it has not been
    /// asked whole, and never will be.
    pub(super) fn on_half_closed(&mut self) -> bool {
        let whole = self.is_asked() || (self.is_exchanging() && !self.is_uploading());
        if self.phase != Phase::Serving || !whole || self.flags.contains(Flags::HALF) {
            return false;
        }
        self.flags.insert(Flags::HALF);
        self.end_visit_here();
        true
    }

    /// The connection waits for the client's next request, which may lead somewhere else.
    pub(super) fn await_request(&mut self, ctx: &mut Ctx<'_>) {
        self.flags.remove(Flags::BRIDGED);
        self.flags.remove(Flags::PAUSED);
        self.attempt = None;
        self.kept = None;
        self.pool = Number::NONE;
        self.become_(Phase::Greeting);
        self.flags.insert(Flags::UNREAD);
        self.bound_at = ctx.now;
        self.want_by(self.greeting_ends_at(ctx), ctx);
        ctx.actions.push(Action::ReadClient);
    }

    /// The server's connection was lost. If nothing of an answer was seen, another server may be asked:
    /// where this one can't have done anything, or doing it twice means no harm (RFC 9110 9.2.2).
    pub(super) fn on_exchange_lost(&mut self, loss: Loss, ctx: &mut Ctx<'_>) {
        let reached = self.flags.contains(Flags::REACHED);
        // A server that is not read on, because its client takes nothing, is not to blame.
        let blameless = loss == Loss::TimedOut && !self.wants_upstream();
        let Some(exchange) = self.exchange_mut() else {
            return;
        };
        if exchange.answer != Answer::Awaited {
            ctx.tally.requests_failed += 1;
            if !blameless {
                ctx.actions.push(Action::Report(Verdict::Failure));
            }
            return self.break_off(ctx);
        }
        let harmless = is_harmless(&exchange.method) || planted!(PostAskedAgain);
        let silent = !exchange.heard && !matches!(loss, Loss::TimedOut | Loss::Protocol);
        let again = !exchange.spent && (!reached || (harmless && silent));
        ctx.tally.requests_failed += 1;
        if again {
            // The body waits for the next connection as it did for this one.
            self.flags.set(Flags::PAUSED, self.is_uploading());
            return self.on_attempt_failed(Failed::Lost(loss), ctx);
        }
        if loss != Loss::Exhausted && !blameless {
            ctx.actions.push(Action::Report(Verdict::Failure));
        }
        ctx.actions.push(Action::Tell(Life::Failed(loss)));
        match loss {
            Loss::TimedOut => self.deny(504, "the server did not answer in time", ctx),
            _ => self.deny(502, "the server did not answer", ctx),
        }
    }

    /// Nobody is left to be asked.
    pub(super) fn on_no_exchange(&mut self, nobody: Nobody, ctx: &mut Ctx<'_>) {
        let wait = [("Retry-After", "1")];
        match nobody {
            Nobody::Busy => {
                let status = ctx.settings.full_status;
                let response = simple_response(status, "all connections are busy\n", &wait);
                self.deny_with(status, &response, ctx);
            }
            Nobody::Empty => self.deny(503, "no server in this pool", ctx),
            Nobody::AllTried => {
                let late = self
                    .attempt
                    .as_ref()
                    .is_some_and(|attempt| attempt.timed_out);
                let status = if late { 504 } else { 502 };
                self.deny(status, "no server could be reached", ctx);
            }
            Nobody::NoneUsable => {
                // The last hope: tripped servers are asked once a moment has passed.
                let retry_at = ctx.now.after(LAST_HOPE);
                if let Some(attempt) = &mut self.attempt {
                    attempt.retry_at = Some(retry_at);
                    self.want_by(retry_at, ctx);
                }
            }
        }
    }

    /// An answer that is under way can't be ended well: the client must see that it is cut.
    pub(super) fn break_off(&mut self, ctx: &mut Ctx<'_>) {
        self.flags.insert(Flags::ENDED);
        ctx.actions.push(Action::HangUpUpstream { say: None });
        self.forget_upstream(ctx);
        self.become_(Phase::Parting);
        if self.flags.contains(Flags::ENDLESS) {
            // Its end is the connection's: only an RST is none.
            ctx.direct.clear();
            return self.let_client_go(ctx);
        }
        // What came of it goes out; then the connection ends without the answer's end.
        self.settle_direct(ctx);
        if planted!(CutSeemsWhole) {
            ctx.chunks.push(&mut self.out, b"0\r\n\r\n");
        }
        self.turn_deaf(ctx);
    }
}

/// Whether doing it twice means no harm (RFC 9110 9.2.2).
fn is_harmless(method: &str) -> bool {
    matches!(method, "GET" | "HEAD" | "OPTIONS" | "PUT" | "DELETE")
}

/// Until tripped servers are asked, in ms.
const LAST_HOPE: u32 = 20;
