//! User namespaces (`--userns-remap`, `--userns`): which containers have one, what it excludes, and whose files are whose.
//!
//! An image's layers are shown through the mapping, and shared by all; the container's own layer belongs on disk to its
//! mapped users. Binds and volumes are idmapped: user N of the container is user N of the files, so a volume can go from one
//! mapping to another; what somebody else than root binds is theirs. Nothing else of the host's can be written.

use std::path::Path;

use gantry_api::hostconfig::HostConfig;
use gantry_execdriver::Users;
use gantry_linux::fs;
use gantry_linux::mount::{self, IdMap, IdRange};
use libcontainer::config::{Config, IdMapping, MountKind, MountMapping, Namespace};

use crate::container::Record;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::spec::mounts::Wanted;

/// The mapping that a new container gets, and keeps.
///
/// # Errors
/// What cannot be had together with a user namespace, in Docker's words.
pub fn of(engine: &Engine, host_config: &HostConfig) -> Result<Option<IdMap>> {
    if host_config.userns_mode == "host" {
        return Ok(None);
    }
    let remapped = engine.options.userns_remap.as_ref();
    let map = match shared(host_config) {
        // Checked once more for everything else when it starts.
        Some(Some(other)) => {
            let users = engine.containers.get(other)?.record().users.clone();
            if users.is_none() && remapped.is_some() {
                return Err(Error::invalid(format!(
                    "container {other} has the host's users, which this one would have to share: give it --userns=host"
                )));
            }
            users
        }
        Some(None) if remapped.is_some() => {
            return Err(Error::invalid(
                "a container with a user namespace can share namespaces of one other container only, for it shares that \
                 one's users; --userns=host gives the container none",
            ));
        }
        _ => remapped.cloned(),
    };
    let refusal = match map {
        Some(_) if host_config.privileged => {
            "privileged mode is incompatible with user namespaces.  You must run the container in the host namespace when \
             running privileged mode"
        }
        Some(_) if host_config.network_mode == "host" => {
            "cannot share the host's network namespace when user namespaces are enabled"
        }
        Some(_) if host_config.pid_mode == "host" => {
            "cannot share the host PID namespace when user namespaces are enabled"
        }
        map => return Ok(map),
    };
    Err(Error::invalid(format!("{refusal}; --userns=host gives the container none")))
}

/// The container whose namespaces another one shares, where it shares any; `Some(None)` are several.
fn shared(host_config: &HostConfig) -> Option<Option<&str>> {
    let modes = [&host_config.network_mode, &host_config.pid_mode, &host_config.ipc_mode];
    let mut others = modes.into_iter().filter_map(|mode| mode.strip_prefix("container:"));
    let first = others.next()?;
    Some(Some(first).filter(|first| others.all(|other| other == *first)))
}

/// The user namespace that a container starts in: a new one, or that of the container whose other namespaces it shares.
///
/// # Errors
/// When that one does not run, or has other users than this one was made for.
pub fn namespace(engine: &Engine, record: &Record) -> Result<Option<Users>> {
    let Some(map) = record.users.clone() else { return Ok(None) };
    let Some(Some(other)) = shared(&record.host_config) else { return Ok(Some(Users { map, of: None })) };
    let other = engine.containers.get(other)?;
    let Some(running) = other.running() else {
        return Err(Error::conflict(format!("cannot join users of a non running container: {}", other.id())));
    };
    if other.record().users.as_ref() != Some(&map) {
        return Err(Error::conflict(format!(
            "container {} has other users now than this container was made for; make this one again",
            other.id()
        )));
    }
    Ok(Some(Users { map, of: Some(format!("/proc/{}/ns/user", running.pid()).into()) }))
}

/// Describes the namespace and the mapped mounts of a container that has one.
///
/// # Errors
/// As [`namespace`].
pub fn apply(engine: &Engine, record: &Record, config: &mut Config) -> Result<()> {
    let Some(users) = namespace(engine, record)? else { return Ok(()) };
    config.namespaces.user = users.of.map_or(Namespace::New, Namespace::Path);
    config.uid_mappings = mappings(&users.map.uids);
    config.gid_mappings = mappings(&users.map.gids);
    for mount in config.mounts.iter_mut().filter(|mount| matches!(mount.kind, MountKind::Bind { .. })) {
        let own = owners_of(record, &mount.destination.to_string_lossy()).unwrap_or_default();
        mount.mapped = Some(MountMapping {
            uids: mappings(&own.uids),
            gids: mappings(&own.gids),
            recursive: true,
            optional: true,
        });
    }
    for (name, value) in &mut config.sysctls {
        // The kernel takes groups that are in the mapping only.
        if name == "net.ipv4.ping_group_range" && value == EVERY_GROUP {
            *value = format!("0 {}", last_of_first_range(&users.map.gids));
        }
    }
    Ok(())
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

/// Whose files are whose through a bind at `destination`: on disk, as they appear outside of the container. `None` is the
/// container's own mapping: every user of it is the same user on disk.
///
/// A directory that somebody else than root has bound is theirs: their files are the container's user's (root's, where a
/// name or nothing is configured), and those of the host's root are nobody's.
pub fn owners_of(record: &Record, destination: &str) -> Option<IdMap> {
    let (map, (uid, gid)) = (record.users.as_ref()?, record.caller.filter(|(uid, _)| *uid != 0)?);
    record.mounts.iter().find(|point| point.kind == "bind" && point.destination == destination)?;
    let (user, group) = record.config.user.split_once(':').unwrap_or((&record.config.user, ""));
    let number = |text: &str| text.parse().unwrap_or(0);
    Some(IdMap { uids: owned_by(uid, number(user), &map.uids)?, gids: owned_by(gid, number(group), &map.gids)? })
}

/// On disk `caller` is who `own` is in the container; root of the disk and who `caller` is inside are left out, all others
/// are the same.
fn owned_by(caller: u32, own: u32, ranges: &[IdRange]) -> Option<Vec<IdRange>> {
    let mut left_out = [0, caller, own];
    left_out.sort_unstable();
    let mut owners = Vec::new();
    let mut found = false;
    for &(inside, outside, count) in ranges {
        let end = inside.saturating_add(count);
        let mut next = inside;
        for out in left_out.into_iter().filter(|out| (inside..end).contains(out)).chain([end]) {
            if out > next {
                owners.push((next, outside + (next - inside), out - next));
            }
            next = next.max(out.saturating_add(1));
        }
        if (inside..end).contains(&own) {
            owners.push((caller, outside + (own - inside), 1));
            found = true;
        }
    }
    found.then_some(owners)
}

/// Says which binds of a new container will show the host's owners.
///
/// # Errors
/// A bind that the kernel refuses; a mapping that it does.
pub fn unmappable(map: Option<&IdMap>, wanted: &[Wanted]) -> Result<Vec<String>> {
    let Some(map) = map else { return Ok(Vec::new()) };
    let namespace = mount::user_namespace(&map.uids, &map.gids)?;
    let mut warnings = Vec::new();
    for point in wanted.iter().map(|wanted| &wanted.point).filter(|point| point.kind == "bind") {
        let source = Path::new(&point.source);
        // One that is missing is made, where everything else can be mapped too.
        if fs::metadata(source).is_ok() && mount::map_ids(mount::bind(source, true)?, true, &namespace).is_err() {
            warnings.push(format!(
                "{}: a file system of {} cannot be idmapped: the container sees the host's owners there, and its root may \
                 write only what everybody may",
                point.destination, point.source
            ));
        }
    }
    Ok(warnings)
}

/// Refuses a mapping that the kernel does not take, and a data root whose layers cannot be shown through it.
///
/// # Errors
/// Why not, and what to do.
pub fn check(map: &IdMap, data_root: &Path) -> Result<()> {
    let namespace = mount::user_namespace(&map.uids, &map.gids)
        .map_err(|error| Error::from(error).context("--userns-remap: the kernel refuses the mapping"))?;
    mount::map_ids(mount::bind(data_root, false)?, false, &namespace).map_err(|error| {
        Error::system(format!(
            "--userns-remap: layers on the file system of {} cannot be shown with other owners ({error}): use a data root on \
             ext4, xfs, btrfs or tmpfs",
            data_root.display()
        ))
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_somebody_binds_is_theirs_and_nothing_of_roots_is() {
        // Root of the container is user 1000 of the disk, who has no number inside, as root of the disk has none.
        assert_eq!(
            owned_by(1000, 0, &[(0, 100_000, 65536)]).unwrap(),
            [(1, 100_001, 999), (1001, 101_001, 64535), (1000, 100_000, 1)]
        );
        // The container's user has the same number.
        assert_eq!(
            owned_by(1000, 1000, &[(0, 100_000, 65536)]).unwrap(),
            [(1, 100_001, 999), (1001, 101_001, 64535), (1000, 101_000, 1)]
        );
        // Several ranges; somebody whose number no user of the container has.
        let owners = owned_by(70_000, 2, &[(0, 500, 2), (2, 900, 2)]).unwrap();
        assert_eq!(owners, [(1, 501, 1), (3, 901, 1), (70_000, 900, 1)]);
        assert_eq!(owned_by(1000, 10, &[(0, 500, 2)]), None, "who is not mapped owns nothing");
    }

    #[test]
    fn one_container_at_most_gives_its_users() {
        let of = |network: &str, pid: &str| {
            let host_config =
                HostConfig { network_mode: network.into(), pid_mode: pid.into(), ..HostConfig::default() };
            shared(&host_config).map(|other| other.map(str::to_owned))
        };
        assert_eq!(of("bridge", ""), None);
        assert_eq!(of("container:a", ""), Some(Some("a".into())));
        assert_eq!(of("container:a", "container:a"), Some(Some("a".into())));
        assert_eq!(of("container:a", "container:b"), Some(None));
    }
}
