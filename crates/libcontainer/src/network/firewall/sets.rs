//! The table's sets and maps, and what is in them: bridges, subnets and published ports.

use std::net::IpAddr;

use gantry_linux::netlink::Message;

use super::expression::padded;
use super::family::{Family, octets};
use super::{BridgeRules, Element};
use crate::network::{Protocol, Subnet};

/// Our bridges.
pub const BRIDGES: &str = "bridges";
/// A bridge twice, what comes by it and leaves by it, where its containers speak to each other.
pub const OPEN: &str = "open";
/// Bridges that nothing leaves and nothing enters.
pub const INTERNAL: &str = "internal";
/// Subnets that can be entered.
pub const SUBNETS: &str = "subnets";
/// Subnets whose addresses stay on the host.
pub const MASQUERADED: &str = "masqueraded";
/// Subnets with the bridges that they are on.
pub const HOME: &str = "home";
/// Ports published on one address of the host.
pub const PUBLISHED: &str = "published";
/// Ports published on all of them.
pub const PUBLISHED_ANY: &str = "published-any";
/// Ranges of ports that are the same inside.
pub const PUBLISHED_RANGES: &str = "published-ranges";

/// A part of a set's key or of a map's value: its number among `nft`'s types, its bytes, and whether the machine's
/// byte order is meant.
#[derive(Clone, Copy)]
struct Part {
    number: u32,
    bytes: u32,
    own_order: bool,
}

const LINK: Part = Part { number: 41, bytes: 16, own_order: true };
const PROTOCOL: Part = Part { number: 12, bytes: 1, own_order: false };
const PORT: Part = Part { number: 13, bytes: 2, own_order: false };

const fn address(family: Family) -> Part {
    match family {
        Family::V4 => Part { number: 7, bytes: 4, own_order: false },
        Family::V6 => Part { number: 8, bytes: 16, own_order: false },
    }
}

/// A set, or a map where it has values.
pub struct Set {
    pub name: &'static str,
    key: Vec<Part>,
    value: Vec<Part>,
    intervals: bool,
}

/// Every set of a family's table. Only subnets and ranges are intervals: an element of those costs the more, the more
/// there are.
pub fn sets(family: Family) -> Vec<Set> {
    let address = address(family);
    let set = |name, key: &[Part]| Set { name, key: key.to_vec(), value: Vec::new(), intervals: false };
    let intervals = |set| Set { intervals: true, ..set };
    let map = |set, value: &[Part]| Set { value: value.to_vec(), ..set };
    vec![
        set(BRIDGES, &[LINK]),
        set(OPEN, &[LINK, LINK]),
        set(INTERNAL, &[LINK]),
        intervals(set(SUBNETS, &[address])),
        intervals(set(MASQUERADED, &[address])),
        intervals(set(HOME, &[address, LINK])),
        map(set(PUBLISHED, &[address, PROTOCOL, PORT]), &[address, PORT]),
        map(set(PUBLISHED_ANY, &[PROTOCOL, PORT]), &[address, PORT]),
        intervals(map(set(PUBLISHED_RANGES, &[address, PROTOCOL, PORT]), &[address])),
    ]
}

fn number(parts: &[Part]) -> u32 {
    parts.iter().fold(0, |number, part| number << 6 | part.number)
}

/// In registers of four bytes.
fn length(parts: &[Part]) -> u32 {
    parts.iter().map(|part| part.bytes.next_multiple_of(4)).sum()
}

impl Set {
    /// Describes the set to the kernel, and in its notes to `nft`.
    pub fn describe(&self, message: Message, id: u32) -> Message {
        const INTERVALS: u32 = 4;
        const MAP: u32 = 8;
        const CONCATENATED: u32 = 0x80;
        let (single, is_map) = (self.key.len() == 1, !self.value.is_empty());
        let flags = [(self.intervals, INTERVALS), (is_map, MAP), (self.intervals && !single, CONCATENATED)];
        let flags = flags.iter().filter(|(set, _)| *set).fold(0, |flags, (_, flag)| flags | flag);
        // A key of one part is as long as that part.
        let key_length = if single { self.key[0].bytes } else { length(&self.key) };
        let mut m = message.text(2, self.name).be32(3, flags).be32(4, number(&self.key)).be32(5, key_length);
        if is_map {
            let value_length = if self.value.len() == 1 { self.value[0].bytes } else { length(&self.value) };
            m = m.be32(6, number(&self.value)).be32(7, value_length);
        }
        if self.intervals && !single {
            let fields = |m| self.key.iter().fold(m, |m: Message, part| m.nest(1, |m| m.be32(1, part.bytes)));
            m = m.nest(9, |m| m.nest(2, fields));
        }
        m = m.be32(10, id);
        if single {
            const BYTE_ORDER_OF_KEY: [u8; 2] = [0, 4];
            let order: u32 = if self.key[0].own_order { 1 } else { 2 };
            m = m.attribute(13, [&BYTE_ORDER_OF_KEY[..], &order.to_ne_bytes()].concat());
        }
        m
    }
}

/// An element as the kernel has it.
#[derive(Debug, Default)]
pub struct Entry {
    key: Vec<u8>,
    /// The last key of an interval of several parts.
    last: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    /// The first key behind an interval of one part.
    ends: bool,
}

impl Entry {
    fn of(key: Vec<u8>) -> Self {
        Self { key, ..Self::default() }
    }

    /// Whether it only says where an interval ends.
    pub const fn ends(&self) -> bool {
        self.ends
    }

    pub fn write(&self, message: Message, with_value: bool) -> Message {
        const VALUE: u16 = 1;
        let data = |bytes: &[u8]| {
            let bytes = bytes.to_vec();
            |m: Message| m.attribute(VALUE, bytes)
        };
        let mut m = message.nest(1, data(&self.key));
        if let Some(value) = self.value.as_ref().filter(|_| with_value) {
            m = m.nest(2, data(value));
        }
        if self.ends {
            m = m.be32(3, 1);
        }
        match &self.last {
            Some(last) => m.nest(10, data(last)),
            None => m,
        }
    }
}

/// A set with an element of it.
pub type Placed = (&'static str, Entry);

/// What a bridge is, in one family's sets.
pub fn of_bridge(family: Family, bridge: &BridgeRules) -> Vec<Placed> {
    let name = || padded(&bridge.name);
    let mut placed = vec![(BRIDGES, Entry::of(name()))];
    if bridge.icc {
        placed.push((OPEN, Entry::of([name(), name()].concat())));
    }
    if bridge.internal {
        placed.push((INTERNAL, Entry::of(name())));
    }
    let Some(subnet) = bridge.subnet(family) else { return placed };
    let (first, last) = (octets(subnet.network()), octets(subnet.last()));
    let at_home = |address: &[u8]| [address, &name()].concat();
    placed.push((HOME, Entry { last: Some(at_home(&last)), ..Entry::of(at_home(&first)) }));
    if !bridge.internal {
        placed.extend(interval(SUBNETS, subnet));
        if bridge.masquerade {
            placed.extend(interval(MASQUERADED, subnet));
        }
    }
    placed
}

fn interval(set: &'static str, subnet: Subnet) -> Vec<Placed> {
    let mut placed = vec![(set, Entry::of(octets(subnet.network())))];
    let mut behind = octets(subnet.last());
    // Plus one, with its carry; behind the last address of all there is nothing.
    let carried = behind.iter_mut().rev().find_map(|byte| {
        *byte = byte.wrapping_add(1);
        (*byte != 0).then_some(())
    });
    if carried.is_some() {
        placed.push((set, Entry { ends: true, ..Entry::of(behind) }));
    }
    placed
}

/// What a published port is, in its family's maps: one element for a port and for a range that is the same inside,
/// else one for each port of it, as the kernel would send a whole range to the first port.
pub fn of_port(element: &Element) -> Vec<Placed> {
    let protocol = number_of(element.protocol);
    let key = |host: IpAddr, port: u16| {
        let part = [protocol, 0, 0, 0];
        [octets(host), part.to_vec(), in_register(port)].concat()
    };
    if element.last_port > element.host_port && element.host_port == element.container_port {
        let last_host = if element.host.is_unspecified() { highest(element.host) } else { element.host };
        let entry = Entry {
            last: Some(key(last_host, element.last_port)),
            value: Some(octets(element.container)),
            ..Entry::of(key(element.host, element.host_port))
        };
        return vec![(PUBLISHED_RANGES, entry)];
    }
    let one = |port: u16| {
        let inside = element.container_port.wrapping_add(port - element.host_port);
        let value = Some([octets(element.container), in_register(inside)].concat());
        if element.host.is_unspecified() {
            let short = [vec![protocol, 0, 0, 0], in_register(port)].concat();
            (PUBLISHED_ANY, Entry { value, ..Entry::of(short) })
        } else {
            (PUBLISHED, Entry { value, ..Entry::of(key(element.host, port)) })
        }
    };
    (element.host_port..=element.last_port.max(element.host_port)).map(one).collect()
}

fn in_register(port: u16) -> Vec<u8> {
    [port.to_be_bytes(), [0; 2]].concat()
}

fn highest(address: IpAddr) -> IpAddr {
    Subnet { address, prefix: 0 }.last()
}

const fn number_of(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

/// Whether the set is about bridges, not ports.
pub fn is_of_bridges(set: &str) -> bool {
    ![PUBLISHED, PUBLISHED_ANY, PUBLISHED_RANGES].contains(&set)
}
