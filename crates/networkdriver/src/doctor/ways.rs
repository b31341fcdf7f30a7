//! The way out and the way in: packets' sizes, what the host forwards, the firewalls, and whether somebody listens.

use std::net::{IpAddr, SocketAddr};

use libcontainer::network::firewall::{Element, Obstacle};
use libcontainer::network::link::{self, IpFamily, Link};

use super::{Check, Exam, Fix, Look, Stay, again};
use crate::Error;
use crate::ports::listeners;
use crate::wall::is_off;

/// So many ports of a container are looked at one by one.
const MOST_PORTS: usize = 256;

impl Exam<'_> {
    pub(super) fn mtu(&mut self, stay: &Stay<'_>) -> Look {
        let name = &stay.endpoint.link;
        let Some(inside) = link::link(&mut self.inside, name)? else { return Ok(None) };
        let found = |what: String, fix: Fix| stay.finding(Check::Mtu, what, fix);
        let Some(bridge) = self.bridge(stay)? else { return Ok(None) };
        let end = link::link(&mut self.host, &stay.endpoint.host_link)?;
        if let Some(other) = end.iter().chain([&bridge]).find(|other| other.mtu < inside.mtu) {
            let what = format!(
                "link {name} of the container sends packets of up to {} bytes, and {} on the host takes {}",
                inside.mtu, other.name, other.mtu
            );
            return found(what, format!("give them the same: ip link set {} mtu {}", other.name, inside.mtu).into());
        }
        if stay.driver.info().internal {
            return Ok(None);
        }
        for family in families(stay) {
            let Some(egress) = self.egress(family)?.filter(|egress| egress.mtu < inside.mtu) else { continue };
            let what = format!(
                "link {name} of the container sends packets of up to {} bytes, and {}, by which the host's default route \
                 leaves, takes {}",
                inside.mtu, egress.name, egress.mtu
            );
            let fix = format!(
                "make the network with -o com.docker.network.driver.mtu={0}, or start the daemon with --mtu {0}",
                egress.mtu
            );
            return found(what, fix.into());
        }
        Ok(None)
    }

    /// The link of the host's default route.
    fn egress(&mut self, family: IpFamily) -> Result<Option<Link>, Error> {
        let routes = link::routes(&mut self.host, family)?.into_iter();
        let default = routes.filter(|route| route.main && route.destination.prefix == 0 && route.metric < u32::MAX);
        let Some(index) = default.min_by_key(|route| route.metric).and_then(|route| route.link) else {
            return Ok(None);
        };
        Ok(link::links(&mut self.host)?.into_iter().find(|link| link.index == index))
    }

    pub(super) fn firewall(&mut self, stay: &Stay<'_>) -> Look {
        let info = stay.driver.info();
        if info.bridge.is_empty() {
            return Ok(None);
        }
        if let Some(wall) = self.wall {
            let lacking = wall.lock().lacks(&info.bridge, &stay.driver.published(self.patient.id))?;
            if let Some(lacking) = lacking {
                let what = format!("the daemon's firewall is not as it ought to be: {lacking}");
                return stay.finding(Check::Firewall, what, again());
            }
        }
        for family in families(stay) {
            if let Some(found) = self.shut(stay, family, false)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Why packets of a family do not get out by a place. `certainly`: not why they might not.
    pub(super) fn shut(&mut self, stay: &Stay<'_>, family: IpFamily, certainly: bool) -> Look {
        let info = stay.driver.info();
        if info.bridge.is_empty() || info.internal || !families(stay).contains(&family) {
            return Ok(None);
        }
        let found = |what: String, fix: Fix| stay.finding(Check::Firewall, what, fix);
        if let Some(link) = self.does_not_forward(family, &info.bridge)? {
            let version = if family == IpFamily::V4 { "IPv4" } else { "IPv6" };
            let setting = match family {
                IpFamily::V6 => "net.ipv6.conf.all.forwarding".to_owned(),
                IpFamily::V4 if is_off("/proc/sys/net/ipv4/ip_forward")? => "net.ipv4.ip_forward".to_owned(),
                // Written once more, the setting for all changes nothing. A VLAN's link has a dot in its name.
                IpFamily::V4 => format!("net/ipv4/conf/{link}/forwarding"),
            };
            let what = format!("the host does not forward {version} that comes by {link}");
            return found(what, format!("have it do so: sysctl -w {setting}=1").into());
        }
        let Some(wall) = self.wall else { return Ok(None) };
        match wall.obstacles(&info.bridge)?.into_iter().find(|obstacle| obstacle.certain || !certainly) {
            Some(Obstacle { told, .. }) => {
                let (what, fix) = told.split_once(": ").unwrap_or((&told, "restart the daemon, which puts one there"));
                found(what.to_owned(), fix.into())
            }
            None => Ok(None),
        }
    }

    /// The link whose packets are not forwarded, of those that the container's go and come by.
    fn does_not_forward(&mut self, family: IpFamily, bridge: &str) -> Result<Option<String>, Error> {
        if family == IpFamily::V6 {
            return Ok(is_off("/proc/sys/net/ipv6/conf/all/forwarding")?.then(|| "any link".to_owned()));
        }
        let egress = self.egress(family)?.map(|link| link.name);
        for link in [Some(bridge.to_owned()), egress].into_iter().flatten() {
            if is_off(&format!("/proc/sys/net/ipv4/conf/{link}/forwarding"))? {
                return Ok(Some(link));
            }
        }
        Ok(None)
    }

    pub(super) fn ports(&mut self, stay: &Stay<'_>) -> Look {
        let published = stay.driver.published(self.patient.id);
        let single = published.iter().filter(|element| element.last_port == element.host_port);
        for element in single.take(MOST_PORTS) {
            let Some(all) = listeners(self.patient.process, element.protocol)? else { return Ok(None) };
            let there: Vec<&SocketAddr> = all.iter().filter(|at| at.port() == element.container_port).collect();
            if there.iter().any(|at| hears(element, at.ip())) {
                continue;
            }
            let Element { container_port: port, host_port, .. } = element;
            let what = match there.first() {
                None => {
                    format!("port {host_port} of the host leads to port {port} of the container, where nothing listens")
                }
                Some(at) => format!(
                    "port {host_port} of the host leads to port {port} of the container, where the program listens on {} only",
                    at.ip()
                ),
            };
            let every = if element.container.is_ipv4() { "0.0.0.0" } else { "[::]" };
            return stay.finding(Check::Port, what, format!("have the program listen on {every}:{port}"));
        }
        Ok(None)
    }
}

/// Whether a socket that listens there is reached by a published port. One on every IPv6 address has IPv4, too.
fn hears(element: &Element, at: IpAddr) -> bool {
    at == element.container || at.is_unspecified() && (at.is_ipv6() || element.container.is_ipv4())
}

fn families(stay: &Stay<'_>) -> Vec<IpFamily> {
    let family = |address: &IpAddr| if address.is_ipv4() { IpFamily::V4 } else { IpFamily::V6 };
    stay.addresses().iter().filter(|(.., gateway)| gateway.is_some()).map(|(address, ..)| family(address)).collect()
}
