//! One cgroup by the same path in every hierarchy: made, entered, renamed, listed, removed.

use std::fs::OpenOptions;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Instant;

use gantry_linux::{Error, Result, ResultExt, fs};
use serde::{Deserialize, Serialize};

use super::files::{invalid, put, read_optional, unsupported};
use super::hierarchies::{Hierarchies, Hierarchy, Version};
use super::{delegation, tree};

/// A container's cgroup. Dropping it removes nothing: the cgroup outlives whoever made it. Serialised it is found again
/// by another process, wherever that one is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaf {
    pub(super) hierarchies: Hierarchies,
    path: String,
    /// Made where permitted only: what the kernel refuses for want of permission is said and left.
    #[serde(default)]
    pub(super) lenient: bool,
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

/// A cgroup that was made, and what could not be done.
#[derive(Debug)]
pub struct Made {
    /// The cgroup, in the hierarchies where it could be made.
    pub leaf: Leaf,
    /// It was not there before, in any of them.
    pub new: bool,
    /// For people.
    pub warnings: Vec<String>,
}

impl Leaf {
    /// Makes the cgroup `path` (absolute, as `/gantry/<hash>/<name>`) with its parents in every hierarchy.
    ///
    /// On failure the leaf's own directories that were made are removed again; parents stay, they are shared.
    pub fn create(hierarchies: &Hierarchies, path: &str) -> Result<Self> {
        Ok(Self::open(hierarchies, path)?.make()?.leaf)
    }

    /// The same, but made and joined only where the caller may: hierarchies in which that is refused (not root, a read-only
    /// mount, a mount that is gone) are left out. There the container stays in the caller's own cgroup, and a warning says
    /// so; limits that need one of those are refused by [`Self::apply`].
    #[must_use]
    pub(super) fn where_permitted(self, lenient: bool) -> Self {
        Self { lenient, ..self }
    }

    /// Whether hierarchies are left out where the caller may not make or enter it.
    pub(crate) fn is_lenient(&self) -> bool {
        self.lenient
    }

    /// Makes it, saying whether it is new.
    pub(super) fn make(mut self) -> Result<Made> {
        let hierarchies = self.hierarchies.clone();
        let (mut made, mut refused, mut new) = (Vec::new(), Vec::new(), true);
        for hierarchy in hierarchies.all() {
            match tree::make(hierarchies.version(), hierarchy, &self.path) {
                Ok(true) => made.push(self.directory(hierarchy)),
                Ok(false) => new = false,
                Err(error) if self.lenient && (tree::is_refusal(error.errno()) || error.is_not_found()) => {
                    refused.push((hierarchy.mount.clone(), error));
                }
                Err(error) => {
                    for directory in made {
                        // The first error is the one that matters; an empty leaf left behind is removed by name later.
                        let _ = fs::remove_dir(directory);
                    }
                    return Err(error);
                }
            }
        }
        let warnings = self.leave_out(&refused, "make cgroup");
        Ok(Made { leaf: self, new, warnings })
    }

    /// Goes on without these hierarchies; one warning for all.
    fn leave_out(&mut self, refused: &[(PathBuf, Error)], operation: &str) -> Vec<String> {
        let Some((_, first)) = refused.first() else { return Vec::new() };
        self.hierarchies = self.hierarchies.only(|h| refused.iter().all(|(mount, _)| *mount != h.mount));
        let names: Vec<String> = refused.iter().map(|(mount, _)| base_name(mount)).collect();
        vec![format!(
            "cannot {operation} {} in {}: {}; the container stays in the caller's own there, without limits",
            self.path,
            names.join(", "),
            first.source
        )]
    }

    /// Names a cgroup without touching it: to take over the leaf of a container that is already there.
    pub fn open(hierarchies: &Hierarchies, path: &str) -> Result<Self> {
        let good = path.strip_prefix('/').is_some_and(|p| p.split('/').all(valid_name));
        if !good {
            return Err(invalid("name cgroup", path, "not an absolute path of plain names"));
        }
        Ok(Self { hierarchies: hierarchies.clone(), path: path.to_owned(), lenient: false })
    }

    /// The cgroup `name` (one name or several, separated by `/`) below this one; it is not touched.
    pub fn below(&self, name: &str) -> Result<Self> {
        Ok(Self { lenient: self.lenient, ..Self::open(&self.hierarchies, &format!("{}/{name}", self.path))? })
    }

    /// Where a member is now: in this cgroup, or in one below it. `None` on v1, where there may be as many answers as
    /// hierarchies, and for a process that is elsewhere.
    pub fn place_of(&self, pid: i32) -> Result<Option<Self>> {
        let (Version::V2, Some(only)) = (self.hierarchies.version(), self.hierarchies.all().first()) else {
            return Ok(None);
        };
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
        let place = text.lines().find_map(|line| line.strip_prefix("0::"));
        let below = place.and_then(|place| place.strip_prefix(only.name(&self.path).as_str()));
        match below {
            Some("") => Ok(Some(self.clone())),
            Some(below) => below.strip_prefix('/').map(|below| self.below(below)).transpose(),
            None => Ok(None),
        }
    }

    /// The path within each hierarchy, from its base.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The hierarchies that it is in.
    #[must_use]
    pub fn hierarchies(&self) -> &Hierarchies {
        &self.hierarchies
    }

    /// Whether it is there, in any hierarchy.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.hierarchies.all().iter().any(|h| fs::metadata(self.directory(h)).is_ok())
    }

    /// The leaf's directory in every hierarchy, for mounts inside the container and for `/proc/self/cgroup`'s view.
    #[must_use]
    pub fn paths(&self) -> Vec<LeafPath> {
        let v1 = self.hierarchies.version() == Version::V1;
        let one = |h: &Hierarchy| LeafPath {
            name: if v1 { base_name(&h.mount) } else { String::new() },
            controllers: if v1 { h.controllers.join(",") } else { String::new() },
            relative: h.name(&self.path),
            directory: self.directory(h),
        };
        self.hierarchies.all().iter().map(one).collect()
    }

    /// Moves a process into the leaf, in every hierarchy. See [`Self::join_where_permitted`] and [`Self::join_self`].
    pub fn join(&self, pid: u32) -> Result<()> {
        self.hierarchies.all().iter().try_for_each(|hierarchy| self.join_one(hierarchy, pid))
    }

    /// Moves the calling process, which must have a single thread, into the leaf, in every hierarchy.
    ///
    /// On cgroup v1 it goes there as a thread. That is the one way which the kernel goes without the lock that stops every fork
    /// and exit of the machine, and that is waited for for 10 to 15 ms when nobody has taken it for a while.
    pub fn join_self(&self) -> Result<()> {
        let file = match self.hierarchies.version() {
            Version::V1 => "tasks",
            Version::V2 => "cgroup.procs",
        };
        for hierarchy in self.hierarchies.all() {
            let file = self.directory(hierarchy).join(file);
            put(&file, "0").during("enter cgroup by", file.display()).map_err(delegation::explain)?;
        }
        Ok(())
    }

    /// As [`Self::join`]; a leaf of a container that does without where it must goes on without the hierarchies that refuse
    /// for want of permission, and a warning says so.
    pub fn join_where_permitted(&mut self, pid: u32) -> Result<Vec<String>> {
        if !self.lenient {
            return self.join(pid).map(|()| Vec::new());
        }
        let mut refused = Vec::new();
        for hierarchy in self.hierarchies.all() {
            match self.join_one(hierarchy, pid) {
                Err(error) if tree::is_refusal(error.errno()) => {
                    // It would be nobody's.
                    let _ = fs::remove_dir(self.directory(hierarchy));
                    refused.push((hierarchy.mount.clone(), error));
                }
                other => other?,
            }
        }
        Ok(self.leave_out(&refused, "enter cgroup"))
    }

    fn join_one(&self, hierarchy: &Hierarchy, pid: u32) -> Result<()> {
        let procs = self.directory(hierarchy).join("cgroup.procs");
        put(&procs, &pid.to_string())
            .during("move process", format_args!("{pid} into {}", procs.display()))
            .map_err(delegation::explain)
    }

    /// Opens `cgroup.procs` of every hierarchy, for [`join_by_fds`] in a process that must not open anything.
    pub fn procs_fds(&self) -> Result<Vec<OwnedFd>> {
        let open = |h: &Hierarchy| {
            let file = fs::open_with(self.directory(h).join("cgroup.procs"), OpenOptions::new().write(true))?;
            Ok(file.into())
        };
        self.hierarchies.all().iter().map(open).collect()
    }

    /// Opens the leaf's directory on v2, for `CLONE_INTO_CGROUP`; `None` on v1 and where there is no leaf.
    ///
    /// A clone that is answered by `EOPNOTSUPP` was to be born in a threaded cgroup, by `EBUSY` in one with limited
    /// children.
    pub fn clone_into_fd(&self) -> Result<Option<OwnedFd>> {
        match (self.hierarchies.version(), self.hierarchies.all().first()) {
            (Version::V2, Some(only)) => Ok(Some(fs::open(self.directory(only))?.into())),
            _ => Ok(None),
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
        let renamed = Self { path: format!("{}/{name}", &self.path[..parent]), ..self.clone() };
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

    /// Every process of the leaf and of the cgroups that the container made below it; none where there is no leaf.
    pub fn procs(&self) -> Result<Vec<u32>> {
        let mut pids = Vec::new();
        if let Some(hierarchy) = self.membership() {
            tree::collect_procs(&self.directory(hierarchy), 0, &mut pids)?;
        }
        Ok(pids)
    }

    /// Whether anybody is directly in it.
    pub(super) fn is_populated(&self) -> Result<bool> {
        let Some(hierarchy) = self.membership() else { return Ok(false) };
        Ok(read_optional(&self.directory(hierarchy).join("cgroup.procs"))?.is_some_and(|text| !text.trim().is_empty()))
    }

    /// Removes the leaf and all below it in every hierarchy; waits until `deadline` for members to be gone.
    ///
    /// Goes on after a failure and returns all of them. What is not there counts as removed.
    pub fn remove(&self, deadline: Instant) -> std::result::Result<(), Vec<Error>> {
        let remove = |h| tree::remove(&self.directory(h), 0, deadline).err();
        let errors: Vec<Error> = self.hierarchies.all().iter().filter_map(remove).collect();
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    /// The hierarchy that answers who is a member: all agree, these are cheapest to ask.
    pub(super) fn membership(&self) -> Option<&Hierarchy> {
        let found = ["freezer", "pids"].iter().find_map(|c| self.hierarchies.controller(c));
        found.or_else(|| self.hierarchies.all().first())
    }

    pub(super) fn directory(&self, hierarchy: &Hierarchy) -> PathBuf {
        hierarchy.directory(&self.path)
    }

    /// Whether files of this controller can be there.
    pub(super) fn has(&self, controller: &str) -> bool {
        self.hierarchies.controller(controller).is_some()
    }

    /// The path of a controller's file (`cgroup`: of the core of v2), or an error that says what to do about the missing
    /// controller.
    pub(super) fn file(&self, controller: &str, name: &str) -> Result<PathBuf> {
        let hierarchy = match (self.hierarchies.version(), controller) {
            (Version::V2, "cgroup") => self.hierarchies.all().first(),
            _ => self.hierarchies.controller(controller),
        };
        let Some(hierarchy) = hierarchy else {
            let why = if self.lenient {
                "the container has no cgroup there; have it delegated to the caller, or drop the limit"
            } else {
                "it is not mounted; enable it or drop the limit"
            };
            return Err(unsupported("use controller", controller, why));
        };
        let mut path = self.directory(hierarchy);
        path.push(name);
        Ok(path)
    }
}

/// Moves the calling process into the leaf whose [`Leaf::procs_fds`] these are. Allocates nothing unless it fails.
pub fn join_by_fds(fds: &[impl AsFd]) -> Result<()> {
    for fd in fds {
        rustix::io::write(fd, b"0").during("enter", "own cgroup").map_err(delegation::explain)?;
    }
    Ok(())
}

pub(super) fn valid_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= 255 && name != "." && name != ".." && !name.contains(['/', '\n', '\0'])
}

fn base_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
