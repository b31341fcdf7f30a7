//! What the networkdriver's doctor needs of a container, and what it says.

use std::os::fd::AsFd as _;

use gantry_api::network::Diagnosis;
use gantry_execdriver::Running;
use gantry_linux::fs;
use gantry_networkdriver::doctor::{Patient, Remedy, Stay};

use super::names;
use super::places::{Place, places};
use crate::container::{Container, Record};
use crate::engine::Engine;
use crate::error::Result;
use crate::files;

/// No `resolv.conf` is longer; a container may have written it.
const LONGEST: usize = 64 * 1024;

/// Says what is wrong with a container's network.
///
/// # Errors
/// What cannot be looked at.
pub fn examine(engine: &Engine, container: &Container) -> Result<Diagnosis> {
    let record = container.record();
    let told = Diagnosis { container_id: record.id.clone(), container: record.name.clone(), ..Diagnosis::default() };
    let wrong = |network: &str, check: &str, finding: String, fix: String, remedy: Option<Remedy>| {
        let remedy = match remedy {
            None => "",
            Some(Remedy::Reconnect) => "reconnect",
            Some(Remedy::Restart) => "restart",
        };
        let (network, check, remedy) = (network.to_owned(), check.to_owned(), remedy.to_owned());
        Ok(Diagnosis { network, check, finding, fix, remedy, ..told.clone() })
    };
    if record.host_config.network_mode.starts_with("container:") {
        let keeper = files::outermost(engine, &record);
        let Some(keeper) = keeper.filter(|keeper| !keeper.host_config.network_mode.starts_with("container:")) else {
            let finding = "the container whose network it shares is gone, and nobody looks after its places there";
            let fix = "make it again, in the network of a container that is there";
            return wrong("", "state", finding.into(), fix.into(), None);
        };
        let keeper = engine.containers.get(&keeper.id)?;
        return examine(engine, &keeper);
    }
    let networks: Vec<String> =
        record.networks.keys().filter(|name| !matches!(name.as_str(), "none")).cloned().collect();
    let told = Diagnosis { networks, ..told.clone() };
    let Some(running) = container.running() else {
        let finding = if record.state.has_processes() {
            "its supervisor does not answer, so that nothing can be looked at".to_owned()
        } else {
            "it is not running, and a container has its places on networks while it runs".to_owned()
        };
        return wrong("", "state", finding, "start it, or restart it".into(), Some(Remedy::Restart));
    };
    for (name, network) in record.networks.keys().map(|name| (name, engine.networks.driver(engine, name))) {
        if let Err(error) = network {
            return wrong(name, "link", error.to_string(), "mend that, and restart the daemon".into(), None);
        }
        if !record.endpoints.contains_key(name) {
            let finding = "it is to be on the network and has no place there";
            return wrong(name, "link", finding.into(), "put it there".into(), Some(Remedy::Reconnect));
        }
    }
    match look(engine, &record, &*running)? {
        Some(found) => wrong(&found.network, found.check.word(), found.what, found.fix, found.remedy),
        None => Ok(Diagnosis { healthy: true, ..told }),
    }
}

fn look(
    engine: &Engine,
    record: &Record,
    running: &dyn Running,
) -> Result<Option<gantry_networkdriver::doctor::Finding>> {
    let (places, gateways) = places(engine, &record.networks)?;
    let with_endpoints = places.iter().filter_map(|place| Some((place, record.endpoints.get(place.name)?)));
    let stays = with_endpoints.map(|(Place { name, driver, .. }, endpoint)| Stay {
        network: name,
        driver: &**driver,
        endpoint,
        routes: gateways.routes(name),
    });
    let mut stays: Vec<Stay<'_>> = stays.collect();
    stays.sort_by_key(|stay| (stay.endpoint.link.len(), stay.endpoint.link.clone()));
    if stays.iter().all(|stay| stay.endpoint.link.is_empty()) {
        return Ok(None);
    }
    let inside = running.network()?;
    // A supervisor of an older daemon has none: then names are not looked at.
    let datagrams = running.datagrams().ok();
    let resolv_conf = record.directory(&engine.options.data_root).join("resolv.conf");
    let resolv_conf = fs::read_up_to(resolv_conf, LONGEST)?;
    let patient = Patient {
        id: &record.id,
        stays,
        route_socket: inside.route_socket.as_fd(),
        datagrams: datagrams.as_ref().map(|socket| socket.as_fd()),
        resolv_conf: &String::from_utf8_lossy(&resolv_conf),
        known_name: names::asks(engine, record).then(|| record.short_id()),
        process: running.pid(),
    };
    Ok(engine.drivers.networks.examine(&patient)?)
}
