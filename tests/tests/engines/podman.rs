//! podman with `--runtime`.

use std::fs;

use crate::Origin;
use crate::engine::{Engine, IMAGE, say_versions};
use crate::system::{LAYER, RUNTIME};

/// Runs a test with it.
pub fn with(from: Origin, test: impl Fn(&Engine)) {
    let Some(system) = from.system("podman") else { return };
    say_versions(&system, &[&["podman", "--version"], &["conmon", "--version"], &["uname", "-r"]]);
    // Bridges of podman need packages that it only recommends.
    fs::create_dir_all(system.file("/etc/containers")).expect("a directory for containers.conf");
    fs::write(system.file("/etc/containers/containers.conf"), "[containers]\nnetns = \"none\"\n")
        .expect("containers.conf");
    let flags = ["--cgroup-parent", &system.cgroup_parent()].map(str::to_owned);
    let engine = Engine {
        system,
        client: vec!["podman", "--cgroup-manager", "cgroupfs", "--runtime", RUNTIME],
        run_flags: flags.to_vec(),
        states: "/run/gantry-runtime",
        keeper: "(conmon)",
    };
    engine.ok(&["import", LAYER, IMAGE]);
    test(&engine);
}
