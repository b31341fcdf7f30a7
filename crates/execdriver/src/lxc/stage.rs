//! The program that LXC starts: this binary, from its sealed memfd, as the container's first process. It has nothing of
//! the container yet: it says that it is there, is told what to become, and becomes it by libcontainer, as a native
//! container's first process does.

use std::os::fd::AsFd;
use std::process::ExitCode;

use gantry_linux::{ResultExt, process, socket};
use rustix::process::{PidfdFlags, getpid, pidfd_open};

/// The first argument by which the binary is told to be a container's first process.
pub const STAGE_ROLE: &str = "gantry-lxc-stage";

/// Whether this process was started by LXC to become a container.
pub fn is_stage() -> bool {
    std::env::args_os().nth(1).is_some_and(|role| role == STAGE_ROLE)
}

/// Becomes the container's first process; returns only when there is nobody to say what that is.
pub fn stage_main() -> ExitCode {
    match say_hello() {
        Ok(socket) => libcontainer::seed::take_over(&socket),
        // The supervisor sees the end of the connection.
        Err(_) => ExitCode::FAILURE,
    }
}

/// Standard input is the connection to the supervisor, who takes this process over from LXC when it hears from it.
fn say_hello() -> Result<std::os::fd::OwnedFd, gantry_linux::Error> {
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .during("make undumpable", "first process")?;
    // LXC's process is killed as soon as it is not needed any more; this one must not end with it.
    rustix::process::set_parent_process_death_signal(None).during("clear", "parent death signal")?;
    let socket = process::inherited_fd(0)?;
    // Standard streams stay until they are replaced by the container's: what comes with the order must have other numbers.
    process::close_all_but(&[socket.as_fd()])?;
    if let Some(step) = std::env::args().nth(2) {
        libcontainer::steps::fail_at(&step);
    }
    let me = pidfd_open(getpid(), PidfdFlags::empty()).during("open pidfd of", "first process")?;
    socket::send(&socket, &[], &[me.as_fd()])?;
    Ok(socket)
}
