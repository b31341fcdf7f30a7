//! From a request to make a network to its definition: everything that is wrong with it is told before anything is made.

use std::collections::BTreeMap;
use std::net::IpAddr;

use gantry_api::network::{Ipam, IpamConfig, NetworkCreate};
use gantry_networkdriver::{Addresses, Definition, Pool, Subnet};
use jiff::Timestamp;

use super::{Document, PREDEFINED};
use crate::error::{Error, Result};
use crate::names;

const ENABLE_IPV4: &str = "com.docker.network.enable_ipv4";
const ENABLE_IPV6: &str = "com.docker.network.enable_ipv6";

/// The network that is asked for, without addresses where the driver is to choose them; and a warning.
///
/// # Errors
/// What is wrong, with Docker's statuses and words.
pub fn document(request: NetworkCreate) -> Result<(Document, String)> {
    check_kind(&request)?;
    let options = &request.options;
    let ipv4 = flag(request.enable_ipv4, options, ENABLE_IPV4, true)?;
    let ipv6 = flag(request.enable_ipv6, options, ENABLE_IPV6, false)?;
    if !ipv4 && !ipv6 {
        return Err(Error::invalid("IPv4 or IPv6 must be enabled"));
    }
    let ipam = request.ipam.unwrap_or_default();
    if !matches!(ipam.driver.as_str(), "" | "default") {
        return Err(Error::not_found(format!(
            "could not find plugin {} in v1 plugin registry: plugin not found: there is the IPAM driver default",
            ipam.driver
        )));
    }
    let (pools, warning) = pools(&ipam, ipv4, ipv6)?;
    let (mut four, mut six) = (Addresses::None, Addresses::None);
    if ipv4 {
        four = Addresses::Any;
    }
    if ipv6 {
        six = Addresses::Any;
    }
    for pool in pools {
        let place = if pool.subnet.address.is_ipv4() { &mut four } else { &mut six };
        if place.pool().is_some() {
            return Err(Error::invalid("bridge driver doesn't support multiple subnets: give one of each family"));
        }
        *place = Addresses::Of(pool);
    }
    let driver = match request.driver.as_str() {
        "" | "default" => "bridge".to_owned(),
        other => other.to_owned(),
    };
    let definition = Definition {
        id: names::random_id()?,
        driver,
        options: request.options,
        internal: request.internal,
        ipv4: four,
        ipv6: six,
        found: None,
    };
    let document = Document {
        name: request.name,
        created: Timestamp::now(),
        attachable: request.attachable,
        labels: request.labels,
        ipam_options: ipam.options.filter(|options| !options.is_empty()),
        definition,
    };
    Ok((document, warning))
}

fn check_kind(request: &NetworkCreate) -> Result<()> {
    let name = request.name.as_str();
    if name.trim().is_empty() {
        return Err(Error::invalid("invalid name: name is empty: give the network a name"));
    }
    if name.contains(char::is_control) {
        return Err(Error::invalid(format!("invalid name {name:?}: a network's name has no control characters")));
    }
    if PREDEFINED.contains(&name) {
        return Err(Error::forbidden(format!("operation is not permitted on predefined {name} network")));
    }
    if matches!(request.driver.as_str(), "host" | "null") {
        return Err(Error::forbidden(format!("only one instance of \"{}\" network is allowed", request.driver)));
    }
    if request.driver == "overlay" || request.ingress || matches!(request.scope.as_str(), "swarm" | "global") {
        return Err(Error::forbidden(
            "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to \
             swarm and try again.",
        ));
    }
    let from = request.config_from.as_ref().is_some_and(|from| !from.network.is_empty());
    if request.config_only || from {
        return Err(Error::not_implemented(
            "networks that only hold or take a configuration (--config-only, --config-from) are not supported",
        ));
    }
    Ok(())
}

fn flag(given: Option<bool>, options: &BTreeMap<String, String>, name: &str, default: bool) -> Result<bool> {
    match (given, options.get(name).map(String::as_str)) {
        (Some(given), _) => Ok(given),
        (None, None) => Ok(default),
        (None, Some("true" | "1" | "t" | "T" | "TRUE" | "True")) => Ok(true),
        (None, Some("false" | "0" | "f" | "F" | "FALSE" | "False")) => Ok(false),
        (None, Some(_)) => Err(Error::invalid(format!("driver-opt {name:?} is not a valid bool"))),
    }
}

/// The pools that were asked for, and a warning about those that are left out. All that is wrong is told at once.
fn pools(ipam: &Ipam, ipv4: bool, ipv6: bool) -> Result<(Vec<Pool>, String)> {
    let (mut pools, mut wrong, mut warning) = (Vec::new(), Vec::new(), String::new());
    for config in ipam.config.iter().filter(|config| **config != IpamConfig::default()) {
        let before = wrong.len();
        let pool = pool(config, &mut wrong);
        let Some(pool) = pool.filter(|_| wrong.len() == before) else { continue };
        let four = pool.subnet.address.is_ipv4();
        if four && !ipv4 || !four && !ipv6 {
            let flag = if four { "--ipv4" } else { "--ipv6" };
            warning = format!("the subnet {} is left out: the network is made without {flag}", pool.subnet);
            continue;
        }
        pools.push(pool);
    }
    if !wrong.is_empty() {
        return Err(Error::invalid(format!("invalid network config:\n{}", wrong.join("\n"))));
    }
    for pool in &pools {
        check_reserved(pool)?;
    }
    Ok((pools, warning))
}

fn pool(config: &IpamConfig, wrong: &mut Vec<String>) -> Option<Pool> {
    let Ok(subnet) = config.subnet.parse::<Subnet>() else {
        wrong.push(format!("invalid subnet {}: invalid CIDR block notation", config.subnet));
        return None;
    };
    if subnet != subnet.masked() {
        wrong.push(format!("invalid subnet {subnet}: it should be {}", subnet.masked()));
    }
    let (shortest, longest) = if subnet.address.is_ipv4() { (8, 30) } else { (8, 126) };
    if !(shortest..=longest).contains(&subnet.prefix) {
        wrong.push(format!("invalid subnet {subnet}: its prefix must be from {shortest} to {longest}"));
    }
    let range = (!config.ip_range.is_empty()).then(|| range(&config.ip_range, subnet));
    let mut address =
        |what: &str, text: &str| address(text, subnet).map_err(|why| wrong.push(format!("invalid {what}: {why}"))).ok();
    let gateway = (!config.gateway.is_empty())
        .then(|| address(&format!("gateway {}", config.gateway), &config.gateway))
        .flatten();
    let reserved = config.auxiliary_addresses.iter();
    let reserved = reserved
        .filter_map(|(name, text)| Some((name.clone(), address(&format!("auxiliary address {name}"), text)?)))
        .collect();
    let range = range
        .and_then(|range| range.map_err(|why| wrong.push(format!("invalid ip-range {}: {why}", config.ip_range))).ok());
    Some(Pool { subnet, gateway, range, reserved, chosen: true })
}

fn range(text: &str, subnet: Subnet) -> std::result::Result<Subnet, String> {
    let range: Subnet = text.parse().map_err(|_| "invalid CIDR block notation".to_owned())?;
    if range.address.is_ipv4() != subnet.address.is_ipv4() {
        return Err(format!("parent subnet is an {} block", family(subnet)));
    }
    if range != range.masked() {
        return Err(format!("it should be {}", range.masked()));
    }
    if range.prefix < subnet.prefix {
        return Err(format!("CIDR block is bigger than its parent subnet {subnet}"));
    }
    if !subnet.contains(range.address) {
        return Err(format!("parent subnet {subnet} doesn't contain ip-range"));
    }
    Ok(range)
}

fn address(text: &str, subnet: Subnet) -> std::result::Result<IpAddr, String> {
    let address: IpAddr = text.parse().map_err(|_| "invalid address".to_owned())?;
    if address.is_ipv4() != subnet.address.is_ipv4() {
        return Err(format!("parent subnet is an {} block", family(subnet)));
    }
    if !subnet.contains(address) {
        return Err(format!("parent subnet {subnet} doesn't contain this address"));
    }
    if !subnet.is_host(address) {
        return Err(format!("it is no host's address of subnet {subnet}"));
    }
    Ok(address)
}

fn family(subnet: Subnet) -> &'static str {
    if subnet.address.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// An address is set aside once.
fn check_reserved(pool: &Pool) -> Result<()> {
    let mut taken = vec![pool.gateway()];
    for (name, address) in &pool.reserved {
        if taken.contains(address) {
            return Err(Error::forbidden(format!(
                "failed to allocate secondary ip address ({name}:{address}): Address already in use"
            )));
        }
        taken.push(*address);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(subnet: &str, range: &str, gateway: &str, aux: &str) -> NetworkCreate {
        let config = IpamConfig {
            subnet: subnet.into(),
            ip_range: range.into(),
            gateway: gateway.into(),
            auxiliary_addresses: BTreeMap::from([("r".to_owned(), aux.to_owned())])
                .into_iter()
                .filter(|(_, a)| !a.is_empty())
                .collect(),
        };
        let ipam = Some(Ipam { config: vec![config], ..Ipam::default() });
        NetworkCreate { name: "n".into(), ipam, enable_ipv6: Some(true), ..NetworkCreate::default() }
    }

    #[test]
    fn what_is_wrong_with_addresses_is_said_in_dockers_words() {
        for (request, said) in [
            (request("10.0.0.1/24", "", "", ""), "invalid subnet 10.0.0.1/24: it should be 10.0.0.0/24"),
            (request("10.0.0/24", "", "", ""), "invalid subnet 10.0.0/24: invalid CIDR block notation"),
            (request("10.0.0.0/24", "", "10.0.1.1", ""), "parent subnet 10.0.0.0/24 doesn't contain this address"),
            (request("10.0.0.0/24", "", "fd00::1", ""), "invalid gateway fd00::1: parent subnet is an IPv4 block"),
            (request("10.0.0.0/24", "", "10.0.0.255", ""), "no host's address"),
            (request("10.0.0.0/24", "10.0.0.0/16", "", ""), "CIDR block is bigger than its parent subnet"),
            (request("10.0.0.0/24", "10.0.0.9/28", "", ""), "it should be 10.0.0.0/28"),
            (request("10.0.0.0/24", "10.0.1.0/28", "", ""), "doesn't contain ip-range"),
            (request("10.0.0.0/24", "", "", "10.0.1.9"), "invalid auxiliary address r:"),
            (request("10.0.0.0/24", "", "10.0.0.9", "10.0.0.9"), "Address already in use"),
            (request("10.0.0.0/31", "", "", ""), "its prefix must be from 8 to 30"),
        ] {
            let error = document(request).unwrap_err();
            assert!(error.message.contains(said), "{error}");
        }
    }

    #[test]
    fn a_network_has_the_families_that_are_asked_for() {
        let (network, _) = document(request("fd00:5::/64", "", "", "")).unwrap();
        assert!(network.definition.ipv4 == Addresses::Any && network.definition.ipv6.pool().is_some());
        let without = NetworkCreate { enable_ipv6: Some(false), ..request("fd00:5::/64", "", "", "") };
        let (network, warning) = document(without).unwrap();
        assert!(network.definition.ipv6 == Addresses::None && warning.contains("--ipv6"), "{warning}");
        let none = NetworkCreate { enable_ipv4: Some(false), name: "n".into(), ..NetworkCreate::default() };
        assert!(document(none).is_err());
    }
}
