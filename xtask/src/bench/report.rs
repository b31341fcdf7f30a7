//! The Markdown table of a benchmark, and its place in docs/benchmarks.md.

use std::fmt::Write;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

use super::measure::{Cost, Results, median};
use super::start::Stack;
use crate::build;

/// Medians, wall / CPU in milliseconds, and how many times less ours takes than each peer.
pub fn table(stacks: &[Stack], results: &Results, rounds: usize, build: &str) -> String {
    let mut text = String::new();
    let mut line = |cells: &[String]| writeln!(text, "| {} |", cells.join(" | ")).unwrap_or_default();
    let mut head = vec!["wall / CPU ms".to_owned()];
    head.extend(stacks.iter().map(|stack| stack.name.clone()));
    head.extend(stacks.iter().skip(1).map(|stack| format!("{} ÷ Gantry", stack.name)));
    line(&head);
    line(&vec!["---".to_owned(); head.len()]);
    for (name, row) in results.0.values() {
        let cost = |stack: usize| row.get(&stack).map(|costs| medians(costs));
        let mut cells = vec![name.clone()];
        cells.extend((0..stacks.len()).map(|stack| {
            cost(stack).map_or("–".to_owned(), |(wall, cpu)| format!("{} / {}", millis(wall), millis(cpu)))
        }));
        cells.extend((1..stacks.len()).map(|stack| match (cost(0), cost(stack)) {
            (Some(ours), Some(theirs)) => format!("{} / {}", ratio(theirs.0, ours.0), ratio(theirs.1, ours.1)),
            _ => "–".to_owned(),
        }));
        line(&cells);
    }
    for (name, of) in [
        ("PSS per container, outside of it", (|stack| stack.per_container) as fn(&Stack) -> Option<u64>),
        ("PSS of the idle daemon", |stack| stack.idle),
    ] {
        let mut cells = vec![name.to_owned()];
        cells.extend(stacks.iter().map(|stack| of(stack).map_or("–".to_owned(), mebibytes)));
        cells.extend(stacks.iter().skip(1).map(|stack| match (of(&stacks[0]), of(stack)) {
            (Some(ours), Some(theirs)) if ours > 0 => format!("{:.1}", theirs as f64 / ours as f64),
            _ => "–".to_owned(),
        }));
        line(&cells);
    }
    let versions: Vec<&str> = stacks.iter().map(|stack| stack.version.as_str()).collect();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let _ = write!(
        text,
        "\nMedians of {rounds} interleaved rounds (one of the rows with 100), build: {build}. {}; Linux {}, {cores} cores.\n",
        versions.join("; "),
        kernel.trim()
    );
    text
}

pub fn medians(costs: &[Cost]) -> (Duration, Duration) {
    let of = |part: fn(&Cost) -> Duration| median(costs.iter().map(part).collect());
    (of(|cost| cost.wall), of(|cost| cost.cpu))
}

/// Replaces a section in docs/benchmarks.md.
pub fn write(section: &str, table: &str) -> Result<()> {
    let (begin, end) = (format!("<!-- {section}: begin -->"), format!("<!-- {section}: end -->"));
    let path = build::root().join("docs/benchmarks.md");
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let (head, rest) = text.split_once(&begin).context("docs/benchmarks.md has lost its marks")?;
    let (_, tail) = rest.split_once(&end).context("docs/benchmarks.md has lost its marks")?;
    let whole = format!("{head}{begin}\n{table}{end}{tail}");
    fs::write(&path, whole).with_context(|| format!("write {}", path.display()))
}

pub fn millis(time: Duration) -> String {
    let millis = time.as_secs_f64() * 1000.0;
    if millis < 20.0 { format!("{millis:.1}") } else { format!("{millis:.0}") }
}

pub fn mebibytes(bytes: u64) -> String {
    format!("{:.2} MiB", bytes as f64 / 1_048_576.0)
}

pub fn ratio(theirs: Duration, ours: Duration) -> String {
    if ours.is_zero() {
        return "–".to_owned();
    }
    format!("{:.1}", theirs.as_secs_f64() / ours.as_secs_f64())
}
