//! The API on the wire: versions, headers, errors, filters, streams.

use std::io::{BufReader, Read, Write};

use gantry_tests::{IMAGE, http, world};
use serde_json::json;

#[test]
fn ping_answers_get_and_head_with_dockers_headers() {
    let world = world();
    for method in ["GET", "HEAD"] {
        let answer = http::unix(&world.daemon.socket(), method, "/_ping", None).expect("an answer");
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("api-version"), Some("1.56"));
        assert_eq!(answer.header("ostype"), Some("linux"));
        assert_eq!(answer.header("docker-experimental"), Some("false"));
        assert!(answer.header("builder-version").is_some() && answer.header("server").is_some(), "{answer:?}");
        assert!(answer.header("cache-control").is_some_and(|value| value.contains("no-cache")), "{answer:?}");
        assert_eq!(answer.text(), if method == "GET" { "OK" } else { "" });
    }
}

#[test]
fn every_version_from_1_24_on_is_spoken_and_none_else() {
    let world = world();
    for minor in 24..=56 {
        assert_eq!(world.daemon.get(&format!("/v1.{minor}/version")).expect("an answer").status, 200, "v1.{minor}");
    }
    assert_eq!(world.daemon.get("/version").expect("an answer").status, 200);
    let old = world.daemon.get("/v1.23/version").expect("an answer");
    assert_eq!(old.status, 400);
    assert!(old.message().contains("client version 1.23 is too old"), "{}", old.message());
    let new = world.daemon.get("/v1.99/version").expect("an answer");
    assert_eq!(new.status, 400);
    assert!(new.message().contains("client version 1.99 is too new"), "{}", new.message());
}

#[test]
fn unknown_paths_and_methods_are_errors_with_a_message() {
    let world = world();
    let answer = world.daemon.get("/no/such/path").expect("an answer");
    assert_eq!((answer.status, answer.message().as_str()), (404, "page not found"));
    let answer = world.daemon.delete("/version").expect("an answer");
    assert!(answer.status == 404 || answer.status == 405, "{answer:?}");
    assert!(!answer.message().is_empty());
}

#[test]
fn filters_are_read_in_both_json_forms() {
    let world = world();
    let name = world.name("filter");
    let docker = world.gantry();
    docker.ok(&["create", "--name", &name, IMAGE]);
    for filters in [json!({"name": [name]}), json!({"name": {&name: true}})] {
        let text = filters.to_string().replace('"', "%22").replace('{', "%7B").replace('}', "%7D");
        let list = world.daemon.get(&format!("/containers/json?all=1&filters={text}")).expect("an answer");
        assert_eq!(list.json().as_array().map(Vec::len), Some(1), "{filters}: {}", list.text());
    }
    let bad = world.daemon.get("/containers/json?filters=%7Bbroken").expect("an answer");
    assert_eq!(bad.status, 400);
    let unknown = world.daemon.get("/containers/json?filters=%7B%22no-such%22:[%22x%22]%7D").expect("an answer");
    assert_eq!(unknown.status, 400);
    assert!(unknown.message().contains("no-such"), "{}", unknown.message());
    docker.ok(&["rm", &name]);
}

#[test]
fn attach_upgrades_multiplexes_and_half_closes() {
    let world = world();
    let cli = world.gantry();
    for upgrade in [true, false] {
        let name = world.name("raw");
        cli.ok(&["create", "-i", "--name", &name, IMAGE, "sh", "-c", "cat; echo end; echo err >&2"]);
        let mut stream = http::connect(&world.daemon.socket()).expect("a connection");
        let headers: &[(&str, &str)] = if upgrade { &[("Connection", "Upgrade"), ("Upgrade", "tcp")] } else { &[] };
        let path = format!("/v1.47/containers/{name}/attach?stream=1&stdin=1&stdout=1&stderr=1");
        http::send(&mut stream, "POST", &path, headers, None).expect("a request");
        let mut reader = BufReader::new(stream.try_clone().expect("a second descriptor"));
        let head = http::head(&mut reader).expect("a head");
        assert_eq!(head.status, if upgrade { 101 } else { 200 }, "{head:?}");
        let kind = head.header("content-type").unwrap_or_default();
        assert!(
            kind == "application/vnd.docker.multiplexed-stream" || kind == "application/vnd.docker.raw-stream",
            "{kind}"
        );
        cli.ok(&["start", &name]);
        stream.write_all(b"through the socket\n").expect("write");
        stream.shutdown(std::net::Shutdown::Write).expect("half-close");
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).expect("read to the end");
        let frames = http::frames(&bytes);
        let of = |number: u8| -> Vec<u8> {
            frames.iter().filter(|(n, _)| *n == number).flat_map(|(_, data)| data.clone()).collect()
        };
        assert_eq!(String::from_utf8_lossy(&of(1)), "through the socket\nend\n");
        assert_eq!(String::from_utf8_lossy(&of(2)), "err\n");
        cli.ok(&["rm", "-f", &name]);
    }
}

#[test]
fn nothing_comes_with_the_head_of_an_upgrade_that_a_client_has_not_read() {
    let world = world();
    let cli = world.gantry();
    let name = world.name("head");
    cli.ok(&["run", "-d", "--name", &name, IMAGE, "sh", "-c", "echo logged; exec sleep 600"]);
    gantry_tests::eventually("it is logged", || cli.ok(&["logs", &name]) == "logged");
    let body = json!({"Cmd": ["echo", "told"], "AttachStdout": true});
    let made = world.daemon.post(&format!("/containers/{name}/exec"), Some(&body)).expect("an exec").json();
    let exec = format!("/exec/{}/start", made["Id"].as_str().expect("its id"));
    let attach = format!("/containers/{name}/attach?logs=1&stdout=1");
    for (path, body, expected) in [(exec, Some(&b"{}"[..]), "told\n"), (attach, None, "logged\n")] {
        let mut stream = http::connect(&world.daemon.socket()).expect("a connection");
        let headers = [("Connection", "Upgrade"), ("Upgrade", "tcp"), ("Content-Type", "application/json")];
        http::send(&mut stream, "POST", &path, &headers, body).expect("a request");
        // A client that is slow, and reads the head through a buffer, as Python's do.
        std::thread::sleep(std::time::Duration::from_millis(50));
        let mut piece = [0; 8192];
        let length = stream.read(&mut piece).expect("the head");
        assert!(piece[..length].ends_with(b"\r\n\r\n"), "{path}: {}", String::from_utf8_lossy(&piece[..length]));
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).expect("read to the end");
        assert_eq!(http::frames(&rest), [(1, expected.as_bytes().to_vec())], "{path}");
    }
    cli.ok(&["rm", "-f", &name]);
}

#[test]
fn streams_are_answers_too_on_a_connection_that_goes_on() {
    let world = world();
    let cli = world.gantry();
    let name = world.name("goes-on");
    cli.ok(&["create", "--name", &name, IMAGE, "sh", "-c", "echo out; echo err >&2"]);
    let mut stream = http::connect(&world.daemon.socket()).expect("a connection");
    let mut reader = BufReader::new(stream.try_clone().expect("a second descriptor"));
    let keep = [("Connection", "keep-alive")];
    http::send(&mut stream, "GET", "/_ping", &keep, None).expect("a request");
    assert_eq!(http::receive(&mut reader, "GET").expect("an answer").status, 200);
    let path = format!("/containers/{name}/attach?stream=1&stdout=1&stderr=1");
    http::send(&mut stream, "POST", &path, &keep, None).expect("a request");
    let head = http::head(&mut reader).expect("a head");
    assert_eq!((head.status, head.header("transfer-encoding")), (200, Some("chunked")), "{head:?}");
    cli.ok(&["start", &name]);
    let mut bytes = Vec::new();
    while let Some(chunk) = http::chunk(&mut reader).expect("a chunk") {
        bytes.extend_from_slice(&chunk);
    }
    let mut frames = http::frames(&bytes);
    frames.sort();
    assert_eq!(frames, [(1, b"out\n".to_vec()), (2, b"err\n".to_vec())]);
    http::send(&mut stream, "GET", "/_ping", &keep, None).expect("a request");
    assert_eq!(http::receive(&mut reader, "GET").expect("an answer").status, 200);
    cli.ok(&["rm", "-f", &name]);
    // What would have to be read cannot come this way, and is not taken for its end.
    cli.ok(&["run", "-d", "-i", "--name", &name, IMAGE, "cat"]);
    let path = format!("/containers/{name}/attach?stream=1&stdin=1&stdout=1");
    http::send(&mut stream, "POST", &path, &keep, None).expect("a request");
    let refused = http::receive(&mut reader, "POST").expect("an answer");
    assert_eq!(refused.status, 400);
    assert!(refused.text().contains("needs a connection of its own"), "{}", refused.text());
    assert_eq!(cli.inspect(&name, "{{.State.Running}}"), "true");
    cli.ok(&["rm", "-f", &name]);
}

#[test]
fn start_and_stop_tell_when_nothing_was_to_do() {
    let world = world();
    let cli = world.gantry();
    let name = world.name("idle");
    cli.ok(&["run", "-d", "--name", &name, IMAGE, "sleep", "600"]);
    let post = |path: &str| world.daemon.post(&format!("/containers/{name}/{path}"), None).expect("an answer").status;
    assert_eq!(post("start"), 304);
    assert_eq!(post("stop?t=0"), 204);
    assert_eq!(post("stop?t=0"), 304);
    assert_eq!(post("kill"), 409);
    cli.ok(&["rm", &name]);
    assert_eq!(post("start"), 404);
}

#[test]
fn resize_of_a_container_and_of_an_exec() {
    let world = world();
    let cli = world.gantry();
    let name = world.name("resize");
    cli.ok(&["run", "-dit", "--name", &name, IMAGE, "sh"]);
    let resized = world.daemon.post(&format!("/containers/{name}/resize?h=33&w=111"), None).expect("an answer");
    assert_eq!(resized.status, 200);
    gantry_tests::eventually("the size is seen inside", || {
        cli.ok(&["exec", &name, "sh", "-c", "stty size < /proc/1/fd/0"]) == "33 111"
    });
    cli.ok(&["rm", "-f", &name]);
    // Clients ask it of those without a terminal, too.
    cli.ok(&["run", "-d", "--name", &name, IMAGE, "sleep", "600"]);
    let resized = world.daemon.post(&format!("/containers/{name}/resize?h=33&w=111"), None).expect("an answer");
    assert_eq!(resized.status, 200, "{}", resized.text());
    cli.ok(&["rm", "-f", &name]);
}

#[test]
fn whatever_asks_for_a_swarm_is_told_that_there_is_none() {
    let world = world();
    for path in ["services/create", "secrets/x/update?version=1", "configs/create", "nodes/x/update", "swarm/init"] {
        let answer = world.daemon.post(&format!("/{path}"), None).expect("an answer");
        assert_eq!(answer.status, 503, "{path}: {}", answer.text());
    }
    for path in ["services/x", "tasks/x", "tasks/x/logs", "swarm/unlockkey"] {
        assert_eq!(world.daemon.get(&format!("/{path}")).expect("an answer").status, 503, "{path}");
    }
}

#[test]
fn wait_by_the_api_answers_when_the_container_ends() {
    let world = world();
    let cli = world.gantry();
    let name = world.name("api-wait");
    cli.ok(&["create", "--name", &name, IMAGE, "sh", "-c", "exit 12"]);
    let socket = world.daemon.socket();
    let path = format!("/containers/{name}/wait?condition=next-exit");
    let waiter = std::thread::spawn(move || http::unix(&socket, "POST", &path, None));
    cli.ok(&["start", &name]);
    let name_path = format!("/containers/{name}/json");
    gantry_tests::eventually("it ended", || {
        world.daemon.get(&name_path).expect("an answer").json()["State"]["Running"] == false
    });
    // The waiter may have come after the end, then it waits for the next one.
    let _ = cli.run(&["start", &name]);
    let answer = waiter.join().expect("the waiter").expect("an answer");
    assert_eq!(answer.json()["StatusCode"], 12);
    cli.ok(&["rm", "-f", &name]);
}

#[test]
fn a_daemon_on_tcp_answers_on_loopback() {
    let port = gantry_tests::registry::free_port().expect("a port");
    let flags = vec!["-H".to_owned(), format!("tcp://127.0.0.1:{port}")];
    let daemon = gantry_tests::Daemon::with(gantry_tests::Options { flags, ..Default::default() }).expect("a daemon");
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).expect("a connection");
    http::send(&mut stream, "GET", "/_ping", &[], None).expect("a request");
    let answer = http::receive(&mut BufReader::new(stream), "GET").expect("an answer");
    assert_eq!((answer.status, answer.text().as_str()), (200, "OK"));
    let binary = gantry_tests::paths::gantry().expect("the binary");
    let mut client = daemon.client(&binary);
    client.args(["-H", &format!("tcp://127.0.0.1:{port}"), "version", "--format", "{{.Server.Os}}"]);
    let output = gantry_tests::command::run(&mut client, None, gantry_tests::command::LIMIT).expect("a client");
    assert_eq!(output.ok(), "linux");
}
