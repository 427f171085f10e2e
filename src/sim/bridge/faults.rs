//! What goes wrong, by chance, and how it heals.

use super::people::Person;
use super::world::World;
use crate::fleet::ServerState;
use crate::shard::Mail;
use crate::sim::pipe::Far;

impl World {
    /// One moment's chance of trouble.
    pub fn strike(&mut self) {
        if !self.wild || !self.rng.chance(1, 20) {
            return;
        }
        let apis = self.apis.len() as u32;
        let api = self.rng.below(apis) as usize;
        let span: u32 = [20, 200, 1_000, 4_000][self.rng.below(4) as usize];
        let until = self.now + 1 + u64::from(self.rng.below(span));
        match self.rng.below(20) {
            0..=2 => self.kill(api, until),
            3 => {
                self.hit("fault: stopped");
                self.note(format_args!("api {api} stops"));
                self.apis[api].stopped_until = until;
            }
            4 => self.apis[api].reach.black_until = until,
            5 => self.apis[api].reach.slow_until = until,
            6 => {
                (
                    self.apis[api].reach.down_until,
                    self.apis[api].reach.refuses,
                ) = (until, true);
            }
            7 => self.apis[api].moody_until = until,
            8..=10 => self.stray_at_rest(),
            11..=13 => self.close_at_rest(),
            14 | 15 => self.reset_one(),
            16 => self.exhausted += 1 + self.rng.below(3),
            17 => {
                self.hit("fault: operator disables");
                let states = [ServerState::Disabled, ServerState::Enabled];
                let state = states[self.rng.below(2) as usize];
                let server = api as u16;
                self.tell_all(&Mail::State { server, state });
            }
            _ => self.slow_one(until),
        }
    }

    /// Faults end, and nobody begins anything new.
    pub fn heal(&mut self) {
        (self.wild, self.talking, self.exhausted) = (false, false, 0);
        self.laws.healed_at = Some(self.now);
        self.note(format_args!("healed"));
        for api in 0..self.apis.len() {
            self.apis[api] = Default::default();
            let (server, state) = (api as u16, ServerState::Enabled);
            self.tell_all(&Mail::State { server, state });
        }
        let now = self.now;
        for conn in &mut self.conns {
            conn.slow_until = 0;
        }
        for person in &mut self.people {
            if let Person::Guest(guest) = person {
                guest.slow_until = guest.slow_until.min(now);
            }
        }
    }

    /// All persons and processes do something.
    pub fn step_peers(&mut self) {
        for at in 0..self.live.len() {
            let id = self.live[at];
            match self.conns[id].far {
                Far::Client(me) => {
                    let mut person = std::mem::take(&mut self.people[me]);
                    match &mut person {
                        Person::Guest(guest) => guest.step(me, self),
                        Person::Pusher(pusher) => pusher.step(me, self),
                        Person::Away => {}
                    }
                    self.people[me] = person;
                }
                Far::Server(me) => {
                    let stopped = self.apis[self.lines[me].api].stopped_until > self.now;
                    let conn = &self.conns[id];
                    if stopped || self.lines[me].ended || !conn.stands || !conn.peer_open {
                        continue;
                    }
                    let mut line = std::mem::take(&mut self.lines[me]);
                    line.step(me, self);
                    self.lines[me] = line;
                }
            }
        }
    }

    fn kill(&mut self, api: usize, until: u64) {
        self.hit("fault: killed");
        self.note(format_args!("api {api} is killed"));
        let refuses = self.rng.chance(1, 2);
        (
            self.apis[api].reach.down_until,
            self.apis[api].reach.refuses,
        ) = (until, refuses);
        for line in self.open_lines() {
            if self.lines[line].api != api {
                continue;
            }
            let unseen = self.lines[line].is_cut_unseen();
            let id = self.lines[line].conn;
            let conn = &mut self.conns[id];
            let unread = conn.outward.queued() > 0;
            // An answer that ends with its connection must not seem whole.
            if unseen {
                conn.reset_proxy();
            } else {
                conn.end_peer();
            }
            self.lines[line].ended = true;
            if unread {
                self.hit("fault: killed with unread bytes");
            }
        }
    }

    fn open_lines(&self) -> Vec<usize> {
        let lines = self.live.iter().filter_map(|id| match self.conns[*id].far {
            Far::Server(line) => Some(line),
            Far::Client(_) => None,
        });
        lines
            .filter(|line| {
                let conn = &self.conns[self.lines[*line].conn];
                conn.stands && conn.peer_open && !self.lines[*line].ended
            })
            .collect()
    }

    fn a_line(&mut self, at_rest: bool) -> Option<usize> {
        let mut lines = self.open_lines();
        lines.retain(|line| !at_rest || self.lines[*line].is_at_rest());
        let at = self.rng.below(lines.len() as u32) as usize;
        lines.get(at).copied()
    }

    fn stray_at_rest(&mut self) {
        if let Some(line) = self.a_line(true) {
            self.hit("fault: stray bytes at rest");
            self.note(format_args!("line {line} says what nobody asked for"));
            let mut place = std::mem::take(&mut self.lines[line]);
            place.stray(self);
            self.lines[line] = place;
        }
    }

    fn close_at_rest(&mut self) {
        if let Some(line) = self.a_line(true) {
            self.hit("fault: closed while at rest");
            self.note(format_args!("line {line} ends at rest"));
            self.lines[line].hang_up();
        }
    }

    fn reset_one(&mut self) {
        if let Some(line) = self.a_line(false) {
            self.note(format_args!("line {line} is reset"));
            let id = self.lines[line].conn;
            self.conns[id].reset_proxy();
            self.lines[line].ended = true;
        }
    }

    fn slow_one(&mut self, until: u64) {
        let live = self.live.len() as u32;
        let at = self.rng.below(live) as usize;
        let Some(id) = self.live.get(at).copied() else {
            return;
        };
        self.conns[id].slow_until = until;
        if let Far::Client(person) = self.conns[id].far
            && let Person::Guest(guest) = &mut self.people[person]
        {
            guest.slow_until = until;
        }
    }
}
