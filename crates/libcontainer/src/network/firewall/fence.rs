//! What holds without the table: routing policy rules, which no `nft flush ruleset` reaches.
//!
//! A packet from outside that is routed to a container's subnet needs the bit of the mark that only our table sets. One
//! without it is looked up in a routing table of ours first, where the subnet's gateway is a neighbour that has the
//! bridge's own hardware address: what is sent there ends in the bridge. (It is no `blackhole`, as `rp_filter` would
//! take that for the answer to where the containers are.) The route goes when the bridge goes. What comes from an
//! internal bridge is routed to nobody but the host, whatever any table says. And the host's loopback addresses, which
//! `route_localnet` opens to the bridge, answer nobody there but by a published port.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use gantry_linux::Result;
use gantry_linux::netlink::{Message, Reply, Socket};

use super::super::link::ip;
use super::family::{FAMILIES, Family, octets};
use super::{BridgeRules, MARK};

const NEW_NEIGHBOUR: u16 = 28;
const NEW_RULE: u16 = 32;
const DELETE_RULE: u16 = 33;
const GET_RULE: u16 = 34;
const CREATE: u16 = 0x400;
const EXCLUSIVE: u16 = 0x200;
const REPLACE: u16 = 0x100;
const RULE_HEADER: usize = 12;
/// Parts of a route.
const DESTINATION: u16 = 1;
const OUT: u16 = 4;
const TABLE: u16 = 15;

/// The rules' places, before those of other programs. Daemons share them, so they are for ever; only the routing table is
/// each one's own.
const FROM_LOOPBACK: u32 = 99;
const FROM_INTERNAL: u32 = 100;
const FROM_HOST: u32 = 101;
const UNMARKED: u32 = 102;
const AFTER: u32 = 103;
/// Says of rules and routes who made them.
const MADE_BY_US: u8 = 103;

const TO_TABLE: u8 = 1;
const GO_TO: u8 = 2;
const NOTHING: u8 = 3;
const BLACKHOLE: u8 = 6;

/// The rules of one daemon.
#[derive(Debug, Clone, Copy)]
pub struct Fence {
    /// The routing table.
    table: u32,
}

impl Fence {
    /// For the daemon whose firewall has this name.
    pub fn of(name: &str) -> Self {
        // Numbers so large are nobody else's, and two daemons with the same one do each other no harm.
        let hash = name.bytes().fold(0_u32, |hash, byte| hash.wrapping_mul(31).wrapping_add(byte.into()));
        Self { table: 0x6700_0000 | hash & 0x00ff_ffff }
    }

    /// Makes the rules of a family, if they are not there, and removes those of bridges that are gone.
    pub fn raise(self, route: &mut Socket, family: Family) -> Result<()> {
        for rule in self.rules(family) {
            ignore(libc::EEXIST, route.transact(vec![rule.add()]))?;
        }
        release_gone(route, family)
    }

    /// What is needed first comes first: until the host's own packets go round it, the table must not be looked at.
    fn rules(self, family: Family) -> Vec<Rule> {
        let at = |place| Rule::at(family, place);
        let mut rules = vec![
            Rule { action: NOTHING, ..at(AFTER) },
            Rule { action: GO_TO, link: Some("lo".into()), ..at(FROM_HOST) },
            Rule { action: TO_TABLE, table: Some(self.table), ..at(UNMARKED) },
        ];
        if family == Family::V4 {
            let loopback = Rule { action: TO_TABLE, table: Some(self.table), loopback: true, ..at(FROM_LOOPBACK) };
            rules.push(Rule { link: Some("lo".into()), ..loopback });
        }
        rules
    }

    /// Shuts a bridge, which must be up.
    pub fn enclose(self, route: &mut Socket, bridge: &BridgeRules) -> Result<()> {
        for family in FAMILIES {
            let Some(subnet) = bridge.subnet(family) else { continue };
            let (index, mac) = bridge_link(route, &bridge.name)?;
            let neighbour = [&[family.number(), 0, 0, 0][..], &index.to_ne_bytes(), &[0x80, 0, 0, 0]].concat();
            let neighbour = Message::new(NEW_NEIGHBOUR, CREATE | REPLACE, &neighbour)
                .attribute(1, octets(nobody(family)))
                .attribute(2, mac)
                .named("add", format!("neighbour {} of bridge {}", nobody(family), bridge.name));
            let route_there = self.route(libc::RTM_NEWROUTE, CREATE | REPLACE, family, index, bridge);
            let named = route_there.named("add", format!("guarding route to {subnet}"));
            route.transact(vec![neighbour, named])?;
            if bridge.internal {
                ignore(libc::EEXIST, route.transact(vec![internal(family, &bridge.name).add()]))?;
            }
        }
        Ok(())
    }

    /// Undoes [`Self::enclose`]; the bridge may be gone already.
    pub fn release(self, route: &mut Socket, bridge: &BridgeRules) -> Result<()> {
        for family in FAMILIES {
            if bridge.subnet(family).is_none() {
                continue;
            }
            if bridge.internal {
                ignore(libc::ENOENT, route.transact(vec![internal(family, &bridge.name).delete()]))?;
            }
            if let Ok((index, _)) = bridge_link(route, &bridge.name) {
                let gone = self.route(libc::RTM_DELROUTE, 0, family, index, bridge);
                ignore(libc::ESRCH, route.transact(vec![gone.named("delete guarding route of", &bridge.name)]))?;
            }
        }
        Ok(())
    }

    /// Removes this daemon's rule and the routes that it leads to, and with the last daemon's rule the others; besides the
    /// rules of bridges that are gone.
    pub fn remove(self, route: &mut Socket, family: Family) -> Result<()> {
        let (own, shared): (Vec<Rule>, Vec<Rule>) =
            self.rules(family).into_iter().partition(|rule| rule.table.is_some());
        let delete = |route: &mut Socket, rules: Vec<Rule>| {
            rules.iter().try_for_each(|rule| ignore(libc::ENOENT, route.transact(vec![rule.delete()])))
        };
        delete(route, own)?;
        self.clear(route, family)?;
        release_gone(route, family)?;
        if existing(route, family)?.iter().any(|rule| rule.place == UNMARKED) {
            return Ok(());
        }
        delete(route, shared)
    }

    /// Deletes the guarding routes of bridges that are there still, and that another daemon may have by now.
    fn clear(self, route: &mut Socket, family: Family) -> Result<()> {
        const MAKER: usize = 5;
        let header = [family.number(), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let question =
            Message::new(libc::RTM_GETROUTE, 0, &header).u32(TABLE, self.table).named("list", "guarding routes");
        let replies = match route.dump(&question) {
            // There never was one.
            Err(error) if error.is_not_found() => return Ok(()),
            other => other?,
        };
        for reply in replies {
            let attributes = reply.attributes(header.len());
            let ours = attributes.u32(TABLE) == Some(self.table) && reply.body.get(MAKER) == Some(&MADE_BY_US);
            let to = attributes.find(DESTINATION).and_then(ip);
            let (Some(to), Some(link), Some(&prefix)) = (to.filter(|_| ours), attributes.u32(OUT), reply.body.get(1))
            else {
                continue;
            };
            let gone = self.message(libc::RTM_DELROUTE, 0, family, link, (to, prefix));
            ignore(
                libc::ESRCH,
                route.transact(vec![gone.named("delete", format!("guarding route to {to}/{prefix}"))]),
            )?;
        }
        Ok(())
    }

    fn route(self, kind: u16, flags: u16, family: Family, link: u32, bridge: &BridgeRules) -> Message {
        let subnet = bridge.subnet(family);
        let to = subnet.map_or((nobody(family), 0), |subnet| (subnet.network(), subnet.prefix));
        self.message(kind, flags, family, link, to)
    }

    fn message(self, kind: u16, flags: u16, family: Family, link: u32, (network, prefix): (IpAddr, u8)) -> Message {
        const ON_LINK: u32 = 4;
        // family, lengths, tos, table, maker, scope universe, unicast, flags
        let header = [&[family.number(), prefix, 0, 0, 0, MADE_BY_US, 0, 1][..], &ON_LINK.to_ne_bytes()].concat();
        Message::new(kind, flags, &header)
            .attribute(DESTINATION, octets(network))
            .attribute(5, octets(nobody(family)))
            .u32(OUT, link)
            .u32(TABLE, self.table)
    }
}

/// Removes the rules of bridges that are gone.
fn release_gone(route: &mut Socket, family: Family) -> Result<()> {
    let stale = existing(route, family)?.into_iter().filter(|rule| rule.place == FROM_INTERNAL && rule.detached);
    for rule in stale {
        let rule = Rule { action: BLACKHOLE, link: rule.link, ..Rule::at(family, FROM_INTERNAL) };
        ignore(libc::ENOENT, route.transact(vec![rule.delete()]))?;
    }
    Ok(())
}

/// An address that no machine has: the one for dummies (RFC 7600), and a link-local one made of it.
const fn nobody(family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::new(192, 0, 0, 8)),
        Family::V6 => IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0xc000, 8)),
    }
}

fn internal(family: Family, bridge: &str) -> Rule {
    Rule { action: BLACKHOLE, link: Some(bridge.into()), ..Rule::at(family, FROM_INTERNAL) }
}

struct Rule {
    family: Family,
    place: u32,
    action: u8,
    link: Option<String>,
    table: Option<u32>,
    /// Of packets from the host's loopback addresses.
    loopback: bool,
}

impl Rule {
    const fn at(family: Family, place: u32) -> Self {
        Self { family, place, action: NOTHING, link: None, table: None, loopback: false }
    }

    fn add(&self) -> Message {
        self.message(NEW_RULE, CREATE | EXCLUSIVE).named("add", self.name())
    }

    fn delete(&self) -> Message {
        self.message(DELETE_RULE, 0).named("delete", self.name())
    }

    fn name(&self) -> String {
        format!("routing rule {} of {}", self.place, self.family.name())
    }

    fn message(&self, kind: u16, flags: u16) -> Message {
        let source_prefix = if self.loopback { 8 } else { 0 };
        let header = [self.family.number(), 0, source_prefix, 0, 0, 0, 0, self.action, 0, 0, 0, 0];
        let mut m = Message::new(kind, flags, &header).u32(6, self.place).attribute(21, [MADE_BY_US]);
        if self.loopback {
            m = m.attribute(2, [127, 0, 0, 0]);
        }
        if let Some(link) = &self.link {
            m = m.text(3, link);
        }
        if self.action == GO_TO {
            m = m.u32(4, AFTER);
        }
        match self.table {
            // The bit is not set.
            Some(table) => m.u32(15, table).u32(10, 0).u32(16, MARK),
            None => m,
        }
    }
}

/// A rule of ours that is there.
struct Existing {
    place: u32,
    link: Option<String>,
    /// Its link is gone.
    detached: bool,
}

fn existing(route: &mut Socket, family: Family) -> Result<Vec<Existing>> {
    const DETACHED: u32 = 8;
    let header = [family.number(), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let replies = route.dump(&Message::new(GET_RULE, 0, &header).named("list", "routing rules"))?;
    let read = |reply: &Reply| {
        let attributes = reply.attributes(RULE_HEADER);
        let ours = attributes.find(21) == Some(&[MADE_BY_US]);
        ours.then(|| Existing {
            place: attributes.u32(6).unwrap_or(0),
            link: attributes.text(3),
            detached: reply.number_at(8) & DETACHED != 0,
        })
    };
    Ok(replies.iter().filter_map(read).collect())
}

/// A bridge's number and hardware address.
fn bridge_link(route: &mut Socket, name: &str) -> Result<(u32, Vec<u8>)> {
    let question = Message::new(libc::RTM_GETLINK, 0, &[0; 16]).text(libc::IFLA_IFNAME, name);
    let reply = route.get(question.named("find", format!("bridge {name}")))?;
    let mac = reply.attributes(16).find(libc::IFLA_ADDRESS).unwrap_or_default().to_vec();
    Ok((reply.number_at(4), mac))
}

fn ignore(errno: i32, result: Result<()>) -> Result<()> {
    match result {
        Err(error) if error.errno() == errno => Ok(()),
        other => other,
    }
}
