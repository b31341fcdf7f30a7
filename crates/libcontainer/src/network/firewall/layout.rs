//! The tables as messages to the kernel.

use std::collections::BTreeMap;

use gantry_linux::Result;
use gantry_linux::netlink::{Message, NFTABLES, Socket};

use super::family::Family;
use super::rules::{self, BETWEEN_OTHERS, BRANCHES, CHAINS, Chain};
use super::sets::{self, Entry, Placed};
use super::{BridgeRules, Element, Options};

const NEW_TABLE: u16 = 0;
const GET_TABLE: u16 = 1;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const GET_CHAIN: u16 = 4;
const NEW_RULE: u16 = 6;
const DELETE_RULE: u16 = 8;
const NEW_SET: u16 = 9;
const NEW_ELEMENT: u16 = 12;
const GET_ELEMENT: u16 = 13;
const DELETE_ELEMENT: u16 = 14;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;
/// An attribute holds 64 KiB; an element of an IPv6 range is the longest, with 100 bytes.
const ELEMENTS_IN_MESSAGE: usize = 500;

/// Whose a table is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ownership {
    /// The socket's, and it stays when that is closed.
    Owned,
    /// Nobody's: the kernel is older than 6.9.
    Plain,
}

/// What is done to elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Add,
    Remove,
}

/// A daemon's tables.
pub struct Layout {
    pub table: String,
    pub options: Options,
    /// Other firewalls are told what was let through.
    pub told: bool,
}

fn message(family: Family, kind: u16, flags: u16) -> Message {
    Message::new(NFTABLES << 8 | kind, flags, &[family.number(), 0, 0, 0])
}

/// Whether the family has a table of this name.
pub fn exists(socket: &mut Socket, table: &str, family: Family) -> Result<bool> {
    match socket.get(message(family, GET_TABLE, 0).text(1, table).named("find nftables table", table)) {
        Ok(_) => Ok(true),
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether the family's table of this name keeps the host from forwarding between its other links.
pub fn guards_forwarding(socket: &mut Socket, table: &str, family: Family) -> Result<bool> {
    let question = message(family, GET_CHAIN, 0).text(1, table).text(3, BETWEEN_OTHERS.name);
    match socket.get(question.named("find nftables chain", BETWEEN_OTHERS.name)) {
        Ok(_) => Ok(true),
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(error),
    }
}

impl Layout {
    fn begin(&self, family: Family, kind: u16, flags: u16) -> Message {
        message(family, kind, flags).text(1, &self.table)
    }

    /// Everything but elements: made, or what is there brought to this.
    pub fn table(&self, family: Family, ownership: Ownership, anew: bool) -> Vec<Message> {
        const OWNED_AND_KEPT: u32 = 0x2 | 0x4;
        let new_table = || self.begin(family, NEW_TABLE, CREATE).named("make nftables table", &self.table);
        let mut messages = Vec::new();
        if anew {
            messages.extend([new_table(), self.delete(family)]);
        }
        messages.push(new_table().be32(2, if ownership == Ownership::Owned { OWNED_AND_KEPT } else { 0 }));
        let forwarding = match family {
            Family::V4 => self.options.forwarding,
            Family::V6 => self.options.forwarding6,
        };
        messages.extend(BRANCHES.iter().flat_map(|name| self.chain(family, name, None)));
        let hooked = CHAINS.iter().chain(forwarding.then_some(&BETWEEN_OTHERS));
        messages.extend(hooked.flat_map(|chain| self.chain(family, chain.name, Some(chain))));
        for (id, set) in (1..).zip(sets::sets(family)) {
            let described = set.describe(self.begin(family, NEW_SET, CREATE), id);
            messages.push(described.named("make nftables set", set.name));
        }
        let between_others = forwarding.then(rules::between_others).into_iter().flatten();
        for (chain, rule) in rules::rules(family, self.told).into_iter().chain(between_others) {
            let message = self.begin(family, NEW_RULE, CREATE | APPEND).text(2, chain);
            let fill = |m| rule.into_iter().fold(m, |m, expression| expression(m));
            messages.push(message.nest(4, fill).named("add nftables rule to chain", chain));
        }
        messages
    }

    /// A chain without rules.
    fn chain(&self, family: Family, name: &str, hook: Option<&Chain>) -> [Message; 2] {
        let mut made = self.begin(family, NEW_CHAIN, CREATE).text(3, name);
        if let Some(chain) = hook {
            let place = |m: Message| m.be32(1, chain.hook).attribute(2, chain.priority.to_be_bytes());
            made = made.nest(4, place).text(7, chain.kind);
        }
        let emptied = self.begin(family, DELETE_RULE, 0).text(2, name);
        [made.named("make nftables chain", name), emptied.named("empty nftables chain", name)]
    }

    /// Deletes the table.
    pub fn delete(&self, family: Family) -> Message {
        self.begin(family, DELETE_TABLE, 0).named("delete nftables table", &self.table)
    }

    /// Empties sets.
    pub fn empty(&self, family: Family, names: impl Iterator<Item = &'static str>) -> Vec<Message> {
        let empty = |set| self.begin(family, DELETE_ELEMENT, 0).text(2, set).named("empty nftables set", set);
        names.map(empty).collect()
    }

    /// The elements of a bridge.
    pub fn bridge(&self, change: Change, families: &[Family], bridge: &BridgeRules) -> Vec<Message> {
        let placed =
            families.iter().flat_map(|family| sets::of_bridge(*family, bridge).into_iter().map(|p| (*family, p)));
        let operation = if change == Change::Add { "add rules of bridge" } else { "remove rules of bridge" };
        self.elements(change, placed, operation, &bridge.name)
    }

    /// The elements of published ports.
    pub fn ports(&self, change: Change, elements: &[Element]) -> Vec<Message> {
        let placed = elements.iter().flat_map(|e| sets::of_port(e).into_iter().map(|placed| (e.family(), placed)));
        let subject = elements.first().map(ToString::to_string).unwrap_or_default();
        self.elements(change, placed, if change == Change::Add { "publish" } else { "withdraw" }, &subject)
    }

    /// Asks for one element after the other, each of which is there or not; with the set that it is to be in.
    pub fn questions(&self, family: Family, placed: Vec<Placed>) -> Vec<(&'static str, Message)> {
        let starts = placed.into_iter().filter(|(_, entry)| !entry.ends());
        let ask = |(set, entry): Placed| {
            let question = self.begin(family, GET_ELEMENT, 0).text(2, set);
            (set, question.nest(3, |m| m.nest(1, |m| entry.write(m, false))).named("find element of nftables set", set))
        };
        starts.map(ask).collect()
    }

    fn elements(
        &self,
        change: Change,
        placed: impl Iterator<Item = (Family, Placed)>,
        operation: &'static str,
        subject: &str,
    ) -> Vec<Message> {
        let mut by_set: BTreeMap<(Family, &'static str), Vec<Entry>> = BTreeMap::new();
        for (family, (set, entry)) in placed {
            by_set.entry((family, set)).or_default().push(entry);
        }
        let adds = change == Change::Add;
        let (kind, flags) = if adds { (NEW_ELEMENT, CREATE) } else { (DELETE_ELEMENT, 0) };
        let mut messages = Vec::new();
        for ((family, set), entries) in &by_set {
            for chunk in entries.chunks(ELEMENTS_IN_MESSAGE) {
                let fill = |m| chunk.iter().fold(m, |m: Message, entry| m.nest(1, |m| entry.write(m, adds)));
                messages.push(self.begin(*family, kind, flags).text(2, set).nest(3, fill).named(operation, subject));
            }
        }
        messages
    }
}
