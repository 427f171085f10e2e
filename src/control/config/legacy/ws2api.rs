//! ws2api's flags and environment.

use super::super::tree::{Node, Value};
use super::super::{Place, Problem, Sources, duration_text};
use super::{Older, Program, go, note};

/// What was given in ws2api's words, each value with the flag or variable it came from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ws2api {
    pub max_body: Option<(String, String)>,
    pub api_timeout: Option<(String, String)>,
    pub stats_interval: Option<(String, String)>,
    /// Its API is what clients are bridged to.
    pub has_pool: bool,
}

/// A bound of ws2api's on every bridge, as a node of wsteady's.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct BridgeTimeout(Node);

impl Ws2api {
    /// Lays all of it over the file.
    ///
    /// # Errors
    /// What is no number or no time.
    pub fn lay(&self, sources: &mut Sources) -> Result<(), Problem> {
        let mut notes = Vec::new();
        if let Some((text, origin)) = &self.max_body {
            let place = Place::named(origin);
            let wrong = |message| note(&place, format!("max-body: {message}"));
            go::int(text).map_err(wrong)?;
            sources.put(&["limits", "message"], text, origin);
            notes.push(note(
                &place,
                "max-body: bounds what clients send, too, for which ws2api has 16 MiB",
            ));
        }
        if let Some((text, origin)) = &self.api_timeout {
            let place = Place::named(origin);
            let time = go::duration(text)
                .map_err(|message| note(&place, format!("api-timeout: {message}")))?;
            let node = Node::scalar(&duration_text(time), place);
            sources.bridge_timeout = Some(BridgeTimeout(node));
        }
        if let Some((text, origin)) = &self.stats_interval {
            let place = Place::named(origin);
            let time = go::duration(text)
                .map_err(|message| note(&place, format!("stats-interval: {message}")))?;
            if !time.is_zero() {
                notes.push(note(
                    &place,
                    "stats-interval: no numbers are logged; /metrics at the admin address has them",
                ));
            }
        }
        if self.has_pool {
            sources.put(
                &["pools", "api", "connections", "max"],
                "10000",
                "ws2api's default",
            );
            notes.push(note(
                &Place::named("ws2api's default"),
                "pushes are taken from loopback and from the API's own addresses, not from \
                 everybody; list others in `push.allow`",
            ));
        }
        let program = Program::Ws2api;
        sources.ws2api = Some(Older { program, notes });
        Ok(())
    }
}

impl BridgeTimeout {
    /// Gives every bridge of a configuration this time.
    pub fn lay(&self, root: &mut Node) {
        let Some(Value::Map(pools)) = root.find("pools").map(|node| &node.value) else {
            return;
        };
        let bridge = Value::Scalar("bridge".into());
        let is_bridge = |node: &Node| node.find("kind").is_some_and(|kind| kind.value == bridge);
        let names: Vec<String> = pools
            .iter()
            .filter(|entry| is_bridge(&entry.node))
            .map(|entry| entry.key.clone())
            .collect();
        for name in names {
            root.graft(&["pools", &name, "timeouts", "response"], self.0.clone());
        }
    }
}

impl std::fmt::Debug for BridgeTimeout {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "timeouts.response from {}", self.0.place)
    }
}

/// Where ws2api listens, and the API it asks, unless it is told.
pub(crate) const LISTEN: &str = ":7001";
pub(crate) const API: &str = "http://localhost:8000/wsoverhttp/";

pub(crate) const VARIABLES: &[&str] = &[
    "WS2API_LISTEN",
    "WS2API_URL",
    "WS2API_MAX_BODY",
    "WS2API_TIMEOUT",
    "WS2API_STATS_INTERVAL",
];
