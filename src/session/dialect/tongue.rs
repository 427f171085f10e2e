//! What an upstream of the proxy speaks: one of the dialects.

use super::http::Http;
use super::ws::Ws;
use super::{Call, Dial, Dialect, Heard, Terms};
use crate::kit::Prng;
use crate::wire::frame::ControlBytes;

/// A WebSocket server's leg, or a connection for calls.
pub enum Tongue {
    Ws(Ws),
    Http(Http),
}

impl Dialect for Tongue {
    fn open(dial: Dial<'_>, rng: &mut Prng, first_bytes: &mut Vec<u8>) -> Tongue {
        Tongue::Ws(Ws::open(dial, rng, first_bytes))
    }

    fn for_calls(terms: &Terms<'_>) -> Option<Tongue> {
        Http::for_calls(terms).map(Tongue::Http)
    }

    fn call(
        &mut self,
        call: &Call<'_>,
        body: &mut dyn FnMut(&mut Vec<u8>),
        out: &mut Vec<u8>,
    ) -> Option<()> {
        match self {
            Tongue::Ws(ws) => ws.call(call, body, out),
            Tongue::Http(http) => http.call(call, body, out),
        }
    }

    fn rest(&mut self, input: &[u8], out: &mut Vec<u8>) -> bool {
        match self {
            Tongue::Ws(ws) => ws.rest(input, out),
            Tongue::Http(http) => http.rest(input, out),
        }
    }

    fn asked(&mut self, head_only: bool) {
        match self {
            Tongue::Ws(_) => {}
            Tongue::Http(http) => http.asked(head_only),
        }
    }

    #[inline]
    fn hear(&mut self, input: &[u8]) -> (usize, Heard) {
        match self {
            Tongue::Ws(ws) => ws.hear(input),
            Tongue::Http(http) => http.hear(input),
        }
    }

    fn hear_end(&mut self) -> Heard {
        match self {
            Tongue::Ws(ws) => ws.hear_end(),
            Tongue::Http(http) => http.hear_end(),
        }
    }

    fn ping(&self, number: u64, rng: &mut Prng) -> ControlBytes {
        match self {
            Tongue::Ws(ws) => ws.ping(number, rng),
            Tongue::Http(http) => http.ping(number, rng),
        }
    }

    fn pong(&self, payload: &[u8], rng: &mut Prng) -> ControlBytes {
        match self {
            Tongue::Ws(ws) => ws.pong(payload, rng),
            Tongue::Http(http) => http.pong(payload, rng),
        }
    }

    fn close(&self, code: u16, reason: &str, rng: &mut Prng) -> ControlBytes {
        match self {
            Tongue::Ws(ws) => ws.close(code, reason, rng),
            Tongue::Http(http) => http.close(code, reason, rng),
        }
    }

    fn is_whole(&self) -> bool {
        match self {
            Tongue::Ws(ws) => ws.is_whole(),
            Tongue::Http(http) => http.is_whole(),
        }
    }
}
