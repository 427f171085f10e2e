//! Frames: any segmentation gives the same steps and the same error, and what passes is what an
//! independent library reads.
//!
//! Input: one byte of flags, one that seeds the cuts, then a stream.

#![no_main]

use std::io::{self, Read, Write};

use libfuzzer_sys::fuzz_target;
use tungstenite::protocol::{Role, WebSocket, WebSocketConfig};
use tungstenite::{Error, Message};
use wsteady::wire::frame::{self, Opcode, Sender};
use wsteady::wire::scan::{Limits, Scanner, Step};
use wsteady::wire::{close, mask};

fuzz_target!(|input: &[u8]| {
    let [flags, seed, stream @ ..] = input else {
        return;
    };
    let from = if flags & 1 == 0 {
        Sender::Client
    } else {
        Sender::Server
    };
    let deflate = flags & 2 != 0;
    let limits = if flags & 4 == 0 { WIDE } else { NARROW };
    let whole = run(from, deflate, &limits, stream, || usize::MAX);
    let bytes = run(from, deflate, &limits, stream, || 1);
    assert_eq!(whole, bytes, "at once, and byte by byte");
    let mut state = u32::from(*seed) | 1;
    let cut = run(from, deflate, &limits, stream, || {
        state = state.wrapping_mul(1_103_515_245).wrapping_add(12_345);
        1 + (state >> 16) as usize % 40
    });
    assert_eq!(whole, cut, "at once, and in segments");
    check_headers(from, deflate, stream);
    check_content(from, &whole);
    if !deflate && flags & 4 == 0 {
        ask_the_oracle(from, stream, &whole);
    }
});

/// What a scanner said about a stream, so written that it can't depend on the segments.
#[derive(Debug, Default, PartialEq)]
struct Said {
    /// Whole data frames, and one that was cut by the end of the input.
    frames: Vec<Frame>,
    /// Control frames, each with the number of data frames before it.
    controls: Vec<(usize, Opcode, Vec<u8>)>,
    /// Bytes that were passed on or answered.
    used: usize,
    error: Option<(u16, &'static str)>,
}

#[derive(Debug, PartialEq)]
struct Frame {
    bytes: Vec<u8>,
    begins: bool,
    ends: bool,
    text: bool,
}

/// Feeds `stream` in segments whose lengths `next` chooses, keeping what `More` leaves.
fn run(
    from: Sender,
    deflate: bool,
    limits: &Limits,
    stream: &[u8],
    mut next: impl FnMut() -> usize,
) -> Said {
    let mut scanner = Scanner::new(from, deflate);
    let mut said = Said::default();
    let (mut at, mut end) = (0, 0);
    while end < stream.len() {
        end = stream.len().min(end.saturating_add(next().max(1)));
        while at < end {
            let inside = scanner.frame_left() > 0;
            match scanner.step(&stream[at..end], limits) {
                Ok(Step::More) => break,
                Ok(step) => at += note(&mut said, step, &stream[at..end]),
                Err(error) => {
                    said.error = Some((error.code, error.reason));
                    if inside {
                        said.frames.pop();
                    }
                    said.used = said.frames.iter().map(|frame| frame.bytes.len()).sum();
                    return said;
                }
            }
        }
        assert!(end - at <= 131, "More keeps {} bytes", end - at);
    }
    assert!(said.used <= stream.len());
    said
}

fn note(said: &mut Said, step: Step, input: &[u8]) -> usize {
    match step {
        Step::More => 0,
        Step::Data {
            len,
            begins_message,
            begins_frame,
            ends_message,
            text,
        } => {
            assert!(len > 0 && len <= input.len());
            if begins_frame {
                let bytes = Vec::new();
                said.frames.push(Frame {
                    bytes,
                    begins: begins_message,
                    ends: false,
                    text,
                });
            }
            let frame = said.frames.last_mut().expect("a piece belongs to a frame");
            assert!(!frame.ends && frame.text == text && (begins_frame || !begins_message));
            frame.bytes.extend_from_slice(&input[..len]);
            frame.ends = ends_message;
            said.used += len;
            len
        }
        Step::Control {
            len,
            opcode,
            payload,
        } => {
            said.controls
                .push((said.frames.len(), opcode, payload.to_vec()));
            said.used += len;
            check_close(opcode, &payload);
            len
        }
    }
}

/// What is read from a Close frame is what would be written.
fn check_close(opcode: Opcode, payload: &[u8]) {
    if opcode != Opcode::Close {
        return;
    }
    match close::parse(payload) {
        Ok(Some((code, reason))) => assert_eq!(*close::payload(code, reason), *payload),
        Ok(None) => assert!(payload.is_empty()),
        Err(error) => assert!(matches!(error.code, 1002 | 1007)),
    }
}

/// One header: known bytes never change the verdict, and writing gives what was read.
fn check_headers(from: Sender, deflate: bool, stream: &[u8]) {
    let mut verdict = None;
    for len in 0..=stream.len().min(frame::HEADER_MAX) {
        let now = frame::parse(&stream[..len], from, deflate);
        if let Some(before) = verdict {
            assert_eq!(now, before, "a verdict changed at byte {len}");
        }
        match now {
            Ok(None) => {}
            Ok(Some(_)) | Err(_) => verdict = Some(now),
        }
    }
    if let Some(Ok(Some(header))) = verdict {
        let len = usize::from(header.header_len);
        let written = frame::encode_header(
            header.fin,
            header.rsv1,
            header.opcode,
            header.payload_len,
            header.mask,
        );
        assert_eq!(*written, stream[..len]);
        let seen = frame::peek_len(&stream[..len]);
        assert_eq!(
            seen,
            Some((len, header.payload_len, header.fin, header.opcode))
        );
    }
}

/// A client's complete text is UTF-8 unless it is compressed.
fn check_content(from: Sender, said: &Said) {
    let mut text = Vec::new();
    let mut checked = false;
    for frame in &said.frames {
        if frame.begins {
            text.clear();
            checked = frame.text && from == Sender::Client && frame.bytes[0] & 0x40 == 0;
        }
        text.extend(plain(&frame.bytes));
        if frame.ends && checked {
            assert!(std::str::from_utf8(&text).is_ok(), "bad text passed");
        }
    }
}

/// The payload of a frame without its mask.
fn plain(bytes: &[u8]) -> Vec<u8> {
    let (head, ..) = frame::peek_len(bytes).expect("a header is passed on whole");
    let mut payload = bytes[head..].to_vec();
    if bytes[1] & 0x80 != 0 {
        let key = bytes[head - 4..head].try_into().expect("four bytes");
        mask::apply(&mut payload, key);
    }
    payload
}

/// Compares with tungstenite up to the first Close, behind which it would read no more.
fn ask_the_oracle(from: Sender, stream: &[u8], said: &Said) {
    if said
        .controls
        .iter()
        .any(|(_, opcode, _)| *opcode == Opcode::Close)
    {
        return;
    }
    let role = if from == Sender::Client {
        Role::Server
    } else {
        Role::Client
    };
    let config = WebSocketConfig::default()
        .max_message_size(Some(ORACLE_MAX))
        .max_frame_size(Some(ORACLE_MAX))
        .read_buffer_size(ORACLE_MAX);
    let mut oracle = WebSocket::from_raw_socket(Wire(stream), role, Some(config));
    let mut wanted = messages(said).into_iter();
    // It takes lengths that are not in their shortest form, those of control frames too: behind one
    // it goes on alone.
    let lenient = said
        .error
        .is_some_and(|(_, reason)| reason.contains("shortest") || reason.contains("over 125"));
    let error = loop {
        let message = match oracle.read() {
            // Control frames may come in another order beside messages.
            Ok(Message::Ping(_) | Message::Pong(_)) => continue,
            Ok(Message::Text(text)) => (true, text.as_bytes().to_vec()),
            Ok(Message::Binary(bytes)) => (false, bytes.to_vec()),
            Ok(Message::Close(_)) if lenient => return,
            Ok(other) => panic!("we saw no {other:?}"),
            Err(error) => break error,
        };
        match wanted.next() {
            None if lenient => return,
            ours => assert_eq!(ours, Some(message)),
        }
    };
    let missing = wanted.next();
    match (error, said.error) {
        // Of a server's text we pass on what it checks, and of any text what it checks earlier.
        (Error::Utf8(_), None) => assert_eq!(from, Sender::Server),
        (Error::Utf8(_), Some(_)) => {}
        // A length that can't be there in an input of this size.
        (Error::Capacity(_), _) => {}
        // The end of the input. What it does not mind, or cannot know before a frame is whole.
        (Error::Protocol(tungstenite::error::ProtocolError::ResetWithoutClosingHandshake), _)
        | (Error::ConnectionClosed, _) => assert_eq!(missing, None, "it read less"),
        (Error::Protocol(_), Some((code, _))) => {
            assert_eq!(missing, None, "it read less");
            assert!(matches!(code, 1002 | 1007), "{code}");
        }
        (error, ours) => panic!("it says {error:?}, we say {ours:?}"),
    }
}

/// All complete messages, and whether they are text.
fn messages(said: &Said) -> Vec<(bool, Vec<u8>)> {
    let mut messages = Vec::new();
    let mut message = Vec::new();
    for frame in &said.frames {
        message.extend(plain(&frame.bytes));
        if frame.ends {
            messages.push((frame.text, std::mem::take(&mut message)));
        }
    }
    messages
}

/// A stream that is read and never written to.
struct Wire<'a>(&'a [u8]);

impl Read for Wire<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.read(into)
    }
}

impl Write for Wire<'_> {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        Ok(from.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

const WIDE: Limits = Limits {
    message_max: u64::MAX,
    fragments_max: u32::MAX,
    utf8: true,
};

const NARROW: Limits = Limits {
    message_max: 300,
    fragments_max: 3,
    utf8: true,
};

/// Above the longest input: a longer frame is never whole.
const ORACLE_MAX: usize = 8 << 10;
