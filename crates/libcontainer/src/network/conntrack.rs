//! Datagrams that the kernel takes for a conversation, and sends where the first of them went, also when the port that led
//! there is gone: those of published ports are forgotten with the port.

use std::net::IpAddr;

use gantry_linux::Result;
use gantry_linux::netlink::{Attributes, Message, Reply, Socket};

use super::Protocol;
use super::firewall::Element;
use super::link::ip;

/// Connection tracking's number among the subsystems of nfnetlink.
const CONNTRACK: u16 = 1;
const GET: u16 = 1;
const DELETE: u16 = 2;
const HEADER: usize = 4;

const ORIGINAL: u16 = 1;
const ANSWER: u16 = 2;
const ZONE: u16 = 18;
const ADDRESSES: u16 = 1;
const PROTOCOL: u16 = 2;
const UDP: u8 = 17;

/// Forgets the conversations that were led by these ports; those of other protocols end with their connections.
///
/// # Errors
/// The kernel's refusals.
pub fn forget(ports: &[Element]) -> Result<()> {
    let ports: Vec<&Element> = ports.iter().filter(|port| port.protocol == Protocol::Udp).collect();
    for family in [libc::AF_INET, libc::AF_INET6].map(|family| u8::try_from(family).unwrap_or(0)) {
        let of_family = |port: &&&Element| port.container.is_ipv4() == (i32::from(family) == libc::AF_INET);
        let ports: Vec<&Element> = ports.iter().filter(of_family).copied().collect();
        if ports.is_empty() {
            continue;
        }
        let mut socket = Socket::netfilter()?;
        let header = [family, 0, 0, 0];
        let question = Message::new(CONNTRACK << 8 | GET, 0, &header).named("list", "tracked connections");
        let entries = match socket.dump(&question) {
            // A kernel without `nf_conntrack_netlink` tells nothing of what it tracks, and lets nobody forget it.
            Err(error) if error.errno() == libc::EINVAL => return Ok(()),
            other => other?,
        };
        for entry in entries.iter().filter(|entry| ports.iter().any(|port| is_led(entry, port))) {
            let attributes = entry.attributes(HEADER);
            let original = attributes.find(ORIGINAL).unwrap_or_default();
            let delete = Message::new(CONNTRACK << 8 | DELETE, 0, &header).nest(ORIGINAL, |m| m.raw(original));
            let delete = attributes.find(ZONE).into_iter().fold(delete, |message, zone| message.attribute(ZONE, zone));
            match socket.transact(vec![delete.named("forget", "tracked datagrams")]) {
                // It has ended just now.
                Err(error) if error.is_not_found() => {}
                other => other?,
            }
        }
    }
    Ok(())
}

/// Whether the answers come from the port inside, and are for somebody who spoke to another one.
fn is_led(entry: &Reply, port: &Element) -> bool {
    let attributes = entry.attributes(HEADER);
    let (Some(answer), Some(original)) = (attributes.find(ANSWER), attributes.find(ORIGINAL)) else { return false };
    let (Some((from, inside)), Some((to, outside))) = (end(answer, true), end(original, false)) else { return false };
    let length = port.last_port.saturating_sub(port.host_port);
    let last = port.container_port.saturating_add(length);
    from == port.container && (port.container_port..=last).contains(&inside) && (from, inside) != (to, outside)
}

/// One end of a tuple of datagrams: where they come from, or go.
fn end(tuple: &[u8], source: bool) -> Option<(IpAddr, u16)> {
    let tuple = Attributes::new(tuple);
    let protocol = Attributes::new(tuple.find(PROTOCOL)?);
    if protocol.find(1)? != [UDP] {
        return None;
    }
    let addresses = Attributes::new(tuple.find(ADDRESSES)?);
    let (four, six, port) = if source { (1, 3, 2) } else { (2, 4, 3) };
    let address = addresses.find(four).or_else(|| addresses.find(six)).and_then(ip)?;
    Some((address, u16::from_be_bytes(protocol.find(port)?.try_into().ok()?)))
}
