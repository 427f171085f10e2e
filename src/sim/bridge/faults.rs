//! What goes wrong, by chance, and how it heals.

use std::net::SocketAddr;
use std::sync::Arc;

use super::people::Person;
use super::world::World;
use crate::fleet::{Charter, ServerState, Terms};
use crate::session::Settings;
use crate::shard::{Mail, Rules};
use crate::sim::pipe::Far;
use crate::sim::settings::threshold;

impl World {
    /// One moment's chance of trouble.
    pub fn strike(&mut self) {
        self.bury_leaving();
        if !self.wild || !self.rng.chance(1, 20) {
            return;
        }
        let present: Vec<usize> = (0..self.apis.len())
            .filter(|api| !self.is_gone(*api))
            .collect();
        let api = present[self.rng.below(present.len() as u32) as usize];
        let span: u32 = [20, 200, 1_000, 4_000][self.rng.below(4) as usize];
        let until = self.now + 1 + u64::from(self.rng.below(span));
        match self.rng.below(23) {
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
                // Now and then all of them: with others that join, a hold would hardly ever end.
                let all = self.rng.chance(1, 3);
                for one in present.into_iter().filter(|one| all || *one == api) {
                    self.set_state(one as u16, state);
                }
            }
            18 => self.join(api),
            19 => self.leave(api as u16),
            20 => self.reload(),
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
            self.set_state(api as u16, ServerState::Enabled);
        }
        self.leaving.clear();
        let now = self.now;
        self.calm();
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

    /// The configuration is read again, with other times, bounds and patience. What a message is
    /// owed stays.
    fn reload(&mut self) {
        self.hit("fault: other settings");
        let (confirm, replace) = (self.settings.now().confirm, self.settings.now().replace);
        let api = self.settings.now().api.clone();
        let other = Settings {
            api,
            confirm,
            replace,
            connect: self.settings.now().connect,
            ..super::settings(&mut self.rng)
        };
        self.settings.change(other.clone());
        let threshold = threshold(&mut self.rng);
        let terms = self.fleet.servers.iter().map(|server| Terms {
            prefix: server.prefix.clone(),
            threshold,
            cooldown: server.cooldown,
        });
        let charter = Charter {
            pools: self.fleet.pools.clone(),
            routes: self.fleet.routes.clone(),
            terms: terms.collect(),
        };
        self.fleet.adopt(&charter);
        let rules = Rules {
            charter,
            house: self.house.clone(),
            settings: vec![other],
        };
        if self.rng.chance(1, 2) {
            let doors = self.doors.len() as u32;
            let door = self.rng.below(doors) as usize;
            let until = self.now + u64::from(self.rng.below(300));
            self.doors[door].mail.delay(until);
        }
        self.tell_all(&Mail::Rules(Arc::new(rules)));
    }

    /// Another API beside this one; its home hears of it last, and may hear of it late.
    fn join(&mut self, beside: usize) {
        let members = self.fleet.pools[0].members.len();
        if self.apis.len() >= APIS_MAX || members >= MEMBERS_MAX {
            return;
        }
        self.hit("fault: another api");
        let number = self.apis.len() as u16;
        let address = SocketAddr::from(([10, 0, 0, 1], number));
        let place = self.fleet.servers[beside].another(format!("api+{number}"), address);
        self.note(format_args!("api {number} joins"));
        let joined = self.fleet.join(place.clone());
        assert_eq!(joined, number);
        self.apis.push(Default::default());
        let home = usize::from(number) % self.doors.len();
        if self.rng.chance(1, 2) {
            let until = self.now + u64::from(self.rng.below(300));
            self.doors[home].mail.delay(until);
        }
        self.tell_all(&Mail::Join {
            server: number,
            place: Box::new(place),
        });
    }

    /// An API leaves: when it has no connection any more, or at once, if another one stays.
    fn leave(&mut self, api: u16) {
        let members = &self.fleet.pools[0].members;
        let stays = |member: &u16| *member != api && !self.leaving.contains(member);
        if self.is_gone(usize::from(api)) || !members.iter().any(stays) {
            return;
        }
        self.hit("fault: an api leaves");
        self.note(format_args!("api {api} leaves"));
        if self.rng.chance(1, 2) {
            return self.set_state(api, ServerState::Gone);
        }
        self.leaving.push(api);
        self.set_state(api, ServerState::Draining);
    }

    fn bury_leaving(&mut self) {
        for api in std::mem::take(&mut self.leaving) {
            let place = &self.fleet.servers[usize::from(api)];
            if place.state != ServerState::Draining {
                // It has come back, or was deleted.
                continue;
            }
            match place.shared.connections() {
                0 => self.set_state(api, ServerState::Gone),
                _ => self.leaving.push(api),
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
            let unread = conn.outward.queued() + conn.unheard() > 0;
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

/// APIs of a run, those that are gone included, and at a time: each is to be struck now and then.
const APIS_MAX: usize = 24;
const MEMBERS_MAX: usize = 3;
