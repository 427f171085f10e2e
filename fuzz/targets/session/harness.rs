//! A shard with one client: it performs actions, reads and writes as the real one does, with
//! sockets that the input controls.

use std::sync::Arc;

use wsteady::kit::{Budget, Chain, Chunks, Prng, Spot, Tick};
use wsteady::session::dialect::ws::Ws;
use wsteady::session::{
    Action, Ctx, Dial, Dialect, Event, Heard, House, Loss, Means, Nobody, Parcel, Phase, Place,
    Session, Settings, Tally, Verdict,
};
use wsteady::wire::frame::{Opcode, Sender, control};
use wsteady::wire::head::{HeadLimits, Request};
use wsteady::wire::upgrade;

use crate::wires::{Source, Stream};

/// What becomes of the next wish for a server.
#[derive(Clone, Copy, Debug)]
pub enum Route {
    Server,
    Nobody(Nobody),
    Queue,
    /// The socket fails at once.
    Fails(Loss),
    /// No client is let in.
    Denied,
}

/// The session, and all of the world that it can notice.
pub struct World {
    session: Session,
    core: Core,
    scratch: Vec<u8>,
    now: Tick,
    timer: Option<Tick>,
    over: bool,
    pub route: Route,
    queued: bool,
    client: Option<Client>,
    upstream: Option<Upstream>,
    next_server: u16,
    /// Bytes that the sockets still take.
    pub client_room: usize,
    pub upstream_room: usize,
    read_client_again: bool,
    read_upstream_again: bool,
    stalled: bool,
    laws: Laws,
}

struct Core {
    means: Means,
    settings: Settings,
    nobodys: Settings,
    tally: Tally,
    parcel: Parcel,
}

struct Client {
    /// What it has said and nobody has read.
    inbox: Vec<u8>,
    ended: bool,
}

struct Upstream {
    dialect: Ws,
    connected: bool,
    joined: bool,
    stalled: bool,
    inbox: Vec<u8>,
    ended: bool,
    stash: Chain,
    spill: Chain,
    wire: Stream,
    /// The number of the first message that it gets.
    base: u64,
    pings_answered: usize,
}

/// What was seen, to be compared.
struct Laws {
    source: Source,
    to_client: Stream,
    /// Complete messages that servers have said while they were heard.
    said: Vec<Vec<u8>>,
    saying: Vec<u8>,
    /// Messages that some server has got whole.
    delivered: u64,
}

impl World {
    pub fn new(settings: Settings, house: House, seed: u8) -> World {
        let now = Tick(u32::MAX - 20 * u32::from(seed));
        let core = Core {
            means: Means::new(
                Chunks::new(Arc::new(Budget::new(1 << 16)), 64),
                Prng::from_u64(u64::from(seed)),
                house,
            ),
            settings,
            nobodys: Settings::default(),
            tally: Tally::default(),
            parcel: Parcel::default(),
        };
        let peer = ([127, 0, 0, 1], 5).into();
        let mut world = World {
            session: Session::new(7, peer, now),
            core,
            scratch: vec![0; STASH_ROOM + READ_MAX],
            now,
            timer: None,
            over: false,
            route: Route::Server,
            queued: false,
            client: Some(Client {
                inbox: Vec::new(),
                ended: false,
            }),
            upstream: None,
            next_server: 0,
            client_room: usize::MAX / 4,
            upstream_room: usize::MAX / 4,
            read_client_again: false,
            read_upstream_again: false,
            stalled: false,
            laws: Laws {
                source: Source::default(),
                to_client: Stream::new(Sender::Server),
                said: Vec::new(),
                saying: Vec::new(),
                delivered: 0,
            },
        };
        world.with(&[], |session, ctx| session.begin(ctx));
        world.perform();
        world
    }

    pub fn is_over(&self) -> bool {
        self.over
    }

    /// The end of a turn: what is to be written is written, what waits is read, laws hold.
    pub fn turn(&mut self) {
        if std::mem::take(&mut self.read_upstream_again) {
            self.read_upstream(READ_MAX);
        }
        if std::mem::take(&mut self.read_client_again) {
            self.read_client(READ_MAX);
        }
        for _ in 0..3 {
            self.write_upstream();
            self.write_client();
            self.perform();
        }
        self.check();
    }

    /// Only deadlines are left. The session must come to its end by them.
    pub fn wind_down(&mut self) {
        for _ in 0..3_000 {
            self.turn();
            if self.over {
                assert_eq!(
                    self.core.means.chunks.used(),
                    0,
                    "a buried session holds chunks"
                );
                return;
            }
            if self.queued {
                self.serve_queue();
                continue;
            }
            if self.read_client_again || self.read_upstream_again {
                continue;
            }
            let due = self
                .timer
                .expect("a session that is not over waits for something");
            // At least a step, so that a deadline that never moves is not waited for in vain.
            self.now = if due.is_before(self.now) {
                self.now
            } else {
                due
            };
            self.ring();
        }
        panic!(
            "no end: {:?}, client {}",
            self.session.phase(),
            self.client.is_some()
        );
    }

    pub fn tell(&mut self, event: Event<'_>) {
        self.with(&[], |session, ctx| session.on(event, ctx));
        if matches!(self.session.phase(), Phase::Over) {
            // As in a turn: nothing is told to a session behind its end.
            self.perform();
            return;
        }
        self.perform();
    }

    pub fn wait(&mut self, ms: u32) {
        self.now = self.now.after(ms);
        self.ring();
    }

    /// An alarm may come before its time.
    pub fn ring_early(&mut self) {
        self.timer = None;
        self.tell(Event::Due);
    }

    fn ring(&mut self) {
        if self.timer.is_some_and(|due| due.is_due(self.now)) {
            self.timer = None;
            self.tell(Event::Due);
        }
    }

    pub fn serve_queue(&mut self) {
        if std::mem::take(&mut self.queued) {
            self.dial();
            self.perform();
        }
    }

    // What the client does.

    pub fn client_says(&mut self, bytes: &[u8]) {
        if let Some(client) = self.client.as_mut().filter(|client| !client.ended) {
            client.inbox.extend_from_slice(bytes);
        }
    }

    pub fn client_ends(&mut self) {
        if let Some(client) = &mut self.client {
            client.ended = true;
            self.read_client_again = true;
        }
    }

    pub fn client_resets(&mut self) {
        if self.client.is_some() && self.session.wants_client() {
            self.tell(Event::ClientLost(Loss::Reset));
        }
    }

    pub fn read_client(&mut self, max: usize) {
        let Some(client) = &mut self.client else {
            return;
        };
        if self.over || !self.session.wants_client() {
            return;
        }
        let kept = self.session.stashed().min(STASH_ROOM);
        let full = kept > STASH_ROOM - READ_MAX;
        let new = if full {
            0
        } else {
            client.inbox.len().min(max).min(READ_MAX)
        };
        if new == 0 && !full && client.inbox.is_empty() && client.ended {
            return self.tell(Event::ClientLost(Loss::Fin));
        }
        if new == 0 && (kept == 0 || !self.stalled) {
            return;
        }
        self.stalled = false;
        let begin = STASH_ROOM - kept;
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch[STASH_ROOM..STASH_ROOM + new].copy_from_slice(&client.inbox[..new]);
        self.laws.source.said(&client.inbox[..new]);
        client.inbox.drain(..new);
        let more = !client.inbox.is_empty() || client.ended;
        self.session
            .unstash(&mut scratch[begin..STASH_ROOM], &mut self.core.means.chunks);
        let bytes = &scratch[begin..STASH_ROOM + new];
        self.with(bytes, |session, ctx| {
            session.on(Event::ClientBytes { bytes, kept }, ctx)
        });
        self.scratch = scratch;
        self.perform();
        self.read_client_again |= more && max >= READ_MAX;
    }

    // What a server does.

    pub fn connects(&mut self) {
        if let Some(upstream) = self
            .upstream
            .as_mut()
            .filter(|upstream| !upstream.connected)
        {
            upstream.connected = true;
            self.tell(Event::Connected);
        }
    }

    pub fn server_says(&mut self, bytes: &[u8]) {
        if let Some(upstream) = self.upstream.as_mut().filter(|upstream| !upstream.ended) {
            upstream.inbox.extend_from_slice(bytes);
        }
    }

    /// A 101 to the request that was written; the argument says how good it is.
    pub fn server_accepts(&mut self, argument: u8) {
        let Some(upstream) = &self.upstream else {
            return;
        };
        let Some(head) = upstream.wire.head() else {
            return;
        };
        let request = Request::parse(head, &HeadLimits::default()).expect("a legal request");
        let key = request.headers.get_str("sec-websocket-key").expect("a key");
        let mut head =
            String::from("HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n");
        let accept = upgrade::accept(if argument & 15 == 15 { "wrong" } else { key });
        head.push_str(&format!(
            "Sec-WebSocket-Accept: {accept}\r\nSet-Cookie: a=b\r\n"
        ));
        if argument & 16 != 0 {
            let takeover = ["; server_no_context_takeover", ""][usize::from(argument & 1)];
            head.push_str(&format!(
                "Sec-WebSocket-Extensions: permessage-deflate{takeover}\r\n"
            ));
        }
        if argument & 32 != 0 {
            head.push_str("Sec-WebSocket-Protocol: mqtt\r\n");
        }
        if argument & 64 != 0 {
            head.push_str("X-Wsteady-Confirm: processed\r\n");
        }
        head.push_str("\r\n");
        self.server_says(head.as_bytes());
    }

    /// Answers the next Ping, or says how much it has processed; sometimes it lies.
    pub fn server_confirms(&mut self, argument: u8) {
        let Some(upstream) = &mut self.upstream else {
            return;
        };
        let got = upstream.base + upstream.wire.message_ends.len() as u64;
        let payload = if argument & 64 != 0 {
            let number = got.saturating_sub(u64::from(argument & 7)) + u64::from(argument >> 7);
            format!("wsteady:{number}").into_bytes()
        } else if argument & 128 != 0 {
            (got + 1).to_be_bytes().to_vec()
        } else {
            let Some(ping) = upstream.wire.pings.get(upstream.pings_answered) else {
                return;
            };
            upstream.pings_answered += 1;
            ping.clone()
        };
        let pong = control(Opcode::Pong, &payload, None);
        self.server_says(&pong);
    }

    pub fn upstream_ends(&mut self, by_fin: bool) {
        let Some(upstream) = &mut self.upstream else {
            return;
        };
        if !upstream.connected {
            return self.tell(Event::UpstreamLost(Loss::Refused));
        }
        if by_fin {
            upstream.ended = true;
            self.read_upstream_again = true;
        } else {
            self.tell(Event::UpstreamLost(Loss::Reset));
        }
    }

    pub fn read_upstream(&mut self, max: usize) {
        let Some(upstream) = self.upstream.as_mut().filter(|upstream| upstream.connected) else {
            return;
        };
        if !self.session.wants_upstream() {
            upstream.stalled = true;
            return;
        }
        let kept = upstream.stash.len();
        assert!(kept <= STASH_ROOM);
        let new = upstream.inbox.len().min(max).min(READ_MAX);
        if new == 0 {
            if upstream.ended && upstream.inbox.is_empty() {
                let heard = upstream.dialect.hear_end();
                self.tell(Event::Heard {
                    heard,
                    bytes: &[],
                    at: 0,
                });
            }
            return;
        }
        let begin = STASH_ROOM - kept;
        self.scratch[STASH_ROOM..STASH_ROOM + new].copy_from_slice(&upstream.inbox[..new]);
        upstream.inbox.drain(..new);
        self.read_upstream_again |=
            max >= READ_MAX && (upstream.ended || !upstream.inbox.is_empty());
        self.core.means.chunks.peek(
            &upstream.stash,
            Spot::FRONT,
            &mut self.scratch[begin..STASH_ROOM],
        );
        self.core.means.chunks.clear(&mut upstream.stash);
        self.hear(begin, STASH_ROOM + new);
    }

    fn hear(&mut self, mut at: usize, end: usize) {
        let scratch = std::mem::take(&mut self.scratch);
        while at < end {
            let Some(upstream) = &mut self.upstream else {
                break;
            };
            let (used, heard) = upstream.dialect.hear(&scratch[at..end]);
            if matches!(heard, Heard::More) {
                self.core
                    .means
                    .chunks
                    .push(&mut upstream.stash, &scratch[at..end]);
                break;
            }
            let bytes = &scratch[at..at + used];
            if let Heard::Piece(piece) = &heard {
                self.laws.saying.extend_from_slice(bytes);
                if piece.ends {
                    self.laws.said.push(std::mem::take(&mut self.laws.saying));
                }
            }
            self.with(&scratch, |session, ctx| {
                session.on(Event::Heard { heard, bytes, at }, ctx);
            });
            at += used;
            let over = |action: &Action| matches!(action, Action::HangUpUpstream { .. });
            if self.core.means.actions.iter().any(over) {
                break;
            }
        }
        self.scratch = scratch;
        if !self.core.means.direct.is_empty() {
            self.write_client();
        }
        self.perform();
        if self.session.phase() == Phase::Moving {
            self.with(&[], |session, ctx| session.nudge(ctx));
            self.perform();
        }
    }

    // What the shard does.

    fn with(&mut self, input: &[u8], act: impl FnOnce(&mut Session, &mut Ctx<'_>)) {
        let core = &mut self.core;
        let joined = self.session.pool().is_some();
        let settings = if joined {
            &core.settings
        } else {
            &core.nobodys
        };
        let mut ctx = core.means.lend(self.now, settings, &mut core.tally, input);
        act(&mut self.session, &mut ctx);
        self.session.check_invariants();
    }

    fn perform(&mut self) {
        while !self.core.means.actions.is_empty() {
            for action in std::mem::take(&mut self.core.means.actions) {
                self.act(action);
            }
        }
    }

    fn call(&mut self, event: Event<'_>) {
        self.with(&[], |session, ctx| session.on(event, ctx));
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Route(_) => match self.route {
                Route::Denied => self.call(Event::Denied {
                    status: 503,
                    reason: "no",
                }),
                _ => {
                    self.session.join(0);
                    self.call(Event::Routed);
                }
            },
            Action::Dial => self.dial(),
            // Each turn of this world flushes.
            Action::FlushClient | Action::FlushUpstream | Action::Tell(_) => {}
            Action::ReadClient => {
                self.stalled = true;
                self.read_client_again = true;
            }
            // Nothing of this harness is a bridge.
            Action::Reserve
            | Action::Leaving
            | Action::Free
            | Action::Release { .. }
            | Action::Upload
            | Action::Ask(..) => {}
            Action::HangUpUpstream { say } => self.hang_up_upstream(say),
            Action::ShutClient => {
                if let Some(client) = &mut self.client {
                    // The other side answers FIN with FIN.
                    client.ended = true;
                    self.read_client_again = true;
                }
            }
            Action::HangUpClient { .. } => self.client = None,
            Action::Alarm(due) => {
                assert!(
                    self.timer.is_none_or(|set| !set.is_before(due)),
                    "an alarm moves later"
                );
                self.timer = Some(due);
            }
            Action::Report(Verdict::Success) => {
                self.upstream
                    .as_mut()
                    .expect("who succeeded is there")
                    .joined = true;
            }
            Action::Report(_) => {}
            Action::Bury => {
                assert!(!self.over, "buried twice");
                self.over = true;
            }
        }
    }

    fn dial(&mut self) {
        if self.session.pool().is_none() || self.session.attempt().is_none() {
            return;
        }
        if self.upstream.is_some() {
            return;
        }
        match self.route {
            Route::Nobody(nobody) => self.call(Event::NoServer(nobody)),
            Route::Queue if self.session.phase() == Phase::Held => {
                self.queued = true;
                self.call(Event::Queued);
            }
            Route::Fails(loss) => {
                // One that fails at once is not tried for ever: the next wish finds nobody.
                self.route = Route::Nobody(Nobody::AllTried);
                self.call(Event::Dialling {
                    server: self.next_server,
                });
                self.call(Event::UpstreamLost(loss));
            }
            Route::Server | Route::Queue | Route::Denied => self.connect(),
        }
    }

    fn connect(&mut self) {
        self.next_server = (self.next_server + 1) % 5;
        let tried = self
            .session
            .attempt()
            .map_or(0, |attempt| attempt.tried.len());
        if tried >= 5 {
            return self.call(Event::NoServer(Nobody::AllTried));
        }
        self.call(Event::Dialling {
            server: self.next_server,
        });
        let core = &mut self.core;
        let (Some(kept), Some(attempt)) = (self.session.kept(), self.session.attempt()) else {
            panic!("a dial without a request");
        };
        let first = self.session.phase() == Phase::Admitting;
        let mut first_bytes = Vec::new();
        let dial = Dial {
            prefix: "",
            fixed: false,
            kept,
            extra: &[("X-Wsteady-Session", "7")],
            plain: attempt.plain,
            first,
            pass: &core.settings.pass_headers,
            head_max: core.means.house.header_max,
        };
        let dialect = Ws::open(dial, &mut core.means.rng, &mut first_bytes);
        assert!(!first_bytes.is_empty(), "a kept request can be written");
        let mut spill = Chain::new();
        core.means.chunks.push(&mut spill, &first_bytes);
        self.upstream = Some(Upstream {
            dialect,
            connected: false,
            joined: false,
            stalled: false,
            inbox: Vec::new(),
            ended: false,
            stash: Chain::new(),
            spill,
            wire: Stream::new(Sender::Client),
            base: self.session.confirmed(),
            pings_answered: 0,
        });
    }

    fn hang_up_upstream(&mut self, say: Option<u16>) {
        let Some(mut upstream) = self.upstream.take() else {
            return;
        };
        if let Some(code) = say
            && upstream.joined
            && upstream.spill.is_empty()
        {
            let frame = upstream.dialect.close(code, "", &mut self.core.means.rng);
            let taken = frame.len().min(self.upstream_room);
            upstream.wire.took(&frame[..taken]);
        }
        self.laws.look_at(&upstream);
        self.laws.saying.clear();
        self.core.means.chunks.clear(&mut upstream.stash);
        self.core.means.chunks.clear(&mut upstream.spill);
    }

    fn write_client(&mut self) {
        let direct = std::mem::take(&mut self.core.means.direct);
        let queued: Vec<u8> = self
            .session
            .output(&self.core.means.chunks)
            .flatten()
            .copied()
            .collect();
        let at_once: Vec<u8> = direct
            .iter()
            .flat_map(|range| &self.scratch[range.clone()])
            .copied()
            .collect();
        let room = if self.client.is_some() {
            self.client_room
        } else {
            0
        };
        let taken = room.min(queued.len() + at_once.len());
        self.client_room -= taken.min(self.client_room);
        let of_queue = taken.min(queued.len());
        let all = [&queued[..of_queue], &at_once[..taken - of_queue]].concat();
        self.laws.to_client.took(&all);
        self.session
            .output_taken(of_queue, self.now, &mut self.core.means.chunks);
        self.session
            .output_refused(&at_once[taken - of_queue..], &mut self.core.means.chunks);
        if !self.session.has_output() && self.session.awaits_drain() {
            self.call(Event::ClientDrained);
        }
        if self.session.wants_upstream()
            && let Some(upstream) = self.upstream.as_mut().filter(|upstream| upstream.stalled)
        {
            upstream.stalled = false;
            self.read_upstream_again = true;
        }
    }

    fn write_upstream(&mut self) {
        for _ in 0..4 {
            let Some(upstream) = self.upstream.as_mut().filter(|up| up.connected) else {
                return;
            };
            let core = &mut self.core;
            let (session, parcel) = (&self.session, &mut core.parcel);
            session.compose(
                &upstream.dialect,
                self.now,
                &core.settings,
                &mut core.means.rng,
                parcel,
            );
            let flat = |slices: &mut dyn Iterator<Item = &[u8]>| -> Vec<u8> {
                slices.flatten().copied().collect()
            };
            let spill = flat(&mut core.means.chunks.slices(&upstream.spill, Spot::FRONT));
            let journal = flat(&mut session.sendable(parcel.fenced, &core.means.chunks));
            let control = parcel.control.clone();
            let parts = match parcel.place {
                Place::Before => [&spill[..], &control, &journal],
                Place::After => [&spill[..], &journal, &control],
            };
            let all = parts.concat();
            let taken = all.len().min(self.upstream_room);
            if taken == 0 {
                return;
            }
            self.upstream_room -= taken;
            upstream.wire.took(&all[..taken]);
            let of_spill = taken.min(spill.len());
            let left = taken - of_spill;
            let (of_control, of_journal) = match parcel.place {
                Place::Before => (left.min(control.len()), left.saturating_sub(control.len())),
                Place::After => (left.saturating_sub(journal.len()), left.min(journal.len())),
            };
            core.means.chunks.drop_front(&mut upstream.spill, of_spill);
            if of_control > 0 {
                core.means
                    .chunks
                    .push(&mut upstream.spill, &control[of_control..]);
            }
            self.laws.look_at(upstream);
            let (ping, close) = (parcel.ping, parcel.close);
            self.with(&[], |session, ctx| {
                if of_control > 0 {
                    session.pong_taken();
                }
                if of_journal > 0 {
                    session.on(Event::Sent { count: of_journal }, ctx);
                }
                if of_control > 0
                    && let Some(number) = ping
                {
                    session.on(Event::Pinged { number }, ctx);
                }
                if of_control > 0 && close {
                    session.on(Event::Farewelled, ctx);
                }
            });
            self.perform();
        }
    }

    /// What must hold between two turns.
    fn check(&mut self) {
        let (session, tally) = (&self.session, &self.core.tally);
        self.core.means.chunks.check_invariants();
        let unconfirmed: u64 = tally.unconfirmed.iter().sum();
        assert_eq!(
            tally.messages_up,
            tally.confirmed + unconfirmed + tally.journaled
        );
        assert_eq!(tally.journaled, session.messages_up() - session.confirmed());
        assert_eq!(tally.held, u64::from(session.phase() == Phase::Held));
        assert_eq!(
            self.client.is_some(),
            session.has_client(),
            "{:?}",
            session.phase()
        );
        let joined = matches!(
            session.phase(),
            Phase::Open | Phase::Moving | Phase::Finishing
        );
        assert!(
            self.upstream.is_some() || !joined,
            "{:?} alone",
            session.phase()
        );
        assert_eq!(self.over, session.phase() == Phase::Over);
        if self.over {
            assert!(self.upstream.is_none(), "an upstream without a rider");
        }
        if let Some(upstream) = &self.upstream {
            self.laws.look_at(upstream);
        }
        assert!(
            session.confirmed() <= self.laws.delivered,
            "confirmed before it was delivered"
        );
        let laws = &self.laws;
        let mut begin = 0;
        for (n, end) in laws.to_client.message_ends.iter().enumerate() {
            let got = &laws.to_client.data[begin..*end];
            assert_eq!(
                laws.said.get(n).map(|said| &said[..]),
                Some(got),
                "message {n} down"
            );
            begin = *end;
        }
    }
}

impl Laws {
    /// A server gets what the client has said, from the message on that it was promised.
    fn look_at(&mut self, upstream: &Upstream) {
        let wire = &upstream.wire;
        if wire.data.is_empty() {
            return;
        }
        let begin = self.source.begin_of(upstream.base);
        let wanted = &self.source.data[begin..];
        assert!(
            wanted.starts_with(&wire.data),
            "a server got what the client did not say"
        );
        self.delivered = self
            .delivered
            .max(upstream.base + wire.message_ends.len() as u64);
    }
}

/// As in the shard.
const READ_MAX: usize = 64 << 10;
const STASH_ROOM: usize = 96 << 10;
