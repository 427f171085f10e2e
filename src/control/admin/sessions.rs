//! `/v1/sessions`: pages over all loops.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::message::{Request, Response};
use super::{Desk, ListedSession, Refusal, actions};
use crate::fleet::Fleet;
use crate::session::Phase;
use crate::shard::mail::{Answer, Filter, Mail};
use crate::shard::stats::SessionRow;

/// A page of them. `next` is there if there may be more: the cursor to give as `after`. A page may
/// be short, even empty, and still have a next one: a loop looks at so many slots at a time.
pub(super) fn list(desk: &Desk, request: &Request) -> Result<Response, Response> {
    let (mut filter, limit, start) = asked(desk, request)?;
    let deadline = Instant::now() + SEARCH_MAX;
    let mut rows = Vec::new();
    let mut at = Some(start);
    while let Some(place) = at {
        if rows.len() >= limit || Instant::now() > deadline {
            break;
        }
        filter.limit = limit - rows.len();
        let (page, next) = page(desk, &mut filter, place)?;
        rows.extend(page);
        at = next;
    }
    let fleet = desk.fleet();
    let sessions: Vec<Value> = rows.iter().map(|row| session(&fleet, row)).collect();
    let next = at.map(|(shard, from)| format!("{shard}.{from}"));
    Ok(Response::json(
        200,
        json!({ "sessions": sessions, "next": next }),
    ))
}

pub(super) fn show(desk: &Desk, id: &str) -> Result<Response, Response> {
    let row = find(desk, id)?;
    Ok(Response::json(200, detail(&desk.fleet(), &row)))
}

/// Ends one.
pub(super) fn abort(desk: &Desk, id: &str, request: &Request) -> Result<Response, Response> {
    request.fields(&[])?;
    desk.close_session(id)?;
    Ok(Response::json(200, json!({ "id": id, "aborted": true })))
}

/// Moves one.
pub(super) fn fail_over(desk: &Desk, id: &str, request: &Request) -> Result<Response, Response> {
    request.fields(&[])?;
    desk.fail_over_session(id)?;
    Ok(Response::json(200, json!({ "id": id, "moving": true })))
}

/// Looks on one loop after the other.
pub(super) fn find(desk: &Desk, id: &str) -> Result<SessionRow, Refusal> {
    let number = id_of(id)?;
    let deadline = Instant::now() + SEARCH_MAX;
    for shard in 0..desk.board.shards() {
        let mut from = Some(0);
        while let Some(start) = from {
            let filter = Filter {
                id: Some(number),
                from: start,
                limit: 1,
                ..Filter::default()
            };
            let (rows, next) = ask(desk, shard, &filter)?;
            if let Some(row) = rows.into_iter().next() {
                return Ok(row);
            }
            if Instant::now() > deadline {
                return Err(Refusal::Silent);
            }
            from = next;
        }
    }
    Err(missing(id))
}

/// Tells one loop after the other, until one has the session. Each looks at so many slots at a time.
pub(super) fn tell(
    desk: &Desk,
    id: &str,
    mail: impl Fn(u64, u128, u32) -> Mail,
) -> Result<(), Refusal> {
    let number = id_of(id)?;
    let mut silent = false;
    for shard in 0..desk.board.shards() {
        let mut from = Some(0);
        while let Some(start) = from {
            from = match desk.board.ask(shard, |ticket| mail(ticket, number, start)) {
                Some(Answer::Done(true)) => return Ok(()),
                Some(Answer::Further(next)) => Some(next),
                Some(Answer::Done(false)) => None,
                Some(_) | None => {
                    silent = true;
                    None
                }
            };
        }
    }
    // The one that is silent may have it.
    Err(if silent { Refusal::Silent } else { missing(id) })
}

/// All sessions of all loops, page by page. Ends with the first error.
pub(super) struct Pages {
    desk: Arc<Desk>,
    at: Option<Place>,
}

impl Pages {
    pub(super) fn new(desk: Arc<Desk>) -> Pages {
        Pages {
            desk,
            at: Some((0, 0)),
        }
    }
}

impl Iterator for Pages {
    type Item = Result<Vec<SessionRow>, Refusal>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut filter = Filter {
            limit: LIMIT_MAX,
            ..Filter::default()
        };
        let found = page(&self.desk, &mut filter, self.at.take()?);
        Some(found.map(|(rows, next)| {
            self.at = next;
            rows
        }))
    }
}

/// All sessions of all loops, one by one. They are asked for a page at a time, when the one before
/// is used up: no loop looks at more than 20,000 slots for one answer, and messages pass in between.
/// What comes and goes meanwhile may be listed or not; no session is listed twice.
///
/// [`Refusal::Silent`] is the last item if a loop does not answer: then sessions are missing.
pub struct Sessions {
    desk: Arc<Desk>,
    pages: Pages,
    page: std::vec::IntoIter<ListedSession>,
}

impl Sessions {
    /// Asks nobody yet.
    pub fn new(desk: Arc<Desk>) -> Sessions {
        Sessions {
            pages: Pages::new(Arc::clone(&desk)),
            page: Vec::new().into_iter(),
            desk,
        }
    }
}

impl Iterator for Sessions {
    type Item = Result<ListedSession, Refusal>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(session) = self.page.next() {
                return Some(Ok(session));
            }
            match self.pages.next()? {
                Ok(rows) => {
                    let fleet = self.desk.fleet();
                    let page = rows.iter().map(|row| ListedSession::new(&fleet, row));
                    self.page = page.collect::<Vec<_>>().into_iter();
                }
                Err(refusal) => return Some(Err(refusal)),
            }
        }
    }
}

/// A loop, and a slot there.
type Place = (usize, u32);

/// Some rows of a loop, and the slot to go on from.
type Page = (Vec<SessionRow>, Option<u32>);

/// A page from that place on, and the place of the next one.
fn page(
    desk: &Desk,
    filter: &mut Filter,
    (shard, from): Place,
) -> Result<(Vec<SessionRow>, Option<Place>), Refusal> {
    filter.from = from;
    let (rows, next) = ask(desk, shard, filter)?;
    let next = match next {
        Some(next) => Some((shard, next)),
        None => Some((shard + 1, 0)).filter(|(shard, _)| *shard < desk.board.shards()),
    };
    Ok((rows, next))
}

fn ask(desk: &Desk, shard: usize, filter: &Filter) -> Result<Page, Refusal> {
    let filter = filter.clone();
    match desk
        .board
        .ask(shard, |ticket| Mail::List { ticket, filter })
    {
        Some(Answer::Sessions { rows, next }) => Ok((rows, next)),
        Some(_) | None => Err(Refusal::Silent),
    }
}

/// The filter, the page's size, and where it begins.
fn asked(desk: &Desk, request: &Request) -> Result<(Filter, usize, Place), Response> {
    let bad = |reason: String| Response::error(400, reason);
    let (mut filter, mut limit, mut start) = (Filter::default(), LIMIT_USUAL, (0, 0));
    for (name, value) in request.params(&PARAMS)? {
        match name.as_str() {
            "server" => {
                filter.server = Some(actions::named(&desk.fleet(), &value)?);
            }
            "state" => {
                if !PHASES.iter().any(|phase| phase.name() == value) {
                    let names = PHASES.map(Phase::name).join(", ");
                    return Err(bad(format!("no state {value:?}; known: {names}")));
                }
                filter.state = Some(value);
            }
            "search" => filter.text = Some(value).filter(|text| !text.is_empty()),
            "limit" => {
                let number = value.parse().ok();
                limit = number
                    .filter(|limit| (1..=LIMIT_MAX).contains(limit))
                    .ok_or_else(|| bad(format!("limit must be 1 to {LIMIT_MAX}")))?;
            }
            _ => {
                let cursor = value.split_once('.');
                let parsed = cursor.and_then(|(shard, from)| {
                    Some((shard.parse::<usize>().ok()?, from.parse::<u32>().ok()?))
                });
                start = parsed
                    .filter(|(shard, _)| *shard < desk.board.shards())
                    .ok_or_else(|| bad(format!("{value:?} is no cursor of ours")))?;
            }
        }
    }
    Ok((filter, limit, start))
}

/// 32 hexadecimal digits, as in `X-Wsteady-Session`. Anything else can be nobody's.
fn id_of(text: &str) -> Result<u128, Refusal> {
    let digits = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    u128::from_str_radix(text, 16)
        .ok()
        .filter(|_| digits)
        .ok_or_else(|| missing(text))
}

pub(super) fn missing(id: &str) -> Refusal {
    Refusal::Missing(format!("no session {id:?}"))
}

fn session(fleet: &Fleet, row: &SessionRow) -> Value {
    let listed = ListedSession::new(fleet, row);
    json!({
        "id": listed.id,
        "client": listed.client.to_string(),
        "path": listed.path,
        "pool": listed.pool,
        "server": listed.server,
        "state": listed.state.name(),
        "opened": humantime::format_rfc3339_millis(listed.opened).to_string(),
        "failovers": listed.failovers,
        "messages_up": listed.messages_up,
        "messages_down": listed.messages_down,
        "journal_bytes": listed.journal_bytes,
    })
}

/// What its page shows beside what the list has.
fn detail(fleet: &Fleet, row: &SessionRow) -> Value {
    let seconds = |ms: u32| f64::from(ms) * 1e-3;
    let mut value = session(fleet, row);
    let server = row
        .server
        .and_then(|server| fleet.servers.get(usize::from(server)));
    let bound = matches!(row.phase, Phase::Open | Phase::Moving | Phase::Finishing);
    value["age_seconds"] = json!(seconds(row.age));
    value["waiting_seconds"] = json!(row.waiting.map(seconds));
    value["confirmed"] = json!(row.confirmed);
    value["unconfirmed"] = json!(row.messages_up.saturating_sub(row.confirmed));
    value["legs"] = json!({
        "client": { "address": row.client.to_string(), "connected": row.has_client },
        "upstream": server.map(|server| json!({
            "server": server.id,
            "url": server.url,
            "address": server.address.to_string(),
            "connected": bound,
        })),
    });
    value
}

pub(super) const PATH: &str = "/v1/sessions";

/// What a list may be asked with.
pub(super) const PARAMS: [&str; 5] = ["server", "state", "search", "limit", "after"];

/// All there are, to ask for.
pub(super) const PHASES: [Phase; 9] = [
    Phase::Greeting,
    Phase::Serving,
    Phase::Admitting,
    Phase::Open,
    Phase::Moving,
    Phase::Held,
    Phase::Finishing,
    Phase::Parting,
    Phase::Over,
];

/// Sessions of a page, unless asked for otherwise, and at most: some 300 KiB.
pub(super) const LIMIT_USUAL: usize = 100;
pub(super) const LIMIT_MAX: usize = 1_000;

/// For one request, however many slots there are to look at.
const SEARCH_MAX: Duration = Duration::from_secs(5);
