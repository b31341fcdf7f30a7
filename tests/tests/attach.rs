//! Standard streams: run -i, attach, exec, terminals.

use gantry_tests::{IMAGE, Terminal, both, eventually};

#[test]
fn input_flows_in_and_its_end_is_seen_inside() {
    both(|_, cli| {
        let out = cli.input(&["run", "--rm", "-i", IMAGE, "sh", "-c", "cat; echo done"], "one\ntwo\n");
        assert_eq!(out.ok(), "one\ntwo\ndone");
        let big = vec![b'x'; 1 << 20];
        let out = cli.input(&["run", "--rm", "-i", IMAGE, "wc", "-c"], &big);
        assert_eq!(out.ok().trim(), "1048576");
    });
}

#[test]
fn input_that_nobody_reads_is_no_error() {
    both(|_, cli| {
        let big = vec![b'x'; 1 << 20];
        for _ in 0..5 {
            let out = cli.input(&["run", "--rm", "-i", IMAGE, "echo", "short"], &big);
            assert_eq!((out.code, out.stdout.as_str(), out.stderr.as_str()), (0, "short\n", ""));
        }
    });
}

#[test]
fn without_i_input_is_empty() {
    both(|_, cli| assert_eq!(cli.input(&["run", "--rm", IMAGE, "cat"], "not seen").ok(), ""));
}

#[test]
fn the_streams_stay_apart_without_a_terminal() {
    both(|_, cli| {
        let out = cli.run(&["run", "--rm", IMAGE, "sh", "-c", "echo out; echo err >&2"]);
        assert_eq!((out.stdout.as_str(), out.stderr.as_str()), ("out\n", "err\n"));
    });
}

#[test]
fn exec_runs_beside_the_program_with_its_own_exit_code() {
    both(|world, cli| {
        let name = world.name("exec");
        cli.ok(&["run", "-d", "--name", &name, "-e", "FROM=run", "-w", "/tmp", IMAGE, "sleep", "600"]);
        assert_eq!(cli.ok(&["exec", &name, "sh", "-c", "echo $FROM; pwd"]), "run\n/tmp");
        assert_eq!(cli.run(&["exec", &name, "sh", "-c", "exit 42"]).code, 42);
        assert_eq!(
            cli.ok(&[
                "exec",
                "-e",
                "MORE=1",
                "-u",
                "alice",
                "-w",
                "/etc",
                &name,
                "sh",
                "-c",
                "echo $MORE; id -un; pwd"
            ]),
            "1\nalice\n/etc"
        );
        assert_eq!(cli.input(&["exec", "-i", &name, "sh", "-c", "cat; echo end"], "fed").ok(), "fedend");
        assert_eq!(cli.run(&["exec", &name, "no-such-program"]).code, 127);
        assert_eq!(cli.run(&["exec", &name, "/etc/passwd"]).code, 126);
        assert_eq!(cli.ok(&["exec", &name, "ls", "/proc/self/fd"]).lines().count(), 4, "no further descriptors");
        let out = cli.run(&["exec", &name, "sh", "-c", "echo out; echo err >&2"]);
        assert_eq!((out.stdout.as_str(), out.stderr.as_str()), ("out\n", "err\n"));
        cli.ok(&["exec", "-d", &name, "touch", "/tmp/detached"]);
        eventually("the detached process ran", || cli.run(&["exec", &name, "test", "-e", "/tmp/detached"]).code == 0);
        cli.ok(&["rm", "-f", &name]);
        cli.run(&["exec", &name, "true"]).fails(1, "no such container");
    });
}

#[test]
fn exec_in_a_stopped_container_is_refused() {
    both(|world, cli| {
        let name = world.name("stopped");
        cli.ok(&["create", "--name", &name, IMAGE, "true"]);
        cli.run(&["exec", &name, "true"]).fails(1, "is not running");
        cli.ok(&["rm", &name]);
    });
}

#[test]
fn exec_sees_the_containers_limits_and_namespaces() {
    both(|world, cli| {
        let name = world.name("same");
        cli.ok(&["run", "-d", "--name", &name, "--cap-drop", "ALL", IMAGE, "sleep", "600"]);
        let script = "for n in pid net mnt uts ipc cgroup; do readlink /proc/self/ns/$n; done; grep CapEff /proc/self/status; \
                      grep ^Seccomp: /proc/self/status; cat /proc/self/cgroup | cut -d: -f3 | sort -u";
        let first = cli.ok(&["exec", &name, "sh", "-c", &script.replace("/proc/self", "/proc/1")]);
        assert_eq!(cli.ok(&["exec", &name, "sh", "-c", script]), first);
        cli.ok(&["rm", "-f", &name]);
    });
}

#[test]
fn attach_follows_a_running_container_and_ends_with_it() {
    both(|world, cli| {
        let name = world.name("attach");
        cli.ok(&[
            "run",
            "-d",
            "-i",
            "--name",
            &name,
            IMAGE,
            "sh",
            "-c",
            "while read line; do echo got $line; done; exit 6",
        ]);
        let mut session = cli.spawn(&["attach", &name]);
        session.write("first\n");
        assert_eq!(session.line(), "got first");
        session.write("second\n");
        assert_eq!(session.line(), "got second");
        cli.ok(&["kill", &name]);
        assert_eq!(session.end().0, 137);
        cli.ok(&["rm", &name]);
    });
}

#[test]
fn a_terminal_has_a_size_that_follows_the_window() {
    both(|world, cli| {
        let name = world.name("tty");
        let terminal = Terminal::start(&cli.line(&format!("run -it --name {name} {IMAGE} sh"))).expect("tmux");
        terminal.shows("#");
        terminal.write("stty size; tty\n");
        terminal.shows("24 80");
        terminal.shows("/dev/pts/0");
        terminal.resize(100, 30);
        eventually("the new size arrives", || {
            terminal.write("stty size\n");
            terminal.screen().contains("30 100")
        });
        terminal.write("exit 4\n");
        terminal.shows("[exit 4]");
        cli.ok(&["rm", &name]);
    });
}

#[test]
fn control_c_interrupts_the_program_inside() {
    both(|world, cli| {
        let name = world.name("ctrl");
        let line = format!(
            "run -it --rm --name {name} {IMAGE} sh -c 'trap \"echo interrupted; exit 3\" INT; echo ready; while :; do sleep 0.1; done'"
        );
        let terminal = Terminal::start(&cli.line(&line)).expect("tmux");
        terminal.shows("ready");
        terminal.press(&["C-c"]);
        terminal.shows("interrupted");
        terminal.shows("[exit 3]");
    });
}

#[test]
fn detach_keys_leave_the_container_running_and_attach_returns() {
    both(|world, cli| {
        let name = world.name("detach");
        let terminal = Terminal::start(&cli.line(&format!("run -it --name {name} {IMAGE} sh"))).expect("tmux");
        terminal.shows("#");
        terminal.write("marker=here\n");
        terminal.press(&["C-p", "C-q"]);
        terminal.shows("[exit 0]");
        assert_eq!(cli.inspect(&name, "{{.State.Running}}"), "true");
        let again = Terminal::start(&cli.line(&format!("attach {name}"))).expect("tmux");
        again.press(&["Enter"]);
        again.shows("#");
        again.write("echo still $marker\n");
        again.shows("still here");
        again.write("exit 5\n");
        again.shows("[exit 5]");
        cli.ok(&["rm", &name]);
    });
}

#[test]
fn exec_with_a_terminal() {
    both(|world, cli| {
        let name = world.name("exec-tty");
        cli.ok(&["run", "-d", "--name", &name, IMAGE, "sleep", "600"]);
        let terminal = Terminal::start(&cli.line(&format!("exec -it {name} sh"))).expect("tmux");
        terminal.shows("#");
        terminal.write("stty size; test -t 0 && echo a terminal\n");
        terminal.shows("24 80");
        terminal.shows("a terminal");
        terminal.write("exit 8\n");
        terminal.shows("[exit 8]");
        cli.ok(&["rm", "-f", &name]);
    });
}

#[test]
fn start_attached_shows_output_and_exit_code() {
    both(|world, cli| {
        let name = world.name("start-a");
        cli.ok(&["create", "-i", "--name", &name, IMAGE, "sh", "-c", "cat; exit 2"]);
        let out = cli.input(&["start", "-ai", &name], "through start");
        assert_eq!((out.code, out.stdout.as_str()), (2, "through start"), "{out}");
        cli.ok(&["rm", &name]);
    });
}

#[test]
fn a_terminal_needs_a_terminal() {
    both(|_, cli| {
        let out = cli.input(&["run", "--rm", "-it", IMAGE, "true"], "");
        out.fails(1, "not a tty");
    });
}
