//! The same registry over a bucket of S3: pushed, pulled, deleted, listed, collected, gone on with after a restart, and failing.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use gantry_registry::server::config::Config;
use gantry_registry::server::gc::{Collected, Collector, Policy};
use gantry_registry::server::store::{Keys, Objects};
use gantry_registry::server::{Repositories, Root, Server, Settings, verify};
use serde_json::json;
use tokio::runtime::Runtime;

use crate::client::{Client, OCI_MANIFEST, digest_of, image, sha256};
use crate::s3::{BUCKET, Bucket, Fault, KEY};
use crate::served::{Served, files, runtime};

/// Three parts.
const LARGE: usize = 11 << 20;
const DAY: Duration = Duration::from_secs(86400);

fn settings(bucket: &Bucket, more: &str) -> Config {
    let endpoint = bucket.endpoint();
    let text =
        format!("[storage.s3]\nbucket = \"{BUCKET}\"\nprefix = \"deep/inside\"\nendpoint = \"{endpoint}\"\n{more}");
    text.parse().unwrap()
}

fn keys(id: &str) -> Keys {
    Keys { id: id.to_owned(), secret: "secret-words".to_owned(), session: None }
}

async fn open(bucket: &Bucket) -> Objects {
    Objects::open(&settings(bucket, "").storage.s3.unwrap(), keys(KEY)).await.unwrap()
}

/// A server over the bucket, whose own directory is `root`.
fn served(root: &Path, bucket: &Bucket, set: impl FnOnce(&mut Server)) -> Served {
    let runtime = runtime();
    let objects = runtime.block_on(open(bucket));
    Served::of(Root::beside(root, Arc::new(objects)).unwrap(), root, runtime, Settings::default(), set)
}

fn within<T>(bucket: &Bucket, work: impl AsyncFnOnce(Repositories) -> T) -> T {
    let runtime: Runtime = runtime();
    runtime.block_on(async { work(Repositories::new(Arc::new(open(bucket).await))).await })
}

fn large() -> Vec<u8> {
    (0..LARGE).map(|at| (at % 251) as u8).collect()
}

/// Sends a blob in two requests, as most clients do.
fn push(client: Client, name: &str, content: &[u8]) -> u16 {
    let place = client.start(name);
    client.send("PUT", &format!("{place}?digest={}", sha256(content)), &[], content).status
}

#[test]
fn a_bucket_serves_what_was_pushed_whole_and_in_parts_and_lists_it() {
    let (bucket, directory) = (Bucket::start().unwrap(), tempfile::tempdir().unwrap());
    let served = served(directory.path(), &bucket, |_| {});
    let (client, layer) = (served.client, large());
    assert_eq!(push(client, "team/app", &layer), 201);
    let manifest = client.image("team/app", "v0", &layer);
    for tag in 1..8 {
        client.manifest("team/app", &format!("v{tag}"), OCI_MANIFEST, &manifest).expect(201);
    }
    client.image("other", "latest", b"small");
    let blob = format!("/v2/team/app/blobs/{}", sha256(&layer));
    assert!(client.get(&blob).expect(200).body == layer);
    let part = client.send("GET", &blob, &[("Range", "bytes=5242870-5242890")], b"").expect(206);
    assert!(part.body == layer[5_242_870..=5_242_890] && part.header("content-range").ends_with("/11534336"));
    client.send("GET", &blob, &[("Range", "bytes=99999999-")], b"").expect(416);
    assert_eq!(client.get("/v2/team/app/manifests/v7").expect(200).json(), manifest);
    let tags = client.get("/v2/team/app/tags/list?n=5&last=v1").expect(200).json();
    assert_eq!(tags["tags"], json!(["v2", "v3", "v4", "v5", "v6"]));
    assert_eq!(client.get("/v2/_catalog").expect(200).json()["repositories"], json!(["other", "team/app"]));
    client.send("POST", &format!("/v2/x/blobs/uploads/?mount={}&from=team/app", sha256(&layer)), &[], b"").expect(201);
    assert!(client.get(&format!("/v2/x/blobs/{}", sha256(&layer))).expect(200).body == layer);
    assert!(bucket.keys().iter().all(|key| key.starts_with("deep/inside/")), "{:?}", bucket.keys());
    assert!(files(&directory.path().join("uploads")).is_empty(), "what is in the bucket is here as well");
    assert_eq!(bucket.unfinished(), 0);
}

#[test]
fn referrers_tags_manifests_and_blobs_are_deleted_from_a_bucket() {
    let (bucket, directory) = (Bucket::start().unwrap(), tempfile::tempdir().unwrap());
    let served = served(directory.path(), &bucket, |_| {});
    let client = served.client;
    let manifest = client.image("a/b", "latest", b"layer");
    let subject = digest_of(&manifest);
    let mut signature = image(b"{}", &[]);
    client.blob("a/b", b"{}");
    signature["subject"] = json!({ "mediaType": OCI_MANIFEST, "digest": subject, "size": manifest.to_string().len() });
    client.manifest("a/b", "signed", OCI_MANIFEST, &signature).expect(201);
    let referrers = || client.get(&format!("/v2/a/b/referrers/{subject}")).expect(200).json()["manifests"].clone();
    assert_eq!(referrers()[0]["digest"], json!(digest_of(&signature)));
    client.send("DELETE", "/v2/a/b/manifests/signed", &[], b"").expect(202);
    client.send("DELETE", &format!("/v2/a/b/manifests/{}", digest_of(&signature)), &[], b"").expect(202);
    assert_eq!(referrers(), json!([]));
    client.send("DELETE", &format!("/v2/a/b/blobs/{}", sha256(b"layer")), &[], b"").expect(202);
    assert!(!client.has("a/b", &sha256(b"layer")));
    client.send("DELETE", &format!("/v2/a/b/blobs/{}", sha256(b"layer")), &[], b"").expect(404);
    client.send("DELETE", &format!("/v2/a/b/manifests/{subject}"), &[], b"").expect(202);
    assert_eq!(client.get("/v2/a/b/manifests/latest").expect(404).code(), "MANIFEST_UNKNOWN");
}

#[test]
fn an_upload_to_a_bucket_goes_on_after_the_server_was_started_anew() {
    let (bucket, directory) = (Bucket::start().unwrap(), tempfile::tempdir().unwrap());
    let content = large();
    let (one, other) = content.split_at(6_000_000);
    let first = served(directory.path(), &bucket, |_| {});
    let place = first.client.start("a");
    first.client.send("PATCH", &place, &[("Content-Range", "0-5999999")], one).expect(202);
    drop(first);
    let served = served(directory.path(), &bucket, |_| {});
    assert_eq!(served.client.get(&place).expect(204).header("range"), "0-5999999");
    let path = format!("{place}?digest={}", sha256(&content));
    served.client.send("PUT", &path, &[("Content-Range", "6000000-11534335")], other).expect(201);
    assert!(served.client.get(&format!("/v2/a/blobs/{}", sha256(&content))).expect(200).body == content);
}

fn collect(bucket: &Bucket, now: SystemTime) -> Collected {
    within(bucket, async |repositories| {
        let (policy, mut tell, now) = (Policy::default(), |_: &_| {}, move || now);
        let collector = Collector {
            repositories: &repositories,
            uploads: None,
            policy: &policy,
            dry: false,
            tell: &mut tell,
            now: &now,
        };
        collector.run().await.unwrap()
    })
}

#[test]
fn garbage_of_a_bucket_is_collected_when_it_is_old_and_what_is_needed_stays() {
    let (bucket, directory) = (Bucket::start().unwrap(), tempfile::tempdir().unwrap());
    let served = served(directory.path(), &bucket, |_| {});
    let client = served.client;
    let manifest = client.image("a", "latest", b"needed");
    client.image("b", "latest", b"not needed");
    client.blob("b", b"never named");
    let listed = client.get("/v2/b/manifests/latest").expect(200);
    client.send("DELETE", &format!("/v2/b/manifests/{}", listed.header("docker-content-digest")), &[], b"").expect(202);
    let young = collect(&bucket, SystemTime::now());
    assert_eq!((young.freed, young.removed.len()), (0, 0), "{young:?}");
    let old = collect(&bucket, SystemTime::now() + 2 * DAY);
    assert_eq!((old.removed.get("blob"), old.removed.get("content")), (Some(&3), Some(&4)), "{old:?}");
    assert_eq!(client.get("/v2/a/manifests/latest").expect(200).json(), manifest);
    assert!(client.has("a", &sha256(b"needed")));
    client.send("DELETE", &format!("/v2/a/manifests/{}", digest_of(&manifest)), &[], b"").expect(202);
    collect(&bucket, SystemTime::now() + 2 * DAY);
    assert_eq!(bucket.keys(), Vec::<String>::new(), "something stays for ever");
}

#[test]
fn content_that_is_asked_for_again_is_young_again_in_a_bucket() {
    let (bucket, directory) = (Bucket::start().unwrap(), tempfile::tempdir().unwrap());
    let served = served(directory.path(), &bucket, |_| {});
    let digest = served.client.blob("a", b"content");
    let key = |folder: &str| format!("deep/inside/{folder}/sha256/{}/{}", &digest.hex()[..2], digest.hex());
    bucket.remove(&key("touched"));
    bucket.age(&key("content"), 3 * DAY);
    let stat = |bucket: &Bucket| {
        within(bucket, async |repositories| repositories.storage().stat(&digest).await.unwrap().unwrap().touched)
    };
    assert!(stat(&bucket) < SystemTime::now() - 2 * DAY);
    let path = format!("/v2/b/blobs/uploads/?mount={digest}&from=a");
    served.client.send("POST", &path, &[], b"").expect(201);
    assert!(stat(&bucket) > SystemTime::now() - DAY);
}

#[test]
fn a_bucket_that_fails_once_is_asked_again_and_one_that_is_gone_is_an_error_and_nothing_is_half_there() {
    let (bucket, directory) = (Bucket::start().unwrap(), tempfile::tempdir().unwrap());
    let served = served(directory.path(), &bucket, |_| {});
    let (client, layer) = (served.client, large());
    let failures = AtomicUsize::new(0);
    bucket.fail(Some(Box::new(move |request| {
        let is_part = request.query.get("partNumber").is_some_and(|number| number == "2");
        (is_part && failures.fetch_add(1, Ordering::Relaxed) == 0).then_some(Fault::Status(503))
    })));
    assert_eq!(push(client, "a", &layer), 201);
    let other = [layer.as_slice(), b"more"].concat();
    // Not worth another try: it says no.
    bucket.fail(Some(Box::new(|request| {
        request.query.get("partNumber").is_some_and(|number| number == "3").then_some(Fault::Status(403))
    })));
    let before = bucket.keys();
    let place = client.start("a");
    let path = format!("{place}?digest={}", sha256(&other));
    let refused = client.send("PUT", &path, &[], &other).expect(503);
    assert!(!refused.json().to_string().contains(BUCKET), "a client learns what the bucket is called");
    assert_eq!((bucket.keys(), bucket.unfinished()), (before, 0));
    bucket.fail(None);
    // What came is kept: only the end is said again.
    client.send("PUT", &path, &[], b"").expect(201);
    assert!(client.get(&format!("/v2/a/blobs/{}", sha256(&other))).expect(200).body == other);
    bucket.fail(Some(Box::new(|_| Some(Fault::Status(403)))));
    assert_eq!(client.get("/v2/a/tags/list").expect(503).code(), "UNAVAILABLE");
    assert_eq!(client.get("/health").status, 200);
    bucket.fail(None);
    client.image("a", "latest", b"again");
}

#[test]
fn a_full_bucket_is_said_to_be_full() {
    let (bucket, directory) = (Bucket::start().unwrap(), tempfile::tempdir().unwrap());
    let served = served(directory.path(), &bucket, |_| {});
    bucket.fail(Some(Box::new(|request| (request.method == "PUT").then_some(Fault::Full))));
    let path = format!("/v2/a/blobs/uploads/?digest={}", sha256(b"content"));
    let refused = served.client.send("POST", &path, &[], b"content").expect(507);
    assert!(refused.json()["errors"][0]["message"].as_str().unwrap().contains("no space left"), "{refused:?}");
    assert_eq!(bucket.keys(), Vec::<String>::new());
}

#[test]
fn what_was_changed_or_removed_in_a_bucket_is_seen_and_healed_by_a_push() {
    let (bucket, directory) = (Bucket::start().unwrap(), tempfile::tempdir().unwrap());
    let served = served(directory.path(), &bucket, |_| {});
    let client = served.client;
    let manifest = client.image("a", "latest", b"layer");
    let problems = || {
        within(&bucket, async |repositories| {
            let mut problems = Vec::new();
            verify::all(&repositories, &mut |problem| problems.push(problem)).await.unwrap();
            problems.join("\n")
        })
    };
    assert_eq!(problems(), "");
    let key = |digest: &gantry_registry::server::Digest| {
        format!("deep/inside/content/sha256/{}/{}", &digest.hex()[..2], digest.hex())
    };
    bucket.put(&key(&sha256(b"layer")), b"lazer".to_vec());
    bucket.put(&key(&digest_of(&manifest)), b"{}".to_vec());
    let seen = problems();
    assert!(seen.contains(&format!("content {} is damaged", sha256(b"layer"))), "{seen}");
    assert!(seen.contains("cannot be read"), "{seen}");
    client.get("/v2/a/manifests/latest").expect(500);
    client.image("a", "latest", b"layer");
    assert_eq!(problems(), "");
    bucket.remove(&key(&sha256(b"layer")));
    assert!(problems().contains("which is not there"), "{}", problems());
    assert!(!client.has("a", &sha256(b"layer")));
}

#[test]
fn quotas_hold_in_a_bucket_and_what_does_not_fit_is_not_sent_there() {
    let (bucket, directory) = (Bucket::start().unwrap(), tempfile::tempdir().unwrap());
    let config = settings(&bucket, "[[quota]]\nrepositories = \"a\"\nsize = 1000\n");
    let served = served(directory.path(), &bucket, |server| {
        let storage = Arc::clone(server.repositories.storage());
        server.repositories = Repositories::new(storage).with_quotas(config.quota);
    });
    served.client.blob("a", &[1; 600]);
    let keys = bucket.keys();
    assert_eq!(push(served.client, "a", &[2; 600]), 403);
    assert_eq!(bucket.keys(), keys);
    assert!(files(&directory.path().join("uploads")).is_empty(), "what was refused for good lies here");
    served.client.blob("b", &[2; 600]);
}

#[test]
fn a_bucket_is_opened_by_the_right_key_only_and_http_only_here() {
    let bucket = Bucket::start().unwrap();
    let s3 = settings(&bucket, "").storage.s3.unwrap();
    let error = runtime().block_on(Objects::open(&s3, keys("another"))).unwrap_err().to_string();
    assert!(error.contains("open the bucket images") && error.contains("InvalidAccessKeyId"), "{error}");
    assert!(!error.contains("secret-words"), "{error}");
    let nothing = s3.keys(|_| None).unwrap_err();
    assert!(nothing.contains("AWS_ACCESS_KEY_ID") && nothing.contains("secret-access-key-file"), "{nothing}");
    let environment = s3.keys(|name| Some(format!("{name} value"))).unwrap();
    assert_eq!(
        (environment.id.as_str(), environment.session.as_deref()),
        ("AWS_ACCESS_KEY_ID value", Some("AWS_SESSION_TOKEN value"))
    );
    assert!(!format!("{environment:?}").contains("AWS_SECRET_ACCESS_KEY value"));
    for (text, says) in [
        ("bucket = \"b\"\nendpoint = \"http://192.0.2.1:9000\"", "insecure = true"),
        ("bucket = \"b/c\"", "storage.s3.bucket"),
        ("bucket = \"b\"\nprefix = \"a/../b\"", "storage.s3.prefix"),
        ("bucket = \"b\"\nprefix = \"/a\"", "storage.s3.prefix"),
        ("bucket = \"b\"\naccess-key-id = \"k\"", "go together"),
        ("bucket = \"b\"\n[gc]\ngrace = \"10m\"", "gc.grace"),
        ("", "bucket"),
    ] {
        let error = format!("[storage.s3]\n{text}\n").parse::<Config>().unwrap_err();
        assert!(error.contains(says), "{text}: {error}");
    }
    let open = "[storage.s3]\nbucket = \"b\"\nendpoint = \"http://192.0.2.1:9000\"\ninsecure = true\n";
    open.parse::<Config>().unwrap();
}
