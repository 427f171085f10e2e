//! Which request is which, and the answers that need no page of their own.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use log::info;
use serde_json::{Value, json};

use super::message::{Request, Response, decoded};
use super::{Desk, balancer, dashboard, events, openapi, profile, servers, sessions, view};
use crate::control::report;

/// Answers a request that has passed the guard.
pub(super) fn answer(
    desk: &Arc<Desk>,
    request: &Request,
    is_awaited: &dyn Fn() -> bool,
) -> Response {
    let (operation, id) = match Operation::find(&request.method, &request.path) {
        Ok(found) => found,
        Err(refusal) => return refusal,
    };
    let asked = Asked {
        desk,
        request,
        id: &id,
        is_awaited,
    };
    let response = operation
        .check_query(request)
        .and_then(|()| (operation.act)(&asked))
        .unwrap_or_else(|refusal| refusal);
    // Changes are told, and without the query: whatever stands there is nobody's business.
    if operation.method != "GET" {
        let (method, peer, path) = (operation.method, request.peer, request.path.as_str());
        info!("admin: {method} {path} from {peer}: {}", response.status);
    }
    response
}

/// What can be asked for. Each is one row of [`OPERATIONS`] and one page of the description.
pub(super) struct Operation {
    /// GET means HEAD as well.
    pub(super) method: &'static str,
    /// `{id}` is one segment, whatever stands there.
    pub(super) path: &'static str,
    act: Act,
}

/// A request for an operation.
struct Asked<'a> {
    desk: &'a Arc<Desk>,
    request: &'a Request,
    /// Decoded; empty in a path without one.
    id: &'a str,
    /// Whether the client still waits for the answer.
    is_awaited: &'a dyn Fn() -> bool,
}

impl Operation {
    /// The operation that is meant, and the id in the path.
    ///
    /// # Errors
    /// 404, or 405 with the methods that would be right.
    fn find(method: &str, path: &str) -> Result<(&'static Operation, String), Response> {
        let mut allowed: Vec<&str> = Vec::new();
        for operation in OPERATIONS {
            let Some(id) = operation.id_in(path) else {
                continue;
            };
            if operation.methods().contains(&method) {
                return Ok((operation, id));
            }
            allowed.extend(operation.methods());
        }
        if allowed.is_empty() {
            return Err(Response::error(404, "no such route"));
        }
        let reason = format!("{method} is not allowed here");
        Err(Response::error(405, reason).with("Allow", allowed.join(", ")))
    }

    fn methods(&self) -> &[&'static str] {
        match self.method {
            // Nobody means to measure for the sake of a head.
            "GET" if profile::TIMED.contains(&self.path) => &["GET"],
            "GET" => &["GET", "HEAD"],
            _ => std::slice::from_ref(&self.method),
        }
    }

    /// The names that its query may have; `None`: nobody looks at it. Checks and pages are asked for
    /// with all kinds of queries by programs that mean nothing by it.
    pub(super) fn params(&self) -> Option<&'static [&'static str]> {
        match self.path {
            sessions::PATH => Some(&sessions::PARAMS),
            path if profile::TIMED.contains(&path) => Some(&profile::PARAMS),
            profile::HEAP => Some(&[]),
            path if path.starts_with("/v1/") => Some(&[]),
            _ => None,
        }
    }

    fn check_query(&self, request: &Request) -> Result<(), Response> {
        match self.params() {
            Some(known) => request.params(known).map(drop),
            None => Ok(()),
        }
    }

    /// The id in a path of this operation; `None` for another's. Paths are compared as they stand:
    /// `//metrics` and `/%6detrics` are no routes (S03).
    fn id_in(&self, path: &str) -> Option<String> {
        let mut id = String::new();
        let mut theirs = path.split('/');
        for own in self.path.split('/') {
            let given = theirs.next()?;
            match own {
                "{id}" => id = decoded(given).filter(|id| !id.is_empty())?,
                _ if own != given => return None,
                _ => {}
            }
        }
        theirs.next().is_none().then_some(id)
    }
}

/// All of them, those of one path side by side.
pub(super) const OPERATIONS: &[Operation] = &[
    get("/healthz", |_| Ok(Response::text(200, "ok\n"))),
    get("/readyz", |asked| Ok(ready(asked.desk))),
    get("/metrics", |asked| metrics(asked.desk, asked.request)),
    get("/", |_| Ok(dashboard::File::Page.response())),
    get("/dashboard", |_| Ok(dashboard::File::Page.response())),
    get("/dashboard.css", |_| Ok(dashboard::File::Style.response())),
    get("/dashboard.js", |_| Ok(dashboard::File::Script.response())),
    get("/v1/openapi.json", |_| {
        Ok(Response::json(200, openapi::document()))
    }),
    get("/v1/stats", |asked| {
        Ok(Response::json(
            200,
            view::stats(asked.desk, &asked.desk.counted()?),
        ))
    }),
    get(events::PATH, |_| Ok(events::head())),
    get("/v1/pools", |asked| {
        Ok(Response::json(
            200,
            view::pools(asked.desk, &asked.desk.counted()?),
        ))
    }),
    get("/v1/cluster", |asked| {
        Ok(Response::json(200, view::cluster(asked.desk)))
    }),
    get("/v1/servers", |asked| servers::list(asked.desk)),
    post("/v1/servers", |asked| {
        servers::add(asked.desk, asked.request)
    }),
    get("/v1/servers/{id}", |asked| {
        servers::show(asked.desk, asked.id)
    }),
    patch("/v1/servers/{id}", |asked| {
        servers::change(asked.desk, asked.id, asked.request)
    }),
    delete("/v1/servers/{id}", |asked| {
        servers::remove(asked.desk, asked.id, asked.request)
    }),
    post("/v1/servers/{id}/failover", |asked| {
        servers::fail_over(asked.desk, asked.id, asked.request)
    }),
    post("/v1/servers/{id}/reset", |asked| {
        servers::reset(asked.desk, asked.id, asked.request)
    }),
    get(sessions::PATH, |asked| {
        sessions::list(asked.desk, asked.request)
    }),
    get("/v1/sessions/{id}", |asked| {
        sessions::show(asked.desk, asked.id)
    }),
    delete("/v1/sessions/{id}", |asked| {
        sessions::abort(asked.desk, asked.id, asked.request)
    }),
    post("/v1/sessions/{id}/failover", |asked| {
        sessions::fail_over(asked.desk, asked.id, asked.request)
    }),
    post("/v1/accept", |asked| accept(asked.desk, asked.request)),
    get(profile::CPU, |asked| {
        profile::cpu(asked.request, asked.is_awaited)
    }),
    get(profile::HEAP, |asked| profile::heap(asked.request)),
    get(profile::FLAME, |asked| {
        profile::flame(asked.request, asked.is_awaited)
    }),
    get("/backend/list", |asked| balancer::backends(asked.desk)),
    post("/backend/add", |asked| {
        balancer::add(asked.desk, asked.request)
    }),
    get("/backend/config/{id}", |asked| {
        Ok(balancer::config(asked.desk, asked.id))
    }),
    post("/backend/disable/{id}", |asked| {
        balancer::disable(asked.desk, asked.id, asked.request)
    }),
    post("/backend/enable/{id}", |asked| {
        balancer::enable(asked.desk, asked.id, asked.request)
    }),
    post("/backend/failover/{id}", |asked| {
        balancer::fail_over(asked.desk, asked.id, asked.request)
    }),
    post("/backend/reset/{id}", |asked| {
        balancer::reset(asked.desk, asked.id, asked.request)
    }),
    post("/backend/delete/{id}", |asked| {
        balancer::delete(asked.desk, asked.id, asked.request)
    }),
    get("/session/list", |asked| balancer::sessions(asked.desk)),
    post("/session/abort/{id}", |asked| {
        balancer::abort(asked.desk, asked.id, asked.request)
    }),
    post("/session/failover/{id}", |asked| {
        balancer::move_session(asked.desk, asked.id, asked.request)
    }),
    get("/frontend/list", |asked| {
        Ok(balancer::frontends(asked.desk))
    }),
    post("/frontend/pause/{id}", |asked| {
        balancer::pause(asked.desk, asked.id, asked.request, true)
    }),
    post("/frontend/resume/{id}", |asked| {
        balancer::pause(asked.desk, asked.id, asked.request, false)
    }),
];

type Act = fn(&Asked<'_>) -> Result<Response, Response>;

const fn get(path: &'static str, act: Act) -> Operation {
    operation("GET", path, act)
}

const fn post(path: &'static str, act: Act) -> Operation {
    operation("POST", path, act)
}

const fn patch(path: &'static str, act: Act) -> Operation {
    operation("PATCH", path, act)
}

const fn delete(path: &'static str, act: Act) -> Operation {
    operation("DELETE", path, act)
}

const fn operation(method: &'static str, path: &'static str, act: Act) -> Operation {
    Operation { method, path, act }
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
    let here = fleet.pools.iter().filter(|pool| !pool.retired);
    let lost = here.filter(|pool| {
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
    let frontend = desk.frontend.as_deref().filter(|_| desk.legacy_names);
    let text = report::metrics(
        &snapshots,
        &desk.fleet(),
        openmetrics,
        desk.memory_limit.load(Relaxed),
        frontend,
        desk.cluster.as_deref(),
        &desk.expiries(),
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
    desk.pause(paused);
    Ok(Response::json(200, json!({ "paused": paused })))
}

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
