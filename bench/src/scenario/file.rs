//! Scenarios as their files have them, and what is wrong with one.

use crate::check::LABEL_BYTES;
use crate::units::{self, nanos};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use std::path::Path;
use std::time::Duration;

/// What clients do, one phase after the other.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// At most so many clients at the same time.
    pub connections: u32,
    /// A message's payload in bytes.
    pub message: usize,
    pub text: bool,
    /// Clients speak TLS, whatever the URL says.
    pub tls: bool,
    /// When a client comes again whose connection was lost; it stays away if never.
    pub reconnect: Option<Duration>,
    pub allow: Vec<Allowed>,
    pub limits: Limits,
    pub phases: Vec<Phase>,
}

/// What a phase does beside its messages, and when; nanoseconds since the start.
#[derive(Clone, Debug, PartialEq)]
pub struct Phase {
    pub from: u64,
    pub until: u64,
    pub traffic: Traffic,
    pub act: Act,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Traffic {
    Rest,
    /// Each client sends one message in so many nanoseconds.
    Every(u64),
    /// So many messages per second of all clients together.
    Rate(f64),
}

#[derive(Clone, Debug, PartialEq)]
pub enum Act {
    /// From so many connections to so many, evenly.
    Ramp {
        from: u32,
        to: u32,
    },
    Steady,
    /// So many clients per second leave, and others come.
    Churn {
        leave: f64,
    },
    /// Each client of a share sends so many messages at once.
    Burst {
        share: f64,
        messages: u32,
    },
    /// A share of the clients reads so many bytes per second.
    SlowReaders {
        share: f64,
        read: usize,
    },
    Failover(Order),
    /// A share of the clients drops its connections and comes again at once.
    ReconnectStorm {
        share: f64,
    },
}

/// What is done to somebody else.
#[derive(Clone, Debug, PartialEq)]
pub enum Order {
    /// A command of the shell.
    Run(String),
    /// A signal to a process that has this name on the command line, or number.
    Signal { name: Signal, to: String },
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "UPPERCASE")]
pub enum Signal {
    Term,
    Kill,
    Int,
    Hup,
    Stop,
    Cont,
}

/// What does not count as a failure of the run.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Allowed {
    ConnectFailures,
    Loss,
    Repeats,
    Disorder,
    Closed,
}

/// What the run must stay below.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// From when a message was due to its echo.
    #[serde(deserialize_with = "some_time")]
    pub p99: Option<Duration>,
    /// From when a client was due to the end of its upgrade, the slowest.
    #[serde(deserialize_with = "some_time")]
    pub connect: Option<Duration>,
    /// Bytes of the proxy in user space, without the request heads that it keeps.
    #[serde(deserialize_with = "some_size")]
    pub memory_per_connection: Option<usize>,
    /// All of the proxy in user space, at its highest.
    #[serde(deserialize_with = "some_size")]
    pub memory: Option<usize>,
    /// By how much it may grow in an hour.
    #[serde(deserialize_with = "some_size")]
    pub growth: Option<usize>,
    /// All clients must have been connected at the same time.
    pub all_connected: bool,
}

impl Scenario {
    /// Reads a file; `connections` replaces the file's number, and shares follow it.
    ///
    /// # Errors
    /// The file, the line and what would be right.
    pub fn read(path: &Path, connections: Option<u32>) -> Result<Self, String> {
        let shown = path.display();
        let text = std::fs::read_to_string(path).map_err(|error| format!("{shown}: {error}"))?;
        Self::parse(&text, connections).map_err(|error| format!("{shown}: {error}"))
    }

    /// # Errors
    /// The same, without the file's name.
    pub fn parse(text: &str, connections: Option<u32>) -> Result<Self, String> {
        let file: File = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
        file.plan(connections)
    }

    /// Nanoseconds from the start to the end of the last phase.
    pub fn nanos(&self) -> u64 {
        self.phases.last().map_or(0, |phase| phase.until)
    }

    pub fn allows(&self, what: Allowed) -> bool {
        self.allow.contains(&what)
    }
}

impl Phase {
    pub fn name(&self) -> &'static str {
        match self.act {
            Act::Ramp { .. } => "ramp",
            Act::Steady => "steady",
            Act::Churn { .. } => "churn",
            Act::Burst { .. } => "burst",
            Act::SlowReaders { .. } => "slow-readers",
            Act::Failover(_) => "failover",
            Act::ReconnectStorm { .. } => "reconnect-storm",
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    connections: u32,
    #[serde(default, deserialize_with = "some_size")]
    message: Option<usize>,
    #[serde(default)]
    text: bool,
    #[serde(default)]
    tls: bool,
    #[serde(default)]
    traffic: Option<TrafficEntry>,
    #[serde(default, deserialize_with = "some_time")]
    reconnect: Option<Duration>,
    #[serde(default)]
    allow: Vec<Allowed>,
    #[serde(default)]
    limits: Limits,
    phases: Vec<Entry>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum TrafficEntry {
    Rest,
    #[serde(deserialize_with = "time")]
    Every(Duration),
    Rate(f64),
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
enum Entry {
    Ramp {
        #[serde(default)]
        from: Option<Amount>,
        to: Amount,
        #[serde(deserialize_with = "time")]
        over: Duration,
        traffic: Option<TrafficEntry>,
    },
    Steady {
        #[serde(rename = "for", deserialize_with = "time")]
        time: Duration,
        traffic: Option<TrafficEntry>,
    },
    Churn {
        #[serde(rename = "for", deserialize_with = "time")]
        time: Duration,
        /// Clients per second.
        leave: f64,
        traffic: Option<TrafficEntry>,
    },
    Burst {
        #[serde(rename = "for", deserialize_with = "time")]
        time: Duration,
        share: Share,
        messages: u32,
        traffic: Option<TrafficEntry>,
    },
    SlowReaders {
        #[serde(rename = "for", deserialize_with = "time")]
        time: Duration,
        share: Share,
        /// Bytes per second and client.
        #[serde(default, deserialize_with = "some_size")]
        read: Option<usize>,
        traffic: Option<TrafficEntry>,
    },
    Failover {
        #[serde(rename = "for", deserialize_with = "time")]
        time: Duration,
        run: Option<String>,
        signal: Option<Signal>,
        to: Option<String>,
        traffic: Option<TrafficEntry>,
    },
    ReconnectStorm {
        #[serde(rename = "for", deserialize_with = "time")]
        time: Duration,
        share: Share,
        traffic: Option<TrafficEntry>,
    },
}

impl File {
    fn plan(self, connections: Option<u32>) -> Result<Scenario, String> {
        let connections = connections.unwrap_or(self.connections);
        let message = self.message.unwrap_or(64);
        if connections == 0 {
            return Err("connections must be above 0".to_string());
        }
        if message < LABEL_BYTES {
            return Err(format!("message must be at least {LABEL_BYTES} bytes"));
        }
        let usual = traffic(self.traffic, Traffic::Rest)?;
        let mut phases: Vec<Phase> = Vec::with_capacity(self.phases.len());
        let mut open = 0;
        for (index, entry) in self.phases.into_iter().enumerate() {
            let from = phases.last().map_or(0, |phase| phase.until);
            let wrong = |what| format!("phases[{index}]: {what}");
            let phase = entry.plan(from, open, connections, usual).map_err(wrong)?;
            if let Act::Ramp { to, .. } = phase.act {
                open = to;
            } else if open == 0 {
                return Err(wrong("nobody is connected: begin with a ramp".to_string()));
            }
            phases.push(phase);
        }
        if phases.is_empty() {
            return Err("phases is empty; write at least a ramp".to_string());
        }
        Ok(Scenario {
            connections,
            message,
            text: self.text,
            tls: self.tls,
            reconnect: self.reconnect,
            allow: self.allow,
            limits: self.limits,
            phases,
        })
    }
}

impl Entry {
    fn plan(self, from: u64, open: u32, all: u32, usual: Traffic) -> Result<Phase, String> {
        let (time, own, act) = match self {
            Self::Ramp {
                from,
                to,
                over,
                traffic,
            } => {
                let from = from.map_or(Ok(open), |amount| amount.of(all))?;
                if from != open {
                    return Err(format!("from is {from}, but {open} are connected by then"));
                }
                let to = to.of(all)?;
                (over, traffic, Act::Ramp { from, to })
            }
            Self::Steady { time, traffic } => (time, traffic, Act::Steady),
            Self::Churn {
                time,
                leave,
                traffic,
            } => {
                let leave = positive("leave", leave)?;
                (time, traffic, Act::Churn { leave })
            }
            Self::Burst {
                time,
                share: Share(share),
                messages,
                traffic,
            } => (time, traffic, Act::Burst { share, messages }),
            Self::SlowReaders {
                time,
                share: Share(share),
                read,
                traffic,
            } => {
                let read = read.unwrap_or(0);
                (time, traffic, Act::SlowReaders { share, read })
            }
            Self::Failover {
                time,
                run,
                signal,
                to,
                traffic,
            } => (time, traffic, Act::Failover(order(run, signal, to)?)),
            Self::ReconnectStorm {
                time,
                share: Share(share),
                traffic,
            } => (time, traffic, Act::ReconnectStorm { share }),
        };
        Ok(Phase {
            from,
            until: from.saturating_add(nanos(time).max(1)),
            traffic: traffic(own, usual)?,
            act,
        })
    }
}

fn traffic(own: Option<TrafficEntry>, usual: Traffic) -> Result<Traffic, String> {
    match own {
        None => Ok(usual),
        Some(TrafficEntry::Rest) => Ok(Traffic::Rest),
        Some(TrafficEntry::Every(time)) if time.is_zero() => Err("every must be above 0".into()),
        Some(TrafficEntry::Every(time)) => Ok(Traffic::Every(nanos(time))),
        Some(TrafficEntry::Rate(rate)) => Ok(Traffic::Rate(positive("rate", rate)?)),
    }
}

fn order(run: Option<String>, signal: Option<Signal>, to: Option<String>) -> Result<Order, String> {
    match (run, signal, to) {
        (Some(command), None, None) => Ok(Order::Run(command)),
        (None, Some(name), Some(to)) => Ok(Order::Signal { name, to }),
        _ => Err("a failover has either run, or signal and to".to_string()),
    }
}

fn positive(name: &str, number: f64) -> Result<f64, String> {
    if number.is_finite() && number > 0.0 {
        Ok(number)
    } else {
        Err(format!("{name} must be above 0"))
    }
}

/// So many, or a share of all.
enum Amount {
    Count(u32),
    Share(f64),
}

impl Amount {
    fn of(&self, all: u32) -> Result<u32, String> {
        match self {
            Self::Share(share) => Ok((f64::from(all) * share).round() as u32),
            Self::Count(count) if *count <= all => Ok(*count),
            Self::Count(count) => Err(format!("{count} are more than the {all} connections")),
        }
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(source: D) -> Result<Self, D::Error> {
        let text = String::deserialize(source)?;
        if let Ok(count) = text.parse() {
            return Ok(Self::Count(count));
        }
        percent(&text).map(Self::Share).map_err(D::Error::custom)
    }
}

/// Above 0 and at most 1.
struct Share(f64);

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: Deserializer<'de>>(source: D) -> Result<Self, D::Error> {
        let text = String::deserialize(source)?;
        match percent(&text).map_err(D::Error::custom)? {
            0.0 => Err(D::Error::custom("a share of 0% is nobody")),
            share => Ok(Self(share)),
        }
    }
}

fn percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').and_then(|text| text.parse().ok());
    match number {
        Some(number) if (0.0..=100.0).contains(&number) => Ok(number / 100.0),
        _ => Err(format!("{text:?} is no share; write 0% to 100%")),
    }
}

fn time<'de, D: Deserializer<'de>>(source: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(source)?;
    units::time(&text).map_err(|error| D::Error::custom(format!("{text:?}: {error}")))
}

fn some_time<'de, D: Deserializer<'de>>(source: D) -> Result<Option<Duration>, D::Error> {
    time(source).map(Some)
}

fn some_size<'de, D: Deserializer<'de>>(source: D) -> Result<Option<usize>, D::Error> {
    let text = String::deserialize(source)?;
    let size = units::size(&text);
    size.map(Some)
        .map_err(|error| D::Error::custom(format!("{text:?}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: &str = "
connections: 1000
message: 1KiB
traffic: { every: 10s }
reconnect: 1s
allow: [closed, loss]
limits: { p99: 50ms, connect: 2s, memory_per_connection: 1KiB, memory: 150MiB, growth: 1MiB, all_connected: true }
phases:
  - ramp: { from: 0, to: 100%, over: 60s }
  - steady: { for: 5m }
  - steady: { for: 1s, traffic: rest }
  - churn: { for: 10s, leave: 50, traffic: { rate: 2000 } }
  - burst: { for: 5s, share: 25%, messages: 10 }
  - slow-readers: { for: 10s, share: 10%, read: 512 }
  - failover: { for: 10s, signal: KILL, to: server }
  - failover: { for: 10s, run: 'true' }
  - reconnect-storm: { for: 20s, share: 50% }
  - ramp: { to: 100, over: 1s }
";

    #[test]
    fn every_phase_is_read() {
        let scenario = Scenario::parse(ALL, None).unwrap();
        let names: Vec<_> = scenario.phases.iter().map(Phase::name).collect();
        assert_eq!(
            names.join(" "),
            "ramp steady steady churn burst slow-readers failover failover reconnect-storm ramp"
        );
        let phases = &scenario.phases;
        assert_eq!(phases[0].act, Act::Ramp { from: 0, to: 1000 });
        assert_eq!(
            phases[9].act,
            Act::Ramp {
                from: 1000,
                to: 100
            }
        );
        assert_eq!(phases[1].traffic, Traffic::Every(10_000_000_000));
        assert_eq!(phases[2].traffic, Traffic::Rest);
        assert_eq!(phases[3].traffic, Traffic::Rate(2000.0));
        assert_eq!(phases[1].until, 360_000_000_000);
        assert_eq!(phases[2].from, phases[1].until);
        assert_eq!(scenario.message, 1024);
        assert_eq!(scenario.limits.p99, Some(Duration::from_millis(50)));
        assert!(scenario.allows(Allowed::Loss) && !scenario.allows(Allowed::Repeats));
    }

    #[test]
    fn shares_follow_another_number_of_connections() {
        let text = "connections: 10\nphases: [ramp: { to: 50%, over: 1s }]";
        let scenario = Scenario::parse(text, Some(4_000)).unwrap();
        assert_eq!(scenario.phases[0].act, Act::Ramp { from: 0, to: 2_000 });
        let counted = "connections: 10\nphases: [ramp: { to: 8, over: 1s }]";
        assert!(Scenario::parse(counted, Some(4)).is_err());
    }

    #[test]
    fn what_is_wrong_is_said() {
        let of = |phases: &str| format!("connections: 10\nphases:\n{phases}");
        let ramp = "  - ramp: { to: 10, over: 1s }\n";
        for (text, words) in [
            ("phases: []".to_string(), "connections"),
            ("connections: 10\nphases: []".to_string(), "at least a ramp"),
            (of("  - steady: { for: 1s }"), "begin with a ramp"),
            (of("  - ramp: { to: 11, over: 1s }"), "more than the 10"),
            (of("  - ramp: { to: 10, over: 1 parsec }"), "parsec"),
            (of("  - ramp: { to: 10, over: 1s, fro: 2 }"), "fro"),
            (
                of("  - ramp: { from: 5, to: 10, over: 1s }"),
                "0 are connected",
            ),
            (of("  - sprint: { for: 1s }"), "sprint"),
            (
                of(&format!("{ramp}  - churn: {{ for: 1s, leave: 0 }}")),
                "above 0",
            ),
            (
                of(&format!("{ramp}  - failover: {{ for: 1s }}")),
                "either run",
            ),
            (
                of(&format!(
                    "{ramp}  - burst: {{ for: 1s, share: 2, messages: 1 }}"
                )),
                "no share",
            ),
            (format!("message: 8\n{}", of(ramp)), "at least 32"),
            (format!("limits: {{ p98: 1s }}\n{}", of(ramp)), "p98"),
            (
                format!("traffic: {{ every: 0s }}\n{}", of(ramp)),
                "every must be",
            ),
        ] {
            let error = Scenario::parse(&text, None).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
