//! Control groups: a leaf per container in every hierarchy, its limits, its accounting.

mod devices;
mod hierarchies;
mod leaf;
mod limits;
mod members;
mod stats;
#[cfg(test)]
mod tests;
mod validate;

use serde::{Deserialize, Serialize};

pub use crate::config::Resources;
pub use devices::{all_devices, default_device_rules};
pub use hierarchies::{Hierarchies, Hierarchy, Version};
pub use leaf::{Leaf, LeafPath, join_by_fds};
pub use validate::{HostInfo, validate, validate_nano_cpus};

/// What a container has used; the same meaning on cgroup v1 and v2. Units: bytes and nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// CPU time of all tasks.
    pub cpu_total: u64,
    /// CPU time in the kernel.
    pub cpu_system: u64,
    /// CPU time in programs.
    pub cpu_user: u64,
    /// CPU time per processor, where the kernel tells (v1).
    pub cpu_per_cpu: Vec<u64>,
    /// Scheduling periods that had a quota.
    pub periods: u64,
    /// Of those, how many ran out of quota.
    pub throttled_periods: u64,
    /// Time spent throttled.
    pub throttled_time: u64,
    /// Memory charged, page cache included.
    pub memory_usage: u64,
    /// Its highest value.
    pub memory_max_usage: u64,
    /// Its limit.
    pub memory_limit: u64,
    /// How often the limit was hit.
    pub memory_failcnt: u64,
    /// `memory.stat`, names as the kernel has them.
    pub memory_stat: Vec<(String, u64)>,
    /// Tasks.
    pub pids_current: u64,
    /// 0 is unlimited.
    pub pids_limit: u64,
    /// `(major, minor, operation, bytes)`.
    pub blkio_bytes: Vec<(u32, u32, String, u64)>,
    /// `(major, minor, operation, count)`.
    pub blkio_ops: Vec<(u32, u32, String, u64)>,
    /// Kills by the OOM killer.
    pub oom_kills: u64,
}
