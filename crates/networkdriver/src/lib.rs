//! Networks of containers: the trait, its drivers bridge, host and none, address and port allocation, firewall.

mod bridge;
mod driver;
pub mod files;
mod firewall;
mod ipam;
mod plain;
mod ports;
mod route;
mod subnet;

pub use bridge::{Bridge, BridgeOptions};
pub use driver::*;
pub use plain::{Host, NoNetwork};
pub use subnet::Cidr;
