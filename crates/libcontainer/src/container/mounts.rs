//! The mounts on top of the root, in their order.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use gantry_linux::mount::{Attributes, filesystem, move_to, set_attributes};
use rustix::fs::{OFlags, ResolveFlags};

use crate::config::{Mount, MountFlags, MountKind, Propagation};
use crate::error::{Error, Result};
use crate::paths::{self, Missing};

/// A directory of the container's own cgroup, to appear below a cgroup mount.
#[derive(Debug)]
pub struct CgroupView {
    /// Names below the mount: the first is a directory, the others are links to it (`cpu,cpuacct`, `cpu`). Empty: the
    /// directory is the whole mount (cgroup v2).
    pub names: Vec<String>,
    /// The directory on the host.
    pub path: PathBuf,
}

/// Mounts all of them below `root`. `sources` has the descriptor of each bind, in the same places.
pub fn mount_all(
    root: BorrowedFd<'_>,
    mounts: &[Mount],
    sources: &[Option<OwnedFd>],
    cgroups: &[CgroupView],
) -> Result<()> {
    for (index, mount) in mounts.iter().enumerate() {
        let source = sources.get(index).and_then(Option::as_ref);
        mount_one(root, mount, source, cgroups)?;
    }
    Ok(())
}

fn mount_one(root: BorrowedFd<'_>, mount: &Mount, source: Option<&OwnedFd>, cgroups: &[CgroupView]) -> Result<()> {
    let destination = &mount.destination;
    match &mount.kind {
        MountKind::Filesystem { fstype, options } => {
            let target = filesystem_target(root, destination, fstype)?;
            let new = filesystem(fstype, options, attribute_bits(mount.flags))?;
            Ok(move_to(&new, &target, destination.display())?)
        }
        MountKind::Bind { source: path, propagation, .. } => {
            let tree = source.ok_or_else(|| Error::Invalid(format!("{}: bind source is not open", path.display())))?;
            configure_bind(tree, mount.flags, *propagation)?;
            let missing = if paths::is_directory(tree)? { Missing::Directory } else { Missing::File };
            let target = paths::open_or_make(root, destination, missing)?;
            if paths::is_directory(&target)? != (missing == Missing::Directory) {
                return Err(mismatch(path, destination, missing));
            }
            Ok(move_to(tree, &target, destination.display())?)
        }
        MountKind::Cgroup => mount_cgroups(root, destination, mount.flags, cgroups),
    }
}

fn mismatch(source: &Path, destination: &Path, source_kind: Missing) -> Error {
    let (source_is, destination_is) = match source_kind {
        Missing::Directory => ("a directory", "a file"),
        Missing::File => ("a file", "a directory"),
    };
    Error::Invalid(format!(
        "cannot mount {} on {}: the source is {source_is} and the destination is {destination_is}; mount a directory \
         on a directory or a file on a file",
        source.display(),
        destination.display()
    ))
}

/// The kernel's own file systems are mounted on ordinary directories only: an image in which `/proc` is a link would have
/// the files that are masked later somewhere else.
fn filesystem_target(root: BorrowedFd<'_>, destination: &Path, fstype: &str) -> Result<OwnedFd> {
    if !matches!(fstype, "proc" | "sysfs") {
        return paths::open_or_make(root, destination, Missing::Directory);
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    match paths::open_with(root, destination, flags, ResolveFlags::NO_SYMLINKS) {
        Ok(target) => Ok(target),
        Err(error) if error.is_not_found() => {
            paths::open_or_make(root, destination, Missing::Directory)?;
            Ok(paths::open_with(root, destination, flags, ResolveFlags::NO_SYMLINKS)?)
        }
        Err(error) if matches!(error.errno(), libc::ELOOP | libc::ENOTDIR) => Err(Error::Invalid(format!(
            "{} in the image is not an ordinary directory; {fstype} is not mounted there",
            destination.display()
        ))),
        Err(error) => Err(error.into()),
    }
}

/// The flags as `MOUNT_ATTR_*` bits.
fn attribute_bits(flags: MountFlags) -> u64 {
    let table = [
        (flags.read_only || flags.recursive_read_only, Attributes::READ_ONLY),
        (flags.nosuid, Attributes::NOSUID),
        (flags.nodev, Attributes::NODEV),
        (flags.noexec, Attributes::NOEXEC),
        (flags.noatime, Attributes::NOATIME),
        (flags.strictatime && !flags.noatime, Attributes::STRICTATIME),
    ];
    table.iter().filter(|(set, _)| *set).fold(0, |bits, (_, bit)| bits | bit)
}

fn configure_bind(tree: &OwnedFd, flags: MountFlags, propagation: Propagation) -> Result<()> {
    let set = attribute_bits(flags);
    let clear = if flags.noatime || flags.strictatime || flags.relatime { Attributes::ATIME_FIELD } else { 0 };
    set_attributes(tree, false, &Attributes { set, clear, ..Attributes::default() })?;
    if flags.recursive_read_only {
        set_attributes(tree, true, &Attributes::set(Attributes::READ_ONLY))?;
    }
    let (kind, recursive) = match propagation {
        Propagation::Private => (libc::MS_PRIVATE, false),
        Propagation::RPrivate => (libc::MS_PRIVATE, true),
        Propagation::Slave => (libc::MS_SLAVE, false),
        Propagation::RSlave => (libc::MS_SLAVE, true),
        Propagation::Shared => (libc::MS_SHARED, false),
        Propagation::RShared => (libc::MS_SHARED, true),
    };
    Ok(set_attributes(tree, recursive, &Attributes::propagation(kind))?)
}

fn mount_cgroups(root: BorrowedFd<'_>, destination: &Path, flags: MountFlags, views: &[CgroupView]) -> Result<()> {
    let bits = attribute_bits(flags) | Attributes::NOSUID | Attributes::NODEV | Attributes::NOEXEC;
    let target = paths::open_or_make(root, destination, Missing::Directory)?;
    if let [CgroupView { names, path }] = views
        && names.is_empty()
    {
        let tree = own_cgroup(path, bits)?;
        return Ok(move_to(&tree, &target, destination.display())?);
    }
    let options = [("mode".to_owned(), Some("755".to_owned()))];
    let holder = filesystem("tmpfs", &options, bits & !Attributes::READ_ONLY)?;
    move_to(&holder, &target, destination.display())?;
    for view in views {
        let Some((directory, links)) = view.names.split_first() else { continue };
        let place = paths::open_or_make(&holder, Path::new(directory), Missing::Directory)?;
        move_to(own_cgroup(&view.path, bits)?, &place, format_args!("{}/{directory}", destination.display()))?;
        for link in links {
            paths::symlink(&holder, directory, Path::new(link))?;
        }
    }
    Ok(set_attributes(&holder, false, &Attributes::set(bits))?)
}

fn own_cgroup(path: &Path, bits: u64) -> Result<OwnedFd> {
    let tree = gantry_linux::mount::bind(path, false)?;
    set_attributes(tree.as_fd(), false, &Attributes::set(bits))?;
    Ok(tree)
}
