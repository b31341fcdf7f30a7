//! Who is called what: every container that asks, its networks, and the names on each of them. Pure.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::rc::Rc;

use serde::{Deserialize, Serialize};

/// A container that asks for names, and is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resident {
    /// Its id.
    pub container: String,
    /// Its networks; a name is looked for in this order, and the first that has it answers.
    pub places: Vec<Place>,
    /// Names that only this container uses for others.
    pub links: Vec<Link>,
    /// Where other names are asked for.
    pub upstream: Upstream,
}

/// A container's place on one network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The network's id.
    pub network: String,
    /// The network's name: `web.frontend` is the `web` of `frontend`.
    pub network_name: String,
    /// Its address.
    pub v4: Option<Ipv4Addr>,
    /// Its other address.
    pub v6: Option<Ipv6Addr>,
    /// What it is called there. The first one is told to who asks for the name of the address.
    pub names: Vec<String>,
}

/// A private name for another container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// The network's id.
    pub network: String,
    /// The name.
    pub name: String,
    /// The other container's id.
    pub container: String,
}

/// Where names are asked for that no container has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Upstream {
    /// Nowhere: nothing leaves.
    Nowhere,
    /// The servers of the host.
    Host,
    /// These (`--dns`).
    Servers(Vec<IpAddr>),
}

/// The addresses of a name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// IPv4.
    pub v4: Vec<Ipv4Addr>,
    /// IPv6.
    pub v6: Vec<Ipv6Addr>,
}

/// Everybody. Putting and removing one costs what that one has, however many there are.
#[derive(Debug, Default)]
pub struct World {
    residents: HashMap<Rc<str>, Resident>,
    networks: HashMap<String, Network>,
}

/// Who is where on one network.
#[derive(Debug, Default)]
struct Network {
    /// By lower-case name; several containers may share one.
    names: HashMap<String, Vec<Rc<str>>>,
    addresses: HashMap<IpAddr, Rc<str>>,
}

impl World {
    /// Takes a container in, or what is new about it.
    pub fn put(&mut self, resident: Resident) {
        self.remove(&resident.container);
        let id: Rc<str> = resident.container.as_str().into();
        for place in &resident.places {
            let network = self.networks.entry(place.network.clone()).or_default();
            for name in &place.names {
                let holders = network.names.entry(name.to_ascii_lowercase()).or_default();
                if !holders.contains(&id) {
                    holders.push(Rc::clone(&id));
                }
            }
            for address in place.addresses() {
                network.addresses.insert(address, Rc::clone(&id));
            }
        }
        self.residents.insert(id, resident);
    }

    /// Forgets a container; one that is not there is fine.
    pub fn remove(&mut self, container: &str) {
        let Some(resident) = self.residents.remove(container) else { return };
        for place in &resident.places {
            let Some(network) = self.networks.get_mut(&place.network) else { continue };
            for name in &place.names {
                let name = name.to_ascii_lowercase();
                let Some(holders) = network.names.get_mut(&name) else { continue };
                holders.retain(|holder| &**holder != container);
                if holders.is_empty() {
                    network.names.remove(&name);
                }
            }
            for address in place.addresses() {
                if network.addresses.get(&address).is_some_and(|holder| &**holder == container) {
                    network.addresses.remove(&address);
                }
            }
            if network.names.is_empty() && network.addresses.is_empty() {
                self.networks.remove(&place.network);
            }
        }
    }

    /// A container.
    #[must_use]
    pub fn resident(&self, container: &str) -> Option<&Resident> {
        self.residents.get(container)
    }

    /// The ids of all.
    pub fn containers(&self) -> impl Iterator<Item = &str> {
        self.residents.keys().map(|id| &**id)
    }

    /// The addresses that this lower-case name has for the container; `None` when no container has it.
    #[must_use]
    pub fn lookup(&self, asker: &str, name: &str) -> Option<Found> {
        let asker = self.residents.get(asker)?;
        let linked = asker.links.iter().filter(|link| link.name.eq_ignore_ascii_case(name));
        let linked: Vec<(&str, &str)> = linked.map(|link| (link.network.as_str(), link.container.as_str())).collect();
        if !linked.is_empty() {
            return Some(self.addresses(linked.into_iter()));
        }
        let on = |place: &Place, name: &str| {
            let network = self.networks.get(&place.network)?;
            let holders = network.names.get(name)?;
            Some(self.addresses(holders.iter().map(|id| (place.network.as_str(), &**id))))
        };
        asker.places.iter().find_map(|place| on(place, name)).or_else(|| {
            let named = |place: &&Place| strip_network(name, &place.network_name).is_some();
            let place = asker.places.iter().find(named)?;
            on(place, strip_network(name, &place.network_name)?)
        })
    }

    fn addresses<'a>(&self, of: impl Iterator<Item = (&'a str, &'a str)>) -> Found {
        let mut found = Found::default();
        for (network, container) in of {
            let Some(resident) = self.residents.get(container) else { continue };
            for place in resident.places.iter().filter(|place| place.network == network) {
                found.v4.extend(place.v4);
                found.v6.extend(place.v6);
            }
        }
        found
    }

    /// What the container is told that this address is called.
    #[must_use]
    pub fn reverse(&self, asker: &str, address: IpAddr) -> Option<String> {
        let asker = self.residents.get(asker)?;
        asker.places.iter().find_map(|mine| {
            let holder = self.networks.get(&mine.network)?.addresses.get(&address)?;
            let theirs = self.residents.get(holder)?.places.iter().find(|place| place.network == mine.network)?;
            Some(format!("{}.{}", theirs.names.first()?, theirs.network_name))
        })
    }
}

impl Place {
    fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.v4.map(IpAddr::V4).into_iter().chain(self.v6.map(IpAddr::V6))
    }
}

/// `web` of `web.frontend`.
fn strip_network<'a>(name: &'a str, network: &str) -> Option<&'a str> {
    let at = name.len().checked_sub(network.len())?.checked_sub(1)?;
    let (first, last) = (name.get(..at)?, name.get(at + 1..)?);
    (at > 0 && name.as_bytes()[at] == b'.' && last.eq_ignore_ascii_case(network)).then_some(first)
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn place(network: &str, last: u8, names: &[&str]) -> Place {
        Place {
            network: format!("id-of-{network}"),
            network_name: network.into(),
            v4: Some(Ipv4Addr::new(10, 0, 0, last)),
            v6: None,
            names: names.iter().map(ToString::to_string).collect(),
        }
    }

    pub fn resident(container: &str, places: Vec<Place>) -> Resident {
        Resident { container: container.into(), places, links: Vec::new(), upstream: Upstream::Host }
    }

    fn world(residents: Vec<Resident>) -> World {
        let mut world = World::default();
        residents.into_iter().for_each(|resident| world.put(resident));
        world
    }

    fn v4(world: &World, asker: &str, name: &str) -> Option<Vec<u8>> {
        world.lookup(asker, name).map(|found| found.v4.iter().map(|address| address.octets()[3]).collect())
    }

    #[test]
    fn names_aliases_and_short_ids_are_found_on_a_shared_network_and_nowhere_else() {
        let world = world(vec![
            resident("a", vec![place("front", 1, &["web", "0123456789ab", "WWW"])]),
            resident("b", vec![place("front", 2, &["db"]), place("back", 3, &["db", "store"])]),
            resident("c", vec![place("back", 4, &["cache"])]),
        ]);
        assert_eq!(v4(&world, "b", "web"), Some(vec![1]));
        assert_eq!(v4(&world, "b", "www"), Some(vec![1]));
        assert_eq!(v4(&world, "b", "0123456789ab"), Some(vec![1]));
        assert_eq!(v4(&world, "a", "db"), Some(vec![2]), "its address on the network that they share");
        assert_eq!(v4(&world, "c", "db"), Some(vec![3]));
        assert_eq!(v4(&world, "a", "store"), None, "an alias is the network's");
        assert_eq!(v4(&world, "c", "web"), None);
        assert_eq!(v4(&world, "nobody", "web"), None);
    }

    #[test]
    fn the_first_network_that_has_the_name_answers_and_another_may_be_named() {
        let world = world(vec![
            resident("a", vec![place("back", 9, &["x"]), place("front", 8, &["x"])]),
            resident("b", vec![place("front", 1, &["web"])]),
            resident("c", vec![place("back", 2, &["web"])]),
        ]);
        assert_eq!(v4(&world, "a", "web"), Some(vec![2]));
        assert_eq!(v4(&world, "a", "web.front"), Some(vec![1]));
        assert_eq!(v4(&world, "a", "web.back"), Some(vec![2]));
        assert_eq!(v4(&world, "a", "web.other"), None);
        assert_eq!(v4(&world, "a", ".front"), None);
        assert_eq!(v4(&world, "b", "web.back"), None, "a network that is not its own");
    }

    #[test]
    fn a_shared_name_has_all_addresses_and_loses_them_one_by_one() {
        let mut world = world((1..4).map(|n| resident(&n.to_string(), vec![place("n", n, &["web"])])).collect());
        assert_eq!(v4(&world, "1", "web").unwrap().len(), 3);
        world.remove("2");
        world.remove("2");
        assert_eq!(v4(&world, "1", "web"), Some(vec![1, 3]));
        world.put(resident("3", vec![place("n", 7, &["renamed"])]));
        assert_eq!(v4(&world, "1", "web"), Some(vec![1]));
        assert_eq!(world.reverse("1", "10.0.0.3".parse().unwrap()), None);
        assert_eq!(world.reverse("1", "10.0.0.7".parse().unwrap()).as_deref(), Some("renamed.n"));
        world.remove("1");
        world.remove("3");
        assert!(world.networks.is_empty(), "nothing is left behind");
    }

    #[test]
    fn a_link_is_the_names_of_one_container_alone() {
        let mut linked = resident("a", vec![place("n", 1, &["a"])]);
        linked.links.push(Link { network: "id-of-n".into(), name: "Database".into(), container: "b".into() });
        let mut world = world(vec![
            linked,
            resident("b", vec![place("n", 2, &["b"])]),
            resident("c", vec![place("n", 3, &["c", "database"])]),
        ]);
        assert_eq!(v4(&world, "a", "database"), Some(vec![2]));
        assert_eq!(v4(&world, "c", "database"), Some(vec![3]));
        world.remove("b");
        assert_eq!(v4(&world, "a", "database"), Some(vec![]), "the name is known, and nobody is there");
    }

    #[test]
    fn an_address_is_told_by_name_and_network_to_neighbours_only() {
        let mut six = place("n", 1, &["web", "alias"]);
        six.v6 = Some("fd00::1".parse().unwrap());
        let world = world(vec![
            resident("a", vec![six]),
            resident("b", vec![place("n", 2, &["b"])]),
            resident("c", vec![place("m", 3, &["c"])]),
        ]);
        assert_eq!(world.reverse("b", "10.0.0.1".parse().unwrap()).as_deref(), Some("web.n"));
        assert_eq!(world.reverse("b", "fd00::1".parse().unwrap()).as_deref(), Some("web.n"));
        assert_eq!(world.reverse("c", "10.0.0.1".parse().unwrap()), None);
    }
}
