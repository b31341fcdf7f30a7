//! Mounts: from `-v`, `--mount`, `--tmpfs`, `--volumes-from` and an image's volumes to mount points, and from those to
//! the kernel's mounts.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use gantry_api::container::{Config, Empty};
use gantry_api::hostconfig::{HostConfig, Mount as ApiMount};
use gantry_api::inspect::MountPoint;
use gantry_linux::fs;
use libcontainer::config::{Mount, MountFlags, MountKind, Propagation};

use crate::container::store::Store;
use crate::error::{Error, Result};

/// A mount as it was asked for; volumes still by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// As it will be shown; `source` is empty for volumes that are not made yet.
    pub point: MountPoint,
    /// Do not fill an empty volume from the image.
    pub no_copy: bool,
    /// A bind source that may be made when it is missing (`-v`, not `--mount`).
    pub make_source: bool,
    /// Labels of a volume that has to be made.
    pub labels: Option<BTreeMap<String, String>>,
}

/// Everything that a container wants mounted, by destination; later kinds win over an image's volumes.
///
/// # Errors
/// The first specification that is wrong, in Docker's words.
pub fn wanted(config: &Config, host_config: &HostConfig, store: &Store) -> Result<Vec<Wanted>> {
    let mut by_destination: BTreeMap<String, Wanted> = BTreeMap::new();
    for from in host_config.volumes_from.iter().flatten() {
        for wanted in volumes_from(from, store)? {
            by_destination.insert(wanted.point.destination.clone(), wanted);
        }
    }
    let mut explicit: BTreeMap<String, Wanted> = BTreeMap::new();
    let binds = host_config.binds.iter().flatten().map(|bind| parse_bind(bind));
    let mounts = host_config.mounts.iter().flatten().map(parse_mount);
    for wanted in binds.chain(mounts) {
        let wanted = wanted?;
        let destination = wanted.point.destination.clone();
        if explicit.insert(destination.clone(), wanted).is_some() {
            return Err(Error::invalid(format!("Duplicate mount point: {destination}")));
        }
    }
    for destination in host_config.tmpfs.iter().flatten().map(|(destination, _)| destination) {
        let destination = clean(destination)?;
        if explicit.contains_key(&destination) {
            return Err(Error::invalid(format!("Duplicate mount point: {destination}")));
        }
        by_destination.remove(&destination);
    }
    by_destination.extend(explicit);
    let tmpfs: Vec<String> = host_config.tmpfs.iter().flatten().filter_map(|(path, _)| clean(path).ok()).collect();
    for (destination, Empty {}) in config.volumes.iter().flatten() {
        let destination = clean(destination)?;
        if !tmpfs.contains(&destination) {
            by_destination.entry(destination.clone()).or_insert_with(|| volume(String::new(), destination, true));
        }
    }
    Ok(by_destination.into_values().collect())
}

/// Refuses binds with a link on the way: where a policy judges, none is followed at any start.
///
/// # Errors
/// The first such bind.
pub fn refuse_links(wanted: &[Wanted]) -> Result<()> {
    for source in wanted.iter().filter(|wanted| wanted.point.kind == "bind").map(|wanted| &wanted.point.source) {
        if fs::follow(source).is_ok_and(|real| real != Path::new(source)) {
            return Err(Error::invalid(format!(
                "bind source {source}: there is a link on the way, and links are not followed where a policy judges: \
                 mount the directory itself, not what another container has (--volumes-from)"
            )));
        }
    }
    Ok(())
}

fn volume(name: String, destination: String, rw: bool) -> Wanted {
    let point = MountPoint {
        kind: "volume".into(),
        name,
        destination,
        driver: "local".into(),
        mode: "z".into(),
        rw,
        ..MountPoint::default()
    };
    Wanted { point, no_copy: false, make_source: false, labels: None }
}

fn volumes_from(from: &str, store: &Store) -> Result<Vec<Wanted>> {
    let (name, mode) = from.split_once(':').unwrap_or((from, "rw"));
    if !matches!(mode, "rw" | "ro" | "z" | "Z") {
        return Err(Error::invalid(format!("invalid mode for volumes-from: {mode}")));
    }
    let record = store.get(name)?.record();
    let inherit = |point: &MountPoint| Wanted {
        point: MountPoint { rw: point.rw && mode != "ro", ..point.clone() },
        no_copy: true,
        make_source: false,
        labels: None,
    };
    Ok(record.mounts.iter().filter(|point| point.kind != "tmpfs").map(inherit).collect())
}

/// An absolute path without `.`, `..` and doubled slashes.
fn clean(path: &str) -> Result<String> {
    if !path.starts_with('/') {
        return Err(Error::invalid(format!(
            "invalid mount config for type \"volume\": invalid mount path: '{path}' mount path must be absolute"
        )));
    }
    let mut parts: Vec<&str> = Vec::new();
    for component in Path::new(path).components() {
        match component {
            Component::ParentDir => {
                parts.pop();
            }
            Component::Normal(name) => parts.push(name.to_str().unwrap_or_default()),
            _ => {}
        }
    }
    if parts.is_empty() {
        return Err(Error::invalid(format!("invalid volume specification: '{path}': destination can't be '/'")));
    }
    Ok(format!("/{}", parts.join("/")))
}

/// `-v source:destination[:options]`, `-v destination`.
fn parse_bind(text: &str) -> Result<Wanted> {
    let invalid = || Error::invalid(format!("invalid volume specification: '{text}'"));
    let parts: Vec<&str> = text.split(':').collect();
    let (source, destination, options) = match parts[..] {
        [destination] => ("", destination, ""),
        [source, destination] => (source, destination, ""),
        [source, destination, options] => (source, destination, options),
        _ => return Err(invalid()),
    };
    if parts.len() > 1 && source.is_empty() {
        return Err(invalid());
    }
    let destination = clean(destination)?;
    let mut wanted = if source.starts_with('/') {
        bind(PathBuf::from(source), destination, true)
    } else {
        if !source.is_empty() && !crate::names::is_valid(source) {
            return Err(Error::invalid(format!(
                "create {source}: {source:?} includes invalid characters for a local volume name, only \
                 \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path"
            )));
        }
        volume(source.to_owned(), destination, true)
    };
    wanted.point.mode = options.to_owned();
    wanted.make_source = wanted.point.kind == "bind";
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" | "readonly" => wanted.point.rw = false,
            "rw" | "z" | "Z" | "consistent" | "cached" | "delegated" => {}
            "nocopy" if wanted.point.kind == "volume" => wanted.no_copy = true,
            "private" | "rprivate" | "slave" | "rslave" | "shared" | "rshared" if wanted.point.kind == "bind" => {
                wanted.point.propagation = option.to_owned();
            }
            _ => return Err(Error::invalid(format!("invalid mode: {options}"))),
        }
    }
    Ok(wanted)
}

fn bind(source: PathBuf, destination: String, rw: bool) -> Wanted {
    let point = MountPoint {
        kind: "bind".into(),
        source: source.to_string_lossy().into_owned(),
        destination,
        rw,
        propagation: "rprivate".into(),
        ..MountPoint::default()
    };
    Wanted { point, no_copy: true, make_source: false, labels: None }
}

/// `--mount`.
fn parse_mount(mount: &ApiMount) -> Result<Wanted> {
    let kind = mount.kind.as_str();
    let refuse = |reason: String| Err(Error::invalid(format!("invalid mount config for type \"{kind}\": {reason}")));
    if mount.target.is_empty() {
        return refuse("field Target must not be empty".into());
    }
    let destination = clean(&mount.target)?;
    match kind {
        "bind" => {
            let source = Path::new(&mount.source);
            if !source.is_absolute() {
                return refuse(format!("invalid mount path: '{}' mount path must be absolute", mount.source));
            }
            let options = mount.bind_options.clone().unwrap_or_default();
            if fs::symlink_metadata(source).is_err() && !options.create_mountpoint {
                return refuse(format!("bind source path does not exist: {}", mount.source));
            }
            let mut wanted = bind(source.to_owned(), destination, !mount.read_only);
            wanted.make_source = options.create_mountpoint;
            if options.non_recursive {
                return Err(Error::not_implemented("bind-recursive=disabled is not supported yet"));
            }
            if !options.propagation.is_empty() {
                propagation(&options.propagation)?;
                wanted.point.propagation = options.propagation;
            }
            Ok(wanted)
        }
        "volume" => {
            let options = mount.volume_options.clone().unwrap_or_default();
            if !options.subpath.is_empty() {
                return Err(Error::not_implemented("volume-subpath is not supported yet"));
            }
            if !mount.source.is_empty() && !crate::names::is_valid(&mount.source) {
                return refuse(format!("{:?} is no name of a volume", mount.source));
            }
            let driver = options.driver_config.unwrap_or_default();
            if !matches!(driver.name.as_str(), "" | "local") || driver.options.is_some_and(|o| !o.is_empty()) {
                return Err(Error::not_implemented("volume drivers and their options are not supported yet"));
            }
            let mut wanted = volume(mount.source.clone(), destination, !mount.read_only);
            (wanted.no_copy, wanted.labels) = (options.no_copy, options.labels);
            Ok(wanted)
        }
        "tmpfs" => {
            if !mount.source.is_empty() {
                return refuse("field Source must not be specified".into());
            }
            let point = MountPoint { kind: "tmpfs".into(), destination, rw: !mount.read_only, ..MountPoint::default() };
            Ok(Wanted { point, no_copy: true, make_source: false, labels: None })
        }
        "image" | "npipe" | "cluster" => {
            Err(Error::not_implemented(format!("mounts of type {kind:?} are not supported")))
        }
        _ => Err(Error::invalid(format!("mount type unknown: {kind:?}"))),
    }
}

fn propagation(name: &str) -> Result<Propagation> {
    Ok(match name {
        "private" => Propagation::Private,
        "" | "rprivate" => Propagation::RPrivate,
        "slave" => Propagation::Slave,
        "rslave" => Propagation::RSlave,
        "shared" => Propagation::Shared,
        "rshared" => Propagation::RShared,
        other => return Err(Error::invalid(format!("invalid propagation mode: {other:?}"))),
    })
}

/// The kernel's mounts of a container's mount points, parents before children.
///
/// # Errors
/// Options of a tmpfs that do not exist.
pub fn mounts(points: &[MountPoint], host_config: &HostConfig) -> Result<Vec<Mount>> {
    let mut mounts = Vec::new();
    for point in points {
        let flags = MountFlags { read_only: !point.rw, ..MountFlags::default() };
        if point.kind == "tmpfs" {
            mounts.push(tmpfs_of_mount(point, host_config));
            continue;
        }
        mounts.push(Mount {
            destination: point.destination.clone().into(),
            kind: MountKind::Bind {
                source: point.source.clone().into(),
                recursive: true,
                propagation: propagation(&point.propagation)?,
            },
            flags,
            recursive: flags,
            ..Mount::default()
        });
    }
    for (destination, options) in host_config.tmpfs.iter().flatten() {
        mounts.push(tmpfs(clean(destination)?, options)?);
    }
    mounts.sort_by_key(|mount| mount.destination.components().count());
    Ok(mounts)
}

fn tmpfs_of_mount(point: &MountPoint, host_config: &HostConfig) -> Mount {
    let same = |mount: &&ApiMount| mount.kind == "tmpfs" && clean(&mount.target).is_ok_and(|t| t == point.destination);
    let asked = host_config.mounts.iter().flatten().find(same).and_then(|mount| mount.tmpfs_options.clone());
    let asked = asked.unwrap_or_default();
    let mut options = vec![("mode".to_owned(), Some(format!("{:o}", asked.mode.unwrap_or(0o1777))))];
    if let Some(bytes) = asked.size_bytes.filter(|bytes| *bytes > 0) {
        options.push(("size".into(), Some(bytes.to_string())));
    }
    let flags = MountFlags { read_only: !point.rw, nosuid: true, nodev: true, noexec: true, ..MountFlags::default() };
    Mount {
        destination: point.destination.clone().into(),
        kind: MountKind::Filesystem { fstype: "tmpfs".into(), options },
        flags,
        ..Mount::default()
    }
}

/// `--tmpfs /path:options`.
fn tmpfs(destination: String, text: &str) -> Result<Mount> {
    let mut flags = MountFlags { nosuid: true, nodev: true, noexec: true, ..MountFlags::default() };
    let mut options = Vec::new();
    for option in text.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => flags.read_only = true,
            "rw" => flags.read_only = false,
            "exec" => flags.noexec = false,
            "noexec" => flags.noexec = true,
            "suid" => flags.nosuid = false,
            "nosuid" => flags.nosuid = true,
            "dev" => flags.nodev = false,
            "nodev" => flags.nodev = true,
            "noatime" => flags.noatime = true,
            "relatime" => flags.relatime = true,
            "strictatime" => flags.strictatime = true,
            _ => match option.split_once('=') {
                Some((name @ ("size" | "mode" | "uid" | "gid" | "nr_inodes" | "nr_blocks" | "mpol"), value)) => {
                    options.push((name.to_owned(), Some(value.to_owned())));
                }
                _ => return Err(Error::invalid(format!("invalid tmpfs option {option:?} of {destination}"))),
            },
        }
    }
    if !options.iter().any(|(name, _)| name == "mode") {
        options.push(("mode".into(), Some("1777".into())));
    }
    Ok(Mount {
        destination: destination.into(),
        kind: MountKind::Filesystem { fstype: "tmpfs".into(), options },
        flags,
        ..Mount::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binds_are_read_as_docker_reads_them() {
        let bind = parse_bind("/a:/b:ro,rslave").unwrap().point;
        assert_eq!(
            (bind.kind.as_str(), bind.source.as_str(), bind.rw, bind.propagation.as_str()),
            ("bind", "/a", false, "rslave")
        );
        let volume = parse_bind("data:/x/../b/").unwrap().point;
        assert_eq!((volume.kind.as_str(), volume.name.as_str(), volume.destination.as_str()), ("volume", "data", "/b"));
        for bad in [":/b", "/a:b", "/a:/", "/a:/b:nonsense", "/a:/b:ro:x", "a/b:/c"] {
            assert!(parse_bind(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_bind_whose_source_is_missing_is_refused_for_mount_and_made_for_v() {
        let mount =
            ApiMount { kind: "bind".into(), source: "/no/such".into(), target: "/x".into(), ..ApiMount::default() };
        assert!(parse_mount(&mount).unwrap_err().message.contains("bind source path does not exist: /no/such"));
        assert!(parse_bind("/no/such:/x").unwrap().make_source);
    }

    #[test]
    fn tmpfs_options_are_checked() {
        assert!(tmpfs("/x".into(), "size=1m,exec,mode=700").is_ok());
        assert!(tmpfs("/x".into(), "fly=1").is_err());
    }
}
