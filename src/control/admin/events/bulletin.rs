//! News as events of a stream.

use std::time::SystemTime;

use serde_json::{Value, json};

use crate::fleet::Fleet;
use crate::shard::news::{News, SessionNews};

/// One event: its name, and its data on one line, as JSON never has a line end of its own.
pub(super) fn event(name: &str, id: Option<&str>, data: &Value) -> String {
    match id {
        Some(id) => format!("event: {name}\nid: {id}\ndata: {data}\n\n"),
        None => format!("event: {name}\ndata: {data}\n\n"),
    }
}

/// News by name, with the names of pools and servers.
pub(super) fn of(news: &News, fleet: &Fleet, now: SystemTime) -> (&'static str, Value) {
    let (name, mut data) = match news {
        News::Held(session) => ("held", about(session, fleet)),
        News::Resumed {
            session,
            held_ms,
            replayed,
        } => {
            let mut data = about(session, fleet);
            data["held_seconds"] = json!(f64::from(*held_ms) * 1e-3);
            data["replayed"] = json!(replayed);
            ("resumed", data)
        }
        News::Ended {
            session,
            unconfirmed,
        } => {
            let mut data = about(session, fleet);
            data["unconfirmed"] = json!(unconfirmed);
            ("ended", data)
        }
        News::Breaker { server, open } => {
            let to = if *open { "open" } else { "closed" };
            ("server", change(*server, fleet, "breaker", json!(to)))
        }
        News::Health { server, healthy } => {
            ("server", change(*server, fleet, "healthy", json!(healthy)))
        }
        News::State { server, state } => {
            let to = json!(state.name());
            ("server", change(*server, fleet, "state", to))
        }
        News::Weight { server, weight } => {
            ("server", change(*server, fleet, "weight", json!(weight)))
        }
        News::Joined { server } => ("server", change(*server, fleet, "joined", json!(true))),
    };
    data["time"] = json!(humantime::format_rfc3339_millis(now).to_string());
    (name, data)
}

fn about(session: &SessionNews, fleet: &Fleet) -> Value {
    let pool = session.pool.map(usize::from);
    let mut data = json!({
        "session": format!("{:032x}", session.id),
        "client": session.client.to_string(),
        "pool": pool.and_then(|pool| Some(&fleet.pools.get(pool)?.name)),
        "server": session.server.and_then(|server| id_of(server, fleet)),
    });
    if !session.reason.is_empty() {
        data["reason"] = json!(session.reason);
    }
    data
}

fn change(server: u16, fleet: &Fleet, what: &str, to: Value) -> Value {
    json!({ "server": id_of(server, fleet), "change": what, "to": to })
}

fn id_of(server: u16, fleet: &Fleet) -> Option<&str> {
    let place = fleet.servers.get(usize::from(server))?;
    Some(&place.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_never_breaks_its_line() {
        let data = json!({ "path": "/a\n\nevent: stats\r\ndata: {}\u{2028}" });
        let text = event("held", Some("1-2"), &data);
        assert_eq!(text.matches(['\n', '\r']).count(), 4, "{text:?}");
        assert!(
            text.starts_with("event: held\nid: 1-2\ndata: {"),
            "{text:?}"
        );
        assert!(text.ends_with("}\n\n"), "{text:?}");
    }
}
