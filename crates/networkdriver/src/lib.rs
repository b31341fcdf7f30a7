//! Networks of containers: the trait, its drivers bridge, host and none, address and port allocation, firewall.

mod driver;
pub mod files;

pub use driver::*;
