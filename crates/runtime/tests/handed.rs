//! What is handed to a container and out of it: descriptors, a seccomp listener, network devices, a terminal.
#![allow(clippy::disallowed_methods, reason = "tests read files plainly")]

mod common;

use std::os::fd::{AsFd, AsRawFd};
use std::process::Command;

use common::{ConsoleSocket, Output, World};
use serde_json::{Value, json};

/// The runtime, executed by a shell line that prepares what it inherits.
fn after(world: &World, unshared: &[&str], line: &str, args: &[&str]) -> Output {
    let runtime = world.prepare(args);
    let (program, rest) = unshared.split_first().unwrap_or((&"sh", &[]));
    let mut command = Command::new(program);
    command.args(rest);
    if !unshared.is_empty() {
        command.arg("sh");
    }
    command.args(["-c", &format!("{line}; exec \"$@\""), "sh"]).arg(runtime.get_program()).args(runtime.get_args());
    command.current_dir(world.bundle()).stdin(std::process::Stdio::null());
    world.finish(command)
}

/// A profile that asks an agent about one thing.
fn asking(config: &mut Value, socket: &str) {
    config["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "listenerPath": socket,
        "listenerMetadata": "for the agent",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY"}],
    });
}

#[test]
fn a_seccomp_listener_comes_to_its_agent_with_the_state_of_the_process() {
    let mut world = World::new();
    let id = world.id();
    let agent = ConsoleSocket::new(&world);
    world.program(&["sleep", "600"]);
    world.configure(|config| {
        asking(config, &agent.path);
        config["annotations"] = json!({"a.b": "c"});
    });
    world.ok(&["create", &id]);
    let start = world.begin(&["start", &id]);
    let (text, listener) = agent.receive_with_text();
    assert_eq!(start.end().code, 0);
    let told: Value = serde_json::from_str(&text).unwrap();
    let state = world.state(&id);
    assert_eq!((&told["fds"], &told["pid"]), (&json!(["seccompFd"]), &state["pid"]), "{told}");
    assert_eq!(told["metadata"], "for the agent");
    for field in ["ociVersion", "id", "pid", "bundle", "annotations"] {
        assert_eq!(told["state"][field], state[field], "{field}: {told}");
    }
    let kind = std::fs::read_link(format!("/proc/self/fd/{}", listener.as_raw_fd())).unwrap();
    assert_eq!(kind.to_str(), Some("anon_inode:seccomp notify"));

    // An exec asks by a listener of its own; without an agent that answers, the kernel knows no such call.
    let exec = world.begin(&["exec", &id, "mkdir", "/tmp/x"]);
    let (text, listener) = agent.receive_with_text();
    let told: Value = serde_json::from_str(&text).unwrap();
    assert_ne!(told["pid"], state["pid"], "{told}");
    assert_eq!(told["state"]["status"], "running");
    drop(listener);
    let output = exec.end();
    assert!(output.code == 1 && output.err.contains("Function not implemented"), "{output:?}");
}

#[test]
fn a_program_whose_agent_is_not_there_does_not_start() {
    let mut world = World::new();
    let id = world.id();
    world.program(&["sleep", "600"]);
    let nobody = world.file("nobody");
    world.configure(|config| asking(config, &nobody));
    let output = world.command(&["run", "-d", &id]);
    assert!(output.code == 1 && output.err.contains(&nobody), "{output:?}");
    assert!(world.command(&["state", &id]).err.contains("does not exist"));
}

#[test]
fn descriptors_of_a_service_manager_are_the_programs_and_named_so() {
    let mut world = World::new();
    let id = world.id();
    world.shell("echo $LISTEN_FDS $LISTEN_PID; cat <&3; cat <&4; cat <&5; ls /proc/self/fd | wc -l");
    let line = "for n in 3 4 5; do echo $n > f$n; done; exec 3<f3 4<f4 5<f5; export LISTEN_FDS=2 LISTEN_PID=$$";
    let output = after(&world, &[], line, &["run", "--preserve-fds", "1", &id]);
    assert_eq!((output.code, output.out.as_str()), (0, "2 1\n3\n4\n5\n7\n"), "{output:?}");
    // Meant for another process.
    world.shell("echo none$LISTEN_FDS; ls /proc/self/fd | wc -l");
    let output = after(&world, &[], "exec 3<f3; export LISTEN_FDS=1 LISTEN_PID=1", &["run", &id]);
    assert_eq!((output.code, output.out.as_str()), (0, "none\n4\n"), "{output:?}");
    // What the runtime itself has open there is not the caller's.
    let log = world.file("log");
    for args in [&["run", "--preserve-fds", "2", &id][..], &["--log", &log, "run", "--preserve-fds", "2", &id]] {
        let output = after(&world, &[], "exec 3<f3 4<&- 5<&-", args);
        assert!(output.code == 1 && output.err.contains("descriptor 4 of 2"), "{output:?}");
    }
}

#[test]
fn a_pidfd_of_the_process_is_sent_to_who_asks_for_it() {
    let mut world = World::new();
    let id = world.id();
    let pid_file = world.file("pid");
    let socket = ConsoleSocket::new(&world);
    world.program(&["sleep", "600"]);
    for (number, args) in [
        &["create", "--pidfd-socket", &socket.path, "--pid-file", &pid_file, &id][..],
        &["exec", "-d", "--pidfd-socket", &socket.path, "--pid-file", &pid_file, &id, "sleep", "600"],
    ]
    .into_iter()
    .enumerate()
    {
        let running = world.begin(args);
        let (text, pidfd) = socket.receive_with_text();
        assert_eq!(running.end().code, 0);
        assert_eq!(text, "pidfd");
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).unwrap();
        let pid = std::fs::read_to_string(&pid_file).unwrap();
        assert!(info.contains(&format!("Pid:\t{pid}\n")), "{pid}: {info}");
        if number == 0 {
            world.ok(&["start", &id]);
        }
    }
    let nobody = world.file("nobody");
    let refused = world.command(&["exec", "-d", "--pidfd-socket", &nobody, &id, "sleep", "600"]);
    assert!(refused.code == 255 && refused.err.contains(&nobody), "{refused:?}");
    let pids: Vec<u32> = serde_json::from_str(&world.ok(&["ps", "-f", "json", &id])).unwrap();
    assert_eq!(pids.len(), 2, "nobody was told of the third: {pids:?}");
}

/// The service manager: listens, and is told.
fn manager(world: &World) -> (std::os::unix::net::UnixDatagram, String) {
    let path = world.file("manager");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
    (socket, path)
}

fn told(manager: &std::os::unix::net::UnixDatagram) -> String {
    let mut text = [0; 1000];
    let length = manager.recv(&mut text).expect("the manager is told");
    String::from_utf8_lossy(&text[..length]).into_owned()
}

/// As the program would, from outside.
fn say(path: &str, text: &str) {
    let socket = std::os::unix::net::UnixDatagram::unbound().unwrap();
    socket.send_to(text.as_bytes(), path).unwrap();
}

#[test]
fn a_program_that_says_that_it_is_ready_is_told_of_to_the_service_manager() {
    let mut world = World::new();
    let (manager, path) = manager(&world);
    let id = world.id();
    // Start returns when the program is ready, and not before.
    world.program(&["sleep", "600"]);
    let mut create = world.prepare(&["create", &id]);
    create.env("NOTIFY_SOCKET", &path);
    assert_eq!(world.finish(create).code, 0);
    let pid = world.state(&id)["pid"].as_i64().unwrap();
    let mut start = world.prepare(&["start", &id]);
    start.env("NOTIFY_SOCKET", &path);
    let start = world.begin_prepared(start);
    world.becomes(&id, "running");
    let environ = std::fs::read_to_string(format!("/proc/{pid}/environ")).unwrap();
    assert!(environ.contains("NOTIFY_SOCKET=/run/notify/notify.sock"), "{environ}");
    let inside = format!("/proc/{pid}/root/run/notify/notify.sock");
    say(&inside, "STATUS=MAINPID=1");
    say(&inside, "STATUS=x\nREADY=1");
    assert_eq!(told(&manager), format!("READY=1\nMAINPID={pid}\n"));
    assert_eq!(start.end().code, 0);
    assert_eq!(world.ok(&["exec", &id, "sh", "-c", "echo none$NOTIFY_SOCKET"]), "none\n");
    world.ok(&["delete", "--force", &id]);

    // A program that ends without a word keeps nobody waiting.
    world.program(&["true"]);
    let mut run = world.prepare(&["run", "-d", &id]);
    run.env("NOTIFY_SOCKET", &path);
    assert_eq!(world.begin_prepared(run).end().code, 0);
    world.ok(&["delete", "--force", &id]);

    // In the foreground the runtime is what the manager is to watch.
    world.program(&["sleep", "600"]);
    let mut run = world.prepare(&["run", &id]);
    run.env("NOTIFY_SOCKET", &path);
    let run = world.begin_prepared(run);
    gantry_tests::eventually("it runs", || world.command(&["state", &id]).out.contains("\"running\""));
    let pid = world.state(&id)["pid"].as_i64().unwrap();
    say(&format!("/proc/{pid}/root/run/notify/notify.sock"), "READY=1");
    assert_eq!(told(&manager), format!("READY=1\nMAINPID={}\n", run.pid()));
    world.ok(&["kill", &id, "KILL"]);
    assert_eq!(run.end().code, 137);
}

#[test]
fn a_network_device_is_moved_with_its_address_and_renamed_and_comes_back_when_that_fails() {
    let mut world = World::new();
    let id = world.id();
    let made = "ip link add given0 type veth peer name kept0 && ip addr add 192.0.2.7/24 dev given0 && \
                ip link set given0 up";
    world.configure(|config| config["linux"]["netDevices"] = json!({"given0": {"name": "eth7"}}));
    world.shell("busybox ip addr show eth7; ls /sys/class/net | grep -c given0");
    let output = after(&world, &["unshare", "--net"], made, &["run", &id]);
    assert!(output.out.contains("inet 192.0.2.7/24") && output.out.contains(",UP"), "{output:?}");
    assert!(output.out.ends_with("\n0\n"), "{output:?}");

    world.program(&["nonesuch"]);
    let runtime = world.prepare(&["create", &id]);
    let line = format!("{made}; \"$@\"; echo code $?; ip addr show given0");
    let mut command = Command::new("unshare");
    command.args(["--net", "sh", "-c", &line, "sh"]).arg(runtime.get_program()).args(runtime.get_args());
    command.current_dir(world.bundle());
    let output = world.finish(command);
    assert!(output.out.starts_with("code 1\n"), "{output:?}");
    assert!(output.out.contains("given0@kept0") && output.out.contains("192.0.2.7/24"), "{output:?}");

    world.configure(|config| config["linux"]["netDevices"] = json!({"absent0": {}}));
    let output = world.command(&["create", &id]);
    assert!(output.code == 1 && output.err.contains("absent0"), "{output:?}");
}

#[test]
fn whoever_has_the_terminal_resizes_it_and_the_program_hears_of_it() {
    let mut world = World::new();
    let id = world.id();
    world.shell("trap 'stty size; exit 3' WINCH; echo ready; while true; do sleep 0.05; done");
    world.configure(|config| config["process"]["terminal"] = json!(true));
    let console = ConsoleSocket::new(&world);
    world.ok(&["create", "--console-socket", &console.path, &id]);
    let (name, master) = console.receive_with_text();
    assert!(name.starts_with("/dev/ptmx"), "{name}");
    world.ok(&["start", &id]);
    let mut buffer = [0; 100];
    let length = rustix::io::read(&master, &mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"ready\r\n");
    let size = rustix::termios::Winsize { ws_row: 42, ws_col: 131, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(master.as_fd(), size).unwrap();
    assert_eq!(common::read_terminal(master), "42 131\n");
    world.becomes(&id, "stopped");
}
