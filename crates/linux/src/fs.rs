//! Files: `std::fs` with errors that name the path, and writes that are whole or not there.
//!
//! The only place in the product that calls `std::fs`; elsewhere clippy refuses it.
#![allow(clippy::disallowed_methods, reason = "this is the one place")]

use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::{Error, Result, ResultExt};

/// Space for the first read of a file.
const FIRST_READ: usize = 8 * 1024;

/// Reads a whole file.
pub fn read(path: impl AsRef<Path>) -> Result<Vec<u8>> {
    read_up_to(path, usize::MAX)
}

/// Reads a whole file of UTF-8 text.
pub fn read_to_string(path: impl AsRef<Path>) -> Result<String> {
    let path = path.as_ref();
    text(path, read(path)?)
}

/// Reads a file, but not more than `most` bytes of it.
///
/// Most files that are read are the kernel's, which have no size to ask for: there is space for nearly all of them in the
/// first read.
pub fn read_up_to(path: impl AsRef<Path>, most: usize) -> Result<Vec<u8>> {
    let path = path.as_ref();
    let file = File::open(path).during("open", path.display())?;
    let mut data = Vec::with_capacity(FIRST_READ);
    while data.len() < most {
        if data.len() == data.capacity() {
            data.reserve(data.len());
        }
        match rustix::io::read(&file, rustix::buffer::spare_capacity(&mut data)) {
            Ok(0) => break,
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).during("read", path.display()),
        }
    }
    data.truncate(most);
    data.shrink_to_fit();
    Ok(data)
}

/// As [`read_up_to`], for UTF-8 text.
pub fn read_to_string_up_to(path: impl AsRef<Path>, most: usize) -> Result<String> {
    let path = path.as_ref();
    text(path, read_up_to(path, most)?)
}

fn text(path: &Path, data: Vec<u8>) -> Result<String> {
    String::from_utf8(data)
        .map_err(|_| std::io::Error::new(std::io::ErrorKind::InvalidData, "it is not UTF-8 text"))
        .during("read", path.display())
}

/// Writes `data` to `path`, creating or truncating it. Not atomic: for kernel files and files nobody else reads yet.
pub fn write(path: impl AsRef<Path>, data: impl AsRef<[u8]>) -> Result<()> {
    fs::write(&path, data).during("write", path.as_ref().display())
}

/// Writes `data` to `path`, which must not be there, and returns the open file. Not atomic: for files that nobody reads yet.
pub fn write_new(path: impl AsRef<Path>, data: &[u8], mode: u32) -> Result<File> {
    let path = path.as_ref();
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(mode).open(path).during("create", path.display())?;
    file.write_all(data).during("write", path.display())?;
    Ok(file)
}

/// Whether a sync to disk is part of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Survives the death of the process; a power cut may lose it, never tear it.
    Process,
    /// On disk when the call returns: file and directory are synced.
    Disk,
}

/// Replaces `path` by `data` in one step: readers see the old content or the new one, whole.
///
/// The data is written to a temporary name in the same directory and renamed; on failure that name is removed.
pub fn write_atomic(path: impl AsRef<Path>, data: &[u8], mode: u32, durability: Durability) -> Result<()> {
    let path = path.as_ref();
    let directory = path.parent().unwrap_or_else(|| Path::new("."));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let staged = directory.join(format!(".{name}.{}", unique()));
    let written = (|| {
        let file = write_new(&staged, data, mode)?;
        if durability == Durability::Disk {
            file.sync_all().during("sync", staged.display())?;
        }
        rename(&staged, path)
    })();
    if let Err(error) = written {
        // The first error is the one that matters; the staged file may not even exist.
        let _ = fs::remove_file(&staged);
        return Err(error);
    }
    if durability == Durability::Disk {
        sync_directory(directory)?;
    }
    Ok(())
}

/// A name that no other call in this process, nor another live process, gets.
#[must_use]
pub fn unique() -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Syncs a file's content, whoever wrote it.
pub fn sync_file(path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    File::open(path).and_then(|file| file.sync_all()).during("sync", path.display())
}

/// Syncs a directory, so that renames and creations in it survive a power cut.
pub fn sync_directory(path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    File::open(path).and_then(|dir| dir.sync_all()).during("sync directory", path.display())
}

/// Opens for reading.
pub fn open(path: impl AsRef<Path>) -> Result<File> {
    File::open(&path).during("open", path.as_ref().display())
}

/// Creates or truncates a file for writing.
pub fn create(path: impl AsRef<Path>) -> Result<File> {
    File::create(&path).during("create", path.as_ref().display())
}

/// Opens with the given options.
pub fn open_with(path: impl AsRef<Path>, options: &OpenOptions) -> Result<File> {
    options.open(&path).during("open", path.as_ref().display())
}

/// Makes a directory and its parents; those that are there are left as they are.
pub fn create_dir_all(path: impl AsRef<Path>) -> Result<()> {
    fs::create_dir_all(&path).during("make directory", path.as_ref().display())
}

/// Makes a directory and its parents where no symbolic link may be on the way; those that are there are left as they are.
///
/// # Errors
/// `ELOOP` where there is a link; nothing is made beyond it.
pub fn create_dir_all_exact(path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    make_exact(path).during("make directory", path.display())
}

fn make_exact(path: &Path) -> rustix::io::Result<()> {
    let mut at = open_exact(CWD, Path::new(if path.is_absolute() { "/" } else { "." }))?;
    for part in path.components() {
        let name = match part {
            Component::RootDir | Component::CurDir => continue,
            Component::Normal(name) => Path::new(name),
            Component::ParentDir | Component::Prefix(_) => return Err(Errno::INVAL),
        };
        at = match open_exact(&at, name) {
            Err(Errno::NOENT) => {
                match rustix::fs::mkdirat(&at, name, Mode::from_raw_mode(0o777)) {
                    // Somebody else was faster; what it is now is looked at.
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(error),
                }
                open_exact(&at, name)?
            }
            other => other?,
        };
    }
    Ok(())
}

fn open_exact(at: impl AsFd, path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat2(at, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)
}

/// Makes a directory and its parents and gives the last one `mode`, whatever the umask.
pub fn create_dir_mode(path: impl AsRef<Path>, mode: u32) -> Result<()> {
    create_dir_all(&path)?;
    set_mode(path, mode)
}

/// Makes one directory, which must not be there.
pub fn create_dir(path: impl AsRef<Path>) -> Result<()> {
    fs::create_dir(&path).during("make directory", path.as_ref().display())
}

/// Sets the permission bits.
pub fn set_mode(path: impl AsRef<Path>, mode: u32) -> Result<()> {
    fs::set_permissions(&path, Permissions::from_mode(mode)).during("chmod", path.as_ref().display())
}

/// Renames, replacing what is there.
pub fn rename(from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<()> {
    fs::rename(&from, &to).during("rename", format_args!("{} to {}", from.as_ref().display(), to.as_ref().display()))
}

/// Makes a hard link at `link` to a file.
pub fn hard_link(file: impl AsRef<Path>, link: impl AsRef<Path>) -> Result<()> {
    let (file, link) = (file.as_ref(), link.as_ref());
    fs::hard_link(file, link).during("link", format_args!("{} to {}", file.display(), link.display()))
}

/// Removes a file; one that is not there is an error.
pub fn remove_file(path: impl AsRef<Path>) -> Result<()> {
    fs::remove_file(&path).during("remove", path.as_ref().display())
}

/// Removes an empty directory.
pub fn remove_dir(path: impl AsRef<Path>) -> Result<()> {
    fs::remove_dir(&path).during("remove directory", path.as_ref().display())
}

/// Removes an empty directory where no symbolic link may be on the way.
///
/// # Errors
/// `ELOOP` where there is a link.
pub fn remove_dir_exact(path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    let remove = |parent: &Path, name: &std::ffi::OsStr| {
        rustix::fs::unlinkat(open_exact(CWD, parent)?, name, AtFlags::REMOVEDIR)
    };
    let parts = path.parent().zip(path.file_name()).ok_or(Errno::INVAL);
    parts.and_then(|(parent, name)| remove(parent, name)).during("remove directory", path.display())
}

/// Removes a directory with everything in it, never following a symbolic link; one that is not there is fine.
pub fn remove_dir_all(path: impl AsRef<Path>) -> Result<()> {
    match fs::remove_dir_all(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.during("remove directory", path.as_ref().display()),
    }
}

/// Removes everything in a directory, going on after a failure; one that is not there is fine. The first failure is
/// returned.
pub fn remove_children(path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    let names = match list(path) {
        Err(error) if error.is_not_found() => return Ok(()),
        other => other?,
    };
    let mut first = Ok(());
    for name in names {
        let child = path.join(name);
        let removed = match symlink_metadata(&child) {
            Ok(metadata) if !metadata.is_dir() => remove_file(&child),
            _ => remove_dir_all(&child),
        };
        if first.is_ok() {
            first = removed;
        }
    }
    first
}

/// The metadata of what the path leads to.
pub fn metadata(path: impl AsRef<Path>) -> Result<Metadata> {
    fs::metadata(&path).during("stat", path.as_ref().display())
}

/// The metadata of the path itself, a symbolic link included.
pub fn symlink_metadata(path: impl AsRef<Path>) -> Result<Metadata> {
    fs::symlink_metadata(&path).during("stat", path.as_ref().display())
}

/// The entries' names of a directory, unsorted.
pub fn list(path: impl AsRef<Path>) -> Result<Vec<std::ffi::OsString>> {
    let path = path.as_ref();
    fs::read_dir(path)
        .and_then(|entries| entries.map(|entry| entry.map(|e| e.file_name())).collect())
        .during("list", path.display())
}

/// Makes a symbolic link at `link` that says `target`.
pub fn symlink(target: impl AsRef<Path>, link: impl AsRef<Path>) -> Result<()> {
    std::os::unix::fs::symlink(&target, &link).during("symlink", link.as_ref().display())
}

/// What a symbolic link says.
pub fn read_link(path: impl AsRef<Path>) -> Result<PathBuf> {
    fs::read_link(&path).during("read link", path.as_ref().display())
}

/// The absolute path without symbolic links.
pub fn canonicalize(path: impl AsRef<Path>) -> Result<PathBuf> {
    fs::canonicalize(&path).during("resolve", path.as_ref().display())
}

/// Where an absolute path leads: links are followed as far as there is something, and what is not there yet lies below that.
///
/// # Errors
/// Links that lead in a circle or, so far, nowhere: those may lead anywhere a moment later.
pub fn follow(path: impl AsRef<Path>) -> Result<PathBuf> {
    let mut there = path.as_ref();
    let mut missing = Vec::new();
    loop {
        let error = match canonicalize(there) {
            Ok(real) => return Ok(missing.into_iter().rev().fold(real, |real, name| real.join(name))),
            Err(error) => error,
        };
        let is_missing = is_missing(&error) && symlink_metadata(there).is_err_and(|error| is_missing(&error));
        match (there.parent(), there.file_name()) {
            (Some(parent), Some(name)) if is_missing => {
                missing.push(name);
                there = parent;
            }
            _ => return Err(error),
        }
    }
}

/// There is nothing, or something else than a directory on the way to it.
fn is_missing(error: &Error) -> bool {
    use std::io::ErrorKind::{NotADirectory, NotFound};
    matches!(error.source.kind(), NotFound | NotADirectory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_followed_as_far_as_there_is_something() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| canonicalize(directory.path()).unwrap().join(name);
        create_dir_all(at("real/sub")).unwrap();
        write(at("real/file"), "").unwrap();
        symlink(at("real"), at("link")).unwrap();
        symlink(at("nothing"), at("nowhere")).unwrap();
        symlink(at("circle"), at("circle")).unwrap();
        for (path, leads) in [
            ("link/sub", "real/sub"),
            ("link/new/newer", "real/new/newer"),
            ("link/file/x", "real/file/x"),
            ("new", "new"),
        ] {
            assert_eq!(follow(at(path)).unwrap(), at(leads), "{path}");
        }
        for path in ["nowhere", "nowhere/x", "circle", "circle/x"] {
            assert!(follow(at(path)).is_err(), "{path}");
        }
    }

    #[test]
    fn directories_are_made_and_removed_where_no_link_is_on_the_way_only() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| canonicalize(directory.path()).unwrap().join(name);
        create_dir_all(at("real/kept")).unwrap();
        symlink(at("real"), at("link")).unwrap();
        symlink(at("nothing"), at("nowhere")).unwrap();
        create_dir_all_exact(at("real/a/b")).unwrap();
        create_dir_all_exact(at("real/a/b")).unwrap();
        for path in ["link/x/y", "link/kept", "link", "nowhere", "nowhere/x"] {
            let error = create_dir_all_exact(at(path)).unwrap_err();
            assert_eq!(error.errno(), rustix::io::Errno::LOOP.raw_os_error(), "{path}: {error}");
        }
        assert!(symlink_metadata(at("real/x")).is_err() && symlink_metadata(at("nothing")).is_err());
        assert!(remove_dir_exact(at("link/kept")).is_err());
        assert!(symlink_metadata(at("real/kept")).is_ok());
        remove_dir_exact(at("real/a/b")).unwrap();
        assert!(symlink_metadata(at("real/a/b")).is_err());
        assert!(create_dir_all_exact(at("real/../x")).is_err());
    }
}
