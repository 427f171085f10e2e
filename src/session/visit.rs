//! A plain request to a bridge: the API has something for a client (CONTRACT 5). The connection is
//! the API's, and serves one request after the other.

use std::net::IpAddr;

use super::bridge::{is_client_id, is_prefix};
use super::vocab::{Action, Push, PushVerb, Pushed};
use super::{Ctx, Flags, Phase, Session};
use crate::kit::{Spot, Tick};
use crate::wire::body::{Body, BodyStep};
use crate::wire::compose::simple_response;
use crate::wire::head::{HeadError, HeadLimits, Headers, Request};

/// The request that a connection is at.
pub(super) struct Visit {
    id: Box<str>,
    verb: PushVerb,
    is_hop: bool,
    body: Body,
    keep: bool,
    /// All of it was read, and handed on.
    asked: bool,
}

impl Session {
    /// A plain request came in on a bridge.
    pub(super) fn begin_visit(&mut self, ctx: &mut Ctx<'_>) {
        let Some(kept) = self.kept.take() else { return };
        let limits = HeadLimits::new(ctx.house.header_max);
        let visit = Request::parse(kept.lines(), &limits)
            .and_then(|request| self.read_visit(&request, ctx));
        let visit = match visit {
            Ok(visit) => visit,
            Err(error) if error == METHODS => {
                let allow = [("Allow", "GET, POST, DELETE")];
                let response = simple_response(error.status, error.reason, &allow);
                return self.deny_with(error.status, &response, ctx);
            }
            Err(error) => return self.refuse_head(&error, ctx),
        };
        self.become_(Phase::Serving);
        self.bound_at = ctx.now;
        self.want_by(ctx.now.after(ctx.house.message_time), ctx);
        self.rare().visit = Some(Box::new(visit));
        ctx.actions.push(Action::ReadClient);
        self.ask_if_whole(ctx);
    }

    fn read_visit(&mut self, request: &Request<'_>, ctx: &mut Ctx<'_>) -> Result<Visit, HeadError> {
        let headers = &request.headers;
        let wants_json = headers.members("accept").any(|kind| {
            let kind = kind.split(|byte| *byte == b';').next().unwrap_or_default();
            kind.trim_ascii().eq_ignore_ascii_case(b"application/json")
        });
        let (path, query) = match request.target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (request.target, None),
        };
        let id = path.strip_prefix(ctx.house.push_path.as_str());
        let prefix = query.and_then(|query| query.strip_prefix("prefix="));
        let prefix = prefix.filter(|_| id == Some("") && request.method == "POST");
        let verb = match request.method {
            "POST" if prefix.is_some() => PushVerb::Broadcast {
                binary: is_binary(headers),
            },
            "POST" => PushVerb::Message {
                binary: is_binary(headers),
            },
            "DELETE" => PushVerb::Close {
                code: close_code(headers)?,
            },
            "GET" if wants_json => PushVerb::Look,
            "GET" => return Err(HeadError::new(426, "clients come by WebSocket")),
            _ => return Err(METHODS),
        };
        match headers.get_str(HOP) {
            Some(mark) => self.check_hop(mark, headers, ctx)?,
            None => self.check_source(headers, ctx)?,
        }
        let id = match prefix {
            Some(prefix) if is_prefix(prefix) => prefix,
            Some(_) => return Err(HeadError::new(400, "no ClientId begins with that prefix")),
            None => id
                .filter(|id| is_client_id(id))
                .ok_or(HeadError::new(400, "the path must be one ClientId"))?,
        };
        let body = Body::of_request(request)?;
        if body
            .length()
            .is_some_and(|length| length > ctx.house.message_max)
        {
            return Err(HeadError::new(413, "longer than limits.message"));
        }
        self.expect_body(request, &body, ctx)?;
        let is_hop = headers.get(HOP).is_some();
        self.flags.set(Flags::NODE, is_hop);
        Ok(Visit {
            id: id.into(),
            verb,
            is_hop,
            body,
            keep: request.keeps_alive() && self.may_ask_again(),
            asked: false,
        })
    }

    /// `Expect: 100-continue` is answered at once where a body is to come (RFC 9110 section 10.1.1);
    /// nothing else may be expected.
    pub(super) fn expect_body(
        &mut self,
        request: &Request<'_>,
        body: &Body,
        ctx: &mut Ctx<'_>,
    ) -> Result<(), HeadError> {
        let Some(wish) = request.headers.get("expect") else {
            return Ok(());
        };
        if !wish.eq_ignore_ascii_case(b"100-continue") {
            return Err(HeadError::new(417, "only 100-continue is expected"));
        }
        // Who has sent some of it already does not wait.
        if !body.is_done() && request.minor_version == 1 && self.stash.is_empty() {
            ctx.chunks
                .push(&mut self.out, b"HTTP/1.1 100 Continue\r\n\r\n");
            ctx.actions.push(Action::FlushClient);
        }
        Ok(())
    }

    /// Pushes come from the API's machines alone (B-D3).
    fn check_source(&self, headers: &Headers<'_>, ctx: &Ctx<'_>) -> Result<(), HeadError> {
        let refused = HeadError::new(403, "this address may not push");
        let peer = self.peer.address().ip().to_canonical();
        let forwarded =
            headers.get("x-forwarded-for").is_some() || headers.get("forwarded").is_some();
        let source = match (ctx.house.trusts(peer), forwarded) {
            (true, true) => named_client(headers, ctx).ok_or(refused)?,
            // Somebody speaks for somebody else, and we don't know him.
            (false, true) => return Err(refused),
            (_, false) => peer,
        };
        let allowed = ctx.house.takes_pushes_from(source);
        let token = ctx.house.push_token.as_deref();
        let token = token.is_none_or(|token| shows(headers, token));
        if allowed && token {
            Ok(())
        } else {
            Err(refused)
        }
    }

    /// What another node passes on comes from a node: it shows the token, or stands in the list.
    fn check_hop(&self, mark: &str, headers: &Headers<'_>, ctx: &Ctx<'_>) -> Result<(), HeadError> {
        let refused = HeadError::new(403, "this address is no node of this cluster");
        let hop = ctx.house.hop.as_ref().ok_or(refused)?;
        let known = match &hop.token {
            Some(token) => shows(headers, token),
            None => {
                // Nodes speak for themselves.
                let forwarded =
                    headers.get("x-forwarded-for").is_some() || headers.get("forwarded").is_some();
                let peer = self.peer.address().ip().to_canonical();
                !forwarded && hop.peers.contains(&peer)
            }
        };
        if !known {
            return Err(refused);
        }
        if mark == hop.mark {
            return Err(HeadError::new(421, "this is the node that asks"));
        }
        Ok(())
    }

    /// Whether the request under way has been handed on: what follows it must wait.
    pub(super) fn is_asked(&self) -> bool {
        self.visit().is_some_and(|visit| visit.asked)
    }

    /// The request under way, if there is one, is the connection's last.
    pub(super) fn end_visit_here(&mut self) {
        let Some(rare) = &mut self.rare else { return };
        if let Some(visit) = &mut rare.visit {
            visit.keep = false;
        }
        if let Some(exchange) = &mut rare.exchange {
            exchange.end_here();
        }
    }

    fn visit(&self) -> Option<&Visit> {
        self.rare.as_ref().and_then(|rare| rare.visit.as_deref())
    }

    /// The body of the request.
    pub(super) fn on_visit_bytes(&mut self, bytes: &[u8], ctx: &mut Ctx<'_>) {
        let mut at = 0;
        loop {
            let Some(visit) = self.rare.as_mut().and_then(|rare| rare.visit.as_mut()) else {
                return;
            };
            if visit.asked || visit.body.is_done() {
                break;
            }
            match visit.body.step(&bytes[at..]) {
                Ok(BodyStep::Data(range)) => {
                    let (from, to) = (at + range.start, at + range.end);
                    ctx.chunks.push(&mut self.draft, &bytes[from..to]);
                    at = to;
                }
                Ok(BodyStep::Skip(count) | BodyStep::Done(count)) => at += count,
                Ok(BodyStep::More) => break,
                Err(error) => return self.refuse_head(&error, ctx),
            }
            if self.draft.len() as u64 > ctx.house.message_max {
                return self.deny(413, "longer than limits.message", ctx);
            }
        }
        ctx.chunks.push(&mut self.stash, &bytes[at..]);
        self.ask_if_whole(ctx);
    }

    fn ask_if_whole(&mut self, ctx: &mut Ctx<'_>) {
        let Some(visit) = self.rare.as_mut().and_then(|rare| rare.visit.as_mut()) else {
            return;
        };
        if visit.asked || !visit.body.is_done() {
            return;
        }
        visit.asked = true;
        let mut body = vec![0; self.draft.len()];
        ctx.chunks.peek(&self.draft, Spot::FRONT, &mut body);
        ctx.chunks.clear(&mut self.draft);
        let (id, verb, is_hop) = (visit.id.clone(), visit.verb, visit.is_hop);
        let text = !matches!(
            verb,
            PushVerb::Message { binary: true }
                | PushVerb::Broadcast { binary: true }
                | PushVerb::Look
        );
        if text && std::str::from_utf8(&body).is_err() {
            return self.answer_visit(
                400,
                "text/plain; charset=utf-8",
                "the text is not UTF-8\n",
                ctx,
            );
        }
        if matches!(verb, PushVerb::Close { .. }) && body.len() > REASON_MAX {
            return self.answer_visit(
                400,
                "text/plain; charset=utf-8",
                "a reason has at most 123 bytes\n",
                ctx,
            );
        }
        let push = Push {
            id,
            verb,
            is_hop,
            body,
        };
        ctx.actions.push(Action::Ask(Box::new(push)));
    }

    /// What became of the push.
    pub(super) fn on_pushed(&mut self, pushed: Pushed, ctx: &mut Ctx<'_>) {
        if self.phase != Phase::Serving || !self.is_asked() {
            return;
        }
        let (status, json, body) = pushed.spoken();
        let kind = match json {
            true => "application/json",
            false => "text/plain; charset=utf-8",
        };
        self.answer_visit(status, kind, &body, ctx);
    }

    fn answer_visit(&mut self, status: u16, kind: &str, body: &str, ctx: &mut Ctx<'_>) {
        let visit = self.rare.as_mut().and_then(|rare| rare.visit.take());
        let keep = visit.is_some_and(|visit| visit.keep);
        let connection = if keep { "keep-alive" } else { "close" };
        let mut headers = vec![("Connection", connection), ("Content-Type", kind)];
        let told = Flags::NODE | Flags::DRAINING;
        if self.flags.contains(told) && !planted!(DrainUnsaid) {
            headers.push((DRAIN, "1"));
        }
        if status == 503 {
            headers.push(("Retry-After", "1"));
        }
        let response = simple_response(status, body, &headers);
        ctx.chunks.push(&mut self.out, &response);
        ctx.actions.push(Action::FlushClient);
        if !keep {
            self.flags.insert(Flags::ENDED);
            self.become_(Phase::Parting);
            return self.turn_deaf(ctx);
        }
        self.await_request(ctx);
    }

    /// The body of a request did not come in time: a push has `limits.message_time` for all of it, an
    /// upload `limits.handshake` for each part that we wait for, less its arrears.
    pub(super) fn look_at_visit(&mut self, ctx: &mut Ctx<'_>) {
        let late = self
            .request_ends_at(ctx)
            .is_some_and(|by| by.is_due(ctx.now));
        if !late {
            return;
        }
        let error = HeadError::new(408, "the request did not arrive in time");
        if self.is_exchanging() && !planted!(LateInsideAnswer) {
            return self.fail_upload(&error, ctx);
        }
        self.refuse_head(&error, ctx);
    }

    pub(super) fn request_ends_at(&self, ctx: &Ctx<'_>) -> Option<Tick> {
        let awaited = if self.is_exchanging() {
            self.is_uploading() && !self.flags.contains(Flags::PAUSED) && self.out.is_empty()
        } else {
            !self.is_asked()
        };
        let span = if self.is_exchanging() {
            ctx.house.handshake.saturating_sub(self.arrears())
        } else {
            ctx.house.message_time
        };
        (self.phase == Phase::Serving && awaited).then(|| self.bound_at.after(span))
    }
}

/// The address that our own proxies saw: the last entry that is none of them, or the first of all.
/// `None`: it can't be read.
pub(super) fn named_client(headers: &Headers<'_>, ctx: &Ctx<'_>) -> Option<IpAddr> {
    let mut named = None;
    let entries: Vec<&[u8]> = headers.members("x-forwarded-for").collect();
    for entry in entries.iter().rev() {
        let address: IpAddr = std::str::from_utf8(entry).ok()?.parse().ok()?;
        named = Some(address.to_canonical());
        if !ctx.house.trusts(address.to_canonical()) {
            break;
        }
    }
    named
}

fn is_binary(headers: &Headers<'_>) -> bool {
    let kind = headers.get_str("content-type").unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    kind.eq_ignore_ascii_case("application/octet-stream")
}

/// `X-Wsteady-Close`: a code that may stand in a Close (RFC 6455 7.4); 1000 without it.
fn close_code(headers: &Headers<'_>) -> Result<u16, HeadError> {
    let Some(value) = headers.get_str("x-wsteady-close") else {
        return Ok(1000);
    };
    value
        .parse()
        .ok()
        .filter(|code| crate::wire::close::is_sendable(*code))
        .ok_or(HeadError::new(400, "X-Wsteady-Close is no close code"))
}

/// Whether a request has this bearer token.
fn shows(headers: &Headers<'_>, token: &str) -> bool {
    let given = headers.get("authorization").unwrap_or_default();
    let given = given.strip_prefix(b"Bearer ").unwrap_or_default();
    same_bytes(given, token.as_bytes())
}

/// In constant time, but for the length.
fn same_bytes(one: &[u8], other: &[u8]) -> bool {
    let differ = one.iter().zip(other).fold(0, |sum, (a, b)| sum | (a ^ b));
    one.len() == other.len() && differ == 0
}

/// Marks a push that another node passes on: it goes no further.
pub const HOP: &str = "x-wsteady-hop";

/// Marks the answer to another node of one that takes no new connections, and answers on those that
/// stand. Who refuses without it is dying.
pub const DRAIN: &str = "X-Wsteady-Drain";

const METHODS: HeadError = HeadError::new(405, "only GET, POST and DELETE");

/// A Close's payload has 125 bytes, two of them for the code (RFC 6455 5.5).
const REASON_MAX: usize = 123;
