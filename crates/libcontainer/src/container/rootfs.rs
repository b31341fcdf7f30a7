//! The container's root: mounted where only its own mount namespace sees it, and made `/` by descriptor.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use gantry_linux::mount::{Attributes, RootMount, attach, move_to, set_attributes};
use gantry_linux::{Error as SystemError, ResultExt};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_change, unmount};

use crate::error::{Error, Result};
use crate::protection::intact;

/// Keeps mount events of this namespace from the host; the host's still arrive, for binds that ask for them.
pub fn separate() -> Result<()> {
    let flags = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    Ok(mount_change("/", flags).during("change propagation of", "/")?)
}

/// Mounts the root on the directory `stage`, in this namespace only.
pub fn mount(root: &RootMount, stage: &Path) -> Result<OwnedFd> {
    let mount = attach(root)?;
    // Opened here: a descriptor from outside is of the host's mounts, on which this namespace can put nothing.
    let stage_fd = rustix::fs::open(stage, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .during("open", stage.display())?;
    move_to(&mount, &stage_fd, stage.display())?;
    Ok(mount)
}

/// Makes the mounted root `/` and lets go of everything that was there before.
pub fn pivot(root: impl AsFd) -> Result<()> {
    let old =
        rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).during("open", "/")?;
    rustix::process::fchdir(&root).during("enter", "the root")?;
    rustix::process::pivot_root(".", ".").during("pivot to", "the root")?;
    rustix::process::fchdir(&old).during("enter", "the old root")?;
    unmount(".", UnmountFlags::DETACH).during("unmount", "the old root")?;
    Ok(rustix::process::chdir("/").during("enter", "/")?)
}

/// Makes `/` itself read-only; what is mounted below stays as it is.
pub fn make_read_only(root: impl AsFd) -> Result<()> {
    Ok(set_attributes(root, false, &Attributes::set(Attributes::READ_ONLY))?)
}

/// Goes to the working directory, which must be inside the root. Nothing of `/proc`'s magic leads there.
pub fn enter_directory(path: &Path) -> Result<()> {
    if !intact("cwd-in-root") {
        return Ok(rustix::process::chdir(path).during("enter", path.display())?);
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = rustix::fs::ResolveFlags::NO_MAGICLINKS;
    let shown = path.display().to_string();
    let directory = rustix::fs::openat2(CWD, path, flags, Mode::empty(), resolve).map_err(|error| match error {
        rustix::io::Errno::LOOP => {
            Error::Invalid(format!("working directory {shown}: a link of /proc or a circle of links; refused"))
        }
        rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR => {
            Error::Invalid(format!("working directory {shown}: no such directory in the container"))
        }
        error => SystemError::new("open working directory", shown.clone(), error).into(),
    })?;
    rustix::process::fchdir(&directory).during("enter", &shown)?;
    let now = rustix::process::getcwd(Vec::new()).during("read", "working directory")?;
    if now.to_bytes().first() != Some(&b'/') {
        return Err(Error::Invalid(format!("working directory {shown}: outside of the container's root; refused")));
    }
    Ok(())
}
