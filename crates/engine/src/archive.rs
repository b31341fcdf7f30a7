//! A container's root as files: for copying in and out, for export, and for filling a new volume from the image.
//!
//! While a container runs its root is a clone of its own mount tree, with everything that is mounted in it. Otherwise
//! it is a private mount of its layer with its volumes and binds below, for as long as the descriptor lives; the
//! caller holds the container's `operation` lock for that long, because a layer must never be mounted twice.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use gantry_api::inspect::MountPoint;
use gantry_execdriver::Running;
use gantry_graph::Image;
use gantry_graphdriver::transfer;
use gantry_linux::mount::{self, Attributes};
use gantry_linux::{ResultExt, fs};
use libcontainer::paths::{self, Missing};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::container::{Container, Record};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::spec::users::owners_of;

/// Fills an empty volume with what the image has at `destination`: content, owner, mode. Nothing happens when the
/// volume has content or the image has no directory there.
///
/// # Errors
/// When the image cannot be mounted or copied; the volume is then as empty as before.
pub fn copy_up(engine: &Engine, image: &Image, destination: &str, volume: &Path) -> Result<()> {
    // One at a time: two containers may be made with the same new volume.
    static COPYING: Mutex<()> = Mutex::new(());
    let _copying = COPYING.lock().unwrap_or_else(PoisonError::into_inner);
    if !fs::list(volume)?.is_empty() {
        return Ok(());
    }
    let context =
        |error: Error| error.context(format!("copy {destination} of the image into volume {}", volume.display()));
    let root = engine.graph.image_root(&image.id)?;
    let root = mount::attach(&root).map_err(|error| context(error.into()))?;
    fill(root, destination, volume).map_err(context)
}

fn fill(root: OwnedFd, destination: &str, volume: &Path) -> Result<()> {
    // Copied beside the volume and moved in: a daemon that dies half-way leaves no half-filled volume.
    let staged = volume.with_file_name("_filling");
    fs::remove_dir_all(&staged)?;
    fs::create_dir(&staged)?;
    let filled = (|| {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let to = rustix::fs::open(&staged, flags, Mode::empty()).during("open", staged.display())?;
        match transfer::copy_tree(root.as_fd(), destination.as_bytes(), &to) {
            Ok(()) => {}
            Err(transfer::Error::NotFound(_) | transfer::Error::NotDirectory(_)) => return Ok(()),
            Err(error) => return Err(translate(error)),
        }
        for name in fs::list(&staged)? {
            fs::rename(staged.join(&name), volume.join(&name))?;
        }
        take_over(&staged, volume)
    })();
    let removed = fs::remove_dir_all(&staged);
    filled?;
    Ok(removed?)
}

/// Gives the volume the owner, the mode and the time of the directory that was copied.
fn take_over(from: &Path, volume: &Path) -> Result<()> {
    let stat = rustix::fs::stat(from).during("stat", from.display())?;
    let (uid, gid) = (rustix::fs::Uid::from_raw(stat.st_uid), rustix::fs::Gid::from_raw(stat.st_gid));
    rustix::fs::chown(volume, Some(uid), Some(gid)).during("chown", volume.display())?;
    Ok(fs::set_mode(volume, stat.st_mode & 0o7777)?)
}

/// The container's root, with everything that its processes see or would see in it. Blocks. `running` is the container
/// while it runs; without it the caller has the lock.
///
/// # Errors
/// When its supervisor or the kernel refuses.
pub fn root_of(engine: &Engine, container: &Container, running: Option<&dyn Running>) -> Result<OwnedFd> {
    if let Some(running) = running {
        return Ok(running.root()?);
    }
    let record = container.record();
    let root = mount::attach(&engine.graph.container_root(&record.id, false)?)?;
    let below = mounts_below(engine, &record)?;
    let tree = if below.is_empty() { root } else { mount::assemble(root, |root| attach_all(root, below))? };
    if record.host_config.readonly_rootfs {
        mount::set_attributes(&tree, false, &Attributes::set(Attributes::READ_ONLY))?;
    }
    Ok(tree)
}

/// The root's own files, without what is mounted over them.
///
/// # Errors
/// As [`root_of`].
pub fn bare_root_of(engine: &Engine, container: &Container, running: Option<&dyn Running>) -> Result<OwnedFd> {
    match running {
        Some(running) => Ok(mount::without_submounts(running.root()?)?),
        None => Ok(mount::attach(&engine.graph.container_root(container.id(), false)?)?),
    }
}

/// A mount that waits for its place.
struct Below {
    destination: String,
    tree: OwnedFd,
}

/// Volumes, binds and the files that the daemon wrote for the container; a `tmpfs` of a container that does not run is
/// empty by nature. Outer ones come first. A source that is gone is left out: whoever copies something else need not care.
fn mounts_below(engine: &Engine, record: &Record) -> Result<Vec<Below>> {
    let mut points: Vec<&MountPoint> = record.mounts.iter().filter(|point| point.kind != "tmpfs").collect();
    points.sort_by_key(|point| point.destination.split('/').count());
    let mut below = Vec::new();
    let users = record.users.as_ref().map(|map| mount::user_namespace(&map.uids, &map.gids)).transpose()?;
    let mut add = |source: &Path, destination: &str, rw: bool| -> Result<()> {
        if fs::metadata(source).is_err() {
            return Ok(());
        }
        let tree = mount::bind(source, true)?;
        if let Some(users) = &users {
            map_owners(record, destination, &tree, users)?;
        }
        if !rw {
            mount::set_attributes(&tree, false, &Attributes::set(Attributes::READ_ONLY))?;
        }
        below.push(Below { destination: destination.to_owned(), tree });
        Ok(())
    };
    for point in &points {
        add(Path::new(&point.source), &point.destination, point.rw)?;
    }
    let directory = crate::files::directory(engine, record);
    for (file, destination) in crate::files::FILES {
        if !points.iter().any(|point| point.destination == destination) {
            add(&directory.join(file), destination, !record.host_config.readonly_rootfs)?;
        }
    }
    Ok(below)
}

/// As the container sees it; what cannot be idmapped stays as it is there too.
fn map_owners(record: &Record, destination: &str, tree: &OwnedFd, users: &OwnedFd) -> Result<()> {
    let own = owners_of(record, destination).map(|map| mount::user_namespace(&map.uids, &map.gids)).transpose()?;
    let users = own.as_ref().unwrap_or(users);
    match mount::map_ids(tree, true, users).or_else(|_| mount::map_ids(tree, false, users)) {
        Err(error) if [Errno::INVAL, Errno::PERM].iter().any(|errno| errno.raw_os_error() == error.errno()) => Ok(()),
        other => Ok(other?),
    }
}

fn attach_all(root: &OwnedFd, below: Vec<Below>) -> Result<()> {
    for Below { destination, tree } in below {
        let stat = rustix::fs::fstat(&tree).during("stat", &destination)?;
        let directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let missing = if directory { Missing::Directory } else { Missing::File };
        let target = paths::open_or_make(root, Path::new(&destination), missing)
            .map_err(|error| Error::system(format!("make the mount point {destination}: {error}")))?;
        mount::move_to(&tree, &target, &destination)?;
    }
    Ok(())
}

/// The engine's words for what went wrong.
pub fn translate(error: transfer::Error) -> Error {
    use transfer::Error as E;
    let message = error.to_string();
    match error {
        E::NotFound(_) => Error::not_found(message),
        E::NotDirectory(_) | E::Unreachable(_) | E::InTheWay(_) | E::Archive(_) => Error::invalid(message),
        E::ReadOnly(_) => Error::forbidden(message),
        E::System(_) => Error::system(message),
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests prepare files plainly")]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    #[test]
    fn a_volume_gets_what_the_image_has_and_its_owner_and_mode() {
        let dir = tempfile::tempdir().unwrap();
        let (image, volume) = (dir.path().join("image"), dir.path().join("name/_data"));
        for path in [image.join("data/sub"), volume.clone(), dir.path().join("name/_filling/left by a crash")] {
            std::fs::create_dir_all(path).unwrap();
        }
        std::fs::write(image.join("data/sub/f"), "x").unwrap();
        std::os::unix::fs::chown(image.join("data"), Some(33), Some(34)).unwrap();
        std::fs::set_permissions(image.join("data"), std::fs::Permissions::from_mode(0o2770)).unwrap();
        std::os::unix::fs::symlink(dir.path(), image.join("out")).unwrap();

        for (destination, filled) in [("/none", 0), ("/data/sub/f", 0), ("/out/name", 0), ("/data", 1)] {
            fill(mount::bind(&image, false).unwrap(), destination, &volume).unwrap();
            assert_eq!(fs::list(&volume).unwrap().len(), filled, "{destination}");
            assert_eq!(fs::list(volume.parent().unwrap()).unwrap(), ["_data"]);
        }
        assert_eq!(std::fs::read_to_string(volume.join("sub/f")).unwrap(), "x");
        let metadata = fs::metadata(&volume).unwrap();
        assert_eq!((metadata.uid(), metadata.gid(), metadata.mode() & 0o7777), (33, 34, 0o2770));
    }

    #[test]
    fn mounts_are_attached_below_a_root_that_runs_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["root", "volume/inner", "nested"] {
            std::fs::create_dir_all(dir.path().join(path)).unwrap();
        }
        for file in ["volume/f", "nested/g", "hosts"] {
            std::fs::write(dir.path().join(file), file).unwrap();
        }
        std::os::unix::fs::symlink(dir.path(), dir.path().join("root/etc")).unwrap();
        let bind = |path: &str| mount::bind(&dir.path().join(path), false).unwrap();
        let below = [("/data", "volume"), ("/data/inner", "nested"), ("/etc/hosts", "hosts")]
            .map(|(destination, source)| Below { destination: destination.into(), tree: bind(source) });
        let tree = mount::assemble(bind("root"), |root| attach_all(root, below.into())).unwrap();
        let read = |path: &str| {
            let mut packed = Vec::new();
            transfer::pack(tree.as_fd(), path.as_bytes(), b"x", &mut packed, None).unwrap();
            String::from_utf8_lossy(&packed[512..]).trim_matches('\0').to_owned()
        };
        assert_eq!(read("/data/f"), "volume/f");
        assert_eq!(read("/data/inner/g"), "nested/g");
        // A link of the image that leads to the host leads into the image.
        assert_eq!(read("/etc/hosts"), "hosts");
        assert_eq!(fs::list(dir.path()).unwrap().len(), 4);
    }
}
