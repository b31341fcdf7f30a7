//! containerd, driven by `ctr` with `--runc-binary`.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use gantry_tests::{Output, Terminal, eventually, skip, until};

use crate::Origin;
use crate::engine::{is_ours, say_versions};
use crate::system::{LAYOUT, RUNTIME, System};

const IMAGE: &str = "docker.io/library/engines:latest";

/// Where containerd has our runtime keep the states of ctr's namespace.
const STATES: &str = "/run/containerd/runc/default";

/// A containerd of its own.
struct Ctr(System);

impl Ctr {
    fn start(from: Origin) -> Option<Self> {
        let mut system = from.system("ctr")?;
        say_versions(&system, &[&["containerd", "--version"], &["uname", "-r"]]);
        system.start_daemon(&["containerd"], &["ctr", "version"]).unwrap_or_else(|error| panic!("{error:?}"));
        system.run(&["ctr", "image", "import", "--base-name", "docker.io/library/engines", LAYOUT]).ok();
        Some(Self(system))
    }

    #[track_caller]
    fn run(&self, arguments: &[&str]) -> Output {
        self.0.run(&[&["ctr"], arguments].concat())
    }

    #[track_caller]
    fn ok(&self, arguments: &[&str]) -> String {
        self.run(arguments).ok()
    }

    /// The words of `ctr run` for a container of our runtime.
    fn container<'a>(flags: &[&'a str], cgroup: &'a str, id: &'a str, program: &[&'a str]) -> Vec<&'a str> {
        let ours = ["--runc-binary", RUNTIME, "--cgroup", cgroup];
        [&["ctr", "run"], flags, &ours[..], &[IMAGE, id], program].concat()
    }

    /// `ctr run`.
    #[track_caller]
    fn start_container(&self, flags: &[&str], id: &str, program: &[&str]) -> Output {
        let cgroup = format!("{}/{id}", self.0.cgroup_parent());
        self.0.run(&Self::container(flags, &cgroup, id, program))
    }

    /// Starts one that stays and writes its output to a file; what it said is [`Ctr::said`].
    #[track_caller]
    fn start_detached(&self, flags: &[&str], id: &str, script: &str) {
        let log = format!("file:///tmp/{id}.log");
        self.start_container(&[flags, &["-d", "--log-uri", &log]].concat(), id, &["sh", "-c", script]).ok();
        is_ours(&self.0, STATES, id, &self.pid(id));
    }

    fn said(&self, id: &str) -> String {
        fs::read_to_string(self.0.file(&format!("/tmp/{id}.log"))).unwrap_or_default()
    }

    /// A column of `ctr task ls`.
    #[track_caller]
    fn task(&self, id: &str, column: usize) -> Option<String> {
        let list = self.ok(&["task", "ls"]);
        let line = list.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).find(|words| words[0] == id)?;
        line.get(column).map(ToString::to_string)
    }

    #[track_caller]
    fn pid(&self, id: &str) -> String {
        self.task(id, 1).expect("a task")
    }

    #[track_caller]
    fn status_becomes(&self, id: &str, status: &str) {
        eventually(&format!("{id} is {status}"), || self.task(id, 2).as_deref() == Some(status));
    }

    /// A first container, so that what containerd makes once is there; then what there is.
    #[track_caller]
    fn settled(&self) -> BTreeSet<String> {
        self.start_container(&["--rm"], "first", &["true"]).ok();
        let settled = || {
            let traces = self.0.traces(STATES);
            (!traces.iter().any(|trace| trace.contains("shim"))).then_some(traces)
        };
        until(Duration::from_secs(10), settled).expect("the first container's shim ends")
    }

    /// Removes a stopped task and its container; what ctr says of the task's end.
    #[track_caller]
    fn remove(&self, id: &str) -> String {
        let removed = self.run(&["task", "rm", id]);
        removed.ok();
        self.ok(&["container", "rm", id]);
        removed.stderr
    }
}

/// run, exec, kill, rm.
pub fn life(from: Origin) {
    let Some(ctr) = Ctr::start(from) else { return };
    let before = ctr.settled();
    let short = ctr.start_container(&["--rm"], "short", &["sh", "-c", "echo out; echo err >&2; exit 42"]);
    assert_eq!((short.exits(42).as_str(), short.stderr.contains("err")), ("out", true), "{short}");
    ctr.start_container(&["--rm"], "absent", &["no-such-program"]).fails(1, "executable file not found in $PATH");

    let obedient = "trap 'echo stopped; exit 7' TERM; echo started; while :; do sleep 0.05; done";
    ctr.start_detached(&[], "obedient", obedient);
    eventually("its output", || ctr.said("obedient") == "started\n");
    let exec = ctr.run(&["task", "exec", "--exec-id", "one", "obedient", "sh", "-c", "echo inside; exit 5"]);
    assert_eq!(exec.exits(5), "inside");
    let piped = ctr.0.input(&["ctr", "task", "exec", "--exec-id", "two", "obedient", "cat"], "to an exec");
    assert_eq!(piped.ok(), "to an exec");
    assert!(ctr.ok(&["task", "ps", "obedient"]).contains(&ctr.pid("obedient")));
    ctr.ok(&["task", "kill", "-s", "TERM", "obedient"]);
    ctr.status_becomes("obedient", "STOPPED");
    let end = ctr.remove("obedient");
    assert!(end.contains("non-zero exit code 7"), "{end}");
    assert_eq!(ctr.said("obedient"), "started\nstopped\n");

    ctr.start_detached(&[], "deaf", "trap '' TERM; echo started; while :; do sleep 0.05; done");
    ctr.ok(&["task", "kill", "-s", "KILL", "deaf"]);
    ctr.status_becomes("deaf", "STOPPED");
    let end = ctr.remove("deaf");
    assert!(end.contains("non-zero exit code 137"), "{end}");
    assert_eq!(ctr.ok(&["container", "ls", "-q"]), "");
    ctr.0.assert_traceless(STATES, &before);
}

/// Limits at the start, pause, resume, metrics.
pub fn limits(from: Origin) {
    let Some(ctr) = Ctr::start(from) else { return };
    let before = ctr.settled();
    let limit = (64 << 20).to_string();
    ctr.start_detached(&["--memory-limit", &limit], "limited", "while :; do date +%N; sleep 0.01; done");
    let memory = ctr.0.cgroup_value("/limited", &["memory.limit_in_bytes", "memory.max"]);
    assert_eq!(memory, limit);
    let moves = || {
        let first = ctr.said("limited");
        until(Duration::from_secs(5), || (ctr.said("limited") != first).then_some(())).is_some()
    };
    assert!(moves());
    ctr.ok(&["task", "pause", "limited"]);
    ctr.status_becomes("limited", "PAUSED");
    let frozen = ctr.0.cgroup_value("/limited", &["freezer.state", "cgroup.freeze"]);
    assert!(frozen == "FROZEN" || frozen == "1", "{frozen}");
    ctr.ok(&["task", "resume", "limited"]);
    ctr.status_becomes("limited", "RUNNING");
    assert!(moves());
    if ctr.0.measures() {
        let metrics = ctr.ok(&["task", "metrics", "limited"]);
        let metric = |names: [&str; 2]| {
            let line =
                metrics.lines().find(|line| names.iter().any(|name| line.split_whitespace().next() == Some(name)));
            line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
                .unwrap_or_else(|| panic!("{metrics}"))
        };
        assert_eq!(metric(["memory.limit_in_bytes", "memory.usage_limit"]), 64 << 20);
        assert!(metric(["memory.usage_in_bytes", "memory.usage"]) > 0, "{metrics}");
    }
    ctr.ok(&["task", "rm", "-f", "limited"]);
    ctr.ok(&["container", "rm", "limited"]);
    ctr.0.assert_traceless(STATES, &before);
}

/// `run -t` and `exec -t`.
pub fn terminal(from: Origin) {
    let Some(ctr) = Ctr::start(from) else { return };
    let before = ctr.settled();
    let cgroup = format!("{}/shell", ctr.0.cgroup_parent());
    let words = Ctr::container(&["--rm", "-t"], &cgroup, "shell", &["sh"]);
    let terminal = Terminal::start(&ctr.0.line(&words)).expect("a terminal");
    // ctr tells the size when the program runs already.
    terminal.write("tty; until stty size 2>/dev/null | grep .; do sleep 0.1; done");
    terminal.press(&["Enter"]);
    terminal.shows("/dev/pts/0");
    terminal.shows("24 80");
    is_ours(&ctr.0, STATES, "shell", &ctr.pid("shell"));
    let words = ["ctr", "task", "exec", "--exec-id", "one", "-t", "shell", "sh"];
    let second = Terminal::start(&ctr.0.line(&words)).expect("a terminal");
    second.write("tty");
    second.press(&["Enter"]);
    second.shows("/dev/pts/1");
    second.write("exit 3");
    second.press(&["Enter"]);
    second.shows("[exit 3]");
    terminal.write("exit 4");
    terminal.press(&["Enter"]);
    terminal.shows("[exit 4]");
    ctr.0.assert_traceless(STATES, &before);
}

/// A user namespace: the container's root is nobody outside.
pub fn users(from: Origin) {
    let Some(ctr) = Ctr::start(from) else { return };
    let before = ctr.settled();
    let flags = ["--uidmap", "0:100000:65536", "--gidmap", "0:100000:65536"];
    if ctr.0.run(&["ctr", "--version"]).ok().contains(" 1.6.") {
        skip(&format!("ctr OF {}: version 1.6 forgets --runc-binary where it maps users, and calls runc", ctr.0.name));
        return;
    }
    ctr.start_detached(&flags, "mapped", "id -u; tr -s ' ' < /proc/self/uid_map; sleep 600");
    eventually("its output", || ctr.said("mapped") == "0\n 0 100000 65536\n");
    let exec = ctr.ok(&["task", "exec", "--exec-id", "one", "mapped", "id", "-u"]);
    assert_eq!(exec, "0");
    assert_eq!(ctr.0.run(&["stat", "-c", "%u", &format!("/proc/{}", ctr.pid("mapped"))]).ok(), "100000");
    ctr.ok(&["task", "rm", "-f", "mapped"]);
    ctr.ok(&["container", "rm", "mapped"]);
    ctr.0.assert_traceless(STATES, &before);
}
