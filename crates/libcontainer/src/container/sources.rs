//! What is prepared where the host's mounts are seen, by who has privileges over them: clones of binds, and mounts
//! through which files have other owners.

use std::os::fd::OwnedFd;

use gantry_linux::mount::{IdRange, bind_fd, filesystem, map_ids, user_namespace};
use gantry_linux::{Error as SystemError, ResultExt};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

use super::attributes;
use crate::config::{Config, IdMapping, Mount, MountFlags, MountKind, MountMapping, Namespace, Propagation};
use crate::error::{Error, Result};

/// The sources of all mounts of a container, in their places: descriptors of mounts that are attached nowhere, for the
/// process that mounts them. `None` is for those that it makes itself.
///
/// # Errors
/// `Invalid` for a source that does not exist or a mapping that cannot be.
pub fn open_sources(config: &Config) -> Result<Vec<Option<OwnedFd>>> {
    open_those(config, |_| true)
}

/// Of them only those that the process which mounts them cannot open itself: with a mapping of their own.
pub fn open_mapped(config: &Config) -> Result<Vec<Option<OwnedFd>>> {
    open_those(config, |mount| mount.mapped.is_some())
}

/// Of them only those that pass on what happens on them: they are opened before the mounts of a new namespace stop to.
pub(super) fn open_shared(config: &Config) -> Result<Vec<Option<OwnedFd>>> {
    open_those(config, |mount| match &mount.kind {
        MountKind::Bind { propagation, .. } if mount.mapped.is_none() => {
            let mut kinds = [propagation].into_iter().chain(&mount.propagation);
            kinds.any(|kind| matches!(kind, Propagation::Shared | Propagation::RShared))
        }
        _ => false,
    })
}

fn open_those(config: &Config, wanted: impl Fn(&Mount) -> bool) -> Result<Vec<Option<OwnedFd>>> {
    let one = |mount: &Mount| if wanted(mount) { open_source(mount, config) } else { Ok(None) };
    config.mounts.iter().map(one).collect()
}

/// The source of one mount.
pub(super) fn open_source(mount: &Mount, config: &Config) -> Result<Option<OwnedFd>> {
    let tree = match &mount.kind {
        MountKind::Bind { source, recursive, .. } => {
            let fd = rustix::fs::openat(CWD, source, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
            let fd = fd.map_err(|error| match error {
                Errno::NOENT => Error::Invalid(format!("bind source path does not exist: {}", source.display())),
                error => SystemError::new("open bind source", source.display().to_string(), error).into(),
            })?;
            bind_fd(&fd, *recursive, source.display())?
        }
        MountKind::Filesystem { fstype, options } if mount.mapped.is_some() => {
            let flags = MountFlags { read_only: mount.flags.read_only && !mount.copy_up, ..mount.flags };
            filesystem(fstype, options, attributes::bits(flags))?
        }
        _ => return Ok(None),
    };
    if let Some(mapping) = &mount.mapped {
        let namespace = mapping_namespace(mapping, config, mount)?;
        map_ids(&tree, mapping.recursive, &namespace).map_err(|error| {
            let hint = "; its file system may not support idmapped mounts: leave the mapping out";
            match error.errno() {
                libc::EINVAL => Error::Invalid(format!("{}: {error}{hint}", mount.destination.display())),
                _ => error.into(),
            }
        })?;
    }
    Ok(Some(tree))
}

fn mapping_namespace(mapping: &MountMapping, config: &Config, mount: &Mount) -> Result<OwnedFd> {
    let ranges = |given: &[IdMapping]| -> Vec<IdRange> {
        given.iter().map(|range| (range.inside, range.outside, range.count)).collect()
    };
    if !mapping.uids.is_empty() {
        return Ok(user_namespace(&ranges(&mapping.uids), &ranges(&mapping.gids))?);
    }
    match &config.namespaces.user {
        Namespace::New => Ok(user_namespace(&ranges(&config.uid_mappings), &ranges(&config.gid_mappings))?),
        Namespace::Path(path) => {
            Ok(rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                .during("open", path.display())?)
        }
        Namespace::Host => Err(Error::Invalid(format!(
            "{}: idmap without uidMappings and gidMappings needs a user namespace of the container's own",
            mount.destination.display()
        ))),
    }
}
