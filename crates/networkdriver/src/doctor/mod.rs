//! Why a container's network does not work: link, address, route, gateway, names, MTU and firewall are looked at in this order,
//! in the kernel and not in what is kept, and the first thing that is wrong is told with what helps. Nothing is changed.

mod names;
mod places;
#[cfg(test)]
mod tests;
mod ways;

use std::net::IpAddr;
use std::os::fd::BorrowedFd;

use gantry_linux::netlink::Socket;
use libcontainer::network::Subnet;
use libcontainer::network::link::{self, Link};

use crate::{Endpoint, Error, NetworkDriver, Routes, Wall};

/// What was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "plain words")]
pub enum Check {
    Link,
    Address,
    Route,
    Gateway,
    Names,
    Mtu,
    Firewall,
    Port,
}

impl Check {
    /// In one word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Link => "link",
            Self::Address => "address",
            Self::Route => "route",
            Self::Gateway => "gateway",
            Self::Names => "names",
            Self::Mtu => "mtu",
            Self::Firewall => "firewall",
            Self::Port => "port",
        }
    }
}

/// Something that is wrong, and what helps; each the half of a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// By which check it was found.
    pub check: Check,
    /// The network that it concerns; empty where it is no single one.
    pub network: String,
    /// What is wrong.
    pub what: String,
    /// What helps.
    pub fix: String,
    /// What the engine itself can be asked to do so.
    pub remedy: Option<Remedy>,
}

/// What an engine can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// To take the container off the network and put it back.
    Reconnect,
    /// To restart the container.
    Restart,
}

/// What helps, in words.
struct Fix(String, Option<Remedy>);

impl From<&str> for Fix {
    fn from(words: &str) -> Self {
        Self(words.to_owned(), None)
    }
}

impl From<String> for Fix {
    fn from(words: String) -> Self {
        Self(words, None)
    }
}

/// For what is made when a container starts.
fn restart() -> Fix {
    Fix("restart the container, which makes it anew".into(), Some(Remedy::Restart))
}

/// For a container that has lost its place.
fn again() -> Fix {
    Fix("take the container off the network and put it back".into(), Some(Remedy::Reconnect))
}

/// A container's place on a network.
pub struct Stay<'a> {
    /// The network's name.
    pub network: &'a str,
    /// Who made it.
    pub driver: &'a dyn NetworkDriver,
    /// The place.
    pub endpoint: &'a Endpoint,
    /// The default routes that are to go by it.
    pub routes: Routes,
}

/// A container that runs, and the ways into its network namespace.
pub struct Patient<'a> {
    /// Its id.
    pub id: &'a str,
    /// Its places, in the order of its links.
    pub stays: Vec<Stay<'a>>,
    /// A `NETLINK_ROUTE` socket of the namespace that nobody else uses.
    pub route_socket: BorrowedFd<'a>,
    /// A datagram socket of the namespace, where there is one.
    pub datagrams: Option<BorrowedFd<'a>>,
    /// What its `/etc/resolv.conf` says.
    pub resolv_conf: &'a str,
    /// A name that it can ask for and that is its own.
    pub known_name: Option<&'a str>,
    /// A process in the namespace.
    pub process: i32,
}

type Look = Result<Option<Finding>, Error>;

/// Looks until something is wrong.
///
/// # Errors
/// The kernel's refusals to let something be looked at.
pub fn examine(patient: &Patient<'_>, wall: Option<&Wall>) -> Look {
    Exam { patient, wall, host: Socket::route()?, inside: Socket::borrowed(patient.route_socket)? }.all()
}

struct Exam<'a> {
    patient: &'a Patient<'a>,
    wall: Option<&'a Wall>,
    host: Socket,
    inside: Socket,
}

impl Exam<'_> {
    fn all(mut self) -> Look {
        // Places without a link are the host's, or none.
        let stays: Vec<&Stay<'_>> = self.patient.stays.iter().filter(|stay| !stay.endpoint.link.is_empty()).collect();
        let first: [fn(&mut Self, &Stay<'_>) -> Look; 4] = [Self::link, Self::address, Self::route, Self::gateway];
        let last: [fn(&mut Self, &Stay<'_>) -> Look; 3] = [Self::mtu, Self::firewall, Self::ports];
        for stay in &stays {
            for check in first {
                if let Some(finding) = check(&mut self, stay)? {
                    return Ok(Some(finding));
                }
            }
        }
        if let Some(finding) = self.names()? {
            return Ok(Some(finding));
        }
        for stay in &stays {
            for check in last {
                if let Some(finding) = check(&mut self, stay)? {
                    return Ok(Some(finding));
                }
            }
        }
        Ok(None)
    }

    /// The bridge of a place, where it has one that is there.
    fn bridge(&mut self, stay: &Stay<'_>) -> Result<Option<Link>, Error> {
        let name = stay.driver.info().bridge;
        if name.is_empty() { Ok(None) } else { Ok(link::link(&mut self.host, &name)?) }
    }
}

impl Stay<'_> {
    fn finding(&self, check: Check, what: impl Into<String>, fix: impl Into<Fix>) -> Look {
        let Fix(fix, remedy) = fix.into();
        Ok(Some(Finding { check, network: self.network.to_owned(), what: what.into(), fix, remedy }))
    }

    /// Whether an address is on the network itself.
    fn is_near(&self, address: IpAddr) -> bool {
        let own = self.endpoint.ipv4().map(|own| Subnet { address: own.into(), prefix: self.endpoint.prefix });
        own.is_some_and(|own| own.contains(address))
    }

    /// Its addresses, with the network's gateway where everything else may go by it.
    fn addresses(&self) -> Vec<(IpAddr, u8, Option<IpAddr>)> {
        let Endpoint { prefix, gateway, ipv6, .. } = *self.endpoint;
        let four = self.endpoint.ipv4().map(|address| {
            (IpAddr::V4(address), prefix, Some(gateway).filter(|ip| !ip.is_unspecified()).map(IpAddr::V4))
        });
        let six = ipv6.map(|six| (IpAddr::V6(six.address), six.prefix, six.gateway.map(IpAddr::V6)));
        four.into_iter().chain(six).collect()
    }
}

fn mac_text(mac: &[u8]) -> String {
    mac.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}
