//! The networks without a bridge: `host`, where a container has the host's own network, and `none`, where it has only
//! its loopback.

use std::os::fd::BorrowedFd;

use gantry_linux::netlink::Socket;

use crate::{Endpoint, Error, Join, NetworkDriver, NetworkInfo, Routes};
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
        Ok(Endpoint::bare(request.container))
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

    fn route(&self, _: &Endpoint, _: BorrowedFd<'_>, _: Routes) -> Result<(), Error> {
        Ok(())
    }

    fn info(&self) -> NetworkInfo {
        NetworkInfo::default()
    }

    fn remove(&self) -> Result<(), Error> {
        Ok(())
    }
}

impl NetworkDriver for NoNetwork {
    fn name(&self) -> &'static str {
        "none"
    }

    fn join(&self, request: Join<'_>) -> Result<Endpoint, Error> {
        let mut socket = Socket::borrowed(request.route_socket)?;
        socket.transact(vec![link::raise(link::LOOPBACK, "lo")])?;
        Ok(Endpoint::bare(request.container))
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

    fn route(&self, _: &Endpoint, _: BorrowedFd<'_>, _: Routes) -> Result<(), Error> {
        Ok(())
    }

    fn info(&self) -> NetworkInfo {
        NetworkInfo::default()
    }

    fn remove(&self) -> Result<(), Error> {
        Ok(())
    }
}
