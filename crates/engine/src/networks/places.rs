//! A container's places on its networks: joined when it starts, left when it ends, changed while it runs, taken up again by
//! the next daemon.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;

use gantry_api::network::EndpointSettings;
use gantry_execdriver::{Network as Inside, Running, Sandbox};
use gantry_networkdriver::{Endpoint, Join, NetworkDriver, PublishPort, PublishedPort, Routes};
use tracing::warn;

use super::settings::Wanted;
use super::{names, publish};
use crate::container::{Container, Record, State};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::files;

/// A network that a container is on, or is about to join.
pub(super) struct Place<'a> {
    pub(super) name: &'a str,
    pub(super) driver: Arc<dyn NetworkDriver>,
    settings: &'a EndpointSettings,
    /// It leads out by IPv4, by IPv6.
    leads: Routes,
    /// The host shows ports of containers that are on it.
    publishes: bool,
}

/// The networks that lead a container out, by their names.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Gateways<'a> {
    ipv4: Option<&'a str>,
    ipv6: Option<&'a str>,
    /// The one whose address published ports lead to.
    publisher: Option<&'a str>,
}

impl Gateways<'_> {
    pub(super) fn routes(&self, name: &str) -> Routes {
        Routes { ipv4: self.ipv4 == Some(name), ipv6: self.ipv6 == Some(name) }
    }
}

fn place<'a>(engine: &Engine, name: &'a str, settings: &'a EndpointSettings) -> Result<Place<'a>> {
    let driver = engine.networks.driver(engine, name)?;
    let info = driver.info();
    let leads = Routes { ipv4: info.ipv4.is_some() && !info.internal, ipv6: info.ipv6.is_some() && !info.internal };
    Ok(Place { name, driver, settings, leads, publishes: !info.bridge.is_empty() })
}

/// The highest priority leads out, then the first name.
fn gateways<'a>(places: &[Place<'a>]) -> Gateways<'a> {
    let best = |leads: fn(&Place<'_>) -> bool| {
        let leading = places.iter().filter(|place| leads(place));
        leading.min_by_key(|place| (place.settings.gw_priority.saturating_neg(), place.name)).map(|place| place.name)
    };
    let publisher = best(|place| place.publishes && place.leads.ipv4);
    let publisher = publisher.or_else(|| best(|place| place.publishes && place.leads.ipv6));
    Gateways { ipv4: best(|place| place.leads.ipv4), ipv6: best(|place| place.leads.ipv6), publisher }
}

/// Joins every network that the container asks for; with a failure, it is on none.
///
/// # Errors
/// A network that is not there; what its driver refuses.
pub fn join(engine: &Engine, record: &mut Record, sandbox: &dyn Sandbox) -> Result<()> {
    if record.networks.is_empty() {
        return Ok(());
    }
    let asked = std::mem::take(&mut record.networks);
    let joined = join_all(engine, record, &asked, sandbox.netns(), sandbox.route_socket());
    record.networks = asked;
    if joined.is_err() {
        leave(engine, record);
        record.endpoints.clear();
    }
    joined.map_err(|error| error.context("failed to set up container networking"))
}

fn join_all(
    engine: &Engine,
    record: &mut Record,
    asked: &BTreeMap<String, EndpointSettings>,
    netns: BorrowedFd<'_>,
    route_socket: BorrowedFd<'_>,
) -> Result<()> {
    let places = asked.iter().map(|(name, settings)| place(engine, name, settings));
    let mut places = places.collect::<Result<Vec<_>>>()?;
    let gateways = gateways(&places);
    // The network that the container was made for has its first link.
    places.sort_by_key(|place| place.name != record.host_config.network_mode);
    for (number, place) in places.iter().enumerate() {
        let ports = if gateways.publisher == Some(place.name) { ports(record)? } else { Vec::new() };
        let link = format!("eth{number}");
        let endpoint = join_one(record, place, gateways.routes(place.name), &link, ports, (netns, route_socket))?;
        record.endpoints.insert(place.name.to_owned(), endpoint);
    }
    Ok(())
}

fn join_one(
    record: &Record,
    place: &Place<'_>,
    routes: Routes,
    link: &str,
    ports: Vec<PublishPort>,
    (netns, route_socket): (BorrowedFd<'_>, BorrowedFd<'_>),
) -> Result<Endpoint> {
    let wanted = Wanted::new(place.settings)?;
    let own = Some(record.config.mac_address.as_str());
    let own = own.filter(|mac| !mac.is_empty() && place.name == record.host_config.network_mode);
    let mac = wanted.mac.map_or_else(|| own.map(publish::parse_mac).transpose(), |mac| Ok(Some(mac)))?;
    let request = Join {
        link: wanted.link.as_deref().unwrap_or(link),
        address: wanted.ipv4,
        address6: wanted.ipv6,
        link_local: wanted.link_local,
        mac,
        ports,
        routes,
        ..Join::new(&record.id, netns, route_socket)
    };
    Ok(place.driver.join(request)?)
}

fn ports(record: &Record) -> Result<Vec<PublishPort>> {
    let exposed: Vec<String> = record.config.exposed_ports.iter().flatten().map(|(key, _)| key.clone()).collect();
    let host_config = &record.host_config;
    publish::ports(host_config.port_bindings.as_ref(), host_config.publish_all_ports, &exposed)
}

/// Frees addresses, ports and names of a container whose run has ended.
pub fn leave(engine: &Engine, record: &Record) {
    engine.names.remove(&record.id);
    for (name, endpoint) in &record.endpoints {
        let left = engine.networks.driver(engine, name).and_then(|driver| Ok(driver.leave(endpoint)?));
        if let Err(error) = left {
            warn!("take container {} off network {name}: {error}", record.id);
        }
    }
}

/// Takes up the places that an earlier daemon gave a container that runs on.
pub fn restore(engine: &Engine, record: &Record) {
    for (name, endpoint) in &record.endpoints {
        let restored = engine.networks.driver(engine, name).and_then(|driver| Ok(driver.restore(endpoint)?));
        if let Err(error) = restored {
            warn!("take up the place of container {} on network {name}: {error}", record.id);
        }
    }
}

/// Tells everybody that a container has come onto its networks, or gone.
pub fn announce(engine: &Engine, record: &Record, action: &str) {
    for name in record.endpoints.keys() {
        tell(engine, name, &record.id, action);
    }
}

fn tell(engine: &Engine, network: &str, container: &str, action: &str) {
    let Ok(driver) = engine.networks.driver(engine, network) else { return };
    let attributes = BTreeMap::from([
        ("container".to_owned(), container.to_owned()),
        ("name".to_owned(), network.to_owned()),
        ("type".to_owned(), driver.name().to_owned()),
    ]);
    engine.events.publish("network", action, &engine.networks.id(network), attributes);
}

/// Puts a container on a network, at once where it runs. The caller holds the container's lock.
///
/// # Errors
/// Docker's: a place that it has already, modes that are alone, what is wrong with the settings, what the driver refuses.
/// Nothing has changed then.
pub fn connect(engine: &Engine, container: &Container, network: &str, settings: EndpointSettings) -> Result<()> {
    let record = container.record();
    refuse_going(&record)?;
    let found = engine.networks.find(engine, network)?;
    refuse_alone(&record, &found.name)?;
    if record.networks.contains_key(&found.name) {
        let (name, network) = (&record.name, &found.name);
        return Err(Error::forbidden(format!("endpoint with name {name} already exists in network {network}")));
    }
    engine.networks.check(engine, &found, &settings)?;
    let mut changed = Record::clone(&record);
    changed.networks.insert(found.name.clone(), settings);
    match container.running() {
        Some(running) => connect_running(engine, container, changed, &found.name, &*running),
        None => engine.containers.save(container, changed),
    }
}

fn connect_running(
    engine: &Engine,
    container: &Container,
    mut changed: Record,
    network: &str,
    running: &dyn Running,
) -> Result<()> {
    let asked = changed.networks.clone();
    let before = container.record();
    let Some(settings) = asked.get(network) else { return Ok(()) };
    let place = place(engine, network, settings)?;
    let inside = running.network()?;
    let link = free_link(&changed);
    let sockets = (inside.netns.as_fd(), inside.route_socket.as_fd());
    let hosts = files::hosts(engine, &before)?;
    let endpoint = join_one(&changed, &place, Routes::default(), &link, Vec::new(), sockets)?;
    changed.endpoints.insert(network.to_owned(), endpoint.clone());
    let settled = settle(engine, &mut changed, &inside, Vec::new(), true);
    let saved = settled
        .and_then(|_| engine.containers.save(container, changed.clone()))
        .and_then(|()| files::refresh_hosts(engine, &changed, &hosts));
    if let Err(error) = saved {
        undo_connect(engine, container, &before, changed, network, &inside);
        return Err(error);
    }
    told_of(engine, container, &before)?;
    tell(engine, network, container.id(), "connect");
    Ok(())
}

/// Takes back a place, and what moved to it or was about to; the record is as it was before.
fn undo_connect(
    engine: &Engine,
    container: &Container,
    before: &Record,
    mut changed: Record,
    network: &str,
    inside: &Inside,
) {
    changed.networks.remove(network);
    // The same numbers again, also those that the kernel chose.
    let ports: Vec<PublishedPort> = before.endpoints.values().flat_map(|endpoint| endpoint.ports.clone()).collect();
    let undone = take_off(engine, &mut changed, network, inside, &ports)
        .and_then(|()| engine.containers.save(container, changed));
    if let Err(error) = undone {
        warn!("undo the failed connect of container {} to network {network}: {error}", container.id());
    }
}

/// Takes a container's link to a network away, and has the others do what it did, `ports` among it.
fn take_off(
    engine: &Engine,
    changed: &mut Record,
    network: &str,
    inside: &Inside,
    ports: &[PublishedPort],
) -> Result<()> {
    let Some(endpoint) = changed.endpoints.remove(network) else { return Ok(()) };
    let gone = engine
        .networks
        .driver(engine, network)
        .and_then(|driver| Ok(driver.disconnect(&endpoint, inside.route_socket.as_fd())?));
    // What it did has to be done all the same.
    let settled = settle(engine, changed, inside, again(ports), true);
    gone.and(settled.map(drop))
}

/// Has the ways out and the published ports of a running container be where its places want them; `moved` are ports whose
/// place is gone; `reroute` is not asked for where the ways out are as they were. Whether the record has changed.
fn settle(
    engine: &Engine,
    record: &mut Record,
    inside: &Inside,
    moved: Vec<PublishPort>,
    reroute: bool,
) -> Result<bool> {
    let asked = record.networks.clone();
    let (places, gateways) = places(engine, &asked)?;
    for place in places.iter().filter(|_| reroute) {
        let routes = gateways.routes(place.name);
        if let Some(endpoint) = record.endpoints.get(place.name).filter(|_| routes != Routes::default()) {
            place.driver.route(endpoint, inside.route_socket.as_fd(), routes)?;
        }
    }
    let Some(publisher) = gateways.publisher else { return Ok(false) };
    let holder = record.endpoints.iter().find(|(_, endpoint)| !endpoint.ports.is_empty()).map(|(name, _)| name.clone());
    let mut wanted = moved;
    match holder {
        Some(holder) if holder == publisher => return Ok(false),
        Some(holder) => {
            let driver = engine.networks.driver(engine, &holder)?;
            driver.withdraw(&record.id)?;
            if let Some(endpoint) = record.endpoints.get_mut(&holder) {
                wanted.extend(again(&std::mem::take(&mut endpoint.ports)));
            }
        }
        None if wanted.is_empty() => wanted = ports(record)?,
        None => {}
    }
    let Some(place) = places.iter().find(|place| place.name == publisher) else { return Ok(false) };
    let published = place.driver.publish(&record.id, &wanted)?;
    let changed = !published.is_empty();
    if let Some(endpoint) = record.endpoints.get_mut(publisher) {
        endpoint.ports = published;
    }
    Ok(changed)
}

/// The same ports once more, on a network that may have other families: what was on every address of both is asked for on
/// every address that there is.
fn again(ports: &[PublishedPort]) -> Vec<PublishPort> {
    let mut wanted: Vec<PublishPort> = Vec::new();
    for port in ports {
        let same = |other: &PublishPort| {
            (other.container_port, other.protocol, other.host_port)
                == (port.container_port, port.protocol, port.host_port)
        };
        let everywhere = port.host_ip.is_unspecified();
        match wanted.iter_mut().find(|other| same(other) && everywhere) {
            Some(other) if other.host_ip.is_none_or(|ip| ip.is_unspecified()) => other.host_ip = None,
            _ => wanted.push(PublishPort::from(port)),
        }
    }
    wanted
}

/// Called once after every container was taken up and strays were removed: what an earlier daemon did not live to finish.
pub fn finish(engine: &Engine) {
    for container in engine.containers.all() {
        // It may end at this moment.
        let _one = container.operation.blocking_lock();
        let record = container.record();
        let Some(running) = container.running() else { continue };
        if record.networks.keys().all(|name| super::is_predefined(name)) {
            continue;
        }
        let mut changed = Record::clone(&record);
        let finish = |inside: Inside| {
            // One that leads somewhere was left so, by the earlier daemon or by the container itself.
            let routed = gantry_networkdriver::leads_out(inside.route_socket.as_fd())?;
            settle(engine, &mut changed, &inside, Vec::new(), !routed)
        };
        let settled = running.network().map_err(Error::from).and_then(finish);
        let saved = settled.and_then(|new| if new { engine.containers.save(&container, changed) } else { Ok(()) });
        match saved {
            Ok(()) => names::update(engine, &container),
            Err(error) => warn!("settle the networks of container {}: {error}", record.id),
        }
    }
}

/// Every place that is asked for of networks that are there, and which of them lead out.
pub(super) fn places<'a>(
    engine: &Engine,
    asked: &'a BTreeMap<String, EndpointSettings>,
) -> Result<(Vec<Place<'a>>, Gateways<'a>)> {
    let places = asked.iter().map(|(name, settings)| place(engine, name, settings)).collect::<Result<Vec<_>>>()?;
    let gateways = gateways(&places);
    Ok((places, gateways))
}

fn free_link(record: &Record) -> String {
    let taken = |link: &String| record.endpoints.values().any(|endpoint| endpoint.link == *link);
    (0..).map(|number| format!("eth{number}")).find(|link| !taken(link)).unwrap_or_default()
}

/// Takes a container off a network, at once where it runs. The caller holds the container's lock.
///
/// # Errors
/// A network that is not there or that the container is not on; what the driver refuses.
pub fn disconnect(engine: &Engine, container: &Container, network: &str) -> Result<()> {
    let record = container.record();
    refuse_going(&record)?;
    let name = match engine.networks.find(engine, network) {
        Ok(found) => found.name,
        // A network that has been removed can be given up all the same.
        Err(_) if record.networks.contains_key(network) => network.to_owned(),
        Err(error) => return Err(error),
    };
    if name == "host" && record.host_config.network_mode == "host" {
        return Err(Error::invalid("container cannot be disconnected from host network or connected to host network"));
    }
    let mut changed = Record::clone(&record);
    if changed.networks.remove(&name).is_none() {
        return Err(Error::system(format!("container {} is not connected to network {name}", record.id)));
    }
    let Some(running) = container.running().filter(|_| changed.endpoints.contains_key(&name)) else {
        changed.endpoints.remove(&name);
        return engine.containers.save(container, changed);
    };
    let inside = running.network()?;
    // Off the record first: a link that nobody knows is removed by the next daemon, one that is missing is not made.
    let mut recorded = changed.clone();
    recorded.endpoints.remove(&name);
    engine.containers.save(container, recorded)?;
    let hosts = files::hosts(engine, &record)?;
    let ports = changed.endpoints.get(&name).map(|endpoint| endpoint.ports.clone()).unwrap_or_default();
    let gone = take_off(engine, &mut changed, &name, &inside, &ports);
    engine.containers.save(container, changed)?;
    files::refresh_hosts(engine, &container.record(), &hosts)?;
    told_of(engine, container, &record)?;
    tell(engine, &name, container.id(), "disconnect");
    gone.map_err(|error| error.context(format!("disconnect container {} from network {name}", record.id)))
}

/// Names follow the networks of a container that runs.
fn told_of(engine: &Engine, container: &Container, before: &Record) -> Result<()> {
    names::update(engine, container);
    files::refresh_resolv_conf(engine, before, &container.record())
}

fn refuse_going(record: &Record) -> Result<()> {
    match record.state {
        State::Removing(_) | State::Dead(_) => Err(Error::conflict(format!(
            "Container {} is marked for removal and cannot be connected or disconnected to the network",
            record.id
        ))),
        _ => Ok(()),
    }
}

/// The modes beside which there is no network.
fn refuse_alone(record: &Record, network: &str) -> Result<()> {
    let mode = record.host_config.network_mode.as_str();
    if mode.starts_with("container:") || mode == "host" && network != "host" {
        return Err(Error::invalid(
            "container sharing network namespace with another container or host cannot be connected to any other network",
        ));
    }
    if network == "host" && mode != "host" {
        return Err(Error::invalid(
            "cannot connect container to host network - container must be created in host network mode",
        ));
    }
    let none = |name: &str| name == "none" && record.networks.keys().any(|other| other != "none");
    if none(network) || record.networks.contains_key("none") && network != "none" {
        return Err(Error::invalid(
            "container cannot be connected to multiple networks with one of the networks in private (none) mode",
        ));
    }
    Ok(())
}

/// The addresses that a container has, in the order of its links.
#[must_use]
pub fn addresses(record: &Record) -> Vec<IpAddr> {
    let mut endpoints: Vec<&Endpoint> = record.endpoints.values().collect();
    endpoints.sort_by_key(|endpoint| (endpoint.link.len(), &endpoint.link));
    let both = |endpoint: &&Endpoint| {
        let six = endpoint.ipv6.map(|six| IpAddr::V6(six.address));
        endpoint.ipv4().map(IpAddr::V4).into_iter().chain(six)
    };
    endpoints.iter().flat_map(both).collect()
}
