//! Images are never half there: killed, failed and cut at every point where the disk changes (docs/decisions/011).
#![allow(clippy::disallowed_methods, reason = "the tests look at the files as they are")]
#![allow(clippy::print_stdout, reason = "the numbers are what is wanted of them, and how a child reports")]
#![allow(missing_docs, reason = "tests")]

mod check;
#[path = "../common/mod.rs"]
mod common;
mod copy;
mod disk;
mod fail;
mod full;
mod kill;
mod operations;
mod points;
mod power;
mod race;
mod writeback;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What went wrong, and how often; empty is good.
#[derive(Debug, Default)]
struct Losses(Mutex<BTreeMap<String, (String, Vec<usize>)>>);

impl Losses {
    /// Calls `each` with 1 to `last`, several at once, and keeps what they say.
    fn at_each(&self, what: &str, last: usize, each: &(dyn Fn(usize) -> Result<(), String> + Sync)) {
        let next = AtomicUsize::new(1);
        let work = || loop {
            let point = next.fetch_add(1, Ordering::Relaxed);
            if point > last {
                return;
            }
            if let Err(loss) = each(point) {
                self.note(what, loss, point);
            }
        };
        let threads = std::thread::available_parallelism().map_or(2, usize::from);
        std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    }

    /// One example of each loss is enough: the last words say where.
    fn note(&self, what: &str, loss: String, point: usize) {
        let kind = loss.rsplit_once(" (").map_or(&*loss, |(kind, _)| kind).to_owned();
        let mut losses = self.0.lock().unwrap();
        losses.entry(format!("{what}: {kind}")).or_insert_with(|| (loss, Vec::new())).1.push(point);
    }

    fn expect_none(self) {
        let losses = self.0.into_inner().unwrap();
        let shown: Vec<_> = losses
            .iter()
            .map(|(kind, (loss, points))| {
                let operation = kind.split(':').next().unwrap_or_default();
                format!("{operation}: {loss} at points {points:?}")
            })
            .collect();
        assert!(losses.is_empty(), "{} kinds of losses:\n{}", losses.len(), shown.join("\n"));
    }
}

/// A store's own copy to do an attempt in.
fn attempt(golden: &check::Golden, scratch: &Path, name: &str) -> std::path::PathBuf {
    let root = scratch.join(format!("{}-{}-{name}", golden.driver, golden.operation));
    copy::store(&golden.start, &root, golden.driver);
    root
}
