//! User namespaces (`--userns-remap`, `--userns`): which containers have one, what it excludes, and whose files are whose.
//!
//! An image's layers are shown through the mapping, and shared by all; the container's own layer belongs on disk to its
//! mapped users. Binds and volumes are idmapped: user N of the container is user N of the files, so a volume can go from one
//! mapping to another, and nothing else of the host's can be written.

use gantry_api::hostconfig::HostConfig;
use gantry_linux::mount::{IdMap, IdRange};
use libcontainer::config::{Config, IdMapping, MountKind, MountMapping, Namespace};

use crate::container::Record;
use crate::engine::Engine;
use crate::error::{Error, Result};

/// The mapping that a new container gets, and keeps.
///
/// # Errors
/// What cannot be had together with a user namespace, in Docker's words.
pub fn of(engine: &Engine, host_config: &HostConfig) -> Result<Option<IdMap>> {
    let Some(map) = engine.options.userns_remap.as_ref().filter(|_| host_config.userns_mode != "host") else {
        return Ok(None);
    };
    let refuse = |why: &str| Err(Error::invalid(format!("{why}; --userns=host gives the container none")));
    if host_config.privileged {
        return refuse(
            "privileged mode is incompatible with user namespaces.  You must run the container in the host namespace when \
             running privileged mode",
        );
    }
    if host_config.network_mode == "host" {
        return refuse("cannot share the host's network namespace when user namespaces are enabled");
    }
    if host_config.pid_mode == "host" {
        return refuse("cannot share the host PID namespace when user namespaces are enabled");
    }
    let joined =
        [("network", &host_config.network_mode), ("PID", &host_config.pid_mode), ("IPC", &host_config.ipc_mode)];
    if let Some((kind, mode)) = joined.into_iter().find(|(_, mode)| mode.starts_with("container:")) {
        return Err(Error::not_implemented(format!(
            "a container with a user namespace of its own cannot share the {kind} namespace of another one yet ({mode}); \
             --userns=host gives the container none"
        )));
    }
    Ok(Some(map.clone()))
}

/// Describes the namespace and the mapped mounts of a container that has one.
pub fn apply(record: &Record, config: &mut Config) {
    let Some(map) = &record.users else { return };
    config.namespaces.user = Namespace::New;
    config.uid_mappings = mappings(&map.uids);
    config.gid_mappings = mappings(&map.gids);
    for mount in &mut config.mounts {
        if matches!(mount.kind, MountKind::Bind { .. }) {
            mount.mapped = Some(MountMapping { recursive: true, optional: true, ..MountMapping::default() });
        }
    }
    for (name, value) in &mut config.sysctls {
        // The kernel takes groups that are in the mapping only.
        if name == "net.ipv4.ping_group_range" && value == EVERY_GROUP {
            *value = format!("0 {}", last_of_first_range(&map.gids));
        }
    }
}

/// The value of `net.ipv4.ping_group_range` that lets everybody ping.
pub const EVERY_GROUP: &str = "0 2147483647";

fn last_of_first_range(ranges: &[IdRange]) -> u32 {
    ranges.iter().find(|(inside, ..)| *inside == 0).map_or(0, |(_, _, count)| count.saturating_sub(1))
}

fn mappings(ranges: &[IdRange]) -> Vec<IdMapping> {
    ranges
        .iter()
        .map(|(inside, outside, count)| IdMapping { inside: *inside, outside: *outside, count: *count })
        .collect()
}

/// Does work on files that appear with the owners that they have outside of the container: what is made belongs to the
/// container's root.
///
/// # Errors
/// As the work.
pub fn as_root<T: Send>(record: &Record, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let Some(owner) = record.users.as_ref().and_then(|map| map.outside(0, 0)) else { return work() };
    // Streams of clients wait in the runtime.
    let runtime = tokio::runtime::Handle::current();
    gantry_linux::fsids::as_owner(owner, || {
        let _entered = runtime.enter();
        work()
    })
}
