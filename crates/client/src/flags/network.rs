//! `--network` with everything about the container's place on it, and the subnets of a network.

use std::collections::BTreeMap;
use std::net::IpAddr;

use gantry_api::network::{EndpointIpam, EndpointSettings, IpamConfig};

use crate::cli::Parsed;

/// One `--network`.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// The network.
    pub name: String,
    settings: EndpointSettings,
}

/// `bridge`, or `name=net,alias=a,ip=10.0.0.2`.
///
/// # Errors
/// In Docker's words.
pub fn attachment(text: &str) -> Result<Attachment, String> {
    if !text.contains('=') {
        return Ok(Attachment { name: text.to_owned(), ..Attachment::default() });
    }
    let mut one = Attachment::default();
    for field in text.split(',') {
        let Some((key, value)) = field.split_once('=') else { return Err(format!("invalid field {field}")) };
        let value = value.trim();
        match key.trim().to_lowercase().as_str() {
            "name" => value.clone_into(&mut one.name),
            "alias" => one.settings.aliases.get_or_insert_default().push(value.to_owned()),
            "ip" => value.clone_into(&mut one.settings.ipam_config.get_or_insert_default().ipv4_address),
            "ip6" => value.clone_into(&mut one.settings.ipam_config.get_or_insert_default().ipv6_address),
            "link-local-ip" => {
                let ipam = one.settings.ipam_config.get_or_insert_default();
                ipam.link_local_ips.get_or_insert_default().push(value.to_owned());
            }
            "mac-address" => value.clone_into(&mut one.settings.mac_address),
            "driver-opt" => {
                let (name, value) = value
                    .split_once('=')
                    .ok_or_else(|| format!("invalid key/value pair format in driver options: {value}"))?;
                one.settings.driver_opts.get_or_insert_default().insert(name.to_owned(), value.to_owned());
            }
            "gw-priority" => {
                one.settings.gw_priority = value.parse().map_err(|_| format!("invalid gw-priority: {value}"))?;
            }
            other => return Err(format!("invalid field key {other}")),
        }
    }
    if one.name.is_empty() {
        return Err("network name/id is not specified".to_owned());
    }
    Ok(one)
}

/// The network mode, and the endpoints that must be told to the daemon.
pub type Networking = (String, Option<BTreeMap<String, EndpointSettings>>);

/// All flags about networks.
///
/// # Errors
/// In Docker's words.
pub fn networking(flags: &Parsed) -> Result<Networking, String> {
    let mut all = flags.list("network").iter().map(|text| attachment(text)).collect::<Result<Vec<_>, _>>()?;
    let mode = all.first().map_or("default", |first| first.name.as_str()).to_owned();
    if all.len() > 1 {
        for one in &all {
            if matches!(one.name.as_str(), "host" | "none") || one.name.starts_with("container:") {
                return Err("conflicting options: cannot attach both user-defined and non-user-defined network-modes"
                    .to_owned());
            }
        }
    }
    let mac = flags.text_or_empty("mac-address");
    if !mac.is_empty() && !is_mac(mac) {
        return Err(format!("{mac} is not a valid mac address"));
    }
    if all.is_empty() {
        all.push(Attachment { name: mode.clone(), ..Attachment::default() });
    }
    let settings = &mut all[0].settings;
    let ipam = |value: &str, current: &mut Option<EndpointIpam>, six: bool| {
        if !value.is_empty() {
            let ipam = current.get_or_insert_default();
            value.clone_into(if six { &mut ipam.ipv6_address } else { &mut ipam.ipv4_address });
        }
    };
    ipam(flags.text_or_empty("ip"), &mut settings.ipam_config, false);
    ipam(flags.text_or_empty("ip6"), &mut settings.ipam_config, true);
    let link_local = flags.list("link-local-ip");
    if !link_local.is_empty() {
        settings.ipam_config.get_or_insert_default().link_local_ips = Some(link_local.to_vec());
    }
    if !mac.is_empty() {
        mac.clone_into(&mut settings.mac_address);
    }
    let aliases = flags.list("network-alias");
    if !aliases.is_empty() {
        settings.aliases.get_or_insert_default().extend(aliases.iter().cloned());
    }
    let links = flags.list("link");
    if !links.is_empty() {
        settings.links = Some(links.to_vec());
    }
    let tell = all.len() > 1 || all[0].settings != EndpointSettings::default();
    let endpoints = tell.then(|| all.into_iter().map(|one| (one.name, one.settings)).collect());
    Ok((mode, endpoints))
}

/// The subnets of `network create`, each with the range, the gateway and the addresses that lie in it.
///
/// # Errors
/// In Docker's words.
pub fn pools(flags: &Parsed) -> Result<Vec<IpamConfig>, String> {
    let words = |name: &str| -> Vec<String> {
        let all = flags.list(name).iter().flat_map(|text| text.split(',')).map(str::trim);
        all.filter(|word| !word.is_empty()).map(str::to_owned).collect()
    };
    let subnets = words("subnet");
    let (ranges, gateways) = (words("ip-range"), words("gateway"));
    if subnets.len() < ranges.len() || subnets.len() < gateways.len() {
        return Err("every ip-range or gateway must have a corresponding subnet".to_owned());
    }
    let mut pools: Vec<IpamConfig> =
        subnets.into_iter().map(|subnet| IpamConfig { subnet, ..IpamConfig::default() }).collect();
    for range in ranges {
        let pool = holder(&mut pools, range.split('/').next().unwrap_or_default());
        let pool = pool.ok_or_else(|| format!("no matching subnet for range {range}"))?;
        if !pool.ip_range.is_empty() {
            return Err(format!(
                "cannot configure multiple ranges ({range}, {}) on the same subnet ({})",
                pool.ip_range, pool.subnet
            ));
        }
        pool.ip_range = range;
    }
    for gateway in gateways {
        let pool = holder(&mut pools, &gateway).ok_or_else(|| format!("no matching subnet for gateway {gateway}"))?;
        if !pool.gateway.is_empty() {
            return Err(format!(
                "cannot configure multiple gateways ({gateway}, {}) for the same subnet ({})",
                pool.gateway, pool.subnet
            ));
        }
        pool.gateway = gateway;
    }
    for (name, address) in super::env::pairs(flags.list("aux-address")) {
        let pool =
            holder(&mut pools, &address).ok_or_else(|| format!("no matching subnet for aux-address {address}"))?;
        pool.auxiliary_addresses.insert(name, address);
    }
    Ok(pools)
}

/// The subnet that an address lies in.
fn holder<'a>(pools: &'a mut [IpamConfig], address: &str) -> Option<&'a mut IpamConfig> {
    let address: IpAddr = address.parse().ok()?;
    pools.iter_mut().find(|pool| contains(&pool.subnet, address).unwrap_or(false))
}

fn contains(subnet: &str, address: IpAddr) -> Option<bool> {
    let (network, prefix) = subnet.split_once('/')?;
    let (network, prefix): (IpAddr, u32) = (network.parse().ok()?, prefix.parse().ok()?);
    Some(match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            u32::from(network).checked_shr(32_u32.checked_sub(prefix)?).unwrap_or(0)
                == u32::from(address).checked_shr(32 - prefix).unwrap_or(0)
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => {
            u128::from(network).checked_shr(128_u32.checked_sub(prefix)?).unwrap_or(0)
                == u128::from(address).checked_shr(128 - prefix).unwrap_or(0)
        }
        _ => false,
    })
}

fn is_mac(text: &str) -> bool {
    let parts: Vec<_> = text.split([':', '-']).collect();
    parts.len() == 6 && parts.iter().all(|part| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_a_name_or_a_list_of_fields() {
        assert_eq!(attachment("bridge").unwrap().name, "bridge");
        let one = attachment("name=net,alias=a,alias=b,ip=10.0.0.2,driver-opt=x=y").unwrap();
        assert_eq!(one.name, "net");
        assert_eq!(one.settings.aliases.unwrap(), ["a", "b"]);
        assert_eq!(one.settings.ipam_config.unwrap().ipv4_address, "10.0.0.2");
        assert_eq!(attachment("alias=a").unwrap_err(), "network name/id is not specified");
        assert_eq!(attachment("name=a,foo=b").unwrap_err(), "invalid field key foo");
    }

    #[test]
    fn an_address_belongs_to_the_subnet_that_contains_it() {
        let ip = |text: &str| text.parse().unwrap();
        assert_eq!(contains("10.0.0.0/24", ip("10.0.0.9")), Some(true));
        assert_eq!(contains("0.0.0.0/0", ip("10.0.0.9")), Some(true));
        assert_eq!(contains("10.0.0.0/24", ip("10.0.1.9")), Some(false));
        assert_eq!(contains("fd00::/64", ip("fd00::9")), Some(true));
        assert_eq!(contains("fd00::/64", ip("10.0.0.9")), Some(false));
        assert_eq!(contains("10.0.0.0/40", ip("10.0.0.9")), None);
    }

    #[test]
    fn mac_addresses_have_six_bytes() {
        assert!(is_mac("92:d0:c6:0a:29:33") && is_mac("92-d0-c6-0a-29-33"));
        assert!(!is_mac("zz") && !is_mac("92:d0:c6:0a:29"));
    }
}
