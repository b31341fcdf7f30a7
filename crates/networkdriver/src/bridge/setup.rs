//! Making the bridge: name, subnet, MTU, and what the kernel must allow.

use std::net::Ipv4Addr;

use gantry_linux::fs;
use gantry_linux::netlink::Socket;
use libcontainer::network::Cidr;
use libcontainer::network::link::{self, Link, Route};

use super::BridgeOptions;
use crate::Error;

/// The note on a bridge that says that we made it, and may delete it.
pub const ALIAS: &str = "made by gantry";
const LONGEST_NAME: usize = 15;
const USUAL_MTU: u32 = 1500;
/// Subnets of 4094 addresses, from blocks that are for private use and that few networks use.
const PREFIX: u8 = 20;
const POOLS: [(Ipv4Addr, u8, u8); 3] = [
    (Ipv4Addr::new(172, 18, 0, 0), 18, 31),
    (Ipv4Addr::new(10, 200, 0, 0), 200, 254),
    (Ipv4Addr::new(192, 168, 0, 0), 168, 168),
];

/// The bridge as it is, and its subnet with the host's address in it.
pub fn bridge(socket: &mut Socket, options: &BridgeOptions) -> Result<(Link, Cidr, u32), Error> {
    check_name(&options.name)?;
    let mtu = options.mtu.map_or_else(|| egress_mtu(socket), Ok)?;
    let (link, made) = find_or_make(socket, &options.name, mtu)?;
    let result = with_subnet(socket, options, &link);
    if result.is_err() && made {
        // The first error is the one to tell.
        let _second = socket.transact(vec![link::delete(&link.name)]);
    }
    let subnet = result?;
    // A bridge that was there keeps its own MTU unless it is asked to have another.
    let mtu = if made || options.mtu.is_some() { mtu } else { link.mtu };
    Ok((link, subnet, mtu))
}

fn with_subnet(socket: &mut Socket, options: &BridgeOptions, link: &Link) -> Result<Cidr, Error> {
    silence_ipv6(link)?;
    socket.transact(vec![link::raise(link.index, &link.name)])?;
    let subnet = match (link::addresses(socket, link.index)?.first(), options.cidr) {
        (Some(there), Some(wanted)) if *there != wanted => {
            return Err(Error::Conflict(format!(
                "bridge {} has the address {there}, not {wanted}: remove the bridge, or leave out --bip",
                link.name
            )));
        }
        (Some(there), _) if !(8..=30).contains(&there.prefix) => {
            return Err(Error::Invalid(format!("bridge {}: its subnet {there} has no room", link.name)));
        }
        (Some(there), _) => *there,
        (None, Some(wanted)) if !wanted.is_host(wanted.address) => {
            return Err(Error::Invalid(format!("bad --bip {wanted}: the address is not a host's of that subnet")));
        }
        (None, Some(wanted)) => {
            socket.transact(vec![link::add_address(link.index, wanted)])?;
            wanted
        }
        (None, None) => pick_subnet(socket, link)?,
    };
    allow(options)?;
    Ok(subnet)
}

fn check_name(name: &str) -> Result<(), Error> {
    let bad = |why: &str| Err(Error::Invalid(format!("bad bridge name \"{name}\": {why}")));
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

fn find_or_make(socket: &mut Socket, name: &str, mtu: u32) -> Result<(Link, bool), Error> {
    if let Some(link) = link::link(socket, name)? {
        if link.kind != "bridge" {
            return Err(Error::Conflict(format!("link {name} is there and is no bridge: give another --bridge")));
        }
        return Ok((link, false));
    }
    let mut mac = [0x02, 0x42, 0, 0, 0, 0];
    super::random(&mut mac[2..])?;
    socket.transact(vec![link::new_bridge(name, mac, mtu)])?;
    socket.transact(vec![link::set_alias(name, ALIAS)])?;
    let link = link::link(socket, name)?;
    Ok((link.ok_or_else(|| Error::Conflict(format!("bridge {name} vanished as it was made")))?, true))
}

/// The MTU of the link by which the host's default route leaves.
fn egress_mtu(socket: &mut Socket) -> Result<u32, Error> {
    let routes = link::routes(socket)?;
    let default = routes.iter().filter(|r| r.destination.prefix == 0 && r.link.is_some()).min_by_key(|r| r.metric);
    let Some(index) = default.and_then(|route| route.link) else { return Ok(USUAL_MTU) };
    let links = link::links(socket)?;
    Ok(links.iter().find(|link| link.index == index).map_or(USUAL_MTU, |link| link.mtu))
}

/// Takes a subnet that no route of the host leads into. Daemons that start at the same moment begin at different
/// places, by their bridges' names, and one that finds itself doubled goes on to the next.
fn pick_subnet(socket: &mut Socket, link: &Link) -> Result<Cidr, Error> {
    for candidate in candidates(&link.name) {
        let taken = |route: &Route| route.destination.prefix != 0 && route.destination.overlaps(candidate);
        if link::routes(socket)?.iter().any(taken) {
            continue;
        }
        socket.transact(vec![link::add_address(link.index, candidate)])?;
        let mut others = link::routes(socket)?.into_iter().filter(|route| route.link != Some(link.index));
        if !others.any(|route| taken(&route)) {
            return Ok(candidate);
        }
        socket.transact(vec![link::delete_address(link.index, candidate)])?;
    }
    Err(Error::Exhausted(
        "no free subnet for the bridge: the host's routes cover all of them, give one by --bip".into(),
    ))
}

fn candidates(name: &str) -> Vec<Cidr> {
    let mut all = Vec::new();
    for (block, first, last) in POOLS {
        let [a, b, ..] = block.octets();
        let start = all.len();
        for second in if b == first { first..=last } else { b..=b } {
            for third in (0..=255_u8).step_by(1 << (24 - PREFIX)) {
                all.push(Cidr { address: Ipv4Addr::new(a, second, third, 1), prefix: PREFIX });
            }
        }
        let length = all.len() - start;
        let hash = name.bytes().fold(0_usize, |hash, byte| hash.wrapping_mul(31).wrapping_add(byte.into()));
        all[start..].rotate_left(hash % length);
    }
    all
}

/// Before the bridge is up: else a container's router advertisement would give the host addresses and a default route
/// of the container's choice. A bridge of ours speaks IPv4 only; on somebody else's IPv6 addresses may be in use.
fn silence_ipv6(bridge: &Link) -> Result<(), Error> {
    for (name, value, always) in [("accept_ra", "0", true), ("disable_ipv6", "1", false)] {
        if !always && bridge.alias != ALIAS {
            continue;
        }
        match fs::write(format!("/proc/sys/net/ipv6/conf/{}/{name}", bridge.name), value) {
            // A kernel without IPv6.
            Err(error) if error.is_not_found() => {}
            other => other?,
        }
    }
    Ok(())
}

/// Lets the kernel forward what comes from containers, and lets the host reach them from its loopback address. Both
/// concern our bridge only; forwarding from the host's other links is the whole host's, and only done when asked for.
fn allow(options: &BridgeOptions) -> Result<(), Error> {
    let of_bridge = |name: &str| format!("/proc/sys/net/ipv4/conf/{}/{name}", options.name);
    fs::write(of_bridge("forwarding"), "1")?;
    // Without a firewall nothing would guard loopback.
    if options.firewall {
        fs::write(of_bridge("route_localnet"), "1")?;
    }
    Ok(())
}

const FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";

/// Whether the host's forwarding is to be turned on: the firewall keeps it from forwarding anything else from then on.
pub fn is_to_forward(options: &BridgeOptions) -> Result<bool, Error> {
    Ok(options.ip_forward && fs::read_to_string(FORWARD)?.trim() == "0")
}

/// Turns the host's forwarding on.
pub fn forward() -> Result<(), Error> {
    Ok(fs::write(FORWARD, "1")?)
}

/// Whether packets between ports of a bridge pass the IPv4 firewall (`br_netfilter` is loaded and on).
pub fn bridge_is_filtered() -> bool {
    fs::read_to_string("/proc/sys/net/bridge/bridge-nf-call-iptables").is_ok_and(|text| text.trim() == "1")
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
        assert!(a[0].address.octets()[0] == 172 && a.iter().all(|cidr| cidr.is_host(cidr.address)));
    }

    #[test]
    fn names_that_are_no_links_are_refused() {
        for bad in ["", ".", "..", "a/b", "a b", "sixteen-bytes-ab", "a:b"] {
            assert!(matches!(check_name(bad), Err(Error::Invalid(_))), "{bad}");
        }
        assert!(check_name("fifteen-bytes-a").is_ok());
    }
}
