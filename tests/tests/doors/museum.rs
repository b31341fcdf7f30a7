//! Incidents of engines whose policies looked at bytes (CVE-2024-41110, CVE-2026-34040) and of parsers that disagree: the
//! same request in every disguise. None may make the container that the read-only socket forbids.

use std::io::{Read, Write};
use std::time::Duration;

use gantry_tests::http;

use super::{Doors, doors};

/// Sends bytes and gives what comes back until the other end closes or says nothing more.
fn raw(doors: &Doors, bytes: &[u8]) -> String {
    let mut stream = http::connect(&doors.file("read-only.sock")).expect("a connection");
    stream.set_read_timeout(Some(Duration::from_millis(700))).expect("a deadline");
    // The daemon may have answered and closed before it had everything.
    stream.write_all(bytes).ok();
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    while let Ok(length @ 1..) = stream.read(&mut piece) {
        answer.extend_from_slice(&piece[..length]);
    }
    String::from_utf8_lossy(&answer).into_owned()
}

fn statuses(answer: &str) -> Vec<u16> {
    answer.match_indices("HTTP/1.1 ").filter_map(|(at, _)| answer.get(at + 9..at + 12)?.parse().ok()).collect()
}

#[test]
fn no_disguise_of_a_request_gets_a_container_past_the_policy() {
    let doors = doors();
    let name = doors.world.name("smuggled");
    let body = r#"{"Image": "busybox", "Cmd": ["true"], "HostConfig": {"Privileged": true}}"#;
    let path = format!("/containers/create?name={name}");
    let json = "Host: x\r\nContent-Type: application/json\r\n";
    let chunked = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    let padded = format!("{body}{}", " ".repeat(2 << 20));
    let oversized = format!("{body}{}", " ".repeat(5 << 20));
    let twice = body.replacen("{", r#"{"Image": "nope", "image": "busybox", "#, 1);
    let with = |path: &str, headers: &str, body: &str| {
        format!("POST {path} HTTP/1.1\r\n{json}{headers}Content-Length: {}\r\n\r\n{body}", body.len())
    };
    let cases: Vec<(&str, String)> = vec![
        ("plain", with(&path, "", body)),
        ("no body at all", with(&path, "", "")),
        (
            "a length of zero and a body behind it",
            format!("POST {path} HTTP/1.1\r\n{json}Content-Length: 0\r\n\r\n{body}"),
        ),
        ("larger than what a policy would look at", with(&path, "", &padded)),
        ("larger than any request", with(&path, "", &oversized)),
        ("in chunks", format!("POST {path} HTTP/1.1\r\n{json}Transfer-Encoding: chunked\r\n\r\n{chunked}")),
        (
            "in chunks that are called otherwise",
            format!("POST {path} HTTP/1.1\r\n{json}Transfer-Encoding: Chunked, identity\r\n\r\n{chunked}"),
        ),
        (
            "with both lengths",
            format!("POST {path} HTTP/1.1\r\n{json}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n{chunked}"),
        ),
        (
            "with two lengths",
            format!("POST {path} HTTP/1.1\r\n{json}Content-Length: 0\r\nContent-Length: {}\r\n\r\n{body}", body.len()),
        ),
        ("with keys twice", with(&path, "", &twice)),
        ("after Expect", with(&path, "Expect: 100-continue\r\n", body)),
        ("with an upgrade", with(&path, "Connection: Upgrade\r\nUpgrade: tcp\r\n", body)),
        (
            "with an upgrade to h2c",
            with(&path, "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n", body),
        ),
        (
            "behind a request that is allowed",
            format!("GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n{}", with(&path, "", body)),
        ),
        (
            "behind one with a body",
            format!("GET /info HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{{}}{}", with(&path, "", body)),
        ),
        ("with a version", with(&format!("/v1.44{path}"), "", body)),
        ("with two versions", with(&format!("/v1.44/v1.44{path}"), "", body)),
        ("with an odd version", with(&format!("/v1.44/..{path}"), "", body)),
        ("with doubled slashes", with(&format!("/{path}"), "", body)),
        ("through a dot", with(&path.replace("/create", "/./create"), "", body)),
        ("through an escaped dot", with(&path.replace("/create", "/%2e/create"), "", body)),
        ("through escaped dots", with(&path.replace("/containers", "/images/%2e%2e/containers"), "", body)),
        ("with escaped letters", with(&path.replace("create", "cre%61te"), "", body)),
        ("with an escaped slash", with(&path.replace("/create", "%2fcreate"), "", body)),
        ("under another method", with(&path, "X-HTTP-Method-Override: POST\r\n", body).replacen("POST", "GET", 1)),
        ("as a lower-case method", with(&path, "", body).replacen("POST", "post", 1)),
        ("with an absolute address", with(&format!("http://x{path}"), "", body)),
        ("as HTTP/1.0", with(&path, "", body).replacen("HTTP/1.1", "HTTP/1.0", 1)),
        ("as another type", with(&path, "", body).replacen("application/json", "text/plain", 1)),
        ("with a folded header", with(&path, "X: a\r\n\tb\r\n", body)),
        ("with a bare line feed", with(&path, "", body).replace("\r\n", "\n")),
    ];
    // All at once: most of them leave the daemon waiting for more.
    let answers: Vec<String> = std::thread::scope(|scope| {
        let asked: Vec<_> = cases.iter().map(|(_, bytes)| scope.spawn(|| raw(&doors, bytes.as_bytes()))).collect();
        asked.into_iter().map(|asked| asked.join().expect("an answer")).collect()
    });
    for ((disguise, _), answer) in cases.iter().zip(&answers) {
        let codes = statuses(answer);
        assert!(codes.iter().all(|code| !matches!(code, 201 | 204 | 101)), "{disguise}: {answer}");
        let made = doors.world.daemon.get(&format!("/containers/{name}/json")).expect("an answer").status;
        assert_eq!(made, 404, "{disguise}: {answer}");
    }
    let refused = raw(&doors, cases[0].1.as_bytes());
    assert!(refused.contains("create: not allowed through unix://"), "{refused}");
    // The same on a socket that allows it: the requests are ones that would work.
    let allowed = http::unix(&doors.world.daemon.socket(), "POST", &path, Some(body.as_bytes())).expect("an answer");
    assert_eq!(allowed.status, 201, "{}", allowed.text());
    doors.world.gantry().ok(&["rm", "-f", &name]);
}

#[test]
fn no_stream_is_taken_over_through_a_read_only_socket() {
    let doors = doors();
    let name = doors.world.name("watched");
    doors.world.gantry().ok(&["run", "-d", "--name", &name, "-i", gantry_tests::IMAGE, "cat"]);
    let attach = format!("/containers/{name}/attach?stream=1&stdin=1&stdout=1");
    for headers in ["", "Connection: Upgrade\r\nUpgrade: tcp\r\n", "Connection: Upgrade\r\nUpgrade: websocket\r\n"] {
        for prefix in ["", "/v1.44"] {
            let bytes =
                format!("POST {prefix}{attach} HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: 0\r\n\r\ninput\n");
            let answer = raw(&doors, bytes.as_bytes());
            // What was to be the stream's input is no request.
            let codes = statuses(&answer);
            assert!(matches!(codes.as_slice(), [403] | [403, 400]), "{headers:?}: {answer}");
        }
    }
    doors.world.gantry().ok(&["rm", "-f", &name]);
}
