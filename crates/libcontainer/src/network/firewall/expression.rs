//! The few nf_tables expressions that our rules are made of. A rule is a list of them, carried out in order until one
//! does not match.

use gantry_linux::netlink::Message;

/// An expression, appended to a rule's message.
pub type Expression = Box<dyn FnOnce(Message) -> Message>;

/// Registers of four bytes begin at 8.
const REGISTER: u32 = 8;
const LIST_ELEMENT: u16 = 1;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;

/// Which link, of the packet's arrival or departure.
#[derive(Clone, Copy)]
pub enum Way {
    /// The link that it came by.
    In = 6,
    /// The link that it leaves by.
    Out = 7,
}

/// Which address of the packet, by its offset in the IPv4 header.
#[derive(Clone, Copy)]
pub enum End {
    /// Where it comes from.
    Source = 12,
    /// Where it goes.
    Destination = 16,
}

fn expression(name: &'static str, data: impl FnOnce(Message) -> Message + 'static) -> Expression {
    Box::new(move |m| m.nest(LIST_ELEMENT, |m| m.text(1, name).nest(2, data)))
}

fn compare(equal: bool, value: Vec<u8>) -> Expression {
    expression("cmp", move |m| {
        m.be32(1, REGISTER).be32(2, u32::from(!equal)).nest(3, |m| m.attribute(DATA_VALUE, value))
    })
}

fn and_mask(mask: Vec<u8>) -> Expression {
    let zero = vec![0; mask.len()];
    expression("bitwise", move |m| {
        m.be32(1, REGISTER)
            .be32(2, REGISTER)
            .be32(3, 4)
            .nest(4, |m| m.attribute(DATA_VALUE, mask))
            .nest(5, |m| m.attribute(DATA_VALUE, zero))
    })
}

fn meta(register: u32, key: u32) -> Expression {
    expression("meta", move |m| m.be32(1, register).be32(2, key))
}

fn payload(register: u32, base: u32, offset: u32, length: u32) -> Expression {
    expression("payload", move |m| m.be32(1, register).be32(2, base).be32(3, offset).be32(4, length))
}

/// The packet's link is, or is not, the one of this name.
pub fn link(way: Way, equal: bool, name: &str) -> Vec<Expression> {
    let mut padded = name.as_bytes().to_vec();
    padded.resize(16, 0);
    // A link's name takes four registers, which the comparison reads at once.
    vec![meta(REGISTER, way as u32), compare(equal, padded)]
}

/// The packet's link is of this kind; one without a kind, as a network card is, does not match.
pub fn kind(way: Way, name: &str) -> Vec<Expression> {
    const KIND_AFTER_NAME: u32 = 20;
    let mut padded = name.as_bytes().to_vec();
    padded.resize(16, 0);
    vec![meta(REGISTER, way as u32 + KIND_AFTER_NAME), compare(true, padded)]
}

/// The address is in the network.
pub fn within(end: End, network: [u8; 4], mask: u32) -> Vec<Expression> {
    let load = payload(REGISTER, 1, end as u32, 4);
    vec![load, and_mask(mask.to_be_bytes().to_vec()), compare(true, network.to_vec())]
}

/// The packet is for an address of the host itself.
pub fn for_host() -> Vec<Expression> {
    const LOCAL: u32 = 2;
    let fib = expression("fib", |m| m.be32(1, REGISTER).be32(2, 3).be32(3, 2));
    vec![fib, compare(true, LOCAL.to_ne_bytes().to_vec())]
}

fn conntrack(key: u32, bits: u32, set: bool) -> Vec<Expression> {
    let load = expression("ct", move |m| m.be32(1, REGISTER).be32(2, key));
    vec![load, and_mask(bits.to_ne_bytes().to_vec()), compare(!set, vec![0; 4])]
}

/// The connection's destination was, or was not, translated.
pub fn translated(yes: bool) -> Vec<Expression> {
    conntrack(2, 0x20, yes)
}

/// The packet belongs to no connection that was let through before.
pub fn not_established() -> Vec<Expression> {
    const ESTABLISHED_OR_RELATED: u32 = 2 | 4;
    conntrack(0, ESTABLISHED_OR_RELATED, false)
}

/// Looks the destination up in a map and sends the packet where the map says.
pub fn redirect(map: &'static str, with_address: bool) -> Vec<Expression> {
    let mut rule = Vec::new();
    let mut register = REGISTER;
    if with_address {
        rule.push(payload(register, 1, End::Destination as u32, 4));
        register += 1;
    }
    rule.push(meta(register, 16));
    rule.push(payload(register + 1, 2, 2, 2));
    rule.push(expression("lookup", move |m| m.text(1, map).be32(2, REGISTER).be32(3, REGISTER)));
    rule.push(expression("nat", |m| m.be32(1, 1).be32(2, 2).be32(3, REGISTER).be32(5, REGISTER + 1)));
    rule
}

/// Gives the packet the address of the link that it leaves by.
pub fn masquerade() -> Vec<Expression> {
    vec![expression("masq", |m| m)]
}

/// Ends the packet.
pub fn drop_packet() -> Vec<Expression> {
    verdict(0)
}

/// Ends this chain for the packet; other tables still decide.
pub fn pass() -> Vec<Expression> {
    verdict(1)
}

fn verdict(code: u32) -> Vec<Expression> {
    vec![expression("immediate", move |m| m.be32(1, 0).nest(2, |m| m.nest(DATA_VERDICT, |m| m.be32(1, code))))]
}
