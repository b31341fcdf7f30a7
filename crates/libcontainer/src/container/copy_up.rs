//! `tmpcopyup`: a new tmpfs begins with what was in the directory that it covers.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use gantry_linux::{Error as SystemError, ResultExt};
use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use crate::error::{Error, Result};

/// Deeper is refused: nothing that is worth it is that deep, and each level holds two descriptors.
const DEEPEST: usize = 200;

/// Copies everything below `from` (a directory of the container, not followed out of its file system tree by any link) into
/// the root of the detached mount `to`.
pub fn copy(from: &OwnedFd, to: &OwnedFd) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let from = rustix::fs::openat(from, ".", flags, Mode::empty()).during("open", "a directory to copy up")?;
    let to = rustix::fs::openat(to, ".", flags, Mode::empty()).during("open", "a new tmpfs")?;
    directory(&from, &to, 0)
}

fn directory(from: &OwnedFd, to: &OwnedFd, depth: usize) -> Result<()> {
    if depth > DEEPEST {
        return Err(Error::Invalid(format!("tmpcopyup: directories are nested more than {DEEPEST} deep; refused")));
    }
    for entry in Dir::read_from(from).during("read", "a directory to copy up")? {
        let entry = entry.during("read", "a directory to copy up")?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        one(from.as_fd(), to.as_fd(), name, depth)?;
    }
    let stat = rustix::fs::fstat(from).during("stat", "a directory to copy up")?;
    finish(from, to, &stat)
}

fn one(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr, depth: usize) -> Result<()> {
    let shown = name.to_string_lossy();
    let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW).during("stat", &shown)?;
    let safe = OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | safe;
            let from = rustix::fs::openat(from, name, flags, Mode::empty()).during("open", &shown)?;
            rustix::fs::mkdirat(to, name, Mode::RWXU).during("make", &shown)?;
            let to = rustix::fs::openat(to, name, flags, Mode::empty()).during("open", &shown)?;
            directory(&from, &to, depth + 1)
        }
        FileType::RegularFile => {
            let from = rustix::fs::openat(from, name, OFlags::RDONLY | safe, Mode::empty()).during("open", &shown)?;
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            let to = rustix::fs::openat(to, name, flags, Mode::RUSR | Mode::WUSR).during("make", &shown)?;
            let (mut from, mut to) = (std::fs::File::from(from), std::fs::File::from(to));
            std::io::copy(&mut from, &mut to).during("write", &shown)?;
            finish(&from, &to, &stat)
        }
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(from, name, Vec::new()).during("read link", &shown)?;
            rustix::fs::symlinkat(&*target, to, name).during("link", &shown)?;
            owner_of_name(to, name, &stat)
        }
        // Whoever has it open is the one that listens.
        FileType::Socket => Ok(()),
        kind => {
            match rustix::fs::mknodat(to, name, kind, Mode::from_raw_mode(stat.st_mode & 0o7777), stat.st_rdev) {
                // In a user namespace there is no making a device.
                Err(Errno::PERM) => return Ok(()),
                other => other.during("make", &shown)?,
            }
            owner_of_name(to, name, &stat)
        }
    }
}

fn owner_of_name(directory: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> Result<()> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    rustix::fs::chownat(directory, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
        .during("change owner of", name.to_string_lossy())?;
    Ok(())
}

/// Owner, extended attributes, mode and time, in this order: a change of owner takes some of the others away.
fn finish(from: impl AsFd, to: impl AsFd, stat: &Stat) -> Result<()> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    rustix::fs::fchown(&to, Some(uid), Some(gid)).during("change owner of", "a copy")?;
    extended_attributes(from.as_fd(), to.as_fd())?;
    rustix::fs::fchmod(&to, Mode::from_raw_mode(stat.st_mode & 0o7777)).during("change mode of", "a copy")?;
    let time = |seconds: i64, nanoseconds: u64| Timespec {
        tv_sec: seconds,
        tv_nsec: i64::try_from(nanoseconds).unwrap_or_default(),
    };
    let times = Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    };
    Ok(rustix::fs::futimens(&to, &times).during("set times of", "a copy")?)
}

fn extended_attributes(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
    let mut names = vec![0u8; 65536];
    let length = match rustix::fs::flistxattr(from, &mut names) {
        Ok(length) => length,
        Err(Errno::NOTSUP) => return Ok(()),
        Err(error) => return Err(SystemError::new("list attributes of", "a file to copy up", error).into()),
    };
    let mut value = vec![0u8; 65536];
    for name in names[..length].split_inclusive(|byte| *byte == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
        let length = rustix::fs::fgetxattr(from, name, &mut value).during("read attribute", name.to_string_lossy())?;
        match rustix::fs::fsetxattr(to, name, &value[..length], XattrFlags::empty()) {
            // A tmpfs keeps capabilities, access lists and labels; what another file system has for itself stays behind.
            Ok(()) | Err(Errno::NOTSUP | Errno::PERM) => {}
            Err(error) => {
                return Err(SystemError::new("set attribute", name.to_string_lossy().into_owned(), error).into());
            }
        }
    }
    Ok(())
}
