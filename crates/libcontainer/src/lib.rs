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

/// Tells, loudly, that a test could not be done.
#[cfg(test)]
#[allow(clippy::print_stderr, reason = "a test that is left out must be seen")]
pub(crate) fn skipped(why: &str) {
    let line = format!("SKIPPED: libcontainer: {why}");
    eprintln!("{line}");
    if let Some(path) = std::env::var_os("GANTRY_SKIPS") {
        let file = gantry_linux::fs::open_with(path, std::fs::OpenOptions::new().append(true).create(true)).unwrap();
        gantry_linux::socket::write_all(&file, format!("{line}\n").as_bytes()).unwrap();
    }
}
