//! The root of a container that has its caller's mount namespace: mounted on its own directory, where everybody sees it, and
//! taken away at the end with all that was mounted below.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use gantry_linux::mount::{Attributes, RootMount, attach, move_to, set_attributes};
use gantry_linux::{Error as SystemError, ResultExt};
use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags, statx};
use rustix::mount::{UnmountFlags, unmount};

use crate::error::Result;

/// Prepares it, attached nowhere; also returns the number of the mount, to be remembered before it is seen by anybody.
pub fn prepare(root: &RootMount, directory: &Path) -> Result<(OwnedFd, u64)> {
    let tree = attach(root)?;
    let id = number(&tree, directory)?;
    Ok((tree, id))
}

/// Puts it on its directory.
pub fn place(root: &OwnedFd, directory: &Path) -> Result<()> {
    move_to(root, open(directory)?, directory.display())?;
    // Below a mount that passes on what happens on it, it would too.
    Ok(set_attributes(root, true, &Attributes::propagation(libc::MS_PRIVATE))?)
}

/// Unmounts it with everything below; one that is not there any more is none.
pub fn remove(directory: &Path, id: u64) -> Result<()> {
    let top = match open(directory) {
        Err(error) if error.is_not_found() => return Ok(()),
        other => other?,
    };
    if number(&top, directory)? != id {
        return Ok(());
    }
    // By descriptor: the path may have become another's.
    let name = format!("/proc/self/fd/{}", top.as_raw_fd());
    Ok(unmount(&name, UnmountFlags::DETACH).during("unmount", directory.display())?)
}

fn open(directory: &Path) -> std::result::Result<OwnedFd, SystemError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(directory, flags, Mode::empty()).during("open", directory.display())
}

fn number(mount: &OwnedFd, directory: &Path) -> std::result::Result<u64, SystemError> {
    let found = statx(mount, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).during("stat", directory.display())?;
    Ok(found.stx_mnt_id)
}
