//! The demo that plays by itself: visitors who count, and somebody who kills servers meanwhile.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tungstenite::{Error, Message, WebSocket};

/// What the play does to the servers. The caller does it, so that its story tells of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cue {
    /// Kill the server with the most connections: the victim.
    KillBusiest,
    /// Kill the other one, while the victim is still dead: nobody is left.
    KillOther,
    /// Bring the victim back.
    ReviveVictim,
    /// The play is over and somebody may still wait for an answer: nobody stays dead.
    ReviveAll,
}

/// What a visitor saw, or all of them together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Score {
    pub sessions: u64,
    pub sent: u64,
    /// Messages that were answered, each counted once.
    pub echoed: u64,
    /// Messages that no answer came for.
    pub lost: u64,
    /// Answers to messages that had been answered before.
    pub repeated: u64,
    /// Answers out of order, to another visitor's message, or to none.
    pub wrong: u64,
    /// The most messages of one session that waited for their answers at once.
    pub waiting_max: u64,
    /// Sessions that could not be opened, or ended before their visitor wanted it.
    pub disconnects: u64,
}

impl Score {
    /// Whether wsteady kept its promise. Repeats are allowed: at least once, and in order.
    pub fn is_clean(&self) -> bool {
        self.lost == 0 && self.wrong == 0 && self.disconnects == 0 && self.echoed > 0
    }

    fn add(&mut self, other: &Score) {
        self.sessions += other.sessions;
        self.sent += other.sent;
        self.echoed += other.echoed;
        self.lost += other.lost;
        self.repeated += other.repeated;
        self.wrong += other.wrong;
        self.waiting_max = self.waiting_max.max(other.waiting_max);
        self.disconnects += other.disconnects;
    }
}

/// Plays for `length`, then waits until all is answered. `stop` ends it early.
pub fn play(
    proxy: SocketAddr,
    length: Duration,
    stop: &Arc<AtomicBool>,
    mut direct: impl FnMut(Cue),
) -> Score {
    let begin = Instant::now();
    let mut score = Score::default();
    let mut visitors = Vec::new();
    for number in 1..=VISITORS {
        let stop = Arc::clone(stop);
        let until = begin + sending_time(length);
        let visit = move || visit(number, proxy, until, &stop);
        match thread::Builder::new()
            .name(format!("visitor {number}"))
            .spawn(visit)
        {
            Ok(visitor) => visitors.push(visitor),
            Err(_) => score.disconnects += 1,
        }
    }
    for (after, cue) in cues(length) {
        if sleep_until(begin + after, stop) {
            direct(cue);
        }
    }
    sleep_until(begin + sending_time(length), stop);
    direct(Cue::ReviveAll);
    for visitor in visitors {
        match visitor.join() {
            Ok(one) => score.add(&one),
            Err(_) => score.disconnects += 1,
        }
    }
    score
}

/// When what is done.
fn cues(length: Duration) -> [(Duration, Cue); 3] {
    let second = length * 2 / 3;
    let nobody = (length / 12).min(NOBODY_MAX);
    [
        (length / 3, Cue::KillBusiest),
        (second, Cue::KillOther),
        (second + nobody, Cue::ReviveVictim),
    ]
}

/// A little is left at the end for the last answers.
fn sending_time(length: Duration) -> Duration {
    length - (length / 10).min(SETTLE)
}

/// False if it was told to stop before.
fn sleep_until(moment: Instant, stop: &AtomicBool) -> bool {
    loop {
        let left = moment.saturating_duration_since(Instant::now());
        if stop.load(Ordering::Relaxed) {
            return false;
        }
        if left.is_zero() {
            return true;
        }
        thread::sleep(left.min(STOP_PATIENCE));
    }
}

/// One visitor's books: what was said, and what came back.
struct Ledger {
    /// Stands in every message: another visitor's must not pass for ours.
    visitor: u32,
    sent: u64,
    /// The message whose answer comes next, unless a server is lost.
    next: u64,
    score: Score,
}

impl Ledger {
    fn new(visitor: u32) -> Ledger {
        let score = Score {
            sessions: 1,
            ..Score::default()
        };
        Ledger {
            visitor,
            sent: 0,
            next: 1,
            score,
        }
    }

    /// The next message to send.
    fn compose(&mut self) -> String {
        self.sent += 1;
        let waiting = self.sent + 1 - self.next;
        self.score.waiting_max = self.score.waiting_max.max(waiting);
        format!("visitor {}, message {}", self.visitor, self.sent)
    }

    /// Whether every message has its answer.
    fn is_even(&self) -> bool {
        self.next > self.sent
    }

    /// An answer: `alpha: visitor 1, message 17`.
    fn on_answer(&mut self, text: &str) {
        let prefix = format!("visitor {}, message ", self.visitor);
        let number = text
            .split_once(": ")
            .and_then(|(_, echo)| echo.strip_prefix(&prefix))
            .and_then(|number| number.parse::<u64>().ok())
            .filter(|number| (1..=self.sent).contains(number));
        match number {
            None => self.score.wrong += 1,
            Some(number) if number < self.next => self.score.repeated += 1,
            Some(number) => {
                // What was jumped over is lost; should its answer come later, it is too late.
                self.score.lost += number - self.next;
                self.score.echoed += 1;
                self.next = number + 1;
            }
        }
    }

    fn close(mut self) -> Score {
        self.score.sent = self.sent;
        self.score.lost += self.sent + 1 - self.next;
        self.score
    }
}

/// A session from its first message to its last answer.
fn visit(number: u32, proxy: SocketAddr, until: Instant, stop: &AtomicBool) -> Score {
    let mut ledger = Ledger::new(number);
    let outcome = dial(number, proxy).and_then(|mut socket| {
        talk(&mut socket, &mut ledger, until, stop)?;
        hang_up(&mut socket, &mut ledger)
    });
    if outcome.is_err() {
        ledger.score.disconnects += 1;
    }
    ledger.close()
}

fn dial(number: u32, proxy: SocketAddr) -> Result<WebSocket<TcpStream>, Error> {
    let stream = TcpStream::connect_timeout(&proxy, DIAL_PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(DIAL_PATIENCE))?;
    stream.set_write_timeout(Some(DIAL_PATIENCE))?;
    let url = format!("ws://{proxy}/demo-visitor-{number}");
    match tungstenite::client(url, stream) {
        Ok((socket, _)) => Ok(socket),
        Err(tungstenite::HandshakeError::Failure(error)) => Err(error),
        Err(tungstenite::HandshakeError::Interrupted(_)) => {
            Err(Error::Io(io::Error::from(ErrorKind::TimedOut)))
        }
    }
}

/// Sends at its pace until the time is over, then listens until all is answered.
fn talk(
    socket: &mut WebSocket<TcpStream>,
    ledger: &mut Ledger,
    until: Instant,
    stop: &AtomicBool,
) -> Result<(), Error> {
    // Not all at the same moment: whenever a server dies, somebody has just spoken.
    let mut next_send = Instant::now() + PACE * (ledger.visitor - 1) / VISITORS;
    while next_send < until && !stop.load(Ordering::Relaxed) {
        let left = next_send.saturating_duration_since(Instant::now());
        if left.is_zero() {
            socket.send(Message::text(ledger.compose()))?;
            // Not from now: a late wake-up must not slow the pace down.
            next_send += PACE;
        } else {
            listen(socket, ledger, left.min(STOP_PATIENCE))?;
        }
    }
    let deadline = Instant::now() + ANSWER_PATIENCE;
    while !ledger.is_even() && Instant::now() < deadline {
        listen(socket, ledger, STOP_PATIENCE)?;
    }
    // Answers that come twice come late; and a session that has just moved is still looked at.
    let end = Instant::now() + LINGER;
    while let left = end.saturating_duration_since(Instant::now())
        && !left.is_zero()
    {
        listen(socket, ledger, left)?;
    }
    Ok(())
}

/// Reads one answer, or none if none comes in time.
fn listen(
    socket: &mut WebSocket<TcpStream>,
    ledger: &mut Ledger,
    wait: Duration,
) -> Result<(), Error> {
    // Zero would mean forever.
    let wait = wait.max(Duration::from_millis(1));
    socket.get_ref().set_read_timeout(Some(wait))?;
    match socket.read() {
        Ok(Message::Text(text)) => ledger.on_answer(&text),
        Ok(Message::Binary(_)) => ledger.score.wrong += 1,
        Ok(Message::Close(_)) => return Err(Error::ConnectionClosed),
        Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => {}
        Err(Error::Io(error)) if is_timeout(&error) => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

/// A Close of ours, and its answer. Answers that were given twice may still come before it.
fn hang_up(socket: &mut WebSocket<TcpStream>, ledger: &mut Ledger) -> Result<(), Error> {
    socket.get_ref().set_read_timeout(Some(DIAL_PATIENCE))?;
    socket.close(None)?;
    loop {
        match socket.read() {
            Ok(Message::Text(text)) => ledger.on_answer(&text),
            Ok(_) => {}
            Err(Error::ConnectionClosed) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// Enough that both servers have one.
const VISITORS: u32 = 3;

/// Twenty messages a second and visitor: some are under way whenever a server dies.
const PACE: Duration = Duration::from_millis(50);

/// Time without any server: long enough to be seen, short enough for impatient newcomers.
const NOBODY_MAX: Duration = Duration::from_millis(800);

/// Time between the last message and the end.
const SETTLE: Duration = Duration::from_millis(500);

/// For the last answers: the proxy's back-off goes up to 2 s, and then a server must take it all.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);

/// Between the last answer and the Close: three looks at the sessions.
const LINGER: Duration = Duration::from_millis(300);

/// For a handshake through the proxy (which waits 5 s for a server), and for a Close.
const DIAL_PATIENCE: Duration = Duration::from_secs(6);

/// How late a stop may be noticed.
const STOP_PATIENCE: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::demo::Speech;
    use crate::control::demo::servers::EchoServer;

    fn ledger(sent: u64) -> Ledger {
        let mut ledger = Ledger::new(2);
        (0..sent).for_each(|_| drop(ledger.compose()));
        ledger
    }

    #[test]
    fn the_ledger_knows_loss_repeat_and_strangers() {
        // Answers, then echoed, lost, repeated, wrong.
        let table: &[(&[&str], [u64; 4])] = &[
            (&["1", "2", "3"], [3, 0, 0, 0]),
            (&["1", "2"], [2, 1, 0, 0]),
            (&["1", "3"], [2, 1, 0, 0]),
            (&["3", "1", "2"], [1, 2, 2, 0]),
            (&["1", "2", "1", "2", "3"], [3, 0, 2, 0]),
            (&["1", "2", "3", "4"], [3, 0, 0, 1]),
            (&["0", "x", "", "-1"], [0, 3, 0, 4]),
            (&[], [0, 3, 0, 0]),
        ];
        for (answers, expected) in table {
            let mut ledger = ledger(3);
            for answer in *answers {
                ledger.on_answer(&format!("alpha: visitor 2, message {answer}"));
            }
            let score = ledger.close();
            let got = [score.echoed, score.lost, score.repeated, score.wrong];
            assert_eq!(got, *expected, "{answers:?}");
            assert_eq!((score.sent, score.sessions, score.waiting_max), (3, 1, 3));
        }
        for stranger in [
            "visitor 2, message 1",
            "alpha: visitor 1, message 1",
            "alpha: ",
        ] {
            let mut ledger = ledger(1);
            ledger.on_answer(stranger);
            assert_eq!(ledger.score.wrong, 1, "{stranger}");
            assert!(!ledger.is_even());
        }
    }

    #[test]
    fn only_a_clean_score_is_clean() {
        let clean = Score {
            sessions: 1,
            sent: 2,
            echoed: 2,
            repeated: 1,
            ..Score::default()
        };
        assert!(clean.is_clean());
        let spoil: [fn(&mut Score); 4] = [
            |score| score.lost = 1,
            |score| score.wrong = 1,
            |score| score.disconnects = 1,
            |score| score.echoed = 0,
        ];
        for spoil in spoil {
            let mut score = clean.clone();
            spoil(&mut score);
            assert!(!score.is_clean(), "{score:?}");
        }
    }

    #[test]
    fn cues_come_in_order_and_before_the_end() {
        for millis in [1, 1_000, 10_000, 86_400_000] {
            let length = Duration::from_millis(millis);
            let cues = cues(length);
            assert!(cues.is_sorted_by_key(|(after, _)| *after));
            assert!(cues[2].0 <= sending_time(length) && sending_time(length) <= length);
        }
        let ten = cues(Duration::from_secs(10)).map(|(after, _)| after.as_millis());
        assert_eq!(ten, [3_333, 6_666, 7_466]);
    }

    /// Without a proxy between: what the visitors see is what the server does.
    #[test]
    fn visitors_count_right_with_a_server_that_lives_and_one_that_dies() {
        let length = Duration::from_millis(600);
        let stop = Arc::new(AtomicBool::new(false));
        let server = EchoServer::start("alpha", Speech::WebSocket).unwrap();
        let mut seen = Vec::new();
        let score = play(server.address(), length, &stop, |cue| seen.push(cue));
        assert!(score.is_clean(), "{score:?}");
        assert_eq!((score.sessions, score.repeated), (3, 0));
        assert_eq!(score.sent, score.echoed);
        // 0, 50, … 500 ms and a little; fewer on a machine that has no time for them.
        assert!((3..=33).contains(&score.sent), "{score:?}");
        let all = [
            Cue::KillBusiest,
            Cue::KillOther,
            Cue::ReviveVictim,
            Cue::ReviveAll,
        ];
        assert_eq!(seen, all);

        let score = play(server.address(), length, &stop, |cue| {
            if cue == Cue::KillBusiest {
                server.kill();
            }
        });
        assert_eq!(score.disconnects, 3, "{score:?}");
        assert!(!score.is_clean());
        assert_eq!(score.sent, score.echoed + score.lost);
        let score = play(server.address(), Duration::from_millis(10), &stop, |_| {});
        assert_eq!((score.disconnects, score.sent), (3, 0), "nobody listens");
    }

    #[test]
    fn a_stop_ends_it_early() {
        let server = EchoServer::start("alpha", Speech::WebSocket).unwrap();
        let stop = Arc::new(AtomicBool::new(true));
        let begun = Instant::now();
        let mut seen = Vec::new();
        let length = Duration::from_secs(3_600);
        play(server.address(), length, &stop, |cue| seen.push(cue));
        assert!(begun.elapsed() < Duration::from_secs(60));
        assert_eq!(seen, [Cue::ReviveAll]);
    }
}
