//! The drivers macvlan and ipvlan: a container has a link of its own on a link of the host, its parent, and stands on the
//! network that the parent is on. The host itself does not reach it by that, which is the nature of such links.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::os::fd::BorrowedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use gantry_linux::netlink::{Message, Socket};
use libcontainer::network::link::{self, IpvlanFlag, IpvlanMode, Link};

use crate::bridge::free_subnet;
use crate::places::{Leases, Places};
use crate::ports::short;
use crate::{AddressPool, Addresses, Endpoint, Error, Join, NO_MAC, NetworkDriver, NetworkInfo, Pool, Routes};

/// What containers' links are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Each has a hardware address of its own.
    Macvlan(u32),
    /// All have their parent's.
    Ipvlan(IpvlanMode, IpvlanFlag),
}

/// How such a network is to be.
#[derive(Debug, Clone)]
pub struct StackedOptions {
    /// Its driver.
    pub kind: Kind,
    /// The network, for messages.
    pub name: String,
    /// The link of the host that containers' links stand on.
    pub parent: String,
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

impl StackedOptions {
    /// Refuses a parent that another network of the same driver has, where the kernel keeps one mode for all links on it:
    /// that which came last would be everybody's.
    ///
    /// # Errors
    /// Docker's, with the other network's name; the kernel's.
    pub fn check_beside<'a>(&self, others: impl Iterator<Item = (&'a str, Self)>) -> Result<(), Error> {
        let mut route = Socket::route()?;
        let mut own = None;
        for (name, other) in others {
            let driver = self.kind.name();
            let passthru = |kind| matches!(kind, Kind::Macvlan(PASSTHRU));
            let refusal = match self.kind {
                _ if driver != other.kind.name() => continue,
                Kind::Ipvlan(..) => format!("network {name} is already using parent interface {}", self.parent),
                kind if passthru(kind) => format!(
                    "cannot use mode passthru, macvlan network {name} is already using parent interface {}",
                    self.parent
                ),
                _ if passthru(other.kind) => {
                    format!("macvlan network {name} is already using parent interface {} in mode passthru", self.parent)
                }
                Kind::Macvlan(_) => continue,
            };
            // A link may have several names.
            let mut index = |name: &str| Ok::<_, Error>(link::link(&mut route, name)?.map(|link| link.index));
            let same = other.parent == self.parent || {
                let own = match own {
                    Some(own) => own,
                    None => *own.insert(index(&self.parent)?),
                };
                own.is_some() && own == index(&other.parent)?
            };
            if same {
                return Err(Error::Conflict(format!(
                    "{refusal}: give {driver} another parent, or remove that network"
                )));
            }
        }
        Ok(())
    }
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Macvlan(_) => "macvlan",
            Self::Ipvlan(..) => "ipvlan",
        }
    }

    /// The kernel routes what comes and goes by the parent, and asks nobody who has an address.
    const fn routes(self) -> bool {
        matches!(self, Self::Ipvlan(IpvlanMode::L3 | IpvlanMode::L3s, _))
    }

    fn link(self, request: &Join<'_>, parent: u32, mtu: Option<u32>, mac: [u8; 6]) -> Message {
        match self {
            Self::Macvlan(mode) => link::new_macvlan(request.link, parent, mode, mtu, mac, request.netns),
            Self::Ipvlan(mode, flag) => link::new_ipvlan(request.link, parent, mode, flag, mtu, request.netns),
        }
    }
}

/// The mode of macvlan whose one link has the parent for itself.
const PASSTHRU: u32 = 8;

/// The kernel's number of a mode of macvlan by Docker's name.
#[must_use]
pub fn mode(name: &str) -> Option<u32> {
    match name {
        "private" => Some(1),
        "vepa" => Some(2),
        "" | "bridge" => Some(4),
        "passthru" => Some(PASSTHRU),
        _ => None,
    }
}

/// A mode of ipvlan by Docker's name.
#[must_use]
pub fn ipvlan_mode(name: &str) -> Option<IpvlanMode> {
    match name {
        "" | "l2" => Some(IpvlanMode::L2),
        "l3" => Some(IpvlanMode::L3),
        "l3s" => Some(IpvlanMode::L3s),
        _ => None,
    }
}

/// A flag of ipvlan by Docker's name.
#[must_use]
pub fn ipvlan_flag(name: &str) -> Option<IpvlanFlag> {
    match name {
        "" | "bridge" => Some(IpvlanFlag::Bridge),
        "private" => Some(IpvlanFlag::Private),
        "vepa" => Some(IpvlanFlag::Vepa),
        _ => None,
    }
}

/// A network on a link of the host.
#[derive(Debug)]
pub struct Stacked {
    options: StackedOptions,
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

impl Stacked {
    /// Looks for the parent and settles the addresses; nothing is made until a container joins.
    ///
    /// # Errors
    /// A parent that is not there, no free subnet.
    pub fn open(options: StackedOptions) -> Result<Self, Error> {
        let mut route = Socket::route()?;
        let parent = parent(&mut route, &options)?;
        let mut settle = |wanted: &Addresses, family| match wanted {
            Addresses::None => Ok(None),
            Addresses::Of(pool) => Ok(Some(pool.clone())),
            Addresses::Any => free_subnet(&mut route, &options.pools, &options.name, family)
                .map(|subnet| Some(Pool { gateway: Some(subnet.address), ..Pool::new(subnet) })),
        };
        let four = settle(&options.ipv4, link::IpFamily::V4)?;
        let six = settle(&options.ipv6, link::IpFamily::V6)?;
        let places = Places::new(four, six, options.internal).routed_by_link(options.kind.routes());
        let state = Mutex::new(State { route, held: HashMap::new(), removed: false });
        Ok(Self { mtu: options.mtu.unwrap_or(parent.mtu), places, state, options })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A parent has links of one kind only, and is no port of a bridge then.
    fn occupied(&self, error: gantry_linux::Error) -> Error {
        let StackedOptions { kind, parent, .. } = &self.options;
        if error.errno() != libc::EBUSY {
            return error.into();
        }
        let driver = kind.name();
        Error::Conflict(format!(
            "{error}: its parent {parent} is used otherwise, as by a network of another driver or by a bridge: give {driver} \
             another parent"
        ))
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
            let driver = self.options.kind.name();
            return Err(Error::Invalid(format!(
                "cannot publish port {port}: a network of driver {driver} publishes none"
            )));
        }
        if request.mac.is_some() {
            self.check_mac()?;
        }
        self.places.take(request)
    }
}

fn parent(route: &mut Socket, options: &StackedOptions) -> Result<Link, Error> {
    let StackedOptions { kind, parent: name, .. } = options;
    let there = link::link(route, name)?;
    there.ok_or_else(|| {
        let driver = kind.name();
        Error::Invalid(format!(
            "no parent interface {name}: a network of driver {driver} stands on a link of the host, give one by -o parent="
        ))
    })
}

fn delete_inside(route_socket: BorrowedFd<'_>, name: &str) -> Result<(), Error> {
    match Socket::borrowed(route_socket)?.transact(vec![link::delete(name)]) {
        Err(error) if error.errno() != libc::ENODEV => Err(error.into()),
        _ => Ok(()),
    }
}

impl NetworkDriver for Stacked {
    fn name(&self) -> &'static str {
        self.options.kind.name()
    }

    fn join(&self, request: Join<'_>) -> Result<Endpoint, Error> {
        let mut state = self.lock();
        let held = self.reserve(&state, &request)?;
        let parent = parent(&mut state.route, &self.options)?;
        let mac = match self.options.kind {
            Kind::Macvlan(_) => held.mac(&request)?,
            // It has no own one.
            Kind::Ipvlan(..) => NO_MAC,
        };
        let new = self.options.kind.link(&request, parent.index, self.options.mtu, mac);
        state.route.transact(vec![new]).map_err(|error| self.occupied(error))?;
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

    fn check_mac(&self) -> Result<(), Error> {
        match self.options.kind {
            Kind::Macvlan(_) => Ok(()),
            Kind::Ipvlan(..) => Err(Error::Invalid(
                "ipvlan interfaces do not support custom mac address assignment: they have their parent's".into(),
            )),
        }
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
