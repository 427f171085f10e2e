//! What the operator asks: all counters, pages of sessions, one session.
//!
//! **Invariant:** no answer looks at more than [`LIST_MAX`] slots, taken or not: however many
//! sessions there are and however often somebody asks, messages wait no longer for it.

use super::{Answer, Filter, Io, SessionRow, Shard, Snapshot};
use crate::session::{Dialect, Event, Session};

impl<I: Io, D: Dialect> Shard<I, D> {
    pub(super) fn snapshot(&self) -> Snapshot {
        Snapshot {
            shard: self.index,
            stats: self.core.stats.clone(),
            clients: self.clients.len(),
            upstreams: self.upstreams.len(),
            timers: self.wheel.len(),
            buffer_bytes: self.core.means.chunks.used_bytes(),
            kept_bytes: self.core.stats.kept_bytes,
            tripped: self
                .fleet
                .servers
                .iter()
                // Nobody can take the trial of an unhealthy one: its breaker stays open.
                .map(|server| {
                    server.tripped.is_some() && !(server.healthy && server.is_closed(self.core.now))
                })
                .collect(),
            healthy: self
                .fleet
                .servers
                .iter()
                .map(|server| server.healthy)
                .collect(),
        }
    }

    /// A page, and the slot to go on from.
    pub(super) fn list(&self, filter: &Filter) -> (Vec<SessionRow>, Option<u32>) {
        let slots = match filter.text {
            Some(_) => SEARCH_MAX,
            None => LIST_MAX,
        };
        let end = self.page_end(filter.from, slots);
        let (mut rows, mut bytes) = (Vec::new(), 0);
        for (key, client) in self.clients.within(filter.from..end) {
            if rows.len() >= filter.limit || bytes >= BYTES_MAX {
                return (rows, Some(key.index));
            }
            let session = &client.session;
            let wanted = is_wanted(session, filter);
            if wanted {
                rows.push(self.row(session));
            }
            if wanted || filter.text.is_some() {
                bytes += session.kept().map_or(0, |kept| kept.target().len());
            }
        }
        (rows, self.page_behind(end))
    }

    /// Tells one session, if it is among the next slots.
    pub(super) fn tell_one(&mut self, ticket: u64, id: u128, from: u32, event: Event<'static>) {
        let end = self.page_end(from, LIST_MAX);
        let found = self
            .clients
            .within(from..end)
            .find(|(_, client)| client.session.id() == id)
            .map(|(key, _)| key);
        let answer = match (found, self.page_behind(end)) {
            (Some(key), _) => {
                self.tell(key, event);
                Answer::Done(true)
            }
            (None, Some(next)) => Answer::Further(next),
            (None, None) => Answer::Done(false),
        };
        self.io.answer(ticket, answer);
    }

    /// The end of a page of so many slots.
    fn page_end(&self, from: u32, slots: u32) -> u32 {
        from.saturating_add(slots).min(self.clients.end())
    }

    /// Where the page behind one that ends there begins, if there is one.
    fn page_behind(&self, end: u32) -> Option<u32> {
        (end < self.clients.end()).then_some(end)
    }

    fn row(&self, session: &Session) -> SessionRow {
        SessionRow {
            id: session.id(),
            client: session.peer(),
            path: session.target(),
            pool: session.pool(),
            server: server_of(session),
            phase: session.phase(),
            age: self.core.now.since(session.opened()),
            failovers: session.failovers(),
            messages_up: session.messages_up(),
            messages_down: session.messages_down(),
            journal_bytes: session.journal_bytes() as u64,
            confirmed: session.confirmed(),
            has_client: session.has_client(),
            waiting: session
                .attempt()
                .map(|attempt| self.core.now.since(attempt.since)),
        }
    }
}

/// Calls go here and there: a bridged session has no server of its own.
fn server_of(session: &Session) -> Option<u16> {
    session.server().filter(|_| !session.is_bridged())
}

fn is_wanted(session: &Session, filter: &Filter) -> bool {
    let server = |server| server_of(session) == Some(server);
    let state = |state: &String| session.phase().name() == state;
    let text = |text: &String| is_about(session, text);
    session.pool().is_some()
        && filter.server.is_none_or(server)
        && filter.state.as_ref().is_none_or(state)
        && filter.id.is_none_or(|id| session.id() == id)
        && filter.text.as_ref().is_none_or(text)
}

/// Whether a text is part of the session's id, of its client's address or of its path.
fn is_about(session: &Session, text: &str) -> bool {
    session.target().contains(text)
        || session.peer().to_string().contains(text)
        || format!("{:032x}", session.id()).contains(text)
}

/// Slots looked at for one answer: at some 20 ns each, far below a turn that anybody notices.
const LIST_MAX: u32 = 20_000;

/// Bytes of paths that are copied or searched for one answer, up to the end of the last: clients
/// choose how long theirs are, up to `limits.header`.
const BYTES_MAX: usize = 256 << 10;

/// Slots of a search, which writes each session's id and address as text: some 400 ns each.
const SEARCH_MAX: u32 = 1_000;
