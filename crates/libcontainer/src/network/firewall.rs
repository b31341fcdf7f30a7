//! The firewall of the host's bridges: one nftables table per family, loaded once. Bridges and published ports are
//! elements of its sets and maps.
//!
//! Nobody else's table is touched, and nothing is accepted here that another table drops. Where the kernel can (6.9),
//! the tables belong to this daemon's socket, so that `nft flush ruleset` passes them by, and outlive it: the next
//! daemon takes them over with the elements of the containers that ran on. What the tables forbid is forbidden without
//! them, too (`fence`); a [`Watch`] says when somebody changed them, and [`Firewall::heal`] brings them back.

pub(super) mod expression;
mod family;
mod fence;
mod layout;
mod look;
mod others;
mod rules;
mod sets;
mod standing;
mod watch;

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;

use gantry_linux::Result;
use gantry_linux::netlink::{Socket, transaction};

use self::family::Family;
use self::fence::Fence;
use self::layout::{Change, Layout, Ownership};
use self::others::Hook;
use super::{Protocol, Subnet};

pub use self::look::{Obstacle, Outlook, Seen};
pub use self::standing::Standing;
pub use self::watch::{Changed, Stop, Watch};

/// The bit of a packet's mark that says that the table let it through.
pub const MARK: u32 = 0x1000_0000;

/// How the tables are to be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// The host's IPv4 forwarding is turned on by us, and the host is to forward nothing else.
    pub forwarding: bool,
    /// The same of IPv6.
    pub forwarding6: bool,
    /// Where another firewall of the host drops what is forwarded and has a chain for such rules, one of ours is put
    /// there.
    pub hooks: bool,
    /// The tables are nobody's, as on kernels before 6.9: a flush of everything takes them along.
    pub shared: bool,
}

/// A bridge as the firewall sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgeRules {
    /// The link.
    pub name: String,
    /// Its IPv4 subnet.
    pub subnet4: Option<Subnet>,
    /// Its IPv6 subnet.
    pub subnet6: Option<Subnet>,
    /// Its containers may speak to each other.
    pub icc: bool,
    /// What leaves it gets the host's address.
    pub masquerade: bool,
    /// Nothing is forwarded from it or to it.
    pub internal: bool,
}

impl BridgeRules {
    const fn subnet(&self, family: Family) -> Option<Subnet> {
        match family {
            Family::V4 => self.subnet4,
            Family::V6 => self.subnet6,
        }
    }

    /// Which tables it needs. Without IPv6 its containers still reach each other by link-local addresses.
    fn families(&self) -> Vec<Family> {
        if self.subnet6.is_some() || !self.icc { vec![Family::V4, Family::V6] } else { vec![Family::V4] }
    }
}

/// Published ports as the firewall sees them: one, or a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Element {
    /// On the host; unspecified is every address of the family.
    pub host: IpAddr,
    /// Transport.
    pub protocol: Protocol,
    /// On the host, the first.
    pub host_port: u16,
    /// On the host, the last; the same as the first for one port.
    pub last_port: u16,
    /// The container's address, of the same family.
    pub container: IpAddr,
    /// Inside the container, the first.
    pub container_port: u16,
}

impl Element {
    const fn family(&self) -> Family {
        Family::of(self.container)
    }
}

/// The tables, and what ought to be in them. The socket is kept open: it owns them.
#[derive(Debug)]
pub struct Firewall {
    socket: Socket,
    route: Socket,
    table: String,
    options: Options,
    fence: Fence,
    /// The tables that are loaded.
    families: Vec<Family>,
    ownership: Ownership,
    bridges: BTreeMap<String, BridgeRules>,
    elements: HashSet<Element>,
    /// Chains of other firewalls that have a rule of ours.
    hooks: Vec<Hook>,
    /// Another firewall drops what is forwarded, and has no place for our rule.
    blocked: bool,
    /// The tables hold what is remembered here and nothing else.
    settled: bool,
    /// Nothing of it is in the kernel any more.
    deleted: bool,
    /// Counts the changes after which what was seen of the other firewalls is worth nothing.
    generation: u64,
}

impl Firewall {
    /// Loads the tables, or takes over those that are there with what is in them, until [`Self::settle`].
    ///
    /// # Errors
    /// `EPERM` when a table belongs to the socket of another process that runs; whatever else the kernel refuses.
    pub fn load(table: &str, options: Options) -> Result<Self> {
        let mut firewall = Self {
            socket: Socket::netfilter()?,
            route: Socket::route()?,
            table: table.into(),
            options,
            fence: Fence::of(table),
            families: Vec::new(),
            ownership: Ownership::Owned,
            bridges: BTreeMap::new(),
            elements: HashSet::new(),
            hooks: Vec::new(),
            blocked: false,
            settled: false,
            deleted: false,
            generation: 0,
        };
        firewall.open(Family::V4)?;
        if layout::exists(&mut firewall.socket, table, Family::V6)? {
            firewall.open(Family::V6)?;
        }
        Ok(firewall)
    }

    /// Other firewalls are told by the mark what was let through, where there are some that drop.
    fn is_told(&self) -> bool {
        self.blocked || !self.hooks.is_empty()
    }

    /// Whether a foreign flush passes the tables by.
    #[must_use]
    pub fn is_owned(&self) -> bool {
        self.ownership == Ownership::Owned
    }

    /// Takes up a bridge, which must be there and up.
    ///
    /// # Errors
    /// The kernel's refusals; then nothing is changed.
    pub fn add_bridge(&mut self, bridge: &BridgeRules) -> Result<()> {
        self.generation += 1;
        for family in bridge.families() {
            self.open(family)?;
        }
        let replaced = self.bridges.insert(bridge.name.clone(), bridge.clone());
        let added = self.add_bridge_elements(bridge).and_then(|()| self.fence.enclose(&mut self.route, bridge));
        if let Err(error) = added {
            self.bridges.remove(&bridge.name);
            self.bridges.extend(replaced.map(|old| (old.name.clone(), old)));
            // The first error is the one to tell.
            let _second = self.write_bridges();
            return Err(error);
        }
        Ok(())
    }

    fn add_bridge_elements(&mut self, bridge: &BridgeRules) -> Result<()> {
        let layout = self.layout();
        let messages = layout.bridge(Change::Add, &self.families, bridge);
        match self.socket.transact(transaction(messages)) {
            // An earlier daemon's, with another subnet, or a table that somebody deleted.
            Err(error) if error.errno() == libc::EEXIST => self.write_bridges(),
            Err(error) if error.is_not_found() => self.heal(),
            other => other,
        }
    }

    /// Lets a bridge go, which may be gone already.
    ///
    /// # Errors
    /// The kernel's refusals.
    pub fn remove_bridge(&mut self, name: &str) -> Result<()> {
        let Some(bridge) = self.bridges.remove(name) else { return Ok(()) };
        self.generation += 1;
        let messages = self.layout().bridge(Change::Remove, &self.families, &bridge);
        let removed = match self.socket.transact(transaction(messages)) {
            Err(error) if error.is_not_found() => self.heal(),
            other => other,
        };
        self.fence.release(&mut self.route, &bridge).and(removed)
    }

    /// Publishes; what is there already is fine if it says the same. Where somebody deleted the table or a part of it, or
    /// something is there that nobody has claimed, all of it is made what it ought to be.
    ///
    /// # Errors
    /// The kernel's refusals; then nothing of it is published.
    pub fn add(&mut self, elements: &[Element]) -> Result<()> {
        let messages = self.layout().ports(Change::Add, elements);
        self.elements.extend(elements);
        let added = match self.socket.transact(transaction(messages)) {
            Err(error) if error.is_not_found() || matches!(error.errno(), libc::EBUSY | libc::EEXIST) => self.heal(),
            other => other,
        };
        if added.is_err() {
            self.forget(elements);
        }
        added
    }

    /// Withdraws.
    ///
    /// # Errors
    /// The kernel's refusals.
    pub fn remove(&mut self, elements: &[Element]) -> Result<()> {
        self.forget(elements);
        let messages = self.layout().ports(Change::Remove, elements);
        match self.socket.transact(transaction(messages)) {
            // Somebody emptied the table: what ought to be there is put there, which leaves these out.
            Err(error) if error.is_not_found() => self.heal(),
            other => other,
        }
    }

    /// Remembers what an earlier daemon published, and is in the tables still.
    pub fn remember(&mut self, elements: &[Element]) {
        self.elements.extend(elements);
        self.settled = false;
    }

    fn forget(&mut self, elements: &[Element]) {
        for element in elements {
            self.elements.remove(element);
        }
    }

    /// After the last [`Self::add_bridge`] and [`Self::remember`] of a start: what nobody claimed goes.
    ///
    /// # Errors
    /// The kernel's refusals.
    pub fn settle(&mut self) -> Result<()> {
        if self.settled { Ok(()) } else { self.heal() }
    }

    /// Brings the tables to what they ought to be, in one step, wherever they are.
    ///
    /// # Errors
    /// The kernel's refusals.
    pub fn heal(&mut self) -> Result<()> {
        let families = self.families.clone();
        self.write(&families, true)?;
        (self.settled, self.deleted) = (true, false);
        for family in families {
            self.fence.raise(&mut self.route, family)?;
        }
        let mut first = Ok(());
        for bridge in self.bridges.values() {
            match self.fence.enclose(&mut self.route, bridge) {
                // Somebody deleted the bridge, or took it down: nothing is routed there.
                Err(error) if error.is_not_found() || matches!(error.errno(), libc::ENODEV | libc::ENETDOWN) => {}
                other => first = first.and(other),
            }
        }
        first
    }

    /// Makes these all the bridges and ports there are.
    ///
    /// # Errors
    /// The kernel's refusals.
    pub fn replace(&mut self, bridges: &[BridgeRules], elements: &[Element]) -> Result<()> {
        for family in bridges.iter().flat_map(BridgeRules::families) {
            self.open(family)?;
        }
        self.generation += 1;
        self.bridges = bridges.iter().map(|bridge| (bridge.name.clone(), bridge.clone())).collect();
        self.elements = elements.iter().copied().collect();
        self.heal()
    }

    /// Deletes the tables and the routing rules, and every rule of ours in chains of others, also an earlier daemon's. What
    /// the tables held is remembered: [`Self::heal`] would bring it back.
    ///
    /// # Errors
    /// The first of the kernel's refusals.
    pub fn delete(&mut self) -> Result<()> {
        self.generation += 1;
        self.deleted = true;
        let messages = self.families.iter().map(|family| self.layout().delete(*family)).collect();
        let mut result = self.socket.transact(transaction(messages));
        for bridge in self.bridges.values() {
            result = result.and(self.fence.release(&mut self.route, bridge));
        }
        for family in &self.families {
            result = result.and(self.fence.remove(&mut self.route, *family));
        }
        // A chain has our rule also where its firewall drops nothing any more.
        result.and(others::hooks(&mut self.socket).and_then(|hooks| self.close(hooks)))
    }

    fn layout(&self) -> Layout {
        Layout { table: self.table.clone(), options: self.options, told: self.is_told() }
    }

    /// Loads a family's table if it is not loaded.
    fn open(&mut self, family: Family) -> Result<()> {
        if self.families.contains(&family) {
            return Ok(());
        }
        // An earlier daemon may have turned forwarding on.
        let guarded = layout::guards_forwarding(&mut self.socket, &self.table, family)?;
        match family {
            Family::V4 => self.options.forwarding |= guarded,
            Family::V6 => self.options.forwarding6 |= guarded,
        }
        self.fence.raise(&mut self.route, family)?;
        self.write(&[family], false)?;
        self.families.push(family);
        if !self.bridges.is_empty() {
            self.write_bridges()?;
        }
        Ok(())
    }

    /// The whole of these tables; with `contents` what is in them, and nothing else.
    fn write(&mut self, families: &[Family], contents: bool) -> Result<()> {
        let mut failure = None;
        // Owned, else plain (older kernel); and what is there taken over, else made anew.
        let ownerships: &[Ownership] =
            if self.options.shared { &[Ownership::Plain] } else { &[Ownership::Owned, Ownership::Plain] };
        for &ownership in ownerships {
            for anew in [false, true] {
                let messages = self.whole(families, ownership, anew, contents);
                match self.socket.transact(transaction(messages)) {
                    Ok(()) => {
                        self.ownership = ownership;
                        return Ok(());
                    }
                    Err(error) if !matches!(error.errno(), libc::EOPNOTSUPP | libc::EEXIST | libc::EINVAL) => {
                        return Err(error);
                    }
                    Err(error) => failure = failure.or(Some(error)),
                }
            }
        }
        failure.map_or(Ok(()), Err)
    }

    fn whole(
        &self,
        families: &[Family],
        ownership: Ownership,
        anew: bool,
        contents: bool,
    ) -> Vec<gantry_linux::netlink::Message> {
        let layout = self.layout();
        let mut messages = Vec::new();
        for family in families {
            messages.extend(layout.table(*family, ownership, anew));
            if contents {
                messages.extend(layout.empty(*family, sets::sets(*family).iter().map(|set| set.name)));
            }
        }
        if contents {
            for bridge in self.bridges.values() {
                messages.extend(layout.bridge(Change::Add, families, bridge));
            }
            let elements: Vec<Element> =
                self.elements.iter().filter(|element| families.contains(&element.family())).copied().collect();
            messages.extend(layout.ports(Change::Add, &elements));
        }
        messages
    }

    /// All that the sets say of bridges, and no port.
    fn write_bridges(&mut self) -> Result<()> {
        let layout = self.layout();
        let mut messages = Vec::new();
        for family in &self.families {
            let of_bridges =
                sets::sets(*family).into_iter().map(|set| set.name).filter(|name| sets::is_of_bridges(name));
            messages.extend(layout.empty(*family, of_bridges));
        }
        for bridge in self.bridges.values() {
            messages.extend(layout.bridge(Change::Add, &self.families, bridge));
        }
        self.socket.transact(transaction(messages))
    }
}

impl Element {
    /// Where the table has it, as a person finds it with `nft`: family, table, map, and the element.
    #[must_use]
    pub fn entry(&self, table: &str) -> String {
        let Self { host, host_port, last_port, container, container_port, protocol } = *self;
        let family = self.family().name();
        let protocol = match protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        };
        let (map, key, value) = if last_port > host_port && host_port == container_port {
            (sets::PUBLISHED_RANGES, format!("{host} . {protocol} . {host_port}-{last_port}"), container.to_string())
        } else if host.is_unspecified() {
            (sets::PUBLISHED_ANY, format!("{protocol} . {host_port}"), format!("{container} . {container_port}"))
        } else {
            (sets::PUBLISHED, format!("{host} . {protocol} . {host_port}"), format!("{container} . {container_port}"))
        };
        format!("{family} {table} {map} {{ {key} : {value} }}")
    }
}

impl std::fmt::Display for Element {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let host = std::net::SocketAddr::new(self.host, self.host_port);
        let container = std::net::SocketAddr::new(self.container, self.container_port);
        if self.last_port > self.host_port {
            return write!(f, "ports {host} to {} to {container}", self.last_port);
        }
        write!(f, "port {host} to {container}")
    }
}
