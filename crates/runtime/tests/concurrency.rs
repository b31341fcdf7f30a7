//! Several invocations at once, for one container and for many.
#![allow(clippy::disallowed_methods, reason = "tests read files plainly")]

mod common;

use common::traces::Traces;
use common::{Running, World};
use serde_json::{Value, json};

#[test]
fn thirty_containers_are_created_at_once_and_deleted_at_once() {
    let mut world = World::new();
    world.program(&["sleep", "600"]);
    let ids: Vec<String> = (0..30).map(|_| world.id()).collect();
    for (before, after) in [(&["run", "--detach"][..], &[][..]), (&["exec"], &["true"]), (&["delete", "--force"], &[])]
    {
        let running: Vec<_> = ids.iter().map(|id| world.begin(&[before, &[id], after].concat())).collect();
        for output in running.into_iter().map(Running::end) {
            assert_eq!(output.code, 0, "{before:?}: {output:?}");
        }
    }
    assert_eq!(world.command(&["list", "-q"]).out, "");
}

#[test]
fn of_many_who_create_one_name_one_wins_and_the_others_are_told() {
    let mut world = World::new();
    let id = world.id();
    world.program(&["sleep", "600"]);
    let running: Vec<_> = (0..10).map(|_| world.begin(&["create", &id])).collect();
    let (won, lost): (Vec<_>, Vec<_>) = running.into_iter().map(Running::end).partition(|output| output.code == 0);
    assert_eq!(won.len(), 1, "{lost:?}");
    assert!(lost.iter().all(|output| output.code == 1 && output.err.contains("already exists")), "{lost:?}");
    world.ok(&["start", &id]);
}

#[test]
fn of_many_who_start_a_container_one_does() {
    let mut world = World::new();
    let id = world.id();
    world.shell("echo once; exec sleep 600");
    let created = world.command(&["create", &id]);
    let running: Vec<_> = (0..10).map(|_| world.begin(&["start", &id])).collect();
    let (won, lost): (Vec<_>, Vec<_>) = running.into_iter().map(Running::end).partition(|output| output.code == 0);
    assert_eq!(won.len(), 1, "{lost:?}");
    let told = "cannot start an already running container";
    assert!(lost.iter().all(|output| output.code == 1 && output.err.contains(told)), "{lost:?}");
    gantry_tests::eventually("the program writes", || created.out_now() == "once\n");
}

#[test]
fn a_running_container_is_not_deleted_and_runcs_words_say_so() {
    let mut world = World::new();
    let id = world.sleeping();
    for status in ["running", "paused"] {
        let refused = world.command(&["delete", &id]);
        assert_eq!(refused.code, 1);
        let words = format!("cannot delete container {id} that is not stopped: {status}");
        assert!(refused.err.contains(&words), "{refused:?}");
        assert_eq!(world.state(&id)["status"], status);
        if status == "running" {
            world.ok(&["pause", &id]);
        }
    }
    world.ok(&["delete", "--force", &id]);
}

#[test]
fn of_many_who_delete_a_container_by_force_all_succeed() {
    let mut world = World::new();
    let id = world.id();
    world.program(&["sleep", "600"]);
    let before = Traces::of(&world, &id);
    world.ok(&["run", "-d", &id]);
    let running: Vec<_> = (0..8).map(|_| world.begin(&["delete", "--force", &id])).collect();
    let results: Vec<_> = running.into_iter().map(Running::end).collect();
    assert!(results.iter().all(|output| output.code == 0), "{results:?}");
    before.restored(&world, &id, "eight deletes");
}

#[test]
fn execs_that_race_with_a_delete_succeed_or_are_refused_and_leave_nothing() {
    let mut world = World::new();
    let id = world.id();
    world.program(&["sleep", "600"]);
    let before = Traces::of(&world, &id);
    // Without a pid namespace of its own nothing but the cgroup finds what is executed late.
    for pids in ["own", "the host's"] {
        world.configure(|config| {
            let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
            if pids != "own" {
                namespaces.retain(|namespace| namespace["type"] != "pid");
                config["mounts"].as_array_mut().unwrap().retain(|mount| mount["type"] != "proc");
                config["linux"]["maskedPaths"] = json!([]);
                config["linux"]["readonlyPaths"] = json!([]);
            }
        });
        for _ in 0..2 {
            world.ok(&["run", "-d", &id]);
            let mut running: Vec<_> = (0..6).map(|_| world.begin(&["exec", "--detach", &id, "sleep", "600"])).collect();
            let delete = world.begin(&["delete", "--force", &id]);
            running.extend((0..6).map(|_| world.begin(&["exec", "--detach", &id, "sleep", "600"])));
            let deleted = delete.end();
            assert_eq!(deleted.code, 0, "{deleted:?}");
            for exec in running.into_iter().map(Running::end) {
                assert!(matches!(exec.code, 0 | 255), "{exec:?}");
            }
            before.restored(&world, &id, pids);
        }
    }
}

#[test]
fn reads_do_not_wait_for_a_container_in_the_making() {
    let mut world = World::new();
    let id = world.id();
    world.program(&["sleep", "600"]);
    let mark = world.path().join("mark");
    let line = format!("touch {}; sleep 600", mark.display());
    let hook = json!([{"path": "/bin/busybox", "args": ["sh", "-c", line], "env": ["PATH=/bin"]}]);
    world.configure(|config| config["hooks"] = json!({"createRuntime": hook}));
    let create = world.begin(&["create", &id]);
    gantry_tests::eventually("the hook runs", || mark.exists());
    assert_eq!(world.state(&id)["status"], "creating");
    let list: Value = serde_json::from_str(&world.ok(&["list", "-f", "json"])).unwrap();
    assert_eq!(list[0]["status"], "creating");
    let refused = world.command(&["exec", &id, "true"]);
    assert_eq!(refused.code, 255, "{refused:?}");
    world.ok(&["delete", "--force", &id]);
    assert_eq!(create.end().code, 1);
}

#[test]
fn a_first_process_that_is_stopped_in_its_creation_can_be_deleted() {
    let mut world = World::new();
    let id = world.id();
    world.program(&["sleep", "600"]);
    let before = Traces::of(&world, &id);
    let mark = world.path().join("mark");
    let line = format!("touch {}; kill -STOP $PPID; sleep 600", mark.display());
    let hook = json!([{"path": "/bin/busybox", "args": ["sh", "-c", line], "env": ["PATH=/bin"]}]);
    world.configure(|config| {
        config["linux"]["namespaces"].as_array_mut().unwrap().retain(|namespace| namespace["type"] != "pid");
        config["mounts"].as_array_mut().unwrap().retain(|mount| mount["type"] != "proc");
        config["linux"]["maskedPaths"] = json!([]);
        config["linux"]["readonlyPaths"] = json!([]);
        config["hooks"] = json!({"createContainer": hook});
    });
    let create = world.begin(&["create", &id]);
    gantry_tests::eventually("the hook runs", || mark.exists());
    world.ok(&["delete", "--force", &id]);
    assert_eq!(create.end().code, 1);
    std::fs::remove_file(&mark).unwrap();
    before.restored(&world, &id, "stopped");
}
