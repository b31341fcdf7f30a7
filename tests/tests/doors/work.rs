//! What a person does all day, which must work the same through every door.

use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use gantry_tests::{IMAGE, Options, Terminal, World, command, eventually};

use super::{client, clients, doors, free_port, run};

/// `run -it`, input and its end, `exec`, `logs -f`, `cp` both ways.
pub fn works(world: &World, program: &Path, environment: &[(&str, String)]) {
    let home = tempfile::tempdir().expect("a home");
    let ask = |arguments: &[&str]| run(program, home.path(), environment, arguments);
    let feed = |arguments: &[&str], input: &[u8]| {
        let mut command = client(program, home.path(), environment, arguments);
        command::run(&mut command, Some(input), command::LIMIT).unwrap_or_else(|error| panic!("{error:?}"))
    };
    // A megabyte, its end, and an answer that comes after it.
    let big = vec![b'x'; 1 << 20];
    assert_eq!(feed(&["run", "--rm", "-i", IMAGE, "sh", "-c", "wc -c; echo done"], &big).ok().trim(), "1048576\ndone");
    let name = world.name("door");
    ask(&[
        "run",
        "-d",
        "--name",
        &name,
        IMAGE,
        "sh",
        "-c",
        "mkfifo /tmp/go; echo first; read x < /tmp/go; echo $x; sleep 600",
    ]);
    let apart = ask(&["exec", &name, "sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((apart.code, apart.stdout.as_str(), apart.stderr.trim_end()), (7, "out\n", "err"), "{apart}");
    assert_eq!(feed(&["exec", "-i", &name, "cat"], b"through").ok(), "through");
    logs(program, home.path(), environment, &name);
    let file = home.path().join("file");
    std::fs::write(&file, "copied").expect("write a file");
    ask(&["cp", &file.display().to_string(), &format!("{name}:/tmp/there")]).ok();
    let back = home.path().join("back");
    ask(&["cp", &format!("{name}:/tmp/there"), &back.display().to_string()]).ok();
    assert_eq!(std::fs::read(&back).expect("the copy"), b"copied");
    terminal(program, home.path(), environment);
    ask(&["rm", "-f", &name]).ok();
}

fn logs(program: &Path, home: &Path, environment: &[(&str, String)], name: &str) {
    let mut follow = client(program, home, environment, &["logs", "-f", name]);
    let mut follow = follow.stdout(Stdio::piped()).spawn().expect("follow the logs");
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(follow.stdout.take().expect("its output")));
    assert_eq!(lines.next().expect("a line").expect("a line"), "first");
    run(program, home, environment, &["exec", name, "sh", "-c", "echo second > /tmp/go"]).ok();
    assert_eq!(lines.next().expect("a line").expect("a line"), "second", "it came while they were followed");
    follow.kill().and_then(|()| follow.wait()).expect("end the client");
}

fn terminal(program: &Path, home: &Path, environment: &[(&str, String)]) {
    let variables: String = environment.iter().map(|(name, value)| format!("{name}={value} ")).collect();
    let home = home.display();
    let line = format!("HOME={home} DOCKER_CONFIG={home} {variables}{} run --rm -it {IMAGE} sh", program.display());
    let screen = Terminal::start(&line).expect("a terminal");
    screen.shows("#");
    screen.write("stty size; echo $((6*7))");
    screen.press(&["Enter"]);
    screen.shows("24 80");
    screen.shows("42");
    screen.write("exit 5");
    screen.press(&["Enter"]);
    screen.shows("[exit 5]");
}

#[test]
fn everything_works_over_a_unix_socket() {
    let doors = doors();
    for program in clients() {
        works(&doors.world, &program, &[("DOCKER_HOST", doors.world.daemon.host())]);
    }
}

#[test]
fn everything_works_over_tls_with_a_certificate() {
    let doors = doors();
    for program in clients() {
        works(&doors.world, &program, &doors.tls());
        // Input that nobody reads takes nothing away from the output.
        let home = tempfile::tempdir().expect("a home");
        let mut echo = client(&program, home.path(), &doors.tls(), &["run", "--rm", "-i", IMAGE, "echo", "short"]);
        let echo = command::run(&mut echo, Some(&vec![b'x'; 1 << 20]), command::LIMIT);
        assert_eq!(echo.unwrap_or_else(|error| panic!("{error:?}")).ok(), "short");
    }
}

#[test]
fn everything_works_over_plain_tcp_on_loopback_and_over_tls_without_certificates() {
    let files = tempfile::tempdir().expect("a directory");
    let directory = files.path().join("tls");
    super::certificates(&directory, &["--host", "127.0.0.1"]);
    for tls in [false, true] {
        let port = free_port();
        let mut flags = vec!["-H".to_owned(), format!("tcp://127.0.0.1:{port}")];
        if tls {
            let at = |name: &str| directory.join(name).display().to_string();
            flags.extend(["--tls".to_owned(), format!("--tlscert={}", at("server-cert.pem"))]);
            flags.push(format!("--tlskey={}", at("server-key.pem")));
        }
        let world = World::start(Options { flags, ..Options::default() }).unwrap_or_else(|error| panic!("{error:?}"));
        for program in clients() {
            let mut environment = vec![("DOCKER_HOST", format!("tcp://127.0.0.1:{port}"))];
            if tls {
                let ca = tempfile::tempdir().expect("a directory");
                std::fs::copy(directory.join("ca.pem"), ca.path().join("ca.pem")).expect("the authority");
                environment.push(("DOCKER_TLS_VERIFY", "1".to_owned()));
                environment.push(("DOCKER_CERT_PATH", ca.path().display().to_string()));
                works(&world, &program, &environment);
            } else {
                works(&world, &program, &environment);
            }
        }
    }
}

#[test]
fn a_request_that_runs_is_finished_when_the_daemon_is_stopped() {
    let mut world = World::start(Options::default()).unwrap_or_else(|error| panic!("{error:?}"));
    let mut stream = gantry_tests::http::connect(&world.daemon.socket()).expect("a connection");
    let body = br#"{"Name": "late"}"#;
    let head = format!(
        "POST /volumes/create HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).expect("half a request");
    eventually("the daemon waits for the rest", || world.daemon.get("/_ping").is_ok_and(|answer| answer.status == 200));
    let stopping = std::thread::scope(|scope| {
        let daemon = &mut world.daemon;
        let stopping = scope.spawn(move || daemon.stop());
        stream.write_all(body).expect("the rest");
        let answer = gantry_tests::http::receive(&mut std::io::BufReader::new(&stream), "POST");
        // Begun before: finished, or told that the daemon is leaving; never cut off.
        assert!(matches!(answer.expect("an answer").status, 201 | 503));
        stopping.join().expect("the thread")
    });
    stopping.expect("the daemon ends in time");
}

#[test]
fn a_daemon_that_is_stopped_during_an_upload_answers_and_waits_no_longer_for_the_rest() {
    let mut world = World::start(Options::default()).unwrap_or_else(|error| panic!("{error:?}"));
    let mut stream = gantry_tests::http::connect(&world.daemon.socket()).expect("a connection");
    let head = "POST /images/create?fromSrc=- HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n";
    stream.write_all(head.as_bytes()).expect("half a request");
    stream.write_all(&[b'x'; 100]).expect("some of the archive");
    let imports = || {
        let jobs = world.daemon.get("/jobs").expect("the jobs").json();
        jobs.as_array().is_some_and(|jobs| jobs.iter().any(|job| job["Name"] == "import"))
    };
    eventually("the archive is waited for", imports);
    world.daemon.stop().expect("the daemon ends in time");
    let answer = gantry_tests::http::receive(&mut std::io::BufReader::new(&stream), "POST").expect("an answer");
    assert!(answer.status >= 500, "{}", answer.message());
    let log = world.daemon.log();
    assert!(!log.contains("did not end within"), "{log}");
}
