//! A container's place itself: both ends of its link, addresses, routes, and whether the gateway answers.

use std::net::IpAddr;

use gantry_linux::netlink::Socket;
use libcontainer::network::link::{self, IpFamily, Link, Route};
use libcontainer::network::{Subnet, neighbour};

use super::{Check, Exam, Fix, Look, Stay, again, mac_text, restart};
use crate::Error;

impl Exam<'_> {
    pub(super) fn link(&mut self, stay: &Stay<'_>) -> Look {
        if !stay.driver.info().bridge.is_empty()
            && let Some(finding) = self.host_side(stay)?
        {
            return Ok(Some(finding));
        }
        let found = |what: String, fix: Fix| stay.finding(Check::Link, what, fix);
        let name = &stay.endpoint.link;
        match link::link(&mut self.inside, name)? {
            None => return found(format!("the container has no link {name} any more"), again()),
            Some(link) if !link.up => {
                return found(format!("link {name} is down inside the container"), restart());
            }
            Some(link) if !link.carries => {
                let fix = "bring up what it stands on, on the host";
                return found(format!("link {name} of the container carries nothing"), fix.into());
            }
            Some(_) => {}
        }
        match link::link(&mut self.inside, "lo")? {
            Some(link) if !link.up => found("link lo is down inside the container".into(), restart()),
            _ => Ok(None),
        }
    }

    fn host_side(&mut self, stay: &Stay<'_>) -> Look {
        let found = |what: String, fix: Fix| stay.finding(Check::Link, what, fix);
        let (name, host_link) = (stay.driver.info().bridge, &stay.endpoint.host_link);
        let Some(bridge) = self.bridge(stay)? else {
            let fix = "restart the daemon, which makes it again, and then the container";
            return found(format!("bridge {name} is gone"), fix.into());
        };
        if !bridge.up {
            return found(format!("bridge {name} is down"), format!("bring it up: ip link set {name} up").into());
        }
        let Some(end) = link::link(&mut self.host, host_link)? else {
            let link = &stay.endpoint.link;
            return found(format!("{host_link}, the host's end of the container's {link}, is gone"), again());
        };
        if end.master != Some(bridge.index) {
            let what = format!("{host_link}, the host's end of the container's link, is no port of bridge {name}");
            return found(what, format!("make it one: ip link set {host_link} master {name}").into());
        }
        if !end.up {
            let what = format!("{host_link}, the host's end of the container's link, is down");
            return found(what, format!("bring it up: ip link set {host_link} up").into());
        }
        Ok(None)
    }

    pub(super) fn address(&mut self, stay: &Stay<'_>) -> Look {
        let name = &stay.endpoint.link;
        let Some(inside) = link::link(&mut self.inside, name)? else { return Ok(None) };
        let has = link::addresses(&mut self.inside, inside.index)?;
        for (address, prefix, _) in stay.addresses() {
            let wanted = Subnet { address, prefix };
            if !has.contains(&wanted) {
                let what = format!("link {name} of the container has no address {wanted} any more");
                return stay.finding(Check::Address, what, restart());
            }
        }
        let Some(bridge) = self.bridge(stay)? else { return Ok(None) };
        let has = link::addresses(&mut self.host, bridge.index)?;
        let info = stay.driver.info();
        for wanted in info.ipv4.iter().chain(&info.ipv6).map(|pool| pool.of_gateway()) {
            if !has.contains(&wanted) {
                let name = bridge.name;
                let what = format!("bridge {name} has no address {wanted} any more, which is the container's gateway");
                return stay.finding(Check::Address, what, format!("give it back: ip addr add {wanted} dev {name}"));
            }
        }
        Ok(None)
    }

    pub(super) fn route(&mut self, stay: &Stay<'_>) -> Look {
        let name = &stay.endpoint.link;
        let Some(inside) = link::link(&mut self.inside, name)? else { return Ok(None) };
        for (address, prefix, gateway) in stay.addresses() {
            let routes = main_routes(&mut self.inside, address)?;
            let subnet = Subnet { address, prefix }.masked();
            let leads = |route: &Route| route.destination == subnet && route.link == Some(inside.index);
            if !routes.iter().any(leads) {
                let what = format!("the container has no route to {subnet} by link {name}");
                return stay.finding(Check::Route, what, restart());
            }
            let routed = if address.is_ipv4() { stay.routes.ipv4 } else { stay.routes.ipv6 };
            if let (true, Some(gateway)) = (routed, gateway)
                && let Some(what) = wrong_way_out(&routes, &inside, gateway)
            {
                let fix = format!(
                    "set it inside the container: ip route replace default via {gateway} dev {name}, or restart the \
                     container"
                );
                return stay.finding(Check::Route, what, fix);
            }
        }
        self.way_back(stay)
    }

    /// The host sends to the container by the bridge, and not where another network of the same addresses is.
    fn way_back(&mut self, stay: &Stay<'_>) -> Look {
        let Some(bridge) = self.bridge(stay)? else { return Ok(None) };
        for (address, ..) in stay.addresses() {
            let way = link::way_to(&mut self.host, address)?;
            if way == Some(bridge.index) {
                continue;
            }
            let name = &bridge.name;
            let links = link::links(&mut self.host)?;
            let other = links.into_iter().find(|link| Some(link.index) == way);
            let other = other.map_or_else(|| "nowhere".to_owned(), |link| format!("by {}", link.name));
            let what = format!("the host sends what is for {address} {other}, not by bridge {name}");
            let fix = "remove the host's other route to these addresses, or make the network with another --subnet";
            return stay.finding(Check::Route, what, fix);
        }
        Ok(None)
    }

    pub(super) fn gateway(&mut self, stay: &Stay<'_>) -> Look {
        let name = &stay.endpoint.link;
        let Some(inside) = link::link(&mut self.inside, name)? else { return Ok(None) };
        let bridge = self.bridge(stay)?;
        let filtered = "look for what filters on the bridge (nft list ruleset, ebtables -L), and for arp_ignore";
        for (address, _, gateway) in stay.addresses() {
            if let Some(gateway) = gateway {
                let mac = neighbour::who_has(&mut self.inside, inside.index, gateway)?;
                let Some(mac) = mac else {
                    let what = format!("nobody answers the container on link {name} for the gateway {gateway}");
                    return stay.finding(Check::Gateway, what, filtered);
                };
                if let Some(bridge) = bridge.as_ref().filter(|bridge| bridge.mac != mac) {
                    let (mac, bridge) = (mac_text(&mac), &bridge.name);
                    let what =
                        format!("{mac} answers the container for the gateway {gateway}, which is not bridge {bridge}");
                    return stay.finding(Check::Gateway, what, "remove the machine or container that has its address");
                }
            }
            let Some(bridge) = &bridge else { continue };
            match neighbour::who_has(&mut self.host, bridge.index, address)? {
                Some(mac) if mac == inside.mac => {}
                Some(mac) => {
                    let (mac, bridge) = (mac_text(&mac), &bridge.name);
                    let what =
                        format!("{mac} answers on bridge {bridge} for {address}, which is the container's address");
                    return stay.finding(Check::Gateway, what, "remove the machine or container that has it, too");
                }
                None => {
                    let bridge = &bridge.name;
                    let what = format!("the container does not answer on bridge {bridge} for its address {address}");
                    return stay.finding(Check::Gateway, what, filtered);
                }
            }
        }
        Ok(None)
    }
}

/// The routes that packets to such an address are looked up in.
fn main_routes(socket: &mut Socket, address: IpAddr) -> Result<Vec<Route>, Error> {
    let family = if address.is_ipv4() { IpFamily::V4 } else { IpFamily::V6 };
    let routes = link::routes(socket, family)?;
    // The kernel's own, which says that there is none, comes after all others.
    Ok(routes.into_iter().filter(|route| route.main && route.metric < u32::MAX).collect())
}

/// What is wrong with the default route. One by a link of the container's own, as a VPN's, is its own affair.
fn wrong_way_out(routes: &[Route], inside: &Link, gateway: IpAddr) -> Option<String> {
    let default = routes.iter().filter(|route| route.destination.prefix == 0 && route.link.is_some());
    let name = &inside.name;
    match default.min_by_key(|route| route.metric) {
        None => Some(format!("the container has no default route, which was by {gateway} on link {name}")),
        Some(route) if route.link != Some(inside.index) || route.gateway == Some(gateway) => None,
        Some(route) => {
            let other = route.gateway.map_or_else(|| "no machine".to_owned(), |other| other.to_string());
            Some(format!("the container's default route on link {name} goes by {other}, not by the gateway {gateway}"))
        }
    }
}
