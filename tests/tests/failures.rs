//! Failures half-way through a start: the step is named, and nothing is left.

use gantry_tests::kernel::Snapshot;
use gantry_tests::{IMAGE, Options, World};

#[test]
fn starts_that_fail_for_ordinary_reasons_leave_nothing() {
    let world = World::start(Options::default()).expect("a daemon of its own");
    let cli = world.gantry();
    let taken = std::net::TcpListener::bind("0.0.0.0:0").expect("a listener");
    let port = format!("{}:80", taken.local_addr().expect("an address").port());
    cli.ok(&["run", "--rm", IMAGE, "true"]);
    let before = Snapshot::settled(&world.daemon);
    for arguments in [
        vec![IMAGE, "no-such-program"],
        vec!["-p", &port, IMAGE, "true"],
        vec!["-p", "0:90", "-p", &port, IMAGE, "true"],
        vec!["-u", "nobody-here", IMAGE, "true"],
        vec!["-w", "/etc/passwd", IMAGE, "true"],
        vec!["-v", "/etc/passwd:/etc", IMAGE, "true"],
        vec!["-v", "named:/data", "--tmpfs", "/t", "-m", "64m", IMAGE, "/etc"],
    ] {
        for _ in 0..3 {
            let out = cli.run(&[&["run", "--rm"], arguments.as_slice()].concat());
            assert!(out.code >= 125, "{out}");
        }
    }
    before.assert_restored(&world.daemon);
}

#[test]
fn an_injected_failure_at_any_step_leaves_nothing() {
    let mut world = World::start(Options::default()).expect("a daemon of its own");
    for step in STEPS {
        world.daemon.stop().expect("stop");
        world.daemon.set_environment(&[("GANTRY_FAIL_AT", step)]);
        world.daemon.launch().expect("start with a failure to come");
        let before = Snapshot::settled(&world.daemon);
        let cli = world.gantry();
        let flags = ["run", "-d", "--name", "fails", "-p", "0:80", "-m", "64m", "-v", "/data", "--tmpfs", "/t"];
        let out = cli.run(&[&flags[..], &[IMAGE, "sleep", "600"]].concat());
        assert!(out.code >= 125, "the failure at {step} was not seen: {out}");
        assert!(out.stderr.contains(step), "the step {step} is not named: {out}");
        cli.ok(&["rm", "-fv", "fails"]);
        before.assert_restored(&world.daemon);
    }
}

#[test]
fn an_exec_that_fails_half_way_leaves_nothing() {
    let mut world = World::start(Options::default()).expect("a daemon of its own");
    world.gantry().ok(&["run", "-d", "--name", "target", IMAGE, "sleep", "600"]);
    let before = Snapshot::settled(&world.daemon);
    let cli = world.gantry();
    for _ in 0..5 {
        assert!(cli.run(&["exec", "target", "no-such-program"]).code >= 126);
        assert!(cli.run(&["exec", "-u", "nobody-here", "target", "true"]).code > 0);
        assert!(cli.run(&["exec", "-w", "/etc/passwd", "target", "true"]).code > 0);
    }
    before.assert_restored(&world.daemon);
    let cli = world.gantry();
    cli.ok(&["exec", "target", "true"]);
    cli.ok(&["rm", "-f", "target"]);
    world.daemon.stop().expect("stop");
}

/// The steps of a start, by the names that errors give them.
const STEPS: &[&str] = &[
    "directory",
    "socket",
    "cgroup",
    "sources",
    "log",
    "streams",
    "clone",
    "namespaces",
    "root",
    "mounts",
    "devices",
    "console",
    "pivot",
    "hostname",
    "sysctls",
    "masks",
    "user",
    "limits",
    "working directory",
    "credentials",
    "program",
];
