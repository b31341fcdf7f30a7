//! Sockets that somebody else has opened (systemd's protocol), and the unit files.

use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::process::Command;

use gantry_tests::{Options, World, command, paths};

use super::{clients, run, work};

/// Becomes the daemon with one socket as descriptor 3: what systemd does.
const ACTIVATE: &str = r#"n=$1; shift; exec 3<&"$n"; export LISTEN_FDS=1 LISTEN_FDNAMES=api LISTEN_PID=$$; exec "$@""#;

#[test]
fn a_daemon_serves_the_socket_that_it_was_given_and_tells_that_it_is_ready() {
    let files = tempfile::tempdir().expect("a directory");
    let socket = files.path().join("activated.sock");
    let listener = UnixListener::bind(&socket).expect("a socket");
    rustix::io::fcntl_setfd(&listener, rustix::io::FdFlags::empty()).expect("let the daemon have it");
    let notify = std::os::unix::net::UnixDatagram::bind(files.path().join("notify")).expect("a socket");
    notify.set_read_timeout(Some(std::time::Duration::from_secs(20))).expect("a deadline");
    let number = listener.as_raw_fd().to_string();
    let options = Options {
        flags: ["-H", "fd://api"].map(str::to_owned).to_vec(),
        environment: vec![
            ("NOTIFY_SOCKET".to_owned(), files.path().join("notify").display().to_string()),
            ("WATCHDOG_USEC".to_owned(), "1000000".to_owned()),
        ],
        before: ["/bin/sh", "-c", ACTIVATE, "activate", &number].map(str::to_owned).to_vec(),
        ..Options::default()
    };
    let mut world = World::start(options).unwrap_or_else(|error| panic!("{error:?}"));
    drop(listener);
    let next = || {
        let mut word = [0; 256];
        let length = notify.recv(&mut word).expect("word from the daemon");
        String::from_utf8_lossy(&word[..length]).into_owned()
    };
    assert_eq!(next().trim_end(), "READY=1");
    assert_eq!(next().trim_end(), "WATCHDOG=1");
    let environment = [("DOCKER_HOST", format!("unix://{}", socket.display()))];
    for program in clients() {
        work::works(&world, &program, &environment);
    }
    world.daemon.stop().expect("the daemon ends");
    assert!(socket.exists(), "the file belongs to whoever made it");
    let said = std::iter::repeat_with(next).find(|word| !word.starts_with("WATCHDOG")).expect("a last word");
    assert_eq!(said.trim_end(), "STOPPING=1");
}

/// As `ACTIVATE`, with a second socket as descriptor 4, and neither under another number.
const ACTIVATE_TWO: &str = r#"a=$1 b=$2; shift 2; exec 3<&"$a" 4<&"$b" {a}<&- {b}<&-
export LISTEN_FDS=2 LISTEN_FDNAMES=api:other LISTEN_PID=$$; exec "$@""#;

#[test]
fn a_socket_is_served_by_its_number_and_one_that_nobody_names_is_closed() {
    let files = tempfile::tempdir().expect("a directory");
    let open = |name: &str| {
        // Beyond what the shell uses itself.
        let listener = UnixListener::bind(files.path().join(name)).expect("a socket");
        let high = rustix::io::fcntl_dupfd_cloexec(&listener, 20).expect("a high number");
        rustix::io::fcntl_setfd(&high, rustix::io::FdFlags::empty()).expect("let the daemon have it");
        high
    };
    let (api, other) = (open("api.sock"), open("other.sock"));
    let links =
        [&api, &other].map(|socket| format!("socket:[{}]", rustix::fs::fstat(socket).expect("its number").st_ino));
    let numbers = [&api, &other].map(|socket| socket.as_raw_fd().to_string());
    let before = ["/bin/bash", "-c", ACTIVATE_TWO, "activate", &numbers[0], &numbers[1]];
    let flags = ["-H", "fd://3"].map(str::to_owned).to_vec();
    let options = Options { flags, before: before.map(str::to_owned).to_vec(), ..Options::default() };
    let world = World::start(options).unwrap_or_else(|error| panic!("{error:?}"));
    drop((api, other));
    let environment = [("DOCKER_HOST", format!("unix://{}", files.path().join("api.sock").display()))];
    for program in clients() {
        work::works(&world, &program, &environment);
    }
    let descriptors =
        std::fs::read_dir(format!("/proc/{}/fd", world.daemon.pid().expect("a pid"))).expect("its descriptors");
    let open: Vec<_> = descriptors.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok()).collect();
    let count = |link: &String| open.iter().filter(|open| open.as_os_str() == link.as_str()).count();
    assert_eq!((count(&links[0]), count(&links[1])), (1, 0), "{open:?}");
    let log = std::fs::read_to_string(world.daemon.slot().root().join("log")).expect("the log");
    assert!(log.contains(r#"the socket "other" was given to this process, and no -H fd:// names it"#), "{log}");
}

#[test]
fn a_socket_that_was_not_given_is_told() {
    let root = tempfile::tempdir().expect("a directory");
    let mut daemon = Command::new(&clients()[0]);
    let at = |name: &str| root.path().join(name).display().to_string();
    daemon.args([
        "daemon",
        "--bridge",
        "none",
        "--data-root",
        &at("data"),
        "--exec-root",
        &at("run"),
        "-H",
        "fd://api",
    ]);
    let output = command::run(&mut daemon, None, command::LIMIT).expect("the daemon ends");
    output.fails(1, "-H fd://api: there is no such socket; no sockets were given to this process");
    let output = run(&clients()[0], root.path(), &[("DOCKER_HOST", "fd://api".to_owned())], &["ps"]);
    output.fails(1, "it is a daemon's own end");
}

#[test]
fn systemd_accepts_the_unit_files() {
    let Some(analyze) = paths::program("systemd-analyze") else {
        return gantry_tests::skip("no systemd-analyze on this machine");
    };
    let files = tempfile::tempdir().expect("a directory");
    let units = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../contrib/systemd");
    let program = clients()[0].display().to_string();
    for unit in ["gantry.service", "gantry.socket"] {
        let text = std::fs::read_to_string(units.join(unit)).expect("the unit");
        // Where it is installed here.
        std::fs::write(files.path().join(unit), text.replace("/usr/bin/gantry", &program)).expect("write the unit");
    }
    let mut verify = Command::new(analyze);
    verify.arg("verify").args(["gantry.service", "gantry.socket"].map(|unit| files.path().join(unit)));
    let output = command::run(&mut verify, None, command::LIMIT).expect("systemd-analyze");
    let about_ours: Vec<_> = output.stderr.lines().filter(|line| line.contains("gantry")).collect();
    assert!(output.code == 0 && about_ours.is_empty(), "{output}");
}
