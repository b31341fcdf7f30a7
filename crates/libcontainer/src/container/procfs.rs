//! Whether something is a procfs: what an image has at `/proc` may be anything.

use std::os::fd::AsFd;
use std::path::{Component, Path};

use gantry_linux::ResultExt;

use crate::error::Result;

/// Inside of `/proc` programs of the container are configured by these only, and they may be replaced (by lxcfs for one).
const COVERABLE: [&str; 8] = ["cpuinfo", "diskstats", "meminfo", "stat", "swaps", "uptime", "loadavg", "slabinfo"];

/// Whether a descriptor is of a file in a procfs.
pub fn is_procfs(fd: impl AsFd) -> Result<bool> {
    let stat = rustix::fs::fstatfs(fd).during("look at", "a file system")?;
    Ok(stat.f_type == rustix::fs::PROC_SUPER_MAGIC)
}

/// Whether a configuration may mount something on this path of `/proc`: as other runtimes have it.
pub fn may_be_covered(path: &Path) -> bool {
    let parts: Vec<&str> = path
        .components()
        .filter_map(|part| match part {
            Component::Normal(name) => name.to_str(),
            _ => None,
        })
        .collect();
    match parts.as_slice() {
        ["proc"] => true,
        ["proc", name] => COVERABLE.contains(name),
        ["proc", "net", "dev"]
        | ["proc", "sys", "kernel", "ns_last_pid"]
        | ["proc", "sys", "crypto", "fips_enabled"] => true,
        _ => false,
    }
}
