//! WebSockets before Redis, by a dialect of one's own: what a client says is appended to a stream, and
//! what is published for it is said to it. `cargo run --example redis -- chat 127.0.0.1:6379`. The end
//! of its input stops it.
//!
//! The client of `ws://…/anna` has a stream, `chat:anna:in`, and a channel, `chat:anna:out`:
//!
//!     > XRANGE chat:anna:in - +
//!     1763800000000-0   session 5d…0c  number 0    text "hello"
//!     1763800000417-0   session 5d…0c  number 1    binary "\x00\x01"
//!     1763800009004-0   session 5d…0c  number end  close 1000  reason "bye"
//!     > PUBLISH chat:anna:out "hello, anna"
//!
//! A message is an entry once, and in order, also when Redis is killed and started again; so far as
//! Redis keeps what it has acknowledged (`appendonly yes`, `appendfsync always`), and who trims the
//! stream leaves its last entry. What is published while nobody subscribes is lost, as always.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::{error::Error, thread, time::Duration};

use wsteady::kit::Prng;
use wsteady::session::Loss;
use wsteady::session::dialect::{Asks, Call, Dial, Dialect, Heard, Reply, Terms};
use wsteady::{Config, Handle, Proxy, Refusal};

/// One connection to Redis. One command at a time is under way on it.
pub struct Redis {
    /// The answer of the proxy's that Redis's yes stands for, while it is awaited.
    yes: Option<&'static str>,
}

impl Dialect for Redis {
    /// A connection for calls: that is what a bridge makes.
    fn for_calls(_terms: &Terms<'_>) -> Option<Redis> {
        Some(Redis { yes: None })
    }

    /// Writes the command. What the proxy asks for is the same whatever is spoken: may this client
    /// come in, take this message, the client has left.
    fn call(
        &mut self,
        call: &Call<'_>,
        body: &mut dyn FnMut(&mut Vec<u8>),
        out: &mut Vec<u8>,
    ) -> Option<()> {
        let key = format!("{}:{}:in", call.to.prefix.trim_matches('/'), call.client_id);
        let session = format!("{:032x}", call.session);
        let mut append = |number: &str, more: &[&str], length: usize| {
            let first = ["EVAL", APPEND, "1", &key, "session", &session];
            let words = [&first[..], &["number", number], more].concat();
            put_words(&words, 1, out);
            // The last word is the body, which is written where it is to stand, and not copied.
            out.extend_from_slice(format!("${length}\r\n").as_bytes());
            body(out);
            out.extend_from_slice(b"\r\n");
        };
        match call.asks {
            Asks::Admission { .. } => put_words(&["PING"], 0, out),
            Asks::Message {
                binary,
                length,
                number,
            } => {
                let kind = if binary { "binary" } else { "text" };
                append(&number.to_string(), &[kind], length);
            }
            Asks::Farewell { code, length } => {
                append("end", &["close", &code.to_string(), "reason"], length);
            }
        }
        self.yes = Some(match call.asks {
            Asks::Admission { .. } | Asks::Farewell { .. } => "ok",
            // A body would be a message to the client.
            Asks::Message { .. } => "",
        });
        Some(())
    }

    /// Reads the reply to it, if all of that has come.
    fn hear(&mut self, input: &[u8]) -> (usize, Heard) {
        let (used, status) = match read_reply(input) {
            Ok(Some(whole)) => whole,
            Ok(None) => return (0, Heard::More),
            Err(Stranger) => return (input.len(), Heard::Broken(Loss::Protocol)),
        };
        let Some(yes) = self.yes.take() else {
            return (input.len(), Heard::Broken(Loss::Protocol));
        };
        let reply = Reply {
            status,
            body: if status == 200 {
                yes.into()
            } else {
                Vec::new()
            },
            keep: true,
            ..Reply::default()
        };
        (used, Heard::Reply(Box::new(reply)))
    }

    fn hear_end(&mut self) -> Heard {
        Heard::Broken(Loss::Fin)
    }

    fn is_whole(&self) -> bool {
        self.yes.is_none()
    }

    fn open(_dial: Dial<'_>, _rng: &mut Prng, _first_bytes: &mut Vec<u8>) -> Redis {
        Redis { yes: None }
    }
}

/// Appends an entry, unless the stream has it. A message whose answer was lost is said again, and only
/// then comes the next: so the last entry tells. One that a command from a connection given up long
/// ago brings is not newer than that, either.
const APPEND: &str = "\
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local function place(number) return tonumber(number) or math.huge end
if last and last[2][2] == ARGV[2] and place(last[2][4]) >= place(ARGV[4]) then
    return last[1]
end
return redis.call('XADD', KEYS[1], '*', unpack(ARGV))";

/// Begins a command of these words and so many more. A word's length stands before it: whatever a
/// client puts into one, it ends where it ends.
fn put_words(words: &[&str], more: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(format!("*{}\r\n", words.len() + more).as_bytes());
    for word in words {
        out.extend_from_slice(format!("${}\r\n{word}\r\n", word.len()).as_bytes());
    }
}

/// What is no reply to any of our commands.
struct Stranger;

/// The reply at the start of `input`, if it is whole: its length, and the status that says the same.
fn read_reply(input: &[u8]) -> Result<Option<(usize, u16)>, Stranger> {
    let begin = &input[..input.len().min(LINE_MAX)];
    let Some(end) = begin.windows(2).position(|two| two == b"\r\n") else {
        return match input.len() {
            LINE_MAX.. => Err(Stranger),
            _ => Ok(None),
        };
    };
    let after = end + 2;
    match input[..end].split_first() {
        // PONG.
        Some((b'+', _)) => Ok(Some((after, 200))),
        Some((b'-', why)) => Ok(Some((after, status_of(why)))),
        // The entry's id.
        Some((b'$', length)) => {
            let length: Option<usize> = str::from_utf8(length).ok().and_then(|it| it.parse().ok());
            let length = length.filter(|it| *it <= LINE_MAX).ok_or(Stranger)?;
            match input.get(after + length..after + length + 2) {
                Some(b"\r\n") => Ok(Some((after + length + 2, 200))),
                Some(_) => Err(Stranger),
                None => Ok(None),
            }
        }
        _ => Err(Stranger),
    }
}

/// An error begins with a word that says which. 5xx is tried again, for as long as `session.hold` lets
/// it; after 4xx the message is counted as failed, and the next one is said.
fn status_of(error: &[u8]) -> u16 {
    match error.split(|byte| *byte == b' ').next() {
        Some(b"LOADING" | b"BUSY" | b"MASTERDOWN" | b"TRYAGAIN" | b"CLUSTERDOWN") => 503,
        Some(b"OOM" | b"MISCONF" | b"READONLY" | b"NOREPLICAS") => 503,
        Some(b"NOAUTH" | b"NOPERM" | b"WRONGPASS") => 401,
        _ => 400,
    }
}

/// Bytes of a line. Redis's errors quote some of the command, but no more than a few hundred bytes.
const LINE_MAX: usize = 4_096;

/// Hands down what is published for clients, until the connection fails. This is the thread's own: it
/// may wait for Redis, while no loop does.
fn say_published(prefix: &str, address: &str, handle: &Handle) -> io::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    let mut command = Vec::new();
    put_words(&["PSUBSCRIBE", &format!("{prefix}:*:out")], 0, &mut command);
    stream.write_all(&command)?;
    let mut input = BufReader::new(stream);
    while handle.is_running() {
        let told = read_array(&mut input)?;
        let [kind, _pattern, channel, message] = &told[..] else {
            continue;
        };
        let channel = String::from_utf8_lossy(channel);
        let id = channel
            .strip_prefix(prefix)
            .and_then(|it| it.strip_prefix(':'));
        let id = id.and_then(|it| it.strip_suffix(":out"));
        let (Some(id), b"pmessage") = (id, &kind[..]) else {
            continue;
        };
        let pushed = match str::from_utf8(message) {
            Ok(text) => handle.push_text(id, text),
            Err(_) => handle.push_binary(id, message),
        };
        match pushed {
            // Whoever publishes does not know who is here.
            Ok(()) | Err(Refusal::Missing(_)) => {}
            Err(why) => eprintln!("not said to {id}: {why}"),
        }
    }
    Ok(())
}

/// What subscribers are told: an array of strings and numbers.
fn read_array(input: &mut impl BufRead) -> io::Result<Vec<Vec<u8>>> {
    let line = read_line(input)?;
    let count = line.strip_prefix('*').and_then(|it| it.parse().ok());
    let count: usize = count.ok_or_else(|| io::Error::other(line.clone()))?;
    (0..count).map(|_| read_word(input)).collect()
}

fn read_word(input: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let line = read_line(input)?;
    let Some(length) = line.strip_prefix('$') else {
        return Ok(line.into_bytes());
    };
    let length: u64 = length.parse().map_err(io::Error::other)?;
    let mut word = Vec::new();
    input.take(length).read_to_end(&mut word)?;
    read_line(input).map(|_end| word)
}

fn read_line(input: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    match input.read_line(&mut line)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(line.trim_end().to_owned()),
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [prefix, address] = <[String; 2]>::try_from(arguments)
        .map_err(|_| "redis PREFIX HOST:PORT, for example: redis chat 127.0.0.1:6379")?;
    let mut config = Config::with_apis(&[format!("http://{address}/{prefix}/")])?;
    config.listen[0].address = "127.0.0.1:0".parse()?;
    config.admin.address = "127.0.0.1:0".parse()?;
    let proxy = Proxy::builder(config).dialect::<Redis>().start()?;
    println!("listening on {}", proxy.listen_addresses()[0]);

    let handle = proxy.handle();
    thread::spawn(move || {
        while handle.is_running() {
            if let Err(why) = say_published(&prefix, &address, &handle) {
                eprintln!("{address}: {why}");
            }
            thread::sleep(Duration::from_secs(1));
        }
    });

    io::copy(&mut io::stdin(), &mut io::sink())?;
    proxy.stop(Duration::from_secs(2));
    Ok(())
}
