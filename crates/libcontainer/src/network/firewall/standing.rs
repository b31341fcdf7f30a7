//! The tables like ours that the host has, whosesoever they are, and which of them keep it from forwarding for others.

use gantry_linux::Result;
use gantry_linux::netlink::{Message, NFTABLES, Reply, Socket};

use super::family::{FAMILIES, Family};
use super::layout::Layout;
use super::rules::{BETWEEN_OTHERS, CHAINS};
use super::{BridgeRules, Firewall, Options, others, sets};

const GET_TABLE: u16 = 1;
const OWNED: u32 = 0x2;
const KEPT: u32 = 0x4;

/// The tables of one name, of both families, as the kernel has them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// Their name.
    pub name: String,
    /// One of them has not got the chains of ours.
    pub foreign: bool,
    /// A daemon that runs has them in its hands. On kernels before 6.9 it is not known.
    pub held: bool,
    /// They outlive their daemon.
    kept: bool,
    /// They keep the host from forwarding IPv4 between its other links.
    pub guards: bool,
    /// The same of IPv6.
    pub guards6: bool,
}

impl Firewall {
    /// Every nftables table of IPv4 and IPv6, by its name.
    ///
    /// # Errors
    /// The kernel's refusals.
    pub fn standing() -> Result<Vec<Standing>> {
        let mut socket = Socket::netfilter()?;
        let mut tables = Vec::new();
        for family in FAMILIES {
            let question = Message::new(NFTABLES << 8 | GET_TABLE, 0, &[family.number(), 0, 0, 0]);
            let replies = socket.dump(&question.named("list", "nftables tables"))?;
            tables.extend(replies.iter().filter_map(|reply| read(family, reply)));
        }
        // Afterwards: a table that goes meanwhile has no chains, and is not taken for one of ours.
        let chains = others::chains(&mut socket)?;
        let mut all: Vec<Standing> = Vec::new();
        for (family, name, flags) in tables {
            let has = |chain: &str| {
                chains
                    .iter()
                    .any(|there| (there.family, &*there.table, &*there.name) == (family.number(), &*name, chain))
            };
            let (foreign, guards) = (!CHAINS.iter().all(|chain| has(chain.name)), has(BETWEEN_OTHERS.name));
            let at = all.iter().position(|standing| standing.name == name).unwrap_or_else(|| {
                all.push(Standing { name: name.clone(), ..Standing::default() });
                all.len() - 1
            });
            let standing = &mut all[at];
            standing.foreign |= foreign;
            standing.held |= flags & OWNED != 0;
            standing.kept |= flags & KEPT != 0;
            match family {
                Family::V4 => standing.guards |= guards,
                Family::V6 => standing.guards6 |= guards,
            }
        }
        Ok(all)
    }

    /// Tables like ours that are kept for daemons of other names, none of which has its own in its hands now.
    ///
    /// # Errors
    /// The kernel's refusals.
    pub fn orphans(own: &str) -> Result<Vec<String>> {
        let orphan = |table: &Standing| table.name != own && table.kept && !table.held && !table.foreign;
        Ok(Self::standing()?.into_iter().filter(orphan).map(|table| table.name).collect())
    }

    /// Whether the tables of this name know the bridge.
    ///
    /// # Errors
    /// The kernel's refusals.
    pub fn knows(table: &str, bridge: &str) -> Result<bool> {
        let layout = Layout { table: table.into(), options: Options::default(), told: false };
        let bridge = BridgeRules {
            name: bridge.into(),
            subnet4: None,
            subnet6: None,
            icc: false,
            masquerade: false,
            internal: false,
        };
        let mut socket = Socket::netfilter()?;
        for (_, question) in layout.questions(Family::V4, sets::of_bridge(Family::V4, &bridge)) {
            match socket.get(question) {
                Ok(_) => {}
                Err(error) if error.is_not_found() => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Whether the tables keep the host from forwarding IPv4, and IPv6, between its other links.
    #[must_use]
    pub const fn guards(&self) -> (bool, bool) {
        (self.options.forwarding, self.options.forwarding6)
    }

    /// Keeps the host from forwarding between its other links where `before` does, which is going to be deleted.
    ///
    /// # Errors
    /// The kernel's refusals.
    pub fn take_guard(&mut self, before: &Self) -> Result<()> {
        let (guards, guards6) = before.guards();
        let has_both = (self.options.forwarding || !guards) && (self.options.forwarding6 || !guards6);
        if has_both {
            return Ok(());
        }
        self.options.forwarding |= guards;
        self.options.forwarding6 |= guards6;
        if guards6 {
            self.open(Family::V6)?;
        }
        self.write(&self.families.clone(), false)
    }
}

fn read(family: Family, reply: &Reply) -> Option<(Family, String, u32)> {
    let attributes = reply.attributes(4);
    let flags = attributes.find(2).and_then(|flags| flags.try_into().map(u32::from_be_bytes).ok())?;
    Some((family, attributes.text(1)?, flags))
}
