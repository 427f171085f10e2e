//! Who gets the last numbers of a descriptor table: clients come by themselves, servers are dialled, and
//! a client without a server is of no use.

use std::os::fd::{AsFd, RawFd};

use rustix::process::{Resource, getrlimit};

/// The descriptors of a loop. The kernel gives the lowest number that is free: one that is high says
/// that all below it are taken.
pub struct Table {
    /// From here on a client is one too many, and may be told so, or have a plain request answered.
    scarce_from: u64,
    /// From here on all are for connections to servers.
    servers_from: u64,
    /// The last client had a high one.
    scarce: bool,
}

impl Table {
    /// The table of this thread, as `RLIMIT_NOFILE` has it now.
    pub fn of_this_thread() -> Table {
        Table::of(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX))
    }

    fn of(limit: u64) -> Table {
        Table {
            scarce_from: scarce_from(limit),
            servers_from: limit - reserve(limit) / 2,
            scarce: false,
        }
    }

    /// Whether a client's descriptor is among the last.
    pub fn is_scarce(&self, socket: &impl AsFd) -> bool {
        number(socket) >= self.scarce_from
    }

    /// Whether another client may have one; `any` is a descriptor that is open.
    pub fn has_room(&mut self, any: &impl AsFd) -> bool {
        if !self.scarce {
            return true;
        }
        // The lowest that is free; it is closed again at once.
        let Ok(next) = rustix::io::fcntl_dupfd_cloexec(any, 0) else {
            return false;
        };
        self.scarce = self.is_scarce(&next);
        number(&next) < self.servers_from
    }

    /// A client has come.
    pub fn took(&mut self, socket: &impl AsFd) {
        self.scarce = self.is_scarce(socket);
    }
}

/// The first number of a table of so many that clients should not have.
pub fn scarce_from(limit: u64) -> u64 {
    limit - reserve(limit)
}

/// The smallest table in which clients and their servers may have so many.
pub fn table_for(wanted: u64) -> u64 {
    wanted + (wanted / (SHARE - 1) + 1).min(RESERVE_MAX)
}

fn reserve(limit: u64) -> u64 {
    (limit / SHARE).min(RESERVE_MAX)
}

fn number(descriptor: &impl AsFd) -> u64 {
    use std::os::fd::AsRawFd;
    let number: RawFd = descriptor.as_fd().as_raw_fd();
    number as u64
}

/// Of a table; of a large one not more than that.
const SHARE: u64 = 16;
const RESERVE_MAX: u64 = 1_024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_a_table_are_not_for_clients() {
        for (limit, scarce, servers) in [
            (64, 60, 62),
            (200, 188, 194),
            (1_024, 960, 992),
            (20_000, 18_976, 19_488),
            (1 << 20, (1 << 20) - 1_024, (1 << 20) - 512),
            (u64::MAX, u64::MAX - 1_024, u64::MAX - 512),
        ] {
            let table = Table::of(limit);
            assert_eq!(
                (table.scarce_from, table.servers_from),
                (scarce, servers),
                "{limit}"
            );
        }
    }

    #[test]
    fn a_table_for_so_many_has_that_and_the_reserve() {
        for wanted in [1, 14, 15, 16, 900, 15_000, 16_000, 1_000_000] {
            assert!(scarce_from(table_for(wanted)) >= wanted, "{wanted}");
        }
    }

    #[test]
    fn room_is_looked_for_only_while_numbers_are_high() {
        let any = std::io::stderr();
        let mut table = Table::of(u64::MAX);
        assert!(table.has_room(&any));
        // All numbers are high, and all are for servers.
        table = Table {
            scarce_from: 0,
            servers_from: 0,
            scarce: false,
        };
        assert!(table.has_room(&any), "nobody has seen it yet");
        table.took(&any);
        assert!(!table.has_room(&any));
        // They are not any more.
        table.scarce_from = u64::MAX;
        table.servers_from = u64::MAX;
        assert!(table.has_room(&any));
        assert!(!table.scarce);
    }
}
