//! What is written to a procfs is written to a procfs, and none is disguised.

use std::os::unix::fs::symlink;
use std::process::Command;

use serde_json::json;

use crate::common::World;
use crate::{inside, run, run_line};

/// Gives the image a `/proc` of its own with this file, and the container no other.
fn with_own_proc(world: &World, file: &str) -> std::path::PathBuf {
    world.configure(|config| {
        config["mounts"].as_array_mut().unwrap().retain(|mount| mount["destination"] != "/proc");
        config["root"]["readonly"] = json!(false);
        config["linux"]["maskedPaths"] = json!([]);
        config["linux"]["readonlyPaths"] = json!([]);
    });
    let path = inside(world, "proc").join(file);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, "untouched").unwrap();
    path
}

/// CVE-2025-52881: a kernel parameter is written to a file that the image has put there, which may lead anywhere.
#[test]
fn kernel_parameters_are_never_written_to_a_file_of_the_image() {
    let mut world = World::new();
    let fake = with_own_proc(&world, "sys/net/ipv4/ip_forward");
    world.configure(|config| config["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1"}));
    world.program(&["true"]);
    let ran = run(&mut world);
    assert_eq!(std::fs::read_to_string(fake).unwrap(), "untouched");
    assert_eq!(ran.code, 0, "{ran:?}");
}

/// CVE-2019-16884, CVE-2025-52881: a security profile is written to a file that the image has put there; the program would
/// run without it. A host that says it has AppArmor, seen by this runtime alone.
#[test]
fn a_security_profile_is_never_written_to_a_file_of_the_image() {
    let mut world = World::new();
    let fake = with_own_proc(&world, "thread-self/attr/apparmor/exec");
    world.configure(|config| config["process"]["apparmorProfile"] = json!("gantry-no-such-profile"));
    world.program(&["echo", "unconfined"]);
    let host = "mount -t tmpfs none /sys/kernel && mount -t tmpfs none /sys/module && \
                mkdir -p /sys/module/apparmor/parameters && echo Y >/sys/module/apparmor/parameters/enabled && exec \"$@\"";
    let id = world.id();
    let prepared = world.prepare(&["run", &id]);
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", host, "sh"]).arg(prepared.get_program()).args(prepared.get_args());
    command.current_dir(world.bundle()).stdin(std::process::Stdio::null());
    let ran = world.finish(command);
    assert_eq!(std::fs::read_to_string(fake).unwrap(), "untouched");
    assert!(ran.code != 0 && ran.out.is_empty() && ran.err.contains("apparmor"), "{ran:?}");
}

/// CVE-2019-16884, CVE-2025-52881: a volume over a file of `/proc` that a program is configured by.
#[test]
fn nothing_is_mounted_over_a_file_of_proc_by_whatever_name() {
    for place in ["/proc/self/attr/exec", "/proc/sys/kernel/core_pattern", "/disguise/version"] {
        let mut world = World::new();
        symlink("/proc", inside(&world, "disguise")).unwrap();
        let source = world.file("volume");
        std::fs::write(&source, "of a volume").unwrap();
        let mount = json!({"destination": place, "type": "none", "source": source, "options": ["bind"]});
        world.configure(|config| config["mounts"].as_array_mut().unwrap().push(mount));
        let ran = run_line(&mut world, "cat /proc/version");
        assert!(ran.code != 0 && ran.err.contains("inside of /proc"), "{place}: {ran:?}");
    }
}
