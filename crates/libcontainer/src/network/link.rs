//! Links, addresses and routes: route netlink's messages, and what is read from its answers. Messages of one namespace go in one
//! batch through [`gantry_linux::netlink::Socket::transact`].

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};

use gantry_linux::Error;
use gantry_linux::netlink::{Attributes, Message, Reply, Socket};

use super::Cidr;

/// The index of every namespace's loopback link.
pub const LOOPBACK: u32 = 1;

const LINK_HEADER: usize = 16;
const ADDRESS_HEADER: usize = 8;
const ROUTE_HEADER: usize = 12;
const AF_INET: u8 = 2;
const UP: u32 = 1;
const CREATE: u16 = 0x400;
const EXCLUSIVE: u16 = 0x200;
const MAIN_TABLE: u8 = 254;

const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const INFO_SLAVE_KIND: u16 = 4;
const INFO_SLAVE_DATA: u16 = 5;
const VETH_PEER: u16 = 1;
const BRIDGE_FORWARD_DELAY: u16 = 1;
const BRIDGE_STP: u16 = 5;
const PORT_HAIRPIN: u16 = 4;
const PORT_ISOLATED: u16 = 33;
const ADDRESS_BROADCAST: u16 = 4;
const ROUTE_DESTINATION: u16 = 1;
const ROUTE_OUT: u16 = 4;
const ROUTE_GATEWAY: u16 = 5;
const ROUTE_PRIORITY: u16 = 6;

/// A link of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Maximum transmission unit.
    pub mtu: u32,
    /// What made it: `bridge`, `veth`.
    pub kind: String,
    /// A note that its maker left.
    pub alias: String,
    /// The bridge that it is a port of.
    pub master: Option<u32>,
    /// It is up (`IFF_UP`).
    pub up: bool,
}

fn link_header(index: u32, flags: u32) -> Vec<u8> {
    // family and type, index, flags, and which flags change
    [&[0; 4][..], &index.to_ne_bytes(), &flags.to_ne_bytes(), &flags.to_ne_bytes()].concat()
}

/// Begins a change of a link: attributes are appended to it.
#[must_use]
pub fn change(index: u32) -> Message {
    Message::new(libc::RTM_NEWLINK, 0, &link_header(index, 0))
}

/// Brings a link up.
#[must_use]
pub fn raise(index: u32, name: &str) -> Message {
    Message::new(libc::RTM_NEWLINK, 0, &link_header(index, UP)).named("bring up", format!("link {name}"))
}

/// Deletes a link.
#[must_use]
pub fn delete(name: &str) -> Message {
    Message::new(libc::RTM_DELLINK, 0, &link_header(0, 0))
        .text(libc::IFLA_IFNAME, name)
        .named("delete", format!("link {name}"))
}

/// Makes a bridge, down, without spanning tree or delay. Its hardware address is fixed, or it would change with its
/// ports and containers would lose their gateway.
#[must_use]
pub fn new_bridge(name: &str, mac: [u8; 6], mtu: u32) -> Message {
    Message::new(libc::RTM_NEWLINK, CREATE | EXCLUSIVE, &link_header(0, 0))
        .text(libc::IFLA_IFNAME, name)
        .attribute(libc::IFLA_ADDRESS, mac)
        .u32(libc::IFLA_MTU, mtu)
        .nest(libc::IFLA_LINKINFO, |m| {
            m.text(INFO_KIND, "bridge").nest(INFO_DATA, |m| m.u32(BRIDGE_FORWARD_DELAY, 0).u32(BRIDGE_STP, 0))
        })
        .named("make", format!("bridge {name}"))
}

/// Leaves a note on a link that says who made it.
#[must_use]
pub fn set_alias(name: &str, alias: &str) -> Message {
    Message::new(libc::RTM_NEWLINK, 0, &link_header(0, 0))
        .text(libc::IFLA_IFNAME, name)
        .attribute(libc::IFLA_IFALIAS, alias)
        .named("set alias of", format!("link {name}"))
}

/// Makes a pair in one message: the host's end up and a port of the bridge, the other one `inside`, with its hardware
/// address, in the container's namespace.
#[must_use]
pub fn new_pair(host: &str, bridge: u32, inside: &str, mtu: u32, mac: [u8; 6], netns: BorrowedFd<'_>) -> Message {
    let netns = u32::try_from(netns.as_raw_fd()).unwrap_or(u32::MAX);
    Message::new(libc::RTM_NEWLINK, CREATE | EXCLUSIVE, &link_header(0, UP))
        .text(libc::IFLA_IFNAME, host)
        .u32(libc::IFLA_MTU, mtu)
        .u32(libc::IFLA_MASTER, bridge)
        .nest(libc::IFLA_LINKINFO, |m| {
            m.text(INFO_KIND, "veth").nest(INFO_DATA, |m| {
                m.nest(VETH_PEER, |m| {
                    m.raw(&link_header(0, 0))
                        .text(libc::IFLA_IFNAME, inside)
                        .attribute(libc::IFLA_ADDRESS, mac)
                        .u32(libc::IFLA_MTU, mtu)
                        .u32(libc::IFLA_NET_NS_FD, netns)
                })
            })
        })
        .named("make", format!("link {host}"))
}

/// Sets what a port of the bridge may do: get back what it sent (`hairpin`), talk to other isolated ports or not.
#[must_use]
pub fn port_mode(host: &str, hairpin: bool, isolated: bool) -> Message {
    Message::new(libc::RTM_NEWLINK, 0, &link_header(0, 0))
        .text(libc::IFLA_IFNAME, host)
        .nest(libc::IFLA_LINKINFO, |m| {
            m.text(INFO_SLAVE_KIND, "bridge").nest(INFO_SLAVE_DATA, |m| {
                m.attribute(PORT_HAIRPIN, [u8::from(hairpin)]).attribute(PORT_ISOLATED, [u8::from(isolated)])
            })
        })
        .named("set bridge port of", format!("link {host}"))
}

fn address(kind: u16, flags: u16, index: u32, cidr: Cidr) -> Message {
    let header = [&[AF_INET, cidr.prefix, 0, 0][..], &index.to_ne_bytes()].concat();
    Message::new(kind, flags, &header)
        .attribute(libc::IFA_LOCAL, cidr.address.octets())
        .attribute(libc::IFA_ADDRESS, cidr.address.octets())
}

/// Gives a link an address.
#[must_use]
pub fn add_address(index: u32, cidr: Cidr) -> Message {
    address(libc::RTM_NEWADDR, CREATE | EXCLUSIVE, index, cidr)
        .attribute(ADDRESS_BROADCAST, cidr.broadcast().octets())
        .named("add", format!("address {cidr}"))
}

/// Takes an address from a link.
#[must_use]
pub fn delete_address(index: u32, cidr: Cidr) -> Message {
    address(libc::RTM_DELADDR, 0, index, cidr).named("delete", format!("address {cidr}"))
}

/// Sends everything else to the gateway.
#[must_use]
pub fn add_default_route(index: u32, gateway: Ipv4Addr) -> Message {
    // family, lengths, tos, table, protocol boot, scope universe, unicast, flags
    let header = [AF_INET, 0, 0, 0, MAIN_TABLE, 3, 0, 1, 0, 0, 0, 0];
    Message::new(libc::RTM_NEWROUTE, CREATE | EXCLUSIVE, &header)
        .attribute(ROUTE_GATEWAY, gateway.octets())
        .u32(ROUTE_OUT, index)
        .named("add", format!("default route by {gateway}"))
}

/// A link by name; none when it is not there.
pub fn link(socket: &mut Socket, name: &str) -> Result<Option<Link>, Error> {
    let question = Message::new(libc::RTM_GETLINK, 0, &link_header(0, 0))
        .text(libc::IFLA_IFNAME, name)
        .named("find", format!("link {name}"));
    match socket.get(question) {
        Ok(reply) => Ok(Some(read_link(&reply))),
        Err(error) if error.errno() == libc::ENODEV => Ok(None),
        Err(error) => Err(error),
    }
}

/// Every link.
pub fn links(socket: &mut Socket) -> Result<Vec<Link>, Error> {
    let question = Message::new(libc::RTM_GETLINK, 0, &link_header(0, 0)).named("list", "links");
    Ok(socket.dump(&question)?.iter().map(read_link).collect())
}

fn read_link(reply: &Reply) -> Link {
    let attributes = reply.attributes(LINK_HEADER);
    let info = Attributes::new(attributes.find(libc::IFLA_LINKINFO).unwrap_or_default());
    Link {
        index: reply.number_at(4),
        name: attributes.text(libc::IFLA_IFNAME).unwrap_or_default(),
        mtu: attributes.u32(libc::IFLA_MTU).unwrap_or_default(),
        kind: info.text(INFO_KIND).unwrap_or_default(),
        alias: attributes.text(libc::IFLA_IFALIAS).unwrap_or_default(),
        master: attributes.u32(libc::IFLA_MASTER),
        up: reply.number_at(8) & UP != 0,
    }
}

/// The IPv4 addresses of a link.
pub fn addresses(socket: &mut Socket, index: u32) -> Result<Vec<Cidr>, Error> {
    let header = [&[AF_INET, 0, 0, 0][..], &[0; 4]].concat();
    let question = Message::new(libc::RTM_GETADDR, 0, &header).named("list", "addresses");
    let replies = socket.dump(&question)?;
    let own = replies.iter().filter(|reply| reply.number_at(4) == index);
    Ok(own
        .filter_map(|reply| {
            let address = ipv4(reply.attributes(ADDRESS_HEADER).find(libc::IFA_LOCAL)?)?;
            Some(Cidr { address, prefix: *reply.body.get(1)? })
        })
        .collect())
}

/// A route of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Where it leads; prefix 0 is the default route.
    pub destination: Cidr,
    /// The link that it uses.
    pub link: Option<u32>,
    /// The lower, the better.
    pub metric: u32,
}

/// The IPv4 routes of every table.
pub fn routes(socket: &mut Socket) -> Result<Vec<Route>, Error> {
    let header = [AF_INET, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let question = Message::new(libc::RTM_GETROUTE, 0, &header).named("list", "routes");
    let read = |reply: &Reply| {
        let attributes = reply.attributes(ROUTE_HEADER);
        let address = attributes.find(ROUTE_DESTINATION).and_then(ipv4).unwrap_or(Ipv4Addr::UNSPECIFIED);
        Route {
            destination: Cidr { address, prefix: reply.body.get(1).copied().unwrap_or_default() },
            link: attributes.u32(ROUTE_OUT),
            metric: attributes.u32(ROUTE_PRIORITY).unwrap_or_default(),
        }
    };
    Ok(socket.dump(&question)?.iter().map(read).collect())
}

fn ipv4(bytes: &[u8]) -> Option<Ipv4Addr> {
    <[u8; 4]>::try_from(bytes).ok().map(Ipv4Addr::from)
}
