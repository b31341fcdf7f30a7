//! Containers from create to rm, their states and exit codes, by our client and by Docker's own.

use gantry_tests::{IMAGE, Kind, both, eventually};

#[test]
fn a_container_walks_through_the_states_that_docker_shows() {
    both(|world, cli| {
        let name = world.name("walk");
        let id = cli.ok(&["create", "--name", &name, IMAGE, "sleep", "600"]);
        assert!(id.len() == 64 && id.bytes().all(|b| b.is_ascii_hexdigit()), "an id: {id}");
        assert_eq!(cli.inspect(&name, "{{.State.Status}} {{.State.Running}} {{.State.Pid}}"), "created false 0");
        assert_eq!(cli.ok(&["start", &name]), name);
        assert_eq!(cli.inspect(&name, "{{.State.Status}} {{.State.Running}}"), "running true");
        assert!(cli.ok(&["ps", "--format", "{{.Names}} {{.Status}}"]).contains(&format!("{name} Up ")));
        assert_eq!(cli.ok(&["stop", "-t", "1", &name]), name);
        assert_eq!(
            cli.inspect(&name, "{{.State.Status}} {{.State.ExitCode}} {{.State.OOMKilled}}"),
            "exited 137 false"
        );
        assert!(!cli.ok(&["ps", "--format", "{{.Names}}"]).lines().any(|line| line == name));
        assert!(cli.ok(&["ps", "-a", "--format", "{{.Names}} {{.Status}}"]).contains(&format!("{name} Exited (137)")));
        assert_eq!(cli.ok(&["start", &name]), name, "an exited container starts again");
        assert_eq!(cli.ok(&["rm", "-f", &name]), name);
        cli.run(&["inspect", &name]).fails(1, "no such");
    });
}

#[test]
fn run_ends_with_the_programs_exit_code() {
    both(|_, cli| {
        let code = |program: &[&str]| cli.run(&[&["run", "--rm", IMAGE], program].concat()).code;
        assert_eq!(code(&["true"]), 0);
        assert_eq!(code(&["sh", "-c", "exit 7"]), 7);
        assert_eq!(code(&["sh", "-c", "exit 255"]), 255);
        let out = cli.run(&["run", "--rm", "--init", IMAGE, "sh", "-c", "kill -TERM $$"]);
        assert_eq!(out.code, 143, "{out}");
    });
}

#[test]
fn a_program_that_cannot_run_gives_126_and_127_and_says_why() {
    both(|_, cli| {
        cli.run(&["run", "--rm", IMAGE, "no-such-program"]).fails(127, "no-such-program");
        cli.run(&["run", "--rm", IMAGE, "/no/such/program"]).fails(127, "no such file");
        cli.run(&["run", "--rm", IMAGE, "/etc/passwd"]).fails(126, "permission denied");
        cli.run(&["run", "--rm", IMAGE, "/etc"]).fails(126, "/etc");
    });
}

#[test]
fn a_missing_interpreter_and_a_foreign_program_are_named() {
    both(|world, cli| {
        world.pull("programs").expect("pull");
        let out = cli.run(&["run", "--rm", "programs", "/script"]);
        out.fails(127, "/script");
        let out = cli.run(&["run", "--rm", "programs", "/foreign"]);
        // Docker's own client knows only two of the messages that mean 126.
        out.fails(if cli.kind == Kind::Docker { 125 } else { 126 }, "exec format error");
    });
}

#[test]
fn what_failed_to_start_leaves_no_container_with_rm() {
    both(|world, cli| {
        let name = world.name("gone");
        assert_eq!(cli.run(&["run", "--rm", "--name", &name, IMAGE, "no-such-program"]).code, 127);
        eventually("the container is removed", || !cli.ok(&["ps", "-a", "--format", "{{.Names}}"]).contains(&name));
    });
}

#[test]
fn stop_sends_the_stop_signal_first() {
    both(|world, cli| {
        let name = world.name("signal");
        let script = "trap 'echo got it; exit 3' USR1; echo ready; while :; do sleep 0.05; done";
        cli.ok(&["run", "-d", "--name", &name, "--stop-signal", "USR1", IMAGE, "sh", "-c", script]);
        eventually("it is ready", || cli.ok(&["logs", &name]).contains("ready"));
        cli.ok(&["stop", &name]);
        assert_eq!(cli.inspect(&name, "{{.State.ExitCode}}"), "3");
        assert!(cli.ok(&["logs", &name]).contains("got it"));
        cli.ok(&["rm", &name]);
    });
}

#[test]
fn kill_delivers_any_signal_and_kills_by_default() {
    both(|world, cli| {
        let name = world.name("kill");
        let script = "trap 'echo hup' HUP; echo ready; while :; do sleep 0.05; done";
        cli.ok(&["run", "-d", "--name", &name, IMAGE, "sh", "-c", script]);
        eventually("it is ready", || cli.ok(&["logs", &name]).contains("ready"));
        cli.ok(&["kill", "-s", "HUP", &name]);
        eventually("the signal arrives", || cli.ok(&["logs", &name]).contains("hup"));
        assert_eq!(cli.inspect(&name, "{{.State.Running}}"), "true");
        cli.ok(&["kill", &name]);
        assert_eq!(cli.ok(&["wait", &name]), "137");
        cli.run(&["kill", &name]).fails(1, "is not running");
        cli.ok(&["rm", &name]);
    });
}

#[test]
fn wait_returns_when_the_container_ends_and_at_once_when_it_has() {
    both(|world, cli| {
        let name = world.name("wait");
        cli.ok(&["run", "-d", "--name", &name, IMAGE, "sh", "-c", "sleep 0.3; exit 5"]);
        assert_eq!(cli.ok(&["wait", &name]), "5");
        assert_eq!(cli.ok(&["wait", &name]), "5");
        cli.ok(&["rm", &name]);
    });
}

#[test]
fn rm_refuses_a_running_container_and_force_removes_it() {
    both(|world, cli| {
        let name = world.name("busy");
        cli.ok(&["run", "-d", "--name", &name, IMAGE, "sleep", "600"]);
        cli.run(&["rm", &name]).fails(1, "running");
        cli.ok(&["rm", "-f", &name]);
        cli.run(&["rm", &name]).fails(1, "no such container");
        cli.ok(&["create", "--name", &name, IMAGE]);
        cli.ok(&["rm", &name]);
    });
}

#[test]
fn a_container_is_found_by_name_id_and_the_start_of_its_id() {
    both(|world, cli| {
        let name = world.name("ids");
        let id = cli.ok(&["create", "--name", &name, IMAGE, "true"]);
        for reference in [name.as_str(), &id, &id[..12], &id[..20]] {
            assert_eq!(cli.inspect(reference, "{{.Id}}"), id);
        }
        assert_eq!(cli.inspect(&name, "{{.Name}}"), format!("/{name}"));
        cli.ok(&["rm", &id[..12]]);
    });
}

#[test]
fn run_detached_prints_the_id_and_writes_the_cidfile() {
    both(|world, cli| {
        let name = world.name("cid");
        let file = world.daemon.home().join(&name).display().to_string();
        let id = cli.ok(&["run", "-d", "--cidfile", &file, "--name", &name, IMAGE, "true"]);
        assert_eq!(std::fs::read_to_string(&file).expect("the cidfile"), id);
        let again = cli.run(&["run", "-d", "--cidfile", &file, IMAGE, "true"]);
        again.fails(125, &file);
        cli.ok(&["rm", "-f", &name]);
    });
}

#[test]
fn ps_filters_sorts_and_formats_as_docker_does() {
    both(|world, cli| {
        let (one, two) = (world.name("ps-a"), world.name("ps-b"));
        let label = format!("suite={one}");
        cli.ok(&["run", "-d", "--label", &label, "--name", &one, IMAGE, "sleep", "600"]);
        cli.ok(&["create", "--label", &label, "--name", &two, IMAGE, "true"]);
        let filter = format!("label={label}");
        let ps = |more: &[&str]| cli.ok(&[&["ps", "--filter", &filter, "--format", "{{.Names}}"], more].concat());
        assert_eq!(ps(&[]), one);
        assert_eq!(ps(&["-a"]), format!("{two}\n{one}"), "newest first");
        assert_eq!(ps(&["-a", "--filter", "status=created"]), two);
        let found = |filter: &str| ps(&["-a", "--filter", filter]);
        for name in ["NAME", "/NAME", "^NAME$", "^/NAME$", "^/NAM."] {
            assert_eq!(
                found(&format!("name={}", name.replace("NAME", &one).replace("NAM", &one[..one.len() - 1]))),
                one,
                "{name}"
            );
        }
        assert_eq!(found(&format!("name=^/{}$", &one[1..])), "", "all of the name");
        let id = cli.inspect(&one, "{{.Id}}");
        assert_eq!((found(&format!("id={}", &id[..6])), found(&format!("id={id}"))), (one.clone(), one.clone()));
        assert_eq!(found(&format!("id={}", &id[8..])), "", "what is somewhere in an id may be in each");
        let long = format!("name=^{}$", "a".repeat(2000));
        cli.run(&["ps", "--filter", &long]).fails(1, "more than 1024 bytes: give a shorter one");
        let table = cli.ok(&["ps", "-a", "--filter", &filter]);
        let head: Vec<&str> = table.lines().next().unwrap_or_default().split("  ").filter(|w| !w.is_empty()).collect();
        let head: Vec<&str> = head.into_iter().map(str::trim).collect();
        assert_eq!(head, ["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"]);
        assert!(table.contains("\"sleep 600\""), "{table}");
        let quiet = cli.ok(&["ps", "-aq", "--filter", &filter]);
        assert!(quiet.lines().all(|line| line.len() == 12) && quiet.lines().count() == 2, "{quiet}");
        cli.ok(&["rm", "-f", &one, &two]);
    });
}

#[test]
fn signals_sent_to_the_client_reach_the_program() {
    both(|world, cli| {
        let name = world.name("proxy");
        let script = "trap 'echo term; exit 9' TERM; echo ready; while :; do sleep 0.05; done";
        let mut session = cli.spawn(&["run", "--name", &name, IMAGE, "sh", "-c", script]);
        session.line_with("ready");
        session.signal(rustix::process::Signal::TERM);
        session.line_with("term");
        assert_eq!(session.end().0, 9);
        cli.ok(&["rm", &name]);
    });
}

#[test]
fn pause_is_refused_by_name_or_works_but_is_never_ignored() {
    both(|world, cli| {
        let name = world.name("pause");
        cli.ok(&["run", "-d", "--name", &name, IMAGE, "sleep", "600"]);
        let paused = cli.run(&["pause", &name]);
        if paused.code == 0 {
            assert_eq!(cli.inspect(&name, "{{.State.Status}}"), "paused");
            cli.ok(&["unpause", &name]);
        }
        cli.ok(&["rm", "-f", &name]);
    });
}
