//! `/v1/sessions`: pages over all loops.

use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

use super::message::{Request, Response};
use super::{Desk, servers};
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
    while let Some((shard, from)) = at {
        if rows.len() >= limit || Instant::now() > deadline {
            break;
        }
        (filter.from, filter.limit) = (from, limit - rows.len());
        let (page, next) = ask(desk, shard, &filter)?;
        rows.extend(page);
        at = match next {
            Some(next) => Some((shard, next)),
            None => Some((shard + 1, 0)).filter(|(shard, _)| *shard < desk.board.shards()),
        };
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
            if let Some(row) = rows.first() {
                return Ok(Response::json(200, session(&desk.fleet(), row)));
            }
            if Instant::now() > deadline {
                return Err(Response::silent());
            }
            from = next;
        }
    }
    Err(missing(id))
}

/// Ends one.
pub(super) fn abort(desk: &Desk, id: &str, request: &Request) -> Result<Response, Response> {
    request.fields(&[])?;
    let number = id_of(id)?;
    tell(desk, id, |ticket| Mail::AbortSession { ticket, id: number })?;
    Ok(Response::json(200, json!({ "id": id, "aborted": true })))
}

/// Moves one.
pub(super) fn fail_over(desk: &Desk, id: &str, request: &Request) -> Result<Response, Response> {
    request.fields(&[])?;
    let number = id_of(id)?;
    tell(desk, id, |ticket| Mail::MoveSession { ticket, id: number })?;
    Ok(Response::json(200, json!({ "id": id, "moving": true })))
}

/// Tells all loops; one of them has the session, or none.
fn tell(desk: &Desk, id: &str, mail: impl Fn(u64) -> Mail) -> Result<(), Response> {
    let answers = desk.board.ask_all(mail);
    if answers
        .iter()
        .any(|answer| matches!(answer, Answer::Done(true)))
    {
        return Ok(());
    }
    match answers.len() == desk.board.shards() {
        true => Err(missing(id)),
        // The one that is silent may have it.
        false => Err(Response::silent()),
    }
}

/// Some rows of a loop, and the slot to go on from.
type Page = (Vec<SessionRow>, Option<u32>);

fn ask(desk: &Desk, shard: usize, filter: &Filter) -> Result<Page, Response> {
    let filter = filter.clone();
    match desk
        .board
        .ask(shard, |ticket| Mail::List { ticket, filter })
    {
        Some(Answer::Sessions { rows, next }) => Ok((rows, next)),
        Some(Answer::Done(_) | Answer::Snapshot(_)) | None => Err(Response::silent()),
    }
}

/// The filter, the page's size, and where it begins.
fn asked(desk: &Desk, request: &Request) -> Result<(Filter, usize, (usize, u32)), Response> {
    let bad = |reason: String| Response::error(400, reason);
    let (mut filter, mut limit, mut start) = (Filter::default(), LIMIT_USUAL, (0, 0));
    for (name, value) in request.params(&["server", "state", "limit", "after"])? {
        match name.as_str() {
            "server" => {
                let server = desk.fleet().find(&value);
                filter.server = Some(server.ok_or_else(|| servers::missing(&value))?);
            }
            "state" => {
                if !PHASES.iter().any(|phase| phase.name() == value) {
                    let names = PHASES.map(Phase::name).join(", ");
                    return Err(bad(format!("no state {value:?}; known: {names}")));
                }
                filter.state = Some(value);
            }
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
fn id_of(text: &str) -> Result<u128, Response> {
    let digits = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    u128::from_str_radix(text, 16)
        .ok()
        .filter(|_| digits)
        .ok_or_else(|| missing(text))
}

fn missing(id: &str) -> Response {
    Response::error(404, format!("no session {id:?}"))
}

fn session(fleet: &Fleet, row: &SessionRow) -> Value {
    let pool = row.pool.and_then(|pool| fleet.pools.get(usize::from(pool)));
    let server = row
        .server
        .and_then(|server| fleet.servers.get(usize::from(server)));
    let opened = SystemTime::now() - Duration::from_millis(u64::from(row.age));
    json!({
        "id": format!("{:032x}", row.id),
        "client": row.client.to_string(),
        "path": row.path,
        "pool": pool.map(|pool| pool.name.as_str()),
        "server": server.map(|server| server.id.as_str()),
        "state": row.phase.name(),
        "opened": humantime::format_rfc3339_millis(opened).to_string(),
        "failovers": row.failovers,
        "messages_up": row.messages_up,
        "messages_down": row.messages_down,
        "journal_bytes": row.journal_bytes,
    })
}

const PHASES: [Phase; 8] = [
    Phase::Greeting,
    Phase::Admitting,
    Phase::Open,
    Phase::Moving,
    Phase::Held,
    Phase::Finishing,
    Phase::Parting,
    Phase::Over,
];

/// Sessions of a page, unless asked for otherwise, and at most: some 300 KiB.
const LIMIT_USUAL: usize = 100;
const LIMIT_MAX: usize = 1_000;

/// For one request, however many slots there are to look at.
const SEARCH_MAX: Duration = Duration::from_secs(5);
