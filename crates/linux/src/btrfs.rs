//! Subvolumes of btrfs: made, copied, limited and deleted in constant time (`btrfs-subvolume(8)`, `btrfs-quota(8)`,
//! `linux/btrfs.h`).
#![allow(unsafe_code, reason = "the kernel's own structure is passed to it")]

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::ioctl::{NoArg, Opcode, Setter, Updater, ioctl, opcode};

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

const NUMBER: Opcode = opcode::read_write::<Lookup>(0x94, 18);
const SWITCH_QUOTA: Opcode = opcode::read_write::<QuotaSwitch>(0x94, 40);
const GROUP: Opcode = opcode::write::<Group>(0x94, 42);
const LIMIT: Opcode = opcode::read::<Limit>(0x94, 43);
const WAIT_FOR_COUNT: Opcode = opcode::none(0x94, 46);
/// How long the first limit on a file system waits until all that is on it is counted.
const COUNTING: std::time::Duration = std::time::Duration::from_secs(60);

/// `struct btrfs_ioctl_ino_lookup_args`.
#[repr(C)]
struct Lookup {
    tree: u64,
    object: u64,
    name: [u8; 4080],
}

/// `struct btrfs_ioctl_quota_ctl_args`.
#[repr(C)]
struct QuotaSwitch {
    command: u64,
    status: u64,
}

/// `struct btrfs_ioctl_qgroup_create_args`.
#[repr(C)]
struct Group {
    create: u64,
    id: u64,
}

/// `struct btrfs_ioctl_qgroup_limit_args`.
#[repr(C)]
struct Limit {
    group: u64,
    flags: u64,
    referenced: u64,
    exclusive: u64,
    reserved: [u64; 2],
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

/// Counts from now on what each subvolume of the file system holds, and waits until what is there was counted; nothing
/// happens where that is so already.
///
/// # Errors
/// When the kernel refuses.
pub fn enable_quota(path: &Path) -> Result<()> {
    let directory = open_directory(path)?;
    let mut switch = QuotaSwitch { command: 1, status: 0 };
    // SAFETY: the code takes a pointer to this structure, which outlives the call.
    let enabled = unsafe { ioctl(&directory, Updater::<SWITCH_QUOTA, QuotaSwitch>::new(&mut switch)) };
    enabled.during("enable quotas on the file system of", path.display())?;
    // The kernel's wait knows no deadline: a thread does it, and nobody waits for the thread.
    let (done, counted) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        // SAFETY: the code takes no argument.
        let waited = unsafe { ioctl(&directory, NoArg::<WAIT_FOR_COUNT>::new()) };
        // Who asked may have gone.
        let _ = done.send(waited);
    });
    let counted = counted.recv_timeout(COUNTING).unwrap_or(Err(Errno::TIMEDOUT));
    counted.during("count what is on (it goes on; try again later) the file system of", path.display())
}

/// Limits what the subvolume at `path` holds that no other holds: of a new snapshot, what is written to it. Writing more
/// fails with `EDQUOT`. The limit goes with the subvolume.
///
/// # Errors
/// When quotas are not enabled ([`enable_quota`]).
pub fn limit(path: &Path, bytes: u64) -> Result<()> {
    const EXCLUSIVE: u64 = 2;
    let subvolume = open_directory(path)?;
    // Group 0 is that of the subvolume itself.
    let limit = Limit { group: 0, flags: EXCLUSIVE, referenced: 0, exclusive: bytes, reserved: [0; 2] };
    // SAFETY: the code takes a pointer to this structure, which outlives the call.
    let limited = unsafe { ioctl(&subvolume, Setter::<LIMIT, Limit>::new(limit)) };
    limited.during("limit the size of subvolume", path.display())
}

/// The number of the subvolume at a path; `None` where something else is.
///
/// # Errors
/// When it cannot be looked at.
pub fn subvolume(path: &Path) -> Result<Option<u64>> {
    /// The inode of the root directory of every subvolume.
    const ROOT: u64 = 256;
    let found = rustix::fs::lstat(path).during("stat", path.display())?;
    if found.st_ino != ROOT || FileType::from_raw_mode(found.st_mode) != FileType::Directory {
        return Ok(None);
    }
    let mut lookup = Lookup { tree: 0, object: ROOT, name: [0; 4080] };
    // SAFETY: the code takes a pointer to this structure, which outlives the call.
    let number = unsafe { ioctl(open_directory(path)?, Updater::<NUMBER, Lookup>::new(&mut lookup)) };
    number.during("read the number of subvolume", path.display())?;
    Ok(Some(lookup.tree))
}

/// Removes the quota group of a subvolume, by its number, on the file system of a directory. False when the kernel wants
/// the subvolume to be gone first, which is some time after its deletion; there being none is no error.
///
/// # Errors
/// When the kernel refuses for another reason.
pub fn remove_group(directory: &Path, number: u64) -> Result<bool> {
    let group = Group { create: 0, id: number };
    // SAFETY: the code takes a pointer to this structure, which outlives the call.
    match unsafe { ioctl(open_directory(directory)?, Setter::<GROUP, Group>::new(group)) } {
        // Also without quotas at all.
        Ok(()) | Err(Errno::NOENT | Errno::NOTCONN) => Ok(true),
        Err(Errno::BUSY) => Ok(false),
        Err(error) => {
            Err(error).during("remove a quota group of", format!("subvolume {number} below {}", directory.display()))
        }
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
    let ordered = unsafe { ioctl(parent.as_fd(), Setter::<CODE, Arguments>::new(arguments)) };
    ordered.map_err(refuse)
}

fn open_directory(path: &Path) -> Result<OwnedFd> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .during("open", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_does_not_fit_is_refused_before_the_kernel_is_asked() {
        let place = tempfile::tempdir().unwrap();
        let refused = |length: usize| {
            let path = place.path().join("n".repeat(length));
            [create(&path), snapshot(place.path(), &path)].map(|made| match made {
                Ok(()) => {
                    // An empty subvolume goes as a directory does.
                    crate::fs::remove_dir(&path).unwrap();
                    None
                }
                Err(error) => Some(Errno::from_raw_os_error(error.errno())),
            })
        };
        assert_eq!(refused(256), [Some(Errno::NAMETOOLONG); 2]);
        // The longest one goes to the kernel: where it has subvolumes it makes one, though none of a directory that is none.
        assert!(!refused(255).contains(&Some(Errno::NAMETOOLONG)));
    }
}
