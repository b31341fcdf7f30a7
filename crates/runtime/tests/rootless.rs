//! A container of somebody who is not root and has neither subordinate ids nor a cgroup of his own.
#![allow(clippy::disallowed_methods, reason = "tests prepare directories plainly")]

mod common;

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use common::{Output, World, copy_program, ours};
use serde_json::json;

const NOBODY: u32 = 65534;

/// The runtime where everybody reaches it, and a bundle that is nobody's.
fn world() -> (tempfile::TempDir, World) {
    let place = tempfile::tempdir().unwrap();
    std::fs::set_permissions(place.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let runtime = place.path().join("gantry-runtime");
    copy_program(&ours(), &runtime);
    let world = World::of(&runtime);
    std::fs::remove_file(world.bundle().join("config.json")).unwrap();
    assert!(Command::new("chown").args(["-R", "65534:65534"]).arg(world.path()).status().unwrap().success());
    let spec = as_nobody(&world, &["spec", "--rootless"]);
    assert_eq!(spec.code, 0, "{spec:?}");
    world.configure(|config| config["process"]["terminal"] = json!(false));
    (place, world)
}

fn as_nobody(world: &World, args: &[&str]) -> Output {
    let mut command = world.prepare(args);
    command.uid(NOBODY).gid(NOBODY).env("HOME", "/");
    world.finish(command)
}

#[test]
fn who_is_not_root_runs_executes_and_deletes_with_a_user_namespace_and_is_told_what_is_left_out() {
    let (_place, mut world) = world();
    let id = world.id();
    let shared = world.path().join("shared");
    std::fs::create_dir(&shared).unwrap();
    std::os::unix::fs::chown(&shared, Some(NOBODY), Some(NOBODY)).unwrap();
    world.configure(|config| {
        let bind = json!({"destination": "/tmp", "type": "none", "source": shared, "options": ["bind", "rw"]});
        config["mounts"].as_array_mut().unwrap().push(bind);
    });
    world.shell("id -u; touch /tmp/mine; echo $?; stat -c %u /tmp/mine");
    let ran = as_nobody(&world, &["run", &id]);
    assert_eq!((ran.code, ran.out.as_str()), (0, "0\n0\n0\n"), "{ran:?}");
    assert!(ran.err.contains("cannot make cgroup") && ran.err.contains("without limits"), "{ran:?}");
    let mine = std::fs::metadata(shared.join("mine")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&mine), NOBODY);

    world.program(&["sleep", "600"]);
    let started = as_nobody(&world, &["run", "-d", &id]);
    assert_eq!(started.code, 0, "{started:?}");
    let exec = as_nobody(&world, &["exec", &id, "sh", "-c", "id -u; exit 5"]);
    assert_eq!((exec.code, exec.out.as_str()), (5, "0\n"), "{exec:?}");
    let killed = as_nobody(&world, &["kill", &id, "KILL"]);
    assert_eq!(killed.code, 0, "{killed:?}");
    let deleted = as_nobody(&world, &["delete", "--force", &id]);
    assert_eq!(deleted.code, 0, "{deleted:?}");
    assert!(as_nobody(&world, &["state", &id]).err.contains("does not exist"));
}

#[test]
fn a_limit_that_nobody_can_set_is_refused() {
    let (_place, mut world) = world();
    let id = world.id();
    world.configure(|config| config["linux"]["resources"] = json!({"pids": {"limit": 5}}));
    let refused = as_nobody(&world, &["run", &id]);
    assert!(refused.code != 0 && refused.err.contains("pids"), "{refused:?}");
    assert!(as_nobody(&world, &["state", &id]).err.contains("does not exist"));
}

/// As nobody, in a mount namespace in which nobody has subordinate ids: the machine's own are not touched.
fn with_subordinate_ids(world: &World, args: &[&str]) -> Output {
    let etc = world.path().join("etc");
    if !etc.exists() {
        std::fs::create_dir(&etc).unwrap();
        for (name, text) in [
            ("passwd", "root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n"),
            ("group", "root:x:0:\nnogroup:x:65534:\n"),
            ("subuid", "nobody:100000:65536\n"),
            ("subgid", "nobody:300000:65536\n"),
        ] {
            std::fs::write(etc.join(name), text).unwrap();
        }
    }
    let runtime = world.prepare(args);
    let line = format!(
        "mount --bind {} /etc && exec setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups \"$@\"",
        etc.display()
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &line, "sh"]).arg(runtime.get_program()).args(runtime.get_args());
    command.current_dir(world.bundle()).stdin(std::process::Stdio::null()).env("HOME", "/");
    world.finish(command)
}

#[test]
fn subordinate_ids_are_mapped_by_newuidmap_and_newgidmap_and_no_others() {
    if !["/usr/bin/newuidmap", "/usr/bin/setpriv"].iter().all(|program| std::path::Path::new(program).exists()) {
        gantry_tests::skip("no newuidmap (package uidmap) or setpriv on this machine");
        return;
    }
    let (_place, mut world) = world();
    let id = world.id();
    let shared = world.path().join("shared");
    std::fs::create_dir(&shared).unwrap();
    std::os::unix::fs::chown(&shared, Some(NOBODY), Some(NOBODY)).unwrap();
    let ranges = |outside: u32| {
        json!([
            {"containerID": 0, "hostID": NOBODY, "size": 1},
            {"containerID": 1, "hostID": outside, "size": 1000},
        ])
    };
    world.shell("id -u; touch /tmp/theirs && busybox chown 5:7 /tmp/theirs && stat -c %u:%g /tmp/theirs");
    world.configure(|config| {
        config["linux"]["uidMappings"] = ranges(100_000);
        config["linux"]["gidMappings"] = ranges(300_000);
        for set in ["bounding", "effective", "permitted"] {
            config["process"]["capabilities"][set].as_array_mut().unwrap().push(json!("CAP_CHOWN"));
        }
        let bind = json!({"destination": "/tmp", "type": "none", "source": shared, "options": ["bind", "rw"]});
        config["mounts"].as_array_mut().unwrap().push(bind);
    });
    let ran = with_subordinate_ids(&world, &["run", &id]);
    assert_eq!((ran.code, ran.out.as_str()), (0, "0\n5:7\n"), "{ran:?}");
    let theirs = std::fs::metadata(shared.join("theirs")).unwrap();
    let owner = (std::os::unix::fs::MetadataExt::uid(&theirs), std::os::unix::fs::MetadataExt::gid(&theirs));
    assert_eq!(owner, (100_004, 300_006));

    for (kind, program) in [("uidMappings", "newuidmap"), ("gidMappings", "newgidmap")] {
        world.configure(|config| {
            config["linux"]["uidMappings"] = ranges(100_000);
            config["linux"]["gidMappings"] = ranges(300_000);
            config["linux"][kind] = ranges(700_000);
        });
        let refused = with_subordinate_ids(&world, &["run", &id]);
        assert_eq!(refused.code, 1, "{refused:?}");
        for words in [program, "1 700000 1000", "/etc/subuid"] {
            assert!(refused.err.contains(words), "{refused:?}");
        }
        assert!(as_nobody(&world, &["state", &id]).err.contains("does not exist"));
    }
}
