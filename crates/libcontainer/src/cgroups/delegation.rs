//! cgroup2: controllers passed on to children, within the rule that a cgroup with processes has no limited children.

use std::io::ErrorKind;
use std::path::Path;

use gantry_linux::{Error, Result, ResultExt, fs};

use super::files::{put, read};

/// Where processes go that are in the way at the root of a cgroup namespace.
const ASIDE: &str = "init";

/// Has the children of `directory` get these controllers, in one write; those that they have already do no harm.
pub(super) fn delegate(directory: &Path, controllers: &[String]) -> Result<()> {
    if controllers.is_empty() {
        return Ok(());
    }
    let mut text = String::with_capacity(controllers.len() * 8);
    for controller in controllers {
        text.extend(["+", controller, " "]);
    }
    match enable(directory, text.trim_end()) {
        // Something is in the way of one of them: which, is seen one by one.
        Err(error) if matches!(error.errno(), libc::EBUSY | libc::EINVAL | libc::EOPNOTSUPP) => {
            delegate_each(directory, controllers)
        }
        other => other,
    }
}

/// As [`delegate`] with all that `directory` has itself.
pub(super) fn delegate_what_there_is(directory: &Path) -> Result<()> {
    let text = read(&directory.join("cgroup.controllers"))?;
    let controllers: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
    delegate(directory, &controllers)
}

/// A controller that cannot be passed on for a reason of its own (`cpu` with realtime tasks about) is left out: a limit
/// that needs it is refused later, by name.
fn delegate_each(directory: &Path, controllers: &[String]) -> Result<()> {
    for controller in controllers {
        let text = format!("+{controller}");
        match enable(directory, &text) {
            Err(error) if error.errno() == libc::EBUSY && is_own_root(directory) => {
                step_aside(directory)?;
                enable(directory, &text)?;
            }
            Err(error) if error.errno() == libc::EINVAL => {}
            other => other.map_err(explain)?,
        }
    }
    Ok(())
}

fn enable(directory: &Path, text: &str) -> Result<()> {
    let file = directory.join("cgroup.subtree_control");
    put(&file, text).during("enable controllers", format_args!("{text} in {}", file.display()))
}

/// Adds to an error what it means here, for creating and for joining.
pub(super) fn explain(mut error: Error) -> Error {
    match error.errno() {
        libc::EBUSY => error.subject.push_str(
            " (a cgroup with processes of its own cannot have limited children, and the reverse; choose another place \
             for the container's)",
        ),
        libc::EOPNOTSUPP => error.subject.push_str(
            " (it is in a threaded subtree, which takes threads only; choose another place for the container's cgroup)",
        ),
        _ => {}
    }
    error
}

/// Whether the caller is at the root of its cgroup namespace, and this is it: then all members are of the same container,
/// and they may be moved.
fn is_own_root(directory: &Path) -> bool {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let at_root = own.lines().any(|line| line == "0::/");
    let me = std::process::id().to_string();
    at_root && read(&directory.join("cgroup.procs")).is_ok_and(|text| text.lines().any(|pid| pid == me))
}

/// Moves every process of `directory` into a child of it.
fn step_aside(directory: &Path) -> Result<()> {
    let aside = directory.join(ASIDE);
    match fs::create_dir(&aside) {
        Err(error) if error.source.kind() != ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let target = aside.join("cgroup.procs");
    // What is forked meanwhile is found by the next round; a process moves only once.
    for _ in 0..64 {
        let members = read(&directory.join("cgroup.procs"))?;
        if members.trim().is_empty() {
            return Ok(());
        }
        for pid in members.lines() {
            match put(&target, pid) {
                // It has ended.
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                other => other.during("move process", format_args!("{pid} into {}", aside.display()))?,
            }
        }
    }
    let busy = rustix::io::Errno::BUSY;
    Err(Error::new("move the processes of", directory.display().to_string(), busy))
}
