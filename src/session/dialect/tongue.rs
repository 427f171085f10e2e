//! What an upstream of the proxy speaks: one of the dialects.

use super::http::Http;
#[cfg(feature = "nats")]
use super::nats::Nats;
use super::ws::Ws;
use super::{Call, Dial, Dialect, Heard, Terms};
use crate::kit::Prng;
use crate::session::vocab::Api;
use crate::wire::frame::ControlBytes;

/// A WebSocket server's leg, or a connection for calls.
pub enum Tongue {
    Ws(Ws),
    Http(Http),
    // In a box: the others are many more.
    #[cfg(feature = "nats")]
    Nats(Box<Nats>),
}

impl Dialect for Tongue {
    fn open(dial: Dial<'_>, rng: &mut Prng, first_bytes: &mut Vec<u8>) -> Tongue {
        Tongue::Ws(Ws::open(dial, rng, first_bytes))
    }

    fn for_calls(terms: &Terms<'_>) -> Option<Tongue> {
        match terms.api {
            Api::Http => Http::for_calls(terms).map(Tongue::Http),
            #[cfg(feature = "nats")]
            Api::Nats(_) => Nats::for_calls(terms).map(|nats| Tongue::Nats(Box::new(nats))),
        }
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
            #[cfg(feature = "nats")]
            Tongue::Nats(nats) => nats.call(call, body, out),
        }
    }

    fn rest(&mut self, input: &[u8], out: &mut Vec<u8>) -> bool {
        match self {
            Tongue::Ws(ws) => ws.rest(input, out),
            Tongue::Http(http) => http.rest(input, out),
            #[cfg(feature = "nats")]
            Tongue::Nats(nats) => nats.rest(input, out),
        }
    }

    fn asked(&mut self, head_only: bool) {
        match self {
            Tongue::Ws(_) => {}
            Tongue::Http(http) => http.asked(head_only),
            #[cfg(feature = "nats")]
            Tongue::Nats(nats) => nats.asked(head_only),
        }
    }

    #[inline]
    fn hear(&mut self, input: &[u8]) -> (usize, Heard) {
        match self {
            Tongue::Ws(ws) => ws.hear(input),
            Tongue::Http(http) => http.hear(input),
            #[cfg(feature = "nats")]
            Tongue::Nats(nats) => nats.hear(input),
        }
    }

    fn hear_end(&mut self) -> Heard {
        match self {
            Tongue::Ws(ws) => ws.hear_end(),
            Tongue::Http(http) => http.hear_end(),
            #[cfg(feature = "nats")]
            Tongue::Nats(nats) => nats.hear_end(),
        }
    }

    fn ping(&self, number: u64, rng: &mut Prng) -> ControlBytes {
        match self {
            Tongue::Ws(ws) => ws.ping(number, rng),
            Tongue::Http(http) => http.ping(number, rng),
            #[cfg(feature = "nats")]
            Tongue::Nats(nats) => nats.ping(number, rng),
        }
    }

    fn pong(&self, payload: &[u8], rng: &mut Prng) -> ControlBytes {
        match self {
            Tongue::Ws(ws) => ws.pong(payload, rng),
            Tongue::Http(http) => http.pong(payload, rng),
            #[cfg(feature = "nats")]
            Tongue::Nats(nats) => nats.pong(payload, rng),
        }
    }

    fn close(&self, code: u16, reason: &str, rng: &mut Prng) -> ControlBytes {
        match self {
            Tongue::Ws(ws) => ws.close(code, reason, rng),
            Tongue::Http(http) => http.close(code, reason, rng),
            #[cfg(feature = "nats")]
            Tongue::Nats(nats) => nats.close(code, reason, rng),
        }
    }

    fn is_whole(&self) -> bool {
        match self {
            Tongue::Ws(ws) => ws.is_whole(),
            Tongue::Http(http) => http.is_whole(),
            #[cfg(feature = "nats")]
            Tongue::Nats(nats) => nats.is_whole(),
        }
    }
}
