//! Ports and hardware addresses as the API writes them.

use gantry_api::hostconfig::PortMap;
use gantry_networkdriver::{Endpoint, Protocol, PublishPort};

use crate::error::{Error, Result};

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
pub fn ports(record_ports: Option<&PortMap>, publish_all: bool, exposed: &[String]) -> Result<Vec<PublishPort>> {
    let mut wanted = Vec::new();
    for (key, bindings) in record_ports.into_iter().flatten() {
        let (container_port, protocol) = parse_port(key)?;
        for binding in bindings.iter().flatten() {
            let parse = |text: &str| text.parse().map_err(|_| Error::invalid(format!("invalid IP address: {text}")));
            let host_ip = Some(binding.host_ip.as_str()).filter(|text| !text.is_empty()).map(parse).transpose()?;
            let (host_port, host_port_end) = parse_range(&binding.host_port)?;
            wanted.push(PublishPort { container_port, protocol, host_ip, host_port, host_port_end });
        }
    }
    if publish_all {
        for key in exposed {
            let (container_port, protocol) = parse_port(key)?;
            if !wanted.iter().any(|port| port.container_port == container_port && port.protocol == protocol) {
                wanted.push(PublishPort { container_port, protocol, host_ip: None, host_port: 0, host_port_end: 0 });
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
        "sctp" => Ok((port, Protocol::Sctp)),
        _ => Err(Error::invalid(format!("invalid protocol: {protocol}"))),
    }
}

/// What `EXPOSE` names: a port or a range of ports, one key each.
///
/// # Errors
/// As [`parse_port`].
pub fn parse_ports(text: &str) -> Result<impl Iterator<Item = String> + use<>> {
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let (first, last) = parse_range(ports)?;
    let (_, protocol) = parse_port(&format!("{first}/{protocol}"))?;
    Ok((first..=last).map(move |port| format!("{port}/{}", protocol_name(protocol))))
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

/// Published ports as `inspect` shows them; exposed ones that are not published have `None`, and are told of only where the
/// container has a link of its own.
#[must_use]
pub fn port_map<'a>(endpoints: impl Iterator<Item = &'a Endpoint>, exposed: &[String]) -> PortMap {
    let linked: Vec<&Endpoint> = endpoints.filter(|endpoint| !endpoint.link.is_empty()).collect();
    let exposed = exposed.iter().filter(|_| !linked.is_empty());
    let mut map: PortMap = exposed.map(|key| (key.clone(), None)).collect();
    for port in linked.into_iter().flat_map(|endpoint| &endpoint.ports) {
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
        Protocol::Sctp => "sctp",
    }
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
