//! `/v1/servers`.

use serde_json::{Value, json};

use super::actions::{self, Change};
use super::message::{Request, Response};
use super::{Desk, view};
use crate::control::config::WEIGHT_MAX;
use crate::control::recruiter::Recruit;
use crate::fleet::ServerState;
use crate::shard::stats::Snapshot;

/// All of them.
pub(super) fn list(desk: &Desk) -> Result<Response, Response> {
    Ok(Response::json(200, all(desk, &desk.counted()?)))
}

/// What [`list`] answers.
pub(super) fn all(desk: &Desk, snapshots: &[Snapshot]) -> Value {
    let fleet = desk.fleet();
    let live = actions::live(&fleet).map(|server| view::server(&fleet, server, Some(snapshots)));
    json!({ "servers": live.collect::<Vec<Value>>() })
}

pub(super) fn show(desk: &Desk, id: &str) -> Result<Response, Response> {
    let snapshots = desk.counted()?;
    let fleet = desk.fleet();
    let server = actions::named(&fleet, id)?;
    Ok(Response::json(
        200,
        view::server(&fleet, server, Some(&snapshots)),
    ))
}

/// A name with several addresses makes several of it.
pub(super) fn add(desk: &Desk, request: &Request) -> Result<Response, Response> {
    let fields = request.fields(&["pool", "url", "id", "weight"])?;
    let text = |name: &str| fields.get(name).map(|value| text_of(name, value));
    let need = |name: &str| text(name).unwrap_or_else(|| Err(needed(name)));
    let recruited = desk.add(&Recruit {
        pool: need("pool")?,
        url: need("url")?,
        id: text("id").transpose()?,
        weight: fields.get("weight").map(weight_of).transpose()?,
    })?;
    let status = if recruited.new { 201 } else { 200 };
    let snapshots = desk.snapshots();
    let fleet = desk.fleet();
    let servers = recruited.servers.iter();
    let servers = servers.map(|server| view::server(&fleet, *server, snapshots.as_deref()));
    let servers: Vec<Value> = servers.collect();
    Ok(Response::json(status, json!({ "servers": servers })))
}

pub(super) fn remove(desk: &Desk, id: &str, request: &Request) -> Result<Response, Response> {
    request.fields(&[])?;
    let server = desk.remove(id)?;
    Ok(Response::json(
        200,
        view::server(&desk.fleet(), server, None),
    ))
}

/// Nothing is changed if anything is wrong.
pub(super) fn change(desk: &Desk, id: &str, request: &Request) -> Result<Response, Response> {
    let fields = request.fields(&["state", "weight"])?;
    let change = Change {
        state: fields.get("state").map(state_of).transpose()?,
        weight: fields.get("weight").map(weight_of).transpose()?,
    };
    Ok(answer(desk, desk.change(id, change)?))
}

pub(super) fn fail_over(desk: &Desk, id: &str, request: &Request) -> Result<Response, Response> {
    request.fields(&[])?;
    Ok(answer(desk, desk.fail_over(id)?))
}

pub(super) fn reset(desk: &Desk, id: &str, request: &Request) -> Result<Response, Response> {
    request.fields(&[])?;
    Ok(answer(desk, desk.reset(id)?))
}

/// The server as it is after a change. That was made in any case: if a loop is too busy to count,
/// the numbers are left out.
fn answer(desk: &Desk, server: u16) -> Response {
    let snapshots = desk.snapshots();
    Response::json(
        200,
        view::server(&desk.fleet(), server, snapshots.as_deref()),
    )
}

fn state_of(value: &Value) -> Result<ServerState, Response> {
    // `Gone` is not for wishing: that is DELETE.
    let wishes = [
        ServerState::Enabled,
        ServerState::Disabled,
        ServerState::Draining,
    ];
    let found = wishes
        .into_iter()
        .find(|state| value.as_str() == Some(state.name()));
    found.ok_or_else(|| {
        Response::error(400, "field \"state\" must be enabled, disabled or draining")
    })
}

fn text_of(name: &str, value: &Value) -> Result<String, Response> {
    let text = value.as_str().filter(|text| !text.is_empty());
    let wrong = || Response::error(400, format!("field {name:?} must be a text, and not empty"));
    text.map(str::to_owned).ok_or_else(wrong)
}

fn needed(name: &str) -> Response {
    Response::error(400, format!("field {name:?} is needed"))
}

fn weight_of(value: &Value) -> Result<u32, Response> {
    // 3.0 is a whole number, too, and many a language writes it so.
    let whole = value.as_f64().filter(|weight| weight.fract() == 0.0);
    let weight = whole.filter(|weight| (0.0..=f64::from(WEIGHT_MAX)).contains(weight));
    weight.map(|weight| weight as u32).ok_or_else(|| {
        let reason = format!("field \"weight\" must be a whole number from 0 to {WEIGHT_MAX}");
        Response::error(400, reason)
    })
}
