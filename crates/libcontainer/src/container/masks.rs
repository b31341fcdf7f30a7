//! Paths that the container must not see or not change: covered by nothing, or by themselves read-only.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use gantry_linux::Error as SystemError;
use gantry_linux::mount::{Attributes, bind_fd, filesystem, move_to, set_attributes};
use rustix::fs::OFlags;

use super::streams;
use crate::error::Result;
use crate::paths;
use crate::protection::intact;

/// Covers each path: a directory by an empty read-only one, anything else by the container's own `/dev/null`, read-only.
/// The host's would be its very inode, whose mode and owner a root inside could change for the whole host.
pub fn mask(root: BorrowedFd<'_>, masked: &[String]) -> Result<()> {
    let masked = if intact("masked-paths") { masked } else { &[] };
    let mut empty: Option<OwnedFd> = None;
    let mut null: Option<OwnedFd> = None;
    for path in masked {
        let Some(target) = open_if_there(root, path)? else { continue };
        if !paths::is_directory(&target)? {
            let null = match &null {
                Some(null) => null,
                None => null.insert(streams::open_null(root, OFlags::PATH)?),
            };
            let cover = bind_fd(null, false, "/dev/null")?;
            let bits = Attributes::READ_ONLY | Attributes::NOSUID | Attributes::NOEXEC;
            set_attributes(&cover, false, &Attributes::set(bits))?;
            move_to(&cover, &target, path)?;
            continue;
        }
        // One file system is enough for all of them; the first is used as it is, the others are clones.
        match &empty {
            Some(first) => move_to(bind_fd(first, false, "an empty directory")?, &target, path)?,
            None => {
                let options = [("nr_blocks".to_owned(), Some("1".to_owned()))];
                let bits = Attributes::READ_ONLY | Attributes::NOSUID | Attributes::NODEV | Attributes::NOEXEC;
                let first = filesystem("tmpfs", &options, bits)?;
                move_to(&first, &target, path)?;
                empty = Some(first);
            }
        }
    }
    Ok(())
}

/// Makes each path read-only, with everything mounted below it.
pub fn make_read_only(root: BorrowedFd<'_>, read_only: &[String]) -> Result<()> {
    let read_only = if intact("readonly-paths") { read_only } else { &[] };
    for path in read_only {
        let Some(target) = open_if_there(root, path)? else { continue };
        let tree = bind_fd(target.as_fd(), true, path)?;
        set_attributes(&tree, true, &Attributes::set(Attributes::READ_ONLY))?;
        move_to(&tree, &target, path)?;
    }
    Ok(())
}

fn open_if_there(root: BorrowedFd<'_>, path: &str) -> std::result::Result<Option<OwnedFd>, SystemError> {
    match paths::open(root, Path::new(path), OFlags::PATH) {
        Ok(target) => Ok(Some(target)),
        Err(error) if matches!(error.errno(), libc::ENOENT | libc::ENOTDIR) => Ok(None),
        Err(error) => Err(error),
    }
}
