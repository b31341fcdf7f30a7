//! Uploads that do not go straight: out of order, cut off, given up, gone on with by the next server.

use std::io::Write;
use std::time::{Duration, SystemTime};

use crate::client::{answer, sha256};
use crate::served::{Served, files};
use gantry_registry::server::{Settings, Uploads};

#[test]
fn a_chunk_out_of_order_is_refused_and_told_where_to_go_on() {
    let served = Served::start();
    let client = served.client;
    let place = client.start("a");
    client.send("PATCH", &place, &[("Content-Range", "0-4")], b"01234").expect(202);
    for (method, range) in [("PATCH", "6-7"), ("PATCH", "0-1"), ("PUT", "9-10")] {
        let path = format!("{place}?digest={}", sha256(b"0123456"));
        let refused = client.send(method, &path, &[("Content-Range", range)], b"xx").expect(416);
        assert_eq!((refused.code().as_str(), refused.header("range")), ("RANGE_INVALID", "0-4"), "{method} {range}");
        assert_eq!(refused.header("location"), place);
    }
    let state = client.get(&place).expect(204);
    assert_eq!((state.header("range"), state.header("location")), ("0-4", &*place));
    let path = format!("{place}?digest={}", sha256(b"0123456"));
    client.send("PUT", &path, &[("Content-Range", "5-6")], b"56").expect(201);
    assert_eq!(client.get(&place).expect(404).code(), "BLOB_UPLOAD_UNKNOWN");
}

#[test]
fn a_chunk_that_is_not_what_its_range_says_is_refused() {
    let served = Served::start();
    let place = served.client.start("a");
    for (range, status, code) in
        [("0-9", 400, "SIZE_INVALID"), ("x", 400, "RANGE_INVALID"), ("5-3", 400, "RANGE_INVALID")]
    {
        let refused = served.client.send("PATCH", &place, &[("Content-Range", range)], b"01234").expect(status);
        assert_eq!(refused.code(), code, "{range}");
    }
    let place = served.client.start("a");
    let refused = served.client.send("PATCH", &place, &[("Content-Range", "0-1")], b"01234").expect(400);
    assert_eq!(refused.code(), "SIZE_INVALID");
}

#[test]
fn content_of_another_digest_is_thrown_away() {
    let served = Served::start();
    let client = served.client;
    let wrong = sha256(b"something else");
    let place = client.start("a");
    let refused = client.send("PUT", &format!("{place}?digest={wrong}"), &[], b"content").expect(400);
    assert_eq!(refused.code(), "DIGEST_INVALID");
    assert!(refused.json()["errors"][0]["message"].as_str().unwrap().contains(sha256(b"content").as_str()));
    client.get(&place).expect(404);
    let refused = client.send("POST", &format!("/v2/a/blobs/uploads/?digest={wrong}"), &[], b"content").expect(400);
    assert_eq!(refused.code(), "DIGEST_INVALID");
    let place = client.start("a");
    assert_eq!(client.send("PUT", &place, &[], b"content").expect(400).code(), "DIGEST_INVALID");
    client.send("DELETE", &place, &[], b"").expect(204);
    client.send("DELETE", &place, &[], b"").expect(404);
    assert!(files(&served.root().join("content")).is_empty());
    assert!(files(&served.root().join("uploads")).is_empty());
}

#[test]
fn an_upload_is_its_repositorys_alone() {
    let served = Served::start();
    let place = served.client.start("a");
    let elsewhere = place.replacen("/v2/a/", "/v2/b/", 1);
    for method in ["GET", "PATCH", "PUT", "DELETE"] {
        let path = format!("{elsewhere}?digest={}", sha256(b""));
        assert_eq!(served.client.send(method, &path, &[], b"").expect(404).code(), "BLOB_UPLOAD_UNKNOWN", "{method}");
    }
    served.client.get(&place).expect(204);
}

#[test]
fn what_came_before_a_connection_was_cut_is_kept_and_a_new_one_goes_on() {
    let served = Served::start();
    let client = served.client;
    let content: Vec<u8> = (0..600_000_u32).map(|at| (at % 251) as u8).collect();
    let place = client.start("a");
    let mut cut = client.begin("PATCH", &place, &[], content.len() as u64);
    cut.write_all(&content[..400_000]).unwrap();
    drop(cut);
    // The same question until the server has seen that the connection is gone: it stops growing at what was sent.
    let mut size = 0;
    while size < 400_000 {
        size = client.get(&place).expect(204).header("range").split_once('-').unwrap().1.parse::<usize>().unwrap() + 1;
    }
    assert_eq!(size, 400_000);
    let rest = format!("{size}-{}", content.len() - 1);
    client.send("PATCH", &place, &[("Content-Range", &rest)], &content[size..]).expect(202);
    let digest = sha256(&content);
    client.send("PUT", &format!("{place}?digest={digest}"), &[], b"").expect(201);
    assert!(client.get(&format!("/v2/a/blobs/{digest}")).expect(200).body == content);
}

#[test]
fn a_newer_request_takes_over_from_one_that_hangs() {
    let served = Served::start();
    let client = served.client;
    let place = client.start("a");
    let mut hangs = client.begin("PATCH", &place, &[], 1_000_000);
    hangs.write_all(&[1; 300_000]).unwrap();
    while client.get(&place).expect(204).header("range") == "0-0" {}
    let taken_over = client.send("PATCH", &place, &[], b"more").expect(202);
    let size: usize = taken_over.header("range").split_once('-').unwrap().1.parse().unwrap();
    assert_eq!(answer(hangs, false).expect(400).code(), "BLOB_UPLOAD_INVALID");
    let content = [vec![1; size + 1 - 4], b"more".to_vec()].concat();
    client.send("PUT", &format!("{place}?digest={}", sha256(&content)), &[], b"").expect(201);
}

#[test]
fn an_upload_goes_on_after_the_server_was_started_anew() {
    let directory = tempfile::tempdir().unwrap();
    let content: Vec<u8> = (0..500_000_u32).map(|at| (at % 253) as u8).collect();
    let mut place = String::new();
    for (index, part) in content.chunks(130_000).enumerate() {
        let served = Served::at(directory.path(), Settings::default(), |_| {});
        if index == 0 {
            place = served.client.start("a/b");
        }
        let range = format!("{}-{}", index * 130_000, index * 130_000 + part.len() - 1);
        served.client.send("PATCH", &place, &[("Content-Range", &range)], part).expect(202);
    }
    let served = Served::at(directory.path(), Settings::default(), |_| {});
    assert_eq!(served.client.get(&place).expect(204).header("range"), "0-499999");
    let digest = sha256(&content);
    served.client.send("PUT", &format!("{place}?digest={digest}"), &[], b"").expect(201);
    assert!(served.client.get(&format!("/v2/a/b/blobs/{digest}")).expect(200).body == content);
}

#[test]
fn a_server_that_stops_finishes_what_runs() {
    let mut served = Served::start();
    let client = served.client;
    let content = vec![3; 400_000];
    let digest = sha256(&content);
    let path = format!("{}?digest={digest}", client.start("a"));
    let mut runs = client.begin("PUT", &path, &[], content.len() as u64);
    runs.write_all(&content[..300_000]).unwrap();
    let place = path.split('?').next().unwrap();
    while client.get(place).expect(204).header("range") == "0-0" {}
    let rest = std::thread::spawn(move || {
        runs.write_all(&[3; 100_000]).unwrap();
        answer(runs, false)
    });
    assert_eq!(served.stop(), 0);
    rest.join().unwrap().expect(201);
    assert_eq!(files(&served.root().join("content")).len(), 1);
}

#[test]
fn uploads_that_nobody_goes_on_with_expire() {
    let directory = tempfile::tempdir().unwrap();
    let served = Served::at(directory.path(), Settings::default(), |_| {});
    let place = served.client.start("a");
    served.client.send("PATCH", &place, &[], b"01234").expect(202);
    drop(served);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let uploads = Uploads::open(directory.path().join("uploads")).unwrap();
    let hour = Duration::from_secs(3600);
    assert_eq!(runtime.block_on(uploads.expire(SystemTime::now() - hour)).unwrap(), 0);
    assert_eq!(runtime.block_on(uploads.expire(SystemTime::now() + hour)).unwrap(), 1);
    assert!(files(&directory.path().join("uploads")).is_empty());
}
