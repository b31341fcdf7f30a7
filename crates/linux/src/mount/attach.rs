//! Makes mounts that are attached nowhere, and puts them somewhere.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, FsPickFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_reconfigure, fsconfig_set_fd, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, fspick, move_mount,
    open_tree,
};

use super::{Attributes, OverlayUpper, RootMount, set_attributes};
use crate::{Error, Result, ResultExt};

/// Mounts a root file system, detached: it is visible nowhere, is reached through the descriptor, and goes with the
/// last descriptor unless [`move_to`] puts it somewhere. Its propagation is private.
pub fn attach(root: &RootMount) -> Result<OwnedFd> {
    match root {
        RootMount::Bind { source } => bind(source, true),
        RootMount::Overlay { lower, upper, options } => overlay(lower, upper.as_ref(), options),
    }
}

/// A detached, private clone of the mount at `source` on the host, with `recursive` of the whole tree below it.
pub fn bind(source: &Path, recursive: bool) -> Result<OwnedFd> {
    let tree = open_tree(CWD, source, clone_flags(recursive)).during("bind", source.display())?;
    set_attributes(&tree, true, &Attributes::propagation(libc::MS_PRIVATE))?;
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

fn set_options(context: &OwnedFd, fstype: &str, options: &[(String, Option<String>)]) -> Result<()> {
    for (name, value) in options {
        match value {
            Some(value) => fsconfig_set_string(context, name.as_str(), value.as_str()),
            None => fsconfig_set_flag(context, name.as_str()),
        }
        .map_err(|error| refused(context, "set option", &format!("{name} of {fstype}"), error))?;
    }
    Ok(())
}

fn finish(context: &OwnedFd, subject: &str, attributes: u64) -> Result<OwnedFd> {
    fsconfig_create(context).map_err(|error| refused(context, "mount", subject, error))?;
    let bits = MountAttrFlags::from_bits_retain(u32::try_from(attributes).unwrap_or(0));
    fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, bits).during("mount", subject)
}

/// The kernel explains in the context's log what the errno leaves open.
fn refused(context: &OwnedFd, operation: &'static str, subject: &str, error: Errno) -> Error {
    let mut message = [0u8; 1024];
    let mut subject = subject.to_owned();
    while let Ok(length @ 1..) = rustix::io::read(context, &mut message) {
        let text = String::from_utf8_lossy(&message[..length]);
        subject.push_str(&format!(" ({})", text.trim()));
    }
    Error::new(operation, subject, error)
}

fn overlay(
    lower: &[std::path::PathBuf],
    upper: Option<&OverlayUpper>,
    options: &[(String, Option<String>)],
) -> Result<OwnedFd> {
    // An overlay needs two layers; of a single read-only one a read-only bind is the same view.
    if let ([only], None) = (lower, upper) {
        let tree = bind(only, false)?;
        set_attributes(&tree, false, &Attributes::set(Attributes::READ_ONLY))?;
        return Ok(tree);
    }
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).during("open file system", "overlay")?;
    fsconfig_set_string(&context, "source", "overlay").during("set option", "source of overlay")?;
    let mut held = set_lower(&context, lower)?;
    if let Some(OverlayUpper { upper, work }) = upper {
        for (name, directory) in [("upperdir", upper), ("workdir", work)] {
            held.extend(set_directory(&context, name, directory)?);
        }
    }
    set_options(&context, "overlay", options)?;
    let subject = match upper {
        Some(upper) => format!("overlay {}", upper.upper.display()),
        None => format!("overlay of {} layers", lower.len()),
    };
    finish(&context, &subject, 0)
}

/// Names a directory to overlay through `/proc/self/fd`: paths of any length, with any character, fit.
fn set_directory(context: &OwnedFd, option: &str, directory: &Path) -> Result<Option<OwnedFd>> {
    let fd = open_directory(directory)?;
    // Since 6.13 overlay takes the descriptor itself.
    if fsconfig_set_fd(context, option, &fd).is_ok() {
        return Ok(None);
    }
    fsconfig_set_string(context, option, fd_path(&fd))
        .map_err(|error| refused(context, "set option", &format!("{option}={}", directory.display()), error))?;
    Ok(Some(fd))
}

/// Adds the lower layers; returns the descriptors that must stay open until the file system is created.
fn set_lower(context: &OwnedFd, lower: &[std::path::PathBuf]) -> Result<Vec<OwnedFd>> {
    let fds = lower.iter().map(|layer| open_directory(layer)).collect::<Result<Vec<_>>>()?;
    for (index, (fd, path)) in fds.iter().zip(lower).enumerate() {
        if fsconfig_set_fd(context, "lowerdir+", fd).is_ok() {
            continue;
        }
        if index == 0 && checks_options_late()? {
            set_lower_joined(context, &fds)?;
            break;
        }
        match fsconfig_set_string(context, "lowerdir+", fd_path(fd)) {
            Ok(()) => {}
            Err(Errno::INVAL) if index == 0 => {
                set_lower_joined(context, &fds)?;
                break;
            }
            Err(error) => return Err(refused(context, "add layer", &path.display().to_string(), error)),
        }
    }
    Ok(fds)
}

/// Before 6.7 there is only the one string with colons between the layers.
fn set_lower_joined(context: &OwnedFd, layers: &[OwnedFd]) -> Result<()> {
    let joined = layers.iter().map(fd_path).collect::<Vec<_>>().join(":");
    fsconfig_set_string(context, "lowerdir", joined)
        .map_err(|error| refused(context, "set option", "lowerdir of overlay", error))
}

/// Before 6.5 overlay takes every option when it is set and refuses unknown ones when it is mounted: whether it knows
/// an option cannot be seen by setting it.
fn checks_options_late() -> Result<bool> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).during("open file system", "overlay")?;
    Ok(fsconfig_set_string(&context, "no-such-option", "x").is_ok())
}

fn open_directory(path: &Path) -> Result<OwnedFd> {
    rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .during("open layer", path.display())
}

fn fd_path(fd: &OwnedFd) -> String {
    use std::os::fd::AsRawFd;
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// Attaches a detached mount on top of the directory or file that `target` is a descriptor of.
pub fn move_to(mount: impl AsFd, target: impl AsFd, name: impl std::fmt::Display) -> Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, c"", target, c"", flags).during("attach mount at", name)
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests prepare directories plainly")]
mod tests {
    use super::*;

    #[test]
    fn an_overlay_is_seen_through_its_descriptor_and_nowhere_else() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["low", "high", "up", "work"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        std::fs::write(dir.path().join("low/a"), "low").unwrap();
        std::fs::write(dir.path().join("high/a"), "high").unwrap();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let root = attach(&RootMount::Overlay {
            lower: vec![dir.path().join("high"), dir.path().join("low")],
            upper: Some(OverlayUpper { upper: dir.path().join("up"), work: dir.path().join("work") }),
            options: vec![("index".into(), Some("off".into()))],
        })
        .unwrap();
        let root_path = fd_path(&root);
        assert_eq!(std::fs::read_to_string(format!("{root_path}/a")).unwrap(), "high");
        std::fs::write(format!("{root_path}/b"), "new").unwrap();
        assert_eq!(std::fs::read_to_string(dir.path().join("up/b")).unwrap(), "new");
        assert_eq!(std::fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count(), mounts.lines().count());
    }

    #[test]
    fn as_many_layers_as_an_image_may_have_can_be_stacked() {
        let dir = tempfile::tempdir().unwrap();
        let lower: Vec<_> =
            (0..127).map(|number| dir.path().join(format!("layer-{number}, with: a \\ name"))).collect();
        for (number, layer) in lower.iter().enumerate() {
            std::fs::create_dir(layer).unwrap();
            std::fs::write(layer.join(number.to_string()), "").unwrap();
        }
        let root = attach(&RootMount::Overlay { lower, upper: None, options: vec![] }).unwrap();
        assert_eq!(std::fs::read_dir(fd_path(&root)).unwrap().count(), 127);
    }

    #[test]
    fn one_read_only_layer_is_a_read_only_bind() {
        let dir = tempfile::tempdir().unwrap();
        let root =
            attach(&RootMount::Overlay { lower: vec![dir.path().into()], upper: None, options: vec![] }).unwrap();
        let error = std::fs::write(format!("{}/x", fd_path(&root)), "").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EROFS));
    }

    #[test]
    fn a_refused_option_is_explained_by_the_kernel() {
        let error = filesystem("tmpfs", &[("sizes".into(), Some("1m".into()))], 0).unwrap_err();
        assert!(error.to_string().contains("sizes"), "{error}");
    }
}
