//! What has become of handshakes, and what buffers hold: for metrics.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use log::{debug, warn};

use super::Fault;
use super::line::{Line, Stage};
use crate::kit::{Count, Tick};

/// Of one loop, which alone writes to it.
#[derive(Default)]
pub struct Counts {
    handshakes: [[Count; 3]; 2],
    held: AtomicU64,
}

/// Who began a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// A client, with us.
    Client,
    /// We, with a server.
    Server,
}

/// How one ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With certificates.
    Full,
    /// With a ticket.
    Resumed,
    Failed,
}

impl Side {
    /// Both of them, in the order of their numbers.
    pub const ALL: [Side; 2] = [Side::Client, Side::Server];

    /// The word for it in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Side::Client => "client",
            Side::Server => "server",
        }
    }
}

impl Ending {
    /// All of them, in the order of their numbers.
    pub const ALL: [Ending; 3] = [Ending::Full, Ending::Resumed, Ending::Failed];

    /// The word for it in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Ending::Full => "full",
            Ending::Resumed => "resumed",
            Ending::Failed => "failed",
        }
    }
}

impl Counts {
    /// Handshakes of this side that ended so.
    pub fn handshakes(&self, side: Side, ending: Ending) -> u64 {
        self.handshakes[side as usize][ending as usize].value()
    }

    /// Bytes that buffers hold.
    pub fn held(&self) -> u64 {
        self.held.load(Relaxed)
    }

    pub(super) fn hold(&self, bytes: usize) {
        self.held.store(bytes as u64, Relaxed);
    }
}

/// Counts, and tells whoever can mend it what went wrong.
#[derive(Default)]
pub(super) struct Clerk {
    pub counts: Arc<Counts>,
    /// What was told of a server last, and when.
    told: HashMap<Box<str>, (String, Tick)>,
}

impl Clerk {
    /// A handshake is over, and well.
    pub fn greeted<S, T>(&self, line: &Line<S, T>, resumed: bool) {
        let ending = match resumed {
            true => Ending::Resumed,
            false => Ending::Full,
        };
        self.count(line, ending);
    }

    /// It is over, and not well. Of a server that is told once in a while, not for each session.
    pub fn blame<S, T>(&mut self, line: &mut Line<S, T>, fault: &Fault, now: Tick) {
        if line.stage != Stage::Open {
            self.count(line, Ending::Failed);
        }
        line.stage = Stage::Failed;
        let Some(server) = &line.server else {
            return debug!("a client's TLS failed: {fault}");
        };
        let known = |(why, told): &(String, Tick)| *why == fault.0 && now.since(*told) < TELL_PAUSE;
        if self.told.get(server).is_some_and(known) {
            return debug!(server = &**server; "TLS: {fault}");
        }
        warn!(server = &**server; "TLS: {fault}");
        let why = fault.0.clone();
        self.told.insert(server.clone(), (why, now));
    }

    fn count<S, T>(&self, line: &Line<S, T>, ending: Ending) {
        let side = match line.server {
            Some(_) => Side::Server,
            None => Side::Client,
        };
        self.counts.handshakes[side as usize][ending as usize].add(1);
    }
}

/// Until the same is said of a server again, in ms.
const TELL_PAUSE: u32 = 10_000;
