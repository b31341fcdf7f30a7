//! What a bridge of somebody else was like before a network used it, so that it is like that again when the network is gone.

use std::collections::BTreeMap;

use gantry_linux::fs;
use gantry_linux::netlink::Socket;
use libcontainer::network::Subnet;
use libcontainer::network::link::{self, Link};
use serde::{Deserialize, Serialize};

use crate::Error;

/// A bridge as it was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// What was written to, as it was before.
    settings: BTreeMap<String, String>,
    /// What was written there. Of a network that an earlier version made it is not known.
    #[serde(default)]
    written: BTreeMap<String, String>,
    addresses: Vec<Subnet>,
}

impl Found {
    /// Looks at a bridge, before anything is done to it. `wanted`: the settings that are going to be written, by path.
    pub fn look(
        socket: &mut Socket,
        bridge: &Link,
        wanted: impl Iterator<Item = (String, &'static str)>,
    ) -> Result<Self, Error> {
        let (mut settings, mut written) = (BTreeMap::new(), BTreeMap::new());
        for (path, wanted) in wanted {
            match fs::read_to_string(&path) {
                Ok(value) if value.trim() == wanted => {}
                Ok(value) => {
                    settings.insert(path.clone(), value.trim().to_owned());
                    written.insert(path, wanted.to_owned());
                }
                // A kernel without IPv6.
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Self { settings, written, addresses: link::addresses(socket, bridge.index)? })
    }

    /// Makes the bridge what it was; its own addresses, those that came from elsewhere and settings that somebody has
    /// changed since stay. Goes on after a failure.
    pub fn give_back(&self, socket: &mut Socket, bridge: &Link, given: &[Subnet]) -> Vec<Error> {
        let mut failures: Vec<Error> = Vec::new();
        for address in given.iter().filter(|address| !self.addresses.contains(address)) {
            match socket.transact(vec![link::delete_address(bridge.index, *address)]) {
                Err(error) if error.errno() != libc::EADDRNOTAVAIL => failures.push(error.into()),
                _ => {}
            }
        }
        for (path, before) in &self.settings {
            let written = self.written.get(path);
            failures.extend(written.and_then(|written| restore(path, before, written).err()));
        }
        failures
    }
}

/// Sets what was written to what it was before, unless it is something else by now.
fn restore(path: &str, before: &str, written: &str) -> Result<(), Error> {
    let now = fs::read_to_string(path);
    match now.and_then(|now| if now.trim() == written { fs::write(path, before) } else { Ok(()) }) {
        // A bridge of a small MTU has no IPv6 any more.
        Err(error) if error.is_not_found() => Ok(()),
        other => Ok(other?),
    }
}
