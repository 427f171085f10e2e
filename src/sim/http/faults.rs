//! What goes wrong, by chance, and how it heals.

use std::sync::Arc;

use super::world::World;
use crate::fleet::{Charter, ServerState};
use crate::shard::{Mail, Rules};
use crate::sim::guise;
use crate::sim::pipe::Far;

impl World {
    /// One moment's chance of trouble.
    pub fn strike(&mut self) {
        self.laws.press.step(self.now);
        if !self.wild || !self.rng.chance(1, 20) {
            return;
        }
        let servers = self.origins.len() as u32;
        let server = self.rng.below(servers) as usize;
        let span: u32 = [20, 200, 1_000, 4_000][self.rng.below(4) as usize];
        let until = self.now + 1 + u64::from(self.rng.below(span));
        let now = self.now;
        let fault = self.rng.below(25);
        let origin = &mut self.origins[server];
        match fault {
            0 | 1 => self.kill(server, until),
            2 => {
                origin.stopped_until = until;
                self.harm(server, until);
                self.hit("fault: stopped");
                self.note(format_args!("server {server} stops"));
            }
            3 => {
                origin.reach.black_until = until;
                self.harm(server, until);
            }
            4 => {
                origin.reach.slow_until = until;
                self.harm(server, until);
            }
            5 => {
                (origin.reach.down_until, origin.reach.refuses) = (until, true);
                self.harm(server, until);
            }
            6 => origin.moody_until = until,
            7..=9 => self.stray_at_rest(),
            10..=12 => self.close_at_rest(),
            13 | 14 => self.reset_one(),
            15 => self.exhausted += 1 + fault % 3,
            16 => {
                self.hit("fault: operator");
                let states = [
                    ServerState::Disabled,
                    ServerState::Draining,
                    ServerState::Enabled,
                    ServerState::Enabled,
                ];
                let state = states[self.rng.below(4) as usize];
                let server = server as u16;
                self.note(format_args!("server {server} becomes {state:?}"));
                self.tell_all(&Mail::State { server, state });
            }
            17 | 18 => {
                if !origin.is_sick(now) {
                    origin.sick_since = now;
                }
                origin.sick_until = until + 7_000;
                self.note(format_args!("server {server} is sick"));
                self.hit("fault: sick");
            }
            22 => self.reload(),
            23 => {
                // Not so short that clients are sent away: that has a world of its own.
                let percent = 75 + u64::from(self.rng.below(15));
                self.laws.press.begin(percent, now, until);
                self.hit("fault: memory is short");
            }
            _ => self.slow_one(until),
        }
        self.laws.trouble_at = self.laws.trouble_at.max(until);
    }

    /// The configuration is read again, with other times and counts of the probes.
    fn reload(&mut self) {
        let pools = self.fleet.pools.len() as u32;
        let pool = self.rng.below(pools) as usize;
        let mut charter = Charter {
            pools: self.fleet.pools.clone(),
            routes: self.fleet.routes.clone(),
            terms: Vec::new(),
        };
        let Some(health) = &mut charter.pools[pool].health else {
            return;
        };
        let other = super::probes(&mut self.rng, health.expect);
        *health = guise::patient(self.guise.seed, other);
        self.hit("fault: other probes");
        self.fleet.adopt(&charter);
        let settings = self.settings.clone();
        let house = self.house.clone();
        self.tell_all(&Mail::Rules(Arc::new(Rules {
            charter,
            house,
            settings,
        })));
        let now = self.now;
        for server in 0..self.origins.len() {
            if self.origins[server].pool == pool {
                self.harm(server, now);
                self.origins[server].unseen_at = now;
            }
        }
    }

    /// Probes of this server may fail up to then.
    fn harm(&mut self, server: usize, until: u64) {
        let harmed = &mut self.origins[server].harmed_until;
        *harmed = until.max(*harmed);
    }

    /// Faults end, and nobody begins anything new.
    pub fn heal(&mut self) {
        (self.wild, self.talking, self.exhausted) = (false, false, 0);
        self.laws.trouble_at = self.now;
        self.laws.press.end();
        self.note(format_args!("healed"));
        let now = self.now;
        for server in 0..self.origins.len() {
            let origin = &mut self.origins[server];
            origin.reach = Default::default();
            (origin.stopped_until, origin.moody_until, origin.sick_until) = (0, 0, now);
            self.harm(server, now);
            let (server, state) = (server as u16, ServerState::Enabled);
            self.tell_all(&Mail::State { server, state });
        }
        self.calm();
        for visitor in &mut self.visitors {
            (
                visitor.slow_until,
                visitor.lazy_until,
                visitor.stalled_until,
            ) = (0, 0, 0);
        }
    }

    /// All visitors and processes do something.
    pub fn step_peers(&mut self) {
        for at in 0..self.live.len() {
            let id = self.live[at];
            match self.conns[id].far {
                Far::Client(me) => {
                    let mut visitor = std::mem::take(&mut self.visitors[me]);
                    visitor.step(me, self);
                    self.visitors[me] = visitor;
                }
                Far::Server(me) => {
                    let place = &self.lines[me];
                    let stopped = self.origins[place.server].stopped_until > self.now;
                    let conn = &self.conns[id];
                    if stopped || place.process.ended || !conn.stands || !conn.peer_open {
                        continue;
                    }
                    let mut line = std::mem::take(&mut self.lines[me]);
                    line.step(me, self);
                    self.lines[me] = line;
                }
            }
        }
    }

    fn kill(&mut self, server: usize, until: u64) {
        self.hit("fault: killed");
        self.note(format_args!("server {server} is killed"));
        self.harm(server, until);
        let refuses = self.rng.chance(1, 2);
        let reach = &mut self.origins[server].reach;
        (reach.down_until, reach.refuses) = (until, refuses);
        for line in self.open_lines() {
            if self.lines[line].server != server {
                continue;
            }
            let unseen = self.lines[line].is_cut_unseen(self);
            let id = self.lines[line].conn;
            let conn = &mut self.conns[id];
            // An answer that ends with its connection must not seem whole.
            if unseen {
                conn.reset_proxy();
            } else {
                conn.end_peer();
            }
            self.lines[line].process.ended = true;
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
                conn.stands && conn.peer_open && !self.lines[*line].process.ended
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
            place.speak_unasked(self);
            self.lines[line] = place;
        }
    }

    fn close_at_rest(&mut self) {
        if let Some(line) = self.a_line(true) {
            self.hit("fault: closed at rest");
            self.note(format_args!("line {line} ends at rest"));
            self.lines[line].hang_up();
        }
    }

    fn reset_one(&mut self) {
        if let Some(line) = self.a_line(false) {
            self.hit("fault: reset");
            self.note(format_args!("line {line} is reset"));
            let (id, server, now) = (self.lines[line].conn, self.lines[line].server, self.now);
            self.harm(server, now);
            self.conns[id].reset_proxy();
            self.lines[line].process.ended = true;
        }
    }

    fn slow_one(&mut self, until: u64) {
        let live = self.live.len() as u32;
        let at = self.rng.below(live) as usize;
        let Some(id) = self.live.get(at).copied() else {
            return;
        };
        self.hit("fault: a slow network");
        self.conns[id].slow_until = until;
        if let Far::Server(line) = self.conns[id].far {
            let server = self.lines[line].server;
            self.harm(server, until);
        }
    }
}
