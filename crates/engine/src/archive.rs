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

use crate::container::{Container, Record};
use crate::engine::Engine;
use crate::error::{Error, Result};

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
    let mut add = |source: &Path, destination: &str, rw: bool| -> Result<()> {
        if fs::metadata(source).is_err() {
            return Ok(());
        }
        let tree = mount::bind(source, true)?;
        if !rw {
            mount::set_attributes(&tree, false, &Attributes::set(Attributes::READ_ONLY))?;
        }
        below.push(Below { destination: destination.to_owned(), tree });
        Ok(())
    };
    for point in &points {
        add(Path::new(&point.source), &point.destination, point.rw)?;
    }
    let directory = record.directory(&engine.options.data_root);
    for (file, destination) in crate::files::FILES {
        if !points.iter().any(|point| point.destination == destination) {
            add(&directory.join(file), destination, !record.host_config.readonly_rootfs)?;
        }
    }
    Ok(below)
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
