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
