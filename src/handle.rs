//! What the rest of a program has of the proxy inside it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use crate::control::admin::{Change, Desk, ListedServer, ListedSession, Refusal, Sessions, Totals};
use crate::control::recruiter::Recruit;
use crate::fleet::ServerState;
use crate::shard::{Mail, Reached};

/// Shows and changes a running [`Proxy`](crate::Proxy) from any thread.
///
/// A clone costs two counters and means the same proxy. All of it does what the admin API does, by
/// the same code; a change is made on control's copy at once, and the loops hear of it by mail,
/// within milliseconds. A question waits for the loops, 2 s at most. None waits for a message, and
/// no message waits for it.
///
/// When the proxy has stopped, all of them say [`Refusal::Stopped`].
#[derive(Clone)]
pub struct Handle {
    desk: Arc<Desk>,
    /// Loops that have not stopped.
    busy: Arc<AtomicUsize>,
}

impl Handle {
    pub(crate) fn new(desk: Arc<Desk>, busy: Arc<AtomicUsize>) -> Handle {
        Handle { desk, busy }
    }

    /// All servers but those that were removed, in the order in which they have come.
    ///
    /// # Errors
    /// `Silent` if a loop does not answer within 2 s, `Stopped`.
    pub fn servers(&self) -> Result<Vec<ListedServer>, Refusal> {
        self.running()?.servers()
    }

    /// Adds a server and gives its id; one id for each address of a name. If it is there already,
    /// nothing changes, and the ids are those that it has. What is added is not in the
    /// configuration: the next start knows nothing of it.
    ///
    /// A name is resolved first, which may block for as long as the system's resolver likes.
    ///
    /// # Errors
    /// `Wrong` for a pool that is not there, a URL that does not fit it, an id that is no name or a
    /// weight above 65,535; `Conflict` if another server has the id, or it is there with another
    /// weight; `Unresolved` if the name has no address; `Stopped`.
    pub fn add(&self, wanted: &Recruit) -> Result<Vec<String>, Refusal> {
        let desk = self.running()?;
        let recruited = desk.add(wanted)?;
        let fleet = desk.fleet();
        let places = recruited.servers.iter().map(|one| usize::from(*one));
        Ok(places
            .map(|place| fleet.servers[place].id.clone())
            .collect())
    }

    /// Removes a server for ever. Its sessions move to the others of its pool, each when all it has
    /// sent is confirmed, or after `timeouts.close` (5 s); they are held while there is no other.
    ///
    /// # Errors
    /// `Missing` if no server has this id, also when it was removed before; `Stopped`.
    pub fn remove(&self, id: &str) -> Result<(), Refusal> {
        self.running()?.remove(id).map(drop)
    }

    /// `Enabled`: takes sessions. `Disabled`: no new ones, the old ones stay. `Draining`: they move.
    /// To set what is so already is no mistake.
    ///
    /// # Errors
    /// `Missing` if no server has this id; `Wrong` for `Gone`, which is [`remove`](Handle::remove)'s;
    /// `Stopped`.
    pub fn set_state(&self, id: &str, state: ServerState) -> Result<(), Refusal> {
        let change = Change {
            state: Some(state),
            weight: None,
        };
        self.running()?.change(id, change).map(drop)
    }

    /// Changes a server's share of new sessions: 0 to 65,535, beside the weights of the others of its
    /// pool; 0 takes none. The sessions that it has stay.
    ///
    /// # Errors
    /// `Missing` if no server has this id; `Wrong` for a weight above 65,535; `Stopped`.
    pub fn set_weight(&self, id: &str, weight: u32) -> Result<(), Refusal> {
        let change = Change {
            state: None,
            weight: Some(weight),
        };
        self.running()?.change(id, change).map(drop)
    }

    /// Closes a server's breaker: it takes new sessions at once, as if it had not failed. Nothing
    /// happens if it is closed.
    ///
    /// # Errors
    /// `Missing` if no server has this id; `Stopped`.
    pub fn reset(&self, id: &str) -> Result<(), Refusal> {
        self.running()?.reset(id).map(drop)
    }

    /// Moves all sessions of a server to the others of its pool now. It goes on to take new ones.
    ///
    /// # Errors
    /// `Missing` if no server has this id; `Stopped`.
    pub fn fail_over(&self, id: &str) -> Result<(), Refusal> {
        self.running()?.fail_over(id).map(drop)
    }

    /// All sessions, one by one. They are asked of the loops a page at a time, so that the list of
    /// 250,000 keeps no message waiting: see [`Sessions`].
    ///
    /// # Errors
    /// `Stopped`. An item is an error, and the last one, if a loop does not answer within 2 s.
    pub fn sessions(&self) -> Result<Sessions, Refusal> {
        self.running()?;
        Ok(Sessions::new(self.desk.clone()))
    }

    /// One session, by its id: 32 hexadecimal digits, what servers see as `X-Wsteady-Session`. The
    /// loops are asked one after the other, for 5 s at most.
    ///
    /// # Errors
    /// `Missing` if no session has this id, also when it has ended; `Silent` if a loop does not answer
    /// within 2 s; `Stopped`.
    pub fn session(&self, id: &str) -> Result<ListedSession, Refusal> {
        self.running()?.session(id)
    }

    /// Closes one session: its client gets 1000 at the end of the message that it is getting; its
    /// server gets the rest of what the client has sent, then a Close.
    ///
    /// # Errors
    /// As [`session`](Handle::session); `Silent` only if nobody else had it.
    pub fn close_session(&self, id: &str) -> Result<(), Refusal> {
        self.running()?.close_session(id)
    }

    /// Moves one session to another server of its pool now, or to the same one if that is the only
    /// one. One that has no server or is on its way to another already stays as it is, and so does a
    /// bridge's, whose calls go here and there.
    ///
    /// # Errors
    /// As [`close_session`](Handle::close_session).
    pub fn fail_over_session(&self, id: &str) -> Result<(), Refusal> {
        self.running()?.fail_over_session(id)
    }

    /// Sends a text to the client of a bridge that has this ClientId, as a push of the API does: it is
    /// in the client's queue when this returns.
    ///
    /// # Errors
    /// `Missing` if nobody with this id is connected, `Slow` if its queue is full, `Silent` if a loop
    /// does not answer within 2 s, `Stopped`.
    pub fn push_text(&self, id: &str, text: &str) -> Result<(), Refusal> {
        self.running()?.push(id, text.as_bytes(), false)
    }

    /// As [`push_text`](Handle::push_text), as a binary message.
    ///
    /// # Errors
    /// As there.
    pub fn push_binary(&self, id: &str, bytes: &[u8]) -> Result<(), Refusal> {
        self.running()?.push(id, bytes, true)
    }

    /// Sends a text to every client of a bridge whose ClientId begins with `prefix`, to all with an
    /// empty one, and says how many have it in their queues. Clients that come or go meanwhile may get
    /// it or not; none gets it twice.
    ///
    /// # Errors
    /// `Silent` if it takes more than 2 s: then it goes on, and nobody knows how many it reaches.
    /// `Stopped`.
    pub fn broadcast_text(&self, prefix: &str, text: &str) -> Result<Reached, Refusal> {
        self.running()?.broadcast(prefix, text.as_bytes(), false)
    }

    /// As [`broadcast_text`](Handle::broadcast_text), as a binary message.
    ///
    /// # Errors
    /// As there.
    pub fn broadcast_binary(&self, prefix: &str, bytes: &[u8]) -> Result<Reached, Refusal> {
        self.running()?.broadcast(prefix, bytes, true)
    }

    /// Sums over all loops: connections, sessions held, messages.
    ///
    /// # Errors
    /// `Silent` if a loop does not answer within 2 s, `Stopped`.
    pub fn totals(&self) -> Result<Totals, Refusal> {
        self.running()?.totals()
    }

    /// Begins to stop: no new clients, and all sessions are closed with 1001, spread over this time
    /// (12 days at most), each between two messages. Does not wait: [`Proxy::wait`](crate::Proxy::wait)
    /// does. Nothing happens to a proxy that has stopped.
    pub fn drain(&self, time: Duration) {
        self.desk.set_draining();
        let ms = time.as_millis().min(u128::from(u32::MAX / 4)) as u32;
        self.desk.board.tell_all(|| Mail::Drain { ms });
    }

    /// Stops at once: connections end as they are, and what is not confirmed is lost. Ends a drain,
    /// too.
    pub fn stop_now(&self) {
        self.desk.board.tell_all(|| Mail::Stop);
    }

    /// Whether the proxy has not stopped yet. A drain is running until its last session is closed.
    pub fn is_running(&self) -> bool {
        self.busy.load(Relaxed) > 0
    }

    /// Nobody would answer but the deadline.
    fn running(&self) -> Result<&Desk, Refusal> {
        match self.is_running() {
            true => Ok(&self.desk),
            false => Err(Refusal::Stopped),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::resolver::Lookup;
    use crate::{Config, Proxy};
    use std::net::SocketAddr;

    /// A proxy whose server is never dialled, as nobody comes.
    fn proxy() -> Proxy {
        let mut config = Config::with_backends(&["ws://127.0.0.1:9".to_string()]).unwrap();
        config.listen[0].address = "127.0.0.1:0".parse().unwrap();
        config.admin.address = "127.0.0.1:0".parse().unwrap();
        // No name has an address, and no name server is asked.
        let lookup: Lookup = Arc::new(|host, port| match host.parse() {
            Ok(ip) => Ok(vec![SocketAddr::new(ip, port)]),
            Err(_) => Err(std::io::ErrorKind::NotFound.into()),
        });
        Proxy::start_with(config, None, lookup).unwrap()
    }

    #[test]
    fn any_thread_may_have_one() {
        fn is_free<T: Clone + Send + Sync + 'static>() {}
        is_free::<Handle>();
        fn may_move<T: Send + 'static>() {}
        may_move::<Sessions>();
    }

    #[test]
    fn what_is_refused_says_what_would_be_right_and_changes_nothing() {
        let proxy = proxy();
        let handle = proxy.handle();
        let before = handle.servers().unwrap();
        let id = before[0].id.clone();
        let add = |wanted: &Recruit| handle.add(wanted).map(drop);
        let server = Recruit::new("default", "ws://127.0.0.1:10");
        let heavy = Recruit {
            weight: Some(65_536),
            ..server.clone()
        };
        let namesake = Recruit {
            id: Some(id.clone()),
            ..server.clone()
        };
        let heavier = Recruit {
            weight: Some(2),
            ..Recruit::new("default", "ws://127.0.0.1:9")
        };
        let nameless = Recruit {
            id: Some(String::new()),
            ..server.clone()
        };
        let unknown = Recruit::new("default", "ws://no.such.host:80");
        let gone = handle.set_state(&id, ServerState::Gone);
        let there = format!("there is {id}");
        type Row<'a> = (Result<(), Refusal>, fn(String) -> Refusal, &'a str);
        let unweighted = handle.set_weight(&id, 65_536);
        let strange = "no session \"zz\"";
        let nobody = format!("{:032x}", 7);
        let rows: [Row<'_>; 17] = [
            (
                add(&Recruit::new("zz", &server.url)),
                Refusal::Wrong,
                "there is default",
            ),
            (
                add(&Recruit::new("default", "10.0.0.1")),
                Refusal::Wrong,
                "write ws://",
            ),
            (
                add(&Recruit::new("default", "http://h:1")),
                Refusal::Wrong,
                "write ws://",
            ),
            (add(&heavy), Refusal::Wrong, "0 to 65535"),
            (add(&nameless), Refusal::Wrong, "name"),
            (add(&namesake), Refusal::Conflict, "\"id\" of its own"),
            (add(&heavier), Refusal::Conflict, "with weight 1"),
            (add(&unknown), Refusal::Unresolved, "no.such.host"),
            (gone, Refusal::Wrong, "remove the server"),
            (handle.remove("zz"), Refusal::Missing, &there),
            (handle.fail_over("zz"), Refusal::Missing, &there),
            (handle.reset("zz"), Refusal::Missing, &there),
            (unweighted, Refusal::Wrong, "0 to 65535"),
            (handle.set_weight("zz", 1), Refusal::Missing, &there),
            (handle.session("zz").map(drop), Refusal::Missing, strange),
            (handle.close_session(&nobody), Refusal::Missing, &nobody),
            (handle.fail_over_session(&nobody), Refusal::Missing, &nobody),
        ];
        for (result, kind, says) in rows {
            let refusal = result.expect_err(says);
            let text = refusal.to_string();
            assert!(text.contains(says), "{text:?} does not say {says:?}");
            assert_eq!(refusal, kind(text));
        }
        assert_eq!(handle.servers().unwrap(), before);
        proxy.stop(Duration::ZERO);
    }

    #[test]
    fn servers_come_and_go_and_change() {
        let proxy = proxy();
        let handle = proxy.handle();
        let server = Recruit::new("default", "ws://127.0.0.1:10");
        let ids = handle.add(&server).unwrap();
        assert_eq!(handle.add(&server).unwrap(), ids, "it is there already");
        let states = || -> Vec<ServerState> {
            let servers = handle.servers().unwrap();
            servers.iter().map(|server| server.state).collect()
        };
        assert_eq!(states(), [ServerState::Enabled; 2]);
        handle.set_state(&ids[0], ServerState::Disabled).unwrap();
        handle.set_state(&ids[0], ServerState::Disabled).unwrap();
        handle.fail_over(&ids[0]).unwrap();
        handle.reset(&ids[0]).unwrap();
        handle.set_weight(&ids[0], 3).unwrap();
        assert_eq!(handle.servers().unwrap()[1].weight, 3);
        assert_eq!(states(), [ServerState::Enabled, ServerState::Disabled]);
        handle.remove(&ids[0]).unwrap();
        assert_eq!(states(), [ServerState::Enabled]);
        assert!(handle.remove(&ids[0]).is_err());
        assert_eq!(handle.totals().unwrap(), Totals::default());
        assert_eq!(handle.sessions().unwrap().count(), 0);
        proxy.stop(Duration::ZERO);
    }

    #[test]
    fn when_the_proxy_has_stopped_all_say_so_at_once() {
        let proxy = proxy();
        let (handle, copy) = (proxy.handle(), proxy.handle().clone());
        assert!(handle.is_running());
        std::thread::spawn(move || copy.stop_now()).join().unwrap();
        proxy.wait();
        assert!(!handle.is_running());
        let server = Recruit::new("default", "ws://127.0.0.1:10");
        let results = [
            handle.servers().map(drop),
            handle.add(&server).map(drop),
            handle.remove("a"),
            handle.set_state("a", ServerState::Enabled),
            handle.set_weight("a", 1),
            handle.reset("a"),
            handle.fail_over("a"),
            handle.sessions().map(drop),
            handle.session("a").map(drop),
            handle.close_session("a"),
            handle.fail_over_session("a"),
            handle.totals().map(drop),
        ];
        assert_eq!(results, [(); 12].map(|()| Err(Refusal::Stopped)));
        handle.drain(Duration::ZERO);
        handle.stop_now();
    }

    #[test]
    fn to_run_where_somebody_listens_is_an_error() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut config = Config::with_backends(&["ws://127.0.0.1:9".to_string()]).unwrap();
        config.listen[0].address = taken.local_addr().unwrap();
        config.admin.address = "127.0.0.1:0".parse().unwrap();
        let refused = Proxy::run(config).unwrap_err().to_string();
        assert!(
            refused.contains(&taken.local_addr().unwrap().to_string()),
            "{refused}"
        );
    }
}
