//! Making the bridge: name, subnets, MTU, and what the kernel must allow.

use std::net::{IpAddr, Ipv4Addr};

use gantry_linux::fs;
use gantry_linux::netlink::Socket;
use libcontainer::network::Subnet;
use libcontainer::network::link::{self, IpFamily, Link, Route};

use super::{BridgeOptions, Found};
use crate::{AddressPool, Addresses, Error, Pool};

/// The note on a daemon's own bridge that says that we made it, and may delete it, begins so; what tells the daemon from
/// others follows.
pub const ALIAS: &str = "made by gantry";
/// The same of the bridges of user-defined networks begins so; the daemon's name follows.
pub const NETWORK_OF: &str = "network of ";
const LONGEST_NAME: usize = 15;
const USUAL_MTU: u32 = 1500;
/// Subnets of 4094 addresses, from blocks that are for private use and that few networks use.
const PREFIX: u8 = 20;
const POOLS: [(Ipv4Addr, u8, u8); 3] = [
    (Ipv4Addr::new(172, 18, 0, 0), 18, 31),
    (Ipv4Addr::new(10, 200, 0, 0), 200, 254),
    (Ipv4Addr::new(192, 168, 0, 0), 168, 168),
];

/// The bridge as it is.
pub struct Made {
    pub link: Link,
    pub mtu: u32,
    pub ipv4: Option<Pool>,
    pub ipv6: Option<Pool>,
    /// It was not there before.
    pub new: bool,
    /// What it was like, where it is somebody else's.
    pub found: Option<Found>,
}

/// Makes the bridge, or takes up the one that is there.
pub fn bridge(socket: &mut Socket, options: &BridgeOptions) -> Result<Made, Error> {
    check_name(&options.name)?;
    let mtu = options.mtu.map_or_else(|| egress_mtu(socket), Ok)?;
    let (link, new) = find_or_make(socket, options, mtu)?;
    let ours = new || link.alias == options.alias;
    let found = match &options.found {
        _ if ours => None,
        Some(found) => Some(found.clone()),
        None => {
            let wanted = ipv4_settings(&link, options).into_iter().chain(ipv6_settings(&link, options));
            Some(Found::look(socket, &link, wanted)?)
        }
    };
    match with_subnets(socket, options, &link) {
        Ok((ipv4, ipv6)) => {
            // A bridge that was there keeps its own MTU unless it is asked to have another.
            let mtu = if new || options.mtu.is_some() { mtu } else { link.mtu };
            Ok(Made { link, mtu, ipv4, ipv6, new, found })
        }
        Err(error) => {
            let mut failures = vec![error];
            if new {
                failures.extend(socket.transact(vec![link::delete(&link.name)]).err().map(Error::from));
            } else if let Some(found) = found.filter(|_| options.found.is_none()) {
                let given = [&options.ipv4, &options.ipv6].into_iter().filter_map(|wanted| wanted.pool());
                let given: Vec<Subnet> = given.map(Pool::of_gateway).collect();
                failures.extend(found.give_back(socket, &link, &given));
            }
            Err(if failures.len() == 1 { failures.remove(0) } else { Error::Several(failures) })
        }
    }
}

type Pools = (Option<Pool>, Option<Pool>);

fn with_subnets(socket: &mut Socket, options: &BridgeOptions, link: &Link) -> Result<Pools, Error> {
    set_ipv6(link, options)?;
    socket.transact(vec![link::raise(link.index, &link.name)])?;
    let ipv4 = subnet(socket, options, link, &options.ipv4, IpFamily::V4)?;
    let ipv6 = subnet(socket, options, link, &options.ipv6, IpFamily::V6)?;
    allow(link, options)?;
    Ok((ipv4, ipv6))
}

/// Settles the addresses of one family.
fn subnet(
    socket: &mut Socket,
    options: &BridgeOptions,
    link: &Link,
    wanted: &Addresses,
    family: IpFamily,
) -> Result<Option<Pool>, Error> {
    let is_of = |subnet: &Subnet| match subnet.address {
        IpAddr::V4(_) => family == IpFamily::V4,
        IpAddr::V6(address) => family == IpFamily::V6 && !address.is_unicast_link_local(),
    };
    let there = link::addresses(socket, link.index)?.into_iter().find(is_of);
    match (there, wanted) {
        (_, Addresses::None) => Ok(None),
        (Some(there), Addresses::Of(pool)) if there != pool.of_gateway() => Err(Error::Conflict(format!(
            "bridge {} has the address {there}, not {}: remove the bridge, or ask for that address",
            link.name,
            pool.of_gateway()
        ))),
        (Some(there), _) if family == IpFamily::V4 && !(8..=30).contains(&there.prefix) => {
            Err(Error::Invalid(format!("bridge {}: its subnet {there} has no room", link.name)))
        }
        (Some(_), Addresses::Of(pool)) => Ok(Some(pool.clone())),
        (Some(there), Addresses::Any) => Ok(Some(Pool { gateway: Some(there.address), ..Pool::new(there) })),
        (None, Addresses::Of(pool)) => {
            let own = pool.of_gateway();
            if !own.is_host(own.address) {
                return Err(Error::Invalid(format!("bad subnet {own}: the address is not a host's of that subnet")));
            }
            if !options.alias.starts_with(ALIAS) {
                refuse_own(socket, link, pool)?;
            }
            socket.transact(vec![link::add_address(link.index, own)])?;
            Ok(Some(pool.clone()))
        }
        (None, Addresses::Any) => {
            let gateway = pick_subnet(socket, options, link, family)?;
            Ok(Some(Pool { gateway: Some(gateway.address), ..Pool::new(gateway) }))
        }
    }
}

/// A subnet that a person chose may lie within a route of the host, but the host itself would not be reached any more
/// where it has an address in it.
fn refuse_own(socket: &mut Socket, link: &Link, pool: &Pool) -> Result<(), Error> {
    let own = link::all_addresses(socket)?.into_iter();
    match own.into_iter().find(|(index, own)| *index != link.index && pool.subnet.contains(own.address)) {
        None => Ok(()),
        Some((_, own)) => Err(Error::Taken(format!(
            "invalid pool request: Pool overlaps with other one on this address space: the host has the address {own} in \
             {}: choose another subnet",
            pool.subnet
        ))),
    }
}

/// Refuses what cannot be a link's name.
pub fn check_name(name: &str) -> Result<(), Error> {
    let bad = |why: &str| Err(Error::Invalid(format!("bad name of a link \"{name}\": {why}")));
    if name.is_empty() || name == "." || name == ".." {
        return bad("it is no name");
    }
    if name.len() > LONGEST_NAME {
        return bad("it is longer than 15 bytes");
    }
    if name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control()) {
        return bad("a link's name has no spaces, slashes or colons");
    }
    Ok(())
}

fn find_or_make(socket: &mut Socket, options: &BridgeOptions, mtu: u32) -> Result<(Link, bool), Error> {
    let name = options.name.as_str();
    if let Some(link) = link::link(socket, name)? {
        if link.kind != "bridge" {
            return Err(Error::Conflict(format!("link {name} is there and is no bridge: give another name")));
        }
        let begins = |note: &str| options.alias.starts_with(note) && link.alias.starts_with(note);
        let ours = begins(ALIAS) || options.own_name && begins(NETWORK_OF);
        if ours && link.alias != options.alias {
            socket.transact(vec![link::set_alias(name, &options.alias)])?;
            return Ok((Link { alias: options.alias.clone(), ..link }, false));
        }
        return Ok((link, false));
    }
    let mut mac = [0x02, 0x42, 0, 0, 0, 0];
    super::random(&mut mac[2..])?;
    socket.transact(vec![link::new_bridge(name, mac, mtu)])?;
    socket.transact(vec![link::set_alias(name, &options.alias)])?;
    let link = link::link(socket, name)?;
    Ok((link.ok_or_else(|| Error::Conflict(format!("bridge {name} vanished as it was made")))?, true))
}

/// The MTU of the link by which the host's default route leaves.
fn egress_mtu(socket: &mut Socket) -> Result<u32, Error> {
    let routes = link::routes(socket, IpFamily::V4)?;
    let default = routes.iter().filter(|r| r.destination.prefix == 0 && r.link.is_some()).min_by_key(|r| r.metric);
    let Some(index) = default.and_then(|route| route.link) else { return Ok(USUAL_MTU) };
    let links = link::links(socket)?;
    Ok(links.iter().find(|link| link.index == index).map_or(USUAL_MTU, |link| link.mtu))
}

/// Takes a subnet that no route of the host leads into. Daemons that start at the same moment begin at different
/// places, by their bridges' names, and one that finds itself doubled goes on to the next.
fn pick_subnet(socket: &mut Socket, options: &BridgeOptions, link: &Link, family: IpFamily) -> Result<Subnet, Error> {
    for candidate in free(socket, &options.pools, &options.name, family)? {
        socket.transact(vec![link::add_address(link.index, candidate)])?;
        let mut others = link::routes(socket, family)?.into_iter().filter(|route| route.link != Some(link.index));
        if !others.any(|route| taken(&route, candidate)) {
            return Ok(candidate);
        }
        socket.transact(vec![link::delete_address(link.index, candidate)])?;
    }
    Err(exhausted())
}

/// A subnet that no route of the host leads into, for a network that has no link on the host.
pub fn free_subnet(socket: &mut Socket, pools: &[AddressPool], name: &str, family: IpFamily) -> Result<Subnet, Error> {
    free(socket, pools, name, family)?.next().ok_or_else(exhausted)
}

fn taken(route: &Route, candidate: Subnet) -> bool {
    route.destination.prefix != 0 && route.destination.overlaps(candidate)
}

/// The subnets to choose from that no route of the host leads into.
fn free(
    socket: &mut Socket,
    pools: &[AddressPool],
    name: &str,
    family: IpFamily,
) -> Result<impl Iterator<Item = Subnet> + use<>, Error> {
    let routes = link::routes(socket, family)?;
    let free = move |candidate: &Subnet| !routes.iter().any(|route| taken(route, *candidate));
    Ok(choice(pools, name, family)?.filter(free))
}

fn exhausted() -> Error {
    Error::Exhausted(
        "all predefined address pools have been fully subnetted: the host's routes cover all of them, give a subnet, or \
         the daemon further ones by --default-address-pool"
            .into(),
    )
}

/// Subnets to choose from, each by its first host's address.
fn choice(pools: &[AddressPool], name: &str, family: IpFamily) -> Result<Box<dyn Iterator<Item = Subnet>>, Error> {
    let of_family: Vec<_> =
        pools.iter().filter(|pool| pool.base.address.is_ipv4() == (family == IpFamily::V4)).copied().collect();
    if !of_family.is_empty() {
        return Ok(Box::new(of_family.into_iter().flat_map(AddressPool::subnets)));
    }
    if family == IpFamily::V4 {
        return Ok(Box::new(candidates(name).into_iter()));
    }
    let mut number = [0; 8];
    let mut all = Vec::new();
    for _ in 0..8 {
        super::random(&mut number[1..])?;
        number[0] = 0xfd;
        let network = u128::from(u64::from_be_bytes(number)) << 64;
        all.push(Subnet { address: IpAddr::V6((network | 1).into()), prefix: 64 });
    }
    Ok(Box::new(all.into_iter()))
}

fn candidates(name: &str) -> Vec<Subnet> {
    let mut all = Vec::new();
    for (block, first, last) in POOLS {
        let [a, b, ..] = block.octets();
        let start = all.len();
        for second in if b == first { first..=last } else { b..=b } {
            for third in (0..=255_u8).step_by(1 << (24 - PREFIX)) {
                all.push(Subnet { address: Ipv4Addr::new(a, second, third, 1).into(), prefix: PREFIX });
            }
        }
        let length = all.len() - start;
        let hash = name.bytes().fold(0_usize, |hash, byte| hash.wrapping_mul(31).wrapping_add(byte.into()));
        all[start..].rotate_left(hash % length);
    }
    all
}

/// Before the bridge is up: else a container's router advertisement would give the host addresses and a default route
/// of the container's choice. A bridge of ours speaks IPv6 only where it is to; on somebody else's there may be addresses
/// in use.
fn set_ipv6(bridge: &Link, options: &BridgeOptions) -> Result<(), Error> {
    for (path, value) in ipv6_settings(bridge, options) {
        match fs::write(path, value) {
            Err(error) if error.is_not_found() && options.ipv6.is_wanted() => {
                return Err(Error::Invalid("IPv6 is not available: this kernel runs without it".into()));
            }
            // A kernel without IPv6.
            Err(error) if error.is_not_found() => {}
            other => other?,
        }
    }
    Ok(())
}

fn ipv6_settings(bridge: &Link, options: &BridgeOptions) -> Vec<(String, &'static str)> {
    let of_bridge = |name: &str| format!("/proc/sys/net/ipv6/conf/{}/{name}", bridge.name);
    let mut settings = vec![(of_bridge("accept_ra"), "0")];
    if options.ipv6.is_wanted() {
        settings.extend([(of_bridge("disable_ipv6"), "0"), (of_bridge("forwarding"), "1")]);
    } else if bridge.alias == options.alias {
        settings.push((of_bridge("disable_ipv6"), "1"));
    }
    settings
}

/// Lets the kernel forward what comes from containers, and lets the host reach them from its loopback address. Both
/// concern our bridge only; forwarding from the host's other links is the whole host's, and only done when asked for.
fn allow(bridge: &Link, options: &BridgeOptions) -> Result<(), Error> {
    for (path, value) in ipv4_settings(bridge, options) {
        fs::write(path, value)?;
    }
    Ok(())
}

fn ipv4_settings(bridge: &Link, options: &BridgeOptions) -> Vec<(String, &'static str)> {
    let of_bridge = |name: &str| format!("/proc/sys/net/ipv4/conf/{}/{name}", bridge.name);
    let mut settings = vec![(of_bridge("forwarding"), "1")];
    // Without a firewall nothing would guard loopback.
    if options.wall.is_some() {
        settings.push((of_bridge("route_localnet"), "1"));
    }
    settings
}

/// Whether packets between ports of a bridge pass the firewall (`br_netfilter` is loaded and on), IPv4's and IPv6's.
pub fn bridge_is_filtered() -> (bool, bool) {
    let on = |name| fs::read_to_string(format!("/proc/sys/net/bridge/{name}")).is_ok_and(|text| text.trim() == "1");
    (on("bridge-nf-call-iptables"), on("bridge-nf-call-ip6tables"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates_are_many_and_differ_by_name() {
        let (a, b) = (candidates("gantry0"), candidates("gantry1"));
        assert_ne!(a[0], b[0]);
        assert!(a.len() > 1000);
        let overlaps = a.iter().enumerate().any(|(i, x)| a[i + 1..].iter().any(|y| x.overlaps(*y)));
        assert!(!overlaps);
        assert!(a[0].address.to_string().starts_with("172.") && a.iter().all(|cidr| cidr.is_host(cidr.address)));
    }

    #[test]
    fn names_that_are_no_links_are_refused() {
        for bad in ["", ".", "..", "a/b", "a b", "sixteen-bytes-ab", "a:b"] {
            assert!(matches!(check_name(bad), Err(Error::Invalid(_))), "{bad}");
        }
        assert!(check_name("fifteen-bytes-a").is_ok());
    }
}
