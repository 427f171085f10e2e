//! A session under any sequence of events: a small shard does what it wants done, and laws are
//! checked after each event.
//!
//! Input: five bytes of settings, then operations: a byte that says which, one argument, and for
//! some of them bytes that go over the wire.

#![no_main]

#[path = "session/harness.rs"]
mod harness;
#[path = "session/wires.rs"]
mod wires;

use harness::{Route, World};
use libfuzzer_sys::fuzz_target;
use wsteady::session::{Confirm, End, Event, House, Loss, Mover, Nobody, Settings};
use wsteady::wire::frame::{Opcode, encode_header};
use wsteady::wire::mask;

fuzz_target!(|input: &[u8]| {
    let Some((head, rest)) = input.split_first_chunk::<5>() else {
        return;
    };
    let mut world = World::new(settings(head), house(), head[4]);
    let mut script = Script(rest);
    while !world.is_over()
        && let Some(operation) = script.byte()
    {
        let argument = script.byte().unwrap_or(0);
        step(&mut world, operation, argument, &mut script);
        world.turn();
    }
    // Nobody says anything any more: deadlines must end it.
    world.route = Route::Nobody(Nobody::NoneUsable);
    (world.client_room, world.upstream_room) = (FREE, FREE);
    world.wind_down();
});

fn settings(head: &[u8; 5]) -> Settings {
    Settings {
        buffer: if head[0] & 1 == 0 { 2_000 } else { 40_000 },
        confirm: [Confirm::Received, Confirm::Written][usize::from(head[0] >> 1 & 1)],
        overflow_close: head[0] & 4 != 0,
        atomic: if head[0] & 8 == 0 { 200 } else { 4_000 },
        barrier_bytes: if head[0] & 16 == 0 { 1_000 } else { 20_000 },
        replay_attempts: 1 + (head[1] & 3),
        barrier_delay: u32::from(head[2] & 63),
        hold: 3_000,
        admit: 1_000,
        connect: 500,
        handshake: 800,
        ping: 3_000,
        pong: 1_000,
        close: if head[3] & 1 == 0 { 500 } else { 5_000 },
        ..Settings::default()
    }
}

fn house() -> House {
    House {
        header_max: 2_000,
        message_max: 6_000,
        fragments_max: 10,
        handshake: 1_000,
        message_time: 4_000,
        pings: 10,
        ..House::default()
    }
}

/// The rest of the input.
struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (bytes, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        bytes
    }
}

fn step(world: &mut World, operation: u8, argument: u8, script: &mut Script<'_>) {
    let square = usize::from(argument) * usize::from(argument);
    let room = if argument == 255 { FREE } else { square };
    match operation % 24 {
        0 => world.client_says(&request(argument)),
        1 => world.client_says(script.bytes(usize::from(argument & 63))),
        2 => {
            let len = script.byte().unwrap_or(0);
            world.client_says(&frame(argument, len, Some([argument, len, 3, 200])));
        }
        3 => {
            for n in 0..argument & 63 {
                world.client_says(&frame(0x90, n, Some([n, 0, 1, 2])));
            }
        }
        4 => world.read_client(1 + square),
        5 => world.client_ends(),
        6 => world.client_resets(),
        7 => world.client_room = room,
        8 => world.upstream_room = room,
        9 => world.connects(),
        10 => world.server_accepts(argument),
        11 => world.server_says(REFUSALS[usize::from(argument) % REFUSALS.len()]),
        12 => world.server_says(script.bytes(usize::from(argument & 63))),
        13 => {
            let len = script.byte().unwrap_or(0);
            world.server_says(&frame(argument, len, None));
        }
        14 => world.server_confirms(argument),
        15 => world.read_upstream(1 + square),
        16 => world.upstream_ends(argument & 1 == 0),
        17 => world.wait(square as u32 / 4),
        18 => world.ring_early(),
        19 => world.tell(Event::Move(if argument & 1 == 0 {
            Mover::Drain
        } else {
            Mover::Failover
        })),
        20 => {
            let ends = [End::Shutdown, End::Aborted, End::Memory, End::Fault];
            world.tell(Event::Stop(ends[usize::from(argument & 3)]));
        }
        21 => world.route = ROUTES[usize::from(argument) % ROUTES.len()],
        22 => world.serve_queue(),
        _ => world.wait(u32::from(argument)),
    }
}

/// Good requests, and one that is none.
fn request(argument: u8) -> Vec<u8> {
    let mut head = String::from("GET /chat HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\n");
    head.push_str("Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n");
    if argument & 7 != 7 {
        head.push_str("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n");
    }
    if argument & 8 != 0 {
        head.push_str("Sec-WebSocket-Protocol: chat, mqtt\r\n");
    }
    if argument & 16 != 0 {
        head.push_str("Sec-WebSocket-Extensions: permessage-deflate\r\n");
    }
    head.push_str("\r\n");
    head.into_bytes()
}

/// A frame with legal bits and a payload of letters; `kind` says which, and how long `len` makes it.
fn frame(kind: u8, len: u8, key: Option<[u8; 4]>) -> Vec<u8> {
    use Opcode::{Binary, Close, Continuation, Ping, Pong, Text};
    let opcode = [
        Binary,
        Continuation,
        Text,
        Binary,
        Ping,
        Close,
        Pong,
        Continuation,
    ][usize::from(kind & 7)];
    let control = opcode.is_control();
    let mut payload = vec![b'a' + len % 26; usize::from(len)];
    if kind & 8 != 0 {
        payload.resize(payload.len() * 20, b'z');
    }
    if control {
        payload.truncate(125);
    }
    if opcode == Close && payload.len() >= 2 {
        let codes = [1000u16, 1001, 1011, 4000, 1005];
        payload[..2].copy_from_slice(&codes[usize::from(len) % codes.len()].to_be_bytes());
    }
    let fin = control || kind & 0x10 != 0;
    let mut bytes = encode_header(fin, false, opcode, payload.len() as u64, key).to_vec();
    let start = bytes.len();
    bytes.extend_from_slice(&payload);
    mask::apply(&mut bytes[start..], key.unwrap_or_default());
    bytes
}

const ROUTES: [Route; 9] = [
    Route::Server,
    Route::Server,
    Route::Nobody(Nobody::AllTried),
    Route::Nobody(Nobody::NoneUsable),
    Route::Nobody(Nobody::Empty),
    Route::Queue,
    Route::Fails(Loss::Refused),
    Route::Fails(Loss::Exhausted),
    Route::Denied,
];

const REFUSALS: [&[u8]; 5] = [
    b"HTTP/1.1 404 N\r\nContent-Length: 5\r\n\r\nnever",
    b"HTTP/1.1 503 S\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 302 F\r\nLocation: /x\r\n\r\nuntil the end",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    b"HTTP/1.1 100 C\r\n\r\n",
];

/// A socket that takes everything.
const FREE: usize = usize::MAX / 4;
