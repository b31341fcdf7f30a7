//! From a description of a container and a root file system to a running process and back.
//!
//! Reaches the kernel directly: namespaces, cgroups, capabilities, seccomp, users, rlimits, mounts. Blocking,
//! single-threaded, and knows nothing of the daemon above it.
//!
//! [`runtime`] is where most programs begin: containers from a configuration of the OCI runtime specification ([`oci`]).
//!
//! ```no_run
//! use libcontainer::runtime::{CreateOptions, Runtime, protect};
//!
//! # fn main() -> libcontainer::Result<()> {
//! // The program's own file is kept from the containers that it makes.
//! protect(&std::env::args_os().collect::<Vec<_>>())?;
//! let created = Runtime::new("/run/mine").create("web", "/srv/bundle".as_ref(), &CreateOptions::default())?;
//! created.container.start()?;
//! println!("it ended with {:?}", created.container.wait()?);
//! created.container.delete(false)?;
//! # Ok(())
//! # }
//! ```
//!
//! The parts can be used alone: [`cgroups`] for limits and what was used, [`seccomp`] from a profile to a program of the
//! kernel's, [`network`] for links and the firewall. A whole program is `examples/run.rs`; other languages have the crate
//! `libcontainer-c`.

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

/// The kernel calls below, whose types this interface uses.
pub use gantry_linux as linux;

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
