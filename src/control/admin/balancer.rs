//! wsbalancer's routes: other names for what the API does, in wsbalancer's JSON.
//!
//! An action that fails is answered as there: 200, `failed` and a reason. What wsbalancer never
//! refused (another method, a foreign page, a loop that is silent) has the status that it has on
//! all other routes.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::message::{Pieces, Request, Response};
use super::sessions::{self, Pages};
use super::{Desk, actions};
use crate::control::config::{BALANCER_BACKEND, PoolConfig, PoolKind};
use crate::control::recruiter::Recruit;
use crate::control::report;
use crate::fleet::{Fleet, ServerState};
use crate::shard::stats::{SessionRow, Snapshot};

type Answer = Result<Response, Response>;

/// Refusals on these routes say `failed` as well; others stay as they are.
pub(super) fn in_its_words(path: &str, mut response: Response) -> Response {
    let ours = ["/backend/", "/session/", "/frontend/"];
    if response.status >= 400 && ours.iter().any(|start| path.starts_with(start)) {
        let reason = match response.status {
            405 if response.header("Allow") == Some("POST") => ONLY_POST.to_string(),
            _ => response.reason(),
        };
        response.body = format!("{}\n", Outcome::Failed(reason).json()).into_bytes();
    }
    response
}

/// `/backend/list`: those that take no new sessions last.
pub(super) fn backends(desk: &Desk) -> Answer {
    let snapshots = desk.counted()?;
    let fleet = desk.fleet();
    let mut servers: Vec<u16> = actions::live(&fleet).collect();
    servers.sort_by_key(|server| !is_enabled(&fleet, *server));
    let rows = servers.iter().map(|server| {
        let place = &fleet.servers[usize::from(*server)];
        let count = report::server_count(*server, &snapshots);
        json!({
            "url": place.url,
            "id": place.id,
            "activeConnections": count.sessions,
            "enabled": is_enabled(&fleet, *server),
            "tripped": report::is_open(*server, &snapshots),
            "totalConnections": count.sessions_total,
            "totalFailures": count.failures,
        })
    });
    Ok(Response::json(200, Value::Array(rows.collect())))
}

/// `/backend/add`. Settings are those of the pool; what is said of them is left out, and told.
pub(super) fn add(desk: &Desk, request: &Request) -> Answer {
    let outcome = match wanted(desk, request) {
        Ok((wanted, left_out)) => recruit(desk, &wanted, &left_out),
        Err(reason) => Outcome::Failed(reason),
    };
    Ok(outcome.response())
}

fn recruit(desk: &Desk, wanted: &Recruit, left_out: &[String]) -> Outcome {
    match desk.add(wanted) {
        Ok(recruited) if !recruited.new => Outcome::Failed(URL_TAKEN.to_string()),
        Ok(_) if left_out.is_empty() => Outcome::Done,
        Ok(_) => Outcome::But(format!(
            "left out, as a server has the settings of its pool: {}",
            left_out.join(", ")
        )),
        Err(refusal) => Outcome::Failed(refusal.to_string()),
    }
}

/// The server that is wanted, and the settings that it can't have for itself.
fn wanted(desk: &Desk, request: &Request) -> Result<(Recruit, Vec<String>), String> {
    let fields = request.fields(BALANCER_BACKEND);
    let fields = fields.map_err(|refusal| refusal.reason())?;
    let text = |name: &str| match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone()).filter(|text| !text.is_empty())),
        Some(_) => Err(format!("field {name:?} must be a text")),
    };
    let url = text("url")?.ok_or(NO_URL)?;
    let pools = desk.recruiter.pools();
    let pool = pool_of(&pools)?;
    if is_served(desk, pool, &url) {
        return Err(URL_TAKEN.to_string());
    }
    let settings = BALANCER_BACKEND.iter().filter(|name| !OWN.contains(name));
    let left_out = settings.filter(|name| fields.contains_key(**name));
    let recruit = Recruit {
        pool: pool.name.clone(),
        url,
        id: text("id")?,
        weight: None,
    };
    Ok((recruit, left_out.map(|name| name.to_string()).collect()))
}

/// The only WebSocket pool, or the one that a configuration of wsbalancer's makes.
fn pool_of(pools: &[PoolConfig]) -> Result<&PoolConfig, String> {
    let kind = |pool: &&PoolConfig| pool.kind == PoolKind::Websocket;
    let pools: Vec<&PoolConfig> = pools.iter().filter(kind).collect();
    match pools[..] {
        [only] => Ok(only),
        [] => Err("there is no WebSocket pool".to_string()),
        _ => pools
            .into_iter()
            .find(|pool| pool.name == POOL)
            .ok_or_else(|| format!("no pool is named {POOL}: POST /v1/servers takes a pool")),
    }
}

/// Whether a server that takes sessions has this URL already. One that is no URL is nobody's.
fn is_served(desk: &Desk, pool: &PoolConfig, url: &str) -> bool {
    let url = pool
        .server(url, None, 1)
        .map(|server| server.url.to_string());
    let fleet = desk.fleet();
    actions::live(&fleet).any(|server| {
        let place = &fleet.servers[usize::from(server)];
        is_enabled(&fleet, server) && Ok(&place.url) == url.as_ref()
    })
}

/// `/backend/config/{id}`.
pub(super) fn config(desk: &Desk, id: &str) -> Response {
    let pools = desk.recruiter.pools();
    let fleet = desk.fleet();
    let found = fleet.find(id).and_then(|server| {
        let place = &fleet.servers[usize::from(server)];
        let name = &fleet.pools[usize::from(place.pool)].name;
        let pool = pools.iter().find(|pool| pool.name == *name)?;
        Some(json!({
            "url": place.url,
            "id": place.id,
            "ping-time": go_time(pool.timeouts.ping),
            // A loop's sessions share one buffer.
            "read-buffer-size": 0,
            "write-buffer-size": 0,
            "breaker-threshold": i32::try_from(pool.breaker.threshold).unwrap_or(-1),
            "handshake-timeout": go_time(pool.timeouts.handshake),
            "pass-headers": list_or_null(&pool.pass_headers),
            "abnormal-close-codes": list_or_null(&pool.abnormal_close_codes),
        }))
    });
    Response::json(200, found.unwrap_or_else(|| json!({})))
}

/// `/backend/disable/{id}`: no new sessions, the old ones stay.
pub(super) fn disable(desk: &Desk, id: &str, request: &Request) -> Answer {
    request.fields(&[])?;
    let mut fleet = desk.fleet();
    let outcome = match fleet.find(id) {
        Some(server) if state(&fleet, server) != ServerState::Disabled => {
            desk.wish(&mut fleet, server, ServerState::Disabled);
            Outcome::Done
        }
        Some(_) | None => Outcome::Needless,
    };
    Ok(outcome.response())
}

pub(super) fn enable(desk: &Desk, id: &str, request: &Request) -> Answer {
    request.fields(&[])?;
    let mut fleet = desk.fleet();
    let outcome = match actions::named(&fleet, id) {
        Ok(server) if !is_enabled(&fleet, server) => {
            desk.wish(&mut fleet, server, ServerState::Enabled);
            Outcome::Done
        }
        Ok(_) => Outcome::Needless,
        Err(missing) => Outcome::Failed(missing.to_string()),
    };
    Ok(outcome.response())
}

/// `/backend/failover/{id}`: moves all its sessions.
pub(super) fn fail_over(desk: &Desk, id: &str, request: &Request) -> Answer {
    request.fields(&[])?;
    let snapshots = desk.counted()?;
    let server = desk.fleet().find(id);
    let busy = |server: &u16| report::server_count(*server, &snapshots).sessions > 0;
    let outcome = match server.filter(busy) {
        Some(_) if desk.fail_over(id).is_ok() => Outcome::Done,
        // Gone meanwhile: its sessions move anyway.
        Some(_) | None => Outcome::Needless,
    };
    Ok(outcome.response())
}

/// `/backend/reset/{id}`: closes its breaker.
pub(super) fn reset(desk: &Desk, id: &str, request: &Request) -> Answer {
    request.fields(&[])?;
    let snapshots: Vec<Snapshot> = desk.counted()?;
    let server = actions::named(&desk.fleet(), id);
    let is_open = |server: u16| report::is_open(server, &snapshots);
    let outcome = match server {
        Ok(server) if is_open(server) && desk.reset(id).is_ok() => Outcome::Done,
        Ok(_) => Outcome::Needless,
        Err(missing) => Outcome::Failed(missing.to_string()),
    };
    Ok(outcome.response())
}

/// `/backend/delete/{id}`: its sessions move.
pub(super) fn delete(desk: &Desk, id: &str, request: &Request) -> Answer {
    request.fields(&[])?;
    let outcome = match desk.remove(id) {
        Ok(_) => Outcome::Done,
        Err(_missing) => Outcome::Needless,
    };
    Ok(outcome.response())
}

/// `/session/list`: all of them, asked of the loops and written page by page.
pub(super) fn sessions(desk: &Arc<Desk>) -> Answer {
    let mut pages = Pages::new(Arc::clone(desk)).peekable();
    if let Some(Err(refusal)) = pages.next_if(Result::is_err) {
        return Err(refusal.into());
    }
    let desk = Arc::clone(desk);
    let mut comma = "";
    let rows = pages.map(move |page| {
        let fleet = desk.fleet();
        let rows = page?.into_iter().map(|row| {
            let before = std::mem::replace(&mut comma, ",");
            format!("{before}{}\n", session(&fleet, &row))
        });
        Ok(rows.collect::<String>().into_bytes())
    });
    let text = |text: &str| std::iter::once(Ok(text.as_bytes().to_vec()));
    let pieces = text("[").chain(rows).chain(text("]\n"));
    Ok(Response::pieces(Pieces::new(pieces)))
}

/// `/session/abort/{id}`.
pub(super) fn abort(desk: &Desk, id: &str, request: &Request) -> Answer {
    let outcome = match found(sessions::abort(desk, id, request))? {
        true => Outcome::Done,
        false => Outcome::Needless,
    };
    Ok(outcome.response())
}

/// `/session/failover/{id}`.
pub(super) fn move_session(desk: &Desk, id: &str, request: &Request) -> Answer {
    let outcome = match found(sessions::fail_over(desk, id, request))? {
        true => Outcome::Done,
        false => Outcome::Failed(sessions::missing(id).to_string()),
    };
    Ok(outcome.response())
}

/// Whether what was asked for is there.
fn found(answer: Answer) -> Result<bool, Response> {
    match answer {
        Ok(_) => Ok(true),
        Err(refusal) if refusal.status == 404 => Ok(false),
        Err(refusal) => Err(refusal),
    }
}

/// `/frontend/list`: the first listener stands for all.
pub(super) fn frontends(desk: &Desk) -> Response {
    let ids = desk.frontend.iter().map(|id| json!({ "id": id }));
    Response::json(200, Value::Array(ids.collect()))
}

/// `/frontend/pause/{id}` and `/frontend/resume/{id}`, for all listeners.
pub(super) fn pause(desk: &Desk, id: &str, request: &Request, paused: bool) -> Answer {
    request.fields(&[])?;
    let outcome = match &desk.frontend {
        Some(own) if own != id => Outcome::Failed(format!("no frontend {id:?}; there is {own}")),
        None => Outcome::Failed(format!("no frontend {id:?}")),
        Some(_) if desk.pause(paused) => Outcome::Done,
        Some(_) => Outcome::Needless,
    };
    Ok(outcome.response())
}

/// What has become of an action.
enum Outcome {
    Done,
    /// It was so before, or there is nothing to do it to.
    Needless,
    /// Done, but for this.
    But(String),
    Failed(String),
}

impl Outcome {
    fn json(&self) -> Value {
        match self {
            Outcome::Done => json!({ "result": "success" }),
            Outcome::Needless => json!({ "result": "success", "reason": "NoActionRequired" }),
            Outcome::But(reason) => json!({ "result": "success", "reason": reason }),
            Outcome::Failed(reason) => json!({ "result": "failed", "reason": reason }),
        }
    }

    fn response(&self) -> Response {
        Response::json(200, self.json())
    }
}

fn session(fleet: &Fleet, row: &SessionRow) -> Value {
    let server = row
        .server
        .and_then(|server| fleet.servers.get(usize::from(server)));
    json!({
        "id": format!("{:032x}", row.id),
        "uri": row.path,
        "backendId": server.map_or("", |server| server.id.as_str()),
        "reconnects": row.failovers,
        "msgsReceived": row.messages_up,
        "msgsSent": row.messages_down,
    })
}

fn state(fleet: &Fleet, server: u16) -> ServerState {
    fleet.servers[usize::from(server)].state
}

fn is_enabled(fleet: &Fleet, server: u16) -> bool {
    state(fleet, server) == ServerState::Enabled
}

/// An empty list was null there.
fn list_or_null<T: serde::Serialize>(list: &[T]) -> Value {
    match list {
        [] => Value::Null,
        some => json!(some),
    }
}

/// A time as programs in Go write it: `10m0s`, `1.5s`, `300ms`.
fn go_time(time: Duration) -> String {
    let ms = time.as_millis();
    if (1..1_000).contains(&ms) {
        return format!("{ms}ms");
    }
    let (hours, minutes) = (ms / 3_600_000, ms / 60_000 % 60);
    let seconds = (ms % 60_000) as f64 / 1e3;
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{seconds}s"),
        (_, _) => format!("{hours}h{minutes}m{seconds}s"),
    }
}

/// What a server has for itself; the rest is its pool's.
const OWN: [&str; 2] = ["url", "id"];

/// The pool that a configuration of wsbalancer's becomes.
const POOL: &str = "default";

const ONLY_POST: &str = "OnlyPostAllowed";
const NO_URL: &str = "no url present in request";
const URL_TAKEN: &str = "url already exists";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_in_go() {
        for (ms, text) in [
            (0, "0s"),
            (300, "300ms"),
            (1_500, "1.5s"),
            (10_000, "10s"),
            (600_000, "10m0s"),
            (3_600_000, "1h0m0s"),
            (90_061_001, "25h1m1.001s"),
        ] {
            assert_eq!(go_time(Duration::from_millis(ms)), text);
        }
    }
}
