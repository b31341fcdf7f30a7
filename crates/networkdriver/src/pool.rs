//! What a network has of addresses of one family: the subnet, its gateway, what is given of it, what is set aside.

use std::collections::BTreeMap;
use std::net::IpAddr;

use libcontainer::network::{Cidr, Subnet};
use serde::{Deserialize, Serialize};

/// Addresses of one family that a network is asked to have.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Addresses {
    /// None of this family.
    #[default]
    None,
    /// A subnet that is free on this host.
    Any,
    /// These.
    Of(Pool),
}

/// Addresses of one family that a network has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// By its first address.
    pub subnet: Subnet,
    /// The host's address on a bridge, the router's on other networks; `None` is the first of the subnet.
    pub gateway: Option<IpAddr>,
    /// Addresses that nobody asked for come from this part of the subnet.
    #[serde(default)]
    pub range: Option<Subnet>,
    /// Addresses of others on this network, by their names: never given.
    #[serde(default)]
    pub reserved: BTreeMap<String, IpAddr>,
    /// A person chose the subnet: then persons may choose addresses of it.
    #[serde(default)]
    pub chosen: bool,
}

impl Pool {
    /// The whole subnet, with its first address as the gateway.
    #[must_use]
    pub fn new(subnet: Subnet) -> Self {
        Self { subnet: subnet.masked(), gateway: None, range: None, reserved: BTreeMap::new(), chosen: false }
    }

    /// The gateway's address.
    #[must_use]
    pub fn gateway(&self) -> IpAddr {
        self.gateway.unwrap_or_else(|| self.subnet.nth(1))
    }

    /// The gateway's address with the prefix, as a link has it.
    #[must_use]
    pub fn of_gateway(&self) -> Subnet {
        Subnet { address: self.gateway(), prefix: self.subnet.prefix }
    }
}

impl Addresses {
    /// The pool, where it is known.
    #[must_use]
    pub fn pool(&self) -> Option<&Pool> {
        match self {
            Self::Of(pool) => Some(pool),
            Self::None | Self::Any => None,
        }
    }

    /// Whether there are to be any.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        *self != Self::None
    }
}

impl From<Cidr> for Addresses {
    /// The gateway's address with its prefix.
    fn from(cidr: Cidr) -> Self {
        Self::Of(Pool { gateway: Some(cidr.address.into()), chosen: true, ..Pool::new(cidr.into()) })
    }
}
