//! A first process that is made in stages: it waits until its parent has prepared what only a parent can, for hooks, and
//! with everything complete for the order to start.

use std::convert::Infallible;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use gantry_linux::mount::move_to;
use gantry_linux::netlink::Socket;
use gantry_linux::process::{self, CloneFlags};
use gantry_linux::{Error as SystemError, ResultExt, socket};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::process::{Gid, Uid};

use super::start::{Report, send};
use super::{hooks, rootfs};
use crate::cgroups::Leaf;
use crate::config::{Config, Namespace, Propagation, TimeOffsets};
use crate::error::{Error, Result};
use crate::network::link;
use crate::oci::{Hooks, State, Status};

/// What it has beside everything that a first process has.
#[derive(Debug)]
pub struct Staged {
    /// Entered by the process itself, with the parent's word; `None`: the parent puts it there.
    pub cgroup: Option<Leaf>,
    /// Namespaces that it makes for itself, in its cgroup and with its user ids: cgroup and time.
    pub own: CloneFlags,
    /// It is in a user namespace that is not its parent's.
    pub in_user_namespace: bool,
    /// The root, attached nowhere; `None` is made from the configuration.
    pub root: Option<OwnedFd>,
    /// Its mount namespace is the caller's, and there the root is attached already.
    pub shares_mounts: bool,
    /// The binds' sources are opened by it: where nobody else has the right to, and where they are the same for it.
    pub opens_sources: bool,
    /// Programs to run on the way.
    pub hooks: Hooks,
    /// For the hooks: the container, its process not filled in.
    pub state: State,
    /// The parent has something to do when everything is mounted.
    pub stop_when_mounted: bool,
    /// Who connects here starts the program, and is told how that went.
    pub listener: OwnedFd,
    /// The root is moved, and what was `/` stays beneath it.
    pub no_pivot: bool,
    /// Descriptors 3, 4 … of this number are the program's.
    pub passed: u32,
    /// There is no program: the order to start ends it.
    pub idle: bool,
}

/// Waits for the parent's word to go on; without a parent there is nothing to go on for.
fn await_word(report: &OwnedFd) -> Result<()> {
    match socket::receive(report)? {
        Some(_) => Ok(()),
        None => process::exit_now(1),
    }
}

/// Becomes the user 0 of a user namespace that was entered: files made from here on have an owner in it. Without a
/// mapping of 0 the ids stay what they are.
pub fn become_root() -> Result<()> {
    let kept = |result: rustix::io::Result<()>, what: &str| match result {
        // EPERM: the namespace denies setgroups, or has no mapping.
        Ok(()) | Err(Errno::INVAL | Errno::PERM) => Ok(()),
        Err(error) => Err(SystemError::new("become", what.to_owned(), error)),
    };
    kept(rustix::thread::set_thread_groups(&[]), "a member of no group")?;
    let (gid, uid) = (Gid::ROOT, Uid::ROOT);
    kept(rustix::thread::set_thread_res_gid(gid, gid, gid), "group 0 of the user namespace")?;
    Ok(kept(rustix::thread::set_thread_res_uid(uid, uid, uid), "user 0 of the user namespace")?)
}

/// Makes the root `/` of this process alone.
pub(super) fn change_root(root: impl AsFd) -> Result<()> {
    rustix::process::fchdir(&root).during("enter", "the root")?;
    rustix::process::chroot(".").during("change to", "the root")?;
    Ok(rustix::process::chdir("/").during("enter", "/")?)
}

/// Attaches a prepared root at `stage`, or over `/` where a user namespace keeps it from getting there.
pub(super) fn mount_root(tree: &OwnedFd, stage: &Path) -> Result<OwnedFd> {
    let open = |path: &Path| {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat(CWD, path, flags, Mode::empty())
    };
    let place = match open(stage) {
        Err(Errno::ACCESS) => open(Path::new("/")),
        other => other,
    };
    move_to(tree, place.during("open", stage.display())?, stage.display())?;
    Ok(tree.try_clone().during("duplicate", "the root")?)
}

/// Moves the mounted root over `/`: for a `/` that cannot be pivoted from.
fn move_root(root: impl AsFd) -> Result<()> {
    rustix::process::fchdir(&root).during("enter", "the root")?;
    rustix::mount::mount_move(".", "/").during("move to /", "the root")?;
    change_root(root)
}

/// Sets how mount events pass between `/` and the mounts that are copied from it later.
pub fn propagate_root(propagation: Propagation) -> Result<()> {
    let (kind, recursive) = match propagation {
        Propagation::Private => (MountPropagationFlags::PRIVATE, false),
        Propagation::RPrivate => (MountPropagationFlags::PRIVATE, true),
        Propagation::Slave => (MountPropagationFlags::DOWNSTREAM, false),
        Propagation::RSlave => (MountPropagationFlags::DOWNSTREAM, true),
        Propagation::Shared => (MountPropagationFlags::SHARED, false),
        Propagation::RShared => (MountPropagationFlags::SHARED, true),
        Propagation::Unbindable => (MountPropagationFlags::UNBINDABLE, false),
        Propagation::RUnbindable => (MountPropagationFlags::UNBINDABLE, true),
    };
    let flags = if recursive { kind | MountPropagationFlags::REC } else { kind };
    Ok(mount_change("/", flags).during("change propagation of", "/ of the container")?)
}

impl Staged {
    /// Waits until the parent has prepared what only that can, and enters the cgroup.
    pub(super) fn begin(&self, report: &OwnedFd) -> Result<()> {
        await_word(report)?;
        Ok(self.cgroup.as_ref().map_or(Ok(()), Leaf::join_self)?)
    }

    /// Makes the namespaces that are its own business, after the parent's word.
    pub(super) fn enter_own(&self, config: &Config) -> Result<()> {
        if self.own.contains(CloneFlags::NEWTIME) {
            enter_new_time(&config.time_offsets)?;
        }
        if self.own.contains(CloneFlags::NEWCGROUP) {
            process::unshare(CloneFlags::NEWCGROUP)?;
        }
        if self.in_user_namespace {
            become_root()?;
        }
        if config.namespaces.net == Namespace::New {
            raise_loopback()?;
        }
        Ok(())
    }

    /// The root, attached in this process's mount namespace.
    pub(super) fn root(&self, config: &Config, stage: &Path) -> Result<OwnedFd> {
        match &self.root {
            Some(root) if self.shares_mounts => Ok(root.try_clone().during("duplicate", "the root")?),
            Some(tree) => mount_root(tree, stage),
            None => rootfs::mount(&config.root, stage),
        }
    }

    /// Makes it `/`.
    pub(super) fn pivot(&self, root: &OwnedFd) -> Result<()> {
        match (self.shares_mounts, self.no_pivot) {
            (true, _) => change_root(root),
            (false, true) => move_root(root),
            (false, false) => rootfs::pivot(root),
        }
    }

    /// With everything mounted and `/` still the host's.
    pub(super) fn mounted(&self, report: &OwnedFd) -> Result<()> {
        if self.stop_when_mounted {
            send(report, &Report::Mounted, &[])?;
            await_word(report)?;
        }
        hooks::run(&self.hooks.create_container, "createContainer", &self.state(Status::Creating), None, None)
    }

    /// With everything complete: whoever connects is told from now on what was told to the parent before. A parent that
    /// ended before it wrote down that there is a container has left nobody who would ever start it.
    pub(super) fn await_start(&self, report: &OwnedFd) -> Result<()> {
        send(report, &Report::Created, &[])?;
        await_word(report)?;
        let connection = loop {
            let mut watched = [PollFd::new(&self.listener, PollFlags::IN)];
            match poll(&mut watched, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(SystemError::new("wait for", "the order to start", error).into()),
            }
            if let Some(connection) = socket::accept(&self.listener)? {
                break connection;
            }
        };
        process::replace(report, &connection)?;
        hooks::run(&self.hooks.start_container, "startContainer", &self.state(Status::Created), None, None)
    }

    /// As [`Self::await_start`], for a configuration that has no process; the end is what it has in place of a program.
    pub(super) fn await_end(&self, report: &OwnedFd) -> Result<Infallible> {
        self.await_start(report)?;
        let text = "config.json has no process: there is no program to start, and the container has stopped";
        send(report, &Report::Warning(text.into()), &[])?;
        process::exit_now(0)
    }

    /// The process as the container itself sees it.
    fn state(&self, status: Status) -> State {
        State { status, pid: rustix::process::getpid().as_raw_nonzero().get(), ..self.state.clone() }
    }
}

/// In a new network namespace it is the first device, and down.
fn raise_loopback() -> Result<()> {
    Ok(Socket::route()?.transact(vec![link::raise(1, "lo")])?)
}

/// The new namespace is for children only, until it is entered by name; then its clocks cannot be set any more.
fn enter_new_time(offsets: &TimeOffsets) -> Result<()> {
    process::unshare(CloneFlags::NEWTIME)?;
    let clocks = [("monotonic", offsets.monotonic), ("boottime", offsets.boottime)];
    let lines: String = clocks
        .iter()
        .filter_map(|(clock, offset)| offset.map(|(seconds, nanoseconds)| format!("{clock} {seconds} {nanoseconds}\n")))
        .collect();
    if !lines.is_empty() {
        gantry_linux::fs::write("/proc/self/timens_offsets", &lines).map_err(|error| match error.errno() {
            libc::ERANGE => Error::Invalid(format!("time offsets {:?}: a clock would be negative", lines.trim())),
            _ => error.into(),
        })?;
    }
    let path = "/proc/self/ns/time_for_children";
    let namespace = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).during("open", path)?;
    Ok(process::setns(&namespace, CloneFlags::NEWTIME, path)?)
}
