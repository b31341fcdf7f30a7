//! Paths inside a container's root: resolved by the kernel with the root as the end of the world, made where missing.
//!
//! Nothing that an image or a program in the container does to directories and links leads outside.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use gantry_linux::{Error as SystemError, ResultExt};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::protection::intact;

/// What a missing path becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// A directory, mode 0755.
    Directory,
    /// An empty file in directories of mode 0755.
    File,
}

const MOST_LINKS: usize = 40;
const MOST_TRIES: usize = 128;

/// Opens a path inside the root; absolute links and `..` stay in it. `/proc`'s magic links are refused.
pub fn open(root: impl AsFd, path: &Path, flags: OFlags) -> std::result::Result<OwnedFd, SystemError> {
    open_with(root, path, flags, ResolveFlags::empty())
}

/// As [`open`], with further restrictions such as `NO_SYMLINKS`.
pub fn open_with(
    root: impl AsFd,
    path: &Path,
    flags: OFlags,
    resolve: ResolveFlags,
) -> std::result::Result<OwnedFd, SystemError> {
    let in_root = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let resolve = if intact("mount-target-in-root") { resolve | in_root } else { resolve };
    let relative = relative(path);
    let mut tries = 0;
    loop {
        match openat2(&root, &relative, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            // Somebody renamed or mounted beneath us, and the kernel asks to try again; a container could do that for ever.
            Err(Errno::AGAIN) if tries < MOST_TRIES => tries += 1,
            Err(Errno::INTR) => {}
            other => return other.during("open in container", path.display()),
        }
    }
}

fn relative(path: &Path) -> PathBuf {
    let stripped: PathBuf = path.components().filter(|part| !matches!(part, Component::RootDir)).collect();
    if stripped.as_os_str().is_empty() { PathBuf::from(".") } else { stripped }
}

/// Opens a path inside the root as a place to mount on (`O_PATH`), making what is missing, also behind dangling links.
pub fn open_or_make(root: impl AsFd, path: &Path, missing: Missing) -> Result<OwnedFd> {
    match open(&root, path, OFlags::PATH) {
        Err(error) if error.is_not_found() => {
            let root = root.as_fd();
            if make_last(root, path, missing)? {
                Ok(open(root, path, OFlags::PATH)?)
            } else {
                make(root, path, missing)
            }
        }
        other => Ok(other?),
    }
}

/// Makes the last part of a path whose directory is there, as it mostly is; whether that was possible.
fn make_last(root: BorrowedFd<'_>, path: &Path, missing: Missing) -> Result<bool> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(false) };
    match open(root, parent, OFlags::PATH | OFlags::DIRECTORY) {
        Ok(directory) => create_in(&directory, parent, name, missing),
        Err(_) => Ok(false),
    }
}

fn make(root: BorrowedFd<'_>, path: &Path, missing: Missing) -> Result<OwnedFd> {
    let mut ahead = VecDeque::new();
    push(&mut ahead, path);
    let mut done = PathBuf::new();
    let mut links = 0;
    while let Some(part) = ahead.pop_front() {
        if part == ".." {
            done.pop();
            continue;
        }
        let next = done.join(&part);
        match open(root, &next, OFlags::PATH | OFlags::NOFOLLOW) {
            Ok(fd) => {
                let stat = rustix::fs::fstat(&fd).during("stat in container", next.display())?;
                if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
                    done = next;
                    continue;
                }
                links += 1;
                if links > MOST_LINKS {
                    return Err(Error::Invalid(format!("{}: too many symbolic links in the image", path.display())));
                }
                let target = rustix::fs::readlinkat(&fd, "", Vec::new()).during("read link", next.display())?;
                let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
                if target.is_absolute() {
                    done = PathBuf::new();
                }
                push(&mut ahead, &target);
            }
            Err(error) if error.is_not_found() => {
                let last = ahead.is_empty();
                create(root, &done, &part, if last { missing } else { Missing::Directory })?;
                done = next;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(open(root, &done, OFlags::PATH)?)
}

fn push(ahead: &mut VecDeque<OsString>, path: &Path) {
    let parts: Vec<OsString> = path
        .components()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            _ => None,
        })
        .collect();
    for part in parts.into_iter().rev() {
        ahead.push_front(part);
    }
}

fn create(root: BorrowedFd<'_>, parent: &Path, name: &OsStr, kind: Missing) -> Result<()> {
    let directory = open(root, parent, OFlags::PATH | OFlags::DIRECTORY)?;
    create_in(&directory, parent, name, kind).map(drop)
}

/// Whether it is new; what is there, and be it a link to nowhere, stays.
fn create_in(directory: &OwnedFd, parent: &Path, name: &OsStr, kind: Missing) -> Result<bool> {
    let made = match kind {
        Missing::Directory => rustix::fs::mkdirat(directory, name, Mode::from_raw_mode(0o755)),
        Missing::File => {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::openat(directory, name, flags, Mode::from_raw_mode(0o644)).map(drop)
        }
    };
    match made {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
        Err(error) => Err(SystemError::new("make in container", parent.join(name).display().to_string(), error).into()),
    }
}

/// Opens the directory that a path's last component is in, and returns that component.
pub fn open_parent(root: impl AsFd, path: &Path) -> Result<(OwnedFd, &OsStr)> {
    let name = path.file_name().ok_or_else(|| Error::Invalid(format!("{}: not the path of a file", path.display())))?;
    let parent = path.parent().unwrap_or(Path::new("/"));
    Ok((open_or_make(root, parent, Missing::Directory)?, name))
}

/// The directories that things are made in, one after the other; mostly it is the same one again, which stays open.
#[derive(Debug)]
pub struct Parents<'a> {
    root: BorrowedFd<'a>,
    last: Option<(PathBuf, OwnedFd)>,
}

impl<'a> Parents<'a> {
    /// Below this root. Nothing must be mounted while it is in use.
    pub fn new(root: BorrowedFd<'a>) -> Self {
        Self { root, last: None }
    }

    /// As [`open_parent`].
    pub fn open<'p>(&mut self, path: &'p Path) -> Result<(BorrowedFd<'_>, &'p OsStr)> {
        let parent = path.parent().unwrap_or(Path::new("/"));
        let known = self.last.take().filter(|(last, _)| last == parent);
        let (last, name) = match (known, path.file_name()) {
            (Some(last), Some(name)) => (last, name),
            _ => {
                let (directory, name) = open_parent(self.root, path)?;
                ((parent.to_owned(), directory), name)
            }
        };
        Ok((self.last.insert(last).1.as_fd(), name))
    }

    /// Makes a symbolic link unless something is there already.
    pub fn symlink(&mut self, target: &str, path: &Path) -> Result<()> {
        let (directory, name) = self.open(path)?;
        match rustix::fs::symlinkat(target, directory, name) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(error) => Err(SystemError::new("symlink in container", path.display().to_string(), error).into()),
        }
    }
}

/// Whether the object is a directory.
pub fn is_directory(fd: impl AsFd) -> Result<bool> {
    let stat = rustix::fs::statat(&fd, "", AtFlags::EMPTY_PATH).during("stat", "mount point")?;
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests prepare directories plainly")]
mod tests {
    use super::*;

    #[test]
    fn links_of_an_image_never_lead_outside_its_root() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir(&root).unwrap();
        std::os::unix::fs::symlink("/../../outside", root.join("abs")).unwrap();
        std::os::unix::fs::symlink("../../../outside", root.join("rel")).unwrap();
        let fd = gantry_linux::fs::open(&root).unwrap();
        for name in ["/abs/a", "/rel/b", "/abs/../../c", "/../../d"] {
            open_or_make(&fd, Path::new(name), Missing::Directory).unwrap();
        }
        assert!(root.join("outside/a").is_dir() && root.join("outside/b").is_dir());
        assert!(root.join("c").is_dir() && root.join("d").is_dir());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_dangling_link_gets_its_target_made() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        std::os::unix::fs::symlink("../run/resolved/conf", dir.path().join("etc/resolv.conf")).unwrap();
        let fd = gantry_linux::fs::open(dir.path()).unwrap();
        open_or_make(&fd, Path::new("/etc/resolv.conf"), Missing::File).unwrap();
        assert!(dir.path().join("run/resolved/conf").is_file());
    }

    #[test]
    fn a_circle_of_links_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("b", dir.path().join("a")).unwrap();
        std::os::unix::fs::symlink("a", dir.path().join("b")).unwrap();
        let fd = gantry_linux::fs::open(dir.path()).unwrap();
        open_or_make(&fd, Path::new("/a/c"), Missing::File).unwrap_err();
    }
}
