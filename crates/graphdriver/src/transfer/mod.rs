//! Files between a container's root and a tar stream, while the container's own processes may be the enemy.
//!
//! The root is a descriptor. Every path is resolved with that root as `/` (`RESOLVE_IN_ROOT`), and whatever was found is
//! then used by its descriptor alone: a name that is renamed or swapped meanwhile leads somewhere else in the same root,
//! never out of it. No program, library or decompressor of the container or of the host runs.
//!
//! File systems that are the kernel's own (`/proc`, `/sys`, cgroups …) count as empty directories.

mod pack;
mod path;
mod stat;
mod unpack;

#[cfg(test)]
mod tests;

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use gantry_linux::ResultExt;
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;

pub use pack::{pack, pack_root};
pub use path::{base, normal};
pub use stat::{PathStat, stat};
pub use unpack::{Options, unpack};

use crate::tree::{open_inside, show};

/// Why a transfer failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing is there.
    #[error("{0}: no such file or directory")]
    NotFound(String),
    /// What should be a directory, or lead through directories, does not.
    #[error("{0}: not a directory")]
    NotDirectory(String),
    /// The path cannot be followed: links in a loop, or too long.
    #[error("{0}")]
    Unreachable(String),
    /// A directory is in the way of something else, or the other way round.
    #[error("{0}")]
    InTheWay(String),
    /// The archive is refused.
    #[error("refused archive: {0}")]
    Archive(String),
    /// It is mounted read-only.
    #[error("{0}: read-only file system")]
    ReadOnly(String),
    /// The kernel refused, or the peer of the stream is gone.
    #[error(transparent)]
    System(gantry_linux::Error),
}

impl From<gantry_linux::Error> for Error {
    fn from(error: gantry_linux::Error) -> Self {
        if error.errno() == Errno::ROFS.raw_os_error() { Self::ReadOnly(error.subject) } else { Self::System(error) }
    }
}

impl From<crate::Error> for Error {
    fn from(error: crate::Error) -> Self {
        match error {
            crate::Error::Archive(why) => Self::Archive(why),
            crate::Error::System(error) => error.into(),
            other => Self::Archive(other.to_string()),
        }
    }
}

/// Opens what a path leads to inside the root.
fn open(root: impl AsFd, path: &[u8], flags: OFlags) -> Result<OwnedFd, Error> {
    open_inside(root, relative(path), flags).map_err(|error| unreachable(path, error))
}

/// Without leading slashes: the kernel takes the root for them, but an empty path needs its dot.
fn relative(path: &[u8]) -> &[u8] {
    let start = path.iter().position(|byte| *byte != b'/').unwrap_or(path.len());
    crate::tree::at(&path[start..])
}

fn unreachable(path: &[u8], error: Errno) -> Error {
    let shown = show(path).to_string();
    match error {
        Errno::NOENT => Error::NotFound(shown),
        Errno::NOTDIR => Error::NotDirectory(shown),
        Errno::LOOP => Error::Unreachable(format!("{shown}: too many levels of symbolic links")),
        Errno::NAMETOOLONG => Error::Unreachable(format!("{shown}: file name too long")),
        Errno::XDEV => Error::Unreachable(format!("{shown}: it leads out of the container")),
        error => gantry_linux::Error::new("open", shown, error).into(),
    }
}

/// The path of an open descriptor, for calls that take no descriptor; it leads to exactly what is open.
fn proc_path(fd: impl AsFd) -> String {
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())
}

/// Opens what an `O_PATH` descriptor is of: the same file, whatever its name has become.
fn reopen(fd: impl AsFd, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    openat(CWD, proc_path(fd), flags | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())
}

/// Whether a descriptor is of a file system that the kernel makes up: nothing in it is a file to keep, and reading or
/// writing it with the daemon's rights would do what the container may not.
fn is_kernels(fd: impl AsFd) -> Result<bool, Error> {
    const MAGICS: [u64; 17] = [
        0x9fa0,
        0x6265_6572,
        0x27_e0eb,
        0x6367_7270,
        0x1cd1,
        0x1980_0202,
        0x6462_6720,
        0x7472_6163,
        0x7363_6673,
        0xcafe_4a11,
        0x6e73_6673,
        0xde5e_81e4,
        0x6265_6570,
        0xf97c_ff8c,
        0x6165_676c,
        0x6573_5543,
        0x4249_4e4d,
    ];
    let statfs = rustix::fs::fstatfs(fd).during("look at", "a file system")?;
    // Signed on some architectures.
    #[allow(clippy::cast_sign_loss, clippy::cast_possible_truncation, reason = "a bit pattern of 32 bits")]
    let magic = u64::from(statfs.f_type as u32);
    Ok(MAGICS.contains(&magic))
}

/// Copies the directory at `path` with everything in it, the directory's own metadata included, into the empty directory
/// `to`. For roots at rest: nobody else may write to either.
///
/// # Errors
/// [`Error::NotFound`] and [`Error::NotDirectory`] when there is no such directory.
pub fn copy_tree(root: BorrowedFd<'_>, path: &[u8], to: &OwnedFd) -> Result<(), Error> {
    let from = open(root, path, OFlags::RDONLY | OFlags::DIRECTORY)?;
    Ok(crate::copy::copy_tree_at(&from, to)?)
}
