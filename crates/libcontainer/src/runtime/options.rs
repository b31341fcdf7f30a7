//! What a caller chooses beside the configuration, and what it is told.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use super::Container;

/// Where a terminal's master end is sent, by `SCM_RIGHTS`, its name as data.
#[derive(Debug)]
pub enum ConsoleSocket {
    /// A listening `AF_UNIX` stream socket.
    Path(PathBuf),
    /// A connected one.
    Connected(OwnedFd),
}

/// How a container is created.
#[derive(Debug, Default)]
pub struct CreateOptions {
    /// What `config.json` says, when the caller has read it (and changed it) already.
    pub spec: Option<crate::oci::Spec>,
    /// Needed with a terminal, refused without.
    pub console_socket: Option<ConsoleSocket>,
    /// Receives the first process's id, as decimal digits without a newline.
    pub pid_file: Option<PathBuf>,
    /// Descriptors 3, 4 … that the program keeps, after those of `listen_fds`.
    pub preserve_fds: u32,
    /// Descriptors 3, 4 … that are passed on as `LISTEN_FDS`.
    pub listen_fds: u32,
    /// Move the root instead of pivoting to it: for a root in an initial RAM disk. Less is kept from the container.
    pub no_pivot: bool,
    /// Keep the caller's session keyring.
    pub no_new_keyring: bool,
    /// Have a socket by which the program tells that it is ready, as `NOTIFY_SOCKET`: see [`Container::bind_notify_socket`].
    pub notify_socket: bool,
    /// Have systemd make the cgroup; refused for now.
    pub systemd_cgroup: bool,
}

/// How a further process is started.
#[derive(Debug, Default)]
pub struct ExecOptions {
    /// Needed with a terminal, refused without.
    pub console_socket: Option<ConsoleSocket>,
    /// Receives the process's id.
    pub pid_file: Option<PathBuf>,
    /// Descriptors 3, 4 … that the program keeps.
    pub preserve_fds: u32,
    /// A cgroup below the container's own, relative; made already.
    pub cgroup: Option<String>,
    /// Start it in a paused container: it runs when that is resumed.
    pub ignore_paused: bool,
}

/// A created container.
#[derive(Debug)]
pub struct Created {
    /// It waits for [`Container::start`].
    pub container: Container,
    /// What was left out.
    pub warnings: Vec<String>,
}

/// A further process that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Executed {
    /// Its id on the host; a child of the caller.
    pub pid: i32,
    /// What was left out.
    pub warnings: Vec<String>,
}
