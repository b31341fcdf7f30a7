//! Mounts of overlayfs, on every kernel since 5.15: each way of naming the layers was new once.

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsOpenFlags, MountFlags, UnmountFlags, fsconfig_set_fd, fsconfig_set_string, fsopen, mount, unmount,
};

use super::attach::{bind, finish, refused, set_options};
use super::{Attributes, OverlayUpper, in_private_namespace, map_ids, move_to, set_attributes};
use crate::{Result, ResultExt};

/// The kernel takes no longer value of an option by `fsconfig(2)`.
const LONGEST_VALUE: usize = 255;

/// Mounts it, detached; the layers below are shown through the mapping of the user namespace that is given.
pub(super) fn attach(
    lower: &[PathBuf],
    upper: Option<&OverlayUpper>,
    options: &[(String, Option<String>)],
    mapping: Option<&OwnedFd>,
) -> Result<OwnedFd> {
    // An overlay needs two layers; of a single read-only one a read-only bind is the same view.
    if let ([only], None) = (lower, upper) {
        let tree = mapping.map_or_else(|| bind(only, false), |namespace| mapped_layer(only, namespace))?;
        set_attributes(&tree, false, &Attributes::set(Attributes::READ_ONLY))?;
        return Ok(tree);
    }
    let Some(namespace) = mapping else { return attach_in_place(lower, upper, options) };
    let layers = lower.iter().map(|layer| mapped_layer(layer, namespace)).collect::<Result<Vec<_>>>()?;
    match combine(lower, upper, options, layers) {
        Ok(Some(tree)) => Ok(tree),
        Err(error) if error.errno() != libc::EINVAL => Err(error),
        Ok(None) | Err(_) => attach_over_themselves(lower, upper, options, namespace),
    }
}

/// Before 6.15 a layer must be attached somewhere: that is over itself, where nobody else sees it.
fn attach_over_themselves(
    lower: &[PathBuf],
    upper: Option<&OverlayUpper>,
    options: &[(String, Option<String>)],
    namespace: &OwnedFd,
) -> Result<OwnedFd> {
    in_private_namespace(|| {
        for layer in lower {
            move_to(mapped_layer(layer, namespace)?, open_directory(layer)?, layer.display())?;
        }
        attach_in_place(lower, upper, options)
    })
}

/// Of the layers as they are seen at their paths.
fn attach_in_place(
    lower: &[PathBuf],
    upper: Option<&OverlayUpper>,
    options: &[(String, Option<String>)],
) -> Result<OwnedFd> {
    let layers = lower.iter().map(|layer| open_directory(layer)).collect::<Result<Vec<_>>>()?;
    match combine(lower, upper, options, layers)? {
        Some(tree) => Ok(tree),
        None => by_mount_call(lower, upper, options),
    }
}

/// A clone of a layer with other owners.
fn mapped_layer(layer: &Path, namespace: &OwnedFd) -> Result<OwnedFd> {
    let tree = bind(layer, false)?;
    map_ids(&tree, false, namespace)?;
    Ok(tree)
}

fn subject(lower: &[PathBuf], upper: Option<&OverlayUpper>) -> String {
    match upper {
        Some(upper) => format!("overlay {}", upper.upper.display()),
        None => format!("overlay of {} layers", lower.len()),
    }
}

/// Mounts the overlay of `layers`, which are those of the paths `lower`; `None` when they are too many for `fsconfig`.
fn combine(
    lower: &[PathBuf],
    upper: Option<&OverlayUpper>,
    options: &[(String, Option<String>)],
    layers: Vec<OwnedFd>,
) -> Result<Option<OwnedFd>> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).during("open file system", "overlay")?;
    fsconfig_set_string(&context, "source", "overlay").during("set option", "source of overlay")?;
    let Some(mut held) = set_lower(&context, lower, layers)? else { return Ok(None) };
    if let Some(OverlayUpper { upper, work }) = upper {
        for (name, directory) in [("upperdir", upper), ("workdir", work)] {
            held.extend(set_directory(&context, name, directory)?);
        }
    }
    set_options(&context, "overlay", options)?;
    finish(&context, &subject(lower, upper), 0).map(Some)
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

/// Adds the lower layers; returns the descriptors that must stay open until the file system is created, or nothing when
/// the layers cannot be named this way.
fn set_lower(context: &OwnedFd, lower: &[PathBuf], fds: Vec<OwnedFd>) -> Result<Option<Vec<OwnedFd>>> {
    for (index, (fd, path)) in fds.iter().zip(lower).enumerate() {
        if fsconfig_set_fd(context, "lowerdir+", fd).is_ok() {
            continue;
        }
        // Before 6.7 there is only the one string with colons between the layers.
        let joined = index == 0 && checks_options_late()?;
        let added = if joined { Err(Errno::INVAL) } else { fsconfig_set_string(context, "lowerdir+", fd_path(fd)) };
        match added {
            Ok(()) => {}
            Err(Errno::INVAL) if index == 0 => {
                let joined = join(&fds);
                if joined.len() > LONGEST_VALUE {
                    return Ok(None);
                }
                fsconfig_set_string(context, "lowerdir", joined)
                    .map_err(|error| refused(context, "set option", "lowerdir of overlay", error))?;
                break;
            }
            Err(error) => return Err(refused(context, "add layer", &path.display().to_string(), error)),
        }
    }
    Ok(Some(fds))
}

fn join(layers: &[OwnedFd]) -> String {
    layers.iter().map(fd_path).collect::<Vec<_>>().join(":")
}

/// What `mount(2)` takes is longer than `fsconfig` values, but it needs a place: that is in a namespace where nobody
/// sees it, and from which the mount is taken detached. Layers are opened there: overlay takes none of another one.
fn by_mount_call(
    lower: &[PathBuf],
    upper: Option<&OverlayUpper>,
    options: &[(String, Option<String>)],
) -> Result<OwnedFd> {
    let subject = subject(lower, upper);
    // Any directory will do: it is hidden there, and only there, until the mount has been taken.
    let place = lower.first().ok_or(Errno::INVAL).during("mount", &subject)?;
    in_private_namespace(|| {
        let layers = lower.iter().map(|layer| open_directory(layer)).collect::<Result<Vec<_>>>()?;
        let mut data = format!("lowerdir={}", join(&layers));
        let mut held = Vec::new();
        if let Some(OverlayUpper { upper, work }) = upper {
            for (name, directory) in [("upperdir", upper), ("workdir", work)] {
                let fd = open_directory(directory)?;
                data.push_str(&format!(",{name}={}", fd_path(&fd)));
                held.push(fd);
            }
        }
        for (name, value) in options {
            data.push_str(&value.as_ref().map_or_else(|| format!(",{name}"), |value| format!(",{name}={value}")));
        }
        let data = CString::new(data).map_err(std::io::Error::from).during("mount", &subject)?;
        mount("overlay", place, "overlay", MountFlags::empty(), Some(data.as_c_str())).during("mount", &subject)?;
        let tree = bind(place, false);
        unmount(place, UnmountFlags::DETACH).during("unmount", &subject)?;
        tree
    })
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

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests prepare directories plainly")]
mod tests {
    use super::super::{IdMap, RootMount, attach, user_namespace};
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
    fn layers_are_shown_through_the_mapping_and_what_is_written_belongs_to_the_mapped_owner() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        for name in ["low", "high", "up", "work"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        std::fs::write(dir.path().join("low/a"), "low").unwrap();
        std::os::unix::fs::chown(dir.path().join("low/a"), Some(7), Some(8)).unwrap();
        let plain = RootMount::Overlay {
            lower: vec![dir.path().join("high"), dir.path().join("low")],
            upper: Some(OverlayUpper { upper: dir.path().join("up"), work: dir.path().join("work") }),
            options: vec![],
        };
        let map = IdMap { uids: vec![(0, 100_000, 1000)], gids: vec![(0, 200_000, 1000)] };
        let owner = |path: PathBuf| std::fs::symlink_metadata(path).map(|stat| (stat.uid(), stat.gid())).unwrap();
        let root = attach(&RootMount::Mapped { root: Box::new(plain.clone()), map: map.clone() }).unwrap();
        let seen = PathBuf::from(fd_path(&root)).join("a");
        assert_eq!(owner(seen.clone()), (100_007, 200_008));
        // Copied up with the owner that it is shown with.
        std::fs::write(&seen, "changed").unwrap();
        assert_eq!(owner(dir.path().join("up/a")), (100_007, 200_008));
        assert_eq!(owner(dir.path().join("low/a")), (7, 8));
        drop(root);

        // As on kernels on which a layer must be attached.
        let namespace = user_namespace(&map.uids, &map.gids).unwrap();
        std::fs::remove_file(dir.path().join("up/a")).unwrap();
        let RootMount::Overlay { lower, upper, options } = plain else { unreachable!() };
        let root = attach_over_themselves(&lower, upper.as_ref(), &options, &namespace).unwrap();
        assert_eq!(owner(PathBuf::from(fd_path(&root)).join("a")), (100_007, 200_008));
        assert_eq!(owner(dir.path().join("low/a")), (7, 8));
    }

    #[test]
    fn one_read_only_layer_is_a_read_only_bind() {
        let dir = tempfile::tempdir().unwrap();
        let root =
            attach(&RootMount::Overlay { lower: vec![dir.path().into()], upper: None, options: vec![] }).unwrap();
        let error = std::fs::write(format!("{}/x", fd_path(&root)), "").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EROFS));
    }
}
