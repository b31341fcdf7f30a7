//! The files that the daemon writes for a container and binds into it: `resolv.conf`, `hostname`, `hosts`.

use gantry_linux::fs;
use gantry_networkdriver::files;

use crate::container::Record;
use crate::engine::Engine;
use crate::error::Result;
use crate::networks;

/// File below the container's directory, and where it is bound.
pub const FILES: [(&str, &str); 3] =
    [("resolv.conf", "/etc/resolv.conf"), ("hostname", "/etc/hostname"), ("hosts", "/etc/hosts")];

/// Writes the files for a start.
///
/// # Errors
/// An `--add-host` or `--dns` that is no address; the disk.
pub fn write(engine: &Engine, record: &Record) -> Result<()> {
    let directory = record.directory(&engine.options.data_root);
    let host_config = &record.host_config;
    let host_network = host_config.network_mode == "host";
    let pick = |own: &Option<Vec<String>>, default: &[String]| match own {
        Some(list) if !list.is_empty() => list.clone(),
        _ => default.to_vec(),
    };
    let main = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let host_resolv_conf = match files::host_resolv_conf_path(&main) {
        "/etc/resolv.conf" => main,
        other => fs::read_to_string(other).unwrap_or_default(),
    };
    let resolv_conf = files::resolv_conf(
        &host_resolv_conf,
        &pick(&host_config.dns, &engine.options.dns),
        &pick(&host_config.dns_search, &engine.options.dns_search),
        &pick(&host_config.dns_options, &engine.options.dns_options),
        host_network,
    );
    fs::write(directory.join("resolv.conf"), resolv_conf)?;
    fs::write(directory.join("hostname"), files::hostname(record.hostname()))?;
    write_hosts(engine, record)
}

/// Writes `hosts`, in place: a container that runs has the file bound.
///
/// # Errors
/// As [`write`].
pub fn write_hosts(engine: &Engine, record: &Record) -> Result<()> {
    let addresses = networks::addresses(record);
    let mut gateways = record.endpoints.values().map(|endpoint| endpoint.gateway);
    let gateway = gateways.find(|gateway| !gateway.is_unspecified());
    let gateway = gateway.or_else(|| engine.networks.gateway(engine));
    let extra = record.host_config.extra_hosts.as_deref().unwrap_or_default();
    let linked = networks::links::hosts(engine, record);
    let hosts = files::hosts(&addresses, &linked, record.hostname(), &record.config.domainname, extra, gateway)?;
    Ok(fs::write(record.directory(&engine.options.data_root).join("hosts"), hosts)?)
}
