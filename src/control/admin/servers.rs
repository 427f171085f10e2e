//! `/v1/servers`.

use serde_json::{Value, json};

use super::message::{Request, Response};
use super::{Desk, view};
use crate::fleet::ServerState;
use crate::shard::mail::Mail;

/// All of them.
pub(super) fn list(desk: &Desk) -> Result<Response, Response> {
    let snapshots = desk.counted()?;
    let fleet = desk.fleet();
    let live = (0..fleet.servers.len())
        .filter(|server| fleet.servers[*server].state != ServerState::Gone)
        .map(|server| view::server(&fleet, server as u16, Some(&snapshots)));
    let servers: Vec<Value> = live.collect();
    Ok(Response::json(200, json!({ "servers": servers })))
}

pub(super) fn show(desk: &Desk, id: &str) -> Result<Response, Response> {
    let snapshots = desk.counted()?;
    let fleet = desk.fleet();
    let server = fleet.find(id).ok_or_else(|| missing(id))?;
    Ok(Response::json(
        200,
        view::server(&fleet, server, Some(&snapshots)),
    ))
}

/// Changes state, weight, or both; nothing if anything is wrong.
pub(super) fn change(desk: &Desk, id: &str, request: &Request) -> Result<Response, Response> {
    let fields = request.fields(&["state", "weight"])?;
    let state = fields.get("state").map(state_of).transpose()?;
    let weight = fields.get("weight").map(weight_of).transpose()?;
    let mut fleet = desk.fleet();
    let server = fleet.find(id).ok_or_else(|| missing(id))?;
    if state.is_none() && weight.is_none() {
        return Err(Response::error(400, "\"state\" or \"weight\" is needed"));
    }
    let place = &mut fleet.servers[usize::from(server)];
    place.wish = state.unwrap_or(place.wish);
    place.weight = weight.unwrap_or(place.weight);
    // Mailed even if nothing changes: a repeated request mends a loop that knows otherwise.
    if let Some(weight) = weight {
        desk.board.tell_all(|| Mail::Weight { server, weight });
    }
    if let Some(state) = state {
        desk.set_state(&mut fleet, server, state);
    }
    drop(fleet);
    Ok(answer(desk, server))
}

/// Moves all its sessions now.
pub(super) fn fail_over(desk: &Desk, id: &str, request: &Request) -> Result<Response, Response> {
    request.fields(&[])?;
    let server = find(desk, id)?;
    desk.board.tell_all(|| Mail::FailOver { server });
    Ok(answer(desk, server))
}

/// Closes its breaker.
pub(super) fn reset(desk: &Desk, id: &str, request: &Request) -> Result<Response, Response> {
    request.fields(&[])?;
    let server = find(desk, id)?;
    desk.board.tell_all(|| Mail::Reset { server });
    Ok(answer(desk, server))
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

fn find(desk: &Desk, id: &str) -> Result<u16, Response> {
    desk.fleet().find(id).ok_or_else(|| missing(id))
}

pub(super) fn missing(id: &str) -> Response {
    Response::error(404, format!("no server {id:?}"))
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

fn weight_of(value: &Value) -> Result<u32, Response> {
    let weight = value.as_u64().filter(|weight| *weight <= WEIGHT_MAX);
    // It fits: the bound is far below 32 bits.
    weight.map(|weight| weight as u32).ok_or_else(|| {
        let reason = format!("field \"weight\" must be a whole number from 0 to {WEIGHT_MAX}");
        Response::error(400, reason)
    })
}

/// As in the configuration.
const WEIGHT_MAX: u64 = 65_535;
