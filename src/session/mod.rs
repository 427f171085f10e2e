//! Knows one conversation: a client, and whatever serves it now.
//! Imports: bitflags, ipnet, std, crate::kit, crate::wire.
//! Never: mio, std::net::Tcp, std::time, log, crate::fleet, crate::shard, crate::net, crate::sim, crate::control.
//!
//! A session is plain data that outlives its connections: no socket, thread, closure or reference.
//! [`Event`]s go in through [`Session::on`], [`Action`]s come out.
//!
//! **Invariant:** no number here names a descriptor, and nothing here can block.

pub mod attempt;
mod bridge;
mod client;
mod clock;
pub mod dialect;
mod exchange;
mod gather;
pub mod journal;
pub mod phase;
pub mod pulse;
mod search;
mod upstream;
pub mod valve;
mod visit;
pub mod vocab;

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use bitflags::bitflags;

pub use self::attempt::Attempt;
pub use self::bridge::probe_request;
pub use self::dialect::{Asks, Call, CallTo, Dial, Dialect, Heard, Kept, Terms};
pub use self::journal::Journal;
pub use self::phase::Phase;
use self::pulse::Pulse;
pub use self::upstream::{Parcel, Place};
pub use self::valve::Valves;
pub use self::vocab::*;
use crate::kit::{Chain, Chunks, Key, Prng, Tick};
use crate::wire::frame::{ControlBytes, ControlPayload, Sender};
use crate::wire::scan::Scanner;

/// A client and its conversation. It has one slot in one loop, whatever happens to its connections.
pub struct Session {
    /// In bytes: a u128 would align the whole slot to 16.
    id: [u8; 16],
    phase: Phase,
    leg: Leg,
    /// The server that serves it, or that served it last.
    server: Number,
    pool: Number,
    peer: Peer,
    opened: Tick,

    // Up: from the client.
    journal: Journal,
    scanner: Scanner,
    /// What was read and could not be dealt with yet: a part of a head, of a frame header, or
    /// whatever follows while nothing more may be begun.
    stash: Chain,
    client_pulse: Pulse,

    // Down: to the client.
    /// Bytes that will reach the client: whole messages, or a message that streams.
    out: Chain,
    /// The message that is being collected; it reaches the client whole or not at all.
    draft: Chain,
    messages_down: u64,

    // The upstream.
    upstream_pulse: Pulse,
    /// The number of the barrier whose Pong is awaited.
    barrier: Awaited,
    /// Since when the first message held has waited to be confirmed.
    unconfirmed_since: Tick,
    bound_at: Tick,

    /// When `Due` comes, if `flags.alarmed`.
    alarm: Tick,
    flags: Flags,
    /// Failed attempts in a row; decides the next pause.
    failures: u8,
    failovers: u16,
    kept: Option<Kept>,
    attempt: Option<Box<Attempt>>,
    rare: Option<Box<Rare>>,
}

/// The client's side of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leg {
    /// Messages flow.
    Talking,
    /// We sent Close first and wait for the client's.
    Closing,
    /// Both have closed: what is queued goes out, then the connection ends.
    Closed,
    /// What is queued goes out, then FIN; whatever still comes is thrown away until the client's
    /// FIN. Closing at once would turn unread bytes into an RST that destroys our last words.
    Deaf,
    /// No connection.
    Gone,
}

bitflags! {
    /// Facts of one bit.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    struct Flags: u32 {
        /// The server confirms by `wsteady:<n>`.
        const PROCESSED = 1 << 0;
        /// A downward message longer than `atomic` is passing through.
        const STREAMING = 1 << 1;
        /// What was queued for the client ends inside a frame.
        const DOWN_CUT = 1 << 2;
        /// The client is not read: a bound was reached.
        const PAUSED = 1 << 3;
        /// A leg is not read because all memory is leased out.
        const CLIENT_SQUEEZED = 1 << 4;
        const UPSTREAM_SQUEEZED = 1 << 5;
        /// Moving: the Close is owed, or has left.
        const LEAVING = 1 << 6;
        const LEFT = 1 << 7;
        /// The client's last frame was cut off after a part of it was sent.
        const CUT = 1 << 8;
        /// `Due` will come.
        const ALARMED = 1 << 9;
        /// The client got its 101.
        const OPENED = 1 << 10;
        /// `Ended` was told.
        const ENDED = 1 << 11;
        /// Calls serve it.
        const BRIDGED = 1 << 12;
        /// It has asked for its ClientId, and waits.
        const QUEUED = 1 << 13;
        /// Its ClientId is reserved for it.
        const RESERVED = 1 << 14;
        /// A call is due, and nobody was dialled for it yet.
        const WANTING = 1 << 15;
        /// A call is under way,
        const CALLING = 1 << 16;
        /// and its connection stands.
        const REACHED = 1 << 17;
        /// The client of a plain request has sent FIN, and waits for its answer.
        const HALF = 1 << 18;
        /// What is kept in the stash may begin with a whole request.
        const UNREAD = 1 << 19;
        /// The answer that is queued for the client ends with its connection.
        const ENDLESS = 1 << 20;
        /// No other request follows the one at hand.
        const LAST = 1 << 21;
        /// It has valves: the client's messages are gathered whole,
        const VALVED = 1 << 22;
        /// and the server's.
        const VALVED_DOWN = 1 << 23;
        /// Its client came by `wss` or `https`.
        const SECURE = 1 << 24;
        /// The client is another node of the cluster, and has shown it.
        const NODE = 1 << 25;
        /// The loop drains.
        const DRAINING = 1 << 26;
    }
}

impl Flags {
    /// Clears a flag; whether it was set.
    fn take(&mut self, flag: Flags) -> bool {
        let was = self.contains(flag);
        self.remove(flag);
        was
    }
}

/// What most sessions never need.
#[derive(Default)]
struct Rare {
    /// Somebody wants it to end as soon as the downward message under way has ended.
    stop: Option<End>,
    /// Why the session ends, once its client has taken its leave.
    end: Option<End>,
    /// The client's last words, for the server.
    farewell: Option<(u16, Box<str>)>,
    /// The latest Pong that the client is owed, while none can be put in.
    client_pong: Option<Box<ControlBytes>>,
    /// The latest Pong that the server is owed.
    server_pong: Option<Box<ControlPayload>>,
    /// The first unconfirmed message at the last loss, and how many losses it has cost.
    suspect: u64,
    losses: u8,
    /// Protocol errors of servers in the minute since.
    faults: u8,
    faults_since: Tick,
    /// When the connection that is being closed, or moved away from, is given up.
    close_by: Option<Tick>,
    /// Since when the client's present message is on its way.
    message_since: Option<Tick>,
    /// Since when the client is not read.
    paused_since: Option<Tick>,
    /// Pings that the client may still send, and when that was counted.
    pings_left: u32,
    pings_at: Option<Tick>,
    /// The last moment at which something was confirmed while paused.
    confirmed_at: Option<Tick>,
    /// Messages given up before the session ended.
    lost: u32,
    /// Its valves, in the loop's store; and what of a message from the client was gathered for them.
    valves: Option<Key>,
    gathered: Chain,
    /// What valves have answered while a message was streaming to the client.
    answers: Chain,
    /// The plain request that the connection is at.
    visit: Option<Box<visit::Visit>>,
    exchange: Option<Box<exchange::Exchange>>,
}

/// Each session whose client leaves has one, and all clients may leave at once.
const _: () = assert!(size_of::<Rare>() <= 240);

/// The number of an outstanding barrier, or none, in 4 bytes: two that look alike are 2^32 - 1
/// messages apart, and the older one has confirmed nothing for as long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Awaited(u32);

impl Awaited {
    const NONE: Awaited = Awaited(u32::MAX);

    fn pong(number: u64) -> Awaited {
        Awaited((number % u64::from(u32::MAX)) as u32)
    }

    fn is_none(self) -> bool {
        self == Awaited::NONE
    }
}

/// The number of a server or pool, or none, in 2 bytes: a fleet has fewer of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Number(u16);

impl Number {
    const NONE: Number = Number(u16::MAX);

    fn known(self) -> Option<u16> {
        (self != Number::NONE).then_some(self.0)
    }
}

/// The client's address, in 18 bytes instead of 32: there is one per session.
#[derive(Clone, Copy, Debug)]
struct Peer {
    ip: [u8; 16],
    port: u16,
}

/// What a session may use while it deals with one event.
pub struct Ctx<'a> {
    pub now: Tick,
    pub chunks: &'a mut Chunks,
    pub rng: &'a mut Prng,
    pub valves: &'a mut Valves,
    pub house: &'a House,
    /// Of the session's pool; the defaults while it has none.
    pub settings: &'a Settings,
    pub tally: &'a mut Tally,
    pub actions: &'a mut Vec<Action>,
    /// The scratch buffer that `Heard::Piece`s point into, and the parts of it that go to the client
    /// at once, behind what is queued.
    pub input: &'a [u8],
    pub direct: &'a mut Vec<Range<usize>>,
}

/// What the sessions of one owner share, lent to whichever acts.
pub struct Means {
    pub chunks: Chunks,
    pub rng: Prng,
    pub valves: Valves,
    pub house: House,
    /// What is to be done for who has acted.
    pub actions: Vec<Action>,
    /// The parts of its input that go to its client at once.
    pub direct: Vec<Range<usize>>,
}

impl Means {
    /// Those of an owner without valves.
    pub fn new(chunks: Chunks, rng: Prng, house: House) -> Means {
        Means {
            chunks,
            rng,
            valves: Valves::none(),
            house,
            actions: Vec::new(),
            direct: Vec::new(),
        }
    }

    /// For one act of a session: with its pool's settings and tally, and the buffer that the event
    /// speaks of, if it speaks of one.
    #[inline]
    pub fn lend<'a>(
        &'a mut self,
        now: Tick,
        settings: &'a Settings,
        tally: &'a mut Tally,
        input: &'a [u8],
    ) -> Ctx<'a> {
        Ctx {
            now,
            chunks: &mut self.chunks,
            rng: &mut self.rng,
            valves: &mut self.valves,
            house: &self.house,
            settings,
            tally,
            actions: &mut self.actions,
            input,
            direct: &mut self.direct,
        }
    }
}

impl Session {
    /// A session for a client that has just connected from `peer`.
    pub fn new(id: u128, peer: SocketAddr, now: Tick) -> Session {
        Session {
            id: id.to_ne_bytes(),
            phase: Phase::Greeting,
            leg: Leg::Talking,
            server: Number::NONE,
            pool: Number::NONE,
            peer: Peer::new(peer),
            opened: now,
            journal: Journal::new(),
            scanner: Scanner::new(Sender::Client, false),
            stash: Chain::new(),
            client_pulse: Pulse::new(now),
            out: Chain::new(),
            draft: Chain::new(),
            messages_down: 0,
            upstream_pulse: Pulse::new(now),
            barrier: Awaited::NONE,
            unconfirmed_since: now,
            bound_at: now,
            alarm: now,
            flags: Flags::default(),
            failures: 0,
            failovers: 0,
            kept: None,
            attempt: None,
            rare: None,
        }
    }

    /// Says whether its client came by `wss` or `https`, which servers are told.
    #[must_use]
    pub fn secured(mut self, secure: bool) -> Session {
        self.flags.set(Flags::SECURE, secure);
        self
    }

    /// The one door: deals with what happened. What the session wants done is in `ctx.actions`.
    pub fn on(&mut self, event: Event<'_>, ctx: &mut Ctx<'_>) {
        match event {
            Event::ClientBytes { bytes, kept } => self.on_client_bytes(bytes, kept, ctx),
            Event::ClientLost(loss) => self.on_client_lost(loss, ctx),
            Event::ClientDrained => self.on_client_drained(ctx),
            Event::Routed => self.on_routed(ctx),
            Event::Denied { status, reason } => self.deny(status, reason, ctx),
            Event::Dialling { server } => self.on_dialling(server, ctx),
            Event::NoServer(nobody) => self.on_no_server(nobody, ctx),
            Event::Queued => self.on_queued(ctx),
            Event::Connected => self.on_connected(ctx),
            Event::Heard { heard, bytes, at } => self.on_heard(heard, bytes, at, ctx),
            Event::Sent { count } => self.on_sent(count, ctx),
            Event::Pinged { number } => self.on_pinged(number, ctx),
            Event::Farewelled => self.on_farewelled(ctx),
            Event::UpstreamLost(loss) => self.on_upstream_lost(loss, ctx),
            Event::Reserved => self.on_reserved(ctx),
            Event::Taken => self.on_taken(ctx),
            Event::Evicted => self.on_evicted(ctx),
            Event::Pushed(pushed) => self.on_pushed(pushed, ctx),
            Event::Uploaded { all } => self.on_uploaded(all, ctx),
            Event::Due => self.on_due(ctx),
            Event::Move(mover) => self.on_move(mover, ctx),
            Event::Stop(end) => self.on_stop(end, ctx),
        }
    }

    /// The random 128-bit id, `X-Wsteady-Session`.
    pub fn id(&self) -> u128 {
        u128::from_ne_bytes(self.id)
    }

    /// Where it is in its life.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// The server that serves it now, or served it last.
    pub fn server(&self) -> Option<u16> {
        self.server.known()
    }

    /// Its pool, once it was routed.
    pub fn pool(&self) -> Option<u16> {
        self.pool.known()
    }

    /// The client's address.
    pub fn peer(&self) -> SocketAddr {
        self.peer.address()
    }

    /// When the client connected.
    pub fn opened(&self) -> Tick {
        self.opened
    }

    /// How often it has lost a server or was moved.
    pub fn failovers(&self) -> u32 {
        u32::from(self.failovers)
    }

    /// Complete messages read from the client.
    pub fn messages_up(&self) -> u64 {
        self.journal.end_number()
    }

    /// Complete messages delivered to the client.
    pub fn messages_down(&self) -> u64 {
        self.messages_down
    }

    /// Messages confirmed; also the number of the first one that the next server will get.
    pub fn confirmed(&self) -> u64 {
        self.journal.confirmed()
    }

    /// Bytes that wait to be confirmed.
    pub fn journal_bytes(&self) -> usize {
        self.journal.len()
    }

    /// All bytes that the session holds in the chunk store.
    pub fn held_bytes(&self) -> usize {
        let chains = self.journal.len() + self.out.len() + self.draft.len() + self.stash.len();
        chains + self.gathered_bytes()
    }

    /// Bytes of the larger of its unfinished messages; what memory pressure looks at.
    pub fn unfinished_bytes(&self) -> usize {
        let gathered = self.rare.as_ref().map_or(0, |rare| rare.gathered.len());
        self.journal
            .unfinished()
            .max(self.draft.len())
            .max(gathered)
    }

    /// What is kept of the request; gone once the session is over.
    pub fn kept(&self) -> Option<&Kept> {
        self.kept.as_ref()
    }

    /// The first segment of its path; the ClientId on a bridge.
    pub fn first_segment(&self) -> &str {
        let target = self.kept.as_ref().map_or("", |kept| kept.target());
        let path = target.split('?').next().unwrap_or_default();
        path.trim_start_matches('/')
            .split('/')
            .next()
            .unwrap_or_default()
    }

    /// What the client asked for; of a bridge's client only the ClientId is kept.
    pub fn target(&self) -> String {
        let target = self.kept.as_ref().map_or("", |kept| kept.target());
        let bare = self.is_bridged() && !target.starts_with('/');
        let slash = if bare { "/" } else { "" };
        [slash, target].concat()
    }

    /// A header of the kept request, as servers get it.
    pub fn kept_header(&self, name: &str) -> Option<&[u8]> {
        let kept = self.kept.as_ref()?;
        kept.lines().split(|byte| *byte == b'\n').find_map(|line| {
            let colon = line.iter().position(|byte| *byte == b':')?;
            let same = line[..colon].eq_ignore_ascii_case(name.as_bytes());
            same.then(|| line[colon + 1..].trim_ascii())
        })
    }

    /// Heap bytes of the kept head.
    pub fn kept_bytes(&self) -> usize {
        self.kept.as_ref().map_or(0, |kept| kept.bytes())
    }

    /// The search for a server, while there is one.
    pub fn attempt(&self) -> Option<&Attempt> {
        self.attempt.as_deref()
    }

    /// Whether its client ever got its 101.
    pub fn was_opened(&self) -> bool {
        self.flags.contains(Flags::OPENED)
    }

    /// Whether a client is still connected.
    pub fn has_client(&self) -> bool {
        self.leg != Leg::Gone
    }

    /// Whether the operator's wish to move was begun and is under way.
    pub fn is_moving(&self) -> bool {
        self.phase == Phase::Moving
    }

    /// The shard reads this leg, or can't for want of memory: a leg that is not read is not silent.
    pub fn squeeze_client(&mut self, squeezed: bool, now: Tick) {
        if self.flags.contains(Flags::CLIENT_SQUEEZED) && !squeezed {
            self.client_pulse.resumed(now);
        }
        self.flags.set(Flags::CLIENT_SQUEEZED, squeezed);
    }

    /// As [`squeeze_client`](Session::squeeze_client), for the upstream.
    pub fn squeeze_upstream(&mut self, squeezed: bool, now: Tick) {
        if self.flags.contains(Flags::UPSTREAM_SQUEEZED) && !squeezed {
            self.upstream_pulse.resumed(now);
        }
        self.flags.set(Flags::UPSTREAM_SQUEEZED, squeezed);
    }

    /// Whether the client's end was begun, by whomever; then nobody needs to begin it again.
    pub fn is_leaving(&self) -> bool {
        self.leg != Leg::Talking || self.is_stopping()
    }

    /// What must always hold; run after each turn in tests.
    pub fn check_invariants(&self) {
        self.journal.check_invariants();
        let again = self.flags.contains(Flags::BRIDGED)
            && matches!(self.phase, Phase::Finishing | Phase::Serving)
            && self.attempt.is_some();
        let searching = matches!(self.phase, Phase::Admitting | Phase::Held) || again;
        assert_eq!(
            self.attempt.is_some(),
            searching,
            "an attempt in {:?}",
            self.phase
        );
        assert!(self.pool().is_some() || !searching);
        if matches!(self.phase, Phase::Over | Phase::Parting) {
            assert!(self.journal.is_empty(), "an ended session holds messages");
        }
        if self.phase == Phase::Over {
            assert_eq!(self.held_bytes(), 0, "a session to be buried holds chunks");
            assert_eq!(self.leg, Leg::Gone);
        }
        assert!(!self.flags.contains(Flags::STREAMING) || self.draft.is_empty());
        let valved = self.flags.contains(Flags::VALVED);
        assert_eq!(
            valved,
            self.rare.as_ref().is_some_and(|rare| rare.valves.is_some())
        );
        assert!(!valved || self.journal.unfinished() == 0);
        assert!(
            self.barrier.is_none()
                || matches!(self.phase, Phase::Open | Phase::Moving | Phase::Finishing)
        );
    }

    fn become_(&mut self, next: Phase) {
        debug_assert!(self.phase.may_become(next), "{:?} -> {next:?}", self.phase);
        self.phase = next;
    }

    fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    fn farewell(&self) -> Option<&(u16, Box<str>)> {
        self.rare.as_ref().and_then(|rare| rare.farewell.as_ref())
    }

    /// Ends the session: what is unconfirmed is counted, the server is let go, the client is told.
    fn end(&mut self, end: End, ctx: &mut Ctx<'_>) {
        let (code, reason) = end.close();
        self.end_with(end, Some((code, reason)), ctx);
    }

    /// As [`end`](Session::end), with the server's own last words. `None`: a Close without a code.
    fn end_with(&mut self, end: End, close: Option<(u16, &str)>, ctx: &mut Ctx<'_>) {
        if matches!(self.phase, Phase::Parting | Phase::Over) {
            return;
        }
        let patient = self.farewell().is_none() || end == End::Hold;
        if self.flags.contains(Flags::BRIDGED)
            && patient
            && matches!(self.phase, Phase::Open | Phase::Held)
        {
            return self.end_bridge(end, close, ctx);
        }
        self.free_id(ctx);
        if self.is_answering() {
            self.tell_end(end, ctx);
            return self.break_off(ctx);
        }
        // A server hears one Close from us: not another one behind a farewell or a move's.
        let whole_frame =
            self.journal.sent_at_frame() && (self.can_send() || planted!(SecondClose));
        self.tell_end(end, ctx);
        let unanswered = matches!(
            self.phase,
            Phase::Greeting | Phase::Admitting | Phase::Serving
        );
        // Words of ours would answer what nobody asked.
        let silent = self.phase == Phase::Greeting && self.stash.is_empty();
        if !matches!(self.phase, Phase::Greeting) {
            let code = match (end, close) {
                (End::ServerClosed, Some((code, _))) => code,
                (End::ServerClosed, None) => 1000,
                _ => 1001,
            };
            let say = whole_frame.then_some(code);
            ctx.actions.push(Action::HangUpUpstream { say });
        }
        self.forget_upstream(ctx);
        self.become_(Phase::Parting);
        match self.leg {
            Leg::Talking if silent => self.turn_deaf(ctx),
            Leg::Talking if unanswered => self.answer_http(end, ctx),
            Leg::Talking => self.close_client(end, close, ctx),
            Leg::Closing | Leg::Closed | Leg::Deaf => {}
            Leg::Gone => self.bury(ctx),
        }
    }

    /// wsteady stops, or an operator ends the session: the client is closed; the server gets the rest
    /// of the journal first, as if the client had left. The second time there is no more patience.
    fn on_stop(&mut self, end: End, ctx: &mut Ctx<'_>) {
        if end == End::Shutdown && self.finishes_request() {
            return self.answer_last();
        }
        let graceful = matches!(end, End::Shutdown | End::Aborted)
            && self.leg == Leg::Talking
            && matches!(self.phase, Phase::Open | Phase::Moving | Phase::Held);
        if !graceful {
            return self.end(end, ctx);
        }
        let whole = self.draft.is_empty() && !self.flags.contains(Flags::STREAMING);
        if !whole && self.rare().stop.is_none() {
            // At a message boundary: `on_piece` comes back here.
            self.rare().stop = Some(end);
            return;
        }
        let (code, reason) = end.close();
        ctx.chunks.clear(&mut self.draft);
        self.close_client(end, Some((code, reason)), ctx);
        self.take_leave_as(end, code, reason, ctx);
    }

    /// Shutting down: the plain request at hand is the connection's last.
    fn answer_last(&mut self) {
        self.rare().stop = Some(End::Shutdown);
        self.end_visit_here();
    }

    /// Whether another node asks here, or will: a drain closes that connection behind all sessions.
    pub fn is_node(&self) -> bool {
        self.flags.contains(Flags::NODE) && matches!(self.phase, Phase::Greeting | Phase::Serving)
    }

    /// The loop drains: another node is told so with each answer, anybody else has the last one.
    pub fn answer_in_drain(&mut self) {
        self.flags.insert(Flags::DRAINING);
        if !self.is_node() || planted!(NodeSentAway) {
            self.answer_last();
        }
    }

    /// Memory is short: the plain request at hand is the connection's last. A drain that comes
    /// meanwhile is as patient with it as with any other.
    pub fn end_with_answer(&mut self) {
        self.flags.insert(Flags::LAST);
    }

    /// Whether the client may ask again behind the request at hand.
    fn may_ask_again(&self) -> bool {
        let last = self.flags.contains(Flags::LAST) && !planted!(LastForgotten);
        !self.is_stopping() && !last
    }

    /// A plain request that has begun is answered first, and is the connection's last. The second
    /// time there is no more patience.
    fn finishes_request(&self) -> bool {
        let begun = match self.phase {
            Phase::Greeting => !self.stash.is_empty(),
            Phase::Serving => true,
            _ => false,
        };
        begun && self.leg == Leg::Talking && !self.is_stopping()
    }

    /// Whether it ends with what is under way.
    fn is_stopping(&self) -> bool {
        self.rare.as_ref().is_some_and(|rare| rare.stop.is_some())
    }

    /// Counts what was never confirmed and says so, once.
    fn tell_end(&mut self, end: End, ctx: &mut Ctx<'_>) {
        let unconfirmed = self.journal.clear(ctx.chunks);
        ctx.tally.journaled -= u64::from(unconfirmed);
        let lost = self.rare.as_ref().map_or(0, |rare| rare.lost);
        if !(planted!(EndUncounted) && end == End::ServerClosed) {
            ctx.tally.unconfirmed[end.index()] += u64::from(unconfirmed);
        }
        if !self.flags.contains(Flags::ENDED) {
            self.flags.insert(Flags::ENDED);
            ctx.tally.bridged -= u64::from(
                self.flags.contains(Flags::BRIDGED) && self.flags.contains(Flags::OPENED),
            );
            let unconfirmed = unconfirmed + lost;
            ctx.actions
                .push(Action::Tell(Life::Ended { end, unconfirmed }));
        }
    }

    /// Nothing of an upstream is left in the session.
    fn forget_upstream(&mut self, ctx: &mut Ctx<'_>) {
        if planted!(HalfDraftDelivered) {
            ctx.chunks.join(&mut self.out, &mut self.draft);
        }
        ctx.chunks.clear(&mut self.draft);
        self.barrier = Awaited::NONE;
        self.give_up(ctx);
        self.flags.remove(Flags::UPSTREAM_SQUEEZED);
        self.flags.remove(Flags::WANTING);
        if self.flags.take(Flags::CALLING) {
            ctx.tally.requests_failed += 1;
        }
        self.flags.remove(Flags::LEAVING);
        self.flags.remove(Flags::LEFT);
        if let Some(rare) = &mut self.rare {
            rare.server_pong = None;
        }
    }

    /// Both legs are gone.
    fn bury(&mut self, ctx: &mut Ctx<'_>) {
        debug_assert_eq!(self.leg, Leg::Gone);
        if self.phase == Phase::Over {
            return;
        }
        self.forget_upstream(ctx);
        self.free_id(ctx);
        self.drop_legs_bytes(ctx);
        self.drop_valves(ctx);
        let unconfirmed = self.journal.clear(ctx.chunks);
        debug_assert_eq!(unconfirmed, 0, "buried with messages that nobody counted");
        self.become_(Phase::Over);
        ctx.actions.push(Action::Bury);
    }

    /// The client takes nothing more and has said its last.
    fn drop_legs_bytes(&mut self, ctx: &mut Ctx<'_>) {
        for chain in [&mut self.out, &mut self.draft, &mut self.stash] {
            ctx.chunks.clear(chain);
        }
        if let Some(rare) = &mut self.rare {
            ctx.chunks.clear(&mut rare.gathered);
            ctx.chunks.clear(&mut rare.answers);
        }
    }

    /// Makes sure that `Due` comes no later than this.
    fn want_by(&mut self, moment: Tick, ctx: &mut Ctx<'_>) {
        if !self.flags.contains(Flags::ALARMED) || moment.is_before(self.alarm) {
            self.alarm = moment;
            self.flags.insert(Flags::ALARMED);
            ctx.actions.push(Action::Alarm(moment));
        }
    }
}

impl Peer {
    fn new(address: SocketAddr) -> Peer {
        let ip = match address.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        Peer {
            ip: ip.octets(),
            port: address.port(),
        }
    }

    fn address(self) -> SocketAddr {
        SocketAddr::new(IpAddr::from(self.ip).to_canonical(), self.port)
    }
}
