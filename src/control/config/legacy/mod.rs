//! Configurations of the older proxies, said in wsteady's own keys.
//!
//! What their files and variables mean becomes a tree like that of a file of wsteady's own, each
//! value with the place where it stood, and meets the same reader and the same checks. What they
//! ask and wsteady does not do, or does otherwise, becomes a note.
//!
//! **Invariant:** nothing here decides what a value may be; it decides what it means.

mod balancer;
mod go;
mod ini;
mod reverse;
mod ws2api;

#[cfg(test)]
mod tests;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use super::read::Findings;
use super::tree::{self, Node, Value};
use super::{Config, Place, Problem, check, keys};

pub(crate) use balancer::{BACKEND as BALANCER_BACKEND, VARIABLES as BALANCER_VARIABLES};
pub(crate) use ws2api::{
    API as WS2API_API, BridgeTimeout, LISTEN as WS2API_LISTEN, VARIABLES as WS2API_VARIABLES,
    Ws2api,
};

/// An older proxy whose words were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    Wsbalancer,
    WebsocketReverseProxy,
    Ws2api,
}

/// What was said in an older proxy's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Older {
    pub program: Program,
    /// What wsteady does otherwise, or not at all.
    pub notes: Vec<Problem>,
}

/// A file, of whatever program, as a tree of wsteady's keys.
pub(super) struct Draft {
    pub root: Node,
    pub problems: Vec<Problem>,
    pub notes: Vec<Problem>,
    pub program: Option<Program>,
    /// Where an older proxy's admin address stands, which it opened to everybody.
    admin: Option<Place>,
}

/// Reads a file of any kind, with wsbalancer's `variables` over it. `own_pools`: flags replace the
/// pools that are found here.
///
/// # Errors
/// What is no YAML at all.
pub(super) fn read(
    text: &str,
    name: &Arc<str>,
    variables: &[(String, String)],
    own_pools: bool,
) -> Result<Draft, Problem> {
    let mut draft = if is_ini(name) || ini::looks_like(text) {
        reverse::translate(text, name)
    } else {
        let (root, problems) = tree::parse(text, name)?;
        if balancer::is_file(&root) {
            let draft = Draft::over(Node::empty(root.place.clone()), problems);
            return Ok(balancer::translate(
                draft,
                Some(&root),
                variables,
                own_pools,
            ));
        }
        Draft::over(root, problems)
    };
    if balancer::speaks(variables) {
        draft = balancer::translate(draft, None, variables, own_pools);
    }
    Ok(draft)
}

/// Whether a file's name says that it is WebsocketReverseProxy's.
fn is_ini(name: &str) -> bool {
    let suffix = name.rsplit_once('.').map(|(_, suffix)| suffix);
    suffix.is_some_and(|suffix| suffix.eq_ignore_ascii_case("ini"))
}

/// An admin address that an older proxy had, or never had, must not keep wsteady from starting:
/// what was open to everybody goes to loopback, and ours gives way to the clients'.
pub(super) fn tame_admin(
    admin: Option<&Place>,
    config: &mut Config,
    findings: &Findings,
) -> Option<Problem> {
    let place = findings.places.get("admin.address");
    let address = config.admin.address;
    if place.is_some() && place == admin {
        if address.ip().is_loopback() || config.admin.token.is_some() {
            return None;
        }
        config.admin.address.set_ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let message = format!(
            "admin: {address} would be open to everybody; it is at {} instead; a token in \
             WSTEADY_ADMIN_TOKEN opens it",
            config.admin.address
        );
        return Some(note(place?, message));
    }
    let taken = |config: &Config| {
        let mut listen = config.listen.iter();
        listen.any(|one| check::overlap(one.address, config.admin.address))
    };
    if place.is_some() || !taken(config) {
        return None;
    }
    while taken(config) {
        let port = config.admin.address.port();
        config.admin.address.set_port(port.checked_add(1)?);
    }
    let message = format!(
        "its port is that of wsteady's admin address, which is at {} instead",
        config.admin.address
    );
    Some(note(&findings.place_of("listen[0]"), message))
}

impl Program {
    /// Its name, as its users know it.
    pub fn name(self) -> &'static str {
        match self {
            Program::Wsbalancer => "wsbalancer",
            Program::WebsocketReverseProxy => "WebsocketReverseProxy",
            Program::Ws2api => "ws2api",
        }
    }
}

impl fmt::Display for Program {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

impl Older {
    /// What `wsteady check` prints below the configuration, as comments.
    pub fn page(&self) -> String {
        let mut page = format!("\n# This was read as a configuration of {}.", self.program);
        if self.notes.is_empty() {
            page.push_str(" Nothing of it is left out.\n");
            return page;
        }
        page.push_str(" What is done otherwise, or not at all:\n");
        for note in &self.notes {
            // A key of the file may hold a line's end, behind which this would be YAML again.
            let line = note.to_string().replace(char::is_control, " ");
            page.push_str(&format!("# - {line}\n"));
        }
        page
    }
}

impl Draft {
    fn over(root: Node, problems: Vec<Problem>) -> Draft {
        Draft {
            root,
            problems,
            notes: Vec::new(),
            program: None,
            admin: None,
        }
    }

    /// Where an older proxy's admin address stands.
    pub fn admin(&self) -> Option<&Place> {
        self.admin.as_ref()
    }

    /// Says one value in wsteady's words.
    fn put(&mut self, path: &[&str], text: &str, place: &Place) {
        self.root.graft(path, Node::scalar(text, place.clone()));
    }

    /// Says a list.
    fn put_list(&mut self, path: &[&str], items: &[String], place: &Place) {
        let items = items.iter().map(|item| Node::scalar(item, place.clone()));
        let list = Node::list(items.collect(), place.clone());
        self.root.graft(path, list);
    }

    fn note(&mut self, place: &Place, message: impl Into<String>) {
        self.notes.push(note(place, message));
    }

    fn problem(&mut self, place: &Place, message: impl Into<String>) {
        self.problems.push(note(place, message));
    }

    /// Takes a value of `key`, or reports why there is none.
    fn take<T>(&mut self, key: &str, place: &Place, read: Result<T, String>) -> Option<T> {
        read.map_err(|message| self.problem(place, format!("{key}: {message}")))
            .ok()
    }

    /// Reports a key that the older program does not have.
    fn unknown(&mut self, key: &str, place: &Place, known: &[&str]) {
        self.problem(place, unknown(key, known));
    }
}

impl Node {
    /// A map without entries.
    fn empty(place: Place) -> Node {
        Node {
            value: Value::Null,
            place,
        }
    }

    /// The value under a key, if this is a map that has it.
    fn find(&self, key: &str) -> Option<&Node> {
        let Value::Map(entries) = &self.value else {
            return None;
        };
        let entry = entries.iter().find(|entry| entry.key == key);
        entry.map(|entry| &entry.node)
    }
}

fn note(place: &Place, message: impl Into<String>) -> Problem {
    Problem {
        place: place.clone(),
        message: message.into(),
    }
}

fn unknown(key: &str, known: &[&str]) -> String {
    match keys::nearest(key, known.iter().copied()) {
        Some(near) => format!("{key}: unknown key; did you mean `{near}`?"),
        None => format!("{key}: unknown key; known here: {}", known.join(", ")),
    }
}
