//! Makes mounts that are attached nowhere, and puts them somewhere.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, FsPickFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_reconfigure, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, fspick, move_mount, open_tree,
};

use super::{Attributes, RootMount, map_ids, overlay, set_attributes, user_namespace};
use crate::{Error, Result, ResultExt};

/// Mounts a root file system, detached: it is visible nowhere, is reached through the descriptor, and goes with the
/// last descriptor unless [`move_to`] puts it somewhere. Its propagation is private.
pub fn attach(root: &RootMount) -> Result<OwnedFd> {
    match root {
        RootMount::Bind { source } => bind(source, true),
        RootMount::Overlay { lower, upper, options } => overlay::attach(lower, upper.as_ref(), options, None),
        RootMount::Aufs { branches, writable } => super::aufs::attach(branches, *writable),
        RootMount::Device(device) => super::device::attach(device),
        RootMount::Mapped { map, .. } => attach_within(root, &user_namespace(&map.uids, &map.gids)?),
    }
}

/// As [`attach`]; the mapping of a mapped root is taken from a user namespace that has it already.
pub fn attach_within(root: &RootMount, namespace: &OwnedFd) -> Result<OwnedFd> {
    let RootMount::Mapped { root, .. } = root else { return attach(root) };
    match &**root {
        RootMount::Overlay { lower, upper, options } => {
            overlay::attach(lower, upper.as_ref(), options, Some(namespace))
        }
        plain => {
            let tree = attach(plain)?;
            map_ids(&tree, false, namespace)?;
            Ok(tree)
        }
    }
}

/// A detached, private clone of the mount at `source` on the host, with `recursive` of the whole tree below it.
pub fn bind(source: &Path, recursive: bool) -> Result<OwnedFd> {
    let tree = open_tree(CWD, source, clone_flags(recursive)).during("bind", source.display())?;
    set_attributes(&tree, true, &Attributes::propagation(libc::MS_PRIVATE))?;
    Ok(tree)
}

/// A detached, private clone of the single mount at `source` on the host, with `MOUNT_ATTR_*` bits set.
pub fn bind_with(source: &Path, attributes: u64) -> Result<OwnedFd> {
    let tree = open_tree(CWD, source, clone_flags(false)).during("bind", source.display())?;
    set_attributes(&tree, false, &Attributes { set: attributes, ..Attributes::propagation(libc::MS_PRIVATE) })?;
    Ok(tree)
}

/// A detached clone of the mount behind an open descriptor, at the directory or file that it names; propagation is
/// the source's.
pub fn bind_fd(source: impl AsFd, recursive: bool, name: impl std::fmt::Display) -> Result<OwnedFd> {
    open_tree(source, c"", clone_flags(recursive) | OpenTreeFlags::AT_EMPTY_PATH).during("bind", name)
}

fn clone_flags(recursive: bool) -> OpenTreeFlags {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive { flags | OpenTreeFlags::AT_RECURSIVE } else { flags }
}

/// A detached new instance of a file system. Options are `fsconfig`'s: a name alone is a flag. `attributes` are
/// `MOUNT_ATTR_*` bits.
pub fn filesystem(fstype: &str, options: &[(String, Option<String>)], attributes: u64) -> Result<OwnedFd> {
    let context = fsopen(fstype, FsOpenFlags::FSOPEN_CLOEXEC).during("open file system", fstype)?;
    set_options(&context, fstype, options)?;
    finish(&context, fstype, attributes)
}

/// Changes options of the file system that is mounted at `mount`'s root, wherever else it is mounted too.
pub fn reconfigure(mount: impl AsFd, options: &[(String, Option<String>)], name: impl std::fmt::Display) -> Result<()> {
    let name = name.to_string();
    let flags = FsPickFlags::FSPICK_CLOEXEC | FsPickFlags::FSPICK_EMPTY_PATH;
    let context = fspick(mount, c"", flags).during("pick file system", &name)?;
    set_options(&context, &name, options)?;
    fsconfig_reconfigure(&context).map_err(|error| refused(&context, "remount", &name, error))
}

pub(super) fn set_options(context: &OwnedFd, fstype: &str, options: &[(String, Option<String>)]) -> Result<()> {
    for (name, value) in options {
        match value {
            Some(value) => fsconfig_set_string(context, name.as_str(), value.as_str()),
            None => fsconfig_set_flag(context, name.as_str()),
        }
        .map_err(|error| refused(context, "set option", &format!("{name} of {fstype}"), error))?;
    }
    Ok(())
}

pub(super) fn finish(context: &OwnedFd, subject: &str, attributes: u64) -> Result<OwnedFd> {
    fsconfig_create(context).map_err(|error| refused(context, "mount", subject, error))?;
    let bits = MountAttrFlags::from_bits_retain(u32::try_from(attributes).unwrap_or(0));
    fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, bits).during("mount", subject)
}

/// The kernel explains in the context's log what the errno leaves open.
pub(super) fn refused(context: &OwnedFd, operation: &'static str, subject: &str, error: Errno) -> Error {
    let mut message = [0u8; 1024];
    let mut subject = subject.to_owned();
    while let Ok(length @ 1..) = rustix::io::read(context, &mut message) {
        let text = String::from_utf8_lossy(&message[..length]);
        subject.push_str(&format!(" ({})", text.trim()));
    }
    Error::new(operation, subject, error)
}

/// Attaches a detached mount on top of the directory or file that `target` is a descriptor of.
pub fn move_to(mount: impl AsFd, target: impl AsFd, name: impl std::fmt::Display) -> Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, c"", target, c"", flags).during("attach mount at", name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_option_is_explained_by_the_kernel() {
        let error = filesystem("tmpfs", &[("sizes".into(), Some("1m".into()))], 0).unwrap_err();
        assert!(error.to_string().contains("sizes"), "{error}");
    }
}
