//! Subnets, written `address/prefix`: IPv4 ones that have room for hosts, and those of either family.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

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

/// A subnet of either family: an address of it, and the length of its prefix.
///
/// ```
/// use libcontainer::network::Subnet;
///
/// # fn main() -> libcontainer::Result<()> {
/// let subnet: Subnet = "fd00:1::/64".parse()?;
/// assert!(subnet.contains("fd00:1::5".parse().expect("an address")) && !subnet.contains("10.0.0.1".parse().expect("one")));
/// assert_eq!(subnet.nth(2).to_string(), "fd00:1::2");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet {
    /// An address of the network.
    pub address: IpAddr,
    /// The prefix's length.
    pub prefix: u8,
}

impl Subnet {
    /// How many bits an address of the family has.
    #[must_use]
    pub const fn bits(self) -> u8 {
        if self.address.is_ipv4() { 32 } else { 128 }
    }

    /// The same network by its first address.
    #[must_use]
    pub fn masked(self) -> Self {
        Self { address: self.network(), ..self }
    }

    /// The first address.
    #[must_use]
    pub fn network(self) -> IpAddr {
        self.of(number(self.address) & !self.host_bits())
    }

    /// The last address.
    #[must_use]
    pub fn last(self) -> IpAddr {
        self.of(number(self.address) | self.host_bits())
    }

    /// The address so many places after the first, which must be inside.
    #[must_use]
    pub fn nth(self, offset: u128) -> IpAddr {
        self.of(number(self.network()) | offset & self.host_bits())
    }

    /// The place of an address of the network, counted from the first.
    #[must_use]
    pub fn offset(self, address: IpAddr) -> u128 {
        number(address) & self.host_bits()
    }

    /// The place of the last address.
    #[must_use]
    pub fn last_offset(self) -> u128 {
        self.host_bits()
    }

    /// Whether the address is in the network.
    #[must_use]
    pub fn contains(self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4() && (self.network()..=self.last()).contains(&address)
    }

    /// Whether the networks have an address in common.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.contains(other.network()) || other.contains(self.network())
    }

    /// Whether the address can be a host's: neither the network's own nor IPv4's broadcast.
    #[must_use]
    pub fn is_host(self, address: IpAddr) -> bool {
        self.contains(address)
            && (self.prefix + 1 >= self.bits()
                || address != self.network() && (address.is_ipv6() || address != self.last()))
    }

    fn host_bits(self) -> u128 {
        let hosts = self.bits().saturating_sub(self.prefix);
        u128::MAX.checked_shr(128 - u32::from(hosts)).unwrap_or(0)
    }

    fn of(self, number: u128) -> IpAddr {
        match self.address {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from(u32::try_from(number & u128::from(u32::MAX)).unwrap_or(0))),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from(number)),
        }
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

impl From<Cidr> for Subnet {
    fn from(cidr: Cidr) -> Self {
        Self { address: cidr.address.into(), prefix: cidr.prefix }
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> Self {
        subnet.to_string()
    }
}

impl TryFrom<String> for Subnet {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for Subnet {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = |why: &str| Error::Invalid(format!("bad subnet \"{text}\": {why}"));
        let (address, prefix) = text.split_once('/').ok_or_else(|| bad("write ADDRESS/PREFIX, as in 172.20.0.0/16"))?;
        let subnet = Self { address: address.parse().map_err(|_| bad("the address is none"))?, prefix: 0 };
        let prefix = prefix.parse().ok().filter(|prefix| *prefix <= subnet.bits());
        Ok(Self { prefix: prefix.ok_or_else(|| bad("the prefix is longer than an address"))?, ..subnet })
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
    fn subnets_of_both_families_know_their_addresses() {
        for (text, network, last, third) in [
            ("172.20.5.1/20", "172.20.0.0", "172.20.15.255", "172.20.0.3"),
            ("fd00:1::7/64", "fd00:1::", "fd00:1::ffff:ffff:ffff:ffff", "fd00:1::3"),
            ("0.0.0.0/0", "0.0.0.0", "255.255.255.255", "0.0.0.3"),
            ("::/0", "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "::3"),
        ] {
            let subnet: Subnet = text.parse().unwrap();
            let shown = (subnet.network().to_string(), subnet.last().to_string(), subnet.nth(3).to_string());
            assert_eq!(shown, (network.into(), last.into(), third.into()));
            assert_eq!(subnet.offset(subnet.nth(3)), 3);
            assert!(subnet.is_host(subnet.nth(3)) && !subnet.is_host(subnet.network()));
        }
        let (four, six): (Subnet, Subnet) = ("10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap());
        assert!(!four.overlaps(six) && four.overlaps("10.1.0.0/16".parse().unwrap()));
        assert!(!"10.0.0.0/24".parse::<Subnet>().unwrap().is_host("10.0.0.255".parse().unwrap()));
        for bad in ["1.2.3.4/33", "::1/129", "::1", "x/1", "1.2.3.4/-1"] {
            assert!(bad.parse::<Subnet>().is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_no_subnet_is_refused() {
        for bad in ["", "1.2.3.4", "1.2.3/24", "1.2.3.4/31", "1.2.3.4/7", "::1/64", "1.2.3.4/24/2"] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
    }
}
