//! A full disk (`ENOSPC`) and a broken one (`EIO`) at every call that changes it: the operation says what failed and on
//! what, and leaves nothing; or it succeeds, where the call was none that matters.

use std::path::Path;

use crate::check::Golden;
use crate::operations::{Step, failing, steps};
use crate::points::{Plan, run};
use crate::{Losses, attempt, common, copy};

type Kind = (&'static str, fn(usize) -> Plan, &'static [&'static str]);

/// How calls fail, and what is said then: the kernel's words, or SQLite's.
const KINDS: [Kind; 3] = [
    ("broken", Plan::BrokenAt, &["Input/output error", "disk I/O error", "unable to open database file"]),
    ("full", Plan::FullAt, &["No space left on device", "database or disk is full", "unable to open database file"]),
    ("full from then on", Plan::FullFrom, &["No space left on device", "database or disk is full", "disk I/O error"]),
];

/// The steps, up to the first that fails; how many were done.
fn try_all(steps: &[Step], graph: &gantry_graph::Graph) -> (usize, Result<(), String>) {
    for (done, step) in steps.iter().enumerate() {
        if let Err(error) = step(graph) {
            return (done, Err(error.to_string()));
        }
    }
    (steps.len(), Ok(()))
}

fn matrix(scratch: &Path, driver: &'static str) {
    let losses = Losses::default();
    for operation in failing(driver) {
        let golden = Golden::new(scratch, driver, operation);
        let steps = steps(operation, &golden.inputs);
        // One call that fails for once is no other than one of many, for all that the driver does.
        for (kind, plan, words) in KINDS.into_iter().filter(|(kind, ..)| driver == "overlay" || *kind != "full") {
            let root = attempt(&golden, scratch, "count");
            let graph = common::open(&root, driver);
            let points = run(&root, plan(usize::MAX), || try_all(&steps, &graph)).points;
            drop(graph);
            copy::remove(&root, driver);
            losses.at_each(&format!("{operation}, {kind}"), points, &|point| {
                let root = attempt(&golden, scratch, &format!("{}-{point}", kind.len()));
                let looked = fail(&golden, &root, &steps, plan(point), words);
                copy::remove(&root, driver);
                looked.map_err(|problem| problem.replace(&*root.to_string_lossy(), ""))
            });
            println!("crash matrix: {driver}: {operation}, disk {kind} at {points} points");
        }
    }
    losses.expect_none();
}

fn fail(golden: &Golden, root: &Path, steps: &[Step], plan: Plan, words: &[&str]) -> Result<(), String> {
    let graph = common::open(root, golden.driver);
    let seen = run(root, plan, || try_all(steps, &graph));
    let hit = seen.hit.unwrap_or_else(|| "nothing".to_owned());
    let (done, result) = seen.result;
    let look = || {
        if let Err(error) = &result
            && !(words.iter().any(|word| error.contains(word)) && error.contains(&*root.to_string_lossy()))
        {
            return Err(format!("the error does not say what and on what: {error}"));
        }
        let context = |problem| format!("{problem}, after {result:?}");
        graph.sweep().map_err(|error| context(format!("sweep: {error}")))?;
        let found = golden.check(root, &graph, done, false).map_err(context)?;
        // The next start sees the same.
        drop(graph);
        let graph = copy::reopen(root, golden.driver);
        graph.sweep().map_err(|error| context(format!("sweep after a start: {error}")))?;
        let again =
            golden.check(root, &graph, done, true).map_err(|problem| context(format!("after a start: {problem}")))?;
        if again != found {
            return Err(context(format!("{found} steps were there, after the next start {again}")));
        }
        golden.again(root, &graph, steps).map_err(context)
    };
    look().map_err(|problem| format!("{problem} ({hit})"))
}

#[test]
fn a_full_or_broken_disk_at_every_point_leaves_nothing_on_overlay() {
    matrix(&copy::scratch("fail"), "overlay");
}

#[test]
fn a_full_or_broken_disk_at_every_point_leaves_nothing_on_vfs() {
    matrix(&copy::scratch("fail"), "vfs");
}

#[test]
fn a_full_or_broken_disk_at_every_point_leaves_nothing_on_btrfs() {
    matrix(&copy::btrfs(&copy::scratch("fail")), "btrfs");
}

#[test]
fn what_a_full_disk_has_no_room_to_move_keeps_no_daemon_from_starting_and_goes_where_it_lies() {
    let scratch = copy::scratch("fail");
    let golden = Golden::new(&scratch, "overlay", "start");
    let root = attempt(&golden, &scratch, "moves");
    assert!(std::fs::read_dir(root.join("overlay/drafts")).unwrap().next().is_some(), "nothing is to be discarded");
    let start = || {
        let graph = common::open(&root, "overlay");
        graph.sweep().unwrap();
        graph
    };
    let seen = run(&root, Plan::FullForMoves, start);
    assert!(seen.hit.is_some());
    golden.check(&root, &seen.result, 0, true).unwrap();
}
