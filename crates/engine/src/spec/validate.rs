//! What a container may ask for: refused here, before anything is made, or never.

use gantry_api::container::Config;
use gantry_api::hostconfig::HostConfig;
use libcontainer::cgroups::Version;

use super::confinement::SecurityOptions;
use super::{resources, security};
use crate::engine::Engine;
use crate::error::{Error, Result};

/// Checks everything that can be checked before anything is made.
///
/// # Errors
/// The first setting that cannot be had, with Docker's words where it has some.
pub fn validate(engine: &Engine, config: &Config, host_config: &HostConfig) -> Result<()> {
    resources::validate(host_config, &engine.host)?;
    confinement(engine, host_config)?;
    security::devices(host_config)?;
    super::namespaces(
        &HostConfig {
            pid_mode: strip_container(&host_config.pid_mode),
            network_mode: String::new(),
            ..host_config.clone()
        },
        &engine.containers,
    )?;
    if !config.working_dir.is_empty() && !config.working_dir.starts_with('/') {
        return Err(Error::invalid(format!(
            "the working directory '{}' is invalid, it needs to be an absolute path",
            config.working_dir
        )));
    }
    sysctls(host_config)?;
    super::storage::limit(host_config)?;
    for variable in config.env.iter().flatten() {
        if variable.starts_with('=') || variable.contains('\0') {
            return Err(Error::invalid(format!("invalid environment variable: {variable}")));
        }
    }
    if !config.stop_signal.is_empty() {
        crate::jobs::parse_signal(&config.stop_signal)?;
    }
    restart_policy(host_config)?;
    refuse_unsupported(host_config)
}

/// Checks when it is to be started again.
///
/// # Errors
/// In Docker's words.
pub fn restart_policy(host_config: &HostConfig) -> Result<()> {
    let policy = &host_config.restart_policy;
    match policy.name.as_str() {
        "" | "no" | "always" | "unless-stopped" if policy.maximum_retry_count != 0 => {
            return Err(Error::invalid(
                "invalid restart policy: maximum retry count can only be used with 'on-failure'",
            ));
        }
        "" | "no" => {}
        "always" | "unless-stopped" | "on-failure" if host_config.auto_remove => {
            return Err(Error::invalid("can't create 'AutoRemove' container with restart policy"));
        }
        "always" | "unless-stopped" => {}
        "on-failure" if policy.maximum_retry_count < 0 => {
            return Err(Error::invalid("invalid restart policy: maximum retry count cannot be negative"));
        }
        "on-failure" => {}
        other => {
            return Err(Error::invalid(format!(
                "invalid restart policy: unknown policy '{other}'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'"
            )));
        }
    }
    Ok(())
}

/// What confines the container can be had: its seccomp profile compiles, its AppArmor profile is loaded.
fn confinement(engine: &Engine, host_config: &HostConfig) -> Result<()> {
    let security = SecurityOptions::new(host_config, &engine.options.security)?;
    let capabilities = security::capabilities(host_config)?;
    engine.seccomp.get(&security.seccomp, &capabilities, false)?;
    engine.apparmor.profile(security.apparmor.as_deref(), host_config.privileged)?;
    if security.writable_cgroups && engine.host.hierarchies.version() == Version::V1 {
        return Err(Error::invalid(
            "invalid --security-opt writable-cgroups: with cgroup v1, which this host has, a container could get out by \
             them; leave it out",
        ));
    }
    Ok(())
}

fn strip_container(mode: &str) -> String {
    if mode.starts_with("container:") { String::new() } else { mode.to_owned() }
}

/// What Docker has and this does not have yet is refused by name, never ignored.
///
/// # Errors
/// The first of it.
pub fn refuse_unsupported(host_config: &HostConfig) -> Result<()> {
    let some = |list: &Option<Vec<serde_json::Value>>| list.as_ref().is_some_and(|list| !list.is_empty());
    let unsupported = [
        ("--cgroup-parent", !host_config.cgroup_parent.is_empty()),
        ("--blkio-weight-device", some(&host_config.blkio_weight_device)),
        ("--device-read-bps", some(&host_config.blkio_device_read_bps)),
        ("--device-write-bps", some(&host_config.blkio_device_write_bps)),
        ("--device-read-iops", some(&host_config.blkio_device_read_iops)),
        ("--device-write-iops", some(&host_config.blkio_device_write_iops)),
        ("--gpus", some(&host_config.device_requests)),
        ("--cpu-rt-runtime", host_config.cpu_realtime_runtime != 0 || host_config.cpu_realtime_period != 0),
        ("--volume-driver", !matches!(host_config.volume_driver.as_str(), "" | "local")),
        ("--isolation", !matches!(host_config.isolation.as_str(), "" | "default")),
    ];
    match unsupported.iter().find(|(_, given)| *given) {
        Some((flag, _)) => Err(Error::not_implemented(format!("{flag} is not supported yet"))),
        None => Ok(()),
    }
}

/// Only what belongs to a namespace of the container's own can be set for it; anything else would be the host's.
fn sysctls(host_config: &HostConfig) -> Result<()> {
    let own_network =
        !matches!(host_config.network_mode.as_str(), "host") && !host_config.network_mode.starts_with("container:");
    let own_ipc = host_config.ipc_mode != "host";
    for name in host_config.sysctls.iter().flatten().map(|(name, _)| name) {
        let well_formed =
            !name.is_empty() && !name.contains(['/', '\0']) && name.split('.').all(|part| !part.is_empty());
        let network = name.starts_with("net.");
        let ipc =
            ["kernel.msg", "kernel.sem", "kernel.shm", "fs.mqueue."].iter().any(|prefix| name.starts_with(prefix));
        if network && !own_network {
            return Err(Error::invalid(format!(
                "sysctl {name:?} not allowed in host or another container's network namespace"
            )));
        }
        if ipc && !own_ipc {
            return Err(Error::invalid(format!("sysctl {name:?} not allowed in host ipc namespace")));
        }
        if !well_formed || !(network || ipc) {
            return Err(Error::invalid(format!("sysctl {name:?} is not in a separate kernel namespace")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sysctls_of_the_host_are_refused() {
        let check = |network: &str, name: &str| {
            let sysctls = Some([(name.to_owned(), "0".to_owned())].into());
            sysctls_of(HostConfig { network_mode: network.into(), sysctls, ..HostConfig::default() })
        };
        fn sysctls_of(host_config: HostConfig) -> bool {
            sysctls(&host_config).is_ok()
        }
        assert!(check("bridge", "net.ipv4.ip_forward") && check("bridge", "kernel.shmmax"));
        for (network, name) in [
            ("host", "net.ipv4.ip_forward"),
            ("bridge", "kernel.core_pattern"),
            ("bridge", "net/../kernel"),
            ("bridge", "vm.swappiness"),
            ("container:x", "net.x"),
        ] {
            assert!(!check(network, name), "{network} {name}");
        }
    }
}
