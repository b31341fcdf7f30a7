//! Limits, and who may use which device.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::DeviceKind;

/// One line of the device policy; later ones win, letter by letter of `access`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRule {
    /// Allow or deny.
    pub allow: bool,
    /// Of which kind.
    pub kind: DeviceKind,
    /// `None` is any.
    pub major: Option<u32>,
    /// `None` is any.
    pub minor: Option<u32>,
    /// Letters of `rwm`: read, write, make a node.
    pub access: String,
}

/// Limits; `None` leaves the kernel's default. What one version of cgroups does not have is refused or, where nothing
/// of the container's promises depends on it, left out with a warning.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// Bytes; -1 is unlimited.
    pub memory: Option<i64>,
    /// Bytes of memory and swap together; -1 is unlimited.
    pub memory_swap: Option<i64>,
    /// Bytes; the soft limit.
    pub memory_reservation: Option<i64>,
    /// Bytes of kernel memory (v1; kernels since 5.16 have no such limit: a warning).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_kernel: Option<i64>,
    /// Bytes of TCP buffers (v1).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_kernel_tcp: Option<i64>,
    /// 0–100 (v1).
    pub memory_swappiness: Option<u64>,
    /// Stop tasks instead of killing one when memory is exhausted (v1).
    pub oom_kill_disable: bool,
    /// Refuse a memory limit below what is used instead of letting the OOM killer make room (v2; v1 always refuses).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub memory_check_before_update: bool,
    /// Relative weight, 2–262144, 1024 is normal.
    pub cpu_shares: Option<u64>,
    /// Microseconds of CPU per period; -1 is unlimited.
    pub cpu_quota: Option<i64>,
    /// Microseconds that may be saved up and used beyond the quota.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_burst: Option<u64>,
    /// Microseconds.
    pub cpu_period: Option<u64>,
    /// Microseconds of a realtime period that realtime tasks may run (v1).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_realtime_runtime: Option<i64>,
    /// Microseconds (v1).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_realtime_period: Option<u64>,
    /// Run only when nothing else wants to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_idle: Option<bool>,
    /// CPU list, as `0-2,4`.
    pub cpuset_cpus: Option<String>,
    /// Memory node list.
    pub cpuset_mems: Option<String>,
    /// Number of tasks; -1 is unlimited.
    pub pids: Option<i64>,
    /// 10–1000.
    pub blkio_weight: Option<u16>,
    /// 10–1000, against its own children (v1, kernels before 5.0).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blkio_leaf_weight: Option<u16>,
    /// Weights of single devices.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub blkio_device_weights: Vec<BlockWeight>,
    /// Upper limits of single devices.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub blkio_rates: Vec<BlockRate>,
    /// Bytes of huge pages by their size as the kernel names it, e.g. `2MB`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub hugepages: BTreeMap<String, u64>,
    /// The class of its network packets (v1).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_class: Option<u32>,
    /// Priorities of its network packets by interface (v1).
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub network_priorities: BTreeMap<String, u32>,
    /// Limits by RDMA device.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub rdma: BTreeMap<String, RdmaLimit>,
    /// Files of the container's cgroup and what is written into them, after everything else (v2).
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub unified: BTreeMap<String, String>,
    /// Device policy; empty leaves all devices allowed.
    pub device_rules: Vec<DeviceRule>,
}

/// The weight of one block device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockWeight {
    /// Device numbers.
    pub major: u32,
    /// Device numbers.
    pub minor: u32,
    /// 10–1000; 0 goes back to the group's weight.
    pub weight: Option<u16>,
    /// As [`Resources::blkio_leaf_weight`].
    pub leaf_weight: Option<u16>,
}

/// An upper limit of one block device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockRate {
    /// Which.
    pub kind: BlockRateKind,
    /// Device numbers.
    pub major: u32,
    /// Device numbers.
    pub minor: u32,
    /// Per second; 0 is unlimited.
    pub rate: u64,
}

/// What a [`BlockRate`] limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "plain words")]
pub enum BlockRateKind {
    ReadBytes,
    WriteBytes,
    ReadOperations,
    WriteOperations,
}

/// Limits of one RDMA device; `None` is unlimited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RdmaLimit {
    /// Handles.
    pub handles: Option<u32>,
    /// Objects.
    pub objects: Option<u32>,
}
