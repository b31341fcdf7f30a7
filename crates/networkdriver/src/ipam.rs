//! The addresses of one subnet, of either family, taken in turn so that a freed one rests before it is given again.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use libcontainer::network::Subnet;

use crate::{Error, Pool};

/// The addresses of a pool. The network's own, IPv4's broadcast, the gateway and what is set aside are never given.
#[derive(Debug, Clone)]
pub struct Ipam {
    subnet: Subnet,
    gateway: IpAddr,
    /// The places that are given to those who ask for none.
    first: u128,
    last: u128,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Debug)]
struct Taken {
    places: BTreeSet<u128>,
    next: u128,
}

/// An address that is taken for as long as this lives.
#[derive(Debug)]
pub struct Lease {
    /// The address.
    pub address: IpAddr,
    place: u128,
    taken: Arc<Mutex<Taken>>,
}

impl Ipam {
    /// All of the pool is free.
    #[must_use]
    pub fn new(pool: &Pool) -> Self {
        let subnet = pool.subnet;
        let gateway = pool.gateway();
        let mut places: BTreeSet<u128> = pool.reserved.values().map(|address| subnet.offset(*address)).collect();
        places.insert(subnet.offset(gateway));
        places.extend([0, subnet.last_offset()].into_iter().filter(|place| !subnet.is_host(subnet.nth(*place))));
        let range = pool.range.unwrap_or(subnet);
        let (first, last) = (subnet.offset(range.network()), subnet.offset(range.last()));
        let taken = Arc::new(Mutex::new(Taken { places, next: first }));
        Self { subnet, gateway, first, last, taken }
    }

    /// Takes `wanted`, or the next free one after the last that was given.
    pub fn take(&self, wanted: Option<IpAddr>) -> Result<Lease, Error> {
        let mut taken = self.lock();
        let place = match wanted {
            Some(address) => self.check(&taken, address)?,
            None => {
                let place = taken.next_free(self.first, self.last).ok_or_else(|| self.exhausted())?;
                taken.next = place + 1;
                place
            }
        };
        taken.places.insert(place);
        drop(taken);
        Ok(Lease { address: self.subnet.nth(place), place, taken: Arc::clone(&self.taken) })
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn exhausted(&self) -> Error {
        let family = if self.subnet.address.is_ipv4() { "IPv4" } else { "IPv6" };
        let subnet = self.subnet;
        let (place, fix) = if (self.first, self.last) == (0, subnet.last_offset()) {
            (subnet.to_string(), "use a network with a larger subnet")
        } else {
            let (first, last) = (subnet.nth(self.first), subnet.nth(self.last));
            (format!("its range {first} to {last}"), "use a network with a larger range")
        };
        Error::Exhausted(format!(
            "no available {family} addresses on this network's address pools: all of {place} are taken: remove containers, or \
             {fix}"
        ))
    }

    fn check(&self, taken: &Taken, address: IpAddr) -> Result<u128, Error> {
        if !self.subnet.is_host(address) {
            let subnet = self.subnet;
            return Err(Error::Invalid(format!("address {address} is no host's address of subnet {subnet}")));
        }
        if address == self.gateway {
            return Err(Error::Taken(format!("Address already in use: {address} is the gateway's")));
        }
        let place = self.subnet.offset(address);
        if taken.places.contains(&place) {
            return Err(Error::Taken(format!("Address already in use: {address}")));
        }
        Ok(place)
    }
}

impl Taken {
    fn next_free(&self, first: u128, last: u128) -> Option<u128> {
        let next = if (first..=last).contains(&self.next) { self.next } else { first };
        self.gap(next, last).or_else(|| self.gap(first, next.checked_sub(1).filter(|end| *end >= first)?))
    }

    /// The first place between the two, both included, that is free.
    fn gap(&self, first: u128, last: u128) -> Option<u128> {
        let mut free = first;
        for place in self.places.range(first..=last) {
            if *place > free {
                break;
            }
            free = place.checked_add(1)?;
        }
        (free <= last).then_some(free)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).places.remove(&self.place);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn ipam(text: &str) -> Ipam {
        Ipam::new(&Pool::new(text.parse().unwrap()))
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_last_freed_address_is_not_the_next_one() {
        for (subnet, second, third) in [("10.0.0.0/29", "10.0.0.2", "10.0.0.3"), ("fd00::/64", "fd00::2", "fd00::3")] {
            let ipam = ipam(subnet);
            let first = ipam.take(None).unwrap();
            assert_eq!(first.address, ip(second));
            drop(first);
            assert_eq!(ipam.take(None).unwrap().address, ip(third));
        }
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
        let take = |text: &str| ipam.take(Some(ip(text)));
        let held = take("10.0.0.77").unwrap();
        assert!(matches!(take("10.0.0.77"), Err(Error::Taken(_))));
        assert!(matches!(take("10.0.0.1"), Err(Error::Taken(_))));
        for bad in ["10.0.0.0", "10.0.0.255", "10.0.1.2", "fd00::1"] {
            assert!(matches!(take(bad), Err(Error::Invalid(_))), "{bad}");
        }
        drop(held);
        assert!(take("10.0.0.77").is_ok());
    }

    #[test]
    fn what_is_set_aside_is_not_given_and_the_rest_comes_from_the_range() {
        let pool = Pool {
            gateway: Some(ip("10.0.0.18")),
            range: Some("10.0.0.16/30".parse().unwrap()),
            reserved: BTreeMap::from([("router".into(), ip("10.0.0.17"))]),
            ..Pool::new("10.0.0.0/24".parse().unwrap())
        };
        let ipam = Ipam::new(&pool);
        let given: Vec<_> = (0..2).map(|_| ipam.take(None).unwrap()).collect();
        assert_eq!(given.iter().map(|lease| lease.address).collect::<Vec<_>>(), [ip("10.0.0.16"), ip("10.0.0.19")]);
        let full = ipam.take(None).unwrap_err().to_string();
        assert!(full.contains("all of its range 10.0.0.16 to 10.0.0.19 are taken"), "{full}");
        assert!(matches!(ipam.take(Some(ip("10.0.0.17"))), Err(Error::Taken(_))));
        assert!(ipam.take(Some(ip("10.0.0.99"))).is_ok(), "a person may go beyond the range");
    }

    proptest! {
        #[test]
        fn it_behaves_like_a_set_of_addresses(
            prefix in 24_u8..=30,
            steps in proptest::collection::vec((0_u8..3, any::<u8>()), 0..400),
        ) {
            let subnet = Subnet { address: ip("10.1.1.0"), prefix };
            let ipam = Ipam::new(&Pool::new(subnet));
            let gateway = subnet.nth(1);
            let free = (1_usize << (32 - prefix)) - 3;
            let mut model: BTreeMap<IpAddr, Lease> = BTreeMap::new();
            for (step, number) in steps {
                match step {
                    0 => match ipam.take(None) {
                        Ok(lease) => {
                            prop_assert!(subnet.is_host(lease.address) && lease.address != gateway);
                            prop_assert!(model.insert(lease.address, lease).is_none());
                        }
                        Err(error) => {
                            prop_assert!(matches!(error, Error::Exhausted(_)));
                            prop_assert_eq!(model.len(), free);
                        }
                    },
                    1 => {
                        let address = IpAddr::from([10, 1, 1, number]);
                        let possible = subnet.is_host(address) && address != gateway;
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
