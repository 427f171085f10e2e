//! Turns a client's frames into a server's, in the memory in which they arrived.

use crate::frame::{self, Header, Reader, Sender, Step};
use crate::utf8::Utf8;
use std::ops::Range;

/// The state between two reads of one connection.
pub struct Echo {
    reader: Reader,
    /// The open message is text, so far valid.
    text: Option<Utf8>,
    /// The start of a control frame's payload whose rest has not come.
    control: Vec<u8>,
}

/// Where the answer grows: it never overtakes the input, because each frame loses its mask.
struct Out {
    start: usize,
    end: usize,
    /// Where the data frame begins that was begun last in this turn.
    frame: Option<usize>,
}

/// How a conversation ends.
enum End {
    /// With a Close: the peer's own code, or what it did wrong.
    Close(u16),
    /// By TCP: half a frame is out, and a Close inside it would be read as its payload.
    Cut,
}

impl Echo {
    pub fn new() -> Self {
        Self {
            reader: Reader::new(Sender::Client),
            text: None,
            control: Vec::new(),
        }
    }

    /// Reads `count` bytes behind the headroom and writes the answer into the same memory.
    /// Returns where it is, and whether it ends with a Close.
    pub fn turn(&mut self, scratch: &mut [u8], count: usize) -> (Range<usize>, bool) {
        let mut out = Out {
            start: HEADROOM,
            end: HEADROOM,
            frame: None,
        };
        let end = self
            .frames(&mut scratch[..HEADROOM + count], &mut out)
            .err();
        if let Some(End::Close(code)) = end {
            let payload = code.to_be_bytes();
            // A peer that closed without a code is answered without one (RFC 6455, 5.5.1).
            let payload = if code == NO_CODE {
                &[][..]
            } else {
                &payload[..]
            };
            out.control(scratch, HEADROOM + count, frame::CLOSE, payload);
        }
        (out.start..out.end, end.is_some())
    }

    fn frames(&mut self, scratch: &mut [u8], out: &mut Out) -> Result<(), End> {
        let mut at = HEADROOM;
        loop {
            match self
                .reader
                .step(scratch, &mut at)
                .map_err(|_| End::Close(1002))?
            {
                Step::NeedMore => return Ok(()),
                Step::Begin(header) => {
                    if !header.is_control() {
                        if header.opcode != frame::CONTINUATION {
                            self.text = (header.opcode == frame::TEXT).then(Utf8::default);
                        }
                        out.begin(
                            scratch,
                            at,
                            &Header {
                                mask: None,
                                ..header
                            },
                        );
                    }
                    if header.payload_bytes == 0 {
                        self.end_frame(scratch, at, out, header)?;
                    }
                }
                Step::Payload { range, phase, last } => {
                    let header = *self.reader.header();
                    let key = header.mask.expect("a frame without one was refused");
                    frame::mask(&mut scratch[range.clone()], key, phase);
                    if header.is_control() {
                        self.control.extend_from_slice(&scratch[range]);
                    } else {
                        if let Some(text) = &mut self.text {
                            text.feed(&scratch[range.clone()])
                                .map_err(|_| out.abandon())?;
                        }
                        out.payload(scratch, range);
                    }
                    if last {
                        self.end_frame(scratch, at, out, header)?;
                    }
                }
            }
        }
    }

    fn end_frame(
        &mut self,
        scratch: &mut [u8],
        at: usize,
        out: &mut Out,
        header: Header,
    ) -> Result<(), End> {
        let control = std::mem::take(&mut self.control);
        match header.opcode {
            frame::PING => out.control(scratch, at, frame::PONG, &control),
            frame::CLOSE => {
                let code = frame::close_code(&control).map(|code| code.unwrap_or(NO_CODE));
                return Err(End::Close(code.unwrap_or_else(|fault| fault)));
            }
            frame::PONG => {}
            _ if header.fin => {
                if let Some(mut text) = self.text.take() {
                    text.finish().map_err(|_| End::Close(1007))?;
                }
            }
            _ => {}
        }
        Ok(())
    }
}

impl Out {
    /// Writes a data frame's header; its payload, if it is here, begins at `payload_at`.
    fn begin(&mut self, scratch: &mut [u8], payload_at: usize, header: &Header) {
        // The first one is laid just before its payload, which then need not move.
        if self.start == self.end {
            self.start = payload_at - header.encoded_bytes();
            self.end = self.start;
        }
        self.frame = Some(self.end);
        self.end += header.write(&mut scratch[self.end..]);
        debug_assert!(self.end <= payload_at, "an answer overtook its question");
    }

    /// Takes back the frame that turned out to be no text, if none of it was sent.
    fn abandon(&mut self) -> End {
        let Some(frame) = self.frame else {
            return End::Cut;
        };
        self.end = frame;
        End::Close(1007)
    }

    fn payload(&mut self, scratch: &mut [u8], range: Range<usize>) {
        debug_assert!(self.end <= range.start, "an answer overtook its question");
        // The rest of a frame that began in an earlier read also stays where it is.
        if self.start == self.end {
            self.start = range.start;
            self.end = range.start;
        }
        let length = range.len();
        if self.end != range.start {
            scratch.copy_within(range, self.end);
        }
        self.end += length;
    }

    /// Writes a control frame; what was read so far ends at `at`.
    fn control(&mut self, scratch: &mut [u8], at: usize, opcode: u8, payload: &[u8]) {
        let payload_bytes = payload.len() as u64;
        let header = Header {
            fin: true,
            opcode,
            mask: None,
            payload_bytes,
        };
        if self.start == self.end {
            self.start = at - header.encoded_bytes() - payload.len();
            self.end = self.start;
        }
        self.end += header.write(&mut scratch[self.end..]);
        scratch[self.end..self.end + payload.len()].copy_from_slice(payload);
        self.end += payload.len();
    }
}

pub const SCRATCH_BYTES: usize = 64 * 1024;
/// Room before the input. One frame at most was cut off before it: its answer may be 127 bytes
/// (a Pong) larger than what is left of it here; all later answers are shorter than their frames.
pub const HEADROOM: usize = 256;
/// Room behind the input, for the Close after a payload that fills all of it.
pub const TAILROOM: usize = 4;
/// "No status received": means an empty Close and is never written (RFC 6455, 7.4.1).
const NO_CODE: u16 = 1005;

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 4] = [0xa1, 0xb2, 0xc3, 0xd4];

    fn client_frame(fin: bool, opcode: u8, payload: &[u8]) -> Vec<u8> {
        let payload_bytes = payload.len() as u64;
        frame_with(
            Header {
                fin,
                opcode,
                mask: Some(KEY),
                payload_bytes,
            },
            payload,
        )
    }

    fn server_frame(fin: bool, opcode: u8, payload: &[u8]) -> Vec<u8> {
        let payload_bytes = payload.len() as u64;
        frame_with(
            Header {
                fin,
                opcode,
                mask: None,
                payload_bytes,
            },
            payload,
        )
    }

    fn frame_with(header: Header, payload: &[u8]) -> Vec<u8> {
        let mut out = vec![0; header.encoded_bytes()];
        header.write(&mut out);
        let from = out.len();
        out.extend_from_slice(payload);
        frame::mask(&mut out[from..], header.mask.unwrap_or_default(), 0);
        out
    }

    /// The answer to `pieces`, and whether it ended with a Close.
    fn answer(pieces: &[&[u8]]) -> (Vec<u8>, bool) {
        let mut echo = Echo::new();
        let mut scratch = vec![0; HEADROOM + SCRATCH_BYTES + TAILROOM];
        let mut said = Vec::new();
        for piece in pieces {
            scratch[HEADROOM..HEADROOM + piece.len()].copy_from_slice(piece);
            let (range, closing) = echo.turn(&mut scratch, piece.len());
            said.extend_from_slice(&scratch[range]);
            if closing {
                return (said, true);
            }
        }
        (said, false)
    }

    #[test]
    fn every_segmentation_is_echoed_alike() {
        let long = vec![b'z'; 5000];
        let script: [(bool, u8, &[u8]); 8] = [
            (true, frame::BINARY, b"one"),
            (false, frame::TEXT, "zw\u{f6}".as_bytes()),
            (true, frame::PING, &[7; 125]),
            (false, frame::CONTINUATION, b""),
            (true, frame::CONTINUATION, b"lf"),
            (true, frame::PONG, b"nobody asked"),
            (true, frame::BINARY, &long),
            (true, frame::BINARY, b""),
        ];
        let (mut asked, mut expected) = (Vec::new(), Vec::new());
        for (fin, opcode, payload) in script {
            asked.extend(client_frame(fin, opcode, payload));
            match opcode {
                frame::PONG => {}
                frame::PING => expected.extend(server_frame(true, frame::PONG, payload)),
                opcode => expected.extend(server_frame(fin, opcode, payload)),
            }
        }
        for split in 0..=asked.len() {
            let (left, right) = asked.split_at(split);
            assert_eq!(
                answer(&[left, right]),
                (expected.clone(), false),
                "split at {split}"
            );
        }
        let bytewise: Vec<&[u8]> = asked.chunks(1).collect();
        assert_eq!(answer(&bytewise), (expected, false));
    }

    #[test]
    fn a_close_is_echoed_and_ends_the_answers() {
        let mut asked = client_frame(true, frame::BINARY, b"last");
        asked.extend(client_frame(
            true,
            frame::CLOSE,
            &[0x0f, 0xa1, b'b', b'y', b'e'],
        ));
        asked.extend(client_frame(true, frame::BINARY, b"too late"));
        let mut expected = server_frame(true, frame::BINARY, b"last");
        expected.extend(server_frame(true, frame::CLOSE, &[0x0f, 0xa1]));
        assert_eq!(answer(&[&asked]), (expected, true));
        let empty = client_frame(true, frame::CLOSE, b"");
        assert_eq!(
            answer(&[&empty]),
            (server_frame(true, frame::CLOSE, b""), true)
        );
    }

    #[test]
    fn a_full_buffer_leaves_room_for_the_close() {
        let mut text = vec![b'a'; SCRATCH_BYTES + 1];
        text[SCRATCH_BYTES] = 0xc3;
        let asked = client_frame(true, frame::TEXT, &text);
        let (head, rest) = asked.split_at(asked.len() - SCRATCH_BYTES);
        let (said, closing) = answer(&[head, rest]);
        assert!(closing && said.ends_with(&server_frame(true, frame::CLOSE, &[0x03, 0xef])));
    }

    #[test]
    fn faults_are_closed_with_their_code() {
        let cases: [(Vec<u8>, u16); 6] = [
            (client_frame(true, frame::TEXT, b"\xff"), 1007),
            (client_frame(true, frame::TEXT, b"\xc3"), 1007),
            (client_frame(true, frame::CONTINUATION, b"x"), 1002),
            (server_frame(true, frame::BINARY, b"unmasked"), 1002),
            (client_frame(true, frame::CLOSE, &[3]), 1002),
            (client_frame(true, frame::CLOSE, &[3, 0xe8, 0xff]), 1007),
        ];
        for (asked, code) in cases {
            let (said, closing) = answer(&[&asked]);
            let close = server_frame(true, frame::CLOSE, &code.to_be_bytes());
            assert!(closing && said.ends_with(&close), "{asked:02x?}");
        }
        let bad = client_frame(true, frame::TEXT, b"good\xffbad");
        let close = server_frame(true, frame::CLOSE, &1007_u16.to_be_bytes());
        assert_eq!(answer(&[&bad]), (close, true));
        // Once the frame's first half is out, there is no place for a Close.
        let half = (
            server_frame(true, frame::TEXT, b"good\xffbad")[..6].to_vec(),
            true,
        );
        assert_eq!(answer(&[&bad[..10], &bad[10..]]), half);
    }
}
