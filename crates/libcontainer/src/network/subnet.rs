//! IPv4 subnets, written `address/prefix`.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use crate::Error;

/// An address with the length of its network's prefix, from 8 to 30.
///
/// ```
/// use libcontainer::network::Cidr;
///
/// # fn main() -> libcontainer::Result<()> {
/// let subnet: Cidr = "172.20.5.1/20".parse()?;
/// assert_eq!(subnet.network().to_string(), "172.20.0.0");
/// assert!(subnet.overlaps("172.20.15.1/24".parse()?));
/// assert!("172.20.5.1".parse::<Cidr>().is_err_and(|error| error.to_string().contains("ADDRESS/PREFIX")));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cidr {
    /// An address of the network; for `--bip` the host's own.
    pub address: Ipv4Addr,
    /// The prefix's length.
    pub prefix: u8,
}

impl Cidr {
    /// The first address.
    #[must_use]
    pub fn network(self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.address) & mask(self.prefix))
    }

    /// The last address.
    #[must_use]
    pub fn broadcast(self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.address) | !mask(self.prefix))
    }

    /// Whether the address is in the network.
    #[must_use]
    pub fn contains(self, address: Ipv4Addr) -> bool {
        (self.network()..=self.broadcast()).contains(&address)
    }

    /// Whether the networks have an address in common.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.network() <= other.broadcast() && other.network() <= self.broadcast()
    }

    /// Whether the address can be a host's: neither network nor broadcast.
    #[must_use]
    pub fn is_host(self, address: Ipv4Addr) -> bool {
        self.contains(address) && address != self.network() && address != self.broadcast()
    }
}

/// The network's bits.
pub fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0)
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for Cidr {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = |why: &str| Error::Invalid(format!("bad subnet \"{text}\": {why}"));
        let (address, prefix) = text.split_once('/').ok_or_else(|| bad("write ADDRESS/PREFIX, as in 172.20.0.1/16"))?;
        let address = address.parse().map_err(|_| bad("the address is not IPv4"))?;
        let prefix = prefix.parse().ok().filter(|prefix| (8..=30).contains(prefix));
        Ok(Self { address, prefix: prefix.ok_or_else(|| bad("the prefix must be from 8 to 30"))? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subnets_parse_and_know_their_ends() {
        let subnet: Cidr = "172.20.5.1/20".parse().unwrap();
        assert_eq!(subnet.network(), Ipv4Addr::new(172, 20, 0, 0));
        assert_eq!(subnet.broadcast(), Ipv4Addr::new(172, 20, 15, 255));
        assert!(subnet.overlaps("172.16.0.0/12".parse().unwrap()));
        assert!(!subnet.overlaps("172.20.16.0/20".parse().unwrap()));
        assert!(!subnet.is_host(subnet.network()) && subnet.is_host(subnet.address));
        assert_eq!((mask(0), mask(32)), (0, u32::MAX));
    }

    #[test]
    fn what_is_no_subnet_is_refused() {
        for bad in ["", "1.2.3.4", "1.2.3/24", "1.2.3.4/31", "1.2.3.4/7", "::1/64", "1.2.3.4/24/2"] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
    }
}
