//! A disk that is full, or fails, at any one call: whoever pushes is told, nothing is half there, and the next push does not know of it.

use std::path::Path;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use gantry_registry::server::{Algorithm, Digest, Failure, Uploads, verify};
use http_body_util::Full;

use crate::client::sha256;
use crate::crash::points::{Plan, run};
use crate::crash::{CONFIG, LAYER, Registry, first, name, within};
use crate::served::files;

async fn push(registry: &Registry, content: &'static [u8]) -> Result<(), Failure> {
    let digest: Digest = sha256(content);
    let session = registry.uploads.start(&name(), Algorithm::Sha256).await?;
    let (one, other) = content.split_at(content.len() / 2);
    registry.uploads.append(&session, Full::new(Bytes::from_static(one)), None).await?;
    let keep = async |staged: &Path, size| registry.repositories.adopt_blob(&name(), &digest, staged, size).await;
    registry.uploads.finish(&session, Full::new(Bytes::from_static(other)), None, &digest, keep).await?;
    Ok(())
}

fn push_all(registry: &Registry) -> Result<(), Failure> {
    within(async {
        push(registry, LAYER).await?;
        push(registry, CONFIG).await?;
        registry.put(first(), "latest").await
    })
}

/// Pushes an image where one call fails. Returns whether there was such a call.
fn fails_at(scratch: &Path, point: usize, plan: Plan, says: (u16, &str)) -> bool {
    let root = scratch.join(point.to_string());
    let registry = Registry::open(&root);
    let seen = run(&root, plan, || push_all(&registry));
    let Some(call) = seen.hit else {
        seen.result.unwrap();
        return false;
    };
    if let Err(failure) = &seen.result {
        assert_eq!(failure.status.as_u16(), says.0, "{call}: {failure}");
        assert!(failure.message.contains(says.1), "{call}: {failure}");
    }
    assert!(files(&root.join("staging")).is_empty(), "{call} leaves {:?}", files(&root.join("staging")));
    if matches!(plan, Plan::FullAt(_)) {
        assert!(seen.result.is_err(), "{call} failed and nobody was told");
        assert!(files(&root.join("uploads")).is_empty(), "{call}: the space is not back");
    }
    // The same server goes on.
    push_all(&registry).unwrap_or_else(|failure| panic!("after {call}: {failure}"));
    let mut problems = Vec::new();
    within(verify::all(&registry.repositories, &mut |problem| problems.push(problem))).unwrap();
    assert_eq!(problems, Vec::<String>::new(), "after {call}");
    assert_eq!(files(&root.join("content")).len(), 3, "after {call}");
    // What could not even be removed goes with the uploads that nobody goes on with, or with the next server.
    drop(registry);
    let uploads = Uploads::open(root.join("uploads")).unwrap();
    within(uploads.expire(SystemTime::now() + Duration::from_secs(3600))).unwrap();
    assert!(files(&root.join("uploads")).is_empty(), "{call} leaves {:?}", files(&root.join("uploads")));
    true
}

#[test]
fn a_disk_that_is_full_at_any_call_is_told_and_what_came_gives_its_space_back() {
    let scratch = tempfile::tempdir().unwrap();
    let says = (507, "no space left on the registry's storage");
    let points = (1..).take_while(|point| fails_at(scratch.path(), *point, Plan::FullAt(*point), says)).count();
    assert!(points > 15, "{points} points");
}

#[test]
fn a_disk_that_fails_at_any_call_is_told_and_the_next_push_does_not_know_of_it() {
    let scratch = tempfile::tempdir().unwrap();
    let says = (500, "storage failed");
    let points = (1..).take_while(|point| fails_at(scratch.path(), *point, Plan::BrokenAt(*point), says)).count();
    assert!(points > 30, "{points} points");
}
