//! What is at a path of a container's root, in Docker's terms.

use std::os::fd::BorrowedFd;

use gantry_linux::ResultExt;
use rustix::fs::{FileType, OFlags, Stat, fstat};

use super::path::{base, end_of, normal};
use super::{Error, is_kernels, open};
use crate::tree::show;

/// What is there; a symbolic link itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathStat {
    /// Its last name.
    pub name: Vec<u8>,
    /// Bytes.
    pub size: i64,
    /// Go's `os.FileMode`.
    pub mode: u32,
    /// Seconds and nanoseconds since 1970.
    pub mtime: (i64, u32),
    /// Where a symbolic link ends, as a path of the root; empty for anything else.
    pub link_target: Vec<u8>,
}

/// Looks at `path` inside the root.
///
/// # Errors
/// [`Error::NotFound`] when nothing is there.
pub fn stat(root: BorrowedFd<'_>, path: &[u8]) -> Result<PathStat, Error> {
    let path = normal(path);
    let found = open(root, &path, OFlags::PATH | OFlags::NOFOLLOW)?;
    let stat = fstat(&found).during("stat", show(&path))?;
    if is_kernels(&found)? && FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return Err(Error::NotFound(show(&path).to_string()));
    }
    let is_link = FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
    Ok(PathStat {
        name: base(&path).to_vec(),
        size: stat.st_size,
        mode: go_mode(&stat),
        mtime: (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0)),
        link_target: if is_link { end_of(root, &path) } else { Vec::new() },
    })
}

/// Go keeps the permissions in nine bits and gives everything else a bit of its own.
fn go_mode(stat: &Stat) -> u32 {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => 1 << 31,
        FileType::Symlink => 1 << 27,
        FileType::BlockDevice => 1 << 26,
        FileType::CharacterDevice => 1 << 26 | 1 << 21,
        FileType::Fifo => 1 << 25,
        FileType::Socket => 1 << 24,
        _ => 0,
    };
    let special = [(0o4000, 23), (0o2000, 22), (0o1000, 20)];
    let special = special.iter().filter(|(bit, _)| stat.st_mode & bit != 0).fold(0, |bits, (_, at)| bits | 1 << at);
    kind | special | stat.st_mode & 0o777
}
