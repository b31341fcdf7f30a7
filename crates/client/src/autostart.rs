//! A client that finds no daemon, was given no host, and runs as root starts one in the background.

use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use gantry_transport::Endpoint;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::inotify;

use crate::failure::{Failure, Result, reason};
use crate::printer;

const DATA_ROOT: &str = "/var/lib/gantry";
/// The longest wait for a new daemon to listen.
const DEADLINE: Duration = Duration::from_secs(20);

/// Whether somebody listens on that unix socket.
pub fn answers(endpoint: &Endpoint) -> bool {
    endpoint.path().is_some_and(|path| std::os::unix::net::UnixStream::connect(path).is_ok())
}

/// Starts the daemon and returns when it listens.
pub async fn start(program: &str, endpoint: &Endpoint) -> Result<()> {
    let path = endpoint.path().expect("ours is a unix socket").to_owned();
    let log = format!("{DATA_ROOT}/daemon.log");
    let fail = |what: &str, error: std::io::Error| {
        Failure::new(format!("cannot start a daemon: {what}: {}; start it with 'gantry daemon'", reason(&error)))
    };
    make_directories(&path).map_err(|error| fail("make its directories", error))?;
    let output = std::fs::OpenOptions::new().create(true).append(true).open(&log).map_err(|error| fail(&log, error))?;
    let errors = output.try_clone().map_err(|error| fail(&log, error))?;
    let watch = watch(&path).map_err(|error| fail("watch its socket", error))?;
    printer::error_line(&format!("{program}: no daemon is running: starting one in the background (log: {log})"));
    let mut command = Command::new("/proc/self/exe");
    command.arg0("gantry").arg("daemon").stdin(Stdio::null()).stdout(output).stderr(errors).current_dir("/");
    // The new daemon makes its own session when it finds this: setsid(2) between fork and exec would be unsafe code.
    command.env("GANTRY_DETACH", "1");
    let mut child = command.spawn().map_err(|error| fail("run it", error))?;
    let endpoint = endpoint.clone();
    tokio::task::spawn_blocking(move || wait_until_it_listens(&watch, &endpoint, &mut child, &log))
        .await
        .map_err(|error| Failure::new(error.to_string()))?
}

fn make_directories(socket: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new().recursive(true).mode(0o710).create(DATA_ROOT)?;
    std::fs::DirBuilder::new().recursive(true).mode(0o711).create(socket.parent().unwrap_or(Path::new("/run")))
}

fn watch(socket: &Path) -> std::io::Result<OwnedFd> {
    let fd = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    let flags = inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO;
    inotify::add_watch(&fd, socket.parent().unwrap_or(Path::new("/run")), flags)?;
    Ok(fd)
}

/// Woken by each file that appears beside the socket, and twice a second to see whether the daemon still lives.
fn wait_until_it_listens(watch: &OwnedFd, endpoint: &Endpoint, child: &mut Child, log: &str) -> Result<()> {
    let deadline = Instant::now() + DEADLINE;
    let mut buffer = [0_u8; 4096];
    loop {
        if answers(endpoint) {
            return Ok(());
        }
        if let Some(status) = child.try_wait()? {
            return Err(Failure::new(format!("the daemon ended at once ({status}); {}", last_line(log))));
        }
        if Instant::now() > deadline {
            let seconds = DEADLINE.as_secs();
            return Err(Failure::new(format!("the daemon does not listen after {seconds} seconds; see {log}")));
        }
        let mut fds = [PollFd::new(watch, PollFlags::IN)];
        let tick = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        if rustix::event::poll(&mut fds, Some(&tick))? > 0 {
            // What appeared does not matter: the socket is asked again.
            let _ = rustix::io::read(watch, &mut buffer);
        }
    }
}

fn last_line(log: &str) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    match text.lines().rfind(|line| !line.trim().is_empty()) {
        Some(line) => format!("the end of {log}: {line}"),
        None => format!("see {log}"),
    }
}
