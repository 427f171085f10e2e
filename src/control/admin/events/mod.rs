//! `/v1/events`: the dashboard's numbers once a second, and news when they happen.
//!
//! One thread asks the loops once a second, however many watch. Another writes to all viewers on
//! sockets that never block: a viewer costs no thread and no place among the connections, and one
//! that does not read is sent away. Loops put their news into a bounded queue and never wait.

mod bulletin;
mod room;
mod sampler;
mod viewer;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

use self::room::Room;
use self::sampler::Sample;
use self::viewer::Viewer;
use super::Desk;
use super::message::{Request, Response};
use super::stream::Stream;
use crate::shard::news::News;

/// Where it is served.
pub(super) const PATH: &str = "/v1/events";

/// Server-sent events (WHATWG HTML, 9.2).
pub(super) const CONTENT_TYPE: &str = "text/event-stream";

/// The way to all who watch.
pub struct Newsroom {
    inbox: Sender<Item>,
    outbox: Receiver<Item>,
    viewers: Arc<AtomicUsize>,
}

/// What comes into the room.
enum Item {
    News(News),
    Sample(Box<Sample>),
    /// A loop has not answered.
    Silence,
    Viewer(Viewer, Option<String>),
    Stop,
}

impl Newsroom {
    pub(super) fn new() -> Newsroom {
        let (inbox, outbox) = bounded(INBOX_MAX);
        Newsroom {
            inbox,
            outbox,
            viewers: Arc::default(),
        }
    }

    /// Tells everybody. Never blocks: what a full queue can't take is dropped; counters are exact.
    pub fn tell(&self, news: News) {
        let _ = self.inbox.try_send(Item::News(news));
    }

    /// How many watch.
    pub fn viewers(&self) -> usize {
        self.viewers.load(Relaxed)
    }
}

/// The threads behind the newsroom; dropping it ends them and all streams.
pub(super) struct Running {
    desk: Arc<Desk>,
    writing: Option<JoinHandle<()>>,
    /// Dropped with this: the sampler's sign to end. It is not waited for, as a loop may hang.
    _sampling: Sender<()>,
}

/// Starts sampling and writing.
///
/// # Errors
/// A thread could not be started.
pub(super) fn start(desk: &Arc<Desk>) -> io::Result<Running> {
    let (sampling, ended) = bounded(0);
    let theirs = Arc::clone(desk);
    thread::Builder::new()
        .name("admin-sampler".to_string())
        .spawn(move || sampler::run(&theirs, &theirs.newsroom.inbox, &ended))?;
    let theirs = Arc::clone(desk);
    let writing = thread::Builder::new()
        .name("admin-events".to_string())
        .spawn(move || Room::new(&theirs).run(&theirs.newsroom.outbox))?;
    Ok(Running {
        desk: Arc::clone(desk),
        writing: Some(writing),
        _sampling: sampling,
    })
}

impl Drop for Running {
    fn drop(&mut self) {
        // A full queue is empty in no time, unless its thread has panicked.
        let _ = self.desk.newsroom.inbox.send_timeout(Item::Stop, STOP_MAX);
        if let Some(writing) = self.writing.take() {
            let _ = writing.join();
        }
    }
}

/// The head of a stream, and the whole answer to a HEAD.
pub(super) fn head() -> Response {
    Response::new(200, CONTENT_TYPE, String::new())
}

/// Takes a stream over; `head` is written first.
///
/// # Errors
/// 429 if as many watch as may.
pub(super) fn admit(
    desk: &Desk,
    stream: Arc<Stream>,
    head: Vec<u8>,
    request: &Request,
) -> Result<(), Response> {
    request.params(&[])?;
    let newsroom = &desk.newsroom;
    let Some(viewer) = Viewer::new(stream, head, &newsroom.viewers) else {
        let reason = format!("{VIEWERS_MAX} viewers watch already, and no more can");
        return Err(Response::error(429, reason).with("Retry-After", "10"));
    };
    let last = request.header("last-event-id").map(str::to_string);
    let busy = |_| Response::error(503, "too much happens to watch it: try again");
    newsroom
        .inbox
        .try_send(Item::Viewer(viewer, last))
        .map_err(busy)
}

/// Streams at once: a team's dashboards and some scripts. Each costs a descriptor.
pub(super) const VIEWERS_MAX: usize = 100;

/// For a place in the queue at the end.
const STOP_MAX: Duration = Duration::from_secs(1);

/// Far more than loops tell while the writer rests, and room for changes of all servers at once.
const INBOX_MAX: usize = 8_192;
