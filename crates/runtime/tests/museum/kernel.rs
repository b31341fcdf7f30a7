//! Doors of the kernel that a container finds closed: files of `/proc` and `/sys`, cgroups, devices, keys, system calls.

use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, makedev};
use serde_json::json;

use crate::common::World;
use crate::{inside, run, run_line};

/// Opens each file for writing and writes nothing; a red test must not harm the host.
const KNOCK: &str =
    "knock() { for f in \"$@\"; do if [ -e $f ] && (: >>$f) 2>/dev/null; then echo open: $f; fi; done; }; ";

/// `/proc/kcore` is the host's memory; others tell of its hardware, timers and keys.
#[test]
fn files_that_tell_of_the_host_are_empty() {
    let mut world = World::new();
    let line = "for f in kcore interrupts keys timer_list scsi acpi; do f=/proc/$f; \
                if [ -d $f ]; then ls -A $f; elif [ -e $f ]; then busybox head -c 1 $f | wc -c | grep -v '^0$'; fi; done; \
                ls -A /sys/firmware 2>/dev/null; echo done";
    let ran = run_line(&mut world, line);
    assert_eq!(ran.out, "done\n", "{ran:?}");
}

/// CVE-2022-0811 and every escape that had the kernel run a program of the container's: `core_pattern`, `modprobe`,
/// `sysrq-trigger`, `uevent_helper`.
#[test]
fn files_that_steer_the_host_are_read_only() {
    let mut world = World::new();
    let files = "/proc/sys/kernel/core_pattern /proc/sys/kernel/modprobe /proc/sys/vm/drop_caches /proc/sysrq-trigger \
                 /proc/irq/default_smp_affinity /sys/kernel/uevent_helper /sys/power/state";
    let ran =
        run_line(&mut world, &format!("{KNOCK} knock {files}; [ -r /proc/sys/kernel/core_pattern ] && echo done"));
    assert_eq!(ran.out, "done\n", "{ran:?}");
}

/// CVE-2022-0492: a release agent, or limits, are written by the container.
#[test]
fn its_cgroup_is_shown_to_a_container_but_not_changed_by_it() {
    let mut world = World::new();
    let line = format!(
        "{KNOCK} cd /sys/fs/cgroup; for d in . *; do [ -e $d/cgroup.procs ] || continue; found=1; \
         mkdir $d/gantry-escape 2>/dev/null && echo made in $d && busybox rmdir $d/gantry-escape; \
         knock $d/cgroup.procs $d/release_agent $d/notify_on_release $d/memory.limit_in_bytes $d/memory.max; done; \
         echo found $found"
    );
    let ran = run_line(&mut world, &line);
    assert_eq!(ran.out, "found 1\n", "{ran:?}");
}

/// A node of the image for a device of the host is of no use.
#[test]
fn a_device_that_was_not_given_cannot_be_used_by_a_node_of_the_image() {
    let mut world = World::new();
    let node = |name: &str, major, minor| {
        let (path, mode) = (inside(&world, name), Mode::from_raw_mode(0o666));
        rustix::fs::mknodat(CWD, &path, FileType::CharacterDevice, mode, makedev(major, minor)).unwrap();
        std::fs::File::open(path).is_ok()
    };
    // Opening them needs no capability and does nothing; for comparison one that everybody has.
    let there = ["fuse", "tun", "loop"].into_iter().zip([229, 200, 237]).filter(|(name, minor)| node(name, 10, *minor));
    let names: Vec<&str> = there.map(|(name, _)| name).collect();
    if names.is_empty() {
        gantry_tests::skip("devices: this kernel has none that could be opened without harm");
        return;
    }
    node("zero", 1, 5);
    let line = format!("for f in zero {}; do (: </$f) 2>/dev/null && echo $f; done; true", names.join(" "));
    let ran = run_line(&mut world, &line);
    assert_eq!(ran.out, "zero\n", "{ran:?}");
}

/// CVE-2014-9529 and others: the keys of whoever started the runtime.
#[test]
fn keys_of_the_caller_are_out_of_reach() {
    let mut world = World::new();
    world.configure(|config| config["linux"]["maskedPaths"] = json!([]));
    let id = world.id();
    world.program(&["cat", "/proc/keys"]);
    let ran = world.command(&["run", &id]);
    if ran.err.contains("no session keyring of its own") {
        gantry_tests::skip("session keyrings: this machine refuses them");
        return;
    }
    assert!(ran.out.lines().any(|line| line.contains(&format!("_ses.{id}"))), "{ran:?}");
}

#[test]
fn a_container_cannot_have_more_processes_than_it_was_given() {
    let mut world = World::new();
    world.configure(|config| config["linux"]["resources"]["pids"] = json!({"limit": 8}));
    let ran = run_line(&mut world, "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 600 & done; echo all");
    assert!(!ran.out.contains("all") && ran.err.contains("fork"), "{ran:?}");
}

#[test]
fn a_container_cannot_have_more_memory_than_it_was_given() {
    let mut world = World::new();
    world.configure(|config| config["linux"]["resources"]["memory"] = json!({"limit": 32 << 20, "swap": 32 << 20}));
    let ran = run_line(&mut world, "busybox dd if=/dev/zero of=/dev/null bs=128M count=1 2>&1; echo $?");
    assert_eq!(ran.out.lines().last(), Some("137"), "{ran:?}");
}

/// Every call that a profile refuses is refused, in exec as well.
#[test]
fn a_seccomp_profile_holds_for_run_and_exec() {
    let mut world = World::new();
    let profile = json!({"defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]});
    world.configure(|config| config["linux"]["seccomp"] = profile);
    let line = "mkdir /dev/shm/made 2>/dev/null; echo $?; grep Seccomp: /proc/self/status";
    let ran = run_line(&mut world, line);
    assert_eq!(ran.out, "1\nSeccomp:\t2\n", "{ran:?}");
    let id = world.sleeping();
    assert_eq!(world.ok(&["exec", &id, "sh", "-c", line]), "1\nSeccomp:\t2\n");
}

/// The mounts of the host are not seen, and none of them can be reached.
#[test]
fn the_root_is_the_end_of_the_world() {
    let mut world = World::new();
    let host = world.path().to_path_buf();
    let line = format!("cat /proc/self/mountinfo; ls {} /proc/1/root{} 2>/dev/null", host.display(), host.display());
    let ran = run_line(&mut world, &line);
    let mounts: Vec<&str> = ran.out.lines().filter_map(|line| line.split(' ').nth(4)).collect();
    assert!(mounts.contains(&"/proc") && mounts.iter().all(|place| Path::new(place).is_absolute()), "{ran:?}");
    assert!(!ran.out.lines().any(|line| line == "bundle"), "{ran:?}");
    world.program(&["true"]);
    assert_eq!(run(&mut world).code, 0);
}
