//! The terminal: opened on the container's own devpts, by descriptor.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use gantry_linux::mount::{bind_fd, move_to};
use gantry_linux::{Error as SystemError, ResultExt};
use rustix::fs::{FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use rustix::termios::Winsize;

use crate::error::{Error, Result};
use crate::paths::{self, Missing};
use crate::protection::intact;

const DEVPTS_MAGIC: u64 = 0x1cd1;

/// The two ends of a terminal.
#[derive(Debug)]
pub struct Console {
    /// The supervisor's end.
    pub master: OwnedFd,
    /// The program's end.
    pub slave: OwnedFd,
}

/// Opens a terminal on the devpts that is mounted on the container's `/dev/pts`.
pub fn open(root: BorrowedFd<'_>, size: Option<(u16, u16)>) -> Result<Console> {
    let flags = OFlags::RDWR | OFlags::NOCTTY;
    let master = paths::open(root, Path::new("/dev/pts/ptmx"), flags)?;
    let kind = rustix::fs::fstatfs(&master).during("stat", "/dev/pts")?;
    if u64::try_from(kind.f_type).ok() != Some(DEVPTS_MAGIC) {
        return Err(Error::Invalid("/dev/pts in the container is not a devpts; it can have no terminal".into()));
    }
    unlockpt(&master).during("unlock", "terminal")?;
    let slave_flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = ioctl_tiocgptpeer(&master, slave_flags).during("open", "terminal")?;
    if let Some((rows, columns)) = size {
        resize(&master, rows, columns)?;
    }
    Ok(Console { master, slave })
}

/// Sets a terminal's size.
pub fn resize(terminal: impl AsFd, rows: u16, columns: u16) -> std::result::Result<(), SystemError> {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(terminal, size).during("resize", "terminal")
}

/// Makes the terminal `/dev/console` of the container: on a file or device of exactly this name, since behind a link of the
/// image any file of the container could be made writable, also what is masked later.
pub fn bind_to_dev_console(root: BorrowedFd<'_>, slave: &OwnedFd) -> Result<()> {
    let path = Path::new("/dev/console");
    if !intact("console-on-ordinary-file") {
        let target = paths::open_or_make(root, path, Missing::File)?;
        return Ok(move_to(bind_fd(slave, false, "terminal")?, &target, "/dev/console")?);
    }
    let (directory, name) = paths::open_parent(root, path)?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(&directory, name, flags, Mode::from_raw_mode(0o600)) {
        Ok(_) | Err(Errno::EXIST) => {}
        Err(error) => return Err(SystemError::new("make in container", "/dev/console", error).into()),
    }
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let target =
        rustix::fs::openat(&directory, name, flags, Mode::empty()).during("open in container", "/dev/console")?;
    let stat = rustix::fs::fstat(&target).during("stat in container", "/dev/console")?;
    if !matches!(FileType::from_raw_mode(stat.st_mode), FileType::RegularFile | FileType::CharacterDevice) {
        let text = "/dev/console of the container is a link or no file; remove it from the image";
        return Err(Error::Invalid(text.into()));
    }
    Ok(move_to(bind_fd(slave, false, "terminal")?, &target, "/dev/console")?)
}

/// Makes the terminal the one that controls this process's new session.
pub fn control(slave: &OwnedFd) -> Result<()> {
    Ok(rustix::process::ioctl_tiocsctty(slave).during("take", "controlling terminal")?)
}

/// Gives the standard streams to the user, who may then open `/dev/stdout` and its like again; devices stay as they are.
pub fn give_to(uid: u32, gid: u32, terminal: bool, streams: &[BorrowedFd<'_>]) {
    for stream in streams {
        let Ok(stat) = rustix::fs::fstat(stream) else { continue };
        let kind = FileType::from_raw_mode(stat.st_mode);
        if stat.st_uid == uid || (kind == FileType::CharacterDevice && !terminal) {
            continue;
        }
        // A terminal keeps its group `tty`. A stream that cannot change its owner still works.
        let group = (!terminal).then(|| Gid::from_raw(gid));
        let _ = rustix::fs::fchown(stream, Some(Uid::from_raw(uid)), group);
    }
}
