//! The mounts on top of the root, in their order.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use gantry_linux::mount::{Attributes, bind_fd, bind_with, filesystem, move_to, reconfigure, set_attributes};
use gantry_linux::{Error as SystemError, ResultExt};
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, StatxAttributes, StatxFlags, statx};
use rustix::io::Errno;

use super::sources::open_source;
use super::{attributes, copy_up, procfs};
use crate::config::{Config, Mount, MountFlags, MountKind};
use crate::error::{Error, Result};
use crate::paths::{self, Missing};
use crate::protection::intact;

/// A directory of the container's own cgroup, to appear below a cgroup mount.
#[derive(Debug)]
pub struct CgroupView {
    /// Names below the mount: the first is a directory, the others are links to it (`cpu,cpuacct`, `cpu`). Empty: the
    /// directory is the whole mount (cgroup v2).
    pub names: Vec<String>,
    /// The directory on the host.
    pub path: PathBuf,
}

/// Sources of mounts that were opened before their turn, in the places of the configuration's mounts.
#[derive(Debug, Default)]
pub struct Sources<'a> {
    /// By who made this process.
    pub given: &'a [Option<OwnedFd>],
    /// By this process.
    pub early: &'a [Option<OwnedFd>],
}

/// Mounts all of them below `root`; the sources of binds that are not given are opened in their turn. Returns what is not
/// as it was asked for.
pub fn mount_all(
    root: BorrowedFd<'_>,
    config: &Config,
    sources: &Sources<'_>,
    cgroups: &[CgroupView],
) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    for (index, mount) in config.mounts.iter().enumerate() {
        let [given, early] = [sources.given, sources.early].map(|list| list.get(index).and_then(Option::as_ref));
        let now = match (given, early) {
            (_, Some(tree)) => made_anew(tree, mount)?,
            (None, None) if matches!(mount.kind, MountKind::Bind { .. }) => open_source(mount, config)?,
            _ => None,
        };
        mount_one(root, mount, now.as_ref().or(early).or(given), cgroups, &mut warnings)?;
    }
    Ok(warnings)
}

/// The kernel lists mounts in the order in which they were made, and programs take that for the order in which they lie
/// on each other: a copy of what was made early. `None` where the kernel (before 6.15) does not copy what is attached nowhere.
fn made_anew(tree: &OwnedFd, mount: &Mount) -> Result<Option<OwnedFd>> {
    match bind_fd(tree, true, mount.destination.display()) {
        Err(error) if error.errno() == libc::EINVAL => Ok(None),
        other => Ok(Some(other?)),
    }
}

fn mount_one(
    root: BorrowedFd<'_>,
    mount: &Mount,
    source: Option<&OwnedFd>,
    cgroups: &[CgroupView],
    warnings: &mut Vec<String>,
) -> Result<()> {
    let destination = &mount.destination;
    refuse_root(destination)?;
    match &mount.kind {
        MountKind::Filesystem { fstype, options } => {
            let target = filesystem_target(root, destination, fstype)?;
            let made;
            let (tree, complete) = match source {
                Some(tree) => (tree, false),
                None => {
                    let complete;
                    (made, complete) = new_filesystem(fstype, options, mount, &target, warnings)?;
                    (&made, complete)
                }
            };
            if mount.copy_up {
                copy_up::copy(&target, tree)?;
            }
            if !complete {
                attributes::apply(tree, mount)?;
            }
            move_to(tree, &target, destination.display())?;
            attributes::propagate(tree, &mount.propagation)
        }
        MountKind::Bind { source: path, propagation, .. } => {
            let tree = source.ok_or_else(|| Error::Invalid(format!("{}: bind source is not open", path.display())))?;
            attributes::apply(tree, mount)?;
            attributes::propagate(tree, &[*propagation])?;
            let missing = if paths::is_directory(tree)? { Missing::Directory } else { Missing::File };
            let target = bind_target(root, destination, missing)?;
            if paths::is_directory(&target)? != (missing == Missing::Directory) {
                return Err(mismatch(path, destination, missing));
            }
            move_to(tree, &target, destination.display())?;
            attributes::propagate(tree, &mount.propagation)
        }
        MountKind::Cgroup => {
            let tree = mount_cgroups(root, destination, mount.flags, cgroups)?;
            attributes::propagate(&tree, &mount.propagation)
        }
        MountKind::Remount { options } => remount(root, mount, options),
    }
}

/// What is mounted on the root itself would hide it from everything that comes after.
fn refuse_root(destination: &Path) -> Result<()> {
    if destination.components().any(|part| matches!(part, Component::Normal(_))) {
        return Ok(());
    }
    let text = "a mount on / would hide the root; give that directory as the root instead";
    Err(Error::Invalid(format!("cannot mount on {}: {text}", destination.display())))
}

/// Returns also whether it has all its attributes.
fn new_filesystem(
    fstype: &str,
    options: &[(String, Option<String>)],
    mount: &Mount,
    target: &OwnedFd,
    warnings: &mut Vec<String>,
) -> Result<(OwnedFd, bool)> {
    let mut options = options.to_vec();
    let has = |options: &[(String, Option<String>)], name: &str| options.iter().any(|(given, _)| given == name);
    if fstype == "tmpfs" && !has(&options, "mode") {
        let stat = rustix::fs::fstat(target).during("stat in container", mount.destination.display())?;
        options.push(("mode".to_owned(), Some(format!("{:o}", stat.st_mode & 0o7777))));
    }
    // A device that is read-only is mounted no other way.
    let from_device = options
        .iter()
        .any(|(name, value)| name == "source" && value.as_ref().is_some_and(|value| value.starts_with('/')));
    if from_device && mount.flags.read_only && !has(&options, "ro") {
        options.push(("ro".to_owned(), None));
    }
    // Read-only comes when what is copied up is there.
    let flags = MountFlags { read_only: mount.flags.read_only && !mount.copy_up, ..mount.flags };
    match filesystem(fstype, &options, attributes::bits(flags)) {
        Err(error) if fstype == "sysfs" && error.errno() == libc::EPERM => {
            // Whoever does not own the network namespace gets what whoever made the container sees, and nothing to write.
            warnings.push(format!(
                "{}: the network namespace is not the container's own; the host's /sys is bound read-only instead",
                mount.destination.display()
            ));
            Ok((host_sysfs()?, false))
        }
        other => Ok((other?, !mount.copy_up && attributes::has_nothing_more(mount))),
    }
}

fn host_sysfs() -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let host = rustix::fs::open("/sys", flags, Mode::empty()).during("open", "/sys")?;
    let tree = bind_fd(&host, true, "/sys")?;
    let bits = Attributes::READ_ONLY | Attributes::NOSUID | Attributes::NODEV | Attributes::NOEXEC;
    set_attributes(&tree, false, &Attributes::set(bits))?;
    set_attributes(
        &tree,
        true,
        &Attributes { set: Attributes::READ_ONLY, ..Attributes::propagation(libc::MS_PRIVATE) },
    )?;
    Ok(tree)
}

/// Below a procfs nothing is made, and no link of it is followed: what is there belongs to processes.
fn bind_target(root: BorrowedFd<'_>, destination: &Path, missing: Missing) -> Result<OwnedFd> {
    let target = paths::open_or_make(root, destination, missing)?;
    if intact("mount-outside-of-proc") && procfs::is_procfs(&target)? && !procfs::may_be_covered(destination) {
        return Err(Error::Invalid(format!(
            "cannot mount on {}: it is inside of /proc, where a program would be told what is not so",
            destination.display()
        )));
    }
    Ok(target)
}

fn remount(root: BorrowedFd<'_>, mount: &Mount, options: &[(String, Option<String>)]) -> Result<()> {
    let shown = mount.destination.display();
    let target = paths::open(root, &mount.destination, OFlags::PATH)?;
    let stat = statx(&target, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS).during("stat in container", &shown)?;
    if !stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
        return Err(Error::Invalid(format!("cannot remount {shown}: nothing is mounted there; mount it first")));
    }
    if !options.is_empty() {
        reconfigure(&target, options, &shown)?;
    }
    attributes::apply(&target, mount)?;
    attributes::propagate(&target, &mount.propagation)
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
        return bind_target(root, destination, Missing::Directory);
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    if !intact("proc-on-ordinary-directory") {
        return paths::open_or_make(root, destination, Missing::Directory);
    }
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

fn mount_cgroups(root: BorrowedFd<'_>, destination: &Path, flags: MountFlags, views: &[CgroupView]) -> Result<OwnedFd> {
    let bits =
        attributes::bits(writable_when_broken(flags)) | Attributes::NOSUID | Attributes::NODEV | Attributes::NOEXEC;
    let target = paths::open_or_make(root, destination, Missing::Directory)?;
    if let [CgroupView { names, path }] = views
        && names.is_empty()
    {
        let tree = bind_with(path, bits)?;
        move_to(&tree, &target, destination.display())?;
        return Ok(tree);
    }
    let options = [("mode".to_owned(), Some("755".to_owned()))];
    let holder = filesystem("tmpfs", &options, bits & !Attributes::READ_ONLY)?;
    make_view_places(&holder, views)?;
    move_to(&holder, &target, destination.display())?;
    for view in views {
        let Some((directory, _)) = view.names.split_first() else { continue };
        let place = paths::open(&holder, Path::new(directory), OFlags::PATH | OFlags::DIRECTORY)?;
        move_to(bind_with(&view.path, bits)?, &place, format_args!("{}/{directory}", destination.display()))?;
    }
    set_attributes(&holder, false, &Attributes::set(bits))?;
    Ok(holder)
}

/// While nobody else sees the file system.
fn make_view_places(holder: &OwnedFd, views: &[CgroupView]) -> Result<()> {
    for view in views {
        let Some((directory, links)) = view.names.split_first() else { continue };
        match rustix::fs::mkdirat(holder, directory, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(SystemError::new("make directory for cgroup", directory.clone(), error).into()),
        }
        for link in links {
            match rustix::fs::symlinkat(directory, holder, link) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(SystemError::new("symlink for cgroup", link.clone(), error).into()),
            }
        }
    }
    Ok(())
}

fn writable_when_broken(flags: MountFlags) -> MountFlags {
    MountFlags { read_only: flags.read_only && intact("cgroup-read-only"), ..flags }
}
