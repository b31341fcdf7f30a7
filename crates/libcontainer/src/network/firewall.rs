//! The firewall of one bridge: one nftables table of its name, loaded once; publishing a port adds an element to a map.
//!
//! Nobody else's table is touched, and nothing is accepted here that another table drops. Where the kernel can (6.9),
//! the table belongs to this daemon's socket, so that `nft flush ruleset` passes it by, and outlives it: the next
//! daemon takes it over with the elements of the containers that ran on.

mod expression;
mod rules;

use std::net::Ipv4Addr;

use gantry_linux::Result;
use gantry_linux::netlink::{Message, NFTABLES, Socket, transaction};

use super::{Cidr, Protocol};

const NEW_TABLE: u16 = 0;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const NEW_RULE: u16 = 6;
const DELETE_RULE: u16 = 8;
const NEW_SET: u16 = 9;
const NEW_ELEMENT: u16 = 12;
const DELETE_ELEMENT: u16 = 14;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;
/// The table belongs to the socket, and stays when that is closed.
const OWNED_AND_KEPT: u32 = 0x2 | 0x4;
/// Ports published on one address of the host.
const BY_ADDRESS: &str = "published";
/// Ports published on all of them.
const BY_PORT: &str = "published-any";
/// An attribute holds 64 KiB; an element less than 80 bytes.
const ELEMENTS_IN_MESSAGE: usize = 500;

/// A published port as the firewall sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Element {
    /// On the host; unspecified is every address.
    pub host: Ipv4Addr,
    /// Transport.
    pub protocol: Protocol,
    /// On the host.
    pub host_port: u16,
    /// The container's address.
    pub container: Ipv4Addr,
    /// Inside the container.
    pub container_port: u16,
}

/// The table. The socket is kept open: it owns the table.
#[derive(Debug)]
pub struct Firewall {
    socket: Socket,
    table: String,
    subnet: Cidr,
    icc: bool,
    forwarding: bool,
}

impl Firewall {
    /// Loads the table, or takes over the one that is there with its elements. `icc` lets containers speak to each
    /// other; `forwarding` is turned on by us, and the host is to forward nothing else.
    ///
    /// # Errors
    /// `EPERM` when the table belongs to the socket of another process that runs; whatever else the kernel refuses.
    pub fn load(bridge: &str, subnet: Cidr, icc: bool, forwarding: bool) -> Result<Self> {
        let mut firewall = Self { socket: Socket::netfilter()?, table: bridge.into(), subnet, icc, forwarding };
        firewall.load_layout(&[])?;
        Ok(firewall)
    }

    /// The whole table, with these elements and those that are there.
    fn load_layout(&mut self, elements: &[Element]) -> Result<()> {
        let mut failure = None;
        // Owned, else plain (older kernel); and what is there taken over, else made anew.
        for (flags, anew) in [(OWNED_AND_KEPT, false), (OWNED_AND_KEPT, true), (0, false), (0, true)] {
            let mut messages = self.layout(flags, anew);
            messages.extend(self.changes(NEW_ELEMENT, elements));
            match self.socket.transact(transaction(messages)) {
                Ok(()) => return Ok(()),
                Err(error) if !matches!(error.errno(), libc::EOPNOTSUPP | libc::EEXIST | libc::EINVAL) => {
                    return Err(error);
                }
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        failure.map_or(Ok(()), Err)
    }

    /// Adds elements; one that is there already is fine if it says the same. `false`: somebody deleted the table or a
    /// part of it, and nothing was added; [`Self::replace`] brings all of it back.
    pub fn add(&mut self, elements: &[Element]) -> Result<bool> {
        match self.socket.transact(transaction(self.changes(NEW_ELEMENT, elements))) {
            Ok(()) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Removes elements, all of which must be there.
    pub fn remove(&mut self, elements: &[Element]) -> Result<()> {
        self.socket.transact(transaction(self.changes(DELETE_ELEMENT, elements)))
    }

    /// Makes these all the elements there are, in one step; with the whole table where somebody deleted it.
    pub fn replace(&mut self, elements: &[Element]) -> Result<()> {
        let flush = |map| self.message(DELETE_ELEMENT, 0).text(1, &self.table).text(2, map).named("empty map", map);
        let mut messages = vec![flush(BY_ADDRESS), flush(BY_PORT)];
        messages.extend(self.changes(NEW_ELEMENT, elements));
        match self.socket.transact(transaction(messages)) {
            Err(error) if error.is_not_found() => self.load_layout(elements),
            other => other,
        }
    }

    /// Deletes the table.
    pub fn delete(&mut self) -> Result<()> {
        let message = self.message(DELETE_TABLE, 0).text(1, &self.table);
        self.socket.transact(transaction(vec![message.named("delete nftables table", &self.table)]))
    }

    fn layout(&self, flags: u32, anew: bool) -> Vec<Message> {
        let table = |m: Message| m.text(1, &self.table);
        let new_table = || table(self.message(NEW_TABLE, CREATE)).named("make nftables table", &self.table);
        let mut messages = Vec::new();
        if anew {
            messages.push(new_table());
            messages.push(table(self.message(DELETE_TABLE, 0)).named("delete nftables table", &self.table));
        }
        messages.push(new_table().be32(2, flags));
        let guard = self.forwarding.then_some(rules::BETWEEN_OTHERS);
        for chain in rules::CHAINS.into_iter().chain(guard) {
            let message = table(self.message(NEW_CHAIN, CREATE))
                .text(3, chain.name)
                .nest(4, |m| m.be32(1, chain.hook).attribute(2, chain.priority.to_be_bytes()));
            messages.push(message.text(7, chain.kind).named("make nftables chain", chain.name));
            let empty = table(self.message(DELETE_RULE, 0)).text(2, chain.name);
            messages.push(empty.named("empty nftables chain", chain.name));
        }
        for (id, (map, type_of_key, length)) in (1..).zip([(BY_ADDRESS, 0x730d, 12), (BY_PORT, 0x30d, 8)]) {
            const IS_MAP: u32 = 8;
            // Types as `nft` numbers them, six bits each: address . protocol . port, and address . port.
            let key = |m: Message| m.be32(3, IS_MAP).be32(4, type_of_key).be32(5, length);
            let message = key(table(self.message(NEW_SET, CREATE)).text(2, map)).be32(6, 0x1cd).be32(7, 8).be32(10, id);
            messages.push(message.named("make nftables map", map));
        }
        let guard = self.forwarding.then(rules::between_others).into_iter().flatten();
        for (chain, rule) in rules::rules(&self.table, self.subnet, self.icc).into_iter().chain(guard) {
            let message = table(self.message(NEW_RULE, CREATE | APPEND)).text(2, chain);
            let fill = |m| rule.into_iter().fold(m, |m, expression| expression(m));
            messages.push(message.nest(4, fill).named("add nftables rule to chain", chain));
        }
        messages
    }

    fn changes(&self, kind: u16, elements: &[Element]) -> Vec<Message> {
        let operation = if kind == NEW_ELEMENT { "publish" } else { "withdraw" };
        let (any, one): (Vec<&Element>, Vec<&Element>) = elements.iter().partition(|e| e.host.is_unspecified());
        let mut messages = Vec::new();
        for (map, list) in [(BY_ADDRESS, one), (BY_PORT, any)] {
            for chunk in list.chunks(ELEMENTS_IN_MESSAGE) {
                let flags = if kind == NEW_ELEMENT { CREATE } else { 0 };
                let message = self.message(kind, flags).text(1, &self.table).text(2, map).nest(3, |m| {
                    chunk.iter().fold(m, |m, element| m.nest(1, |m| element.write(m, kind == NEW_ELEMENT)))
                });
                messages.push(message.named(operation, chunk[0].to_string()));
            }
        }
        messages
    }

    #[allow(clippy::unused_self, reason = "reads as the table's message")]
    fn message(&self, kind: u16, flags: u16) -> Message {
        const IPV4: u8 = 2;
        Message::new(NFTABLES << 8 | kind, flags, &[IPV4, 0, 0, 0])
    }
}

impl Element {
    fn write(&self, message: Message, with_data: bool) -> Message {
        const VALUE: u16 = 1;
        let port = |number: u16| [number.to_be_bytes(), [0; 2]].concat();
        let mut key = Vec::new();
        if !self.host.is_unspecified() {
            key.extend(self.host.octets());
        }
        let protocol = match self.protocol {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
        };
        key.extend([protocol, 0, 0, 0]);
        key.extend(port(self.host_port));
        let message = message.nest(1, |m| m.attribute(VALUE, key));
        if !with_data {
            return message;
        }
        let data = [self.container.octets().to_vec(), port(self.container_port)].concat();
        message.nest(2, |m| m.attribute(VALUE, data))
    }
}

impl std::fmt::Display for Element {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "port {}:{} to {}:{}", self.host, self.host_port, self.container, self.container_port)
    }
}
