//! Bad input: Docker's status code, a message that says what to do, and nothing half made.

use gantry_tests::http::{self, Response};
use gantry_tests::{IMAGE, World, world};
use serde_json::{Value, json};

fn create(world: &World, name: &str, body: &Value) -> Response {
    world.daemon.post(&format!("/containers/create?name={name}"), Some(body)).expect("an answer")
}

#[track_caller]
fn refused(world: &World, body: &Value, status: u16, text: &str) {
    let name = world.name("bad");
    let answer = create(world, &name, body);
    assert_eq!(answer.status, status, "{body}: {}", answer.text());
    let message = answer.message();
    assert!(message.to_lowercase().contains(&text.to_lowercase()), "{body}: no {text:?} in {message:?}");
    let left = world.daemon.get(&format!("/containers/{name}/json")).expect("an answer");
    assert_eq!(left.status, 404, "a container was left behind");
}

#[test]
fn an_unknown_image_is_not_found() {
    let world = world();
    refused(&world, &json!({"Image": "no-such-image"}), 404, "no such image: no-such-image:latest");
    refused(&world, &json!({"Image": "UPPER:x"}), 400, "invalid reference format");
    refused(&world, &json!({"Cmd": ["true"]}), 400, "image");
}

#[test]
fn a_name_in_use_is_a_conflict_that_names_its_owner() {
    let world = world();
    let name = world.name("owner");
    let first = create(&world, &name, &json!({"Image": IMAGE}));
    assert_eq!(first.status, 201);
    let id = first.json()["Id"].as_str().expect("an id").to_owned();
    let second = create(&world, &name, &json!({"Image": IMAGE}));
    assert_eq!(second.status, 409);
    let message = second.message();
    assert!(message.contains(&format!("The container name \"/{name}\" is already in use by container")), "{message}");
    assert!(message.contains(&id) && message.contains("remove (or rename)"), "{message}");
    let bad = create(&world, "-bad-", &json!({"Image": IMAGE}));
    assert_eq!(bad.status, 400);
    assert!(bad.message().contains("Invalid container name"), "{}", bad.message());
    world.daemon.delete(&format!("/containers/{id}")).expect("an answer");
}

#[test]
fn limits_out_of_range_name_the_range() {
    let world = world();
    let host = |config: Value| json!({"Image": IMAGE, "HostConfig": config});
    refused(&world, &host(json!({"Memory": 1024})), 400, "memory limit");
    refused(&world, &host(json!({"NanoCpus": 1_000_000_000_000_i64})), 400, "cpus");
    refused(&world, &host(json!({"CpusetCpus": "500"})), 400, "500");
    refused(&world, &host(json!({"CpusetCpus": "x-y"})), 400, "x-y");
    refused(&world, &host(json!({"Memory": 67_108_864, "MemorySwap": 33_554_432})), 400, "swap");
    refused(&world, &host(json!({"Ulimits": [{"Name": "no-such", "Soft": 1, "Hard": 1}]})), 400, "no-such");
    refused(&world, &host(json!({"CapAdd": ["NO_SUCH"]})), 400, "no_such");
    refused(&world, &host(json!({"RestartPolicy": {"Name": "sometimes"}})), 400, "sometimes");
}

#[test]
fn bad_mounts_ports_and_users_are_refused() {
    let world = world();
    let host = |config: Value| json!({"Image": IMAGE, "HostConfig": config});
    refused(&world, &host(json!({"Binds": ["/a:relative"]})), 400, "absolute");
    refused(&world, &host(json!({"Binds": ["/a:/b:nonsense"]})), 400, "nonsense");
    let absent = json!({"Mounts": [{"Type": "bind", "Source": "/no/such/source", "Target": "/x"}]});
    refused(&world, &host(absent), 400, "/no/such/source");
    refused(&world, &host(json!({"Mounts": [{"Type": "sometimes", "Target": "/x"}]})), 400, "sometimes");
    let port = |port: &str| host(json!({"PortBindings": {port: [{"HostPort": "0"}]}}));
    refused(&world, &port("99999/tcp"), 400, "99999");
    refused(&world, &port("80/no-such"), 400, "no-such");
    let port = json!({"PortBindings": {"80/tcp": [{"HostPort": "seventy"}]}});
    refused(&world, &host(port), 400, "seventy");
}

#[test]
fn a_missing_program_is_told_at_start() {
    let world = world();
    for (program, text) in [("no-such-program", "executable file not found"), ("/etc/passwd", "permission denied")] {
        let name = world.name("program");
        let created = create(&world, &name, &json!({"Image": IMAGE, "Cmd": [program]}));
        assert_eq!(created.status, 201);
        let started = world.daemon.post(&format!("/containers/{name}/start"), None).expect("an answer");
        assert_eq!(started.status, 400, "{}", started.text());
        assert!(started.message().contains(text), "{}", started.message());
        let state = world.daemon.get(&format!("/containers/{name}/json")).expect("an answer").json();
        assert_eq!(state["State"]["ExitCode"], if text.starts_with("exec") { 127 } else { 126 });
        assert_eq!(state["State"]["Running"], false);
        assert_eq!(state["State"]["Pid"], 0);
        world.daemon.delete(&format!("/containers/{name}")).expect("an answer");
    }
}

#[test]
fn bodies_that_are_no_json_or_too_large_are_refused() {
    let world = world();
    let socket = world.daemon.socket();
    let post = |body: &[u8]| http::unix(&socket, "POST", "/containers/create", Some(body)).expect("an answer");
    for body in [&b"{"[..], b"[]", b"\"x\"", b"{\"Image\": 7}"] {
        let answer = post(body);
        assert_eq!(answer.status, 400, "{}: {}", String::from_utf8_lossy(body), answer.text());
        assert!(!answer.message().is_empty());
    }
    let kind = [("Content-Type", "text/plain")];
    let answer =
        http::unix_with(&socket, "POST", "/containers/create", &kind, Some(b"{\"Image\":\"x\"}")).expect("an answer");
    assert_eq!(answer.status, 400, "{}", answer.text());
    let huge = format!("{{\"Image\":\"{}\"}}", "x".repeat(64 << 20));
    match http::unix(&socket, "POST", "/containers/create", Some(huge.as_bytes())) {
        Ok(answer) => assert!(answer.status == 400 || answer.status == 413, "{}", answer.status),
        // Refused before it was read: the connection is closed.
        Err(error) => assert!(format!("{error:#}").contains("send a request"), "{error:#}"),
    }
    assert_eq!(world.daemon.get("/_ping").expect("an answer").status, 200);
}

#[test]
fn unknown_containers_are_not_found_everywhere() {
    let world = world();
    for (method, path) in [
        ("GET", "json"),
        ("GET", "logs?stdout=1"),
        ("GET", "archive?path=/"),
        ("POST", "start"),
        ("POST", "stop"),
        ("POST", "kill"),
        ("GET", "top?ps_args=aux"),
        ("POST", "wait"),
        ("POST", "attach?stream=1&stdout=1"),
        ("POST", "resize?h=1&w=1"),
        ("DELETE", ""),
    ] {
        let path =
            if path.is_empty() { "/containers/no-such".to_owned() } else { format!("/containers/no-such/{path}") };
        let answer = http::unix(&world.daemon.socket(), method, &path, None).expect("an answer");
        assert_eq!(answer.status, 404, "{method} {path}: {}", answer.text());
        assert!(answer.message().contains("No such container: no-such"), "{method} {path}: {}", answer.text());
    }
    let answer = world.daemon.get("/images/no-such/json").expect("an answer");
    assert_eq!(answer.status, 404);
    assert!(answer.message().contains("No such image: no-such"), "{}", answer.message());
    assert_eq!(world.daemon.get("/exec/no-such/json").expect("an answer").status, 404);
}

#[test]
fn parameters_that_are_no_numbers_are_refused() {
    let world = world();
    let name = world.name("parameters");
    create(&world, &name, &json!({"Image": IMAGE}));
    for path in ["stop?t=soon", "kill?signal=NO_SUCH", "resize?h=x&w=1"] {
        let answer = world.daemon.post(&format!("/containers/{name}/{path}"), None).expect("an answer");
        assert_eq!(answer.status, 400, "{path}: {}", answer.text());
    }
    assert_eq!(world.daemon.get(&format!("/containers/{name}/logs")).expect("an answer").status, 400);
    world.daemon.delete(&format!("/containers/{name}")).expect("an answer");
}

#[test]
fn a_strange_request_does_not_harm_the_daemon() {
    let world = world();
    for bytes in [
        &b"\x00\x01\x02\r\n\r\n"[..],
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /containers/create HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    ] {
        use std::io::{Read, Write};
        let mut stream = http::connect(&world.daemon.socket()).expect("a connection");
        stream.write_all(bytes).expect("write");
        stream.shutdown(std::net::Shutdown::Write).ok();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok();
        assert!(!answer.starts_with(b"HTTP/1.1 2"), "{}", String::from_utf8_lossy(&answer));
    }
    assert_eq!(world.daemon.get("/_ping").expect("an answer").status, 200);
}
