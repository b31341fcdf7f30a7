//! A start that fails or is killed half-way, at every step there is.
#![allow(clippy::disallowed_methods, reason = "tests read files plainly")]

mod common;

use std::collections::BTreeSet;
use std::process::Command;

use common::traces::Traces;
use common::{Output, World};
use libcontainer::steps::{CREATOR, FIRST, FURTHER, LAST, VARIABLE};
use serde_json::json;

/// A container that takes every step: with a user namespace, a device of its own, hooks, limits. Its device is made in a
/// network namespace that ends with each command.
fn eventful() -> World {
    let world = World::new();
    world.program(&["sleep", "600"]);
    world.configure(|config| {
        let mapping = json!([{"containerID": 0, "hostID": 0, "size": 65536}]);
        config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
        config["linux"]["uidMappings"] = mapping.clone();
        config["linux"]["gidMappings"] = mapping;
        config["linux"]["netDevices"] = json!({"fails0": {"name": "eth0"}});
        config["linux"]["resources"] = json!({"pids": {"limit": 50}, "memory": {"limit": 64 << 20}});
        let hook = json!([{"path": "/bin/true"}]);
        config["hooks"] = json!({"createRuntime": hook, "createContainer": hook, "startContainer": hook});
    });
    world
}

/// A command of which one step is to fail.
fn failing(world: &World, step: &str, args: &[&str]) -> Output {
    let runtime = world.prepare(args);
    let line = "ip link add fails0 type veth peer name fails1 && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--net", "sh", "-c", line, "sh"]).arg(runtime.get_program()).args(runtime.get_args());
    command.current_dir(world.bundle()).stdin(std::process::Stdio::null()).env(VARIABLE, step);
    world.finish(command)
}

/// The steps of a creation, each once.
fn of_creation() -> BTreeSet<&'static str> {
    CREATOR.iter().chain(FIRST).copied().collect()
}

#[test]
fn a_create_that_fails_at_any_step_names_it_and_leaves_nothing() {
    let mut world = eventful();
    let id = world.id();
    let pid_file = world.file("pid");
    let before = Traces::of(&world, &id);
    for step in of_creation() {
        let output = failing(&world, step, &["create", "--pid-file", &pid_file, &id]);
        assert_eq!(output.code, 1, "{step}: {output:?}");
        assert!(output.err.contains(&format!("{step}: ")), "{step} is not named: {output:?}");
        before.restored(&world, &id, step);
    }
}

#[test]
fn a_create_in_the_callers_mount_namespace_that_fails_or_is_killed_leaves_no_mount_either() {
    let mut world = World::new();
    let id = world.id();
    world.program(&["sleep", "600"]);
    world.configure(|config| {
        let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|namespace| namespace["type"] != "mount");
        config["linux"]["maskedPaths"] = json!([]);
        config["linux"]["readonlyPaths"] = json!([]);
    });
    let before = Traces::of(&world, &id);
    for step in of_creation().into_iter().filter(|step| !["mappings", "network devices", "hooks"].contains(step)) {
        for killed in ["", ":kill"] {
            let output = failing(&world, &format!("{step}{killed}"), &["create", &id]);
            assert!(matches!(output.code, 1 | 137), "{step}{killed}: {output:?}");
            world.ok(&["delete", "--force", &id]);
            before.restored(&world, &id, step);
        }
    }
}

#[test]
fn a_run_that_fails_at_any_step_names_it_and_leaves_nothing() {
    let mut world = eventful();
    let id = world.id();
    let before = Traces::of(&world, &id);
    for step in of_creation().into_iter().chain(LAST.iter().copied()) {
        let output = failing(&world, step, &["run", "-d", &id]);
        assert_eq!(output.code, 1, "{step}: {output:?}");
        assert!(output.err.contains(&format!("{step}: ")), "{step} is not named: {output:?}");
        before.restored(&world, &id, step);
    }
}

#[test]
fn a_start_that_fails_names_the_step_and_leaves_a_stopped_container_that_can_be_deleted() {
    let mut world = eventful();
    let id = world.id();
    let before = Traces::of(&world, &id);
    for step in LAST {
        let created = failing(&world, step, &["create", &id]);
        assert_eq!(created.code, 0, "{step}: {created:?}");
        let output = world.command(&["start", &id]);
        assert_eq!(output.code, 1, "{step}: {output:?}");
        assert!(output.err.contains(&format!("{step}: ")), "{step} is not named: {output:?}");
        world.becomes(&id, "stopped");
        world.ok(&["delete", &id]);
        before.restored(&world, &id, step);
    }
}

#[test]
fn an_exec_that_fails_at_any_step_names_it_and_leaves_the_container_as_it_was() {
    let mut world = World::new();
    let id = world.sleeping();
    let before = Traces::of(&world, &id);
    let pid_file = world.file("pid");
    for step in FURTHER.iter().chain(LAST) {
        let mut command = world.prepare(&["exec", "--pid-file", &pid_file, &id, "sleep", "600"]);
        command.env(VARIABLE, step);
        let output = world.finish(command);
        assert_eq!(output.code, 255, "{step}: {output:?}");
        assert!(output.err.contains(&format!("{step}: ")), "{step} is not named: {output:?}");
        before.restored(&world, &id, step);
    }
    world.ok(&["exec", &id, "true"]);
}

#[test]
fn what_a_creator_that_was_killed_at_any_step_leaves_is_deleted_by_force() {
    let mut world = eventful();
    let id = world.id();
    let before = Traces::of(&world, &id);
    for step in of_creation() {
        let output = failing(&world, &format!("{step}:kill"), &["create", &id]);
        // The creator itself, or its process, of which it tells.
        assert!(matches!(output.code, 1 | 137), "{step}: {output:?}");
        world.ok(&["delete", "--force", &id]);
        before.restored(&world, &id, step);
        assert!(world.command(&["state", &id]).err.contains("does not exist"), "{step}");
    }
}

#[test]
fn an_exec_that_was_killed_at_any_step_leaves_the_container_as_it_was() {
    let mut world = World::new();
    let id = world.sleeping();
    let before = Traces::of(&world, &id);
    for step in FURTHER.iter().chain(LAST).filter(|step| **step != "exec record") {
        let mut command = world.prepare(&["exec", &id, "true"]);
        command.env(VARIABLE, format!("{step}:kill"));
        let output = world.finish(command);
        assert!(matches!(output.code, 137 | 255), "{step}: {output:?}");
        before.restored(&world, &id, step);
    }
}

#[test]
fn a_step_that_does_not_exist_is_refused() {
    let world = World::new();
    let mut command = world.prepare(&["list"]);
    command.env(VARIABLE, "sources:explode");
    let output = world.finish(command);
    assert_eq!(output.code, 1);
    assert!(output.err.contains("there is no step"), "{output:?}");
}
