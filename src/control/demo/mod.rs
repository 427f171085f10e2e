//! `wsteady demo`: two echo servers, the proxy and a page, in one process.
//!
//! The servers are real: they listen on ports of their own, and a kill resets their connections.
//! The proxy is the one that everybody runs. Only the page and the visitors know that it is a play.

mod page;
mod script;
mod servers;
mod story;

use std::io::{self, ErrorKind, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use super::admin::Desk;
use super::cli::DemoOptions;
use super::config::{Config, ListenConfig};
use crate::Proxy;
use crate::shard::mail::{Answer, Filter, Mail};
use crate::shard::stats::SessionRow;
use page::Page;
use script::{Cue, Score};
use servers::EchoServer;
pub use servers::Speech;
use story::{Entry, Event, Look, Move, Story};

/// Runs the demo until its time is over or somebody presses Ctrl-C. With a length, it also plays
/// by itself and fails if a message was lost.
pub fn run(options: DemoOptions) -> ExitCode {
    match Demo::start(&options) {
        Ok(demo) => demo.run(),
        Err(why) => {
            eprintln!("wsteady: demo: {why}");
            ExitCode::FAILURE
        }
    }
}

/// What the page and the play act on.
struct Stage {
    servers: Vec<EchoServer>,
    story: Mutex<Story>,
    begin: Instant,
    length: Option<Duration>,
    /// Tells one demo from the next, for a page that was left open.
    number: u64,
    proxy: OnceLock<SocketAddr>,
}

impl Stage {
    fn open(length: Option<Duration>, speech: Speech) -> io::Result<Stage> {
        let start = |name| EchoServer::start(name, speech);
        let servers = NAMES.into_iter().map(start);
        let epoch = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        Ok(Stage {
            servers: servers.collect::<io::Result<_>>()?,
            story: Mutex::default(),
            begin: Instant::now(),
            length,
            number: epoch.as_millis() as u64,
            proxy: OnceLock::new(),
        })
    }

    fn names(&self) -> Vec<&'static str> {
        self.servers.iter().map(EchoServer::name).collect()
    }

    fn now_ms(&self) -> u64 {
        self.begin.elapsed().as_millis() as u64
    }

    /// Where clients connect. `None` until the proxy runs.
    fn proxy(&self) -> Option<SocketAddr> {
        self.proxy.get().copied()
    }

    fn story(&self) -> MutexGuard<'_, Story> {
        self.story.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kill(&self, server: &EchoServer) {
        // Told before it is done: the move that it causes comes after it.
        if server.is_alive() {
            self.story()
                .tell(self.now_ms(), Event::Killed(server.name()));
        }
        server.kill();
    }

    fn revive(&self, server: &EchoServer) -> io::Result<()> {
        if !server.is_alive() {
            self.story()
                .tell(self.now_ms(), Event::Revived(server.name()));
        }
        server.revive().map(drop)
    }
}

/// All that runs.
struct Demo {
    stage: Arc<Stage>,
    proxy: Proxy,
    /// Set by Ctrl-C and by the end of the play.
    stop: Arc<AtomicBool>,
    notes: Vec<String>,
}

impl Demo {
    fn start(options: &DemoOptions) -> Result<Demo, String> {
        let say = |error: io::Error| error.to_string();
        let stop = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            // The second one doesn't wait for anybody. It must be registered first.
            signal_hook::flag::register_conditional_shutdown(signal, 1, Arc::clone(&stop))
                .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&stop)))
                .map_err(say)?;
        }
        super::log::init(options.log.level, options.log.format)?;
        let mut notes = Vec::new();
        let listen = free(options.listen, &mut notes).map_err(say)?;
        let admin = free(options.admin, &mut notes).map_err(say)?;
        let stage = Arc::new(Stage::open(options.length, options.speech).map_err(say)?);
        let mut config = configure(&stage.servers, options.speech)?;
        config.listen = vec![ListenConfig::new(listen)];
        config.admin.address = admin;
        config.log = options.log;
        let annex = Arc::new(Page::new(Arc::clone(&stage)));
        let proxy = Proxy::start_with(config, Some(annex), super::resolver::system())
            .map_err(|error| error.to_string())?;
        let listen = proxy.listen_addresses().first().copied();
        let listen = listen.ok_or("the proxy listens nowhere")?;
        stage.proxy.get_or_init(|| page::reachable(listen));
        Ok(Demo {
            stage,
            proxy,
            stop,
            notes,
        })
    }

    fn run(self) -> ExitCode {
        print(&self.banner());
        let watcher = self.watch();
        let code = match (self.stage.length, self.stage.proxy()) {
            (Some(length), Some(address)) => self.play(length, address),
            _ => {
                while !self.stop.load(Ordering::Relaxed) && !self.proxy.wait_for(PATIENCE) {}
                print("\n  Bye.\n");
                ExitCode::SUCCESS
            }
        };
        self.stop.store(true, Ordering::Relaxed);
        if let Ok(watcher) = watcher {
            // Before the loops end: it would wait for their answers.
            let _ = watcher.join();
        }
        // Whoever is still connected hears of the end (1001), but nobody is waited for long.
        let handle = self.proxy.handle();
        handle.drain(PATIENCE);
        if !self.proxy.wait_for(FAREWELL) {
            handle.stop_now();
        }
        self.proxy.wait();
        super::log::flush();
        code
    }

    /// Plays, waits until the time is over, and says what happened.
    fn play(&self, length: Duration, address: SocketAddr) -> ExitCode {
        let mut victim = 0;
        let score = script::play(address, length, &self.stop, |cue| {
            direct(&self.stage, cue, &mut victim);
        });
        while self.stage.begin.elapsed() < length && !self.stop.load(Ordering::Relaxed) {
            self.proxy.wait_for(PATIENCE);
        }
        super::log::flush();
        let story = self.stage.story();
        print(&summary(&score, &story, self.stage.now_ms()));
        match score.is_clean() {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        }
    }

    /// Looks at the loops until the end.
    fn watch(&self) -> io::Result<thread::JoinHandle<()>> {
        let (stage, stop) = (Arc::clone(&self.stage), Arc::clone(&self.stop));
        let desk = self.proxy.desk();
        thread::Builder::new()
            .name("demo watcher".into())
            .spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    if let Some(look) = look(&desk) {
                        stage.story().observe(stage.now_ms(), look);
                    }
                    thread::sleep(LOOK_EVERY);
                }
            })
    }

    fn banner(&self) -> String {
        let (page, proxy) = (self.proxy.admin_address(), self.stage.proxy());
        let proxy = proxy.map_or_else(String::new, |address| address.to_string());
        let notes: String = self
            .notes
            .iter()
            .map(|note| format!("  {note}\n"))
            .collect();
        let end = match self.stage.length {
            Some(length) => format!(
                "Three visitors play along, and it ends by itself after {} s.",
                length.as_secs_f64()
            ),
            None => "Ctrl-C ends it.".to_string(),
        };
        let what = match self.stage.servers[0].speech() {
            Speech::WebSocket => {
                "The session moves to the other one, with all that was not answered yet."
            }
            Speech::Api => "They are HTTP APIs: what one has not answered, the other is asked.",
        };
        format!(
            "\n  wsteady demo: a WebSocket that outlives its server\n\n\
             \x20 Open   http://{page}/\n\n\
             \x20 There, open a session, say something, and kill the server that answers: alpha or\n\
             \x20 beta. {what}\n\
             \x20 Any other WebSocket client may come to  ws://{proxy}/demo-NAME\n\n\
             {notes}  {end}\n\n"
        )
    }
}

/// Does what the play wants. `victim` is remembered from one cue to the next.
fn direct(stage: &Stage, cue: Cue, victim: &mut usize) {
    let servers = &stage.servers;
    match cue {
        Cue::KillBusiest => {
            let busiest = (0..servers.len()).max_by_key(|index| servers[*index].connections());
            *victim = busiest.unwrap_or(0);
            stage.kill(&servers[*victim]);
        }
        Cue::KillOther => {
            for (index, server) in servers.iter().enumerate() {
                if index != *victim {
                    stage.kill(server);
                }
            }
        }
        Cue::ReviveVictim => revive_all(stage, &servers[*victim..=*victim]),
        Cue::ReviveAll => revive_all(stage, servers),
    }
}

fn revive_all(stage: &Stage, servers: &[EchoServer]) {
    for server in servers {
        if let Err(error) = stage.revive(server) {
            log::warn!("{} can't be revived: {error}", server.name());
        }
    }
}

/// A pool of these servers, under their names.
fn configure(servers: &[EchoServer], speech: Speech) -> Result<Config, String> {
    let urls: Vec<String> = servers
        .iter()
        .map(|server| match speech {
            Speech::WebSocket => format!("ws://{}", server.address()),
            Speech::Api => format!("http://{}/", server.address()),
        })
        .collect();
    let loaded = match speech {
        Speech::WebSocket => Config::with_backends(&urls),
        Speech::Api => Config::with_apis(&urls),
    };
    let mut config = loaded.map_err(|problems| problems.to_string())?;
    for pool in &mut config.pools {
        for (place, server) in pool.servers.iter_mut().zip(servers) {
            place.id = server.name().to_string();
        }
        // Who keeps both servers down for a while has tried enough dials to open a breaker, and
        // would wait for that after the revival: another story than the one that is told here.
        pool.breaker.threshold = u32::MAX;
    }
    Ok(config)
}

/// The address, or another port of the same host if somebody has this one. Asked beforehand: the
/// loops share their port (SO_REUSEPORT), and would share it with another wsteady as well.
fn free(address: SocketAddr, notes: &mut Vec<String>) -> io::Result<SocketAddr> {
    match TcpListener::bind(address) {
        Ok(_) => Ok(address),
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            notes.push(format!("({address} is taken; another port was chosen.)"));
            Ok(SocketAddr::new(address.ip(), 0))
        }
        Err(error) => Err(io::Error::new(error.kind(), format!("{address}: {error}"))),
    }
}

/// What the loops say now. `None` if one doesn't answer, as at the end.
fn look(desk: &Desk) -> Option<Look> {
    let snapshots = desk.snapshots()?;
    let filter = Filter {
        limit: SESSIONS_SHOWN,
        ..Filter::default()
    };
    let pages = desk.board.ask_all(|ticket| Mail::List {
        ticket,
        filter: filter.clone(),
    });
    let mut rows: Vec<SessionRow> = Vec::new();
    for page in pages {
        if let Answer::Sessions { rows: more, .. } = page {
            rows.extend(more);
        }
    }
    // The oldest first, whatever loop they live on: they keep their place on the page.
    rows.sort_by(|a, b| b.age.cmp(&a.age).then(a.id.cmp(&b.id)));
    Some(Look::new(rows, &snapshots))
}

/// What the play has shown.
fn summary(score: &Score, story: &Story, now_ms: u64) -> String {
    let verdict = match score.is_clean() {
        true => "The clients noticed nothing.",
        false => "This is not what wsteady promises.",
    };
    let mut text = format!(
        "\n  {} sent {} through wsteady in {}.\n\n",
        count(score.sessions, "session"),
        count(score.sent, "message"),
        seconds(now_ms),
    );
    let twice = "answered twice: at least once, never less";
    let rows = [
        ("echoed", score.echoed, ""),
        ("lost", score.lost, ""),
        ("out of order", score.wrong, ""),
        (
            "repeated",
            score.repeated,
            if score.repeated > 0 { twice } else { "" },
        ),
        ("disconnects", score.disconnects, ""),
        (
            "most waiting",
            score.waiting_max,
            "of one session at once, for its answers",
        ),
    ];
    for (name, number, note) in rows {
        let line = format!("  {name:<14}{number:>7}   {note}");
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text.push_str("\n  What happened meanwhile:\n");
    let skipped = story.entries.len().saturating_sub(EVENTS_TOLD);
    if skipped > 0 {
        text.push_str(&format!("  ({skipped} earlier events)\n"));
    }
    for entry in story.entries.range(skipped..) {
        text.push_str(&format!(
            "  {:>8}   {}\n",
            seconds(entry.at_ms),
            tell(entry)
        ));
    }
    text.push_str(&format!("\n  {verdict}\n\n"));
    text
}

fn tell(entry: &Entry) -> String {
    match &entry.event {
        Event::Killed(name) => format!("{name} was killed"),
        Event::Revived(name) => format!("{name} came back"),
        Event::Moved(moved) => tell_move(moved),
    }
}

fn tell_move(moved: &Move) -> String {
    let mut targets: Vec<&str> = moved
        .steps
        .iter()
        .filter_map(|step| NAMES.get(usize::from(step.to)).copied())
        .collect();
    targets.sort_unstable();
    targets.dedup();
    let held = match moved.hold_ms {
        Some((low, high)) if low == high => format!(" after {}", hold_text(high)),
        Some((low, high)) => format!(" after {} to {}", hold_text(low), hold_text(high)),
        None => String::new(),
    };
    format!(
        "{} moved to {}{held}, {} sent again",
        count(moved.steps.len() as u64, "session"),
        targets.join(" and "),
        count(moved.replayed, "message"),
    )
}

fn hold_text(ms: u64) -> String {
    match ms {
        0 => "less than 1 ms".to_string(),
        1..100 => format!("{ms} ms"),
        _ => seconds(ms),
    }
}

fn seconds(ms: u64) -> String {
    format!("{}.{:02} s", ms / 1_000, ms % 1_000 / 10)
}

fn count(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// To stdout; a reader that has gone is no reason to panic.
fn print(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Their names, and how the page knows them.
const NAMES: [&str; 2] = ["alpha", "beta"];

/// Between two looks at the loops. The page asks at a slower pace.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How late Ctrl-C may be noticed.
const PATIENCE: Duration = Duration::from_millis(100);

/// For the Closes at the end.
const FAREWELL: Duration = Duration::from_secs(1);

/// Sessions of one loop that are looked at. Beyond it a demo is a load test.
const SESSIONS_SHOWN: usize = 500;

/// The last events that the summary tells: a screen of them.
const EVENTS_TOLD: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;
    use story::Step;

    #[test]
    fn the_summary_says_it_all() {
        let mut story = Story::default();
        story.tell(3_333, Event::Killed("alpha"));
        let steps = vec![
            Step {
                session: 1,
                from: Some(0),
                to: 1,
            },
            Step {
                session: 2,
                from: Some(0),
                to: 1,
            },
        ];
        let moved = Move {
            steps,
            hold_ms: Some((0, 1_204)),
            replayed: 1,
        };
        story.tell(3_400, Event::Moved(moved));
        let mut score = Score {
            sessions: 3,
            sent: 570,
            echoed: 570,
            repeated: 2,
            waiting_max: 21,
            ..Score::default()
        };
        assert_eq!(
            summary(&score, &story, 10_004),
            "\n  3 sessions sent 570 messages through wsteady in 10.00 s.\n\n  \
             echoed            570\n  \
             lost                0\n  \
             out of order        0\n  \
             repeated            2   answered twice: at least once, never less\n  \
             disconnects         0\n  \
             most waiting       21   of one session at once, for its answers\n\n  \
             What happened meanwhile:\n    \
             3.33 s   alpha was killed\n    \
             3.40 s   2 sessions moved to beta after less than 1 ms to 1.20 s, 1 message sent again\n\n  \
             The clients noticed nothing.\n\n"
        );
        score.lost = 1;
        let text = summary(&score, &Story::default(), 1);
        assert!(text.contains("not what wsteady promises"), "{text}");
    }

    #[test]
    fn a_taken_port_is_left_alone() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let mut notes = Vec::new();
        assert_eq!(free(address, &mut notes).unwrap().port(), 0);
        assert_eq!(notes.len(), 1);
        drop(taken);
        assert_eq!(free(address, &mut notes).unwrap(), address);
        assert_eq!(notes.len(), 1);
    }

    #[test]
    fn the_play_kills_the_busiest_first_and_leaves_all_alive() {
        let stage = Stage::open(None, Speech::WebSocket).unwrap();
        let beta = &stage.servers[1];
        let _visitor = std::net::TcpStream::connect(beta.address()).unwrap();
        while beta.connections() == 0 {
            thread::sleep(Duration::from_millis(5));
        }
        let alive = || [0, 1].map(|index: usize| stage.servers[index].is_alive());
        let mut victim = 0;
        let table = [
            (Cue::KillBusiest, [true, false]),
            (Cue::KillOther, [false, false]),
            (Cue::ReviveVictim, [false, true]),
            (Cue::ReviveAll, [true, true]),
        ];
        for (cue, expected) in table {
            direct(&stage, cue, &mut victim);
            assert_eq!(alive(), expected, "{cue:?}");
        }
        let told: Vec<String> = stage.story().entries.iter().map(tell).collect();
        let expected = [
            "beta was killed",
            "alpha was killed",
            "beta came back",
            "alpha came back",
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn servers_stand_in_the_pool_under_their_names() {
        let stage = Stage::open(None, Speech::WebSocket).unwrap();
        let config = configure(&stage.servers, Speech::WebSocket).unwrap();
        let servers = &config.pools[0].servers;
        assert_eq!([&servers[0].id, &servers[1].id], ["alpha", "beta"]);
        assert_eq!(servers[1].url.port, stage.servers[1].address().port());
    }
}
