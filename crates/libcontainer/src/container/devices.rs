//! Device nodes, and the links that every program expects beside them.

use std::os::fd::BorrowedFd;
use std::path::Path;

use gantry_linux::{Error as SystemError, ResultExt};
use rustix::fs::{AtFlags, FileType, Gid, Mode, Uid, makedev};
use rustix::io::Errno;

use crate::config::{Device, DeviceKind};
use crate::error::{Error, Result};
use crate::paths;

const LINKS: [(&str, &str); 5] = [
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
    ("pts/ptmx", "/dev/ptmx"),
];

/// Makes the nodes below `root`; one that is there already must be the same device.
pub fn make_all(root: BorrowedFd<'_>, devices: &[Device]) -> Result<()> {
    for device in devices {
        make(root, device)?;
    }
    Ok(())
}

fn make(root: BorrowedFd<'_>, device: &Device) -> Result<()> {
    let (directory, name) = paths::open_parent(root, &device.path)?;
    let shown = || device.path.display();
    let kind = match device.kind {
        DeviceKind::Char => FileType::CharacterDevice,
        DeviceKind::Block => FileType::BlockDevice,
        DeviceKind::All => {
            return Err(Error::Invalid(format!("{}: a device is a character or a block device", shown())));
        }
    };
    let number = makedev(device.major, device.minor);
    let mode = Mode::from_raw_mode(device.mode & 0o7777);
    match rustix::fs::mknodat(&directory, name, kind, mode, number) {
        Ok(()) => {}
        Err(Errno::EXIST) => {
            let stat = rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW).during("stat", shown())?;
            if FileType::from_raw_mode(stat.st_mode) != kind || stat.st_rdev != number {
                let why = "something else is there in the image; device not made";
                return Err(Error::Invalid(format!("{}: {why}", shown())));
            }
        }
        Err(error) => return Err(SystemError::new("make device", shown().to_string(), error).into()),
    }
    // The umask is 0; only the owner may still be another.
    if device.uid != 0 || device.gid != 0 {
        let (uid, gid) = (Uid::from_raw(device.uid), Gid::from_raw(device.gid));
        rustix::fs::chownat(&directory, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .during("chown", shown())?;
    }
    Ok(())
}

/// Makes `/dev/fd`, `/dev/stdin` and so on, where nothing is there already.
pub fn make_links(root: BorrowedFd<'_>) -> Result<()> {
    for (target, link) in LINKS {
        paths::symlink(root, target, Path::new(link))?;
    }
    if Path::new("/proc/kcore").exists() {
        paths::symlink(root, "/proc/kcore", Path::new("/dev/core"))?;
    }
    Ok(())
}
