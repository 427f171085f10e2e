//! What a run found out, as a table for people and as JSON for programs.

use super::tally::Tally;
use super::{Args, Plan};
use crate::process::Sample;
use crate::reasons::Reasons;
use crate::run::Measured;
use crate::units::{bytes, grouped, latency};
use crate::upgrade;
use hdrhistogram::Histogram;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;

/// The result. Every name is unique in it, at any depth but in `process`, so that even `sed`
/// can read it.
#[derive(Serialize)]
pub struct Report {
    url: String,
    mode: &'static str,
    connections: u32,
    threads: usize,
    message_bytes: usize,
    /// What a proxy that can dial again must keep of each client.
    request_head_bytes: usize,
    target_rate: Option<f64>,

    /// Whether clients speak TLS, and how many of their sessions went on from earlier ones.
    tls: bool,
    resumed: u64,

    opened: u64,
    connect_failed: u64,
    connect_seconds: f64,
    connects_per_second: f64,
    connect_p50_us: f64,
    connect_p99_us: f64,

    window_seconds: f64,
    window_echoes: u64,
    echoes_per_second: f64,
    latency_p50_us: f64,
    latency_p90_us: f64,
    latency_p99_us: f64,
    latency_p999_us: f64,
    latency_max_us: f64,
    lateness_p50_us: f64,
    lateness_p99_us: f64,

    /// Of pushes alone, till they were answered; `null` if messages were sent.
    pushes_per_second: Option<f64>,
    push_p50_us: Option<f64>,
    push_p90_us: Option<f64>,
    push_p99_us: Option<f64>,
    push_max_us: Option<f64>,
    pushes_answered: u64,
    pushes_failed: u64,

    sent_total: u64,
    echoes_total: u64,
    lost: u64,
    repeated: u64,
    disordered: u64,
    crossed: u64,
    damaged: u64,
    closed_early: u64,
    closed_badly: u64,
    closed_clean: u64,
    pings_sent: u64,
    pongs_received: u64,
    pings_answered: u64,

    proxy_cpu_seconds: Option<f64>,
    proxy_user_seconds: Option<f64>,
    proxy_system_seconds: Option<f64>,
    proxy_cpu_seconds_per_million: Option<f64>,
    /// Growth of its anonymous memory, divided by the open connections.
    proxy_bytes_per_connection: Option<f64>,
    /// The same of its proportional set size.
    proxy_pss_per_connection: Option<f64>,
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
        let pushes = plan.push.is_some();
        let cpu = measured.cpu.map(|(user, system)| user + system);
        let millions = measured.window_count as f64 / 1e6;
        let growth = |size: fn(&Sample) -> u64| {
            let (before, steady) = (measured.before.as_ref()?, measured.steady.as_ref()?);
            let connections = measured.steady_connections;
            let grown = size(steady) as f64 - size(before) as f64;
            (connections > 0).then(|| grown / connections as f64)
        };
        let samples = [
            ("before", measured.before),
            ("steady", measured.steady),
            ("after", measured.after),
        ];
        Self {
            url: args.url.clone(),
            mode: match (plan.rate, plan.idle) {
                (Some(_), _) => "rate",
                (None, true) => "idle",
                (None, false) => "closed-loop",
            },
            connections: plan.shape.total,
            threads: plan.shape.threads,
            message_bytes: plan.size,
            request_head_bytes: upgrade::request(&plan.host, &plan.path(0)).0.len(),
            target_rate: plan.rate,
            tls: plan.tls.is_some(),
            resumed: sums.resumed,
            opened: sums.opened,
            connect_failed: sums.connect_failed,
            connect_seconds: measured.connect_seconds,
            connects_per_second: sums.opened as f64 / measured.connect_seconds,
            connect_p50_us: micros(&sums.connect, 0.5),
            connect_p99_us: micros(&sums.connect, 0.99),
            window_seconds: measured.window_seconds,
            window_echoes: measured.window_count,
            echoes_per_second: measured.window_count as f64 / measured.window_seconds,
            latency_p50_us: micros(&sums.latency, 0.5),
            latency_p90_us: micros(&sums.latency, 0.9),
            latency_p99_us: micros(&sums.latency, 0.99),
            latency_p999_us: micros(&sums.latency, 0.999),
            latency_max_us: micros(&sums.latency, 1.0),
            lateness_p50_us: micros(&sums.lateness, 0.5),
            lateness_p99_us: micros(&sums.lateness, 0.99),
            pushes_per_second: pushes.then(|| sums.push.len() as f64 / measured.window_seconds),
            push_p50_us: pushes.then(|| micros(&sums.push, 0.5)),
            push_p90_us: pushes.then(|| micros(&sums.push, 0.9)),
            push_p99_us: pushes.then(|| micros(&sums.push, 0.99)),
            push_max_us: pushes.then(|| micros(&sums.push, 1.0)),
            pushes_answered: sums.pushed,
            pushes_failed: sums.push_failed,
            sent_total: sums.sent,
            echoes_total: sums.echoes,
            lost: sums.lost,
            repeated: sums.repeated,
            disordered: sums.disordered,
            crossed: sums.crossed,
            damaged: sums.damaged,
            closed_early: sums.closed_early,
            closed_badly: sums.closed_badly,
            closed_clean: sums.closed_clean,
            pings_sent: sums.pings_sent,
            pongs_received: sums.pongs,
            pings_answered: sums.pings_answered,
            proxy_cpu_seconds: cpu,
            proxy_user_seconds: measured.cpu.map(|(user, _)| user),
            proxy_system_seconds: measured.cpu.map(|(_, system)| system),
            proxy_cpu_seconds_per_million: cpu
                .filter(|_| measured.window_count > 0)
                .map(|seconds| seconds / millions),
            proxy_bytes_per_connection: growth(|sample| sample.anonymous_bytes),
            proxy_pss_per_connection: growth(|sample| sample.pss_bytes),
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

/// What makes the run a failure, in words.
fn faults(args: &Args, sums: &Tally) -> Vec<String> {
    let checks = [
        (
            sums.connect_failed,
            args.allow_connect_failures,
            "connections could not be opened",
        ),
        (
            sums.push_failed,
            false,
            "pushes were not answered with 200 ok",
        ),
        (sums.lost, args.allow_loss, "messages were lost"),
        (
            sums.repeated,
            args.allow_repeats,
            "messages came more than once",
        ),
        (
            sums.disordered,
            args.allow_disorder,
            "messages came after later ones",
        ),
        (sums.crossed, false, "messages came to another connection"),
        (sums.damaged, false, "messages came damaged"),
        (
            sums.closed_early,
            args.allow_closed,
            "connections ended early",
        ),
        (
            sums.closed_badly,
            args.allow_closed,
            "connections did not close properly",
        ),
    ];
    let failed = checks
        .into_iter()
        .filter(|(count, allowed, _)| *count > 0 && !allowed);
    failed
        .map(|(count, _, what)| format!("{} {what}", grouped(count)))
        .collect()
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            out,
            "connections  {} open, {} failed; {}/s, connect and upgrade p50 {}, p99 {}",
            grouped(self.opened),
            grouped(self.connect_failed),
            grouped(self.connects_per_second as u64),
            latency((self.connect_p50_us * 1e3) as u64),
            latency((self.connect_p99_us * 1e3) as u64),
        )?;
        writeln!(
            out,
            "echoes       {} of {} in {:.2} s: {}/s",
            grouped(self.window_echoes),
            bytes(self.message_bytes as f64),
            self.window_seconds,
            grouped(self.echoes_per_second as u64),
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
                "             of which the client's own delay p50 {:.1} µs, p99 {:.1} µs",
                self.lateness_p50_us, self.lateness_p99_us
            )?;
        }
        self.fmt_pushes(out)?;
        writeln!(
            out,
            "checks       {} sent, {} back; {} lost, {} repeated, {} out of order, {} crossed, \
             {} damaged",
            grouped(self.sent_total),
            grouped(self.echoes_total),
            grouped(self.lost),
            grouped(self.repeated),
            grouped(self.disordered),
            grouped(self.crossed),
            grouped(self.damaged),
        )?;
        write!(
            out,
            "endings      {} clean, {} early, {} unclean; pings: {} sent, {} answered by the \
             peer, {} answered by us",
            grouped(self.closed_clean),
            grouped(self.closed_early),
            grouped(self.closed_badly),
            grouped(self.pings_sent),
            grouped(self.pongs_received),
            grouped(self.pings_answered),
        )?;
        self.fmt_proxy(out)?;
        for (reason, count) in self.reasons.iter() {
            write!(out, "\n             {}x {reason}", grouped(*count))?;
        }
        Ok(())
    }
}

impl Report {
    fn fmt_pushes(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Some(rate), Some(p50), Some(p90), Some(p99), Some(max)) = (
            self.pushes_per_second,
            self.push_p50_us,
            self.push_p90_us,
            self.push_p99_us,
            self.push_max_us,
        ) else {
            return Ok(());
        };
        let shown = |micros: f64| latency((micros * 1e3) as u64);
        writeln!(
            out,
            "pushes       {}/s answered: p50 {}, p90 {}, p99 {}, max {}; {} failed",
            grouped(rate as u64),
            shown(p50),
            shown(p90),
            shown(p99),
            shown(max),
            grouped(self.pushes_failed),
        )
    }

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
            write!(out, ": {each:.2} per million echoes")?;
        }
        if let (Some(own), Some(pss)) = (
            self.proxy_bytes_per_connection,
            self.proxy_pss_per_connection,
        ) {
            let (own, pss) = (bytes(own), bytes(pss));
            write!(
                out,
                "\nmemory       {own} per connection in user space ({pss} of PSS)"
            )?;
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
