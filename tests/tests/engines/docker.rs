//! Docker's daemon, which knows our runtime by `--add-runtime` and by `runtimes` in daemon.json.

use std::fs;

use crate::Origin;
use crate::engine::{Engine, IMAGE, say_versions};
use crate::system::{GANTRY, LAYER, System};

/// The runtime that `--add-runtime` names.
const BY_FLAG: &str = "by-flag";

/// The one in daemon.json, a program and an argument.
const BY_FILE: &str = "by-file";

/// Flags of every daemon but the cgroups' parent. Its network namespace is its own, so a bridge and forwarding disturb
/// nobody; firewall rules are not needed.
const DAEMON: [&str; 13] = [
    "dockerd",
    "--add-runtime",
    "by-flag=/opt/engines/gantry-runtime",
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

/// Runs a test with containers of the runtime in daemon.json.
pub fn with(from: Origin, test: impl Fn(&Engine)) {
    if let Some(engine) = start(from, &["--runtime", BY_FILE], &[]) {
        test(&engine);
    }
}

/// As [`with`], every container in a user namespace.
pub fn with_remapped_users(from: Origin, test: impl Fn(&Engine)) {
    if let Some(engine) = start(from, &["--runtime", BY_FILE], &["--userns-remap", "default"]) {
        test(&engine);
    }
}

fn start(from: Origin, run_flags: &[&str], flags: &[&str]) -> Option<Engine> {
    let mut system = from.system("dockerd")?;
    say_versions(
        &system,
        &[&["dockerd", "--version"], &["docker", "--version"], &["containerd", "--version"], &["uname", "-r"]],
    );
    let runtimes = serde_json::json!({"runtimes": {BY_FILE: {"path": GANTRY, "runtimeArgs": ["runtime"]}}});
    fs::create_dir_all(system.file("/etc/docker")).expect("a directory for daemon.json");
    fs::write(system.file("/etc/docker/daemon.json"), runtimes.to_string()).expect("daemon.json");
    let subordinate = "echo dockremap:100000:65536 | tee /etc/subuid > /etc/subgid";
    system.run(&["sh", "-c", subordinate]).ok();
    start_daemon(&mut system, flags);
    let mut engine = Engine {
        system,
        client: vec!["docker"],
        run_flags: run_flags.iter().map(|flag| (*flag).to_owned()).collect(),
        states: String::new(),
        cgroups: true,
        tells_out_of_memory: true,
        keeper: "containerd-shim",
    };
    engine.ok(&["import", LAYER, IMAGE]);
    // The daemon's versions differ in where they have a runtime keep states; the directory stays.
    engine.ok(&["run", "--rm", "--network", "none", "--runtime", BY_FILE, IMAGE, "true"]);
    let found = engine.system.run(&["find", "/run", "-type", "d", "-path", "*/runtime-runc/moby*", "-prune"]).ok();
    assert_eq!(found.lines().count(), 1, "states in {found:?}");
    engine.states = found;
    Some(engine)
}

fn start_daemon(system: &mut System, flags: &[&str]) {
    let parent = system.cgroup_parent();
    let words = [&DAEMON[..], &["--cgroup-parent", &parent], flags].concat();
    system.start_daemon(&words, &["docker", "version"]).unwrap_or_else(|error| panic!("{error:?}"));
}

/// A container outlives the daemon, and the next one serves it.
pub fn live_restore(from: Origin) {
    let Some(mut engine) = start(from, &["--runtime", BY_FLAG, "--init"], &["--live-restore"]) else { return };
    let before = engine.settled();
    let script = "trap 'echo stopped; exit 7' TERM; echo started; while :; do sleep 0.05; done";
    engine.ok(&["run", "-d", "--name", "lasting", IMAGE, "sh", "-c", script]);
    engine.is_ours("lasting");
    engine.system.kill_daemon("/run/docker.pid").unwrap_or_else(|error| panic!("{error:?}"));
    start_daemon(&mut engine.system, &["--live-restore"]);
    engine.is_ours("lasting");
    assert!(engine.ok(&["exec", "lasting", "cat", "/proc/1/cmdline"]).contains("docker-init"));
    engine.ok(&["stop", "-t", "30", "lasting"]);
    assert_eq!(engine.inspect("lasting", "{{.State.ExitCode}}"), "7");
    assert_eq!(engine.ok(&["logs", "lasting"]), "started\nstopped");
    engine.remove(&["lasting"], &before);
}

/// Both names work, and with them the hook by which Docker enters a container's network namespace.
pub fn names_and_network(from: Origin) {
    let Some(engine) = start(from, &[], &[]) else { return };
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
