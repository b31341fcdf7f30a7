//! Hooks by the command line: when each runs, where, what it is told, and what its failure undoes.
#![allow(clippy::disallowed_methods, reason = "tests read files plainly")]

mod common;

use std::time::Instant;

use common::World;
use common::traces::Traces;
use serde_json::{Value, json};

/// Point, name in a state, status that the hook is told, whether it runs in the container's mount namespace and root.
const POINTS: [(&str, &str, bool, bool); 6] = [
    ("prestart", "created", false, false),
    ("createRuntime", "creating", false, false),
    ("createContainer", "creating", true, false),
    ("startContainer", "created", true, true),
    ("poststart", "running", false, false),
    ("poststop", "stopped", false, false),
];

/// A hook that writes what it is told, its mount namespace and its environment into a file of its point.
fn noting(world: &World, point: &str) -> Value {
    let line = format!(
        "exec > {place}/{point}; cat; echo; busybox readlink /proc/self/ns/mnt; busybox pwd; echo $# $1 $A; busybox env | \
         busybox wc -l",
        place = world.path().join("bundle/rootfs/notes").display()
    );
    json!([{"path": "/bin/busybox", "args": ["sh", "-c", line, "zero", "one"], "env": ["A=b", "PATH=/bin"]}])
}

#[test]
fn every_hook_runs_at_its_point_in_its_namespace_and_is_told_the_state() {
    let mut world = World::new();
    let id = world.id();
    let notes = world.path().join("bundle/rootfs/notes");
    std::fs::create_dir(&notes).unwrap();
    // The path of the notes is the same inside, so that every hook finds it.
    let inside = world.bundle().join("rootfs").join(notes.strip_prefix("/").unwrap().parent().unwrap());
    std::fs::create_dir_all(&inside).unwrap();
    std::os::unix::fs::symlink("/notes", inside.join("notes")).unwrap();
    world.program(&["sleep", "600"]);
    let hooks: serde_json::Map<String, Value> =
        POINTS.iter().map(|(point, ..)| ((*point).to_owned(), noting(&world, point))).collect();
    world.configure(|config| {
        config["hooks"] = Value::Object(hooks);
        config["root"]["readonly"] = json!(false);
        config["annotations"] = json!({"a.b": "c"});
    });
    let there = |points: &[&str]| {
        let mut names: Vec<String> =
            std::fs::read_dir(&notes).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        let mut wanted = points.to_vec();
        wanted.sort_unstable();
        assert_eq!(names, wanted);
    };
    world.ok(&["create", &id]);
    there(&["prestart", "createRuntime", "createContainer"]);
    let pid = world.state(&id)["pid"].as_i64().unwrap();
    let theirs = std::fs::read_link(format!("/proc/{pid}/ns/mnt")).unwrap().display().to_string();
    world.ok(&["start", &id]);
    there(&["prestart", "createRuntime", "createContainer", "startContainer", "poststart"]);
    world.ok(&["delete", "--force", &id]);
    there(&POINTS.map(|(point, ..)| point));
    for (point, status, in_mount_namespace, in_root) in POINTS {
        let text = std::fs::read_to_string(notes.join(point)).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let state: Value = serde_json::from_str(lines[0]).unwrap();
        assert_eq!((&state["id"], &state["status"]), (&json!(id), &json!(status)), "{point}: {state}");
        assert_eq!(state["bundle"], json!(world.bundle()), "{point}");
        assert_eq!(state["annotations"], json!({"a.b": "c"}), "{point}");
        let told = match (point, in_mount_namespace) {
            ("poststop", _) => json!(0),
            // Its own number there: it is the first process of its pid namespace.
            (_, true) => json!(1),
            _ => json!(pid),
        };
        assert_eq!(state.get("pid").cloned().unwrap_or(json!(0)), told, "{point}: {state}");
        assert_eq!(lines[1] == theirs, in_mount_namespace, "{point}: {text}");
        assert_eq!(lines[2] == "/", in_root, "{point}: {text}");
        assert_eq!(lines[3], "1 one b", "{point}");
    }
}

#[test]
fn a_hook_that_fails_undoes_what_was_made_and_says_what_it_said() {
    let mut world = World::new();
    let id = world.id();
    world.program(&["sleep", "600"]);
    let before = Traces::of(&world, &id);
    let stopped = world.path().join("stopped");
    for point in ["prestart", "createRuntime", "createContainer", "startContainer"] {
        let failing = json!([{"path": "/bin/busybox", "args": ["sh", "-c", "echo no luck at all >&2; exit 3"]}]);
        let noted = json!([{"path": "/bin/busybox", "args": ["touch", stopped.display().to_string()]}]);
        world.configure(|config| config["hooks"] = json!({point: failing, "poststop": noted}));
        let output = world.command(&["run", "-d", &id]);
        assert_eq!(output.code, 1, "{point}: {output:?}");
        for words in [&format!("error running {point} hook #0"), "no luck at all", "exit status: 3"] {
            assert!(output.err.contains(words), "{point}: {output:?}");
        }
        assert!(stopped.exists(), "{point}: poststop hooks have run");
        std::fs::remove_file(&stopped).unwrap();
        before.restored(&world, &id, point);
    }
    // A container that runs is not taken back for what comes after.
    world.configure(|config| {
        config["hooks"] = json!({"poststart": [{"path": "/bin/false"}], "poststop": [{"path": "/bin/false"}]});
    });
    let output = world.command(&["run", "-d", &id]);
    assert!(output.code == 0 && output.err.contains("error running poststart hook #0"), "{output:?}");
    assert_eq!(world.state(&id)["status"], "running");
    let output = world.command(&["delete", "--force", &id]);
    assert!(output.code == 0 && output.err.contains("error running poststop hook #0"), "{output:?}");
    before.restored(&world, &id, "poststop");
}

#[test]
fn a_hook_past_its_timeout_is_killed_and_fails() {
    let mut world = World::new();
    let id = world.id();
    world.program(&["sleep", "600"]);
    let before = Traces::of(&world, &id);
    for point in ["createRuntime", "createContainer"] {
        let slow = json!([{"path": "/bin/busybox", "args": ["sleep", "600"], "timeout": 1}]);
        world.configure(|config| config["hooks"] = json!({point: slow}));
        let begun = Instant::now();
        let output = world.command(&["create", &id]);
        assert!(output.code == 1 && output.err.contains("past its timeout of 1 s"), "{point}: {output:?}");
        assert!(begun.elapsed().as_secs() < 60, "{point}");
        before.restored(&world, &id, point);
    }
}

#[test]
fn a_hook_may_use_the_container_that_it_is_run_for() {
    let mut world = World::new();
    let id = world.id();
    world.program(&["sleep", "600"]);
    let out = world.file("from-hook");
    let ours = format!("{} --root {}", common::ours().display(), world.file("state"));
    let line = format!("{ours} update --pids-limit 40 {id} && {ours} exec {id} echo inside > {out}");
    world.configure(|config| {
        config["hooks"] = json!({"poststart": [{"path": "/bin/busybox", "args": ["sh", "-c", line], "timeout": 30}]});
    });
    let output = world.command(&["run", "-d", &id]);
    assert_eq!((output.code, output.err.as_str()), (0, ""), "{output:?}");
    assert_eq!(std::fs::read_to_string(out).unwrap(), "inside\n");
}

#[test]
fn a_creation_that_hangs_in_a_hook_is_ended_by_a_delete_by_force() {
    let mut world = World::new();
    let id = world.id();
    world.program(&["sleep", "600"]);
    let before = Traces::of(&world, &id);
    for point in ["createRuntime", "createContainer"] {
        let mark = world.path().join(point);
        let line = format!("touch {}; sleep 600", mark.display());
        let hook = json!([{"path": "/bin/busybox", "args": ["sh", "-c", line], "env": ["PATH=/bin"]}]);
        world.configure(|config| config["hooks"] = json!({point: hook}));
        let create = world.begin(&["create", &id]);
        gantry_tests::eventually("the hook runs", || mark.exists());
        assert_eq!(world.state(&id)["status"], "creating");
        let deleted = world.command(&["delete", "--force", &id]);
        assert_eq!(deleted.code, 0, "{point}: {deleted:?}");
        let ended = create.end();
        assert_eq!(ended.code, 1, "{ended:?}");
        let words = ["process has ended", "ended before it was complete"];
        assert!(words.iter().any(|words| ended.err.contains(words)), "{ended:?}");
        std::fs::remove_file(&mark).unwrap();
        before.restored(&world, &id, point);
    }
}
