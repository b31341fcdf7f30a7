//! Restart policies.

use std::time::Duration;

use gantry_tests::{IMAGE, both, eventually, until};

#[test]
fn on_failure_restarts_as_often_as_allowed() {
    both(|world, cli| {
        let name = world.name("fail");
        cli.ok(&["run", "-d", "--restart", "on-failure:2", "--name", &name, IMAGE, "sh", "-c", "echo again; exit 1"]);
        let state = || cli.inspect(&name, "{{.RestartCount}} {{.State.Status}} {{.State.ExitCode}}");
        assert!(until(Duration::from_secs(20), || (state() == "2 exited 1").then_some(())).is_some(), "{}", state());
        assert_eq!(cli.ok(&["logs", &name]), "again\nagain\nagain");
        cli.ok(&["rm", &name]);
    });
}

#[test]
fn always_restarts_until_it_is_stopped() {
    both(|world, cli| {
        let name = world.name("always");
        cli.ok(&["run", "-d", "--restart", "always", "--name", &name, IMAGE, "sleep", "0.2"]);
        eventually("it was restarted", || {
            cli.inspect(&name, "{{.RestartCount}}").parse::<u32>().is_ok_and(|count| count >= 2)
        });
        cli.ok(&["stop", "-t", "1", &name]);
        assert_eq!(cli.inspect(&name, "{{.State.Running}} {{.State.Restarting}}"), "false false");
        cli.ok(&["rm", &name]);
    });
}

#[test]
fn a_clean_exit_is_not_a_failure() {
    both(|world, cli| {
        let name = world.name("clean");
        cli.ok(&["run", "-d", "--restart", "on-failure", "--name", &name, IMAGE, "true"]);
        assert_eq!(cli.ok(&["wait", &name]), "0");
        assert_eq!(cli.inspect(&name, "{{.RestartCount}} {{.State.Status}}"), "0 exited");
        cli.ok(&["rm", &name]);
    });
}

#[test]
fn policies_that_make_no_sense_are_refused() {
    both(|_, cli| {
        assert_eq!(cli.run(&["run", "-d", "--restart", "sometimes", IMAGE, "true"]).code, 125);
        assert_eq!(cli.run(&["run", "-d", "--restart", "always:3", IMAGE, "true"]).code, 125);
        assert_eq!(cli.run(&["run", "-d", "--rm", "--restart", "always", IMAGE, "true"]).code, 125);
    });
}
