//! Which request is which, and the answers that need no page of their own.

use std::sync::atomic::Ordering::Relaxed;

use log::info;
use serde_json::{Value, json};

use super::message::{Request, Response, decoded};
use super::{Desk, servers, sessions, view};
use crate::control::report;
use crate::shard::mail::Mail;

/// Answers a request that has passed the guard.
pub(super) fn answer(desk: &Desk, request: &Request) -> Response {
    let method = request.method.as_str();
    let Some(place) = Place::find(&request.path) else {
        let later = LATER.iter().any(|start| request.path.starts_with(start));
        let reason = if later { NOT_YET } else { "no such route" };
        return Response::error(404, reason);
    };
    if place.is_later(method) {
        return Response::error(404, NOT_YET);
    }
    let allowed = place.methods();
    if !allowed.contains(&method) {
        let reason = format!("{method} is not allowed here");
        return Response::error(405, reason).with("Allow", allowed.join(", "));
    }
    let response = dispatch(desk, request, &place).unwrap_or_else(|refusal| refusal);
    // Changes are told, and without the query: whatever stands there is nobody's business.
    if !matches!(method, "GET" | "HEAD") {
        let (peer, path) = (request.peer, request.path.as_str());
        info!("admin: {method} {path} from {peer}: {}", response.status);
    }
    response
}

fn dispatch(desk: &Desk, request: &Request, place: &Place) -> Result<Response, Response> {
    match place {
        Place::Health => Ok(Response::text(200, "ok\n")),
        Place::Ready => Ok(ready(desk)),
        Place::Metrics => metrics(desk, request),
        Place::Page => Ok(page()),
        Place::Stats => Ok(Response::json(200, view::stats(desk, &desk.counted()?))),
        Place::Pools => Ok(Response::json(200, view::pools(desk, &desk.counted()?))),
        Place::Accept => accept(desk, request),
        Place::Servers => servers::list(desk),
        Place::Server(id) if request.method == "PATCH" => servers::change(desk, id, request),
        Place::Server(id) => servers::show(desk, id),
        Place::ServerFailover(id) => servers::fail_over(desk, id, request),
        Place::ServerReset(id) => servers::reset(desk, id, request),
        Place::Sessions => sessions::list(desk, request),
        Place::Session(id) if request.method == "DELETE" => sessions::abort(desk, id, request),
        Place::Session(id) => sessions::show(desk, id),
        Place::SessionFailover(id) => sessions::fail_over(desk, id, request),
    }
}

/// Something that has a route. Ids are decoded.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    Health,
    Ready,
    Metrics,
    Page,
    Stats,
    Pools,
    Accept,
    Servers,
    Server(String),
    ServerFailover(String),
    ServerReset(String),
    Sessions,
    Session(String),
    SessionFailover(String),
}

impl Place {
    /// Paths are compared as they stand: `//metrics` and `/%6detrics` are no routes (S03).
    fn find(path: &str) -> Option<Place> {
        let segments: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
        let id = |text: &str| decoded(text).filter(|id| !id.is_empty());
        Some(match segments[..] {
            [""] => Place::Page,
            ["healthz"] => Place::Health,
            ["readyz"] => Place::Ready,
            ["metrics"] => Place::Metrics,
            ["v1", "stats"] => Place::Stats,
            ["v1", "pools"] => Place::Pools,
            ["v1", "accept"] => Place::Accept,
            ["v1", "servers"] => Place::Servers,
            ["v1", "servers", server] => Place::Server(id(server)?),
            ["v1", "servers", server, "failover"] => Place::ServerFailover(id(server)?),
            ["v1", "servers", server, "reset"] => Place::ServerReset(id(server)?),
            ["v1", "sessions"] => Place::Sessions,
            ["v1", "sessions", session] => Place::Session(id(session)?),
            ["v1", "sessions", session, "failover"] => Place::SessionFailover(id(session)?),
            _ => return None,
        })
    }

    fn methods(&self) -> &'static [&'static str] {
        match self {
            Place::Health | Place::Ready | Place::Metrics | Place::Page => &["GET", "HEAD"],
            Place::Stats | Place::Pools | Place::Servers | Place::Sessions => &["GET", "HEAD"],
            Place::Server(_) => &["GET", "HEAD", "PATCH"],
            Place::Session(_) => &["GET", "HEAD", "DELETE"],
            Place::Accept | Place::ServerFailover(_) => &["POST"],
            Place::ServerReset(_) | Place::SessionFailover(_) => &["POST"],
        }
    }

    /// Adding and removing servers comes with a later version.
    fn is_later(&self, method: &str) -> bool {
        matches!(
            (self, method),
            (Place::Servers, "POST") | (Place::Server(_), "DELETE")
        )
    }
}

/// Ready: each pool has a server for new sessions, and wsteady is not on its way out.
fn ready(desk: &Desk) -> Response {
    if desk.draining.load(Relaxed) {
        return Response::text(503, "draining\n");
    }
    let Some(snapshots) = desk.snapshots() else {
        return Response::text(503, "a loop does not answer\n");
    };
    let fleet = desk.fleet();
    let lost = fleet.pools.iter().filter(|pool| {
        let mut members = pool.members.iter();
        !members.any(|id| report::is_up(&fleet.servers[usize::from(*id)], *id, &snapshots))
    });
    let lost: Vec<String> = lost
        .map(|pool| format!("pool {} has no usable server\n", pool.name))
        .collect();
    match lost.is_empty() {
        true => Response::text(200, "ready\n"),
        false => Response::text(503, lost.concat()),
    }
}

fn metrics(desk: &Desk, request: &Request) -> Result<Response, Response> {
    let snapshots = desk.counted()?;
    let openmetrics = wants_openmetrics(request.header("accept").unwrap_or_default());
    let frontend = desk.frontend.as_deref();
    let text = report::metrics(
        &snapshots,
        &desk.fleet(),
        openmetrics,
        desk.memory_limit,
        frontend,
    );
    let kind = if openmetrics {
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    } else {
        "text/plain; version=0.0.4; charset=utf-8"
    };
    Ok(Response::new(200, kind, text))
}

/// Whether OpenMetrics is asked for by name, and plain text not asked for more (RFC 9110 12.5.1).
fn wants_openmetrics(accept: &str) -> bool {
    let weight = |wanted: &str| {
        let ranges = accept.split(',').filter_map(|range| {
            let mut parts = range.split(';').map(str::trim);
            let named = parts.next()?.eq_ignore_ascii_case(wanted);
            let given = parts.find_map(|part| part.strip_prefix("q="));
            let weight = given.map_or(1.0, |text| text.parse::<f32>().unwrap_or(0.0));
            named.then_some(weight)
        });
        ranges.fold(0.0, f32::max)
    };
    let openmetrics = weight("application/openmetrics-text");
    openmetrics > 0.0 && openmetrics >= weight("text/plain")
}

/// Stops or starts taking new clients.
fn accept(desk: &Desk, request: &Request) -> Result<Response, Response> {
    let fields = request.fields(&["paused"])?;
    let Some(Value::Bool(paused)) = fields.get("paused").cloned() else {
        return Err(Response::error(
            400,
            "field \"paused\" must be true or false",
        ));
    };
    // Under the lock, so that of two changes at once all loops and this flag know the same last.
    let fleet = desk.fleet();
    desk.paused.store(paused, Relaxed);
    desk.board.tell_all(|| Mail::Accepting(!paused));
    drop(fleet);
    Ok(Response::json(200, json!({ "paused": paused })))
}

/// Our own page asks this address alone.
fn page() -> Response {
    Response::html(include_str!("page.html").to_string())
}

/// Routes of the documented API that come with later versions.
const LATER: [&str; 6] = [
    "/v1/",
    "/debug/pprof/",
    "/debug/flame",
    "/backend/",
    "/session/",
    "/frontend/",
];

const NOT_YET: &str = "not supported yet";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openmetrics_only_if_asked_for() {
        let rows = [
            ("", false),
            ("*/*", false),
            ("text/plain", false),
            ("application/openmetrics-text", true),
            (
                "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.3",
                true,
            ),
            (
                "application/openmetrics-text; q=0.2, text/plain;version=0.0.4;q=0.3",
                false,
            ),
            ("application/openmetrics-text;q=0", false),
        ];
        for (accept, wanted) in rows {
            assert_eq!(wants_openmetrics(accept), wanted, "{accept}");
        }
    }
}
