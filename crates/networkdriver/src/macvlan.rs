//! The macvlan driver: a container has a link of its own on a link of the host, its parent, and stands on the network that
//! the parent is on. The host itself does not reach it by that, which is macvlan's nature.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::BorrowedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use gantry_linux::netlink::{Message, Socket};
use libcontainer::network::Subnet;
use libcontainer::network::link::{self, LOOPBACK};

use crate::bridge::{Family, free_subnet, ipv4, mac_of, take};
use crate::ipam::{Ipam, Lease};
use crate::ports::short;
use crate::{AddressPool, Addresses, Endpoint, Error, Join, NetworkDriver, NetworkInfo, Place6, Pool, Routes};

/// How a macvlan network is to be.
#[derive(Debug, Clone)]
pub struct MacvlanOptions {
    /// The network, for messages.
    pub name: String,
    /// The link of the host that containers' links stand on.
    pub parent: String,
    /// Who reaches whom.
    pub mode: u32,
    /// Maximum transmission unit; else the parent's.
    pub mtu: Option<u32>,
    /// The addresses.
    pub ipv4: Addresses,
    /// The addresses.
    pub ipv6: Addresses,
    /// Where free subnets are taken from.
    pub pools: Vec<AddressPool>,
    /// Containers are told of no gateway.
    pub internal: bool,
}

/// The kernel's number of a mode by Docker's name.
#[must_use]
pub fn mode(name: &str) -> Option<u32> {
    match name {
        "private" => Some(1),
        "vepa" => Some(2),
        "" | "bridge" => Some(4),
        "passthru" => Some(8),
        _ => None,
    }
}

/// A network on a link of the host.
#[derive(Debug)]
pub struct Macvlan {
    options: MacvlanOptions,
    mtu: u32,
    ipv4: Option<Family>,
    ipv6: Option<Family>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    route: Socket,
    /// Addresses, by the container.
    held: HashMap<String, Held>,
    removed: bool,
}

/// Dropped, the addresses are free.
#[derive(Debug)]
struct Held {
    ipv4: Option<Lease>,
    ipv6: Option<Lease>,
}

impl Macvlan {
    /// Looks for the parent and settles the addresses; nothing is made until a container joins.
    ///
    /// # Errors
    /// A parent that is not there, no free subnet.
    pub fn open(options: MacvlanOptions) -> Result<Self, Error> {
        let mut route = Socket::route()?;
        let parent = parent(&mut route, &options.parent)?;
        let mut settle = |wanted: &Addresses, family| match wanted {
            Addresses::None => Ok(None),
            Addresses::Of(pool) => Ok(Some(pool.clone())),
            Addresses::Any => free_subnet(&mut route, &options.pools, &options.name, family)
                .map(|subnet| Some(Pool { gateway: Some(subnet.address), ..Pool::new(subnet) })),
        };
        let four = settle(&options.ipv4, link::IpFamily::V4)?;
        let six = settle(&options.ipv6, link::IpFamily::V6)?;
        let family = |pool: Pool| Family { ipam: Ipam::new(&pool), pool };
        let state = Mutex::new(State { route, held: HashMap::new(), removed: false });
        let mtu = options.mtu.unwrap_or(parent.mtu);
        Ok(Self { mtu, ipv4: four.map(family), ipv6: six.map(family), state, options })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reserve(&self, state: &State, request: &Join<'_>) -> Result<Held, Error> {
        let name = &self.options.name;
        if state.removed {
            return Err(Error::Conflict(format!("network {name} has been removed")));
        }
        if state.held.contains_key(request.container) {
            return Err(Error::Conflict(format!("container {} is already on {name}", short(request.container))));
        }
        if let Some(port) = request.ports.first() {
            let port = port.container_port;
            return Err(Error::Invalid(format!("cannot publish port {port}: a macvlan network publishes none")));
        }
        Ok(Held {
            ipv4: take(self.ipv4.as_ref(), request.address.map(IpAddr::V4))?,
            ipv6: take(self.ipv6.as_ref(), request.address6.map(IpAddr::V6))?,
        })
    }

    /// Everything inside the container's namespace, through its own socket.
    fn configure(&self, request: &Join<'_>, held: &Held) -> Result<(), Error> {
        let mut socket = Socket::borrowed(request.route_socket)?;
        let inside = link::link(&mut socket, request.link)?.ok_or_else(|| {
            Error::Invalid(format!("route socket of container {} is of another namespace", short(request.container)))
        })?;
        let mut messages = vec![link::raise(LOOPBACK, "lo")];
        for (family, lease) in [(&self.ipv4, &held.ipv4), (&self.ipv6, &held.ipv6)] {
            if let (Some(family), Some(lease)) = (family, lease) {
                let subnet = Subnet { address: lease.address, prefix: family.pool.subnet.prefix };
                messages.push(link::add_address(inside.index, subnet));
            }
        }
        messages.push(link::raise(inside.index, request.link));
        messages.extend(self.default_routes(inside.index, request.routes));
        Ok(socket.transact(messages)?)
    }

    fn default_routes(&self, index: u32, routes: Routes) -> impl Iterator<Item = Message> {
        let families =
            [(self.gateway(self.ipv4.as_ref()), routes.ipv4), (self.gateway(self.ipv6.as_ref()), routes.ipv6)];
        let wanted = families.into_iter().filter_map(|(gateway, wanted)| gateway.filter(|_| wanted));
        wanted.map(move |gateway| link::set_default_route(index, gateway))
    }

    fn gateway(&self, family: Option<&Family>) -> Option<IpAddr> {
        family.filter(|_| !self.options.internal).map(|family| family.pool.gateway())
    }

    fn endpoint(&self, request: &Join<'_>, held: &Held, mac: [u8; 6]) -> Endpoint {
        let prefix = |family: &Option<Family>| family.as_ref().map_or(0, |family| family.pool.subnet.prefix);
        let four = held.ipv4.as_ref().and_then(|lease| ipv4(lease.address));
        let ipv6 = held.ipv6.as_ref().and_then(|lease| match lease.address {
            IpAddr::V6(address) => {
                let gateway = self.gateway(self.ipv6.as_ref()).and_then(|gateway| gateway.to_string().parse().ok());
                Some(Place6 { address, prefix: prefix(&self.ipv6), gateway })
            }
            IpAddr::V4(_) => None,
        });
        Endpoint {
            link: request.link.into(),
            address: four.unwrap_or(Ipv4Addr::UNSPECIFIED),
            prefix: prefix(&self.ipv4),
            gateway: self.gateway(self.ipv4.as_ref()).and_then(ipv4).unwrap_or(Ipv4Addr::UNSPECIFIED),
            ipv6,
            mac,
            ..Endpoint::bare(request.container)
        }
    }
}

fn parent(route: &mut Socket, name: &str) -> Result<link::Link, Error> {
    let there = link::link(route, name)?;
    there.ok_or_else(|| {
        Error::Invalid(format!(
            "no parent interface {name}: a macvlan network stands on a link of the host, give one by -o parent="
        ))
    })
}

fn delete_inside(route_socket: BorrowedFd<'_>, name: &str) -> Result<(), Error> {
    match Socket::borrowed(route_socket)?.transact(vec![link::delete(name)]) {
        Err(error) if error.errno() != libc::ENODEV => Err(error.into()),
        _ => Ok(()),
    }
}

impl NetworkDriver for Macvlan {
    fn name(&self) -> &'static str {
        "macvlan"
    }

    fn join(&self, request: Join<'_>) -> Result<Endpoint, Error> {
        let mut state = self.lock();
        let held = self.reserve(&state, &request)?;
        let mac = request.mac.map_or_else(|| mac_of(held.ipv4.as_ref().and_then(|lease| ipv4(lease.address))), Ok)?;
        let parent = parent(&mut state.route, &self.options.parent)?;
        let new =
            link::new_macvlan(request.link, parent.index, self.options.mode, self.options.mtu, mac, request.netns);
        state.route.transact(vec![new])?;
        if let Err(error) = self.configure(&request, &held) {
            return Err(match delete_inside(request.route_socket, request.link) {
                Ok(()) => error,
                Err(second) => Error::Several(vec![error, second]),
            });
        }
        let endpoint = self.endpoint(&request, &held, mac);
        state.held.insert(request.container.into(), held);
        Ok(endpoint)
    }

    fn leave(&self, endpoint: &Endpoint) -> Result<(), Error> {
        self.lock().held.remove(&endpoint.container);
        Ok(())
    }

    fn disconnect(&self, endpoint: &Endpoint, route_socket: BorrowedFd<'_>) -> Result<(), Error> {
        self.leave(endpoint)?;
        delete_inside(route_socket, &endpoint.link)
    }

    fn route(&self, endpoint: &Endpoint, route_socket: BorrowedFd<'_>, routes: Routes) -> Result<(), Error> {
        let mut socket = Socket::borrowed(route_socket)?;
        let inside = link::link(&mut socket, &endpoint.link)?.ok_or_else(|| {
            let (container, link) = (short(&endpoint.container), &endpoint.link);
            Error::Invalid(format!("container {container} has no link {link} any more"))
        })?;
        Ok(socket.transact(self.default_routes(inside.index, routes).collect())?)
    }

    fn restore(&self, endpoint: &Endpoint) -> Result<(), Error> {
        let mut state = self.lock();
        if state.held.contains_key(&endpoint.container) {
            return Ok(());
        }
        let four = endpoint.ipv4().map(IpAddr::V4);
        let six = endpoint.ipv6.map(|place| IpAddr::V6(place.address));
        let held = Held {
            ipv4: four.map_or(Ok(None), |address| take(self.ipv4.as_ref(), Some(address)))?,
            ipv6: six.map_or(Ok(None), |address| take(self.ipv6.as_ref(), Some(address)))?,
        };
        state.held.insert(endpoint.container.clone(), held);
        Ok(())
    }

    fn restored(&self) -> Result<(), Error> {
        Ok(())
    }

    fn info(&self) -> NetworkInfo {
        let pool = |family: &Option<Family>| family.as_ref().map(|family| family.pool.clone());
        NetworkInfo {
            bridge: String::new(),
            ipv4: pool(&self.ipv4),
            ipv6: pool(&self.ipv6),
            mtu: self.mtu,
            internal: self.options.internal,
            icc: true,
        }
    }

    fn remove(&self) -> Result<(), Error> {
        let mut state = self.lock();
        if !state.held.is_empty() {
            let holders: Vec<&str> = state.held.keys().map(|container| short(container)).collect();
            return Err(Error::Conflict(format!("containers are on it: {}", holders.join(", "))));
        }
        state.removed = true;
        Ok(())
    }
}
