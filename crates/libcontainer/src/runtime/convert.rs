//! A configuration of OCI's in the library's own words, put together from its parts.

use std::path::{Path, PathBuf};

use gantry_linux::mount::RootMount;

use super::parts;
use crate::config::{Config, IdMapping, Namespace, Namespaces, Propagation, TimeOffsets};
use crate::error::{Error, Result};
use crate::lsm;
use crate::network::devices::{self, NetDevice};
use crate::oci::{self, Linux, Spec};

/// Everything but the name. What is left out is told in `warnings`.
pub fn config(spec: &Spec, bundle: &Path, rootfs: &Path, warnings: &mut Vec<String>) -> Result<Config> {
    let linux = spec.linux.clone().unwrap_or_default();
    let namespaces = namespaces(&linux)?;
    check_names(spec, &namespaces)?;
    if linux.intel_rdt.is_some() {
        return Err(Error::Invalid("linux.intelRdt: this runtime does not manage Intel RDT; leave it out".into()));
    }
    let mut config = Config {
        hostname: spec.hostname.clone(),
        domainname: spec.domainname.clone(),
        root: RootMount::Bind { source: rootfs.to_owned() },
        readonly_root: spec.root.as_ref().is_some_and(|root| root.readonly),
        root_propagation: propagation(&linux.rootfs_propagation)?,
        uid_mappings: mappings(&linux.uid_mappings, "uid")?,
        gid_mappings: mappings(&linux.gid_mappings, "gid")?,
        time_offsets: time_offsets(&linux)?,
        namespaces,
        masked_paths: absolute(&linux.masked_paths, "maskedPaths")?,
        readonly_paths: absolute(&linux.readonly_paths, "readonlyPaths")?,
        sysctls: linux.sysctl.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
        ..Config::default()
    };
    parts::fill(&mut config, spec, bundle, warnings)?;
    warnings.extend(lsm::label_mounts(&mut config.mounts, &linux.mount_label)?);
    check_user_namespace(&config, &linux)?;
    Ok(config)
}

fn check_names(spec: &Spec, namespaces: &Namespaces) -> Result<()> {
    let named = !spec.hostname.is_empty() || !spec.domainname.is_empty();
    if named && namespaces.uts == Namespace::Host {
        let text = "hostname and domainname need a uts namespace: they would be the whole host's";
        return Err(Error::Invalid(text.into()));
    }
    Ok(())
}

/// Those that are not listed are the caller's.
pub fn namespaces(linux: &Linux) -> Result<Namespaces> {
    let mut found = Namespaces {
        mount: Namespace::Host,
        user: Namespace::Host,
        time: Namespace::Host,
        pid: Namespace::Host,
        uts: Namespace::Host,
        ipc: Namespace::Host,
        net: Namespace::Host,
        cgroup: Namespace::Host,
    };
    for listed in &linux.namespaces {
        let place = match listed.kind.as_str() {
            "mount" => &mut found.mount,
            "user" => &mut found.user,
            "time" => &mut found.time,
            "pid" => &mut found.pid,
            "uts" => &mut found.uts,
            "ipc" => &mut found.ipc,
            "network" => &mut found.net,
            "cgroup" => &mut found.cgroup,
            other => return Err(Error::Invalid(format!("namespace {other:?}: there is no such type"))),
        };
        if *place != Namespace::Host {
            return Err(Error::Invalid(format!("namespace {}: listed twice", listed.kind)));
        }
        *place = match listed.path.as_str() {
            "" => Namespace::New,
            path if path.starts_with('/') => Namespace::Path(PathBuf::from(path)),
            path => return Err(Error::Invalid(format!("namespace path {path:?}: must be absolute"))),
        };
    }
    if found.mount == Namespace::Host && found.user != Namespace::Host {
        let text = "a container with a user namespace needs a mount namespace: it may not mount in the caller's";
        return Err(Error::Invalid(text.into()));
    }
    Ok(found)
}

fn mappings(given: &[oci::IdMapping], kind: &str) -> Result<Vec<IdMapping>> {
    let fits = |first: u32, size: u32| first.checked_add(size - 1).is_some_and(|last| last < u32::MAX);
    let mut all: Vec<IdMapping> = Vec::new();
    for mapping in given {
        let oci::IdMapping { container_id: inside, host_id: outside, size: count } = *mapping;
        let shown = format!("{kind} mapping {inside} {outside} {count}");
        if count == 0 || !fits(inside, count) || !fits(outside, count) {
            return Err(Error::Invalid(format!("{shown}: not a range of ids")));
        }
        let meets = |a: u32, b: u32, size: u32| a < b + size && b < a + count;
        if all.iter().any(|m| meets(inside, m.inside, m.count) || meets(outside, m.outside, m.count)) {
            return Err(Error::Invalid(format!("{shown}: overlaps another one")));
        }
        all.push(IdMapping { inside, outside, count });
    }
    Ok(all)
}

fn check_user_namespace(config: &Config, linux: &Linux) -> Result<()> {
    let mapped = !config.uid_mappings.is_empty() || !config.gid_mappings.is_empty();
    match &config.namespaces.user {
        Namespace::New if config.uid_mappings.is_empty() || config.gid_mappings.is_empty() => {
            Err(Error::Invalid("a new user namespace needs linux.uidMappings and linux.gidMappings".into()))
        }
        Namespace::Host if mapped => {
            Err(Error::Invalid("linux.uidMappings and gidMappings need a new user namespace".into()))
        }
        _ if !linux.time_offsets.is_empty() && config.namespaces.time != Namespace::New => {
            Err(Error::Invalid("linux.timeOffsets need a new time namespace".into()))
        }
        _ => Ok(()),
    }
}

fn time_offsets(linux: &Linux) -> Result<TimeOffsets> {
    let mut offsets = TimeOffsets::default();
    for (clock, offset) in &linux.time_offsets {
        if offset.nanosecs > 999_999_999 {
            return Err(Error::Invalid(format!("time offset of {clock}: {} ns are a second", offset.nanosecs)));
        }
        let place = match clock.as_str() {
            "monotonic" => &mut offsets.monotonic,
            "boottime" => &mut offsets.boottime,
            _ => return Err(Error::Invalid(format!("time offset of {clock:?}: only monotonic and boottime have one"))),
        };
        *place = Some((offset.secs, offset.nanosecs));
    }
    Ok(offsets)
}

fn propagation(word: &str) -> Result<Option<Propagation>> {
    Ok(Some(match word {
        "" => return Ok(None),
        "private" => Propagation::Private,
        "rprivate" => Propagation::RPrivate,
        "slave" => Propagation::Slave,
        "rslave" => Propagation::RSlave,
        "shared" => Propagation::Shared,
        "rshared" => Propagation::RShared,
        "unbindable" => Propagation::Unbindable,
        "runbindable" => Propagation::RUnbindable,
        _ => return Err(Error::Invalid(format!("linux.rootfsPropagation {word:?}: there is no such propagation"))),
    }))
}

fn absolute(paths: &[String], field: &str) -> Result<Vec<String>> {
    match paths.iter().find(|path| !path.starts_with('/')) {
        Some(path) => Err(Error::Invalid(format!("linux.{field} {path:?}: must be absolute"))),
        None => Ok(paths.to_vec()),
    }
}

/// Those that are to be moved into the container.
pub fn net_devices(linux: &Linux, namespaces: &Namespaces) -> Result<Vec<NetDevice>> {
    let named = |(host, device): (&String, &oci::NetDevice)| {
        let container = if device.name.is_empty() { host.clone() } else { device.name.clone() };
        NetDevice { host: host.clone(), container }
    };
    let moved: Vec<NetDevice> = linux.net_devices.iter().map(named).collect();
    if !moved.is_empty() && namespaces.net == Namespace::Host {
        return Err(Error::Invalid("linux.netDevices need a network namespace to be moved into".into()));
    }
    devices::validate(&moved)?;
    Ok(moved)
}
