//! Deleting trees with a handful of descriptors and no recursion, however deep a container made them.

use std::os::fd::OwnedFd;
use std::path::Path;

use gantry_linux::{Result, ResultExt};
use rustix::fs::{AtFlags, FileType, IFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::tree::{self, show};

/// Subvolumes inside subvolumes, which a container may make, and directories inside directories on a full disk.
const NESTING: usize = 64;

/// Deletes everything in the directory. A directory that still has directories hands them up to `trash` itself before
/// it goes, so each is opened from the top. What somebody else deletes meanwhile is no error; what cannot be deleted
/// does not keep the rest.
pub(crate) fn empty(trash: &Path) -> Result<()> {
    match empty_top(&tree::open_root(trash)?, NESTING) {
        Ok(()) => Ok(()),
        Err((name, error)) => Err(error).during("delete", format!("{}/{}", trash.display(), show(&name))),
    }
}

/// Deletes these entries of the directory with everything in them; what they hand up is deleted by the next call.
pub(crate) fn delete(trash: &Path, names: &[std::ffi::OsString]) -> Result<()> {
    let top = tree::open_root(trash)?;
    let names = names.iter().map(|name| name.as_encoded_bytes().to_vec()).collect();
    match delete_all(&top, names, NESTING) {
        Ok(()) => Ok(()),
        Err((name, error)) => Err(error).during("delete", format!("{}/{}", trash.display(), show(&name))),
    }
}

/// What could not be deleted, and why.
type Failure = (Vec<u8>, Errno);

fn empty_top(top: &OwnedFd, nesting: usize) -> std::result::Result<(), Failure> {
    loop {
        let found = tree::names(top).map_err(|error| (Vec::new(), error))?;
        if found.is_empty() {
            return Ok(());
        }
        delete_all(top, found, nesting)?;
    }
}

fn delete_all(top: &OwnedFd, names: Vec<Vec<u8>>, nesting: usize) -> std::result::Result<(), Failure> {
    let mut failure = None;
    for name in names {
        let deleted = match unlink(top, &name) {
            Err(Errno::ISDIR) => empty_directory(top, &name, nesting),
            other => other,
        };
        if let Err(error) = deleted {
            failure.get_or_insert((name, error));
        }
    }
    failure.map_or(Ok(()), Err)
}

fn empty_directory(top: &OwnedFd, name: &[u8], nesting: usize) -> rustix::io::Result<()> {
    let dir = match tree::open_dir(top, name) {
        Err(Errno::NOENT) => return Ok(()),
        other => other?,
    };
    unlock(&dir);
    for inner in tree::names(&dir)? {
        match unlink(&dir, &inner) {
            Ok(()) => {}
            Err(Errno::ISDIR) => match rustix::fs::unlinkat(&dir, inner.as_slice(), AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(Errno::NOTEMPTY | Errno::EXIST | Errno::PERM) => {
                    if let Ok(inner) = tree::open_dir(&dir, &inner) {
                        unlock(&inner);
                    }
                    match rustix::fs::renameat(&dir, inner.as_slice(), top, gantry_linux::fs::unique().as_str()) {
                        // A subvolume of btrfs is its own top, and so is what a full disk has no room to move.
                        Err(Errno::XDEV | Errno::NOSPC | Errno::DQUOT) if nesting > 0 => {
                            empty_top(&dir, nesting - 1).map_err(|(_, error)| error)?;
                        }
                        other => other?,
                    }
                }
                Err(error) => return Err(error),
            },
            Err(error) => return Err(error),
        }
    }
    match rustix::fs::unlinkat(top, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error),
    }
}

fn unlink(dir: &OwnedFd, name: &[u8]) -> rustix::io::Result<()> {
    let unlink = || rustix::fs::unlinkat(dir, name, AtFlags::empty());
    match unlink() {
        Err(Errno::NOENT) => Ok(()),
        Err(Errno::PERM) => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            match tree::stat(dir, name).map(|stat| tree::file_type(&stat)) {
                // An immutable directory says so before it says what it is.
                Ok(FileType::Directory) => return Err(Errno::ISDIR),
                // Only a regular file can carry the flag and be opened without side effects.
                Ok(FileType::RegularFile) => unlock(&rustix::fs::openat(dir, name, flags, Mode::empty())?),
                _ => {}
            }
            unlink()
        }
        other => other,
    }
}

/// A privileged container may have made it immutable or append-only. Failing is shown by the deletion.
fn unlock(file: &OwnedFd) {
    let locks = IFlags::IMMUTABLE | IFlags::APPEND;
    if let Ok(flags) = rustix::fs::ioctl_getflags(file)
        && flags.intersects(locks)
        && let Err(error) = rustix::fs::ioctl_setflags(file, flags - locks)
    {
        tracing::debug!(%error, "an immutable flag stays");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_deeper_than_any_path_is_deleted() {
        let trash = tempfile::tempdir().unwrap();
        let mut dir = tree::open_root(trash.path()).unwrap();
        for _ in 0..5000 {
            rustix::fs::mkdirat(&dir, "deep", Mode::RWXU).unwrap();
            rustix::fs::mkdirat(&dir, "beside", Mode::RWXU).unwrap();
            dir = tree::open_dir(&dir, b"deep").unwrap();
        }
        empty(trash.path()).unwrap();
        assert!(gantry_linux::fs::list(trash.path()).unwrap().is_empty());
    }

    #[test]
    fn what_a_container_made_immutable_is_deleted() {
        let trash = tempfile::tempdir().unwrap();
        gantry_linux::fs::create_dir_all(trash.path().join("a/b/c")).unwrap();
        gantry_linux::fs::write(trash.path().join("a/b/file"), "x").unwrap();
        for path in ["a/b/file", "a/b/c", "a/b", "a"] {
            let file = gantry_linux::fs::open(trash.path().join(path)).unwrap();
            if rustix::fs::ioctl_setflags(&file, IFlags::IMMUTABLE).is_err() {
                // Not every file system has the flag.
                return;
            }
        }
        empty(trash.path()).unwrap();
        assert!(gantry_linux::fs::list(trash.path()).unwrap().is_empty());
    }
}
