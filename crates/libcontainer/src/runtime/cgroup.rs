//! A container's cgroup: made for it, found again, removed; left out where an unprivileged caller may not have one.

use std::path::PathBuf;
use std::time::Instant;

use gantry_linux::{Error as SystemError, fs};

use crate::cgroups::{Hierarchies, Leaf};
use crate::config::Resources;
use crate::error::{Error, Result};

/// Makes it with its limits. One that has processes is somebody's and is refused. `None` with a warning when the caller
/// is not the machine's root and the kernel refuses.
pub fn make(path: &str, resources: &Resources, warnings: &mut Vec<String>) -> Result<Option<Leaf>> {
    match try_make(path, resources) {
        Ok((leaf, told)) => {
            warnings.extend(told);
            Ok(Some(leaf))
        }
        Err(Error::System(error)) if may_be_without(&error) && !is_machines_root() => {
            warnings.push(format!("the container has no cgroup and no limits: {error}"));
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn try_make(path: &str, resources: &Resources) -> Result<(Leaf, Vec<String>)> {
    let hierarchies = Hierarchies::discover()?;
    let leaf = Leaf::open(&hierarchies, path)?;
    let members = leaf.procs()?;
    if !members.is_empty() {
        let count = members.len();
        return Err(Error::Conflict(format!("container's cgroup {path} is not empty: {count} process(es) found")));
    }
    let leaf = Leaf::create(&hierarchies, path)?;
    match leaf.apply(resources) {
        Ok(told) => Ok((leaf, told)),
        Err(error) => {
            // The first error is the one that matters.
            let _ = leaf.remove(Instant::now());
            Err(error.into())
        }
    }
}

fn may_be_without(error: &SystemError) -> bool {
    matches!(error.errno(), libc::EACCES | libc::EPERM | libc::EROFS | libc::ENOENT)
}

/// Whether the caller is root and in the user namespace that the machine began with.
pub fn is_machines_root() -> bool {
    let all = |map: String| map.split_ascii_whitespace().eq(["0", "0", "4294967295"]);
    rustix::process::geteuid().is_root() && fs::read_to_string("/proc/self/uid_map").is_ok_and(all)
}

/// One that was made before.
pub fn open(path: &str) -> Result<Leaf> {
    Ok(Leaf::open(&Hierarchies::discover()?, path)?)
}

/// Kills what is in it and removes it; every failure is returned.
pub fn remove(leaf: &Leaf, deadline: Instant) -> Vec<String> {
    let mut trouble: Vec<String> = leaf.kill_all(deadline).err().map(|error| error.to_string()).into_iter().collect();
    if let Err(errors) = leaf.remove(deadline) {
        trouble.extend(errors.iter().map(ToString::to_string));
    }
    trouble
}

/// What a cgroup mount in the container shows: names and directory in each hierarchy.
pub fn views(leaf: &Leaf) -> Vec<(Vec<String>, PathBuf)> {
    let names = |name: &str, controllers: &str| -> Vec<String> {
        if name.is_empty() {
            return Vec::new();
        }
        let links = controllers.split(',').filter(|controller| *controller != name && !controller.contains('='));
        std::iter::once(name).chain(links).map(str::to_owned).collect()
    };
    leaf.paths().into_iter().map(|path| (names(&path.name, &path.controllers), path.directory)).collect()
}
