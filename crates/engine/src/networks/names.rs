//! What the resolver is told of containers, and which containers ask it.

use std::net::IpAddr;
use std::sync::Arc;

use gantry_api::network::EndpointSettings;
use gantry_execdriver::NameDoors;
use gantry_networkdriver::names::{Doors, Link, Place, ROLE, Resident, Resolver, Upstream};
use tracing::warn;

use super::show::dns_names;
use crate::container::{Container, Record, links};
use crate::engine::Engine;
use crate::error::Result;
use crate::options::{Drivers, Options};

/// The network without names where the daemon is told so.
const DEFAULT: &str = "bridge";

/// Takes up the resolver, or starts it.
///
/// # Errors
/// As [`Resolver::open`].
pub fn open(options: &Options, drivers: &Drivers) -> Result<Resolver> {
    // Who watches the resolver must not be what keeps the driver.
    let exec = Arc::downgrade(&drivers.exec);
    let start = move || {
        let exec = exec.upgrade().ok_or("the daemon is leaving")?;
        exec.start_role(ROLE).map_err(|error| error.to_string())
    };
    Ok(Resolver::open(&options.exec_root, Box::new(start))?)
}

/// Has a resolver that was started again get the sockets of containers that run from their supervisors.
pub fn follow(engine: &Arc<Engine>) {
    let weak = Arc::downgrade(engine);
    engine.names.set_doors(Box::new(move |id| {
        let running = weak.upgrade()?.containers.get(id).ok()?.running()?;
        match running.names() {
            Ok(doors) => Some(given(doors)),
            Err(error) => {
                warn!("names are not answered to container {id}: {error}");
                None
            }
        }
    }));
}

fn given(doors: NameDoors) -> Doors {
    let NameDoors { datagrams, connections, life } = doors;
    Doors { datagrams, connections, life }
}

/// Whether names are answered on a network.
fn has_names(engine: &Engine, network: &str) -> bool {
    match network {
        "host" | "none" => false,
        DEFAULT => engine.options.default_bridge_names,
        _ => true,
    }
}

/// Whether the container's `resolv.conf` names the resolver. A server on a loopback address is the container's own, and is
/// asked by itself; on the default network every server that was chosen is, as with Docker.
#[must_use]
pub fn asks(engine: &Engine, record: &Record) -> bool {
    let chosen = servers(engine, record);
    if chosen.iter().any(|server| server.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())) {
        return false;
    }
    let mut networks = record.networks.keys().filter(|name| has_names(engine, name));
    networks.any(|name| name != DEFAULT || chosen.is_empty())
}

/// The servers that the container, or the daemon for all, chose.
fn servers<'a>(engine: &'a Engine, record: &'a Record) -> &'a [String] {
    match &record.host_config.dns {
        Some(own) if !own.is_empty() => own,
        _ => &engine.options.dns,
    }
}

/// Tells of a container that has started, or was found running. Its sockets come with it, or from its supervisor.
pub fn put(engine: &Engine, container: &Container, doors: Option<NameDoors>) {
    let record = container.record();
    if !record.networks.keys().any(|name| has_names(engine, name)) {
        return;
    }
    let doors = match doors.map(Ok).or_else(|| container.running().map(|running| running.names())) {
        Some(Ok(doors)) => Some(given(doors)),
        Some(Err(error)) => {
            warn!("names are not answered to container {}: {error}", record.id);
            None
        }
        // Its supervisor is silent: what the resolver has of it is kept.
        None => None,
    };
    engine.names.put(resident(engine, &record), doors.as_ref());
}

/// Tells what has changed about a container that runs: its name, its networks.
pub fn update(engine: &Engine, container: &Container) {
    let record = container.record();
    match engine.names.resident(&record.id) {
        Some(_) => engine.names.put(resident(engine, &record), None),
        None => put(engine, container, None),
    }
}

fn resident(engine: &Engine, record: &Record) -> Resident {
    let mut places = Vec::new();
    let mut links = Vec::new();
    let mut leads_out = false;
    for (name, endpoint) in &record.endpoints {
        let Ok(driver) = engine.networks.driver(engine, name) else { continue };
        leads_out |= !driver.info().internal;
        let none = EndpointSettings::default();
        let settings = record.networks.get(name).unwrap_or(&none);
        let network = engine.networks.id(name);
        links.extend(linked(engine, record, name, settings).into_iter().map(|(alias, container)| Link {
            network: network.clone(),
            name: alias,
            container,
        }));
        places.push(Place {
            network,
            network_name: name.clone(),
            v4: endpoint.ipv4(),
            v6: endpoint.ipv6.map(|six| six.address),
            names: if has_names(engine, name) { dns_names(record, settings) } else { Vec::new() },
        });
    }
    let own: Vec<IpAddr> = servers(engine, record).iter().filter_map(|server| server.parse().ok()).collect();
    let upstream = match (leads_out, own.is_empty()) {
        (false, _) => Upstream::Nowhere,
        (true, true) => Upstream::Host,
        (true, false) => Upstream::Servers(own),
    };
    Resident { container: record.id.clone(), places, links, upstream }
}

/// The private names that a container has on a network: alias and container.
fn linked(engine: &Engine, record: &Record, network: &str, settings: &EndpointSettings) -> Vec<(String, String)> {
    // On the daemon's own network the edges alone say what is linked still.
    let asked = settings.links.iter().flatten().filter(|_| !super::is_predefined(network)).filter_map(|link| {
        let (name, alias) = links::parse(link).ok()?;
        Some((alias.to_owned(), engine.containers.get(name).ok()?.id().to_owned()))
    });
    let mut all: Vec<(String, String)> = asked.collect();
    if network == record.host_config.network_mode {
        let more = engine.containers.links_of(&record.id).into_iter();
        all.extend(more.map(|(alias, child)| (alias, child.id().to_owned())));
    }
    // `docker run --link` asks for it in both ways.
    all.sort_unstable();
    all.dedup();
    all
}
