//! One who watches.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::VIEWERS_MAX;
use crate::control::admin::stream::Stream;

/// A stream that is written to without ever waiting for it.
pub(super) struct Viewer {
    stream: Arc<Stream>,
    /// What the kernel has not taken yet.
    pending: Vec<u8>,
    /// When it last took something, or had nothing to take.
    moved: Instant,
    /// Its place among all viewers.
    _place: Place,
}

/// Given back when dropped.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(viewers: &Arc<AtomicUsize>) -> Option<Place> {
        let more = |count| (count < VIEWERS_MAX).then_some(count + 1);
        viewers.fetch_update(Relaxed, Relaxed, more).ok()?;
        Some(Place(Arc::clone(viewers)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Viewer {
    /// `None` if there is no place.
    pub(super) fn new(
        stream: Arc<Stream>,
        head: Vec<u8>,
        viewers: &Arc<AtomicUsize>,
    ) -> Option<Viewer> {
        let place = Place::take(viewers)?;
        stream.hurry().ok()?;
        Some(Viewer {
            stream,
            pending: head,
            moved: Instant::now(),
            _place: place,
        })
    }

    /// To be written with the next flush.
    pub(super) fn push(&mut self, text: &str) {
        self.pending.extend_from_slice(text.as_bytes());
    }

    /// Writes what the kernel takes. False: it has gone, or is too slow to stay.
    pub(super) fn flush(&mut self, now: Instant) -> bool {
        if self.has_left() {
            return false;
        }
        let mut taken = 0;
        let is_wait = |error: &io::Error| {
            matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
        };
        // What is sealed already, and would wait for the next word else.
        if self.stream.flush().is_err_and(|error| !is_wait(&error)) {
            return false;
        }
        while taken < self.pending.len() {
            match self.stream.write(&self.pending[taken..]) {
                Ok(0) => return false,
                Ok(count) => taken += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => return false,
            }
        }
        self.pending.drain(..taken);
        if taken > 0 || self.pending.is_empty() {
            self.moved = now;
        }
        self.pending.len() <= PENDING_MAX && now.duration_since(self.moved) <= STALL_MAX
    }

    /// Whether its other side has ended the connection. What it says else is thrown away.
    fn has_left(&self) -> bool {
        match self.stream.read(&mut [0; 512]) {
            Ok(count) => count == 0,
            Err(error) => !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
        }
    }

    /// The end, said by a FIN.
    pub(super) fn end(&self) {
        let _ = self.stream.part();
    }
}

/// Bytes that wait for a viewer: several times the largest first answer, which has the history.
const PENDING_MAX: usize = 4 << 20;

/// How long one may take nothing at all.
const STALL_MAX: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};

    /// A viewer's own side of its connection, and ours.
    fn pair(viewers: &Arc<AtomicUsize>) -> (TcpStream, Viewer) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let theirs = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (ours, _) = listener.accept().unwrap();
        let ours = Arc::new(Stream::plain(ours));
        let viewer = Viewer::new(ours, b"head".to_vec(), viewers).unwrap();
        (theirs, viewer)
    }

    #[test]
    fn one_that_reads_nothing_is_sent_away_and_the_place_is_free_again() {
        let viewers = Arc::default();
        let (_theirs, mut viewer) = pair(&viewers);
        let now = Instant::now();
        assert!(viewer.flush(now));
        let text = "x".repeat(64 << 10);
        let mut pushed = 0;
        while viewer.flush(now) {
            viewer.push(&text);
            pushed += text.len();
            assert!(pushed < 64 << 20, "it takes for ever");
        }
        assert!(pushed > PENDING_MAX);
        drop(viewer);
        assert_eq!(viewers.load(Relaxed), 0);
    }

    #[test]
    fn one_that_stalls_with_little_to_read_is_sent_away_after_a_while() {
        let viewers = Arc::default();
        let (mut theirs, mut viewer) = pair(&viewers);
        let now = Instant::now();
        // More than the kernel takes, less than the bound.
        while viewer.pending.is_empty() || viewer.pending.len() < 1 << 20 {
            viewer.push(&"x".repeat(64 << 10));
            assert!(viewer.flush(now));
        }
        assert!(viewer.flush(now + STALL_MAX));
        assert!(!viewer.flush(now + STALL_MAX + Duration::from_millis(1)));
        // If it begins to read in time, it stays.
        assert!(theirs.read(&mut vec![0; 4 << 20]).unwrap() > 0);
        let late = now + STALL_MAX + Duration::from_millis(1);
        let stays = (0..200).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            let _ = theirs.set_nonblocking(true);
            while theirs
                .read(&mut vec![0; 4 << 20])
                .is_ok_and(|count| count > 0)
            {}
            viewer.flush(late)
        });
        assert!(stays);
    }

    #[test]
    fn one_that_leaves_is_noticed() {
        let viewers = Arc::default();
        let (theirs, mut viewer) = pair(&viewers);
        drop(theirs);
        let gone = (0..200).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            !viewer.flush(Instant::now())
        });
        assert!(gone);
    }

    #[test]
    fn there_are_so_many_places() {
        let viewers = Arc::new(AtomicUsize::new(VIEWERS_MAX - 1));
        let place = Place::take(&viewers).expect("the last one");
        assert!(Place::take(&viewers).is_none());
        drop(place);
        assert!(Place::take(&viewers).is_some());
    }
}
