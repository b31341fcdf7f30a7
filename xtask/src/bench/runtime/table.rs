//! The tables: a row for each operation and measure, a column for each runtime.

use std::fmt::Write;
use std::time::Duration;

use super::life::OPERATIONS;
use super::meter::Figures;
use super::peers::Peer;
use super::{Results, fact, heads};

/// How a measure is called, taken from the figures, and written.
type Measure = (&'static str, fn(&Figures) -> Option<f64>, fn(f64) -> String);

const MEASURES: [Measure; 5] = [
    ("wall, ms", |figures| milliseconds(&figures.wall), short),
    ("CPU, ms", |figures| milliseconds(&figures.cpu), short),
    ("peak RSS, MiB", |figures| median(&figures.memory).map(|bytes| bytes as f64 / 1_048_576.0), short),
    ("system calls", |figures| median(&figures.calls).map(|calls| calls as f64), whole),
    ("processes", |figures| median(&figures.processes).map(|processes| processes as f64), whole),
];

/// One table a bundle, medians; beside each peer's value how many times ours it is.
pub fn table(peers: &[Peer], results: &Results, skipped: &[String], rounds: usize, build: &str) -> String {
    let mut text = String::new();
    let mut above = Vec::new();
    for (bundle, head) in heads().iter().enumerate() {
        let _ = write!(text, "**{head}**\n\n| | {} |\n", names(peers).join(" | "));
        let _ = writeln!(text, "| --- |{}", " ---: |".repeat(peers.len()));
        for (operation, name) in OPERATIONS.iter().enumerate() {
            for (measure, take, write) in MEASURES {
                let value = |peer: usize| results.get(&(bundle, operation, peer)).and_then(take);
                let ours = value(0);
                let cells: Vec<String> = (0..peers.len()).map(|peer| cell(ours, value(peer), peer, write)).collect();
                let _ = writeln!(text, "| `{name}`: {measure} | {} |", cells.join(" | "));
                let least = (1..peers.len()).filter_map(|peer| value(peer).map(|value| (value, peer)));
                let least = least.min_by(|a, b| a.0.total_cmp(&b.0));
                if let (Some(ours), Some((theirs, peer))) = (ours, least)
                    && ours > theirs
                {
                    above.push(format!("`{name}` {measure} ({}, {})", heads_word(bundle), peers[peer].name));
                }
            }
        }
        text.push('\n');
    }
    let verdict = if above.is_empty() { "nowhere".to_owned() } else { above.join("; ") };
    let _ = writeln!(text, "Gantry is above the best of the others: {verdict}.\n");
    text.push_str(&facts(peers, skipped, rounds, build));
    text
}

fn names(peers: &[Peer]) -> Vec<&str> {
    peers.iter().map(|peer| peer.name.as_str()).collect()
}

fn heads_word(bundle: usize) -> &'static str {
    super::BUNDLES[bundle].0
}

fn cell(ours: Option<f64>, value: Option<f64>, peer: usize, write: fn(f64) -> String) -> String {
    match (ours, value) {
        (_, None) => "–".to_owned(),
        (Some(ours), Some(value)) if peer > 0 && ours > 0.0 => format!("{} ({:.2}×)", write(value), value / ours),
        (_, Some(value)) => write(value),
    }
}

fn facts(peers: &[Peer], skipped: &[String], rounds: usize, build: &str) -> String {
    let versions: Vec<&str> = peers.iter().map(|peer| peer.version.as_str()).collect();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let model = fact("/proc/cpuinfo");
    let model = model.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown");
    let hung: String = peers
        .iter()
        .filter(|peer| peer.hung.get() > 0)
        .map(|peer| format!(" {} hung {} times, and was killed and asked again.", peer.name, peer.hung.get()))
        .collect();
    let skipped = if skipped.is_empty() { String::new() } else { format!(" Left out: {}.", skipped.join("; ")) };
    format!(
        "Medians of {rounds} interleaved rounds, build: {build}. {}; Linux {}, {cores} cores ({}), load {} at the end.{hung}{skipped}\n",
        versions.join("; "),
        fact("/proc/sys/kernel/osrelease"),
        model.trim_start_matches([' ', '\t', ':']),
        fact("/proc/loadavg").split(' ').next().unwrap_or("?"),
    )
}

fn milliseconds(times: &[Duration]) -> Option<f64> {
    median(times).map(|time| time.as_secs_f64() * 1000.0)
}

fn median<T: Ord + Copy>(values: &[T]) -> Option<T> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied()
}

fn short(value: f64) -> String {
    if value < 10.0 { format!("{value:.2}") } else { format!("{value:.1}") }
}

fn whole(value: f64) -> String {
    format!("{value:.0}")
}
