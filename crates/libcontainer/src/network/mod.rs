//! A container's network as the kernel has it: links, addresses and routes, devices of the host that are handed to a
//! container, and the firewall table of a bridge. Policy (which address, which port, whose name) is the caller's.
//!
//! ```no_run
//! use std::os::fd::AsFd;
//!
//! use libcontainer::linux::netlink::Socket;
//! use libcontainer::network::{Cidr, link};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let subnet: Cidr = "10.77.0.1/24".parse()?;
//! let mut host = Socket::route()?;
//! host.transact(vec![link::new_bridge("mine0", [2, 0, 10, 77, 0, 1], 1500)])?;
//! let bridge = link::link(&mut host, "mine0")?.ok_or("somebody removed mine0")?.index;
//! host.transact(vec![link::add_address(bridge, subnet), link::raise(bridge, "mine0")])?;
//!
//! // A link of the container whose first process is 4711, and its other end, a port of the bridge.
//! let namespace = libcontainer::linux::fs::open("/proc/4711/ns/net")?;
//! let mac = [2, 0, 10, 77, 0, 2];
//! host.transact(vec![
//!     link::new_pair("mine0-1", "eth0", 1500, mac, namespace.as_fd()),
//!     link::plug("mine0-1", bridge),
//! ])?;
//! # Ok(())
//! # }
//! ```

pub mod conntrack;
pub mod devices;
pub mod firewall;
pub mod link;
pub mod names;
pub mod neighbour;
mod subnet;

use serde::{Deserialize, Serialize};

pub use subnet::{Cidr, Subnet};

/// Transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[allow(missing_docs, reason = "plain words")]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}
