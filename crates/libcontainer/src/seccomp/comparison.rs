//! Our default profile beside the one that podman and others ship, call by call, as the kernel would decide.

use std::collections::BTreeSet;

use super::meaning::run;
use super::tests::ALLOW;
use super::{Arch, Profile, Target, compile, default_profile};

/// From Debian's package golang-github-containers-common.
const THEIRS: &str = "/usr/share/containers/seccomp.json";

/// Theirs allows, ours does not.
const DENIED: &[(&str, &[&str])] = &[
    (
        "namespaces and mounts: theirs is for containers in user namespaces; ours wants CAP_SYS_ADMIN, as Docker's",
        &[
            "clone3",
            "fsconfig",
            "fsmount",
            "fsopen",
            "fspick",
            "mount",
            "mount_setattr",
            "move_mount",
            "open_tree",
            "pivot_root",
            "setns",
            "umount",
            "umount2",
            "unshare",
        ],
    ),
    ("keyrings are not the container's own", &["keyctl"]),
    ("other processes' descriptors: with CAP_SYS_PTRACE", &["pidfd_getfd"]),
    ("where memory comes from: with CAP_SYS_NICE", &["get_mempolicy", "mbind", "set_mempolicy"]),
    ("the host: with CAP_SYS_BOOT, CAP_SYSLOG", &["reboot", "syslog"]),
    ("a call of 1995, which no C library makes", &["readdir"]),
    ("a new socket's family is in memory (CVE-2026-31431)", &["socketcall"]),
];

/// Ours allows, theirs does not.
const ALLOWED: &[(&str, &[&str])] = &[
    (
        "newer than theirs, and no more powerful than what they replace",
        &[
            "cachestat",
            "fchmodat2",
            "futex_requeue",
            "futex_wait",
            "futex_waitv",
            "futex_wake",
            "getxattrat",
            "listmount",
            "listxattrat",
            "map_shadow_stack",
            "mseal",
            "removexattrat",
            "setxattrat",
            "statmount",
            "uretprobe",
            "io_pgetevents_time64",
        ],
    ),
    ("Docker's allows them: no privilege is in them", &["io_pgetevents", "vmsplice"]),
    ("old 32-bit programs lower their priority by it", &["nice"]),
];

#[test]
fn the_default_differs_from_podmans_only_as_is_intended() {
    let Ok(text) = gantry_linux::fs::read(THEIRS) else {
        crate::skipped("no seccomp profile of another engine: install golang-github-containers-common");
        return;
    };
    let theirs = Profile::parse(&text).unwrap();
    let ours = default_profile();
    // Docker's fourteen, as far as a profile asks about them.
    let capabilities: Vec<String> = ["CAP_SYS_CHROOT", "CAP_AUDIT_WRITE"].map(str::to_owned).into();
    let program = |profile: &Profile| compile(profile, &Target::new(profile, &capabilities, (6, 18))).unwrap();
    let (theirs_runs, ours_runs) = (program(&theirs), program(&ours));
    let named = [&theirs, &ours].into_iter().flat_map(|profile| profile.rules.iter().flat_map(|rule| &rule.names));
    let names: BTreeSet<&str> = named.map(String::as_str).collect();
    let lists = |lists: &[(&str, &[&str])], name: &str| lists.iter().any(|(_, names)| names.contains(&name));
    let mut unintended = Vec::new();
    let mut compared = 0;
    for arch in [Arch::X86_64, Arch::I386, Arch::X32] {
        for (name, number) in names.iter().filter_map(|name| Some((*name, arch.number(name)?))) {
            // socketcall's first argument is what it does: 1 makes a socket.
            let first = u64::from(name == "socketcall");
            let allows = |program: &[u8]| run(program, arch.audit(), number, [first, 0, 0, 0, 0, 0]).0 == ALLOW;
            compared += 1;
            match (allows(&theirs_runs), allows(&ours_runs)) {
                (true, false) if !lists(DENIED, name) => {
                    unintended.push(format!("{arch:?}: only theirs allows {name}"))
                }
                (false, true) if !lists(ALLOWED, name) => unintended.push(format!("{arch:?}: only ours allows {name}")),
                _ => {}
            }
        }
    }
    assert_eq!(unintended, Vec::<String>::new());
    assert!(compared > 1000, "{compared} calls were compared");
    // What no name shows: io_uring and the families of sockets.
    for arch in [Arch::X86_64, Arch::I386, Arch::X32] {
        let decide = |name, first| run(&ours_runs, arch.audit(), arch.number(name).unwrap(), [first, 0, 0, 0, 0, 0]).0;
        for (name, first) in [("io_uring_setup", 0), ("io_uring_enter", 0), ("socket", 38), ("socket", 40)] {
            assert_ne!(decide(name, first), ALLOW, "{arch:?} {name} {first}");
        }
    }
}
