//! Reads `/metrics` and checks the laws that hold at every scrape.

use std::collections::{BTreeMap, HashSet};

pub struct Metrics {
    declared: HashSet<String>,
    samples: Vec<Sample>,
}

struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

impl Metrics {
    /// Takes Prometheus' text format; panics where a line is none, so that each scrape checks it.
    pub fn parse(text: &str) -> Metrics {
        let lines = text
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'));
        let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        let declared = types
            .filter_map(|rest| rest.split(' ').next())
            .map(str::to_owned);
        Metrics {
            declared: declared.collect(),
            samples: lines.map(sample).collect(),
        }
    }

    /// The sum over all samples of that name whose labels contain `labels`. A name that was never
    /// declared panics: a misspelt one would be zero, and zero is what many tests wait for.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        assert!(self.declared.contains(name), "no metric {name}");

        self.find(name, labels)
            .map(|sample| sample.value)
            .sum::<f64>() as u64
    }

    /// As [`Metrics::sum`], of a series whose name is that of a histogram and more: `…_count`.
    pub fn samples(&self, name: &str) -> u64 {
        assert!(self.labels(name).is_some(), "no series {name}");
        self.find(name, &[]).map(|sample| sample.value).sum::<f64>() as u64
    }

    /// The labels of a series by that name, if there is one.
    pub fn labels(&self, name: &str) -> Option<HashSet<&str>> {
        let own = self.samples.iter().filter(|sample| sample.name == name);
        let mut own = own.peekable();
        own.peek()?;
        Some(
            own.flat_map(|sample| sample.labels.keys().map(String::as_str))
                .collect(),
        )
    }

    fn find<'a>(
        &'a self,
        name: &'a str,
        labels: &'a [(&str, &str)],
    ) -> impl Iterator<Item = &'a Sample> {
        self.samples.iter().filter(move |sample| {
            let held = |(key, value): &(&str, &str)| {
                sample.labels.get(*key).is_some_and(|found| found == value)
            };
            sample.name == name && labels.iter().all(held)
        })
    }

    /// The laws of the contract: opened - closed = active; per pool, messages up = confirmed +
    /// unconfirmed + journaled.
    pub fn check_laws(&self) -> Result<(), String> {
        let count = |name: &str| self.sum(name, &[]);
        let opened = count("wsteady_connections_opened_total");
        let closed = count("wsteady_connections_closed_total");
        let active = count("wsteady_connections_active");
        if opened != closed + active {
            return Err(format!(
                "opened {opened} - closed {closed} is not active {active}"
            ));
        }
        for pool in self.pools() {
            let of = |name: &str| self.sum(name, &[("pool", &pool)]);
            let up = self.sum(
                "wsteady_messages_total",
                &[("pool", &pool), ("direction", "up")],
            );
            let confirmed = of("wsteady_messages_confirmed_total");
            let unconfirmed = of("wsteady_messages_unconfirmed_total");
            let journaled = of("wsteady_messages_journaled");
            if up != confirmed + unconfirmed + journaled {
                return Err(format!(
                    "pool {pool}: up {up} is not confirmed {confirmed} + unconfirmed {unconfirmed} \
                     + journaled {journaled}"
                ));
            }
        }
        Ok(())
    }

    fn pools(&self) -> Vec<String> {
        let mut pools: Vec<_> = self
            .find("wsteady_messages_total", &[])
            .map(|one| one.labels["pool"].clone())
            .collect();
        pools.dedup();
        pools
    }
}

fn sample(line: &str) -> Sample {
    let (series, value) = line
        .rsplit_once(' ')
        .unwrap_or_else(|| panic!("no metric: {line:?}"));
    let value = value
        .parse()
        .unwrap_or_else(|_| panic!("no number: {line:?}"));
    let (name, labels) = match series.split_once('{') {
        None => (series, ""),
        Some((name, rest)) => (name, rest.strip_suffix('}').expect("labels end")),
    };
    let labels = labels
        .split("\",")
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (key, value) = pair
                .split_once("=\"")
                .unwrap_or_else(|| panic!("no label: {line:?}"));
            (key.to_owned(), value.trim_end_matches('"').to_owned())
        });
    Sample {
        name: name.to_owned(),
        labels: labels.collect(),
        value,
    }
}

#[test]
fn a_broken_law_is_found() {
    let names = [
        "connections_opened_total",
        "connections_closed_total",
        "connections_active",
    ];
    let more = ["total", "confirmed_total", "unconfirmed_total", "journaled"];
    let more = more.map(|name| format!("messages_{name}"));
    let all = names.iter().copied().chain(more.iter().map(String::as_str));
    let types: String = all
        .map(|name| format!("# TYPE wsteady_{name} any\n"))
        .collect();
    let text = types
        + "# HELP x y\n\
        wsteady_connections_opened_total 5\nwsteady_connections_closed_total 3\n\
        wsteady_connections_active 2\n\
        wsteady_messages_total{pool=\"a\",direction=\"up\"} 10\n\
        wsteady_messages_total{pool=\"a\",direction=\"down\"} 99\n\
        wsteady_messages_confirmed_total{pool=\"a\"} 7\n\
        wsteady_messages_unconfirmed_total{pool=\"a\",reason=\"poison\"} 1\n\
        wsteady_messages_journaled{pool=\"a\"} 2\n";
    Metrics::parse(&text).check_laws().unwrap();
    let lost = text.replace("journaled{pool=\"a\"} 2", "journaled{pool=\"a\"} 1");
    assert!(
        Metrics::parse(&lost)
            .check_laws()
            .unwrap_err()
            .contains("pool a")
    );
    let leaked = text.replace("active 2", "active 3");
    assert!(
        Metrics::parse(&leaked)
            .check_laws()
            .unwrap_err()
            .contains("active 3")
    );
}
