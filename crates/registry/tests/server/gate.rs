//! The gate before a real server, over the wire: what rules forbid is reached by no way around.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gantry_registry::server::auth::{AuthSettings, Gate, Policy};
use gantry_registry::server::config::Config;
use gantry_registry::server::front::Front;
use gantry_registry::server::limits::LimitSettings;
use gantry_registry::server::{Digest, Settings};
use serde_json::Value;

use crate::client::{digest_of, sha256};
use crate::served::Served;

/// `secret`, as `htpasswd -B` hashes it.
const SECRET: &str = "$2b$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW";
const LAYER: &[u8] = b"a layer that only alice may read";
const RULES: &str = r#"
[[rules]]
users = ["alice"]
repositories = ["**"]
actions = ["pull", "push", "delete"]
[[rules]]
users = ["bob"]
repositories = ["shared/**"]
actions = ["pull", "push"]
"#;

/// A server with `secret/app` and `shared/app`, and who it lets in.
fn guarded() -> (Served, tempfile::TempDir, Digest) {
    let directory = tempfile::tempdir().unwrap();
    let open = Served::at(directory.path(), Settings::default(), |_| {});
    let manifest = digest_of(&open.client.image("secret/app", "1", LAYER));
    open.client.image("shared/app", "1", b"a layer of everybody's");
    drop(open);
    let users = directory.path().join("htpasswd");
    std::fs::write(&users, format!("alice:{SECRET}\nbob:{SECRET}\n")).unwrap();
    let settings = AuthSettings { htpasswd: Some(users), ..toml::from_str(RULES).unwrap() };
    let policy = Policy::open(&settings, directory.path(), None, false).unwrap();
    let gate = Arc::new(Gate::new(policy, &LimitSettings::default(), false));
    let served = Served::at(directory.path(), Settings::default(), |server| server.access = gate);
    (served, directory, manifest)
}

fn as_user(user: &str) -> (&'static str, String) {
    ("Authorization", format!("Basic {}", STANDARD.encode(format!("{user}:secret"))))
}

#[test]
fn a_mount_from_a_repository_that_one_may_not_read_is_an_upload_like_any_other() {
    let (served, _directory, _) = guarded();
    let blob = sha256(LAYER);
    for from in
        ["&from=secret/app".to_owned(), String::new(), "&from=shared/app".to_owned(), "&from=none/app".to_owned()]
    {
        let (name, value) = as_user("bob");
        let path = format!("/v2/shared/app/blobs/uploads/?mount={blob}{from}");
        served.client.send("POST", &path, &[(name, &value)], b"").expect(202);
        served.client.send("GET", &format!("/v2/shared/app/blobs/{blob}"), &[(name, &value)], b"").expect(404);
    }
    let (name, value) = as_user("alice");
    let path = format!("/v2/shared/app/blobs/uploads/?mount={blob}&from=secret/app");
    served.client.send("POST", &path, &[(name, &value)], b"").expect(201);
}

#[test]
fn lists_and_searches_show_what_their_reader_may_pull_and_nothing_to_nobody() {
    let (served, _directory, _) = guarded();
    let names = |user: &str, path: &str| -> Vec<String> {
        let (name, value) = as_user(user);
        let answer = served.client.send("GET", path, &[(name, &value)], b"").expect(200).json();
        let list = answer["repositories"].as_array().or(answer["results"].as_array()).unwrap().clone();
        let text = |entry: &Value| entry.as_str().or(entry["name"].as_str()).unwrap().to_owned();
        list.iter().map(text).collect()
    };
    for path in ["/v2/_catalog", "/v2/_catalog?n=1", "/v1/search?q=app", "/v1/search?q=secret"] {
        assert!(names("bob", path).iter().all(|name| name == "shared/app"), "{path}");
        served.client.get(path).expect(401);
    }
    assert_eq!(names("bob", "/v2/_catalog"), ["shared/app"]);
    assert_eq!(names("alice", "/v2/_catalog"), ["secret/app", "shared/app"]);
    assert_eq!(names("alice", "/v1/search?q=secret"), ["secret/app"]);
}

#[test]
fn no_way_of_asking_shows_a_forbidden_repository_or_whether_it_is_there() {
    let (served, _directory, manifest) = guarded();
    let (name, bob) = as_user("bob");
    let (_, alice) = as_user("alice");
    let blob = sha256(LAYER);
    let ways = |repository: &str| {
        [
            format!("/v2/{repository}/manifests/1"),
            format!("/v2/{repository}/manifests/{manifest}"),
            format!("/v2/{repository}/blobs/{blob}"),
            format!("/v2/{repository}/tags/list"),
            format!("/v2/{repository}/referrers/{manifest}"),
        ]
    };
    for (there, nowhere) in ways("secret/app").into_iter().zip(ways("secret/none")) {
        for method in ["GET", "HEAD"] {
            served.client.send(method, &there, &[(name, &alice)], b"").expect(200);
            for (headers, status) in [(vec![], 401), (vec![(name, bob.as_str())], 403)] {
                let told = served.client.send(method, &there, &headers, b"").expect(status);
                let other = served.client.send(method, &nowhere, &headers, b"").expect(status);
                assert_eq!(told.header("content-length").len(), other.header("content-length").len());
            }
            // The right one beside the wrong one, in either order, is none.
            for pair in [[&bob, &alice], [&alice, &bob]] {
                let headers = pair.map(|value| (name, value.as_str()));
                served.client.send(method, &there, &headers, b"").expect(401);
            }
        }
    }
    for path in [
        "/v2/shared/../secret/app/manifests/1",
        "/v2/shared/%2e%2e/secret/app/manifests/1",
        "/v2/shared%2f..%2fsecret/app/manifests/1",
        "/v2//secret/app/manifests/1",
        "//v2/secret/app/manifests/1",
        "/v2/secret//app/manifests/1",
        "/v2/secret/app/manifests//1",
        "/v2/Secret/app/manifests/1",
        "/v2/secret/app%00shared/manifests/1",
        "http://127.0.0.1/v2/secret/app/manifests/1",
    ] {
        let answer = served.client.send("GET", path, &[(name, &bob)], b"");
        assert!(matches!(answer.status, 400 | 403 | 404), "{path}: {}", answer.status);
        assert!(!String::from_utf8_lossy(&answer.body).contains("schemaVersion"), "{path}");
    }
}

#[test]
fn a_request_is_named_in_its_answer_and_a_refusal_tells_what_to_show() {
    let (served, _directory, _) = guarded();
    let answer = served.client.send("GET", "/v2/", &[("X-Request-Id", "from-a-proxy.1")], b"").expect(401);
    assert_eq!(answer.header("x-request-id"), "from-a-proxy.1");
    assert_eq!(answer.header("www-authenticate"), "Basic realm=\"gantry registry\"");
    assert_eq!(answer.code(), "UNAUTHORIZED");
    let (name, value) = as_user("bob");
    let answer = served.client.send("DELETE", "/v2/shared/app/manifests/1", &[(name, &value)], b"").expect(403);
    assert_eq!(answer.code(), "DENIED");
    assert!(!answer.header("x-request-id").is_empty());
}

#[test]
fn a_body_that_does_not_say_its_length_is_cut_where_one_that_does_is_refused() {
    let limits = LimitSettings { request_bytes: "1000".parse().unwrap(), ..LimitSettings::default() };
    let gate = Arc::new(Gate::new(None, &limits, false));
    let directory = tempfile::tempdir().unwrap();
    let served = Served::at(directory.path(), Settings::default(), |server| server.access = gate);
    let at = served.client.start("a");
    served.client.send("PATCH", &at, &[], &[7; 1001]).expect(413);
    let chunked = |size: usize| {
        let mut stream = TcpStream::connect(("127.0.0.1", served.client.port)).unwrap();
        let head = format!(
            "PATCH {at} HTTP/1.1\r\nHost: r\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n{size:x}\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(&vec![7; size]).unwrap();
        stream.write_all(b"\r\n0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let refused = chunked(1001);
    assert!(refused.starts_with("HTTP/1.1 413 ") && refused.contains("send it in chunks"), "{refused}");
    assert!(chunked(1000).starts_with("HTTP/1.1 202 "));
}

#[test]
fn a_reload_never_opens_to_the_network_what_was_guarded() {
    let directory = tempfile::tempdir().unwrap();
    let users = directory.path().join("htpasswd");
    std::fs::write(&users, format!("alice:{SECRET}\n")).unwrap();
    let guarded: Config = format!("insecure = true\n[auth]\nhtpasswd = {users:?}").parse().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let front = runtime.block_on(Front::open(guarded, directory.path())).unwrap();
    let served = Served::at(directory.path(), Settings::default(), |server| front.equip(server));
    let error = front.reload(&Config::default(), "192.0.2.1:5000".parse().unwrap()).unwrap_err().to_string();
    assert!(error.contains("listen on 192.0.2.1:5000"), "{error}");
    served.client.get("/v2/").expect(401);
}

#[test]
fn an_address_has_so_many_connections_at_once_and_who_is_beyond_that_is_told_to_wait() {
    let directory = tempfile::tempdir().unwrap();
    let config = |count: usize| format!("[limits]\nconnections = {count}").parse::<Config>().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let front = runtime.block_on(Front::open(config(3), directory.path())).unwrap();
    // None of those that are told leaves before this ends, whatever else the machine does.
    let settings = Settings { refusal: Duration::from_secs(300), ..Settings::default() };
    let served = Served::at(directory.path(), settings, |server| front.equip(server));
    let connect = || TcpStream::connect(("127.0.0.1", served.client.port)).unwrap();
    let ask = |stream: &mut TcpStream| {
        stream.write_all(b"GET /v2/ HTTP/1.1\r\nHost: r\r\n\r\n")?;
        let mut answer = String::new();
        // It ends where the server closes, though nobody asked for that.
        stream.read_to_string(&mut answer).map(|_| answer)
    };
    // They are taken in the order in which they come.
    let silent = [connect(), connect(), connect()];
    let mut told = vec![connect()];
    let refused = ask(&mut told[0]).unwrap().to_lowercase();
    for words in ["http/1.1 429 ", "retry-after: 1\r", "connection: close\r", "toomanyrequests", "3 are served at once"]
    {
        assert!(refused.contains(words), "{words} is not in {refused}");
    }
    // Who is in the middle of a large body sends it, and then finds the answer.
    let mut sender = connect();
    sender
        .write_all(
            b"POST /v2/a/blobs/uploads/ HTTP/1.1
Host: r
Content-Length: 67108864

",
        )
        .unwrap();
    for _ in 0..64 {
        sender.write_all(&[7; 1 << 20]).unwrap();
    }
    let mut answer = String::new();
    sender.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 429 "), "{answer}");
    told.push(sender);
    told.extend((2..16).map(|_| connect()));
    let unsaid = ask(&mut connect());
    assert!(unsaid.as_ref().map_or(true, String::is_empty), "{unsaid:?}");
    drop(told);
    drop(silent);
    // The limit is one of those that a reload changes.
    front.reload(&config(0), "127.0.0.1:5000".parse().unwrap()).unwrap();
    let many: Vec<_> = (0..40).map(|_| connect()).collect();
    served.client.get("/v2/").expect(200);
    drop(many);
}
