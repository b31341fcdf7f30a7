//! The kernel calls that libraries lack, each safe to call: clone3, mounts by fd, openat2, pidfd, nfnetlink, atomic
//! files. The home of `unsafe`.
//!
//! Nothing here knows containers, images or networks; every function blocks and returns an [`Error`] that names the
//! operation and what it was tried on.

pub mod attributes;
pub mod bpf;
pub mod btrfs;
pub mod disk;
pub mod dm;
mod error;
pub mod executable;
pub mod fs;
pub mod fsids;
pub mod lock;
pub mod loops;
pub mod memory;
pub mod mount;
pub mod netlink;
mod node;
pub mod process;
pub mod quota;
pub mod seccomp;
pub mod socket;
pub mod taken;

pub use error::{Error, Result, ResultExt};
