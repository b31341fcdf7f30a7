//! Control groups: a leaf per container in every hierarchy, its limits, its accounting.

mod delegation;
mod device_policy;
mod devices;
mod driver;
mod files;
mod hierarchies;
mod leaf;
mod limits;
mod members;
mod setting;
mod settings_v1;
mod settings_v2;
mod stats;
mod stats_shared;
mod stats_v1;
mod stats_v2;
#[cfg(test)]
mod tests;
mod tree;
mod validate;

pub use crate::config::Resources;
pub use devices::{all_devices, default_device_rules};
pub use driver::{CgroupDriver, CgroupRequest, Cgroupfs, cgroup_driver};
pub use hierarchies::{Hierarchies, Hierarchy, Version};
pub use leaf::{Leaf, LeafPath, Made, join_by_fds};
pub use stats::{MemoryUse, Pressure, RdmaUse, Stall, Stats};
pub use validate::{HostInfo, validate, validate_nano_cpus};
