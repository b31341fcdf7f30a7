//! `kill -9` at every point of every operation: the next start finds everything whole, and removes what was begun.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::check::Golden;
use crate::operations::{names, starts, steps};
use crate::points::{Plan, run};
use crate::{Losses, attempt, common, copy};

/// What the child is told: driver, operation, data root, inputs, and the point to die at (0 for none).
const ORDER: &str = "GANTRY_CRASH_ORDER";

/// Not a test: the process that is killed.
#[test]
fn child() {
    let Ok(order) = std::env::var(ORDER) else { return };
    let order: Vec<&str> = order.split('|').collect();
    let [driver, operation, root, inputs, point] = order[..] else { panic!("{order:?}") };
    let root = PathBuf::from(root);
    let plan = match point.parse().unwrap() {
        0 => Plan::Count,
        point => Plan::KillAt(point),
    };
    let steps = steps(operation, Path::new(inputs));
    let work = |graph: &gantry_graph::Graph| {
        for step in &steps {
            step(graph).unwrap();
            println!("\ndone");
        }
    };
    let seen = if starts(operation) {
        run(&root, plan, || work(&common::open(&root, driver)))
    } else {
        let graph = common::open(&root, driver);
        run(&root, plan, || work(&graph))
    };
    println!("\npoints {}", seen.points);
}

/// What a child said: steps that were done, points, and where it was killed.
struct Said {
    done: usize,
    points: Option<usize>,
    killed: String,
}

fn spawn(golden: &Golden, root: &Path, point: usize) -> Result<Said, String> {
    let order =
        format!("{}|{}|{}|{}|{point}", golden.driver, golden.operation, root.display(), golden.inputs.display());
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "kill::child", "--nocapture", "--test-threads=1"])
        .env(ORDER, order)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let points = text.lines().find_map(|line| line.strip_prefix("points ")?.parse().ok());
    let killed = text.lines().find_map(|line| line.strip_prefix("killed at ")).unwrap_or("").to_owned();
    if points.is_none() && killed.is_empty() {
        return Err(format!("the child ended by itself: {text}{}", String::from_utf8_lossy(&output.stderr)));
    }
    Ok(Said { done: text.lines().filter(|line| *line == "done").count(), points, killed })
}

fn matrix(scratch: &Path, driver: &'static str) {
    let losses = Losses::default();
    for operation in names(driver) {
        let golden = Golden::new(scratch, driver, operation);
        let root = attempt(&golden, scratch, "count");
        let points = spawn(&golden, &root, 0).unwrap().points.expect("it was not killed");
        copy::remove(&root, driver);
        losses.at_each(operation, points, &|point| {
            let root = attempt(&golden, scratch, &point.to_string());
            let said = spawn(&golden, &root, point)?;
            let looked = look(&golden, &root, &said)
                .map_err(|problem| format!("{problem} ({})", said.killed).replace(&*root.to_string_lossy(), ""));
            copy::remove(&root, driver);
            looked
        });
        println!("crash matrix: {driver}: {operation} killed at {points} points");
    }
    losses.expect_none();
}

/// As the daemon's next start does.
fn look(golden: &Golden, root: &Path, said: &Said) -> Result<(), String> {
    let graph = common::open(root, golden.driver);
    graph.sweep().map_err(|error| format!("sweep: {error}"))?;
    golden.check(root, &graph, said.done, true)?;
    golden.again(root, &graph, &steps(golden.operation, &golden.inputs))
}

#[test]
fn killed_at_every_point_on_overlay_everything_is_whole_and_nothing_is_left() {
    matrix(&copy::scratch("kill"), "overlay");
}

#[test]
fn killed_at_every_point_on_vfs_everything_is_whole_and_nothing_is_left() {
    matrix(&copy::scratch("kill"), "vfs");
}

#[test]
fn killed_at_every_point_on_btrfs_everything_is_whole_and_nothing_is_left() {
    matrix(&copy::btrfs(&copy::scratch("kill")), "btrfs");
}
