//! From a description of a container and a root file system to a running process and back.
//!
//! Reaches the kernel directly: namespaces, cgroups, capabilities, seccomp, users, rlimits, mounts. Blocking,
//! single-threaded, and knows nothing of the daemon above it.

pub mod cgroups;
pub mod config;
pub mod container;
mod error;
pub mod lsm;
pub mod network;
pub mod oci;
pub mod paths;
pub mod protection;
pub mod runtime;
pub mod seccomp;
pub mod seed;
pub mod steps;

pub use error::{Error, Failure, FailureKind, Result};
