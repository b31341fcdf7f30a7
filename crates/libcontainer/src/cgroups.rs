//! Control groups: a leaf per container in every hierarchy, its limits, its accounting. What can be asked for and what is
//! told mean the same on v1 and v2.
//!
//! ```no_run
//! use std::time::{Duration, Instant};
//!
//! use libcontainer::cgroups::{Hierarchies, Leaf, Resources};
//!
//! # fn main() -> libcontainer::linux::Result<()> {
//! let leaf = Leaf::create(&Hierarchies::discover()?, "/mine/job")?;
//! let limits = Resources { memory: Some(64 << 20), pids: Some(32), ..Resources::default() };
//! // What this machine cannot do is told, where it is no promise of the container's.
//! leaf.apply(&limits)?.iter().for_each(|warning| eprintln!("{warning}"));
//! leaf.join(std::process::id())?;
//! println!("{} bytes, {} OOM kills", leaf.stats()?.memory_usage, leaf.oom_kills()?);
//! if let Err(errors) = leaf.remove(Instant::now() + Duration::from_secs(1)) {
//!     errors.iter().for_each(|error| eprintln!("{error}"));
//! }
//! # Ok(())
//! # }
//! ```

mod delegation;
mod device_policy;
mod devices;
mod driver;
mod files;
mod hierarchies;
mod leaf;
mod limits;
mod members;
mod oom;
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
pub use oom::OomWatch;
pub use stats::{MemoryUse, Pressure, RdmaUse, Stall, Stats};
pub use validate::{HostInfo, validate, validate_nano_cpus};
