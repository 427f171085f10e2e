//! The page, and the routes that it asks.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use serde_json::{Value, json};

use super::Stage;
use crate::control::admin::{Annex, Request, Response};

/// Answers what the admin server has no route for.
pub struct Page {
    stage: Arc<Stage>,
}

impl Page {
    pub fn new(stage: Arc<Stage>) -> Page {
        Page { stage }
    }

    fn act(&self, name: &str, action: &str) -> Option<Response> {
        let wrong = |status, error: String| Response::json(status, json!({ "error": error }));
        let Some(server) = self.stage.servers.iter().find(|one| one.name() == name) else {
            return Some(wrong(404, format!("no server {name:?}")));
        };
        match action {
            "kill" => self.stage.kill(server),
            "revive" => {
                if let Err(error) = self.stage.revive(server) {
                    return Some(wrong(500, format!("{name} can't be revived: {error}")));
                }
            }
            _ => return None,
        }
        Some(Response::json(200, state(&self.stage)))
    }
}

impl Annex for Page {
    fn handle(&self, request: &Request) -> Option<Response> {
        if let Some(rest) = request.path.strip_prefix("/demo/servers/") {
            let (name, action) = rest.split_once('/')?;
            return match request.method.as_str() {
                "POST" => self.act(name, action),
                // A link or an image of another page must not kill anything.
                _ => Some(Response::json(405, json!({"error": "POST alone"}))),
            };
        }
        match (request.method.as_str(), request.path.as_str()) {
            ("GET" | "HEAD", "/") => Some(Response::html(PAGE.to_string())),
            ("GET" | "HEAD", "/demo/state") => Some(Response::json(200, state(&self.stage))),
            _ => None,
        }
    }
}

/// All that the page shows, as of the last look at the loops: a tenth of a second old at most.
pub(super) fn state(stage: &Stage) -> Value {
    let names = stage.names();
    let servers: Vec<Value> = stage
        .servers
        .iter()
        .map(|server| {
            json!({
                "name": server.name(),
                "address": server.address().to_string(),
                "alive": server.is_alive(),
                "connections": server.connections(),
                "messages": server.messages(),
            })
        })
        .collect();
    let now = stage.now_ms();
    let story = stage.story();
    let first = story.entries.len().saturating_sub(EVENTS_SHOWN);
    let events = story.entries.range(first..);
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "demo": stage.number,
        "url": stage.proxy().map(client_url),
        "proxy": stage.proxy().map(|address| address.to_string()),
        "now_ms": now,
        "ends_ms": stage.length.map(|length| length.as_millis() as u64),
        "servers": servers,
        "sessions": story.look.sessions_json(&names),
        "replayed": story.look.replayed,
        "journaled": story.look.journaled,
        "events": events.map(|entry| entry.json(&names)).collect::<Vec<_>>(),
    })
}

/// Where a browser on this machine opens its WebSocket.
fn client_url(address: SocketAddr) -> String {
    format!("ws://{}/demo", reachable(address))
}

/// An address to dial for one to listen on.
pub(super) fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        let home = match address.ip() {
            IpAddr::V4(_) => IpAddr::from(std::net::Ipv4Addr::LOCALHOST),
            IpAddr::V6(_) => IpAddr::from(std::net::Ipv6Addr::LOCALHOST),
        };
        address.set_ip(home);
    }
    address
}

const PAGE: &str = include_str!("page.html");

/// The page asks four times a second and remembers what it saw.
const EVENTS_SHOWN: usize = 30;
