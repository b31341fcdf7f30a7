//! What a person does with an engine, in Docker's words.

use std::time::Duration;

use gantry_tests::{eventually, until};

use crate::engine::{Engine, IMAGE};

/// Ends with code 7 when it is asked to, by the default signal or by another.
const OBEDIENT: &str =
    "trap 'echo stopped; exit 7' TERM; trap 'echo hinted; exit 9' USR1; echo started; while :; do sleep 0.05; done";

/// run, exec, logs, stop, start, kill, rm.
pub fn life(engine: &Engine) {
    let before = engine.settled();
    let short = engine.run(&["run", "--name", "short", IMAGE, "sh", "-c", "echo out; echo err >&2; exit 42"]);
    assert_eq!((short.exits(42).as_str(), short.stderr.contains("err")), ("out", true), "{short}");
    assert_eq!(engine.inspect("short", "{{.State.ExitCode}}"), "42");
    assert_eq!(engine.input(&["run", "-i", "--rm", IMAGE, "cat"], "through the pipe").ok(), "through the pipe");
    engine.run(&["run", "--rm", IMAGE, "no-such-program"]).fails(127, "executable file not found in $PATH");
    engine.run(&["run", "--rm", IMAGE, "/etc"]).fails(126, "permission denied");

    engine.ok(&["run", "-d", "--name", "obedient", IMAGE, "sh", "-c", OBEDIENT]);
    engine.is_ours("obedient");
    let exec = engine.run(&["exec", "-e", "WORD=inside", "obedient", "sh", "-c", "echo $WORD; echo err >&2; exit 5"]);
    assert_eq!((exec.exits(5).as_str(), exec.stderr.contains("err")), ("inside", true), "{exec}");
    assert_eq!(engine.input(&["exec", "-i", "obedient", "cat"], "to an exec").ok(), "to an exec");
    let same =
        "for kind in mnt pid net ipc uts; do readlink /proc/1/ns/$kind /proc/self/ns/$kind; done | sort | uniq -u";
    assert_eq!(engine.ok(&["exec", "obedient", "sh", "-c", same]), "", "an exec is in other namespaces");
    let absent = engine.run(&["exec", "obedient", "no-such-program"]);
    // Docker 20 ends with 126, and no Docker says it on standard error.
    let said = format!("{}{}", absent.stdout, absent.stderr);
    assert!(absent.code == 127 || absent.code == 126, "{absent}");
    assert!(said.contains("executable file not found in $PATH"), "{absent}");
    engine.logs("obedient", "started");
    let stopped = engine.run(&["stop", "-t", "30", "obedient"]);
    stopped.ok();
    assert!(stopped.took < Duration::from_secs(15), "it was killed, not asked: {stopped}");
    assert_eq!(engine.inspect("obedient", "{{.State.ExitCode}}"), "7");
    assert_eq!(engine.ok(&["logs", "obedient"]), "started\nstopped");

    engine.ok(&["start", "obedient"]);
    engine.is_ours("obedient");
    eventually("the second start's output", || engine.ok(&["logs", "obedient"]) == "started\nstopped\nstarted");
    engine.ok(&["kill", "-s", "USR1", "obedient"]);
    assert_eq!(engine.ok(&["wait", "obedient"]), "9");
    engine.ok(&["start", "obedient"]);
    engine.ok(&["kill", "obedient"]);
    assert_eq!(engine.ok(&["wait", "obedient"]), "137");

    engine.ok(&["run", "-d", "--name", "hinted", "--stop-signal", "USR1", IMAGE, "sh", "-c", OBEDIENT]);
    engine.logs("hinted", "started");
    engine.ok(&["stop", "-t", "30", "hinted"]);
    assert_eq!(engine.inspect("hinted", "{{.State.ExitCode}}"), "9", "the image's own stop signal");
    engine.ok(&[
        "run",
        "-d",
        "--name",
        "deaf",
        IMAGE,
        "sh",
        "-c",
        "trap '' TERM; echo started; while :; do sleep 0.05; done",
    ]);
    engine.logs("deaf", "started");
    engine.ok(&["stop", "-t", "1", "deaf"]);
    assert_eq!(engine.inspect("deaf", "{{.State.ExitCode}}"), "137");
    engine.ok(&["run", "-d", "--name", "removed-while-it-runs", IMAGE, "sleep", "600"]);
    engine.remove(&["short", "obedient", "hinted", "deaf", "removed-while-it-runs"], &before);
}

/// `run -it` and `exec -it`.
pub fn terminal(engine: &Engine) {
    let before = engine.settled();
    let terminal = engine.terminal(&["run", "-it", "--name", "shell", IMAGE, "sh"]);
    // A client may tell the size when the program runs already.
    terminal.write("tty; until stty size 2>/dev/null | grep .; do sleep 0.1; done; echo $((6*7))");
    terminal.press(&["Enter"]);
    for line in ["/dev/pts/0", "24 80", "42"] {
        terminal.shows(line);
    }
    terminal.resize(100, 30);
    let resized = || engine.ok(&["exec", "shell", "stty", "-F", "/dev/pts/0", "size"]) == "30 100";
    eventually("the terminal's new size inside", resized);
    engine.is_ours("shell");

    assert_eq!(engine.run(&["exec", "shell", "tty"]).exits(1), "not a tty");
    let second = engine.terminal(&["exec", "-it", "shell", "sh"]);
    // The number is said by the process that Ctrl-C is for.
    second.write("tty; sh -c 'echo $((40+2)); exec sleep 600'");
    second.press(&["Enter"]);
    second.shows("/dev/pts/1");
    second.shows("42");
    second.press(&["C-c"]);
    second.write("echo $?; exit 3");
    second.press(&["Enter"]);
    second.shows("130");
    second.shows("[exit 3]");
    terminal.write("exit 4");
    terminal.press(&["Enter"]);
    terminal.shows("[exit 4]");
    engine.remove(&["shell"], &before);
}

/// pause, unpause: the processes stand still and go on.
pub fn pause(engine: &Engine) {
    const COUNT: &str = "n=0; while :; do n=$((n+1)); echo $n > /tmp/n; sleep 0.01; done";
    let before = engine.settled();
    engine.ok(&["run", "-d", "--name", "counting", IMAGE, "sh", "-c", COUNT]);
    let id = engine.is_ours("counting");
    let file = format!("/proc/{}/root/tmp/n", engine.inspect("counting", "{{.State.Pid}}"));
    let count = || engine.system.run(&["cat", &file]).stdout;
    let moves = || {
        let first = count();
        until(Duration::from_secs(5), || (count() != first).then_some(())).is_some()
    };
    assert!(moves());
    engine.ok(&["pause", "counting"]);
    assert_eq!(engine.inspect("counting", "{{.State.Status}}"), "paused");
    let frozen = engine.system.cgroup_value(&id, &["freezer.state", "cgroup.freeze"]);
    assert!(frozen == "FROZEN" || frozen == "1", "{frozen}");
    let first = count();
    assert_ne!(engine.run(&["exec", "counting", "true"]).code, 0, "an exec in a paused container");
    assert_eq!(count(), first);
    engine.ok(&["unpause", "counting"]);
    assert!(moves());
    assert_eq!(engine.ok(&["exec", "counting", "echo", "again"]), "again");
    engine.ok(&["pause", "counting"]);
    engine.remove(&["counting"], &before);
}

/// Limits at the start, out of memory, update, stats, top.
pub fn limits(engine: &Engine) {
    let before = engine.settled();
    let limits = ["--memory", "64m", "--memory-swap", "128m", "--pids-limit", "50", "--cpu-shares", "512"];
    engine.ok(&[&["run", "-d", "--name", "limited"], &limits[..], &[IMAGE, "sleep", "600"]].concat());
    let id = engine.is_ours("limited");
    let value = |names: &[&str]| engine.system.cgroup_value(&id, names);
    let memory = || value(&["memory.limit_in_bytes", "memory.max"]);
    assert_eq!(memory(), (64 << 20).to_string());
    assert_eq!(value(&["pids.max"]), "50");
    engine.ok(&["update", "--memory", "96m", "--memory-swap", "192m", "limited"]);
    assert_eq!(memory(), (96 << 20).to_string());
    let measures = engine.system.measures();
    if measures {
        let stats = engine.ok(&["stats", "--no-stream", "--format", "{{.MemUsage}} {{.PIDs}}", "limited"]);
        let (usage, rest) = stats.split_once(" / ").unwrap_or_else(|| panic!("{stats}"));
        assert!(!usage.starts_with("0B") && !usage.starts_with("--"), "{stats}");
        assert_eq!(rest.split_whitespace().last(), Some("1"), "{stats}");
    }
    assert!(engine.ok(&["top", "limited"]).contains("sleep 600"));

    let greedy =
        engine.run(&["run", "--name", "greedy", "--memory", "16m", "--memory-swap", "16m", IMAGE, "tail", "/dev/zero"]);
    greedy.exits(137);
    if measures && engine.tells_out_of_memory {
        assert_eq!(engine.inspect("greedy", "{{.State.OOMKilled}}"), "true");
    }
    engine.remove(&["limited", "greedy"], &before);
}

/// A user namespace: the container's root is nobody outside.
pub fn users(engine: &Engine, flags: &[&str]) {
    let before = engine.settled();
    let script = "id -u; tr -s ' ' < /proc/self/uid_map; touch /file; stat -c %u /file; sleep 600";
    engine.ok(&[&["run", "-d", "--name", "mapped"], flags, &[IMAGE, "sh", "-c", script]].concat());
    engine.is_ours("mapped");
    engine.logs("mapped", "0\n 0 100000 65536\n0");
    let same = "id -u; for pid in 1 self; do readlink /proc/$pid/ns/user; done | sort -u | wc -l";
    assert_eq!(engine.ok(&["exec", "mapped", "sh", "-c", same]), "0\n1");
    let pid = engine.inspect("mapped", "{{.State.Pid}}");
    assert_eq!(
        engine.system.run(&["stat", "-c", "%u", &format!("/proc/{pid}"), &format!("/proc/{pid}/root/file")]).ok(),
        "100000\n100000"
    );
    engine.remove(&["mapped"], &before);
}

/// Mounts, users, environment, capabilities, sysctls and rlimits of one container.
pub fn flags(engine: &Engine) {
    let before = engine.settled();
    let shared = engine.system.file("/tmp/shared");
    std::fs::create_dir(&shared)
        .and_then(|()| std::fs::write(shared.join("file"), "shared\n"))
        .expect("a directory to bind");
    let flags = [
        "--read-only",
        "--tmpfs",
        "/scratch:size=1m",
        "-v",
        "/tmp/shared:/shared:ro",
        "-e",
        "WORD=asked for",
        "-w",
        "/tmp",
        "-u",
        "12:34",
        "--hostname",
        "by-another",
        "--cap-drop",
        "ALL",
        "--security-opt",
        "no-new-privileges",
        "--ulimit",
        "nofile=77:77",
        "--sysctl",
        "net.ipv4.ip_unprivileged_port_start=81",
        "--oom-score-adj",
        "77",
    ];
    let script = "echo \"$WORD\"; pwd; id -u; id -g; hostname; cat /shared/file; touch /shared/x 2>&1; touch /x 2>&1; \
         stat -f -c %T /scratch; grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/self/status | tr -d '\\t'; ulimit -n; \
         cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/self/oom_score_adj; \
         echo x > /proc/sys/kernel/domainname";
    let output = engine.run(&[&["run", "--name", "asked"], &flags[..], &[IMAGE, "sh", "-c", script]].concat());
    let expected = "asked for\n/tmp\n12\n34\nby-another\nshared\ntouch: /shared/x: Read-only file system\n\
         touch: /x: Read-only file system\ntmpfs\nCapEff:0000000000000000\nNoNewPrivs:1\nSeccomp:2\n77\n81\n77";
    assert_eq!(output.exits(1), expected, "{output}");

    let privileged = "grep -E 'Seccomp:' /proc/self/status | tr -d '\\t'; mount -t tmpfs tmpfs /mnt && echo mounted";
    let script = format!("mkdir /mnt; {privileged}");
    assert_eq!(
        engine.ok(&["run", "--privileged", "--name", "mighty", IMAGE, "sh", "-c", &script]),
        "Seccomp:0\nmounted"
    );
    let seen = engine.ok(&["run", "--rm", "--pid", "host", IMAGE, "sh", "-c", "tr '\\0' ' ' < /proc/1/cmdline"]);
    assert!(seen.contains("system"), "not the process namespace of the engine: {seen}");

    engine.ok(&["run", "-d", "--name", "first", "--ipc", "shareable", IMAGE, "sleep", "600"]);
    let namespaces = "readlink /proc/self/ns/net; readlink /proc/self/ns/ipc";
    let joined = ["--network", "container:first", "--ipc", "container:first"];
    let joined = engine.ok(&[&["run", "--rm"], &joined[..], &[IMAGE, "sh", "-c", namespaces]].concat());
    assert_eq!(joined, engine.ok(&["exec", "first", "sh", "-c", namespaces]));
    engine.remove(&["asked", "mighty", "first"], &before);
}
