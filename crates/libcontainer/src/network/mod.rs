//! A container's network as the kernel has it: links, addresses and routes, devices of the host that are handed to a
//! container, and the firewall table of a bridge. Policy (which address, which port, whose name) is the caller's.

pub mod devices;
pub mod firewall;
pub mod link;
mod subnet;

use serde::{Deserialize, Serialize};

pub use subnet::Cidr;

/// Transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[allow(missing_docs, reason = "plain words")]
pub enum Protocol {
    Tcp,
    Udp,
}
