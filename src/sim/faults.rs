//! What goes wrong, by chance, and how it heals.

use std::net::SocketAddr;

use super::codec;
use super::peer::{Answering, Ponging, Stage};
use super::pipe::Far;
use super::world::World;
use crate::fleet::ServerState;
use crate::session::Confirm;
use crate::shard::Mail;

impl World {
    /// One moment's chance of trouble.
    pub fn strike(&mut self) {
        self.bury_leaving();
        self.laws.crowd.press.step(self.now);
        if !self.wild || !self.rng.chance(1, 14) {
            return;
        }
        let present = (0..self.servers.len()).filter(|server| !self.is_gone(*server));
        let present: Vec<usize> = present.collect();
        let server = present[self.rng.below(present.len() as u32) as usize];
        let span: u32 = [20, 200, 1_000, 3_000][self.rng.below(4) as usize];
        let until = self.now + 1 + u64::from(self.rng.below(span));
        match self.rng.below(44 + u32::from(self.reloads)) {
            0..=5 => self.kill(server, until),
            6..=8 => {
                self.note(format_args!("server {server} stops"));
                self.coverage.stops += 1;
                self.servers[server].stopped_until = until + u64::from(self.rng.below(12_000));
            }
            9 => self.half_close(),
            10 | 11 => {
                if let Some(id) = self.any_conn() {
                    self.coverage.slow += 1;
                    self.conns[id].slow_until = until;
                    if let Far::Client(client) = self.conns[id].far {
                        self.clients[client].tainted = true;
                    }
                }
            }
            12 | 13 => {
                let how = if self.rng.chance(1, 2) {
                    Ponging::Late
                } else {
                    Ponging::Never
                };
                (self.servers[server].pong, self.servers[server].pong_until) = (how, until + 2_000);
            }
            14..=16 => self.wrong_pong(),
            17 => self.servers[server].down_until = until,
            18 => self.servers[server].black_until = until,
            19 => self.servers[server].slow_connect_until = until,
            20 | 21 => {
                let how = match self.rng.below(8) {
                    0 | 1 => Answering::Status(503),
                    2 => Answering::Status(200),
                    3 => Answering::Status(404),
                    4 => Answering::WrongAccept,
                    5 => Answering::HangUp,
                    _ => Answering::Slow,
                };
                (
                    self.servers[server].answer,
                    self.servers[server].answer_until,
                ) = (how, until);
            }
            22 | 23 => self.break_protocol(),
            24..=26 => self.close_one(),
            27 => self.poison(),
            28 => {
                self.exhausted += 1 + self.rng.below(3);
                self.scarce_until = until;
            }
            29 => {
                self.coverage.drains += 1;
                let states = [
                    ServerState::Draining,
                    ServerState::Disabled,
                    ServerState::Enabled,
                ];
                let state = states[self.rng.below(3) as usize];
                self.set_state(server as u16, state);
            }
            30 => {
                self.coverage.drains += 1;
                self.tell_all(&Mail::FailOver {
                    server: server as u16,
                });
            }
            31..=33 => self.move_one(),
            34 => self.reset_one(),
            35 if self.rng.chance(1, 6) => self.abort_one(),
            36 => self.kill_stopped(server),
            37 | 38 => self.set_state(server as u16, ServerState::Enabled),
            39 => self.abort_late(),
            40 => self.join(server),
            41 => self.leave(server as u16),
            42 | 43 => self.press(until),
            44 => self.reload(),
            _ => {
                if let Some(server) = self
                    .servers
                    .iter()
                    .position(|one| one.down_until > self.now)
                {
                    self.servers[server].down_until = 0;
                }
            }
        }
    }

    /// All faults end; the world is as it should be.
    pub fn heal(&mut self) {
        self.note(format_args!("all heals"));
        self.wild = false;
        self.talking = false;
        self.healed_at = Some(self.now);
        self.exhausted = 0;
        self.scarce_until = 0;
        for server in 0..self.servers.len() {
            let healthy = super::peer::Server {
                pool: self.servers[server].pool,
                processes: self.servers[server].processes,
                ..Default::default()
            };
            self.servers[server] = healthy;
            self.set_state(server as u16, ServerState::Enabled);
        }
        self.leaving.clear();
        self.laws.crowd.press.end();
        self.guise.calm = true;
        for conn in &mut self.conns {
            conn.heal();
        }
        for client in &mut self.clients {
            client.deaf_until = 0;
        }
    }

    pub fn tell_all(&mut self, mail: &Mail) {
        self.note(format_args!("mail {mail:?}"));
        for door in &mut self.doors {
            door.mail.tell(mail.clone(), self.now);
        }
    }

    /// As control does: of one that is gone nothing more is said.
    fn set_state(&mut self, server: u16, state: ServerState) {
        if self.fleet.set_state(server, state) {
            self.tell_all(&Mail::State { server, state });
        }
    }

    /// Another server in the pool of this one; its home hears of it last, and may hear of it late.
    fn join(&mut self, beside: usize) {
        let pool = self.servers[beside].pool;
        let members = self.fleet.pools[pool].members.len();
        if self.servers.len() >= SERVERS_MAX || members >= MEMBERS_MAX {
            return;
        }
        self.coverage.joins += 1;
        let number = self.servers.len() as u16;
        let address = SocketAddr::from(([10, 0, 0, 1], number));
        let place = self.fleet.servers[beside].another(format!("s+{number}"), address);
        let joined = self.fleet.join(place.clone());
        assert_eq!(joined, number);
        let processes =
            self.settings[pool].now().confirm == Confirm::Processed && self.rng.chance(2, 3);
        self.servers.push(super::peer::Server {
            pool,
            processes,
            ..Default::default()
        });
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

    /// A server leaves: when it has no connection any more, or at once, if another one stays.
    fn leave(&mut self, server: u16) {
        let place = &self.fleet.servers[usize::from(server)];
        let members = &self.fleet.pools[usize::from(place.pool)].members;
        let stays = |member: &&u16| **member != server && !self.leaving.contains(member);
        if place.state == ServerState::Gone || !members.iter().any(|member| stays(&member)) {
            return;
        }
        self.coverage.removals += 1;
        if self.rng.chance(1, 2) {
            return self.set_state(server, ServerState::Gone);
        }
        self.leaving.push(server);
        self.set_state(server, ServerState::Draining);
    }

    fn bury_leaving(&mut self) {
        for server in std::mem::take(&mut self.leaving) {
            let place = &self.fleet.servers[usize::from(server)];
            if place.state != ServerState::Draining {
                // It has come back, or was deleted.
                continue;
            }
            match place.shared.connections() {
                0 => self.set_state(server, ServerState::Gone),
                _ => self.leaving.push(server),
            }
        }
    }

    /// SIGKILL: each connection ends with FIN, or with RST where something was not read.
    fn kill(&mut self, server: usize, until: u64) {
        self.coverage.kills += 1;
        self.note(format_args!("server {server} is killed"));
        self.servers[server].down_until = until;
        self.servers[server].stopped_until = 0;
        for upstream in self.upstreams_of(server) {
            let conn = &mut self.conns[self.upstreams[upstream].conn];
            self.coverage.kills_unread += u64::from(conn.outward.queued() + conn.unheard() > 0);
            conn.end_peer();
            self.upstreams[upstream].abnormal = true;
            self.upstreams[upstream].ended = true;
        }
    }

    /// Stopped for a while, so that its kernel fills up, then killed.
    fn kill_stopped(&mut self, server: usize) {
        if self.servers[server].stopped_until > self.now {
            self.kill(server, self.now + 300);
        } else {
            self.coverage.stops += 1;
            self.servers[server].stopped_until = self.now + 3_000;
        }
    }

    fn half_close(&mut self) {
        if let Some(upstream) = self.any_upstream() {
            self.coverage.half_closes += 1;
            self.upstreams[upstream].abnormal = true;
            // What it had queued in its process is lost: FIN follows what its kernel has.
            let conn = &mut self.conns[self.upstreams[upstream].conn];
            conn.half_close();
            self.upstreams[upstream].close_sent = true;
            self.upstreams[upstream].drop_queue();
        }
    }

    /// One connection breaks on its way.
    fn reset_one(&mut self) {
        if let Some(upstream) = self.any_upstream() {
            self.note(format_args!("upstream {upstream} is reset"));
            self.upstreams[upstream].abnormal = true;
            self.upstreams[upstream].ended = true;
            self.conns[self.upstreams[upstream].conn].reset_proxy();
        }
    }

    fn wrong_pong(&mut self) {
        let Some(upstream) = self.any_upstream() else {
            return;
        };
        self.coverage.pongs_wrong += 1;
        if self.rng.chance(1, 3) {
            let future = self.clients[self.upstreams[upstream].client].next + 1_000_000;
            let mut bytes = Vec::new();
            codec::frame(0x8a, &future.to_be_bytes(), None, &mut bytes);
            self.upstreams[upstream].misbehave(&bytes);
        } else {
            self.with_upstream(upstream, |peer, world| peer.babble(world));
        }
    }

    fn break_protocol(&mut self) {
        let Some(upstream) = self.any_upstream() else {
            return;
        };
        self.coverage.protocol_errors += 1;
        if self.rng.chance(1, 4) {
            let peer = &mut self.upstreams[upstream];
            peer.abnormal = true;
            return self.conns[peer.conn].spoil();
        }
        let mut bytes = Vec::new();
        match self.rng.below(4) {
            0 => codec::frame(0x81, b"masked", Some([1, 2, 3, 4]), &mut bytes),
            1 => codec::frame(0x83, b"opcode", None, &mut bytes),
            2 => codec::frame(0x80, b"of nothing", None, &mut bytes),
            _ => bytes.extend_from_slice(&[0x88, 2, 0x03, 0xed]),
        }
        self.upstreams[upstream].misbehave(&bytes);
    }

    fn close_one(&mut self) {
        let Some(upstream) = self.any_upstream() else {
            return;
        };
        let code = match self.rng.below(10) {
            0 => Some(1000),
            1 => Some(4001),
            2 => None,
            3 | 4 => Some(1011),
            5 | 6 => Some(1012),
            7 => Some(1013),
            _ => Some(1001),
        };
        self.with_upstream(upstream, |peer, world| {
            peer.say_close(code, "so it is", world)
        });
    }

    /// The server says its own Close at the moment at which the client says one.
    pub fn cross_close(&mut self, client: usize) {
        let open = (0..self.upstreams.len()).rev().find(|upstream| {
            let peer = &self.upstreams[*upstream];
            peer.client == client && peer.state == Stage::Open && !peer.ended
        });
        if let Some(upstream) = open {
            let code = [Some(1011), Some(1012), Some(4001)][self.rng.below(3) as usize];
            self.with_upstream(upstream, |peer, world| {
                peer.say_close(code, "so it is", world)
            });
        }
    }

    /// An operator ends a session that is ending already.
    fn abort_late(&mut self) {
        let late = self.live.iter().find_map(|id| match self.conns[*id].far {
            Far::Server(upstream) => {
                let peer = &self.upstreams[upstream];
                let client = self.clients.get(peer.client)?;
                let leaving =
                    client.close_sent.is_some() || client.stage == super::peer::Phase::Gone;
                let open = peer.state == Stage::Open && self.conns[*id].proxy_open;
                (open && leaving).then_some(peer.session)
            }
            Far::Client(_) => None,
        });
        if let Some(id) = late
            && let Some(log) = self.laws.sessions.get_mut(&id)
        {
            log.aborted = true;
            self.tell_all(&Mail::AbortSession {
                ticket: 0,
                id,
                from: 0,
            });
        }
    }

    fn poison(&mut self) {
        let open: Vec<usize> = self.live_clients();
        let client = open
            .get(self.rng.below(open.len() as u32) as usize)
            .copied();
        if let Some(client) = client.map(|client| &mut self.clients[client]) {
            client.poison = Some(client.next);
        }
    }

    fn move_one(&mut self) {
        let Some(upstream) = self.any_upstream() else {
            return;
        };
        self.coverage.moves_asked += 1;
        let id = self.upstreams[upstream].session;
        self.tell_all(&Mail::MoveSession {
            ticket: 0,
            id,
            from: 0,
        });
    }

    fn abort_one(&mut self) {
        let Some(upstream) = self.any_upstream() else {
            return;
        };
        let id = self.upstreams[upstream].session;
        let Some(log) = self.laws.sessions.get_mut(&id) else {
            return;
        };
        log.aborted = true;
        self.tell_all(&Mail::AbortSession {
            ticket: 0,
            id,
            from: 0,
        });
    }

    fn any_conn(&mut self) -> Option<usize> {
        let at = self.rng.below(self.live.len() as u32) as usize;
        self.live.get(at).copied()
    }

    fn any_upstream(&mut self) -> Option<usize> {
        let open: Vec<usize> = (0..self.live.len())
            .filter_map(|at| match self.conns[self.live[at]].far {
                Far::Server(upstream) => Some(upstream),
                Far::Client(_) => None,
            })
            .filter(|upstream| {
                let peer = &self.upstreams[*upstream];
                peer.state == Stage::Open && !peer.ended && self.conns[peer.conn].peer_open
            })
            .collect();
        let at = self.rng.below(open.len() as u32) as usize;
        open.get(at).copied()
    }

    fn upstreams_of(&self, server: usize) -> Vec<usize> {
        let all = self.live.iter().filter_map(|id| match self.conns[*id].far {
            Far::Server(upstream) => Some(upstream),
            Far::Client(_) => None,
        });
        all.filter(|upstream| self.upstreams[*upstream].server == server)
            .collect()
    }

    pub fn live_clients(&self) -> Vec<usize> {
        let all = self.live.iter().filter_map(|id| match self.conns[*id].far {
            Far::Client(client) => Some(client),
            Far::Server(_) => None,
        });
        all.filter(|client| self.clients[*client].stage == super::peer::Phase::Open)
            .collect()
    }
}

/// Servers of a run, those that are gone included, and of a pool: each is to be struck now and then.
const SERVERS_MAX: usize = 24;
const MEMBERS_MAX: usize = 3;
