//! What a bridge of somebody else was like before a network used it, so that it is like that again when the network is gone.

use std::collections::BTreeMap;

use gantry_linux::fs;
use gantry_linux::netlink::Socket;
use libcontainer::network::Subnet;
use libcontainer::network::link::{self, Link};
use serde::{Deserialize, Serialize};

use crate::Error;

/// What a network changes of a bridge that it did not make.
const SETTINGS: [&str; 5] = [
    "ipv4/conf/{}/forwarding",
    "ipv4/conf/{}/route_localnet",
    "ipv6/conf/{}/accept_ra",
    "ipv6/conf/{}/disable_ipv6",
    "ipv6/conf/{}/forwarding",
];

/// A bridge as it was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    settings: BTreeMap<String, String>,
    addresses: Vec<Subnet>,
}

impl Found {
    /// Looks at a bridge, before anything is done to it.
    pub fn look(socket: &mut Socket, bridge: &Link) -> Result<Self, Error> {
        let mut settings = BTreeMap::new();
        for setting in SETTINGS {
            let path = format!("/proc/sys/net/{}", setting.replace("{}", &bridge.name));
            match fs::read_to_string(&path) {
                Ok(value) => drop(settings.insert(path, value.trim().to_owned())),
                // A kernel without IPv6.
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Self { settings, addresses: link::addresses(socket, bridge.index)? })
    }

    /// Makes the bridge what it was; its own addresses and those that came from elsewhere stay. Goes on after a failure.
    pub fn give_back(&self, socket: &mut Socket, bridge: &Link, given: &[Subnet]) -> Vec<Error> {
        let mut failures: Vec<Error> = Vec::new();
        for address in given.iter().filter(|address| !self.addresses.contains(address)) {
            match socket.transact(vec![link::delete_address(bridge.index, *address)]) {
                Err(error) if error.errno() != libc::EADDRNOTAVAIL => failures.push(error.into()),
                _ => {}
            }
        }
        for (path, value) in &self.settings {
            failures.extend(fs::write(path, value).err().map(Error::from));
        }
        failures
    }
}
