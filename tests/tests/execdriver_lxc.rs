//! A daemon with `--exec-driver lxc`: what a person does works as with the native driver, and its containers outlive it.

use gantry_tests::{IMAGE, Options, Terminal, World, eventually};

/// A daemon that has LXC make its containers; `None`, said loudly, where LXC is not installed.
fn lxc_world() -> Option<World> {
    if !std::path::Path::new("/usr/bin/lxc-start").exists() {
        gantry_tests::skip("the lxc execdriver: lxc-start is not installed; install the package lxc");
        return None;
    }
    let flags = ["--exec-driver".to_owned(), "lxc".to_owned()];
    Some(World::start(Options { flags: flags.into(), ..Options::default() }).expect("a daemon of its own"))
}

#[test]
fn run_exec_logs_and_limits_are_as_with_the_native_driver() {
    let Some(world) = lxc_world() else { return };
    let cli = world.gantry();
    assert!(cli.ok(&["info"]).contains("Execution Driver: lxc"));
    assert_eq!(cli.ok(&["run", "--rm", IMAGE, "echo", "hello"]), "hello");
    cli.run(&["run", "--rm", IMAGE, "sh", "-c", "exit 42"]).fails(42, "");
    cli.run(&["run", "--rm", IMAGE, "no-such-program"]).fails(127, "executable file not found in $PATH");
    cli.run(&["run", "--rm", IMAGE, "/etc"]).fails(126, "permission denied");
    cli.ok(&["network", "create", "named"]);
    cli.ok(&["run", "-d", "--name", "peer", "--network", "named", IMAGE, "sleep", "600"]);
    let peer = cli.inspect("peer", "{{.NetworkSettings.Networks.named.IPAddress}}");
    let told = cli.ok(&["run", "--rm", "--network", "named", IMAGE, "nslookup", "-type=a", "peer"]);
    assert!(told.contains(&peer), "{told}");
    cli.ok(&["rm", "-f", "peer"]);
    cli.ok(&["network", "rm", "named"]);
    let limits = ["--memory", "64m", "--pids-limit", "20", "--cpus", "0.5", "--hostname", "by-lxc", "--user", "1:1"];
    cli.ok(&[&["run", "-d", "--name", "limited"][..], &limits, &[IMAGE, "sh", "-c", "echo said; sleep 600"]].concat());
    let exec = |script: &str| cli.ok(&["exec", "limited", "sh", "-c", script]);
    assert_eq!(exec("hostname; id -u"), "by-lxc\n1");
    assert_eq!(exec("grep -E 'NoNewPrivs|Seccomp:' /proc/1/status | tr -d '\\t\\n'"), "NoNewPrivs:0Seccomp:2");
    let same = "for p in 1 self; do grep -E 'Cap|Seccomp' /proc/$p/status | md5sum; done | sort -u | wc -l";
    assert_eq!(exec(same), "1", "an exec has other privileges than the container");
    if gantry_tests::kernel::has_apparmor() {
        let profiles = exec("cat /proc/1/attr/current /proc/self/attr/current | sort -u");
        assert_eq!(profiles, "gantry-default (enforce)");
    }
    let limit = "cd /sys/fs/cgroup; cat memory/memory.limit_in_bytes 2>/dev/null || cat memory.max";
    assert_eq!(exec(limit), (64 << 20).to_string());
    assert_eq!(cli.ok(&["logs", "limited"]), "said");
    cli.ok(&["pause", "limited"]);
    assert_eq!(cli.inspect("limited", "{{.State.Status}}"), "paused");
    cli.ok(&["unpause", "limited"]);
    assert!(cli.ok(&["top", "limited"]).contains("sleep 600"));
    cli.ok(&["stop", "-t", "1", "limited"]);
    assert_eq!(cli.inspect("limited", "{{.State.ExitCode}}"), "137");
    cli.ok(&["start", "limited"]);
    assert_eq!(exec("hostname"), "by-lxc");
    cli.ok(&["rm", "-f", "limited"]);
}

#[test]
fn a_terminal_is_one() {
    let Some(world) = lxc_world() else { return };
    let terminal = Terminal::start(&world.gantry().line(&format!("run --rm -it {IMAGE} sh"))).expect("tmux");
    terminal.write("tty; echo $((6*7))");
    terminal.press(&["Enter"]);
    terminal.shows("/dev/pts/0");
    terminal.shows("42");
    terminal.write("exit");
    terminal.press(&["Enter"]);
}

#[test]
fn what_lxc_makes_outlives_its_daemon_and_is_served_by_the_next_one_of_either_driver() {
    let Some(mut world) = lxc_world() else { return };
    world.pull("web").expect("pull");
    world.gantry().ok(&["run", "-d", "--name", "web", "-p", "127.0.0.1:0:80", "web"]);
    world.gantry().ok(&[
        "run",
        "-d",
        "--name",
        "by-lxc",
        IMAGE,
        "sh",
        "-c",
        "trap 'echo bye; exit 7' TERM; while :; do sleep 0.05; done",
    ]);
    let format = "{{(index (index .NetworkSettings.Ports \"80/tcp\") 0).HostPort}}";
    let port: u16 = world.gantry().inspect("web", format).parse().expect("a port");
    let answers = || gantry_tests::http::fetch("127.0.0.1", port).is_ok_and(|page| page.contains("hello"));
    eventually("it answers", answers);
    let pid = world.gantry().inspect("by-lxc", "{{.State.Pid}}");

    world.daemon.kill9().expect("kill -9");
    assert!(answers(), "the port is published without a daemon");
    world.daemon.set_flags(&["--exec-driver", "native"]);
    world.daemon.launch().expect("a daemon with the native driver");
    assert!(answers(), "and with the next one");
    let cli = world.gantry();
    assert!(cli.ok(&["info"]).contains("Execution Driver: native"));
    assert_eq!(cli.inspect("by-lxc", "{{.State.Running}} {{.State.Pid}}"), format!("true {pid}"));
    assert_eq!(cli.ok(&["exec", "by-lxc", "echo", "inside"]), "inside");
    cli.ok(&["run", "-d", "--name", "by-native", IMAGE, "sleep", "600"]);

    world.daemon.stop().expect("SIGTERM");
    let file = world.daemon.slot().root().join("daemon.json");
    std::fs::write(&file, r#"{"exec-driver": "lxc"}"#).expect("daemon.json");
    world.daemon.set_flags(&["--config-file", file.to_str().expect("a plain path")]);
    world.daemon.launch().expect("a daemon with the lxc driver");
    let cli = world.gantry();
    assert!(cli.ok(&["info"]).contains("Execution Driver: lxc"));
    assert_eq!(cli.ok(&["exec", "by-native", "echo", "inside"]), "inside");
    cli.ok(&["stop", "by-lxc"]);
    assert_eq!(cli.inspect("by-lxc", "{{.State.ExitCode}}"), "7");
    assert_eq!(cli.ok(&["logs", "by-lxc"]), "bye");
    cli.ok(&["rm", "-f", "web", "by-lxc", "by-native"]);
    assert!(!answers(), "the port is closed");
}
