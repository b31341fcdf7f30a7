//! Pushes, deletions and collections in random interleavings against a model: nothing that is needed goes, nothing that is not stays.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use gantry_registry::server::gc::{Collected, Collector, Policy};
use gantry_registry::server::{Digest, Document, Manifest, Name, Repositories, Tag, Target};
use serde_json::json;
use tokio::task::LocalSet;

use crate::client::{OCI_MANIFEST, descriptor, sha256};
use crate::memory::{Dice, Memory};

const GRACE: Duration = Duration::from_secs(2000);
const STEPS: usize = 10_000;
const SEEDS: u64 = 10;
const NAMES: [&str; 3] = ["a", "a/b", "c"];
const CONTENTS: u64 = 9;

/// What has to be there: manifests with the blobs that they name.
type Live = HashMap<(Name, Digest), Vec<Digest>>;

struct World {
    storage: Arc<Memory>,
    repositories: Repositories,
    policy: Policy,
    live: RefCell<Live>,
    dice: RefCell<Dice>,
    pushed: RefCell<u64>,
    staged: tempfile::TempDir,
}

impl World {
    fn roll(&self, most: u64) -> u64 {
        self.dice.borrow_mut().roll(most)
    }

    fn name(&self) -> Name {
        NAMES[usize::try_from(self.roll(NAMES.len() as u64)).unwrap()].parse().unwrap()
    }

    /// As a client does: asks for each blob, mounts it, or sends it; then the manifest, which must be taken.
    async fn push(&self) {
        let name = self.name();
        let number = self.pushed.replace_with(|number| *number + 1);
        let mut blobs = vec![format!("config {number}").into_bytes()];
        blobs.extend((0..=self.roll(3)).map(|_| format!("layer {}", self.roll(CONTENTS)).into_bytes()));
        for blob in &blobs {
            let digest = sha256(blob);
            if self.repositories.need_blob(&name, &digest).await.unwrap().is_some() {
                continue;
            }
            let mounted = self.roll(2) == 0 && self.repositories.link_blob(&name, &digest).await.unwrap().is_some();
            if !mounted {
                let path = self.staged.path().join(format!("{number}-{}", digest.hex()));
                std::fs::write(&path, blob).unwrap();
                self.repositories.adopt_blob(&name, &digest, &path, blob.len() as u64).await.unwrap();
                std::fs::remove_file(&path).unwrap();
            }
        }
        if self.roll(8) == 0 {
            // It is given up: all of it is garbage unless somebody else needs it.
            return;
        }
        let parts: Vec<_> = blobs.iter().map(|blob| descriptor("x", blob)).collect();
        let text = json!({ "mediaType": OCI_MANIFEST, "config": parts[0], "layers": parts[1..] }).to_string();
        let document = Document::read(text.as_bytes(), None).unwrap();
        let missing = self.repositories.missing(&name, &document).await.unwrap();
        assert!(missing.is_empty(), "push {number} to {name} lost {missing:?} while it ran");
        let manifest =
            Manifest { digest: sha256(text.as_bytes()), media_type: OCI_MANIFEST.to_owned(), bytes: text.into() };
        let tag: Tag = format!("t{}", self.roll(4)).parse().unwrap();
        self.repositories.put_manifest(&name, &manifest, &document, &[tag]).await.unwrap();
        let named = blobs.iter().map(|blob| sha256(blob)).collect();
        self.live.borrow_mut().insert((name, manifest.digest), named);
    }

    async fn delete(&self) {
        let mut keys: Vec<_> = self.live.borrow().keys().cloned().collect();
        keys.sort();
        if keys.is_empty() {
            return;
        }
        let key = keys.swap_remove(usize::try_from(self.roll(keys.len() as u64)).unwrap());
        // Two may choose the same one.
        if self.live.borrow_mut().remove(&key).is_some() {
            assert!(self.repositories.delete_manifest(&key.0, &key.1).await.unwrap());
        }
    }

    async fn collect(&self, dry: bool) -> Collected {
        let mut tell = |_: &_| {};
        let storage = Arc::clone(&self.storage);
        let now = move || storage.now();
        let collector = Collector {
            repositories: &self.repositories,
            uploads: None,
            policy: &self.policy,
            dry,
            tell: &mut tell,
            now: &now,
        };
        let collected = collector.run().await.unwrap();
        assert_eq!(collected.left_alone, []);
        collected
    }

    /// When nobody works, the names that are known without a walk are those that a walk finds.
    async fn names_are_known(&self) {
        let walked = self.repositories.names(None, usize::MAX).await.unwrap();
        assert_eq!(self.repositories.all_names().await.unwrap(), walked);
    }

    /// All that is needed is there.
    async fn nothing_is_lost(&self) {
        let live = self.live.borrow().clone();
        for ((name, digest), blobs) in live {
            let manifest = self.repositories.manifest(&name, &Target::Digest(digest.clone())).await.unwrap();
            let there = manifest.is_some();
            let mut lost = Vec::new();
            for blob in blobs {
                if self.repositories.blob(&name, &blob).await.unwrap().is_none() {
                    lost.push(blob);
                }
            }
            // Somebody may have deleted it while we looked.
            if self.live.borrow().contains_key(&(name.clone(), digest.clone())) {
                assert!(there, "{name} lost the manifest {digest}");
                assert!(lost.is_empty(), "manifest {digest} of {name} lost {lost:?}");
            }
        }
    }

    /// When nobody works, a collection leaves nothing old that is not needed.
    async fn nothing_stays(&self) {
        let would = self.collect(true).await;
        let limit = self.storage.now() - GRACE;
        let did = self.collect(false).await;
        for (kind, count) in &would.removed {
            assert!(did.removed.get(kind) >= Some(count), "the dry run told of {would:?}, what went is {did:?}");
        }
        let live = self.live.borrow();
        let named: HashSet<String> = live
            .iter()
            .flat_map(|((name, _), blobs)| blobs.iter().map(move |blob| format!("{name}/_blobs/sha256/{}", blob.hex())))
            .collect();
        for (key, touched) in self.storage.all_documents("/_blobs/") {
            let short = key.strip_prefix("repositories/").unwrap();
            assert!(named.contains(short) || touched >= limit, "{key} stays");
        }
        let linked: HashSet<String> = ["/_blobs/", "/_manifests/"]
            .iter()
            .flat_map(|kind| self.storage.all_documents(kind))
            .map(|(key, _)| key.rsplit_once('/').unwrap().1.to_owned())
            .collect();
        for (digest, touched) in self.storage.all_content() {
            assert!(linked.contains(digest.hex()) || touched >= limit, "content {digest} stays");
        }
    }
}

/// Several at once, each going on where the dice let it.
async fn live_through(world: Rc<World>, steps: usize) {
    let mut done = 0;
    while done < steps {
        let local = LocalSet::new();
        let crowd = 2 + usize::try_from(world.roll(6)).unwrap();
        for actor in 0..crowd {
            let world = Rc::clone(&world);
            local.spawn_local(async move {
                for _ in 0..4 {
                    match world.roll(10) {
                        0..=5 if actor == 0 => drop(world.collect(false).await),
                        0..=5 => world.push().await,
                        6..=8 => world.delete().await,
                        9 if actor == 1 => drop(world.repositories.all_names().await.unwrap()),
                        _ => world.nothing_is_lost().await,
                    }
                }
            });
        }
        local.await;
        done += crowd * 4;
        world.nothing_is_lost().await;
        if world.roll(4) == 0 {
            world.names_are_known().await;
            world.nothing_stays().await;
        }
        let time = world.roll(2 * GRACE.as_secs());
        world.storage.pass(Duration::from_secs(time));
    }
    // In the end all goes.
    world.live.borrow_mut().clear();
    for name in NAMES {
        let name: Name = name.parse().unwrap();
        for key in world.storage.all_documents(&format!("repositories/{name}/_manifests/")) {
            let digest = format!("sha256:{}", key.0.rsplit_once('/').unwrap().1).parse().unwrap();
            world.repositories.delete_manifest(&name, &digest).await.unwrap();
        }
    }
    world.storage.pass(2 * GRACE);
    world.collect(false).await;
    assert_eq!(world.storage.all_content(), []);
    assert_eq!(world.storage.all_documents(""), []);
}

#[test]
fn whatever_runs_beside_it_a_collection_loses_nothing_and_leaves_no_garbage() {
    for seed in 1..=SEEDS {
        let storage = Arc::new(Memory::new(seed));
        let world = World {
            repositories: Repositories::new(Arc::clone(&storage) as _),
            storage,
            policy: Policy { grace: GRACE, ..Policy::default() },
            live: RefCell::default(),
            dice: RefCell::new(Dice::new(seed + 1000)),
            pushed: RefCell::default(),
            staged: tempfile::tempdir().unwrap(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(live_through(Rc::new(world), STEPS / usize::try_from(SEEDS).unwrap()));
    }
}
