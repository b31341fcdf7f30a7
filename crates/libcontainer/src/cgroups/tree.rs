//! One directory of one hierarchy: made with what a container needs above it, walked, removed.

use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use gantry_linux::{Result, ResultExt, fs};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::delegation::delegate;
use super::files::{gone, invalid, put, read};
use super::hierarchies::{Hierarchy, Version};

/// Deeper nesting inside a container's cgroup is refused, not followed.
const DEPTH_LIMIT: usize = 32;

/// Makes the cgroup `path` with its parents; whether it is new. Where the parent is there, as it is for all but a
/// machine's first container, that is one call on v1 and four on v2.
pub(super) fn make(version: Version, hierarchy: &Hierarchy, path: &str) -> Result<bool> {
    let leaf = hierarchy.directory(path);
    let parent = leaf.parent().unwrap_or(&leaf);
    let quick = match version {
        Version::V1 => make_one(&leaf),
        Version::V2 => delegate(parent, &hierarchy.controllers).and_then(|()| make_one(&leaf)),
    };
    let new = match quick {
        Err(error) if error.is_not_found() => make_parents(version, hierarchy, path)?,
        other => other?,
    };
    if version == Version::V1 && hierarchy.has("cpuset") {
        inherit_cpuset(parent, &leaf)?;
    }
    Ok(new)
}

fn make_one(directory: &Path) -> Result<bool> {
    match fs::create_dir(directory) {
        Ok(()) => Ok(true),
        Err(error) if error.source.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

/// From the base down to the leaf.
fn make_parents(version: Version, hierarchy: &Hierarchy, path: &str) -> Result<bool> {
    let mut directory = hierarchy.directory("");
    let mut new = false;
    for name in path[1..].split('/') {
        let passed_on = match version {
            Version::V1 => Ok(()),
            Version::V2 => super::delegation::delegate_what_there_is(&directory),
        };
        let parent = directory.clone();
        directory.push(name);
        match passed_on {
            Ok(()) => {}
            // Above a subtree that was delegated to us nothing can be changed, and need not be.
            Err(error) if is_refusal(error.errno()) && fs::metadata(&directory).is_ok() => {}
            Err(error) => return Err(error),
        }
        new = make_one(&directory)?;
        if version == Version::V1 && hierarchy.has("cpuset") && new {
            inherit_cpuset(&parent, &directory)?;
            // From now on the kernel copies the lists, into the leaves as well.
            put(&directory.join("cgroup.clone_children"), "1").during("set", directory.display())?;
        }
    }
    Ok(new)
}

/// Whether the kernel said that the caller may not.
pub(super) fn is_refusal(errno: i32) -> bool {
    matches!(errno, libc::EPERM | libc::EACCES | libc::EROFS)
}

/// A v1 cpuset starts empty, unless its parent's are cloned, and takes no task until it has both lists.
fn inherit_cpuset(parent: &Path, child: &Path) -> Result<()> {
    if !read(&child.join("cpuset.mems"))?.trim().is_empty() {
        return Ok(());
    }
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let list = read(&parent.join(file))?;
        put(&child.join(file), list.trim()).during("set", format_args!("{file} of {}", child.display()))?;
    }
    Ok(())
}

/// Adds the processes of `directory` and all below it.
pub(super) fn collect_procs(directory: &Path, depth: usize, pids: &mut Vec<u32>) -> Result<()> {
    let procs = match read(&directory.join("cgroup.procs")) {
        Ok(text) => text,
        Err(error) if gone(&error) => return Ok(()),
        // The processes of a threaded cgroup are listed by its domain, which is above it.
        Err(error) if error.errno() == libc::EOPNOTSUPP => String::new(),
        Err(error) => return Err(error),
    };
    pids.extend(procs.lines().filter_map(|l| l.parse::<u32>().ok()));
    for child in children(directory, depth)? {
        collect_procs(&child, depth + 1, pids)?;
    }
    Ok(())
}

/// The cgroups directly below.
pub(super) fn children(directory: &Path, depth: usize) -> Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(directory).during("list", directory.display()) {
        Ok(entries) => entries,
        Err(error) if gone(&error) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let is_directory = |e: &std::fs::DirEntry| e.file_type().is_ok_and(|t| t.is_dir());
    let found: Vec<PathBuf> = entries.flatten().filter(is_directory).map(|e| e.path()).collect();
    if depth >= DEPTH_LIMIT && !found.is_empty() {
        return Err(invalid("walk cgroup", directory.display(), "nested too deeply; remove its children by hand"));
    }
    Ok(found)
}

/// Removes `directory` and all below it; waits until `deadline` for members to be gone.
pub(super) fn remove(directory: &Path, depth: usize, deadline: Instant) -> Result<()> {
    loop {
        let error = match fs::remove_dir(directory) {
            Ok(()) => return Ok(()),
            Err(error) if gone(&error) => return Ok(()),
            Err(error) if error.errno() == libc::EBUSY => error,
            Err(error) => return Err(error),
        };
        for child in children(directory, depth)? {
            remove(&child, depth + 1, deadline)?;
        }
        if Instant::now() >= deadline {
            return Err(error);
        }
        let mut pids = Vec::new();
        collect_procs(directory, depth, &mut pids)?;
        wait_for_exit(&open_pidfds(&pids), deadline)?;
    }
}

/// Handles on those of `pids` that still run.
pub(super) fn open_pidfds(pids: &[u32]) -> Vec<OwnedFd> {
    let open = |pid: &u32| {
        let pid = Pid::from_raw(i32::try_from(*pid).ok()?)?;
        pidfd_open(pid, PidfdFlags::empty()).ok()
    };
    pids.iter().filter_map(open).collect()
}

/// Waits until one of the processes has exited or the deadline has come; with none, only lets the kernel finish
/// (a task leaves its cgroup a moment after its process is seen to have exited, and no event tells).
pub(super) fn wait_for_exit(pidfds: &[OwnedFd], deadline: Instant) -> Result<()> {
    let left = deadline.saturating_duration_since(Instant::now());
    let longest = if pidfds.is_empty() { Duration::from_micros(200) } else { Duration::from_millis(100) };
    let timeout = left.min(longest).try_into().unwrap_or_default();
    let mut polled: Vec<PollFd<'_>> = pidfds.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
    match poll(&mut polled, Some(&timeout)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error).during("wait for", "the members of a cgroup"),
    }
}
