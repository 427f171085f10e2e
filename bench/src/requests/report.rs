//! What a run found out, as a table for people and as JSON for programs.

use super::tally::Tally;
use super::{Args, Plan};
use crate::process::Sample;
use crate::reasons::Reasons;
use crate::run::Measured;
use crate::units::{bytes, grouped, latency};
use hdrhistogram::Histogram;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;

/// The result. Every name is unique in it, at any depth but in `process`, so that even `sed`
/// can read it. Names that `ws` has, too, mean the same.
#[derive(Serialize)]
pub struct Report {
    url: String,
    mode: &'static str,
    method: &'static str,
    connections: u32,
    threads: usize,
    /// Of an answer; `null` if any will do.
    body_bytes: Option<usize>,
    target_rate: Option<f64>,

    opened: u64,
    connect_failed: u64,
    connect_seconds: f64,
    connects_per_second: f64,
    connect_p50_us: f64,
    connect_p99_us: f64,

    window_seconds: f64,
    window_answers: u64,
    requests_per_second: f64,
    latency_p50_us: f64,
    latency_p90_us: f64,
    latency_p99_us: f64,
    latency_p999_us: f64,
    latency_max_us: f64,
    lateness_p50_us: f64,
    lateness_p99_us: f64,

    sent_total: u64,
    answers_total: u64,
    refused: u64,
    damaged: u64,
    crossed: u64,
    stale: u64,
    cut: u64,
    unanswered: u64,
    reopened: u64,
    closed: u64,

    proxy_cpu_seconds: Option<f64>,
    proxy_user_seconds: Option<f64>,
    proxy_system_seconds: Option<f64>,
    proxy_cpu_seconds_per_million: Option<f64>,
    /// Growth of its anonymous memory, divided by the open connections.
    proxy_bytes_per_connection: Option<f64>,
    process: BTreeMap<&'static str, Sample>,

    /// What went wrong on connections.
    reasons: Reasons,
    /// Why the exit status is not 0.
    pub faults: Vec<String>,

    #[serde(skip)]
    quantiles: [u64; 5],
}

impl Report {
    pub fn new(args: &Args, plan: &Plan, sums: &Tally, measured: &Measured) -> Self {
        let micros = |histogram: &Histogram<u64>, quantile| {
            histogram.value_at_quantile(quantile) as f64 / 1e3
        };
        let cpu = measured.cpu.map(|(user, system)| user + system);
        let millions = measured.window_count as f64 / 1e6;
        let samples = [
            ("before", measured.before),
            ("steady", measured.steady),
            ("after", measured.after),
        ];
        Self {
            url: args.url.clone(),
            mode: match plan.rate {
                Some(_) => "rate",
                None => "closed-loop",
            },
            method: plan.method.name(),
            connections: plan.shape.total,
            threads: plan.shape.threads,
            body_bytes: plan.size,
            target_rate: plan.rate,
            opened: sums.opened,
            connect_failed: sums.connect_failed,
            connect_seconds: measured.connect_seconds,
            connects_per_second: sums.opened as f64 / measured.connect_seconds,
            connect_p50_us: micros(&sums.connect, 0.5),
            connect_p99_us: micros(&sums.connect, 0.99),
            window_seconds: measured.window_seconds,
            window_answers: measured.window_count,
            requests_per_second: measured.window_count as f64 / measured.window_seconds,
            latency_p50_us: micros(&sums.latency, 0.5),
            latency_p90_us: micros(&sums.latency, 0.9),
            latency_p99_us: micros(&sums.latency, 0.99),
            latency_p999_us: micros(&sums.latency, 0.999),
            latency_max_us: micros(&sums.latency, 1.0),
            lateness_p50_us: micros(&sums.lateness, 0.5),
            lateness_p99_us: micros(&sums.lateness, 0.99),
            sent_total: sums.sent,
            answers_total: sums.answered,
            refused: sums.refused,
            damaged: sums.damaged,
            crossed: sums.crossed,
            stale: sums.stale,
            cut: sums.cut,
            unanswered: sums.unanswered,
            reopened: sums.reopened,
            closed: sums.closed,
            proxy_cpu_seconds: cpu,
            proxy_user_seconds: measured.cpu.map(|(user, _)| user),
            proxy_system_seconds: measured.cpu.map(|(_, system)| system),
            proxy_cpu_seconds_per_million: cpu
                .filter(|_| measured.window_count > 0)
                .map(|seconds| seconds / millions),
            proxy_bytes_per_connection: growth(measured),
            process: samples
                .into_iter()
                .filter_map(|(name, one)| Some((name, one?)))
                .collect(),
            reasons: sums.reasons.clone(),
            faults: faults(args, sums),
            quantiles: QUANTILES.map(|(_, quantile)| sums.latency.value_at_quantile(quantile)),
        }
    }
}

fn growth(measured: &Measured) -> Option<f64> {
    let (before, steady) = (measured.before?, measured.steady?);
    let grown = steady.anonymous_bytes as f64 - before.anonymous_bytes as f64;
    let connections = measured.steady_connections;
    (connections > 0).then(|| grown / connections as f64)
}

/// What makes the run a failure, in words.
fn faults(args: &Args, sums: &Tally) -> Vec<String> {
    let checks = [
        (
            sums.connect_failed,
            args.allow_connect_failures,
            "connections could not be opened",
        ),
        (
            sums.refused,
            args.allow_statuses,
            "answers had another status than 200",
        ),
        (sums.damaged, false, "answers were not what was asked for"),
        (sums.crossed, false, "answers were another connection's"),
        (sums.stale, false, "answers were an earlier request's"),
        (
            sums.cut,
            args.allow_closed,
            "requests lost their connection",
        ),
        (sums.unanswered, false, "requests were not answered"),
    ];
    let failed = checks
        .into_iter()
        .filter(|(count, allowed, _)| *count > 0 && !allowed);
    let mut faults: Vec<_> = failed
        .map(|(count, _, what)| format!("{} {what}", grouped(count)))
        .collect();
    if sums.answered == 0 && faults.is_empty() {
        faults.push("nothing was answered".to_string());
    }
    faults
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            out,
            "connections  {} open, {} failed; {}/s, connect p50 {}, p99 {}; {} opened again",
            grouped(self.opened),
            grouped(self.connect_failed),
            grouped(self.connects_per_second as u64),
            latency((self.connect_p50_us * 1e3) as u64),
            latency((self.connect_p99_us * 1e3) as u64),
            grouped(self.reopened),
        )?;
        let size = self
            .body_bytes
            .map(|size| format!(" of {}", bytes(size as f64)));
        writeln!(
            out,
            "requests     {} {}{} in {:.2} s: {}/s",
            grouped(self.window_answers),
            self.method,
            size.unwrap_or_default(),
            self.window_seconds,
            grouped(self.requests_per_second as u64),
        )?;
        if self.quantiles[0] > 0 {
            let each = QUANTILES.iter().zip(self.quantiles);
            let values: Vec<_> = each
                .map(|((name, _), value)| format!("{name} {}", latency(value)))
                .collect();
            writeln!(out, "latency      {}", values.join(", "))?;
        }
        if self.target_rate.is_some() {
            writeln!(
                out,
                "             of which till it was sent p50 {:.1} µs, p99 {:.1} µs",
                self.lateness_p50_us, self.lateness_p99_us
            )?;
        }
        write!(
            out,
            "checks       {} sent, {} good; {} refused, {} damaged, {} crossed, {} stale, {} cut, \
             {} unanswered",
            grouped(self.sent_total),
            grouped(self.answers_total),
            grouped(self.refused),
            grouped(self.damaged),
            grouped(self.crossed),
            grouped(self.stale),
            grouped(self.cut),
            grouped(self.unanswered),
        )?;
        self.fmt_proxy(out)?;
        for (reason, count) in self.reasons.iter() {
            write!(out, "\n             {}x {reason}", grouped(*count))?;
        }
        Ok(())
    }
}

impl Report {
    fn fmt_proxy(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let (Some(cpu), Some(user), Some(system)) = (
            self.proxy_cpu_seconds,
            self.proxy_user_seconds,
            self.proxy_system_seconds,
        ) {
            write!(
                out,
                "\nprocess      {cpu:.2} CPU s ({user:.2} user, {system:.2} system)"
            )?;
        }
        if let Some(each) = self.proxy_cpu_seconds_per_million {
            write!(out, ": {each:.2} per million requests")?;
        }
        if let Some(own) = self.proxy_bytes_per_connection {
            let own = bytes(own);
            write!(out, "\nmemory       {own} per connection in user space")?;
        }
        Ok(())
    }
}

const QUANTILES: [(&str, f64); 5] = [
    ("p50", 0.5),
    ("p90", 0.9),
    ("p99", 0.99),
    ("p99.9", 0.999),
    ("max", 1.0),
];
