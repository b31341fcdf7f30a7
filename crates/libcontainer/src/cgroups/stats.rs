//! What a container has used, with the same meaning on both versions.

use gantry_linux::Result;
use serde::{Deserialize, Serialize};

use super::files::{field, read};
use super::hierarchies::Version;
use super::leaf::Leaf;
use super::{stats_v1, stats_v2};

/// What a container has used; the same meaning on cgroup v1 and v2. Units: bytes and nanoseconds. A limit that there is
/// not is `u64::MAX` for memory.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stats {
    /// CPU time of all tasks.
    pub cpu_total: u64,
    /// CPU time in the kernel.
    pub cpu_system: u64,
    /// CPU time in programs.
    pub cpu_user: u64,
    /// CPU time per processor, where the kernel tells (v1).
    pub cpu_per_cpu: Vec<u64>,
    /// Of `cpu_per_cpu`: in the kernel (v1).
    pub cpu_per_cpu_system: Vec<u64>,
    /// Of `cpu_per_cpu`: in programs (v1).
    pub cpu_per_cpu_user: Vec<u64>,
    /// Scheduling periods that had a quota.
    pub periods: u64,
    /// Of those, how many ran out of quota.
    pub throttled_periods: u64,
    /// Time spent throttled.
    pub throttled_time: u64,
    /// Periods in which more than the quota was used, of what had been saved up.
    pub burst_periods: u64,
    /// CPU time used beyond the quota.
    pub burst_time: u64,
    /// Memory charged, page cache included.
    pub memory_usage: u64,
    /// Its highest value.
    pub memory_max_usage: u64,
    /// Its limit.
    pub memory_limit: u64,
    /// How often the limit was hit.
    pub memory_failcnt: u64,
    /// Page cache, of `memory_usage`.
    pub memory_cache: u64,
    /// Memory and swap together.
    pub memory_swap: MemoryUse,
    /// Swap alone; only `usage` on v1.
    pub swap: MemoryUse,
    /// Kernel memory, part of `memory_usage`; only `usage` on v2.
    pub memory_kernel: MemoryUse,
    /// TCP buffers; only `usage` on v2, where it is socket memory of every kind.
    pub memory_kernel_tcp: MemoryUse,
    /// Charges of a cgroup count for those above it: always, on the kernels that we run on.
    pub memory_hierarchy: bool,
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
    /// By page size as the kernel names it, `2MB`.
    pub hugepages: Vec<(String, MemoryUse)>,
    /// By device.
    pub rdma: Vec<RdmaUse>,
    /// How tasks wait for a CPU (v2).
    pub cpu_pressure: Option<Pressure>,
    /// How tasks wait for memory (v2).
    pub memory_pressure: Option<Pressure>,
    /// How tasks wait for I/O (v2).
    pub io_pressure: Option<Pressure>,
}

/// Bytes of one kind of memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "as the fields of Stats")]
pub struct MemoryUse {
    pub usage: u64,
    pub max_usage: u64,
    pub limit: u64,
    pub failcnt: u64,
}

/// Use of one RDMA device; a limit of `u32::MAX` is none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "plain words")]
pub struct RdmaUse {
    pub device: String,
    pub handles: u32,
    pub objects: u32,
    pub handles_limit: u32,
    pub objects_limit: u32,
}

/// Pressure stall information of one resource.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Pressure {
    /// At least one task waited.
    pub some: Stall,
    /// All tasks waited.
    pub full: Stall,
}

/// A share of time, in percent over the last 10, 60 and 300 seconds, and in all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "see above")]
pub struct Stall {
    pub avg10: f64,
    pub avg60: f64,
    pub avg300: f64,
    /// Microseconds.
    pub total: u64,
}

impl Leaf {
    /// Everything at once. A controller that is not mounted leaves its fields 0.
    pub fn stats(&self) -> Result<Stats> {
        let mut stats = Stats { memory_hierarchy: true, ..Stats::default() };
        match self.hierarchies.version() {
            Version::V1 => stats_v1::read_all(self, &mut stats)?,
            Version::V2 if self.hierarchies.all().is_empty() => {}
            Version::V2 => stats_v2::read_all(self, &mut stats)?,
        }
        if self.has("pids") {
            stats.pids_current = super::files::number(&read(&self.file("pids", "pids.current")?)?);
            stats.pids_limit = limit(&read(&self.file("pids", "pids.max")?)?, 0);
        }
        stats.hugepages = super::stats_shared::hugepages(self)?;
        stats.rdma = super::stats_shared::rdma(self)?;
        Ok(stats)
    }

    /// How many processes the OOM killer has taken from the leaf.
    pub fn oom_kills(&self) -> Result<u64> {
        let (file, name) = match self.hierarchies.version() {
            Version::V1 => ("memory.oom_control", "oom_kill"),
            Version::V2 => ("memory.events", "oom_kill"),
        };
        Ok(field(&read(&self.file("memory", file)?)?, name))
    }
}

/// A number, or `unlimited` for `max`.
pub(super) fn limit(text: &str, unlimited: u64) -> u64 {
    if text.trim() == "max" { unlimited } else { super::files::number(text) }
}

/// Lines of `name number`.
pub(super) fn pairs(text: &str) -> Vec<(String, u64)> {
    text.lines().filter_map(|l| l.split_once(' ')).map(|(n, v)| (n.to_owned(), super::files::number(v))).collect()
}

/// The number of a name in [`pairs`].
pub(super) fn value(pairs: &[(String, u64)], name: &str) -> u64 {
    pairs.iter().find(|(n, _)| n == name).map_or(0, |(_, v)| *v)
}

/// `major:minor`.
pub(super) fn device(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}
