//! Device nodes, and the links that every program expects beside them.

use std::ffi::OsStr;
use std::os::fd::BorrowedFd;
use std::path::Path;

use gantry_linux::mount::{bind_fd, move_to};
use gantry_linux::{Error as SystemError, ResultExt};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid, makedev};
use rustix::io::Errno;

use crate::config::{Device, DeviceKind};
use crate::error::{Error, Result};
use crate::paths::Parents;

const LINKS: [(&str, &str); 5] = [
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
    ("pts/ptmx", "/dev/ptmx"),
];

/// Makes the nodes below `root`; one that is there already must be the same device.
pub fn make_all(root: BorrowedFd<'_>, devices: &[Device]) -> Result<()> {
    // `/dev/ptmx` is the link to the container's own pseudo-terminals, whatever a configuration copied from its host.
    let mut parents = Parents::new(root);
    for device in devices.iter().filter(|device| device.path != Path::new("/dev/ptmx")) {
        make(&mut parents, device)?;
    }
    Ok(())
}

fn make(parents: &mut Parents<'_>, device: &Device) -> Result<()> {
    let (directory, name) = parents.open(&device.path)?;
    let shown = || device.path.display();
    let kind = match device.kind {
        DeviceKind::Char => FileType::CharacterDevice,
        DeviceKind::Block => FileType::BlockDevice,
        DeviceKind::Fifo => FileType::Fifo,
        DeviceKind::All => {
            let text = "a device is a character or a block device or a named pipe";
            return Err(Error::Invalid(format!("{}: {text}", shown())));
        }
    };
    let number = if kind == FileType::Fifo { 0 } else { makedev(device.major, device.minor) };
    let mode = Mode::from_raw_mode(device.mode & 0o7777);
    match rustix::fs::mknodat(directory, name, kind, mode, number) {
        Ok(()) => {}
        Err(Errno::EXIST) => {
            let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).during("stat", shown())?;
            if FileType::from_raw_mode(stat.st_mode) != kind || stat.st_rdev != number {
                let why = "something else is there in the image; device not made";
                return Err(Error::Invalid(format!("{}: {why}", shown())));
            }
        }
        // In a user namespace nobody makes devices: the host's own node appears, with the host's owner and mode.
        Err(Errno::PERM) if kind != FileType::Fifo => return bind_host_node(directory, name, device, kind, number),
        Err(error) => return Err(SystemError::new("make device", shown().to_string(), error).into()),
    }
    // The umask is 0; only the owner may still be another.
    if device.uid != 0 || device.gid != 0 {
        let (uid, gid) = (Uid::from_raw(device.uid), Gid::from_raw(device.gid));
        rustix::fs::chownat(directory, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .during("chown", shown())?;
    }
    Ok(())
}

/// `/` is still the host's: the node of the same path there, which must be the device that is meant.
fn bind_host_node(directory: BorrowedFd<'_>, name: &OsStr, device: &Device, kind: FileType, number: u64) -> Result<()> {
    let shown = || device.path.display();
    let host = rustix::fs::open(&device.path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
        .during("open the host's device", shown())?;
    let stat = rustix::fs::fstat(&host).during("stat the host's device", shown())?;
    if FileType::from_raw_mode(stat.st_mode) != kind || stat.st_rdev != number {
        let why = "a user namespace cannot make devices, and what the host has at this path is another one";
        return Err(Error::Invalid(format!("{}: {why}", shown())));
    }
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::EXCL;
    match rustix::fs::openat(directory, name, flags, Mode::from_raw_mode(0o644)) {
        Ok(_) | Err(Errno::EXIST) => {}
        Err(error) => return Err(SystemError::new("make", shown().to_string(), error).into()),
    }
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let target = rustix::fs::openat(directory, name, flags, Mode::empty()).during("open in container", shown())?;
    Ok(move_to(bind_fd(&host, false, shown())?, &target, shown())?)
}

/// Makes `/dev/fd`, `/dev/stdin` and so on, where nothing is there already.
pub fn make_links(root: BorrowedFd<'_>) -> Result<()> {
    let mut parents = Parents::new(root);
    for (target, link) in LINKS {
        parents.symlink(target, Path::new(link))?;
    }
    if Path::new("/proc/kcore").exists() {
        parents.symlink("/proc/kcore", Path::new("/dev/core"))?;
    }
    Ok(())
}
