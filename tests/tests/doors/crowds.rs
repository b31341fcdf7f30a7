//! Crowds: whoever fills one door, or holds its streams, keeps nobody from another, and costs a bounded amount.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use gantry_tests::{IMAGE, Options, World, eventually, http};
use serde_json::json;

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
