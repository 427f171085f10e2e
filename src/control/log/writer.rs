//! The thread that writes: it alone waits for a disk or a pipe, and counts what they did not take.

use std::io::{ErrorKind, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime};

use crossbeam_channel::{Receiver, Sender};
use log::{Level, Record};

use super::{Job, Shared, line};

pub(super) struct Writer<W> {
    out: W,
    shared: Arc<Shared>,
    batch: String,
    /// Lost lines that a line has told of.
    told: u64,
    /// What was written last is a part of a line.
    torn: bool,
}

impl<W: Write> Writer<W> {
    pub fn new(out: W, shared: Arc<Shared>) -> Writer<W> {
        Writer {
            out,
            shared,
            batch: String::new(),
            told: 0,
            torn: false,
        }
    }

    /// Takes what waits, writes it at once, and ends when the queue is closed.
    pub fn run(mut self, jobs: &Receiver<Job>) {
        while let Some(first) = self.next(jobs) {
            let answer = self.collect(first, jobs);
            let batch = std::mem::take(&mut self.batch);
            let unwritten = self.write(&batch);
            self.shared.lost.fetch_add(unwritten, Relaxed);
            if unwritten == 0 {
                // A flush is the end: what is held back now can't be told later.
                let second = self.shared.quotas.second();
                self.tell_of_missing(if answer.is_some() { u32::MAX } else { second });
            }
            self.batch = batch;
            self.batch.clear();
            match answer {
                Some(done) => {
                    let _ = done.try_send(());
                }
                None => std::thread::sleep(BREATH),
            }
        }
    }

    /// The next job; after a second at most while there is something to tell, which is a job, too.
    fn next(&self, jobs: &Receiver<Job>) -> Option<Job> {
        if !self.shared.quotas.is_owing() {
            return jobs.recv().ok();
        }
        match jobs.recv_timeout(TELL_TIME) {
            Err(error) if error.is_disconnected() => None,
            other => Some(other.unwrap_or(Job::Look)),
        }
    }

    /// Adds lines to the batch, up to its size or a flush: who waits for that is returned.
    fn collect(&mut self, first: Job, jobs: &Receiver<Job>) -> Option<Sender<()>> {
        let mut next = Some(first);
        while let Some(job) = next.take() {
            match job {
                Job::Line(line) => self.batch.push_str(&line),
                Job::Look => {}
                Job::Flush(done) => return Some(done),
            }
            if self.batch.len() < BATCH_BYTES {
                next = jobs.try_recv().ok();
            }
        }
        None
    }

    /// Writes whole lines; returns how many of them could not be written whole.
    fn write(&mut self, lines: &str) -> u64 {
        // The end of a line that was cut short is lost; the next one begins on a line of its own.
        if self.torn && !lines.is_empty() {
            self.torn = !self.put(b"\n").is_empty();
        }
        let rest = if self.torn {
            lines.as_bytes()
        } else {
            let rest = self.put(lines.as_bytes());
            let written = &lines.as_bytes()[..lines.len() - rest.len()];
            self.torn = written.last().is_some_and(|last| *last != b'\n');
            rest
        };
        rest.iter().filter(|byte| **byte == b'\n').count() as u64
    }

    /// Writes as much as is taken; returns the rest.
    fn put<'a>(&mut self, mut bytes: &'a [u8]) -> &'a [u8] {
        while !bytes.is_empty() {
            match self.out.write(bytes) {
                Ok(0) => break,
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // A pipe that somebody has made non-blocking and that is full for now.
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    std::thread::sleep(RETRY_TIME);
                }
                // Nobody is left to tell of an error on stderr; the counter says it.
                Err(_) => break,
            }
        }
        bytes
    }

    /// Says how many lines are not there, now that lines can be written: of those held back, the ones
    /// from before this second.
    fn tell_of_missing(&mut self, second: u32) {
        let lost = self.shared.lost.load(Relaxed);
        if lost > self.told && self.tell("lines lost", &[("lines", (lost - self.told).into())]) {
            self.told = lost;
        }
        let shared = Arc::clone(&self.shared);
        for (number, kind, lines) in shared.quotas.owed(second) {
            let fields = [("kind", kind.as_str().into()), ("lines", lines.into())];
            if self.tell("lines held back", &fields) {
                shared.quotas.told(number, lines);
            }
        }
    }

    /// A line of the log's own. True: it is written.
    fn tell(&mut self, message: &str, fields: &[(&str, log::kv::Value<'_>)]) -> bool {
        let mut record = Record::builder();
        record.level(Level::Warn).target("log").key_values(&fields);
        let line = |record: &Record<'_>| line::of(self.shared.format(), record, SystemTime::now());
        let line = line(&record.args(format_args!("{message}")).build());
        self.write(&line) == 0
    }
}

/// What is logged meanwhile wakes nobody: a wake-up costs a loop more than the line.
const BREATH: Duration = Duration::from_millis(5);

/// One `write` for so much, so that a burst costs few system calls.
const BATCH_BYTES: usize = 64 << 10;

/// A quota's second is over after this.
const TELL_TIME: Duration = Duration::from_secs(1);

/// A full pipe is tried again after this.
const RETRY_TIME: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::log::Quotas;
    use crossbeam_channel::bounded;
    use std::collections::VecDeque;
    use std::io;

    /// Does what it is told, one call after the other, and then takes everything.
    #[derive(Default)]
    struct Moody {
        moods: VecDeque<Mood>,
        taken: Vec<u8>,
    }

    #[derive(Clone, Copy)]
    enum Mood {
        Take(usize),
        Fail(ErrorKind),
    }

    use ErrorKind::{BrokenPipe, Interrupted, StorageFull, WouldBlock};
    use Mood::{Fail, Take};

    impl Write for &mut Moody {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = match self.moods.pop_front() {
                Some(Fail(kind)) => return Err(kind.into()),
                Some(Take(count)) => count.min(bytes.len()),
                None => bytes.len(),
            };
            self.taken.extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What such a writer has taken when these batches were written, without the times, and the
    /// count of lost lines.
    fn written(moods: &[Mood], batches: &[&str]) -> (String, u64) {
        let mut moody = Moody {
            moods: moods.iter().copied().collect(),
            ..Moody::default()
        };
        let shared = Arc::new(Shared {
            json: false.into(),
            quotas: Quotas::new(),
            lost: 0.into(),
            held_back: 0.into(),
        });
        let (queue, jobs) = bounded(16);
        for batch in batches {
            queue.send(Job::Line((*batch).to_owned())).unwrap();
            // The end of a batch.
            queue.send(Job::Flush(bounded(1).0)).unwrap();
        }
        drop(queue);
        Writer::new(&mut moody, Arc::clone(&shared)).run(&jobs);
        let text = String::from_utf8(moody.taken).unwrap();
        let bare = |line: &str| match line.split_once(" WARN  log ") {
            Some((_, told)) => told.to_owned(),
            None => line.to_owned(),
        };
        let text: Vec<String> = text.lines().map(bare).collect();
        (text.join("|"), shared.lost.load(Relaxed))
    }

    #[test]
    fn lines_that_are_not_taken_are_counted_and_told_of_when_lines_are_taken_again() {
        let three = ["a\n", "b\nc\n", "d\n"];
        let table: [(&[Mood], &[&str], &str, u64); 9] = [
            (&[], &three, "a|b|c|d", 0),
            (&[Fail(Interrupted), Take(1)], &three, "a|b|c|d", 0),
            (&[Fail(WouldBlock), Fail(WouldBlock)], &three, "a|b|c|d", 0),
            (&[Fail(StorageFull)], &three, "b|c|lines lost lines=1|d", 1),
            (
                &[Fail(StorageFull), Fail(StorageFull)],
                &three,
                "d|lines lost lines=3",
                3,
            ),
            // Cut in the first line: the next batch begins on a line of its own.
            (
                &[Take(2), Fail(StorageFull)],
                &["long\nb\n", "c\n"],
                "lo|c|lines lost lines=2",
                2,
            ),
            // Cut, and no room for the end of that line either.
            (
                &[Take(2), Fail(StorageFull), Fail(StorageFull)],
                &["long\n", "b\n", "c\n"],
                "lo|c|lines lost lines=2",
                2,
            ),
            // The line that tells of it is lost, too, and comes with the next.
            (
                &[Fail(BrokenPipe), Take(9), Fail(StorageFull)],
                &["a\n", "b\n", "c\n"],
                "b|c|lines lost lines=1",
                1,
            ),
            (&[Take(0)], &["a\n", "b\n"], "b|lines lost lines=1", 1),
        ];
        for (moods, batches, expected, lost) in table {
            let found = written(moods, batches);
            assert_eq!(found, (expected.to_owned(), lost), "{batches:?}");
        }
    }
}
