//! Networks of containers: the trait, its drivers bridge, macvlan, ipvlan, host and none, address and port allocation, firewall, names.

mod bridge;
mod clear;
pub mod doctor;
mod driver;
pub mod files;
mod ipam;
pub mod names;
mod places;
mod plain;
mod pool;
mod ports;
mod stacked;
mod table;
mod wall;

pub use bridge::{Bridge, BridgeOptions, Found, check_name as check_link_name};
pub use clear::{Cleared, clear};
pub use driver::*;
pub use libcontainer::network::firewall::Element;
pub use libcontainer::network::{Cidr, Protocol, Subnet};
pub use plain::{Host, NoNetwork};
pub use pool::{Addresses, Pool};
pub use ports::Ports;
pub use table::{AddressPool, DefaultBridge, Definition, NetworkDrivers, NetworkOptions};
pub use wall::{Wall, WallOptions};
