//! The addresses of one subnet: a bit for each, taken in turn so that a freed one rests before it is given again.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};

use crate::Error;
use libcontainer::network::Cidr;

/// The addresses of a subnet. Network, broadcast and gateway are never given.
#[derive(Debug, Clone)]
pub struct Ipam {
    subnet: Cidr,
    gateway: Ipv4Addr,
    bits: Arc<Mutex<Bits>>,
}

#[derive(Debug)]
struct Bits {
    words: Vec<u64>,
    next: usize,
}

/// An address that is taken for as long as this lives.
#[derive(Debug)]
pub struct Lease {
    /// The address.
    pub address: Ipv4Addr,
    offset: usize,
    bits: Arc<Mutex<Bits>>,
}

impl Ipam {
    /// All of the subnet is free but its ends and the gateway.
    #[must_use]
    pub fn new(subnet: Cidr) -> Self {
        let size = 1_usize << (32 - u32::from(subnet.prefix));
        let bits = Bits { words: vec![0; size.div_ceil(64)], next: 1 };
        let ipam = Self { subnet, gateway: subnet.address, bits: Arc::new(Mutex::new(bits)) };
        {
            let mut bits = ipam.bits.lock().unwrap_or_else(PoisonError::into_inner);
            for reserved in [0, size - 1, ipam.offset(subnet.address)] {
                bits.set(reserved, true);
            }
            for beyond in size..size.next_multiple_of(64) {
                bits.set(beyond, true);
            }
        }
        ipam
    }

    /// Takes `wanted`, or the next free one after the last that was given.
    pub fn take(&self, wanted: Option<Ipv4Addr>) -> Result<Lease, Error> {
        let mut bits = self.bits.lock().unwrap_or_else(PoisonError::into_inner);
        let offset = match wanted {
            Some(address) => self.check(&bits, address)?,
            None => bits.next_free().ok_or_else(|| {
                Error::Exhausted(format!(
                    "no free address in subnet {}/{}: remove containers, or give the daemon a larger one by --bip",
                    self.subnet.network(),
                    self.subnet.prefix
                ))
            })?,
        };
        bits.set(offset, true);
        if wanted.is_none() {
            bits.next = offset + 1;
        }
        drop(bits);
        let network = u32::from(self.subnet.network());
        let address = Ipv4Addr::from(network + u32::try_from(offset).unwrap_or(0));
        Ok(Lease { address, offset, bits: Arc::clone(&self.bits) })
    }

    fn check(&self, bits: &Bits, address: Ipv4Addr) -> Result<usize, Error> {
        let Cidr { prefix, .. } = self.subnet;
        let network = self.subnet.network();
        if !self.subnet.is_host(address) {
            return Err(Error::Invalid(format!("address {address} is no host's address of subnet {network}/{prefix}")));
        }
        if address == self.gateway {
            return Err(Error::Conflict(format!("address {address} is already in use: it is the gateway's")));
        }
        let offset = self.offset(address);
        if bits.get(offset) {
            return Err(Error::Conflict(format!("address {address} is already in use")));
        }
        Ok(offset)
    }

    fn offset(&self, address: Ipv4Addr) -> usize {
        (u32::from(address) - u32::from(self.subnet.network())) as usize
    }
}

impl Bits {
    fn get(&self, offset: usize) -> bool {
        self.words[offset / 64] >> (offset % 64) & 1 == 1
    }

    fn set(&mut self, offset: usize, taken: bool) {
        let bit = 1 << (offset % 64);
        if taken {
            self.words[offset / 64] |= bit;
        } else {
            self.words[offset / 64] &= !bit;
        }
    }

    fn next_free(&self) -> Option<usize> {
        let count = self.words.len();
        let start = self.next / 64 % count;
        // The first word is looked at twice: from `next` upward, and at last as a whole.
        (0..=count).find_map(|step| {
            let index = (start + step) % count;
            let before = if step == 0 { (1_u64 << (self.next % 64)) - 1 } else { 0 };
            let free = !(self.words[index] | before);
            (free != 0).then(|| index * 64 + free.trailing_zeros() as usize)
        })
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.bits.lock().unwrap_or_else(PoisonError::into_inner).set(self.offset, false);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn ipam(text: &str) -> Ipam {
        Ipam::new(text.parse().unwrap())
    }

    #[test]
    fn the_last_freed_address_is_not_the_next_one() {
        let ipam = ipam("10.0.0.1/29");
        let first = ipam.take(None).unwrap();
        assert_eq!(first.address, Ipv4Addr::new(10, 0, 0, 2));
        drop(first);
        assert_eq!(ipam.take(None).unwrap().address, Ipv4Addr::new(10, 0, 0, 3));
    }

    #[test]
    fn a_full_subnet_says_so_and_serves_again_after_a_release() {
        let ipam = ipam("10.0.0.1/24");
        let mut all: Vec<Lease> = (0..253).map(|_| ipam.take(None).unwrap()).collect();
        let error = ipam.take(None).unwrap_err();
        assert!(matches!(&error, Error::Exhausted(text) if text.contains("10.0.0.0/24")), "{error}");
        let freed = all.remove(100).address;
        assert_eq!(ipam.take(None).unwrap().address, freed);
    }

    #[test]
    fn fixed_addresses_are_checked() {
        let ipam = ipam("10.0.0.1/24");
        let take = |text: &str| ipam.take(Some(text.parse().unwrap()));
        let held = take("10.0.0.77").unwrap();
        assert!(matches!(take("10.0.0.77"), Err(Error::Conflict(_))));
        assert!(matches!(take("10.0.0.1"), Err(Error::Conflict(_))));
        for bad in ["10.0.0.0", "10.0.0.255", "10.0.1.2"] {
            assert!(matches!(take(bad), Err(Error::Invalid(_))), "{bad}");
        }
        drop(held);
        assert!(take("10.0.0.77").is_ok());
    }

    proptest! {
        #[test]
        fn it_behaves_like_a_set_of_addresses(
            prefix in 24_u8..=30,
            steps in proptest::collection::vec((0_u8..3, any::<u8>()), 0..400),
        ) {
            let subnet = Cidr { address: Ipv4Addr::new(10, 1, 1, 1), prefix };
            let subnet = Cidr { address: Ipv4Addr::from(u32::from(subnet.network()) + 1), prefix };
            let ipam = Ipam::new(subnet);
            let free = (1_usize << (32 - prefix)) - 3;
            let mut model: BTreeMap<Ipv4Addr, Lease> = BTreeMap::new();
            for (step, number) in steps {
                match step {
                    0 => match ipam.take(None) {
                        Ok(lease) => {
                            prop_assert!(subnet.is_host(lease.address) && lease.address != subnet.address);
                            prop_assert!(model.insert(lease.address, lease).is_none());
                        }
                        Err(error) => {
                            prop_assert!(matches!(error, Error::Exhausted(_)));
                            prop_assert_eq!(model.len(), free);
                        }
                    },
                    1 => {
                        let address = Ipv4Addr::new(10, 1, 1, number);
                        let possible = subnet.is_host(address) && address != subnet.address;
                        let expected = possible && !model.contains_key(&address);
                        let taken = ipam.take(Some(address));
                        prop_assert_eq!(taken.is_ok(), expected);
                        if let Ok(lease) = taken {
                            prop_assert_eq!(lease.address, address);
                            model.insert(address, lease);
                        }
                    }
                    _ => {
                        let victim = model.keys().nth(usize::from(number) % model.len().max(1)).copied();
                        if let Some(victim) = victim {
                            model.remove(&victim);
                        }
                    }
                }
            }
        }
    }
}
