//! What the kernel says of a program that was configured with all that the specification has for a process.
#![allow(clippy::disallowed_methods, reason = "tests read files plainly")]

mod common;

use common::World;
use serde_json::{Value, json};

/// The output of a program in a container that was configured so.
#[track_caller]
fn runs(world: &mut World, program: &[&str], change: impl FnOnce(&mut Value)) -> String {
    let id = world.id();
    world.program(program);
    world.configure(change);
    world.ok(&["run", &id])
}

/// A field of `/proc/<pid>/stat`, numbered as proc(5) does.
fn stat_field(stat: &str, number: usize) -> i64 {
    let fields = stat.rsplit_once(')').unwrap().1;
    fields.split_whitespace().nth(number - 3).unwrap().parse().unwrap()
}

#[test]
fn a_personality_is_seen_by_uname() {
    let seen = runs(&mut World::new(), &["busybox", "uname", "-m"], |config| {
        config["linux"]["personality"] = json!({"domain": "LINUX32"});
    });
    assert_eq!(seen, "i686\n");
    let mut world = World::new();
    let id = world.id();
    world.configure(|config| config["linux"]["personality"] = json!({"domain": "LINUX", "flags": ["X"]}));
    let refused = world.command(&["run", &id]);
    assert!(refused.code == 1 && refused.err.contains("personality flag"), "{refused:?}");
}

#[test]
fn an_io_priority_is_the_programs() {
    for (class, priority, shown) in [
        ("IOPRIO_CLASS_BE", 6, "best-effort: prio 6\n"),
        ("IOPRIO_CLASS_RT", 1, "realtime: prio 1\n"),
        ("IOPRIO_CLASS_IDLE", 0, "idle\n"),
    ] {
        let seen = runs(&mut World::new(), &["busybox", "ionice"], |config| {
            config["process"]["ioPriority"] = json!({"class": class, "priority": priority});
        });
        assert_eq!(seen, shown, "{class}");
    }
}

#[test]
fn a_scheduler_is_the_programs_for_exec_too() {
    let mut world = World::new();
    let id = world.id();
    // A kernel that divides real time between cgroups of v1 gives a new one none.
    if std::path::Path::new("/sys/fs/cgroup/cpu/cpu.rt_runtime_us").exists() {
        world.configure(|config| {
            config["linux"]["resources"]["cpu"] = json!({"realtimeRuntime": 10_000, "realtimePeriod": 1_000_000});
        });
    }
    let deadline = json!({
        "policy": "SCHED_DEADLINE", "runtime": 10_000_000, "deadline": 20_000_000, "period": 30_000_000,
        "flags": ["SCHED_FLAG_RESET_ON_FORK"],
    });
    for (scheduler, field, number) in [
        (json!({"policy": "SCHED_BATCH", "nice": 7}), 41, 3),
        (json!({"policy": "SCHED_BATCH", "nice": 7}), 19, 7),
        (json!({"policy": "SCHED_RR", "priority": 5}), 40, 5),
        (json!({"policy": "SCHED_IDLE"}), 41, 5),
        (deadline, 41, 6),
    ] {
        world.program(&["cat", "/proc/self/stat"]);
        world.configure(|config| config["process"]["scheduler"] = scheduler.clone());
        assert_eq!(stat_field(&world.ok(&["run", &id]), field), number, "{scheduler}");
    }
    world.configure(|config| config["process"]["scheduler"] = json!({"policy": "SCHED_BATCH"}));
    let id = world.sleeping();
    assert_eq!(stat_field(&world.ok(&["exec", &id, "cat", "/proc/self/stat"]), 41), 3);
}

#[test]
fn an_exec_runs_on_its_last_processors() {
    let mut world = World::new();
    world.configure(|config| config["process"]["execCPUAffinity"] = json!({"initial": "0-1", "final": "1"}));
    let id = world.sleeping();
    let seen = world.ok(&["exec", &id, "grep", "Cpus_allowed_list", "/proc/self/status"]);
    assert_eq!(seen, "Cpus_allowed_list:\t1\n");
    let file = world.file("process.json");
    let process = json!({
        "args": ["/bin/grep", "Cpus_allowed_list", "/proc/self/status"], "cwd": "/",
        "execCPUAffinity": {"initial": "0"},
    });
    std::fs::write(&file, process.to_string()).unwrap();
    assert_eq!(world.ok(&["exec", "-p", &file, &id]), "Cpus_allowed_list:\t0\n");
    let wrong = json!({"args": ["/bin/true"], "cwd": "/", "execCPUAffinity": {"initial": "0-"}});
    std::fs::write(&file, wrong.to_string()).unwrap();
    let refused = world.command(&["exec", "-p", &file, &id]);
    assert!(refused.code == 255 && refused.err.contains("0-"), "{refused:?}");
}

#[test]
fn a_memory_policy_is_the_programs() {
    let seen = runs(&mut World::new(), &["cat", "/proc/self/numa_maps"], |config| {
        config["linux"]["memoryPolicy"] = json!({"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]});
    });
    assert!(seen.contains(" bind=static:0"), "{seen}");
}

#[test]
fn a_time_namespace_has_its_offsets() {
    let mut world = World::new();
    let seen = runs(&mut world, &["cat", "/proc/uptime"], |config| {
        config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "time"}));
        config["linux"]["timeOffsets"] = json!({
            "boottime": {"secs": 1_000_000, "nanosecs": 5}, "monotonic": {"secs": 500},
        });
    });
    let inside: f64 = seen.split(' ').next().unwrap().parse().unwrap();
    let host = std::fs::read_to_string("/proc/uptime").unwrap();
    let host: f64 = host.split(' ').next().unwrap().parse().unwrap();
    assert!((inside - host - 1_000_000.0).abs() < 60.0, "{inside} beside {host}");
    let id = world.sleeping();
    let exec = world.ok(&["exec", &id, "cat", "/proc/self/timens_offsets"]);
    let words: Vec<&str> = exec.split_whitespace().collect();
    assert_eq!(words, ["monotonic", "500", "0", "boottime", "1000000", "5"]);

    let id = world.id();
    world.configure(|config| config["linux"]["timeOffsets"] = json!({"boottime": {"secs": -1_000_000_000_i64}}));
    let refused = world.command(&["run", &id]);
    assert!(refused.code == 1 && refused.err.contains("a clock would be negative"), "{refused:?}");
    world.configure(|config| config["linux"]["timeOffsets"] = json!({"realtime": {"secs": 1}}));
    let refused = world.command(&["run", &id]);
    assert!(refused.code == 1 && refused.err.contains("only monotonic and boottime"), "{refused:?}");
}

#[test]
fn what_this_machine_has_not_is_refused_by_name() {
    let mut world = World::new();
    let id = world.id();
    world.configure(|config| config["linux"]["intelRdt"] = json!({"closID": "x"}));
    let refused = world.command(&["create", &id]);
    assert!(refused.code == 1 && refused.err.contains("linux.intelRdt"), "{refused:?}");
    world.configure(|config| _ = config["linux"].as_object_mut().unwrap().remove("intelRdt"));
    if !std::path::Path::new("/sys/fs/selinux/enforce").exists() {
        world.configure(|config| config["process"]["selinuxLabel"] = json!("a:b:c:d"));
        let refused = world.command(&["create", &id]);
        assert!(refused.code == 1 && refused.err.contains("selinux is not enabled"), "{refused:?}");
    }
}

#[test]
fn a_kernel_without_selinux_makes_mounts_without_their_label_and_says_so() {
    if std::fs::read_to_string("/proc/filesystems").unwrap().contains("selinuxfs") {
        gantry_tests::skip("this kernel has SELinux");
        return;
    }
    let mut world = World::new();
    let id = world.id();
    world.program(&["true"]);
    world.configure(|config| config["linux"]["mountLabel"] = json!("system_u:object_r:container_file_t:s0"));
    let ran = world.command(&["run", &id]);
    assert!(ran.code == 0 && ran.err.contains("container_file_t") && ran.err.contains("no SELinux"), "{ran:?}");
}
