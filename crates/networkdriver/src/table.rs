//! The table of drivers that user-defined networks are made by, and what all networks of a daemon share.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::str::FromStr;
use std::sync::Arc;

use gantry_linux::netlink::Socket;
use libcontainer::network::Subnet;
use libcontainer::network::link;
use serde::{Deserialize, Serialize};

use crate::bridge::{ALIAS, NETWORK_OF};
use crate::stacked::{self, Kind, Stacked, StackedOptions};
use crate::{Addresses, Bridge, BridgeOptions, Error, Found, NetworkDriver, Ports, Wall, WallOptions, doctor};

/// A user-defined network as it is to be made; with its addresses known, it makes the same network again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Definition {
    /// 64 hexadecimal digits; the first twelve name the bridge.
    pub id: String,
    /// Who makes it: `bridge`, `macvlan`, `ipvlan`.
    pub driver: String,
    /// What the driver is told: `com.docker.network.…`.
    pub options: BTreeMap<String, String>,
    /// Nothing leaves it.
    pub internal: bool,
    /// Its IPv4 addresses.
    pub ipv4: Addresses,
    /// Its IPv6 addresses.
    pub ipv6: Addresses,
    /// What the bridge was like that it uses, where that is somebody else's.
    #[serde(default)]
    pub found: Option<Found>,
}

/// A block that subnets of networks are taken from (`--default-address-pool base=10.10.0.0/16,size=24`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressPool {
    /// The block.
    pub base: Subnet,
    /// The length of the subnets' prefix.
    pub size: u8,
}

impl AddressPool {
    /// Its subnets, each by its first host's address.
    pub(crate) fn subnets(self) -> impl Iterator<Item = Subnet> {
        let Self { base, size } = self;
        let count = 1_u128.checked_shl(u32::from(size - base.prefix)).unwrap_or(u128::MAX);
        let step = u32::from(base.bits() - size);
        (0..count).map(move |number| Subnet { address: base.nth((number << step) | 1), prefix: size })
    }
}

impl FromStr for AddressPool {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = |why: &str| {
            Error::Invalid(format!("bad address pool \"{text}\": {why}: write it as base=10.10.0.0/16,size=24"))
        };
        let (mut base, mut size) = (None, None);
        for field in text.split(',') {
            match field.trim().split_once('=') {
                Some(("base", value)) => base = Some(value.parse::<Subnet>().map_err(|error| bad(&error.to_string()))?),
                Some(("size", value)) => size = Some(value.parse::<u8>().map_err(|_| bad("the size is no number"))?),
                _ => return Err(bad("it has fields base and size only")),
            }
        }
        let base = base.ok_or_else(|| bad("it has no base"))?.masked();
        let size = size.ok_or_else(|| bad("it has no size"))?;
        let longest = if base.address.is_ipv4() { 30 } else { 126 };
        if !(base.prefix..=longest).contains(&size) {
            return Err(bad(&format!("the size must be from {} to {longest}", base.prefix)));
        }
        Ok(Self { base, size })
    }
}

/// What all networks of a daemon share.
#[derive(Debug, Clone)]
pub struct NetworkOptions {
    /// Names the daemon among others: its own bridge. Bridges that are made for its networks carry it in a note.
    pub owner: String,
    /// Tells the daemon from others, however its bridge is called: by its data root. It is in the note on its own bridge.
    pub home: String,
    /// `--mtu`.
    pub mtu: Option<u32>,
    /// `--ip`.
    pub publish_address: Ipv4Addr,
    /// `--iptables`.
    pub firewall: bool,
    /// `--ip-forward`.
    pub ip_forward: bool,
    /// Our rule among those of other firewalls (`--firewall-hooks`).
    pub firewall_hooks: bool,
    /// `--default-address-pool`.
    pub pools: Vec<AddressPool>,
}

/// How the daemon's own bridge is to be.
#[derive(Debug, Clone)]
pub struct DefaultBridge {
    /// `--bridge`.
    pub name: String,
    /// `--bip`, `--fixed-cidr`.
    pub ipv4: Addresses,
    /// `--ipv6`, `--fixed-cidr-v6`.
    pub ipv6: Addresses,
    /// `--icc`.
    pub icc: bool,
}

/// Makes networks.
#[derive(Debug)]
pub struct NetworkDrivers {
    options: NetworkOptions,
    ports: Ports,
    wall: Option<Wall>,
}

const BRIDGE_NAME: &str = "com.docker.network.bridge.name";
const ICC: &str = "com.docker.network.bridge.enable_icc";
const MASQUERADE: &str = "com.docker.network.bridge.enable_ip_masquerade";
const HOST_BINDING: &str = "com.docker.network.bridge.host_binding_ipv4";
const MTU: &str = "com.docker.network.driver.mtu";

/// Docker's options that would change what a network does.
const UNSUPPORTED: [&str; 7] = [
    "com.docker.network.bridge.gateway_mode_ipv4",
    "com.docker.network.bridge.gateway_mode_ipv6",
    "com.docker.network.bridge.inhibit_ipv4",
    "com.docker.network.bridge.host_binding_ipv6",
    "com.docker.network.bridge.trusted_host_interfaces",
    "com.docker.network.container_iface_prefix",
    "com.docker.network.host_ipv4",
];

impl NetworkDrivers {
    /// For one daemon, whose firewall is loaded, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// As [`Wall::open`].
    pub fn new(options: NetworkOptions) -> Result<Self, Error> {
        let NetworkOptions { ip_forward, firewall_hooks: hooks, ref owner, .. } = options;
        let wall = if options.firewall {
            Some(Wall::open(&WallOptions { name: owner.clone(), ip_forward, hooks, shared: false })?)
        } else {
            if ip_forward {
                crate::wall::forward()?;
            }
            None
        };
        Ok(Self { options, ports: Ports::default(), wall })
    }

    /// The daemon's own bridge.
    ///
    /// # Errors
    /// As [`Bridge::open`].
    pub fn default_bridge(&self, bridge: DefaultBridge) -> Result<Bridge, Error> {
        let DefaultBridge { name, ipv4, ipv6, icc } = bridge;
        Bridge::open(BridgeOptions { name, alias: self.own_alias(), ipv4, ipv6, icc, ..self.bridge_options() })
    }

    fn bridge_options(&self) -> BridgeOptions {
        let NetworkOptions { mtu, publish_address, ref pools, .. } = self.options;
        BridgeOptions {
            mtu,
            publish_address,
            wall: self.wall.clone(),
            pools: pools.clone(),
            ports: self.ports.clone(),
            ..BridgeOptions::default()
        }
    }

    /// Checks what can be checked of a network before anything is made.
    ///
    /// # Errors
    /// An unknown driver, an option that is none of the driver's or has a bad value.
    pub fn check(&self, definition: &Definition) -> Result<(), Error> {
        match definition.driver.as_str() {
            "bridge" => self.bridge_of(definition).map(drop),
            // Whatever it is told of gateways, who is on it stands on the parent's network.
            driver @ ("macvlan" | "ipvlan") if definition.internal => Err(Error::Invalid(format!(
                "a network of driver {driver} cannot be internal, as it is a part of the network that its parent is on: leave \
                 --internal out, or make a network of driver bridge"
            ))),
            "macvlan" | "ipvlan" => self.stacked_of(definition).map(drop),
            other => Err(unknown(other)),
        }
    }

    /// Checks that a new network leaves these, by their names, as they are.
    ///
    /// # Errors
    /// As [`NetworkDrivers::check`]; a parent that another one has, where the kernel has both be alike.
    pub fn check_beside<'a>(
        &self,
        definition: &Definition,
        others: impl Iterator<Item = (&'a str, &'a Definition)>,
    ) -> Result<(), Error> {
        let is_stacked = |definition: &Definition| matches!(definition.driver.as_str(), "macvlan" | "ipvlan");
        if !is_stacked(definition) {
            return Ok(());
        }
        let others = others.filter(|(_, other)| is_stacked(other));
        // One whose options are no good has no links.
        let others = others.filter_map(|(name, other)| Some((name, self.stacked_of(other).ok()?)));
        self.stacked_of(definition)?.check_beside(others)
    }

    /// Makes the network, or takes up what is there of it.
    ///
    /// # Errors
    /// As [`NetworkDrivers::check`]; the kernel's refusals. Nothing is left then.
    pub fn open(&self, definition: &Definition) -> Result<Arc<dyn NetworkDriver>, Error> {
        match definition.driver.as_str() {
            "bridge" => Ok(Arc::new(Bridge::open(self.bridge_of(definition)?)?)),
            "macvlan" | "ipvlan" => Ok(Arc::new(Stacked::open(self.stacked_of(definition)?)?)),
            other => Err(unknown(other)),
        }
    }

    fn stacked_of(&self, definition: &Definition) -> Result<StackedOptions, Error> {
        let option = |name: &str| definition.options.get(name).map(String::as_str).unwrap_or_default();
        let (driver, parent) = (definition.driver.as_str(), option("parent"));
        if parent.is_empty() {
            return Err(Error::Invalid(format!(
                "a network of driver {driver} stands on a link of the host: give one by -o parent="
            )));
        }
        let bad = |what: &str, name: &str, there: &str| {
            Error::Invalid(format!("unknown {driver} {what} {:?}: there are {there}", option(name)))
        };
        let kind = if driver == "macvlan" {
            let mode = stacked::mode(option("macvlan_mode"));
            Kind::Macvlan(mode.ok_or_else(|| bad("mode", "macvlan_mode", "bridge, private, vepa and passthru"))?)
        } else {
            let mode = stacked::ipvlan_mode(option("ipvlan_mode"));
            let flag = stacked::ipvlan_flag(option("ipvlan_flag"));
            Kind::Ipvlan(
                mode.ok_or_else(|| bad("mode", "ipvlan_mode", "l2, l3 and l3s"))?,
                flag.ok_or_else(|| bad("flag", "ipvlan_flag", "bridge, private and vepa"))?,
            )
        };
        let mtu = Some(option(MTU)).filter(|text| !text.is_empty()).map(|text| {
            let mtu = text.parse().ok().filter(|mtu| (68..=65535).contains(mtu));
            mtu.ok_or_else(|| Error::Invalid(format!("invalid value for option {MTU}: {text:?}")))
        });
        Ok(StackedOptions {
            kind,
            name: definition.id.get(..12).unwrap_or(&definition.id).to_owned(),
            parent: parent.to_owned(),
            mtu: mtu.transpose()?,
            ipv4: definition.ipv4.clone(),
            ipv6: definition.ipv6.clone(),
            pools: self.options.pools.clone(),
            internal: definition.internal,
        })
    }

    /// How the bridge of a network is called, where it has one.
    ///
    /// # Errors
    /// As [`NetworkDrivers::check`].
    pub fn bridge_name(&self, definition: &Definition) -> Result<Option<String>, Error> {
        match definition.driver.as_str() {
            "bridge" => self.bridge_of(definition).map(|options| Some(options.name)),
            _ => Ok(None),
        }
    }

    fn bridge_of(&self, definition: &Definition) -> Result<BridgeOptions, Error> {
        let short = definition.id.get(..12).unwrap_or(&definition.id);
        let mut options = BridgeOptions {
            name: format!("br-{short}"),
            alias: self.alias(),
            found: definition.found.clone(),
            own_name: !definition.options.contains_key(BRIDGE_NAME),
            ipv4: definition.ipv4.clone(),
            ipv6: definition.ipv6.clone(),
            internal: definition.internal,
            ..self.bridge_options()
        };
        for (name, value) in &definition.options {
            let bad = || Error::Invalid(format!("invalid value for option {name}: {value:?}"));
            match name.as_str() {
                BRIDGE_NAME => options.name.clone_from(value),
                ICC => options.icc = boolean(value).ok_or_else(bad)?,
                MASQUERADE => options.masquerade = boolean(value).ok_or_else(bad)?,
                HOST_BINDING => options.publish_address = value.parse().map_err(|_| bad())?,
                MTU => {
                    let mtu = value.parse().ok().filter(|mtu| (68..=65535).contains(mtu) || *mtu == 0);
                    options.mtu = Some(mtu.ok_or_else(bad)?).filter(|mtu| *mtu > 0).or(options.mtu);
                }
                "com.docker.network.bridge.gateway_mode_ipv4" | "com.docker.network.bridge.gateway_mode_ipv6"
                    if value == "nat" => {}
                _ if UNSUPPORTED.contains(&name.as_str()) => {
                    return Err(Error::Invalid(format!("option {name} is not supported yet: leave it out")));
                }
                // What tools leave there for themselves means nothing here.
                _ => {}
            }
        }
        crate::bridge::check_name(&options.name)?;
        Ok(options)
    }

    /// Looks for what is wrong with a container's network.
    ///
    /// # Errors
    /// As [`doctor::examine`].
    pub fn examine(&self, patient: &doctor::Patient<'_>) -> Result<Option<doctor::Finding>, Error> {
        doctor::examine(patient, self.wall.as_ref())
    }

    /// The name of the firewall's tables.
    #[must_use]
    pub fn table(&self) -> &str {
        &self.options.owner
    }

    fn alias(&self) -> String {
        format!("{NETWORK_OF}{}", self.options.owner)
    }

    fn own_alias(&self) -> String {
        format!("{ALIAS} {}", self.options.home)
    }

    /// Removes bridges that an earlier daemon of this name made for networks that are not `known` by their bridges' names,
    /// and its own of another name (`--bridge`) with its firewall, unless a container is on it still. One whose firewall
    /// cannot be removed stays, for the next daemon to find.
    ///
    /// # Errors
    /// The kernel's refusals, all of them.
    pub fn sweep(&self, known: &[String]) -> Result<(), Error> {
        let mut socket = Socket::route()?;
        let links = link::links(&mut socket)?;
        let mut failures = Vec::new();
        for link in links.iter().filter(|link| !known.contains(&link.name)) {
            let own = link.alias == self.own_alias() && links.iter().all(|port| port.master != Some(link.index));
            if own {
                if let Some(error) = self.wall.as_ref().and_then(|wall| wall.replace(&link.name).err()) {
                    failures.push(error);
                    continue;
                }
                tracing::info!(bridge = link.name, "the bridge that the daemon had before is removed");
            } else if link.alias == self.alias() {
                tracing::warn!(bridge = link.name, "a bridge of a network that nobody knows is removed");
            } else {
                continue;
            }
            failures.extend(socket.transact(vec![link::delete(&link.name)]).err().map(Error::from));
        }
        crate::bridge::all(failures)
    }
}

fn unknown(driver: &str) -> Error {
    Error::Unknown(format!(
        "could not find plugin {driver} in v1 plugin registry: plugin not found: there are the drivers bridge, ipvlan and macvlan"
    ))
}

fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
pub(crate) mod tests;
