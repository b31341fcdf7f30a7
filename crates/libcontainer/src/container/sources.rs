//! What is prepared where the host's mounts are seen, by who has privileges over them: clones of binds, and mounts
//! through which files have other owners.

use std::os::fd::OwnedFd;

use gantry_linux::mount::{IdRange, bind_fd, filesystem, map_ids, user_namespace};
use gantry_linux::{Error as SystemError, ResultExt};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
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

/// As [`open_sources`], for a container whose user namespace is there already; what a file system cannot do is left out
/// where the mount says that it may be. Warnings of that come with them.
///
/// # Errors
/// As [`open_sources`].
pub fn open_sources_within(config: &Config, user: Option<&OwnedFd>) -> Result<(Vec<Option<OwnedFd>>, Vec<String>)> {
    let mut warnings = Vec::new();
    let mut sources = Vec::with_capacity(config.mounts.len());
    for mount in &config.mounts {
        let (source, warning) = open_within(mount, config, user)?;
        sources.push(source);
        warnings.extend(warning);
    }
    Ok((sources, warnings))
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
    Ok(open_within(mount, config, None)?.0)
}

/// The source of one mount, and what is not as it was asked for.
fn open_within(mount: &Mount, config: &Config, user: Option<&OwnedFd>) -> Result<(Option<OwnedFd>, Option<String>)> {
    let tree = match &mount.kind {
        MountKind::Bind { source, recursive, .. } => {
            let links = if mount.exact { ResolveFlags::NO_SYMLINKS } else { ResolveFlags::empty() };
            let fd = rustix::fs::openat2(CWD, source, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), links);
            let fd = fd.map_err(|error| match error {
                Errno::NOENT => Error::Invalid(format!("bind source path does not exist: {}", source.display())),
                Errno::LOOP if mount.exact => Error::Invalid(format!(
                    "bind source {}: there is a link on the way, and this container was made where links are judged: \
                     name the directory itself",
                    source.display()
                )),
                error => SystemError::new("open bind source", source.display().to_string(), error).into(),
            })?;
            bind_fd(&fd, *recursive, source.display())?
        }
        MountKind::Filesystem { fstype, options } if mount.mapped.is_some() => {
            let flags = MountFlags { read_only: mount.flags.read_only && !mount.copy_up, ..mount.flags };
            filesystem(fstype, options, attributes::bits(flags))?
        }
        _ => return Ok((None, None)),
    };
    let Some(mapping) = &mount.mapped else { return Ok((Some(tree), None)) };
    let made;
    let namespace = match user.filter(|_| mapping.uids.is_empty()) {
        Some(user) => user,
        None => {
            made = mapping_namespace(mapping, config, mount)?;
            &made
        }
    };
    let mapped = map_ids(&tree, mapping.recursive, namespace);
    let warning = match mapped {
        Ok(()) => None,
        // EPERM: it is a mapped mount already.
        Err(error) if mapping.optional && matches!(error.errno(), libc::EINVAL | libc::EPERM) => {
            Some(left_unmapped(&tree, mount, mapping, namespace))
        }
        Err(error) if error.errno() == libc::EINVAL => {
            let hint = "; its file system may not support idmapped mounts: leave the mapping out";
            return Err(Error::Invalid(format!("{}: {error}{hint}", mount.destination.display())));
        }
        Err(error) => return Err(error.into()),
    };
    Ok((Some(tree), warning))
}

/// Maps at least the mount itself where it is those below it that cannot be; says what is not mapped.
fn left_unmapped(tree: &OwnedFd, mount: &Mount, mapping: &MountMapping, namespace: &OwnedFd) -> String {
    let place = mount.destination.display();
    if mapping.recursive && map_ids(tree, false, namespace).is_ok() {
        return format!(
            "{place}: a file system that is mounted below it cannot be idmapped; what is mounted below shows the host's \
             owners, and only they may write there"
        );
    }
    format!(
        "{place}: its file system cannot be idmapped; it shows the host's owners, and root of the container may write only \
         what everybody may"
    )
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
