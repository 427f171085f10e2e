//! One session, moved by hand: no socket, no clock, no thread. What a client and its servers say is
//! made and read with `wsteady::wire`; what happens goes into the session as an `Event`, and what it
//! wants done comes out as `Action`s.
//! `cargo run --example session`

use std::error::Error;
use std::sync::Arc;

use wsteady::kit::{Budget, Chunks, Prng, Tick};
use wsteady::session::dialect::ws::Ws;
use wsteady::session::{
    Dial, Dialect, Event, House, Loss, Means, Parcel, Place, Session, Settings, Tally,
};
use wsteady::wire::frame::{self, Opcode, Sender};
use wsteady::wire::head::{HeadLimits, Request};
use wsteady::wire::{mask, upgrade};

fn main() -> Result<(), Box<dyn Error>> {
    let mut stage = Stage::new();

    say("A client asks for a WebSocket.");
    stage.client_sends(REQUEST);
    // What a route is, nobody here knows: that is the fleet's. There is one pool.
    stage.session.join(0);
    stage.tell(Event::Routed);

    say("Server 0 is dialled, and takes it.");
    stage.dial(0)?;

    say("The client sends two messages. They go to the server, and into the journal.");
    stage.client_sends(&text("one"));
    stage.client_sends(&text("two"));
    stage.flush();
    stage.tell_count();

    say("50 ms later a barrier follows: a Ping with their number. Its Pong confirms them.");
    stage.pass(50);
    stage.tell(Event::Due);
    stage.flush();
    stage.server_sends(&frame::control(Opcode::Pong, &2_u64.to_be_bytes(), None));
    stage.tell_count();

    say(
        "A third message leaves for the server, which is killed. Nobody knows whether it was read.",
    );
    stage.client_sends(&text("three"));
    stage.flush();
    stage.upstream = None;
    stage.tell(Event::UpstreamLost(Loss::Reset));

    say("The client notices nothing, and goes on.");
    stage.client_sends(&text("four"));
    stage.tell_count();

    say("Server 1 takes the session, and gets what was not confirmed before anything newer.");
    stage.dial(1)?;
    stage.flush();
    stage.pass(50);
    stage.tell(Event::Due);
    stage.flush();
    stage.server_sends(&frame::control(Opcode::Pong, &4_u64.to_be_bytes(), None));
    stage.server_sends(&[&[0x81, 9][..], b"got three"].concat());
    stage.tell_count();
    Ok(())
}

/// What a shard would be to its sessions.
struct Stage {
    session: Session,
    /// The connection to the server, and what it speaks there.
    upstream: Option<Ws>,
    now: Tick,
    means: Means,
    settings: Settings,
    tally: Tally,
}

impl Stage {
    fn new() -> Stage {
        let client = ([192, 0, 2, 1], 4_000).into();
        Stage {
            session: Session::new(7, client, Tick(0)),
            upstream: None,
            now: Tick(0),
            means: Means::new(
                // 1 MiB for all that is ever kept.
                Chunks::new(Arc::new(Budget::new(512)), 512),
                // Always the same, so that each run is. A program takes a seed from the kernel.
                Prng::from_u64(1),
                House::default(),
            ),
            settings: Settings::default(),
            tally: Tally::default(),
        }
    }

    /// Tells the session what happened, and prints what it wants done.
    fn tell(&mut self, event: Event<'_>) {
        self.tell_of(event, &[]);
    }

    /// The same for an event that speaks of a part of `input`.
    fn tell_of(&mut self, event: Event<'_>, input: &[u8]) {
        let (settings, tally) = (&self.settings, &mut self.tally);
        let mut ctx = self.means.lend(self.now, settings, tally, input);
        self.session.on(event, &mut ctx);
        for action in self.means.actions.drain(..) {
            println!("  wants   {action:?}");
        }
        let queued: Vec<u8> = self
            .session
            .output(&self.means.chunks)
            .flatten()
            .copied()
            .collect();
        self.session
            .output_taken(queued.len(), self.now, &mut self.means.chunks);
        show("client", Sender::Server, &queued);
        // What the client gets as it stands in the input, without being copied.
        for range in self.means.direct.drain(..) {
            show("client", Sender::Server, &input[range]);
        }
    }

    fn client_sends(&mut self, bytes: &[u8]) {
        show("session", Sender::Client, bytes);
        self.tell(Event::ClientBytes { bytes, kept: 0 });
    }

    fn dial(&mut self, server: u16) -> Result<(), Box<dyn Error>> {
        self.tell(Event::Dialling { server });
        let next = self.session.confirmed().to_string();
        let first = !self.session.was_opened();
        let mut extra = vec![("X-Wsteady-Next", next.as_str())];
        if !first {
            extra.push((&self.settings.reconnect_header, "1"));
        }
        let dial = Dial {
            prefix: "",
            fixed: false,
            kept: self.session.kept().ok_or("a request was read")?,
            extra: &extra,
            plain: false,
            first,
            pass: &[],
            head_max: self.means.house.header_max,
        };
        let mut request = Vec::new();
        self.upstream = Some(Ws::open(dial, &mut self.means.rng, &mut request));
        self.tell(Event::Connected);
        show("server", Sender::Client, &request);

        // What any WebSocket server answers.
        let request = Request::parse(&request, &HeadLimits::new(self.means.house.header_max))
            .map_err(|error| error.reason)?;
        let key = request
            .headers
            .get_str("sec-websocket-key")
            .ok_or("a key was sent")?;
        self.server_sends(&upgrade::switching(key, None, None, &[]));
        Ok(())
    }

    /// The dialect makes sense of a server's bytes, and the session of that.
    fn server_sends(&mut self, bytes: &[u8]) {
        show("session", Sender::Server, bytes);
        let mut at = 0;
        while let Some(upstream) = self.upstream.as_mut().filter(|_| at < bytes.len()) {
            let (used, heard) = upstream.hear(&bytes[at..]);
            let bytes_heard = &bytes[at..at + used];
            self.tell_of(
                Event::Heard {
                    heard,
                    bytes: bytes_heard,
                    at,
                },
                bytes,
            );
            at += used;
        }
    }

    /// Writes to the server: the journal from its cursor on, and control frames where they may stand.
    fn flush(&mut self) {
        let Some(upstream) = &self.upstream else {
            return;
        };
        let mut parcel = Parcel::default();
        self.session.compose(
            upstream,
            self.now,
            &self.settings,
            &mut self.means.rng,
            &mut parcel,
        );
        let journal = self.session.sendable(parcel.fenced, &self.means.chunks);
        let journal: Vec<u8> = journal.flatten().copied().collect();
        let parts = match parcel.place {
            Place::Before => [&parcel.control, &journal],
            Place::After => [&journal, &parcel.control],
        };
        for part in parts {
            show("server", Sender::Client, part);
        }
        // The kernel would say how much of it was taken.
        if !journal.is_empty() {
            self.tell(Event::Sent {
                count: journal.len(),
            });
        }
        if let Some(number) = parcel.ping {
            self.tell(Event::Pinged { number });
        }
    }

    fn pass(&mut self, ms: u32) {
        self.now = self.now.after(ms);
    }

    fn tell_count(&self) {
        println!(
            "  {:?}: {} messages, {} confirmed, {} bytes in the journal",
            self.session.phase(),
            self.session.messages_up(),
            self.session.confirmed(),
            self.session.journal_bytes(),
        );
    }
}

/// A text message as a client sends it: masked.
fn text(words: &str) -> Vec<u8> {
    let key = [1, 2, 3, 4];
    let mut bytes = words.as_bytes().to_vec();
    mask::apply(&mut bytes, key);
    let length = bytes.len() as u64;
    let header = frame::encode_header(true, false, Opcode::Text, length, Some(key));
    [&header[..], &bytes].concat()
}

/// Prints what goes to somebody, `from` a client or a server: a head of HTTP, or frames.
fn show(to: &str, from: Sender, mut bytes: &[u8]) {
    if bytes.starts_with(b"GET ") || bytes.starts_with(b"HTTP/") {
        for line in String::from_utf8_lossy(bytes).trim_end().lines() {
            println!("  → {to:8}{line}");
        }
        return;
    }
    while let Ok(Some(header)) = frame::parse(bytes, from, false) {
        let (start, length) = (usize::from(header.header_len), header.payload_len as usize);
        let mut payload = bytes[start..start + length].to_vec();
        mask::apply(&mut payload, header.mask.unwrap_or_default());
        println!("  → {to:8}{:?} {}", header.opcode, payload.escape_ascii());
        bytes = &bytes[start + length..];
    }
}

fn say(what: &str) {
    println!("\n{what}");
}

const REQUEST: &[u8] = b"GET /room/7 HTTP/1.1\r\nHost: chat.test\r\nConnection: Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
