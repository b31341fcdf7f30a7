//! Rude callers: others are served meanwhile, and memory comes back.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use gantry_tests::{eventually, http};

use super::{Doors, clients, doors, run};

/// What others get, and how soon.
fn others_are_served(doors: &Doors) {
    let started = Instant::now();
    assert_eq!(doors.world.daemon.get("/_ping").expect("an answer").status, 200);
    let home = tempfile::tempdir().expect("a home");
    run(&clients()[0], home.path(), &doors.tls(), &["ps", "-q"]).ok();
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

fn memory(doors: &Doors) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", doors.world.daemon.pid().expect("a pid")));
    let status = status.expect("the daemon's status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[test]
fn idle_and_dripping_connections_cost_little_and_hold_nobody_up() {
    let doors = doors();
    let count = std::env::var("GANTRY_IDLE").map_or(2000, |count| count.parse().expect("GANTRY_IDLE is a number"));
    let before = memory(&doors);
    let idle: Vec<_> = (0..count).map(|_| http::connect(&doors.world.daemon.socket()).expect("a connection")).collect();
    let mut dripping: Vec<_> =
        (0..200).map(|_| http::connect(&doors.world.daemon.socket()).expect("a connection")).collect();
    for stream in &mut dripping {
        stream.write_all(b"GET /_ping HTTP/1.1\r\nX-Slow: ").expect("a beginning");
    }
    // Half a handshake each.
    let knocking: Vec<_> = (0..200)
        .map(|_| {
            let mut stream = TcpStream::connect(("127.0.0.1", doors.port)).expect("a connection");
            stream.write_all(&[0x16, 3, 1]).expect("a beginning");
            stream
        })
        .collect();
    others_are_served(&doors);
    let per = (memory(&doors).saturating_sub(before)) / (count + 400);
    assert!(per < 40, "{per} KiB per idle connection");
    gantry_tests::note(&format!("{count} idle connections: {per} KiB each"));
    drop((idle, dripping, knocking));
    others_are_served(&doors);
}

#[test]
fn heads_and_bodies_without_end_are_refused() {
    let doors = doors();
    let socket = doors.world.daemon.socket();
    let mut stream = http::connect(&socket).expect("a connection");
    stream.write_all(b"GET /_ping HTTP/1.1\r\nHost: x\r\n").expect("a beginning");
    let line = format!("X-Long: {}\r\n", "x".repeat(8000));
    let mut sent = 0;
    while stream.write_all(line.as_bytes()).is_ok() {
        sent += line.len();
        assert!(sent < 4 << 20, "a head of {sent} bytes was taken");
    }
    let mut stream = http::connect(&socket).expect("a connection");
    let head = "POST /containers/create HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).expect("a beginning");
    let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x10000));
    let mut sent = 0;
    while stream.write_all(chunk.as_bytes()).is_ok() {
        sent += chunk.len();
        assert!(sent < 64 << 20, "a body of {sent} bytes was taken");
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok();
    assert!(answer.is_empty() || answer.contains("413"), "{answer}");
    others_are_served(&doors);
}

#[test]
fn a_client_that_vanishes_from_an_encrypted_stream_leaves_nothing_behind() {
    // One of its own, so that nobody else opens and closes descriptors.
    let doors = Doors::start();
    let name = doors.world.name("left");
    let gantry = &clients()[0];
    let home = tempfile::tempdir().expect("a home");
    run(gantry, home.path(), &doors.tls(), &["run", "-d", "-i", "--name", &name, gantry_tests::IMAGE, "cat"]).ok();
    // The daemon's ends of connections to its port, by the kernel's table: neither listening nor long gone.
    let port = format!(":{:04X}", doors.port);
    let connections = || {
        let table = std::fs::read_to_string("/proc/net/tcp").expect("the table of connections");
        let ours = |line: &&str| {
            let mut fields = line.split_whitespace().skip(1);
            let local = fields.next().is_some_and(|local| local.ends_with(&port));
            local && !matches!(fields.nth(1), Some("0A" | "06"))
        };
        table.lines().filter(ours).count()
    };
    let mut attached = super::client(gantry, home.path(), &doors.tls(), &["attach", &name]);
    let attached = attached.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).spawn();
    let mut attached = attached.expect("attach");
    attached.stdin.as_mut().expect("its input").write_all(b"echoed\n").expect("type");
    let mut line = [0; 7];
    attached.stdout.as_mut().expect("its output").read_exact(&mut line).expect("an echo");
    assert_eq!(&line, b"echoed\n");
    assert!(connections() > 0, "the client is attached");
    attached.kill().and_then(|()| attached.wait()).expect("kill the client");
    eventually("its connections are closed", || connections() == 0);
    run(gantry, home.path(), &doors.tls(), &["rm", "-f", &name]).ok();
}
