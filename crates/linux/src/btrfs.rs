//! Subvolumes of btrfs: made, copied and deleted in constant time (`btrfs-subvolume(8)`, `linux/btrfs.h`).
#![allow(unsafe_code, reason = "the kernel's own structure is passed to it")]

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::ioctl::{Opcode, Setter, opcode};

use crate::{Error, Result, ResultExt};

/// `BTRFS_SUPER_MAGIC`, as `statfs(2)` gives it.
const MAGIC: i64 = 0x9123_683e;
/// `BTRFS_PATH_NAME_MAX`.
const NAME_LIMIT: usize = 4087;

const SNAPSHOT: Opcode = opcode::write::<Arguments>(0x94, 1);
const CREATE: Opcode = opcode::write::<Arguments>(0x94, 14);
const DELETE: Opcode = opcode::write::<Arguments>(0x94, 15);

/// `struct btrfs_ioctl_vol_args`.
#[repr(C)]
struct Arguments {
    fd: i64,
    name: [u8; NAME_LIMIT + 1],
}

/// Whether a directory lies on btrfs.
///
/// # Errors
/// When it cannot be looked at.
pub fn is_btrfs(path: &Path) -> Result<bool> {
    let stat = rustix::fs::statfs(path).during("statfs", path.display())?;
    #[allow(clippy::useless_conversion, reason = "its width differs between machines")]
    Ok(i64::from(stat.f_type) == MAGIC)
}

/// Makes an empty subvolume at a path where nothing is.
///
/// # Errors
/// `EEXIST` when something is there.
pub fn create(path: &Path) -> Result<()> {
    order::<CREATE>(path, -1, "make subvolume")
}

/// Makes a writable subvolume that shares everything with `source`, a subvolume of the same file system.
///
/// # Errors
/// `EEXIST` when something is there, `EXDEV` when the source is elsewhere.
pub fn snapshot(source: &Path, path: &Path) -> Result<()> {
    let source = open_directory(source)?;
    order::<SNAPSHOT>(path, i64::from(source.as_raw_fd()), "make snapshot")
}

/// Deletes a subvolume with everything in it; the space comes back in the background. False where the path is none, or
/// other subvolumes are in it.
///
/// # Errors
/// When the kernel refuses for another reason.
pub fn delete(path: &Path) -> Result<bool> {
    match order::<DELETE>(path, 0, "delete subvolume") {
        Ok(()) => Ok(true),
        Err(error) => match Errno::from_raw_os_error(error.errno()) {
            Errno::INVAL | Errno::NOTEMPTY | Errno::NOTDIR | Errno::NOTTY => Ok(false),
            _ => Err(error),
        },
    }
}

fn order<const CODE: Opcode>(path: &Path, fd: i64, what: &'static str) -> Result<()> {
    let refuse = |errno: Errno| Error::new(what, path.display().to_string(), errno);
    let (parent, name) = path.parent().zip(path.file_name()).ok_or_else(|| refuse(Errno::INVAL))?;
    let mut arguments = Arguments { fd, name: [0; NAME_LIMIT + 1] };
    let bytes = name.as_bytes();
    arguments
        .name
        .get_mut(..bytes.len())
        .filter(|_| bytes.len() < 256)
        .ok_or_else(|| refuse(Errno::NAMETOOLONG))?
        .copy_from_slice(bytes);
    let parent = open_directory(parent)?;
    // SAFETY: each of the codes takes a pointer to this structure, which outlives the call; the name ends with a zero.
    let ordered = unsafe { rustix::ioctl::ioctl(parent.as_fd(), Setter::<CODE, Arguments>::new(arguments)) };
    ordered.map_err(refuse)
}

fn open_directory(path: &Path) -> Result<OwnedFd> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .during("open", path.display())
}
