//! Networks, and a container's places on them, as the API shows them.

use std::collections::BTreeMap;
use std::sync::Arc;

use gantry_api::network::{EndpointSettings, Ipam, IpamConfig, Network, NetworkContainer};
use gantry_networkdriver::{Endpoint, NO_MAC, Pool};

use super::publish::format_mac;
use super::{Document, Networks, UserNetwork, is_predefined};
use crate::container::Record;
use crate::engine::Engine;
use crate::error::Result;

impl Networks {
    /// Every network as the API shows it.
    #[must_use]
    pub fn all(&self, engine: &Engine) -> Vec<Network> {
        let mut all: Vec<Network> = Vec::new();
        if engine.drivers.bridge.is_some() {
            all.push(self.predefined(engine, "bridge"));
        }
        all.extend(["host", "none"].map(|name| self.predefined(engine, name)));
        all.extend(self.known().values().map(|network| self.defined(engine, network)));
        all
    }

    /// A network by name or id as the API shows it.
    ///
    /// # Errors
    /// As [`Networks::find`].
    pub fn get(&self, engine: &Engine, term: &str) -> Result<Network> {
        let found = self.find(engine, term)?;
        Ok(match &found.user {
            Some(network) => self.defined(engine, network),
            None => self.predefined(engine, &found.name),
        })
    }

    fn predefined(&self, engine: &Engine, name: &str) -> Network {
        let mut network = Network {
            name: name.to_owned(),
            id: self.derived_id(name),
            created: self.created.to_string(),
            scope: "local".into(),
            driver: if name == "none" { "null" } else { name }.to_owned(),
            enable_ipv4: true,
            ipam: Ipam { driver: "default".into(), ..Ipam::default() },
            containers: self.containers(engine, name),
            ..Network::default()
        };
        if name == "bridge"
            && let Some(info) = engine.drivers.bridge.as_ref().map(|bridge| bridge.info())
        {
            network.ipam.config = info.ipv4.iter().chain(&info.ipv6).map(ipam_config).collect();
            network.enable_ipv6 = info.ipv6.is_some();
            network.options = BTreeMap::from([
                ("com.docker.network.bridge.default_bridge".into(), "true".into()),
                ("com.docker.network.bridge.enable_icc".into(), info.icc.to_string()),
                ("com.docker.network.bridge.enable_ip_masquerade".into(), "true".into()),
                ("com.docker.network.bridge.host_binding_ipv4".into(), engine.options.publish_address.to_string()),
                ("com.docker.network.bridge.name".into(), info.bridge),
                ("com.docker.network.driver.mtu".into(), info.mtu.to_string()),
            ]);
        }
        network
    }

    fn defined(&self, engine: &Engine, network: &UserNetwork) -> Network {
        let Document { name, created, attachable, labels, ipam_options, definition } = &network.document;
        let pools = [&definition.ipv4, &definition.ipv6].into_iter().filter_map(|addresses| addresses.pool());
        Network {
            name: name.clone(),
            id: definition.id.clone(),
            created: created.to_string(),
            scope: "local".into(),
            driver: definition.driver.clone(),
            enable_ipv4: definition.ipv4.is_wanted(),
            enable_ipv6: definition.ipv6.is_wanted(),
            ipam: Ipam {
                driver: "default".into(),
                options: Some(ipam_options.clone().unwrap_or_default()),
                config: pools.map(ipam_config).collect(),
            },
            internal: definition.internal,
            attachable: *attachable,
            containers: self.containers(engine, name),
            options: definition.options.clone(),
            labels: labels.clone(),
            ..Network::default()
        }
    }

    fn containers(&self, engine: &Engine, name: &str) -> BTreeMap<String, NetworkContainer> {
        let records = engine.containers.all().into_iter().map(|container| container.record());
        let shown = |record: Arc<Record>| {
            let endpoint = record.endpoints.get(name)?;
            let shown = NetworkContainer {
                name: record.name.clone(),
                endpoint_id: self.endpoint_id(&record.id, name),
                mac_address: mac_of(endpoint),
                ipv4_address: endpoint.ipv4().map(|ip| format!("{ip}/{}", endpoint.prefix)).unwrap_or_default(),
                ipv6_address: endpoint.ipv6.map(|six| format!("{}/{}", six.address, six.prefix)).unwrap_or_default(),
            };
            Some((record.id.clone(), shown))
        };
        records.filter_map(shown).collect()
    }

    /// The networks of a container as `inspect` and lists show them.
    #[must_use]
    pub fn of_container(&self, record: &Record) -> BTreeMap<String, EndpointSettings> {
        let shown = |(name, asked): (&String, &EndpointSettings)| {
            let mut settings = asked.clone();
            settings.network_id = self.id(name);
            if !is_predefined(name) {
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
pub(super) fn dns_names(record: &Record, settings: &EndpointSettings) -> Vec<String> {
    let mut names = vec![record.name.clone()];
    let more = settings.aliases.iter().flatten().cloned();
    for name in more.chain([record.short_id().to_owned(), record.config.hostname.clone()]) {
        if !name.is_empty() && !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// The hardware address of a place; empty where it has no link, or one with its parent's.
fn mac_of(endpoint: &Endpoint) -> String {
    if endpoint.mac == NO_MAC { String::new() } else { format_mac(endpoint.mac) }
}

fn ipam_config(pool: &Pool) -> IpamConfig {
    let reserved = pool.reserved.iter().map(|(name, address)| (name.clone(), address.to_string()));
    IpamConfig {
        subnet: pool.subnet.to_string(),
        ip_range: pool.range.map(|range| range.to_string()).unwrap_or_default(),
        gateway: pool.gateway().to_string(),
        auxiliary_addresses: reserved.collect(),
    }
}
