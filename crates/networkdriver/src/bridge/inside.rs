//! A container's end of the link: its addresses and routes, and what is kept of its place.

use std::net::{IpAddr, Ipv4Addr};

use gantry_linux::netlink::{Message, Socket};
use libcontainer::network::Subnet;
use libcontainer::network::link::{self, LOOPBACK};

use super::{Bridge, Family, Held, ipv4};
use crate::ports::{self, short};
use crate::{Endpoint, Error, Join, Place6, Routes};

impl Bridge {
    /// Everything inside the container's namespace, through its own socket.
    pub(super) fn configure(&self, request: &Join<'_>, held: &Held) -> Result<(), Error> {
        let mut socket = Socket::borrowed(request.route_socket)?;
        let inside = link::link(&mut socket, request.link)?.ok_or_else(|| {
            Error::Invalid(format!("route socket of container {} is of another namespace", short(request.container)))
        })?;
        let mut messages: Vec<Message> = vec![link::raise(LOOPBACK, "lo")];
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

    pub(super) fn default_routes(&self, index: u32, routes: Routes) -> impl Iterator<Item = Message> {
        let families =
            [(self.gateway(self.ipv4.as_ref()), routes.ipv4), (self.gateway(self.ipv6.as_ref()), routes.ipv6)];
        let wanted = families.into_iter().filter_map(|(gateway, wanted)| gateway.filter(|_| wanted));
        wanted.map(move |gateway| link::set_default_route(index, gateway))
    }

    /// What containers are told to send everything else to.
    fn gateway(&self, family: Option<&Family>) -> Option<IpAddr> {
        family.filter(|_| !self.options.internal).map(|family| family.pool.gateway())
    }

    pub(super) fn endpoint(&self, request: &Join<'_>, held: &Held, mac: [u8; 6]) -> Endpoint {
        let ipv6 = held.ipv6.as_ref().zip(self.ipv6.as_ref()).and_then(|(lease, family)| {
            let IpAddr::V6(address) = lease.address else { return None };
            let gateway = self.gateway(Some(family)).and_then(|gateway| match gateway {
                IpAddr::V6(gateway) => Some(gateway),
                IpAddr::V4(_) => None,
            });
            Some(Place6 { address, prefix: family.pool.subnet.prefix, gateway })
        });
        let gateway = self.gateway(self.ipv4.as_ref());
        Endpoint {
            container: request.container.into(),
            host_link: held.host_link.clone(),
            link: request.link.into(),
            address: held.address().unwrap_or(Ipv4Addr::UNSPECIFIED),
            prefix: self.ipv4.as_ref().map_or(0, |family| family.pool.subnet.prefix),
            gateway: gateway.and_then(ipv4).unwrap_or(Ipv4Addr::UNSPECIFIED),
            ipv6,
            mac,
            ports: held.ports.iter().flat_map(ports::Lease::ports).collect(),
        }
    }
}
