//! Crowds: whoever fills one door, or holds its streams, keeps nobody from another, and costs a bounded amount.

use std::io::{BufReader, Read};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use gantry_tests::{IMAGE, Options, World, eventually, http, paths};
use serde_json::json;

use super::{certificates, clients, free_port, run};

/// A daemon that may have few descriptors, with a second door.
fn small(files: &tempfile::TempDir) -> (World, std::path::PathBuf) {
    let second = files.path().join("second.sock");
    let options = Options {
        flags: vec![format!("--socket=path={},policy=read-only,mode=0600", second.display())],
        before: ["/bin/sh", "-c", r#"ulimit -n 512; exec "$@""#, "limited"].map(str::to_owned).to_vec(),
        ..Options::default()
    };
    (World::start(options).unwrap_or_else(|error| panic!("{error:?}")), second)
}

#[test]
fn who_crowds_one_door_keeps_nobody_from_another() {
    let files = tempfile::tempdir().expect("a directory");
    let (world, second) = small(&files);
    // More than have a place: the others wait in the kernel's queue.
    let crowd: Vec<_> = (0..450).map(|_| http::connect(&world.daemon.socket()).expect("a connection")).collect();
    let mut late = http::connect(&world.daemon.socket()).expect("a connection");
    late.set_read_timeout(Some(Duration::from_secs(1))).expect("a deadline");
    http::send(&mut late, "GET", "/_ping", &[], None).expect("a request");
    late.read_exact(&mut [0]).expect_err("there is no place for it");
    // Not only the one place that a door may have had before.
    let others: Vec<_> = (0..3).map(|_| http::connect(&second).expect("a connection")).collect();
    let started = Instant::now();
    assert_eq!(http::unix(&second, "GET", "/_ping", None).expect("an answer").status, 200);
    // Half a minute later the silent ones are sent away, which is no merit of the door's.
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    drop((crowd, late, others));
    eventually("the crowd is gone", || world.daemon.get("/_ping").is_ok_and(|answer| answer.status == 200));
}

#[test]
fn streams_that_were_taken_over_are_counted_and_cost_little() {
    let files = tempfile::tempdir().expect("a directory");
    let (world, second) = small(&files);
    let name = world.name("chatty");
    world.gantry().ok(&["run", "-d", "-i", "--name", &name, IMAGE, "cat"]);
    let before = memory(&world);
    // Half-open: each says that it wants to attach, and never says or reads anything again.
    let path = format!("/containers/{name}/attach?stream=1&stdin=1&stdout=1");
    let attach = |_| {
        let mut stream = http::connect(&world.daemon.socket()).expect("a connection");
        let upgrade = [("Connection", "Upgrade"), ("Upgrade", "tcp")];
        http::send(&mut stream, "POST", &path, &upgrade, Some(b"")).expect("a request");
        stream
    };
    let held: Vec<UnixStream> = (0..200).map(attach).collect();
    let attached = || {
        let jobs = http::unix(&second, "GET", "/jobs", None).expect("an answer").json();
        let jobs = jobs.as_array().expect("a list").iter().filter(|job| job["Name"] == "attach");
        jobs.count()
    };
    eventually("all are attached", || attached() == held.len());
    let per = memory(&world).saturating_sub(before) / held.len() as u64;
    assert!(per < 100, "{per} KiB per stream");
    // Of the places of this door, three quarters of the descriptors and less, so many are left.
    let crowd: Vec<_> = (0..200).map(|_| http::connect(&world.daemon.socket()).expect("a connection")).collect();
    let mut late = http::connect(&world.daemon.socket()).expect("a connection");
    late.set_read_timeout(Some(Duration::from_secs(1))).expect("a deadline");
    http::send(&mut late, "GET", "/_ping", &[], None).expect("a request");
    late.read_exact(&mut [0]).expect_err("there is no place for it");
    drop((crowd, late));
    drop(held);
    eventually("they are gone", || world.daemon.get("/_ping").is_ok_and(|answer| answer.status == 200));
    world.gantry().ok(&["rm", "-f", &name]);
}

#[test]
fn who_finds_no_place_for_an_encrypted_stream_is_told_so() {
    let files = tempfile::tempdir().expect("a directory");
    certificates(files.path(), &["--host", "127.0.0.1"]);
    let at = |name: &str| files.path().join(name).display().to_string();
    let port = free_port();
    let options = Options {
        flags: vec![
            "-H".to_owned(),
            format!("tcp://127.0.0.1:{port}"),
            "--tlsverify".to_owned(),
            format!("--tlscacert={}", at("ca.pem")),
            format!("--tlscert={}", at("server-cert.pem")),
            format!("--tlskey={}", at("server-key.pem")),
        ],
        before: ["/bin/sh", "-c", r#"ulimit -n 256; exec "$@""#, "limited"].map(str::to_owned).to_vec(),
        ..Options::default()
    };
    let world = World::start(options).unwrap_or_else(|error| panic!("{error:?}"));
    let name = world.name("quiet");
    world.gantry().ok(&["run", "-d", "--name", &name, IMAGE, "sleep", "600"]);
    let mut watch = http::connect(&world.daemon.socket()).expect("a connection");
    let mut answers = BufReader::new(watch.try_clone().expect("its other half"));
    let mut attached = || {
        http::send(&mut watch, "GET", "/jobs", &[("Connection", "keep-alive")], None).expect("a request");
        let jobs = http::receive(&mut answers, "GET").expect("an answer").json();
        jobs.as_array().expect("a list").iter().filter(|job| job["Name"] == "attach").count()
    };
    assert_eq!(attached(), 0);
    // Every place that this door has, and those that any door may have: of 192 each of two has 24 of its own.
    let crowd: Vec<_> = (0..200).map(|_| http::connect(&world.daemon.socket()).expect("a connection")).collect();
    let mut late = http::connect(&world.daemon.socket()).expect("a connection");
    late.set_read_timeout(Some(Duration::from_secs(1))).expect("a deadline");
    http::send(&mut late, "GET", "/_ping", &[], None).expect("a request");
    late.read_exact(&mut [0]).expect_err("there is no place for it");
    // Each has four of them.
    let mut streams = Vec::new();
    for count in 1..=5 {
        let mut curl = Command::new(paths::need("curl").expect("curl"));
        curl.args(["-sSN", "-X", "POST", "-H", "Connection: Upgrade", "-H", "Upgrade: tcp"]);
        curl.args(["--cacert", &at("ca.pem"), "--cert", &at("cert.pem"), "--key", &at("key.pem")]);
        curl.arg(format!("https://127.0.0.1:{port}/containers/{name}/attach?stream=1&stdout=1"));
        let curl = curl.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        streams.push(curl.spawn().expect("start curl"));
        eventually("it is attached", || attached() == count);
    }
    let environment = [
        ("DOCKER_HOST", format!("tcp://127.0.0.1:{port}")),
        ("DOCKER_TLS_VERIFY", "1".to_owned()),
        ("DOCKER_CERT_PATH", files.path().display().to_string()),
    ];
    for program in clients() {
        let home = tempfile::tempdir().expect("a home");
        let refused = run(&program, home.path(), &environment, &["attach", "--no-stdin", &name]);
        // Docker's own client tells the status alone.
        let said = ["too many streams and connections are at this door", "received 503"];
        assert!(refused.code == 1 && said.iter().any(|said| refused.stderr.contains(said)), "{refused}");
    }
    for stream in &mut streams {
        stream.kill().and_then(|()| stream.wait().map(drop)).expect("end curl");
    }
    drop((crowd, late));
    eventually("they are gone", || world.daemon.get("/_ping").is_ok_and(|answer| answer.status == 200));
    world.gantry().ok(&["rm", "-f", &name]);
}

#[test]
fn archives_that_nobody_reads_hold_up_neither_the_daemon_nor_another_door() {
    let files = tempfile::tempdir().expect("a directory");
    let second = files.path().join("second.sock");
    let flags = vec![format!("--socket=path={},policy=read-only,mode=0600", second.display())];
    let world = World::start(Options { flags, ..Options::default() }).unwrap_or_else(|error| panic!("{error:?}"));
    let name = world.name("large");
    let fill = "dd if=/dev/zero of=/large bs=1M count=24 && echo filled; exec sleep 600";
    world.gantry().ok(&["run", "-d", "--name", &name, IMAGE, "sh", "-c", fill]);
    eventually("the container is large", || world.gantry().run(&["logs", &name]).stdout.contains("filled"));
    let path = format!("/containers/{name}/export");
    let ask = |socket: &std::path::Path| {
        let mut stream = http::connect(socket).expect("a connection");
        http::send(&mut stream, "GET", &path, &[], None).expect("a request");
        stream
    };
    // More than the runtime has threads.
    let held: Vec<_> = (0..600).map(|_| ask(&world.daemon.socket())).collect();
    let exports = || {
        let jobs = world.daemon.get("/jobs").expect("an answer").json();
        let jobs = jobs.as_array().expect("a list").iter().filter(|job| job["Name"] == "export");
        jobs.count()
    };
    eventually("as many archives as may be are on their way", || exports() == 64);
    let started = Instant::now();
    let body = json!({ "Image": IMAGE, "Cmd": ["true"] });
    let made = world.daemon.post("/containers/create", Some(&body)).expect("an answer");
    assert_eq!(made.status, 201, "{}", made.text());
    let mut other = ask(&second);
    let mut archive = Vec::new();
    other.read_to_end(&mut archive).expect("an archive");
    assert!(archive.len() > 24 << 20, "{}", archive.len());
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    drop(held);
    eventually("the threads are free again", || exports() == 0);
    world.gantry().ok(&["rm", "-f", &name]);
}

fn memory(world: &World) -> u64 {
    let of = |pid: i32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:").map(str::to_owned));
        line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0)
    };
    world.daemon.pids().into_iter().map(of).sum()
}
