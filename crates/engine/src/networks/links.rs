//! What a container is told of those that it links to (`--link`): variables, and lines of `/etc/hosts`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use gantry_api::hostconfig::HostConfig;

use super::protocol_name;
use super::publish::parse_port;
use crate::container::{Container, Record, links};
use crate::engine::Engine;
use crate::error::{Error, Result};

/// Variables of a linked container that are its own affair.
const OWN: [&str; 2] = ["HOME", "PATH"];

/// The links that a new container asks for: alias → the linked container's id.
///
/// # Errors
/// A container that is not there, an alias given twice, networks without links.
pub fn wanted(engine: &Engine, host_config: &HostConfig) -> Result<BTreeMap<String, String>> {
    let mut wanted = BTreeMap::new();
    for link in host_config.links.iter().flatten() {
        let (name, alias) = links::parse(link)?;
        if matches!(host_config.network_mode.as_str(), "host" | "none")
            || host_config.network_mode.starts_with("container:")
        {
            return Err(Error::invalid(format!(
                "conflicting options: {} type networking can't be used with links. This would result in undefined behavior",
                host_config.network_mode.split(':').next().unwrap_or_default()
            )));
        }
        let child = engine
            .containers
            .get(name)
            .map_err(|error| error.context(format!("could not get container for {name}")))?;
        if child.record().host_config.network_mode == "host" {
            return Err(Error::invalid(
                "conflicting options: host type networking can't be used with links. This would result in undefined behavior",
            ));
        }
        if wanted.insert(alias.to_owned(), child.id().to_owned()).is_some_and(|other| other != child.id()) {
            return Err(Error::invalid(format!("bad format for links: the alias {alias} is given twice")));
        }
    }
    Ok(wanted)
}

/// Links tell of addresses on the daemon's own bridge only; on other networks there are names.
const OWN_BRIDGE: &str = "bridge";

/// The linked containers that a container is told of, by their aliases.
fn told(engine: &Engine, record: &Record) -> Vec<(String, Arc<Container>)> {
    if !record.networks.contains_key(OWN_BRIDGE) {
        return Vec::new();
    }
    engine.containers.links_of(&record.id)
}

/// Checks that the linked containers run.
///
/// # Errors
/// Docker's, about one that does not.
pub fn check_running(engine: &Engine, record: &Record) -> Result<()> {
    match told(engine, record).into_iter().find(|(_, child)| child.running().is_none()) {
        None => Ok(()),
        Some((alias, child)) => Err(Error::system(format!(
            "Cannot link to a non running container: /{} AS /{}/{alias}: start it first",
            child.record().name,
            record.name
        ))),
    }
}

/// The variables that tell of the linked containers.
#[must_use]
pub fn environment(engine: &Engine, record: &Record) -> Vec<String> {
    let links = told(engine, record).into_iter();
    links.flat_map(|(alias, child)| variables(&record.name, &alias, &child.record())).collect()
}

fn variables(parent: &str, alias: &str, child: &Record) -> Vec<String> {
    let prefix = alias.replace(['-', '.'], "_").to_ascii_uppercase();
    let mut all = Vec::new();
    if let Some(address) = address(child) {
        let mut ports: Vec<_> =
            child.config.exposed_ports.iter().flatten().filter_map(|(key, _)| parse_port(key).ok()).collect();
        ports.sort_unstable();
        for (number, (port, protocol)) in ports.into_iter().enumerate() {
            let protocol = protocol_name(protocol);
            let url = format!("{protocol}://{address}:{port}");
            if number == 0 {
                all.push(format!("{prefix}_PORT={url}"));
            }
            let one = format!("{prefix}_PORT_{port}_{}", protocol.to_ascii_uppercase());
            all.push(format!("{one}={url}"));
            all.push(format!("{one}_ADDR={address}"));
            all.push(format!("{one}_PORT={port}"));
            all.push(format!("{one}_PROTO={protocol}"));
        }
    }
    all.push(format!("{prefix}_NAME=/{parent}/{alias}"));
    for variable in child.config.env.iter().flatten() {
        if let Some((name, value)) = variable.split_once('=').filter(|(name, _)| !OWN.contains(name)) {
            all.push(format!("{prefix}_ENV_{name}={value}"));
        }
    }
    all
}

/// The address by which a linked container is reached.
fn address(child: &Record) -> Option<IpAddr> {
    child.endpoints.get(OWN_BRIDGE)?.ipv4().map(IpAddr::V4)
}

/// The lines of `/etc/hosts` that tell of the linked containers: address and names.
#[must_use]
pub fn hosts(engine: &Engine, record: &Record) -> Vec<(IpAddr, String)> {
    let links = told(engine, record).into_iter();
    let line = |(alias, child): (String, Arc<Container>)| {
        let child = child.record();
        let mut names = vec![alias];
        for name in [child.hostname(), child.name.as_str()] {
            if !names.iter().any(|other| other == name) {
                names.push(name.to_owned());
            }
        }
        Some((address(&child)?, names.join(" ")))
    };
    links.filter_map(line).collect()
}

/// Links as `inspect` shows them: `/db:/web/alias`.
#[must_use]
pub fn shown(engine: &Engine, record: &Record) -> Option<Vec<String>> {
    let links = engine.containers.links_of(&record.id).into_iter();
    let shown: Vec<String> =
        links.map(|(alias, child)| format!("/{}:/{}/{alias}", child.record().name, record.name)).collect();
    Some(shown).filter(|list| !list.is_empty())
}

/// Every name of a container: its own, and those that others have for it.
#[must_use]
pub fn names(engine: &Engine, record: &Record) -> Vec<String> {
    let links = engine.containers.linked_by(&record.id).into_iter();
    let mut names: Vec<String> = links.map(|(parent, alias)| format!("/{}/{alias}", parent.record().name)).collect();
    names.sort_unstable();
    names.insert(0, format!("/{}", record.name));
    names
}

#[cfg(test)]
mod tests {
    use gantry_api::container::Config;

    use super::*;

    #[test]
    fn a_linked_containers_ports_and_variables_are_told() {
        let config: Config = serde_json::from_value(serde_json::json!({
            "ExposedPorts": {"5432/tcp": {}, "53/udp": {}}, "Env": ["PATH=/bin", "USER=me"],
        }))
        .unwrap();
        let mut child = Record::new("1".repeat(64), jiff::Timestamp::UNIX_EPOCH, config, HostConfig::default());
        let mut endpoint = gantry_networkdriver::Endpoint::bare("1");
        endpoint.address = [10, 0, 0, 2].into();
        child.endpoints.insert("bridge".into(), endpoint);
        let told = variables("web", "my-db", &child);
        for wanted in [
            "MY_DB_NAME=/web/my-db",
            "MY_DB_PORT=udp://10.0.0.2:53",
            "MY_DB_PORT_5432_TCP=tcp://10.0.0.2:5432",
            "MY_DB_PORT_5432_TCP_ADDR=10.0.0.2",
            "MY_DB_PORT_5432_TCP_PORT=5432",
            "MY_DB_PORT_5432_TCP_PROTO=tcp",
            "MY_DB_ENV_USER=me",
        ] {
            assert!(told.iter().any(|line| line == wanted), "{wanted} in {told:?}");
        }
        assert!(!told.iter().any(|line| line.contains("PATH")));
    }
}
