//! The networkdriver trait. A driver makes a network and joins containers' network namespaces to it; it does not know
//! containers beyond an id for its messages.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::BorrowedFd;

use libcontainer::network::Protocol;
use serde::{Deserialize, Serialize};

/// One network of one driver. Calls block for a millisecond or so; they are safe from several threads.
pub trait NetworkDriver: Send + Sync {
    /// `bridge`, `host` or `none`.
    fn name(&self) -> &'static str;

    /// Joins the namespace to the network: link, address, routes, published ports. On failure nothing is left.
    fn join(&self, request: Join<'_>) -> Result<Endpoint, Error>;

    /// Undoes [`NetworkDriver::join`]: address and ports are free when it returns; the link dies with the namespace.
    /// Goes on after a failure and returns all of them in one error.
    fn leave(&self, endpoint: &Endpoint) -> Result<(), Error>;

    /// Takes up an endpoint again that an earlier daemon made and that still runs: its address and ports are taken, and
    /// its firewall elements are there.
    fn restore(&self, endpoint: &Endpoint) -> Result<(), Error>;

    /// Called once after every [`NetworkDriver::restore`]: removes elements and links that belong to nobody.
    fn restored(&self) -> Result<(), Error>;

    /// What the network looks like.
    fn info(&self) -> NetworkInfo;
}

/// What a container asks of a network.
pub struct Join<'a> {
    /// The container's id, for names and messages.
    pub container: &'a str,
    /// Its network namespace.
    pub netns: BorrowedFd<'a>,
    /// A `NETLINK_ROUTE` socket that was opened inside that namespace.
    pub route_socket: BorrowedFd<'a>,
    /// A fixed address, or the next free one.
    pub address: Option<Ipv4Addr>,
    /// A fixed hardware address, or one derived from the address.
    pub mac: Option<[u8; 6]>,
    /// Ports to publish.
    pub ports: Vec<PublishPort>,
}

/// A port to publish.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishPort {
    /// Inside the container.
    pub container_port: u16,
    /// Transport.
    pub protocol: Protocol,
    /// The host's address to listen on; unspecified (`0.0.0.0`) is all of them.
    pub host_ip: IpAddr,
    /// First host port; 0 takes a free one from the kernel's ephemeral range.
    pub host_port: u16,
    /// Last host port that may be taken (`-p 8000-9000:80`), equal to `host_port` otherwise.
    pub host_port_end: u16,
}

/// A container joined to a network. Kept by the daemon, given back to [`NetworkDriver::leave`] and
/// [`NetworkDriver::restore`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The container's id.
    pub container: String,
    /// The host's end of the link; empty where there is none.
    pub host_link: String,
    /// The container's end: `eth0`.
    pub link: String,
    /// The address and prefix length.
    pub address: Ipv4Addr,
    /// Prefix length.
    pub prefix: u8,
    /// The default gateway.
    pub gateway: Ipv4Addr,
    /// Hardware address.
    pub mac: [u8; 6],
    /// Ports as they were published, host ports decided.
    pub ports: Vec<PublishedPort>,
}

/// A published port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedPort {
    /// Inside the container.
    pub container_port: u16,
    /// Transport.
    pub protocol: Protocol,
    /// On the host.
    pub host_ip: IpAddr,
    /// On the host.
    pub host_port: u16,
}

/// What a network looks like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkInfo {
    /// The bridge's name; empty where there is none.
    pub bridge: String,
    /// The subnet.
    pub subnet: Option<(Ipv4Addr, u8)>,
    /// The host's address on it.
    pub gateway: Option<Ipv4Addr>,
    /// Maximum transmission unit.
    pub mtu: u32,
}

/// What went wrong in a network.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request is wrong as it is.
    #[error("{0}")]
    Invalid(String),
    /// A port, address or name is taken; says by whom where it is known.
    #[error("{0}")]
    Conflict(String),
    /// No address or port is left.
    #[error("{0}")]
    Exhausted(String),
    /// The kernel refused.
    #[error(transparent)]
    System(#[from] gantry_linux::Error),
    /// Several failures of one teardown.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Several(Vec<Error>),
}
