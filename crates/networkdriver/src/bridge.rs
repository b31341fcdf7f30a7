//! The bridge driver: a Linux bridge, a pair of links for each container, addresses, ports and the firewall.

mod setup;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};

use gantry_linux::ResultExt as _;
use gantry_linux::netlink::{Message, Socket};
use libcontainer::network::Cidr;
use libcontainer::network::firewall::{self, BridgeRules, Element, Firewall};
use libcontainer::network::link::{self, LOOPBACK, Link};

use crate::ipam::{self, Ipam};
use crate::ports::{self, Ports, short};
use crate::{Endpoint, Error, Join, NetworkDriver, NetworkInfo, PublishPort, PublishedPort};

/// The name of a container's end.
const CONTAINER_LINK: &str = "eth0";

/// How a bridge is to be.
#[derive(Debug, Clone)]
pub struct BridgeOptions {
    /// Its name (`--bridge`): up to 15 bytes. A bridge that is there is used as it is.
    pub name: String,
    /// The host's address and the subnet (`--bip`); else that of a bridge that is there, else a free one: a /20 from
    /// 172.18.0.0–172.31.255.255, then 10.200.0.0–10.254.255.255, then 192.168.0.0/16.
    pub cidr: Option<Cidr>,
    /// Maximum transmission unit (`--mtu`); else that of the link of the host's default route, else 1500.
    pub mtu: Option<u32>,
    /// Where ports are published that name no address (`--ip`).
    pub publish_address: Ipv4Addr,
    /// Containers may speak to each other (`--icc`).
    pub icc: bool,
    /// Load the firewall (`--iptables`); without it no port can be published and nothing is translated.
    pub firewall: bool,
    /// Turn on the host's `net.ipv4.ip_forward` where it is off. The firewall then drops what the host would forward
    /// between links of which none is a bridge.
    pub ip_forward: bool,
}

impl Default for BridgeOptions {
    fn default() -> Self {
        Self {
            name: "gantry0".into(),
            cidr: None,
            mtu: None,
            publish_address: Ipv4Addr::UNSPECIFIED,
            icc: true,
            firewall: true,
            ip_forward: true,
        }
    }
}

/// A bridge and what its containers hold.
#[derive(Debug)]
pub struct Bridge {
    options: BridgeOptions,
    index: u32,
    subnet: Cidr,
    mtu: u32,
    ipam: Ipam,
    ports: Ports,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    route: Socket,
    firewall: Option<Firewall>,
    held: HashMap<String, Held>,
}

/// What an endpoint owns: dropped, it is free.
#[derive(Debug)]
struct Held {
    host_link: String,
    address: ipam::Lease,
    ports: Vec<ports::Lease>,
}

impl Bridge {
    /// Makes the bridge or takes up the one that is there, and loads the firewall, in the network namespace of the
    /// calling thread.
    ///
    /// # Errors
    /// A bad name or subnet, a name or table that belongs to somebody else, no free subnet, the kernel's refusal.
    pub fn open(options: BridgeOptions) -> Result<Self, Error> {
        let mut route = Socket::route()?;
        let (Link { index, .. }, subnet, mtu) = setup::bridge(&mut route, &options)?;
        let to_forward = setup::is_to_forward(&options)?;
        let load = || {
            let forwarding = firewall::Options { forwarding: to_forward, ..firewall::Options::default() };
            let mut firewall =
                Firewall::load(&options.name, forwarding).map_err(|error| taken(&options.name, error))?;
            firewall.add_bridge(&BridgeRules {
                name: options.name.clone(),
                subnet4: Some(subnet.into()),
                subnet6: None,
                icc: options.icc,
                masquerade: true,
                internal: false,
            })?;
            Ok::<_, Error>(firewall)
        };
        let firewall = options.firewall.then(load).transpose()?;
        if to_forward {
            setup::forward()?;
        }
        let state = Mutex::new(State { route, firewall, held: HashMap::new() });
        Ok(Self { options, index, subnet, mtu, ipam: Ipam::new(subnet), ports: Ports::default(), state })
    }

    /// Deletes the firewall's table, and the bridge if it was made by us. For when no container is left.
    ///
    /// # Errors
    /// The kernel's refusals, all of them.
    pub fn remove(self) -> Result<(), Error> {
        let mut state = self.lock();
        let mut failures: Vec<Error> = Vec::new();
        if let Some(Err(error)) = state.firewall.as_mut().map(Firewall::delete) {
            failures.push(error.into());
        }
        match link::link(&mut state.route, &self.options.name) {
            Ok(Some(bridge)) if bridge.alias == setup::ALIAS => {
                failures.extend(state.route.transact(vec![link::delete(&bridge.name)]).err().map(Error::from));
            }
            Ok(_) => {}
            Err(error) => failures.push(error.into()),
        }
        all(failures)
    }

    /// [`NetworkDriver::leave`] for a container that lives on: its link is deleted, too.
    ///
    /// # Errors
    /// The kernel's refusals, all of them.
    pub fn disconnect(&self, endpoint: &Endpoint) -> Result<(), Error> {
        let mut failures: Vec<Error> = self.leave(endpoint).err().into_iter().collect();
        failures.extend(delete_link(&mut self.lock().route, &endpoint.host_link).err());
        all(failures)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks everything and takes address and ports; nothing is done to the kernel but binding the ports.
    fn reserve(&self, state: &State, request: &Join<'_>) -> Result<Held, Error> {
        if state.held.contains_key(request.container) {
            return Err(Error::Conflict(format!(
                "container {} is already joined to bridge {}",
                short(request.container),
                self.options.name
            )));
        }
        if request.mac.is_some_and(|mac| mac[0] & 1 == 1 || mac == [0; 6]) {
            return Err(Error::Invalid("bad hardware address: it must be one host's, not a group's or zero".into()));
        }
        if state.firewall.is_none() && !request.ports.is_empty() {
            return Err(Error::Invalid("cannot publish ports: the daemon runs with --iptables=false".into()));
        }
        let address = self.ipam.take(request.address)?;
        let take = |wanted: &PublishPort| {
            let host_ip = match wanted.host_ip {
                IpAddr::V4(Ipv4Addr::UNSPECIFIED) => self.options.publish_address.into(),
                named => named,
            };
            self.ports.take(request.container, &PublishPort { host_ip, ..wanted.clone() })
        };
        // Fixed ports first, so that none of them goes to a range or a random request of the same container.
        let mut order: Vec<usize> = (0..request.ports.len()).collect();
        order.sort_by_key(|&at| (request.ports[at].host_port == 0, request.ports[at].host_port_end));
        let mut leases = Vec::with_capacity(order.len());
        for at in order {
            let lease = take(&request.ports[at]).map_err(|error| programming(request.container, error))?;
            leases.push((at, lease));
        }
        leases.sort_by_key(|(at, _)| *at);
        let ports = leases.into_iter().map(|(_, lease)| lease).collect();
        Ok(Held { host_link: String::new(), address, ports })
    }

    /// Makes the pair; the name of the host's end.
    fn connect(&self, state: &mut State, request: &Join<'_>, mac: [u8; 6]) -> Result<String, Error> {
        loop {
            let name = new_link_name()?;
            match state.route.transact(vec![link::new_pair(
                &name,
                self.index,
                CONTAINER_LINK,
                self.mtu,
                mac,
                request.netns,
            )]) {
                Ok(()) => return Ok(name),
                // Taken by chance, or is it the container that has an eth0?
                Err(error) if error.errno() == libc::EEXIST && link::link(&mut state.route, &name)?.is_some() => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Everything inside the container's namespace, through its own socket.
    fn configure(&self, request: &Join<'_>, address: Ipv4Addr) -> Result<(), Error> {
        let mut socket = Socket::borrowed(request.route_socket)?;
        let inside = link::link(&mut socket, CONTAINER_LINK)?.ok_or_else(|| {
            Error::Invalid(format!("route socket of container {} is of another namespace", short(request.container)))
        })?;
        let messages: Vec<Message> = vec![
            link::raise(LOOPBACK, "lo"),
            link::add_address(inside.index, Cidr { address, prefix: self.subnet.prefix }),
            link::raise(inside.index, CONTAINER_LINK),
            link::add_default_route(inside.index, self.subnet.address),
        ];
        Ok(socket.transact(messages)?)
    }

    /// What comes after the link is made; whoever calls it deletes the link when it fails.
    fn finish(&self, state: &mut State, request: &Join<'_>, held: &Held) -> Result<(), Error> {
        // Where the bridge shows its packets to the firewall, a published port is translated on the bridge itself: the
        // answer to its own container goes back by the port that it came from, and the firewall sees to `icc`.
        let filtered = setup::bridge_is_filtered();
        let (hairpin, isolated) = (filtered && !held.ports.is_empty(), !filtered && !self.options.icc);
        if hairpin || isolated {
            state.route.transact(vec![link::port_mode(&held.host_link, hairpin, isolated)])?;
        }
        self.configure(request, held.address.address)?;
        match &mut state.firewall {
            Some(firewall) if !held.ports.is_empty() => Ok(firewall.add(&held.elements())?),
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
        let address = held.address.address;
        let [a, b, c, d] = address.octets();
        let mac = request.mac.unwrap_or([0x02, 0x42, a, b, c, d]);
        held.host_link = self.connect(&mut state, &request, mac)?;
        // The firewall comes last: from here on only the link has to be undone, address and ports free themselves.
        if let Err(error) = self.finish(&mut state, &request, &held) {
            return Err(match delete_link(&mut state.route, &held.host_link) {
                Ok(()) => error,
                Err(second) => Error::Several(vec![error, second]),
            });
        }
        let endpoint = Endpoint {
            container: request.container.into(),
            host_link: held.host_link.clone(),
            link: CONTAINER_LINK.into(),
            address,
            prefix: self.subnet.prefix,
            gateway: self.subnet.address,
            mac,
            ports: held.ports.iter().map(|lease| lease.port.clone()).collect(),
        };
        state.held.insert(request.container.into(), held);
        Ok(endpoint)
    }

    fn leave(&self, endpoint: &Endpoint) -> Result<(), Error> {
        let mut state = self.lock();
        let Some(held) = state.held.remove(&endpoint.container) else { return Ok(()) };
        match &mut state.firewall {
            Some(firewall) if !held.ports.is_empty() => Ok(firewall.remove(&held.elements())?),
            _ => Ok(()),
        }
    }

    fn restore(&self, endpoint: &Endpoint) -> Result<(), Error> {
        let mut state = self.lock();
        if state.held.contains_key(&endpoint.container) {
            return Ok(());
        }
        let address = self.ipam.take(Some(endpoint.address))?;
        let take = |port: &PublishedPort| self.ports.retake(&endpoint.container, port);
        let ports = endpoint.ports.iter().map(take).collect::<Result<Vec<_>, _>>()?;
        let held = Held { host_link: endpoint.host_link.clone(), address, ports };
        // Its elements are in the table still, or come back with all others in `restored`.
        if let Some(firewall) = &mut state.firewall {
            firewall.remember(&held.elements());
        }
        state.held.insert(endpoint.container.clone(), held);
        Ok(())
    }

    fn restored(&self) -> Result<(), Error> {
        let mut state = self.lock();
        let State { route, firewall, held } = &mut *state;
        let mut failures: Vec<Error> = Vec::new();
        if let Some(firewall) = firewall {
            failures.extend(firewall.settle().err().map(Error::from));
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

    fn info(&self) -> NetworkInfo {
        NetworkInfo {
            bridge: self.options.name.clone(),
            subnet: Some((self.subnet.network(), self.subnet.prefix)),
            gateway: Some(self.subnet.address),
            mtu: self.mtu,
        }
    }
}

impl Held {
    fn elements(&self) -> Vec<Element> {
        let element = |port: &PublishedPort| Element {
            host: port.host_ip,
            protocol: port.protocol,
            host_port: port.host_port,
            last_port: port.host_port,
            container: self.address.address.into(),
            container_port: port.container_port,
        };
        self.ports.iter().map(|lease| element(&lease.port)).collect()
    }
}

/// Another daemon's socket owns the table.
fn taken(bridge: &str, error: gantry_linux::Error) -> Error {
    if error.errno() != libc::EPERM {
        return error.into();
    }
    Error::Conflict(format!(
        "nftables table {bridge} belongs to another daemon that runs: give this one its own --bridge"
    ))
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

fn all(mut failures: Vec<Error>) -> Result<(), Error> {
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

fn is_link_name(name: &str) -> bool {
    name.strip_prefix("gv").is_some_and(|rest| rest.len() == 8 && rest.bytes().all(|b| b.is_ascii_hexdigit()))
}

fn random(bytes: &mut [u8]) -> Result<(), Error> {
    rustix::rand::getrandom(bytes, rustix::rand::GetRandomFlags::empty()).during("draw", "random number")?;
    Ok(())
}
