//! The commands that tell of containers and change them, in all their forms.
#![allow(clippy::disallowed_methods, reason = "tests read files plainly")]

mod common;

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use common::World;
use serde_json::{Value, json};

#[test]
fn an_update_comes_by_flags_by_a_file_and_by_standard_input() {
    let mut world = World::new();
    let id = world.sleeping();
    let limits = |world: &World| -> (Value, Value) {
        let stats: Value = serde_json::from_str(&world.ok(&["events", "--stats", &id])).unwrap();
        (stats["data"]["pids"]["limit"].clone(), stats["data"]["memory"]["usage"]["limit"].clone())
    };
    world.ok(&["update", "--pids-limit", "31", "--memory", "48m", "--cpu-share", "300", &id]);
    assert_eq!(limits(&world), (json!(31), json!(48 << 20)));
    let fed = |text: &str| {
        let mut update = world.spawn(&["update", "--resources", "-", &id]);
        update.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let output = update.wait_with_output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(fed(r#"{"pids": {"limit": 32}, "memory": {"limit": 50331648}}"#).0, Some(0));
    assert_eq!(limits(&world), (json!(32), json!(48 << 20)));
    let (code, said) = fed(r#"{"pids": {"limit": "many"}}"#);
    assert!(code == Some(1) && said.contains("line 1 column 2"), "{said}");
    let (code, said) = fed("");
    assert!(code == Some(1) && said.contains("empty"), "{said}");
    let refused = world.command(&["update", "--l3-cache-schema", "L3:0=ff", &id]);
    assert!(refused.code == 1 && refused.err.contains("Intel RDT"), "{refused:?}");
    assert_eq!(limits(&world), (json!(32), json!(48 << 20)), "what is refused changes nothing");
}

#[test]
fn processes_are_listed_by_ids_and_as_ps_does() {
    let mut world = World::new();
    let id = world.id();
    world.shell("sleep 601 & sleep 602 & exec sleep 600");
    world.ok(&["run", "-d", &id]);
    let all = || -> BTreeSet<u64> { serde_json::from_str(&world.ok(&["ps", "--format", "json", &id])).unwrap() };
    gantry_tests::eventually("three processes", || all().len() == 3);
    let table = world.ok(&["ps", &id]);
    assert_eq!(table, world.ok(&["ps", "--format", "table", &id, "-ef"]));
    let mut lines = table.lines();
    assert!(lines.next().unwrap().starts_with("UID"), "{table}");
    let rows: Vec<Vec<&str>> = lines.map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows.iter().map(|row| row[1].parse().unwrap()).collect::<BTreeSet<u64>>(), all());
    assert!(rows.iter().all(|row| row[0] == "root"), "{table}");
    let refused = world.command(&["ps", "--format", "yaml", &id]);
    assert_eq!(refused.code, 1, "{refused:?}");
    world.ok(&["kill", &id, "KILL"]);
    world.becomes(&id, "stopped");
    assert_eq!(world.command(&["ps", "-f", "json", &id]).out.trim(), "[]");
}

#[test]
fn containers_are_listed_in_every_state() {
    let mut world = World::new();
    let (created, running, paused, stopped) = (world.id(), world.id(), world.id(), world.id());
    world.program(&["sleep", "600"]);
    world.ok(&["create", &created]);
    for id in [&running, &paused, &stopped] {
        world.ok(&["run", "-d", id]);
    }
    world.ok(&["pause", &paused]);
    world.ok(&["kill", &stopped, "KILL"]);
    world.becomes(&stopped, "stopped");
    let list: Vec<Value> = serde_json::from_str(&world.ok(&["list", "--format", "json"])).unwrap();
    let table = world.ok(&["list", "--format", "table"]);
    for (id, status) in [(&created, "created"), (&running, "running"), (&paused, "paused"), (&stopped, "stopped")] {
        let one = list.iter().find(|one| one["id"] == json!(id)).unwrap();
        assert_eq!(one["status"], status, "{one}");
        assert_eq!(one["pid"] == 0, status == "stopped", "{one}");
        let row = table.lines().find(|line| line.starts_with(id.as_str())).unwrap();
        assert!(row.contains(status) && row.ends_with("root"), "{row}");
    }
    world.ok(&["resume", &paused]);
}

/// The shape of an object: names of fields, and of lists the kind of what is in them.
fn shape(value: &Value) -> Value {
    match value {
        Value::Object(fields) => fields.iter().map(|(name, inner)| (name.clone(), shape(inner))).collect(),
        Value::Array(list) => list.first().map_or(json!([]), |first| json!([shape(first)])),
        Value::String(_) => json!("string"),
        Value::Bool(_) => json!("bool"),
        _ => json!("other"),
    }
}

#[test]
fn features_have_the_shape_of_runcs_and_more() {
    let ours: Value = serde_json::from_str(&World::new().ok(&["features"])).unwrap();
    for (list, word) in [
        ("/mountOptions", "ridmap"),
        ("/hooks", "startContainer"),
        ("/linux/namespaces", "time"),
        ("/linux/capabilities", "CAP_CHECKPOINT_RESTORE"),
        ("/linux/seccomp/operators", "SCMP_CMP_MASKED_EQ"),
        ("/linux/seccomp/actions", "SCMP_ACT_NOTIFY"),
        ("/linux/seccomp/supportedFlags", "SECCOMP_FILTER_FLAG_TSYNC"),
        ("/linux/memoryPolicy/modes", "MPOL_BIND"),
    ] {
        let words = ours.pointer(list).and_then(Value::as_array).unwrap();
        assert!(words.contains(&json!(word)), "{list}: {ours}");
    }
    let runc = Path::new("/usr/sbin/runc");
    if !runc.exists() {
        gantry_tests::skip("no runc on this machine");
        return;
    }
    let output = Command::new(runc).arg("features").output().unwrap();
    let theirs: Value = serde_json::from_slice(&output.stdout).unwrap();
    contains(&shape(&ours), &shape(&theirs), "");
    let words = |value: &Value, list: &str| -> BTreeSet<String> {
        let list = value.pointer(list).and_then(Value::as_array).unwrap();
        list.iter().map(|word| word.as_str().unwrap().to_owned()).collect()
    };
    for list in
        ["/hooks", "/linux/namespaces", "/linux/capabilities", "/linux/seccomp/actions", "/linux/seccomp/operators"]
    {
        let missing: Vec<String> = words(&theirs, list).difference(&words(&ours, list)).cloned().collect();
        assert!(missing.is_empty(), "{list}: {missing:?}");
    }
    // Words that only file systems of old knew.
    let (known, told) = (words(&ours, "/mountOptions"), words(&theirs, "/mountOptions"));
    let missing: Vec<&String> = told.difference(&known).collect();
    assert_eq!(missing, ["acl", "noacl"]);
}

/// Every field of `theirs` is in `ours`, of the same kind; names of annotations are everybody's own.
#[track_caller]
fn contains(ours: &Value, theirs: &Value, place: &str) {
    match theirs {
        Value::Object(fields) if place != "/annotations" => {
            for (name, inner) in fields {
                let found = ours.get(name).unwrap_or_else(|| panic!("{place}/{name} is missing"));
                contains(found, inner, &format!("{place}/{name}"));
            }
        }
        Value::Object(_) => {}
        other => assert_eq!(ours, other, "{place}"),
    }
}
