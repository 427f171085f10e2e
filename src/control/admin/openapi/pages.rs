//! What is said of each operation.

use serde_json::{Value, json};

use super::schemas::{list_of, named, text};
use crate::control::admin::profile;
use crate::control::admin::sessions::{LIMIT_MAX, LIMIT_USUAL, PHASES};
use crate::session::Phase;

/// One operation's description.
pub(super) struct Page {
    pub(super) tag: &'static str,
    pub(super) summary: &'static str,
    /// Those of the query.
    pub(super) parameters: Vec<Value>,
    /// The body's schema, if there is one.
    pub(super) body: Option<Value>,
    /// Status, meaning, and schemas by media type.
    pub(super) answers: Vec<(u16, &'static str, Value)>,
    /// Refusals beyond those that every request may meet.
    pub(super) refusals: Vec<(u16, &'static str)>,
    /// Whose JSON a refusal has.
    pub(super) spoken: Spoken,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spoken {
    Ours,
    Balancers,
}

/// The page of an operation.
pub(super) fn of(method: &str, path: &str) -> Option<Page> {
    let found = ALL.iter().find(|(key, _)| *key == (method, path));
    found.map(|(_, page)| page())
}

/// An operation's method and path, and its page.
type Entry = ((&'static str, &'static str), fn() -> Page);

/// All of them, in the order of the routes.
pub(super) const ALL: &[Entry] = &[
    (("GET", "/healthz"), || {
        let page = Page::new("checks", "Whether wsteady is alive");
        page.answer(200, "It is.", plain())
    }),
    (("GET", "/readyz"), || {
        let page = Page::new("checks", "Whether each pool has a server for new sessions");
        let page = page.answer(200, "Each has.", plain());
        page.answer(503, "Which has not, or that wsteady stops.", plain())
    }),
    (("GET", "/metrics"), || {
        let page = Page::new("checks", "All counters, for Prometheus");
        let kinds = ["text/plain", "application/openmetrics-text"];
        let content = kinds.map(|kind| (kind.to_owned(), json!({ "schema": text() })));
        let content = Value::Object(content.into_iter().collect());
        page.answer(200, "OpenMetrics, if `Accept` prefers it.", content)
    }),
    (("GET", "/"), dashboard),
    (("GET", "/dashboard"), dashboard),
    (("GET", "/dashboard.css"), || file("text/css")),
    (("GET", "/dashboard.js"), || file("text/javascript")),
    (("GET", "/v1/openapi.json"), || {
        let page = Page::new("checks", "This description");
        page.answer(200, "OpenAPI 3.1.", of_json(json!({ "type": "object" })))
    }),
    (("GET", "/v1/stats"), || {
        let page = Page::new("numbers", "The numbers of all loops");
        page.answer(200, "As of now.", of_json(named("Stats")))
    }),
    (("GET", "/v1/events"), || {
        let page = Page::new("numbers", EVENTS);
        let content = json!({ "text/event-stream": { "schema": named("Event") } });
        let page = page.answer(200, "Events without end, each of that shape.", content);
        page.refusal(429, "100 watch already.")
    }),
    (("GET", profile::CPU), || {
        let page = Page::new(
            "profiles",
            "CPU time of the next seconds, for `go tool pprof`",
        );
        let page = page.takes_seconds(profile::CPU_SECONDS);
        page.answer(200, "A gzipped profile.proto.", of_bytes())
            .refusal(409, "A CPU profile is being made already.")
    }),
    (("GET", profile::HEAP), || {
        let page = Page::new("profiles", "What is allocated, and by whom");
        page.answer(200, "A gzipped profile.proto.", of_bytes())
            .refusal(404, "The program's allocator is not wsteady's.")
    }),
    (("GET", profile::FLAME), || {
        let page = Page::new("profiles", "CPU time of the next seconds as a picture");
        let content = json!({ "image/svg+xml": { "schema": text() } });
        page.takes_seconds(profile::FLAME_SECONDS)
            .answer(200, "A flame graph.", content)
            .refusal(404, "No CPU time was used.")
            .refusal(409, "A CPU profile is being made already.")
    }),
    (("GET", "/v1/pools"), || {
        let page = Page::new("servers", "Pools and their servers");
        page.answer(200, "All pools.", of_json(named("Pools")))
    }),
    (("GET", "/v1/cluster"), || {
        let page = Page::new("numbers", "The other nodes");
        page.answer(
            200,
            "What was last heard of each.",
            of_json(named("Cluster")),
        )
    }),
    (("GET", "/v1/servers"), || {
        let page = Page::new("servers", "Servers");
        page.answer(200, "All that are not gone.", of_json(named("Servers")))
    }),
    (("POST", "/v1/servers"), || {
        let page = Page::new("servers", "Add a server to a pool");
        page.body("NewServer")
            .answer(200, "It was there before.", of_json(named("Servers")))
            .answer(
                201,
                "One for each address of its name.",
                of_json(named("Servers")),
            )
            .refusal(
                409,
                "Another server has the id, or this one another weight.",
            )
            .refusal(422, "The URL's name has no address.")
    }),
    (("GET", "/v1/servers/{id}"), || {
        let page = Page::new("servers", "One server");
        page.answer(200, "As of now.", of_json(named("Server")))
            .missing()
    }),
    (("PATCH", "/v1/servers/{id}"), || {
        let page = Page::new("servers", "Change a server's state or weight");
        page.body("ServerChange")
            .answer(200, "After the change.", of_json(named("Server")))
            .missing()
    }),
    (("DELETE", "/v1/servers/{id}"), || {
        let page = Page::new("servers", "Remove a server for ever; its sessions move");
        page.answer(200, "The last of it.", of_json(named("Server")))
            .missing()
    }),
    (("POST", "/v1/servers/{id}/failover"), || {
        let page = Page::new("servers", "Move all its sessions now");
        page.answer(200, "They begin to.", of_json(named("Server")))
            .missing()
    }),
    (("POST", "/v1/servers/{id}/reset"), || {
        let page = Page::new("servers", "Close its breaker");
        page.answer(200, "After the change.", of_json(named("Server")))
            .missing()
    }),
    (("GET", "/v1/sessions"), || {
        let page = Page::new("sessions", "Sessions, page by page");
        let limit = json!({
            "type": "integer", "minimum": 1, "maximum": LIMIT_MAX, "default": LIMIT_USUAL,
        });
        let state = json!({ "enum": PHASES.map(Phase::name) });
        page.parameter("server", "Only those at this server.", text())
            .parameter("state", "Only those in this state.", state)
            .parameter("search", "Part of an id, an address or a path.", text())
            .parameter("limit", "At most so many.", limit)
            .parameter("after", "`next` of the page before.", text())
            .answer(200, SESSIONS, of_json(named("Sessions")))
            .missing()
    }),
    (("GET", "/v1/sessions/{id}"), || {
        let page = Page::new("sessions", "One session");
        page.answer(200, "As of now.", of_json(named("SessionDetail")))
            .missing()
    }),
    (("DELETE", "/v1/sessions/{id}"), || {
        let page = Page::new("sessions", "End a session with Close 1000");
        page.answer(200, "It ends.", of_json(named("Aborted")))
            .missing()
    }),
    (("POST", "/v1/sessions/{id}/failover"), || {
        let page = Page::new("sessions", "Move a session to another server");
        page.answer(200, "It begins to.", of_json(named("Moving")))
            .missing()
    }),
    (("POST", "/v1/accept"), || {
        let page = Page::new("sessions", "Stop or start taking new clients");
        page.body("Accept")
            .answer(200, "As it is now.", of_json(named("Accept")))
    }),
    (("GET", "/backend/list"), || {
        let page = Page::balancers("Servers, those that take no new sessions last");
        page.answer(200, "All that are not gone.", of_json(list_of("Backend")))
    }),
    (("POST", "/backend/add"), || {
        action("Add a server").body("NewBackend")
    }),
    (("GET", "/backend/config/{id}"), || {
        let page = Page::balancers("A server's settings, which are those of its pool");
        page.answer(
            200,
            "`{}` for an unknown id.",
            of_json(named("BackendConfig")),
        )
    }),
    (("POST", "/backend/disable/{id}"), || {
        action("No new sessions; the old ones stay")
    }),
    (("POST", "/backend/enable/{id}"), || {
        action("New sessions again")
    }),
    (("POST", "/backend/failover/{id}"), || {
        action("Move all its sessions now")
    }),
    (("POST", "/backend/reset/{id}"), || {
        action("Close its breaker")
    }),
    (("POST", "/backend/delete/{id}"), || {
        action("Remove a server; its sessions move")
    }),
    (("GET", "/session/list"), || {
        let page = Page::balancers("All sessions, in chunks");
        page.answer(
            200,
            "It breaks off if a loop falls silent.",
            of_json(list_of("BackendSession")),
        )
    }),
    (("POST", "/session/abort/{id}"), || action("End a session")),
    (("POST", "/session/failover/{id}"), || {
        action("Move a session")
    }),
    (("GET", "/frontend/list"), || {
        let page = Page::balancers("The first listener, which stands for all");
        page.answer(200, "One, or none.", of_json(list_of("Frontend")))
    }),
    (("POST", "/frontend/pause/{id}"), || {
        action("Stop taking new clients")
    }),
    (("POST", "/frontend/resume/{id}"), || {
        action("Take new clients again")
    }),
];

impl Page {
    fn new(tag: &'static str, summary: &'static str) -> Page {
        Page {
            tag,
            summary,
            parameters: Vec::new(),
            body: None,
            answers: Vec::new(),
            refusals: Vec::new(),
            spoken: Spoken::Ours,
        }
    }

    fn balancers(summary: &'static str) -> Page {
        Page {
            spoken: Spoken::Balancers,
            ..Page::new("wsbalancer", summary)
        }
    }

    fn parameter(mut self, name: &str, about: &str, schema: Value) -> Page {
        self.parameters.push(json!({
            "name": name, "in": "query", "description": about, "schema": schema,
        }));
        self
    }

    /// For how long is measured.
    fn takes_seconds(self, usual: u64) -> Page {
        let schema = json!({
            "type": "integer", "minimum": 1, "maximum": profile::SECONDS_MAX, "default": usual,
        });
        self.parameter("seconds", "For how long.", schema)
    }

    fn body(mut self, schema: &str) -> Page {
        self.body = Some(named(schema));
        self
    }

    fn answer(mut self, status: u16, about: &'static str, content: Value) -> Page {
        self.answers.push((status, about, content));
        self
    }

    fn refusal(mut self, status: u16, about: &'static str) -> Page {
        self.refusals.push((status, about));
        self
    }

    fn missing(self) -> Page {
        self.refusal(404, "There is nobody of that id.")
    }
}

/// One of wsbalancer's changes.
fn action(summary: &'static str) -> Page {
    let page = Page::balancers(summary);
    page.answer(200, "What has become of it.", of_json(named("Result")))
}

fn dashboard() -> Page {
    file("text/html")
}

fn file(kind: &str) -> Page {
    let content = json!({ kind: { "schema": text() } });
    Page::new("dashboard", "The dashboard, for people").answer(200, "Its file.", content)
}

/// The parameter for which `{id}` stands in a path.
pub(super) fn id(path: &str) -> Value {
    let session = path.starts_with("/v1/sessions/");
    let schema = match session {
        true => named("SessionId"),
        // Also encoded, control characters stand in no path.
        false => json!({ "type": "string", "pattern": r"^[^\x00-\x1f\x7f]+$" }),
    };
    json!({ "name": "id", "in": "path", "required": true, "schema": schema })
}

fn plain() -> Value {
    json!({ "text/plain": { "schema": text() } })
}

fn of_bytes() -> Value {
    json!({ "application/octet-stream": { "schema": { "type": "string", "format": "binary" } } })
}

fn of_json(schema: Value) -> Value {
    json!({ "application/json": { "schema": schema } })
}

pub(super) const TAGS: [(&str, &str); 7] = [
    ("checks", "For other programs: alive, ready, metrics."),
    ("numbers", "What the dashboard shows."),
    ("servers", "Pools and servers."),
    ("sessions", "Sessions, and who may begin one."),
    ("dashboard", "The page and its files."),
    ("profiles", "Where CPU time and memory go."),
    (
        "wsbalancer",
        "The same actions under wsbalancer's names, in its JSON.",
    ),
];

const EVENTS: &str = "The numbers once a second, and what happens to sessions and servers";
const SESSIONS: &str = "A page may be short, even empty, and still have a next one.";
