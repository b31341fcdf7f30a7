//! One cgroup by the same path in every hierarchy: made, entered, renamed, listed, removed.

use std::fmt::Display;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use gantry_linux::{Error, Result, ResultExt, fs};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::hierarchies::{Hierarchies, Hierarchy, Version};

/// No cgroup file that we read is longer than this.
const FILE_LIMIT: u64 = 1 << 20;
/// Deeper nesting inside a container's cgroup is refused, not followed.
const DEPTH_LIMIT: usize = 32;

/// A container's cgroup. Dropping it removes nothing: the cgroup outlives the daemon.
#[derive(Debug, Clone)]
pub struct Leaf {
    pub(super) hierarchies: Hierarchies,
    path: String,
}

/// Where a leaf is in one hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeafPath {
    /// The directory's name below `/sys/fs/cgroup`, e.g. `cpu,cpuacct`; empty for a lone v2 tree.
    pub name: String,
    /// Controllers as in the middle field of `/proc/self/cgroup`.
    pub controllers: String,
    /// The path in the hierarchy, as in the last field of `/proc/self/cgroup`.
    pub relative: String,
    /// The directory on the host.
    pub directory: PathBuf,
}

impl Leaf {
    /// Makes the cgroup `path` (absolute, as `/gantry/<hash>/<name>`) with its parents in every hierarchy.
    ///
    /// On failure the leaf's own directories that were made are removed again; parents stay, they are shared.
    pub fn create(hierarchies: &Hierarchies, path: &str) -> Result<Self> {
        let leaf = Self::open(hierarchies, path)?;
        let mut made = Vec::new();
        for hierarchy in hierarchies.all() {
            if let Err(error) = create_in(hierarchies.version(), hierarchy, &leaf.path) {
                for directory in made {
                    // The first error is the one that matters; an empty leaf left behind is removed by name later.
                    let _ = fs::remove_dir(directory);
                }
                return Err(error);
            }
            made.push(leaf.directory(hierarchy));
        }
        Ok(leaf)
    }

    /// Names a cgroup without touching it: to take over the leaf of a container that is already there.
    pub fn open(hierarchies: &Hierarchies, path: &str) -> Result<Self> {
        let good = path.strip_prefix('/').is_some_and(|p| p.split('/').all(valid_name));
        if !good {
            return Err(invalid("name cgroup", path, "not an absolute path of plain names"));
        }
        Ok(Self { hierarchies: hierarchies.clone(), path: path.to_owned() })
    }

    /// The path within each hierarchy.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The leaf's directory in every hierarchy, for mounts inside the container and for `/proc/self/cgroup`'s view.
    #[must_use]
    pub fn paths(&self) -> Vec<LeafPath> {
        let v1 = self.hierarchies.version() == Version::V1;
        let one = |h: &Hierarchy| LeafPath {
            name: if v1 { base_name(&h.mount) } else { String::new() },
            controllers: if v1 { h.controllers.join(",") } else { String::new() },
            relative: self.path.clone(),
            directory: self.directory(h),
        };
        self.hierarchies.all().iter().map(one).collect()
    }

    /// Moves a process (0: the caller) into the leaf, in every hierarchy.
    pub fn join(&self, pid: u32) -> Result<()> {
        let text = pid.to_string();
        for hierarchy in self.hierarchies.all() {
            let procs = self.directory(hierarchy).join("cgroup.procs");
            write_file(&procs, text.as_bytes())
                .during("move process", format_args!("{pid} into {}", procs.display()))?;
        }
        Ok(())
    }

    /// Opens `cgroup.procs` of every hierarchy, for [`join_by_fds`] in a process that must not open anything.
    pub fn procs_fds(&self) -> Result<Vec<OwnedFd>> {
        let open = |h: &Hierarchy| {
            let file = fs::open_with(self.directory(h).join("cgroup.procs"), OpenOptions::new().write(true))?;
            Ok(file.into())
        };
        self.hierarchies.all().iter().map(open).collect()
    }

    /// Opens the leaf's directory on v2, for `CLONE_INTO_CGROUP`; `None` on v1.
    pub fn clone_into_fd(&self) -> Result<Option<OwnedFd>> {
        match self.hierarchies.version() {
            Version::V1 => Ok(None),
            Version::V2 => Ok(Some(fs::open(self.directory(&self.hierarchies.all()[0]))?.into())),
        }
    }

    /// Gives the leaf another name beside its siblings; its members stay. v1 only: cgroup2 cannot rename.
    ///
    /// Where one hierarchy refuses, those already renamed get their old name back.
    pub fn rename(&mut self, name: &str) -> Result<()> {
        if !valid_name(name) {
            return Err(invalid("rename cgroup", &self.path, "the new name is not a plain name"));
        }
        if self.hierarchies.version() == Version::V2 {
            let why = "cgroup2 cannot rename; create the leaf under its final name";
            return Err(unsupported("rename cgroup", &self.path, why));
        }
        let parent = self.path.rfind('/').unwrap_or(0);
        let renamed = Self { hierarchies: self.hierarchies.clone(), path: format!("{}/{name}", &self.path[..parent]) };
        for (done, hierarchy) in self.hierarchies.all().iter().enumerate() {
            if let Err(mut error) = fs::rename(self.directory(hierarchy), renamed.directory(hierarchy)) {
                for undone in &self.hierarchies.all()[..done] {
                    if let Err(second) = fs::rename(renamed.directory(undone), self.directory(undone)) {
                        error.subject = format!("{} (and then: {second})", error.subject);
                    }
                }
                return Err(error);
            }
        }
        self.path = renamed.path;
        Ok(())
    }

    /// Every process of the leaf and of the cgroups that the container made below it.
    pub fn procs(&self) -> Result<Vec<u32>> {
        let mut pids = Vec::new();
        collect_procs(&self.directory(self.membership()), 0, &mut pids)?;
        Ok(pids)
    }

    /// Removes the leaf and all below it in every hierarchy; waits until `deadline` for members to be gone.
    ///
    /// Goes on after a failure and returns all of them. What is not there counts as removed.
    pub fn remove(&self, deadline: Instant) -> std::result::Result<(), Vec<Error>> {
        let remove = |h| remove_tree(&self.directory(h), 0, deadline).err();
        let errors: Vec<Error> = self.hierarchies.all().iter().filter_map(remove).collect();
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    /// The hierarchy that answers who is a member: all agree, these are cheapest to ask.
    pub(super) fn membership(&self) -> &Hierarchy {
        let found = ["freezer", "pids"].iter().find_map(|c| self.hierarchies.controller(c));
        found.unwrap_or(&self.hierarchies.all()[0])
    }

    pub(super) fn directory(&self, hierarchy: &Hierarchy) -> PathBuf {
        let mut directory = PathBuf::with_capacity(hierarchy.mount.as_os_str().len() + self.path.len() + 40);
        directory.push(&hierarchy.mount);
        directory.push(&self.path[1..]);
        directory
    }

    /// The path of a controller's file, or an error that says what to do about the missing controller.
    pub(super) fn file(&self, controller: &str, name: &str) -> Result<PathBuf> {
        let hierarchy = match self.hierarchies.version() {
            Version::V1 => self.hierarchies.controller(controller),
            Version::V2 => self.hierarchies.all().first().filter(|h| controller == "cgroup" || h.has(controller)),
        };
        let Some(hierarchy) = hierarchy else {
            return Err(unsupported("use controller", controller, "it is not mounted; enable it or drop the limit"));
        };
        let mut path = self.directory(hierarchy);
        path.push(name);
        Ok(path)
    }
}

/// Moves the calling process into the leaf whose [`Leaf::procs_fds`] these are. Allocates nothing unless it fails.
pub fn join_by_fds(fds: &[impl AsFd]) -> Result<()> {
    for fd in fds {
        rustix::io::write(fd, b"0").during("enter", "own cgroup")?;
    }
    Ok(())
}

fn create_in(version: Version, hierarchy: &Hierarchy, path: &str) -> Result<()> {
    let mut directory = hierarchy.mount.clone();
    for name in path[1..].split('/') {
        if version == Version::V2 {
            delegate(&directory, &hierarchy.controllers)?;
        }
        let parent = directory.clone();
        directory.push(name);
        match fs::create_dir(&directory) {
            Ok(()) => {}
            Err(error) if error.source.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        if hierarchy.has("cpuset") && version == Version::V1 {
            inherit_cpuset(&parent, &directory)?;
        }
    }
    Ok(())
}

/// A v1 cpuset starts empty and takes no task until it has both lists.
fn inherit_cpuset(parent: &Path, child: &Path) -> Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let target = child.join(file);
        if read_file(&target)?.trim().is_empty() {
            fs::write(&target, read_file(&parent.join(file))?.trim())?;
        }
    }
    Ok(())
}

/// Passes the v2 controllers on to a directory's children.
fn delegate(directory: &Path, controllers: &[String]) -> Result<()> {
    let file = directory.join("cgroup.subtree_control");
    let enabled = read_file(&file)?;
    let missing = |c: &&String| !enabled.split_whitespace().any(|e| e == *c);
    let wanted: Vec<String> = controllers.iter().filter(missing).map(|c| format!("+{c}")).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let text = wanted.join(" ");
    write_file(&file, text.as_bytes()).during("enable controllers", format_args!("{text} in {}", file.display()))
}

fn collect_procs(directory: &Path, depth: usize, pids: &mut Vec<u32>) -> Result<()> {
    let procs = match read_file(&directory.join("cgroup.procs")) {
        Ok(text) => text,
        Err(error) if gone(&error) => return Ok(()),
        Err(error) => return Err(error),
    };
    pids.extend(procs.lines().filter_map(|l| l.parse::<u32>().ok()));
    for child in children(directory, depth)? {
        collect_procs(&child, depth + 1, pids)?;
    }
    Ok(())
}

fn children(directory: &Path, depth: usize) -> Result<Vec<PathBuf>> {
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

fn remove_tree(directory: &Path, depth: usize, deadline: Instant) -> Result<()> {
    loop {
        let error = match fs::remove_dir(directory) {
            Ok(()) => return Ok(()),
            Err(error) if gone(&error) => return Ok(()),
            Err(error) if error.errno() == libc::EBUSY => error,
            Err(error) => return Err(error),
        };
        for child in children(directory, depth)? {
            remove_tree(&child, depth + 1, deadline)?;
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

fn gone(error: &Error) -> bool {
    error.is_not_found() || error.errno() == libc::ENODEV
}

fn valid_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= 255 && name != "." && name != ".." && !name.contains(['/', '\n', '\0'])
}

fn base_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Reads a cgroup file, bounded.
pub(super) fn read_file(path: &Path) -> Result<String> {
    let mut text = String::new();
    fs::open(path)?.take(FILE_LIMIT).read_to_string(&mut text).during("read", path.display())?;
    Ok(text)
}

/// One write(2), without creating or truncating.
pub(super) fn write_file(path: &Path, data: &[u8]) -> std::io::Result<()> {
    OpenOptions::new().write(true).open(path)?.write_all(data)
}

pub(super) fn unsupported(operation: &'static str, subject: impl Display, why: &'static str) -> Error {
    Error::new(operation, subject.to_string(), std::io::Error::new(ErrorKind::Unsupported, why))
}

fn invalid(operation: &'static str, subject: impl Display, why: &'static str) -> Error {
    Error::new(operation, subject.to_string(), std::io::Error::new(ErrorKind::InvalidInput, why))
}
