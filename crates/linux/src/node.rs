//! Device nodes, found where the kernel or udev made them, or made for a moment.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::{Result, ResultExt, fs};

/// Opens a device by its number: by the node at `path` where that is the right one, else by one of ours that is gone again
/// before this returns.
pub(crate) fn open(path: &Path, kind: FileType, device: u64, flags: OFlags) -> Result<OwnedFd> {
    match open_if_right(path, kind, device, flags) {
        Ok(Some(node)) => return Ok(node),
        Ok(None) | Err(Errno::NOENT) => {}
        Err(error) => return Err(error).during("open", path.display()),
    }
    let own = Path::new("/dev").join(format!(".gantry-{}", fs::unique()));
    rustix::fs::mknodat(CWD, &own, kind, Mode::RUSR | Mode::WUSR, device).during("make device node", own.display())?;
    let opened = rustix::fs::open(&own, flags | OFlags::CLOEXEC, Mode::empty()).during("open", own.display());
    let removed = fs::remove_file(&own);
    let opened = opened?;
    removed?;
    Ok(opened)
}

fn open_if_right(path: &Path, kind: FileType, device: u64, flags: OFlags) -> rustix::io::Result<Option<OwnedFd>> {
    let found = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let stat = rustix::fs::fstat(&found)?;
    if FileType::from_raw_mode(stat.st_mode) != kind || stat.st_rdev != device {
        return Ok(None);
    }
    // What was looked at is opened, whatever the path has become.
    let path = format!("/proc/self/fd/{}", found.as_raw_fd());
    rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty()).map(Some)
}
