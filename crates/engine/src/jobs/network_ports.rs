//! `network_ports`: every published port, who reaches it, and what in the firewall says so.

use std::net::{IpAddr, SocketAddr};

use gantry_api::network::Reachable;
use gantry_networkdriver::Element;

use crate::engine::Engine;
use crate::error::Result;
use crate::job::{Class, Context, Job};
use crate::networks::protocol_name;

/// Lists published ports.
pub struct NetworkPorts;

impl Job for NetworkPorts {
    const NAME: &'static str = "network_ports";
    const DOC: &'static str = "lists published ports, who reaches them, and the rule that says so";
    const CLASS: Class = Class::Read;
    type Output = Vec<Reachable>;

    async fn run(self, context: Context) -> Result<Vec<Reachable>> {
        Ok(list(&context.engine))
    }
}

fn list(engine: &Engine) -> Vec<Reachable> {
    let mut all = Vec::new();
    for record in engine.containers.all().iter().map(|container| container.record()) {
        for network in record.endpoints.keys() {
            let Ok(driver) = engine.networks.driver(engine, network) else { continue };
            all.extend(driver.published(&record.id).into_iter().map(|element| Reachable {
                container_id: record.id.clone(),
                container: record.name.clone(),
                network: network.clone(),
                host: side(element.host, element.host_port, element.last_port),
                inside: side(
                    element.container,
                    element.container_port,
                    element.container_port + (element.last_port - element.host_port),
                ),
                protocol: protocol_name(element.protocol).to_owned(),
                from: from(&element),
                rule: element.entry(engine.drivers.networks.table()),
            }));
        }
    }
    all
}

fn side(address: IpAddr, first: u16, last: u16) -> String {
    let one = SocketAddr::new(address, first);
    if last > first { format!("{one}-{last}") } else { one.to_string() }
}

fn from(element: &Element) -> String {
    match element.host {
        host if host.is_loopback() => "this host only".into(),
        IpAddr::V4(host) if host.is_unspecified() => "this host, and who reaches an IPv4 address of it".into(),
        IpAddr::V6(host) if host.is_unspecified() => "this host, and who reaches an IPv6 address of it".into(),
        host => format!("this host, and who reaches its address {host}"),
    }
}

#[cfg(test)]
mod tests {
    use gantry_networkdriver::Protocol;

    use super::*;

    #[test]
    fn ports_are_told_with_who_reaches_them() {
        let element = |host: &str, last_port| Element {
            host: host.parse().unwrap(),
            protocol: Protocol::Tcp,
            host_port: 8000,
            last_port,
            container: "172.18.0.2".parse().unwrap(),
            container_port: 8000,
        };
        assert_eq!(from(&element("127.0.0.1", 8000)), "this host only");
        assert!(from(&element("0.0.0.0", 8000)).contains("an IPv4 address"));
        assert!(from(&element("192.0.2.1", 8000)).ends_with("192.0.2.1"));
        assert_eq!(side("::".parse().unwrap(), 80, 82), "[::]:80-82");
        assert_eq!(element("0.0.0.0", 8000).entry("g0"), "ip g0 published-any { tcp . 8000 : 172.18.0.2 . 8000 }");
        let range = element("0.0.0.0", 8099).entry("g0");
        assert_eq!(range, "ip g0 published-ranges { 0.0.0.0 . tcp . 8000-8099 : 172.18.0.2 }");
    }
}
