//! `/debug/…`: profiles of the running process, where Go's tools look for them.

use std::thread;
use std::time::{Duration, Instant};

use super::message::{Request, Response};
use crate::control::profile::cpu::{COLLECT, Owner, Recording};
use crate::control::profile::{Profile, heap};

/// CPU time of the next seconds, for `go tool pprof`.
pub(super) const CPU: &str = "/debug/pprof/profile";
/// The same as a picture.
pub(super) const FLAME: &str = "/debug/flame";
/// The heap as it is.
pub(super) const HEAP: &str = "/debug/pprof/heap";
/// Those that take their time.
pub(super) const TIMED: [&str; 2] = [CPU, FLAME];
/// What those may be asked with.
pub(super) const PARAMS: [&str; 1] = ["seconds"];

/// A profile that ends as soon as nobody waits for it any more.
///
/// # Errors
/// 400 for a wrong length, 409 if a CPU profile is being made already.
pub(super) fn cpu(request: &Request, is_awaited: &dyn Fn() -> bool) -> Result<Response, Response> {
    let profile = record(seconds(request, CPU_SECONDS)?, is_awaited)?;
    Ok(file("cpu.pb.gz", &profile))
}

/// As [`cpu`].
///
/// # Errors
/// Those of [`cpu`], and 404 if no CPU time was used.
pub(super) fn flame(
    request: &Request,
    is_awaited: &dyn Fn() -> bool,
) -> Result<Response, Response> {
    let length = seconds(request, FLAME_SECONDS)?;
    drawn(&record(length, is_awaited)?, length)
}

/// What is allocated, and by whom.
///
/// # Errors
/// 404 in a program whose allocator is another.
pub(super) fn heap(request: &Request) -> Result<Response, Response> {
    request.params(&[])?;
    let reason = "no heap profile: this program's global allocator is not wsteady's";
    let profile = heap::profile().ok_or_else(|| Response::error(404, reason))?;
    Ok(file("heap.pb.gz", &profile))
}

/// The parameter `seconds`.
fn seconds(request: &Request, usual: u64) -> Result<Duration, Response> {
    let params = request.params(&PARAMS)?;
    let Some((_, text)) = params.first() else {
        return Ok(Duration::from_secs(usual));
    };
    match text.parse() {
        Ok(seconds) if (1..=SECONDS_MAX).contains(&seconds) => Ok(Duration::from_secs(seconds)),
        _ => {
            let reason = format!("seconds is {text:?}, and must be from 1 to {SECONDS_MAX}");
            Err(Response::error(400, reason))
        }
    }
}

fn record(length: Duration, is_awaited: &dyn Fn() -> bool) -> Result<Profile, Response> {
    let recording = Recording::start(Owner::Request);
    let mut recording = recording.map_err(|why| Response::error(409, why.to_string()))?;
    let end = Instant::now() + length;
    while Instant::now() < end && is_awaited() {
        thread::sleep(COLLECT);
        recording.collect();
    }
    Ok(recording.finish())
}

fn file(name: &str, profile: &Profile) -> Response {
    Response {
        status: 200,
        content_type: "application/octet-stream",
        body: profile.pprof(),
        headers: Vec::new(),
        pieces: None,
    }
    .with(
        "Content-Disposition",
        format!("attachment; filename={name}"),
    )
}

fn drawn(profile: &Profile, length: Duration) -> Result<Response, Response> {
    let Some(body) = profile.flame() else {
        let seconds = length.as_secs();
        let reason = format!("nothing to draw: no CPU time was used in {seconds} s");
        return Err(Response::error(404, reason));
    };
    let svg = Response {
        status: 200,
        content_type: "image/svg+xml",
        body,
        headers: Vec::new(),
        pieces: None,
    };
    Ok(svg.with("Content-Security-Policy", SVG_POLICY))
}

/// The picture's own script and styles, nothing else.
const SVG_POLICY: &str =
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'";

/// As Go has it.
pub(super) const CPU_SECONDS: u64 = 30;
/// For somebody who looks at a page that loads.
pub(super) const FLAME_SECONDS: u64 = 10;
/// Longer ones are for `--cpuprofile`.
pub(super) const SECONDS_MAX: u64 = 60;
