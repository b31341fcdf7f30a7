//! Docker's daemon, which knows our runtime by `--add-runtime` and by `runtimes` in daemon.json.

use std::fs;

use crate::Origin;
use crate::engine::{Engine, IMAGE, say_versions};
use crate::system::{GANTRY, LAYER, RUNTIME};

/// The runtime that `--add-runtime` names.
const BY_FLAG: &str = "by-flag";

/// The one in daemon.json, a program and an argument.
const BY_FILE: &str = "by-file";

/// Runs a test with containers of the runtime in daemon.json.
pub fn with(from: Origin, test: impl Fn(&Engine)) {
    if let Some(engine) = start(from, &["--runtime", BY_FILE]) {
        test(&engine);
    }
}

fn start(from: Origin, run_flags: &[&str]) -> Option<Engine> {
    let mut system = from.system("dockerd")?;
    say_versions(
        &system,
        &[&["dockerd", "--version"], &["docker", "--version"], &["containerd", "--version"], &["uname", "-r"]],
    );
    let runtimes = serde_json::json!({"runtimes": {BY_FILE: {"path": GANTRY, "runtimeArgs": ["runtime"]}}});
    fs::create_dir_all(system.file("/etc/docker")).expect("a directory for daemon.json");
    fs::write(system.file("/etc/docker/daemon.json"), runtimes.to_string()).expect("daemon.json");
    let parent = system.cgroup_parent();
    let by_flag = format!("{BY_FLAG}={RUNTIME}");
    // The network namespace is its own, so its bridge and forwarding disturb nobody; firewall rules are not needed.
    let daemon = [
        "dockerd",
        "--add-runtime",
        &by_flag,
        "--cgroup-parent",
        &parent,
        "--exec-opt",
        "native.cgroupdriver=cgroupfs",
        "--storage-driver",
        "overlay2",
        "--group",
        "root",
        "--iptables=false",
        "--ip6tables=false",
        "--ip-masq=false",
        "--userland-proxy=false",
    ];
    system.start_daemon(&daemon, &["docker", "version"]).unwrap_or_else(|error| panic!("{error:?}"));
    let engine = Engine {
        system,
        client: vec!["docker"],
        run_flags: run_flags.iter().map(|flag| (*flag).to_owned()).collect(),
        states: "/run/docker/runtime-runc/moby",
        keeper: "(containerd-shim",
    };
    engine.ok(&["import", LAYER, IMAGE]);
    Some(engine)
}

/// Both names work, and with them the hook by which Docker enters a container's network namespace.
pub fn names_and_network(from: Origin) {
    let Some(engine) = start(from, &[]) else { return };
    let runtimes = engine.ok(&["info", "--format", "{{json .Runtimes}}"]);
    assert!(runtimes.contains(BY_FLAG) && runtimes.contains(BY_FILE), "{runtimes}");
    for (name, runtime) in [("first", BY_FLAG), ("second", BY_FILE)] {
        engine.ok(&["run", "-d", "--name", name, "--runtime", runtime, IMAGE, "httpd", "-f", "-h", "/etc"]);
        assert_eq!(engine.inspect(name, "{{.HostConfig.Runtime}}"), runtime);
        engine.is_ours(name);
    }
    let address = engine.inspect("first", "{{.NetworkSettings.Networks.bridge.IPAddress}}");
    let page = engine.ok(&["exec", "second", "wget", "-q", "-O", "-", &format!("http://{address}/os-release")]);
    assert!(page.contains("ID=busybox"), "{page}");
    // The other runtimes are masked, so this is what a container of another runtime would be.
    engine.run(&["run", "--rm", "--runtime", "runc", IMAGE, "true"]).fails(127, "exit status 99");
    engine.ok(&["rm", "-f", "first", "second"]);
}
