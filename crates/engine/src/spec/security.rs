//! What a container's processes may do: capabilities, hidden and read-only paths, devices.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use gantry_api::hostconfig::HostConfig;
use gantry_linux::fs;
use libcontainer::config::{Device, DeviceKind, DeviceRule};

use crate::error::{Error, Result};

/// Docker's default set.
const DEFAULT_CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// Every capability of `capabilities(7)`, by number.
const ALL_CAPABILITIES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// What is hidden from containers that are not privileged.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// What they may read and not write.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The capabilities of a container: the default set, `--cap-add`, `--cap-drop`, `--privileged`.
///
/// # Errors
/// A name that does not exist.
pub fn capabilities(host_config: &HostConfig) -> Result<Vec<String>> {
    if host_config.privileged {
        return Ok(all());
    }
    let add = normalise(host_config.cap_add.as_deref())?;
    let drop = normalise(host_config.cap_drop.as_deref())?;
    let is_all = |list: &[String]| list.iter().any(|name| name == "ALL");
    let mut set: Vec<String> = match (is_all(&add), is_all(&drop)) {
        (true, _) => all(),
        (false, true) => Vec::new(),
        (false, false) => DEFAULT_CAPABILITIES.iter().map(ToString::to_string).collect(),
    };
    set.retain(|name| !drop.contains(name));
    for name in add {
        if name != "ALL" && !set.contains(&name) {
            set.push(name);
        }
    }
    Ok(set)
}

/// Every capability.
#[must_use]
pub fn all() -> Vec<String> {
    ALL_CAPABILITIES.iter().map(ToString::to_string).collect()
}

fn normalise(names: Option<&[String]>) -> Result<Vec<String>> {
    names
        .unwrap_or_default()
        .iter()
        .map(|name| {
            let upper = name.to_ascii_uppercase();
            let whole = if upper == "ALL" || upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") };
            if whole == "ALL" || ALL_CAPABILITIES.contains(&whole.as_str()) {
                return Ok(whole);
            }
            Err(Error::invalid(format!("invalid capability: unknown capability {name:?}")))
        })
        .collect()
}

/// Paths to hide.
#[must_use]
pub fn masked_paths(host_config: &HostConfig) -> Vec<String> {
    paths(host_config, host_config.masked_paths.as_ref(), &MASKED)
}

/// Paths to make read-only.
#[must_use]
pub fn readonly_paths(host_config: &HostConfig) -> Vec<String> {
    paths(host_config, host_config.readonly_paths.as_ref(), &READ_ONLY)
}

fn paths(host_config: &HostConfig, asked: Option<&Vec<String>>, default: &[&str]) -> Vec<String> {
    match asked {
        Some(list) => list.clone(),
        None if host_config.privileged => Vec::new(),
        None => default.iter().map(ToString::to_string).collect(),
    }
}

/// Device nodes of a container and who may use what.
///
/// # Errors
/// A `--device` that is not there or is no device.
pub fn devices(host_config: &HostConfig) -> Result<(Vec<Device>, Vec<DeviceRule>)> {
    let mut devices: Vec<Device> = [("null", 3), ("zero", 5), ("full", 7), ("random", 8), ("urandom", 9)]
        .into_iter()
        .map(|(name, minor)| device(Path::new("/dev").join(name), DeviceKind::Char, 1, minor, 0o666))
        .collect();
    devices.push(device("/dev/tty".into(), DeviceKind::Char, 5, 0, 0o666));
    if host_config.privileged {
        host_devices(Path::new("/dev"), &mut devices)?;
        let everything =
            DeviceRule { allow: true, kind: DeviceKind::All, major: None, minor: None, access: "rwm".into() };
        return Ok((devices, vec![everything]));
    }
    let mut rules = libcontainer::cgroups::default_device_rules();
    for mapping in host_config.devices.iter().flatten() {
        let inside =
            if mapping.path_in_container.is_empty() { &mapping.path_on_host } else { &mapping.path_in_container };
        let metadata = fs::metadata(&mapping.path_on_host).map_err(|error| {
            Error::invalid(format!(
                "error gathering device information while adding custom device {:?}: {error}",
                mapping.path_on_host
            ))
        })?;
        let Some(mut made) = from_metadata(PathBuf::from(inside), &metadata) else {
            return Err(Error::invalid(format!(
                "error gathering device information while adding custom device {:?}: not a device node",
                mapping.path_on_host
            )));
        };
        made.path = PathBuf::from(inside);
        let access = if mapping.cgroup_permissions.is_empty() { "rwm" } else { &mapping.cgroup_permissions };
        rules.push(DeviceRule {
            allow: true,
            kind: made.kind,
            major: Some(made.major),
            minor: Some(made.minor),
            access: access.into(),
        });
        devices.retain(|other| other.path != made.path);
        devices.push(made);
    }
    if host_config.device_cgroup_rules.as_ref().is_some_and(|rules| !rules.is_empty()) {
        return Err(Error::not_implemented("device cgroup rules are not supported yet: use --device"));
    }
    Ok((devices, rules))
}

fn device(path: PathBuf, kind: DeviceKind, major: u32, minor: u32, mode: u32) -> Device {
    Device { path, kind, major, minor, mode, uid: 0, gid: 0 }
}

fn from_metadata(path: PathBuf, metadata: &std::fs::Metadata) -> Option<Device> {
    let kind = match metadata.file_type() {
        kind if kind.is_char_device() => DeviceKind::Char,
        kind if kind.is_block_device() => DeviceKind::Block,
        _ => return None,
    };
    let number = metadata.rdev();
    Some(Device {
        path,
        kind,
        major: rustix::fs::major(number),
        minor: rustix::fs::minor(number),
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
    })
}

/// The host's device nodes, for privileged containers; terminals and what a container has of its own left out.
fn host_devices(directory: &Path, devices: &mut Vec<Device>) -> Result<()> {
    for name in fs::list(directory)? {
        let path = directory.join(&name);
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        if metadata.is_dir() {
            if !["pts", "shm", "fd", "mqueue", "hugepages"].iter().any(|own| *own == name) {
                host_devices(&path, devices)?;
            }
        } else if name != "console" && name != "ptmx" && !devices.iter().any(|other| other.path == path) {
            devices.extend(from_metadata(path, &metadata));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(add: &[&str], drop: &[&str]) -> Result<Vec<String>> {
        let list = |names: &[&str]| Some(names.iter().map(ToString::to_string).collect());
        capabilities(&HostConfig { cap_add: list(add), cap_drop: list(drop), ..HostConfig::default() })
    }

    #[test]
    fn capabilities_are_added_and_dropped_by_either_spelling() {
        assert_eq!(set(&[], &[]).unwrap().len(), 14);
        assert!(set(&["net_admin"], &[]).unwrap().contains(&"CAP_NET_ADMIN".to_owned()));
        assert_eq!(set(&["CHOWN"], &["all"]).unwrap(), ["CAP_CHOWN"]);
        assert_eq!(set(&["ALL"], &["CAP_SYS_ADMIN"]).unwrap().len(), 40);
        assert!(set(&["FLY"], &[]).is_err());
    }
}
