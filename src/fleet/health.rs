//! Health: what probes of one server add up to.

/// How the servers of a pool are probed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// What is asked for.
    pub path: String,
    /// From one probe to the next, in ms.
    pub interval: u32,
    /// For a whole probe, in ms.
    pub timeout: u32,
    /// So many good ones in a row make a server healthy,
    pub rise: u8,
    /// and so many bad ones unhealthy.
    pub fall: u8,
    pub expect: Expect,
}

/// What a good probe is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Expect {
    /// A 2xx.
    #[default]
    Status,
    /// A 2xx whose JSON body has a `status` of 200, as a number or a string.
    JsonStatus,
    /// A connection.
    Tcp,
    /// A correct upgrade.
    WebSocket,
}

/// What a JSON body says of a server.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Vitals {
    /// `status` is 200.
    pub ok: bool,
    /// `cpu` and `memory`, 0 to 1, where given.
    pub cpu: Option<f32>,
    pub memory: Option<f32>,
}

impl Vitals {
    /// The share of new sessions that is left to it, in percent of its weight: what its scarcest
    /// resource has free. A busy server still gets some, so that its recovery is seen.
    pub fn share(&self) -> u32 {
        let free = |used: Option<f32>| used.map_or(1.0, |used| 1.0 - used.clamp(0.0, 1.0));
        let free = free(self.cpu).min(free(self.memory));
        ((free * 100.0) as u32).max(SHARE_MIN)
    }
}

/// The run of good or bad probes.
#[derive(Clone, Copy, Debug)]
pub struct Trend {
    healthy: bool,
    against: u8,
}

impl Trend {
    /// From what is held true now.
    pub fn of(healthy: bool) -> Trend {
        Trend {
            healthy,
            against: 0,
        }
    }

    /// Takes a probe's result; says whether that changed the verdict, and to what.
    pub fn on_probe(&mut self, good: bool, health: &Health) -> Option<bool> {
        if good == self.healthy {
            self.against = 0;
            return None;
        }
        self.against = self.against.saturating_add(1);
        let enough = if good { health.rise } else { health.fall };
        if self.against < enough {
            return None;
        }
        *self = Trend::of(good);
        Some(good)
    }
}

/// Percent of its weight that a server keeps, however busy it says it is.
const SHARE_MIN: u32 = 5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rises_and_falls_after_runs() {
        let health = Health {
            path: "/".into(),
            interval: 1,
            timeout: 1,
            rise: 2,
            fall: 3,
            expect: Expect::Status,
        };
        let mut trend = Trend::of(true);
        // Good probes, and what each changes.
        let rows = [
            (false, None),
            (false, None),
            (true, None),
            (false, None),
            (false, None),
            (false, Some(false)),
            (false, None),
            (true, None),
            (false, None),
            (true, None),
            (true, Some(true)),
            (true, None),
        ];
        for (at, (good, want)) in rows.into_iter().enumerate() {
            assert_eq!(trend.on_probe(good, &health), want, "probe {at}");
        }
    }

    #[test]
    fn the_scarcest_resource_decides_the_share() {
        let vitals = |cpu, memory| Vitals {
            ok: true,
            cpu,
            memory,
        };
        assert_eq!(vitals(None, None).share(), 100);
        assert_eq!(vitals(Some(0.25), Some(0.5)).share(), 50);
        assert_eq!(vitals(Some(7.0), None).share(), SHARE_MIN);
    }
}
