//! What refers to an image goes along with it, and is found at registries that have no lists of referrers.

use serde_json::{Value, json};

use crate::fake::{End, Fake, Reply};
use crate::image::{Image, digest};
use crate::push::{Outcome, pulled, push};
use crate::uploads::Uploads;

const OCI: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const KIND: &str = "application/vnd.tests.signature";

/// A signature of something: its manifest, and the blobs that it names.
fn signature(subject: &[u8], words: &str) -> (Vec<u8>, [Vec<u8>; 2]) {
    let blobs = [b"{}".to_vec(), words.as_bytes().to_vec()];
    let describe = |kind: &str, raw: &[u8]| json!({"mediaType": kind, "digest": digest(raw), "size": raw.len()});
    let manifest = json!({
        "schemaVersion": 2, "mediaType": OCI, "artifactType": KIND, "annotations": {"words": words},
        "config": describe("application/vnd.oci.empty.v1+json", &blobs[0]),
        "layers": [describe("text/plain", &blobs[1])], "subject": describe(OCI, subject),
    });
    (serde_json::to_vec(&manifest).unwrap(), blobs)
}

fn list(referrers: &[&[u8]]) -> String {
    let entries: Vec<_> = referrers
        .iter()
        .map(|raw| json!({"mediaType": OCI, "digest": digest(raw), "size": raw.len(), "artifactType": KIND}))
        .collect();
    json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).to_string()
}

/// Puts a signature where an image is, in the list of what refers to its subject, or under the tag in its place.
fn sign(fake: &Fake, repository: &str, subject: &[u8], words: &str, lists: bool) -> Vec<u8> {
    let (manifest, blobs) = signature(subject, words);
    fake.document(repository, "none", &manifest, OCI);
    for blob in blobs {
        fake.put(&format!("/v2/{repository}/blobs/{}", digest(&blob)), Reply::new(200, blob));
    }
    let (of, index) = (digest(subject), list(&[&manifest]));
    match lists {
        true => fake.put(&format!("/v2/{repository}/referrers/{of}"), Reply::new(200, index)),
        false => fake.document(repository, &of.as_str().replace(':', "-"), index.as_bytes(), INDEX),
    }
    manifest
}

/// The entries of the index that stands for a list at a registry that has none.
fn tagged(uploads: &Uploads, repository: &str, subject: &[u8]) -> Vec<Value> {
    let tag = digest(subject).as_str().replace(':', "-");
    let Some((kind, raw)) = uploads.manifest(repository, &tag) else { return Vec::new() };
    assert_eq!(kind, INDEX);
    serde_json::from_slice::<Value>(&raw).unwrap()["manifests"].as_array().unwrap().clone()
}

async fn push_from(fake: &Fake, image: &Image, target: &Fake) -> Outcome {
    push(&target.name("team/app:1"), pulled(image, None, &[&fake.name("app")]), &std::sync::Arc::default()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn signatures_come_along_from_and_to_registries_with_lists_of_referrers_and_without() {
    for (from_lists, to_lists) in [(true, true), (true, false), (false, true), (false, false)] {
        let (fake, target, image) = (Fake::start().await, Fake::start().await, Image::oci(1).without_urls());
        fake.image("app", "1", &image);
        let uploads = target.takes_uploads();
        *uploads.lists_referrers.lock().unwrap() = to_lists;
        let signature = sign(&fake, "app", &image.manifest, "signed", from_lists);
        // Somebody has signed the signature.
        let second = sign(&fake, "app", &signature, "so it is", from_lists);
        let outcome = push_from(&fake, &image, &target).await;
        assert_eq!(outcome.pushed().root.digest, image.digest());
        for manifest in [&signature, &second] {
            assert_eq!(uploads.manifest("team/app", digest(manifest).as_str()).unwrap().1, *manifest);
        }
        let listed = tagged(&uploads, "team/app", &image.manifest);
        if to_lists {
            assert!(listed.is_empty());
            continue;
        }
        let entry = json!({"mediaType": OCI, "digest": digest(&signature), "size": signature.len(), "artifactType": KIND,
            "annotations": {"words": "signed"}});
        assert_eq!(listed, [entry]);
        assert_eq!(tagged(&uploads, "team/app", &signature).len(), 1);
        // A second push finds everything, and lists nothing twice.
        let before = target.seen().len();
        push_from(&fake, &image, &target).await.pushed();
        let written = target.seen().split_off(before).into_iter().filter(|seen| seen.method == "PUT");
        assert_eq!(written.count(), 1, "the manifest under its tag");
        assert_eq!(tagged(&uploads, "team/app", &image.manifest), listed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_with_a_subject_is_listed_beside_what_others_have_listed_there() {
    let (fake, target, mut image) = (Fake::start().await, Fake::start().await, Image::oci(1).without_urls());
    let subject = b"what it refers to".as_slice();
    let mut manifest: Value = serde_json::from_slice(&image.manifest).unwrap();
    manifest["subject"] = json!({"mediaType": OCI, "digest": digest(subject), "size": subject.len()});
    image.manifest = serde_json::to_vec(&manifest).unwrap();
    fake.image("app", "1", &image);
    let uploads = target.takes_uploads();
    let (others, tag) = (list(&[b"other"]), digest(subject).as_str().replace(':', "-"));
    uploads
        .manifests
        .lock()
        .unwrap()
        .insert(("team/app".into(), digest(b"other").to_string()), (OCI.into(), b"other".to_vec()));
    uploads.manifests.lock().unwrap().insert(("team/app".into(), tag.clone()), (INDEX.into(), others.into_bytes()));
    push_from(&fake, &image, &target).await.pushed();
    let listed = tagged(&uploads, "team/app", subject);
    let digests: Vec<_> = listed.iter().map(|entry| entry["digest"].as_str().unwrap()).collect();
    assert_eq!(digests, [digest(b"other").as_str(), image.digest().as_str()]);
    // An image has no other kind than its configuration's.
    assert_eq!(listed[1]["artifactType"], "application/vnd.oci.image.config.v1+json");
    // What is no list is left as it is, and that is an error.
    uploads.manifests.lock().unwrap().insert(("team/app".into(), tag.clone()), (OCI.into(), image.manifest.clone()));
    let error = push_from(&fake, &image, &target).await.error();
    assert!(error.contains("is no index, and is left as it is"), "{error}");
    assert_eq!(uploads.manifest("team/app", &tag).unwrap().1, image.manifest);
}

#[tokio::test(flavor = "multi_thread")]
async fn referrers_that_do_not_come_are_told_and_the_image_is_there() {
    let (fake, image) = (Fake::start().await, Image::oci(1).without_urls());
    fake.image("app", "1", &image);
    sign(&fake, "app", &image.manifest, "signed", true);
    let damaged = |path: &str| path.contains("/referrers/");
    let lost = digest(b"signed").to_string();
    for breaks in
        [Box::new(damaged) as Box<dyn Fn(&str) -> bool + Send + Sync>, Box::new(move |path| path.ends_with(&lost))]
    {
        let target = Fake::start().await;
        let uploads = target.takes_uploads();
        fake.hook(move |seen, _| breaks(&seen.path).then(|| Reply::error(500, "UNKNOWN", "a bad day")));
        let outcome = push_from(&fake, &image, &target).await;
        assert_eq!(outcome.pushed().root.digest, image.digest());
        assert!(uploads.manifest("team/app", "1").is_some());
        assert!(outcome.said("Not all that refers to the image was copied: ") && outcome.said("a bad day"));
    }
}

/// What was put into `team/app`, by what it is put under.
fn put(target: &Fake, from: usize) -> Vec<String> {
    let seen = target.seen().split_off(from).into_iter().filter(|seen| seen.method == "PUT");
    seen.map(|seen| seen.path.rsplit('/').next().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_push_that_was_cut_off_has_put_and_not_listed_is_listed_by_the_next() {
    for to_lists in [true, false] {
        let (fake, target, image) = (Fake::start().await, Fake::start().await, Image::oci(1).without_urls());
        fake.image("app", "1", &image);
        let uploads = target.takes_uploads();
        *uploads.lists_referrers.lock().unwrap() = to_lists;
        let signature = sign(&fake, "app", &image.manifest, "signed", true);
        let name = digest(&signature).to_string();
        let (manifest, blobs) = self::signature(&image.manifest, "signed");
        assert_eq!(manifest, signature);
        blobs.iter().for_each(|blob| uploads.put_blob("team/app", blob));
        uploads.manifests.lock().unwrap().insert(("team/app".into(), name.clone()), (OCI.into(), manifest));
        let outcome = push_from(&fake, &image, &target).await;
        assert!(!outcome.said("Not all that refers"));
        assert!(put(&target, 0).contains(&name));
        if to_lists {
            target.put(&format!("/v2/team/app/referrers/{}", image.digest()), Reply::new(200, list(&[&signature])));
        } else {
            assert_eq!(tagged(&uploads, "team/app", &image.manifest).len(), 1);
        }
        // Once it is listed nothing is put but the manifest under its tag.
        let before = target.seen().len();
        push_from(&fake, &image, &target).await.pushed();
        assert_eq!(put(&target, before), ["1"], "{to_lists}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_may_not_ask_where_the_image_came_from_is_not_told_so_at_every_push() {
    for status in [401, 403, 404] {
        let (fake, target, image) = (Fake::start().await, Fake::start().await, Image::oci(1).without_urls());
        fake.image("app", "1", &image);
        let uploads = target.takes_uploads();
        fake.hook(move |seen, _| {
            let asks = seen.path.contains("/referrers/") || seen.path.contains("/manifests/sha256-");
            asks.then(|| Reply::error(status, "DENIED", "not for you"))
        });
        let outcome = push_from(&fake, &image, &target).await;
        outcome.pushed();
        assert!(uploads.manifest("team/app", "1").is_some());
        assert!(!outcome.said("Not all that refers"), "{status}");
        assert!(fake.count("/referrers/") > 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_does_not_come_holds_a_push_up_by_a_moment() {
    let (fake, target, image) = (Fake::start().await, Fake::start().await, Image::oci(1).without_urls());
    fake.image("app", "1", &image);
    let uploads = target.takes_uploads();
    let path = format!("/v2/app/referrers/{}", image.digest());
    fake.put(&path, Reply::new(200, list(&[])).ends(End::Hang(1)));
    let begun = std::time::Instant::now();
    let outcome = push_from(&fake, &image, &target).await;
    outcome.pushed();
    assert!(uploads.manifest("team/app", "1").is_some());
    assert!(fake.count("/referrers/") > 0 && !outcome.said("Not all that refers"));
    assert!(begun.elapsed() < std::time::Duration::from_secs(8), "{:?}", begun.elapsed());
}
