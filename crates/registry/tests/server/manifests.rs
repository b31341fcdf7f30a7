//! Manifests: what is taken and what is not, tags, referrers, deletion.

use gantry_registry::server::{Algorithm, Digest, Settings, Sparse};
use serde_json::json;

use crate::client::{OCI_INDEX, OCI_MANIFEST, descriptor, digest_of, image, sha256};
use crate::served::{Served, files};

#[test]
fn a_manifest_is_served_byte_for_byte_whatever_is_accepted() {
    let served = Served::start();
    let manifest = served.client.image("a/b", "1", b"layer");
    let digest = digest_of(&manifest);
    for target in ["1", digest.as_str()] {
        for accept in ["*/*", "application/vnd.docker.distribution.manifest.v1+json", OCI_MANIFEST] {
            let path = format!("/v2/a/b/manifests/{target}");
            let got = served.client.send("GET", &path, &[("Accept", accept)], b"").expect(200);
            assert_eq!(got.body, manifest.to_string().as_bytes());
            assert_eq!(
                (got.header("content-type"), got.header("docker-content-digest")),
                (OCI_MANIFEST, digest.as_str())
            );
            let head = served.client.send("HEAD", &path, &[], b"").expect(200);
            assert_eq!(head.header("content-length"), manifest.to_string().len().to_string());
            let known = [("If-None-Match", got.header("etag"))];
            served.client.send("GET", &path, &known, b"").expect(304);
        }
    }
    assert_eq!(served.client.get("/v2/a/b/manifests/2").expect(404).code(), "MANIFEST_UNKNOWN");
    assert_eq!(served.client.get("/v2/a/manifests/1").expect(404).code(), "MANIFEST_UNKNOWN");
}

#[test]
fn what_a_manifest_names_must_be_here_unless_it_is_elsewhere() {
    let served = Served::start();
    let (config, layer) = (served.client.blob("a", b"{}"), sha256(b"layer"));
    let manifest = image(b"{}", &[b"layer"]);
    let refused = served.client.manifest("a", "1", OCI_MANIFEST, &manifest).expect(404);
    assert_eq!(refused.code(), "MANIFEST_BLOB_UNKNOWN");
    assert_eq!(refused.json()["errors"][0]["detail"]["digest"], layer.as_str());
    // Having it in another repository is not having it.
    served.client.blob("b", b"layer");
    served.client.manifest("a", "1", OCI_MANIFEST, &manifest).expect(404);
    let mut foreign = manifest.clone();
    foreign["layers"][0]["urls"] = json!(["https://elsewhere.test/layer"]);
    served.client.manifest("a", "foreign", OCI_MANIFEST, &foreign).expect(201);
    served.client.blob("a", b"layer");
    served.client.manifest("a", "1", OCI_MANIFEST, &manifest).expect(201);
    served.client.send("DELETE", &format!("/v2/a/blobs/{config}"), &[], b"").expect(202);
    served.client.manifest("a", "2", OCI_MANIFEST, &manifest).expect(404);
}

#[test]
fn an_index_may_miss_platforms_and_says_so_unless_nothing_may_be_missed() {
    let index = |here: &serde_json::Value| {
        let mut listed = descriptor(OCI_MANIFEST, here.to_string().as_bytes());
        listed["platform"] = json!({ "os": "linux", "architecture": "amd64" });
        json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [listed, descriptor(OCI_MANIFEST, b"not here")] })
    };
    let layerless = json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": descriptor("x", b"{}"), "layers": [descriptor("y", b"gone")],
    });
    for (sparse, of_index, of_layer) in
        [(Sparse::Nothing, 404, 404), (Sparse::Indexes, 201, 404), (Sparse::Anything, 201, 201)]
    {
        let served = Served::with(Settings { sparse, ..Settings::default() });
        let manifest = served.client.image("a", "1", b"layer");
        let taken = served.client.manifest("a", "all", OCI_INDEX, &index(&manifest)).expect(of_index);
        assert_eq!(taken.header("warning").contains(sha256(b"not here").as_str()), of_index == 201);
        served.client.blob("a", b"{}");
        served.client.manifest("a", "layer", OCI_MANIFEST, &layerless).expect(of_layer);
    }
}

#[test]
fn what_is_no_manifest_is_refused_with_its_reason() {
    let served = Served::with(Settings { manifest_limit: 10_000, ..Settings::default() });
    let client = served.client;
    let manifest = client.image("a", "1", b"layer");
    for (kind, body, says) in [
        (OCI_INDEX, manifest.to_string(), "was sent as"),
        ("application/vnd.docker.distribution.manifest.v1+prettyjws", "{}".to_owned(), "schema 1"),
        ("", r#"{"schemaVersion":1,"fsLayers":[]}"#.to_owned(), "schema 1"),
        (OCI_MANIFEST, "{".to_owned(), "EOF"),
        ("text/html", "{}".to_owned(), "media type"),
    ] {
        let refused = client.send("PUT", "/v2/a/manifests/2", &[("Content-Type", kind)], body.as_bytes()).expect(400);
        assert_eq!(refused.code(), "MANIFEST_INVALID");
        let message = refused.json()["errors"][0]["message"].to_string();
        assert!(message.contains(says), "{message}");
    }
    let wrong = sha256(b"other");
    let refused = client.manifest("a", wrong.as_str(), OCI_MANIFEST, &manifest).expect(400);
    assert_eq!(refused.code(), "DIGEST_INVALID");
    client.manifest("a", "sha256:bad", OCI_MANIFEST, &manifest).expect(400);
    let mut large = manifest.clone();
    large["annotations"] = json!({ "much": "x".repeat(10_000) });
    assert_eq!(client.manifest("a", "2", OCI_MANIFEST, &large).expect(413).code(), "SIZE_INVALID");
    client.get("/v2/a/manifests/2").expect(404);
}

#[test]
fn a_push_by_digest_gives_the_tags_that_it_names() {
    let served = Served::start();
    let manifest = served.client.image("a", "1", b"layer");
    let bytes = manifest.to_string();
    let digest = Digest::of(Algorithm::Sha512, bytes.as_bytes());
    let pushed = served.client.manifest("a", &format!("{digest}?tag=x&tag=y"), OCI_MANIFEST, &manifest).expect(201);
    assert_eq!((pushed.header("oci-tag"), pushed.header("docker-content-digest")), ("x, y", digest.as_str()));
    assert_eq!(served.client.get("/v2/a/manifests/y").expect(200).header("docker-content-digest"), digest.as_str());
    served.client.manifest("a", &format!("{digest}?tag=.x"), OCI_MANIFEST, &manifest).expect(400);
    let many: Vec<_> = (0..65).map(|at| format!("tag=t{at}")).collect();
    served.client.manifest("a", &format!("{digest}?{}", many.join("&")), OCI_MANIFEST, &manifest).expect(414);
}

#[test]
fn deleting_a_tag_leaves_the_manifest_and_deleting_a_manifest_takes_its_tags() {
    let served = Served::start();
    let client = served.client;
    let manifest = client.image("a", "1", b"layer");
    let digest = digest_of(&manifest);
    client.manifest("a", "2", OCI_MANIFEST, &manifest).expect(201);
    let other = client.image("a", "other", b"other layer");
    client.send("DELETE", "/v2/a/manifests/1", &[], b"").expect(202);
    client.get("/v2/a/manifests/1").expect(404);
    client.send("DELETE", "/v2/a/manifests/1", &[], b"").expect(404);
    client.get(&format!("/v2/a/manifests/{digest}")).expect(200);
    client.send("DELETE", &format!("/v2/a/manifests/{digest}"), &[], b"").expect(202);
    for gone in ["2", digest.as_str()] {
        assert_eq!(client.get(&format!("/v2/a/manifests/{gone}")).expect(404).code(), "MANIFEST_UNKNOWN");
    }
    assert_eq!(client.get("/v2/a/tags/list").expect(200).json()["tags"], json!(["other"]));
    client.get(&format!("/v2/a/manifests/{}", digest_of(&other))).expect(200);
}

#[test]
fn referrers_are_listed_by_type_before_and_after_their_subject_is_there() {
    let served = Served::start();
    let client = served.client;
    let subject = image(b"{}", &[b"layer"]);
    let list = |query: &str| client.get(&format!("/v2/a/referrers/{}{query}", digest_of(&subject))).expect(200);
    assert_eq!(list("").json()["manifests"], json!([]));
    client.blob("a", b"{}");
    client.blob("a", b"layer");
    let mut artifacts = Vec::new();
    for (kind, note) in [("application/x.signature", "1"), ("application/x.sbom", "2"), ("", "3")] {
        let mut artifact = image(b"{}", &[]);
        artifact["subject"] = descriptor(OCI_MANIFEST, subject.to_string().as_bytes());
        artifact["annotations"] = json!({ "note": note });
        if !kind.is_empty() {
            artifact["artifactType"] = json!(kind);
        }
        let digest = digest_of(&artifact);
        let pushed = client.manifest("a", digest.as_str(), OCI_MANIFEST, &artifact).expect(201);
        assert_eq!(pushed.header("oci-subject"), digest_of(&subject).as_str());
        artifacts.push(artifact);
    }
    client.manifest("a", "1", OCI_MANIFEST, &subject).expect(201);
    let all = list("");
    assert_eq!((all.header("content-type"), all.header("oci-filters-applied")), (OCI_INDEX, ""));
    assert_eq!(all.json()["manifests"].as_array().unwrap().len(), 3);
    let sbom = list("?artifactType=application/x.sbom");
    assert_eq!(sbom.header("oci-filters-applied"), "artifactType");
    let bytes = artifacts[1].to_string();
    let mut wanted = descriptor(OCI_MANIFEST, bytes.as_bytes());
    wanted["artifactType"] = json!("application/x.sbom");
    wanted["annotations"] = json!({ "note": "2" });
    assert_eq!(sbom.json()["manifests"], json!([wanted]));
    // Without a type of its own it has its configuration's.
    let config = list("?artifactType=application%2Fvnd.oci.image.config.v1%2Bjson");
    assert_eq!(config.json()["manifests"].as_array().unwrap().len(), 1);
    client.send("DELETE", &format!("/v2/a/manifests/{}", digest_of(&artifacts[1])), &[], b"").expect(202);
    assert_eq!(list("").json()["manifests"].as_array().unwrap().len(), 2);
    client.get("/v2/a/referrers/sha256:bad").expect(400);
}

/// A manifest about `subject` with an annotation of so many bytes.
fn about(subject: &serde_json::Value, note: usize, mark: usize) -> serde_json::Value {
    let mut artifact = image(b"{}", &[]);
    artifact["subject"] = descriptor(OCI_MANIFEST, subject.to_string().as_bytes());
    artifact["artifactType"] = json!("application/x.big");
    artifact["annotations"] = json!({ "note": "x".repeat(note), "mark": mark.to_string() });
    artifact
}

#[test]
fn a_referrer_that_could_not_be_listed_is_refused_and_nothing_of_it_is_kept() {
    let served = Served::start();
    let client = served.client;
    client.blob("a", b"{}");
    let subject = image(b"{}", &[]);
    let small = about(&subject, 10, 0);
    client.manifest("a", digest_of(&small).as_str(), OCI_MANIFEST, &small).expect(201);
    let kept = files(served.root());
    let large = about(&subject, 1 << 20, 0);
    assert_eq!(client.manifest("a", "large", OCI_MANIFEST, &large).expect(400).code(), "MANIFEST_INVALID");
    assert_eq!(files(served.root()), kept);
    let listed = client.get(&format!("/v2/a/referrers/{}", digest_of(&subject))).expect(200).json();
    assert_eq!(listed["manifests"].as_array().unwrap().len(), 1);
}

#[test]
fn many_large_referrers_are_listed_in_pages_each_exactly_once() {
    let served = Served::start();
    let client = served.client;
    client.blob("a", b"{}");
    let subject = image(b"{}", &[]);
    let mut pushed = Vec::new();
    for mark in 0..6 {
        let artifact = about(&subject, 900 << 10, mark);
        let digest = digest_of(&artifact);
        client.manifest("a", digest.as_str(), OCI_MANIFEST, &artifact).expect(201);
        pushed.push(digest.to_string());
    }
    pushed.sort();
    for filter in ["", "?artifactType=application/x.big"] {
        let mut next = Some(format!("/v2/a/referrers/{}{filter}", digest_of(&subject)));
        let (mut listed, mut pages) = (Vec::new(), 0);
        while let Some(path) = next {
            let page = client.get(&path).expect(200);
            assert!(page.body.len() < 5 << 20, "a page of {} bytes", page.body.len());
            let json = page.json();
            let digests = json["manifests"].as_array().unwrap().iter();
            listed.extend(digests.map(|entry| entry["digest"].as_str().unwrap().to_owned()));
            next = page.header("link").split_once('>').map(|(link, _)| link.trim_start_matches('<').to_owned());
            pages += 1;
        }
        assert_eq!((listed, pages), (pushed.clone(), 2), "{filter}");
    }
}

#[test]
fn an_index_of_more_entries_than_are_looked_for_is_refused() {
    let served = Served::start();
    let entry = descriptor(OCI_MANIFEST, b"not here");
    let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": vec![entry; 10_001] });
    let refused = served.client.manifest("a", "1", OCI_INDEX, &index).expect(400);
    assert_eq!(refused.code(), "MANIFEST_INVALID");
    served.client.get("/v2/a/manifests/1").expect(404);
}

#[test]
fn a_read_only_registry_serves_and_takes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let layer = {
        let served = Served::at(directory.path(), Settings::default(), |_| {});
        served.client.image("a", "1", b"layer");
        sha256(b"layer")
    };
    let served = Served::at(directory.path(), Settings { read_only: true, ..Settings::default() }, |_| {});
    served.client.get("/v2/a/manifests/1").expect(200);
    assert!(served.client.has("a", &layer));
    for (method, path) in [
        ("POST", "/v2/a/blobs/uploads/".to_owned()),
        ("PUT", "/v2/a/manifests/2".to_owned()),
        ("DELETE", "/v2/a/manifests/1".to_owned()),
        ("DELETE", format!("/v2/a/blobs/{layer}")),
    ] {
        assert_eq!(served.client.send(method, &path, &[], b"").expect(403).code(), "DENIED", "{method} {path}");
    }
}

#[test]
fn a_manifest_whose_bytes_were_changed_on_disk_is_not_served() {
    let served = Served::start();
    let manifest = served.client.image("a", "1", b"layer");
    let digest = digest_of(&manifest);
    let path = served.root().join("content/sha256").join(&digest.hex()[..2]).join(digest.hex());
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[20] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    served.client.get("/v2/a/manifests/1").expect(500);
    // Pushing it again heals it.
    served.client.manifest("a", "1", OCI_MANIFEST, &manifest).expect(201);
    assert_eq!(served.client.get("/v2/a/manifests/1").expect(200).body, manifest.to_string().as_bytes());
}
