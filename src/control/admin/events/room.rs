//! Where news and numbers come in and go out to all who watch.

use std::collections::VecDeque;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam_channel::Receiver;
use serde_json::json;

use super::Item;
use super::bulletin;
use super::sampler::{COLUMNS, Row, Sample};
use super::viewer::Viewer;
use crate::control::admin::Desk;
use crate::shard::news::News;

/// The thread's own: no lock is held while anything is written.
pub(super) struct Room<'a> {
    desk: &'a Desk,
    viewers: Vec<Viewer>,
    /// Of the last quarter of an hour, so that who comes after an outage still sees it.
    history: VecDeque<Row>,
    /// The latest news by number, as text.
    board: VecDeque<(u64, String)>,
    next: u64,
    /// Stands before each number: those of an earlier process are not ours.
    life: u128,
    /// The last numbers and servers that were told.
    stats: String,
    servers: String,
    /// To be sent to everybody with the next flush.
    fresh: String,
}

impl Room<'_> {
    pub(super) fn new(desk: &Desk) -> Room<'_> {
        let life = SystemTime::now().duration_since(UNIX_EPOCH);
        Room {
            desk,
            viewers: Vec::new(),
            history: VecDeque::with_capacity(HISTORY_MAX),
            board: VecDeque::with_capacity(BOARD_MAX),
            next: 1,
            life: life.map_or(0, |life| life.as_millis()),
            stats: String::new(),
            servers: String::new(),
            fresh: String::new(),
        }
    }

    /// Runs until it is stopped; then all streams end.
    pub(super) fn run(mut self, inbox: &Receiver<Item>) {
        loop {
            let first = inbox.recv_timeout(LOOK);
            // What came meanwhile goes out with one write.
            for item in first.into_iter().chain(inbox.try_iter().take(BATCH_MAX)) {
                match item {
                    Item::News(news) => self.publish(&news),
                    Item::Sample(sample) => self.show(*sample),
                    Item::Silence => {
                        let error = json!({ "error": "a loop does not answer" });
                        self.fresh
                            .push_str(&bulletin::event("silent", None, &error));
                    }
                    Item::Viewer(viewer, last) => self.welcome(viewer, last.as_deref()),
                    Item::Stop => return self.viewers.iter().for_each(Viewer::end),
                }
            }
            self.flush();
            // What comes next waits for company: a burst is some writes, not thousands.
            thread::sleep(PACE);
        }
    }

    fn publish(&mut self, news: &News) {
        let (name, data) = bulletin::of(news, &self.desk.fleet(), SystemTime::now());
        let id = format!("{}-{}", self.life, self.next);
        let text = bulletin::event(name, Some(&id), &data);
        self.fresh.push_str(&text);
        if self.board.len() == BOARD_MAX {
            self.board.pop_front();
        }
        self.board.push_back((self.next, text));
        self.next += 1;
    }

    fn show(&mut self, sample: Sample) {
        if self.history.len() == HISTORY_MAX {
            self.history.pop_front();
        }
        self.history.push_back(sample.row);
        self.stats = bulletin::event("stats", None, &sample.stats);
        self.fresh.push_str(&self.stats);
        let servers = bulletin::event("servers", None, &sample.servers);
        if servers != self.servers {
            self.fresh.push_str(&servers);
            self.servers = servers;
        }
    }

    /// Tells a newcomer what is and has been: the history, the last numbers, and the news behind the
    /// last that it knows.
    fn welcome(&mut self, mut viewer: Viewer, last: Option<&str>) {
        // What is in the line is for those who were here before; the newcomer gets it below.
        self.flush();
        let history = json!({ "columns": COLUMNS, "rows": self.history });
        viewer.push(&format!("retry: {RETRY_MS}\n\n"));
        viewer.push(&bulletin::event("history", None, &history));
        viewer.push(&self.stats);
        viewer.push(&self.servers);
        let known = last.and_then(|last| self.number_of(last)).unwrap_or(0);
        for (_, text) in self.board.iter().filter(|(number, _)| *number > known) {
            viewer.push(text);
        }
        self.viewers.push(viewer);
    }

    /// The number in a `Last-Event-ID`, if it is one of this process.
    fn number_of(&self, id: &str) -> Option<u64> {
        let (life, number) = id.split_once('-')?;
        let number = number.parse().ok().filter(|number| *number < self.next)?;
        (life.parse() == Ok(self.life)).then_some(number)
    }

    fn flush(&mut self) {
        let now = Instant::now();
        let fresh = std::mem::take(&mut self.fresh);
        self.viewers.retain_mut(|viewer| {
            viewer.push(&fresh);
            viewer.flush(now)
        });
    }
}

/// Seconds that are remembered.
const HISTORY_MAX: usize = 900;

/// News that are remembered: an outage of two servers with some loops, told at the limit.
const BOARD_MAX: usize = 500;

/// From one write to the next: news are not later than an eye notices.
const PACE: Duration = Duration::from_millis(50);

/// Items of one write.
const BATCH_MAX: usize = 1_000;

/// How often viewers are looked at while nothing happens.
const LOOK: Duration = Duration::from_secs(1);

/// When a viewer that was cut off comes back, in ms.
const RETRY_MS: u32 = 2_000;
