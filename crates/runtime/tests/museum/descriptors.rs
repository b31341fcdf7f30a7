//! Descriptors and files of the host's that a program could get hold of.

use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::common::{Output, World, ours};
use crate::{run, run_line};

/// A directory of the host with a file by which it is known.
fn marked() -> tempfile::TempDir {
    let host = tempfile::tempdir().unwrap();
    std::fs::write(host.path().join("of-the-host"), "").unwrap();
    host
}

/// The command, called by somebody whose descriptor 7 is of this directory and stays open in what he executes.
fn with_inherited(world: &World, directory: &Path, args: &[&str]) -> Output {
    let prepared = world.prepare(args);
    let mut command = Command::new("sh");
    command.args(["-c", "exec 7<\"$0\"; exec \"$@\""]).arg(directory);
    command.arg(prepared.get_program()).args(prepared.get_args()).current_dir(world.bundle());
    command.stdin(std::process::Stdio::null());
    world.finish(command)
}

/// CVE-2019-5736: a program finds the runtime as another process's `exe`, opens it while it runs and writes to it when it
/// has ended.
#[test]
fn nobody_in_a_container_can_write_to_the_runtimes_file() {
    let place = tempfile::tempdir().unwrap();
    let runtime = place.path().join("gantry-runtime");
    std::fs::copy(ours(), &runtime).unwrap();
    let before = std::fs::read(&runtime).unwrap();
    let mut world = World::of(&runtime);
    let id = world.sleeping();
    let shared = Path::new("/proc").join(world.state(&id)["pid"].to_string()).join("root/dev/shm");
    world.ok(&["exec", &id, "busybox", "mkfifo", "/dev/shm/fifo"]);
    // It waits for somebody who reads its log.
    world.ok(&["exec", "-d", &id, "/proc/self/exe", "--log", "/dev/shm/fifo", "list"]);
    let attack = r#"
        for p in /proc/[0-9]*; do
            case "$(readlink $p/exe)" in /bin/busybox | "") ;; *) victim=$p ;; esac
        done
        exec 9<$victim/exe && touch /dev/shm/held
        kill -9 ${victim#/proc/}
        i=0
        while ! echo broken >/proc/self/fd/9 && [ $((i+=1)) -lt 100 ]; do busybox usleep 10000; done
        touch /dev/shm/done"#;
    world.ok(&["exec", "-d", &id, "sh", "-c", attack]);
    let done = gantry_tests::until(Duration::from_secs(20), || shared.join("done").exists().then_some(()));
    let unchanged = std::fs::read(&runtime).unwrap() == before;
    // What follows needs a runtime.
    std::fs::remove_file(&runtime).unwrap();
    std::fs::copy(ours(), &runtime).unwrap();
    assert!(shared.join("held").exists() && done.is_some(), "the attack did not get to its end");
    assert!(unchanged, "the runtime's file was written to");
}

/// CVE-2024-21626: the working directory leads through an open descriptor to the host.
#[test]
fn no_working_directory_leads_through_a_descriptor_to_the_host() {
    let host = marked();
    let mut world = World::new();
    let id = world.sleeping();
    world.program(&["ls", ".", "../../../.."]);
    let refused = |output: &Output, number: u32| {
        assert!(output.code != 0 && output.err.contains("working directory"), "{number}: {output:?}");
        assert!(!output.out.contains("of-the-host"), "{number}: {output:?}");
    };
    for number in 0..=20 {
        let directory = format!("/proc/self/fd/{number}");
        let stdin = || File::open(host.path()).unwrap();
        world.configure(|config| config["process"]["cwd"] = serde_json::json!(directory));
        let own = world.id();
        let mut command = world.prepare(&["run", &own]);
        command.stdin(stdin());
        refused(&world.finish(command), number);
        let mut command = world.prepare(&["exec", "--cwd", &directory, &id, "ls"]);
        command.stdin(stdin());
        refused(&world.finish(command), number);
    }
}

/// CVE-2024-21626: descriptors of the runtime or of its caller, open in the program.
#[test]
fn a_program_begins_with_its_three_streams_alone() {
    let host = marked();
    let mut world = World::new();
    // The last one is the directory that `ls` reads.
    world.program(&["ls", "/proc/self/fd"]);
    let id = world.id();
    let ran = with_inherited(&world, host.path(), &["run", &id]);
    assert_eq!(ran.out, "0\n1\n2\n3\n", "{ran:?}");
    let id = world.sleeping();
    let ran = with_inherited(&world, host.path(), &["exec", &id, "ls", "/proc/self/fd"]);
    assert_eq!(ran.out, "0\n1\n2\n3\n", "{ran:?}");
}

/// CVE-2024-21626: whoever shares a namespace with a container that was created could look into its first process.
#[test]
fn a_container_that_waits_to_be_started_holds_nothing_of_the_hosts() {
    let host = marked();
    let mut world = World::new();
    let id = world.id();
    world.program(&["true"]);
    let created = with_inherited(&world, host.path(), &["create", &id]);
    assert_eq!(created.code, 0, "{created:?}");
    let open = Path::new("/proc").join(world.state(&id)["pid"].to_string()).join("fd");
    let links = std::fs::read_dir(open).unwrap().map(|entry| std::fs::read_link(entry.unwrap().path()).unwrap());
    let further: Vec<_> = links.filter(|link| !is_stream(&world, link) && !link.starts_with("/dev/null")).collect();
    // What it reports to, and what it waits at.
    assert_eq!(further.len(), 2, "{further:?}");
    assert!(further.iter().all(|link| link.to_string_lossy().starts_with("socket:")), "{further:?}");
}

/// The files that take its output lie in the world's directory.
fn is_stream(world: &World, link: &Path) -> bool {
    link.parent() == Some(world.path())
}

/// CVE-2020-15257: a socket without a place in a file system is reached by all who share the network namespace.
#[test]
fn no_socket_of_ours_is_reached_without_passing_a_closed_directory() {
    let mut world = World::new();
    let id = world.id();
    world.program(&["true"]);
    world.ok(&["create", &id]);
    let pid = world.state(&id)["pid"].to_string();
    let sockets = std::fs::read_to_string("/proc/net/unix").unwrap();
    let mut seen = 0;
    for entry in std::fs::read_dir(Path::new("/proc").join(&pid).join("fd")).unwrap() {
        let link = std::fs::read_link(entry.unwrap().path()).unwrap();
        let Some(inode) = link.to_str().and_then(|link| link.strip_prefix("socket:[")?.strip_suffix(']')) else {
            continue;
        };
        let line = sockets.lines().find(|line| line.split_whitespace().nth(6) == Some(inode));
        let name = line.and_then(|line| line.split_whitespace().nth(7));
        assert!(name.is_none_or(|name| !name.starts_with('@')), "{name:?}");
        seen += 1;
    }
    assert_eq!(seen, 2, "the sockets of a created container");
}

/// CVE-2021-41091, CVE-2020-15257: what is kept of containers is nobody else's to look at, and their sockets are not to be
/// connected to.
#[test]
fn what_is_kept_of_a_container_is_closed_to_other_users() {
    let mut world = World::new();
    let id = world.id();
    world.program(&["true"]);
    world.ok(&["create", &id]);
    let root = world.path().join("state");
    for path in [root.clone(), root.join(&id), root.join(&id).join("config.json")] {
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{}: {mode:o}", path.display());
    }
}

/// The container's own null device is used, never the host's: a root inside could change its mode for all.
#[test]
fn a_null_device_among_the_streams_is_the_containers_own() {
    let mut world = World::new();
    let line = "[ $(busybox stat -c %d:%i /dev/null) = $(busybox stat -Lc %d:%i /proc/self/fd/0) ] && echo own";
    let ran = run_line(&mut world, line);
    assert_eq!(ran.out, "own\n", "{ran:?}");
    world.program(&["true"]);
    assert_eq!(run(&mut world).code, 0);
}
