//! Completing a draft when the layers below are there: hard links into them, and the metadata of implied directories.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use gantry_linux::ResultExt;
use rustix::fs::{AtFlags, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::name::{refuse, split};
use super::spool::{Later, replay};
use crate::Error;
use crate::copy::copy_entry;
use crate::tree::{self, look_through, open_inside, show};

/// Completes `draft/diff` on top of the layers `lower` (uppermost first).
pub(crate) fn finish(draft: &Path, lower: &[PathBuf]) -> Result<(), Error> {
    let root = tree::open_root(&draft.join("diff"))?;
    let lower = lower.iter().map(|path| tree::open_root(path)).collect::<Result<Vec<_>, _>>()?;
    let spool = draft.join("later");
    let mut made = Vec::new();
    replay(&spool, |later| match later {
        Later::Link { path, target } => link_below(&root, &lower, &path, &target, &mut made),
        _ => Ok(()),
    })?;
    let implied = |path: &[u8]| inherit(&root, &lower, path);
    implied(b"")?;
    replay(&spool, |later| match later {
        Later::Implied { path } => implied(&path),
        _ => Ok(()),
    })?;
    made.iter().rev().try_for_each(|path| implied(path))
}

/// Gives an implied directory what the directory has below; one that is only here keeps the defaults.
fn inherit(root: &OwnedFd, lower: &[OwnedFd], path: &[u8]) -> Result<(), Error> {
    let dir = match open_inside(root, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW) {
        Ok(dir) => dir,
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
        Err(error) => return Err(error).during("open", show(path)).map_err(Error::from),
    };
    if !tree::is_implied(&dir) {
        return Ok(());
    }
    tree::clear_implied(&dir)?;
    match look_through(lower, path)? {
        Some((below, stat)) if tree::is_dir(&stat) => {
            Ok(tree::copy_metadata((below.as_fd(), b""), &stat, (dir.as_fd(), b""))?)
        }
        _ => Ok(()),
    }
}

/// A hard link to a file below: the file is copied up under its own name, as the kernel would, then linked.
fn link_below(
    root: &OwnedFd,
    lower: &[OwnedFd],
    path: &[u8],
    target: &[u8],
    made: &mut Vec<Vec<u8>>,
) -> Result<(), Error> {
    let (directory, name) = split(path);
    let Ok(parent) = open_inside(root, directory, OFlags::PATH | OFlags::DIRECTORY) else {
        return Ok(());
    };
    if tree::stat(&parent, name).is_ok() {
        return Ok(());
    }
    let (target_directory, target_name) = split(target);
    let source = open_copied_parent(root, target_directory, made)?;
    match tree::stat(&source, target_name) {
        Ok(stat) if tree::is_dir(&stat) || tree::is_whiteout(&stat) => {
            return Err(refuse(path, "a hard link to what cannot have one"));
        }
        Ok(_) => {}
        Err(_) => copy_up(lower, target, &source, target_name).map_err(|error| match error {
            Error::NotFound(_) => refuse(path, &format!("a hard link to {}, which is not there", show(target))),
            other => other,
        })?,
    }
    Ok(rustix::fs::linkat(&source, target_name, &parent, name, AtFlags::empty()).during("link", show(path))?)
}

/// The directory, made where only the layers below have it.
fn open_copied_parent(root: &OwnedFd, path: &[u8], made: &mut Vec<Vec<u8>>) -> Result<OwnedFd, Error> {
    let mut above = open_inside(root, b"", OFlags::PATH | OFlags::DIRECTORY).during("open", "layer")?;
    let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(index, _)| index);
    for end in ends.chain((!path.is_empty()).then_some(path.len())) {
        let prefix = &path[..end];
        let name = split(prefix).1;
        match rustix::fs::mkdirat(&above, name, Mode::from_raw_mode(0o755)) {
            Ok(()) => {
                above = tree::open_dir(&above, name).during("open", show(prefix))?;
                tree::set_implied(&above)?;
                made.push(prefix.to_vec());
            }
            Err(Errno::EXIST) => {
                above = tree::open_dir(&above, name)
                    .map_err(|_| refuse(path, "a hard link through what is no directory"))?;
            }
            Err(error) => return Err(error).during("make directory", show(prefix)).map_err(Error::from),
        }
    }
    Ok(above)
}

fn copy_up(lower: &[OwnedFd], path: &[u8], to: &OwnedFd, name: &[u8]) -> Result<(), Error> {
    let (directory, base) = split(path);
    let missing = || Error::NotFound(show(path).to_string());
    let (_, stat): (_, Stat) =
        look_through(lower, path)?.filter(|(_, stat)| !tree::is_dir(stat)).ok_or_else(missing)?;
    // The entry is in the first layer that has it under a directory that is not hidden.
    for layer in lower {
        let Ok(parent) = open_inside(layer, directory, OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW) else {
            continue;
        };
        if tree::stat(&parent, base).is_ok_and(|own| (own.st_dev, own.st_ino) == (stat.st_dev, stat.st_ino)) {
            return Ok(copy_entry((parent.as_fd(), base), &stat, (to.as_fd(), name))?);
        }
    }
    Err(missing())
}
