//! The execdriver trait: everything that the daemon ever asks about a container's processes.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use gantry_linux::mount::IdMap;
use libcontainer::cgroups::Stats;
use libcontainer::config::{Config, Process, Resources};
use serde::{Deserialize, Serialize};

/// Runs containers. Calls block for a few milliseconds at most, unless they say otherwise; they are made from threads
/// that may block.
pub trait ExecDriver: Send + Sync {
    /// `native` or `lxc`.
    fn name(&self) -> &'static str;

    /// A place to run a container in: a supervisor with a network namespace of its own, ready before it is asked for.
    /// Dropping it unused gives everything back.
    fn prepare(&self) -> Result<Box<dyn Sandbox>, Error>;

    /// Starts a process of another role of the binary, which outlives the daemon as supervisors do; the connection to it.
    fn start_role(&self, name: &str) -> Result<OwnedFd, Error>;

    /// Takes up a container again that an earlier daemon started, by its id. `NotFound` when no supervisor answers:
    /// then [`ExecDriver::last_exit`] may know how it ended.
    fn restore(&self, id: &str) -> Result<Arc<dyn Running>, Error>;

    /// How the container's last run ended, as its supervisor recorded it; survives both daemon and supervisor.
    fn last_exit(&self, id: &str) -> Result<Option<Exit>, Error>;

    /// Ids of all containers that have a supervisor directory, running or ended.
    fn list(&self) -> Result<Vec<String>, Error>;

    /// Forgets what was recorded of a container that has ended: its directory under the exec root, its cgroups.
    fn forget(&self, id: &str) -> Result<(), Error>;
}

/// A warm supervisor that has no container yet.
pub trait Sandbox: Send {
    /// Its new network namespace, for a networkdriver to move a link into.
    fn netns(&self) -> std::os::fd::BorrowedFd<'_>;

    /// A `NETLINK_ROUTE` socket that was opened inside that namespace: configures links there without entering it.
    fn route_socket(&self) -> std::os::fd::BorrowedFd<'_>;

    /// Where questions for names arrive in that namespace; once, and `None` where the kernel has no nf_tables.
    fn take_names(&mut self) -> Option<NameDoors>;

    /// Gives it a user namespace, and a network namespace that belongs to it in place of the one that was there; before any
    /// of those above is used.
    fn map_users(&mut self, users: &Users) -> Result<(), Error>;

    /// Starts the container. Returns when its program is executing, or with the step that failed; then nothing is left.
    fn start(self: Box<Self>, start: Start) -> Result<Arc<dyn Running>, Error>;
}

/// Sockets in a container's network namespace where its questions for names arrive.
#[derive(Debug)]
pub struct NameDoors {
    /// Datagrams.
    pub datagrams: OwnedFd,
    /// Connections.
    pub connections: OwnedFd,
    /// A pidfd of the supervisor. The sockets keep the namespace: they are to be closed when it has ended.
    pub life: OwnedFd,
}

/// The user namespace of a container to come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Users {
    /// Its mapping; user and group 0 are in it.
    pub map: IdMap,
    /// One that is there already, with this mapping: another container's (`/proc/<pid>/ns/user`).
    pub of: Option<PathBuf>,
}

/// Everything that a start needs.
pub struct Start {
    /// The container.
    pub config: Config,
    /// Where its output is written; `None` is nowhere.
    pub log: Option<LogFile>,
    /// Keep standard input open for attached clients (`OpenStdin`); else it is `/dev/null`.
    pub open_stdin: bool,
    /// Close standard input when the first attached client that brought one leaves (`StdinOnce`).
    pub stdin_once: bool,
    /// Clients that attached before the start; they miss no byte.
    pub attached: Vec<Attach>,
}

/// A json-file log, written by the supervisor in Docker's format and rotated by it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogFile {
    /// `<data root>/containers/<id>/<id>-json.log`; older ones have `.1`, `.2` … appended.
    pub path: PathBuf,
    /// Rotate when the file would exceed this many bytes; `None` never.
    pub max_size: Option<u64>,
    /// How many files are kept, the current one included.
    pub max_files: u32,
}

/// One attached client: a connected stream socket (half of a `socketpair`, or the client's own connection).
///
/// The supervisor writes output to it (with Docker's 8-byte frame headers unless the container has a terminal) and
/// reads standard input from it until end-of-file.
pub struct Attach {
    /// The stream.
    pub stream: OwnedFd,
    /// Bytes that were already read from the client, to be fed to standard input first.
    pub early_input: Vec<u8>,
    /// Which streams it wants.
    pub stdin: bool,
    /// See `stdin`.
    pub stdout: bool,
    /// See `stdin`.
    pub stderr: bool,
}

/// A container whose first process runs, or has just ended.
pub trait Running: Send + Sync {
    /// Host pid of the first process.
    fn pid(&self) -> i32;

    /// Blocks until the container ends. Every byte of output is then in the log and sent to every client that keeps up.
    fn wait(&self) -> Result<Exit, Error>;

    /// Calls `then` once when the container has ended (at once if it has), from a thread of the driver. It must not block.
    fn on_exit(&self, then: Box<dyn FnOnce(Exit) + Send>);

    /// Attaches a further client.
    fn attach(&self, attach: Attach) -> Result<(), Error>;

    /// Sends a signal to the first process.
    fn signal(&self, signal: i32) -> Result<(), Error>;

    /// Kills every process of the container, and unfreezes it first where needed.
    fn kill_all(&self) -> Result<(), Error>;

    /// Sets the size of the terminal.
    fn resize(&self, rows: u16, columns: u16) -> Result<(), Error>;

    /// Starts a further process; returns when its program is executing.
    fn exec(&self, exec: Exec) -> Result<Arc<dyn RunningExec>, Error>;

    /// Freezes every process.
    fn pause(&self) -> Result<(), Error>;

    /// Thaws.
    fn unpause(&self) -> Result<(), Error>;

    /// Changes limits; on failure the earlier ones are in force.
    fn update(&self, resources: &Resources) -> Result<(), Error>;

    /// What the container has used.
    fn stats(&self) -> Result<Stats, Error>;

    /// Host pids of every process of the container (never the supervisor's own).
    fn pids(&self) -> Result<Vec<i32>, Error>;

    /// A detached clone (`open_tree`) of the container's whole mount tree as its processes see it, for cp, diff and export.
    fn root(&self) -> Result<OwnedFd, Error>;

    /// Its network, to be changed while it runs. [`Error::Invalid`] where a supervisor of an older daemon cannot tell.
    fn network(&self) -> Result<Network, Error>;

    /// A socket for datagrams of IPv4 that was opened inside its network namespace. [`Error::Invalid`] where a supervisor of
    /// an older daemon cannot tell.
    fn datagrams(&self) -> Result<OwnedFd, Error>;

    /// Where its questions for names arrive, for a resolver that was started again. [`Error::Invalid`] where a supervisor of
    /// an older daemon cannot tell.
    fn names(&self) -> Result<NameDoors, Error>;
}

/// A container's network namespace, and a `NETLINK_ROUTE` socket that was opened inside.
pub struct Network {
    /// The namespace.
    pub netns: OwnedFd,
    /// The socket.
    pub route_socket: OwnedFd,
}

/// A further process to run.
pub struct Exec {
    /// Its identity, unique within the container.
    pub id: String,
    /// The process.
    pub process: Process,
    /// Keep standard input open for the client.
    pub open_stdin: bool,
    /// The client, if any.
    pub attached: Option<Attach>,
}

/// A further process that runs, or has ended.
pub trait RunningExec: Send + Sync {
    /// Host pid.
    fn pid(&self) -> i32;
    /// See [`Running::on_exit`]; all output has then been sent to the client that keeps up.
    fn on_exit(&self, then: Box<dyn FnOnce(Exit) + Send>);
    /// See [`Running::signal`].
    fn signal(&self, signal: i32) -> Result<(), Error>;
    /// See [`Running::resize`].
    fn resize(&self, rows: u16, columns: u16) -> Result<(), Error>;
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// 0–255, 128 + n for signal n.
    pub code: i32,
    /// The kernel's OOM killer struck in its cgroup.
    pub oom_killed: bool,
    /// When its end was seen.
    pub finished_at: SystemTime,
}

/// What went wrong, in terms that map to Docker's answers.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The program is not in the container, or its interpreter is not (exit code 127).
    #[error("{0}")]
    CommandNotFound(String),
    /// The program cannot be executed: no x bit, a directory, wrong architecture (exit code 126).
    #[error("{0}")]
    CommandNotExecutable(String),
    /// The request cannot be satisfied as it is: unknown user, bad mount source, bad limit.
    #[error("{0}")]
    Invalid(String),
    /// There is no such container, exec or process any more.
    #[error("{0}")]
    NotFound(String),
    /// Everything else, with step, object and the kernel's answer.
    #[error("{0}")]
    System(String),
}
