//! The networks without a bridge: `host`, where a container has the host's own network, and `none`, where it has only
//! its loopback.

use std::net::Ipv4Addr;

use gantry_linux::netlink::Socket;

use crate::{Endpoint, Error, Join, NetworkDriver, NetworkInfo};
use libcontainer::network::link;

/// The host's own network: nothing to join.
#[derive(Debug, Default)]
pub struct Host;

/// No network but loopback.
#[derive(Debug, Default)]
pub struct NoNetwork;

impl NetworkDriver for Host {
    fn name(&self) -> &'static str {
        "host"
    }

    fn join(&self, request: Join<'_>) -> Result<Endpoint, Error> {
        Ok(endpoint(request.container))
    }

    fn leave(&self, _: &Endpoint) -> Result<(), Error> {
        Ok(())
    }

    fn restore(&self, _: &Endpoint) -> Result<(), Error> {
        Ok(())
    }

    fn restored(&self) -> Result<(), Error> {
        Ok(())
    }

    fn info(&self) -> NetworkInfo {
        info()
    }
}

impl NetworkDriver for NoNetwork {
    fn name(&self) -> &'static str {
        "none"
    }

    fn join(&self, request: Join<'_>) -> Result<Endpoint, Error> {
        let mut socket = Socket::borrowed(request.route_socket)?;
        socket.transact(vec![link::raise(link::LOOPBACK, "lo")])?;
        Ok(endpoint(request.container))
    }

    fn leave(&self, _: &Endpoint) -> Result<(), Error> {
        Ok(())
    }

    fn restore(&self, _: &Endpoint) -> Result<(), Error> {
        Ok(())
    }

    fn restored(&self) -> Result<(), Error> {
        Ok(())
    }

    fn info(&self) -> NetworkInfo {
        info()
    }
}

fn endpoint(container: &str) -> Endpoint {
    Endpoint {
        container: container.into(),
        host_link: String::new(),
        link: String::new(),
        address: Ipv4Addr::UNSPECIFIED,
        prefix: 0,
        gateway: Ipv4Addr::UNSPECIFIED,
        mac: [0; 6],
        ports: Vec::new(),
    }
}

fn info() -> NetworkInfo {
    NetworkInfo { bridge: String::new(), subnet: None, gateway: None, mtu: 0 }
}
