//! The template: the binary executed once from a sealed memfd, which forks warm supervisors on demand. It has one
//! thread and touches little, so that a fork takes a fraction of a millisecond and its pages are shared by all of them.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::ExitCode;

use gantry_linux::process::{self, Clone, CloneFlags};
use gantry_linux::socket;
use libcontainer::cgroups::Hierarchies;
use rustix::fs::{Mode, OFlags};

use super::protocol::{self, Fork};
use super::supervisor;

/// The name (`argv[0]`) by which the binary is told to be the template.
pub const TEMPLATE_ROLE: &str = "gantry-supervisor-template";

/// Makes a start fail at the step of this name; for tests. Steps are those of `libcontainer::steps` in a container's own
/// process, and `directory`, `socket`, `cgroup`, `sources`, `streams`, `clone`, `log` in its supervisor.
pub const FAIL_AT: &str = "GANTRY_FAIL_AT";

/// Whether this process was started to be the template, or a container's first process by LXC. The binary's `main` asks before it does anything else.
#[must_use]
pub fn is_template() -> bool {
    std::env::args_os().next().is_some_and(|name| name == TEMPLATE_ROLE) || crate::lxc::is_stage()
}

/// Another role that the template forks: its name, and the whole life of such a process, from the exec root and the
/// connection to the daemon to its exit code.
pub type Role = (&'static str, fn(&Path, OwnedFd) -> i32);

/// Runs as the template until the daemon is gone, or becomes a container. Standard input is the connection to the daemon.
#[must_use]
pub fn template_main(roles: &[Role]) -> ExitCode {
    if crate::lxc::is_stage() {
        return crate::lxc::stage_main();
    }
    match run(roles) {
        Ok(()) => ExitCode::SUCCESS,
        // Nobody reads the template's streams: the daemon sees the connection end.
        Err(_) => ExitCode::FAILURE,
    }
}

fn run(roles: &[Role]) -> Result<(), gantry_linux::Error> {
    if let Ok(step) = std::env::var(FAIL_AT) {
        libcontainer::steps::fail_at(&step);
    }
    let daemon = process::inherited_fd(0)?;
    process::close_all_but(&[daemon.as_fd()])?;
    detach()?;
    // Supervisors are reaped by nobody: the kernel forgets them at once.
    process::ignore_signals(&[rustix::process::Signal::CHILD.as_raw(), rustix::process::Signal::PIPE.as_raw()]);
    let hierarchies = Hierarchies::discover()?;
    while let Some(packet) = socket::receive(&daemon)? {
        let mut message = protocol::decode::<Fork>(packet)?;
        let Some(connection) = message.fds.pop() else { continue };
        match process::clone(CloneFlags::NONE) {
            Ok(Clone::Child) => {
                drop(daemon);
                match &message.head {
                    Fork::Supervisor(spawn) => supervisor::run(spawn, connection, hierarchies),
                    Fork::Role { name, exec_root } => {
                        let role = roles.iter().find(|(known, _)| known == name);
                        process::exit_now(role.map_or(1, |(_, live)| live(exec_root, connection)))
                    }
                }
            }
            Ok(Clone::Parent(_)) => {}
            Err(error) => refuse(&connection, &error),
        }
    }
    Ok(())
}

fn refuse(connection: &OwnedFd, error: &gantry_linux::Error) {
    // When the daemon cannot be told it sees the connection end, which says the same.
    let _ = protocol::send(connection, &protocol::Tell::Cold(error.to_string()), &[]);
}

/// Nothing of the daemon's is kept: terminal, directory, streams, signals of its group.
fn detach() -> Result<(), gantry_linux::Error> {
    use gantry_linux::ResultExt;
    // It is a leader of a session only when somebody started it by hand; then it stays in that one.
    let _ = rustix::process::setsid();
    rustix::process::chdir("/").during("enter", "/")?;
    let null =
        rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).during("open", "/dev/null")?;
    process::set_stdio([null.as_fd(), null.as_fd(), null.as_fd()])?;
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .during("make undumpable", "template")?;
    rustix::thread::set_name(c"gantry-template").during("name", "template")
}
