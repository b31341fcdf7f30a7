//! A container's places on its networks: joined when it starts, left when it ends, changed while it runs, taken up again by
//! the next daemon.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;

use gantry_api::network::EndpointSettings;
use gantry_execdriver::{Running, Sandbox};
use gantry_networkdriver::{Endpoint, Join, NetworkDriver, PublishPort, Routes};
use tracing::warn;

use super::settings::Wanted;
use super::{Networks, mac_of, publish};
use crate::container::{Container, Record, State};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::files;

/// A network that a container is on, or is about to join.
struct Place<'a> {
    name: &'a str,
    driver: Arc<dyn NetworkDriver>,
    settings: &'a EndpointSettings,
    /// It leads out by IPv4, by IPv6.
    leads: Routes,
}

/// The networks that lead a container out, by their names.
#[derive(Debug, Default, PartialEq, Eq)]
struct Gateways<'a> {
    ipv4: Option<&'a str>,
    ipv6: Option<&'a str>,
}

impl Gateways<'_> {
    fn routes(&self, name: &str) -> Routes {
        Routes { ipv4: self.ipv4 == Some(name), ipv6: self.ipv6 == Some(name) }
    }

    /// The network whose address published ports lead to.
    fn publisher(&self) -> Option<&str> {
        self.ipv4.or(self.ipv6)
    }
}

fn place<'a>(engine: &Engine, name: &'a str, settings: &'a EndpointSettings) -> Result<Place<'a>> {
    let driver = engine.networks.driver(engine, name)?;
    let info = driver.info();
    let leads = Routes { ipv4: info.ipv4.is_some() && !info.internal, ipv6: info.ipv6.is_some() && !info.internal };
    Ok(Place { name, driver, settings, leads })
}

/// The highest priority leads out, then the first name.
fn gateways<'a>(places: &[Place<'a>]) -> Gateways<'a> {
    let best = |leads: fn(&Routes) -> bool| {
        let leading = places.iter().filter(|place| leads(&place.leads));
        leading.min_by_key(|place| (-place.settings.gw_priority, place.name)).map(|place| place.name)
    };
    Gateways { ipv4: best(|leads| leads.ipv4), ipv6: best(|leads| leads.ipv6) }
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
        let ports = if gateways.publisher() == Some(place.name) { ports(record)? } else { Vec::new() };
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
        link,
        address: wanted.ipv4,
        address6: wanted.ipv6,
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

/// Frees addresses and ports of a container whose run has ended.
pub fn leave(engine: &Engine, record: &Record) {
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
        if container.running().is_some() {
            return Err(Error::forbidden(format!("endpoint with name {name} already exists in network {network}")));
        }
        return Ok(());
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
    let (_, gateways) = places(engine, &asked)?;
    let Some(settings) = asked.get(network) else { return Ok(()) };
    let place = place(engine, network, settings)?;
    let inside = running.network()?;
    let unpublished = changed.endpoints.values().all(|endpoint| endpoint.ports.is_empty());
    let publishes = unpublished && gateways.publisher() == Some(network);
    let ports = if publishes { ports(&changed)? } else { Vec::new() };
    let link = free_link(&changed);
    let sockets = (inside.netns.as_fd(), inside.route_socket.as_fd());
    let endpoint = join_one(&changed, &place, gateways.routes(network), &link, ports, sockets)?;
    changed.endpoints.insert(network.to_owned(), endpoint.clone());
    let saved =
        engine.containers.save(container, changed).and_then(|()| files::write_hosts(engine, &container.record()));
    if let Err(error) = saved {
        if let Err(second) = place.driver.disconnect(&endpoint) {
            warn!("undo the failed connect of container {} to network {network}: {second}", container.id());
        }
        return Err(error);
    }
    tell(engine, network, container.id(), "connect");
    Ok(())
}

/// Every place that is asked for of networks that are there, and which of them lead out.
fn places<'a>(
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
    let endpoint = changed.endpoints.remove(&name);
    let (Some(endpoint), Some(running)) = (endpoint, container.running()) else {
        return engine.containers.save(container, changed);
    };
    let driver = engine.networks.driver(engine, &name)?;
    let asked = changed.networks.clone();
    let (places, gateways) = places(engine, &asked)?;
    let inside = running.network()?;
    // From here on it goes to its end: what fails is told, and the record says what is so.
    let mut failures: Vec<String> = Vec::new();
    failures.extend(driver.disconnect(&endpoint).err().map(|error| error.to_string()));
    for place in &places {
        let routes = gateways.routes(place.name);
        let Some(remaining) = changed.endpoints.get(place.name).filter(|_| routes != Routes::default()) else {
            continue;
        };
        let routed = place.driver.route(remaining, inside.route_socket.as_fd(), routes);
        failures.extend(routed.err().map(|error| error.to_string()));
    }
    engine.containers.save(container, changed)?;
    files::write_hosts(engine, &container.record())?;
    tell(engine, &name, container.id(), "disconnect");
    if failures.is_empty() {
        return Ok(());
    }
    Err(Error::system(format!("disconnect container {} from network {name}: {}", record.id, failures.join("; "))))
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

impl Networks {
    /// The networks of a container as `inspect` and lists show them.
    #[must_use]
    pub fn of_container(&self, record: &Record) -> BTreeMap<String, EndpointSettings> {
        let shown = |(name, asked): (&String, &EndpointSettings)| {
            let mut settings = asked.clone();
            settings.network_id = self.id(name);
            if !matches!(name.as_str(), "bridge" | "host" | "none") {
                settings.dns_names = Some(dns_names(record, asked));
            }
            if let Some(endpoint) = record.endpoints.get(name) {
                settings.endpoint_id = self.endpoint_id(&record.id, name);
                fill(&mut settings, endpoint);
            }
            (name.clone(), settings)
        };
        record.networks.iter().map(shown).collect()
    }
}

fn fill(settings: &mut EndpointSettings, endpoint: &Endpoint) {
    settings.mac_address = mac_of(endpoint);
    if let Some(address) = endpoint.ipv4() {
        settings.ip_address = address.to_string();
        settings.ip_prefix_len = endpoint.prefix;
    }
    if !endpoint.gateway.is_unspecified() {
        settings.gateway = endpoint.gateway.to_string();
    }
    if let Some(six) = endpoint.ipv6 {
        settings.global_ipv6_address = six.address.to_string();
        settings.global_ipv6_prefix_len = six.prefix;
        settings.ipv6_gateway = six.gateway.map(|gateway| gateway.to_string()).unwrap_or_default();
    }
}

/// The names by which others on a network know a container.
fn dns_names(record: &Record, settings: &EndpointSettings) -> Vec<String> {
    let mut names = vec![record.name.clone()];
    let more = settings.aliases.iter().flatten().cloned();
    for name in more.chain([record.short_id().to_owned(), record.config.hostname.clone()]) {
        if !name.is_empty() && !names.contains(&name) {
            names.push(name);
        }
    }
    names
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
