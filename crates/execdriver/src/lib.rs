//! The trait by which the daemon runs containers, and its drivers: native, with the supervisor and its client, and lxc.

mod driver;
pub mod lxc;
pub mod native;

pub use driver::*;
