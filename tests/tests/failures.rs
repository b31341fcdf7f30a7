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
    let before = Snapshot::take(&world.daemon);
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
    let steps = std::env::var("GANTRY_FAIL_STEPS").unwrap_or_else(|_| STEPS.join(" "));
    let mut world = World::start(Options::default()).expect("a daemon of its own");
    for step in steps.split(' ') {
        world.daemon.stop().expect("stop");
        world.daemon.set_environment(&[]);
        world.daemon.launch().expect("start without a failure");
        world.gantry().ok(&["run", "--rm", "-p", "0:80", IMAGE, "true"]);
        world.daemon.stop().expect("stop");
        world.daemon.set_environment(&[("GANTRY_FAIL_AT", step)]);
        world.daemon.launch().expect("start with a failure to come");
        // Warm supervisors are there before the first look.
        gantry_tests::eventually("the daemon rests", || {
            let first = Snapshot::take(&world.daemon);
            std::thread::sleep(std::time::Duration::from_millis(100));
            first == Snapshot::take(&world.daemon)
        });
        let before = Snapshot::take(&world.daemon);
        let cli = world.gantry();
        let flags = ["run", "-d", "--name", "fails", "-p", "0:80", "-m", "64m", "-v", "/data", "--tmpfs", "/t"];
        let out = cli.run(&[&flags[..], &[IMAGE, "sleep", "600"]].concat());
        assert!(out.code >= 125, "the failure at {step} was not seen: {out}");
        cli.ok(&["rm", "-fv", "fails"]);
        before.assert_restored(&world.daemon);
    }
}

/// The steps of a start, by the names that the daemon gives them.
const STEPS: &[&str] = &["network", "rootfs", "cgroup", "mounts", "exec"];
