//! The audit log tells who changed what, through which door, and what was refused.

use gantry_tests::{IMAGE, eventually};
use serde_json::Value;

use super::{clients, doors, run};

#[test]
fn every_change_has_a_line_with_who_where_what_and_how_it_ended() {
    let doors = doors();
    let home = tempfile::tempdir().expect("a home");
    let name = doors.world.name("audited");
    let gantry = &clients()[0];
    let socket = vec![("DOCKER_HOST", doors.world.daemon.host())];
    run(gantry, home.path(), &doors.tls(), &["create", "--name", &name, IMAGE, "true"]).ok();
    run(gantry, home.path(), &socket, &["start", &name]).ok();
    run(gantry, home.path(), &socket, &["inspect", &name]).ok();
    let read_only = vec![("DOCKER_HOST", format!("unix://{}", doors.file("read-only.sock").display()))];
    run(gantry, home.path(), &read_only, &["rm", "-f", &name]).fails(1, "not allowed");
    run(gantry, home.path(), &socket, &["rm", "-f", &name]).ok();
    run(gantry, home.path(), &socket, &["rm", "-f", &name]);
    run(gantry, home.path(), &socket, &["rename", &name, "other"]).fails(1, "No such container");
    let lines = || -> Vec<Value> {
        let text = std::fs::read_to_string(doors.file("audit.log")).expect("the audit log");
        let all = text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON"));
        all.filter(|line: &Value| line["object"].as_str().is_some_and(|object| object.contains(&name))).collect()
    };
    eventually("the last line is written", || lines().iter().any(|line| line["job"] == "rename"));
    let lines = lines();
    let of = |job: &str, outcome: &str| {
        let found = lines.iter().find(|line| line["job"] == job && line["outcome"] == outcome);
        found.unwrap_or_else(|| panic!("no line of {job} {outcome}: {lines:#?}")).clone()
    };
    let created = of("create", "done");
    assert_eq!(created["peer"]["subject"], "CN=client");
    assert_eq!(created["socket"], format!("tcp://127.0.0.1:{}", doors.port));
    let started = of("start", "done");
    assert_eq!(started["peer"]["uid"], 0);
    assert!(started["peer"]["pid"].as_u64().is_some_and(|pid| pid > 0), "{started}");
    assert_eq!(started["socket"], doors.world.daemon.host());
    assert!(started["duration_ms"].is_number() && started["time"].as_str().is_some_and(|time| time.ends_with('Z')));
    let denied = of("delete", "denied");
    assert_eq!(denied["socket"].as_str(), Some(read_only[0].1.as_str()));
    assert!(of("rename", "failed")["error"].as_str().is_some_and(|error| error.contains("No such container")));
    assert!(!lines.iter().any(|line| line["job"] == "container_inspect"), "reads are not told");
}
