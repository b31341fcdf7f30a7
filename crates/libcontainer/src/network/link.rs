//! Links, addresses and routes: route netlink's messages, and what is read from its answers. Messages of one namespace go in one
//! batch through [`gantry_linux::netlink::Socket::transact`].

use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use gantry_linux::Error;
use gantry_linux::netlink::{Attributes, Message, Reply, Socket};

use super::Subnet;

/// The index of every namespace's loopback link.
pub const LOOPBACK: u32 = 1;

const LINK_HEADER: usize = 16;
const ADDRESS_HEADER: usize = 8;
const ROUTE_HEADER: usize = 12;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const UP: u32 = 1;
const LOWER_UP: u32 = 0x1_0000;
const CREATE: u16 = 0x400;
const EXCLUSIVE: u16 = 0x200;
const REPLACE: u16 = 0x100;
/// The address is used at once, without asking the link whether somebody else has it.
const NO_DETECTION: u8 = 2;
const MAIN_TABLE: u8 = 254;

const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const INFO_SLAVE_KIND: u16 = 4;
const INFO_SLAVE_DATA: u16 = 5;
const VETH_PEER: u16 = 1;
const MACVLAN_MODE: u16 = 1;
const IPVLAN_MODE: u16 = 1;
const IPVLAN_FLAGS: u16 = 2;
const BRIDGE_FORWARD_DELAY: u16 = 1;
const BRIDGE_STP: u16 = 5;
const ADDRESS_GENERATION: u16 = 8;
const PORT_HAIRPIN: u16 = 4;
const PORT_ISOLATED: u16 = 33;
const ADDRESS_BROADCAST: u16 = 4;
const ROUTE_DESTINATION: u16 = 1;
const ROUTE_OUT: u16 = 4;
const ROUTE_GATEWAY: u16 = 5;
const ROUTE_PRIORITY: u16 = 6;
const ROUTE_TABLE: u16 = 15;

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
    /// Something is at its other end (`IFF_LOWER_UP`).
    pub carries: bool,
    /// Its hardware address.
    pub mac: Vec<u8>,
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

/// Makes a pair in one message: the host's end, and the other one `inside`, with its hardware address, in the container's
/// namespace. Both are down. They have one queue, whatever the number of processors: a pair of links queues nothing, and each
/// queue costs a dozen files in sysfs.
#[must_use]
pub fn new_pair(host: &str, inside: &str, mtu: u32, mac: [u8; 6], netns: BorrowedFd<'_>) -> Message {
    let netns = u32::try_from(netns.as_raw_fd()).unwrap_or(u32::MAX);
    Message::new(libc::RTM_NEWLINK, CREATE | EXCLUSIVE, &link_header(0, 0))
        .text(libc::IFLA_IFNAME, host)
        .u32(libc::IFLA_MTU, mtu)
        .u32(libc::IFLA_NUM_TX_QUEUES, 1)
        .u32(libc::IFLA_NUM_RX_QUEUES, 1)
        .nest(libc::IFLA_LINKINFO, |m| {
            m.text(INFO_KIND, "veth").nest(INFO_DATA, |m| {
                m.nest(VETH_PEER, |m| {
                    m.raw(&link_header(0, 0))
                        .text(libc::IFLA_IFNAME, inside)
                        .attribute(libc::IFLA_ADDRESS, mac)
                        .u32(libc::IFLA_MTU, mtu)
                        .u32(libc::IFLA_NUM_TX_QUEUES, 1)
                        .u32(libc::IFLA_NUM_RX_QUEUES, 1)
                        .u32(libc::IFLA_NET_NS_FD, netns)
                })
            })
        })
        .named("make", format!("link {host}"))
}

/// Makes a link a port of a bridge, and brings it up.
#[must_use]
pub fn plug(name: &str, bridge: u32) -> Message {
    Message::new(libc::RTM_NEWLINK, 0, &link_header(0, UP))
        .text(libc::IFLA_IFNAME, name)
        .u32(libc::IFLA_MASTER, bridge)
        .named("make a port of the bridge of", format!("link {name}"))
}

/// Has a link that is down give itself no IPv6 address when it comes up: it speaks IPv6 only where it is told to. `None` where
/// the link has no IPv6 anyway, by its MTU or by the kernel.
pub fn quiet(name: &str, mtu: u32) -> Option<Message> {
    const LEAST_MTU: u32 = 1280;
    const NO_ADDRESS: u8 = 1;
    static HAS_IPV6: std::sync::LazyLock<bool> =
        std::sync::LazyLock::new(|| gantry_linux::fs::metadata("/proc/sys/net/ipv6/conf").is_ok());
    let quiet = || {
        let family = |m: Message| m.nest(AF_INET6.into(), |m| m.attribute(ADDRESS_GENERATION, [NO_ADDRESS]));
        Message::new(libc::RTM_NEWLINK, 0, &link_header(0, 0))
            .text(libc::IFLA_IFNAME, name)
            .nest(libc::IFLA_AF_SPEC, family)
            .named("turn off IPv6 addresses of", format!("link {name}"))
    };
    (mtu >= LEAST_MTU && *HAS_IPV6).then(quiet)
}

/// Makes a link of its own hardware address on a link of the host, in the container's namespace.
#[must_use]
pub fn new_macvlan(
    inside: &str,
    parent: u32,
    mode: u32,
    mtu: Option<u32>,
    mac: [u8; 6],
    netns: BorrowedFd<'_>,
) -> Message {
    let netns = u32::try_from(netns.as_raw_fd()).unwrap_or(u32::MAX);
    let message = Message::new(libc::RTM_NEWLINK, CREATE | EXCLUSIVE, &link_header(0, 0))
        .text(libc::IFLA_IFNAME, inside)
        .attribute(libc::IFLA_ADDRESS, mac);
    // Without one it has its parent's.
    let message = mtu.into_iter().fold(message, |message, mtu| message.u32(libc::IFLA_MTU, mtu));
    message
        .u32(libc::IFLA_LINK, parent)
        .u32(libc::IFLA_NET_NS_FD, netns)
        .nest(libc::IFLA_LINKINFO, |m| m.text(INFO_KIND, "macvlan").nest(INFO_DATA, |m| m.u32(MACVLAN_MODE, mode)))
        .named("make", format!("macvlan link {inside}"))
}

/// What a link of ipvlan does with what it sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IpvlanMode {
    /// It goes to the network as it is.
    L2 = 0,
    /// The parent's namespace routes it.
    L3 = 1,
    /// The same, and it passes that namespace's firewall.
    L3s = 2,
}

/// Which links of ipvlan with one parent reach each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IpvlanFlag {
    /// All of them.
    Bridge = 0,
    /// None.
    Private = 1,
    /// By a switch outside, which sends it back.
    Vepa = 2,
}

/// Makes a link with its parent's hardware address on a link of the host, in the container's namespace.
#[must_use]
pub fn new_ipvlan(
    inside: &str,
    parent: u32,
    mode: IpvlanMode,
    flag: IpvlanFlag,
    mtu: Option<u32>,
    netns: BorrowedFd<'_>,
) -> Message {
    let netns = u32::try_from(netns.as_raw_fd()).unwrap_or(u32::MAX);
    let data = |m: Message| {
        m.attribute(IPVLAN_MODE, (mode as u16).to_ne_bytes()).attribute(IPVLAN_FLAGS, (flag as u16).to_ne_bytes())
    };
    let message =
        Message::new(libc::RTM_NEWLINK, CREATE | EXCLUSIVE, &link_header(0, 0)).text(libc::IFLA_IFNAME, inside);
    let message = mtu.into_iter().fold(message, |message, mtu| message.u32(libc::IFLA_MTU, mtu));
    message
        .u32(libc::IFLA_LINK, parent)
        .u32(libc::IFLA_NET_NS_FD, netns)
        .nest(libc::IFLA_LINKINFO, |m| m.text(INFO_KIND, "ipvlan").nest(INFO_DATA, data))
        .named("make", format!("ipvlan link {inside}"))
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

pub(super) fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { AF_INET } else { AF_INET6 }
}

pub(super) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn address(kind: u16, flags: u16, index: u32, subnet: Subnet) -> Message {
    let own = if subnet.address.is_ipv6() { NO_DETECTION } else { 0 };
    let header = [&[family(subnet.address), subnet.prefix, own, 0][..], &index.to_ne_bytes()].concat();
    Message::new(kind, flags, &header)
        .attribute(libc::IFA_LOCAL, octets(subnet.address))
        .attribute(libc::IFA_ADDRESS, octets(subnet.address))
}

/// Gives a link an address.
#[must_use]
pub fn add_address(index: u32, subnet: impl Into<Subnet>) -> Message {
    let subnet = subnet.into();
    let message = address(libc::RTM_NEWADDR, CREATE | EXCLUSIVE, index, subnet);
    let message = match subnet.address {
        IpAddr::V4(_) => message.attribute(ADDRESS_BROADCAST, octets(subnet.last())),
        IpAddr::V6(_) => message,
    };
    message.named("add", format!("address {subnet}"))
}

/// Takes an address from a link.
#[must_use]
pub fn delete_address(index: u32, subnet: impl Into<Subnet>) -> Message {
    let subnet = subnet.into();
    address(libc::RTM_DELADDR, 0, index, subnet).named("delete", format!("address {subnet}"))
}

/// Sends everything else of the gateway's family to it, wherever that went before.
#[must_use]
pub fn set_default_route(index: u32, gateway: impl Into<IpAddr>) -> Message {
    let gateway = gateway.into();
    // family, lengths, tos, table, protocol boot, scope universe, unicast, flags
    let header = [family(gateway), 0, 0, 0, MAIN_TABLE, 3, 0, 1, 0, 0, 0, 0];
    Message::new(libc::RTM_NEWROUTE, CREATE | REPLACE, &header)
        .attribute(ROUTE_GATEWAY, octets(gateway))
        .u32(ROUTE_OUT, index)
        .named("set", format!("default route by {gateway}"))
}

/// Sends everything else of the address's family by the link, as if all of it were there.
#[must_use]
pub fn set_default_link(index: u32, of: IpAddr) -> Message {
    // Its scope is the link.
    let header = [family(of), 0, 0, 0, MAIN_TABLE, 3, 253, 1, 0, 0, 0, 0];
    Message::new(libc::RTM_NEWROUTE, CREATE | REPLACE, &header)
        .u32(ROUTE_OUT, index)
        .named("set", "default route by the link itself")
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
        carries: reply.number_at(8) & LOWER_UP != 0,
        mac: attributes.find(libc::IFLA_ADDRESS).unwrap_or_default().to_vec(),
    }
}

/// The addresses of a link, of both families.
pub fn addresses(socket: &mut Socket, index: u32) -> Result<Vec<Subnet>, Error> {
    let all = all_addresses(socket)?.into_iter();
    Ok(all.filter(|(link, _)| *link == index).map(|(_, subnet)| subnet).collect())
}

/// Every address of the namespace, with the number of its link.
pub fn all_addresses(socket: &mut Socket) -> Result<Vec<(u32, Subnet)>, Error> {
    let question = Message::new(libc::RTM_GETADDR, 0, &[0; ADDRESS_HEADER]).named("list", "addresses");
    let read = |reply: &Reply| {
        let attributes = reply.attributes(ADDRESS_HEADER);
        let address = attributes.find(libc::IFA_LOCAL).or_else(|| attributes.find(libc::IFA_ADDRESS));
        Some((reply.number_at(4), Subnet { address: ip(address?)?, prefix: *reply.body.get(1)? }))
    };
    Ok(socket.dump(&question)?.iter().filter_map(read).collect())
}

/// A route of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Where it leads; prefix 0 is the default route.
    pub destination: Subnet,
    /// The link that it uses.
    pub link: Option<u32>,
    /// The lower, the better.
    pub metric: u32,
    /// The machine that it goes by; none where what it leads to is on the link itself.
    pub gateway: Option<IpAddr>,
    /// It is in the table that packets are looked up in unless a rule says otherwise.
    pub main: bool,
}

/// The routes of every table, IPv4's or IPv6's.
pub fn routes(socket: &mut Socket, of: IpFamily) -> Result<Vec<Route>, Error> {
    let (family, none) = match of {
        IpFamily::V4 => (AF_INET, IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED)),
        IpFamily::V6 => (AF_INET6, IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED)),
    };
    let header = [family, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let question = Message::new(libc::RTM_GETROUTE, 0, &header).named("list", "routes");
    let read = |reply: &Reply| {
        let attributes = reply.attributes(ROUTE_HEADER);
        let address = attributes.find(ROUTE_DESTINATION).and_then(ip).unwrap_or(none);
        Route {
            destination: Subnet { address, prefix: reply.body.get(1).copied().unwrap_or_default() },
            link: attributes.u32(ROUTE_OUT),
            metric: attributes.u32(ROUTE_PRIORITY).unwrap_or_default(),
            gateway: attributes.find(ROUTE_GATEWAY).and_then(ip),
            main: attributes.u32(ROUTE_TABLE) == Some(MAIN_TABLE.into()),
        }
    };
    Ok(socket.dump(&question)?.iter().map(read).collect())
}

/// The link by which the namespace of the socket sends to an address; none where no route leads there.
pub fn way_to(socket: &mut Socket, address: IpAddr) -> Result<Option<u32>, Error> {
    let header = [family(address), prefix_of(address), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let question = Message::new(libc::RTM_GETROUTE, 0, &header)
        .attribute(ROUTE_DESTINATION, octets(address))
        .named("find", format!("route to {address}"));
    match socket.get(question) {
        Ok(reply) => Ok(reply.attributes(ROUTE_HEADER).u32(ROUTE_OUT)),
        Err(error) if matches!(error.errno(), libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EINVAL) => Ok(None),
        Err(error) => Err(error),
    }
}

const fn prefix_of(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// Which addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "plain words")]
pub enum IpFamily {
    V4,
    V6,
}

pub(super) fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}
