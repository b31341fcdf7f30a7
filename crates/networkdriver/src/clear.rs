//! Taking back what a daemon that does not run any more left in the host's network: what carries its marks, and nothing else.

use gantry_linux::netlink::Socket;
use libcontainer::network::firewall::{self, Firewall};
use libcontainer::network::link::{self, Link};

use crate::bridge::{ALIAS, NETWORK_OF};
use crate::{Error, NetworkOptions};

/// Removes the bridges that a daemon of these options made, its firewall's tables, its routing rules and its rules among those
/// of others, in the network namespace of the calling thread; returns the bridges. Bridges that it found there stay.
///
/// # Errors
/// A daemon that runs, containers that are on a bridge still, a table of that name that is somebody else's: then nothing is
/// changed. The kernel's refusals, all of them.
pub fn clear(options: &NetworkOptions) -> Result<Vec<String>, Error> {
    let mut socket = Socket::route()?;
    let links = link::links(&mut socket)?;
    let own = format!("{ALIAS} {}", options.home);
    let made = format!("{NETWORK_OF}{}", options.owner);
    if let Some(other) = links.iter().find(|link| link.name == options.owner && link.alias != own)
        && other.alias.starts_with(ALIAS)
    {
        return Err(Error::Conflict(format!(
            "bridge {} is of a daemon with another data root: give that by --data-root",
            other.name
        )));
    }
    let bridges: Vec<&Link> = links.iter().filter(|link| link.alias == own || link.alias == made).collect();
    let is_used = |bridge: &&&Link| links.iter().any(|port| port.master == Some(bridge.index));
    if let Some(used) = bridges.iter().find(is_used) {
        return Err(Error::Conflict(format!(
            "containers are still on bridge {}: start the daemon again, which takes them up, and stop them",
            used.name
        )));
    }
    let before = bridges.iter().filter(|bridge| bridge.alias == own && bridge.name != options.owner);
    let tables: Vec<&str> =
        std::iter::once(&options.owner).chain(before.map(|bridge| &bridge.name)).map(String::as_str).collect();
    let tables = if options.firewall { tables } else { Vec::new() };
    // While they are held, no daemon can begin to use them.
    let held = tables.iter().map(|table| hold(table)).collect::<Result<Vec<_>, _>>()?;
    let mut failures = Vec::new();
    for bridge in &bridges {
        failures.extend(socket.transact(vec![link::delete(&bridge.name)]).err().map(Error::from));
    }
    drop(held);
    failures.extend(tables.iter().filter_map(|table| crate::wall::remove(table).err()));
    crate::bridge::all(failures)?;
    Ok(bridges.iter().map(|bridge| bridge.name.clone()).collect())
}

fn hold(table: &str) -> Result<Firewall, Error> {
    if Firewall::is_foreign(table)? {
        return Err(Error::Conflict(format!("nftables table {table} was not made by this engine: it is left alone")));
    }
    Firewall::load(table, firewall::Options::default()).map_err(|error| match error.errno() {
        libc::EPERM => Error::Conflict(format!("the daemon of the bridge {table} runs: stop it first")),
        _ => error.into(),
    })
}
