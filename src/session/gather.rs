//! Messages on their way past the session's valves: gathered whole, shown, and done with as was said.
//! A session without valves never comes here.

use super::dialect::Piece;
use super::valve::{Direction, Failure, Message, Outcome, Verdict, Wants};
use super::vocab::{Action, End, Life, Loss};
use super::{Ctx, Flags, Leg, Session};
use crate::kit::{Chain, Spot};
use crate::wire::frame::{self, Opcode, Sender, encode_header};
use crate::wire::mask;

impl Session {
    /// The session opens: it gets the valves of its pool.
    pub(super) fn fit_valves(&mut self, ctx: &mut Ctx<'_>) {
        match ctx.valves.make(self) {
            Ok(None) => {}
            Ok(Some((key, wants))) => {
                self.rare().valves = Some(key);
                // Also where nobody asks for them: what a valve answers to a server goes between two
                // messages of the client.
                self.flags.insert(Flags::VALVED);
                let down = wants.contains(Wants::DOWN);
                self.flags.set(Flags::VALVED_DOWN, down);
            }
            Err(failure) => self.on_valve_failed(failure, ctx),
        }
    }

    /// The session is over.
    pub(super) fn drop_valves(&mut self, ctx: &mut Ctx<'_>) {
        self.flags.remove(Flags::VALVED | Flags::VALVED_DOWN);
        if planted!(ValvesKept) {
            return;
        }
        if let Some(key) = self.rare.as_mut().and_then(|rare| rare.valves.take()) {
            ctx.valves.drop_row(key);
        }
    }

    /// Bytes of what is gathered, and of answers that wait for a place.
    pub(super) fn gathered_bytes(&self) -> usize {
        let rare = self.rare.as_ref();
        rare.map_or(0, |rare| rare.gathered.len() + rare.answers.len())
    }

    /// Nobody gets what was gathered of the client's message.
    pub(super) fn drop_gathered(&mut self, ctx: &mut Ctx<'_>) {
        if let Some(rare) = &mut self.rare {
            ctx.chunks.clear(&mut rare.gathered);
        }
    }

    /// A piece of a message from the client: the journal gets it when all of it is there.
    pub(super) fn gather_up(&mut self, piece: &[u8], ends: bool, ctx: &mut Ctx<'_>) {
        if planted!(ValveSkipsPieces) && !ends {
            return self
                .journal
                .append(piece, self.scanner.frame_left(), false, ctx.chunks);
        }
        let gathered = &mut self.rare().gathered;
        if !ends {
            return ctx.chunks.push(gathered, piece);
        }
        let mut gathered = std::mem::take(gathered);
        let mut buffer = std::mem::take(&mut ctx.valves.frames);
        let frames = whole(&gathered, piece, ctx, &mut buffer);
        if planted!(DroppedStays) {
            self.rare().gathered = gathered;
        } else {
            ctx.chunks.clear(&mut gathered);
        }
        match self.show_frames(Direction::Up, frames, ctx) {
            Ok(()) => {
                self.journal.append(frames, 0, true, ctx.chunks);
                ctx.tally.sizes_up.record(self.scanner.message_len());
            }
            Err((text, outcome)) => self.obey(Direction::Up, text, outcome, ctx),
        }
        ctx.valves.frames = emptied(buffer);
    }

    /// A piece of a message from the server: the client gets it when all of it is there.
    pub(super) fn gather_down(&mut self, piece: Piece, bytes: &[u8], at: usize, ctx: &mut Ctx<'_>) {
        if piece.announced > ctx.house.message_max {
            return self.close_by_valve(1009, "message too big", ctx);
        }
        if !piece.ends {
            return ctx.chunks.push(&mut self.draft, bytes);
        }
        let mut draft = std::mem::take(&mut self.draft);
        let mut buffer = std::mem::take(&mut ctx.valves.frames);
        let frames = whole(&draft, bytes, ctx, &mut buffer);
        match self.show_frames(Direction::Down, frames, ctx) {
            Ok(()) => {
                self.count_down(piece.announced, ctx);
                if !draft.is_empty() {
                    self.settle_direct(ctx);
                    ctx.chunks.join(&mut self.out, &mut draft);
                }
                self.pass_down(bytes, at, ctx);
            }
            Err((text, outcome)) => {
                ctx.chunks.clear(&mut draft);
                self.obey(Direction::Down, text, outcome, ctx);
                // What was gathered may have been what kept the client from being read.
                self.resume_client(ctx);
            }
        }
        ctx.valves.frames = emptied(buffer);
    }

    /// Something that an API says to its client.
    pub(super) fn show_down(&mut self, text: bool, payload: &[u8], ctx: &mut Ctx<'_>) {
        let message = Message {
            direction: Direction::Down,
            text,
            compressed: false,
            payload,
        };
        match self.show(message, ctx) {
            Outcome::Said(Verdict::Pass) => self.put_down(text, payload, ctx),
            outcome => self.obey(Direction::Down, text, outcome, ctx),
        }
    }

    /// Shows the message that these whole frames are. What is to be done if it may not pass, and
    /// whether it is text.
    fn show_frames(
        &mut self,
        direction: Direction,
        frames: &[u8],
        ctx: &mut Ctx<'_>,
    ) -> Result<(), (bool, Outcome)> {
        let sender = match direction {
            Direction::Up => Sender::Client,
            Direction::Down => Sender::Server,
        };
        let mut payload = std::mem::take(&mut ctx.valves.payload);
        let first = unframe(frames, sender, &mut payload);
        debug_assert!(first.is_some(), "what is gathered was checked as it came");
        let (opcode, compressed) = first.unwrap_or((Opcode::Binary, false));
        let text = opcode == Opcode::Text;
        let message = Message {
            direction,
            text,
            compressed,
            payload: &payload,
        };
        let outcome = self.show(message, ctx);
        ctx.valves.payload = emptied(payload);
        match outcome {
            Outcome::Said(Verdict::Pass) => Ok(()),
            outcome => Err((text, outcome)),
        }
    }

    fn show(&mut self, message: Message<'_>, ctx: &mut Ctx<'_>) -> Outcome {
        let Some(key) = self.rare.as_ref().and_then(|rare| rare.valves) else {
            debug_assert!(false, "a flag says that it has valves");
            return Outcome::Said(Verdict::Pass);
        };
        let outcome = ctx.valves.show(key, message, ctx.house.message_max);
        ctx.tally.verdicts[outcome.index()] += 1;
        outcome
    }

    fn obey(&mut self, from: Direction, text: bool, outcome: Outcome, ctx: &mut Ctx<'_>) {
        match (outcome, from) {
            // Who shows a message knows best how it goes on unchanged.
            (Outcome::Said(Verdict::Pass | Verdict::Drop), _) => {}
            (Outcome::Said(Verdict::Change(payload)), Direction::Up) => {
                self.put_up(text, payload, ctx);
            }
            (Outcome::Said(Verdict::Change(payload)), Direction::Down) => {
                self.put_down(text, &payload, ctx);
            }
            (Outcome::Said(Verdict::Answer { text, payload }), Direction::Up) => {
                self.put_down(text, &payload, ctx);
            }
            (Outcome::Said(Verdict::Answer { text, payload }), Direction::Down) => {
                self.answer_server(text, payload, ctx);
            }
            (Outcome::Said(Verdict::Close(code, reason)), _) => {
                self.close_by_valve(code, &reason, ctx);
            }
            (Outcome::Garbled(code), Direction::Up) => self.on_client_fault(code, ctx),
            (Outcome::Garbled(1009), Direction::Down) => {
                self.close_by_valve(1009, "message too big", ctx);
            }
            (Outcome::Garbled(_), Direction::Down) => self.on_upstream_lost(Loss::Protocol, ctx),
            (Outcome::Failed(failure), _) => self.on_valve_failed(failure, ctx),
        }
    }

    /// A message for the server, made by a valve, at the end of the journal.
    fn put_up(&mut self, text: bool, mut payload: Vec<u8>, ctx: &mut Ctx<'_>) {
        let length = payload.len() as u64;
        if !ctx.chunks.room(payload.len() + HEAD_ROOM) {
            return self.end(End::Memory, ctx);
        }
        let key = ctx.rng.mask_key();
        mask::apply(&mut payload, key);
        let head = encode_header(true, false, opcode(text), length, Some(key));
        self.journal.append(&head, length, length == 0, ctx.chunks);
        if length > 0 {
            self.journal.append(&payload, 0, true, ctx.chunks);
        }
        ctx.tally.sizes_up.record(length);
    }

    /// A message for the client, between two others.
    pub(super) fn put_down(&mut self, text: bool, payload: &[u8], ctx: &mut Ctx<'_>) {
        if self.leg != Leg::Talking {
            return;
        }
        if !ctx.chunks.room(payload.len() + HEAD_ROOM) {
            return self.end(End::Memory, ctx);
        }
        let head = encode_header(true, false, opcode(text), payload.len() as u64, None);
        // Behind the one that streams; else whatever is queued ends with a whole message.
        if self.flags.contains(Flags::STREAMING) && !planted!(AnswerInsideMessage) {
            let answers = &mut self.rare().answers;
            ctx.chunks.push(answers, &head);
            ctx.chunks.push(answers, payload);
        } else {
            self.settle_direct(ctx);
            ctx.chunks.push(&mut self.out, &head);
            ctx.chunks.push(&mut self.out, payload);
            ctx.actions.push(Action::FlushClient);
        }
        self.count_down(payload.len() as u64, ctx);
    }

    /// A message that streamed has ended: the answers that waited for that follow it.
    pub(super) fn release_answers(&mut self, ctx: &mut Ctx<'_>) {
        let waiting = self
            .rare
            .as_ref()
            .is_some_and(|rare| !rare.answers.is_empty());
        if waiting {
            self.settle_direct(ctx);
            let mut answers = std::mem::take(&mut self.rare().answers);
            ctx.chunks.join(&mut self.out, &mut answers);
            ctx.actions.push(Action::FlushClient);
        }
    }

    /// What a valve answers a server: to it, and to the next one if this one is lost, it is a message
    /// like the client's.
    fn answer_server(&mut self, text: bool, payload: Vec<u8>, ctx: &mut Ctx<'_>) {
        debug_assert_eq!(self.journal.unfinished(), 0, "an answer inside a message");
        // A server can't be told to wait for a place: its Pongs are what makes it.
        let longest = usize::try_from(ctx.house.message_max).unwrap_or(usize::MAX);
        let room = ctx.settings.buffer.saturating_add(longest);
        if self.held_bytes() + payload.len() > room {
            return self.end(End::Overflow, ctx);
        }
        let had = self.journal.messages();
        self.put_up(text, payload, ctx);
        self.count_up(had, ctx);
        if self.flags.contains(Flags::BRIDGED) {
            self.call_next(ctx);
        } else if self.can_send() {
            ctx.actions.push(Action::FlushUpstream);
        }
    }

    /// Ends the session as a valve wants it.
    fn close_by_valve(&mut self, code: u16, reason: &str, ctx: &mut Ctx<'_>) {
        self.leave_by_valve(End::Valve, (code, reason), code, ctx);
    }

    /// A valve did what it must not: what it was shown goes nowhere, and it is asked no more.
    fn on_valve_failed(&mut self, failure: Failure, ctx: &mut Ctx<'_>) {
        ctx.actions.push(Action::Tell(Life::ValveFailed(failure)));
        self.leave_by_valve(End::ValveFailed, End::ValveFailed.close(), 1001, ctx);
        self.drop_valves(ctx);
    }

    /// The client is closed; the server gets what came before, then a Close with the code `said`.
    fn leave_by_valve(
        &mut self,
        end: End,
        (code, reason): (u16, &str),
        said: u16,
        ctx: &mut Ctx<'_>,
    ) {
        if self.leg != Leg::Talking {
            return;
        }
        ctx.chunks.clear(&mut self.draft);
        self.flags.remove(Flags::STREAMING);
        self.close_client(end, Some((code, reason)), ctx);
        self.take_leave_as(end, said, reason, ctx);
    }
}

/// The message that ends with this piece: the piece as it stands, if nothing was gathered before it, or
/// else a copy in `buffer`.
fn whole<'a>(
    gathered: &Chain,
    piece: &'a [u8],
    ctx: &Ctx<'_>,
    buffer: &'a mut Vec<u8>,
) -> &'a [u8] {
    if gathered.is_empty() {
        return piece;
    }
    buffer.reserve_exact(gathered.len() + piece.len());
    for slice in ctx.chunks.slices(gathered, Spot::FRONT) {
        buffer.extend_from_slice(slice);
    }
    buffer.extend_from_slice(piece);
    buffer
}

/// Takes the frames of one message apart: its payload, what its first frame is, and whether it is
/// compressed. `None` if they are no whole frames.
fn unframe(mut frames: &[u8], sender: Sender, payload: &mut Vec<u8>) -> Option<(Opcode, bool)> {
    let mut first = None;
    while !frames.is_empty() {
        let header = frame::parse(frames, sender, true).ok()??;
        let (_, rest) = frames.split_at_checked(usize::from(header.header_len))?;
        let (masked, rest) = rest.split_at_checked(header.payload_len as usize)?;
        let begin = payload.len();
        payload.extend_from_slice(masked);
        if let Some(key) = header.mask {
            mask::apply(&mut payload[begin..], key);
        }
        first.get_or_insert((header.opcode, header.rsv1));
        frames = rest;
    }
    first
}

/// A buffer for the next message: a loop keeps none that a large one has left.
fn emptied(mut buffer: Vec<u8>) -> Vec<u8> {
    buffer.clear();
    buffer.shrink_to(KEPT_MAX);
    buffer
}

fn opcode(text: bool) -> Opcode {
    if text { Opcode::Text } else { Opcode::Binary }
}

/// A frame's header, at the most.
const HEAD_ROOM: usize = frame::HEADER_MAX;

/// Bytes of a buffer that a loop keeps: most messages are smaller.
const KEPT_MAX: usize = 16 << 10;

#[cfg(test)]
mod tests;
