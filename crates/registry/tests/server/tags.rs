//! Tags beside deletions and collections: whatever comes first, a tag leads to what was pushed last, and to something.

use std::sync::Arc;
use std::time::Duration;

use gantry_registry::server::gc::{Collector, Policy, Retention};
use gantry_registry::server::{Digest, Document, Manifest, Name, Repositories, Tag, Target};
use serde_json::json;

use crate::client::{OCI_INDEX, sha256};
use crate::memory::Memory;

const SEEDS: u64 = 300;

fn name() -> Name {
    "a".parse().unwrap()
}

fn tag(tag: &str) -> Tag {
    tag.parse().unwrap()
}

struct Registry {
    storage: Arc<Memory>,
    repositories: Repositories,
}

impl Registry {
    /// One whose calls take turns as this seed says.
    fn new(seed: u64) -> Self {
        let storage = Arc::new(Memory::new(seed));
        Self { repositories: Repositories::new(Arc::clone(&storage) as _), storage }
    }

    async fn put(&self, mark: &str, tags: &[Tag]) -> Digest {
        let index = json!({ "mediaType": OCI_INDEX, "manifests": [], "annotations": { "mark": mark } });
        let bytes = index.to_string();
        let document = Document::read(bytes.as_bytes(), None).unwrap();
        let digest = sha256(bytes.as_bytes());
        let manifest = Manifest { digest: digest.clone(), media_type: OCI_INDEX.to_owned(), bytes: bytes.into() };
        self.repositories.put_manifest(&name(), &manifest, &document, tags).await.unwrap();
        digest
    }

    async fn leads_to(&self, tag: &Tag) -> Option<Digest> {
        self.repositories.resolve(&name(), &Target::Tag(tag.clone())).await.unwrap()
    }
}

fn each_seed(test: impl AsyncFn(Registry, u64)) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for seed in 1..=SEEDS {
        runtime.block_on(test(Registry::new(seed), seed));
    }
}

#[test]
fn a_tag_that_is_pushed_while_what_it_led_to_is_deleted_stays() {
    each_seed(async |registry, seed| {
        let latest = tag("latest");
        let first = registry.put("first", std::slice::from_ref(&latest)).await;
        let name = name();
        let (deleted, second) = tokio::join!(
            registry.repositories.delete_manifest(&name, &first),
            registry.put("second", std::slice::from_ref(&latest))
        );
        assert!(deleted.unwrap());
        assert_eq!(registry.leads_to(&latest).await, Some(second), "seed {seed}");
    });
}

#[test]
fn a_tag_that_is_given_while_its_manifest_is_deleted_goes_with_it_or_keeps_it() {
    each_seed(async |registry, seed| {
        let (old, new) = (tag("old"), tag("new"));
        let first = registry.put("first", &[old]).await;
        let name = name();
        let (deleted, _) = tokio::join!(
            registry.repositories.delete_manifest(&name, &first),
            registry.put("first", std::slice::from_ref(&new))
        );
        assert!(deleted.unwrap());
        let there = registry.repositories.manifest(&name, &Target::Digest(first)).await.unwrap().is_some();
        assert_eq!(registry.leads_to(&new).await.is_some(), there, "seed {seed}");
    });
}

#[test]
fn a_tag_that_is_pushed_while_a_rule_lets_it_go_stays() {
    let rule = Retention { repositories: "*".parse().unwrap(), tags: "*".parse().unwrap(), older_than: None, keep: 0 };
    let policy = Policy { grace: Duration::from_secs(1000), retention: vec![rule], ..Policy::default() };
    each_seed(async |registry, seed| {
        let latest = tag("latest");
        registry.put("first", std::slice::from_ref(&latest)).await;
        registry.storage.pass(Duration::from_secs(5000));
        let now = || registry.storage.now();
        let collector = Collector {
            repositories: &registry.repositories,
            uploads: None,
            policy: &policy,
            dry: false,
            tell: &mut |_| {},
            now: &now,
        };
        let push = async {
            // Somewhere beside the collection.
            for _ in 0..seed % 16 {
                tokio::task::yield_now().await;
            }
            registry.put("second", std::slice::from_ref(&latest)).await
        };
        let (collected, second) = tokio::join!(collector.run(), push);
        collected.unwrap();
        assert_eq!(registry.leads_to(&latest).await, Some(second), "seed {seed}");
    });
}
