//! What a container asks of networks: the mode, its places, addresses and aliases; checked before anything is made.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use gantry_api::container::Config;
use gantry_api::hostconfig::HostConfig;
use gantry_api::network::{EndpointIpam, EndpointSettings};
use gantry_networkdriver::Pool;

use super::publish::{parse_mac, ports};
use super::{Found, Networks};
use crate::engine::Engine;
use crate::error::{Error, Result};

type Places = BTreeMap<String, EndpointSettings>;

/// Checks what a create asks of networks, fills in the default, and puts names for what names a network.
///
/// # Errors
/// A network that is not there; options that contradict the mode.
pub fn validate(
    engine: &Engine,
    host_config: &mut HostConfig,
    asked: Option<Places>,
    exposed: &[String],
) -> Result<Places> {
    if matches!(host_config.network_mode.as_str(), "" | "default") {
        host_config.network_mode = if engine.drivers.bridge.is_some() { "bridge" } else { "none" }.into();
    }
    ports(host_config.port_bindings.as_ref(), host_config.publish_all_ports, exposed)?;
    let asked = asked.unwrap_or_default();
    if host_config.network_mode.starts_with("container:") {
        if asked.keys().any(|name| name != "default" && *name != host_config.network_mode) {
            return Err(Error::invalid(
                "container sharing network namespace with another container or host cannot be connected to any other network",
            ));
        }
        return Ok(Places::new());
    }
    let mode = engine.networks.find(engine, &host_config.network_mode)?;
    host_config.network_mode.clone_from(&mode.name);
    let mut places = Places::new();
    for (name, settings) in asked {
        let found = if name == "default" { mode.clone() } else { engine.networks.find(engine, &name)? };
        engine.networks.check(engine, &found, &settings)?;
        if places.insert(found.name.clone(), settings).is_some() {
            return Err(Error::invalid(format!("network {} is named twice: name it once", found.name)));
        }
    }
    places.entry(mode.name).or_default();
    if places.len() > 1 && places.keys().any(|name| matches!(name.as_str(), "host" | "none")) {
        return Err(Error::invalid(
            "conflicting options: cannot attach both user-defined and non-user-defined network-modes",
        ));
    }
    Ok(places)
}

/// Checks a hardware address that is asked for of the link to the network that a container is made for.
///
/// # Errors
/// An address that is none; a network whose links have none of their own.
pub fn check_mac(engine: &Engine, host_config: &HostConfig, mac: &str) -> Result<()> {
    let mode = host_config.network_mode.as_str();
    if mac.is_empty() || mode.starts_with("container:") {
        return Ok(());
    }
    parse_mac(mac)?;
    Ok(engine.networks.driver(engine, mode)?.check_mac()?)
}

/// Refuses what cannot be had in another container's network, where all is as that container has it. It is about what the
/// caller asked for, not about what the image says.
///
/// # Errors
/// Docker's, about the first that is wrong.
pub fn check_shared(config: &Config, host_config: &HostConfig, asked: Option<&Places>) -> Result<()> {
    let Some(other) = host_config.network_mode.strip_prefix("container:") else { return Ok(()) };
    if other.is_empty() {
        return Err(Error::invalid("Invalid network mode: invalid container format container:<name|id>"));
    }
    let some = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|list| !list.is_empty());
    let mut places = asked.iter().flat_map(|places| places.values());
    let mac = !config.mac_address.is_empty() || places.any(|place| !place.mac_address.is_empty());
    let published = host_config.port_bindings.as_ref().is_some_and(|map| !map.is_empty());
    let conflicts = [
        (!config.hostname.is_empty(), "hostname and the network mode"),
        (
            some(&host_config.links),
            "container type network can't be used with links. This would result in undefined behavior",
        ),
        (some(&host_config.dns), "dns and the network mode"),
        (some(&host_config.extra_hosts), "custom host-to-IP mapping and the network mode"),
        (mac, "mac-address and the network mode"),
        (published || host_config.publish_all_ports, "port publishing and the container type network mode"),
        (
            config.exposed_ports.as_ref().is_some_and(|ports| !ports.is_empty()),
            "port exposing and the container type network mode",
        ),
    ];
    match conflicts.into_iter().find(|(is, _)| *is) {
        Some((_, what)) => Err(Error::invalid(format!("conflicting options: {what}"))),
        None => Ok(()),
    }
}

impl Networks {
    /// Checks what is asked of a place on a network.
    ///
    /// # Errors
    /// All that is wrong, in Docker's words.
    pub(super) fn check(&self, engine: &Engine, network: &Found, settings: &EndpointSettings) -> Result<()> {
        let wanted = Wanted::new(settings)?;
        let mut wrong = wanted.wrong;
        if network.user.is_none() {
            if wanted.ipv4.is_some() || wanted.ipv6.is_some() {
                wrong.push("user specified IP address is supported on user defined networks only".into());
            }
            if settings.aliases.as_ref().is_some_and(|aliases| !aliases.is_empty()) {
                wrong.push("network-scoped alias is supported only for containers in user defined networks".into());
            }
        } else {
            let driver = self.driver(engine, &network.name)?;
            if wanted.mac.is_some() {
                wrong.extend(driver.check_mac().err().map(|error| error.to_string()));
            }
            let info = driver.info();
            for (address, pool) in [(wanted.ipv4.map(IpAddr::V4), info.ipv4), (wanted.ipv6.map(IpAddr::V6), info.ipv6)]
            {
                wrong.extend(address.and_then(|address| misplaced(address, pool.as_ref())));
            }
        }
        if wrong.is_empty() {
            return Ok(());
        }
        Err(Error::invalid(format!("invalid endpoint settings:\n{}", wrong.join("\n"))))
    }
}

fn misplaced(address: IpAddr, pool: Option<&Pool>) -> Option<String> {
    match pool {
        Some(pool) if pool.chosen && pool.subnet.contains(address) => None,
        Some(pool) if !pool.chosen => Some(
            "user specified IP address is supported only when connecting to networks with user configured subnets: make \
             the network with --subnet"
                .into(),
        ),
        _ => Some(format!("no configured subnet or ip-range contain the IP address {address}")),
    }
}

/// Names the link inside.
const LINK_NAME: &str = "com.docker.network.endpoint.ifname";
/// Settings of the link inside.
const SYSCTLS: &str = "com.docker.network.endpoint.sysctls";

/// What a place asks for.
pub(super) struct Wanted {
    /// How its link is called.
    pub(super) link: Option<String>,
    pub(super) ipv4: Option<Ipv4Addr>,
    pub(super) ipv6: Option<Ipv6Addr>,
    pub(super) link_local: Vec<IpAddr>,
    pub(super) mac: Option<[u8; 6]>,
    wrong: Vec<String>,
}

impl Wanted {
    /// Reads them.
    ///
    /// # Errors
    /// A hardware address that is none.
    pub(super) fn new(settings: &EndpointSettings) -> Result<Self> {
        let none = EndpointIpam::default();
        let ipam = settings.ipam_config.as_ref().unwrap_or(&none);
        let mut wrong = Vec::new();
        let ipv4 = (!ipam.ipv4_address.is_empty()).then(|| ipam.ipv4_address.parse::<Ipv4Addr>());
        if ipv4.as_ref().is_some_and(|read| read.as_ref().map_or(true, |address| address.is_unspecified())) {
            wrong.push(format!("invalid IPv4 address: {}", ipam.ipv4_address));
        }
        let ipv6 = (!ipam.ipv6_address.is_empty()).then(|| ipam.ipv6_address.parse::<Ipv6Addr>());
        if ipv6.as_ref().is_some_and(|read| read.as_ref().map_or(true, |address| address.is_unspecified())) {
            wrong.push(format!("invalid IPv6 address: {}", ipam.ipv6_address));
        }
        let mut link_local = Vec::new();
        for text in ipam.link_local_ips.iter().flatten() {
            match text.parse::<IpAddr>() {
                Ok(address) if !address.is_unspecified() => link_local.push(address),
                _ => wrong.push(format!("invalid link-local IP address: {text}")),
            }
        }
        let option = |name: &str| settings.driver_opts.iter().flatten().find(|(key, _)| *key == name);
        if option(SYSCTLS).is_some() {
            return Err(Error::not_implemented(format!("option {SYSCTLS} is not supported yet: use --sysctl")));
        }
        let link = option(LINK_NAME).map(|(_, name)| name.clone());
        if let Some(name) = &link
            && gantry_networkdriver::check_link_name(name).is_err()
        {
            wrong.push(format!("invalid interface name: {name:?}"));
        }
        let mac = Some(settings.mac_address.as_str()).filter(|mac| !mac.is_empty()).map(parse_mac).transpose()?;
        let (ipv4, ipv6) = (ipv4.and_then(|read| read.ok()), ipv6.and_then(|read| read.ok()));
        Ok(Self { link, ipv4, ipv6, link_local, mac, wrong })
    }
}
