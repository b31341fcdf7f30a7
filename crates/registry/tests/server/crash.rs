//! `kill -9` at every call that changes the directory: what was acknowledged is there, nothing is half there, and all can be done
//! again. The points are the graph's.
#![allow(clippy::print_stdout, reason = "how a child reports")]

#[allow(dead_code, reason = "the graph's tests need more of it")]
#[path = "../../../graph/tests/crash/points.rs"]
pub mod points;

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use gantry_registry::server::gc::{Collector, Policy};
use gantry_registry::server::{
    Algorithm, Digest, Document, Failure, Manifest, Name, Repositories, Root, Tag, Target, Uploads, verify,
};
use http_body_util::Full;
use serde_json::json;

use crate::client::{OCI_MANIFEST, image, sha256};
use crate::served::files;
use points::{Plan, run};

/// What the child is told: the directory, and the point to die at (0 for none).
const ORDER: &str = "GANTRY_REGISTRY_CRASH";
const STEPS: usize = 6;
pub const LAYER: &[u8] = b"a layer";
pub const CONFIG: &[u8] = b"{}";

pub fn name() -> Name {
    "team/app".parse().unwrap()
}

pub fn first() -> Vec<u8> {
    image(CONFIG, &[LAYER]).to_string().into_bytes()
}

/// About the first one, so that there are referrers.
fn second() -> Vec<u8> {
    let mut second = image(CONFIG, &[]);
    second["subject"] = json!({ "mediaType": OCI_MANIFEST, "digest": sha256(&first()), "size": first().len() });
    second.to_string().into_bytes()
}

pub struct Registry {
    pub repositories: Repositories,
    pub uploads: Uploads,
    _lock: gantry_linux::lock::Lock,
}

impl Registry {
    pub fn open(root: &Path) -> Self {
        let root = Root::open(root).unwrap();
        Self { repositories: Repositories::new(root.storage), uploads: root.uploads, _lock: root.lock }
    }

    async fn push(&self, content: &'static [u8]) {
        let digest = sha256(content);
        let session = self.uploads.start(&name(), Algorithm::Sha256).await.unwrap();
        let (one, other) = content.split_at(content.len() / 2);
        self.uploads.append(&session, Full::new(Bytes::from_static(one)), None).await.unwrap();
        let keep = async |staged: &Path, size| self.repositories.adopt_blob(&name(), &digest, staged, size).await;
        self.uploads.finish(&session, Full::new(Bytes::from_static(other)), None, &digest, keep).await.unwrap();
    }

    pub async fn put(&self, bytes: Vec<u8>, tag: &str) -> Result<(), Failure> {
        let document = Document::read(&bytes, None).unwrap();
        assert!(self.repositories.missing(&name(), &document).await?.is_empty());
        let manifest =
            Manifest { digest: sha256(&bytes), media_type: document.media_type.clone(), bytes: bytes.into() };
        let tag: Tag = tag.parse().unwrap();
        self.repositories.put_manifest(&name(), &manifest, &document, &[tag]).await
    }

    async fn collect(&self) {
        let later = || SystemTime::now() + Duration::from_secs(30 * 86400);
        let collector = Collector {
            repositories: &self.repositories,
            uploads: Some(&self.uploads),
            policy: &Policy::default(),
            dry: false,
            tell: &mut |_| {},
            now: &later,
        };
        assert_eq!(collector.run().await.unwrap().left_alone, []);
    }

    async fn step(&self, step: usize) {
        match step {
            0 => self.push(LAYER).await,
            1 => self.push(CONFIG).await,
            2 => self.put(first(), "latest").await.unwrap(),
            3 => self.put(second(), "latest").await.unwrap(),
            4 => drop(self.repositories.delete_manifest(&name(), &sha256(&first())).await.unwrap()),
            _ => self.collect().await,
        }
    }

    async fn has(&self, target: &str) -> Option<Digest> {
        let target: Target = target.parse().unwrap();
        self.repositories.manifest(&name(), &target).await.unwrap().map(|manifest| manifest.digest)
    }

    /// What so many steps have acknowledged; the next one may have been done or not.
    async fn check(&self, done: usize) {
        let mut problems = Vec::new();
        verify::all(&self.repositories, &mut |problem| problems.push(problem)).await.unwrap();
        assert_eq!(problems, Vec::<String>::new());
        let layer = self.repositories.blob(&name(), &sha256(LAYER)).await.unwrap().is_some();
        assert!(layer || done == 0 || done >= STEPS - 1, "the layer is lost");
        assert!(done < 2 || self.repositories.blob(&name(), &sha256(CONFIG)).await.unwrap().is_some());
        let latest = self.has("latest").await;
        match done {
            0 | 1 => assert_eq!(latest, None),
            2 => assert!(latest.is_none_or(|latest| latest == sha256(&first()))),
            3 => assert!([sha256(&first()), sha256(&second())].contains(&latest.unwrap())),
            _ => assert_eq!(latest, Some(sha256(&second()))),
        }
        assert!(done < 5 || self.has(sha256(&first()).as_str()).await.is_none(), "what was deleted is there");
    }
}

pub fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

/// Not a test: the process that is killed.
#[test]
fn child() {
    let Ok(order) = std::env::var(ORDER) else { return };
    let (root, point) = order.rsplit_once('|').unwrap();
    let plan = match point.parse().unwrap() {
        0 => Plan::Count,
        point => Plan::KillAt(point),
    };
    let work = || {
        within(async {
            let registry = Registry::open(root.as_ref());
            for step in 0..STEPS {
                registry.step(step).await;
                println!("\ndone");
            }
        });
    };
    println!("\npoints {}", run(root.as_ref(), plan, work).points);
}

/// Steps that were done, and points when it was not killed.
fn spawn(root: &Path, point: usize) -> (usize, Option<usize>) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash::child", "--nocapture", "--test-threads=1"])
        .env(ORDER, format!("{}|{point}", root.display()))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let points = text.lines().find_map(|line| line.strip_prefix("points ")?.parse().ok());
    let killed = text.lines().any(|line| line.starts_with("killed at "));
    assert!(killed || points.is_some(), "the child ended by itself: {text}{}", String::from_utf8_lossy(&output.stderr));
    (text.lines().filter(|line| *line == "done").count(), points)
}

fn at_point(scratch: &Path, point: usize) {
    let root = scratch.join(point.to_string());
    let (done, points) = spawn(&root, point);
    assert_eq!(points, None, "point {point} was not reached");
    within(async {
        {
            let registry = Registry::open(&root);
            registry.check(done).await;
            for step in 0..STEPS {
                registry.step(step).await;
            }
            registry.check(STEPS).await;
        }
        // The second manifest, its configuration; and nothing else in any corner.
        assert_eq!(
            files(&root.join("content")).len(),
            2,
            "killed at point {point}: {:?}",
            files(&root.join("content"))
        );
        assert_eq!(
            files(&root.join("documents")).len(),
            4,
            "killed at point {point}: {:?}",
            files(&root.join("documents"))
        );
        assert!(files(&root.join("staging")).is_empty() && files(&root.join("uploads")).is_empty());
    });
    std::fs::remove_dir_all(&root).unwrap();
}

#[test]
fn killed_at_every_point_what_was_acknowledged_is_there_and_nothing_is_half_there() {
    let scratch = tempfile::tempdir().unwrap();
    let (done, points) = spawn(&scratch.path().join("count"), 0);
    let points = points.expect("it was not killed");
    assert!(done == STEPS && points > 50, "{done} steps, {points} points");
    let next = AtomicUsize::new(1);
    let work = || {
        loop {
            let point = next.fetch_add(1, Ordering::Relaxed);
            if point > points {
                return;
            }
            at_point(scratch.path(), point);
        }
    };
    std::thread::scope(|scope| (0..2).for_each(|_| drop(scope.spawn(work))));
    println!("crash matrix: registry: killed at {points} points");
}
