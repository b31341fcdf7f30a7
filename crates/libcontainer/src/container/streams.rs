//! The standard streams, and the container's own null device: the host's never comes in, whose mode a root inside could
//! change.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use gantry_linux::{Error as SystemError, ResultExt, process};
use rustix::fs::{FileType, OFlags, Stat, major, minor};
use rustix::pipe::PipeFlags;

use crate::error::{Error, Result};
use crate::paths;
use crate::protection::intact;

const NULL: &str = "/dev/null";

/// Whether it is the null device.
fn is_null(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && (major(stat.st_rdev), minor(stat.st_rdev)) == (1, 3)
}

/// Opens the container's own `/dev/null`, and makes sure that it is that before and after: the container may have put
/// anything there.
pub fn open_null(root: BorrowedFd<'_>, flags: OFlags) -> Result<OwnedFd> {
    let verified = |null: OwnedFd| -> Result<OwnedFd> {
        if !intact("dev-null-verified") || is_null(&rustix::fs::fstat(&null).during("stat in container", NULL)?) {
            return Ok(null);
        }
        Err(Error::Invalid("/dev/null of the container is not the null device; remove it from the image".into()))
    };
    let path = Path::new(NULL);
    let place = verified(paths::open(root, path, OFlags::PATH | OFlags::NOFOLLOW)?)?;
    if flags.contains(OFlags::PATH) {
        return Ok(place);
    }
    // Without NONBLOCK whoever swaps a named pipe in could stop us here.
    let null = verified(paths::open(root, path, flags | OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::NONBLOCK)?)?;
    rustix::fs::fcntl_setfl(&null, OFlags::empty()).during("configure", NULL)?;
    Ok(null)
}

/// Makes these the standard streams; a null device among them, which is the host's, is replaced by the container's own.
/// Where that cannot be opened, standard input is one that has ended.
pub fn set(root: BorrowedFd<'_>, streams: &[OwnedFd; 3]) -> Result<()> {
    let mut own = Vec::with_capacity(streams.len());
    for (number, stream) in streams.iter().enumerate() {
        let stat = rustix::fs::fstat(stream).during("stat", format_args!("standard stream {number}"))?;
        own.push(if is_null(&stat) { Some(own_null(root, number)?) } else { None });
    }
    let chosen = |number: usize| own[number].as_ref().unwrap_or(&streams[number]).as_fd();
    Ok(process::set_stdio([chosen(0), chosen(1), chosen(2)])?)
}

/// Leaves nothing of what the standard streams were.
pub fn clear(root: BorrowedFd<'_>) -> Result<()> {
    let null = own_null(root, 0)?;
    Ok(process::set_stdio([null.as_fd(), null.as_fd(), null.as_fd()])?)
}

fn own_null(root: BorrowedFd<'_>, number: usize) -> Result<OwnedFd> {
    if number != 0 {
        return open_null(root, OFlags::WRONLY);
    }
    match open_null(root, OFlags::RDONLY) {
        Ok(null) => Ok(null),
        Err(_) => ended_input().map_err(Error::from),
    }
}

/// A stream that is at its end, as the null device is.
fn ended_input() -> std::result::Result<OwnedFd, SystemError> {
    let (read, _write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).during("make", "pipe")?;
    Ok(read)
}
