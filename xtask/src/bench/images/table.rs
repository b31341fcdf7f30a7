//! The table of `bench images`.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::stack::Stack;
use crate::bench::measure::Results;
use crate::bench::report::{mebibytes, medians, millis, ratio};

/// The largest resident set of the daemons, by row and stack.
pub type Peaks = BTreeMap<(usize, usize), u64>;

/// Medians, wall / CPU in milliseconds, ratios to ours, and the memory of daemons.
pub fn table(
    stacks: &[Stack],
    results: &Results,
    peaks: &Peaks,
    skipped: &[String],
    sizes: &[String],
    rounds: usize,
    build: &str,
) -> String {
    let mut text = String::new();
    let mut line = |cells: Vec<String>| writeln!(text, "| {} |", cells.join(" | ")).unwrap_or_default();
    let names = || stacks.iter().map(|stack| stack.name().to_owned());
    let ratios = || stacks.iter().skip(1).map(|stack| format!("{} ÷ Gantry", stack.name()));
    let head: Vec<String> = std::iter::once("wall / CPU ms".to_owned()).chain(names()).chain(ratios()).collect();
    let rule = vec!["---".to_owned(); head.len()];
    line(head);
    line(rule);
    for (name, row) in results.0.values() {
        let cost = |stack: usize| row.get(&stack).map(|costs| medians(costs));
        let mut cells = vec![name.clone()];
        let times = |(wall, cpu)| format!("{} / {}", millis(wall), millis(cpu));
        cells.extend((0..stacks.len()).map(|stack| cost(stack).map_or("–".to_owned(), times)));
        cells.extend((1..stacks.len()).map(|stack| match (cost(0), cost(stack)) {
            (Some(ours), Some(theirs)) => format!("{} / {}", ratio(theirs.0, ours.0), ratio(theirs.1, ours.1)),
            _ => "–".to_owned(),
        }));
        line(cells);
    }
    let measured: Vec<usize> =
        (0..stacks.len()).filter(|stack| peaks.keys().any(|(_, known)| known == stack)).collect();
    text.push('\n');
    let mut line = |cells: Vec<String>| writeln!(text, "| {} |", cells.join(" | ")).unwrap_or_default();
    let daemons = measured.iter().map(|stack| stacks[*stack].name().to_owned());
    line(std::iter::once("peak RSS of the daemons".to_owned()).chain(daemons).collect());
    line(vec!["---".to_owned(); measured.len() + 1]);
    for (row, (name, _)) in &results.0 {
        let of = |stack: &usize| peaks.get(&(*row, *stack)).map_or("–".to_owned(), |bytes| mebibytes(*bytes));
        line(std::iter::once(name.clone()).chain(measured.iter().map(of)).collect());
    }
    let versions: Vec<&str> = stacks.iter().take(stacks.len() - 1).map(Stack::version).collect();
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let skipped = if skipped.is_empty() { String::new() } else { format!(" Skipped: {}.", skipped.join("; ")) };
    let _ = write!(
        text,
        "\nMedians of {rounds} interleaved rounds on one loop ext4, build: {build}. {}. {}; Linux {}, {cores} cores, load {} at \
         the end.{skipped}\n",
        sizes.join("; "),
        versions.join("; "),
        read("/proc/sys/kernel/osrelease"),
        read("/proc/loadavg").split(' ').next().unwrap_or_default(),
    );
    text
}
