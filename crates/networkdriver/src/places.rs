//! The addresses of a network, and containers' places on it: what every driver with links has in common.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::BorrowedFd;

use gantry_linux::ResultExt as _;
use gantry_linux::netlink::{Message, Socket};
use libcontainer::network::Subnet;
use libcontainer::network::link::{self, LOOPBACK};

use crate::ipam::{Ipam, Lease};
use crate::ports::short;
use crate::{Endpoint, Error, Join, NetworkInfo, Place6, Pool, Routes};

/// The addresses of one family.
#[derive(Debug)]
struct Family {
    pool: Pool,
    ipam: Ipam,
}

/// The addresses of a network.
#[derive(Debug)]
pub struct Places {
    ipv4: Option<Family>,
    ipv6: Option<Family>,
    /// Containers are told of no gateway.
    internal: bool,
    /// Everything else goes by the link itself, and there is no gateway to tell of.
    by_link: bool,
}

/// A container's addresses: dropped, they are free.
#[derive(Debug)]
pub struct Leases {
    pub ipv4: Option<Lease>,
    pub ipv6: Option<Lease>,
}

impl Places {
    pub fn new(ipv4: Option<Pool>, ipv6: Option<Pool>, internal: bool) -> Self {
        let family = |pool: Pool| Family { ipam: Ipam::new(&pool), pool };
        Self { ipv4: ipv4.map(family), ipv6: ipv6.map(family), internal, by_link: false }
    }

    /// With the way out by the link itself, where somebody else routes what it sends.
    pub fn routed_by_link(self, by_link: bool) -> Self {
        Self { by_link, ..self }
    }

    /// Whether there are addresses of the family of this one.
    pub fn has_family_of(&self, address: IpAddr) -> bool {
        if address.is_ipv4() { self.ipv4.is_some() } else { self.ipv6.is_some() }
    }

    /// Takes the addresses that are asked for, or free ones.
    ///
    /// # Errors
    /// A bad hardware address, an address that is taken or of no subnet here, none that is free.
    pub fn take(&self, request: &Join<'_>) -> Result<Leases, Error> {
        if request.mac.is_some_and(|mac| mac[0] & 1 == 1 || mac == [0; 6]) {
            return Err(Error::Invalid("bad hardware address: it must be one host's, not a group's or zero".into()));
        }
        Ok(Leases {
            ipv4: take(self.ipv4.as_ref(), request.address.map(IpAddr::V4))?,
            ipv6: take(self.ipv6.as_ref(), request.address6.map(IpAddr::V6))?,
        })
    }

    /// Takes the addresses again that an endpoint has had all the time.
    ///
    /// # Errors
    /// As [`Self::take`].
    pub fn retake(&self, endpoint: &Endpoint) -> Result<Leases, Error> {
        let again = |family: &Option<Family>, address: Option<IpAddr>| {
            address.map_or(Ok(None), |address| take(family.as_ref(), Some(address)))
        };
        Ok(Leases {
            ipv4: again(&self.ipv4, endpoint.ipv4().map(IpAddr::V4))?,
            ipv6: again(&self.ipv6, endpoint.ipv6.map(|place| IpAddr::V6(place.address)))?,
        })
    }

    /// Everything inside the container's namespace, through its own socket.
    ///
    /// # Errors
    /// The kernel's refusal; a socket of another namespace.
    pub fn configure(&self, request: &Join<'_>, leases: &Leases) -> Result<(), Error> {
        let mut socket = Socket::borrowed(request.route_socket)?;
        let inside = link::link(&mut socket, request.link)?.ok_or_else(|| {
            Error::Invalid(format!("route socket of container {} is of another namespace", short(request.container)))
        })?;
        let mut messages: Vec<Message> = vec![link::raise(LOOPBACK, "lo")];
        if self.ipv6.is_none() {
            messages.extend(link::quiet(request.link, inside.mtu));
        }
        for (family, lease) in [(&self.ipv4, &leases.ipv4), (&self.ipv6, &leases.ipv6)] {
            if let (Some(family), Some(lease)) = (family, lease) {
                let subnet = Subnet { address: lease.address, prefix: family.pool.subnet.prefix };
                messages.push(link::add_address(inside.index, subnet));
            }
        }
        // The kernel's own have these lengths.
        let beside = request
            .link_local
            .iter()
            .map(|address| Subnet { address: *address, prefix: if address.is_ipv4() { 16 } else { 64 } });
        messages.extend(beside.map(|subnet| link::add_address(inside.index, subnet)));
        messages.push(link::raise(inside.index, request.link));
        messages.extend(self.default_routes(inside.index, request.routes));
        Ok(socket.transact(messages)?)
    }

    /// Has everything else of a container go through this network from now on.
    ///
    /// # Errors
    /// The kernel's refusal; a link that is gone.
    pub fn route(&self, endpoint: &Endpoint, route_socket: BorrowedFd<'_>, routes: Routes) -> Result<(), Error> {
        let mut socket = Socket::borrowed(route_socket)?;
        let inside = link::link(&mut socket, &endpoint.link)?.ok_or_else(|| {
            let (container, link) = (short(&endpoint.container), &endpoint.link);
            Error::Invalid(format!("container {container} has no link {link} any more"))
        })?;
        Ok(socket.transact(self.default_routes(inside.index, routes).collect())?)
    }

    fn default_routes(&self, index: u32, routes: Routes) -> impl Iterator<Item = Message> {
        let families = [(&self.ipv4, routes.ipv4), (&self.ipv6, routes.ipv6)];
        let wanted = families.into_iter().filter(|(_, wanted)| *wanted);
        wanted.filter_map(move |(family, _)| match family {
            Some(Family { pool, .. }) if self.by_link && !self.internal => {
                Some(link::set_default_link(index, pool.subnet.address))
            }
            family => Some(link::set_default_route(index, self.gateway(family.as_ref())?)),
        })
    }

    /// What containers are told to send everything else to.
    fn gateway(&self, family: Option<&Family>) -> Option<IpAddr> {
        family.filter(|_| !self.internal && !self.by_link).map(|family| family.pool.gateway())
    }

    /// What is kept of a container's place; its host's link and ports are the driver's.
    pub fn endpoint(&self, request: &Join<'_>, leases: &Leases, mac: [u8; 6]) -> Endpoint {
        let ipv6 = leases.ipv6.as_ref().zip(self.ipv6.as_ref()).and_then(|(lease, family)| {
            let gateway = self.gateway(Some(family)).and_then(ipv6);
            Some(Place6 { address: ipv6(lease.address)?, prefix: family.pool.subnet.prefix, gateway })
        });
        let gateway = self.gateway(self.ipv4.as_ref());
        Endpoint {
            link: request.link.into(),
            address: leases.ipv4().unwrap_or(Ipv4Addr::UNSPECIFIED),
            prefix: self.ipv4.as_ref().map_or(0, |family| family.pool.subnet.prefix),
            gateway: gateway.and_then(ipv4).unwrap_or(Ipv4Addr::UNSPECIFIED),
            ipv6,
            mac,
            ..Endpoint::bare(request.container)
        }
    }

    /// What the network looks like; the bridge is the driver's.
    pub fn info(&self, mtu: u32) -> NetworkInfo {
        let pool = |family: &Option<Family>| family.as_ref().map(|family| family.pool.clone());
        NetworkInfo {
            bridge: String::new(),
            ipv4: pool(&self.ipv4),
            ipv6: pool(&self.ipv6),
            mtu,
            internal: self.internal,
            icc: true,
        }
    }
}

impl Leases {
    pub fn ipv4(&self) -> Option<Ipv4Addr> {
        self.ipv4.as_ref().and_then(|lease| ipv4(lease.address))
    }

    /// The container's hardware address: the one that is asked for, else derived from its IPv4 address, else random.
    pub fn mac(&self, request: &Join<'_>) -> Result<[u8; 6], Error> {
        if let Some(mac) = request.mac {
            return Ok(mac);
        }
        let mut mac = [0x02, 0x42, 0, 0, 0, 0];
        match self.ipv4() {
            Some(address) => mac[2..].copy_from_slice(&address.octets()),
            None => random(&mut mac[2..])?,
        }
        Ok(mac)
    }
}

/// Takes an address of a family; one that was asked for where there is no such family is refused.
fn take(family: Option<&Family>, wanted: Option<IpAddr>) -> Result<Option<Lease>, Error> {
    match (family, wanted) {
        (Some(family), wanted) => family.ipam.take(wanted).map(Some),
        (None, None) => Ok(None),
        (None, Some(address)) => Err(Error::Invalid(format!("no configured subnet contains IP address {address}"))),
    }
}

fn ipv4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

fn ipv6(address: IpAddr) -> Option<Ipv6Addr> {
    match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(address) => Some(address),
    }
}

pub fn random(bytes: &mut [u8]) -> Result<(), Error> {
    rustix::rand::getrandom(bytes, rustix::rand::GetRandomFlags::empty()).during("draw", "random number")?;
    Ok(())
}
