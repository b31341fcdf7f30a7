//! The trait by which the daemon runs containers, and its native driver: the supervisor and its client.

mod driver;
pub mod native;

pub use driver::*;
