//! The bridge driver: a Linux bridge, a pair of links for each container, addresses, ports and the firewall.

mod found;
mod publish;
mod setup;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::BorrowedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use gantry_linux::netlink::Socket;
use libcontainer::network::firewall::{BridgeRules, Element};
use libcontainer::network::link::{self, Link};
use libcontainer::network::{Subnet, conntrack};
use tracing::warn;

use crate::places::{Leases, Places, random};
use crate::ports::{self, Ports, Wanted, short};
use crate::{
    AddressPool, Addresses, Endpoint, Error, Join, NetworkDriver, NetworkInfo, Pool, PublishPort, PublishedPort,
    Routes, Wall,
};

pub use found::Found;
pub use setup::{ALIAS, NETWORK_OF, check_name, free_subnet};

/// How a bridge is to be.
#[derive(Debug, Clone)]
pub struct BridgeOptions {
    /// Its name (`--bridge`): up to 15 bytes. A bridge that is there is used as it is.
    pub name: String,
    /// The note on it that says that we made it, and may delete it.
    pub alias: String,
    /// Its name is made of the network's id: one of that name is ours, also where a daemon of another `--bridge` made it.
    pub own_name: bool,
    /// What a bridge that was there was like when the network was made; else what it is like now.
    pub found: Option<Found>,
    /// The subnet and the host's address in it (`--bip`). Any is that of a bridge that is there, else a free one.
    pub ipv4: Addresses,
    /// The same for IPv6.
    pub ipv6: Addresses,
    /// Where free subnets are taken from; of a family that is not among them, a /20 from 172.18.0.0–172.31.255.255, then
    /// 10.200.0.0–10.254.255.255, then 192.168.0.0/16, and a random /64 of fd00::/8.
    pub pools: Vec<AddressPool>,
    /// Maximum transmission unit (`--mtu`); else that of the link of the host's default route, else 1500.
    pub mtu: Option<u32>,
    /// Where ports are published that name no address (`--ip`).
    pub publish_address: Ipv4Addr,
    /// Containers may speak to each other (`--icc`).
    pub icc: bool,
    /// What leaves by another link has the host's address from then on.
    pub masquerade: bool,
    /// It has no gateway: nothing leaves it.
    pub internal: bool,
    /// The daemon's firewall; without it (`--iptables=false`) no port can be published and nothing is translated.
    pub wall: Option<Wall>,
    /// The host's ports, one table for all networks of a daemon.
    pub ports: Ports,
}

impl Default for BridgeOptions {
    fn default() -> Self {
        Self {
            name: "gantry0".into(),
            alias: ALIAS.into(),
            own_name: false,
            found: None,
            ipv4: Addresses::Any,
            ipv6: Addresses::None,
            pools: Vec::new(),
            mtu: None,
            publish_address: Ipv4Addr::UNSPECIFIED,
            icc: true,
            masquerade: true,
            internal: false,
            wall: None,
            ports: Ports::default(),
        }
    }
}

/// A bridge and what its containers hold.
#[derive(Debug)]
pub struct Bridge {
    options: BridgeOptions,
    index: u32,
    mtu: u32,
    places: Places,
    /// What it was like, where it is somebody else's.
    found: Option<Found>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    route: Socket,
    held: HashMap<String, Held>,
    /// Nobody joins any more.
    removed: bool,
}

/// What an endpoint owns: dropped, it is free.
#[derive(Debug)]
struct Held {
    host_link: String,
    addresses: Leases,
    ports: Vec<ports::Lease>,
}

impl Bridge {
    /// Makes the bridge or takes up the one that is there, and loads the firewall, in the network namespace of the
    /// calling thread.
    ///
    /// # Errors
    /// A bad name or subnet, a name or table that belongs to somebody else, no free subnet, the kernel's refusal. What was
    /// made is gone then.
    pub fn open(options: BridgeOptions) -> Result<Self, Error> {
        let mut route = Socket::route()?;
        let setup::Made { link, mtu, ipv4, ipv6, new, found } = setup::bridge(&mut route, &options)?;
        if let Err(error) = wall_in(&options, ipv4.as_ref(), ipv6.as_ref()) {
            let mut failures = vec![error];
            if new {
                failures.extend(delete_link(&mut route, &link.name).err());
            } else if let Some(found) = found.filter(|_| options.found.is_none()) {
                failures.extend(found.give_back(&mut route, &link, &gateways(ipv4.as_ref(), ipv6.as_ref())));
            }
            return Err(if failures.len() == 1 { failures.remove(0) } else { Error::Several(failures) });
        }
        let places = Places::new(ipv4, ipv6, options.internal);
        let state = Mutex::new(State { route, held: HashMap::new(), removed: false });
        Ok(Self { index: link.index, mtu, places, found, state, options })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks everything and takes address and ports; nothing is done to the kernel but binding the ports.
    fn reserve(&self, state: &State, request: &Join<'_>) -> Result<Held, Error> {
        if state.removed {
            return Err(Error::Conflict(format!("the network of bridge {} has been removed", self.options.name)));
        }
        if state.held.contains_key(request.container) {
            return Err(Error::Conflict(format!(
                "container {} is already joined to bridge {}",
                short(request.container),
                self.options.name
            )));
        }
        if self.options.wall.is_none() && !request.ports.is_empty() {
            return Err(Error::Invalid("cannot publish ports: the daemon runs with --iptables=false".into()));
        }
        let addresses = self.places.take(request)?;
        let wanted = request.ports.iter().map(|port| self.wanted(port)).collect::<Result<Vec<_>, _>>()?;
        let ports = self.options.ports.take(request.container, &wanted);
        let ports = ports.map_err(|error| programming(request.container, error))?;
        Ok(Held { host_link: String::new(), addresses, ports })
    }

    /// Where a port is to be published.
    fn wanted(&self, port: &PublishPort) -> Result<Wanted, Error> {
        let here = IpAddr::V4(self.options.publish_address);
        let addresses = match port.host_ip {
            Some(named) => vec![named],
            None if here.is_unspecified() => [here, IpAddr::V6(Ipv6Addr::UNSPECIFIED)].into(),
            None => vec![here],
        };
        let has = |address: &IpAddr| self.places.has_family_of(*address);
        let addresses: Vec<IpAddr> = addresses.into_iter().filter(has).collect();
        if addresses.is_empty() {
            let family = if port.host_ip.is_some_and(|address| address.is_ipv6()) { "IPv6" } else { "IPv4" };
            return Err(Error::Invalid(format!(
                "cannot publish port {}: the network of bridge {} has no {family}, which its address is of: make the \
                 network with --{}, or ask for another address",
                port.container_port,
                self.options.name,
                family.to_ascii_lowercase()
            )));
        }
        let PublishPort { container_port, protocol, host_port, host_port_end, .. } = *port;
        Ok(Wanted { container_port, protocol, addresses, host_port, host_port_end })
    }

    /// Makes the pair, and plugs it in; the name of the host's end.
    fn connect(&self, state: &mut State, request: &Join<'_>, mac: [u8; 6]) -> Result<String, Error> {
        let name = self.new_pair(state, request, mac)?;
        // A port of a bridge needs no address of its own. It would make one, and tell every other port of it.
        let messages = link::quiet(&name, self.mtu).into_iter().chain([link::plug(&name, self.index)]);
        match state.route.transact(messages.collect()) {
            Ok(()) => Ok(name),
            Err(error) => Err(match delete_link(&mut state.route, &name) {
                Ok(()) => error.into(),
                Err(second) => Error::Several(vec![error.into(), second]),
            }),
        }
    }

    fn new_pair(&self, state: &mut State, request: &Join<'_>, mac: [u8; 6]) -> Result<String, Error> {
        loop {
            let name = new_link_name()?;
            match state.route.transact(vec![link::new_pair(&name, request.link, self.mtu, mac, request.netns)]) {
                Ok(()) => return Ok(name),
                // Taken by chance, or is it the container that has such a link?
                Err(error) if error.errno() == libc::EEXIST && link::link(&mut state.route, &name)?.is_some() => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sets the mode of a new port of the bridge, or of one whose container has published something now.
    fn set_mode(&self, state: &mut State, held: &Held) -> Result<(), Error> {
        if self.options.icc && held.ports.is_empty() {
            return Ok(());
        }
        match self.mode(held) {
            (false, false) => Ok(()),
            mode => change_mode(state, held, mode),
        }
    }

    /// Hairpin and isolated. Where the bridge shows its packets to the firewall, a published port is translated on the
    /// bridge itself: the answer to its own container goes back by the port that it came from, and the firewall sees to
    /// `icc`, of both families.
    fn mode(&self, held: &Held) -> (bool, bool) {
        let (ipv4, ipv6) = setup::bridge_is_filtered();
        (ipv4 && !held.ports.is_empty(), !(self.options.icc || ipv4 && ipv6))
    }

    /// Closes published ports. Datagrams of theirs go on until they are forgotten ([`forget`]).
    fn close(&self, elements: &[Element]) -> Result<(), Error> {
        let Some(wall) = self.options.wall.as_ref().filter(|_| !elements.is_empty()) else { return Ok(()) };
        Ok(wall.lock().remove(elements)?)
    }

    /// What comes after the link is made; whoever calls it deletes the link when it fails.
    fn finish(&self, state: &mut State, request: &Join<'_>, held: &Held) -> Result<(), Error> {
        self.set_mode(state, held)?;
        self.places.configure(request, &held.addresses)?;
        match &self.options.wall {
            Some(wall) if !held.ports.is_empty() => Ok(wall.lock().add(&held.elements())?),
            _ => Ok(()),
        }
    }
}

impl NetworkDriver for Bridge {
    fn name(&self) -> &'static str {
        "bridge"
    }

    fn join(&self, request: Join<'_>) -> Result<Endpoint, Error> {
        let mut state = self.lock();
        let mut held = self.reserve(&state, &request)?;
        let mac = held.addresses.mac(&request)?;
        held.host_link = self.connect(&mut state, &request, mac)?;
        // The firewall comes last: from here on only the link has to be undone, address and ports free themselves.
        if let Err(error) = self.finish(&mut state, &request, &held) {
            return Err(match delete_link(&mut state.route, &held.host_link) {
                Ok(()) => error,
                Err(second) => Error::Several(vec![error, second]),
            });
        }
        let endpoint = Endpoint {
            host_link: held.host_link.clone(),
            ports: held.ports.iter().flat_map(ports::Lease::ports).collect(),
            ..self.places.endpoint(&request, &held.addresses, mac)
        };
        let elements = held.elements();
        state.held.insert(request.container.into(), held);
        drop(state);
        forget_earlier(&elements);
        Ok(endpoint)
    }

    fn leave(&self, endpoint: &Endpoint) -> Result<(), Error> {
        // Address and ports are its own until they lead nowhere.
        let Some(held) = self.lock().held.remove(&endpoint.container) else { return Ok(()) };
        let elements = held.elements();
        self.close(&elements)?;
        forget(&elements);
        Ok(())
    }

    fn disconnect(&self, endpoint: &Endpoint, _route_socket: BorrowedFd<'_>) -> Result<(), Error> {
        let mut failures: Vec<Error> = self.leave(endpoint).err().into_iter().collect();
        // By a socket of its own: it takes the kernel some twenty milliseconds, which nobody else has to wait for.
        let deleted =
            Socket::route().map_err(Error::from).and_then(|mut route| delete_link(&mut route, &endpoint.host_link));
        failures.extend(deleted.err());
        all(failures)
    }

    fn route(&self, endpoint: &Endpoint, route_socket: BorrowedFd<'_>, routes: Routes) -> Result<(), Error> {
        self.places.route(endpoint, route_socket, routes)
    }

    fn publish(&self, container: &str, ports: &[PublishPort]) -> Result<Vec<PublishedPort>, Error> {
        self.publish_more(container, ports)
    }

    fn withdraw(&self, container: &str) -> Result<(), Error> {
        self.withdraw_all(container)
    }

    fn published(&self, container: &str) -> Vec<Element> {
        self.lock().held.get(container).map(Held::elements).unwrap_or_default()
    }

    fn restore(&self, endpoint: &Endpoint) -> Result<(), Error> {
        let mut state = self.lock();
        if state.held.contains_key(&endpoint.container) {
            return Ok(());
        }
        let addresses = self.places.retake(endpoint)?;
        let ports = self.options.ports.retake(&endpoint.container, &endpoint.ports)?;
        let held = Held { host_link: endpoint.host_link.clone(), addresses, ports };
        // Its elements are in the table still, or come back with all others in `restored`.
        if let Some(wall) = &self.options.wall {
            wall.lock().remember(&held.elements());
        }
        state.held.insert(endpoint.container.clone(), held);
        Ok(())
    }

    fn restored(&self) -> Result<(), Error> {
        let mut state = self.lock();
        let State { route, held, .. } = &mut *state;
        let mut failures: Vec<Error> = Vec::new();
        if let Some(wall) = &self.options.wall {
            failures.extend(wall.lock().settle().err().map(Error::from));
        }
        let known = |link: &Link| held.values().any(|held| held.host_link == link.name);
        match link::links(route) {
            Ok(links) => {
                let ours = links.iter().filter(|link| link.master == Some(self.index) && is_link_name(&link.name));
                for stale in ours.filter(|link| !known(link)) {
                    failures.extend(delete_link(route, &stale.name).err());
                }
            }
            Err(error) => failures.push(error.into()),
        }
        all(failures)
    }

    fn found(&self) -> Option<Found> {
        self.found.clone()
    }

    fn info(&self) -> NetworkInfo {
        NetworkInfo { bridge: self.options.name.clone(), icc: self.options.icc, ..self.places.info(self.mtu) }
    }

    fn remove(&self) -> Result<(), Error> {
        let mut state = self.lock();
        if !state.held.is_empty() {
            let holders: Vec<&str> = state.held.keys().map(|container| short(container)).collect();
            return Err(Error::Conflict(format!("containers are joined to it: {}", holders.join(", "))));
        }
        state.removed = true;
        let mut failures: Vec<Error> = Vec::new();
        if let Some(wall) = &self.options.wall {
            failures.extend(wall.lock().remove_bridge(&self.options.name).err().map(Error::from));
        }
        match link::link(&mut state.route, &self.options.name) {
            Ok(Some(bridge)) if bridge.alias == self.options.alias => {
                failures.extend(delete_link(&mut state.route, &bridge.name).err());
            }
            Ok(Some(bridge)) => {
                let info = self.places.info(self.mtu);
                let given = gateways(info.ipv4.as_ref(), info.ipv6.as_ref());
                let found = self.found.iter();
                failures.extend(found.flat_map(|found| found.give_back(&mut state.route, &bridge, &given)));
            }
            Ok(None) => {}
            Err(error) => failures.push(error.into()),
        }
        all(failures)
    }
}

impl Held {
    fn elements(&self) -> Vec<Element> {
        let element = |lease: &ports::Lease| {
            let address = if lease.is_ipv6() { &self.addresses.ipv6 } else { &self.addresses.ipv4 };
            Some(lease.element(address.as_ref()?.address))
        };
        self.ports.iter().filter_map(element).collect()
    }
}

fn change_mode(state: &mut State, held: &Held, (hairpin, isolated): (bool, bool)) -> Result<(), Error> {
    Ok(state.route.transact(vec![link::port_mode(&held.host_link, hairpin, isolated)])?)
}

/// Datagrams of closed ports go nowhere any more. Without a lock: every conversation of the host is looked at. The ports
/// are closed also where it fails.
fn forget(elements: &[Element]) {
    if let Err(error) = conntrack::forget(elements) {
        warn!("datagrams to ports that are closed may still go where they went: {error}");
    }
}

/// Datagrams that went to the host before its ports led to a container go to the container from now on.
fn forget_earlier(elements: &[Element]) {
    if let Err(error) = conntrack::forget_earlier(elements) {
        warn!("datagrams of who used a published port before may still go to the host: {error}");
    }
}

/// The host's own addresses on a bridge.
fn gateways(ipv4: Option<&Pool>, ipv6: Option<&Pool>) -> Vec<Subnet> {
    ipv4.into_iter().chain(ipv6).map(Pool::of_gateway).collect()
}

/// Tells the firewall of the bridge. On failure it knows of none.
fn wall_in(options: &BridgeOptions, ipv4: Option<&Pool>, ipv6: Option<&Pool>) -> Result<(), Error> {
    let Some(wall) = &options.wall else { return Ok(()) };
    wall.lock().add_bridge(&BridgeRules {
        name: options.name.clone(),
        subnet4: ipv4.map(|pool| pool.subnet),
        subnet6: ipv6.map(|pool| pool.subnet),
        icc: options.icc,
        masquerade: options.masquerade,
        internal: options.internal,
    })?;
    let Some(Err(error)) = ipv6.map(|_| wall.forward6()) else { return Ok(()) };
    Err(match wall.lock().remove_bridge(&options.name) {
        Ok(()) => error,
        Err(second) => Error::Several(vec![error, second.into()]),
    })
}

fn programming(container: &str, error: Error) -> Error {
    let text =
        |text| format!("driver failed programming external connectivity on endpoint {}: {text}", short(container));
    match error {
        Error::Conflict(inner) => Error::Conflict(text(inner)),
        Error::Exhausted(inner) => Error::Exhausted(text(inner)),
        other => other,
    }
}

fn delete_link(socket: &mut Socket, name: &str) -> Result<(), Error> {
    if name.is_empty() {
        return Ok(());
    }
    match socket.transact(vec![link::delete(name)]) {
        Err(error) if error.errno() != libc::ENODEV => Err(error.into()),
        _ => Ok(()),
    }
}

pub fn all(mut failures: Vec<Error>) -> Result<(), Error> {
    match failures.len() {
        0 => Ok(()),
        1 => Err(failures.remove(0)),
        _ => Err(Error::Several(failures)),
    }
}

fn new_link_name() -> Result<String, Error> {
    let mut number = [0; 4];
    random(&mut number)?;
    Ok(format!("gv{:08x}", u32::from_ne_bytes(number)))
}

pub fn is_link_name(name: &str) -> bool {
    name.strip_prefix("gv").is_some_and(|rest| rest.len() == 8 && rest.bytes().all(|b| b.is_ascii_hexdigit()))
}
