//! A stream of HTTP messages as the kernels see it, cut into heads and payload. It is strict: what
//! the proxy writes has one form only.

use crate::sim::head::Head;

/// What stands next in the stream.
pub enum Piece {
    /// The body's framing must be told, by [`Decoder::frame`], before anything else is read.
    Head(Head),
    /// So many bytes of payload, at the start of what [`Decoder::payload`] gives.
    Body(Vec<u8>),
    End,
}

/// How the end of a body is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    Length(usize),
    Chunked,
    /// By the end of the connection.
    Endless,
}

/// Where a stream stands.
#[derive(Default)]
pub struct Decoder {
    bytes: Vec<u8>,
    /// What was read of them.
    at: usize,
    state: State,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Head,
    /// A head was handed out, and nothing is known of its body.
    Unframed,
    Length(usize),
    Endless,
    Size,
    Chunk(usize),
    ChunkEnd,
    LastEnd,
    Done,
}

impl Decoder {
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..std::mem::take(&mut self.at));
        self.bytes.extend_from_slice(bytes);
    }

    pub fn frame(&mut self, framing: Framing) {
        debug_assert_eq!(self.state, State::Unframed);
        self.state = match framing {
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Size,
            Framing::Endless => State::Endless,
        };
    }

    /// Whether it stands between two messages.
    pub fn is_between(&self) -> bool {
        self.state == State::Head && self.at == self.bytes.len()
    }

    /// The first line of a head that is not all there.
    pub fn first_line(&self) -> Option<&str> {
        let rest = &self.bytes[self.at..];
        let end = rest.windows(2).position(|two| two == b"\r\n")?;
        let line = std::str::from_utf8(&rest[..end]).ok();
        line.filter(|_| self.state == State::Head)
    }

    pub fn next(&mut self) -> Result<Option<Piece>, String> {
        loop {
            let rest = &self.bytes[self.at..];
            match self.state {
                State::Head => {
                    let Some(end) = rest.windows(4).position(|four| four == b"\r\n\r\n") else {
                        return Ok(None);
                    };
                    let head = Head::read(&rest[..end])?;
                    self.at += end + 4;
                    self.state = State::Unframed;
                    return Ok(Some(Piece::Head(head)));
                }
                State::Unframed => return Err("a head whose body nobody has framed".into()),
                State::Length(0) | State::Done => {
                    self.state = State::Head;
                    return Ok(Some(Piece::End));
                }
                State::Endless | State::Length(_) | State::Chunk(_) if rest.is_empty() => {
                    return Ok(None);
                }
                State::Endless => return Ok(Some(self.take(usize::MAX))),
                State::Length(left) => {
                    let took = left.min(rest.len());
                    self.state = State::Length(left - took);
                    return Ok(Some(self.take(took)));
                }
                State::Chunk(left) => {
                    let took = left.min(rest.len());
                    self.state = match left - took {
                        0 => State::ChunkEnd,
                        left => State::Chunk(left),
                    };
                    return Ok(Some(self.take(took)));
                }
                State::Size | State::ChunkEnd | State::LastEnd => {
                    let Some(end) = rest.windows(2).position(|two| two == b"\r\n") else {
                        return match rest.len() {
                            0..20 => Ok(None),
                            _ => Err(format!("no line end in {:?}", &rest[..20])),
                        };
                    };
                    let line = String::from_utf8_lossy(&rest[..end]).into_owned();
                    self.at += end + 2;
                    self.state = match (self.state, line.as_str()) {
                        (State::ChunkEnd, "") => State::Size,
                        (State::LastEnd, "") => State::Done,
                        (State::Size, "0") => State::LastEnd,
                        (State::Size, size) => State::Chunk(read_size(size)?),
                        (_, line) => return Err(format!("{line:?} behind a chunk")),
                    };
                }
            }
        }
    }

    fn take(&mut self, count: usize) -> Piece {
        let rest = &self.bytes[self.at..];
        let piece = rest[..count.min(rest.len())].to_vec();
        self.at += piece.len();
        Piece::Body(piece)
    }
}

/// No extension, no zero before it, no capital.
fn read_size(line: &str) -> Result<usize, String> {
    let plain = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    let good = !line.is_empty() && line.bytes().all(plain) && !line.starts_with('0');
    let size = usize::from_str_radix(line, 16).ok().filter(|_| good);
    size.ok_or_else(|| format!("a chunk size of {line:?}"))
}
