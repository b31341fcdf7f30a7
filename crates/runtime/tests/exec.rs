//! Further processes by the command line.
#![allow(clippy::disallowed_methods, reason = "tests read files plainly")]

mod common;

use common::{ConsoleSocket, World, read_terminal};
use serde_json::json;

#[test]
fn an_exec_prints_and_ends_as_its_program_does() {
    let mut world = World::new();
    let id = world.sleeping();
    let output = world.command(&["exec", &id, "sh", "-c", "echo out; echo err >&2; exit 3"]);
    assert_eq!((output.code, output.out.as_str(), output.err.as_str()), (3, "out\n", "err\n"));
    let killed = world.command(&["exec", &id, "sh", "-c", "kill -15 $$"]);
    assert_eq!(killed.code, 143);
}

#[test]
fn the_flags_of_an_exec_change_the_containers_process() {
    let mut world = World::new();
    let id = world.sleeping();
    let line = "echo $A $(pwd) $(id -u):$(id -g) $(id -G); grep -e NoNewPrivs -e CapEff /proc/self/status";
    let out =
        world.ok(&["exec", "-e", "A=b", "--cwd", "/tmp", "-u", "7:8", "-g", "9", "-g", "10", &id, "sh", "-c", line]);
    assert!(out.starts_with("b /tmp 7:8 8 9 10\n"), "{out}");
    assert!(out.contains("NoNewPrivs:\t1"), "{out}");
    let out = world.ok(&["exec", "-c", "CAP_SYS_CHROOT", &id, "grep", "CapEff", "/proc/self/status"]);
    assert_eq!(out, "CapEff:\t0000000020040420\n");
}

#[test]
fn an_exec_can_be_described_by_a_file() {
    let mut world = World::new();
    let id = world.sleeping();
    let file = world.file("process.json");
    let process = json!({"args": ["sh", "-c", "echo $X; pwd"], "cwd": "/etc", "env": ["X=y", "PATH=/bin"]});
    std::fs::write(&file, process.to_string()).unwrap();
    assert_eq!(world.ok(&["exec", "--process", &file, &id]), "y\n/etc\n");
}

#[test]
fn a_detached_exec_goes_on_alone() {
    let mut world = World::new();
    let id = world.sleeping();
    let pid_file = world.file("exec.pid");
    let detached =
        world.command(&["exec", "-d", "--pid-file", &pid_file, &id, "sh", "-c", "echo there; exec sleep 600"]);
    assert_eq!(detached.code, 0, "{detached:?}");
    let pid = std::fs::read_to_string(&pid_file).unwrap();
    assert!(pid.parse::<u32>().is_ok(), "{pid:?}");
    gantry_tests::eventually("the program writes", || detached.out_now() == "there\n");
    let pids: Vec<u32> = serde_json::from_str(&world.ok(&["ps", "-f", "json", &id])).unwrap();
    assert!(pids.contains(&pid.parse().unwrap()), "{pids:?}");
}

#[test]
fn a_terminal_is_sent_to_the_console_socket() {
    let mut world = World::new();
    let id = world.sleeping();
    let console = ConsoleSocket::new(&world);
    let line = "tty; test -t 0 && test -t 1 && test -t 2 && echo all";
    world.ok(&["exec", "-t", "-d", "--console-socket", &console.path, &id, "sh", "-c", line]);
    let text = read_terminal(console.receive());
    assert!(text.starts_with("/dev/pts/") && text.ends_with("all\n"), "{text:?}");

    let id = world.id();
    world.shell("tty; stat -c %t /dev/console; stty size");
    world.configure(|config| {
        config["process"]["terminal"] = json!(true);
        config["process"]["consoleSize"] = json!({"height": 33, "width": 99});
    });
    let console = ConsoleSocket::new(&world);
    world.ok(&["create", "--console-socket", &console.path, &id]);
    let master = console.receive();
    world.ok(&["start", &id]);
    let text = read_terminal(master);
    assert!(text.contains("/dev/pts/0") && text.contains("33 99"), "{text:?}");
}

#[test]
fn a_terminal_needs_somebody_to_serve_it() {
    let mut world = World::new();
    let id = world.id();
    world.configure(|config| config["process"]["terminal"] = json!(true));
    let refused = world.command(&["create", &id]);
    assert_eq!(refused.code, 1);
    assert!(refused.err.contains("console socket"), "{refused:?}");
    world.configure(|config| config["process"]["terminal"] = json!(false));
    let refused = world.command(&["create", "--console-socket", "/nowhere", &id]);
    assert!(refused.err.contains("console socket"), "{refused:?}");
}

#[test]
fn a_foreground_terminal_works_like_a_local_one() {
    let mut world = World::new();
    let id = world.id();
    // tmux gives its terminal a size only after it has started what runs there.
    world.shell(
        "until test \"$(stty size 2>/dev/null)\"; do sleep 0.01; done; echo size $(stty size); trap 'echo resized $(stty size)' WINCH; read a; echo got $a; read b; echo $b; exit 4",
    );
    world.configure(|config| config["process"]["terminal"] = json!(true));
    let line = format!(
        "cd {}; {} --root {} run {id}; echo code $?; stty -a | grep -q ' icanon' && echo restored",
        world.bundle().display(),
        common::ours().display(),
        world.file("state")
    );
    let terminal = gantry_tests::Terminal::start(&line).unwrap();
    terminal.shows("size 24 80");
    terminal.write("hello");
    terminal.press(&["Enter"]);
    terminal.shows("got hello");
    terminal.resize(100, 30);
    terminal.press(&["Enter"]);
    terminal.shows("resized 30 100");
    terminal.shows("code 4");
    terminal.shows("restored");
}

#[test]
fn an_exec_goes_where_the_container_has_moved_its_processes() {
    if !std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        gantry_tests::skip("no pure cgroup v2 on this machine");
        return;
    }
    let mut world = World::new();
    let id = world.id();
    world.shell(
        "cd /sys/fs/cgroup && mkdir init other && echo 1 > init/cgroup.procs && echo +pids > cgroup.subtree_control && \
         echo moved && exec sleep 600",
    );
    world.configure(|config| {
        for mount in config["mounts"].as_array_mut().unwrap() {
            if mount["type"] == "cgroup" {
                mount["options"] = json!(["nosuid", "noexec", "nodev", "rw"]);
            }
        }
    });
    let run = world.command(&["run", "-d", &id]);
    gantry_tests::eventually("it has moved", || run.out_now() == "moved\n");
    assert_eq!(world.ok(&["exec", &id, "cat", "/proc/self/cgroup"]), "0::/init\n");
    assert_eq!(world.ok(&["exec", "--cgroup", "/other", &id, "cat", "/proc/self/cgroup"]), "0::/other\n");
    let refused = world.command(&["exec", "--cgroup", "/nonesuch", &id, "true"]);
    assert_eq!(refused.code, 255, "{refused:?}");
    // Frozen and killed with all that is below.
    world.ok(&["pause", &id]);
    world.ok(&["resume", &id]);
    world.ok(&["delete", "--force", &id]);
}
