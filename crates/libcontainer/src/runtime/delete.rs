//! The end of a container: its processes, its cgroup, its directory; then its poststop hooks.

use std::time::{Duration, Instant};

use gantry_linux::process;
use rustix::event::{PollFd, PollFlags, poll};

use super::{Container, cgroup, shared_root};
use crate::container::hooks;
use crate::error::{Error, Result};
use crate::oci::{Hooks, Status};

/// So long processes have to be gone after they were killed.
const REMOVAL: Duration = Duration::from_secs(10);

/// Removes it; returns the failures of poststop hooks.
pub fn delete(container: &Container, force: bool) -> Result<Vec<String>> {
    if force {
        // Before the lock, which whoever waits for the container's process holds.
        kill(container)?;
    }
    let (_lock, container) = &container.lock()?;
    match container.status()? {
        Status::Stopped => {}
        // It has lost its creator: we have the lock.
        Status::Creating => kill(container)?,
        _ if force => kill(container)?,
        Status::Created => {
            let id = container.id();
            return Err(Error::Conflict(format!(
                "cannot delete container {id} that is not stopped: created: start it, or delete it with --force"
            )));
        }
        status => {
            let id = container.id();
            return Err(Error::Conflict(format!("cannot delete container {id} that is not stopped: {status}")));
        }
    }
    // One that was given up early has no configuration, and no hooks that ran.
    let hooks = if container.record().complete { container.hooks()? } else { container.hooks().unwrap_or_default() };
    if let Some(leaf) = container.leaf() {
        let trouble = cgroup::remove(leaf, Instant::now() + REMOVAL);
        if !trouble.is_empty() {
            return Err(Error::Conflict(format!("cgroup of {} stays: {}", container.id(), trouble.join("; "))));
        }
    }
    if let Some(id) = container.record().shared_root {
        shared_root::remove(container.rootfs(), id)?;
    }
    container.directory().remove()?;
    Ok(poststop(container, &hooks))
}

fn poststop(container: &Container, hooks: &Hooks) -> Vec<String> {
    if hooks.poststop.is_empty() {
        return Vec::new();
    }
    let state = container.state_with(Status::Stopped);
    let bundle = Some(container.record().bundle.as_path()).filter(|bundle| bundle.is_dir());
    hooks::run_all(&hooks.poststop, "poststop", &state, bundle)
}

/// Kills every process and waits until the first one has ended.
fn kill(container: &Container) -> Result<()> {
    let record = container.record();
    let first = record.process();
    if first.is_none() && record.pid > 0 && record.own_pids {
        // All others of its pid namespace ended with it. Who else is in the cgroup is killed when that is removed.
        return Ok(());
    }
    if let Some(leaf) = container.leaf() {
        leaf.kill_all(Instant::now() + REMOVAL)?;
    }
    let Some(first) = first else { return Ok(()) };
    match process::pidfd_kill(&first, libc::SIGKILL) {
        Err(error) if error.errno() == libc::ESRCH => return Ok(()),
        other => other?,
    }
    let timeout = REMOVAL.try_into().unwrap_or_default();
    let mut watched = [PollFd::new(&first, PollFlags::IN)];
    match rustix::io::retry_on_intr(|| poll(&mut watched, Some(&timeout))) {
        Ok(0) => Err(Error::Conflict(format!("the first process of {} does not die", container.id()))),
        _ => Ok(()),
    }
}
