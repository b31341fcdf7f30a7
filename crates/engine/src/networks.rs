//! The networks that every daemon has: `bridge`, `host`, `none`; and what a container asks of them.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use gantry_api::hostconfig::{HostConfig, PortMap};
use gantry_api::network::{EndpointSettings, Ipam, IpamConfig, Network, NetworkContainer};
use gantry_networkdriver::{Endpoint, NetworkDriver, Protocol, PublishPort};
use jiff::Timestamp;
use sha2::{Digest, Sha256};

use crate::container::Record;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::options::Options;

/// The three networks.
pub struct Networks {
    created: Timestamp,
    /// Makes the networks' ids: the same for the same daemon.
    seed: String,
}

impl Networks {
    /// For the daemon of these options.
    #[must_use]
    pub fn new(options: &Options) -> Self {
        Self { created: Timestamp::now(), seed: options.data_root.to_string_lossy().into_owned() }
    }

    /// 64 digits that name a network of this daemon.
    #[must_use]
    pub fn id(&self, name: &str) -> String {
        Sha256::digest(format!("{}\0{name}", self.seed)).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The host's address on the bridge.
    #[must_use]
    #[allow(clippy::unused_self, reason = "reads as a question to the networks")]
    pub fn gateway(&self, engine: &Engine) -> Option<Ipv4Addr> {
        engine.drivers.bridge.as_ref().and_then(|bridge| bridge.info().gateway)
    }

    /// The driver behind a network mode, `None` for another container's network.
    ///
    /// # Errors
    /// A network that is not there.
    #[allow(clippy::unused_self, reason = "reads as a question to the networks")]
    pub fn driver<'a>(&self, engine: &'a Engine, mode: &str) -> Result<Option<&'a Arc<dyn NetworkDriver>>> {
        match mode {
            "bridge" => match &engine.drivers.bridge {
                Some(bridge) => Ok(Some(bridge)),
                None => Err(Error::not_found("network bridge not found: the daemon runs with --bridge none")),
            },
            "host" => Ok(Some(&engine.drivers.host)),
            "none" => Ok(Some(&engine.drivers.none)),
            _ if mode.starts_with("container:") => Ok(None),
            _ => Err(Error::not_found(format!("network {mode} not found"))),
        }
    }

    /// Every network as the API shows it.
    #[must_use]
    pub fn all(&self, engine: &Engine) -> Vec<Network> {
        let names: &[&str] =
            if engine.drivers.bridge.is_some() { &["bridge", "host", "none"] } else { &["host", "none"] };
        names.iter().map(|name| self.describe(engine, name)).collect()
    }

    /// A network by name or id.
    ///
    /// # Errors
    /// When there is none.
    pub fn get(&self, engine: &Engine, name: &str) -> Result<Network> {
        let matches = |network: &Network| network.name == name || (name.len() >= 3 && network.id.starts_with(name));
        self.all(engine).into_iter().find(matches).ok_or_else(|| Error::not_found(format!("network {name} not found")))
    }

    fn describe(&self, engine: &Engine, name: &str) -> Network {
        let mut network = Network {
            name: name.to_owned(),
            id: self.id(name),
            created: self.created.to_string(),
            scope: "local".into(),
            driver: if name == "none" { "null" } else { name }.to_owned(),
            enable_ipv4: true,
            ipam: Ipam { driver: "default".into(), ..Ipam::default() },
            ..Network::default()
        };
        if name == "bridge"
            && let Some(info) = engine.drivers.bridge.as_ref().map(|bridge| bridge.info())
        {
            network.ipam.config = info
                .subnet
                .map(|(address, prefix)| IpamConfig {
                    subnet: format!("{address}/{prefix}"),
                    gateway: info.gateway.map(|gateway| gateway.to_string()).unwrap_or_default(),
                    ..IpamConfig::default()
                })
                .into_iter()
                .collect();
            network.options = BTreeMap::from([
                ("com.docker.network.bridge.default_bridge".into(), "true".into()),
                ("com.docker.network.bridge.enable_icc".into(), "true".into()),
                ("com.docker.network.bridge.enable_ip_masquerade".into(), "true".into()),
                ("com.docker.network.bridge.name".into(), info.bridge),
                ("com.docker.network.driver.mtu".into(), info.mtu.to_string()),
            ]);
        }
        for container in engine.containers.all() {
            let record = container.record();
            if record.host_config.network_mode != name || !record.state.has_processes() {
                continue;
            }
            let endpoint = record.endpoint.as_ref().filter(|endpoint| !endpoint.address.is_unspecified());
            let shown = NetworkContainer {
                name: record.name.clone(),
                endpoint_id: self.id(&record.id),
                mac_address: endpoint.map(|e| format_mac(e.mac)).unwrap_or_default(),
                ipv4_address: endpoint.map(|e| format!("{}/{}", e.address, e.prefix)).unwrap_or_default(),
                ipv6_address: String::new(),
            };
            network.containers.insert(record.id.clone(), shown);
        }
        network
    }

    /// The networks of a container as `inspect` and lists show them.
    #[must_use]
    pub fn of_container(&self, record: &Record) -> BTreeMap<String, EndpointSettings> {
        let mode = &record.host_config.network_mode;
        if mode.starts_with("container:") {
            return BTreeMap::new();
        }
        let mut settings = record.networks.get(mode).cloned().unwrap_or_default();
        settings.network_id = self.id(mode);
        if record.state.has_processes() {
            settings.endpoint_id = self.id(&record.id);
        }
        if let Some(endpoint) = record.endpoint.as_ref().filter(|endpoint| !endpoint.address.is_unspecified()) {
            settings.gateway = endpoint.gateway.to_string();
            settings.ip_address = endpoint.address.to_string();
            settings.ip_prefix_len = endpoint.prefix;
            settings.mac_address = format_mac(endpoint.mac);
        }
        BTreeMap::from([(mode.clone(), settings)])
    }
}

/// `02:42:ac:11:00:02`.
#[must_use]
pub fn format_mac(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// The reverse of [`format_mac`].
///
/// # Errors
/// Text that is no hardware address.
pub fn parse_mac(text: &str) -> Result<[u8; 6]> {
    let invalid = || Error::invalid(format!("invalid MAC address: {text:?}: write it as 02:42:ac:11:00:02"));
    let mut mac = [0; 6];
    let mut parts = text.split([':', '-']);
    for byte in &mut mac {
        let part = parts.next().filter(|part| part.len() == 2).ok_or_else(invalid)?;
        *byte = u8::from_str_radix(part, 16).map_err(|_| invalid())?;
    }
    if parts.next().is_some() { Err(invalid()) } else { Ok(mac) }
}

/// The ports that a container wants published: its bindings, and with `-P` every exposed port.
///
/// # Errors
/// A port, protocol or address that is none.
pub fn ports(
    record_ports: Option<&PortMap>,
    publish_all: bool,
    exposed: &[String],
    default: Ipv4Addr,
) -> Result<Vec<PublishPort>> {
    let mut wanted = Vec::new();
    for (key, bindings) in record_ports.into_iter().flatten() {
        let (container_port, protocol) = parse_port(key)?;
        for binding in bindings.iter().flatten() {
            let host_ip = if binding.host_ip.is_empty() {
                IpAddr::V4(default)
            } else {
                let parsed = binding.host_ip.parse();
                parsed.map_err(|_| Error::invalid(format!("invalid IP address: {}", binding.host_ip)))?
            };
            let (host_port, host_port_end) = parse_range(&binding.host_port)?;
            wanted.push(PublishPort { container_port, protocol, host_ip, host_port, host_port_end });
        }
    }
    if publish_all {
        for key in exposed {
            let (container_port, protocol) = parse_port(key)?;
            if !wanted.iter().any(|port| port.container_port == container_port && port.protocol == protocol) {
                let host_ip = IpAddr::V4(default);
                wanted.push(PublishPort { container_port, protocol, host_ip, host_port: 0, host_port_end: 0 });
            }
        }
    }
    Ok(wanted)
}

/// `80/tcp`, `53/udp`, `80`.
///
/// # Errors
/// What is no port.
pub fn parse_port(key: &str) -> Result<(u16, Protocol)> {
    let (port, protocol) = key.split_once('/').unwrap_or((key, "tcp"));
    let invalid = || Error::invalid(format!("invalid port specification: {key:?}"));
    let port = port.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(invalid)?;
    match protocol.to_ascii_lowercase().as_str() {
        "tcp" => Ok((port, Protocol::Tcp)),
        "udp" => Ok((port, Protocol::Udp)),
        "sctp" => Err(Error::not_implemented("SCTP ports are not supported: this kernel has no SCTP sockets")),
        _ => Err(Error::invalid(format!("invalid protocol: {protocol}"))),
    }
}

fn parse_range(text: &str) -> Result<(u16, u16)> {
    if text.is_empty() {
        return Ok((0, 0));
    }
    let invalid = || Error::invalid(format!("invalid port specification: {text:?}"));
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last): (u16, u16) = (first.parse().map_err(|_| invalid())?, last.parse().map_err(|_| invalid())?);
    if first > last { Err(invalid()) } else { Ok((first, last)) }
}

/// Published ports as `inspect` shows them; exposed ones that are not published have `None`.
#[must_use]
pub fn port_map(endpoint: Option<&Endpoint>, exposed: &[String]) -> PortMap {
    let mut map: PortMap = exposed.iter().map(|key| (key.clone(), None)).collect();
    for port in endpoint.iter().flat_map(|endpoint| &endpoint.ports) {
        let entry = map.entry(format!("{}/{}", port.container_port, protocol_name(port.protocol))).or_default();
        entry.get_or_insert_default().push(gantry_api::hostconfig::PortBinding {
            host_ip: port.host_ip.to_string(),
            host_port: port.host_port.to_string(),
        });
    }
    map
}

/// `tcp`, `udp`.
#[must_use]
pub const fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    }
}

/// Checks what a create asks of networks, and fills in the default.
///
/// # Errors
/// As [`Networks::driver`]; options that contradict the mode.
pub fn validate(engine: &Engine, host_config: &mut HostConfig, exposed: &[String], hostname_given: bool) -> Result<()> {
    if matches!(host_config.network_mode.as_str(), "" | "default") {
        host_config.network_mode = if engine.drivers.bridge.is_some() { "bridge" } else { "none" }.into();
    }
    let mode = host_config.network_mode.as_str();
    engine.networks.driver(engine, mode)?;
    ports(host_config.port_bindings.as_ref(), host_config.publish_all_ports, exposed, engine.options.publish_address)?;
    if let Some(other) = mode.strip_prefix("container:") {
        engine.containers.get(other)?;
        if hostname_given {
            return Err(Error::invalid("conflicting options: hostname and the network mode"));
        }
        if host_config.port_bindings.as_ref().is_some_and(|map| !map.is_empty()) || host_config.publish_all_ports {
            return Err(Error::invalid("conflicting options: port publishing and the container type network mode"));
        }
    }
    if host_config.links.as_ref().is_some_and(|links| !links.is_empty()) {
        return Err(Error::not_implemented("--link is not supported yet"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hardware_address_is_read_back_as_it_was_written() {
        let mac = [2, 0x42, 0xac, 0x11, 0, 2];
        assert_eq!(parse_mac(&format_mac(mac)).unwrap(), mac);
        for bad in ["", "02:42", "02:42:ac:11:00:zz", "02:42:ac:11:00:02:03"] {
            assert!(parse_mac(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ports_that_are_none_are_refused() {
        assert_eq!(parse_port("80").unwrap(), (80, Protocol::Tcp));
        for bad in ["0/tcp", "70000", "x", "80/foo", "80/"] {
            assert!(parse_port(bad).is_err(), "{bad}");
        }
        assert!(parse_range("90-80").is_err());
    }
}
