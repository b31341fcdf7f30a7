//! Blobs: pushed in each way, read whole and in part, mounted, deleted.

use crate::client::{Answer, Client, sha256};
use crate::served::Served;
use gantry_registry::server::{Algorithm, Digest};

fn read(client: Client, name: &str, digest: &Digest, headers: &[(&str, &str)]) -> Answer {
    client.send("GET", &format!("/v2/{name}/blobs/{digest}"), headers, b"")
}

#[test]
fn a_blob_is_pushed_in_each_way_and_comes_back() {
    let served = Served::start();
    let client = served.client;
    let content: Vec<u8> = (0..700_000_u32).flat_map(u32::to_le_bytes).collect();
    for way in ["one request", "post and put", "chunks", "stream", "chunks and a last one", "nothing"] {
        let content = if way == "nothing" { Vec::new() } else { [way.as_bytes(), &content].concat() };
        let digest = sha256(&content);
        let closing = |place: &str| format!("{place}?digest={digest}");
        let done = match way {
            "one request" | "nothing" => client.send("POST", &closing("/v2/a/b/blobs/uploads/"), &[], &content),
            "post and put" => client.send("PUT", &closing(&client.start("a/b")), &[], &content),
            "stream" => {
                let place = client.start("a/b");
                let sent =
                    client.stream("PATCH", &place, &[], &[&content[..1], &content[1..500_000], &content[500_000..]]);
                assert_eq!(sent.expect(202).header("range"), format!("0-{}", content.len() - 1));
                client.send("PUT", &closing(&place), &[], b"")
            }
            _ => {
                let mut place = client.start("a/b");
                let last = if way == "chunks" { content.len() } else { 2_000_000 };
                for (first, end) in [(0, 1), (1, 300_000), (300_000, last)] {
                    let range = format!("{first}-{}", end - 1);
                    let sent =
                        client.send("PATCH", &place, &[("Content-Range", &range)], &content[first..end]).expect(202);
                    assert_eq!(sent.header("range"), format!("0-{}", end - 1));
                    place = sent.header("location").to_owned();
                }
                client.send("PUT", &closing(&place), &[], &content[last..])
            }
        };
        let done = done.expect(201);
        assert_eq!(done.header("location"), format!("/v2/a/b/blobs/{digest}"));
        assert_eq!(done.header("docker-content-digest"), digest.as_str());
        let got = read(client, "a/b", &digest, &[]).expect(200);
        assert!(got.body == content, "{way}: other bytes came back");
        let head = client.send("HEAD", &format!("/v2/a/b/blobs/{digest}"), &[], b"").expect(200);
        assert_eq!(head.header("content-length"), content.len().to_string());
        assert_eq!(head.header("docker-content-digest"), digest.as_str());
    }
}

#[test]
fn both_algorithms_name_a_blob_whichever_the_upload_began_with() {
    let served = Served::start();
    let digest = Digest::of(Algorithm::Sha512, b"content");
    for begin in ["", "?digest-algorithm=sha512"] {
        let begun = served.client.send("POST", &format!("/v2/a/blobs/uploads/{begin}"), &[], b"").expect(202);
        let place = format!("{}?digest={digest}", begun.header("location"));
        served.client.send("PUT", &place, &[], b"content").expect(201);
        assert_eq!(read(served.client, "a", &digest, &[]).expect(200).body, b"content");
        served.client.send("DELETE", &format!("/v2/a/blobs/{digest}"), &[], b"").expect(202);
    }
    let refused = served.client.send("POST", "/v2/a/blobs/uploads/?digest-algorithm=md5", &[], b"").expect(400);
    assert_eq!(refused.code(), "DIGEST_INVALID");
}

#[test]
fn parts_of_a_blob_are_served_and_a_part_outside_it_is_refused() {
    let served = Served::start();
    let content: Vec<u8> = (0..=255_u8).cycle().take(300_000).collect();
    let digest = served.client.blob("a", &content);
    for (range, bytes, says) in [
        ("bytes=0-0", &content[..1], "bytes 0-0/300000"),
        ("bytes=131000-262200", &content[131_000..262_201], "bytes 131000-262200/300000"),
        ("bytes=299999-400000", &content[299_999..], "bytes 299999-299999/300000"),
        ("bytes=-5", &content[299_995..], "bytes 299995-299999/300000"),
        ("bytes=100-", &content[100..], "bytes 100-299999/300000"),
    ] {
        let part = read(served.client, "a", &digest, &[("Range", range)]).expect(206);
        assert!(part.body == bytes, "{range}");
        assert_eq!(part.header("content-range"), says);
    }
    let outside = read(served.client, "a", &digest, &[("Range", "bytes=300000-")]).expect(416);
    assert_eq!((outside.code().as_str(), outside.header("content-range")), ("RANGE_INVALID", "bytes */300000"));
    // Of two ranges at once all is sent, as is allowed.
    assert_eq!(read(served.client, "a", &digest, &[("Range", "bytes=0-1,5-6")]).expect(200).body.len(), 300_000);
}

#[test]
fn who_has_the_content_is_not_sent_it_again() {
    let served = Served::start();
    let digest = served.client.blob("a", b"content");
    let etag = read(served.client, "a", &digest, &[]).expect(200).header("etag").to_owned();
    for known in [etag.clone(), format!("\"x\", W/{etag}"), "*".to_owned()] {
        assert!(read(served.client, "a", &digest, &[("If-None-Match", &known)]).expect(304).body.is_empty());
    }
    read(served.client, "a", &digest, &[("If-None-Match", "\"other\"")]).expect(200);
    let changed = read(served.client, "a", &digest, &[("Range", "bytes=0-1"), ("If-Range", "\"other\"")]);
    assert_eq!(changed.expect(200).body, b"content");
    let same = read(served.client, "a", &digest, &[("Range", "bytes=0-1"), ("If-Range", &etag)]);
    assert_eq!(same.expect(206).body, b"co");
}

#[test]
fn a_blob_belongs_to_the_repositories_that_it_was_given_to() {
    let served = Served::start();
    let client = served.client;
    let digest = client.blob("a", b"content");
    assert!(!client.has("b", &digest));
    assert_eq!(read(client, "b", &digest, &[]).expect(404).code(), "BLOB_UNKNOWN");
    let mounted = client.send("POST", &format!("/v2/b/blobs/uploads/?mount={digest}&from=a"), &[], b"").expect(201);
    assert_eq!(mounted.header("location"), format!("/v2/b/blobs/{digest}"));
    // Deleting it in one leaves it in the other.
    client.send("DELETE", &format!("/v2/a/blobs/{digest}"), &[], b"").expect(202);
    assert_eq!(client.send("DELETE", &format!("/v2/a/blobs/{digest}"), &[], b"").expect(404).code(), "BLOB_UNKNOWN");
    assert_eq!(read(client, "b", &digest, &[]).expect(200).body, b"content");
    // From wherever it is; and what is nowhere becomes an upload.
    client.send("POST", &format!("/v2/c/blobs/uploads/?mount={digest}"), &[], b"").expect(201);
    let nowhere = sha256(b"nowhere");
    for query in [format!("mount={nowhere}&from=a"), format!("mount={digest}&from=a"), format!("mount={nowhere}")] {
        let begun = client.send("POST", &format!("/v2/d/blobs/uploads/?{query}"), &[], b"").expect(202);
        assert!(begun.header("location").starts_with("/v2/d/blobs/uploads/"), "{query}");
    }
}

#[test]
fn content_is_kept_once_however_often_it_is_pushed() {
    let served = Served::start();
    let digests: Vec<_> = std::thread::scope(|scope| {
        let push = |name: &'static str| scope.spawn(move || served.client.blob(name, &[7; 400_000]));
        ["a", "b", "a", "c/d", "a", "b"].map(push).map(|push| push.join().unwrap()).to_vec()
    });
    let kept: Vec<_> = crate::served::files(&served.root().join("content"));
    assert_eq!(kept.len(), 1, "{kept:?}");
    assert!(crate::served::files(&served.root().join("uploads")).is_empty());
    assert!(["a", "b", "c/d"].iter().all(|name| served.client.has(name, &digests[0])));
}

#[test]
fn words_that_are_no_names_are_refused_and_reach_no_file() {
    let served = Served::start();
    let digest = sha256(b"x");
    for (path, status, code) in [
        (format!("/v2/../../etc/blobs/{digest}"), 400, "NAME_INVALID"),
        (format!("/v2/A/blobs/{digest}"), 400, "NAME_INVALID"),
        (format!("/v2/a%2F..%2Fb/blobs/{digest}"), 400, "NAME_INVALID"),
        ("/v2/a/blobs/sha256:short".to_owned(), 400, "DIGEST_INVALID"),
        (format!("/v2/a/blobs/uploads/../{digest}"), 404, "UNSUPPORTED"),
        ("/v2/a/blobs/uploads/..".to_owned(), 404, "BLOB_UPLOAD_UNKNOWN"),
        ("/v2/a/manifests/..".to_owned(), 400, "TAG_INVALID"),
        ("/v2/a/nothing".to_owned(), 404, "UNSUPPORTED"),
        ("/v2/a%zz/tags/list".to_owned(), 400, "UNSUPPORTED"),
    ] {
        let answer = served.client.get(&path).expect(status);
        assert_eq!(answer.code(), code, "{path}");
    }
    assert_eq!(served.client.send("PATCH", "/v2/", &[], b"").expect(405).code(), "UNSUPPORTED");
    let base = served.client.get("/v2/").expect(200);
    assert_eq!(base.header("docker-distribution-api-version"), "registry/2.0");
}
