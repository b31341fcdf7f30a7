//! A container's cgroup: made with its limits, removed; left out where an unprivileged caller may not have one.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use gantry_linux::fs;

use crate::cgroups::{CgroupDriver, Leaf};
use crate::config::Resources;
use crate::error::Result;

/// So long the kernel has to forget those who were killed, before it is looked for others.
const ROUND: Duration = Duration::from_millis(500);

/// Makes it with its limits; on failure nothing of it is left.
pub fn make(driver: &dyn CgroupDriver, leaf: &Leaf, resources: &Resources, warnings: &mut Vec<String>) -> Result<Leaf> {
    let made = driver.create(leaf)?;
    warnings.extend(made.warnings);
    match made.leaf.apply(resources) {
        Ok(told) => {
            warnings.extend(told);
            Ok(made.leaf)
        }
        Err(error) => {
            // The first error is the one that matters.
            let _ = made.leaf.remove(Instant::now());
            Err(error.into())
        }
    }
}

/// Whether the caller is root and in the user namespace that the machine began with.
pub fn is_machines_root() -> bool {
    let all = |map: String| map.split_ascii_whitespace().eq(["0", "0", "4294967295"]);
    rustix::process::geteuid().is_root() && fs::read_to_string("/proc/self/uid_map").is_ok_and(all)
}

/// Kills what is in it and removes it; every failure is returned. Who came in meanwhile (an exec that was under way) is
/// killed in the next round: nobody enters a cgroup that is gone.
pub fn remove(leaf: &Leaf, deadline: Instant) -> Vec<String> {
    // Mostly everybody has left.
    if leaf.remove(Instant::now()).is_ok() {
        return Vec::new();
    }
    loop {
        let killed = leaf.kill_all(deadline);
        let Err(errors) = leaf.remove(deadline.min(Instant::now() + ROUND)) else { return Vec::new() };
        if Instant::now() >= deadline {
            return killed.err().iter().chain(&errors).map(ToString::to_string).collect();
        }
    }
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
