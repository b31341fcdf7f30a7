//! The macvlan driver: a container has a link of its own on a link of the host, its parent, and stands on the network that
//! the parent is on. The host itself does not reach it by that, which is macvlan's nature.

use std::collections::HashMap;
use std::os::fd::BorrowedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use gantry_linux::netlink::Socket;
use libcontainer::network::link;

use crate::bridge::free_subnet;
use crate::places::{Leases, Places};
use crate::ports::short;
use crate::{AddressPool, Addresses, Endpoint, Error, Join, NetworkDriver, NetworkInfo, Pool, Routes};

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
    places: Places,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    route: Socket,
    /// Addresses, by the container.
    held: HashMap<String, Leases>,
    removed: bool,
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
        let places = Places::new(four, six, options.internal);
        let state = Mutex::new(State { route, held: HashMap::new(), removed: false });
        Ok(Self { mtu: options.mtu.unwrap_or(parent.mtu), places, state, options })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reserve(&self, state: &State, request: &Join<'_>) -> Result<Leases, Error> {
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
        self.places.take(request)
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
        let mac = held.mac(&request)?;
        let parent = parent(&mut state.route, &self.options.parent)?;
        let new =
            link::new_macvlan(request.link, parent.index, self.options.mode, self.options.mtu, mac, request.netns);
        state.route.transact(vec![new])?;
        if let Err(error) = self.places.configure(&request, &held) {
            return Err(match delete_inside(request.route_socket, request.link) {
                Ok(()) => error,
                Err(second) => Error::Several(vec![error, second]),
            });
        }
        let endpoint = self.places.endpoint(&request, &held, mac);
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
        self.places.route(endpoint, route_socket, routes)
    }

    fn restore(&self, endpoint: &Endpoint) -> Result<(), Error> {
        let mut state = self.lock();
        if state.held.contains_key(&endpoint.container) {
            return Ok(());
        }
        let held = self.places.retake(endpoint)?;
        state.held.insert(endpoint.container.clone(), held);
        Ok(())
    }

    fn restored(&self) -> Result<(), Error> {
        Ok(())
    }

    fn info(&self) -> NetworkInfo {
        self.places.info(self.mtu)
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
