//! Namespaces of a configuration, and the mappings and offsets that come with two of them.

use serde::{Deserialize, Serialize};

use super::nullable;

/// The types that there are.
pub(super) const KINDS: [&str; 8] = ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"];

/// One entry of `linux.namespaces`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LinuxNamespace {
    /// `pid`, `network`, `mount`, `ipc`, `uts`, `user`, `cgroup`, `time`.
    #[serde(rename = "type", deserialize_with = "nullable")]
    pub kind: String,
    /// Of one to join; empty is a new one.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub path: String,
}

/// A range of ids.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct IdMapping {
    /// First id inside.
    #[serde(rename = "containerID", deserialize_with = "nullable")]
    pub container_id: u32,
    /// First id outside.
    #[serde(rename = "hostID", deserialize_with = "nullable")]
    pub host_id: u32,
    /// How many.
    #[serde(deserialize_with = "nullable")]
    pub size: u32,
}

/// How far a clock is set apart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TimeOffset {
    /// Seconds.
    #[serde(deserialize_with = "nullable")]
    pub secs: i64,
    /// Nanoseconds.
    #[serde(deserialize_with = "nullable")]
    pub nanosecs: u32,
}
