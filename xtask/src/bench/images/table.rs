//! The tables of `bench images`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use super::stack::Stack;
use crate::bench::measure::{Results, median};
use crate::bench::report::{mebibytes, medians, millis, ratio};

/// What is told in tables of its own.
#[derive(Debug, Default)]
pub struct Beside {
    /// The largest resident set of the daemons.
    pub peak: Option<u64>,
    /// Until what was written is on the disk, of each round.
    pub on_disk: Vec<Duration>,
}

/// By row and stack.
pub type Besides = BTreeMap<(usize, usize), Beside>;

/// Medians, wall / CPU in milliseconds, and ratios to ours; the time until the disk has it; the memory of daemons.
pub fn table(
    stacks: &[Stack],
    results: &Results,
    besides: &Besides,
    skipped: &[String],
    sizes: &[String],
    rounds: usize,
    build: &str,
) -> String {
    let rows = |of: &dyn Fn(usize, &str) -> Option<Vec<String>>| -> Vec<Vec<String>> {
        results.0.iter().filter_map(|(row, (name, _))| of(*row, name)).collect()
    };
    let cells = |name: &str, of: &dyn Fn(usize) -> String, against: &dyn Fn(usize) -> String| {
        let values = (0..stacks.len()).map(of).chain((1..stacks.len()).map(against));
        Some(std::iter::once(name.to_owned()).chain(values).collect::<Vec<_>>())
    };
    let costs = rows(&|row, name| {
        let cost = |stack: usize| results.0.get(&row)?.1.get(&stack).map(|costs| medians(costs));
        let times = |(wall, cpu)| format!("{} / {}", millis(wall), millis(cpu));
        cells(name, &|stack| or_none(cost(stack).map(times)), &|stack| {
            let ratios = |(ours, theirs): ((Duration, Duration), (Duration, Duration))| {
                format!("{} / {}", ratio(theirs.0, ours.0), ratio(theirs.1, ours.1))
            };
            or_none(cost(0).zip(cost(stack)).map(ratios))
        })
    });
    let on_disk = rows(&|row, name| {
        let time = |stack: usize| {
            let times = &besides.get(&(row, stack))?.on_disk;
            (!times.is_empty()).then(|| median(times.clone()))
        };
        time(0)?;
        cells(name, &|stack| or_none(time(stack).map(millis)), &|stack| {
            or_none(time(0).zip(time(stack)).map(|(ours, theirs)| ratio(theirs, ours)))
        })
    });
    let daemons: Vec<usize> = (0..stacks.len())
        .filter(|stack| besides.iter().any(|((_, of), beside)| of == stack && beside.peak.is_some()))
        .collect();
    let peaks = rows(&|row, name| {
        let peak = |stack: &usize| or_none(besides.get(&(row, *stack)).and_then(|beside| beside.peak).map(mebibytes));
        Some(std::iter::once(name.to_owned()).chain(daemons.iter().map(peak)).collect())
    });
    let names = || stacks.iter().map(|stack| stack.name().to_owned());
    let with_ratios = || names().chain(names().skip(1).map(|name| format!("{name} ÷ Gantry"))).collect();
    let of_daemons = daemons.iter().map(|stack| stacks[*stack].name().to_owned()).collect();
    let mut text = String::new();
    for (title, columns, rows) in [
        ("wall / CPU ms", with_ratios(), costs),
        ("wall ms until it is on the disk", with_ratios(), on_disk),
        ("peak RSS of the daemons", of_daemons, peaks),
    ] {
        lines(&mut text, title, columns, rows);
    }
    text.push_str(&ending(stacks, skipped, sizes, rounds, build));
    text
}

fn or_none(cell: Option<String>) -> String {
    cell.unwrap_or_else(|| "–".to_owned())
}

/// One table, and an empty line.
fn lines(text: &mut String, title: &str, columns: Vec<String>, rows: Vec<Vec<String>>) {
    let rule = vec!["---".to_owned(); columns.len() + 1];
    let head = std::iter::once(title.to_owned()).chain(columns).collect();
    for cells in [head, rule].into_iter().chain(rows) {
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    }
    text.push('\n');
}

/// What was measured, where.
fn ending(stacks: &[Stack], skipped: &[String], sizes: &[String], rounds: usize, build: &str) -> String {
    let versions: Vec<&str> = stacks.iter().map(Stack::version).collect();
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let skipped = if skipped.is_empty() { String::new() } else { format!(" Skipped: {}.", skipped.join("; ")) };
    format!(
        "Medians of {rounds} interleaved rounds on one loop ext4, build: {build}. {}. {}; Linux {}, {cores} cores, load {} at \
         the end.{skipped}\n",
        sizes.join("; "),
        versions.join("; "),
        read("/proc/sys/kernel/osrelease"),
        read("/proc/loadavg").split(' ').next().unwrap_or_default(),
    )
}
