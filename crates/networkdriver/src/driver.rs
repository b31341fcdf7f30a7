//! The networkdriver trait. A driver makes a network and joins containers' network namespaces to it; it does not know
//! containers beyond an id for its messages.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::BorrowedFd;

use gantry_linux::netlink::Socket;
use libcontainer::network::Protocol;
use libcontainer::network::firewall::Element;
use libcontainer::network::link::{self, IpFamily, Route};
use serde::{Deserialize, Serialize};

use crate::{Found, Pool};

/// One network of one driver. Calls block for a millisecond or so; they are safe from several threads.
pub trait NetworkDriver: Send + Sync {
    /// `bridge`, `macvlan`, `ipvlan`, `host` or `none`.
    fn name(&self) -> &'static str;

    /// Joins the namespace to the network: link, address, routes, published ports. On failure nothing is left.
    fn join(&self, request: Join<'_>) -> Result<Endpoint, Error>;

    /// Undoes [`NetworkDriver::join`]: address and ports are free when it returns; the link dies with the namespace.
    /// Goes on after a failure and returns all of them in one error.
    fn leave(&self, endpoint: &Endpoint) -> Result<(), Error>;

    /// [`NetworkDriver::leave`] for a container that lives on: its link is deleted, too. `route_socket` is as in [`Join`].
    fn disconnect(&self, endpoint: &Endpoint, _route_socket: BorrowedFd<'_>) -> Result<(), Error> {
        self.leave(endpoint)
    }

    /// Has everything else of a container go through this network from now on. `route_socket` is as in [`Join`].
    fn route(&self, endpoint: &Endpoint, route_socket: BorrowedFd<'_>, routes: Routes) -> Result<(), Error>;

    /// Publishes further ports of a container that is joined; how they were published.
    fn publish(&self, container: &str, ports: &[PublishPort]) -> Result<Vec<PublishedPort>, Error> {
        match ports.first() {
            None => Ok(Vec::new()),
            Some(port) => Err(Error::Invalid(format!(
                "cannot publish port {} of container {container}: a network of driver {} publishes none",
                port.container_port,
                self.name()
            ))),
        }
    }

    /// The ports of a container as the firewall has them.
    fn published(&self, _container: &str) -> Vec<Element> {
        Vec::new()
    }

    /// Takes all ports of a container off the host; its place stays.
    fn withdraw(&self, _container: &str) -> Result<(), Error> {
        Ok(())
    }

    /// Takes up an endpoint again that an earlier daemon made and that still runs: its address and ports are taken, and
    /// its firewall elements are there.
    fn restore(&self, endpoint: &Endpoint) -> Result<(), Error>;

    /// Called once after every [`NetworkDriver::restore`]: removes elements and links that belong to nobody.
    fn restored(&self) -> Result<(), Error>;

    /// Whether containers' links may have a hardware address that was asked for; what is wrong with that.
    fn check_mac(&self) -> Result<(), Error> {
        Ok(())
    }

    /// What the bridge of somebody else was like that the network uses.
    fn found(&self) -> Option<Found> {
        None
    }

    /// What the network looks like.
    fn info(&self) -> NetworkInfo;

    /// Takes everything away that the network has. [`Error::Conflict`] when a container is joined; nobody can join
    /// from then on.
    fn remove(&self) -> Result<(), Error>;
}

/// Whether a container has a default route; `route_socket` is as in [`Join`].
///
/// # Errors
/// The kernel's.
pub fn leads_out(route_socket: BorrowedFd<'_>) -> Result<bool, Error> {
    let mut socket = Socket::borrowed(route_socket)?;
    for family in [IpFamily::V4, IpFamily::V6] {
        // The kernel's own, which says that there is none, comes after all others.
        let leads = |route: &Route| route.destination.prefix == 0 && route.link.is_some() && route.metric < u32::MAX;
        if link::routes(&mut socket, family)?.iter().any(leads) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What a container asks of a network.
pub struct Join<'a> {
    /// The container's id, for names and messages.
    pub container: &'a str,
    /// Its network namespace.
    pub netns: BorrowedFd<'a>,
    /// A `NETLINK_ROUTE` socket that was opened inside that namespace.
    pub route_socket: BorrowedFd<'a>,
    /// How its end of the link is to be called: `eth0`.
    pub link: &'a str,
    /// A fixed address, or the next free one.
    pub address: Option<Ipv4Addr>,
    /// The same for IPv6, where the network has it.
    pub address6: Option<Ipv6Addr>,
    /// Addresses that its link has beside, which are the link's own affair (`--link-local-ip`).
    pub link_local: Vec<IpAddr>,
    /// A fixed hardware address, or one derived from the address.
    pub mac: Option<[u8; 6]>,
    /// Ports to publish.
    pub ports: Vec<PublishPort>,
    /// Whether everything else of the container goes through this network.
    pub routes: Routes,
}

impl<'a> Join<'a> {
    /// The first network of a container, which asks for nothing.
    #[must_use]
    pub const fn new(container: &'a str, netns: BorrowedFd<'a>, route_socket: BorrowedFd<'a>) -> Self {
        Self {
            container,
            netns,
            route_socket,
            link: "eth0",
            address: None,
            address6: None,
            link_local: Vec::new(),
            mac: None,
            ports: Vec::new(),
            routes: Routes { ipv4: true, ipv6: true },
        }
    }
}

/// The default routes of a container that go through a network, where that has a gateway.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "plain words")]
pub struct Routes {
    pub ipv4: bool,
    pub ipv6: bool,
}

/// A port to publish.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishPort {
    /// Inside the container.
    pub container_port: u16,
    /// Transport.
    pub protocol: Protocol,
    /// The host's address to listen on; unspecified (`0.0.0.0`, `::`) is all of that family. `None` is where the network
    /// publishes, on IPv6, too, if it has that.
    pub host_ip: Option<IpAddr>,
    /// First host port; 0 takes a free one from the kernel's ephemeral range.
    pub host_port: u16,
    /// Last host port that may be taken (`-p 8000-9000:80`), equal to `host_port` otherwise.
    pub host_port_end: u16,
}

/// No hardware address.
pub const NO_MAC: [u8; 6] = [0; 6];

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
    /// The address; `0.0.0.0` where the network has no IPv4.
    pub address: Ipv4Addr,
    /// Prefix length.
    pub prefix: u8,
    /// The network's gateway; `0.0.0.0` where it has none, as an internal one.
    pub gateway: Ipv4Addr,
    /// Its place in the network's IPv6, where that has it.
    #[serde(default)]
    pub ipv6: Option<Place6>,
    /// Hardware address; [`NO_MAC`] where its link has none of its own.
    pub mac: [u8; 6],
    /// Ports as they were published, host ports decided.
    pub ports: Vec<PublishedPort>,
}

/// A container's place in IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place6 {
    /// The address.
    pub address: Ipv6Addr,
    /// Prefix length.
    pub prefix: u8,
    /// The network's gateway, where it has one.
    pub gateway: Option<Ipv6Addr>,
}

impl Endpoint {
    /// The place of a container on a network that gives no link and no address.
    #[must_use]
    pub fn bare(container: &str) -> Self {
        Self {
            container: container.into(),
            host_link: String::new(),
            link: String::new(),
            address: Ipv4Addr::UNSPECIFIED,
            prefix: 0,
            gateway: Ipv4Addr::UNSPECIFIED,
            ipv6: None,
            mac: NO_MAC,
            ports: Vec::new(),
        }
    }

    /// The IPv4 address, where it has one.
    #[must_use]
    pub fn ipv4(&self) -> Option<Ipv4Addr> {
        Some(self.address).filter(|address| !address.is_unspecified())
    }
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

impl From<&PublishedPort> for PublishPort {
    /// To have the same again.
    fn from(port: &PublishedPort) -> Self {
        Self {
            container_port: port.container_port,
            protocol: port.protocol,
            host_ip: Some(port.host_ip),
            host_port: port.host_port,
            host_port_end: port.host_port,
        }
    }
}

/// What a network looks like.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkInfo {
    /// The bridge's name; empty where there is none.
    pub bridge: String,
    /// Its IPv4 addresses.
    pub ipv4: Option<Pool>,
    /// Its IPv6 addresses.
    pub ipv6: Option<Pool>,
    /// Maximum transmission unit.
    pub mtu: u32,
    /// Nothing leaves it.
    pub internal: bool,
    /// Containers on it speak to each other.
    pub icc: bool,
}

/// What went wrong in a network.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request is wrong as it is.
    #[error("{0}")]
    Invalid(String),
    /// A port or name is taken; says by whom where it is known.
    #[error("{0}")]
    Conflict(String),
    /// An address or subnet is taken.
    #[error("{0}")]
    Taken(String),
    /// There is no such driver.
    #[error("{0}")]
    Unknown(String),
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
