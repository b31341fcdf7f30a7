//! podman with `--runtime`, of root and of a plain user.

use std::fs;

use gantry_tests::skip;

use crate::Origin;
use crate::engine::{Engine, IMAGE, say_versions};
use crate::system::{LAYER, RUNTIME, System};

/// What `run` is told for a user namespace.
pub const MAPPED: [&str; 4] = ["--uidmap", "0:100000:65536", "--gidmap", "0:100000:65536"];

/// A user who has nothing but subordinate ids.
const PLAIN: &str = "\
    useradd --no-create-home --uid 4321 plain && mkdir -p /run/user/4321 /home/plain && \
    mount -t tmpfs -o uid=4321,gid=4321,mode=700 tmpfs /run/user/4321 && \
    mount -t tmpfs -o uid=4321,gid=4321,mode=700 tmpfs /home/plain && \
    echo plain:100000:65536 | tee /etc/subuid > /etc/subgid";

/// Becomes that user.
const AS_PLAIN: [&str; 8] = [
    "setpriv",
    "--reuid=4321",
    "--regid=4321",
    "--clear-groups",
    "env",
    "HOME=/home/plain",
    "USER=plain",
    "XDG_RUNTIME_DIR=/run/user/4321",
];

const PODMAN: [&str; 5] = ["podman", "--cgroup-manager", "cgroupfs", "--runtime", RUNTIME];

/// Runs a test with root's.
pub fn with(from: Origin, test: impl Fn(&Engine)) {
    let Some(system) = system(from) else { return };
    let flags = ["--cgroup-parent", &system.cgroup_parent()].map(str::to_owned);
    let client = PODMAN.to_vec();
    let engine = engine(system, client, flags.to_vec(), "/run/gantry-runtime", true);
    engine.ok(&["import", LAYER, IMAGE]);
    test(&engine);
}

/// Runs a test with a plain user's, who may make cgroups nowhere.
pub fn with_plain_user(from: Origin, test: impl Fn(&Engine)) {
    let Some(system) = system(from) else { return };
    if !system.has("newuidmap") {
        skip(&format!(
            "podman of a plain user OF {}: newuidmap is not installed; install the package uidmap",
            system.name
        ));
        return;
    }
    system.run(&["sh", "-c", PLAIN]).ok();
    let states = "/run/user/4321/gantry-runtime";
    let client = [&AS_PLAIN[..], &PODMAN].concat();
    let engine = engine(system, client, Vec::new(), states, false);
    engine.ok(&["import", LAYER, IMAGE]);
    test(&engine);
}

fn engine(system: System, client: Vec<&'static str>, run_flags: Vec<String>, states: &str, cgroups: bool) -> Engine {
    let tells_out_of_memory = !system.run(&["podman", "--version"]).ok().starts_with("podman version 4");
    Engine { system, client, run_flags, states: states.to_owned(), cgroups, tells_out_of_memory, keeper: "conmon" }
}

fn system(from: Origin) -> Option<System> {
    let system = from.system("podman")?;
    say_versions(&system, &[&["podman", "--version"], &["conmon", "--version"], &["uname", "-r"]]);
    let mut settings = "[containers]\n".to_owned();
    // Its bridges need packages that podman only recommends.
    settings.push_str("netns = \"none\"\n");
    if matches!(from, Origin::SidWithCgroup2) {
        // It limits every container's processes, and version 1 may have that controller.
        settings.push_str("pids_limit = 0\n");
    }
    fs::create_dir_all(system.file("/etc/containers")).expect("a directory for containers.conf");
    fs::write(system.file("/etc/containers/containers.conf"), settings).expect("containers.conf");
    Some(system)
}
