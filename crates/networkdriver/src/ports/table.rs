//! What is taken: single ports by number, and the few ranges one after the other.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::{Wanted, short};
use crate::{Error, Protocol};

/// Ports of one address that a container has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    pub protocol: Protocol,
    /// Unspecified is every address of the family.
    pub address: IpAddr,
    pub first: u16,
    pub last: u16,
    pub container: Arc<str>,
}

impl Span {
    /// One port of a request.
    pub fn of(wanted: &Wanted, address: IpAddr, number: u16, container: &Arc<str>) -> Self {
        let container = Arc::clone(container);
        Self { protocol: wanted.protocol, address, first: number, last: number, container }
    }

    /// Nobody's.
    pub fn none(protocol: Protocol) -> Self {
        Self { protocol, address: IpAddr::from([0; 4]), first: 0, last: 0, container: "".into() }
    }

    /// A port on all addresses conflicts with the same port on any of that family.
    pub fn meets(&self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4()
            && (self.address == address || self.address.is_unspecified() || address.is_unspecified())
    }
}

/// An address and the container that has the port there.
type Holder = (IpAddr, Arc<str>);

#[derive(Debug, Default)]
pub struct Table {
    single: HashMap<(Protocol, u16), Vec<Holder>>,
    ranges: Vec<Span>,
}

impl Table {
    /// # Errors
    /// The first port of the span that is taken, and by whom.
    pub fn vacant(&self, span: &Span) -> Result<(), Error> {
        let taken = |port: u16, holder: &str| {
            let address = std::net::SocketAddr::new(span.address, port);
            let holder = short(holder);
            Err(Error::Conflict(format!("Bind for {address} failed: port is already allocated, by container {holder}")))
        };
        for port in span.first..=span.last {
            let holders = self.single.get(&(span.protocol, port)).into_iter().flatten();
            if let Some((_, holder)) = holders.into_iter().find(|(address, _)| span.meets(*address)) {
                return taken(port, holder);
            }
        }
        let overlaps = |other: &&Span| {
            other.protocol == span.protocol
                && other.first <= span.last
                && span.first <= other.last
                && span.meets(other.address)
        };
        match self.ranges.iter().find(overlaps) {
            Some(other) => taken(other.first.max(span.first), &other.container),
            None => Ok(()),
        }
    }

    pub fn insert(&mut self, span: Span) {
        if span.first == span.last {
            self.single.entry((span.protocol, span.first)).or_default().push((span.address, span.container));
        } else {
            self.ranges.push(span);
        }
    }

    pub fn remove(&mut self, span: &Span) {
        if span.first != span.last {
            self.ranges.retain(|other| other != span);
            return;
        }
        let key = (span.protocol, span.first);
        if let Some(holders) = self.single.get_mut(&key) {
            holders.retain(|(address, _)| *address != span.address);
            if holders.is_empty() {
                self.single.remove(&key);
            }
        }
    }

    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.single.is_empty() && self.ranges.is_empty()
    }
}
