//! What a collection takes and what it leaves, over a directory and HTTP.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use gantry_registry::server::gc::{Collected, Collector, Finding, Policy, Quota, Retention};
use gantry_registry::server::{Repositories, Root, Settings};
use serde_json::json;

use crate::client::{OCI_INDEX, OCI_MANIFEST, descriptor, digest_of, image, sha256};
use crate::served::{Served, files};

const DAY: Duration = Duration::from_secs(86400);

/// A collection of a directory that nobody serves, `later` than now.
fn collect(root: &std::path::Path, policy: &Policy, later: Duration, dry: bool) -> (Vec<Finding>, Collected) {
    let root = Root::open(root).unwrap();
    let repositories = Repositories::new(root.storage);
    let mut found = Vec::new();
    let mut tell = |finding: &Finding| found.push(finding.clone());
    let now = || SystemTime::now() + later;
    let uploads = Some(&root.uploads);
    let collector = Collector { repositories: &repositories, uploads, policy, dry, tell: &mut tell, now: &now };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let collected = runtime.block_on(collector.run()).unwrap();
    (found, collected)
}

#[test]
fn only_what_nobody_needs_goes_and_only_after_its_time() {
    let directory = tempfile::tempdir().unwrap();
    let served = Served::at(directory.path(), Settings::default(), |_| {});
    let client = served.client;
    client.image("a", "1", b"kept layer");
    let deleted = client.image("a", "2", b"deleted layer");
    client.send("DELETE", &format!("/v2/a/manifests/{}", digest_of(&deleted)), &[], b"").expect(202);
    client.blob("b", b"given up");
    client.send("POST", &format!("/v2/c/blobs/uploads/?mount={}", sha256(b"kept layer")), &[], b"").expect(201);
    client.start("a");
    drop(served);
    let policy = Policy::default();
    let (_, young) = collect(directory.path(), &policy, DAY / 2, false);
    assert_eq!(young, Collected::default());
    let (would, dry) = collect(directory.path(), &policy, 8 * DAY, true);
    let (did, collected) = collect(directory.path(), &policy, 8 * DAY, false);
    let kinds = |found: &[Finding]| {
        let mut kinds: Vec<_> = found.iter().map(|found| (found.kind, found.name.clone())).collect();
        kinds.sort();
        kinds
    };
    // The deleted layer and its configuration, what was given up, and what was mounted for nothing.
    assert_eq!((collected.removed["blob"], collected.removed["content"]), (4, 4));
    assert_eq!(collected.removed["uploads"], 1);
    let without: Vec<_> = did.iter().filter(|found| found.kind != "uploads").cloned().collect();
    assert_eq!(kinds(&would), kinds(&without), "a dry run tells what goes");
    assert_eq!(dry.freed, collected.freed);
    assert!(did.iter().all(|found| !found.reason.is_empty()));
    let served = Served::at(directory.path(), Settings::default(), |_| {});
    served.client.get("/v2/a/manifests/1").expect(200);
    assert!(served.client.has("a", &sha256(b"kept layer")));
    assert!(!served.client.has("a", &sha256(b"deleted layer")));
    assert_eq!(files(&directory.path().join("content")).len(), 3);
}

#[test]
fn tags_go_by_the_first_rule_that_fits_and_untagged_manifests_when_they_may() {
    let directory = tempfile::tempdir().unwrap();
    let served = Served::at(directory.path(), Settings::default(), |_| {});
    let client = served.client;
    for tag in ["ci-1", "ci-2", "ci-3", "v1"] {
        client.image("team/app", tag, tag.as_bytes());
        client.image("other", tag, tag.as_bytes());
    }
    // What an index lists and what is about a tagged manifest are as tagged as it is.
    let (listed, subject) = (image(b"{}", &[b"v1"]), image(b"{}", &[b"ci-1"]));
    client.blob("team/app", b"{}");
    let digest = digest_of(&listed);
    client.manifest("team/app", digest.as_str(), OCI_MANIFEST, &listed).expect(201);
    let index =
        json!({ "mediaType": OCI_INDEX, "manifests": [descriptor(OCI_MANIFEST, listed.to_string().as_bytes())] });
    client.manifest("team/app", "all", OCI_INDEX, &index).expect(201);
    let mut about = image(b"{}", &[]);
    about["subject"] = descriptor(OCI_INDEX, index.to_string().as_bytes());
    client.manifest("team/app", digest_of(&about).as_str(), OCI_MANIFEST, &about).expect(201);
    let mut about_nothing = image(b"{}", &[]);
    about_nothing["subject"] = descriptor(OCI_MANIFEST, subject.to_string().as_bytes());
    client.manifest("team/app", digest_of(&about_nothing).as_str(), OCI_MANIFEST, &about_nothing).expect(201);
    drop(served);
    let rule = |tags: &str, older: Option<&str>, keep| Retention {
        repositories: "team/*".parse().unwrap(),
        tags: tags.parse().unwrap(),
        older_than: older.map(|span| span.parse().unwrap()),
        keep,
    };
    let retention = vec![rule("ci-*", Some("7d"), 1), rule("*", Some("99d"), 0)];
    let policy = Policy { untagged: Some(DAY), retention, ..Policy::default() };
    let (found, collected) = collect(directory.path(), &policy, 8 * DAY, false);
    let mut tags: Vec<_> = found.iter().filter(|found| found.kind == "tag").map(|found| found.name.as_str()).collect();
    tags.sort_unstable();
    assert_eq!(tags, ["ci-1", "ci-2"]);
    assert_eq!(collected.removed["manifest"], 3);
    let served = Served::at(directory.path(), Settings::default(), |_| {});
    let left = served.client.get("/v2/team/app/tags/list").expect(200).json()["tags"].clone();
    assert_eq!(left, json!(["all", "ci-3", "v1"]));
    assert_eq!(served.client.get("/v2/other/tags/list").expect(200).json()["tags"].as_array().unwrap().len(), 4);
    for here in [&listed, &about] {
        served.client.get(&format!("/v2/team/app/manifests/{}", digest_of(here))).expect(200);
    }
    served.client.get(&format!("/v2/team/app/manifests/{}", digest_of(&about_nothing))).expect(404);
}

#[test]
fn a_repository_with_an_unreadable_manifest_is_left_alone_and_named() {
    let directory = tempfile::tempdir().unwrap();
    let served = Served::at(directory.path(), Settings::default(), |_| {});
    let manifest = served.client.image("a", "1", b"layer");
    served.client.blob("a", b"garbage");
    served.client.blob("b", b"other garbage");
    drop(served);
    let digest = digest_of(&manifest);
    let path = directory.path().join("content/sha256").join(&digest.hex()[..2]).join(digest.hex());
    std::fs::write(&path, "{}").unwrap();
    let (_, collected) = collect(directory.path(), &Policy::default(), 2 * DAY, false);
    assert_eq!(collected.left_alone.len(), 1);
    assert!(collected.left_alone[0].1.contains(digest.as_str()), "{collected:?}");
    assert_eq!(collected.removed["content"], 1);
    let served = Served::at(directory.path(), Settings::default(), |_| {});
    assert!(served.client.has("a", &sha256(b"layer")) && served.client.has("a", &sha256(b"garbage")));
}

#[test]
fn a_repository_takes_no_more_than_its_quota_and_each_blob_counts_once() {
    let directory = tempfile::tempdir().unwrap();
    let quota = Quota { repositories: "small/*".parse().unwrap(), size: "1000".parse().unwrap() };
    let served = Served::at(directory.path(), Settings::default(), |server| {
        let storage = Arc::clone(server.repositories.storage());
        server.repositories = Repositories::new(storage).with_quotas(vec![quota]);
    });
    let client = served.client;
    let push = |name: &str, content: &[u8]| {
        client.send("POST", &format!("/v2/{name}/blobs/uploads/?digest={}", sha256(content)), &[], content)
    };
    push("small/a", &[1; 600]).expect(201);
    push("small/a", &[1; 600]).expect(201);
    let refused = push("small/a", &[2; 600]).expect(403);
    assert_eq!(refused.code(), "DENIED");
    push("small/b", &[2; 600]).expect(201);
    let mount = format!("/v2/small/a/blobs/uploads/?mount={}&from=small/b", sha256(&[2; 600]));
    assert_eq!(client.send("POST", &mount, &[], b"").expect(403).code(), "DENIED");
    push("large", &[3; 5000]).expect(201);
    client.send("DELETE", &format!("/v2/small/a/blobs/{}", sha256(&[1; 600])), &[], b"").expect(202);
    push("small/a", &[2; 600]).expect(201);
}
