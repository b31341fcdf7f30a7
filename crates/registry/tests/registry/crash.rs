//! `kill -9`, a failing disk and a full one at every call of a pull that changes the disk (docs/decisions/011): the next pull
//! succeeds, asks only for what was not there, and leaves nothing.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use crate::fake::Fake;
use crate::image::{Image, digest};
use crate::points::{Plan, run};
use crate::store::{Request, Store};

/// What the child is told: the image's name, where the parts are, and the point to die at.
const ORDER: &str = "GANTRY_PULL_ORDER";
/// More points than a pull has.
const MANY: usize = 500;

/// A pull on a runtime of its own, whose threads are watched.
fn pull(name: &str, parts: &Path) -> Result<Arc<Store>, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let request = Request { parts: Some(parts.to_owned()), large: Some(200_000), ..Request::default() };
    let outcome = runtime.block_on(request.pull(name));
    outcome.result.map(|_| outcome.store).map_err(|error| error.to_string())
}

/// Not a test: the process that is killed.
#[test]
fn child() {
    let Ok(order) = std::env::var(ORDER) else { return };
    let order: Vec<&str> = order.split('|').collect();
    let [name, parts, point] = order[..] else { panic!("{order:?}") };
    run(Path::new(parts), Plan::KillAt(point.parse().unwrap()), || pull(name, Path::new(parts)).map(drop))
        .result
        .unwrap();
}

/// Whether it was killed.
fn dies(name: &str, parts: &Path, point: usize) -> bool {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash::child", "--nocapture", "--test-threads=1"])
        .env(ORDER, format!("{name}|{}|{point}", parts.display()))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let killed = String::from_utf8_lossy(&output.stdout).contains("killed at ");
    assert!(killed || output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    killed
}

/// Bytes of segments that are there.
fn kept(parts: &Path) -> usize {
    let list = |path: &Path| std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    let are_parts = |path: &std::path::PathBuf| !path.file_name().unwrap().to_string_lossy().starts_with("gone-");
    let segments = list(parts).into_iter().filter(are_parts).flat_map(|part| list(&part));
    segments.map(|segment| usize::try_from(segment.metadata().unwrap().len()).unwrap()).sum()
}

/// Pulls after something went wrong; says what is not as it should be.
async fn heals(fake: &Fake, image: &Image, parts: &Path) -> Result<(), String> {
    let (there, before) = (kept(parts), fake.seen().len());
    let request = Request { parts: Some(parts.to_owned()), large: Some(200_000), ..Request::default() };
    let registry = request.registry();
    let outcome = request.pull(&fake.name("app:1")).await;
    outcome.result.as_ref().map_err(|error| format!("the next pull: {error}"))?;
    let layer = &image.layers[0];
    if outcome.store.layers.lock().unwrap()[&digest(layer)] != *layer {
        return Err("other bytes".to_owned());
    }
    let path = image.blob_path("app", 0);
    let asked: usize = fake.seen()[before..]
        .iter()
        .filter(|seen| seen.path == path)
        .map(|seen| asked(seen.header("range"), layer.len()))
        .sum();
    if asked != layer.len() - there {
        return Err(format!("{there} bytes were there, and {asked} of {} were asked for", layer.len()));
    }
    registry.sweep_downloads().unwrap();
    match std::fs::read_dir(parts).unwrap().count() {
        0 => Ok(()),
        left => Err(format!("{left} left")),
    }
}

/// How many bytes a range has.
fn asked(range: Option<&str>, size: usize) -> usize {
    let Some((from, to)) = range.and_then(|range| range.strip_prefix("bytes=")?.split_once('-')) else { return size };
    to.parse::<usize>().map_or(size, |last| last + 1) - from.parse::<usize>().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_every_point_nothing_is_fetched_twice_and_nothing_is_left() {
    let (fake, image) = (Fake::start().await, Image::oci(1));
    fake.image("app", "1", &image);
    let name = fake.name("app:1");
    let mut points = 0;
    for point in 1..MANY {
        let parts = tempfile::tempdir().unwrap();
        let (name, root) = (name.clone(), parts.path().to_owned());
        if !tokio::task::spawn_blocking(move || dies(&name, &root, point)).await.unwrap() {
            break;
        }
        heals(&fake, &image, parts.path()).await.unwrap_or_else(|wrong| panic!("killed at point {point}: {wrong}"));
        points = point;
    }
    assert!((10..MANY - 1).contains(&points), "{points}");
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_at_every_point_the_pull_says_so_or_succeeds_and_the_next_one_heals() {
    let (fake, image) = (Fake::start().await, Image::oci(1));
    fake.image("app", "1", &image);
    for plan in [Plan::BrokenAt as fn(usize) -> Plan, Plan::FullAt, Plan::FullFrom] {
        let mut points = 0;
        for point in 1..MANY {
            let parts = tempfile::tempdir().unwrap();
            let (name, root, plan) = (fake.name("app:1"), parts.path().to_owned(), plan(point));
            let seen = tokio::task::spawn_blocking(move || run(&root, plan, || pull(&name, &root))).await.unwrap();
            let Some(hit) = seen.hit else {
                seen.result.unwrap();
                break;
            };
            if let Err(error) = seen.result {
                let is_told = ["Input/output error", "No space left on device"].iter().any(|text| error.contains(text));
                assert!(is_told, "{plan:?} ({hit}): {error}");
            }
            heals(&fake, &image, parts.path()).await.unwrap_or_else(|wrong| panic!("{plan:?} ({hit}): {wrong}"));
            points = point;
        }
        assert!((5..MANY - 1).contains(&points), "{points}");
    }
}
