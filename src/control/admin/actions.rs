//! What can be done to the fleet and its sessions: one place for the API, for wsbalancer's routes and
//! for programs that have a [`Handle`](crate::Handle).

use std::fmt;

use super::message::Response;
use super::{Desk, ListedServer, ListedSession, sessions};
use crate::control::config::WEIGHT_MAX;
use crate::control::recruiter::{Recruit, Recruited};
use crate::fleet::{Fleet, ServerState};
use crate::shard::{Answer, Asker, Mail, Push, PushVerb, Pushed, Reached};

/// Why something was not done; then nothing has changed. As text, it says what is wrong and what
/// would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// What is wanted makes no sense: a URL that is none, say, or a pool that is not there.
    Wrong(String),
    /// Nobody has this id.
    Missing(String),
    /// It stands against what is there: another server has the id, say.
    Conflict(String),
    /// The name in the URL has no address now.
    Unresolved(String),
    /// The client takes no more now: what it has not read fills its queue.
    Slow,
    /// A loop has not answered within 2 s. Numbers without its share would be wrong, so there are
    /// none; later there may be.
    Silent,
    /// The proxy has stopped.
    Stopped,
}

/// What is to be changed of a server; `None` stays as it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Change {
    /// Any but `Gone`.
    pub state: Option<ServerState>,
    /// 0 to 65,535.
    pub weight: Option<u32>,
}

impl Desk {
    /// All servers but those that are gone, in the order in which they have come.
    ///
    /// # Errors
    /// [`Refusal::Silent`].
    pub fn servers(&self) -> Result<Vec<ListedServer>, Refusal> {
        let snapshots = self.counted()?;
        let fleet = self.fleet();
        let live = live(&fleet).map(|server| ListedServer::new(&fleet, server, &snapshots));
        Ok(live.collect())
    }

    /// Takes a server in, or finds that it is there. A name is resolved first, which may block for
    /// as long as the system's resolver likes.
    ///
    /// # Errors
    /// `Wrong`, `Conflict` or `Unresolved`.
    pub fn add(&self, wanted: &Recruit) -> Result<Recruited, Refusal> {
        self.recruiter.recruit(self, wanted)
    }

    /// Removes a server for ever, and says which number it had. Its sessions move; those for which
    /// there is no other server are held.
    ///
    /// # Errors
    /// `Missing`.
    pub fn remove(&self, id: &str) -> Result<u16, Refusal> {
        let mut fleet = self.fleet();
        let server = named(&fleet, id)?;
        self.set_state(&mut fleet, server, ServerState::Gone);
        Ok(server)
    }

    /// Changes state, weight, or both, and says which number the server has.
    ///
    /// # Errors
    /// `Missing`; `Wrong` for a change of nothing, for a weight beyond 65,535, and for the state
    /// `Gone`, which is no wish but [`remove`](Desk::remove)'s.
    pub fn change(&self, id: &str, change: Change) -> Result<u16, Refusal> {
        let Change { state, weight } = change;
        let mut fleet = self.fleet();
        let server = named(&fleet, id)?;
        if state.is_none() && weight.is_none() {
            return Err(Refusal::Wrong("\"state\" or \"weight\" is needed".into()));
        }
        if state == Some(ServerState::Gone) {
            return Err(Refusal::Wrong(NOT_GONE.into()));
        }
        weight.map_or(Ok(()), check_weight)?;
        // Mailed even if nothing changes: a repeated request mends a loop that knows otherwise.
        if let Some(weight) = weight {
            fleet.servers[usize::from(server)].weight = weight;
            self.board.tell_all(|| Mail::Weight { server, weight });
        }
        if let Some(state) = state {
            self.wish(&mut fleet, server, state);
        }
        Ok(server)
    }

    /// What the operator wants of a server counts, also when its address comes back to DNS.
    pub(super) fn wish(&self, fleet: &mut Fleet, server: u16, state: ServerState) {
        fleet.servers[usize::from(server)].wish = state;
        self.set_state(fleet, server, state);
    }

    /// Moves all sessions of a server now, and says which number it has.
    ///
    /// # Errors
    /// `Missing`.
    pub fn fail_over(&self, id: &str) -> Result<u16, Refusal> {
        let server = named(&self.fleet(), id)?;
        self.board.tell_all(|| Mail::FailOver { server });
        Ok(server)
    }

    /// Closes a server's breaker, and says which number it has.
    ///
    /// # Errors
    /// `Missing`.
    pub fn reset(&self, id: &str) -> Result<u16, Refusal> {
        let server = named(&self.fleet(), id)?;
        self.board.tell_all(|| Mail::Reset { server });
        Ok(server)
    }

    /// Sends a message to the client of a bridge that has this ClientId, wherever it is.
    ///
    /// # Errors
    /// `Missing`, `Slow`; `Silent` if a loop, or the node that may have the client, does not answer;
    /// `Wrong` if another node refuses it.
    pub fn push(&self, id: &str, body: &[u8], binary: bool) -> Result<(), Refusal> {
        let pushed = self.ask_to_push(id, PushVerb::Message { binary }, body);
        pushed.map_or(Err(Refusal::Silent), |pushed| outcome(id, pushed))
    }

    /// Sends a message to every client of a bridge whose ClientId begins like this, wherever they are.
    ///
    /// # Errors
    /// `Silent`: not all were told within 2 s, as far as is known.
    pub fn broadcast(&self, prefix: &str, body: &[u8], binary: bool) -> Result<Reached, Refusal> {
        match self.ask_to_push(prefix, PushVerb::Broadcast { binary }, body) {
            Some(Pushed::Reached(reached)) => Ok(reached),
            _ => Err(Refusal::Silent),
        }
    }

    /// By any loop; it finds the one that has the client. `None`: nobody has answered.
    fn ask_to_push(&self, id: &str, verb: PushVerb, body: &[u8]) -> Option<Pushed> {
        let push = Box::new(Push {
            id: id.into(),
            verb,
            is_hop: false,
            body: body.to_vec(),
        });
        let answer = self.board.ask(0, |ticket| Mail::Push {
            push,
            from: Asker::Ticket(ticket),
        });
        match answer? {
            Answer::Pushed(pushed) => Some(pushed),
            _ => None,
        }
    }

    /// The session of that id.
    ///
    /// # Errors
    /// `Missing`; `Silent` also if a loop has so many that none was found within 5 s.
    pub fn session(&self, id: &str) -> Result<ListedSession, Refusal> {
        let row = sessions::find(self, id)?;
        Ok(ListedSession::new(&self.fleet(), &row))
    }

    /// Closes a session: its client gets 1000, its server the rest of what the client has sent.
    ///
    /// # Errors
    /// `Missing`; `Silent` if a loop does not answer that may have it.
    pub fn close_session(&self, id: &str) -> Result<(), Refusal> {
        sessions::tell(self, id, |ticket, id, from| Mail::AbortSession {
            ticket,
            id,
            from,
        })
    }

    /// Moves a session to another server of its pool now.
    ///
    /// # Errors
    /// As [`close_session`](Desk::close_session).
    pub fn fail_over_session(&self, id: &str) -> Result<(), Refusal> {
        sessions::tell(self, id, |ticket, id, from| Mail::MoveSession {
            ticket,
            id,
            from,
        })
    }
}

/// What a push has come to.
fn outcome(id: &str, pushed: Pushed) -> Result<(), Refusal> {
    match pushed {
        Pushed::Done | Pushed::Seen { .. } | Pushed::Reached(_) => Ok(()),
        Pushed::Elsewhere { status, .. } if (200..300).contains(&status) => Ok(()),
        Pushed::Unknown | Pushed::Elsewhere { status: 404, .. } => {
            Err(Refusal::Missing(format!("{id:?} is not connected")))
        }
        Pushed::Slow => Err(Refusal::Slow),
        Pushed::Elsewhere { status: 503, .. } => Err(Refusal::Silent),
        Pushed::Elsewhere { body, .. } => Err(Refusal::Wrong(body.trim_end().to_string())),
    }
}

/// Whoever names a weight, it is as the configuration would have it.
pub(in crate::control) fn check_weight(weight: u32) -> Result<(), Refusal> {
    if weight > WEIGHT_MAX {
        let reason = format!("weight {weight} is too much; it must be 0 to {WEIGHT_MAX}");
        return Err(Refusal::Wrong(reason));
    }
    Ok(())
}

/// Numbers of the servers that are not gone.
pub(super) fn live(fleet: &Fleet) -> impl Iterator<Item = u16> {
    let all = fleet.servers.iter().enumerate();
    all.filter(|(_, place)| place.state != ServerState::Gone)
        .map(|(number, _)| number as u16)
}

/// The server of that id.
pub(super) fn named(fleet: &Fleet, id: &str) -> Result<u16, Refusal> {
    fleet.find(id).ok_or_else(|| {
        let ids = live(fleet).map(|server| fleet.servers[usize::from(server)].id.as_str());
        let ids: Vec<&str> = ids.collect();
        let known = match ids.split_at_checked(KNOWN_MAX) {
            Some((some, [_, ..])) => {
                let more = ids.len() - some.len();
                format!("{} and {more} more", some.join(", "))
            }
            _ if ids.is_empty() => "none".to_string(),
            _ => ids.join(", "),
        };
        Refusal::Missing(format!("no server {id:?}; there is {known}"))
    })
}

impl fmt::Display for Refusal {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(match self {
            Refusal::Wrong(why)
            | Refusal::Missing(why)
            | Refusal::Conflict(why)
            | Refusal::Unresolved(why) => why,
            Refusal::Slow => "the client is too slow",
            Refusal::Silent => "a loop does not answer",
            Refusal::Stopped => "the proxy has stopped; start another",
        })
    }
}

impl std::error::Error for Refusal {}

impl From<Refusal> for Response {
    fn from(refusal: Refusal) -> Response {
        let status = match refusal {
            Refusal::Wrong(_) => 400,
            Refusal::Missing(_) => 404,
            Refusal::Conflict(_) => 409,
            Refusal::Unresolved(_) => 422,
            Refusal::Slow | Refusal::Silent | Refusal::Stopped => 503,
        };
        Response::error(status, refusal.to_string())
    }
}

const NOT_GONE: &str =
    "\"gone\" can't be set; remove the server, or set enabled, disabled or draining";

/// Ids that an error names: so many are read, and there may be thousands.
const KNOWN_MAX: usize = 8;
