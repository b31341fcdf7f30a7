//! The few nf_tables expressions that our rules are made of. A rule is a list of them, carried out in order until one
//! does not match.

use std::net::Ipv4Addr;

use gantry_linux::netlink::Message;

use super::family::Family;

/// An expression, appended to a rule's message.
pub type Expression = Box<dyn FnOnce(Message) -> Message>;

/// Registers of four bytes begin at 8.
const REGISTER: u32 = 8;
const LIST_ELEMENT: u16 = 1;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
const MARK: u32 = 3;
const TRANSPORT_PROTOCOL: u32 = 16;
const INVERTED: u32 = 1;

/// Which link, of the packet's arrival or departure.
#[derive(Clone, Copy)]
pub enum Way {
    /// The link that it came by.
    In = 6,
    /// The link that it leaves by.
    Out = 7,
}

/// Which address of the packet.
#[derive(Clone, Copy)]
pub enum End {
    /// Where it comes from.
    Source,
    /// Where it goes.
    Destination,
}

/// What a rule looks up in a set: it takes the registers from the first on, one after the other.
#[derive(Clone, Copy)]
pub enum Key {
    Address(End),
    Link(Way),
    Protocol,
    Port,
}

fn expression(name: &'static str, data: impl FnOnce(Message) -> Message + 'static) -> Expression {
    Box::new(move |m| m.nest(LIST_ELEMENT, |m| m.text(1, name).nest(2, data)))
}

fn compare(equal: bool, value: Vec<u8>) -> Expression {
    expression("cmp", move |m| {
        m.be32(1, REGISTER).be32(2, u32::from(!equal)).nest(3, |m| m.attribute(DATA_VALUE, value))
    })
}

fn bits(mask: Vec<u8>, flip: Vec<u8>) -> Expression {
    let length = u32::try_from(mask.len()).unwrap_or(0);
    expression("bitwise", move |m| {
        m.be32(1, REGISTER)
            .be32(2, REGISTER)
            .be32(3, length)
            .nest(4, |m| m.attribute(DATA_VALUE, mask))
            .nest(5, |m| m.attribute(DATA_VALUE, flip))
    })
}

fn meta(register: u32, key: u32) -> Expression {
    expression("meta", move |m| m.be32(1, register).be32(2, key))
}

fn payload(register: u32, base: u32, offset: u32, length: u32) -> Expression {
    expression("payload", move |m| m.be32(1, register).be32(2, base).be32(3, offset).be32(4, length))
}

fn load_address(family: Family, end: End, register: u32) -> Expression {
    load_octets(family, end, register, family.address_length())
}

/// The first octets of an address.
fn load_octets(family: Family, end: End, register: u32, octets: u32) -> Expression {
    let source = match family {
        Family::V4 => 12,
        Family::V6 => 8,
    };
    let offset = if matches!(end, End::Source) { source } else { source + family.address_length() };
    payload(register, NETWORK_HEADER, offset, octets)
}

/// The packet's link is, or is not, the one of this name.
pub fn link(way: Way, equal: bool, name: &str) -> Vec<Expression> {
    // A link's name takes four registers, which the comparison reads at once.
    vec![meta(REGISTER, way as u32), compare(equal, padded(name))]
}

/// The packet's link is of this kind; one without a kind, as a network card is, does not match.
pub fn kind(way: Way, name: &str) -> Vec<Expression> {
    const KIND_AFTER_NAME: u32 = 20;
    vec![meta(REGISTER, way as u32 + KIND_AFTER_NAME), compare(true, padded(name))]
}

/// A link's name as the kernel compares it.
pub fn padded(name: &str) -> Vec<u8> {
    let mut padded = name.as_bytes().to_vec();
    padded.resize(16, 0);
    padded
}

/// The address is one of this host's own loopback.
pub fn loopback(family: Family, end: End) -> Vec<Expression> {
    match family {
        // The first byte says it.
        Family::V4 => vec![load_octets(family, end, REGISTER, 1), compare(true, vec![127])],
        Family::V6 => {
            let own = std::net::Ipv6Addr::LOCALHOST.octets();
            vec![load_address(family, end, REGISTER), compare(true, own.to_vec())]
        }
    }
}

/// The packet is, or is not, for an address of the host itself.
pub fn for_host(wanted: bool) -> Vec<Expression> {
    const LOCAL: u32 = 2;
    let fib = expression("fib", |m| m.be32(1, REGISTER).be32(2, 3).be32(3, 2));
    vec![fib, compare(wanted, LOCAL.to_ne_bytes().to_vec())]
}

fn conntrack(key: u32, wanted: u32) -> Vec<Expression> {
    let load = expression("ct", move |m| m.be32(1, REGISTER).be32(2, key));
    vec![load, bits(wanted.to_ne_bytes().to_vec(), vec![0; 4]), compare(false, vec![0; 4])]
}

/// The connection's destination was translated.
pub fn translated() -> Vec<Expression> {
    conntrack(2, 0x20)
}

/// The packet belongs to a connection that was let through before.
pub fn established() -> Vec<Expression> {
    const ESTABLISHED_OR_RELATED: u32 = 2 | 4;
    conntrack(0, ESTABLISHED_OR_RELATED)
}

fn load_keys(family: Family, keys: &[Key]) -> Vec<Expression> {
    let mut register = REGISTER;
    let mut rule = Vec::with_capacity(keys.len() + 2);
    for key in keys {
        let (load, registers) = match *key {
            Key::Address(end) => (load_address(family, end, register), family.address_length() / 4),
            Key::Link(way) => (meta(register, way as u32), 4),
            Key::Protocol => (meta(register, TRANSPORT_PROTOCOL), 1),
            Key::Port => (payload(register, TRANSPORT_HEADER, 2, 2), 1),
        };
        rule.push(load);
        register += registers;
    }
    rule
}

/// The packet is, or is not, in the set.
pub fn is_in(family: Family, keys: &[Key], set: &'static str, wanted: bool) -> Vec<Expression> {
    let mut rule = load_keys(family, keys);
    rule.push(expression("lookup", move |m| {
        let m = m.text(1, set).be32(2, REGISTER);
        if wanted { m } else { m.be32(5, INVERTED) }
    }));
    rule
}

/// Looks the packet up in a map and sends it to the address that the map says, and to the port, where the map has one.
pub fn redirect(family: Family, keys: &[Key], map: &'static str, with_port: bool) -> Vec<Expression> {
    let mut rule = load_keys(family, keys);
    rule.push(expression("lookup", move |m| m.text(1, map).be32(2, REGISTER).be32(3, REGISTER)));
    let port = REGISTER + family.address_length() / 4;
    rule.push(expression("nat", move |m| {
        const DESTINATION: u32 = 1;
        let m = m.be32(1, DESTINATION).be32(2, u32::from(family.number())).be32(3, REGISTER);
        if with_port { m.be32(5, port) } else { m }
    }));
    rule
}

/// A transport's number, and where in its header the checksum is.
#[derive(Clone, Copy)]
pub struct Transport(pub u8, pub u32);

/// Writes another port where a packet of this transport has this address and this port.
pub fn rewrite_port(end: End, address: Ipv4Addr, transport: Transport, from: u16, to: u16) -> Vec<Expression> {
    const INTERNET_CHECKSUM: u32 = 1;
    let Transport(protocol, checksum_at) = transport;
    let port_at = if matches!(end, End::Source) { 0 } else { 2 };
    vec![
        load_address(Family::V4, end, REGISTER),
        compare(true, address.octets().to_vec()),
        meta(REGISTER, TRANSPORT_PROTOCOL),
        compare(true, vec![protocol]),
        payload(REGISTER, TRANSPORT_HEADER, port_at, 2),
        compare(true, from.to_be_bytes().to_vec()),
        expression("immediate", move |m| m.be32(1, REGISTER).nest(2, |m| m.attribute(DATA_VALUE, to.to_be_bytes()))),
        expression("payload", move |m| {
            let m = m.be32(2, TRANSPORT_HEADER).be32(3, port_at).be32(4, 2).be32(5, REGISTER);
            m.be32(6, INTERNET_CHECKSUM).be32(7, checksum_at)
        }),
    ]
}

/// Sets a bit of the packet's mark.
pub fn mark(bit: u32) -> Vec<Expression> {
    let flip = bits((!bit).to_ne_bytes().to_vec(), bit.to_ne_bytes().to_vec());
    vec![meta(REGISTER, MARK), flip, expression("meta", |m| m.be32(3, REGISTER).be32(2, MARK))]
}

/// The bit of the packet's mark is set.
pub fn marked(bit: u32) -> Vec<Expression> {
    let mask = bits(bit.to_ne_bytes().to_vec(), vec![0; 4]);
    vec![meta(REGISTER, MARK), mask, compare(true, bit.to_ne_bytes().to_vec())]
}

/// Counts what gets here.
pub fn count() -> Vec<Expression> {
    vec![expression("counter", |m| m)]
}

/// Gives the packet the address of the link that it leaves by.
pub fn masquerade() -> Vec<Expression> {
    vec![expression("masq", |m| m)]
}

/// Ends the packet.
pub fn drop_packet() -> Vec<Expression> {
    verdict(0, None)
}

/// Ends this chain for the packet; other tables still decide.
pub fn pass() -> Vec<Expression> {
    verdict(1, None)
}

/// Goes on in another chain, and does not come back.
pub fn go_to(chain: &'static str) -> Vec<Expression> {
    const GOTO: i32 = -4;
    verdict(GOTO.cast_unsigned(), Some(chain))
}

fn verdict(code: u32, chain: Option<&'static str>) -> Vec<Expression> {
    let data = move |m: Message| {
        let m = m.be32(1, code);
        chain.map_or(m.clone(), |chain| m.text(2, chain))
    };
    vec![expression("immediate", move |m| m.be32(1, 0).nest(2, |m| m.nest(DATA_VERDICT, data)))]
}
