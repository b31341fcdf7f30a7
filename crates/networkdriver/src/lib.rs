//! Networks of containers: the trait, its drivers bridge, host and none, address and port allocation, firewall, names.

mod bridge;
mod driver;
pub mod files;
mod ipam;
pub mod names;
mod plain;
mod ports;

pub use bridge::{Bridge, BridgeOptions};
pub use driver::*;
pub use libcontainer::network::{Cidr, Protocol};
pub use plain::{Host, NoNetwork};
